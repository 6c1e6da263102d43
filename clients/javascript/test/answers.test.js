// Answers of 200 that no service gives, and promises of the app that fail in odd ways: nothing is applied, nothing unsent is
// forgotten, and the next sync goes on.

import assert from 'node:assert/strict';
import test from 'node:test';
import { BadAnswer, Collection, Collections, memoryStore } from '../src/index.js';
import { readAnswer } from '../src/jsontext.js';

const STAMP = '2026-11-28T10:00:00.000001Z';

/** A service whose upload and pages are what a test says, and what it was asked. */
function serviceThat({ result = {}, page = {}, pages = null }) {
	const asked = [];
	const good = ({ id, clientVersion }) => ({ id, outcome: 'created', clientVersion, LastUpdateUtc: STAMP, winner: null });

	return {
		asked,
		upload: async (_, documents) => {
			asked.push('upload');
			return { results: documents.map((document) => result === null ? null : { ...good(document), ...result }) };
		},
		pull: async () => {
			asked.push('pull');
			if (asked.length > 50) throw new Error('asked again and again');
			return pages?.shift() ?? { documents: [], cursor: 'c', more: false, ...page };
		},
	};
}

const open = (transport, options = {}) => new Collection('notes', { store: memoryStore(), url: '', transport, ...options });

for (const [name, result] of Object.entries({
	'without a version': { clientVersion: undefined }, 'with a fraction as version': { clientVersion: 5.5 }, 'without a stamp': { LastUpdateUtc: undefined },
	'without an outcome': { outcome: null }, 'with an outcome that nobody knows': { outcome: 'later' }, 'that is null': null,
	'refused without an error': { outcome: 'refused' }, 'with a winner without a version': { outcome: 'discarded', winner: { id: 'x', LastUpdateUtc: STAMP } },
})) {
	test(`a result ${name}`, async () => {
		const notes = open(serviceThat({ result }));

		await notes.put('x', 1);
		await assert.rejects(notes.sync(), BadAnswer);
		assert.deepEqual((await notes.unsent()).map(({ id }) => id), ['x']);
		await notes.put('x', 2);
		assert.equal(await notes.get('x'), 2);
	});
}

const document = { id: 'y', clientVersion: 5n, clientId: 'b', LastUpdateUtc: STAMP, deleted: false, body: '1' };

for (const [name, page] of Object.entries({
	'with a document without a version': { documents: [{ ...document, clientVersion: undefined }] },
	'with a fraction as version': { documents: [{ ...document, clientVersion: 5.5 }] }, 'with a document without a stamp': { documents: [{ ...document, LastUpdateUtc: null }] },
	'with a document whose id is a number': { documents: [{ ...document, id: 7 }] }, 'with a document that is null': { documents: [null] },
	'whose cursor is null': { cursor: null }, 'whose cursor is a number': { cursor: 7 },
})) {
	test(`a page ${name}`, async () => {
		const notes = open(serviceThat({ page }));

		await assert.rejects(notes.sync(), BadAnswer);
		assert.deepEqual(await notes.list(), []);
		await notes.put('y', 2);
		assert.equal(await notes.get('y'), 2);
	});
}

test('a page that says there is more, and leads nowhere', async () => {
	const transport = serviceThat({ page: { more: true } });

	await assert.rejects(open(transport).sync(), BadAnswer);
	assert(transport.asked.length <= 3, `${transport.asked.length} requests`);
});

test('what readAnswer reads passes', async () => {
	const notes = open(serviceThat({ pages: [readAnswer(`{"documents":[{"id":"y","clientVersion":5,"clientId":"b","LastUpdateUtc":"${STAMP}","deleted":false,"body":1}],"cursor":"c","more":false}`, ['documents'])] }));

	await notes.sync();
	assert.equal(await notes.get('y'), 1);
});

for (const reason of [undefined, null]) {
	test(`a promise that is rejected with ${reason}`, async (t) => {
		const transport = { ...serviceThat({}), pull: async () => { throw reason; } };
		const notes = open(transport, { every: 20, random: () => 0.5 });
		let tried = 0;

		transport.pull = async () => {
			tried++;
			throw reason;
		};
		await assert.rejects(notes.sync(), (error) => error instanceof Error);
		assert((await notes.status()).error instanceof Error);
		assert.equal((await notes.status()).syncedAt, null);
		notes.start();
		t.after(() => notes.close());
		const begun = performance.now();

		while (tried < 3 && performance.now() - begun < 10_000) await new Promise((resolve) => { setTimeout(resolve, 20); });
		assert(tried >= 3, 'it is tried again');
	});
}

test('one of several is rejected with nothing: that is no success', async () => {
	const several = {
		...serviceThat({}), on: () => serviceThat({}),
		sync: async (_, parts) => ({ serverUtc: STAMP, collections: parts.map(({ collection }) => ({ collection, results: [], documents: [], cursor: collection === 'a' ? 5 : 'c', more: false })) }),
	};
	const all = new Collections(['a', 'b'], { store: memoryStore(), url: '', transport: several });
	const errors = await all.sync();

	assert.deepEqual([...errors.keys()], ['a']);
	assert(errors.get('a') instanceof BadAnswer);
	assert((await all.get('a').status()).error instanceof BadAnswer);
	await all.close();
});

test('close() waits for a sync that is still to begin', async () => {
	const transport = serviceThat({});
	const notes = open(transport);

	notes.sync();
	notes.sync();
	await notes.close();
	const asked = transport.asked.length;

	await new Promise((resolve) => { setTimeout(resolve, 50); });
	assert.equal(transport.asked.length, asked);
});
