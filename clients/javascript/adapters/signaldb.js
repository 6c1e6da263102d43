// signaldb.js - a persistence adapter for a collection of SignalDB, which shows a Collection of the client's, and edits it.
//
//	import { Collection as Notes } from '@signaldb/core';
//	import { Collection, memoryStore } from 'docsync-client';
//	import { docsyncPersistence } from 'docsync-client/adapters/signaldb';
//
//	const documents = new Collection('notes', { url, token, store: memoryStore() });
//	const notes = new Notes({ persistence: docsyncPersistence({ documents }) });
//
//	documents.start();
//	notes.insert({ id: 'shopping', text: 'bread' });
//
// What is unsent, refused or in conflict is told by `documents`. Items are objects, their ids texts of 1 to 500 bytes.
//
// It takes the place of SignalDB's SyncManager, where a deletion elsewhere beats a later edit here.
//
// What SignalDB can't do:
//
// - An insert() ends before the item is stored. What can't be stored is shown all the same until the app starts again, and told
//   by the event persistence.error.
// - Numbers beyond 2^53 in items are those that JSON.parse makes of them.

import { View } from './view.js';

/**
 * A persistence adapter.
 * @param {{ documents: import('../src/collection.js').Collection }} options
 */
export function docsyncPersistence({ documents }) {
	/** @type {View} */
	let view;

	return {
		async register(onChange) {
			view = new View(documents, ({ id, item }) => {
				const changes = { added: item ? [item] : [], modified: [], removed: item ? [] : [{ id }] };

				// An item that was removed here, too, a moment ago, isn't there to be removed.
				Promise.resolve(onChange({ changes })).catch(() => {});
			});
		},

		async unregister() {
			view.end();
		},

		async load() {
			const items = await view.load();

			// When SignalDB has taken them
			setTimeout(() => view.follow());
			return { items };
		},

		async save(items, { added, modified, removed }) {
			const shown = new Map(items.map((item) => [item.id, item]));
			const edits = new Map([...added, ...modified].map((item) => [item.id, item]));

			// What was removed and inserted again is there; what somebody else changed while this waited is shown, but not what is saved.
			for (const { id } of removed) if (!edits.has(id) || !shown.has(id)) edits.set(id, undefined);
			for (const id of edits.keys()) view.shows(id, shown.get(id));
			await store(documents, edits);
		},
	};
}

/** One that can't be stored doesn't keep the others from it. */
async function store(documents, edits) {
	const puts = [...edits].filter(([, item]) => item);
	let problem;

	for (const [id, item] of edits) if (!item) await documents.delete(id);
	try {
		await documents.putAll(puts);
	} catch (error) {
		if (!(error instanceof TypeError)) throw error;
		for (const put of puts) await documents.putAll([put]).catch((of) => { problem = of; });
	}
	if (problem) throw problem;
}
