-- What the C code expects of the store's tables (src/check.c) is what
-- docsync_create_store() makes: their columns, and the limits of their lengths.
BEGIN;
SET LOCAL client_min_messages = warning;
SELECT plan(8);

CREATE FUNCTION pg_temp.try(command text) RETURNS text
	LANGUAGE plpgsql
AS $$
BEGIN
	EXECUTE command;
	PERFORM docsync_check_store();
	RAISE EXCEPTION USING ERRCODE = 'ZZ000';
EXCEPTION WHEN OTHERS THEN
	RETURN CASE SQLSTATE WHEN 'ZZ000' THEN 'OK' ELSE SQLERRM END;
END
$$;

CREATE TEMP VIEW known AS
	SELECT attrelid::regclass AS relation, relname, attname, atttypid::regtype AS type, attnotnull, attnum = ANY (indkey) AS is_key
	  FROM pg_attribute JOIN pg_class AS c ON c.oid = attrelid LEFT JOIN pg_index ON indrelid = attrelid AND indisprimary
	 WHERE relnamespace = 'docsync'::regnamespace AND relkind = 'r' AND attnum > 0 AND (relname, attname) <> ('history', 'begun');

SELECT is(count(*), 23::bigint, 'all columns but the time when a row of the history was made') FROM known;
SELECT is_empty($$SELECT relation, attname, answer FROM known, pg_temp.try(format('ALTER TABLE %s RENAME %I TO other', relation, attname)) AS answer
	WHERE answer <> format('column "%s" of "docsync.%s" does not exist', attname, relname)$$, 'each is missed');
SELECT is_empty($$SELECT relation, attname, answer FROM known, pg_temp.try(format('ALTER TABLE %s DROP %I CASCADE, ADD %2$I "char"', relation, attname)) AS answer
	WHERE answer <> format('column "%s" of "docsync.%s" has been altered', attname, relname)$$, 'each has its type');
SELECT is_empty($$SELECT relation, attname, answer FROM known, pg_temp.try(format('ALTER TABLE %s ALTER %I DROP NOT NULL', relation, attname)) AS answer
	WHERE attnotnull AND NOT is_key AND answer <> format('column "%s" of "docsync.%s" may be null', attname, relname)$$, 'each that isn''t a key may not be null');
SELECT is(string_agg(relname || '.' || attname, ', '), 'document.body', 'but the body') FROM known WHERE NOT attnotnull;
SELECT is(pg_temp.try('ALTER TABLE docsync.history RENAME begun TO other'), 'OK', 'what isn''t asked for may be missing');

-- By the comments that people read
CREATE TEMP VIEW lengths AS
	SELECT attname, (regexp_match(col_description(attrelid, attnum), '1 to (\d+) bytes'))[1]::int AS length
	  FROM pg_attribute WHERE attrelid = 'docsync.document'::regclass AND atttypid = 'text'::regtype;
SELECT is(string_agg(attname || ' ' || length, ', ' ORDER BY attname), 'client_id 200, collection 200, id 500', 'how long texts may be') FROM lengths;
SELECT is_empty($$SELECT attname, n, answer FROM lengths, generate_series(0, 1) AS n,
	pg_temp.try(format('INSERT INTO docsync.document (body, %s %I) VALUES (''1'', %s repeat(''x'', %s))', CASE attname WHEN 'id' THEN '' ELSE 'id,' END, attname, CASE attname WHEN 'id' THEN '' ELSE '''i'',' END, length + n)) AS answer
	WHERE answer <> CASE n WHEN 0 THEN 'OK' ELSE attname || ' is too long' END$$, 'so long, and no longer');

SELECT * FROM finish();
ROLLBACK;
