// document.js - what the store keeps of a document, and under which entries it is found again.

import { bucketOf } from './digest.js';

/** What `unsent` is: the service had this version when last heard; an edit; a mark of the comparison's. */
export const SENT = 0;
export const EDIT = 1;
export const MARK = 2;

export const MIN_VERSION = -(2n ** 63n);
export const MAX_VERSION = 2n ** 63n - 1n;

/**
 * @typedef {object} Version one of two in a conflict
 * @property {bigint} clientVersion
 * @property {boolean} deleted
 * @property {string | null} body
 *
 * @typedef {object} Told a document as the service tells it; of a listing's rows the body is missing
 * @property {string} id
 * @property {bigint} clientVersion
 * @property {string} clientId
 * @property {string} LastUpdateUtc
 * @property {boolean} deleted
 * @property {string | null} [body]
 *
 * @typedef {object} Sent a document as it is sent
 * @property {string} id
 * @property {bigint} clientVersion
 * @property {boolean} deleted
 * @property {string | null} body
 * @property {number} unsent
 * @property {bigint | null} [baseVersion]
 * @property {string | null} [baseUtc]
 */

const encoder = new TextEncoder();

/**
 * A text of ASCII whose order is that of the id's bytes in UTF-8, as the service lists them, wherever texts are compared: by
 * bytes (SQLite) or by UTF-16's units (IndexedDB).
 * @param {string} id
 */
export function order(id) {
	if (/^[\x01-\x7e]*$/.test(id)) return id;
	let text = '';

	for (const byte of encoder.encode(id)) text += byte < 0x7f ? String.fromCharCode(byte) : `\x7f${byte.toString(16)}`;
	return text;
}

/**
 * The same for a clientVersion.
 * @param {bigint} version
 */
export function versionOrder(version) {
	return (version - MIN_VERSION).toString(16).padStart(16, '0');
}

/**
 * The same for a bucket.
 * @param {number} bucket
 */
export function bucketOrder(bucket) {
	return bucket.toString(16).padStart(2, '0');
}

const toText = (version) => version === null ? null : String(version);
const toVersion = (text) => text === null ? null : BigInt(text);

/** A document of the store's. The record, which the store keeps, has texts in the place of BigInts. */
export class Document {
	/**
	 * @param {string} id
	 * @param {any} [record]
	 */
	constructor(id, record) {
		this.id = id;
		/** @type {bigint | null} milliseconds since 1970 at the edit */
		this.clientVersion = record ? BigInt(record.clientVersion) : null;
		/** A tombstone */
		this.deleted = record?.deleted ?? false;
		/** @type {string | null} JSON as it was written; null when deleted */
		this.body = record?.body ?? null;
		this.unsent = record?.unsent ?? SENT;
		/** @type {string | null} set aside: the service refuses this version, and why. Not sent again */
		this.error = record?.error ?? null;
		/** @type {string | null} of this version, as the service told it; null: it never did */
		this.lastUpdateUtc = record?.lastUpdateUtc ?? null;
		/** @type {string | null} of who wrote this version, as the service told it */
		this.clientId = record?.clientId ?? null;
		/** @type {bigint | null} what the service last told of this id; null: that it has nothing, or nothing yet. The digest is
		 * made of these three */
		this.baseVersion = toVersion(record?.baseVersion ?? null);
		/** @type {string | null} */
		this.baseUtc = record?.baseUtc ?? null;
		this.baseDeleted = record?.baseDeleted ?? false;
		/** @type {bigint | null} the highest version that was sent or received under the own clientId */
		this.sent = toVersion(record?.sent ?? null);
		/** Sent, and no answer came: the service may have it or not */
		this.unanswered = record?.unanswered ?? false;
		/** @type {{ mine: Version, theirs: Version } | null} that onConflict hasn't decided yet. Not sent until then */
		this.conflict = record?.conflict
			? { mine: withVersion(record.conflict.mine, BigInt), theirs: withVersion(record.conflict.theirs, BigInt) } : null;
		this.bucket = record?.bucket ?? bucketOf(id);
		/** What the sums have of it: version and stamp */
		this.counted = this.toCount();
	}

	/**
	 * Is now what the service told: this version, there and here.
	 * @param {Told} told
	 */
	becomes(told) {
		this.clientVersion = told.clientVersion;
		this.deleted = told.deleted;
		this.body = told.deleted ? null : told.body ?? null;
		this.lastUpdateUtc = told.LastUpdateUtc;
		this.clientId = told.clientId;
		this.unsent = SENT;
		this.error = null;
		this.unanswered = false;
		this.rebase(told);
	}

	/**
	 * What the service has, be it what is here or not; null: nothing.
	 * @param {Told | null} told
	 */
	rebase(told) {
		this.baseVersion = told ? told.clientVersion : null;
		this.baseUtc = told ? told.LastUpdateUtc : null;
		this.baseDeleted = told ? told.deleted : false;
	}

	/**
	 * What the sums are to have of it: live documents as the service told them.
	 * @returns {[bigint, string] | null}
	 */
	toCount() {
		return this.baseVersion !== null && this.baseUtc !== null && !this.baseDeleted ? [this.baseVersion, this.baseUtc] : null;
	}

	/** Whether the service had it once. */
	get wasTold() {
		return this.baseVersion !== null || this.unsent === MARK;
	}

	/** @returns {Version} */
	get version() {
		return { clientVersion: this.clientVersion ?? 0n, deleted: this.deleted, body: this.body };
	}

	/** What a person sees of it, to tell whether that has changed. */
	get shown() {
		return JSON.stringify([this.deleted, this.body, this.unsent > 0 || this.conflict !== null, this.error]);
	}

	/**
	 * What it is found by, besides its id: a letter for the list, and what the list is ordered by. A dot is a document that is
	 * there; u: to be sent; e: set aside; c: a conflict that is to be decided; a: unanswered; d: a tombstone, by its age;
	 * b: any, by bucket.
	 * @returns {string[]}
	 */
	entries() {
		const place = order(this.id);
		const entries = [`b${bucketOrder(this.bucket)}${place}`];

		if (!this.deleted) entries.push(`.${place}`);
		if (this.error !== null) entries.push(`e${place}`);
		if (this.conflict) entries.push(`c${place}`);
		else if (this.unsent && this.error === null) entries.push(`u${this.unsent}${versionOrder(this.clientVersion ?? 0n)}${place}`);
		if (this.unanswered) entries.push(`a${place}`);
		if (this.deleted && !this.unsent && this.lastUpdateUtc !== null) entries.push(`d${this.lastUpdateUtc}${place}`);
		return entries;
	}

	/** As the store keeps it; prefix: the collection's. */
	toRecord(prefix) {
		return {
			key: prefix + this.id,
			entries: this.entries().map((entry) => prefix + entry),
			id: this.id,
			clientVersion: String(this.clientVersion),
			deleted: this.deleted,
			body: this.body,
			unsent: this.unsent,
			error: this.error,
			lastUpdateUtc: this.lastUpdateUtc,
			clientId: this.clientId,
			baseVersion: toText(this.baseVersion),
			baseUtc: this.baseUtc,
			baseDeleted: this.baseDeleted,
			sent: toText(this.sent),
			unanswered: this.unanswered,
			conflict: this.conflict
				? { mine: withVersion(this.conflict.mine, String), theirs: withVersion(this.conflict.theirs, String) } : null,
			bucket: this.bucket,
		};
	}
}

function withVersion(version, convert) {
	return { ...version, clientVersion: convert(version.clientVersion) };
}
