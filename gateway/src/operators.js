// operators.js - the endpoints for operators, on an address of their own: is it up, can it serve, what has it done?

import http from 'node:http';

// Makes a server for /health, /ready and /metrics. isReady() promises whether requests could be served, metrics() the text for Prometheus.
export function makeOperatorServer(isReady, metrics, contentType) {
	return http.createServer(async ({ method, url }, response) => {
		const answer = (status, body, type = 'text/plain') => response
			.writeHead(status, { 'Content-Type': type, 'Content-Length': Buffer.byteLength(body) }).end(method === 'HEAD' ? '' : body);

		try {
			if (url === '/health') answer(200, 'ok\n');
			else if (url === '/ready') answer(...await isReady() ? [200, 'ready\n'] : [503, 'not ready\n']);
			else if (url === '/metrics') answer(200, await metrics(), contentType);
			else answer(404, 'the paths are /health, /ready and /metrics\n');
		} catch (error) {
			answer(500, `${error.message}\n`);
		}
	});
}

// Makes a server listen on an address: HOST:PORT, or the path of a socket.
export function listen(server, address) {
	const [, host, port] = /^\[?(.*?)\]?:(\d+)$/.exec(address) ?? [];

	return new Promise((resolve, reject) => {
		server.once('error', reject);
		server.listen(port === undefined ? { path: address } : { host, port: Number(port) }, resolve);
	});
}
