-- Every refusal: message, detail, hint, SQLSTATE, and that nothing is left behind.
\set SHOW_CONTEXT never
\pset null (null)
CREATE EXTENSION docsync;
SELECT docsync_create_store() \g /dev/null
CREATE ROLE regress_docsync_client;
SELECT docsync_grant('regress_docsync_client');
SELECT outcome FROM docsync_upsert('tablet', '[{"id": "kept", "clientVersion": 1, "body": 1}]');

-- after: the last SQLSTATE, and that nothing was stored and no stamp used.
SELECT last_value AS clock FROM docsync.clock \gset
\set after 'SELECT :''LAST_ERROR_SQLSTATE'' AS sqlstate, last_value = :clock AS no_stamp, (SELECT array_agg(id) = ''{kept}'' FROM docsync.document) AS nothing_stored FROM docsync.clock;'

-- docsync_upsert: null
SELECT * FROM docsync_upsert(NULL, '[]');
:after
SELECT * FROM docsync_upsert('tablet', NULL);
:after
SELECT * FROM docsync_upsert('tablet', '[]', NULL);
:after

-- docsync_upsert: names
SELECT * FROM docsync_upsert('', '[]');
:after
SELECT * FROM docsync_upsert(repeat('é', 100) || 'x', '[]');
:after
SELECT * FROM docsync_upsert('tablet', '[]', '');
:after
SELECT * FROM docsync_upsert('tablet', '[]', repeat('é', 100) || 'x');
:after

-- not an array
SELECT * FROM docsync_upsert('tablet', '{"id": "a", "clientVersion": 1, "body": 1}');
:after
SELECT * FROM docsync_upsert('tablet', 'null');
:after
SELECT * FROM docsync_upsert('tablet', '"text"');
:after
SELECT * FROM docsync_upsert('tablet', '17');
:after
SELECT * FROM docsync_upsert('tablet', 'true');
:after

-- not an object.  A good document before it isn't stored either.
SELECT * FROM docsync_upsert('tablet', '[{"id": "good", "clientVersion": 1, "body": 1}, null]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "good", "clientVersion": 1, "body": 1}, []]');
:after
SELECT * FROM docsync_upsert('tablet', '["id"]');
:after
SELECT * FROM docsync_upsert('tablet', '[1]');
:after
SELECT * FROM docsync_upsert('tablet', '[true]');
:after
SELECT * FROM docsync_upsert('tablet', '[[{"id": "a", "clientVersion": 1, "body": 1}]]');
:after

-- missing
SELECT * FROM docsync_upsert('tablet', '[{}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "good", "clientVersion": 1, "body": 1}, {"clientVersion": 1, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "good", "clientVersion": 1, "body": 1}, {"id": "a", "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "good", "clientVersion": 1, "body": 1}, {"id": "a", "clientVersion": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "deleted": false}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"clientVersion": 1, "deleted": true}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "deleted": true}]');
:after

-- unknown keys: names are written as they are, in the right case
SELECT * FROM docsync_upsert('tablet', '[{"id": "good", "clientVersion": 1, "body": 1}, {"id": "a", "clientVersion": 1, "body": 1, "Body": 2}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientversion": 1, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1, "": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"ids": "a", "clientVersion": 1, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"i": "a", "clientVersion": 1, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', jsonb_build_array(jsonb_build_object(repeat('é', 1000), 1)));
:after
SELECT * FROM docsync_upsert('tablet', jsonb_build_array(jsonb_build_object(repeat('é', 20), 1)));
:after

-- id
SELECT * FROM docsync_upsert('tablet', '[{"id": "good", "clientVersion": 1, "body": 1}, {"id": 17, "clientVersion": 1, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": null, "clientVersion": 1, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": true, "clientVersion": 1, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": ["a"], "clientVersion": 1, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": {"a": 1}, "clientVersion": 1, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "", "clientVersion": 1, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', jsonb_build_array(
	jsonb_build_object('id', repeat('é', 250) || 'x', 'clientVersion', 1, 'body', 1)));
:after

-- clientVersion
SELECT * FROM docsync_upsert('tablet', '[{"id": "good", "clientVersion": 1, "body": 1}, {"id": "a", "clientVersion": "17", "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": null, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": true, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": [1], "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": {}, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "good", "clientVersion": 1, "body": 1}, {"id": "a", "clientVersion": 1.5, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": -0.0000000001, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1e-400, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 9223372036854775807.5, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "good", "clientVersion": 1, "body": 1}, {"id": "a", "clientVersion": 9223372036854775808, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": -9223372036854775809, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1e400, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": -1e400, "body": 1}]');
:after
-- These are integers of 64 bits.
BEGIN;
SELECT client_version FROM docsync_upsert('tablet', '[
	{"id": "a", "clientVersion": 17.0, "body": 1},
	{"id": "b", "clientVersion": -9223372036854775808, "body": 1},
	{"id": "c", "clientVersion": 9223372036854775807.000, "body": 1},
	{"id": "d", "clientVersion": 1.7e3, "body": 1},
	{"id": "e", "clientVersion": -0.0, "body": 1},
	{"id": "f", "clientVersion": 1e0, "body": 1}]', 'integers');
ROLLBACK;
SELECT last_value AS clock FROM docsync.clock \gset

-- deleted
SELECT * FROM docsync_upsert('tablet', '[{"id": "good", "clientVersion": 1, "body": 1}, {"id": "a", "clientVersion": 1, "body": 1, "deleted": "true"}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1, "deleted": null}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1, "deleted": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1, "deleted": []}]');
:after

-- baseVersion, baseUtc
SELECT * FROM docsync_upsert('tablet', '[{"id": "good", "clientVersion": 1, "body": 1}, {"id": "a", "clientVersion": 1, "body": 1, "baseVersion": "1"}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1, "baseVersion": 1.5}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1, "baseVersion": 9223372036854775808}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1, "baseVersion": true}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1, "baseVersion": []}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1, "baseUtc": "2001-01-01T00:00:00Z"}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1, "baseVersion": 1, "baseUtc": null}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1, "baseVersion": 1, "baseUtc": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1, "baseVersion": 1, "baseUtc": "2001-01-01"}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1, "baseVersion": 1, "baseUtc": "infinity"}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1, "baseversion": 1}]');
:after
-- What isn't based on what is stored isn't either, and is no error.
SELECT id, outcome, client_version, last_update_utc IS NULL AS none, winner ->> 'id' AS winner FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1, "baseVersion": 1}, {"id": "kept", "clientVersion": 2, "body": 2, "baseVersion": null}]');
:after

-- limits
SET docsync.max_batch = 2;
SELECT * FROM docsync_upsert('tablet', '[
	{"id": "a", "clientVersion": 1, "body": 1},
	{"id": "b", "clientVersion": 1, "body": 1},
	{"id": "c", "clientVersion": 1, "body": 1}]');
:after
RESET docsync.max_batch;
SELECT * FROM docsync_upsert('tablet', (
	SELECT jsonb_agg(jsonb_build_object('id', i::text, 'clientVersion', 1, 'body', 1)) FROM generate_series(1, 10001) AS i));
:after
SELECT * FROM docsync_upsert('tablet', jsonb_build_array(
	jsonb_build_object('id', 'good', 'clientVersion', 1, 'body', 1),
	jsonb_build_object('id', 'a', 'clientVersion', 1, 'body', repeat('x', 1024 * 1024))));
:after
SELECT * FROM docsync_upsert('tablet', jsonb_build_array(
	jsonb_build_object('id', 'a', 'clientVersion', 1, 'body', jsonb_build_array(repeat('x', 1024 * 1024)))));
:after
SET docsync.max_document_size = 100;
SELECT * FROM docsync_upsert('tablet', jsonb_build_array(
	jsonb_build_object('id', 'a', 'clientVersion', 1, 'body', (repeat('9', 1000))::numeric)));
:after
RESET docsync.max_document_size;
SET docsync.max_version_lead = '1 min';
SELECT client_version FROM docsync_upsert('tablet', '[
	{"id": "kept", "clientVersion": 0, "body": 1},
	{"id": "kept", "clientVersion": -9223372036854775808, "body": 1}]');
\set VERBOSITY terse
SELECT * FROM docsync_upsert('tablet', '[
	{"id": "good", "clientVersion": 1, "body": 1},
	{"id": "a", "clientVersion": 9223372036854775807, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', jsonb_build_array(jsonb_build_object(
	'id', 'a', 'clientVersion', floor(date_part('epoch', clock_timestamp()) * 1000 + 62000), 'body', 1)));
:after
\set VERBOSITY default
BEGIN;
SELECT outcome FROM docsync_upsert('tablet', jsonb_build_array(jsonb_build_object(
	'id', 'a', 'clientVersion', floor(date_part('epoch', clock_timestamp()) * 1000 + 58000), 'body', 1)));
ROLLBACK;
SELECT last_value AS clock FROM docsync.clock \gset
-- its detail has the time in it
DO $$
DECLARE
	detail text;
	hint text;
BEGIN
	PERFORM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 9223372036854775807, "body": 1}]');
EXCEPTION WHEN invalid_parameter_value THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RAISE NOTICE '%', regexp_replace(detail, 'most \d{13} ', 'most NOW ');
	RAISE NOTICE '%', hint;
END
$$;
:after
RESET docsync.max_version_lead;
-- Limits are the administrator's.
SET ROLE regress_docsync_client;
SET docsync.max_batch = 1000000;
\echo :LAST_ERROR_SQLSTATE
SET docsync.max_document_size = 1000000;
\echo :LAST_ERROR_SQLSTATE
SET docsync.max_version_lead = -1;
\echo :LAST_ERROR_SQLSTATE
SET docsync.max_page_size = 1;
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;

-- What is not JSON the server refuses before docsync sees it.
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1},]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": NaN, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a\u0000", "clientVersion": 1, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": {"\u0000": 1}}]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "\ud800", "clientVersion": 1, "body": 1}]');
:after
SELECT * FROM docsync_upsert('tablet', '');
:after
\set VERBOSITY terse
SELECT * FROM docsync_upsert('tablet', ('[{"id": "a", "clientVersion": 1, "body": ' || repeat('[', 100000) || repeat(']', 100000) || '}]')::jsonb);
:after
\set VERBOSITY default
SELECT * FROM docsync_upsert('tablet', convert_from('\x5b22ff225d', 'UTF8')::jsonb);
:after
SELECT * FROM docsync_upsert(E'tab\xfflet', '[]');
:after
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1e200000, "body": 1}]');
:after

-- A transaction that may not write
BEGIN READ ONLY;
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]');
ROLLBACK;
:after
BEGIN READ ONLY;
SELECT * FROM docsync_upsert('tablet', '[]');
ROLLBACK;
:after

-- docsync_query_since
SELECT * FROM docsync_query_since(NULL);
:after
SELECT * FROM docsync_query_since(NULL, origin => 'own');
:after
SELECT * FROM docsync_query_since('tablet', origin => NULL);
:after
SELECT * FROM docsync_query_since('tablet', collection => NULL);
:after
SELECT * FROM docsync_query_since('');
:after
SELECT * FROM docsync_query_since('', origin => 'any');
:after
SELECT * FROM docsync_query_since(repeat('é', 100) || 'x');
:after
SELECT * FROM docsync_query_since('tablet', collection => '');
:after
SELECT * FROM docsync_query_since('tablet', collection => repeat('é', 100) || 'x');
:after
SELECT * FROM docsync_query_since('tablet', origin => 'others');
:after
SELECT * FROM docsync_query_since('tablet', origin => '');
:after
SELECT * FROM docsync_query_since('tablet', origin => 'Other');
:after
SELECT * FROM docsync_query_since('tablet', 'infinity');
:after
CALL docsync_purge(NULL);
:after
CALL docsync_purge('-1 day');
:after
CALL docsync_purge('1 day', '');
:after
CALL docsync_purge('1 day', repeat('é', 100) || 'x');
:after
SELECT * FROM docsync_query_since('tablet', max_documents => -1);
:after
SELECT * FROM docsync_query_since('tablet', max_documents => -2147483648);
:after
SELECT * FROM docsync_query_since('tablet', 'not a time');
:after
\set VERBOSITY terse
SELECT * FROM docsync_query_since('tablet', 'epoch'::timestamptz + (:clock + 1) * interval '1 us');
:after
SELECT * FROM docsync_query_since('tablet', '294276-12-31 23:59:59.999999+00');
:after
\set VERBOSITY default
-- It has no time and no name in it: who asks may see nothing of the collection.
SELECT * FROM docsync_query_since('tablet', 'epoch'::timestamptz + (:clock + 2) * interval '1 us');
:after

-- Resync, for each of its causes, from all calls that go on from somewhere.
-- (The third, purged tombstones, is in pgtap/purge.sql.)
SELECT lpad(to_hex(epoch), 16, '0') AS epoch, lpad(to_hex(epoch # 1), 16, '0') AS other_epoch FROM docsync.history \gset
SELECT docsync_pull(cursor => :'epoch' || '.' || :clock + 1000000);
:after
SELECT docsync_sync('tablet', cursor => :'epoch' || '.' || :clock + 1000000);
:after
-- with documents, which aren't stored then
SELECT docsync_sync('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]', cursor => :'epoch' || '.' || 7000000000000000);
SELECT :'LAST_ERROR_SQLSTATE' AS sqlstate, array_agg(id) AS stored FROM docsync.document;
SELECT docsync_docs_query('any', '2262-01-01T00:00:00Z');
\echo :LAST_ERROR_SQLSTATE
SELECT docsync_pull(cursor => :'other_epoch' || '.' || 1);
\echo :LAST_ERROR_SQLSTATE
SELECT docsync_sync('tablet', cursor => :'other_epoch' || '.' || 1);
\echo :LAST_ERROR_SQLSTATE
SELECT last_value AS clock FROM docsync.clock \gset

-- Unknown origins, as long as they may be
SELECT * FROM docsync_query_since('tablet', origin => repeat('é', 1000));
:after

-- Privileges
CREATE ROLE regress_docsync_stranger;
SET ROLE regress_docsync_stranger;
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM docsync_query_since('tablet');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM docsync_grant('regress_docsync_stranger');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
-- A call without the table's privileges
GRANT USAGE ON SCHEMA docsync TO regress_docsync_stranger;
SET ROLE regress_docsync_stranger;
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM docsync_query_since('tablet');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
GRANT SELECT ON docsync.document TO regress_docsync_stranger;
SET ROLE regress_docsync_stranger;
SELECT id FROM docsync_query_since('phone');
SELECT * FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]');
\echo :LAST_ERROR_SQLSTATE
-- what writes nothing needs no privilege to write
SELECT id, outcome FROM docsync_upsert('tablet', '[{"id": "kept", "clientVersion": 1, "body": 1}]');
RESET ROLE;
:after
SELECT docsync_grant('no_such_role');
\echo :LAST_ERROR_SQLSTATE
SELECT docsync_grant('public');
\echo :LAST_ERROR_SQLSTATE
SELECT docsync_grant(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT docsync_grant('-');
\echo :LAST_ERROR_SQLSTATE
SELECT docsync_grant('4294967295');
\echo :LAST_ERROR_SQLSTATE

-- Row-level security.  (Stamps may be used up: triggers run before policies.)
ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_name ON docsync.document TO regress_docsync_client
	USING (client_id = current_user) WITH CHECK (client_id = current_user);
SET ROLE regress_docsync_client;
SELECT * FROM docsync_upsert('somebody', '[{"id": "a", "clientVersion": 1, "body": "secret"}]');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM docsync_upsert('regress_docsync_client', '[
	{"id": "a", "clientVersion": 1, "body": "secret"},
	{"id": "kept", "clientVersion": 2, "body": "secret"}]');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
SELECT array_agg(id) FROM docsync.document;
-- A policy's function that fails for a stored document, of one of several
-- collections: the request goes on, so nothing of the look-up may be left.
CREATE FUNCTION regress_docsync_look(id text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	IF id = 'looked at' THEN
		RAISE 'not to be looked at';
	END IF;
	RETURN true;
END
$$;
DROP POLICY own_name ON docsync.document;
CREATE POLICY look ON docsync.document TO regress_docsync_client USING (regress_docsync_look(id)) WITH CHECK (true);
SELECT id, outcome FROM docsync_upsert('somebody', '[{"id": "looked at", "clientVersion": 1, "body": 1}]', 'first');
SET ROLE regress_docsync_client;
SELECT answer ->> 'collection' AS collection, answer -> 'error' ->> 'message' AS message, answer -> 'received' AS received
  FROM json_array_elements(docsync_docs_sync('{"clientId": "c", "collections": [
	{"collection": "first", "documents": [{"id": "looked at", "clientVersion": 2, "body": 2}]},
	{"collection": "second", "documents": [{"id": "other", "clientVersion": 2, "body": 2}]}]}') -> 'collections') AS answer;
RESET ROLE;

SET client_min_messages = warning;
DROP SCHEMA docsync CASCADE;
DROP EXTENSION docsync;
DROP FUNCTION regress_docsync_look;
DROP OWNED BY regress_docsync_client, regress_docsync_stranger;
DROP ROLE regress_docsync_client, regress_docsync_stranger;
