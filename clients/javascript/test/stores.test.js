// The stores of Node.js.

import assert from 'node:assert/strict';
import { copyFile, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { Collection, memoryStore } from '../src/index.js';
import { sqliteStore } from '../src/stores/sqlite.js';
import { contract } from './contract.js';

const needsSqlite = { skip: await import('node:sqlite').then(() => false, () => 'this Node.js has no node:sqlite') };
const offline = { url: 'http://127.0.0.1:9', transport: {} };

for (const [name, play] of Object.entries(contract)) {
	test(`memory: ${name}`, () => play(memoryStore(), assert));
	test(`SQLite: ${name}`, needsSqlite, async () => play(await sqliteStore(':memory:'), assert));
}

test('SQLite: what was stored is there when it is opened again, by two at once', needsSqlite, async () => {
	const directory = await mkdtemp(join(tmpdir(), 'docsync-test-'));
	const file = join(directory, 'app.sqlite');

	try {
		const one = await sqliteStore(file);
		const notes = new Collection('notes', { ...offline, store: one });

		await notes.put('x', { n: 1 });
		const { clientId } = await notes.status();
		const other = await sqliteStore(file);
		const same = new Collection('notes', { ...offline, store: other });

		assert.deepEqual(await same.get('x'), { n: 1 });
		await same.put('y', 2);
		assert.deepEqual([await notes.get('y'), (await same.status()).clientId], [2, clientId]);
		assert.deepEqual((await notes.unsent()).map(({ id }) => id), ['x', 'y']);
		await Promise.all([one.close(), other.close()]);

		// A copy is another store, which has to look whether all is as it was.
		await copyFile(file, `${file}.copy`);
		const copy = new Collection('notes', { ...offline, store: sqliteStore(`${file}.copy`) });

		assert.deepEqual(await copy.get('x'), { n: 1 });
	} finally {
		await rm(directory, { recursive: true });
	}
});

test('SQLite: a store of a later version is refused', needsSqlite, async () => {
	const { DatabaseSync } = await import('node:sqlite');
	const database = new DatabaseSync(':memory:');

	database.exec('PRAGMA user_version = 2');
	await assert.rejects(async () => sqliteStore(database), /later version/);
});

test('one clientId for all collections of a store, another for another store', async () => {
	const store = memoryStore();
	const ids = [];

	for (const [name, where] of [['a', store], ['b', store], ['a', memoryStore()]]) {
		ids.push((await new Collection(name, { ...offline, store: where }).status()).clientId);
	}
	assert.equal(ids[0], ids[1]);
	assert.notEqual(ids[0], ids[2]);
	await assert.rejects(new Collection('a', { ...offline, store, clientId: 'given' }).get('x'), /another clientId/);
	assert.equal((await new Collection('c', { ...offline, store: memoryStore(), clientId: 'given' }).status()).clientId, 'given');
});

test('collections of a store know nothing of each other', async () => {
	const store = memoryStore();
	const [a, b, c] = ['a', 'a b', 'a/ü'].map((name) => new Collection(name, { ...offline, store }));

	await Promise.all([a.put('x', 'a'), b.put('x', 'b'), c.put('x', 'c'), a.put('b x', 'of a')]);
	assert.deepEqual(await Promise.all([a, b, c].map((collection) => collection.get('x'))), ['a', 'b', 'c']);
	assert.deepEqual((await a.list()).map(({ id }) => id), ['b x', 'x']);
	await b.delete('x');
	assert.equal(await a.get('x'), 'a');
});
