// Elements. Everything that is shown goes through here, as text and never as HTML.

const SVG = 'http://www.w3.org/2000/svg';

// h makes an element: h('p', {class: 'x', onclick: f}, 'text', child, …). An attribute
// that is null or false is left out, and so is a child.
export function h(tag, attributes, ...children) {
	return fill(document.createElement(tag), attributes, children);
}

// s makes an element of SVG.
export function s(tag, attributes, ...children) {
	return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
	for (const [name, value] of Object.entries(attributes ?? {})) {
		if (value === null || value === undefined || value === false) continue;
		if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
		else node.setAttribute(name, value === true ? '' : value);
	}
	node.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false));
	return node;
}

// put sets the text of a node, if it is another.
export function put(node, text) {
	if (node.textContent !== text) node.textContent = text;
}

const paths = {
	overview: 'M3 10.500 12 4l9 6.500M5.500 9v10.500h13V9M10 19.500v-5h4v5',
	grants: 'M15.500 8.500a4 4 0 1 1-8 0 4 4 0 0 1 8 0ZM4 20c.8-3.600 3.800-5.500 7.500-5.500 1.300 0 2.500.2 3.500.7M16 19l2 2 4-4.500',
	knocks: 'M3 12h3.500l2.500-7 4.500 14 2.800-9 1.700 2H21',
	explain: 'M9.200 9.200a2.900 2.900 0 1 1 4.200 2.600c-.9.500-1.400 1.100-1.400 2.200M12 17.200v.1M21 12a9 9 0 1 1-18 0 9 9 0 0 1 18 0Z',
	history: 'M4 5v4.500h4.500M4.300 9.500A8.300 8.300 0 1 1 4 14M12 8v4.500l3 1.800',
	plot: 'M4 4v16h16M8.500 16v-4M13 16V7M17.500 16v-6.500',
	bans: 'M21 12a9 9 0 1 1-18 0 9 9 0 0 1 18 0ZM5.800 5.800l12.400 12.400',
	shut: 'M6 11h12v9H6zM8.500 11V8a3.500 3.500 0 0 1 7 0v3',
	open: 'M6 11h12v9H6zM8.500 11V8a3.500 3.500 0 0 1 6.800-1.200',
	alert: 'M12 9v4.500M12 16.800v.1M10.700 4.300 2.900 18a1.500 1.500 0 0 0 1.300 2.200h15.600a1.500 1.500 0 0 0 1.300-2.200L13.300 4.300a1.500 1.500 0 0 0-2.600 0Z',
	good: 'M21 12a9 9 0 1 1-18 0 9 9 0 0 1 18 0ZM8 12.300l2.800 2.800L16 9.500',
	light: 'M16 12a4 4 0 1 1-8 0 4 4 0 0 1 8 0ZM12 3v1.500M12 19.500V21M3 12h1.500M19.500 12H21M5.600 5.600l1.100 1.100M17.300 17.300l1.100 1.100M18.400 5.600l-1.100 1.100M6.700 17.300l-1.100 1.100',
	dark: 'M20 14.500A8.300 8.300 0 0 1 9.500 4 8.300 8.300 0 1 0 20 14.500Z',
	system: 'M3.500 5h17v11h-17zM9 20h6M12 16v4',
	plus: 'M12 5v14M5 12h14',
};

// icon draws one of them. It means nothing to a screen reader: words stand beside it.
export function icon(name) {
	return s('svg', { class: 'icon', viewBox: '0 0 24 24', 'aria-hidden': 'true' }, s('path', { d: paths[name] }));
}

// list keeps the children of a node in step with items, and leaves those alone that are
// there already, with the focus that they may have. make returns a node, and update,
// which is called with each item later on.
export function list(parent, key, make) {
	let shown = new Map();
	return items => {
		const next = new Map();
		for (const item of items) {
			const id = key(item);
			const entry = shown.get(id) ?? make(item);
			entry.update?.(item);
			next.set(id, entry);
		}
		let lost = false;
		for (const [id, entry] of shown) {
			if (next.has(id)) continue;
			lost ||= entry.node.contains(document.activeElement);
			entry.node.remove();
		}
		let at = parent.firstElementChild;
		for (const { node } of next.values()) {
			if (node === at) at = at.nextElementSibling;
			else parent.insertBefore(node, at);
		}
		shown = next;
		if (lost) document.getElementById('main').focus({ preventScroll: true });
	};
}

// table makes a table with a caption for screen readers, and returns it and its body. On
// a narrow screen each row becomes a card with the heads beside the cells; since that
// takes the meaning from table elements, roles say it again. A dense one leaves the heads out
// there, save those of numbers.
export function table(caption, heads, dense = false) {
	const body = h('tbody', { role: 'rowgroup' });
	const node = h('table', { role: 'table', class: dense ? 'cards dense' : 'cards' },
		h('caption', { class: 'heard' }, caption),
		h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' },
			heads.map(head => h('th', { role: 'columnheader', scope: 'col', class: [head.number && 'number', head.class].filter(Boolean).join(' ') || null }, head.hidden ? h('span', { class: 'heard' }, head.text) : head.text)))),
		body);
	// row makes a row of cells: text, nodes, or a list of them.
	const row = cells => h('tr', { role: 'row' }, cells.map((cell, i) => h('td', {
		role: 'cell', 'data-head': heads[i].hidden ? null : heads[i].text,
		class: [heads[i].number && 'number', heads[i].class, (cell ?? '') === '' && 'empty'].filter(Boolean).join(' ') || null,
	}, h('span', { class: 'value' }, (cell ?? '') === '' ? '–' : cell))));
	return { node, body, row };
}

// none is what stands where there is nothing.
export function none(text, more) {
	return h('div', { class: 'none' }, h('p', {}, text), more && h('p', { class: 'dim' }, more));
}

// head is the title of a view, with what can be done beside it.
export function head(title, ...actions) {
	return h('div', { class: 'head' }, h('h1', {}, title), h('div', { class: 'actions' }, actions));
}

// address shows a client, with a link to what is known of it.
export function address(client) {
	if (!client) return '–';
	return h('a', { class: 'address', href: '#explain/' + encodeURIComponent(client.split('/')[0]), title: 'Explain ' + client }, client);
}

// pill shows a state: a colour, and the word for it.
export function pill(state, text) {
	return h('span', { class: 'pill', 'data-state': state }, text);
}
