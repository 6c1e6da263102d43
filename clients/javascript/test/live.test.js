// start() hears of changes, where the service says so; and does without, where it doesn't, or not any more. First with a service that is
// made up, then with a gateway, which test/t/073_live_clients.pl starts.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import test from 'node:test';
import { Collection, Collections, memoryStore } from '../src/index.js';
import { openPage } from './chromium.js';
import { TOKEN, URL_OF_SERVICE, anyName, open, pause, until } from './service.js';

const needsLive = { skip: process.env.DOCSYNC_LIVE ? false : 'DOCSYNC_LIVE is not given' };
const SECOND = 1000;

/** A service with one stream at a time, `stream', and the documents that it has; `asked' counts downloads. */
async function makeUp(t) {
	const service = { documents: [], asked: 0, opened: [], stream: null, refuse: null };
	const sockets = new Set();
	const server = createServer((request, response) => {
		if (request.url.startsWith('/Docs/Live')) {
			service.opened.push({ url: request.url, token: request.headers.authorization });
			if (service.refuse) {
				response.writeHead(...service.refuse).end('{}');
				return;
			}
			response.writeHead(200, { 'Content-Type': 'text/event-stream' });
			service.stream = response;
			return;
		}
		service.asked++;
		const all = service.documents.map((id, i) => ({ id, clientVersion: 1, clientId: 'other', LastUpdateUtc: stamp(i), deleted: false, body: 1 }));

		response.end(JSON.stringify({ documents: all, cursor: String(all.length), more: false, results: [], serverUtc: stamp(0) }));
	});

	server.on('connection', (socket) => sockets.add(socket.on('close', () => sockets.delete(socket))));
	await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
	t.after(() => {
		for (const socket of sockets) socket.destroy();
		server.close();
	});
	return Object.assign(service, {
		url: `http://127.0.0.1:${server.address().port}`,
		say: (event, data) => service.stream.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`),
		break: () => { for (const socket of sockets) socket.destroy(); },
	});
}

const stamp = (n) => `2026-11-28T12:00:00.${String(n).padStart(6, '0')}Z`;

async function start(t, service, options = {}) {
	const notes = new Collection('a b', { url: service.url, store: memoryStore(), random: () => 0.5, ...options });

	notes.start();
	t.after(() => notes.close());
	await until(() => service.asked > 0);
	return notes;
}

async function startLive(t, service, options) {
	const notes = await start(t, service, options);

	await until(() => service.stream);
	service.say('listening', { collections: ['a b'] });
	await until(async () => (await notes.status()).live);
	await settled(service);
	return notes;
}

/** Until nothing is asked any more; returns how often something was. */
async function settled(service) {
	for (let before = -1; before !== service.asked; await pause(150)) before = service.asked;
	return service.asked;
}

test('it asks when a stream begins, and when it is told to', async (t) => {
	const service = await makeUp(t);
	const notes = await startLive(t, service, { token: 'secret' });

	assert.deepEqual(service.opened, [{ url: '/Docs/Live?collection=a%20b', token: 'Bearer secret' }], 'the token is in a header');
	service.documents.push('x');
	const before = service.asked;

	service.say('changed', { collection: 'a b', through: stamp(0), wait: 0 });
	await until(async () => await notes.get('x') === 1);
	assert.equal(await settled(service), before + 1);
	service.say('changed', { collection: 'a b', through: stamp(0), wait: 0 });
	assert.equal(await settled(service), before + 1, 'what it has already it isn\'t told again');
	service.say('changed', { collection: null, through: null, wait: 0 });
	assert.equal(await settled(service), before + 2, 'any collection');
	service.say('changed', { collection: 'of nobody', through: stamp(9), wait: 0 });
	assert.equal(await settled(service), before + 2);
});

test('it waits at random, if it shall', async (t) => {
	const service = await makeUp(t);
	const notes = await startLive(t, service);
	const begun = performance.now();

	service.documents.push('x');
	service.say('changed', { collection: 'a b', through: stamp(0), wait: 1000 });
	await until(async () => await notes.get('x') === 1);
	assert(performance.now() - begun > 450, 'half of it');
});

test('a server that lags is asked again', async (t) => {
	const service = await makeUp(t);
	const notes = await startLive(t, service);
	const before = service.asked;

	service.say('changed', { collection: 'a b', through: stamp(1), wait: 0 });
	await settled(service);
	assert.equal(service.asked, before + 1);
	service.documents.push('x', 'y');
	await until(async () => await notes.get('y') === 1, 3 * SECOND);
	await pause(2 * SECOND);
	assert.equal(service.asked, before + 2, '... until it has what was announced');
	service.say('changed', { collection: 'a b', through: stamp(5), wait: 0 });
	await pause(6 * SECOND);
	assert.equal(service.asked, before + 5, '... but not for ever');
});

test('polls are seldom while it is told, and frequent again when it isn\'t', async (t) => {
	const service = await makeUp(t);
	const notes = await startLive(t, service, { every: SECOND });
	const before = service.asked;

	await pause(3.5 * SECOND);
	assert.equal(service.asked, before, 'nothing in three seconds');
	service.say('listening', { collections: [] });
	await until(async () => !(await notes.status()).live);
	await settled(service);
	const since = service.asked;

	await pause(3.5 * SECOND);
	assert(service.asked >= since + 2, 'of a collection that isn\'t heard');
	service.say('listening', { collections: ['a b'] });
	await until(async () => (await notes.status()).live);
	service.refuse = [503, { 'Retry-After': '100' }];
	service.break();
	await until(async () => !(await notes.status()).live);
	const lost = service.asked;

	await pause(3.5 * SECOND);
	assert(service.asked >= lost + 2, 'without a stream');
	assert.equal(service.opened.length, 2, '... which is not tried before the service\'s Retry-After');
});

test('a stream that breaks is opened again, and nothing is missed', async (t) => {
	const service = await makeUp(t);
	const notes = await startLive(t, service);

	service.break();
	await until(async () => !(await notes.status()).live);
	service.documents.push('x');
	await until(() => service.opened.length === 2);
	service.say('listening', { collections: ['a b'] });
	await until(async () => await notes.get('x') === 1, 2 * SECOND);
});

for (const [how, cut] of [['ends', (service) => service.stream.end()], ['breaks', (service) => service.break()]]) {
	test(`streams that something ${how} at once are opened later and later`, async (t) => {
		const service = await makeUp(t);
		const notes = await start(t, service);
		const begun = performance.now();

		for (let n = 1; n <= 3; n++) {
			await until(() => service.opened.length === n && service.stream && !service.stream.destroyed, 5 * SECOND);
			service.say('listening', { collections: ['a b'] });
			await until(async () => (await notes.status()).live);
			cut(service);
			await until(async () => !(await notes.status()).live);
		}
		assert(performance.now() - begun > 2.9 * SECOND, 'after one second, and two');
		await pause(3 * SECOND);
		assert.equal(service.opened.length, 3, '... and four');
	});
}

test('a stream that breaks is opened again when the service said', async (t) => {
	const service = await makeUp(t);
	const notes = await start(t, service);

	await until(() => service.stream);
	service.stream.write('retry: 2500\n\n');
	service.say('listening', { collections: ['a b'] });
	await until(async () => (await notes.status()).live);
	service.break();
	await pause(2 * SECOND);
	assert.equal(service.opened.length, 1);
	await until(() => service.opened.length === 2, 2 * SECOND);
});

test('a Retry-After that is longer than timers can be is a wait, too', async (t) => {
	const service = Object.assign(await makeUp(t), { refuse: [503, { 'Retry-After': '3000000' }] });

	await start(t, service);
	await pause(SECOND);
	assert.equal(service.opened.length, 1);
});

test('when its token ends it gets another', async (t) => {
	const service = await makeUp(t);
	const tokens = [];

	await startLive(t, service, { token: ({ refused }) => tokens.push(refused) && (refused ? 'new' : 'old') });
	service.stream.end('retry: 100\n\nevent: end\ndata: {"reason":"token"}\n\n');
	await until(() => service.opened.length === 2);
	assert.deepEqual(service.opened.map(({ token }) => token), ['Bearer old', 'Bearer new']);
});

for (const [what, refuse] of [['404', [404]], ['405', [405]], ['a captive portal', [200, { 'Content-Type': 'text/html' }]]]) {
	test(`a service without: ${what}`, async (t) => {
		const service = Object.assign(await makeUp(t), { refuse });
		const notes = await start(t, service, { every: SECOND });

		service.documents.push('x');
		await until(async () => await notes.get('x') === 1, 2 * SECOND);
		await pause(2 * SECOND);
		assert.equal(service.opened.length, 1, 'it is asked for once');
	});
}

test('it isn\'t asked for a stream if the app wants none, nor after stop()', async (t) => {
	const service = await makeUp(t);

	await start(t, service, { live: false });
	await pause(300);
	assert.equal(service.opened.length, 0);
	const notes = await startLive(t, service);

	notes.stop();
	await until(() => service.stream.destroyed);
	assert.equal((await notes.status()).live, false);
});

test('who hears nothing of a collection listens anew when it has a document', async (t) => {
	const service = await makeUp(t);
	const notes = await start(t, service, { every: SECOND });

	await until(() => service.stream);
	service.say('listening', { collections: [] });
	await pause(2 * SECOND);
	assert.equal(service.opened.length, 1, 'not before');
	service.documents.push('x');
	await until(() => service.opened.length === 2, 5 * SECOND);
	service.say('listening', { collections: ['a b'] });
	await until(async () => (await notes.status()).live);
});

test('several collections have one stream', async (t) => {
	const service = await makeUp(t);
	const all = new Collections(['b', 'a'], { url: service.url, store: memoryStore() });

	all.start();
	t.after(() => all.close());
	await until(() => service.stream);
	service.say('listening', { collections: ['a'] });
	await pause(100);
	assert.equal((await all.get('a').status()).live, false, 'not all are heard');
	service.say('listening', { collections: ['a', 'b'] });
	await until(async () => (await all.get('a').status()).live && (await all.get('b').status()).live);
	assert.deepEqual(service.opened.map(({ url }) => url), ['/Docs/Live?collection=b&collection=a']);
});

test('of more collections than a stream can have, it hears of the first, and polls', async (t) => {
	const service = await makeUp(t);
	const names = Array.from({ length: 61 }, (_, n) => `c${n}`);
	const all = new Collections(names, { url: service.url, store: memoryStore() });

	all.start();
	t.after(() => all.close());
	await until(() => service.stream);
	assert.equal(service.opened[0].url.match(/collection=/g).length, 60);
	service.say('listening', { collections: names.slice(0, 60) });
	const before = await settled(service);

	service.say('changed', { collection: 'c0', through: null, wait: 0 });
	await until(() => service.asked > before);
	assert.equal((await all.get('c0').status()).live, false);
});

test('with a gateway: two clients, and what was edited while one was away', needsLive, async (t) => {
	const name = anyName();
	const [one, other] = [open(name), open(name)];

	t.after(() => Promise.all([one.close(), other.close()]));
	await one.put('first', 0);
	await one.sync();
	for (const client of [one, other]) client.start();
	for (const client of [one, other]) await until(async () => (await client.status()).live);
	for (let n = 1; n <= 5; n++) {
		const begun = performance.now();

		await one.put('x', n);
		await until(async () => await other.get('x') === n, 10 * SECOND);
		t.diagnostic(`${Math.round(performance.now() - begun)} ms`);
	}
	other.stop();
	await one.put('y', 1);
	await one.sync();
	other.start();
	await until(async () => await other.get('y') === 1, 10 * SECOND);
});

test('with a gateway: a token function, and one that has expired', needsLive, async (t) => {
	const name = anyName();
	const one = open(name, { token: ({ refused }) => refused ? TOKEN : process.env.DOCSYNC_EXPIRED_TOKEN });

	await one.put('x', 1);
	await one.sync();
	one.start();
	t.after(() => one.close());
	await until(async () => (await one.status()).live);
});

/** A tab with a collection `notes` that has started; `seen` has what its watcher was told last of each document. */
async function startIn(browser, name) {
	const page = await browser.open();

	await page.evaluate(async (options) => {
		const { Collection: Notes, indexedDbStore } = await import('/src/index.js');

		globalThis.notes = new Notes(options.name, { url: options.url, token: options.token, store: indexedDbStore('app') });
		await globalThis.notes.put('first', 0);
		globalThis.seen = {};
		globalThis.notes.watch(({ id, body }) => { globalThis.seen[id] = body; });
		globalThis.notes.start();
	}, { name, url: URL_OF_SERVICE, token: TOKEN });
	return page;
}

test('with a gateway: two browsers side by side, an edit in one appears in the other', needsLive, async (t) => {
	const name = anyName();
	const browsers = [await openPage(), await openPage()];
	const pages = [];

	t.after(() => Promise.all(browsers.map((browser) => browser.close())));
	for (const browser of browsers) pages.push(await startIn(browser, name));
	for (const page of pages) await until(() => page.evaluate(async () => (await globalThis.notes.status()).live), 70 * SECOND);
	for (let n = 1; n <= 5; n++) {
		const begun = performance.now();

		await pages[0].evaluate((body) => globalThis.notes.put('x', body), n);
		await until(() => pages[1].evaluate((body) => globalThis.seen.x === body, n), 10 * SECOND);		// a poll would come after 48 seconds or more
		t.diagnostic(`${Math.round(performance.now() - begun)} ms`);
	}
});

test('with a gateway: many tabs with a collection each leave connections for requests', needsLive, async (t) => {
	const browser = await openPage();
	const pages = [];

	t.after(() => browser.close());
	for (let n = 0; n < 7; n++) pages.push(await startIn(browser, anyName()));
	for (const page of pages) {
		await page.evaluate(() => globalThis.notes.put('second', 0));
		await until(() => page.evaluate(async () => (await globalThis.notes.status()).unsent === 0), 10 * SECOND);
	}
	const live = await Promise.all(pages.map((page) => page.evaluate(async () => (await globalThis.notes.status()).live)));

	t.diagnostic(`${live.filter((one) => one).length} are live`);
	await pages[live.indexOf(true)].evaluate(() => globalThis.notes.stop());
	await pages[live.indexOf(false)].evaluate(() => { globalThis.notes.stop(); globalThis.notes.start(); });
	await until(() => pages[live.indexOf(false)].evaluate(async () => (await globalThis.notes.status()).live), 70 * SECOND);
});
