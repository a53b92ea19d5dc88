// The page: which view is shown, and what stands around it.
//
//	api.js     asks the admin API         live.js    its events
//	state.js   what is known, kept fresh  dom.js     elements and tables
//	time.js    times and countdowns       notes.js   what is told
//	dialogs.js what is asked              words.js   words for what the API names
//	views/     one file for each view: show(main, arguments, signal) fills main
import { h, icon, put } from './dom.js';
import { known, start, watch } from './state.js';
import * as overview from './views/overview.js';
import * as grants from './views/grants.js';
import * as knocks from './views/knocks.js';
import * as explain from './views/explain.js';
import * as history from './views/history.js';
import * as plot from './views/plot.js';
import * as bans from './views/bans.js';

const views = { overview, grants, knocks, explain, history, plot, bans };
const main = document.getElementById('main');
const nav = document.getElementById('nav');

const badges = {};
nav.append(h('ul', {}, Object.entries(views).map(([name, view]) => h('li', {}, h('a', { href: '#' + name, id: 'to-' + name }, icon(name), h('span', {}, view.title), badges[name] = h('span', { class: 'badge', hidden: true }))))));

// The address says which view: #explain/192.0.2.7?reveal=1
let leave, shown;
function route() {
	const [path, q = ''] = location.hash.slice(1).split('?');
	let [name, ...rest] = path.split('/');
	if (!views[name]) name = 'overview';
	leave?.abort();
	leave = new AbortController();
	main.replaceChildren();
	main.dataset.view = name;
	for (const link of nav.querySelectorAll('a')) {
		if (link.id === 'to-' + name) link.setAttribute('aria-current', 'page'); else link.removeAttribute('aria-current');
	}
	document.title = views[name].title + ' – webknock';
	let argument = '';
	try { argument = decodeURIComponent(rest.join('/')); } catch { /* no address */ }
	views[name].show(main, { ...Object.fromEntries(new URLSearchParams(q)), path: argument }, leave.signal);
	if (shown) { // not at first: then the focus belongs to the page's beginning
		scrollTo(0, 0);
		const title = main.querySelector('h1');
		title.tabIndex = -1;
		if (!main.contains(document.activeElement)) title.focus({ preventScroll: true });
	}
	shown = name;
}
addEventListener('hashchange', route);

// The skip link must not change the view.
document.querySelector('.skip').addEventListener('click', e => { e.preventDefault(); main.focus(); });

const themes = { system: 'system', light: 'light', dark: 'dark' };
const button = document.getElementById('theme');
function drawTheme() {
	const theme = document.documentElement.dataset.theme ?? 'system';
	button.replaceChildren(icon(theme), h('span', {}, themes[theme]));
	button.setAttribute('aria-label', `Theme: ${theme}. Press for the next`);
}
button.addEventListener('click', () => {
	const all = Object.keys(themes), theme = all[(all.indexOf(document.documentElement.dataset.theme ?? 'system') + 1) % 3];
	if (theme === 'system') delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = theme;
	try { localStorage.setItem('webknock-theme', theme); } catch { /* for this time only */ }
	drawTheme();
});
drawTheme();

const guard = document.getElementById('guard'), connection = document.getElementById('live');
watch(() => {
	const s = known.status;
	if (known.problem && (!s || known.live !== 'live')) {
		guard.dataset.state = 'bad';
		put(guard, 'No answer');
	} else if (s) {
		const guarded = s.firewall.guarded || s.firewall.mode !== 'guard';
		const dry = s.firewall.backend === 'memory';
		guard.dataset.state = !guarded ? 'bad' : s.state === 'degraded' || dry ? 'warn' : 'good';
		put(guard, !guarded ? 'Not guarded' : s.state === 'degraded' ? 'Degraded' : dry ? 'Dry run' : s.firewall.mode === 'guard' ? 'Guarded' : 'Marks only');
	}
	guard.title = known.problem && known.live !== 'live' ? known.problem.message : s?.problems.join('\n') ?? '';
	connection.dataset.state = { connecting: 'wait', live: 'good', lost: 'bad' }[known.live];
	put(connection, { connecting: 'Connecting', live: 'Live', lost: 'Connection lost' }[known.live]);
	connection.title = known.live === 'lost' ? 'It is tried again by itself; what is shown may be old.' : '';
	document.body.classList.toggle('lost', known.live === 'lost');
	const counts = { grants: known.grants?.length, bans: known.bans?.length, overview: s?.problems.length, knocks: known.clients?.length };
	for (const [name, n] of Object.entries(counts)) {
		badges[name].hidden = !n;
		put(badges[name], n > 99 ? '99+' : String(n ?? ''));
	}
	badges.overview.dataset.state = 'bad';
});

route();
start();
