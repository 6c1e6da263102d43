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
