// Streams of announcements, without a database.

import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { PassThrough } from 'node:stream';
import test from 'node:test';
import { Live } from '../src/live.js';

// A database whose announcer runs, and in which everybody sees everything
function database() {
	const connectAlone = async () => Object.assign(new EventEmitter(), {
		at: 0, connection: { stream: { destroy() {} } }, query: async () => ({ rows: [{ isOn: true, isStandby: false }] }),
	});

	return { connectAlone, leave() {}, call: async (collection) => `key of ${collection}\n` };
}

test('a stream whose keys can\'t be had anew says that it hears of nothing', async () => {
	const who = { role: 'r', claims: '{}', client: 'c', expires: Infinity };
	const postgres = database();
	const live = new Live({ processes: 1, liveCheck: 3600, liveStreams: 10, liveStreamsPerClient: 10 }, postgres, async () => who);
	const response = new PassThrough();
	let text = '';

	response.on('data', (data) => { text += data; });
	const stream = await live.open('', who, 'collection=c');

	stream.begin(response);
	await new Promise((resolve) => { setImmediate(resolve); });
	assert.match(text, /listening\ndata: \{"collections":\["c"\]\}/);
	postgres.call = async () => { throw Object.assign(new Error('no connection'), { code: '08006' }); };
	text = '';
	stream.forgetKeys();
	await stream.ask();
	await new Promise((resolve) => { setImmediate(resolve); });
	assert.match(text, /listening\ndata: \{"collections":\[\]\}/);
	response.destroy();
	await new Promise((resolve) => { setImmediate(resolve); });
	live.stop();
});

test('how long clients shall wait says roughly how many there are', () => {
	const live = new Live({ processes: 1, liveCheck: 3600, liveStreams: 10, liveStreamsPerClient: 10 }, database(), async () => null);

	assert.deepEqual([1, 10, 11, 100, 128, 500, 1000, 10_000].map((count) => live.waitFor(count)), [0, 0, 16, 128, 128, 512, 1000, 1000]);
	live.stop();
});

test('a stream that has ended is left when its client doesn\'t take the end', async (context) => {
	const who = { role: 'r', claims: '{}', client: 'c', expires: Infinity };
	const live = new Live({ processes: 1, liveCheck: 3600, liveStreams: 10, liveStreamsPerClient: 10 }, database(), async () => who);
	const response = new PassThrough();		// nobody reads it
	const errors = [];

	context.mock.timers.enable({ apis: ['setTimeout', 'Date'] });
	response.on('error', (error) => errors.push(error));
	const stream = await live.open('', who, 'collection=c');

	stream.begin(response);
	live.stop();
	assert.equal(response.destroyed, false, 'not at once');
	context.mock.timers.tick(20_000);
	await new Promise((resolve) => { setImmediate(resolve); });
	assert.deepEqual(errors, []);
	assert.equal(response.destroyed, true);
	assert.equal(live.count, 0);
});
