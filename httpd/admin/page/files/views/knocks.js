import { address, h, head, list, none, pill, put, table } from '../dom.js';
import { at, countdown } from '../time.js';
import { known, watch } from '../state.js';
import { count, many, outcome, outcomes } from '../words.js';

export const title = 'Knocks';
const most = 100; // knocks that are shown

export function show(main, _, signal) {
	const progress = table('Clients in progress', [{ text: 'Client' }, { text: 'Sequence' }, { text: 'Steps', class: 'wide' }, { text: 'Last knock' }, { text: 'Time left' }]);
	const nobody = none('Nobody is on the way through a sequence.');
	const t = table('The latest knocks', [{ text: 'Time' }, { text: 'Client', class: 'client' }, { text: 'What became of it' }, { text: 'Sequence', class: 'short' }, { text: 'Why', class: 'wide' }, { text: 'Listener', class: 'aside' }], true);
	const waiting = none('No knock yet.', 'The next one appears here by itself.');
	const sum = h('p', { class: 'dim' });
	let paused = null, filter = '';
	const pause = h('button', { type: 'button', 'aria-pressed': 'false', onclick: () => {
		paused = paused ? null : [...known.knocks];
		pause.setAttribute('aria-pressed', String(!!paused));
		put(pause, paused ? 'Go on' : 'Pause');
		draw();
	} }, 'Pause');
	const select = h('select', { id: 'outcome', onchange: () => { filter = select.value; draw(); } }, h('option', { value: '' }, 'all'),
		Object.keys(outcomes).map(name => h('option', { value: name }, outcome(name)[0])));
	main.append(head('Knocks', h('label', { class: 'inline' }, 'Show ', select), pause),
		h('section', { 'aria-labelledby': 'progress' }, h('h2', { id: 'progress' }, 'In progress'), h('div', { class: 'card flush' }, progress.node), nobody),
		h('section', { 'aria-labelledby': 'latest' }, h('h2', { id: 'latest' }, 'As they come'), sum, h('div', { class: 'card flush' }, t.node), waiting));

	const drawProgress = list(progress.body, c => c.client + ' ' + c.sequence, c => {
		let client = c;
		const steps = h('span', { class: 'steps' });
		const last = h('span', {});
		return {
			node: progress.row([address(c.client), c.sequence, steps, last, countdown(() => client.until)]),
			update: c => {
				client = c;
				steps.replaceChildren(...stepsOf(c.step, c.steps));
				last.replaceChildren(at(c.last_knock_at));
			},
		};
	});
	const drawKnocks = list(t.body, k => k.id, k => {
		const [word, state, means] = outcome(k.outcome);
		const what = pill(state, word);
		what.title = means;
		return { node: t.row([at(k.time), address(k.client), what, k.sequence ? [k.sequence, k.step ? h('span', { class: 'dim' }, ` ${k.step} of ${k.steps}`) : ''] : null, k.reason || k.why || null, k.listener && h('span', { class: 'address dim' }, k.listener)]) };
	});
	const draw = () => {
		const all = paused ?? known.knocks;
		const some = all.filter(k => !filter || k.outcome === filter);
		drawKnocks(some.slice(0, most));
		t.node.parentElement.hidden = some.length === 0;
		waiting.hidden = some.length > 0;
		put(sum, [some.length && `${many(some.length, 'knock')}, the latest first`, known.missed && `${count(known.missed)} more came too fast to be shown`, paused && 'paused'].filter(Boolean).join(' · '));
		if (!known.clients) return;
		drawProgress(known.clients.slice(0, most));
		progress.node.parentElement.hidden = known.clients.length === 0;
		nobody.hidden = known.clients.length > 0;
	};
	watch(draw, signal);
}

// stepsOf draws a dot for each step, and says how many are done.
export function stepsOf(step, steps) {
	const dots = Array.from({ length: Math.min(steps, 12) }, (_, i) => h('span', { class: i < step ? 'dot done' : 'dot' }));
	return [h('span', { class: 'dots', 'aria-hidden': 'true' }, dots), `${step} of ${steps}`];
}
