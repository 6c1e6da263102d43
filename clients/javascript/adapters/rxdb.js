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
		replicationIdentifier: `docsync ${url} ${name}`, collection, live, ...options,
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

	ends.replication = replication;
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

/** The two handlers of a replication, between RxDB and the service. */
class Ends {
	/** @type {any} */
	replication;
	#collection;
	#remote;
	#key;
	/**
	 * What the service has, by id. RxDB is given it with each download until it has stored it: what was sent, with its new version;
	 * and what arrived meanwhile, since RxDB skips changes to a document that it considers unsent.
	 * @type {Map<string, any>}
	 */
	#owed = new Map();
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
		await this.#forgetStored();
		const latest = new Map();
		let documents = [];

		if (this.#wasLast) this.#given.clear();
		for (let more = true; more && documents.length < batchSize;) {
			const page = await this.#page(cursor, batchSize);

			for (const document of page.documents) latest.set(document.id, document);
			documents = await this.#allToRx([...latest.values()]);
			({ cursor, more } = page);
		}
		for (const document of documents) {
			const id = document[this.#key];

			this.#given.add(id);
			if (this.#sending.has(id) || this.#owed.has(id)) this.#owe(id, document);
		}
		// Behind the page, which may be older than what was sent meanwhile: RxDB takes the last one of a document.
		documents.push(...this.#owed.values());
		this.#wasLast = documents.length < batchSize;
		return { documents, checkpoint: { cursor } };
	}

	/** A page. A first download needs no tombstones, unless something was sent before it was answered. */
	async #page(cursor, limit) {
		if (cursor === null && await this.#isEmpty()) {
			const page = await this.#remote.pull(cursor, limit, false);

			if (await this.#isEmpty()) return page;
		}
		return this.#remote.pull(cursor, limit);
	}

	/** Whether RxDB has nothing, not even something deleted. */
	async #isEmpty() {
		const { documents } = await getChangedDocumentsSince(this.#collection.storageInstance, 1);

		return documents.length === 0;
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

				if (outcome === 'refused') continue;
				if (outcome === 'conflict') conflicts.push(document);
				else if (isUnnoted(rows[i])) renewed.push(document);
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
		const stored = new Map((unnoted.length ? await this.#remote.get(unnoted) : []).map((document) => [document.id, this.#toRx(document)]));

		return rows.filter(({ newDocumentState: state, assumedMasterState }) => {
			const there = stored.get(state[this.#key]);

			return JSON.stringify(state) !== JSON.stringify(assumedMasterState) && !(there && there.clientVersion === state.clientVersion
				&& isSame({ deleted: state._deleted, body: JSON.stringify(state) }, { deleted: there._deleted, body: JSON.stringify(there) }));
		});
	}

	/**
	 * Stores the new version of what was sent. RxDB may have noted meanwhile what that was based on; then it can't note that it was
	 * sent, and takes it for unsent until it changes.
	 */
	async #renew(sent) {
		const stored = await this.#stored(sent.map((document) => document[this.#key]));
		const rows = sent.flatMap(({ [this.#key]: id, clientVersion }) => {
			const previous = stored.get(id);

			return isLater({ clientVersion }, previous) ? [{ previous, document: { ...previous, clientVersion } }] : [];
		});

		if (rows.length) await this.#collection.storageInstance.bulkWrite(rows, 'docsync');
	}

	/** The deleted document in whose place another is inserted, if it may be of a download that RxDB hasn't noted yet. */
	async replaced({ [this.#key]: id }) {
		return this.#given.has(id) ? (await this.#stored([id])).get(id) : undefined;
	}

	#toRx({ id, clientVersion, deleted, body }) {
		return { ...body, [this.#key]: id, clientVersion: `${clientVersion}`, _deleted: deleted };
	}

	/** A deleted document keeps its properties, which the schema may require; one that isn't here needs no deletion. */
	async #allToRx(documents) {
		const ids = documents.filter(({ deleted }) => deleted).map(({ id }) => id);
		let before = new Map();

		while (ids.length && !this.replication.isStopped()) {
			before = await this.#stored(ids);
			if (ids.every((id) => before.has(id) || !this.#given.has(id))) break;
			await new Promise((resolve) => { setTimeout(resolve, 10); });
		}
		return documents.filter(({ id, deleted }) => !deleted || before.has(id)).map((document) => {
			const { _meta, _rev, _attachments, ...body } = before.get(document.id) ?? document.body;

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

/** Whether this one has a later version than the other. Either may be missing, or have no version. */
function isLater(one, other) {
	return one !== undefined && BigInt(one.clientVersion ?? NONE) > BigInt(other?.clientVersion ?? NONE);
}
