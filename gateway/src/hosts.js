// hosts.js - connection strings with several hosts, as libpq accepts them; pg only supports one host.

// Splits a connection string into one for each server. Servers are in the authority, host1:port1,host2:port2, or in the parameters host and
// port. database.js chooses which of them to use; values of target_session_attrs that would contradict its choice are refused.
export function readHosts(uri, mustWrite) {
	const [, beginning, authority, path, query] = /^(postgres(?:ql)?:\/\/(?:[^@/?#]*@)?)([^/?#]*)([^?#]*)\??([^#]*)$/.exec(uri) ?? [];

	if (beginning === undefined) throw new Error('DOCSYNC_DATABASE_URI and DOCSYNC_STANDBY_URI must begin with postgresql://');
	const parameters = new URLSearchParams(query);
	const attributes = take(parameters, 'target_session_attrs') ?? 'any';
	const hosts = take(parameters, 'host')?.split(',');
	const ports = take(parameters, 'port')?.split(',') ?? [];

	if (!(mustWrite ? ['any', 'read-write', 'primary'] : ['any', 'prefer-standby']).includes(attributes)) {
		throw new Error(`target_session_attrs=${attributes} isn't supported there`);
	}
	if (hosts === undefined) return authority.split(',').map((host) => `${beginning}${host}${path}${write(parameters)}`);
	if (ports.length > 1 && ports.length !== hosts.length) throw new Error('the number of ports differs from that of hosts');
	return hosts.map((host, n) => {
		const own = new URLSearchParams(parameters);
		const port = ports[n] ?? ports[0];

		own.set('host', host);
		if (port) own.set('port', port);
		return `${beginning}${authority}${path}${write(own)}`;
	});
}

function take(parameters, name) {
	const value = parameters.get(name) ?? undefined;

	parameters.delete(name);
	return value;
}

const write = (parameters) => parameters.size > 0 ? `?${parameters}` : '';
