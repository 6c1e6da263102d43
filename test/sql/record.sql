-- What lost is kept where docsync.keep wants it, and can be brought back.
SET client_min_messages = warning;
CREATE EXTENSION docsync;
DO $$ BEGIN PERFORM docsync_create_store(); END $$;

CREATE FUNCTION pg_temp.doc(id text, version int8, body jsonb DEFAULT NULL) RETURNS jsonb LANGUAGE sql
	AS $$ SELECT jsonb_build_array(jsonb_build_object('id', id, 'clientVersion', version, 'body', body, 'deleted', body IS NULL)) $$;
-- The record, in its order; versions of the server's are times.
CREATE FUNCTION pg_temp.record(id text) RETURNS TABLE (collection text, version text, client_id text, deleted bool, body jsonb, why text) LANGUAGE sql
	AS $$ SELECT collection, CASE client_id WHEN 'server' THEN 'now' ELSE client_version::text END, client_id, deleted, body, why
			FROM docsync.record WHERE id = $1 ORDER BY collection, recorded_utc $$;

-- Nothing is kept unless a rule says so.
SELECT outcome FROM docsync_upsert('ann', pg_temp.doc('d', 2, '"first"'), 'a/notes');
SELECT outcome FROM docsync_upsert('bob', pg_temp.doc('d', 1, '"lost"'), 'a/notes');
SELECT count(*) FROM docsync.record;

INSERT INTO docsync.keep VALUES ('a/%', 'replaced', 5), ('a/secret%', 'none', 10), ('b%', 'discarded', 10);

-- The rules hold at once, in the session that makes them, too.
SELECT outcome FROM docsync_upsert('bob', pg_temp.doc('d', 1, '"lost"'), 'a/notes');
SELECT outcome FROM docsync_upsert('bob', pg_temp.doc('d', 3, '"second"'), 'a/notes');
SELECT * FROM pg_temp.record('d');
-- What was replaced has gone when what replaced it came.
SELECT r.client_version, r.recorded_utc = d.last_update_utc AS then FROM docsync.record AS r JOIN docsync.document AS d USING (collection, id) WHERE why = 'replaced';
-- A retry of what was discarded is no other loss.
SELECT outcome FROM docsync_upsert('bob', pg_temp.doc('d', 1, '"lost"'), 'a/notes');
SELECT outcome FROM docsync_upsert('eve', pg_temp.doc('d', 1, '"lost"'), 'a/notes');
SELECT count(*) FROM docsync.record;
-- The newest five stay. Whoever is discarded has older ones removed.
SELECT outcome FROM docsync_upsert('bob', pg_temp.doc('d', 4, '"third"'), 'a/notes');
SELECT outcome FROM docsync_upsert('bob', pg_temp.doc('d', 5), 'a/notes');
SELECT outcome FROM docsync_upsert('bob', pg_temp.doc('d', 6, '"fourth"'), 'a/notes');
SELECT outcome FROM docsync_upsert('bob', pg_temp.doc('d', 0, '"late"'), 'a/notes');
SELECT * FROM pg_temp.record('d');
-- Whoever replaces does so by chance, so sooner or later. (That it is never in 300 times has a probability of 1e-29.)
SELECT outcome, count(*) FROM generate_series(1, 400) AS i, docsync_upsert('bob', pg_temp.doc('often', i, to_jsonb(i)), 'a/notes') GROUP BY 1 ORDER BY 1;
SELECT count(*) BETWEEN 5 AND 300 AS few, max(client_version), count(*) FILTER (WHERE client_version >= 395) AS newest FROM docsync.record WHERE id = 'often';
-- Where one is kept, always.
INSERT INTO docsync.keep VALUES ('a/one', 'replaced', 1);
SELECT outcome, count(*) FROM generate_series(1, 4) AS i, docsync_upsert('bob', pg_temp.doc('only', i, to_jsonb(i)) || pg_temp.doc('also', i, to_jsonb(i)), 'a/one') GROUP BY 1 ORDER BY 1;
SELECT id, client_version FROM docsync.record WHERE collection = 'a/one' ORDER BY id, recorded_utc;
-- More than are inserted at once
SELECT outcome, count(*) FROM generate_series(1, 2) AS v, docsync_upsert('ann', (SELECT jsonb_agg(pg_temp.doc('q' || i, v, to_jsonb(i)) -> 0) FROM generate_series(1, 250) AS i), 'a/whole') GROUP BY 1 ORDER BY 1;
SELECT count(*), sum((body #>> '{}')::int) FROM docsync.record WHERE collection = 'a/whole';
-- An id that comes several times in a batch, as if its documents were sent one by one
SELECT outcome FROM docsync_upsert('bob', pg_temp.doc('twice', 1, '1') || pg_temp.doc('twice', 2, '2') || pg_temp.doc('twice', 1, '3'), 'a/notes');
SELECT * FROM pg_temp.record('twice');
SELECT outcome FROM docsync_upsert('bob', (SELECT jsonb_agg(pg_temp.doc('many', 10 - i, to_jsonb(i)) -> 0) FROM generate_series(1, 8) AS i), 'a/notes');
SELECT * FROM pg_temp.record('many');
-- What is based on something else
SELECT outcome FROM docsync_upsert('bob', jsonb_set(pg_temp.doc('d', 9, '"conflict"'), '{0,baseVersion}', '1'), 'a/notes');
SELECT outcome FROM docsync_upsert('bob', jsonb_set(pg_temp.doc('none', 9, '"conflict"'), '{0,baseVersion}', '1'), 'a/notes');
SELECT * FROM pg_temp.record('d') WHERE why = 'conflict';
SELECT * FROM pg_temp.record('none');
-- clientVersion 0 replaces itself.
SELECT outcome FROM docsync_upsert('bob', pg_temp.doc('zero', 0, '"one"'), 'a/notes');
SELECT outcome FROM docsync_upsert('bob', pg_temp.doc('zero', 0, '"two"'), 'a/notes');
SELECT outcome FROM docsync_upsert('bob', pg_temp.doc('zero', 0, '"two"'), 'a/notes');
SELECT * FROM pg_temp.record('zero');

-- The longest pattern counts.
SELECT outcome FROM generate_series(1, 2) AS i, docsync_upsert('bob', pg_temp.doc('d', i, to_jsonb(i)), 'a/secrets');
-- Where but what is discarded is kept
SELECT outcome FROM unnest('{1,2,0}'::int[]) AS i, docsync_upsert('bob', pg_temp.doc('d', i, to_jsonb(i)), 'b');
SELECT * FROM pg_temp.record('d') WHERE collection IN ('a/secrets', 'b');

-- By the other ways of uploading
SELECT docsync_sync('ann', '[{"id": "e", "clientVersion": 2, "body": "first"}]', collection => 'a/notes') -> 'results' -> 0 ->> 'outcome' AS outcome;
SELECT docsync_sync('ann', '[{"id": "e", "clientVersion": 3, "body": "second"}, {"id": "e", "clientVersion": 1, "body": "lost"}]', collection => 'a/notes') -> 'results' -> 1 ->> 'outcome' AS outcome;
SELECT docsync_docs_sync(convert_to('{"clientId": "ann", "collections": [{"collection": "a/notes", "documents": [{"id": "e", "clientVersion": 0, "body": "lost, too"}]}, {"collection": "b", "documents": [{"id": "d", "clientVersion": 0, "body": "lost"}]}]}', 'UTF8'))
	-> 'collections' -> 0 -> 'results' -> 0 ->> 'outcome' AS outcome;
SELECT * FROM pg_temp.record('e');
SELECT * FROM pg_temp.record('d') WHERE collection = 'b';
-- Plain SQL replaces, too, but for what leaves the body as it is.
UPDATE docsync.document SET body = '"by SQL"' WHERE collection = 'a/notes' AND id = 'e';
UPDATE docsync.document SET body = body WHERE collection = 'a/notes' AND id = 'e';
UPDATE docsync.document SET client_version = 7 WHERE collection = 'a/notes' AND id = 'e';
DELETE FROM docsync.document WHERE collection = 'a/notes' AND id = 'e';
SELECT collection, deleted, body, why FROM pg_temp.record('e');

-- With atomic => false: what is refused is not kept, and what was tried in vain leaves nothing.
ALTER TABLE docsync.document ADD CONSTRAINT refuse CHECK (body ->> 'refuse' IS NULL) NOT VALID;
SELECT outcome, count(*) FROM docsync_upsert('ann', (SELECT jsonb_agg(pg_temp.doc('p' || i, 2, to_jsonb(i)) -> 0) FROM generate_series(1, 120) AS i), 'a/parts') GROUP BY 1;
SELECT outcome, count(*) FROM docsync_upsert('ann', (SELECT jsonb_agg(pg_temp.doc('p' || i, CASE WHEN i % 10 = 1 THEN 1 ELSE 3 END,
	CASE WHEN i IN (5, 50, 99) THEN '{"refuse": true}' ELSE to_jsonb(-i) END) -> 0) FROM generate_series(1, 120) AS i), 'a/parts', atomic => false) GROUP BY 1 ORDER BY 1;
SELECT why, count(*), count(DISTINCT id), sum((body #>> '{}')::int) FROM docsync.record WHERE collection = 'a/parts' GROUP BY 1 ORDER BY 1;
\set VERBOSITY terse
SELECT outcome FROM docsync_upsert('ann', pg_temp.doc('p1', 0, '"nothing of it"') || pg_temp.doc('p2', 5, '{"refuse": true}'), 'a/parts');
SELECT count(*) FROM docsync.record WHERE body = '"nothing of it"';
\set VERBOSITY default
-- Large bodies, which lie elsewhere
SELECT outcome FROM generate_series(1, 3) AS i, docsync_upsert('ann', pg_temp.doc('large', i, (SELECT jsonb_agg(md5((i * n)::text)) FROM generate_series(1, 5000) AS n)), 'a/notes');
SELECT client_version, length(body::text), body ->> 0 = md5(client_version::text) AS same FROM docsync.record WHERE id = 'large' ORDER BY recorded_utc;

-- Rules that say nothing are refused; one that goes is forgotten.
INSERT INTO docsync.keep VALUES ('x', 'all');
INSERT INTO docsync.keep VALUES ('x\', 'none');
INSERT INTO docsync.keep VALUES ('x', 'none', 0);
BEGIN;
DELETE FROM docsync.keep WHERE pattern = 'b%';
SELECT outcome FROM unnest('{2,1}'::int[]) AS i, docsync_upsert('bob', pg_temp.doc('rule', i, to_jsonb(i)), 'b');
SELECT count(*) FROM docsync.record WHERE id = 'rule';
ROLLBACK;
SELECT outcome FROM unnest('{2,1}'::int[]) AS i, docsync_upsert('bob', pg_temp.doc('rule', i, to_jsonb(i)), 'b');
SELECT count(*) FROM docsync.record WHERE id = 'rule';
TRUNCATE docsync.keep;
SELECT outcome FROM docsync_upsert('bob', pg_temp.doc('rule', 0, '0'), 'b');
SELECT count(*) FROM docsync.record WHERE id = 'rule';
INSERT INTO docsync.keep VALUES ('%', 'replaced');

-- Brought back: the server's edit, above what there is
SELECT client_version AS before FROM docsync.document WHERE collection = 'a/notes' AND id = 'd' \gset
SELECT docsync_restore('a/notes', 'd', 4) AS restored \gset
SELECT :restored > :before AS above, client_version = :restored AS told, client_id, body FROM docsync.document WHERE collection = 'a/notes' AND id = 'd';
SELECT id, client_id, body FROM docsync_query_since('bob', collection => 'a/notes') WHERE id = 'd';
-- What it has replaced can be brought back in turn, a deletion too.
SELECT docsync_restore('a/notes', 'd', 6) > :restored AS above;
SELECT docsync_restore('a/notes', 'd', 5) > :restored AS above;
SELECT deleted, body FROM docsync.document WHERE collection = 'a/notes' AND id = 'd';
-- Where a document has gone with its tombstone it is made anew. What has been recorded since stays.
DELETE FROM docsync.document WHERE collection = 'a/notes' AND id IN ('zero', 'twice');
SELECT outcome FROM docsync_upsert('bob', pg_temp.doc('d', 6, '"late"'), 'a/notes');
BEGIN;
SELECT now() - last_update_utc - interval '1 microsecond' AS keep FROM docsync.document WHERE collection = 'a/notes' AND id = 'zero' \gset
CALL docsync_purge(:'keep', 'a/notes');
COMMIT;
SELECT count(*) FROM docsync.document WHERE collection = 'a/notes' AND id = 'd';
SELECT collection, deleted, body, why FROM pg_temp.record('d') WHERE collection = 'a/notes';
SELECT docsync_restore('a/notes', 'd', 6) > 6 AS above;
SELECT client_id, deleted, body FROM docsync.document WHERE collection = 'a/notes' AND id = 'd';
SELECT docsync_restore('nowhere', 'd', 6);
SELECT docsync_restore('a/notes', NULL, 6);
SELECT docsync_restore(NULL, 'd', 6);
SELECT docsync_restore('a/notes', 'd', NULL);

-- Where several patterns match, the one with the most bytes counts; and so it does when a collection moves.
BEGIN;
INSERT INTO docsync.keep VALUES ('%x', 'none', 10), ('ä%', 'replaced', 7);
SELECT outcome FROM unnest('{1,2}'::int[]) AS i, docsync_upsert('bob', pg_temp.doc('bytes', i, to_jsonb(i)), 'äx');
SELECT * FROM pg_temp.record('bytes');
SELECT docsync_move_keep('äx') #> '{broader,0}' AS rule;
ROLLBACK;

-- The record is purged with the tombstones: of one collection, of all.
SELECT count(*) > 0 AS some FROM docsync.record WHERE collection = 'b';
CALL docsync_purge('0', 'b');
SELECT count(*) FROM docsync.record WHERE collection = 'b';
SELECT count(*) > 100 AS others FROM docsync.record;
CALL docsync_purge('1 day');
SELECT count(*) > 100 AS others FROM docsync.record;
CALL docsync_purge('0');
SELECT count(*) FROM docsync.record;
-- In steps of 1,000
INSERT INTO docsync.record SELECT 'c' || i % 3, 'id' || i, now() - interval '2 days' * (i % 2), 1, 'c', false, '1', 'replaced' FROM generate_series(1, 7000) AS i;
CALL docsync_purge('1 day');
SELECT collection, count(*), min(recorded_utc) = max(recorded_utc) AS same FROM docsync.record GROUP BY 1 ORDER BY 1;

DROP SCHEMA docsync CASCADE;
DROP EXTENSION docsync;
