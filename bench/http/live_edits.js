// live_edits.js COUNT RATE - two browsers side by side: how long from an edit in one to its appearance in the other, COUNT times, while
// others store RATE documents a second in another collection. Run by ./live.

import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';

const { BENCH_URL, BENCH_TOKEN, BENCH_JAVASCRIPT } = process.env;
const [COUNT, RATE] = process.argv.slice(2).map(Number);
const { openPage } = await import(pathToFileURL(`${BENCH_JAVASCRIPT}/test/chromium.js`));
const name = `bench/${Date.now()}`;
const quantile = (values, q) => values[Math.min(values.length - 1, Math.floor(values.length * q))];

// Others
const agent = new http.Agent({ keepAlive: true, maxSockets: 8 });
let stored = 0;

function upload(n) {
	const headers = { Authorization: `Bearer ${BENCH_TOKEN}`, 'Content-Type': 'application/json' };
	const request = http.request(`${BENCH_URL}/Docs?clientId=others&collection=bench/others`, { method: 'POST', headers, agent }, (response) => {
		response.resume().on('end', () => { stored++; });
	});

	request.on('error', () => {}).end(JSON.stringify([{ id: String(n % 1000), clientVersion: n, body: n }]));
}

function beginLoad() {
	const begun = performance.now();
	let sent = 0;

	return setInterval(() => {
		for (; sent < (performance.now() - begun) / 1000 * RATE && sent - stored < 100; sent++) upload(sent + 1);
	}, 5);
}

const browsers = [await openPage(), await openPage()];
const [one, two] = await Promise.all(browsers.map(async (browser) => {
	await browser.page.evaluate(async (options) => {
		const { Collection, indexedDbStore } = await import('/src/index.js');

		globalThis.notes = new Collection(options.name, { url: options.url, token: options.token, store: indexedDbStore('app') });
		globalThis.seen = {};
		globalThis.notes.watch(({ id, body }) => { globalThis.seen[`${id} ${body}`] ??= Date.now(); });
		await globalThis.notes.put('first', 0);
		globalThis.notes.start();
		while (!(await globalThis.notes.status()).live) await new Promise((resolve) => { setTimeout(resolve, 100); });
	}, { name, url: BENCH_URL, token: BENCH_TOKEN });
	return browser.page;
}));

const load = RATE ? beginLoad() : undefined;
const begun = performance.now();
const times = [];

for (let n = 1; n <= COUNT; n++) {
	const at = await one.evaluate((body) => {
		const now = Date.now();

		globalThis.notes.put('x', body);
		return now;
	}, n);
	const seen = await two.evaluate(async (key) => {
		while (!globalThis.seen[key]) await new Promise((resolve) => { setTimeout(resolve, 5); });
		return globalThis.seen[key];
	}, `x ${n}`);

	times.push(seen - at);
	await sleep(50 + 100 * Math.random());
}
clearInterval(load);
times.sort((a, b) => a - b);
console.log(`${COUNT} edits, with ${Math.round(stored / (performance.now() - begun) * 1000)} others stored a second: median ${quantile(times, 0.5)} ms, p95 ${quantile(times, 0.95)} ms, `
	+ `p99 ${quantile(times, 0.99)} ms, longest ${times.at(-1)} ms (of which 100 ms are the client's, which waits for further edits)`);
await Promise.all(browsers.map((browser) => browser.close()));
process.exit();
