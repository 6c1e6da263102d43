-- What is remembered about purged tombstones, and which clients are told of them:
-- random deletions, edits and purges by several clients, compared with a plain
-- computation over everything that was ever removed.
SET client_min_messages = warning;
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
DROP SCHEMA IF EXISTS docsync CASCADE;
DROP EXTENSION IF EXISTS docsync;
CREATE EXTENSION docsync;
DO $$ BEGIN PERFORM docsync_create_store(); END $$;
SELECT plan(10);
SET LOCAL TimeZone = 'UTC';

-- Stamps of 2001 have been issued before the store's first epoch; it begins here.
INSERT INTO docsync.document (collection, id, body, last_update_utc, fence) VALUES ('before', 'x', '1', '2001-12-31', '3');
SELECT docsync_sync('tablet', collection => 'nowhere') AS begun \gset

-- All tombstones that are gone, and the state of each collection after each purge
CREATE TEMP TABLE gone (collection text COLLATE "C", client_id text COLLATE "C", stamp timestamptz);
CREATE TEMP TABLE wrong (n int, what text, expected text, found text);
CREATE TEMP TABLE reader (collection text, client_id text, origin text, since timestamptz, expected text, found text);
CREATE FUNCTION pg_temp.model() RETURNS TABLE (collection text, last_update_utc timestamptz, client_id text, others_utc timestamptz)
	LANGUAGE sql
AS $$
	SELECT g.collection, g.stamp, g.client_id, coalesce((SELECT max(o.stamp) FROM gone AS o WHERE o.collection = g.collection AND o.client_id <> g.client_id), '-infinity')
	  FROM (SELECT DISTINCT ON (collection) * FROM gone ORDER BY collection, stamp DESC) AS g
$$;
-- The tombstones that a purge is to remove: those older than keep, but the newest of
-- its collection, and the newest that isn't of that one's client.
CREATE FUNCTION pg_temp.to_go(before timestamptz, only_collection text) RETURNS SETOF docsync.document
	LANGUAGE sql
AS $$
	SELECT d FROM docsync.document AS d
	 WHERE d.deleted AND d.last_update_utc < before AND (only_collection IS NULL OR d.collection = only_collection)
	   AND d.last_update_utc <> (SELECT max(n.last_update_utc) FROM docsync.document AS n WHERE n.deleted AND n.collection = d.collection)
	   AND d.last_update_utc IS DISTINCT FROM (
		SELECT max(n.last_update_utc) FROM docsync.document AS n WHERE n.deleted AND n.collection = d.collection
		   AND n.client_id <> (SELECT f.client_id FROM docsync.document AS f WHERE f.deleted AND f.collection = d.collection ORDER BY f.last_update_utc DESC LIMIT 1))
$$;
-- Whom a reader is told, by a bare stamp: one who has missed a tombstone that he would have been given, if there is a later document to give.
CREATE FUNCTION pg_temp.told(collection text, client_id text, origin text, since timestamptz) RETURNS text
	LANGUAGE plpgsql
AS $$
BEGIN
	PERFORM docsync_query_since(client_id, since, origin, collection);
	RETURN 'goes on';
EXCEPTION WHEN object_not_in_prerequisite_state THEN
	RETURN 'told';
END
$$;
CREATE FUNCTION pg_temp.should_be_told(collection text, client_id text, origin text, since timestamptz) RETURNS text
	LANGUAGE sql
AS $$
	SELECT CASE WHEN EXISTS (SELECT FROM gone AS g WHERE g.collection = $1 AND g.stamp > $4 AND (origin <> 'other' OR g.client_id <> $2))
				 AND EXISTS (SELECT FROM docsync.document AS d WHERE d.collection = $1 AND d.last_update_utc > $4
							AND (origin = 'any' OR (d.client_id = $2) = (origin = 'own'))) THEN 'told' ELSE 'goes on' END
$$;
-- The same by a cursor: it passes all documents, and is told at once.
CREATE FUNCTION pg_temp.told_by_cursor(collection text, client_id text, since timestamptz) RETURNS text
	LANGUAGE plpgsql
AS $$
BEGIN
	RETURN CASE WHEN (docsync_pull(client_id, (SELECT lpad(to_hex(epoch), 16, '0') FROM docsync.history) || '.' || (extract(epoch FROM since) * 1000000)::bigint, collection, reconcile => true) ->> 'reconcile')::bool
		THEN 'told' ELSE 'goes on' END;
END
$$;

CREATE PROCEDURE pg_temp.play(collections text[], clients text[], rounds int)
	LANGUAGE plpgsql
AS $$
DECLARE
	tick timestamptz := '2001-01-01';
	before timestamptz;
	only_collection text;
	expected bigint;
	removed bigint;
BEGIN
	FOR n IN 1 .. rounds LOOP
		-- Some tombstones with stamps of 2001, a minute apart
		FOR i IN 1 .. 1 + floor(random() * 6)::int LOOP
			tick := tick + interval '1 min';
			INSERT INTO docsync.document (collection, id, client_id, last_update_utc, deleted, body, fence)
				SELECT collections[1 + floor(random() * cardinality(collections))::int], n || '/' || i, clients[1 + floor(random() * cardinality(clients))::int], tick, random() < 0.8, '1', '3';
		END LOOP;
		-- One that comes late, with an older stamp than some that are gone
		IF random() < 0.3 THEN
			INSERT INTO docsync.document (collection, id, client_id, last_update_utc, deleted, fence)
				SELECT collections[1], n || '/late', clients[1 + floor(random() * cardinality(clients))::int], '2001-01-01'::timestamptz + random() * (tick - '2001-01-01'::timestamptz), true, '3';
		END IF;

		before := '2001-01-01'::timestamptz + (0.5 + random() / 2) * (tick - '2001-01-01'::timestamptz);
		only_collection := CASE WHEN random() < 0.5 THEN collections[1 + floor(random() * cardinality(collections))::int] END;
		SELECT count(*) INTO expected FROM pg_temp.to_go(before, only_collection);
		INSERT INTO gone SELECT collection, client_id, last_update_utc FROM pg_temp.to_go(before, only_collection);
		CALL docsync_purge(now() - before, only_collection, removed);

		IF removed <> expected THEN
			INSERT INTO wrong VALUES (n, 'removed', expected, removed);
		END IF;
		INSERT INTO wrong SELECT n, 'still there', '', id FROM docsync.document AS d JOIN gone AS g ON g.collection = d.collection AND g.stamp = d.last_update_utc;
		INSERT INTO wrong SELECT n, 'horizon', m::text, p::text FROM pg_temp.model() AS m FULL JOIN docsync.purged AS p USING (collection)
			 WHERE (m.last_update_utc, m.client_id, m.others_utc) IS DISTINCT FROM (p.last_update_utc, p.client_id, p.others_utc);
		-- Readers at random stamps, of which some are those of tombstones gone
		INSERT INTO reader
			SELECT c.name, client_id, origin, since, pg_temp.should_be_told(c.name, client_id, origin, since), pg_temp.told(c.name, client_id, origin, since)
			  FROM unnest(collections) AS c(name), unnest(clients) AS client_id, unnest('{other,own,any}'::text[]) AS origin,
				   (SELECT stamp + (floor(random() * 3) - 1) * interval '1 us' FROM gone ORDER BY random() LIMIT 3) AS s(since)
			UNION ALL
			SELECT c.name, client_id, 'cursor', since,
				   CASE WHEN EXISTS (SELECT FROM gone AS g WHERE g.collection = c.name AND g.stamp > since)
						 AND EXISTS (SELECT FROM docsync.document AS d WHERE d.collection = c.name) THEN 'told' ELSE 'goes on' END,
				   pg_temp.told_by_cursor(c.name, client_id, since)
			  FROM unnest(collections) AS c(name), unnest(clients) AS client_id,
				   (SELECT stamp + (floor(random() * 3) - 1) * interval '1 us' FROM gone ORDER BY random() LIMIT 3) AS s(since);
	END LOOP;
END
$$;
SELECT setseed(0.17) AS seed \gset
CALL pg_temp.play('{a}', '{phone,tablet}', 100);
SELECT is_empty('SELECT * FROM wrong', 'two clients, one collection');
SELECT is_empty('SELECT * FROM reader WHERE expected <> found', '... and their readers');
SELECT cmp_ok((SELECT count(*) FROM gone), '>', 100::bigint, '... in which tombstones went');
SELECT cmp_ok((SELECT count(*) FROM docsync.document WHERE deleted AND collection = 'a'), '>', 0::bigint, '... and others stay');
SELECT set_eq('SELECT DISTINCT origin, found FROM reader', $$SELECT * FROM unnest('{other,own,any,cursor}'::text[]) AS o, unnest('{told,"goes on"}'::text[]) AS f$$,
	'... of whom some are told, and some go on');
SELECT cmp_ok((SELECT count(*) FROM reader AS a JOIN reader AS b USING (collection, since) WHERE (a.origin, b.origin) = ('other', 'other') AND a.client_id < b.client_id AND a.found <> b.found), '>', 0::bigint,
	'... the one and not the other');
TRUNCATE wrong, reader;
CALL pg_temp.play('{b,c,d}', '{phone,tablet,watch}', 100);
SELECT is_empty('SELECT * FROM wrong', 'three clients, three collections');
SELECT is_empty('SELECT * FROM reader WHERE expected <> found', '... and their readers');
TRUNCATE wrong, reader;
CALL pg_temp.play('{e}', '{phone}', 30);
SELECT is_empty('SELECT * FROM wrong', 'one client');
SELECT is_empty('SELECT * FROM reader WHERE expected <> found', '... and its reader');

SELECT * FROM finish();
ROLLBACK;
