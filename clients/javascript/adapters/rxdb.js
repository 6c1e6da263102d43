// rxdb.js - an RxCollection, replicated.
//
//	import { createRxDatabase } from 'rxdb';
//	import { getRxStorageMemory } from 'rxdb/plugins/storage-memory';
//	import { replicateDocsync } from 'docsync-client/adapters/rxdb';
//
//	const properties = { id: { type: 'string', maxLength: 100 }, text: { type: 'string' }, clientVersion: { type: 'string' } };
//	const db = await createRxDatabase({ name: 'app', storage: getRxStorageMemory() });
//	const { notes } = await db.addCollections({ notes: { schema: { version: 0, primaryKey: 'id', type: 'object', properties } } });
//
//	replicateDocsync({ collection: notes, name: 'notes', url, token });
//	await notes.insert({ id: 'shopping', text: 'bread' });
//
// The schema has a property clientVersion, a string, which is the adapter's: the version that the service has. Bodies are
// objects. A collection has one primary key; it is the id, 1 to 500 bytes.
//
// What RxDB can't do:
//
// - A conflict is decided by the collection's conflictHandler, not by the higher clientVersion. RxDB's own takes what the service
//   has, a deletion, too: who sends later loses the edit, unless the handler merges the two.
// - What the service refuses is told to onRefused once, and nobody is reminded: RxDB takes it to be sent. It stays in the
//   collection, is sent again when it is edited, and gives way when somebody else writes that document.
// - Numbers beyond 2^53 in bodies are those that JSON.parse makes of them. Attachments aren't sent.

// @ts-ignore: an optional peer
import { replicateRxCollection } from 'rxdb/plugins/replication';
import { Remote, poll } from './protocol.js';

/**
 * Begins a replication.
 * @param {import('./protocol.js').RemoteOptions & {
 *	collection: any, name: string, live?: boolean, every?: number, retryTime?: number,
 * } & Record<string, any>} options collection: an RxCollection; name: of the collection, as the service knows it; every:
 *	milliseconds between two downloads; others are replicateRxCollection's
 * @returns {any} an RxReplicationState
 */
export function replicateDocsync({ collection, name, url, token, timeout, fetch, onRefused, every, live = true, ...options }) {
	const key = collection.schema.primaryPath;
	const remote = new Remote(name, { url, token, timeout, fetch, onRefused, clientId: collection.database.storageToken });
	const toRx = ({ id, clientVersion, deleted, body }) => ({ ...body, [key]: id, clientVersion: `${clientVersion}`, _deleted: deleted });
	/**
	 * What the service has, by id, and RxDB is given with each download until it has taken it: what was sent, with its new version; and
	 * what came while it was sent, since RxDB passes over changes to a document that it takes to be unsent.
	 */
	const owed = new Map();
	const sending = new Set();
	const owe = (id, document) => {
		if (!isLater(owed.get(id), document)) owed.set(id, document);
	};
	/** What RxDB was given since it last had all, and may not have stored yet. */
	const given = new Set();
	let isLast = true;

	/** What RxDB has of these, deleted ones, too. */
	const stored = async (ids) => new Map(ids.length
		? (await collection.storageInstance.findDocumentsById(ids, true)).map((document) => [document[key], document]) : []);

	/** What is owed still. */
	async function stillOwed() {
		for (const [id, document] of await stored([...owed.keys()])) {
			if (!isLater(owed.get(id), document)) owed.delete(id);
		}
		return [...owed.values()];
	}

	/** A deleted document is what it was before, which the schema may require; what isn't here needs no deletion. */
	async function allToRx(documents) {
		const ids = documents.filter(({ deleted }) => deleted).map(({ id }) => id);
		let before = new Map();

		while (ids.length && !replication.isStopped()) {
			before = await stored(ids);
			if (ids.every((id) => before.has(id) || !given.has(id))) break;
			await new Promise((resolve) => { setTimeout(resolve, 10); });
		}
		return documents.filter(({ id, deleted }) => !deleted || before.has(id)).map((document) => {
			const { _meta, _rev, _attachments, ...body } = before.get(document.id) ?? document.body;

			return toRx({ ...document, body });
		});
	}

	const replication = replicateRxCollection({
		replicationIdentifier: `docsync ${url} ${name}`, collection, live, ...options,
		pull: {
			batchSize: 1000,
			async handler(checkpoint, batchSize) {
				const before = await stillOwed();
				const latest = new Map();
				let documents = [];
				let page = { cursor: checkpoint?.cursor ?? null, more: true };

				if (isLast) given.clear();
				// RxDB takes a page with fewer documents than it asked for to be the last.
				while (page.more && documents.length < batchSize) {
					const next = await remote.pull(page.cursor, batchSize);

					for (const document of next.documents) latest.set(document.id, document);
					documents = await allToRx([...latest.values()]);
					page = next;
				}
				for (const document of documents) {
					const id = document[key];

					given.add(id);
					if (sending.has(id) || owed.has(id)) owe(id, document);
				}
				documents.unshift(...before);
				isLast = documents.length < batchSize;
				return { documents, checkpoint: { cursor: page.cursor } };
			},
		},
		push: {
			batchSize: 1000,
			async handler(all) {
				// Where a conflict was decided for what the service has, that is all there is to be sent.
				const rows = all.filter(({ newDocumentState, assumedMasterState }) => JSON.stringify(newDocumentState) !== JSON.stringify(assumedMasterState));
				const ids = rows.map(({ newDocumentState }) => newDocumentState[key]);
				const conflicts = [];

				for (const id of ids) sending.add(id);
				try {
					const outcomes = await remote.push(rows.map(({ newDocumentState, assumedMasterState }) => {
						const { _deleted: deleted, clientVersion, ...body } = newDocumentState;

						return { id: body[key], body, deleted, base: assumedMasterState?.clientVersion ?? null };
					}));

					for (const { newDocumentState } of rows) {
						const id = newDocumentState[key];
						const { outcome, clientVersion, winner } = /** @type {import('./protocol.js').Outcome} */ (outcomes.get(id));
						const { deleted, body = newDocumentState } = winner ?? { deleted: newDocumentState._deleted };
						const document = toRx({ id, clientVersion, deleted, body });

						if (outcome === 'refused') continue;
						if (outcome === 'conflict') conflicts.push(document);
						owe(id, document);
					}
				} finally {
					for (const id of ids) sending.delete(id);
				}
				if (live) replication.reSync();
				return conflicts;
			},
		},
	});

	if (live) replication.onCancel.push(poll(() => replication.reSync(), every));
	return replication;
}

/** Whether this is of a later version than the other; neither may be there, or have one. */
function isLater(one, other) {
	return one !== undefined && BigInt(one.clientVersion ?? -1) > BigInt(other?.clientVersion ?? -1);
}
