-- The history: the rows for an epoch and for a start after a crash, who may begin
-- an epoch, and what happens to stamps and cursors then.
\set SHOW_CONTEXT never
\pset null (null)
\pset format unaligned
\pset tuples_only on
CREATE EXTENSION docsync;
SELECT docsync_create_store() \g /dev/null
-- rows: of each the number, whether it has the epoch of the one before, whose it is, what has survived, and the clock
CREATE FUNCTION pg_temp.rows() RETURNS TABLE (number bigint, same_epoch bool, is_here bool, survived text, lost_after text, clock text, arrived bool)
	LANGUAGE sql
AS $$
	SELECT number, epoch = lag(epoch) OVER (ORDER BY number),
		   (h.system_identifier, database, document, timeline) = ((pg_control_system()).system_identifier, (SELECT oid FROM pg_database WHERE datname = current_database()), 'docsync.document'::regclass::oid, (pg_control_checkpoint()).timeline_id),
		   CASE WHEN NOT isfinite(survived) THEN survived::text WHEN EXISTS (SELECT FROM docsync.document WHERE last_update_utc = survived) THEN 'a stamp' ELSE 'another' END,
		   CASE WHEN NOT isfinite(lost_after) THEN lost_after::text WHEN lost_after = survived - interval '1 day' THEN 'a day before' ELSE 'another' END,
		   CASE WHEN clock > begun + interval '50 s' AND clock < begun + interval '70 s' THEN 'a minute ahead' WHEN clock > begun - interval '10 s' AND clock <= begun THEN 'now' ELSE 'another' END,
		   arrived
	  FROM docsync.history AS h ORDER BY number
$$;
-- A session looks at the history once; and again where the store's catalogs have changed, as a new one does.
\set again 'ALTER TABLE docsync.purged SET (fillfactor = 100);'

-- A new store has none, and reading makes none.
SELECT * FROM pg_temp.rows();
SELECT docsync_pull() ->> 'cursor' ~ '^0{16}\.0\.\d{16}\.' AS cursor;
SELECT docsync_docs_query('any');
SELECT count(*) FROM docsync.history;
-- The first write does, once. There was nothing to lose, so stamps go on from now.
INSERT INTO docsync.document (id, body) VALUES ('a', '1');
SELECT outcome FROM docsync_upsert('tablet', '[{"id": "b", "clientVersion": 1, "body": 1}]');
SELECT docsync_sync('tablet') ->> 'more';
SELECT * FROM pg_temp.rows();
SELECT epoch > 0, epoch & 1 AS odd, last_update_utc > clock, last_update_utc < clock_timestamp() FROM docsync.history, docsync.document;
-- Who had a cursor of the empty store goes on: it had seen nothing.
SELECT p ->> 'more' FROM docsync_pull(cursor => '0000000000000000.0') AS p;

-- By hand: for the store's owner
CREATE ROLE regress_docsync_client;
CREATE ROLE regress_docsync_deleter;
SELECT docsync_grant('regress_docsync_client'), docsync_grant('regress_docsync_deleter') \g /dev/null
GRANT ALL ON ALL TABLES IN SCHEMA docsync TO regress_docsync_deleter;
GRANT ALL ON SEQUENCE docsync.clock TO regress_docsync_deleter;
SET ROLE regress_docsync_client;
SELECT docsync_new_epoch();
\echo :LAST_ERROR_SQLSTATE
SET ROLE regress_docsync_deleter;
SELECT docsync_new_epoch();
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
BEGIN READ ONLY;
SELECT docsync_new_epoch();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN;
SELECT docsync_new_epoch();
SELECT count(*) FROM docsync.history;
ROLLBACK;
SELECT count(*) FROM docsync.history;
SELECT docsync_new_epoch();
SELECT * FROM pg_temp.rows();
-- What is stamped from now on is beyond all that was issued until now.
SELECT last_update_utc > (SELECT clock FROM docsync.history WHERE number = 2) AS beyond, last_update_utc > clock_timestamp() + interval '50 s' AS ahead FROM docsync_upsert('tablet', '[{"id": "c", "clientVersion": 1, "body": 1}]');
-- One after the other
BEGIN;
SELECT docsync_new_epoch();
SELECT docsync_new_epoch();
COMMIT;
SELECT * FROM pg_temp.rows();
SELECT count(DISTINCT epoch) FROM docsync.history;
-- as whom the store belongs to
GRANT CREATE ON SCHEMA docsync TO regress_docsync_deleter;
ALTER ROLE regress_docsync_deleter SUPERUSER;
ALTER TABLE docsync.document OWNER TO regress_docsync_deleter;
SET ROLE regress_docsync_deleter;
SELECT docsync_new_epoch();
RESET ROLE;
ALTER TABLE docsync.document OWNER TO CURRENT_USER;
ALTER ROLE regress_docsync_deleter NOSUPERUSER;
DELETE FROM docsync.history WHERE number > 1;

-- By itself: another server, database, table or timeline.  Whoever writes begins it, by plain SQL too, and needs no right for that.
CREATE FUNCTION pg_temp.elsewhere(change text, command text) RETURNS SETOF record
	LANGUAGE plpgsql
AS $$
BEGIN
	EXECUTE 'UPDATE docsync.history SET ' || change || ' WHERE number = (SELECT max(number) FROM docsync.history)';
	ALTER TABLE docsync.purged SET (fillfactor = 100);
	SET LOCAL ROLE regress_docsync_client;
	EXECUTE command;
	SET LOCAL ROLE NONE;
	RETURN QUERY SELECT * FROM pg_temp.rows() OFFSET 1;
	RAISE EXCEPTION USING ERRCODE = 'ZZ000';
EXCEPTION WHEN SQLSTATE 'ZZ000' THEN
	RETURN;
END
$$;
SELECT c.change, r.* FROM unnest('{system_identifier = 1,database = 1,document = 1,timeline = 99,epoch = 17}'::text[]) AS c(change),
	pg_temp.elsewhere(change, $$SELECT docsync_upsert('tablet', '[{"id": "d", "clientVersion": 1, "body": 1}]')$$) AS r(number bigint, same_epoch bool, is_here bool, survived text, lost_after text, clock text, arrived bool);
SELECT c.command, r.* FROM unnest(ARRAY[$$INSERT INTO docsync.document (id, body) VALUES ('d', '1')$$, $$UPDATE docsync.document SET body = '2' WHERE id = 'a'$$, $$SELECT docsync_sync('tablet')$$, $$SELECT docsync_docs_sync('{"clientId": "tablet"}')$$,
	-- these write nothing
	$$SELECT docsync_pull()$$, $$SELECT docsync_docs_reconcile('{}')$$, $$SELECT docsync_upsert('tablet', '[{"id": "b", "clientVersion": 1, "body": 1}]')$$, $$SELECT docsync_upsert('tablet', '[]')$$]) AS c(command),
	pg_temp.elsewhere('timeline = 99', command) AS r(number bigint, same_epoch bool, is_here bool, survived text, lost_after text, clock text, arrived bool);
SELECT count(*) FROM docsync.history;
-- a purge, too
UPDATE docsync.history SET timeline = 99;
:again
CALL docsync_purge('1 day', NULL, NULL);
SELECT * FROM pg_temp.rows();
-- Rolled back it is as if it had never been, and the next does it.
UPDATE docsync.history SET timeline = 99;
:again
BEGIN;
INSERT INTO docsync.document (id, body) VALUES ('e', '1');
SELECT count(*) FROM docsync.history;
ROLLBACK;
BEGIN;
SAVEPOINT s;
INSERT INTO docsync.document (id, body) VALUES ('e', '1');
ROLLBACK TO s;
INSERT INTO docsync.document (id, body) VALUES ('e', '1');
COMMIT;
SELECT * FROM pg_temp.rows();
-- also where the transaction has gone on after a savepoint that was rolled back
DELETE FROM docsync.history WHERE number > 1;
UPDATE docsync.history SET timeline = 99;
:again
BEGIN;
INSERT INTO docsync.document (id, body) VALUES ('e2', '1');
SAVEPOINT s;
ROLLBACK TO s;
INSERT INTO docsync.document (id, body) VALUES ('e3', '1');
SELECT count(*) FROM docsync.history;
ROLLBACK;
INSERT INTO docsync.document (id, body) VALUES ('e4', '1');
SELECT count(*) FROM docsync.history;
-- While somebody else's transaction does so nobody waits, and it is done once.
CREATE EXTENSION dblink;
SELECT dblink_connect('other', format('host=%s port=%s dbname=%s user=%s', split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database(), current_user));
UPDATE docsync.history SET timeline = 99;
:again
SELECT dblink_exec('other', 'BEGIN');
SELECT dblink_exec('other', $$INSERT INTO docsync.document (id, body) VALUES ('other', '1')$$);
INSERT INTO docsync.document (id, body) VALUES ('f', '1');
SELECT count(*) FROM docsync.history;
SELECT dblink_exec('other', 'COMMIT');
SELECT count(*) FROM docsync.history;
INSERT INTO docsync.document (id, body) VALUES ('g', '1');
SELECT count(*) FROM docsync.history;
SELECT dblink_disconnect('other');
DROP EXTENSION dblink;

-- A start after a crash: the clock's page says so. It isn't an epoch, as nothing that was committed is lost,
DELETE FROM docsync.history WHERE number > 1;
UPDATE docsync.history SET timeline = (pg_control_checkpoint()).timeline_id;
SELECT setval('docsync.clock', last_value, false) FROM docsync.clock \g /dev/null
:again
SELECT docsync_pull() ->> 'more';
SELECT count(*) FROM docsync.history;
INSERT INTO docsync.document (id, body) VALUES ('h', '1');
INSERT INTO docsync.document (id, body) VALUES ('i', '1');
SELECT number, same_epoch, is_here, survived, lost_after, arrived FROM pg_temp.rows();
SELECT is_called FROM docsync.clock;
-- unless commits didn't wait for the disk.
SELECT setval('docsync.clock', last_value, false) FROM docsync.clock \g /dev/null
:again
SET synchronous_commit = off;
INSERT INTO docsync.document (id, body) VALUES ('j', '1');
RESET synchronous_commit;
SELECT number, same_epoch, is_here, survived, lost_after, clock, arrived FROM pg_temp.rows();

-- A cursor above the clock is another history's. Who sends it along with documents is told as well, though these move the clock.
BEGIN;
SELECT regexp_replace(docsync_sync('laptop') ->> 'cursor', '\.\d+', '.' || (date_part('epoch', clock_timestamp()) * 1000000 + 1e5)::bigint) AS ahead \gset
SELECT setval('docsync.clock', (date_part('epoch', clock_timestamp()) * 1000000)::bigint) \g /dev/null
COMMIT;
SELECT pg_sleep(0.2);
SELECT docsync_sync('laptop', cursor => :'ahead', reconcile => true) -> 'reconcile';
SELECT docsync_sync('laptop', '[{"id": "k", "clientVersion": 1, "body": 1}]', cursor => :'ahead', reconcile => true) -> 'reconcile';

-- What has survived is what there is, not what somebody may see.
ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE docsync.history ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY few ON docsync.document USING (id = 'a');
DELETE FROM docsync.history WHERE number > 1;
SELECT docsync_new_epoch();
SELECT survived = (SELECT max(last_update_utc) FROM docsync.document) AS all FROM docsync.history WHERE number = 2;
ALTER TABLE docsync.document NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
ALTER TABLE docsync.history NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
INSERT INTO docsync.document (collection, id, body) SELECT 'c' || i, 'x', '1' FROM generate_series(1, 100) AS i;
INSERT INTO docsync.document (collection, id, body, last_update_utc, fence) VALUES ('c50', 'ahead', '1', clock_timestamp() + interval '1 hour', '3');
SELECT docsync_new_epoch();
SELECT survived = (SELECT last_update_utc FROM docsync.document WHERE id = 'ahead') AS highest, clock >= survived AS clock, lost_after = survived - interval '1 day' AS margin FROM docsync.history WHERE number = 3;

-- Handed over: what is there stays, is read, and is written no more.
DELETE FROM docsync.history WHERE number > 1;
UPDATE docsync.history SET timeline = (pg_control_checkpoint()).timeline_id;
:again
SELECT docsync_take_over();
SELECT docsync_pull('laptop') ->> 'cursor' AS cursor \gset
BEGIN;
INSERT INTO docsync.document (id, body) VALUES ('moves the clock', '1');
ROLLBACK;
SELECT docsync_hand_over();
SELECT docsync_hand_over();
SELECT number, same_epoch, is_here, survived, lost_after, arrived FROM pg_temp.rows();
SELECT (SELECT clock FROM docsync.history WHERE number = 2) = 'epoch'::timestamptz + last_value % 1000000 * interval '1 us' + last_value / 1000000 * interval '1 s' AS clock FROM docsync.clock;
INSERT INTO docsync.document (id, body) VALUES ('handed over', '1');
\echo :LAST_ERROR_SQLSTATE
SELECT docsync_upsert('tablet', '[{"id": "handed over", "clientVersion": 1, "body": 1}]');
SELECT docsync_upsert('tablet', '[{"id": "handed over", "clientVersion": 1, "body": 1}]', atomic => false);
SELECT docsync_sync('laptop');
CALL docsync_purge();
SELECT docsync_take_over();
SELECT json_array_length(docsync_pull('laptop', :'cursor') -> 'documents');
-- unless it is taken back
BEGIN;
SELECT docsync_new_epoch();
INSERT INTO docsync.document (id, body) VALUES ('taken back', '1');
SELECT docsync_pull('laptop', :'cursor', reconcile => true) -> 'reconcile';
ROLLBACK;
-- or it was only said
BEGIN;
SELECT docsync_new_epoch();
SAVEPOINT s;
SELECT docsync_hand_over();
ROLLBACK TO s;
INSERT INTO docsync.document (id, body) VALUES ('not handed over', '1');
ROLLBACK;
-- It has arrived elsewhere: where all has come that was there it goes on,
UPDATE docsync.history SET database = 1 WHERE number = 1;
:again
BEGIN;
SET LOCAL session_replication_role = replica;
DELETE FROM docsync.document WHERE last_update_utc = (SELECT max(last_update_utc) FROM docsync.document);
SAVEPOINT s;
SELECT docsync_take_over();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
RESET session_replication_role;
INSERT INTO docsync.document (id, body) VALUES ('some are missing', '1');
SELECT number, same_epoch, is_here, survived, lost_after, clock, arrived FROM pg_temp.rows() WHERE number = 3;
SELECT docsync_pull('laptop', :'cursor', reconcile => true) -> 'reconcile';
ROLLBACK;
SELECT setval('docsync.clock', (SELECT extract(epoch FROM max(last_update_utc)) * 1000000 FROM docsync.document)::bigint) \g /dev/null
:again
SELECT docsync_take_over();
SELECT docsync_take_over();
SELECT number, same_epoch, is_here, survived, lost_after, arrived FROM pg_temp.rows();
SELECT bool_and(h.clock = handed.clock) FROM docsync.history AS h, docsync.history AS handed WHERE h.number = 3 AND handed.number = 2;
SELECT json_array_length(docsync_pull('laptop', :'cursor') -> 'documents');
INSERT INTO docsync.document (id, body) VALUES ('taken over', '1');
SELECT d ->> 'id' AS id FROM docsync_pull('laptop', :'cursor') AS p, json_array_elements(p -> 'documents') AS d;
-- also after a crash, and once more handed over, which the first upload finds
SELECT setval('docsync.clock', last_value, false) FROM docsync.clock \g /dev/null
:again
INSERT INTO docsync.document (id, body) VALUES ('started', '1');
SELECT docsync_hand_over();
UPDATE docsync.history SET document = 1 WHERE document <> 0;
:again
INSERT INTO docsync.document (id, body) VALUES ('twice', '1');
SELECT number, is_here, arrived FROM pg_temp.rows();
SELECT d ->> 'id' AS id FROM docsync_pull('laptop', :'cursor') AS p, json_array_elements(p -> 'documents') AS d;
-- but not behind an epoch in which something may have been lost.
SELECT docsync_new_epoch();
SELECT docsync_pull('laptop', :'cursor', reconcile => true) -> 'reconcile';
SELECT docsync_take_over();
-- For the store's owner
SET ROLE regress_docsync_deleter;
SELECT docsync_hand_over();
SELECT docsync_take_over();
RESET ROLE;
BEGIN READ ONLY;
SELECT docsync_hand_over();
ROLLBACK;
BEGIN READ ONLY;
SELECT docsync_take_over();
ROLLBACK;

SET client_min_messages = warning;
DROP SCHEMA docsync CASCADE;
DROP EXTENSION docsync;
DROP OWNED BY regress_docsync_client, regress_docsync_deleter;
DROP ROLE regress_docsync_client, regress_docsync_deleter;
