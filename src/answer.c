/*-------------------------------------------------------------------------
 *
 * answer.c
 *	  The parts of an answer over HTTP around the documents.
 *
 * PostgREST is told what to do with the value by settings: response.status and
 * response.headers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "docsync.h"

static void set_headers(const char *tag, const Exchange *exchange);
static char *describe(const Exchange *exchange);
static void append_text(StringInfo buf, const char *key, const text *value);
static void append_stamp(StringInfo buf, const char *key, TimestampTz stamp);

/*
 * Begins an answer, leaving space for the header of the value that it becomes,
 * so that it needn't be copied.
 */
void
docsync_answer_begin(StringInfo buf)
{
	initStringInfo(buf);
	appendStringInfoSpaces(buf, VARHDRSZ);
}

/*
 * Makes the answer a value.  tag is its entity tag, or NULL.
 */
Datum
docsync_answer_end(StringInfo buf, const char *tag, const Exchange *exchange)
{
	set_headers(tag, exchange);
	SET_VARSIZE(buf->data, buf->len);
	return PointerGetDatum(buf->data);
}

/*
 * Ends with 304 and an empty answer instead, since the client has this one.
 */
Datum
docsync_answer_end_unchanged(StringInfo buf, const char *tag,
							 const Exchange *exchange)
{
	if (!IsInParallelMode())
		docsync_answer_set("response.status", "304");
	buf->len = VARHDRSZ;
	return docsync_answer_end(buf, tag, exchange);
}

/*
 * Does the client say that it already has the answer with this tag?
 */
bool
docsync_answer_is_had(const char *tag)
{
	text	   *tags = docsync_postgrest_is_asking() ?
	docsync_postgrest_header("if-none-match") : NULL;

	return tags != NULL && strstr(text_to_cstring(tags), tag) != NULL;
}

/*
 * Tells PostgREST the content type of the answer, which it passes on as it is
 * (see the functions' result domain), the entity tag, if there is one, and what
 * the request did: X-Docsync is for the log of the proxy, which hides it from
 * clients.  Headers that somebody else has set already are left alone.
 */
static void
set_headers(const char *tag, const Exchange *exchange)
{
	const char *headers;
	StringInfoData buf;

	if (!docsync_postgrest_is_asking() || IsInParallelMode())
		return;
	headers = GetConfigOption("response.headers", true, false);
	if (headers != NULL && *headers != '\0')
		return;

	initStringInfo(&buf);
	appendStringInfoString(&buf, "[{\"Content-Type\": \"application/json; charset=utf-8\"}");
	if (tag != NULL)
	{
		appendStringInfoString(&buf, ", {\"ETag\": ");
		docsync_json_append_string(&buf, tag, strlen(tag));
		appendStringInfoChar(&buf, '}');
	}
	appendStringInfo(&buf, ", {\"X-Docsync\": \"%s\"}]", describe(exchange));
	docsync_answer_set("response.headers", buf.data);
}

/*
 * Returns what a request did, as a query string: log processors can parse it,
 * and it needs no escapes in JSON or in a header.
 */
static char *
describe(const Exchange *exchange)
{
	StringInfoData buf;

	initStringInfo(&buf);
	if (exchange->collections == 1 && exchange->collection != NULL)
		append_text(&buf, "collection", exchange->collection);
	else
		appendStringInfo(&buf, "collections=%d", exchange->collections);
	if (exchange->client_id != NULL)
		append_text(&buf, "&clientId", exchange->client_id);
	if (exchange->has_downloaded)
	{
		append_stamp(&buf, "&from", exchange->from);
		append_stamp(&buf, "&to", exchange->to);
	}
	appendStringInfo(&buf, "&documents=%d&more=%s&received=%d",
					 exchange->documents, exchange->more ? "true" : "false",
					 exchange->received);
	for (size_t i = 0; i < lengthof(exchange->outcomes); i++)
	{
		if (exchange->outcomes[i] > 0)
			appendStringInfo(&buf, "&%s=%d", docsync_rule_name(i),
							 exchange->outcomes[i]);
	}
	return buf.data;
}

/*
 * Appends a text, percent-encoded.
 */
static void
append_text(StringInfo buf, const char *key, const text *value)
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	"abcdefghijklmnopqrstuvwxyz0123456789-._~";
	const char *bytes = VARDATA_ANY(value);
	int			len = VARSIZE_ANY_EXHDR(value);

	appendStringInfo(buf, "%s=", key);
	for (int i = 0; i < len; i++)
	{
		if (memchr(plain, bytes[i], sizeof(plain) - 1) != NULL)
			appendStringInfoChar(buf, bytes[i]);
		else
			appendStringInfo(buf, "%%%02X", (unsigned char) bytes[i]);
	}
}

/*
 * Appends a stamp, unless it is the beginning.
 */
static void
append_stamp(StringInfo buf, const char *key, TimestampTz stamp)
{
	char		value[DOCSYNC_STAMP_LEN];

	if (TIMESTAMP_NOT_FINITE(stamp))
		return;
	docsync_utc_format(stamp, value);
	appendStringInfo(buf, "%s=%s", key, value);
}

/*
 * Sets a setting until the end of the transaction, with the setting's own
 * checks, as set_config(name, value, true) does.
 */
void
docsync_answer_set(const char *name, const char *value)
{
	set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
					  GUC_ACTION_LOCAL, true, 0, false);
}
