/*-------------------------------------------------------------------------
 *
 * upsert.c
 *	  Upload: a batch of documents, applied wholly or not at all.
 *
 * 1. parse the batch, and refuse it if it is bad (batch.c);
 * 2. group the documents by id and look up what is stored;
 * 3. apply the rule (rule.c); what changes nothing is done with: no
 *	  transaction id, no WAL, no lock;
 * 4. write the rest in the order of ids; the rule is applied again to each
 *	  row once it is locked (store.c);
 * 5. what was not written lost a race: look it up again, it is locked now,
 *	  and apply the rule again.
 *
 * An id may come several times in a batch.  Its documents are judged one by
 * one, in the order sent, and the last that wins is written.
 *
 * Memory: all in the memory context of the call, which the executor resets.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_upsert);

/* Documents written by one statement: few enough to stay in memory. */
#define WRITE_DOCUMENTS		1000

/*
 * The documents of one id, and what the service has after the call.
 */
typedef struct UploadGroup
{
	SentDocument **documents;	/* in the order sent */
	int			count;
	SentDocument *write;		/* the last that wins; NULL: none */
	bool		created;
	bool		written;
	bool		decided;		/* by what is stored, or by its absence */
	int64		client_version;
	TimestampTz last_update_utc;
	Datum		winner;			/* jsonb, 0: none needed */
} UploadGroup;

typedef struct Upload
{
	text	   *collection;
	text	   *client_id;
	Batch	   *batch;
	SentDocument **sorted;		/* by id, then by ordinal */
	UploadGroup *groups;		/* by id */
	int			ngroups;
	UploadGroup **group_of;		/* by ordinal, from 0 */
	RuleOutcome *outcomes;		/* by ordinal, from 0 */
} Upload;

static void upload_group(Upload *upload);
static void upload_look_up(Upload *upload, bool lost);
static void upload_write(Upload *upload);
static void upload_decide(Upload *upload, UploadGroup *group, RuleHeld *held);
static bool on_stored(const StoredDocument *stored, void *arg);
static void on_written(const WrittenDocument *written, void *arg);
static UploadGroup *find_group(Upload *upload, const text *id);
static bool has_loser(Upload *upload, UploadGroup *group);
static Datum make_winner(const char *id, int id_len, int64 client_version,
						 const char *client_id, int client_id_len,
						 TimestampTz last_update_utc, bool deleted,
						 Jsonb *body);
static void push_key(JsonbParseState **state, const char *name);
static void push_string(JsonbParseState **state, JsonbIteratorToken token,
						const char *string, int len);
static void put_rows(Upload *upload, ReturnSetInfo *rsinfo);
static int	compare_documents(const void *a, const void *b);

/*
 * docsync_upsert(client_id text, documents jsonb,
 *				  collection text DEFAULT 'default')
 * RETURNS TABLE (ordinal int, id text, outcome text, client_version bigint,
 *				  last_update_utc timestamptz, winner jsonb)
 *
 * A row for each document, in the order given.
 *
 * Locks: the rows written and those that won a race, and the collection's
 * mark, until the end of the transaction.  Two uploads never deadlock, since
 * both lock rows in the order of ids.
 */
Datum
docsync_upsert(PG_FUNCTION_ARGS)
{
	Upload		upload = {0};

	upload.client_id = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	upload.collection = PG_ARGISNULL(2) ? NULL : PG_GETARG_TEXT_PP(2);

	docsync_batch_check_name(upload.client_id, "client_id",
							 DOCSYNC_CLIENT_ID_LEN);
	docsync_batch_check_name(upload.collection, "collection",
							 DOCSYNC_COLLECTION_LEN);
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("documents is null"),
				 errhint("Send an array of documents.")));

	PreventCommandIfReadOnly("docsync_upsert()");
	PreventCommandIfParallelMode("docsync_upsert()");

	upload.batch = docsync_batch_parse(PG_GETARG_JSONB_P(1));

	InitMaterializedSRF(fcinfo, 0);
	if (upload.batch->count > 0)
	{
		upload_group(&upload);
		upload_look_up(&upload, false);
		upload_write(&upload);
		upload_look_up(&upload, true);
	}
	put_rows(&upload, (ReturnSetInfo *) fcinfo->resultinfo);

	return (Datum) 0;
}

static void
upload_group(Upload *upload)
{
	int			count = upload->batch->count;
	UploadGroup *group = NULL;

	upload->sorted = palloc(sizeof(SentDocument *) * count);
	upload->groups = palloc0(sizeof(UploadGroup) * count);
	upload->group_of = palloc(sizeof(UploadGroup *) * count);
	upload->outcomes = palloc0(sizeof(RuleOutcome) * count);

	for (int i = 0; i < count; i++)
		upload->sorted[i] = &upload->batch->documents[i];
	qsort(upload->sorted, count, sizeof(SentDocument *), compare_documents);

	for (int i = 0; i < count; i++)
	{
		SentDocument *sent = upload->sorted[i];

		if (group == NULL ||
			docsync_batch_compare_ids(group->documents[0]->id,
									  group->documents[0]->id_len,
									  sent->id, sent->id_len) != 0)
		{
			group = &upload->groups[upload->ngroups++];
			group->documents = &upload->sorted[i];
		}
		group->count++;
		upload->group_of[sent->ordinal - 1] = group;
	}
}

/*
 * Looks up what is stored and applies the rule: first to all ids, then to
 * those that were to be written and were not.
 */
static void
upload_look_up(Upload *upload, bool lost)
{
	Datum	   *ids = palloc(sizeof(Datum) * upload->ngroups);
	int			count = 0;

	for (int i = 0; i < upload->ngroups; i++)
	{
		UploadGroup *group = &upload->groups[i];

		if (lost && (group->write == NULL || group->written))
			continue;
		group->decided = false;
		ids[count++] = PointerGetDatum(cstring_to_text_with_len(group->documents[0]->id,
																group->documents[0]->id_len));
	}
	if (count == 0)
		return;

	docsync_store_find(upload->collection, ids, count, on_stored, upload);

	for (int i = 0; i < upload->ngroups; i++)
	{
		UploadGroup *group = &upload->groups[i];

		if (!lost && !group->decided)
		{
			RuleHeld	nothing = {.exists = false};

			upload_decide(upload, group, &nothing);
		}
		if (lost && group->write != NULL && !group->written)
			ereport(ERROR,
					(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
					 errmsg("document %d was not stored",
							group->write->ordinal),
					 errdetail("A trigger on docsync.document may have suppressed it.")));
	}
}

/*
 * Writes what won, in the order of ids.
 *
 * An update takes two stamps, since ON CONFLICT fires the trigger for INSERT
 * before that for UPDATE; of the gap nobody takes notice.
 */
static void
upload_write(Upload *upload)
{
	SentDocument **writes = palloc(sizeof(SentDocument *) * upload->ngroups);
	int			count = 0;
	int			stamps = 0;

	for (int i = 0; i < upload->ngroups; i++)
	{
		UploadGroup *group = &upload->groups[i];

		if (group->write != NULL)
		{
			writes[count++] = group->write;
			stamps += group->created ? 1 : 2;
		}
	}

	docsync_stamp_expect(stamps);
	for (int i = 0; i < count; i += WRITE_DOCUMENTS)
	{
		CHECK_FOR_INTERRUPTS();
		docsync_store_write(upload->collection, upload->client_id,
							writes + i, Min(WRITE_DOCUMENTS, count - i),
							on_written, upload);
	}
	docsync_stamp_forget();
}

/*
 * Applies the rule to the documents of one id, one by one, beginning with
 * what the service holds.
 */
static void
upload_decide(Upload *upload, UploadGroup *group, RuleHeld *held)
{
	group->write = NULL;
	group->created = !held->exists;
	group->decided = true;

	for (int i = 0; i < group->count; i++)
	{
		SentDocument *sent = group->documents[i];
		RuleOutcome outcome = docsync_rule_decide(held, sent);

		upload->outcomes[sent->ordinal - 1] = outcome;
		if (outcome == RULE_CREATED || outcome == RULE_UPDATED)
		{
			group->write = sent;

			held->exists = true;
			held->client_version = sent->client_version;
			held->same_client = true;
			held->deleted = sent->deleted;
			/* The rule looks at it only if the next has the same version. */
			held->body = i + 1 < group->count ? docsync_batch_body(sent) : NULL;
		}
	}
}

/*
 * StoredCallback of upload_look_up()
 */
static bool
on_stored(const StoredDocument *stored, void *arg)
{
	Upload	   *upload = (Upload *) arg;
	UploadGroup *group = find_group(upload, stored->id);
	int			id_len = VARSIZE_ANY_EXHDR(stored->client_id);
	RuleHeld	held = {.exists = true};

	held.client_version = stored->client_version;
	held.same_client = id_len == VARSIZE_ANY_EXHDR(upload->client_id) &&
		memcmp(VARDATA_ANY(stored->client_id),
			   VARDATA_ANY(upload->client_id), id_len) == 0;
	held.deleted = stored->deleted;

	/* Detoast the body only if the rule will look at it. */
	for (int i = 0; i < group->count; i++)
	{
		if (held.same_client && stored->has_body && held.body == NULL &&
			group->documents[i]->client_version == stored->client_version)
			held.body = DatumGetJsonbP(stored->body);
	}

	upload_decide(upload, group, &held);
	if (group->write != NULL)
		return true;

	group->client_version = stored->client_version;
	group->last_update_utc = stored->last_update_utc;
	if (has_loser(upload, group))
		group->winner =
			make_winner(VARDATA_ANY(stored->id), VARSIZE_ANY_EXHDR(stored->id),
						stored->client_version,
						VARDATA_ANY(stored->client_id), id_len,
						stored->last_update_utc, stored->deleted,
						stored->has_body ? DatumGetJsonbP(stored->body) : NULL);
	return true;
}

/*
 * WrittenCallback of upload_write()
 */
static void
on_written(const WrittenDocument *written, void *arg)
{
	Upload	   *upload = (Upload *) arg;
	UploadGroup *group = find_group(upload, written->id);
	SentDocument *sent = group->write;

	group->written = true;
	group->client_version = sent->client_version;
	group->last_update_utc = written->last_update_utc;

	/* Somebody stored it since we looked, and we were newer. */
	if (group->created && !written->inserted)
	{
		group->created = false;
		upload->outcomes[group->documents[0]->ordinal - 1] = RULE_UPDATED;
	}

	if (has_loser(upload, group))
		group->winner =
			make_winner(sent->id, sent->id_len, sent->client_version,
						VARDATA_ANY(upload->client_id),
						VARSIZE_ANY_EXHDR(upload->client_id),
						written->last_update_utc, sent->deleted,
						docsync_batch_body(sent));
}

static UploadGroup *
find_group(Upload *upload, const text *id)
{
	int			low = 0;
	int			high = upload->ngroups - 1;

	while (low <= high)
	{
		int			middle = (low + high) / 2;
		UploadGroup *group = &upload->groups[middle];
		int			cmp;

		cmp = docsync_batch_compare_ids(VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id),
										group->documents[0]->id,
										group->documents[0]->id_len);
		if (cmp == 0)
			return group;
		if (cmp < 0)
			high = middle - 1;
		else
			low = middle + 1;
	}
	elog(ERROR, "document was not asked for");
}

static bool
has_loser(Upload *upload, UploadGroup *group)
{
	for (int i = 0; i < group->count; i++)
	{
		if (upload->outcomes[group->documents[i]->ordinal - 1] == RULE_DISCARDED)
			return true;
	}
	return false;
}

/*
 * The service's whole document, as it is downloaded.
 */
static Datum
make_winner(const char *id, int id_len, int64 client_version,
			const char *client_id, int client_id_len,
			TimestampTz last_update_utc, bool deleted, Jsonb *body)
{
	JsonbParseState *state = NULL;
	JsonbValue	value;
	char		stamp[DOCSYNC_STAMP_LEN];

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);

	push_key(&state, "id");
	push_string(&state, WJB_VALUE, id, id_len);

	push_key(&state, "clientVersion");
	value.type = jbvNumeric;
	value.val.numeric = int64_to_numeric(client_version);
	pushJsonbValue(&state, WJB_VALUE, &value);

	push_key(&state, "clientId");
	push_string(&state, WJB_VALUE, client_id, client_id_len);

	push_key(&state, "LastUpdateUtc");
	push_string(&state, WJB_VALUE, stamp,
				docsync_stamp_format(last_update_utc, stamp));

	push_key(&state, "deleted");
	value.type = jbvBool;
	value.val.boolean = deleted;
	pushJsonbValue(&state, WJB_VALUE, &value);

	push_key(&state, "body");
	if (body == NULL)
		value.type = jbvNull;
	else if (JB_ROOT_IS_SCALAR(body))
		JsonbExtractScalar(&body->root, &value);
	else
	{
		value.type = jbvBinary;
		value.val.binary.data = &body->root;
		value.val.binary.len = VARSIZE(body) - VARHDRSZ;
	}
	pushJsonbValue(&state, WJB_VALUE, &value);

	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state,
														   WJB_END_OBJECT,
														   NULL)));
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
put_rows(Upload *upload, ReturnSetInfo *rsinfo)
{
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext,
													  "docsync row",
													  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(row_context);

	for (int i = 0; i < upload->batch->count; i++)
	{
		SentDocument *sent = &upload->batch->documents[i];
		UploadGroup *group = upload->group_of[i];
		RuleOutcome outcome = upload->outcomes[i];
		Datum		values[6];
		bool		nulls[6] = {false};

		CHECK_FOR_INTERRUPTS();

		values[0] = Int32GetDatum(sent->ordinal);
		values[1] = PointerGetDatum(cstring_to_text_with_len(sent->id,
															 sent->id_len));
		values[2] = CStringGetTextDatum(docsync_rule_name(outcome));
		values[3] = Int64GetDatum(group->client_version);
		values[4] = TimestampTzGetDatum(group->last_update_utc);
		values[5] = group->winner;
		nulls[5] = outcome != RULE_DISCARDED;

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		MemoryContextReset(row_context);
	}

	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(row_context);
}

static int
compare_documents(const void *a, const void *b)
{
	const SentDocument *first = *(SentDocument *const *) a;
	const SentDocument *second = *(SentDocument *const *) b;
	int			cmp;

	cmp = docsync_batch_compare_ids(first->id, first->id_len,
									second->id, second->id_len);

	return cmp != 0 ? cmp : first->ordinal - second->ordinal;
}
