// reconcile.js - compares what client and service hold, and repairs what differs.
//
// A client may have missed something (it was away for longer than tombstones are kept), or have what the service has lost (it
// was restored to an earlier time, or a lagging standby took over). Rules of the form "lost after stamp S" fail here: commits
// don't happen in the order of stamps. So the client compares: it asks which documents the service has, in the buckets whose
// sums differ, and `judge` decides for each id on either side.
//
// What the service has lost is *marked*: to be sent again, though nobody edited it. A mark isn't an edit. It says what the
// service had when it was made (baseVersion), and is applied only if the service still has that; what is downloaded replaces
// it, unless that is older.

import { EDIT, MARK, bucketOrder, order } from './document.js';
import { end } from './local.js';
import { earlier, isLater, lookForTwin, take } from './take.js';

const ROWS = 10_000;			// in an answer
const DOCUMENTS = 1000;

/**
 * Decides what becomes of an id. local: the document or null; row: the service's row or null; lostAfter, purgedThrough: stamps
 * or null.
 * @returns {'nothing' | 'keep' | 'send' | 'remove' | 'fetch'}
 */
export function judge(local, row, lostAfter, purgedThrough) {
	// A tombstone of what was never here doesn't matter.
	if (local === null) return row.deleted ? 'nothing' : 'fetch';
	// An edit is kept, whatever the service has: that is what it is now based on.
	if (local.unsent === EDIT) return 'keep';
	// A marked document is known to be lost; a purge since then proves nothing about it.
	if (row === null && local.unsent) return 'keep';
	if (row === null) return isLost(local.lastUpdateUtc, lostAfter, purgedThrough) ? 'send' : 'remove';
	const theirs = row.clientVersion;
	const ours = local.clientVersion;

	if (ours > theirs || ours === 0n && theirs === 0n && isLater(local, row)) return 'send';
	if (ours === theirs && local.lastUpdateUtc === row.LastUpdateUtc && !local.unsent) return 'nothing';
	return 'fetch';
}

/**
 * Whether a document that the service doesn't have was lost there. Otherwise it was deleted, and the tombstone was purged: then
 * its stamp was at or below the horizon, and it isn't one that may have been lost. In doubt the document is kept.
 */
export function isLost(utc, lostAfter, purgedThrough) {
	return utc === null || purgedThrough === null || utc > earlier(purgedThrough, lostAfter);
}

/** One comparison by listing the given buckets. */
export class Reconciler {
	/** @param {import('./client.js').Client} client */
	constructor(client) {
		this.client = client;
	}

	async run(buckets) {
		const { client } = this;
		let reached = null;
		let more = true;

		while (more) {
			const after = reached;
			const answer = await client.ask('reconcile', buckets, after, ROWS);

			more = answer.more;
			reached = more ? answer.after : null;
			const upto = reached;
			const toFetch = await client.local.transaction(async (transaction) => {
				for (const row of answer.rows) await lookForTwin(transaction, row, client.isBound);
				return this.#apply(transaction, answer, await this.#documents(transaction, buckets, after, upto));
			});

			await this.#fetch(toFetch);
		}
	}

	/** The store's documents in the part of the list that a page covers. */
	async #documents(transaction, buckets, after, upto) {
		const documents = new Map();

		for (const bucket of buckets) {
			const list = `b${bucketOrder(bucket)}`;
			const from = after === null ? list : `${list}${order(after)}\x01`;
			const to = upto === null ? end(list) : `${list}${order(upto)}\x01`;

			for (const document of await transaction.all(from, to)) documents.set(document.id, document);
		}
		return documents;
	}

	/** Compares with the store as it is now, in this transaction. Returns the ids to be fetched. */
	async #apply(transaction, answer, local) {
		const rows = new Map(answer.rows.map((row) => [row.id, row]));
		const ids = [...new Set([...rows.keys(), ...local.keys()])].map((id) => [order(id), id]).sort(([one], [other]) => one < other ? -1 : 1);
		const toFetch = [];

		for (const [, id] of ids) {
			// Looked up separately if it isn't in the page's part, whose end is the last id that the service looked at
			const document = local.get(id) ?? await transaction.find(id);
			const row = rows.get(id) ?? null;
			const what = judge(document, row, transaction.state.lostAfter, answer.purgedThrough);

			if (what === 'fetch' && !row.deleted) {
				toFetch.push(id);
			} else if (what === 'fetch') {
				await take(transaction, { ...row, body: null }, true);		// a tombstone: it is complete
			} else if (what === 'remove') {
				await transaction.remove(document);
			} else if (what !== 'nothing') {
				if (what === 'send') document.unsent = MARK;
				document.rebase(row);
				await transaction.save(document);
			}
		}
		return toFetch;
	}

	/** Fetches complete documents and takes them over, each answer in one transaction. */
	async #fetch(ids) {
		const { client } = this;

		while (ids.length) {
			const answer = await client.ask('get', ids.slice(0, DOCUMENTS));
			const { documents } = answer;

			await client.local.transaction(async (transaction) => {
				for (const document of documents) {
					await lookForTwin(transaction, document, client.isBound);
					await take(transaction, document, true);
				}
			});
			// If the answer was full, continue after the last document in it; otherwise those missing are gone again, or we may
			// not see them.
			ids = ids.slice(answer.more && documents.length ? ids.indexOf(documents.at(-1).id) + 1 : DOCUMENTS);
		}
	}
}
