-- Purging: tombstones are removed, and no reader misses one without being told.
SET client_min_messages = warning;
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
DROP SCHEMA IF EXISTS docsync CASCADE;
DROP EXTENSION IF EXISTS docsync;
CREATE EXTENSION docsync;
DO $$ BEGIN PERFORM docsync_create_store(); END $$;
SELECT plan(56);
SET LOCAL TimeZone = 'UTC';

-- What a download gets: ids, or the error with its detail and hint
CREATE FUNCTION pg_temp.download(since timestamptz, collection text DEFAULT 'default') RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	RETURN (SELECT coalesce(string_agg(id, ' '), '') FROM docsync_query_since('reader', since, 'any', collection));
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(' / ', SQLSTATE, SQLERRM, detail, hint);
END
$$;
\set told '55000 / resync required / {"reason": "purged", "text": "Tombstones that this client has not seen have been removed."} / Compare what you have with the store (reconcile=true), or start again from the beginning, without a cursor.'
-- What a purge says that it has removed
CREATE FUNCTION pg_temp.purge(keep interval, collection text DEFAULT NULL) RETURNS bigint
	LANGUAGE plpgsql
AS $$
DECLARE
	removed bigint;
BEGIN
	CALL docsync_purge(keep, collection, removed);
	RETURN removed;
END
$$;
CREATE FUNCTION pg_temp.left_in(collection text) RETURNS text
	LANGUAGE sql
AS $$
	SELECT string_agg(id, ' ' ORDER BY last_update_utc) FROM docsync.document WHERE document.collection = $1
$$;

-- Old documents, as a dump brings them: d are documents, t tombstones
INSERT INTO docsync.document (collection, id, last_update_utc, deleted, body, fence)
	SELECT collection, left(name, 2), ('2001-01-0' || substr(name, 2, 1))::timestamptz, name ~ '^t',
		   CASE WHEN name ~ 'b$' OR name ~ '^d' THEN '1'::jsonb END, '3'
	  FROM unnest('{default,other,calm}'::text[]) AS collection, unnest('{d1,t2,t3b,d4,t5,d6}'::text[]) AS name
	 WHERE collection <> 'calm' OR name ~ '^d';
INSERT INTO docsync.document (collection, id, deleted) VALUES ('default', 'new', true), ('other', 'new', true);

------------------------------------------------------------------------------
-- What is refused
------------------------------------------------------------------------------
SELECT throws_ok('CALL docsync_purge(NULL)', '22004', 'keep is null');
SELECT throws_ok($$CALL docsync_purge(interval '-1 us')$$, '22023', 'keep is negative');
SELECT throws_ok($$CALL docsync_purge(interval '1 day -25 hours')$$, '22023', 'keep is negative');
SELECT throws_ok($$CALL docsync_purge('1 day', '')$$, '22023', 'collection is empty');
SELECT throws_ok($$CALL docsync_purge('1 day', repeat('x', 201))$$, '22023', 'collection is too long');
SELECT throws_ok($$CALL docsync_purge('1000000 years')$$, '22008', 'timestamp out of range');
SELECT is(pg_temp.left_in('default'), 'd1 t2 t3 d4 t5 d6 new', 'nothing of it purges anything');

------------------------------------------------------------------------------
-- Nothing to purge
------------------------------------------------------------------------------
SELECT is(pg_temp.purge('200 years'), 0::bigint, 'no tombstone is so old');
SELECT is(pg_temp.purge('0', 'nowhere'), 0::bigint, 'no such collection');
SELECT is(pg_temp.purge('0', 'calm'), 0::bigint, 'a collection without tombstones');
SELECT is_empty('SELECT * FROM docsync.purged', 'it leaves no trace');
SELECT is(pg_temp.download('2001-01-01'), 'd1 t2 t3 d4 t5 d6 new', '... and no reader notices');

------------------------------------------------------------------------------
-- One collection, up to a time
------------------------------------------------------------------------------
-- A cursor has a snapshot from before.
DECLARE before CURSOR FOR
	SELECT string_agg(id, ' ') AS documents FROM docsync_query_since('reader', '2001-01-01', 'any');
SELECT last_value AS clock FROM docsync.clock \gset

SELECT is(pg_temp.purge(now() - '2001-01-04'::timestamptz, 'default'), 2::bigint, 'tombstones before the 4th, with a body or without');
SELECT is(pg_temp.left_in('default'), 'd1 d4 t5 d6 new', 'they are gone, no document is, nor a younger tombstone');
SELECT is(pg_temp.left_in('other'), 'd1 t2 t3 d4 t5 d6 new', 'other collections have theirs');
SELECT results_eq('SELECT collection, last_update_utc FROM docsync.purged', $$VALUES ('default' COLLATE "C", '2001-01-03'::timestamptz)$$,
	'the highest stamp removed is noted');
SELECT is((SELECT last_value FROM docsync.clock), :clock, 'the clock doesn''t move');

SELECT is(pg_temp.download('2001-01-02'), :'told', 'a reader who missed one is told');
SELECT is(pg_temp.download('2001-01-02 23:59:59.999999'), :'told', '... if only by a microsecond');
SELECT is(pg_temp.download('2001-01-03'), 'd4 t5 d6 new', 'one who saw it goes on');
SELECT is(pg_temp.download('2001-01-03 00:00:00.000001'), 'd4 t5 d6 new', '... as do those beyond');
SELECT is(pg_temp.download('2001-01-04'), 'd4 t5 d6 new', '... and beyond');
SELECT is(pg_temp.download(NULL), 'd1 d4 t5 d6 new', 'one who begins gets what there is');
SELECT is(pg_temp.download('-infinity'), 'd1 d4 t5 d6 new', '... by -infinity, too');
SELECT is(pg_temp.download('1970-01-01'), 'd1 d4 t5 d6 new', '... by 1970-01-01');
SELECT is(pg_temp.download('0001-01-01'), 'd1 d4 t5 d6 new', '... by 0001-01-01');
SELECT is(pg_temp.download('2000-01-01 BC'), 'd1 d4 t5 d6 new', '... and by what is long ago');
SELECT is(pg_temp.download('1970-01-01 00:00:00.000001'), :'told', '... but not by a microsecond more');
SELECT is(pg_temp.download('2001-01-01', 'other'), 'd1 t2 t3 d4 t5 d6 new', 'readers of other collections aren''t hindered');
SELECT is(pg_temp.download('2001-01-01', 'calm'), 'd1 d4 d6', '... nor of one that has no tombstones');
SELECT is(pg_temp.download('2001-01-01', 'nowhere'), '', '... nor of one that has nothing');
-- Whatever snapshot a statement has, a download takes its own.
SELECT throws_ok('FETCH before', '55000', 'resync required', 'a cursor that was opened before is told, too');

-- What was removed and comes again is new.
SELECT is(outcome, 'created', 'a document that was removed can be created again')
  FROM docsync_upsert('tablet', '[{"id": "t2", "clientVersion": 1, "body": 1}]');
SELECT is(pg_temp.left_in('default'), 'd1 d4 t5 d6 new t2', '... with a new stamp');

------------------------------------------------------------------------------
-- The functions for HTTP say it as well
------------------------------------------------------------------------------
SELECT format('%s.%s', lpad(to_hex(epoch), 16, '0'), (date_part('epoch', '2001-01-02'::timestamptz) * 1000000)::bigint) AS missed,
       format('%s.%s', lpad(to_hex(epoch), 16, '0'), (date_part('epoch', '2001-01-03'::timestamptz) * 1000000)::bigint) AS seen
  FROM docsync.history \gset
SELECT throws_ok(format('SELECT docsync_pull(cursor => %L)', :'missed'), '55000', 'resync required', 'pull');
SELECT throws_ok(format('SELECT docsync_sync(%L, cursor => %L)', 'reader', :'missed'), '55000', 'resync required', 'sync');
SELECT throws_ok(format('SELECT docsync_sync(%L, %L, %L)', 'reader', '[{"id": "no", "clientVersion": 1, "body": 1}]', :'missed'), '55000', 'resync required',
	'sync with documents');
SELECT is_empty($$SELECT FROM docsync.document WHERE id = 'no'$$, '... which aren''t stored then');
SELECT throws_ok($$SELECT docsync_docs_query('any', '2001-01-02T00:00:00Z', 'reader')$$, '55000', 'resync required', 'the protocol''s query');
SELECT is(docsync_pull(cursor => :'seen')::jsonb #>> '{documents,0,id}', 'd4', 'pull goes on');
SELECT is(docsync_sync('reader', cursor => :'seen')::jsonb #>> '{documents,0,id}', 'd4', 'sync goes on');
SELECT is(docsync_docs_query('any', '2001-01-03T00:00:00Z')::jsonb #>> '{0,id}', 'd4', 'the protocol''s query goes on');
SELECT is(docsync_pull()::jsonb #>> '{documents,0,id}', 'd1', 'pull begins');

------------------------------------------------------------------------------
-- Again, in all collections
------------------------------------------------------------------------------
SELECT is(pg_temp.purge(now() - '2001-01-03'::timestamptz), 1::bigint, 'all collections: t2 of the other is left to go');
SELECT results_eq('SELECT collection, last_update_utc FROM docsync.purged ORDER BY 1',
	$$VALUES ('default' COLLATE "C", '2001-01-03'::timestamptz), ('other', '2001-01-02')$$, 'each has a mark of its own');
SELECT is(pg_temp.download('2001-01-02', 'other'), 't3 d4 t5 d6 new', 'what one collection has seen counts there');
SELECT is(pg_temp.download('2001-01-01', 'other'), :'told', '... and what it has not');
-- A mark never goes back, though an older tombstone be removed later
INSERT INTO docsync.document (id, last_update_utc, deleted, fence) VALUES ('late', '2001-01-01 12:00', true, '3');
SELECT is(pg_temp.purge('1 day', 'default'), 2::bigint, 'an older one and a younger one');
SELECT is((SELECT last_update_utc FROM docsync.purged WHERE collection = 'default'), '2001-01-05', 'the mark moves on');
INSERT INTO docsync.document (id, last_update_utc, deleted, fence) VALUES ('later', '2001-01-01 12:00', true, '3');
SELECT is(pg_temp.purge('1 day', 'default'), 1::bigint, 'an older one alone');
SELECT is((SELECT last_update_utc FROM docsync.purged WHERE collection = 'default'), '2001-01-05', 'the mark doesn''t go back');
-- Tombstones of this very transaction are younger than any keep.
SELECT is(pg_temp.purge('0', 'default'), 0::bigint, 'what was deleted just now stays');

------------------------------------------------------------------------------
-- What is rolled back is not purged
------------------------------------------------------------------------------
SAVEPOINT s;
SELECT is(pg_temp.purge('1 day', 'other'), 2::bigint, 'the rest of the other collection');
ROLLBACK TO s;
SELECT is(pg_temp.download('2001-01-02', 'other'), 't3 d4 t5 d6 new', 'rolled back: readers go on as before');

-- Nothing else removes a row: not a DELETE beside the purge, nor a trigger's.
CREATE FUNCTION pg_temp.also() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM docsync.document WHERE collection = 'calm' AND id = 'd1';
	RETURN NULL;
END
$$;
CREATE TRIGGER also AFTER DELETE ON docsync.document FOR EACH ROW EXECUTE FUNCTION pg_temp.also();
SELECT is(pg_temp.purge('1 day', 'other'), 2::bigint, 'a purge whose trigger deletes a document');
DROP TRIGGER also ON docsync.document;
DELETE FROM docsync.document WHERE collection = 'calm' AND id = 'd4';
SELECT is((SELECT string_agg(id, ' ' ORDER BY id) FROM docsync.document WHERE collection = 'calm' AND deleted), 'd1 d4', 'what is deleted leaves a tombstone');

SELECT * FROM finish();
ROLLBACK;
