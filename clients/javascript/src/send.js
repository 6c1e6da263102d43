// send.js - documents on their way to the service: in halves where it refuses a batch for some of its documents, without those
// that it refuses alone, and with the winners that an answer left out. What is kept of them is up to who sends.

import { BadAnswer, Refused } from './errors.js';

const MAX_REFUSED = 32;				// documents refused in one upload, about
const GET_DOCUMENTS = 1000;

/** Instead of a winner that couldn't be fetched: the document is sent once more, and it comes then. */
export const UNKNOWN = 'unknown';

/**
 * Documents by their ids, as the service has them now; null if this one can't say.
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
		documents.push(...answer.documents);
		missing = missing.slice(answer.more && answer.documents.length
			? missing.indexOf(answer.documents.at(-1).id) + 1 : GET_DOCUMENTS);
	}
	return documents;
}

/** One sending. Who sends has the four methods at its end. */
export class Sending {
	#accepted = false;
	#refused = 0;

	/** @param {any} transport */
	constructor(transport) {
		this.transport = transport;
	}

	/** The others with the next sync: who may write nothing any more shouldn't try each at once. */
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
	 * What became of documents that were sent.
	 * @param {import('./document.js').Sent[]} documents
	 * @param {any[]} results
	 * @returns {Promise<import('./document.js').Sent[]>} those that weren't tried
	 */
	async take(documents, results) {
		if (results.length !== documents.length || results.some((result, i) => result.id !== documents[i].id)) {
			throw new BadAnswer('a result for each document was expected');
		}
		if (!documents.length) return [];
		this.#accepted = true;
		await this.#tell(documents, results);
		return documents.filter((_, i) => results[i].outcome === 'untried');
	}

	async #refusedAlone(clientId, document, { status, code, text }) {
		if (!this.#accepted) {
			// Perhaps it isn't the document: an upload of nothing is refused then, too, and that is raised.
			await this.transport.upload(clientId, []);
			this.#accepted = true;
		}
		await this.#tell([document], [{ id: document.id, outcome: 'refused', error: { code: `${status} ${code}`, message: text } }]);
	}

	/** Who sends, with the winners. */
	async #tell(documents, results) {
		await this.answered(documents, results, await this.#winners(results));
		this.#refused += results.filter(({ outcome }) => outcome === 'refused').length;
	}

	/** The stored documents, by id, for what was not applied. The answer leaves out what would make it too large. */
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
	 * Who asks, and since when.
	 * @returns {Promise<{ clientId: string, cursor: string | null }>}
	 */
	async place() {
		throw new TypeError('who sends says who it is');
	}

	/**
	 * Before documents are sent. Returns the clientId.
	 * @param {import('./document.js').Sent[]} documents
	 * @returns {Promise<string>}
	 */
	async noteSent(documents) {
		return (await this.place()).clientId;
	}

	/**
	 * None of them was applied, for sure.
	 * @param {import('./document.js').Sent[]} documents
	 */
	async noteAnswered(documents) {}

	/**
	 * What became of documents: their results, in order, and winners by id.
	 * @param {import('./document.js').Sent[]} documents
	 * @param {any[]} results
	 * @param {Map<string, any>} winners
	 */
	async answered(documents, results, winners) {}
}
