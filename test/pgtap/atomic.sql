-- Documents of an upload that the database refuses: each refusal names its
-- document, and with atomic => false doesn't stop the others.
SET client_min_messages = warning;
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
DROP SCHEMA IF EXISTS docsync CASCADE;
DROP EXTENSION IF EXISTS docsync;
CREATE EXTENSION docsync;
DO $$ BEGIN PERFORM docsync_create_store(); END $$;
SELECT plan(140);

------------------------------------------------------------------------------
-- Whoever refuses
------------------------------------------------------------------------------
CREATE TABLE owner (owner text PRIMARY KEY);
CREATE TABLE audit (id text);
INSERT INTO owner VALUES ('ann');
ALTER TABLE docsync.document
	ADD COLUMN owner text REFERENCES owner,
	ADD COLUMN filled text NOT NULL DEFAULT '',
	ADD CONSTRAINT even CHECK (body ->> 'even' IS NULL OR (body ->> 'even')::int % 2 = 0);
CREATE UNIQUE INDEX once ON docsync.document ((body ->> 'unique'));
CREATE INDEX wide ON docsync.document ((body ->> 'wide'));
CREATE INDEX number ON docsync.document (((body ->> 'number')::int));
INSERT INTO docsync.document (collection, id, body) VALUES ('taken', 'taken', '{"unique": "taken"}');

CREATE FUNCTION refuse_before() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	new.owner := new.body ->> 'owner';
	CASE new.body ->> 'before'
		WHEN 'raise' THEN RAISE 'not this one' USING DETAIL = 'A detail.', HINT = 'A hint.';
		WHEN 'suppress' THEN RETURN NULL;
		WHEN 'id' THEN new.id := new.id || ' ';
		WHEN 'null' THEN new.filled := NULL;
		WHEN 'no body' THEN new.body := NULL;
		WHEN 'divide' THEN PERFORM 1 / 0;
		WHEN 'no table' THEN PERFORM FROM no_such_table;
		WHEN 'no table' THEN PERFORM FROM no_such_table;
		WHEN 'no right' THEN INSERT INTO audit VALUES (new.id);
		WHEN 'twice' THEN PERFORM (SELECT 1 FROM generate_series(1, 2));
		WHEN 'body' THEN new.body := '"by a trigger"';
		WHEN 'version' THEN new.client_version := new.client_version + 1;
		WHEN 'client' THEN new.client_id := 'another';
		WHEN 'deleted' THEN new.deleted := true;
		WHEN 'scale' THEN new.body := replace(new.body::text, '1.5', '1.50');
		WHEN 'filled' THEN new.filled := 'by a trigger';
		ELSE
			IF new.body ->> 'before' ~ '^[0-9A-Z]{5}$' THEN
				RAISE 'not this one' USING ERRCODE = new.body ->> 'before';
			END IF;
	END CASE;
	RETURN new;
END
$$;
CREATE TRIGGER before BEFORE INSERT OR UPDATE ON docsync.document FOR EACH ROW EXECUTE FUNCTION refuse_before();
CREATE FUNCTION refuse_after() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE 'not that one' USING ERRCODE = new.body ->> 'after';
END
$$;
CREATE TRIGGER after AFTER INSERT OR UPDATE ON docsync.document FOR EACH ROW WHEN (new.body ? 'after') EXECUTE FUNCTION refuse_after();

-- A batch of count documents, 0001 and so on, sent from the last to the first, of which one has the body given
CREATE FUNCTION pg_temp.batch(count int, place int DEFAULT 0, body jsonb DEFAULT NULL, version int DEFAULT 1) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_agg(jsonb_build_object('id', to_char(i, 'FM0000'), 'clientVersion', version, 'body', CASE WHEN i = place THEN $3 ELSE to_jsonb(i) END) ORDER BY i DESC)
	  FROM generate_series(1, count) AS i
$$;
-- The error of a call, as results have it; NULL if there is none
CREATE FUNCTION pg_temp.error_of(call text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	message text;
	details text;
	hint text;
BEGIN
	EXECUTE call;
	RETURN NULL;
EXCEPTION WHEN OTHERS OR QUERY_CANCELED THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, details = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN jsonb_build_object('code', SQLSTATE, 'message', message, 'details', nullif(details, ''), 'hint', nullif(hint, ''));
END
$$;

CREATE TEMP TABLE refusal (place serial, name text, body jsonb, code text, message text, text text, hint text);
INSERT INTO refusal (name, body, code, message, text, hint) VALUES
	('a RAISE', '{"before": "raise"}', 'P0001', 'not this one', 'A detail.', 'A hint.'),
	('a RAISE with a code of somebody''s own', '{"before": "PT422"}', 'PT422', 'not this one', NULL, NULL),
	('a RAISE with a policy''s code', '{"before": "42501"}', '42501', 'not this one', NULL, NULL),
	('a RAISE after the statement', '{"after": "P0001"}', 'P0001', 'not that one', NULL, NULL),
	('a suppressed row', '{"before": "suppress"}', '27000', 'document % was not stored', 'A trigger on docsync.document may have suppressed it.', NULL),
	('another id', '{"before": "id"}', '27000', 'a trigger on docsync.document has changed the document''s id', NULL, NULL),
	('a division by zero', '{"before": "divide"}', '22012', 'division by zero', NULL, NULL),
	('a column''s NOT NULL', '{"before": "null"}', '23502', 'null value in column "filled" of relation "document" violates not-null constraint', 'Failing row contains %', NULL),
	('no body', '{"before": "no body"}', '23514', 'the document has no body', NULL, 'Only a deleted document may have none.'),
	('a CHECK', '{"even": 17}', '23514', 'new row for relation "document" violates check constraint "even"', 'Failing row contains %', NULL),
	('a CHECK that fails', '{"even": "x"}', '22P02', 'invalid input syntax for type integer: "x"', NULL, NULL),
	('an index that fails', '{"number": "x"}', '22P02', 'invalid input syntax for type integer: "x"', NULL, NULL),
	('an index that has no room', jsonb_build_object('wide', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 300) AS i)), '54000', 'index row %', 'Index row %', '%'),
	('a unique index', '{"unique": "taken"}', '23505', 'duplicate key value violates unique constraint "once"', 'Key ((body ->> ''unique''::text))=(taken) already exists.', NULL),
	('a foreign key', '{"owner": "bob"}', '23503', 'insert or update on table "document" violates foreign key constraint "document_owner_fkey"', 'Key (owner)=(bob) is not present in table "owner".', NULL);

-- In batches of all kinds, at each end and in the middle, of new documents and of others; in all, who was named, and how
CREATE TEMP TABLE result AS
	SELECT r.place, count, at, is_new, NULL::jsonb AS atomic, NULL::jsonb AS error, NULL::text AS outcomes, NULL::bigint AS stored_of_atomic, NULL::bigint AS stored
	  FROM refusal AS r, (VALUES (1, 1), (2, 1), (2, 2), (3, 2), (60, 1), (60, 30), (60, 60), (520, 510)) AS b(count, at), unnest('{true,false}'::bool[]) AS is_new
	 WHERE count < 100 OR r.place IN (1, 4, 15);
DO $$
DECLARE
	r record;
	documents jsonb;
BEGIN
	FOR r IN SELECT result.ctid, result.*, body, name FROM result JOIN refusal USING (place) LOOP
		IF NOT r.is_new THEN
			PERFORM docsync_upsert('c', pg_temp.batch(r.count), c) FROM unnest('{whole,parts}'::text[]) AS c;
		END IF;
		documents := pg_temp.batch(r.count, r.at, r.body, 2);
		UPDATE result SET
			atomic = pg_temp.error_of(format('SELECT docsync_upsert(%L, %L, %L)', 'c', documents, 'whole')),
			stored_of_atomic = (SELECT count(*) FROM docsync.document WHERE collection = 'whole' AND client_version = 2)
		 WHERE ctid = r.ctid;
		UPDATE result SET (error, outcomes) = (SELECT jsonb_agg(u.error) FILTER (WHERE outcome = 'refused') -> 0, string_agg(DISTINCT outcome, ' ' ORDER BY outcome) || ' ' || count(*) FILTER (WHERE outcome = 'refused')
				FROM docsync_upsert('c', documents, 'parts', false) AS u)
		 WHERE place = r.place AND count = r.count AND at = r.at AND is_new = r.is_new;
		UPDATE result SET stored = (SELECT count(*) FROM docsync.document WHERE collection = 'parts' AND client_version = 2)
		 WHERE place = r.place AND count = r.count AND at = r.at AND is_new = r.is_new;
		-- As if there had been none: rows go in a purge alone.
		SET LOCAL session_replication_role = replica;
		DELETE FROM docsync.document WHERE collection IN ('whole', 'parts');
		SET LOCAL session_replication_role = origin;
	END LOOP;
END
$$;
SELECT is_empty(format($$
	SELECT r.name, count, at, is_new, atomic FROM result JOIN refusal AS r USING (place)
	 WHERE place = %s AND (atomic ->> 'code' <> code OR atomic ->> 'message' NOT LIKE message OR atomic IS NULL
		OR (atomic ->> 'details')::jsonb - 'text' <> jsonb_build_object('document', count + 1 - at, 'id', to_char(at, 'FM0000'))
		OR (atomic ->> 'details')::jsonb ->> 'text' IS DISTINCT FROM text AND (atomic ->> 'details')::jsonb ->> 'text' NOT LIKE text
		OR atomic ->> 'hint' IS DISTINCT FROM hint AND atomic ->> 'hint' NOT LIKE hint OR stored_of_atomic <> 0)$$, place),
	name || ' names the document, and nothing is stored') FROM refusal ORDER BY place;
SELECT is_empty($$
	SELECT r.name, count, at, is_new, atomic, error, outcomes, stored FROM result JOIN refusal AS r USING (place)
	 WHERE regexp_replace(error::text, 'Failing row contains .*?\)\.', '') IS DISTINCT FROM regexp_replace(atomic::text, 'Failing row contains .*?\)\.', '') OR stored <> count - 1
		OR outcomes <> CASE WHEN count > 1 THEN CASE WHEN is_new THEN 'created ' ELSE '' END ELSE '' END || 'refused' || CASE WHEN count > 1 AND NOT is_new THEN ' updated' ELSE '' END || ' 1'$$,
	'with atomic => false the same is the error of that document, and the others are stored');


------------------------------------------------------------------------------
-- What isn't about one document is nobody's to pass over.
------------------------------------------------------------------------------
CREATE ROLE regress_docsync_uploader;
SELECT docsync_grant('regress_docsync_uploader') \gset
GRANT SELECT ON owner TO regress_docsync_uploader;
CREATE FUNCTION pg_temp.error_as(role text, call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	error jsonb;
BEGIN
	PERFORM set_config('role', role, true);
	error := pg_temp.error_of(call);
	PERFORM set_config('role', 'none', true);
	RETURN concat_ws(' ', error ->> 'code', error ->> 'message', error ->> 'details');
END
$$;
SELECT is(pg_temp.error_as('regress_docsync_uploader', format('SELECT docsync_upsert(%L, %L, %L, %L)', 'c', pg_temp.batch(count, 1, body), 'other', atomic)), error,
	format('%s, of %s, atomic => %s', body, count, atomic))
  FROM (VALUES ('{"before": "no table"}'::jsonb, '42P01 relation "no_such_table" does not exist'),
			   ('{"before": "no table"}', '42P01 relation "no_such_table" does not exist'),
			   ('{"before": "no right"}', '42501 permission denied for table audit'),
			   ('{"before": "twice"}', '21000 more than one row returned by a subquery used as an expression'),
			   ('{"before": "40001"}', '40001 not this one'),
			   ('{"before": "53200"}', '53200 not this one'),
			   ('{"before": "55P03"}', '55P03 not this one'),
			   ('{"before": "57014"}', '57014 not this one'),
			   ('{"before": "58030"}', '58030 not this one'),
			   ('{"before": "XX001"}', 'XX001 not this one'),
			   ('{"after": "40P01"}', '40P01 not that one')) AS e(body, error), unnest('{1,3}'::int[]) AS count, unnest('{true,false}'::bool[]) AS atomic;
REVOKE INSERT (body) ON docsync.document FROM regress_docsync_uploader;
SELECT is(pg_temp.error_as('regress_docsync_uploader', format('SELECT docsync_upsert(%L, %L, %L, false)', 'c', pg_temp.batch(3), 'other')), '42501 permission denied for table document',
	'nor a right that is missing on a column');
REVOKE ALL ON docsync.document FROM regress_docsync_uploader;
SELECT is(pg_temp.error_as('regress_docsync_uploader', format('SELECT docsync_upsert(%L, %L, %L, false)', 'c', documents, 'other')), '42501 permission denied for table ' || name,
	format('nor on the table: %s', documents)) FROM (VALUES ('[]', 'docsync.document'), ('[1]', 'docsync.document'), ('[{"id": "a", "clientVersion": 1, "body": 1}]', 'document')) AS v(documents, name);
SELECT docsync_grant('regress_docsync_uploader') \gset

------------------------------------------------------------------------------
-- Many
------------------------------------------------------------------------------
-- One in so many: some are stored, 32 refused, and the rest is tried another time, until all is done.
CREATE FUNCTION pg_temp.send_all(collection text, bad jsonb, count int, every int, OUT calls bigint, OUT most_refused bigint, OUT most_subtransactions bigint, OUT refused bigint, OUT stored bigint)
	LANGUAGE plpgsql AS $$
DECLARE
	batch jsonb := (SELECT jsonb_agg(jsonb_build_object('id', to_char(i, 'FM0000'), 'clientVersion', 1, 'body', CASE WHEN i % every = 0 THEN bad ELSE '0' END)) FROM generate_series(1, count) AS i);
	times record;
	before xid8;
BEGIN
	calls := 0; most_refused := 0; refused := 0; most_subtransactions := 0;
	LOOP
		DROP TABLE IF EXISTS answer;
		CREATE TEMP TABLE answer ON COMMIT DROP AS SELECT * FROM docsync_upsert('c', batch, $1, false);
		SELECT count(*) FILTER (WHERE outcome = 'refused') AS refused, count(*) FILTER (WHERE outcome = 'created') AS created, count(*) FILTER (WHERE outcome = 'untried') AS untried,
			   count(*) FILTER (WHERE outcome NOT IN ('refused', 'created', 'untried')) AS others INTO times FROM answer;
		IF times.others > 0 OR times.refused + times.created = 0 THEN
			RAISE 'no progress, or another outcome: %', times;
		END IF;
		calls := calls + 1;
		refused := refused + times.refused;
		most_refused := greatest(most_refused, times.refused);
		most_subtransactions := greatest(most_subtransactions, (SELECT count(DISTINCT d.xmin::text) FROM docsync.document AS d JOIN answer AS a USING (id) WHERE d.collection = $1 AND a.outcome = 'created'));
		EXIT WHEN times.untried = 0;
		batch := (SELECT jsonb_agg(b) FROM jsonb_array_elements(batch) AS b JOIN answer AS a ON a.id = b ->> 'id' WHERE a.outcome = 'untried');
	END LOOP;
	stored := (SELECT count(*) FROM docsync.document AS d WHERE d.collection = $1);
END
$$;
SELECT is((SELECT (calls, refused, stored, most_refused, most_subtransactions)::text FROM pg_temp.send_all('many', '{"before": "raise"}', 300, 2)), '(5,150,150,32,32)',
	'32 refusals are enough for one call, and they take 32 subtransactions that stay');
SELECT is((SELECT (calls, refused, stored, most_refused, most_subtransactions)::text FROM pg_temp.send_all('thousand', '{"before": "raise"}', 1024, 32)), '(1,32,992,32,32)',
	'... however many others there are');
SELECT ok(refused = 32 AND stored = 992 AND most_subtransactions BETWEEN 40 AND 60, format('where it shows after the statement, more are needed for each, and fewer refused: %s', s))
  FROM pg_temp.send_all('thousand after', '{"after": "P0001"}', 1024, 32) AS s;

------------------------------------------------------------------------------
-- An id several times
------------------------------------------------------------------------------
CREATE FUNCTION pg_temp.outcomes(documents jsonb, collection text DEFAULT 'ids') RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(concat_ws(' ', id, client_version, outcome, winner -> 'body', error ->> 'code'), ', ' ORDER BY ordinal) FROM docsync_upsert('c', documents, collection, false)
$$;
SELECT is(pg_temp.outcomes('[{"id": "a", "clientVersion": 1, "body": 1}, {"id": "a", "clientVersion": 2, "body": {"before": "raise"}}, {"id": "a", "clientVersion": 3, "body": {"after": "P0001"}}]'),
	'a 1 created, a refused P0001, a refused P0001', 'if the last is refused, the one before is tried');
SELECT is(pg_temp.outcomes('[{"id": "a", "clientVersion": 2, "body": {"before": "suppress"}}, {"id": "a", "clientVersion": 1, "body": 2}, {"id": "a", "clientVersion": 4, "body": 4}, {"id": "a", "clientVersion": "5", "body": 4}, {"id": "a", "clientVersion": 3, "body": 4}]'),
	'a 4 updated, a 4 discarded 4, a 4 updated, a refused 22023, a 4 discarded 4', 'one that isn''t read isn''t there, one that isn''t the last isn''t tried');
SELECT is(pg_temp.outcomes('[{"id": "a", "clientVersion": 9, "baseVersion": 4, "body": {"even": 1}}, {"id": "a", "clientVersion": 8, "baseVersion": 9, "body": 8}]'),
	'a refused 23514, a 4 conflict 4', 'what is based on one that is refused is in conflict');

------------------------------------------------------------------------------
-- What was stored isn't what was sent
------------------------------------------------------------------------------
SELECT is(pg_temp.outcomes(jsonb_build_array(jsonb_build_object('id', change, 'clientVersion', version, 'body', jsonb_build_object('before', change, 'n', 1.5)))), format('%s %s', change, outcome), format('%s: %s', change, version))
  FROM (VALUES ('body', 1, '1 modified "by a trigger"'), ('body', 2, '2 modified "by a trigger"'), ('version', 1, '2 modified {"n": 1.5, "before": "version"}'),
			   ('client', 1, '1 modified {"n": 1.5, "before": "client"}'), ('deleted', 1, '1 modified {"n": 1.5, "before": "deleted"}'),
			   ('scale', 1, '1 created'), ('scale', 2, '2 updated'), ('filled', 1, '1 created')) AS v(change, version, outcome);
SELECT winner AS told FROM docsync_upsert('c', '[{"id": "deleted", "clientVersion": 7, "body": {"before": "deleted"}}]', 'ids') \gset
SELECT is(:'told'::jsonb, jsonb_build_object('id', id, 'clientVersion', client_version, 'clientId', client_id, 'LastUpdateUtc', to_char(last_update_utc AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'deleted', deleted, 'body', body),
	'the winner is all of what is stored') FROM docsync.document WHERE collection = 'ids' AND id = 'deleted';
SELECT is(pg_temp.outcomes('[{"id": "body", "clientVersion": 2, "body": {"before": "body", "n": 1.5}}]'), 'body 2 discarded "by a trigger"', 'sent again it loses against that');
SELECT is(pg_temp.outcomes('[{"id": "two", "clientVersion": 1, "body": 1}, {"id": "two", "clientVersion": 5, "body": {"before": "body"}}, {"id": "two", "clientVersion": 3, "body": 3}]'),
	'two 5 created, two 5 modified "by a trigger", two 5 discarded "by a trigger"', 'what loses against it gets what is stored, too');
SELECT is((SELECT string_agg(DISTINCT concat_ws(' ', outcome, winner -> 'body'), ', ') FROM docsync_upsert('c', pg_temp.batch(60, 30, '{"before": "body"}'), 'sixty', true)), 'created, modified "by a trigger"', 'one of many, atomic');
SELECT is((docsync_docs('{"clientId": "c", "collection": "http", "documents": [{"id": "a", "clientVersion": 1, "body": {"before": "body"}}]}')::jsonb #- '{results,0,LastUpdateUtc}' #- '{results,0,winner,LastUpdateUtc}')::text,
	'{"results": [{"id": "a", "winner": {"id": "a", "body": "by a trigger", "deleted": false, "clientId": "c", "clientVersion": 1}, "outcome": "modified", "clientVersion": 1}], "received": 1}', 'over HTTP');
ALTER TABLE docsync.document DISABLE TRIGGER before;
SELECT is(pg_temp.outcomes('[{"id": "off", "clientVersion": 1, "body": {"before": "body"}}]'), 'off 1 created', 'a trigger that is off changes nothing');
ALTER TABLE docsync.document ENABLE TRIGGER before;
SELECT is(pg_temp.outcomes('[{"id": "off", "clientVersion": 2, "body": {"before": "body"}}]'), 'off 2 modified "by a trigger"', 'on again it does');

------------------------------------------------------------------------------
-- What is wrong before the database sees it
------------------------------------------------------------------------------
SET LOCAL docsync.max_document_size = 1000;
SET LOCAL docsync.max_version_lead = 60000;
CREATE TEMP TABLE bad AS SELECT row_number() OVER () AS place, document::jsonb FROM unnest(ARRAY['1', 'null', '[]', '{}', '{"id": 1, "clientVersion": 1, "body": 1}', '{"id": "", "clientVersion": 1, "body": 1}',
	format('{"id": "%s", "clientVersion": 1, "body": 1}', repeat('x', 501)), '{"id": "a", "body": 1}', '{"id": "a", "clientVersion": 1}', '{"id": "a", "clientVersion": null, "body": 1}', '{"id": "a", "clientVersion": 1.5, "body": 1}',
	'{"id": "a", "clientVersion": 9223372036854775808, "body": 1}', '{"id": "a", "clientVersion": 9223372036854775807, "body": 1}', '{"id": "a", "clientVersion": 1, "body": 1, "deleted": 1}', '{"id": "a", "clientVersion": 1, "body": 1, "x": 1}',
	'{"id": "a", "clientVersion": 1, "body": 1, "baseVersion": "1"}', '{"id": "a", "clientVersion": 1, "body": 1, "baseUtc": "2026-11-27T10:00:00Z"}', '{"id": "a", "clientVersion": 1, "body": 1, "baseVersion": 1, "baseUtc": "x"}',
	format('{"id": "a", "clientVersion": 1, "body": "%s"}', repeat('x', 2000))]) AS document;
SELECT is((SELECT string_agg(concat_ws(' ', ordinal, outcome), ', ' ORDER BY ordinal) FROM docsync_upsert('c', (SELECT jsonb_agg(CASE WHEN i % 2 = 1 THEN document ELSE jsonb_build_object('id', 'good ' || place, 'clientVersion', 1, 'body', 1) END ORDER BY place, i)
		FROM bad, generate_series(0, 1) AS i), 'bad', false)),
	(SELECT string_agg(concat_ws(' ', place * 2 - 1, 'created, ') || concat_ws(' ', place * 2, 'refused'), ', ' ORDER BY place) FROM bad), 'each is refused, and each other stored');
SELECT is(u.id, CASE WHEN document -> 'id' IS NOT NULL AND jsonb_typeof(document -> 'id') = 'string' THEN document ->> 'id' END, format('the id in the answer: %s', left(document::text, 60)))
  FROM bad CROSS JOIN LATERAL docsync_upsert('c', jsonb_build_array(document), 'bad', false) AS u;
-- But for how far ahead a version may be, which is more each millisecond
SELECT is(regexp_replace(error::text, 'at most \d+', ''), regexp_replace(pg_temp.error_of(format('SELECT docsync_upsert(%L, %L)', 'c', jsonb_build_array('{"id": "good", "clientVersion": 1, "body": 1}'::jsonb, document)))::text, 'at most \d+', ''), format('it is the error of an atomic one: %s', left(document::text, 60)))
  FROM bad CROSS JOIN LATERAL docsync_upsert('c', jsonb_build_array('{"id": "good", "clientVersion": 1, "body": 1}'::jsonb, document), 'bad', false) AS u WHERE ordinal = 2;
SELECT is(pg_temp.error_of(format('SELECT docsync_upsert(%L, %L, atomic => false)', 'c', documents)) ->> 'code', code, format('what is wrong with all of it stops it: %s', left(documents, 30)))
  FROM (VALUES ('{}', '22023'), ('1', '22023'), (NULL, '22004'), ((SELECT jsonb_agg(i)::text FROM generate_series(1, 10001) AS i), '54000')) AS v(documents, code);
RESET docsync.max_document_size;
RESET docsync.max_version_lead;

SELECT is(docsync_docs(convert_to(body::text, 'UTF8')) ->> 'received', received, format('as a key of the body: %s', body))
  FROM (VALUES ('{"clientId": "c", "collection": "key", "atomic": false, "documents": [1]}'::jsonb, '1'), ('{"clientId": "c", "collection": "key", "atomic": true, "documents": []}', '0'), ('{"clientId": "c", "collection": "key", "atomic": null, "documents": []}', '0')) AS v(body, received);
SELECT is(pg_temp.error_of(format('SELECT docsync_docs(%L)', body)) ->> 'message', message, format('... %s', body))
  FROM (VALUES ('{"clientId": "c", "atomic": true, "documents": [1]}', 'document 1: not an object'), ('{"clientId": "c", "documents": [1]}', 'document 1: not an object'), ('{"clientId": "c", "atomic": "false", "documents": []}', '"atomic": wrong type')) AS v(body, message);
SELECT is(docsync_docs_sync('{"clientId": "c", "collection": "key", "atomic": false, "documents": [1]}') #>> '{results,0,outcome}', 'refused', 'of a sync''s');
SELECT is(docsync_sync('c', '[1]', collection => 'key', atomic => false) #>> '{results,0,error,message}', 'document 1: not an object', 'as an argument');
SELECT is(docsync_sync('c', '[1]', collection => 'key', atomic => false) #>> '{results,0,error,details}', '{"document": 1, "text": "It is a number."}', '... with the place as JSON');

------------------------------------------------------------------------------
-- Any batch comes out as its documents do one by one.
------------------------------------------------------------------------------
SELECT setseed(0.23) AS seed \gset
CREATE FUNCTION pg_temp.any_document() RETURNS jsonb LANGUAGE sql VOLATILE AS $$
	SELECT jsonb_build_object('id', to_char(random() * 40, 'FM00'), 'clientVersion', (random() * 6)::int,
		'body', CASE WHEN random() < 0.2 THEN (SELECT body FROM refusal WHERE place <> 14 ORDER BY random() LIMIT 1) WHEN random() < 0.1 THEN '{"before": "body"}' ELSE to_jsonb((random() * 3)::int) END)
		|| CASE WHEN random() < 0.1 THEN jsonb_build_object('deleted', true) ELSE '{}' END
		|| CASE WHEN random() < 0.2 THEN jsonb_build_object('baseVersion', nullif((random() * 6)::int, 0)) ELSE '{}' END
		|| CASE WHEN random() < 0.03 THEN '{"clientVersion": "x"}'::jsonb ELSE '{}' END
$$;
-- An id once in a batch: else what is written of it is the last that wins, and the others aren't tried.
CREATE TEMP TABLE difference (batch int, in_batch text, one_by_one text);
DO $$
DECLARE
	documents jsonb;
	document jsonb;
	client text;
	at_once text;
	one_by_one text;
	u record;
BEGIN
	FOR i IN 1..150 LOOP
		client := (ARRAY['c', 'd'])[1 + (random() < 0.3)::int];
		documents := (SELECT jsonb_agg(d ORDER BY random()) FROM (SELECT DISTINCT ON (d ->> 'id') d FROM (SELECT pg_temp.any_document() AS d FROM generate_series(1, 12 + 60 * (i % 3))) AS a ORDER BY d ->> 'id') AS b);
		at_once := (SELECT string_agg(concat_ws(' ', id, outcome, client_version, winner ->> 'body', error ->> 'code', error ->> 'message' NOT LIKE 'document %'), ', ' ORDER BY ordinal) FROM docsync_upsert(client, documents, 'at once', false));
		one_by_one := NULL;
		FOR document IN SELECT * FROM jsonb_array_elements(documents) LOOP
			FOR u IN SELECT * FROM docsync_upsert(client, jsonb_build_array(document), 'one by one', false) LOOP
				one_by_one := concat_ws(', ', one_by_one, concat_ws(' ', u.id, u.outcome, u.client_version, u.winner ->> 'body', u.error ->> 'code', u.error ->> 'message' NOT LIKE 'document %'));
			END LOOP;
		END LOOP;
		INSERT INTO difference SELECT i, at_once, one_by_one WHERE at_once <> one_by_one;
	END LOOP;
END
$$;
SELECT is_empty('SELECT * FROM difference', '150 random batches');
SELECT is_empty($$SELECT id, client_version, client_id, deleted, body, count(*) FROM docsync.document WHERE collection IN ('at once', 'one by one') GROUP BY 1, 2, 3, 4, 5 HAVING count(*) <> 2$$, '... and what is stored');
SELECT ok(count(*) > 20, '... which is something') FROM docsync.document WHERE collection = 'at once';

SELECT * FROM finish();
ROLLBACK;
