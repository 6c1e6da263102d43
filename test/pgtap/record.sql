-- Who gets something into docsync.record, who reads it, and who brings it back;
-- docsync_restamp and docsync_rebase by those who may not.
SET client_min_messages = warning;
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
DROP SCHEMA IF EXISTS docsync CASCADE;
DROP EXTENSION IF EXISTS docsync;
CREATE EXTENSION docsync;
DO $$ BEGIN PERFORM docsync_create_store(); END $$;
SELECT plan(48);

CREATE ROLE regress_docsync_ann;
CREATE ROLE regress_docsync_bob;
CREATE ROLE regress_docsync_reader;
SELECT docsync_grant('regress_docsync_ann'), docsync_grant('regress_docsync_bob') \gset
GRANT USAGE ON SCHEMA docsync TO regress_docsync_reader;
GRANT SELECT ON docsync.document TO regress_docsync_reader;
INSERT INTO docsync.keep VALUES ('%', 'replaced');

CREATE FUNCTION pg_temp.run_as(role text, query text) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	result text;
BEGIN
	BEGIN
		PERFORM set_config('role', 'regress_docsync_' || role, true);
		EXECUTE format('SELECT coalesce(string_agg(q::text, '' ''), ''nothing'') FROM (%s) AS q', query) INTO result;
	EXCEPTION WHEN OTHERS THEN
		result := concat_ws(' ', SQLSTATE, SQLERRM);
	END;
	PERFORM set_config('role', 'none', true);
	RETURN result;
END
$$;
CREATE FUNCTION pg_temp.upload(role text, id text, version int8, body text, collection text DEFAULT 'ann/notes', base text DEFAULT NULL) RETURNS text
	LANGUAGE sql
AS $$
	SELECT pg_temp.run_as(role, format('SELECT outcome FROM docsync_upsert(%L, %L, %L)', role,
		jsonb_build_array(jsonb_build_object('id', id, 'clientVersion', version, 'body', body) || coalesce(base::jsonb, '{}')), collection))
$$;
CREATE FUNCTION pg_temp.record(collection text DEFAULT 'ann/notes') RETURNS text
	LANGUAGE sql
AS $$
	SELECT coalesce(string_agg(concat_ws(' ', id, client_version, client_id, body, why), ', ' ORDER BY id, recorded_utc), 'nothing') FROM docsync.record AS r WHERE r.collection = $1
$$;
\set refused_new '42501 new row violates row-level security policy for table "document"'
\set refused_old '42501 new row violates row-level security policy (USING expression) for table "document"'
\set denied '42501 permission denied for table record'

------------------------------------------------------------------------------
-- Tenants by collection
------------------------------------------------------------------------------
ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON docsync.document USING (split_part(collection, '/', 1) = replace(current_user, 'regress_docsync_', ''));
SELECT is(pg_temp.upload('ann', 'd', 1, 'one'), '(created)', 'ann uploads');
SELECT is(pg_temp.upload('ann', 'd', 2, 'two'), '(updated)', '... a newer version');
SELECT is(pg_temp.upload('ann', 'd', 1, 'late'), '(discarded)', '... and one that comes late');
SELECT is(pg_temp.upload('ann', 'd', 3, 'based', base => '{"baseVersion": 1}'), '(conflict)', '... and one that is based on what is gone');
SELECT is(pg_temp.record(), 'd 1 ann "one" replaced, d 1 ann "late" discarded, d 3 ann "based" conflict', 'all that lost is kept');
SELECT is(pg_temp.upload('bob', 'd', i, i::text, 'bob/notes'), CASE i WHEN 1 THEN '(created)' ELSE '(updated)' END, 'bob has a record, too') FROM generate_series(1, 2) AS i;

-- Nothing of bob's gets into ann's, whether there is such a document or not.
SELECT is(pg_temp.upload('bob', id, version, 'bob'), :'refused_new', format('bob is refused in ann''s: %s, %s', id, version))
  FROM unnest('{d,none}'::text[]) AS id, unnest('{0,2,9}'::int[]) AS version;
SELECT is(pg_temp.upload('bob', id, 9, 'bob', base => '{"baseVersion": 2}'), '(conflict)', format('or in conflict with what he can''t see: %s', id))
  FROM unnest('{d,none}'::text[]) AS id;
SELECT is(pg_temp.record(), 'd 1 ann "one" replaced, d 1 ann "late" discarded, d 3 ann "based" conflict', '... and nothing of it is kept');

-- The record is the owner's until he lets somebody in.
SELECT is(pg_temp.run_as('ann', 'SELECT id FROM docsync.record'), :'denied', 'ann may not read it');
GRANT SELECT ON docsync.record TO regress_docsync_ann, regress_docsync_bob;
SELECT is(pg_temp.run_as('ann', 'SELECT id FROM docsync.record'), 'nothing', 'by a privilege alone she sees nothing');
CREATE POLICY tenant ON docsync.record FOR SELECT USING (split_part(collection, '/', 1) = replace(current_user, 'regress_docsync_', ''));
SELECT is(pg_temp.run_as('ann', 'SELECT DISTINCT collection FROM docsync.record'), '(ann/notes)', 'with the documents'' policy she sees her own');
SELECT is(pg_temp.run_as('bob', 'SELECT DISTINCT collection FROM docsync.record'), '(bob/notes)', '... and bob his');
SELECT is(has_any_column_privilege('regress_docsync_ann', 'docsync.record', privilege) OR has_table_privilege('regress_docsync_ann', 'docsync.record', 'DELETE, TRUNCATE'), false, format('nobody writes it by SQL: %s', privilege))
  FROM unnest('{INSERT,UPDATE}'::text[]) AS privilege;
SELECT is(pg_temp.run_as('ann', 'SELECT * FROM docsync.keep'), '42501 permission denied for table keep', 'nor reads the rules');

SELECT is(pg_temp.run_as('bob', $$SELECT docsync_restore('ann/notes', 'd', 1)$$), 'P0002 docsync.record has no version 1 of document "d"', 'bob can''t bring back what is ann''s');
SELECT is(pg_temp.run_as('bob', $$SELECT docsync_restore('ann/notes', 'none', 1)$$), 'P0002 docsync.record has no version 1 of document "none"', '... and isn''t told more of it than of what isn''t there');
SELECT matches(pg_temp.run_as('ann', $$SELECT docsync_restore('ann/notes', 'd', 3)$$), '^\(\d{13}\)$', 'ann can');
SELECT is((SELECT concat_ws(' ', client_id, body) FROM docsync.document WHERE collection = 'ann/notes' AND id = 'd'), 'server "based"', '... and there it is');

-- Restamped and rebased by those who may update a document
SELECT is(pg_temp.run_as('bob', $$SELECT docsync_restamp('ann/notes', '{d}')$$), '(0)', 'bob restamps nothing of ann''s');
SELECT is(pg_temp.run_as('bob', $$SELECT docsync_rebase('ann/notes', 'd')$$), 'P0002 there is no document "d"', '... nor rebases it');
SELECT is(pg_temp.run_as('ann', $$SELECT docsync_restamp('ann/notes', '{d,none}')$$), '(1)', 'ann restamps her own');
SELECT is(pg_temp.run_as('reader', $$SELECT docsync_restamp('ann/notes', '{d}')$$), '42501 permission denied for table docsync.document', 'a reader doesn''t');
SELECT is(pg_temp.run_as('ann', $$SELECT docsync_rebase('ann/notes', 'd', 7)$$), '(7)', 'ann rebases her own');

------------------------------------------------------------------------------
-- Who may see a document and not change it
------------------------------------------------------------------------------
DROP POLICY tenant ON docsync.document;
CREATE POLICY see ON docsync.document FOR SELECT USING (true);
CREATE POLICY own_insert ON docsync.document FOR INSERT WITH CHECK (client_id = replace(current_user, 'regress_docsync_', ''));
CREATE POLICY own_update ON docsync.document FOR UPDATE USING (client_id = replace(current_user, 'regress_docsync_', ''));
SELECT is(pg_temp.upload('ann', 'd', i, i::text, 'shared'), CASE i WHEN 5 THEN '(created)' ELSE '(updated)' END, 'ann''s in a shared collection') FROM generate_series(5, 6) AS i;
SELECT is(pg_temp.upload('bob', 'd', 1, 'bob ' || i, 'shared'), '(discarded)', 'bob, who sees it, loses against it') FROM generate_series(1, 3) AS i;
SELECT is(pg_temp.upload('bob', 'd', 1, 'bob', 'shared', '{"baseVersion": 1}'), '(conflict)', '... or is in conflict with it');
SELECT is(pg_temp.record('shared'), 'd 5 ann "5" replaced', '... and can''t fill her record');
SELECT is(pg_temp.upload('ann', 'd', 1, 'late', 'shared'), '(discarded)', 'ann loses against herself');
SELECT is(pg_temp.record('shared'), 'd 5 ann "5" replaced, d 1 ann "late" discarded', '... and that is kept');
-- Without row-level security privileges tell.
ALTER TABLE docsync.document DISABLE ROW LEVEL SECURITY;
SELECT is(pg_temp.upload('reader', 'd', 1, 'reader', 'shared'), '(discarded)', 'one who may read all and change nothing');
SELECT is(pg_temp.record('shared'), 'd 5 ann "5" replaced, d 1 ann "late" discarded', '... leaves nothing either');
SELECT is(pg_temp.upload('bob', 'd', 1, 'bob', 'shared'), '(discarded)', 'bob may change it now');
SELECT is(pg_temp.record('shared'), 'd 5 ann "5" replaced, d 1 ann "late" discarded, d 1 bob "bob" discarded', '... and what he has lost is kept');


------------------------------------------------------------------------------
-- What the owner has made of the table
------------------------------------------------------------------------------
CREATE TABLE pg_temp.heard (who text, path text);
CREATE FUNCTION pg_temp.hear() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO pg_temp.heard VALUES (current_user, current_setting('search_path')); RETURN NEW; END $$;
CREATE TRIGGER hear BEFORE INSERT ON docsync.record FOR EACH ROW EXECUTE FUNCTION pg_temp.hear();
ALTER TABLE docsync.record ADD note text DEFAULT 'by default', ADD length int GENERATED ALWAYS AS (length(body::text)) STORED;
CREATE INDEX ON docsync.record ((body ->> 'x'));
SELECT is(pg_temp.upload('ann', 'd', 0, 'heard', 'shared'), '(discarded)', 'with a trigger, columns and an index of the owner''s');
SELECT is((SELECT string_agg(concat_ws(' ', note, length), ', ') FROM docsync.record WHERE body = '"heard"'), 'by default 7', '... defaults and generated columns are there');
SELECT is((SELECT string_agg(concat_ws(' ', who = (SELECT relowner::regrole::text FROM pg_class WHERE oid = 'docsync.record'::regclass), path), ', ') FROM pg_temp.heard), 't pg_catalog, pg_temp', '... and the trigger runs as the owner, with no path of the caller''s');

SELECT * FROM finish();
ROLLBACK;
