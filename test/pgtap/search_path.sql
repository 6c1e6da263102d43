-- A hostile search_path: everything that could be mistaken for what docsync means
-- comes first in it, and raises an error when used.
SET client_min_messages = warning;
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
DROP SCHEMA IF EXISTS docsync CASCADE;
DROP EXTENSION IF EXISTS docsync;
CREATE SCHEMA api;
CREATE SCHEMA hostile;
CREATE ROLE regress_docsync_path;

-- Functions and operators: whichever docsync's queries, defaults, constraints
-- or functions could find by name
CREATE FUNCTION pg_temp.plant(schema text) RETURNS bigint
	LANGUAGE plpgsql
AS $$
DECLARE
	f record;
	planted bigint := 0;
BEGIN
	FOR f IN
		SELECT p.proname, string_agg(format_type(a.type, NULL), ', ' ORDER BY a.place) AS arguments,
			   format_type(p.prorettype, NULL) AS result, p.proretset
		  FROM pg_proc AS p LEFT JOIN LATERAL unnest(p.proargtypes) WITH ORDINALITY AS a(type, place) ON true
		 WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f'
		   AND p.proname IN ('unnest', 'octet_length', 'length', 'date_part', 'now', 'clock_timestamp', 'setval', 'nextval',
			   'currval', 'format', 'gen_random_uuid', 'substr', 'replace', 'timestamptz_mi_interval', 'quote_ident', 'pg_get_serial_sequence', 'to_regclass', 'int8', 'text', 'jsonb', 'xid',
			   'textin', 'concat', 'current_setting', 'array_agg')
		   AND NOT 'internal'::regtype = ANY (p.proargtypes) AND p.prorettype <> 'internal'::regtype
		   AND NOT 'cstring'::regtype = ANY (p.proargtypes) AND p.provariadic = 0
		 GROUP BY p.oid
	LOOP
		EXECUTE format('CREATE FUNCTION %I.%I(%s) RETURNS %s %s LANGUAGE plpgsql AS %L',
			schema, f.proname, f.arguments, CASE WHEN f.proretset THEN 'SETOF' ELSE '' END, f.result,
			format('BEGIN RAISE EXCEPTION %L; END', 'hostile ' || f.proname));
		planted := planted + 1;
	END LOOP;
	FOR f IN
		SELECT o.oprname, o.oprleft::regtype AS l, o.oprright::regtype AS r, o.oprresult::regtype AS result
		  FROM pg_operator AS o
		 WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprkind = 'b'
		   AND o.oprname IN ('=', '<>', '<', '<=', '>', '>=', '+', '-', '*', '||')
		   AND 'cstring'::regtype NOT IN (o.oprleft, o.oprright)
		   AND o.oprleft IN ('text'::regtype, 'int8'::regtype, 'int4'::regtype, 'bool'::regtype, 'jsonb'::regtype,
			   'timestamptz'::regtype, 'xid'::regtype, 'xid8'::regtype, 'float8'::regtype, 'name'::regtype, 'oid'::regtype,
			   'anyarray'::regtype, 'anycompatiblearray'::regtype)
	LOOP
		EXECUTE format('CREATE FUNCTION %I.%I(%s, %s) RETURNS %s LANGUAGE plpgsql AS %L',
			schema, 'op_' || planted, f.l, f.r, f.result, format('BEGIN RAISE EXCEPTION %L; END', 'hostile ' || f.oprname));
		EXECUTE format('CREATE OPERATOR %I.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = %I.%I)',
			schema, f.oprname, f.l, f.r, schema, 'op_' || planted);
		planted := planted + 1;
	END LOOP;
	RETURN planted;
END
$$;
SELECT plan(29);
SELECT cmp_ok(pg_temp.plant('hostile'), '>', 100::bigint, 'traps are set');

-- Types, tables, a sequence; and a schema's worth of temporary ones, which
-- are found first of all
CREATE TYPE hostile.xid AS (a int);
CREATE TYPE hostile.xid8 AS (a int);
CREATE TYPE hostile.timestamptz AS (a int);
CREATE TYPE hostile.change AS (a int);
CREATE TABLE hostile.document (collection text, id text, client_version bigint, client_id text,
	last_update_utc timestamptz, deleted boolean, body jsonb, fence text);
INSERT INTO hostile.document VALUES ('default', 'hostile', 99, 'hostile', now(), false, '"hostile"', '0');
CREATE SEQUENCE hostile.clock;
CREATE TEMP TABLE document AS SELECT * FROM hostile.document;
CREATE TEMP SEQUENCE clock;
CREATE FUNCTION hostile.count() RETURNS bigint LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'hostile count'; END$$;
CREATE FUNCTION hostile.max(pg_catalog.timestamptz) RETURNS pg_catalog.timestamptz LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'hostile max'; END$$;
CREATE FUNCTION hostile.min(pg_catalog.timestamptz) RETURNS pg_catalog.timestamptz LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'hostile min'; END$$;
CREATE FUNCTION hostile.pg_prepared_xacts() RETURNS bigint LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'hostile pg_prepared_xacts'; END$$;
CREATE TABLE hostile.pg_prepared_xacts (prepared pg_catalog.timestamptz, database name);
INSERT INTO hostile.pg_prepared_xacts VALUES ('1999-01-01', current_database());
CREATE TABLE hostile.purged (collection text, last_update_utc pg_catalog.timestamptz, client_id text, others_utc pg_catalog.timestamptz);
INSERT INTO hostile.purged VALUES ('none', '2101-01-01', 'x', '2101-01-01');
CREATE TABLE hostile.history (number bigint, epoch bigint);
INSERT INTO hostile.history VALUES (1, 1);
CREATE FUNCTION hostile.guard() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'hostile guard'; END$$;
CREATE FUNCTION hostile.docsync_guard() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'hostile guard'; END$$;

GRANT USAGE ON SCHEMA hostile TO PUBLIC;
GRANT ALL ON ALL TABLES IN SCHEMA hostile TO PUBLIC;
GRANT ALL ON ALL SEQUENCES IN SCHEMA hostile TO PUBLIC;

-- The traps work.
SET LOCAL search_path = hostile, pg_catalog;
DO $$
BEGIN
	PERFORM 1 = 1;
	RAISE EXCEPTION 'no trap';
EXCEPTION WHEN raise_exception THEN
	IF SQLERRM OPERATOR(pg_catalog.<>) 'hostile =' THEN RAISE; END IF;
END
$$;

-- Created, in a schema of its own and in the hostile one
DROP FUNCTION hostile.docsync_guard();
CREATE EXTENSION docsync SCHEMA hostile;
DO $$ BEGIN PERFORM hostile.docsync_create_store(); END $$;
SET client_min_messages = warning;
DROP SCHEMA docsync CASCADE;
DROP EXTENSION docsync;
CREATE FUNCTION hostile.docsync_guard() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'hostile guard'; END$$;
CREATE EXTENSION docsync SCHEMA api;
DO $$ BEGIN PERFORM api.docsync_create_store(); END $$;

-- What is read in psql's variables and compared after the search_path is reset
SELECT api.docsync_grant('regress_docsync_path') AS granted \gset
GRANT USAGE ON SCHEMA api TO regress_docsync_path;
SET LOCAL ROLE regress_docsync_path;
SELECT outcome AS created FROM api.docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": {"n": 1}}]') \gset
SELECT outcome AS updated FROM api.docsync_upsert('tablet', '[{"id": "a", "clientVersion": 2, "body": {"n": 2}}]') \gset
SELECT outcome AS unchanged FROM api.docsync_upsert('tablet', '[{"id": "a", "clientVersion": 2, "body": {"n": 2}}]') \gset
SELECT outcome AS discarded, winner FROM api.docsync_upsert('phone', '[{"id": "a", "clientVersion": 1, "body": {"n": 2}}]') \gset
SELECT outcome AS zero FROM api.docsync_upsert('phone', '[{"id": "z", "clientVersion": 0, "body": 1}]') \gset
SELECT outcome AS zero2 FROM api.docsync_upsert('phone', '[{"id": "z", "clientVersion": 0, "body": 2}]') \gset
SELECT outcome AS zero3 FROM api.docsync_upsert('tablet', '[{"id": "z", "clientVersion": 0, "deleted": true}]') \gset
SELECT id AS other FROM api.docsync_query_since('phone', '2001-01-01', max_documents => 1) \gset
SELECT id AS own FROM api.docsync_query_since('tablet', origin => 'own', max_documents => 1) \gset
SELECT id AS any FROM api.docsync_query_since(NULL, origin => 'any', max_documents => 1) \gset
SELECT api.docsync_sync('watch', '[{"id": "s", "clientVersion": 1, "body": 1}]', origin => 'own') AS sync \gset
SELECT api.docsync_pull('watch', origin => 'own') AS pull \gset
SELECT api.docsync_docs('{"clientId": "watch", "documents": [{"id": "s", "clientVersion": 0, "body": 1}]}') AS docs \gset
SELECT api.docsync_docs_query('own', '2001-01-01T00:00:00Z', 'watch') AS docs_query \gset
SELECT api.docsync_pull('watch', origin => 'own', state => 'true', reconcile => true, cursor => '0000000000000001.1') AS told \gset
SELECT api.docsync_docs_reconcile('{"clientId": "watch"}') AS list \gset
SELECT api.docsync_docs_get('{"clientId": "watch", "ids": ["z", "s"]}') AS got \gset
RESET ROLE;
INSERT INTO docsync.document (id, body) VALUES ('b', '1');
UPDATE docsync.document SET body = '"edited"';
DELETE FROM docsync.document;
INSERT INTO docsync.document (collection, id, last_update_utc, deleted, fence) VALUES
	('old', 'o1', '2001-02-03', true, '3'), ('old', 'o2', '2001-02-04', true, '3'), ('older', 'o', '2001-02-02', true, '3'),
	('old', 'o3', '2001-02-05', true, '3'), ('older', 'p', '2001-02-03', true, '3');
CALL api.docsync_purge('1 day', 'old', NULL) \gset purged_
CALL api.docsync_purge('1 day', NULL, NULL) \gset purged2_
INSERT INTO docsync.document (collection, id, client_id, last_update_utc, deleted, fence) VALUES
	('old', 'o4', 'x', '2001-02-06', true, '3'), ('old', 'o5', 'x', '2001-02-07', true, '3'), ('old', 'o6', 'y', '2001-02-08', true, '3');
CALL api.docsync_purge('1 day', NULL, NULL) \gset purged3_
SELECT api.docsync_new_epoch() AS begun \gset
SELECT api.docsync_hand_over() AS handed_over \gset
UPDATE docsync.history SET database = 1 WHERE database OPERATOR(pg_catalog.<>) 0;
SELECT api.docsync_take_over() AS taken_over \gset
SELECT pg_catalog.count(*) AS none FROM api.docsync_query_since(NULL, '2001-01-01', 'any', 'none') \gset
SET LOCAL search_path = public, pg_catalog;

SELECT is(:'created'::text, 'created', 'created');
SELECT is(:'updated'::text, 'updated', 'updated');
SELECT is(:'unchanged'::text, 'unchanged', 'unchanged');
SELECT is(:'discarded'::text, 'discarded', 'discarded');
SELECT is(:'winner'::jsonb -> 'body', jsonb '{"n": 2}', 'the winner is from docsync.document');
SELECT is(:'zero'::text, 'created', 'clientVersion 0 is created');
SELECT is(:'zero2'::text, 'updated', 'clientVersion 0 is updated');
SELECT is(:'zero3'::text, 'updated', 'clientVersion 0 is deleted');
SELECT is(:'other'::text, 'a', 'origin other');
SELECT is(:'own'::text, 'a', 'origin own');
SELECT is(:'any'::text, 'a', 'origin any');
SELECT is(:'sync'::jsonb #>> '{results,0,outcome}', 'created', 'sync uploads');
SELECT is(:'sync'::jsonb #>> '{documents,0,id}', 's', '... and downloads');
SELECT is(:'pull'::jsonb #>> '{documents,0,id}', 's', 'pull');
SELECT is(:'docs'::jsonb #>> '{results,0,outcome}', 'discarded', 'the protocol''s upload');
SELECT is(:'docs_query'::jsonb #>> '{0,id}', 's', 'the protocol''s download');
SELECT results_eq($$SELECT id, deleted, client_id FROM docsync.document WHERE collection = 'default' ORDER BY id$$,
	$$VALUES ('a' COLLATE "C", true, 'server' COLLATE "C"), ('b', true, 'server'), ('s', true, 'server'), ('z', true, 'server')$$, 'plain SQL works');
SELECT is(:'told'::jsonb -> 'reconcile', 'true', 'a client that has to compare is told');
SELECT is(:'told'::jsonb #>> '{state,count}', '2', '... and is given the state');
SELECT is(jsonb_path_query_array(:'list'::jsonb, '$.rows[*].id'), '["a", "s", "z"]', 'the list');
SELECT is(jsonb_path_query_array(:'got'::jsonb, '$.documents[*].id'), '["z", "s"]', 'documents by id');
SELECT is(ARRAY[:'purged_removed', :'purged2_removed', :'purged3_removed'], '{2,1,2}', 'purging works');
SELECT results_eq('SELECT * FROM docsync.purged ORDER BY 1',
	$$VALUES ('old' COLLATE "C", '2001-02-06'::timestamptz, 'x' COLLATE "C", '2001-02-05'::timestamptz),
		('older', '2001-02-02', 'server', '-infinity')$$, '... and notes how far it went');
SELECT results_eq('SELECT number FROM docsync.history ORDER BY 1', 'VALUES (1::bigint), (2), (3), (4)', 'epochs begin');
SELECT is((SELECT count(*) FROM docsync.history WHERE lost_after < '2000-01-01'), 1::bigint, '... of which the first alone had nothing to lose');
SELECT is(:none, 0, 'a download that has to look at it');
SELECT results_eq('SELECT id, client_version FROM hostile.document', $$VALUES ('hostile', 99::bigint)$$, 'the other table "document" is untouched');
SELECT results_eq('SELECT is_called FROM hostile.clock UNION ALL SELECT is_called FROM pg_temp.clock', 'VALUES (false), (false)',
	'so are the other sequences "clock"');

SELECT * FROM finish();
ROLLBACK;
