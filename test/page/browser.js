// browser.js - the page in Chromium: opened, used as a person would, and read.

import { execFile } from 'node:child_process';
import { isDeepStrictEqual, promisify } from 'node:util';
import { chromium } from 'playwright-core';

const { DOCSYNC_CHROMIUM, DOCSYNC_URL, DOCSYNC_TOKEN, ROOT } = process.env;
const PATIENCE = 15_000;		// milliseconds

export const ADDRESS = `${DOCSYNC_URL}/examples/demo/page/`;
export const run = promisify(execFile);

/** Without a sandbox, which root can't have; the pages are ours. */
export function launch() {
	return chromium.launch({ executablePath: DOCSYNC_CHROMIUM, args: ['--disable-gpu', '--disable-dev-shm-usage'] });
}

/** The page, in a context whose devices are new. */
export async function open(context, { token = DOCSYNC_TOKEN, device } = {}) {
	const page = await context.newPage();

	page.setDefaultTimeout(PATIENCE);
	await page.goto(`${ADDRESS}${device ? `?device=${device}` : ''}#token=${token}`);
	return page;
}

/** Whether the page could be opened without a network. */
export function isKept(page) {
	return page.evaluate(async () => Boolean(navigator.serviceWorker.controller)
		&& Boolean(await (await caches.open('notes page')).match(location.pathname)));
}

export const device = (page, name) => page.getByRole('region', { name, exact: true });

export async function add(page, name, text) {
	const field = device(page, name).getByLabel('New note');

	await field.fill(text);
	await field.press('Enter');
	await until(() => field.inputValue(), '');
}

export async function edit(page, name, from, to) {
	const fields = await device(page, name).getByRole('textbox', { name: 'Note', exact: true }).all();

	for (const field of fields) if (await field.inputValue() === from) return field.fill(to);
	throw new Error(`${name} has no note "${from}"`);
}

export function turn(page, name, isOn) {
	return device(page, name).getByRole('switch').setChecked(isOn);
}

/** On each device that offers it: one may have come through meanwhile. */
export function tryNow(page) {
	return page.getByRole('button', { name: 'Try now' }).evaluateAll((buttons) => buttons.forEach((button) => button.click()));
}

/** What a device shows: its notes, " *" behind those that are marked as unsent, the versions of one with a bar between them. */
export function notes(page, name) {
	return device(page, name).locator('.note').evaluateAll((items) => items.map((item) => {
		const versions = item.querySelector('fieldset').hidden ? [item.querySelector('textarea').value]
			: [...item.querySelectorAll('fieldset li :is(p, em)')].map(({ textContent }) => textContent).sort();

		return versions.join(' | ') + (item.querySelector('.unsent').hidden ? '' : ' *');
	}));
}

/** Whether it hears of changes as they happen. */
export function isLive(page, name) {
	return device(page, name).evaluate((section) => section.classList.contains('live'));
}

/** And says. */
export function status(page, name) {
	return device(page, name).locator('.status .said').textContent();
}

/** What the service has, as the page shows it: text and sender. */
export function table(page) {
	return page.locator('.service tbody tr').evaluateAll((rows) => rows.map((row) => [...row.cells].slice(0, 2).map(({ textContent }) => textContent).join(', ')));
}

/** What it really has: the texts. */
export async function stored() {
	const { stdout } = await run('psql', ['-XAt', '-c', "SELECT body ->> 'text' FROM docsync.document WHERE collection = 'anna/notes' AND NOT deleted ORDER BY id DESC"]);

	return stdout.split('\n').slice(0, -1);
}

/** Deletes all notes, as any other client could. */
export function clear() {
	return run('psql', ['-Xq', '-c', "DELETE FROM docsync.document WHERE collection = 'anna/notes' AND NOT deleted"]);
}

/** Waits for it to be so. */
export async function until(read, expected) {
	const end = Date.now() + PATIENCE;
	const holds = (value) => expected instanceof RegExp ? expected.test(value) : isDeepStrictEqual(value, expected);
	let value = await read();

	while (!holds(value)) {
		if (Date.now() > end) throw new Error(`is ${JSON.stringify(value)}, not ${expected instanceof RegExp ? expected : JSON.stringify(expected)}`);
		await new Promise((resolve) => { setTimeout(resolve, 50); });
		value = await read();
	}
}

export const stopService = () => run(`${ROOT}/scripts/http`, ['stop', 'page']);
export const startService = () => run(`${ROOT}/scripts/http`, ['start', 'page', 'docsync', 'page']);
