// several.js - several collections in one request, for libraries that ask for all tables at once.

import { BadAnswer, NoAnswer, Refused } from '../src/errors.js';
import { hasKeys, isPage } from '../src/jsontext.js';
import { isResult } from '../src/send.js';
import { read, refused } from './protocol.js';

const PAGE_DOCUMENTS = 1000;

/**
 * @typedef {object} Pulled what was changed in a collection
 * @property {Map<string, import('./protocol.js').RemoteDocument>} documents by id, each as it is now, in the order of their stamps
 * @property {string | null} cursor to continue from
 * @property {'purged' | 'lost' | null} missed why the whole collection was downloaded again: tombstones were purged, or the service
 *	has lost something in a restore or a failover
 */

/**
 * Everything that was changed in several collections since, as of one instant: it asks for all of them until none has more.
 * @param {import('../src/transport.js').HttpTransport} transport
 * @param {string} clientId
 * @param {Map<string, string | null>} cursors one for each collection, null at first
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

			// It isn't known what was missed, so everything is downloaded, beginning now.
			if (page.reconcile && begun.cursor !== null) {
				collections.set(collection, { documents: new Map(), cursor: null, missed: page.lostAfter === null ? 'purged' : 'lost' });
				more = true;
			} else {
				if (!isPage(page, begun.cursor)) throw new BadAnswer('documents, and a cursor to go on from, were expected');
				for (const document of page.documents) {
					begun.documents.delete(document.id);		// its place is that of its last stamp
					begun.documents.set(document.id, read(document));
				}
				begun.cursor = page.cursor;
				more ||= page.more;
			}
		}
		if (!more) return { utc: answer.serverUtc, collections };
	}
}

/**
 * Sends documents of several collections, in one transaction; or in two, if that is too much for the service, and so on.
 * @param {import('../src/transport.js').HttpTransport} transport
 * @param {string} clientId
 * @param {{ collection: string, cursor: string | null, documents: any[] }[]} parts what to send, and the cursor of the last pull
 * @returns {Promise<Map<string, any[]>>} the results, by collection
 */
export async function pushSeveral(transport, clientId, parts) {
	const results = new Map();
	const note = (more) => more.forEach((rest, collection) => results.set(collection, [...results.get(collection) ?? [], ...rest]));
	let sent = parts.filter(({ documents }) => documents.length);

	while (sent.length) {
		try {
			// The answer also has documents of others, at most one for each collection. They come again with the next pull.
			const { collections } = await ask(transport, clientId, sent, 1);

			if (!collections.every((part, i) => part.error || areResults(part, sent[i].documents))) {
				throw new BadAnswer('a result for each document was expected');
			}
			const outcomes = collections.map(({ results: of, error }, i) =>
				of ?? sent[i].documents.map(({ id }) => ({ id, ...refused(error.code, error.message) })));
			// After too many refusals the rest was left for the next request.
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

/** Two halves of the documents. */
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
