// TanStack DB: the scenarios; and what its guide for collection creators asks for.

import assert from 'node:assert/strict';
import test from 'node:test';
import { createCollection } from '@tanstack/db';
import { Collection, memoryStore } from 'docsync-client';
import { docsyncCollectionOptions } from 'docsync-client/adapters/tanstack-db';
import { TOKEN, URL_OF_SERVICE, anyName, needsService } from '../service.js';
import { play } from './scenarios.js';

async function openCollection({ url = URL_OF_SERVICE, token = TOKEN, name = anyName(), store = memoryStore() } = {}) {
	const documents = new Collection(name, { url, token, store, waits: { told: 0, others: 0 } });
	const notes = createCollection(docsyncCollectionOptions({ documents }));

	await notes.preload();
	return { documents, notes, store };
}

function put(notes, item) {
	const transaction = notes.has(item.id) ? notes.update(item.id, (draft) => { Object.assign(draft, item); }) : notes.insert(item);

	return transaction.isPersisted.promise;
}

play({
	name: 'tanstack-db',
	async open(options) {
		const { documents, notes, store } = await openCollection(options);

		return {
			put: (id, text, more) => put(notes, { id, text, ...more }),
			delete: (id) => notes.has(id) && notes.delete(id).isPersisted.promise,
			content: async () => Object.fromEntries(notes.toArray.map(({ id, text }) => [id, text])),
			sync: () => documents.sync(),
			refused: async () => (await documents.problems()).map(({ id }) => id),
			async close() {
				await notes.cleanup();
				await documents.close();
				return store;
			},
		};
	},
});

test('an edit is shown without a gap while it is stored', needsService, async () => {
	const { notes } = await openCollection();
	const shown = [];

	notes.subscribeChanges(() => {
		const text = notes.get('x')?.text;

		if (text !== shown.at(-1)) shown.push(text);
	});
	await put(notes, { id: 'x', text: '1' });
	await put(notes, { id: 'x', text: '2' });
	await notes.delete('x').isPersisted.promise;
	assert.deepEqual(shown, ['1', '2', undefined]);
});

test("what can't be stored is rolled back", needsService, async () => {
	const { notes } = await openCollection();

	await put(notes, { id: 'x', text: 'good' });
	await assert.rejects(put(notes, { id: 'x', text: '\0' }), TypeError);
	assert.equal(notes.get('x').text, 'good');
});
