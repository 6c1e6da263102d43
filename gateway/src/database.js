// database.js - connections to PostgreSQL, and which request gets one.

import pg from 'pg';
import { refuseConnection, refuseForNow } from './errors.js';
import { readHosts } from './hosts.js';
import { log } from './log.js';

const LIFETIME = 1800;			// seconds; a session keeps the library that it has loaded
const QUEUE_MAX = 1000;			// waiting requests
const HEALTH_MS = 1000;
const QUIET_MS = 1000;
const STOP_MS = 5000;			// for what still runs when the pool is closed: nobody waits for its answer any more

// Limits how many run at once, in total and for each key. Others queue, and are refused after waiting for waitMs. One that waits only
// because of its key doesn't hold up those behind it.
export class Turnstile {
	constructor(limit, limitPerKey, waitMs) {
		Object.assign(this, { limit, limitPerKey, waitMs, running: 0, byKey: new Map(), waiting: new Set() });
	}

	// Returns undefined, or a promise that resolves, when it is the caller's turn. After it leave() must be called.
	enter(key) {
		if (this.#admit(key)) return undefined;
		if (this.waiting.size >= QUEUE_MAX) throw refuseForNow();
		return new Promise((resolve, reject) => {
			const waiter = { key, resolve };

			waiter.timer = setTimeout(() => {
				this.waiting.delete(waiter);
				reject(refuseForNow());
			}, this.waitMs);
			this.waiting.add(waiter);
		});
	}

	leave(key) {
		const count = this.byKey.get(key) - 1;

		this.running--;
		if (count > 0) this.byKey.set(key, count);
		else this.byKey.delete(key);
		for (const waiter of this.waiting) {
			if (this.running >= this.limit) break;
			if (!this.#admit(waiter.key)) continue;
			clearTimeout(waiter.timer);
			this.waiting.delete(waiter);
			waiter.resolve();
		}
	}

	#admit(key) {
		const count = this.byKey.get(key) ?? 0;

		if (this.running >= this.limit || count >= this.limitPerKey) return false;
		this.running++;
		this.byKey.set(key, count + 1);
		return true;
	}
}

// A query for pg (which calls submit() and handle...()). The statement is prepared once for each connection. Its result is known to be one
// text, so PostgreSQL isn't asked to describe it.
class Call {
	constructor(text, values) {
		Object.assign(this, { name: 'docsync_call', text, values, answer: undefined });
		this.done = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
	}

	submit(connection) {
		connection.stream.cork();
		if (connection.parsedStatements[this.name] === undefined) connection.parse({ name: this.name, text: this.text });
		connection.bind({ statement: this.name, values: this.values });
		connection.execute({});
		connection.sync();
		connection.stream.uncork();
	}

	handleDataRow({ fields: [answer] }) {
		this.answer = answer;
	}

	handleCommandComplete() {}

	handleError(error) {
		this.reject(error);
	}

	handleReadyForQuery() {
		this.resolve(this.answer);
	}
}

// PostgreSQL hasn't answered in time.
class SilenceError extends Error {}

// A promise's result, or a SilenceError if it takes too long
export async function within(ms, promise) {
	let timer;
	const silence = new Promise((_, reject) => {
		timer = setTimeout(() => reject(new SilenceError(`no answer in ${ms / 1000} seconds`)), ms);
	});

	try {
		return await Promise.race([promise, silence]);
	} finally {
		clearTimeout(timer);
	}
}

// A database: call(key, arguments) runs a request, isReady() says whether it could. Of several servers (hosts.js) it uses one that accepts
// connections, and writes if mustWrite.
export class Database {
	constructor(config, uri, mustWrite) {
		const hosts = readHosts(uri, mustWrite);
		const isChecked = mustWrite && hosts.length > 1;

		Object.assign(this, { hosts, at: 0, quietUntil: hosts.map(() => 0), connections: new Map() });
		this.connectMs = config.poolWait * 1000;
		this.answerMs = config.answerWait * 1000;
		this.turnstile = new Turnstile(config.pool, config.poolPerCollection, this.connectMs);
		this.Client = clientOf(this);
		this.mustWrite = isChecked;
		this.pool = new pg.Pool({
			Client: this.Client,
			application_name: 'docsync-gateway',
			max: config.pool + 2,		// one for isReady(), one for askHealth()
			maxLifetimeSeconds: LIFETIME,
			connectionTimeoutMillis: this.connectMs,
			keepAlive: true,
			onConnect: isChecked ? (client) => within(this.connectMs, refuseReadOnly(client)) : undefined,
		});
		// The connections, and whether a request uses them
		this.pool.on('acquire', (client) => this.connections.set(client, true));
		this.pool.on('release', (_, client) => this.connections.set(client, false));
		this.pool.on('remove', (client) => this.connections.delete(client));
		// If a connection breaks while a request runs on it, there is the request's error, and also this event, which would end the process
		// if nobody listened.
		this.pool.on('connect', (client) => client.on('error', () => {}));
		this.pool.on('error', (error) => log('warning', 'a connection to PostgreSQL was lost', { error: error.message }));
		const name = `${pg.escapeIdentifier(config.schema)}.docsync_call`;

		this.statement = `SELECT ${name}($1, $2, $3, $4, $5, $6)`;
		this.healthQuestion = `SELECT ${pg.escapeIdentifier(config.schema)}.docsync_health()::text AS answer`;
		this.question = `SELECT has_function_privilege(${pg.escapeLiteral(`${name}(text, text, text, text, text, bytea)`)}, 'EXECUTE') AS may`;
	}

	// Runs a request in a transaction of its own, one at a time on a connection. Returns docsync_call()'s result. Throws a refusal if no
	// connection is available, or the error of PostgreSQL or of the connection, or of waiting for its answer: a statement has its own limit,
	// statement_timeout, which only a server that is there can enforce.
	async call(key, values) {
		const turn = this.turnstile.enter(key);

		if (turn !== undefined) await turn;
		try {
			return await this.#use(this.answerMs, (client) => client.query(new Call(this.statement, values)).done);
		} finally {
			this.turnstile.leave(key);
		}
	}

	// Runs a query on a connection, and returns that to the pool, or replaces it.
	async #use(ms, query) {
		const client = await this.#connect();

		try {
			const answer = await within(ms, query(client));

			client.release();
			return answer;
		} catch (error) {
			client.release(mustReconnect(error));
			this.leave(client.at, error);
			throw error;
		}
	}

	// Connects outside the pool: for a connection that is kept. Throws the error if that isn't possible; next time the next server is tried.
	async connectAlone() {
		const client = new this.Client({ application_name: 'docsync-gateway live', connectionTimeoutMillis: this.connectMs, keepAlive: true });

		client.on('error', () => {});
		try {
			await within(this.connectMs, client.connect());
			if (this.mustWrite) await within(this.connectMs, refuseReadOnly(client));
			return client;
		} catch (error) {
			client.connection.stream.destroy();
			this.#warn(client.at, error);
			this.#advance(client.at);
			throw error;
		}
	}

	// Leaves a server for the next one if the error is that it doesn't answer. The connection is destroyed, since nobody would confirm that it ends, and so are
	// idle ones, which would be as silent. Those in use have limits of their own.
	leave(at, error) {
		if (!(error instanceof SilenceError)) return;
		this.#warn(at, error);
		this.#advance(at);
		for (const [other, isInUse] of this.connections) {
			if (other.at === at && !isInUse) other.connection.stream.destroy();
		}
	}

	// Goes on to the server after a certain one, unless somebody else has.
	#advance(at) {
		if (this.at === at) this.at = (at + 1) % this.hosts.length;
	}

	// Gets a connection. If a server has none, the next one is tried, each once.
	async #connect() {
		for (let tries = 1; ; tries++) {
			const { at } = this;

			try {
				return await this.pool.connect();
			} catch (error) {
				this.#warn(at, error);
				this.#advance(at);
				if (tries >= this.hosts.length) throw refuseConnection();
			}
		}
	}

	// Warns at most once a second for each server: while it is down, every request notices.
	#warn(at, error) {
		const now = performance.now();

		if (now < this.quietUntil[at]) return;
		this.quietUntil[at] = now + QUIET_MS;
		log('warning', error instanceof SilenceError ? 'PostgreSQL doesn\'t answer' : 'no connection to PostgreSQL', { server: at + 1, error: error.message });
	}

	// Does PostgreSQL answer, and does docsync_call() exist, and may we call it?
	async isReady() {
		return (await this.#ask(this.question))?.may ?? false;
	}

	// The row that a question is answered with; undefined if it fails.
	async #ask(question) {
		try {
			const { rows: [row] } = await this.#use(this.connectMs, (client) => client.query(question));

			return row;
		} catch {
			return undefined;
		}
	}

	// What docsync_health() says, as JSON; undefined if it fails. Anybody may ask, so PostgreSQL is asked by one at a time, and once a second
	// at the most; the others are told the same.
	askHealth() {
		const now = performance.now();

		if (this.health === undefined || this.isHealthKnown && now - this.healthAsked >= HEALTH_MS) {
			Object.assign(this, { healthAsked: now, isHealthKnown: false });
			this.health = this.#ask(this.healthQuestion).then((row) => {
				this.isHealthKnown = true;
				return row?.answer;
			});
		}
		return this.health;
	}

	// Closes the connections, when what runs on them has ended, or soon.
	async stop() {
		try {
			await within(STOP_MS, this.pool.end());
		} catch {
			for (const { connection } of this.connections.keys()) connection.stream.destroy();
		}
	}
}

// A class of pg.Client that connects to a database's current server, and knows which that was
function clientOf(database) {
	return class extends pg.Client {
		constructor(options) {
			super({ ...options, connectionString: database.hosts[database.at] });
			this.at = database.at;
		}
	};
}

// Rejects a connection to a standby.
async function refuseReadOnly(client) {
	const { rows: [{ transaction_read_only: isReadOnly }] } = await client.query('SHOW transaction_read_only');

	if (isReadOnly === 'on') throw new Error('the server is read-only');
}

// Must the connection be replaced after an error? Errors of the statement leave it usable, except those of the session, and of a statement
// prepared for an earlier version of the function, and of a server that accepts no writes any more. (Severity doesn't help, since it is in
// the language of lc_messages.)
export function mustReconnect({ code }) {
	return code === undefined || /^(0A|08|25006|25P0[34]|26|28|57|58|XX)/.test(code);
}
