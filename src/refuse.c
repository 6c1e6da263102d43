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

#include "docsync.h"

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
