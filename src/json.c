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

static void push_key(JsonbParseState **state, const char *name);
static void push_string(JsonbParseState **state, JsonbIteratorToken token,
						const char *string, int len);
static void push_body(JsonbParseState **state, Jsonb *body);

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

	appendStringInfoString(buf, "{\"id\":");
	docsync_json_append_string(buf, VARDATA_ANY(stored->id),
							   VARSIZE_ANY_EXHDR(stored->id));
	appendStringInfoString(buf, ",\"clientVersion\":");
	appendBinaryStringInfo(buf, number,
						   pg_lltoa(stored->client_version, number));
	appendStringInfoString(buf, ",\"clientId\":");
	docsync_json_append_string(buf, VARDATA_ANY(stored->client_id),
							   VARSIZE_ANY_EXHDR(stored->client_id));
	appendStringInfoString(buf, ",\"LastUpdateUtc\":");
	docsync_json_append_stamp(buf, stored->last_update_utc);
	appendStringInfoString(buf, stored->deleted ?
						   ",\"deleted\":true,\"body\":" :
						   ",\"deleted\":false,\"body\":");
	if (stored->has_body)
	{
		Jsonb	   *body = DatumGetJsonbP(stored->body);

		(void) JsonbToCString(buf, &body->root, VARSIZE(body));
		if (body != (Jsonb *) DatumGetPointer(stored->body))
			pfree(body);
	}
	else
		appendStringInfoString(buf, "null");
	appendStringInfoChar(buf, '}');
}

/*
 * A string of len bytes, quoted.  What needs no escape, most of it, is copied
 * in one go.
 */
void
docsync_json_append_string(StringInfo buf, const char *string, int len)
{
	const char *end = string + len;

	appendStringInfoChar(buf, '"');
	while (string < end)
	{
		const char *run = string;

		while (string < end && (unsigned char) *string >= ' ' &&
			   *string != '"' && *string != '\\')
			string++;
		appendBinaryStringInfo(buf, run, string - run);

		if (string < end)
		{
			if (*string == '"' || *string == '\\')
			{
				appendStringInfoChar(buf, '\\');
				appendStringInfoChar(buf, *string);
			}
			else
				appendStringInfo(buf, "\\u%04x", (unsigned char) *string);
			string++;
		}
	}
	appendStringInfoChar(buf, '"');
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
