/*-------------------------------------------------------------------------
 *
 * keep.c
 *	  What loses in an upload is handed to docsync.record (record.c).
 *
 * A version that another one replaces is handed over when that is written: by
 * then the row is locked, and nobody can come in between.  An upload that is
 * discarded writes nothing; so it is looked at when all is done, and what it
 * was judged by in the end is what counts: who was overtaken, and judged again,
 * has lost once.
 *
 * Only what its sender could have written may get in.  An upload that a policy
 * hides the stored document from is refused, or in conflict with nothing that
 * it may see: of neither is there anything to keep, and whether there is such a
 * document doesn't show.  And one who sees a document that isn't his to change
 * would fill up the record, or push out of it what others have lost there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/timestamp.h"

#include "docsync.h"

static bool *find_losers(Upload *upload, int *count);
static RecordReason reason_of(const Upload *upload, const UploadGroup *group,
							  const SentDocument *sent);
static void keep_changeable(Upload *upload, bool *may);
static bool note_changeable(const StoredDocument *stored, void *arg);

/* What a look-up has found, and may be changed */
typedef struct Changeable
{
	Upload	   *upload;
	bool	   *may;			/* by group */
} Changeable;

/*
 * Finds out what is to be kept of the upload's collection.
 */
void
docsync_keep_begin(Upload *upload)
{
	const RecordRule *rule = docsync_record_find_rule(upload->collection);

	if (rule == NULL)
		return;

	/* The rules may be read anew while we are at it. */
	upload->keep = memcpy(palloc(sizeof(RecordRule)), rule, sizeof(RecordRule));
	if (rule->keep == RECORD_KEEP_REPLACED)
		upload->replaced = docsync_record_begin(upload->collection, rule, false);
}

/*
 * A statement is about to write documents.  What an earlier one has handed over
 * that failed is gone with it.
 */
void
docsync_keep_expect(Upload *upload)
{
	if (upload->replaced != NULL)
		docsync_record_forget(upload->replaced);
}

/*
 * A version has been replaced by one of ours.
 */
void
docsync_keep_replaced(Upload *upload, const WrittenDocument *written)
{
	if (upload->replaced != NULL && written->replaced != NULL)
		docsync_record_add(upload->replaced, written->replaced,
						   written->last_update_utc, RECORD_REPLACED);
}

/*
 * The statement that has written them is through.
 */
void
docsync_keep_write(Upload *upload)
{
	if (upload->replaced != NULL)
		docsync_record_write(upload->replaced);
}

/*
 * The upload is through: what of it has lost is kept.
 *
 * Locks: docsync.document, ROW EXCLUSIVE, so that docsync_hand_over() waits for
 * us; and, under row-level security, stored documents that it has lost against,
 * KEY SHARE, which no upload waits for; until the end of the transaction.
 */
void
docsync_keep_discarded(Upload *upload)
{
	int			count;
	bool	   *is_loser;
	RecordList *list;
	TimestampTz stamp;
	FullTransactionId fence;

	if (upload->keep == NULL)
		return;
	is_loser = find_losers(upload, &count);
	if (count == 0)
		return;

	LockRelationOid(docsync_schema_open(STORE_WRITE)->relations[STORE_DOCUMENT],
					RowExclusiveLock);
	docsync_epoch_notice();
	stamp = docsync_clock_tick(count, &fence);
	list = docsync_record_begin(upload->collection, upload->keep, true);

	for (int i = 0; i < upload->batch->count; i++)
	{
		SentDocument *sent = &upload->batch->documents[i];
		UploadGroup *group;
		StoredDocument lost;
		MemoryContext oldcontext;

		CHECK_FOR_INTERRUPTS();

		if (!is_loser[i])
			continue;
		group = &upload->groups[upload->batch->group_of[i]];
		oldcontext = MemoryContextSwitchTo(upload->scratch);
		lost.id = (text *) DatumGetPointer(docsync_batch_id(group->sent));
		lost.client_version = sent->client_version;
		lost.client_id = upload->client_id;
		lost.deleted = sent->deleted;
		lost.has_body = sent->has_body;
		lost.body = JsonbPGetDatum(docsync_body_make(sent));
		MemoryContextSwitchTo(oldcontext);

		docsync_record_add(list, &lost, stamp++,
						   reason_of(upload, group, sent));
		MemoryContextReset(upload->scratch);
	}
	docsync_record_write(list);
}

/*
 * Which documents of the batch have lost, by ordinal from 0: those that were
 * discarded, and those that another one of the batch has replaced before they
 * were written.
 */
static bool *
find_losers(Upload *upload, int *count)
{
	bool	   *is_loser = palloc0(sizeof(bool) * upload->batch->count);
	bool	   *may = palloc0(sizeof(bool) * upload->ngroups);
	bool		has_any = false;

	*count = 0;
	for (int i = 0; i < upload->batch->count; i++)
	{
		const SentDocument *sent = &upload->batch->documents[i];
		int			which = upload->batch->group_of[i];
		const UploadGroup *group = which < 0 ? NULL : &upload->groups[which];
		RuleOutcome outcome = upload->outcomes[i];

		if (sent->refusal != NULL || group->untried || !group->exists)
			continue;
		if (outcome == RULE_DISCARDED || outcome == RULE_CONFLICT)
			is_loser[i] = true;
		else if (outcome == RULE_CREATED || outcome == RULE_UPDATED)
			is_loser[i] = upload->replaced != NULL && group->write != sent;
		has_any = has_any || is_loser[i];
		may[which] = group->written;
	}
	if (!has_any)
		return is_loser;

	keep_changeable(upload, may);
	for (int i = 0; i < upload->batch->count; i++)
	{
		is_loser[i] = is_loser[i] && may[upload->batch->group_of[i]];
		*count += is_loser[i];
	}
	return is_loser;
}

/* What a document of the batch has lost by */
static RecordReason
reason_of(const Upload *upload, const UploadGroup *group,
		  const SentDocument *sent)
{
	switch (upload->outcomes[sent->ordinal - 1])
	{
		case RULE_DISCARDED:
			return RECORD_DISCARDED;
		case RULE_CONFLICT:
			return RECORD_CONFLICT;
		default:
			return RECORD_REPLACED;
	}
}

/*
 * Which of the stored documents may the caller change?  By privileges, and
 * where there are policies by these: to lock a row they must let him update it.
 */
static void
keep_changeable(Upload *upload, bool *may)
{
	Oid			document = docsync_schema_open(STORE_WRITE)->relations[STORE_DOCUMENT];
	bool		is_hindered = check_enable_rls(document, InvalidOid, true) == RLS_ENABLED;
	Changeable	changeable = {upload, may};
	Datum	   *ids;
	int			count = 0;

	if (pg_class_aclcheck(document, GetUserId(), ACL_UPDATE) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(document, GetUserId(), ACL_UPDATE,
								  ACLMASK_ANY) != ACLCHECK_OK)
		return;

	ids = palloc(sizeof(Datum) * upload->ngroups);
	for (int i = 0; i < upload->ngroups; i++)
	{
		if (may[i] || !upload->groups[i].exists)
			continue;
		if (is_hindered)
			ids[count++] = docsync_batch_id(upload->groups[i].sent);
		else
			may[i] = true;
	}
	if (count > 0)
		docsync_store_find_changeable(upload->collection, ids, count,
									  note_changeable, &changeable);
}

/* StoredCallback: a document that may be changed */
static bool
note_changeable(const StoredDocument *stored, void *arg)
{
	Changeable *changeable = (Changeable *) arg;

	changeable->may[docsync_batch_find(changeable->upload->batch, stored->id)] = true;
	return true;
}
