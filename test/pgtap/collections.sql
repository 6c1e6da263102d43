-- Several collections in one sync: an error of one is reported for that one only,
-- a page is shared, and what aborts the request aborts all of it.
SET client_min_messages = warning;
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
DROP SCHEMA IF EXISTS docsync CASCADE;
DROP EXTENSION IF EXISTS docsync;
CREATE EXTENSION docsync;
DO $$ BEGIN PERFORM docsync_create_store(); END $$;
SELECT plan(77);

CREATE FUNCTION pg_temp.sync_text(request text) RETURNS jsonb LANGUAGE sql
	AS $$ SELECT docsync_docs_sync(convert_to($1, 'UTF8'))::text::jsonb $$;
-- Of client "c", with more arguments
CREATE FUNCTION pg_temp.sync(collections jsonb, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql
	AS $$ SELECT pg_temp.sync_text((jsonb_build_object('clientId', 'c', 'collections', collections) || more)::text) $$;
CREATE FUNCTION pg_temp.docs(VARIADIC ids text[]) RETURNS jsonb LANGUAGE sql
	AS $$ SELECT jsonb_agg(jsonb_build_object('id', id, 'clientVersion', 1, 'body', id) ORDER BY n) FROM unnest(ids) WITH ORDINALITY AS i(id, n) $$;
CREATE FUNCTION pg_temp.part(collection text, documents jsonb DEFAULT NULL, cursor text DEFAULT NULL) RETURNS jsonb LANGUAGE sql
	AS $$ SELECT jsonb_build_object('collection', collection, 'documents', documents, 'cursor', cursor) $$;
-- An answer in short: what was received, what came, whether there is more; or the error's code
CREATE FUNCTION pg_temp.short(answer jsonb) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(concat(c ->> 'collection', ':', coalesce(c -> 'error' ->> 'code',
						concat(c ->> 'received', '/', jsonb_array_length(c -> 'documents'), CASE WHEN (c ->> 'more')::boolean THEN '+' END))), ' ' ORDER BY n)
	  FROM jsonb_array_elements($1 -> 'collections') WITH ORDINALITY AS c(c, n) $$;
CREATE FUNCTION pg_temp.stored(text) RETURNS bigint LANGUAGE sql
	AS $$ SELECT count(*) FROM docsync.document WHERE collection LIKE $1 $$;
-- The error that ends a request, in short
CREATE FUNCTION pg_temp.error_of(request text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	code text; message text; detail text;
BEGIN
	PERFORM pg_temp.sync_text(request);
	RETURN 'none';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
	RETURN concat_ws(' / ', code, message, nullif(detail, ''));
END
$$;

------------------------------------------------------------------------------
-- What may be asked for
------------------------------------------------------------------------------
SELECT is(pg_temp.short(pg_temp.sync(jsonb_build_array(pg_temp.part('z', pg_temp.docs('1', '2')), pg_temp.part('a', pg_temp.docs('1')), pg_temp.part(NULL, '[]')))),
	'z:2/0 a:1/0 default:0/0', 'in the order asked for; without a name it is "default"');
SELECT is(pg_temp.short(pg_temp.sync(jsonb_build_array(pg_temp.part('z'), pg_temp.part('a')), '{"origin": "any"}')), 'z:0/2 a:0/1', 'and downloaded');
SELECT is(pg_temp.short(pg_temp.sync(jsonb_build_array(pg_temp.part('a', pg_temp.docs('1', '2')), pg_temp.part('z')), '{"origin": "own"}')), 'a:2/2 z:0/2',
	'a download sees the upload');
SELECT is(pg_temp.sync('[]') - 'serverUtc', '{"collections": []}', 'no collection');
SELECT is((SELECT array_agg(k ORDER BY k) FROM jsonb_object_keys(pg_temp.sync('[{}]') -> 'collections' -> 0) AS k),
	ARRAY['collection', 'cursor', 'documents', 'more', 'received', 'results'], 'an answer has these keys');
SELECT is((SELECT array_agg(k ORDER BY k) FROM jsonb_object_keys(pg_temp.sync('[{"collection": "a", "state": true}]', '{"origin": "any"}') -> 'collections' -> 0) AS k),
	ARRAY['collection', 'cursor', 'documents', 'more', 'received', 'results', 'state'], 'and the state, if it is asked for');
SELECT is(jsonb_array_length(pg_temp.sync((SELECT jsonb_agg(pg_temp.part('many' || i)) FROM generate_series(1, 60) AS i)) -> 'collections'), 60, '60 collections');

SELECT is(pg_temp.error_of('{"clientId": "c", "collections": [' || repeat('{}, ', 60) || '{}]}'),
	'54000 / too many collections / {"text": "There are more than 60."}', '61 are too many');
SELECT is(pg_temp.error_of('{"clientId": "c", "collections": [{"collection": "x"}, {"collection": "y"}, {"collection": "x"}]}'),
	'22023 / collection 3: occurs twice / {"collection": 3, "text": "Collection 1 is the same."}', 'one that comes twice');
SELECT is(pg_temp.error_of('{"clientId": "c", "collections": [{"collection": null}, {"collection": "default"}]}'),
	'22023 / collection 2: occurs twice / {"collection": 2, "text": "Collection 1 is the same."}', 'once by name, and once without');
SELECT is(pg_temp.error_of(format('{"clientId": "c", %s, "collections": []}', argument)), message, argument)
  FROM (VALUES ('"collection": "x"', '22023 / "collection": not beside "collections" / {"key": "collection"}'),
			   ('"cursor": "x"', '22023 / "cursor": not beside "collections" / {"key": "cursor"}'),
			   ('"documents": []', '22023 / "documents": not beside "collections" / {"key": "documents"}'),
			   ('"state": true', '22023 / "state": not beside "collections" / {"key": "state"}'),
			   ('"cursor": null', 'none'),
			   ('"maxDocuments": 1, "reconcile": true, "tombstones": false, "atomic": false, "origin": "own"', 'none')) AS a(argument, message);
SELECT is(pg_temp.error_of('{"collections": []}'), '22004 / "clientId" is null', 'who asks is asked of all');
SELECT is(pg_temp.error_of('{"origin": "any", "collections": [{}]}'), 'none', 'but of nobody who wants all');
SELECT is(pg_temp.error_of('{"origin": "any", "collections": [{}, {"collection": "x", "documents": []}]}'), '22004 / "clientId" is null', 'and uploads nothing');
SELECT is(pg_temp.error_of(format('{"clientId": "c", "collections": %s}', collections)), message, collections)
  FROM (VALUES ('null', 'none'),
			   ('7', '22023 / "collections": not an array / {"key": "collections", "text": "It is a number."}'),
			   ('{}', '22023 / "collections": not an array / {"key": "collections", "text": "It is an object."}'),
			   ('[{}, 7]', '22023 / collection 2: not an object / {"collection": 2, "text": "It is a number."}'),
			   ('[null]', '22023 / collection 1: not an object / {"collection": 1, "text": "It is null."}'),
			   ('[{"clientId": "c"}]', '22023 / collection 1: unknown key / {"collection": 1, "text": "It has the key \"clientId\"."}'),
			   ('[{}, {"cursor": 7}]', '22023 / collection 2, "cursor": wrong type / {"collection": 2, "key": "cursor", "text": "It is a number."}'),
			   ('[{"documents": 7}]', '22023 / collection 1: documents is not an array / {"collection": 1, "text": "It is a number."}'),
			   ('[{"collections": []}]', '22023 / collection 1: unknown key / {"collection": 1, "text": "It has the key \"collections\"."}'),
			   ('[{"collection": "x"}, {"collection": "\u0000"}]',
				'22P05 / collection 2, "collection": unsupported Unicode escape sequence / {"collection": 2, "key": "collection", "offset": 70, "text": "\\u0000 cannot be converted to text."}')) AS c(collections, message);
SET LOCAL docsync.max_batch = 3;
SELECT is(pg_temp.short(pg_temp.sync(jsonb_build_array(pg_temp.part('batch/1', pg_temp.docs('1', '2')), pg_temp.part('batch/2', pg_temp.docs('1'))))), 'batch/1:2/0 batch/2:1/0',
	'docsync.max_batch is for all together');
SELECT is(pg_temp.error_of('{"clientId": "c", "collections": [{"collection": "x", "documents": [{}, {}]}, {"documents": [{}, {}]}]}'),
	'54000 / too many documents / {"text": "The batch has more documents than docsync.max_batch, 3."}', 'one more is too many');
SELECT is(pg_temp.error_of('{"clientId": "c", "collections": [{"documents": [{}, {}], "documents": []}, {"collection": "x", "documents": [{}, {}]}]}'),
	'none', 'of a key that comes twice the last counts');
RESET docsync.max_batch;

------------------------------------------------------------------------------
-- What is wrong with one
------------------------------------------------------------------------------
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	CASE new.body ->> 'raise'
		WHEN 'no table' THEN PERFORM FROM no_such_table;
		ELSE RAISE 'not this one' USING ERRCODE = new.body ->> 'raise';
	END CASE;
	RETURN new;
END
$$;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON docsync.document FOR EACH ROW WHEN (new.body ->> 'raise' IS NOT NULL) EXECUTE FUNCTION refuse();
CREATE FUNCTION pg_temp.bad(raise text) RETURNS jsonb LANGUAGE sql
	AS $$ SELECT jsonb_build_array(jsonb_build_object('id', 'bad', 'clientVersion', 1, 'body', jsonb_build_object('raise', raise))) $$;

SELECT is(pg_temp.short(pg_temp.sync(jsonb_build_array(pg_temp.part('one/a', pg_temp.docs('1')), part || '{"collection": "one/b"}', pg_temp.part('one/c', pg_temp.docs('1'))))),
		'one/a:1/0 one/b:' || code || ' one/c:1/0', name)
  FROM (VALUES ('not a cursor', jsonb_build_object('cursor', 'nonsense', 'documents', pg_temp.docs('1')), '22023'),
			   ('a cursor of another', jsonb_build_object('cursor', pg_temp.sync('[{"collection": "z"}]') -> 'collections' -> 0 -> 'cursor', 'documents', pg_temp.docs('1')), '22023'),
			   ('not a digest', jsonb_build_object('state', 'x', 'documents', pg_temp.docs('1')), '22023'),
			   ('a document that is refused by docsync', jsonb_build_object('documents', pg_temp.docs('1') || '[{"id": "2"}]'), '22023'),
			   ('one that is too deep', jsonb_build_object('documents', pg_temp.docs('1') || jsonb_build_array(jsonb_build_object('id', '2', 'clientVersion', 1, 'body', (repeat('[', 101) || repeat(']', 101))::jsonb))), '22023'),
			   ('one that the database refuses', jsonb_build_object('documents', pg_temp.docs('1', '2') || pg_temp.bad('23514')), '23514'),
			   ('alone', jsonb_build_object('documents', pg_temp.bad('P0001')), 'P0001')) AS v(name, part, code);
SELECT is(pg_temp.stored('one/%'), 2::bigint, 'nothing of it is applied, all of the others');
SELECT is(pg_temp.short(pg_temp.sync(jsonb_build_array(pg_temp.part('', pg_temp.docs('1')), pg_temp.part(repeat('x', 201)), pg_temp.part('one/a')))),
	':22023 ' || repeat('x', 201) || ':22023 one/a:0/0', 'names that are none');
SELECT is(pg_temp.sync(jsonb_build_array(pg_temp.part('one/a'), pg_temp.part('one/b', pg_temp.docs('1', '2') || pg_temp.bad('23514')))) -> 'collections' -> 1,
	'{"collection": "one/b", "error": {"code": "23514", "message": "not this one", "details": "{\"collection\": 2, \"document\": 3, \"id\": \"bad\"}", "hint": null}}',
	'the database''s refusal names the document');
SELECT is(pg_temp.sync(jsonb_build_array(pg_temp.part('one/a'), pg_temp.part('one/b', '[{"id": "x", "clientVersion": "1", "body": 1}]'))) -> 'collections' -> 1 -> 'error' ->> 'message',
	'collection 2, document 1, "clientVersion": wrong type', 'so does docsync''s');
SELECT is(pg_temp.error_of(jsonb_build_object('clientId', 'c', 'collections', jsonb_build_array(pg_temp.part('all/a', pg_temp.docs('1')), pg_temp.part('all/b', pg_temp.bad(raise))))::text),
		message, 'but this ends the request: ' || raise)
  FROM (VALUES ('40001', '40001 / not this one'), ('55P03', '55P03 / not this one'), ('53400', '53400 / not this one'), ('55000', '55000 / not this one'),
			   ('no table', '42P01 / relation "no_such_table" does not exist')) AS r(raise, message);
SELECT is(pg_temp.stored('all/%'), 0::bigint, 'and nothing is stored');

-- Not atomic
SELECT is(pg_temp.short(pg_temp.sync(jsonb_build_array(pg_temp.part('na/a', pg_temp.docs('1') || pg_temp.bad('23514')), pg_temp.part('na/b', pg_temp.docs('1', '2'))), '{"atomic": false}')),
	'na/a:2/0 na/b:2/0', 'without atomic a document is refused alone');
SELECT is(pg_temp.stored('na/%'), 3::bigint, 'and the rest is stored');
WITH answer AS (SELECT pg_temp.sync((SELECT jsonb_agg(pg_temp.part('ref/' || i, (SELECT jsonb_agg(d || jsonb_build_object('id', n::text)) FROM generate_series(1000, 1019) AS n, jsonb_array_elements(pg_temp.bad('23514')) AS d))) FROM generate_series(1, 3) AS i), '{"atomic": false}'))
SELECT is((SELECT string_agg(outcome || ' ' || count, ', ' ORDER BY outcome) FROM (SELECT r ->> 'outcome' AS outcome, count(*) FROM answer, jsonb_array_elements(sync -> 'collections') AS c, jsonb_array_elements(c -> 'results') AS r GROUP BY 1) AS o),
	'refused 32, untried 28', '32 refusals are enough for a request');

-- Subtransactions: each has an id, and with more than 64 everybody's snapshots are slower.
SELECT is((SELECT string_agg(DISTINCT r ->> 'outcome', ' ') FROM jsonb_array_elements(pg_temp.sync((SELECT jsonb_agg(pg_temp.part(format('xid/%s/%s', atomic, i), pg_temp.docs('1', '2', '3'))) FROM generate_series(1, 60) AS i),
		jsonb_build_object('atomic', atomic)) -> 'collections') AS c, jsonb_array_elements(c -> 'results') AS r), 'created', format('60 uploads, atomic %s', atomic))
  FROM unnest(ARRAY[true, false]) AS atomic;
SELECT is((SELECT max(xmin::text::bigint) - min(xmin::text::bigint) + 1 FROM docsync.document WHERE collection LIKE format('xid/%s/%%', atomic)), 60::bigint, format('take 60 subtransactions, atomic %s', atomic))
  FROM unnest(ARRAY['t', 'f']) AS atomic;

------------------------------------------------------------------------------
-- The page
------------------------------------------------------------------------------
SELECT docsync_upsert('writer', (SELECT jsonb_agg(jsonb_build_object('id', i::text, 'clientVersion', 1, 'body', repeat('x', 1000))) FROM generate_series(1, n) AS i), collection)
  FROM (VALUES ('page/a', 10), ('page/b', 2), ('page/d', 10)) AS v(collection, n) \g /dev/null
CREATE FUNCTION pg_temp.page(documents int) RETURNS text LANGUAGE sql
	AS $$ SELECT replace(pg_temp.short(pg_temp.sync(jsonb_build_array(pg_temp.part('page/a'), pg_temp.part('page/b'), pg_temp.part('page/c'), pg_temp.part('page/d')), jsonb_build_object('maxDocuments', documents))), 'page/', '') $$;
SELECT is(pg_temp.page(documents), page, format('a page of %s', documents))
  FROM (VALUES (1, 'a:0/1+ b:0/1+ c:0/0 d:0/1+'), (4, 'a:0/2+ b:0/1+ c:0/0 d:0/1+'), (8, 'a:0/3+ b:0/2 c:0/0 d:0/3+'), (10, 'a:0/4+ b:0/2 c:0/0 d:0/4+'),
			   (21, 'a:0/10 b:0/2 c:0/0 d:0/9+'), (22, 'a:0/10 b:0/2 c:0/0 d:0/10')) AS p(documents, page);
SET LOCAL docsync.max_page_size = 1;
SELECT is(pg_temp.page(1000), 'a:0/1+ b:0/1+ c:0/0 d:0/1+', 'a page of one byte');
SET LOCAL docsync.max_page_size = 9000;
SELECT is(pg_temp.page(1000), 'a:0/4+ b:0/2 c:0/0 d:0/3+', 'a page of 9 kB');
-- Winners, too, each of about 1 kB
SET LOCAL docsync.max_page_size = 2500;
WITH answer AS (SELECT pg_temp.sync((SELECT jsonb_agg(pg_temp.part('page/' || c, pg_temp.docs('1') || jsonb_set(pg_temp.docs('2'), '{0,clientVersion}', '0'))) FROM unnest(ARRAY['a', 'b', 'd']) AS c), '{"origin": "own"}'))
SELECT is((SELECT string_agg(coalesce((r ->> 'winnerOmitted'), 'sent'), ' ' ORDER BY c ->> 'collection', r ->> 'id') FROM answer, jsonb_array_elements(sync -> 'collections') AS c, jsonb_array_elements(c -> 'results') AS r),
	'sent sent true true true true', 'winners have one page for all');
SELECT is(count(*), 3::bigint, 'nothing of which is stored') FROM docsync.document WHERE collection LIKE 'page/%' AND id = '2' AND client_id = 'writer';
RESET docsync.max_page_size;

CREATE FUNCTION pg_temp.drain(documents int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	parts jsonb := '[{"collection": "page/a"}, {"collection": "page/b"}, {"collection": "page/c"}, {"collection": "page/d"}]';
	got text[] := '{}';
	answer jsonb;
BEGIN
	FOR i IN 1 .. 100 LOOP
		answer := pg_temp.sync(parts, jsonb_build_object('maxDocuments', documents));
		got := got || ARRAY(SELECT concat(c ->> 'collection', ' ', d ->> 'id') FROM jsonb_array_elements(answer -> 'collections') AS c, jsonb_array_elements(c -> 'documents') AS d);
		parts := (SELECT jsonb_agg(jsonb_build_object('collection', c -> 'collection', 'cursor', c -> 'cursor')) FROM jsonb_array_elements(answer -> 'collections') AS c);
		EXIT WHEN answer -> 'collections' @> '[{"more": true}]' IS FALSE;
	END LOOP;
	RETURN concat(cardinality(got), ' ', (SELECT count(DISTINCT g) FROM unnest(got) AS g));
END
$$;
SELECT is(pg_temp.drain(documents), '22 22', format('page by page of %s nothing is lost or comes twice', documents)) FROM unnest(ARRAY[1, 5, 7]) AS documents;

------------------------------------------------------------------------------
-- Who can't go on
------------------------------------------------------------------------------
CREATE TABLE position AS SELECT c ->> 'collection' AS collection, c ->> 'cursor' AS cursor
  FROM jsonb_array_elements(pg_temp.sync('[{"collection": "page/a"}, {"collection": "page/b"}]') -> 'collections') AS c;
CREATE FUNCTION pg_temp.go_on(part jsonb DEFAULT '{}', more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql
	AS $$ SELECT pg_temp.sync((SELECT jsonb_agg(jsonb_build_object('collection', collection, 'cursor', cursor) || part ORDER BY collection) FROM position), more) $$;
-- A cursor above the clock
UPDATE position SET cursor = regexp_replace(cursor, '\.\d+', '.' || (SELECT floor(extract(epoch FROM clock_timestamp()) * 1000000 + 1000000)::bigint)) WHERE collection = 'page/b';
SELECT is(pg_temp.short(pg_temp.go_on()), 'page/a:0/0 page/b:resync_lost', 'one cursor is lost');
SELECT is(pg_temp.go_on() -> 'collections' -> 1 -> 'error' ->> 'details', alone.details, 'as it would be alone')
  FROM (SELECT substr(pg_temp.error_of(jsonb_build_object('clientId', 'c', 'collection', collection, 'cursor', cursor)::text), length('55000 / resync required / ') + 1) AS details FROM position WHERE collection = 'page/b') AS alone;
SELECT is(pg_temp.short(pg_temp.go_on(more => '{"reconcile": true}')), 'page/a:0/0 page/b:0/0', 'who can compare goes on');
SELECT is(pg_temp.go_on(more => '{"reconcile": true}') -> 'collections' @> '[{"collection": "page/a"}, {"collection": "page/b", "reconcile": true}]'
	AND NOT pg_temp.go_on(more => '{"reconcile": true}') -> 'collections' @> '[{"collection": "page/a", "reconcile": true}]', true, 'and is told so, of the one');
SELECT is(pg_temp.short(pg_temp.go_on(jsonb_build_object('documents', pg_temp.docs('new')))), 'page/a:1/0 page/b:resync_lost', 'its documents are not applied, the other''s are');
SELECT is((SELECT string_agg(collection, ' ') FROM docsync.document WHERE id = 'new'), 'page/a', 'so it is');

-- One that is above the clock now, and won't be after the other's upload
CREATE FUNCTION pg_temp.pass_by(id text, reconcile boolean) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	UPDATE position SET cursor = regexp_replace(cursor, '\.\d+', '.' || (SELECT last_value + 1 FROM docsync.clock)) WHERE collection = 'page/b';
	RETURN pg_temp.sync((SELECT jsonb_agg(pg_temp.part(collection, CASE collection WHEN 'page/a' THEN pg_temp.docs(id) END, cursor) ORDER BY collection) FROM position),
		jsonb_build_object('reconcile', reconcile));
END
$$;
SELECT is(pg_temp.short(pg_temp.pass_by('newer', false)), 'page/a:1/0 page/b:resync_lost', 'cursors are judged before any upload moves the clock');
SELECT is(pg_temp.pass_by('newest', true) -> 'collections' -> 1 -> 'reconcile', 'true', 'and that is not forgotten after it');

SELECT * FROM finish();
ROLLBACK;
