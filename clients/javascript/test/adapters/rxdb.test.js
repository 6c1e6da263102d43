// RxDB: the scenarios, its own test suite for replications, and that a conflictHandler is asked.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import test from 'node:test';
import { randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { replicateDocsync } from 'docsync-client/adapters/rxdb';
import { createRxDatabase } from 'rxdb';
import { getRxStorageMemory } from 'rxdb/plugins/storage-memory';
import { HttpTransport } from '../../src/transport.js';
import { BadLine, TOKEN, URL_OF_SERVICE, anyName, needsService, open, pause, until } from '../service.js';
import { play } from './scenarios.js';

const text = { type: 'string' };
const schema = {
	version: 0, primaryKey: 'id', type: 'object', required: ['id', 'text'],
	properties: { id: { type: 'string', maxLength: 100 }, text, refuse: text, clientVersion: text },
};

/** A replicated collection. The memory storage keeps a database after it was closed; store is its name. */
async function openCollection({ url = URL_OF_SERVICE, token = TOKEN, name, store = randomUUID(), fetch, replication: more, ...options }) {
	const refused = [];
	const database = await createRxDatabase({ name: store, storage: getRxStorageMemory(), multiInstance: false });
	const { notes } = await database.addCollections({ notes: { schema, ...options } });
	const replication = replicateDocsync({
		collection: notes, name, url, token, fetch, retryTime: 20, onRefused: ({ id }) => refused.push(id), ...more,
	});

	return { database, notes, replication, refused, store };
}

const library = {
	name: 'rxdb',
	cannot: { 'a later edit beats a deletion': "the collection's conflictHandler decides; RxDB's own takes what the service has" },
	async open(options) {
		const { database, notes, replication, refused, store } = await openCollection(options);

		return {
			put: (id, text, more) => notes.incrementalUpsert({ id, text, ...more }),
			delete: async (id) => (await notes.findOne(id).exec())?.remove(),
			content: async () => Object.fromEntries((await notes.find().exec()).map((document) => [document.id, document.text])),
			sync: () => replication.reSync(),
			refused: () => refused,
			async close() {
				await database.close();
				return store;
			},
		};
	},
};

play(library);

test('a conflictHandler decides', needsService, async () => {
	const conflictHandler = {
		isEqual: (a, b) => a.text === b.text && a._deleted === b._deleted && a.clientVersion === b.clientVersion,
		resolve: ({ newDocumentState, realMasterState }) => ({ ...realMasterState, text: `${realMasterState.text} and ${newDocumentState.text}` }),
	};
	const name = anyName();
	const open = () => openCollection({ name, conflictHandler });
	const [a, b] = [await open(), await open()];

	await a.notes.insert({ id: 'x', text: 'a' });
	await b.notes.insert({ id: 'x', text: 'b' });
	const texts = async () => Promise.all([a, b].map(async ({ notes }) => (await notes.findOne('x').exec()).text));

	for (const end = Date.now() + 40_000; (await texts()).some((text, i, all) => !text.includes(' and ') || text !== all[0]);) {
		assert(Date.now() < end, `merged: ${await texts()}`);
		for (const { replication } of [a, b]) {
			replication.reSync();
			await replication.awaitInSync();
		}
	}
	await a.database.close();
	await b.database.close();
});

test("a conflict that is decided for the service's version: nothing is sent", needsService, async () => {
	const name = anyName();
	let isOffline = true;
	// With an isEqual() that sees differences where there are none RxDB sends what it has just been given.
	const conflictHandler = { isEqual: () => false, resolve: ({ realMasterState }) => realMasterState };
	const a = await openCollection({ name });
	const b = await openCollection({
		name, conflictHandler, fetch: (...args) => isOffline ? Promise.reject(new TypeError('offline')) : fetch(...args),
	});
	const transport = new HttpTransport(name, { url: URL_OF_SERVICE, token: TOKEN });

	await a.notes.insert({ id: 'x', text: 'a' });
	await a.replication.awaitInSync();
	await b.notes.insert({ id: 'x', text: 'b' });
	isOffline = false;
	await until(async () => (await b.notes.findOne('x').exec()).text === 'a');
	// What RxDB has sent after that, if anything, is there when the next document is.
	await b.notes.insert({ id: 'y', text: 'b' });
	await until(async () => (await transport.get('reader', null, ['y'])).documents.length);
	const { documents: [{ clientId }] } = await transport.get('reader', null, ['x']);

	assert.equal(clientId, await a.database.storageToken);
	await a.database.close();
	await b.database.close();
});

test('changed elsewhere while the answer to an edit is on its way', needsService, async () => {
	const name = anyName();
	const other = open(name);
	const held = { GET: 0, POST: 0 };
	let holds = false;
	let hasEdited = false;
	let isTold = false;

	// A download that began before the edit is evaluated after the other's edit; its answer comes before that of the edit.
	const slowFetch = async (url, options) => {
		const { method } = options;

		if (!holds) return fetch(url, options);
		if (method === 'GET') {
			held.GET++;
			await until(() => hasEdited);
		}
		const answer = await fetch(url, options);

		if (method === 'GET') {
			isTold = true;
		} else {
			held.POST++;
			await until(() => !holds);
		}
		return answer;
	};
	const c = await openCollection({ name, fetch: slowFetch });

	await c.replication.awaitInSync();
	holds = true;
	c.replication.reSync();
	await until(() => held.GET);
	await c.notes.insert({ id: 'x', text: 'c' });
	await until(() => held.POST);
	await other.sync();
	await other.put('x', { id: 'x', text: 'other' });
	await other.sync();
	hasEdited = true;
	await until(() => isTold);
	await pause(200);		// RxDB has passed over it, since x is unsent
	holds = false;
	await until(async () => (await c.notes.findOne('x').exec()).text === 'other');
	await c.database.close();
});

test('a collection that was removed and made again gets its own documents back', needsService, async () => {
	const name = anyName();
	const a = await openCollection({ name });

	await a.notes.insert({ id: 'x', text: 'own' });
	await a.notes.insert({ id: 'y', text: 'deleted' });
	await a.replication.awaitInSync();
	await (await a.notes.findOne('y').exec()).remove();
	await a.replication.awaitInSync();
	await a.notes.remove();
	const { notes } = await a.database.addCollections({ notes: { schema } });
	const replication = replicateDocsync({ collection: notes, name, url: URL_OF_SERVICE, token: TOKEN });

	await replication.awaitInitialReplication();
	assert.deepEqual((await notes.find().exec()).map(({ id, text }) => [id, text]), [['x', 'own']]);
	await a.database.close();
});

test('its own documents, deleted elsewhere while it gets them back', needsService, async () => {
	const name = anyName();
	const other = open(name);
	const a = await openCollection({ name });
	let asked = 0;

	await a.notes.insert({ id: 'x', text: 'own' });
	await a.replication.awaitInSync();
	await other.sync();
	await a.notes.remove();
	const { notes } = await a.database.addCollections({ notes: { schema } });
	const replication = replicateDocsync({
		collection: notes, name, url: URL_OF_SERVICE, token: TOKEN,
		fetch: async (url, options) => {
			// Between the two requests of a first download
			if (options.method === 'GET' && ++asked === 2) {
				await other.delete('x');
				await other.sync();
			}
			return fetch(url, options);
		},
	});

	await replication.awaitInitialReplication();
	replication.reSync();
	await until(() => asked > 2);
	await replication.awaitInSync();
	assert.equal(await notes.findOne('x').exec(), null);
	await a.database.close();
});

test('an edit that is refused just after another was stored stays', needsService, async () => {
	const a = await openCollection({ name: anyName() });

	await a.replication.awaitInSync();
	for (let n = 0; n < 5; n++) {
		await a.notes.incrementalUpsert({ id: 'x', text: `good ${n}` });
		await pause(n * 4);
		await a.notes.incrementalUpsert({ id: 'x', text: `bad ${n}`, refuse: 'check' });
		await until(() => a.refused.length > n);
		a.replication.reSync();
		await a.replication.awaitInSync();
		assert.equal((await a.notes.findOne('x').exec()).text, `bad ${n}`);
	}
	await a.database.close();
});

test('unsent edits when the service gets another url', needsService, async () => {
	const name = anyName();
	const line = await BadLine.start();
	const other = open(name);
	const a = await openCollection({ name, url: line.url });

	for (const id of ['x', 'y', 'z']) await other.put(id, { id, text: 'theirs' });
	await other.sync();
	await a.replication.awaitInitialReplication();
	a.replication.reSync();
	await until(() => a.notes.findOne('z').exec());
	await line.down();
	await (await a.notes.findOne('x').exec()).patch({ text: 'mine' });
	await (await a.notes.findOne('y').exec()).remove();
	await a.database.close();
	const stampOf = async (id) => (await new HttpTransport(name, { url: URL_OF_SERVICE, token: TOKEN }).get('reader', null, [id])).documents[0].LastUpdateUtc;
	const stamp = await stampOf('z');
	const b = await openCollection({ name, store: a.store });

	await b.replication.awaitInSync();
	await other.sync();
	assert.deepEqual((await other.list()).map(({ id, body }) => [id, body.text]), [['x', 'mine'], ['z', 'theirs']]);
	assert.equal(await stampOf('z'), stamp, "what wasn't edited isn't sent again");
	await b.database.close();
});

test("a deletedField of the app's", needsService, async () => {
	const name = anyName();
	const other = open(name);
	const a = await openCollection({ name, replication: { deletedField: 'isGone' } });

	await a.notes.insert({ id: 'x', text: 'x' });
	await a.replication.awaitInSync();
	await (await a.notes.findOne('x').exec()).remove();
	await a.replication.awaitInSync();
	await other.sync();
	assert.deepEqual(await other.list(), []);
	await a.database.close();
});

test('an id that every object has a property of stops nothing', needsService, async () => {
	const name = anyName();
	const a = await openCollection({ name });
	const other = open(name);

	for (const id of ['constructor', '__proto__', 'toString', 'x']) await other.put(id, { id, text: 'theirs' });
	await other.sync();
	a.replication.reSync();
	await until(() => a.notes.findOne('x').exec());
	assert.deepEqual((await a.notes.find().exec()).map(({ id }) => id), ['x']);
	await a.database.close();
});

test('sent, and deleted elsewhere, before the first download is answered', needsService, async () => {
	const name = anyName();
	const other = open(name);
	const [downloads, tombstones] = [[], []];
	let isHeld = true;
	const c = await openCollection({
		name,
		fetch: async (url, options) => {
			if (options.method === 'GET') {
				downloads.push(url);
				if (!url.includes('tombstones=false')) tombstones.push(url);
				await until(() => !isHeld);
			}
			return fetch(url, options);
		},
	});

	await until(() => downloads.length);
	assert.deepEqual(tombstones, [], 'a store that is empty needs none');
	await c.notes.insert({ id: 'x', text: 'c' });
	await until(async () => {
		await other.sync();
		return other.get('x');
	});
	await other.delete('x');
	await other.sync();
	isHeld = false;
	await until(async () => {
		c.replication.reSync();
		return !await c.notes.findOne('x').exec();
	});
	await c.database.close();
});

/** As other storages than the memory's do: what a replication notes about documents comes later than these. */
function noteSlowly({ metaInstance }) {
	const { bulkWrite } = metaInstance;

	metaInstance.bulkWrite = async (rows, context) => {
		await pause(context === 'replication-down-write-meta' ? 100 : 0);
		return bulkWrite.call(metaInstance, rows, context);
	};
}

/** What an app does as soon as it is told of what others did; null: they deleted it. */
const AT_ONCE = {
	deleted: { others: ['theirs', 'theirs again'], edit: ({ notes }) => notes.findOne('x').incrementalRemove() },
	patched: { others: ['theirs', 'theirs again'], edit: ({ notes }) => notes.findOne('x').incrementalPatch({ text: 'mine' }), mine: 'mine' },
	replaced: { others: ['theirs', 'theirs again'], edit: ({ notes }) => notes.incrementalUpsert({ id: 'x', text: 'mine' }), mine: 'mine' },
	'inserted again': { others: ['first', null], edit: ({ notes }) => notes.insert({ id: 'x', text: 'mine' }), mine: 'mine' },
};

for (const [how, { others, edit, mine }] of Object.entries(AT_ONCE)) for (const delay of [0, 150]) {
	test(`${how} as soon as it comes, answered after ${delay} ms`, needsService, async () => {
		const name = anyName();
		const other = open(name);
		const c = await openCollection({
			name,
			fetch: async (url, options) => {
				const answer = await fetch(url, options);

				if (options.method === 'POST') await pause(delay);
				return answer;
			},
		});
		const left = others.filter((text) => text !== 'first');
		const edited = [];
		const meet = (expected) => until(async () => {
			c.replication.reSync();
			await other.sync();
			return [(await other.get('x'))?.text, (await c.notes.findOne('x').exec())?.text].every((text) => text === expected);
		}, 10_000);

		await c.replication.awaitInSync();
		noteSlowly(c.replication);
		c.notes.$.subscribe(({ operation, documentData }) => {
			if (!left.length || (operation === 'DELETE' ? null : documentData.text) !== left[0]) return;
			left.shift();
			edited.push(edit(c));
		});
		for (const text of others) {
			await (text === null ? other.delete('x') : other.put('x', { id: 'x', text }));
			await other.sync();
			if (text === 'first') {
				await meet('first');
			} else {
				c.replication.reSync();
				await until(() => edited.length);
				await edited.pop();
				await meet(mine);
			}
		}
		// RxDB doesn't take it for unsent.
		await other.put('x', { id: 'x', text: 'last' });
		await meet('last');
		await c.database.close();
	});
}

test('what is being stored is not sent', needsService, async () => {
	const name = anyName();
	const other = open(name);
	const sent = [];
	const held = { GET: false, POST: false };
	let asked = 0;
	const c = await openCollection({
		name,
		fetch: async (url, options) => {
			const { method } = options;
			const answer = await fetch(url, options);

			if (method === 'POST') sent.push(...JSON.parse(options.body).documents?.map(({ id }) => id) ?? []);
			else asked++;
			await until(() => !held[method]);
			return answer;
		},
	});

	await c.replication.awaitInSync();
	noteSlowly(c.replication);
	await other.put('x', { id: 'x', text: 'theirs' });
	await other.sync();
	held.GET = held.POST = true;
	asked = 0;
	c.replication.reSync();
	await until(() => asked);
	await c.notes.insert({ id: 'y', text: 'mine' });
	await until(() => sent.length);
	held.GET = false;
	await until(() => c.notes.findOne('x').exec());
	// RxDB looks for edits again when y is answered, while it stores x.
	held.POST = false;
	await c.replication.awaitInSync();
	assert.deepEqual(sent, ['y']);
	await c.database.close();
});

test('a download that is older than what was sent meanwhile', needsService, async () => {
	const name = anyName();
	const other = open(name);
	let isCompared = false;
	let answered = 0;
	let isHeld = true;
	const c = await openCollection({
		name,
		fetch: async (url, options) => {
			const answer = await fetch(url, options);

			if (!isCompared || options.method !== 'GET') return answer;
			// It is told to compare, and the download of everything takes its time.
			if (answered++ === 0) return Response.json({ ...await answer.json(), reconcile: true, lostAfter: null });
			await until(() => !isHeld);
			return answer;
		},
	});

	await other.put('x', { id: 'x', text: 'theirs' });
	await other.sync();
	c.replication.reSync();
	await until(() => c.notes.findOne('x').exec());
	await c.replication.awaitInSync();
	isCompared = true;
	c.replication.reSync();
	await until(() => answered === 2);
	await c.notes.findOne('x').incrementalRemove();
	await until(async () => {
		await other.sync();
		return !await other.get('x');
	});
	await pause(100);
	const shown = [];

	c.notes.$.subscribe(({ operation }) => { shown.push(operation); });
	isHeld = false;
	await until(() => answered > 2);
	await c.replication.awaitInSync();
	assert(!shown.includes('INSERT') && !await c.notes.findOne('x').exec(), `x is back: ${shown}`);
	await c.database.close();
});

test("runReplicationBaseTestSuite of RxDB's own", needsService, () => {
	const mocha = fileURLToPath(new URL('bin/mocha.js', import.meta.resolve('mocha/package.json')));
	const { status, stdout, stderr } = spawnSync(process.execPath, [mocha, '--exit', '--timeout', '40000', '--reporter', 'tap', 'rxdb_suite.js'], {
		cwd: fileURLToPath(new URL('.', import.meta.url)), env: { ...process.env, NODE_ENV: 'fast', DEFAULT_STORAGE: 'memory' }, encoding: 'utf8',
	});

	assert.equal(status, 0, stdout + stderr);
	assert.equal(stdout.match(/^ok /gm)?.length, 3, stdout);
});
