// live_idle.js COUNT - COUNT clients that listen to a gateway and do nothing else; then one document is uploaded. How long does it take until
// all of them know, and how much memory does the gateway have? Run by ./live.

import http from 'node:http';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const { BENCH_URL, BENCH_TOKEN, BENCH_PID } = process.env;
const COUNT = Number(process.argv[2]);
const AT_ONCE = 100;			// that connect
const ROUNDS = 5;
const { hostname, port } = new URL(BENCH_URL);
const megabytes = (field) => Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(readFileSync(`/proc/${BENCH_PID}/status`, 'utf8'))[1]) / 1024;
const cpu = () => readFileSync(`/proc/${BENCH_PID}/stat`, 'utf8').split(' ').slice(13, 15).reduce((sum, ticks) => sum + Number(ticks), 0) / 100;
const quantile = (values, q) => values[Math.min(values.length - 1, Math.floor(values.length * q))];

let told = [];					// when each was told, in this round
let whenAll = () => {};

// Resolves when it has begun to listen.
function listen() {
	return new Promise((resolve, reject) => {
		const socket = net.connect(port, hostname);

		socket.setEncoding('latin1');
		socket.on('error', reject);
		socket.on('close', () => reject(new Error('a stream was closed')));
		socket.on('data', (text) => {
			if (text.includes('event: listening')) resolve();
			if (!text.includes('event: changed')) return;
			told.push(performance.now());
			if (told.length === COUNT) whenAll();
		});
		socket.write(`GET /Docs/Live HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${BENCH_TOKEN}\r\n\r\n`);
	});
}

// Resolves when it has been answered.
function upload(n) {
	return new Promise((resolve, reject) => {
		const headers = { Authorization: `Bearer ${BENCH_TOKEN}`, 'Content-Type': 'application/json' };
		const request = http.request(`${BENCH_URL}/Docs?clientId=bench`, { method: 'POST', headers }, (response) => {
			response.resume().on('end', () => response.statusCode === 200 ? resolve() : reject(new Error(`status ${response.statusCode}`)));
		});

		request.on('error', reject).end(JSON.stringify([{ id: 'x', clientVersion: n, body: n }]));
	});
}

await upload(1);
const before = megabytes('VmRSS');
const begun = performance.now();
const begunCpu = cpu();

for (let n = 0; n < COUNT; n += AT_ONCE) await Promise.all(Array.from({ length: Math.min(AT_ONCE, COUNT - n) }, listen));
console.log(`${COUNT} streams were open after ${((performance.now() - begun) / 1000).toFixed(1)} s, of which the gateway worked ${(cpu() - begunCpu).toFixed(1)} s`);
await sleep(2000);
console.log(`memory of the gateway: ${Math.round(before)} MB before, ${Math.round(megabytes('VmRSS'))} MB with them`);

const idle = cpu();
await sleep(10_000);
console.log(`in ten seconds without a change it worked ${(cpu() - idle).toFixed(2)} s`);

for (let n = 1; n <= ROUNDS; n++) {
	const all = new Promise((resolve) => { whenAll = resolve; });
	const start = performance.now();
	const startCpu = cpu();

	told = [];
	await upload(n + 1);
	const answered = performance.now() - start;

	await Promise.race([all, sleep(30_000)]);
	const times = told.map((time) => time - start).sort((a, b) => a - b);
	console.log(`an upload, answered after ${Math.round(answered)} ms: told ${times.length} of ${COUNT}; first ${Math.round(times[0])} ms, median ${Math.round(quantile(times, 0.5))} ms, `
		+ `last ${Math.round(times.at(-1))} ms; the gateway worked ${(cpu() - startCpu).toFixed(2)} s`);
	await sleep(1000);
}
console.log(`memory of the gateway: ${Math.round(megabytes('VmRSS'))} MB, at most ${Math.round(megabytes('VmHWM'))} MB`);
process.exit();
