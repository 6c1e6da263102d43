// merge.js - two devices have edited the same note independently: both versions are kept in the note, and any device, even
// offline, may decide between them at any time.
//
// onConflict could ask the user instead. But a sync waits for its promise, and meanwhile nothing else is sent.

/**
 * @typedef {{ text: string | null, by: string }} Version null: it was deleted
 * @typedef {{ body?: any, deleted: boolean }} Document
 */

/**
 * The versions of a note; only one if there is no conflict.
 * @param {Document} document
 * @param {string} [by] who deleted it, if it is
 * @returns {Version[]}
 */
export function versionsOf({ body, deleted }, by = 'elsewhere') {
	if (deleted) return [{ text: null, by }];
	if (Array.isArray(body?.versions) && body.versions.length > 1 && body.versions.every(isVersion)) return body.versions;
	// What others have stored there needn't be a note.
	return [{ text: typeof body?.text === 'string' ? body.text : typeof body === 'string' ? body : JSON.stringify(body), by: body?.by ?? 'elsewhere' }];
}

function isVersion(version) {
	return version !== null && typeof version === 'object' && 'text' in version;
}

/**
 * For onConflict: a note with the versions of both.
 * @param {{ mine: Document, theirs: Document }} conflict
 * @param {string} device that "mine" comes from
 */
export function merge({ mine, theirs }, device) {
	/** @type {Version[]} */
	const versions = [];

	for (const version of [...versionsOf(theirs), ...versionsOf(mine, device)]) {
		if (!versions.some(({ text }) => text === version.text)) versions.push(version);
	}
	const { text, by } = versions.find((version) => version.text !== null) ?? versions[0];

	// Other fields in the bodies are kept, too.
	return { ...fields(mine.body), ...fields(theirs.body), text, by, versions: versions.length > 1 ? versions : undefined };
}

function fields(body) {
	return body !== null && typeof body === 'object' ? body : {};
}
