// upload.js - sends what is unsent, and handles the result of each document.

import { MARK } from './document.js';
import { Sending, UNKNOWN } from './send.js';
import { lookForTwin, take } from './take.js';

export const BATCH_DOCUMENTS = 1000;
export const BATCH_BYTES = 4_000_000;		// approximate size of the bodies in an upload: half of what a service accepts by default

const all = () => true;

/**
 * Sends everything that is unsent: edits, or marks. Each is sent once; what has to be sent again is left for the next upload.
 */
export class Upload extends Sending {
	/** @param {import('./client.js').Client} client */
	constructor(client) {
		super(client.transport);
		this.client = client;
		this.local = client.local;
		/** @type {Record<string, number>} how often each outcome came */
		this.outcomes = {};
	}

	/**
	 * @param {number} unsent EDIT or MARK
	 * @param {(document: import('./document.js').Document, clientId: string) => boolean} [which]
	 */
	async run(unsent, which = all, limit = BATCH_DOCUMENTS) {
		let documents = await this.next(unsent, null, limit, BATCH_BYTES, which);

		while (documents.length) {
			await this.send(documents);
			documents = await this.next(unsent, documents.at(-1) ?? null, limit, BATCH_BYTES, which);
		}
		return this.outcomes;
	}

	/**
	 * What is sent next, after `after`, in the form it is sent: up to about limit documents and limitBytes characters of
	 * bodies.
	 * @param {number} unsent
	 * @param {{ clientVersion: bigint, id: string } | null} after
	 * @param {number} limit
	 * @param {number} limitBytes
	 * @param {(document: import('./document.js').Document, clientId: string) => boolean} [which]
	 */
	next(unsent, after, limit, limitBytes, which = all) {
		return this.local.transaction(async (transaction) => (await transaction.batch(
			unsent, (document) => which(document, transaction.state.clientId), after, limit, limitBytes,
		)).map((document) => asSent(document, transaction.keepsConflicts)));
	}

	async place() {
		return this.client.state();
	}

	/** Notes versions before they are sent: whatever happens then, our own can be told from another store's. */
	noteSent(documents) {
		return this.local.transaction(async (transaction) => {
			for (const { id, clientVersion } of documents) {
				const document = await transaction.find(id);

				if (!document) continue;
				if (document.sent === null || document.sent < clientVersion) document.sent = clientVersion;
				document.unanswered = true;
				await transaction.save(document);
			}
			return transaction.state.clientId;
		});
	}

	noteAnswered(documents) {
		return this.local.transaction(async (transaction) => {
			for (const { id } of documents) {
				const document = await transaction.find(id);

				if (!document) continue;
				document.unanswered = false;
				await transaction.save(document);
			}
		});
	}

	async answered(documents, results, winners) {
		await this.local.transaction(async (transaction) => {
			for (const [i, sent] of documents.entries()) {
				await this.#answered(transaction, sent, results[i], winners.get(sent.id) ?? null);
			}
		});
		for (const { LastUpdateUtc } of results) if (LastUpdateUtc) this.client.noteStamp(LastUpdateUtc, false);
		for (const { outcome } of results) if (outcome !== 'untried') this.outcomes[outcome] = (this.outcomes[outcome] ?? 0) + 1;
	}

	async #answered(transaction, sent, result, winner) {
		const document = await transaction.find(sent.id);
		const { outcome } = result;

		if (!document) return;
		document.unanswered = false;
		if (outcome === 'refused' || outcome === 'untried') {
			await transaction.save(document);
			if (outcome === 'refused') await setAside(transaction, document, sent, `${result.error.code} ${result.error.message}`);
		} else if (outcome === 'modified' && (winner === null || winner === UNKNOWN)) {
			await transaction.save(document);		// it is sent again, and loses to what was stored
		} else if (outcome !== 'discarded' && outcome !== 'conflict') {
			await acknowledged(transaction, document, sent, result);
			if (winner) await take(transaction, winner, true);		// what was stored differs from what was sent
		} else if (winner === null && result.winnerOmitted) {
			await transaction.save(document);		// it was there, and is lost: this one is sent again
		} else if (winner === null) {
			// It is sent again, as a new document. If that isn't applied either, there is one that we may not see.
			document.rebase(null);
			await transaction.save(document);
			if ((sent.baseVersion ?? null) === null) {
				await setAside(transaction, document, sent, `${outcome}, and the service shows no such document`);
			}
		} else {
			await transaction.save(document);
			if (winner === UNKNOWN) return;
			await lookForTwin(transaction, winner, this.client.isBound);
			// A client that has lost takes the winner at once; otherwise it would differ from all others forever.
			await take(transaction, winner, true);
		}
	}
}

/**
 * A document in the form it is sent. With onConflict, edits say what they are based on, so that none replaces a version it hasn't
 * seen.
 */
function asSent(document, keepsConflicts) {
	/** @type {import('./document.js').Sent} */
	const sent = {
		id: document.id, clientVersion: document.clientVersion, deleted: document.deleted, body: document.body, unsent: document.unsent,
	};

	if (document.unsent === MARK || keepsConflicts) {
		sent.baseVersion = document.baseVersion;
		if (document.baseVersion === 0n) sent.baseUtc = document.baseUtc;		// version 0 stays 0 when it is written again
	}
	return sent;
}

async function acknowledged(transaction, document, sent, result) {
	const told = { ...result, deleted: sent.deleted, body: sent.body, clientId: transaction.state.clientId };

	if (result.outcome === 'unchanged' && document.clientId !== null) told.clientId = document.clientId;		// somebody else has sent it before
	// Not if it was edited again before the answer arrived: that version has yet to be sent.
	if (document.clientVersion === sent.clientVersion) document.becomes(told);
	else document.rebase(told);
	await transaction.save(document);
}

/** Not if it was edited again meanwhile: that version may be accepted. */
async function setAside(transaction, document, sent, error) {
	if (document && document.unsent && document.clientVersion === sent.clientVersion) {
		document.error = error;
		await transaction.save(document);
	}
}

/** Marks on documents that this store's own client wrote last, and on those of others. */
export const isOwn = (document, clientId) => document.clientId === clientId;
export const isOthers = (document, clientId) => document.clientId !== clientId;

