// A ring that empties while a grant lasts.
import { s, put } from './dom.js';
import { brief, left, span, tick } from './time.js';

const R = 23, around = 2 * Math.PI * R;

// ring returns the ring of what f returns: a grant with until, opened_at and expires_at.
export function ring(f) {
	const arc = s('circle', { class: 'arc', cx: 28, cy: 28, r: R, 'stroke-dasharray': around, transform: 'rotate(-90 28 28)' });
	const text = s('text', { x: 28, y: 32, 'text-anchor': 'middle' });
	const node = s('svg', { class: 'ring', viewBox: '0 0 56 56', role: 'img' }, s('circle', { class: 'track', cx: 28, cy: 28, r: R }), arc, text);
	return tick(node, () => {
		const grant = f();
		const seconds = Math.max(0, left(grant.until));
		const whole = Math.max(1, (new Date(grant.expires_at) - new Date(grant.opened_at)) / 1000);
		arc.setAttribute('stroke-dashoffset', around * (1 - Math.min(1, seconds / whole)));
		node.dataset.state = seconds < 10 || seconds / whole < 0.1 ? 'warn' : 'good';
		put(text, brief(seconds));
		node.setAttribute('aria-label', span(seconds) + ' left');
	});
}
