// schedule.js - when it synchronises by itself: soon after edits, when the page comes online or to the front, when the service
// says that something has changed, and every minute, or where the service says so, every five minutes;
// after a failure later and later, with a random part, and never before the service's Retry-After.

const EVERY = 60_000;
const SELDOM = 5;				// times as long, while changes are heard
const SOON = 100;				// milliseconds after an edit, so that several go together
const FIRST_AGAIN = 1000;
const LAST_AGAIN = 300_000;
const EDITED_AGAIN = 10_000;		// after an edit, where it failed before

/** Work that is done one at a time: all calls made while it runs become one, which begins when that has ended. */
export class OneAtATime {
	#work;
	/** @type {Promise<any> | null} */
	#running = null;
	/** @type {Promise<any> | null} */
	#next = null;

	/** @param {() => Promise<any>} work */
	constructor(work) {
		this.#work = work;
	}

	/** @returns {Promise<any>} */
	run() {
		if (!this.#running) {
			this.#running = this.#work().finally(() => { this.#running = null; });
			return this.#running;
		}
		this.#next ??= this.#running.catch(() => {}).then(() => {
			this.#next = null;
			return this.run();
		});
		return this.#next;
	}

	/** Resolves when nothing is running any more. */
	async ended() {
		while (this.#running) await (this.#next ?? this.#running).catch(() => {});
	}
}

/**
 * A sync requested by the user or the app; the schedule takes its result into account.
 * @param {OneAtATime} syncs
 * @param {Schedule} schedule
 */
export function byHand(syncs, schedule) {
	const sync = syncs.run();

	sync.then(() => schedule.tried(null), (error) => schedule.tried(error));
	return sync;
}

/** One of the tabs or processes that have a store open does the work, the others wait to replace it. */
export class Schedule {
	/** @type {AbortController | null} */
	#running = null;
	/** @type {(() => void)[]} */
	#endings = [];
	#dueAt = 0;
	#notBefore = 0;			// as the service said
	#failures = 0;
	#wake = () => {};

	/**
	 * @param {object} options
	 * @param {() => Promise<void>} options.sync
	 * @param {Promise<import('./stores/store.js').Store>} options.store
	 * @param {string} options.name
	 * @param {import('./listen.js').Listening | null} [options.listening]
	 * @param {number} [options.every] milliseconds
	 * @param {() => number} [options.random]
	 */
	constructor({ sync, store, name, listening = null, every = EVERY, random = Math.random }) {
		this.sync = sync;
		this.store = store;
		this.name = name;
		this.listening = listening;
		this.every = every;
		this.random = random;
	}

	start() {
		if (this.#running) return;
		const running = new AbortController();

		this.#running = running;
		this.#failures = this.#dueAt = this.#notBefore = 0;
		/** @type {[EventTarget | undefined, string][]} */
		const events = [[globalThis.window, 'online'], [globalThis.window, 'focus'], [globalThis.document, 'visibilitychange']];

		for (const [target, type] of events) {
			if (!target?.addEventListener) continue;
			const comes = () => this.wake();

			target.addEventListener(type, comes);
			this.#endings.push(() => target.removeEventListener(type, comes));
		}
		this.store.then((store) => store.lock(this.name, () => this.#work(running.signal), running.signal)).catch(() => {});
	}

	stop() {
		this.#running?.abort();
		this.#running = null;
		for (const end of this.#endings.splice(0)) end();
		this.#wake();
	}

	/** After an edit: syncs soon, or if the last sync failed, after some seconds, however long the wait has become. */
	edited() {
		this.#due(this.#failures === 0 ? SOON : EDITED_AGAIN * (0.5 + 0.5 * this.random()));
	}

	/** The page is online again, or visible. Other tabs are told; one of them does the work. */
	wake() {
		if (globalThis.document?.visibilityState === 'hidden') return;
		this.due();
		this.listening?.retry();
		this.store.then((store) => store.tell?.({ wake: this.name }), () => {});
	}

	/** Syncs at once, even if the last one failed; and if this one fails, the waits start from the shortest again. */
	due() {
		this.#failures = 0;
		this.#due(0);
	}

	/** A sync that somebody else began has ended, with null or an error: the next one is scheduled accordingly. */
	tried(error) {
		this.#failures = 0;
		this.#due(this.#waitAfter(error));
	}

	#due(wait) {
		this.#dueAt = Math.min(this.#dueAt, performance.now() + wait);
		this.#wake();
	}

	async #work(signal) {
		this.listening?.run(signal, (wait) => this.#due(wait));
		while (!signal.aborted) {
			this.#dueAt = Infinity;
			const wait = await this.#once();

			this.#dueAt = Math.min(this.#dueAt, performance.now() + wait);
			await this.#sleep(signal);
		}
	}

	/** Returns how long to wait for the next one. */
	async #once() {
		try {
			await this.sync();
			return this.#waitAfter(null);
		} catch (error) {
			return this.#waitAfter(error);
		}
	}

	/** The time between two syncs. */
	#pause() {
		return this.every * (this.listening?.isLive ? SELDOM : 1) * (0.8 + 0.4 * this.random());
	}

	/** Changes are heard from now on, or not any more: then it must not be long until the next sync. */
	heardChanged() {
		if (!this.listening?.isLive) this.#due(this.#pause());
	}

	/** The wait after a sync that ended like this. */
	#waitAfter(error) {
		if (error === null) {
			this.#failures = this.#notBefore = 0;
			return Math.min(this.#pause(), this.listening?.synced() ?? Infinity);
		}
		const { retryAfter = 0 } = /** @type {{ retryAfter?: number }} */ (error);
		const wait = Math.min(FIRST_AGAIN * 2 ** Math.min(this.#failures++, 20), LAST_AGAIN) * (0.5 + 0.5 * this.random());

		this.#notBefore = performance.now() + retryAfter;
		return Math.max(wait, retryAfter);
	}

	/** Waits until it is due; events may make that earlier meanwhile. */
	async #sleep(signal) {
		for (;;) {
			const wait = Math.max(this.#dueAt, this.#notBefore) - performance.now();

			if (signal.aborted || wait <= 0) return;
			await new Promise((resolve) => {
				const timer = setTimeout(resolve, Math.min(wait, 2 ** 31 - 1));

				this.#wake = () => {
					clearTimeout(timer);
					resolve(undefined);
				};
			});
			this.#wake = () => {};
		}
	}
}
