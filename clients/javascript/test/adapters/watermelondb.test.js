// WatermelonDB: the scenarios, and what its manual says that a backend must do, by its numbers.

import assert from 'node:assert/strict';
import test from 'node:test';
import { docsync } from 'docsync-client/adapters/watermelondb';
import { Database, Model, Q, appSchema, tableSchema } from '@nozbe/watermelondb';
import loki from '@nozbe/watermelondb/adapters/lokijs/index.js';
import { synchronize } from '@nozbe/watermelondb/sync/index.js';
import logger from '@nozbe/watermelondb/utils/common/logger/index.js';
import { HttpTransport } from '../../src/transport.js';
import { BadLine, TOKEN, URL_OF_SERVICE, anyName, needsService } from '../service.js';
import { play } from './scenarios.js';

logger.default.silence();

const columns = [{ name: 'text', type: 'string' }, { name: 'refuse', type: 'string', isOptional: true }];
const SCHEMA = appSchema({ version: 1, tables: [tableSchema({ name: 'entries', columns })] });

class Entry extends Model {
	static table = 'entries';
}

/** A database in memory; of: the one that it goes on from. */
async function openDatabase(of, schema = SCHEMA, modelClasses = [Entry]) {
	const adapter = of ? await of.adapter.underlyingAdapter.testClone()
		: new loki.default({ schema, useWebWorker: false, useIncrementalIndexedDB: false, dbName: `${Math.random()}` });

	return new Database({ adapter, modelClasses });
}

const library = {
	name: 'watermelondb',
	cannot: { 'a later edit beats a deletion': 'a deletion elsewhere removes the record here, with its unsent edit' },
	async open({ url, token, name, store }) {
		const database = await openDatabase(store);
		const entries = database.get('entries');
		const refused = [];
		const sync = docsync({ database, tables: { entries: name }, url, token, onRefused: ({ id }) => refused.push(id) });
		const find = async (id) => (await entries.query(Q.where('id', id)).fetch())[0];

		return {
			put: (id, text, more) => database.write(async () => {
				const record = await find(id);
				const set = (made) => Object.entries({ text, ...more }).forEach(([column, value]) => made._setRaw(column, value));

				if (record) {
					await record.update(set);
				} else {
					// WatermelonDB keeps a deleted record until that is sent, and its ids are random. Here they come again.
					await database.adapter.destroyDeletedRecords('entries', [id]);
					await entries.create((made) => {
						made._raw.id = id;
						set(made);
					});
				}
			}),
			delete: (id) => database.write(async () => (await find(id))?.markAsDeleted()),
			content: async () => Object.fromEntries((await entries.query().fetch()).map(({ id, _raw }) => [id, _raw.text])),
			sync: () => synchronize({ database, ...sync }),
			refused: () => refused,
			close: async () => database,
		};
	},
};

play(library);

// What "Implementing your Sync backend" of WatermelonDB's manual says that an endpoint MUST do, by its numbers: what synchronize()
// hands over and gets, with the service behind it.

const BACKEND = [
	tableSchema({ name: 'projects', columns: [{ name: 'name', type: 'string' }, { name: 'stars', type: 'number' }] }),
	tableSchema({ name: 'tasks', columns: [{ name: 'name', type: 'string' }, { name: 'refuse', type: 'string', isOptional: true }] }),
];

class Project extends Model {
	static table = 'projects';
}

class Task extends Model {
	static table = 'tasks';
}

/** The adapter's two functions for a database, over a line of their own, and what others do at the service. */
async function makeBackend() {
	const tables = { projects: anyName(), tasks: anyName() };
	const line = await BadLine.start();
	const database = await openDatabase(undefined, appSchema({ version: 1, tables: BACKEND }), [Project, Task]);
	const hooks = { before: async (path) => {} };
	const open = (of) => docsync({
		database: of, tables, url: line.url, token: TOKEN, onRefused() {},
		async fetch(url, request) {
			await hooks.before(new URL(url).pathname);
			return fetch(url, request);
		},
	});
	const { pullChanges, pushChanges } = open(database);
	const at = (table) => new HttpTransport(tables[table], { url: URL_OF_SERVICE, token: TOKEN });
	let version = BigInt(Date.now());

	return {
		line, database, open, hooks,
		pull: (lastPulledAt = null, migration = null) => pullChanges({ lastPulledAt, schemaVersion: 1, migration }),
		push: (lastPulledAt, changes) => pushChanges({ lastPulledAt, changes }),
		/** As another client; without a body it is deleted. */
		write: (table, ...documents) => at(table).upload('another', documents.map(([id, body]) => (
			{ id, clientVersion: ++version, deleted: body === undefined, body: JSON.stringify(body) ?? null, unsent: 0 }))),
		async stored(table, id) {
			const { documents } = await at(table).get('reader', null, [id]);

			return documents.length ? documents[0].body && JSON.parse(documents[0].body) : undefined;
		},
	};
}

const changed = (parts) => ({ created: [], updated: [], deleted: [], ...parts });
const ids = (records) => records.map(({ id }) => id).sort();

function must(name, run) {
	test(`its manual: ${name}`, needsService, async () => {
		const backend = await makeBackend();

		try {
			await run(backend);
		} finally {
			await backend.line.down();
		}
	});
}

must('pull 1 to 4: what was created, updated, deleted since, all at first, each once', async ({ pull, write }) => {
	const empty = await pull();

	assert.deepEqual(empty.changes, { projects: changed(), tasks: changed() });
	assert(Number.isInteger(empty.timestamp) && empty.timestamp > 0, 'a timestamp, though there is nothing');
	await write('projects', ['p1', { name: 'one' }]);
	await write('tasks', ['t1', { name: 'a' }]);
	await write('tasks', ['t2', { name: 'b' }]);
	const first = await pull(empty.timestamp);

	assert.deepEqual([ids(first.changes.projects.updated), ids(first.changes.tasks.updated)], [['p1'], ['t1', 't2']]);
	await write('tasks', ['t1', { name: 'c' }]);
	await write('tasks', ['t1', { name: 'd' }]);
	await write('tasks', ['t2']);
	const second = await pull(first.timestamp);

	assert.deepEqual(second.changes, { projects: changed(), tasks: changed({ updated: [{ id: 't1', name: 'd' }], deleted: ['t2'] }) });
	assert.deepEqual((await pull(first.timestamp)).changes, second.changes, 'the same timestamp gives the same');
	const all = await pull();

	assert.deepEqual([ids(all.changes.projects.updated), all.changes.tasks.updated], [['p1'], [{ id: 't1', name: 'd' }]], 'all without one');
});

must('pull 2 and 5: a consistent view, though others write while it is read', async ({ pull, write, hooks }) => {
	await write('tasks', ...Array.from({ length: 1500 }, (_, n) => [`t${n}`, { name: 'old' }]));
	let requests = 0;

	// Before the second page, when there were no projects, come a project with a task, and a task that was read is changed.
	hooks.before = async () => {
		if (++requests !== 2) return;
		await write('projects', ['p', { name: 'new' }]);
		await write('tasks', ['of p', { name: 'new' }]);
		await write('tasks', ['t0', { name: 'new' }]);
	};
	const { changes } = await pull();
	const tasks = new Map(changes.tasks.updated.map(({ id, name }) => [id, name]));

	assert.equal(changes.tasks.updated.length, 1501, 'no id twice');
	assert.deepEqual([ids(changes.projects.updated), tasks.size, tasks.get('of p'), tasks.get('t0')], [['p'], 1501, 'new', 'new']);
});

must('push 5: what came twice, since it was changed while it was read, was not changed since', async ({ pull, push, write, stored, hooks }) => {
	await write('tasks', ...Array.from({ length: 1500 }, (_, n) => [`t${n}`, { name: 'old' }]));
	let requests = 0;

	hooks.before = async () => { if (++requests === 2) await write('tasks', ['t0', { name: 'new' }]); };
	const { timestamp } = await pull();

	await push(timestamp, { tasks: changed({ updated: [{ id: 't0', name: 'mine', _status: 'updated', _changed: 'name' }] }) });
	assert.deepEqual(await stored('tasks', 't0'), { id: 't0', name: 'mine' });
});

must('pull 6: after a migration, what its tables and columns are about', async ({ pull, write }) => {
	await write('projects', ['p', { name: 'one', stars: 3 }]);
	await write('tasks', ['t', { name: 'a' }]);
	const { timestamp } = await pull();
	const columns = await pull(timestamp, { from: 1, tables: [], columns: [{ table: 'projects', columns: ['stars'] }] });

	assert.deepEqual(columns.changes, { projects: changed({ updated: [{ id: 'p', name: 'one', stars: 3 }] }), tasks: changed() });
	const tables = await pull(timestamp, { from: 1, tables: ['tasks'], columns: [] });

	assert.deepEqual(tables.changes, { projects: changed(), tasks: changed({ updated: [{ id: 't', name: 'a' }] }) });
});

must('pull 7 to 13: columns, ids and tables that the schema has, and no others', async ({ pull, write, database, open }) => {
	await write('projects', ['p', JSON.parse('{"name": 7, "stars": "x", "_status": "created", "_changed": "name", "__proto__": {"a": 1}, "constructor": 1, "later": 2}')]);
	await write('projects', ["it's", { name: 'unsafe' }]);
	await write('projects', ['text', 'no object']);
	const { changes } = await pull();

	assert.deepEqual(Object.keys(changes), ['projects', 'tasks']);
	assert.deepEqual(changes.projects.updated.sort((a, b) => a.id < b.id ? -1 : 1), [{ id: 'p', name: 7, stars: 'x' }, { id: 'text' }]);
	await synchronize({ database, ...open(database) });
	const { _raw } = await database.get('projects').find('p');

	assert.deepEqual([_raw.name, _raw.stars, _raw._status], ['', 0, 'synced'], 'as the schema has them');
});

must('push 1, 6 and 8: records are created, updated, deleted; _status and _changed are nobody else\'s business', async ({ pull, push, stored }) => {
	const first = await pull();
	const record = { _status: 'created', _changed: '' };
	const result = await push(first.timestamp, {
		projects: changed({ created: [{ id: 'p', name: 'one', stars: 1, ...record }] }),
		tasks: changed({ created: [{ id: 't', name: 'a', ...record }, { id: 'u', name: 'b', ...record }] }),
	});

	assert.deepEqual(result.experimentalRejectedIds, { projects: [], tasks: [] });
	assert.deepEqual(await stored('projects', 'p'), { id: 'p', name: 'one', stars: 1 });
	const { timestamp } = await pull(first.timestamp);

	await push(timestamp, { projects: changed(), tasks: changed({ updated: [{ id: 't', name: 'c', _status: 'updated', _changed: 'name' }], deleted: ['u'] }) });
	assert.deepEqual([await stored('tasks', 't'), await stored('tasks', 'u')], [{ id: 't', name: 'c' }, null]);
});

must('push 2: a new record that is there already is updated', async ({ pull, push, stored }) => {
	const { timestamp } = await pull();
	const created = (name) => ({ projects: changed({ created: [{ id: 'p', name, _status: 'created', _changed: '' }] }) });

	await push(timestamp, created('one'));		// the answer to which was lost
	assert.deepEqual((await push(timestamp, created('two'))).experimentalRejectedIds, { projects: [] });
	assert.deepEqual(await stored('projects', 'p'), { id: 'p', name: 'two' });
});

must('push 3: an update of what was deleted is an error, of what never was creates it', async ({ pull, push, write, stored }) => {
	await write('projects', ['p', { name: 'one' }]);
	const { timestamp } = await pull();

	await write('projects', ['p']);
	await assert.rejects(push(timestamp, { projects: changed({ updated: [{ id: 'p', name: 'two' }] }) }), { name: 'ChangedSincePull' });
	assert.equal(await stored('projects', 'p'), null);
	await push(timestamp, { projects: changed({ updated: [{ id: 'q', name: 'two' }] }) });
	assert.deepEqual(await stored('projects', 'q'), { id: 'q', name: 'two' });
});

must('push 4: a deletion of what is not there, or was deleted meanwhile, is no error', async ({ pull, push, write }) => {
	await write('projects', ['p', { name: 'one' }]);
	const { timestamp } = await pull();

	await write('projects', ['p']);
	assert.deepEqual((await push(timestamp, { projects: changed({ deleted: ['p', 'never'] }) })).experimentalRejectedIds, { projects: [] });
});

must('push 5 and 7: what was changed since the pull is an error, and then nothing is applied', async ({ pull, push, write, stored, line }) => {
	await write('projects', ['p', { name: 'one' }]);
	const { timestamp } = await pull();
	const changes = { projects: changed({ updated: [{ id: 'p', name: 'mine' }] }), tasks: changed({ created: [{ id: 't', name: 'a' }] }) };

	await write('projects', ['p', { name: 'theirs' }]);
	await assert.rejects(push(timestamp, changes), { name: 'ChangedSincePull' });
	assert.deepEqual([await stored('projects', 'p'), await stored('tasks', 't')], [{ name: 'theirs' }, undefined]);
	const next = await pull(timestamp);

	line.fault = ({ path }) => path === '/Docs/Sync' ? { status: 503, headers: {}, body: '' } : undefined;
	await assert.rejects(push(next.timestamp, changes));
	assert.deepEqual([await stored('projects', 'p'), await stored('tasks', 't')], [{ name: 'theirs' }, undefined], 'all tables are one transaction');
	line.fault = () => undefined;
	await push(next.timestamp, changes);
	assert.deepEqual([await stored('projects', 'p'), await stored('tasks', 't')], [{ id: 'p', name: 'mine' }, { id: 't', name: 'a' }]);
});

must('push 5, while it is sent: what was changed after it was looked at stays unsent', async ({ pull, push, write, stored, hooks }) => {
	await write('projects', ['p', { name: 'one' }]);
	const { timestamp } = await pull();

	hooks.before = async (path) => { if (path === '/Docs/Sync') await write('projects', ['p', { name: 'theirs' }]); };
	const { experimentalRejectedIds } = await push(timestamp, { projects: changed({ updated: [{ id: 'p', name: 'mine' }] }) });

	assert.deepEqual(experimentalRejectedIds, { projects: ['p'] });
	assert.deepEqual(await stored('projects', 'p'), { name: 'theirs' });
});

must('push 9: what the service refuses stays unsent, and keeps no other', async ({ pull, push, stored }) => {
	const { timestamp } = await pull();
	const { experimentalRejectedIds } = await push(timestamp, {
		tasks: changed({ created: [{ id: 'bad', name: 'a', refuse: 'check' }, { id: 'good', name: 'b' }] }),
		projects: changed({ created: [{ id: 'p', name: 'one' }] }),
	});

	assert.deepEqual(experimentalRejectedIds, { projects: [], tasks: ['bad'] });
	assert.deepEqual([await stored('tasks', 'bad'), (await stored('tasks', 'good')).name, (await stored('projects', 'p')).name], [undefined, 'b', 'one']);
});

must('what a body has besides the columns is kept', async ({ pull, push, write, stored }) => {
	await write('projects', ['p', { name: 'one', later: 2 }]);
	const { timestamp } = await pull();

	await push(timestamp, { projects: changed({ updated: [{ id: 'p', name: 'two', stars: 0 }] }) });
	assert.deepEqual(await stored('projects', 'p'), { id: 'p', name: 'two', stars: 0, later: 2 });
});

must("what doesn't fit its column is kept, unless it is edited", async ({ write, stored, database, open }) => {
	await write('projects', ['p', { name: 'one', stars: 'many' }]);
	const sync = () => synchronize({ database, ...open(database) });
	const edit = (change) => database.write(async () => (await database.get('projects').find('p')).update(change));

	await sync();
	await edit((project) => project._setRaw('name', 'two'));
	await sync();
	assert.deepEqual(await stored('projects', 'p'), { id: 'p', name: 'two', stars: 'many' });
	await edit((project) => project._setRaw('stars', 7));
	await sync();
	assert.deepEqual(await stored('projects', 'p'), { id: 'p', name: 'two', stars: 7 });
});
