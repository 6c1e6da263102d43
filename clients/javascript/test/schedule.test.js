// When a collection synchronises by itself, by a clock that a test moves.

import assert from 'node:assert/strict';
import test from 'node:test';
import { BadAnswer, Collection, NoAnswer, Refused, memoryStore } from '../src/index.js';
import { fromMessage, toMessage } from '../src/errors.js';

const MINUTE = 60_000;

/** A collection that was started, a service that answers or raises service.error, and time. */
async function begin(t, error = null) {
	let now = 0;
	const service = { error, asked: [] };
	const answer = async (value) => {
		service.asked.push(now);
		if (service.error) throw service.error;
		return value;
	};
	const pass = async (milliseconds) => {
		for (const end = now + milliseconds; now < end;) {
			now += 50;
			t.mock.timers.tick(50);
			await new Promise(setImmediate);
		}
	};

	t.mock.timers.enable({ apis: ['setTimeout'] });
	t.mock.method(performance, 'now', () => now);
	globalThis.window = /** @type {any} */ (new EventTarget());
	t.after(() => { delete globalThis.window; });
	const notes = new Collection('notes', {
		store: memoryStore(), random: () => 0.5, url: '', transport: {
			upload: (_, documents) => answer({ results: documents.map(({ id, clientVersion }) => ({ id, outcome: 'created', clientVersion, LastUpdateUtc: '2026', winner: null })) }),
			pull: () => answer({ documents: [], cursor: 'c', more: false }),
		},
	});

	notes.start();
	t.after(() => notes.close());
	return { notes, service, pass, unsent: async () => (await notes.unsent()).length, now: () => now };
}

const down = () => new NoAnswer('down');

test('every minute, and soon after an edit', async (t) => {
	const { notes, service, pass, unsent } = await begin(t);

	await pass(10 * MINUTE);
	assert(service.asked.length >= 9 && service.asked.length <= 13, `${service.asked.length} times in ten minutes`);
	await notes.put('x', 1);
	await pass(200);
	assert.equal(await unsent(), 0);
});

test('a service that is down for an hour: later and later, and all is sent soon after it is back', async (t) => {
	const { notes, service, pass, unsent } = await begin(t, down());

	await notes.put('x', 1);
	await pass(60 * MINUTE);
	assert(service.asked.length <= 30, `${service.asked.length} times in an hour`);
	await notes.put('y', 1);
	assert.equal(await unsent(), 2);
	service.error = null;
	await pass(5 * MINUTE);
	assert.equal(await unsent(), 0);
	assert.equal((await notes.status()).error, null);
	await notes.put('z', 1);
	await pass(200);
	assert.equal(await unsent(), 0, 'and as before from then on');
});

test('an edit shortens a long wait', async (t) => {
	const { notes, service, pass, unsent } = await begin(t, down());

	await pass(30 * MINUTE);
	service.error = null;
	await notes.put('x', 1);
	await pass(10_000);
	assert.equal(await unsent(), 0);
});

test('who types while the service is down asks it now and then only', async (t) => {
	const { notes, service, pass } = await begin(t, down());

	await pass(30 * MINUTE);
	service.asked = [];
	for (let n = 0; n < 60; n++) {
		await notes.put('x', n);
		await pass(1000);
	}
	assert(service.asked.length >= 5 && service.asked.length <= 15, `${service.asked.length} times in a minute`);
});

test('sync() that goes through ends a long wait: edits are sent soon again', async (t) => {
	const { notes, service, pass, unsent } = await begin(t, down());

	await pass(30 * MINUTE);
	service.error = null;
	await notes.sync();
	await notes.put('x', 1);
	await pass(200);
	assert.equal(await unsent(), 0);
	service.asked = [];
	await pass(2 * MINUTE);
	assert(service.asked.length >= 2 && service.asked.length <= 3, 'and others ask each minute');
});

test('sync() that fails, or the page that is online again: waits begin anew', async (t) => {
	const { notes, service, pass, unsent } = await begin(t, down());

	await notes.put('x', 1);
	for (const again of [() => notes.sync().catch(() => {}), () => globalThis.window.dispatchEvent(new Event('online'))]) {
		service.error = down();
		await pass(30 * MINUTE);
		service.asked = [];
		await again();
		await pass(3000);
		assert(service.asked.length >= 2, `${service.asked.length} times in three seconds`);
		service.error = null;
		await pass(5000);
		assert.equal(await unsent(), 0);
		await notes.put('x', 2);
	}
});

test('nothing but sync() comes before the Retry-After', async (t) => {
	const { notes, service, pass, unsent, now } = await begin(t, new Refused(503, '', '', undefined, 120_000));

	await pass(1000);
	const [first] = service.asked;

	await notes.put('x', 1);
	globalThis.window.dispatchEvent(new Event('online'));
	await pass(first + 119_000 - now());
	assert.deepEqual(service.asked, [first]);
	service.error = null;
	await pass(2000);
	assert.equal(await unsent(), 0);
});

test('errors are told to other tabs', () => {
	for (const error of [new NoAnswer(new Error('offline')), new BadAnswer('not it'), new Refused(503, 'handed_over', 'moved', '{"reason":"x"}', 5000), new Refused(401, 'PGRST301', 'JWT expired'),
		Object.assign(new Error('full'), { name: 'QuotaExceededError' })]) {
		const heard = fromMessage(structuredClone(toMessage(error)));

		for (const key of ['name', 'message', 'status', 'code', 'text', 'details', 'retryAfter', 'retry']) assert.deepEqual(heard[key], error[key], `${error.name}: ${key}`);
		assert.equal(heard.constructor, error.constructor);
	}
	assert.equal(fromMessage(toMessage(null)), null);
});
