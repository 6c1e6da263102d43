// collection.js - what an app uses: a collection of documents that is available locally, even offline, and synchronised.

import { Client, WAITS } from './client.js';
import { EDIT, order } from './document.js';
import { fromMessage, reasonOf, toMessage } from './errors.js';
import { checkId, toJson } from './jsontext.js';
import { Listening } from './listen.js';
import { OneAtATime, Schedule, byHand } from './schedule.js';
import { HttpTransport } from './transport.js';

/**
 * @typedef {object} Options
 * @property {string} url of the service, such as https://example.org (where /Docs is)
 * @property {import('./transport.js').Token} [token] a token, or a function that gives one
 * @property {import('./stores/store.js').Store | Promise<import('./stores/store.js').Store>} store indexedDbStore('app'), memoryStore(), or sqliteStore('app.sqlite') of
 *	docsync-client/sqlite. One store serves all collections of an app
 * @property {(conflict: Conflict) => unknown} [onConflict] called when an edit here and one elsewhere were made independently.
 *	What it returns, or promises, becomes the document, in a new version; DELETE deletes it; undefined leaves it to the
 *	service's rule, by which the higher clientVersion wins
 * @property {string} [clientId] only if the service's tokens name the client (claim client_id); otherwise one is made with the
 *	store
 * @property {number} [every] milliseconds between two syncs of start(); by default a minute
 * @property {boolean} [live] whether start() listens for changes, where the service has that (/Docs/Live); by default it does
 * @property {Partial<import('./client.js').Waits>} [waits]
 * @property {number} [timeout] milliseconds for a request
 * @property {typeof fetch} [fetch]
 * @property {() => number} [clock] milliseconds since 1970
 * @property {() => number} [random] at least 0, below 1
 * @property {any} [transport] instead of url and token: another way to reach the service, for tests
 *
 * @typedef {object} Conflict
 * @property {string} id
 * @property {ConflictVersion} mine
 * @property {ConflictVersion} theirs
 *
 * @typedef {{ body: any, deleted: boolean, clientVersion: bigint }} ConflictVersion
 *
 * @typedef {object} Change a document as it is now
 * @property {string} id
 * @property {any} body undefined if it is deleted
 * @property {boolean} deleted
 * @property {boolean} unsent the service doesn't have this version yet
 * @property {string | null} error why the service refuses it; it is kept here, and sent again when it is edited
 *
 * @typedef {object} Status if the store can't be read, error says so, and the rest is what was known last
 * @property {string} clientId
 * @property {number} unsent how many documents the service doesn't have in this version yet
 * @property {number} setAside how many it refuses: problems() lists them
 * @property {boolean} syncing
 * @property {boolean} live start() hears of changes elsewhere as they happen, here; otherwise it asks every minute
 * @property {number | null} syncedAt when a sync last went through, here or in another tab, in milliseconds
 * @property {any} error why the last sync failed: Refused, NoAnswer, BadAnswer, or an error of the store; null if it didn't
 * @property {number | null} equalAt when it was last found to be the same as the service's
 * @property {string | null} twin if another store with this one's clientId was seen
 */

/** @type {Inside} */
export let inside;

/** A collection of JSON documents. */
export class Collection {
	#name;
	#store;
	/** @type {Promise<Client>} */
	#client;
	/** @type {Client | null} */
	#opened = null;
	#schedule;
	/** @type {Set<(change: Change) => void>} */
	#watchers = new Set();
	/** @type {Set<(status: Status) => void>} */
	#statusWatchers = new Set();
	#syncing = false;
	#syncs = new OneAtATime(() => this.#sync());
	/** @type {number | null} */
	#syncedAt = null;
	/** @type {unknown} */
	#error = null;
	/** When the last known sync ended: tabs tell each other */
	#endedAt = 0;
	/** @type {Status} */
	#status = { clientId: '', unsent: 0, setAside: 0, syncing: false, live: false, syncedAt: null, error: null, equalAt: null, twin: null };
	#endHearing = () => {};

	/**
	 * @param {string} name of the collection, as the service knows it
	 * @param {Options} options
	 */
	constructor(name, { store, url, token, timeout, fetch, transport, clientId, onConflict, waits, every, live = true, clock = Date.now, random = Math.random }) {
		if (!url && !transport) throw new TypeError('a collection needs the url of a service');
		if (!store) throw new TypeError('a collection needs a store');
		this.#name = name;
		this.#store = Promise.resolve(store);
		const reach = transport ?? new HttpTransport(name, { url, token, timeout, fetch });

		this.#schedule = new Schedule({
			sync: () => this.#syncs.run(), store: this.#store, name: `start ${name}`, every, random,
			listening: live ? listeningOf(reach, new Map([[name, this]]), random) : null,
		});
		this.#client = this.#store.then((opened) => {
			this.#endHearing = opened.hear?.((message) => this.#heard(message)) ?? this.#endHearing;
			opened.tell?.({ asked: name });
			return new Client(name, {
				transport: reach,
				store: opened, clientId, clock, random, waits: { ...WAITS, ...waits }, onConflict: onConflict ?? null,
				changed: (documents) => this.#changed(opened, documents),
			});
		});
		this.#client.then((client) => { this.#opened = client; }, () => {});		// whoever uses it gets the error
	}

	static {
		inside = {
			client: (collection) => collection.#client,
			began: (collection) => collection.#began(),
			ended: (collection, error) => collection.#ended(error),
			follow: (collection, schedule) => { collection.#schedule = schedule; },
			heardChanged: (collection) => {
				collection.#schedule.heardChanged();
				collection.#tellStatus();
			},
			reached: (collection) => collection.#opened?.reached ?? { complete: '', known: '' },
		};
	}

	// Local use: never waits for the service.

	/**
	 * The body, or undefined if there is no such document.
	 * @param {string} id
	 * @returns {Promise<any>}
	 */
	async get(id) {
		const document = await this.#find(id);

		return document && !document.deleted ? JSON.parse(/** @type {string} */ (document.body)) : undefined;
	}

	/**
	 * The body as JSON, with exact numbers beyond 2^53; undefined if there is no such document.
	 * @param {string} id
	 */
	async getText(id) {
		const document = await this.#find(id);

		return document && !document.deleted ? document.body ?? undefined : undefined;
	}

	async #find(id) {
		const { local } = await this.#client;

		return local.transaction((transaction) => transaction.find(id));
	}

	/**
	 * The existing documents, in the order of their ids.
	 * @param {string} [prefix] only those whose ids begin with it
	 * @returns {Promise<Change[]>}
	 */
	async list(prefix = '') {
		const { local } = await this.#client;

		return (await local.transaction((transaction) => transaction.all(`.${order(prefix)}`))).map(toChange);
	}

	/**
	 * Creates or replaces a document locally; it is sent later. Throws a TypeError for what the service couldn't store, such as
	 * half a surrogate pair, or an error of the store, such as QuotaExceededError; then nothing has changed.
	 * @param {string} id
	 * @param {unknown} body anything that JSON can represent
	 */
	put(id, body) {
		return this.putAll([[id, body]]);
	}

	/**
	 * Several documents, all or none.
	 * @param {Iterable<[string, unknown]>} documents
	 */
	async putAll(documents) {
		const edits = [...documents].map(([id, body]) => {
			checkId(id);
			return /** @type {[string, string]} */ ([id, toJson(body)]);
		});

		await this.#edit(edits);
	}

	/**
	 * Deletes a document; if there is none, nothing happens.
	 * @param {string} id
	 */
	delete(id) {
		return this.#edit([[id, null]]);
	}

	async #edit(edits) {
		const client = await this.#client;

		await client.edit(edits);
		this.#schedule.edited();
	}

	/**
	 * Calls the listener with each existing document, and then with each that changes, whether by put() or delete(), in another
	 * tab, or elsewhere; also when it has been sent.
	 * @param {(change: Change) => void} listener
	 * @returns {() => void} ends it
	 */
	watch(listener) {
		/** @type {Change[] | null} */
		let waiting = [];
		const hear = (change) => {
			if (waiting) waiting.push(change);
			else listener(change);
		};

		this.#watchers.add(hear);
		this.list().catch(() => []).then((changes) => {
			// What changed meanwhile follows, perhaps a second time.
			const all = [...changes, ...waiting ?? []];

			waiting = null;
			for (const change of all) if (this.#watchers.has(hear)) call(listener, change);
		});
		return () => { this.#watchers.delete(hear); };
	}

	/**
	 * The documents that the service doesn't have in this version yet, including those it refuses.
	 * @returns {Promise<Change[]>}
	 */
	async unsent() {
		const { local } = await this.#client;

		return (await local.transaction(async (transaction) =>
			[...await transaction.all('u'), ...await transaction.all('c'), ...await transaction.all('e')])).map(toChange);
	}

	/**
	 * The documents that the service refuses, and why.
	 * @returns {Promise<Change[]>}
	 */
	async problems() {
		const { local } = await this.#client;

		return (await local.transaction((transaction) => transaction.all('e'))).map(toChange);
	}

	/**
	 * The status, for display.
	 * @returns {Promise<Status>}
	 */
	async status() {
		const { local } = await this.#client;

		this.#status = await local.transaction(async (transaction) => ({
			clientId: transaction.state.clientId,
			unsent: await transaction.count('u') + await transaction.count('c'),
			setAside: await transaction.count('e'),
			syncing: this.#syncing,
			live: this.#schedule.listening?.isLive ?? false,
			syncedAt: this.#syncedAt,
			error: this.#error,
			equalAt: transaction.state.equalAt,
			twin: transaction.state.twin,
		}));
		return this.#status;
	}

	/**
	 * Calls the listener with the current status, and whenever it may have changed.
	 * @param {(status: Status) => void} listener
	 * @returns {() => void} ends it
	 */
	watchStatus(listener) {
		this.#statusWatchers.add(listener);
		this.#tellStatus();
		return () => { this.#statusWatchers.delete(listener); };
	}

	// With the service

	/**
	 * Sends, receives, and compares if that is due. If it fails, rejects with Refused, NoAnswer, BadAnswer, or an error of the
	 * store. Nothing is lost by that; the next sync continues from there. One that is called while another is running begins
	 * when that has ended.
	 * @returns {Promise<void>}
	 */
	sync() {
		return byHand(this.#syncs, this.#schedule);
	}

	async #sync() {
		this.#began();
		try {
			const client = await this.#client;
			const store = await this.#store;

			await store.lock(`sync ${this.#name}`, () => client.sync());
			this.#ended(null);
		} catch (rejection) {
			const error = reasonOf(rejection);

			this.#ended(error);
			throw error;
		}
	}

	#began() {
		this.#syncing = true;
		this.#tellStatus();
	}

	#ended(error) {
		this.#syncing = false;
		this.#error = error;
		this.#endedAt = Date.now();
		if (error === null) this.#syncedAt = this.#endedAt;
		this.#tellStatus();
		this.#tellEnd();
	}

	/** Tells other tabs, which show it, too. */
	#tellEnd() {
		const message = { ended: this.#name, at: this.#endedAt, syncedAt: this.#syncedAt, error: toMessage(this.#error) };

		this.#store.then((store) => store.tell?.(message), () => {});
	}

	/** Makes the next sync compare everything with what the service has, even if that isn't due yet. */
	async compare() {
		await (await this.#client).compare();
	}

	/**
	 * Synchronises by itself from now on: soon after edits, when the page comes online or to the front, when the
	 * service says that something has changed, every minute. Failures
	 * are in status(), and retried at growing intervals.
	 */
	start() {
		this.#schedule.start();
	}

	/** Ends what start() began. What is unsent is kept until the next sync. */
	stop() {
		this.#schedule.stop();
	}

	/** Ends everything that this object does; closing the store is up to you. */
	async close() {
		this.stop();
		await this.#syncs.ended();
		this.#endHearing();
		this.#watchers.clear();
		this.#statusWatchers.clear();
	}

	// Notifying listeners

	#changed(store, documents) {
		store.tell?.({ changed: this.#name, ids: documents.map((document) => document.id), edited: documents.some((document) => document.unsent === EDIT) });
		this.#emit(documents.map(toChange));
	}

	/** Another tab has changed something. */
	async #heard(message) {
		if (message.wake === this.#schedule.name) this.#schedule.due();
		if (message.asked === this.#name && this.#endedAt) this.#tellEnd();
		if (message.ended === this.#name && message.at > this.#endedAt) {
			this.#endedAt = message.at;
			this.#syncedAt = message.syncedAt;
			this.#error = fromMessage(message.error);
			if (!this.#error) this.#schedule.tried(null);
			this.#tellStatus();
		}
		if (message.changed !== this.#name) return;
		if (message.edited) this.#schedule.edited();
		if (!this.#watchers.size && !this.#statusWatchers.size) return;
		const { local } = await this.#client;

		this.#emit(await local.transaction(async (transaction) => {
			const changes = [];

			for (const id of message.ids) {
				const document = await transaction.find(id);

				changes.push(document ? toChange(document) : { id, body: undefined, deleted: true, unsent: false, error: null });
			}
			return changes;
		}));
	}

	#emit(changes) {
		for (const change of changes) for (const watcher of [...this.#watchers]) call(watcher, change);
		this.#tellStatus();
	}

	#tellStatus() {
		if (!this.#statusWatchers.size) return;
		this.status().catch((error) => ({ ...this.#status, syncing: this.#syncing, error })).then((status) => {
			for (const watcher of [...this.#statusWatchers]) call(watcher, status);
		});
	}
}

/**
 * @typedef {object} Inside what collections.js, which synchronises several, needs of this class
 * @property {(collection: Collection) => Promise<Client>} client
 * @property {(collection: Collection) => void} began that a sync of it began
 * @property {(collection: Collection, error: unknown) => void} ended with null, or the error
 * @property {(collection: Collection, schedule: Schedule) => void} follow when it synchronises by itself, from now on
 * @property {(collection: Collection) => void} heardChanged whether changes are heard, by its schedule
 * @property {(collection: Collection) => Client['reached']} reached
 */

/**
 * What listens for some collections that have the same schedule.
 * @param {any} transport
 * @param {Map<string, Collection>} collections
 * @param {() => number} [random]
 */
export function listeningOf(transport, collections, random = Math.random) {
	return new Listening({
		transport, random, names: [...collections.keys()],
		reached: (name) => inside.reached(/** @type {Collection} */ (collections.get(name))),
		changed: () => { for (const collection of collections.values()) inside.heardChanged(collection); },
	});
}

/** An error thrown by a listener is the app's: it is reported like any uncaught error, and doesn't affect others. */
function call(listener, argument) {
	try {
		listener(argument);
	} catch (error) {
		queueMicrotask(() => { throw error; });
	}
}

/** A document as an app sees it. */
function toChange(document) {
	return {
		id: document.id,
		body: document.body === null ? undefined : JSON.parse(document.body),
		deleted: document.deleted,
		unsent: document.unsent > 0 || document.conflict !== null,
		error: document.error,
	};
}
