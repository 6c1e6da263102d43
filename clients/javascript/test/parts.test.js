// Parts that need no service: the digest, JSON whose bodies stay text, what is refused at the edit, the comparison's judgement.

import assert from 'node:assert/strict';
import test from 'node:test';
import { bucketOf, hashDocument, murmur3 } from '../src/digest.js';
import { EDIT, MARK, MAX_VERSION, MIN_VERSION, order, versionOrder } from '../src/document.js';
import { BadAnswer, Refused } from '../src/errors.js';
import { checkId, documentsText, readAnswer, toJson } from '../src/jsontext.js';
import { isLost, judge } from '../src/reconcile.js';
import { earlier } from '../src/take.js';

const hex = (number) => number.toString(16).padStart(8, '0');

test("the digest: doc/protocol.md's vectors", () => {
	for (const [text, one, other] of [
		['', '00000000', 'd9aaf7d3'], ['a', '3c2569b2', 'c795411c'], ['shopping', 'fdd197d4', '91a33c94'],
		['8:shopping,1,2026-11-23T08:47:18.100229Z', 'b1b41262', 'c29ed384'],
		['4:Tür,-9223372036854775808,2026-11-23T08:47:18.100229Z', 'a184c4e4', 'fe8515c3'],
	]) {
		const bytes = new TextEncoder().encode(text);

		assert.deepEqual([hex(murmur3(bytes)), hex(murmur3(bytes, 0x5bd1e995))], [one, other], text);
	}
	assert.deepEqual(hashDocument('Tür', MIN_VERSION, '2026-11-23T08:47:18.100229Z').map(hex), ['a184c4e4', 'fe8515c3']);
	assert.equal(bucketOf('shopping'), 0xd4);
});

test('ids and versions are ordered as the service orders them', () => {
	const ids = ['', 'a', 'a\x01', 'a\x7f', 'ab', 'aä', 'ü', '\ud7ff', '\ue000', '\uffff', '😀', '\u{10ffff}'];
	const bytes = (id) => Buffer.from(id).toString('hex');

	for (const one of ids) for (const other of ids) assert.equal(order(one) < order(other), bytes(one) < bytes(other), `${one} ${other}`);
	const versions = [MIN_VERSION, -1n, 0n, 1n, 2n ** 53n, 2n ** 53n + 1n, MAX_VERSION].map(versionOrder);

	assert.deepEqual([...versions].sort(), versions);
});

test('bodies stay as they are, versions are exact', () => {
	const body = '{"a": [1.10, 12345678901234567890, "\\"]}"], "body": {"body": 1}, "clientVersion": 7}';
	const answer = readAnswer(`{"documents": [{"id": "body", "clientVersion": 9007199254740993, "body": ${body}},
		{"id": "\\"body\\": 1", "clientVersion": -9223372036854775808, "body" : null}, {"clientVersion": null, "body": "x"},
		{"winner": {"body": [], "clientVersion": 0}}], "cursor": "body"}`, ['documents', 'cursor']);

	assert.deepEqual(answer.documents, [
		{ id: 'body', clientVersion: 9007199254740993n, body }, { id: '"body": 1', clientVersion: MIN_VERSION, body: null },
		{ clientVersion: null, body: '"x"' }, { winner: { body: '[]', clientVersion: 0n } },
	]);
	assert.equal(documentsText([{ id: '"', clientVersion: MAX_VERSION, deleted: false, body: '1.10', baseVersion: null, baseUtc: null },
		{ id: 'x', clientVersion: 1n, deleted: true, body: null }]),
	'[{"id":"\\"","clientVersion":9223372036854775807,"baseVersion":null,"baseUtc":null,"body":1.10},{"id":"x","clientVersion":1,"deleted":true}]');
});

test("what isn't an answer of the service's", () => {
	const whole = '{"documents": [{"id": "a\\\\", "clientVersion": 12, "body": {"x": ["y", 1]}}], "more": false}';

	readAnswer(whole, ['documents', 'more']);
	for (let length = 0; length < whole.length; length++) {
		assert.throws(() => readAnswer(whole.slice(0, length), ['documents', 'more']), BadAnswer, `cut after ${length}`);
	}
	for (const text of ['null', '[]', '1', '"x"', '{}', '<html></html>', '{"documents": {}, "more": false}', '{"documents": 1.5, "more": 1}',
		'{"documents": [{"clientVersion": "x"}], "more": true}', '['.repeat(1e6)]) {
		assert.throws(() => readAnswer(text, ['documents', 'more']), BadAnswer, text.slice(0, 40));
	}
	const started = performance.now();

	assert.throws(() => readAnswer(`{"documents": [{"body": "${'\\"'.repeat(1e6)}`, ['documents']), BadAnswer);
	assert(performance.now() - started < 2000, 'in time that grows with its length');
});

test("what can't be stored is refused at the edit", () => {
	for (const value of [undefined, () => {}, Symbol('x'), 1n, NaN, [Infinity], { a: '\ud83d' }, { '\ude00': 1 }, ['\0'], { a: { '\0': 1 } }, 'x\ud83dx']) {
		assert.throws(() => toJson(value), TypeError, String(value));
	}
	for (const [value, text] of [[null, 'null'], [{ a: undefined, b: 1 }, '{"b":1}'], ['😀', '"😀"'], ['\\u0000 \\ud83d', '"\\\\u0000 \\\\ud83d"'],
		[new Date(0), '"1970-01-01T00:00:00.000Z"']]) {
		assert.equal(toJson(value), text);
	}
	const circle = {};

	circle.circle = circle;
	assert.throws(() => toJson(circle), TypeError);
	for (const id of ['', 'x'.repeat(501), 'ü'.repeat(251), 'a\0b', '\ud83d', 7, null, undefined, {}]) assert.throws(() => checkId(id), TypeError);
	for (const id of ['x', 'ü'.repeat(250), '😀', ' ', '"\\']) checkId(id);
});

test('refusals', () => {
	const of = (...args) => new Refused(...args);

	for (const [refusal, retry, aboutDocuments] of [
		[of(400, '22023', ''), false, true], [of(400, '', ''), true, false], [of(413, '', ''), false, true], [of(401, 'PGRST301', ''), false, false],
		[of(403, '42501', 'permission denied'), false, false], [of(403, '42501', 'violates row-level security'), false, true],
		[of(403, '42501', '', '{"document": 1}'), false, true], [of(500, 'XX000', ''), true, false], [of(429, 'x', ''), true, false], [of(421, 'moved', ''), true, false],
		[of(503, '', '', undefined, 5), true, false], [of(409, '23514', ''), false, true], [of(404, '', 'Not Found'), true, false],
	]) {
		assert.deepEqual([refusal.retry, refusal.aboutDocuments], [retry, aboutDocuments], refusal.message);
	}
	for (const details of [undefined, null, 'x', '[1]', '1', 'null', { a: 1 }]) assert.deepEqual(of(400, '', '', details).details, {});
});

test("the comparison's judgement", () => {
	const local = (clientVersion, lastUpdateUtc = '2', unsent = 0) => ({ clientVersion, lastUpdateUtc, unsent });
	const row = (clientVersion, LastUpdateUtc = '2', deleted = false) => ({ clientVersion, LastUpdateUtc, deleted });

	for (const [what, ...args] of [
		['nothing', null, row(1n, '2', true), null, null], ['fetch', null, row(1n), null, null],
		['keep', local(1n, '2', EDIT), row(5n), null, null], ['keep', local(1n, '2', EDIT), null, null, '9'],
		['keep', local(1n, '2', MARK), null, null, '9'], ['remove', local(1n), null, null, '2'], ['send', local(1n), null, null, null],
		['send', local(1n), null, '1', '9'], ['send', local(1n), null, '-infinity', '9'], ['send', local(1n, null), null, null, '9'],
		['send', local(2n), row(1n), null, null], ['fetch', local(1n), row(2n), null, null], ['nothing', local(1n), row(1n), null, null],
		['fetch', local(1n), row(1n, '3'), null, null], ['fetch', local(1n, '2', MARK), row(1n), null, null],
		['send', local(0n, '3'), row(0n, '2'), null, null], ['fetch', local(0n, '1'), row(0n, '2'), null, null],
	]) {
		assert.equal(judge(...args), what, JSON.stringify(args, (_, value) => typeof value === 'bigint' ? Number(value) : value));
	}
	assert.equal(isLost('3', null, '2'), true);
	assert.equal(isLost('2', null, '2'), false);
	assert.equal(earlier('2', '-infinity'), '-infinity');
});
