// The package as npm packs it, installed in an empty project: README's lines run there, and its types are found.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { TOKEN, URL_OF_SERVICE, anyName, needsService, open } from './service.js';

const run = promisify(execFile);
const ROOT = fileURLToPath(new URL('..', import.meta.url));
const readme = await readFile(join(ROOT, 'README.md'), 'utf8');
const examples = [...readme.matchAll(/```js\n(.*?)```/gs)].map(([, code]) => code);

test('packed, installed in an empty project', needsService, async (t) => {
	const directory = await mkdtemp(join(tmpdir(), 'docsync-package-'));
	const project = join(directory, 'project');
	const npm = (where, ...args) => run('npm', [...args, '--offline', '--no-audit', '--no-fund'], { cwd: where, env: { ...process.env, npm_config_cache: join(directory, 'cache') } });

	try {
		// A copy: packing makes the types.
		for (const name of ['README.md', 'package.json', 'tsconfig.json', 'src', 'adapters']) await cp(join(ROOT, name), join(directory, 'package', name), { recursive: true });
		await symlink(join(ROOT, 'node_modules'), join(directory, 'package', 'node_modules'));
		await npm(join(directory, 'package'), 'pack', '--pack-destination', directory);
		await cp(join(ROOT, 'test', 'project'), project, { recursive: true });
		await npm(project, 'install', join(directory, `docsync-client-${JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')).version}.tgz`));

		const name = anyName();
		const other = open(name);

		await t.test("README's first lines", async () => {
			// As they stand, but for the collection, the store, which Node.js hasn't, and an end.
			const code = examples[0].replace("'notes'", JSON.stringify(name)).replaceAll('indexedDbStore', 'memoryStore');
			const rendered = `const url = ${JSON.stringify(URL_OF_SERVICE)}, token = ${JSON.stringify(TOKEN)}, seen = [];
const render = (id, body, unsent) => seen.push([id, body, unsent]);
${code}
while (seen.at(-1)?.[2] !== false) await new Promise((resolve) => setTimeout(resolve, 10));
notes.stop();
console.log(JSON.stringify(seen.at(-1)));`;

			await writeFile(join(project, 'readme.js'), rendered);
			const { stdout } = await run(process.execPath, ['readme.js'], { cwd: project });

			assert.deepEqual(JSON.parse(stdout), ['shopping', { text: 'bread' }, false]);
			await other.sync();
			assert.deepEqual(await other.get('shopping'), { text: 'bread' });
		});

		await t.test("README's other lines", async () => {
			await writeFile(join(project, 'others.js'), `import { Collection, DELETE, indexedDbStore, memoryStore } from 'docsync-client';
const url = ${JSON.stringify(URL_OF_SERVICE)}, token = ${JSON.stringify(TOKEN)}, store = memoryStore(), console = { log() {} };
const signIn = async () => token, show = () => {}, merge = (mine, theirs) => ({ ...theirs, ...mine });
${examples.slice(1).filter((code) => !/sqlite|docsync-client\/adapters/.test(code)).map((code) => `{\n${code.replaceAll("'notes'", JSON.stringify(name))}\nnotes?.stop();\n}`).join('\n')}
process.exit(0);`);
			await run(process.execPath, ['others.js'], { cwd: project });
		});

		await t.test('its types are found', async () => {
			await run(process.execPath, [join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', project], { cwd: project }).catch(({ stdout }) => assert.fail(stdout));
		});
	} finally {
		await rm(directory, { recursive: true, force: true });
	}
});
