// several.js - a sync of several collections of one store, in one request where they can share it.
//
// Each is a whole client: it has its documents, its cursor, its comparisons. What they share is the request and the page. Where
// the service refuses something of one collection, that one goes on by itself, as Client.sync() does, and holds up no other; so
// it does with what takes more than a request, a comparison.

import { EDIT } from './document.js';
import { Download, PAGE_DOCUMENTS } from './download.js';
import { BadAnswer, NoAnswer, Refused, Stale, reasonOf } from './errors.js';
import { hasKeys } from './jsontext.js';
import { newClientId } from './local.js';
import { BATCH_BYTES, BATCH_DOCUMENTS, Upload } from './upload.js';

const MAX_COLLECTIONS = 60;		// in a request
const KEYS = ['results', 'documents', 'cursor', 'more'];		// of a collection's answer

/** One sync of several. */
export class Several {
	/** @type {Map<string, unknown>} what kept a collection from its end; all others have come to theirs */
	errors = new Map();

	/**
	 * @param {any} transport
	 * @param {Map<string, import('./client.js').Client>} clients
	 */
	constructor(transport, clients) {
		this.transport = transport;
		this.turns = [...clients].map(([name, client]) => new Turn(name, client));
	}

	/**
	 * Sends, receives, and compares where that is due. Rejects with what is the matter with all: no answer, or one that isn't
	 * the service's.
	 * @param {number} [batch] documents sent in a request, of all collections together
	 * @param {number} [page] and received
	 */
	async run(batch = BATCH_DOCUMENTS, page = PAGE_DOCUMENTS) {
		for (let going = await this.#going(); going.length; going = await this.#going()) await this.#exchange(going, batch, page);

		const isAtEnd = (turn) => turn.download.reachedEnd && !turn.isAlone;
		let done = await this.#each(this.turns.filter(isAtEnd), (turn) => turn.client.reconcile(turn.download));
		const renames = await Promise.all(done.map(async ({ client }) => (await client.state()).rename));

		// Whoever has copied the store has copied all of it. Each has reached its end under the old name.
		if (renames.includes(true)) {
			const clientId = newClientId();

			done = await this.#each(done, async (turn) => { turn.download = await turn.client.takeNewName(clientId); });
		}
		await this.#each(done.filter(isAtEnd), (turn) => turn.client.sendMarks());
		await this.#each(this.turns.filter((turn) => turn.isAlone), (turn) => turn.client.sync());
		// Last, since that may take a person's time
		await this.#each(this.turns.filter((turn) => !turn.isAlone && !this.errors.has(turn.name)), async ({ client }) => {
			if (await client.decideConflicts()) await client.upload();
		});
	}

	/** Those that the next request is for. A collection may have another clientId than the others, and has a request of its own. */
	async #going() {
		const going = [];
		let first = null;

		for (const turn of this.turns) {
			if (going.length === MAX_COLLECTIONS || !await turn.goesOn()) continue;
			const clientId = await turn.client.clientId();

			first ??= clientId;
			if (clientId === first) going.push(turn);
		}
		return going;
	}

	/** A request and its answer. */
	async #exchange(turns, batch, page) {
		const parts = [];
		let tombstones = false;
		let left = batch;
		let leftBytes = BATCH_BYTES;
		let clientId = '';

		// First those with documents that weren't tried.
		for (const turn of [...turns].sort((one, other) => other.again.length - one.again.length)) {
			const documents = await turn.choose(left, leftBytes);

			left -= documents.length;
			leftBytes -= documents.reduce((sum, { body }) => sum + (body?.length ?? 0), 0);
			clientId = await turn.upload.noteSent(documents);		// before the digest: with documents on their way none is asked for
			turn.asked = await turn.download.next();
			tombstones ||= turn.asked.tombstones;
			parts.push({ collection: turn.name, cursor: turn.asked.cursor, digest: turn.asked.digest, documents });
		}
		let answer;

		try {
			answer = await this.transport.sync(clientId, parts, page, tombstones);
		} catch (error) {
			if (!(error instanceof Refused) || error.retry) throw error;
			// Because of one of them, or the service doesn't know such requests
			for (const turn of turns) turn.goAlone();
			return;
		}
		const answers = new Map(answer.collections.map((part) => [part?.collection, part]));

		if (answer.collections.length !== parts.length || parts.some(({ collection }, i) => answer.collections[i]?.collection !== collection)
			|| answer.collections.some((part) => !('error' in part || hasKeys(part, KEYS)))) {
			throw new BadAnswer('an answer for each collection was expected');
		}
		await this.#each(turns, (turn) => turn.take({ ...answers.get(turn.name), serverUtc: answer.serverUtc }));
		// None was tried: with the next sync
		if (turns.every((turn) => turn.again.length === turn.documents.length)) for (const turn of turns) turn.again = [];
	}

	/** Does it for each, whatever becomes of the others. Returns those that went through. */
	async #each(turns, work) {
		const done = [];

		for (const turn of turns) {
			try {
				await work(turn);
				done.push(turn);
			} catch (error) {
				turn.ended = true;
				// Nobody answers, or the service asks to be left alone: that's not for one.
				if (error instanceof NoAnswer || error instanceof Refused && error.retryAfter !== undefined) throw error;
				if (!(error instanceof Stale)) this.errors.set(turn.name, reasonOf(error));
			}
		}
		return done;
	}
}

/** What one collection does in a sync. */
class Turn {
	/** Not any more with the others */
	ended = false;
	isAlone = false;
	/** Whether there is more to come for it */
	receives = true;
	/** @type {import('./document.js').Sent[]} that are on their way */
	documents = [];
	/** @type {import('./document.js').Sent[]} that weren't tried */
	again = [];
	/** @type {import('./document.js').Sent | null} the last that was sent */
	after = null;
	/** @type {any} what the page that is on its way was asked for with */
	asked = null;

	/**
	 * @param {string} name
	 * @param {import('./client.js').Client} client
	 */
	constructor(name, client) {
		this.name = name;
		this.client = client;
		this.upload = new Upload(client);
		this.download = new Download(client);
	}

	async goesOn() {
		return !this.ended && (this.receives || this.again.length > 0 || (await this.#next(1, 1)).length > 0);
	}

	/** The documents to be sent next: each once, but for those that weren't tried. */
	async choose(limit, limitBytes) {
		if (this.again.length) {
			[this.documents, this.again] = [this.again, []];
		} else {
			this.documents = await this.#next(limit, limitBytes);
			this.after = this.documents.at(-1) ?? this.after;
		}
		return this.documents;
	}

	async #next(limit, limitBytes) {
		if (limit <= 0 || limitBytes <= 0 || this.upload.hasHadEnough) return [];
		return this.upload.next(EDIT, this.after, limit, limitBytes);
	}

	/** Its part of the answer, or its error. */
	async take(answer) {
		if ('error' in answer) {
			this.goAlone();
			return;
		}
		const isDue = this.documents.length > 0 && this.client.isDue(await this.client.state());

		try {
			this.again = await this.upload.take(this.documents, answer.results);
			await this.download.take(this.asked, answer);
		} catch (error) {
			if (!(error instanceof Refused) || error.retryAfter !== undefined) throw error;
			this.goAlone();		// a winner was left out, and isn't to be had
			return;
		}
		if (this.upload.hasHadEnough) this.again = [];
		this.ended = Boolean(answer.behind);
		this.receives = !this.download.reachedEnd || isDue;		// to compare: once more, without documents
	}

	/** By itself it finds out what was refused, and does what can be done. */
	goAlone() {
		this.ended = this.isAlone = true;
	}
}
