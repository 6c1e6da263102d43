/*-------------------------------------------------------------------------
 *
 * write.c
 *	  Writes what won, by the fastest statement that can.
 *
 * Documents are written in the order of ids, so that two uploads lock rows in
 * the same order and never deadlock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "miscadmin.h"
#include "utils/acl.h"

#include "docsync.h"

/* Bytes written by one statement, few enough to stay in memory */
#define WRITE_SIZE			(1024 * 1024)

static StoreWrite choose_write(UploadGroup **groups, int count,
							   bool as_judged);
static void run_statements(Upload *upload, UploadGroup **groups,
						   int count, StoreWrite how);

/*
 * Writes what won, in the order of ids.  as_judged: this is the first attempt.
 */
void
docsync_write_groups(Upload *upload, int from, int to, bool as_judged)
{
	UploadGroup **groups = palloc(sizeof(UploadGroup *) * (to - from));
	int			count = 0;
	int			again = 0;
	StoreWrite	how;

	for (int i = from; i < to; i++)
	{
		if (upload->groups[i].write != NULL)
			groups[count++] = &upload->groups[i];
	}
	if (count == 0)
		return;

	how = choose_write(groups, count, as_judged);
	run_statements(upload, groups, count, how);

	/*
	 * Somebody else was faster.  For several documents this can't be done:
	 * rows would be written out of the order of ids, and two uploads could
	 * deadlock.
	 */
	if (count == 1 && how != STORE_REPLACE && groups[0]->write != NULL &&
		!groups[0]->written && !groups[0]->again)
		run_statements(upload, groups, 1, STORE_REPLACE);

	/*
	 * For these, another document of the same id has won meanwhile; the rows
	 * are locked by now.
	 */
	for (int i = 0; i < count; i++)
	{
		if (groups[i]->again)
			groups[again++] = groups[i];
	}
	if (again > 0)
		run_statements(upload, groups, again, STORE_REPLACE);

	for (int i = from; i < to; i++)
	{
		UploadGroup *group = &upload->groups[i];

		if (group->write == NULL || group->written)
			continue;
		upload->division.passed = i;
		upload->division.end = i + 1;
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("document %d was not stored", group->write->ordinal),
				 errdetail("A trigger on docsync.document may have suppressed it.")));
	}
}

/*
 * Chooses the fastest way to write documents, given what was stored when we
 * looked.  Others may turn out to have been faster.  A single document is then
 * written in another way.  Of several, some are locked by then, and one that
 * comes before them would be locked after them: so everything is rolled back,
 * and retried in the way that can't fail.  That is why the faster ways are
 * chosen only for a first attempt, which for several documents is made in a
 * subtransaction (divide.c).
 *
 * An UPDATE isn't subject to the policies for INSERT, as the other ways are,
 * and no trigger or rule for INSERT fires; so it is used only if there are
 * none.  (Where there are policies no tid is known, probe.c.)  The privilege
 * to INSERT is required, whatever is stored, so that is checked.  SELECT on
 * the table is needed to see tids; without it, another way is used.  And where
 * the guard may not fire, an INSERT fails because it has no stamp, but an
 * UPDATE would keep the old one.
 */
static StoreWrite
choose_write(UploadGroup **groups, int count, bool as_judged)
{
	const Store *store = docsync_schema_open(STORE_WRITE);
	bool		all_new = true;
	bool		all_found = true;

	for (int i = 0; i < count; i++)
	{
		all_new = all_new && groups[i]->created;
		all_found = all_found && ItemPointerIsValid(&groups[i]->tid);
	}

	if (count > 1 && !as_judged)
		return STORE_REPLACE;
	if (all_new && (count == 1 || count >= CREATE_DOCUMENTS))
		return STORE_CREATE;
	if (all_found && !store->is_insert_heard &&
		SessionReplicationRole != SESSION_REPLICATION_ROLE_REPLICA &&
		pg_class_aclcheck(store->relations[STORE_DOCUMENT], GetUserId(),
						  ACL_SELECT) == ACLCHECK_OK)
	{
		docsync_schema_check_columns(ACL_INSERT);
		return STORE_UPDATE;
	}
	return STORE_REPLACE;
}

/*
 * Writes documents, a limited number at a time.
 *
 * STORE_REPLACE takes two stamps for a document, since ON CONFLICT fires the
 * trigger for INSERT before the one for UPDATE; the gap does no harm.  Stamps
 * are reserved for one statement at a time: the clock shouldn't run ahead for
 * uploads that a policy refuses at the first row.
 */
static void
run_statements(Upload *upload, UploadGroup **groups, int count,
			   StoreWrite how)
{
	SentDocument **writes = palloc(sizeof(SentDocument *) * Min(count, WRITE_DOCUMENTS));
	Datum	   *tids = palloc(sizeof(Datum) * Min(count, WRITE_DOCUMENTS));
	Division   *division = &upload->division;
	int			some;

	for (int i = 0; i < count; i += some)
	{
		int64		size = 0;

		CHECK_FOR_INTERRUPTS();

		for (some = 0; some < WRITE_DOCUMENTS && i + some < count &&
			 size < WRITE_SIZE; some++)
		{
			writes[some] = groups[i + some]->write;
			tids[some] = PointerGetDatum(&groups[i + some]->tid);
			groups[i + some]->again = false;
			size += writes[some]->json_len;
		}
		division->begun = division->passed = groups[i] - upload->groups;
		division->end = groups[i + some - 1] - upload->groups + 1;

		docsync_stamp_expect(how == STORE_REPLACE ? 2 * some : some);
		docsync_store_write(upload->collection, upload->client_id,
							writes, some, how, tids, docsync_judge_written,
							docsync_judge_may_replace, upload);
	}
	docsync_stamp_forget();
}
