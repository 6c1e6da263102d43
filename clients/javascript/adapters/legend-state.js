// legend-state.js - an observable of Legend-State, synchronised by its syncedCrud.
//
//	import { observable } from '@legendapp/state';
//	import { syncedCrud } from '@legendapp/state/sync-plugins/crud';
//	import { docsync } from 'docsync-client/adapters/legend-state';
//
//	const notes$ = observable(syncedCrud(docsync({ name: 'notes', url, token })));
//
//	notes$.get();
//	notes$.shopping.set({ id: 'shopping', text: 'bread' });
//
// With `persist` and its retrySync edits are kept while the page is closed. syncState(notes$).sync(), from '@legendapp/state',
// fetches what others have changed: call it now and then. Legend-State's lastSync is the clientId and the cursor: made with what
// is persisted, and lost with it. The adapter sends again by itself, later and later. Don't give syncedCrud's `retry`: of several
// edits of a document that wait for their retries it drops some (3.0.0-beta.48), deletions among them.
//
// What Legend-State can't do:
//
// - Each document that is edited is a request of its own; a second one, before, reads what the service has of it, unless it was
//   edited before on this page. The fields that were edited replace those of the service: the last that is sent wins, field by
//   field, whatever the clientVersions are.
// - What the service refuses is told to onRefused and to syncedCrud's onError, stays here, and is sent again when it is edited.
// - Two tabs that persist in one place are one store to the service, and neither is told what the other has sent.
// - Who is told to compare gets everything anew, but what was deleted meanwhile, and purged, stays here.

import { newClientId } from '../src/local.js';
import { Queue } from '../src/stores/store.js';
import { Patience, Remote } from './protocol.js';

const DELETED = '_deleted';
const FIRST_AGAIN = 250;
const LAST_AGAIN = 30_000;

/** Why the service doesn't store a document. */
class RefusedEdit extends Error {
	constructor(id, { code, message }) {
		super(`document "${id}" is refused: ${code} ${message}`);
		this.name = 'RefusedEdit';
	}
}

/**
 * What syncedCrud asks for.
 * @param {Omit<import('./protocol.js').RemoteOptions, 'clientId'> & { name: string }} options name: of the collection, as the
 *	service knows it
 * @returns {Record<string, any>}
 */
export function docsync({ name, ...options }) {
	const patience = new Patience();
	const remoteOf = (clientId) => new Remote(name, { ...options, clientId, patience });
	let clientId = newClientId();
	let remote = remoteOf(clientId);
	// One after the other: what is fetched while an edit is on its way would be taken for older than the edit, and passed over.
	const queue = new Queue();
	/** @type {Map<string, any>} what the service has of documents that were edited here, as it told last */
	const known = new Map();

	/** @type {Map<string, { fields: any, rest: any, done: Promise<any> }>} edits that are to be sent, or on their way */
	const edits = new Map();

	/** Edits of a document are one until they are sent; null: it is deleted. Resolves with what the service has then. */
	function edit(id, fields, params) {
		const waiting = edits.get(id);

		if (waiting) {
			waiting.fields = fields && { ...waiting.fields, ...fields };
			waiting.rest = params.value?.[id];
			return waiting.done;
		}
		const made = { fields, rest: params.value?.[id], done: Promise.resolve() };

		edits.set(id, made);
		made.done = sendAll(id, made);
		return made.done;
	}

	/** Until that is what the service has, later and later. */
	async function sendAll(id, made) {
		for (let wait = FIRST_AGAIN; ; wait = Math.min(2 * wait, LAST_AGAIN)) {
			try {
				const { fields } = made;
				const row = await queue.run(() => send(id, made));

				if (fields === made.fields) {
					edits.delete(id);
					return row;
				}
				wait = FIRST_AGAIN;
			} catch (error) {
				if (error instanceof RefusedEdit) {
					edits.delete(id);
					throw error;
				}
				await new Promise((resolve) => { setTimeout(resolve, wait * (0.5 + 0.5 * Math.random())); });
			}
		}
	}

	/** Legend-State holds no version that the edit is based on, so the service is asked. */
	async function send(id, { fields, rest }) {
		let stored = known.get(id) ?? (await remote.get([id]))[0] ?? null;

		for (;;) {
			const deleted = fields === null;
			const body = deleted ? undefined : { ...stored?.body ?? rest, ...fields };		// what was deleted elsewhere comes back whole
			const outcomes = await remote.push([{ id, deleted, body, base: stored?.clientVersion ?? null }]);
			const { outcome, clientVersion, winner, error } = /** @type {import('./protocol.js').Outcome} */ (outcomes.get(id));

			if (error) throw new RefusedEdit(id, error);
			stored = winner ?? { clientVersion, body };
			known.set(id, stored);
			if (outcome !== 'conflict' && outcome !== 'discarded') return deleted ? undefined : { ...stored.body, id };
		}
	}

	return {
		fieldId: 'id',
		fieldDeleted: DELETED,
		changesSince: 'last-sync',
		updatePartial: true,
		mode: 'assign',		// else the first download would take away what was edited before it came

		list: ({ lastSync, updateLastSync }) => queue.run(async () => {
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
			updateLastSync(`${clientId} ${cursor}`);
			return [...rows.values()];
		}),
		create: (row, params) => edit(row.id, row, params),
		update: (row, params) => edit(row.id, row, params),
		delete: ({ id }, params) => edit(id, null, params),
	};
}
