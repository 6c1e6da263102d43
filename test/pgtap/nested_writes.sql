-- What triggers, policies, constraints and defaults write to docsync.document
-- during an upload or a purge is treated as their own, not as the upload's.
SET client_min_messages = warning;
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
DROP SCHEMA IF EXISTS docsync CASCADE;
DROP EXTENSION IF EXISTS docsync;
CREATE EXTENSION docsync;
DO $$ BEGIN PERFORM docsync_create_store(); END $$;
SELECT plan(266);

CREATE ROLE regress_docsync_nested;
SELECT docsync_grant('regress_docsync_nested') \gset
CREATE TEMP SEQUENCE called;
GRANT USAGE ON SEQUENCE called TO regress_docsync_nested;

-- Somebody's code, which writes in every way when one of the upload's
-- documents goes by.
CREATE FUNCTION public.meddle(name text) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	call bigint;
BEGIN
	IF name NOT LIKE 'up %' OR coalesce(current_setting('test.meddle', true), 'off') = 'off' THEN
		RETURN true;
	END IF;
	call := nextval('called');
	INSERT INTO docsync.document (id, client_version, client_id, body) VALUES ('inserted ' || call, 5, 'meddler', '"inserted"');
	INSERT INTO docsync.document (collection, id, client_version, client_id, body) VALUES ('elsewhere', 'inserted ' || call, 5, 'meddler', '"inserted"');
	INSERT INTO docsync.document AS d (id, client_version, client_id, body) VALUES ('merged', 5, 'meddler', '"merged"')
		ON CONFLICT (collection, id) DO UPDATE SET body = to_jsonb(call);
	UPDATE docsync.document SET body = to_jsonb(call) WHERE collection = 'default' AND id = 'updated';
	DELETE FROM docsync.document WHERE collection = 'default' AND id = 'deleted ' || call;
	RETURN true;
END
$$;
-- Of such, expressions of indexes and generated columns are made.
CREATE FUNCTION public.meddle_quietly(name text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN public.meddle(name); END $$;
CREATE FUNCTION public.meddle_in_sql(name text) RETURNS boolean LANGUAGE sql VOLATILE AS $$
	INSERT INTO docsync.document (id, client_version, client_id, body)
		SELECT 'inserted ' || nextval('called'), 5, 'meddler', '"inserted"' WHERE name LIKE 'up %' AND current_setting('test.meddle') = 'on';
	UPDATE docsync.document SET body = to_jsonb(currval('called')) WHERE name LIKE 'up %' AND current_setting('test.meddle') = 'on' AND collection = 'default' AND id = 'updated';
	SELECT true;
$$;
CREATE FUNCTION public.meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM public.meddle(NEW.id); RETURN NEW; END $$;

CREATE FUNCTION pg_temp.empty() RETURNS void LANGUAGE sql AS $$
	SET LOCAL session_replication_role = replica;
	DELETE FROM docsync.document;
	SET LOCAL session_replication_role = origin;
$$;

-- What an upload said
CREATE TEMP TABLE said (ordinal int, id text, outcome text, client_version bigint, last_update_utc timestamptz, winner jsonb, error jsonb);
GRANT ALL ON said TO regress_docsync_nested;
CREATE FUNCTION pg_temp.upload(documents jsonb) RETURNS void LANGUAGE sql AS $$
	TRUNCATE said;
	INSERT INTO said SELECT * FROM docsync_upsert('phone', documents);
$$;

-- Uploads while code meddles: of documents one of which is stored, of one, of
-- new ones only, and of so many new ones that they are written in another way.
CREATE FUNCTION pg_temp.meddled(place text, documents int, stored boolean, role name DEFAULT current_user) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	what text := format('%s, %s documents%s', place, documents, CASE WHEN stored THEN ', one stored' ELSE '' END);
	high bigint := 1 << 50;
BEGIN
	TRUNCATE said;
	PERFORM setval('called', 1, false);
	PERFORM pg_temp.empty();
	INSERT INTO docsync.document (id, client_version, client_id, body)
		SELECT * FROM (VALUES ('merged', high, 'tablet', '0'::jsonb), ('updated', high, 'tablet', '0')) AS v
		UNION ALL SELECT 'deleted ' || i, high, 'tablet', '0' FROM generate_series(1, 200) AS i;
	IF stored THEN
		INSERT INTO docsync.document (id, client_version, client_id, body) VALUES ('up 1', 1, 'tablet', '"old"');
	END IF;

	PERFORM set_config('test.meddle', 'on', true), set_config('role', role, true);
	PERFORM pg_temp.upload((SELECT jsonb_agg(jsonb_build_object('id', 'up ' || i, 'clientVersion', 10, 'body', 'new')) FROM generate_series(1, documents) AS i));
	PERFORM set_config('test.meddle', 'off', true), set_config('role', 'none', true);

	RETURN NEXT is((SELECT string_agg(DISTINCT outcome, ', ') FROM said WHERE id <> 'up 1' OR NOT stored),
		CASE WHEN documents > 1 OR NOT stored THEN 'created' END, what || ': the new ones are created');
	IF stored THEN
		RETURN NEXT is((SELECT outcome FROM said WHERE id = 'up 1'), 'updated', what || ': the stored one is updated');
	END IF;
	RETURN NEXT is((SELECT count(*) FROM said JOIN docsync.document AS d USING (id, client_version, last_update_utc)
					 WHERE d.collection = 'default' AND client_id = 'phone' AND body = '"new"' AND d.client_version = 10)::int,
		documents, what || ': what is stored is what was said');
	RETURN NEXT is((SELECT count(*) FROM docsync.document AS d WHERE collection = 'default' AND id LIKE 'inserted %'
					 AND client_version = 5 AND client_id = 'meddler')::bigint, (SELECT last_value FROM called), what || ': what was inserted meanwhile');
	RETURN NEXT ok((SELECT client_id = 'server' AND client_version > high AND body <> '0' FROM docsync.document WHERE collection = 'default' AND id = 'updated'),
		what || ': an edit meanwhile is the server''s');
	RETURN NEXT ok((SELECT count(DISTINCT last_update_utc) = count(*) FROM docsync.document), what || ': no stamp twice');

	-- One reservation, of two stamps for a document that may be stored; an
	-- upload within has it dropped.
	IF what NOT LIKE 'upload in%' THEN
		RETURN NEXT cmp_ok((SELECT extract(epoch FROM max(last_update_utc) - min(last_update_utc)) * 1000000 FROM said)::int, '<=',
			documents * CASE WHEN stored THEN 2 ELSE 1 END, what || ': the upload''s stamps are its own');
	END IF;
END
$$;
CREATE FUNCTION pg_temp.meddled(place text, role name DEFAULT current_user) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT pg_temp.meddled(place, documents, stored, role)
	  FROM (VALUES (1, false), (3, false), (3, true), (60, false)) AS v(documents, stored)
$$;


------------------------------------------------------------------------------
-- Triggers
------------------------------------------------------------------------------
CREATE TRIGGER meddle BEFORE INSERT ON docsync.document FOR EACH ROW EXECUTE FUNCTION meddle();
SELECT pg_temp.meddled('BEFORE INSERT');
DROP TRIGGER meddle ON docsync.document;
CREATE TRIGGER meddle BEFORE UPDATE ON docsync.document FOR EACH ROW WHEN (NEW.id LIKE 'up %') EXECUTE FUNCTION meddle();
SELECT pg_temp.meddled('BEFORE UPDATE', 3, true);
DROP TRIGGER meddle ON docsync.document;
CREATE TRIGGER meddle AFTER INSERT OR UPDATE ON docsync.document FOR EACH ROW EXECUTE FUNCTION meddle();
SELECT pg_temp.meddled('AFTER');
DROP TRIGGER meddle ON docsync.document;

------------------------------------------------------------------------------
-- What runs in the statement itself, at the same depth of triggers
------------------------------------------------------------------------------
ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY;
GRANT DELETE ON docsync.document TO regress_docsync_nested;
CREATE POLICY meddle ON docsync.document USING (true) WITH CHECK (public.meddle(id));
SELECT pg_temp.meddled('WITH CHECK of a policy', 'regress_docsync_nested');
DROP POLICY meddle ON docsync.document;
CREATE POLICY meddle ON docsync.document USING (public.meddle(id)) WITH CHECK (true);
SELECT pg_temp.meddled('USING of a policy', 3, true, 'regress_docsync_nested');
DROP POLICY meddle ON docsync.document;
CREATE POLICY meddle ON docsync.document USING (true) WITH CHECK (public.meddle_in_sql(id));
SELECT pg_temp.meddled('a policy in SQL', 'regress_docsync_nested');
DROP POLICY meddle ON docsync.document;

-- Called while the statement is planned
CREATE FUNCTION public.meddle_once() RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
	-- What is written within has it called again.
	IF current_setting('test.meddle', true) = 'on' THEN
		PERFORM set_config('test.meddle', 'once', true);
		PERFORM public.meddle('up planned');
		PERFORM set_config('test.meddle', 'off', true);
	END IF;
	RETURN 'default';
END
$$;
CREATE POLICY meddle ON docsync.document USING (collection >= public.meddle_once()) WITH CHECK (true);
DISCARD PLANS;
SELECT pg_temp.meddled('a policy when the plan is made', 3, true, 'regress_docsync_nested');
DROP POLICY meddle ON docsync.document;

-- Held to the size that plain SQL is held to
CREATE FUNCTION public.insert_large(name text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	IF name LIKE 'up %' THEN
		INSERT INTO docsync.document (id, client_version, client_id, body) VALUES ('large', 1, 'meddler', to_jsonb(repeat('x', 2000)));
	END IF;
	RETURN true;
END
$$;
CREATE POLICY meddle ON docsync.document USING (true) WITH CHECK (public.insert_large(id));
SET LOCAL docsync.max_document_size = 1000;
SET LOCAL ROLE regress_docsync_nested;
SELECT throws_ok($$SELECT docsync_upsert('phone', '[{"id": "up 1", "clientVersion": 20, "body": 1}]')$$, '54000', NULL,
	'what is written meanwhile is held to the size that plain SQL is held to');
RESET ROLE;
RESET docsync.max_document_size;
DROP POLICY meddle ON docsync.document;
ALTER TABLE docsync.document DISABLE ROW LEVEL SECURITY;

SELECT pg_temp.empty() \gset
ALTER TABLE docsync.document ADD CONSTRAINT meddle CHECK (public.meddle(id));
SELECT pg_temp.meddled('CHECK');
ALTER TABLE docsync.document DROP CONSTRAINT meddle;

SELECT pg_temp.empty() \gset
CREATE INDEX meddle ON docsync.document (public.meddle_quietly(id));
SELECT pg_temp.meddled('expression of an index');
DROP INDEX docsync.meddle;

SELECT pg_temp.empty() \gset
ALTER TABLE docsync.document ADD meddled boolean GENERATED ALWAYS AS (public.meddle_quietly(id)) STORED;
SELECT pg_temp.meddled('generated column');
ALTER TABLE docsync.document DROP meddled;

-- Before the row comes to be stamped
ALTER TABLE docsync.document ADD meddled text;
ALTER TABLE docsync.document ALTER meddled SET DEFAULT public.meddle_once();
SELECT pg_temp.meddled('DEFAULT');
ALTER TABLE docsync.document DROP meddled;

------------------------------------------------------------------------------
-- Uploads and downloads in the midst of an upload
------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION public.meddle(name text) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	call bigint;
	said text;
BEGIN
	IF name NOT LIKE 'up %' OR coalesce(current_setting('test.meddle', true), 'off') = 'off' THEN
		RETURN true;
	END IF;
	call := nextval('called');
	SELECT string_agg(outcome, ', ' ORDER BY ordinal) INTO said
	  FROM docsync_upsert('meddler', jsonb_build_array(
			jsonb_build_object('id', 'inserted ' || call, 'clientVersion', 5, 'body', 'inserted'),
			jsonb_build_object('id', 'updated', 'clientVersion', 5, 'body', 'meddled'),
			jsonb_build_object('id', 'uploaded', 'clientVersion', 0, 'body', call)));
	IF said <> format('created, discarded, %s', CASE WHEN call = 1 THEN 'created' ELSE 'updated' END) THEN
		RAISE 'the upload within: %', said;
	END IF;
	UPDATE docsync.document SET body = to_jsonb(call) WHERE collection = 'default' AND id = 'updated';
	IF call % 2 = 0 THEN
		PERFORM docsync_pull('meddler', NULL);
	END IF;
	RETURN true;
END
$$;
ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY;
CREATE POLICY meddle ON docsync.document USING (true) WITH CHECK (public.meddle(id));
SELECT pg_temp.meddled('upload in a policy', 'regress_docsync_nested');
DROP POLICY meddle ON docsync.document;
ALTER TABLE docsync.document DISABLE ROW LEVEL SECURITY;
CREATE TRIGGER meddle BEFORE INSERT ON docsync.document FOR EACH ROW EXECUTE FUNCTION meddle();
SELECT pg_temp.meddled('upload in a trigger');
DROP TRIGGER meddle ON docsync.document;

------------------------------------------------------------------------------
-- In the midst of a purge
------------------------------------------------------------------------------
DELETE FROM docsync.document WHERE collection = 'default';
INSERT INTO docsync.document (id, client_version, client_id, body) VALUES ('alive', 1, 'tablet', '1'), ('alive too', 1, 'tablet', '1');
INSERT INTO docsync.document (id, client_version, client_id, deleted, last_update_utc, fence)
	SELECT 'gone ' || i, 1, 'tablet', true, '2001-01-01'::timestamptz + i * interval '1 s', '3' FROM generate_series(1, 3) AS i;
CREATE FUNCTION public.remove() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM docsync.document WHERE collection = 'default' AND id = 'alive';
	RETURN true;
END
$$;
CREATE FUNCTION public.remove_too() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM docsync.document WHERE collection = 'default' AND id = 'alive too' AND NOT deleted;
	RETURN OLD;
END
$$;
ALTER TABLE docsync.purged ADD CONSTRAINT remove CHECK (public.remove());
CREATE TRIGGER remove AFTER DELETE ON docsync.document FOR EACH ROW EXECUTE FUNCTION remove_too();
CALL docsync_purge('1 day', 'default');
SELECT is((SELECT count(*) FROM docsync.document WHERE id ~ '^gone')::int, 1, 'a purge');
SELECT is((SELECT string_agg(id, ', ' ORDER BY id) FROM docsync.document WHERE collection = 'default' AND id ~ 'alive' AND deleted), 'alive, alive too',
	'what is deleted in the midst of a purge leaves tombstones');

SELECT * FROM finish();
ROLLBACK;
