// Legend-State, in localStorage in Chromium: the scenarios. A page for each device, since Legend-State's retries of a document are
// those of the whole page.

import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';
import { BadLine, TOKEN, URL_OF_SERVICE, anyName, needsService, open as openReference, pause, until } from '../service.js';
import { openPage } from '../chromium.js';
import { play } from './scenarios.js';

const LEGEND = '/test/adapters/node_modules/@legendapp/state';
const imports = Object.fromEntries(['', '/sync', '/sync-plugins/crud', '/persist-plugins/local-storage'].map((part) =>
	[`@legendapp/state${part}`, `${LEGEND}${part || '/index'}.mjs`]));

/** @type {Awaited<ReturnType<typeof openPage>>} */
let browser;

before(async () => { browser = await openPage(); });
after(() => browser.close());

const library = {
	name: 'legend-state',
	async open({ url, token, name, store = anyName() }) {
		const page = await browser.open();
		const refused = [];

		await page.exposeFunction('refused', (id) => { refused.push(id); });
		await page.exposeFunction('tokenOf', typeof token === 'function' ? token : () => token);
		await page.evaluate(async (options) => {
			const map = Object.assign(document.createElement('script'), { type: 'importmap', textContent: JSON.stringify({ imports: options.imports }) });

			document.head.append(map);
			globalThis.process = { env: {} };		// as bundlers have it
			const { observable, syncState, when } = await import('@legendapp/state');
			const { syncedCrud } = await import('@legendapp/state/sync-plugins/crud');
			const { ObservablePersistLocalStorage } = await import('@legendapp/state/persist-plugins/local-storage');
			const { docsync } = await import('/adapters/legend-state.js');
			const notes$ = observable(syncedCrud({
				...docsync({ name: options.name, url: options.url, token: globalThis.tokenOf, onRefused: ({ id }) => globalThis.refused(id) }),
				onError() {},
				initial: {},
				persist: { name: options.store, plugin: ObservablePersistLocalStorage, retrySync: true },
			}));

			notes$.get();
			await when(syncState(notes$).isPersistLoaded);
			Object.assign(globalThis, { notes$, state$: syncState(notes$) });
		}, { imports, name, url, store });

		return {
			page,
			put: (id, text, more) => page.evaluate((row) => { globalThis.notes$[row.id].set(row); }, { id, text, ...more }),
			delete: (id) => page.evaluate((which) => { if (globalThis.notes$[which].peek()) globalThis.notes$[which].delete(); }, id),
			content: () => page.evaluate(() => Object.fromEntries(Object.entries(globalThis.notes$.peek() ?? {})
				.filter(([, row]) => row).map(([id, { text }]) => [id, text]))),
			sync: () => page.evaluate(() => { globalThis.state$.sync(); }),
			refused: () => refused,
			async close() {
				await page.close();
				return store;
			},
		};
	},
};

play(library);

for (const [what, first, second] of [
	['an edit', ['first'], ['second']],
	['what is refused', ['bad', { refuse: 'check' }], ['mended', { refuse: 'no' }]],
]) {
	test(`edited while ${what} is on its way: that is sent, too`, needsService, async () => {
		const name = anyName();
		const { page, put, close } = await library.open({ url: URL_OF_SERVICE, token: TOKEN, name });
		const other = openReference(name);
		let sent = 0;

		await page.route('**/Docs?*', async (route) => {
			const response = await route.fetch();

			if (++sent === 1) {
				await put('x', ...second);
				await pause(50);
			}
			await route.fulfill({ response });
		});
		await put('x', ...first);
		await until(async () => {
			await other.sync();
			return (await other.get('x'))?.text === second[0];
		});
		await close();
	});
}

test('downloads are asked for faster than they come: those that wait are one', needsService, async () => {
	const name = anyName();
	const other = openReference(name);

	// A store where nothing was uploaded yet has the device compare afterwards.
	await other.put('y', { id: 'y', text: 'y' });
	await other.sync();
	const { page, content, sync, close } = await library.open({ url: URL_OF_SERVICE, token: TOKEN, name });
	const isAtRest = () => page.evaluate(() => globalThis.state$.lastSync.peek() && !globalThis.state$.isGetting.peek());
	let asked = 0;
	let answer = () => {};
	const answered = new Promise((resolve) => { answer = resolve; });

	await until(isAtRest);
	await page.route('**/Docs/Pull?*', async (route) => {
		asked++;
		await answered;
		await route.continue();
	});
	for (let n = 0; n < 20; n++) await sync();
	await until(() => asked === 1);
	await other.put('x', { id: 'x', text: 'first' });
	await other.sync();
	answer();
	await until(async () => (await content()).x === 'first' && isAtRest());
	assert.equal(asked, 2);
	await close();
});

test('edits that wait are sent in one request', needsService, async () => {
	const name = anyName();
	const { page, put, close } = await library.open({ url: URL_OF_SERVICE, token: TOKEN, name });
	const other = openReference(name);
	const requests = [];
	let answer = () => {};
	const answered = new Promise((resolve) => { answer = resolve; });

	await page.route(/\/Docs(\?|\/Get)/, async (route) => {
		requests.push(route.request().method());
		await answered;
		await route.continue();
	});
	await put('first', 'x');
	await until(() => requests.length);
	for (let n = 0; n < 20; n++) await put(`d${n}`, 'x');
	answer();
	await until(async () => {
		await other.sync();
		return (await other.list()).length === 21;
	});
	assert.deepEqual(requests, ['POST', 'POST', 'POST', 'POST'], 'one that asks, and one that sends, twice');
	await close();
});

test('an edit ends the wait of those that failed before', needsService, async () => {
	const line = await BadLine.start();
	const name = anyName();
	const { page, put, close } = await library.open({ url: line.url, token: TOKEN, name });
	const other = openReference(name);

	// No wait ends by itself. The first one is of 125 to 250 ms.
	await page.evaluate(() => {
		const start = globalThis.setTimeout;

		globalThis.setTimeout = (done, milliseconds = 0, ...more) => {
			if (milliseconds >= 125 && milliseconds <= 250) globalThis.isWaiting = true;
			return milliseconds >= 125 ? 0 : start(done, milliseconds, ...more);
		};
	});
	line.fault = ({ path }) => path.startsWith('/Docs?') ? { status: 503, body: '' } : undefined;
	await put('x', 'x');
	await until(() => page.evaluate(() => globalThis.isWaiting));
	line.fault = () => undefined;
	await put('y', 'y');
	await until(async () => {
		await other.sync();
		return (await other.list()).length === 2;
	});
	await close();
	await line.down();
});

test('deleted, and made anew before that was sent: no field of before comes back', needsService, async () => {
	const line = await BadLine.start();
	const name = anyName();
	const { put, delete: remove, close } = await library.open({ url: line.url, token: TOKEN, name });
	const other = openReference(name);
	const sent = async (text) => {
		await other.sync();
		return (await other.get('x'))?.text === text;
	};

	await put('x', 'first', { color: 'red' });
	await until(() => sent('first'));
	line.requests = [];
	line.fault = ({ path }) => path.startsWith('/Docs?') ? { status: 503, body: '' } : undefined;
	await remove('x');
	await until(() => line.requests.length);
	await put('x', 'second');
	line.fault = () => undefined;
	await until(() => sent('second'));
	assert.deepEqual(await other.get('x'), { id: 'x', text: 'second' });
	await close();
	await line.down();
});

// Legend-State takes an edit as sent when it downloads the same.
for (const [what, edit, same] of [
	['deletion', (device) => device.delete('x'), (other) => other.delete('x')],
	['edit', (device) => device.put('x', 'same'), (other) => other.put('x', { id: 'x', text: 'same' })],
]) {
	test(`others make the same ${what}, and then another, before it is sent: the device has what the service has`, needsService, async () => {
		const line = await BadLine.start();
		const name = anyName();
		const { page, content, sync, close, ...device } = await library.open({ url: line.url, token: TOKEN, name });
		const other = openReference(name);
		const lastSync = () => page.evaluate(() => globalThis.state$.lastSync.peek());
		// A download that has begun before may bring it as well.
		const downloaded = async (change) => {
			const before = await lastSync();

			await change(other);
			await other.sync();
			await until(async () => {
				await sync();
				return await lastSync() !== before;
			});
		};

		await other.put('x', { id: 'x', text: 'first' });
		await other.sync();
		await until(async () => {
			await sync();
			return (await content()).x === 'first';
		});
		await pause(200);
		line.fault = ({ path }) => path.startsWith('/Docs?') ? { status: 503, body: '' } : undefined;
		await edit(device);
		await downloaded(same);
		await downloaded(() => other.put('x', { id: 'x', text: 'another' }));
		line.fault = () => undefined;
		await until(async () => {
			await other.sync();
			return (await other.get('x'))?.text !== 'another';
		});
		await pause(200);
		assert.deepEqual(await content(), Object.fromEntries((await other.list()).map(({ id, body }) => [id, body.text])));
		await close();
		await line.down();
	});
}
