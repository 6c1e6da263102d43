/* docsync 0.1: schema, in reading order: clock, document, functions for SQL and for HTTP, grants */

\echo Use "CREATE EXTENSION docsync" to load this file. \quit

-- A schema that was there before could hold somebody's traps, so no IF NOT EXISTS.
CREATE SCHEMA docsync;
COMMENT ON SCHEMA docsync IS
'Where docsync keeps its documents and its clock. Roles get in by docsync_grant.';

------------------------------------------------------------------------------
-- clock: the last stamp issued
------------------------------------------------------------------------------

CREATE SEQUENCE docsync.clock AS pg_catalog.int8 MINVALUE 0 START 0;
COMMENT ON SEQUENCE docsync.clock IS
'The last LastUpdateUtc issued, in microseconds since 1970-01-01 UTC. Never goes back. Moved by docsync alone.';

SELECT pg_catalog.setval('docsync.clock',
	   (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())
		OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8);

SELECT pg_catalog.pg_extension_config_dump('docsync.clock', '');

CREATE SEQUENCE docsync.epoch AS pg_catalog.int8 MINVALUE 0 START 0;
COMMENT ON SEQUENCE docsync.epoch IS
'The id of this history of stamps, part of each cursor: made with the extension, kept by dump and restore, changed by docsync_new_epoch.';

CREATE FUNCTION @extschema@.docsync_new_epoch() RETURNS pg_catalog.void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT setval('docsync.epoch',
		('x' || substr(replace(gen_random_uuid()::text, '-', ''), 17))::bit(64)::int8
		& 9223372036854775807)
$$;
COMMENT ON FUNCTION @extschema@.docsync_new_epoch() IS
'Makes all cursors void: clients start again from the beginning. For whoever restores the database to an earlier time, before clients are let in.';

SELECT @extschema@.docsync_new_epoch();

SELECT pg_catalog.pg_extension_config_dump('docsync.epoch', '');

------------------------------------------------------------------------------
-- document: the store
------------------------------------------------------------------------------

CREATE TABLE docsync.document (
	collection		pg_catalog.text COLLATE "C" NOT NULL DEFAULT 'default',
	id				pg_catalog.text COLLATE "C" NOT NULL,
	client_version	pg_catalog.int8 NOT NULL
		DEFAULT (pg_catalog.date_part('epoch', pg_catalog.now())
				 OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8,
	client_id		pg_catalog.text COLLATE "C" NOT NULL DEFAULT 'server',
	last_update_utc pg_catalog.timestamptz NOT NULL,
	deleted			pg_catalog.bool NOT NULL DEFAULT false,
	body			pg_catalog.jsonb,
	fence			pg_catalog.xid8 NOT NULL
);
-- In this order: of two indexes that seem to cost the same, as they do in a
-- small table, the planner takes the younger, and it keeps that plan for long.
CREATE INDEX document_stamp ON docsync.document (collection, last_update_utc);
ALTER TABLE docsync.document
	ADD CONSTRAINT document_pkey PRIMARY KEY (collection, id);

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

SELECT pg_catalog.pg_extension_config_dump('docsync.document', '');

CREATE FUNCTION docsync.guard() RETURNS trigger
	AS 'MODULE_PATHNAME', 'docsync_guard'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION docsync.guard() IS
'Trigger of docsync.document: stamps what is written, turns DELETE into a tombstone, refuses TRUNCATE.';

CREATE TRIGGER docsync_guard
	BEFORE INSERT OR UPDATE OR DELETE ON docsync.document
	FOR EACH ROW EXECUTE FUNCTION docsync.guard();
CREATE TRIGGER docsync_guard_truncate
	BEFORE TRUNCATE ON docsync.document
	FOR EACH STATEMENT EXECUTE FUNCTION docsync.guard();

CREATE TABLE docsync.purged (
	collection		pg_catalog.text COLLATE "C" PRIMARY KEY,
	last_update_utc pg_catalog.timestamptz NOT NULL
);
COMMENT ON TABLE docsync.purged IS
'Up to which stamp tombstones have been removed from a collection, by docsync_purge.';
COMMENT ON COLUMN docsync.purged.collection IS 'The collection.';
COMMENT ON COLUMN docsync.purged.last_update_utc IS
'The highest stamp of a tombstone removed. A client that goes on from a lower one must start again.';

SELECT pg_catalog.pg_extension_config_dump('docsync.purged', '');

CREATE SEQUENCE docsync.horizon AS pg_catalog.int8 MINVALUE 0 START 0;
COMMENT ON SEQUENCE docsync.horizon IS
'The highest stamp in docsync.purged, in microseconds since 1970-01-01 UTC, or a higher one.';

SELECT pg_catalog.pg_extension_config_dump('docsync.horizon', '');

CREATE TYPE docsync.change AS (
	id				pg_catalog.text,
	client_version	pg_catalog.int8,
	client_id		pg_catalog.text,
	last_update_utc pg_catalog.timestamptz,
	deleted			pg_catalog.bool,
	body			pg_catalog.jsonb
);
COMMENT ON TYPE docsync.change IS 'A document as it is downloaded.';

------------------------------------------------------------------------------
-- functions for SQL, in the schema the extension is created in
------------------------------------------------------------------------------

CREATE FUNCTION @extschema@.docsync_upsert(
	client_id		pg_catalog.text,
	documents		pg_catalog.jsonb,
	collection		pg_catalog.text DEFAULT 'default')
	RETURNS TABLE (
		ordinal			pg_catalog.int4,
		id				pg_catalog.text,
		outcome			pg_catalog.text,
		client_version	pg_catalog.int8,
		last_update_utc pg_catalog.timestamptz,
		winner			pg_catalog.jsonb)
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE ROWS 100;
COMMENT ON FUNCTION @extschema@.docsync_upsert(pg_catalog.text, pg_catalog.jsonb, pg_catalog.text) IS
'Upload: creates or updates each document that is not stored or has a lower clientVersion here.
documents is an array of {"id", "clientVersion", "body", "deleted"}. Returns a row for each, in the order given: outcome is created, updated, unchanged or discarded; winner is the stored document where the sent one was discarded.';

CREATE FUNCTION @extschema@.docsync_query_since(
	client_id		pg_catalog.text,
	since_utc		pg_catalog.timestamptz DEFAULT '-infinity',
	origin			pg_catalog.text DEFAULT 'other',
	collection		pg_catalog.text DEFAULT 'default',
	max_documents	pg_catalog.int4 DEFAULT NULL)
	RETURNS SETOF docsync.change
	AS 'MODULE_PATHNAME'
	LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION @extschema@.docsync_query_since(pg_catalog.text, pg_catalog.timestamptz, pg_catalog.text, pg_catalog.text, pg_catalog.int4) IS
'Download: the settled documents with last_update_utc >= since_utc, in the order of their stamps.
origin is other (than client_id), own or any. With max_documents = n: the document at since_utc, if it is still there, and up to n later ones. Go on from max(last_update_utc).';

CREATE FUNCTION @extschema@.docsync_purge(
	keep			pg_catalog.interval DEFAULT '90 days',
	collection		pg_catalog.text DEFAULT NULL)
	RETURNS pg_catalog.int8
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.docsync_purge(pg_catalog.interval, pg_catalog.text) IS
'Removes the tombstones older than keep, of one collection or of all, and returns how many.
A client that has been away for longer and goes on from where it was is told to start again.';

------------------------------------------------------------------------------
-- functions for HTTP: JSON in, one JSON value out
------------------------------------------------------------------------------

CREATE DOMAIN docsync."*/*" AS pg_catalog.json;
COMMENT ON DOMAIN docsync."*/*" IS
'An answer over HTTP. By this name PostgREST knows that it shall pass the value on as it is, which takes a third of the time and of the memory.';

CREATE FUNCTION @extschema@.docsync_sync(
	"clientId"		pg_catalog.text DEFAULT NULL,
	documents		pg_catalog.json DEFAULT '[]',
	cursor			pg_catalog.text DEFAULT NULL,
	collection		pg_catalog.text DEFAULT NULL,
	origin			pg_catalog.text DEFAULT 'other',
	"maxDocuments"	pg_catalog.int4 DEFAULT 1000)
	RETURNS docsync."*/*"
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.docsync_sync(pg_catalog.text, pg_catalog.json, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.int4) IS
'A whole sync in one request: upload, then download.
clientId: else the header X-Client-Id, else the token''s claim client_id; a claim binds. collection: else the claim collection, else "default".
documents: [{"id", "clientVersion", "body", "deleted"}]; cursor: as received last, null at first.
Answers {"received", "results": [{"id", "outcome", "clientVersion", "LastUpdateUtc", "winner"}], "documents": [{"id", "clientVersion", "clientId", "LastUpdateUtc", "deleted", "body"}], "cursor", "more", "serverUtc"}.';

CREATE FUNCTION @extschema@.docsync_pull(
	"clientId"		pg_catalog.text DEFAULT NULL,
	cursor			pg_catalog.text DEFAULT NULL,
	collection		pg_catalog.text DEFAULT NULL,
	origin			pg_catalog.text DEFAULT NULL,
	"maxDocuments"	pg_catalog.int4 DEFAULT 1000)
	RETURNS docsync."*/*"
	AS 'MODULE_PATHNAME'
	LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED;
COMMENT ON FUNCTION @extschema@.docsync_pull(pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.int4) IS
'Download alone, by GET, in a read-only transaction, on a standby. origin: else other than the clientId, and without one, any.
Answers as docsync_sync does, with "received": 0 and no results.';

CREATE FUNCTION @extschema@.docsync_docs_sync(pg_catalog.jsonb)
	RETURNS docsync."*/*"
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.docsync_docs_sync(pg_catalog.jsonb) IS
'A whole sync, as docsync_sync: its arguments are the keys of one object, the body of the request.';

CREATE FUNCTION @extschema@.docsync_docs(pg_catalog.jsonb)
	RETURNS docsync."*/*"
	AS 'MODULE_PATHNAME'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.docsync_docs(pg_catalog.jsonb) IS
'The protocol''s POST /Docs: the body is an array of documents, or {"clientId", "documents", "collection"}.
Answers {"received", "results"}.';

CREATE FUNCTION @extschema@.docsync_docs_query(
	origin			pg_catalog.text DEFAULT 'other',
	"sinceUtc"		pg_catalog.text DEFAULT NULL,
	"clientId"		pg_catalog.text DEFAULT NULL,
	collection		pg_catalog.text DEFAULT NULL,
	"maxDocuments"	pg_catalog.int4 DEFAULT NULL)
	RETURNS docsync."*/*"
	AS 'MODULE_PATHNAME'
	LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED;
COMMENT ON FUNCTION @extschema@.docsync_docs_query(pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.int4) IS
'The protocol''s POST /Docs/Query?origin=other&sinceUtc=T.
Answers the array of documents with LastUpdateUtc >= sinceUtc.';

CREATE FUNCTION @extschema@.docsync_grant(role pg_catalog.regrole)
	RETURNS pg_catalog.void
	LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF role IS NULL THEN
		RAISE null_value_not_allowed USING MESSAGE = 'role is null';
	END IF;
	IF NOT EXISTS (SELECT FROM pg_roles WHERE oid = role) THEN
		RAISE undefined_object USING MESSAGE = 'role does not exist';
	END IF;

	-- The schema's name comes quoted. Not the stamp and the fence: nobody sets those but docsync.
	EXECUTE format('GRANT USAGE ON SCHEMA docsync, %s TO %s', '@extschema@', role);
	EXECUTE format('GRANT SELECT,
		INSERT (collection, id, client_version, client_id, deleted, body),
		UPDATE (client_version, client_id, deleted, body)
		ON docsync.document TO %s', role);
	EXECUTE format('GRANT EXECUTE ON FUNCTION
		%1$s.docsync_upsert(text, jsonb, text),
		%1$s.docsync_query_since(text, timestamptz, text, text, int),
		%1$s.docsync_sync(text, json, text, text, text, int),
		%1$s.docsync_pull(text, text, text, text, int),
		%1$s.docsync_docs(jsonb),
		%1$s.docsync_docs_sync(jsonb),
		%1$s.docsync_docs_query(text, text, text, text, int)
		TO %2$s', '@extschema@', role);
END
$$;
COMMENT ON FUNCTION @extschema@.docsync_grant(pg_catalog.regrole) IS
'Gives a role what it needs to upload and download, and nothing that lets it set a stamp. Row-level security on docsync.document narrows it further.';

REVOKE ALL ON FUNCTION
	docsync.guard(),
	@extschema@.docsync_upsert(pg_catalog.text, pg_catalog.jsonb, pg_catalog.text),
	@extschema@.docsync_query_since(pg_catalog.text, pg_catalog.timestamptz, pg_catalog.text, pg_catalog.text, pg_catalog.int4),
	@extschema@.docsync_purge(pg_catalog.interval, pg_catalog.text),
	@extschema@.docsync_new_epoch(),
	@extschema@.docsync_sync(pg_catalog.text, pg_catalog.json, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.int4),
	@extschema@.docsync_pull(pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.int4),
	@extschema@.docsync_docs(pg_catalog.jsonb),
	@extschema@.docsync_docs_sync(pg_catalog.jsonb),
	@extschema@.docsync_docs_query(pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.int4),
	@extschema@.docsync_grant(pg_catalog.regrole)
	FROM PUBLIC;
REVOKE ALL ON TYPE docsync.change, docsync."*/*" FROM PUBLIC;

-- PostgREST, if there is one, shall know the functions.
NOTIFY pgrst, 'reload schema';
