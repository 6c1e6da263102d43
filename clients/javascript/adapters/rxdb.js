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
	/** What was sent, with its new version, until RxDB has taken that by a download. Before what came by it, which is later. */
	const acknowledged = new Map();

	const replication = replicateRxCollection({
		replicationIdentifier: `docsync ${url} ${name}`, collection, live, ...options,
		pull: {
			batchSize: 1000,
			async handler(checkpoint, batchSize) {
				const own = [...acknowledged];
				const documents = own.map(([, document]) => document);
				let page = { cursor: checkpoint?.cursor ?? null, more: true };

				// RxDB takes a page with fewer documents than it asked for to be the last.
				for (let count = 0; page.more && count < batchSize;) {
					const next = await remote.pull(page.cursor, batchSize);

					documents.push(...next.documents.map(toRx));
					count += next.documents.length;
					page = next;
				}
				for (const [id, document] of own) if (acknowledged.get(id) === document) acknowledged.delete(id);
				return { documents, checkpoint: { cursor: page.cursor } };
			},
		},
		push: {
			batchSize: 1000,
			async handler(rows) {
				const outcomes = await remote.push(rows.map(({ newDocumentState, assumedMasterState }) => {
					const { _deleted: deleted, clientVersion, ...body } = newDocumentState;

					return { id: body[key], body, deleted, base: assumedMasterState?.clientVersion ?? null };
				}));
				const conflicts = [];

				for (const { newDocumentState } of rows) {
					const id = newDocumentState[key];
					const { outcome, clientVersion, winner } = /** @type {import('./protocol.js').Outcome} */ (outcomes.get(id));

					if (outcome === 'conflict') conflicts.push(toRx(winner));
					else if (outcome !== 'refused') acknowledged.set(id, winner ? toRx(winner) : { ...newDocumentState, clientVersion: `${clientVersion}` });
				}
				if (live) replication.reSync();
				return conflicts;
			},
		},
	});

	if (live) replication.onCancel.push(poll(() => replication.reSync(), every));
	return replication;
}
