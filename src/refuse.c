/*-------------------------------------------------------------------------
 *
 * refuse.c
 *	  How a refusal is said, to people and to machines.
 *
 * The message names the place (document 17, "id"), the detail the fact, the
 * hint the remedy.  Where there is a place the detail is JSON, with the place
 * and the fact in it ({"document": 17, "key": "id", "text": "It is null."}):
 * PostgREST passes on nothing else that a machine could go by.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/guc.h"

#include "docsync.h"

/* Longest part of a refused value that is quoted back, in bytes */
#define QUOTE_LEN	40

static bool is_over_http(void);

/*
 * The place, as a message begins with it: "document 17, \"body\": ".  Empty
 * where it is the whole request.
 */
const char *
docsync_refuse_place(const RefusePlace *place)
{
	if (place->document > 0 && place->key != NULL)
		return psprintf("document %d, \"%s\": ", place->document, place->key);
	if (place->document > 0)
		return psprintf("document %d: ", place->document);
	if (place->key != NULL)
		return psprintf("\"%s\": ", place->key);
	return "";
}

/*
 * The detail of a refusal, within ereport(): the place, and the fact in words,
 * as errdetail() takes them.
 */
int
docsync_refuse_detail(const RefusePlace *place, const char *format,...)
{
	StringInfoData fact;
	StringInfoData buf;

	initStringInfo(&fact);
	for (;;)
	{
		va_list		args;
		int			needed;

		va_start(args, format);
		needed = appendStringInfoVA(&fact, format, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&fact, needed);
	}

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '{');
	if (place->document > 0)
		appendStringInfo(&buf, "\"document\": %d, ", place->document);
	if (place->key != NULL)
	{
		appendStringInfoString(&buf, "\"key\": ");
		docsync_json_append_string(&buf, place->key, strlen(place->key));
		appendStringInfoString(&buf, ", ");
	}
	if (place->offset >= 0)
		appendStringInfo(&buf, "\"offset\": %d, ", place->offset);
	appendStringInfoString(&buf, "\"text\": ");
	docsync_json_append_string(&buf, fact.data, fact.len);
	appendStringInfoChar(&buf, '}');

	return errdetail_internal("%s", buf.data);
}

/*
 * A value for a message, cut where it is long, at the end of a character.
 */
const char *
docsync_refuse_quote(const char *value, int len)
{
	if (len <= QUOTE_LEN)
		return pnstrdup(value, len);

	return psprintf("%.*s...", pg_mbcliplen(value, len, QUOTE_LEN), value);
}

/*
 * Our SQLSTATE, or the one that makes PostgREST answer with the status meant.
 * The message is the status line then, so it must have nothing of the request
 * in it.
 */
int
docsync_refuse_sqlstate(int sqlstate)
{
	if (!is_over_http())
		return sqlstate;

	switch (sqlstate)
	{
		case ERRCODE_PROGRAM_LIMIT_EXCEEDED:
			return MAKE_SQLSTATE('P', 'T', '4', '1', '3');
		default:
			return sqlstate;
	}
}

/*
 * Refuses a request with an HTTP status and a code that machines can go by.
 * detail is JSON.  In SQL the status is SQLSTATE 55000, and the code is in the
 * detail; for PostgREST the whole answer is put into the message, as it wants it.
 */
void
docsync_refuse_request(int status, const char *code, const char *message,
					   const char *detail, const char *hint)
{
	StringInfoData buf;

	if (!is_over_http())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s", message),
				 errdetail("%s", detail),
				 errhint("%s", hint)));

	initStringInfo(&buf);
	appendStringInfoString(&buf, "{\"code\":");
	docsync_json_append_string(&buf, code, strlen(code));
	appendStringInfoString(&buf, ",\"message\":");
	docsync_json_append_string(&buf, message, strlen(message));
	appendStringInfoString(&buf, ",\"details\":");
	docsync_json_append_string(&buf, detail, strlen(detail));
	appendStringInfoString(&buf, ",\"hint\":");
	docsync_json_append_string(&buf, hint, strlen(hint));
	appendStringInfoChar(&buf, '}');
	ereport(ERROR,
			(errcode(MAKE_SQLSTATE('P', 'G', 'R', 'S', 'T')),
			 errmsg("%s", buf.data),
			 errdetail("{\"status\":%d,\"headers\":{}}", status)));
}

static bool
is_over_http(void)
{
	const char *method = GetConfigOption("request.method", true, false);

	return method != NULL && *method != '\0';
}
