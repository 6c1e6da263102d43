/*-------------------------------------------------------------------------
 *
 * judge.c
 *	  What becomes of the documents of one id: the rule is applied to what is
 *	  stored, and again whenever that turns out to have changed.
 *
 * The documents of an id are judged when they are looked up, without a lock.
 * When one of them is about to be written, the guard hands us the stored row,
 * which is locked by then.  If it isn't the version that they were judged on,
 * they are judged once more, and that is final: nobody can change the row
 * before our transaction ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "docsync.h"

static void judge_stored(Upload *upload, UploadGroup *group,
						 const StoredDocument *stored);
static void judge(Upload *upload, UploadGroup *group, const RuleHeld *stored);
static RuleHeld held_as(Upload *upload, const StoredDocument *stored);
static UploadGroup *find_writing(Upload *upload, const text *id);
static void set_winner(Upload *upload, UploadGroup *group,
					   const StoredDocument *stored);
static void drop_winner(Upload *upload, UploadGroup *group);
static bool has_loser(Upload *upload, UploadGroup *group);

/*
 * Judges the documents of an id of which nothing is stored.
 */
void
docsync_judge_nothing(Upload *upload, UploadGroup *group)
{
	judge(upload, group, NULL);
}

/*
 * StoredCallback: judges the documents of the id that a lookup has found.
 */
bool
docsync_judge_stored(const StoredDocument *stored, void *arg)
{
	Upload	   *upload = (Upload *) arg;

	judge_stored(upload,
				 &upload->groups[docsync_batch_find(upload->batch, stored->id)],
				 stored);
	return true;
}

/*
 * ReplaceCallback: a document may replace only what it was compared with.  If
 * something else is stored by now, it is compared with that, which is locked.
 *
 * ON CONFLICT's WHERE can't do this: some minor releases of the server apply
 * it before the policies, others after, and so an upload would reveal whether
 * a document that its caller may not see has a higher version.
 */
bool
docsync_judge_may_replace(const StoredDocument *stored, void *arg)
{
	Upload	   *upload = (Upload *) arg;
	UploadGroup *group = find_writing(upload, stored->id);
	SentDocument *write = group->write;

	upload->division.passed = group - upload->groups;
	if (group->judged_on == stored->last_update_utc)
		return true;

	judge_stored(upload, group, stored);
	if (group->write == write)
		return true;

	group->again = group->write != NULL;
	upload->division.passed++;
	return false;
}

/*
 * WrittenCallback: one of our documents has been written.
 */
void
docsync_judge_written(const WrittenDocument *written, void *arg)
{
	Upload	   *upload = (Upload *) arg;
	UploadGroup *group = find_writing(upload, written->id);
	SentDocument *sent = group->write;
	StoredDocument stored = {
		.id = written->id,
		.client_version = sent->client_version,
		.client_id = upload->client_id,
		.last_update_utc = written->last_update_utc,
		.deleted = sent->deleted,
		.has_body = sent->has_body
	};

	upload->division.passed = group - upload->groups + 1;

	/*
	 * The tombstone that it was to replace has been purged since we looked.
	 * If one of the documents has a base, the outcomes stay as they were
	 * judged.
	 */
	if (!group->created && written->replaced == NULL && !group->has_base)
		judge(upload, group, NULL);
	Assert(group->write == sent);

	if (written->stored != NULL)
	{
		RuleHeld	held = held_as(upload, written->stored);

		stored = *written->stored;
		group->modified = !held.same_client || !docsync_rule_is_same(&held, sent);
	}

	docsync_keep_replaced(upload, written);
	group->written = true;
	group->exists = true;
	group->client_version = written->client_version;
	group->last_update_utc = written->last_update_utc;

	/* An earlier or later one in the batch has lost to it. */
	if (group->modified || has_loser(upload, group))
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(upload->scratch);

		if (written->stored == NULL)
			stored.body = JsonbPGetDatum(docsync_body_make(sent));
		MemoryContextSwitchTo(oldcontext);
		set_winner(upload, group, &stored);
		MemoryContextReset(upload->scratch);
	}
}

/*
 * Applies the rule to the documents of one id, beginning with what is stored.
 * If nothing is to be written, the result is what is stored.
 */
static void
judge_stored(Upload *upload, UploadGroup *group, const StoredDocument *stored)
{
	MemoryContext oldcontext;
	RuleHeld	held = held_as(upload, stored);

	/*
	 * In scratch memory: a large batch that is sent again would take three
	 * times its size.
	 */
	oldcontext = MemoryContextSwitchTo(upload->scratch);
	judge(upload, group, &held);
	group->tid = stored->tid;
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(upload->scratch);

	if (group->write != NULL)
		return;

	group->client_version = stored->client_version;
	group->last_update_utc = stored->last_update_utc;
	if (has_loser(upload, group))
		set_winner(upload, group, stored);
}

/*
 * Applies the rule to the documents of one id, one by one, beginning with what
 * is stored; NULL if nothing is.
 */
static void
judge(Upload *upload, UploadGroup *group, const RuleHeld *stored)
{
	RuleHeld	nothing = {.exists = false};
	RuleHeld	held = stored != NULL ? *stored : nothing;

	group->judged = true;
	group->judged_on = stored != NULL ? stored->last_update_utc : DT_NOEND;
	ItemPointerSetInvalid(&group->tid);
	group->exists = stored != NULL;
	group->write = NULL;
	group->created = !held.exists;
	group->written = group->again = group->modified = false;
	drop_winner(upload, group);

	for (int i = 0; i < group->sent->count; i++)
	{
		SentDocument *sent = group->sent->documents[i];
		RuleOutcome outcome;

		if (sent->refusal != NULL)
			continue;

		outcome = docsync_rule_decide(&held, sent);
		upload->outcomes[sent->ordinal - 1] = outcome;
		if (outcome == RULE_CREATED || outcome == RULE_UPDATED)
		{
			group->write = sent;

			held.exists = true;
			held.client_version = sent->client_version;
			held.last_update_utc = DT_NOEND;
			held.same_client = true;
			held.deleted = sent->deleted;
			held.has_body = sent->has_body;
			held.sent = sent;
		}
	}

	/* Two edits with clientVersion 0 may lead back to what is stored. */
	if (group->write != NULL &&
		docsync_rule_decide(stored != NULL ? stored : &nothing, group->write) == RULE_UNCHANGED)
		group->write = NULL;
}

/*
 * What is stored, in the form that the rule takes.  The body is fetched only
 * if the rule looks at it.
 */
static RuleHeld
held_as(Upload *upload, const StoredDocument *stored)
{
	RuleHeld	held = {
		.exists = true,
		.client_version = stored->client_version,
		.last_update_utc = stored->last_update_utc,
		.same_client = docsync_text_is_same(stored->client_id,
											upload->client_id),
		.deleted = stored->deleted,
		.has_body = stored->has_body,
		.body = stored->body
	};

	return held;
}

/*
 * Finds the group that is being written.  Rows come in the order of ids.
 */
static UploadGroup *
find_writing(Upload *upload, const text *id)
{
	for (int i = upload->division.passed; i < upload->division.end; i++)
	{
		const SentDocument *first = upload->groups[i].sent->documents[0];

		if (docsync_text_compare(first->id, first->id_len, VARDATA_ANY(id),
								 VARSIZE_ANY_EXHDR(id)) == 0)
			return &upload->groups[i];
	}
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
			 errmsg("a trigger on docsync.document has changed the document's id")));
}

/*
 * Keeps the stored document for a client whose own isn't what is stored; but
 * not if all such documents together would be larger than an answer may be.
 * That is checked before the body is fetched, since a small request could ask
 * for gigabytes.
 */
static void
set_winner(Upload *upload, UploadGroup *group, const StoredDocument *stored)
{
	int64		size = stored->has_body ? toast_raw_datum_size(stored->body) : 0;
	MemoryContext oldcontext;
	Jsonb	   *document;

	drop_winner(upload, group);
	if (upload->division.spent->winners_size + size > docsync_max_page_size)
		return;

	oldcontext = MemoryContextSwitchTo(upload->scratch);
	document = docsync_json_document(stored);
	size = VARSIZE(document);
	if (upload->division.spent->winners_size + size <= docsync_max_page_size)
	{
		group->winner = MemoryContextAlloc(upload->context, size);
		memcpy(group->winner, document, size);
		upload->division.spent->winners_size += size;
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(upload->scratch);
}

/*
 * Forgets the winner, if there is one, and gives back the room it took.
 */
static void
drop_winner(Upload *upload, UploadGroup *group)
{
	if (group->winner == NULL)
		return;

	upload->division.spent->winners_size -= VARSIZE(group->winner);
	pfree(group->winner);
	group->winner = NULL;
}

/* Does one of the documents have an outcome that comes with a winner? */
static bool
has_loser(Upload *upload, UploadGroup *group)
{
	for (int i = 0; i < group->sent->count; i++)
	{
		const SentDocument *sent = group->sent->documents[i];

		if (sent->refusal == NULL &&
			docsync_rule_has_winner(upload->outcomes[sent->ordinal - 1]))
			return true;
	}
	return false;
}
