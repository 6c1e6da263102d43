// config.js - the settings: of the environment, and of one file in the same form, NAME=value.

import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { parseEnv } from 'node:util';

// Name, default, what it is, and what is made of its text. A setting without a default must be given where it is needed.
const SETTINGS = [
	['DATABASE_URI', 'postgresql://docsync_gateway@/docsync?host=/run/postgresql', 'where PostgreSQL is; the password belongs into ~/.pgpass. Of several hosts, a,b or ?host=a,b, the one that can be written to is taken'],
	['STANDBY_URI', '', 'the same for standbys, where those reads go that ask for it by X-Docsync-Read: standby'],
	['SCHEMA', 'api', 'the schema of docsync\'s functions'],
	['LISTEN', '127.0.0.1:8080', 'address and port of the service, or the path of a socket'],
	['ADMIN_LISTEN', '127.0.0.1:8081', 'the same for /health, /ready and /metrics, which are for operators alone; empty: nowhere'],
	['JWT_SECRET', '', 'what tokens are signed with: a text of 32 characters or more (HS256), a JWK or a JWKS; or @FILE, which holds it'],
	['JWKS_URL', '', 'or where a JWKS is to be had (RS256, ES256, EdDSA); it is asked again for keys that are new'],
	['JWT_AUDIENCE', '', 'the audience that a token must name if it names any'],
	['JWT_ROLE_CLAIM', 'role', 'the claim that says as which role a request runs; with dots, one within another'],
	['ANON_ROLE', 'docsync_anon', 'the role of requests without a token, or whose token names none'],
	['POOL', '20', 'connections to PostgreSQL, and so requests under way', positive],
	['POOL_PER_COLLECTION', '10', '... of one collection', positive],
	['POOL_WAIT', '10', 'how long others wait for one of them, in seconds', positive],
	['MAX_BODY_MB', '8', 'the largest body that a request may have', positive],
	['MAX_BUFFERED_MB', '512', 'memory for requests that are arriving or under way', positive],
	['PROCESSES', '1', 'how many processes share the work; each has a pool and memory for requests of its own', positive],
	['LOG_REQUESTS', 'false', 'true: a line for each request; else for those that failed here or in PostgreSQL', boolean],
];

export const HELP = `docsync-gateway [FILE] - docsync over HTTP, in front of PostgreSQL

Settings come from the environment, and from FILE, which has lines NAME=value; the environment wins.

${SETTINGS.map(([name, initial, what]) => `    DOCSYNC_${name}\n        ${what}${initial ? `\n        default: ${initial}` : ''}`).join('\n')}

Send SIGTERM to stop it: it finishes the requests that are under way. PostgreSQL needs what examples/postgrest/roles.sql makes.
`;

// The settings as an object: databaseUri, schema, ... Throws an error that says what is wrong.
export function readConfig(env, file) {
	const given = { ...file !== undefined && parseEnv(readFileSync(file, 'utf8')), ...env };
	const config = {};

	if (file !== undefined) {
		for (const name of Object.keys(parseEnv(readFileSync(file, 'utf8')))) {
			if (!SETTINGS.some(([known]) => name === `DOCSYNC_${known}`)) throw new Error(`${file}: there is no setting ${name}`);
		}
	}
	for (const [name, initial, , make] of SETTINGS) {
		const text = given[`DOCSYNC_${name}`] ?? initial;
		const key = name.toLowerCase().replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());

		try {
			config[key] = make ? make(text) : text;
		} catch (error) {
			throw new Error(`DOCSYNC_${name} ${error.message}`);
		}
	}
	if (config.jwtSecret.startsWith('@')) {
		config.jwtSecret = readFileSync(resolve(file ? dirname(file) : '.', config.jwtSecret.slice(1)), 'utf8').replace(/\n$/, '');
	}
	if (!config.jwtSecret === !config.jwksUrl) throw new Error('DOCSYNC_JWT_SECRET or DOCSYNC_JWKS_URL must be given, and but one of them');
	return config;
}

function positive(text) {
	if (!/^[1-9]\d{0,8}$/.test(text)) throw new Error('is not a positive integer');
	return Number(text);
}

function boolean(text) {
	if (text !== 'true' && text !== 'false') throw new Error('is neither true nor false');
	return text === 'true';
}
