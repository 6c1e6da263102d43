// hand.js PORT SECRET - the rival that a good developer writes in an afternoon: it checks a token, runs a statement, returns JSON.
//
// It promises less: stamps are taken before the commit, so readers lose documents; a batch with the same id twice fails; the
// token's tenant is checked by the code, not by a policy. PGHOST, ... name the PostgreSQL server.

import { createSecretKey } from 'node:crypto';
import http from 'node:http';
import jwt from 'jsonwebtoken';
import pg from 'pg';

const [port, secret] = process.argv.slice(2);
const key = createSecretKey(Buffer.from(secret));		// given a text, jsonwebtoken would make a key each time, four fifths of a request's time
const pool = new pg.Pool({ max: 10 });

const UPLOAD = {
	name: 'upload',
	text: `INSERT INTO doc AS d (collection, id, client_version, client_id, last_update_utc, deleted, body)
		SELECT $1, sent.id, sent."clientVersion", $2, now(), coalesce(sent.deleted, false), sent.body
		  FROM jsonb_to_recordset($3) AS sent (id text, "clientVersion" int8, deleted bool, body jsonb)
		ON CONFLICT (collection, id) DO UPDATE
		   SET client_version = excluded.client_version, client_id = excluded.client_id,
		       last_update_utc = excluded.last_update_utc, deleted = excluded.deleted, body = excluded.body
		 WHERE d.client_version < excluded.client_version
		RETURNING d.id, d.client_version AS "clientVersion", d.last_update_utc AS "LastUpdateUtc"`,
};
const DOWNLOAD = {
	name: 'download',
	text: `SELECT id, client_version AS "clientVersion", client_id AS "clientId", last_update_utc::text AS "LastUpdateUtc", deleted, body
		  FROM doc
		 WHERE collection = $1 AND last_update_utc > $2 AND client_id <> $3
		 ORDER BY last_update_utc
		 LIMIT 1000`,
};

async function readBody(request) {
	const chunks = [];

	for await (const chunk of request) chunks.push(chunk);
	return Buffer.concat(chunks).toString();
}

async function answer(request) {
	const claims = jwt.verify(request.headers.authorization.slice('Bearer '.length), key, { algorithms: ['HS256'] });
	const url = new URL(request.url, 'http://localhost');
	const collection = url.searchParams.get('collection') ?? claims.collection;
	const clientId = url.searchParams.get('clientId');

	if (collection.split('/')[0] !== claims.tenant) throw new Error('not yours');
	if (request.method === 'POST') {
		const documents = JSON.parse(await readBody(request));
		const { rows } = await pool.query({ ...UPLOAD, values: [collection, clientId, JSON.stringify(documents)] });

		return { received: documents.length, results: rows };
	}
	const { rows } = await pool.query({ ...DOWNLOAD, values: [collection, url.searchParams.get('since'), clientId] });

	return { documents: rows, since: rows.at(-1)?.LastUpdateUtc };
}

http.createServer(async (request, response) => {
	try {
		const body = JSON.stringify(await answer(request));

		response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) }).end(body);
	} catch (error) {
		response.writeHead(error instanceof jwt.JsonWebTokenError ? 401 : 400).end(JSON.stringify({ message: error.message }));
	}
}).listen(Number(port), '127.0.0.1');
