-- Epochs and prepared transactions. There is a second expected result for servers without them (max_prepared_transactions = 0).
\set VERBOSITY terse
\pset null (null)
\pset format unaligned
\pset tuples_only on
CREATE EXTENSION docsync;
SELECT docsync_create_store() \g /dev/null
-- What is prepared may bring what is older than what has survived.
INSERT INTO docsync.document (id, body) VALUES ('a', '1');
INSERT INTO docsync.document (id, body, last_update_utc, fence) VALUES ('ahead', '1', clock_timestamp() + interval '1 hour', '3');
BEGIN;
INSERT INTO docsync.document (collection, id, body) VALUES ('prepared', 'x', '1');
PREPARE TRANSACTION 'regress_docsync';
SELECT docsync_new_epoch();
SELECT lost_after = (SELECT prepared FROM pg_prepared_xacts WHERE gid = 'regress_docsync') - interval '1 day' AS before_prepared FROM docsync.history WHERE number = 2;
ROLLBACK PREPARED 'regress_docsync';
-- A transaction that begins one may be prepared, too.
BEGIN;
SELECT docsync_new_epoch();
PREPARE TRANSACTION 'regress_docsync';
SELECT count(*) FROM docsync.history;
COMMIT PREPARED 'regress_docsync';
SELECT count(*) FROM docsync.history;

SET client_min_messages = warning;
DROP SCHEMA docsync CASCADE;
DROP EXTENSION docsync;
