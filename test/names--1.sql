-- An install script that leaves this and that to the search_path: scripts/sql-names has to find it.

\echo Use "CREATE EXTENSION names" to load this file. \quit

-- wrong: CREATE OR REPLACE FUNCTION @extschema@.a: takes over what is there
-- wrong: CREATE OR REPLACE FUNCTION @extschema@.a, in its body: function lower()
-- wrong: CREATE OR REPLACE FUNCTION @extschema@.a, in its body: operator =
CREATE OR REPLACE FUNCTION @extschema@.a() RETURNS int LANGUAGE sql AS 'SELECT lower(''A'') = ''a''';
-- wrong: CREATE FUNCTION b: has no schema
-- wrong: CREATE FUNCTION b, in its body: operator +
CREATE FUNCTION b() RETURNS int LANGUAGE plpgsql AS $$BEGIN RETURN pg_catalog.length('--') + 1; -- of no matter()
END$$;
-- wrong: CREATE FUNCTION @extschema@.c: SECURITY DEFINER
CREATE FUNCTION @extschema@.c(a int DEFAULT 3) RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT now() - now()';
-- wrong: CREATE SCHEMA IF: takes over what is there
CREATE SCHEMA IF NOT EXISTS docsync;
-- wrong: SELECT pg_catalog: operator *
SELECT pg_catalog.setval('x', 1 * 2) OPERATOR(pg_catalog.+) 1;
-- wrong: DO: function count()
DO $$BEGIN PERFORM count(*) FROM x; END$$;
-- wrong: CREATE TRIGGER t: function f()
CREATE TRIGGER t BEFORE INSERT ON docsync.document FOR EACH ROW EXECUTE FUNCTION f();
CREATE INDEX i ON docsync.document (a, b);
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT now() - now();
-- wrong: CREATE TYPE q: has no schema
CREATE TYPE "T" AS (a int);
