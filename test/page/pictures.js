// pictures.js - the pictures of doc/, and the same scene at other widths, in light and dark, in the directory of this file.

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

await clear();
const browser = await launch();
const context = await browser.newContext({ reducedMotion: 'reduce' });
const page = await open(context);

// A note that both have edited, one that is unsent, and others
await add(page, 'Laptop', 'Ask Ben about the tent');
await add(page, 'Phone', 'Bread, milk, olive oil');
await add(page, 'Phone', 'Train to Rome');
await until(() => notes(page, 'Laptop'), ['Train to Rome', 'Bread, milk, olive oil', 'Ask Ben about the tent']);
await turn(page, 'Laptop', false);
await edit(page, 'Phone', 'Train to Rome', 'Train to Rome, Friday 17:35');
await until(() => status(page, 'Phone'), 'Everything is sent.');
await edit(page, 'Laptop', 'Train to Rome', 'Night train to Rome');
await turn(page, 'Laptop', true);
await until(() => notes(page, 'Phone').then((texts) => texts[0]), 'Night train to Rome | Train to Rome, Friday 17:35');
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
await browser.close();
