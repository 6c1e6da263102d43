// drive.js - the tests' protocol: calls, each a line of JSON, [client, method, arguments, named arguments], are answered each with a
// line, {"result"} or {"error"}. test/t/clients.py answers them with the clients of examples/demo, so that the same tests are played
// against both.

import { Driven, Joint } from './driven.js';

/** BigInts as the integers that they are. */
function toText(value) {
	return JSON.stringify(value, (_, part) => typeof part === 'bigint' ? `big ${part}` : part).replace(/"big (-?\d+)"/g, '$1');
}

/**
 * Who answers. clock: in milliseconds; makeStore: by a client's name, without it in memory.
 * @returns {(line: string) => Promise<string>}
 */
export function makeDriver({ clock, makeStore }) {
	const clients = new Map();

	async function answer(name, method, args, named) {
		if (method !== 'new') return clients.get(name)[method](...args);
		const options = { ...named, copyOf: clients.get(named.copy_of), clock, store: makeStore?.(name) };
		const [url, token, ...collections] = args;

		clients.set(name, named.joint ? await Joint.make(name, url, token, collections, options) : await Driven.make(name, ...args, options));
		return null;
	}

	return async (line) => {
		try {
			return toText({ result: await answer(...JSON.parse(line)) ?? null });
		} catch (error) {
			return toText({ error: error.stack });
		}
	};
}
