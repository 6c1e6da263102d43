// transport.js - the protocol's requests over HTTP, by fetch: doc/protocol.md.

import { BadAnswer, NoAnswer, Refused } from './errors.js';
import { documentsText, readAnswer } from './jsontext.js';
import { readStream } from './listen.js';

const SILENCE = 60_000;		// a stream that says nothing for so long is broken: the service gives a sign of life every 20 seconds

/**
 * @typedef {string | ((why: { refused: boolean }) => string | Promise<string>)} Token what is sent as "Authorization: Bearer";
 *   or a function that returns it, called before each request, and again with refused: true when the service has answered 401
 *
 * @typedef {object} TransportOptions
 * @property {string} url of the service, without /Docs
 * @property {Token} [token]
 * @property {number} [timeout] milliseconds for a request and its answer; by default a minute
 * @property {typeof fetch} [fetch]
 */

/** Raises Refused, BadAnswer and NoAnswer. */
export class HttpTransport {
	#url;
	#token;
	#collection;
	#timeout;
	#fetch;

	/**
	 * @param {string} collection
	 * @param {TransportOptions} options
	 */
	constructor(collection, { url, token, timeout = 60_000, fetch = globalThis.fetch }) {
		this.#url = url.replace(/\/+$/, '');
		this.#token = token;
		this.#collection = collection;
		this.#timeout = timeout;
		this.#fetch = fetch;
	}

	/**
	 * The same transport, to another collection.
	 * @param {string} collection
	 */
	on(collection) {
		return new HttpTransport(collection, { url: this.#url, token: this.#token, timeout: this.#timeout, fetch: this.#fetch });
	}

	/**
	 * A sync of several collections, whichever this transport is for.
	 * @param {string} clientId
	 * @param {{ collection: string, cursor: string | null, digest: string | null, documents: import('./document.js').Sent[] }[]} parts
	 * @param {number} maxDocuments
	 * @param {boolean} tombstones
	 * @param {string} [origin] "any": documents of this client, too
	 */
	sync(clientId, parts, maxDocuments, tombstones, origin) {
		const asked = JSON.stringify({ clientId, origin, maxDocuments, reconcile: true, atomic: false, tombstones });
		const texts = parts.map(({ collection, cursor, digest, documents }) => withDocuments({ collection, cursor, state: digest }, documents));

		return this.#request('POST', '/Docs/Sync', ['collections', 'serverUtc'], `${asked.slice(0, -1)},"collections":[${texts}]}`);
	}

	/** An upload, with one result for each document, in order; not atomic. */
	upload(clientId, documents) {
		// In the query string, where services that don't know it ignore it
		return this.#post('/Docs?atomic=false', ['results'], { clientId }, documents);
	}

	/**
	 * A page, by GET, which a standby may answer, or by POST, which goes to the primary.
	 * @param {string | null} [origin] "own": documents of this client
	 */
	pull(clientId, cursor, maxDocuments, digest = null, tombstones = true, primary = false, origin = null) {
		const keys = ['documents', 'cursor', 'more'];
		const asked = { clientId, maxDocuments, reconcile: true };

		if (origin !== null) asked.origin = origin;
		if (cursor !== null) asked.cursor = cursor;
		if (digest !== null) asked.state = digest;
		if (!tombstones) asked.tombstones = false;
		if (primary) return this.#post('/Docs/Sync', keys, asked, []);
		const query = Object.entries({ collection: this.#collection, ...asked }).map(
			([key, value]) => `${key}=${encodeURIComponent(value)}`).join('&');

		return this.#request('GET', `/Docs/Pull?${query}`, keys);
	}

	/** What the service has, to compare. */
	reconcile(clientId, cursor, buckets, after, maxDocuments) {
		return this.#post('/Docs/Reconcile', ['rows', 'after', 'more', 'purgedThrough'],
			{ clientId, cursor, buckets, after, maxDocuments });
	}

	/** Documents by their ids. */
	get(clientId, cursor, ids) {
		return this.#post('/Docs/Get', ['documents', 'more'], { clientId, cursor, ids });
	}

	/**
	 * Listens for collections, until the stream ends or breaks, or the signal aborts it.
	 * @param {string[]} names
	 * @param {(event: { name: string, data: any }) => void} hear
	 * @param {AbortSignal} signal
	 * @param {boolean} wasRefused the token
	 */
	async listen(names, hear, signal, wasRefused) {
		const path = `/Docs/Live?${names.map((name) => `collection=${encodeURIComponent(name)}`).join('&')}`;
		const stop = new AbortController();
		const abort = () => stop.abort();
		/** @type {ReturnType<typeof setTimeout> | undefined} */
		let timer;
		const alive = (wait = SILENCE) => {
			clearTimeout(timer);
			timer = setTimeout(abort, wait);
		};

		signal.addEventListener('abort', abort);
		try {
			alive(this.#timeout);
			let response = await this.#send('GET', path, undefined, await this.#currentToken(wasRefused), stop.signal);

			if (response.status === 401 && typeof this.#token === 'function') {
				response = await this.#send('GET', path, undefined, await this.#currentToken(true), stop.signal);
			}
			if (response.status !== 200) throw refused(response, await response.text());
			if (!response.body || !/^text\/event-stream/i.test(response.headers.get('Content-Type') ?? '')) {
				throw new BadAnswer('a stream of events was expected');
			}
			return await readStream(response.body, hear, alive);
		} catch (error) {
			throw error instanceof Refused || error instanceof BadAnswer ? error : new NoAnswer(error);
		} finally {
			clearTimeout(timer);
			signal.removeEventListener('abort', abort);
			stop.abort();
		}
	}

	#post(path, keys, asked, documents) {
		const body = { collection: this.#collection, ...asked };

		return this.#request('POST', path, keys, documents ? withDocuments(body, documents) : JSON.stringify(body));
	}

	async #request(method, path, keys, body) {
		let [response, text] = await this.#exchange(method, path, body, false);

		// The token has expired: get a new one, if there is a function. Nothing was applied.
		if (response.status === 401 && typeof this.#token === 'function') {
			[response, text] = await this.#exchange(method, path, body, true);
		}
		if (response.status !== 200) throw refused(response, text);
		return readAnswer(text, keys);
	}

	/** @returns {Promise<[Response, string]>} */
	async #exchange(method, path, body, wasRefused) {
		const token = await this.#currentToken(wasRefused);

		try {
			const response = await this.#send(method, path, body, token, AbortSignal.timeout(this.#timeout));

			return [response, await response.text()];
		} catch (error) {
			throw new NoAnswer(error);
		}
	}

	#currentToken(wasRefused) {
		return typeof this.#token === 'function' ? this.#token({ refused: wasRefused }) : this.#token;
	}

	/** @returns {Promise<Response>} */
	#send(method, path, body, token, signal) {
		/** @type {Record<string, string>} */
		const headers = {};
		// Called as a plain function: a browser's fetch can't be called as a method.
		const send = this.#fetch;

		if (token) headers.Authorization = `Bearer ${token}`;
		if (body !== undefined) headers['Content-Type'] = 'application/json';
		return send(this.#url + path, { method, headers, body, cache: 'no-store', credentials: 'omit', signal });
	}
}

/** An object as JSON, with one more key. */
function withDocuments(object, documents) {
	return `${JSON.stringify(object).slice(0, -1)},"documents":${documentsText(documents)}}`;
}

/** The error for an answer that isn't 200. One that doesn't come from the service has no code, so it is retried. */
function refused(response, text) {
	const after = response.headers.get('Retry-After');
	const seconds = after === null ? NaN : Number(after);
	const wait = after === null ? undefined : Number.isFinite(seconds) ? seconds * 1000 : Date.parse(after) - Date.now();
	const retryAfter = wait !== undefined && wait > 0 ? wait : undefined;

	if (response.status < 300) return new BadAnswer(`not an answer of the service: status ${response.status}`);
	try {
		const { code, message, details } = JSON.parse(text);

		return new Refused(response.status, String(code ?? ''), String(message ?? ''), details, retryAfter);
	} catch {
		return new Refused(response.status, '', text.slice(0, 200), undefined, retryAfter);
	}
}
