
'use strict';
// One page that knocks. It talks to nobody but the servers of the knock.
(() => {
	const data = JSON.parse(document.getElementById('data').textContent);
	const el = id => document.getElementById(id);
	const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
	const period = 30;
	let open = null; // {steps, key}: what the passphrase has unlocked
	let idle, countdown;

	const say = text => { el('status').textContent = text; };

	// unseal returns what a key of the passphrase sealed.
	const unseal = async (key, box) => JSON.parse(new TextDecoder().decode(
		await crypto.subtle.decrypt({name: 'AES-GCM', iv: bytes(box.iv)}, key, bytes(box.data))));

	// unlock derives two keys from the passphrase: one for the steps, one for
	// the secret. No key can be read out again.
	const unlock = async passphrase => {
		const material = await crypto.subtle.importKey('raw', new TextEncoder().encode(passphrase), 'PBKDF2', false, ['deriveBits']);
		const bits = new Uint8Array(await crypto.subtle.deriveBits(
			{name: 'PBKDF2', hash: 'SHA-256', salt: bytes(data.salt), iterations: data.iterations}, material, 512));
		const aes = part => crypto.subtle.importKey('raw', part, 'AES-GCM', false, ['decrypt']);
		const stepsKey = await aes(bits.slice(0, 32));
		const steps = await unseal(stepsKey, data.steps);
		let key = null;
		if (data.secret) {
			const secret = bytes(await unseal(await aes(bits.slice(32)), data.secret));
			key = await crypto.subtle.importKey('raw', secret, {name: 'HMAC', hash: 'SHA-1'}, false, ['sign']);
			secret.fill(0);
		}
		bits.fill(0);
		return {steps, key, stepsKey};
	};

	// Keys that are kept lie in this browser's database, by the page's salt.
	const store = mode => new Promise((resolve, reject) => {
		const request = indexedDB.open('webknock', 1);
		request.onupgradeneeded = () => request.result.createObjectStore('keys');
		request.onerror = () => reject(request.error);
		request.onsuccess = () => resolve(request.result.transaction('keys', mode).objectStore('keys'));
	});
	const done = request => new Promise((resolve, reject) => {
		request.onsuccess = () => resolve(request.result);
		request.onerror = () => reject(request.error);
	});
	const remember = async o => { if (data.keep) await done((await store('readwrite')).put({key: o.key, stepsKey: o.stepsKey}, data.salt)); };
	const recall = async () => {
		const kept = data.keep && await done((await store('readonly')).get(data.salt));
		return kept ? {key: kept.key, steps: await unseal(kept.stepsKey, data.steps)} : null;
	};
	const forget = async () => { if (data.keep) await done((await store('readwrite')).delete(data.salt)); };

	// code is the TOTP code of a counter (RFC 6238, HMAC-SHA-1, 6 digits).
	const code = async (key, counter) => {
		const message = new DataView(new ArrayBuffer(8));
		message.setUint32(0, Math.floor(counter / 2 ** 32));
		message.setUint32(4, counter >>> 0);
		const mac = new DataView(await crypto.subtle.sign('HMAC', key, message));
		const at = mac.getUint8(mac.byteLength - 1) & 15;
		return String((mac.getUint32(at) & 0x7fffffff) % 1e6).padStart(6, '0');
	};
	const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

	// nextCode returns a code that was not used before, and waits for it if need be.
	const nextCode = async key => {
		for (;;) {
			const now = Math.floor(Date.now() / 1000 / period);
			let last = nextCode.last || 0;
			try { last = Math.max(last, Number(localStorage.getItem('webknock ' + data.salt)) || 0); } catch { }
			const next = last >= now && last <= now + 1 ? last + 1 : now;
			if (next <= now + 1) {
				nextCode.last = next;
				try { localStorage.setItem('webknock ' + data.salt, next); } catch { }
				return code(key, next);
			}
			const wait = Math.ceil((next - 1) * period - Date.now() / 1000);
			say(`The next code counts in ${wait} s.`);
			await sleep(1000);
		}
	};

	// request makes one knock. A reset, silence and an answer look alike here: the
	// promise of fetch is rejected for a reset, and for a name that has no address
	// too, and a page cannot tell them apart.
	const request = async (server, step, path) => {
		const query = new URLSearchParams(step.query || {}).toString();
		const limit = AbortSignal.timeout(5000);
		try {
			await fetch(server + path + (query && '?' + query), {
				method: step.method || 'GET', mode: 'no-cors', cache: 'no-store', credentials: 'omit', keepalive: true, signal: limit,
			});
			return 'answered';
		} catch {
			return limit.aborted ? 'silence' : 'reset';
		}
	};

	const encode = path => path.split('/').map(encodeURIComponent).join('/');

	const knock = async ({steps, key}) => {
		const codes = [];
		for (const step of steps) {
			codes.push(step.path.includes('{totp}') ? await nextCode(key) : '');
		}
		await Promise.all(data.servers.map(async server => {
			for (const [i, step] of steps.entries()) {
				if (i > 0 && data.gap) await sleep(data.gap);
				await request(server, step, encode(step.path.replace('{totp}', () => codes[i])));
			}
		}));
	};

	// answers waits until the URL to poll answers.
	const answers = async () => {
		for (const end = Date.now() + 10000; Date.now() < end; await sleep(250)) {
			try {
				await fetch(data.poll, {mode: 'no-cors', cache: 'no-store', credentials: 'omit', signal: AbortSignal.timeout(2000)});
				return true;
			} catch { }
		}
		return false;
	};

	const count = () => {
		clearInterval(countdown);
		const end = Date.now() + data.ttl * 1000;
		const show = () => {
			const left = Math.ceil((end - Date.now()) / 1000);
			el('left').textContent = left > 0 ? `${Math.floor(left / 60)}:${String(left % 60).padStart(2, '0')}` : '';
			if (left <= 0) {
				clearInterval(countdown);
				say('The time is over. Running sessions may go on.');
			}
		};
		show();
		countdown = setInterval(show, 250);
	};

	const go = async () => {
		el('go').disabled = true;
		say('Knocking…');
		try {
			if (navigator.onLine === false) {
				say('This device is offline.');
				return;
			}
			await knock(open);
			if (!data.poll) {
				say(`Knocked. If it was right, ${data.door} is open now; no browser can tell.`);
			} else if (await answers()) {
				say(`${data.door} is open.`);
			} else {
				say(`Knocked, and ${data.door} does not answer. Is the clock right? Is the network?`);
				return;
			}
			count();
		} catch (e) {
			say('That did not work: ' + e.message);
		} finally {
			el('go').disabled = false;
			stir();
		}
	};

	const stir = () => {
		clearTimeout(idle);
		if (open && data.lock > 0) idle = setTimeout(() => lock('Locked after a while without use.'), data.lock * 1000);
	};
	const show = () => {
		el('unlock').hidden = open !== null;
		el('knock').hidden = open === null;
		(open ? el('go') : el('passphrase')).focus();
	};
	const lock = text => {
		open = null;
		clearTimeout(idle);
		clearInterval(countdown);
		el('left').textContent = '';
		say(text);
		show();
	};

	el('unlock').addEventListener('submit', async event => {
		event.preventDefault();
		say('Unlocking…');
		try {
			open = await unlock(el('passphrase').value);
			el('passphrase').value = '';
			await remember(open);
			say(`Ready to open ${data.door}.`);
		} catch (e) {
			say(e.name === 'OperationError' ? 'That is not the passphrase.' : 'That did not work: ' + e.message);
		}
		show();
		stir();
	});
	el('go').addEventListener('click', go);
	el('lock').addEventListener('click', async () => { await forget().catch(() => {}); lock('Locked.'); });
	for (const event of ['pointerdown', 'keydown']) addEventListener(event, stir);

	if (!globalThis.crypto?.subtle) {
		say('This browser makes no codes here: open the page as a file, or by https.');
		el('unlock').hidden = true;
		return;
	}
	recall().then(kept => {
		open = kept;
		if (kept) say(`Ready to open ${data.door}.`);
		show();
		stir();
	}, show);
})();
