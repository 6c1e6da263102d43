/*-------------------------------------------------------------------------
 *
 * upsert.c
 *	  Upload: a batch of documents, of which all or none are applied, or, if
 *	  the caller so wishes, each that can be.
 *
 * 1. read the batch, and refuse bad documents (document.c);
 * 2. group the documents by id and look up what is stored; if none of a sample
 *	  is stored, assume that all are new, and look them up only if that was
 *	  wrong;
 * 3. apply the rule (rule.c); documents that change nothing are done then,
 *	  without a transaction id, WAL or locks;
 * 4. write the rest in the order of ids, in parts if the database refuses some
 *	  (divide.c).  If all are new, INSERT alone is used, and if that fails
 *	  because somebody else was faster, we start over;
 * 5. if others have written a row since we looked, the rule is applied again,
 *	  to the current version, once we have locked the row to write it
 *	  (judge.c).
 *
 * An id may come several times in a batch.  Its documents are judged one by
 * one, in the order sent, and the last that wins is written.
 *
 * Memory: everything is in the memory context of the call, which the executor
 * resets.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_upsert);

/* If none of this many documents is stored, all are likely to be new. */
#define SAMPLE_DOCUMENTS	8

static void upload_run(Upload *upload, text *client_id, text *collection,
					   Batch *batch, bool atomic);
static void upload_begin(Upload *upload);
static bool upload_judge_all(Upload *upload);
static bool upload_guess(Upload *upload);
static void upload_write_all(Upload *upload, bool again);
static void upload_apply(int from, int to, int steps, void *arg);
static bool upload_refuse(int which, ErrorData *error, void *arg);
static void upload_leave(int from, int to, void *arg);
static void upload_look_up(Upload *upload, int from, int to);
static void put_rows(Upload *upload, ReturnSetInfo *rsinfo);
static Datum refusal_as_jsonb(const Refusal *refusal);

/*
 * docsync_upsert(client_id text, documents jsonb,
 *				  collection text DEFAULT 'default', atomic bool DEFAULT true)
 * RETURNS TABLE (ordinal int, id text, outcome text, client_version bigint,
 *				  last_update_utc timestamptz, winner jsonb, error jsonb)
 *
 * Returns a row for each document, in the order given.
 *
 * Locks: the rows written and those that won a race, and the collection's
 * mark, until the end of the transaction.  Two uploads never deadlock, since
 * both lock rows in the order of ids.
 */
Datum
docsync_upsert(PG_FUNCTION_ARGS)
{
	Upload	   *upload;
	Batch	   *batch = NULL;
	bool		atomic = docsync_request_get_bool(fcinfo, 3, true);

	if (!PG_ARGISNULL(1))
	{
		JsonbValue	documents;

		JsonbToJsonbValue(PG_GETARG_JSONB_P(1), &documents);
		batch = docsync_batch_parse(&documents, atomic);
	}

	upload = docsync_upsert_apply(PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0),
								  PG_ARGISNULL(2) ? NULL : PG_GETARG_TEXT_PP(2),
								  batch, atomic);

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	put_rows(upload, (ReturnSetInfo *) fcinfo->resultinfo);

	return (Datum) 0;
}

/*
 * Applies an upload.  Arguments are NULL where SQL's are.
 */
Upload *
docsync_upsert_apply(text *client_id, text *collection, Batch *batch,
					 bool atomic)
{
	Upload	   *upload = palloc0(sizeof(Upload));

	upload->division.spent = palloc0(sizeof(UploadSpent));
	upload_run(upload, client_id, collection, batch, atomic);
	return upload;
}

/*
 * Applies one upload of a request with several.  An error that concerns only
 * this one becomes its "refusal", and then nothing of it is applied.
 *
 * The caller must go through the collections in the order of their names, as
 * bytes: then uploads lock rows in the order of (collection, id), and never
 * deadlock.
 */
Upload *
docsync_upsert_apply_one(text *client_id, text *collection, Batch *batch,
						 bool atomic, UploadSpent *spent)
{
	Upload	   *upload = palloc0(sizeof(Upload));

	upload->division.spent = spent;
	upload->is_one_of_many = true;
	upload_run(upload, client_id, collection, batch, atomic);
	return upload;
}

/*
 * Applies an upload whose "spent" and "is_one_of_many" are set.  A refusal is
 * raised as an error or, if the upload is one of many, becomes its "refusal".
 */
static void
upload_run(Upload *upload, text *client_id, text *collection, Batch *batch,
		   bool atomic)
{
	const Moved *moved;

	docsync_text_check_name(client_id, "client_id", DOCSYNC_CLIENT_ID_LEN);
	docsync_text_check_name(collection, "collection", DOCSYNC_COLLECTION_LEN);
	docsync_request_check_claim(client_id);
	if (batch == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("documents is null"),
				 errhint("Send an array of documents.")));

	PreventCommandIfReadOnly("docsync_upsert()");
	PreventCommandIfParallelMode("docsync_upsert()");

	docsync_schema_open(STORE_WRITE);
	moved = docsync_moved_find_latest(collection);

	upload->client_id = client_id;
	upload->collection = collection;
	upload->batch = batch;
	if (docsync_moved_is_closed(moved))
	{
		/* What would change nothing, too: the winner is elsewhere. */
		docsync_schema_check_caller(ACL_SELECT);
		if (!upload->is_one_of_many)
			docsync_moved_refuse(moved);
		upload->refusal = docsync_moved_describe(moved);
	}
	else if (atomic)
		upload->refusal = docsync_batch_make_atomic(batch);
	if (upload->refusal != NULL && !upload->is_one_of_many)
		docsync_refuse_raise(upload->refusal);

	if (upload->refusal == NULL && upload->batch->ngroups > 0)
	{
		upload_begin(upload);
		upload_write_all(upload, !upload_judge_all(upload));
		if (upload->refusal == NULL)
			docsync_keep_discarded(upload);
	}
	else
		docsync_schema_check_caller(ACL_SELECT);
}

/* The number of documents sent, including refused ones */
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
	int			group_of = upload->batch->group_of[i];
	UploadResult result = {.sent = &upload->batch->documents[i]};
	UploadGroup *group = group_of < 0 ? NULL : &upload->groups[group_of];

	result.refusal = result.sent->refusal;
	if (result.refusal != NULL)
		result.outcome = RULE_REFUSED;
	else if (group->untried)
		result.outcome = RULE_UNTRIED;
	else
	{
		result.outcome = upload->outcomes[i];
		if (group->modified && group->write == result.sent)
			result.outcome = RULE_MODIFIED;

		result.exists = group->exists;
		result.client_version = group->client_version;
		result.last_update_utc = group->last_update_utc;
		if (docsync_rule_has_winner(result.outcome))
		{
			result.winner = group->winner;
			result.winner_omitted = group->exists && group->winner == NULL;
		}
	}

	return result;
}

/* Prepares the groups, the outcomes and the division. */
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
	}

	upload->outcomes = palloc0(sizeof(RuleOutcome) * batch->count);
	upload->context = CurrentMemoryContext;
	upload->scratch = AllocSetContextCreate(CurrentMemoryContext,
											"docsync scratch",
											ALLOCSET_DEFAULT_SIZES);
	docsync_keep_begin(upload);
	upload->division.atomic = batch->atomic;
	upload->division.is_apart = upload->is_one_of_many;
	upload->division.apply = upload_apply;
	upload->division.refuse = upload_refuse;
	upload->division.leave = upload_leave;
	upload->division.arg = upload;
}

/*
 * Applies the rule to all, before anything is written.  Returns false if that
 * failed, because a policy's function has failed for one of the stored
 * documents.
 */
static bool
upload_judge_all(Upload *upload)
{
	Oid			document = docsync_schema_open(STORE_WRITE)->relations[STORE_DOCUMENT];
	ErrorData  *error;

	/* Without policies no code of the user's is run. */
	if (check_enable_rls(document, InvalidOid, true) != RLS_ENABLED)
	{
		upload_apply(0, upload->ngroups, DIVIDE_LOOK_UP, upload);
		return true;
	}

	error = docsync_divide_try(&upload->division, 0, upload->ngroups,
							   DIVIDE_LOOK_UP);
	if (error != NULL && upload->batch->atomic && upload->ngroups == 1 &&
		!upload->is_one_of_many)
		upload_refuse(0, error, upload);
	return error == NULL;
}

/*
 * Looks up a sample of many documents.  If none is stored, assumes that all
 * are new; if that is wrong, writing them will fail.
 *
 * A client's first upload is like that, and looking up each of its documents
 * takes a seventh of the time.  If the sample isn't stored, it will be written
 * in any case, so an upload that changes nothing still never gets a
 * transaction id.
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
		docsync_judge_nothing(upload, &upload->groups[i]);
	return true;
}

/*
 * Writes what won.  With again that isn't known yet, and everything is looked
 * up as well.
 */
static void
upload_write_all(Upload *upload, bool again)
{
	int			from = 0;
	int			to = upload->ngroups;
	ErrorData  *error = NULL;

	while (!again && from < to && upload->groups[from].write == NULL)
		from++;
	while (!again && from < to && upload->groups[to - 1].write == NULL)
		to--;
	if (from == to)
		return;

	/*
	 * A rolled back subtransaction undoes all of this, so do it before.  If
	 * each subtransaction took the mark again, they would soon count as the
	 * marks of many collections.
	 */
	if (!upload->batch->atomic || upload->is_one_of_many || to - from > 1)
	{
		docsync_schema_check_caller(ACL_INSERT);
		docsync_epoch_notice();
		docsync_stamp_mark(upload->collection);
	}

	if (upload->batch->atomic && upload->is_one_of_many)
		error = docsync_divide_run_apart(&upload->division, from, to, again);
	else
		docsync_divide_run(&upload->division, from, to, again);
	if (error != NULL)
		upload->refusal = docsync_refuse_of_error(error);
}

/*
 * Division's apply: looks up groups, or writes what won in them, or both.
 */
static void
upload_apply(int from, int to, int steps, void *arg)
{
	Upload	   *upload = (Upload *) arg;

	if (steps == DIVIDE_WRITE)
		docsync_write_groups(upload, from, to, true);
	else if (steps == DIVIDE_LOOK_UP)
	{
		if (!upload_guess(upload))
			upload_look_up(upload, from, to);
	}
	else
	{
		/*
		 * This may have to be repeated, so look up no more than is written at
		 * once.
		 */
		for (int i = from; i < to; i += WRITE_DOCUMENTS)
		{
			int			end = Min(i + WRITE_DOCUMENTS, to);

			upload_look_up(upload, i, end);
			docsync_write_groups(upload, i, end, false);
		}
	}
}

/*
 * Division's refuse: refuses the document that was to be written or, if it
 * didn't get that far, all documents of its id.  Returns true if others of the
 * id are left to be tried.
 */
static bool
upload_refuse(int which, ErrorData *error, void *arg)
{
	Upload	   *upload = (Upload *) arg;
	UploadGroup *group = &upload->groups[which];
	bool		is_left = false;

	for (int i = 0; i < group->sent->count; i++)
	{
		SentDocument *sent = group->sent->documents[i];

		if (!group->judged || group->write == NULL || group->write == sent)
			docsync_refuse_with(upload->batch, sent, error);
		is_left = is_left || sent->refusal == NULL;
	}
	group->write = NULL;

	return is_left;
}

/*
 * Division's leave: groups that haven't been judged, or that were to be
 * written, are untried.
 */
static void
upload_leave(int from, int to, void *arg)
{
	Upload	   *upload = (Upload *) arg;

	for (int i = from; i < to; i++)
	{
		UploadGroup *group = &upload->groups[i];

		group->untried = !group->judged || group->write != NULL;
	}
}

/*
 * Looks up what is stored and applies the rule.
 */
static void
upload_look_up(Upload *upload, int from, int to)
{
	Datum	   *ids = palloc(sizeof(Datum) * (to - from));

	for (int i = from; i < to; i++)
	{
		upload->groups[i].judged = false;
		ids[i - from] = docsync_batch_id(upload->groups[i].sent);
	}

	docsync_store_find(upload->collection, ids, to - from, docsync_judge_stored, upload);

	for (int i = from; i < to; i++)
	{
		if (!upload->groups[i].judged)
			docsync_judge_nothing(upload, &upload->groups[i]);
	}
}

/* Adds a row for each document to the function's result. */
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
		Datum		values[7];
		bool		nulls[7] = {false};

		CHECK_FOR_INTERRUPTS();

		values[0] = Int32GetDatum(result.sent->ordinal);
		nulls[1] = result.sent->id == NULL;
		if (!nulls[1])
			values[1] = PointerGetDatum(cstring_to_text_with_len(result.sent->id,
																 result.sent->id_len));
		values[2] = CStringGetTextDatum(docsync_rule_name(result.outcome));
		values[3] = Int64GetDatum(result.client_version);
		values[4] = TimestampTzGetDatum(result.last_update_utc);
		nulls[3] = nulls[4] = !result.exists;
		values[5] = JsonbPGetDatum(result.winner);
		nulls[5] = result.winner == NULL;
		nulls[6] = result.refusal == NULL;
		if (!nulls[6])
			values[6] = refusal_as_jsonb(result.refusal);

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		MemoryContextReset(row_context);
	}

	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(row_context);
}

/*
 * A refusal in the form of HTTP's errors: {"code", "message", "details",
 * "hint"}
 */
static Datum
refusal_as_jsonb(const Refusal *refusal)
{
	StringInfoData buf;

	initStringInfo(&buf);
	docsync_refuse_append(&buf, refusal);
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data));
}
