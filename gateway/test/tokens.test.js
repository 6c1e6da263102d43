// Tokens: which are taken, for how long, and that no key is taken for another.

import assert from 'node:assert/strict';
import { createHmac, generateKeyPairSync } from 'node:crypto';
import http from 'node:http';
import test from 'node:test';
import { SignJWT, exportJWK } from 'jose';
import { Refusal } from '../src/errors.js';
import { makeVerifier } from '../src/tokens.js';

const SECRET = 'a secret of 32 characters or more, for tests';
const config = { jwtSecret: SECRET, jwksUrl: '', jwtAudience: '', jwtRoleClaim: 'role', anonRole: 'docsync_anon' };
const now = () => Math.floor(Date.now() / 1000);
const encode = (value) => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');

function hs256(claims, secret = SECRET, header = { alg: 'HS256', typ: 'JWT' }) {
	const text = `${encode(header)}.${encode(claims)}`;

	return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}

async function refused(verify, token, message) {
	await assert.rejects(async () => verify(`Bearer ${token}`), (error) => {
		assert(error instanceof Refusal);
		assert.equal(error.status, 401);
		assert.match(JSON.parse(error.body).message, message);
		assert.equal(JSON.parse(error.body).code, 'PGRST301');
		return true;
	});
}

test('the role, claims and collection of a token', async () => {
	const verify = await makeVerifier(config);

	for (const header of [undefined, '', 'Basic x', 'Bearer', 'Bearer ', 'x']) assert.equal((await verify(header)).role, 'docsync_anon');
	assert.equal((await verify(undefined)).claims, '{"role":"docsync_anon"}');
	for (const scheme of ['Bearer', 'bearer', 'BEARER']) {
		assert.equal((await verify(`${scheme} ${hs256({ role: 'docsync_user' })}`)).role, 'docsync_user');
	}
	const text = '{"role": "docsync_user", "collection": "anna", "n": 9007199254740993}';
	const who = await verify(`Bearer ${hs256(text)}`);

	assert.deepEqual([who.role, who.claims, who.collection], ['docsync_user', text, 'anna'], 'claims are handed on as they were signed');
	for (const [claims, role] of [[{}, 'docsync_anon'], [{ role: null }, 'null'], [{ role: 7 }, '7'], [{ role: ['x'] }, '["x"]']]) {
		const other = await verify(`Bearer ${hs256(claims)}`);

		assert.equal(other.role, role);
		assert.equal(JSON.parse(other.claims).role, role);
	}
	assert.equal((await (await makeVerifier({ ...config, jwtRoleClaim: '.app.role' }))(`Bearer ${hs256({ app: { role: 'x' } })}`)).role, 'x');
});

test('tokens that are refused', async () => {
	const verify = await makeVerifier(config);

	await refused(verify, 'x', /got 1\)/);
	await refused(verify, 'a.b.c.d', /got 4\)/);
	await refused(verify, hs256({ role: 'x' }, 'another secret of 32 characters or more'), /^JWSError JWSInvalidSignature$/);
	await refused(verify, hs256({ role: 'x', exp: now() - 31 }), /^JWT expired$/);
	await refused(verify, hs256({ role: 'x', nbf: now() + 40 }), /^JWTNotYetValid$/);
	await refused(verify, hs256({ role: 'x', iat: now() + 40 }), /^JWTIssuedAtFuture$/);
	await refused(verify, hs256({ role: 'x', exp: 'soon' }), /^JWTClaimsSetDecodeError$/);
	await refused(verify, hs256('[1]'), /^JWTClaimsSetDecodeError$/);
	await refused(verify, `${encode({ alg: 'none' })}.${encode({ role: 'x' })}.`, /^JWSError/);
	await refused(verify, hs256({ role: 'x' }, SECRET, { alg: 'none' }), /^JWSError/);
	await refused(verify, hs256({ role: 'x' }, SECRET, { alg: 'RS256' }), /^JWSError/);
	await refused(verify, hs256({ role: 'x' }, SECRET, { alg: 'HS256', crit: ['exp'] }), /^JWSError/);
	assert.equal((await verify(`Bearer ${hs256({ role: 'x', exp: now() - 20, nbf: now() + 20, iat: now() + 20 })}`)).role, 'x', 'clocks may differ');

	const audience = await makeVerifier({ ...config, jwtAudience: 'docs' });

	await refused(audience, hs256({ role: 'x', aud: 'other' }), /^JWTNotInAudience$/);
	for (const aud of ['docs', ['other', 'docs']]) assert.equal((await audience(`Bearer ${hs256({ role: 'x', aud })}`)).role, 'x');
	assert.equal((await audience(`Bearer ${hs256({ role: 'x' })}`)).role, 'x', 'it may name none');
});

test('a token is forgotten when it expires', async (t) => {
	t.mock.timers.enable({ apis: ['Date'], now: 1_800_000_000_000 });
	const verify = await makeVerifier(config);
	const token = hs256({ role: 'x', exp: 1_800_000_060 });

	assert(verify(`Bearer ${token}`) instanceof Promise, 'verified');
	await verify(`Bearer ${token}`);
	assert.equal(verify(`Bearer ${token}`).role, 'x', 'remembered');
	t.mock.timers.setTime(1_800_000_089_000);
	assert.equal(verify(`Bearer ${token}`).role, 'x');
	t.mock.timers.setTime(1_800_000_091_000);
	await refused(verify, token, /^JWT expired$/);
});

test('the memory for tokens is bounded', async () => {
	const verify = await makeVerifier(config);
	const first = hs256({ role: 'x', n: 0 });

	await verify(`Bearer ${first}`);
	for (let n = 1; n < 2400; n++) await verify(`Bearer ${hs256({ role: 'x', n, more: 'x'.repeat(3000) })}`);
	assert(verify(`Bearer ${first}`) instanceof Promise, 'the first is forgotten');
});

test('public keys: RS256, ES256, EdDSA; none is taken for a secret', async () => {
	const pairs = {
		RS256: generateKeyPairSync('rsa', { modulusLength: 2048 }), ES256: generateKeyPairSync('ec', { namedCurve: 'P-256' }), EdDSA: generateKeyPairSync('ed25519'),
	};
	const keys = [];

	for (const alg in pairs) keys.push({ ...await exportJWK(pairs[alg].publicKey), kid: alg, alg, use: 'sig' });
	const jwks = JSON.stringify({ keys });
	let asked = 0;
	const server = http.createServer((_, response) => {
		asked++;
		response.end(jwks);
	}).listen(0, '127.0.0.1');

	await new Promise((resolve) => { server.on('listening', resolve); });
	for (const source of [{ jwtSecret: jwks }, { jwtSecret: '', jwksUrl: `http://127.0.0.1:${server.address().port}/` }]) {
		const verify = await makeVerifier({ ...config, ...source });

		for (const alg in pairs) {
			const token = await new SignJWT({ role: 'docsync_user' }).setProtectedHeader({ alg, kid: alg }).sign(pairs[alg].privateKey);

			assert.equal((await verify(`Bearer ${token}`)).role, 'docsync_user', alg);
			await refused(verify, `${token.slice(0, -4)}AAAA`, /JWSInvalidSignature|JWSError/);
		}
		// The public key, which everybody knows, used as a secret
		for (const secret of [jwks, pairs.RS256.publicKey.export({ type: 'spki', format: 'pem' }), keys[0].n]) {
			for (const kid of ['RS256', undefined]) await refused(verify, hs256({ role: 'docsync_user' }, secret, { alg: 'HS256', kid }), /^JWSError/);
		}
		await refused(verify, `${encode({ alg: 'none', kid: 'RS256' })}.${encode({ role: 'x' })}.`, /^JWSError/);
		const unknown = await new SignJWT({ role: 'x' }).setProtectedHeader({ alg: 'RS256', kid: 'other' }).sign(pairs.RS256.privateKey);

		await refused(verify, unknown, /^JWSError/);
	}
	assert.equal(asked, 1, 'keys are kept');
	server.close();

	const secret = await makeVerifier({ ...config, jwtSecret: JSON.stringify({ kty: 'oct', k: encode(SECRET) }) });

	assert.equal((await secret(`Bearer ${hs256({ role: 'x' })}`)).role, 'x', 'a secret may be a JWK');
	await assert.rejects(makeVerifier({ ...config, jwtSecret: 'short' }), /fewer than 32/);
	// A public key in a form that isn't understood must not be taken for a secret.
	for (const known of [pairs.RS256.publicKey.export({ type: 'spki', format: 'pem' }), `${jwks.slice(0, -1)},}`, JSON.stringify({ keys: [{ kty: 'oct', k: encode(SECRET) }, keys[0]] })]) {
		await assert.rejects(makeVerifier({ ...config, jwtSecret: known }), /not a secret, JWK/);
	}
});

test('a token that names no key may be signed with any', async () => {
	const pairs = [1, 2, 3].map(() => generateKeyPairSync('rsa', { modulusLength: 2048 }));
	const keys = await Promise.all(pairs.slice(0, 2).map(async ({ publicKey }, n) => ({ ...await exportJWK(publicKey), kid: `${n}` })));
	const verify = await makeVerifier({ ...config, jwtSecret: JSON.stringify({ keys }) });
	const [first, second, other] = await Promise.all(pairs.map(({ privateKey }) => new SignJWT({ role: 'x' }).setProtectedHeader({ alg: 'RS256' }).sign(privateKey)));

	for (const token of [first, second]) assert.equal((await verify(`Bearer ${token}`)).role, 'x');
	await refused(verify, other, /^JWSError JWSInvalidSignature$/);
});

test('when keys can\'t be fetched, tokens aren\'t to blame', async () => {
	const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
	const token = await new SignJWT({ role: 'x' }).setProtectedHeader({ alg: 'RS256', kid: 'a' }).sign(privateKey);
	const bodies = ['', 'not JSON', '{}'];
	const server = http.createServer((_, response) => {
		const body = bodies.shift();

		response.writeHead(body === '' ? 500 : 200).end(body);
	}).listen(0, '127.0.0.1');

	await new Promise((resolve) => { server.on('listening', resolve); });
	const jwksUrl = `http://127.0.0.1:${server.address().port}/`;
	const verifiers = await Promise.all([1, 2, 3].map(() => makeVerifier({ ...config, jwtSecret: '', jwksUrl })));

	for (const verify of verifiers) await assert.rejects(async () => verify(`Bearer ${token}`), { status: 503 });
	await new Promise((resolve) => { server.close(resolve).closeAllConnections(); });
	const verify = await makeVerifier({ ...config, jwtSecret: '', jwksUrl });

	await assert.rejects(async () => verify(`Bearer ${token}`), { status: 503 });
	await refused(verify, 'a.b.c', /^JWSError/);
});
