import { address, h, head, icon, list, none, put, table } from '../dom.js';
import { at, countdown, left, tick } from '../time.js';
import { known, watch, who } from '../state.js';
import { closeGrant, extendGrant, openDoor } from '../dialogs.js';
import { bytes, many } from '../words.js';

export const title = 'Grants';

export function show(main, _, signal) {
	const t = table('Grants', [{ text: 'Client', class: 'client' }, { text: 'Door' }, { text: 'As', class: 'short' }, { text: 'Left', class: 'wide' }, { text: 'Opened', class: 'spare' }, { text: 'Until' }, { text: 'Traffic', number: true, class: 'spare' }, { text: 'Actions', hidden: true }]);
	const nobody = none('Nobody is in.', 'A client that completes a sequence, or whom you let in by hand, is listed here.');
	const sum = h('p', { class: 'dim' });
	main.append(head('Grants', h('button', { type: 'button', class: 'primary', onclick: () => openDoor() }, icon('plus'), 'Open by hand')), sum, h('div', { class: 'card flush' }, t.node), nobody);
	const draw = list(t.body, g => g.id, g => {
		let grant = g;
		const bar = h('span', { class: 'bar-left' }, h('span', {}));
		tick(bar, () => {
			const whole = (new Date(grant.expires_at) - new Date(grant.opened_at)) / 1000;
			const part = Math.max(0, Math.min(1, left(grant.until) / whole));
			bar.firstChild.style.setProperty('width', part * 100 + '%');
		});
		const until = h('span', {});
		const traffic = h('span', {});
		return {
			node: t.row([address(g.client), g.door, who(g), [countdown(() => grant.until), bar], at(g.opened_at), until, traffic,
				h('span', { class: 'actions' },
					h('button', { type: 'button', class: 'small', onclick: () => extendGrant(grant), 'aria-label': `Extend ${g.client} at ${g.door}` }, 'Extend'),
					h('button', { type: 'button', class: 'small danger-quiet', onclick: () => closeGrant(grant), 'aria-label': `Close ${g.client} at ${g.door}` }, 'Close'))]),
			update: g => {
				if (g.expires_at !== until.dataset.at) { until.dataset.at = g.expires_at; until.replaceChildren(at(g.expires_at)); }
				grant = g;
				put(traffic, g.packets ? `${bytes(g.bytes)}` : '–');
				traffic.title = many(g.packets, 'packet');
			},
		};
	});
	watch(() => {
		if (!known.grants) return;
		const all = known.grants.toSorted((a, b) => a.until - b.until);
		draw(all);
		t.node.parentElement.hidden = all.length === 0;
		nobody.hidden = all.length > 0;
		const doors = new Set(all.map(g => g.door)).size;
		put(sum, all.length ? `${many(all.length, 'grant')} at ${many(doors, 'door')}; the kernel ends each by itself.` : '');
	}, signal);
}
