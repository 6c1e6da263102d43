// Several collections, synchronised in one request: what happens to one keeps none of the others.

import assert from 'node:assert/strict';
import test, { after, before, beforeEach } from 'node:test';
import { BadAnswer, Collections, NoAnswer, Refused, memoryStore } from '../src/index.js';
import { contentOf as contentOfStore, replace } from './driven.js';
import { BadLine, TOKEN, WAITS, anyName, contentOf, needsService, open, until } from './service.js';

/** @type {BadLine} */
let line;

before(async () => { line = await BadLine.start(); });
after(() => line.down());
beforeEach(() => {
	line.fault = () => undefined;
	line.requests = [];
});

/** A device: collections over the line, by the short names that a test has for them. */
class Device {
	constructor(names, options = {}) {
		this.names = Object.values(names);
		this.all = new Collections(this.names, { url: line.url, token: TOKEN, store: memoryStore(), waits: WAITS, ...options });
		for (const [short, name] of Object.entries(names)) this[short] = this.all.get(name);
	}

	sync() {
		return this.all.sync();
	}

	/** For each that had one: its name and the error's. */
	async errors() {
		return Object.fromEntries([...await this.sync()].map(([name, error]) => [name, error.status ?? error.name]));
	}

	async contents() {
		return Promise.all(this.names.map((name) => contentOf(this.all.get(name))));
	}

	async unsent() {
		return Promise.all(this.names.map(async (name) => (await this.all.get(name).unsent()).map(({ id }) => id)));
	}

	async compare() {
		for (const name of this.names) await this.all.get(name).compare();
	}

	/** How many are the same as what the service has. */
	async equal() {
		return (await Promise.all(this.names.map((name) => this.all.get(name).status()))).filter(({ equalAt }) => equalAt !== null).length;
	}
}

const threeNames = () => ({ a: anyName(), b: anyName(), c: anyName() });

/** Since it was last asked: which requests there were, those for several by the collections' short names. */
function calls(names) {
	const short = Object.fromEntries(Object.entries(names).map(([key, name]) => [name, key]));

	return line.requests.splice(0).map(({ path, body }) => {
		const { collections, collection } = body ? JSON.parse(body) : {};
		const of = collections?.map((part) => short[part.collection]).join('') ?? short[collection ?? new URL(path, line.url).searchParams.get('collection')];

		return `${path.replace(/^\/Docs\/?|\?.*/g, '') || 'Upload'} ${of}`;
	});
}

test('one request for all, each way', needsService, async () => {
	const names = threeNames();
	const [one, two] = [new Device(names), new Device(names)];

	for (const name of ['a', 'b', 'c']) await one[name].put('x', `of ${name}`);
	assert.equal((await one.sync()).size, 0);
	assert.deepEqual(calls(names), ['Sync abc']);
	assert.deepEqual(await one.unsent(), [[], [], []]);
	await two.sync();
	assert.deepEqual(calls(names), ['Sync abc']);
	assert.deepEqual(await two.contents(), [{ x: 'of a' }, { x: 'of b' }, { x: 'of c' }]);

	// Offline edits in each, of the same document; the last wins
	for (const name of ['a', 'b', 'c']) {
		await two[name].put('both', 'older');
		await one[name].put('both', 'newer');
	}
	await one.b.delete('x');
	for (const device of [one, two, one]) await device.sync();
	assert.deepEqual(await one.contents(), await two.contents());
	assert.deepEqual(await two.contents(), [{ x: 'of a', both: 'newer' }, { both: 'newer' }, { x: 'of c', both: 'newer' }]);
	assert(calls(names).every((call) => call === 'Sync abc'));
	const ids = await Promise.all([one.a, one.b, one.c].map((collection) => collection.status()));

	assert.equal(new Set(ids.map(({ clientId }) => clientId)).size, 1, 'one clientId');
});

test('a page is for all, and who has more goes on', needsService, async () => {
	const names = threeNames();
	const [one, two] = [new Device(names), new Device(names)];

	await one.a.putAll(Array.from({ length: 2500 }, (_, n) => [`d${n}`, n]));
	await one.b.put('x', 1);
	await one.sync();
	assert.deepEqual(calls(names).slice(0, 3), ['Sync abc', 'Sync ab', 'Sync ab'], '1,000 documents of all in a request');
	await two.sync();
	assert.deepEqual(calls(names).slice(0, 2), ['Sync abc', 'Sync a']);
	assert.deepEqual(await two.contents(), await one.contents());
});

test('more than sixty collections', needsService, async () => {
	const names = Object.fromEntries(Array.from({ length: 62 }, (_, n) => [`c${n}`, anyName()]));
	const [one, two] = [new Device(names), new Device(names)];

	for (const name of Object.keys(names)) await one[name].put('x', name);
	await one.sync();
	await two.sync();
	assert.deepEqual(line.requests.map(({ body }) => JSON.parse(body).collections.length), [60, 2, 60, 2]);
	assert.deepEqual(await two.contents(), await one.contents());
});

test('a collection that is refused stops no other, and is told apart', needsService, async () => {
	const names = threeNames();
	const [one, other] = [new Device(names), open(names.a)];
	const refusal = { code: '42501', message: 'permission denied for table document', details: null, hint: null };

	await other.put('theirs', 1);
	await other.sync();
	for (const name of ['a', 'b', 'c']) await one[name].put('x', 1);
	// As a service answers who may not write to one of them
	line.fault = ({ path, body }) => {
		const { collections, collection } = body ? JSON.parse(body) : {};

		if (collection === names.b && path.startsWith('/Docs?')) return { status: 403, body: JSON.stringify(refusal) };
		if (!collections) return undefined;
		return { change: (answer) => ({ ...answer, collections: answer.collections.map((part) => part.collection === names.b ? { collection: names.b, error: refusal } : part) }) };
	};
	const errors = await one.sync();

	assert.deepEqual([[...errors.keys()], errors.get(names.b) instanceof Refused, errors.get(names.b).status], [[names.b], true, 403]);
	assert.deepEqual(calls(names), ['Sync abc', 'Upload b', 'Pull b'], 'by itself it still gets what others changed');
	assert.deepEqual(await one.unsent(), [[], ['x'], []]);
	assert.deepEqual((await one.contents())[0], { theirs: 1, x: 1 });
	const states = await Promise.all([one.a, one.b, one.c].map((collection) => collection.status()));

	assert.deepEqual(states.map(({ error }) => error?.code ?? null), [null, '42501', null]);
	assert.deepEqual(states.map(({ syncedAt }) => syncedAt !== null), [true, false, true]);
	line.fault = () => undefined;
	assert.deepEqual([await one.errors(), await one.unsent()], [{}, [[], [], []]]);
});

test("a cursor that is another collection's: that one is refused, the others go on", needsService, async () => {
	const names = threeNames();
	const store = memoryStore();
	const [one, other] = [new Device(names, { store }), open(names.c)];
	const state = (name) => `${encodeURIComponent(name)} state`;

	await one.sync();
	await store.transaction(async (transaction) => {
		const { cursor } = await transaction.read(state(names.a));

		await transaction.write(state(names.b), { ...await transaction.read(state(names.b)), cursor });
	});
	for (const name of ['a', 'b', 'c']) await one[name].put('x', name);
	assert.deepEqual(await one.errors(), { [names.b]: 400 });
	await other.sync();
	assert.deepEqual([await contentOf(other), await one.unsent()], [{ x: 'c' }, [[], [], []]], 'its upload is there');
});

test('a document that is refused is set aside, in one request', needsService, async () => {
	const names = threeNames();
	const one = new Device(names);

	for (const name of ['a', 'b', 'c']) await one[name].put('fine', 1);
	await one.b.put('bad', { refuse: 'check' });
	assert.equal((await one.sync()).size, 0);
	assert.deepEqual((await one.b.problems()).map(({ id, error }) => [id, error.slice(0, 5)]), [['bad', '23514']]);
	assert.deepEqual(calls(names), ['Sync abc']);
	const other = open(names.b);

	await other.sync();
	assert.deepEqual(await contentOf(other), { fine: 1 });
});

test('so many are refused that others are not tried: those are sent again, at once', needsService, async () => {
	// The service begins with the first in the order of their names.
	const [a, b, c] = [anyName(), anyName(), anyName()].sort();
	const names = { a, b, c };
	const one = new Device(names);

	await one.a.putAll(Array.from({ length: 40 }, (_, n) => [`bad ${n}`, { refuse: 'check' }]));
	await one.b.put('x', 1);
	await one.c.put('x', 1);
	assert.deepEqual(await one.errors(), {});
	assert.deepEqual((await one.unsent()).slice(1), [[], []]);
	await one.sync();
	assert.equal((await one.a.problems()).length, 40);
	for (const name of [names.b, names.c]) {
		const other = open(name);

		await other.sync();
		assert.deepEqual(await contentOf(other), { x: 1 });
	}
});

test('an answer that is lost: all is sent again', needsService, async () => {
	const names = threeNames();
	const [one, two] = [new Device(names), new Device(names)];

	for (const name of ['a', 'b', 'c']) await one[name].put('x', name);
	line.fault = () => 'lost';
	await assert.rejects(one.sync(), NoAnswer);
	assert.deepEqual(await one.unsent(), [['x'], ['x'], ['x']]);
	for (const name of ['a', 'b', 'c']) assert((await one[name].status()).error instanceof NoAnswer);
	line.fault = () => undefined;
	await one.sync();
	await two.sync();
	assert.deepEqual(await two.contents(), await one.contents());
	assert.equal((await one.a.status()).error, null);
});

test("an answer that isn't the service's: nothing of it is taken", needsService, async () => {
	const names = threeNames();
	const [one, other] = [new Device(names), open(names.c)];

	await other.put('theirs', 1);
	await other.sync();
	await one.a.put('x', 1);
	for (const change of [
		(parts) => parts.slice(0, -1), (parts) => [...parts].reverse(), (parts) => [...parts.slice(0, 2), parts[0]], () => null,
		(parts) => parts.map(({ cursor, ...part }) => part), (parts) => parts.map((part) => ({ ...part, documents: null })), (parts) => [null, ...parts.slice(1)],
	]) {
		line.fault = ({ path }) => path.startsWith('/Docs/Sync') ? { change: (answer) => ({ ...answer, collections: change(answer.collections) }) } : undefined;
		await assert.rejects(one.sync(), BadAnswer, change.toString());
		assert.deepEqual([await one.unsent(), await one.contents()], [[['x'], [], []], [{ x: 1 }, {}, {}]], change.toString());
	}
	line.fault = () => undefined;
	await one.sync();
	assert.deepEqual(await one.contents(), [{ x: 1 }, {}, { theirs: 1 }]);
});

test('a service that does not know such requests: each by itself', needsService, async () => {
	const names = threeNames();
	const [one, two] = [new Device(names), new Device(names)];

	line.fault = ({ path, body }) => path.startsWith('/Docs/Sync') && body.includes('"collections"')
		? { status: 400, body: '{"code": "22023", "message": "unknown key \\"collections\\"", "details": null}' } : undefined;
	for (const name of ['a', 'b', 'c']) await one[name].put('x', name);
	assert.deepEqual([await one.errors(), await two.errors()], [{}, {}]);
	assert.deepEqual(await two.contents(), [{ x: 'a' }, { x: 'b' }, { x: 'c' }]);
});

test('the service asks to be left alone: nobody goes on by itself', needsService, async () => {
	const names = threeNames();
	const one = new Device(names);

	await one.a.put('x', 1);
	line.fault = () => ({ status: 503, headers: { 'Retry-After': '5' }, body: '' });
	await assert.rejects(one.sync(), (error) => error instanceof Refused && error.retryAfter === 5000);
	assert.deepEqual(calls(names), ['Sync abc']);
});

test('winners that are left out are fetched; where they cannot be had, the others go on', needsService, async () => {
	const names = threeNames();
	const [one, two] = [new Device(names, { clock: () => 1000 }), new Device(names)];

	for (const name of ['a', 'b', 'c']) {
		await two[name].put('x', 'theirs');
		await one[name].put('x', 'mine');
	}
	await two.sync();
	line.fault = ({ path, body }) => path.startsWith('/Docs/Get') && JSON.parse(body).collection === names.b
		? { status: 403, body: '{"code": "42501", "message": "permission denied", "details": null}' }
		: path.startsWith('/Docs/Sync') ? { change: ({ collections, ...answer }) => ({ ...answer, collections: collections.map((part) => part.error ? part : {
			...part, documents: [], results: part.results.map((result) => ({ ...result, winner: null, winnerOmitted: true })),
		}) }) } : undefined;
	assert.deepEqual(await one.errors(), {}, 'by itself it is told the winner');
	assert.deepEqual(await one.contents(), [{ x: 'theirs' }, { x: 'theirs' }, { x: 'theirs' }]);
});

test('compared when it is time, though there is something to send', needsService, async () => {
	const names = threeNames();
	const one = new Device(names);

	await one.sync();
	for (const name of ['a', 'b', 'c']) await one[name].put('x', 1);
	await one.compare();
	line.requests = [];
	await one.sync();
	assert.deepEqual(calls(names), ['Sync abc', 'Sync abc']);
	assert.equal(await one.equal(), 3);
});

test('a conflict in one of them is decided, and sent', needsService, async () => {
	const names = threeNames();
	const asked = [];
	const [one, two] = [new Device(names, {
		onConflict: ({ id, mine, theirs }) => {
			asked.push(id);
			return `${mine.body} and ${theirs.body}`;
		},
	}), new Device(names)];

	await two.b.put('x', 'theirs');
	await two.sync();
	await one.b.put('x', 'mine');
	await one.a.put('y', 1);
	assert.deepEqual(await one.errors(), {});
	await two.sync();
	assert.deepEqual([asked, await two.contents()], [['x'], [{ y: 1 }, { x: 'mine and theirs' }, {}]]);
	assert.deepEqual(await one.contents(), await two.contents());
});

test('who decides conflicts throws: the others have come to their end', needsService, async () => {
	const names = threeNames();
	const [one, two] = [new Device(names, { onConflict: () => { throw new Error('the dialog was closed'); } }), new Device(names)];

	await two.a.put('x', 'theirs');
	await two.sync();
	await one.a.put('x', 'mine');
	await one.c.put('y', 1);
	assert.deepEqual(await one.errors(), { [names.a]: 'Error' });
	assert.deepEqual(await one.unsent(), [['x'], [], []]);
});

test('a store that is full: what one collection is sent keeps no other from being told', needsService, async () => {
	const names = threeNames();
	const store = memoryStore();
	const full = {
		lock: (...args) => store.lock(...args), close: () => store.close(),
		transaction: (work) => store.transaction((transaction) => work({
			...transaction, put: async (record) => {
				if (record.id === 'too large') throw new DOMException('full', 'QuotaExceededError');
				return transaction.put(record);
			},
		})),
	};
	const [one, two] = [new Device(names, { store: full }), new Device(names)];

	await two.a.put('too large', 1);
	await two.b.put('small', 1);
	await two.sync();
	for (const name of ['a', 'b', 'c']) await one[name].put('x', 1);
	assert.deepEqual(await one.errors(), { [names.a]: 'QuotaExceededError' });
	assert.deepEqual(await one.unsent(), [[], [], []]);
	assert.deepEqual(await one.contents(), [{ x: 1 }, { x: 1, small: 1 }, { x: 1 }]);
});

test('a store that was copied: all of its collections take one new name', needsService, async () => {
	const names = threeNames();
	const prefixes = Object.values(names).map((name) => `${encodeURIComponent(name)} `);
	const stores = [memoryStore(), memoryStore()];
	const one = new Device(names, { store: stores[0] });
	const clientIds = async (device) => (await Promise.all([device.a, device.b, device.c].map((collection) => collection.status()))).map(({ clientId }) => clientId);

	for (const name of ['a', 'b', 'c']) await one[name].put('x', name);
	await one.sync();
	await replace(stores[1], await contentOfStore(stores[0], ...prefixes));
	const copy = new Device(names, { store: stores[1] });
	const [before] = await clientIds(one);

	assert.deepEqual(await clientIds(copy), [before, before, before]);
	await copy.b.put('x', 'of the copy');
	await copy.sync();
	await one.compare();
	assert.deepEqual(await one.errors(), {});
	const after = await clientIds(one);

	assert.equal(new Set(after).size, 1);
	assert.notEqual(after[0], before);
	for (const device of [one, copy, one]) await device.sync();
	assert.deepEqual(await one.contents(), [{ x: 'a' }, { x: 'of the copy' }, { x: 'c' }]);
	assert.deepEqual(await copy.contents(), await one.contents());
	line.requests = [];
	await one.sync();
	assert.deepEqual(calls(names), ['Sync abc']);
});

test('edits at random over a line that fails at random: in the end all have the same', needsService, async () => {
	const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
	let state = seed;
	const random = (below) => Math.floor((state = (state * 48271 + 11) % 2147483647) / 2147483647 * below);
	const names = threeNames();
	const devices = [new Device(names), new Device(names), new Device(names)];

	line.fault = () => [undefined, undefined, undefined, 'lost', 'cut', { status: 502, body: '' }][random(6)];
	for (let step = 0; step < 150; step++) {
		const device = devices[random(3)];
		const collection = device['abc'[random(3)]];

		if (random(3) === 0) await device.sync().catch(() => {});
		else if (random(5) === 0) await collection.delete(`d${random(6)}`);
		else await collection.put(`d${random(6)}`, random(20) ? step : { refuse: 'check' });
	}
	line.fault = () => undefined;
	for (let n = 0; n < 3; n++) for (const device of devices) assert.deepEqual(await device.errors(), {}, `SEED=${seed}`);
	// What is refused is here alone, until it is edited.
	for (const device of devices) for (const name of ['a', 'b', 'c']) for (const { id } of await device[name].problems()) await device[name].put(id, `mended by ${devices.indexOf(device)}`);
	for (let n = 0; n < 3; n++) for (const device of devices) assert.deepEqual(await device.errors(), {}, `SEED=${seed}`);
	for (const device of devices) {
		await device.compare();
		await device.sync();
		assert.deepEqual([await device.contents(), await device.unsent(), await device.equal()], [await devices[0].contents(), [[], [], []], 3], `SEED=${seed}`);
	}
});

test('start(): edits of each are sent soon, together, until stop()', needsService, async () => {
	const names = threeNames();
	const one = new Device(names);

	one.all.start();
	await until(() => line.requests.length > 0);
	await Promise.all(['a', 'b', 'c'].map((name) => one[name].put('x', name)));
	await until(async () => !(await one.unsent()).flat().length);
	assert(calls(names).every((call) => call === 'Sync abc'));
	const other = open(names.b);

	await other.sync();
	assert.deepEqual(await contentOf(other), { x: 'b' });
	await one.all.close();
});

test('collections that are none of these, and without a service', () => {
	const all = new Collections(['a', 'b', 'a'], { url: 'http://127.0.0.1:9', store: memoryStore() });

	assert.throws(() => all.get('c'), TypeError);
	assert.throws(() => new Collections(['a'], /** @type {any} */ ({ store: memoryStore() })), TypeError);
	assert.throws(() => new Collections(['a'], /** @type {any} */ ({ url: 'http://127.0.0.1:9' })), TypeError);
});
