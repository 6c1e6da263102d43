// errors.js - why a sync can fail. In any case the store is as it was after the last answer: nothing is lost, and the next sync
// continues from there. `retry` says whether the same request may succeed later by itself.

/** The service's answer to a request that it didn't accept. */
export class Refused extends Error {
	/**
	 * @param {number} status HTTP's
	 * @param {string} code SQLSTATE or PostgREST's code; '' if there is none, as when PostgREST lost its connection during the
	 *    request
	 * @param {string} text
	 * @param {unknown} [details] JSON as text, if the service gave it
	 * @param {number} [retryAfter] milliseconds; from the header Retry-After
	 */
	constructor(status, code, text, details, retryAfter) {
		super(`${status} ${code} ${text}`);
		this.name = 'Refused';
		this.status = status;
		this.code = code;
		this.text = text;
		this.details = readDetails(details);
		this.retryAfter = retryAfter;
	}

	/** Whether the same request may be accepted later; in that case it is unknown whether this one was. */
	get retry() {
		return this.status >= 500 || this.status === 429 || !(this.code || this.aboutDocuments);
	}

	/** Whether a part of the documents may be accepted. */
	get aboutDocuments() {
		return this.status === 413 || [400, 409, 422].includes(this.status) && this.code !== ''
			|| this.code === '42501' && ('document' in this.details || this.text.includes('row-level security'));
	}
}

/** @returns {Record<string, unknown>} */
function readDetails(details) {
	try {
		const value = JSON.parse(String(details));

		return value !== null && typeof value === 'object' && !Array.isArray(value) ? value : {};
	} catch {
		return {};
	}
}

/**
 * What was received isn't an answer of the service: the page of a captive portal, something truncated, nothing. None of it was
 * applied.
 */
export class BadAnswer extends Error {
	/** @param {string} message */
	constructor(message) {
		super(message);
		this.name = 'BadAnswer';
		this.retry = true;
	}
}

/** No answer came: offline, the connection broke, the service took too long. The request may have arrived. */
export class NoAnswer extends Error {
	/** @param {unknown} cause */
	constructor(cause) {
		super(`no answer: ${cause instanceof Error ? cause.message : cause}`, { cause });
		this.name = 'NoAnswer';
		this.retry = true;
	}
}

/** What a promise was rejected with; an Error also where that is nothing. */
export function reasonOf(error) {
	return error ?? new Error('rejected without a reason');
}

/**
 * An error as a message to other tabs, which must be plain data; null for none.
 * @param {any} error
 */
export function toMessage(error) {
	if (!error) return null;
	const { name, message, status, code, text, details, retryAfter } = error;

	return { name, message, status, code, text, details: details && JSON.stringify(details), retryAfter };
}

/**
 * The error in another tab's message.
 * @param {ReturnType<typeof toMessage>} told
 */
export function fromMessage(told) {
	if (!told) return null;
	const { name, message, status, code, text, details, retryAfter } = told;

	const error = name === 'Refused' ? new Refused(status, code, text, details, retryAfter)
		: name === 'NoAnswer' ? new NoAnswer(message) : name === 'BadAnswer' ? new BadAnswer(message) : new Error(message);

	return Object.assign(error, { name, message });
}

/** The document has the highest clientVersion there is; it can't be edited any more. */
export class VersionsExhausted extends RangeError {
	/** @param {string} id */
	constructor(id) {
		super(`document "${id}" has the highest clientVersion`);
		this.name = 'VersionsExhausted';
	}
}

/** The server lags behind the cursor, or the cursor has become void: the next sync continues. Never thrown out of a sync. */
export class Stale extends Error {}
