// Connections to a server that falls silent. test/t/064_gateway_silent.pl has what becomes of requests then, with a real one.

import assert from 'node:assert/strict';
import net from 'node:net';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Database } from '../src/database.js';

const WAIT = 0.3;		// seconds
const WELCOME = Buffer.from('R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I', 'latin1');		// AuthenticationOk, ReadyForQuery

// Starts a server that lets everybody in, and says nothing from then on. Returns its port, and a function that ends it.
async function startSilent() {
	const sockets = new Set();
	const server = net.createServer((socket) => {
		sockets.add(socket);
		socket.once('data', () => socket.write(WELCOME)).on('error', () => {}).on('close', () => sockets.delete(socket));
	}).listen(0, '127.0.0.1');

	await new Promise((resolve) => { server.once('listening', resolve); });
	return {
		sockets,
		port: server.address().port,
		close: () => {
			server.close();
			for (const socket of sockets) socket.destroy();
		},
	};
}

const seconds = async (work) => {
	const begun = performance.now();

	await work();
	return (performance.now() - begun) / 1000;
};

test('a silent server is left, whatever it has been asked for', { timeout: 20_000 }, async (t) => {
	const silent = await startSilent();
	const place = `127.0.0.1:${silent.port}`;
	const make = (places, answerWait = WAIT) => new Database({ pool: 4, poolPerCollection: 4, poolWait: WAIT, answerWait, schema: 'api' }, `postgresql://u:p@${places}/d`, true);

	t.after(silent.close);
	for (const [places, what, refusal] of [[place, 'a request', /no answer in 0.3 seconds/], [`${place},${place}`, 'whether it is a standby', { status: 503 }]]) {
		const database = make(places);

		assert(await seconds(() => assert.rejects(database.call('a', ['', '', '', '', '', '']), refusal, what)) < 5 * WAIT, what);
		assert(await seconds(async () => assert.equal(await database.isReady(), false)) < 5 * WAIT, 'isReady()');
		assert.deepEqual([database.pool.totalCount, database.turnstile.running], [0, 0], 'nothing is left of it');
		await database.stop();
	}
	while (silent.sockets.size > 0) await sleep(10);

	const database = make(place, 300);
	const call = assert.rejects(database.call('a', ['', '', '', '', '', '']), /Connection terminated/);

	while (database.connections.size === 0) await sleep(10);
	assert(await seconds(() => database.stop()) < 8, 'stop() doesn\'t wait for ever');
	await call;
});
