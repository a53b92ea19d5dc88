// What the page knows of the daemon, kept fresh by its events, and every few seconds.
import { get, query } from './api.js';
import { live } from './live.js';
import { deadline, learnClock, remaining, span } from './time.js';
import { say, toast } from './notes.js';

export const known = {
	status: null, grants: null, clients: null, bans: null, stats: null, lately: null,
	knocks: [], // the latest, newest first
	missed: 0, // events that came too fast
	live: 'connecting',
	problem: null, // why the daemon does not answer
};
const keepKnocks = 300;

const listeners = new Set();
// watch calls f now, and whenever something has changed, until the signal ends that.
export function watch(f, signal) {
	listeners.add(f);
	signal?.addEventListener('abort', () => listeners.delete(f));
	f();
}

// changed has everything drawn again, at most four times a second: strangers may knock
// as fast as they like.
let drawn = 0, drawing;
export function changed() {
	drawing ??= setTimeout(() => {
		drawing = null;
		drawn = performance.now();
		for (const f of listeners) f();
	}, Math.max(0, drawn + 250 - performance.now()));
}

const readers = {
	status: () => get('status').then(value => ({ ...value, confirmUntil: value.confirm_by && deadline(remaining(value.confirm_by)) })),
	grants: () => get('grants').then(({ grants }) => grants.map(g => ({ ...g, until: deadline(g.remaining) }))),
	clients: () => get('clients').then(({ clients }) => clients.map(c => ({ ...c, until: deadline(remaining(c.expires_at)) }))),
	bans: () => get('bans').then(({ bans }) => bans.map(b => ({ ...b, until: deadline(b.remaining) }))),
	stats: () => get('stats'),
	lately: () => get(query('history', { limit: 8 })).then(page => page.entries),
};

const busy = new Map();
// refresh asks for some of it again: refresh('grants', 'status').
export async function refresh(...names) {
	await Promise.all(names.map(async name => {
		if (busy.has(name)) return busy.set(name, true); // once more afterwards
		busy.set(name, false);
		try {
			do {
				busy.set(name, false);
				known[name] = await readers[name]();
			} while (busy.get(name));
			known.problem = null;
		} catch (problem) {
			if (problem.status === 404 && (name === 'stats' || name === 'lately')) known[name] = undefined;
			else known.problem = problem;
		} finally {
			busy.delete(name);
		}
	}));
	changed();
}

const timers = new Map();
function refreshSoon(delay, ...names) {
	for (const name of names) {
		if (timers.has(name)) continue;
		timers.set(name, setTimeout(() => { timers.delete(name); refresh(name); }, delay));
	}
}

const refreshes = {
	'completion': ['status', 'clients', 'stats'], 'grant.opened': ['grants', 'status', 'lately', 'clients'],
	'grant.extended': ['grants'], 'grant.closed': ['grants', 'status', 'lately'], 'grant.adopted': ['grants', 'status'],
	'grant.refused': ['lately'], 'ban': ['bans', 'status', 'lately'], 'unban': ['bans', 'status', 'lately'], 'repair': ['status', 'lately'],
	'degraded': ['status', 'lately'], 'reload': ['status', 'lately', 'grants'], 'admin': ['status', 'lately'], 'front.ended': ['status', 'clients', 'lately'], 'commands.ended': ['status', 'lately'],
};

function onEvent(kind, e) {
	if (kind === 'knock') {
		known.knocks.unshift(e);
		known.knocks.length = Math.min(known.knocks.length, keepKnocks);
		refreshSoon(700, 'clients');
		changed();
		return;
	}
	if (kind === 'missed') {
		known.missed += e.missed ?? 0;
		refreshSoon(100, 'status', 'grants', 'clients', 'bans', 'lately');
		return;
	}
	if (-remaining(e.time) > 10) return; // remembered from before: it is in the lists already
	if (kind === 'grant.opened') say(`${e.door} opened for ${e.client}`);
	if (kind === 'degraded') say(e.problems?.length ? 'The daemon reports a problem' : 'All is well again');
	refreshSoon(150, ...(refreshes[kind] ?? []));
}

function onState(state) {
	const before = known.live;
	known.live = state;
	if (state === 'lost' && before === 'live') say('The connection to the daemon is lost');
	if (state === 'live' && before === 'lost') {
		say('The connection to the daemon is back');
		refresh('status', 'grants', 'clients', 'bans', 'lately', 'stats');
	}
	changed();
}

// act does something by the API, and tells of it.
export async function act(done, doing, ...names) {
	try {
		await doing();
		toast(done);
	} catch (problem) {
		toast([problem.message, ...problem.errors].join('\n'), true);
		return false;
	} finally {
		refresh(...names);
	}
	return true;
}

export async function start() {
	const res = await fetch('v1/status', { cache: 'no-store' }).catch(() => null);
	if (res?.headers.get('Date')) {
		const behind = Date.parse(res.headers.get('Date')) + 500 - Date.now();
		if (Math.abs(behind) > 2000) learnClock(Date.now() + behind);
	}
	live(onEvent, onState);
	refresh('status', 'grants', 'clients', 'bans', 'lately', 'stats');
	setInterval(() => { if (!document.hidden) refresh('status', 'grants', 'clients', 'bans'); }, 5000);
	setInterval(() => { if (!document.hidden) refresh('stats', 'lately'); }, 15000);
	document.addEventListener('visibilitychange', () => { if (!document.hidden) refresh('status', 'grants', 'clients', 'bans', 'lately', 'stats'); });
}

export const who = g => g.user || g.sequence || 'by hand';
export const since = text => span(-remaining(text));
