// requests.js - reads a request without its token and body: which function does it call, and is it valid? It is read as nginx with
// examples/postgrest/docsync.conf would, so that a request means the same to both.

import { isUtf8 } from 'node:buffer';
import { refuse, refuseParameter, refuseTooLarge } from './errors.js';

const LINE_MAX = 8192;			// bytes of the request line, and of each header
const HEADERS_MAX = 4 * LINE_MAX;
const MB = 1024 * 1024;
const IGNORED_BODY_MAX = 64 * 1024;
const COLLECTIONS_MAX = 60;

const POST = { methods: ['POST'], allow: 'POST', bodyMax: Infinity };
export const ROUTES = new Map([
	['/Docs', { ...POST, name: 'docsync_docs', takesBody: true }],
	['/Docs/Sync', { ...POST, name: 'docsync_docs_sync', takesBody: true }],
	['/Docs/Query', { ...POST, name: 'docsync_docs_query', isRead: true, bodyMax: IGNORED_BODY_MAX, method: 'GET' }],
	['/Docs/Reconcile', { ...POST, name: 'docsync_docs_reconcile', isRead: true, takesBody: true }],
	['/Docs/Get', { ...POST, name: 'docsync_docs_get', isRead: true, takesBody: true }],
	['/Docs/Pull', { methods: ['GET', 'HEAD'], allow: 'GET, HEAD', bodyMax: Infinity, name: 'docsync_pull', isRead: true }],
	['/Docs/Health', { methods: ['GET', 'HEAD'], allow: 'GET, HEAD', bodyMax: Infinity, name: 'docsync_health', isHealth: true }],
	['/Docs/Live', { methods: ['GET'], allow: 'GET', bodyMax: IGNORED_BODY_MAX, name: 'docsync_listen_key', isStream: true }],
]);

// Headers that may occur only once
const ONCE = new Set(['host', 'authorization', 'content-length', 'transfer-encoding', 'expect', 'if-match', 'if-none-match', 'if-modified-since', 'if-unmodified-since', 'if-range']);

// node:http's limit for the request line and all headers: somewhat more than is accepted, so that a refusal can say which one is too long.
export const HEADERS_SIZE = LINE_MAX + HEADERS_MAX;

// Returns { route, args, clientId, etags, mayBeStandby }, the texts unchanged, '' where there is none; or null for OPTIONS, which is answered without
// looking further. Throws a refusal.
export function readRequest(request, maxBodyMb) {
	const { method, url, rawHeaders } = request;

	if (!/^(\/|https?:)/i.test(url)) throw refuse(400);
	if (method.length + url.length + ' HTTP/1.1\r\n'.length + 1 > LINE_MAX) throw refuse(414);
	const { path, args } = split(url);

	checkHeaders(request);
	if (method === 'TRACE') throw refuse(405, { Allow: 'POST' });		// whatever the path
	const route = ROUTES.get(path);
	const clientId = first(rawHeaders, 'x-client-id');

	if (method === 'OPTIONS') return null;
	if (route && !route.methods.includes(method)) throw refuse(405, { Allow: route.allow });
	if (!/^(identity)?$/i.test(first(rawHeaders, 'content-encoding'))) throw refuse(415);
	if (!isText(args) || !isText(clientId)) throw refuse(400);
	if (isTooLarge(Number(request.headers['content-length'] ?? 0), route, maxBodyMb)) throw refuseTooLarge(maxBodyMb);
	if (!route) throw refuse(404);
	return { route, args, clientId, etags: first(rawHeaders, 'if-none-match'), mayBeStandby: first(rawHeaders, 'x-docsync-read') === 'standby' };
}

// Whether a body is larger than allowed; route: undefined if there is none.
export function isTooLarge(bytes, route, maxBodyMb) {
	return bytes > Math.min(route?.bodyMax ?? Infinity, maxBodyMb * MB);
}

// The refusal for a request that isn't HTTP, or not as node:http accepts it, judging by the bytes received.
export function refuseBroken(error, bytes) {
	const line = /^([A-Z_-]+) (\/\S*) HTTP\/1\.[01]\r?\n/.exec(bytes);

	if (error.code === 'HPE_HEADER_OVERFLOW') return refuse(bytes.indexOf('\n') < 0 || bytes.indexOf('\n') > LINE_MAX ? 414 : 431);
	if (error.code !== 'HPE_INVALID_METHOD' || !line) return refuse(400);
	try {
		const route = ROUTES.get(split(line[2]).path);

		return route ? refuse(405, { Allow: route.allow }) : refuse(404);
	} catch (refusal) {
		return refusal;
	}
}

function checkHeaders({ rawHeaders, headers, httpVersion }) {
	const seen = new Set();
	let all = 0;

	for (let i = 0; i < rawHeaders.length; i += 2) {
		const name = rawHeaders[i].toLowerCase();
		const size = name.length + rawHeaders[i + 1].length + 4;

		if (size > LINE_MAX || (all += size) > HEADERS_MAX) throw refuse(431);
		if (ONCE.has(name)) {
			if (seen.has(name)) throw refuse(400);
			seen.add(name);
		}
	}
	if (headers.host === undefined && httpVersion !== '1.0') throw refuse(400);
}

// Splits a URL into the path, decoded and without "//", "." and "..", and the query string, unchanged.
function split(url) {
	const target = /^https?:\/\/[^/?#]+(.*)$/i.exec(url)?.[1] ?? url;
	const [, path, args = ''] = /^([^?#]*)(?:\?([^#]*))?/.exec(target);
	const parts = [];

	if (!path.startsWith('/')) throw refuse(400);
	if (ROUTES.has(path)) return { path, args };
	if (/%(?![0-9a-f]{2})|%00/i.test(path)) throw refuse(400);

	const segments = path.replace(/%[0-9a-f]{2}/gi, (hex) => String.fromCharCode(parseInt(hex.slice(1), 16))).split('/').slice(1);
	for (const segment of segments) {
		if (segment === '..') {
			if (parts.length === 0) throw refuse(400);
			parts.pop();
		} else if (segment !== '' && segment !== '.') {
			parts.push(segment);
		}
	}
	return { path: `/${parts.join('/')}${/^\.{0,2}$/.test(segments.at(-1)) && parts.length > 0 ? '/' : ''}`, args };
}

// The collections in the query string of a stream, each in a parameter of its own, without which it is `otherwise'. Anything else is refused
// as src/url.c does.
export function readCollections(args, otherwise) {
	const collections = new Set();

	for (const pair of args.split('&')) {
		const [name, value] = [/^[^=]*/.exec(pair)[0], pair.slice(pair.indexOf('=') + 1 || pair.length)].map(decode);

		if (pair === '') continue;
		if (name !== 'collection') {
			throw refuseParameter('unknown parameter in the query string', `It has "${name.slice(0, 40)}".`, 'The parameter is collection, once for each collection; names are case-sensitive.');
		}
		if (collections.has(value)) throw refuseParameter('a collection occurs twice in the query string', null, 'Name it once.');
		if (value !== '' && value !== 'null') collections.add(value);
	}
	if (collections.size > COLLECTIONS_MAX) throw refuse(413);
	return collections.size > 0 ? [...collections] : [otherwise];
}

// Decodes a name or value of a query string, each byte of which is a character.
function decode(text) {
	try {
		const decoded = decodeURIComponent(Buffer.from(text.replaceAll('+', ' '), 'latin1').toString());

		if (!decoded.includes('\0')) return decoded;
	} catch {
		// the same as for a NUL
	}
	throw refuseParameter('the query string is not valid', 'A name or value isn\'t percent-encoded UTF-8.', 'Percent-encode it.');
}

// The value of the first header with a name, each byte as a character
function first(rawHeaders, name) {
	for (let i = 0; i < rawHeaders.length; i += 2) {
		if (rawHeaders[i].length === name.length && rawHeaders[i].toLowerCase() === name) return rawHeaders[i + 1];
	}
	return '';
}

// eslint-disable-next-line no-control-regex -- ASCII is what nearly all are
const isText = (bytes) => /^[\x01-\x7f]*$/.test(bytes) || (!bytes.includes('\0') && isUtf8(Buffer.from(bytes, 'latin1')));
