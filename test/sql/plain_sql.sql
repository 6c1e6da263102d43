-- Plain SQL on docsync.document: whatever is written is stamped.
\set SHOW_CONTEXT never
\pset null (null)
CREATE EXTENSION docsync;
SELECT docsync_create_store() \g /dev/null

-- written: the rows with a stamp issued since the variable "clock", without
-- times.  "now" stands for a client_version that is the transaction's time in ms.
\set written 'SELECT id, CASE WHEN client_version > 1e12 THEN ''now'' ELSE client_version::text END AS client_version, client_id, deleted, body, fence <= pg_snapshot_xmax(pg_current_snapshot()) AS fence FROM docsync.document WHERE last_update_utc > ''epoch''::timestamptz + :clock * interval ''1 us'' ORDER BY last_update_utc;'

-- INSERT with defaults
SELECT last_value AS clock FROM docsync.clock \gset
INSERT INTO docsync.document (id, body) VALUES ('i1', '1'), ('i2', '2');
INSERT INTO docsync.document (id, client_version, client_id, body) VALUES ('i3', 3, 'import', 'null');
INSERT INTO docsync.document (id, client_version, deleted) VALUES ('i4', 4, true);
:written
SELECT collection, client_version BETWEEN date_part('epoch', now()) * 1000 - 60000
                                      AND date_part('epoch', now()) * 1000 + 1 AS now
  FROM docsync.document WHERE id = 'i1';
-- What an INSERT can't have.  (Terse, as the server's details show the stamp.)
\set VERBOSITY terse
INSERT INTO docsync.document (id) VALUES ('no body');
\echo :LAST_ERROR_SQLSTATE
INSERT INTO docsync.document (id, body) VALUES ('i1', '1');
\echo :LAST_ERROR_SQLSTATE
INSERT INTO docsync.document (id, body) VALUES ('', '1');
\echo :LAST_ERROR_SQLSTATE
INSERT INTO docsync.document (id, body) VALUES (repeat('é', 250) || 'x', '1');
\echo :LAST_ERROR_SQLSTATE
INSERT INTO docsync.document (id, collection, body) VALUES ('x', '', '1');
\echo :LAST_ERROR_SQLSTATE
INSERT INTO docsync.document (id, collection, body) VALUES ('x', repeat('é', 101), '1');
\echo :LAST_ERROR_SQLSTATE
INSERT INTO docsync.document (id, client_id, body) VALUES ('x', '', '1');
\echo :LAST_ERROR_SQLSTATE
INSERT INTO docsync.document (id, client_id, body) VALUES ('x', NULL, '1');
\echo :LAST_ERROR_SQLSTATE
INSERT INTO docsync.document (collection, id, body) VALUES (NULL, 'x', '1');
\echo :LAST_ERROR_SQLSTATE
INSERT INTO docsync.document (id, client_version, body) VALUES ('x', NULL, '1');
\echo :LAST_ERROR_SQLSTATE

\set VERBOSITY default

-- UPDATE that leaves client_version: the server's own edit, for every client
SELECT id, outcome FROM docsync_upsert('tablet', '[
	{"id": "u0", "clientVersion": 0, "body": 0},
	{"id": "u1", "clientVersion": 1, "body": 1},
	{"id": "u9", "clientVersion": 9000000000000000, "body": 9},
	{"id": "minus", "clientVersion": -5, "body": -5},
	{"id": "high", "clientVersion": 9223372036854775807, "body": 7}]');
SELECT last_value AS clock FROM docsync.clock \gset
BEGIN;
UPDATE docsync.document SET body = '"edited"' WHERE id IN ('u0', 'u1', 'u9', 'minus');
SELECT id, client_version - floor(date_part('epoch', now())::numeric * 1000) IN (0, 1) AS is_now,
       client_version = 9000000000000001 AS is_old_plus_1
  FROM docsync.document WHERE client_id = 'server' AND id ~ '^(u|m)' ORDER BY id;
COMMIT;
:written
SELECT array_agg(id ORDER BY id) FROM docsync_query_since('tablet') WHERE body = '"edited"';
-- even if it sets what it was, a client_id, or makes a tombstone
SELECT last_value AS clock FROM docsync.clock \gset
UPDATE docsync.document SET body = body WHERE id = 'i3';
UPDATE docsync.document SET client_version = 4, client_id = 'me' WHERE id = 'i4';
UPDATE docsync.document SET deleted = true, body = NULL WHERE id = 'u1';
:written
-- the highest version there is has no successor
UPDATE docsync.document SET body = '0' WHERE id = 'high';
\echo :LAST_ERROR_SQLSTATE
DELETE FROM docsync.document WHERE id = 'high';
\echo :LAST_ERROR_SQLSTATE
-- UPDATE that sets client_version: stored as it says, and the server's unless
-- it says whose it is, for the client named in the row has never sent it
SELECT last_value AS clock FROM docsync.clock \gset
UPDATE docsync.document SET client_version = 5, body = '5' WHERE id = 'high';
UPDATE docsync.document SET client_version = 17, client_id = 'import' WHERE id = 'i1';
:written
-- What an UPDATE can't do
UPDATE docsync.document SET id = 'other' WHERE id = 'i1';
\echo :LAST_ERROR_SQLSTATE
UPDATE docsync.document SET collection = 'other' WHERE id = 'i1';
\echo :LAST_ERROR_SQLSTATE
UPDATE docsync.document SET id = NULL WHERE id = 'i1';
\echo :LAST_ERROR_SQLSTATE
UPDATE docsync.document SET client_version = 6, client_id = '' WHERE id = 'i1';
\echo :LAST_ERROR_SQLSTATE
UPDATE docsync.document SET client_version = 6, client_id = repeat('é', 100) || 'x' WHERE id = 'i1';
\echo :LAST_ERROR_SQLSTATE
INSERT INTO docsync.document (id, body) VALUES ('i1', '1') ON CONFLICT (collection, id) DO UPDATE SET body = NULL;
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
UPDATE docsync.document SET client_version = NULL WHERE id = 'i1';
\echo :LAST_ERROR_SQLSTATE
UPDATE docsync.document SET body = NULL WHERE id = 'i1';
\echo :LAST_ERROR_SQLSTATE
UPDATE docsync.document SET deleted = false WHERE id = 'u1';
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY default
-- A stamp and a fence that it brings are overwritten.
SELECT last_value AS clock FROM docsync.clock \gset
UPDATE docsync.document SET last_update_utc = '2001-01-01', fence = '3' WHERE id = 'i1';
UPDATE docsync.document SET last_update_utc = 'infinity' WHERE id = 'i2';
UPDATE docsync.document SET last_update_utc = NULL, fence = NULL, client_version = 33 WHERE id = 'i3';
:written
SELECT count(*) AS as_brought FROM docsync.document
 WHERE last_update_utc > clock_timestamp() OR fence < '4' OR last_update_utc < '2020-01-01';

-- DELETE leaves a tombstone, for every client; a second one does nothing.
SELECT last_value AS clock FROM docsync.clock \gset
DELETE FROM docsync.document WHERE id IN ('i2', 'u0') RETURNING id;
:written
SELECT last_value AS clock FROM docsync.clock \gset
DELETE FROM docsync.document WHERE id IN ('i2', 'u0', 'i4');
:written
SELECT last_value = :clock AS no_stamp FROM docsync.clock;
-- what was deleted is brought back by an UPDATE (and by an INSERT: revive.sql)
UPDATE docsync.document SET deleted = false, body = '"back"' WHERE id = 'i2';
:written
-- TRUNCATE would leave none
TRUNCATE docsync.document;
\echo :LAST_ERROR_SQLSTATE
TRUNCATE docsync.document CASCADE;
\echo :LAST_ERROR_SQLSTATE

-- ON CONFLICT by plain SQL
SELECT last_value AS clock FROM docsync.clock \gset
INSERT INTO docsync.document (id, body) VALUES ('i1', '"do nothing"') ON CONFLICT DO NOTHING;
INSERT INTO docsync.document (id, body) VALUES ('i2', '"do update"')
    ON CONFLICT (collection, id) DO UPDATE SET body = excluded.body;
INSERT INTO docsync.document (id, client_version, client_id, body) VALUES ('i3', 34, 'import', '"do update"')
    ON CONFLICT (collection, id) DO UPDATE
   SET client_version = excluded.client_version, client_id = excluded.client_id, body = excluded.body;
INSERT INTO docsync.document (id, client_version, client_id, body) VALUES ('i1', 17, 'import', '"where"')
    ON CONFLICT (collection, id) DO UPDATE SET body = excluded.body
 WHERE document.client_version < excluded.client_version;
:written

-- MERGE
SELECT last_value AS clock FROM docsync.clock \gset
MERGE INTO docsync.document AS d
USING (VALUES ('m1', 1), ('i1', 2), ('i3', 3)) AS s(id, n) ON d.collection = 'default' AND d.id = s.id
 WHEN NOT MATCHED THEN INSERT (id, body) VALUES (s.id, to_jsonb(s.n))
 WHEN MATCHED AND n = 3 THEN DELETE
 WHEN MATCHED THEN UPDATE SET body = to_jsonb(s.n);
:written

-- COPY
SELECT last_value AS clock FROM docsync.clock \gset
COPY docsync.document (id, client_version, body) FROM stdin;
c1	1	{"copied": true}
c2	2	[]
\.
:written
-- Many stamps, each once, in order
INSERT INTO docsync.document (collection, id, body)
	SELECT 'many', to_char(i, 'FM000000'), 'null' FROM generate_series(1, 1000) AS i;
SELECT count(DISTINCT last_update_utc), count(DISTINCT fence) AS fences,
       array_agg(id ORDER BY last_update_utc) = array_agg(id ORDER BY id) AS in_order
  FROM docsync.document WHERE collection = 'many';

-- A dump's rows: the owner may bring stamps, which are kept, and move the clock.
SELECT last_value AS clock FROM docsync.clock \gset
INSERT INTO docsync.document VALUES
	('dump', 'old', 1, 'tablet', '2001-02-03 04:05:06.789012+00', false, '1', '3');
SELECT last_value = :clock AS clock_unmoved FROM docsync.clock;
INSERT INTO docsync.document VALUES
	('dump', 'ahead', 1, 'tablet', '2101-02-03 04:05:06.789012+00', false, '1', '99999999');
SELECT to_timestamp(last_value / 1000000.0) = '2101-02-03 04:05:06.789012+00' AS clock_moved
  FROM docsync.clock;
COPY docsync.document FROM stdin;
dump	copied	1	tablet	2101-02-03 05:05:06.789012+00	f	1	4
\.
-- A fence that can't be this cluster's becomes one of its own.
SELECT id, last_update_utc AT TIME ZONE 'UTC' AS last_update_utc, fence IN ('3', '4') AS fence_as_brought,
       fence <= pg_snapshot_xmax(pg_current_snapshot()) AS fence_of_ours
  FROM docsync.document WHERE collection = 'dump' ORDER BY 2;
-- what comes later is later
SELECT last_update_utc AT TIME ZONE 'UTC' AS last_update_utc
  FROM docsync_upsert('tablet', '[{"id": "next", "clientVersion": 1, "body": 1}]', 'dump');
SELECT array_agg(id) FROM docsync_query_since('phone', collection => 'dump');
-- Not by halves, and nothing that isn't a time
INSERT INTO docsync.document (id, body, last_update_utc) VALUES ('half', '1', now());
\echo :LAST_ERROR_SQLSTATE
INSERT INTO docsync.document (id, body, fence) VALUES ('half', '1', '3');
\echo :LAST_ERROR_SQLSTATE
INSERT INTO docsync.document (id, body, last_update_utc, fence) VALUES ('never', '1', 'infinity', '3');
\echo :LAST_ERROR_SQLSTATE
INSERT INTO docsync.document (id, body, last_update_utc, fence) VALUES ('never', '1', '-infinity', '3');
\echo :LAST_ERROR_SQLSTATE
INSERT INTO docsync.document (id, body, last_update_utc, fence) VALUES ('never', '1', '294276-12-31 23:59:59.999999+00', '3');
\echo :LAST_ERROR_SQLSTATE
-- Others may not, even with the privilege to insert into every column.
CREATE ROLE regress_docsync_app;
SELECT docsync_grant('regress_docsync_app');
GRANT INSERT, UPDATE, DELETE ON docsync.document TO regress_docsync_app;
SET ROLE regress_docsync_app;
INSERT INTO docsync.document (id, body, last_update_utc, fence) VALUES ('mine', '1', now(), '3');
\echo :LAST_ERROR_SQLSTATE
INSERT INTO docsync.document (id, body, last_update_utc) VALUES ('mine', '1', now());
\echo :LAST_ERROR_SQLSTATE
INSERT INTO docsync.document (id, body, fence) VALUES ('mine', '1', '3');
\echo :LAST_ERROR_SQLSTATE
INSERT INTO docsync.document (id, body) VALUES ('mine', '1');
UPDATE docsync.document SET last_update_utc = '2001-01-01', fence = '3' WHERE id = 'mine';
DELETE FROM docsync.document WHERE id = 'c1';
SELECT id, client_id, deleted, last_update_utc > '2101-02-03 04:05:06.789012+00' AS stamped
  FROM docsync.document WHERE id IN ('mine', 'c1') ORDER BY id;
RESET ROLE;

-- The guard is for this table alone.
CREATE TABLE pg_temp.other (a int);
CREATE TRIGGER guard BEFORE INSERT ON pg_temp.other FOR EACH ROW EXECUTE FUNCTION docsync_guard();
INSERT INTO pg_temp.other VALUES (1);
\echo :LAST_ERROR_SQLSTATE
DROP TRIGGER guard ON pg_temp.other;
CREATE TRIGGER guard AFTER INSERT ON pg_temp.other FOR EACH ROW EXECUTE FUNCTION docsync_guard();
INSERT INTO pg_temp.other VALUES (1);
\echo :LAST_ERROR_SQLSTATE
CREATE TRIGGER guard BEFORE INSERT ON docsync.document FOR EACH STATEMENT EXECUTE FUNCTION docsync_guard();
INSERT INTO docsync.document (id, body) VALUES ('statement', '1');
\echo :LAST_ERROR_SQLSTATE
DROP TRIGGER guard ON docsync.document;
DROP TABLE pg_temp.other;
SELECT docsync_guard();
\echo :LAST_ERROR_SQLSTATE

SET client_min_messages = warning;
DROP SCHEMA docsync CASCADE;
DROP EXTENSION docsync;
DROP OWNED BY regress_docsync_app;
DROP ROLE regress_docsync_app;
