// tokens.js - who makes a request: tokens (JWT), verified once and remembered until they expire.

import { decodeProtectedHeader, createLocalJWKSet, createRemoteJWKSet, errors, jwtVerify } from 'jose';
import { refuseForNow, refuseToken } from './errors.js';
import { log } from './log.js';

const SYMMETRIC = ['HS256', 'HS384', 'HS512'];
const ASYMMETRIC = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA', 'Ed25519'];
const SKEW = 30;				// seconds that clocks may differ, as in PostgREST
const KEPT_MS = 600_000;		// then a token is verified again: its key may have been withdrawn
const NOT_OF_CLIENT = { exp: undefined, nbf: undefined, iat: undefined, jti: undefined };		// these differ between a client's tokens
const KEPT_SIZE = 16_000_000;	// characters of tokens and claims in total

// Returns a function that takes the header Authorization and returns, or promises, { role, claims, collection, client, expires }: the role
// that a request runs as, the claims as text, the collection that they name, what is the same for all tokens of a client, and when the
// token is no longer good, in milliseconds. Throws, or rejects, with a refusal.
export async function makeVerifier(config) {
	const { key, algorithms } = readKeys(config);
	const path = config.jwtRoleClaim.replace(/^\./, '').split('.');
	const anonymous = { role: config.anonRole, claims: JSON.stringify({ role: config.anonRole }), collection: undefined, client: '', expires: Infinity };
	const kept = new Map();		// by token, oldest first
	let size = 0;

	const forget = (token) => {
		size -= kept.get(token).size;
		kept.delete(token);
	};

	const verify = async (token, now) => {
		const { payload, text } = await check(token, key, algorithms, config.jwtAudience, now);
		const claimed = path.reduce((value, name) => value?.[name], payload);
		const role = claimed === undefined ? config.anonRole : typeof claimed === 'string' ? claimed : JSON.stringify(claimed);
		const who = {
			role,
			claims: payload.role === role ? text : JSON.stringify({ ...payload, role }),
			collection: typeof payload.collection === 'string' ? payload.collection : undefined,
			client: JSON.stringify({ ...payload, ...NOT_OF_CLIENT }),
			expires: ((payload.exp ?? Infinity) + SKEW) * 1000,
			size: token.length + text.length,
		};

		who.until = Math.min(now + KEPT_MS, who.expires);
		who.size += who.client.length;
		if (kept.has(token)) forget(token);
		kept.set(token, who);
		size += who.size;
		while (size > KEPT_SIZE) forget(kept.keys().next().value);
		return who;
	};

	return (authorization) => {
		const token = /^bearer\s+(.*)$/i.exec(authorization ?? '')?.[1] ?? '';
		const now = Date.now();
		const who = token === '' ? anonymous : kept.get(token);

		if (who === undefined) return verify(token, now);
		if (now < (who.until ?? Infinity)) return who;
		forget(token);
		return verify(token, now);
	};
}

// Returns the key, or a function that finds it, and its algorithms. A secret is never taken for a public key, or a public key for a secret:
// each kind has its own algorithms.
function readKeys({ jwtSecret, jwksUrl }) {
	let keys;

	if (jwksUrl) return { key: createRemoteJWKSet(new URL(jwksUrl)), algorithms: ASYMMETRIC };
	try {
		keys = JSON.parse(jwtSecret);
	} catch {
		keys = null;
	}
	if (Array.isArray(keys?.keys) && keys.keys.every(({ kty }) => kty !== 'oct')) return { key: createLocalJWKSet(keys), algorithms: ASYMMETRIC };
	if (Array.isArray(keys?.keys) && keys.keys.length === 1) [keys] = keys.keys;
	if (keys?.kty === 'oct') return secretKey(Buffer.from(keys.k, 'base64url'));
	if (typeof keys?.kty === 'string') return { key: createLocalJWKSet({ keys: [keys] }), algorithms: ASYMMETRIC };
	// A public key that is broken, or in another form, would otherwise be used as a secret that everybody knows.
	if (keys instanceof Object || isPublic(jwtSecret)) {
		throw new Error('DOCSYNC_JWT_SECRET is not a secret, JWK or JWKS: public keys must be a JWK or JWKS, and its URL belongs into DOCSYNC_JWKS_URL');
	}
	return secretKey(Buffer.from(jwtSecret));
}

// Does a text look like what anybody may know: a JSON object or key, PEM, a URL, an OpenSSH key, or DER in base64 or hexadecimal?
function isPublic(text) {
	const bare = text.replace(/^["'\s]+|["'\s]+$/g, '');

	return /^\{|["']kty\\?["']\s*:|-{4} ?BEGIN |^[a-z][a-z0-9+.-]*:\/\/|\.well-known\/|(?:^|\s)(?:ssh-|ecdsa-sha2-|sk-)\S+\s+AAAA/i.test(bare)
		|| isEncodedKey(Buffer.from(bare, 'base64')) || isEncodedKey(Buffer.from(bare.replace(/[\s:]/g, ''), 'hex'));
}

// Are these bytes a key or certificate in DER, a sequence as long as it says, or an OpenSSH key, which begins with the length of its kind's
// name? One of 50,000 random secrets looks like that, too; it is better refused than a public key accepted.
function isEncodedKey(bytes) {
	const { length } = bytes;

	if (length < 20) return false;
	if (/^\0\0\0.(?:ssh-|ecdsa-sha2-|sk-)/s.test(bytes.toString('latin1', 0, 20))) return true;
	if (bytes[0] !== 0x30) return false;
	return bytes[1] === length - 2 || (bytes[1] === 0x81 && bytes[2] <= length - 3) || (bytes[1] === 0x82 && bytes.readUInt16BE(2) <= length - 4);
}

// A secret is used only for hashes that aren't longer than itself.
function secretKey(key) {
	if (key.length < 32) throw new Error('DOCSYNC_JWT_SECRET has fewer than 32 characters');
	return { key, algorithms: SYMMETRIC.filter((name) => key.length * 8 >= Number(name.slice(2))) };
}

// Verifies a token. Returns its claims, and their original text, which has numbers that JavaScript would round as they were signed.
async function check(token, key, algorithms, audience, now) {
	const parts = token.split('.').length;
	let payload;

	if (parts !== 3) throw refuseToken(`JWSError (CompactDecodeError Invalid number of parts: Expected 3 parts; got ${parts})`);
	try {
		({ payload } = await verifyBy(token, key, { algorithms, clockTolerance: SKEW, currentDate: new Date(now) }));
	} catch (error) {
		if (isWithoutKeys(error)) {
			log('warning', 'could not fetch keys from DOCSYNC_JWKS_URL', { error: error.message });
			throw refuseForNow();
		}
		throw refuseToken(describe(error, token));
	}
	if (payload.iat !== undefined && !(payload.iat <= now / 1000 + SKEW)) throw refuseToken('JWTIssuedAtFuture');
	if (audience && payload.aud !== undefined && ![].concat(payload.aud).includes(audience)) throw refuseToken('JWTNotInAudience');
	return { payload, text: Buffer.from(token.split('.')[1], 'base64url').toString() };
}

// A token that doesn't say which key it is signed with may be signed with any suitable key.
async function verifyBy(token, key, options) {
	try {
		return await jwtVerify(token, key, options);
	} catch (error) {
		if (!(error instanceof errors.JWKSMultipleMatchingKeys)) throw error;
		for await (const one of error) {
			try {
				return await jwtVerify(token, one, options);
			} catch (cause) {
				if (!(cause instanceof errors.JWSSignatureVerificationFailed)) throw cause;
			}
		}
		throw new errors.JWSSignatureVerificationFailed();
	}
}

// Is it an error of fetching keys, which isn't the token's fault: no connection, no answer in time, or a wrong answer?
const isWithoutKeys = (error) => error instanceof errors.JWKSTimeout || error instanceof errors.JWKSInvalid || error.code === 'ERR_JOSE_GENERIC'
	|| (error instanceof TypeError && error.message === 'fetch failed');

// PostgREST's texts for what is wrong with a token, as far as clients may rely on them.
function describe(error, token) {
	if (error instanceof errors.JWTExpired) return 'JWT expired';
	if (error instanceof errors.JWTClaimValidationFailed && error.claim === 'nbf' && error.reason === 'check_failed') return 'JWTNotYetValid';
	if (error instanceof errors.JWTClaimValidationFailed || error instanceof errors.JWTInvalid) return 'JWTClaimsSetDecodeError';
	try {
		decodeProtectedHeader(token);
	} catch {
		return 'JWSError (JSONDecodeError)';
	}
	if (error instanceof errors.JWKSNoMatchingKey) return 'JWSError JWSNoValidSignatures';
	return error instanceof errors.JWSSignatureVerificationFailed || error instanceof errors.JOSEAlgNotAllowed
		? 'JWSError JWSInvalidSignature' : 'JWSError (CompactDecodeError)';
}
