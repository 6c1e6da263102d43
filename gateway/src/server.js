// server.js - the service: requests in, one statement each, answers out.
//
// This takes the place of nginx and PostgREST, and behaves as they do: the same requests, statuses, bodies, and the same headers
// Content-Type, Content-Encoding (answers below 1,000 bytes are never compressed), ETag, Cache-Control, Allow, WWW-Authenticate,
// Access-Control-*.

import cluster from 'node:cluster';
import http from 'node:http';
import { gzip } from 'node:zlib';
import { promisify } from 'node:util';
import { Database } from './database.js';
import { GONE, Refusal, isStatus, refuse, refuseDatabase, refuseForNow, refuseHealth, refuseSetting, refuseTooLarge } from './errors.js';
import { HEADERS as STREAM_HEADERS, Live } from './live.js';
import { log } from './log.js';
import { Metrics } from './metrics.js';
import { listen, makeOperatorServer } from './operators.js';
import { HEADERS_SIZE, isTooLarge, readRequest, refuseBroken } from './requests.js';
import { makeVerifier } from './tokens.js';

const GZIP_MIN = 1000;			// bytes
const HEADERS_MS = 20_000;		// for a request's headers to arrive
const REQUEST_MS = 300_000;		// for the whole request
const IDLE_MS = 75_000;			// without anything sent or received; longer than a statement may take
const KEEP_ALIVE_MS = 65_000;
const LINGER_MS = 5000;			// for the rest of a request that has been answered already
const PIPELINE_MAX = 100;		// requests of a connection that wait for the answer to an earlier one
const MB = 1024 * 1024;
const STOP_MS = 60_000;			// for running requests, when told to stop
const NO_BODY = Buffer.alloc(0);

// The headers of each answer, and of the answer to a browser's preflight request
const HEADERS = ['Cache-Control', 'no-store', 'Access-Control-Allow-Origin', '*', 'Access-Control-Expose-Headers', 'ETag, Retry-After'];
const PREFLIGHT = [...HEADERS, 'Access-Control-Allow-Methods', 'GET, POST',
	'Access-Control-Max-Age', '86400', 'Access-Control-Allow-Headers', 'Authorization, Content-Type, If-None-Match, X-Client-Id, *'];
const PREFLIGHT_STANDBY = [...PREFLIGHT.slice(0, -1), `${PREFLIGHT.at(-1)}, X-Docsync-Read`];

const EXCHANGE = 'X-Docsync';		// what docsync reports of a request, for logs

const FRAMING = /^(connection|content-length|keep-alive|te|trailer|transfer-encoding|upgrade)$/i;		// these say where an answer ends, which a trigger can't know
const compress = promisify(gzip);
const before = Symbol('the previous request of the same connection');
const waiting = Symbol('how many requests of a connection are not answered yet');

// Starts a gateway, which is up when this resolves. Its stop() lets running requests finish.
export async function startGateway(config) {
	const gateway = new Gateway(config, await makeVerifier(config));

	await gateway.start();
	return gateway;
}

class Gateway {
	constructor(config, verify) {
		Object.assign(this, { config, verify, buffered: 0, bufferedOfStrangers: 0, stopping: false, sockets: new Set() });
		this.database = new Database(config, config.databaseUri, true);
		this.standby = config.standbyUri ? new Database(config, config.standbyUri, false) : undefined;
		this.live = new Live(config, this.database, verify);
		this.metrics = new Metrics({ primary: this.database, standby: this.standby }, this);
		this.server = http.createServer({
			maxHeaderSize: HEADERS_SIZE, headersTimeout: HEADERS_MS, requestTimeout: REQUEST_MS, keepAliveTimeout: KEEP_ALIVE_MS,
			connectionsCheckingInterval: 5000, requireHostHeader: false,
		}, (request, response) => this.serve(request, response));
		this.server.maxHeadersCount = 0;		// their size is limited; node would silently drop those beyond a number
		this.server.on('checkContinue', (request, response) => this.serve(request, response, true));
		this.server.on('checkExpectation', (request, response) => this.serve(request, response));
		this.server.on('clientError', answerBroken);
		this.server.on('connection', (socket) => {
			this.sockets.add(socket);
			socket.once('close', () => this.sockets.delete(socket));
		});
		this.server.setTimeout(IDLE_MS, (socket) => socket.destroy());
		this.admin = makeOperatorServer(async () => !this.stopping && await this.database.isReady(), () => this.metrics.registry.metrics(),
			this.metrics.registry.contentType);
	}

	async start() {
		const { listen: address, adminListen } = this.config;

		await listen(this.server, address);
		if (adminListen && cluster.isPrimary) await listen(this.admin, adminListen);
		log('info', 'listening', { address, pid: process.pid });
	}

	async stop() {
		const close = (server) => new Promise((resolve) => { server.close(resolve); });
		const closed = Promise.all([this.server, this.admin].map(close));
		const timer = setTimeout(() => this.server.closeAllConnections(), STOP_MS);

		this.stopping = true;
		this.live.stop();
		this.admin.closeAllConnections();
		for (const socket of this.sockets) {
			if (socket[before] === undefined) socket.destroySoon();		// no request is running on it
		}
		await closed;
		clearTimeout(timer);
		await Promise.all([this.database.stop(), this.standby?.stop()]);
	}

	// Answers a request, after earlier ones of the same connection, when the client has taken their answers. Never throws.
	async serve(request, response, isExpecting = false) {
		const { socket } = request;

		socket[waiting] = (socket[waiting] ?? 0) + 1;
		if (socket[waiting] > PIPELINE_MAX) socket.destroy();		// node:http would keep on reading
		if (socket.destroyed) return;

		const begun = performance.now();
		const call = { request, response, name: 'none', isExpecting, status: 0, size: 0, buffered: 0, isStranger: false };
		const turn = socket[before];

		socket[before] = call;
		call.done = (async () => {
			if (turn !== undefined) {
				await turn.done;
				await untilTaken(turn.response, socket);
				if (socket.destroyed) return;
			}
			try {
				this.send(call, await this.answer(call));
			} catch (error) {		// at least headers that a trigger has set can cause one
				log('error', 'a request failed here', { function: call.name, error: error.stack });
				this.send(call, refuse(500));
			}
			if (call.stream !== undefined) {
				this.note(call, begun);
				await call.stream.ended;
			}
		})();
		await call.done;
		if (socket[before] === call) socket[before] = undefined;
		socket[waiting]--;
		this.buffered -= call.buffered;
		if (call.isStranger) this.bufferedOfStrangers -= call.buffered;
		if (call.stream === undefined) this.note(call, begun);
	}

	// Counts an answered request, and logs it if it failed, or if all are logged. A stream is answered when it begins.
	note(call, begun) {
		if (call.status === 0) return;

		const seconds = (performance.now() - begun) / 1000;
		this.metrics.note(call.name, call.status, seconds, call.exchange);
		if (this.config.logRequests || call.status >= 500) {
			log(call.status >= 500 ? 'warning' : 'info', 'request', {
				function: call.name, method: call.request.method, status: call.status, code: call.code, ms: Math.round(seconds * 1e6) / 1000,
				received: call.buffered, sent: call.size, exchange: call.exchange,
			});
		}
	}

	// The answer to a request: status, body and headers, or a refusal, which has these, too.
	async answer(call) {
		try {
			const asked = readRequest(call.request, this.config.maxBodyMb);

			if (asked === null) return { status: 204, body: '', headers: {}, general: this.standby ? PREFLIGHT_STANDBY : PREFLIGHT };
			call.name = asked.route.name;
			if (asked.route.isHealth) return await this.answerHealth();

			const verified = this.verify(call.request.headers.authorization);
			const who = verified instanceof Promise ? await verified : verified;

			call.isStranger = who.role === this.config.anonRole;
			if (asked.route.isStream) {
				call.stream = await this.live.open(call.request.headers.authorization, who, asked.args);
				return { status: 200, body: '', headers: STREAM_HEADERS };
			}
			const body = hasBody(call.request) ? await this.readBody(call, asked.route) : NO_BODY;

			return await this.respond(call, await this.run(call, asked, who, body));
		} catch (error) {
			if (error instanceof Refusal) return error;
			throw error;
		}
	}

	// Answers whether the service works, to everybody.
	async answerHealth() {
		const body = await this.database.askHealth();

		return body === undefined ? refuseHealth() : { status: 200, body, headers: { 'Content-Type': 'application/json; charset=utf-8' } };
	}

	// Runs a request in the database; on a standby, if the client says that a standby is good enough. If the standby can't run it, the
	// primary does.
	async run(call, asked, who, body) {
		const { route } = asked;
		const key = collectionOf(asked, who, body);
		const values = [route.name, who.role, who.claims, route.method ?? call.request.method, headersOf(asked), route.takesBody ? body : NO_BODY];

		if (this.standby && route.isRead && asked.mayBeStandby) {
			try {
				return await this.standby.call(key, values);
			} catch (error) {
				if (!isForPrimary(error)) throw this.refusalOf(call, error, who);
			}
		}
		try {
			return await this.database.call(key, values);
		} catch (error) {
			throw this.refusalOf(call, error, who);
		}
	}

	// The refusal for an error of the database, or for lack of it
	refusalOf(call, error, who) {
		if (error instanceof Refusal) return error;
		call.code = error.code;
		return refuseDatabase(error, who.role === this.config.anonRole);
	}

	// Reads the body. It is refused while it arrives if it is larger than allowed, or than there is memory for: a quarter of the memory for
	// requests without a token, so that they can't take it from the others.
	readBody(call, route) {
		const { request, response, isExpecting } = call;
		const max = this.config.maxBufferedMb * MB;
		const chunks = [];
		let size = 0;

		if (isExpecting) response.writeContinue();
		return new Promise((resolve, reject) => {
			const stop = (refusal) => {
				request.removeAllListeners('data');
				request.resume();
				reject(refusal);
			};

			request.on('data', (chunk) => {
				size += chunk.length;
				call.buffered += chunk.length;
				this.buffered += chunk.length;
				if (call.isStranger) this.bufferedOfStrangers += chunk.length;
				chunks.push(chunk);
				if (isTooLarge(size, route, this.config.maxBodyMb)) stop(refuseTooLarge(this.config.maxBodyMb));
				else if (this.buffered > max || (call.isStranger && this.bufferedOfStrangers > max / 4)) stop(refuseForNow());
			});
			request.on('end', () => resolve(chunks.length === 1 ? chunks[0] : Buffer.concat(chunks)));
			request.on('close', () => reject(GONE));
		});
	}

	// The answer made of docsync_call()'s result: a body, and one line each for headers and status
	async respond(call, answer) {
		const bodyEnd = answer.lastIndexOf('\n', answer.lastIndexOf('\n') - 1);
		const [setHeaders, setStatus] = answer.slice(bodyEnd + 1).split('\n');
		const headers = readHeaders(setHeaders);
		const status = setStatus === '' ? 200 : Number(/^\d+/.exec(setStatus)?.[0]);

		call.exchange = headers[EXCHANGE];
		delete headers[EXCHANGE];
		if (!isStatus(status)) throw refuseSetting('status');
		let body = answer.slice(0, bodyEnd);
		if (body.length >= GZIP_MIN) {
			headers.Vary = 'Accept-Encoding';
			body = Buffer.from(body);
			if (/(^|,\s*)gzip\s*(;\s*q=(?!0(\.0*)?\s*(,|$))[\d.]+\s*)?(,|$)/i.test(call.request.headers['accept-encoding'] ?? '')) {
				body = await compress(body, { level: 2 });
				headers['Content-Encoding'] = 'gzip';
			}
		}
		return { status, body, headers };
	}

	// Sends an answer, if that is still possible, and takes care of the rest of the request, if it is still arriving.
	send(call, { status, body, headers, general = HEADERS }) {
		const { request, response } = call;
		const all = [...general];

		call.status = status;
		call.size = typeof body === 'string' ? Buffer.byteLength(body) : body.length;
		if (response.destroyed) {
			call.stream?.begin(response);
			return;
		}
		for (const name in headers) {
			if (FRAMING.test(name)) continue;
			for (const value of [].concat(headers[name])) all.push(name, value);
		}
		if (call.stream === undefined && status !== 204 && status !== 304) all.push('Content-Length', String(call.size));
		if (this.stopping || call.stream !== undefined) all.push('Connection', 'close');
		response.writeHead(status, http.STATUS_CODES[status] ?? '', all);
		if (call.stream === undefined) response.end(body);
		else call.stream.begin(response);

		if (!request.complete) {
			const timer = setTimeout(() => request.socket.destroy(), LINGER_MS);

			request.once('close', () => clearTimeout(timer));
			request.resume();
		}
	}
}

// Should a request that failed on a standby go to the primary? Yes, if there is no connection, or the standby had to cancel it because of a
// recovery conflict, or is shutting down. No, if it took too long: there it would, too.
const isForPrimary = (error) => error instanceof Refusal || error.code === undefined || /^(08|40|53|57P0)/.test(error.code);

// Resolves when an answer has been handed to the system, or the connection is closed.
function untilTaken(response, socket) {
	if (response.writableFinished || socket.destroyed) return undefined;
	return new Promise((resolve) => {
		const done = () => {
			response.off('finish', done);
			socket.off('close', done);
			resolve();
		};

		response.on('finish', done);
		socket.on('close', done);
	});
}

const hasBody = ({ headers }) => headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;

// The headers that docsync reads, as PostgREST passes them on. They are UTF-8, with each byte as a character.
function headersOf({ args, clientId, etags }) {
	if (args === '' && clientId === '' && etags === '') return '{}';
	const headers = {};

	if (args !== '') headers['x-query-string'] = args;
	if (clientId !== '') headers['x-client-id'] = clientId;
	if (etags !== '') headers['if-none-match'] = etags;
	return Buffer.from(JSON.stringify(headers), 'latin1').toString();
}

// The collection that a request is about, as far as that can be told without parsing all of it. Used only to share the connections fairly.
function collectionOf({ args, route }, who, body) {
	return /(?:^|&)collection=([^&]+)/.exec(args)?.[1]
		?? (route.takesBody ? /"collection"\s*:\s*"([^"]+)"/.exec(body.toString('latin1', 0, 512))?.[1] : undefined)
		?? who.collection ?? 'default';
}

function readHeaders(text) {
	const headers = { __proto__: null, 'Content-Type': 'application/octet-stream' };
	let list;

	if (text === '') return headers;
	try {
		list = JSON.parse(text);
		if (!Array.isArray(list)) throw new Error('not an array');
		for (const item of list) {
			const [[name, value], ...more] = Object.entries(item);

			if (more.length > 0 || typeof value !== 'string') throw new Error('not a header');
			if (name.toLowerCase() === 'content-type') headers['Content-Type'] = value;
			else if (name === EXCHANGE) headers[EXCHANGE] = value;
			else headers[name] = name in headers ? [].concat(headers[name], value) : value;
		}
		return headers;
	} catch {
		throw refuseSetting('headers');
	}
}

// Refuses what isn't HTTP, or not in a form that node:http accepts, in JSON as well.
function answerBroken(error, socket) {
	if (error.code === 'ECONNRESET' || error.code === 'ERR_HTTP_REQUEST_TIMEOUT' || !socket.writable || socket[before] || socket.bytesWritten > 0 && socket._httpMessage) {
		socket.destroy();
		return;
	}
	const { status, body, headers } = refuseBroken(error, error.rawPacket?.toString('latin1') ?? '');
	const lines = [`HTTP/1.1 ${status} ${http.STATUS_CODES[status]}`, `Content-Length: ${body.length}`, 'Connection: close'];

	for (let i = 0; i < HEADERS.length; i += 2) lines.push(`${HEADERS[i]}: ${HEADERS[i + 1]}`);
	for (const name in headers) lines.push(`${name}: ${headers[name]}`);
	socket.end(`${lines.join('\r\n')}\r\n\r\n${body}`);
}
