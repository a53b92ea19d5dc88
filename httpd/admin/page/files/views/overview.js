import { address, h, head, icon, list, none, pill, put, table } from '../dom.js';
import { at, countdown, left, span } from '../time.js';
import { known, since, watch, who } from '../state.js';
import { closeGrant, confirmChange, extendGrant, openDoor } from '../dialogs.js';
import { count, event, loss, problem } from '../words.js';
import { ring } from '../ring.js';
import { sparkline } from '../chart.js';

export const title = 'Overview';
const most = 6; // grants that a door shows

export function show(main, _, signal) {
	const problems = h('ul', { class: 'problems' });
	const confirm = h('div', {});
	const facts = h('p', { class: 'dim' });
	const tiles = h('dl', { class: 'tiles' });
	const doors = h('div', { class: 'doors' });
	const lately = h('ol', { class: 'lately' });
	const listeners = table('Listeners', [{ text: 'Address' }, { text: 'Scheme' }, { text: 'Answer' }, { text: 'Connections', number: true }, { text: 'Knocks', number: true }]);
	const sequences = table('Sequences', [{ text: 'Name' }, { text: 'Steps', number: true }, { text: 'Completions', number: true }]);
	const lost = table('Refused or lost', [{ text: 'Refused or lost', class: 'wide' }, { text: 'Since the start', number: true }]);
	const noDoors = none('No door is configured.', 'Sequences run commands and send notices here.');
	const noHistory = none('Nothing has happened yet.', 'Who comes in, bans and reloads will be listed here.');
	main.append(
		head('Overview', h('button', { type: 'button', class: 'primary', onclick: () => openDoor() }, icon('plus'), 'Open by hand')),
		facts, confirm,
		h('section', { 'aria-labelledby': 'problems', class: 'problem-box', hidden: true }, h('h2', { id: 'problems' }, 'Problems'), problems),
		tiles,
		h('section', { 'aria-labelledby': 'doors' }, h('h2', { id: 'doors' }, 'Doors'), doors, noDoors),
		h('div', { class: 'columns' },
			h('section', { 'aria-labelledby': 'lately', class: 'card' }, h('div', { class: 'head' }, h('h2', { id: 'lately' }, 'Lately'), h('a', { href: '#history' }, 'History')), lately, noHistory),
			h('div', {},
				h('section', { 'aria-labelledby': 'listeners', class: 'card' }, h('h2', { id: 'listeners' }, 'Listeners'), listeners.node),
				h('section', { 'aria-labelledby': 'sequences', class: 'card' }, h('h2', { id: 'sequences' }, 'Sequences'), sequences.node),
				h('section', { 'aria-labelledby': 'lost', class: 'card' }, h('h2', { id: 'lost' }, 'Refused or lost'), lost.node))));

	const drawProblems = list(problems, text => text, text => {
		const { what, todo } = problem(text);
		return { node: h('li', {}, icon('alert'), h('div', {}, h('p', {}, what), h('p', { class: 'todo' }, h('b', {}, 'What to do: '), todo))) };
	});
	const drawTiles = list(tiles, tile => tile.name, tile => {
		const value = h('span', { class: 'value' });
		const more = h('span', { class: 'more' });
		const line = 'line' in tile && h('span', { class: 'spark' });
		return {
			node: h('div', { class: 'tile' }, h('dt', {}, h('a', { href: tile.href }, tile.name)), h('dd', {}, value, more, line)),
			update: tile => { put(value, tile.value); put(more, tile.more); if (line) line.replaceChildren(...tile.line ? [sparkline(tile.line)] : []); },
		};
	});
	const drawDoors = list(doors, d => d.name, makeDoor);
	const drawListeners = list(listeners.body, l => JSON.stringify([l.address, l.tls, l.cover]), l => ({
		node: listeners.row([[h('span', { class: 'address' }, l.address), !l.bound && [' ', pill('bad', 'not bound')]], l.tls ? 'https' : 'http',
			{ drop: 'none: reset', status: 'a status', proxy: 'a real site' }[l.cover] ?? l.cover, count(l.connections), count(l.knocks)]),
	}));
	const drawSequences = list(sequences.body, q => JSON.stringify(q), q => ({ node: sequences.row([q.name, count(q.steps), count(q.completions)]) }));
	const drawLost = list(lost.body, l => l.join(), ([kind, n]) => ({ node: lost.row([loss(kind), count(n)]) }));
	const drawLately = list(lately, e => e.time + e.event + (e.grant || e.client || e.reason), e => {
		const [word, state] = event(e.event);
		const about = e.event === 'admin' ? [e.uid === null || e.uid === undefined ? e.reason : `${e.reason}, by uid ${e.uid}`] : e.door ? [address(e.client), ` ${e.door}`, ...(e.user || e.sequence ? [h('span', { class: 'dim' }, ` as ${e.user || e.sequence}`)] : [])] : e.client ? [address(e.client)] : [];
		return { node: h('li', {}, at(e.time, false), pill(state, word), h('span', { class: 'about' }, about, e.event !== 'admin' && e.reason && h('span', { class: 'dim' }, (about.length ? ' · ' : '') + e.reason))) };
	});

	watch(() => {
		const { status, grants, clients, bans, stats } = known;
		if (status) {
			put(facts, `Up for ${since(status.started_at)} · ${status.firewall.backend}, ${status.firewall.mode === 'guard' ? 'guards the doors' : 'marks packets'} · version ${status.version}`);
			drawProblems(status.problems);
			problems.parentElement.hidden = status.problems.length === 0;
			drawListeners(status.listeners);
			drawSequences(status.sequences);
			const losses = Object.entries(status.lost).filter(([, n]) => n > 0);
			drawLost(losses);
			lost.node.parentElement.hidden = losses.length === 0;
			if (!status.confirmUntil) confirm.replaceChildren();
			else if (!confirm.firstChild) {
				confirm.append(h('div', { class: 'banner' }, icon('alert'), h('p', {}, 'A change waits for confirmation. It is undone in ', countdown(() => known.status.confirmUntil ?? 0), '.'),
					h('button', { type: 'button', class: 'primary', onclick: confirmChange }, 'Confirm')));
			}
			noDoors.hidden = status.doors.length > 0;
			const of = Map.groupBy(grants ?? [], g => g.door);
			drawDoors(status.doors.map(d => ({ ...d, all: (of.get(d.name) ?? []).toSorted((a, b) => a.until - b.until) })));
		}
		const minutes = stats?.minutes ?? [];
		const knocks = minutes.map(m => Object.values(m.knocks).reduce((a, b) => a + b, 0));
		drawTiles([
			{ name: 'Grants', href: '#grants', value: grants ? count(grants.length) : '–', more: grants?.length ? 'next ends in ' + span(left(Math.min(...grants.map(g => g.until)))) : 'nobody is in' },
			{ name: 'In progress', href: '#knocks', value: clients ? count(clients.length) : '–', more: clients?.length === 1 ? 'client' : 'clients' },
			{ name: 'Knocks', href: '#plot', value: stats ? count(knocks.reduce((a, b) => a + b, 0)) : '–', more: 'in the last hour', line: knocks.some(n => n > 0) ? knocks : null },
			{ name: 'Bans', href: '#bans', value: bans ? count(bans.length) : '–', more: bans?.length ? 'kept off the listeners' : 'nobody is banned' },
		]);
		if (known.lately) drawLately(known.lately);
		noHistory.hidden = !known.lately || known.lately.length > 0;
	}, signal);
}

function makeDoor(door) {
	let now = door;
	const state = h('span', { class: 'pill' });
	const inside = h('ul', { class: 'rings' });
	const nobody = h('p', { class: 'nobody' }, icon('shut'), 'Nobody is in');
	const anybody = h('p', { class: 'nobody', 'data-state': 'bad' }, icon('open'), 'Anybody gets in');
	const more = h('a', { href: '#grants' });
	const facts = h('p', { class: 'facts' });
	const drawGrants = list(inside, g => g.id, g => {
		let grant = g;
		const until = h('span', { class: 'dim' });
		return {
			node: h('li', {}, ring(() => grant),
				h('div', { class: 'whom' }, address(g.client), until),
				h('div', { class: 'actions' },
					h('button', { type: 'button', class: 'small', onclick: () => extendGrant(grant), 'aria-label': `Extend ${g.client}` }, 'Extend'),
					h('button', { type: 'button', class: 'small', onclick: () => closeGrant(grant), 'aria-label': `Close ${g.client}` }, 'Close'))),
			update: g => { grant = g; until.replaceChildren(who(g), ' · until ', at(g.expires_at, false)); },
		};
	});
	return {
		node: h('article', { class: 'card door', 'aria-label': 'Door ' + door.name },
			h('div', { class: 'head' }, h('h3', {}, door.name), h('div', { class: 'actions' }, state,
				h('button', { type: 'button', class: 'small', onclick: () => openDoor(door.name), 'aria-label': 'Let in at ' + door.name }, icon('plus'), 'Let in'))),
			facts, inside, nobody, anybody, more),
		update: d => {
			now = d;
			const n = d.all.length;
			put(facts, [d.ports.join(', '), d.ttl && span(d.ttl) + ' each', d.max_grants && n > d.max_grants / 2 && `${count(n)} of ${count(d.max_grants)}`].filter(Boolean).join(' · '));
			const guarded = known.status.firewall.guarded || known.status.firewall.mode !== 'guard';
			state.dataset.state = !guarded ? 'bad' : n ? 'good' : 'plain';
			put(state, !guarded ? 'Not guarded' : n ? `Open for ${count(n)}` : 'Shut');
			drawGrants(now.all.slice(0, most));
			nobody.hidden = !guarded || n > 0;
			anybody.hidden = guarded;
			put(more, n > most ? `All ${count(n)} grants` : '');
			more.hidden = n <= most;
		},
	};
}
