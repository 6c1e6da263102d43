-- proxy.sql - a database without documents, for PostgREST, that sends each request to the shard of the token's tenant.
--
--	createdb docsync_proxy
--	psql -v ON_ERROR_STOP=1 -f proxy.sql docsync_proxy
--
-- As superuser, once; PL/Proxy must be installed (Debian: postgresql-15-plproxy). Roles are roles.sql's, by the same names. In
-- postgrest.conf nothing changes but the name of the database, nor does docsync.conf. On a shard nothing is needed but what
-- roles.sql makes: the proxy logs in as docsync_gateway, which alone may call docsync_call there.
--
-- PostgREST verifies the token and becomes docsync_user. The functions below run as docsync_route, which alone may reach the
-- shards. They take the claims from PostgREST's settings, and nobody who calls them can choose others.

BEGIN;

CREATE EXTENSION plproxy;

SELECT format('CREATE ROLE %s', role)
  FROM unnest(ARRAY['docsync_authenticator LOGIN NOINHERIT', 'docsync_anon NOLOGIN', 'docsync_user NOLOGIN', 'docsync_route NOLOGIN']) AS role
 WHERE to_regrole(split_part(role, ' ', 1)) IS NULL
\gexec
GRANT docsync_anon, docsync_user TO docsync_authenticator;

-- Which shard has which tenant
CREATE SCHEMA route AUTHORIZATION docsync_route;
CREATE TABLE route.shard (
	shard		text PRIMARY KEY,
	connection	text NOT NULL
);
COMMENT ON TABLE route.shard IS 'The shards, and how to connect to each as docsync_gateway. Passwords belong into ~/.pgpass.';
CREATE TABLE route.tenant (
	tenant		text COLLATE "C" PRIMARY KEY,
	shard		text NOT NULL REFERENCES route.shard
);
COMMENT ON TABLE route.tenant IS 'The shard of each tenant, as tokens name them (claim "tenant"). To be changed when one has moved.';
ALTER TABLE route.shard OWNER TO docsync_route;
ALTER TABLE route.tenant OWNER TO docsync_route;

CREATE FUNCTION route.connection(tenant text) RETURNS text
	LANGUAGE plpgsql STABLE CALLED ON NULL INPUT
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	result text := (SELECT s.connection FROM route.tenant AS t JOIN route.shard AS s USING (shard) WHERE t.tenant = connection.tenant);
BEGIN
	IF result IS NULL THEN
		RAISE SQLSTATE 'PGRST' USING
			MESSAGE = '{"code": "PT421", "message": "the tenant is on no server", "details": null, "hint": "Ask for another token."}',
			DETAIL = '{"status": 421, "headers": {}}';
	END IF;
	RETURN result;
END
$$;
COMMENT ON FUNCTION route.connection(text) IS 'How to connect to the shard of a tenant.';

CREATE FUNCTION route.call(tenant text, function text, role text, claims text, method text, headers text, body bytea) RETURNS text
	LANGUAGE plproxy
AS $$
	CONNECT route.connection(tenant);
	SELECT api.docsync_call(function, role, claims, method, headers, body);
$$;
COMMENT ON FUNCTION route.call(text, text, text, text, text, text, bytea) IS 'A request, on the shard of a tenant.';

-- What docsync answers on the shard, or refuses there, in its own words
CREATE FUNCTION route.request(function text, body bytea) RETURNS text
	LANGUAGE plpgsql SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	claims text := coalesce(nullif(current_setting('request.jwt.claims', true), ''), '{}');
	answer text;
	parts text[];
	state text;
	message text;
	detail text;
	hint text;
BEGIN
	BEGIN
		answer := route.call(claims::json ->> 'tenant', function, current_setting('role'), claims, coalesce(current_setting('request.method', true), ''),
							 coalesce(nullif(current_setting('request.headers', true), ''), '{}'), body);
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
		IF message ~ 'REMOTE (ERROR|FATAL): ' THEN
			message := regexp_replace(message, '^.*?REMOTE (ERROR|FATAL): ', '');
			detail := regexp_replace(detail, '^Remote detail: ', '');
			hint := regexp_replace(hint, '^Remote hint: ', '');
		ELSIF state <> 'PGRST' THEN
			-- Where it was looked for is nobody's to know.
			RAISE LOG USING MESSAGE = message, DETAIL = detail;
			state := 'PGRST';
			message := '{"code": "PT503", "message": "service not available", "details": null, "hint": "Try again later."}';
			detail := '{"status": 503, "headers": {"Retry-After": "10"}}';
		END IF;
		CASE (detail <> '')::int + (hint <> '')::int * 2
			WHEN 0 THEN RAISE USING ERRCODE = state, MESSAGE = message;
			WHEN 1 THEN RAISE USING ERRCODE = state, MESSAGE = message, DETAIL = detail;
			WHEN 2 THEN RAISE USING ERRCODE = state, MESSAGE = message, HINT = hint;
			ELSE RAISE USING ERRCODE = state, MESSAGE = message, DETAIL = detail, HINT = hint;
		END CASE;
	END;

	-- The value, and in two more lines the headers and the status that were set for it
	parts := regexp_match(answer, '^(.*)\n([^\n]*)\n([^\n]*)$');
	IF parts[2] <> '' THEN
		PERFORM set_config('response.headers', parts[2], true);
	END IF;
	IF parts[3] <> '' THEN
		PERFORM set_config('response.status', parts[3], true);
	END IF;

	-- Of 304, which has no body, something that is JSON
	RETURN coalesce(nullif(parts[1], ''), 'null');
END
$$;
COMMENT ON FUNCTION route.request(text, bytea) IS 'Sends the request that PostgREST has set up to the shard of the token''s tenant.';

-- docsync's functions, as PostgREST knows them
CREATE SCHEMA api AUTHORIZATION docsync_route;
CREATE DOMAIN api."*/*" AS json;
CREATE FUNCTION api.docsync_docs(bytea) RETURNS api."*/*" LANGUAGE sql AS $$ SELECT route.request('docsync_docs', $1)::json $$;
CREATE FUNCTION api.docsync_docs_sync(bytea) RETURNS api."*/*" LANGUAGE sql AS $$ SELECT route.request('docsync_docs_sync', $1)::json $$;
CREATE FUNCTION api.docsync_docs_reconcile(bytea) RETURNS api."*/*" LANGUAGE sql AS $$ SELECT route.request('docsync_docs_reconcile', $1)::json $$;
CREATE FUNCTION api.docsync_docs_get(bytea) RETURNS api."*/*" LANGUAGE sql AS $$ SELECT route.request('docsync_docs_get', $1)::json $$;
CREATE FUNCTION api.docsync_docs_query() RETURNS api."*/*" LANGUAGE sql STABLE AS $$ SELECT route.request('docsync_docs_query', '')::json $$;
CREATE FUNCTION api.docsync_pull() RETURNS api."*/*" LANGUAGE sql STABLE AS $$ SELECT route.request('docsync_pull', '')::json $$;

-- Nobody but docsync_route reaches the shards, and docsync_user may only ask.
ALTER FUNCTION route.connection(text) OWNER TO docsync_route;
ALTER FUNCTION route.call(text, text, text, text, text, text, bytea) OWNER TO docsync_route;
ALTER FUNCTION route.request(text, bytea) OWNER TO docsync_route;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA route, api FROM PUBLIC;
GRANT USAGE ON SCHEMA api, route TO docsync_user;
GRANT EXECUTE ON FUNCTION route.request(text, bytea) TO docsync_user;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA api TO docsync_user;

COMMIT;

-- Yours:
--	INSERT INTO route.shard VALUES ('shard_1', 'host=db1 dbname=docsync user=docsync_gateway');
--	INSERT INTO route.tenant VALUES ('anna', 'shard_1');
