-- The functions for HTTP, called without HTTP: the JSON they write, cursors, times,
-- and what settings say about a request.
\set SHOW_CONTEXT never
\pset null (null)
\pset format unaligned
\pset tuples_only on
CREATE EXTENSION docsync;
SELECT docsync_create_store() \g /dev/null
-- The epoch begins with the first call that may write.  Here it has an id that is known.
SELECT docsync_sync('tablet', collection => 'nowhere') ->> 'cursor' ~ '^[0-7][0-9a-f]{15}\.0\.\d{16}\.[0-9a-f]+\.[0-9a-f]{8}$' AS cursor;
UPDATE docsync.history SET epoch = x'5f3a9c0d1e2b4a77'::bigint;

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
-- The same for a request: its settings, then the command
CREATE FUNCTION pg_temp.request(method text, headers text, claims text, command text) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	answer text;
BEGIN
	PERFORM set_config('request.method', coalesce(method, ''), true),
		set_config('request.headers', coalesce(headers, ''), true),
		set_config('request.jwt.claims', coalesce(claims, ''), true);
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

-- Documents with stamps that are known, as a dump brings them
INSERT INTO docsync.document (collection, id, client_version, client_id, last_update_utc, deleted, body, fence) VALUES
	('shape', 'a', 1, 'tablet', '2001-02-03 04:05:06.000007+00', false, '{"b": [1, 2.50, null, true, {}], "a": ""}', '3'),
	('shape', 'b', -9223372036854775808, 'phone', '2001-02-03 04:05:07+00', true, NULL, '3'),
	('shape', 'c', 9223372036854775807, 'phone', '2001-12-31 23:59:59.999999+00', true, '"last words"', '3'),
	('shape', 'd', 0, 'tablet', '2002-01-01 00:00:00+00', false, 'null', '3'),
	('since', 'before', 1, 'tablet', '2001-02-03 04:05:06.123455+00', false, '1', '3'),
	('since', 'at', 1, 'tablet', '2001-02-03 04:05:06.123456+00', false, '1', '3'),
	('since', 'after', 1, 'tablet', '2001-02-03 04:05:06.123457+00', false, '1', '3'),
	('page', '1', 1, 'tablet', '2001-01-01 00:00:01+00', false, '1', '3'),
	('page', '2', 1, 'phone', '2001-01-01 00:00:02+00', false, '1', '3'),
	('page', '3', 1, 'phone', '2001-01-01 00:00:03+00', false, '1', '3'),
	('page', '4', 1, 'tablet', '2001-01-01 00:00:04+00', false, '1', '3'),
	('page', '5', 1, 'phone', '2001-01-01 00:00:05+00', false, '1', '3');

--
-- Shapes
--
SELECT pg_temp.mask(docsync_pull(collection => 'shape')::text);
SELECT pg_temp.mask(docsync_pull(collection => 'nowhere')::text);
SELECT docsync_docs_query('any', collection => 'shape');
SELECT docsync_docs_query('any', collection => 'nowhere');
SELECT pg_temp.mask(docsync_sync('tablet', collection => 'shape')::text);
-- created, unchanged, discarded with a winner, updated
SELECT pg_temp.mask(docsync_sync('watch', '[
	{"id": "e\"\\\u0001é", "clientVersion": 7, "body": {"é": "\u001f\"\\/\b\f\n\r\t"}},
	{"id": "a", "clientVersion": 0, "body": 1},
	{"id": "d", "clientVersion": 9007199254740993, "body": []}]', collection => 'shape', origin => 'own')::text);
SELECT pg_temp.mask(docsync_docs('{"clientId": "watch", "collection": "shape", "documents": [
	{"id": "d", "clientVersion": 9007199254740993, "body": []},
	{"id": "b", "clientVersion": -9223372036854775808, "body": 1},
	{"id": "c", "clientVersion": 1, "body": 1},
	{"id": "f", "clientVersion": -1, "deleted": true}]}')::text);
SELECT pg_temp.mask(docsync_docs_sync('{"clientId": "watch", "collection": "shape", "origin": "own", "maxDocuments": 1}')::text);
SELECT pg_temp.mask(docsync_docs_sync('{"clientId": "watch", "collection": "shape", "origin": "own", "maxDocuments": 1, "documents": []}')::text);
SELECT pg_temp.mask(docsync_docs('{"clientId": "watch", "documents": []}')::text);
SELECT pg_temp.mask(docsync_docs_sync('{"clientId": "watch", "documents": null, "cursor": null, "collection": null, "origin": null, "maxDocuments": null}')::text);
-- The time is the server's.
SELECT abs(date_part('epoch', (docsync_pull() ->> 'serverUtc')::timestamptz - clock_timestamp())) < 60 AS near_now;
SELECT docsync_sync('watch', '[{"id": "x", "clientVersion": 1, "body": 1}]', collection => 'stamp') #>> '{results,0,LastUpdateUtc}' AS stamp \gset
SELECT to_char(last_update_utc AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') = :'stamp' AS as_stored FROM docsync.document WHERE collection = 'stamp';

-- A body is written as jsonb writes it, byte for byte; so are ids and client_ids.
CREATE TABLE pg_temp.nasty (n int, body jsonb);
INSERT INTO pg_temp.nasty SELECT row_number() OVER (), body::jsonb FROM unnest(ARRAY[
	'null', 'true', 'false', '0', '-0', '1.50', '-0.000', '1e3', '1E-7', '12345678901234567890.123456789012345678901234567890',
	'""', '"\""', '"\\"', '"/"', '"\b\f\n\r\t"', '"\u0001\u001f\u007f\u0080"', '"\u2028\u2029\ufeff"', '"é€😀"', '"\ud83d\ude00"',
	'"1234567\""', '"12345678\""', '"123456789\""', '"12345678\u001f"', '"\u001f2345678"', '"éééé\\"', '"\u0080\u00ff\u00a0\u00a2"', '"       !#[]~"',
	'[]', '{}', '[[]]', '[{}]', '{"": ""}', '{"a": {}}', '{"a": []}', '[":",[1]]', '[",",":","{","}"]', '[[],[]]', '[{},{}]', '[[[[]]],{"a":[[]]}]',
	'[1,[2],3]', '[[1],2]', '[{"a":1},2]', '{"a":[1,2],"b":{"c":null},"d":3}', '{"a":{"b":{"c":[]}},"d":[{}]}', '[null,[null],{"a":null}]',
	'{"b":1,"a":2,"aa":3}', '{"a":1,"a":2}', '{"\"":"\\","\n":"\u0001"}', '{"id":"x","body":{"deleted":true}}', '["\\u0000"]', '"\\u0000"',
	'{"😀":["😀"]}', '[[1,[2,[3,[4]]]],5]', '[1.0,1.00,10e-1]', '[true,false,null,"",0]']) AS body;
-- random ones, too
CREATE FUNCTION pg_temp.random_json(depth int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	kind int := floor(random() * CASE WHEN depth > 0 THEN 10 ELSE 6 END);
BEGIN
	RETURN CASE
		WHEN kind = 0 THEN (ARRAY['null', 'true', 'false'])[1 + floor(random() * 3)::int]
		WHEN kind IN (1, 2) THEN (((random() - 0.5) * 10 ^ floor(random() * 20)::int)::numeric)::text
		WHEN kind IN (3, 4, 5) THEN to_json((SELECT coalesce(string_agg(chr((ARRAY[1, 8, 9, 10, 13, 31, 32, 34, 47, 92, 44, 58, 123, 65, 127, 128, 233, 8364, 128512])[1 + floor(random() * 19)::int]), ''), '')
			FROM generate_series(1, floor(random() * 20)::int)))::text
		WHEN kind IN (6, 7) THEN (SELECT '[' || coalesce(string_agg(pg_temp.random_json(depth - 1), ','), '') || ']' FROM generate_series(1, floor(random() * 4)::int))
		ELSE (SELECT '{' || coalesce(string_agg('"k' || i || '":' || pg_temp.random_json(depth - 1), ','), '') || '}' FROM generate_series(1, floor(random() * 4)::int) AS i)
	END;
END
$$;
SELECT count(setseed(0.17)) AS seed \gset
INSERT INTO pg_temp.nasty SELECT 1000 + i, pg_temp.random_json(4)::jsonb FROM generate_series(1, 1000) AS i;
INSERT INTO docsync.document (collection, id, client_id, body)
	SELECT 'nasty', n || coalesce(CASE jsonb_typeof(body) WHEN 'string' THEN body ->> 0 END, ''),
		   'c' || coalesce(CASE jsonb_typeof(body) WHEN 'string' THEN left(body ->> 0, 50) END, ''), body FROM pg_temp.nasty ORDER BY n;
CREATE VIEW pg_temp.differs AS
	SELECT d.id, d.body::text AS stored, (q ->> 'body') AS sent
	  FROM docsync.document AS d
	  FULL JOIN json_array_elements(docsync_docs_query('any', collection => 'nasty')) AS q ON d.id = q ->> 'id'
	 WHERE (d.collection = 'nasty' OR d.id IS NULL)
	   AND ((q -> 'body')::text, (q -> 'id')::text, (q -> 'clientId')::text)
		   IS DISTINCT FROM (d.body::text, to_jsonb(d.id)::text, to_jsonb(d.client_id)::text);
SELECT * FROM pg_temp.differs;
SELECT count(*) FROM json_array_elements(docsync_docs_query('any', collection => 'nasty'));
-- and comes in as it is sent, by each way
SELECT count(*) FILTER (WHERE r ->> 'outcome' = 'unchanged'), count(*) FROM json_array_elements(docsync_sync('c', (
	SELECT json_agg(json_build_object('id', id, 'clientVersion', client_version, 'body', body)) FROM docsync.document WHERE collection = 'nasty' AND client_id = 'c'),
	collection => 'nasty') -> 'results') AS r;
-- as winners, too, where the order of keys is jsonb's
SELECT bool_and((r -> 'winner')::text = format('{"id": %s, "body": %s, "deleted": false, "clientId": %s, "LastUpdateUtc": %s, "clientVersion": %s}',
		to_json(d.id), d.body, to_json(d.client_id), r -> 'LastUpdateUtc', d.client_version)), count(*)
  FROM json_array_elements(docsync_sync('x', (
	SELECT json_agg(json_build_object('id', id, 'clientVersion', 0, 'body', 0)) FROM docsync.document WHERE collection = 'nasty'),
	collection => 'nasty') -> 'results') AS r
  JOIN docsync.document AS d ON d.collection = 'nasty' AND d.id = r ->> 'id';

-- White space, duplicate keys and numbers beyond 64 bits, in the json of an argument
SELECT pg_temp.try($$SELECT docsync_sync('w', E' [\n{"id":"a","clientVersion":1,"clientVersion":2,"body":1}\t] ', collection => 'json') -> 'results'$$);
SELECT pg_temp.try($$SELECT docsync_sync('w', '[{"id":"a","clientVersion":9223372036854775808,"body":1}]', collection => 'json')$$);
SELECT pg_temp.try($$SELECT docsync_sync('w', '[{"id":"a\u0000","clientVersion":3,"body":1}]', collection => 'json')$$);
SELECT pg_temp.try($$SELECT docsync_sync('w', '{"id":"a","clientVersion":3,"body":1}', collection => 'json')$$);
SELECT pg_temp.try($$SELECT docsync_sync('w', 'null', collection => 'json')$$);
SELECT pg_temp.try($$SELECT docsync_sync('w', NULL, collection => 'json')$$);

--
-- Cursors
--
-- They are exclusive, and name the epoch and the last stamp passed.
SELECT pg_temp.ids(p -> 'documents'), pg_temp.mask(p ->> 'cursor'), p ->> 'more' FROM docsync_pull(collection => 'page', "maxDocuments" => 2) AS p;
SELECT pg_temp.ids(p -> 'documents'), pg_temp.mask(p ->> 'cursor'), p ->> 'more' FROM docsync_pull(collection => 'page', cursor => '5f3a9c0d1e2b4a77.978307202000000', "maxDocuments" => 2) AS p;
SELECT pg_temp.ids(p -> 'documents'), pg_temp.mask(p ->> 'cursor'), p ->> 'more' FROM docsync_pull(collection => 'page', cursor => '5f3a9c0d1e2b4a77.978307203000000', "maxDocuments" => 2) AS p;
SELECT pg_temp.ids(p -> 'documents'), pg_temp.mask(p ->> 'cursor'), p ->> 'more' FROM docsync_pull(collection => 'page', cursor => '5f3a9c0d1e2b4a77.978307204000000', "maxDocuments" => 2) AS p;
SELECT pg_temp.ids(p -> 'documents'), pg_temp.mask(p ->> 'cursor'), p ->> 'more' FROM docsync_pull(collection => 'page', cursor => '5f3a9c0d1e2b4a77.978307205000000', "maxDocuments" => 2) AS p;
-- A cursor passes a client's own documents, though none came.
SELECT pg_temp.ids(p -> 'documents'), pg_temp.mask(p ->> 'cursor'), p ->> 'more' FROM docsync_pull('tablet', collection => 'page', cursor => '5f3a9c0d1e2b4a77.978307203000000') AS p;
SELECT pg_temp.ids(p -> 'documents'), pg_temp.mask(p ->> 'cursor'), p ->> 'more' FROM docsync_pull('phone', collection => 'page', cursor => '5f3a9c0d1e2b4a77.978307204000000') AS p;
SELECT pg_temp.ids(p -> 'documents'), pg_temp.mask(p ->> 'cursor'), p ->> 'more' FROM docsync_pull('phone', collection => 'page', "maxDocuments" => 1) AS p;
SELECT pg_temp.ids(p -> 'documents'), pg_temp.mask(p ->> 'cursor'), p ->> 'more' FROM docsync_pull('phone', collection => 'page', "maxDocuments" => 2) AS p;
SELECT pg_temp.ids(p -> 'documents'), pg_temp.mask(p ->> 'cursor'), p ->> 'more' FROM docsync_pull('phone', collection => 'page', origin => 'own', "maxDocuments" => 2) AS p;
SELECT pg_temp.ids(p -> 'documents'), pg_temp.mask(p ->> 'cursor'), p ->> 'more' FROM docsync_pull('phone', collection => 'page', origin => 'any', "maxDocuments" => NULL) AS p;
-- Where there is nothing it stays where it is; at the beginning it is 0.
SELECT pg_temp.mask(p ->> 'cursor'), p ->> 'more' FROM docsync_pull(collection => 'nowhere') AS p;
SELECT pg_temp.mask(p ->> 'cursor'), p ->> 'more' FROM docsync_pull(collection => 'nowhere', cursor => '5f3a9c0d1e2b4a77.17') AS p;
SELECT pg_temp.mask(p ->> 'cursor'), p ->> 'more' FROM docsync_pull(collection => 'page', cursor => '5f3a9c0d1e2b4a77.0', "maxDocuments" => 1) AS p;
-- Pages end by size, after at least one document.
SET docsync.max_page_size = 1;
SELECT pg_temp.ids(p -> 'documents'), pg_temp.mask(p ->> 'cursor'), p ->> 'more' FROM docsync_pull(collection => 'page') AS p;
SELECT pg_temp.ids(p -> 'documents'), pg_temp.mask(p ->> 'cursor'), p ->> 'more' FROM docsync_pull('tablet', collection => 'page', cursor => '5f3a9c0d1e2b4a77.978307203000000') AS p;
SELECT pg_temp.ids(p -> 'documents'), pg_temp.mask(p ->> 'cursor'), p ->> 'more' FROM docsync_sync('phone', collection => 'page') AS p;
SELECT pg_temp.ids(docsync_docs_query('any', collection => 'page'));
-- the one at sinceUtc doesn't count
SELECT pg_temp.ids(docsync_docs_query('any', '2001-01-01T00:00:02Z', collection => 'page'));
SELECT pg_temp.ids(docsync_docs_query('any', '2001-01-01T00:00:05Z', collection => 'page'));
-- as soon as there are so many bytes: 119 and 118 a document, with a bracket before and commas between
SELECT size, (SELECT set_config('docsync.max_page_size', size::text, false)) IS NOT NULL AS set, pg_temp.try(
	$$SELECT format('%s: %s bytes, more: %s', pg_temp.ids(p -> 'documents'), octet_length((p -> 'documents')::text), p ->> 'more') FROM docsync_pull(collection => 'page') AS p$$)
  FROM unnest('{119,120,121,239,240,478,479,597,598}'::int[]) AS size;
SET docsync.max_page_size = 240;
SELECT pg_temp.ids(p -> 'documents'), p ->> 'more' FROM docsync_pull(collection => 'page', "maxDocuments" => 2) AS p;
-- in SQL there are no pages
SELECT count(*) FROM docsync_query_since(NULL, origin => 'any', collection => 'page');
RESET docsync.max_page_size;

-- What isn't a cursor
SELECT cursor, pg_temp.try(format('SELECT docsync_pull(cursor => %L)', cursor)) FROM unnest(ARRAY['', 'null', 'x', '.', '0', '5f3a9c0d1e2b4a77', '5f3a9c0d1e2b4a77.',
	'5f3a9c0d1e2b4a7.1', '5f3a9c0d1e2b4a771.1', '5F3A9C0D1E2B4A77.1', '5f3a9c0d1e2b4a77:1', ' 5f3a9c0d1e2b4a77.1', '5f3a9c0d1e2b4a77.1 ', '5f3a9c0d1e2b4a77. 1',
	'5f3a9c0d1e2b4a77.-1', '5f3a9c0d1e2b4a77.+1', '5f3a9c0d1e2b4a77.1x', '5f3a9c0d1e2b4a77.1.2', '5f3a9c0d1e2b4a77.0x1', '5f3a9c0d1e2b4a77.1e3',
	'5f3a9c0d1e2b4a77.9223372036854775808', '5f3a9c0d1e2b4a77.99999999999999999999999', '5f3a9c0d1e2b4a7g.1', '5f3a9c0d1e2b4a77.١',
	'2001-01-01T00:00:00Z', repeat('5', 10000)]) AS cursor WHERE length(cursor) < 100 OR pg_temp.try(format('SELECT docsync_pull(cursor => %L)', cursor)) !~ '^22023';
SELECT pg_temp.try($$SELECT docsync_sync('w', '[{"id": "no", "clientVersion": 1, "body": 1}]', 'x')$$);
SELECT pg_temp.try($$SELECT docsync_docs_sync('{"clientId": "w", "documents": [{"id": "no", "clientVersion": 1, "body": 1}], "cursor": "x"}')$$);
-- from before the first document: of another epoch, what the client has sent may be lost
SELECT pg_temp.ids(p -> 'documents'), pg_temp.mask(p ->> 'cursor'), p ->> 'reconcile' AS told FROM unnest('{5f3a9c0d1e2b4a77.0,5f3a9c0d1e2b4a78.0,0000000000000000.0,ffffffffffffffff.0}'::text[]) AS cursor,
	docsync_pull(collection => 'page', cursor => cursor, reconcile => true) AS p;
-- of another epoch, and ahead of the clock: by each call, nothing stored
SELECT last_value AS clock FROM docsync.clock \gset
SELECT cursor, pg_temp.try(format(command, cursor))
  FROM unnest(ARRAY['5f3a9c0d1e2b4a76.978307202000000', '5f3a9c0d1e2b4a78.1', 'ffffffffffffffff.1', '5f3a9c0d1e2b4a77.7000000000000000', '5f3a9c0d1e2b4a77.9223372036854775807']) AS cursor,
	   unnest(ARRAY['SELECT docsync_pull(cursor => %L)', $$SELECT docsync_sync('w', '[{"id": "no", "clientVersion": 1, "body": 1}]', %L)$$,
	$$SELECT docsync_docs_sync('{"clientId": "w", "documents": [{"id": "no", "clientVersion": 1, "body": 1}], "cursor": "%s"}')$$]) AS command;
SELECT pg_temp.try($$SELECT docsync_docs_query('any', '9999-12-31T23:59:59.999999Z')$$);
SELECT count(*) FROM docsync.document WHERE id = 'no';
SELECT last_value = :clock AS no_stamp FROM docsync.clock;
-- the first stamp not issued yet, and the last that was
SELECT pg_temp.try(format('SELECT docsync_pull(cursor => %L)', '5f3a9c0d1e2b4a77.' || :clock + 1)) ~ '^55000' AS ahead,
	   pg_temp.try(format('SELECT docsync_pull(cursor => %L)', '5f3a9c0d1e2b4a77.' || :clock)) ~ '^{' AS last;
-- over HTTP: 410
SELECT pg_temp.request(method, NULL, NULL, command) FROM unnest('{GET,POST}'::text[]) AS method,
	unnest(ARRAY[$$SELECT docsync_pull(cursor => '5f3a9c0d1e2b4a78.1')$$, $$SELECT docsync_pull(cursor => '5f3a9c0d1e2b4a77.7000000000000000')$$,
	$$SELECT docsync_docs_query('any', '9999-12-31T23:59:59Z')$$]) AS command;
-- docsync_new_epoch makes all of them void.
SELECT p ->> 'cursor' AS cursor FROM docsync_pull(collection => 'page') AS p \gset
SELECT p ->> 'more' FROM docsync_pull(collection => 'page', cursor => :'cursor') AS p;
SELECT docsync_new_epoch();
SELECT number, epoch > 0, epoch <> x'5f3a9c0d1e2b4a77'::bigint FROM docsync.history ORDER BY number;
SELECT pg_temp.try(format('SELECT docsync_pull(collection => %L, cursor => %L)', 'page', :'cursor'));
SELECT pg_temp.try(format('SELECT docsync_pull(collection => %L, cursor => %L)', 'page', '5f3a9c0d1e2b4a77.1'));
SELECT p ->> 'cursor' ~ '^[0-7][0-9a-f]{15}\.978307205000000\.' AS new_cursor FROM docsync_pull(collection => 'page') AS p;
DELETE FROM docsync.history WHERE number = 2;

--
-- sinceUtc
--
SELECT since, CASE WHEN answer ~ '^22023' THEN substr(answer, 1, 5) ELSE answer END
  FROM unnest(ARRAY['2001-02-03T04:05:06.123455Z', '2001-02-03T04:05:06.123456Z', '2001-02-03T04:05:06.123457Z', '2001-02-03T04:05:06.123458Z',
	-- offsets
	'2001-02-03T05:05:06.123456+01:00', '2001-02-03T05:05:06.123456+0100', '2001-02-03T05:05:06.123456 01:00', '2001-02-03T05:05:06.123456 0100',
	'2001-02-02T23:05:06.123456-05:00', '2001-02-02T23:05:06.123456-0500', '2001-02-03T09:50:06.123456+05:45', '2001-02-03T00:35:06.123456-03:30',
	'2001-02-03T04:05:06.123456+00:00', '2001-02-03T04:05:06.123456-00:00', '2001-02-03T19:50:06.123456+15:45', '2001-02-03T20:05:06.123456+16:00',
	'2001-02-03T05:05:06.123456+01:60', '2001-02-03T05:05:06.123456+01', '2001-02-03T05:05:06.123456+1:00', '2001-02-03T05:05:06.123456+01:0',
	'2001-02-03T05:05:06.123456+100', '2001-02-03T05:05:06.123456+01:00:00', '2001-02-03T05:05:06.123456+-1:00', '2001-02-03T04:05:06.123456 Z',
	'2001-02-03T05:05:06.123456 +01:00', '2001-02-03T05:05:06.123456*01:00',
	-- decimals: cut, not rounded
	'2001-02-03T04:05:06Z', '2001-02-03T04:05:06.1Z', '2001-02-03T04:05:06.2Z', '2001-02-03T04:05:06.12Z', '2001-02-03T04:05:06.123Z', '2001-02-03T04:05:06.1234Z',
	'2001-02-03T04:05:06.12345Z', '2001-02-03T04:05:06.1234569Z', '2001-02-03T04:05:06.12345599Z', '2001-02-03T04:05:06.123456999Z',
	'2001-02-03T04:05:06.123457000Z', '2001-02-03T04:05:06.1234569999999999999999999999Z', '2001-02-03T04:05:06.Z', '2001-02-03T04:05:06.', '2001-02-03T04:05:06,1Z',
	'2001-02-03T04:05:06.1 Z', '2001-02-03T04:05:06.-1Z', '2001-02-03T04:05:06.999999999Z',
	-- fields
	'2001-02-03T04:05:59Z', '2001-02-03T04:05:60Z', '2001-02-03T04:60:00Z', '2001-02-03T24:00:00Z', '2001-02-03T23:59:59Z', '2001-02-29T00:00:00Z', '2000-02-29T00:00:00Z',
	'1900-02-29T00:00:00Z', '2001-02-30T00:00:00Z', '2001-04-31T00:00:00Z', '2001-01-00T00:00:00Z', '2001-01-32T00:00:00Z', '2001-00-01T00:00:00Z',
	'2001-13-01T00:00:00Z', '0000-01-01T00:00:00Z', '0001-01-01T00:00:00Z', '1970-01-01T00:00:00Z', '0001-01-01T00:00:00+15:59', '2001-02-03T04:05:06.123457-00:00',
	-- other forms
	'', 'null', '2001-02-03', '2001-02-03Z', '2001-02-03T04:05Z', '2001-02-03T04:05:06', '2001-02-03T04:05:06.123456', '2001-02-03 04:05:06Z', '2001-02-03t04:05:06z',
	'2001-02-03T04:05:06z', '20010203T040506Z', '2001-034T04:05:06Z', '01-02-03T04:05:06Z', '12001-02-03T04:05:06Z', '+2001-02-03T04:05:06Z', '-2001-02-03T04:05:06Z',
	'2001-2-3T04:05:06Z', '2001/02/03T04:05:06Z', '2001-02-03T04.05.06Z', '٢٠٠١-02-03T04:05:06Z', ' 2001-02-03T04:05:06Z', '2001-02-03T04:05:06Z ', E'2001-02-03T04:05:06Z\n',
	'2001-02-03T04:05:06ZZ', '2001-02-03T04:05:06Z+01:00', '2001-02-03T04:05:06Zx', '2001-02-03T04:05:06 UTC', '2001-02-03T04:05:06 Europe/Berlin', '2001-02-03T04:05:06CET',
	'yesterday', 'now', 'epoch', 'infinity', '-infinity', '981173106', '981173106.123456', 'Sat, 03 Feb 2001 04:05:06 GMT']) AS since,
	   pg_temp.try(format($$SELECT pg_temp.ids(docsync_docs_query('any', %L, collection => 'since'))$$, since)) AS answer;
SELECT pg_temp.try($$SELECT docsync_docs_query('any', 'yesterday')$$);
SELECT pg_temp.ids(docsync_docs_query('any', NULL, collection => 'since'));
-- whatever the caller's time zone and style
SET TimeZone = 'Asia/Kathmandu';
SET DateStyle = 'German';
SET IntervalStyle = 'sql_standard';
SELECT pg_temp.ids(docsync_docs_query('any', '2001-02-03T04:05:06.123456Z', collection => 'since'));
SELECT docsync_docs_query('any', '2001-02-03T04:05:06.123457Z', collection => 'since');
RESET TimeZone;
RESET DateStyle;
RESET IntervalStyle;
-- maxDocuments: the one at sinceUtc, and so many later ones
SELECT pg_temp.ids(docsync_docs_query('any', '2001-02-03T04:05:06.123455Z', collection => 'since', "maxDocuments" => 1));
SELECT n, pg_temp.try(format('SELECT pg_temp.ids(docsync_docs_query(%L, collection => %L, "maxDocuments" => %s))', 'any', 'since', n)) FROM unnest('{1,2,3,2147483647,0,-1}'::int[]) AS n;
SELECT pg_temp.try(format('SELECT docsync_%s("maxDocuments" => %s)', f, n)) FROM unnest('{pull,sync}'::text[]) AS f, unnest('{0,-2147483648}'::int[]) AS n;

--
-- Who asks, and for what
--
INSERT INTO docsync.document (collection, id, client_id, body) VALUES ('who', 'a', 'a', '1'), ('who', 'h', 'h', '1'), ('who', 'c', 'c', '1'), ('default', 'default', 'h', '1');
-- who: the client as which a request is taken, who asks for "own" documents
CREATE FUNCTION pg_temp.who(headers text, claims text, argument text) RETURNS text
	LANGUAGE sql
AS $$
	SELECT pg_temp.request('POST', headers, claims, format($f$SELECT pg_temp.ids(docsync_docs_query('own', "clientId" => %L, collection => 'who'))$f$, argument))
$$;
SELECT left(argument, 10), headers, claims, pg_temp.who(headers, claims, argument) FROM (VALUES
	('a', NULL, NULL), (NULL, '{"x-client-id": "h"}', NULL), (NULL, NULL, '{"client_id": "c"}'),
	-- the argument, else the header, else the claim
	('a', '{"x-client-id": "h"}', NULL), ('a', '{"x-client-id": null}', '{}'), (NULL, '{"host": "x", "x-client-id": "h"}', '{"role": "x"}'),
	-- a claim binds
	('c', NULL, '{"client_id": "c"}'), (NULL, '{"x-client-id": "c"}', '{"client_id": "c"}'), ('c', '{"x-client-id": "h"}', '{"client_id": "c"}'),
	('a', NULL, '{"client_id": "c"}'), (NULL, '{"x-client-id": "h"}', '{"client_id": "c"}'), ('a', '{"x-client-id": "c"}', '{"client_id": "c"}'),
	('C', NULL, '{"client_id": "c"}'), ('c ', NULL, '{"client_id": "c"}'),
	-- be it empty
	('a', NULL, '{"client_id": ""}'), (NULL, '{"x-client-id": "h"}', '{"client_id": ""}'), (NULL, NULL, '{"client_id": ""}'), ('', NULL, '{"client_id": ""}'),
	-- null is none
	('a', NULL, '{"client_id": null}'), (NULL, NULL, '{"client_id": null}'),
	-- what isn't a claim
	('a', NULL, '{"client_id": 1}'), ('a', NULL, '{"client_id": ["a"]}'), ('a', NULL, '{'), ('a', '{', NULL),
	('a', NULL, '"a"'), ('a', NULL, '["client_id"]'),
	-- nobody
	(NULL, NULL, NULL), (NULL, '{}', '{}'), ('', NULL, NULL), (NULL, '{"x-client-id": ""}', NULL), (repeat('x', 201), NULL, NULL), (NULL, '{"X-Client-Id": "h"}', NULL)
	) AS v(argument, headers, claims);
-- each function asks so
SELECT name, pg_temp.request('POST', headers, '{"client_id": "c"}', command)
  FROM unnest(ARRAY['{"x-client-id": "c"}', '{"x-client-id": "h"}']) AS headers,
	   (VALUES ('sync', $$SELECT pg_temp.ids(docsync_sync(collection => 'who', origin => 'own') -> 'documents')$$),
			   ('pull', $$SELECT pg_temp.ids(docsync_pull(collection => 'who', origin => 'own') -> 'documents')$$),
			   ('docs', $$SELECT docsync_docs('{"collection": "who", "documents": []}')$$),
			   ('docs, an array', $$SELECT docsync_docs('[]')$$),
			   ('docs_sync', $$SELECT pg_temp.ids(docsync_docs_sync('{"collection": "who", "origin": "own"}') -> 'documents')$$),
			   ('docs_query', $$SELECT pg_temp.ids(docsync_docs_query('own', collection => 'who'))$$)) AS c(name, command);
SELECT pg_temp.request('POST', NULL, '{"client_id": "c"}', $$SELECT docsync_docs('{"clientId": "a", "documents": []}')$$);
SELECT pg_temp.request('POST', NULL, '{"client_id": "c"}', $$SELECT docsync_docs_sync('{"clientId": "a"}')$$);
SELECT pg_temp.request('POST', NULL, '{"client_id": "c"}', $$SELECT docsync_sync('a', '[{"id": "no", "clientVersion": 1, "body": 1}]')$$);
SELECT pg_temp.request('POST', NULL, '{"client_id": "c"}', $$SELECT docsync_pull('a')$$);
SELECT count(*) FROM docsync.document WHERE id = 'no';
-- what is uploaded is the claim's
SELECT pg_temp.request('POST', NULL, '{"client_id": "c"}', $$SELECT docsync_docs('[{"id": "mine", "clientVersion": 1, "body": 1}]') ->> 'received'$$);
SELECT client_id FROM docsync.document WHERE id = 'mine';
-- Without a clientId: pull gives all, the others need one.
SELECT name, pg_temp.try(command) FROM (VALUES
	('pull', $$SELECT pg_temp.ids(docsync_pull(collection => 'who') -> 'documents')$$),
	('pull, nonsense', $$SELECT pg_temp.ids(docsync_pull(collection => 'who', origin => 'nonsense') -> 'documents')$$),
	('pull, own', $$SELECT pg_temp.ids(docsync_pull(collection => 'who', origin => 'own') -> 'documents')$$),
	('sync', $$SELECT docsync_sync(collection => 'who')$$),
	('sync, any', $$SELECT docsync_sync(collection => 'who', origin => 'any')$$),
	('docs', $$SELECT docsync_docs('[]')$$),
	('docs_sync', $$SELECT docsync_docs_sync('{"collection": "who"}')$$),
	('docs_sync, any', $$SELECT pg_temp.ids(docsync_docs_sync('{"collection": "who", "origin": "any"}') -> 'documents')$$),
	('docs_sync, any, with documents', $$SELECT docsync_docs_sync('{"collection": "who", "origin": "any", "documents": []}')$$),
	('docs_query', $$SELECT docsync_docs_query()$$),
	('docs_query, any', $$SELECT pg_temp.ids(docsync_docs_query('any', collection => 'who'))$$)) AS c(name, command);
-- Origins
SELECT origin, pg_temp.try(format($$SELECT pg_temp.ids(docsync_sync('a', collection => 'who', origin => %L) -> 'documents')$$, origin)),
	   pg_temp.try(format($$SELECT pg_temp.ids(docsync_pull('a', collection => 'who', origin => %L) -> 'documents')$$, origin)),
	   pg_temp.try(format($$SELECT pg_temp.ids(docsync_docs_query(%L, "clientId" => 'a', collection => 'who'))$$, origin))
  FROM unnest('{other,own,any,"",Any,"other ",NULL}'::text[]) AS origin;

-- The collection: the argument, else the claim, else "default"
SELECT left(argument, 10), claims, pg_temp.request('POST', NULL, claims, format($$SELECT pg_temp.ids(docsync_docs_query('any', collection => %L))$$, argument))
  FROM (VALUES (NULL, NULL), (NULL, '{"collection": "who"}'), ('since', '{"collection": "who"}'), ('since', NULL), (NULL, '{"collection": null}'),
	(NULL, '{"collection": ""}'), (NULL, '{"collection": 1}'), ('since', '{"collection": 1}'), ('', NULL), (repeat('x', 201), NULL)) AS v(argument, claims);
SELECT name, pg_temp.request('POST', NULL, '{"collection": "who"}', command) FROM (VALUES
	('pull', $$SELECT pg_temp.ids(docsync_pull() -> 'documents')$$),
	('sync', $$SELECT pg_temp.ids(docsync_sync('x') -> 'documents')$$),
	('docs_sync', $$SELECT pg_temp.ids(docsync_docs_sync('{"clientId": "x"}') -> 'documents')$$),
	('docs', $$SELECT docsync_docs('{"clientId": "x", "documents": [{"id": "by claim", "clientVersion": 1, "body": 1}]}') ->> 'received'$$)) AS c(name, command);
SELECT collection FROM docsync.document WHERE id = 'by claim';

-- A GET can't say null: it says nothing, or "null".
SELECT method, value, pg_temp.request(method, '{"x-client-id": "h"}', NULL,
	format('SELECT pg_temp.ids(docsync_pull("clientId" => %1$L, cursor => %1$L, collection => %2$L) -> %3$L)', value, 'who', 'documents'))
  FROM unnest('{GET,POST,get,HEAD}'::text[]) AS method, unnest(ARRAY['', 'null', 'NULL']) AS value;
SELECT pg_temp.request('GET', NULL, NULL, $$SELECT pg_temp.ids(docsync_docs_query('any', "sinceUtc" => '', collection => 'since'))$$);
SELECT pg_temp.request('GET', NULL, NULL, $$SELECT pg_temp.ids(docsync_docs_query('any', "sinceUtc" => 'null', collection => ''))$$);
SELECT pg_temp.request('GET', NULL, NULL, $$SELECT docsync_docs_query('')$$);

-- The query string, in the header X-Query-String: clientId and collection of docsync_docs
SELECT n, left(query, 60), pg_temp.request('POST', json_build_object('x-query-string', query)::text, NULL,
	format($$SELECT docsync_docs('{"clientId": "body", "collection": "body", "documents": [{"id": "q%s", "clientVersion": 1, "body": 1}]}') ->> 'received'$$, n))
  FROM unnest(ARRAY['', 'clientId=a', 'clientId=a&collection=b', 'collection=b&clientId=a', 'x=y&&clientId=a&=&collection=b&', 'clientId', 'clientid=a', 'clientIds=a',
	'xclientId=a', 'clientId=a=b', 'clientId=a&clientId=b', 'clientId=a%20b+c', 'clientId=%C3%A9%e2%82%AC%f0%9f%98%80', 'clientId=%2B%26%3D%25', 'clientId=%253D', 'clientId=é',
	'client%49d=a', 'clientId=%', 'clientId=%2', 'clientId=%2&collection=b', 'clientId=%zz', 'clientId=%2x', 'clientId=% 2', 'clientId=%-1', 'clientId=%00', 'clientId=a%00b', 'clientId=%ff',
	'clientId=%C3', 'clientId=%C3%', 'clientId=%ed%a0%80', 'clientId=%c0%80', 'clientId=%f4%90%80%80', 'x=%ff&clientId=a', 'x=%&clientId=a', 'clientId=%zz&clientId=a',
	'clientId=' || repeat('%C3%A9', 100), 'clientId=' || repeat('x', 201), 'clientId=', 'collection=', 'clientId=null', 'clientId=a;collection=b', '?clientId=a', 'clientId=%22%5C']) WITH ORDINALITY AS t(query, n);
SELECT substr(id, 2), client_id, collection FROM docsync.document WHERE id ~ '^q\d' ORDER BY last_update_utc;
-- a claim binds this one, too
SELECT pg_temp.request('POST', '{"x-query-string": "clientId=a"}', '{"client_id": "c"}', $$SELECT docsync_docs('[]')$$);
SELECT pg_temp.request('POST', '{"x-query-string": "clientId=c"}', '{"client_id": "c"}', $$SELECT docsync_docs('[]')$$);
SELECT pg_temp.request('POST', '{"x-query-string": "clientId=a", "x-client-id": "h"}', NULL, $$SELECT count(*) FROM docsync_docs('[{"id": "url", "clientVersion": 1, "body": 1}]')$$);
SELECT client_id FROM docsync.document WHERE id = 'url';
SELECT pg_temp.request('POST', '{"x-query-string": 1}', NULL, $$SELECT docsync_docs('[]')$$);

--
-- Bodies: nothing that isn't known, nothing of another type
--
SELECT body, pg_temp.try(format('SELECT docsync_docs(%L)', body)), pg_temp.try(format('SELECT docsync_docs_sync(%L)', body))
  FROM unnest(ARRAY[NULL, 'null', '"x"', '17', 'true', '{}', '{"clientId": "x", "collection": "nowhere"}', '{"clientId": "x", "collection": "nowhere", "documents": null}', '{"documents": []}',
	'{"clientId": 1, "documents": []}', '{"clientId": ["x"], "documents": []}', '{"clientId": "x", "documents": {}}', '{"clientId": "x", "documents": "[]"}', '{"clientId": "x", "documents": 1}',
	'{"clientId": "x", "documents": true}', '{"clientId": "x", "documents": [1]}', '{"clientId": "x", "documents": [[]]}', '{"clientId": "x", "collection": 1, "documents": []}',
	'{"clientId": "x", "documents": [], "Collection": "x"}', '{"clientId": "x", "documents": [], "": 1}', '{"client_id": "x", "documents": []}', '{"id": "x", "clientVersion": 1, "body": 1}',
	'{"clientId": "x", "documents": [], "éééééééééééééééééééééééééééééééééééééééééé": 1}', '{"clientId": "", "documents": []}', '{"clientId": "x", "collection": "", "documents": []}',
	'{"clientId": "x", "documents": [], "cursor": "x"}', '{"clientId": "x", "documents": [], "cursor": 1}', '{"clientId": "x", "documents": [], "origin": "x"}', '{"clientId": "x", "documents": [], "origin": true}',
	'{"clientId": "x", "documents": [], "maxDocuments": "1"}', '{"clientId": "x", "documents": [], "maxDocuments": 0}', '{"clientId": "x", "documents": [], "maxDocuments": -1}',
	'{"clientId": "x", "documents": [], "maxDocuments": 2147483648}', '{"clientId": "x", "documents": [], "maxDocuments": 1e400}', '{"clientId": "x", "documents": [], "maxDocuments": true}',
	'{"clientId": "x", "documents": [], "maxDocuments": [1]}', '{"clientId": "x", "documents": [], "sinceUtc": "2001-02-03T04:05:06Z"}']) AS body;
SELECT pg_temp.ids(docsync_docs_sync('{"clientId": "x", "collection": "page", "maxDocuments": 2, "cursor": "5f3a9c0d1e2b4a77.978307202000000"}') -> 'documents');

-- Limits: 54000, over HTTP 413
SET docsync.max_batch = 1;
SET docsync.max_document_size = 100;
SELECT method, pg_temp.request(method, NULL, NULL, format(command, documents))
  FROM unnest(ARRAY[NULL, 'POST']) AS method,
	   unnest(ARRAY['[{"id": "x1", "clientVersion": 1, "body": 1}, {"id": "x2", "clientVersion": 1, "body": 1}]',
			'[{"id": "x1", "clientVersion": 1, "body": "' || repeat('x', 99) || '"}]']) AS documents,
	   unnest(ARRAY[$$SELECT docsync_sync('x', %L)$$, $$SELECT docsync_docs_sync('{"clientId": "x", "documents": %s}')$$, $$SELECT docsync_docs('{"clientId": "x", "documents": %s}')$$,
			$$SELECT docsync_upsert('x', %L)$$]) AS command;
-- as many bytes as may be
SELECT pg_temp.try($$SELECT docsync_sync('x', '[{"id": "x1", "clientVersion": 1, "body": "$$ || repeat('x', 98) || $$"}]', collection => 'size') ->> 'received'$$);
-- Numbers that came as jsonb count as they are written, wherever they are.
SELECT body, pg_temp.try(format($$SELECT outcome FROM docsync_upsert('x', '[{"id": "n", "clientVersion": 1, "body": %s}]', 'digits')$$, body))
  FROM unnest(ARRAY['1e80', '1e131071', '-1e131071', '1e-1000', '[1e100]', '{"a": {"b": [0, 1e100]}}', '[1e40,1e40,1e40]', '9223372036854775807', '[1.5, 2.25]', '0.00000000000000000001']) AS body;
RESET docsync.max_batch;
RESET docsync.max_document_size;
-- what is 400 stays as it is
SELECT method, pg_temp.request(method, NULL, NULL, $$SELECT docsync_pull(cursor => 'x')$$) FROM unnest(ARRAY['', 'GET', 'POST']) AS method;

--
-- Transactions
--
-- A pull in one that may not write, whatever the isolation
BEGIN READ ONLY;
SELECT pg_temp.ids(docsync_pull(collection => 'page') -> 'documents');
SELECT pg_temp.ids(docsync_docs_query('any', collection => 'page'));
SELECT pg_temp.ids(docsync_docs_sync('{"clientId": "x", "collection": "page"}') -> 'documents');
SELECT pg_temp.try($$SELECT docsync_sync('x')$$);
SELECT pg_temp.try($$SELECT docsync_docs('{"clientId": "x", "documents": []}')$$);
SELECT pg_temp.try($$SELECT docsync_docs_sync('{"clientId": "x", "documents": []}')$$);
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT pg_temp.ids(docsync_pull(collection => 'page') -> 'documents');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT pg_temp.ids(docsync_pull(collection => 'page') -> 'documents');
COMMIT;
-- A sync sees its upload, among what there was before it; the cursor is past it.
SELECT pg_temp.ids(s -> 'documents'), s ->> 'more', pg_temp.ids(docsync_pull('watch', collection => 'page', cursor => s ->> 'cursor', origin => 'any') -> 'documents')
  FROM docsync_sync('watch', '[{"id": "new", "clientVersion": 1, "body": 1}, {"id": "2", "clientVersion": 2, "body": 2}]', collection => 'page', origin => 'any') AS s;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT pg_temp.ids(docsync_sync('watch', '[{"id": "newer", "clientVersion": 1, "body": 1}]', collection => 'page', origin => 'own') -> 'documents');
SELECT pg_temp.ids(docsync_sync('watch', '[{"id": "newest", "clientVersion": 1, "body": 1}]', collection => 'page', origin => 'own', "maxDocuments" => 4) -> 'documents');
ROLLBACK;
SELECT pg_temp.ids(docsync_sync('watch', collection => 'page', origin => 'own') -> 'documents');
-- and what others have done before it, though not before its statement
CREATE EXTENSION dblink;
SELECT dblink_connect('other', format('host=%s port=%s dbname=%s user=%s', split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database(), current_user));
CREATE FUNCTION pg_temp.meanwhile() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM dblink_exec('other', $f$INSERT INTO docsync.document (collection, id, body) VALUES ('meanwhile', 'theirs', '1')$f$);
	RETURN new;
END
$$;
CREATE TRIGGER a_meanwhile BEFORE INSERT ON docsync.document FOR EACH ROW WHEN (new.collection = 'meanwhile' AND new.id = 'mine') EXECUTE FUNCTION pg_temp.meanwhile();
SELECT pg_temp.ids(docsync_sync('watch', '[{"id": "mine", "clientVersion": 1, "body": 1}]', collection => 'meanwhile', origin => 'any') -> 'documents');
DROP TRIGGER a_meanwhile ON docsync.document;
-- Tombstones that are purged then: the client has to be told.
INSERT INTO docsync.document (collection, id, last_update_utc, deleted, fence) VALUES
	('purged', 'old', '2001-01-01 00:00:02+00', true, '3'), ('purged', 'newest', '2001-01-01 00:00:03+00', true, '3');
CREATE FUNCTION pg_temp.purge() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM * FROM dblink('other', $f$CALL docsync_purge('1 day', 'purged')$f$) AS t(removed bigint);
	RETURN new;
END
$$;
CREATE TRIGGER a_purge BEFORE INSERT ON docsync.document FOR EACH ROW WHEN (new.collection = 'purged' AND new.id = 'mine') EXECUTE FUNCTION pg_temp.purge();
SELECT pg_temp.ids(docsync_pull(collection => 'purged', cursor => '5f3a9c0d1e2b4a77.978307201000000') -> 'documents');
SELECT pg_temp.request('POST', NULL, NULL, $$SELECT docsync_sync('watch', '[{"id": "mine", "clientVersion": 1, "body": 1}]', collection => 'purged', cursor => '5f3a9c0d1e2b4a77.978307201000000')$$);
SELECT count(*) FROM docsync.document WHERE collection = 'purged';
DROP TRIGGER a_purge ON docsync.document;
SELECT pg_temp.request('GET', NULL, NULL, $$SELECT docsync_pull(collection => 'purged', cursor => '5f3a9c0d1e2b4a77.978307201000000')$$);
SELECT pg_temp.ids(docsync_pull(collection => 'purged', cursor => '5f3a9c0d1e2b4a77.978307202000000') -> 'documents');
SELECT dblink_disconnect('other');
DROP EXTENSION dblink;

-- A request in one statement: what it sets lasts no longer.  The next one has claims of its own.
CREATE ROLE regress_docsync_caller;
SELECT docsync_grant('regress_docsync_caller') \g /dev/null
SELECT pg_temp.mask(split_part(called, E'\n', 1)) FROM docsync_call('docsync_docs', 'regress_docsync_caller', '{"client_id": "watch", "collection": "call"}', 'POST', '{}', '[{"id": "x", "clientVersion": 1, "body": 1}]') AS called;
SELECT pg_temp.ids(split_part(called, E'\n', 1)::json -> 'documents') FROM docsync_call('docsync_pull', 'regress_docsync_caller', '{"client_id": "phone", "collection": "call"}', 'GET', '{}', '') AS called;
SELECT current_user = session_user AS same, current_setting('request.jwt.claims', true) AS claims, current_setting('request.method', true) AS method,
	current_setting('response.headers', true) AS headers, current_setting('transaction_read_only') AS read_only, current_setting('search_path') AS search_path;

-- What a request did, for the log of the proxy
CREATE FUNCTION pg_temp.exchange(function text, headers text, body text, claims text DEFAULT '{}') RETURNS text
	LANGUAGE sql
AS $$
	SELECT regexp_replace(h ->> 'X-Docsync', '\m20[2-9]\d-[0-9T:.-]+Z', 'NOW', 'g')
	  FROM json_array_elements(split_part(docsync_call(function, 'regress_docsync_caller', claims, 'POST', headers, convert_to(body, 'UTF8')), E'\n', 2)::json) AS h
	 WHERE h ->> 'X-Docsync' IS NOT NULL
$$;
BEGIN; SELECT pg_temp.exchange('docsync_docs', '{"x-query-string": "collection=log&clientId=a"}', '[{"id": "1", "clientVersion": 1, "body": 1}, {"id": "2", "clientVersion": 1, "body": 1}, {"id": "2", "clientVersion": 0, "body": 1}]'); COMMIT;
BEGIN; SELECT pg_temp.exchange('docsync_docs', '{"x-query-string": "collection=log&clientId=a&atomic=false"}', '[{"id": "1", "clientVersion": 1, "body": 1}, {"id": "2", "clientVersion": 2, "body": 1}, {"id": "3", "clientVersion": 1, "body": 1, "baseVersion": 7}, {"id": "4"}]'); COMMIT;
BEGIN; SELECT pg_temp.exchange('docsync_docs_sync', '{}', '{"clientId": "b", "collection": "log", "maxDocuments": 1}'); COMMIT;
BEGIN; SELECT pg_temp.exchange('docsync_docs_sync', '{}', '{"clientId": "b", "collection": "log", "cursor": "0000000000000001.978307201000000", "reconcile": true, "documents": [{"id": "5", "clientVersion": 1, "body": 1}]}'); COMMIT;
BEGIN; SELECT pg_temp.exchange('docsync_docs_query', '{"x-query-string": "collection=log&clientId=b&sinceUtc=1970-01-01T00:00:00Z"}', ''); COMMIT;
BEGIN; SELECT pg_temp.exchange('docsync_docs_reconcile', '{}', '{"clientId": "b", "collection": "log", "maxDocuments": 2}'); COMMIT;
BEGIN; SELECT pg_temp.exchange('docsync_docs_get', '{}', '{"collection": "log", "ids": ["1", "none"]}'); COMMIT;
-- Of several collections the sums, and where the one is that is farthest behind; of one that is refused its documents
BEGIN; SELECT pg_temp.exchange('docsync_docs_sync', '{}', '{"clientId": "c", "collections": [{"collection": "log"}, {"collection": "call", "documents": [{"id": "x", "clientVersion": 2, "body": 1}]},
	{"collection": "none", "cursor": "x", "documents": [{"id": "x", "clientVersion": 2, "body": 1}]}]}'); COMMIT;
BEGIN; SELECT pg_temp.exchange('docsync_docs_sync', '{}', format('{"clientId": "c", "collections": [{"collection": "%s"}]}', repeat('x', 5000))); COMMIT;
-- Names of any kind
BEGIN; SELECT pg_temp.exchange('docsync_docs', '{}', '[]', '{"client_id": "Jürgen \"&=\n%;", "collection": "a/b c~.-_"}'); COMMIT;
BEGIN; SELECT length(pg_temp.exchange('docsync_docs', '{}', '[]', format('{"client_id": "%1$s", "collection": "%1$s"}', repeat('é', 100)))); COMMIT;
DROP OWNED BY regress_docsync_caller;
DROP ROLE regress_docsync_caller;

-- Nothing is left in the session.
SELECT name, setting FROM pg_settings WHERE name ~ '^(docsync\.|enable_(seqscan|sort|bitmapscan|indexscan)$|jit$)' AND source = 'session';
DROP VIEW pg_temp.differs;
SET client_min_messages = warning;
DROP SCHEMA docsync CASCADE;
DROP EXTENSION docsync;
