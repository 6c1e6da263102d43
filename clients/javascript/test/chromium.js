// chromium.js - pages in Chromium, Debian's, with this package under /src and /test.

import { createServer } from 'node:http';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** Serves the package's files on a port of its own. */
function serve() {
	const server = createServer(async (request, response) => {
		const path = normalize(new URL(request.url, 'http://localhost').pathname);

		try {
			const isPage = path === '/';
			const body = isPage ? '<!doctype html><title>test</title>' : await readFile(join(ROOT, path));

			response.writeHead(200, { 'Content-Type': isPage ? 'text/html' : 'text/javascript' }).end(body);
		} catch {
			response.writeHead(404).end();
		}
	});

	return new Promise((resolve) => { server.listen(0, '127.0.0.1', () => resolve(server)); });
}

/** A browser with an empty page; more pages, as tabs of the same browser, by open(). */
export async function openPage() {
	const server = await serve();
	const profile = await mkdtemp(join(tmpdir(), 'docsync-chromium-'));
	const context = await chromium.launchPersistentContext(profile, {
		executablePath: process.env.DOCSYNC_CHROMIUM || '/usr/bin/chromium', args: ['--disable-gpu', '--disable-dev-shm-usage'],
	});
	const open = async () => {
		const page = await context.newPage();

		await page.goto(`http://127.0.0.1:${server.address().port}/`);
		return page;
	};
	const close = async () => {
		await context.close();
		server.close();
		await rm(profile, { recursive: true, force: true });
	};

	return { page: await open(), open, close, context };
}
