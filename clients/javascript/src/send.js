// send.js - sends documents to the service: in halves where it refuses a batch because of some of its documents, without those
// that it refuses even alone, and fetches the winners that an answer left out. What is noted of them is up to the subclass.

import { BadAnswer, Refused } from './errors.js';
import { isTold } from './jsontext.js';

const MAX_REFUSED = 32;				// approximate limit of refused documents in one upload
const GET_DOCUMENTS = 1000;

/** A winner that couldn't be fetched: the document is sent again, which returns it. */
export const UNKNOWN = 'unknown';

/**
 * Documents by their ids, as the service has them now; null if the server that answered can't say.
 * @param {any} transport
 * @param {string} clientId
 * @param {string | null} cursor
 * @param {string[]} ids
 */
export async function fetchAll(transport, clientId, cursor, ids) {
	const documents = [];

	for (let missing = ids; missing.length;) {
		const answer = await transport.get(clientId, cursor, missing.slice(0, GET_DOCUMENTS));

		if (answer.behind || answer.reconcile) return null;
		const last = missing.indexOf(answer.documents.at(-1)?.id);

		if (!answer.documents.every(isTold) || answer.documents.length && last < 0) throw new BadAnswer('documents were expected');
		documents.push(...answer.documents);
		missing = missing.slice(answer.more && answer.documents.length ? last + 1 : GET_DOCUMENTS);
	}
	return documents;
}

/** One upload. A subclass has the four methods at its end. */
export class Sending {
	#accepted = false;
	#refused = 0;

	/** @param {any} transport */
	constructor(transport) {
		this.transport = transport;
	}

	/** The others are sent with the next sync: a client that can't write any more shouldn't try them all at once. */
	get hasHadEnough() {
		return this.#refused >= MAX_REFUSED;
	}

	/** @param {import('./document.js').Sent[]} documents */
	async send(documents) {
		if (this.hasHadEnough) return;
		const clientId = await this.noteSent(documents);
		let results;

		try {
			({ results } = await this.transport.upload(clientId, documents));
		} catch (error) {
			if (!(error instanceof Refused)) throw error;
			if (!error.retry) await this.noteAnswered(documents);
			if (!error.aboutDocuments) throw error;
			if (documents.length > 1) {
				const half = documents.length >> 1;

				await this.send(documents.slice(0, half));
				await this.send(documents.slice(half));
			} else {
				await this.#refusedAlone(clientId, documents[0], error);
			}
			return;
		}
		const untried = await this.take(documents, results);

		if (untried.length && untried.length < documents.length) await this.send(untried);
	}

	/**
	 * Applies the results of documents that were sent.
	 * @param {import('./document.js').Sent[]} documents
	 * @param {any[]} results
	 * @returns {Promise<import('./document.js').Sent[]>} those that weren't tried
	 */
	async take(documents, results) {
		if (results.length !== documents.length || results.some((result, i) => result?.id !== documents[i].id || !isResult(result))) {
			throw new BadAnswer('a result for each document was expected');
		}
		if (!documents.length) return [];
		this.#accepted = true;
		await this.#tell(documents, results);
		return documents.filter((_, i) => results[i].outcome === 'untried');
	}

	async #refusedAlone(clientId, document, { status, code, text }) {
		if (!this.#accepted) {
			// Perhaps the document isn't the reason: then an empty upload is refused, too, and that error is raised.
			await this.transport.upload(clientId, []);
			this.#accepted = true;
		}
		await this.#tell([document], [{ id: document.id, outcome: 'refused', error: { code: `${status} ${code}`, message: text } }]);
	}

	/** Hands the results to the subclass, with the winners. */
	async #tell(documents, results) {
		await this.answered(documents, results, await this.#winners(results));
		this.#refused += results.filter(({ outcome }) => outcome === 'refused').length;
	}

	/**
	 * The stored documents, by id, for those not applied. Fetches the ones left out of an answer that would have been too
	 * large.
	 */
	async #winners(results) {
		const winners = new Map(results.filter((result) => result.winner).map((result) => [result.id, result.winner]));
		const missing = results.filter(({ id, outcome }) => ['discarded', 'conflict', 'modified'].includes(outcome) && !winners.has(id))
			.map((result) => result.id);

		if (!missing.length) return winners;
		const { clientId, cursor } = await this.place();
		const documents = await fetchAll(this.transport, clientId, cursor, missing);

		for (const id of documents ? [] : missing) winners.set(id, UNKNOWN);
		for (const document of documents ?? []) winners.set(document.id, document);
		return winners;
	}

	/**
	 * The clientId and the cursor to ask for winners with.
	 * @returns {Promise<{ clientId: string, cursor: string | null }>}
	 */
	async place() {
		throw new TypeError('a subclass says who sends');
	}

	/**
	 * Called before documents are sent. Returns the clientId.
	 * @param {import('./document.js').Sent[]} documents
	 * @returns {Promise<string>}
	 */
	async noteSent(documents) {
		return (await this.place()).clientId;
	}

	/**
	 * Called when it is certain that none of them was applied.
	 * @param {import('./document.js').Sent[]} documents
	 */
	async noteAnswered(documents) {}

	/**
	 * Called with the documents' results, in order, and with winners by id.
	 * @param {import('./document.js').Sent[]} documents
	 * @param {any[]} results
	 * @param {Map<string, any>} winners
	 */
	async answered(documents, results, winners) {}
}

/** Whether it is the result of a document, with what its outcome needs. */
export function isResult(result) {
	if (result.winner && !isTold(result.winner)) return false;
	switch (result.outcome) {
		case 'created': case 'updated': case 'unchanged':
			return isTold(result);
		case 'modified':
			return !result.winner || isTold(result);
		case 'discarded': case 'conflict': case 'untried':
			return true;
		case 'refused':
			return Boolean(result.error);
		default:
			return false;
	}
}
