// listener.js - the one connection that listens to announcements, doc/live.md: for all streams of live.js.

import { within } from './database.js';
import { refuseConnection, refuseLive } from './errors.js';
import { log } from './log.js';

const LOOK_MS = 5000;			// how often it is asked whether it is still there, and how long it may take to answer
const FIRST_AGAIN_MS = 500;		// after a failure; doubled each time
const LAST_AGAIN_MS = 30_000;

// What it must be for announcements to come. The setting is text until the library is loaded, hence the cast.
const QUESTION = `SELECT coalesce(current_setting('docsync.announce', true)::boolean, false) AS "isOn", pg_is_in_recovery() AS "isStandby"`;

// Listens from the first call of ready() on. Calls heard(payload) for each announcement, began() each time that it has begun to listen, when
// announcements may have been missed, and ended(refusal) when nothing is announced any more.
export class Listener {
	#database;
	#hooks;
	#tried;
	#refusal = refuseConnection();
	#stop = new AbortController();

	constructor(database, hooks) {
		this.#database = database;
		this.#hooks = hooks;
		this.times = 0;				// how often it has begun to listen
	}

	// Resolves if it listens now, after the first attempt. Rejects with a refusal that says why it doesn't.
	async ready() {
		this.#tried ??= new Promise((resolve) => { this.#run(resolve); });
		await this.#tried;
		if (this.#refusal !== null) throw this.#refusal;
	}

	stop() {
		this.#stop.abort();
	}

	async #run(tried) {
		for (let failures = 0; !this.#stop.signal.aborted; failures++) {
			try {
				await this.#listen(() => {
					failures = 0;
					tried();
				});
			} catch (error) {
				this.#lost(error);
			}
			tried();
			await this.#sleep(Math.min(FIRST_AGAIN_MS * 2 ** Math.min(failures, 10), LAST_AGAIN_MS) * (0.5 + Math.random() / 2));
		}
	}

	// Listens until the connection is lost, or nothing is announced any more; throws why. What commits after LISTEN is heard.
	async #listen(listens) {
		const client = await this.#database.connectAlone();
		const lost = new Promise((_, reject) => {
			client.on('error', reject);
			client.on('end', () => reject(new Error('the connection was closed')));
		});

		lost.catch(() => {});
		client.on('notification', ({ payload }) => this.#hooks.heard(payload));
		try {
			const ask = async () => {
				const { rows: [{ isOn, isStandby }] } = await within(LOOK_MS, Promise.race([client.query(QUESTION), lost]));

				if (isStandby || !isOn) throw refuseLive(isStandby ? 'It is a standby.' : 'The setting docsync.announce is off.');
			};

			await ask();
			await within(LOOK_MS, Promise.race([client.query('LISTEN docsync'), lost]));
			this.#refusal = null;
			this.times++;
			log('info', 'listening to announcements', { server: client.at + 1 });
			listens();
			this.#hooks.began();
			while (!this.#stop.signal.aborted) {
				await Promise.race([this.#sleep(LOOK_MS), lost]);
				await ask();
			}
		} catch (error) {
			this.#database.leave(client.at, error);
			throw error;
		} finally {
			client.connection.stream.destroy();
		}
	}

	// Notes, and tells once, that it doesn't listen any more.
	#lost(error) {
		if (this.#stop.signal.aborted) return;
		const isOff = error.isOff === true;

		if (this.#refusal === null || isOff !== this.#refusal.isOff) log('warning', 'not listening to announcements', { error: isOff ? error.why : error.message });
		this.#refusal = isOff ? error : refuseConnection();
		if (isOff) this.#hooks.ended(error);
	}

	#sleep(ms) {
		const { signal } = this.#stop;

		return new Promise((resolve) => {
			const wake = () => {
				clearTimeout(timer);
				signal.removeEventListener('abort', wake);
				resolve();
			};
			const timer = setTimeout(wake, ms);

			if (signal.aborted) wake();
			else signal.addEventListener('abort', wake);
		});
	}
}
