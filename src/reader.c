/*-------------------------------------------------------------------------
 *
 * reader.c
 *	  A request's JSON, read once, token by token, where it lies.
 *
 * PostgreSQL's lexer makes the tokens, but for the common ones.  The grammar is
 * here, so that a refusal can name the place, nothing is allocated for what is
 * only passed over, and the nesting takes no stack.  Of what has been read without a refusal
 * jsonb_in() makes a jsonb: it is well-formed, its escapes are characters that
 * a text can have, its numbers such as a numeric can be, and it is within the
 * limits of body.c.
 *
 * What isn't JSON at all ends the call.  What is wrong within a document, and
 * leaves its end to be found, is noted for who reads it to take: the documents
 * behind it may be fine.
 *
 * Memory: none but for strings with escapes, one at a time.  What is read
 * points into the request, which has to outlive it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "docsync.h"
#include "simd.h"

/* The longest string outside of a body, in bytes as sent */
#define STRING_LEN		(64 * 1024)

/* The longest part of what isn't JSON that is quoted back, in bytes */
#define QUOTE_LEN		40

#define BITS			64

static const char *skip_value(JsonReader *reader);
static void pass_key(JsonReader *reader, bool in_object);
static void pass_colon(JsonReader *reader);
static bool get_bit(const uint64 * bits, int place);
static void set_bit(uint64 * bits, int place, bool value);
static uint64 * grow_bits(const uint64 * bits, uint64 * allocated, int room);
static void check_size(JsonReader *reader);
static void next_token(JsonReader *reader);
static bool lex_common(JsonLexContext *lex);
static void unescape(JsonReader *reader);
static void note(JsonReader *reader, const Refusal *refusal);
static void refuse(JsonReader *reader, const char *at, int sqlstate,
				   const char *message, const char *detail, const char *hint);
static void refuse_limit(JsonReader *reader, BodyFault fault);
static void refuse_encoding(JsonReader *reader, bool is_string);
static void find_invalid(JsonReader *reader, const char *from);
static void refuse_syntax(JsonReader *reader, JsonParseErrorType error) pg_attribute_noreturn();
static Refusal *describe_error(JsonReader *reader, JsonLexContext *lex,
							   JsonParseErrorType error);
static RefusePlace place_at(const JsonReader *reader, const char *at);

/*
 * Begins to read.  The bytes of a request are UTF-8, or are refused when it
 * comes to one that isn't; a text of the server's own is right already.
 */
void
docsync_reader_begin(JsonReader *reader, const char *json, int len,
					 bool is_text)
{
	memset(reader, 0, sizeof(*reader));
	reader->place.offset = -1;
	reader->has_offsets = !is_text;

	if (!is_text && GetDatabaseEncoding() != PG_UTF8)
	{
		/* Refuses what can't be converted, without a place. */
		char	   *converted = pg_any_to_server(json, len, PG_UTF8);

		if (converted != json)
		{
			json = converted;
			len = strlen(converted);
			reader->has_offsets = false;
		}
	}

	reader->lex = makeJsonLexContextCstringLen((char *) json, len,
											   GetDatabaseEncoding(), false);
	if (!is_text && GetDatabaseEncoding() == PG_UTF8)
		find_invalid(reader, json);
	next_token(reader);
}

void
docsync_reader_free(JsonReader *reader)
{
	if (reader->escapes != NULL)
	{
		pfree(reader->escapes->strval->data);
		pfree(reader->escapes->strval);
		pfree(reader->escapes);
	}
	pfree(reader->lex);
}

/*
 * Refuses what comes after the request's value.
 */
void
docsync_reader_end(JsonReader *reader)
{
	if (reader->lex->token_type != JSON_TOKEN_END)
		refuse_syntax(reader, JSON_EXPECTED_END);
}

/*
 * The type of the value that comes next.
 */
JsonTokenType
docsync_reader_type(JsonReader *reader)
{
	if (reader->is_at_colon)
	{
		reader->is_at_colon = false;
		next_token(reader);
	}

	switch (reader->lex->token_type)
	{
		case JSON_TOKEN_STRING:
		case JSON_TOKEN_NUMBER:
		case JSON_TOKEN_OBJECT_START:
		case JSON_TOKEN_ARRAY_START:
		case JSON_TOKEN_TRUE:
		case JSON_TOKEN_FALSE:
		case JSON_TOKEN_NULL:
			return reader->lex->token_type;
		default:
			refuse_syntax(reader, JSON_EXPECTED_JSON);
	}
}

/*
 * Enters the array or object that begins here.  False if it is empty: then it
 * has been left, too.
 */
bool
docsync_reader_enter(JsonReader *reader)
{
	bool		is_object = reader->lex->token_type == JSON_TOKEN_OBJECT_START;
	JsonTokenType type;

	next_token(reader);
	type = reader->lex->token_type;
	if (type == (is_object ? JSON_TOKEN_OBJECT_END : JSON_TOKEN_ARRAY_END))
	{
		next_token(reader);
		return false;
	}
	if (is_object && type != JSON_TOKEN_STRING)
		refuse_syntax(reader, JSON_EXPECTED_OBJECT_FIRST);
	return true;
}

/*
 * Goes on to the next element of an array, or to the next key of an object.
 * False if there is none: then it has been left.
 */
bool
docsync_reader_go_on(JsonReader *reader, bool in_object)
{
	JsonTokenType type = reader->lex->token_type;

	if (type == (in_object ? JSON_TOKEN_OBJECT_END : JSON_TOKEN_ARRAY_END))
	{
		next_token(reader);
		return false;
	}
	if (type != JSON_TOKEN_COMMA)
		refuse_syntax(reader, in_object ? JSON_EXPECTED_OBJECT_NEXT :
					  JSON_EXPECTED_ARRAY_NEXT);
	next_token(reader);
	if (in_object && reader->lex->token_type != JSON_TOKEN_STRING)
		refuse_syntax(reader, JSON_EXPECTED_STRING);
	return true;
}

/*
 * Passes over a key; it is reader->string until then.
 */
void
docsync_reader_pass_key(JsonReader *reader)
{
	pass_colon(reader);
	reader->is_at_colon = true;
}

/*
 * Reads a key and says which of the names it is, by its place.  Of any other
 * it returns -1, and the key as a message quotes it, or NULL if it has been
 * refused.  Its value, which comes next, is refused as the key's.
 */
int
docsync_reader_key(JsonReader *reader, const char *const *names, int count,
				   const char **unknown)
{
	int			found = -1;

	for (int i = 0; i < count && found < 0; i++)
	{
		if (strncmp(names[i], reader->string, reader->string_len) == 0 &&
			names[i][reader->string_len] == '\0')
			found = i;
	}
	if (found < 0)
		*unknown = reader->is_bad ? NULL :
			docsync_refuse_quote(reader->string, reader->string_len);

	reader->place.key = found < 0 ? NULL : names[found];
	reader->is_bad = false;
	docsync_reader_pass_key(reader);
	return found;
}

/*
 * Reads a value: of a string its characters, of a number its digits, of an
 * array or object that it is one.
 */
SentValue
docsync_reader_value(JsonReader *reader)
{
	JsonLexContext *lex = reader->lex;
	SentValue	value = {.type = docsync_reader_type(reader)};

	if (value.type == JSON_TOKEN_STRING)
	{
		value.text = reader->string;
		value.len = reader->string_len;
		if (value.text !=lex->token_start + 1)
		{
			value.text = pnstrdup(value.text, value.len);
			value.is_copy = true;
		}
	}
	else if (value.type == JSON_TOKEN_NUMBER)
	{
		value.text = lex->token_start;
		value.len = lex->token_terminator - lex->token_start;
	}

	skip_value(reader);
	value.is_bad = reader->is_bad;
	reader->is_bad = false;
	return value;
}

/*
 * Passes over a value; a string is reader->string until then.
 */
void
docsync_reader_pass(JsonReader *reader)
{
	skip_value(reader);
}

/*
 * Reads a body, and returns where it is and how many bytes it has.  One that
 * is too large is refused as soon as that shows.
 */
const char *
docsync_reader_body(JsonReader *reader, int *len)
{
	const char *start;

	/* The value isn't looked at before it is known for a body. */
	reader->is_body = true;
	docsync_reader_type(reader);
	reader->body = start = reader->lex->token_start;
	*len = skip_value(reader) - start;
	reader->body = NULL;
	reader->is_body = reader->is_bad = false;
	return start;
}

/*
 * Passes over a value, and returns its end.  One bit for each array or object
 * that it is in says which it is; only one that is refused needs more of them
 * than there are at first.
 */
static const char *
skip_value(JsonReader *reader)
{
	JsonLexContext *lex = reader->lex;
	uint64		objects[DOCSYNC_DEPTH_MAX / BITS + 1];
	uint64	   *more_objects = NULL;
	uint64	   *bits = objects;
	int			room = lengthof(objects) * BITS;
	int			depth = 0;

	for (;;)
	{
		JsonTokenType type = docsync_reader_type(reader);
		bool		is_object = type == JSON_TOKEN_OBJECT_START;

		check_size(reader);
		if (is_object || type == JSON_TOKEN_ARRAY_START)
		{
			if (depth == docsync_max_depth)
				refuse_limit(reader, BODY_TOO_DEEP);
			if (docsync_reader_enter(reader))
			{
				if (depth == room)
				{
					bits = grow_bits(bits, more_objects, room);
					more_objects = bits;
					room *= 2;
				}
				set_bit(bits, depth++, is_object);
				pass_key(reader, is_object);
				continue;
			}
		}
		else
			next_token(reader);

		/* A value has ended, and maybe with it those that it is in. */
		for (;;)
		{
			if (depth == 0)
			{
				if (more_objects != NULL)
					pfree(more_objects);
				return lex->prev_token_terminator;
			}
			check_size(reader);
			is_object = get_bit(bits, depth - 1);
			if (docsync_reader_go_on(reader, is_object))
				break;
			depth--;
		}
		pass_key(reader, is_object);
	}
}

/*
 * To the value of a key; an element has none.
 */
static void
pass_key(JsonReader *reader, bool in_object)
{
	if (in_object)
	{
		pass_colon(reader);
		next_token(reader);
	}
}

/*
 * From a key to the colon that must follow.
 */
static void
pass_colon(JsonReader *reader)
{
	next_token(reader);
	if (reader->lex->token_type != JSON_TOKEN_COLON)
		refuse_syntax(reader, JSON_EXPECTED_COLON);
}

static bool
get_bit(const uint64 * bits, int place)
{
	return (bits[place / BITS] >> (place % BITS)) & 1;
}

static void
set_bit(uint64 * bits, int place, bool value)
{
	uint64		bit = UINT64CONST(1) << (place % BITS);

	bits[place / BITS] = value ? bits[place / BITS] | bit : bits[place / BITS] & ~bit;
}

/*
 * Twice the bits.  They are palloc'd; allocated is NULL if those there were
 * weren't.
 */
static uint64 *
grow_bits(const uint64 * bits, uint64 * allocated, int room)
{
	if (allocated != NULL)
		return repalloc(allocated, 2 * room / CHAR_BIT);
	return memcpy(palloc(2 * room / CHAR_BIT), bits, room / CHAR_BIT);
}

/*
 * Refuses a body if it is too large up to the end of the token.
 */
static void
check_size(JsonReader *reader)
{
	if (reader->body != NULL && !reader->is_bad &&
		reader->lex->token_terminator - reader->body > docsync_max_document_size)
		refuse_limit(reader, BODY_TOO_LARGE);
}

/*
 * Goes on to the next token, and refuses what jsonb_in() wouldn't take.
 */
static void
next_token(JsonReader *reader)
{
	JsonLexContext *lex = reader->lex;
	JsonParseErrorType error;
	int			len;

	CHECK_FOR_INTERRUPTS();

	error = lex_common(lex) ? JSON_SUCCESS : json_lex(lex);
	if (reader->invalid != NULL && lex->token_terminator > reader->invalid)
		refuse_encoding(reader, error == JSON_SUCCESS);
	if (error != JSON_SUCCESS)
		docsync_refuse_raise(describe_error(reader, lex, error));

	len = lex->token_terminator - lex->token_start;
	if (lex->token_type == JSON_TOKEN_STRING)
	{
		reader->string = lex->token_start + 1;
		reader->string_len = len - 2;
		if (memchr(reader->string, '\\', reader->string_len) != NULL)
			unescape(reader);
	}
	else if (lex->token_type == JSON_TOKEN_NUMBER &&
			 docsync_value_count_digits(lex->token_start, len) > DOCSYNC_NUMBER_DIGITS)
		refuse_limit(reader, BODY_LONG_NUMBER);
}

/*
 * Does what json_lex() would for brackets, braces, commas, colons and strings
 * without an escape, which are nearly all of a request; of anything else it
 * returns false, and leaves the lexer where it was.
 */
static bool
lex_common(JsonLexContext *lex)
{
	char	   *p = lex->token_terminator;
	char	   *end = lex->input + lex->input_length;
	char	   *start;

	while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
		p++;
	if (p == end)
		return false;

	start = p++;
	switch (*start)
	{
		case '{':
			lex->token_type = JSON_TOKEN_OBJECT_START;
			break;
		case '}':
			lex->token_type = JSON_TOKEN_OBJECT_END;
			break;
		case '[':
			lex->token_type = JSON_TOKEN_ARRAY_START;
			break;
		case ']':
			lex->token_type = JSON_TOKEN_ARRAY_END;
			break;
		case ',':
			lex->token_type = JSON_TOKEN_COMMA;
			break;
		case ':':
			lex->token_type = JSON_TOKEN_COLON;
			break;
		case '"':
			while (end - p >= BLOCK_LEN && !block_must_escape(block_read(p)))
				p += BLOCK_LEN;
			while (p < end && *p != '"' && *p != '\\' && (unsigned char) *p >= ' ')
				p++;
			if (p == end || *p++ != '"')
				return false;
			lex->token_type = JSON_TOKEN_STRING;
			break;
		default:
			return false;
	}

	lex->prev_token_terminator = lex->token_terminator;
	lex->token_start = start;
	lex->token_terminator = p;
	return true;
}

/*
 * Has the lexer look at a string's escapes, which takes a copy of it.
 */
static void
unescape(JsonReader *reader)
{
	JsonLexContext *lex = reader->escapes;
	JsonParseErrorType error;

	if (reader->is_body && reader->string_len > docsync_max_document_size)
		refuse_limit(reader, BODY_TOO_LARGE);
	else if (!reader->is_body && reader->string_len > STRING_LEN)
		refuse(reader, reader->lex->token_start, ERRCODE_INVALID_PARAMETER_VALUE,
			   "too long", psprintf("It is a string of %d bytes.", reader->string_len),
			   NULL);
	if (reader->is_bad)
		return;

	if (lex == NULL)
	{
		/* It is kept, whatever the caller does with what it has read. */
		MemoryContext oldcontext = MemoryContextSwitchTo(GetMemoryChunkContext(reader->lex));

		lex = makeJsonLexContextCstringLen(NULL, 0,
										   reader->lex->input_encoding, true);
		reader->escapes = lex;
		MemoryContextSwitchTo(oldcontext);
	}
	lex->input = lex->token_terminator = lex->line_start = reader->lex->token_start;
	lex->input_length = reader->lex->token_terminator - reader->lex->token_start;

	error = json_lex(lex);
	if (error != JSON_SUCCESS)
	{
		note(reader, describe_error(reader, lex, error));
		return;
	}
	reader->string = lex->strval->data;
	reader->string_len = lex->strval->len;
}

/*
 * Notes a refusal, the first of a document, or ends the call with it.
 */
static void
note(JsonReader *reader, const Refusal *refusal)
{
	if (reader->place.document == 0)
		docsync_refuse_raise(refusal);
	if (reader->refusal == NULL)
		reader->refusal = refusal;
	reader->is_bad = true;
}

static void
refuse(JsonReader *reader, const char *at, int sqlstate, const char *message,
	   const char *detail, const char *hint)
{
	RefusePlace place = place_at(reader, at);

	note(reader, docsync_refuse_describe(&place, sqlstate, message, detail, hint));
}

static void
refuse_limit(JsonReader *reader, BodyFault fault)
{
	RefusePlace place = place_at(reader, reader->lex->token_start);

	note(reader, docsync_body_describe(&place, fault));
}

/*
 * Refuses a byte that isn't UTF-8.  In a string there may be others behind it.
 */
static void
refuse_encoding(JsonReader *reader, bool is_string)
{
	JsonLexContext *lex = reader->lex;
	RefusePlace place = place_at(reader, reader->invalid);
	Refusal    *refusal = docsync_refuse_describe(&place, ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
												  "not UTF-8",
												  psprintf("The byte 0x%02x is not part of a character.",
														   (unsigned char) *reader->invalid),
												  "Send JSON in UTF-8.");

	if (!is_string)
		docsync_refuse_raise(refusal);
	note(reader, refusal);
	find_invalid(reader, lex->token_terminator);
}

/*
 * Finds the first byte from here on that isn't UTF-8.
 */
static void
find_invalid(JsonReader *reader, const char *from)
{
	int			len = reader->lex->input + reader->lex->input_length - from;
	int			valid = pg_encoding_verifymbstr(PG_UTF8, from, len);

	reader->invalid = valid < len ? from + valid : NULL;
}

/*
 * Ends the call where another token was expected.
 */
static void
refuse_syntax(JsonReader *reader, JsonParseErrorType error)
{
	if (reader->lex->token_type == JSON_TOKEN_END)
		error = JSON_EXPECTED_MORE;
	docsync_refuse_raise(describe_error(reader, reader->lex, error));
}

/*
 * An error in the lexer's words.
 */
static Refusal *
describe_error(JsonReader *reader, JsonLexContext *lex, JsonParseErrorType error)
{
	RefusePlace place = place_at(reader, lex->token_start);
	bool		is_unsupported = error == JSON_UNICODE_CODE_POINT_ZERO ||
	error == JSON_UNICODE_HIGH_ESCAPE;
	JsonLexContext quoted = *lex;

	/* It would quote a token of any length. */
	if (lex->token_start != NULL && error != JSON_ESCAPING_REQUIRED)
		quoted.token_terminator = lex->token_start +
			pg_mbcliplen(lex->token_start,
						 lex->token_terminator - lex->token_start, QUOTE_LEN);

	return docsync_refuse_describe(&place,
								   is_unsupported ? ERRCODE_UNTRANSLATABLE_CHARACTER :
								   ERRCODE_INVALID_TEXT_REPRESENTATION,
								   is_unsupported ? "unsupported Unicode escape sequence" :
								   "invalid JSON",
								   json_errdetail(error, &quoted), NULL);
}

/*
 * Where the reader is.  With an offset only if what is read is what was sent;
 * at is NULL at its end.
 */
static RefusePlace
place_at(const JsonReader *reader, const char *at)
{
	RefusePlace place = reader->place;

	if (reader->has_offsets)
		place.offset = at != NULL ? at - reader->lex->input :
			reader->lex->input_length;
	return place;
}
