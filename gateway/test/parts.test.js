// The parts that need no database: settings, the paths of requests, turns, statuses.

import assert from 'node:assert/strict';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import pg from 'pg';
import { HELP, readConfig } from '../src/config.js';
import { Turnstile, mustReconnect } from '../src/database.js';
import { refuseDatabase } from '../src/errors.js';
import { readHosts } from '../src/hosts.js';
import { readCollections, readRequest } from '../src/requests.js';

const SECRET = 'a secret of 32 characters or more, for tests';

test('settings come from the environment and a file, and the environment wins', () => {
	const dir = mkdtempSync(join(tmpdir(), 'docsync-'));
	const file = join(dir, 'gateway.env');

	writeFileSync(join(dir, 'secret'), `${SECRET}\n`);
	writeFileSync(file, '# a comment\nDOCSYNC_POOL=7\nDOCSYNC_LISTEN=127.0.0.1:1\nDOCSYNC_JWT_SECRET=@secret\n');
	const config = readConfig({ DOCSYNC_LISTEN: '127.0.0.1:2' }, file);

	assert.deepEqual([config.pool, config.listen, config.jwtSecret, config.schema], [7, '127.0.0.1:2', SECRET, 'api']);
	for (const [env, message] of [
		[{}, /either DOCSYNC_JWT_SECRET or/], [{ DOCSYNC_JWT_SECRET: SECRET, DOCSYNC_JWKS_URL: 'http://x/' }, /not both/],
		[{ DOCSYNC_JWT_SECRET: SECRET, DOCSYNC_POOL: '0' }, /^DOCSYNC_POOL is not a positive integer$/],
		[{ DOCSYNC_JWT_SECRET: SECRET, DOCSYNC_POOL_WAIT: '2147484' }, /^DOCSYNC_POOL_WAIT is more than a day$/],
		[{ DOCSYNC_JWT_SECRET: SECRET, DOCSYNC_ANSWER_WAIT: '86401' }, /^DOCSYNC_ANSWER_WAIT is more than a day$/],
		[{ DOCSYNC_JWT_SECRET: SECRET, DOCSYNC_LIVE_CHECK: '3601' }, /^DOCSYNC_LIVE_CHECK is more than an hour$/],
		[{ DOCSYNC_JWT_SECRET: SECRET, DOCSYNC_LOG_REQUESTS: 'yes' }, /^DOCSYNC_LOG_REQUESTS is neither/],
	]) assert.throws(() => readConfig(env), { message });
	writeFileSync(file, 'DOCSYNC_POOLS=7\n');
	assert.throws(() => readConfig({}, file), /unknown setting DOCSYNC_POOLS/);
	assert.match(HELP, /DOCSYNC_POOL\n.*\n +default: 20\n +DOCSYNC_POOL_PER_COLLECTION\n.*half of DOCSYNC_POOL, rounded up\n/);
	for (const [pool, perCollection, expected] of [[undefined, undefined, 10], ['10', undefined, 5], ['4', undefined, 2], ['3', undefined, 2], ['1', undefined, 1], ['4', '3', 3]]) {
		const env = { DOCSYNC_JWT_SECRET: SECRET, DOCSYNC_POOL: pool, DOCSYNC_POOL_PER_COLLECTION: perCollection };

		assert.equal(readConfig(env).poolPerCollection, expected, `half of ${pool}, or ${perCollection}`);
	}
	assert.throws(() => readConfig({ DOCSYNC_JWT_SECRET: SECRET, DOCSYNC_POOL_PER_COLLECTION: '' }), /is not a positive integer/);
});

const request = (method, url, headers = {}) => {
	const rawHeaders = Object.entries({ host: 'x', ...headers }).flat();

	return { method, url, rawHeaders, headers: { host: 'x', ...headers }, httpVersion: '1.1' };
};
const outcome = (...args) => {
	try {
		return readRequest(request(...args), 8)?.route.name ?? 'none';
	} catch (error) {
		return error.status;
	}
};

test('paths are read as nginx reads them', () => {
	for (const path of ['/Docs', '//Docs', '/./Docs', '/x/../Docs', '/%44ocs', '/Docs?x', '/Docs#x', '/Docs?#', 'http://other/Docs', '/x%2f..%2FDocs']) {
		assert.equal(outcome('POST', path), 'docsync_docs', path);
	}
	for (const path of ['/', '/docs', '/Docs/', '/Docs/.', '/Docs%00', '/../Docs', '/%zz', '*', '/Docs%3f', '/Docs%23', '/Docs/Sync/..', '/rpc/docsync_docs']) {
		assert.match(String(outcome('POST', path)), /^40[04]$/, path);
	}
	assert.equal(outcome('GET', '/Docs'), 405);
	assert.equal(outcome('POST', '/Docs/Pull'), 405);
	assert.equal(outcome('GET', '/Docs/Pull?cursor=x'), 'docsync_pull');
	assert.equal(outcome('OPTIONS', '/x'), 'none');
	assert.equal(outcome('POST', '/Docs', { 'content-encoding': 'gzip' }), 415);
	assert.equal(outcome('POST', '/Docs', { 'content-encoding': 'Identity' }), 'docsync_docs');
	assert.equal(outcome('POST', '/Docs', { 'content-length': String(8 * 2 ** 20) }), 'docsync_docs');
	assert.equal(outcome('POST', '/Docs', { 'content-length': String(8 * 2 ** 20 + 1) }), 413);
	assert.equal(outcome('POST', '/Docs/Query', { 'content-length': '65537' }), 413);
	assert.equal(outcome('POST', '/Docs', { 'x-client-id': '\xe9' }), 400, 'a byte that isn\'t UTF-8');
	assert.equal(outcome('POST', '/Docs', { 'x-client-id': 'x'.repeat(9000) }), 431);
	assert.equal(outcome('POST', `/Docs?${'x'.repeat(9000)}`), 414);
});

test('limits: in total, for each key, and nobody waits because of another\'s key', async () => {
	const turnstile = new Turnstile(4, 2, 50);
	const order = [];
	const enter = async (name, key) => {
		await turnstile.enter(key);
		order.push(name);
	};

	await enter('a1', 'a');
	await enter('a2', 'a');
	const third = enter('a3', 'a');
	const late = assert.rejects(enter('a4', 'a'), { status: 503 });

	await enter('b1', 'b');
	await enter('c1', 'c');
	const full = enter('d1', 'd');

	assert.deepEqual(order, ['a1', 'a2', 'b1', 'c1']);
	turnstile.leave('b');
	await full;
	turnstile.leave('a');
	await third;
	assert.deepEqual(order, ['a1', 'a2', 'b1', 'c1', 'd1', 'a3']);
	await late;
	for (const key of ['a', 'a', 'c', 'd']) turnstile.leave(key);
	assert.deepEqual([turnstile.running, turnstile.byKey.size, turnstile.waiting.size], [0, 0, 0], 'nothing is left of it');
});

test('statuses of SQLSTATEs', () => {
	const status = (code, isAnonymous, more) => refuseDatabase({ severity: 'ERROR', code, message: 'm', ...more }, isAnonymous).status;

	for (const [code, expected] of Object.entries({
		22023: 400, '42P01': 404, 23505: 409, 23514: 400, P0001: 400, P0002: 500, 40001: 500, '55P03': 500, '57P01': 503, 57014: 500, 53300: 503, 54000: 413, 25006: 405,
		PT413: 413, PT9: 500, PTxyz: 500, PT099: 500, XX000: 500, '42P17': 400, ZZ000: 400,
	})) assert.equal(status(code), expected, code);
	assert.deepEqual([status('42501', false), status('42501', true)], [403, 401]);

	const said = refuseDatabase({ severity: 'ERROR', code: 'PGRST', message: '{"code":"c","message":"m"}', detail: '{"status":410,"headers":{"X-A":"b"}}' });

	assert.deepEqual([said.status, said.body, said.headers['X-A']], [410, '{"code":"c","details":null,"hint":null,"message":"m"}', 'b']);
	assert.equal(status('PGRST', false, { message: 'x' }), 500);
	assert.equal(refuseDatabase(new Error('Connection terminated unexpectedly')).status, 503);
});

test('errors after which the connection is replaced, in any language', () => {
	const other = (code) => mustReconnect({ severity: 'FEHLER', code });

	for (const code of ['57P01', '08006', '25006', '25P03', 'XX000', undefined]) assert(other(code), code);
	for (const code of ['22023', '42501', 'PT413', '55P03']) assert(!other(code), code);
});

test('a connection string with several hosts becomes one for each, as libpq reads it', () => {
	for (const [uri, expected] of [
		['postgresql://u@a/d', ['postgresql://u@a/d']],
		['postgresql://u:p%40@a:1,b:2/d?sslmode=require', ['postgresql://u:p%40@a:1/d?sslmode=require', 'postgresql://u:p%40@b:2/d?sslmode=require']],
		['postgres://a,[::1]:5433/d', ['postgres://a/d', 'postgres://[::1]:5433/d']],
		['postgresql://u@/d?host=/run/a&port=1', ['postgresql://u@/d?host=%2Frun%2Fa&port=1']],
		['postgresql://u@/d?host=/run/a,b&port=1,2&target_session_attrs=read-write', ['postgresql://u@/d?host=%2Frun%2Fa&port=1', 'postgresql://u@/d?host=b&port=2']],
		['postgresql://u@db/d?port=6432', ['postgresql://u@db/d?port=6432']],
		['postgresql://u@a,b/d?port=6432', ['postgresql://u@a/d?port=6432', 'postgresql://u@b/d?port=6432']],
		['postgresql://u@a:1,[::1]:2/d?port=3,4', ['postgresql://u@a/d?port=3', 'postgresql://u@[::1]/d?port=4']],
		['postgresql://a:1,b/d?port=,4', ['postgresql://a/d', 'postgresql://b/d?port=4']],
		['postgresql:///d?port=6432', ['postgresql:///d?port=6432']],
		['postgresql://u@a:1,b:2/d?host=c,d', ['postgresql://u@a:1/d?host=c', 'postgresql://u@b:2/d?host=d']],
		['postgresql:///d?host=a,b&port=1', ['postgresql:///d?host=a&port=1', 'postgresql:///d?host=b&port=1']],
	]) assert.deepEqual(readHosts(uri, true), expected, uri);
	assert.deepEqual(readHosts('postgresql://u@a:1,b/d?port=6432', true).map((connectionString) => new pg.Client({ connectionString }).port), [6432, 6432]);
	assert.throws(() => readHosts('host=a'), /must begin with postgresql:/);
	assert.throws(() => readHosts('postgresql://a,b/d?target_session_attrs=standby', true), /target_session_attrs=standby isn't supported/);
	assert.throws(() => readHosts('postgresql://a,b/d?target_session_attrs=read-write', false), /isn't supported/);
	for (const uri of ['postgresql:///d?host=a,b,c&port=1,2', 'postgresql://a/d?port=1,2', 'postgresql://a:1,b:2/d?host=c']) assert.throws(() => readHosts(uri, true), /number of ports/, uri);
});

test('the collections of a stream', () => {
	for (const [args, expected] of [
		['', ['mine']], ['collection=', ['mine']], ['collection=null', ['mine']], ['collection', ['mine']], ['&&', ['mine']],
		['collection=a', ['a']], ['collection=a&collection=b%2Fc', ['a', 'b/c']], ['collection=a+b%2B', ['a b+']], ['collection=a=b', ['a=b']],
		['collection=%C3%A4', ['\u00e4']], ['collection=\xc3\xa4', ['\u00e4']], ['%63ollection=a', ['a']],
	]) assert.deepEqual(readCollections(args, 'mine'), expected, args);
	for (const args of ['collection=a&collection=a', 'collection=a&collection=%61', 'Collection=a', 'collection=a&clientId=b', '=a', 'collection=%', 'collection=%ff', 'collection=%00', '%zz=1']) {
		assert.throws(() => readCollections(args, 'mine'), { status: 400 }, args);
	}
	assert.throws(() => readCollections(Array.from({ length: 61 }, (_, n) => `collection=${n}`).join('&'), 'mine'), { status: 413 });
});
