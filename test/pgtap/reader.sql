-- Docsync reads requests itself: it accepts, refuses and stores the same as
-- jsonb_in(). Tested with inputs that JSON parsers disagree about, and with random
-- ones, compared with docsync_upsert, whose documents PostgreSQL has parsed.
SET client_min_messages = warning;
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS docsync;
DO $$ BEGIN PERFORM docsync_create_store(); END $$;
SELECT plan(14);
SELECT set_config('request.headers', '{"x-client-id": "c"}', true) \g /dev/null
SELECT setseed(0.42) AS seed \gset

-- What becomes of a request: the outcomes and the documents there are then, which are gone again on return
CREATE FUNCTION pg_temp.result(request bytea) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	outcomes text;
BEGIN
	outcomes := (SELECT string_agg(concat_ws(' ', r ->> 'id', r ->> 'outcome'), ', ' ORDER BY n) FROM json_array_elements(docsync_docs(request) -> 'results') WITH ORDINALITY AS e(r, n));
	RAISE SQLSTATE 'STORE' USING MESSAGE = concat_ws(': ', outcomes, (SELECT string_agg(concat_ws(' ', id, client_version, deleted, coalesce(body::text, 'SQL null')), ', ' ORDER BY id) FROM docsync.document WHERE collection = 'default'));
EXCEPTION
	WHEN SQLSTATE 'STORE' THEN
		RETURN SQLERRM;
	WHEN OTHERS THEN
		RETURN format('refused: %s %s', SQLSTATE, SQLERRM);
END
$$;
CREATE FUNCTION pg_temp.result_as_jsonb(request bytea) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	outcomes text;
BEGIN
	outcomes := (SELECT string_agg(concat_ws(' ', id, outcome), ', ' ORDER BY ordinal) FROM docsync_upsert('c', convert_from(request, 'UTF8')::jsonb));
	RAISE SQLSTATE 'STORE' USING MESSAGE = concat_ws(': ', outcomes, (SELECT string_agg(concat_ws(' ', id, client_version, deleted, coalesce(body::text, 'SQL null')), ', ' ORDER BY id) FROM docsync.document WHERE collection = 'default'));
EXCEPTION
	WHEN SQLSTATE 'STORE' THEN
		RETURN SQLERRM;
	WHEN OTHERS THEN
		RETURN format('refused: %s %s', SQLSTATE, SQLERRM);
END
$$;
-- Are two of them the same? Why it was refused may be said in other words, or of another place.
CREATE FUNCTION pg_temp.is_same(a text, b text) RETURNS boolean
	LANGUAGE sql IMMUTABLE
AS $$
	SELECT $1 = $2 OR ($1 LIKE 'refused:%' AND $2 LIKE 'refused:%')
$$;

------------------------------------------------------------------------------
-- Inputs that readers of JSON disagree about
------------------------------------------------------------------------------
CREATE TEMP TABLE input (n serial, body bytea);
-- structures, literals, numbers, white space
INSERT INTO input (body) SELECT convert_to(b, 'UTF8') FROM unnest(ARRAY['[]', '[[]]', '[[],[[]]]', '[1]', '[1,2]', '[1,]', '[,1]', '[,]', '[1,,2]', '[1 2]', '[1:2]', '[1;2]', '[', ']', '[[]', '[]]', '[}', '[1}', '["a"', '["a', '[null', '[nul]', '[n', '{}', '{"a":1}', '{"a":1,}', '{,"a":1}', '{"a"}', '{"a":}', '{:1}', '{"a" 1}', '{a:1}', '{''a'':1}', '{1:1}', '{null:1}', '{"a":1 "b":2}',
	'{"a":1,,"b":2}', '{"a":1;"b":2}', '{"a":{}', '{"a":1]', '{"a":1}}', '{"":1}', '{"a":1,"a":2}', '{"a":1,"a":1}', '{"b":1,"a":2,"b":3}', '{"a":{"b":{"c":[]}}}', '{"a":1,"A":2}', '{"a\u0062":1,"ab":2}', '{}{}', '[][]', '1 2', 'true', 'false', 'null', 'True', 'TRUE', 'tru', 'truex', 'nul', 'nulll', 'undefined', 'NaN', '-NaN', 'nan', 'Infinity', '-Infinity', 'inf', '', ' ', '/**/1', '1//', '#1', '1 --',
	'0', '-0', '00', '01', '-01', '-', '--1', '+1', '1+1', '1.', '.1', '-.1', '1.0', '1.10', '1..0', '1.0.0', '1e', '1e+', '1e-', '1e1', '1E1', '1e+1', '1e-1', '1e01', '1e1.0', '1e1e1', '0e0', '0e1', '-0e-1', '0.0', '-0.0', '0.00e2', '1.5e-3', '1e399', '1e-399', '123456789012345678901234567890', '0.1e1', '10e-1', '1000000000000000000000000000000000000000e-39', '9223372036854775807', '9223372036854775808', '1a', '1 a', '0x1', '1_000', '1,000', '１', '1/2', '(1)', '=1', '$1', '"1"',
	' 1', '1 ', E'\t1\n', E'\r\n1', E'\f1', E'\v1', E'\b1', E'1\u00a0', E'\u20281', E'[1\u2028]', E'[\n1\n,\n2\n]', E'{\t"a"\t:\t1\t}', E'\ufeff1', E'\u200b1']) AS b;
-- strings
INSERT INTO input (body) SELECT convert_to(b, 'UTF8') FROM unnest(ARRAY['""', '"a"', '"', '"""', '"a', 'a"', '''a''', '"\', '"\"', '"\""', '"\\"', '"\\\"', '"\/"', '"\b\f\n\r\t"', '"\a"', '"\v"', '"\0"', '"\x41"', '"\''"', '"\ "', '"\U0041"', '"\u"', '"\u1"', '"\u12"', '"\u123"', '"\u1234"', '"\u12345"', '"\uABCD"', '"\uabcd"', '"\uABCG"', '"\u 123"', '"\u+123"', '"\u-123"', '"\u0000"', '"\u0000a"', '"a\u0000"', '"\\u0000"', '"\u0001"', '"\u001f"', '"\u0020"', '"\u0022"', '"\u005c"', '"\u007f"', '"\u0080"', '"\u07ff"', '"\u0800"',
	'"\ud7ff"', '"\ud800"', '"\ud800\ud800"', '"\ud800\u0041"', '"\ud800a"', '"\ud800\n"', '"\ud800\udc00"', '"\udbff\udfff"', '"\udc00"', '"\udc00\ud800"', '"\udfff"', '"\ue000"', '"\uffff"', '"\ufffe"', '"\ufdd0"', '"\ud83d\ude00\ud83d"', '"\ud83d\ude00\ude00"', '"\ud83d \ude00"', '"\\ud800"', '["\ud800"]', '{"\ud800":1}', '{"\u0000":1}', '{"\u0061":1,"a":2}', E'"\t"', E'"\n"', E'"\r"', E'"\x01"', E'"\x1f"', E'"\x7f"', E'"\u0080"', E'"\u2028\u2029"', E'"\ufeff"', E'"\U0001F600"', E'"\U0010FFFF"', E'"\uFFFE\uFFFF"', E'"\uFDD0"',
	'"' || repeat('x', 15) || '"', '"' || repeat('x', 16) || '"', '"' || repeat('x', 17) || '"', '"' || repeat('x', 31) || E'\t"', '"' || repeat('x', 15) || '\n"', '"' || repeat('x', 16) || '\n"', '"' || repeat('x', 33), '"' || repeat('é', 20) || '"', '"' || repeat('\u00e9', 20) || '"']) AS b;
-- bytes that aren't UTF-8
INSERT INTO input (body) SELECT b FROM unnest(ARRAY['\x2280', '\x228022', '\x22bf22', '\x22c022', '\x22c08022', '\x22c1bf22', '\x22c222', '\x22c28022', '\x22dfbf22', '\x22df22', '\x22e022', '\x22e0808022', '\x22e09fbf22', '\x22e0a08022', '\x22e0a022', '\x22ed9fbf22', '\x22eda08022', '\x22edbfbf22', '\x22ee808022', '\x22efbfbf22', '\x22f022', '\x22f0808022', '\x22f080808022', '\x22f08fbfbf22', '\x22f090808022', '\x22f0908022', '\x22f48fbfbf22', '\x22f490808022', '\x22f5808022', '\x22f88880808022', '\x22fe22', '\x22ff22',
	'\x2200', '\x220022', '\x5b005d', '\x00', '\x3100', '\x31ff', '\x80', '\x5b31ff5d', '\xefbbbf31', '\xfffe3100', '\x31002000', '\x22c3a9c322', '\x22e282ac22', '\x22e282ace28222', '\x2278c3285c6e22']::bytea[]) AS b;
-- each also within an array, and as a key
INSERT INTO input (body) SELECT '[0, '::bytea || body || ', {"a": '::bytea || body || '}]'::bytea FROM input;
INSERT INTO input (body) SELECT '{'::bytea || body || ': 1}'::bytea FROM input WHERE body LIKE '"%';
CREATE TEMP TABLE answer AS
	SELECT n, encode(body, 'escape') AS body, pg_temp.result(request), pg_temp.result_as_jsonb(request) AS as_jsonb
	  FROM input, LATERAL (SELECT '[{"id": "before", "clientVersion": 1, "body": 1}, {"id": "x", "clientVersion": 1, "body": '::bytea || body || '}, {"id": "y", "clientVersion": 1, "body": 1}]'::bytea AS request) AS r;
SELECT is_empty('SELECT * FROM answer WHERE NOT pg_temp.is_same(result, as_jsonb) LIMIT 5', 'inputs that readers disagree about: as jsonb_in() does it');
SELECT cmp_ok(count(*) FILTER (WHERE result LIKE 'refused:%'), '>', 400::bigint, '... many are refused') FROM answer;
SELECT cmp_ok(count(*) FILTER (WHERE result NOT LIKE 'refused:%'), '>', 200::bigint, '... and many not') FROM answer;
-- All of it says where.
SELECT is_empty($$SELECT * FROM answer WHERE result ~ '^refused' AND result !~ '^refused: 22(P02|P05|021|023) document [23](, "body")?: [a-zA-Z]' AND result !~ 'document 2, "x"' LIMIT 5$$, '... with a place');

------------------------------------------------------------------------------
-- Random values, each in several spellings
------------------------------------------------------------------------------
CREATE FUNCTION pg_temp.blank() RETURNS text LANGUAGE sql VOLATILE AS $$
	SELECT CASE WHEN random() < 0.8 THEN '' ELSE (ARRAY[' ', E'\n', E'\t', E'\r\n', '   '])[1 + floor(random() * 5)::int] END
$$;
CREATE FUNCTION pg_temp.any_text() RETURNS text LANGUAGE sql VOLATILE AS $$
	SELECT coalesce(string_agg((ARRAY['a', 'b', 'é', '€', '😀', '"', '\', '/', E'\n', E'\x01', ' ', 'xxxxxxxxxxxxxxxx', 'u0041', '{', ']', ','])[1 + floor(random() * 16)::int], ''), '') FROM generate_series(1, floor(random() * random() * 9)::int)
$$;
-- A string, each character as it is or as an escape
CREATE FUNCTION pg_temp.spell_text(value text) RETURNS text LANGUAGE sql VOLATILE AS $$
	SELECT '"' || coalesce(string_agg(CASE
		WHEN random() < 0.1 AND ascii(c) < 65536 THEN '\u' || lpad(to_hex(ascii(c)), 4, '0')
		WHEN random() < 0.1 AND ascii(c) >= 65536 THEN '\u' || to_hex(55296 + (ascii(c) - 65536) / 1024) || '\u' || upper(to_hex(56320 + (ascii(c) - 65536) % 1024))
		WHEN c = '/' AND random() < 0.5 THEN '\/'
		ELSE trim('"' FROM replace(to_json(c)::text, '\"', '\u0022')) END, '' ORDER BY n), '') || '"'
	  FROM regexp_split_to_table(value, '') WITH ORDINALITY AS t(c, n) WHERE c <> ''
$$;
CREATE FUNCTION pg_temp.any_number() RETURNS text LANGUAGE sql VOLATILE AS $$
	SELECT (ARRAY['0', '-0', '1', '-1.50', '15', '1.5e1', '150e-1', '15.0', '12345678901234567890', '0.001', '1e-3', '1E+3', '1000', '0e5', '1e30', '1.7976931348623157e308', '1e399', '3.14159265358979'])[1 + floor(random() * 18)::int]
$$;
CREATE FUNCTION pg_temp.spell_number(value text) RETURNS text LANGUAGE sql VOLATILE AS $$
	SELECT CASE WHEN random() < 0.7 THEN value WHEN value ~ '[.eE]' OR length(value) > 100 THEN value WHEN random() < 0.5 THEN value || '.0' ELSE value || 'e0' END
$$;
-- A value, as text, nothing in it but what JSON has
CREATE FUNCTION pg_temp.any_json(depth int) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	kind float := random() * CASE WHEN depth > 0 THEN 1 ELSE 0.6 END;
	size int := floor(random() * random() * 7);
	parts text[] := '{}';
BEGIN
	IF kind < 0.2 THEN RETURN pg_temp.spell_text(pg_temp.any_text()); END IF;
	IF kind < 0.4 THEN RETURN pg_temp.any_number(); END IF;
	IF kind < 0.6 THEN RETURN (ARRAY['true', 'false', 'null'])[1 + floor(random() * 3)::int]; END IF;
	FOR i IN 1..size LOOP
		parts := parts || (CASE WHEN kind < 0.8 THEN '' ELSE pg_temp.blank() || pg_temp.spell_text(pg_temp.any_text()) || pg_temp.blank() || ':' END || pg_temp.blank() || pg_temp.any_json(depth - 1) || pg_temp.blank());
	END LOOP;
	RETURN CASE WHEN kind < 0.8 THEN '[' || array_to_string(parts, ',') || ']' ELSE '{' || array_to_string(parts, ',') || '}' END;
END
$$;
-- A jsonb in a spelling of its own: keys in any order, some of them before with another value
CREATE FUNCTION pg_temp.spell(value jsonb) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	CASE jsonb_typeof(value)
		WHEN 'string' THEN RETURN pg_temp.spell_text(value #>> '{}');
		WHEN 'number' THEN RETURN pg_temp.spell_number(value #>> '{}');
		WHEN 'array' THEN RETURN '[' || pg_temp.blank() || coalesce((SELECT string_agg(pg_temp.spell(v) || pg_temp.blank(), ',' ORDER BY n) FROM jsonb_array_elements(value) WITH ORDINALITY AS e(v, n)), '') || ']';
		WHEN 'object' THEN
			RETURN '{' || pg_temp.blank() || coalesce((SELECT string_agg(CASE WHEN random() < 0.05 THEN pg_temp.spell_text(k) || ':' || pg_temp.any_json(0) || ',' ELSE '' END || pg_temp.spell_text(k) || pg_temp.blank() || ':' || pg_temp.spell(v), ',' || pg_temp.blank() ORDER BY random())
				FROM jsonb_each(value) AS e(k, v)), '') || '}';
		ELSE RETURN value::text;
	END CASE;
END
$$;
-- Small damage to a text
CREATE FUNCTION pg_temp.damage(value bytea) RETURNS bytea LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	place int;
BEGIN
	FOR i IN 1..1 + floor(random() * 2)::int LOOP
		place := 1 + floor(random() * length(value));
		value := CASE floor(random() * 4)::int
			WHEN 0 THEN overlay(value PLACING ''::bytea FROM place FOR 1)
			WHEN 1 THEN overlay(value PLACING decode(lpad(to_hex(floor(random() * 256)::int), 2, '0'), 'hex') FROM place FOR 1)
			WHEN 2 THEN overlay(value PLACING convert_to((ARRAY['"', '\', ',', ':', '{', '}', '[', ']', '0', 'e', '-', '.', ' ', '\u0000', '\ud800', '1e400', 'null', '"a"', '"body":', '"id":"z",'])[1 + floor(random() * 20)::int], 'UTF8') FROM place FOR 0)
			ELSE overlay(value PLACING substr(value, 1 + floor(random() * length(value))::int, 1 + floor(random() * 10)::int) FROM place FOR 0) END;
	END LOOP;
	RETURN value;
END
$$;
CREATE TEMP TABLE sample AS SELECT n, pg_temp.any_json(4) AS body FROM generate_series(1, 1500) AS n;
CREATE TEMP TABLE request AS
	SELECT n, convert_to(format('[{"id": "w", "clientVersion": 1, "body": 1},%s{"id": %s, "body": %s, "clientVersion":%s%s}%s]', pg_temp.blank(), pg_temp.spell_text('x' || pg_temp.any_text()), body, pg_temp.spell_number((n % 7)::text),
			CASE WHEN n % 5 = 0 THEN ', "deleted": true' WHEN n % 7 = 0 THEN ', "LastUpdateUtc": ' || pg_temp.any_json(2) ELSE '' END, pg_temp.blank()), 'UTF8') AS bytes FROM sample;
INSERT INTO request SELECT n, pg_temp.damage(bytes) FROM request, generate_series(1, 3);
CREATE TEMP TABLE answered AS SELECT n, encode(bytes, 'escape') AS request, pg_temp.result(bytes), pg_temp.result_as_jsonb(bytes) AS as_jsonb FROM request;
-- A number that is too long, or a body too deep, is refused even where another counts.
SELECT is_empty($$SELECT * FROM answered WHERE NOT pg_temp.is_same(result, as_jsonb) AND result !~ 'number too long|nested too deeply' AND length(request) > 0 LIMIT 5$$, 'random requests: as jsonb_in() does it');
SELECT cmp_ok(count(*) FILTER (WHERE NOT pg_temp.is_same(result, as_jsonb)), '<', 20::bigint, '... but for a few with a number that does not count') FROM answered;
SELECT cmp_ok(count(*) FILTER (WHERE result LIKE 'refused:%'), '>', 1500::bigint, '... many are refused') FROM answered;
SELECT cmp_ok(count(*) FILTER (WHERE result NOT LIKE 'refused:%'), '>', 1500::bigint, '... and many not') FROM answered;
SELECT cmp_ok(count(DISTINCT regexp_replace(result, '\d+', 'N', 'g')) FILTER (WHERE result LIKE 'refused:%'), '>', 20::bigint, '... for various reasons') FROM answered;

------------------------------------------------------------------------------
-- What is sent again, in other words, is unchanged; and nothing else.
------------------------------------------------------------------------------
SELECT docsync_docs(convert_to('[' || string_agg(format('{"id": "%s", "clientVersion": 1, "body": %s}', n, body), ',') || ']', 'UTF8')) FROM sample \g /dev/null
CREATE TEMP TABLE again AS
	SELECT n, s.body, CASE WHEN i = 1 THEN s.body WHEN i < 4 THEN pg_temp.spell(s.body::jsonb) ELSE pg_temp.spell(overwritten) END AS sent
	  FROM sample AS s, generate_series(1, 5) AS i,
		   LATERAL (SELECT (ARRAY[other.body::jsonb, to_jsonb(s.body::jsonb), s.body::jsonb || '[]', jsonb_build_array(s.body::jsonb)])[1 + (s.n + i) % 4] AS overwritten FROM sample AS other WHERE other.n = s.n % 1500 + 1) AS o;
CREATE TEMP TABLE said AS
	SELECT a.*, docsync_docs(convert_to(format('[{"id": "%s", "clientVersion": 1, "body": %s}]', n, sent), 'UTF8')) #>> '{results,0,outcome}' AS outcome FROM again AS a;
SELECT is_empty($$SELECT * FROM said WHERE outcome <> CASE WHEN sent::jsonb = body::jsonb THEN 'unchanged' ELSE 'discarded' END LIMIT 5$$, 'what is sent again is unchanged if it is equal as jsonb, and discarded if not');
SELECT cmp_ok(count(*) FILTER (WHERE outcome = 'unchanged' AND sent <> body), '>', 1000::bigint, '... in other words') FROM said;
SELECT cmp_ok(count(*) FILTER (WHERE outcome = 'discarded'), '>', 1000::bigint, '... or another') FROM said;
SELECT is_empty('SELECT n, s.body, d.body FROM sample AS s JOIN docsync.document AS d ON d.collection = $$default$$ AND d.id = s.n::text WHERE d.body::text <> s.body::jsonb::text', 'what is stored is what jsonb_in() makes of it');
-- Objects of more keys than a word has bits
SELECT is((SELECT string_agg(docsync_docs(convert_to(format('[{"id": "keys", "clientVersion": 1, "body": {%s}}]', keys), 'UTF8')) #>> '{results,0,outcome}', ' ' ORDER BY n)
	FROM (SELECT 1, string_agg(format('"k%s": %s', i, i), ',') FROM generate_series(1, 200) AS i
		UNION ALL SELECT 2, string_agg(format('"k%s": %s', i, i), ',' ORDER BY i DESC) FROM generate_series(1, 200) AS i
		UNION ALL SELECT 3, string_agg(format('"k%s": %s', i, i), ',') FROM generate_series(1, 199) AS i
		UNION ALL SELECT 4, string_agg(format('"k%s": %s', i, i), ',') FROM generate_series(1, 201) AS i
		UNION ALL SELECT 5, string_agg(format('"k%s": %s', (i - 1) % 199 + 1, (i - 1) % 199 + 1), ',') FROM generate_series(1, 200) AS i
		UNION ALL SELECT 6, string_agg(format('"k%s": %s', i, i % 200), ',') FROM generate_series(1, 200) AS i
		UNION ALL SELECT 7, '"k7": 0,' || string_agg(format('"k%s": %s', i, i), ',') FROM generate_series(1, 200) AS i) AS k(n, keys)), 'created unchanged discarded discarded discarded discarded unchanged', 'many keys');

SELECT * FROM finish();
ROLLBACK;
