// download.js - fetches what others changed, page by page, and compares with the page that reaches the end.

import { BUCKETS } from './digest.js';
import { BadAnswer, Refused } from './errors.js';
import { isPage } from './jsontext.js';
import { earlier, noteLimit, take } from './take.js';

export const PAGE_DOCUMENTS = 1000;
const KEEP_TOMBSTONES = 90 * 86_400_000;

/** One download. */
export class Download {
	/** @param {import('./client.js').Client} client */
	constructor(client) {
		this.client = client;
		this.local = client.local;
		this.reachedEnd = false;
		/** @type {number[] | null} the buckets to be listed */
		this.differing = null;
	}

	/** Downloads to the end, or until a server that lags answers: it is asked again with the next sync. */
	async run(page = PAGE_DOCUMENTS) {
		while (!this.reachedEnd) {
			const [asked, answer] = await this.#pull(page);

			await this.take(asked, answer);
			if (answer.behind) return;
		}
	}

	async #pull(page) {
		for (;;) {
			const asked = await this.next();

			try {
				return [asked, await this.client.transport.pull(
					asked.clientId, asked.cursor, page, asked.digest, asked.tombstones, asked.primary)];
			} catch (error) {
				if (!(error instanceof Refused) || error.status !== 410 || asked.cursor === null) throw error;
				await this.#beginFromNull(error);
			}
		}
	}

	/** What to ask for the next page with. */
	next() {
		return this.local.transaction(async (transaction) => {
			const { clientId, cursor, behindSince } = transaction.state;
			// With documents that the service may or may not have, the digests would differ for no reason.
			const compares = this.client.isDue(transaction.state) && await transaction.count('a') === 0;

			return {
				clientId,
				cursor,
				digest: compares ? (await transaction.digest()).digest : null,
				tombstones: cursor !== null || await transaction.hasTold(),		// a first download needs none
				primary: behindSince !== null && this.client.clock() >= behindSince + this.client.waits.primary,
			};
		});
	}

	/**
	 * Does nothing if another sync of the same store has got further meanwhile, or has changed its clientId: the cursor would
	 * be outdated.
	 */
	async take(asked, answer) {
		if (!answer.behind && !isPage(answer, asked.cursor)) {
			throw new BadAnswer('documents, and a cursor to go on from, were expected');
		}
		await this.local.transaction(async (transaction) => {
			const { clientId, cursor } = transaction.state;

			if (clientId === asked.clientId && cursor === asked.cursor) await this.#apply(transaction, asked, answer);
		});
		for (const { LastUpdateUtc } of answer.documents ?? []) this.client.noteStamp(LastUpdateUtc, true);
		this.reachedEnd = !(answer.more || answer.behind);
	}

	/** For a service or a proxy that doesn't know the request: the cursor becomes void, but nothing in the store does. */
	#beginFromNull(refusal) {
		return this.local.transaction(async (transaction) => {
			const isLost = refusal.code !== 'resync_purged' && refusal.details.reason !== 'purged';

			transaction.set({ cursor: null, unheard: isLost });
			if (!isLost) this.#told(transaction, null);
		});
	}

	async #apply(transaction, asked, answer) {
		const { state } = transaction;

		if (answer.behind) {
			transaction.set({ behindSince: state.behindSince ?? this.client.clock() });
			return;
		}
		await noteLimit(transaction, answer);
		const isUnheard = state.unheard && await transaction.hasTold();
		let newest = state.newestKnownServiceRecordUtc;

		for (const document of answer.documents) {
			await take(transaction, document);
			if (newest === null || document.LastUpdateUtc > newest) newest = document.LastUpdateUtc;
		}
		transaction.set({ cursor: answer.cursor, unheard: false, behindSince: null, newestKnownServiceRecordUtc: newest });
		if (answer.reconcile) this.#told(transaction, answer.lostAfter === undefined ? '-infinity' : answer.lostAfter);
		else if (isUnheard) this.#told(transaction, '-infinity');
		else if (asked.digest !== null && !answer.more) await this.#compare(transaction, answer);
	}

	/** Notes that something may have been lost: it compares soon, at a random time. */
	#told(transaction, lostAfter) {
		const { state } = transaction;

		transaction.set({
			lostAfter: earlier(state.lostAfter, lostAfter), nulls: 0, rounds: 0,
			compareAt: Math.min(state.compareAt, this.client.within(this.client.waits.told)),
		});
	}

	/** The page that reached the end has the service's digest under the same snapshot. */
	async #compare(transaction, answer) {
		const { client } = this;
		const { state } = transaction;
		const theirs = answer.state ?? null;

		if (theirs === null && state.nulls < 2) {
			transaction.set({ nulls: state.nulls + 1, compareAt: this.#after(state.nulls) });
			return;
		}
		const differing = theirs === null ? allBuckets() : await this.#differing(transaction, theirs);

		if (differing.length) {
			this.differing = differing;
			transaction.set({ nulls: 0, rounds: state.rounds + 1, compareAt: this.#after(state.rounds) });
			return;
		}
		const now = client.clock();

		transaction.set({ nulls: 0, rounds: 0, lostAfter: null, equalAt: now, compareAt: now + client.waits.compare });
		await forgetTombstones(transaction, answer.serverUtc);
	}

	/** The buckets whose sums differ. The service leaves the sums out if its digest is the same as the one sent. */
	async #differing(transaction, theirs) {
		const ours = await transaction.digest();

		if (theirs.count === ours.count && theirs.digest === ours.digest) return [];
		const sums = await transaction.sums();
		const differing = allBuckets().filter((bucket) => theirs.sums?.[bucket] !== undefined && theirs.sums[bucket] !== sums[bucket]);

		return differing.length ? differing : allBuckets();
	}

	#after(times) {
		const { waits, clock } = this.client;

		return clock() + Math.min(waits.again * 2 ** Math.min(times, 30), waits.compare);
	}
}

function allBuckets() {
	return Array.from({ length: BUCKETS }, (_, bucket) => bucket);
}

/** Removes old tombstones, also those that the service has. */
async function forgetTombstones(transaction, serverUtc) {
	const limit = new Date(Date.parse(serverUtc) - KEEP_TOMBSTONES).toISOString().replace('Z', '000Z');

	for (const document of await transaction.all('d', `d${limit}`)) await transaction.remove(document);
}
