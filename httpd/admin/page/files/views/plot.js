import { h, head, none, put, table } from '../dom.js';
import { at, hourMinute } from '../time.js';
import { known, refresh, watch } from '../state.js';
import { count, many, outcome, outcomes } from '../words.js';
import { bars } from '../chart.js';

export const title = 'Plot';

const named = Object.keys(outcomes);
const total = item => Object.values(item.knocks).reduce((a, b) => a + b, 0);

export function show(main, args, signal) {
	let span = args.over === 'day' ? 'hours' : 'minutes';
	const hidden = new Set();
	let chosen = null; // the index of a column

	const tabs = h('div', { class: 'segments', role: 'group', 'aria-label': 'Time' }, [['minutes', 'Last hour'], ['hours', 'Last day']].map(([name, text]) =>
		h('button', { type: 'button', 'data-span': name, onclick: () => { span = name; chosen = null; drawn = ''; draw(); } }, text)));
	const summary = h('p', { class: 'dim' });
	const readout = h('p', { class: 'readout', 'aria-live': 'polite' });
	const upper = h('div', { class: 'plot' }), lower = h('div', { class: 'plot' });
	const legend = h('div', { class: 'legend', role: 'group', 'aria-label': 'Outcomes that are plotted' });
	const plots = h('div', { class: 'plots', tabindex: '0', role: 'group', 'aria-label': 'Plot: the arrow keys choose a column, and below is what it holds', onkeydown: key, onpointermove: point, onpointerleave: () => choose(null) },
		h('h2', {}, 'Knocks by outcome'), upper, legend,
		h('div', { class: 'head' }, h('h2', {}, 'Completions and grants'), h('div', { class: 'legend' }, swatch('completions', 'completions'), swatch('grants', 'grants opened'))), lower);
	const t = h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Table of the plot' });
	const nothing = none('Nothing to plot yet.');
	main.append(head('Plot', tabs), summary, h('div', { class: 'card' }, plots, readout), nothing,
		h('details', { class: 'card' }, h('summary', {}, 'The same as a table'), t));

	legend.append(...named.map(name => h('button', { type: 'button', class: 'chip', 'aria-pressed': 'true', 'data-name': name, title: outcome(name)[2], onclick: e => {
		if (!hidden.delete(name)) hidden.add(name);
		e.currentTarget.setAttribute('aria-pressed', String(!hidden.has(name)));
		drawn = '';
		draw();
	} }, swatch(name, outcome(name)[0]))));

	const data = () => known.stats?.[span] ?? [];
	const label = item => hourMinute(new Date(item.at));

	function key(e) {
		const n = data().length;
		const to = { ArrowLeft: (chosen ?? n) - 1, ArrowRight: (chosen ?? -1) + 1, Home: 0, End: n - 1, Escape: null }[e.key];
		if (to === undefined || e.target !== plots) return;
		e.preventDefault();
		choose(to === null ? null : Math.max(0, Math.min(n - 1, to)));
	}
	function point(e) {
		const index = e.target.closest?.('.column')?.dataset.index;
		if (index !== undefined) choose(+index);
	}
	function choose(index) {
		chosen = index;
		for (const column of plots.querySelectorAll('.column')) column.classList.toggle('chosen', +column.dataset.index === index);
		const item = data()[index];
		if (!item) return put(readout, 'Point at a column, or choose one by the arrow keys.');
		const parts = named.filter(name => item.knocks[name]).map(name => `${count(item.knocks[name])} ${outcome(name)[0]}`);
		put(readout, `${label(item)}: ${many(total(item), 'knock')}${parts.length ? ` (${parts.join(', ')})` : ''}, ${many(item.completions, 'completion')}, ${many(item.grants, 'grant')}.`);
	}

	let drawn = '';
	function draw() {
		const all = data(), width = Math.floor(upper.clientWidth);
		nothing.hidden = !known.stats || all.length > 0;
		for (const tab of tabs.children) tab.setAttribute('aria-pressed', String(tab.dataset.span === span));
		if (!all.length || !width) return;
		const now = width + JSON.stringify(all);
		if (now === drawn) return;
		drawn = now;
		const every = Math.ceil(all.length / Math.max(2, Math.floor(width / 80)) / 5) * 5 || 5;
		const some = (item, i) => {
			const time = new Date(item.at);
			return (span === 'minutes' ? time.getMinutes() : time.getHours()) % (span === 'minutes' ? every : width < 500 ? 6 : 3) === 0 && i > 0 && i < all.length - 1 ? hourMinute(time) : '';
		};
		upper.replaceChildren(bars(all, { width, height: 240, stacked: true, label: some, series: named.filter(name => !hidden.has(name)).map(name => ({ name, value: item => item.knocks[name] ?? 0 })) }));
		lower.replaceChildren(bars(all, { width, height: 120, label: some, series: ['completions', 'grants'].map(name => ({ name, value: item => item[name] })) }));
		for (const chip of legend.children) chip.hidden = !all.some(item => item.knocks[chip.dataset.name]);
		const sum = f => all.reduce((n, item) => n + f(item), 0);
		put(summary, `${span === 'minutes' ? 'In the last hour' : 'In the last day'}: ${many(sum(total), 'knock')}, ${many(sum(i => i.completions), 'completion')}, ${many(sum(i => i.grants), 'grant')} opened. Counted since the daemon started.`);
		choose(chosen);
		const shown = named.filter(name => all.some(item => item.knocks[name]));
		const as = table('Knocks by outcome, completions and grants', [{ text: 'From' }, ...shown.map(name => ({ text: outcome(name)[0], number: true })), { text: 'completions', number: true }, { text: 'grants', number: true }]);
		as.node.classList.remove('cards');
		as.body.append(...all.toReversed().map(item => as.row([at(item.at, false), ...shown.map(name => count(item.knocks[name] ?? 0)), count(item.completions), count(item.grants)])));
		t.replaceChildren(as.node);
	}
	const sizes = new ResizeObserver(draw);
	sizes.observe(upper);
	signal.addEventListener('abort', () => sizes.disconnect());
	refresh('stats');
	watch(draw, signal);
}

const swatch = (name, word) => h('span', { class: 'swatch-word' }, h('span', { class: 'swatch s-' + name, 'aria-hidden': 'true' }), word);
