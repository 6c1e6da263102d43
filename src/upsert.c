/*-------------------------------------------------------------------------
 *
 * upsert.c
 *	  Upload: a batch of documents, applied wholly or not at all.
 *
 * 1. parse the batch, and refuse it if it is bad (batch.c);
 * 2. group the documents by id and look up what is stored; if none of a few
 *	  is, take all for new, and look them up only if that was wrong;
 * 3. apply the rule (rule.c); what changes nothing is done with: no
 *	  transaction id, no WAL, no lock;
 * 4. write the rest in the order of ids; the rule is applied again to each
 *	  row once it is locked (store.c).  If all are new, INSERT alone does, and
 *	  if that fails since somebody was faster, we begin again;
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
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_upsert);

/* Documents written by one statement: few enough to stay in memory. */
#define WRITE_DOCUMENTS		500

/* From so many new documents on a subtransaction is worth while. */
#define CREATE_DOCUMENTS	50

/* If none of so many is stored, all are likely to be new. */
#define SAMPLE_DOCUMENTS	8

/*
 * The documents of one id, and what the service has after the call.
 */
typedef struct UploadGroup
{
	const BatchGroup *sent;
	SentDocument *write;		/* the last that wins; NULL: none */
	bool		created;
	bool		written;
	bool		judged;			/* by the rule */
	bool		has_base;		/* one of the documents names what it is based
								 * on */
	bool		again;			/* it is being written for the second time */
	bool		exists;			/* the service has one */
	int64		client_version;
	TimestampTz last_update_utc;
	TimestampTz judged_on;		/* the stored document's stamp; DT_NOEND: none */
	Jsonb	   *winner;			/* NULL: none needed */
} UploadGroup;

struct Upload
{
	text	   *collection;
	text	   *client_id;
	Batch	   *batch;
	UploadGroup *groups;		/* by id, as the batch's */
	int			ngroups;
	RuleOutcome *outcomes;		/* by ordinal, from 0 */
	bool		has_base;		/* one of the groups has */
	MemoryContext scratch;		/* for a document at a time */
	int64		winners_size;	/* bytes, as jsonb */
};

static void upload_begin(Upload *upload);
static bool upload_guess(Upload *upload);
static bool upload_look_up(Upload *upload, bool lost);
static bool upload_write(Upload *upload, bool guessed);
static bool upload_create(Upload *upload, SentDocument **writes, int count);
static void upload_statements(Upload *upload, SentDocument **writes,
							  int count, bool all_new);
static void upload_judge(Upload *upload, UploadGroup *group,
						 const StoredDocument *stored);
static bool on_stored(const StoredDocument *stored, void *arg);
static void on_written(const WrittenDocument *written, void *arg);
static bool may_replace(const StoredDocument *stored, void *arg);
static Jsonb *make_winner(Upload *upload, const StoredDocument *stored);
static bool has_loser(Upload *upload, UploadGroup *group);
static void put_rows(Upload *upload, ReturnSetInfo *rsinfo);

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
	Upload	   *upload;
	JsonbValue	documents;

	if (!PG_ARGISNULL(1))
		JsonbToJsonbValue(PG_GETARG_JSONB_P(1), &documents);

	upload = docsync_upsert_apply(PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0),
								  PG_ARGISNULL(2) ? NULL : PG_GETARG_TEXT_PP(2),
								  PG_ARGISNULL(1) ? NULL : &documents);

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	put_rows(upload, (ReturnSetInfo *) fcinfo->resultinfo);

	return (Datum) 0;
}

/*
 * Applies an upload.  Arguments are NULL where SQL's are.
 */
Upload *
docsync_upsert_apply(text *client_id, text *collection,
					 const JsonbValue *documents)
{
	Upload	   *upload = palloc0(sizeof(Upload));

	docsync_batch_check_name(client_id, "client_id", DOCSYNC_CLIENT_ID_LEN);
	docsync_batch_check_name(collection, "collection", DOCSYNC_COLLECTION_LEN);
	docsync_request_check_claim(client_id);
	if (documents == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("documents is null"),
				 errhint("Send an array of documents.")));

	PreventCommandIfReadOnly("docsync_upsert()");
	PreventCommandIfParallelMode("docsync_upsert()");

	docsync_schema_open(STORE_WRITE);

	upload->client_id = client_id;
	upload->collection = collection;
	upload->batch = docsync_batch_parse(documents, true);

	if (upload->batch->count > 0)
	{
		upload_begin(upload);
		if (!upload_guess(upload))
		{
			upload_look_up(upload, false);
			upload_write(upload, false);
		}
		if (upload_look_up(upload, true))
		{
			upload_write(upload, false);
			upload_look_up(upload, true);
		}
	}
	else
		docsync_schema_check_caller();

	return upload;
}

int
docsync_upsert_count(const Upload *upload)
{
	return upload->batch->count;
}

/*
 * What became of the document at place i, from 0.
 */
UploadResult
docsync_upsert_result(const Upload *upload, int i)
{
	UploadGroup *group = &upload->groups[upload->batch->group_of[i]];
	UploadResult result;

	result.sent = &upload->batch->documents[i];
	result.outcome = upload->outcomes[i];
	result.exists = group->exists;
	result.client_version = group->client_version;
	result.last_update_utc = group->last_update_utc;
	result.winner = result.outcome == RULE_DISCARDED ||
		result.outcome == RULE_CONFLICT ? group->winner : NULL;

	return result;
}

static void
upload_begin(Upload *upload)
{
	Batch	   *batch = upload->batch;

	upload->ngroups = batch->ngroups;
	upload->groups = palloc0(sizeof(UploadGroup) * batch->ngroups);
	for (int i = 0; i < batch->ngroups; i++)
	{
		UploadGroup *group = &upload->groups[i];

		group->sent = &batch->groups[i];
		for (int j = 0; j < group->sent->count; j++)
			group->has_base = group->has_base || group->sent->documents[j]->has_base;
		upload->has_base = upload->has_base || group->has_base;
	}

	upload->outcomes = palloc0(sizeof(RuleOutcome) * batch->count);
	upload->scratch = AllocSetContextCreate(CurrentMemoryContext,
											"docsync scratch",
											ALLOCSET_DEFAULT_SIZES);
}

/*
 * Looks up a few of many documents.  If none is stored, takes all for new and
 * writes them; false if that was wrong, and then nothing has been done.
 *
 * A client's first upload is like that, and to look up each of its documents
 * takes a seventh of the time.  Those looked up here are to be written in any
 * case, so an upload that changes nothing never has a transaction id.
 */
static bool
upload_guess(Upload *upload)
{
	Datum		ids[SAMPLE_DOCUMENTS];

	if (upload->ngroups < CREATE_DOCUMENTS)
		return false;

	for (int i = 0; i < SAMPLE_DOCUMENTS; i++)
		ids[i] = docsync_batch_id(&upload->batch->groups[(int64) i * (upload->ngroups - 1) /
														 (SAMPLE_DOCUMENTS - 1)]);
	if (docsync_store_find(upload->collection, ids, SAMPLE_DOCUMENTS,
						   NULL, NULL) > 0)
		return false;

	for (int i = 0; i < upload->ngroups; i++)
		upload_judge(upload, &upload->groups[i], NULL);
	return upload_write(upload, true);
}

/*
 * Looks up what is stored and applies the rule: first to all ids, then to
 * those that were to be written and were not.  These have lost a race, unless
 * the stored document has changed since it was compared with what ours is based
 * on: then it is locked now, and if ours wins over it, there is something to
 * write again, and true is returned.
 */
static bool
upload_look_up(Upload *upload, bool lost)
{
	bool		again = false;
	Datum	   *ids = palloc(sizeof(Datum) * upload->ngroups);
	int			count = 0;

	for (int i = 0; i < upload->ngroups; i++)
	{
		UploadGroup *group = &upload->groups[i];

		if (lost && (group->write == NULL || group->written))
			continue;
		group->judged = false;
		ids[count++] = docsync_batch_id(group->sent);
	}
	if (count == 0)
		return false;

	docsync_store_find(upload->collection, ids, count, on_stored, upload);

	for (int i = 0; i < upload->ngroups; i++)
	{
		UploadGroup *group = &upload->groups[i];

		if (!lost && !group->judged)
			upload_judge(upload, group, NULL);
		if (!lost || group->write == NULL || group->written)
			continue;
		if (group->has_base && !group->again)
			again = group->again = true;
		else
			ereport(ERROR,
					(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
					 errmsg("document %d was not stored",
							group->write->ordinal),
					 errdetail("A trigger on docsync.document may have suppressed it.")));
	}
	return again;
}

/*
 * Writes what won, in the order of ids.  False if all were guessed to be new
 * and are not; then nothing has been done.
 */
static bool
upload_write(Upload *upload, bool guessed)
{
	SentDocument **writes = palloc(sizeof(SentDocument *) * upload->ngroups);
	int			count = 0;
	bool		all_new = true;

	for (int i = 0; i < upload->ngroups; i++)
	{
		UploadGroup *group = &upload->groups[i];

		if (group->write != NULL && !group->written)
		{
			writes[count++] = group->write;
			all_new = all_new && group->created;
		}
	}

	/* The plan for one that is new is quicker to start. */
	if (all_new && count == 1 && upload->ngroups == 1)
	{
		upload_statements(upload, writes, 1, true);
		if (upload->groups[0].written)
			return true;
	}
	if (all_new && count >= CREATE_DOCUMENTS)
	{
		if (upload_create(upload, writes, count))
			return true;
		if (guessed)
			return false;
	}
	upload_statements(upload, writes, count, false);
	return true;
}

/*
 * Writes documents none of which was stored when we looked, in a
 * subtransaction.  False if one is now: then nothing has been done, and
 * nothing is locked.
 *
 * Not for a batch that has updates too: these would be written out of the
 * order of ids, and two uploads could deadlock.
 */
static bool
upload_create(Upload *upload, SentDocument **writes, int count)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool done = true;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		upload_statements(upload, writes, count, true);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;

		if (error->sqlerrcode != ERRCODE_UNIQUE_VIOLATION)
			ReThrowError(error);
		FreeErrorData(error);

		for (int i = 0; i < count; i++)
			upload->groups[upload->batch->group_of[writes[i]->ordinal - 1]].written = false;
		upload->winners_size = 0;
		done = false;
	}
	PG_END_TRY();

	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return done;
}

/*
 * Writes documents, some at a time.
 *
 * An update takes two stamps, since ON CONFLICT fires the trigger for INSERT
 * before that for UPDATE; of the gap nobody takes notice.  Stamps are reserved
 * for a statement, not for all: the clock shouldn't run ahead for uploads that
 * a policy refuses at the first row.
 */
static void
upload_statements(Upload *upload, SentDocument **writes, int count,
				  bool all_new)
{
	for (int i = 0; i < count; i += WRITE_DOCUMENTS)
	{
		int			some = Min(WRITE_DOCUMENTS, count - i);

		CHECK_FOR_INTERRUPTS();

		docsync_stamp_expect(all_new ? some : 2 * some);
		docsync_store_write(upload->collection, upload->client_id,
							writes + i, some, all_new, on_written,
							upload->has_base ? may_replace : NULL, upload);
	}
	docsync_stamp_forget();
}

/*
 * Applies the rule to the documents of one id, one by one, beginning with
 * what is stored, which is NULL if nothing is.
 */
static void
upload_judge(Upload *upload, UploadGroup *group, const StoredDocument *stored)
{
	RuleHeld	at_first = {.exists = stored != NULL};
	RuleHeld	held;

	if (stored != NULL)
	{
		at_first.client_version = stored->client_version;
		at_first.last_update_utc = stored->last_update_utc;
		at_first.same_client = docsync_batch_same_text(stored->client_id,
													   upload->client_id);
		at_first.deleted = stored->deleted;

		/* Detoast the body only if the rule will look at it. */
		for (int i = 0; i < group->sent->count; i++)
		{
			if ((at_first.same_client || group->has_base) && stored->has_body &&
				at_first.body == NULL &&
				group->sent->documents[i]->client_version == stored->client_version)
				at_first.body = DatumGetJsonbP(stored->body);
		}
	}

	held = at_first;
	group->judged_on = stored != NULL ? stored->last_update_utc : DT_NOEND;
	group->exists = stored != NULL;
	group->write = NULL;
	group->created = !held.exists;
	group->judged = true;

	for (int i = 0; i < group->sent->count; i++)
	{
		SentDocument *sent = group->sent->documents[i];
		RuleOutcome outcome = docsync_rule_decide(&held, sent);

		upload->outcomes[sent->ordinal - 1] = outcome;
		if (outcome == RULE_CREATED || outcome == RULE_UPDATED)
		{
			group->write = sent;

			held.exists = true;
			held.client_version = sent->client_version;
			held.last_update_utc = DT_NOEND;
			held.same_client = true;
			held.deleted = sent->deleted;
			/* There is another to compare it with? */
			held.body = i + 1 < group->sent->count ? docsync_batch_body(sent) : NULL;
		}
	}

	/* Two edits with clientVersion 0 may end where they began. */
	if (group->write != NULL &&
		docsync_rule_decide(&at_first, group->write) == RULE_UNCHANGED)
		group->write = NULL;
}

/*
 * StoredCallback of upload_look_up()
 */
static bool
on_stored(const StoredDocument *stored, void *arg)
{
	Upload	   *upload = (Upload *) arg;
	UploadGroup *group = &upload->groups[docsync_batch_find(upload->batch,
															stored->id)];
	MemoryContext oldcontext;

	/* A large batch that is sent again would be there three times over. */
	oldcontext = MemoryContextSwitchTo(upload->scratch);
	upload_judge(upload, group, stored);
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(upload->scratch);

	if (group->write != NULL)
		return true;

	group->client_version = stored->client_version;
	group->last_update_utc = stored->last_update_utc;
	if (has_loser(upload, group))
		group->winner = make_winner(upload, stored);
	return true;
}

/*
 * WrittenCallback of upload_write()
 */
static void
on_written(const WrittenDocument *written, void *arg)
{
	Upload	   *upload = (Upload *) arg;
	UploadGroup *group = &upload->groups[docsync_batch_find(upload->batch,
															written->id)];
	SentDocument *sent = group->write;

	/*
	 * Somebody may have written it since we looked.  We have won all the
	 * same, but an earlier one of ours may not have.  Where one names what it
	 * is based on, may_replace() has seen to it that nobody has; at most a
	 * tombstone has been purged, and that nobody is to hear of.
	 */
	if (!group->has_base &&
		(group->sent->count > 1 || group->created != (written->replaced == NULL)))
		upload_judge(upload, group, written->replaced);
	Assert(group->write == sent);

	group->written = true;
	group->exists = true;
	group->client_version = written->client_version;
	group->last_update_utc = written->last_update_utc;

	/* An earlier or later one in the batch lost against it. */
	if (has_loser(upload, group))
	{
		StoredDocument stored = {
			.id = cstring_to_text_with_len(sent->id, sent->id_len),
			.client_version = sent->client_version,
			.client_id = upload->client_id,
			.last_update_utc = written->last_update_utc,
			.deleted = sent->deleted,
			.has_body = sent->has_body,
			.body = JsonbPGetDatum(docsync_batch_body(sent))
		};

		group->winner = make_winner(upload, &stored);
	}
}

/*
 * ReplaceCallback: a document that is based on another may replace only what it
 * was compared with.
 */
static bool
may_replace(const StoredDocument *stored, void *arg)
{
	Upload	   *upload = (Upload *) arg;
	UploadGroup *group = &upload->groups[docsync_batch_find(upload->batch,
															stored->id)];

	return !group->has_base || group->judged_on == stored->last_update_utc;
}

/*
 * The stored document, for a client whose own was discarded; NULL when all of
 * them would be more than an answer may have.  A small request could ask for
 * gigabytes, and the download has the document too.
 */
static Jsonb *
make_winner(Upload *upload, const StoredDocument *stored)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(upload->scratch);
	Jsonb	   *document = docsync_json_document(stored);
	Jsonb	   *winner = NULL;

	MemoryContextSwitchTo(oldcontext);

	upload->winners_size += VARSIZE(document);
	if (upload->winners_size <= docsync_max_page_size)
	{
		winner = palloc(VARSIZE(document));
		memcpy(winner, document, VARSIZE(document));
	}
	MemoryContextReset(upload->scratch);

	return winner;
}

static bool
has_loser(Upload *upload, UploadGroup *group)
{
	for (int i = 0; i < group->sent->count; i++)
	{
		RuleOutcome outcome = upload->outcomes[group->sent->documents[i]->ordinal - 1];

		if (outcome == RULE_DISCARDED || outcome == RULE_CONFLICT)
			return true;
	}
	return false;
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
		UploadResult result = docsync_upsert_result(upload, i);
		Datum		values[6];
		bool		nulls[6] = {false};

		CHECK_FOR_INTERRUPTS();

		values[0] = Int32GetDatum(result.sent->ordinal);
		values[1] = PointerGetDatum(cstring_to_text_with_len(result.sent->id,
															 result.sent->id_len));
		values[2] = CStringGetTextDatum(docsync_rule_name(result.outcome));
		values[3] = Int64GetDatum(result.client_version);
		values[4] = TimestampTzGetDatum(result.last_update_utc);
		nulls[3] = nulls[4] = !result.exists;
		values[5] = JsonbPGetDatum(result.winner);
		nulls[5] = result.winner == NULL;

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		MemoryContextReset(row_context);
	}

	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(row_context);
}
