-- A document that was deleted is inserted again by plain SQL.
\set SHOW_CONTEXT never
\pset null (null)
CREATE EXTENSION docsync;
SELECT docsync_create_store() \g /dev/null
-- what a client has, and is given: "above" is whether the version is above the tombstone's
\set pull 'SELECT id, client_version > :version AS above, client_id, deleted, body FROM docsync_query_since(''phone'', ''epoch''::timestamptz + :clock * interval ''1 us'' + interval ''1 us'') ORDER BY id;'

INSERT INTO docsync.document (id, body) SELECT 'd' || n, to_jsonb(n) FROM generate_series(1, 9) n;
-- deleted and inserted again, in one transaction too, where the time is the same
DELETE FROM docsync.document WHERE id = 'd1';
SELECT client_version AS version FROM docsync.document WHERE id = 'd1' \gset
SELECT last_value AS clock FROM docsync.clock \gset
INSERT INTO docsync.document (id, body) VALUES ('d1', '"again"') RETURNING id, deleted, body;
:pull
SELECT last_value AS clock FROM docsync.clock \gset
BEGIN;
DELETE FROM docsync.document WHERE id = 'd2';
SELECT client_version AS version FROM docsync.document WHERE id = 'd2' \gset
INSERT INTO docsync.document (id, body) VALUES ('d2', '"again"');
DELETE FROM docsync.document WHERE id = 'd2';
INSERT INTO docsync.document (id, body) VALUES ('d2', '"and again"');
COMMIT;
:pull
-- rows that say whose they are: theirs if the version is above what was deleted, else the server's
SELECT docsync_upsert('tablet', '[{"id": "d3", "clientVersion": 9000000000000000, "deleted": true}, {"id": "d4", "clientVersion": 9000000000000000, "deleted": true}, {"id": "d5", "clientVersion": 9223372036854775807, "deleted": true}]') \g /dev/null
SELECT last_value AS clock, 9000000000000000 AS version FROM docsync.clock \gset
INSERT INTO docsync.document (id, client_version, client_id, body) VALUES ('d3', 9000000000000001, 'import', '"own"'), ('d4', 9000000000000000, 'import', '"same"');
:pull
-- no version is above the highest
INSERT INTO docsync.document (id, body) VALUES ('d5', '5');
\echo :LAST_ERROR_SQLSTATE
-- COPY, and ON CONFLICT
SELECT last_value AS clock FROM docsync.clock \gset
DELETE FROM docsync.document WHERE id IN ('d6', 'd7');
SELECT max(client_version) AS version FROM docsync.document WHERE id IN ('d6', 'd7') \gset
COPY docsync.document (id, body) FROM stdin;
d6	"copied"
\.
INSERT INTO docsync.document (id, body) VALUES ('d7', '"nothing?"'), ('d8', '"nothing"') ON CONFLICT DO NOTHING;
:pull
-- what is there and isn't deleted stays, and so does what comes twice
\set VERBOSITY terse
INSERT INTO docsync.document (id, body) VALUES ('d8', '8');
DELETE FROM docsync.document WHERE id = 'd8';
INSERT INTO docsync.document (id, body) VALUES ('d8', '8'), ('d8', '8');
SELECT deleted FROM docsync.document WHERE id = 'd8';
-- a tombstone on top of a tombstone, and an error behind it
INSERT INTO docsync.document (id, deleted) VALUES ('d8', true);
INSERT INTO docsync.document (id, body, client_id) VALUES ('d8', '8', repeat('x', 201));
SELECT deleted, client_id FROM docsync.document WHERE id = 'd8';
-- a dump that is restored over a tombstone
INSERT INTO docsync.document SELECT * FROM docsync.document WHERE id = 'd8';

-- It stays where another unique index may keep the row out: nobody would be told.
CREATE UNIQUE INDEX one ON docsync.document ((body ->> 'one'));
INSERT INTO docsync.document (id, body) VALUES ('one', '{"one": 1}');
INSERT INTO docsync.document (id, body) VALUES ('d8', '{"one": 1}') ON CONFLICT DO NOTHING;
INSERT INTO docsync.document (id, body) VALUES ('d8', '{"one": 2}');
SELECT deleted FROM docsync.document WHERE id = 'd8';
DROP INDEX docsync.one;
-- ... where a foreign key refers to it: what refers to it isn't touched
CREATE TABLE note (id text PRIMARY KEY, collection text DEFAULT 'default', document text, FOREIGN KEY (collection, document) REFERENCES docsync.document ON DELETE SET NULL);
INSERT INTO note (id, document) VALUES ('n', 'd8');
INSERT INTO docsync.document (id, body) VALUES ('d8', '8');
SELECT document FROM note;
-- ... where a trigger or a rule of the user's hears of a DELETE: it has done so, when the document was deleted
TRUNCATE note;
ALTER TABLE note DROP CONSTRAINT note_collection_document_fkey;
CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN DELETE FROM note WHERE document = OLD.id; RETURN OLD; END$$;
CREATE TRIGGER forget AFTER DELETE ON docsync.document FOR EACH ROW EXECUTE FUNCTION forget();
INSERT INTO note (id, document) VALUES ('n', 'd8');
INSERT INTO docsync.document (id, body) VALUES ('d8', '8');
ALTER TABLE docsync.document DISABLE TRIGGER forget;
BEGIN;
INSERT INTO docsync.document (id, body) VALUES ('d8', '8') RETURNING deleted;
ROLLBACK;
DROP TRIGGER forget ON docsync.document;
CREATE RULE forget AS ON DELETE TO docsync.document DO ALSO DELETE FROM note WHERE document = OLD.id;
INSERT INTO docsync.document (id, body) VALUES ('d8', '8');
DROP RULE forget ON docsync.document;
SELECT document FROM note;
DROP TABLE note;
DROP FUNCTION forget;
-- ... and for whoever may not delete, or not that one
CREATE ROLE regress_inserts;
GRANT USAGE ON SCHEMA docsync TO regress_inserts;
GRANT INSERT ON docsync.document TO regress_inserts;
SET ROLE regress_inserts;
INSERT INTO docsync.document (id, body) VALUES ('new', '1');
INSERT INTO docsync.document (id, body) VALUES ('d8', '8');
RESET ROLE;
GRANT SELECT, UPDATE, DELETE ON docsync.document TO regress_inserts;
ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON docsync.document TO regress_inserts USING (id IN ('d9', 'new')) WITH CHECK (true);
DELETE FROM docsync.document WHERE id = 'd9';
SET ROLE regress_inserts;
INSERT INTO docsync.document (id, body) VALUES ('d8', '8');
INSERT INTO docsync.document (id, body) VALUES ('d9', '9');
SELECT deleted, body FROM docsync.document WHERE id = 'd9';
RESET ROLE;

SET client_min_messages = warning;
DROP EXTENSION docsync CASCADE;
DROP SCHEMA docsync CASCADE;
DROP ROLE regress_inserts;
