// take.js - takes over what the service returns, by the service's own rule, so that all clients end up the same; and notices a
// clientId that another store uses, too. In a transaction.

import { Document, EDIT, MARK } from './document.js';

/**
 * Takes over a document from the service. Returns whether that changed the local one. listed: it is what the service has now,
 * not from a page that may be older than what is here.
 * @param {import('./local.js').Transaction} transaction
 * @param {import('./document.js').Told} told
 */
export async function take(transaction, told, listed = false) {
	const document = await transaction.find(told.id) ?? new Document(told.id);
	const before = document.shown;
	const ours = document.clientVersion;
	const later = listed || document.baseUtc === null || told.LastUpdateUtc > document.baseUtc;

	if (told.clientId === transaction.state.clientId) {
		if (document.sent === null || document.sent < told.clientVersion) document.sent = told.clientVersion;
	} else if (transaction.keepsConflicts && later) {
		noteConflict(document, told);
	}
	if (ours !== null && isNewer(document, told)) {
		// A version that the service had, and that is newer than what it returns later, was lost there: it is sent again.
		if (later) {
			document.rebase(told);
			document.unsent ||= MARK;
		}
	} else if (ours === null || told.clientVersion > ours || later) {
		document.becomes(told);
	}
	await transaction.save(document);
	return before !== document.shown || ours !== document.clientVersion;
}

/** Somebody else's edit that the one here isn't based on: onConflict must decide. */
function noteConflict(document, told) {
	const isSeen = told.LastUpdateUtc === document.baseUtc && told.clientVersion === document.baseVersion;
	const theirs = { clientVersion: told.clientVersion, deleted: told.deleted, body: told.deleted ? null : told.body ?? null };

	if (document.conflict) document.conflict = { ...document.conflict, theirs };
	else if (document.unsent === EDIT && !isSeen && !(told.deleted === document.deleted && theirs.body === document.body)) {
		document.conflict = { mine: document.version, theirs };
	}
}

/** Whether the service will accept what is unsent here: if it is newer or, with clientVersion 0, equal. */
function isNewer(document, told) {
	if (told.clientVersion === 0n && document.clientVersion === 0n) {
		return document.unsent === EDIT || document.unsent === MARK && isLater(document, told);
	}
	return told.clientVersion < document.clientVersion;
}

/** Version 0 can be replaced by another version 0, so there only the stamps tell which is newer. */
export function isLater(local, told) {
	return local.lastUpdateUtc !== null && local.lastUpdateUtc > told.LastUpdateUtc;
}

/**
 * A version under our own clientId that was never sent: another store has the same one. This store takes a new one; if a token
 * names the client, it can only report that.
 */
export async function lookForTwin(transaction, told, isBound) {
	const { clientId } = transaction.state;
	const document = await transaction.find(told.id);

	// (A tombstone of what isn't here may be our own, forgotten along with what was sent.)
	if (told.clientId !== clientId || !document && told.deleted) return;
	if (document && document.sent !== null && told.clientVersion <= document.sent) return;
	transaction.set({
		rename: !isBound,
		twin: `document "${told.id}", clientVersion ${told.clientVersion}, was written under the clientId of this store, ${clientId}, by another`,
	});
	if (document) {
		document.sent = told.clientVersion;		// report it once
		await transaction.save(document);
	}
}

/** The earlier of two stamps, null being later than all. "-infinity" is before any other, even as text. */
export function earlier(one, other) {
	if (one === null || other === null) return one ?? other;
	return one < other ? one : other;
}
