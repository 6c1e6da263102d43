-- table.sql - a collection in the form of PostgREST's own tables: GET, POST, PATCH, DELETE /notes.
--
--	psql -v ON_ERROR_STOP=1 -f table.sql docsync
--
-- After roles.sql, as superuser, once. For libraries that know Supabase's or PostgREST's tables and nothing of docsync, such as
-- the Supabase plugins of RxDB and Legend-State; README.md says what they do without. docsync's own clients see what is written
-- by it, and the other way round.

BEGIN;

-- A view for each kind of documents: this one has the collection TENANT/notes, of the tenant whom the token names. Its columns
-- are keys of the body, and have to bear whatever other clients have put there: a cast that fails for one document fails for all.
--
-- It reads by docsync_query_since(), and so has what is settled: a reader who goes on behind the highest _modified received loses
-- nothing. A view on docsync.document would be faster, by its index, and would lose what is stamped early and committed late.
CREATE VIEW api.notes WITH (security_invoker = true) AS
SELECT id,
	   body ->> 'text' AS text,
	   CASE jsonb_typeof(body -> 'done') WHEN 'boolean' THEN (body -> 'done')::bool END AS done,
	   deleted AS _deleted,
	   last_update_utc AS _modified
  FROM api.docsync_query_since(NULL, origin => 'any',
							   collection => (nullif(current_setting('request.jwt.claims', true), '')::json ->> 'tenant') || '/notes');

-- Writes a row of such a view, whose name is that of the collection, as an upload of one document that is based on the version
-- stored: by docsync's rule, with a stamp, as far as policies let the caller. Keys of the body that aren't columns stay.
CREATE FUNCTION api.write_document() RETURNS trigger
	LANGUAGE plpgsql
AS $$
DECLARE
	claims json := nullif(current_setting('request.jwt.claims', true), '');
	place text := (claims ->> 'tenant') || '/' || TG_TABLE_NAME;
	resolution text := substring(nullif(current_setting('request.headers', true), '')::json ->> 'prefer' FROM 'resolution=([a-z-]+)');
	wanted text := CASE TG_OP WHEN 'INSERT' THEN NEW.id ELSE OLD.id END;
	columns jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) - '{id,_deleted,_modified}'::text[] END;
	stored docsync.document;
	document jsonb;
	written record;
BEGIN
	IF TG_OP = 'UPDATE' AND NEW.id IS DISTINCT FROM OLD.id THEN
		RAISE feature_not_supported USING MESSAGE = format('document "%s": its id can''t be changed', OLD.id);
	END IF;

	-- What is deleted stays as it is until an update sets _deleted to false: a new version would only be sent to everybody again.
	IF TG_OP = 'DELETE' AND OLD._deleted THEN
		RETURN NULL;
	ELSIF TG_OP = 'UPDATE' AND OLD._deleted AND NEW._deleted THEN
		RETURN OLD;
	END IF;

	LOOP
		SELECT * INTO stored FROM docsync.document AS d WHERE d.collection = place AND d.id = wanted;

		IF TG_OP <> 'INSERT' THEN
			IF stored.last_update_utc IS DISTINCT FROM OLD._modified THEN
				RAISE SQLSTATE 'PT409' USING
					MESSAGE = format('document "%s" was changed meanwhile', wanted),
					HINT = 'Read it again.';
			END IF;
		ELSIF stored.id IS NOT NULL AND resolution = 'ignore-duplicates' THEN
			RETURN NULL;
		ELSIF stored.id IS NOT NULL AND resolution IS DISTINCT FROM 'merge-duplicates' THEN
			RAISE unique_violation USING
				MESSAGE = format('document "%s" is there already', wanted),
				HINT = 'Update it. If it is deleted, an update that sets _deleted to false brings it back.';
		END IF;

		IF stored.client_version = 9223372036854775807 THEN
			RAISE SQLSTATE 'PT409' USING
				MESSAGE = format('document "%s" has the highest version there is', wanted),
				HINT = 'Nothing can replace it. Set docsync.max_version_lead, so that no client can send such a version.';
		END IF;
		document := jsonb_build_object(
			'id', wanted,
			'clientVersion', greatest(stored.client_version + 1, (date_part('epoch', clock_timestamp()) * 1000)::int8),
			'baseVersion', stored.client_version);
		IF stored.id IS NOT NULL THEN
			document := document || jsonb_build_object('baseUtc', to_char(stored.last_update_utc AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'));
		END IF;
		IF TG_OP = 'DELETE' OR NEW._deleted THEN
			document := document || '{"deleted": true}';
		ELSIF jsonb_typeof(stored.body) <> 'object' THEN
			RAISE invalid_parameter_value USING
				MESSAGE = format('document "%s" has a body without keys', wanted),
				HINT = 'Only docsync''s own requests can change it.';
		ELSE
			-- An update's null removes the key. An insert's may be that of a column that wasn't named, which an upsert leaves alone.
			stored.body := coalesce(stored.body, '{}')
				- CASE TG_OP WHEN 'UPDATE' THEN ARRAY(SELECT jsonb_object_keys(columns)) ELSE '{}'::text[] END;
			document := document || jsonb_build_object('body',
				stored.body || (SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(columns) WHERE value <> 'null'));
		END IF;

		SELECT * INTO STRICT written FROM api.docsync_upsert(coalesce(claims ->> 'client_id', 'table'), jsonb_build_array(document), place);
		EXIT WHEN written.outcome <> 'conflict';		-- somebody was faster
	END LOOP;

	IF TG_OP = 'DELETE' THEN
		RETURN OLD;
	END IF;
	IF NEW._deleted THEN			-- the answer is what GET gives: no columns
		NEW := jsonb_populate_record(NEW, (SELECT jsonb_object_agg(key, NULL) FROM jsonb_object_keys(columns) AS key));
	END IF;
	NEW._deleted := coalesce(NEW._deleted, false);
	NEW._modified := written.last_update_utc;
	RETURN NEW;
END
$$;

CREATE TRIGGER write_document INSTEAD OF INSERT OR UPDATE OR DELETE ON api.notes
	FOR EACH ROW EXECUTE FUNCTION api.write_document();
GRANT SELECT, INSERT, UPDATE, DELETE ON api.notes TO docsync_user;

NOTIFY pgrst, 'reload schema';
COMMIT;
