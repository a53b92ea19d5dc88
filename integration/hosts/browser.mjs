// browser.mjs BROWSER drives a browser as its makers ship it. It reads one JSON
// object a line, does what that says, and writes one JSON object a line:
//
//	{"tab": "one", "do": "visit", "url": "http://…"}    types an address
//	{"tab": "one", "do": "reload"}                      presses reload
//	{"tab": "one", "do": "content"}                     returns the page's text
//
// The answer has "error", if the page could not be loaded, and "text". A driver's
// defaults would switch off what matters here: HTTPS first, prefetches, and the
// reload of an error page.
import { createInterface } from 'node:readline';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium, firefox } from 'playwright-core';

const dir = mkdtempSync(join(tmpdir(), 'browser-'));
process.env.HOME = dir; // not the user's own profile
const launch = {
	chromium: () => chromium.launch({
		executablePath: '/usr/bin/chromium',
		ignoreDefaultArgs: true,
		args: ['--headless', '--no-sandbox', '--no-first-run', '--remote-debugging-pipe', '--user-data-dir=' + join(dir, 'profile'), '--enable-auto-reload', 'about:blank'],
	}),
	firefox: () => firefox.launch({
		channel: 'moz-firefox', // by WebDriver BiDi, which a Firefox that nobody has patched speaks
		executablePath: '/usr/bin/firefox-esr',
		firefoxUserPrefs: { 'dom.security.https_first': true, 'network.http.speculative-parallel-limit': 20, 'network.prefetch-next': true },
	}),
}[process.argv[2]];

const browser = await launch();
const context = await browser.newContext();
const tabs = new Map();
const say = answer => process.stdout.write(JSON.stringify(answer) + '\n');
say({ text: browser.version() });
for await (const line of createInterface({ input: process.stdin })) {
	const command = JSON.parse(line);
	const answer = {};
	try {
		if (!tabs.has(command.tab)) tabs.set(command.tab, await context.newPage());
		const page = tabs.get(command.tab);
		await page.bringToFront(); // who hides a tab does not reload its error page
		switch (command.do) {
		case 'visit': await page.goto(command.url, { waitUntil: 'load', timeout: 20000 }); break;
		case 'reload': await page.reload({ waitUntil: 'load', timeout: 20000 }); break;
		case 'content': answer.text = await page.innerText('body', { timeout: 5000 }); break;
		}
	} catch (e) {
		answer.error = e.message.split('\n')[0];
	}
	say(answer);
}
await browser.close();
