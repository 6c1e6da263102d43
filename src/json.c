/*-------------------------------------------------------------------------
 *
 * json.c
 *	  Documents as JSON, on their way out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/numeric.h"

#include "docsync.h"

/* Without a look for the end of what is known */
#define append_literal(buf, literal) \
	appendBinaryStringInfoNT(buf, literal, sizeof(literal) - 1)

static void push_key(JsonbParseState **state, const char *name);
static void push_string(JsonbParseState **state, JsonbIteratorToken token,
						const char *string, int len);
static void push_body(JsonbParseState **state, Jsonb *body);
static void append_scalar(StringInfo buf, const JsonbValue *value);
static const char *find_escape(const char *string, const char *end);

/*
 * {"id", "clientVersion", "clientId", "LastUpdateUtc", "deleted", "body"}
 */
Jsonb *
docsync_json_document(const StoredDocument *stored)
{
	JsonbParseState *state = NULL;
	JsonbValue	value;
	char		stamp[DOCSYNC_STAMP_LEN];

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);

	push_key(&state, "id");
	push_string(&state, WJB_VALUE, VARDATA_ANY(stored->id),
				VARSIZE_ANY_EXHDR(stored->id));

	push_key(&state, "clientVersion");
	value.type = jbvNumeric;
	value.val.numeric = int64_to_numeric(stored->client_version);
	pushJsonbValue(&state, WJB_VALUE, &value);

	push_key(&state, "clientId");
	push_string(&state, WJB_VALUE, VARDATA_ANY(stored->client_id),
				VARSIZE_ANY_EXHDR(stored->client_id));

	push_key(&state, "LastUpdateUtc");
	push_string(&state, WJB_VALUE, stamp,
				docsync_stamp_format(stored->last_update_utc, stamp));

	push_key(&state, "deleted");
	value.type = jbvBool;
	value.val.boolean = stored->deleted;
	pushJsonbValue(&state, WJB_VALUE, &value);

	push_key(&state, "body");
	push_body(&state, stored->has_body ? DatumGetJsonbP(stored->body) : NULL);

	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/*
 * The same as text, appended to buf.
 */
void
docsync_json_append_document(StringInfo buf, const StoredDocument *stored)
{
	char		number[MAXINT8LEN + 1];

	append_literal(buf, "{\"id\":");
	docsync_json_append_string(buf, VARDATA_ANY(stored->id),
							   VARSIZE_ANY_EXHDR(stored->id));
	append_literal(buf, ",\"clientVersion\":");
	appendBinaryStringInfo(buf, number,
						   pg_lltoa(stored->client_version, number));
	append_literal(buf, ",\"clientId\":");
	docsync_json_append_string(buf, VARDATA_ANY(stored->client_id),
							   VARSIZE_ANY_EXHDR(stored->client_id));
	append_literal(buf, ",\"LastUpdateUtc\":");
	docsync_json_append_stamp(buf, stored->last_update_utc);
	if (stored->deleted)
		append_literal(buf, ",\"deleted\":true,\"body\":");
	else
		append_literal(buf, ",\"deleted\":false,\"body\":");
	if (stored->has_body)
	{
		Jsonb	   *body = DatumGetJsonbP(stored->body);

		docsync_json_append_jsonb(buf, body);
		if (body != (Jsonb *) DatumGetPointer(stored->body))
			pfree(body);
	}
	else
		append_literal(buf, "null");
	appendStringInfoChar(buf, '}');
}

/*
 * What JsonbToCString() writes, but without a copy of each string and a look
 * at each byte: it would be what a download spends half its time on.
 */
void
docsync_json_append_jsonb(StringInfo buf, Jsonb *jsonb)
{
	JsonbIterator *it = JsonbIteratorInit(&jsonb->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	bool		follows = false;	/* another key or element? */

	while ((token = JsonbIteratorNext(&it, &value, false)) != WJB_DONE)
	{
		if (follows && token != WJB_END_ARRAY && token != WJB_END_OBJECT)
			append_literal(buf, ", ");
		follows = token != WJB_KEY &&
			token != WJB_BEGIN_ARRAY && token != WJB_BEGIN_OBJECT;

		switch (token)
		{
			case WJB_BEGIN_ARRAY:
				if (!value.val.array.rawScalar)
					appendStringInfoCharMacro(buf, '[');
				break;
			case WJB_BEGIN_OBJECT:
				appendStringInfoCharMacro(buf, '{');
				break;
			case WJB_KEY:
				docsync_json_append_string(buf, value.val.string.val,
										   value.val.string.len);
				append_literal(buf, ": ");
				break;
			case WJB_VALUE:
			case WJB_ELEM:
				append_scalar(buf, &value);
				break;
			case WJB_END_ARRAY:
				if (it != NULL || !JB_ROOT_IS_SCALAR(jsonb))
					appendStringInfoCharMacro(buf, ']');
				break;
			case WJB_END_OBJECT:
				appendStringInfoCharMacro(buf, '}');
				break;
			default:
				elog(ERROR, "unexpected jsonb token: %d", (int) token);
		}
	}
}

static void
append_scalar(StringInfo buf, const JsonbValue *value)
{
	char	   *number;

	switch (value->type)
	{
		case jbvNull:
			append_literal(buf, "null");
			break;
		case jbvString:
			docsync_json_append_string(buf, value->val.string.val,
									   value->val.string.len);
			break;
		case jbvNumeric:
			number = DatumGetCString(DirectFunctionCall1(numeric_out,
														 NumericGetDatum(value->val.numeric)));
			appendStringInfoString(buf, number);
			pfree(number);
			break;
		case jbvBool:
			appendStringInfoString(buf, value->val.boolean ? "true" : "false");
			break;
		default:
			elog(ERROR, "unexpected jsonb value type: %d", (int) value->type);
	}
}

/*
 * A string of len bytes, quoted.  What needs no escape, nearly all of it, is
 * copied in one go.
 */
void
docsync_json_append_string(StringInfo buf, const char *string, int len)
{
	const char *end = string + len;
	const char *escape = find_escape(string, end);

	if (escape == end)
	{
		char	   *p;

		enlargeStringInfo(buf, len + 2);
		p = buf->data + buf->len;
		*p = '"';
		memcpy(p + 1, string, len);
		p[len + 1] = '"';
		buf->len += len + 2;
		return;
	}

	appendStringInfoCharMacro(buf, '"');
	while (string < end)
	{
		escape = find_escape(string, end);

		appendBinaryStringInfo(buf, string, escape - string);
		string = escape;
		if (string == end)
			break;

		switch (*string)
		{
			case '"':
			case '\\':
				appendStringInfoCharMacro(buf, '\\');
				appendStringInfoCharMacro(buf, *string);
				break;
			case '\b':
				append_literal(buf, "\\b");
				break;
			case '\f':
				append_literal(buf, "\\f");
				break;
			case '\n':
				append_literal(buf, "\\n");
				break;
			case '\r':
				append_literal(buf, "\\r");
				break;
			case '\t':
				append_literal(buf, "\\t");
				break;
			default:
				appendStringInfo(buf, "\\u%04x", (unsigned char) *string);
		}
		string++;
	}
	appendStringInfoCharMacro(buf, '"');
}

/*
 * The first byte that must be escaped in a JSON string, or end: a control
 * character, '"' or '\\'.
 *
 * Eight bytes at a time.  x ^ pattern has a zero byte where x has the pattern;
 * (x - 0x01...) & ~x & 0x80... is not zero if x has a zero byte, and likewise
 * with 0x20 for a byte below that.
 */
static const char *
find_escape(const char *string, const char *end)
{
#define EACH_BYTE(byte)		(UINT64CONST(0x0101010101010101) * (byte))
#define HAS_LESS(x, n)		(((x) - EACH_BYTE(n)) & ~(x) & EACH_BYTE(0x80))

	for (; end - string >= (ptrdiff_t) sizeof(uint64); string += sizeof(uint64))
	{
		uint64		x;

		memcpy(&x, string, sizeof(x));
		if (HAS_LESS(x, ' ') |
			HAS_LESS(x ^ EACH_BYTE('"'), 1) |
			HAS_LESS(x ^ EACH_BYTE('\\'), 1))
			break;
	}

	while (string < end && (unsigned char) *string >= ' ' &&
		   *string != '"' && *string != '\\')
		string++;

	return string;
}

void
docsync_json_append_stamp(StringInfo buf, TimestampTz stamp)
{
	char text[	DOCSYNC_STAMP_LEN];
	int			len = docsync_stamp_format(stamp, text);

	appendStringInfoChar(buf, '"');
	appendBinaryStringInfo(buf, text, len);
	appendStringInfoChar(buf, '"');
}

static void
push_key(JsonbParseState **state, const char *name)
{
	push_string(state, WJB_KEY, name, strlen(name));
}

static void
push_string(JsonbParseState **state, JsonbIteratorToken token,
			const char *string, int len)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = (char *) string;
	value.val.string.len = len;
	pushJsonbValue(state, token, &value);
}

static void
push_body(JsonbParseState **state, Jsonb *body)
{
	JsonbValue	value;

	if (body == NULL)
		value.type = jbvNull;
	else if (!JsonbExtractScalar(&body->root, &value))
	{
		value.type = jbvBinary;
		value.val.binary.data = &body->root;
		value.val.binary.len = VARSIZE(body) - VARHDRSZ;
	}
	pushJsonbValue(state, WJB_VALUE, &value);
}
