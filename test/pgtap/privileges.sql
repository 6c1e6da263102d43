-- Who may do what: everybody may call the functions, which are of no use without
-- privileges on the store; PUBLIC has none of these, and a role that was granted
-- docsync has exactly those that its calls need.
SET client_min_messages = error;
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
DROP SCHEMA IF EXISTS docsync CASCADE;
DROP EXTENSION IF EXISTS docsync;
CREATE SCHEMA "Sync; Api";
CREATE EXTENSION docsync SCHEMA "Sync; Api";
DO $$ BEGIN PERFORM "Sync; Api".docsync_create_store(); END $$;
CREATE ROLE regress_docsync_stranger;
CREATE ROLE "regress docsync ""Müller""; --";
\set role '"regress docsync ""Müller""; --"'
SELECT plan(156);

-- Runs a command as a role; returns the SQLSTATE, or OK.  What it does is undone.
CREATE FUNCTION pg_temp.try(role text, command text) RETURNS text
	LANGUAGE plpgsql
AS $$
BEGIN
	BEGIN
		PERFORM set_config('role', role, true);
		EXECUTE command;
		RAISE EXCEPTION USING ERRCODE = 'ZZ000';
	EXCEPTION WHEN OTHERS THEN
		RETURN CASE SQLSTATE WHEN 'ZZ000' THEN 'OK' ELSE SQLSTATE END;
	END;
END
$$;

-- All privileges on what belongs to docsync and on the store, but for the owner's
CREATE FUNCTION pg_temp.privileges() RETURNS TABLE (object text, grantee text, privilege text)
	LANGUAGE sql
AS $$
	WITH member AS (
		SELECT d.classid, d.objid FROM pg_depend AS d
		 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
		   AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'docsync')
		UNION SELECT 'pg_class'::regclass, oid FROM pg_class WHERE relnamespace = 'docsync'::regnamespace AND relkind IN ('r', 'S')),
	acl AS (
		SELECT 'function ' || proname AS object, proowner AS owner, coalesce(proacl, acldefault('f', proowner)) AS acl
		  FROM pg_proc JOIN member ON oid = objid AND classid = 'pg_proc'::regclass
		UNION ALL
		SELECT relname, relowner, coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner))
		  FROM pg_class JOIN member ON oid = objid AND classid = 'pg_class'::regclass
		UNION ALL
		SELECT relname || '.' || attname, relowner, attacl
		  FROM pg_class JOIN member ON oid = objid AND classid = 'pg_class'::regclass JOIN pg_attribute ON attrelid = oid
		 WHERE attacl IS NOT NULL
		UNION ALL
		SELECT 'type ' || typname, typowner, coalesce(typacl, acldefault('T', typowner))
		  FROM pg_type JOIN member ON oid = objid AND classid = 'pg_type'::regclass AND typname !~ '^_'
		UNION ALL
		SELECT 'schema ' || nspname, nspowner, coalesce(nspacl, acldefault('n', nspowner))
		  FROM pg_namespace WHERE nspname IN ('docsync', 'Sync; Api'))
	SELECT object, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END,
		   privilege_type || CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
	  FROM acl, aclexplode(acl) WHERE grantee <> owner
$$;

------------------------------------------------------------------------------
-- PUBLIC
------------------------------------------------------------------------------
-- What isn't of the store: functions and types of the extension
SELECT set_eq($$SELECT object, grantee, privilege FROM pg_temp.privileges()$$, $$
	SELECT 'function ' || proname AS object, 'PUBLIC' AS grantee, 'EXECUTE' AS privilege FROM pg_proc WHERE pronamespace = '"Sync; Api"'::regnamespace AND proname <> 'docsync_call'
	UNION ALL VALUES ('type docsync_change', 'PUBLIC', 'USAGE'), ('type */*', 'PUBLIC', 'USAGE')$$, 'nothing of the store is granted to anybody, nor is docsync_call');
SELECT is(pg_temp.try('regress_docsync_stranger', command), '42501', 'a stranger: ' || regexp_replace(command, '\s+', ' ', 'g'))
  FROM unnest(ARRAY[
	'SELECT "Sync; Api".docsync_pull()',
	'SELECT * FROM docsync.document',
	'SELECT * FROM docsync.purged',
	'SELECT * FROM docsync.history',
	'SELECT last_value FROM docsync.clock']) AS command;
GRANT USAGE ON SCHEMA docsync, "Sync; Api" TO regress_docsync_stranger;
SELECT is(pg_temp.try('regress_docsync_stranger', command), '42501', 'within the schemas: ' || regexp_replace(command, '\s+', ' ', 'g'))
  FROM unnest(ARRAY[
	$$SELECT "Sync; Api".docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]')$$,
	$$SELECT "Sync; Api".docsync_query_since('tablet')$$,
	$$SELECT "Sync; Api".docsync_sync('tablet')$$,
	$$SELECT "Sync; Api".docsync_sync('tablet', state => 'true')$$,
	$$SELECT "Sync; Api".docsync_pull()$$,
	$$SELECT "Sync; Api".docsync_docs('{"clientId": "tablet", "documents": [{"id": "a", "clientVersion": 1, "body": 1}]}')$$,
	$$SELECT "Sync; Api".docsync_docs_query('any')$$,
	$$SELECT "Sync; Api".docsync_docs_sync('{"clientId": "tablet"}')$$,
	$$SELECT "Sync; Api".docsync_docs_reconcile('{}')$$,
	$$SELECT "Sync; Api".docsync_docs_get('{"ids": ["a"]}')$$,
	-- These ask for nothing, but hold the store's locks.
	$$SELECT "Sync; Api".docsync_docs_get('{"ids": [], "cursor": "0000000000000000.1"}')$$,
	$$SELECT "Sync; Api".docsync_upsert('tablet', '[]')$$,
	$$SELECT "Sync; Api".docsync_docs('{"clientId": "tablet", "documents": []}')$$,
	$$SELECT "Sync; Api".docsync_new_epoch()$$,
	$$SELECT "Sync; Api".docsync_hand_over()$$,
	$$SELECT "Sync; Api".docsync_take_over()$$,
	$$SELECT "Sync; Api".docsync_create_store()$$,
	$$SELECT "Sync; Api".docsync_check_store_owner()$$,
	$$SELECT "Sync; Api".docsync_status()$$,
	$$SELECT "Sync; Api".docsync_facts()$$,
	$$SELECT "Sync; Api".docsync_holders()$$,
	$$SELECT "Sync; Api".docsync_marks()$$,
	$$SELECT "Sync; Api".docsync_collections()$$,
	$$SELECT "Sync; Api".docsync_digest('none')$$,
	$$CALL "Sync; Api".docsync_purge()$$,
	$$SELECT "Sync; Api".docsync_grant('regress_docsync_stranger')$$,
	$$SELECT id FROM docsync.document$$,
	$$SELECT * FROM docsync.history$$,
	$$SELECT last_value FROM docsync.clock$$]) AS command;
-- The trigger's function is for docsync.document alone.
SELECT is(pg_temp.try('regress_docsync_stranger', $$CREATE TEMP TABLE own (a int);
	CREATE TRIGGER own BEFORE INSERT ON own FOR EACH ROW EXECUTE FUNCTION "Sync; Api".docsync_guard(); INSERT INTO own VALUES (1)$$), '42809',
	'a table of the stranger''s own can''t be guarded');
REVOKE USAGE ON SCHEMA docsync, "Sync; Api" FROM regress_docsync_stranger;

------------------------------------------------------------------------------
-- docsync_grant gives exactly this
------------------------------------------------------------------------------
SELECT "Sync; Api".docsync_grant(:'role') AS granted \gset
SELECT set_eq($$SELECT object, privilege FROM pg_temp.privileges() WHERE grantee = 'regress docsync "Müller"; --'$$, $$VALUES
	('schema docsync', 'USAGE'),
	('document', 'SELECT'),
	('document.collection', 'INSERT'), ('document.id', 'INSERT'),
	('document.client_version', 'INSERT'), ('document.client_version', 'UPDATE'),
	('document.client_id', 'INSERT'), ('document.client_id', 'UPDATE'),
	('document.deleted', 'INSERT'), ('document.deleted', 'UPDATE'),
	('document.body', 'INSERT'), ('document.body', 'UPDATE')$$,
	'docsync_grant gives a role these privileges and no other');
SELECT is_empty($$SELECT * FROM pg_temp.privileges() WHERE grantee <> 'regress docsync "Müller"; --' AND object !~ '^(function docsync_|type )'$$,
	'... and nobody else');
GRANT USAGE ON SCHEMA "Sync; Api" TO :role;
SELECT is("Sync; Api".docsync_grant(:'role')::text, '', 'it may be given again');

-- The calls work.
SELECT is(pg_temp.try('regress docsync "Müller"; --', command), 'OK', 'granted: ' || regexp_replace(command, '\s+', ' ', 'g'))
  FROM unnest(ARRAY[
	$$SELECT "Sync; Api".docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]')$$,
	$$SELECT "Sync; Api".docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]');
	  SELECT "Sync; Api".docsync_upsert('tablet', '[{"id": "a", "clientVersion": 2, "body": 1}, {"id": "b", "clientVersion": 0, "deleted": true}]')$$,
	$$SELECT "Sync; Api".docsync_query_since('tablet')$$,
	$$SELECT "Sync; Api".docsync_query_since('tablet', '2001-01-01')$$,
	$$SELECT "Sync; Api".docsync_sync('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]')$$,
	$$SELECT "Sync; Api".docsync_pull()$$,
	$$SELECT "Sync; Api".docsync_docs('{"clientId": "tablet", "documents": [{"id": "a", "clientVersion": 1, "body": 1}]}')$$,
	$$SELECT "Sync; Api".docsync_docs_query('any', '2001-01-01T00:00:00Z')$$,
	$$SELECT "Sync; Api".docsync_docs_sync('{"clientId": "tablet", "documents": [{"id": "a", "clientVersion": 1, "body": 1}]}')$$,
	$$SELECT "Sync; Api".docsync_docs_sync('{"origin": "any"}')$$,
	$$SELECT "Sync; Api".docsync_sync('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]', state => 'true', reconcile => true, tombstones => false)$$,
	$$SELECT "Sync; Api".docsync_pull(state => 'true')$$,
	$$SELECT "Sync; Api".docsync_docs_reconcile('{}')$$,
	$$SELECT "Sync; Api".docsync_docs_get('{"ids": ["a"]}')$$,
	$$SELECT "Sync; Api".docsync_docs_get('{"ids": []}')$$,
	$$SELECT "Sync; Api".docsync_upsert('tablet', '[]')$$,
	$$SELECT "Sync; Api".docsync_check_store()$$,
	$$SELECT "Sync; Api".docsync_digest()$$,
	$$SELECT "Sync; Api".docsync_health()$$,
	$$INSERT INTO docsync.document (id, body) VALUES ('a', '1');
	  UPDATE docsync.document SET body = '2' WHERE id = 'a'$$]) AS command;
-- Also when tombstones have been purged, and the way leads by docsync.purged
INSERT INTO docsync.document (id, last_update_utc, deleted, fence) VALUES ('old', '2001-02-03', true, '3'), ('newest', '2001-02-04', true, '3');
CALL "Sync; Api".docsync_purge('90 days', 'default', NULL) \gset
SELECT is(:removed, 1, 'the owner purges');
SELECT is(pg_temp.try('regress docsync "Müller"; --', $$SELECT "Sync; Api".docsync_query_since('tablet', '2001-02-03', collection => 'other')$$), 'OK',
	'granted: a download after a purge');

-- Who monitors the server sees what there is, and can neither read nor write it.
CREATE ROLE regress_docsync_monitor IN ROLE pg_monitor;
GRANT USAGE ON SCHEMA "Sync; Api" TO regress_docsync_monitor;
SELECT is(pg_temp.try('regress_docsync_monitor', command), 'OK', 'who monitors: ' || command)
  FROM unnest(ARRAY[
	$$SELECT "Sync; Api".docsync_status(true)$$,
	$$SELECT "Sync; Api".docsync_holders()$$,
	$$SELECT "Sync; Api".docsync_collections(true)$$,
	$$SELECT "Sync; Api".docsync_check_store()$$,
	$$SELECT "Sync; Api".docsync_health()$$]) AS command;
SELECT is(pg_temp.try('regress_docsync_monitor', command), '42501', 'who monitors: not ' || command)
  FROM unnest(ARRAY[
	$$SELECT "Sync; Api".docsync_digest()$$,
	$$SELECT "Sync; Api".docsync_pull()$$,
	$$SELECT "Sync; Api".docsync_upsert('tablet', '[]')$$,
	$$SELECT FROM docsync.document$$,
	$$SELECT "Sync; Api".docsync_new_epoch()$$,
	$$CALL "Sync; Api".docsync_purge()$$]) AS command;

-- The stamps are out of reach.
INSERT INTO docsync.document (id, body) VALUES ('there', '1');
SELECT is(pg_temp.try('regress docsync "Müller"; --', command), '42501', 'not granted: ' || regexp_replace(command, '\s+', ' ', 'g'))
  FROM unnest(ARRAY[
	$$INSERT INTO docsync.document (id, body, last_update_utc) VALUES ('a', '1', now())$$,
	$$INSERT INTO docsync.document (id, body, fence) VALUES ('a', '1', '3')$$,
	$$INSERT INTO docsync.document (id, body, last_update_utc, fence) VALUES ('a', '1', now(), '3')$$,
	$$INSERT INTO docsync.document VALUES ('default', 'a', 1, 'tablet', now(), false, '1', '3')$$,
	$$COPY docsync.document FROM '/dev/null'$$,
	$$UPDATE docsync.document SET last_update_utc = now()$$,
	$$UPDATE docsync.document SET fence = '3'$$,
	$$UPDATE docsync.document SET id = 'b'$$,
	$$UPDATE docsync.document SET collection = 'b'$$,
	$$DELETE FROM docsync.document$$,
	$$TRUNCATE docsync.document$$,
	$$LOCK docsync.document IN ACCESS EXCLUSIVE MODE$$,
	$$ALTER TABLE docsync.document DISABLE TRIGGER ALL$$,
	$$SET session_replication_role = replica$$,
	$$CREATE TRIGGER own BEFORE INSERT ON docsync.document FOR EACH ROW EXECUTE FUNCTION "Sync; Api".docsync_guard()$$,
	$$SELECT FROM docsync.purged$$,
	$$INSERT INTO docsync.purged VALUES ('default', now())$$,
	$$UPDATE docsync.purged SET last_update_utc = 'infinity'$$,
	$$DELETE FROM docsync.purged$$,
	$$CALL "Sync; Api".docsync_purge()$$,
	$$CALL "Sync; Api".docsync_purge('1 day', 'default')$$,
	$$SELECT "Sync; Api".docsync_grant('regress_docsync_stranger')$$,
	$$SELECT "Sync; Api".docsync_new_epoch()$$,
	$$SELECT "Sync; Api".docsync_hand_over()$$,
	$$SELECT "Sync; Api".docsync_take_over()$$,
	$$SELECT "Sync; Api".docsync_create_store()$$,
	$$SELECT "Sync; Api".docsync_status()$$,
	$$SELECT "Sync; Api".docsync_facts()$$,
	$$SELECT "Sync; Api".docsync_holders()$$,
	$$SELECT "Sync; Api".docsync_marks()$$,
	$$SELECT "Sync; Api".docsync_collections(true)$$,
	$$SELECT FROM docsync.history$$,
	$$INSERT INTO docsync.history SELECT * FROM docsync.history$$,
	$$UPDATE docsync.history SET epoch = 1$$,
	$$DELETE FROM docsync.history$$,
	$$CREATE TABLE docsync.own (a int)$$]) AS command;
SELECT is(pg_temp.try('regress docsync "Müller"; --', command), '42501', 'not granted: ' || regexp_replace(command, '\s+', ' ', 'g'))
  FROM unnest(ARRAY[
	$$SELECT setval('docsync.clock', 1)$$,
	$$SELECT nextval('docsync.clock')$$,
	$$SELECT currval('docsync.clock')$$,
	$$SELECT last_value FROM docsync.clock$$,
	$$ALTER SEQUENCE docsync.clock RESTART 1$$]) AS command;

------------------------------------------------------------------------------
-- Column by column: each is needed, whatever becomes of an upload
------------------------------------------------------------------------------
CREATE ROLE regress_docsync_columns;
GRANT USAGE ON SCHEMA docsync, "Sync; Api" TO regress_docsync_columns;
INSERT INTO docsync.document (id, client_version, client_id, body) VALUES ('known', 5, 'tablet', '1'), ('known too', 5, 'tablet', '1');
CREATE TEMP TABLE upload AS SELECT * FROM (VALUES
	('a retry', '[{"id": "known", "clientVersion": 5, "body": 1}]'), ('retries', '[{"id": "known", "clientVersion": 5, "body": 1}, {"id": "known too", "clientVersion": 5, "body": 1}]'),
	('an update', '[{"id": "known", "clientVersion": 6, "body": 1}]'), ('updates', '[{"id": "known", "clientVersion": 6, "body": 1}, {"id": "known too", "clientVersion": 6, "body": 1}]'),
	('a new one', '[{"id": "new", "clientVersion": 5, "body": 1}]')) AS v(name, documents);
CREATE FUNCTION pg_temp.upload(missing text, needed boolean) RETURNS SETOF text LANGUAGE plpgsql
AS $$
BEGIN
	RETURN QUERY SELECT is(pg_temp.try('regress_docsync_columns', format('SELECT "Sync; Api".docsync_upsert(%L, %L)', 'tablet', documents)), CASE WHEN needed THEN '42501' ELSE 'OK' END,
		format('%s, %s', name, missing)) FROM upload WHERE NOT needed OR missing !~ 'INSERT|UPDATE' OR name !~ 'retr';
END
$$;
SELECT pg_temp.upload('nothing is granted', true);
GRANT SELECT (collection, id, client_version, client_id, last_update_utc, deleted, body), INSERT (collection, id, client_version, client_id, deleted, body), UPDATE (client_version, client_id, deleted, body) ON docsync.document TO regress_docsync_columns;
SELECT pg_temp.upload('without SELECT (fence)', true);
GRANT SELECT (fence) ON docsync.document TO regress_docsync_columns;
SELECT pg_temp.upload('all that is needed is granted', false);
REVOKE SELECT (body) ON docsync.document FROM regress_docsync_columns;
SELECT pg_temp.upload('without SELECT (body)', true);
GRANT SELECT ON docsync.document TO regress_docsync_columns;
SELECT pg_temp.upload('all of SELECT is granted', false);
REVOKE INSERT (body) ON docsync.document FROM regress_docsync_columns;
SELECT pg_temp.upload('without INSERT (body)', true);
GRANT INSERT (body) ON docsync.document TO regress_docsync_columns;
REVOKE UPDATE (body) ON docsync.document FROM regress_docsync_columns;
SELECT is(pg_temp.try('regress_docsync_columns', format('SELECT "Sync; Api".docsync_upsert(%L, %L)', 'tablet', documents)), '42501', name || ', without UPDATE (body)') FROM upload WHERE name ~ 'update';
GRANT UPDATE (body) ON docsync.document TO regress_docsync_columns;
REVOKE USAGE ON SCHEMA docsync FROM regress_docsync_columns;
SELECT pg_temp.upload('without USAGE on the schema', true);

------------------------------------------------------------------------------
-- Whom it can't be granted to
------------------------------------------------------------------------------
SELECT throws_ok('SELECT "Sync; Api".docsync_grant(NULL)', '22004', 'role is null');
SELECT throws_ok($$SELECT "Sync; Api".docsync_grant('regress_docsync_nobody')$$, '42704', 'role "regress_docsync_nobody" does not exist');
SELECT throws_ok($$SELECT "Sync; Api".docsync_grant('-')$$, '42704', 'role does not exist');
SELECT throws_ok($$SELECT "Sync; Api".docsync_grant('4294967295')$$, '42704', 'role does not exist');

------------------------------------------------------------------------------
-- Through a role one is a member of
------------------------------------------------------------------------------
CREATE ROLE regress_docsync_member IN ROLE :role;
SELECT is(pg_temp.try('regress_docsync_member', $$SELECT "Sync; Api".docsync_sync('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]')$$), 'OK',
	'a member of a granted role may call');

------------------------------------------------------------------------------
-- What is done as an owner is done as that of the very table
------------------------------------------------------------------------------
CREATE ROLE regress_docsync_owner;
SELECT format('GRANT %I TO regress_docsync_owner', pg_get_userbyid(datdba)) FROM pg_database WHERE datname = current_database() \gexec
GRANT USAGE ON SCHEMA docsync TO regress_docsync_owner;
ALTER TABLE docsync.history OWNER TO regress_docsync_owner;
CREATE FUNCTION regress_docsync_trap() RETURNS trigger LANGUAGE plpgsql
	AS $$ BEGIN PERFORM set_config('regress.trapped', current_user, true); RETURN new; END $$;
CREATE TRIGGER trap BEFORE INSERT ON docsync.history FOR EACH ROW EXECUTE FUNCTION regress_docsync_trap();
UPDATE docsync.history SET timeline = 99;
ALTER TABLE docsync.purged SET (fillfactor = 100);
-- (A server that is behind asks the store nothing, and yet holds its locks.)
GRANT USAGE ON SCHEMA "Sync; Api" TO regress_docsync_stranger;
SELECT is(pg_temp.try(r.role, format($$SELECT 1 / (bool_and("Sync; Api".docsync_pull(cursor => lpad(to_hex(%s), 16, '0') || '.9000000000000000000') ->> 'behind' = 'true'))::int$$,
	(SELECT epoch FROM docsync.history ORDER BY number DESC LIMIT 1))), r.result, 'behind: ' || r.result)
  FROM (VALUES ('regress_docsync_stranger', '42501'), ('regress docsync "Müller"; --', 'OK')) AS r(role, result);
SET LOCAL ROLE :role;
SELECT "Sync; Api".docsync_sync('tablet') \g /dev/null
RESET ROLE;
SELECT is(current_setting('regress.trapped'), 'regress_docsync_owner', 'a trigger on docsync.history is its owner''s');

SELECT * FROM finish();
ROLLBACK;
