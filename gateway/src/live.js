// live.js - GET /Docs/Live: streams of server-sent events that say which collections have changed. doc/live.md describes them.
//
// Who may hear of a collection is asked of the database, as the client's role and with the claims of its token: docsync_listen_key() gives
// the key by which announcements call the collection only to those who see a document of it. So nobody's stream depends on what happens in a
// collection that they don't see.
//
// A client asks for documents whenever it is told that it has begun to listen; so nothing may be lost after that. Hence the order: the
// gateway listens, gets the key, registers the stream for it, and tells the client. Whenever the gateway has begun to listen anew, it gets
// all keys again, which may be others, and tells each client to ask.

import { Refusal, refuse, refuseDatabase, refuseForNow } from './errors.js';
import { Listener } from './listener.js';
import { log } from './log.js';
import { readCollections } from './requests.js';

const BEAT_MS = 20_000;				// between signs of life; who hasn't taken one when the next is due is left
const NONE_MS = 60_000;				// between questions about collections that the client has seen nothing of
const ASK_AT_ONCE = 4;				// questions, when all keys are asked for: other requests need connections, too
const RETRY_MS = 1000;				// before a client comes back, and a random time of up to four times as much
const FEW = 10;						// listeners who may all ask at once
const WAIT_MAX = 1000;				// over which more of them are spread

export const HEADERS = { 'Content-Type': 'text/event-stream; charset=utf-8', 'X-Accel-Buffering': 'no' };

const retry = () => `retry: ${Math.round(RETRY_MS * (1 + 4 * Math.random()))}\n\n`;
const event = (name, data) => `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;

// All streams of a process
export class Live {
	#config;
	#database;
	#verify;
	#listener;
	#streams = new Set();
	#byKey = new Map();				// sets of streams
	#byClient = new Map();			// how many streams each has
	count = 0;						// streams, including those that are about to begin
	announcements = 0;				// heard
	messages = 0;					// sent because of them

	constructor(config, database, verify) {
		this.#config = config;
		this.#database = database;
		this.#verify = verify;
		this.#listener = new Listener(database, {
			heard: (payload) => this.#heard(payload), began: () => this.#askAll(), ended: () => this.#endAll('off'),
		});
	}

	// Makes a stream for a request, to be begun when the answer's headers have been sent. Throws a refusal.
	async open(authorization, who, args) {
		const collections = readCollections(args, who.collection ?? 'default');
		const leave = this.#enter(who);

		try {
			await this.#listener.ready();
			const stream = new Stream(this, { authorization, collections, leave, checkMs: this.#config.liveCheck * 1000 });

			await stream.getKeys();
			return stream;
		} catch (error) {
			leave();
			throw error instanceof Refusal ? error : refuseDatabase(error, who.role === this.#config.anonRole);
		}
	}

	// Counts a stream of a client, or refuses it. Returns the function that takes it back.
	#enter({ client }) {
		const { liveStreams, liveStreamsPerClient } = this.#config;
		const count = this.#byClient.get(client) ?? 0;

		if (count >= liveStreamsPerClient) throw refuse(429, { 'Retry-After': '60' });
		if (this.count >= liveStreams) throw refuseForNow();
		this.count++;
		this.#byClient.set(client, count + 1);
		return () => {
			const left = this.#byClient.get(client) - 1;

			this.count--;
			if (left > 0) this.#byClient.set(client, left);
			else this.#byClient.delete(client);
		};
	}

	// The keys of collections, null where the caller sees none of the documents, and who asks: the token is looked at again, too. The keys
	// belong together: they are asked for once more if the gateway has begun to listen meanwhile.
	async keysOf(authorization, collections) {
		for (;;) {
			const { times } = this.#listener;
			const who = await this.#verify(authorization);
			const keys = [];

			for (const collection of collections) {
				const answer = await this.#database.call(collection, ['docsync_listen_key', who.role, who.claims, 'GET', '{}', Buffer.from(collection)]);

				keys.push(answer === null ? null : answer.slice(0, answer.indexOf('\n')));
			}
			if (times === this.#listener.times) return { who, keys };
		}
	}

	// Registers a stream for announcements about a key.
	register(key, stream) {
		const streams = this.#byKey.get(key);

		if (streams === undefined) this.#byKey.set(key, new Set([stream]));
		else streams.add(stream);
	}

	unregister(key, stream) {
		const streams = this.#byKey.get(key);

		streams?.delete(stream);
		if (streams?.size === 0) this.#byKey.delete(key);
	}

	add(stream) {
		this.#streams.add(stream);
	}

	remove(stream) {
		this.#streams.delete(stream);
	}

	// How long clients shall wait at random, in milliseconds, if so many are told at once; or all of them are. Roughly, so that nobody can
	// count other tenants' streams.
	waitFor(count = this.#streams.size) {
		const all = count * this.#config.processes;

		return all > FEW ? Math.min(2 ** Math.ceil(Math.log2(all)), WAIT_MAX) : 0;
	}

	// An announcement: of a collection, or of all of them.
	#heard(payload) {
		const announcement = readAnnouncement(payload);

		if (announcement === null) return;
		const { collection: key, through } = announcement;

		this.announcements++;
		if (key === null) {
			this.#tellAll(through);
			return;
		}
		const streams = this.#byKey.get(key);

		if (streams === undefined) return;
		const wait = this.waitFor(streams.size);

		for (const stream of streams) stream.tell(stream.nameOf(key), through, wait);
	}

	#tellAll(through) {
		const wait = this.waitFor();

		for (const stream of this.#streams) stream.tell(null, through, wait);
	}

	// After the gateway has begun to listen: gets the keys of all streams anew, a few at a time. Who gets one is told to ask, since something
	// may have been missed.
	async #askAll() {
		const { times } = this.#listener;
		const waiting = [...this.#streams];
		const ask = async () => {
			for (let stream = waiting.pop(); stream !== undefined && times === this.#listener.times; stream = waiting.pop()) await stream.ask();
		};

		for (const stream of waiting) stream.forgetKeys();
		await Promise.all(Array.from({ length: ASK_AT_ONCE }, ask));
	}

	#endAll(reason) {
		for (const stream of this.#streams) stream.end(reason);
	}

	// Ends all streams; their clients come back, not all at once.
	stop() {
		this.#listener.stop();
		this.#endAll('stopping');
	}
}

// What a payload says, or null if it isn't an announcement: whoever may connect can send notifications.
function readAnnouncement(payload) {
	const isText = (value) => value === null || typeof value === 'string';

	try {
		const value = JSON.parse(payload);

		return isText(value.collection) && isText(value.through) ? value : null;
	} catch {
		return null;
	}
}

// A client's stream
class Stream {
	#live;
	#authorization;
	#collections;
	#leave;
	#checkMs;
	#keys = new Map();				// and the collections' names
	#response;
	#timer;
	#waiting = new Map();			// what a client that is slow has yet to be told, by collection
	#hasNews = false;				// ... and that its collections are others
	#isFull = false;				// there is no room for more
	#isBeating = false;				// it hasn't taken the last sign of life
	#beatAt;
	#askedAt;
	#askAt;
	#until;
	#isAsking = false;

	constructor(live, { authorization, collections, leave, checkMs }) {
		this.#live = live;
		this.#authorization = authorization;
		this.#collections = collections;
		this.#leave = leave;
		this.#checkMs = checkMs;
		this.ended = new Promise((resolve) => { this.hasEnded = resolve; });
	}

	// Gets the keys, and registers for them. Returns the collections that are heard now and weren't before.
	async getKeys() {
		const { who, keys } = await this.#live.keysOf(this.#authorization, this.#collections);
		const before = this.#keys;
		const now = Date.now();

		this.#keys = new Map(keys.flatMap((key, i) => key === null ? [] : [[key, this.#collections[i]]]));
		this.#askedAt = now;
		this.#until = who.expires;
		// At a random time, so that those of many streams differ
		this.#askAt = now + (keys.includes(null) ? Math.min(NONE_MS, this.#checkMs) : this.#checkMs) * (0.5 + 0.4 * Math.random());
		if (this.#response?.destroyed) return [];
		for (const key of before.keys()) if (!this.#keys.has(key)) this.#live.unregister(key, this);
		for (const key of this.#keys.keys()) if (!before.has(key)) this.#live.register(key, this);
		const heard = new Set(before.values());

		return [...this.#keys.values()].filter((name) => !heard.has(name));
	}

	// The keys are another server's now, or may be.
	forgetKeys() {
		for (const key of this.#keys.keys()) this.#live.unregister(key, this);
		this.#keys = new Map();
	}

	nameOf(key) {
		return this.#keys.get(key);
	}

	// Begins, in a response whose headers have been sent. Resolves `ended' when it is over.
	begin(response) {
		this.#response = response;
		if (response.destroyed) {
			this.#close();
			return;
		}
		this.#live.add(this);
		response.once('close', () => this.#close());
		response.on('drain', () => this.#drained());
		response.write(retry());
		this.#tellListening();
		this.#beatAt = Date.now() + BEAT_MS;
		this.#schedule();
	}

	// Which collections it hears of. A slow client is told so when it reads again.
	#tellListening() {
		if (this.#response.destroyed || this.#response.writableEnded) return;
		if (!this.#isFull) this.#write(event('listening', { collections: [...this.#keys.values()] }));
		else this.#hasNews = true;
	}

	// Tells the client to ask for a collection, or null for all of them. What a slow client has yet to be told becomes one message for each
	// collection, so that there is a limit to it.
	tell(collection, through, wait) {
		if (this.#response === undefined || this.#response.destroyed || this.#response.writableEnded) return;
		if (this.#isFull) {
			this.#waiting.set(collection, { through, wait });
			return;
		}
		this.#live.messages++;
		this.#write(event('changed', { collection, through, wait }));
	}

	#write(text) {
		if (!this.#response.write(text)) this.#isFull = true;
	}

	#drained() {
		const waiting = [...this.#waiting];

		this.#isFull = false;
		this.#waiting.clear();
		if (this.#hasNews) {
			this.#hasNews = false;
			this.#tellListening();
		}
		for (const [collection, { through, wait }] of waiting) this.tell(collection, through, wait);
	}

	#schedule() {
		clearTimeout(this.#timer);
		if (this.#response.destroyed) return;
		const due = this.#response.writableEnded ? this.#beatAt : Math.min(this.#beatAt, this.#isAsking ? Infinity : this.#askAt, this.#until);

		this.#timer = setTimeout(() => this.#tick(), Math.max(0, due - Date.now()));
	}

	#tick() {
		const now = Date.now();

		if (this.#response.writableEnded) {
			this.#response.destroy();
			return;
		}
		if (now >= this.#until) {
			this.end('token');
			return;
		}
		if (now >= this.#beatAt) {
			if (this.#isBeating) {
				log('info', 'a stream was closed, since its client doesn\'t read');
				this.#response.destroy();
				return;
			}
			this.#beatAt = now + BEAT_MS;
			this.#isBeating = true;
			this.#response.write(':\n\n', () => { this.#isBeating = false; });
		}
		if (now >= this.#askAt && !this.#isAsking) this.ask();
		this.#schedule();
	}

	// Gets the keys again, as the client may hear of other collections by now, and ends the stream if it may no longer, or if that can't be found out in
	// time.
	async ask() {
		this.#isAsking = true;
		try {
			const before = this.#keys.size;
			const added = await this.getKeys();

			if (added.length > 0 || this.#keys.size !== before) this.#tellListening();
			for (const name of added) this.tell(name, null, this.#live.waitFor());
		} catch (error) {
			const { status } = error instanceof Refusal ? error : refuseDatabase(error, false);

			this.#askAt = Date.now() + Math.min(NONE_MS, this.#checkMs / 10);
			if (status === 401) this.end('token');
			else if (status < 500) this.end('rights');
			else if (Date.now() - this.#askedAt > this.#checkMs) this.end('unknown');
			// It hears of nothing now, so its client has to poll.
			else if (this.#keys.size === 0) this.#tellListening();
		} finally {
			this.#isAsking = false;
			this.#schedule();
		}
	}

	// Ends it, and says why. A client that hasn't taken that when the next sign of life would be due is left.
	end(reason) {
		if (this.#response.destroyed || this.#response.writableEnded) return;
		if (this.#isFull || this.#isBeating) {
			this.#response.destroy();
			return;
		}
		this.#response.end(`${retry()}${event('end', { reason })}`);
		this.#beatAt = Date.now() + BEAT_MS;
		this.#schedule();
	}

	#close() {
		clearTimeout(this.#timer);
		for (const key of this.#keys.keys()) this.#live.unregister(key, this);
		this.#live.remove(this);
		this.#leave();
		this.hasEnded();
	}
}
