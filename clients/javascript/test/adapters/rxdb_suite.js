// RxDB's own tests for replications, over HTTP, for mocha: rxdb.test.js runs them.

import { replicateDocsync } from 'docsync-client/adapters/rxdb';
import { addRxPlugin } from 'rxdb';
import { RxDBDevModePlugin, disableWarnings } from 'rxdb/plugins/dev-mode';
import { getRxStorageMemory } from 'rxdb/plugins/storage-memory';
import { runReplicationBaseTestSuite, schemas, setConfig } from 'rxdb/plugins/test-utils';
import { wrappedValidateAjvStorage } from 'rxdb/plugins/validate-ajv';
import { TOKEN, URL_OF_SERVICE, anyName, open } from '../service.js';

let name;
const replicate = (collection, live) => replicateDocsync({ collection, name, url: URL_OF_SERVICE, token: TOKEN, live });

// The suite's schema, with the adapter's property. Before dev-mode, which freezes it; the suite opens databases as only dev-mode allows.
schemas.human.properties.clientVersion = { type: 'string' };
disableWarnings();
addRxPlugin(RxDBDevModePlugin);
setConfig({ storage: { name: 'memory', getStorage: () => wrappedValidateAjvStorage({ storage: getRxStorageMemory() }) } });
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
