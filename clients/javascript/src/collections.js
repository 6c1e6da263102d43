// collections.js - several collections of an app, synchronised together, in one request.

import { Collection, inside } from './collection.js';
import { OneAtATime, Schedule, byHand } from './schedule.js';
import { Several } from './several.js';
import { HttpTransport } from './transport.js';

/** Several collections of one service, one token, one store, which are synchronised together. Each is a Collection like any other. */
export class Collections {
	/** @type {Map<string, Collection>} */
	#collections = new Map();
	#store;
	#transport;
	#schedule;
	/** @type {OneAtATime} */
	#syncs = new OneAtATime(() => this.#sync());

	/**
	 * @param {Iterable<string>} names of the collections, as the service knows them
	 * @param {import('./collection.js').Options} options of each of them
	 */
	constructor(names, options) {
		const { store, every, random } = options;

		if (!options.url && !options.transport) throw new TypeError('collections need the url of a service');
		if (!store) throw new TypeError('collections need a store');
		this.#transport = options.transport ?? new HttpTransport('', options);
		this.#store = Promise.resolve(store);
		for (const name of new Set(names)) {
			this.#collections.set(name, new Collection(name, { ...options, store: this.#store, transport: this.#transport.on(name) }));
		}
		this.#schedule = new Schedule({
			sync: () => this.#syncAll(), store: this.#store, name: `start ${JSON.stringify(this.#names())}`, every, random,
		});
		for (const collection of this.#collections.values()) inside.follow(collection, this.#schedule);
	}

	/** In an order that all tabs have. */
	#names() {
		return [...this.#collections.keys()].sort();
	}

	/**
	 * One of them. Its start() and stop() are those of all.
	 * @param {string} name
	 * @returns {Collection}
	 */
	get(name) {
		const collection = this.#collections.get(name);

		if (!collection) throw new TypeError(`"${name}" is none of these collections`);
		return collection;
	}

	/**
	 * Sends, receives, and compares where that is due, for all. What is the matter with one collection keeps no other: it is in
	 * what this resolves with, and in the status of that one. Rejects with what is the matter with all, such as NoAnswer; nothing
	 * is lost by that. One that is called while another is at work begins when that has ended.
	 * @returns {Promise<Map<string, any>>} what kept collections from their end, by their names; empty when there is nothing
	 */
	sync() {
		return byHand(this.#syncs, this.#schedule);
	}

	/** The same, for the schedule, which tries again later if none came to its end. */
	async #syncAll() {
		const errors = await this.#syncs.run();

		if (errors.size && errors.size === this.#collections.size) throw [...errors.values()][0];
	}

	async #sync() {
		for (const collection of this.#collections.values()) inside.began(collection);
		try {
			const errors = await this.#syncLocked(this.#names());

			for (const [name, collection] of this.#collections) inside.ended(collection, errors.get(name) ?? null);
			return errors;
		} catch (error) {
			for (const collection of this.#collections.values()) inside.ended(collection, error);
			throw error;
		}
	}

	/** With these collections locked first: always in the same order, so that two tabs don't wait for each other. */
	async #syncLocked(names) {
		const [first, ...others] = names;

		if (first !== undefined) return (await this.#store).lock(`sync ${first}`, () => this.#syncLocked(others));
		const clients = new Map();

		for (const [name, collection] of this.#collections) clients.set(name, await inside.client(collection));
		const several = new Several(this.#transport, clients);

		await several.run();
		return several.errors;
	}

	/** Synchronises by itself from now on, as Collection.start() does. */
	start() {
		this.#schedule.start();
	}

	/** Ends what start() began. What is unsent stays so until the next sync. */
	stop() {
		this.#schedule.stop();
	}

	/** Ends all that these collections do; the store is yours to close. */
	async close() {
		this.stop();
		await this.#syncs.ended();
		for (const collection of this.#collections.values()) await collection.close();
	}
}
