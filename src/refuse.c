/*-------------------------------------------------------------------------
 *
 * refuse.c
 *	  Refusals: saying what is wrong, to people and to machines.
 *
 * Every refusal of a document names it.  The message has the place for people
 * (document 17, "id"); the detail has it for machines, as JSON, which also
 * contains the fact as text; the hint is the remedy.  PostgREST passes on
 * nothing else that a machine could use.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/guc.h"

#include "docsync.h"

/* The most bytes of a refused value that an error quotes */
#define QUOTE_LEN	40

/*
 * The beginning of ExecWithCheckOptions()'s message when a policy refuses a
 * row
 */
#define POLICY_MESSAGE		"new row violates row-level security policy"

static bool is_policys(const ErrorData *error);
static bool is_raised(const ErrorData *error);
static char *locate(const RefusePlace *place, const char *fact);
static void append_text(StringInfo buf, const char *string);

/*
 * Refuses a document: by an error, or in a batch that isn't atomic by noting
 * the refusal; then this returns, and the document will be skipped.  Only the
 * first refusal of a document counts.
 *
 * key, detail and hint may be NULL.
 */
void
docsync_refuse_document(const Batch *batch, SentDocument *sent, int sqlstate,
						const char *key, const char *message, const char *detail,
						const char *hint)
{
	RefusePlace place = docsync_refuse_place(sent, key);

	if (sent->refusal == NULL)
		docsync_refuse_note(batch, sent,
							docsync_refuse_describe(&place, sqlstate, message,
													detail, hint));
}

/*
 * The same with a refusal that has been built already.
 */
void
docsync_refuse_note(const Batch *batch, SentDocument *sent,
					const Refusal *refusal)
{
	if (sent->refusal != NULL)
		return;
	if (batch->atomic)
		docsync_refuse_raise(refusal);
	sent->refusal = refusal;
}

/*
 * Builds the refusal for a place.  detail and hint may be NULL; neither they
 * nor the message are copied.
 */
Refusal *
docsync_refuse_describe(const RefusePlace *place, int sqlstate,
						const char *message, const char *detail,
						const char *hint)
{
	Refusal    *refusal = palloc0(sizeof(Refusal));

	refusal->sqlstate = sqlstate;
	if (place->document > 0 && place->key != NULL)
		refusal->message = psprintf("document %d, \"%s\": %s",
									place->document, place->key, message);
	else if (place->document > 0)
		refusal->message = psprintf("document %d: %s", place->document, message);
	else if (place->key != NULL)
		refusal->message = psprintf("\"%s\": %s", place->key, message);
	else
		refusal->message = message;
	if (place->collection > 0)
		refusal->message = psprintf(place->document > 0 || place->key != NULL ?
									"collection %d, %s" : "collection %d: %s",
									place->collection, refusal->message);
	refusal->detail = locate(place, detail);
	refusal->hint = hint;

	return refusal;
}

/*
 * Raises a refusal as an error.
 */
void
docsync_refuse_raise(const Refusal *refusal)
{
	ereport(ERROR,
			(errcode(docsync_refuse_sqlstate(refusal->sqlstate)),
			 errmsg("%s", refusal->message),
			 errdetail("%s", refusal->detail),
			 refusal->hint != NULL ? errhint("%s", refusal->hint) : 0));
}

/*
 * The place of a document, or of one of its keys.
 */
RefusePlace
docsync_refuse_place(const SentDocument *sent, const char *key)
{
	RefusePlace place = {
		.collection = sent->collection,
		.document = sent->ordinal,
		.id = sent->id,
		.id_len = sent->id_len,
		.key = key,
		.offset = -1
	};

	return place;
}

/*
 * The place of a document as JSON, with a fact as its text: {"document": 17,
 * "id": "shopping", "key": "body", "text": "It is null."}
 */
char *
docsync_refuse_locate(const SentDocument *sent, const char *key,
					  const char *fact)
{
	RefusePlace place = docsync_refuse_place(sent, key);

	return locate(&place, fact);
}

/* A place as JSON, palloc'd, with a fact as its text; fact may be NULL. */
static char *
locate(const RefusePlace *place, const char *fact)
{
	StringInfoData buf;
	const char *separator = "";

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '{');
	if (place->collection > 0)
	{
		appendStringInfo(&buf, "\"collection\": %d", place->collection);
		separator = ", ";
	}
	if (place->document > 0)
	{
		appendStringInfo(&buf, "%s\"document\": %d", separator,
						 place->document);
		separator = ", ";
	}
	if (place->id != NULL && place->id_len <= DOCSYNC_ID_LEN)
	{
		appendStringInfo(&buf, "%s\"id\": ", separator);
		docsync_json_append_string(&buf, place->id, place->id_len);
		separator = ", ";
	}
	if (place->key != NULL)
	{
		appendStringInfo(&buf, "%s\"key\": ", separator);
		docsync_json_append_string(&buf, place->key, strlen(place->key));
		separator = ", ";
	}
	if (place->offset >= 0)
	{
		appendStringInfo(&buf, "%s\"offset\": %d", separator, place->offset);
		separator = ", ";
	}
	if (fact != NULL)
	{
		appendStringInfo(&buf, "%s\"text\": ", separator);
		docsync_json_append_string(&buf, fact, strlen(fact));
	}
	appendStringInfoChar(&buf, '}');

	return buf.data;
}

/*
 * Is an error about one document, so that others can still be applied?
 *
 * Any error not listed here is about the statement, the table, the transaction
 * or the server: the client tries again, or asks for help.
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

			/* Never, whoever raises them: try again, or ask for help. */
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

			/* A value too large for one of the user's indexes */
		case ERRCODE_PROGRAM_LIMIT_EXCEEDED:
			return true;
	}

	/*
	 * A missing privilege on the table has the same code as a policy's
	 * refusal.
	 */
	return is_policys(error) || is_raised(error);
}

/*
 * Has a policy refused a row?  The message before translation tells.
 */
static bool
is_policys(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE &&
		error->message_id != NULL &&
		strncmp(error->message_id, POLICY_MESSAGE, strlen(POLICY_MESSAGE)) == 0;
}

/*
 * Was the error raised by RAISE, with whatever code?  Then a function that
 * somebody has written for the row rejects it.
 */
static bool
is_raised(const ErrorData *error)
{
	return error->message_id != NULL && strcmp(error->message_id, "%s") == 0;
}

/*
 * Refuses a document with an error raised by the database, whose texts are
 * kept; if it is raised again, so is everything else in it.
 */
void
docsync_refuse_with(const Batch *batch, SentDocument *sent, ErrorData *error)
{
	char	   *detail = docsync_refuse_locate(sent, NULL, error->detail);
	Refusal    *refusal;

	if (batch->atomic)
	{
		error->sqlerrcode = docsync_refuse_sqlstate(error->sqlerrcode);
		error->detail = detail;
		ReThrowError(error);
	}

	refusal = docsync_refuse_of_error(error);
	refusal->detail = detail;
	sent->refusal = refusal;
}

/*
 * Makes a refusal of what an error says.
 */
Refusal *
docsync_refuse_of_error(const ErrorData *error)
{
	Refusal    *refusal = palloc0(sizeof(Refusal));

	refusal->sqlstate = error->sqlerrcode;
	refusal->message = error->message;
	refusal->detail = error->detail;
	refusal->hint = error->hint;
	return refusal;
}

/*
 * Appends a refusal as JSON, in PostgREST's form of errors: {"code",
 * "message", "details", "hint"}.
 */
void
docsync_refuse_append(StringInfo buf, const Refusal *refusal)
{
	appendStringInfo(buf, "{\"code\":\"%s\",\"message\":",
					 refusal->code != NULL ? refusal->code :
					 unpack_sql_state(refusal->sqlstate));
	append_text(buf, refusal->message);
	appendStringInfoString(buf, ",\"details\":");
	append_text(buf, refusal->detail);
	appendStringInfoString(buf, ",\"hint\":");
	append_text(buf, refusal->hint);
	appendStringInfoChar(buf, '}');
}

/* Appends a string as JSON; NULL becomes null. */
static void
append_text(StringInfo buf, const char *string)
{
	if (string != NULL)
		docsync_json_append_string(buf, string, strlen(string));
	else
		appendStringInfoString(buf, "null");
}

/*
 * A value to be quoted in a message.  A long one is truncated, at the end of a
 * character.
 */
const char *
docsync_refuse_quote(const char *value, int len)
{
	if (len <= QUOTE_LEN)
		return pnstrdup(value, len);

	return psprintf("%.*s...", Min(len, pg_mbcliplen(value, len, QUOTE_LEN)),
					value);
}

/*
 * Maps our SQLSTATE to the one that makes PostgREST answer with the intended
 * status.  Then the message becomes the status line, so it must not contain
 * anything of the request.
 */
int
docsync_refuse_sqlstate(int sqlstate)
{
	if (!docsync_postgrest_is_asking())
		return sqlstate;

	switch (sqlstate)
	{
		case ERRCODE_PROGRAM_LIMIT_EXCEEDED:
			return MAKE_SQLSTATE('P', 'T', '4', '1', '3');
		case ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION:
			return MAKE_SQLSTATE('P', 'T', '4', '2', '2');
		default:
			return sqlstate;
	}
}

/*
 * Refuses a request with an HTTP status and a refusal that has a code for
 * machines.  In SQL the SQLSTATE is 55000, and the code doesn't appear; for
 * PostgREST the whole answer goes into the message, in the form it expects.
 */
void
docsync_refuse_request(int status, const Refusal *refusal)
{
	StringInfoData buf;

	if (!docsync_postgrest_is_asking())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s", refusal->message),
				 errdetail("%s", refusal->detail),
				 errhint("%s", refusal->hint)));

	/*
	 * Not with the format "%s": that would make it look like a RAISE, and one
	 * document's error (is_raised()).
	 */
	initStringInfo(&buf);
	docsync_refuse_append(&buf, refusal);
	ereport(ERROR,
			(errcode(MAKE_SQLSTATE('P', 'G', 'R', 'S', 'T')),
			 errmsg_internal("{%s", buf.data + 1),
			 errdetail("{\"status\":%d,\"headers\":{}}", status)));
}
