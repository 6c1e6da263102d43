// page.test.js - two devices in Chromium that edit offline and meet, and what may go wrong meanwhile.

import assert from 'node:assert/strict';
import { after, beforeEach, afterEach, before, test } from 'node:test';
import axe from 'axe-core';
import { ADDRESS, add, clear, device, edit, isKept, isLive, launch, notes, open, startService, status, stopService, stored, table, tryNow, turn, until } from './browser.js';

let browser;
let context;

before(async () => { browser = await launch(); });
after(() => browser.close());
beforeEach(async () => {
	await clear();
	context = await browser.newContext();
});
afterEach(() => context.close());

const both = async (page) => ({ Phone: await notes(page, 'Phone'), Laptop: await notes(page, 'Laptop') });
const equal = (...texts) => ({ Phone: texts, Laptop: texts });

test('a note that one device makes comes to the other, and to the service', async () => {
	const page = await open(context);

	assert.equal(page.url(), ADDRESS, 'the token is not left in the address');
	await until(() => page.getByText('Nothing yet.').isVisible(), true);
	assert.ok(!await page.getByRole('table').isVisible(), 'no table without a row');
	await add(page, 'Phone', 'bread');
	await until(() => both(page), equal('bread'));
	await until(() => table(page).then((rows) => rows[0]), 'bread, Phone');
	await edit(page, 'Laptop', 'bread', 'bread, milk');
	await until(() => both(page), equal('bread, milk'));
	await until(() => status(page, 'Laptop'), 'Everything is sent.');
	await device(page, 'Phone').getByRole('button', { name: 'Delete bread, milk' }).click();
	await until(() => both(page), equal());
	await until(() => table(page).then((rows) => rows[0]), 'deleted, Phone');
});

test('two browsers side by side: what one edits comes to the other long before it would ask', async (t) => {
	const other = await browser.newContext();

	t.after(() => other.close());
	const one = await open(context, { device: 'Phone' });
	const two = await open(other, { device: 'Laptop' });

	await add(one, 'Phone', 'bread 0');
	await until(() => notes(two, 'Laptop'), ['bread 0']);
	await until(() => isLive(two, 'Laptop'), true);
	for (let n = 1; n <= 5; n++) {
		const begun = performance.now();

		await edit(one, 'Phone', `bread ${n - 1}`, `bread ${n}`);
		await until(() => notes(two, 'Laptop'), [`bread ${n}`]);
		const time = performance.now() - begun;

		assert(time < 5000, 'without being told it would ask after eight seconds or more');
		t.diagnostic(`${Math.round(time)} ms`);
	}
});

test('two quick Enters make one note, and what is typed meanwhile stays', async () => {
	const page = await open(context);

	await device(page, 'Phone').locator('form').first().evaluate((form) => {
		const input = form.querySelector('input, textarea');

		input.value = 'bread';
		form.requestSubmit();
		form.requestSubmit();
		input.value = 'milk, not yet';
	});
	await until(() => both(page), equal('bread'));
	assert.equal(await device(page, 'Phone').locator('form').first().evaluate((form) => form.querySelector('input, textarea').value), 'milk, not yet');
});

test("what others have stored needn't be a note", async () => {
	const { merge, versionsOf } = await import('../../examples/demo/page/merge.js');
	const body = { versions: [null, 7] };

	assert.deepEqual(versionsOf({ body, deleted: false }), [{ text: JSON.stringify(body), by: 'elsewhere' }]);
	assert.equal(merge({ mine: { body: { text: 'bread' }, deleted: false }, theirs: { body, deleted: false } }, 'Phone').versions.length, 2);
});

test('both edit offline, and are equal when they are online again; both versions of a note are shown', async () => {
	const page = await open(context);

	await add(page, 'Phone', 'trip');
	await until(() => both(page), equal('trip'));
	for (const [first, second] of [['Phone', 'Laptop'], ['Laptop', 'Phone']]) {
		const before = (await notes(page, 'Phone')).at(-1);

		await turn(page, 'Phone', false);
		await turn(page, 'Laptop', false);
		await edit(page, 'Phone', before, `${before} to Rome`);
		await edit(page, 'Laptop', before, `${before} to Oslo`);
		await add(page, 'Laptop', `gifts ${first}`);
		await until(() => status(page, 'Phone'), 'Offline. 1 change not sent yet, kept here.');
		await until(() => status(page, 'Laptop'), 'Offline. 2 changes not sent yet, kept here.');
		assert.equal((await notes(page, 'Phone')).at(-1), `${before} to Rome *`);
		assert.equal((await notes(page, 'Laptop')).at(-1), `${before} to Oslo *`);
		assert.deepEqual((await stored()).at(-1), before, 'the service has neither');

		await turn(page, first, true);
		await until(() => status(page, first), 'Everything is sent.');
		await turn(page, second, true);
		const others = (await notes(page, 'Laptop')).slice(0, -1).map((text) => text.replace(' *', ''));

		await until(() => both(page), equal(...others, `${before} to Oslo | ${before} to Rome`));
		// Decided on one, for all
		await device(page, first).getByRole('button', { name: `Keep this: ${before} to Rome` }).click();
		await until(() => both(page), equal(...others, `${before} to Rome`));
	}
	assert.deepEqual(await stored(), await notes(page, 'Phone'));

	// A deletion and an edit
	await turn(page, 'Phone', false);
	await device(page, 'Phone').getByRole('button', { name: 'Delete gifts Laptop' }).click();
	await edit(page, 'Laptop', 'gifts Laptop', 'gifts: a book');
	await until(() => status(page, 'Laptop'), 'Everything is sent.');
	await turn(page, 'Phone', true);
	await until(() => both(page).then(({ Phone, Laptop }) => [Phone[0], Laptop[0]]), ['deleted | gifts: a book', 'deleted | gifts: a book']);
	await device(page, 'Laptop').getByRole('button', { name: 'Delete it' }).click();
	await until(() => both(page).then(({ Phone, Laptop }) => [Phone.length, Laptop.length]), [2, 2]);
});

test('the service is stopped in between: nothing is lost, and the page opens again all the same', async () => {
	const page = await open(context);

	await add(page, 'Phone', 'bread');
	await until(() => both(page), equal('bread'));
	await until(() => isKept(page), true);
	await stopService();
	await edit(page, 'Phone', 'bread', 'bread, milk');
	await add(page, 'Laptop', 'call Ben');
	await until(() => status(page, 'Phone'), 'The service does not answer. 1 change not sent yet, kept here.');
	await until(() => status(page, 'Laptop'), 'The service does not answer. 1 change not sent yet, kept here.');
	await until(() => device(page, 'Phone').getByRole('status').textContent(), 'The service does not answer. 1 change not sent yet, kept here.');

	await page.reload();
	await until(() => both(page), { Phone: ['bread, milk *'], Laptop: ['call Ben *', 'bread'] });
	await edit(page, 'Phone', 'bread, milk', 'bread, milk, tea');
	await startService();
	await tryNow(page);
	await until(() => both(page), equal('call Ben', 'bread, milk, tea'));
	assert.deepEqual(await stored(), ['call Ben', 'bread, milk, tea']);
});

test('without a network it opens, too', async () => {
	const page = await open(context);

	await add(page, 'Laptop', 'bread');
	await until(() => both(page), equal('bread'));
	await until(() => isKept(page), true);
	await context.setOffline(true);
	await page.reload();
	await until(() => both(page), equal('bread'));
	await add(page, 'Laptop', 'milk');
	await until(() => notes(page, 'Laptop'), ['milk *', 'bread']);
	await context.setOffline(false);
	await until(() => both(page), equal('milk', 'bread'));
});

test('a device in two tabs is one device', async () => {
	const one = await open(context, { device: 'Phone' });
	const two = await open(context, { device: 'Phone' });

	await turn(one, 'Phone', false);
	await until(() => device(two, 'Phone').getByRole('switch').isChecked(), false);
	await add(two, 'Phone', 'bread');
	await until(() => notes(one, 'Phone'), ['bread *']);
	await edit(one, 'Phone', 'bread', 'bread, milk');
	await until(() => notes(two, 'Phone'), ['bread, milk *']);
	await one.close();
	await turn(two, 'Phone', true);
	await until(() => notes(two, 'Phone'), ['bread, milk']);
	await until(() => stored(), ['bread, milk']);
});

test('a token that has expired, a page in the place of an answer, a full disk: what is not sent is said, and sent later', async () => {
	const page = await open(context, { token: process.env.DOCSYNC_EXPIRED });

	await add(page, 'Phone', 'bread');
	await until(() => status(page, 'Phone'), /does not accept the token.* 1 change not sent yet/);
	await page.route('**/Docs**', (route) => route.fulfill({ contentType: 'text/html', body: '<h1>Welcome to our network</h1>' }));
	await page.evaluate((token) => { location.hash = `token=${token}`; }, process.env.DOCSYNC_TOKEN);
	await until(() => status(page, 'Phone'), /want you to sign in\? 1 change not sent yet/);
	await page.unroute('**/Docs**');
	await tryNow(page);
	await until(() => status(page, 'Phone'), 'Everything is sent.');

	await page.evaluate(() => {
		IDBObjectStore.prototype.put = () => { throw new DOMException('the disk is full', 'QuotaExceededError'); };
	});
	await edit(page, 'Phone', 'bread', 'bread, milk');
	await until(() => device(page, 'Phone').getByRole('alert').textContent(), "This browser can't store it: the disk is full");
	assert.equal((await notes(page, 'Phone'))[0], 'bread, milk', 'the text is still there to be copied');
	assert.deepEqual(await stored(), ['bread']);
});

test('texts run in their own direction, nothing is cut off, and among 200 notes the other device is in reach', async () => {
	const page = await open(context);
	const direction = (locator) => locator.evaluate((element) => getComputedStyle(element).direction);
	const hebrew = 'קנה לחם, חלב (2%)';

	await add(page, 'Phone', 'bread');
	await add(page, 'Phone', hebrew);
	await add(page, 'Phone', 'x'.repeat(300));
	await until(() => both(page), equal('x'.repeat(300), hebrew, 'bread'));
	const fields = device(page, 'Laptop').getByRole('textbox', { name: 'Note', exact: true });

	await until(() => Promise.all([1, 2].map((i) => direction(fields.nth(i)))), ['rtl', 'ltr']);
	await turn(page, 'Laptop', false);
	await edit(page, 'Phone', hebrew, `${hebrew}!`);
	await edit(page, 'Laptop', hebrew, `${hebrew}?`);
	await until(() => status(page, 'Phone'), 'Everything is sent.');
	await turn(page, 'Laptop', true);
	await until(() => notes(page, 'Phone').then((texts) => texts[1]), `${hebrew}! | ${hebrew}?`);
	assert.equal(await direction(device(page, 'Phone').locator('fieldset p').first()), 'rtl');
	await until(() => page.locator('.service bdi', { hasText: hebrew }).count(), 2);

	await page.evaluate(async () => {
		const form = document.querySelector('.phone form');

		for (let i = 1; i <= 200; i++) {
			form.elements.text.value = `Note ${i}`;
			form.requestSubmit();
			while (form.elements.text.value) await new Promise((resolve) => { setTimeout(resolve); });
		}
	});
	await until(() => notes(page, 'Laptop').then(({ length }) => length), 203);
	for (const width of [1200, 320]) {
		await page.setViewportSize({ width, height: 800 });
		// Nothing is cut off, nothing scrolls sidewise: when what has come meanwhile has been laid out.
		await until(() => page.evaluate(() => document.documentElement.scrollWidth > innerWidth
			|| [...document.querySelectorAll('.notes, fieldset, .one, .scrolled')].some((element) => element.scrollWidth > element.clientWidth)), false);
		const far = await page.evaluate(() => document.querySelector('.laptop').getBoundingClientRect().top);

		assert.ok(far < 1000, `the other device is ${far} pixels below at ${width} pixels`);
	}
});

test('by keyboard alone, in both colour schemes, on a phone, for a screen reader', async () => {
	const page = await open(context);
	const press = async (...keys) => { for (const key of keys) await page.keyboard.press(key); };
	const focused = () => page.evaluate(() => {
		const { activeElement: element } = document;

		return element.getAttribute('aria-label') ?? element.labels?.[0]?.textContent.trim() ?? element.textContent.trim();
	});

	await press('Tab', 'Tab');
	assert.equal(await focused(), 'Phone Online');
	await press('Space', 'Tab');
	assert.equal(await focused(), 'New note');
	await page.keyboard.type('bread');
	await press('Enter');
	await until(() => notes(page, 'Phone'), ['bread *']);
	await press('Tab', 'Tab');
	assert.equal(await focused(), 'Note');
	await press('End');
	await page.keyboard.type(', milk');
	await until(() => notes(page, 'Phone'), ['bread, milk *']);
	await until(() => device(page, 'Phone').getByRole('status').textContent(), 'Offline. 1 change not sent yet, kept here.');
	await press('Tab');
	assert.equal(await focused(), 'Delete bread, milk');
	await press('Enter');
	await until(() => notes(page, 'Phone'), []);
	await until(focused, 'New note');

	// With all there is to be seen: a conflict, unsent notes, an error
	await turn(page, 'Phone', true);
	await add(page, 'Phone', 'trip');
	await until(() => both(page), equal('trip'));
	await turn(page, 'Laptop', false);
	await edit(page, 'Phone', 'trip', 'trip to Rome');
	await edit(page, 'Laptop', 'trip', 'trip to Oslo');
	await until(() => status(page, 'Phone'), 'Everything is sent.');
	// Who is in the note when the other version comes stays in it, and decides nothing by the next key.
	await device(page, 'Laptop').getByRole('textbox', { name: 'Note', exact: true }).focus();
	await device(page, 'Laptop').getByRole('switch').evaluate((element) => {
		element.checked = true;
		element.dispatchEvent(new Event('change'));
	});
	await until(() => both(page), equal('trip to Oslo | trip to Rome'));
	await press('Space', 'Enter');
	assert.ok(await page.evaluate(() => document.activeElement.matches('.laptop .note fieldset')), 'in the note, on no button');
	assert.deepEqual(await both(page), equal('trip to Oslo | trip to Rome'));
	await press('Tab');
	assert.match(await focused(), /^Keep this: trip to /);
	await turn(page, 'Laptop', false);
	await add(page, 'Laptop', 'a long word: ' + 'x'.repeat(60));
	await context.setOffline(true);
	await until(() => status(page, 'Phone'), /does not answer/);
	for (const colorScheme of ['light', 'dark']) {
		for (const width of [1200, 320]) {
			await page.emulateMedia({ colorScheme });
			await page.setViewportSize({ width, height: 800 });
			assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `no sidewise scrolling at ${width} pixels`);
			await page.evaluate(axe.source);
			const violations = await page.evaluate(async () => (await globalThis.axe.run()).violations);

			assert.deepEqual(violations.map(({ id, nodes }) => [id, ...nodes.map(({ target, any }) => `${target}: ${any[0]?.message}`)]), [], `${colorScheme}, ${width}`);
		}
	}
});
