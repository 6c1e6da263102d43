// parse.js PORT - the rival parse-server, over PostgreSQL, with a key instead of tokens. PARSE_DATABASE is its database's URI.

import express from 'express';
import { ParseServer } from 'parse-server';

const [port] = process.argv.slice(2);
const app = express();
const server = new ParseServer({
	databaseURI: process.env.PARSE_DATABASE, appId: 'bench', masterKey: 'master', restAPIKey: 'rest', serverURL: `http://127.0.0.1:${port}/parse`,
	allowCustomObjectId: true, allowClientClassCreation: true, logLevel: 'error', silent: true, enableInsecureAuthAdapters: false,
	requestComplexity: {}, masterKeyIps: ['127.0.0.1'],
});

await server.start();
app.use('/parse', server.app);
app.listen(Number(port), '127.0.0.1');
