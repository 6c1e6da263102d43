/*-------------------------------------------------------------------------
 *
 * refuse.c
 *	  Refusals: why a document isn't applied.
 *
 * Whoever refuses a document, it is named.  The message has the place for
 * people (document 17, "id"); the detail has it for machines, as JSON, and in it
 * the fact as a text; the hint is the remedy.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/elog.h"

#include "docsync.h"

/* As ExecWithCheckOptions() begins whenever a policy refuses a row */
#define POLICY_MESSAGE		"new row violates row-level security policy"

static bool is_policys(const ErrorData *error);
static bool is_raised(const ErrorData *error);

/*
 * Refuses a document: by an error, or in a batch that isn't atomic by noting
 * it, and then this returns and the document is passed over.  What is said of
 * a document first is what it is refused for.
 *
 * The message names the place, (document 17, "id"), as does the detail, which is
 * JSON, for machines.  key, detail and hint may be NULL.
 */
void
docsync_refuse_document(const Batch *batch, SentDocument *sent, int sqlstate,
						const char *key, const char *message, const char *detail,
						const char *hint)
{
	Refusal    *refusal;

	if (sent->refusal != NULL)
		return;

	refusal = palloc(sizeof(Refusal));
	refusal->sqlstate = sqlstate;
	refusal->message = key == NULL ?
		psprintf("document %d: %s", sent->ordinal, message) :
		psprintf("document %d, \"%s\": %s", sent->ordinal, key, message);
	refusal->detail = docsync_refuse_locate(sent, key, detail);
	refusal->hint = hint;

	if (batch->atomic)
		ereport(ERROR,
				(errcode(docsync_request_sqlstate(refusal->sqlstate)),
				 errmsg("%s", refusal->message),
				 errdetail("%s", refusal->detail),
				 hint != NULL ? errhint("%s", hint) : 0));
	sent->refusal = refusal;
}

/*
 * The place of a document as JSON, with what else there is to say:
 * {"document": 17, "id": "shopping", "key": "body", "text": "It is null."}
 */
char *
docsync_refuse_locate(const SentDocument *sent, const char *key,
					  const char *text)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "{\"document\": %d", sent->ordinal);
	if (sent->id != NULL && sent->id_len <= DOCSYNC_ID_LEN)
	{
		appendStringInfoString(&buf, ", \"id\": ");
		docsync_json_append_string(&buf, sent->id, sent->id_len);
	}
	if (key != NULL)
	{
		appendStringInfoString(&buf, ", \"key\": ");
		docsync_json_append_string(&buf, key, strlen(key));
	}
	if (text !=NULL)
	{
		appendStringInfoString(&buf, ", \"text\": ");
		docsync_json_append_string(&buf, text, strlen(text));
	}
	appendStringInfoChar(&buf, '}');

	return buf.data;
}

/*
 * Is an error about one document, so that others may be applied all the same?
 *
 * What isn't in this list is about the statement, the table, the transaction or
 * the server: who is told of it tries again, or calls somebody.
 */
bool
docsync_refuse_is_one(const ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_DATA_EXCEPTION:
		case ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION:
		case ERRCODE_WITH_CHECK_OPTION_VIOLATION:
		case ERRCODE_PLPGSQL_ERROR:
			return true;

			/* Whoever says so: try again, or call somebody */
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
		case ERRCODE_INTERNAL_ERROR:
			return false;
	}

	switch (error->sqlerrcode)
	{
		case ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION:
		case ERRCODE_STATEMENT_TOO_COMPLEX:

			/* A value that an index of the user's has no room for */
		case ERRCODE_PROGRAM_LIMIT_EXCEEDED:
			return true;
	}

	/* A right on a whole table that is missing has the same code. */
	return is_policys(error) || is_raised(error);
}

static bool
is_policys(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE &&
		error->message_id != NULL &&
		strncmp(error->message_id, POLICY_MESSAGE, strlen(POLICY_MESSAGE)) == 0;
}

/*
 * By a RAISE, which may choose any code: a function that somebody has written
 * for the row says no to it.
 */
static bool
is_raised(const ErrorData *error)
{
	return error->message_id != NULL && strcmp(error->message_id, "%s") == 0;
}

/*
 * Refuses a document with an error of the database's, which keeps all its words;
 * where it is raised, all else it has as well.
 */
void
docsync_refuse_with(const Batch *batch, SentDocument *sent, ErrorData *error)
{
	Refusal    *refusal;

	error->detail = docsync_refuse_locate(sent, NULL, error->detail);
	if (batch->atomic)
		ReThrowError(error);

	refusal = palloc(sizeof(Refusal));
	refusal->sqlstate = error->sqlerrcode;
	refusal->message = error->message;
	refusal->detail = error->detail;
	refusal->hint = error->hint;
	sent->refusal = refusal;
}

/*
 * A refusal as JSON: {"code", "message", "details", "hint"}, as PostgREST has
 * errors.
 */
void
docsync_refuse_append(StringInfo buf, const Refusal *refusal)
{
	const char *code = unpack_sql_state(refusal->sqlstate);

	appendStringInfo(buf, "{\"code\":\"%s\",\"message\":", code);
	docsync_json_append_string(buf, refusal->message, strlen(refusal->message));
	appendStringInfoString(buf, ",\"details\":");
	docsync_json_append_string(buf, refusal->detail, strlen(refusal->detail));
	appendStringInfoString(buf, ",\"hint\":");
	if (refusal->hint != NULL)
		docsync_json_append_string(buf, refusal->hint, strlen(refusal->hint));
	else
		appendStringInfoString(buf, "null");
	appendStringInfoChar(buf, '}');
}
