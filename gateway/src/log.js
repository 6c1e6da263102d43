// log.js - JSON lines on standard output. Of what a client has sent there are only the names of collection and client, and only where
// requests are logged.

process.stdout.on('error', () => {});		// whoever reads it may leave; the service stays

// Writes a line: when, how bad (info, warning, error), what, and more if there is.
export function log(level, message, more = {}) {
	process.stdout.write(`${JSON.stringify({ time: new Date().toISOString(), level, message, ...more })}\n`);
}
