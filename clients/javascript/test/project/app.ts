import { Collection, DELETE, Refused, indexedDbStore, memoryStore } from 'docsync-client';
import { docsyncPersistence } from 'docsync-client/adapters/signaldb';
import { sqliteStore } from 'docsync-client/sqlite';

const notes = new Collection('notes', {
	url: 'https://example.org',
	token: async ({ refused }) => refused ? 'new' : 'old',
	store: typeof indexedDB === 'undefined' ? sqliteStore('app.sqlite') : indexedDbStore('app'),
	onConflict: ({ mine, theirs }) => theirs.deleted ? DELETE : { ...theirs.body, ...mine.body },
});
const end: () => void = notes.watch(({ id, body, unsent, error }) => console.log(id.length, body, unsent ? 1 : 0, error?.length));

notes.watchStatus(({ unsent, error }) => console.log(unsent.toFixed(), error instanceof Refused && error.status));
const text: string | undefined = await notes.getText('x');
// @ts-expect-error: an id is a string
await notes.put(1, { text });
// @ts-expect-error: a collection needs a store
new Collection('notes', { url: '' });
await notes.sync();
docsyncPersistence({ documents: notes });
// @ts-expect-error: an adapter shows a collection
docsyncPersistence({});
memoryStore();
end();
