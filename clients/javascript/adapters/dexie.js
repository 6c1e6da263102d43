// dexie.js - binds tables of a Dexie database to collections. README.md has an example.
//
// The app reads and writes its tables as before, with liveQuery(), in transactions, offline. A write and the mark that it is unsent
// are in one transaction. docsync() returns Collections of this package, which synchronise, compare, set aside what is refused and
// ask onConflict: they do all that the client does, since they are the client. Each document is kept twice, as the row, and as the
// text that is sent.
//
// Call docsync() before the database is opened. Rows are objects; their primary key is a property, a text of 1 to 500 bytes that the
// app gives. put() refuses a row that can't be sent, with a TypeError. Rows that are there when a table is bound for the first time
// are sent like edits made then.
//
// What can't be done:
//
// - A row is what JSON makes of it: a Date becomes a string on the other devices, a Blob an empty object.
// - A unique index would keep the rows of two devices from meeting. A table that is synchronised has none but its primary key.
// - What is written without Dexie, by IndexedDB's own functions, isn't noticed.

import { Client, WAITS } from '../src/client.js';
import { Collection } from '../src/collection.js';
import { checkId, toJson } from '../src/jsontext.js';
import { IndexedDbStore, IndexedDbTransaction } from '../src/stores/indexeddb.js';

const RECORDS = 'docsyncRecords';
const VALUES = 'docsyncValues';

/** The client's own tables, to be spread into the schema of the database. */
export const docsyncTables = { [RECORDS]: 'key, *entries', [VALUES]: '' };

/**
 * Binds tables to collections of the service.
 * @param {any} db a Dexie that isn't open yet
 * @param {Record<string, string>} tables {table: the collection's name at the service}
 * @param {Omit<import('../src/collection.js').Options, 'store'>} options
 * @returns {Record<string, Collection>} by table
 */
export function docsync(db, tables, options) {
	for (const table of Object.keys(tables)) {
		const { keyPath } = db.table(table).schema.primKey;

		if (typeof keyPath !== 'string' || !/^[^.]+$/.test(keyPath)) throw new TypeError(`the primary key of ${table} is no property of its rows`);
	}
	const store = new DexieStore(db, tables, options);

	return Object.fromEntries(Object.entries(tables).map(([table, name]) => [table, new Collection(name, { ...options, store })]));
}

/** A store in the app's database, which writes the rows, and notices what the app writes. */
class DexieStore extends IndexedDbStore {
	#db;
	#tables;
	#options;
	/** This store's own transactions, whose writes are no edits. */
	#own = new WeakSet();
	/** @type {Set<(message: any) => void>} */
	#listeners = new Set();

	constructor(db, tables, options) {
		super(db.name);
		this.#db = db;
		this.#tables = tables;
		this.#options = options;
		db.use({ stack: 'dbcore', name: 'docsync', create: (core) => this.#between(core) });
		db.on('ready', async (opened) => {
			for (const [table, collection] of Object.entries(tables)) await this.#begin(opened, table, collection);
		}, true);
	}

	/** Marks the rows that are there when the table is bound for the first time. */
	#begin(db, table, collection) {
		return db.transaction('rw!', [RECORDS, VALUES, table], async ({ idbtrans }) => {
			const { prefix } = this.#client(idbtrans, collection).local;
			const stored = new IndexedDbTransaction(idbtrans, RECORDS, VALUES);
			const mark = `was bound: ${encodeURIComponent(table)}`;
			const edits = [];

			// Rows of another collection, perhaps somebody else's, aren't sent to this one.
			if (await stored.read(mark)) return;
			for (const row of await db.table(table).toArray()) {
				const id = row[db.table(table).schema.primKey.keyPath];

				try {
					checkId(id);
					// An upgrade of the database may have edited some.
					if (!await stored.get(prefix + id)) edits.push([id, toJson(row)]);
				} catch (error) {
					if (!(error instanceof TypeError)) throw error;
					console.warn(`docsync: row "${id}" of ${table} isn't sent: ${error}`);
				}
			}
			await this.#edit(idbtrans, collection, edits);
			await stored.write(mark, collection);
		});
	}

	/** A transaction of its own, even when called inside one of the app's. */
	transaction(work) {
		return this.#db.transaction('rw!', [RECORDS, VALUES, ...Object.keys(this.#tables)], (transaction) => {
			this.#own.add(transaction.idbtrans);
			return work(new RowTransaction(transaction, this.#tables));
		});
	}

	hear(listener) {
		const end = super.hear(listener);

		this.#listeners.add(listener);
		return () => {
			this.#listeners.delete(listener);
			end();
		};
	}

	/** A layer between Dexie's tables and its core, which also marks what is written as unsent. */
	#between(core) {
		const isSynced = (name) => Object.hasOwn(this.#tables, name);

		return {
			transaction: (stores, mode, options) => core.transaction(mode === 'readwrite' && stores.some(isSynced)
				? [...new Set([...stores, RECORDS, VALUES])] : stores, mode, options),
			table: (name) => {
				const table = core.table(name);

				return isSynced(name) ? { ...table, mutate: (request) => this.#mutate(table, this.#tables[name], request) } : table;
			},
		};
	}

	/** With Dexie's promises, so that Dexie knows which transaction it is in. */
	#mutate(table, collection, request) {
		const { trans, type, range, values } = request;
		const { Promise } = this.#db.constructor;

		if (this.#own.has(trans)) return table.mutate(request);
		const keys = type === 'deleteRange'
			? table.query({ trans, values: false, query: { index: table.schema.primaryKey, range }, limit: Infinity }).then(({ result }) => result)
			: request.keys ?? values.map((value) => table.schema.primaryKey.extractKey(value));

		return Promise.resolve(keys).then((ids) => {
			// Checked before anything is written.
			const edits = ids.map((id, i) => {
				checkId(id);
				return [id, values ? toJson(values[i]) : null];
			});

			return table.mutate(request).then((result) =>
				Promise.resolve(this.#edit(trans, collection, edits.filter((_, i) => !(i in result.failures)))).then(() => result));
		});
	}

	/** A client that works in this transaction. */
	#client(trans, collection) {
		const { clientId, onConflict = null, clock = Date.now, random = Math.random, waits } = this.#options;

		return new Client(collection, {
			transport: null, clientId, onConflict, clock, random, waits: { ...WAITS, ...waits }, changed() {},
			store: /** @type {any} */ ({ transaction: (work) => work(new IndexedDbTransaction(trans, RECORDS, VALUES)) }),
		});
	}

	/** Marks what was written, in the transaction that wrote it. */
	async #edit(trans, collection, edits) {
		try {
			await this.#client(trans, collection).edit(edits);
		} catch (error) {
			trans.abort();
			throw error;
		}
		if (!edits.length) return;
		trans.addEventListener('complete', () => {
			const message = { changed: collection, ids: edits.map(([id]) => id), edited: true };

			for (const listener of this.#listeners) listener(message);
			this.tell(message);
		});
	}
}

/** A transaction of the client: where it changes a document's body, it changes the row in the app's table. */
class RowTransaction extends IndexedDbTransaction {
	#transaction;
	#tables;
	#bodies = new Map();

	constructor(transaction, tables) {
		super(transaction.idbtrans, RECORDS, VALUES);
		this.#transaction = transaction;
		this.#tables = new Map(Object.entries(tables).map(([table, collection]) => [encodeURIComponent(collection), table]));
	}

	async get(key) {
		const record = await super.get(key);

		this.#bodies.set(key, record?.body);
		return record;
	}

	async list(from, to, limit) {
		const records = await super.list(from, to, limit);

		for (const { key, body } of records) this.#bodies.set(key, body);
		return records;
	}

	async put(record) {
		if ((this.#bodies.get(record.key) ?? null) !== record.body) await this.#write(record.key, record.body);
		this.#bodies.set(record.key, record.body);
		await super.put(record);
	}

	async remove(key) {
		if (this.#bodies.get(key) !== null) await this.#write(key, null);
		await super.remove(key);
	}

	/** A key is the collection, a space, the id. */
	#write(key, body) {
		const space = key.indexOf(' ');
		const id = key.slice(space + 1);
		const table = this.#transaction.table(this.#tables.get(key.slice(0, space)));

		return body === null ? table.delete(id) : table.put({ ...JSON.parse(body), [table.schema.primKey.keyPath]: id });
	}
}
