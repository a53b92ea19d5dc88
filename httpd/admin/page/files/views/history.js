import { address, h, head, none, pill, table } from '../dom.js';
import { get, query } from '../api.js';
import { at, span } from '../time.js';
import { known, watch } from '../state.js';
import { bytes, event, events, many } from '../words.js';
import { say } from '../notes.js';

export const title = 'History';
const limit = 50;
const hour = 3600, ranges = [['', 'all'], [hour, 'the last hour'], [24 * hour, 'the last day'], [7 * 24 * hour, 'the last week'], [30 * 24 * hour, 'the last month']];

export function show(main, args, signal) {
	const t = table('History, the latest first', [{ text: 'Time' }, { text: 'Event' }, { text: 'Client', class: 'client' }, { text: 'Door' }, { text: 'As', class: 'labelled short' }, { text: 'Lasted', number: true }, { text: 'Traffic', number: true, class: 'spare' }, { text: 'Reason', class: 'wide' }], true);
	const filtered = ['user', 'client', 'door', 'event', 'since'].some(name => args[name]);
	const nothing = filtered ? none('Nothing fits.', 'Fewer filters find more.') : none('Nothing has happened yet.', 'Who comes in, bans, reloads and what administrators do will be listed here.');
	const problem = h('div', { class: 'banner', 'data-state': 'bad', role: 'alert', hidden: true });
	const more = h('button', { type: 'button', hidden: true, onclick: () => load(next) }, 'Show older');
	const text = (id, label, placeholder) => {
		const input = h('input', { type: 'text', id, name: id, value: args[id] ?? '', autocomplete: 'off', spellcheck: 'false', placeholder });
		return h('div', { class: 'field' }, h('label', { for: id }, label), input);
	};
	const choice = (id, label, options) => h('div', { class: 'field' }, h('label', { for: id }, label),
		h('select', { id, name: id }, options.map(([value, word]) => h('option', { value, selected: String(value) === (args[id] ?? '') }, word))));
	const doors = choice('door', 'Door', [['', 'all']]);
	main.append(head('History'),
		h('form', { class: 'filters many', onsubmit: e => {
			e.preventDefault();
			const to = '#' + query('history', Object.fromEntries(new FormData(e.target)));
			if (to === location.hash) load(); else location.hash = to;
		} },
		text('user', 'User', 'alice'), text('client', 'Client', '192.0.2.7'), doors,
		choice('event', 'Event', [['', 'all'], ...Object.keys(events).map(name => [name, event(name)[0]])]),
		choice('since', 'Since', ranges),
		h('div', { class: 'actions' }, h('button', { type: 'submit', class: 'primary' }, 'Filter'),
			h('button', { type: 'button', class: 'quiet', onclick: () => { location.hash = '#history'; } }, 'Clear'))),
		problem, h('div', { class: 'card flush' }, t.node), nothing, h('div', { class: 'actions middle' }, more));

	watch(() => { // the doors are known a moment later
		const select = doors.querySelector('select');
		if (!known.status || select.length > 1) return;
		select.append(...known.status.doors.map(d => h('option', { value: d.name, selected: d.name === args.door }, d.name)));
	}, signal);

	let next = null;
	async function load(cursor = '') {
		more.disabled = true;
		try {
			const since = args.since && new Date(Date.now() - args.since * 1000).toISOString();
			const page = await get(query('history', { user: args.user, door: args.door, client: args.client, event: args.event, since, limit, cursor }));
			if (signal.aborted) return;
			if (!cursor) t.body.replaceChildren();
			const rows = page.entries.map(row);
			t.body.append(...rows);
			next = page.next;
			if (cursor) { // the focus goes where the older ones begin
				rows[0]?.setAttribute('tabindex', '-1');
				rows[0]?.focus();
			}
			problem.hidden = true;
			say(`${many(t.body.childElementCount, 'entry', 'entries')}${next ? ', and there are older ones' : ''}`);
		} catch (p) {
			problem.replaceChildren(h('p', {}, p.message));
			problem.hidden = false;
		}
		more.disabled = false;
		more.hidden = !next;
		const some = t.body.childElementCount > 0;
		t.node.parentElement.hidden = !some;
		nothing.hidden = some || !problem.hidden;
	}

	function row(e) {
		const [word, state] = event(e.event);
		const lasted = e.opened_at && e.closed_at ? span((new Date(e.closed_at) - new Date(e.opened_at)) / 1000) : null;
		const as = e.user || e.sequence || (e.uid !== undefined && e.uid !== null ? 'uid ' + e.uid : null);
		return t.row([at(e.time), pill(state, word), e.client ? address(e.client) : null, e.door || null, as, lasted, e.bytes ? bytes(e.bytes) : null, e.reason || null]);
	}
	load();
}
