// device.js - a device: its own store, its notes, whether they are sent, and a switch that takes it offline.

import { Collection, indexedDbStore } from '../../../clients/javascript/src/index.js';
import { merge } from './merge.js';
import { Note } from './note.js';
import { describe } from './words.js';

export const COLLECTION = 'anna/notes';
const EVERY = 2000;				// milliseconds between two syncs, where the service doesn't say when to ask; an app asks less often
const TIMEOUT = 10_000;
const QUIET = 1000;				// how long a status must stand before it is read out

export class Device {
	#name;
	/** @type {Collection} */
	#collection;
	#synced;
	#isOnline = true;
	#status = { unsent: 0, setAside: 0, error: null };
	/** @type {Map<string, Note>} */
	#notes = new Map();
	#reading = 0;				// the timer for reading out the status

	/**
	 * @param {string} name
	 * @param {{ icon: string, token: () => string, synced: () => void }} options synced: is called when it may have sent something
	 */
	constructor(name, { icon, token, synced }) {
		this.#name = name;
		this.#synced = synced;
		this.section = document.querySelector('#device').content.cloneNode(true).firstElementChild;
		this.#collection = new Collection(COLLECTION, {
			url: location.origin, token, store: indexedDbStore(`notes ${name}`), every: EVERY, timeout: TIMEOUT,
			onConflict: (conflict) => merge(conflict, name),
			// make demo recreates its database; then it gets back the notes that are here, without a long wait.
			waits: { told: 1000, others: 1000 },
			fetch: (...request) => this.#isOnline ? fetch(...request) : Promise.reject(new TypeError('switched off')),
		});
		this.#furnish(icon);
	}

	get name() {
		return this.#name;
	}

	/** The name that the service knows it by. */
	async clientId() {
		return (await this.#collection.status()).clientId;
	}

	/** Shows the notes that are here, and synchronises from now on. */
	start() {
		this.#collection.watch((change) => this.#show(change));
		this.#collection.watchStatus((status) => this.#showStatus(status));
		this.#switch();
	}

	/** Tries at once, however long ago the service last answered. */
	again() {
		if (this.#isOnline) this.#collection.sync().catch(() => {});			// shown by the status
	}

	#furnish(icon) {
		const { section } = this;
		const id = `device-${this.#name}`;
		const heading = section.querySelector('h2');
		const form = section.querySelector('form');

		section.setAttribute('aria-labelledby', id);
		section.classList.add(this.#name.toLowerCase());
		section.querySelector('.icon path').setAttribute('d', icon);
		heading.id = id;
		heading.textContent = this.#name;
		for (const name of section.querySelectorAll('.device-name')) name.textContent = this.#name;
		this.#find('.alone').href = `?device=${this.#name}`;
		this.#find('.again').onclick = () => this.again();
		this.#find('[role=switch]').onchange = ({ target }) => {
			localStorage.setItem(this.#setting, target.checked ? 'online' : 'offline');
			this.#switch();
		};
		// The same device in another tab
		addEventListener('storage', ({ key }) => {
			if (key === this.#setting) this.#switch();
		});
		form.onsubmit = (event) => {
			event.preventDefault();
			this.#add(form.elements.text);
		};
	}

	#find(selector) {
		return this.section.querySelector(selector);
	}

	get #setting() {
		return `${this.#name} is`;
	}

	/** Follows the setting, which belongs to the device, not to the tab. */
	#switch() {
		this.#isOnline = localStorage.getItem(this.#setting) !== 'offline';
		this.#find('[role=switch]').checked = this.#isOnline;
		this.#showStatus(this.#status);
		if (this.#isOnline) this.#collection.start();
		else this.#collection.stop();
		this.again();
	}

	/** A note with an id that sorts by the time at which it was made. */
	async #add(input) {
		const text = input.value.trim();

		if (!text) return;
		input.value = '';		// before it is stored: what is typed meanwhile is the next note
		try {
			await this.#collection.put(`${Date.now().toString(36)}-${crypto.randomUUID().slice(0, 8)}`, { text, by: this.#name });
		} catch (error) {
			input.value ||= text;
			this.#showStatus({ ...this.#status, error });
		}
	}

	/** The newest note comes first. */
	#show(change) {
		let note = this.#notes.get(change.id);

		if (change.deleted) {
			this.#remove(change.id);
		} else {
			if (!note) {
				const later = [...this.#notes.keys()].filter((id) => id < change.id).sort().at(-1);

				note = new Note(change.id, { device: this.#name, collection: this.#collection });
				this.#find('.notes').insertBefore(note.item, later === undefined ? null : this.#notes.get(later).item);
				this.#notes.set(change.id, note);
			}
			note.show(change);
		}
		this.#find('.none').hidden = this.#notes.size > 0;
	}

	/** The focus, if it was in the note, moves to the next one. */
	#remove(id) {
		const item = this.#notes.get(id)?.item;

		if (!item) return;
		const next = item.contains(document.activeElement) ? item.nextElementSibling ?? item.previousElementSibling : undefined;

		item.remove();
		this.#notes.delete(id);
		if (next !== undefined) (next?.querySelector('textarea, button') ?? this.#find('input[name=text]')).focus();
	}

	#showStatus(status) {
		const { state, text } = describe(status, this.#isOnline);
		const line = this.#find('.status');

		this.#status = status;
		this.section.classList.toggle('live', Boolean(status.live));
		line.dataset.state = state;
		line.querySelector('.said').textContent = text;
		this.#find('.again').hidden = state !== 'trouble';
		clearTimeout(this.#reading);
		this.#reading = setTimeout(() => {
			const read = this.#find('[role=status]');

			if (read.textContent !== text) read.textContent = text;
		}, QUIET);
		if (!status.syncing) this.#synced();
	}
}
