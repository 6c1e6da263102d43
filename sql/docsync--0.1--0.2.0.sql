/* docsync 0.1 to 0.2.0: the store leaves the extension; the rest becomes what an installation has */

\echo Use "ALTER EXTENSION docsync UPDATE" to load this file. \quit

-- Only the server's own operators and functions, whatever the schema of the
-- functions holds.
SET LOCAL search_path = pg_catalog, pg_temp;

-- The script may run as a superuser for a caller who isn't one, and the store
-- may belong to anybody.
DO $$
BEGIN
	IF NOT (SELECT rolsuper FROM pg_roles
			 WHERE rolname = CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END) THEN
		RAISE insufficient_privilege USING
			MESSAGE = 'permission denied to update docsync from version 0.1',
			HINT = 'A superuser can do it: ALTER EXTENSION docsync UPDATE;';
	END IF;
END
$$;

-- Waits for all transactions that have written, including prepared ones: then
-- everything stamped is settled.
LOCK TABLE docsync.document, docsync.purged IN ACCESS EXCLUSIVE MODE;

------------------------------------------------------------------------------
-- types: renamed, so that objects which use them stay
------------------------------------------------------------------------------

ALTER TYPE docsync.change SET SCHEMA @extschema@;
ALTER TYPE @extschema@.change RENAME TO docsync_change;
ALTER DOMAIN docsync."*/*" SET SCHEMA @extschema@;
COMMENT ON DOMAIN @extschema@."*/*" IS
'An answer over HTTP. The name tells PostgREST to pass the value on as it is, which takes a third of the time and memory.';

------------------------------------------------------------------------------
-- the store: leaves the extension, with everything its owner has changed in it
------------------------------------------------------------------------------

ALTER EXTENSION docsync DROP TABLE docsync.document;
ALTER EXTENSION docsync DROP TABLE docsync.purged;
ALTER EXTENSION docsync DROP SEQUENCE docsync.clock;
ALTER EXTENSION docsync DROP SCHEMA docsync;

COMMENT ON SCHEMA docsync IS
'Where docsync keeps its documents. docsync_grant gives roles access.';

-- It is unknown which clients sent the tombstones. No client is called '', so
-- the existing horizon holds for all.
ALTER TABLE docsync.purged
	ADD client_id text COLLATE "C" NOT NULL DEFAULT '',
	ADD others_utc timestamptz NOT NULL DEFAULT '-infinity';
ALTER TABLE docsync.purged
	ALTER client_id DROP DEFAULT;
COMMENT ON TABLE docsync.purged IS
'The horizon of each collection: the stamp up to which docsync_purge has removed tombstones.';
COMMENT ON COLUMN docsync.purged.collection IS 'The collection.';
COMMENT ON COLUMN docsync.purged.last_update_utc IS
'The highest stamp of a removed tombstone.';
COMMENT ON COLUMN docsync.purged.client_id IS
'The client_id of that tombstone.';
COMMENT ON COLUMN docsync.purged.others_utc IS
'The highest stamp of a removed tombstone that did not have that client_id: the horizon for that client.';

ALTER FUNCTION docsync.guard() SET SCHEMA @extschema@;
ALTER FUNCTION @extschema@.guard() RENAME TO docsync_guard;
COMMENT ON FUNCTION @extschema@.docsync_guard() IS
'Trigger of docsync.document: stamps each row written, turns DELETE into a tombstone, refuses TRUNCATE.';

-- Renamed, so that they stay enabled as they are. If one is missing or
-- disabled, docsync_create_store() creates it again, below, and begins an
-- epoch.
DO $$
DECLARE
	old text;
BEGIN
	FOREACH old IN ARRAY ARRAY['docsync_guard', 'docsync_guard_truncate']
	LOOP
		IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'docsync.document'::regclass AND tgname = old) THEN
			EXECUTE format('ALTER TRIGGER %I ON docsync.document RENAME TO %I', old, 'zz_' || old);
		END IF;
	END LOOP;
END
$$;

-- Defaults of the two columns that only docsync sets, so that tools which read
-- the catalogs see that they may be left out. Without the extension there is no
-- default, and NOT NULL refuses a row that hasn't been stamped.
CREATE FUNCTION @extschema@.docsync_unset_stamp() RETURNS pg_catalog.timestamptz
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	AS 'SELECT NULL::pg_catalog.timestamptz';
COMMENT ON FUNCTION @extschema@.docsync_unset_stamp() IS
'Default of docsync.document.last_update_utc: docsync sets it.';
CREATE FUNCTION @extschema@.docsync_unset_fence() RETURNS pg_catalog.xid8
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	AS 'SELECT NULL::pg_catalog.xid8';
COMMENT ON FUNCTION @extschema@.docsync_unset_fence() IS
'Default of docsync.document.fence: docsync sets it.';

CREATE FUNCTION @extschema@.docsync_check_store() RETURNS pg_catalog.void
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.docsync_check_store() IS
'Raises an error that says what is wrong with the store, if anything is. All functions of docsync refuse such a store.';

CREATE FUNCTION @extschema@.docsync_check_store_owner() RETURNS pg_catalog.void
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.docsync_check_store_owner() IS
'Raises an error if the caller may not create a store, or if any part of an existing one is owned by a role that may not own it.';

CREATE OR REPLACE FUNCTION @extschema@.docsync_new_epoch() RETURNS pg_catalog.void
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.docsync_new_epoch() IS
'Begins an epoch: all clients compare what they have with the store, or start again.
For the store''s owner, after documents were changed behind docsync''s back. Restores, clones and failovers are noticed without it.';

CREATE FUNCTION @extschema@.docsync_hand_over() RETURNS pg_catalog.void
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.docsync_hand_over() IS
'Before the store moves to another server or database: waits for transactions that have written; from then on nothing can be written here. At the new place clients resume without comparing.
For the store''s owner. docsync_new_epoch() undoes it.';

CREATE FUNCTION @extschema@.docsync_take_over() RETURNS pg_catalog.void
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.docsync_take_over() IS
'At the new place of a store that was handed over: clients resume here, or an error says why they would have to compare.
For the store''s owner. The first upload does the same, without the error.';

CREATE FUNCTION @extschema@.docsync_create_store() RETURNS pg_catalog.void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET client_min_messages = warning
AS $$
DECLARE
	adopted bool;
	doubtful bool := false;
	command text;
	-- The current schema of the functions: its owner may have renamed it, and put
	-- other functions into one with its old name.
	functions text := (SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'docsync');
BEGIN
	-- Waits if another session is creating it; then there is nothing left to
	-- do.
	EXECUTE format('SELECT %s.docsync_check_store_owner()', functions);

	IF current_setting('server_encoding') <> 'UTF8' THEN
		RAISE WARNING USING
			MESSAGE = 'the database''s encoding is not UTF8',
			DETAIL = format('It is %s. Documents with characters that it does not have are refused.', current_setting('server_encoding')),
			HINT = 'Create the database with ENCODING ''UTF8''.';
	END IF;

	IF to_regnamespace('docsync') IS NULL THEN
		CREATE SCHEMA docsync;
		COMMENT ON SCHEMA docsync IS
		'Where docsync keeps its documents. docsync_grant gives roles access.';
	END IF;

	adopted := to_regclass('docsync.document') IS NOT NULL;
	IF NOT adopted THEN
		CREATE TABLE docsync.document (
			collection		text COLLATE "C" NOT NULL DEFAULT 'default',
			id				text COLLATE "C" NOT NULL,
			client_version	int8 NOT NULL DEFAULT (date_part('epoch', now()) * 1000)::int8,
			client_id		text COLLATE "C" NOT NULL DEFAULT 'server',
			last_update_utc timestamptz NOT NULL,
			deleted			bool NOT NULL DEFAULT false,
			body			jsonb,
			fence			xid8 NOT NULL
		);
		COMMENT ON TABLE docsync.document IS
		'The documents of all collections, tombstones included. Plain SQL on it is safe: each row written is stamped, DELETE leaves a tombstone.';
		COMMENT ON COLUMN docsync.document.collection IS
		'The sync scope (an application, a tenant, a user, a list), 1 to 200 bytes. Each call works on one collection.';
		COMMENT ON COLUMN docsync.document.id IS
		'The document''s name within its collection, 1 to 500 bytes.';
		COMMENT ON COLUMN docsync.document.client_version IS
		'What decides which of two documents is newer: the higher one. By good practice milliseconds since 1970 at the edit.';
		COMMENT ON COLUMN docsync.document.client_id IS
		'Who sent this version, 1 to 200 bytes; "server" for edits made here by SQL.';
		COMMENT ON COLUMN docsync.document.last_update_utc IS
		'The stamp: transaction time, moved forward as far as is needed to be unique and in order. Set by docsync alone.';
		COMMENT ON COLUMN docsync.document.deleted IS
		'True for a tombstone.';
		COMMENT ON COLUMN docsync.document.body IS
		'The content: any JSON value; a tombstone may have none.';
		COMMENT ON COLUMN docsync.document.fence IS
		'The next transaction id when the stamp was issued: decides from when on readers may be given the document. Set by docsync alone.';
	END IF;

	-- In this order: of two indexes that seem to cost the same, as they do in a
	-- small table, the planner takes the newer, and the plan is kept for long. A
	-- purge must use the index of the tombstones.
	CREATE INDEX IF NOT EXISTS document_stamp ON docsync.document (collection, last_update_utc);
	IF NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'docsync.document'::regclass AND contype = 'p') THEN
		ALTER TABLE docsync.document ADD CONSTRAINT document_pkey PRIMARY KEY (collection, id);
	END IF;
	CREATE INDEX IF NOT EXISTS document_tombstone ON docsync.document (collection, last_update_utc) WHERE deleted;

	IF to_regclass('docsync.clock') IS NULL THEN
		-- Its last value is unknown.
		doubtful := adopted;
		CREATE SEQUENCE docsync.clock AS int8 MINVALUE 0 START 0;
		COMMENT ON SEQUENCE docsync.clock IS
		'The last LastUpdateUtc issued, in microseconds since 1970-01-01 UTC. Never goes back. Moved by docsync alone.';
		-- If documents have later stamps, the epoch moves it beyond them. The table
		-- isn't read here, since that could run functions in its owner's indexes.
		PERFORM setval('docsync.clock', (date_part('epoch', clock_timestamp()) * 1000000)::int8);
	END IF;

	IF to_regclass('docsync.purged') IS NULL THEN
		-- What has been purged is unknown.
		doubtful := adopted;
		CREATE TABLE docsync.purged (
			collection		text COLLATE "C" PRIMARY KEY,
			last_update_utc timestamptz NOT NULL,
			client_id		text COLLATE "C" NOT NULL,
			others_utc		timestamptz NOT NULL DEFAULT '-infinity'
		);
		COMMENT ON TABLE docsync.purged IS
		'The horizon of each collection: the stamp up to which docsync_purge has removed tombstones.';
		COMMENT ON COLUMN docsync.purged.collection IS 'The collection.';
		COMMENT ON COLUMN docsync.purged.last_update_utc IS
		'The highest stamp of a removed tombstone.';
		COMMENT ON COLUMN docsync.purged.client_id IS
		'The client_id of that tombstone.';
		COMMENT ON COLUMN docsync.purged.others_utc IS
		'The highest stamp of a removed tombstone that did not have that client_id: the horizon for that client.';
	END IF;

	IF to_regclass('docsync.history') IS NULL THEN
		CREATE TABLE docsync.history (
			number			int8 PRIMARY KEY,
			epoch			int8 NOT NULL,
			system_identifier int8 NOT NULL,
			database		oid NOT NULL,
			document		oid NOT NULL,
			timeline		int8 NOT NULL,
			begun			timestamptz NOT NULL,
			survived		timestamptz NOT NULL,
			lost_after		timestamptz NOT NULL,
			clock			timestamptz NOT NULL,
			next_xid		xid8 NOT NULL,
			arrived			bool NOT NULL
		);
		COMMENT ON TABLE docsync.history IS
		'What has happened to this store: a row for each server, database or timeline that it has been in, and for each start after a crash. Written by docsync alone.';
		COMMENT ON COLUMN docsync.history.number IS 'The order of the rows; the highest is the current one.';
		COMMENT ON COLUMN docsync.history.epoch IS
		'The random id of the epoch, part of each cursor. A cursor of any other than the current epoch makes its client compare.';
		COMMENT ON COLUMN docsync.history.system_identifier IS 'The server: pg_control_system(). 0: the store was handed over, and is at no place.';
		COMMENT ON COLUMN docsync.history.database IS 'The database''s oid.';
		COMMENT ON COLUMN docsync.history.document IS 'The oid of docsync.document.';
		COMMENT ON COLUMN docsync.history.timeline IS 'The timeline, which changes with each promotion and point-in-time recovery.';
		COMMENT ON COLUMN docsync.history.begun IS 'When this row was added.';
		COMMENT ON COLUMN docsync.history.survived IS 'The highest stamp at that time; -infinity in an empty store.';
		COMMENT ON COLUMN docsync.history.lost_after IS
		'Documents with stamps up to this one cannot have been lost when this row was added: a day before the highest stamp that survived and before the oldest prepared transaction; infinity if nothing can have been lost.';
		COMMENT ON COLUMN docsync.history.clock IS 'The clock at that time: all stamps issued later are higher.';
		COMMENT ON COLUMN docsync.history.next_xid IS
		'The next transaction id at that time: a fence for all stamps up to clock.';
		COMMENT ON COLUMN docsync.history.arrived IS
		'Whether the documents with stamps up to clock may come from another server: next_xid then replaces their fences, which mean nothing here.';
	END IF;

	IF NOT EXISTS (SELECT FROM pg_attrdef AS d JOIN pg_attribute AS a ON (a.attrelid, a.attnum) = (d.adrelid, d.adnum)
					WHERE a.attrelid = 'docsync.document'::regclass AND a.attname = 'last_update_utc') THEN
		EXECUTE format('ALTER TABLE docsync.document
			ALTER last_update_utc SET DEFAULT %1$s.docsync_unset_stamp(),
			ALTER fence SET DEFAULT %1$s.docsync_unset_fence()', functions);
	END IF;

	-- The name makes it the last of the BEFORE triggers, so nothing changes what it has
	-- stamped.
	IF EXISTS (SELECT FROM (VALUES ('zz_docsync_guard', 31), ('zz_docsync_guard_truncate', 34)) AS needed(tgname, tgtype)
				 LEFT JOIN pg_trigger AS t ON t.tgrelid = 'docsync.document'::regclass AND t.tgname = needed.tgname AND t.tgtype = needed.tgtype
				  AND t.tgenabled IN ('O', 'A') AND t.tgqual IS NULL AND t.tgattr = '' AND t.tgfoid = to_regprocedure(functions || '.docsync_guard()')
				WHERE t.oid IS NULL) THEN
		-- What was changed without the guard is unknown.
		doubtful := adopted;
		DROP TRIGGER IF EXISTS zz_docsync_guard ON docsync.document;
		DROP TRIGGER IF EXISTS zz_docsync_guard_truncate ON docsync.document;
		EXECUTE format('CREATE TRIGGER zz_docsync_guard
			BEFORE INSERT OR UPDATE OR DELETE ON docsync.document
			FOR EACH ROW EXECUTE FUNCTION %s.docsync_guard()', functions);
		EXECUTE format('CREATE TRIGGER zz_docsync_guard_truncate
			BEFORE TRUNCATE ON docsync.document
			FOR EACH STATEMENT EXECUTE FUNCTION %s.docsync_guard()', functions);
	END IF;

	-- What a superuser has repaired belongs to the owner, like the rest.
	FOR command IN
		SELECT format('ALTER TABLE %s OWNER TO %s', part.oid::regclass, document.relowner::regrole)
		  FROM pg_class AS part, pg_class AS document
		 WHERE document.oid = 'docsync.document'::regclass AND part.relowner <> document.relowner
		   AND part.oid IN ('docsync.clock'::regclass, 'docsync.purged'::regclass, 'docsync.history'::regclass)
		   AND part.relowner = (SELECT oid FROM pg_roles WHERE rolname = current_user AND rolsuper)
	LOOP
		EXECUTE command;
	END LOOP;

	EXECUTE format('SELECT %s.docsync_check_store()', functions);

	IF doubtful THEN
		EXECUTE format('SELECT %s.docsync_new_epoch()', functions);
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.docsync_create_store() IS
'Creates the store, or repairs an existing one: schema docsync with its tables, clock and triggers.
For a superuser or the database''s owner. Their first upload does it, too.';

------------------------------------------------------------------------------
-- functions
------------------------------------------------------------------------------

DROP FUNCTION @extschema@.docsync_purge(interval, text);

CREATE PROCEDURE @extschema@.docsync_purge(
	keep			pg_catalog.interval DEFAULT '90 days',
	collection		pg_catalog.text DEFAULT NULL,
	INOUT removed	pg_catalog.int8 DEFAULT NULL)
	AS 'MODULE_PATHNAME'
	LANGUAGE C;
COMMENT ON PROCEDURE @extschema@.docsync_purge(pg_catalog.interval, pg_catalog.text, pg_catalog.int8) IS
'Removes the tombstones older than keep, of one collection or of all, and returns their number.
Called outside a transaction block, it commits after each step of at most 1,000: it can be interrupted at any time, and continues when called again.
A client that has been away for longer compares what it has with the store.';

DROP FUNCTION @extschema@.docsync_upsert(text, jsonb, text);

CREATE FUNCTION @extschema@.docsync_upsert(
	client_id		pg_catalog.text,
	documents		pg_catalog.jsonb,
	collection		pg_catalog.text DEFAULT 'default',
	atomic			pg_catalog.bool DEFAULT true)
	RETURNS TABLE (
		ordinal			pg_catalog.int4,
		id				pg_catalog.text,
		outcome			pg_catalog.text,
		client_version	pg_catalog.int8,
		last_update_utc pg_catalog.timestamptz,
		winner			pg_catalog.jsonb,
		error			pg_catalog.jsonb)
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 100;
COMMENT ON FUNCTION @extschema@.docsync_upsert(pg_catalog.text, pg_catalog.jsonb, pg_catalog.text, pg_catalog.bool) IS
'Upload: creates or updates each document that is not stored or has a lower clientVersion here.
documents is an array of {"id", "clientVersion", "body", "deleted", "baseVersion", "baseUtc"}. Returns a row for each, in the order given: outcome is created, updated, unchanged, discarded, conflict or modified; winner is the stored document if it is not the one sent.
atomic: false applies each document that can be applied. One that cannot has the outcome refused and an error, {"code", "message", "details", "hint"}. After many refusals the rest may be untried: send it again.';

COMMENT ON FUNCTION @extschema@.docsync_query_since(pg_catalog.text, pg_catalog.timestamptz, pg_catalog.text, pg_catalog.text, pg_catalog.int4) IS
'Download: the settled documents with last_update_utc >= since_utc, in the order of their stamps.
origin is other (than client_id), own or any. With max_documents = n: the document at since_utc, if it is still there, and up to n later ones. Continue from max(last_update_utc).';

DROP FUNCTION @extschema@.docsync_sync(text, json, text, text, text, int4);
DROP FUNCTION @extschema@.docsync_pull(text, text, text, text, int4);
DROP FUNCTION @extschema@.docsync_docs_sync(jsonb);
DROP FUNCTION @extschema@.docsync_docs(jsonb);

CREATE FUNCTION @extschema@.docsync_sync(
	"clientId"		pg_catalog.text DEFAULT NULL,
	documents		pg_catalog.json DEFAULT '[]',
	cursor			pg_catalog.text DEFAULT NULL,
	collection		pg_catalog.text DEFAULT NULL,
	origin			pg_catalog.text DEFAULT 'other',
	"maxDocuments"	pg_catalog.int4 DEFAULT 1000,
	reconcile		pg_catalog.bool DEFAULT false,
	state			pg_catalog.text DEFAULT NULL,
	tombstones		pg_catalog.bool DEFAULT true,
	atomic			pg_catalog.bool DEFAULT true)
	RETURNS @extschema@."*/*"
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.docsync_sync(pg_catalog.text, pg_catalog.json, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.int4, pg_catalog.bool, pg_catalog.text, pg_catalog.bool, pg_catalog.bool) IS
'A whole sync in one request: upload, then download.
clientId: by default the header X-Client-Id, or the token''s claim client_id; if there is that claim, no other clientId is accepted. collection: by default the claim collection, or "default".
documents: [{"id", "clientVersion", "body", "deleted", "baseVersion", "baseUtc"}]; cursor: the one received last, null at first.
reconcile: the client can compare what it has with the store; if it must, it is told so instead of being refused. state: "true", or the digest of what the client has: the last page has digests to compare with. tombstones: false leaves them out of a first download. atomic: false applies each document that can be applied; the others are refused, with an error.
Answers {"received", "results": [{"id", "outcome", "clientVersion", "LastUpdateUtc", "winner"}], "documents": [{"id", "clientVersion", "clientId", "LastUpdateUtc", "deleted", "body"}], "cursor", "more", "serverUtc"}, and where they apply "reconcile", "lostAfter", "behind", "state".';

CREATE FUNCTION @extschema@.docsync_pull(
	"clientId"		pg_catalog.text DEFAULT NULL,
	cursor			pg_catalog.text DEFAULT NULL,
	collection		pg_catalog.text DEFAULT NULL,
	origin			pg_catalog.text DEFAULT NULL,
	"maxDocuments"	pg_catalog.int4 DEFAULT 1000,
	reconcile		pg_catalog.bool DEFAULT false,
	state			pg_catalog.text DEFAULT NULL,
	tombstones		pg_catalog.bool DEFAULT true)
	RETURNS @extschema@."*/*"
	AS 'MODULE_PATHNAME'
	LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED;
COMMENT ON FUNCTION @extschema@.docsync_pull(pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.int4, pg_catalog.bool, pg_catalog.text, pg_catalog.bool) IS
'Download alone: by GET, in a read-only transaction, on a standby. origin: by default other, or any if there is no clientId.
Answers as docsync_sync does, with "received": 0 and no results.';

CREATE FUNCTION @extschema@.docsync_docs_sync(pg_catalog.bytea)
	RETURNS @extschema@."*/*"
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.docsync_docs_sync(pg_catalog.bytea) IS
'A whole sync, like docsync_sync, of one collection or of several: the arguments are the keys of one object, the body of the request.';

CREATE FUNCTION @extschema@.docsync_docs(pg_catalog.bytea)
	RETURNS @extschema@."*/*"
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.docsync_docs(pg_catalog.bytea) IS
'The protocol''s POST /Docs: the body is an array of documents, or {"clientId", "documents", "collection", "atomic"}.
Answers {"received", "results"}.';

CREATE FUNCTION @extschema@.docsync_docs_reconcile(pg_catalog.bytea)
	RETURNS @extschema@."*/*"
	AS 'MODULE_PATHNAME'
	LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED;
COMMENT ON FUNCTION @extschema@.docsync_docs_reconcile(pg_catalog.bytea) IS
'The documents of a collection, without bodies, for a client that compares: {"clientId", "collection", "cursor", "origin", "buckets", "after", "maxDocuments"}.
Answers {"rows": [{"id", "clientVersion", "LastUpdateUtc", "clientId", "deleted"}], "after", "more", "purgedThrough", "serverUtc"}.';

CREATE FUNCTION @extschema@.docsync_docs_get(pg_catalog.bytea)
	RETURNS @extschema@."*/*"
	AS 'MODULE_PATHNAME'
	LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED;
COMMENT ON FUNCTION @extschema@.docsync_docs_get(pg_catalog.bytea) IS
'Documents by id: {"clientId", "collection", "cursor", "origin", "ids"}.
Answers {"documents", "more", "serverUtc"}.';

CREATE FUNCTION @extschema@.docsync_call(
	function		pg_catalog.text,
	role			pg_catalog.text,
	claims			pg_catalog.text,
	method			pg_catalog.text,
	headers			pg_catalog.text,
	body			pg_catalog.bytea)
	RETURNS pg_catalog.text
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.docsync_call(pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.bytea) IS
'A whole HTTP request in one statement: calls one of the functions for HTTP as a role, with the claims of its token, its method and headers.
Only for the login role of an HTTP layer: it does nothing that this role could not do by SET ROLE and set_config(), once in a transaction.
Returns the answer, and in two more lines the headers and the status that were set for it.';

------------------------------------------------------------------------------
-- for operators
------------------------------------------------------------------------------

CREATE FUNCTION @extschema@.docsync_marks(
	exact			pg_catalog.bool DEFAULT false)
	RETURNS TABLE (
		transaction		pg_catalog.xid,
		pid				pg_catalog.int4,
		of_all			pg_catalog.bool,
		collection		pg_catalog.text)
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL RESTRICTED ROWS 10;
COMMENT ON FUNCTION @extschema@.docsync_marks(pg_catalog.bool) IS
'The transactions that have written and have not ended, with their collections: for docsync_holders().';

CREATE FUNCTION @extschema@.docsync_holders(
	exact			pg_catalog.bool DEFAULT false)
	RETURNS TABLE (
		holds_back		pg_catalog.text,
		collection		pg_catalog.text,
		pid				pg_catalog.int4,
		gid				pg_catalog.text,
		username		pg_catalog.name,
		application		pg_catalog.text,
		client_addr		pg_catalog.inet,
		database		pg_catalog.name,
		state			pg_catalog.text,
		since			pg_catalog.timestamptz,
		query			pg_catalog.text)
	LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL RESTRICTED ROWS 10
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY EXECUTE format($query$
		SELECT CASE WHEN m.of_all THEN 'all collections' ELSE 'a collection' END, m.collection,
			   m.pid, p.gid, coalesce(a.usename, p.owner), a.application_name, a.client_addr, current_database(),
			   coalesce(a.state, CASE WHEN m.pid IS NULL THEN 'prepared' END), coalesce(a.xact_start, p.prepared), a.query
		  FROM %1$s.docsync_marks($1) AS m
		  LEFT JOIN pg_stat_activity AS a ON a.pid = m.pid
		  LEFT JOIN pg_prepared_xacts AS p ON m.pid IS NULL AND p.transaction = m.transaction
		UNION ALL
		-- Readers on a standby wait for all older transactions, of all databases, or where changes are
		-- announced, for those that have written to some collection. The oldest holds them back the most.
		(SELECT 'standbys', NULL, o.pid, o.gid, o.usename, o.application_name, o.client_addr, o.datname, o.state, o.since, o.query
		   FROM (SELECT a.pid, NULL, a.usename, a.application_name, a.client_addr, a.datname, a.state, a.xact_start, a.query, a.backend_xid
				   FROM pg_stat_activity AS a WHERE a.backend_xid IS NOT NULL AND a.pid <> pg_backend_pid()
				  UNION ALL
				 SELECT NULL, p.gid, p.owner, NULL, NULL, p.database, 'prepared', p.prepared, NULL, p.transaction
				   FROM pg_prepared_xacts AS p)
				AS o (pid, gid, usename, application_name, client_addr, datname, state, since, query, xid)
		  WHERE NOT EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.backend_type = 'docsync announcer' AND a.datname = current_database())
			 OR o.xid IN (SELECT m.transaction FROM %1$s.docsync_marks() AS m)
		  ORDER BY age(o.xid) DESC LIMIT 1)
		$query$, (SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'docsync')) USING exact;
END
$$;
COMMENT ON FUNCTION @extschema@.docsync_holders(pg_catalog.bool) IS
'Who holds back readers: the transactions that have written to a collection and have not ended, and for standbys the oldest transaction of the whole server.
Where there are more than 200 collections, a collection may be NULL: exact reads all names.
For the store''s owner and members of pg_monitor. Of sessions it shows what pg_stat_activity shows the caller.';

CREATE FUNCTION @extschema@.docsync_collections(
	exact			pg_catalog.bool DEFAULT false)
	RETURNS TABLE (
		collection		pg_catalog.text,
		last_update_utc pg_catalog.timestamptz,
		client_id		pg_catalog.text,
		frontier		pg_catalog.timestamptz,
		documents		pg_catalog.int8,
		tombstones		pg_catalog.int8,
		purged_through	pg_catalog.timestamptz)
	AS 'MODULE_PATHNAME'
	LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED ROWS 1000;
COMMENT ON FUNCTION @extschema@.docsync_collections(pg_catalog.bool) IS
'A row for each collection: its last stamp and who wrote it, the frontier, numbers of documents and tombstones, and the horizon.
Readers are given documents up to the frontier; tombstones up to the horizon, purged_through, were purged. The numbers are estimates, from the last ANALYZE; exact counts.
For the store''s owner and members of pg_monitor.';

CREATE FUNCTION @extschema@.docsync_facts(exact pg_catalog.bool DEFAULT false)
	RETURNS TABLE (
		library			pg_catalog.text,
		clock			pg_catalog.timestamptz,
		epoch			pg_catalog.text,
		place			pg_catalog.text,
		epoch_clock		pg_catalog.timestamptz,
		lost_after		pg_catalog.timestamptz,
		is_subscribed	pg_catalog.bool,
		has_statistics	pg_catalog.bool,
		unpurged		pg_catalog.text,
		unpurged_stamp	pg_catalog.timestamptz,
		ahead_collection pg_catalog.text,
		ahead_id		pg_catalog.text,
		ahead_version	pg_catalog.int8,
		ahead_count		pg_catalog.int8)
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION @extschema@.docsync_facts(pg_catalog.bool) IS
'What docsync_status() needs to know of what is in the store.';

CREATE FUNCTION @extschema@.docsync_status(exact pg_catalog.bool DEFAULT false)
	RETURNS TABLE (
		version			pg_catalog.text,
		epoch			pg_catalog.text,
		clock			pg_catalog.timestamptz,
		clock_ahead		pg_catalog.interval,
		documents		pg_catalog.int8,
		tombstones		pg_catalog.int8,
		bytes			pg_catalog.int8,
		dead_rows		pg_catalog.int8,
		frozen_age		pg_catalog.int4,
		attention		pg_catalog.text[])
	LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL RESTRICTED ROWS 1
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	functions text := (SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'docsync');
	-- Not by to_regclass(), since members of pg_monitor need no right on the schema.
	document regclass := (SELECT oid FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'docsync') AND relname = 'document');
	now timestamptz := clock_timestamp();
	fact record;
	seen record;
	detail text;
	hint text;
	whose text;
BEGIN
	attention := '{}';
	version := (SELECT extversion FROM pg_extension WHERE extname = 'docsync');

	-- If the store is not in order, all functions fail with an error. This one says it in
	-- a sentence, to callers who may monitor the store.
	BEGIN
		EXECUTE format('SELECT %s.docsync_check_store()', functions);
	EXCEPTION WHEN OTHERS THEN
		IF NOT pg_has_role('pg_monitor', 'USAGE') AND
		   NOT EXISTS (SELECT FROM pg_class WHERE oid = document AND pg_has_role(relowner, 'USAGE')) AND
		   NOT EXISTS (SELECT FROM pg_database WHERE datname = current_database() AND pg_has_role(datdba, 'USAGE')) THEN
			RAISE;
		END IF;
		GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
		attention := attention || rtrim(format('The store is not in order, and all requests fail: %s. %s %s', SQLERRM, detail, hint));
		RETURN NEXT;
		RETURN;
	END;
	EXECUTE format('SELECT * FROM %s.docsync_facts($1)', functions) INTO fact USING exact;
	epoch := fact.epoch;
	clock := fact.clock;
	clock_ahead := fact.clock - now;

	-- Where it is
	IF fact.place = 'handed over' THEN
		attention := attention || format('The store was handed over, and uploads are refused. Send clients to the new place. To stay here after all, SELECT %s.docsync_new_epoch().', functions);
	ELSIF fact.place = 'arrived' THEN
		attention := attention || format('The store was handed over to this place, and not taken over yet: SELECT %s.docsync_take_over().', functions);
	ELSIF fact.place = 'elsewhere' THEN
		attention := attention || 'The store has come from another server, database or timeline. With the first upload an epoch begins, and clients compare. If the move was intended, nothing has to be done.'::text;
	END IF;
	IF fact.is_subscribed THEN
		attention := attention || format('A subscription fills docsync.document, and downloads are refused. When it has caught up, DROP SUBSCRIPTION, then SELECT %s.docsync_take_over().', functions);
	END IF;
	IF fact.lost_after < 'infinity' AND fact.epoch_clock > now - interval '7 days' THEN
		attention := attention || format('An epoch began about %s, after a restore, a copy, a failover, or a call of docsync_new_epoch(). '
			'Documents stamped after %s may have been lost. Clients that compare send them again: keep the old server or the backup until they have.',
			date_trunc('second', fact.epoch_clock - interval '1 minute'), date_trunc('second', fact.lost_after));
	END IF;
	IF version <> fact.library THEN
		attention := attention || format('The library has version %s, the extension %s: ALTER EXTENSION docsync UPDATE, then let PostgREST and poolers connect anew.', fact.library, version);
	END IF;

	-- An epoch begins with the clock a minute ahead.
	IF clock_ahead > interval '5 seconds' AND fact.clock > coalesce(fact.epoch_clock, '-infinity') + interval '5 seconds' THEN
		attention := attention || format('The clock is ahead of the time by %s, and so is LastUpdateUtc. Nothing is lost. '
			'Check the machine''s time, and whether rows were restored that have stamps of the future.', justify_interval(date_trunc('second', clock_ahead)));
	END IF;

	-- Who may use it
	SELECT string_agg(DISTINCT CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END, ', ') AS roles, c.relrowsecurity AS is_on,
		   EXISTS (SELECT FROM pg_policy WHERE polrelid = document) AS has_policy INTO seen
	  FROM pg_class AS c
	  LEFT JOIN LATERAL (SELECT * FROM aclexplode(c.relacl)
						  UNION ALL SELECT acl.* FROM pg_attribute, aclexplode(attacl) AS acl WHERE attrelid = c.oid AND attacl IS NOT NULL) AS g
		ON g.grantee <> c.relowner AND g.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
	   AND NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = g.grantee AND (rolsuper OR rolbypassrls))
	 WHERE c.oid = document GROUP BY c.relrowsecurity;
	IF seen.roles IS NOT NULL AND NOT seen.is_on THEN
		attention := attention || format('Row-level security is off, so all collections are open to %s. '
			'CREATE POLICY ... ON docsync.document, then ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY.', seen.roles);
	ELSIF seen.roles IS NOT NULL AND NOT seen.has_policy THEN
		attention := attention || format('Row-level security is on, but there is no policy: %s can neither read nor write. CREATE POLICY ... ON docsync.document.', seen.roles);
	END IF;

	-- Who holds back readers. To find the names of collections takes time, so they are looked for only if some
	-- transaction is old enough.
	IF EXISTS (SELECT FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND xact_start < now - interval '10 seconds') OR
	   EXISTS (SELECT FROM pg_prepared_xacts WHERE prepared < now - interval '10 seconds') THEN
		FOR seen IN EXECUTE format($query$
			SELECT holds_back, pid, gid, username, state, since, count(*) AS count, count(collection) AS named,
				   string_agg('"' || collection || '"', ', ' ORDER BY collection) FILTER (WHERE n <= 3) AS names
			  FROM (SELECT *, row_number() OVER (PARTITION BY holds_back, pid, gid ORDER BY collection) AS n FROM %s.docsync_holders($2)) AS h
			 WHERE since < $1 - interval '10 seconds'
			 GROUP BY holds_back, pid, gid, username, state, since ORDER BY since, holds_back$query$, functions) USING now, exact
		LOOP
			CONTINUE WHEN seen.holds_back = 'standbys' AND NOT EXISTS (SELECT FROM pg_stat_replication);
			whose := CASE WHEN seen.holds_back = 'standbys' THEN 'on standbys'
				WHEN seen.holds_back = 'all collections' THEN 'of all collections'
				WHEN seen.named = 0 THEN format('of %s that docsync_holders(true) names', CASE seen.count WHEN 1 THEN 'a collection' ELSE seen.count || ' collections' END)
				ELSE concat_ws(' and ', 'of ' || seen.names, nullif(seen.count - least(seen.named, 3), 0) || ' more') END;
			attention := attention || CASE WHEN seen.gid IS NOT NULL
				THEN format('Readers %s are held back by the prepared transaction %L since %s: COMMIT PREPARED or ROLLBACK PREPARED it, as %s or a superuser.',
							whose, seen.gid, date_trunc('second', seen.since), seen.username)
				ELSE format('Readers %s are held back by process %s (%s, %s) since %s. If it should have ended, SELECT pg_terminate_backend(%s).',
							whose, seen.pid, seen.username, seen.state, date_trunc('second', seen.since), seen.pid) END;
		END LOOP;
	END IF;

	-- What is in it
	IF fact.unpurged IS NOT NULL THEN
		attention := attention || format('Tombstones are not purged: collection "%s" has some from %s. Schedule CALL %s.docsync_purge(''90 days'') nightly.',
			fact.unpurged, fact.unpurged_stamp::date, functions);
	END IF;
	IF fact.ahead_id IS NOT NULL THEN
		attention := attention || format('Document "%s" of collection "%s" has the clientVersion %s, far ahead of the time in milliseconds, and no edit wins against it until then (documents like this: %s). '
			'Set its client_version to the time of now by an UPDATE; clients that hold it must start again. To refuse such versions, set docsync.max_version_lead, to a day for example.',
			fact.ahead_id, fact.ahead_collection, fact.ahead_version, fact.ahead_count);
	ELSIF fact.ahead_version IS NOT NULL THEN
		attention := attention || format('There are documents with a clientVersion far ahead of the time in milliseconds, up to %s, and no edit wins against them until then. '
			'SELECT * FROM %s.docsync_status(true) reads all documents and names one.', fact.ahead_version, functions);
	END IF;

	-- The table, as any table
	SELECT s.n_dead_tup, s.n_live_tup, c.reltuples, t.tombstones, max(age(r.relfrozenxid)) AS xids, max(mxid_age(r.relminmxid)) AS multixacts INTO seen
	  FROM pg_class AS c
	  LEFT JOIN pg_stat_user_tables AS s ON s.relid = c.oid
	  LEFT JOIN LATERAL (SELECT max(i.reltuples) FROM pg_index JOIN pg_class AS i ON i.oid = indexrelid
						  WHERE indrelid = c.oid AND pg_get_expr(indpred, indrelid) = 'deleted') AS t (tombstones) ON true
	  JOIN pg_class AS r ON r.relnamespace = c.relnamespace AND r.relkind = 'r' OR r.oid = c.reltoastrelid
	 WHERE c.oid = document GROUP BY 1, 2, 3, 4;
	tombstones := CASE WHEN fact.has_statistics THEN nullif(seen.tombstones, -1) END;
	documents := CASE WHEN seen.reltuples >= 0 THEN greatest(seen.reltuples - coalesce(tombstones, 0), 0) END;
	bytes := pg_total_relation_size(document);
	dead_rows := seen.n_dead_tup;
	frozen_age := seen.xids;
	IF seen.n_dead_tup > seen.n_live_tup AND seen.n_dead_tup > 10000 THEN
		attention := attention || format('docsync.document has %s dead rows, more than live ones: VACUUM docsync.document, and let autovacuum run more often: '
			'ALTER TABLE docsync.document SET (autovacuum_vacuum_scale_factor = 0.02).', seen.n_dead_tup);
	END IF;
	IF seen.xids > 1.5 * current_setting('autovacuum_freeze_max_age')::int8 OR
	   seen.multixacts > 1.5 * current_setting('autovacuum_multixact_freeze_max_age')::int8 THEN
		attention := attention || format('The store has rows that are %s transactions old and not frozen; at two billion the server refuses to write. '
			'Something keeps autovacuum from freezing them: end old transactions and prepared ones, drop replication slots that nobody uses, then VACUUM (FREEZE) docsync.document.',
			greatest(seen.xids, seen.multixacts));
	END IF;
	IF NOT fact.has_statistics AND bytes > 10000000 OR seen.tombstones < 0 AND fact.has_statistics THEN
		attention := attention || 'docsync.document, or its index on tombstones, has no statistics, so plans may be bad: ANALYZE docsync.document.'::text;
	END IF;

	-- Its indexes
	FOR seen IN SELECT indexrelid::regclass AS index FROM pg_index JOIN pg_class ON oid = indrelid
				 WHERE relnamespace = 'docsync'::regnamespace AND NOT indisvalid
	LOOP
		attention := attention || format('Index %s is not valid, so it takes time and is not used: REINDEX INDEX CONCURRENTLY %1$s, or DROP INDEX %1$s.', seen.index);
	END LOOP;
	FOR seen IN SELECT of, predicate FROM (VALUES ('downloads', NULL), ('purges', 'deleted')) AS needed (of, predicate)
				 WHERE NOT EXISTS (SELECT FROM pg_index
									WHERE indrelid = document AND indisvalid AND pg_get_expr(indpred, indrelid) IS NOT DISTINCT FROM predicate
									  AND pg_get_indexdef(indexrelid, 1, true) = 'collection' AND pg_get_indexdef(indexrelid, 2, true) = 'last_update_utc')
	LOOP
		attention := attention || format('The index that %s need, on (collection, last_update_utc)%s, is missing: SELECT %s.docsync_create_store() makes it; uploads wait meanwhile.',
			seen.of, ' WHERE ' || seen.predicate, functions);
	END LOOP;

	RETURN NEXT;
END
$$;
COMMENT ON FUNCTION @extschema@.docsync_status(pg_catalog.bool) IS
'The state of the store: figures, and in attention a sentence for each thing that needs attention, with the remedy. If attention is empty, nothing does.
It takes milliseconds: numbers are estimates. exact reads all documents for a clientVersion far ahead of the time, and all names of collections for docsync_holders().
For the store''s owner and members of pg_monitor.';

CREATE FUNCTION @extschema@.docsync_digest(
	collection		pg_catalog.text DEFAULT 'default')
	RETURNS TABLE (
		documents		pg_catalog.int8,
		digest			pg_catalog.text,
		settled			pg_catalog.bool)
	AS 'MODULE_PATHNAME'
	LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION @extschema@.docsync_digest(pg_catalog.text) IS
'The count and the digest of the documents of a collection that the caller sees, as a client computes them from what it holds.
settled is false while some of them are held back from readers. It reads the whole collection.';

CREATE FUNCTION @extschema@.docsync_health() RETURNS pg_catalog.json
	AS 'MODULE_PATHNAME'
	LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED;
COMMENT ON FUNCTION @extschema@.docsync_health() IS
'Whether the store can be read: the time, or the error that any request gets.
It needs no right on the store, and says nothing about what is in it.';

CREATE OR REPLACE FUNCTION @extschema@.docsync_grant(role pg_catalog.regrole)
	RETURNS pg_catalog.void
	LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	functions text := (SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'docsync');
BEGIN
	IF role IS NULL THEN
		RAISE null_value_not_allowed USING MESSAGE = 'role is null';
	END IF;
	IF NOT EXISTS (SELECT FROM pg_roles WHERE oid = role) THEN
		RAISE undefined_object USING MESSAGE = 'role does not exist';
	END IF;

	IF to_regnamespace('docsync') IS NULL THEN
		EXECUTE format('SELECT %s.docsync_create_store()', functions);
		RAISE NOTICE 'docsync has created its store, schema docsync';
	END IF;
	EXECUTE format('SELECT %s.docsync_check_store()', functions);

	-- Not the stamp and the fence: only docsync sets those.
	EXECUTE format('GRANT USAGE ON SCHEMA docsync TO %s', role);
	EXECUTE format('GRANT SELECT,
		INSERT (collection, id, client_version, client_id, deleted, body),
		UPDATE (client_version, client_id, deleted, body)
		ON docsync.document TO %s', role);

	-- GRANT only warns a caller who has the privilege without grant option.
	IF NOT has_schema_privilege(role, 'docsync', 'USAGE') OR NOT has_table_privilege(role, 'docsync.document', 'SELECT') OR
	   NOT has_column_privilege(role, 'docsync.document', 'body', 'INSERT') OR NOT has_column_privilege(role, 'docsync.document', 'body', 'UPDATE') THEN
		RAISE insufficient_privilege USING
			MESSAGE = 'permission denied to grant the use of docsync',
			HINT = 'The owner of schema docsync can grant it.';
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.docsync_grant(pg_catalog.regrole) IS
'Grants a role the privileges on the store that it needs to upload and download, and none that lets it set a stamp. Row-level security on docsync.document can restrict it further.';

------------------------------------------------------------------------------
-- announcements
------------------------------------------------------------------------------

CREATE FUNCTION @extschema@.docsync_listen_key(collection pg_catalog.text DEFAULT 'default')
	RETURNS pg_catalog.text
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.docsync_listen_key(pg_catalog.text) IS
'What a collection is called in the announcements on channel docsync; NULL for a caller who sees no document of it.
It stays the same until the server is restarted.';

CREATE FUNCTION @extschema@.docsync_announce_stop()
	RETURNS pg_catalog.void
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.docsync_announce_stop() IS
'Ends the announcer of this database, until docsync_announce_start() or a restart of the server. For the owner of the database.';

CREATE FUNCTION @extschema@.docsync_announce_start()
	RETURNS pg_catalog.void
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.docsync_announce_start() IS
'Lets uploads start the announcer again. For the owner of the database.';

------------------------------------------------------------------------------
-- privileges: everybody may use the functions and types, as with new ones
------------------------------------------------------------------------------

-- Privileges granted to single roles are revoked: otherwise pg_dump would take
-- them for the extension's own, even when the roles are gone.
DO $$
DECLARE
	command text;
BEGIN
	FOR command IN
		SELECT CASE WHEN grantee IN (0, owner) THEN format('GRANT ALL ON %s TO PUBLIC', object)
					ELSE format('REVOKE ALL ON %s FROM %s CASCADE', object, grantee::regrole) END
		  FROM (SELECT DISTINCT format('ROUTINE %s', p.oid::regprocedure) AS object, proowner AS owner, grantee
				  FROM pg_proc AS p CROSS JOIN aclexplode(proacl)
				  JOIN pg_depend ON classid = 'pg_proc'::regclass AND objid = p.oid
				   AND deptype = 'e' AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'docsync')
				UNION
				SELECT DISTINCT format('TYPE %s', t.oid::regtype), typowner, grantee
				  FROM pg_type AS t CROSS JOIN aclexplode(typacl)
				  JOIN pg_depend ON classid = 'pg_type'::regclass AND objid = t.oid
				   AND deptype = 'e' AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'docsync')) AS given
		 ORDER BY 1 DESC
	LOOP
		EXECUTE command;
	END LOOP;
END
$$;

-- Except docsync_call(): it would let somebody who has a token, but no SQL, use
-- other claims than the token's.
REVOKE ALL ON FUNCTION @extschema@.docsync_call(pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.bytea) FROM PUBLIC;

------------------------------------------------------------------------------
-- the store: what is new in it
------------------------------------------------------------------------------

DO $$
DECLARE
	id int8 := (SELECT last_value FROM docsync.epoch);
	microseconds int8 := (SELECT last_value FROM docsync.clock);
	-- In two steps, for which floating point has enough digits
	clock timestamptz := 'epoch'::timestamptz + interval '24 hours' * (microseconds / 86400000000)
		+ interval '1 microsecond' * (microseconds % 86400000000);
BEGIN
	PERFORM @extschema@.docsync_create_store();
	ALTER EXTENSION docsync DROP TABLE docsync.history;

	-- The epoch continues, since clients have its id in their cursors. Nothing
	-- has been lost, and all stamps up to the clock, not only those of the
	-- remaining documents, belong to this history. (Unless an epoch has begun
	-- already.)
	INSERT INTO docsync.history
	SELECT 1, id, system_identifier, d.oid, 'docsync.document'::regclass,
		   ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int8,
		   clock_timestamp(), clock, 'infinity', clock, pg_snapshot_xmax(pg_current_snapshot()), false
	  FROM pg_control_system(), pg_database AS d
	 WHERE d.datname = current_database() AND NOT EXISTS (SELECT FROM docsync.history);

	-- Makes the next stamp be logged, whatever 0.1 has logged ahead (clock.c,
	-- invariant 4).
	PERFORM setval('docsync.clock', last_value) FROM docsync.clock;
END
$$;

-- DROP alone would leave them among the tables to be dumped.
ALTER EXTENSION docsync DROP SEQUENCE docsync.epoch;
ALTER EXTENSION docsync DROP SEQUENCE docsync.horizon;
DROP SEQUENCE docsync.epoch, docsync.horizon;

-- Tells PostgREST, if there is one, about the functions.
NOTIFY pgrst, 'reload schema';
