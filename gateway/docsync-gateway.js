#!/usr/bin/env node
// docsync-gateway - docsync over HTTP, in front of PostgreSQL: starts it, stops it.

import cluster from 'node:cluster';
import { HELP, readConfig } from './src/config.js';
import { log } from './src/log.js';
import { startProcesses } from './src/processes.js';
import { startGateway } from './src/server.js';

const args = process.argv.slice(2);

if (args[0] === '--help') {
	process.stdout.write(HELP);
} else if (args.length > 1 || args[0]?.startsWith('-')) {
	process.stderr.write('usage: docsync-gateway [FILE | --help]\n');
	process.exitCode = 2;
} else {
	try {
		const config = readConfig(process.env, args[0]);
		const starting = config.processes > 1 && cluster.isPrimary ? startProcesses(config) : startGateway(config);
		let stopping = false;

		const stop = async (signal) => {
			if (stopping) return;
			stopping = true;
			log('info', 'stopping', { signal });
			await (await starting).stop();
			log('info', 'stopped');
			process.exit();
		};
		process.on('SIGTERM', stop);
		process.on('SIGINT', stop);
		await starting;
	} catch (error) {
		log('error', 'could not start', { error: error.message });
		process.exit(1);
	}
}
