// note.js - a note on a device: its text, which is stored at each keystroke, whether it is sent, and its versions if there are
// several.

import { versionsOf } from './merge.js';

let notes = 0;

export class Note {
	#id;
	#device;
	/** @type {import('../../../clients/javascript/src/index.js').Collection} */
	#collection;
	#change;				// as it was last shown
	#writing = 0;			// edits that aren't stored yet: what arrives meanwhile is older than what is on the screen
	#failure = '';			// why the last one couldn't be stored: it exists on the screen only

	/**
	 * @param {string} id
	 * @param {{ device: string, collection: any }} options
	 */
	constructor(id, { device, collection }) {
		this.#id = id;
		this.#device = device;
		this.#collection = collection;
		this.item = document.querySelector('#note').content.cloneNode(true).firstElementChild;
		const marks = this.item.querySelector('.marks');

		marks.id = `marks-${++notes}`;
		this.#text.setAttribute('aria-describedby', marks.id);
		this.#text.oninput = () => this.#write(this.#text.value);
		this.item.querySelector('.delete').onclick = () => this.#run(this.#collection.delete(this.#id));
		this.item.querySelector('.both').onclick = () => this.#decide(versionsOf(this.#change).map(({ text }) => text).filter((text) => text !== null).join('\n'));
	}

	get #text() {
		return this.item.querySelector('textarea');
	}

	/** @param {any} change a document, as the collection tells it */
	show(change) {
		const versions = versionsOf(change);
		const hasSeveral = versions.length > 1;
		const changesWhatIsShown = hasSeveral || !this.item.querySelector('fieldset').hidden;
		const hadFocus = changesWhatIsShown && this.item.contains(document.activeElement);

		this.#change = change;
		this.item.querySelector('.unsent').hidden = !change.unsent;
		this.#complain(this.#failure || (change.error ? `The service refuses it: ${change.error}` : ''));
		this.item.classList.toggle('is-unsent', change.unsent);
		this.item.classList.toggle('has-versions', hasSeveral);
		this.item.querySelector('.one').hidden = hasSeveral;
		this.item.querySelector('fieldset').hidden = !hasSeveral;
		if (hasSeveral) this.#showVersions(versions);
		else this.#showText(versions[0].text);
		// The focus stays in the note, but not on anything that the next key would press.
		if (hadFocus) (hasSeveral ? this.item.querySelector('fieldset') : this.#text).focus();
	}

	#showText(text) {
		const field = this.#text;

		this.item.querySelector('.delete .unseen').textContent = `Delete ${text}`;
		if (this.#writing || this.#failure || field.value === text) return;
		const { selectionStart, selectionEnd } = field;

		field.value = text;
		field.rows = text.split('\n').length;
		if (field === document.activeElement) field.setSelectionRange(selectionStart, selectionEnd);
	}

	#showVersions(versions) {
		this.item.querySelector('.both').hidden = versions.filter(({ text }) => text !== null).length < 2;
		this.item.querySelector('fieldset ul').replaceChildren(...versions.map(({ text, by }) => {
			const version = document.createElement('li');
			const words = document.createElement(text === null ? 'em' : 'p');
			const from = document.createElement('span');
			const keep = document.createElement('button');

			words.dir = 'auto';
			words.textContent = text ?? 'deleted';
			from.textContent = by;
			keep.type = 'button';
			keep.textContent = text === null ? 'Delete it' : 'Keep this';
			keep.setAttribute('aria-label', text === null ? 'Delete it' : `Keep this: ${text}`);
			keep.onclick = () => this.#decide(text);
			version.append(from, words, keep);
			return version;
		}));
	}

	/** Keeps one version, or none: an edit like any other, which the other devices receive. */
	async #decide(text) {
		if (text === null) {
			this.#run(this.#collection.delete(this.#id));
		} else {
			await this.#write(text);
			this.#text.focus();
		}
	}

	async #write(text) {
		const { body } = this.#change;
		const { versions, ...rest } = body !== null && typeof body === 'object' ? body : {};

		this.#text.rows = text.split('\n').length;
		this.#writing++;
		await this.#run(this.#collection.put(this.#id, { ...rest, text, by: this.#device }));
		this.#writing--;
		if (!this.#writing) this.show(this.#change);
	}

	/** An error of the store is shown where it happened; the text remains in its field, and can be copied from there. */
	async #run(storing) {
		try {
			await storing;
			this.#failure = '';
		} catch (error) {
			this.#failure = `This browser can't store it: ${error.message}`;
			this.show(this.#change);
		}
	}

	#complain(text) {
		const error = this.item.querySelector('.error');

		if (error.textContent !== text) error.textContent = text;
	}
}
