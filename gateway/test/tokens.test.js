// Tokens: which are taken, for how long, and that no key is taken for another.

import assert from 'node:assert/strict';
import { createHmac, generateKeyPairSync, randomBytes } from 'node:crypto';
import http from 'node:http';
import test from 'node:test';
import { SignJWT, exportJWK } from 'jose';
import { Refusal } from '../src/errors.js';
import { makeVerifier } from '../src/tokens.js';

const SECRET = 'a secret of 32 characters or more, for tests';
const config = { jwtSecret: SECRET, jwksUrl: '', jwtAudience: '', jwtRoleClaim: 'role', anonRole: 'docsync_anon' };
// A certificate, for CN=issuer
const CERTIFICATE = `-----BEGIN CERTIFICATE-----
MIIBeDCCAR+gAwIBAgIURDRStoeBmJOFNbD6tVq/9K99HNAwCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGaXNzdWVyMCAXDTI2MTEyODEyMDUzNVoYDzIxMjYxMTA0MTIw
NTM1WjARMQ8wDQYDVQQDDAZpc3N1ZXIwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AAR2ctGnbGRCF/c7gGMWNIeQMpAWy7C1maGm295fiRfM4FbSCrrKKhnB1GbRFmWY
MJCfFhlJKs+9xK450+uZEzMXo1MwUTAdBgNVHQ4EFgQU8RxSDl73OcpW8Yohz6oY
nOJirbMwHwYDVR0jBBgwFoAU8RxSDl73OcpW8Yohz6oYnOJirbMwDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiBM93GD8100PST9NasnAPJS24sUUhml
Vcm+H5xbK57tpgIgAR6yqUS46h698SySC9nv/XnHpJn2lJ3YKUyJKCVy3Tw=
-----END CERTIFICATE-----
`;
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
});

test('what anybody may know is not taken for a secret', async () => {
	const pairs = [generateKeyPairSync('rsa', { modulusLength: 2048 }), generateKeyPairSync('ec', { namedCurve: 'P-256' }), generateKeyPairSync('ed25519')];
	const keys = await Promise.all(pairs.map(({ publicKey }) => exportJWK(publicKey)));
	const jwks = JSON.stringify({ keys });
	const known = {
		'a JWKS that is broken': `${jwks.slice(0, -1)},}`,
		'a JWKS in quotes': JSON.stringify(jwks),
		'a JWKS with a secret among public keys': JSON.stringify({ keys: [{ kty: 'oct', k: encode(SECRET) }, keys[0]] }),
		'an array of JWKs': JSON.stringify(keys),
		'an array of JWKs that is broken': `${JSON.stringify(keys)},`,
		'an empty array, with spaces': `[${' '.repeat(40)}]`,
		'the URL of a JWKS': 'https://issuer.example.com/.well-known/jwks.json',
		'... in quotes': '"https://issuer.example.com/oauth2/v1/keys"',
		'... without https': 'issuer.example.com/.well-known/jwks.json',
		'an OpenSSH key': `ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ${'C7vw9'.repeat(50)} anna@example.com`,
		'... of another kind': `ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBB${'C7vw9'.repeat(17)}=`,
		'... with options': `no-pty ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI${'C7vw9'.repeat(8)}`,
		'... its base64 alone': `AAAAB3NzaC1yc2EAAAADAQABAAABAQ${'C7vw9'.repeat(50)}`,
		'... as RFC 4716 has it': `---- BEGIN SSH2 PUBLIC KEY ----\nAAAAB3NzaC1yc2EAAAADAQABAAABAQ${'C7vw9'.repeat(50)}\n---- END SSH2 PUBLIC KEY ----`,
		'a certificate with its subject': `subject=CN = issuer.example.com\nissuer=CN = example\n${CERTIFICATE}`,
		'DER of a kind that nobody here knows': Buffer.from([0x30, 0x81, 0x90, ...randomBytes(0x90)]).toString('base64'),
		'a certificate without BEGIN': CERTIFICATE.replace(/-----.*-----\n/g, ''),
	};

	for (const { publicKey } of pairs) {
		const type = publicKey.asymmetricKeyType;
		const pem = publicKey.export({ type: 'spki', format: 'pem' });
		const der = publicKey.export({ type: 'spki', format: 'der' });

		Object.assign(known, {
			[`${type}: PEM`]: pem, [`${type}: PEM in quotes`]: `"${pem.trim()}"`, [`${type}: PEM in JSON`]: JSON.stringify(pem), [`${type}: PEM without BEGIN`]: pem.replace(/-----.*-----\n/g, ''),
			[`${type}: DER in base64`]: der.toString('base64'), [`${type}: DER in base64url`]: der.toString('base64url'), [`${type}: DER in hexadecimal`]: der.toString('hex'),
		});
	}
	known['rsa: PKCS #1'] = pairs[0].publicKey.export({ type: 'pkcs1', format: 'der' }).toString('base64');
	for (const what in known) await assert.rejects(makeVerifier({ ...config, jwtSecret: known[what] }), /not a secret, JWK or JWKS/, what);

	// Secrets of all kinds are fine.
	for (const secret of ['[brackets], but a secret all the same: x', 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA', '30820122aabbccddeeff00112233445566778899', 'MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKC',
		'12345678901234567890123456789012', '"in quotes, which are part of the secret"', ...Array.from({ length: 100 }, (_, n) => Buffer.alloc(48, n + 0x31).toString('base64'))]) {
		assert.equal((await (await makeVerifier({ ...config, jwtSecret: secret }))(`Bearer ${hs256({ role: 'x' }, secret)}`)).role, 'x', secret);
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

test('until when a token is good, and which tokens are of the same client', async () => {
	const verify = await makeVerifier(config);
	const claims = { role: 'docsync_user', sub: 'anna', exp: now() + 100 };
	const of = (more) => verify(`Bearer ${hs256({ ...claims, ...more })}`);
	const one = await of({});

	assert.equal(one.expires, (claims.exp + 30) * 1000, 'with 30 seconds of grace');
	assert.equal((await of({ exp: undefined })).expires, Infinity);
	assert.equal((await of({ exp: now() + 200, iat: now(), jti: 'x', nbf: now() })).client, one.client);
	assert.notEqual((await of({ sub: 'bert' })).client, one.client);
	assert.deepEqual([verify(undefined).client, verify(undefined).expires], ['', Infinity], 'who has none');
});
