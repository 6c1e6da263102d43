// pictures.js - the pictures of doc/, and the same scene at other widths, in light and dark, in the directory of this file;
// and others that somebody should look at when the page has changed: nothing, trouble, hard texts, many notes.

import { fileURLToPath } from 'node:url';
import { add, clear, edit, launch, notes, open, status, table, turn, until } from './browser.js';

const HERE = fileURLToPath(new URL('.', import.meta.url));
const DOC = `${process.env.ROOT}/doc/`;
const VIEWS = [
	{ file: `${DOC}page.png`, width: 1000, height: 700, colorScheme: 'light' },
	{ file: `${HERE}desktop-dark.png`, width: 1000, height: 700, colorScheme: 'dark' },
	{ file: `${HERE}phone-light.png`, width: 390, height: 844, colorScheme: 'light' },
	{ file: `${DOC}page-phone.png`, width: 390, height: 844, colorScheme: 'dark' },
];

const browser = await launch();

await scene('empty', (page) => page.getByText('Nothing yet.').waitFor());
const context = await browser.newContext({ reducedMotion: 'reduce' });
const page = await open(context);

// A note that both have edited, one that is unsent, and others
await add(page, 'Laptop', 'Ask Ben about the tent');
await add(page, 'Phone', 'Bread, milk, olive oil');
await add(page, 'Phone', 'Train to Rome');
await until(() => notes(page, 'Laptop'), ['Train to Rome', 'Bread, milk, olive oil', 'Ask Ben about the tent']);
await turn(page, 'Laptop', false);
await edit(page, 'Phone', 'Train to Rome', 'Train to Rome, Friday 17:35');
await until(() => table(page).then((rows) => rows[0]), 'Train to Rome, Friday 17:35, Phone');
await edit(page, 'Laptop', 'Train to Rome', 'Night train to Rome');
await turn(page, 'Laptop', true);
for (const name of ['Phone', 'Laptop']) {
	await until(() => notes(page, name).then((texts) => texts[0]), 'Night train to Rome | Train to Rome, Friday 17:35');
}
await turn(page, 'Laptop', false);
await edit(page, 'Laptop', 'Ask Ben about the tent', 'Ask Ben about the tent and the stove');
await until(() => table(page).then((rows) => rows.length >= 3), true);
await page.evaluate(() => document.activeElement.blur());

for (const { file, width, height, colorScheme } of VIEWS) {
	await page.emulateMedia({ colorScheme });
	await page.setViewportSize({ width, height });
	await page.screenshot({ path: file, fullPage: width > 500 });
}
await page.screenshot({ path: `${HERE}phone-whole.png`, fullPage: true });
await context.setOffline(true);
await until(() => status(page, 'Phone'), /does not answer/);
await page.emulateMedia({ colorScheme: 'light' });
await page.setViewportSize({ width: 1080, height: 700 });
await page.screenshot({ path: `${HERE}desktop-trouble.png` });
await context.close();

// What people write that nobody thought of
const HARD = [
	'Everything that has to be bought, borrowed or repaired before we leave: tent, stove, gas, the second sleeping bag, and a rope that holds more than the last one did',
	'Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft'.repeat(2),
	'קנה לחם, חלב (2%) ושמן זית',
	'اتصل بـ Ben قبل الساعة 17:35',
	'🏕️',
	'👩‍👩‍👧‍👦 🇮🇹 Rome 🚆 with everybody',
	'one line\nanother\n\nand one after a gap',
];

await clear();
await scene('hard', async (hard) => {
	for (const text of HARD.slice(0, -1)) await add(hard, 'Phone', text);
	await add(hard, 'Phone', 'lines');
	await edit(hard, 'Phone', 'lines', HARD.at(-1));
	await until(() => notes(hard, 'Laptop').then(({ length }) => length), HARD.length);
	await turn(hard, 'Laptop', false);
	for (const text of [HARD[0], HARD[2]]) {
		await edit(hard, 'Phone', text, `${text}!`);
		await edit(hard, 'Laptop', text, `${text} ?`);
	}
	await turn(hard, 'Laptop', true);
	for (const name of ['Phone', 'Laptop']) {
		await until(() => notes(hard, name).then((all) => all.filter((text) => text.includes(' | ')).length), 2);
	}
	await until(() => table(hard).then((rows) => rows.filter((row) => row.includes(' / ')).length), 2);
});
await clear();
await scene('many', async (many) => {
	for (let i = 1; i <= 200; i++) await add(many, 'Phone', `Note ${i}`);
	await until(() => notes(many, 'Laptop').then(({ length }) => length), 200);
	await until(() => status(many, 'Phone'), 'Everything is sent.');
}, { fullPage: false });
await browser.close();

/** Pictures of what act() has made of two new devices, at a desktop's and a phone's width. */
async function scene(name, act, { fullPage = true } = {}) {
	const own = await browser.newContext({ reducedMotion: 'reduce' });
	const scenery = await open(own);

	await act(scenery);
	await scenery.evaluate(() => document.activeElement.blur());
	for (const [width, height] of [[1000, 700], [390, 844]]) {
		await scenery.setViewportSize({ width, height });
		await scenery.screenshot({ path: `${HERE}${name}-${width}.png`, fullPage });
	}
	await own.close();
}
