// hosts.js - connection strings with several hosts, as libpq accepts them; pg only supports one host.

// Splits a connection string into one for each server. Servers are in the authority, host1:port1,host2:port2, or in the parameters host and
// port, each of which takes precedence. database.js chooses which of them to use; values of target_session_attrs that would contradict its
// choice are refused.
export function readHosts(uri, mustWrite) {
	const [, beginning, authority, path, query] = /^(postgres(?:ql)?:\/\/(?:[^@/?#]*@)?)([^/?#]*)([^?#]*)\??([^#]*)$/.exec(uri) ?? [];

	if (beginning === undefined) throw new Error('DOCSYNC_DATABASE_URI and DOCSYNC_STANDBY_URI must begin with postgresql://');
	const parameters = new URLSearchParams(query);
	const attributes = take(parameters, 'target_session_attrs') ?? 'any';
	const places = authority.split(',');		// host:port
	const hosts = take(parameters, 'host')?.split(',');
	const ports = take(parameters, 'port')?.split(',');
	const count = (hosts ?? places).length;

	if (!(mustWrite ? ['any', 'read-write', 'primary'] : ['any', 'prefer-standby']).includes(attributes)) {
		throw new Error(`target_session_attrs=${attributes} isn't supported there`);
	}
	for (const { length } of [ports ?? places, places]) {
		if (length !== 1 && length !== count) throw new Error('the number of ports differs from that of hosts');
	}
	return Array.from({ length: count }, (_, n) => {
		const own = new URLSearchParams(parameters);
		const place = places[n] ?? places[0];
		const port = ports?.[n] ?? ports?.[0];

		if (hosts) own.set('host', hosts[n]);
		if (port) own.set('port', port);
		return `${beginning}${ports ? place.replace(/:\d*$/, '') : place}${path}${write(own)}`;
	});
}

function take(parameters, name) {
	const value = parameters.get(name) ?? undefined;

	parameters.delete(name);
	return value;
}

const write = (parameters) => parameters.size > 0 ? `?${parameters}` : '';
