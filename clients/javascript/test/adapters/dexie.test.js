// Dexie, in IndexedDB in Chromium: the scenarios, and what apps do with Dexie.

import 'fake-indexeddb/auto';		// for README's lines, which run here
import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';
import { TOKEN, URL_OF_SERVICE, anyName, needsService, open as openReference, pause, until } from '../service.js';
import { openPage } from '../chromium.js';
import { play } from './scenarios.js';

/** @type {Awaited<ReturnType<typeof openPage>>} */
let browser;

before(async () => { browser = await openPage(); });
after(() => browser.close());

/** A tab with a database, globalThis.db, whose table items is bound: globalThis.items. */
async function openTab({ url, token, name, store = anyName() }) {
	const page = await browser.open();

	if (typeof token === 'function') await page.exposeFunction('tokenOf', token);
	await page.evaluate(async (options) => {
		const { Dexie, liveQuery } = await import('/test/adapters/node_modules/dexie/dist/dexie.mjs');
		const { docsync, docsyncTables } = await import('/adapters/dexie.js');
		const { Patience } = await import('/adapters/protocol.js');
		const db = new Dexie(options.store);

		db.version(1).stores({ items: 'id, text', others: 'id', ...docsyncTables });
		const { items } = docsync(db, { items: options.name }, {
			url: options.url, token: options.token ?? globalThis.tokenOf, waits: { told: 0, others: 0 },
		});

		Object.assign(globalThis, { db, items, liveQuery, patience: new Patience() });
	}, { url, token: typeof token === 'function' ? undefined : token, name, store });
	return { page, store };
}

const library = {
	name: 'dexie',
	async open(options) {
		const { page, store } = await openTab(options);

		return {
			put: (id, text, more) => page.evaluate((row) => globalThis.db.items.put(row), { id, text, ...more }),
			delete: (id) => page.evaluate((which) => globalThis.db.items.delete(which), id),
			content: () => page.evaluate(async () => Object.fromEntries((await globalThis.db.items.toArray()).map(({ id, text }) => [id, text]))),
			// As start() does, which these would wait too long for
			sync: () => page.evaluate(() => globalThis.patience.ask(() => globalThis.items.sync())),
			refused: () => page.evaluate(async () => (await globalThis.items.problems()).map(({ id }) => id)),
			async close() {
				await page.close();
				return store;
			},
		};
	},
};

play(library);

/** A page's database and one of another device's. */
async function two() {
	const name = anyName();
	const { page } = await openTab({ url: URL_OF_SERVICE, token: TOKEN, name });
	const other = openReference(name);

	return { page, other, sync: () => page.evaluate(() => globalThis.items.sync()) };
}

test('liveQuery() shows what comes', needsService, async () => {
	const { page, other, sync } = await two();

	await page.evaluate(() => {
		globalThis.liveQuery(() => globalThis.db.items.where('text').startsWith('b').toArray()).subscribe((rows) => { globalThis.rows = rows; });
	});
	await other.put('x', { id: 'x', text: 'bread' });
	await other.sync();
	await sync();
	await until(() => page.evaluate(() => globalThis.rows?.[0]?.text === 'bread'));
	await page.evaluate(() => globalThis.db.items.update('x', { text: 'butter' }));
	await until(() => page.evaluate(() => globalThis.rows[0].text === 'butter'));
	await sync();
	await other.sync();
	assert.equal((await other.get('x')).text, 'butter');
	await page.close();
});

test("all ways of Dexie's to write", needsService, async () => {
	const { page, other, sync } = await two();

	await page.evaluate(async () => {
		const { db } = globalThis;

		await db.items.bulkAdd(['a', 'b', 'c', 'd', 'e', 'f'].map((id) => ({ id, text: '0' })));
		await db.transaction('rw', db.items, db.others, async () => {
			await db.items.where('id').above('e').modify({ text: '1' });
			await db.others.put({ id: 'not synchronised' });
			await db.items.where('id').anyOf('a', 'b').delete();
			await db.items.where('id').between('c', 'd', true, true).delete();
			await db.items.put({ id: 'a', text: '2' });
		});
	});
	await sync();
	await other.sync();
	assert.deepEqual((await other.list()).map(({ id, body }) => [id, body.text]), [['a', '2'], ['e', '0'], ['f', '1']]);
	await page.evaluate(() => globalThis.db.items.clear());
	await sync();
	await other.sync();
	assert.deepEqual(await other.list(), []);
	await page.close();
});

test('a transaction that is given up leaves no mark, a row that JSON has no word for is refused', needsService, async () => {
	const { page, sync } = await two();
	const [abandoned, refused, rows, unsent] = await page.evaluate(async () => {
		const { db, items } = globalThis;
		const nameOf = (promise) => promise.then(() => null, ({ name }) => name);
		const first = await nameOf(db.transaction('rw', db.items, async () => {
			await db.items.put({ id: 'x', text: '1' });
			throw new RangeError('given up');
		}));
		const second = await nameOf(db.items.bulkPut([{ id: 'y', text: '1' }, { id: 'z', text: NaN }]));

		return [first, second, await db.items.toArray(), await items.unsent()];
	});

	assert.deepEqual([abandoned, refused, rows, unsent], ['RangeError', 'TypeError', [], []]);
	await sync();
	await page.close();
});

test('start() sends soon after a write', needsService, async () => {
	const { page, other } = await two();

	await page.evaluate(async () => {
		globalThis.items.start();
		await globalThis.db.items.put({ id: 'x', text: 'bread' });
	});
	await until(async () => {
		await other.sync();
		return (await other.get('x'))?.text === 'bread';
	});
	await page.close();
});

test("what comes isn't taken for an edit", needsService, async () => {
	const { page, other, sync } = await two();

	await page.evaluate(() => globalThis.items.start());
	await until(() => page.evaluate(async () => (await globalThis.items.status()).syncedAt !== null));
	await other.put('x', { id: 'x', text: 'bread' });
	await other.sync();
	const requests = [];

	page.on('request', (request) => requests.push(request.url()));
	await sync();
	await pause(500);
	assert.equal(requests.length, 1, 'no second sync follows');
	await page.close();
});

/** Dexie and the adapter in an empty tab: globalThis.bind() opens an app's database with a table items, and binds it. */
async function openEmpty(name) {
	const page = await browser.open();

	await page.evaluate(async (options) => {
		const { Dexie } = await import('/test/adapters/node_modules/dexie/dist/dexie.mjs');
		const { docsync, docsyncTables } = await import('/adapters/dexie.js');
		const bind = (key, collection = options.name) => {
			const db = new Dexie(options.name);

			db.version(2).stores({ items: key, ...docsyncTables }).upgrade(({ items }) => items.update('z', { text: 'upgraded' }));
			return { db, items: docsync(db, { items: collection }, options).items };
		};

		Object.assign(globalThis, { Dexie, bind });
	}, { name, url: URL_OF_SERVICE, token: TOKEN });
	return page;
}

test('rows from before a table was bound are sent, too, once', needsService, async () => {
	const name = anyName();
	const page = await openEmpty(name);
	const other = openReference(name);

	await other.put('x', { id: 'x', text: 'theirs, earlier' });
	await other.sync();
	await page.evaluate(async (store) => {
		const before = new globalThis.Dexie(store);

		before.version(1).stores({ items: 'id' });
		await before.items.bulkPut([{ id: 'x', text: 'x' }, { id: 'y', text: 'y' }, { id: 'z', text: 'z' }, { id: 7, text: 'no id' }]);
		before.close();
		Object.assign(globalThis, globalThis.bind('id'));
		await globalThis.items.sync();
	}, name);
	await other.sync();
	assert.deepEqual((await other.list()).map(({ id, body }) => [id, body.text]), [['x', 'x'], ['y', 'y'], ['z', 'upgraded']]);
	await other.put('x', { id: 'x', text: 'theirs' });
	await other.sync();
	const texts = await page.evaluate(async () => {
		globalThis.db.close();
		Object.assign(globalThis, globalThis.bind('id'));
		await globalThis.items.sync();
		return (await globalThis.db.items.toArray()).map(({ text }) => text);
	});

	assert.deepEqual(texts, ['no id', 'theirs', 'y', 'upgraded']);
	const unsent = await page.evaluate(async (collection) => {
		globalThis.db.close();
		Object.assign(globalThis, globalThis.bind('id', collection));
		return (await globalThis.items.unsent()).length;
	}, anyName());

	assert.equal(unsent, 0, 'bound to another collection');
	await page.close();
});

test("a table whose primary key isn't a property can't be bound", needsService, async () => {
	const page = await openEmpty(anyName());
	const names = await page.evaluate(() => ['', '++', '[a+b]', 'a.b'].map((key) => {
		try {
			return globalThis.bind(key);
		} catch ({ name }) {
			return name;
		}
	}));

	assert.deepEqual(names, Array(4).fill('TypeError'));
	await page.close();
});
