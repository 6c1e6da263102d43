// driver.js - clients with local stores, driven by a test: as test/t/clients.py does it with those of examples/demo, so that the
// same tests are played against both.
//
// Reads calls from standard input, each a line of JSON, [client, method, arguments, named arguments], and answers each with a
// line, {"result"} or {"error"}. The clients go by the clock that FAKETIME_TIMESTAMP_FILE sets, if there is one.

import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { Driven } from './driven.js';

const file = process.env.FAKETIME_TIMESTAMP_FILE;
const passed = () => file ? 1000 * parseInt(readFileSync(file, 'utf8')) : 0;
const clients = new Map();

/** BigInts as the integers that they are. */
function toText(value) {
	return JSON.stringify(value, (_, part) => typeof part === 'bigint' ? `big ${part}` : part).replace(/"big (-?\d+)"/g, '$1');
}

async function answer(name, method, args, named) {
	if (method !== 'new') return clients.get(name)[method](...args);
	clients.set(name, await Driven.make(name, ...args, { ...named, copyOf: clients.get(named.copy_of), clock: () => Date.now() + passed() }));
	return null;
}

for await (const line of createInterface({ input: process.stdin })) {
	const [name, method, args, named] = JSON.parse(line);
	let result;

	try {
		result = { result: await answer(name, method, args, named) ?? null };
	} catch (error) {
		result = { error: error.stack };
	}
	process.stdout.write(`${toText(result)}\n`);
}
