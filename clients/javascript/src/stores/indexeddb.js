// indexeddb.js - a store in the browser. Documents, cursor and unsent marks are in one transaction, which is on the disk when it
// ends. Web Locks make sure that only one tab synchronises, a BroadcastChannel tells the others.

import { Locks } from './store.js';

const VERSION = 1;

/**
 * A store in IndexedDB with this name; an app needs only one for all its collections.
 * @param {string} name
 * @returns {import('./store.js').Store}
 */
export function indexedDbStore(name) {
	return new IndexedDbStore(name);
}

/** The store, in a database of its own. */
export class IndexedDbStore {
	#name;
	/** @type {Promise<IDBDatabase> | null} */
	#database = null;
	/** @type {BroadcastChannel | null} */
	#channel = null;
	#locks = new Locks();		// there are no Web Locks if the page isn't a secure context

	constructor(name) {
		this.#name = `docsync ${name}`;
	}

	#open() {
		this.#database ??= new Promise((resolve, reject) => {
			const request = indexedDB.open(this.#name, VERSION);

			request.onupgradeneeded = () => {
				request.result.createObjectStore('records', { keyPath: 'key' }).createIndex('entries', 'entries', { multiEntry: true });
				request.result.createObjectStore('values');
			};
			request.onsuccess = () => {
				const database = request.result;

				// It is being deleted by the user or another tab, or upgraded: it will be reopened when needed next.
				database.onclose = () => { this.#database = null; };
				database.onversionchange = () => {
					database.close();
					this.#database = null;
				};
				resolve(database);
			};
			request.onerror = () => {
				this.#database = null;
				reject(request.error);
			};
		});
		return this.#database;
	}

	async transaction(work) {
		const database = await this.#open();
		const transaction = database.transaction(['records', 'values'], 'readwrite', { durability: 'strict' });
		const ended = new Promise((resolve, reject) => {
			transaction.oncomplete = resolve;
			transaction.onabort = () => reject(transaction.error ?? new DOMException('aborted', 'AbortError'));
		});

		ended.catch(() => {});
		try {
			const result = await work(new IndexedDbTransaction(transaction));

			await ended;
			return result;
		} catch (error) {
			try {
				transaction.abort();
			} catch {
				// The transaction has ended already.
			}
			// The reason, if it wasn't an error of work: for example QuotaExceededError.
			throw transaction.error ?? error;
		}
	}

	lock(name, work, signal) {
		if (!globalThis.navigator?.locks) return this.#locks.lock(name, work, signal);
		return navigator.locks.request(`${this.#name} ${name}`, { signal }, work).catch((error) => {
			if (!signal?.aborted) throw error;
			return undefined;
		});
	}

	tell(message) {
		this.#channel ??= new BroadcastChannel(this.#name);
		this.#channel.postMessage(message);
	}

	hear(listener) {
		this.#channel ??= new BroadcastChannel(this.#name);
		const hear = (event) => listener(event.data);

		this.#channel.addEventListener('message', hear);
		return () => this.#channel?.removeEventListener('message', hear);
	}

	async close() {
		this.#channel?.close();
		this.#channel = null;
		(await this.#database)?.close();
		this.#database = null;
	}
}

/** What can be done in a transaction. */
export class IndexedDbTransaction {
	#records;
	#values;

	/**
	 * @param {IDBTransaction} transaction
	 * @param {string} [records] names of the object stores
	 * @param {string} [values]
	 */
	constructor(transaction, records = 'records', values = 'values') {
		this.#records = transaction.objectStore(records);
		this.#values = transaction.objectStore(values);
	}

	read(name) {
		return resultOf(this.#values.get(name));
	}

	// A failed write aborts the transaction, which reports it; the single writes aren't awaited.
	async write(name, value) {
		this.#values.put(value, name);
	}

	get(key) {
		return resultOf(this.#records.get(key));
	}

	async put(record) {
		this.#records.put(record);
	}

	async remove(key) {
		this.#records.delete(key);
	}

	list(from, to, limit) {
		return resultOf(this.#records.index('entries').getAll(IDBKeyRange.bound(from, to, false, true), limit));
	}

	count(from, to) {
		return resultOf(this.#records.index('entries').count(IDBKeyRange.bound(from, to, false, true)));
	}
}

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function resultOf(request) {
	return new Promise((resolve, reject) => {
		request.onsuccess = () => resolve(request.result);
		request.onerror = () => reject(request.error);
	});
}
