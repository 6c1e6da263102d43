// Dexie, in IndexedDB in Chromium: the scenarios, and what apps do with Dexie.

import 'fake-indexeddb/auto';		// for the example at the adapter's head, which runs here
import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';
import { TOKEN, URL_OF_SERVICE, anyName, needsService, open as openReference, until } from '../service.js';
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
