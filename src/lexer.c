/*-------------------------------------------------------------------------
 *
 * lexer.c
 *	  A request's JSON, token by token, and refusals of a token.
 *
 * PostgreSQL's lexer makes the tokens, except the common ones.  What has been
 * read without a refusal can be given to jsonb_in(): its escapes are
 * characters that a text can contain, its numbers fit a numeric, and it is
 * within the limits of body.c.
 *
 * Memory: none except for strings with escapes, one at a time.  Tokens point
 * into the request, which must outlive them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "docsync.h"
#include "simd.h"

/* The longest string outside a body, in bytes as sent */
#define STRING_LEN		(64 * 1024)

/* The most bytes of invalid JSON that an error quotes */
#define QUOTE_LEN		40

static bool lex_common(JsonLexContext *lex);
static void unescape(JsonReader *reader);
static void note(JsonReader *reader, const Refusal *refusal);
static bool is_noted(JsonReader *reader);
static void refuse_string(JsonReader *reader);
static void refuse_encoding(JsonReader *reader, bool is_string);
static void find_invalid(JsonReader *reader, const char *from);
static Refusal *describe_error(JsonReader *reader, JsonLexContext *lex,
							   JsonParseErrorType error);
static RefusePlace place_at(const JsonReader *reader, const char *at);

/*
 * Begins to read.  A request's bytes must be UTF-8; the first that isn't is
 * refused when it is reached.  A text (is_text) is valid in the server's
 * encoding already.
 */
void
docsync_lexer_begin(JsonReader *reader, const char *json, int len,
					bool is_text)
{
	int			skip = 0;

	memset(reader, 0, sizeof(*reader));
	reader->place.offset = -1;
	reader->has_offsets = !is_text;

	/* Some write a byte order mark, which means nothing in UTF-8. */
	if (!is_text && len >= 3 && memcmp(json, "\xEF\xBB\xBF", 3) == 0)
		skip = 3;

	if (!is_text && GetDatabaseEncoding() != PG_UTF8)
	{
		/* What can't be converted is refused, without a place. */
		char	   *converted = pg_any_to_server(json + skip, len - skip, PG_UTF8);

		if (converted != json + skip)
		{
			json = converted;
			len = strlen(converted);
			skip = 0;
			reader->has_offsets = false;
		}
	}

	reader->lex = makeJsonLexContextCstringLen(NULL, json, len,
											   GetDatabaseEncoding(), false);
	reader->lex->token_terminator += skip;
	if (!is_text && GetDatabaseEncoding() == PG_UTF8)
		find_invalid(reader, json);
	docsync_lexer_next(reader);
}

/* Frees what the reader has allocated, including the string read last. */
void
docsync_lexer_end(JsonReader *reader)
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
 * Refuses a body that is too large already at the end of the token.
 */
void
docsync_lexer_check_size(JsonReader *reader)
{
	if (reader->body != NULL && !reader->is_bad &&
		reader->lex->token_terminator - reader->body > docsync_max_document_size)
		docsync_lexer_refuse_limit(reader, BODY_TOO_LARGE);
}

/*
 * Moves to the next token, and refuses what jsonb_in() wouldn't accept.
 */
void
docsync_lexer_next(JsonReader *reader)
{
	JsonLexContext *lex = reader->lex;
	bool		is_common;
	JsonParseErrorType error;

	CHECK_FOR_INTERRUPTS();

	is_common = lex_common(lex);
	error = is_common ? JSON_SUCCESS : json_lex(lex);
	if (reader->invalid != NULL && lex->token_terminator > reader->invalid)
		refuse_encoding(reader, error == JSON_SUCCESS);
	if (error != JSON_SUCCESS)
		docsync_refuse_raise(describe_error(reader, lex, error));

	if (lex->token_type == JSON_TOKEN_STRING)
	{
		reader->string = lex->token_start + 1;
		reader->string_len = lex->token_terminator - lex->token_start - 2;
		if (!is_common)
			unescape(reader);
	}
	else if (lex->token_type == JSON_TOKEN_NUMBER &&
			 docsync_value_count_digits(lex->token_start,
										lex->token_terminator - lex->token_start) > DOCSYNC_NUMBER_DIGITS)
		docsync_lexer_refuse_limit(reader, BODY_LONG_NUMBER);
}

/*
 * Does what json_lex() would for brackets, braces, commas, colons and strings
 * without escapes, which are nearly all of a request.  For anything else it
 * returns false, and leaves the lexer where it was.
 */
static bool
lex_common(JsonLexContext *lex)
{
	const char *p = lex->token_terminator;
	const char *end = lex->input + lex->input_length;
	const char *start;

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
			while (end - p >= BLOCK_LEN)
			{
				int			plain = block_find_escape(block_read(p));

				p += plain;
				if (plain < BLOCK_LEN)
					break;
			}
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
	lex->token_start = unconstify(char *, start);
	lex->token_terminator = unconstify(char *, p);
	return true;
}

/*
 * Lets the lexer decode a string's escapes, into a copy of it.
 */
static void
unescape(JsonReader *reader)
{
	JsonLexContext *lex = reader->escapes;
	JsonParseErrorType error;

	if (reader->is_body && reader->string_len > docsync_max_document_size)
		docsync_lexer_refuse_limit(reader, BODY_TOO_LARGE);
	else if (!reader->is_body && reader->string_len > STRING_LEN)
		refuse_string(reader);
	if (reader->is_bad)
		return;

	if (lex == NULL)
	{
		/*
		 * It must last, whatever the caller does with the memory of what it
		 * has read.
		 */
		MemoryContext oldcontext = MemoryContextSwitchTo(GetMemoryChunkContext(reader->lex));

		lex = makeJsonLexContextCstringLen(NULL, NULL, 0,
										   reader->lex->input_encoding, true);
		reader->escapes = lex;
		MemoryContextSwitchTo(oldcontext);
	}
	lex->input = lex->token_terminator = lex->line_start = reader->lex->token_start;
	lex->input_length = reader->lex->token_terminator - reader->lex->token_start;

	error = json_lex(lex);
	if (error != JSON_SUCCESS)
	{
		if (!is_noted(reader))
			note(reader, describe_error(reader, lex, error));
		return;
	}
	reader->string = lex->strval->data;
	reader->string_len = lex->strval->len;
}

/*
 * Notes a refusal of a document, or raises one that isn't a document's.
 */
static void
note(JsonReader *reader, const Refusal *refusal)
{
	if (reader->place.document == 0)
		docsync_refuse_raise(refusal);
	reader->refusal = refusal;
	reader->is_refused = reader->is_bad = true;
}

/*
 * Is the document refused already?  Then nothing else that is wrong with it is
 * reported, which might take more memory than what was sent.
 */
static bool
is_noted(JsonReader *reader)
{
	if (reader->is_refused)
		reader->is_bad = true;
	return reader->is_refused;
}

/*
 * Refuses a string that is too long to be anything but a body.
 */
static void
refuse_string(JsonReader *reader)
{
	RefusePlace place = place_at(reader, reader->lex->token_start);

	if (!is_noted(reader))
		note(reader, docsync_refuse_describe(&place, ERRCODE_INVALID_PARAMETER_VALUE,
											 "too long",
											 psprintf("It is a string of %d bytes.",
													  reader->string_len),
											 NULL));
}

/*
 * Refuses a document for what is beyond a limit.
 */
void
docsync_lexer_refuse_limit(JsonReader *reader, BodyFault fault)
{
	RefusePlace place = place_at(reader, reader->lex->token_start);

	if (!is_noted(reader))
		note(reader, docsync_body_describe(&place, fault));
}

/*
 * Refuses a byte that isn't valid UTF-8.  There may be others after it.
 */
static void
refuse_encoding(JsonReader *reader, bool is_string)
{
	if (!is_string || !is_noted(reader))
	{
		RefusePlace place = place_at(reader, reader->invalid);
		Refusal    *refusal = docsync_refuse_describe(&place, ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
													  "not UTF-8",
													  psprintf("The byte 0x%02x is not part of a character.",
															   (unsigned char) *reader->invalid),
													  "Send JSON in UTF-8.");

		if (!is_string)
			docsync_refuse_raise(refusal);
		note(reader, refusal);
	}
	find_invalid(reader, reader->lex->token_terminator);
}

/*
 * Finds the first byte from here on that isn't valid UTF-8.  It looks at
 * pieces of growing size, since each piece is checked to its end, and a
 * request may have millions of such bytes.
 */
static void
find_invalid(JsonReader *reader, const char *from)
{
	const char *end = reader->lex->input + reader->lex->input_length;

	reader->invalid = NULL;
	for (int64 piece = 64; from < end && reader->invalid == NULL; piece *= 2)
	{
		int			len = (int) Min(piece, end - from);
		int			valid;

		/* Don't split a character. */
		while (len > piece - 4 && from + len < end &&
			   ((unsigned char) from[len] & 0xC0) == 0x80)
			len--;

		valid = pg_encoding_verifymbstr(PG_UTF8, from, len);
		if (valid < len)
			reader->invalid = from + valid;
		from += len;
	}
}

/*
 * Raises the error for a token where another one was expected.
 */
void
docsync_lexer_refuse_syntax(JsonReader *reader, JsonParseErrorType error)
{
	if (reader->lex->token_type == JSON_TOKEN_END)
		error = JSON_EXPECTED_MORE;
	docsync_refuse_raise(describe_error(reader, reader->lex, error));
}

/*
 * A refusal for an error of the lexer, in its own words.
 */
static Refusal *
describe_error(JsonReader *reader, JsonLexContext *lex, JsonParseErrorType error)
{
	RefusePlace place = place_at(reader, lex->token_start);
	bool		is_unsupported = error == JSON_UNICODE_CODE_POINT_ZERO ||
	error == JSON_UNICODE_HIGH_ESCAPE ||
	error == JSON_UNICODE_UNTRANSLATABLE;
	JsonLexContext quoted = *lex;

	/* The lexer would quote a token of any length, and any bytes. */
	if (lex->token_start != NULL && error != JSON_ESCAPING_REQUIRED)
	{
		int			len = Min(lex->token_terminator - lex->token_start, QUOTE_LEN);

		quoted.token_terminator = lex->token_start +
			pg_encoding_verifymbstr(GetDatabaseEncoding(), lex->token_start, len);
	}

	return docsync_refuse_describe(&place,
								   is_unsupported ? ERRCODE_UNTRANSLATABLE_CHARACTER :
								   ERRCODE_INVALID_TEXT_REPRESENTATION,
								   is_unsupported ? "unsupported Unicode escape sequence" :
								   "invalid JSON",
								   json_errdetail(error, &quoted), NULL);
}

/*
 * Where the reader is, with an offset if the bytes being read are those that
 * were sent.  at is NULL at their end.
 */
static RefusePlace
place_at(const JsonReader *reader, const char *at)
{
	RefusePlace place = reader->place;

	if (reader->has_offsets)
		place.offset = at != NULL ? at - reader->lex->input :
			(int) reader->lex->input_length;
	return place;
}
