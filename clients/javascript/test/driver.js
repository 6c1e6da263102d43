// driver.js - clients driven by a test over standard input and output: drive.js. They go by the clock that FAKETIME_TIMESTAMP_FILE
// sets, if there is one.
//
//	node driver.js [DIRECTORY]		with stores in memory, or SQLite's in the directory

import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { sqliteStore } from '../src/stores/sqlite.js';
import { makeDriver } from './drive.js';

const file = process.env.FAKETIME_TIMESTAMP_FILE;
const directory = process.argv[2];
const answer = makeDriver({
	makeStore: directory ? (name) => sqliteStore(`${directory}/${name}.sqlite`) : undefined,
	clock: () => Date.now() + (file ? 1000 * parseInt(readFileSync(file, 'utf8')) : 0),
});

for await (const line of createInterface({ input: process.stdin })) process.stdout.write(`${await answer(line)}\n`);
