-- Harm that a role with the right to upload could do to others, or a trigger to
-- an upload.
BEGIN;
SET LOCAL client_min_messages = warning;
SELECT plan(35);

CREATE ROLE regress_docsync_bob;
SELECT docsync_grant('regress_docsync_bob') \g /dev/null

------------------------------------------------------------------------------
-- A claim binds, whichever function is called
------------------------------------------------------------------------------
SET LOCAL request.jwt.claims = '{"client_id": "bob"}';
SELECT throws_ok($$SELECT docsync_upsert('anna', '[]')$$, '42501', '"clientId" is not the token''s', 'docsync_upsert');
SELECT throws_ok($$SELECT docsync_query_since('anna')$$, '42501', '"clientId" is not the token''s', 'docsync_query_since');
SELECT throws_ok($$SELECT docsync_pull('anna')$$, '42501', '"clientId" is not the token''s', 'docsync_pull');
SELECT throws_ok($$SELECT docsync_docs('{"clientId": "anna", "documents": []}')$$, '42501', '"clientId" is not the token''s', 'docsync_docs');
SELECT throws_ok($$SELECT docsync_sync('anna')$$, '42501', '"clientId" is not the token''s', 'docsync_sync');
SELECT throws_ok($$SELECT docsync_docs_sync('{"clientId": "anna"}')$$, '42501', '"clientId" is not the token''s', 'docsync_docs_sync');
SELECT throws_ok($$SELECT docsync_docs_query('own', "clientId" => 'anna')$$, '42501', '"clientId" is not the token''s', 'docsync_docs_query');
SELECT throws_ok($$SELECT docsync_docs_reconcile('{"clientId": "anna"}')$$, '42501', '"clientId" is not the token''s', 'docsync_docs_reconcile');
SELECT throws_ok($$SELECT docsync_docs_get('{"clientId": "anna", "ids": []}')$$, '42501', '"clientId" is not the token''s', 'docsync_docs_get');
SELECT lives_ok($$SELECT docsync_upsert('bob', '[]')$$, 'his own name is fine');
SELECT lives_ok($$SELECT docsync_query_since(NULL, origin => 'any')$$, 'and so is none');
SET LOCAL request.jwt.claims = '';

------------------------------------------------------------------------------
-- A document that could be stored and never be sent
------------------------------------------------------------------------------
SELECT set_config('regress.bomb', '[' || repeat('1e131071,', 9000) || '1]', true) \g /dev/null
SET ROLE regress_docsync_bob;
SELECT throws_ok($$INSERT INTO docsync.document (id, body) VALUES ('bomb', current_setting('regress.bomb')::jsonb)$$,
	'22023', '"body": number too long', 'by INSERT');
INSERT INTO docsync.document (id, body) VALUES ('bomb', '1');
SELECT throws_ok($$UPDATE docsync.document SET body = current_setting('regress.bomb')::jsonb$$,
	'22023', '"body": number too long', 'by UPDATE');
RESET ROLE;
SELECT throws_ok($$INSERT INTO docsync.document (id, body, last_update_utc, fence) VALUES ('old', '1', '0044-03-15 BC', '3')$$,
	'22023', 'last_update_utc is infinite, or not after 1970-01-01', 'a stamp that has no text');
SELECT throws_ok($$INSERT INTO docsync.document (collection, id, body, last_update_utc, fence) VALUES (NULL, 'none', '1', now(), '3')$$,
	'23502', NULL, 'a stamp without a collection');
SELECT throws_ok($$INSERT INTO docsync.document (collection, id, body, last_update_utc, fence) VALUES ('none', NULL, '1', now(), '3')$$,
	'23502', NULL, '... or without an id');

------------------------------------------------------------------------------
-- A small request whose answer would be gigabytes
------------------------------------------------------------------------------
SELECT docsync_upsert('anna', jsonb_agg(jsonb_build_object('id', n::text, 'clientVersion', 9, 'body', repeat('x', 1000000))), 'large')
  FROM generate_series(1, 80) n \g /dev/null
SELECT is((SELECT count(*) || ' ' || count(winner) || ' ' || bool_and(outcome = 'discarded') FROM docsync_upsert('bob',
	(SELECT jsonb_agg(jsonb_build_object('id', n::text, 'clientVersion', 1, 'body', 1)) FROM generate_series(1, 80) n), 'large')),
	'80 67 true', 'winners end at max_page_size');
SELECT is(json_array_length(docsync_pull(collection => 'large') -> 'documents'), 68, 'and so does a page');
-- What is left out isn't read either.
ALTER TABLE docsync.document ALTER body SET STORAGE EXTERNAL;
SELECT docsync_upsert('anna', jsonb_agg(jsonb_build_object('id', n::text, 'clientVersion', 9, 'body', repeat('x', 100000))), 'apart')
  FROM generate_series(1, 300) n \g /dev/null
SET LOCAL docsync.max_page_size = 1000000;
CREATE FUNCTION regress_docsync_read() RETURNS bigint LANGUAGE sql AS $$ SELECT pg_stat_get_xact_blocks_fetched(reltoastrelid) FROM pg_class WHERE oid = 'docsync.document'::regclass $$;
SELECT regress_docsync_read() AS before \gset
CREATE TEMP TABLE answer AS SELECT value AS result FROM json_array_elements(docsync_docs(convert_to(jsonb_build_object('clientId', 'bob', 'collection', 'apart', 'documents',
	(SELECT jsonb_agg(jsonb_build_object('id', n::text, 'clientVersion', 1, 'body', 1)) FROM generate_series(1, 300) n))::text, 'UTF8')) -> 'results') AS result;
SELECT is(count(result ->> 'winner') || ' ' || count(result ->> 'winnerOmitted'), '9 291', 'what is left out is said to be') FROM answer;
SELECT cmp_ok(regress_docsync_read() - :before, '<', 20 * 30::bigint, 'and isn''t read');
SELECT is(count(*), 300::bigint, 'each has one or the other') FROM answer WHERE result ->> 'outcome' = 'discarded' AND (result ->> 'winner' IS NULL) = (coalesce(result ->> 'winnerOmitted', 'false') = 'true');
SELECT is((docsync_docs('{"clientId": "bob", "collection": "apart", "documents": [{"id": "1", "clientVersion": 10, "baseVersion": 8, "body": 1}, {"id": "none", "clientVersion": 10, "baseVersion": 8, "body": 1}, {"id": "new", "clientVersion": 10, "body": 1}]}')::jsonb
		#- '{results,0,winner}' #- '{results,0,LastUpdateUtc}' #- '{results,2,LastUpdateUtc}')::text,
	'{"results": [{"id": "1", "outcome": "conflict", "clientVersion": 9}, {"id": "none", "winner": null, "outcome": "conflict", "LastUpdateUtc": null, "clientVersion": null}, {"id": "new", "winner": null, "outcome": "created", "clientVersion": 10}], "received": 3}',
	'nothing is left out where there is none');
-- Nor is what can't be the same, to see whether it is a retry.
SELECT regress_docsync_read() AS before \gset
SELECT is((SELECT count(*) || ' ' || count(winner) FROM docsync_upsert('anna', (SELECT jsonb_agg(jsonb_build_object('id', n::text, 'clientVersion', 9, 'body', 1)) FROM generate_series(1, 300) n), 'apart')), '300 9',
	'the same version with another content');
SELECT cmp_ok(regress_docsync_read() - :before, '<', 20 * 30::bigint, '... isn''t read');
SELECT is((SELECT count(*) || ' ' || bool_and(outcome = 'unchanged') FROM docsync_upsert('anna', (SELECT jsonb_agg(jsonb_build_object('id', n::text, 'clientVersion', 9, 'body', repeat('x', 100000))) FROM generate_series(1, 9) n), 'apart')), '9 true',
	'but a retry is known');
CREATE TEMP TABLE dense AS SELECT jsonb_build_array(jsonb_build_object('id', 'ones', 'clientVersion', 1, 'body', (SELECT jsonb_agg(1) FROM generate_series(1, 10000))),
		jsonb_build_object('id', 'empty', 'clientVersion', 1, 'body', (SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, 10000))),
		jsonb_build_object('id', 'scale', 'clientVersion', 1, 'body', '[1.50, 1e300, 1e-300, 12345678901234567890]'::jsonb),
		jsonb_build_object('id', 'one', 'clientVersion', 1, 'body', 1e300)) AS documents;
SELECT is(string_agg(DISTINCT outcome, ' '), 'created', 'what is small in text and large in the table') FROM dense, docsync_upsert('anna', documents, 'dense');
SELECT is(string_agg(DISTINCT outcome, ' '), 'unchanged', '... is known, too') FROM dense, docsync_upsert('anna', documents, 'dense');
SELECT is(string_agg(DISTINCT result ->> 'outcome', ' '), 'unchanged', '... as text, too')
  FROM dense, json_array_elements(docsync_docs(convert_to(format('{"clientId": "anna", "collection": "dense", "documents": %s}', replace(documents::text, ' ', '')), 'UTF8')) -> 'results') AS result;
RESET docsync.max_page_size;
ALTER TABLE docsync.document ALTER body SET STORAGE EXTENDED;

------------------------------------------------------------------------------
-- The lock table, and a type that somebody has altered
------------------------------------------------------------------------------
CREATE FUNCTION regress_docsync_many() RETURNS void LANGUAGE plpgsql AS
$$
BEGIN
	FOR n IN 1 .. 300 LOOP
		INSERT INTO docsync.document (collection, id, body) VALUES ('many' || n, 'x', '1');
		BEGIN
			RAISE 'back';
		EXCEPTION WHEN raise_exception THEN
			NULL;
		END;
	END LOOP;
END
$$;
SELECT regress_docsync_many() \g /dev/null
SELECT cmp_ok((SELECT count(*)::int FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), '<', 80,
	'subtransactions rolled back do not bring more marks');

INSERT INTO docsync.document (id, body) VALUES ('typed', '1');
SAVEPOINT s;
ALTER TYPE docsync_change ADD ATTRIBUTE extra text;
SELECT throws_ok($$SELECT * FROM docsync_query_since('zoe')$$, '42804', 'type docsync_change has been altered', 'no crash');
ROLLBACK TO s;
ALTER TYPE docsync_change ALTER ATTRIBUTE body TYPE json;
SELECT throws_ok($$SELECT * FROM docsync_query_since('zoe')$$, '42804', 'type docsync_change has been altered', '... by another type');
ROLLBACK TO s;
ALTER TYPE docsync_change ALTER ATTRIBUTE client_version TYPE numeric;
SELECT throws_ok($$SELECT * FROM docsync_query_since('zoe')$$, '42804', 'type docsync_change has been altered', '... by one that isn''t passed by value');
ROLLBACK TO s;
ALTER TYPE docsync_change DROP ATTRIBUTE body;
SELECT throws_ok($$SELECT * FROM docsync_query_since('zoe')$$, '42804', 'type docsync_change has been altered', '... by one that is dropped');
ALTER TYPE docsync_change ADD ATTRIBUTE body jsonb;
SELECT throws_ok($$SELECT * FROM docsync_query_since('zoe')$$, '42804', 'type docsync_change has been altered', '... and made anew');
ROLLBACK TO s;
ALTER TYPE docsync_change RENAME ATTRIBUTE body TO content;
SELECT lives_ok($$SELECT content FROM docsync_query_since('zoe')$$, 'a name is nothing to it');

SELECT * FROM finish();
ROLLBACK;
