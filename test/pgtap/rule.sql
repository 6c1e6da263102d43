-- The clientVersion rule, for every combination of versions, clients, contents
-- and deletions: the result of docsync_upsert and the table afterwards are
-- compared with a restatement of the rule, and a batch with the same documents
-- sent one by one.
SET client_min_messages = warning;
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS docsync;
SELECT plan(11);

-- The rule once more, as its table reads
CREATE FUNCTION pg_temp.rule(held docsync.document, client_id text, sent jsonb) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	version bigint := sent -> 'clientVersion';
	deleted boolean := coalesce((sent -> 'deleted')::boolean, false);
	body jsonb := sent -> 'body';
BEGIN
	IF held.id IS NULL THEN RETURN 'created'; END IF;
	IF held.client_version < version THEN RETURN 'updated'; END IF;
	IF held.client_version > version THEN RETURN 'discarded'; END IF;
	IF held.client_id = client_id AND held.deleted = deleted AND held.body IS NOT DISTINCT FROM body THEN
		RETURN 'unchanged';
	END IF;
	IF version = 0 THEN RETURN 'updated'; END IF;
	RETURN 'discarded';
END
$$;

-- What may be stored (no row: nothing), and what may be sent by client "me"
CREATE TEMP TABLE versions AS
	SELECT unnest('{-9223372036854775808,-1,0,1,2,9223372036854775807}'::bigint[]) AS version;
CREATE TEMP TABLE contents (deleted boolean, body jsonb);
INSERT INTO contents VALUES (false, '"a"'), (false, '"b"'), (false, 'null'), (true, '"a"'), (true, NULL);
CREATE TEMP TABLE held AS
	SELECT row_number() OVER () AS n, version, client_id, deleted, body
	  FROM versions, contents, unnest('{me,other}'::text[]) AS client_id
	UNION ALL SELECT 0, NULL, NULL, NULL, NULL;
CREATE TEMP TABLE sent AS
	SELECT version, jsonb_strip_nulls(jsonb_build_object('deleted', nullif(deleted, false)))
		|| CASE WHEN body IS NULL THEN '{}' ELSE jsonb_build_object('body', body) END
		|| jsonb_build_object('clientVersion', version) AS document
	  FROM versions, contents;

-- Puts what is held into a collection, under an id.
CREATE FUNCTION pg_temp.hold(collection text, id text, held held) RETURNS void
	LANGUAGE sql
AS $$
	INSERT INTO docsync.document (collection, id, client_version, client_id, deleted, body)
	SELECT $1, $2, held.version, held.client_id, held.deleted, held.body WHERE held.version IS NOT NULL
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
	same_row boolean;
BEGIN
	PERFORM pg_temp.hold('try', id, held);
	SELECT * INTO before FROM docsync.document AS d WHERE d.collection = 'try' AND d.id = try.id;
	expected := pg_temp.rule(before, 'me', sent);
	SELECT * INTO STRICT answer
	  FROM docsync_upsert('me', jsonb_build_array(sent || jsonb_build_object('id', id)), 'try');
	SELECT * INTO STRICT after FROM docsync.document AS d WHERE d.collection = 'try' AND d.id = try.id;

	IF answer.ordinal <> 1 OR answer.id <> id OR answer.outcome <> expected THEN
		RETURN format('%s instead of %s', answer, expected);
	END IF;
	IF (answer.client_version, answer.last_update_utc) <> (after.client_version, after.last_update_utc) THEN
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
	IF answer.winner IS DISTINCT FROM (CASE WHEN expected = 'discarded' THEN jsonb_build_object(
			'id', after.id, 'clientVersion', after.client_version, 'clientId', after.client_id,
			'LastUpdateUtc', to_char(after.last_update_utc AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
			'deleted', after.deleted, 'body', after.body) END) THEN
		RETURN format('%s, and winner %s', expected, answer.winner);
	END IF;
	RETURN NULL;
EXCEPTION WHEN OTHERS THEN
	RETURN format('%s %s', SQLSTATE, SQLERRM);
END
$$;

SELECT is(count(*), 61 * 30::bigint, 'all combinations of a stored and a sent document') FROM held, sent;
CREATE TEMP TABLE tried AS
	SELECT held, document, pg_temp.try(held, document, row_number() OVER ()::text) AS wrong
	  FROM held, sent;
SELECT is_empty('SELECT * FROM tried WHERE wrong IS NOT NULL LIMIT 5',
	'outcome, answer, winner and table follow the rule');

-- An id that comes several times: two and three documents of one id
CREATE TEMP TABLE small_held AS
	SELECT held, version, deleted FROM held WHERE n = 0 OR (version BETWEEN -1 AND 1 AND (deleted, body) IS DISTINCT FROM (true, '"a"') AND body IS DISTINCT FROM 'null');
CREATE TEMP TABLE small_sent AS
	SELECT * FROM sent WHERE version BETWEEN -1 AND 1 AND NOT document @> '{"deleted": true, "body": "a"}' AND document -> 'body' IS DISTINCT FROM 'null';
CREATE TEMP TABLE cases AS
	SELECT row_number() OVER ()::text AS id, held, documents
	  FROM (SELECT held, jsonb_build_array(a.document, b.document) AS documents
			  FROM small_held AS h, small_sent AS a, small_sent AS b
			UNION ALL
			SELECT held, jsonb_build_array(a.document, b.document, c.document)
			  FROM small_held AS h, small_sent AS a, small_sent AS b, small_sent AS c
			 WHERE (h.version IS NULL OR h.version >= 0 AND NOT h.deleted)
			   AND NOT (a.document || b.document || c.document) ? 'deleted'
			   AND least(a.version, b.version, c.version) >= 0) AS all_cases;
UPDATE cases SET documents = (
	SELECT jsonb_agg(document || jsonb_build_object('id', id) ORDER BY place)
	  FROM jsonb_array_elements(documents) WITH ORDINALITY AS d(document, place));
SELECT is(count(*), (19 * 81 + 9 * 64)::bigint, 'all batches of two and three documents of one id') FROM cases;

CREATE TEMP TABLE one_by_one (id text, place bigint, outcome text);
CREATE TEMP TABLE at_once (id text, place bigint, outcome text, client_version bigint, last_update_utc timestamptz, winner jsonb);
CREATE TEMP TABLE refused (id text, error text);
ALTER TABLE cases ADD PRIMARY KEY (id);
SELECT count(pg_temp.hold('one by one', id, held)), count(pg_temp.hold('at once', id, held)) FROM cases \gset
SELECT last_value AS clock FROM docsync.clock \gset
ANALYZE docsync.document;
DO $$
DECLARE
	c record;
	d record;
BEGIN
	FOR c IN SELECT * FROM cases LOOP
		FOR d IN SELECT * FROM jsonb_array_elements(c.documents) WITH ORDINALITY AS d(document, place) LOOP
			INSERT INTO one_by_one
			SELECT c.id, d.place, outcome FROM docsync_upsert('me', jsonb_build_array(d.document), 'one by one');
		END LOOP;
		BEGIN
			INSERT INTO at_once
			SELECT id, ordinal, outcome, client_version, last_update_utc, winner
			  FROM docsync_upsert('me', c.documents, 'at once');
		EXCEPTION WHEN OTHERS THEN
			INSERT INTO refused VALUES (c.id, SQLERRM);
		END;
	END LOOP;
END
$$;
-- Without statistics the comparisons would take longer than the uploads.
ANALYZE cases, one_by_one, at_once, docsync.document;
SELECT is_empty('SELECT error, cases.* FROM refused JOIN cases USING (id) LIMIT 5', 'none of them is refused');
SELECT is_empty($$
	SELECT cases.*, place, o.outcome AS one_by_one, a.outcome AS at_once
	  FROM one_by_one AS o JOIN cases USING (id) LEFT JOIN at_once AS a USING (id, place)
	 WHERE o.outcome IS DISTINCT FROM a.outcome LIMIT 5$$,
	'outcomes are as if they had been sent one by one');
CREATE FUNCTION pg_temp.left_in(collection text)
	RETURNS TABLE (id text, client_version bigint, client_id text, deleted boolean, body jsonb)
	LANGUAGE sql
AS $$
	SELECT id, client_version, client_id, deleted, body FROM docsync.document WHERE document.collection = $1
$$;
SELECT set_eq($$SELECT * FROM pg_temp.left_in('at once')$$, $$SELECT * FROM pg_temp.left_in('one by one')$$,
	'the table is as if they had been sent one by one');
-- Edits with clientVersion 0 may end where they began: then nothing was written.
CREATE FUNCTION pg_temp.wrongly_stamped(collection text, since bigint)
	RETURNS TABLE (held held, document docsync.document)
	LANGUAGE sql
AS $$
	SELECT c.held, d FROM cases AS c JOIN docsync.document AS d ON d.collection = $1 AND d.id = c.id
	 WHERE (d.last_update_utc > 'epoch'::timestamptz + since * interval '1 us')
		<> ((d.client_version, d.client_id, d.deleted, d.body) IS DISTINCT FROM
			((c.held).version, (c.held).client_id, (c.held).deleted, (c.held).body))
$$;
SELECT is_empty(format($$SELECT * FROM pg_temp.wrongly_stamped('at once', %s) LIMIT 5$$, :clock),
	'a stamp is new if, and only if, the document is not what it was');
SELECT is_empty($$
	SELECT a.*, d FROM at_once AS a JOIN docsync.document AS d ON d.collection = 'at once' AND d.id = a.id
	 WHERE (a.client_version, a.last_update_utc) <> (d.client_version, d.last_update_utc)
		OR a.winner IS DISTINCT FROM CASE WHEN outcome = 'discarded' THEN jsonb_build_object(
			'id', d.id, 'clientVersion', d.client_version, 'clientId', d.client_id,
			'LastUpdateUtc', to_char(d.last_update_utc AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
			'deleted', d.deleted, 'body', d.body) END
	 LIMIT 5$$, 'each answer and each winner is what is stored after the call');

-- All of them in one batch: first all first documents, then all second ones
SELECT count(pg_temp.hold('together', id, held)) FROM cases \gset
SELECT last_value AS clock FROM docsync.clock \gset
SELECT results_eq($$
	WITH sent AS (
		SELECT c.id, place, document, row_number() OVER (ORDER BY place, c.id DESC) AS ordinal
		  FROM cases AS c, jsonb_array_elements(documents) WITH ORDINALITY AS d(document, place))
	SELECT id, place, a.outcome
	  FROM docsync_upsert('me', (SELECT jsonb_agg(document ORDER BY ordinal) FROM sent), 'together') AS a
	  JOIN sent USING (ordinal, id) ORDER BY 1, 2$$,
	'SELECT id, place, outcome FROM one_by_one ORDER BY 1, 2', 'one large batch of all of them, mixed');
SELECT set_eq($$SELECT * FROM pg_temp.left_in('together')$$, $$SELECT * FROM pg_temp.left_in('one by one')$$,
	'and the table after it');
SELECT is_empty(format($$SELECT * FROM pg_temp.wrongly_stamped('together', %s) LIMIT 5$$, :clock), 'and its stamps');

SELECT * FROM finish();
ROLLBACK;
