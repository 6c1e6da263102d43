// What the adapters of libraries share that keep the documents themselves, with answers that no service gives at will.

import assert from 'node:assert/strict';
import test from 'node:test';
import { Remote } from '../adapters/protocol.js';
import { pullSeveral, pushSeveral } from '../adapters/several.js';
import { BadAnswer, NoAnswer, Refused } from '../src/index.js';
import { HttpTransport } from '../src/transport.js';

const VERSION = 2n ** 62n;

/** A remote collection whose requests are answered by these, one after the other: an object, or [status, object, headers]. */
function remote(...answers) {
	const asked = [];
	const refused = [];
	const fetch = async (url, { method, body }) => {
		const [status, answer, headers] = [answers.shift()].flatMap((next) => Array.isArray(next) ? [next] : [[200, next]])[0];

		asked.push({ method, path: url.slice('http://x'.length), ...body && JSON.parse(body) });
		return new Response(JSON.stringify(answer), { status, headers });
	};

	return { asked, refused, remote: new Remote('c', { url: 'http://x', clientId: 'me', fetch, onRefused: (refusal) => refused.push(refusal) }) };
}

/** A transport for several collections, whose one request is answered by these. */
function several(...collections) {
	const fetch = async () => new Response(JSON.stringify({ serverUtc: '3', collections }));

	return new HttpTransport('', { url: 'http://x', fetch });
}

const results = (...list) => ({ received: list.length, results: list });
const stored = (id, clientVersion) => ({ id, outcome: 'updated', clientVersion, LastUpdateUtc: '2', winner: null });
const winner = (clientId, clientVersion = 7) => ({ id: 'x', clientVersion, clientId, LastUpdateUtc: '1', deleted: false, body: { n: 1 } });
const lost = (outcome, of = null) => ({ id: 'x', outcome, clientVersion: of?.clientVersion ?? null, LastUpdateUtc: of && '1', winner: of });

test('a conflict is told, with the winner', async () => {
	const { remote: notes, asked } = remote(results(lost('conflict', winner('another'))));
	const { outcome, clientVersion, winner: theirs } = (await notes.push([{ id: 'x', body: {}, base: '5' }])).get('x');

	assert.deepEqual([outcome, clientVersion, theirs.body, asked.length], ['conflict', 7n, { n: 1 }, 1]);
	assert.equal(asked[0].documents[0].baseVersion, 5);
	assert(asked[0].documents[0].clientVersion > 1.7e12, 'a time');
});

for (const base of ['5', undefined]) {
	test(`an own edit whose answer was lost gives way to the next one, base: ${base}`, async () => {
		const { remote: notes, asked } = remote(
			results(lost(base ? 'conflict' : 'discarded', winner('me', Number.MAX_SAFE_INTEGER))), results(stored('x', 8)));

		assert.equal((await notes.push([{ id: 'x', body: {}, base }])).get('x').outcome, 'updated');
		assert.equal(asked[1].documents[0].clientVersion, Number.MAX_SAFE_INTEGER + 1);
		assert.equal(asked[1].documents[0].baseVersion, base && Number.MAX_SAFE_INTEGER);
	});
}

test('the same edit once more is nothing new', async () => {
	for (const body of [{ a: 1.5, n: { c: [1], b: null } }, undefined]) {
		const theirs = { ...winner('me'), deleted: !body, body: body ? { n: { b: null, c: [1] }, a: 1.50 } : null };
		const { remote: notes, asked } = remote(results(lost('conflict', theirs)));
		const { outcome, clientVersion } = (await notes.push([{ id: 'x', body, deleted: !body, base: '5' }])).get('x');

		assert.deepEqual([outcome, clientVersion, asked.length], ['unchanged', 7n, 1]);
	}
});

test('based on what was purged since: it is new', async () => {
	for (const base of ['5', '0']) {
		const { remote: notes, asked } = remote(results(lost('conflict')), { documents: [], more: false }, results(stored('x', 8)));

		assert.equal((await notes.push([{ id: 'x', deleted: true, base }])).get('x').outcome, 'updated');
		assert.equal(asked[2].documents[0].baseVersion, null);
	}
});

test('in conflict with what it may not see: refused, and told', async () => {
	const { remote: notes, refused } = remote(results(lost('conflict')), { documents: [], more: false });

	assert.equal((await notes.push([{ id: 'x', body: 1, base: null }])).get('x').outcome, 'refused');
	assert.deepEqual(refused.map(({ id, error }) => [id, error.code]), [['x', '42501']]);
});

test('a winner that is lost before it is fetched: the edit is sent again', async () => {
	const { remote: notes, asked, refused } = remote(
		results({ ...lost('conflict'), winnerOmitted: true }), { documents: [], more: false }, results({ ...stored('x', 8), outcome: 'created' }));

	assert.equal((await notes.push([{ id: 'x', body: 1, base: null }])).get('x').outcome, 'created');
	assert.deepEqual([asked.length, refused], [3, []]);
});

test('a winner that a server which lags has not: later', async () => {
	const { remote: notes } = remote(results({ ...lost('conflict'), winnerOmitted: true }), { documents: [], more: false, behind: true });

	await assert.rejects(notes.push([{ id: 'x', body: 1, base: null }]), NoAnswer);
});

test('large edits are sent in several requests', async () => {
	const body = 'x'.repeat(1_500_000);
	const ids = ['a', 'b', 'c', 'd'];
	const { remote: notes, asked } = remote(results(...['a', 'b', 'c'].map((id) => stored(id, 1))), results(stored('d', 1)));

	assert.deepEqual([...(await notes.push(ids.map((id) => ({ id, body })))).keys()], ids);
	assert.deepEqual(asked.map(({ documents }) => documents.length), [3, 1]);
});

test("what can't be an id isn't looked for", async () => {
	const { remote: notes, asked } = remote({ documents: [{ ...winner('another') }], more: false });

	assert.deepEqual((await notes.get(['', 'x', 'half \ud800', 'x'.repeat(501)])).map(({ id }) => id), ['x']);
	assert.deepEqual(asked[0].ids, ['x']);
	assert.deepEqual(await notes.get(['\0']), []);
	assert.equal(asked.length, 1);
});

test('what this clientId has written, page by page', async () => {
	const page = (cursor, more, ...documents) => ({ documents, cursor, more });
	const { remote: notes, asked } = remote(page('1', true, winner('me')), page('2', true), page('3', false, winner('me', 8)));

	assert.deepEqual((await notes.own()).map(({ id, clientVersion }) => [id, clientVersion]), [['x', 8n]]);
	assert.deepEqual(asked.map(({ path }) => /origin=own/.test(path) && /cursor=(\d)/.exec(path)?.[1]), [undefined, '1', '2']);
	await assert.rejects(remote({ ...page('1', false), behind: true }).remote.own(), NoAnswer);
	await assert.rejects(remote({ ...page('1', false), documents: [{}] }).remote.own(), BadAnswer);
});

test("what can't be sent isn't, and is told; the others are", async () => {
	const { remote: notes, asked, refused } = remote(results(stored('x', 1)));
	const outcomes = await notes.push([{ id: '', body: 1 }, { id: 'u', body: '\0' }, { id: 'x', body: 1 }, { id: 'n', body: NaN }]);

	assert.deepEqual([...outcomes].map(([id, { outcome }]) => `${id} ${outcome}`).sort(), [' refused', 'n refused', 'u refused', 'x updated']);
	assert.deepEqual(asked[0].documents.map(({ id }) => id), ['x']);
	assert.equal(refused.length, 3);
});

test('versions and bases of 64 bits are exact', async () => {
	let sent;
	const notes = new Remote('c', {
		url: 'http://x', clientId: 'me', fetch: async (url, { body }) => {
			sent = body;
			return new Response(`{"results": [{"id": "x", "outcome": "updated", "clientVersion": ${VERSION + 1n}, "LastUpdateUtc": "2", "winner": null}]}`);
		},
	});

	assert.equal((await notes.push([{ id: 'x', body: 1, base: `${VERSION}` }])).get('x').clientVersion, VERSION + 1n);
	assert(sent.includes(`"clientVersion":${VERSION + 1n},"baseVersion":${VERSION}`), sent);
});

test('Retry-After: nothing is asked before', async () => {
	const page = { documents: [], cursor: 'c', more: false };
	const { remote: notes, asked } = remote([503, { code: 'x', message: '' }, { 'Retry-After': '1' }], page);

	await assert.rejects(notes.pull(null), Refused);
	await assert.rejects(notes.push([{ id: 'x', body: 1 }]), Refused);
	await assert.rejects(notes.pull(null), Refused);
	assert.equal(asked.length, 1);
	await new Promise((resolve) => { setTimeout(resolve, 1010); });
	assert.equal((await notes.pull(null)).cursor, 'c');
});

test('a token function that rejects without a reason', async () => {
	const notes = new Remote('c', { url: 'http://x', clientId: 'me', token: () => Promise.reject(undefined) });

	await assert.rejects(notes.pull(null), { message: 'rejected without a reason' });
});

test('a page of a server that lags: the cursor stays', async () => {
	const { remote: notes } = remote({ documents: [], cursor: 'other', more: false, behind: true });

	assert.deepEqual(await notes.pull('mine'), { documents: [], cursor: 'mine', more: false });
});

test('told to compare: everything comes anew, with tombstones', async () => {
	const page = { documents: [{ ...winner('another'), body: null, deleted: true }], cursor: 'c', more: true };
	const { remote: notes, asked } = remote({ ...page, documents: [], reconcile: true, lostAfter: null }, page);
	const { documents, cursor, more } = await notes.pull('old');

	assert.deepEqual([documents[0].deleted, documents[0].body, cursor, more], [true, undefined, 'c', true]);
	assert(!/cursor=|tombstones=/.test(asked[1].path), asked[1].path);
});

for (const [name, page] of Object.entries({
	'with a document without a version': { documents: [{ ...winner('another'), clientVersion: undefined }] }, 'without a cursor': { cursor: null },
	'that says there is more, and leads nowhere': { cursor: 'old', more: true },
})) {
	test(`a page ${name} is no answer`, async () => {
		const answer = { documents: [], cursor: 'c', more: false, ...page };

		await assert.rejects(remote(answer).remote.pull('old'), BadAnswer);
		const transport = several({ collection: 'c', results: [], ...answer });

		await assert.rejects(pullSeveral(transport, 'me', new Map([['c', 'old']])), BadAnswer);
	});
}

for (const [name, result] of Object.entries({
	'without a version': { clientVersion: undefined }, 'with an outcome that nobody knows': { outcome: 'later' }, 'of another document': { id: 'z' },
	'refused without an error': { outcome: 'refused' },
})) {
	test(`a result ${name} is no answer`, async () => {
		const answer = { ...stored('x', 1), ...result };

		await assert.rejects(remote(results(answer)).remote.push([{ id: 'x', body: 1 }]), BadAnswer);
		const transport = several({ collection: 'c', results: [answer], documents: [], cursor: 'c', more: false });

		await assert.rejects(pushSeveral(transport, 'me', [{ collection: 'c', cursor: null, documents: [{ id: 'x', clientVersion: 1n, body: '1' }] }]), BadAnswer);
	});
}

test('winners that were not asked for are no answer', async () => {
	const { remote: notes, asked } = remote(
		results({ ...lost('conflict'), winnerOmitted: true }), ...Array(5).fill({ documents: [{ ...winner('another'), id: 'z' }], more: true }));

	await assert.rejects(notes.push([{ id: 'x', body: 1, base: null }]), BadAnswer);
	assert.equal(asked.length, 2);
});
