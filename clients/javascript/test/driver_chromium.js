// driver_chromium.js - the same with stores in IndexedDB, in a page in Chromium.

import { createInterface } from 'node:readline';
import { openPage } from './chromium.js';

const { page, close } = await openPage();

await page.evaluate(async () => {
	const { makeDriver } = await import('/test/drive.js');
	const { indexedDbStore } = await import('/src/index.js');

	globalThis.answer = makeDriver({ clock: Date.now, makeStore: indexedDbStore });
});
for await (const line of createInterface({ input: process.stdin })) {
	process.stdout.write(`${await page.evaluate((call) => globalThis.answer(call), line)}\n`);
}
await close();
