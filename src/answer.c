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

#include "docsync.h"

static void set_headers(const char *tag);

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
docsync_answer_end(StringInfo buf, const char *tag)
{
	set_headers(tag);
	SET_VARSIZE(buf->data, buf->len);
	return PointerGetDatum(buf->data);
}

/*
 * Ends with 304 and an empty answer instead, since the client has this one.
 */
Datum
docsync_answer_end_unchanged(StringInfo buf, const char *tag)
{
	if (!IsInParallelMode())
		docsync_answer_set("response.status", "304");
	buf->len = VARHDRSZ;
	return docsync_answer_end(buf, tag);
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
 * (see the functions' result domain), and the entity tag, if there is one.
 * Headers that somebody else has set already are left alone.
 */
static void
set_headers(const char *tag)
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
	appendStringInfoChar(&buf, ']');
	docsync_answer_set("response.headers", buf.data);
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
