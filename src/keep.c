/*-------------------------------------------------------------------------
 *
 * keep.c
 *	  Handing the versions that lose in an upload to record.c.
 *
 * A version that another one replaces is handed over when that one is written:
 * by then the row is locked, so it is the version that is really replaced.  An
 * upload that is discarded writes nothing.  So the outcomes are looked at when
 * the upload is done, and only the final ones count: a document that was judged
 * again, because somebody else was faster, has lost once.
 *
 * Only what its sender could have written may get into the record.  If a policy
 * hides the stored document from the sender, the upload is refused, or is in
 * conflict with a document that doesn't exist for him; neither is kept, so it
 * doesn't show whether there is such a document.  And if he can see a document
 * but not update it, he could fill its record, or push out what others have
 * lost there.
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

/* Which groups have a stored document that the caller may update */
typedef struct Changeable
{
	Upload	   *upload;
	bool	   *may;			/* by group */
} Changeable;

/*
 * Looks up what is kept of the upload's collection.
 */
void
docsync_keep_begin(Upload *upload)
{
	const RetentionRule *rule = docsync_retention_find(upload->collection);

	if (rule == NULL)
		return;

	/* The rules may be read again during the upload. */
	upload->keep = memcpy(palloc(sizeof(RetentionRule)), rule, sizeof(RetentionRule));
	if (rule->keep == RETENTION_REPLACED)
		upload->replaced = docsync_record_begin(upload->collection, rule, false);
}

/*
 * Called before a statement writes documents: drops what a statement that
 * failed has handed over.
 */
void
docsync_keep_expect(Upload *upload)
{
	if (upload->replaced != NULL)
		docsync_record_forget(upload->replaced);
}

/*
 * Called when a document of the upload has been written: hands over the
 * version that it has replaced, if there was one.
 */
void
docsync_keep_replaced(Upload *upload, const WrittenDocument *written)
{
	if (upload->replaced != NULL && written->replaced != NULL)
		docsync_record_add(upload->replaced, written->replaced,
						   written->last_update_utc, RECORD_REPLACED);
}

/*
 * Called when the statement is done: writes what was handed over.
 */
void
docsync_keep_write(Upload *upload)
{
	if (upload->replaced != NULL)
		docsync_record_write(upload->replaced);
}

/*
 * Called when the upload is done: keeps the documents that were sent and lost.
 *
 * Locks, until the end of the transaction: docsync.document, ROW EXCLUSIVE, so
 * that docsync_hand_over() waits for us; the collection's mark, so that
 * docsync_move_hand_over() does; and, under row-level security, KEY
 * SHARE on the stored documents that they lost against, which no upload waits
 * for.
 */
void
docsync_keep_discarded(Upload *upload)
{
	int			count;
	bool	   *is_loser;
	RecordList *list;
	TimestampTz stamp;

	if (upload->keep == NULL)
		return;
	is_loser = find_losers(upload, &count);
	if (count == 0)
		return;

	LockRelationOid(docsync_schema_open(STORE_WRITE)->relations[STORE_DOCUMENT],
					RowExclusiveLock);
	docsync_epoch_notice();
	stamp = docsync_stamp_take_lost(upload->collection, count);
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
 * Returns which documents of the batch have lost, by ordinal from 0: those
 * that were discarded, and those that another document of the batch has
 * replaced before they were written.
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

		if (sent->refusal != NULL || group->untried)
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

/* Returns why a document of the batch has lost. */
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
 * Sets may[] for the groups whose stored document the caller may update.
 * Privileges decide, and policies if there are any: they let him lock a row
 * only if he may update it.
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

/* StoredCallback: notes a document that may be updated. */
static bool
note_changeable(const StoredDocument *stored, void *arg)
{
	Changeable *changeable = (Changeable *) arg;

	changeable->may[docsync_batch_find(changeable->upload->batch, stored->id)] = true;
	return true;
}
