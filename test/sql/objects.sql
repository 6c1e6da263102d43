-- What CREATE EXTENSION makes, and what it leaves behind.
\set SHOW_CONTEXT never
\pset null (null)
CREATE EXTENSION docsync;
\dx docsync
\dx+ docsync
\d docsync.document
\d docsync.clock
\d docsync.change
SELECT oid::regprocedure AS function, pg_get_function_result(oid) AS returns,
       provolatile, proparallel, proisstrict, prosecdef, prorows, prokind
  FROM pg_proc
 WHERE proname ~ '^docsync_' OR pronamespace = 'docsync'::regnamespace
 ORDER BY oid::regprocedure::text COLLATE "C";
SELECT oid::regprocedure AS function, pg_get_function_arguments(oid) AS arguments
  FROM pg_proc
 WHERE proname ~ '^docsync_' OR pronamespace = 'docsync'::regnamespace
 ORDER BY oid::regprocedure::text COLLATE "C";

-- Members a user meets that say nothing about themselves: none.
SELECT pg_describe_object(classid, objid, 0)
  FROM pg_depend
 WHERE refclassid = 'pg_extension'::regclass
   AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'docsync')
   AND deptype = 'e'
   AND obj_description(objid, classid::regclass::name) IS NULL
   AND NOT (classid = 'pg_type'::regclass AND objid::regtype::text LIKE '%[]');
SELECT attrelid::regclass, attname
  FROM pg_attribute
 WHERE attrelid = 'docsync.document'::regclass AND attnum > 0
   AND col_description(attrelid, attnum) IS NULL;

-- What is the user's own in them is dumped.
SELECT extconfig::regclass[]::text AS tables, extcondition
  FROM pg_extension WHERE extname = 'docsync';

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

-- Dropped, it is gone, and can come again.
SELECT id, outcome FROM docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]');
DROP EXTENSION docsync;
SELECT count(*) FROM pg_namespace WHERE nspname = 'docsync';
SELECT count(*) FROM pg_proc WHERE proname ~ '^docsync';
CREATE EXTENSION docsync;
SELECT count(*) FROM docsync.document;
DROP EXTENSION docsync;

-- In a schema of its own
CREATE SCHEMA api;
CREATE EXTENSION docsync SCHEMA api;
SELECT oid::regprocedure FROM pg_proc
 WHERE proname ~ '^docsync_' AND pronamespace <> 'docsync'::regnamespace
 ORDER BY oid::regprocedure::text COLLATE "C";
SELECT oid::regprocedure FROM pg_proc
 WHERE pronamespace = 'docsync'::regnamespace
 ORDER BY oid::regprocedure::text COLLATE "C";
SELECT outcome FROM api.docsync_upsert('tablet', '[{"id": "a", "clientVersion": 1, "body": 1}]');
SELECT id, body FROM api.docsync_query_since('phone');
CREATE ROLE regress_docsync_reader;
SELECT api.docsync_grant('regress_docsync_reader');
SET ROLE regress_docsync_reader;
SELECT id, body FROM api.docsync_query_since('phone');
RESET ROLE;
ALTER EXTENSION docsync SET SCHEMA public;
\echo :LAST_ERROR_SQLSTATE
SELECT api.docsync_grant(NULL);
DROP EXTENSION docsync;
DROP SCHEMA api;
DROP OWNED BY regress_docsync_reader;

-- In a schema whose name needs quotes
CREATE SCHEMA "Sync Api";
CREATE EXTENSION docsync SCHEMA "Sync Api";
SELECT "Sync Api".docsync_grant('regress_docsync_reader');
SET ROLE regress_docsync_reader;
SELECT id FROM "Sync Api".docsync_query_since('phone');
RESET ROLE;
DROP EXTENSION docsync;
DROP SCHEMA "Sync Api";
DROP OWNED BY regress_docsync_reader;
DROP ROLE regress_docsync_reader;

-- A schema "docsync" that was there before could hold traps: refused.
CREATE SCHEMA docsync;
CREATE EXTENSION docsync;
\echo :LAST_ERROR_SQLSTATE
DROP SCHEMA docsync;
