// view.js - what the adapters share whose library is a view of a Collection, which keeps, sends and receives the documents: edits
// go to it by putAll() and delete(), and what it has comes back by this, where that isn't what the view shows already.

/**
 * @typedef {{ [field: string]: any, id: string }} Item a body, with its document's id in it
 * @typedef {object} ItemChange
 * @property {string} id
 * @property {Item | undefined} item undefined where it is deleted
 * @property {boolean} isNew the view shows no such item yet
 */

/** What a library shows of a Collection. */
export class View {
	#documents;
	#listener;
	#end;
	/** @type {Map<string, string>} JSON of each item, by id */
	#shown = new Map();
	/** @type {import('../src/collection.js').Change[] | null} what happens until all is shown */
	#waiting = [];

	/**
	 * @param {import('../src/collection.js').Collection} documents
	 * @param {(change: ItemChange) => void} listener is called, from follow() on, when something differs from what is shown
	 */
	constructor(documents, listener) {
		this.#documents = documents;
		this.#listener = listener;
		this.#end = documents.watch((change) => {
			if (this.#waiting) this.#waiting.push(change);
			else this.#tell(change);
		});
	}

	/**
	 * All items. When they are shown, follow() is to be called.
	 * @returns {Promise<Item[]>}
	 */
	async load() {
		this.#waiting ??= [];
		const items = (await this.#documents.list()).map(toItem);

		this.#shown = new Map(items.map((item) => [item.id, JSON.stringify(item)]));
		return items;
	}

	follow() {
		const changes = this.#waiting ?? [];

		this.#waiting = null;
		for (const change of changes) this.#tell(change);
	}

	/**
	 * The view shows this of itself.
	 * @param {string} id
	 * @param {Item | undefined} item
	 */
	shows(id, item) {
		if (item === undefined) this.#shown.delete(id);
		else this.#shown.set(id, JSON.stringify(item));
	}

	end() {
		this.#end();
	}

	#tell(change) {
		const { id } = change;
		const item = change.deleted ? undefined : toItem(change);
		const isNew = !this.#shown.has(id);

		if (this.#shown.get(id) === (item && JSON.stringify(item))) return;
		this.shows(id, item);
		this.#listener({ id, item, isNew });
	}
}

/** @returns {Item} */
function toItem({ id, body }) {
	return { ...body, id };
}
