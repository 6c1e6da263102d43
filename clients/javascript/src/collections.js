// collections.js - several collections of an app, synchronised together, in one request.

import { Collection, inside, listeningOf } from './collection.js';
import { reasonOf } from './errors.js';
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
		const { store, every, random, live = true } = options;

		if (!options.url && !options.transport) throw new TypeError('collections need the url of a service');
		if (!store) throw new TypeError('collections need a store');
		this.#transport = options.transport ?? new HttpTransport('', options);
		this.#store = Promise.resolve(store);
		for (const name of new Set(names)) {
			this.#collections.set(name, new Collection(name, { ...options, live: false, store: this.#store, transport: this.#transport.on(name) }));
		}
		this.#schedule = new Schedule({
			sync: () => this.#syncAll(), store: this.#store, name: `start ${JSON.stringify(this.#names())}`, every, random,
			listening: live ? listeningOf(this.#transport, this.#collections, random) : null,
		});
		for (const collection of this.#collections.values()) inside.follow(collection, this.#schedule);
	}

	/** In an order that is the same in all tabs. */
	#names() {
		return [...this.#collections.keys()].sort();
	}

	/**
	 * One of the collections. Its start() and stop() apply to all.
	 * @param {string} name
	 * @returns {Collection}
	 */
	get(name) {
		const collection = this.#collections.get(name);

		if (!collection) throw new TypeError(`"${name}" is none of these collections`);
		return collection;
	}

	/**
	 * Sends, receives, and compares if that is due, for all. An error of one collection doesn't stop the others: it is in the
	 * result, and in the status of that collection. Rejects with an error that concerns all, such as NoAnswer; nothing is lost by
	 * that. One that is called while another is running begins when that has ended.
	 * @returns {Promise<Map<string, any>>} the errors, by the names of the collections; empty if there are none
	 */
	sync() {
		return byHand(this.#syncs, this.#schedule);
	}

	/** The same, for the schedule, which tries again later if none succeeded. */
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
		} catch (rejection) {
			const error = reasonOf(rejection);

			for (const collection of this.#collections.values()) inside.ended(collection, error);
			throw error;
		}
	}

	/** Runs with these collections locked, always in the same order, so that two tabs don't wait for each other. */
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

	/** Ends what start() began. What is unsent is kept until the next sync. */
	stop() {
		this.#schedule.stop();
	}

	/** Ends everything that these collections do; closing the store is up to you. */
	async close() {
		this.stop();
		await this.#syncs.ended();
		for (const collection of this.#collections.values()) await collection.close();
	}
}
