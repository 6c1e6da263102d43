-- Which bytes a request may consist of: each refusal names the position, for people
-- and for programs, and nothing is stored. The functions for HTTP read the bytes
-- themselves; docsync_upsert is given a jsonb; the same limits apply to plain SQL.
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
SET bytea_output = escape;
CREATE EXTENSION docsync;
SELECT docsync_create_store() \g /dev/null
SET request.headers = '{"x-client-id": "c"}';
-- How bytes are refused, or what is stored of them as the document "x", and is gone again: SQLSTATE, message, detail
CREATE FUNCTION pg_temp.send(request bytea) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	stored text;
	detail text;
BEGIN
	PERFORM docsync_docs(request);
	RAISE SQLSTATE 'STORE' USING MESSAGE = 'stored: ' || coalesce((SELECT left(body::text, 200) FROM docsync.document WHERE collection = 'default' AND id = 'x'), '(null)');
EXCEPTION
	WHEN SQLSTATE 'STORE' THEN
		RETURN SQLERRM;
	WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
		RETURN concat_ws(' / ', SQLSTATE, SQLERRM, nullif(detail, ''));
END
$$;
CREATE FUNCTION pg_temp.send(request text) RETURNS text
	LANGUAGE sql
AS $$
	SELECT pg_temp.send(convert_to($1, 'UTF8'))
$$;
-- Of two documents the second has the body.
CREATE FUNCTION pg_temp.try(body text) RETURNS text
	LANGUAGE sql
AS $$
	SELECT pg_temp.send('[{"id": "w", "clientVersion": 1, "body": 1}, {"id": "x", "clientVersion": 1, "body": ' || $1 || '}]')
$$;

--
-- What is no JSON
--
SELECT b, pg_temp.try(b) FROM unnest(ARRAY['', '1 2', 'nul', 'nulls', 'True', '"', '"x', '[', '[1', '[1,', '[1,]', '[,1]', '[1 2]', '[1:2]', '[}', '{', '{"a"', '{"a":', '{"a":1', '{"a":1,', '{"a":1,}', '{,}', '{1:2}', '{"a" 1}',
	'{"a":1 "b":2}', '{"a":1]', '{"a","b"}', ']', '}', ',', ':', '01', '-', '+1', '.5', '1.', '1e', '1e+', '0x1', 'NaN', 'Infinity', '-Infinity', '''a''', '/* */ 1', '"' || E'\t' || '"', '"' || E'\x01' || '"', '"\x"', '"\u12"', '"\u12g4"', '"\']) AS b;
SELECT r, pg_temp.send(r) FROM unnest(ARRAY['', ' ', '[', '[{', '[{"id"', '[{"id":', '[{"id": "x"', '[{"id": "x",', '[{"id": "x", "clientVersion": 1, "body": 1}', '[{"id": "x", "clientVersion": 1, "body": 1},]', '[{"id": "x", "clientVersion": 1, "body": 1} {}]',
	'[{"id": "x", "clientVersion": 1, "body": 1}] 1', '[{"id": "x", "clientVersion": 1, "body": 1}}', '{"clientId": "c" "documents": []}', '{"clientId": c, "documents": []}', '{"documents": []', '{"documents": [nonsense', '{"documents": [], }', '{"documents": []}}', '{1: 2}', '{} {}', 'nonsense']) AS r;
-- A long token isn't quoted whole.
SELECT pg_temp.try('"' || repeat('é', 100000)), pg_temp.try(repeat('x', 100000));

--
-- Characters
--
SELECT b, pg_temp.try(b) FROM unnest(ARRAY['"\u0000"', '{"note":"x\u0000y"}', '{"\u0000":1}', '["\\u0000"]', '"\ud800"', '"\udc00"', '"\ud800\ud800"', '"\ud800x"', '"\ud83d\ude00"', '"\ude00\ud83d"', '{"\ud800":1}', '[["a", {"b": "\ud800"}]]',
	'"\u0001\b\f\n\r\t\"\\\/"', '"\u00e9\u20AC"', '"é€😀"', '"\uD834\uDD1E"', '"\uFFFF\uffff"', '"\u0000000"', '"' || repeat('\\', 20) || '\u0000"']) AS b;
SELECT k, pg_temp.send(replace('[{"id": "ID", "clientVersion": 1, "body": 1}]', 'ID', k)) FROM unnest(ARRAY['\u0000', 'a\u0000', '\ud800', '\ud83d\ude00\u0000', '\']) AS k;
-- An escape is what it stands for, in keys and in values.
SELECT pg_temp.send('[{"\u0069d": "\u0078", "client\u0056ersion": 7, "bod\u0079": "\u0062", "baseVersion": null}]');
-- A byte that isn't UTF-8, wherever it is
SELECT b, pg_temp.send(convert_to('[{"id": "x", "clientVersion": 1, "body": "', 'UTF8') || b::bytea || '"}]')
  FROM unnest(ARRAY['\xff', '\xc3', '\xc328', '\xc0af', '\xe28282', '\xe282', '\xeda080', '\xf4908080', '\xf0808080', '\x80', '\x00', '\xc3a900', '\xc3a9', '\xe282ac', '\xf09f9880']) AS b;
SELECT b, pg_temp.send(b) FROM unnest(ARRAY['\377', '[{"id": "\377"}]', '[{"\377": 1}]', '[ \377]', '[{"id": "x", "clientVersion": 1, "body": 1}]\377', '[{"id": "x", "clientVersion": 1, "body": 1, "deleted": tr\377ue}]', '[{"id": "x\\\377"}]', '[1 "\303\251\377"', '[1 "\360"']::bytea[]) AS b;
-- A byte order mark at the beginning isn't looked at.
SELECT b, pg_temp.send(b) FROM unnest(ARRAY['\357\273\277[{"id": "x", "clientVersion": 1, "body": 1}]', '\357\273\277', '\357\273', '\357\273\277\357\273\277[]', ' \357\273\277[]', '\357\273\277[{"id": "x", "clientVersion": 1, "body": "\377"}]', '\357\273\277[{"id": "x", "clientVersion": 1, "body": 1e400}]']::bytea[]) AS b;
-- What comes before it is refused first.
SELECT b, pg_temp.send(b) FROM unnest(ARRAY['[{"id": "x", "clientVersion": 1, "Body": "\377"}]', '[{"id": 1, "clientVersion": 1}, {"id": "\377"}]', '[1, "\377"]', '[nonsense, "\377"]']::bytea[]) AS b;

--
-- Depth
--
CREATE FUNCTION pg_temp.nested(depth int, opening text DEFAULT '[', closing text DEFAULT ']', inner_ text DEFAULT '') RETURNS text
	LANGUAGE sql
AS $$
	SELECT repeat($2, $1) || $4 || repeat($3, $1)
$$;
SELECT d, left(pg_temp.try(pg_temp.nested(d)), 200), left(pg_temp.try(pg_temp.nested(d, '{"a":', '}', '1')), 200), left(pg_temp.try(pg_temp.nested(d, '[0,{"a":[],"b":', ',"c":[]}]', 'true')), 60)
  FROM unnest('{0,1,50,51,99,100,101,14545,1000000}'::int[]) AS d WHERE d > 0;
-- also where nobody looks at what is nested
SELECT pg_temp.send('[{"id": "x", "clientVersion": 1, "body": 1, "LastUpdateUtc": ' || pg_temp.nested(101) || '}]'), pg_temp.send('{"cursor": ' || pg_temp.nested(101) || '}'), pg_temp.send('{"clientId": ' || pg_temp.nested(101) || '}');
SET docsync.max_depth = 0;
SELECT pg_temp.try('1'), pg_temp.try('[]');
SET docsync.max_depth = 1000;
SELECT left(pg_temp.try(pg_temp.nested(1000)), 20), pg_temp.try(pg_temp.nested(1001)), pg_temp.try(pg_temp.nested(1000, '[1,', ',2]', '3') || ']');
SET docsync.max_depth = 3;
SELECT b, pg_temp.try(b) FROM unnest(ARRAY['[[[]]]', '[[[], [1, {}]]]', '{"a": {"b": [1, 2]}, "c": [[3]]}', '[[[[]]]]', '{"a": {"b": [1, []]}}', '[[[1]], [[2]], [[[3]]]]']) AS b;
RESET docsync.max_depth;

--
-- Numbers: 400 digits, wherever the point is
--
SELECT b, pg_temp.try(b) FROM unnest(ARRAY['1e399', '-1e399', '1e400', '9.99e399', '1e-399', '1e-400', '0.1e-398', '0.1e-399', '10e398', '10e399', '1.5e-398', '1.5e-399', '0e999999', '0.0e999999', '-0e400', '0e-399', '0e-400', '0.00e-398',
	'1e5000', '1e131071', '1e131072', '1e-16383', '1e-16384', '1e1073741822', '0e1073741822', '0e1073741823', '0e-1073741823', '0e99999999999999999999', '1e99999999999999999999', '1e-99999999999999999999', '1E+2', '1e-2', '1.10', '1.50e1', '1.5e-1', '100e-2', '-0.0', '-0', '12345678901234567890.12345678901234567890',
	'1.7976931348623157e308', '-2.2250738585072014E-308', '4.9406564584124654e-324', '[1, 1e400]', '{"x": 1e5000}']) AS b;
SELECT n, left(pg_temp.try(repeat('9', n)), 60), left(pg_temp.try('0.' || repeat('0', n - 2) || '1'), 60), left(pg_temp.try('-' || repeat('7', n / 2) || '.' || repeat('7', n - n / 2)), 60), left(pg_temp.try('1' || repeat('0', n - 1) || 'e' || -n / 2), 60)
  FROM unnest('{2,399,400,401,10000}'::int[]) AS n;
-- in keys of the protocol, too
SELECT r, pg_temp.send(r) FROM unnest(ARRAY['[{"id": "x", "clientVersion": 1e400, "body": 1}]', '[{"id": "x", "clientVersion": 1e131072, "body": 1}]', '[{"id": "x", "clientVersion": 1e30, "body": 1}]', '[{"id": "x", "clientVersion": 1e-30, "body": 1}]',
	'[{"id": "x", "clientVersion": 1e18, "body": 1, "baseVersion": null}]', '[{"id": "x", "clientVersion": 1.00e18, "body": 1, "baseVersion": null}]', '[{"id": "x", "clientVersion": 1, "body": 1, "LastUpdateUtc": 1e400}]', '[{"id": "x", "clientVersion": "1e400", "body": 1}]', '{"documents": 1e400}']) AS r;

--
-- Size: bytes of JSON, as sent
--
SET docsync.max_document_size = 20;
SELECT length(b), b, pg_temp.try(b) FROM unnest(ARRAY['"123456789012345678"', '"1234567890123456789"', '"ééééééééé"', '"éééééééééx"', '[1,2,3,4,5,6,7,8,90]', '[1,2,3,4,5,6,7,8,900]', '[1,               2]', '[1,                2]', '   [1,            2]    ', '{"a":"b","c":[1,2] }', '{"a":"b","c":[1, 2] }',
	'12345678901234567890', '123456789012345678901', '"\u0041\u0042\u0043"', '"\u0041\u0042\u0043.."', '"1234567890123456789', '[1,2,3,4,5,6,7,8,9,1', '"\u0041\u0042\u0043\u0000"']) AS b;
RESET docsync.max_document_size;
-- A string with escapes may be as large as a body; elsewhere none has any business to be.
SELECT n, left(pg_temp.try('"' || repeat('\n', n / 2 - 1) || '"'), 60), left(pg_temp.send('[{"id": "' || repeat('\n', n / 2 - 1) || '", "clientVersion": 1, "body": 1}]'), 60) FROM unnest('{100, 1004, 65536, 65540, 1048576, 1048578, 3000000}'::int[]) AS n;
-- 788 kB of numbers as they are sent take more than 1 MB as jsonb.
SELECT left(pg_temp.try('[' || string_agg('[' || i || '.5,' || i || '.25]', ',') || ']'), 40), sum(length(i::text) * 2 + 8) + 1 AS bytes FROM generate_series(1, 40000) AS i;
-- Of more it can't be said that a jsonb can be made of it.
\set VERBOSITY sqlstate
SET docsync.max_document_size = '17MB';
\set VERBOSITY default

--
-- Of a key that comes twice the last counts.
--
SELECT r, pg_temp.send(r) FROM unnest(ARRAY['[{"id": "w", "id": "x", "clientVersion": 1, "clientVersion": 2, "body": 1, "body": {"a": 1, "a": 2}, "baseVersion": null}]', '[{"id": 1, "body": 1, "id": "x", "clientVersion": "1", "clientVersion": 3, "baseVersion": null}]',
	'[{"id": "x", "id": 1, "clientVersion": 1, "body": 1}]', '[{"id": "\u0078", "id": "\u0079", "id": "\u0078", "clientVersion": 4, "body": "last", "baseVersion": null}]', '[{"id": "x", "clientVersion": 5, "body": 1e400, "body": 1}]', '[{"id": "\u0077", "id": 1, "clientVersion": 5, "body": 1e400}]', '[{"id": "x", "clientVersion": 5, "body": "\u0000", "body": 1}]',
	'{"clientId": "a", "clientId": "c", "documents": [{"id": "w", "clientVersion": 1, "body": 1}], "documents": [{"id": "x", "clientVersion": 6, "body": "second", "baseVersion": null}]}', '{"clientId": 1, "documents": []}', '{"clientId": "a", "clientId": null, "documents": []}']) AS r;

--
-- What is wrong within a document stops no other, if the batch isn't atomic; what is no JSON stops all.
--
CREATE FUNCTION pg_temp.results(request bytea) RETURNS SETOF text
	LANGUAGE plpgsql
AS $$
DECLARE
	detail text;
BEGIN
	RETURN QUERY SELECT concat_ws(' ', r ->> 'id', r ->> 'outcome', r #>> '{error,code}', r #>> '{error,message}', r #>> '{error,details}') FROM json_array_elements(docsync_docs(request) -> 'results') AS r;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN NEXT concat_ws(' / ', SQLSTATE, SQLERRM, nullif(detail, ''));
END
$$;
SET docsync.max_document_size = 20000;
SELECT pg_temp.results('{"collection": "parts", "documents": [{"id": "good 1", "clientVersion": 1, "body": 1}, {"id": "nul", "clientVersion": 1, "body": ["\\u0000", "\\u0000"]}, {"id": "half", "clientVersion": 1, "body": {"\\ud800": "\\ud800"}}, {"id": "digits", "clientVersion": 1, "body": [1e400, 1e400]},
	{"id": "good 2", "clientVersion": 1, "body": "\\u0041"}, {"id": "byte", "clientVersion": 1, "body": "\377\377"}, {"id": "\377", "clientVersion": 1, "body": "\377"}, {"id": "good 3", "clientVersion": 1, "body": "\303\251"}, {"id": "key", "\377": 1}, {"id": "unknown", "clientVersion": 1, "Body": "\377\\u0000", "\\u0000": 1},
	{"id": "\\u0000", "clientVersion": 1, "body": 1}, "\\u0000", ["\377"], {"clientVersion": 1e400, "id": "version"}, {"id": "twice", "clientVersion": 1, "body": 1e400, "body": 1}, {"id": "good 4", "clientVersion": 1, "body": 1}], "atomic": false}');
SELECT pg_temp.results(convert_to(format('[{"id": "deep", "clientVersion": 1, "body": %s}, {"id": "deeper", "clientVersion": 1, "body": %s}, {"id": "large", "clientVersion": 1, "body": "%s"}, {"id": "larger", "clientVersion": 1, "body": ["\n%s", "\u0000"]}, {"id": "long", "clientVersion": 1, "body": 1, "LastUpdateUtc": "\n%s"}, {"id": "good", "clientVersion": 1, "body": 1}]',
	pg_temp.nested(101), pg_temp.nested(9000, '[{"a":', '}]', '1'), repeat('x', 20000), repeat('x', 20000), repeat('x', 70000)), 'UTF8')) FROM (SELECT set_config('request.headers', '{"x-client-id": "c", "x-query-string": "atomic=false&collection=parts"}', false)) AS s;
SELECT b, pg_temp.results(b) FROM unnest(ARRAY['[{"id": "good", "clientVersion": 2, "body": 1}, {"id": "nul", "clientVersion": 1, "body": "\\u0000"}, {"id": "none", "clientVersion": 1, "body": }]', '[{"id": "good", "clientVersion": 2, "body": 1}] \377', '[{"id": "good", "clientVersion": 2, "body": \377}]', '[{"id": "good", "clientVersion": 2, "body": [[}]',
	('[{"id": "good", "clientVersion": 2, "body": ' || pg_temp.nested(1500, '[', '') || pg_temp.nested(1499, ']', '') || '}]')::bytea]) AS b;
RESET docsync.max_document_size;
SELECT set_config('request.headers', '{"x-client-id": "c"}', false);
SELECT string_agg(concat_ws(' ', id, body), ', ' ORDER BY id) FROM docsync.document WHERE collection = 'parts';

--
-- docsync_upsert and plain SQL are held to the same.
--
CREATE FUNCTION pg_temp.catch(command text) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	detail text;
BEGIN
	EXECUTE command;
	RETURN 'stored';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN concat_ws(' / ', SQLSTATE, SQLERRM, nullif(detail, ''));
END
$$;
SELECT docsync_upsert('c', '[{"id": "u", "clientVersion": 1, "body": 1}]', 'plain') \g /dev/null
CREATE TABLE pg_temp.plain (n serial, what text, body text);
INSERT INTO pg_temp.plain (what, body) VALUES ('400 digits', '[1e399]'), ('401', '[1, {"a": 1e400}]'), ('400 behind the point', '[1e-399]'), ('401', '[1e-400]'), ('both', '[' || repeat('7', 200) || '.' || repeat('7', 200) || ']'), ('both', '[-' || repeat('7', 200) || '.' || repeat('7', 201) || ']'),
	('both', '[' || repeat('7', 201) || '.' || repeat('7', 200) || ']'), ('10 ^ 199', '1e199'), ('scale 201', '0.' || repeat('0', 201)), ('a scalar', '1e400'), ('a negative one', '-1e400'), ('depth 100', pg_temp.nested(100)), ('101', pg_temp.nested(101)), ('101', pg_temp.nested(101, '{"a":', '}', '1')), ('depth of objects', pg_temp.nested(100, '{"a":', '}', '1')),
	('14545', pg_temp.nested(5000)), ('1 MB', '"' || repeat('x', 1048574) || '"'), ('a byte more', '"' || repeat('x', 1048575) || '"'), ('as written', '["' || repeat('\u0001', 174762) || '"]'), ('a byte more', '["' || repeat('\u0001', 174762) || 'x"]');
SELECT what, pg_temp.catch(format('SELECT docsync_upsert(%L, %L, %L)', 'c', format('[{"id": "u%s", "clientVersion": 1, "body": %s}]', n, body), 'plain')),
	pg_temp.catch(format('INSERT INTO docsync.document (collection, id, body) VALUES (%L, %L, %L)', 'plain', 'i' || n, body)),
	pg_temp.catch(format('UPDATE docsync.document SET body = %L WHERE collection = %L AND id = %L', body, 'plain', 'u')) FROM pg_temp.plain ORDER BY n;
-- The size is that of the JSON that docsync writes.
CREATE FUNCTION pg_temp.fits(body jsonb, size int) RETURNS bool
	LANGUAGE plpgsql
AS $$
BEGIN
	PERFORM set_config('docsync.max_document_size', size::text, false);
	INSERT INTO docsync.document (collection, id, body) VALUES ('written', 'x', body) ON CONFLICT (collection, id) DO UPDATE SET body = excluded.body;
	RETURN true;
EXCEPTION WHEN program_limit_exceeded THEN
	RETURN false;
END
$$;
SELECT body, octet_length(body::text) AS size, pg_temp.fits(body, octet_length(body::text)), pg_temp.fits(body, octet_length(body::text) - 1)
  FROM unnest(ARRAY['[]', '{}', '[[], {}, null, true, false, 1, -1.50, 1e20, "x", "é"]', '{"a": {"b": [1, 2, 3]}, "c": "\u0001\b\f\n\r\t\"\\\/\u007f", "é": null}', '"x\u0002\""', '-1.25', 'null', 'true', 'false', '[true, [false, [null]], {"": {"": ""}}]', '{"x": 1, "y": [1]}']::jsonb[]) AS body;
RESET docsync.max_document_size;
-- What is there already isn't looked at again, and what is restored not at all; the owner is held to the limits like anybody.
SET docsync.max_depth = 2;
INSERT INTO docsync.document (collection, id, client_version, client_id, last_update_utc, deleted, body, fence) VALUES ('restored', 'deep', 1, 'c', '2001-01-01', false, '[[[[1]]]]', '3'), ('restored', 'long', 1, 'c', '2001-01-02', false, '[1e5000]', '3');
SELECT pg_temp.catch(c) FROM unnest(ARRAY[$$INSERT INTO docsync.document (collection, id, body) SELECT 'restored', 'copy', body FROM docsync.document WHERE collection = 'restored' AND id = 'deep'$$,
	$$UPDATE docsync.document SET client_version = 7 WHERE collection = 'restored'$$, $$UPDATE docsync.document SET body = body || '[2]' WHERE collection = 'restored' AND id = 'deep'$$,
	$$UPDATE docsync.document SET body = '[[1]]' WHERE collection = 'restored' AND id = 'deep'$$, $$DELETE FROM docsync.document WHERE collection = 'restored'$$]) AS c;
RESET docsync.max_depth;

-- docsync_sync is given text, and has no offsets: they would be those of an argument.
SELECT pg_temp.catch(format('SELECT docsync_sync(%L, %L)', 'c', d)) FROM unnest(ARRAY['[{"id": "a", "clientVersion": 1, "body": "\u0000"}]', '[{"id": "a", "clientVersion": 1, "body": 1e400}]', '{}', '[{"id": "a", "clientVersion": 1, "body": 1}] 1']) AS d;

-- In a database of another encoding a request is UTF-8 all the same. What can't be converted has no place: it isn't read yet.
\set database :DBNAME
CREATE DATABASE regress_docsync_latin1 TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C';
\connect regress_docsync_latin1
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET client_encoding = UTF8;
SET request.headers = '{"x-client-id": "c"}';
SET bytea_output = escape;
CREATE EXTENSION docsync;
SELECT docsync_create_store() \g /dev/null
CREATE FUNCTION pg_temp.try(request bytea) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	detail text;
BEGIN
	RETURN (SELECT string_agg(concat_ws(' ', r ->> 'id', r ->> 'outcome', r #>> '{error,message}', r #>> '{error,details}'), ', ') FROM json_array_elements(docsync_docs(request) -> 'results') AS r);
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN concat_ws(' / ', SQLSTATE, SQLERRM, nullif(detail, ''));
END
$$;
SELECT b, pg_temp.try(b) FROM unnest(ARRAY['[{"id": "\303\251", "clientVersion": 1, "body": {"\303\274": "\\u00e9"}}]', '[{"id": "euro", "clientVersion": 1, "body": "\342\202\254"}]', '[{"id": "byte", "clientVersion": 1, "body": "\377"}]', '[{"id": "nul", "clientVersion": 1, "body": "\000"}]',
	'{"documents": [{"id": "\303\251", "clientVersion": 1, "body": {"\303\274": "\303\251"}}, {"id": "nul", "clientVersion": 1, "body": "\\u0000"}], "atomic": false}', '[{"id": "\303\251", "clientVersion": 1, "body": nonsense}]', '\357\273\277[]']::bytea[]) AS b;
SELECT id, length(id), body FROM docsync.document;
\connect :database
SET client_min_messages = warning;
DROP DATABASE regress_docsync_latin1;
DROP SCHEMA docsync CASCADE;
DROP EXTENSION docsync;
