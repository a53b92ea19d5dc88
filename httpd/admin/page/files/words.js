// Words for what the API names.

// outcomes of knocks, in the order in which a plot stacks them, with their state.
export const outcomes = {
	completed: ['completed', 'good', 'It completed a sequence'],
	matched: ['matched', 'info', 'It matched a step'],
	ignored: ['ignored', 'plain', 'A request that never counts, like that for a favicon'],
	prefetch: ['prefetch', 'plain', 'A browser asked ahead of its user'],
	replayed: ['replayed', 'warn', 'The client had used this code itself before'],
	untracked: ['not tracked', 'warn', 'So many clients are in progress that this one found no place'],
	wrong_code: ['wrong code', 'bad', 'A one-time code that nobody has'],
	banned: ['banned', 'bad', 'The client is banned'],
	malformed: ['malformed', 'plain', 'No request that could be read'],
	missed: ['missed', 'plain', 'It matched no step'],
};
export const outcome = name => outcomes[name] ?? [name, 'plain', ''];

// events of the history, with their state.
export const events = {
	opened: ['in now', 'good'], closed: ['was in', 'info'], refused: ['refused', 'warn'], banned: ['banned', 'bad'], unbanned: ['ban lifted', 'plain'],
	admin: ['admin', 'info'], reload: ['reload', 'plain'], repair: ['repaired', 'warn'], degraded: ['problem', 'bad'], recovered: ['all well', 'good'],
	lost: ['lost', 'warn'],
};
export const event = name => events[name] ?? [name, 'plain'];

// lost says what was refused at a bound or lost.
const losses = {
	connections_evicted: 'connections reset half-read: max_connections was reached', connections_starved: 'connections reset half-read: descriptors or memory ran out',
	knocks: 'knocks that came faster than they could be read', clients: 'clients not tracked: clients.max was reached', counts: 'clients whose knocks are no longer counted for a ban',
	bans: 'clients not banned: too many are', notices: 'notices that found a full queue', commands: 'commands not run: too many waited',
	history: 'entries of the history that the disk did not take',
};
export const loss = kind => losses[kind] ?? kind.replaceAll('_', ' ');

const advice = [
	[/file on disk .* is not what runs|does without/, 'Mend the file (webknock check shows its errors), then run webknock reload.'],
	[/repaired \d+ times|changes? .*table/, 'Stop what changes the table, or set firewall.owner: true.'],
	[/not confirmed|was taken away|unguard/, 'Run webknock reload to guard the doors again, and webknock confirm if it asks for that.'],
	[/certificate for .* yet/, 'See why in the log (journalctl -u webknock). The domain must lead to this host, on port 80 or 443.'],
	[/certificate|\.pem/, 'Put a valid certificate and its key in place: they are read again as soon as they change.'],
	[/no space|read-only|disk|not remembered|cannot be written|history/, 'Look at the disk below the state directory: is it full, or read-only?'],
	[/labels of connections/, 'Load nf_conntrack with labels, or use a kernel that has them.'],
	[/netlink|nftables|permission/, 'Run webknock doctor: it tries the doors, and says what stands in the way.'],
];

// sentence begins a message with a capital, if it begins with a word.
export const sentence = text => /^[a-z]+ /.test(text) ? text[0].toUpperCase() + text.slice(1) : text;

// problem splits what is wrong from what to do: messages end with it, in brackets.
export function problem(text) {
	const hint = text.match(/^(.*\S) \(([^()]*(?:\([^()]*\)[^()]*)*)\)$/s);
	if (hint && !/\blog\b/.test(hint[2])) return { what: sentence(hint[1]), todo: sentence(hint[2]) + '.' };
	return { what: sentence(text), todo: advice.find(([pattern]) => pattern.test(text))?.[1] ?? 'See the log (journalctl -u webknock), and run webknock doctor.' };
}

const number = new Intl.NumberFormat('en');
export const count = n => number.format(n);
export const many = (n, one, more = one + 's') => `${count(n)} ${n === 1 ? one : more}`;

export function bytes(n) {
	if (n < 1000) return n + ' B';
	for (const unit of ['kB', 'MB', 'GB', 'TB', 'PB']) {
		n /= 1000;
		if (n < 999.5 || unit === 'PB') return (n < 9.95 ? n.toFixed(1) : Math.round(n)) + ' ' + unit;
	}
}
