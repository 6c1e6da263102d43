-- roles.sql - a database for docsync over PostgREST: extension, roles, a policy that keeps tenants apart.
--
--	createdb docsync
--	psql -v ON_ERROR_STOP=1 -f roles.sql docsync
--
-- As superuser, once. Who the tenant is, the token's claim "tenant" says. With
--
--	{"role": "docsync_user", "tenant": "anna", "collection": "anna"}
--
-- a client reads and writes the collection "anna" and those whose names begin with "anna/", and no other. The claim
-- "collection" says which one is meant where a request names none, as the protocol's own don't.

BEGIN;

-- PostgREST exposes this schema, so nothing but the extension lies in it. The tables are in the schema docsync.
CREATE SCHEMA api;
CREATE EXTENSION docsync SCHEMA api;
SELECT api.docsync_create_store() \g /dev/null

-- PostgREST connects as docsync_authenticator, which may do nothing but become one of the other two: docsync_user with a
-- token that says so, docsync_anon without. So does the gateway, as docsync_gateway. Roles are the server's, not the
-- database's: they may be there already.
SELECT format('CREATE ROLE %s', role)
  FROM unnest(ARRAY['docsync_authenticator LOGIN NOINHERIT', 'docsync_gateway LOGIN NOINHERIT', 'docsync_anon NOLOGIN',
					'docsync_user NOLOGIN']) AS role
 WHERE to_regrole(split_part(role, ' ', 1)) IS NULL
\gexec
GRANT docsync_anon, docsync_user TO docsync_authenticator, docsync_gateway;

-- The functions, and what they need of the store. docsync_anon has no right at all: who comes without a token is told 401.
GRANT USAGE ON SCHEMA api TO docsync_user;
SELECT api.docsync_grant('docsync_user') \g /dev/null

-- The gateway becomes one of them by this function. Nobody else may call it: not docsync_user, to whom tokens lead.
GRANT USAGE ON SCHEMA api TO docsync_gateway;
GRANT EXECUTE ON FUNCTION api.docsync_call TO docsync_gateway;

-- A request that takes longer, maybe since it waits for a transaction that was left prepared, shouldn't keep its connection
-- from others. Of the role that PostgREST connects as: it looks for settings of the others only with db-config = true. And
-- shorter than nginx waits: who is answered by nginx leaves a request behind.
ALTER ROLE docsync_authenticator SET statement_timeout = '55s';
ALTER ROLE docsync_gateway SET statement_timeout = '55s';

-- Nor one that waits for a row that somebody holds, in psql perhaps: as many of these as PostgREST has connections, and nobody
-- else is served. It ends with a 500, and the client tries again later.
ALTER ROLE docsync_authenticator SET lock_timeout = '3s';
ALTER ROLE docsync_gateway SET lock_timeout = '3s';

-- Nor one that has begun a transaction and left it, PostgREST having lost its way in the midst: it holds rows, and holds back
-- the readers of its collection.
ALTER ROLE docsync_authenticator SET idle_in_transaction_session_timeout = '10s';
ALTER ROLE docsync_gateway SET idle_in_transaction_session_timeout = '10s';

-- clientVersions are milliseconds here. One that is a day ahead of the time, of a clock that is wrong or worse, is refused:
-- nobody could edit the document before it is that late.
SELECT format('ALTER DATABASE %I SET docsync.max_version_lead = %L', current_database(), '1d')
\gexec

-- One policy for reading and writing. A collection belongs to the tenant who is named in front of its first "/".
-- (SELECT ...) is evaluated once a query, not once a row. The claims are empty outside PostgREST: no tenant, no row.
ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON docsync.document TO docsync_user
	USING (split_part(collection, '/', 1)
		   = (SELECT nullif(current_setting('request.jwt.claims', true), '')::json ->> 'tenant'));

-- Of two versions of a document one wins. To keep the other one for some time (doc/sql.md: "What lost is kept"), say of which
-- collections; and whoever shall read it by SQL needs a policy for it, too, that of the documents:
--
--	INSERT INTO docsync.keep (pattern, keep) VALUES ('%', 'discarded');
--	GRANT SELECT ON docsync.record TO docsync_user;
--	CREATE POLICY tenant ON docsync.record FOR SELECT TO docsync_user
--		USING (split_part(collection, '/', 1)
--			   = (SELECT nullif(current_setting('request.jwt.claims', true), '')::json ->> 'tenant'));

COMMIT;
