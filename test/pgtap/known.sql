-- Uploads of documents that are all stored already, which are written by UPDATE
-- alone, and cases in which they aren't.
SET client_min_messages = warning;
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
DROP SCHEMA IF EXISTS docsync CASCADE;
DROP EXTENSION IF EXISTS docsync;
CREATE EXTENSION docsync;
DO $$ BEGIN PERFORM docsync_create_store(); END $$;
SELECT plan(35);

CREATE FUNCTION pg_temp.batch(version bigint, documents int) RETURNS jsonb LANGUAGE sql
	AS $$ SELECT jsonb_agg(jsonb_build_object('id', i::text, 'clientVersion', version, 'body', version) ORDER BY i DESC) FROM generate_series(1, documents) AS i $$;
CREATE FUNCTION pg_temp.outcomes(version bigint, documents int, atomic bool DEFAULT true) RETURNS text LANGUAGE plpgsql
AS $$
DECLARE
	result text;
BEGIN
	SELECT string_agg(concat_ws(' ', outcome, count), ', ' ORDER BY outcome) INTO result
	  FROM (SELECT concat_ws(' ', outcome, winner -> 'body', error ->> 'code') AS outcome, count(*) FROM docsync_upsert('c', pg_temp.batch(version, documents), atomic => atomic) GROUP BY 1) AS o;
	RETURN result;
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
-- How many stamps were taken for how many documents: an INSERT takes one of its own.
CREATE FUNCTION pg_temp.stamps(version bigint, documents int) RETURNS text LANGUAGE plpgsql
AS $$
DECLARE
	outcome text := pg_temp.outcomes(version, documents);
BEGIN
	RETURN (SELECT concat_ws(' ', outcome || ',', (extract(epoch FROM max(last_update_utc) - min(last_update_utc)) * 1000000)::int + 1, 'stamps')
			  FROM docsync.document WHERE client_version = version);
END
$$;

SELECT is(pg_temp.outcomes(1, 10), 'created 10', 'ten are created');
SELECT is(pg_temp.stamps(2, 10), 'updated 10, 10 stamps', 'ten that are stored take a stamp each');
SELECT is(pg_temp.outcomes(2, 10), 'unchanged 10', '... and a retry none');
SELECT is(pg_temp.outcomes(3, 1), 'updated 1', 'a single one');
SELECT is((SELECT string_agg(outcome, ', ' ORDER BY ordinal) FROM docsync_upsert('c', pg_temp.batch(4, 1) || pg_temp.batch(5, 1) || pg_temp.batch(4, 1))), 'updated, updated, discarded', '... several times');
SELECT is(pg_temp.outcomes(6, 1200), 'created 1190, updated 10', 'some of many are stored');
SELECT is(pg_temp.stamps(7, 1200), 'updated 1200, 1200 stamps', 'more than one statement writes');
SELECT is(concat_ws(' ', a.outcome, b.outcome, after.last_value - before.last_value), 'updated unchanged 0', 'what this very statement has stored is found')
  FROM docsync_upsert('c', pg_temp.batch(8, 1)) AS a,
	   LATERAL (SELECT last_value FROM docsync.clock WHERE a.outcome <> '' OFFSET 0) AS before,
	   LATERAL docsync_upsert('c', pg_temp.batch(8 + 0 * before.last_value, 1)) AS b,
	   LATERAL (SELECT last_value FROM docsync.clock WHERE b.outcome <> '' OFFSET 0) AS after;
DO $$ BEGIN PERFORM docsync_upsert('c', jsonb_build_array(jsonb_build_object('id', '1', 'clientVersion', 9, 'body', repeat(md5('x'), 30000)))); END $$;
SELECT is((SELECT outcome || ' ' || length(winner ->> 'body') FROM docsync_upsert('c', pg_temp.batch(8, 1))), 'discarded 960000', 'a large one comes back');
SELECT is(pg_temp.outcomes(10, 10), 'updated 10', 'and is replaced');

------------------------------------------------------------------------------
-- Triggers for UPDATE
------------------------------------------------------------------------------
CREATE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN CASE WHEN new.id <> '5' THEN new END; END $$;
CREATE FUNCTION complete() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.body := to_jsonb('by a trigger'::text); RETURN new; END $$;
CREATE FUNCTION hear() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO heard VALUES (TG_OP); RETURN NULL; END $$;
CREATE TABLE heard (what text);
CREATE TRIGGER own BEFORE UPDATE ON docsync.document FOR EACH ROW EXECUTE FUNCTION suppress();
SELECT is(pg_temp.outcomes(11, 10), '27000 document 6 was not stored', 'a suppressed row refuses the batch');
SELECT is(pg_temp.outcomes(11, 10, false), 'refused 27000 1, updated 9', '... or is refused alone');
SELECT is((SELECT outcome || ' ' || (error ->> 'code') FROM docsync_upsert('c', '[{"id": "5", "clientVersion": 11, "body": 1}]', atomic => false)), 'refused 27000', '... as a single one is');
SELECT throws_ok($$SELECT docsync_upsert('c', '[{"id": "5", "clientVersion": 11, "body": 1}]')$$, '27000', 'document 1 was not stored');
DROP TRIGGER own ON docsync.document;
CREATE TRIGGER own BEFORE UPDATE ON docsync.document FOR EACH ROW EXECUTE FUNCTION complete();
SELECT is(pg_temp.outcomes(12, 10), 'modified "by a trigger" 10', 'what a trigger has changed');
SELECT is(pg_temp.outcomes(13, 1), 'modified "by a trigger" 1', '... of a single one');
DROP TRIGGER own ON docsync.document;

------------------------------------------------------------------------------
-- Triggers for INSERT hear of what is stored, too, as of any upload
------------------------------------------------------------------------------
CREATE TRIGGER own BEFORE INSERT ON docsync.document FOR EACH ROW EXECUTE FUNCTION complete();
SELECT is(pg_temp.outcomes(14, 10), 'modified "by a trigger" 10', 'what a trigger for INSERT has changed');
SELECT is(pg_temp.outcomes(15, 1), 'modified "by a trigger" 1', '... of a single one');
ALTER TABLE docsync.document DISABLE TRIGGER own;
SELECT is(pg_temp.stamps(16, 10), 'updated 10, 10 stamps', 'one that is off doesn''t');
DROP TRIGGER own ON docsync.document;
CREATE TRIGGER own AFTER INSERT ON docsync.document FOR EACH STATEMENT EXECUTE FUNCTION hear();
SELECT is(pg_temp.stamps(17, 10), 'updated 10, 19 stamps', 'one for each statement ...');
SELECT is((SELECT string_agg(what, ', ') FROM heard), 'INSERT', '... is fired');
DROP TRIGGER own ON docsync.document;
CREATE TRIGGER own AFTER INSERT ON docsync.document FOR EACH ROW EXECUTE FUNCTION hear();
SELECT is(pg_temp.stamps(18, 10), 'updated 10, 10 stamps', 'one for each row that has been inserted ...');
SELECT is((SELECT string_agg(what, ', ') FROM heard), 'INSERT', '... isn''t');
DROP TRIGGER own ON docsync.document;
CREATE RULE own AS ON UPDATE TO docsync.document DO ALSO SELECT 1;
SELECT matches(pg_temp.outcomes(19, documents), '^0A000 INSERT with ON CONFLICT clause cannot be used', format('a rule: %s documents', documents)) FROM unnest('{1,10}'::int[]) AS documents;
DROP RULE own ON docsync.document;
SELECT is(pg_temp.stamps(20, 10), 'updated 10, 10 stamps', 'without');

------------------------------------------------------------------------------
-- Where no trigger fires there is no stamp
------------------------------------------------------------------------------
SET LOCAL session_replication_role = replica;
SELECT matches(pg_temp.outcomes(21, documents), '^23502 null value in column "last_update_utc"', format('session_replication_role: %s documents', documents)) FROM unnest('{1,10}'::int[]) AS documents;
SET LOCAL session_replication_role = origin;

------------------------------------------------------------------------------
-- Policies
------------------------------------------------------------------------------
CREATE ROLE regress_docsync_known;
SELECT docsync_grant('regress_docsync_known') \gset
ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY;
CREATE POLICY look ON docsync.document FOR SELECT USING (id <> '7');
CREATE POLICY change ON docsync.document FOR UPDATE USING (true);
SET LOCAL ROLE regress_docsync_known;
SELECT matches(pg_temp.outcomes(22, documents), '^42501 new row violates row-level security policy for table "document"', format('a policy for UPDATE is no policy for INSERT: %s documents', documents)) FROM unnest('{1,6}'::int[]) AS documents;
RESET ROLE;
CREATE POLICY make ON docsync.document FOR INSERT WITH CHECK (id <> '3');
SET LOCAL ROLE regress_docsync_known;
SELECT is(pg_temp.outcomes(22, 2), 'updated 2', 'with one for INSERT, as it allows');
SELECT matches(pg_temp.outcomes(22, 4), '^42501 new row violates row-level security policy for table "document"', '... and not as it doesn''t');
SELECT is((SELECT string_agg(outcome, ', ') FROM docsync_upsert('c', '[{"id": "new 1", "clientVersion": 1, "body": 1}, {"id": "new 2", "clientVersion": 1, "body": 1}]')), 'created, created', 'new ones');
SELECT matches(pg_temp.outcomes(22, 10), '^42501 new row violates row-level security policy', 'one that is hidden');
SET LOCAL row_security = off;
SELECT is(pg_temp.outcomes(1, 1), '42501 query would be affected by row-level security policy for table "document"', 'where that is to be an error');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;
