// Events of the daemon as they come. The browser resumes a stream that breaks by the id
// of the latest event; where it gives up, since what stands between has answered with an
// error, a new one begins after that id. The first begins with what the daemon remembers.

const kinds = ['knock', 'completion', 'grant.opened', 'grant.extended', 'grant.closed', 'grant.adopted', 'grant.refused',
	'repair', 'ban', 'unban', 'reload', 'command', 'degraded', 'admin', 'front.ended', 'commands.ended', 'missed'];

// live calls onEvent with each event, and onState with connecting, live or lost.
export function live(onEvent, onState) {
	let source, latest = '', retry, idle, state, wait = 1000;

	const say = now => { if (now !== state) onState(state = now); };

	function open() {
		clearTimeout(retry);
		source?.close();
		source = new EventSource('v1/events' + (latest ? '?last_event_id=' + encodeURIComponent(latest) : '?recent=100'));
		source.onopen = () => { clearTimeout(retry); wait = 1000; say('live'); };
		source.onerror = () => {
			say('lost');
			// A stream that hangs while it connects is begun anew as well.
			clearTimeout(retry);
			retry = setTimeout(open, wait);
			wait = Math.min(wait * 2, 15000);
		};
		for (const kind of kinds) {
			source.addEventListener(kind, e => {
				clearTimeout(retry);
				say('live');
				if (e.lastEventId) latest = e.lastEventId;
				try { onEvent(kind, JSON.parse(e.data)); } catch (problem) { console.error(problem); }
			});
		}
	}

	// A tab that nobody looks at gives its connection back after a while: a browser has
	// few for one host, and all tabs share them.
	document.addEventListener('visibilitychange', () => {
		clearTimeout(idle);
		if (document.hidden) idle = setTimeout(() => { clearTimeout(retry); source.close(); source = null; }, 60000);
		else if (!source || source.readyState === EventSource.CLOSED) open();
	});
	addEventListener('pagehide', () => source?.close());

	onState(state = 'connecting');
	open();
}
