// digest.js - a short summary of a collection, so that client and service can see in one answer whether they hold the same:
// doc/protocol.md, "Comparing". Each live document is hashed to two halves of 32 bits, and these are added up, in total and for
// each bucket of ids.

export const BUCKETS = 256;

const SEED_HI = 0;
const SEED_LO = 0x5bd1e995;
const encoder = new TextEncoder();

/**
 * MurmurHash3_x86_32 of bytes; test/parts.test.js has test vectors.
 * @param {Uint8Array} data
 * @param {number} [seed]
 */
export function murmur3(data, seed = 0) {
	const blocks = data.length >>> 2;
	let h = seed;
	let k = 0;

	for (let i = 0; i < blocks * 4; i += 4) {
		k = data[i] | data[i + 1] << 8 | data[i + 2] << 16 | data[i + 3] << 24;
		k = Math.imul(k, 0xcc9e2d51);
		k = k << 15 | k >>> 17;
		h ^= Math.imul(k, 0x1b873593);
		h = h << 13 | h >>> 19;
		h = Math.imul(h, 5) + 0xe6546b64 | 0;
	}
	if (data.length % 4) {
		k = 0;
		for (let i = data.length - 1; i >= blocks * 4; i--) k = k << 8 | data[i];
		k = Math.imul(k, 0xcc9e2d51);
		k = k << 15 | k >>> 17;
		h ^= Math.imul(k, 0x1b873593);
	}
	h ^= data.length;
	h = Math.imul(h ^ h >>> 16, 0x85ebca6b);
	h = Math.imul(h ^ h >>> 13, 0xc2b2ae35);
	return (h ^ h >>> 16) >>> 0;
}

/**
 * Which of the 256 buckets an id belongs to.
 * @param {string} id
 */
export function bucketOf(id) {
	return murmur3(encoder.encode(id)) & BUCKETS - 1;
}

/**
 * [hi, lo] of a document as the service has it. The length of the id comes first, so that no two documents give the same text.
 * @param {string} id
 * @param {bigint} version
 * @param {string} utc
 */
export function hashDocument(id, version, utc) {
	const data = encoder.encode(`${encoder.encode(id).length}:${id},${version},${utc}`);

	return [murmur3(data, SEED_HI), murmur3(data, SEED_LO)];
}

/**
 * A sum as the service writes it.
 * @param {number} hi
 * @param {number} lo
 */
export function sumText(hi, lo) {
	return (hi >>> 0).toString(16).padStart(8, '0') + (lo >>> 0).toString(16).padStart(8, '0');
}
