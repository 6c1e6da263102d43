// several.js - several collections in one request, for libraries that ask for all tables at once.

import { BadAnswer, NoAnswer, Refused } from '../src/errors.js';
import { read } from './protocol.js';

const PAGE_DOCUMENTS = 1000;

/**
 * @typedef {object} Pulled what has changed in a collection
 * @property {Map<string, import('./protocol.js').RemoteDocument>} documents by id, each once, as it is now
 * @property {string | null} cursor to go on from
 * @property {'purged' | 'lost' | null} missed this collection has come anew, all of it, since tombstones were purged, or what it
 *	had was lost in a restore or a failover
 */

/**
 * All that has changed in several collections since, as it is at one instant: it asks for all of them, until none has more.
 * @param {import('../src/transport.js').HttpTransport} transport
 * @param {string} clientId
 * @param {Map<string, string | null>} cursors of each collection, null at first
 * @returns {Promise<{ utc: string, collections: Map<string, Pulled> }>} utc: the service's time
 */
export async function pullSeveral(transport, clientId, cursors) {
	/** @type {Map<string, Pulled>} */
	const collections = new Map([...cursors].map(([name, cursor]) => [name, { documents: new Map(), cursor, missed: null }]));

	for (;;) {
		const asked = [...collections].map(([collection, { cursor }]) => ({ collection, cursor }));
		const answer = await transport.pullSeveral(clientId, asked, PAGE_DOCUMENTS);
		let more = false;

		if (JSON.stringify(answer.collections.map((page) => page.collection)) !== JSON.stringify([...cursors.keys()])) {
			throw new BadAnswer('an answer for each collection was expected');
		}
		for (const page of answer.collections) {
			const { collection, error } = page;

			if (error) throw new Refused(400, error.code, `${collection}: ${error.message}`, error.details);
			if (page.behind) throw new NoAnswer('the server lags');
			const begun = /** @type {Pulled} */ (collections.get(collection));

			// What has been missed isn't known, so all of it, which is asked for now.
			if (page.reconcile && begun.cursor !== null) {
				collections.set(collection, { documents: new Map(), cursor: null, missed: page.lostAfter === null ? 'purged' : 'lost' });
				more = true;
			} else {
				for (const document of page.documents) begun.documents.set(document.id, read(document));
				begun.cursor = page.cursor;
				more ||= page.more;
			}
		}
		if (!more) return { utc: answer.serverUtc, collections };
	}
}
