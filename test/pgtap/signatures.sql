-- What a program calls: names, arguments, results and properties of the
-- functions, the columns it may read, and that each says what it is for.
-- Whatever is changed here breaks somebody's program.
SET client_min_messages = warning;
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
DROP EXTENSION IF EXISTS docsync;
CREATE SCHEMA api;
CREATE EXTENSION docsync SCHEMA api;
DO $$ BEGIN PERFORM api.docsync_create_store(); END $$;
SELECT plan(28);

-- All that belongs to the extension
CREATE TEMP VIEW member AS
	SELECT d.classid, d.objid, (pg_identify_object(d.classid, d.objid, 0)).*
	  FROM pg_depend AS d
	 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
	   AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'docsync');

------------------------------------------------------------------------------
-- What there is, where
------------------------------------------------------------------------------
SELECT functions_are('api', ARRAY['docsync_upsert', 'docsync_query_since', 'docsync_purge', 'docsync_grant',
	'docsync_sync', 'docsync_pull', 'docsync_docs', 'docsync_docs_sync', 'docsync_docs_query', 'docsync_new_epoch'], 'its schema has the functions one calls');
SELECT functions_are('docsync', ARRAY['guard'], 'the schema docsync has the trigger''s alone');
SELECT tables_are('docsync', ARRAY['document', 'purged']);
SELECT sequences_are('docsync', ARRAY['clock', 'epoch', 'horizon']);
SELECT types_are('docsync', ARRAY['*/*', 'change']);
SELECT views_are('docsync', ARRAY[]::name[]);
SELECT is_empty($$SELECT relname FROM pg_class WHERE relnamespace = 'api'::regnamespace$$, 'its schema has no relation');
SELECT is_empty($$SELECT typname FROM pg_type WHERE typnamespace = 'api'::regnamespace$$, '... and no type');
SELECT is_empty($$
	SELECT * FROM member WHERE type NOT IN ('schema', 'extension') AND coalesce(schema, '') NOT IN ('api', 'docsync', '')
		OR type NOT IN ('function', 'table', 'sequence', 'composite type', 'type', 'schema')$$, 'nothing is elsewhere, nor of another kind');

------------------------------------------------------------------------------
-- Functions: arguments with their defaults, results
------------------------------------------------------------------------------
SELECT results_eq($$
	SELECT proname COLLATE "C", pg_get_function_arguments(oid) COLLATE "C", pg_get_function_result(oid) COLLATE "C"
	  FROM pg_proc WHERE pronamespace IN ('api'::regnamespace, 'docsync'::regnamespace) ORDER BY 1$$,
	$$VALUES
	('docsync_docs'::name COLLATE "C", 'jsonb' COLLATE "C", '"*/*"' COLLATE "C"),
	('docsync_docs_query', 'origin text DEFAULT ''other''::text, "sinceUtc" text DEFAULT NULL::text, "clientId" text DEFAULT NULL::text, '
		'collection text DEFAULT NULL::text, "maxDocuments" integer DEFAULT NULL::integer', '"*/*"'),
	('docsync_docs_sync', 'jsonb', '"*/*"'),
	('docsync_grant', 'role regrole', 'void'),
	('docsync_new_epoch', '', 'void'),
	('docsync_pull', '"clientId" text DEFAULT NULL::text, cursor text DEFAULT NULL::text, collection text DEFAULT NULL::text, '
		'origin text DEFAULT NULL::text, "maxDocuments" integer DEFAULT 1000', '"*/*"'),
	('docsync_purge', 'keep interval DEFAULT ''90 days''::interval, collection text DEFAULT NULL::text', 'bigint'),
	('docsync_query_since', 'client_id text, since_utc timestamp with time zone DEFAULT ''-infinity''::timestamp with time zone, '
		'origin text DEFAULT ''other''::text, collection text DEFAULT ''default''::text, max_documents integer DEFAULT NULL::integer',
		'SETOF docsync_change'),
	('docsync_sync', '"clientId" text DEFAULT NULL::text, documents json DEFAULT ''[]''::json, cursor text DEFAULT NULL::text, '
		'collection text DEFAULT NULL::text, origin text DEFAULT ''other''::text, "maxDocuments" integer DEFAULT 1000', '"*/*"'),
	('docsync_upsert', 'client_id text, documents jsonb, collection text DEFAULT ''default''::text',
		'TABLE(ordinal integer, id text, outcome text, client_version bigint, last_update_utc timestamp with time zone, winner jsonb)'),
	('guard', '', 'trigger')$$,
	'arguments, defaults and results');

-- Properties.  Strict none: NULL is refused with a message, not answered by NULL.
SELECT results_eq($$
	SELECT proname COLLATE "C", provolatile, proparallel, proisstrict, prosecdef, proleakproof
	  FROM pg_proc WHERE pronamespace IN ('api'::regnamespace, 'docsync'::regnamespace) ORDER BY 1$$,
	$$VALUES
	('docsync_docs'::name COLLATE "C", 'v'::"char", 'u'::"char", false, false, false),
	('docsync_docs_query', 's', 'r', false, false, false),
	('docsync_docs_sync', 'v', 'u', false, false, false),
	('docsync_grant', 'v', 'u', false, false, false),
	('docsync_new_epoch', 'v', 'u', false, false, false),
	('docsync_pull', 's', 'r', false, false, false),
	('docsync_purge', 'v', 'u', false, false, false),
	('docsync_query_since', 's', 'r', false, false, false),
	('docsync_sync', 'v', 'u', false, false, false),
	('docsync_upsert', 'v', 'u', false, false, false),
	('guard', 'v', 'u', false, false, false)$$,
	'volatility and parallel safety; none is strict, none runs with its owner''s rights');
SELECT results_eq($$
	SELECT proname COLLATE "C", prosrc COLLATE "C" FROM pg_proc AS p JOIN pg_language AS l ON l.oid = prolang
	 WHERE pronamespace IN ('api'::regnamespace, 'docsync'::regnamespace) AND lanname = 'c' ORDER BY 1$$,
	$$SELECT name::name COLLATE "C", (CASE name WHEN 'guard' THEN 'docsync_guard' ELSE name END) COLLATE "C"
	  FROM unnest('{docsync_docs,docsync_docs_query,docsync_docs_sync,docsync_pull,docsync_purge,docsync_query_since,docsync_sync,docsync_upsert,guard}'::text[]) AS name$$,
	'the name in SQL is the name in C');
SELECT is((SELECT string_agg(proname || ': ' || proconfig::text, ', ' ORDER BY proname) FROM pg_proc WHERE pronamespace = 'api'::regnamespace AND proconfig IS NOT NULL),
	'docsync_grant: {"search_path=pg_catalog, pg_temp"}, docsync_new_epoch: {"search_path=pg_catalog, pg_temp"}',
	'those that are not in C have a search_path of their own');

------------------------------------------------------------------------------
-- Tables, type, trigger
------------------------------------------------------------------------------
CREATE FUNCTION pg_temp.columns(relation regclass) RETURNS text
	LANGUAGE sql
AS $$
	SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'not null' END,
			   CASE WHEN attcollation = '"C"'::regcollation THEN 'C' END, CASE WHEN atthasdef THEN 'default' END), ', ' ORDER BY attnum)
	  FROM pg_attribute WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped
$$;
SELECT is(pg_temp.columns('docsync.document'), 'collection text not null C default, id text not null C, client_version bigint not null default, '
	'client_id text not null C default, last_update_utc timestamp with time zone not null, deleted boolean not null default, body jsonb, '
	'fence xid8 not null', 'columns of docsync.document');
SELECT is(pg_temp.columns('docsync.purged'), 'collection text not null C, last_update_utc timestamp with time zone not null', 'columns of docsync.purged');
SELECT is(pg_temp.columns('docsync_change'), 'id text, client_version bigint, client_id text, last_update_utc timestamp with time zone, '
	'deleted boolean, body jsonb', 'columns of docsync_change');
SELECT col_is_pk('docsync', 'document', ARRAY['collection', 'id'], 'a document''s key');
SELECT col_is_pk('docsync', 'purged', 'collection', 'one horizon a collection');
SELECT indexes_are('docsync', 'document', ARRAY['document_pkey', 'document_stamp']);
SELECT index_is_type('docsync', 'document', 'document_stamp', 'btree');
SELECT has_index('docsync', 'document', 'document_stamp', ARRAY['collection', 'last_update_utc'], 'the order of downloads');
SELECT triggers_are('docsync', 'document', ARRAY['docsync_guard', 'docsync_guard_truncate']);

------------------------------------------------------------------------------
-- Each says what it is for
------------------------------------------------------------------------------
SELECT is_empty($$
	SELECT type, identity FROM member
	 WHERE type <> 'type' AND coalesce(obj_description(objid, classid::regclass::name), '') = ''$$, 'each object has a comment');
SELECT is_empty($$
	SELECT attrelid::regclass, attname FROM pg_attribute
	 WHERE attrelid IN ('docsync.document'::regclass, 'docsync.purged'::regclass) AND attnum > 0 AND NOT attisdropped
	   AND coalesce(col_description(attrelid, attnum), '') = ''$$, '... and each column');
-- The first line becomes a summary over HTTP: a sentence.
SELECT is_empty($$
	SELECT identity, obj_description(objid, classid::regclass::name) FROM member
	 WHERE type = 'function' AND split_part(obj_description(objid, classid::regclass::name), E'\n', 1) !~ '^[A-Z].{19,199}\.$'$$,
	'... the first line of a function''s is a sentence');

------------------------------------------------------------------------------
-- Owners, dumps, dependencies
------------------------------------------------------------------------------
SELECT is_empty(format($$
	SELECT m.type, m.identity FROM member AS m
	  LEFT JOIN pg_proc AS p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
	  LEFT JOIN pg_class AS c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
	  LEFT JOIN pg_type AS t ON m.classid = 'pg_type'::regclass AND t.oid = m.objid
	  LEFT JOIN pg_namespace AS n ON m.classid = 'pg_namespace'::regclass AND n.oid = m.objid
	 WHERE coalesce(proowner, relowner, typowner, nspowner) IS DISTINCT FROM %L::regrole::oid$$, current_user),
	'all is owned by who created the extension');
SELECT set_eq($$SELECT unnest(extconfig)::regclass::text FROM pg_extension WHERE extname = 'docsync'$$,
	$$SELECT c.oid::regclass::text FROM pg_class AS c WHERE relnamespace = 'docsync'::regnamespace AND relkind IN ('r', 'S')$$,
	'a dump has all tables and sequences');
SELECT is((SELECT array_agg(DISTINCT c) FROM pg_extension, unnest(extcondition) AS c WHERE extname = 'docsync'), '{""}', '... and all that is in them');

SELECT * FROM finish();
ROLLBACK;
