// watermelondb.js - synchronises tables of a WatermelonDB Database with collections. README.md has an example.
//
// All tables are pulled in one request, so they are as of one instant, and pushed in one, a transaction. Before a push, one request
// for each table with edits reads what the service has of the edited records. The adapter keeps what it needs in
// database.localStorage: the clientId, and the cursors of the last two pulls; WatermelonDB's lastPulledAt says which of them was
// applied.
//
// What WatermelonDB can't do:
//
// - A deletion elsewhere beats a later edit here: WatermelonDB removes the record with its unsent edit. It merges other conflicts
//   by columns: those edited here are kept. The higher clientVersion plays no part; synchronize()'s conflictResolver may decide otherwise.
// - If a record to be sent was changed elsewhere since the pull, nothing is sent, and synchronize() throws ChangedSincePull: call it
//   again, as WatermelonDB's manual says.
// - onRefused is called with what the service refuses. It stays marked as unsent, and is sent again with each synchronize().
// - There are only columns: whatever else a body has, or has in another type, is kept by the service, and isn't here. Ids with ' " \ / or $ aren't taken.
// - A device that was away until tombstones were purged downloads the whole table again, and drops what isn't in it. When the
//   service was restored, records that it lost completely are sent again; where it has an older version of a record, that is taken.

import { Patience, Remote, toSend, warn } from './protocol.js';
import { pullSeveral, pushSeveral } from './several.js';
import { newClientId } from '../src/local.js';
import { HttpTransport } from '../src/transport.js';

const KEY = 'docsync';
const UNSAFE_ID = /['"\\/$]/;

/**
 * @typedef {object} Kept in localStorage
 * @property {string} clientId
 * @property {Pull[]} pulls the last two: WatermelonDB may or may not have applied the later one
 *
 * @typedef {object} Pull
 * @property {number | null} at WatermelonDB's lastPulledAt
 * @property {Record<string, string>} cursors by table
 * @property {Record<string, string>} seen the highest LastUpdateUtc received, by table
 */

/** A record to be sent was changed elsewhere since the pull: synchronize again. */
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
 * Arguments for synchronize().
 * @param {Omit<import('./protocol.js').RemoteOptions, 'clientId'> & { database: any, tables: Record<string, string> }} options
 *	tables: {table: the collection's name at the service}, up to 60
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

	/** The fields that the table has columns for. */
	function columnsOf(table, from) {
		const known = Object.keys(database.schema.tables[table].columns).filter((name) => Object.hasOwn(Object(from), name));

		return Object.fromEntries(known.map((name) => [name, from[name]]));
	}

	/** The fields to be sent: where the service has the record, those that were edited, since what doesn't fit its column isn't here. */
	function editedOf(table, raw, stored) {
		const fields = Object.entries(columnsOf(table, raw));
		const edited = raw._status === 'updated' && stored && !stored.deleted ? raw._changed.split(',') : null;

		return Object.fromEntries(fields.filter(([name]) => !edited || edited.includes(name)));
	}

	/** Sends again what the service has lost completely: records that it had, and that the download didn't have. */
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
			// Tables that are new to the app, or have new columns, are downloaded from the beginning.
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
					// Fields without a column are kept.
					...[...created, ...updated].map((raw) => ({
						id: raw.id, base: baseOf(raw.id), body: { ...stored.get(raw.id)?.body, id: raw.id, ...editedOf(table, raw, stored.get(raw.id)) },
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

/** Whether somebody else has changed it since the pull, in another way than the edit does. */
function isLate(stored, isDeletion, clientId, seen = '') {
	return stored && stored.clientId !== clientId && stored.LastUpdateUtc > seen && !(isDeletion && stored.deleted);
}
