-- roles.sql - a database for docsync over PostgREST: extension, roles, a policy that keeps tenants apart.
--
--	createdb docsync
--	psql -v ON_ERROR_STOP=1 -f roles.sql docsync
--
-- As superuser, once. The token's claim "tenant" says who the tenant is. With
--
--	{"role": "docsync_user", "tenant": "anna", "collection": "anna"}
--
-- a client reads and writes the collection "anna" and those whose names begin with "anna/", and no other. The claim
-- "collection" is the default for requests that name none, such as the protocol's own.

BEGIN;

-- PostgREST exposes this schema, so it contains only the extension. The tables are in the schema docsync.
CREATE SCHEMA api;
CREATE EXTENSION docsync SCHEMA api;
SELECT api.docsync_create_store() \g /dev/null

-- PostgREST connects as docsync_authenticator, which can do nothing except switch to one of the other two: docsync_user with a
-- token that says so, docsync_anon without. The gateway does the same, as docsync_gateway. Roles belong to the server, not the
-- database, so they may exist already.
SELECT format('CREATE ROLE %s', role)
  FROM unnest(ARRAY['docsync_authenticator LOGIN NOINHERIT', 'docsync_gateway LOGIN NOINHERIT', 'docsync_anon NOLOGIN',
					'docsync_user NOLOGIN']) AS role
 WHERE to_regrole(split_part(role, ' ', 1)) IS NULL
\gexec
GRANT docsync_anon, docsync_user TO docsync_authenticator, docsync_gateway;

-- The functions, and the privileges on the store that they need. docsync_anon has none on them: without a token the answer is
-- 401.
GRANT USAGE ON SCHEMA api TO docsync_user;
SELECT api.docsync_grant('docsync_user') \g /dev/null

-- The service's health may be queried without a token. The function for it is in a schema of its own, since docsync_anon has no
-- privilege on the other: with it, all the functions would read what anybody sends.
CREATE SCHEMA health;
CREATE FUNCTION health.docsync_health() RETURNS json
	LANGUAGE sql STABLE
	BEGIN ATOMIC SELECT api.docsync_health(); END;
COMMENT ON FUNCTION health.docsync_health() IS 'GET /Docs/Health: the time, if the store can be read.';
GRANT USAGE ON SCHEMA health TO docsync_anon;

-- The gateway switches to one of them by this function. Nobody else may call it, not even docsync_user, which tokens lead to.
GRANT USAGE ON SCHEMA api TO docsync_gateway;
GRANT EXECUTE ON FUNCTION api.docsync_call TO docsync_gateway;

-- A request that takes longer, perhaps because it waits for a transaction that was left prepared, shouldn't keep its connection
-- from others. The timeout is set for the role that PostgREST connects as: it uses settings of the others only with db-config =
-- true. It is shorter than nginx's, since otherwise nginx would answer while the request is still running.
ALTER ROLE docsync_authenticator SET statement_timeout = '55s';
ALTER ROLE docsync_gateway SET statement_timeout = '55s';

-- Nor should a request that waits for a locked row, perhaps locked in psql: with as many of these as PostgREST has connections,
-- nobody else would be served. Such a request ends with a 500, and the client tries again later.
ALTER ROLE docsync_authenticator SET lock_timeout = '3s';
ALTER ROLE docsync_gateway SET lock_timeout = '3s';

-- One policy for reading and writing. A collection belongs to the tenant named before its first "/". (SELECT ...) is evaluated
-- once for a query, not for each row. The claims are empty outside PostgREST: no tenant, no row.
ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON docsync.document TO docsync_user
	USING (split_part(collection, '/', 1)
		   = (SELECT nullif(current_setting('request.jwt.claims', true), '')::json ->> 'tenant'));

COMMIT;
