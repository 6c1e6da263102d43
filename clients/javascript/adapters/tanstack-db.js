// tanstack-db.js - a collection of TanStack DB that shows a Collection of the client's, and edits it.
//
//	import { createCollection } from '@tanstack/db';
//	import { Collection, memoryStore } from 'docsync-client';
//	import { docsyncCollectionOptions } from 'docsync-client/adapters/tanstack-db';
//
//	const documents = new Collection('notes', { url, token, store: memoryStore() });
//	const notes = createCollection(docsyncCollectionOptions({ documents }));
//
//	documents.start();
//	notes.insert({ id: 'shopping', text: 'bread' });
//
// A mutation ends when the edit is in the client's store, offline, too; what is unsent, refused or in conflict is told by
// `documents`. What can't be stored is rolled back, and rejects. Items are objects with an `id`, a text of 1 to 500 bytes.
//
// No outbox belongs before it, such as @tanstack/offline-transactions: one that sends to the service by itself drops an edit that
// is answered 400, 401 or 403, as when a token has expired.
//
// In a transaction of your own (createTransaction) mutationFn is yours, too: it calls documents.putAll() and documents.delete().
//
// What TanStack DB can't do:
//
// - A draft in update() is made of what is shown. Numbers beyond 2^53 in it are those that JSON.parse makes of them.
// - It keeps nothing itself: what is shown is in memory, all of it.

import { View } from './view.js';

/**
 * Options for createCollection.
 * @param {{ documents: import('../src/collection.js').Collection } & Record<string, any>} options documents: what is shown and
 *	edited; others are createCollection's
 * @returns {any}
 */
export function docsyncCollectionOptions({ documents, ...options }) {
	const put = ({ transaction }) => documents.putAll(transaction.mutations.map(({ key, modified }) => [key, modified]));

	return {
		...options,
		getKey: ({ id }) => id,
		sync: {
			rowUpdateMode: 'full',
			sync({ begin, write, commit, markReady, markError }) {
				const view = new View(documents, ({ id, item, isNew }) => {
					begin();
					if (item) write({ type: isNew ? 'insert' : 'update', value: item });
					else write({ type: 'delete', key: id });
					commit();
				});

				view.load().then((items) => {
					begin();
					for (const item of items) write({ type: 'insert', value: item });
					commit();
					view.follow();
					markReady();
				}).catch(markError);
				return () => view.end();
			},
		},
		onInsert: put,
		onUpdate: put,
		async onDelete({ transaction }) {
			for (const { key } of transaction.mutations) await documents.delete(key);
		},
	};
}
