// log.js - JSON lines on standard output. Of what a client has sent, they contain only the names of collection and client, and those
// only if requests are logged.

process.stdout.on('error', () => {});		// the reader may go away; the service stays up

// Writes a line: time, level (info, warning, error), message, and further fields.
export function log(level, message, more = {}) {
	process.stdout.write(`${JSON.stringify({ time: new Date().toISOString(), level, message, ...more })}\n`);
}
