// protocol.js - a collection of the service, without a store: shared by the adapters whose libraries keep the documents
// themselves.
//
// Requests, errors, JSON and 64-bit versions are the client's (../src). The library stores what an adapter has to remember:
//
// - a cursor for the collection, with the documents that came with it,
// - a clientId: a random text that is made with the library's store, and lost with it,
// - with each document the clientVersion that the service has, as text: an edit says what it is based on, so that it doesn't
//   replace a version that it hasn't seen.
//
// Without the client's store, nothing can be compared. A device that is told to compare (because the service was restored, or
// tombstones were purged while it was away) downloads everything again, so it gets what the service has; but what the service has
// lost isn't sent again, and what was deleted long ago stays.

import { BadAnswer, NoAnswer, reasonOf } from '../src/errors.js';
import { checkId, isPage, toJson } from '../src/jsontext.js';
import { Schedule } from '../src/schedule.js';
import { Sending, UNKNOWN, fetchAll } from '../src/send.js';
import { HttpTransport } from '../src/transport.js';
import { BATCH_BYTES } from '../src/upload.js';

const PAGE_DOCUMENTS = 1000;

/**
 * @typedef {import('../src/transport.js').TransportOptions & {
 *	clientId: string | Promise<string>,
 *	onRefused?: (refusal: { id: string, error: { code: string, message: string } }) => void, patience?: Patience,
 * }} RemoteOptions patience: shared by all who use the same service. onRefused: called with each document that the service can't
 *	store; by default that is written to the console. For the library the document has been sent; it is sent again when it is
 *	edited
 *
 * @typedef {object} Edit
 * @property {string} id
 * @property {unknown} [body] anything JSON can represent; none with deleted
 * @property {boolean} [deleted]
 * @property {bigint | string | null} [base] the clientVersion of what was edited; null: the document is new; undefined: the higher
 *	clientVersion wins
 * @property {bigint} [version] by default the time in milliseconds, or base plus one if that is higher
 *
 * @typedef {object} RemoteDocument
 * @property {string} id
 * @property {bigint} clientVersion
 * @property {string} clientId
 * @property {string} LastUpdateUtc
 * @property {boolean} deleted
 * @property {any} body undefined if it is deleted
 *
 * @typedef {object} Outcome
 * @property {string} outcome see doc/protocol.md
 * @property {bigint | null} clientVersion the one that the service has now
 * @property {RemoteDocument | null} winner what it has instead of the edit
 * @property {{ code: string, message: string } | null} error why the edit was refused
 */

/** A collection of the service. */
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
	 * Sends edits, one for each document. Throws if they can't be sent; then send the same edits again, later. A document that is
	 * refused doesn't stop the others.
	 * @param {Edit[]} edits
	 * @returns {Promise<Map<string, Outcome>>} by id
	 */
	push(edits) {
		return this.#patience.ask(async () => {
			const clientId = await this.#clientId;
			/** @type {Map<string, Outcome>} */
			const outcomes = new Map();

			for (let documents = toSend(edits, outcomes); documents.length;) {
				const answers = new Push(this.#transport, clientId);
				const batch = firstOf(documents);

				await answers.send(batch);
				if (!answers.results.size) throw new BadAnswer('none of the documents was tried');
				documents = [
					...batch.flatMap((sent) => this.#answered(sent, answers.results.get(sent.id), clientId, outcomes) ?? []),
					...documents.slice(batch.length),
				];
			}
			for (const [id, { error }] of outcomes) if (error) this.#onRefused({ id, error });
			return outcomes;
		});
	}

	/**
	 * What others have changed since.
	 * @param {string | null} cursor the last one received; null at first
	 * @param {number} [limit] about how many documents
	 * @param {boolean} [tombstones] whether also deleted ones. A store that is empty needs none: what was sent before the answer came
	 *	may have been deleted by others since
	 * @returns {Promise<{ documents: RemoteDocument[], cursor: string | null, more: boolean }>}
	 */
	pull(cursor, limit = PAGE_DOCUMENTS, tombstones = true) {
		return this.#patience.ask(async () => {
			const clientId = await this.#clientId;
			let answer = await this.#transport.pull(clientId, cursor, limit, null, tombstones);

			if (answer.reconcile && cursor !== null) answer = await this.#transport.pull(clientId, null, limit);
			// The server lags.
			if (answer.behind) return { documents: [], cursor, more: false };
			if (!isPage(answer, cursor)) throw new BadAnswer('documents, and a cursor to go on from, were expected');
			return { documents: answer.documents.map(read), cursor: answer.cursor, more: answer.more };
		});
	}

	/**
	 * What the service has from this clientId itself: for a library that may lose its documents, but not the clientId.
	 * @returns {Promise<RemoteDocument[]>}
	 */
	own() {
		return this.#patience.ask(async () => {
			const clientId = await this.#clientId;
			/** @type {Map<string, RemoteDocument>} */
			const documents = new Map();

			for (let cursor = null, more = true; more;) {
				const answer = await this.#transport.pull(clientId, cursor, PAGE_DOCUMENTS, null, false, false, 'own');

				if (answer.behind) throw new NoAnswer('the server lags');
				if (!isPage(answer, cursor)) throw new BadAnswer('documents, and a cursor to go on from, were expected');
				for (const document of answer.documents) documents.set(document.id, read(document));
				({ cursor, more } = answer);
			}
			return [...documents.values()];
		});
	}

	/**
	 * Documents as the service has them now, also deleted ones; those that it doesn't have are left out.
	 * @param {string[]} ids
	 * @returns {Promise<RemoteDocument[]>}
	 */
	get(ids) {
		return this.#patience.ask(async () => {
			const documents = await fetchAll(this.#transport, await this.#clientId, null, ids.filter(isId));

			if (!documents) throw new NoAnswer('the server lags');
			return documents.map(read);
		});
	}

	/** Notes the outcome of a document; or returns the document in the form in which it has to be sent again. */
	#answered(sent, answer, clientId, outcomes) {
		if (!answer || answer.result.outcome === 'untried') return sent;
		const { result: { outcome, clientVersion, error, winnerOmitted }, winner } = answer;

		// There was one that won, and it is lost.
		if (!winner && winnerOmitted && outcome !== 'modified') return sent;

		if (outcome === 'conflict' || outcome === 'discarded') {
			// This store sent it before, and the answer was lost: the same edit, or an earlier one, which this one has seen.
			if (winner?.clientId === clientId && isSame(sent, winner)) {
				outcomes.set(sent.id, { outcome: 'unchanged', clientVersion: winner.clientVersion, winner: null, error: null });
				return null;
			}
			if (winner?.clientId === clientId) return based(sent, winner.clientVersion);
			// Purged since: it is sent as a new document. If that isn't applied either, there is one that we may not see.
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

/** One upload, with the result of each document. */
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

/** Sends nothing before the time that the service named in Retry-After, whatever the library's own waits are. */
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
		} catch (rejection) {
			const error = reasonOf(rejection);
			const { retryAfter } = /** @type {{ retryAfter?: number }} */ (error);

			this.#refusal = error;
			if (retryAfter !== undefined) this.#notBefore = performance.now() + retryAfter;
			throw error;
		}
	}
}

/**
 * Edits in the form they are sent. What the service couldn't store is refused here, and noted among the outcomes.
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

/** As many as one request should have: a slow line must get it through before the timeout. */
function firstOf(documents) {
	let size = 0;
	const last = documents.findIndex(({ body }) => (size += body?.length ?? 0) >= BATCH_BYTES);

	return last < 0 ? documents : documents.slice(0, last + 1);
}

/** Whether the service can have a document with this id. */
function isId(id) {
	try {
		checkId(id);
		return true;
	} catch {
		return false;
	}
}

/** A document of the service's answer, with its body parsed. */
export function read(document) {
	return { ...document, body: document.body === null || document.deleted ? undefined : JSON.parse(document.body) };
}

/** The time, or the version after this one if that is higher. */
function later(base) {
	const now = BigInt(Date.now());

	return base === undefined || base === null || base < now ? now : base + 1n;
}

/** Whether a document is the same as the stored one, apart from its version. Bodies are JSON. */
export function isSame(sent, stored) {
	return sent.deleted === stored.deleted && (sent.deleted || sorted(sent.body) === sorted(stored.body));
}

/** JSON with its keys sorted: the service has its own order. */
function sorted(text) {
	return JSON.stringify(JSON.parse(text), (key, part) => part === null || typeof part !== 'object' || Array.isArray(part) ? part
		: Object.fromEntries(Object.entries(part).sort(([one], [other]) => one < other ? -1 : 1)));
}

/** The same edit, based on another version. */
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

/** The default of onRefused. */
export function warn({ id, error }) {
	console.warn(`docsync: document "${id}" is refused: ${error.code} ${error.message}`);
}

/**
 * Calls sync regularly, by default every minute, and when the page comes online or gets the focus.
 * @param {() => unknown} sync
 * @param {number} [every] milliseconds
 * @returns {() => void} stops that
 */
export function poll(sync, every) {
	const schedule = new Schedule({
		sync: async () => { await sync(); }, every, name: '', store: Promise.resolve(/** @type {any} */ ({ lock: (name, work) => work() })),
	});

	schedule.start();
	return () => schedule.stop();
}
