-- Download: which documents, in which order, how many.
\set SHOW_CONTEXT never
\pset null (null)
CREATE EXTENSION docsync;
SELECT docsync_create_store() \g /dev/null

SELECT id, outcome FROM docsync_upsert('tablet', '[
	{"id": "t1", "clientVersion": 1, "body": {"by": "tablet"}},
	{"id": "t2", "clientVersion": 1, "body": "second"}]');
SELECT id, outcome FROM docsync_upsert('phone', '[
	{"id": "p1", "clientVersion": 1, "body": null},
	{"id": "a1", "clientVersion": 1, "deleted": true}]');
SELECT id, outcome FROM docsync_upsert('tablet', '[{"id": "t3", "clientVersion": 1, "body": 3}]');
SELECT id, outcome FROM docsync_upsert('tablet', '[{"id": "far", "clientVersion": 1, "body": 1}]', 'elsewhere');
SELECT last_update_utc AS t1 FROM docsync.document WHERE id = 't1' \gset
SELECT last_update_utc AS t2 FROM docsync.document WHERE id = 't2' \gset
SELECT last_update_utc AS t3 FROM docsync.document WHERE id = 't3' \gset
SELECT last_update_utc AS p1 FROM docsync.document WHERE id = 'p1' \gset

-- Defaults: other clients' documents of collection "default", from the beginning
SELECT id, client_version, client_id, deleted, body FROM docsync_query_since('phone');
SELECT id, client_version, client_id, deleted, body FROM docsync_query_since('tablet');
SELECT id, client_version, client_id, deleted, body FROM docsync_query_since('watch');
-- with the stamps they are stored with
SELECT q.id FROM docsync_query_since('watch') AS q
  JOIN docsync.document AS d ON d.id = q.id AND d.last_update_utc = q.last_update_utc;
-- No document twice, and the same order every time: that of the stamps.
SELECT array_agg(id) FROM docsync_query_since('watch');
SELECT id, outcome FROM docsync_upsert('tablet', '[{"id": "t1", "clientVersion": 2, "body": {"by": "tablet", "edit": 1}}]');
SELECT array_agg(id) FROM docsync_query_since('watch');
SELECT last_update_utc AS t1 FROM docsync.document WHERE id = 't1' \gset

-- Origins.  Who edited last counts.
SELECT array_agg(id) FROM docsync_query_since('phone', origin => 'other');
SELECT array_agg(id) FROM docsync_query_since('phone', origin => 'own');
SELECT array_agg(id) FROM docsync_query_since('phone', origin => 'any');
SELECT array_agg(id) FROM docsync_query_since('nobody', origin => 'own');
SELECT array_agg(id) FROM docsync_query_since(NULL, origin => 'any');
SELECT array_agg(id) FROM docsync_query_since(client_id => 'watch', since_utc => '-infinity',
	origin => 'other', collection => 'elsewhere', max_documents => NULL);
SELECT array_agg(id) FROM docsync_query_since('watch', collection => 'nowhere');
-- Names are compared byte by byte.
SELECT array_agg(id) FROM docsync_query_since('Phone', origin => 'own');
SELECT array_agg(id) FROM docsync_query_since('phone ', origin => 'own');
SELECT array_agg(id) FROM docsync_query_since('phone', collection => 'Default');

-- since_utc: from there on, itself included
SELECT array_agg(id) FROM docsync_query_since('watch', :'p1');
SELECT array_agg(id) FROM docsync_query_since('watch', :'p1'::timestamptz + interval '1 us');
SELECT array_agg(id) FROM docsync_query_since('watch', :'p1'::timestamptz - interval '1 us');
SELECT array_agg(id) FROM docsync_query_since('watch', :'t1');
SELECT array_agg(id) FROM docsync_query_since('watch', NULL);
SELECT array_agg(id) FROM docsync_query_since('watch', '-infinity');
SELECT array_agg(id) FROM docsync_query_since('watch', '2000-01-01 BC');
SELECT array_agg(id) FROM docsync_query_since('watch',
	(SELECT 'epoch'::timestamptz + last_value * interval '1 us' FROM docsync.clock));
-- whatever the time zone and the style it is written in
SET TIME ZONE 'Asia/Kathmandu';
SET DateStyle = 'German, DMY';
SELECT array_agg(id) FROM docsync_query_since('watch', :'t3');
SELECT array_agg(id) FROM docsync_query_since('watch', (:'t3'::timestamptz AT TIME ZONE 'UTC')::text::timestamp AT TIME ZONE 'UTC');
RESET TIME ZONE;
RESET DateStyle;

-- max_documents = n: the document at since_utc and up to n later ones
SELECT array_agg(id) FROM docsync_query_since('watch', max_documents => 0);
SELECT array_agg(id) FROM docsync_query_since('watch', max_documents => 1);
SELECT array_agg(id) FROM docsync_query_since('watch', max_documents => 2);
SELECT array_agg(id) FROM docsync_query_since('watch', max_documents => 2147483647);
SELECT array_agg(id) FROM docsync_query_since('watch', max_documents => NULL);
SELECT array_agg(id) FROM docsync_query_since('watch', :'t2', max_documents => 0);
SELECT array_agg(id) FROM docsync_query_since('watch', :'t2', max_documents => 1);
SELECT array_agg(id) FROM docsync_query_since('watch', :'t2', max_documents => 2);
-- the one at since_utc isn't counted, nor missed where it is another's
SELECT array_agg(id) FROM docsync_query_since('tablet', :'t2', max_documents => 1);
SELECT array_agg(id) FROM docsync_query_since('watch', :'t2'::timestamptz + interval '1 us', max_documents => 1);
SELECT array_agg(id) FROM docsync_query_since('watch', :'t1', max_documents => 5);
SELECT array_agg(id) FROM docsync_query_since('watch', :'t1', max_documents => 0);

-- Page by page to the end, as a client does
CREATE FUNCTION pg_temp.pages(client_id text, origin text, max_documents int,
	OUT page int, OUT ids text)
	RETURNS SETOF record
	LANGUAGE plpgsql
AS $$
DECLARE
	cursor timestamptz := '-infinity';
	last timestamptz;
BEGIN
	page := 0;
	LOOP
		SELECT string_agg(q.id, ' '), max(q.last_update_utc)
		  INTO ids, last
		  FROM docsync_query_since($1, cursor, $2, max_documents => $3) AS q;
		EXIT WHEN last IS NULL;
		page := page + 1;
		RETURN NEXT;
		EXIT WHEN last = cursor OR page > 9;
		cursor := last;
	END LOOP;
END
$$;
SELECT * FROM pg_temp.pages('watch', 'other', 1);
SELECT * FROM pg_temp.pages('watch', 'other', 2);
SELECT * FROM pg_temp.pages('watch', 'other', 100);
SELECT * FROM pg_temp.pages('phone', 'other', 1);
SELECT * FROM pg_temp.pages('phone', 'own', 1);
SELECT * FROM pg_temp.pages(NULL, 'any', 3);

-- An own transaction's documents are there at once, and with the statement's snapshot.
BEGIN;
SELECT id, outcome FROM docsync_upsert('tablet', '[{"id": "new", "clientVersion": 1, "body": 1}]');
SELECT array_agg(id) FROM docsync_query_since('watch', :'t1');
ROLLBACK;
SELECT array_agg(id) FROM docsync_query_since('watch', :'t1');

-- In a read-only transaction, whatever the isolation level
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;
SELECT array_agg(id) FROM docsync_query_since('watch');
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT array_agg(id) FROM docsync_query_since('watch');
COMMIT;
-- Inside other queries
SELECT id, client_id FROM docsync_query_since('watch') WHERE deleted OR body = 'null';
SELECT (docsync_query_since('phone', max_documents => 1)).id;
SELECT c.name, array_agg(q.id)
  FROM (VALUES ('default'), ('elsewhere')) AS c(name), docsync_query_since('watch', collection => c.name) AS q
 GROUP BY 1 ORDER BY 1;
SELECT id FROM docsync_query_since('watch') LIMIT 1;
SELECT DISTINCT pg_typeof(q) FROM docsync_query_since('watch') AS q;
DECLARE documents CURSOR WITH HOLD FOR SELECT id FROM docsync_query_since('watch');
FETCH 2 FROM documents;
DELETE FROM docsync.document WHERE id = 'p1';
FETCH ALL FROM documents;
CLOSE documents;

-- A poll takes fewer than the 16 locks that a backend has room for without asking
-- the others, also of a document that is stored out of line.
SELECT count(*) FROM docsync_upsert('phone', (SELECT jsonb_build_array(jsonb_build_object('id', 'large', 'clientVersion', 1, 'body', string_agg(md5(i::text), '')))
												FROM generate_series(1, 1000) AS i), 'locks');
BEGIN;
SELECT docsync_pull('laptop', collection => 'locks') IS NOT NULL AS pulled, docsync_sync('laptop', collection => 'locks', state => 'true') IS NOT NULL AS synchronized \g /dev/null
SELECT count(*) < 16 AS few, bool_and(fastpath) AS all_fast FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation' AND relation <> 'pg_locks'::regclass;
COMMIT;

SET client_min_messages = warning;
DROP SCHEMA docsync CASCADE;
DROP EXTENSION docsync;
