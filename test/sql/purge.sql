-- Purging: its steps and their transactions, and what remains if it is interrupted.
-- (What is removed and who is told: pgtap/purge.sql, pgtap/horizon.sql.)
\set SHOW_CONTEXT never
\pset null (null)
\pset format unaligned
\pset tuples_only on
CREATE EXTENSION docsync;
SELECT docsync_create_store() \g /dev/null
SELECT docsync_sync('x', collection => 'nowhere') \g /dev/null
-- Old tombstones, as a dump brings them: a has 2500, b 1001, c 1000, d 1, e none, f two clients'
INSERT INTO docsync.document (collection, id, client_id, last_update_utc, deleted, fence)
	SELECT name, i::text, 'x', '2001-01-01'::timestamptz + i * interval '1 s', true, '3'::xid8 FROM (VALUES ('a', 2500), ('b', 1001), ('c', 1000), ('d', 1)) AS c(name, count), generate_series(1, c.count) AS i
	UNION ALL SELECT 'f', i::text, CASE WHEN i < 6 THEN 'x' ELSE 'y' END, '2001-01-01'::timestamptz + i * interval '1 s', true, '3'::xid8 FROM generate_series(1, 10) AS i;
INSERT INTO docsync.document (collection, id, body, last_update_utc, fence) VALUES ('e', 'x', '1', '2001-01-01', '3');
CREATE FUNCTION pg_temp.left() RETURNS TABLE (collection text, documents bigint, newest bool, horizon text)
	LANGUAGE sql
AS $$
	SELECT d.collection, count(*), bool_or(d.last_update_utc = p.last_update_utc + interval '1 s'), extract(epoch FROM p.last_update_utc - '2001-01-01') || ' ' || p.client_id || ' ' || CASE WHEN isfinite(p.others_utc) THEN extract(epoch FROM p.others_utc - '2001-01-01')::text ELSE p.others_utc::text END
	  FROM docsync.document AS d LEFT JOIN docsync.purged AS p USING (collection) GROUP BY d.collection, p.last_update_utc, p.client_id, p.others_utc ORDER BY 1
$$;
-- In which transactions, and in which order
CREATE TABLE public.trace (n serial, xid xid8, collection text, id text);
CREATE FUNCTION public.trace() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.trace (xid, collection, id) VALUES (pg_current_xact_id(), old.collection, old.id);
	RETURN NULL;
END
$$;
CREATE TRIGGER trace AFTER DELETE ON docsync.document FOR EACH ROW EXECUTE FUNCTION public.trace();
CREATE FUNCTION pg_temp.transactions() RETURNS text
	LANGUAGE sql
AS $$
	SELECT string_agg(collections, ', ' ORDER BY n) FROM (SELECT string_agg(collection || ' ' || count, ' and ' ORDER BY collection) AS collections, min(n) AS n
		FROM (SELECT xid, collection, count(*), min(n) AS n FROM public.trace GROUP BY 1, 2) AS s GROUP BY xid) AS t
$$;

-- Arguments
CALL docsync_purge('1 day', 'nowhere');
CALL docsync_purge(keep => '200 years');
CALL docsync_purge(removed => 17, keep => '200 years');
CALL docsync_purge('1 day', 'e');
CALL docsync_purge('1 day', 'd');
SELECT * FROM docsync.purged;
BEGIN READ ONLY;
CALL docsync_purge();
ROLLBACK;

-- In a transaction: all in that
BEGIN;
CALL docsync_purge();
SELECT pg_temp.transactions();
SELECT * FROM pg_temp.left();
ROLLBACK;
SELECT count(*) FROM docsync.document WHERE deleted;
BEGIN ISOLATION LEVEL SERIALIZABLE;
CALL docsync_purge('1 day', 'a');
ROLLBACK;
-- in a function, too
CREATE FUNCTION pg_temp.purge() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	removed bigint;
BEGIN
	CALL docsync_purge('1 day', 'a', removed);
	RAISE EXCEPTION 'removed %, and back', removed;
END
$$;
SELECT pg_temp.purge();
SELECT count(*) FROM docsync.document WHERE deleted;

-- If it is ended, what was committed stays, and the next one goes on.
CREATE FUNCTION public.fails() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'ended'; END$$;
CREATE TRIGGER fails AFTER DELETE ON docsync.document FOR EACH ROW WHEN (old.collection = 'a' AND old.id = '1500') EXECUTE FUNCTION public.fails();
CALL docsync_purge();
SELECT * FROM pg_temp.left();
SELECT pg_temp.transactions();
DROP TRIGGER fails ON docsync.document;
TRUNCATE public.trace;
-- By itself it commits each step: at most a thousand, of one collection.
CALL docsync_purge();
SELECT pg_temp.transactions();
SELECT * FROM pg_temp.left();
-- in the order of ids within a step, as uploads lock them
SELECT string_agg(id, ' ' ORDER BY n) FROM public.trace WHERE collection = 'f';
-- again: nothing is left to go
CALL docsync_purge();
-- From DO, which is called by itself, it commits, too.
INSERT INTO docsync.document (collection, id, client_id, last_update_utc, deleted, fence)
	SELECT 'g', i::text, 'x', '2001-01-01'::timestamptz + i * interval '1 s', true, '3'::xid8 FROM generate_series(1, 1500) AS i;
TRUNCATE public.trace;
DO $$
DECLARE
	removed bigint;
BEGIN
	CALL docsync_purge('1 day', 'g', removed);
	RAISE NOTICE '%', removed;
END
$$;
SELECT pg_temp.transactions();

-- A row that somebody has locked is about to come back, and stays.
CREATE EXTENSION dblink;
SELECT dblink_connect('other', format('host=%s port=%s dbname=%s user=%s', split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database(), current_user));
INSERT INTO docsync.document (collection, id, client_id, last_update_utc, deleted, fence)
	SELECT 'h', i::text, 'x', '2001-01-01'::timestamptz + i * interval '1 s', true, '3'::xid8 FROM generate_series(1, 4) AS i;
SELECT dblink_exec('other', 'BEGIN');
SELECT * FROM dblink('other', $$SELECT id FROM docsync.document WHERE collection = 'h' AND id = '3' FOR UPDATE$$) AS t(id text);
CALL docsync_purge('1 day', 'h');
SELECT string_agg(id, ' ' ORDER BY id) FROM docsync.document WHERE collection = 'h';
SELECT * FROM pg_temp.left() WHERE collection = 'h';
SELECT dblink_exec('other', 'ROLLBACK');
CALL docsync_purge('1 day', 'h');
SELECT * FROM pg_temp.left() WHERE collection = 'h';
-- One that a trigger keeps stays, too, and isn't noted.
INSERT INTO docsync.document (collection, id, client_id, last_update_utc, deleted, fence)
	SELECT 'i', i::text, 'x', '2001-01-01'::timestamptz + i * interval '1 s', true, '3'::xid8 FROM generate_series(1, 4) AS i;
CREATE FUNCTION public.keeps() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;
CREATE TRIGGER keeps BEFORE DELETE ON docsync.document FOR EACH ROW WHEN (old.id = '3') EXECUTE FUNCTION public.keeps();
CALL docsync_purge('1 day', 'i');
SELECT * FROM pg_temp.left() WHERE collection = 'i';
DROP TRIGGER keeps ON docsync.document;

-- What isn't settled yet holds the purge back: readers would miss it behind the horizon.
INSERT INTO docsync.document (collection, id, body) VALUES ('j', 'first', '1');
SELECT dblink_exec('other', 'BEGIN');
SELECT dblink_exec('other', $$INSERT INTO docsync.document (collection, id, body) VALUES ('j', 'late', '1')$$);
DELETE FROM docsync.document WHERE collection = 'j';
INSERT INTO docsync.document (collection, id, deleted) VALUES ('j', 'second', true);
SELECT pg_sleep(0.001);
CALL docsync_purge('0', 'j');
SELECT dblink_exec('other', 'COMMIT');
SELECT pg_sleep(0.001);
CALL docsync_purge('0', 'j');
SELECT string_agg(id, ' ' ORDER BY last_update_utc) FROM docsync.document WHERE collection = 'j';
SELECT dblink_disconnect('other');

-- Under REPEATABLE READ, too, a cursor says nothing of a collection in which its holder sees no document.
CREATE ROLE regress_docsync_bob;
SELECT docsync_grant('regress_docsync_bob') \g /dev/null
ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY;
SET ROLE regress_docsync_bob;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT c AS collection, docsync_pull(collection => c, cursor => docsync_pull(collection => c) ->> 'cursor') ->> 'cursor' ~ '^[0-9a-f]{16}\.0\.0\.' AS nothing
  FROM unnest('{i,nowhere}'::text[]) AS c;
COMMIT;
RESET ROLE;
DROP OWNED BY regress_docsync_bob;
DROP ROLE regress_docsync_bob;

SET client_min_messages = warning;
DROP EXTENSION dblink;
DROP SCHEMA docsync CASCADE;
DROP EXTENSION docsync;
DROP TABLE public.trace;
DROP FUNCTION public.trace, public.fails, public.keeps;
