// The admin API, by addresses relative to the page's own.

// A Problem is an error that the daemon answers with, or that it does not answer.
export class Problem extends Error {
	constructor(status, detail, errors = []) {
		super(detail);
		this.status = status;
		this.errors = errors;
	}
}

export async function call(method, path, body) {
	let res;
	try {
		res = await fetch('v1/' + path, {
			method,
			headers: { 'X-Webknock': '1', ...(body && { 'Content-Type': 'application/json' }) },
			body: body && JSON.stringify(body),
			cache: 'no-store',
		});
	} catch {
		throw new Problem(0, 'Nothing answers: has webknock ui, or the connection by ssh, ended?');
	}
	if (!res.ok) {
		const text = await res.text();
		try {
			const p = JSON.parse(text);
			throw new Problem(res.status, p.detail || p.title, p.errors);
		} catch (e) {
			throw e instanceof Problem ? e : new Problem(res.status, text.trim() || res.statusText);
		}
	}
	const date = res.headers.get('Date');
	return { value: res.status === 204 ? null : await res.json(), date };
}

export const get = async path => (await call('GET', path)).value;

// query writes parameters, without those that are empty.
export function query(path, parameters) {
	const q = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value));
	return q.size ? path + '?' + q : path;
}
