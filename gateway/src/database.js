// database.js - the connections to PostgreSQL, and who gets one.

import pg from 'pg';
import { refuseConnection, refuseForNow } from './errors.js';
import { log } from './log.js';

const LIFETIME = 1800;			// seconds; a session keeps the library that it has loaded
const QUEUE_MAX = 1000;			// requests that wait

// Lets at most so many run at once, and so many of one key; others wait in a line, for so long, and are refused then. Whoever waits for
// his key alone keeps nobody else from his turn.
export class Turnstile {
	constructor(limit, limitPerKey, waitMs) {
		Object.assign(this, { limit, limitPerKey, waitMs, running: 0, byKey: new Map(), waiting: new Set() });
	}

	// Resolves when it is one's turn; whoever has had it calls leave().
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

// The database: call(key, arguments) runs a request, isReady() says whether it could.
export class Database {
	constructor(config) {
		const schema = pg.escapeIdentifier(config.schema);

		this.turnstile = new Turnstile(config.pool, config.poolPerCollection, config.poolWait * 1000);
		this.pool = new pg.Pool({
			connectionString: config.databaseUri,
			application_name: 'docsync-gateway',
			max: config.pool + 1,		// one for isReady()
			maxLifetimeSeconds: LIFETIME,
			connectionTimeoutMillis: config.poolWait * 1000,
			keepAlive: true,
		});
		// While a request runs on it, a connection that breaks says so twice: by the request's error, and by this one, which would end
		// the process if nobody heard it.
		this.pool.on('connect', (client) => client.on('error', () => {}));
		this.pool.on('error', (error) => log('warning', 'a connection to PostgreSQL is lost', { error: error.message }));
		// Values come as they are: an answer is JSON, which nobody here reads.
		this.statement = {
			name: 'docsync_call',
			text: `SELECT status, response_headers, answer FROM ${schema}.docsync_call($1, $2, $3, $4, $5, $6)`,
			rowMode: 'array',
			types: { getTypeParser: () => (value) => value },
		};
	}

	// Runs a request in a transaction of its own, one at a time on a connection. Returns [status, headers, answer], texts or null.
	// Throws a refusal, if there is no connection to be had, or what PostgreSQL or the connection says.
	async call(key, values) {
		const turn = this.turnstile.enter(key);

		if (turn !== undefined) await turn;
		try {
			const client = await this.#connect();

			try {
				const { rows } = await client.query({ ...this.statement, values });

				client.release();
				return rows[0];
			} catch (error) {
				client.release(mustReconnect(error));
				throw error;
			}
		} finally {
			this.turnstile.leave(key);
		}
	}

	async #connect() {
		try {
			return await this.pool.connect();
		} catch (error) {
			log('warning', 'no connection to PostgreSQL', { error: error.message });
			throw refuseConnection();
		}
	}

	// Whether PostgreSQL answers.
	async isReady() {
		try {
			await this.pool.query('SELECT 1');
			return true;
		} catch {
			return false;
		}
	}

	async stop() {
		await this.pool.end();
	}
}

// An error of the statement's leaves the connection as good as it was; but for those of the session, and of a statement that was prepared
// when the function was another.
function mustReconnect(error) {
	return error.severity !== 'ERROR' || error.code === undefined || /^(0A|08|26|57|58|XX)/.test(error.code);
}
