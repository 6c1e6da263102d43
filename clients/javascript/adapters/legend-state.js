// legend-state.js - synchronises an observable of Legend-State, by its syncedCrud. README.md has an example.
//
// With `persist` and its retrySync, edits are kept while the page is closed. syncState(notes$).sync(), from '@legendapp/state',
// fetches what others have changed: call it now and then. Legend-State sends nothing before it has succeeded once. Legend-State's
// lastSync holds the clientId and the cursor, so they are made with what is persisted, and lost with it. The adapter retries by
// itself, with growing waits. Don't set syncedCrud's `retry`: of several edits of one document that wait to be retried it drops
// some (3.0.0-beta.48), even deletions.
//
// What Legend-State can't do:
//
// - The edited fields replace the service's: the last one sent wins, field by field, whatever the clientVersions are. What the
//   service has is read in a request before that, unless the documents were edited before on this page.
// - onRefused and syncedCrud's onError are called with what the service refuses. It stays here, and is sent again when it is edited.
// - Two tabs that persist under one name are one store to the service, and neither learns what the other has sent.
// - A device that is told to compare downloads everything again, but what was deleted and purged meanwhile stays here.

import { newClientId } from '../src/local.js';
import { Queue } from '../src/stores/store.js';
import { Patience, Remote } from './protocol.js';

const DELETED = 'deleted by docsync';		// no field of a body
const FIRST_AGAIN = 250;
const LAST_AGAIN = 30_000;
const BATCH_EDITS = 100;

/**
 * @typedef {object} Waiting edits of a document, merged
 * @property {any} fields what is edited; null: it is deleted
 * @property {any} rest the whole document
 * @property {boolean} [isAnew] it was deleted in between, so none of the service's fields stays
 * @property {Promise<any>} done
 * @property {(row: any) => void} resolve
 * @property {(error: Error) => void} reject
 */

/** The service refuses to store a document. */
class RefusedEdit extends Error {
	constructor(id, { code, message }) {
		super(`document "${id}" is refused: ${code} ${message}`);
		this.name = 'RefusedEdit';
	}
}

/**
 * Whether an edit that waits to be sent deletes the document, or changes nothing in the row that others have made of it. Legend-State
 * must not see this row: it would take the edit as sent, and show what others make of the document next, which the edit then replaces
 * at the service. What others have changed in other fields comes when the edit has been sent.
 */
function isSaidBy(edit, row) {
	if (!edit) return false;
	return edit.fields === null
		|| Object.entries(edit.fields).every(([field, value]) => JSON.stringify(value) === JSON.stringify(row[field]));
}

/**
 * Options for syncedCrud.
 * @param {Omit<import('./protocol.js').RemoteOptions, 'clientId'> & { name: string }} options name: the collection's name at
 *	the service
 * @returns {Record<string, any>}
 */
export function docsync({ name, ...options }) {
	const patience = new Patience();
	const remoteOf = (clientId) => new Remote(name, { ...options, clientId, patience });
	let clientId = newClientId();
	let remote = remoteOf(clientId);
	// One after the other: what is fetched while an edit is being sent would look older than the edit, and be skipped.
	const queue = new Queue();
	/** @type {Map<string, any>} the service's last known versions of documents that were edited here */
	const known = new Map();

	/** @type {Map<string, Waiting>} edits that wait to be sent, or are being sent */
	const edits = new Map();
	let isSending = false;
	let tryNow = () => {};

	/** Edits of a document are merged until they are sent; null deletes it. Resolves with what the service has then. */
	function edit(id, fields, params) {
		const waiting = edits.get(id);

		if (waiting) {
			waiting.isAnew ||= waiting.fields === null;
			waiting.fields = fields && { ...waiting.fields, ...fields };
			waiting.rest = params.value?.[id];
			return waiting.done;
		}
		const made = /** @type {Waiting} */ ({ fields, rest: params.value?.[id] });

		made.done = new Promise((resolve, reject) => { Object.assign(made, { resolve, reject }); });
		edits.set(id, made);
		tryNow();
		if (!isSending) void sendAll();
		return made.done;
	}

	/** Sends all edits that wait, until the service has them, with growing waits, which end when another document is edited. */
	async function sendAll() {
		isSending = true;
		for (let wait = FIRST_AGAIN; edits.size;) {
			try {
				await queue.run(sendSome);
				wait = FIRST_AGAIN;
			} catch {
				await new Promise((resolve) => {
					tryNow = () => resolve(undefined);
					setTimeout(resolve, wait * (0.5 + 0.5 * Math.random()));
				});
				wait = Math.min(2 * wait, LAST_AGAIN);
			}
		}
		isSending = false;
	}

	/**
	 * Sends edits, many in a request. What is merged into one meanwhile is sent with the next, whatever became of this. Legend-State
	 * keeps no version that an edit is based on, so the service is asked.
	 */
	async function sendSome() {
		const sent = [...edits].slice(0, BATCH_EDITS).map(([id, made]) => ({ id, made, ...made }));

		for (const document of await remote.get(sent.map(({ id }) => id).filter((id) => !known.has(id)))) known.set(document.id, document);
		const documents = sent.map(({ id, fields, rest, isAnew }) => {
			const stored = known.get(id);
			const deleted = fields === null;

			// What was deleted elsewhere comes back complete.
			return {
				id, deleted, base: stored?.clientVersion ?? null,
				body: deleted ? undefined : { ...isAnew ? rest : stored?.body ?? rest, ...fields },
			};
		});
		const outcomes = await remote.push(documents);

		for (const [i, { id, made, fields }] of sent.entries()) {
			const { deleted, body } = documents[i];
			const { outcome, clientVersion, winner, error } = /** @type {import('./protocol.js').Outcome} */ (outcomes.get(id));
			const stored = winner ?? { clientVersion, body };
			const isDone = fields === made.fields && outcome !== 'conflict' && outcome !== 'discarded';

			if (!error) known.set(id, stored);
			if (!isDone) continue;
			edits.delete(id);
			if (error) made.reject(new RefusedEdit(id, error));
			else made.resolve(deleted ? undefined : { ...stored.body, id });
		}
	}

	/** @type {Promise<{ rows: any[], last: string }> | null} a download that waits to begin */
	let fetching = null;

	/** What others have changed since, and the lastSync after it. */
	async function fetchSince(lastSync) {
		let cursor = null;

		if (lastSync) [clientId, cursor] = lastSync.split(' ');
		else clientId = newClientId();
		remote = remoteOf(clientId);
		const rows = new Map();

		for (let more = true; more;) {
			const page = await remote.pull(cursor);

			({ cursor, more } = page);
			for (const { id, deleted, body } of page.documents) {
				known.delete(id);
				rows.set(id, deleted ? { id, [DELETED]: true } : { ...body, id });
			}
		}
		return { rows: [...rows.values()].filter((row) => !isSaidBy(edits.get(row.id), row)), last: `${clientId} ${cursor}` };
	}

	return {
		fieldId: 'id',
		fieldDeleted: DELETED,
		changesSince: 'last-sync',
		updatePartial: true,
		mode: 'assign',		// otherwise the first download would remove what was edited before it came

		// Those who ask while one waits share it: otherwise, where they ask faster than the line answers, the queue only grows, and
		// Legend-State passes over all answers but that of the last one asked for.
		list: async ({ lastSync, updateLastSync }) => {
			const { rows, last } = await (fetching ??= queue.run(() => {
				fetching = null;
				return fetchSince(lastSync);
			}));

			updateLastSync(last);
			return structuredClone(rows);
		},
		create: (row, params) => edit(row.id, row, params),
		update: (row, params) => edit(row.id, row, params),
		delete: ({ id }, params) => edit(id, null, params),
	};
}
