// config.js - the settings: from the environment, and from a file with lines NAME=value.

import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { parseEnv } from 'node:util';

// Name, default, description, and a function that converts the text, if any. A setting without a default must be given where it is needed,
// unless it depends on another.
const SETTINGS = [
	['DATABASE_URI', 'postgresql://docsync_gateway@/docsync?host=/run/postgresql', 'where PostgreSQL is; the password belongs in ~/.pgpass. Of several hosts, a,b or ?host=a,b, the one that accepts writes is used'],
	['STANDBY_URI', '', 'the same for standbys, which get the reads that ask for one with X-Docsync-Read: standby'],
	['SCHEMA', 'api', 'the schema of docsync\'s functions'],
	['LISTEN', '127.0.0.1:8080', 'the address and port of the service, or the path of a socket'],
	['ADMIN_LISTEN', '127.0.0.1:8081', 'the same for /health, /ready and /metrics, which are for operators only; empty: none'],
	['JWT_SECRET', '', 'what tokens are signed with: a text of at least 32 characters (HS256), a JWK or a JWKS; or @FILE, to read it from a file'],
	['JWKS_URL', '', 'or the URL of a JWKS (RS256, ES256, EdDSA); it is fetched again when there are new keys'],
	['JWT_AUDIENCE', '', 'the audience that a token must name, if it names any'],
	['JWT_ROLE_CLAIM', 'role', 'the claim with the role that a request runs as; dots lead to nested claims'],
	['ANON_ROLE', 'docsync_anon', 'the role of requests without a token, or whose token names no role'],
	['POOL', '20', 'connections to PostgreSQL, hence requests running at the same time', positive],
	['POOL_PER_COLLECTION', undefined, '... for one collection; otherwise half of DOCSYNC_POOL, rounded up', positive],
	['POOL_WAIT', '10', 'how long other requests wait for a connection, in seconds', seconds],
	['ANSWER_WAIT', '60', 'how long to wait for PostgreSQL\'s answer, in seconds: longer than the statement_timeout of the login role, which roles.sql sets', seconds],
	['MAX_BODY_MB', '8', 'the size of the largest request body', positive],
	['LIVE_STREAMS', '10000', 'streams of /Docs/Live at the same time, in each process: each is a connection', positive],
	['LIVE_STREAMS_PER_CLIENT', '100', '... of one client: of tokens with the same claims, except for their times', positive],
	['LIVE_CHECK', '3600', 'how long a client may hear of a collection before it is asked again whether it may, in seconds: at most an hour', hour],
	['MAX_BUFFERED_MB', '512', 'memory for requests that are arriving or running', positive],
	['PROCESSES', '1', 'how many processes share the work; each has its own pool and memory for requests', positive],
	['LOG_REQUESTS', 'false', 'true: log each request; false: only those that failed here or in PostgreSQL', boolean],
];

export const HELP = `docsync-gateway [FILE] - docsync over HTTP, in front of PostgreSQL

Settings come from the environment and from FILE, which has lines NAME=value; the environment takes precedence.

${SETTINGS.map(([name, initial, what]) => `    DOCSYNC_${name}\n        ${what}${initial ? `\n        default: ${initial}` : ''}`).join('\n')}

Send SIGTERM to stop it: it finishes running requests. PostgreSQL must have been set up with examples/postgrest/roles.sql.
`;

// The settings as an object: databaseUri, schema, ... Throws an error that says what is wrong.
export function readConfig(env, file) {
	const given = { ...file !== undefined && parseEnv(readFileSync(file, 'utf8')), ...env };
	const config = {};

	if (file !== undefined) {
		for (const name of Object.keys(parseEnv(readFileSync(file, 'utf8')))) {
			if (!SETTINGS.some(([known]) => name === `DOCSYNC_${known}`)) throw new Error(`${file}: unknown setting ${name}`);
		}
	}
	for (const [name, initial, , make] of SETTINGS) {
		const text = given[`DOCSYNC_${name}`] ?? initial;
		const key = name.toLowerCase().replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());

		try {
			config[key] = make && text !== undefined ? make(text) : text;
		} catch (error) {
			throw new Error(`DOCSYNC_${name} ${error.message}`);
		}
	}
	config.poolPerCollection ??= Math.ceil(config.pool / 2);
	if (config.jwtSecret.startsWith('@')) {
		config.jwtSecret = readFileSync(resolve(file ? dirname(file) : '.', config.jwtSecret.slice(1)), 'utf8').replace(/\n$/, '');
	}
	if (!config.jwtSecret === !config.jwksUrl) throw new Error('either DOCSYNC_JWT_SECRET or DOCSYNC_JWKS_URL must be given, not both');
	return config;
}

function positive(text) {
	if (!/^[1-9]\d{0,8}$/.test(text)) throw new Error('is not a positive integer');
	return Number(text);
}

// A timer of more than 24 days would end at once.
function seconds(text) {
	const number = positive(text);

	if (number > 86_400) throw new Error('is more than a day');
	return number;
}

function hour(text) {
	const number = positive(text);

	if (number > 3600) throw new Error('is more than an hour');
	return number;
}

function boolean(text) {
	if (text !== 'true' && text !== 'false') throw new Error('is neither true nor false');
	return text === 'true';
}
