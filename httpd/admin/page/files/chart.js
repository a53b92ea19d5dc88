// Plots of counts over time, as SVG.
import { s } from './dom.js';
import { count } from './words.js';

// sparkline draws a small line without axes: words beside it say what it shows.
export function sparkline(values) {
	const w = 120, hgt = 28, top = Math.max(1, ...values);
	const x = i => i * w / Math.max(1, values.length - 1), y = v => hgt - 2 - v / top * (hgt - 4);
	const line = values.map((v, i) => `${i ? 'L' : 'M'}${x(i).toFixed(1)} ${y(v).toFixed(1)}`).join('');
	return s('svg', { viewBox: `0 0 ${w} ${hgt}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' },
		s('path', { class: 'area', d: `${line}L${w} ${hgt}L0 ${hgt}Z` }), s('path', { class: 'line', d: line }));
}

// ticks returns round values for an axis up to top: four steps at most.
export function ticks(top) {
	const raw = Math.max(1, top) / 4, power = 10 ** Math.floor(Math.log10(raw));
	const step = Math.max(1, [1, 2, 5, 10].map(m => m * power).find(v => v >= raw));
	return Array.from({ length: Math.ceil(Math.max(1, top) / step) + 1 }, (_, i) => i * step);
}

// bars draws a column for each item of data. o has width and height, series as
// [{name, word, value(item)}], stacked, label(item) for some columns below, and at(index)
// for the column that is chosen.
export function bars(data, o) {
	const left = 44, right = 6, top = 8, bottom = o.label ? 24 : 8;
	const w = o.width - left - right, hgt = o.height - top - bottom;
	const sum = item => o.series.reduce((n, q) => n + q.value(item), 0);
	const marks = ticks(Math.max(0, ...data.map(item => o.stacked ? sum(item) : Math.max(0, ...o.series.map(q => q.value(item))))));
	const most = marks.at(-1);
	const slot = w / data.length, gap = Math.min(3, slot * 0.22);
	const y = v => top + hgt - v / most * hgt;
	const root = s('svg', { class: 'chart', viewBox: `0 0 ${o.width} ${o.height}`, width: o.width, height: o.height, 'aria-hidden': 'true' });
	for (const mark of marks) {
		root.append(s('line', { class: mark ? 'grid' : 'axis', x1: left, x2: o.width - right, y1: y(mark), y2: y(mark) }),
			s('text', { class: 'tick', x: left - 8, y: y(mark) + 4, 'text-anchor': 'end' }, count(mark)));
	}
	data.forEach((item, i) => {
		const x = left + i * slot;
		const column = s('g', { class: 'column', 'data-index': i }, s('rect', { class: 'hit', x, y: top, width: slot, height: hgt }));
		let base = 0;
		o.series.forEach((q, n) => {
			const v = q.value(item);
			if (!v) return;
			const height = Math.max(1, v / most * hgt);
			if (o.stacked) {
				column.append(s('rect', { class: 'bar s-' + q.name, x: x + gap / 2, width: slot - gap, y: Math.max(top, y(base) - height), height }));
				base += v;
			} else {
				const each = (slot - gap) / o.series.length;
				column.append(s('rect', { class: 'bar s-' + q.name, x: x + gap / 2 + n * each, width: each, y: y(v), height }));
			}
		});
		root.append(column);
		const label = o.label?.(item, i);
		if (label) root.append(s('text', { class: 'tick', x: x + slot / 2, y: o.height - 6, 'text-anchor': 'middle' }, label));
	});
	return root;
}
