// local.js - a collection in a store: its documents, what is known about the service, and the digest's sums.
//
// Everything is written inside transaction(), so that an answer of the service, the cursor that came with it and the sums are
// stored together or not at all. Only the store may be awaited there: IndexedDB ends a transaction that is idle.

import { BUCKETS, hashDocument, sumText } from './digest.js';
import { Document, order, versionOrder } from './document.js';

const CHUNK = 100;		// documents read from the store at once

/**
 * @typedef {object} State what is known about the service
 * @property {string} clientId
 * @property {string | null} cursor
 * @property {boolean} unheard without a cursor the service reports no loss: the next page may hide one
 * @property {string | null} lostAfter the lowest value received since the last finished comparison; null: nothing lost
 * @property {number} compareAt when to ask for the service's digest next, in milliseconds
 * @property {number} nulls how often in a row it couldn't give one
 * @property {number} rounds how often in a row they differed
 * @property {number | null} equalAt when they were last equal
 * @property {number | null} othersAt when marks on documents of other clients may be sent
 * @property {number | null} behindSince since when only lagging servers have answered
 * @property {string | null} twin if another store with this clientId was seen
 * @property {boolean} rename a new clientId is needed because of that
 * @property {string | null} newestKnownServiceRecordUtc of the downloads
 * @property {string | null} file the identity of what the store is kept in: a copy has another one
 *
 * @typedef {{ documents: number[], hi: number[], lo: number[], told: number }} Sums for each bucket; and how many documents the
 *   service has ever had
 */

/** @returns {Sums} */
function noSums() {
	const zeros = () => new Array(BUCKETS).fill(0);

	return { documents: zeros(), hi: zeros(), lo: zeros(), told: 0 };
}

/** The collection's part of the store. */
export class Local {
	/**
	 * @param {import('./stores/store.js').Store} store
	 * @param {string} collection
	 * @param {{ clientId?: string, firstCompare: () => number, keepsConflicts: () => boolean,
	 *	changed: (documents: Document[]) => void }} options firstCompare: when a new store is compared first; changed: called
	 *	with documents whose visible state has changed
	 */
	constructor(store, collection, options) {
		this.store = store;
		this.prefix = `${encodeURIComponent(collection)} `;		// the encoded name has no space in it
		this.options = options;
	}

	/**
	 * @template T
	 * @param {(transaction: Transaction) => Promise<T>} work
	 * @returns {Promise<T>} what work returns, when it is stored
	 */
	async transaction(work) {
		const changed = new Map();
		const file = await this.store.identity?.() ?? null;
		const result = await this.store.transaction(async (stored) => {
			const transaction = new Transaction(stored, this.prefix, changed, this.options.keepsConflicts());

			changed.clear();
			await transaction.begin(this.options, file);
			const value = await work(transaction);

			await transaction.finish();
			return value;
		});

		if (changed.size) this.options.changed([...changed.values()]);
		return result;
	}
}

/** What can be done in a transaction. */
export class Transaction {
	#stored;
	#prefix;
	#changed;
	#stateIsNew = false;
	/** @type {Sums | null} */
	#sums = null;
	#sumsAreNew = false;
	/** @type {Map<string, { shown: string, wasTold: boolean }>} what a document was when it was first looked up */
	#before = new Map();

	constructor(stored, prefix, changed, keepsConflicts) {
		this.#stored = stored;
		this.#prefix = prefix;
		this.#changed = changed;
		this.keepsConflicts = keepsConflicts;
		/** @type {State} */
		this.state = /** @type {any} */ (null);
	}

	/** Reads the state, or creates it, and the clientId, which is created with the store, and lost with it. */
	async begin(/** @type {Local['options']} */ { clientId, firstCompare }, file) {
		this.state = await this.#stored.read(`${this.#prefix}state`);
		if (!this.state) {
			let id = clientId ?? await this.#stored.read('clientId');

			if (!id) {
				id = newClientId();
				await this.#stored.write('clientId', id);
			}
			this.state = {
				clientId: id, cursor: null, unheard: true, lostAfter: null, compareAt: firstCompare(), nulls: 0, rounds: 0,
				equalAt: null, othersAt: null, behindSince: null, twin: null, rename: false, newestKnownServiceRecordUtc: null, file,
			};
			this.#stateIsNew = true;
		}
		if (clientId && clientId !== this.state.clientId) throw new Error('this is the store of another clientId');
		// The store was copied, or restored from a backup.
		if (file !== this.state.file) this.set({ file, compareAt: this.state.file === null ? this.state.compareAt : 0 });
	}

	/** Writes what has changed in state and sums. */
	async finish() {
		if (this.#stateIsNew) await this.#stored.write(`${this.#prefix}state`, this.state);
		if (this.#sumsAreNew) await this.#stored.write(`${this.#prefix}sums`, this.#sums);
	}

	/** @param {Partial<State>} values */
	set(values) {
		this.state = { ...this.state, ...values };
		this.#stateIsNew = true;
	}

	/**
	 * Gives this store another clientId, which collections created in it later get, too.
	 * @param {string} clientId
	 */
	async rename(clientId) {
		this.set({ clientId });
		await this.#stored.write('clientId', clientId);
	}

	/**
	 * @param {string} id
	 * @returns {Promise<Document | null>}
	 */
	async find(id) {
		const record = await this.#stored.get(this.#prefix + id);

		if (record) return this.#document(record);
		this.#note(new Document(id));
		return null;
	}

	#document(record) {
		const document = new Document(record.id, record);

		this.#note(document);
		return document;
	}

	#note(document) {
		const { id, shown, wasTold } = document;

		if (!this.#before.has(id)) this.#before.set(id, { shown, wasTold });
	}

	/**
	 * Writes a document that was looked up before in this transaction.
	 * @param {Document} document
	 */
	async save(document) {
		await this.#count(document, document.toCount(), document.wasTold);
		await this.#stored.put(document.toRecord(this.#prefix));
		if (document.shown !== this.#before.get(document.id)?.shown) this.#changed.set(document.id, document);
		else this.#changed.delete(document.id);
	}

	/** @param {Document} document */
	async remove(document) {
		await this.#count(document, null, false);
		await this.#stored.remove(this.#prefix + document.id);
		this.#changed.set(document.id, new Document(document.id, { ...document.toRecord(''), deleted: true, body: null, unsent: 0, error: null, conflict: null }));
	}

	/**
	 * The documents of a list, see Document.entries(), with entries from `from` on and before `to`.
	 * @param {string} from
	 * @param {string} to
	 * @returns {AsyncGenerator<Document>}
	 */
	async* list(from, to) {
		let next = this.#prefix + from;

		for (;;) {
			const records = await this.#stored.list(next, this.#prefix + to, CHUNK);

			for (const record of records) yield this.#document(record);
			if (records.length < CHUNK) return;
			const end = this.#prefix + to;

			next = `${records.at(-1).entries.find((entry) => entry >= next && entry < end)}\x01`;
		}
	}

	/**
	 * The same, all at once, so that they can be saved while iterating.
	 * @param {string} from
	 * @param {string} [to] without it, the whole list `from`
	 */
	async all(from, to = end(from)) {
		const documents = [];

		for await (const document of this.list(from, to)) documents.push(document);
		return documents;
	}

	/**
	 * How many there are.
	 * @param {string} list
	 */
	count(list) {
		return this.#stored.count(this.#prefix + list, this.#prefix + end(list));
	}

	/**
	 * What is to be sent next, after `after`: up to about limit documents and limitBytes characters of bodies.
	 * @param {number} unsent
	 * @param {(document: Document) => boolean} which
	 * @param {{ clientVersion: bigint, id: string } | null} after
	 * @param {number} limit
	 * @param {number} limitBytes
	 */
	async batch(unsent, which, after, limit, limitBytes) {
		const from = `u${unsent}${after ? `${versionOrder(after.clientVersion)}${order(after.id)}\x01` : ''}`;
		const documents = [];
		let size = 0;

		for await (const document of this.list(from, end(`u${unsent}`))) {
			if (!which(document)) continue;
			documents.push(document);
			size += document.body?.length ?? 0;
			if (documents.length >= limit || size >= limitBytes) break;
		}
		return documents;
	}

	/** Whether there are documents that the service has ever had. */
	async hasTold() {
		return (await this.#readSums()).told > 0;
	}

	// The digest's sums

	/** @returns {Promise<Sums>} */
	async #readSums() {
		this.#sums ??= await this.#stored.read(`${this.#prefix}sums`) ?? noSums();
		return /** @type {Sums} */ (this.#sums);
	}

	async #count(document, now, isTold) {
		const before = document.counted;
		const known = /** @type {{ wasTold: boolean }} */ (this.#before.get(document.id));
		const told = Number(isTold) - Number(known.wasTold);

		if (told === 0 && before?.[0] === now?.[0] && before?.[1] === now?.[1]) return;
		known.wasTold = isTold;
		const sums = await this.#readSums();

		for (const [counted, sign] of [[before, -1], [now, 1]]) {
			if (!counted) continue;
			const [version, utc] = counted;
			const [hi, lo] = hashDocument(document.id, version, utc);

			sums.documents[document.bucket] += sign;
			sums.hi[document.bucket] = sums.hi[document.bucket] + sign * hi >>> 0;
			sums.lo[document.bucket] = sums.lo[document.bucket] + sign * lo >>> 0;
		}
		sums.told += told;
		document.counted = now;
		this.#sumsAreNew = true;
	}

	/** The digest, as in the service's `state`. */
	async digest() {
		const { documents, hi, lo } = await this.#readSums();
		const add = (numbers) => numbers.reduce((sum, number) => sum + number, 0);

		return { count: add(documents), digest: sumText(add(hi) >>> 0, add(lo) >>> 0) };
	}

	async sums() {
		const { hi, lo } = await this.#readSums();

		return hi.map((part, bucket) => sumText(part, lo[bucket]));
	}
}

/** A random UUID. (crypto.randomUUID() doesn't exist on a page loaded by plain HTTP.) */
export function newClientId() {
	const bytes = crypto.getRandomValues(new Uint8Array(16));

	bytes[6] = bytes[6] & 0x0f | 0x40;
	bytes[8] = bytes[8] & 0x3f | 0x80;
	return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

/**
 * A text that sorts after all entries with this prefix.
 * @param {string} prefix
 */
export function end(prefix) {
	return prefix + '\x7f\x7f';		// in an id \x7f is followed by two digits
}

