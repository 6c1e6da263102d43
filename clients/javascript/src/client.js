// client.js - a sync: sends, receives, compares if that is due, and repairs.
//
// The ideas, which are the same as in examples/demo/client.py:
//
// - Unsent edits are marked. Versions can't tell which documents have yet to be sent: a downloaded document may have a higher
//   one than the last one sent, and a local edit a lower one.
// - Each answer is applied in one transaction, with the cursor that came with it. If an answer is lost, the request is
//   repeated.
// - Besides what it has itself, the client knows what the service last said about each document (base: version and stamp), and
//   keeps a digest of that up to date. Comparing it with the service's takes one answer; if they differ, reconcile.js decides.
// - A clientId belongs to one store. The client notes each version before sending it; a version under its own clientId that it
//   never sent comes from another store with the same clientId. Then it takes a new one and starts again with a null cursor,
//   keeping its documents.
// - A refused document doesn't stop the others.
// - If the service says which clientVersion is the highest that it accepts (maxVersion), a higher one loses: it comes from a wrong
//   clock, or nobody could edit the document any more. An unsent edit with such a version gets a new one.

import { DELETE } from './conflict.js';
import { Document, EDIT, MARK, MAX_VERSION } from './document.js';
import { Download } from './download.js';
import { Refused, Stale, VersionsExhausted } from './errors.js';
import { toJson } from './jsontext.js';
import { Local, newClientId } from './local.js';
import { Reconciler } from './reconcile.js';
import { bringDown } from './take.js';
import { Upload, isOthers, isOwn } from './upload.js';

/**
 * @typedef {object} Waits in milliseconds. Random waits are up to this long, since many clients are told, or find out, at once
 * @property {number} told random, from being told to reconcile to asking for the digest
 * @property {number} others random, before what others wrote and the service lost is sent
 * @property {number} compare between regular comparisons; the first is at a random time, so that clients differ
 * @property {number} again after a comparison that didn't finish; doubled each time
 * @property {number} primary how long to get "behind" before the primary is asked
 */

/** @type {Waits} */
export const WAITS = { told: 3_600_000, others: 3_600_000, compare: 86_400_000, again: 60_000, primary: 60_000 };

/** Synchronises a collection with the service; when to do so is up to schedule.js. */
export class Client {
	/**
	 * @param {string} collection
	 * @param {object} options
	 * @param {any} options.transport
	 * @param {import('./stores/store.js').Store} options.store
	 * @param {string} [options.clientId]
	 * @param {() => number} options.clock milliseconds since 1970
	 * @param {() => number} options.random
	 * @param {Waits} options.waits
	 * @param {((conflict: any) => unknown) | null} options.onConflict
	 * @param {(documents: Document[]) => void} options.changed
	 */
	constructor(collection, { transport, store, clientId, clock, random, waits, onConflict, changed }) {
		this.transport = transport;
		this.clock = clock;
		this.random = random;
		this.waits = waits;
		this.onConflict = onConflict;
		this.isBound = clientId !== undefined;
		/** The last stamps seen: of downloads, which are complete up to there; and of any document */
		this.reached = { complete: '', known: '' };
		this.local = new Local(store, collection, {
			clientId, clock, firstCompare: () => this.within(waits.compare), keepsConflicts: () => this.onConflict !== null, changed,
		});
	}

	/** A random time from now on, at most this far ahead. */
	within(wait) {
		return this.clock() + Math.floor(this.random() * wait);
	}

	/** Notes the stamp of a document, of a download or not. */
	noteStamp(stamp, isDownloaded) {
		const { reached } = this;

		if (stamp > reached.known) reached.known = stamp;
		if (isDownloaded && stamp > reached.complete) reached.complete = stamp;
	}

	/** What is known about the service. */
	state() {
		return this.local.transaction(async (transaction) => transaction.state);
	}

	async clientId() {
		return (await this.state()).clientId;
	}

	/**
	 * Creates, replaces or deletes documents, all or none; a body is text, null for a deletion.
	 * @param {[string, string | null][]} edits
	 */
	edit(edits) {
		return this.local.transaction(async (transaction) => {
			for (const [id, body] of edits) {
				const document = await transaction.find(id);

				if (body !== null || document && !document.deleted) await this.#edit(transaction, document ?? new Document(id), body);
			}
		});
	}

	async #edit(transaction, document, body) {
		// Higher than the version edited, even if that came from a client whose clock is ahead of ours.
		const now = BigInt(this.clock());
		const least = document.clientVersion === null ? now : document.clientVersion + 1n;
		const version = least > now ? least : now;

		if (version > MAX_VERSION) throw new VersionsExhausted(document.id);
		document.clientVersion = version;
		document.deleted = body === null;
		document.body = body;
		document.unsent = EDIT;
		document.error = document.lastUpdateUtc = document.clientId = null;
		if (document.conflict) document.conflict = { ...document.conflict, mine: document.version };
		bringDown(transaction, document);
		await transaction.save(document);
	}

	/** Sends, receives, and compares if that is due. A refused upload doesn't prevent the download; it is raised afterwards. */
	async sync() {
		let refusal;

		try {
			await this.upload();
		} catch (error) {
			// A service that asks for a pause gets one.
			if (!(error instanceof Refused) || error.retryAfter !== undefined) throw error;
			refusal = error;
		}
		try {
			await this.#receive();
		} catch (error) {
			if (!(error instanceof Stale)) throw error;
		}
		if (await this.decideConflicts() && !refusal) await this.upload();
		if (refusal) throw refusal;
	}

	/** Sends all local edits. */
	upload() {
		return new Upload(this).run(EDIT);
	}

	/** Fetches what others changed. */
	async download() {
		const download = new Download(this);

		await download.run();
		return download;
	}

	async #receive() {
		const download = await this.download();

		if (!download.reachedEnd) return;
		await this.reconcile(download);
		// After a download that has reached the end: only the cursor of the old clientId is told of a loss.
		if ((await this.state()).rename && !(await this.takeNewName(newClientId())).reachedEnd) return;
		await this.sendMarks();
	}

	/**
	 * What a download has found to differ.
	 * @param {Download} download
	 */
	async reconcile({ differing }) {
		if (!differing) return;
		try {
			await new Reconciler(this).run(differing);
		} catch (error) {
			// A service that can't compare: then nothing can be done.
			if (!(error instanceof Refused) || error.status !== 404 && error.status !== 405) throw error;
		}
	}

	/** Makes the next sync compare, even if that isn't due yet. */
	compare() {
		return this.local.transaction(async (transaction) => transaction.set({ compareAt: 0 }));
	}

	/** Whether it is time to compare. A clock that was set back must not delay that for longer than the usual wait. */
	isDue(state) {
		const now = this.clock();

		return !(now < state.compareAt && state.compareAt <= now + Math.max(this.waits.compare, this.waits.told));
	}

	/** A call with the cursor, so that a server that lags says so. */
	async ask(call, ...args) {
		const { clientId, cursor } = await this.state();
		const answer = await this.transport[call](clientId, cursor, ...args);

		if (answer.behind || answer.reconcile) throw new Stale();
		return answer;
	}

	/**
	 * Sends what the service has lost: own documents at once, those of others after a random wait, since many clients hold the
	 * same ones, and most are restored by somebody else meanwhile.
	 */
	async sendMarks() {
		await new Upload(this).run(MARK, isOwn);
		const sends = await this.local.transaction(async (transaction) => {
			const { clientId, othersAt } = transaction.state;
			const isWaiting = (await transaction.batch(MARK, (document) => isOthers(document, clientId), null, 1, Infinity)).length > 0;

			if (isWaiting !== (othersAt !== null)) transaction.set({ othersAt: isWaiting ? this.within(this.waits.others) : null });
			return isWaiting && this.clock() >= /** @type {number} */ (transaction.state.othersAt);
		});

		if (sends) await new Upload(this).run(MARK, isOthers);
	}

	/**
	 * Takes a new clientId, and starts again with a null cursor, keeping the documents: it hasn't seen what the other store with
	 * the old clientId has written.
	 */
	async takeNewName(clientId) {
		await this.local.transaction(async (transaction) => {
			await transaction.rename(clientId);
			transaction.set({ cursor: null, unheard: true, newestKnownServiceRecordUtc: null, rename: false });
			for (const document of await transaction.all('b')) {
				document.sent = null;
				document.unanswered = false;
				await transaction.save(document);
			}
		});
		return this.download();
	}

	/** Asks onConflict about each undecided conflict. Returns whether there is something new to be sent. */
	async decideConflicts() {
		const waiting = await this.local.transaction((transaction) => transaction.all('c'));

		for (const { id } of waiting) await this.#decideConflict(id);
		return waiting.length > 0;
	}

	/**
	 * A merged body becomes a new version, based on theirs. With undefined the higher clientVersion wins, as it would have
	 * without asking. If the document was edited, or changed by others, before the answer came, onConflict is asked again.
	 */
	async #decideConflict(id) {
		const read = () => this.local.transaction(async (transaction) => (await transaction.find(id))?.conflict ?? null);

		for (let conflict = await read(); conflict; conflict = await read()) {
			const asked = conflict;
			const merged = await this.onConflict?.({ id, mine: forPerson(asked.mine), theirs: forPerson(asked.theirs) });
			const body = merged === undefined || merged === DELETE ? null : toJson(merged);

			await this.local.transaction(async (transaction) => {
				const document = await transaction.find(id);

				if (!document?.conflict || document.conflict.mine.clientVersion !== asked.mine.clientVersion
					|| document.conflict.theirs.clientVersion !== asked.theirs.clientVersion) return;
				document.conflict = null;
				if (merged === undefined) await transaction.save(document);
				else await this.#edit(transaction, document, body);
			});
		}
	}
}

/** One of two versions, for onConflict. */
function forPerson({ clientVersion, deleted, body }) {
	return { clientVersion, deleted, body: body === null ? undefined : JSON.parse(body) };
}
