// scenarios.js - what each adapter must come through, written once; and its lines in README.md, which are run as they stand.
//
// A library's test makes devices. Where it can't come through, `cannot` says why, as the adapter's head does: the test is skipped.
// DOCSYNC_RANDOM_SEED: what the random one does.

import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import test from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { join } from 'node:path';
import { HttpTransport } from '../../src/transport.js';
import { BadLine, EXPIRED_TOKEN, TOKEN, URL_OF_SERVICE, anyName, needsService, open as openReference, pause } from '../service.js';

const HERE = fileURLToPath(new URL('.', import.meta.url));
const SEED = Number(process.env.DOCSYNC_RANDOM_SEED ?? Math.floor(Math.random() * 1_000_000));

/**
 * @typedef {object} Device a local store of the library's, replicated
 * @property {(id: string, text: string, more?: object) => Promise<unknown>} put creates or replaces {id, text, ...more}
 * @property {(id: string) => Promise<unknown>} delete
 * @property {() => Promise<Record<string, string>>} content the text of each document that is there, by id
 * @property {() => Promise<unknown> | void} sync sends and receives now. May end before that is done, and fail
 * @property {() => string[] | Promise<string[]>} refused ids of those that the app was told are refused
 * @property {() => Promise<any>} close ends it; returns its store, for the device that starts again
 *
 * @typedef {object} Library
 * @property {string} name as the adapter's file is called
 * @property {(options: { url: string, token: any, name: string, store?: any }) => Promise<Device>} open
 *	name: the collection's; store: what close() returned
 * @property {Record<string, string>} [cannot] scenarios that it can't come through, and why
 */

/** A device behind a line of its own, which a scenario can cut. */
class Place {
	static async make(library, name, options = {}) {
		const place = new Place();

		place.line = await BadLine.start();
		place.options = { url: place.line.url, token: TOKEN, name, ...options };
		place.library = library;
		place.device = await library.open(place.options);
		return place;
	}

	/** Ends the device, and begins it again with what it had stored. */
	async restart() {
		this.device = await this.library.open({ ...this.options, store: await this.device.close() });
	}

	offline() {
		return this.line.down();
	}

	online() {
		return this.line.up();
	}

	async sync() {
		await Promise.resolve(this.device.sync()).catch(() => {});
	}
}

/** What the scenario has made. */
class Played {
	places = [];
	name = anyName();

	/**
	 * @param {Library | null} library
	 * @param {(text: string) => void} [say] among what the test prints
	 */
	constructor(library, say = () => {}) {
		this.library = library;
		this.say = say;
	}

	async device(options) {
		const place = await Place.make(this.library, this.name, options);

		this.places.push(place);
		return place;
	}

	/** Syncs all, until the service and these devices have just this: {id: text}; or the same, if nothing is given. Returns it. */
	async meet(expected, places = this.places) {
		const end = Date.now() + 40_000;
		const reference = openReference(this.name);

		for (;;) {
			for (const place of this.places) await place.sync();
			await reference.sync();
			const contents = await Promise.all(places.map(({ device }) => device.content()));
			const service = Object.fromEntries((await reference.list()).map(({ id, body }) => [id, body.text]));

			try {
				for (const content of contents) assert.deepEqual(content, expected ?? service);
				assert.deepEqual(service, expected ?? service, 'the service');
				return service;
			} catch (error) {
				if (Date.now() > end) throw error;
			}
			await pause(50);
		}
	}

	/** What the service has: {clientVersion, body, ...}. */
	async stored(id) {
		const { documents } = await new HttpTransport(this.name, { url: URL_OF_SERVICE, token: TOKEN }).get('reader', null, [id]);

		return documents[0];
	}

	/** As another kind of client would. */
	async upload(documents) {
		const transport = new HttpTransport(this.name, { url: URL_OF_SERVICE, token: TOKEN });
		const { results } = await transport.upload('another', documents.map(({ id, clientVersion, text, body = { id, text } }) =>
			({ id, clientVersion, deleted: false, unsent: 0, body: JSON.stringify(body) })));

		assert(results.every(({ outcome }) => outcome === 'created' || outcome === 'updated'), 'uploaded');
	}

	async end() {
		for (const { device, line } of this.places) {
			await device.close();
			await line.down().catch(() => {});
		}
	}
}

/** Numbers in [0, 1), the same ones for a seed. */
function randomOf(seed) {
	let state = seed;

	return () => (state = (state * 69069 + 1) % 2 ** 32) / 2 ** 32;
}

/** Two devices that have a document, and are offline. */
async function apart(played, text = 'first') {
	const [a, b] = [await played.device(), await played.device()];

	await a.device.put('x', text);
	await played.meet({ x: text });
	await Promise.all([a.offline(), b.offline()]);
	return [a, b];
}

const isUpload = ({ method, body }) => method === 'POST' && body.includes('"documents":[{');

const isDownload = (request) => !isUpload(request) && /^\/Docs\/(Pull|Sync)/.test(request.path);

/** An answer with a part of it changed: for each of its collections, if it has several. */
const changed = (answer, change) => answer.collections ? { ...answer, collections: answer.collections.map(change) } : change(answer);

const SCENARIOS = {
	async 'edits offline meet'(played) {
		const [a, b] = await apart(played);

		await a.device.put('of a', 'a');
		await b.device.put('of b', 'b');
		await a.device.put('x', 'second');
		await a.sync();
		assert.deepEqual(await a.device.content(), { x: 'second', 'of a': 'a' }, 'offline, too');
		await Promise.all([a.online(), b.online()]);
		await played.meet({ x: 'second', 'of a': 'a', 'of b': 'b' });
		await b.device.put('x', 'third');
		await played.meet({ x: 'third', 'of a': 'a', 'of b': 'b' });
	},

	async 'two edits of one document: all end with the same'(played) {
		const [a, b] = await apart(played);

		await a.device.put('x', 'of a');
		await pause(5);
		await b.device.put('x', 'of b');
		await a.online();
		await played.meet({ x: 'of a' }, [a]);
		await b.online();
		const { x } = await played.meet();

		assert(['of a', 'of b'].includes(x), x);
	},

	async 'a deletion reaches the others'(played) {
		const [a, b] = [await played.device(), await played.device()];

		await a.device.put('x', 'x');
		await a.device.put('y', 'y');
		await played.meet({ x: 'x', y: 'y' });
		await b.device.delete('x');
		await played.meet({ y: 'y' });
		await a.device.put('x', 'back');
		await played.meet({ x: 'back', y: 'y' });
	},

	async 'a later edit beats a deletion'(played) {
		const [a, b] = await apart(played);

		await a.device.delete('x');
		await pause(5);
		await b.device.put('x', 'later');
		await a.online();
		await played.meet({}, [a]);
		await b.online();
		await played.meet({ x: 'later' });
	},

	async 'an answer is lost'(played) {
		const [a, b] = [await played.device(), await played.device()];
		let lost = 0;

		await b.sync();
		a.line.fault = (request) => isUpload(request) && lost++ < 1 ? 'lost' : undefined;
		await a.device.put('x', 'x');
		await played.meet({ x: 'x' });
		for (const end = Date.now() + 40_000; lost < 2; await pause(10)) {
			assert(Date.now() < end, 'it is sent again');
			await a.sync();
		}
		await played.meet({ x: 'x' });
	},

	async 'edited after an answer was lost: the edit is kept'(played) {
		const [a, b] = [await played.device(), await played.device()];
		let isLost = true;

		await b.device.put('x', '0');
		await played.meet({ x: '0' });
		a.line.fault = (request) => isUpload(request) && isLost ? 'lost' : undefined;
		await a.device.put('x', '1');
		for (; JSON.parse((await played.stored('x')).body).text !== '1'; await pause(10)) await a.sync();
		await a.device.put('x', '2');
		await a.sync();
		isLost = false;
		await played.meet({ x: '2' });
	},

	async "a document that is refused doesn't stop the others"(played) {
		const [a, b] = [await played.device(), await played.device()];

		await a.device.put('bad', 'bad', { refuse: 'check' });
		await a.device.put('good', 'good');
		await played.meet({ good: 'good' }, [b]);
		assert.deepEqual([...new Set(await a.device.refused())], ['bad'], 'the app is told');
		assert.deepEqual(await a.device.content(), { bad: 'bad', good: 'good' }, 'it is still here');
		await a.device.put('bad', 'mended', { refuse: 'no' });
		await played.meet({ bad: 'mended', good: 'good' });
	},

	async 'a hundred documents are refused'(played) {
		const [a, b] = [await played.device(), await played.device()];

		for (let n = 0; n < 100; n++) await a.device.put(`bad${n}`, 'bad', { refuse: 'check' });
		await a.device.put('good', 'good');
		await played.meet({ good: 'good' }, [b]);
		for (const end = Date.now() + 40_000; new Set(await a.device.refused()).size < 100; await pause(20)) {
			assert(Date.now() < end, 'the app is told of each');
			await a.sync();
		}
	},

	async 'three devices converge'(played) {
		played.say(`DOCSYNC_RANDOM_SEED=${SEED}`);
		const random = randomOf(SEED);
		const places = [await played.device(), await played.device(), await played.device()];
		const isOnline = places.map(() => true);

		for (let n = 0; n < 60; n++) {
			const i = Math.floor(random() * 3);
			const id = `d${Math.floor(random() * 5)}`;

			if (n % 10 === 9) {
				await (isOnline[i] ? places[i].offline() : places[i].online());
				isOnline[i] = !isOnline[i];
			}
			if (random() < 0.2) await places[i].device.delete(id);
			else await places[i].device.put(id, `${n}`);
			if (random() < 0.3) await places[i].sync();
		}
		for (const [i, place] of places.entries()) if (!isOnline[i]) await place.online();
		await played.meet();
		await places[0].device.put('last', 'last');
		assert.equal((await played.meet()).last, 'last');
	},

	async 'a version beyond 2^53'(played) {
		const [a, b] = [await played.device(), await played.device()];

		await played.upload([{ id: 'x', clientVersion: 9007199254740993n, text: 'theirs' }]);
		await played.meet({ x: 'theirs' });
		await b.device.put('x', 'mine');
		await played.meet({ x: 'mine' }, [a, b]);
		assert.equal((await played.stored('x')).clientVersion, 9007199254740994n);
	},

	async 'a token expires in the midst'(played) {
		let token = TOKEN;
		const refusals = [];
		const a = await played.device({
			token: ({ refused }) => {
				refusals.push(refused);
				if (refused) token = TOKEN;
				return token;
			},
		});

		await a.device.put('x', '1');
		await played.meet({ x: '1' });
		token = EXPIRED_TOKEN;
		await a.device.put('x', '2');
		await played.meet({ x: '2' });
		assert(refusals.includes(true), 'a new one was asked for');
	},

	async 'a token is refused until the app has a new one'(played) {
		let token = TOKEN;
		let asked = 0;
		const a = await played.device({
			token: () => {
				asked++;
				return token;
			},
		});

		await a.device.put('x', '1');
		await played.meet({ x: '1' });
		token = EXPIRED_TOKEN;
		await a.device.put('x', '2');
		for (const before = asked; asked < before + 4; await pause(10)) await a.sync();
		assert.deepEqual(await a.device.content(), { x: '2' }, 'nothing is dropped');
		token = TOKEN;
		await played.meet({ x: '2' });
	},

	async 'the service is down for a while'(played) {
		const [a, b] = [await played.device(), await played.device()];

		await a.device.put('x', '1');
		await played.meet({ x: '1' });
		await a.offline();
		await a.device.put('x', '2');
		for (let n = 0; n < 5; n++, await pause(50)) await a.sync();
		a.line.requests = [];
		a.line.fault = () => ({ status: 503, headers: { 'Retry-After': '1', 'Access-Control-Expose-Headers': 'Retry-After' }, body: '' });
		await a.online();
		await a.device.put('x', '3');
		await pause(500);
		assert(a.line.requests.length <= 2, `Retry-After is heeded: ${a.line.requests.length} requests`);
		a.line.fault = () => undefined;
		await played.meet({ x: '3' });
		await b.device.put('x', '4');
		await played.meet({ x: '4' });
	},

	async "a captive portal's page is no answer"(played) {
		const a = await played.device();

		a.line.fault = () => ({ status: 200, headers: { 'Content-Type': 'text/html' }, body: '<title>Welcome to the hotel</title>' });
		await a.device.put('x', '1');
		for (let n = 0; n < 3; n++, await pause(20)) await a.sync();
		assert.deepEqual(await a.device.content(), { x: '1' });
		a.line.fault = () => undefined;
		await played.meet({ x: '1' });
	},

	async 'a device that starts again goes on'(played) {
		const [a, b] = await apart(played);

		await a.device.put('x', 'second');
		await a.device.put('y', 'new');
		await a.restart();
		await a.online();
		await b.online();
		await played.meet({ x: 'second', y: 'new' });
		await a.restart();
		await a.device.put('x', 'third');
		await b.device.put('y', 'of b');
		await played.meet({ x: 'third', y: 'of b' });
	},

	async '2,500 documents'(played) {
		const documents = Array.from({ length: 2500 }, (_, n) => ({ id: `d${n}`, clientVersion: 1n, text: `${n}` }));

		await played.upload(documents);
		const a = await played.device();

		await played.meet(Object.fromEntries(documents.map(({ id, text }) => [id, text])));
		await a.device.put('d7', 'edited');
		assert.equal((await played.meet()).d7, 'edited');
	},

	async 'told to compare, it gets what it has missed'(played) {
		const [a, b] = [await played.device(), await played.device()];
		let isMissed = false;

		// Before anything is there: a download that has begun could bring it.
		a.line.fault = (request) => isDownload(request) ? {
			change: (answer) => changed(answer, (part) => {
				isMissed ||= part.documents.some(({ id }) => id === 'missed');
				return { ...part, documents: part.documents.filter(({ id }) => id !== 'missed') };
			}),
		} : undefined;
		await b.device.put('x', '1');
		await played.meet({ x: '1' });
		await b.device.put('missed', '2');
		await b.device.put('x', '3');
		await played.meet({ x: '3', missed: '2' }, [b]);
		for (; !isMissed || (await a.device.content()).x !== '3'; await pause(10)) await a.sync();
		assert.deepEqual(await a.device.content(), { x: '3' });
		let isTold = false;

		a.line.fault = (request) => isDownload(request) && !isTold ? {
			change: (answer) => changed(answer, (part) => {
				isTold = true;
				return { ...part, reconcile: true, lostAfter: null };
			}),
		} : undefined;
		await played.meet({ x: '3', missed: '2' });
	},

	async "bodies that are no objects don't stop the others"(played) {
		await played.upload([null, 'text', [1], 1].map((body, n) => ({ id: `no object ${n}`, clientVersion: 1n, body })));
		await played.upload([{ id: 'good', clientVersion: 1n, text: 'good' }]);
		const a = await played.device();

		for (const end = Date.now() + 40_000; (await a.device.content()).good !== 'good'; await pause(20)) {
			assert(Date.now() < end, 'it comes');
			await a.sync();
		}
		await a.device.put('no object 0', 'mine');
		for (const end = Date.now() + 40_000; JSON.parse((await played.stored('no object 0')).body)?.text !== 'mine'; await pause(20)) {
			assert(Date.now() < end, 'it is sent');
			await a.sync();
		}
	},

	async "what can't be stored doesn't stop the others"(played) {
		const a = await played.device();

		// Where the edit itself is refused, the better.
		await Promise.resolve(a.device.put('bad', 'U+0000: \0')).catch(() => {});
		await Promise.resolve(a.device.put('bad \0', 'U+0000 in the id')).catch(() => {});
		await a.device.put('good', 'good');
		const b = await played.device();

		await played.meet({ good: 'good' }, [b]);
	},
};

/**
 * Plays all scenarios, and README's lines.
 * @param {Library} library
 */
export function play(library) {
	const { name, cannot = {} } = library;

	for (const unknown of Object.keys(cannot)) assert(unknown in SCENARIOS, `no scenario has this name: ${unknown}`);
	for (const [scenario, run] of Object.entries(SCENARIOS)) {
		test(scenario, { ...needsService, ...scenario in cannot && { skip: cannot[scenario] } }, async (context) => {
			const played = new Played(library, (text) => context.diagnostic(text));

			try {
				await run(played);
			} finally {
				await played.end();
			}
		});
	}
	test("README's lines", needsService, () => runExample(name));
}

/**
 * The lines in README.md that use this adapter. They stand for a module, which has `url`, `token` and the collection's name from
 * the test, and stores a document "shopping" whose text is "bread".
 */
async function runExample(name) {
	const readme = await readFile(new URL('../../README.md', import.meta.url), 'utf8');
	const [[, code]] = [...readme.matchAll(/```js\n(.*?)```/gs)].filter(([, lines]) => lines.includes(`'docsync-client/adapters/${name}'`));
	const played = new Played(null);
	const directory = await mkdtemp(join(tmpdir(), 'docsync-example-'));
	const file = join(directory, 'example.mjs');

	await symlink(join(HERE, 'node_modules'), join(directory, 'node_modules'));
	await writeFile(file, `const url = ${JSON.stringify(URL_OF_SERVICE)}, token = ${JSON.stringify(TOKEN)};
${code.replaceAll("'notes'", JSON.stringify(played.name))}`);
	try {
		await import(pathToFileURL(file).href);
		for (const end = Date.now() + 40_000; (await played.meet()).shopping !== 'bread'; await pause(20)) {
			assert(Date.now() < end, 'the service has "shopping"');
		}
	} finally {
		await rm(directory, { recursive: true });
	}
}
