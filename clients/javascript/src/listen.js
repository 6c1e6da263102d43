// listen.js - hears from the service when something has changed, where it says so (GET /Docs/Live): a stream of server-sent events.
//
// Nothing is lost by what isn't heard. Whenever a stream begins, and after each message, the schedule synchronises; and it still
// does so now and then while a stream is there, and every minute while there is none.

import { BadAnswer, Refused } from './errors.js';

const FIRST_AGAIN = 1000;			// milliseconds, after a stream that could not be had; doubled each time
const LAST_AGAIN = 300_000;
const STEADY = 60_000;				// a stream that lasts longer is no failure: it has had signs of life
const NONE_AGAIN = 3_600_000;		// where the service has none: it may have some day
const LAGS_AGAIN = [1000, 4000];	// after a sync that didn't bring what was announced
const MAX_COLLECTIONS = 60;			// in a stream; those beyond are polled
const MAX_STREAMS = 3;				// a browser, with all its tabs, may have six connections to a host

let streams = 0;					// of this page

/** Listens for some collections. */
export class Listening {
	/** Whether changes of all the collections are heard */
	isLive = false;
	#failures = 0;
	/** When to come back after a stream that breaks, as the service said: clients whose streams break together don't come together */
	#again = FIRST_AGAIN;
	/** @type {Map<string | null, { through: string, tries: number }>} what was announced, and isn't here */
	#missing = new Map();
	/** @type {Map<string, string>} the collections that aren't heard, with the last stamp known when the stream began */
	#unheard = new Map();
	/** @type {AbortController | null} ends the stream */
	#stream = null;
	/** @type {(() => void) | null} */
	#retry = null;

	/**
	 * @param {object} options
	 * @param {any} options.transport
	 * @param {string[]} options.names
	 * @param {(name: string) => { complete: string, known: string }} options.reached the stamps that a collection is complete to,
	 *	and of the last of its documents that is known
	 * @param {() => void} options.changed isLive has changed
	 * @param {() => number} options.random
	 */
	constructor({ transport, names, reached, changed, random }) {
		this.transport = transport;
		this.names = names.slice(0, MAX_COLLECTIONS);
		this.areAll = this.names.length === names.length;
		this.reached = reached;
		this.changed = changed;
		this.random = random;
	}

	/**
	 * Listens until it is aborted.
	 * @param {AbortSignal} signal
	 * @param {(wait: number) => void} due called when there may be something to be had, with the time until it should be asked for
	 */
	async run(signal, due) {
		let refused = false;

		if (!this.transport.listen) return;
		while (!signal.aborted) {
			let wait;
			const leave = await takePlace();

			if (signal.aborted) {
				leave?.();
				return;
			}
			if (!leave) {
				wait = LAST_AGAIN;
			} else {
				const stream = new AbortController();
				const end = () => stream.abort();
				const begun = performance.now();

				this.#stream = stream;
				signal.addEventListener('abort', end);
				try {
					const { reason, retry } = await this.transport.listen(this.names, (event) => this.#hear(event, due), stream.signal, refused);

					refused = reason === 'token';
					if (reason === 'rights' || reason === 'off') wait = LAST_AGAIN;
					else wait = reason ? retry : Math.max(retry, this.#waitAfterBreak(begun));
				} catch (error) {
					refused = false;
					wait = stream.signal.aborted ? FIRST_AGAIN : Math.max(this.#again, this.#waitAfterBreak(begun, error));
				} finally {
					leave();
					this.#stream = null;
					this.#unheard.clear();
					signal.removeEventListener('abort', end);
				}
			}
			this.#becomes(false);
			if (!signal.aborted) await this.#pause(wait, signal);
		}
	}

	/** Tries again at once, if it waits. */
	retry() {
		this.#retry?.();
	}

	/**
	 * After a sync. Returns how long to wait for the next one, since there must be more; Infinity if it isn't known that there is.
	 * Whoever sees no document of a collection hears nothing of it: with the first one, the stream is replaced.
	 */
	synced() {
		let wait = Infinity;

		for (const [name, stamp] of this.#unheard) {
			if (this.reached(name).known > stamp) this.#stream?.abort();
		}
		for (const [name, missing] of this.#missing) {
			if (this.reached(name ?? this.names[0]).known >= missing.through || missing.tries === LAGS_AGAIN.length) this.#missing.delete(name);
			else wait = Math.min(wait, LAGS_AGAIN[missing.tries++] * (0.5 + 0.5 * this.random()));
		}
		return wait;
	}

	#hear({ name, data }, due) {
		if (name === 'listening') {
			this.#unheard = new Map(this.names.filter((one) => !data.collections.includes(one)).map((one) => [one, this.reached(one).known]));
			this.#becomes(this.areAll && !this.#unheard.size);
			due(0);
		} else if (name === 'changed') {
			this.#told(data, due);
		} else if (name === 'retry') {
			this.#again = data;
		}
	}

	/** A collection has changed, or null: any of them. A server that lags may not have it yet. */
	#told({ collection, through, wait }, due) {
		if (collection !== null && through !== null) {
			if (!this.names.includes(collection) || this.reached(collection).complete >= through) return;
			this.#missing.set(collection, { through, tries: 0 });
		}
		due(wait * this.random());
	}

	#becomes(isLive) {
		if (isLive === this.isLive) return;
		this.isLive = isLive;
		this.changed();
	}

	/**
	 * After a stream that something in between has cut: if it cut all of them soon, each would cost the service a sync, too.
	 * @param {number} begun
	 * @param {any} error
	 */
	#waitAfterBreak(begun, error = {}) {
		if (performance.now() - begun > STEADY) this.#failures = 0;
		return this.#waitAfter(error);
	}

	#waitAfter(error) {
		if (error instanceof BadAnswer || error instanceof Refused && (error.status === 404 || error.status === 405)) return NONE_AGAIN;
		const wait = Math.min(FIRST_AGAIN * 2 ** Math.min(this.#failures++, 20), LAST_AGAIN);

		return Math.max(wait, error.retryAfter ?? 0) * (0.75 + 0.5 * this.random());
	}

	#pause(milliseconds, signal) {
		return new Promise((resolve) => {
			const end = () => {
				clearTimeout(timer);
				signal.removeEventListener('abort', end);
				this.#retry = null;
				resolve(undefined);
			};
			const timer = setTimeout(end, Math.min(milliseconds, 2 ** 31 - 1));

			signal.addEventListener('abort', end);
			this.#retry = end;
		});
	}
}

/**
 * Takes one of the places for streams, of which the tabs of a browser have a few together, so that connections are left for requests.
 * @returns {Promise<(() => void) | null>} what gives it back; null: there is none
 */
async function takePlace() {
	const locks = globalThis.navigator?.locks;

	if (globalThis.process?.versions?.node) return () => {};
	if (!locks) return streams < MAX_STREAMS && ++streams ? () => { streams--; } : null;
	for (let n = 1; n <= MAX_STREAMS; n++) {
		const leave = await new Promise((resolve) => {
			locks.request(`docsync stream ${n}`, { ifAvailable: true }, (lock) => lock ? new Promise(resolve) : resolve(null)).catch(() => resolve(null));
		});

		if (leave) return leave;
	}
	return null;
}

/**
 * Reads a stream to its end, and calls hear() with each event.
 * @param {ReadableStream<Uint8Array>} body
 * @param {(event: { name: string, data: any }) => void} hear
 * @param {() => void} alive called whenever something has come
 * @returns {Promise<{ reason: string, retry: number }>} why it has ended, '' if that wasn't said, and when to come back
 */
export async function readStream(body, hear, alive) {
	const reader = body.getReader();
	const decoder = new TextDecoder();
	const end = { reason: '', retry: FIRST_AGAIN };
	let text = '';

	for (;;) {
		const { value, done } = await reader.read();

		if (done) return end;
		alive();
		text += decoder.decode(value, { stream: true });
		for (let at = text.indexOf('\n\n'); at >= 0; at = text.indexOf('\n\n')) {
			const { event, data, retry } = fieldsOf(text.slice(0, at));

			text = text.slice(at + 2);
			if (/^\d+$/.test(retry)) {
				end.retry = Number(retry);
				hear({ name: 'retry', data: end.retry });
			}
			if (event === 'end') end.reason = String(JSON.parse(data).reason);
			else if (event) hear({ name: event, data: JSON.parse(data) });
		}
	}
}

/** @returns {Record<string, string>} */
function fieldsOf(text) {
	return Object.fromEntries(text.split('\n').filter((line) => line && !line.startsWith(':')).map((line) => {
		const [, name, value] = /** @type {string[]} */ (/^([^:]*):? ?(.*)$/.exec(line));

		return [name, value];
	}));
}
