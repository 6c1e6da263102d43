// service.js - the service that the tests have, and a bad line to it.

import { createServer, request as send } from 'node:http';
import { randomUUID } from 'node:crypto';
import { Collection, memoryStore } from '../src/index.js';

export const URL_OF_SERVICE = process.env.DOCSYNC_URL;
export const TOKEN = process.env.DOCSYNC_TOKEN;
export const EXPIRED_TOKEN = process.env.DOCSYNC_EXPIRED_TOKEN;

/** For node:test: the tests need a service, which test/t/071_javascript.pl starts. */
export const needsService = { skip: URL_OF_SERVICE ? false : 'DOCSYNC_URL is not given' };

/** A collection that nobody else has. */
export function anyName() {
	return `anna/${randomUUID()}`;
}

/** It never waits before it compares. */
export const WAITS = { told: 0, others: 0, compare: 10 ** 12, again: 0, primary: 0 };

/** A client that does so. */
export function open(name, options = {}) {
	return new Collection(name, {
		url: URL_OF_SERVICE, token: TOKEN, store: memoryStore(),
		waits: WAITS, ...options,
	});
}

/** All that a collection has: {id: body}. */
export async function contentOf(collection) {
	return Object.fromEntries((await collection.list()).map(({ id, body }) => [id, body]));
}

export const pause = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });

/** Until it is so; fails when that takes too long. */
export async function until(what, milliseconds = 30_000) {
	for (const end = Date.now() + milliseconds; !await what(); await pause(10)) {
		if (Date.now() > end) throw new Error(`it took too long: ${what}`);
	}
}

/**
 * A proxy in front of the service. `fault` is a function, called with each request, {method, path, body}, which returns what is
 * to be done instead: 'cut' (the answer ends in its midst), 'lost' (none comes), {status, headers, body} of another answer, or
 * {change: (answer) => answer}; undefined lets it through.
 */
export class BadLine {
	fault = () => undefined;
	requests = [];
	#server;
	#sockets = new Set();
	#port = 0;

	static async start() {
		const line = new BadLine();

		await line.up();
		return line;
	}

	get url() {
		return `http://127.0.0.1:${this.#port}`;
	}

	/** Listens, on the port of the last time. */
	async up() {
		this.#server = createServer((request, response) => this.#serve(request, response));
		this.#server.on('connection', (socket) => {
			this.#sockets.add(socket);
			socket.on('close', () => this.#sockets.delete(socket));
		});
		await new Promise((resolve) => { this.#server.listen(this.#port, '127.0.0.1', resolve); });
		this.#port = this.#server.address().port;
	}

	/** Nobody is there. */
	async down() {
		const closed = new Promise((resolve) => { this.#server.close(resolve); });

		for (const socket of this.#sockets) socket.destroy();
		await closed;
	}

	async #serve(request, response) {
		// It has no streams: live.test.js is about these.
		if (request.method !== 'OPTIONS' && request.url.startsWith('/Docs/Live')) {
			response.writeHead(404, { 'Access-Control-Allow-Origin': '*' }).end();
			return;
		}
		const body = Buffer.concat(await request.toArray());
		const seen = { method: request.method, path: request.url, body: body.toString(), at: performance.now() };
		const fault = request.method === 'OPTIONS' ? undefined : this.fault(seen);

		if (request.method !== 'OPTIONS') this.requests.push(seen);
		if (fault?.status) {
			response.writeHead(fault.status, { 'Access-Control-Allow-Origin': '*', ...fault.headers }).end(fault.body);
			return;
		}
		const { host, ...headers } = request.headers;
		const sent = send(URL_OF_SERVICE + request.url, { method: request.method, headers: { ...headers, 'accept-encoding': 'identity' } }, async (answer) => {
			const text = Buffer.concat(await answer.toArray());
			const { 'content-length': length, 'transfer-encoding': encoding, ...answerHeaders } = answer.headers;

			if (fault === 'lost') {
				request.socket.destroy();
				return;
			}
			if (fault === 'cut') {
				response.writeHead(answer.statusCode, { ...answerHeaders, 'content-length': text.length });
				response.write(text.subarray(0, text.length >> 1), () => request.socket.destroy());
				return;
			}
			response.writeHead(answer.statusCode, answerHeaders);
			response.end(fault?.change ? JSON.stringify(fault.change(JSON.parse(text))) : text);
		});

		sent.on('error', () => request.socket.destroy());
		sent.end(body);
	}
}
