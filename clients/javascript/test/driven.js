// driven.js - a client as test/t/clients.py's Driven is one, by the same names: for driver.js, and for a page in Chromium.

import { Client } from '../src/client.js';
import { Document, EDIT } from '../src/document.js';
import { NoAnswer, Refused, memoryStore } from '../src/index.js';
import { checkId, toJson } from '../src/jsontext.js';
import { Several } from '../src/several.js';
import { HttpTransport } from '../src/transport.js';

const FOREVER = 10 ** 12;
const ALL = ['', '\x7f\x7f\x7f', 2 ** 31];		// entries

class ConnectionError extends Error {
	name = 'ConnectionError';
}

/** A way to the service that can be cut, and notes what went over it: texts such as "pull: a b, told". */
class Line {
	log = [];
	left = null;			// so many requests get through, and their answers
	answers = true;			// the one after them gets through, too, but not its answer
	documents = null;		// on a page, at the most
	meanwhile = null;		// called once, when an answer has come

	constructor(url, token, collection, readUrl) {
		this.token = token;
		this.collection = collection;
		this.use(url, readUrl);
	}

	use(url, readUrl) {
		this.transport = new HttpTransport(this.collection, { url, token: this.token });
		this.reader = readUrl ? new HttpTransport(this.collection, { url: readUrl, token: this.token }) : this.transport;
	}

	async #call(name, args, to = this.transport) {
		if (this.left !== null) {
			this.left--;
			if (this.left < 0 && this.answers) throw new ConnectionError('the line is cut');
		}
		let answer;

		try {
			answer = await to[name](...args);
		} catch (error) {
			if (error instanceof Refused) this.log.push(`${name}: ${error.status} ${error.code}`);
			throw error;
		}
		if (this.left !== null && this.left < 0) throw new ConnectionError('the answer is lost');
		this.log.push(`${name}: ${[...parts(name, answer, args)].filter(Boolean).join(', ')}`.trimEnd());
		const { meanwhile } = this;

		this.meanwhile = null;
		await meanwhile?.();
		return answer;
	}

	upload(...args) {
		return this.#call('upload', args);
	}

	pull(clientId, cursor, maxDocuments, digest, tombstones, primary) {
		return this.#call('pull', [clientId, cursor, Math.min(maxDocuments, this.documents ?? maxDocuments), digest, tombstones, primary],
			primary ? this.transport : this.reader);
	}

	reconcile(...args) {
		return this.#call('reconcile', args);
	}

	get(...args) {
		return this.#call('get', args);
	}
}

function* parts(name, answer, args) {
	if (name === 'upload') yield answer.results.map(({ id, outcome }) => `${id} ${outcome}`).join(' ');
	for (const list of [answer.documents, answer.rows]) if (list) yield list.map(({ id }) => id).join(' ');
	if (answer.behind) yield 'behind';
	if (answer.reconcile) yield 'told';
	const digest = args[3];

	if (name === 'pull' && digest && !answer.more && 'state' in answer) {
		yield answer.state === null ? 'no state' : answer.state.digest === digest ? 'equal' : answer.documents.length ? 'state' : 'different';
	}
}

/** All that a store has of collections, by their prefixes, to be put into another. */
export function contentOf(store, ...prefixes) {
	return store.transaction(async (transaction) => {
		const records = new Map((await transaction.list(...ALL)).map((record) => [record.key, record]));
		const values = new Map();

		for (const name of ['clientId', ...prefixes.flatMap((prefix) => [`${prefix}state`, `${prefix}sums`])]) values.set(name, await transaction.read(name));
		return { records, values };
	});
}

export function replace(store, { records, values }) {
	return store.transaction(async (transaction) => {
		for (const { key } of new Set(await transaction.list(...ALL))) await transaction.remove(key);
		for (const record of records.values()) await transaction.put(record);
		for (const [name, value] of values) await transaction.write(name, value);
	});
}

/** Numbers that are the same for the same seed. */
function chance(seed) {
	let state = [...seed].reduce((sum, character) => (sum * 31 + character.codePointAt(0)) % 2147483647, 1) || 1;

	return () => {
		state = state * 48271 % 2147483647;
		return state / 2147483647;
	};
}

/** A client that a test drives. */
export class Driven {
	ahead = 0;

	static async make(name, url, token, collection, options) {
		const driven = new Driven();
		const store = await options.store ?? memoryStore();

		store.identity = async () => name;
		driven.line = new Line(url, token, collection, options.read_url);
		// It compares when it is told to, or by compare(), and never twice for nothing.
		driven.client = new Client(collection, {
			transport: driven.line, store, clientId: options.client_id, clock: () => options.clock() + driven.ahead,
			random: chance(`${options.seed ?? ''} ${name}`), onConflict: null, changed: () => {},
			waits: { told: 0, others: 0, compare: FOREVER, again: 0, primary: 0, ...options.waits },
		});
		if (options.copyOf) await replace(store, await options.copyOf.#content());
		return driven;
	}

	#content() {
		return contentOf(this.client.local.store, this.client.local.prefix);
	}

	/** '' or what kept it from its end. */
	sync() {
		return attempt(() => this.client.sync());
	}

	upload() {
		return attempt(() => this.client.upload());
	}

	download() {
		return attempt(() => this.client.download());
	}

	put(id, body) {
		return this.client.edit([[id, toJson(body)]]);
	}

	put_all(documents) {
		return this.client.edit(Object.entries(documents).map(([id, body]) => [id, toJson(body)]));
	}

	put_many(number, body) {
		return this.client.edit(Array.from({ length: number }, (_, n) => [`d${n}`, toJson(body)]));
	}

	/** JSON, with what JSON.parse makes of it. */
	async put_text(id, text) {
		checkId(id);
		await this.put(id, JSON.parse(text));
	}

	/** With clientVersion 0, as clients do that know of no versions. */
	put_zero(id, body) {
		return this.client.local.transaction(async (transaction) => {
			const document = await transaction.find(id) ?? new Document(id);

			document.clientVersion = 0n;
			document.body = toJson(body);
			document.unsent = EDIT;
			document.lastUpdateUtc = document.clientId = null;
			await transaction.save(document);
		});
	}

	delete(id) {
		return this.client.edit([[id, null]]);
	}

	async get(id) {
		const document = await this.#find(id);

		return document?.body ? JSON.parse(document.body) : null;
	}

	async text(id) {
		return (await this.#find(id))?.body ?? null;
	}

	async count() {
		return (await this.#list('.')).length;
	}

	async version(id) {
		return (await this.#find(id)).clientVersion;
	}

	async version_text(id) {
		return String(await this.version(id));
	}

	#find(id) {
		return this.client.local.transaction((transaction) => transaction.find(id));
	}

	compare() {
		return this.client.compare();
	}

	later(milliseconds) {
		this.ahead += milliseconds;
	}

	use(url, readUrl) {
		this.line.use(url, readUrl);
	}

	cut(left = 0, answers = true) {
		this.line.left = left;
		this.line.answers = Boolean(answers);
	}

	mend() {
		this.line.left = null;
	}

	page(documents) {
		this.line.documents = documents;
	}

	edit_meanwhile(id, body) {
		this.line.meanwhile = () => this.put(id, body);
	}

	/** What has happened since it was last asked. */
	log() {
		return this.line.log.splice(0);
	}

	/** The live documents. */
	async content() {
		return Object.fromEntries((await this.#list('.')).map(({ id, clientVersion, body }) => [id, [clientVersion, JSON.parse(body)]]));
	}

	/** The live documents that are not refused: id -> clientVersion. */
	async held() {
		return Object.fromEntries((await this.#list('.')).filter(({ error }) => error === null).map(({ id, clientVersion }) => [id, clientVersion]));
	}

	async unsent() {
		return (await this.#list('u')).map(({ id }) => id).sort();
	}

	async problems() {
		return (await this.#list('e')).map(({ id }) => id);
	}

	#list(list) {
		return this.client.local.transaction((transaction) => transaction.all(list));
	}

	async status() {
		const { clientId, equalAt, compareAt, twin } = await this.client.state();

		return { clientId, equalAt, compareAt, twin, unsent: (await this.unsent()).length, setAside: (await this.problems()).length };
	}

	async back_up() {
		this.kept = await this.#content();
	}

	/** The store as it was when it was backed up; kept where it was, so it doesn't show. */
	restore() {
		return replace(this.client.local.store, this.kept);
	}
}

/** A transport that notes its calls, with the collections: "sync a b", "pull a". */
class Notes {
	constructor(transport, log) {
		this.transport = transport;
		this.log = log;
	}

	sync(clientId, parts, ...args) {
		this.log.push(['sync', ...parts.map(({ collection }) => collection)].join(' '));
		return this.transport.sync(clientId, parts, ...args);
	}

	on(collection) {
		const transport = this.transport.on(collection);

		return Object.fromEntries(['upload', 'pull', 'reconcile', 'get'].map((name) => [name, (...args) => {
			this.log.push(`${name} ${collection}`);
			return transport[name](...args);
		}]));
	}
}

/** A client that holds several collections, as clients.py's Joint. */
export class Joint {
	static async make(name, url, token, names, options) {
		const joint = new Joint();
		const store = await options.store ?? memoryStore();

		joint.calls = [];
		joint.transport = new Notes(new HttpTransport('', { url, token }), joint.calls);
		joint.clients = new Map(names.map((collection) => [collection, new Client(collection, {
			transport: joint.transport.on(collection), store, clock: options.clock, random: chance(name), onConflict: null, changed: () => {},
			waits: { told: 0, others: 0, compare: FOREVER, again: 0, primary: 0 },
		})]));
		return joint;
	}

	/** {collection: what it is refused for} */
	async sync(page = 1000) {
		const several = new Several(this.transport, this.clients);

		await several.run(1000, page);
		return Object.fromEntries([...several.errors].map(([name, error]) => [name, `${error.status} ${error.code}`]));
	}

	put(collection, id, body) {
		return this.clients.get(collection).edit([[id, toJson(body)]]);
	}

	put_all(collection, documents) {
		return this.clients.get(collection).edit(Object.entries(documents).map(([id, body]) => [id, toJson(body)]));
	}

	delete(collection, id) {
		return this.clients.get(collection).edit([[id, null]]);
	}

	async content() {
		const contents = await this.#lists('.');

		return Object.fromEntries(contents.map(([name, documents]) => [name, Object.fromEntries(documents.map(({ id, body }) => [id, JSON.parse(body)]))]));
	}

	async problems() {
		const problems = await this.#lists('e');

		return Object.fromEntries(problems.map(([name, documents]) => [name, documents.map(({ id }) => id)]).filter(([, ids]) => ids.length));
	}

	#lists(list) {
		return Promise.all([...this.clients].map(async ([name, { local }]) => [name, await local.transaction((transaction) => transaction.all(list))]));
	}

	async compare() {
		for (const client of this.clients.values()) await client.compare();
	}

	/** How many have been found to be the same as the service's, since it was last asked. */
	async equal() {
		let equal = 0;

		for (const { local } of this.clients.values()) {
			equal += Number(await local.transaction(async (transaction) => {
				const is = transaction.state.equalAt !== null;

				transaction.set({ equalAt: null });
				return is;
			}));
		}
		return equal;
	}

	/** Its cursor is another collection's. */
	async spoil_cursor(collection, other) {
		const { cursor } = await this.clients.get(other).state();

		await this.clients.get(collection).local.transaction(async (transaction) => transaction.set({ cursor }));
	}

	/** What has happened since it was last asked. */
	log() {
		return this.calls.splice(0);
	}
}

async function attempt(what) {
	try {
		await what();
	} catch (error) {
		if (error instanceof Refused) return `${error.status} ${error.code}`;
		if (error instanceof NoAnswer || error instanceof ConnectionError) return error.name;
		throw error;
	}
	return '';
}
