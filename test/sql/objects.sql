-- What CREATE EXTENSION makes, what docsync_create_store() makes, and what is left
-- after they are dropped.
\set SHOW_CONTEXT never
\pset null (null)
CREATE EXTENSION docsync;
SELECT extname, extversion, extnamespace::regnamespace, extrelocatable FROM pg_extension WHERE extname = 'docsync';
SELECT pg_describe_object(classid, objid, 0) AS member
  FROM pg_depend
 WHERE refclassid = 'pg_extension'::regclass
   AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'docsync')
   AND deptype = 'e'
   AND NOT (classid = 'pg_type'::regclass AND objid::regtype::text LIKE '%[]')
 ORDER BY pg_describe_object(classid, objid, 0) COLLATE "C";
\d docsync_change
SELECT oid::regtype AS domain, typbasetype::regtype AS of, typnotnull, typdefault FROM pg_type WHERE typname = '*/*';
SELECT oid::regprocedure AS function, pg_get_function_result(oid) AS returns,
       provolatile, proparallel, proisstrict, prosecdef, prorows, prokind
  FROM pg_proc
 WHERE proname ~ '^docsync_'
 ORDER BY oid::regprocedure::text COLLATE "C";
SELECT oid::regprocedure AS function, pg_get_function_arguments(oid) AS arguments
  FROM pg_proc
 WHERE proname ~ '^docsync_'
 ORDER BY oid::regprocedure::text COLLATE "C";
-- No store yet
SELECT count(*) FROM pg_namespace WHERE nspname = 'docsync';

-- The store
SELECT docsync_create_store();
\d docsync.document
\d docsync.purged
\d docsync.history
\d docsync.clock
SELECT relname, relkind, pg_get_userbyid(relowner) = current_user AS mine, relacl FROM pg_class WHERE relnamespace = 'docsync'::regnamespace ORDER BY 1;

-- Members a user meets that say nothing about themselves: none.
SELECT pg_describe_object(classid, objid, 0)
  FROM pg_depend
 WHERE refclassid = 'pg_extension'::regclass
   AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'docsync')
   AND deptype = 'e'
   AND obj_description(objid, classid::regclass::name) IS NULL
   AND NOT (classid = 'pg_type'::regclass AND objid::regtype::text LIKE '%[]');
SELECT attrelid::regclass, attname
  FROM pg_attribute JOIN pg_class AS c ON c.oid = attrelid
 WHERE relnamespace = 'docsync'::regnamespace AND relkind = 'r' AND attnum > 0
   AND col_description(attrelid, attnum) IS NULL;
SELECT relname FROM pg_class WHERE relnamespace = 'docsync'::regnamespace AND relkind IN ('r', 'S') AND obj_description(oid, 'pg_class') IS NULL;
SELECT obj_description('docsync'::regnamespace, 'pg_namespace');

-- What holds data is no member of the extension, so it is dumped as any other table.
SELECT pg_describe_object(classid, objid, objsubid)
  FROM pg_depend
 WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
   AND (classid, objid) IN (SELECT 'pg_class'::regclass, oid FROM pg_class WHERE relnamespace = 'docsync'::regnamespace
		UNION ALL SELECT 'pg_namespace'::regclass, 'docsync'::regnamespace);
SELECT extconfig, extcondition FROM pg_extension WHERE extname = 'docsync';
-- What of it depends on the extension, which DROP EXTENSION needs CASCADE for
SELECT pg_describe_object(d.classid, d.objid, d.objsubid), pg_describe_object(d.refclassid, d.refobjid, 0)
  FROM pg_depend AS d JOIN pg_proc AS p ON d.refclassid = 'pg_proc'::regclass AND d.refobjid = p.oid
 WHERE p.proname ~ '^docsync_' ORDER BY 1, 2;

-- The clock began at the time of creation.
SELECT to_timestamp(last_value / 1e6) BETWEEN now() - interval '1 hour' AND clock_timestamp()
         AS near_now
  FROM docsync.clock;

-- Settings
LOAD 'docsync';
SELECT name, setting, unit, context, vartype, min_val, max_val, short_desc
  FROM pg_settings WHERE name ~ '^docsync\.' ORDER BY name;
SET docsync.no_such = 1;
SET docsync.max_batch = 0;

-- Dropped, it leaves the documents behind, and can come again: that is for
-- docsync_create_store() to say (store.sql).
SELECT id, outcome FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]');
DROP EXTENSION docsync;
\echo :LAST_ERROR_SQLSTATE
SET client_min_messages = warning;
DROP EXTENSION docsync CASCADE;
RESET client_min_messages;
SELECT count(*) FROM pg_proc WHERE proname ~ '^docsync';
SELECT count(*) FROM pg_type WHERE typname ~ '^docsync_' OR typname = '*/*';
SELECT id FROM docsync.document;
SET client_min_messages = warning;
DROP SCHEMA docsync CASCADE;
RESET client_min_messages;
CREATE EXTENSION docsync;
SELECT id FROM docsync_query_since('phone');
DROP EXTENSION docsync;

-- In a schema of its own
CREATE SCHEMA api;
CREATE EXTENSION docsync SCHEMA api;
SELECT oid::regprocedure FROM pg_proc WHERE proname ~ '^docsync_' ORDER BY oid::regprocedure::text COLLATE "C";
SELECT outcome FROM api.docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]');
SELECT id, body FROM api.docsync_query_since('phone');
SELECT tgname, tgfoid::regproc FROM pg_trigger WHERE tgrelid = 'docsync.document'::regclass ORDER BY 1;
CREATE ROLE regress_docsync_reader;
GRANT USAGE ON SCHEMA api TO regress_docsync_reader;
SELECT api.docsync_grant('regress_docsync_reader');
SET ROLE regress_docsync_reader;
SELECT id, body FROM api.docsync_query_since('phone');
RESET ROLE;
ALTER EXTENSION docsync SET SCHEMA public;
\echo :LAST_ERROR_SQLSTATE
SELECT api.docsync_grant(NULL);
SET client_min_messages = warning;
DROP SCHEMA docsync CASCADE;
RESET client_min_messages;
DROP EXTENSION docsync;
DROP SCHEMA api;
DROP OWNED BY regress_docsync_reader;

-- In a schema whose name needs quotes
CREATE SCHEMA "Sync Api";
CREATE EXTENSION docsync SCHEMA "Sync Api";
GRANT USAGE ON SCHEMA "Sync Api" TO regress_docsync_reader;
SELECT "Sync Api".docsync_grant('regress_docsync_reader');
SELECT outcome FROM "Sync Api".docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]');
SET ROLE regress_docsync_reader;
SELECT id FROM "Sync Api".docsync_query_since('phone');
RESET ROLE;
SET client_min_messages = warning;
DROP SCHEMA docsync CASCADE;
RESET client_min_messages;
-- The first upload makes the store there, too.
SELECT outcome FROM "Sync Api".docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]');
SET client_min_messages = warning;
DROP SCHEMA docsync CASCADE;
DROP EXTENSION docsync;
DROP SCHEMA "Sync Api";
DROP OWNED BY regress_docsync_reader;
DROP ROLE regress_docsync_reader;
