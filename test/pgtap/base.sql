-- baseVersion and baseUtc: a document is applied only if the service has what it
-- is based on. For every combination of what is stored, sent and named as the
-- base, the result of docsync_upsert and the table afterwards are compared with a
-- restatement of the rule, and a batch with the same documents sent one by one.
SET client_min_messages = warning;
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS docsync;
DO $$ BEGIN PERFORM docsync_create_store(); END $$;
SELECT plan(16);

-- The rule once more, as it reads
CREATE FUNCTION pg_temp.rule(held docsync.document, client_id text, sent jsonb) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	version bigint := sent -> 'clientVersion';
	based boolean := sent ? 'baseVersion';
	base bigint := CASE WHEN sent ->> 'baseVersion' IS NOT NULL THEN (sent -> 'baseVersion')::bigint END;
	base_utc timestamptz := (sent ->> 'baseUtc')::timestamptz;
	same boolean := held.id IS NOT NULL AND held.client_version = version AND (held.client_id = client_id OR based)
		AND held.deleted = coalesce((sent -> 'deleted')::boolean, false) AND held.body IS NOT DISTINCT FROM sent -> 'body';
BEGIN
	IF based AND (held.client_version IS DISTINCT FROM base OR held.id IS NOT NULL AND base_utc IS NOT NULL AND held.last_update_utc <> base_utc) THEN
		RETURN CASE WHEN same THEN 'unchanged' ELSE 'conflict' END;
	END IF;
	IF held.id IS NULL THEN RETURN 'created'; END IF;
	IF held.client_version < version THEN RETURN 'updated'; END IF;
	IF held.client_version > version THEN RETURN 'discarded'; END IF;
	IF same THEN RETURN 'unchanged'; END IF;
	RETURN CASE WHEN version = 0 THEN 'updated' ELSE 'discarded' END;
END
$$;

-- What may be stored (n = 0: nothing), and what may be sent by client "me"; of baseUtc "right" and "wrong" become times
CREATE TEMP TABLE contents (deleted boolean, body jsonb);
INSERT INTO contents VALUES (false, '"a"'), (false, 'null'), (true, NULL);
CREATE TEMP TABLE held AS
	SELECT row_number() OVER () AS n, version, client_id, deleted, body
	  FROM unnest('{-1,0,1,2}'::bigint[]) AS version, contents, unnest('{me,other}'::text[]) AS client_id
	UNION ALL SELECT 0, NULL, NULL, NULL, NULL;
CREATE TEMP TABLE sent AS
	SELECT jsonb_build_object('clientVersion', version) || CASE WHEN deleted THEN '{"deleted": true}' ELSE '{}'::jsonb END || CASE WHEN body IS NULL THEN '{}' ELSE jsonb_build_object('body', body) END
		|| base || CASE WHEN base ? 'baseVersion' THEN utc ELSE '{}' END AS document
	  FROM unnest('{0,1,2}'::bigint[]) AS version, contents,
		   unnest(ARRAY['{}', '{"baseVersion": null}', '{"baseVersion": -1}', '{"baseVersion": 0}', '{"baseVersion": 1}', '{"baseVersion": 2}']::jsonb[]) AS base,
		   unnest(ARRAY['{}', '{"baseUtc": "right"}', '{"baseUtc": "wrong"}']::jsonb[]) AS utc
	 WHERE base ? 'baseVersion' OR utc = '{}';
CREATE FUNCTION pg_temp.hold(collection text, id text, held held) RETURNS void
	LANGUAGE sql
AS $$
	INSERT INTO docsync.document (collection, id, client_version, client_id, deleted, body)
	SELECT $1, $2, held.version, held.client_id, held.deleted, held.body WHERE held.version IS NOT NULL
$$;
CREATE FUNCTION pg_temp.utc(stamp timestamptz) RETURNS text
	LANGUAGE sql
AS $$
	SELECT to_char($1 AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

-- Compares one upload with the rule; returns what is wrong, or null.
CREATE FUNCTION pg_temp.try(held held, sent jsonb, id text) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	before docsync.document;
	after docsync.document;
	expected text;
	answer record;
BEGIN
	PERFORM pg_temp.hold('base', id, held);
	SELECT * INTO before FROM docsync.document AS d WHERE d.collection = 'base' AND d.id = try.id;
	IF sent ? 'baseUtc' THEN
		sent := sent || jsonb_build_object('baseUtc', pg_temp.utc(coalesce(before.last_update_utc, '2001-01-01') + CASE sent ->> 'baseUtc' WHEN 'right' THEN '0' ELSE interval '1 us' END));
	END IF;
	expected := pg_temp.rule(before, 'me', sent);
	SELECT * INTO STRICT answer FROM docsync_upsert('me', jsonb_build_array(sent || jsonb_build_object('id', id)), 'base');
	SELECT * INTO after FROM docsync.document AS d WHERE d.collection = 'base' AND d.id = try.id;

	IF answer.ordinal <> 1 OR answer.id <> id OR answer.outcome <> expected THEN
		RETURN format('%s instead of %s', answer, expected);
	END IF;
	IF (answer.client_version, answer.last_update_utc) IS DISTINCT FROM (after.client_version, after.last_update_utc) THEN
		RETURN format('%s answered, but %s stored', answer, after);
	END IF;
	IF expected IN ('created', 'updated') THEN
		IF (after.client_version, after.client_id, after.deleted, after.body) IS DISTINCT FROM
		   ((sent -> 'clientVersion')::bigint, 'me', coalesce((sent -> 'deleted')::boolean, false), sent -> 'body')
		   OR after.last_update_utc <= before.last_update_utc THEN
			RETURN format('%s, but %s stored', expected, after);
		END IF;
	ELSIF after IS DISTINCT FROM before THEN
		RETURN format('%s, but %s became %s', expected, before, after);
	END IF;
	IF answer.winner IS DISTINCT FROM (CASE WHEN expected IN ('discarded', 'conflict') AND after.id IS NOT NULL THEN jsonb_build_object(
			'id', after.id, 'clientVersion', after.client_version, 'clientId', after.client_id,
			'LastUpdateUtc', pg_temp.utc(after.last_update_utc), 'deleted', after.deleted, 'body', after.body) END) THEN
		RETURN format('%s, and winner %s', expected, answer.winner);
	END IF;
	RETURN NULL;
EXCEPTION WHEN OTHERS THEN
	RETURN format('%s %s', SQLSTATE, SQLERRM);
END
$$;
SELECT is(count(*), 25 * 144::bigint, 'all combinations of a stored and a sent document with its base') FROM held, sent;
CREATE TEMP TABLE tried AS
	SELECT held, document, pg_temp.try(held, document, row_number() OVER ()::text) AS wrong FROM held, sent;
SELECT is_empty('SELECT * FROM tried WHERE wrong IS NOT NULL LIMIT 5', 'outcome, answer, winner and table follow the rule');

-- An id that comes several times: two and three documents of one id, some of all
SELECT setseed(0.17) AS seed \gset
CREATE TEMP TABLE cases AS
	SELECT row_number() OVER ()::text AS id, held, documents
	  FROM (SELECT held, jsonb_build_array(a.document, b.document) || CASE WHEN random() < 0.5 THEN jsonb_build_array(c.document) ELSE '[]' END AS documents
			  FROM (SELECT * FROM generate_series(1, 1500)) AS n,
				   LATERAL (SELECT held FROM held WHERE n.* IS NOT NULL ORDER BY random() LIMIT 1) AS h, LATERAL (SELECT document FROM sent WHERE n.* IS NOT NULL AND NOT document ? 'baseUtc' ORDER BY random() LIMIT 1) AS a,
				   LATERAL (SELECT document FROM sent WHERE n.* IS NOT NULL AND NOT document ? 'baseUtc' ORDER BY random() LIMIT 1) AS b, LATERAL (SELECT document FROM sent WHERE n.* IS NOT NULL AND NOT document ? 'baseUtc' ORDER BY random() LIMIT 1) AS c) AS s;
UPDATE cases SET documents = (SELECT jsonb_agg(document || jsonb_build_object('id', id) ORDER BY place) FROM jsonb_array_elements(documents) WITH ORDINALITY AS d(document, place));
CREATE TEMP TABLE one_by_one (id text, place bigint, outcome text);
CREATE TEMP TABLE at_once (id text, place bigint, outcome text, client_version bigint, last_update_utc timestamptz, winner jsonb);
CREATE TEMP TABLE refused (id text, error text);
SELECT count(pg_temp.hold('one by one', id, held)), count(pg_temp.hold('at once', id, held)), count(pg_temp.hold('together', id, held)) FROM cases \gset
DO $$
DECLARE
	c record;
	d record;
BEGIN
	FOR c IN SELECT * FROM cases LOOP
		FOR d IN SELECT * FROM jsonb_array_elements(c.documents) WITH ORDINALITY AS d(document, place) LOOP
			INSERT INTO one_by_one SELECT c.id, d.place, outcome FROM docsync_upsert('me', jsonb_build_array(d.document), 'one by one');
		END LOOP;
		BEGIN
			INSERT INTO at_once SELECT id, ordinal, outcome, client_version, last_update_utc, winner FROM docsync_upsert('me', c.documents, 'at once');
		EXCEPTION WHEN OTHERS THEN
			INSERT INTO refused VALUES (c.id, SQLERRM);
		END;
	END LOOP;
END
$$;
ANALYZE cases, one_by_one, at_once, docsync.document;
SELECT is_empty('SELECT error, cases.* FROM refused JOIN cases USING (id) LIMIT 5', 'batches of two and three: none is refused');
SELECT is_empty($$
	SELECT cases.*, place, o.outcome AS one_by_one, a.outcome AS at_once
	  FROM one_by_one AS o JOIN cases USING (id) LEFT JOIN at_once AS a USING (id, place) WHERE o.outcome IS DISTINCT FROM a.outcome LIMIT 5$$,
	'outcomes are as if they had been sent one by one');
SELECT set_eq('SELECT DISTINCT outcome FROM at_once', $$SELECT unnest('{created,updated,unchanged,discarded,conflict}'::text[])$$, '... of all kinds');
CREATE FUNCTION pg_temp.left_in(collection text) RETURNS TABLE (id text, client_version bigint, client_id text, deleted boolean, body jsonb)
	LANGUAGE sql
AS $$
	SELECT id, client_version, client_id, deleted, body FROM docsync.document WHERE document.collection = $1
$$;
SELECT set_eq($$SELECT * FROM pg_temp.left_in('at once')$$, $$SELECT * FROM pg_temp.left_in('one by one')$$, 'so is the table');
SELECT is_empty($$
	SELECT a.*, d FROM at_once AS a LEFT JOIN docsync.document AS d ON d.collection = 'at once' AND d.id = a.id
	 WHERE (a.client_version, a.last_update_utc) IS DISTINCT FROM (d.client_version, d.last_update_utc)
		OR a.winner IS DISTINCT FROM CASE WHEN outcome IN ('discarded', 'conflict') AND d.id IS NOT NULL THEN jsonb_build_object(
			'id', d.id, 'clientVersion', d.client_version, 'clientId', d.client_id, 'LastUpdateUtc', pg_temp.utc(d.last_update_utc), 'deleted', d.deleted, 'body', d.body) END
	 LIMIT 5$$, 'each answer and each winner is what is stored after the call');
SELECT results_eq($$
	WITH sent AS (
		SELECT c.id, place, document, row_number() OVER (ORDER BY place, c.id DESC) AS ordinal
		  FROM cases AS c, jsonb_array_elements(documents) WITH ORDINALITY AS d(document, place))
	SELECT id, place, a.outcome
	  FROM docsync_upsert('me', (SELECT jsonb_agg(document ORDER BY ordinal) FROM sent), 'together') AS a JOIN sent USING (ordinal, id) ORDER BY 1, 2$$,
	'SELECT id, place, outcome FROM one_by_one ORDER BY 1, 2', 'one large batch of all of them, mixed');
SELECT set_eq($$SELECT * FROM pg_temp.left_in('together')$$, $$SELECT * FROM pg_temp.left_in('one by one')$$, '... and the table after it');

-- Many that are based on nothing, as a client sends them that has what the store has lost
CREATE FUNCTION pg_temp.many(base text, version int, body text, ids int DEFAULT 200) RETURNS jsonb
	LANGUAGE sql
AS $$
	SELECT jsonb_agg(jsonb_build_object('id', 'd' || to_char(i, 'FM000'), 'clientVersion', version, 'body', body, 'baseVersion', base::jsonb)) FROM generate_series(1, ids) AS i
$$;
CREATE FUNCTION pg_temp.outcomes(client_id text, documents jsonb) RETURNS text
	LANGUAGE sql
AS $$
	SELECT string_agg(outcome || ' ' || count, ', ' ORDER BY outcome) FROM (SELECT outcome, count(*) FROM docsync_upsert(client_id, documents, 'many') GROUP BY 1) AS s
$$;
SELECT is(pg_temp.outcomes('me', pg_temp.many('null', 1, 'x')), 'created 200', 'many that are lost');
SELECT is(pg_temp.outcomes('other', pg_temp.many('null', 1, 'x')), 'unchanged 200', '... once more by another client who has the same');
SELECT is(pg_temp.outcomes('other', pg_temp.many('null', 2, 'x')), 'conflict 200', '... and by one who has others');
SELECT is(pg_temp.outcomes('other', pg_temp.many('null', 1, 'x', 300)), 'created 100, unchanged 200', '... and by one who has more');
SELECT is(pg_temp.outcomes('other', pg_temp.many('1', 2, 'y')), 'updated 200', 'many that are based on what there is');
SELECT is(pg_temp.outcomes('me', pg_temp.many('1', 2, 'y')), 'unchanged 200', '... once more by another client');
SELECT is(pg_temp.outcomes('me', pg_temp.many('1', 3, 'y')), 'conflict 200', '... and by one who is late');

SELECT * FROM finish();
ROLLBACK;
