// RxDB's own tests for replications, over HTTP, for mocha: rxdb.test.js runs them.

import { replicateDocsync } from 'docsync-client/adapters/rxdb';
import { getRxStorageMemory } from 'rxdb/plugins/storage-memory';
import { runReplicationBaseTestSuite, setConfig } from 'rxdb/plugins/test-utils';
import { TOKEN, URL_OF_SERVICE, anyName, open } from '../service.js';

let name;
const replicate = (collection, live) => replicateDocsync({ collection, name, url: URL_OF_SERVICE, token: TOKEN, live });

setConfig({ storage: { name: 'memory', getStorage: () => getRxStorageMemory(), hasPersistence: true, hasMultiInstance: false } });
runReplicationBaseTestSuite({
	startReplication: (collection) => replicate(collection, true),
	syncOnce: async (collection) => {
		const replication = replicate(collection, false);

		await replication.awaitInitialReplication();
	},
	getAllServerDocs: async () => {
		const reader = open(name);

		await reader.sync();
		return (await reader.list()).map(({ body }) => body);
	},
	cleanUpServer: async () => { name = anyName(); },
	softDeletes: false,
	getPrimaryOfServerDoc: (document) => document.passportId,
});
