import { address, h, head, none, pill, table } from '../dom.js';
import { get, query } from '../api.js';
import { at, countdown, deadline, remaining, span } from '../time.js';
import { known, watch, who } from '../state.js';
import { outcome, sentence } from '../words.js';
import { stepsOf } from './knocks.js';
import { say } from '../notes.js';
import { closeGrant, extendGrant, liftBan } from '../dialogs.js';

export const title = 'Explain';

export function show(main, args, signal) {
	const asked = args.path;
	const input = h('input', { type: 'text', id: 'address', value: asked, required: true, autocomplete: 'off', spellcheck: 'false', placeholder: '192.0.2.7', 'aria-describedby': 'address-hint' });
	const reveal = h('input', { type: 'checkbox', id: 'reveal', checked: args.reveal === '1' });
	const answer = h('div', { id: 'answer' });
	let shown = ''; // of those lately seen
	main.append(head('Explain'), h('p', { class: 'dim', id: 'address-hint' }, 'What became of an address’s knocks, and why: the first question when somebody cannot get in.'),
		h('form', { class: 'filters', onsubmit: e => {
			e.preventDefault();
			const to = '#' + query('explain/' + encodeURIComponent(input.value.trim()), { reveal: reveal.checked && '1' });
			if (to === location.hash) explain(); else location.hash = to;
		} },
		h('div', { class: 'field grow' }, h('label', { for: 'address' }, 'Address'), input),
		h('label', { class: 'check' }, reveal, 'Show the paths (root only)'),
		h('button', { type: 'submit', class: 'primary' }, 'Explain')),
		answer);

	async function explain() {
		if (!asked) {
			watch(seen, signal);
			return input.focus();
		}
		answer.setAttribute('aria-busy', 'true');
		try {
			const e = await get(query('explain/' + encodeURIComponent(asked), { reveal: args.reveal }));
			if (signal.aborted) return;
			answer.replaceChildren(...draw(e));
			say(`${asked}: ${e.advice}`);
		} catch (problem) {
			answer.replaceChildren(h('div', { class: 'banner', 'data-state': 'bad', role: 'alert' }, h('p', {}, problem.message)));
		} finally {
			answer.removeAttribute('aria-busy');
		}
	}

	// Who was seen lately is one press away.
	function seen() {
		const clients = [...known.knocks, ...known.grants ?? [], ...known.bans ?? []].map(x => x.client.split('/')[0]);
		const some = [...new Set(clients)].slice(0, 10);
		if (some.join() === shown) return;
		shown = some.join();
		answer.replaceChildren(...some.length ? [h('div', { class: 'seen' }, h('span', { class: 'dim' }, 'Lately seen'), some.map(address))] : []);
	}


	function draw(e) {
		const t = table('Knocks of ' + e.client, [{ text: 'Time' }, { text: 'What became of it' }, { text: 'Step', class: 'short' }, { text: 'Why', class: 'wide' }, { text: 'Listener', class: 'aside' }, ...(args.reveal ? [{ text: 'Path', class: 'wide' }] : [])], true);
		t.body.append(...e.knocks.map(k => {
			const [word, state, means] = outcome(k.outcome);
			const what = pill(state, word);
			what.title = means;
			return t.row([at(k.at), what, k.sequence ? `${k.sequence}${k.step ? ` ${k.step} of ${k.steps}` : ''}` : null, k.why || null, h('span', { class: 'address dim' }, k.listener), ...(args.reveal ? [h('code', {}, k.path ?? '–')] : [])]);
		}));
		const facts = [];
		if (e.banned_until) {
			const ban = { client: e.client, until: deadline(remaining(e.banned_until)) };
			facts.push(h('li', {}, pill('bad', 'banned'), h('span', {}, 'for another ', countdown(() => ban.until)), h('button', { type: 'button', class: 'small', onclick: () => { liftBan(ban); } }, 'Lift')));
		}
		for (const g of e.grants) {
			const grant = { ...g, until: deadline(g.remaining) };
			facts.push(h('li', {}, pill('good', 'in'), h('span', {}, `at ${g.door}, ${who(g)}, for another `, countdown(() => grant.until)),
				h('button', { type: 'button', class: 'small', onclick: () => extendGrant(grant), 'aria-label': `Extend the grant at ${g.door}` }, 'Extend'),
				h('button', { type: 'button', class: 'small', onclick: () => closeGrant(grant), 'aria-label': `Close the grant at ${g.door}` }, 'Close')));
		}
		for (const c of e.progress) {
			const until = deadline(remaining(c.expires_at));
			facts.push(h('li', {}, pill('info', 'in progress'), h('span', { class: 'steps' }, c.sequence + ' ', stepsOf(c.step, c.steps)), h('span', { class: 'dim' }, ' next step within ', countdown(() => until))));
		}
		return [
			h('div', { class: 'advice' }, h('h2', {}, h('span', { class: 'address' }, e.client)), h('p', {}, sentence(e.advice))),
			facts.length > 0 && h('ul', { class: 'facts-list' }, facts),
			h('section', { 'aria-labelledby': 'its-knocks' }, h('h2', { id: 'its-knocks' }, 'Its knocks, the latest first'),
				e.knocks.length ? h('div', { class: 'card flush' }, t.node) : none('No knock of this address is remembered.', 'Nothing has reached a listener, or it is too long ago.')),
		].filter(Boolean);
	}
	explain();
}
