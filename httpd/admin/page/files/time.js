// Times, and what counts down.
import { put } from './dom.js';

const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const short = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' });
const day = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' });
const full = new Intl.DateTimeFormat('en-GB', { dateStyle: 'full', timeStyle: 'long' });

const sameDay = (a, b) => a.toDateString() === b.toDateString();

// at shows a time: the day only if it is not today's.
export function at(text, seconds = true) {
	const time = new Date(text);
	const node = document.createElement('time');
	node.dateTime = text;
	node.title = full.format(time);
	node.textContent = (sameDay(time, new Date()) ? '' : day.format(time) + ', ') + (seconds ? clock : short).format(time);
	return node;
}

export const hourMinute = time => short.format(time);

// span writes seconds, in two units at most: 4 min 30 s. Below ten minutes it is to the
// second.
export function span(seconds) {
	seconds = Math.max(0, Math.ceil(seconds));
	if (seconds < 60) return seconds + ' s';
	const d = Math.floor(seconds / 86400), h = Math.floor(seconds / 3600) % 24, m = Math.floor(seconds / 60) % 60, s = seconds % 60;
	if (d) return d + ' d' + (h ? ' ' + h + ' h' : '');
	if (h) return h + ' h' + (m ? ' ' + m + ' min' : '');
	return m + ' min' + (s ? ' ' + s + ' s' : '');
}

// brief writes seconds in the place that a ring has: 0:30, 4:59, 6 h.
export function brief(seconds) {
	seconds = Math.max(0, Math.ceil(seconds));
	const two = n => String(n).padStart(2, '0');
	if (seconds < 3600) return Math.floor(seconds / 60) + ':' + two(seconds % 60);
	if (seconds < 86400) return Math.floor(seconds / 3600) + ' h';
	return Math.floor(seconds / 86400) + ' d';
}

// The daemon's clock and the browser's may differ: deadlines are kept on the browser's
// steady clock, from the seconds that remained when they came.
export const deadline = remaining => performance.now() + remaining * 1000;
export const left = until => (until - performance.now()) / 1000;

let skew = 0; // of the daemon's clock against the browser's, in milliseconds
export function learnClock(serverTime) { skew = serverTime - Date.now(); }
export const remaining = text => (new Date(text) - Date.now() - skew) / 1000;

// ticking calls draw now and every second, while the node is on the page.
const ticking = new Map();
export function tick(node, draw) {
	ticking.set(node, { draw, seen: false });
	draw();
	return node;
}
setInterval(() => {
	for (const [node, t] of ticking) {
		if (node.isConnected) { t.seen = true; t.draw(); } else if (t.seen) ticking.delete(node);
		else t.seen = true; // made, and not put on the page before the next second: gone
	}
}, 1000);

// countdown shows how long it is until a deadline that f returns.
export function countdown(f, write = span) {
	const node = document.createElement('span');
	node.className = 'countdown';
	return tick(node, () => put(node, write(left(f()))));
}
