// browser.mjs BROWSER [FLAG…] drives a browser as its makers ship it. It reads one JSON
// object a line, does what that says, and writes one JSON object a line:
//
//	{"tab": "one", "do": "visit", "url": "http://…"}    types an address
//	{"tab": "one", "do": "reload"}                      presses reload
//	{"tab": "one", "do": "content"}                     returns the page's text
//	{"tab": "one", "do": "fill", "on": "#id", "text": "…"}      types into a field
//	{"tab": "one", "do": "press", "text": "Enter"}      presses a key
//	{"tab": "one", "do": "click", "on": "#id"}          clicks an element
//	{"tab": "one", "do": "text", "on": "#id"}           returns an element's text, if it is shown
//	{"tab": "one", "do": "choose", "on": "#id", "text": "…"}    chooses an option
//	{"tab": "one", "do": "type", "text": "…"}           types where the focus is
//	{"tab": "one", "do": "tab", "on": "#id"}            presses Tab until the focus is there, and visible
//	{"tab": "one", "do": "count", "on": "tr"}           returns how many elements there are
//	{"tab": "one", "do": "address"}                     returns the address, and "title" the title
//	{"tab": "one", "do": "complaints"}                  returns what the browser has complained about in its console
//	{"tab": "one", "do": "close"}                       closes the tab
//	{"tab": "one", "do": "axe"}                         returns what axe finds, a line each
//	{"tab": "one", "do": "shot", "text": "dark", "width": 360, "url": "x.png"}   takes a picture
//
// The answer has "error", if the page could not be loaded, and "text". A driver's
// defaults would switch off what matters here: HTTPS first, prefetches, and the
// reload of an error page.
import { createInterface } from 'node:readline';
import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium, firefox } from 'playwright-core';

const dir = mkdtempSync(join(tmpdir(), 'browser-'));
process.env.HOME = dir; // not the user's own profile
const launch = {
	chromium: () => chromium.launch({
		executablePath: '/usr/bin/chromium',
		ignoreDefaultArgs: true,
		args: ['--headless', '--no-sandbox', '--no-first-run', '--remote-debugging-pipe', '--user-data-dir=' + join(dir, 'profile'), '--enable-auto-reload', ...process.argv.slice(3), 'about:blank'],
	}),
	firefox: () => firefox.launch({
		channel: 'moz-firefox', // by WebDriver BiDi, which a Firefox that nobody has patched speaks
		executablePath: '/usr/bin/firefox-esr',
		firefoxUserPrefs: { 'dom.security.https_first': true, 'network.http.speculative-parallel-limit': 20, 'network.prefetch-next': true },
	}),
}[process.argv[2]];

// axe runs the rules of axe-core by the driver, which the page's policy does not
// bind.
const rules = readFileSync(new URL('node_modules/axe-core/axe.min.js', import.meta.url), 'utf8');
const axe = async page => {
	await page.evaluate(rules);
	const found = await page.evaluate(() => axe.run());
	if (found.passes.length === 0) throw new Error('axe looked at nothing');
	return found.violations.map(v => `${v.id}: ${v.help}: ${v.nodes.map(n => n.html).join(' ')}`).join('\n');
};

// tabTo fails if the keyboard does not get there, or nobody sees that it did.
const tabTo = async (page, selector) => {
	for (let i = 0; i < 200; i++) {
		await page.keyboard.press('Tab');
		const at = await page.evaluate(selector => {
			const e = document.activeElement;
			if (!e?.matches(selector)) return null;
			const seen = [getComputedStyle(e), getComputedStyle(e, '::after')].some(s => s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 1);
			const box = e.getBoundingClientRect();
			return { seen, inside: box.bottom > 0 && box.top < innerHeight };
		}, selector);
		if (at && !(at.seen && at.inside)) throw new Error(`the focus on ${selector} is not visible`);
		if (at) return;
	}
	throw new Error(`no way to ${selector} by Tab`);
};

const browser = await launch();
const context = await browser.newContext({ ignoreHTTPSErrors: true }); // the tests' certificates are nobody's
const tabs = new Map(), complaints = new Map();
const say = answer => process.stdout.write(JSON.stringify(answer) + '\n');
say({ text: browser.version() });
for await (const line of createInterface({ input: process.stdin })) {
	const command = JSON.parse(line);
	const answer = {};
	try {
		if (!tabs.has(command.tab)) {
			const page = await context.newPage(), found = [];
			page.on('pageerror', e => found.push(e.stack || e.message));
			page.on('console', m => { if (['error', 'warning'].includes(m.type()) && !m.text().startsWith('Failed to load resource')) found.push(m.text()); });
			tabs.set(command.tab, page);
			complaints.set(command.tab, found);
		}
		const page = tabs.get(command.tab);
		await page.bringToFront(); // who hides a tab does not reload its error page
		switch (command.do) {
		case 'visit': await page.goto(command.url, { waitUntil: 'load', timeout: 20000 }); break;
		case 'reload': await page.reload({ waitUntil: 'load', timeout: 20000 }); break;
		case 'fill': await page.fill(command.on, command.text, { timeout: 5000 }); break;
		case 'press': await page.keyboard.press(command.text); break;
		case 'click': await page.click(command.on, { timeout: 5000 }); break;
		case 'text': answer.text = await page.isVisible(command.on) ? await page.textContent(command.on) : ''; break;
		case 'choose': await page.selectOption(command.on, { label: command.text }, { timeout: 5000 }); break;
		case 'type': await page.keyboard.type(command.text); break;
		case 'tab': await tabTo(page, command.on); break;
		case 'count': answer.text = String(await page.locator(command.on).count()); break;
		case 'address': answer.text = page.url(); break;
		case 'title': answer.text = await page.title(); break;
		case 'complaints': answer.text = complaints.get(command.tab).join('\n'); break;
		case 'close': await page.close(); tabs.delete(command.tab); break;
		case 'axe': answer.text = await axe(page); break;
		case 'shot':
			await page.emulateMedia({ colorScheme: command.text });
			await page.setViewportSize({ width: command.width, height: 740 });
			await page.screenshot({ path: command.url, fullPage: true });
			if (await page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth)) throw new Error('the page is wider than the window');
			break;
		case 'content': answer.text = await page.innerText('body', { timeout: 5000 }); break;
		}
	} catch (e) {
		answer.error = e.message.split('\n')[0];
	}
	say(answer);
}
await browser.close();
