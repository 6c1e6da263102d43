/*-------------------------------------------------------------------------
 *
 * reader.c
 *	  The grammar of a request's JSON, which is read once, in place.
 *
 * This isn't PostgreSQL's parser, so that a refusal can name the place,
 * nothing is allocated for what is skipped, and nesting takes no stack.
 *
 * Invalid JSON ends the call.  An error within a document that still lets us
 * find its end is only noted, for the caller to take (lexer.c): the documents
 * after it may be fine.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "docsync.h"

/* In a word that has a bit for each level of nesting: is it an object? */
#define BITS			64

static const char *skip_value(JsonReader *reader);
static void pass_key(JsonReader *reader, bool in_object);
static void pass_colon(JsonReader *reader);
static bool get_bit(const uint64 *bits, int place);
static void set_bit(uint64 *bits, int place, bool value);
static uint64 *grow_bits(const uint64 *bits, uint64 *allocated, int room);

/*
 * Refuses anything that comes after the request's value.
 */
void
docsync_reader_end(JsonReader *reader)
{
	if (reader->lex->token_type != JSON_TOKEN_END)
		docsync_lexer_refuse_syntax(reader, JSON_EXPECTED_END);
}

/*
 * The type of the next value.
 */
JsonTokenType
docsync_reader_type(JsonReader *reader)
{
	if (reader->is_at_colon)
	{
		reader->is_at_colon = false;
		docsync_lexer_next(reader);
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
			docsync_lexer_refuse_syntax(reader, JSON_EXPECTED_JSON);
	}
}

/*
 * Enters the array or object that begins here.  Returns false if it is empty;
 * then it has been left again.
 */
bool
docsync_reader_enter(JsonReader *reader)
{
	bool		is_object = reader->lex->token_type == JSON_TOKEN_OBJECT_START;
	JsonTokenType type;

	docsync_lexer_next(reader);
	type = reader->lex->token_type;
	if (type == (is_object ? JSON_TOKEN_OBJECT_END : JSON_TOKEN_ARRAY_END))
	{
		docsync_lexer_next(reader);
		return false;
	}
	if (is_object && type != JSON_TOKEN_STRING)
		docsync_lexer_refuse_syntax(reader, JSON_EXPECTED_OBJECT_FIRST);
	return true;
}

/*
 * Moves to the next element of an array, or to the next key of an object.
 * Returns false if there is none; then the array or object has been left.
 */
bool
docsync_reader_go_on(JsonReader *reader, bool in_object)
{
	JsonTokenType type = reader->lex->token_type;

	if (type == (in_object ? JSON_TOKEN_OBJECT_END : JSON_TOKEN_ARRAY_END))
	{
		docsync_lexer_next(reader);
		return false;
	}
	if (type != JSON_TOKEN_COMMA)
		docsync_lexer_refuse_syntax(reader, in_object ? JSON_EXPECTED_OBJECT_NEXT :
									JSON_EXPECTED_ARRAY_NEXT);
	docsync_lexer_next(reader);
	if (in_object && reader->lex->token_type != JSON_TOKEN_STRING)
		docsync_lexer_refuse_syntax(reader, JSON_EXPECTED_STRING);
	return true;
}

/*
 * Skips a key; until then it is reader->string.
 */
void
docsync_reader_pass_key(JsonReader *reader)
{
	pass_colon(reader);
	reader->is_at_colon = true;
}

/*
 * Reads a key and returns its index among the names.  For any other key it
 * returns -1, and in *unknown the key as quoted in a message, or NULL if the
 * document is refused already.  A refusal of the value, which comes next, will
 * name the key.
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
		*unknown = reader->is_refused ? NULL :
			docsync_refuse_quote(reader->string, reader->string_len);

	reader->place.key = found < 0 ? NULL : names[found];
	reader->is_bad = false;
	docsync_reader_pass_key(reader);
	return found;
}

/*
 * Reads a value: the characters of a string, the digits of a number, only the
 * type of an array or object.
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
		if (lex->token_start + 1 != value.text)
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
 * Skips a value; until then a string is reader->string.
 */
void
docsync_reader_pass(JsonReader *reader)
{
	skip_value(reader);
}

/*
 * Reads a body, and returns where it is and how many bytes it has.  One that
 * is too large is refused as soon as the limit is passed.
 */
const char *
docsync_reader_body(JsonReader *reader, int *len)
{
	const char *start;

	/* is_body must be set before the value's first token is read. */
	reader->is_body = true;
	docsync_reader_type(reader);
	reader->body = start = reader->lex->token_start;
	*len = skip_value(reader) - start;
	reader->body = NULL;
	reader->is_body = reader->is_bad = false;
	return start;
}

/*
 * Skips a value, and returns its end.  For each level of nesting one bit says
 * whether it is an array or an object; only a value that is refused needs more
 * bits than there are at first.
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

		docsync_lexer_check_size(reader);
		if (is_object || type == JSON_TOKEN_ARRAY_START)
		{
			if (depth == docsync_max_depth)
				docsync_lexer_refuse_limit(reader, BODY_TOO_DEEP);
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
			docsync_lexer_next(reader);

		/* A value has ended, and perhaps those that contain it. */
		for (;;)
		{
			if (depth == 0)
			{
				if (more_objects != NULL)
					pfree(more_objects);
				return lex->prev_token_terminator;
			}
			docsync_lexer_check_size(reader);
			is_object = get_bit(bits, depth - 1);
			if (docsync_reader_go_on(reader, is_object))
				break;
			depth--;
		}
		pass_key(reader, is_object);
	}
}

/*
 * Moves to the value of a key; elements of arrays have no key.
 */
static void
pass_key(JsonReader *reader, bool in_object)
{
	if (in_object)
	{
		pass_colon(reader);
		docsync_lexer_next(reader);
	}
}

/*
 * Moves from a key to the colon that must follow.
 */
static void
pass_colon(JsonReader *reader)
{
	docsync_lexer_next(reader);
	if (reader->lex->token_type != JSON_TOKEN_COLON)
		docsync_lexer_refuse_syntax(reader, JSON_EXPECTED_COLON);
}

/* The bit at a place, from 0 */
static bool
get_bit(const uint64 *bits, int place)
{
	return (bits[place / BITS] >> (place % BITS)) & 1;
}

/* Sets or clears the bit at a place. */
static void
set_bit(uint64 *bits, int place, bool value)
{
	uint64		bit = UINT64CONST(1) << (place % BITS);

	bits[place / BITS] = value ? bits[place / BITS] | bit : bits[place / BITS] & ~bit;
}

/*
 * Doubles the number of bits.  The result is palloc'd; allocated is NULL if
 * the old bits weren't.
 */
static uint64 *
grow_bits(const uint64 *bits, uint64 *allocated, int room)
{
	if (allocated != NULL)
		return repalloc(allocated, 2 * room / CHAR_BIT);
	return memcpy(palloc(2 * room / CHAR_BIT), bits, room / CHAR_BIT);
}
