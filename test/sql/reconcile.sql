-- Comparing: which clients are told to, digests, the list, documents by id; for
-- what a cursor is valid.
\set SHOW_CONTEXT never
\pset null (null)
\pset format unaligned
\pset tuples_only on
CREATE EXTENSION docsync;
SELECT docsync_create_store() \g /dev/null
-- The epoch begins with the first call that may write.  Here it has an id that is known, and
-- there were documents before.
SELECT docsync_sync('tablet', collection => 'nowhere') \g /dev/null
UPDATE docsync.history SET epoch = x'5f3a9c0d1e2b4a77'::bigint, survived = '2000-01-01 00:00:00+00', clock = '2000-01-01 00:01:00+00';

-- Times of today, which the rest hasn't, as NOW; in a cursor the place in WAL as WAL
CREATE FUNCTION pg_temp.mask(answer text) RETURNS text
	LANGUAGE sql
AS $$
	SELECT regexp_replace(regexp_replace(regexp_replace($1, '"20[2-9]\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"', '"NOW"', 'g'),
		'\.[1-9]\d{15}(?=[".]|$)', '.NOW', 'g'), '(\m[0-9a-f]{16}\.\w+\.\w+)\.[0-9a-f]+(?=\.[0-9a-f]{8}\M)', '\1.WAL', 'g')
$$;
-- What a command returns, or how it is refused: SQLSTATE, message, detail, hint
CREATE FUNCTION pg_temp.try(command text) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	answer text;
	detail text;
	hint text;
BEGIN
	EXECUTE command INTO answer;
	RETURN pg_temp.mask(answer);
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN pg_temp.mask(concat_ws(' / ', SQLSTATE, SQLERRM, nullif(detail, ''), nullif(hint, '')));
END
$$;
-- The same over HTTP
CREATE FUNCTION pg_temp.request(command text, headers text DEFAULT NULL, claims text DEFAULT NULL, method text DEFAULT 'POST') RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	answer text;
BEGIN
	PERFORM set_config('request.method', method, true), set_config('request.headers', coalesce(headers, ''), true), set_config('request.jwt.claims', coalesce(claims, ''), true);
	answer := pg_temp.try(command);
	PERFORM set_config('request.method', '', true), set_config('request.headers', '', true), set_config('request.jwt.claims', '', true);
	RETURN answer;
END
$$;
CREATE FUNCTION pg_temp.ids(documents json) RETURNS text
	LANGUAGE sql
AS $$
	SELECT coalesce(string_agg(d ->> 'id', ' ' ORDER BY n), '') FROM json_array_elements($1) WITH ORDINALITY AS e(d, n)
$$;
-- short: an answer's ids, cursor, and what else there is but times
CREATE FUNCTION pg_temp.bytes(body jsonb) RETURNS bytea
	LANGUAGE sql
AS $$
	SELECT convert_to($1::text, 'UTF8')
$$;
CREATE FUNCTION pg_temp.short(answer json) RETURNS text
	LANGUAGE sql
AS $$
	SELECT concat_ws(' ', '[' || pg_temp.ids(coalesce($1 -> 'documents', $1 -> 'rows')) || ']', pg_temp.mask($1 ->> 'cursor'),
		(SELECT string_agg(key || ': ' || CASE key WHEN 'state' THEN CASE WHEN value ->> 'digest' ~ '^[0-9a-f]{16}$' THEN 'digest' ELSE 'null' END || CASE WHEN value -> 'sums' IS NULL THEN '' ELSE ' and sums' END ELSE value::text END, ', ' ORDER BY n)
		   FROM json_each($1) WITH ORDINALITY AS e(key, value, n) WHERE key NOT IN ('documents', 'rows', 'cursor', 'received', 'results', 'serverUtc')))
$$;

-- Documents with stamps that are known: of tablet and phone, "-" is a tombstone
INSERT INTO docsync.document (collection, id, client_version, client_id, last_update_utc, deleted, body, fence)
	SELECT 'page', left(name, 2), 1, CASE WHEN name ~ 't' THEN 'tablet' ELSE 'phone' END, '2001-01-01 00:00:00+00'::timestamptz + substr(name, 2, 1)::int * interval '1 s', name ~ '-', CASE WHEN name !~ '-' THEN '1'::jsonb END, '3'::xid8
	  FROM unnest('{t1,p2,t3-,p4-,t5,p6}'::text[]) AS name;

--
-- Cursors: for one collection, client and origin
--
CREATE TABLE pg_temp.cursor AS
	SELECT client_id, collection, origin, docsync_pull(client_id, NULL, collection, origin, 1) ->> 'cursor' AS cursor
	  FROM unnest('{tablet,phone,NULL}'::text[]) AS client_id, unnest('{page,nowhere}'::text[]) AS collection, unnest('{other,own,any}'::text[]) AS origin WHERE client_id IS NOT NULL OR origin = 'any';
SELECT count(*), count(DISTINCT substring(cursor FROM '[^.]*$')) AS bindings FROM pg_temp.cursor;
SELECT pg_temp.mask(cursor) FROM pg_temp.cursor ORDER BY collection DESC, client_id, origin LIMIT 3;
-- for itself it is good, for any other it is not
SELECT * FROM (
SELECT a.client_id = b.client_id AND a.collection = b.collection AND a.origin = b.origin AS same, left(pg_temp.try(format('SELECT docsync_pull(%L, %L, %L, %L)', a.client_id, b.cursor, a.collection, a.origin)), 83) AS answer, count(*)
  FROM pg_temp.cursor AS a, pg_temp.cursor AS b WHERE a.client_id IS NOT NULL AND b.client_id IS NOT NULL GROUP BY 1, 2) AS answers ORDER BY same, answer COLLATE "C";
SELECT pg_temp.try(format('SELECT docsync_pull(%L, %L, %L, %L)', client_id, cursor, collection, origin)) FROM pg_temp.cursor WHERE client_id IS NULL AND collection = 'page';
SELECT pg_temp.try(format('SELECT docsync_pull(%L, %L, %L)', 'phone', cursor, collection)) FROM pg_temp.cursor WHERE client_id IS NULL AND collection = 'page';
-- by each call, and nothing is stored
SELECT cursor FROM pg_temp.cursor WHERE (client_id, collection, origin) = ('tablet', 'page', 'other') \gset
SELECT pg_temp.try(format(command, :'cursor')) FROM unnest(ARRAY[$$SELECT docsync_sync('phone', '[{"id": "no", "clientVersion": 1, "body": 1}]', %L, 'page')$$, $$SELECT docsync_pull('tablet', %L, 'Page')$$,
	$$SELECT docsync_docs_sync('{"clientId": "phone", "collection": "page", "cursor": "%s"}')$$, $$SELECT docsync_docs_sync('{"clientId": "tablet", "cursor": "%s"}')$$,
	$$SELECT docsync_docs_reconcile('{"clientId": "phone", "collection": "page", "cursor": "%s"}')$$, $$SELECT docsync_docs_get('{"clientId": "tablet", "collection": "page", "origin": "own", "cursor": "%s", "ids": []}')$$]) AS command;
SELECT count(*) FROM docsync.document WHERE id = 'no';
SELECT pg_temp.request($$SELECT docsync_pull('phone', '$$ || :'cursor' || $$', 'page')$$);
-- 0.1's are for any, once: the next is bound.
SELECT pg_temp.short(docsync_pull('tablet', '5f3a9c0d1e2b4a77.978307201000000', 'page', "maxDocuments" => 1)), pg_temp.short(docsync_pull('phone', '5f3a9c0d1e2b4a77.978307201000000', 'page', "maxDocuments" => 1)),
	pg_temp.short(docsync_pull('phone', '5f3a9c0d1e2b4a77.978307201000000', 'page', 'any', 1));
-- What isn't a cursor
SELECT c, left(pg_temp.try(format('SELECT docsync_pull(cursor => %L)', c)), 31) FROM unnest(ARRAY['5f3a9c0d1e2b4a77.1.', '5f3a9c0d1e2b4a77.1.2', '5f3a9c0d1e2b4a77.1.2.3', '5f3a9c0d1e2b4a77.1.2.3.', '5f3a9c0d1e2b4a77.1.2.3.4.', '5f3a9c0d1e2b4a77.1.2.3.4.5',
	'5f3a9c0d1e2b4a77.1.2.3.g', '5f3a9c0d1e2b4a77.1.2.g.4', '5f3a9c0d1e2b4a77.1.2.3.100000000', '5f3a9c0d1e2b4a77.1.2.3.-1', '5f3a9c0d1e2b4a77.1.-2.3.4', '5f3a9c0d1e2b4a77.1.2.-3.4', '5f3a9c0d1e2b4a77.1.2.ffffffffffffffff.4',
	'5f3a9c0d1e2b4a77.1.9223372036854775808.3.4', '5f3a9c0d1e2b4a77..2.3.4', '5f3a9c0d1e2b4a77.1..3.4', '5f3a9c0d1e2b4a77.1.2.3.4 ', '5f3a9c0d1e2b4a77.1. 2.3.4', '5f3a9c0d1e2b4a77.1.2.0x3.4']) AS c;
-- this is one, but of another
SELECT left(pg_temp.try(format('SELECT docsync_pull(cursor => %L)', '5f3a9c0d1e2b4a77.1.2.3.4')), 56);
-- As long as the client gets no further it is the same text, whatever else happens.
SELECT docsync_pull('tablet', NULL, 'page') ->> 'cursor' AS cursor \gset
INSERT INTO docsync.document (collection, id, body) VALUES ('elsewhere', 'x', '1');
SELECT docsync_pull('tablet', :'cursor', 'page') ->> 'cursor' = :'cursor' AS same, docsync_sync('tablet', '[]', :'cursor', 'page') ->> 'cursor' = :'cursor' AS same;
-- Its own upload is a step further.
SELECT s ->> 'cursor' <> :'cursor' AS further, pg_temp.short(s) FROM docsync_sync('tablet', '[{"id": "own", "clientVersion": 1, "body": 1}]', :'cursor', 'page') AS s;

--
-- Told to compare: a position of another history
--
SELECT pg_temp.short(docsync_pull('tablet', c, 'page', reconcile => true)) FROM unnest('{0000000000000001.978307204000000,ffffffffffffffff.978307204500000,0000000000000001.1,0000000000000001.7000000000000000}'::text[]) AS c;
-- from where it was, if that is a document's, else from the one before; and then not again
SELECT pg_temp.short(p), pg_temp.short(docsync_pull('tablet', p ->> 'cursor', 'page', reconcile => true)) FROM docsync_pull('tablet', '0000000000000001.978307204500000', 'page', "maxDocuments" => 1, reconcile => true) AS p;
-- of one that is ahead of the clock
SELECT pg_temp.short(docsync_pull('tablet', '5f3a9c0d1e2b4a77.7000000000000000', 'page', reconcile => true));
-- Each call says it, and takes what was sent.
SELECT pg_temp.short(docsync_sync('tablet', '[]', '0000000000000001.978307204000000', 'page', reconcile => true));
SELECT s -> 'received', pg_temp.short(s) FROM docsync_sync('tablet', '[{"id": "own", "clientVersion": 2, "body": 1}]', '0000000000000001.978307204000000', 'page', reconcile => true) AS s;
SELECT pg_temp.short(docsync_docs_sync('{"clientId": "tablet", "collection": "page", "cursor": "0000000000000001.978307204000000", "reconcile": true, "maxDocuments": 1}'));
SELECT pg_temp.request($$SELECT pg_temp.short(docsync_docs_sync('{"clientId": "tablet", "collection": "page", "cursor": "0000000000000001.978307204000000", "reconcile": true, "maxDocuments": 1}'))$$);
-- Who can't is refused: 410.
SELECT pg_temp.try(format('SELECT docsync_pull(%L, %L, %L, reconcile => %L)', 'tablet', '0000000000000001.978307204000000', 'page', r)) FROM unnest('{false,NULL}'::bool[]) AS r;
SELECT pg_temp.request($$SELECT docsync_docs_sync('{"clientId": "tablet", "collection": "page", "cursor": "0000000000000001.978307204000000", "reconcile": false}')$$);
SELECT pg_temp.request($$SELECT docsync_docs_sync('{"clientId": "tablet", "collection": "page", "cursor": "0000000000000001.978307204000000"}')$$);
-- Who begins is never told; who has passed no document may have sent some.
SELECT pg_temp.short(docsync_pull('tablet', c, 'page', reconcile => true)) FROM unnest('{NULL,0000000000000001.0}'::text[]) AS c;
-- How much can be lost: the history says, from the position's epoch on.
SELECT docsync_new_epoch() \g /dev/null
SELECT docsync_new_epoch() \g /dev/null
UPDATE docsync.history SET epoch = CASE number WHEN 1 THEN epoch ELSE number END, lost_after = CASE number WHEN 2 THEN '2001-01-01 00:00:03+00'::timestamptz WHEN 3 THEN '2001-01-01 00:00:05+00' END WHERE number > 1;
SELECT pg_temp.short(docsync_pull('tablet', c, 'page', reconcile => true)) FROM unnest('{5f3a9c0d1e2b4a77.978307204000000,0000000000000002.978307204000000,0000000000000003.978307204000000,0000000000000004.978307204000000}'::text[]) AS c;
UPDATE docsync.history SET lost_after = '2001-01-01 00:00:07+00'::timestamptz WHERE number = 2;
SELECT pg_temp.short(docsync_pull('tablet', '5f3a9c0d1e2b4a77.978307204000000', 'page', reconcile => true));
-- Nothing, where it was handed over: the position goes on.
UPDATE docsync.history SET lost_after = 'infinity' WHERE number > 1;
SELECT pg_temp.short(docsync_pull('tablet', '5f3a9c0d1e2b4a77.978307204000000', 'page', reconcile => true));
-- In a gap: what was issued after what has survived is of a history that is lost, but for stamps that a document bears.
UPDATE docsync.history SET survived = '2001-01-01 00:00:04+00', clock = '2001-01-01 00:00:05.5+00', lost_after = '2001-01-01 00:00:02+00' WHERE number = 3;
SELECT c, pg_temp.try(format('SELECT pg_temp.short(docsync_pull(%L, %L, %L, reconcile => true))', 'watch', c, 'page')), left(pg_temp.try(format('SELECT pg_temp.short(docsync_pull(%L, %L, %L))', 'watch', c, 'page')), 40)
  FROM unnest('{0000000000000003.978307204000000,0000000000000003.978307204000001,0000000000000003.978307205000000,0000000000000003.978307205500000,0000000000000003.978307205500001}'::text[]) AS c;
-- by bare stamps, too
SELECT since, left(pg_temp.try(format($$SELECT pg_temp.ids(docsync_docs_query('any', %L, collection => 'page'))$$, since)), 50)
  FROM unnest('{2001-01-01T00:00:04Z,2001-01-01T00:00:04.000001Z,2001-01-01T00:00:05Z,2001-01-01T00:00:05.000001Z,2001-01-01T00:00:05.5Z,2001-01-01T00:00:05.500001Z}'::text[]) AS since;
SELECT left(pg_temp.try($$SELECT pg_temp.ids(docsync_docs_query('any', '2001-01-01T00:00:04.5Z', collection => 'nowhere'))$$), 50);
-- A server that isn't the one of the newest row lags: nobody has begun its epoch yet.
UPDATE docsync.history SET timeline = 99 WHERE number = 3;
SELECT c, pg_temp.short(docsync_pull('watch', c, 'page', "maxDocuments" => 1, state => 'true')) FROM unnest('{0000000000000003.978307204000000,0000000000000003.7000000000000000}'::text[]) AS c;
SELECT docsync_pull('watch', '0000000000000003.7000000000000000', 'page')::jsonb - 'serverUtc';
SELECT docsync_docs_reconcile('{"clientId": "watch", "collection": "page", "cursor": "0000000000000003.7000000000000000", "after": "p2"}')::jsonb - 'serverUtc';
SELECT docsync_docs_get('{"clientId": "watch", "collection": "page", "cursor": "0000000000000003.7000000000000000", "ids": ["t1"]}')::jsonb - 'serverUtc';
SELECT docsync_docs_query('any', '2262-01-01T00:00:00Z', collection => 'page');
\echo :LAST_ERROR_SQLSTATE
-- Who uploads begins it. (A session looks again where the store's catalogs have changed, as a new one does.)
ALTER TABLE docsync.purged SET (fillfactor = 100);
SELECT outcome FROM docsync_upsert('tablet', '[{"id": "own", "clientVersion": 3, "body": 1}]', 'page');
SELECT number, timeline, survived = '2001-01-01 00:00:04+00' AS was FROM docsync.history ORDER BY number;
DELETE FROM docsync.history WHERE number > 1;

--
-- Told to compare: tombstones that were purged
--
INSERT INTO docsync.document (collection, id, client_version, client_id, last_update_utc, deleted, body, fence)
	SELECT 'purge', left(name, 2), 1, CASE WHEN name ~ 't' THEN 'tablet' ELSE 'phone' END, '2001-01-01 00:00:00+00'::timestamptz + substr(name, 2, 1)::int * interval '1 s', name ~ '-', CASE WHEN name !~ '-' THEN '1'::jsonb END, '3'::xid8
	  FROM unnest('{t1,p2-,t3-,p4,t5-,p6-,p7,p8}'::text[]) AS name;
-- Who has the first page of several, and the one who has all
SELECT docsync_pull('tablet', NULL, 'purge', "maxDocuments" => 1) ->> 'cursor' AS first, docsync_pull('tablet', NULL, 'purge') ->> 'cursor' AS last \gset
SELECT pg_temp.short(docsync_pull('tablet', NULL, 'purge', "maxDocuments" => 1));
SELECT id FROM docsync.document WHERE collection = 'purge' AND deleted ORDER BY last_update_utc;
CALL docsync_purge('1 day', 'purge', NULL);
SELECT id FROM docsync.document WHERE collection = 'purge' AND deleted ORDER BY last_update_utc;
SELECT client_id, extract(epoch FROM last_update_utc), extract(epoch FROM others_utc) FROM docsync.purged WHERE collection = 'purge';
-- A first page needs no tombstones, and what is seen there is enough for the next ones.
SELECT pg_temp.short(docsync_pull('tablet', :'first', 'purge', "maxDocuments" => 1));
SELECT pg_temp.short(docsync_pull('tablet', :'last', 'purge'));
-- 0.1's cursor doesn't say what it has seen: told at a stamp below the horizon, its own client's tombstones included.
SELECT c, pg_temp.short(docsync_pull('tablet', '5f3a9c0d1e2b4a77.97830720' || c, 'purge', reconcile => true, "maxDocuments" => 1)), left(pg_temp.try(format('SELECT pg_temp.short(docsync_pull(%L, %L, %L))', 'tablet', '5f3a9c0d1e2b4a77.97830720' || c, 'purge')), 50)
  FROM unnest('{1000000,2000000,2999999,3000000,4000000}'::text[]) AS c;
-- once
SELECT pg_temp.short(docsync_pull('tablet', p ->> 'cursor', 'purge', reconcile => true, "maxDocuments" => 1)) FROM docsync_pull('tablet', '5f3a9c0d1e2b4a77.978307201000000', 'purge', reconcile => true, "maxDocuments" => 1) AS p;
SELECT pg_temp.try($$SELECT docsync_pull('tablet', '5f3a9c0d1e2b4a77.978307201000000', 'purge')$$);
SELECT pg_temp.request($$SELECT docsync_pull('tablet', '5f3a9c0d1e2b4a77.978307201000000', 'purge')$$, method => 'GET');
-- By bare stamps: the horizon of others, for who asks for others'
SELECT since, left(pg_temp.try(format($$SELECT pg_temp.ids(docsync_docs_query(%L, %L, %L, 'purge'))$$, origin, '2001-01-01T00:00:0' || since, client_id)), 40), origin, client_id
  FROM unnest('{1Z,2Z,3Z,3.5Z}'::text[]) AS since, (VALUES ('other', 'tablet'), ('other', 'phone'), ('own', 'tablet'), ('any', NULL)) AS v(origin, client_id);
-- where nothing later is to be given nobody is told
SELECT pg_temp.ids(docsync_docs_query('own', '2001-01-01T00:00:01Z', 'watch', 'purge'));
-- In pages, from the beginning: by a cursor
SELECT pg_temp.try($$SELECT docsync_docs_query('any', NULL, collection => 'purge', "maxDocuments" => 1)$$);
SELECT pg_temp.request($$SELECT docsync_docs_query('any', NULL, collection => 'purge', "maxDocuments" => 1)$$);
SELECT pg_temp.try($$SELECT docsync_query_since(NULL, origin => 'any', collection => 'purge', max_documents => 1)$$);
-- unless the first page is past the horizon, or there is but one
SELECT pg_temp.ids(docsync_docs_query('any', NULL, collection => 'purge', "maxDocuments" => 2)), pg_temp.ids(docsync_docs_query('any', NULL, collection => 'purge'));
SELECT pg_temp.ids(docsync_docs_query('any', '2001-01-01T00:00:04Z', collection => 'purge', "maxDocuments" => 1));

--
-- tombstones: false
--
-- A first download can do without those that were there when it began.
SELECT pg_temp.short(docsync_pull('watch', NULL, 'page', tombstones => t)) FROM unnest('{true,false,NULL}'::bool[]) AS t;
SELECT p ->> 'cursor' AS cursor FROM docsync_pull('watch', NULL, 'page', tombstones => false, "maxDocuments" => 2) AS p \gset
SELECT docsync_upsert('phone', '[{"id": "p2", "clientVersion": 2, "deleted": true}, {"id": "p9", "clientVersion": 2, "deleted": true}]', 'page') \g /dev/null
SELECT pg_temp.short(docsync_pull('watch', :'cursor', 'page', tombstones => false));
SELECT pg_temp.short(docsync_pull('watch', :'cursor', 'page', tombstones => true));
SELECT pg_temp.short(docsync_sync('watch', '[]', NULL, 'page', tombstones => false)), pg_temp.short(docsync_docs_sync('{"clientId": "watch", "collection": "page", "tombstones": false}'));
-- A later one can't.
SELECT pg_temp.short(docsync_pull('watch', '5f3a9c0d1e2b4a77.978307202000000', 'page', tombstones => false));

--
-- state
--
SELECT pg_temp.short(docsync_pull('watch', NULL, 'page', state => s)) FROM unnest('{NULL,false,true}'::text[]) AS s;
-- with the page that reaches the end, and by each call
SELECT pg_temp.short(docsync_pull('watch', NULL, 'page', "maxDocuments" => 2, state => 'true'));
SELECT pg_temp.short(docsync_sync('watch', '[]', NULL, 'page', state => 'true'));
SELECT pg_temp.short(docsync_docs_sync(pg_temp.bytes(jsonb_build_object('clientId', 'watch', 'collection', 'page', 'state', s)))) FROM unnest('{true,false,null,"true"}'::jsonb[]) AS s;
SELECT pg_temp.try(format('SELECT docsync_docs_sync(%L)', jsonb_build_object('clientId', 'watch', 'collection', 'page', 'state', s))) FROM unnest(ARRAY['1', '[]', '{}', '""', '"x"']::jsonb[]) AS s;
SELECT pg_temp.try(format('SELECT docsync_pull(state => %L)', s)) FROM unnest(ARRAY['', 'TRUE', '0', '0123456789abcde', '0123456789abcdef0', '0123456789ABCDEF', '0123456789abcdeg', '0123456789abcdefg', '0123456789abcdef ', repeat('0', 1000)]) AS s;
-- It is that of the live documents of all clients, whatever the origin.
SELECT count(*), count(DISTINCT state::text), min((state ->> 'count')::int), (SELECT count(*) FROM docsync.document WHERE collection = 'page' AND NOT deleted)
  FROM (SELECT docsync_pull('tablet', NULL, 'page', origin, state => 'true') -> 'state' AS state FROM unnest('{other,own,any}'::text[]) AS origin) AS s;
SELECT docsync_pull(collection => 'nowhere', state => 'true') -> 'state' ->> 'digest', json_array_length(docsync_pull(collection => 'nowhere', state => 'true') -> 'state' -> 'sums');
-- A client that has the same is given no sums.
SELECT docsync_pull('tablet', NULL, 'page', state => 'true') -> 'state' ->> 'digest' AS digest \gset
SELECT docsync_pull('tablet', NULL, 'page', state => :'digest') ->> 'state' = format('{"count":%s,"digest":"%s"}', 4, :'digest') AS same, docsync_pull('tablet', NULL, 'page', state => '0000000000000000') -> 'state' -> 'sums' IS NOT NULL AS other;
-- It changes with each document.
SELECT docsync_upsert('phone', '[{"id": "p6", "clientVersion": 2, "body": 1}]', 'page') \g /dev/null
SELECT docsync_pull('tablet', NULL, 'page', state => 'true') -> 'state' ->> 'digest' <> :'digest' AS changed;
DELETE FROM docsync.document WHERE collection = 'page' AND id = 'p6';
SELECT docsync_pull('tablet', NULL, 'page', state => 'true') -> 'state' ->> 'count';
-- A transaction's own documents count, as long as there is that transaction.
BEGIN;
SELECT s ->> 'cursor' AS cursor, s -> 'state' ->> 'count' AS count FROM docsync_sync('tablet', '[{"id": "back", "clientVersion": 1, "body": 1}]', NULL, 'page', state => 'true') AS s \gset
ROLLBACK;
SELECT :count AS in_it, docsync_pull('tablet', :'cursor', 'page', 'other', state => 'true') -> 'state' ->> 'count' AS after_it;
-- Each sees what he may see, whoever has asked in this session before.
CREATE ROLE regress_docsync_some;
CREATE ROLE regress_docsync_none;
SELECT docsync_grant('regress_docsync_some'), docsync_grant('regress_docsync_none') \g /dev/null
ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON docsync.document TO regress_docsync_some USING (id ~ '^t');
SELECT docsync_pull('watch', NULL, 'page', state => 'true') -> 'state' ->> 'count';
SET ROLE regress_docsync_some;
SELECT docsync_pull('watch', NULL, 'page', state => 'true') -> 'state' ->> 'count';
SET ROLE regress_docsync_none;
SELECT docsync_pull('watch', NULL, 'page', state => 'true') -> 'state' ->> 'count';
RESET ROLE;
SELECT docsync_pull('watch', NULL, 'page', state => 'true') -> 'state' ->> 'count';
-- None while something visible isn't settled: it lies beyond the page.
CREATE EXTENSION dblink;
SELECT dblink_connect('other', format('host=%s port=%s dbname=%s user=%s', split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database(), current_user));
SELECT dblink_exec('other', 'BEGIN');
SELECT dblink_exec('other', $$INSERT INTO docsync.document (collection, id, body) VALUES ('page', 'late', '1')$$);
SELECT pg_temp.short(docsync_pull('watch', NULL, 'page', state => 'true')) ~ 'state: digest and sums$' AS nothing_beyond;
SELECT docsync_upsert('phone', '[{"id": "visible", "clientVersion": 1, "body": 1}]', 'page') \g /dev/null
SELECT pg_temp.short(docsync_pull('watch', NULL, 'page', state => 'true'));

--
-- The list
--
-- It has all that is visible, settled or not.
SELECT docsync_docs_reconcile('{"collection": "purge"}')::jsonb - 'serverUtc';
SELECT pg_temp.short(docsync_docs_reconcile('{"clientId": "watch", "collection": "page"}'));
SELECT abs(date_part('epoch', (docsync_docs_reconcile('{}') ->> 'serverUtc')::timestamptz - clock_timestamp())) < 60 AS near_now;
-- documents by id, too
SELECT pg_temp.short(docsync_docs_get('{"clientId": "watch", "collection": "page", "ids": ["visible", "late"]}'));
SELECT dblink_exec('other', 'COMMIT');
SELECT pg_temp.short(docsync_docs_reconcile('{"clientId": "watch", "collection": "page"}'));
SELECT dblink_disconnect('other');
-- Pages: so many looked at, from after on, in the order of bytes
INSERT INTO docsync.document (collection, id, body) SELECT 'list', id, '1' FROM unnest('{b,B,a,ab,"a b",é,z,10,9,"",👍,"a\"b","~"}'::text[]) AS id WHERE id <> '';
SELECT pg_temp.short(docsync_docs_reconcile('{"collection": "list"}'));
SELECT n, pg_temp.short(docsync_docs_reconcile(pg_temp.bytes(jsonb_build_object('collection', 'list', 'maxDocuments', n)))) FROM unnest('{1,5,11,12,13,2147483647}'::int[]) AS n;
SELECT a, pg_temp.short(docsync_docs_reconcile(pg_temp.bytes(jsonb_build_object('collection', 'list', 'after', a, 'maxDocuments', 2)))) FROM unnest('{"",a,aa,"a\"b",z,~,é,👍,NULL}'::text[]) AS a;
SELECT pg_temp.short(docsync_docs_reconcile(pg_temp.bytes(jsonb_build_object('collection', 'list', 'after', repeat('x', 10000)))));
-- to the end
WITH RECURSIVE page(n, answer) AS (
	SELECT 1, docsync_docs_reconcile('{"collection": "list", "maxDocuments": 5}')
	UNION ALL SELECT n + 1, docsync_docs_reconcile(pg_temp.bytes(jsonb_build_object('collection', 'list', 'maxDocuments', 5, 'after', answer -> 'after'))) FROM page WHERE (answer ->> 'more')::bool)
SELECT n, pg_temp.short(answer) FROM page;
-- Buckets: a page may have no row of them, and not be the last.
SELECT b, pg_temp.ids(docsync_docs_reconcile(pg_temp.bytes(jsonb_build_object('collection', 'list', 'buckets', jsonb_build_array(b)))) -> 'rows') AS ids
  FROM generate_series(0, 255) AS b WHERE docsync_docs_reconcile(pg_temp.bytes(jsonb_build_object('collection', 'list', 'buckets', jsonb_build_array(b)))) ->> 'rows' <> '[]';
SELECT pg_temp.short(docsync_docs_reconcile(pg_temp.bytes(jsonb_build_object('collection', 'list', 'buckets', b::jsonb)))) FROM unnest(ARRAY['[]', 'null', '[178, 178, 255]', '[178.0, 2.55e2]', '[0]']) AS b;
SELECT pg_temp.short(docsync_docs_reconcile('{"collection": "list", "buckets": [178], "maxDocuments": 3}')), pg_temp.short(docsync_docs_reconcile('{"collection": "list", "buckets": [178], "maxDocuments": 3, "after": "a"}'));
-- purgedThrough: not for who sees nothing of the collection
SELECT docsync_docs_reconcile('{"collection": "purge", "after": "z"}')::jsonb - 'serverUtc';
SET ROLE regress_docsync_some;
SELECT docsync_docs_reconcile('{"collection": "purge"}')::jsonb - 'serverUtc', docsync_docs_reconcile('{"collection": "purge", "after": "z"}')::jsonb - 'serverUtc';
SELECT docsync_docs_get('{"collection": "purge", "ids": ["t1", "p4", "none"]}')::jsonb - 'serverUtc';
SET ROLE regress_docsync_none;
SELECT docsync_docs_reconcile('{"collection": "purge"}')::jsonb - 'serverUtc';
SELECT docsync_docs_get('{"collection": "purge", "ids": ["t1", "p4", "none"]}')::jsonb - 'serverUtc';
-- nor is he told to compare what he sees nothing of
SELECT pg_temp.short(docsync_pull('watch', '5f3a9c0d1e2b4a77.978307201000000', 'purge', reconcile => true));
RESET ROLE;
ALTER TABLE docsync.document DISABLE ROW LEVEL SECURITY;

--
-- Documents by id
--
SELECT docsync_docs_get('{"collection": "purge", "ids": ["t5", "t1"]}')::jsonb - 'serverUtc';
SELECT pg_temp.short(docsync_docs_get('{"collection": "purge", "ids": ["p4", "t1", "none", "t5", "", "p4"]}'));
SELECT docsync_docs_get('{"collection": "purge", "ids": []}')::jsonb - 'serverUtc';
SELECT docsync_docs_get(pg_temp.bytes(jsonb_build_object('collection', 'purge', 'ids', ARRAY[repeat('x', 10000), E'\x01', '''; --'])))::jsonb - 'serverUtc';
SELECT pg_temp.short(docsync_docs_get(pg_temp.bytes(jsonb_build_object('collection', 'list', 'ids', (SELECT jsonb_agg(id ORDER BY id DESC) FROM docsync.document WHERE collection = 'list')))));
-- as it is downloaded
SELECT docsync_docs_get('{"collection": "purge", "ids": ["p4"]}') #>> '{documents,0}' = (SELECT d::text FROM json_array_elements(docsync_pull(collection => 'purge') -> 'documents') AS d WHERE d ->> 'id' = 'p4') AS same;
-- An answer ends at max_page_size, after at least one document.
SET docsync.max_page_size = 1;
SELECT pg_temp.short(docsync_docs_get('{"collection": "purge", "ids": ["p4", "t1"]}')), pg_temp.short(docsync_docs_get('{"collection": "purge", "ids": ["none", "t1"]}')), pg_temp.short(docsync_docs_get('{"collection": "purge", "ids": ["t1", "none"]}'));
SET docsync.max_page_size = 240;
SELECT pg_temp.short(docsync_docs_get('{"collection": "purge", "ids": ["p4", "t1", "p7", "p8"]}'));
RESET docsync.max_page_size;
SET docsync.max_batch = 2;
SELECT pg_temp.try($$SELECT docsync_docs_get('{"ids": ["1", "2", "3"]}')$$), pg_temp.request($$SELECT docsync_docs_get('{"ids": ["1", "2", "3"]}')$$);
SELECT pg_temp.short(docsync_docs_get('{"ids": ["1", "2"]}'));
RESET docsync.max_batch;

--
-- What is refused
--
SELECT body, pg_temp.try(format('SELECT docsync_docs_reconcile(%L)', body)), pg_temp.try(format('SELECT docsync_docs_get(%L)', body))
  FROM unnest(ARRAY[NULL, 'null', '[]', '"x"', '{"Ids": []}', '{"documents": []}', '{"ids": null}', '{"ids": "x"}', '{"ids": {}}', '{"ids": [1]}', '{"ids": ["a", null]}', '{"ids": [["a"]]}', '{"ids": [{"id": "a"}]}', '{"buckets": 1}', '{"buckets": {}}', '{"buckets": "1"}',
	'{"buckets": [256]}', '{"buckets": [-1]}', '{"buckets": [1.5]}', '{"buckets": [1e400]}', '{"buckets": ["1"]}', '{"buckets": [null]}', '{"buckets": [[1]]}', '{"buckets": [true]}', '{"after": 1}', '{"after": ["a"]}',
	'{"maxDocuments": 0}', '{"maxDocuments": -1}', '{"maxDocuments": 1.5}', '{"maxDocuments": "1"}', '{"maxDocuments": 2147483648}', '{"clientId": 1}', '{"clientId": "", "ids": []}', '{"collection": "", "ids": []}', '{"cursor": "x", "ids": []}', '{"origin": "x", "ids": []}', '{"origin": "other", "ids": []}']) AS body;
-- A claim binds here, too, and is taken where nothing is said.
SELECT pg_temp.request(format('SELECT docsync_docs_%s(%L)', f, '{"clientId": "a", "ids": []}'::jsonb - CASE f WHEN 'get' THEN '' ELSE 'ids' END), claims => '{"client_id": "c"}') FROM unnest('{reconcile,get}'::text[]) AS f;
SELECT pg_temp.request($$SELECT pg_temp.short(docsync_docs_reconcile('{"maxDocuments": 1}'))$$, '{"x-client-id": "watch"}', '{"collection": "purge"}'), pg_temp.request($$SELECT pg_temp.short(docsync_docs_get('{"ids": ["t1"]}'))$$, NULL, '{"client_id": "x", "collection": "purge"}');
-- Read-only they are.
BEGIN READ ONLY;
SELECT pg_temp.short(docsync_docs_reconcile('{"collection": "purge", "maxDocuments": 1}')), pg_temp.short(docsync_docs_get('{"collection": "purge", "ids": ["t1"]}')), pg_temp.short(docsync_pull(collection => 'purge', state => 'true', reconcile => true)) ~ 'state: digest' AS state;
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT pg_temp.short(docsync_docs_reconcile('{"collection": "purge", "maxDocuments": 1}')), pg_temp.short(docsync_docs_get('{"collection": "purge", "ids": ["t1"]}'));
COMMIT;

--
-- Digests, as a program has computed them that knows no more of MurmurHash3_x86_32 than its
-- author has published: bucket and sum of each document
--
INSERT INTO docsync.document (collection, id, client_version, client_id, body, last_update_utc, fence) VALUES
	('digest', 'shopping', 1, 'x', '1', '2026-11-23 08:47:18.100229+00', '3'), ('digest', 'a', 0, 'x', '1', '2001-01-01 00:00:01+00', '3'), ('digest', 'ab', -1, 'x', '1', '2001-01-01 00:00:02.000001+00', '3'),
	('digest', 'abc', 9223372036854775807, 'x', '1', '2001-01-01 00:00:03.999999+00', '3'), ('digest', 'abcd', -9223372036854775808, 'x', '1', '2001-01-01 00:00:04+00', '3'), ('digest', 'é', 17, 'x', '1', '2001-01-01 00:00:05+00', '3'),
	('digest', '😀,1', 1, 'x', '1', '2001-01-01 00:00:06+00', '3'), ('digest', E'"\\\n', 1, 'x', '1', '2001-01-01 00:00:07+00', '3'), ('digest', repeat('x', 500), 1, 'x', '1', '9999-12-31 23:59:59.999999+00', '3');
CREATE TABLE pg_temp.vector (id text, sum text, bucket int);
INSERT INTO pg_temp.vector VALUES ('shopping', 'b1b41262c29ed384', 212), ('a', '7d585616cb5f458c', 178), ('ab', '7baf19a1e18043e2', 95), ('abc', 'd69c7d1ef31c4458', 250), ('abcd', '91415b7f12b37e12', 106),
	('é', 'd525909abdf35fea', 135), ('😀,1', '82a88e8eb2f2ff15', 168), (E'"\\\n', 'b83dc2be807d1937', 253), (repeat('x', 500), '6031cbd7fea5b56d', 9);
SELECT docsync_pull(collection => 'digest', state => 'true') -> 'state' AS state \gset
SELECT :'state'::json ->> 'count', :'state'::json ->> 'digest', json_array_length(:'state'::json -> 'sums');
-- The same in SQL
SELECT documents::text = :'state'::json ->> 'count' AND digest = :'state'::json ->> 'digest' AS same, settled FROM docsync_digest('digest');
SELECT * FROM docsync_digest('nowhere');
SELECT * FROM docsync_digest('');
SELECT * FROM docsync_digest(NULL);
SELECT v.bucket, v.sum, s.sum FROM pg_temp.vector AS v FULL JOIN (SELECT n - 1 AS bucket, sum FROM json_array_elements_text(:'state'::json -> 'sums') WITH ORDINALITY AS s(sum, n) WHERE sum <> repeat('0', 16)) AS s USING (bucket) WHERE v.sum IS DISTINCT FROM s.sum;
SELECT left(v.id, 10), v.bucket FROM pg_temp.vector AS v WHERE docsync_docs_reconcile(pg_temp.bytes(jsonb_build_object('collection', 'digest', 'buckets', jsonb_build_array(bucket)))) #>> '{rows,0,id}' IS DISTINCT FROM v.id;

SET client_min_messages = warning;
DROP EXTENSION dblink;
DROP SCHEMA docsync CASCADE;
DROP EXTENSION docsync;
DROP ROLE regress_docsync_some, regress_docsync_none;
