// What the page tells: to the eye, and to who listens.
import { h, icon } from './dom.js';

// toast shows for a while how something went. Its region is a live one.
export function toast(text, failed = false) {
	const node = h('div', { class: 'toast', 'data-state': failed ? 'bad' : 'good' }, icon(failed ? 'alert' : 'good'), h('p', {}, text),
		h('button', { type: 'button', class: 'quiet small', onclick: () => node.remove() }, 'Dismiss'));
	const toasts = document.getElementById('toasts');
	toasts.append(node);
	while (toasts.childElementCount > 3) toasts.firstElementChild.remove();
	setTimeout(() => node.remove(), failed ? 20000 : 6000);
}

let waiting = [], timer;
// say tells a screen reader, in sums: at most every three seconds.
export function say(text) {
	waiting.push(text);
	timer ??= setTimeout(() => {
		const texts = waiting.length > 3 ? [...waiting.slice(-2), `and ${waiting.length - 2} more`] : waiting;
		document.getElementById('say').textContent = texts.join('. ');
		waiting = [];
		timer = setTimeout(() => { timer = null; if (waiting.length) say(waiting.pop()); }, 3000);
	}, 100);
}
