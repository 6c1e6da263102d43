// In Chromium: the store in IndexedDB, tabs side by side, a disk that is full, a page that is loaded anew, the network switched off.

import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';
import { contract } from './contract.js';
import { openPage } from './chromium.js';
import { BadLine, EXPIRED_TOKEN, TOKEN, URL_OF_SERVICE, anyName, contentOf, needsService, open, until } from './service.js';

/** @type {Awaited<ReturnType<typeof openPage>>} */
let browser;

before(async () => { browser = await openPage(); });
after(() => browser.close());

for (const name of Object.keys(contract)) {
	test(`IndexedDB: ${name}`, async () => {
		await browser.page.evaluate(async (which) => {
			const { contract: plays } = await import('/test/contract.js');
			const { indexedDbStore } = await import('/src/index.js');

			await plays[which](indexedDbStore(`contract: ${which}`), (is, what) => {
				if (!is) throw new Error(what);
			});
		}, name);
	});
}

/** A tab with a collection, as globalThis.notes, whose changes and states are noted in globalThis.seen and globalThis.states. */
async function tab(name, { app = name, start = false, of = browser, url = URL_OF_SERVICE } = {}) {
	const page = await of.open();

	await page.evaluate(async (options) => {
		const { Collection, indexedDbStore } = await import('/src/index.js');

		globalThis.store = indexedDbStore(options.app);
		globalThis.token = options.token;
		globalThis.notes = new Collection(options.name, {
			url: options.url, token: () => globalThis.token, store: globalThis.store, clock: () => Date.now() + (globalThis.ahead ?? 0),
		});
		globalThis.seen = [];
		globalThis.states = [];
		globalThis.notes.watch(({ id, body, unsent }) => globalThis.seen.push(`${id} ${body} ${unsent}`));
		globalThis.notes.watchStatus(({ unsent, error }) => globalThis.states.push(`${unsent} ${error?.name}`));
		if (options.start) globalThis.notes.start();
	}, { name, app, start, url, token: TOKEN });
	return page;
}

const unsentIds = (page) => page.evaluate(async () => (await globalThis.notes.unsent()).map(({ id }) => id));
const put = (page, ...args) => page.evaluate((what) => globalThis.notes.put(...what), args);
const get = (page, id) => page.evaluate((which) => globalThis.notes.get(which), id);
const last = (page, id) => page.evaluate((which) => globalThis.seen.filter((text) => text.startsWith(`${which} `)).at(-1), id);

test('a page that is loaded anew has what it had, and what was unsent', needsService, async () => {
	const name = anyName();
	const page = await tab(name);

	await put(page, 'x', 1);
	const { clientId } = await page.evaluate(() => globalThis.notes.status());

	await page.close();
	const again = await tab(name);

	assert.equal(await get(again, 'x'), 1);
	assert.deepEqual(await unsentIds(again), ['x']);
	assert.equal((await again.evaluate(() => globalThis.notes.status())).clientId, clientId);
	await again.evaluate(() => globalThis.notes.sync());
	assert.deepEqual(await unsentIds(again), []);
	await again.close();
});

test('two tabs: one synchronises, both show the same, and the other takes over', needsService, async () => {
	const name = anyName();
	const tabs = [await tab(name, { start: true }), await tab(name, { start: true })];
	const requests = [[], []];

	for (const [i, page] of tabs.entries()) page.on('request', (request) => requests[i].push(request.url()));
	await put(tabs[1], 'x', 1);
	for (const page of tabs) await until(async () => await last(page, 'x') === 'x 1 false');
	await put(tabs[0], 'x', 2);
	for (const page of tabs) await until(async () => await last(page, 'x') === 'x 2 false');
	assert(requests[0].length > 0 && requests[1].length === 0, 'the first tab does the work');
	await tabs[0].close();
	await put(tabs[1], 'y', 3);
	await until(async () => !(await unsentIds(tabs[1])).length);
	assert(requests[1].length > 0, 'then the other');
	const other = open(name);

	await other.sync();
	assert.deepEqual([await other.get('x'), await other.get('y')], [2, 3]);
	await tabs[1].close();
});

test('tabs that edit and synchronise at once', needsService, async () => {
	const name = anyName();
	const tabs = [await tab(name), await tab(name)];

	await Promise.all(tabs.map((page, i) => page.evaluate(async (which) => {
		for (let n = 0; n < 20; n++) {
			await globalThis.notes.put(`of ${which} ${n}`, n);
			await globalThis.notes.put('shared', `${which} ${n}`);
			await globalThis.notes.sync();
		}
	}, i)));
	const other = open(name);

	await other.sync();
	assert.equal((await other.list()).length, 41);
	assert.deepEqual(await unsentIds(tabs[0]), []);
	assert.equal((await tabs[0].evaluate(() => globalThis.notes.status())).twin, null);
	for (const page of tabs) await page.close();
});

test('a tab shows what became of a sync of another, one that was opened before and one that was opened later', needsService, async () => {
	const name = anyName();
	const working = await tab(name);
	const before = await tab(name);
	const status = (page) => page.evaluate(async () => {
		const { syncedAt, error } = await globalThis.notes.status();

		return { syncedAt, error: error?.name ?? null, retry: error?.retry ?? null };
	});

	await working.evaluate(() => globalThis.notes.sync());
	const { syncedAt } = await status(working);
	const later = await tab(name);

	for (const page of [before, later]) await until(async () => (await status(page)).syncedAt === syncedAt, 2000);
	await browser.context.setOffline(true);
	await working.evaluate(() => globalThis.notes.sync().catch(() => {}));
	for (const page of [before, later]) {
		await until(async () => (await status(page)).error === 'NoAnswer', 2000);
		assert.deepEqual(await status(page), await status(working));
		assert.equal(await page.evaluate(() => globalThis.states.at(-1)), '0 NoAnswer');
	}
	await browser.context.setOffline(false);
	await later.evaluate(() => globalThis.notes.sync());
	await until(async () => (await status(working)).error === null, 2000);
	for (const page of [working, before, later]) await page.close();
});

test('several collections in two tabs: one request for all, by one of the tabs', needsService, async () => {
	const names = [anyName(), anyName()];
	const tabs = [await browser.open(), await browser.open()];
	const requests = [[], []];

	for (const [i, page] of tabs.entries()) {
		await page.evaluate(async (options) => {
			const { Collections, indexedDbStore } = await import('/src/index.js');

			globalThis.all = new Collections(options.names, { url: options.url, token: options.token, store: indexedDbStore(options.names[0]) });
			globalThis.all.start();
		}, { names, url: URL_OF_SERVICE, token: TOKEN });
		page.on('request', (request) => { if (request.method() === 'POST') requests[i].push(request.postData()); });
	}
	const unsent = (page) => page.evaluate(async (both) => (await Promise.all(both.map((name) => globalThis.all.get(name).unsent()))).flat().length, names);

	await Promise.all(names.map((name) => tabs[1].evaluate((which) => globalThis.all.get(which).put('x', 1), name)));
	for (const page of tabs) await until(async () => await unsent(page) === 0);
	assert(requests[0].some((body) => names.every((name) => body.includes(name))), 'one request');
	assert.deepEqual(requests[1], []);
	// And by hand, from both at once
	await Promise.all(tabs.map((page, i) => page.evaluate(async ([both, which]) => {
		for (let n = 0; n < 5; n++) {
			for (const name of both) await globalThis.all.get(name).put(`of ${which} ${n}`, n);
			await globalThis.all.sync();
		}
	}, [names, i])));
	const other = open(names[1]);

	await other.sync();
	assert.equal((await other.list()).length, 11);
	for (const page of tabs) await page.close();
});

test('offline and online again', needsService, async () => {
	const name = anyName();
	const page = await tab(name, { start: true });

	await put(page, 'x', 1);
	await until(async () => !(await unsentIds(page)).length);
	await browser.context.setOffline(true);
	await put(page, 'y', 2);
	await until(() => page.evaluate(() => globalThis.states.at(-1) === '1 NoAnswer'));
	assert.deepEqual(await unsentIds(page), ['y']);
	await browser.context.setOffline(false);
	await until(async () => !(await unsentIds(page)).length, 3000);
	await page.close();
});

test('a disk that is full: an edit is refused, the rest stays and is sent', needsService, async (t) => {
	const name = anyName();
	// Of its own, and limited before a store is opened: Chromium looks at the limit now and then only.
	const small = await openPage();
	const session = await small.context.newCDPSession(small.page);

	t.after(() => small.close());
	await session.send('Storage.overrideQuotaForOrigin', { origin: new URL(small.page.url()).origin, quotaSize: 4_000_000 });
	const page = await tab(name, { of: small });

	await put(page, 'x', 1);
	const error = await page.evaluate(() => globalThis.notes.put('y', Array.from({ length: 1_000_000 },
		() => Math.random().toString(36).slice(2)).join()).then(() => null, ({ name: which }) => which));

	assert.equal(error, 'QuotaExceededError');
	assert.deepEqual([await get(page, 'x'), await get(page, 'y') ?? null], [1, null]);
	assert.deepEqual(await unsentIds(page), ['x']);
	await page.evaluate(() => globalThis.notes.sync());
	assert.deepEqual(await unsentIds(page), []);
});

test('what others have changed does not fit any more: what is here is sent, and it comes when there is room', needsService, async (t) => {
	const name = anyName();
	const other = open(name);
	const small = await openPage();

	t.after(() => small.close());
	const session = await small.context.newCDPSession(small.page);
	const { origin } = new URL(small.page.url());

	const large = () => Array.from({ length: 50_000 }, () => Math.random().toString(36).slice(2)).join();		// no store makes that small

	await other.putAll(Array.from({ length: 12 }, (_, n) => [`large ${n}`, large()]));
	await other.sync();
	await session.send('Storage.overrideQuotaForOrigin', { origin, quotaSize: 4_000_000 });
	const page = await tab(name, { of: small });

	await put(page, 'x', 1);
	assert.equal(await page.evaluate(() => globalThis.notes.sync().then(() => null, ({ name: which }) => which)), 'QuotaExceededError');
	assert.deepEqual([await unsentIds(page), await get(page, 'large 0') ?? null], [[], null]);
	await until(() => page.evaluate(() => globalThis.states.at(-1) === '0 QuotaExceededError'));
	await session.send('Storage.overrideQuotaForOrigin', { origin });
	// Chromium looks at the limit now and then only.
	await until(() => page.evaluate(() => globalThis.notes.sync().then(() => true, () => false)), 60_000);
	assert.equal((await page.evaluate(() => globalThis.notes.list())).length, 13);
});

test('a bad line: the page goes on, what is unsent is shown, and is sent later', needsService, async (t) => {
	const name = anyName();
	const line = await BadLine.start();
	const page = await tab(name, { url: line.url });

	t.after(() => Promise.all([page.close(), line.down()]));
	const error = () => page.evaluate(() => globalThis.notes.sync().then(() => null, (which) => which.name + (which.status ?? '')));
	const cors = { 'Access-Control-Allow-Origin': '*' };
	const portal = { status: 200, headers: { 'Content-Type': 'text/html' }, body: '<!doctype html><title>Welcome to the hotel</title>' };
	const faults = {
		'the page of a captive portal': [() => portal, 'BadAnswer'],
		'which redirects to it': [({ path }) => path === '/login' ? portal : { status: 302, headers: { Location: `${line.url}/login` } }, 'BadAnswer'],
		"JSON of somebody else's": [() => ({ status: 200, body: '{"welcome": true}' }), 'BadAnswer'],
		'an answer that is cut off': [() => 'cut', 'NoAnswer'],
		'one that is lost': [() => 'lost', 'NoAnswer'],
		'a service that is overloaded': [() => ({ status: 503, headers: cors, body: '' }), 'Refused503'],
		'a token that expires in the midst': [({ path }) => path.startsWith('/Docs/Pull') ? { status: 401, body: '{"code": "PGRST301", "message": "JWT expired"}' } : undefined, 'Refused401'],
	};
	const content = {};

	for (const [what, [fault, expected]] of Object.entries(faults)) {
		line.fault = fault;
		await put(page, what, 1);
		content[what] = 1;
		assert.equal(await error(), expected, what);
		const isSent = what.startsWith('a token');		// the upload went through

		assert.deepEqual(await unsentIds(page), isSent ? [] : [what], what);
		await until(() => page.evaluate((state) => globalThis.states.at(-1) === state, `${isSent ? 0 : 1} ${expected.replace(/\d/g, '')}`));
		line.fault = () => undefined;
		assert.equal(await error(), null, what);
		assert.deepEqual(await unsentIds(page), [], what);
	}

	// Nobody is there; and a token that has expired by then.
	await line.down();
	await put(page, 'down', 1);
	assert.equal(await error(), 'NoAnswer');
	await line.up();
	await page.evaluate((token) => { globalThis.token = token; }, EXPIRED_TOKEN);
	assert.equal(await error(), 'Refused401');
	assert.deepEqual(await unsentIds(page), ['down']);
	await page.evaluate((token) => { globalThis.token = token; }, TOKEN);
	assert.equal(await error(), null);

	// A clock an hour ahead, set right, then one an hour behind: the later edit wins, not the later clock.
	const other = open(name);

	await page.evaluate(() => { globalThis.ahead = 3_600_000; });
	await put(page, 'clock', 'ahead');
	await error();
	await other.sync();
	await other.put('clock', 'edited later');
	await other.sync();
	await page.evaluate(() => { globalThis.ahead = -3_600_000; });
	await error();
	assert.equal(await get(page, 'clock'), 'edited later');
	await put(page, 'clock', 'last of all');
	await error();
	await other.sync();
	assert.deepEqual(await contentOf(other), { ...content, down: 1, clock: 'last of all' });
});

test("a store that the user deletes while the page is open: a new one, with a clientId of its own", needsService, async () => {
	const name = anyName();
	const page = await tab(name);

	await put(page, 'x', 1);
	await page.evaluate(() => globalThis.notes.sync());
	const { clientId } = await page.evaluate(() => globalThis.notes.status());

	await page.evaluate((app) => new Promise((resolve, reject) => {
		const request = indexedDB.deleteDatabase(`docsync ${app}`);

		request.onsuccess = resolve;
		request.onerror = reject;
	}), name);
	await page.evaluate(() => globalThis.notes.sync());
	assert.equal(await get(page, 'x'), 1, 'it comes back');
	assert.notEqual((await page.evaluate(() => globalThis.notes.status())).clientId, clientId);
	await page.close();
});
