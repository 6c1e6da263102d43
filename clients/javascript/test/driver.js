// driver.js - clients with stores in memory, driven by a test over standard input and output: drive.js. They go by the clock that
// FAKETIME_TIMESTAMP_FILE sets, if there is one.

import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { makeDriver } from './drive.js';

const file = process.env.FAKETIME_TIMESTAMP_FILE;
const answer = makeDriver({ clock: () => Date.now() + (file ? 1000 * parseInt(readFileSync(file, 'utf8')) : 0) });

for await (const line of createInterface({ input: process.stdin })) process.stdout.write(`${await answer(line)}\n`);
