// SignalDB: the scenarios; and edits that meet others' while they are stored.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import { Collection as SignalCollection } from '@signaldb/core';
import { Collection, VersionsExhausted, memoryStore } from 'docsync-client';
import { docsyncPersistence } from 'docsync-client/adapters/signaldb';
import { TOKEN, URL_OF_SERVICE, anyName, needsService, open, pause, until } from '../service.js';
import { play } from './scenarios.js';

async function openCollection({ url = URL_OF_SERVICE, token = TOKEN, name = anyName(), store = memoryStore() } = {}) {
	const documents = new Collection(name, { url, token, store, waits: { told: 0, others: 0 } });
	const notes = new SignalCollection({ persistence: docsyncPersistence({ documents }) });
	const errors = [];

	notes.on('persistence.error', (error) => errors.push(error));
	await notes.isReady();
	return { documents, notes, store, errors };
}

/** Saved, which SignalDB doesn't wait for. */
const saved = (notes) => until(() => !notes.isPushing());

function put(notes, item) {
	if (notes.findOne({ id: item.id }, { reactive: false })) notes.updateOne({ id: item.id }, { $set: item });
	else notes.insert(item);
	return saved(notes);
}

play({
	name: 'signaldb',
	async open(options) {
		const { documents, notes, store } = await openCollection(options);

		return {
			put: (id, text, more) => put(notes, { id, text, ...more }),
			async delete(id) {
				notes.removeOne({ id });
				await saved(notes);
			},
			content: async () => Object.fromEntries(notes.find({}, { reactive: false }).fetch().map(({ id, text }) => [id, text])),
			sync: () => documents.sync(),
			refused: async () => (await documents.problems()).map(({ id }) => id),
			async close() {
				await notes.dispose();
				await documents.close();
				return store;
			},
		};
	},
});

test('edits one on the other, faster than they are stored: none comes back', needsService, async () => {
	const { documents, notes } = await openCollection();
	const shown = [];

	notes.insert({ id: 'x', n: 0 });
	notes.on('persistence.received', () => shown.push(notes.findOne({ id: 'x' }, { reactive: false }).n));
	for (let n = 1; n <= 20; n++) {
		notes.updateOne({ id: 'x' }, { $set: { n } });
		if (n % 5 === 0) await pause(1);
		assert.equal(notes.findOne({ id: 'x' }, { reactive: false }).n, n);
	}
	await until(async () => (await documents.get('x'))?.n === 20);
	assert.deepEqual(shown, [], 'nothing was overwritten by what was stored before');
});

test("an edit that waits to be stored while somebody else's comes", needsService, async () => {
	const name = anyName();
	const { documents, notes } = await openCollection({ name });
	const other = open(name);

	notes.insert({ id: 'x', text: 'first' });
	notes.insert({ id: 'y', text: 'first' });
	await until(async () => (await documents.list()).length === 2);
	await documents.sync();
	await other.sync();
	await other.putAll([['x', { text: 'theirs' }], ['y', { text: 'theirs' }]]);
	await other.sync();
	await pause(5);
	const syncing = documents.sync();

	for (let n = 0; n < 50; n++, await pause(1)) notes.updateOne({ id: 'x' }, { $set: { text: `mine ${n}` } });
	notes.removeOne({ id: 'y' });
	await syncing;
	await documents.sync();
	await until(async () => (await documents.get('x')).text === 'mine 49' && await documents.get('y') === undefined);
	await pause(10);
	assert.deepEqual(notes.find({}, { reactive: false }).fetch(), [{ id: 'x', text: 'mine 49' }]);
});

test("what can't be stored is told, and keeps nothing else from being stored", needsService, async () => {
	const { documents, notes, errors } = await openCollection();

	notes.batch(() => {
		notes.insert({ id: 'good', text: 'good' });
		notes.insert({ id: 'bad', text: '\0' });
		notes.insert({ id: 'also good', text: 'good' });
	});
	await until(async () => (await documents.list()).length === 2);
	await until(() => errors.length);
	assert(errors[0] instanceof TypeError);
});

test("with the libraries' types, of all adapters", needsService, () => {
	const pathTo = (path) => fileURLToPath(new URL(path, import.meta.url));
	const { status, stdout } = spawnSync(process.execPath, [pathTo('../../node_modules/typescript/bin/tsc'), '--noEmit', '--strict',
		'--noImplicitAny', 'false', '--skipLibCheck', '--allowJs', '--target', 'es2022', '--module', 'esnext', '--moduleResolution', 'bundler',
		'--lib', 'es2023,dom', pathTo('types.ts')], { cwd: pathTo('.'), encoding: 'utf8' });

	assert.equal(status, 0, stdout);
});

/** A persistence adapter of a collection that does nothing by itself, and what it does to it and shows. */
async function openByHand(check = (id) => {}) {
	const done = [];
	let tell;
	const documents = {
		watch: (listener) => {
			tell = listener;
			return () => {};
		},
		list: async () => [],
		putAll: async (edits) => {
			for (const [id] of edits) check(id);
			done.push(...edits.map(([id, { text }]) => `put ${id} ${text}`));
		},
		delete: async (id) => { done.push(`delete ${id}`); },
	};
	const adapter = docsyncPersistence({ documents });

	await adapter.register(async ({ changes: { added, removed } }) => {
		done.push(...added.map(({ id, text }) => `show ${id} ${text}`), ...removed.map(({ id }) => `hide ${id}`));
	});
	await adapter.load();
	await pause(1);
	return { adapter, done, tell: (id, text) => tell({ id, body: text && { id, text }, deleted: !text }) };
}

const changes = ({ added = [], modified = [], removed = [] }) => ({ added, modified, removed });

test("an edit that was overwritten by somebody else's before it was stored is shown again", async () => {
	const { adapter, done, tell } = await openByHand();

	tell('x', 'theirs');
	await adapter.save([{ id: 'x', text: 'theirs' }], changes({ modified: [{ id: 'x', text: 'mine' }] }));
	tell('x', 'mine');
	tell('x', 'mine');
	assert.deepEqual(done, ['show x theirs', 'put x mine', 'show x mine']);
});

test('removed, and inserted again, in one save; removed, and somebody else has changed it', async () => {
	const { adapter, done, tell } = await openByHand();

	await adapter.save([{ id: 'x', text: 'again' }], changes({ added: [{ id: 'x', text: 'again' }], removed: [{ id: 'x' }] }));
	tell('x', 'again');
	tell('x', 'theirs');
	await adapter.save([{ id: 'x', text: 'theirs' }], changes({ removed: [{ id: 'x' }] }));
	tell('x', undefined);
	await adapter.save([], changes({ added: [{ id: 'y', text: 'short' }], removed: [{ id: 'y' }] }));
	tell('y', undefined);
	assert.deepEqual(done, ['put x again', 'show x theirs', 'delete x', 'hide x', 'delete y']);
});

test("an item with the highest version doesn't keep the others from being stored", async () => {
	const { adapter, done } = await openByHand((id) => { if (id === 'last') throw new VersionsExhausted(id); });
	const items = [{ id: 'last', text: 'edited' }, { id: 'good', text: 'good' }];

	await assert.rejects(adapter.save(items, changes({ modified: items })), VersionsExhausted);
	assert.deepEqual(done, ['put good good']);
});
