// tanstack-db.js - a collection of TanStack DB that shows and edits a Collection of the client. README.md has an example.
//
// A mutation ends when the edit is in the client's store, offline too; `documents` says what is unsent, refused or in conflict. An
// item that can't be stored is rolled back, and its promise rejects. Items are objects with an `id`, a text of 1 to 500 bytes.
//
// Don't put an outbox in front of it, such as @tanstack/offline-transactions: one that sends to the service by itself drops an
// edit that is answered 400, 401 or 403, as when a token has expired.
//
// In a transaction of your own (createTransaction), your mutationFn calls documents.putAll() and documents.delete().
//
// What TanStack DB can't do:
//
// - A draft in update() is made from what is shown. Numbers beyond 2^53 in it become what JSON.parse makes of them.
// - It keeps nothing itself: everything that is shown is in memory.

import { View } from './view.js';

/**
 * Options for createCollection.
 * @param {{ documents: import('../src/collection.js').Collection } & Record<string, any>} options documents: what is shown and
 *	edited; the others are those of createCollection
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
