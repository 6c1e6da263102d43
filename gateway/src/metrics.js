// metrics.js - metrics for Prometheus. They contain no names of collections, clients or documents.

import cluster from 'node:cluster';
import { AggregatorRegistry, Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client';

const BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
const OUTCOMES = ['created', 'updated', 'unchanged', 'discarded', 'conflict', 'modified', 'refused', 'untried'];

// The metrics of a gateway, given its databases, by name, and its server.
export class Metrics {
	constructor(databases, server) {
		const registers = [this.registry = new Registry()];
		const gauge = (name, help, collect) => new Gauge({ name, help, registers, collect() { this.set(collect()); } });
		const counter = (name, help, count) => new Counter({
			name, help, registers,
			collect() {
				this.reset();
				this.inc(count());
			},
		});
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
		this.outcomes = new Counter({ name: 'docsync_documents_received_total', help: 'Documents that clients have sent, by outcome', labelNames: ['outcome'], registers });
		for (const outcome of OUTCOMES) this.outcomes.inc({ outcome }, 0);		// so that the first one is an increase
		this.sent = new Counter({ name: 'docsync_documents_sent_total', help: 'Documents that clients were given', registers });
		pool('docsync_pool_connections', 'Connections to PostgreSQL', ({ pool: { totalCount } }) => totalCount);
		pool('docsync_pool_busy', 'Requests running in PostgreSQL', ({ turnstile }) => turnstile.running);
		pool('docsync_pool_waiting', 'Requests waiting for a connection', ({ turnstile }) => turnstile.waiting.size);
		gauge('docsync_live_streams', 'Open streams of /Docs/Live', () => server.live.count);
		counter('docsync_live_announcements_total', 'Announcements heard from PostgreSQL', () => server.live.announcements);
		counter('docsync_live_messages_total', 'Messages to streams because of announcements', () => server.live.messages);
		gauge('docsync_buffered_bytes', 'Bytes of bodies of requests that are arriving or running', () => server.buffered);
		this.children = new Map();
		if (cluster.isWorker) {		// processes.js collects and adds up
			new AggregatorRegistry();		// eslint-disable-line no-new -- listens
			AggregatorRegistry.setRegistries([this.registry]);
		}
	}

	// Counts a request that has been answered, with what docsync reports of it, if anything.
	note(name, status, seconds, exchange) {
		const key = `${name} ${status}`;
		let child = this.children.get(key);

		if (child === undefined) {
			child = { counter: this.requests.labels(name, String(status)), histogram: this.seconds.labels(name) };
			this.children.set(key, child);
		}
		child.counter.inc();
		child.histogram.observe(seconds);
		if (exchange !== undefined) this.#noteDocuments(exchange);
	}

	// The outcomes of what was received come last. A trigger may have written something else.
	#noteDocuments(exchange) {
		const [, documents = '0', outcomes = ''] = /&documents=(\d+)&more=\w+&received=\d+(.*)$/.exec(exchange) ?? [];

		if (documents !== '0') this.sent.inc(Number(documents));
		for (const [, outcome, count] of outcomes.matchAll(/&(\w+)=(\d+)/g)) this.outcomes.labels(outcome).inc(Number(count));
	}
}
