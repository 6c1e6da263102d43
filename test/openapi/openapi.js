// openapi.js - what the tests do with doc/openapi.yaml.
//
//	openapi.js lint FILE				prints what is wrong with it, as OpenAPI
//	openapi.js requests FILE			its examples, as JSON, in their order: [{ name, method, path, body, status, answer }]
//	openapi.js arguments FILE			which requests know which arguments, as JSON: { argument: { request: where } }
//	openapi.js check FILE ANSWERS...	compares answers with its schemas, prints what differs. A line each, as JSON:
//										{ method, path, status, body }, the body as text

import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { bundle, formatProblems, lint, loadConfig } from '@redocly/openapi-core';
import { Ajv2020 } from 'ajv/dist/2020.js';

const DIFFERENCES_MAX = 20;
const [command, file, ...more] = process.argv.slice(2);
const config = await loadConfig({ configPath: new URL('redocly.yaml', import.meta.url).pathname });
const commands = { lint: lintFile, requests: printRequests, arguments: printArguments, check: checkAnswers };
const api = (await bundle({ ref: file, config })).bundle.parsed;

process.exitCode = await commands[command]() ? 0 : 1;

async function lintFile() {
	const problems = await lint({ ref: file, config });

	formatProblems(problems, { totals: { errors: problems.length, warnings: 0, ignored: 0 }, format: 'stylish', version: '' });
	return problems.length === 0;
}

// What a reference stands for, or the value itself
function follow(value) {
	return value?.$ref === undefined ? value : value.$ref.split('/').slice(1).reduce((at, key) => at[key.replaceAll('~1', '/')], api);
}

// The operations: [path, method, operation]
function operations() {
	return Object.entries(api.paths).flatMap(([path, item]) => Object.entries(item).map(([method, operation]) => [path, method.toUpperCase(), operation]));
}

// Those that are answered in JSON: not those with a stream
function ordinary() {
	return operations().filter(([, , { responses }]) => follow(responses['200'])?.content?.['text/event-stream'] === undefined);
}

// What is said of the body of a request or an answer
function bodyOf(holder) {
	return follow(holder)?.content?.['application/json'] ?? {};
}

// An example of a request and that of its answer have the same name. Parameters' examples are sent where there is no body.
function printRequests() {
	const requests = ordinary().flatMap(([path, method, { parameters, requestBody, responses }]) => {
		const query = parameters.map(follow).filter(({ example }) => example !== undefined).map(({ name, example }) => `${name}=${encodeURIComponent(example)}`).join('&');
		const answers = Object.entries(responses).flatMap(([status, response]) => Object.entries(bodyOf(response).examples ?? {})
			.map(([name, { value }]) => [name, { status, answer: value }]));
		const bodies = requestBody && Object.entries(bodyOf(requestBody).examples);

		return bodies
			? bodies.map(([name, { value }]) => ({ name, method, path, body: JSON.stringify(value), ...Object.fromEntries(answers)[name] }))
			: answers.map(([name, answer]) => ({ name, method, path: `${path}?${query}`, ...answer })).slice(0, 1);
	});

	console.log(JSON.stringify(requests));
	return true;
}

// As doc/protocol.md's table has it: query, body, both, each
function printArguments() {
	const known = {};

	for (const [path, , { parameters, requestBody }] of ordinary()) {
		const request = path.replace(/.*\//, '');
		const note = (name, where) => { (known[name] ??= {})[request] = where; };
		const keysOf = (schema) => Object.keys(schema?.properties ?? {});
		const { schema = {} } = bodyOf(requestBody);
		const objects = (schema.oneOf ?? [schema]).map(follow);
		const inQuery = parameters.map(follow).filter((parameter) => parameter.in === 'query').map(({ name }) => name);
		const inBody = objects.flatMap(keysOf);
		const ofEach = objects.flatMap((object) => keysOf(object.properties?.collections?.items));

		for (const name of inQuery) note(name, inBody.includes(name) ? 'both' : 'query');
		for (const name of inBody.filter((key) => !inQuery.includes(key))) note(name, 'body');
		for (const name of ofEach) note(name, 'each');
	}
	console.log(JSON.stringify(known));
	return true;
}

// A schema without references that allows nothing but what it describes. Later versions may answer with more; this one doesn't.
function closed(schema, isPart = false) {
	if (schema.$ref !== undefined) return closed(follow(schema), isPart);
	const copy = { ...schema };

	for (const key of ['oneOf', 'anyOf', 'allOf']) {
		if (schema[key]) copy[key] = schema[key].map((part) => closed(part, isPart || key === 'allOf'));
	}
	if (schema.items) copy.items = closed(schema.items);
	if (schema.properties) copy.properties = Object.fromEntries(Object.entries(schema.properties).map(([key, value]) => [key, closed(value)]));
	if (!isPart && (schema.properties ?? schema.allOf)) copy.unevaluatedProperties = false;
	return copy;
}

// What is wrong with an answer; undefined: nothing. What the description knows nothing of is an error.
function makeJudge() {
	const ajv = new Ajv2020({ strictTypes: false, formats: { int32: true, int64: true } });
	const compiled = new Map();
	const judge = (schema, value) => {
		if (!compiled.has(schema)) compiled.set(schema, ajv.compile(closed(schema)));
		const validate = compiled.get(schema);

		return validate(value) ? undefined : ajv.errorsText(validate.errors, { dataVar: '' });
	};

	return ({ method, path, status, body }) => {
		const responses = api.paths[path.replace(/\?.*/s, '')]?.[method === 'HEAD' ? 'get' : method.toLowerCase()]?.responses;
		const response = follow(responses?.[status] ?? (status >= 400 ? api.components.responses.Error : undefined));

		if (response === undefined && method !== 'OPTIONS') return 'a status that is not described';
		if (method === 'HEAD' || response?.content === undefined) return body === '' ? undefined : 'there is a body';
		try {
			return judge(bodyOf(response).schema, JSON.parse(body));
		} catch (error) {
			return error.message;
		}
	};
}

async function checkAnswers() {
	const judge = makeJudge();
	let differences = 0;

	for (const answers of more) {
		for await (const line of createInterface({ input: createReadStream(answers) })) {
			const answer = JSON.parse(line);
			const difference = judge(answer);

			if (difference !== undefined && ++differences <= DIFFERENCES_MAX) {
				console.log(`${answer.method} ${answer.path}: ${answer.status}: ${difference}: ${answer.body.slice(0, 1000)}`);
			}
		}
	}
	if (differences > DIFFERENCES_MAX) console.log(`and ${differences - DIFFERENCES_MAX} more`);
	return differences === 0;
}
