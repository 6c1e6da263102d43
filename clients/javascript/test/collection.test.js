// A collection and the service over a line that fails in all ways: the app keeps working, nothing is lost, and what isn't sent
// yet can be seen.

import assert from 'node:assert/strict';
import test, { after, before, beforeEach } from 'node:test';
import { BadAnswer, Collection, DELETE, NoAnswer, Refused, memoryStore } from '../src/index.js';
import { BadLine, EXPIRED_TOKEN, TOKEN, anyName, contentOf, needsService, open, pause, until } from './service.js';

/** @type {BadLine} */
let line;

before(async () => { line = await BadLine.start(); });
after(() => line.down());
beforeEach(() => {
	line.fault = () => undefined;
	line.requests = [];
});

const overLine = (name, options) => open(name, { url: line.url, ...options });
const unsentIds = async (collection) => (await collection.unsent()).map(({ id }) => id);

/** That an unsent edit is kept while syncs fail so, can be seen, and goes when they don't. */
async function keeps(name, fault, isError, options) {
	const notes = overLine(name, options);

	line.fault = fault;
	await notes.put('x', { n: 1 });
	await assert.rejects(notes.sync(), isError);
	await notes.put('y', { n: 2 });
	assert.deepEqual(await notes.get('x'), { n: 1 });
	assert.deepEqual(await unsentIds(notes), ['x', 'y']);
	const status = await notes.status();

	assert.equal(status.unsent, 2);
	assert(isError(status.error), `the status has the error: ${status.error}`);
	line.fault = () => undefined;
	await notes.sync();
	assert.deepEqual(await unsentIds(notes), []);
	assert.equal((await notes.status()).error, null);
	const other = open(name);

	await other.sync();
	assert.deepEqual(await contentOf(other), { x: { n: 1 }, y: { n: 2 } });
}

test('the page of a captive portal', needsService, () => keeps(anyName(),
	() => ({ status: 200, headers: { 'Content-Type': 'text/html' }, body: '<!doctype html><title>Welcome to the hotel</title>' }),
	(error) => error instanceof BadAnswer && error.retry));

test("JSON that isn't the service's", needsService, () => keeps(anyName(), () => ({ status: 200, body: '{"welcome": true}' }), (error) => error instanceof BadAnswer));

test('a redirection to a login', needsService, () => keeps(anyName(),
	({ path }) => path === '/login' ? { status: 200, body: '<html></html>' } : { status: 302, headers: { Location: `${line.url}/login` } },
	(error) => error instanceof BadAnswer));

test('a proxy that refuses', needsService, () => keeps(anyName(), () => ({ status: 511, body: 'Network Authentication Required' }), (error) => error instanceof Refused && error.retry));

test('an answer that is cut off', needsService, () => keeps(anyName(), () => 'cut', (error) => error instanceof NoAnswer));

test('an answer that is lost', needsService, () => keeps(anyName(), () => 'lost', (error) => error instanceof NoAnswer));

test('a service that is too slow', needsService, () => keeps(anyName(), () => { throw new Error('never'); },
	(error) => error instanceof NoAnswer, { timeout: 200, fetch: (url, options) => line.fault.toString().includes('never')
		? new Promise((_, reject) => { options.signal.addEventListener('abort', () => reject(options.signal.reason)); }) : fetch(url, options) }));

test('a token that has expired', needsService, async () => {
	const name = anyName();
	let token = EXPIRED_TOKEN;
	const isError = (error) => error instanceof Refused && error.status === 401;
	const notes = open(name, { token: () => token });

	await notes.put('x', 1);
	await assert.rejects(notes.sync(), isError);
	assert.deepEqual(await unsentIds(notes), ['x']);
	assert.deepEqual((await notes.problems()), [], 'the document is not to blame');
	token = TOKEN;
	await notes.sync();
	assert.deepEqual(await unsentIds(notes), []);
});

test('a token that expires in the midst: a new one is asked for, and the request sent again', needsService, async () => {
	const asked = [];
	let token = TOKEN;
	const notes = overLine(anyName(), {
		token: async ({ refused }) => {
			asked.push(refused);
			if (refused) token = TOKEN;
			return token;
		},
	});

	await notes.put('x', 1);
	line.fault = () => {
		if (line.requests.length === 1) token = EXPIRED_TOKEN;
	};
	await notes.sync();
	await notes.put('y', 2);
	line.requests = [];
	await notes.sync();
	assert(asked.includes(true), 'asked anew');
	assert.deepEqual(await unsentIds(notes), []);
});

test('a service that is down, with start(): soon after it is back all is sent', needsService, async () => {
	const name = anyName();
	const notes = overLine(name, { random: () => 0 });
	const shown = [];

	notes.watchStatus(({ unsent, error }) => shown.push(`${unsent} ${error?.name ?? 'well'}`));
	notes.start();
	try {
		await until(async () => (await notes.status()).syncedAt);
		await line.down();
		await notes.put('x', 1);
		await until(async () => (await notes.status()).error);
		await notes.put('y', 2);
		assert.deepEqual(await unsentIds(notes), ['x', 'y']);
		await pause(700);
		await line.up();
		await until(async () => !(await unsentIds(notes)).length);
		await until(() => shown.at(-1) === '0 well');
		assert(shown.includes('2 NoAnswer'), shown.join('; '));
	} finally {
		notes.stop();
	}
	assert.equal((await notes.status()).error, null);
});

test("a store that can't be opened: the status says so", async () => {
	const failure = new DOMException('no', 'InvalidStateError');
	const notes = new Collection('notes', { url: line.url, store: Promise.reject(failure) });
	const shown = [];

	notes.watchStatus(({ error }) => shown.push(error));
	notes.start();
	await until(() => shown.length > 0, 1000);
	assert.deepEqual([shown[0], await notes.sync().catch((error) => error), await notes.put('x', 1).catch((error) => error)], [failure, failure, failure]);
	await notes.close();
});

test("a store that can't be read for a while: the status says so, with what was known last", async () => {
	const store = memoryStore();
	const failure = new DOMException('no', 'UnknownError');
	let fails = false;
	const notes = new Collection('notes', { url: 'http://127.0.0.1:9', store: {
		transaction: (work) => fails ? Promise.reject(failure) : store.transaction(work), lock: (...args) => store.lock(...args), close: () => store.close(),
	} });
	const shown = [];

	await notes.put('x', 1);
	notes.watchStatus(({ error, unsent }) => shown.push([error?.name, unsent]));
	await until(() => shown.length > 0);
	fails = true;
	await notes.sync().catch(() => {});
	await until(() => shown.length > 2);
	assert.deepEqual([shown[0], shown.at(-1)], [[undefined, 1], ['UnknownError', 1]]);
});

test('edits are sent soon with start(), not after stop()', needsService, async () => {
	const name = anyName();
	const notes = overLine(name);
	const other = open(name);

	notes.start();
	notes.start();
	await notes.put('x', 1);
	await until(async () => !(await unsentIds(notes)).length);
	notes.stop();
	await notes.put('y', 2);
	await pause(300);
	assert.deepEqual(await unsentIds(notes), ['y']);
	notes.start();
	await until(async () => !(await unsentIds(notes)).length);
	await notes.close();
	await other.sync();
	assert.deepEqual(await contentOf(other), { x: 1, y: 2 });
});

test('Retry-After is heeded', needsService, async () => {
	const notes = overLine(anyName(), { random: () => 0 });

	line.fault = () => line.requests.length ? undefined : { status: 503, headers: { 'Retry-After': '2' }, body: '' };
	notes.start();
	await notes.put('x', 1);
	await notes.put('y', 1);
	await until(async () => !(await unsentIds(notes)).length);
	notes.stop();
	const [first, second] = line.requests;

	assert(second.at - first.at >= 1950, `${second.at - first.at} ms`);
});

test('a request that is too large is halved, down to the document', needsService, async () => {
	const notes = overLine(anyName());

	line.fault = ({ path, body }) => path.startsWith('/Docs?') && body.length > 20_000
		? { status: 413, body: '{"code": "PT413", "message": "request too large", "details": null}' } : undefined;
	await notes.putAll(Array.from({ length: 100 }, (_, i) => [`d${i}`, 'x'.repeat(1000)]));
	await notes.put('too large', 'x'.repeat(30_000));
	await notes.sync();
	assert.deepEqual((await notes.problems()).map(({ id, error }) => [id, error]), [['too large', '413 PT413 request too large']]);
	assert.deepEqual(await unsentIds(notes), ['too large'], 'which is still to be seen among the unsent');
	await notes.put('too large', 'not any more');
	await notes.sync();
	assert.deepEqual(await unsentIds(notes), []);
});

test('a service that refuses each document: not all are tried in one sync', needsService, async () => {
	const notes = overLine(anyName());

	line.fault = ({ path, body }) => path.startsWith('/Docs?') && JSON.parse(body).documents.length
		? { status: 400, body: '{"code": "23514", "message": "violates a check", "details": null}' } : undefined;
	await notes.putAll(Array.from({ length: 256 }, (_, n) => [`d${n}`, n]));
	await notes.sync();
	assert.deepEqual([line.requests.length < 100, (await notes.problems()).length], [true, 32], `${line.requests.length} requests`);
	line.fault = () => undefined;
	await notes.sync();
	assert.deepEqual([(await notes.status()).unsent, (await notes.problems()).length], [0, 32]);
});

test('who may not write at all: nothing is set aside', needsService, async () => {
	const notes = overLine(anyName());
	const refusal = { status: 403, body: '{"code": "42501", "message": "permission denied for table document", "details": null}' };

	line.fault = ({ path }) => path.startsWith('/Docs?') ? refusal : undefined;
	await notes.put('x', 1);
	await assert.rejects(notes.sync(), (error) => error instanceof Refused && error.status === 403);
	assert.deepEqual([await unsentIds(notes), await notes.problems()], [['x'], []]);
	assert(line.requests.some(({ path }) => path.startsWith('/Docs/Pull')), "others' changes still come");
});

test('winners that are left out are fetched', needsService, async () => {
	const name = anyName();
	const [one, other] = [overLine(name, { clock: () => 1000 }), open(name)];

	await other.putAll([['x', 'theirs'], ['y', 'theirs'], ['z', 'theirs']]);
	await other.sync();
	await one.putAll([['x', 'mine'], ['y', 'mine'], ['z', 'mine']]);
	line.fault = ({ path }) => path.startsWith('/Docs?') ? {
		change: (answer) => ({ ...answer, results: answer.results.map((result) => ({ ...result, winner: null, winnerOmitted: true })) }),
	} : path.startsWith('/Docs/Pull') ? 'lost' : undefined;
	await assert.rejects(one.sync(), NoAnswer);
	assert.deepEqual(await contentOf(one), { x: 'theirs', y: 'theirs', z: 'theirs' });
	assert.deepEqual(await unsentIds(one), []);
});

test('a winner that is lost before it is fetched: the edit is sent again', needsService, async () => {
	const name = anyName();
	const [one, other] = [overLine(name, { clock: () => 1000 }), open(name)];

	await other.put('x', 'theirs');
	await other.sync();
	await one.put('x', 'mine');
	line.fault = ({ path }) => path.startsWith('/Docs?') ? {
		change: (answer) => ({ ...answer, results: answer.results.map((result) => ({ ...result, winner: null, winnerOmitted: true })) }),
	} : path.startsWith('/Docs/Get') ? { change: (answer) => ({ ...answer, documents: [] }) } : path.startsWith('/Docs/Pull') ? 'lost' : undefined;
	await assert.rejects(one.sync(), NoAnswer);
	assert.deepEqual([await unsentIds(one), await one.problems()], [['x'], []]);
	line.fault = () => undefined;
	await one.sync();
	assert.deepEqual(await contentOf(one), { x: 'theirs' });
});

test('a store that is full: an edit is refused, a page comes later', needsService, async () => {
	const name = anyName();
	const store = memoryStore();
	let isFull = false;
	const full = {
		...store, lock: (...args) => store.lock(...args), close: () => store.close(),
		transaction: (work) => store.transaction((transaction) => work({
			...transaction, put: async (record) => {
				if (isFull && !await transaction.get(record.key)) throw new DOMException('full', 'QuotaExceededError');
				return transaction.put(record);
			},
		})),
	};
	const [notes, other] = [open(name, { store: full }), open(name)];

	await other.putAll([['of other 1', 1], ['of other 2', 2]]);
	await other.sync();
	await notes.put('x', 1);
	isFull = true;
	await assert.rejects(notes.putAll([['x', 2], ['y', 2]]), { name: 'QuotaExceededError' });
	assert.deepEqual(await contentOf(notes), { x: 1 }, 'all or none');
	await assert.rejects(notes.sync(), { name: 'QuotaExceededError' });
	assert.deepEqual([await unsentIds(notes), (await notes.status()).error.name], [[], 'QuotaExceededError'], 'what was here has been sent');
	isFull = false;
	await notes.sync();
	assert.deepEqual(await contentOf(notes), { 'of other 1': 1, 'of other 2': 2, x: 1 });
});

test('watch(): what is there, what changes here and elsewhere, and that it has been sent', needsService, async () => {
	const name = anyName();
	const [notes, other] = [open(name), open(name)];
	const seen = [];

	await notes.put('before', 0);
	const end = notes.watch(({ id, body, deleted, unsent }) => seen.push([id, deleted ? 'deleted' : body, unsent]));

	await notes.put('x', 1);
	await notes.sync();
	await other.sync();
	await other.put('x', 2);
	await other.delete('before');
	await other.sync();
	await notes.sync();
	assert.deepEqual(seen.filter(([id]) => id === 'x').slice(-3), [['x', 1, true], ['x', 1, false], ['x', 2, false]]);
	assert.deepEqual(seen.filter(([id]) => id === 'before'), [['before', 0, true], ['before', 0, false], ['before', 'deleted', false]]);
	end();
	const { length } = seen;

	await notes.put('x', 3);
	assert.equal(seen.length, length);
});

test('a document that is refused is shown with the error', needsService, async () => {
	const notes = open(anyName());
	const seen = [];

	await notes.putAll([['good', 1], ['bad', { refuse: 'check' }]]);
	notes.watch(({ id, unsent, error }) => seen.push(`${id} ${unsent} ${error?.slice(0, 5)}`));
	await notes.sync();
	assert.deepEqual(seen.slice(-2).sort(), ['bad true 23514', 'good false undefined']);
	const { unsent, setAside } = await notes.status();

	assert.deepEqual([unsent, setAside], [0, 1]);
	await notes.delete('bad');
	await notes.sync();
	assert.equal((await notes.status()).setAside, 0);
});

test('syncs that are called together', needsService, async () => {
	const notes = overLine(anyName());
	const first = notes.sync();

	await notes.put('x', 1);
	await Promise.all([first, notes.sync(), notes.sync(), notes.sync()]);
	assert.deepEqual(await unsentIds(notes), []);
	assert(line.requests.filter(({ path }) => path.startsWith('/Docs/Pull')).length <= 2, 'those that wait are one');
});

test('a number beyond 2^53 comes and goes as it is', needsService, async () => {
	const name = anyName();
	const [notes, other] = [open(name), open(name)];

	await notes.put('x', { n: 1 });
	await notes.sync();
	await other.sync();
	assert.equal(await other.getText('x'), '{"n": 1}');
	assert.equal(await other.getText('nobody'), undefined);
});

// Conflicts

/** Two clients that have edited one document without knowing of each other; the other's is with the service already. */
async function conflict(onConflict, { ahead = 0, theirs = 'theirs', mine = 'mine' } = {}) {
	const name = anyName();
	const asked = [];
	const other = open(name);
	const notes = open(name, {
		clock: () => Date.now() + ahead,
		onConflict: (which) => {
			asked.push(which);
			return onConflict(which, notes);
		},
	});

	await other.put('x', 'first');
	await other.sync();
	await notes.sync();
	if (theirs === DELETE) await other.delete('x');
	else await other.put('x', theirs);
	await other.sync();
	if (mine === DELETE) await notes.delete('x');
	else await notes.put('x', mine);
	await notes.sync();
	await notes.sync();
	await other.sync();
	assert.deepEqual(await unsentIds(notes), []);
	assert.deepEqual(await contentOf(notes), await contentOf(other), 'both have the same');
	return { asked, body: await notes.get('x'), notes, other };
}

for (const ahead of [5000, -3_600_000]) {
	const when = ahead > 0 ? 'mine is the later' : 'theirs is the later';

	test(`a conflict, ${when}: merged`, needsService, async () => {
		const { asked, body } = await conflict(async ({ mine, theirs }) => `${mine.body} and ${theirs.body}`, { ahead });

		assert.equal(asked.length, 1);
		assert.deepEqual([asked[0].id, asked[0].mine.body, asked[0].theirs.body, asked[0].theirs.deleted], ['x', 'mine', 'theirs', false]);
		assert.equal(typeof asked[0].mine.clientVersion, 'bigint');
		assert.equal(body, 'mine and theirs');
	});

	test(`a conflict with a deletion, ${when}`, needsService, async () => {
		const { asked, body } = await conflict(({ mine }) => mine.body, { ahead, theirs: DELETE });

		assert.deepEqual([asked[0].theirs.deleted, asked[0].theirs.body, body], [true, undefined, 'mine']);
	});

	test(`a conflict, ${when}: both are given up`, needsService, async () => {
		assert.equal((await conflict(() => DELETE, { ahead })).body, undefined);
	});
}

test('a conflict that is left to the rule', needsService, async () => {
	assert.equal((await conflict(() => undefined, { ahead: 60_000 })).body, 'mine');
});

test('both did the same: no conflict', needsService, async () => {
	assert.deepEqual((await conflict(() => assert.fail(), { mine: 'theirs' })).asked, []);
});

test('a conflict that is decided while the document is edited: the edit is asked about', needsService, async () => {
	let isFirst = true;
	const { asked, body } = await conflict(async ({ mine, theirs }, notes) => {
		if (isFirst) {
			isFirst = false;
			await notes.put('x', 'edited meanwhile');
		}
		return `${mine.body} and ${theirs.body}`;
	}, { ahead: 5000 });

	assert.deepEqual(asked.map(({ mine }) => mine.body), ['mine', 'edited meanwhile']);
	assert.equal(body, 'edited meanwhile and theirs');
});

test('who decides conflicts throws: mine is kept, and asked about again', needsService, async () => {
	const name = anyName();
	const other = open(name);
	let fails = true;
	const notes = open(name, {
		clock: () => Date.now() - 3_600_000,
		onConflict: ({ mine, theirs }) => {
			if (fails) throw new Error('the dialog was closed');
			return `${mine.body} and ${theirs.body}`;
		},
	});

	await notes.put('x', 'mine');
	await other.put('x', 'theirs');
	await other.sync();
	await assert.rejects(notes.sync(), /the dialog was closed/);
	assert.deepEqual([await unsentIds(notes), (await notes.status()).unsent], [['x'], 1]);
	fails = false;
	await notes.sync();
	assert.equal(await notes.get('x'), 'mine and theirs');
});

test('an own edit whose answer was lost is no conflict', needsService, async () => {
	const notes = overLine(anyName(), { onConflict: () => assert.fail() });

	await notes.put('x', 1);
	line.fault = () => 'lost';
	await assert.rejects(notes.sync(), NoAnswer);
	await notes.put('x', 2);
	line.fault = () => undefined;
	await notes.sync();
	await notes.sync();
	assert.deepEqual([await notes.get('x'), await unsentIds(notes)], [2, []]);
});

test("a sync waits for onConflict's promise, and so do those behind it", needsService, async () => {
	const name = anyName();
	const other = open(name);
	let decide;
	const notes = overLine(name, { onConflict: () => new Promise((resolve) => { decide = resolve; }) });
	const ended = [];

	await other.put('x', 'theirs');
	await other.sync();
	await notes.put('x', 'mine');
	const syncs = [notes.sync().then(() => ended.push(1))];

	await until(() => decide);
	const { length } = line.requests;

	syncs.push(notes.sync().then(() => ended.push(2)));
	await notes.put('y', 1);
	await pause(200);
	assert.deepEqual([ended, line.requests.length], [[], length]);
	decide('both');
	await Promise.all(syncs);
	assert.deepEqual([ended, await notes.get('x'), await unsentIds(notes)], [[1, 2], 'both', []]);
});
