// What is asked before something is changed. A dialog of the browser's keeps the focus,
// closes with Escape, and gives the focus back.
import { h } from './dom.js';
import { call } from './api.js';
import { act, known, who } from './state.js';
import { at, left, span } from './time.js';

// ask shows a form in a dialog. submit returns whether it went well, and then it closes.
function ask(title, fields, button, submit, danger = false) {
	const error = h('p', { class: 'error', role: 'alert' });
	const form = h('form', { method: 'dialog' },
		h('h2', { id: 'ask' }, title), fields, error,
		h('div', { class: 'actions end' },
			h('button', { type: 'button', class: 'quiet', onclick: () => dialog.close() }, 'Cancel'),
			h('button', { type: 'submit', class: danger ? 'danger' : 'primary' }, button)));
	const dialog = h('dialog', { 'aria-labelledby': 'ask', onclose: () => dialog.remove() }, form);
	dialog.addEventListener('click', e => { if (e.target === dialog) dialog.close(); });
	form.addEventListener('submit', async e => {
		e.preventDefault();
		error.textContent = '';
		const send = form.querySelector('[type=submit]');
		send.disabled = true;
		try {
			await submit(new FormData(form));
			dialog.close();
		} catch (problem) {
			error.textContent = [problem.message, ...problem.errors ?? []].join('\n');
			send.disabled = false;
			form.querySelector('input, select, button')?.focus();
		}
	});
	document.body.append(dialog);
	dialog.showModal();
}

const field = (id, label, control, hint) => {
	control.id = 'field-' + id;
	control.name = id;
	if (hint) control.setAttribute('aria-describedby', 'hint-' + id);
	return h('div', { class: 'field' }, h('label', { for: control.id }, label), control, hint && h('p', { class: 'hint', id: 'hint-' + id }, hint));
};

const ttls = [['30s', '30 s'], ['5m', '5 min'], ['30m', '30 min'], ['1h', '1 h'], ['8h', '8 h']];

// ttlField asks how long: a field to type in, and buttons for what is usual.
function ttlField(label, value, hint) {
	const input = h('input', { type: 'text', value, autocomplete: 'off', spellcheck: 'false', placeholder: '1h30m' });
	return h('div', {}, field('ttl', label, input, hint),
		h('div', { class: 'choices', role: 'group', 'aria-label': 'Usual times' }, ttls.map(([ttl, text]) =>
			h('button', { type: 'button', class: 'choice', onclick: () => { input.value = ttl; } }, text))));
}

// openDoor lets somebody in by hand.
export function openDoor(door = '') {
	const doors = known.status?.doors ?? [];
	const select = h('select', { required: true }, doors.map(d => h('option', { value: d.name, selected: d.name === door }, `${d.name} (${d.ports.join(', ')})`)));
	ask('Open a door by hand', [
		field('door', 'Door', select),
		field('client', 'Address', h('input', { type: 'text', required: true, autocomplete: 'off', spellcheck: 'false', placeholder: '192.0.2.7' }), 'The IPv4 or IPv6 address that the connection comes from.'),
		ttlField('For how long', '', 'Empty: as long as the door has it.'),
	], 'Open', async data => {
		const body = { door: data.get('door'), client: data.get('client').trim() };
		if (data.get('ttl').trim()) body.ttl = data.get('ttl').trim();
		await call('POST', 'grants', body);
		act(`${body.door} is open for ${body.client}`, () => {}, 'grants', 'status', 'lately');
	});
}

export function extendGrant(grant) {
	ask('Extend a grant', [
		h('p', { class: 'lead' }, h('span', { class: 'address' }, grant.client), ` may pass ${grant.door} for another ${span(left(grant.until))}, ${who(grant)}.`),
		ttlField('From now on, for', '1h', 'A grant is never made shorter, and no longer than the door’s max_ttl.'),
	], 'Extend', async data => {
		const { value } = await call('POST', `grants/${encodeURIComponent(grant.id)}/extend`, { ttl: data.get('ttl').trim() });
		act(`${grant.client} may pass ${grant.door} until ${at(value.expires_at).textContent}`, () => {}, 'grants', 'lately');
	});
}

export function closeGrant(grant) {
	ask('Close a grant', h('p', { class: 'lead' }, h('span', { class: 'address' }, grant.client), ` will no longer pass ${grant.door}. A session that is up lives on, unless the door says established: cut.`),
		'Close', async () => {
			await call('DELETE', `grants/${encodeURIComponent(grant.id)}`);
			act(`${grant.door} is closed for ${grant.client}`, () => {}, 'grants', 'status', 'lately');
		}, true);
}

export function liftBan(ban) {
	ask('Lift a ban', h('p', { class: 'lead' }, 'The listeners will be open to ', h('span', { class: 'address' }, ban.client), ' again.'),
		'Lift', async () => {
			await call('DELETE', `bans/${encodeURIComponent(ban.client.split('/')[0])}`);
			act(`The ban of ${ban.client} is lifted`, () => {}, 'bans', 'status', 'lately');
		});
}

export function confirmChange() {
	return act('The change is confirmed', () => call('POST', 'confirm'), 'status');
}
