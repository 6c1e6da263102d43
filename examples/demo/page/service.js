// service.js - what the service has: all documents of the collection, fetched by a plain request.

import { COLLECTION } from './device.js';
import { versionsOf } from './merge.js';

const EVERY = 2000;				// milliseconds
const TIMEOUT = 10_000;
const ROWS = 50;

export class Service {
	#section;
	#token;
	#devices;
	/** @type {Promise<void> | null} */
	#asking = null;
	#isDue = false;

	/**
	 * @param {Element} section
	 * @param {{ token: () => string, devices: import('./device.js').Device[] }} options
	 */
	constructor(section, { token, devices }) {
		this.#section = section;
		this.#token = token;
		this.#devices = devices;
		setInterval(() => this.refresh(), EVERY);
		document.addEventListener('visibilitychange', () => this.refresh());
	}

	/** Asks again, if the page is visible. */
	refresh() {
		if (document.hidden || !this.#token()) return;
		this.#isDue = true;
		this.#asking ??= this.#ask().finally(() => { this.#asking = null; });
	}

	async #ask() {
		while (this.#isDue) {
			this.#isDue = false;
			try {
				this.#show(await this.#documents(), await this.#names());
				this.#say('');
			} catch {
				this.#say('It does not answer; this is what it had.');
			}
		}
	}

	/** Without a clientId: those of all clients, including tombstones, the latest first. */
	async #documents() {
		const response = await fetch(`/Docs/Pull?collection=${encodeURIComponent(COLLECTION)}`, {
			headers: { Authorization: `Bearer ${this.#token()}` }, cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT),
		});

		if (!response.ok) throw new Error(`status ${response.status}`);
		return (await response.json()).documents.reverse().slice(0, ROWS);
	}

	/** The names of the devices here, by their clientIds */
	async #names() {
		return new Map(await Promise.all(this.#devices.map(async (device) => [await device.clientId(), device.name])));
	}

	#show(documents, names) {
		this.#section.querySelector('.none').hidden = documents.length > 0;
		this.#section.querySelector('.scrolled').hidden = documents.length === 0;
		this.#section.querySelector('tbody').replaceChildren(...documents.map((document) => {
			const versions = document.deleted ? ['deleted'] : versionsOf(document).map(({ text }) => text ?? 'deleted');
			const sender = names.get(document.clientId) ?? document.clientId;

			return row(document.deleted, versions, [sender], [document.LastUpdateUtc.slice(11)]);
		}));
	}

	#say(text) {
		const said = this.#section.querySelector('.said');

		if (said.textContent !== text) said.textContent = text;
	}
}

/** A row of cells, each with one or several texts, each in its own direction of writing. */
function row(isDeleted, ...cells) {
	const tr = document.createElement('tr');

	tr.classList.toggle('is-deleted', isDeleted);
	tr.append(...cells.map((texts) => {
		const td = document.createElement('td');

		td.append(...texts.flatMap((text, i) => {
			const bdi = document.createElement('bdi');

			bdi.textContent = text;
			return i === 0 ? [bdi] : [' / ', bdi];
		}));
		return td;
	}));
	return tr;
}
