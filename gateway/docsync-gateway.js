#!/usr/bin/env node
// docsync-gateway - docsync over HTTP, in front of PostgreSQL: starts it, stops it.

import { HELP, readConfig } from './src/config.js';
import { log } from './src/log.js';
import { startGateway } from './src/server.js';

const args = process.argv.slice(2);

if (args[0] === '--help') {
	process.stdout.write(HELP);
} else if (args.length > 1 || args[0]?.startsWith('-')) {
	process.stderr.write('usage: docsync-gateway [FILE | --help]\n');
	process.exitCode = 2;
} else {
	try {
		const gateway = await startGateway(readConfig(process.env, args[0]));

		for (const signal of ['SIGTERM', 'SIGINT']) {
			process.once(signal, async () => {
				log('info', 'stopping', { signal });
				await gateway.stop();
				log('info', 'stopped');
				process.exit();
			});
		}
	} catch (error) {
		log('error', 'could not start', { error: error.message });
		process.exitCode = 1;
	}
}
