-- The store: who creates it, who may own it, what is repaired, and what all
-- functions refuse.
\set SHOW_CONTEXT never
\pset null (null)
\pset format unaligned
\pset tuples_only on
CREATE EXTENSION docsync;

-- What all functions that need the store say: each answer with the functions that give it
CREATE FUNCTION pg_temp.calls() RETURNS TABLE (n int, name text, command text)
	LANGUAGE sql
AS $$
	VALUES (1, 'upsert', $c$SELECT docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]')$c$),
		(2, 'upsert of none', $c$SELECT docsync_upsert('tablet', '[]')$c$),
		(3, 'query_since', $c$SELECT docsync_query_since('tablet')$c$),
		(4, 'sync', $c$SELECT docsync_sync('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]')$c$),
		(5, 'sync without documents', $c$SELECT docsync_sync('tablet')$c$),
		(6, 'pull', $c$SELECT docsync_pull()$c$),
		(7, 'docs', $c$SELECT docsync_docs('{"clientId": "tablet", "documents": []}')$c$),
		(8, 'docs_sync', $c$SELECT docsync_docs_sync('{"clientId": "tablet"}')$c$),
		(9, 'docs_query', $c$SELECT docsync_docs_query('any')$c$),
		(10, 'docs_reconcile', $c$SELECT docsync_docs_reconcile('{}')$c$),
		(11, 'docs_get', $c$SELECT docsync_docs_get('{"ids": ["a"]}')$c$),
		(12, 'purge', $c$CALL docsync_purge()$c$),
		(13, 'new_epoch', $c$SELECT docsync_new_epoch()$c$),
		(14, 'check_store', $c$SELECT docsync_check_store()$c$),
		(15, 'grant', $c$SELECT docsync_grant(current_user::regrole)$c$),
		(16, 'hand_over', $c$SELECT docsync_hand_over()$c$)
$$;
CREATE FUNCTION pg_temp.say(command text) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	EXECUTE command;
	RAISE EXCEPTION USING ERRCODE = 'ZZ000';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN CASE SQLSTATE WHEN 'ZZ000' THEN 'OK' ELSE concat_ws(' / ', SQLSTATE, SQLERRM, nullif(detail, ''), nullif(hint, '')) END;
END
$$;
CREATE FUNCTION pg_temp.all_say(OUT answer text, OUT functions text) RETURNS SETOF record
	LANGUAGE sql
AS $$
	SELECT answer, CASE WHEN count(*) = (SELECT count(*) FROM pg_temp.calls()) THEN 'all' ELSE string_agg(name, ', ' ORDER BY n) END
	  FROM (SELECT n, name, pg_temp.say(command) AS answer FROM pg_temp.calls() ORDER BY n) AS s GROUP BY answer ORDER BY min(n)
$$;

--
-- Who makes it
--
-- There is none yet. Functions that only read don't make one, nor does anybody in a
-- read-only transaction.
SELECT name, pg_temp.say(command) FROM pg_temp.calls() WHERE name IN ('query_since', 'pull', 'docs_query', 'docs_reconcile', 'docs_get', 'purge', 'new_epoch', 'check_store') ORDER BY n;
BEGIN READ ONLY;
SELECT docsync_upsert('tablet', '[]');
ROLLBACK;
BEGIN READ ONLY;
SELECT docsync_sync('tablet');
ROLLBACK;
BEGIN READ ONLY;
SELECT docsync_create_store();
ROLLBACK;
-- Each that writes does, and says so.
BEGIN;
SELECT outcome FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]');
SELECT outcome FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 2, "body": 1}]');
ROLLBACK;
SELECT to_regnamespace('docsync');
BEGIN;
SELECT docsync_upsert('tablet', '[]');
ROLLBACK;
BEGIN;
SELECT docsync_sync('tablet') ->> 'more';
ROLLBACK;
BEGIN;
SELECT docsync_sync('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]', origin => 'own') #>> '{documents,0,id}';
ROLLBACK;
BEGIN;
SELECT docsync_docs('{"clientId": "tablet", "documents": []}');
ROLLBACK;
BEGIN;
SELECT docsync_docs_sync('{"clientId": "tablet", "documents": [{"id": "a", "clientVersion": 1, "body": 1}]}') ->> 'received';
ROLLBACK;
BEGIN;
SELECT docsync_grant(current_user::regrole);
ROLLBACK;
-- Not for what is refused anyway
SELECT docsync_upsert('', '[]');
SELECT docsync_upsert('tablet', '{}');
SELECT docsync_sync('tablet', cursor => 'x');
SELECT docsync_grant(NULL);
SELECT to_regnamespace('docsync');

-- Somebody else may not, even with CREATE on the database.
CREATE ROLE regress_docsync_owner;
CREATE ROLE regress_docsync_member IN ROLE regress_docsync_owner;
CREATE ROLE regress_docsync_else;
SELECT format('GRANT CREATE ON DATABASE %I TO regress_docsync_else', current_database()) AS command \gset
:command;
SET ROLE regress_docsync_else;
SELECT * FROM pg_temp.all_say();
SELECT docsync_create_store();
SELECT docsync_check_store_owner();
RESET ROLE;
-- The database's owner may, and who is a member of that role; it is theirs then.
SELECT format('ALTER DATABASE %I OWNER TO', current_database()) AS alter_database \gset
:alter_database regress_docsync_owner;
BEGIN;
SET LOCAL ROLE regress_docsync_owner;
SELECT docsync_create_store();
SELECT outcome FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]');
SELECT relname, pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'docsync'::regnamespace AND relkind IN ('r', 'S') ORDER BY 1;
SELECT * FROM pg_temp.all_say();
RESET ROLE;
SELECT * FROM pg_temp.all_say();
ROLLBACK;
BEGIN;
SET LOCAL ROLE regress_docsync_owner;
SELECT outcome FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]');
ROLLBACK;
BEGIN;
SET LOCAL ROLE regress_docsync_member;
SELECT outcome FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]');
SELECT nspname, pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'docsync';
ROLLBACK;
-- Once it isn't, its store is nobody's to use.
BEGIN;
SET LOCAL ROLE regress_docsync_owner;
SELECT docsync_create_store();
RESET ROLE;
SELECT format('%s %I', :'alter_database', current_user) AS command \gset
:command;
SELECT * FROM pg_temp.all_say();
SET LOCAL ROLE regress_docsync_owner;
SELECT * FROM pg_temp.all_say();
ROLLBACK;
SELECT format('%s %I', :'alter_database', current_user) AS command \gset
:command;

-- Whoever makes the schema beforehand lays a trap for nobody.
SET ROLE regress_docsync_else;
CREATE SCHEMA docsync;
CREATE TABLE docsync.document (collection text COLLATE "C", id text COLLATE "C", client_version int8, client_id text COLLATE "C", last_update_utc timestamptz, deleted bool, body jsonb, fence xid8);
CREATE FUNCTION docsync.trap() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'caught %', current_user; END$$;
CREATE TRIGGER trap BEFORE INSERT ON docsync.document FOR EACH STATEMENT EXECUTE FUNCTION docsync.trap();
RESET ROLE;
SELECT * FROM pg_temp.all_say();
SELECT docsync_create_store();
ALTER SCHEMA docsync OWNER TO CURRENT_USER;
SELECT docsync_create_store();
DROP TABLE docsync.document;
DROP FUNCTION docsync.trap();
-- What isn't of docsync's stays; an empty schema is filled.
CREATE TABLE docsync.mine (a int);
SELECT * FROM pg_temp.all_say();
SELECT docsync_create_store();
SELECT * FROM pg_temp.all_say();
DROP TABLE docsync.mine;

--
-- Made again: nothing happens
--
SELECT outcome FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]');
CREATE FUNCTION pg_temp.state() RETURNS text
	LANGUAGE sql
AS $$
	SELECT string_agg(concat_ws(' ', what, id, x), ', ' ORDER BY what, id)
	  FROM (SELECT 'relation' AS what, oid::text AS id, concat_ws(' ', relname, relfilenode, xmin) AS x FROM pg_class WHERE relnamespace = 'docsync'::regnamespace
			UNION ALL SELECT 'trigger', oid::text, concat_ws(' ', tgname, tgenabled, xmin) FROM pg_trigger WHERE tgrelid = 'docsync.document'::regclass
			UNION ALL SELECT 'default', oid::text, xmin::text FROM pg_attrdef WHERE adrelid = 'docsync.document'::regclass
			UNION ALL SELECT 'history', number::text, concat_ws(' ', epoch, xmin) FROM docsync.history
			UNION ALL SELECT 'clock', last_value::text, is_called::text FROM docsync.clock) AS s
$$;
SELECT pg_temp.state() AS before \gset
SELECT docsync_create_store();
SELECT pg_temp.state() = :'before' AS same;
-- also where the guard fires always
ALTER TABLE docsync.document ENABLE ALWAYS TRIGGER zz_docsync_guard;
SELECT pg_temp.state() AS before \gset
SELECT docsync_create_store();
SELECT pg_temp.state() = :'before' AS same;
SELECT * FROM pg_temp.all_say();
ALTER TABLE docsync.document ENABLE TRIGGER zz_docsync_guard;

--
-- The owner of each part
--
SELECT command, pg_temp.say(command || '; SELECT docsync_pull()'), pg_temp.say(command || '; SELECT docsync_create_store()')
  FROM unnest(ARRAY['ALTER TABLE docsync.document OWNER TO regress_docsync_else', 'ALTER TABLE docsync.purged OWNER TO regress_docsync_else',
	'ALTER TABLE docsync.history OWNER TO regress_docsync_else', 'ALTER SEQUENCE docsync.clock OWNER TO regress_docsync_else',
	'ALTER SCHEMA docsync OWNER TO regress_docsync_else']) AS command;
ALTER SEQUENCE docsync.clock OWNER TO regress_docsync_else;
SELECT * FROM pg_temp.all_say();
-- plain SQL, too
INSERT INTO docsync.document (id, body) VALUES ('i', '1');
ALTER SEQUENCE docsync.clock OWNER TO CURRENT_USER;
-- in a session that has checked the store before, and for a role that ceases to be a superuser
ALTER ROLE regress_docsync_else SUPERUSER;
ALTER TABLE docsync.purged OWNER TO regress_docsync_else;
SELECT * FROM pg_temp.all_say();
ALTER ROLE regress_docsync_else NOSUPERUSER;
SELECT * FROM pg_temp.all_say();
GRANT regress_docsync_owner TO regress_docsync_else;
:alter_database regress_docsync_owner;
SELECT * FROM pg_temp.all_say();
REVOKE regress_docsync_owner FROM regress_docsync_else;
SELECT * FROM pg_temp.all_say();
:command;
ALTER TABLE docsync.purged OWNER TO CURRENT_USER;

--
-- Unguarded: refused until docsync_create_store() has attached the triggers again,
-- and an epoch has begun, since nobody knows what was changed meanwhile
--
CREATE FUNCTION pg_temp.same() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN new; END$$;
CREATE FUNCTION public.docsync_guard(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE SCHEMA other;
CREATE FUNCTION other.docsync_guard() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN new; END$$;
-- unguarded: how, what all functions say, whether the store is mended, rows of the history
CREATE FUNCTION pg_temp.unguarded(command text) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	answer text;
BEGIN
	EXECUTE command;
	SELECT string_agg(format('%s (%s)', s.answer, functions), '; ') INTO answer FROM pg_temp.all_say() AS s;
	PERFORM docsync_create_store();
	answer := answer || E'\n -> ' || (SELECT string_agg(s.answer || ': ' || functions, '; ') FROM pg_temp.all_say() AS s)
		|| ', epochs: ' || (SELECT count(DISTINCT epoch) FROM docsync.history);
	RAISE EXCEPTION USING ERRCODE = 'ZZ001';
EXCEPTION WHEN SQLSTATE 'ZZ001' THEN
	RETURN answer;
END
$$;
SELECT command, pg_temp.unguarded(command) FROM unnest(ARRAY[
	'SELECT',
	'ALTER TABLE docsync.document DISABLE TRIGGER zz_docsync_guard',
	'ALTER TABLE docsync.document DISABLE TRIGGER zz_docsync_guard_truncate',
	'ALTER TABLE docsync.document DISABLE TRIGGER USER',
	'ALTER TABLE docsync.document DISABLE TRIGGER ALL',
	'ALTER TABLE docsync.document ENABLE REPLICA TRIGGER zz_docsync_guard',
	'ALTER TABLE docsync.document ENABLE REPLICA TRIGGER zz_docsync_guard_truncate',
	'DROP TRIGGER zz_docsync_guard ON docsync.document',
	'DROP TRIGGER zz_docsync_guard_truncate ON docsync.document',
	'DROP FUNCTION docsync_guard() CASCADE']) AS command WHERE command <> 'DROP FUNCTION docsync_guard() CASCADE';
-- made again by hand, but not as they were
SELECT definition, pg_temp.unguarded('DROP TRIGGER zz_docsync_guard ON docsync.document; CREATE TRIGGER ' || definition) FROM unnest(ARRAY[
	'zz_docsync_guard BEFORE INSERT OR UPDATE OR DELETE ON docsync.document FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION docsync_guard()',
	'zz_docsync_guard BEFORE INSERT OR UPDATE OF body OR DELETE ON docsync.document FOR EACH ROW EXECUTE FUNCTION docsync_guard()',
	'zz_docsync_guard BEFORE INSERT OR UPDATE ON docsync.document FOR EACH ROW EXECUTE FUNCTION docsync_guard()',
	'zz_docsync_guard BEFORE INSERT OR DELETE ON docsync.document FOR EACH ROW EXECUTE FUNCTION docsync_guard()',
	'zz_docsync_guard BEFORE UPDATE OR DELETE ON docsync.document FOR EACH ROW EXECUTE FUNCTION docsync_guard()',
	'zz_docsync_guard AFTER INSERT OR UPDATE OR DELETE ON docsync.document FOR EACH ROW EXECUTE FUNCTION docsync_guard()',
	'zz_docsync_guard BEFORE INSERT OR UPDATE OR DELETE ON docsync.document FOR EACH STATEMENT EXECUTE FUNCTION docsync_guard()',
	'zz_docsync_guard BEFORE INSERT OR UPDATE OR DELETE ON docsync.document FOR EACH ROW EXECUTE FUNCTION other.docsync_guard()',
	'zz_docsync_guard BEFORE INSERT OR UPDATE OR DELETE ON docsync.document FOR EACH ROW EXECUTE FUNCTION pg_temp.same()']) AS definition;
-- made again as it was, it is the guard
SELECT definition, pg_temp.unguarded('DROP TRIGGER zz_docsync_guard ON docsync.document; CREATE TRIGGER ' || definition) FROM unnest(ARRAY[
	'zz_docsync_guard BEFORE INSERT OR UPDATE OR DELETE ON docsync.document FOR EACH ROW EXECUTE FUNCTION docsync_guard()',
	'zz_docsync_guard BEFORE DELETE OR INSERT OR UPDATE ON docsync.document FOR EACH ROW EXECUTE FUNCTION docsync_guard(''x'')']) AS definition;
-- Without its horizons or its clock an epoch begins, too; without its history it does so with the next upload.
SELECT command, pg_temp.unguarded(command) FROM unnest(ARRAY['DROP TABLE docsync.purged', 'DROP SEQUENCE docsync.clock', 'DROP TABLE docsync.history']) AS command;
-- Meanwhile plain SQL stores nothing new: there is no stamp.
BEGIN;
ALTER TABLE docsync.document DISABLE TRIGGER zz_docsync_guard;
\set VERBOSITY terse
INSERT INTO docsync.document (id, body) VALUES ('unstamped', '1');
ROLLBACK;
-- Where no trigger fires, an upload isn't taken.
BEGIN;
SET LOCAL session_replication_role = replica;
SELECT docsync_upsert('tablet', '[{"id": "replica", "clientVersion": 1, "body": 1}]');
ROLLBACK;
BEGIN;
SET LOCAL session_replication_role = replica;
SELECT docsync_upsert('tablet', '[{"id": "a", "clientVersion": 2, "body": 1}]');
ROLLBACK;
\set VERBOSITY default

--
-- Triggers of the user's: those that could change what was stamped
--
CREATE FUNCTION pg_temp.altered(definition text) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	answer text;
BEGIN
	EXECUTE definition;
	SELECT string_agg(format('%s (%s)', s.answer, functions), '; ') INTO answer FROM pg_temp.all_say() AS s;
	RAISE EXCEPTION USING ERRCODE = 'ZZ001';
EXCEPTION WHEN SQLSTATE 'ZZ001' THEN
	RETURN answer;
END
$$;
SELECT definition, pg_temp.altered('CREATE TRIGGER ' || definition) FROM unnest(ARRAY[
	'zzz BEFORE INSERT OR UPDATE OR DELETE ON docsync.document FOR EACH ROW EXECUTE FUNCTION docsync_guard()',
	'zzz BEFORE INSERT ON docsync.document FOR EACH ROW EXECUTE FUNCTION pg_temp.same()',
	'zzz BEFORE UPDATE ON docsync.document FOR EACH ROW EXECUTE FUNCTION pg_temp.same()',
	'zzz BEFORE UPDATE OF body ON docsync.document FOR EACH ROW WHEN (new.id = ''x'') EXECUTE FUNCTION pg_temp.same()',
	'"zz_docsync_guard " BEFORE INSERT ON docsync.document FOR EACH ROW EXECUTE FUNCTION pg_temp.same()',
	'"ü" BEFORE INSERT ON docsync.document FOR EACH ROW EXECUTE FUNCTION pg_temp.same()',
	'zz_docsync_guarc BEFORE INSERT OR UPDATE OR DELETE ON docsync.document FOR EACH ROW EXECUTE FUNCTION pg_temp.same()',
	'"Zzz" BEFORE INSERT ON docsync.document FOR EACH ROW EXECUTE FUNCTION pg_temp.same()',
	'zzz AFTER INSERT OR UPDATE ON docsync.document FOR EACH ROW EXECUTE FUNCTION pg_temp.same()',
	'zzz BEFORE DELETE ON docsync.document FOR EACH ROW EXECUTE FUNCTION pg_temp.same()',
	'zzz BEFORE INSERT OR UPDATE ON docsync.document FOR EACH STATEMENT EXECUTE FUNCTION pg_temp.same()',
	'zzz BEFORE TRUNCATE ON docsync.document FOR EACH STATEMENT EXECUTE FUNCTION pg_temp.same()']) AS definition;
SELECT pg_temp.altered('CREATE TRIGGER zzz BEFORE INSERT ON docsync.document FOR EACH ROW EXECUTE FUNCTION pg_temp.same();
	ALTER TABLE docsync.document DISABLE TRIGGER zzz');
SELECT pg_temp.altered('CREATE TRIGGER zzz BEFORE INSERT ON docsync.document FOR EACH ROW EXECUTE FUNCTION pg_temp.same();
	ALTER TABLE docsync.document ENABLE REPLICA TRIGGER zzz');

--
-- Altered tables: refused by all, without a crash
--
SET client_min_messages = warning;
SELECT definition, pg_temp.altered(definition) FROM unnest(ARRAY[
	'ALTER TABLE docsync.document ALTER body TYPE json',
	'ALTER TABLE docsync.document ALTER body TYPE text',
	'ALTER TABLE docsync.document ALTER body SET NOT NULL',
	'ALTER TABLE docsync.document ALTER client_version DROP DEFAULT, ALTER client_version TYPE numeric',
	'ALTER TABLE docsync.document ALTER client_version DROP DEFAULT, ALTER client_version TYPE int4',
	'ALTER TABLE docsync.document ALTER client_version DROP DEFAULT, ALTER client_version ADD GENERATED BY DEFAULT AS IDENTITY',
	'ALTER TABLE docsync.document ALTER client_version DROP DEFAULT',
	'ALTER TABLE docsync.document ALTER id TYPE uuid USING md5(id)::uuid',
	'ALTER TABLE docsync.document ALTER id TYPE varchar(500) COLLATE "C"',
	'ALTER TABLE docsync.document ALTER id TYPE varchar COLLATE "C"',
	'ALTER TABLE docsync.document ALTER id TYPE text COLLATE "default"',
	'ALTER TABLE docsync.document ALTER collection TYPE text COLLATE "POSIX"',
	'ALTER TABLE docsync.document ALTER client_id TYPE text',
	'ALTER TABLE docsync.document ALTER client_id TYPE "char"',
	'ALTER TABLE docsync.document ALTER client_id TYPE name COLLATE "C"',
	'ALTER TABLE docsync.document ALTER last_update_utc DROP DEFAULT, ALTER last_update_utc TYPE timestamp',
	'ALTER TABLE docsync.document ALTER last_update_utc TYPE timestamptz(3)',
	'ALTER TABLE docsync.document ALTER last_update_utc DROP NOT NULL',
	'ALTER TABLE docsync.document ALTER last_update_utc DROP DEFAULT, ALTER fence DROP DEFAULT',
	'DROP INDEX docsync.document_tombstone; ALTER TABLE docsync.document ALTER deleted DROP DEFAULT, ALTER deleted TYPE int USING 0',
	'ALTER TABLE docsync.document ALTER deleted DROP NOT NULL',
	'ALTER TABLE docsync.document DROP deleted, ADD deleted bool NOT NULL GENERATED ALWAYS AS (body IS NULL) STORED',
	'ALTER TABLE docsync.document ALTER fence DROP DEFAULT, ALTER fence TYPE int8 USING 3',
	'ALTER TABLE docsync.document ALTER fence DROP NOT NULL',
	'ALTER TABLE docsync.document RENAME client_id TO client',
	'ALTER TABLE docsync.document DROP body',
	'ALTER TABLE docsync.document DROP CONSTRAINT document_pkey',
	'ALTER TABLE docsync.document DROP CONSTRAINT document_pkey, ADD UNIQUE (collection, id)',
	'ALTER TABLE docsync.document DROP CONSTRAINT document_pkey, ADD PRIMARY KEY (id, collection)',
	'ALTER TABLE docsync.document DROP CONSTRAINT document_pkey, ADD PRIMARY KEY (collection, id) DEFERRABLE',
	'ALTER TABLE docsync.document DROP CONSTRAINT document_pkey, ADD PRIMARY KEY (collection, id) INCLUDE (client_version)',
	'DROP INDEX docsync.document_stamp, docsync.document_tombstone',
	'ALTER TABLE docsync.document DROP CONSTRAINT document_pkey, ALTER collection DROP NOT NULL',
	'CREATE DOMAIN other.text AS text COLLATE "C"; ALTER TABLE docsync.document ALTER id TYPE other.text',
	'ALTER TABLE docsync.purged ALTER last_update_utc TYPE date',
	'ALTER TABLE docsync.purged ALTER client_id TYPE text',
	'ALTER TABLE docsync.purged ALTER others_utc DROP NOT NULL',
	'ALTER TABLE docsync.purged DROP CONSTRAINT purged_pkey',
	'ALTER TABLE docsync.purged DROP CONSTRAINT purged_pkey, ADD PRIMARY KEY (client_id)',
	'ALTER TABLE docsync.purged DROP CONSTRAINT purged_pkey, ADD PRIMARY KEY (collection, client_id)',
	'ALTER TABLE docsync.purged ADD CHECK (collection <> ''x'')',
	'ALTER TABLE docsync.history ALTER epoch TYPE numeric',
	'ALTER TABLE docsync.history ALTER next_xid TYPE text',
	'ALTER TABLE docsync.history ALTER arrived DROP NOT NULL',
	'ALTER TABLE docsync.history DROP timeline',
	'ALTER TABLE docsync.history DROP CONSTRAINT history_pkey',
	'ALTER TABLE docsync.document SET UNLOGGED',
	'ALTER TABLE docsync.purged SET UNLOGGED',
	'ALTER TABLE docsync.history SET UNLOGGED',
	'ALTER SEQUENCE docsync.clock SET UNLOGGED',
	'CREATE TABLE other.child () INHERITS (docsync.document)',
	'CREATE TABLE other.child (LIKE docsync.document); ALTER TABLE other.child INHERIT docsync.document',
	'ALTER TABLE docsync.document RENAME TO documents; CREATE VIEW docsync.document AS SELECT * FROM docsync.documents',
	'ALTER TABLE docsync.document RENAME TO documents; CREATE TABLE docsync.document (LIKE docsync.documents) PARTITION BY LIST (collection)',
	'ALTER TABLE docsync.document RENAME TO documents; CREATE TABLE docsync.document (LIKE docsync.documents INCLUDING ALL)',
	'ALTER TABLE docsync.document SET SCHEMA other',
	'DROP TABLE docsync.document',
	'DROP TABLE docsync.purged',
	'DROP TABLE docsync.history',
	'DROP SEQUENCE docsync.clock',
	'DROP SEQUENCE docsync.clock; CREATE TABLE docsync.clock (last_value int8)',
	'ALTER SEQUENCE docsync.clock AS int8 CYCLE INCREMENT -1 CACHE 100',
	'DROP SCHEMA docsync CASCADE',
	'ALTER SCHEMA docsync RENAME TO sync']) AS definition;
RESET client_min_messages;
SELECT * FROM pg_temp.all_say();

--
-- Adopted: what DROP EXTENSION leaves behind, with what is the user's own in it
--
ALTER TABLE docsync.document ADD tenant text NOT NULL DEFAULT 'none', ADD size int GENERATED ALWAYS AS (octet_length(body::text)) STORED;
CREATE INDEX mine ON docsync.document (tenant);
CREATE TRIGGER mine BEFORE INSERT ON docsync.document FOR EACH ROW EXECUTE FUNCTION other.docsync_guard();
CREATE POLICY mine ON docsync.document USING (tenant = 'none');
SELECT docsync_grant('regress_docsync_else');
SELECT outcome FROM docsync_upsert('tablet', '[{"id": "b", "clientVersion": 1, "body": 1}, {"id": "c", "clientVersion": 1, "deleted": true}]');
SELECT docsync_pull() ->> 'cursor' AS cursor \gset
CREATE FUNCTION pg_temp.own() RETURNS TABLE (kind text, name name)
	LANGUAGE sql
AS $$
	SELECT 'column', attname FROM pg_attribute WHERE attrelid = 'docsync.document'::regclass AND attnum > 8
	UNION ALL SELECT 'index', indexrelid::regclass::text FROM pg_index WHERE indrelid = 'docsync.document'::regclass
	UNION ALL SELECT 'trigger', tgname FROM pg_trigger WHERE tgrelid = 'docsync.document'::regclass
	UNION ALL SELECT 'default', attname FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum WHERE adrelid = 'docsync.document'::regclass
	UNION ALL SELECT 'policy', polname FROM pg_policy WHERE polrelid = 'docsync.document'::regclass
	UNION ALL SELECT 'privilege of regress_docsync_else', p FROM unnest('{SELECT,DELETE}'::text[]) AS p WHERE has_table_privilege('regress_docsync_else', 'docsync.document', p)
	 ORDER BY 1, 2
$$;
SET client_min_messages = warning;
DROP EXTENSION docsync CASCADE;
RESET client_min_messages;
SELECT string_agg(name, ', ') || ' (' || kind || ')' FROM pg_temp.own() GROUP BY kind ORDER BY kind;
-- Nobody stamps now: nothing new comes in, but what is there may be changed.
\set VERBOSITY terse
INSERT INTO docsync.document (id, body) VALUES ('unstamped', '1');
\set VERBOSITY default
UPDATE docsync.document SET body = '"behind"' WHERE id = 'b';
CREATE EXTENSION docsync;
SELECT * FROM pg_temp.all_say();
SELECT count(*) FROM docsync.history;
SELECT docsync_create_store();
SELECT * FROM pg_temp.all_say();
SELECT string_agg(name, ', ') || ' (' || kind || ')' FROM pg_temp.own() GROUP BY kind ORDER BY kind;
SELECT number, count(*) OVER (PARTITION BY epoch) AS same_epoch, arrived, survived = (SELECT max(last_update_utc) FROM docsync.document) AS all_survived,
	   lost_after = survived - interval '1 day' AS margin FROM docsync.history ORDER BY number;
SELECT pg_temp.say(format('SELECT docsync_pull(cursor => %L)', :'cursor'));
SELECT p ->> 'reconcile', p ->> 'documents' FROM docsync_pull(cursor => :'cursor', reconcile => true) AS p;
SELECT id, body, tenant, size FROM docsync.document ORDER BY last_update_utc;
-- once more: no further epoch
SELECT docsync_create_store();
SELECT count(*) FROM docsync.history;
-- in another schema
SET client_min_messages = warning;
DROP EXTENSION docsync CASCADE;
RESET client_min_messages;
CREATE EXTENSION docsync SCHEMA other;
\echo :LAST_ERROR_SQLSTATE
ALTER FUNCTION other.docsync_guard() RENAME TO docsync_guard_of_mine;
CREATE EXTENSION docsync SCHEMA other;
SELECT other.docsync_create_store();
SELECT tgname, tgfoid::regproc FROM pg_trigger WHERE tgrelid = 'docsync.document'::regclass ORDER BY 1;
SELECT other.docsync_pull() ->> 'more';
SET client_min_messages = warning;
DROP EXTENSION docsync CASCADE;
RESET client_min_messages;
CREATE EXTENSION docsync;

-- Rows that docsync wouldn't have let in: no crash
INSERT INTO docsync.document (collection, id, client_id, client_version, last_update_utc, deleted, body, fence) VALUES
	('strange', repeat('x', 2000), repeat('y', 1000), 1, '2001-01-01', false, '1', '3'),
	('strange', '', '', 1, '2001-01-02', false, NULL, '99999999999'),
	('strange', 'tomb', '', 1, '2001-01-03', true, '1', '0'),
	(repeat('z', 1000), 'x', 'y', 1, '2001-01-03', true, NULL, '3'), ('', 'x', 'y', 1, '2001-01-04', true, NULL, '3'),
	('before', 'x', 'y', 1, '-infinity', false, '1', '3'), ('bc', 'x', 'y', 1, '0044-03-15 BC', false, '1', '3');
SELECT docsync_create_store();
SELECT * FROM pg_temp.all_say();
CREATE FUNCTION pg_temp.strange() RETURNS TABLE (name text, collection text, answer text)
	LANGUAGE sql
AS $$
	SELECT name, collection, pg_temp.say(command) FROM unnest('{strange,before,bc,infinite}'::text[]) AS collection, LATERAL (VALUES
		(1, 'pull', format('SELECT docsync_pull(collection => %L)', collection)),
		(2, 'state', format('SELECT docsync_pull(collection => %L, state => %L)', collection, 'true')),
		(3, 'query_since', format('SELECT docsync_query_since(NULL, origin => %L, collection => %L)', 'any', collection)),
		(4, 'list', format('SELECT docsync_docs_reconcile(%L)', jsonb_build_object('collection', collection))),
		(5, 'get', format('SELECT docsync_docs_get(%L)', jsonb_build_object('collection', collection, 'ids', ARRAY['x', '', 'tomb', repeat('x', 2000)]))),
		(6, 'upsert', format('SELECT docsync_upsert(%L, %L, %L)', 'tablet', '[{"id": "x", "clientVersion": 0, "body": 1}, {"id": "tomb", "clientVersion": 9, "body": 1}]', collection)),
		(7, 'purge', format('CALL docsync_purge(collection => %L)', collection)),
		(8, 'DELETE', format('DELETE FROM docsync.document WHERE collection = %L', collection))) AS c(n, name, command) ORDER BY collection, n
$$;
SELECT * FROM pg_temp.strange();
SELECT docsync_pull(collection => 'strange', state => 'true') #>> '{state,count}';
-- a stamp that no clock can be set beyond
ALTER TABLE docsync.document DISABLE TRIGGER zz_docsync_guard;
INSERT INTO docsync.document (collection, id, client_id, client_version, last_update_utc, deleted, body, fence) VALUES ('infinite', 'x', 'y', 1, 'infinity', false, '1', '3');
ALTER TABLE docsync.document ENABLE TRIGGER zz_docsync_guard;
SELECT * FROM pg_temp.strange() WHERE collection = 'infinite';
SELECT pg_temp.say('SELECT docsync_new_epoch()');

--
-- Columns in another order, and others between them
--
SET client_min_messages = warning;
DROP SCHEMA docsync CASCADE;
RESET client_min_messages;
SELECT docsync_create_store();
ALTER TABLE docsync.document DROP body, DROP client_id, DROP collection, DROP fence;
ALTER TABLE docsync.document ADD first int, ADD fence xid8 NOT NULL, ADD second text DEFAULT 'second', ADD collection text COLLATE "C" NOT NULL DEFAULT 'default', ADD body jsonb,
	ADD client_id text COLLATE "C" NOT NULL DEFAULT 'server', ADD third jsonb DEFAULT '{}';
ALTER TABLE docsync.document DROP second;
ALTER TABLE docsync.purged DROP collection, DROP client_id;
ALTER TABLE docsync.purged ADD own int DEFAULT 7, ADD client_id text COLLATE "C" NOT NULL, ADD collection text COLLATE "C" PRIMARY KEY;
ALTER TABLE docsync.history ADD own int DEFAULT 7, DROP epoch, DROP arrived;
ALTER TABLE docsync.history ADD arrived bool NOT NULL, ADD epoch int8 NOT NULL;
SELECT * FROM pg_temp.all_say();
SELECT docsync_create_store();
SELECT attname FROM pg_attribute WHERE attrelid = 'docsync.document'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum;
SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'docsync.document'::regclass ORDER BY 1;
SELECT * FROM pg_temp.all_say();
SELECT id, outcome FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": {"a": 1}}, {"id": "b", "clientVersion": 2, "deleted": true}, {"id": "a", "clientVersion": 2, "body": 2}]');
SELECT id, outcome, winner ->> 'body' FROM docsync_upsert('phone', '[{"id": "a", "clientVersion": 1, "body": 3}, {"id": "b", "clientVersion": 2, "deleted": true}, {"id": "c", "clientVersion": 0, "body": null}]');
SELECT id, outcome FROM docsync_upsert('phone', '[{"id": "b", "clientVersion": 3, "body": "back"}, {"id": "c", "clientVersion": 0, "body": 1}]');
SELECT count(*), count(DISTINCT outcome) FROM docsync_upsert('tablet', (SELECT jsonb_agg(jsonb_build_object('id', i::text, 'clientVersion', 1, 'body', i)) FROM generate_series(1, 60) AS i), 'many');
INSERT INTO docsync.document (id, body, first) VALUES ('d', '4', 1);
UPDATE docsync.document SET body = '5', third = '[]' WHERE id = 'd';
DELETE FROM docsync.document WHERE id IN ('a', 'c');
COPY docsync.document (id, client_version, client_id, body) FROM stdin;
e	1	phone	6
\.
SELECT id, client_version > 1e12 AS in_ms, client_id, deleted, body FROM docsync_query_since('watch');
SELECT id, first, third, collection, fence < '99999999999' AS fence FROM docsync.document WHERE collection = 'default' ORDER BY last_update_utc;
SELECT command, pg_temp.say(command) FROM unnest(ARRAY[
	'UPDATE docsync.document SET collection = ''x'' WHERE id = ''d''', 'UPDATE docsync.document SET body = NULL WHERE id = ''d''',
	'INSERT INTO docsync.document (id) VALUES (''x'')', 'INSERT INTO docsync.document (id, client_id, body) VALUES (''x'', '''', ''1'')', 'TRUNCATE docsync.document']) AS command;
INSERT INTO docsync.document (id, last_update_utc, deleted, fence) VALUES ('old', '2001-01-01', true, '3'), ('older', '2000-01-01', true, '3');
CALL docsync_purge('1 day', NULL, NULL);
SELECT collection, client_id, last_update_utc = '2001-01-01' AS old, others_utc, own FROM docsync.purged;
SELECT count(*), count(DISTINCT epoch), min(own) FROM docsync.history;
SELECT docsync_pull(state => 'true') #>> '{state,count}';
SELECT r ->> 'id', r ->> 'clientId', r ->> 'deleted' FROM json_array_elements(docsync_docs_reconcile('{}') -> 'rows') AS r;

--
-- Foreign keys.  A deleted document stays, as a tombstone, so ON DELETE CASCADE
-- would be broken in silence, in both directions.
--
CREATE TABLE other.tenant (name text PRIMARY KEY);
INSERT INTO other.tenant VALUES ('default'), ('many'), ('none');
CREATE TABLE other.note (collection text COLLATE "C", id text COLLATE "C", FOREIGN KEY (collection, id) REFERENCES docsync.document ON DELETE CASCADE);
INSERT INTO other.note VALUES ('default', 'd');
SELECT pg_temp.say('DELETE FROM docsync.document WHERE id = ''d''');
-- nor a document that nothing refers to: nobody looks
SELECT pg_temp.say('DELETE FROM docsync.document WHERE id = ''e''');
SELECT pg_temp.say('DELETE FROM docsync.document WHERE id = ''a''');
-- An upload doesn't delete.
SELECT outcome FROM docsync_upsert('phone', '[{"id": "e", "clientVersion": 2, "deleted": true}]');
DROP TABLE other.note;
CREATE TABLE other.note (collection text COLLATE "C", id text COLLATE "C", FOREIGN KEY (collection, id) REFERENCES docsync.document ON DELETE SET NULL);
INSERT INTO other.note VALUES ('default', 'd');
SELECT pg_temp.say('DELETE FROM docsync.document WHERE id = ''d''');
DROP TABLE other.note;
CREATE TABLE other.note (collection text COLLATE "C", id text COLLATE "C", FOREIGN KEY (collection, id) REFERENCES docsync.document);
INSERT INTO other.note VALUES ('default', 'd');
SELECT pg_temp.say('DELETE FROM docsync.document WHERE id = ''d''');
DROP TABLE other.note;
ALTER TABLE docsync.document ADD CONSTRAINT tenant FOREIGN KEY (collection) REFERENCES other.tenant ON DELETE CASCADE;
SELECT pg_temp.say('DELETE FROM other.tenant WHERE name = ''many''');
SELECT pg_temp.say('DELETE FROM other.tenant WHERE name = ''none''');
SELECT pg_temp.say('DELETE FROM docsync.document WHERE id = ''d''');
ALTER TABLE docsync.document DROP CONSTRAINT tenant, ADD CONSTRAINT tenant FOREIGN KEY (collection) REFERENCES other.tenant;
SELECT pg_temp.say('DELETE FROM docsync.document WHERE id = ''d''');
SELECT pg_temp.say('DELETE FROM other.tenant WHERE name = ''many''');
SELECT * FROM pg_temp.all_say();

--
-- The end of time
--
SELECT setval('docsync.clock', 9223372036854775807);
SELECT * FROM pg_temp.all_say();
SELECT command, pg_temp.say(command) FROM unnest(ARRAY[
	'SELECT docsync_upsert(''x'', ''[{"id": "new", "clientVersion": 1, "body": 1}]'')', 'SELECT docsync_sync(''x'', ''[{"id": "new", "clientVersion": 1, "body": 1}]'')',
	'INSERT INTO docsync.document (id, body) VALUES (''x'', ''1'')', 'UPDATE docsync.document SET body = ''"end"''', 'DELETE FROM docsync.document',
	'INSERT INTO docsync.document (id, body, last_update_utc, fence) VALUES (''x'', ''1'', ''294276-12-31 23:59:59.999999+00'', ''3'')',
	'INSERT INTO docsync.document (id, body, last_update_utc, fence) VALUES (''x'', ''1'', ''2001-01-01'', ''3'')']) AS command;
SELECT last_value FROM docsync.clock;
SELECT docsync_new_epoch();
SELECT last_value FROM docsync.clock;
SELECT p ->> 'more' FROM docsync_pull(reconcile => true, cursor => '0000000000000001.1') AS p;
SELECT docsync_docs_query('any', '9999-12-31T23:59:59Z');
-- The last stamps there are
ALTER TABLE docsync.document DROP CONSTRAINT tenant;
SELECT setval('docsync.clock', 9222424646399000000 - 4);
SELECT pg_temp.say('INSERT INTO docsync.document (id, body) SELECT ''x'' || i, ''1'' FROM generate_series(1, 5) AS i');
SELECT setval('docsync.clock', 9222424646399000000 - 5);
SELECT outcome, last_update_utc AT TIME ZONE 'UTC' FROM docsync_upsert('x', '[{"id": "x1", "clientVersion": 1, "body": 1}, {"id": "x2", "clientVersion": 1, "body": 1}]', 'last');
SELECT outcome, last_update_utc AT TIME ZONE 'UTC' FROM docsync_upsert('x', '[{"id": "x3", "clientVersion": 1, "body": 1}]', 'last');
SELECT string_agg(id, ' ') FROM docsync_query_since(NULL, origin => 'any', collection => 'last');
SELECT d ->> 'id', d ->> 'LastUpdateUtc' FROM json_array_elements(docsync_pull(collection => 'last') -> 'documents') AS d;
SELECT last_value FROM docsync.clock;

SET client_min_messages = warning;
DROP SCHEMA docsync CASCADE;
DROP EXTENSION docsync;
DROP FUNCTION public.docsync_guard(int);
DROP SCHEMA other CASCADE;
DROP OWNED BY regress_docsync_owner, regress_docsync_member, regress_docsync_else;
DROP ROLE regress_docsync_owner, regress_docsync_member, regress_docsync_else;
