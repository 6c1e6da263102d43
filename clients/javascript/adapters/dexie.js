// dexie.js - tables of a Dexie database, each a collection.
//
//	import Dexie from 'dexie';
//	import { docsync, docsyncTables } from 'docsync-client/adapters/dexie';
//
//	const db = new Dexie('app');
//	db.version(1).stores({ items: 'id, text', ...docsyncTables });
//	const { items } = docsync(db, { items: 'notes' }, { url, token });
//
//	await db.items.put({ id: 'shopping', text: 'bread' });
//	items.start();
//
// The app reads and writes its tables as ever, with liveQuery(), in transactions, offline. A write and the mark that it is unsent
// are in one transaction. What docsync() returns are Collections (README.md) of this package, which synchronise, compare, set
// aside what is refused and ask onConflict: they have all that the client has, since they are the client. Each document is kept
// twice, as the row, and as the text that is sent.
//
// Call docsync() before the database is opened. Rows are objects, their primary keys texts of 1 to 500 bytes that the app gives.
// A row that can't be sent is refused by put(), with a TypeError.
//
// What can't be done:
//
// - A row is what JSON makes of it: a Date is a string on the other devices, a Blob is nothing.
// - A unique index would keep two devices' rows from meeting. A table that is synchronised has none but its primary key.
// - What writes beside Dexie, with IndexedDB's own functions, isn't seen.

import { Client, WAITS } from '../src/client.js';
import { Collection } from '../src/collection.js';
import { checkId, toJson } from '../src/jsontext.js';
import { IndexedDbStore, IndexedDbTransaction } from '../src/stores/indexeddb.js';

const RECORDS = 'docsyncRecords';
const VALUES = 'docsyncValues';

/** What the client has to know of the documents: to be spread into the schema of the database. */
export const docsyncTables = { [RECORDS]: 'key, *entries', [VALUES]: '' };

/**
 * Binds tables to collections of the service.
 * @param {any} db a Dexie that isn't open yet
 * @param {Record<string, string>} tables {table: the collection, as the service knows it}
 * @param {Omit<import('../src/collection.js').Options, 'store'>} options
 * @returns {Record<string, Collection>} of each table
 */
export function docsync(db, tables, options) {
	const store = new DexieStore(db, tables, options);

	return Object.fromEntries(Object.entries(tables).map(([table, name]) => [table, new Collection(name, { ...options, store })]));
}

/** A store in the app's database, which writes the rows, and hears what the app writes. */
class DexieStore extends IndexedDbStore {
	#db;
	#tables;
	#options;
	/** Transactions of this store's, whose writes are no edits. */
	#own = new WeakSet();
	/** @type {Set<(message: any) => void>} */
	#listeners = new Set();

	constructor(db, tables, options) {
		super(db.name);
		this.#db = db;
		this.#tables = tables;
		this.#options = options;
		db.use({ stack: 'dbcore', name: 'docsync', create: (core) => this.#between(core) });
	}

	/** A transaction of its own, though it be asked for in one of the app's. */
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

	/** Between Dexie's tables and its core: what is written there is also noted as unsent. */
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

	/** In Dexie's promises, so that Dexie knows in which transaction it is. */
	#mutate(table, collection, request) {
		const { trans, type, range, values } = request;
		const { Promise } = this.#db.constructor;

		if (this.#own.has(trans)) return table.mutate(request);
		const keys = type === 'deleteRange'
			? table.query({ trans, values: false, query: { index: table.schema.primaryKey, range }, limit: Infinity }).then(({ result }) => result)
			: request.keys ?? values.map((value) => table.schema.primaryKey.extractKey(value));

		return Promise.resolve(keys).then((ids) => {
			// What is refused is refused before it is written.
			const edits = ids.map((id, i) => {
				checkId(id);
				return [id, values ? toJson(values[i]) : null];
			});

			return table.mutate(request).then((result) =>
				Promise.resolve(this.#edit(trans, collection, edits.filter((_, i) => !(i in result.failures)))).then(() => result));
		});
	}

	/** Marks what was written, in the transaction that wrote it. */
	async #edit(trans, collection, edits) {
		const { clientId, onConflict = null, clock = Date.now, random = Math.random, waits } = this.#options;
		const client = new Client(collection, {
			transport: null, clientId, onConflict, clock, random, waits: { ...WAITS, ...waits }, changed() {},
			store: /** @type {any} */ ({ transaction: (work) => work(new IndexedDbTransaction(trans, RECORDS, VALUES)) }),
		});

		try {
			await client.edit(edits);
		} catch (error) {
			trans.abort();
			throw error;
		}
		trans.addEventListener('complete', () => {
			const message = { changed: collection, ids: edits.map(([id]) => id), edited: true };

			for (const listener of this.#listeners) listener(message);
			this.tell(message);
		});
	}
}

/** Of the client's: a document whose body it changes is changed in the app's table. */
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
