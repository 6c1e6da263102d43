// document.js - what the store keeps of a document, and the entries by which it is found.

import { bucketOf } from './digest.js';

/** Values of `unsent`: none, the service had this version at last knowledge; an edit; a mark set by a comparison. */
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
 * @typedef {object} Told a document as the service returns it; rows of a listing have no body
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
 * An ASCII text that sorts like the id's bytes in UTF-8, which is the service's order, whether texts are compared by bytes
 * (SQLite) or by UTF-16 code units (IndexedDB).
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

/** A document in the store. The record, which the store keeps, has texts instead of BigInts. */
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
		/** @type {string | null} set aside: why the service refuses this version, which isn't sent again */
		this.error = record?.error ?? null;
		/** @type {string | null} of this version, as the service said; null: it never did */
		this.lastUpdateUtc = record?.lastUpdateUtc ?? null;
		/** @type {string | null} of the client that wrote this version, as the service said */
		this.clientId = record?.clientId ?? null;
		/**
		 * @type {bigint | null} what the service last said about this id; null: that it has nothing, or nothing yet. The digest
		 * is made of these three
		 */
		this.baseVersion = toVersion(record?.baseVersion ?? null);
		/** @type {string | null} */
		this.baseUtc = record?.baseUtc ?? null;
		this.baseDeleted = record?.baseDeleted ?? false;
		/** @type {bigint | null} the highest version that was sent or received under our own clientId */
		this.sent = toVersion(record?.sent ?? null);
		/** Sent, but no answer came: the service may or may not have it */
		this.unanswered = record?.unanswered ?? false;
		/** @type {{ mine: Version, theirs: Version } | null} that onConflict hasn't decided yet; not sent until then */
		this.conflict = record?.conflict
			? { mine: withVersion(record.conflict.mine, BigInt), theirs: withVersion(record.conflict.theirs, BigInt) } : null;
		this.bucket = record?.bucket ?? bucketOf(id);
		/** What the sums contain of it: version and stamp */
		this.counted = this.toCount();
	}

	/**
	 * Becomes what the service has: this version, there and here.
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
	 * Notes what the service has, whether or not it is what is here; null: nothing.
	 * @param {Told | null} told
	 */
	rebase(told) {
		this.baseVersion = told ? told.clientVersion : null;
		this.baseUtc = told ? told.LastUpdateUtc : null;
		this.baseDeleted = told ? told.deleted : false;
	}

	/**
	 * What the sums should contain of it: live documents as the service has them.
	 * @returns {[bigint, string] | null}
	 */
	toCount() {
		return this.baseVersion !== null && this.baseUtc !== null && !this.baseDeleted ? [this.baseVersion, this.baseUtc] : null;
	}

	/** Whether the service has ever had it. */
	get wasTold() {
		return this.baseVersion !== null || this.unsent === MARK;
	}

	/** @returns {Version} */
	get version() {
		return { clientVersion: this.clientVersion ?? 0n, deleted: this.deleted, body: this.body };
	}

	/** What a user sees of it, to find out whether that has changed. */
	get shown() {
		return JSON.stringify([this.deleted, this.body, this.unsent > 0 || this.conflict !== null, this.error]);
	}

	/**
	 * The entries it is found by, besides its id: a letter for the list, and what the list is ordered by. A dot: an existing
	 * document; u: to be sent; e: set aside; c: an undecided conflict; a: unanswered; d: a tombstone, by age; b: any document,
	 * by bucket.
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

	/** The record that the store keeps; prefix is the collection's. */
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
