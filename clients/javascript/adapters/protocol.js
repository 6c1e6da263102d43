// protocol.js - what the adapters share whose library keeps the documents itself: a collection at the service, without a store.
//
// Requests, errors, JSON and versions of 64 bits are the client's own (../src). What an adapter keeps is the library's to store:
//
// - a cursor for the collection, with the documents that came with it,
// - a clientId: a random text that is made with the library's store, and lost with it,
// - with each document the clientVersion that the service has, as text: an edit says what it is based on, so that none takes the
//   place of another that it hasn't seen.
//
// Without the client's store there is no comparing. Who is told to compare - the service was restored, or tombstones were purged
// while the device was away - gets everything anew, so it has what the service has; but what the service has lost isn't sent
// again, and what was deleted that long ago stays.

import { BadAnswer, NoAnswer } from '../src/errors.js';
import { checkId, isPage, toJson } from '../src/jsontext.js';
import { Schedule } from '../src/schedule.js';
import { Sending, UNKNOWN, fetchAll } from '../src/send.js';
import { HttpTransport } from '../src/transport.js';

const PAGE_DOCUMENTS = 1000;

/**
 * @typedef {import('../src/transport.js').TransportOptions & {
 *	clientId: string | Promise<string>,
 *	onRefused?: (refusal: { id: string, error: { code: string, message: string } }) => void, patience?: Patience,
 * }} RemoteOptions patience: shared by all that ask the same service. onRefused: is told of each document that the
 *	service can't store. The library holds it to be sent; so it is, when it is edited. The console is told without it
 *
 * @typedef {object} Edit
 * @property {string} id
 * @property {unknown} [body] what JSON can hold; none with deleted
 * @property {boolean} [deleted]
 * @property {bigint | string | null} [base] the clientVersion of what was edited; null: it is new. undefined: the higher
 *	clientVersion wins
 * @property {bigint} [version] without it the time in milliseconds, or base plus one where that is higher
 *
 * @typedef {object} RemoteDocument
 * @property {string} id
 * @property {bigint} clientVersion
 * @property {string} clientId
 * @property {string} LastUpdateUtc
 * @property {boolean} deleted
 * @property {any} body undefined where it is deleted
 *
 * @typedef {object} Outcome
 * @property {string} outcome doc/protocol.md has them
 * @property {bigint | null} clientVersion that the service has now
 * @property {RemoteDocument | null} winner what it has instead of the edit
 * @property {{ code: string, message: string } | null} error why the edit is refused
 */

/** A collection, as the service has it. */
export class Remote {
	#transport;
	#clientId;
	#onRefused;
	#patience;

	/**
	 * @param {string} collection
	 * @param {RemoteOptions} options
	 */
	constructor(collection, { clientId, onRefused = warn, patience = new Patience(), ...options }) {
		this.#transport = new HttpTransport(collection, options);
		this.#clientId = clientId;
		this.#onRefused = onRefused;
		this.#patience = patience;
	}

	/**
	 * Sends edits, one a document. Raises what keeps them from the service; then the same are to be sent again, later. What one is
	 * refused for doesn't stop the others.
	 * @param {Edit[]} edits
	 * @returns {Promise<Map<string, Outcome>>} of each, by id
	 */
	push(edits) {
		return this.#patience.ask(async () => {
			const clientId = await this.#clientId;
			/** @type {Map<string, Outcome>} */
			const outcomes = new Map();

			for (let documents = toSend(edits, outcomes); documents.length;) {
				const answers = new Push(this.#transport, clientId);

				await answers.send(documents);
				if (!answers.results.size) throw new BadAnswer('none of the documents was tried');
				documents = documents.flatMap((sent) => this.#answered(sent, answers.results.get(sent.id), clientId, outcomes) ?? []);
			}
			for (const [id, { error }] of outcomes) if (error) this.#onRefused({ id, error });
			return outcomes;
		});
	}

	/**
	 * What others have changed since.
	 * @param {string | null} cursor that came last; null at first
	 * @param {number} [limit] documents, about
	 * @returns {Promise<{ documents: RemoteDocument[], cursor: string | null, more: boolean }>}
	 */
	pull(cursor, limit = PAGE_DOCUMENTS) {
		return this.#patience.ask(async () => {
			const clientId = await this.#clientId;
			// A first download needs no tombstones.
			let answer = await this.#transport.pull(clientId, cursor, limit, null, cursor !== null);

			if (answer.reconcile && cursor !== null) answer = await this.#transport.pull(clientId, null, limit);
			// A server that lags
			if (answer.behind) return { documents: [], cursor, more: false };
			if (!isPage(answer, cursor)) throw new BadAnswer('documents, and a cursor to go on from, were expected');
			return { documents: answer.documents.map(read), cursor: answer.cursor, more: answer.more };
		});
	}

	/**
	 * Documents as the service has them now, deleted ones, too; those that it hasn't are left out.
	 * @param {string[]} ids
	 * @returns {Promise<RemoteDocument[]>}
	 */
	get(ids) {
		return this.#patience.ask(async () => {
			const documents = await fetchAll(this.#transport, await this.#clientId, null, ids);

			if (!documents) throw new NoAnswer('the server lags');
			return documents.map(read);
		});
	}

	/** What became of a document, noted; or the document as it has to be sent once more. */
	#answered(sent, answer, clientId, outcomes) {
		if (!answer || answer.result.outcome === 'untried') return sent;
		const { result: { outcome, clientVersion, error }, winner } = answer;

		if (outcome === 'conflict' || outcome === 'discarded') {
			// Sent before by this store itself, and the answer was lost: this very edit, or an earlier one, which this one has seen.
			if (winner?.clientId === clientId && isSame(sent, winner)) {
				outcomes.set(sent.id, { outcome: 'unchanged', clientVersion: winner.clientVersion, winner: null, error: null });
				return null;
			}
			if (winner?.clientId === clientId) return based(sent, winner.clientVersion);
			// Purged since: it is a new document. If that isn't applied either, there is one that we may not see.
			if (!winner && (sent.baseVersion ?? null) !== null) return based(sent, null);
			if (!winner) {
				outcomes.set(sent.id, refused('42501', `${outcome}, and the service shows no such document`));
				return null;
			}
		}
		outcomes.set(sent.id, error ? refused(error.code, error.message)
			: { outcome, clientVersion: winner?.clientVersion ?? clientVersion, winner: winner && read(winner), error: null });
		return null;
	}
}

/** One upload: what became of each document. */
class Push extends Sending {
	/** @type {Map<string, { result: any, winner: any }>} */
	results = new Map();

	constructor(transport, clientId) {
		super(transport);
		this.clientId = clientId;
	}

	async place() {
		return { clientId: this.clientId, cursor: null };
	}

	async answered(documents, results, winners) {
		for (const result of results) {
			const winner = winners.get(result.id) ?? null;

			if (winner === UNKNOWN) throw new NoAnswer(`no winner for "${result.id}"`);
			this.results.set(result.id, { result, winner });
		}
	}
}

/** Asks not before the time that the service has said, whatever the library's own waits are. */
export class Patience {
	#notBefore = 0;
	/** @type {unknown} */
	#refusal = null;

	/**
	 * @template T
	 * @param {() => Promise<T>} work
	 * @returns {Promise<T>}
	 */
	async ask(work) {
		if (performance.now() < this.#notBefore) throw this.#refusal;
		try {
			return await work();
		} catch (error) {
			const { retryAfter } = /** @type {{ retryAfter?: number }} */ (error);

			this.#refusal = error;
			if (retryAfter !== undefined) this.#notBefore = performance.now() + retryAfter;
			throw error;
		}
	}
}

/**
 * Edits as they are sent. What no service could store is refused here, and noted among the outcomes.
 * @param {Edit[]} edits
 * @param {Map<string, Outcome>} outcomes
 * @returns {any[]}
 */
export function toSend(edits, outcomes) {
	return edits.flatMap(({ id, body, deleted = false, base, version }) => {
		try {
			checkId(id);
			const baseVersion = base === undefined || base === null ? base : BigInt(base);

			return [{
				id, clientVersion: version ?? later(baseVersion), deleted, body: deleted ? null : toJson(body), baseVersion,
			}];
		} catch (error) {
			outcomes.set(id, refused('22P05', /** @type {Error} */ (error).message));
			return [];
		}
	});
}

/** A document as the service tells it, with its body parsed. */
export function read(document) {
	return { ...document, body: document.body === null || document.deleted ? undefined : JSON.parse(document.body) };
}

/** Now, or the version after this one. */
function later(base) {
	const now = BigInt(Date.now());

	return base === undefined || base === null || base < now ? now : base + 1n;
}

/** Whether a document is, but for its version, what is stored. */
function isSame(sent, stored) {
	return sent.deleted === stored.deleted && (sent.deleted || sorted(sent.body) === sorted(stored.body));
}

/** JSON as it is with the keys in order: the service has an order of its own. */
function sorted(text) {
	return JSON.stringify(JSON.parse(text), (key, part) => part === null || typeof part !== 'object' || Array.isArray(part) ? part
		: Object.fromEntries(Object.entries(part).sort(([one], [other]) => one < other ? -1 : 1)));
}

/** The same edit, of another version. */
function based(sent, base) {
	const least = base === null ? sent.clientVersion : base + 1n;

	return {
		...sent, clientVersion: sent.clientVersion > least ? sent.clientVersion : least,
		baseVersion: sent.baseVersion === undefined ? undefined : base,
	};
}

/** @returns {Outcome} */
export function refused(code, message) {
	return { outcome: 'refused', clientVersion: null, winner: null, error: { code, message } };
}

/** Where nobody wants to be told. */
export function warn({ id, error }) {
	console.warn(`docsync: document "${id}" is refused: ${error.code} ${error.message}`);
}

/**
 * Asks the service now and then: every minute without `every`, and when the page comes online or to the front.
 * @param {() => unknown} sync
 * @param {number} [every] milliseconds
 * @returns {() => void} ends it
 */
export function poll(sync, every) {
	const schedule = new Schedule({
		sync: async () => { await sync(); }, every, name: '', store: Promise.resolve(/** @type {any} */ ({ lock: (name, work) => work() })),
	});

	schedule.start();
	return () => schedule.stop();
}
