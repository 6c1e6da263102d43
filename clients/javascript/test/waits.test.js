// What waits a random time, since many clients are told, or find the same, at once: by a clock that a test moves.

import assert from 'node:assert/strict';
import test from 'node:test';
import { Collection, memoryStore } from '../src/index.js';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

/** A collection with the waits that it has in earnest, half of them at random; a service that has lost all. */
function begin() {
	const service = { told: false, documents: [], digests: [], sent: [], now: 1e12 };
	const notes = new Collection('notes', {
		store: memoryStore(), url: '', clock: () => service.now, random: () => 0.5, transport: {
			async upload(_, documents) {
				service.sent.push(...documents.map(({ id, baseVersion }) => [id, baseVersion]));
				return { results: documents.map(({ id, clientVersion }) => ({ id, outcome: 'created', clientVersion, LastUpdateUtc: '2026-11-28T09:00:00.000000Z', winner: null })) };
			},
			async pull(clientId, cursor, maxDocuments, digest) {
				service.digests.push(digest);
				return {
					documents: service.documents.splice(0), cursor: 'c', more: false, serverUtc: '2026-11-28T09:00:00.000000Z',
					...service.told && { reconcile: true, lostAfter: null }, state: digest === null ? undefined : { count: 0, digest: '0000000000000000', sums: [] },
				};
			},
			reconcile: async () => ({ rows: [], after: null, more: false, purgedThrough: null }),
		},
	});
	const asksForDigest = async () => {
		await notes.sync();
		return service.digests.at(-1) !== null;
	};

	return { notes, service, asksForDigest };
}

test('told to compare, it does so at a random time within the hour', async () => {
	const { notes, service, asksForDigest } = begin();

	await notes.sync();
	service.told = true;
	assert.equal(await asksForDigest(), false);
	service.told = false;
	for (const [minutes, is] of [[29, false], [2, true], [2, false]]) {
		service.now += minutes * MINUTE;
		assert.equal(await asksForDigest(), is, `after ${minutes} minutes more`);
	}
});

test('untold, it compares once a day, the first time at a random time', async () => {
	const { notes, service, asksForDigest } = begin();

	await notes.sync();
	for (const [hours, is] of [[11, false], [2, true], [23, false], [2, true]]) {
		service.now += hours * HOUR;
		assert.equal(await asksForDigest(), is, `after ${hours} hours more`);
	}
});

test('what the service has lost: own documents are sent at once, those of others after a random wait', async () => {
	const { notes, service } = begin();

	service.documents = [{ id: 'of another', clientVersion: 1n, clientId: 'another', LastUpdateUtc: '2026-11-28T08:00:00.000000Z', deleted: false, body: '1' }];
	await notes.put('own', 1);
	await notes.sync();
	service.sent = [];
	await notes.compare();
	await notes.sync();
	assert.deepEqual(service.sent, [['own', null]]);
	service.now += 29 * MINUTE;
	await notes.sync();
	assert(service.sent.every(([id]) => id === 'own'));
	service.now += 2 * MINUTE;
	await notes.sync();
	assert.deepEqual(service.sent.filter(([id]) => id !== 'own'), [['of another', null]]);
});
