-- The interface for programs: names, arguments, results and properties of the
-- functions, the columns that may be read, and that each has a comment that says
-- what it is for.  Any change here breaks somebody's program.
SET client_min_messages = warning;
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
DROP SCHEMA IF EXISTS docsync CASCADE;
DROP EXTENSION IF EXISTS docsync;
CREATE SCHEMA api;
CREATE EXTENSION docsync SCHEMA api;
DO $$ BEGIN PERFORM api.docsync_create_store(); END $$;
SELECT plan(40);

-- All that belongs to the extension
CREATE TEMP VIEW member AS
	SELECT d.classid, d.objid, (pg_identify_object(d.classid, d.objid, 0)).*
	  FROM pg_depend AS d
	 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
	   AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'docsync');

------------------------------------------------------------------------------
-- What there is, where
------------------------------------------------------------------------------
-- docsync_check_store and its like are those of docsync_create_store, the trigger
-- and the defaults.
SELECT functions_are('api', ARRAY['docsync_upsert', 'docsync_query_since', 'docsync_purge', 'docsync_grant',
	'docsync_sync', 'docsync_pull', 'docsync_docs', 'docsync_docs_sync', 'docsync_docs_query', 'docsync_docs_reconcile', 'docsync_docs_get', 'docsync_call',
	'docsync_new_epoch', 'docsync_hand_over', 'docsync_take_over', 'docsync_move_begin', 'docsync_move_wait', 'docsync_move_sum',
	'docsync_move_out', 'docsync_move_hand_over', 'docsync_move_in', 'docsync_move_take_over', 'docsync_move_back', 'docsync_move_keep', 'docsync_moves', 'docsync_create_store', 'docsync_check_store', 'docsync_check_store_owner', 'docsync_guard', 'docsync_unset_stamp', 'docsync_unset_fence',
	'docsync_listen_key', 'docsync_announce_start', 'docsync_announce_stop',
	'docsync_marks', 'docsync_holders', 'docsync_collections', 'docsync_status', 'docsync_facts', 'docsync_digest', 'docsync_health',
	'docsync_keep_changed', 'docsync_restore', 'docsync_restamp', 'docsync_rebase', 'docsync_erase'],
	'its schema has the functions');
SELECT functions_are('docsync', ARRAY[]::name[], 'the schema docsync has none');
SELECT tables_are('docsync', ARRAY['document', 'purged', 'history', 'moved', 'keep', 'record']);
SELECT sequences_are('docsync', ARRAY['clock']);
SELECT types_are('docsync', ARRAY[]::name[]);
SELECT views_are('docsync', ARRAY[]::name[]);
SELECT is((SELECT string_agg(typname, ' ' ORDER BY typname COLLATE "C") FROM pg_type WHERE typnamespace = 'api'::regnamespace AND typcategory <> 'A'),
	'*/* docsync_change', 'its types');
SELECT is_empty($$SELECT relname FROM pg_class WHERE relnamespace = 'api'::regnamespace AND relkind <> 'c'$$, 'its schema has no relation');
SELECT is_empty($$SELECT * FROM member WHERE schema IS DISTINCT FROM 'api' OR type NOT IN ('function', 'procedure', 'composite type', 'type')$$,
	'nothing is elsewhere, nor of another kind: what is in the schema docsync is the user''s');

------------------------------------------------------------------------------
-- Functions: arguments with their defaults, results
------------------------------------------------------------------------------
SELECT results_eq($$
	SELECT proname COLLATE "C", pg_get_function_arguments(oid) COLLATE "C", pg_get_function_result(oid) COLLATE "C"
	  FROM pg_proc WHERE pronamespace = 'api'::regnamespace ORDER BY 1$$,
	$$VALUES
	('docsync_announce_start'::name COLLATE "C", '' COLLATE "C", 'void' COLLATE "C"),
	('docsync_announce_stop', '', 'void'),
	('docsync_call', 'function text, role text, claims text, method text, headers text, body bytea', 'text'),
	('docsync_check_store', '', 'void'),
	('docsync_check_store_owner', '', 'void'),
	('docsync_collections', 'exact boolean DEFAULT false', 'TABLE(collection text, last_update_utc timestamp with time zone, client_id text, '
		'frontier timestamp with time zone, documents bigint, tombstones bigint, purged_through timestamp with time zone)'),
	('docsync_create_store', '', 'void'),
	('docsync_digest', 'collection text DEFAULT ''default''::text', 'TABLE(documents bigint, digest text, settled boolean)'),
	('docsync_docs', 'bytea', 'api."*/*"'),
	('docsync_docs_get', 'bytea', 'api."*/*"'),
	('docsync_docs_query', 'origin text DEFAULT ''other''::text, "sinceUtc" text DEFAULT NULL::text, "clientId" text DEFAULT NULL::text, '
		'collection text DEFAULT NULL::text, "maxDocuments" integer DEFAULT NULL::integer', 'api."*/*"'),
	('docsync_docs_reconcile', 'bytea', 'api."*/*"'),
	('docsync_docs_sync', 'bytea', 'api."*/*"'),
	('docsync_erase', 'IN pattern text, IN forget boolean DEFAULT false, INOUT erased bigint DEFAULT NULL::bigint', NULL),
	('docsync_facts', 'exact boolean DEFAULT false', 'TABLE(library text, clock timestamp with time zone, epoch text, place text, epoch_clock timestamp with time zone, '
		'lost_after timestamp with time zone, is_subscribed boolean, has_statistics boolean, unpurged text, unpurged_stamp timestamp with time zone, '
		'ahead_collection text, ahead_id text, ahead_version bigint, ahead_count bigint, recorded_utc timestamp with time zone)'),
	('docsync_grant', 'role regrole', 'void'),
	('docsync_guard', '', 'trigger'),
	('docsync_hand_over', '', 'void'),
	('docsync_health', '', 'json'),
	('docsync_holders', 'exact boolean DEFAULT false', 'TABLE(holds_back text, collection text, pid integer, gid text, username name, application text, '
		'client_addr inet, database name, state text, since timestamp with time zone, query text)'),
	('docsync_keep_changed', '', 'trigger'),
	('docsync_listen_key', 'collection text DEFAULT ''default''::text', 'text'),
	('docsync_marks', 'exact boolean DEFAULT false', 'TABLE(transaction xid, pid integer, of_all boolean, collection text)'),
	('docsync_move_back', 'collection text', 'void'),
	('docsync_move_begin', 'collection text, after timestamp with time zone, OUT epoch bigint, OUT clock timestamp with time zone, OUT next_xid xid8', 'record'),
	('docsync_move_hand_over', 'collection text', 'jsonb'),
	('docsync_move_in', 'collection text', 'void'),
	('docsync_move_keep', 'collection text', 'jsonb'),
	('docsync_move_out', 'collection text', 'void'),
	('docsync_move_sum', 'collection text, OUT documents bigint, OUT digest numeric, OUT highest timestamp with time zone, OUT lost bigint, OUT lost_digest numeric', 'record'),
	('docsync_move_take_over', 'ticket jsonb', 'void'),
	('docsync_move_wait', 'collection text', 'void'),
	('docsync_moves', '', 'TABLE(collection text, state text, since timestamp with time zone, has_documents boolean)'),
	('docsync_new_epoch', '', 'void'),
	('docsync_pull', '"clientId" text DEFAULT NULL::text, cursor text DEFAULT NULL::text, collection text DEFAULT NULL::text, '
		'origin text DEFAULT NULL::text, "maxDocuments" integer DEFAULT 1000, reconcile boolean DEFAULT false, state text DEFAULT NULL::text, '
		'tombstones boolean DEFAULT true', 'api."*/*"'),
	('docsync_purge', 'IN keep interval DEFAULT ''90 days''::interval, IN collection text DEFAULT NULL::text, INOUT removed bigint DEFAULT NULL::bigint', NULL),
	('docsync_query_since', 'client_id text, since_utc timestamp with time zone DEFAULT ''-infinity''::timestamp with time zone, '
		'origin text DEFAULT ''other''::text, collection text DEFAULT ''default''::text, max_documents integer DEFAULT NULL::integer',
		'SETOF api.docsync_change'),
	('docsync_rebase', 'collection text, id text, version bigint DEFAULT NULL::bigint', 'bigint'),
	('docsync_restamp', 'collection text, ids text[]', 'bigint'),
	('docsync_restore', 'collection text, id text, version bigint', 'bigint'),
	('docsync_status', 'exact boolean DEFAULT false', 'TABLE(version text, epoch text, clock timestamp with time zone, clock_ahead interval, '
		'documents bigint, tombstones bigint, bytes bigint, dead_rows bigint, frozen_age integer, attention text[])'),
	('docsync_sync', '"clientId" text DEFAULT NULL::text, documents json DEFAULT ''[]''::json, cursor text DEFAULT NULL::text, '
		'collection text DEFAULT NULL::text, origin text DEFAULT ''other''::text, "maxDocuments" integer DEFAULT 1000, '
		'reconcile boolean DEFAULT false, state text DEFAULT NULL::text, tombstones boolean DEFAULT true, atomic boolean DEFAULT true', 'api."*/*"'),
	('docsync_take_over', '', 'void'),
	('docsync_unset_fence', '', 'xid8'),
	('docsync_unset_stamp', '', 'timestamp with time zone'),
	('docsync_upsert', 'client_id text, documents jsonb, collection text DEFAULT ''default''::text, atomic boolean DEFAULT true',
		'TABLE(ordinal integer, id text, outcome text, client_version bigint, last_update_utc timestamp with time zone, winner jsonb, error jsonb)')$$,
	'arguments, defaults and results');

-- Properties.  Strict none: NULL is refused with a message, not answered by NULL.
SELECT results_eq($$
	SELECT proname COLLATE "C", provolatile, proparallel, proisstrict, prosecdef, proleakproof
	  FROM pg_proc WHERE pronamespace = 'api'::regnamespace ORDER BY 1$$,
	$$VALUES
	('docsync_announce_start'::name COLLATE "C", 'v'::"char", 'u'::"char", false, false, false),
	('docsync_announce_stop', 'v', 'u', false, false, false),
	('docsync_call', 'v', 'u', false, false, false),
	('docsync_check_store', 'v', 'u', false, false, false),
	('docsync_check_store_owner', 'v', 'u', false, false, false),
	('docsync_collections', 's', 'r', false, false, false),
	('docsync_create_store', 'v', 'u', false, false, false),
	('docsync_digest', 's', 'r', false, false, false),
	('docsync_docs', 'v', 'u', false, false, false),
	('docsync_docs_get', 's', 'r', false, false, false),
	('docsync_docs_query', 's', 'r', false, false, false),
	('docsync_docs_reconcile', 's', 'r', false, false, false),
	('docsync_docs_sync', 'v', 'u', false, false, false),
	('docsync_erase', 'v', 'u', false, false, false),
	('docsync_facts', 'v', 'r', false, false, false),
	('docsync_grant', 'v', 'u', false, false, false),
	('docsync_guard', 'v', 'u', false, false, false),
	('docsync_hand_over', 'v', 'u', false, false, false),
	('docsync_health', 's', 'r', false, false, false),
	('docsync_holders', 'v', 'r', false, false, false),
	('docsync_keep_changed', 'v', 'u', false, false, false),
	('docsync_listen_key', 'v', 'u', false, false, false),
	('docsync_marks', 'v', 'r', false, false, false),
	('docsync_move_back', 'v', 'u', false, false, false),
	('docsync_move_begin', 'v', 'u', false, false, false),
	('docsync_move_hand_over', 'v', 'u', false, false, false),
	('docsync_move_in', 'v', 'u', false, false, false),
	('docsync_move_keep', 's', 'r', false, false, false),
	('docsync_move_out', 'v', 'u', false, false, false),
	('docsync_move_sum', 'v', 'u', false, false, false),
	('docsync_move_take_over', 'v', 'u', false, false, false),
	('docsync_move_wait', 'v', 'u', false, false, false),
	('docsync_moves', 'v', 'r', false, false, false),
	('docsync_new_epoch', 'v', 'u', false, false, false),
	('docsync_pull', 's', 'r', false, false, false),
	('docsync_purge', 'v', 'u', false, false, false),
	('docsync_query_since', 's', 'r', false, false, false),
	('docsync_rebase', 'v', 'u', false, false, false),
	('docsync_restamp', 'v', 'u', false, false, false),
	('docsync_restore', 'v', 'u', false, false, false),
	('docsync_status', 'v', 'r', false, false, false),
	('docsync_sync', 'v', 'u', false, false, false),
	('docsync_take_over', 'v', 'u', false, false, false),
	('docsync_unset_fence', 'i', 's', false, false, false),
	('docsync_unset_stamp', 'i', 's', false, false, false),
	('docsync_upsert', 'v', 'u', false, false, false)$$,
	'volatility and parallel safety; none is strict, none runs with its owner''s rights');
SELECT results_eq($$
	SELECT proname COLLATE "C", prosrc COLLATE "C" FROM pg_proc AS p JOIN pg_language AS l ON l.oid = prolang
	 WHERE pronamespace = 'api'::regnamespace AND lanname = 'c' ORDER BY 1$$,
	$$SELECT name::name COLLATE "C", name COLLATE "C"
	  FROM unnest('{docsync_announce_start,docsync_announce_stop,docsync_call,docsync_check_store,docsync_check_store_owner,docsync_collections,docsync_digest,docsync_docs,docsync_docs_get,docsync_docs_query,docsync_docs_reconcile,docsync_docs_sync,docsync_erase,docsync_facts,'
		'docsync_guard,docsync_hand_over,docsync_health,docsync_keep_changed,docsync_listen_key,docsync_marks,docsync_move_begin,docsync_move_wait,docsync_moves,docsync_new_epoch,docsync_pull,docsync_purge,docsync_query_since,docsync_restamp,docsync_sync,docsync_take_over,docsync_upsert}'::text[]) AS name$$,
	'the name in SQL is the name in C');
SELECT is((SELECT string_agg(proname || ': ' || proconfig::text, ', ' ORDER BY proname) FROM pg_proc WHERE pronamespace = 'api'::regnamespace AND proconfig IS NOT NULL),
	'docsync_create_store: {"search_path=pg_catalog, pg_temp",client_min_messages=warning}, docsync_grant: {"search_path=pg_catalog, pg_temp"}, '
	'docsync_holders: {"search_path=pg_catalog, pg_temp"}, docsync_move_back: {"search_path=pg_catalog, pg_temp",row_security=off}, '
	'docsync_move_hand_over: {"search_path=pg_catalog, pg_temp"}, docsync_move_in: {"search_path=pg_catalog, pg_temp",row_security=off}, '
	'docsync_move_keep: {"search_path=pg_catalog, pg_temp",row_security=off}, '
	'docsync_move_out: {"search_path=pg_catalog, pg_temp"}, docsync_move_sum: {"search_path=pg_catalog, pg_temp",row_security=off}, '
	'docsync_move_take_over: {"search_path=pg_catalog, pg_temp"}, docsync_rebase: {"search_path=pg_catalog, pg_temp"}, docsync_restore: {"search_path=pg_catalog, pg_temp"}, '
	'docsync_status: {"search_path=pg_catalog, pg_temp"}',
	'those that are not in C and use names have a search_path of their own');

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
	'client_id text not null C default, last_update_utc timestamp with time zone not null default, deleted boolean not null default, body jsonb, '
	'fence xid8 not null default', 'columns of docsync.document');
SELECT is(pg_temp.columns('docsync.purged'), 'collection text not null C, last_update_utc timestamp with time zone not null, '
	'client_id text not null C, others_utc timestamp with time zone not null default', 'columns of docsync.purged');
SELECT is(pg_temp.columns('docsync.history'), 'number bigint not null, epoch bigint not null, system_identifier bigint not null, database oid not null, '
	'document oid not null, timeline bigint not null, begun timestamp with time zone not null, survived timestamp with time zone not null, '
	'lost_after timestamp with time zone not null, clock timestamp with time zone not null, next_xid xid8 not null, arrived boolean not null', 'columns of docsync.history');
SELECT is(pg_temp.columns('docsync.moved'), 'collection text not null C, state text not null C, changed timestamp with time zone not null default, epochs bigint[] not null default, '
	'survived timestamp with time zone[] not null default, lost_after timestamp with time zone[] not null default, clocks timestamp with time zone[] not null default, '
	'number bigint not null default, replaced bigint not null default, next_xid xid8 not null default, move text C, ticket jsonb', 'columns of docsync.moved');
SELECT is(pg_temp.columns('docsync.keep'), 'pattern text not null C, keep text not null C, most integer not null default', 'columns of docsync.keep');
SELECT is(pg_temp.columns('docsync.record'), 'collection text not null C, id text not null C, recorded_utc timestamp with time zone not null, '
	'client_version bigint not null, client_id text not null C, deleted boolean not null, body jsonb, why text not null C', 'columns of docsync.record');
SELECT is(pg_temp.columns('api.docsync_change'), 'id text, client_version bigint, client_id text, last_update_utc timestamp with time zone, '
	'deleted boolean, body jsonb', 'columns of docsync_change');
SELECT col_is_pk('docsync', 'document', ARRAY['collection', 'id'], 'a document''s key');
SELECT col_is_pk('docsync', 'purged', 'collection', 'one horizon a collection');
SELECT col_is_pk('docsync', 'history', 'number', 'the order of the history');
SELECT col_is_pk('docsync', 'moved', 'collection', 'one row a collection');
SELECT col_is_pk('docsync', 'keep', 'pattern', 'one rule a pattern');
SELECT col_is_pk('docsync', 'record', ARRAY['collection', 'id', 'recorded_utc'], 'what lost, by the time when it did');
SELECT indexes_are('docsync', 'document', ARRAY['document_pkey', 'document_stamp', 'document_tombstone']);
SELECT index_is_type('docsync', 'document', 'document_stamp', 'btree');
SELECT has_index('docsync', 'document', 'document_stamp', ARRAY['collection', 'last_update_utc'], 'the order of downloads');
SELECT has_index('docsync', 'document', 'document_tombstone', ARRAY['collection', 'last_update_utc'], '... and of purges');
SELECT triggers_are('docsync', 'document', ARRAY['zz_docsync_guard', 'zz_docsync_guard_truncate']);

------------------------------------------------------------------------------
-- Each says what it is for
------------------------------------------------------------------------------
SELECT is_empty($$
	SELECT type, identity FROM member
	 WHERE coalesce(obj_description(objid, classid::regclass::name), '') = '' AND identity NOT LIKE '%[]'$$, 'each object has a comment');
SELECT is_empty($$
	SELECT relname FROM pg_class WHERE relnamespace = 'docsync'::regnamespace AND relkind IN ('r', 'S') AND coalesce(obj_description(oid, 'pg_class'), '') = ''$$,
	'... each table and sequence of the store');
SELECT is_empty($$
	SELECT attrelid::regclass, attname FROM pg_attribute
	 WHERE attrelid IN ('docsync.document'::regclass, 'docsync.purged'::regclass, 'docsync.history'::regclass, 'docsync.moved'::regclass) AND attnum > 0 AND NOT attisdropped
	   AND coalesce(col_description(attrelid, attnum), '') = ''$$, '... and each column');
-- The first line becomes a summary over HTTP: a sentence.
SELECT is_empty($$
	SELECT identity, obj_description(objid, classid::regclass::name) FROM member
	 WHERE type IN ('function', 'procedure') AND split_part(obj_description(objid, classid::regclass::name), E'\n', 1) !~ '^[A-Z].{19,199}\.$'$$,
	'... the first line of a function''s is a sentence');

------------------------------------------------------------------------------
-- Owners, dumps, dependencies
------------------------------------------------------------------------------
SELECT is_empty(format($$
	SELECT m.type, m.identity FROM member AS m
	  LEFT JOIN pg_proc AS p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
	  LEFT JOIN pg_class AS c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
	  LEFT JOIN pg_type AS t ON m.classid = 'pg_type'::regclass AND t.oid = m.objid
	 WHERE coalesce(proowner, relowner, typowner) IS DISTINCT FROM %L::regrole::oid$$, current_user),
	'all is owned by who created the extension');
SELECT is_empty(format($$
	SELECT relname FROM pg_class WHERE relnamespace = 'docsync'::regnamespace AND relowner <> %1$L::regrole
	UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = 'docsync' AND nspowner <> %1$L::regrole$$, current_user),
	'... and the store by who made that');
SELECT is((SELECT extconfig IS NULL AND extcondition IS NULL FROM pg_extension WHERE extname = 'docsync'), true,
	'a dump has the store as it has any other table: nothing of it is the extension''s');

------------------------------------------------------------------------------
-- A NOT NULL that holds for what is written from now on is none (PostgreSQL 18)
------------------------------------------------------------------------------
SELECT current_setting('server_version_num')::int >= 180000 AS has_not_valid \gset
\if :has_not_valid
ALTER TABLE docsync.document ALTER deleted DROP NOT NULL;
ALTER TABLE docsync.document ADD CONSTRAINT later NOT NULL deleted NOT VALID;
SELECT throws_ok($$SELECT api.docsync_pull()$$, '42804', 'column "deleted" of "docsync.document" may be null', 'a NOT NULL that is NOT VALID is refused');
ALTER TABLE docsync.document ALTER deleted SET NOT NULL;
SELECT lives_ok($$SELECT api.docsync_pull()$$, '... until it is valid, as the hint has it');
\else
SELECT skip('each NOT NULL is valid before PostgreSQL 18', 2);
\endif

SELECT * FROM finish();
ROLLBACK;
