// sw.js - the page without a network: its files come from the network if possible, otherwise from what app.js has kept.
// Requests to the service are left alone: the client knows what to do without an answer.

const FILES = 'notes page';
const PATIENCE = 3000;			// milliseconds; a slower network counts as none

self.addEventListener('install', () => self.skipWaiting());
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));
self.addEventListener('fetch', (event) => {
	const { origin, pathname } = new URL(event.request.url);

	if (event.request.method === 'GET' && origin === location.origin && !pathname.startsWith('/Docs')) event.respondWith(find(event.request));
});

async function find(request) {
	const fetched = await fetch(request, { signal: AbortSignal.timeout(PATIENCE) }).catch(() => Response.error());

	if (isFile(request, fetched)) return fetched;
	return await (await caches.open(FILES)).match(request, { ignoreSearch: true }) ?? fetched;
}

/** Networks that want their users to sign in answer every request with a page. */
function isFile(request, response) {
	return response.ok && (request.mode === 'navigate' || !response.headers.get('Content-Type')?.startsWith('text/html'));
}
