// store.js - the interface of a store: a handful of functions, so that an app can write its own. Stores in memory, IndexedDB
// and SQLite are provided.
//
// A store keeps records by key, each with entries by which they are listed in order, and values by name. It doesn't look into
// either. Keys are text; entries and names are ASCII, and ordered as such. No two records share an entry.

/**
 * @typedef {{ key: string, entries: string[] } & Record<string, unknown>} StoredRecord
 *   that JSON can hold, and no more
 *
 * @typedef {object} StoreTransaction
 * @property {(name: string) => Promise<any>} read a value; undefined or null if there is none
 * @property {(name: string, value: any) => Promise<void>} write
 * @property {(key: string) => Promise<StoredRecord | undefined>} get
 * @property {(record: StoredRecord) => Promise<void>} put, replacing the one with this key
 * @property {(key: string) => Promise<void>} remove
 * @property {(from: string, to: string, limit: number) => Promise<StoredRecord[]>} list
 *   those with an entry from `from` on and before `to`, in the order of these entries
 * @property {(from: string, to: string) => Promise<number>} count
 *
 * @typedef {object} Store
 * @property {<T>(work: (transaction: StoreTransaction) => Promise<T>) => Promise<T>} transaction one after the other, each
 *   completely or not at all: it ends when work does, durably stored, and is rolled back if work throws
 * @property {<T>(name: string, work: () => Promise<T>, signal?: AbortSignal) => Promise<T | undefined>} lock does the work when
 *   nobody else who has this store open does work under this name; undefined if it is aborted first
 * @property {() => Promise<string | null>} [identity] identifies what the store is kept in: changes when it is copied
 * @property {(message: any) => void} [tell] to all others who have this store open
 * @property {(listener: (message: any) => void) => () => void} [hear] receives what they tell; returns a function that ends it
 * @property {() => Promise<void>} close
 */

/** Does work one after the other. */
export class Queue {
	#last = Promise.resolve();

	/**
	 * @template T
	 * @param {() => Promise<T>} work
	 * @returns {Promise<T>}
	 */
	run(work) {
		const result = this.#last.then(work);

		this.#last = result.then(() => undefined, () => undefined);
		return result;
	}
}

/** Locks within this process. */
export class Locks {
	/** @type {Map<string, Queue>} */
	#queues = new Map();

	/** Like Store's lock. */
	lock(name, work, signal) {
		if (!this.#queues.has(name)) this.#queues.set(name, new Queue());
		return /** @type {Queue} */ (this.#queues.get(name)).run(async () => signal?.aborted ? undefined : work());
	}
}
