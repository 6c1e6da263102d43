// app.js - the page: two devices, what the service has, the token, and what is needed to open it offline.

import { Device } from './device.js';
import { Service } from './service.js';

const FILES = 'notes page';				// the cache that sw.js serves from
const DEVICES = [
	{ name: 'Phone', icon: 'M7.5 2.5h9a1.5 1.5 0 0 1 1.5 1.5v16a1.5 1.5 0 0 1-1.5 1.5h-9A1.5 1.5 0 0 1 6 20V4a1.5 1.5 0 0 1 1.5-1.5zM10.5 18.5h3' },
	{ name: 'Laptop', icon: 'M5.5 5h13A1.5 1.5 0 0 1 20 6.5V16H4V6.5A1.5 1.5 0 0 1 5.5 5zM2 19.5h20' },
];

const token = () => localStorage.getItem('docsync token') ?? '';

/** Takes the token out of the address, where it follows "#", a part that browsers don't send. */
function takeToken() {
	const given = new URLSearchParams(location.hash.slice(1)).get('token');

	if (given) {
		localStorage.setItem('docsync token', given);
		history.replaceState(null, '', location.pathname + location.search);
	}
	document.querySelector('#no-token').hidden = token() !== '';
	return given !== null;
}

/** Keeps the files of this page, to open it offline; not if there are no service workers. */
async function keepFiles() {
	if (!navigator.serviceWorker) return;
	await navigator.serviceWorker.register('sw.js');
	const files = performance.getEntriesByType('resource').filter(({ initiatorType }) => initiatorType !== 'fetch').map(({ name }) => name);

	await (await caches.open(FILES)).addAll([...new Set([location.pathname, ...files])]);
}

takeToken();
const only = new URLSearchParams(location.search).get('device');
const section = document.querySelector('.service');
const devices = DEVICES.filter(({ name }) => only === null || only === name).map(({ name, icon }) => new Device(name, {
	icon, token, synced: () => service.refresh(),
}));
const service = new Service(section, { token, devices });

section.before(...devices.map(({ section }) => section));
document.body.classList.toggle('alone', devices.length === 1);
if (devices.length === 1) document.title = `${only}: notes`;
for (const device of devices) device.start();
addEventListener('hashchange', () => {
	if (takeToken()) for (const device of devices) device.again();
});
// Offline there is nothing new to keep.
keepFiles().catch(() => {});
