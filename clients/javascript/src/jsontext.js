// jsontext.js - JSON in which the bodies of documents stay text.
//
// A body belongs to the user, and the sync doesn't look into it: it is cut out of the service's answer unchanged, kept as text,
// sent as text, and parsed only when the user asks for the document. So bodies are never altered: 1.10 stays 1.10, and a number
// beyond 2^53 stays exact. The clientVersions around them, 64-bit integers, become BigInts in the same scan.

import { BadAnswer } from './errors.js';

const MAX_ID_BYTES = 500;
const AFTER_KEY = /\s*:\s*/y;
const SCALAR = /[^\][{},:"\s]+/y;
const BRACKET_OR_QUOTE = /[\][{}"]/g;
const ESCAPE = /\\(u0000|ud[89a-f]|.)/g;
const encoder = new TextEncoder();

/**
 * A body as it is stored and sent. Throws a TypeError for what JSON can't represent or PostgreSQL can't store: it is refused
 * here, when the user makes the edit.
 * @param {unknown} value
 * @returns {string}
 */
export function toJson(value) {
	const text = JSON.stringify(value, (key, part) => {
		if (typeof part === 'number' && !Number.isFinite(part)) throw new TypeError(`JSON has no ${part}`);
		return part;
	});

	if (text === undefined) throw new TypeError(`JSON has no ${typeof value}`);
	// JSON.stringify writes half a surrogate pair as an escape, and a whole one unchanged.
	for (const [, escaped] of text.matchAll(ESCAPE)) {
		if (escaped === 'u0000') throw new TypeError('a string has the character U+0000');
		if (escaped.startsWith('ud')) throw new TypeError('a string has half a surrogate pair');
	}
	return text;
}

/**
 * Throws a TypeError unless it is an id: 1 to 500 bytes of text.
 * @param {unknown} id
 */
export function checkId(id) {
	if (typeof id !== 'string') throw new TypeError(`an id is a string, not ${id === null ? 'null' : typeof id}`);
	toJson(id);
	const bytes = encoder.encode(id).length;

	if (bytes < 1 || bytes > MAX_ID_BYTES) throw new TypeError(`an id has 1 to ${MAX_ID_BYTES} bytes, not ${bytes}`);
}

/**
 * The documents of an upload, whose bodies are texts and whose versions are BigInts.
 * @param {import('./document.js').Sent[]} documents
 */
export function documentsText(documents) {
	return `[${documents.map(({ id, clientVersion, deleted, body, baseVersion, baseUtc }) => {
		const parts = [`"id":${JSON.stringify(id)}`, `"clientVersion":${clientVersion}`];

		if (baseVersion !== undefined) parts.push(`"baseVersion":${baseVersion}`);
		if (baseUtc !== undefined) parts.push(`"baseUtc":${JSON.stringify(baseUtc)}`);
		parts.push(deleted ? '"deleted":true' : `"body":${body}`);
		return `{${parts.join()}}`;
	}).join()}]`;
}

/**
 * The service's answer, an object with these keys; the bodies of its documents and winners are texts (null for null, as in
 * tombstones), clientVersions are BigInts. Throws BadAnswer if it isn't that.
 * @param {string} text
 * @param {string[]} keys
 * @returns {any}
 */
export function readAnswer(text, keys) {
	let answer;

	try {
		const [skeleton, bodies] = cutOutBodies(text);

		answer = fill(JSON.parse(skeleton), bodies);
	} catch (error) {
		throw new BadAnswer(`not an answer of the service: ${error instanceof Error ? error.message : error}: ${text.slice(0, 200)}`);
	}
	if (!hasKeys(answer, keys)) throw new BadAnswer(`not an answer of the service: ${text.slice(0, 200)}`);
	return answer;
}

/**
 * Whether it is an object with these keys, and lists where there are lists.
 * @param {any} value
 * @param {string[]} keys
 */
export function hasKeys(value, keys) {
	return isObject(value) && keys.every((key) => key in value && (!LISTS.has(key) || Array.isArray(value[key])));
}

const LISTS = new Set(['documents', 'results', 'rows', 'collections']);

/** Is it a document, as the service returns it? */
export function isTold(document) {
	return isObject(document) && typeof document.id === 'string' && typeof document.clientVersion === 'bigint'
		&& typeof document.LastUpdateUtc === 'string';
}

/**
 * Whether it is a page of a download from this cursor: documents, and a cursor that leads on.
 * @param {any} answer
 * @param {string | null} cursor
 */
export function isPage(answer, cursor) {
	return hasKeys(answer, ['documents', 'cursor', 'more']) && answer.documents.every(isTold) && typeof answer.cursor === 'string'
		&& !(answer.more && !answer.documents.length && answer.cursor === cursor);
}

function isObject(value) {
	return value !== null && typeof value === 'object' && !Array.isArray(value);
}

/** Replaces the numbers by the bodies that they stand for, and the versions by BigInts. */
function fill(value, bodies) {
	if (Array.isArray(value)) {
		for (const part of value) fill(part, bodies);
	} else if (isObject(value)) {
		for (const key of Object.keys(value)) fill(value[key], bodies);
		if ('body' in value) value.body = bodies[value.body];
		if (typeof value.clientVersion === 'string') value.clientVersion = BigInt(value.clientVersion);
	}
	return value;
}

/**
 * The text with a number in place of each body, and quotes around each clientVersion; and the bodies. Inside a body only its
 * end is looked for.
 * @returns {[string, (string | null)[]]}
 */
function cutOutBodies(text) {
	const parts = [];
	const bodies = [];
	let done = 0;
	let position = text.indexOf('"');

	while (position >= 0) {
		const end = endOfString(text, position);
		const key = end - position === 6 || end - position === 15 ? text.slice(position, end) : '';

		position = end;
		AFTER_KEY.lastIndex = end;
		if ((key === '"body"' || key === '"clientVersion"') && AFTER_KEY.test(text)) {
			const start = AFTER_KEY.lastIndex;
			const value = text.slice(start, position = endOfValue(text, start));

			parts.push(text.slice(done, start));
			if (key === '"body"') parts.push(bodies.push(value === 'null' ? null : value) - 1);
			else parts.push(/^-?\d+$/.test(value) ? `"${value}"` : value);
			done = position;
		}
		position = text.indexOf('"', position);
	}
	return [parts.join('') + text.slice(done), bodies];
}

/** The position after the string that begins here. */
function endOfString(text, start) {
	for (let quote = text.indexOf('"', start + 1); quote >= 0; quote = text.indexOf('"', quote + 1)) {
		let first = quote;

		while (text[first - 1] === '\\') first--;
		if ((quote - first) % 2 === 0) return quote + 1;
	}
	throw new SyntaxError('cut off');
}

/** The position after the value that begins here. */
function endOfValue(text, start) {
	if (text[start] === '"') return endOfString(text, start);
	if (text[start] !== '[' && text[start] !== '{') {
		SCALAR.lastIndex = start;
		if (!SCALAR.test(text)) throw new SyntaxError('cut off');
		return SCALAR.lastIndex;
	}
	let depth = 0;

	BRACKET_OR_QUOTE.lastIndex = start;
	for (let match = BRACKET_OR_QUOTE.exec(text); match; match = BRACKET_OR_QUOTE.exec(text)) {
		if (match[0] === '"') BRACKET_OR_QUOTE.lastIndex = endOfString(text, match.index);
		else depth += match[0] === '[' || match[0] === '{' ? 1 : -1;
		if (depth === 0) return BRACKET_OR_QUOTE.lastIndex;
	}
	throw new SyntaxError('cut off');
}
