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
	/** What RxDB was given since it last had all, and may not have stored yet. */
	const given = new Set();
	let isLast = true;

	/** A deleted document is what it was before, which the schema may require; what isn't here needs no deletion. */
	async function allToRx(documents) {
		const ids = documents.filter(({ deleted }) => deleted).map(({ id }) => id);
		let before = new Map();

		while (ids.length && !replication.isStopped()) {
			before = new Map((await collection.storageInstance.findDocumentsById(ids, true)).map((document) => [document[key], document]));
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
				const own = [...acknowledged];
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
				for (const [id, document] of own) if (acknowledged.get(id) === document) acknowledged.delete(id);
				for (const id of latest.keys()) given.add(id);
				documents.unshift(...own.map(([, document]) => document));
				isLast = documents.length < batchSize;
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
					const { deleted, body = newDocumentState } = winner ?? { deleted: newDocumentState._deleted };
					const stored = toRx({ id, clientVersion, deleted, body });

					if (outcome === 'conflict') conflicts.push(stored);
					else if (outcome !== 'refused') acknowledged.set(id, stored);
				}
				if (live) replication.reSync();
				return conflicts;
			},
		},
	});

	if (live) replication.onCancel.push(poll(() => replication.reSync(), every));
	return replication;
}
