-- shard.sql - a server of several: it knows which tenants it has, and answers 421 to all others.
--
--	psql -v ON_ERROR_STOP=1 -f ../postgrest/roles.sql -f shard.sql docsync
--
-- As superuser, once, on each shard; then  INSERT INTO shard.tenant VALUES ('anna');  on the one that has anna, and in
-- postgrest.conf  db-pre-request = "shard.check".  Without it a request that the router, or a client, sends astray is
-- served from a collection that is empty there, and written to it.

BEGIN;

CREATE SCHEMA shard;
CREATE TABLE shard.tenant (
	tenant	text COLLATE "C" PRIMARY KEY
);
COMMENT ON TABLE shard.tenant IS 'The tenants that this server has, as tokens name them (claim "tenant").';

-- PostgREST calls it before each request, as the role of the token. Who has no token is refused by what comes then.
CREATE FUNCTION shard.check() RETURNS void
	LANGUAGE plpgsql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	name text := nullif(current_setting('request.jwt.claims', true), '')::json ->> 'tenant';
BEGIN
	IF name IS NOT NULL AND NOT EXISTS (SELECT FROM shard.tenant AS t WHERE t.tenant = name) THEN
		RAISE SQLSTATE 'PGRST' USING
			MESSAGE = '{"code": "PT421", "message": "the tenant is on another server", "details": null, "hint": "Send the request to the address that came with the token."}',
			DETAIL = '{"status": 421, "headers": {}}';
	END IF;
END
$$;
COMMENT ON FUNCTION shard.check() IS 'PostgREST''s db-pre-request: 421 to tenants of other servers.';

REVOKE ALL ON FUNCTION shard.check() FROM PUBLIC;
GRANT USAGE ON SCHEMA shard TO docsync_anon, docsync_user;
GRANT EXECUTE ON FUNCTION shard.check() TO docsync_anon, docsync_user;

COMMIT;
