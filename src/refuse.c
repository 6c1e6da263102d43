/*-------------------------------------------------------------------------
 *
 * refuse.c
 *	  Refusals: how it is said, to people and to machines, what is wrong.
 *
 * Whoever refuses a document, it is named.  The message has the place for
 * people (document 17, "id"); the detail has it for machines, as JSON, and in
 * it the fact as a text; the hint is the remedy.  PostgREST passes on nothing
 * else that a machine could go by.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/guc.h"

#include "docsync.h"

/* Longest part of a refused value that is quoted back, in bytes */
#define QUOTE_LEN	40

/* As ExecWithCheckOptions() begins whenever a policy refuses a row */
#define POLICY_MESSAGE		"new row violates row-level security policy"

static bool is_policys(const ErrorData *error);
static bool is_raised(const ErrorData *error);
static char *locate(const RefusePlace *place, const char *fact);
static void append_text(StringInfo buf, const char *string);

/*
 * Refuses a document: by an error, or in a batch that isn't atomic by noting
 * it, and then this returns and the document is passed over.  What is said of
 * a document first is what it is refused for.
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
 * The same with a refusal that has been described.
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
 * What is to be said of a place.  detail and hint may be NULL; neither they
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
 * Ends the call with a refusal.
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
 * The place of a document as JSON, with what else there is to say:
 * {"document": 17, "id": "shopping", "key": "body", "text": "It is null."}
 */
char *
docsync_refuse_locate(const SentDocument *sent, const char *key,
					  const char *fact)
{
	RefusePlace place = docsync_refuse_place(sent, key);

	return locate(&place, fact);
}

/* A place as JSON, palloc'd, with what else there is to say, or NULL */
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
 * Is an error about one document, so that others may be applied all the same?
 *
 * What isn't in this list is about the statement, the table, the transaction
 * or the server: who is told of it tries again, or calls somebody.
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

/*
 * Has a policy refused a row?  Told by the message's text before translation.
 */
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
 * Refuses a document with an error of the database's, which keeps all its
 * words; where it is raised, all else it has as well.
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
 * What an error says, as a refusal.
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
 * A refusal as JSON: {"code", "message", "details", "hint"}, as PostgREST has
 * errors.
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

/* null, if there is none */
static void
append_text(StringInfo buf, const char *string)
{
	if (string != NULL)
		docsync_json_append_string(buf, string, strlen(string));
	else
		appendStringInfoString(buf, "null");
}

/*
 * A value for a message, cut where it is long, at the end of a character.
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
 * Our SQLSTATE, or the one that makes PostgREST answer with the status meant.
 * The message is the status line then, so it must have nothing of the request
 * in it.
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
 * Refuses a request with an HTTP status and a refusal that has a code machines
 * can go by.  In SQL the status is SQLSTATE 55000, and the code is in the
 * detail; for PostgREST the whole answer is put into the message, as it wants
 * it.
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

	/* A RAISE's format, "%s", would make it one document's: is_raised(). */
	initStringInfo(&buf);
	docsync_refuse_append(&buf, refusal);
	ereport(ERROR,
			(errcode(MAKE_SQLSTATE('P', 'G', 'R', 'S', 'T')),
			 errmsg_internal("{%s", buf.data + 1),
			 errdetail("{\"status\":%d,\"headers\":{}}", status)));
}
