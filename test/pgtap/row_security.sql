-- Row-level security on docsync.document decides what a caller reads, writes
-- and learns.  Cached plans work for every caller: roles alternate in one session.
SET client_min_messages = warning;
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
DROP SCHEMA IF EXISTS docsync CASCADE;
DROP EXTENSION IF EXISTS docsync;
CREATE EXTENSION docsync;
DO $$ BEGIN PERFORM docsync_create_store(); END $$;
SELECT plan(115);

CREATE ROLE regress_docsync_ann;
CREATE ROLE regress_docsync_bob;
CREATE ROLE regress_docsync_auditor BYPASSRLS;
SELECT docsync_grant('regress_docsync_ann'), docsync_grant('regress_docsync_bob'), docsync_grant('regress_docsync_auditor') \gset
-- Stamps of 2001 have been issued before the store's first epoch.
INSERT INTO docsync.document (collection, id, body, last_update_utc, fence) VALUES ('before', 'x', '1', '2001-12-31', '3');

-- Runs a query as a role.  Returns the rows as text, or the error with its detail.
CREATE FUNCTION pg_temp.run_as(role text, query text) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	result text;
	detail text;
BEGIN
	BEGIN
		PERFORM set_config('role', 'regress_docsync_' || role, true);
		EXECUTE format('SELECT coalesce(string_agg(q::text, '' ''), ''nothing'') FROM (%s) AS q', query) INTO result;
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
		result := concat_ws(' ', SQLSTATE, SQLERRM, nullif(detail, ''));
	END;
	PERFORM set_config('role', 'none', true);
	RETURN result;
END
$$;
-- An upload's error names the document; that is left out here.
CREATE FUNCTION pg_temp.upload(role text, documents text, collection text DEFAULT 'default', client_id text DEFAULT NULL) RETURNS text
	LANGUAGE sql
AS $$
	SELECT regexp_replace(pg_temp.run_as(role, format('SELECT outcome, winner -> ''body'' AS body FROM docsync_upsert(%L, %L, %L)',
		coalesce(client_id, 'regress_docsync_' || role), documents, collection)), ' \{"document": [0-9]+, "id": "[^"]+"\}$', '')
$$;
CREATE FUNCTION pg_temp.download(role text, collection text DEFAULT 'default', client_id text DEFAULT NULL) RETURNS text
	LANGUAGE sql
AS $$
	SELECT pg_temp.run_as(role, format('SELECT id, body FROM docsync_query_since(%L, origin => %L, collection => %L)',
		client_id, 'any', collection))
$$;
-- The error for a row that a policy refuses
\set refused_new '42501 new row violates row-level security policy for table "document"'
\set refused_old '42501 new row violates row-level security policy (USING expression) for table "document"'

------------------------------------------------------------------------------
-- Before there is security, plans are made and kept.
------------------------------------------------------------------------------
SELECT is(pg_temp.upload('ann', '[{"id": "ann", "clientVersion": 1, "body": "of ann"}]', 'ann/notes'), '(created,)', 'ann uploads');
SELECT is(pg_temp.upload('bob', '[{"id": "bob", "clientVersion": 1, "body": "of bob"}]', 'bob/notes'), '(created,)', 'bob uploads');
SELECT is(pg_temp.download('bob', 'ann/notes'), '(ann,"""of ann""")', 'without security bob reads what is ann''s');

------------------------------------------------------------------------------
-- Tenants by collection
------------------------------------------------------------------------------
ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY;
SELECT is(pg_temp.download('ann', 'ann/notes'), 'nothing', 'with security and no policy ann reads nothing');
SELECT is(pg_temp.upload('ann', '[{"id": "x", "clientVersion": 1, "body": 1}]', 'ann/notes'), :'refused_new', '... and writes nothing');

CREATE POLICY tenant ON docsync.document
	USING (split_part(collection, '/', 1) = replace(current_user, 'regress_docsync_', ''));

SELECT is(pg_temp.download('ann', 'ann/notes'), '(ann,"""of ann""")', 'ann reads her own');
SELECT is(pg_temp.download('bob', 'ann/notes'), 'nothing', 'bob doesn''t');
SELECT is(pg_temp.download('auditor', 'ann/notes'), '(ann,"""of ann""")', 'one who bypasses security does');
SELECT is(pg_temp.download('bob', 'bob/notes'), '(bob,"""of bob""")', 'bob reads his own');
SELECT is(pg_temp.download('ann', 'bob/notes'), 'nothing', 'ann doesn''t');
SELECT is(pg_temp.download('bob', 'ann/notes', 'regress_docsync_ann'), 'nothing', 'nor does bob under ann''s clientId');

SELECT is(pg_temp.upload('bob', '[{"id": "ann", "clientVersion": 9, "body": "by bob"}]', 'ann/notes'), :'refused_new', 'bob can''t overwrite what is ann''s');
SELECT is(pg_temp.upload('bob', '[{"id": "new", "clientVersion": 9, "body": "by bob"}]', 'ann/notes'), :'refused_new', '... nor create');
SELECT is(pg_temp.upload('bob', '[{"id": "ann", "clientVersion": 9, "deleted": true}]', 'ann/notes', 'regress_docsync_ann'), :'refused_new', '... nor delete');
-- The same whether there is a document or not, and whatever its version
SELECT is(pg_temp.upload('bob', format('[{"id": %s, "clientVersion": %s, "body": "of ann"}]', id, version), 'ann/notes', client_id), :'refused_new',
	format('nor find out about %s by version %s as %s', id, version, client_id))
  FROM unnest('{"\"ann\"","\"none\""}'::text[]) AS id, unnest('{0,1,2}'::text[]) AS version, unnest('{regress_docsync_ann,x}'::text[]) AS client_id;
SELECT is(pg_temp.upload('ann', '[{"id": "ann", "clientVersion": 1, "body": "of ann"}]', 'ann/notes'), '(unchanged,)', 'ann''s is as it was');
SELECT is(pg_temp.upload('ann', '[{"id": "ann", "clientVersion": 2, "body": "of ann 2"}]', 'ann/notes'), '(updated,)', 'and ann may edit it');
SELECT is(pg_temp.upload('ann', '[{"id": "ann", "clientVersion": 1, "body": "of ann"}]', 'ann/notes'), '(discarded,"""of ann 2""")', '... and gets the winner');
SELECT is(pg_temp.run_as('bob', 'SELECT count(*) FROM docsync.document'), '(1)', 'plain SQL sees no more');

------------------------------------------------------------------------------
-- Owners by clientId within one collection
------------------------------------------------------------------------------
DROP POLICY tenant ON docsync.document;
CREATE POLICY own ON docsync.document USING (client_id = current_user);
INSERT INTO docsync.document (id, client_version, client_id, body) VALUES
	('hidden', 5, 'regress_docsync_ann', '"secret"'), ('hidden 0', 0, 'regress_docsync_ann', '"secret"');

SELECT is(pg_temp.download('bob'), 'nothing', 'bob doesn''t see ann''s documents');
SELECT is(pg_temp.download('bob', 'default', 'regress_docsync_ann'), 'nothing', '... nor under her clientId');
-- He learns that the id is taken, as from any unique key, and nothing more.
SELECT is(pg_temp.upload('bob', format('[{"id": "hidden", "clientVersion": %s, "body": %s}]', version, body)), :'refused_old',
	format('no outcome tells of the hidden document''s version: %s, %s', version, body))
  FROM unnest('{-1,0,4,5,6}'::text[]) AS version, unnest('{"\"secret\"","\"guess\""}'::text[]) AS body;
SELECT is(pg_temp.upload('bob', format('[{"id": "hidden 0", "clientVersion": 0, "body": %s}]', body)), :'refused_old',
	format('nor of its content: %s', body))
  FROM unnest('{"\"secret\"","\"guess\""}'::text[]) AS body;
SELECT is(pg_temp.upload('bob', '[{"id": "own", "clientVersion": 1, "body": 1}, {"id": "hidden", "clientVersion": 9, "body": 1}]'), :'refused_old',
	'one hidden document refuses the whole batch');
SELECT is(pg_temp.download('bob'), 'nothing', '... and nothing of it is stored');
-- The same for a batch of many, which is tried in parts, whatever it is based on, and where the rest goes on
CREATE FUNCTION pg_temp.refusal(documents text, atomic bool DEFAULT false) RETURNS text
	LANGUAGE sql
AS $$
	SELECT pg_temp.run_as('bob', format('SELECT outcome, client_version, winner, error FROM docsync_upsert(%L, %L, %L, %L) WHERE id LIKE %L', 'regress_docsync_bob', documents, 'default', atomic, 'hidden%'))
$$;
SELECT is(count(DISTINCT refusal), 1::bigint, 'nor does an outcome: ' || min(refusal))
  FROM unnest('{-1,0,4,5,6}'::text[]) AS version, unnest('{"\"secret\"","\"guess\""}'::text[]) AS body, unnest(ARRAY['', '"baseVersion": null,', '"baseVersion": null, "deleted": true,']) AS base,
	   LATERAL pg_temp.refusal(format('[{"id": "hidden", "clientVersion": %s, %s "body": %s}]', version, base, body)) AS refusal;
SELECT matches(pg_temp.refusal('[{"id": "hidden", "clientVersion": 9, "body": 1}]'), '^\(refused,,,"\{""code"": ""42501"", ""hint"": null, ""details"": .*document.*1.*hidden.*""message"": ""new row violates row-level security policy \(USING expression\)', 'it is refused, by name');
SELECT is(pg_temp.refusal(format('[{"id": "%s", "clientVersion": %s, "baseVersion": %s, "body": "secret"}]', id, version, base), atomic), '(conflict,,,)', format('what is based on a hidden document is based on nothing: %s, %s, %s', id, version, base))
  FROM unnest('{hidden,hidden none}'::text[]) AS id, unnest('{4,5,6}'::int[]) AS version, unnest('{4,5}'::int[]) AS base, unnest('{true,false}'::bool[]) AS atomic;
INSERT INTO docsync.document (collection, id, client_version, client_id, body) VALUES ('crowd', 'hidden', 5, 'regress_docsync_ann', '"secret"');
SELECT is(pg_temp.run_as('bob', format('SELECT outcome, count(*) FROM docsync_upsert(%L, %L, %L, false) GROUP BY 1 ORDER BY 1', 'regress_docsync_bob',
		jsonb_build_object('id', 'hidden', 'clientVersion', version, 'body', 'secret') || (SELECT jsonb_agg(jsonb_build_object('id', 'd' || many || i, 'clientVersion', version, 'body', i)) FROM generate_series(1, many) AS i), 'crowd')),
	format(CASE WHEN version = 4 THEN '(created,%s) (refused,1)' ELSE '(refused,1) (updated,%s)' END, many), format('and the others are stored: %s, version %s', many, version))
  FROM unnest('{4,6}'::int[]) AS version, unnest('{1,59}'::int[]) AS many;
SELECT is(pg_temp.upload('bob', '[{"id": "own", "clientVersion": 1, "body": "secret"}]', 'default', 'somebody'), :'refused_new', 'nor may bob write as somebody else');
SELECT is((SELECT string_agg(concat_ws(' ', id, client_version, body), ', ' ORDER BY id) FROM docsync.document WHERE collection = 'default'),
	'hidden 5 "secret", hidden 0 0 "secret"', 'ann''s documents are as they were');

-- Who may write what he may not see: the server holds him to both, and he isn't given it as the winner either.
DROP POLICY own ON docsync.document;
CREATE POLICY see_own ON docsync.document FOR SELECT USING (client_id = current_user);
CREATE POLICY write_any ON docsync.document FOR UPDATE USING (true);
CREATE POLICY add_any ON docsync.document FOR INSERT WITH CHECK (true);
SELECT is(pg_temp.upload('bob', format('[{"id": "hidden", "clientVersion": %s, "body": "guess"}]', version)), :'refused_old', format('may write, may not see: %s', version))
  FROM unnest('{-1,4,5,6}'::text[]) AS version;
DROP POLICY see_own ON docsync.document;
DROP POLICY write_any ON docsync.document;
DROP POLICY add_any ON docsync.document;
CREATE POLICY own ON docsync.document USING (client_id = current_user);

------------------------------------------------------------------------------
-- A policy that fails for what is stored
------------------------------------------------------------------------------
DROP POLICY own ON docsync.document;
CREATE POLICY level ON docsync.document USING ((body ->> 'level')::int > 0);
INSERT INTO docsync.document (collection, id, body) SELECT 'levels', 'd' || i, CASE i WHEN 30 THEN '{"level": "x"}' ELSE '{"level": 1}' END::jsonb FROM generate_series(1, 70) AS i;
SELECT is(pg_temp.run_as('bob', format('SELECT outcome, count(*), error ->> %L AS message FROM docsync_upsert(%L, %L, %L, false) GROUP BY 1, 3 ORDER BY 1', 'message', 'regress_docsync_bob',
	(SELECT jsonb_agg(jsonb_build_object('id', 'd' || i, 'clientVersion', 9223372036854775707 + many, 'body', '{"level": 2}'::jsonb)) FROM generate_series(31 - many, 30 + many) AS i), 'levels')),
	concat_ws(' ', '(refused,1,"invalid input syntax for type integer: ""x""")', format('(updated,%s,)', nullif(2 * many - 1, 0))), format('%s documents', 2 * many))
  FROM unnest('{1,2,30}'::int[]) AS many;
SELECT is(pg_temp.upload('bob', (SELECT jsonb_agg(jsonb_build_object('id', 'd' || i, 'clientVersion', 1, 'body', 1)) FROM generate_series(31 - many, 30) AS i)::text, 'levels'),
	'22P02 invalid input syntax for type integer: "x"', format('%s documents, atomic', many)) FROM unnest('{1,2,30}'::int[]) AS many;
SELECT is(pg_temp.run_as('bob', format('SELECT outcome, error ->> %L AS details FROM docsync_upsert(%L, %L, %L, false)', 'details', 'regress_docsync_bob',
	'[{"id": "d30", "clientVersion": 8, "body": 1}, {"id": "d30", "clientVersion": 9, "body": 1}]', 'levels')),
	'(refused,"{""document"": 1, ""id"": ""d30""}") (refused,"{""document"": 2, ""id"": ""d30""}")', 'each of its documents is named');
DROP POLICY level ON docsync.document;
CREATE POLICY own ON docsync.document USING (client_id = current_user);

------------------------------------------------------------------------------
-- All may read, each writes what is his own
------------------------------------------------------------------------------
DROP POLICY own ON docsync.document;
CREATE POLICY may_read ON docsync.document FOR SELECT USING (true);
CREATE POLICY may_insert ON docsync.document FOR INSERT WITH CHECK (client_id = current_user);
CREATE POLICY may_update ON docsync.document FOR UPDATE USING (client_id = current_user);
SELECT is(pg_temp.download('bob'), '(hidden,"""secret""") ("hidden 0","""secret""")', 'bob reads ann''s documents');
SELECT is(pg_temp.upload('bob', '[{"id": "hidden", "clientVersion": 4, "body": 1}]'), '(discarded,"""secret""")', 'older ones are discarded');
SELECT is(pg_temp.upload('bob', '[{"id": "hidden", "clientVersion": 6, "body": "a thing"}]'), :'refused_old', 'newer ones refused');

------------------------------------------------------------------------------
-- No error shows a document
------------------------------------------------------------------------------
CREATE FUNCTION pg_temp.error_as(role text, command text) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	BEGIN
		PERFORM set_config('role', 'regress_docsync_' || role, true);
		EXECUTE command;
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
		RETURN concat_ws(' ', SQLSTATE, SQLERRM, nullif(detail, ''), nullif(hint, ''));
	END;
	PERFORM set_config('role', 'none', true);
	RETURN 'no error';
END
$$;
GRANT DELETE ON docsync.document TO regress_docsync_bob;
CREATE TEMP TABLE errors AS
	SELECT command, pg_temp.error_as('bob', command) AS error
	  FROM unnest(ARRAY[
		$$INSERT INTO docsync.document (id, client_id, body) VALUES ('hidden', 'regress_docsync_bob', '"secret"')$$,
		$$INSERT INTO docsync.document (id, client_id, body) VALUES (repeat('secret', 100), 'regress_docsync_bob', '"secret"')$$,
		$$INSERT INTO docsync.document (id, client_id) VALUES ('secret', 'regress_docsync_bob')$$,
		$$INSERT INTO docsync.document (collection, client_id, body) VALUES ('secret', 'regress_docsync_bob', '"secret"')$$,
		$$UPDATE docsync.document SET id = 'secret'$$,
		$$INSERT INTO docsync.document (id, client_version, client_id, body) VALUES ('bob''s', 9223372036854775807, 'regress_docsync_bob', '"secret"');
		  UPDATE docsync.document SET body = '"secret too"' WHERE id = 'bob''s'$$,
		$$SELECT docsync_upsert('regress_docsync_bob', '[{"id": "hidden", "clientVersion": 9, "body": "secret"}]')$$,
		$$SELECT docsync_upsert('somebody', '[{"id": "own", "clientVersion": 9, "body": "secret"}]')$$,
		$$SELECT docsync_upsert('regress_docsync_bob', '[{"id": 17, "clientVersion": 9, "body": "secret"}]')$$,
		$$SELECT docsync_upsert('regress_docsync_bob', '[{"id": "own", "clientVersion": "secret", "body": "secret"}]')$$,
		$$TRUNCATE docsync.document$$]) AS command;
SELECT is_empty($$SELECT command, error FROM errors WHERE error ~ 'secret' OR error = 'no error'$$, 'no error shows a document');

-- A policy on writing doesn't stop at DELETE, which is an edit here.
SELECT is(pg_temp.error_as('bob', $$DELETE FROM docsync.document WHERE id ~ 'hidden'$$), 'no error', 'bob deletes what he sees');
SELECT is((SELECT string_agg(concat_ws(' ', id, client_version, deleted, body), ', ' ORDER BY id) FROM docsync.document WHERE collection = 'default'),
	'hidden 5 f "secret", hidden 0 0 f "secret"', 'and ann''s documents are still there');
-- A policy lets him delete; the one on UPDATE, which makes the tombstone, doesn't.
CREATE POLICY may_delete ON docsync.document FOR DELETE USING (true);
SELECT is(pg_temp.error_as('bob', $$DELETE FROM docsync.document WHERE id ~ 'hidden'$$),
	'42501 cannot turn the document into a tombstone DELETE on docsync.document becomes an UPDATE, and a policy or a trigger has kept that from the row.',
	'a DELETE that comes to nothing says so');
SELECT is((SELECT string_agg(concat_ws(' ', id, client_version, deleted, body), ', ' ORDER BY id) FROM docsync.document WHERE collection = 'default'),
	'hidden 5 f "secret", hidden 0 0 f "secret"', '... and deletes nothing');

------------------------------------------------------------------------------
-- Purging is no way round it: it removes what its caller may.
------------------------------------------------------------------------------
INSERT INTO docsync.document (id, client_id, last_update_utc, deleted, fence) VALUES
	('old of ann', 'regress_docsync_ann', '2001-01-01', true, '3'), ('old of bob', 'regress_docsync_bob', '2001-01-02', true, '3'),
	('newest of ann', 'regress_docsync_ann', '2001-01-03', true, '3'), ('newest of bob', 'regress_docsync_bob', '2001-01-04', true, '3');
DROP POLICY may_delete ON docsync.document;
CREATE POLICY may_delete ON docsync.document FOR DELETE USING (client_id = current_user);
CREATE FUNCTION pg_temp.purge_as(role text, collection text) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	removed bigint;
	result text;
BEGIN
	BEGIN
		PERFORM set_config('role', 'regress_docsync_' || role, true);
		CALL docsync_purge('0', collection, removed);
		result := removed;
	EXCEPTION WHEN OTHERS THEN
		result := SQLSTATE || ' ' || SQLERRM;
	END;
	PERFORM set_config('role', 'none', true);
	RETURN result;
END
$$;
SELECT is(pg_temp.purge_as('bob', NULL), '42501 permission denied for table docsync.purged', 'bob can''t purge with the right to delete alone');
REVOKE DELETE ON docsync.document FROM regress_docsync_bob;
-- Nor does he learn by it which collections there are.
SELECT is(pg_temp.purge_as(role, collection), '42501 permission denied for table docsync.document', format('%s can''t purge %s', role, coalesce(collection, 'all')))
  FROM unnest('{ann,bob}'::text[]) AS role, unnest('{default,nowhere,NULL}'::text[]) AS collection;
GRANT SELECT, INSERT, UPDATE ON docsync.purged TO regress_docsync_bob;
SELECT is(pg_temp.purge_as('bob', collection), '42501 permission denied for table docsync.document', format('... nor without it %s', coalesce(collection, 'all')))
  FROM unnest('{default,nowhere,NULL}'::text[]) AS collection;
GRANT DELETE ON docsync.document TO regress_docsync_bob;
REVOKE UPDATE ON docsync.purged FROM regress_docsync_bob;
SELECT is(pg_temp.purge_as('bob', 'default'), '42501 permission denied for table docsync.purged', '... nor if he can''t raise the horizon');
GRANT UPDATE ON docsync.purged TO regress_docsync_bob;
SELECT is(pg_temp.purge_as('bob', NULL), '1', 'with all privileges he purges what is his own');
SELECT is((SELECT string_agg(id, ', ' ORDER BY last_update_utc) FROM docsync.document WHERE id ~ 'old|newest'), 'old of ann, newest of ann, newest of bob',
	'... and ann''s tombstone stays, as do the newest');
SELECT results_eq('SELECT collection, last_update_utc, client_id, others_utc FROM docsync.purged',
	$$VALUES ('default' COLLATE "C", '2001-01-02'::timestamptz, 'regress_docsync_bob' COLLATE "C", '-infinity'::timestamptz)$$, '... and his alone is noted');
SELECT matches(pg_temp.run_as('ann', $$SELECT id FROM docsync_query_since(NULL, '2001-01-01', 'any')$$), '^55000 resync required {"reason": "purged", "text": "[^0-9]*"}$',
	'readers are told, without a time, also those who could not see it');
ALTER TABLE docsync.purged ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SELECT matches(pg_temp.run_as('ann', $$SELECT id FROM docsync_query_since(NULL, '2001-01-01', 'any')$$), '^55000 resync required',
	'... whatever row-level security there is on docsync.purged');
ALTER TABLE docsync.purged DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;

-- Nor does a cursor say that there is a collection, whatever cursor of his own making somebody sends.
DROP POLICY may_read ON docsync.document;
CREATE POLICY may_read ON docsync.document FOR SELECT USING (collection <> 'default');
SELECT is(pg_temp.run_as('ann', format($$SELECT docsync_pull(cursor => '1234567890abcdef.1', collection => %L, reconcile => true) ->> 'cursor' ~ '^[0-9a-f]{16}\.0\.0\.' AS nothing$$, collection)),
	'(t)', format('a cursor of another epoch for %s', collection)) FROM unnest('{default,nowhere}'::text[]) AS collection;

SELECT * FROM finish();
ROLLBACK;
