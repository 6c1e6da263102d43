/* docsync 0.2.0: types, the store, functions for SQL and for HTTP, privileges */

\echo Use "CREATE EXTENSION docsync" to load this file. \quit

-- Tables that hold data are not members of the extension:
-- docsync_create_store() creates them, in the schema docsync. So pg_dump,
-- pg_upgrade and logical replication treat them like any other table, with the
-- policies, triggers, indexes and columns that their owner has added, and DROP
-- EXTENSION deletes no document.

------------------------------------------------------------------------------
-- types
------------------------------------------------------------------------------

CREATE TYPE @extschema@.docsync_change AS (
	id				pg_catalog.text,
	client_version	pg_catalog.int8,
	client_id		pg_catalog.text,
	last_update_utc pg_catalog.timestamptz,
	deleted			pg_catalog.bool,
	body			pg_catalog.jsonb
);
COMMENT ON TYPE @extschema@.docsync_change IS 'A document as it is downloaded.';

CREATE DOMAIN @extschema@."*/*" AS pg_catalog.json;
COMMENT ON DOMAIN @extschema@."*/*" IS
'An answer over HTTP. The name tells PostgREST to pass the value on as it is, which takes a third of the time and memory.';

------------------------------------------------------------------------------
-- the store
------------------------------------------------------------------------------

CREATE FUNCTION @extschema@.docsync_guard() RETURNS trigger
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.docsync_guard() IS
'Trigger of docsync.document: stamps each row written, turns DELETE into a tombstone, refuses TRUNCATE.';

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

CREATE FUNCTION @extschema@.docsync_keep_changed() RETURNS trigger
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.docsync_keep_changed() IS
'Trigger of docsync.keep: what is kept from now on is known to all sessions.';

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

CREATE FUNCTION @extschema@.docsync_new_epoch() RETURNS pg_catalog.void
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
	had_history bool;
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

	had_history := adopted AND to_regclass('docsync.history') IS NOT NULL;
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

	IF to_regclass('docsync.keep') IS NULL THEN
		CREATE TABLE docsync.keep (
			pattern			text COLLATE "C" PRIMARY KEY CHECK (pattern !~ '(^|[^\\])(\\\\)*\\$'),
			keep			text COLLATE "C" NOT NULL CHECK (keep IN ('none', 'discarded', 'replaced')),
			most			int4 NOT NULL DEFAULT 10 CHECK (most BETWEEN 1 AND 1000)
		);
		COMMENT ON TABLE docsync.keep IS
		'Of which collections docsync.record keeps what lost. Where several patterns match, the longest counts; where none does, nothing is kept.';
		COMMENT ON COLUMN docsync.keep.pattern IS 'Collections, as LIKE has them.';
		COMMENT ON COLUMN docsync.keep.keep IS
		'none; discarded: uploads that were discarded, or in conflict; replaced: these, and the versions that newer ones replaced.';
		COMMENT ON COLUMN docsync.keep.most IS 'How many versions of a document are kept, the newest ones. Older ones go by and by: a document may have twice as many.';
	END IF;

	IF to_regclass('docsync.record') IS NULL THEN
		CREATE TABLE docsync.record (
			collection		text COLLATE "C" NOT NULL,
			id				text COLLATE "C" NOT NULL,
			recorded_utc	timestamptz NOT NULL,
			client_version	int8 NOT NULL,
			client_id		text COLLATE "C" NOT NULL,
			deleted			bool NOT NULL,
			body			jsonb,
			why				text COLLATE "C" NOT NULL,
			PRIMARY KEY (collection, id, recorded_utc)
		);
		-- Nobody's but the owner's, until there is a policy for it, too.
		ALTER TABLE docsync.record ENABLE ROW LEVEL SECURITY;
		COMMENT ON TABLE docsync.record IS
		'Versions of documents that lost, where docsync.keep wants them kept: docsync_restore brings one back. Written by docsync alone; docsync_purge removes old ones.';
		COMMENT ON COLUMN docsync.record.collection IS 'The collection.';
		COMMENT ON COLUMN docsync.record.id IS 'The document.';
		COMMENT ON COLUMN docsync.record.recorded_utc IS
		'When it lost: where it was replaced, the stamp of the version that has replaced it.';
		COMMENT ON COLUMN docsync.record.client_version IS 'The version that lost.';
		COMMENT ON COLUMN docsync.record.client_id IS 'Who had sent it.';
		COMMENT ON COLUMN docsync.record.deleted IS 'True for a tombstone.';
		COMMENT ON COLUMN docsync.record.body IS 'The content.';
		COMMENT ON COLUMN docsync.record.why IS
		'discarded: the stored version was higher, or the same; conflict: it was another than the one that this was based on; replaced: this was stored, and a newer version came.';
	END IF;

	IF to_regclass('docsync.moved') IS NULL THEN
		-- Nor what has gone, or from where it came
		doubtful := doubtful OR had_history;
		CREATE TABLE docsync.moved (
			collection		text COLLATE "C" PRIMARY KEY,
			state			text COLLATE "C" NOT NULL CHECK (state IN ('leaving', 'gone', 'arriving', 'here')),
			changed			timestamptz NOT NULL DEFAULT clock_timestamp(),
			epochs			int8[] NOT NULL DEFAULT '{}',
			survived		timestamptz[] NOT NULL DEFAULT '{}',
			lost_after		timestamptz[] NOT NULL DEFAULT '{}',
			clocks			timestamptz[] NOT NULL DEFAULT '{}',
			number			int8 NOT NULL DEFAULT 0,
			replaced		int8 NOT NULL DEFAULT 0,
			next_xid		xid8 NOT NULL DEFAULT '0',
			move			text COLLATE "C",
			ticket			jsonb
		);
		COMMENT ON TABLE docsync.moved IS
		'Collections that are elsewhere, or have come from elsewhere. Written by docsync_move_out and the like alone.';
		COMMENT ON COLUMN docsync.moved.collection IS 'The collection, with all whose names begin with it and a "/".';
		COMMENT ON COLUMN docsync.moved.state IS
		'leaving, gone, arriving: closed, neither read nor written; here: open, and come from elsewhere.';
		COMMENT ON COLUMN docsync.moved.changed IS 'Since when.';
		COMMENT ON COLUMN docsync.moved.epochs IS
		'What had happened to it elsewhere, as docsync.history has it; the last is its coming here.';
		COMMENT ON COLUMN docsync.moved.survived IS 'Of each of these, as in docsync.history.';
		COMMENT ON COLUMN docsync.moved.lost_after IS 'Of each of these, as in docsync.history.';
		COMMENT ON COLUMN docsync.moved.clocks IS 'Of each of these, as in docsync.history.';
		COMMENT ON COLUMN docsync.moved.number IS 'The newest row of docsync.history when it came: what is later has happened to it, too.';
		COMMENT ON COLUMN docsync.moved.replaced IS 'The epoch of that row, in the place of which the last of epochs stands.';
		COMMENT ON COLUMN docsync.moved.next_xid IS 'The next transaction id when it came: the fence of all that came.';
		COMMENT ON COLUMN docsync.moved.move IS 'The id of the move that it came, or was let go, by.';
		COMMENT ON COLUMN docsync.moved.ticket IS 'With what it can be opened elsewhere, if it has been let go.';
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

	-- Also for what a subscription brings
	IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'docsync.keep'::regclass AND tgname = 'docsync_keep_changed'
					  AND tgfoid = to_regprocedure(functions || '.docsync_keep_changed()')) OR
	   NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'docsync.keep'::regclass AND tgname = 'docsync_keep_changed_truncate'
					  AND tgfoid = to_regprocedure(functions || '.docsync_keep_changed()')) THEN
		DROP TRIGGER IF EXISTS docsync_keep_changed ON docsync.keep;
		DROP TRIGGER IF EXISTS docsync_keep_changed_truncate ON docsync.keep;
		EXECUTE format('CREATE TRIGGER docsync_keep_changed
			AFTER INSERT OR UPDATE OR DELETE ON docsync.keep
			FOR EACH ROW EXECUTE FUNCTION %s.docsync_keep_changed()', functions);
		EXECUTE format('CREATE TRIGGER docsync_keep_changed_truncate
			AFTER TRUNCATE ON docsync.keep
			FOR EACH STATEMENT EXECUTE FUNCTION %s.docsync_keep_changed()', functions);
		ALTER TABLE docsync.keep ENABLE ALWAYS TRIGGER docsync_keep_changed;
	END IF;

	-- What a superuser has repaired belongs to the owner, like the rest.
	FOR command IN
		SELECT format('ALTER TABLE %s OWNER TO %s', part.oid::regclass, document.relowner::regrole)
		  FROM pg_class AS part, pg_class AS document
		 WHERE document.oid = 'docsync.document'::regclass AND part.relowner <> document.relowner
		   AND part.oid IN ('docsync.clock'::regclass, 'docsync.purged'::regclass, 'docsync.history'::regclass, 'docsync.moved'::regclass, 'docsync.keep'::regclass, 'docsync.record'::regclass)
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
-- functions for SQL, in the schema the extension is created in
------------------------------------------------------------------------------

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

CREATE FUNCTION @extschema@.docsync_query_since(
	client_id		pg_catalog.text,
	since_utc		pg_catalog.timestamptz DEFAULT '-infinity',
	origin			pg_catalog.text DEFAULT 'other',
	collection		pg_catalog.text DEFAULT 'default',
	max_documents	pg_catalog.int4 DEFAULT NULL)
	RETURNS SETOF @extschema@.docsync_change
	AS 'MODULE_PATHNAME'
	LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION @extschema@.docsync_query_since(pg_catalog.text, pg_catalog.timestamptz, pg_catalog.text, pg_catalog.text, pg_catalog.int4) IS
'Download: the settled documents with last_update_utc >= since_utc, in the order of their stamps.
origin is other (than client_id), own or any. With max_documents = n: the document at since_utc, if it is still there, and up to n later ones. Continue from max(last_update_utc).';

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

------------------------------------------------------------------------------
-- repair
------------------------------------------------------------------------------

CREATE FUNCTION @extschema@.docsync_restore(
	collection		pg_catalog.text,
	id				pg_catalog.text,
	version			pg_catalog.int8)
	RETURNS pg_catalog.int8
	LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	lost record;
	now int8 := (date_part('epoch', now()) * 1000)::int8;
	restored int8;
BEGIN
	IF collection IS NULL OR id IS NULL OR version IS NULL THEN
		RAISE null_value_not_allowed USING
			MESSAGE = format('%s is null', CASE WHEN collection IS NULL THEN 'collection' WHEN id IS NULL THEN 'id' ELSE 'version' END);
	END IF;

	SELECT r.client_version, r.deleted, r.body INTO lost FROM docsync.record AS r
	 WHERE (r.collection, r.id, r.client_version) = (docsync_restore.collection, docsync_restore.id, version)
	 ORDER BY r.recorded_utc DESC LIMIT 1;
	IF NOT FOUND THEN
		RAISE no_data_found USING
			MESSAGE = format('docsync.record has no version %s of document "%s"', version, id),
			DETAIL = format('The collection is "%s". A version that you may not see is not there either.', collection);
	END IF;

	-- The guard makes it the server's edit, with a version above the present one.
	UPDATE docsync.document AS d SET deleted = lost.deleted, body = lost.body
	 WHERE (d.collection, d.id) = (docsync_restore.collection, docsync_restore.id)
	RETURNING d.client_version INTO restored;
	IF NOT FOUND THEN
		INSERT INTO docsync.document AS d (collection, id, client_version, deleted, body)
		VALUES (docsync_restore.collection, docsync_restore.id,
				CASE WHEN lost.client_version < 9223372036854775807 THEN greatest(now, lost.client_version + 1) ELSE now END,
				lost.deleted, lost.body)
		RETURNING d.client_version INTO restored;
	END IF;
	RETURN restored;
END
$$;
COMMENT ON FUNCTION @extschema@.docsync_restore(pg_catalog.text, pg_catalog.text, pg_catalog.int8) IS
'Brings back a version of a document from docsync.record, as the server''s edit, so that all clients receive it. Returns the version that it has now.
As the caller, who must be allowed to read the one and to update the other.';

CREATE FUNCTION @extschema@.docsync_restamp(
	collection		pg_catalog.text,
	ids				pg_catalog.text[])
	RETURNS pg_catalog.int8
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.docsync_restamp(pg_catalog.text, pg_catalog.text[]) IS
'Gives documents new stamps, with the versions that they have: they are delivered again, also to who may see them only now. Returns how many there were.
As the caller, who must be allowed to update them.';

CREATE PROCEDURE @extschema@.docsync_erase(
	pattern			pg_catalog.text,
	forget			pg_catalog.bool DEFAULT false,
	INOUT erased	pg_catalog.int8 DEFAULT NULL)
	AS 'MODULE_PATHNAME'
	LANGUAGE C;
COMMENT ON PROCEDURE @extschema@.docsync_erase(pg_catalog.text, pg_catalog.bool, pg_catalog.int8) IS
'Erases the collections whose names match a pattern, as LIKE has them: documents, tombstones, what docsync.record has of them. Says how many documents and tombstones there were.
Clients that come later drop what they hold; for that the time up to which it was erased is kept, with the collection''s name, unless forget is true.
Commits after each step where it is called outside a transaction: it can be ended at any time, and goes on when it is called again.';

CREATE FUNCTION @extschema@.docsync_rebase(
	collection		pg_catalog.text,
	id				pg_catalog.text,
	version			pg_catalog.int8 DEFAULT NULL)
	RETURNS pg_catalog.int8
	LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rebased int8;
BEGIN
	IF collection IS NULL OR id IS NULL THEN
		RAISE null_value_not_allowed USING MESSAGE = format('%s is null', CASE WHEN collection IS NULL THEN 'collection' ELSE 'id' END);
	END IF;

	UPDATE docsync.document AS d
	   SET client_version = coalesce(version, (date_part('epoch', now()) * 1000)::int8), client_id = 'server'
	 WHERE (d.collection, d.id) = (docsync_rebase.collection, docsync_rebase.id)
	RETURNING d.client_version INTO rebased;
	IF NOT FOUND THEN
		RAISE no_data_found USING
			MESSAGE = format('there is no document "%s"', id),
			DETAIL = format('The collection is "%s". A document that you may not see is not there either.', collection);
	END IF;
	RETURN rebased;
END
$$;
COMMENT ON FUNCTION @extschema@.docsync_rebase(pg_catalog.text, pg_catalog.text, pg_catalog.int8) IS
'Gives a document another version, that of the present time in milliseconds without one, as the server''s edit: for one whose version is so high that nobody can edit it. Returns that version.
Set docsync.max_version_lead, so that clients which hold the high one give it up.
As the caller, who must be allowed to update it.';

------------------------------------------------------------------------------
-- moving collections between servers
------------------------------------------------------------------------------

CREATE FUNCTION @extschema@.docsync_move_begin(
	collection		pg_catalog.text,
	after			pg_catalog.timestamptz,
	OUT epoch		pg_catalog.int8,
	OUT clock		pg_catalog.timestamptz,
	OUT next_xid	pg_catalog.xid8)
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.docsync_move_begin(pg_catalog.text, pg_catalog.timestamptz) IS
'For the functions below: refuses who may not, and gives an id for an epoch, the clock, and a fence.';

CREATE FUNCTION @extschema@.docsync_move_wait(collection pg_catalog.text)
	RETURNS pg_catalog.void
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.docsync_move_wait(pg_catalog.text) IS
'Waits until nobody writes any more who began before: who writes later finds the collection as it is then, open or closed.
For the store''s owner. lock_timeout limits it.';

CREATE FUNCTION @extschema@.docsync_move_sum(
	collection		pg_catalog.text,
	OUT documents	pg_catalog.int8,
	OUT digest		pg_catalog.numeric,
	OUT highest		pg_catalog.timestamptz,
	OUT lost		pg_catalog.int8,
	OUT lost_digest	pg_catalog.numeric)
	LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET row_security = off
AS $$
BEGIN
	IF collection IS NULL THEN
		RAISE null_value_not_allowed USING MESSAGE = 'collection is null';
	END IF;
	SELECT count(*), coalesce(sum(hashtextextended(d.id, hashtextextended(d.collection,
				hashfloat8extended(date_part('epoch', d.last_update_utc), d.client_version)))), 0),
		   coalesce(max(d.last_update_utc), '-infinity')
	  INTO documents, digest, highest
	  FROM docsync.document AS d
	 WHERE d.collection >= docsync_move_sum.collection AND d.collection < docsync_move_sum.collection || '0'
	   AND (d.collection = docsync_move_sum.collection OR starts_with(d.collection, docsync_move_sum.collection || '/'));

	SELECT count(*), coalesce(sum(hashtextextended(r.id, hashtextextended(r.collection,
				hashfloat8extended(date_part('epoch', r.recorded_utc), r.client_version)))), 0)
	  INTO lost, lost_digest
	  FROM docsync.record AS r
	 WHERE r.collection >= docsync_move_sum.collection AND r.collection < docsync_move_sum.collection || '0'
	   AND (r.collection = docsync_move_sum.collection OR starts_with(r.collection, docsync_move_sum.collection || '/'));
END
$$;
COMMENT ON FUNCTION @extschema@.docsync_move_sum(pg_catalog.text) IS
'How many documents a collection and those below it have, tombstones among them, and a sum over ids, versions and stamps, to be compared with another server''s.
The same of what docsync.record has of them.';

CREATE FUNCTION @extschema@.docsync_move_keep(collection pg_catalog.text)
	RETURNS pg_catalog.jsonb
	LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	SET row_security = off
AS $$
DECLARE
	its_pattern text := replace(replace(replace(collection, '\', '\\'), '%', '\%'), '_', '\_');
BEGIN
	IF collection IS NULL THEN
		RAISE null_value_not_allowed USING MESSAGE = 'collection is null';
	END IF;
	RETURN jsonb_build_object(
		'own', (SELECT coalesce(jsonb_agg(k ORDER BY k.pattern), '[]') FROM docsync.keep AS k
				 WHERE k.pattern = its_pattern OR starts_with(k.pattern, its_pattern || '/')),
		'broader', (SELECT jsonb_agg(jsonb_build_object('pattern', its_pattern || each.rest,
									 'keep', coalesce(k.keep, 'none'), 'most', coalesce(k.most, 10)) ORDER BY each.rest)
					  FROM (VALUES ('', ''), ('/%', '/')) AS each(rest, name)
					  LEFT JOIN LATERAL (SELECT * FROM docsync.keep AS k
										  WHERE docsync_move_keep.collection || each.name LIKE k.pattern
											AND k.pattern <> its_pattern || each.rest
										  ORDER BY octet_length(k.pattern) DESC, k.pattern LIMIT 1) AS k ON true));
END
$$;
COMMENT ON FUNCTION @extschema@.docsync_move_keep(pg_catalog.text) IS
'For the functions below: which rules of docsync.keep a collection has of its own, and what broader ones come to.';

CREATE FUNCTION @extschema@.docsync_move_out(collection pg_catalog.text)
	RETURNS pg_catalog.void
	LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	functions text := (SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'docsync');
	present text;
BEGIN
	EXECUTE format('SELECT %s.docsync_move_begin($1, NULL)', functions) USING collection;
	LOCK TABLE docsync.moved IN SHARE ROW EXCLUSIVE MODE;
	SELECT m.state INTO present FROM docsync.moved AS m WHERE m.collection = docsync_move_out.collection;

	IF EXISTS (SELECT FROM docsync.moved AS m WHERE starts_with(m.collection, docsync_move_out.collection || '/') OR starts_with(docsync_move_out.collection, m.collection || '/')) THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'the collection is a part of one that was moved, or has such a part',
			DETAIL = 'Collections are moved back and on as they were moved: docsync.moved says how.';
	END IF;

	IF present = 'arriving' THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'the collection is on its way to here',
			HINT = 'docsync_move_take_over() opens it; docsync_move_back() gives it up.';
	ELSIF present = 'here' THEN
		UPDATE docsync.moved AS m SET state = 'leaving', changed = clock_timestamp() WHERE m.collection = docsync_move_out.collection;
	ELSIF present IS NULL THEN
		INSERT INTO docsync.moved (collection, state) VALUES (docsync_move_out.collection, 'leaving');
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.docsync_move_out(pg_catalog.text) IS
'Closes a collection, and those whose names begin with it and "/", before they move to another server: requests are answered 503, code moving.
For the store''s owner. Commit it, copy what has changed since, and call docsync_move_hand_over, or docsync_move_back.';

CREATE FUNCTION @extschema@.docsync_move_hand_over(collection pg_catalog.text)
	RETURNS pg_catalog.jsonb
	LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	functions text := (SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'docsync');
	present record;
	point record;
	has record;
	line record;
	purged jsonb;
	rules jsonb;
	result jsonb;
BEGIN
	EXECUTE format('SELECT %s.docsync_move_begin($1, NULL)', functions) USING collection;
	LOCK TABLE docsync.moved IN SHARE ROW EXCLUSIVE MODE;
	SELECT * INTO present FROM docsync.moved AS m WHERE m.collection = docsync_move_hand_over.collection;
	IF present.state = 'gone' THEN
		RETURN present.ticket;
	ELSIF present.state IS DISTINCT FROM 'leaving' THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'the collection is not about to leave',
			HINT = 'docsync_move_out() closes it first.';
	END IF;

	-- From here on nothing of it changes. The clock is read behind that: whatever was given out here is not above it.
	EXECUTE format('SELECT %s.docsync_move_wait($1)', functions) USING collection;
	EXECUTE format('SELECT * FROM %s.docsync_move_sum($1)', functions) INTO has USING collection;
	EXECUTE format('SELECT * FROM %s.docsync_move_begin($1, ''-infinity'')', functions) INTO point USING collection;

	-- What has happened to it: elsewhere, and here since it came
	SELECT jsonb_agg(e.epoch ORDER BY e.part, e.number) AS epochs, jsonb_agg(e.survived ORDER BY e.part, e.number) AS survived,
		   jsonb_agg(e.lost_after ORDER BY e.part, e.number) AS lost_after, jsonb_agg(e.clock ORDER BY e.part, e.number) AS clocks
	  INTO line
	  FROM (SELECT 1 AS part, e.number, e.epoch, e.survived, e.lost_after, e.clock
			  FROM unnest(present.epochs, present.survived, present.lost_after, present.clocks)
				   WITH ORDINALITY AS e(epoch, survived, lost_after, clock, number)
			 UNION ALL
			SELECT 2, h.number, CASE WHEN h.epoch = present.replaced THEN present.epochs[cardinality(present.epochs)] ELSE h.epoch END,
				   h.survived, h.lost_after, h.clock
			  FROM docsync.history AS h WHERE h.number > present.number) AS e;

	SELECT coalesce(jsonb_agg(p), '[]') INTO purged FROM docsync.purged AS p
	 WHERE p.collection = docsync_move_hand_over.collection OR starts_with(p.collection, docsync_move_hand_over.collection || '/');

	-- What is kept of what loses: the rules for nothing else, and what broader rules come to
	EXECUTE format('SELECT %s.docsync_move_keep($1)', functions) INTO rules USING collection;

	result := jsonb_build_object('collection', collection, 'move', gen_random_uuid(), 'documents', has.documents, 'digest', has.digest,
								 'lost', has.lost, 'lost_digest', has.lost_digest,
								 'highest', has.highest, 'clock', point.clock, 'purged', purged, 'keep', rules) || to_jsonb(line);
	UPDATE docsync.moved AS m SET state = 'gone', changed = clock_timestamp(), move = result ->> 'move', ticket = result
	 WHERE m.collection = docsync_move_hand_over.collection;
	RETURN result;
END
$$;
COMMENT ON FUNCTION @extschema@.docsync_move_hand_over(pg_catalog.text) IS
'Lets a closed collection go, and gives the ticket with which docsync_move_take_over opens it on the other server; requests here are answered 421, code moved.
For the store''s owner. The ticket is good when this has committed; asked for again, it is the same. There is no way back but by moving it back.';

CREATE FUNCTION @extschema@.docsync_move_in(collection pg_catalog.text)
	RETURNS pg_catalog.void
	LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET row_security = off
AS $$
DECLARE
	functions text := (SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'docsync');
	present text;
BEGIN
	EXECUTE format('SELECT %s.docsync_move_begin($1, NULL)', functions) USING collection;
	LOCK TABLE docsync.moved IN SHARE ROW EXCLUSIVE MODE;
	SELECT m.state INTO present FROM docsync.moved AS m WHERE m.collection = docsync_move_in.collection;

	IF EXISTS (SELECT FROM docsync.moved AS m WHERE starts_with(m.collection, docsync_move_in.collection || '/') OR starts_with(docsync_move_in.collection, m.collection || '/')) THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'the collection is a part of one that was moved, or has such a part',
			DETAIL = 'Collections are moved back and on as they were moved: docsync.moved says how.';
	END IF;

	IF present IN ('here', 'leaving') THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'the collection is here already',
			DETAIL = format('docsync.moved says "%s".', present);
	ELSIF present = 'gone' THEN
		-- It comes back. What it has left behind is old.
		DELETE FROM docsync.document AS d WHERE d.collection = docsync_move_in.collection
			OR (d.collection >= docsync_move_in.collection || '/' AND d.collection < docsync_move_in.collection || '0');
		DELETE FROM docsync.record AS r WHERE r.collection = docsync_move_in.collection
			OR (r.collection >= docsync_move_in.collection || '/' AND r.collection < docsync_move_in.collection || '0');
		UPDATE docsync.moved AS m SET state = 'arriving', changed = clock_timestamp() WHERE m.collection = docsync_move_in.collection;
	ELSIF present IS NULL THEN
		IF EXISTS (SELECT FROM docsync.document AS d WHERE d.collection = docsync_move_in.collection
					  OR (d.collection >= docsync_move_in.collection || '/' AND d.collection < docsync_move_in.collection || '0')) THEN
			RAISE object_not_in_prerequisite_state USING
				MESSAGE = 'the collection has documents here',
				DETAIL = 'What comes from elsewhere is not mixed with others.',
				HINT = 'If they are not needed, DELETE them, CALL docsync_purge(''0''), and delete the tombstones that stay with session_replication_role = replica.';
		END IF;
		INSERT INTO docsync.moved (collection, state) VALUES (docsync_move_in.collection, 'arriving');
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.docsync_move_in(pg_catalog.text) IS
'Awaits a collection, and those whose names begin with it and "/", from another server: requests are answered 503, code moving.
For the store''s owner, who may then bring documents with their stamps, and delete them for good. docsync_move_take_over opens it when all have come; docsync_move_back gives it up.';

CREATE FUNCTION @extschema@.docsync_move_take_over(ticket pg_catalog.jsonb)
	RETURNS pg_catalog.void
	LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	functions text := (SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'docsync');
	name text := ticket ->> 'collection';
	present record;
	point record;
	has record;
	rules jsonb;
BEGIN
	EXECUTE format('SELECT %s.docsync_move_begin($1, NULL)', functions) USING name;
	LOCK TABLE docsync.moved IN SHARE ROW EXCLUSIVE MODE;
	SELECT * INTO present FROM docsync.moved AS m WHERE m.collection = name;
	IF present.move = ticket ->> 'move' AND present.state IN ('here', 'leaving') THEN
		RETURN;
	-- What has happened to it since it came with this ticket is in the one with which it went on. It would be open twice.
	ELSIF (present.ticket -> 'epochs') @> (ticket -> 'epochs') AND jsonb_array_length(present.ticket -> 'epochs') > jsonb_array_length(ticket -> 'epochs') THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = format('collection "%s" has come here with this ticket before, and has gone on from here', name),
			DETAIL = 'It may be open elsewhere, and what it was then is not what it is now.',
			HINT = 'Move it from where it is open.';
	ELSIF present.state IS DISTINCT FROM 'arriving' THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'the collection is not awaited here',
			DETAIL = format('docsync.moved says %s.', coalesce(quote_ident(present.state), 'nothing of it')),
			HINT = 'docsync_move_in() comes first.';
	END IF;

	EXECUTE format('SELECT %s.docsync_move_wait($1)', functions) USING name;
	EXECUTE format('SELECT * FROM %s.docsync_move_sum($1)', functions) INTO has USING name;
	IF (has.documents, has.digest, has.lost, has.lost_digest) IS DISTINCT FROM
	   ((ticket ->> 'documents')::int8, (ticket ->> 'digest')::numeric, (ticket ->> 'lost')::int8, (ticket ->> 'lost_digest')::numeric) THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'the documents are not those that were handed over',
			DETAIL = format('There are %s, and %s were; in docsync.record %s, and %s were.', has.documents, ticket ->> 'documents', has.lost, ticket ->> 'lost'),
			HINT = 'Copy them once more. Where they have come from they are as they were.';
	END IF;

	-- Beyond all that was given out there
	EXECUTE format('SELECT * FROM %s.docsync_move_begin($1, $2)', functions) INTO point USING name, (ticket ->> 'clock')::timestamptz;

	DELETE FROM docsync.purged AS p WHERE p.collection = name OR starts_with(p.collection, name || '/');
	INSERT INTO docsync.purged (collection, last_update_utc, client_id, others_utc)
	SELECT p.collection, p.last_update_utc, p.client_id, p.others_utc
	  FROM jsonb_to_recordset(ticket -> 'purged') AS p(collection text, last_update_utc timestamptz, client_id text, others_utc timestamptz)
	 WHERE p.collection = name OR starts_with(p.collection, name || '/');

	-- Broader rules are those of this server, unless they come to something else here.
	INSERT INTO docsync.keep AS k (pattern, keep, most)
	SELECT own.pattern, own.keep, own.most FROM jsonb_to_recordset(ticket -> 'keep' -> 'own') AS own(pattern text, keep text, most int4)
		ON CONFLICT (pattern) DO UPDATE SET keep = EXCLUDED.keep, most = EXCLUDED.most;
	EXECUTE format('SELECT %s.docsync_move_keep($1)', functions) INTO rules USING name;
	INSERT INTO docsync.keep AS k (pattern, keep, most)
	SELECT b.pattern, b.keep, b.most FROM jsonb_to_recordset(ticket -> 'keep' -> 'broader') AS b(pattern text, keep text, most int4)
	 WHERE NOT rules -> 'broader' @> jsonb_build_array(to_jsonb(b))
		ON CONFLICT (pattern) DO NOTHING;

	UPDATE docsync.moved AS m
	   SET state = 'here', changed = clock_timestamp(), move = take_over.ticket ->> 'move', ticket = NULL,
		   epochs = ARRAY(SELECT e.v::int8 FROM jsonb_array_elements_text(take_over.ticket -> 'epochs') WITH ORDINALITY AS e(v, n) ORDER BY n) || point.epoch,
		   survived = ARRAY(SELECT e.v::timestamptz FROM jsonb_array_elements_text(take_over.ticket -> 'survived') WITH ORDINALITY AS e(v, n) ORDER BY n)
					  || (take_over.ticket ->> 'highest')::timestamptz,
		   lost_after = ARRAY(SELECT e.v::timestamptz FROM jsonb_array_elements_text(take_over.ticket -> 'lost_after') WITH ORDINALITY AS e(v, n) ORDER BY n)
						|| 'infinity'::timestamptz,
		   clocks = ARRAY(SELECT e.v::timestamptz FROM jsonb_array_elements_text(take_over.ticket -> 'clocks') WITH ORDINALITY AS e(v, n) ORDER BY n)
					|| point.clock,
		   number = newest.number, replaced = newest.epoch, next_xid = point.next_xid
	  FROM (SELECT docsync_move_take_over.ticket) AS take_over,
		   (SELECT h.number, h.epoch FROM docsync.history AS h ORDER BY h.number DESC LIMIT 1) AS newest
	 WHERE m.collection = name;
END
$$;
COMMENT ON FUNCTION @extschema@.docsync_move_take_over(pg_catalog.jsonb) IS
'Opens a collection that was awaited here, if it has just the documents that the ticket of docsync_move_hand_over says. Clients go on with the cursors that they have.
For the store''s owner. Give a ticket to one server; called again there, it does nothing.';

CREATE FUNCTION @extschema@.docsync_move_back(collection pg_catalog.text)
	RETURNS pg_catalog.void
	LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET row_security = off
AS $$
DECLARE
	functions text := (SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'docsync');
	present record;
BEGIN
	EXECUTE format('SELECT %s.docsync_move_begin($1, NULL)', functions) USING collection;
	LOCK TABLE docsync.moved IN SHARE ROW EXCLUSIVE MODE;
	SELECT * INTO present FROM docsync.moved AS m WHERE m.collection = docsync_move_back.collection;

	IF present.state = 'leaving' AND present.epochs = '{}' OR present.state = 'arriving' AND present.ticket IS NULL THEN
		IF present.state = 'arriving' THEN
			EXECUTE format('SELECT %s.docsync_move_wait($1)', functions) USING collection;
			DELETE FROM docsync.document AS d WHERE d.collection = docsync_move_back.collection
				OR (d.collection >= docsync_move_back.collection || '/' AND d.collection < docsync_move_back.collection || '0');
			DELETE FROM docsync.record AS r WHERE r.collection = docsync_move_back.collection
				OR (r.collection >= docsync_move_back.collection || '/' AND r.collection < docsync_move_back.collection || '0');
		END IF;
		DELETE FROM docsync.moved AS m WHERE m.collection = docsync_move_back.collection;
	ELSIF present.state = 'leaving' OR present.state = 'arriving' THEN
		UPDATE docsync.moved AS m SET state = CASE present.state WHEN 'leaving' THEN 'here' ELSE 'gone' END, changed = clock_timestamp()
		 WHERE m.collection = docsync_move_back.collection;
	ELSIF present.state = 'gone' THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'the collection has been let go',
			DETAIL = 'It may be open elsewhere, or be opened there at any time.',
			HINT = 'Finish the move, with the ticket of docsync_move_hand_over(); then move it back.';
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.docsync_move_back(pg_catalog.text) IS
'Gives a move up, on either server, that has not come to docsync_move_hand_over.
Where the collection was it is open again, as if nothing had happened; where it was awaited, what has come is deleted, or if it had gone from there before, it is gone.
For the store''s owner.';

------------------------------------------------------------------------------
-- functions for HTTP: JSON in, one JSON value out
------------------------------------------------------------------------------

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

CREATE FUNCTION @extschema@.docsync_docs_query(
	origin			pg_catalog.text DEFAULT 'other',
	"sinceUtc"		pg_catalog.text DEFAULT NULL,
	"clientId"		pg_catalog.text DEFAULT NULL,
	collection		pg_catalog.text DEFAULT NULL,
	"maxDocuments"	pg_catalog.int4 DEFAULT NULL)
	RETURNS @extschema@."*/*"
	AS 'MODULE_PATHNAME'
	LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED;
COMMENT ON FUNCTION @extschema@.docsync_docs_query(pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.int4) IS
'The protocol''s POST /Docs/Query?origin=other&sinceUtc=T.
Answers the array of documents with LastUpdateUtc >= sinceUtc.';

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
'Lets uploads and listeners start the announcer again. For the owner of the database.';

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
		ahead_count		pg_catalog.int8,
		recorded_utc	pg_catalog.timestamptz)
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION @extschema@.docsync_facts(pg_catalog.bool) IS
'What docsync_status() needs to know of what is in the store.';

CREATE FUNCTION @extschema@.docsync_moves()
	RETURNS TABLE (
		collection		pg_catalog.text,
		state			pg_catalog.text,
		since			pg_catalog.timestamptz,
		has_documents	pg_catalog.bool)
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL RESTRICTED ROWS 10;
COMMENT ON FUNCTION @extschema@.docsync_moves() IS
'Collections that are being moved between servers, or have been: what docsync.moved says of them, and whether there are documents of theirs here.
For the store''s owner and members of pg_monitor.';

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
	kept regclass := (SELECT oid FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'docsync') AND relname = 'record');
	fact record;
	seen record;
	dead record;
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
			'Documents stamped after %s may have been lost. Clients that compare send them again: keep the old server or the backup until they have. This is said for a week.',
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
	FOR seen IN
		SELECT c.oid::regclass AS of, string_agg(DISTINCT CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END, ', ') AS roles,
			   c.relrowsecurity AS is_on, EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid) AS has_policy
		  FROM pg_class AS c
		  JOIN LATERAL (SELECT * FROM aclexplode(c.relacl)
						 UNION ALL SELECT acl.* FROM pg_attribute, aclexplode(attacl) AS acl WHERE attrelid = c.oid AND attacl IS NOT NULL) AS g
			ON g.grantee <> c.relowner AND g.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
		   AND NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = g.grantee AND (rolsuper OR rolbypassrls))
		 WHERE c.oid IN (document, kept) GROUP BY c.oid, c.relname, c.relrowsecurity ORDER BY c.relname
	LOOP
		IF NOT seen.is_on THEN
			attention := attention || format('Row-level security is off, so all collections are open to %s. '
				'CREATE POLICY ... ON %s, then ALTER TABLE %2$s ENABLE ROW LEVEL SECURITY.', seen.roles, seen.of);
		ELSIF NOT seen.has_policy THEN
			attention := attention || format('Row-level security is on, but there is no policy: %s can neither read nor write. CREATE POLICY ... ON %s.', seen.roles, seen.of);
		END IF;
	END LOOP;

	-- Who holds back readers. To find the names of collections takes time, so they are looked for only if some
	-- transaction is old enough.
	IF EXISTS (SELECT FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND xact_start < now - interval '10 seconds') OR
	   EXISTS (SELECT FROM pg_prepared_xacts WHERE prepared < now - interval '10 seconds') THEN
		FOR seen IN EXECUTE format($query$
			SELECT holds_back, pid, gid, username, database, state, since, count(*) AS count, count(collection) AS named,
				   string_agg('"' || collection || '"', ', ' ORDER BY collection) FILTER (WHERE n <= 3) AS names
			  FROM (SELECT *, row_number() OVER (PARTITION BY holds_back, pid, gid ORDER BY collection) AS n FROM %s.docsync_holders($2)) AS h
			 WHERE since < $1 - interval '10 seconds'
			 GROUP BY holds_back, pid, gid, username, database, state, since ORDER BY since, holds_back$query$, functions) USING now, exact
		LOOP
			CONTINUE WHEN seen.holds_back = 'standbys' AND NOT EXISTS (SELECT FROM pg_stat_replication);
			whose := CASE WHEN seen.holds_back = 'standbys' THEN 'on standbys'
				WHEN seen.holds_back = 'all collections' THEN 'of all collections'
				WHEN seen.named = 0 THEN format('of %s that docsync_holders(true) names', CASE seen.count WHEN 1 THEN 'a collection' ELSE seen.count || ' collections' END)
				ELSE concat_ws(' and ', 'of ' || seen.names, nullif(seen.count - least(seen.named, 3), 0) || ' more') END;
			attention := attention || CASE WHEN seen.gid IS NOT NULL
				THEN format('Readers %s are held back by the prepared transaction %L since %s: COMMIT PREPARED or ROLLBACK PREPARED it, as %s or a superuser%s.',
							whose, seen.gid, date_trunc('second', seen.since), seen.username,
							CASE WHEN seen.database <> current_database() THEN format(', in the database "%s"', seen.database) END)
				ELSE format('Readers %s are held back by process %s (%s) since %s. If it should have ended, SELECT pg_terminate_backend(%s).',
							whose, seen.pid, concat_ws(', ', seen.username, seen.state), date_trunc('second', seen.since), seen.pid) END;
		END LOOP;
	END IF;

	-- Who waits for whom, to work on the store. To find out takes locks of the lock table, so it is done only if somebody waits.
	IF EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock') THEN
		FOR seen IN
			-- Who waits for somebody that waits as well, waits for whoever is at the end of the queue.
			WITH RECURSIVE waiting AS (
				SELECT l.pid, w.datid, l.waitstart, w.query ~* 'docsync_purge' AS is_purge, b.pid AS blocker
				  FROM pg_locks AS l
				  JOIN pg_stat_activity AS w ON w.pid = l.pid
				 CROSS JOIN LATERAL unnest(pg_blocking_pids(l.pid)) AS b (pid)
				 WHERE NOT l.granted),
			behind AS (
				SELECT pid, waitstart, is_purge, blocker FROM waiting
				 WHERE waitstart < now - interval '10 seconds' AND datid = (SELECT oid FROM pg_database WHERE datname = current_database())
				   AND EXISTS (SELECT FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
								WHERE l.pid = waiting.pid AND l.database = datid AND c.relnamespace = 'docsync'::regnamespace)
				UNION
				SELECT behind.pid, behind.waitstart, behind.is_purge, waiting.blocker FROM behind JOIN waiting ON waiting.pid = behind.blocker)
			SELECT blocker AS pid, usename, state, min(waitstart) AS since, count(DISTINCT behind.pid) AS count, bool_or(is_purge) AS has_purge
			  FROM behind LEFT JOIN pg_stat_activity AS a ON a.pid = blocker
			 WHERE blocker NOT IN (SELECT pid FROM waiting) GROUP BY 1, 2, 3 ORDER BY since
		LOOP
			attention := attention || format('%s for %s, since %s. If that should have ended, %s.',
				CASE WHEN NOT coalesce(seen.has_purge, false) THEN CASE seen.count WHEN 1 THEN 'A session waits' ELSE seen.count || ' sessions wait' END
					 WHEN seen.count = 1 THEN 'A purge waits' ELSE format('A purge and %s more wait', seen.count - 1) END,
				CASE seen.pid WHEN 0 THEN 'a prepared transaction' ELSE format('process %s (%s)', seen.pid, concat_ws(', ', seen.usename, seen.state)) END,
				date_trunc('second', seen.since),
				CASE seen.pid WHEN 0 THEN 'COMMIT PREPARED or ROLLBACK PREPARED it: SELECT * FROM pg_prepared_xacts' ELSE format('SELECT pg_terminate_backend(%s)', seen.pid) END);
		END LOOP;
	END IF;

	-- What is on its way, or has gone
	FOR seen IN EXECUTE format($query$
		SELECT state, concat_ws(' and ', string_agg('"' || collection || '"', ', ' ORDER BY n) FILTER (WHERE n <= 3), nullif(count(*) FILTER (WHERE n > 3), 0) || ' more') AS what,
			   (array_agg(collection ORDER BY n))[1] AS first, min(since) AS since
		  FROM (SELECT *, row_number() OVER (PARTITION BY state ORDER BY since, collection) AS n FROM %s.docsync_moves()
				 WHERE state IN ('leaving', 'arriving') AND since < $1 - interval '10 seconds' OR state = 'gone' AND has_documents) AS m
		 GROUP BY state ORDER BY min(since)$query$, functions) USING now
	LOOP
		attention := attention || CASE seen.state
			WHEN 'leaving' THEN format('Closed since %s (%s), since they are about to move to another server: %s. If the move has broken off run it again, or SELECT %s.docsync_move_back(%L).',
									   date_trunc('second', seen.since), date_trunc('second', now - seen.since), seen.what, functions, seen.first)
			WHEN 'arriving' THEN format('Awaited from another server since %s (%s), and closed here: %s. If the move has broken off run it again, or as long as the other server does not say "gone", SELECT %s.docsync_move_back(%L).',
										date_trunc('second', seen.since), date_trunc('second', now - seen.since), seen.what, functions, seen.first)
			ELSE format('Moved to another server since %s (%s), and their documents are still here: %s. When they are open at that server, whose docsync.moved then says "here", and it has been backed up, delete them: examples/shards/move -e %s.',
						date_trunc('second', seen.since), date_trunc('second', now - seen.since), seen.what, quote_literal(seen.first)) END;
	END LOOP;

	-- What is in it
	IF fact.unpurged IS NOT NULL THEN
		attention := attention || format('Tombstones are not purged: collection "%s" has some from %s. Schedule CALL %s.docsync_purge(''90 days'') nightly.',
			fact.unpurged, fact.unpurged_stamp::date, functions);
	END IF;
	IF fact.recorded_utc < now - interval '180 days' THEN
		attention := attention || format('docsync.record is not purged: it has versions that lost on %s. Schedule CALL %s.docsync_purge(''90 days'') nightly, by the owner or another role that may SELECT and DELETE there.',
			fact.recorded_utc::date, functions);
	END IF;
	IF fact.ahead_id IS NOT NULL THEN
		attention := attention || format('Document "%s" of collection "%s" has the clientVersion %s, far ahead of the time in milliseconds, and no edit wins against it until then (documents like this: %s). '
			'Set docsync.max_version_lead, to a day for example: such versions are refused then, and clients give up those that they hold. Let PostgREST and poolers reconnect, then SELECT %s.docsync_rebase(%L, %L).',
			fact.ahead_id, fact.ahead_collection, fact.ahead_version, fact.ahead_count, functions, fact.ahead_collection, fact.ahead_id);
	ELSIF fact.ahead_version IS NOT NULL THEN
		attention := attention || format('There are documents with a clientVersion far ahead of the time in milliseconds, up to %s, and no edit wins against them until then. '
			'SELECT * FROM %s.docsync_status(true) reads all documents and names one. If it names none, they have gone since the last ANALYZE docsync.document: run it again.', fact.ahead_version, functions);
	END IF;

	-- The table, as any table
	SELECT s.n_dead_tup, s.n_live_tup, c.reltuples, t.tombstones, max(age(r.relfrozenxid)) AS xids, max(mxid_age(r.relminmxid)) AS multixacts,
		   (array_agg(CASE r.oid WHEN c.reltoastrelid THEN c.oid ELSE r.oid END::regclass ORDER BY greatest(age(r.relfrozenxid), mxid_age(r.relminmxid)) DESC, r.oid))[1] AS oldest INTO seen
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
	FOR dead IN SELECT relid::regclass AS of, n_dead_tup AS rows FROM pg_stat_user_tables
				 WHERE relid IN (document, kept) AND n_dead_tup > n_live_tup AND n_dead_tup > 10000 ORDER BY relname
	LOOP
		attention := attention || format('%s has %s dead rows, more than live ones: VACUUM %1$s, and let autovacuum run more often: '
			'ALTER TABLE %1$s SET (autovacuum_vacuum_scale_factor = 0.02).', dead.of, dead.rows);
	END LOOP;
	IF seen.xids > 1.5 * current_setting('autovacuum_freeze_max_age')::int8 OR
	   seen.multixacts > 1.5 * current_setting('autovacuum_multixact_freeze_max_age')::int8 THEN
		attention := attention || format('The store has rows that are %s transactions old and not frozen; at two billion the server refuses to write. '
			'Something keeps autovacuum from freezing them: end old transactions and prepared ones, drop replication slots that nobody uses, then VACUUM (FREEZE) %s.',
			greatest(seen.xids, seen.multixacts), seen.oldest);
	END IF;
	IF NOT fact.has_statistics AND bytes > 10000000 OR seen.tombstones < 0 AND fact.has_statistics THEN
		attention := attention || 'docsync.document, or its index on tombstones, has no statistics, so plans may be bad: ANALYZE docsync.document.'::text;
	END IF;
	IF pg_total_relation_size(kept) > greatest(25 * bytes, 100000000) THEN
		attention := attention || format('docsync.record has %s, docsync.document %s. Keep fewer versions, or those of fewer collections (docsync.keep), or purge earlier, for example CALL %s.docsync_purge(''30 days''); then VACUUM FULL docsync.record, during which uploads that would write to it wait.',
			pg_size_pretty(pg_total_relation_size(kept)), pg_size_pretty(bytes), functions);
	END IF;

	-- Its indexes
	FOR seen IN SELECT indexrelid::regclass AS index FROM pg_index JOIN pg_class ON oid = indrelid
				 WHERE relnamespace = 'docsync'::regnamespace AND NOT indisvalid
	LOOP
		attention := attention || format('Index %s is not valid, so it takes time and is not used: REINDEX INDEX CONCURRENTLY %1$s, or DROP INDEX %1$s.', seen.index);
	END LOOP;
	FOR seen IN SELECT of, predicate, other.oid::regclass AS other
				  FROM (VALUES ('downloads', 'document_stamp', NULL), ('purges', 'document_tombstone', 'deleted')) AS needed (of, name, predicate)
				  LEFT JOIN pg_class AS other ON other.relnamespace = 'docsync'::regnamespace AND other.relname = needed.name
				 WHERE NOT EXISTS (SELECT FROM pg_index
									WHERE indrelid = document AND indisvalid AND pg_get_expr(indpred, indrelid) IS NOT DISTINCT FROM predicate
									  AND pg_get_indexdef(indexrelid, 1, true) = 'collection' AND pg_get_indexdef(indexrelid, 2, true) = 'last_update_utc')
	LOOP
		attention := attention || format('The index that %s need, on (collection, last_update_utc)%s, is missing: %sSELECT %s.docsync_create_store() makes it; uploads wait meanwhile.',
			seen.of, ' WHERE ' || seen.predicate,
			CASE WHEN seen.other IS NOT NULL THEN format('%s has its name and is another, or not valid: DROP INDEX %1$s, then ', seen.other) END, functions);
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

------------------------------------------------------------------------------
-- privileges
------------------------------------------------------------------------------

CREATE FUNCTION @extschema@.docsync_grant(role pg_catalog.regrole)
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

-- The functions run as their caller, and the store's privileges and policies
-- decide what they may do; those for the store's owner check that. So everybody
-- may call them.

-- Except docsync_call(): it would let somebody who has a token, but no SQL, use
-- other claims than the token's.
REVOKE ALL ON FUNCTION @extschema@.docsync_call(pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.bytea) FROM PUBLIC;

-- Tells PostgREST, if there is one, about the functions.
NOTIFY pgrst, 'reload schema';
