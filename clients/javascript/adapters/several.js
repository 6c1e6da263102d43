// several.js - several collections in one request, for libraries that ask for all tables at once.

import { BadAnswer, NoAnswer, Refused } from '../src/errors.js';
import { hasKeys, isPage } from '../src/jsontext.js';
import { isResult } from '../src/send.js';
import { read, refused } from './protocol.js';

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
		const answer = await ask(transport, clientId, [...collections].map(([collection, { cursor }]) =>
			({ collection, cursor, documents: [] })), PAGE_DOCUMENTS);
		let more = false;

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
				if (!isPage(page, begun.cursor)) throw new BadAnswer('documents, and a cursor to go on from, were expected');
				for (const document of page.documents) begun.documents.set(document.id, read(document));
				begun.cursor = page.cursor;
				more ||= page.more;
			}
		}
		if (!more) return { utc: answer.serverUtc, collections };
	}
}

/**
 * Sends documents of several collections, in one transaction; in two, where that is too much for the service, and so on.
 * @param {import('../src/transport.js').HttpTransport} transport
 * @param {string} clientId
 * @param {{ collection: string, cursor: string | null, documents: any[] }[]} parts what is sent, and from where on the collection
 *	was pulled last
 * @returns {Promise<Map<string, any[]>>} the results, by collection
 */
export async function pushSeveral(transport, clientId, parts) {
	const results = new Map();
	const note = (more) => more.forEach((rest, collection) => results.set(collection, [...results.get(collection) ?? [], ...rest]));
	let sent = parts.filter(({ documents }) => documents.length);

	while (sent.length) {
		try {
			// Somebody's documents come with the answer, too: one at most of each collection. The next pull gives them.
			const { collections } = await ask(transport, clientId, sent, 1);

			if (!collections.every((part, i) => part.error || areResults(part, sent[i].documents))) {
				throw new BadAnswer('a result for each document was expected');
			}
			const outcomes = collections.map(({ results: of, error }, i) =>
				of ?? sent[i].documents.map(({ id }) => ({ id, ...refused(error.code, error.message) })));
			// After too many that were refused the others were left, for the next request.
			const untried = sent.map((part, i) => ({ ...part, documents: part.documents.filter((_, n) => outcomes[i][n].outcome === 'untried') }));

			note(new Map(sent.map(({ collection }, i) => [collection, outcomes[i].filter(({ outcome }) => outcome !== 'untried')])));
			if (count(untried) === count(sent)) throw new BadAnswer('none of the documents was tried');
			sent = untried.filter(({ documents }) => documents.length);
		} catch (error) {
			if (!(error instanceof Refused) || error.status !== 413) throw error;
			if (count(sent) === 1) {
				note(new Map(sent.map(({ collection, documents: [{ id }] }) => [collection, [{ id, ...refused(error.code, error.text) }]])));
			} else {
				for (const half of halve(sent)) note(await pushSeveral(transport, clientId, half));
			}
			sent = [];
		}
	}
	return results;
}

/** Whether a collection's answer has a result for each document that was sent, in order. */
function areResults(part, documents) {
	return hasKeys(part, ['results']) && part.results.length === documents.length
		&& part.results.every((result, i) => result?.id === documents[i].id && isResult(result));
}

const count = (parts) => parts.reduce((sum, { documents }) => sum + documents.length, 0);

/** Half of the documents, and the others. */
function halve(parts) {
	/** @type {any[][]} */
	const [first, second] = [[], []];
	let left = count(parts) >> 1;

	for (const { documents, ...part } of parts) {
		const taken = documents.slice(0, left);

		left -= taken.length;
		if (taken.length) first.push({ ...part, documents: taken });
		if (taken.length < documents.length) second.push({ ...part, documents: documents.slice(taken.length) });
	}
	return [first, second];
}

async function ask(transport, clientId, parts, maxDocuments) {
	const answer = await transport.sync(clientId, parts.map((part) => ({ ...part, digest: null })), maxDocuments, true, 'any');

	if (answer.collections.length !== parts.length || answer.collections.some((part, i) => part?.collection !== parts[i].collection)) {
		throw new BadAnswer('an answer for each collection was expected');
	}
	return answer;
}
