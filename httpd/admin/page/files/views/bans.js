import { address, h, head, list, none, put, table } from '../dom.js';
import { at, countdown } from '../time.js';
import { known, watch } from '../state.js';
import { liftBan } from '../dialogs.js';
import { many } from '../words.js';

export const title = 'Bans';

export function show(main, _, signal) {
	const t = table('Bans', [{ text: 'Client', class: 'client' }, { text: 'Time left' }, { text: 'Until', class: 'wide' }, { text: 'Actions', hidden: true }]);
	const nobody = none('Nobody is banned.', 'Who knocks too often without completing a sequence, or at a decoy, is kept off the listeners for a while.');
	const sum = h('p', { class: 'dim' });
	main.append(head('Bans'), sum, h('div', { class: 'card flush' }, t.node), nobody);
	const draw = list(t.body, b => b.client, b => {
		let ban = b;
		const until = h('span', {});
		return {
			node: t.row([address(b.client), countdown(() => ban.until), until, h('span', { class: 'actions' }, h('button', { type: 'button', class: 'small', onclick: () => liftBan(ban), 'aria-label': 'Lift the ban of ' + b.client }, 'Lift'))]),
			update: b => { ban = b; until.replaceChildren(at(b.expires_at)); },
		};
	});
	watch(() => {
		if (!known.bans) return;
		draw(known.bans.toSorted((a, b) => b.until - a.until));
		t.node.parentElement.hidden = known.bans.length === 0;
		nobody.hidden = known.bans.length > 0;
		put(sum, known.bans.length ? `The listeners are closed to ${many(known.bans.length, 'client')}.` : '');
	}, signal);
}
