// memory.js - a store that lasts as long as the page or process: for tests, and where nothing may be kept.

import { Locks, Queue } from './store.js';

/**
 * A store in memory.
 * @returns {import('./store.js').Store}
 */
export function memoryStore() {
	return new MemoryStore();
}

class MemoryStore {
	#records = new Map();
	#values = new Map();
	/** @type {[string, string][]} [entry, key], in order */
	#entries = [];
	#queue = new Queue();
	#locks = new Locks();

	transaction(work) {
		return this.#queue.run(async () => {
			/** @type {(() => void)[]} */
			const undo = [];

			try {
				return await work(this.#transaction(undo));
			} catch (error) {
				for (const step of undo.reverse()) step();
				throw error;
			}
		});
	}

	lock(name, work, signal) {
		return this.#locks.lock(name, work, signal);
	}

	async close() {}

	#transaction(undo) {
		const restore = (map, key) => {
			const before = map.get(key);

			return () => before === undefined ? map.delete(key) : map.set(key, before);
		};
		const replace = (key, record) => {
			const before = this.#records.get(key);

			undo.push(() => this.#replace(key, before));
			this.#replace(key, record);
		};

		// Records are never changed in place; values are copied.
		return {
			read: async (name) => structuredClone(this.#values.get(name)),
			write: async (name, value) => {
				undo.push(restore(this.#values, name));
				this.#values.set(name, structuredClone(value));
			},
			get: async (key) => this.#records.get(key),
			put: async (record) => replace(record.key, record),
			remove: async (key) => replace(key, undefined),
			list: async (from, to, limit) => {
				const first = this.#place(from);

				return this.#entries.slice(first, Math.min(this.#place(to), first + limit)).map(([, key]) => this.#records.get(key));
			},
			count: async (from, to) => this.#place(to) - this.#place(from),
		};
	}

	/** Where an entry is, or would be. */
	#place(entry) {
		let low = 0;
		let high = this.#entries.length;

		while (low < high) {
			const middle = low + high >> 1;

			if (this.#entries[middle][0] < entry) low = middle + 1;
			else high = middle;
		}
		return low;
	}

	#replace(key, record) {
		for (const entry of this.#records.get(key)?.entries ?? []) this.#entries.splice(this.#place(entry), 1);
		if (record === undefined) {
			this.#records.delete(key);
			return;
		}
		this.#records.set(key, record);
		for (const entry of record.entries) this.#entries.splice(this.#place(entry), 0, [entry, key]);
	}
}
