// WatermelonDB: the scenarios, and what its manual says that a backend must do, by its numbers.

import assert from 'node:assert/strict';
import test from 'node:test';
import { docsync } from 'docsync-client/adapters/watermelondb';
import { Database, Model, Q, appSchema, tableSchema } from '@nozbe/watermelondb';
import loki from '@nozbe/watermelondb/adapters/lokijs/index.js';
import { synchronize } from '@nozbe/watermelondb/sync/index.js';
import logger from '@nozbe/watermelondb/utils/common/logger/index.js';
import { play } from './scenarios.js';

logger.default.silence();

const columns = [{ name: 'text', type: 'string' }, { name: 'refuse', type: 'string', isOptional: true }];
const SCHEMA = appSchema({ version: 1, tables: [tableSchema({ name: 'entries', columns })] });

class Entry extends Model {
	static table = 'entries';
}

/** A database in memory; of: the one that it goes on from. */
async function openDatabase(of, schema = SCHEMA, modelClasses = [Entry]) {
	const adapter = of ? await of.adapter.underlyingAdapter.testClone()
		: new loki.default({ schema, useWebWorker: false, useIncrementalIndexedDB: false, dbName: `${Math.random()}` });

	return new Database({ adapter, modelClasses });
}

const library = {
	name: 'watermelondb',
	cannot: { 'a later edit beats a deletion': 'a deletion elsewhere removes the record here, with its unsent edit' },
	async open({ url, token, name, store }) {
		const database = await openDatabase(store);
		const entries = database.get('entries');
		const refused = [];
		const sync = docsync({ database, tables: { entries: name }, url, token, onRefused: ({ id }) => refused.push(id) });
		const find = async (id) => (await entries.query(Q.where('id', id)).fetch())[0];

		return {
			put: (id, text, more) => database.write(async () => {
				const record = await find(id);
				const set = (made) => Object.entries({ text, ...more }).forEach(([column, value]) => made._setRaw(column, value));

				if (record) {
					await record.update(set);
				} else {
					// WatermelonDB keeps a deleted record until that is sent, and its ids are random. Here they come again.
					await database.adapter.destroyDeletedRecords('entries', [id]);
					await entries.create((made) => {
						made._raw.id = id;
						set(made);
					});
				}
			}),
			delete: (id) => database.write(async () => (await find(id))?.markAsDeleted()),
			content: async () => Object.fromEntries((await entries.query().fetch()).map(({ id, _raw }) => [id, _raw.text])),
			sync: () => synchronize({ database, ...sync }),
			refused: () => refused,
			close: async () => database,
		};
	},
};

play(library);
