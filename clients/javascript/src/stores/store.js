// store.js - what a store is: a handful of functions, so that an app can write its own. Memory, IndexedDB and SQLite are here.
//
// A store keeps records by their keys, each with entries by which lists of them are read in order, and values by their names.
// It looks into neither. Keys are text; entries and names are ASCII, and ordered as such. No two records share an entry.

/**
 * @typedef {{ key: string, entries: string[] } & Record<string, unknown>} StoredRecord
 *   that JSON can hold, and no more
 *
 * @typedef {object} StoreTransaction
 * @property {(name: string) => Promise<any>} read a value; undefined or null where there is none
 * @property {(name: string, value: any) => Promise<void>} write
 * @property {(key: string) => Promise<StoredRecord | undefined>} get
 * @property {(record: StoredRecord) => Promise<void>} put in the place of the one with this key
 * @property {(key: string) => Promise<void>} remove
 * @property {(from: string, to: string, limit: number) => Promise<StoredRecord[]>} list
 *   those with an entry from `from` on and before `to`, in the order of these entries
 * @property {(from: string, to: string) => Promise<number>} count
 *
 * @typedef {object} Store
 * @property {<T>(work: (transaction: StoreTransaction) => Promise<T>) => Promise<T>} transaction
 *   one after the other, each whole or not at all: it ends when work does, stored for good, and is undone if work throws
 * @property {<T>(name: string, work: () => Promise<T>, signal?: AbortSignal) => Promise<T | undefined>} lock
 *   does the work when nobody else who has this store open does work under this name; undefined if the signal comes first
 * @property {() => Promise<string | null>} [identity] what the store is kept in: another, when it was copied
 * @property {(message: any) => void} [tell] to all others who have this store open
 * @property {(listener: (message: any) => void) => () => void} [hear] what they tell; returns what ends that
 * @property {() => Promise<void>} close
 */

/** Lets work be done one after the other. */
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

	/** As Store's lock. */
	lock(name, work, signal) {
		if (!this.#queues.has(name)) this.#queues.set(name, new Queue());
		return /** @type {Queue} */ (this.#queues.get(name)).run(async () => signal?.aborted ? undefined : work());
	}
}
