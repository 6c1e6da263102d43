// watermelondb.js - the tables of a WatermelonDB Database, each a collection.
//
//	import { Database, Model, appSchema, tableSchema } from '@nozbe/watermelondb';
//	import { synchronize } from '@nozbe/watermelondb/sync/index.js';
//	import loki from '@nozbe/watermelondb/adapters/lokijs/index.js';
//	import { docsync } from 'docsync-client/adapters/watermelondb';
//
//	class Item extends Model { static table = 'items'; }
//	const schema = appSchema({ version: 1, tables: [tableSchema({ name: 'items', columns: [{ name: 'text', type: 'string' }] })] });
//	const adapter = new loki.default({ schema, dbName: 'app', useWebWorker: false, useIncrementalIndexedDB: true });
//	const database = new Database({ adapter, modelClasses: [Item] });
//
//	await database.write(() => database.get('items').create((item) => Object.assign(item._raw, { id: 'shopping', text: 'bread' })));
//	await synchronize({ database, ...docsync({ database, tables: { items: 'notes' }, url, token }) });
//
// All tables are asked for in one request, so they are as they were at one instant, and sent in one, a transaction. Before that a
// request for each table that has edits reads what the service has of the edited records. It keeps what it needs in database.localStorage: the
// clientId, and the cursors of the last two pulls, of which WatermelonDB's lastPulledAt says which it has taken.
//
// What WatermelonDB can't do:
//
// - A deletion elsewhere beats a later edit here: WatermelonDB removes the record with its unsent edit. Other conflicts it merges
//   by columns, those that were edited here from here. It doesn't know the higher clientVersion, but for conflictResolver.
// - When a record that is to be sent was changed elsewhere since the pull, nothing is sent, and synchronize() raises that: call it
//   once more, as WatermelonDB's manual says.
// - What the service refuses is told to onRefused, stays marked as unsent, and is sent again with each synchronize().
// - Columns are all there is: what else a body has is kept at the service, and isn't here. Ids with ' " \ / or $ aren't taken.
// - A device that was away until tombstones were purged gets the whole table anew, and drops what isn't in it. When the service
//   was restored, what it has lost whole is sent again; where it has an older version of a record, that is taken.

import { Patience, Remote, toSend, warn } from './protocol.js';
import { pullSeveral, pushSeveral } from './several.js';
import { newClientId } from '../src/local.js';
import { HttpTransport } from '../src/transport.js';

const KEY = 'docsync';
const UNSAFE_ID = /['"\\/$]/;

/**
 * @typedef {object} Kept in localStorage
 * @property {string} clientId
 * @property {Pull[]} pulls the last two: of the later one it isn't known whether WatermelonDB has taken it
 *
 * @typedef {object} Pull
 * @property {number | null} at WatermelonDB's lastPulledAt
 * @property {Record<string, string>} cursors of each table
 * @property {Record<string, string>} seen the highest LastUpdateUtc of what has come
 */

/** A record that is to be sent was changed elsewhere since the pull: synchronize once more. */
export class ChangedSincePull extends Error {
	/**
	 * @param {string} table
	 * @param {string} id
	 */
	constructor(table, id) {
		super(`record "${id}" of ${table} was changed elsewhere since the last pull`);
		this.name = 'ChangedSincePull';
	}
}

/**
 * What synchronize() asks for.
 * @param {Omit<import('./protocol.js').RemoteOptions, 'clientId'> & { database: any, tables: Record<string, string> }} options
 *	tables: {table: the collection, as the service knows it}, up to 60
 * @returns {{ pullChanges: (args: any) => Promise<any>, pushChanges: (args: any) => Promise<any>, sendCreatedAsUpdated: true }}
 */
export function docsync({ database, tables, onRefused = warn, ...options }) {
	const names = Object.entries(tables);
	const patience = new Patience();
	const transport = new HttpTransport('', options);

	/** @returns {Promise<Kept>} */
	async function keep() {
		const kept = await database.localStorage.get(KEY) ?? { clientId: newClientId(), pulls: [] };

		await database.localStorage.set(KEY, kept);
		return kept;
	}

	/** A record's columns: what there may be besides is no business of the table's. */
	function columnsOf(table, from) {
		const known = Object.keys(database.schema.tables[table].columns).filter((name) => Object.hasOwn(Object(from), name));

		return Object.fromEntries(known.map((name) => [name, from[name]]));
	}

	/** What the service has lost whole is sent again: records that it had, and that didn't come. */
	async function sendLost(remote, table, documents) {
		const records = await database.get(table).query().fetch();

		await remote.push(records.filter(({ id, syncStatus }) => syncStatus === 'synced' && !documents.has(id))
			.map(({ id, _raw }) => ({ id, body: { id, ...columnsOf(table, _raw) }, base: null })));
	}

	return {
		sendCreatedAsUpdated: true,

		async pullChanges({ lastPulledAt, migration }) {
			const { clientId, pulls } = await keep();
			const last = pulls.find(({ at }) => at === lastPulledAt) ?? { at: null, cursors: {}, seen: {} };
			// Tables and columns that are new to the app come from the beginning on.
			const anew = [...migration?.tables ?? [], ...migration?.columns?.map(({ table }) => table) ?? []];
			const cursors = new Map(names.map(([table, name]) => [name, anew.includes(table) ? null : last.cursors[table] ?? null]));
			const { utc, collections } = await patience.ask(() => pullSeveral(transport, clientId, cursors));
			const next = { at: Math.max(Date.parse(utc), lastPulledAt + 1), cursors: {}, seen: {} };
			const strategy = { default: 'incremental', override: {} };
			const changes = {};

			for (const [table, name] of names) {
				const { documents, cursor, missed } = /** @type {import('./several.js').Pulled} */ (collections.get(name));
				const safe = [...documents.values()].filter(({ id }) => !UNSAFE_ID.test(id));

				if (missed === 'lost') await sendLost(new Remote(name, { ...options, clientId, patience }), table, documents);
				if (missed === 'purged') strategy.override[table] = 'replacement';
				changes[table] = {
					created: [],
					updated: safe.filter(({ deleted }) => !deleted).map(({ id, body }) => ({ id, ...columnsOf(table, body) })),
					deleted: safe.filter(({ deleted }) => deleted).map(({ id }) => id),
				};
				next.cursors[table] = cursor;
				next.seen[table] = [...documents.values()].at(-1)?.LastUpdateUtc ?? last.seen[table] ?? '';
			}
			await database.localStorage.set(KEY, { clientId, pulls: [last, next] });
			return { changes, timestamp: next.at, experimentalStrategy: strategy };
		},

		async pushChanges({ changes, lastPulledAt }) {
			const { clientId, pulls } = await keep();
			const { cursors, seen } = pulls.find(({ at }) => at === lastPulledAt) ?? { cursors: {}, seen: {} };
			const edited = names.filter(([table]) => changes[table] && Object.values(changes[table]).some((records) => records.length));
			/** @type {Record<string, Map<string, any>>} */
			const outcomes = Object.fromEntries(edited.map(([table]) => [table, new Map()]));
			const parts = await Promise.all(edited.map(async ([table, name]) => {
				const { created, updated, deleted } = changes[table];
				const ids = [...created, ...updated].map(({ id }) => id).concat(deleted);
				const remote = new Remote(name, { ...options, clientId, patience });
				const stored = new Map((await remote.get(ids)).map((document) => [document.id, document]));
				const late = ids.find((id) => isLate(stored.get(id), deleted.includes(id), clientId, seen[table]));
				const baseOf = (id) => stored.get(id)?.clientVersion ?? null;

				if (late !== undefined) throw new ChangedSincePull(table, late);
				return { collection: name, cursor: cursors[table] ?? null, documents: toSend([
					// What the app's columns aren't is kept.
					...[...created, ...updated].map((raw) => ({
						id: raw.id, base: baseOf(raw.id), body: { ...stored.get(raw.id)?.body, id: raw.id, ...columnsOf(table, raw) },
					})),
					...deleted.map((id) => ({ id, base: baseOf(id), deleted: true })),
				], outcomes[table]) };
			}));
			const results = await patience.ask(() => pushSeveral(transport, clientId, parts));
			const rejected = {};

			for (const [table, name] of edited) {
				const all = outcomes[table];

				for (const result of results.get(name) ?? []) all.set(result.id, result);
				for (const [id, { error }] of all) if (error) onRefused({ id, error });
				rejected[table] = [...all].filter(([id, { outcome, winner }]) => outcome === 'refused'
					|| ['conflict', 'discarded'].includes(outcome) && !(winner?.deleted && changes[table].deleted.includes(id))).map(([id]) => id);
			}
			return { experimentalRejectedIds: rejected };
		},
	};
}

/** Somebody else has changed it after what has come, in another way than the edit does. */
function isLate(stored, isDeletion, clientId, seen = '') {
	return stored && stored.clientId !== clientId && stored.LastUpdateUtc > seen && !(isDeletion && stored.deleted);
}
