// processes.js - several processes that share the work, one for each processor. Each is a complete gateway except for the operators'
// endpoints.

import cluster from 'node:cluster';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { AggregatorRegistry } from 'prom-client';
import { Database } from './database.js';
import { log } from './log.js';
import { listen, makeOperatorServer } from './operators.js';

const RESTART_MS = 1000;		// before one that has ended is replaced

// Starts them; resolves when all listen. If one ends, it is replaced; but if one can't start, all are stopped. The result's stop() lets
// running requests finish.
export async function startProcesses(config) {
	const database = new Database({ ...config, pool: 1 }, config.databaseUri, true);
	const registry = new AggregatorRegistry();
	let stopping = false;

	const workers = () => Object.values(cluster.workers);
	const start = () => new Promise((resolve, reject) => {
		const worker = cluster.fork();

		worker.once('listening', resolve);
		worker.once('exit', async () => {
			reject(new Error('a process ended before it could listen'));
			if (stopping) return;
			log('error', 'a process has ended', { pid: worker.process.pid });
			await sleep(RESTART_MS);
			if (!stopping) start().catch(() => {});
		});
	});
	const stop = async () => {
		stopping = true;
		admin.closeAllConnections();
		admin.close();
		await Promise.all(workers().map((worker) => {
			worker.process.kill('SIGTERM');
			return once(worker, 'exit');
		}));
		await database.stop();
	};
	const admin = makeOperatorServer(async () => !stopping && await database.isReady(), () => registry.clusterMetrics(), registry.contentType);

	try {
		await Promise.all(Array.from({ length: config.processes }, start));
		if (config.adminListen) await listen(admin, config.adminListen);
	} catch (error) {
		await stop();
		throw error;
	}
	return { stop };
}
