-- Documents are delivered again, are given another version, are erased.
SET client_min_messages = warning;
CREATE EXTENSION docsync;
DO $$ BEGIN PERFORM docsync_create_store(); END $$;
CREATE FUNCTION pg_temp.doc(id text, version int8, body jsonb DEFAULT NULL) RETURNS jsonb LANGUAGE sql
	AS $$ SELECT jsonb_build_array(jsonb_build_object('id', id, 'clientVersion', version, 'body', body, 'deleted', body IS NULL)) $$;
-- What a client is given from its cursor on, with the cursor put into :cursor
CREATE FUNCTION pg_temp.pull(client_id text, cursor text, collection text) RETURNS TABLE (reconcile text, documents text, cursor text) LANGUAGE sql
	AS $$ SELECT answer ->> 'reconcile', (SELECT string_agg(concat_ws(' ', d ->> 'id', CASE d ->> 'clientId' WHEN 'server' THEN 'server' ELSE d ->> 'clientVersion' END, d ->> 'body'), ', ') FROM jsonb_array_elements(answer -> 'documents') AS d), answer ->> 'cursor'
			FROM (SELECT docsync_pull(client_id, cursor, collection, reconcile => true)::jsonb AS answer) AS a $$;

------------------------------------------------------------------------------
-- docsync_restamp: a new stamp, the same version
------------------------------------------------------------------------------
SELECT outcome FROM docsync_upsert('ann', pg_temp.doc('a', 5, '"a"') || pg_temp.doc('b', 5, '"b"') || pg_temp.doc('gone', 5), 'shared');
SELECT cursor AS bob, documents FROM pg_temp.pull('bob', NULL, 'shared') \gset
SELECT documents FROM pg_temp.pull('bob', :'bob', 'shared');
INSERT INTO docsync.keep VALUES ('%', 'replaced');
SELECT docsync_restamp('shared', '{b,a,b,nothing}');
SELECT reconcile, documents FROM pg_temp.pull('bob', :'bob', 'shared');
-- By time, too; and in the order of ids
SELECT id, client_version, client_id, body FROM docsync_query_since('bob', collection => 'shared');
-- Nothing was replaced, and what is sent again is still unchanged.
SELECT count(*) FROM docsync.record;
SELECT outcome FROM docsync_upsert('ann', pg_temp.doc('a', 5, '"a"'), 'shared');
SELECT docsync_restamp('shared', '{}');
SELECT docsync_restamp('shared', '{gone}');
SELECT docsync_restamp('shared', '{a,NULL}');
SELECT docsync_restamp('', '{a}');
SELECT docsync_restamp(NULL, '{a}');
SELECT docsync_restamp('shared', NULL);
BEGIN READ ONLY;
SELECT docsync_restamp('shared', '{a}');
ROLLBACK;

------------------------------------------------------------------------------
-- docsync_rebase: another version
------------------------------------------------------------------------------
SELECT outcome FROM docsync_upsert('eve', pg_temp.doc('m', 9223372036854775807, '"never again"'), 'shared');
SELECT outcome, client_version FROM docsync_upsert('ann', pg_temp.doc('m', 9223372036854775807, '"again"'), 'shared');
UPDATE docsync.document SET body = '"again"' WHERE id = 'm';
DELETE FROM docsync.document WHERE id = 'm';
SELECT cursor AS bob FROM pg_temp.pull('bob', NULL, 'shared') \gset
SELECT r BETWEEN date_part('epoch', now()) * 1000 - 60000 AND date_part('epoch', now()) * 1000 + 1 AS now FROM docsync_rebase('shared', 'm') AS r;
SELECT documents FROM pg_temp.pull('bob', :'bob', 'shared');
SELECT documents FROM pg_temp.pull('eve', NULL, 'shared');
SELECT docsync_rebase('shared', 'm', 7);
SELECT outcome, client_version FROM docsync_upsert('ann', pg_temp.doc('m', 8, '"again"'), 'shared');
-- The body stayed, so nothing was lost by it.
SELECT why, client_version, client_id FROM docsync.record WHERE id = 'm';
SELECT docsync_rebase('shared', 'nothing');
SELECT docsync_rebase('shared', NULL);
SELECT docsync_rebase(NULL, 'm');
-- Where there is a limit, answers say which.
SELECT docsync_pull('bob')::jsonb ? 'maxVersion' AS limited;
SET docsync.max_version_lead = '1d';
SELECT (docsync_pull('bob')::jsonb ->> 'maxVersion')::int8 - date_part('epoch', (docsync_pull('bob')::jsonb ->> 'serverUtc')::timestamptz)::int8 * 1000 BETWEEN 86400000 - 2000 AND 86400000 + 2000 AS a_day;
SELECT docsync_sync('bob')::jsonb ? 'maxVersion' AND docsync_docs_reconcile('{}')::jsonb ? 'maxVersion' AND docsync_docs_get('{"ids": []}')::jsonb ? 'maxVersion'
	AND docsync_docs_sync('{"clientId": "bob", "collections": [{"collection": "shared"}]}')::jsonb ? 'maxVersion' AS all;
RESET docsync.max_version_lead;

------------------------------------------------------------------------------
-- docsync_erase
------------------------------------------------------------------------------
SELECT count(*) FROM docsync_upsert('ann', (SELECT jsonb_agg(pg_temp.doc('d' || i, 1, to_jsonb(i)) -> 0) FROM generate_series(1, 2500) AS i), 'tenant/one');
SELECT count(*) FROM docsync_upsert('ann', (SELECT jsonb_agg(pg_temp.doc('d' || i, 2, to_jsonb(-i)) -> 0) FROM generate_series(1, 2500) AS i), 'tenant/one');
SELECT outcome FROM docsync_upsert('ann', pg_temp.doc('highest', 9223372036854775807, '1') || pg_temp.doc('gone', 1), 'tenant/two');
SELECT outcome FROM docsync_upsert('ann', pg_temp.doc('stays', 1, '1'), 'tenants');
SELECT cursor AS bob FROM pg_temp.pull('bob', NULL, 'tenant/two') \gset
SELECT docsync_docs_query("clientId" => 'bob', collection => 'tenant/two')::jsonb -> 1 ->> 'LastUpdateUtc' AS since \gset
SELECT count(*) FROM docsync.record WHERE collection LIKE 'tenant/%';
CALL docsync_erase('tenant/%');
SELECT collection, id, client_version, client_id, deleted, body FROM docsync.document WHERE collection LIKE 'tenant%' ORDER BY 1, 2;
SELECT count(*) FROM docsync.record WHERE collection LIKE 'tenant/%';
SELECT count(*) > 0 AS others FROM docsync.record;
SELECT collection, client_id, others_utc FROM docsync.purged;
-- Who had something of it is told, once; who begins is given nothing of it.
SELECT reconcile, documents, cursor AS bob FROM pg_temp.pull('bob', :'bob', 'tenant/two') \gset
SELECT :'reconcile' AS reconcile, :'documents' AS documents;
SELECT reconcile, documents FROM pg_temp.pull('bob', :'bob', 'tenant/two');
SELECT docsync_docs_reconcile('{"clientId": "bob", "collection": "tenant/two"}')::jsonb -> 'rows' -> 0 ->> 'id' AS id;
SELECT FROM docsync_query_since('bob', :'since', collection => 'tenant/two');
SELECT reconcile, documents FROM pg_temp.pull('new', NULL, 'tenant/two');
-- Nothing is left to be done; something new is.
CALL docsync_erase('tenant/%');
SELECT outcome FROM docsync_upsert('ann', pg_temp.doc('new', 1, '1'), 'tenant/two');
CALL docsync_erase('tenant/two');
SELECT collection, id, deleted FROM docsync.document WHERE collection = 'tenant/two';
-- The rest of it, where no client will come any more
CALL docsync_erase('tenant/%', true);
SELECT count(*) FROM docsync.document WHERE collection LIKE 'tenant/%';
SELECT count(*) FROM docsync.purged WHERE collection LIKE 'tenant/%';
-- In a transaction, with what it has written itself
BEGIN;
SELECT outcome FROM docsync_upsert('ann', pg_temp.doc('x', 1, '1'), 'tenant/three');
CALL docsync_erase('tenant/three');
SELECT collection, id FROM docsync.document WHERE collection = 'tenant/three';
ROLLBACK;
-- Who may not, and what may not be
CALL docsync_erase(NULL);
CALL docsync_erase('%', NULL);
CALL docsync_erase('\');
CREATE ROLE regress_docsync_eraser;
SELECT docsync_grant('regress_docsync_eraser');
SET ROLE regress_docsync_eraser;
CALL docsync_erase('shared');
RESET ROLE;
GRANT ALL ON docsync.document, docsync.purged, docsync.record TO regress_docsync_eraser;
ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY;
SET ROLE regress_docsync_eraser;
CALL docsync_erase('shared');
RESET ROLE;
ALTER TABLE docsync.document DISABLE ROW LEVEL SECURITY;
SET ROLE regress_docsync_eraser;
CALL docsync_erase('shared');
RESET ROLE;
ALTER ROLE regress_docsync_eraser BYPASSRLS;
SET ROLE regress_docsync_eraser;
CALL docsync_erase('shared');
RESET ROLE;
SELECT collection, id FROM docsync.document ORDER BY 1, 2;

DROP SCHEMA docsync CASCADE;
DROP EXTENSION docsync;
DROP ROLE regress_docsync_eraser;
