-- role.sql - the role that monitoring connects as: psql -X -d docsync -f role.sql, as a superuser, after
-- examples/postgrest/roles.sql.
--
-- As a member of pg_monitor it sees which collections there are and who is writing to them. It can neither read nor write a
-- document.

\set ON_ERROR_STOP 1

CREATE ROLE docsync_monitor LOGIN CONNECTION LIMIT 5 IN ROLE pg_monitor;
GRANT USAGE ON SCHEMA api TO docsync_monitor;
ALTER ROLE docsync_monitor SET statement_timeout = '10s';
