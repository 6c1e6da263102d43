// view.js - shared by the adapters whose library is a view of a Collection, which keeps, sends and receives the documents. Edits
// go to the Collection by putAll() and delete(); this tells the view of changes that it doesn't show yet.

/**
 * @typedef {{ [field: string]: any, id: string }} Item a body, with its document's id in it
 * @typedef {object} ItemChange
 * @property {string} id
 * @property {Item | undefined} item undefined if it is deleted
 * @property {boolean} isNew the view doesn't show such an item yet
 */

/** What a library shows of a Collection. */
export class View {
	#documents;
	#listener;
	#end;
	/** @type {Map<string, string>} JSON of each item, by id */
	#shown = new Map();
	/** @type {import('../src/collection.js').Change[] | null} changes that come before everything is shown */
	#waiting = [];

	/**
	 * @param {import('../src/collection.js').Collection} documents
	 * @param {(change: ItemChange) => void} listener called, after follow(), when something differs from what is shown
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
	 * All items. Call follow() when they are shown.
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
	 * Notes what the view shows by itself.
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
