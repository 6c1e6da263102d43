-- Batches of many new documents, which are written by INSERT alone, in a
-- subtransaction: what happens if somebody else is faster, or if it fails.
\set SHOW_CONTEXT never
\pset null (null)
CREATE EXTENSION docsync;
SELECT docsync_create_store() \g /dev/null

-- A batch of count documents, d001 and so on
CREATE FUNCTION pg_temp.batch(count int, version int DEFAULT 2) RETURNS jsonb
	LANGUAGE sql
AS $$
	SELECT jsonb_agg(jsonb_build_object('id', 'd' || to_char(i, 'FM000'), 'clientVersion', version, 'body', i) ORDER BY i DESC) FROM generate_series(1, count) AS i
$$;
-- upload: outcomes with their ids, all if there are few.  All that the answer
-- says is compared with what is stored, by whoever looks afterwards.
CREATE TABLE pg_temp.answer (ordinal int, id text, outcome text, client_version bigint, last_update_utc timestamptz, winner jsonb, error jsonb);
CREATE FUNCTION pg_temp.upload(documents jsonb, collection text) RETURNS TABLE (outcome text, count bigint, ids text)
	LANGUAGE plpgsql
AS $$
BEGIN
	TRUNCATE answer;
	INSERT INTO answer SELECT * FROM docsync_upsert('tablet', documents, collection);
	RETURN QUERY SELECT a.outcome, count(*), CASE WHEN count(*) < 5 THEN string_agg(a.id, ' ' ORDER BY ordinal) END FROM answer AS a GROUP BY 1 ORDER BY 1;
END
$$;
-- What is stored: how many, with different stamps, and as each client may
-- download them; and answers that are wrong about it.
CREATE FUNCTION pg_temp.stored(collection text, OUT documents bigint, OUT stamps bigint, OUT downloaded bigint, OUT wrong_answers bigint)
	LANGUAGE sql
AS $$
	SELECT (SELECT count(*) FROM docsync.document AS d WHERE d.collection = $1), (SELECT count(DISTINCT last_update_utc) FROM docsync.document AS d WHERE d.collection = $1),
		   (SELECT count(DISTINCT id) FROM docsync_query_since(NULL, origin => 'any', collection => $1)),
		   (SELECT count(*) FROM answer AS a LEFT JOIN docsync.document AS d ON d.collection = $1 AND d.id = a.id
			 WHERE (a.client_version, a.last_update_utc) IS DISTINCT FROM (d.client_version, d.last_update_utc)
				OR (a.outcome = 'discarded') <> (a.winner IS NOT NULL) OR a.winner -> 'body' <> d.body)
$$;

-- Nobody is faster: with one statement, and with several
SELECT * FROM pg_temp.upload(pg_temp.batch(49), 'n49');
SELECT * FROM pg_temp.stored('n49');
SELECT * FROM pg_temp.upload(pg_temp.batch(50), 'n50');
SELECT * FROM pg_temp.stored('n50');
SELECT * FROM pg_temp.upload(pg_temp.batch(999), 'n999');
SELECT * FROM pg_temp.stored('n999');
-- stamps in the order of ids, without gaps
SELECT max(last_update_utc) - min(last_update_utc) AS span, array_agg(id ORDER BY last_update_utc) = array_agg(id ORDER BY id) AS in_order
  FROM docsync.document WHERE collection = 'n999';
-- each id three times
SELECT * FROM pg_temp.upload(pg_temp.batch(60, 2) || pg_temp.batch(60, 1) || pg_temp.batch(60, 3), 'thrice');
SELECT * FROM pg_temp.stored('thrice');
SELECT count(*) FROM docsync.document WHERE collection = 'thrice' AND client_version = 3;
-- some there already
SELECT * FROM pg_temp.upload(pg_temp.batch(3, 1), 'some');
SELECT * FROM pg_temp.upload(pg_temp.batch(60), 'some');
SELECT * FROM pg_temp.stored('some');
-- Rolled back to a savepoint, and again
BEGIN;
SAVEPOINT s;
SELECT * FROM pg_temp.upload(pg_temp.batch(60), 'savepoint');
ROLLBACK TO s;
SELECT * FROM pg_temp.upload(pg_temp.batch(61), 'savepoint');
SELECT * FROM pg_temp.stored('savepoint');
COMMIT;
SELECT * FROM pg_temp.stored('savepoint');

-- Another session commits documents after the upload has looked, and before
-- it comes to them: an older one, the same, a newer one, a tombstone.
CREATE EXTENSION dblink;
SELECT dblink_connect('other', format('host=%s port=%s dbname=%s user=%s', split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database(), current_user));
CREATE FUNCTION pg_temp.faster() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM * FROM dblink('other', format('SELECT outcome FROM docsync_upsert(%L, %L, %L)', tg_argv[0], tg_argv[1], new.collection)) AS t(outcome text);
	RETURN new;
END
$$;
CREATE FUNCTION pg_temp.race(collection text, id text, client_id text, documents text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	DROP TRIGGER IF EXISTS a_faster ON docsync.document;
	-- Once: a trigger that runs before the guard, for the row with this id
	EXECUTE format('CREATE TRIGGER a_faster BEFORE INSERT ON docsync.document FOR EACH ROW WHEN (new.collection = %L AND new.id = %L AND new.client_id = %L)
		EXECUTE FUNCTION pg_temp.faster(%L, %L)', collection, id, 'tablet', client_id, documents);
END
$$;
SET client_min_messages = warning;
SELECT pg_temp.race('race', 'd001', 'phone', '[{"id": "d050", "clientVersion": 1, "body": "older"}, {"id": "d052", "clientVersion": 2, "body": "same version"},
	{"id": "d054", "clientVersion": 3, "body": "newer"}, {"id": "d056", "clientVersion": 3, "deleted": true}, {"id": "e", "clientVersion": 1, "body": "another"}]') \gset
SELECT * FROM pg_temp.upload(pg_temp.batch(60), 'race');
SELECT * FROM pg_temp.stored('race');
SELECT id, client_version, client_id, deleted, body FROM docsync.document WHERE collection = 'race' AND (client_id <> 'tablet' OR id IN ('d001', 'd050')) ORDER BY id;
-- the same from the same client is unchanged
SELECT pg_temp.race('race retry', 'd001', 'tablet', '[{"id": "d050", "clientVersion": 2, "body": 50}]') \gset
SELECT * FROM pg_temp.upload(pg_temp.batch(60), 'race retry');
SELECT * FROM pg_temp.stored('race retry');
-- in the second of three statements
SELECT pg_temp.race('race late', 'd600', 'phone', '[{"id": "d601", "clientVersion": 1, "body": "older"}, {"id": "d700", "clientVersion": 7, "body": "newer"}]') \gset
SELECT * FROM pg_temp.upload(pg_temp.batch(999), 'race late');
SELECT * FROM pg_temp.stored('race late');
-- with ids that come several times, and version 0
SELECT pg_temp.race('race thrice', 'd001', 'phone', '[{"id": "d050", "clientVersion": 2, "body": "between"}, {"id": "d051", "clientVersion": 9, "body": "newer"}]') \gset
SELECT * FROM pg_temp.upload(pg_temp.batch(60, 1) || pg_temp.batch(60, 3) || pg_temp.batch(60, 2), 'race thrice');
SELECT * FROM pg_temp.stored('race thrice');
SELECT ordinal, id, outcome, client_version FROM pg_temp.answer WHERE id BETWEEN 'd049' AND 'd052' ORDER BY id, ordinal;
SELECT pg_temp.race('race zero', 'd001', 'phone', '[{"id": "d050", "clientVersion": 0, "body": "zero"}, {"id": "d051", "clientVersion": -1, "body": "minus"}]') \gset
SELECT * FROM pg_temp.upload(pg_temp.batch(60, 0), 'race zero');
SELECT * FROM pg_temp.stored('race zero');
-- all of them
SELECT pg_temp.race('race all', 'd001', 'phone', pg_temp.batch(60)::text) \gset
SELECT * FROM pg_temp.upload(pg_temp.batch(60), 'race all');
-- an update, by one that comes between two of ours
SELECT outcome FROM docsync_upsert('phone', '[{"id": "d050", "clientVersion": 1, "body": "older"}]', 'race update');
SELECT pg_temp.race('race update', 'd001', 'phone', '[{"id": "d050", "clientVersion": 2, "body": "between"}]') \gset
SELECT ordinal, id, outcome, client_version, winner ->> 'body' AS winner FROM docsync_upsert('tablet', '[{"id": "d001", "clientVersion": 1, "body": 1},
	{"id": "d050", "clientVersion": 2, "body": 2}, {"id": "d050", "clientVersion": 3, "body": 3}]', 'race update');
-- with what they are based on: the other's is a conflict, whatever its version
CREATE FUNCTION pg_temp.based(count int, base text, version int) RETURNS jsonb
	LANGUAGE sql
AS $$
	SELECT jsonb_agg(d || jsonb_build_object('baseVersion', base::jsonb) ORDER BY n) FROM jsonb_array_elements(pg_temp.batch(count, version)) WITH ORDINALITY AS b(d, n)
$$;
SELECT pg_temp.race('race base', 'd001', 'phone', '[{"id": "d050", "clientVersion": 1, "body": "older"}, {"id": "d051", "clientVersion": 9, "body": "newer"}, {"id": "d052", "clientVersion": 2, "body": 52}]') \gset
SELECT outcome, count(*), string_agg(winner ->> 'body', ' ') FROM docsync_upsert('tablet', pg_temp.based(60, 'null', 2), 'race base') GROUP BY 1 ORDER BY 1;
SELECT id, client_id, client_version FROM docsync.document WHERE collection = 'race base' AND client_id <> 'tablet' ORDER BY id;
SELECT outcome FROM docsync_upsert('phone', '[{"id": "d002", "clientVersion": 1, "body": 2}, {"id": "d003", "clientVersion": 1, "body": 3}, {"id": "d004", "clientVersion": 1, "body": 4}]', 'race based');
SELECT pg_temp.race('race based', 'd001', 'phone', '[{"id": "d002", "clientVersion": 2, "body": "between"}, {"id": "d003", "clientVersion": 3, "body": "newer"}, {"id": "d004", "clientVersion": 3, "body": 4}]') \gset
SELECT id, outcome, client_version, winner ->> 'body' AS winner FROM docsync_upsert('tablet', '[{"id": "d001", "clientVersion": 1, "body": 1, "baseVersion": null}]' || jsonb_path_query_array(pg_temp.based(4, '1', 3), '$[0 to 2]'), 'race based') ORDER BY id;
-- another of the same id wins then, alone and among others, and if it is the one before
SELECT pg_temp.race('race other', 'd001', 'phone', '[{"id": "d001", "clientVersion": 7, "body": "between"}]') \gset
SELECT string_agg(concat_ws(' ', id, outcome, client_version), ', ' ORDER BY ordinal) FROM docsync_upsert('tablet', '[{"id": "d001", "clientVersion": 9, "baseVersion": null, "body": 9}, {"id": "d001", "clientVersion": 8, "body": 8}]', 'race other');
SELECT pg_temp.race('race others', 'd001', 'phone', '[{"id": "d001", "clientVersion": 7, "body": "between"}]') \gset
SELECT string_agg(concat_ws(' ', id, outcome, client_version), ', ' ORDER BY ordinal) FROM docsync_upsert('tablet', '[{"id": "d000", "clientVersion": 1, "body": 1}, {"id": "d001", "clientVersion": 9, "baseVersion": null, "body": 9}, {"id": "d001", "clientVersion": 8, "body": 8}, {"id": "d002", "clientVersion": 1, "body": 1}]', 'race others');
SELECT pg_temp.race('race before', 'd001', 'phone', '[{"id": "d001", "clientVersion": 7, "body": "between"}]') \gset
SELECT string_agg(concat_ws(' ', id, outcome, client_version), ', ' ORDER BY ordinal) FROM docsync_upsert('tablet', '[{"id": "d001", "clientVersion": 8, "body": 8}, {"id": "d001", "clientVersion": 9, "baseVersion": null, "body": 9}]', 'race before');
SELECT pg_temp.race('race none', 'd001', 'phone', '[{"id": "d001", "clientVersion": 7, "body": "between"}]') \gset
SELECT string_agg(concat_ws(' ', id, outcome, client_version), ', ' ORDER BY ordinal) FROM docsync_upsert('tablet', '[{"id": "d001", "clientVersion": 9, "baseVersion": null, "body": 9}, {"id": "d001", "clientVersion": 6, "body": 8}]', 'race none');
SELECT collection, id, client_id, client_version FROM docsync.document WHERE collection IN ('race other', 'race others', 'race before', 'race none') ORDER BY 1, 2;
-- of version 0, where baseUtc alone tells
SELECT outcome FROM docsync_upsert('phone', '[{"id": "d002", "clientVersion": 0, "body": 2}]', 'race utc');
SELECT to_char(last_update_utc AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS utc FROM docsync.document WHERE collection = 'race utc' \gset
SELECT pg_temp.race('race utc', 'd001', 'phone', '[{"id": "d002", "clientVersion": 0, "body": "between"}]') \gset
SELECT id, outcome, winner ->> 'body' AS winner FROM docsync_upsert('tablet', jsonb_build_array('{"id": "d001", "clientVersion": 0, "body": 1}'::jsonb, jsonb_build_object('id', 'd002', 'clientVersion', 0, 'body', 'mine', 'baseVersion', 0, 'baseUtc', :'utc')), 'race utc');
-- Faster a second time, with one that the first attempt had written
CREATE TEMP SEQUENCE turn;
CREATE FUNCTION pg_temp.faster_twice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM * FROM dblink('other', format('SELECT outcome FROM docsync_upsert(%L, %L, %L)', 'phone',
		CASE nextval('pg_temp.turn') WHEN 1 THEN '[{"id": "d050", "clientVersion": 1, "body": "older"}]' ELSE '[{"id": "d002", "clientVersion": 3, "body": "newer"}]' END,
		new.collection)) AS t(outcome text);
	RETURN new;
END
$$;
CREATE TRIGGER a_twice BEFORE INSERT ON docsync.document FOR EACH ROW WHEN (new.collection = 'race twice' AND new.id = 'd001') EXECUTE FUNCTION pg_temp.faster_twice();
SELECT * FROM pg_temp.upload(pg_temp.batch(60), 'race twice');
SELECT * FROM pg_temp.stored('race twice');
DROP TRIGGER a_twice ON docsync.document;
-- Within a transaction block, and then all is rolled back: the other's stay.
SELECT pg_temp.race('race rollback', 'd001', 'phone', '[{"id": "d050", "clientVersion": 1, "body": "older"}]') \gset
BEGIN;
SELECT * FROM pg_temp.upload(pg_temp.batch(60), 'race rollback');
SELECT * FROM pg_temp.stored('race rollback');
ROLLBACK;
SELECT id, client_id, body FROM docsync.document WHERE collection = 'race rollback';
-- Under REPEATABLE READ the server says 40001, whoever it was that was faster.
SELECT pg_temp.race('race repeatable', 'd001', 'phone', '[{"id": "d050", "clientVersion": 1, "body": "older"}]') \gset
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT * FROM pg_temp.upload(pg_temp.batch(60), 'race repeatable');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
SELECT id, client_id, body FROM docsync.document WHERE collection = 'race repeatable';
-- over HTTP
SELECT pg_temp.race('race http', 'd001', 'phone', '[{"id": "d050", "clientVersion": 1, "body": "older"}, {"id": "d051", "clientVersion": 9, "body": "newer"}]') \gset
SELECT r ->> 'outcome' AS outcome, count(*), count(r ->> 'winner') AS winners, json_array_length(s -> 'documents') AS documents, s ->> 'more' AS more
  FROM docsync_sync('tablet', pg_temp.batch(60)::json, collection => 'race http', origin => 'any') AS s, json_array_elements(s -> 'results') AS r GROUP BY 1, 4, 5 ORDER BY 1;
DROP TRIGGER a_faster ON docsync.document;
SELECT dblink_disconnect('other');
DROP EXTENSION dblink;

-- A trigger of the user's that inserts one of the batch's ids before the upload
-- comes to it, each time: who should win?  The server refuses it, in a batch
-- of any size.
CREATE FUNCTION pg_temp.inner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF tg_argv[0] = 'always' OR nextval('pg_temp.times') = 1 THEN
		INSERT INTO docsync.document (collection, id, body) VALUES (new.collection, 'd050', '"inner"');
	END IF;
	RETURN new;
END
$$;
CREATE TEMP SEQUENCE times;
CREATE TRIGGER a_inner BEFORE INSERT ON docsync.document FOR EACH ROW WHEN (new.collection = 'inner' AND new.id = 'd001') EXECUTE FUNCTION pg_temp.inner('always');
SELECT * FROM pg_temp.upload(pg_temp.batch(60), 'inner');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM pg_temp.upload(pg_temp.batch(48) || '[{"id": "d050", "clientVersion": 1, "body": 1}]', 'inner');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM docsync.document WHERE collection = 'inner';
DROP TRIGGER a_inner ON docsync.document;
-- If it does so but once, the first attempt is as if it had never been.
CREATE TRIGGER a_inner BEFORE INSERT ON docsync.document FOR EACH ROW WHEN (new.collection = 'inner' AND new.id = 'd001') EXECUTE FUNCTION pg_temp.inner('once');
SELECT * FROM pg_temp.upload(pg_temp.batch(60), 'inner');
SELECT * FROM pg_temp.stored('inner');
SELECT count(*) FROM docsync.document WHERE collection = 'inner' AND client_id <> 'tablet';
DROP TRIGGER a_inner ON docsync.document;
-- An upload within each row, itself of many new documents, then of many that are there
CREATE FUNCTION pg_temp.mirror() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM docsync_upsert('inner', pg_temp.batch(55), 'mirrored');
	RETURN new;
END
$$;
CREATE TRIGGER a_mirror BEFORE INSERT ON docsync.document FOR EACH ROW WHEN (new.collection = 'mirror') EXECUTE FUNCTION pg_temp.mirror();
SELECT * FROM pg_temp.upload(pg_temp.batch(60), 'mirror');
SELECT * FROM pg_temp.stored('mirror');
SELECT collection, client_id, count(*) FROM docsync.document WHERE collection ~ '^mirror' GROUP BY 1, 2 ORDER BY 1, 2;
DROP TRIGGER a_mirror ON docsync.document;

-- Any other error is what it was, and nothing is stored.
CREATE FUNCTION pg_temp.fails() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION USING ERRCODE = 'ZZ000', MESSAGE = 'no', DETAIL = 'A detail.', HINT = 'A hint.';
END
$$;
CREATE TRIGGER z_fails BEFORE INSERT ON docsync.document FOR EACH ROW WHEN (new.collection = 'fails' AND new.id = 'd030') EXECUTE FUNCTION pg_temp.fails();
SELECT * FROM pg_temp.upload(pg_temp.batch(60), 'fails');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM docsync.document WHERE collection = 'fails';
-- caught by the caller, who goes on
DO $$
BEGIN
	PERFORM docsync_upsert('tablet', pg_temp.batch(60), 'fails');
EXCEPTION WHEN SQLSTATE 'ZZ000' THEN
	PERFORM docsync_upsert('tablet', pg_temp.batch(29), 'fails');
	PERFORM docsync_upsert('tablet', pg_temp.batch(70) - 40, 'not fails');
END
$$;
SELECT collection, count(*), count(DISTINCT last_update_utc) FROM docsync.document WHERE collection ~ 'fails' GROUP BY 1 ORDER BY 1;
DROP TRIGGER z_fails ON docsync.document;
-- One that another unique index has
CREATE UNIQUE INDEX one ON docsync.document ((body ->> 'unique'));
SELECT * FROM pg_temp.upload(pg_temp.batch(60) || '[{"id": "u1", "clientVersion": 1, "body": {"unique": 1}}, {"id": "u2", "clientVersion": 1, "body": {"unique": 1}}]', 'unique');
\echo :LAST_ERROR_SQLSTATE
DROP INDEX docsync.one;
SELECT count(*) FROM docsync.document WHERE collection = 'unique';
-- A document that a trigger suppresses
CREATE FUNCTION pg_temp.suppress() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;
CREATE TRIGGER a_suppress BEFORE INSERT ON docsync.document FOR EACH ROW WHEN (new.id = 'd030') EXECUTE FUNCTION pg_temp.suppress();
SELECT * FROM pg_temp.upload(pg_temp.batch(60), 'suppressed');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM docsync.document WHERE collection = 'suppressed';
DROP TRIGGER a_suppress ON docsync.document;
-- A row that a policy hides is in the way, and stays hidden.
CREATE ROLE regress_docsync_create;
SELECT docsync_grant('regress_docsync_create') \gset
ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON docsync.document TO regress_docsync_create USING (client_id = 'tablet') WITH CHECK (client_id = 'tablet');
SELECT outcome FROM docsync_upsert('phone', '[{"id": "d030", "clientVersion": 1, "body": "secret"}]', 'hidden');
SET ROLE regress_docsync_create;
SELECT count(*) FROM docsync_upsert('tablet', pg_temp.batch(60), 'hidden');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM docsync_upsert('phone', pg_temp.batch(60), 'refused');
\echo :LAST_ERROR_SQLSTATE
SELECT outcome, count(*) FROM docsync_upsert('tablet', pg_temp.batch(60), 'allowed') GROUP BY 1;
RESET ROLE;
SELECT collection, client_id, count(*) FROM docsync.document WHERE collection IN ('hidden', 'refused', 'allowed') GROUP BY 1, 2 ORDER BY 1;

SET client_min_messages = warning;
DROP SCHEMA docsync CASCADE;
DROP EXTENSION docsync CASCADE;
DROP OWNED BY regress_docsync_create;
DROP ROLE regress_docsync_create;
