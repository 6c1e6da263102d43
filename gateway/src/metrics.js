// metrics.js - metrics for Prometheus. They contain no names of collections, clients or documents.

import cluster from 'node:cluster';
import { AggregatorRegistry, Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client';

const BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

// The metrics of a gateway, given its databases, by name, and its server.
export class Metrics {
	constructor(databases, server) {
		const registers = [this.registry = new Registry()];
		const gauge = (name, help, collect) => new Gauge({ name, help, registers, collect() { this.set(collect()); } });
		const pool = (name, help, count) => new Gauge({
			name, help, labelNames: ['server'], registers,
			collect() {
				for (const server in databases) {
					if (databases[server]) this.set({ server }, count(databases[server]));
				}
			},
		});

		collectDefaultMetrics({ register: this.registry });
		this.requests = new Counter({ name: 'docsync_http_requests_total', help: 'Requests, by function and status', labelNames: ['function', 'status'], registers });
		this.seconds = new Histogram({
			name: 'docsync_http_request_seconds', help: 'From a request\'s headers to the end of its answer', labelNames: ['function'], buckets: BUCKETS, registers,
		});
		pool('docsync_pool_connections', 'Connections to PostgreSQL', ({ pool: { totalCount } }) => totalCount);
		pool('docsync_pool_busy', 'Requests running in PostgreSQL', ({ turnstile }) => turnstile.running);
		pool('docsync_pool_waiting', 'Requests waiting for a connection', ({ turnstile }) => turnstile.waiting.size);
		gauge('docsync_buffered_bytes', 'Bytes of bodies of requests that are arriving or running', () => server.buffered);
		this.children = new Map();
		if (cluster.isWorker) {		// processes.js collects and adds up
			new AggregatorRegistry();		// eslint-disable-line no-new -- listens
			AggregatorRegistry.setRegistries([this.registry]);
		}
	}

	// Counts a request that has been answered.
	note(name, status, seconds) {
		const key = `${name} ${status}`;
		let child = this.children.get(key);

		if (child === undefined) {
			child = { counter: this.requests.labels(name, String(status)), histogram: this.seconds.labels(name) };
			this.children.set(key, child);
		}
		child.counter.inc();
		child.histogram.observe(seconds);
	}
}
