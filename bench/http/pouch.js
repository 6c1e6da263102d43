// pouch.js PORT DIRECTORY - the rival express-pouchdb, over LevelDB, with its defaults: without fsync and without tokens.

import express from 'express';
import expressPouchdb from 'express-pouchdb';
import PouchDB from 'pouchdb';

const [port, directory] = process.argv.slice(2);
const Databases = PouchDB.defaults({ prefix: `${directory}/` });
const app = express();

app.use('/', expressPouchdb(Databases, { mode: 'minimumForPouchDB', inMemoryConfig: true, logPath: `${directory}/log` }));
app.listen(Number(port), '127.0.0.1');
