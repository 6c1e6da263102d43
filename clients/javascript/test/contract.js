// contract.js - what each store must do, Store in src/stores/store.js: played with memory and SQLite, and in Chromium with IndexedDB.

/** @type {Record<string, (store: import('../src/stores/store.js').Store, assert: (is: boolean, what: string) => void) => Promise<void>>} */
export const contract = {
	async 'records, values and lists'(store, assert) {
		const record = (key, ...entries) => ({ key, entries, text: `of ${key}` });
		const list = (...range) => store.transaction(async (transaction) => (await transaction.list(...range)).map(({ key }) => key).join());

		await store.transaction(async (transaction) => {
			await transaction.put(record('one', 'a1', 'c1'));
			await transaction.put(record('two ü😀', 'a2', 'b2'));
			await transaction.put(record('three', 'a\x7f03'));
			await transaction.write('value', { deep: [1, { text: 'ü' }] });
		});
		assert(await list('a', 'a\x7f\x7f', 10) === 'one,two ü😀,three', 'in the order of the entries');
		assert(await list('a', 'a\x7f\x7f', 2) === 'one,two ü😀', 'no more than the limit');
		assert(await list('a1', 'a2', 10) === 'one', 'from on, before to');
		await store.transaction(async (transaction) => {
			assert((await transaction.get('two ü😀')).text === 'of two ü😀', 'get');
			assert(await transaction.get('nobody') === undefined, 'get what is not there');
			assert(JSON.stringify(await transaction.read('value')) === '{"deep":[1,{"text":"ü"}]}', 'read');
			assert(await transaction.read('nothing') === undefined, 'read what is not there');
			assert(await transaction.count('a', 'b') === 3 && await transaction.count('d', 'e') === 0, 'count');
			await transaction.put(record('one', 'b1'));
			assert((await transaction.list('a', 'b', 9)).length === 2, 'what was written is seen in the same transaction');
			await transaction.remove('three');
			await transaction.remove('nobody');
		});
		assert(await list('a', 'z', 10) === 'two ü😀,one,two ü😀', 'entries go with their records');
	},

	async 'a transaction is undone if its work throws'(store, assert) {
		await store.transaction(async (transaction) => {
			await transaction.put({ key: 'kept', entries: ['k'], n: 1 });
			await transaction.write('value', { n: 1 });
		});
		const error = new Error('on purpose');
		const thrown = await store.transaction(async (transaction) => {
			await transaction.put({ key: 'new', entries: ['n'] });
			await transaction.put({ key: 'kept', entries: ['l'], n: 2 });
			await transaction.remove('kept');
			await transaction.write('value', { n: 2 });
			throw error;
		}).catch((caught) => caught);

		assert(thrown === error, 'the error comes out');
		await store.transaction(async (transaction) => {
			assert((await transaction.get('kept')).n === 1 && await transaction.get('new') === undefined, 'records');
			assert((await transaction.read('value')).n === 1, 'values');
			assert(await transaction.count('k', 'z') === 1, 'entries');
		});
	},

	async 'transactions come one after the other'(store, assert) {
		await store.transaction((transaction) => transaction.write('n', 0));
		await Promise.all(Array.from({ length: 50 }, () => store.transaction(async (transaction) => {
			const n = await transaction.read('n');

			await transaction.get('x');
			await transaction.write('n', n + 1);
		})));
		assert(await store.transaction((transaction) => transaction.read('n')) === 50, 'none is lost');
	},

	async 'what is read may be changed without changing the store'(store, assert) {
		await store.transaction((transaction) => transaction.write('value', { list: [1] }));
		await store.transaction(async (transaction) => { (await transaction.read('value')).list.push(2); });
		assert((await store.transaction((transaction) => transaction.read('value'))).list.length === 1, 'a value');
	},

	async 'a lock is one at a time'(store, assert) {
		let inside = 0;
		let most = 0;
		const work = async () => {
			most = Math.max(most, ++inside);
			await new Promise((resolve) => { setTimeout(resolve, 5); });
			return inside--;
		};

		assert((await Promise.all([1, 2, 3].map(() => store.lock('x', work)))).join() === '1,1,1' && most === 1, 'one at a time');
		const waiting = new AbortController();
		let release;
		const held = store.lock('x', () => new Promise((resolve) => { release = resolve; }));
		const second = store.lock('x', async () => 'not to be', waiting.signal);

		waiting.abort();
		await new Promise((resolve) => { setTimeout(resolve, 5); });
		release('held');
		assert(await held === 'held' && await second === undefined, 'who no longer waits gets nothing');
	},
};
