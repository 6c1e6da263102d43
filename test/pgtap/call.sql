-- docsync_call: a whole request in one statement, with the privileges of the role
-- of the request, and no effect that its caller couldn't achieve by SET.
SET client_min_messages = warning;
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
DROP SCHEMA IF EXISTS docsync CASCADE;
DROP EXTENSION IF EXISTS docsync;
CREATE SCHEMA "Sync; Api";
CREATE EXTENSION docsync SCHEMA "Sync; Api";
DO $$ BEGIN PERFORM "Sync; Api".docsync_create_store(); END $$;
SELECT plan(77);

CREATE ROLE regress_docsync_layer LOGIN NOINHERIT;
CREATE ROLE regress_docsync_user;
CREATE ROLE regress_docsync_anon;
CREATE ROLE regress_docsync_other;
CREATE ROLE regress_docsync_chief SUPERUSER;
GRANT regress_docsync_user, regress_docsync_anon TO regress_docsync_layer;
GRANT USAGE ON SCHEMA "Sync; Api" TO regress_docsync_layer, regress_docsync_user, regress_docsync_other;
GRANT EXECUTE ON FUNCTION "Sync; Api".docsync_call TO regress_docsync_layer;
SELECT "Sync; Api".docsync_grant('regress_docsync_user'), "Sync; Api".docsync_grant('regress_docsync_other') \g /dev/null
ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON docsync.document TO regress_docsync_user
	USING (split_part(collection, '/', 1) = (SELECT nullif(current_setting('request.jwt.claims', true), '')::json ->> 'tenant'));
-- Before there is security, so to say: another client's documents
SELECT "Sync; Api".docsync_upsert('phone', '[{"id": "a", "clientVersion": 1, "body": 1}, {"id": "b", "clientVersion": 1, "deleted": true}]', 'anna'),
	   "Sync; Api".docsync_upsert('phone', '[{"id": "c", "clientVersion": 1, "body": 1}]', 'bert') \g /dev/null
SELECT "Sync; Api".docsync_upsert('phone', (SELECT jsonb_agg(jsonb_build_object('id', n::text, 'clientVersion', 1, 'body', n)) FROM generate_series(1, 1001) AS n), 'anna/many') \g /dev/null

-- Runs a query as the session of a user, which is undone; returns its first row, or the error.
CREATE FUNCTION pg_temp.run(session_user_is text, query text) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	result text;
BEGIN
	BEGIN
		EXECUTE format('SET LOCAL SESSION AUTHORIZATION %I', session_user_is);
		EXECUTE query INTO result;
		RAISE EXCEPTION USING ERRCODE = 'ZZ000', MESSAGE = coalesce(result, 'null');
	EXCEPTION WHEN OTHERS THEN
		RETURN CASE SQLSTATE WHEN 'ZZ000' THEN SQLERRM ELSE SQLSTATE || ' ' || SQLERRM END;
	END;
END
$$;
-- A request as the layer makes it; what of its answer comes from the clock is left out.
CREATE FUNCTION pg_temp.request(function text, body text DEFAULT '', claims text DEFAULT '{"tenant": "anna", "collection": "anna"}', method text DEFAULT 'POST',
	headers text DEFAULT '{}', role text DEFAULT 'regress_docsync_user', session_user_is text DEFAULT 'regress_docsync_layer',
	what text DEFAULT 'concat_ws('' '', nullif(status, ''''), answer)') RETURNS text
	LANGUAGE sql
AS $$
	SELECT regexp_replace(regexp_replace(pg_temp.run(session_user_is, format($q$SELECT %s FROM "Sync; Api".docsync_call(%L, %L, %L, %L, %L, %L) AS called,
		regexp_match(called, '^(.*)\n([^\n]*)\n([^\n]*)$') AS part, LATERAL (SELECT part[1] AS answer, part[2] AS response_headers, part[3] AS status) AS parts$q$, what,
		function, role, claims, method, headers, convert_to(body, 'UTF8'))), '"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"', '"NOW"', 'g'), '"cursor":"[^"]*"', '"cursor":"C"')
$$;

------------------------------------------------------------------------------
-- What each answers is what it answers when it is called
------------------------------------------------------------------------------
SELECT is(pg_temp.request('docsync_docs', '{"clientId": "x", "documents": [{"id": "new", "clientVersion": 1, "body": 1}]}'),
	'{"received":1,"results":[{"id":"new","outcome":"created","clientVersion":1,"LastUpdateUtc":"NOW","winner":null}]}', 'an upload');
SELECT is(pg_temp.request('docsync_docs_sync', '{"clientId": "x", "documents": [{"id": "new", "clientVersion": 1, "body": 1}]}'),
	'{"received":1,"results":[{"id":"new","outcome":"created","clientVersion":1,"LastUpdateUtc":"NOW","winner":null}],"documents":['
	'{"id":"a","clientVersion":1,"clientId":"phone","LastUpdateUtc":"NOW","deleted":false,"body":1},{"id":"b","clientVersion":1,"clientId":"phone","LastUpdateUtc":"NOW","deleted":true,"body":null}],'
	'"cursor":"C","more":false,"serverUtc":"NOW"}', 'a sync');
SELECT is(pg_temp.request('docsync_docs_query', method => 'GET', headers => '{"x-client-id": "x"}'),
	'[{"id":"a","clientVersion":1,"clientId":"phone","LastUpdateUtc":"NOW","deleted":false,"body":1},{"id":"b","clientVersion":1,"clientId":"phone","LastUpdateUtc":"NOW","deleted":true,"body":null}]',
	'a query: of others, as the header says who asks');
SELECT is(pg_temp.request('docsync_docs_query', method => 'GET', headers => '{"x-client-id": "phone"}'), '[]', '... not one''s own');
SELECT is(pg_temp.request('docsync_pull', method => 'GET'),
	'{"received":0,"results":[],"documents":[{"id":"a","clientVersion":1,"clientId":"phone","LastUpdateUtc":"NOW","deleted":false,"body":1},'
	'{"id":"b","clientVersion":1,"clientId":"phone","LastUpdateUtc":"NOW","deleted":true,"body":null}],"cursor":"C","more":false,"serverUtc":"NOW"}', 'a pull');
SELECT is(pg_temp.request('docsync_pull', method => 'GET', headers => '{"x-query-string": "maxDocuments=1"}'),
	'{"received":0,"results":[],"documents":[{"id":"a","clientVersion":1,"clientId":"phone","LastUpdateUtc":"NOW","deleted":false,"body":1}],"cursor":"C","more":true,"serverUtc":"NOW"}',
	'its query string is a header');
SELECT is(pg_temp.request('docsync_pull', method => 'GET', headers => '{"x-query-string": "collection=anna/many"}', what => $$json_array_length(answer::json -> 'documents') || ' ' || (answer::json ->> 'more')$$),
	'1000 true', 'a page has the default of the function');
SELECT is(pg_temp.request('docsync_docs_query', method => 'GET', headers => '{"x-client-id": "x", "x-query-string": "collection=anna/many"}', what => 'json_array_length(answer::json)'),
	'1001', '... a query has none');
SELECT is(pg_temp.request('docsync_docs_reconcile', '{}'),
	'{"rows":[{"id":"a","clientVersion":1,"LastUpdateUtc":"NOW","clientId":"phone","deleted":false},{"id":"b","clientVersion":1,"LastUpdateUtc":"NOW","clientId":"phone","deleted":true}],'
	'"after":null,"more":false,"purgedThrough":null,"serverUtc":"NOW"}', 'a comparison');
SELECT is(pg_temp.request('docsync_docs_get', '{"ids": ["b"]}'),
	'{"documents":[{"id":"b","clientVersion":1,"clientId":"phone","LastUpdateUtc":"NOW","deleted":true,"body":null}],"more":false,"serverUtc":"NOW"}', 'documents by id');

-- A listener's question
SET LOCAL docsync.announce = on;
SELECT is(pg_temp.request('docsync_listen_key', 'anna', method => 'GET'), "Sync; Api".docsync_listen_key('anna'), 'what a collection is called in announcements');
SELECT isnt(pg_temp.request('docsync_listen_key', 'anna', method => 'GET'), 'null', '... by which who sees it hears of it');
SELECT is(pg_temp.request('docsync_listen_key', 'bert', method => 'GET', what => $$coalesce(called, 'nothing')$$), 'nothing', 'who sees none of its documents is told nothing');
SELECT is(pg_temp.request('docsync_listen_key', '', method => 'GET'), '22023 collection is empty', 'a collection without a name');
SELECT is(pg_temp.run('regress_docsync_layer', $$SELECT "Sync; Api".docsync_call('docsync_listen_key', 'regress_docsync_user', '{}', 'GET', '{}', '\xff')$$),
	'22021 invalid byte sequence for encoding "UTF8": 0xff', '... or with one that is no text');

-- The arguments that it passes are the defaults of the script
SELECT is(pg_get_expr(proargdefaults, 0), expected, proname || ' has the defaults that docsync_call passes')
  FROM pg_proc JOIN (VALUES ('docsync_pull', 'NULL::text, NULL::text, NULL::text, NULL::text, 1000, false, NULL::text, true'),
	('docsync_docs_query', '''other''::text, NULL::text, NULL::text, NULL::text, NULL::integer')) AS v(name, expected) ON proname = name
 WHERE pronamespace = '"Sync; Api"'::regnamespace;

------------------------------------------------------------------------------
-- What it sets, and for how long
------------------------------------------------------------------------------
SELECT is(pg_temp.request('docsync_pull', method => 'GET', what => 'response_headers::json -> 0'), '{"Content-Type": "application/json; charset=utf-8"}', 'headers of the answer');
SELECT is(pg_temp.request('docsync_docs', '{"clientId": "x", "documents": []}', what => $$concat_ws('|', coalesce(nullif(status, ''), 'no status'), current_user, session_user, current_setting('request.jwt.claims'),
	current_setting('request.method'), current_setting('request.path'), current_setting('request.headers'), current_setting('transaction_read_only'), current_setting('search_path'))$$,
	headers => '{"x-client-id": "x"}', claims => '{"tenant": "anna"}'),
	'no status|regress_docsync_user|regress_docsync_layer|{"tenant": "anna"}|POST|/rpc/docsync_docs|{"x-client-id": "x"}|off|"Sync; Api"', 'settings, as PostgREST makes them');
SELECT is(pg_temp.request(function, '{"ids": []}', method => method, headers => '{"x-client-id": "x"}', what => $$current_setting('transaction_read_only')$$), 'on', function || ' is read-only, ' || method)
  FROM (VALUES ('docsync_pull', 'GET'), ('docsync_pull', 'HEAD'), ('docsync_docs_query', 'GET'), ('docsync_docs_get', 'POST')) AS v(function, method);
SELECT alike(pg_temp.request('docsync_docs', '{"clientId": "x", "documents": [{"id": "new", "clientVersion": 1, "body": 1}]}', method => method), '25006 %', 'an upload by ' || method || ' is refused')
  FROM unnest(ARRAY['GET', 'HEAD']) AS method;
SELECT is(pg_temp.request('docsync_pull', method => 'GET', headers => json_build_object('if-none-match', pg_temp.request('docsync_pull', method => 'GET', what => $$response_headers::json #>> '{1,ETag}'$$))::text,
	what => $$coalesce(nullif(status, ''), 'no status')$$), 'no status', 'who is at the beginning is given what there is');

SELECT pg_temp.request('docsync_pull', method => 'GET', what => $$answer::json ->> 'cursor'$$) AS cursor \gset
SELECT pg_temp.request('docsync_pull', method => 'GET', headers => json_build_object('x-query-string', 'cursor=' || :'cursor')::text, what => $$response_headers::json #>> '{1,ETag}'$$) AS etag \gset
SELECT is(pg_temp.request('docsync_pull', method => 'GET', headers => json_build_object('x-query-string', 'cursor=' || :'cursor', 'if-none-match', :'etag')::text,
	what => $$concat_ws(' ', status, length(answer))$$), '304 0', 'who has the answer is told so: the status, and an empty value');
SELECT is(concat_ws('|', current_user, current_setting('request.method', true), current_setting('transaction_read_only')), session_user || '||off', 'nothing of it is left when it is undone');

-- What a trigger says may stand in several lines; in the answer they are one.
CREATE FUNCTION pg_temp.answer_more() RETURNS trigger LANGUAGE plpgsql
	AS $$ BEGIN PERFORM set_config('response.headers', E'[{"X": "1"},\r\n{"Y": "2"}]', true), set_config('response.status', '201', true); RETURN NEW; END $$;
CREATE TRIGGER answer_more BEFORE INSERT ON docsync.document FOR EACH ROW EXECUTE FUNCTION pg_temp.answer_more();
SELECT is(pg_temp.request('docsync_docs', '{"clientId": "x", "documents": [{"id": "new", "clientVersion": 1, "body": 1}]}', what => $$status || response_headers$$), '201[{"X": "1"},  {"Y": "2"}]', 'what a trigger says of the answer');
DROP TRIGGER answer_more ON docsync.document;

------------------------------------------------------------------------------
-- The policies, and the privileges, are those of the role
------------------------------------------------------------------------------
SELECT is(pg_temp.request('docsync_pull', method => 'GET', claims => '{"tenant": "anna", "collection": "bert"}', what => $$answer::json -> 'documents'$$), '[]', 'another tenant''s documents aren''t there');
SELECT is(pg_temp.request('docsync_docs', '{"clientId": "x", "documents": [{"id": "new", "clientVersion": 1, "body": 1}]}', claims => '{"tenant": "anna", "collection": "bert"}'),
	'42501 new row violates row-level security policy for table "document"', '... nor can any be written');
SELECT is(pg_temp.request('docsync_pull', method => 'GET', claims => '{"collection": "anna"}', what => $$answer::json -> 'documents'$$), '[]', 'without a tenant there is nothing');
SELECT is(pg_temp.request('docsync_docs', '{"clientId": "x", "documents": []}', claims => '{"client_id": "y"}'), '42501 "clientId" is not the token''s', 'the claim client_id binds');
SELECT is(pg_temp.request('docsync_pull', role => 'regress_docsync_anon', method => 'GET'), '42501 permission denied for schema Sync; Api', 'who may not use the schema');
GRANT USAGE ON SCHEMA "Sync; Api" TO regress_docsync_anon;
SELECT is(pg_temp.request('docsync_pull', role => 'regress_docsync_anon', method => 'GET'), '42501 permission denied for schema docsync', 'nor the store');
REVOKE EXECUTE ON FUNCTION "Sync; Api".docsync_pull FROM PUBLIC;
SELECT is(pg_temp.request('docsync_pull', method => 'GET'), '42501 permission denied for function docsync_pull', 'nor the function');
GRANT EXECUTE ON FUNCTION "Sync; Api".docsync_pull TO regress_docsync_user;
SELECT unalike(pg_temp.request('docsync_pull', method => 'GET'), '42501%', '... which is given to the role, not to the layer');
ALTER FUNCTION "Sync; Api".docsync_pull SECURITY DEFINER;
SELECT is(pg_temp.request('docsync_pull', method => 'GET', claims => '{"tenant": "anna", "collection": "bert"}', what => $$answer::json #>> '{documents,0,id}'$$), 'c',
	'what somebody has made of the function it is');
ALTER FUNCTION "Sync; Api".docsync_pull SECURITY INVOKER;

------------------------------------------------------------------------------
-- Nobody becomes what he may not
------------------------------------------------------------------------------
SELECT is(pg_temp.request('docsync_pull', role => role), error, 'role ' || role)
  FROM (VALUES ('regress_docsync_other', '42501 permission denied to set role "regress_docsync_other"'),
	('regress_docsync_chief', '42501 permission denied to set role "regress_docsync_chief"'),
	('regress_docsync_layer', '42501 permission denied to set role "regress_docsync_layer"'),
	('none', '42501 permission denied to set role "none"'),
	('', '22023 role "" does not exist'),
	('regress_docsync_nobody', '22023 role "regress_docsync_nobody" does not exist')) AS v(role, error);
-- For each session and each role: it is what SET ROLE does.
GRANT EXECUTE ON FUNCTION "Sync; Api".docsync_call TO regress_docsync_other, regress_docsync_user;
SELECT is(pg_temp.request('docsync_pull', role => role, session_user_is => session_user_is, method => 'GET') ~ '^42501 permission denied to set role',
		pg_temp.run(session_user_is, format($$SELECT set_config('role', %L, true)$$, role)) ~ '^42501' OR session_user_is = role,
		session_user_is || ' as ' || role)
  FROM unnest(ARRAY['regress_docsync_layer', 'regress_docsync_user', 'regress_docsync_other']) AS session_user_is,
	   unnest(ARRAY['regress_docsync_layer', 'regress_docsync_user', 'regress_docsync_other', 'regress_docsync_chief']) AS role;
-- Not by way of a function that runs as somebody else
CREATE FUNCTION "Sync; Api".definer(role text) RETURNS text LANGUAGE sql SECURITY DEFINER
	AS $$ SELECT "Sync; Api".docsync_call('docsync_pull', role, '{}', 'GET', '{}', '') $$;
SELECT is(pg_temp.run('regress_docsync_other', format('SELECT "Sync; Api".definer(%L)', role)), '42501 cannot set parameter "role" within security-definer function', 'within a definer''s function, as ' || role)
  FROM unnest(ARRAY['regress_docsync_other', 'regress_docsync_user', 'regress_docsync_chief']) AS role;

------------------------------------------------------------------------------
-- Out of reach of who has a token, and calls functions
------------------------------------------------------------------------------
REVOKE EXECUTE ON FUNCTION "Sync; Api".docsync_call FROM regress_docsync_other, regress_docsync_user;
SELECT is(pg_temp.request('docsync_pull', session_user_is => role), '42501 permission denied for function docsync_call', role || ' may not call it')
  FROM unnest(ARRAY['regress_docsync_other', 'regress_docsync_user', 'regress_docsync_anon']) AS role
 WHERE has_schema_privilege(role, 'Sync; Api', 'USAGE');
-- ... nor where somebody has given all functions away: in a request there is none.
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA "Sync; Api" TO regress_docsync_user, regress_docsync_anon;
SELECT is(pg_temp.run('regress_docsync_layer', format($$SELECT set_config(%L, %L, true), set_config('role', 'regress_docsync_user', true), "Sync; Api".docsync_call('docsync_pull', 'regress_docsync_user',
	'{"tenant": "bert"}', 'GET', '{}', '')$$, setting, value)), '42501 permission denied to start a request within a request', setting || ' is set')
  FROM (VALUES ('request.jwt.claims', '{"role": "regress_docsync_user"}'), ('request.method', 'POST')) AS v(setting, value);
SELECT is(pg_temp.run('regress_docsync_layer', $$SELECT b FROM "Sync; Api".docsync_call('docsync_docs', 'regress_docsync_user', '{"tenant": "anna", "collection": "anna"}', 'POST', '{}',
	'{"clientId": "x", "documents": []}') AS a, LATERAL "Sync; Api".docsync_call(left(a, 0) || 'docsync_pull', 'regress_docsync_user', '{"tenant": "bert"}', 'GET', '{}', '') AS b$$),
	'42501 permission denied to start a request within a request', 'a second one in a statement');

-- What a trigger has set in another request, for longer than that, isn't this one's.
SELECT unalike(pg_temp.run('regress_docsync_layer', $$SELECT called FROM (SELECT concat(set_config('response.status', '418', false), set_config('response.headers', '[{"X-Theirs": "1"}]', false))) AS s (t),
	LATERAL "Sync; Api".docsync_call(left(t, 0) || 'docsync_docs', 'regress_docsync_user', '{"tenant": "anna", "collection": "anna"}', 'POST', '{}', '{"clientId": "x", "documents": []}') AS called$$),
	'%418%', 'what was set for another answer is gone');

------------------------------------------------------------------------------
-- What isn't a request
------------------------------------------------------------------------------
SELECT is(pg_temp.request(function), '42883 there is no such function for HTTP requests', 'function ' || function)
  FROM unnest(ARRAY['docsync_call', 'docsync_upsert', 'docsync_new_epoch', 'pg_sleep', '', 'DOCSYNC_PULL']) AS function;
SELECT is(pg_temp.run('regress_docsync_layer', format('SELECT "Sync; Api".docsync_call(%s)', arguments)), '22004 argument ' || n || ' of a request is null', 'argument ' || n || ' is null')
  FROM (VALUES (1, $$NULL, 'regress_docsync_user', '{}', 'GET', '{}', ''$$), (2, $$'docsync_pull', NULL, '{}', 'GET', '{}', ''$$), (6, $$'docsync_pull', 'regress_docsync_user', '{}', 'GET', '{}', NULL$$)) AS v(n, arguments);

-- An error is that of the function, with the code of an HTTP status
SELECT is(pg_temp.request('docsync_docs', '[', headers => '{"x-client-id": "x"}'), '22P02 document 1: invalid JSON', 'what isn''t JSON');
SET LOCAL docsync.max_batch = 1;
SELECT is(pg_temp.request('docsync_docs', '[{"id": "1", "clientVersion": 1, "body": 1}, {"id": "2", "clientVersion": 1, "body": 1}]', headers => '{"x-client-id": "x"}'), 'PT413 too many documents', 'what is too much');

SELECT * FROM finish();
ROLLBACK;
