-- Calls read only the rows that they need, whatever the planner's statistics and
-- the caller's settings are; afterwards these settings are what they were.
SET client_min_messages = warning;
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
DROP SCHEMA IF EXISTS docsync CASCADE;
DROP EXTENSION IF EXISTS docsync;
CREATE EXTENSION docsync;
DO $$ BEGIN PERFORM docsync_create_store(); END $$;
SELECT plan(245);

-- Rows that a command reads: entries of docsync.document's indexes, and what
-- sequential scans return
CREATE FUNCTION pg_temp.rows_read() RETURNS bigint
	LANGUAGE sql
AS $$
	SELECT sum(pg_stat_get_xact_tuples_returned(relation))::bigint
	  FROM (SELECT 'docsync.document'::regclass AS relation
			UNION ALL SELECT indexrelid FROM pg_index WHERE indrelid = 'docsync.document'::regclass) AS r
$$;
CREATE FUNCTION pg_temp.rows_read(command text) RETURNS bigint
	LANGUAGE plpgsql
AS $$
DECLARE
	before bigint := pg_temp.rows_read();
BEGIN
	EXECUTE command;
	RETURN pg_temp.rows_read() - before;
END
$$;

-- The calls, each about ten documents or fewer
CREATE TEMP SEQUENCE version;
CREATE TEMP TABLE middle (stamp timestamptz, cursor text, other_cursor text);
CREATE TEMP TABLE victim (row tid);
CREATE TEMP TABLE call (place serial, name text, command text);
INSERT INTO call (name, command) VALUES
	('ten documents', $$SELECT count(*) FROM docsync_query_since('reader', max_documents => 10)$$),
	('ten from the middle', $$SELECT count(*) FROM docsync_query_since('reader', (SELECT stamp FROM middle), 'any', max_documents => 10)$$),
	('from the clock on', $$SELECT count(*) FROM docsync_query_since('reader', (SELECT 'epoch'::timestamptz + last_value * interval '1 us' FROM docsync.clock))$$),
	('pull', $$SELECT docsync_pull(cursor => (SELECT cursor FROM middle), "maxDocuments" => 10)$$),
	('sync', $$SELECT docsync_sync('reader', '[{"id": "17", "clientVersion": 0, "body": 1}]', "maxDocuments" => 10)$$),
	('pull of one who has to compare', $$SELECT docsync_pull(cursor => (SELECT other_cursor FROM middle), reconcile => true, "maxDocuments" => 10)$$),
	('the list', $$SELECT docsync_docs_reconcile('{"after": "17", "maxDocuments": 10}')$$),
	('sums of a small collection', $$SELECT docsync_pull(collection => 'nowhere', state => 'true')$$),
	('ten by id', $$SELECT docsync_docs_get(convert_to((SELECT jsonb_build_object('ids', jsonb_agg(i::text)) FROM generate_series(101, 110) AS i)::text, 'UTF8'))$$),
	('purge', $$CALL docsync_purge('1 day', 'default')$$),
	('purge of all collections', $$CALL docsync_purge('1 day')$$),
	('the protocol''s query', $$SELECT docsync_docs_query(origin => 'any', "maxDocuments" => 10)$$),
	('upload of one that is discarded', $$SELECT count(*) FROM docsync_upsert('tablet', '[{"id": "17", "clientVersion": 0, "body": 1}]')$$),
	('upload of one that is updated', $$SELECT count(*) FROM docsync_upsert('tablet', jsonb_build_array(jsonb_build_object('id', '17', 'clientVersion', nextval('version'), 'body', 1)))$$),
	('upload of ten', $$SELECT count(*) FROM docsync_upsert('tablet', (SELECT jsonb_agg(jsonb_build_object('id', i::text, 'clientVersion', nextval('version'), 'body', 1)) FROM generate_series(101, 110) AS i))$$),
	-- The command itself goes straight to the row.
	('DELETE', $$DELETE FROM docsync.document WHERE ctid = (SELECT row FROM victim)$$);
CREATE FUNCTION pg_temp.all_calls() RETURNS void
	LANGUAGE plpgsql
AS $$
DECLARE
	c call;
BEGIN
	FOR c IN SELECT * FROM call LOOP
		EXECUTE c.command;
	END LOOP;
END
$$;

-- Tests all calls.  (A plan gone wrong reads the collection.)
CREATE FUNCTION pg_temp.few(state text) RETURNS SETOF text
	LANGUAGE plpgsql
AS $$
DECLARE
	c call;
BEGIN
	INSERT INTO victim SELECT ctid FROM docsync.document WHERE collection = 'default' AND NOT deleted AND id ~ '000$' LIMIT 1;
	FOR c IN SELECT * FROM call ORDER BY place LOOP
		RETURN NEXT cmp_ok(pg_temp.rows_read(c.command), '<', 1000::bigint, state || ': ' || c.name);
	END LOOP;
	TRUNCATE victim;
END
$$;

------------------------------------------------------------------------------
-- Nothing is compiled, whatever it seems to cost
------------------------------------------------------------------------------
CREATE FUNCTION pg_temp.compiles() RETURNS boolean
	LANGUAGE plpgsql SET jit = on SET jit_above_cost = 0
AS $$
DECLARE
	answer text := docsync_pull('reader', NULL);
BEGIN
	RETURN pg_read_file('/proc/self/maps') ~ 'llvmjit';
END
$$;
SELECT is(pg_temp.compiles(), false, 'nothing is compiled');

------------------------------------------------------------------------------
-- Plans that were made when the table had one document, and no statistics
------------------------------------------------------------------------------
INSERT INTO middle VALUES ('-infinity', NULL, NULL);
INSERT INTO docsync.document (id, body) VALUES ('gone', '1');
INSERT INTO victim SELECT ctid FROM docsync.document;
SELECT count(pg_temp.all_calls()) \gset
TRUNCATE victim;
INSERT INTO docsync.document (id, client_version, client_id, body)
	SELECT i::text, 0, 'tablet', '1' FROM generate_series(1, 20000) AS i ON CONFLICT DO NOTHING;
UPDATE middle SET stamp = last_update_utc, other_cursor = '0000000000000001.' || (extract(epoch FROM last_update_utc) * 1000000)::bigint, cursor = (SELECT lpad(to_hex(epoch), 16, '0') FROM docsync.history) || '.' || (extract(epoch FROM last_update_utc) * 1000000)::bigint
  FROM docsync.document WHERE collection = 'default' AND id = '10000';
SELECT ok(docsync_pull(cursor => (SELECT cursor FROM middle), "maxDocuments" => 1)::jsonb #>> '{documents,0,id}' = '10001', 'the middle is the middle');
SELECT pg_temp.few('planned when there was one document');
DISCARD PLANS;
SELECT pg_temp.few('without statistics');
ANALYZE docsync.document;
SELECT pg_temp.few('with statistics');

-- So is an epoch: the highest stamps are found by an index.
SAVEPOINT s;
SELECT pg_temp.rows_read('SELECT docsync_new_epoch()') AS read \gset
ROLLBACK TO s;
SELECT cmp_ok(:read, '<', 1000, 'an epoch begins');

-- A collection's size is nothing to another.
INSERT INTO docsync.document (collection, id, body) SELECT 'small', i::text, '1' FROM generate_series(1, 10) AS i;
SELECT cmp_ok(pg_temp.rows_read($$SELECT count(*) FROM docsync_query_since('reader', collection => 'small')$$), '<', 1000::bigint, 'a small collection beside a large one');
SELECT cmp_ok(pg_temp.rows_read($$SELECT count(*) FROM docsync_query_since('reader', collection => 'none')$$), '<', 1000::bigint, '... and an empty one');
SELECT cmp_ok(pg_temp.rows_read($$SELECT count(*) FROM docsync_upsert('tablet', '[{"id": "5", "clientVersion": 1, "body": 1}]', 'small')$$), '<', 1000::bigint, '... and an upload to it');

------------------------------------------------------------------------------
-- Settings of the caller's, which a new plan is made with
------------------------------------------------------------------------------
SET LOCAL enable_indexscan = off;
DISCARD PLANS;
SELECT pg_temp.few('enable_indexscan = off');
-- Is there any document? So it is asked where tombstones have been purged since.
SAVEPOINT s;
INSERT INTO docsync.purged VALUES ('default', clock_timestamp(), 'tablet', '-infinity');
SELECT pg_temp.rows_read($$SELECT docsync_pull('reader', (SELECT cursor FROM middle), reconcile => true, "maxDocuments" => 10)$$) AS read \gset
ROLLBACK TO s;
SELECT cmp_ok(:read, '<', 1000, 'enable_indexscan = off: pull of one whom tombstones have passed by');
SET LOCAL enable_indexscan = on;
SET LOCAL plan_cache_mode = force_custom_plan;
SELECT pg_temp.few('force_custom_plan');
SET LOCAL enable_indexscan = off;
SELECT pg_temp.few('force_custom_plan and enable_indexscan = off');
SET LOCAL plan_cache_mode = auto;
SET LOCAL enable_indexscan = on;
SELECT name AS force_parallel FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query') \gset
SET LOCAL :"force_parallel" = on;
SET LOCAL parallel_setup_cost = 0;
SET LOCAL cpu_index_tuple_cost = 1000;
SET LOCAL seq_page_cost = 0;
SET LOCAL cpu_tuple_cost = 0;
DISCARD PLANS;
SELECT pg_temp.few('costs that favour scanning the table');
SET LOCAL cpu_index_tuple_cost = 20000;
SET LOCAL enable_indexscan = off;
DISCARD PLANS;
SELECT cmp_ok(pg_temp.rows_read($$SELECT count(*) FROM docsync_query_since('reader', max_documents => 10)$$), '<', 1000::bigint, 'costs that favour sorting it');
RESET :"force_parallel";
RESET parallel_setup_cost;
RESET cpu_index_tuple_cost;
RESET enable_indexscan;
RESET seq_page_cost;
RESET cpu_tuple_cost;

-- An index that is smaller than ours, and in another order
CREATE INDEX small ON docsync.document (collection);
SET LOCAL random_page_cost = 1000;
SET LOCAL cpu_operator_cost = 0;
SET LOCAL cursor_tuple_fraction = 1;
DISCARD PLANS;
SELECT cmp_ok(pg_temp.rows_read($$SELECT count(*) FROM docsync_query_since('reader', max_documents => 10)$$), '<', 1000::bigint, 'costs that favour an index that has to be sorted');
RESET random_page_cost;
RESET cpu_operator_cost;
RESET cursor_tuple_fraction;
DROP INDEX docsync.small;

------------------------------------------------------------------------------
-- Statistics of a table that was small, and plans made of them
------------------------------------------------------------------------------
CREATE FUNCTION pg_temp.grown(documents int, collections int) RETURNS SETOF text
	LANGUAGE plpgsql
AS $$
BEGIN
	SET client_min_messages = warning;
	DROP SCHEMA docsync CASCADE;
	DROP EXTENSION docsync;
	CREATE EXTENSION docsync;
	PERFORM docsync_create_store();
	INSERT INTO docsync.document (collection, id, client_version, client_id, body)
		SELECT CASE i % collections WHEN 0 THEN 'default' ELSE 'other ' || i % collections END, i::text, 0, 'tablet', '1'
		  FROM generate_series(1, documents) AS i;
	ANALYZE docsync.document;
	DISCARD PLANS;
	UPDATE middle SET stamp = '-infinity', cursor = NULL;
	INSERT INTO victim SELECT ctid FROM docsync.document LIMIT 1;
	PERFORM pg_temp.all_calls();
	TRUNCATE victim;
	INSERT INTO docsync.document (id, client_version, client_id, body)
		SELECT i::text, 0, 'tablet', '1' FROM generate_series(1, 20000) AS i ON CONFLICT DO NOTHING;
	RETURN QUERY SELECT pg_temp.few(format('planned for %s document(s) in %s collection(s)', documents, collections));
END
$$;
SELECT pg_temp.grown(documents, collections)
  FROM (VALUES (1, 1), (10, 1), (10, 3), (100, 3), (1000, 1)) AS v(documents, collections);

------------------------------------------------------------------------------
-- The caller's settings
------------------------------------------------------------------------------
CREATE TEMP TABLE setting AS SELECT name, setting, source FROM pg_settings WHERE name ~ '^(enable_|jit|plan_|geqo)';
CREATE FUNCTION pg_temp.touched() RETURNS text
	LANGUAGE sql
AS $$
	SELECT coalesce(string_agg(format('%s: %s (%s) was %s (%s)', name, p.setting, p.source, s.setting, s.source), ', '), 'none')
	  FROM setting AS s JOIN pg_settings AS p USING (name) WHERE (p.setting, p.source) <> (s.setting, s.source)
$$;
SELECT count(pg_temp.all_calls()) \gset
SELECT is(pg_temp.touched(), 'none', 'no setting is touched');
DELETE FROM docsync.document WHERE collection = 'default' AND id = '20';
SELECT is(pg_temp.touched(), 'none', '... nor by a DELETE');
SET LOCAL enable_sort = off;
SET LOCAL enable_seqscan = on;
SET LOCAL jit = on;
SET LOCAL enable_bitmapscan = off;
TRUNCATE setting;
INSERT INTO setting SELECT name, setting, source FROM pg_settings WHERE name ~ '^(enable_|jit|plan_|geqo)';
SELECT count(pg_temp.all_calls()) \gset
SELECT is(pg_temp.touched(), 'none', '... nor what the caller has set');

-- Errors from within: a policy for reading, a trigger for tombstones
CREATE ROLE regress_docsync_plans;
SELECT docsync_grant('regress_docsync_plans') \gset
GRANT DELETE ON docsync.document TO regress_docsync_plans;
CREATE FUNCTION pg_temp.fails(id text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	IF current_setting('enable_seqscan') = 'off' THEN
		RAISE EXCEPTION 'flipped';
	END IF;
	RAISE EXCEPTION USING ERRCODE = 'ZZ000', MESSAGE = 'no';
END
$$;
ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY;
CREATE POLICY fails ON docsync.document USING (pg_temp.fails(id));
CREATE FUNCTION pg_temp.after_error(command text) RETURNS text
	LANGUAGE plpgsql
AS $$
BEGIN
	SET LOCAL ROLE regress_docsync_plans;
	EXECUTE command;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ', settings touched: ' || pg_temp.touched();
END
$$;
GRANT SELECT ON setting TO regress_docsync_plans;
CREATE FUNCTION pg_temp.all_errors(state text) RETURNS SETOF text
	LANGUAGE sql
AS $$
	SELECT is(pg_temp.after_error(command), 'ZZ000, settings touched: none', format('after an error in %s, %s', name, state))
	  FROM (VALUES ('a download', 'SELECT docsync_query_since(''reader'')'),
				   ('an upload', 'SELECT docsync_upsert(''tablet'', ''[{"id": "17", "clientVersion": 0, "body": 1}]'')'),
				   ('a sync', 'SELECT docsync_sync(''tablet'')')) AS v(name, command)
$$;
SELECT pg_temp.all_errors('by a policy');
-- A SET clause notes what is set when the function is called, and that comes back at the end of the transaction.
ALTER FUNCTION pg_temp.fails(text) SET enable_seqscan = on SET enable_sort = on SET jit = on;
SELECT pg_temp.all_errors('by a function with a SET clause');
DROP POLICY fails ON docsync.document;
CREATE FUNCTION pg_temp.fails_when_planned() RETURNS text LANGUAGE plpgsql STABLE SET enable_seqscan = on SET enable_sort = on SET jit = on
	AS $$BEGIN RETURN pg_temp.fails(''); END$$;
CREATE POLICY fails ON docsync.document USING (collection >= pg_temp.fails_when_planned());
DISCARD PLANS;
SELECT pg_temp.all_errors('while a plan is made');
DROP POLICY fails ON docsync.document;
ALTER TABLE docsync.document DISABLE ROW LEVEL SECURITY;
CREATE FUNCTION pg_temp.fails() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN pg_temp.fails(''); END$$;
CREATE TRIGGER fails BEFORE UPDATE ON docsync.document FOR EACH ROW EXECUTE FUNCTION pg_temp.fails();
SELECT is(pg_temp.after_error($$DELETE FROM docsync.document WHERE collection = 'default' AND id = '21'$$), 'ZZ000, settings touched: none',
	'after an error in making a tombstone');
DROP TRIGGER fails ON docsync.document;

------------------------------------------------------------------------------
-- Others' statements are planned as ever
------------------------------------------------------------------------------
RESET enable_sort;
RESET enable_bitmapscan;
CREATE TEMP TABLE member (name text PRIMARY KEY, collection text);
INSERT INTO member VALUES ('me', 'default');
ANALYZE member;
GRANT SELECT ON member TO regress_docsync_plans;
CREATE FUNCTION pg_temp.collection_of_member() RETURNS text LANGUAGE plpgsql STABLE
	AS $$BEGIN RETURN (SELECT collection FROM member WHERE name = 'me'); END$$;
CREATE FUNCTION pg_temp.collection_of_member(id text) RETURNS text LANGUAGE plpgsql
	AS $$BEGIN RETURN (SELECT collection FROM member WHERE name = left('me', length(id) + 2)); END$$;

-- How a table of one row is read in the course of a command
CREATE FUNCTION pg_temp.scans(command text) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	seq bigint := pg_stat_get_xact_numscans('member'::regclass);
	index bigint := pg_stat_get_xact_numscans('member_pkey'::regclass);
BEGIN
	SET LOCAL ROLE regress_docsync_plans;
	EXECUTE command;
	RESET ROLE;
	RETURN CASE WHEN pg_stat_get_xact_numscans('member'::regclass) > seq THEN 'from end to end' END ||
		CASE WHEN pg_stat_get_xact_numscans('member_pkey'::regclass) > index THEN ', by its index' ELSE '' END;
END
$$;
CREATE FUNCTION pg_temp.all_scans(state text) RETURNS SETOF text
	LANGUAGE plpgsql
AS $$
DECLARE
	c call;
BEGIN
	FOR c IN SELECT * FROM call WHERE name IN ('ten documents', 'sync', 'the list', 'ten by id', 'upload of one that is updated') ORDER BY place LOOP
		DISCARD PLANS;
		RETURN NEXT is(pg_temp.scans(c.command), 'from end to end', format('%s: %s', state, c.name));
		DISCARD PLANS;
		SET LOCAL enable_indexscan = off;
		RETURN NEXT cmp_ok(pg_temp.rows_read('SET LOCAL ROLE regress_docsync_plans; ' || c.command || '; RESET ROLE'), '<', 1000::bigint,
			format('%s, the documents: %s', state, c.name));
		SET LOCAL enable_indexscan = on;
	END LOOP;
END
$$;
GRANT SELECT ON middle, call TO regress_docsync_plans;
GRANT USAGE ON SEQUENCE version TO regress_docsync_plans;
ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY;
CREATE POLICY member ON docsync.document USING (collection >= pg_temp.collection_of_member());
SELECT pg_temp.all_scans('called when planned');
DROP POLICY member ON docsync.document;
CREATE POLICY member ON docsync.document USING (collection = pg_temp.collection_of_member(id));
SELECT pg_temp.all_scans('called for each row');
DROP POLICY member ON docsync.document;
CREATE POLICY member ON docsync.document USING (collection IN (SELECT collection FROM member WHERE name = 'me'));
SELECT pg_temp.all_scans('in a subquery');
DROP POLICY member ON docsync.document;
CREATE FUNCTION pg_temp.collection_of_most() RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER
	AS $$BEGIN RETURN (SELECT mode() WITHIN GROUP (ORDER BY collection) FROM docsync.document WHERE collection > '' AND body IS NOT NULL); END$$;
CREATE POLICY most ON docsync.document USING (collection >= pg_temp.collection_of_most());
DISCARD PLANS;
SELECT pg_stat_get_xact_numscans('docsync.document'::regclass) AS before \gset
SET LOCAL ROLE regress_docsync_plans;
SELECT count(docsync_pull('reader', NULL, "maxDocuments" => 1)) \gset
RESET ROLE;
SELECT cmp_ok(pg_stat_get_xact_numscans('docsync.document'::regclass), '>', :before::bigint, 'nor are those that read documents');
DROP POLICY most ON docsync.document;
ALTER TABLE docsync.document DISABLE ROW LEVEL SECURITY;

SELECT * FROM finish();
ROLLBACK;
