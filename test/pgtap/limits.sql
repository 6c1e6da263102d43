-- The largest uploads: what fits is stored, in one statement and in proportional
-- memory; what doesn't fit is refused, and leaves nothing behind.
--
-- The batches are made in another session, so that this one's memory is only what
-- the upload takes.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
DROP TABLE IF EXISTS regress_docsync_batch;
CREATE TABLE regress_docsync_batch (documents jsonb);
ALTER TABLE regress_docsync_batch ALTER documents SET STORAGE EXTERNAL;
-- 10,000 documents of 10 kB
INSERT INTO regress_docsync_batch
	SELECT jsonb_agg(jsonb_build_object('id', i::text, 'clientVersion', 1, 'body', repeat(md5(i::text), 313)))
	  FROM generate_series(1, 10000) AS i;
\connect -
SET client_min_messages = warning;
BEGIN;
DROP SCHEMA IF EXISTS docsync CASCADE;
DROP EXTENSION IF EXISTS docsync;
CREATE EXTENSION docsync;
DO $$ BEGIN PERFORM docsync_create_store(); END $$;
SELECT plan(21);

-- This process's memory at its peak, in MB.  (Shared memory is in it from the
-- start.)
CREATE FUNCTION pg_temp.peak() RETURNS int
	LANGUAGE sql
AS $$
	SELECT ((regexp_match(pg_read_file('/proc/self/status'), 'VmPeak:\s+(\d+) kB'))[1]::bigint / 1024)::int
$$;
CREATE TEMP TABLE memory AS SELECT pg_temp.peak() AS start;

SELECT cmp_ok((SELECT pg_column_size(documents) / 1e6 FROM regress_docsync_batch), '>', 100::numeric, 'a batch of 100 MB');
SELECT is((SELECT string_agg(DISTINCT outcome, ' ') || ' ' || count(*) FROM regress_docsync_batch, docsync_upsert('tablet', documents)),
	'created 10000', '... is created');
SELECT cmp_ok(pg_temp.peak() - start, '<', 250, '... in less than 250 MB of memory') FROM memory;
SELECT is((SELECT count(*) || ' ' || min(length(body ->> 0)) FROM docsync.document), '10000 10016', '... and stored');
SELECT is((SELECT string_agg(DISTINCT outcome, ' ') || ' ' || count(*) FROM regress_docsync_batch, docsync_upsert('tablet', documents)),
	'unchanged 10000', 'a second time it is unchanged');
SELECT is((SELECT string_agg(DISTINCT outcome, ' ') || ' ' || count(*) || ' ' || (sum(length(winner ->> 'body')) BETWEEN 60e6 AND 67.2e6)
	FROM regress_docsync_batch, docsync_upsert('phone', documents)),
	'discarded 10000 true', 'another client''s is discarded, and answered with 64 MB of winners at the most');
SELECT is((SELECT count(*) || ' ' || sum(length(body ->> 0)) FROM docsync_query_since('phone')), '10000 100160000', 'it is downloaded');
SET LOCAL docsync.max_page_size = '128 MB';
SELECT cmp_ok(length(docsync_pull("maxDocuments" => NULL)::text) / 1e6, '>', 100::numeric, '... as one value, too');
RESET docsync.max_page_size;
CREATE TEMP TABLE page AS SELECT docsync_pull("maxDocuments" => NULL) AS first;
SELECT is(first ->> 'more', 'true', 'as a rule it comes in pages') FROM page;
SELECT cmp_ok(length(first ->> 'documents') - 64 * 1024 * 1024, '<', 11000, '... which end after 64 MB') FROM page;
SELECT cmp_ok(length(first ->> 'documents') - 64 * 1024 * 1024, '>=', 0, '... not earlier') FROM page;
SELECT is(json_array_length(first -> 'documents') + json_array_length(docsync_pull(cursor => first ->> 'cursor', "maxDocuments" => NULL) -> 'documents'), 10000,
	'... and the second has the rest') FROM page;
SELECT cmp_ok(pg_temp.peak() - start, '<', 500, '... all in less than 500 MB of memory') FROM memory;

-- 300 MB is more than a jsonb holds, but no jsonb is made of the batch.
SELECT is((SELECT docsync_sync('tablet', ('[' || string_agg('{"id":"' || i || '","clientVersion":1,"body":"' || repeat('0123456789abcdef', 1875) || '"}', ',') || ']')::json,
		collection => 'huge', origin => 'own', "maxDocuments" => 1) ->> 'received'
	  FROM generate_series(1, 10000) AS i), '10000', 'a batch of 300 MB is taken as text');
SELECT throws_ok($$
	SELECT docsync_upsert('tablet', ('[' || string_agg('{"id":"' || i || '","clientVersion":1,"body":"' || repeat('0123456789abcdef', 1875) || '"}', ',') || ']')::jsonb, 'huge')
	  FROM generate_series(1, 10000) AS i$$, '54000',
	'total size of jsonb array elements exceeds the maximum of 268435455 bytes', '... but can''t be as jsonb');
SELECT is((SELECT outcome FROM docsync_upsert('tablet', '[{"id": "small", "clientVersion": 1, "body": 1}]', 'huge')), 'created', '... and the session goes on');

-- Reading can be cancelled: of 48 MB it takes longer than that, and what is wrong is at the end.
SELECT set_config('request.headers', '{"x-client-id": "tablet"}', true) \g /dev/null
CREATE FUNCTION pg_temp.read() RETURNS text
	LANGUAGE plpgsql
AS $$
BEGIN
	PERFORM docsync_docs(convert_to('[{"id": "x", "clientVersion": 1, "LastUpdateUtc": [' || repeat('1,', 24 * 1024 * 1024) || '1], "body": 1}', 'UTF8'));
	RETURN 'read';
EXCEPTION
	WHEN query_canceled OR invalid_text_representation THEN
		RETURN SQLSTATE;
END
$$;
SELECT is(pg_temp.read(), '22P02', '48 MB are read to the end');
SET LOCAL statement_timeout = '150ms';
SELECT is(pg_temp.read(), '57014', '... or not');
RESET statement_timeout;
-- Of numbers that are too long none is written out.
CREATE TEMP TABLE numbers AS SELECT '[' || repeat('1e131071,', 230000) || '1]' AS body;
SET LOCAL statement_timeout = '2s';
SELECT throws_ok($$SELECT docsync_docs(convert_to('[{"id": "x", "clientVersion": 1, "body": ' || body || '}]', 'UTF8')) FROM numbers$$, '22023', 'document 1, "body": number too long', '2 MB of numbers are refused, at once');
SET LOCAL docsync.max_document_size = '16MB';
SELECT throws_ok($$SELECT docsync_docs(convert_to('[{"id": "x", "clientVersion": 1, "body": ' || body || '}]', 'UTF8')) FROM numbers$$, '22023', 'document 1, "body": number too long', '... wherever the limit is');
SELECT throws_ok($$SELECT docsync_upsert('tablet', jsonb_build_array(jsonb_build_object('id', 'x', 'clientVersion', 1, 'body', body::jsonb))) FROM numbers$$, '22023', 'document 1, "body": number too long', '... as jsonb');
RESET docsync.max_document_size;
RESET statement_timeout;

SELECT * FROM finish();
ROLLBACK;
DROP TABLE regress_docsync_batch;
