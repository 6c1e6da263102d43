// log.js - JSON lines on standard output. Nothing that a client has sent is among them.

process.stdout.on('error', () => {});		// whoever reads it may leave; the service stays

// Writes a line: when, how bad (info, warning, error), what, and more if there is.
export function log(level, message, more = {}) {
	process.stdout.write(`${JSON.stringify({ time: new Date().toISOString(), level, message, ...more })}\n`);
}
