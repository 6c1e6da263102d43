// sqlite.js - a store in SQLite, for Node.js.
//
// Uses node:sqlite, which Node.js has from 22.13 on: nothing has to be compiled or fetched. For earlier versions a Database of
// better-sqlite3 can be passed instead, which has the same functions, as far as they are used here.

import { stat } from 'node:fs/promises';
import { Locks, Queue } from './store.js';

const SCHEMA_VERSION = 1;
const SCHEMA = `
CREATE TABLE value (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE record (key TEXT PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE entry (entry TEXT PRIMARY KEY, key TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version = ${SCHEMA_VERSION};
`;

/**
 * A store in a file. Several processes may have it open.
 * @param {string | any} file its path, or a Database of better-sqlite3
 * @returns {Promise<import('./store.js').Store>}
 */
export async function sqliteStore(file) {
	if (typeof file !== 'string') return new SqliteStore(file, file.name);
	const sqlite = await import('node:sqlite').catch((error) => {
		throw new Error('node:sqlite is in Node.js 22.13 and later; before, hand over a Database of better-sqlite3', { cause: error });
	});

	return new SqliteStore(new sqlite.DatabaseSync(file), file);
}

class SqliteStore {
	#database;
	#path;
	#statements;
	#queue = new Queue();
	#locks = new Locks();

	constructor(database, path) {
		this.#database = database;
		this.#path = path === '' || path === ':memory:' ? null : path;
		database.exec('PRAGMA busy_timeout = 10000; PRAGMA journal_mode = wal; PRAGMA synchronous = full; BEGIN IMMEDIATE');
		try {
			const { user_version: version } = database.prepare('PRAGMA user_version').get();

			if (version > SCHEMA_VERSION) throw new Error(`${path} was made by a later version of this client`);
			if (version < SCHEMA_VERSION) database.exec(SCHEMA);
		} finally {
			database.exec('COMMIT');
		}
		this.#statements = Object.fromEntries(Object.entries({
			read: 'SELECT value FROM value WHERE name = ?',
			write: 'INSERT OR REPLACE INTO value VALUES (?, ?)',
			get: 'SELECT record FROM record WHERE key = ?',
			put: 'INSERT OR REPLACE INTO record VALUES (?, ?)',
			remove: 'DELETE FROM record WHERE key = ?',
			enter: 'INSERT INTO entry VALUES (?, ?)',
			strike: 'DELETE FROM entry WHERE entry = ?',
			list: `SELECT record FROM entry JOIN record USING (key) WHERE entry >= ? AND entry < ? ORDER BY entry LIMIT ?`,
			count: 'SELECT count(*) AS count FROM entry WHERE entry >= ? AND entry < ?',
		}).map(([name, text]) => [name, database.prepare(text)]));
	}

	transaction(work) {
		return this.#queue.run(async () => {
			this.#database.exec('BEGIN IMMEDIATE');
			try {
				const result = await work(this.#transaction());

				this.#database.exec('COMMIT');
				return result;
			} catch (error) {
				try {
					this.#database.exec('ROLLBACK');
				} catch {
					// SQLite has rolled back itself, for example because the disk is full.
				}
				throw error;
			}
		});
	}

	lock(name, work, signal) {
		return this.#locks.lock(name, work, signal);
	}

	async identity() {
		if (this.#path === null) return null;
		const { dev, ino } = await stat(this.#path);

		return `${dev}:${ino}`;
	}

	async close() {
		await this.#queue.run(async () => this.#database.close());
	}

	#transaction() {
		const { read, write, get, put, remove, enter, strike, list, count } = this.#statements;
		const parse = (row, column) => row ? JSON.parse(row[column]) : undefined;
		const find = (key) => parse(get.get(key), 'record');

		return {
			read: async (name) => parse(read.get(name), 'value'),
			write: async (name, value) => { write.run(name, JSON.stringify(value)); },
			get: async (key) => find(key),
			put: async (record) => {
				const before = find(record.key)?.entries ?? [];

				for (const entry of before) if (!record.entries.includes(entry)) strike.run(entry);
				for (const entry of record.entries) if (!before.includes(entry)) enter.run(entry, record.key);
				put.run(record.key, JSON.stringify(record));
			},
			remove: async (key) => {
				for (const entry of find(key)?.entries ?? []) strike.run(entry);
				remove.run(key);
			},
			list: async (from, to, limit) => list.all(from, to, limit).map((row) => parse(row, 'record')),
			count: async (from, to) => count.get(from, to).count,
		};
	}
}
