-- A batch that changes nothing writes nothing: no transaction id, no WAL, no
-- stamp, no lock on a row, no dirty page.  Nor does a download.
--
-- Not in one transaction, since that would have an id; so docsync is created again
-- before and after.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS pg_buffercache;
DROP SCHEMA IF EXISTS docsync CASCADE;
DROP EXTENSION IF EXISTS docsync;
CREATE EXTENSION docsync;
DO $$ BEGIN PERFORM docsync_create_store(); END $$;
-- Autovacuum would write.
ALTER TABLE docsync.document SET (autovacuum_enabled = false, toast.autovacuum_enabled = false);
SELECT plan(27);

-- What a command leaves behind, as text.  Others may write WAL meanwhile, such
-- as the background writer, but not each time.
CREATE FUNCTION pg_temp.traces(command text) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	clock bigint := (SELECT last_value FROM docsync.clock);
	before pg_lsn;
	wal bigint;
BEGIN
	FOR i IN 1..10 LOOP
		before := pg_current_wal_insert_lsn();
		EXECUTE command;
		wal := pg_current_wal_insert_lsn() - before;
		EXIT WHEN wal = 0 OR pg_current_xact_id_if_assigned() IS NOT NULL;
		PERFORM pg_sleep(0.02);
	END LOOP;

	RETURN concat_ws(', ', 'wrote',
		CASE WHEN wal > 0 THEN 'WAL' END,
		CASE WHEN pg_current_xact_id_if_assigned() IS NOT NULL THEN 'a transaction id' END,
		CASE WHEN (SELECT last_value FROM docsync.clock) <> clock THEN 'a stamp' END,
		CASE WHEN EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'docsync.document'::regclass AND mode = 'RowExclusiveLock')
			THEN 'or was about to' END,
		CASE WHEN EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory') THEN 'a mark' END);
END
$$;

-- Of tables, indexes, TOAST and sequences
CREATE FUNCTION pg_temp.dirty_relations() RETURNS SETOF text
	LANGUAGE sql
AS $$
	WITH relation AS (
		SELECT oid FROM pg_class WHERE relnamespace = 'docsync'::regnamespace
		UNION SELECT reltoastrelid FROM pg_class WHERE relnamespace = 'docsync'::regnamespace AND reltoastrelid <> 0
		UNION SELECT indexrelid FROM pg_index JOIN pg_class AS c ON reltoastrelid = indrelid WHERE relnamespace = 'docsync'::regnamespace)
	SELECT format('%s, fork %s, page %s', relation.oid::regclass, relforknumber, relblocknumber)
	  FROM pg_buffercache JOIN relation ON relfilenode = pg_relation_filenode(relation.oid)
	 WHERE isdirty AND reldatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
$$;
CREATE FUNCTION pg_temp.dirty_pages() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM pg_temp.dirty_relations()';

-- Many documents, version 0, tombstones, and a large one
CREATE TEMP TABLE batch AS
	SELECT jsonb_agg(jsonb_build_object('id', i::text, 'clientVersion', i, 'body', jsonb_build_object('n', i)))
		|| '[{"id": "zero", "clientVersion": 0, "body": {"a": [1, 2.50]}},
			 {"id": "null", "clientVersion": 1, "body": null},
			 {"id": "tomb", "clientVersion": 7, "deleted": true},
			 {"id": "last words", "clientVersion": 7, "deleted": true, "body": "bye"}]'
		|| jsonb_build_object('id', 'large', 'clientVersion', 1, 'body', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 3000) AS i))
		AS documents
	  FROM generate_series(1, 3000) AS i;
CREATE FUNCTION pg_temp.batch() RETURNS jsonb LANGUAGE sql AS 'SELECT documents FROM batch';

SELECT pg_temp.traces($$SELECT docsync_upsert('tablet', pg_temp.batch())$$) AS traces \gset
SELECT is(:'traces'::text, 'wrote, WAL, a transaction id, a stamp, or was about to, a mark', 'a first upload leaves traces of all kinds');
SELECT cmp_ok(pg_temp.dirty_pages(), '>', 10::bigint, '... and dirty pages');

CREATE ROLE regress_docsync_writer;
SELECT docsync_grant('regress_docsync_writer') \gset
GRANT SELECT ON batch TO regress_docsync_writer;
ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON docsync.document TO regress_docsync_writer USING (client_id = 'tablet');
CREATE FUNCTION pg_temp.upload_as_writer(atomic bool) RETURNS bigint LANGUAGE sql SET role = regress_docsync_writer AS
	$$SELECT count(*) FROM docsync_upsert('tablet', pg_temp.batch(), atomic => atomic) WHERE outcome = 'unchanged'$$;
-- What the first to read a row notes in it is of the upload's doing.
VACUUM (FREEZE, ANALYZE) docsync.document, docsync.history;
CHECKPOINT;
SELECT pg_temp.dirty_pages() AS dirty \gset
SELECT is(:dirty, 0, 'once they are written out, no page is dirty');

CREATE TEMP TABLE call (place serial, name text, command text);
INSERT INTO call (name, command) VALUES
	('the batch again', $$SELECT docsync_upsert('tablet', pg_temp.batch())$$),
	('a part of it', $$SELECT docsync_upsert('tablet', '[{"id": "17", "clientVersion": 17, "body": {"n": 17.0}}]')$$),
	('all of it twice', $$SELECT docsync_upsert('tablet', (SELECT jsonb_agg(d) FROM jsonb_array_elements(pg_temp.batch() || pg_temp.batch()) AS d WHERE d ->> 'id' ~ '[a-z1]'))$$),
	('older documents', $$SELECT docsync_upsert('tablet', '[{"id": "17", "clientVersion": 16, "body": 1}, {"id": "large", "clientVersion": 0, "body": 1}, {"id": "tomb", "clientVersion": 6, "body": 1}]')$$),
	('another content of the same version', $$SELECT docsync_upsert('tablet', '[{"id": "17", "clientVersion": 17, "body": 1}]')$$),
	('another client''s of the same version', $$SELECT docsync_upsert('phone', '[{"id": "17", "clientVersion": 17, "body": {"n": 17}}]')$$),
	('two edits of version 0 that end where they began', $$SELECT docsync_upsert('tablet', '[{"id": "zero", "clientVersion": 0, "body": 1}, {"id": "zero", "clientVersion": 0, "body": {"a": [1, 2.5]}}]')$$),
	('the batch again, under a policy', $$SELECT pg_temp.upload_as_writer(true)$$),
	('... and one by one', $$SELECT pg_temp.upload_as_writer(false)$$),
	('the batch again, one by one', $$SELECT docsync_upsert('tablet', pg_temp.batch(), atomic => false)$$),
	('an empty batch', $$SELECT docsync_upsert('tablet', '[]')$$),
	('sync', $$SELECT docsync_sync('tablet', pg_temp.batch()::json)$$),
	('sync without documents', $$SELECT docsync_sync('tablet')$$),
	('the protocol''s upload', $$SELECT docsync_docs(convert_to(jsonb_build_object('clientId', 'tablet', 'documents', pg_temp.batch())::text, 'UTF8'))$$),
	('query_since', $$SELECT docsync_query_since('phone')$$),
	('pull', $$SELECT docsync_pull()$$),
	('the protocol''s download', $$SELECT docsync_docs_query('any')$$),
	('state', $$SELECT docsync_pull(state => 'true', "maxDocuments" => NULL)$$),
	('the list', $$SELECT docsync_docs_reconcile('{}')$$),
	('documents by id', $$SELECT docsync_docs_get('{"ids": ["17", "none"]}')$$),
	('a check', $$SELECT docsync_check_store()$$),
	('a purge of nothing', $$CALL docsync_purge('1 day')$$);

-- A transaction each
CREATE TEMP TABLE result (place int, traces text, dirty bigint);
DO $$
DECLARE
	c call;
	traces text;
	dirty bigint;
BEGIN
	FOR c IN SELECT * FROM call ORDER BY place LOOP
		-- What PostgreSQL itself notes in a page, now and then, it notes once.
		FOR i IN 1..3 LOOP
			COMMIT;
			traces := pg_temp.traces(c.command);
			dirty := pg_temp.dirty_pages();
			EXIT WHEN dirty = 0;
			RAISE WARNING '% has left dirty pages of %', c.name, (SELECT string_agg(r, '; ') FROM pg_temp.dirty_relations() AS r);
			CHECKPOINT;
		END LOOP;
		INSERT INTO result VALUES (c.place, traces, dirty);
	END LOOP;
END
$$;
SELECT is(traces || ', dirty pages: ' || dirty, 'wrote, dirty pages: 0', name)
  FROM call JOIN result USING (place) ORDER BY place;

-- With one document that is new, it writes that one.
SELECT pg_temp.traces($$SELECT docsync_upsert('tablet', pg_temp.batch() || '[{"id": "new", "clientVersion": 1, "body": 1}]')$$) AS traces \gset
SELECT is(:'traces'::text, 'wrote, WAL, a transaction id, a stamp, or was about to, a mark', 'one new document leaves traces');
SELECT is((SELECT array_agg(id) FROM docsync.document WHERE xmin = (SELECT xmin FROM docsync.document WHERE id = 'new')), '{new}', '... of itself alone');

SELECT * FROM finish();
SET client_min_messages = warning;
DROP SCHEMA docsync CASCADE;
DROP OWNED BY regress_docsync_writer;
DROP ROLE regress_docsync_writer;
DROP EXTENSION docsync;
CREATE EXTENSION docsync;
DO $$ BEGIN PERFORM docsync_create_store(); END $$;
