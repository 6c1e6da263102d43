// errors.js - refusals, with the statuses, codes and texts of PostgREST 12.0.2 and of examples/postgrest/docsync.conf.

// An answer that ends a request: status, the body's text, and headers besides those of every answer.
export class Refusal extends Error {
	constructor(status, body, headers) {
		super(`status ${status}`);
		this.status = status;
		this.body = body;
		this.headers = headers;
	}
}

// A refusal in PostgREST's form, including its order of keys.
function postgrest(status, { code, message, details = null, hint = null }, headers = {}) {
	return new Refusal(status, JSON.stringify({ code, details, hint, message }), { 'Content-Type': 'application/json; charset=utf-8', ...headers });
}

const RETRY = { 'Retry-After': '1' };

// nginx's own errors: message, details, hint, by status.
const WORDS = {
	400: ['bad request', null, 'Percent-encode the parameters, in UTF-8; the header X-Client-Id must be UTF-8, too.'],
	404: ['not found', null, 'The paths are /Docs, /Docs/Query, /Docs/Sync, /Docs/Pull, /Docs/Reconcile, /Docs/Get and /Docs/Health.'],
	405: ['method not allowed', null, 'Use POST; GET or HEAD for /Docs/Pull and /Docs/Health.'],
	413: ['request too large', null, 'Send several smaller batches.'],
	414: ['request line too long', 'At most 8 kB are accepted.', 'Send the cursor unchanged; clientId and collection have at most 200 bytes.'],
	415: ['compressed request', null, 'Send it without Content-Encoding.'],
	431: ['header too long', 'At most 8 kB are accepted in each, including the token.', 'Leave out unnecessary headers, or put less into the token.'],
	429: ['too many streams of this client', null, 'One stream is enough for several collections.'],
	500: ['request failed', null, null],
	503: ['service too busy', null, 'Try again later.'],
};

// A refusal by the gateway itself. fact: its details, if they vary
export function refuse(status, headers = {}, fact = null) {
	const [message, details, hint] = WORDS[status];

	return new Refusal(status, JSON.stringify({ code: `PT${status}`, message, details: fact ?? details, hint }), { 'Content-Type': 'application/json', ...headers });
}

// A body that is larger than it may be
export function refuseTooLarge(maxMb) {
	return refuse(413, {}, `At most ${maxMb} MB are accepted.`);
}

// A refusal for lack of connections, memory or time: nothing of the request was done, or what was done is "unchanged" next time.
export function refuseForNow() {
	return refuse(503, RETRY);
}

// The service doesn't work, for whatever reason: nginx's text.
export function refuseHealth() {
	return new Refusal(503, JSON.stringify({ code: 'PT503', message: 'request failed', details: null, hint: null }),
		{ 'Content-Type': 'application/json', ...RETRY });
}

// There is nobody to answer: the client left before its request had arrived.
export const GONE = new Refusal(499, '', {});

// A token that isn't valid.
export function refuseToken(message) {
	return postgrest(401, { code: 'PGRST301', message },
		{ 'WWW-Authenticate': `Bearer error="invalid_token", error_description=${JSON.stringify(message)}` });
}

// A query string with something wrong in it, in the words of docsync (src/url.c).
export function refuseParameter(message, details, hint) {
	return postgrest(400, { code: '22023', message, details, hint });
}

// Nothing is announced.
export function refuseLive(details) {
	const refusal = postgrest(503, { code: 'PT503', message: 'nothing is announced here', details, hint: 'Poll.' }, { 'Retry-After': '300' });

	return Object.assign(refusal, { isOff: true, why: details });
}

// No connection to PostgreSQL is available. (PostgREST adds where it looked for it.)
export function refuseConnection() {
	return postgrest(503, { code: 'PGRST000', message: 'Database connection error. Retrying the connection.' }, RETRY);
}

// The answer to an error of PostgreSQL, or of the connection while a request ran.
export function refuseDatabase(error, isAnonymous) {
	const { code, message, detail: details, hint } = error;

	if (error.severity === undefined || code === undefined) {
		return postgrest(503, { code: 'PGRST001', message: 'Database client error. Retrying the connection.' }, RETRY);
	}
	if (code === 'PGRST') return refuseAsSaid(error);

	const status = statusOf(code, isAnonymous);

	return postgrest(status, { code, message, details, hint }, status === 401 ? { 'WWW-Authenticate': 'Bearer' } : status === 503 ? RETRY : {});
}

// The answer when a trigger has set response.headers or response.status to something that PostgREST wouldn't understand.
export function refuseSetting(name) {
	return postgrest(500, name === 'headers'
		? { code: 'PGRST111', message: 'response.headers guc must be a JSON array composed of objects with a single key and a string value' }
		: { code: 'PGRST112', message: 'response.status guc must be a valid status code' });
}

// SQLSTATE PGRST: message and detail contain the whole answer.
function refuseAsSaid({ message, detail }) {
	try {
		const body = JSON.parse(message);
		const { status, headers } = JSON.parse(detail);

		if (typeof body.code === 'string' && typeof body.message === 'string' && isStatus(status) && headers instanceof Object) {
			return postgrest(status, body, headers);
		}
	} catch {
		// treated like any other invalid value
	}
	return postgrest(500, { code: 'PGRST121', message: 'The message and detail field of RAISE \'PGRST\' error expects JSON' });
}

// SQLSTATE prefixes and their statuses; the first that matches counts.
const STATUSES = [
	['08', 503], ['09', 500], ['0L', 403], ['0P', 403], ['23503', 409], ['23505', 409], ['25006', 405], ['25', 500], ['28', 403],
	['2D', 500], ['38', 500], ['39', 500], ['3B', 500], ['40', 500], ['53', 503], ['54', 413], ['55', 500], ['57P01', 503], ['57', 500],
	['58', 500], ['F0', 500], ['HV', 500], ['P0001', 400], ['P0', 500], ['XX', 500], ['42883', 404], ['42P01', 404],
];

function statusOf(code, isAnonymous) {
	if (code === '42501') return isAnonymous ? 401 : 403;
	if (code.startsWith('PT')) {
		const status = /^\d{3}$/.test(code.slice(2)) ? Number(code.slice(2)) : 500;

		return isStatus(status) ? status : 500;
	}
	return STATUSES.find(([beginning]) => code.startsWith(beginning))?.[1] ?? 400;
}

export function isStatus(status) {
	return Number.isInteger(status) && status >= 200 && status <= 999;
}
