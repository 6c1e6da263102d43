// rxdb.js - replicates an RxCollection. README.md has an example.
//
// The schema has a property clientVersion, a string, which belongs to the adapter: the version that the service has. Bodies are
// objects. The primary key, a single property, is the id, 1 to 500 bytes.
//
// What RxDB can't do:
//
// - A conflict is decided by the collection's conflictHandler, not by the higher clientVersion. RxDB's default one takes what the
//   service has, even a deletion: the device that sends later loses its edit, unless the handler merges the two.
// - onRefused is called once with a document that the service refuses, and RxDB doesn't mark it: it counts as sent. It stays in the
//   collection, is sent again when it is edited, and is replaced when somebody else writes that document.
// - Ids that every object has a property of, such as "constructor", aren't taken: RxDB looks documents up in plain objects, and would
//   stop at one. It doesn't send them, either.
// - With a storage that validates, what doesn't fit the schema isn't stored: replication.error$ says so, and it doesn't come again
//   before it is changed.
// - Numbers beyond 2^53 in bodies become what JSON.parse makes of them. Attachments aren't sent.

// @ts-ignore: an optional peer
import { getChangedDocumentsSince } from 'rxdb';
// @ts-ignore
import { replicateRxCollection } from 'rxdb/plugins/replication';
import { Remote, isSame, poll } from './protocol.js';

const BATCH = 1000;
const NONE = -(2n ** 63n) - 1n;		// below all versions

/**
 * Starts a replication.
 * @param {Omit<import('./protocol.js').RemoteOptions, 'clientId'> & {
 *	collection: any, name: string, live?: boolean, every?: number,
 * } & Record<string, any>} options collection: an RxCollection; name: the collection's name at the service; every: milliseconds
 *	between two downloads; the others are those of replicateRxCollection
 * @returns {any} an RxReplicationState
 */
export function replicateDocsync({ collection, name, url, token, timeout, fetch, onRefused, every, live = true, ...options }) {
	const remote = new Remote(name, { url, token, timeout, fetch, onRefused, clientId: collection.database.storageToken });
	const ends = new Ends(collection, remote);
	const replication = replicateRxCollection({
		replicationIdentifier: `docsync ${url} ${name}`, collection, live, ...options, deletedField: '_deleted',
		pull: { batchSize: BATCH, handler: (checkpoint, batchSize) => ends.pull(checkpoint?.cursor ?? null, batchSize) },
		push: {
			batchSize: BATCH,
			async handler(rows) {
				const conflicts = await ends.push(rows);

				if (live) replication.reSync();
				return conflicts;
			},
		},
	});

	ends.isStopped = () => replication.isStopped();
	collection.preSave(base, false);
	collection.preInsert(async (document) => base(document, await ends.replaced(document)), false);
	if (live) replication.onCancel.push(poll(() => replication.reSync(), every));
	return replication;
}

/** An edit is based on what is stored. RxDB may not have noted yet that the service has that. */
function base(document, stored) {
	delete document.clientVersion;
	if (stored?.clientVersion !== undefined) document.clientVersion = stored.clientVersion;
}

/**
 * The two handlers of a replication, between RxDB and the service.
 *
 * RxDB stores what it is given with a download, and then notes, apart from the documents, that the service has it. A document that
 * differs from the note counts as unsent: RxDB sends it, and skips what it is given of it. Notes come late, or are lost, as when the
 * url changes. So each document has in clientVersion which version of the service it is, or is an edit of:
 *
 * - An edit keeps the clientVersion of what it replaces. It is sent as based on that, or on what RxDB has noted if that is later: a
 *   conflict, which the app's handler decided.
 * - Where RxDB hasn't noted what a document is based on, the service is asked for it. If it has the same, there is nothing to send.
 * - What was sent gets its new version with a download. That, and what arrived meanwhile, RxDB is given until it has stored it. Only
 *   where RxDB hadn't noted what the edit was based on, the new version is stored at once: RxDB might skip it.
 * - An edit that was refused stays: what was sent of that document before isn't given any more.
 */
class Ends {
	isStopped = () => false;
	#collection;
	#remote;
	#key;
	/**
	 * What the service has, by id, and RxDB is given until it has stored it: what was sent, with its new version; and what arrived
	 * meanwhile.
	 * @type {Map<string, any>}
	 */
	#owed = new Map();
	/** Those of them that were sent from here */
	#echoes = new WeakSet();
	#sending = new Set();
	/** What RxDB was given since it was last up to date, and may not have stored yet. */
	#given = new Set();
	#wasLast = true;

	constructor(collection, remote) {
		this.#collection = collection;
		this.#remote = remote;
		this.#key = collection.schema.primaryPath;
	}

	/** What others have changed: as many documents as RxDB asks for, or all. RxDB takes a page with fewer for the last one. */
	async pull(cursor, batchSize) {
		const latest = new Map();
		let documents = [];

		if (this.#wasLast) this.#given.clear();
		for (let more = true; more && documents.length < batchSize;) {
			const page = await this.#page(cursor, batchSize);

			for (const document of page.documents) latest.set(document.id, document);
			documents = await this.#allToRx([...latest.values()]);
			({ cursor, more } = page);
		}
		await this.#forgetStored();
		for (const document of documents) {
			const id = document[this.#key];

			this.#given.add(id);
			if (this.#sending.has(id) || this.#owed.has(id)) this.#owe(id, document);
		}
		// Behind the page, which may be older than what was sent meanwhile: RxDB takes the last one of a document. Not what is being
		// sent again: if that is refused, it stays.
		for (const [id, document] of this.#owed) if (!this.#sending.has(id)) documents.push(document);
		this.#wasLast = documents.length < batchSize;
		return { documents, checkpoint: { cursor } };
	}

	/** A page. The first one has also what was sent from here, and needs no tombstones, unless something was sent meanwhile. */
	async #page(cursor, limit) {
		if (cursor !== null) return this.#remote.pull(cursor, limit);
		const wasEmpty = await this.#isEmpty();
		let page = await this.#remote.pull(null, limit, !wasEmpty);

		if (wasEmpty && !await this.#isEmpty()) page = await this.#remote.pull(null, limit);
		return { ...page, documents: [...page.documents, ...await this.#lostHere()] };
	}

	/** Whether RxDB has nothing, not even something deleted. */
	async #isEmpty() {
		const { documents } = await getChangedDocumentsSince(this.#collection.storageInstance, 1);

		return documents.length === 0;
	}

	/** What was sent from here, and isn't here: the collection was removed and made again, and the clientId is the database's. */
	async #lostHere() {
		const own = await this.#remote.own();
		const stored = await this.#stored(own.map(({ id }) => id));

		return own.filter(({ id }) => !stored.has(id));
	}

	/** Sends edits. Returns the service's versions of those that were in conflict. */
	async push(all) {
		const rows = await this.#edits(all);
		const ids = rows.map(({ newDocumentState }) => newDocumentState[this.#key]);
		const conflicts = [];
		const renewed = [];

		for (const id of ids) this.#sending.add(id);
		try {
			const outcomes = await this.#remote.push(rows.map(({ newDocumentState, assumedMasterState }, i) => {
				const { _deleted: deleted, clientVersion, ...body } = newDocumentState;

				return { id: ids[i], body, deleted, base: isUnnoted(rows[i]) ? clientVersion : assumedMasterState?.clientVersion ?? null };
			}));

			for (const [i, { newDocumentState }] of rows.entries()) {
				const { outcome, clientVersion, winner } = outcomes.get(ids[i]);
				const { deleted, body = newDocumentState } = winner ?? { deleted: newDocumentState._deleted };
				const document = this.#toRx({ id: ids[i], clientVersion, deleted, body });

				if (outcome === 'refused') {
					// What was sent before would replace the edit, which counts as sent.
					if (this.#echoes.has(this.#owed.get(ids[i]))) this.#owed.delete(ids[i]);
					continue;
				}
				if (outcome === 'conflict') conflicts.push(document);
				else if (isUnnoted(rows[i])) renewed.push(document);
				if (!winner) this.#echoes.add(document);
				this.#owe(ids[i], document);
			}
			await this.#renew(renewed);
		} finally {
			for (const id of ids) this.#sending.delete(id);
		}
		return conflicts;
	}

	/**
	 * The edits among the rows. Where a conflict was decided for the service's version, there is nothing to send; nor is there for
	 * what RxDB has stored, but not noted as the service's: that may have been edited since, or not.
	 */
	async #edits(rows) {
		const unnoted = rows.filter(isUnnoted).map(({ newDocumentState }) => newDocumentState[this.#key]);
		const stored = unnoted.length ? await this.#remote.get(unnoted) : [];
		const there = new Map(stored.map((document) => [document.id, this.#toRx(document)]));

		return rows.filter(({ newDocumentState, assumedMasterState }) =>
			JSON.stringify(newDocumentState) !== JSON.stringify(assumedMasterState)
			&& !isSameVersion(newDocumentState, there.get(newDocumentState[this.#key])));
	}

	/**
	 * Stores the new version of what was sent. RxDB may have noted meanwhile what that was based on; then it can't note that it was
	 * sent, and takes it for unsent until it changes.
	 */
	async #renew(sent) {
		const stored = await this.#stored(sent.map((document) => document[this.#key]));
		const rows = sent.flatMap((/** @type {any} */ document) => {
			const { clientVersion } = document;
			const previous = stored.get(document[this.#key]);

			return isLater({ clientVersion }, previous) ? [{ previous, document: { ...previous, clientVersion } }] : [];
		});

		if (rows.length) await this.#collection.storageInstance.bulkWrite(rows, 'docsync');
	}

	/** The deleted document in whose place another is inserted, if it may be of a download that RxDB hasn't noted yet. */
	async replaced(/** @type {any} */ document) {
		const id = document[this.#key];

		return this.#given.has(id) ? (await this.#stored([id])).get(id) : undefined;
	}

	#toRx({ id, clientVersion, deleted, body }) {
		return { ...body, [this.#key]: id, clientVersion: `${clientVersion}`, _deleted: deleted };
	}

	/** A deleted document keeps its properties, which the schema may require; one that isn't here needs no deletion. */
	async #allToRx(documents) {
		const ids = documents.filter(({ deleted }) => deleted).map(({ id }) => id);
		let before = new Map();

		while (ids.length && !this.isStopped()) {
			before = await this.#stored(ids);
			if (ids.every((id) => before.has(id) || !this.#given.has(id))) break;
			await new Promise((resolve) => { setTimeout(resolve, 10); });
		}
		return documents.filter(({ id, deleted }) => !(id in Object.prototype) && (!deleted || before.has(id))).map((document) => {
			const { _meta, _rev, _attachments, ...body } = before.get(document.id) ?? document.body ?? {};

			return this.#toRx({ ...document, body });
		});
	}

	/** What RxDB has of these, also deleted ones. */
	async #stored(ids) {
		const documents = ids.length ? await this.#collection.storageInstance.findDocumentsById(ids, true) : [];

		return new Map(documents.map((document) => [document[this.#key], document]));
	}

	#owe(id, document) {
		if (!isLater(this.#owed.get(id), document)) this.#owed.set(id, document);
	}

	/** What RxDB has stored is owed no longer. */
	async #forgetStored() {
		for (const [id, document] of await this.#stored([...this.#owed.keys()])) {
			if (!isLater(this.#owed.get(id), document)) this.#owed.delete(id);
		}
	}
}

/** Whether RxDB hasn't noted yet that the service has what this is based on. */
function isUnnoted({ newDocumentState, assumedMasterState }) {
	return isLater(newDocumentState, assumedMasterState);
}

/** Whether the service has just this. */
function isSameVersion(state, there) {
	return there !== undefined && there.clientVersion === state.clientVersion
		&& isSame({ deleted: state._deleted, body: JSON.stringify(state) }, { deleted: there._deleted, body: JSON.stringify(there) });
}

/** Whether this one has a later version than the other. Either may be missing, or have no version. */
function isLater(one, other) {
	return one !== undefined && BigInt(one.clientVersion ?? NONE) > BigInt(other?.clientVersion ?? NONE);
}
