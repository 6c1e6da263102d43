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

	-- What a superuser has repaired belongs to the owner, like the rest.
	FOR command IN
		SELECT format('ALTER TABLE %s OWNER TO %s', part.oid::regclass, document.relowner::regrole)
		  FROM pg_class AS part, pg_class AS document
		 WHERE document.oid = 'docsync.document'::regclass AND part.relowner <> document.relowner
		   AND part.oid IN ('docsync.clock'::regclass, 'docsync.purged'::regclass, 'docsync.history'::regclass, 'docsync.moved'::regclass)
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
	OUT highest		pg_catalog.timestamptz)
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
END
$$;
COMMENT ON FUNCTION @extschema@.docsync_move_sum(pg_catalog.text) IS
'How many documents a collection and those below it have, tombstones among them, and a sum over ids, versions and stamps, to be compared with another server''s.';

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
	EXECUTE format('SELECT * FROM %s.docsync_move_begin($1, NULL)', functions) INTO point USING collection;

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

	result := jsonb_build_object('collection', collection, 'move', gen_random_uuid(), 'documents', has.documents, 'digest', has.digest,
								 'highest', has.highest, 'clock', point.clock, 'purged', purged) || to_jsonb(line);
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
BEGIN
	EXECUTE format('SELECT %s.docsync_move_begin($1, NULL)', functions) USING name;
	LOCK TABLE docsync.moved IN SHARE ROW EXCLUSIVE MODE;
	SELECT * INTO present FROM docsync.moved AS m WHERE m.collection = name;
	IF present.move = ticket ->> 'move' AND present.state IN ('here', 'leaving') THEN
		RETURN;
	ELSIF present.state IS DISTINCT FROM 'arriving' THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'the collection is not awaited here',
			DETAIL = format('docsync.moved says %s.', coalesce(quote_ident(present.state), 'nothing of it')),
			HINT = 'docsync_move_in() comes first.';
	END IF;

	EXECUTE format('SELECT %s.docsync_move_wait($1)', functions) USING name;
	EXECUTE format('SELECT * FROM %s.docsync_move_sum($1)', functions) INTO has USING name;
	IF (has.documents, has.digest) IS DISTINCT FROM ((ticket ->> 'documents')::int8, (ticket ->> 'digest')::numeric) THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'the documents are not those that were handed over',
			DETAIL = format('There are %s, and %s were.', has.documents, ticket ->> 'documents'),
			HINT = 'Copy them once more. Where they have come from they are as they were.';
	END IF;

	-- Beyond all that was given out there
	EXECUTE format('SELECT * FROM %s.docsync_move_begin($1, $2)', functions) INTO point USING name, (ticket ->> 'clock')::timestamptz;

	DELETE FROM docsync.purged AS p WHERE p.collection = name OR starts_with(p.collection, name || '/');
	INSERT INTO docsync.purged (collection, last_update_utc, client_id, others_utc)
	SELECT p.collection, p.last_update_utc, p.client_id, p.others_utc
	  FROM jsonb_to_recordset(ticket -> 'purged') AS p(collection text, last_update_utc timestamptz, client_id text, others_utc timestamptz)
	 WHERE p.collection = name OR starts_with(p.collection, name || '/');

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
'Gives a move up, on either server, that has not come to docsync_move_hand_over: where the collection was it is open again, as if nothing had happened; where it was awaited, what has come is deleted, or if it had gone from there before, it is gone.
For the store''s owner.';

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
	ALTER EXTENSION docsync DROP TABLE docsync.moved;

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
