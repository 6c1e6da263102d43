// signaldb.js - a persistence adapter for a collection of SignalDB, which shows and edits a Collection of the client. README.md has
// an example.
//
// `documents` says what is unsent, refused or in conflict. Items are objects; their ids are texts of 1 to 500 bytes.
//
// It replaces SignalDB's SyncManager, in which a deletion elsewhere beats a later edit here.
//
// What SignalDB can't do:
//
// - insert() ends before the item is stored. An item that can't be stored is shown until the app starts again, and reported by the
//   event persistence.error.
// - Numbers beyond 2^53 in items become what JSON.parse makes of them.

import { VersionsExhausted } from '../src/errors.js';
import { View } from './view.js';

/**
 * A persistence adapter.
 * @param {{ documents: import('../src/collection.js').Collection }} options
 * @returns {any} a PersistenceAdapter of any items
 */
export function docsyncPersistence({ documents }) {
	/** @type {View} */
	let view;

	return {
		async register(onChange) {
			view = new View(documents, ({ id, item }) => {
				const changes = { added: item ? [item] : [], modified: [], removed: item ? [] : [{ id }] };

				// An item that was removed here, too, a moment ago, can't be removed again.
				Promise.resolve(onChange({ changes })).catch(() => {});
			});
		},

		async unregister() {
			view.end();
		},

		async load() {
			const items = await view.load();

			// After SignalDB has taken them
			setTimeout(() => view.follow());
			return { items };
		},

		async save(items, { added, modified, removed }) {
			const shown = new Map(items.map((item) => [item.id, item]));
			const edits = new Map([...added, ...modified].map((item) => [item.id, item]));

			// An item that was removed and inserted again exists. One that somebody else changed meanwhile is shown as it is now, which
			// isn't what is saved.
			for (const { id } of removed) if (!edits.has(id) || !shown.has(id)) edits.set(id, undefined);
			for (const id of edits.keys()) view.shows(id, shown.get(id));
			await store(documents, edits);
		},
	};
}

/** An item that can't be stored doesn't stop the others. */
async function store(documents, edits) {
	const puts = [...edits].filter(([, item]) => item);
	let problem;

	for (const [id, item] of edits) if (!item) await documents.delete(id);
	try {
		await documents.putAll(puts);
	} catch (error) {
		if (!(error instanceof TypeError || error instanceof VersionsExhausted)) throw error;
		for (const put of puts) await documents.putAll([put]).catch((of) => { problem = of; });
	}
	if (problem) throw problem;
}
