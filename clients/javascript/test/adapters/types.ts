// The adapters with their libraries' types: signaldb.test.js compiles it.

import { syncedCrud } from '@legendapp/state/sync-plugins/crud';
import { observable } from '@legendapp/state';
import type { Database } from '@nozbe/watermelondb';
import { synchronize } from '@nozbe/watermelondb/sync';
import { Collection as SignalCollection } from '@signaldb/core';
import { createCollection } from '@tanstack/db';
import { Dexie, type EntityTable } from 'dexie';
import type { RxCollection } from 'rxdb';
import { docsync as dexie, docsyncTables } from '../../adapters/dexie.js';
import { docsync as legend } from '../../adapters/legend-state.js';
import { replicateDocsync } from '../../adapters/rxdb.js';
import { docsyncPersistence } from '../../adapters/signaldb.js';
import { docsyncCollectionOptions } from '../../adapters/tanstack-db.js';
import { docsync as watermelon } from '../../adapters/watermelondb.js';
import { Collection, memoryStore } from '../../src/index.js';

interface Note {
	id: string;
	text: string;
}

const service = { url: 'https://example.org', token: async ({ refused }: { refused: boolean }) => refused ? 'new' : 'old' };
const documents = new Collection('notes', { ...service, store: memoryStore() });
const note = { id: 'shopping', text: 'bread' };

const db = new Dexie('app') as Dexie & { items: EntityTable<Note, 'id'> };

db.version(1).stores({ items: 'id, text', ...docsyncTables });
dexie(db, { items: 'notes' }, service).items.start();
await db.items.put(note);

const notes$ = observable(syncedCrud(legend({ name: 'notes', ...service })));

notes$.shopping.set(note);
new SignalCollection<Note>({ persistence: docsyncPersistence({ documents }) }).insert(note);
createCollection<Note, string>(docsyncCollectionOptions({ documents })).insert(note);

export function replicate(collection: RxCollection<Note>, database: Database) {
	replicateDocsync({ collection, name: 'notes', ...service, onRefused: ({ id, error }) => console.warn(id, error.code) });
	return synchronize({ database, ...watermelon({ database, tables: { items: 'notes' }, ...service }) });
}
