-- Upload: the clientVersion rule row by row, and the form of the answer.
\set SHOW_CONTEXT never
\pset null (null)
CREATE EXTENSION docsync;
SELECT docsync_create_store() \g /dev/null

-- upload: docsync_upsert without the times.  "stamp" is new if it was issued
-- by this call, and the winner's LastUpdateUtc is true if it says the same as
-- last_update_utc, as text, UTC, to the microsecond.
CREATE FUNCTION pg_temp.upload(client_id text, documents jsonb, collection text DEFAULT 'default',
	OUT ordinal int, OUT id text, OUT outcome text, OUT client_version bigint,
	OUT stamp text, OUT winner jsonb)
	RETURNS SETOF record
	LANGUAGE plpgsql
AS $$
DECLARE
	clock timestamptz := (SELECT 'epoch'::timestamptz + last_value * interval '1 us' FROM docsync.clock);
BEGIN
	RETURN QUERY
		SELECT u.ordinal, u.id, u.outcome, u.client_version,
			   CASE WHEN u.last_update_utc > clock THEN 'new' ELSE 'old' END,
			   CASE WHEN u.winner ? 'LastUpdateUtc' THEN
				   u.winner || jsonb_build_object('LastUpdateUtc', u.winner ->> 'LastUpdateUtc' =
					   to_char(u.last_update_utc AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
			   ELSE u.winner END
		  FROM docsync_upsert($1, $2, $3) AS u;
END
$$;
CREATE VIEW pg_temp.stored AS
	SELECT collection, id, client_version, client_id, deleted, body
	  FROM docsync.document ORDER BY last_update_utc;

-- 1. Nothing there: any clientVersion creates.
SELECT * FROM pg_temp.upload('tablet', '[
	{"id": "low", "clientVersion": -9223372036854775808, "body": {"n": 1}},
	{"id": "minus", "clientVersion": -1, "body": []},
	{"id": "zero", "clientVersion": 0, "body": null},
	{"id": "one", "clientVersion": 1, "body": "text", "deleted": false},
	{"id": "high", "clientVersion": 9223372036854775807, "body": 1.50}]');
SELECT * FROM pg_temp.stored;

-- 2. A lower one there: updated, also from another client.
SELECT * FROM pg_temp.upload('tablet', '[{"id": "one", "clientVersion": 2, "body": "second"}]');
SELECT * FROM pg_temp.upload('phone', '[
	{"id": "low", "clientVersion": -9223372036854775807, "body": {"n": 2}},
	{"id": "one", "clientVersion": 3, "body": "third"}]');
SELECT * FROM pg_temp.stored;

-- 3. The same once more, from the same client: unchanged, and nothing new.
-- JSON's numbers are numbers, and the order of keys and white space mean nothing.
SELECT * FROM pg_temp.upload('tablet', '[
	{"id": "zero", "clientVersion": 0, "body": null},
	{"id": "minus", "body":[ ],"clientVersion": -1.0},
	{"id": "high", "clientVersion": 9223372036854775807, "body": 1.5}]');

-- 4. clientVersion 0 on both sides, and not the same: updated.
SELECT * FROM pg_temp.upload('tablet', '[{"id": "zero", "clientVersion": 0, "body": "other content"}]');
SELECT * FROM pg_temp.upload('phone', '[{"id": "zero", "clientVersion": 0, "body": "other content"}]');
SELECT * FROM pg_temp.upload('phone', '[{"id": "zero", "clientVersion": 0, "body": "other content", "deleted": true}]');
SELECT * FROM pg_temp.upload('phone', '[{"id": "zero", "clientVersion": 0, "body": null, "deleted": true}]');
SELECT * FROM pg_temp.upload('phone', '[{"id": "zero", "clientVersion": 0, "deleted": true}]');
SELECT * FROM pg_temp.upload('phone', '[{"id": "zero", "clientVersion": 0, "deleted": true}]');
SELECT * FROM pg_temp.stored WHERE id = 'zero';

-- 5. The same clientVersion, not 0, and another client, another content or
-- deleted: discarded.  The winner is the service's whole document.
SELECT * FROM pg_temp.upload('tablet', '[{"id": "one", "clientVersion": 3, "body": "third"}]') \gx
SELECT * FROM pg_temp.upload('phone', '[{"id": "one", "clientVersion": 3, "body": "fourth"}]') \gx
SELECT * FROM pg_temp.upload('phone', '[{"id": "one", "clientVersion": 3, "body": "third", "deleted": true}]') \gx
SELECT * FROM pg_temp.upload('phone', '[{"id": "high", "clientVersion": 9223372036854775807, "body": 1}]') \gx
SELECT * FROM pg_temp.upload('tablet', '[{"id": "minus", "clientVersion": -1, "body": {}}]') \gx

-- 6. A higher one there: discarded, whoever sends what.
SELECT * FROM pg_temp.upload('phone', '[{"id": "one", "clientVersion": 2, "body": "third"}]') \gx
SELECT * FROM pg_temp.upload('tablet', '[{"id": "one", "clientVersion": 0, "body": "zero"}]') \gx
SELECT * FROM pg_temp.upload('phone', '[{"id": "zero", "clientVersion": -1, "body": "minus"}]') \gx
SELECT * FROM pg_temp.stored;

-- LastUpdateUtc and clientId, as a downloaded document has them, mean nothing.
SELECT * FROM pg_temp.upload('phone', '[{"id": "one", "clientVersion": 4, "clientId": 17,
	"LastUpdateUtc": "tomorrow", "deleted": false, "body": "fourth"}]');
SELECT * FROM pg_temp.upload('phone', '[{"id": "one", "clientVersion": 4, "clientId": "tablet",
	"LastUpdateUtc": null, "body": "fourth"}]');
SELECT * FROM pg_temp.stored WHERE id = 'one';

-- So a winner can be sent back as it came.
SELECT outcome FROM docsync_upsert('phone', (
	SELECT jsonb_agg(winner) FROM docsync_upsert('phone', '[{"id": "one", "clientVersion": 3, "body": 0}]')));

-- A deletion is an edit like any other.  Its tombstone stands against older
-- ones and gives way to newer ones.
SELECT * FROM pg_temp.upload('tablet', '[{"id": "note", "clientVersion": 10, "body": {"a": 1}}]', 'tombs');
SELECT * FROM pg_temp.upload('phone', '[{"id": "note", "clientVersion": 11, "deleted": true}]', 'tombs');
SELECT * FROM pg_temp.upload('tablet', '[{"id": "note", "clientVersion": 10, "body": {"a": 1}}]', 'tombs') \gx
SELECT * FROM pg_temp.upload('phone', '[{"id": "note", "clientVersion": 11, "deleted": true}]', 'tombs');
SELECT * FROM pg_temp.stored WHERE collection = 'tombs';
SELECT * FROM pg_temp.upload('tablet', '[{"id": "note", "clientVersion": 12, "body": "back"}]', 'tombs');
SELECT * FROM pg_temp.stored WHERE collection = 'tombs';
SELECT * FROM pg_temp.upload('tablet', '[
	{"id": "never", "clientVersion": 1, "deleted": true},
	{"id": "last words", "clientVersion": 1, "deleted": true, "body": "bye"}]', 'tombs');
SELECT * FROM pg_temp.stored WHERE collection = 'tombs';

-- An id that comes several times: as if sent one by one in the order given.
SELECT * FROM pg_temp.upload('tablet', '[
	{"id": "up", "clientVersion": 1, "body": 1},
	{"id": "up", "clientVersion": 2, "body": 2},
	{"id": "up", "clientVersion": 3, "body": 3}]', 'twice');
SELECT * FROM pg_temp.upload('tablet', '[
	{"id": "down", "clientVersion": 3, "body": 3},
	{"id": "down", "clientVersion": 2, "body": 2},
	{"id": "down", "clientVersion": 1, "body": 1}]', 'twice');
SELECT * FROM pg_temp.upload('tablet', '[
	{"id": "hill", "clientVersion": 1, "body": 1},
	{"id": "other", "clientVersion": 1, "body": 1},
	{"id": "hill", "clientVersion": 3, "body": 3},
	{"id": "hill", "clientVersion": 2, "body": 2},
	{"id": "hill", "clientVersion": 3, "body": 3},
	{"id": "hill", "clientVersion": 3, "body": 4},
	{"id": "other", "clientVersion": 1, "body": 1}]', 'twice');
SELECT * FROM pg_temp.upload('tablet', '[
	{"id": "zero", "clientVersion": 0, "body": "a"},
	{"id": "zero", "clientVersion": 0, "body": "b"},
	{"id": "zero", "clientVersion": 0, "body": "b"}]', 'twice');
SELECT * FROM pg_temp.upload('tablet', '[
	{"id": "zero", "clientVersion": 0, "body": "c"},
	{"id": "zero", "clientVersion": 0, "body": "b"}]', 'twice');
SELECT * FROM pg_temp.upload('tablet', '[
	{"id": "gone", "clientVersion": 1, "body": 1},
	{"id": "gone", "clientVersion": 2, "deleted": true},
	{"id": "gone", "clientVersion": 3, "body": 3}]', 'twice');
SELECT * FROM pg_temp.stored WHERE collection = 'twice';

-- Rows come in the order sent, stamps in the order of ids, without gaps.
SELECT ordinal, id, outcome,
       last_update_utc - min(last_update_utc) OVER () AS after_first
  FROM docsync_upsert('tablet', '[
	{"id": "c", "clientVersion": 1, "body": 1},
	{"id": "B", "clientVersion": 1, "body": 1},
	{"id": "a", "clientVersion": 1, "body": 1},
	{"id": "ä", "clientVersion": 1, "body": 1}]', 'order');

-- A caller's LIMIT doesn't cut the work.
SELECT id FROM docsync_upsert('tablet', '[
	{"id": "l1", "clientVersion": 1, "body": 1},
	{"id": "l2", "clientVersion": 1, "body": 1}]', 'limit') LIMIT 1;
SELECT count(*) FROM docsync.document WHERE collection = 'limit';

-- Each collection has documents of its own.
SELECT outcome FROM docsync_upsert('tablet', '[{"id": "one", "clientVersion": 1, "body": "elsewhere"}]', 'elsewhere');
SELECT * FROM pg_temp.stored WHERE id = 'one';

-- An empty batch is a batch.
SELECT * FROM docsync_upsert('tablet', '[]');

-- Unchanged and discarded write nothing.
SELECT last_value AS clock FROM docsync.clock \gset
BEGIN;
SELECT outcome, stamp FROM pg_temp.upload('phone', '[
	{"id": "one", "clientVersion": 4, "body": "fourth"},
	{"id": "one", "clientVersion": 1, "body": "first"},
	{"id": "high", "clientVersion": 9223372036854775807, "body": 1}]');
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_transaction_id, last_value = :clock AS no_stamp
  FROM docsync.clock;
COMMIT;

-- Arguments by name, and in the target list
SELECT outcome FROM docsync_upsert(documents => '[{"id": "named", "clientVersion": 1, "body": 1}]',
	collection => 'named', client_id => 'tablet');
SELECT (docsync_upsert('tablet', '[{"id": "named", "clientVersion": 1, "body": 1}]', 'named')).outcome;

-- Ids and names are any text: nothing in it has a meaning.
SELECT outcome FROM docsync_upsert(E'o''brien\\ "x"', jsonb_build_array(
	jsonb_build_object('id', '''; DROP TABLE docsync.document; --', 'clientVersion', 1, 'body', 1),
	jsonb_build_object('id', '"quoted"', 'clientVersion', 1, 'body', 1),
	jsonb_build_object('id', E'back\\slash', 'clientVersion', 1, 'body', 1),
	jsonb_build_object('id', E'new\nline and\ttab', 'clientVersion', 1, 'body', 1),
	jsonb_build_object('id', 'a/b/../c?d=e&f#g%20', 'clientVersion', 1, 'body', 1),
	jsonb_build_object('id', ' ', 'clientVersion', 1, 'body', 1),
	jsonb_build_object('id', 'NULL', 'clientVersion', 1, 'body', 1),
	jsonb_build_object('id', '{a,b}', 'clientVersion', 1, 'body', 1),
	jsonb_build_object('id', '😀 Ünïcode مرحبا', 'clientVersion', 1, 'body', 1)), E'user-42/''"\\ 😀');
SELECT id, client_id FROM docsync_query_since('phone', collection => E'user-42/''"\\ 😀');
-- composed and decomposed are two ids; so are those that differ in case
SELECT id, outcome FROM docsync_upsert('tablet', E'[
	{"id": "\\u00e9", "clientVersion": 1, "body": 1},
	{"id": "e\\u0301", "clientVersion": 1, "body": 1},
	{"id": "E\\u0301", "clientVersion": 1, "body": 1}]', 'unicode');

-- The longest names: bytes count
SELECT octet_length(id) AS id, outcome FROM docsync_upsert(repeat('é', 100), jsonb_build_array(
	jsonb_build_object('id', repeat('é', 250), 'clientVersion', 1, 'body', 1)), repeat('é', 100));

-- Any JSON is a body, and comes back as it was.
SELECT count(*) FROM docsync_upsert('tablet', '[
	{"id": "1", "clientVersion": 1, "body": null},
	{"id": "2", "clientVersion": 1, "body": true},
	{"id": "3", "clientVersion": 1, "body": 12345678901234567890.123456789},
	{"id": "4", "clientVersion": 1, "body": "\"\\\n\u20ac"},
	{"id": "5", "clientVersion": 1, "body": []},
	{"id": "6", "clientVersion": 1, "body": {}},
	{"id": "7", "clientVersion": 1, "body": [[[null]], {"id": "8", "clientVersion": 5, "": [{}]}]},
	{"id": "9", "clientVersion": 1, "body": {"deleted": true, "clientVersion": "x"}}]', 'bodies');
SELECT id, body, body IS NULL AS none FROM docsync_query_since('phone', collection => 'bodies');
-- as winners, too
SELECT id, outcome, winner -> 'body' AS body FROM docsync_upsert('phone', (
	SELECT jsonb_agg(jsonb_build_object('id', id, 'clientVersion', 0, 'body', 'x'))
	  FROM docsync_query_since('phone', collection => 'bodies')), 'bodies');

-- A large one is toasted; comparing it costs no more than reading it.
SELECT outcome, stamp FROM pg_temp.upload('tablet', jsonb_build_array(
	jsonb_build_object('id', 'large', 'clientVersion', 1, 'body', repeat('x', 1000000))), 'large');
SELECT outcome, stamp FROM pg_temp.upload('tablet', jsonb_build_array(
	jsonb_build_object('id', 'large', 'clientVersion', 1, 'body', repeat('x', 1000000))), 'large');
SELECT outcome, stamp, length(winner ->> 'body') FROM pg_temp.upload('tablet', jsonb_build_array(
	jsonb_build_object('id', 'large', 'clientVersion', 1, 'body', repeat('y', 1000000))), 'large');

-- All of it or nothing: the transaction decides.
BEGIN;
SELECT outcome FROM docsync_upsert('tablet', '[{"id": "r1", "clientVersion": 1, "body": 1}]', 'rollback');
SAVEPOINT s;
SELECT outcome FROM docsync_upsert('tablet', '[{"id": "r2", "clientVersion": 1, "body": 1}]', 'rollback');
ROLLBACK TO s;
SELECT outcome FROM docsync_upsert('tablet', '[{"id": "r2", "clientVersion": 1, "body": 1}]', 'rollback');
SELECT id FROM docsync_query_since('phone', collection => 'rollback');
ROLLBACK;
SELECT id FROM docsync_query_since('phone', collection => 'rollback');

-- Triggers of the user's own.  What they write is not the client's: it is the
-- server's edit.
SELECT outcome FROM docsync_upsert('tablet', '[
	{"id": "sum", "clientVersion": 5, "body": 0},
	{"id": "stale", "clientVersion": 5, "body": 0},
	{"id": "v0", "clientVersion": 0, "body": 0}]', 'triggers');
CREATE FUNCTION pg_temp.sum() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE docsync.document SET body = to_jsonb(body::int + 1) WHERE collection = 'triggers' AND id = 'sum';
	DELETE FROM docsync.document WHERE collection = 'triggers' AND id = 'stale';
	RETURN NULL;
END
$$;
CREATE TRIGGER own AFTER INSERT OR UPDATE ON docsync.document FOR EACH ROW
	WHEN (new.id ~ '^part') EXECUTE FUNCTION pg_temp.sum();
SELECT outcome FROM docsync_upsert('tablet', '[{"id": "part 1", "clientVersion": 1, "body": 0}]', 'triggers');
SELECT id, client_version > 1e12 AS in_ms, client_id, deleted, body
  FROM docsync.document WHERE collection = 'triggers' AND id IN ('sum', 'stale') ORDER BY id;
DROP TRIGGER own ON docsync.document;
-- An upload within an upload
CREATE FUNCTION pg_temp.mirror() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM docsync_upsert(new.client_id, jsonb_build_array(
		jsonb_build_object('id', new.id, 'clientVersion', new.client_version, 'body', new.body)), 'mirror');
	RETURN new;
END
$$;
CREATE TRIGGER own BEFORE INSERT OR UPDATE ON docsync.document FOR EACH ROW
	WHEN (new.collection = 'triggers') EXECUTE FUNCTION pg_temp.mirror();
SELECT id, outcome, client_version FROM docsync_upsert('tablet', '[
	{"id": "v0", "clientVersion": 0, "body": 1},
	{"id": "w0", "clientVersion": 0, "body": 1}]', 'triggers');
SELECT id, outcome, client_version FROM docsync_upsert('tablet', '[
	{"id": "v0", "clientVersion": 0, "body": 2},
	{"id": "w0", "clientVersion": 0, "body": 2}]', 'triggers');
SELECT collection, id, client_version, client_id, body
  FROM docsync.document WHERE id IN ('v0', 'w0') ORDER BY collection, id;
-- The outcome is the outer one's, whatever becomes of the inner one: here the
-- outer is new and the inner isn't, then the other way round.
SELECT outcome FROM docsync_upsert('tablet', '[
	{"id": "in", "clientVersion": 1, "body": 1},
	{"id": "in twice", "clientVersion": 1, "body": 1}]', 'mirror');
SELECT ordinal, id, outcome, client_version FROM docsync_upsert('tablet', '[
	{"id": "in", "clientVersion": 2, "body": 2},
	{"id": "in twice", "clientVersion": 3, "body": 3},
	{"id": "in twice", "clientVersion": 2, "body": 2}]', 'triggers');
ALTER TABLE docsync.document DISABLE TRIGGER own;
SELECT outcome FROM docsync_upsert('tablet', '[{"id": "out", "clientVersion": 1, "body": 1}]', 'triggers');
ALTER TABLE docsync.document ENABLE TRIGGER own;
SELECT id, outcome, client_version FROM docsync_upsert('tablet', '[{"id": "out", "clientVersion": 2, "body": 2}]', 'triggers');
SELECT collection, id, client_version, client_id, body
  FROM docsync.document WHERE id IN ('in', 'in twice', 'out') ORDER BY collection, id;
DROP TRIGGER own ON docsync.document;
-- A trigger that suppresses a document: the upload says so, and stores nothing.
CREATE FUNCTION pg_temp.suppress() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;
CREATE TRIGGER own BEFORE INSERT ON docsync.document FOR EACH ROW
	WHEN (new.id = 'never') EXECUTE FUNCTION pg_temp.suppress();
SELECT outcome FROM docsync_upsert('tablet', '[
	{"id": "before", "clientVersion": 1, "body": 1},
	{"id": "never", "clientVersion": 1, "body": 1}]', 'suppressed');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM docsync.document WHERE collection = 'suppressed';
DROP TRIGGER own ON docsync.document;

-- What a document is based on: applied only if the service has just that. The
-- same once more is a retry, whoever sends it.
SELECT ordinal, id, outcome, client_version, winner IS NOT NULL AS has_winner FROM docsync_upsert('tablet', '[
	{"id": "new", "clientVersion": 1, "body": 1, "baseVersion": null},
	{"id": "gone", "clientVersion": 3, "body": 1, "baseVersion": 2}]', 'based');
SELECT ordinal, id, outcome, client_version, winner IS NOT NULL AS has_winner FROM docsync_upsert('phone', '[
	{"id": "new", "clientVersion": 1, "body": 1, "baseVersion": null},
	{"id": "new", "clientVersion": 1, "body": 2, "baseVersion": null},
	{"id": "new", "clientVersion": 5, "body": 2, "baseVersion": 2},
	{"id": "new", "clientVersion": 5, "body": 2, "baseVersion": 1},
	{"id": "new", "clientVersion": 4, "body": 3, "baseVersion": 5}]', 'based');
-- With clientVersion 0 the stamp tells what the version doesn't.
SELECT last_update_utc AS stamp FROM docsync_upsert('tablet', '[{"id": "zero", "clientVersion": 0, "body": 1}]', 'based') \gset
SELECT outcome FROM docsync_upsert('phone', '[{"id": "zero", "clientVersion": 0, "body": 2}]', 'based');
SELECT outcome FROM docsync_upsert('tablet', jsonb_build_array(jsonb_build_object('id', 'zero', 'clientVersion', 0, 'body', 3, 'baseVersion', 0,
	'baseUtc', to_char(:'stamp'::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))), 'based');

-- What is asked at commit refuses the whole, atomic or not.
CREATE TABLE owner (name text PRIMARY KEY);
ALTER TABLE docsync.document ADD owner text GENERATED ALWAYS AS (body ->> 'owner') STORED,
	ADD FOREIGN KEY (owner) REFERENCES owner DEFERRABLE INITIALLY DEFERRED;
SELECT outcome FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}, {"id": "b", "clientVersion": 1, "body": {"owner": "nobody"}}]', 'deferred', false);
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM docsync.document WHERE collection = 'deferred';
BEGIN;
SET CONSTRAINTS ALL IMMEDIATE;
SELECT id, outcome, error ->> 'code' AS error FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}, {"id": "b", "clientVersion": 1, "body": {"owner": "nobody"}}]', 'deferred', false);
COMMIT;

SET client_min_messages = warning;
DROP SCHEMA docsync CASCADE;
DROP EXTENSION docsync CASCADE;
DROP TABLE owner;
