/*-------------------------------------------------------------------------
 *
 * purge.c
 *	  Removes old tombstones, the only way in which rows are removed.
 *
 * 1. A tombstone is removed only if it is settled under the purge's own
 *	  snapshot, and only in the version that this snapshot sees, by its exact
 *	  stamp: an upload may revive it meanwhile.  So whatever horizon a reader's
 *	  snapshot sees, nothing invisible to that snapshot has a stamp at or below
 *	  it.
 * 2. The horizon (horizon.c) is raised in the transaction that removes the
 *	  tombstones: a snapshot sees both or neither.
 * 3. The newest tombstone of a collection stays, and so does the newest one
 *	  sent by a different client than that: then a client that resumes from a
 *	  bare stamp, and has just fetched everything, is past the horizon.
 *
 * It works in steps of bounded size, collection by collection in the order of
 * stamps, and commits after each step where it can.  It never waits for a row
 * lock, so uploads wait for it for one step at most, and two purges never
 * deadlock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_purge);

/* Tombstones removed in a step */
#define STEP_DOCUMENTS		1000

/*
 * A purge in progress.  It outlives transactions, in a memory context of its
 * own.
 */
typedef struct Purge
{
	MemoryContext context;
	text	   *only;			/* the only collection; NULL: all */
	bool		is_at_records;	/* the tombstones are done */
	PurgeScan	scan;			/* its collection is NULL: none yet */
	RecordScan	records;
} Purge;

typedef struct Tombstone
{
	text	   *id;
	text	   *client_id;		/* NULL: there is none */
	TimestampTz last_update_utc;
} Tombstone;

/* Tombstones to be removed in a step */
typedef struct Step
{
	const PurgeScan *scan;
	SettleScan	settle;
	int			looked_at;
	int			count;
	Tombstone	tombstones[STEP_DOCUMENTS];
	TimestampTz last;			/* the last stamp looked at */
	bool		is_held;		/* the next isn't settled yet */
} Step;

static Statement next_collection = {
	"SELECT collection FROM docsync.document"
	" WHERE deleted AND collection OPERATOR(pg_catalog.>) $1"
	" ORDER BY collection LIMIT 1",
	1, {TEXTOID}, STATEMENT_PINNED | STATEMENT_READ_ONLY, NULL
};

static Statement newest = {
	"SELECT id, client_id, last_update_utc FROM docsync.document"
	" WHERE deleted AND collection OPERATOR(pg_catalog.=) $1"
	"   AND client_id OPERATOR(pg_catalog.<>) $2"
	" ORDER BY last_update_utc DESC LIMIT 1",
	2, {TEXTOID, TEXTOID}, STATEMENT_PINNED | STATEMENT_READ_ONLY, NULL
};

static Statement old_ones = {
	"SELECT id, client_id, last_update_utc, fence FROM docsync.document"
	" WHERE deleted AND collection OPERATOR(pg_catalog.=) $1"
	"   AND last_update_utc OPERATOR(pg_catalog.>) $2"
	"   AND last_update_utc OPERATOR(pg_catalog.<) $3"
	" ORDER BY last_update_utc",
	3, {TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID}, STATEMENT_PINNED | STATEMENT_READ_ONLY, NULL
};

/*
 * By the primary key, one row at a time: for a statement that deletes many,
 * the planner might choose another plan, and scan the collection for each.
 */
#define THE_TOMBSTONE \
	" WHERE collection OPERATOR(pg_catalog.=) $1" \
	"   AND id OPERATOR(pg_catalog.=) $2" \
	"   AND last_update_utc OPERATOR(pg_catalog.=) $3"

static Statement lock_tombstone = {
	"SELECT 1 FROM docsync.document" THE_TOMBSTONE " FOR UPDATE SKIP LOCKED",
	3, {TEXTOID, TEXTOID, TIMESTAMPTZOID}, STATEMENT_PINNED, NULL
};

static Statement delete_tombstone = {
	"DELETE FROM docsync.document" THE_TOMBSTONE " RETURNING 1",
	3, {TEXTOID, TEXTOID, TIMESTAMPTZOID}, STATEMENT_PINNED | STATEMENT_OF_TASK, NULL
};

static TimestampTz parse_keep(Interval *keep);
static bool take_step(void *arg);
static int64 remove_step(Step *step);
static bool remove_tombstone(text *collection, const Tombstone *tombstone);
static int	compare_tombstones(const void *a, const void *b);
static bool find_next_collection(Purge *purge);
static void collect(const PurgeScan *scan, Step *step);
static Tombstone find_newest(text *collection, text *not_of);
static bool put_old(TupleTableSlot *slot, void *arg);
static bool put_tombstone(TupleTableSlot *slot, void *arg);
static bool put_text(TupleTableSlot *slot, void *arg);

/*
 * docsync_purge(keep interval DEFAULT '90 days', collection text DEFAULT NULL,
 *				 INOUT removed bigint DEFAULT NULL)
 *
 * Removes the tombstones that are older than keep, of one collection or of
 * all, and says how many; and what docsync.record has that is older.  A client
 * that has been away for longer, and so may have missed one of them, compares
 * what it has with the store.
 *
 * It is a procedure: called outside a transaction block it commits after each
 * step, and what was done stays done if it is interrupted.
 *
 * Locks: the rows removed and the collection's row of docsync.purged, until
 * the end of the step's transaction.
 */
Datum
docsync_purge(PG_FUNCTION_ARGS)
{
	Purge		purge = {
		.context = AllocSetContextCreate(PortalContext, "docsync purge",
										 ALLOCSET_SMALL_SIZES)
	};
	MemoryContext oldcontext = MemoryContextSwitchTo(purge.context);
	Datum		result;

	/*
	 * This comes first: 0.1 had a function here, and gets an error that says
	 * what to do.
	 */
	docsync_schema_open(STORE_READ);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("keep is null"),
				 errhint("Give the time for which tombstones are kept, for example 90 days.")));
	purge.scan.before = purge.records.before = parse_keep(PG_GETARG_INTERVAL_P(0));
	if (!PG_ARGISNULL(1))
	{
		purge.only = DatumGetTextPCopy(PG_GETARG_DATUM(1));
		docsync_text_check_name(purge.only, "collection",
								DOCSYNC_COLLECTION_LEN);
	}
	purge.records.only = purge.only;
	PreventCommandIfReadOnly("docsync_purge()");

	MemoryContextSwitchTo(oldcontext);
	result = docsync_steps_run(fcinfo, purge.context, take_step, &purge,
							   &purge.scan.removed);
	MemoryContextDelete(purge.context);
	return result;
}

/*
 * The time before which tombstones are removed.  A negative interval is
 * refused.
 */
static TimestampTz
parse_keep(Interval *keep)
{
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	TimestampTz before = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_mi_interval,
																 TimestampTzGetDatum(now),
																 PointerGetDatum(keep)));

	if (before > now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("keep is negative"),
				 errhint("Give the time for which tombstones are kept, for example 90 days.")));
	return before;
}

/*
 * Checks the privileges before anything is looked up, so that the error is
 * always the same: otherwise a role could find out which collections there
 * are.
 */
void
docsync_purge_check_rights(void)
{
	const Store *store = docsync_schema_open(STORE_READ);

	if (pg_class_aclcheck(store->relations[STORE_DOCUMENT], GetUserId(),
						  ACL_DELETE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, "docsync.document");
	if (pg_class_aclmask(store->relations[STORE_PURGED], GetUserId(),
						 ACL_SELECT | ACL_INSERT | ACL_UPDATE, ACLMASK_ALL) !=
		(ACL_SELECT | ACL_INSERT | ACL_UPDATE))
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, "docsync.purged");
}

/*
 * StepCallback: removes what can be removed in one step, under a snapshot of its own;
 * returns false if everything has been done.
 */
static bool
take_step(void *arg)
{
	Purge	   *purge = arg;
	bool		more = true;

	docsync_purge_check_rights();
	docsync_epoch_notice();

	/* Before we look whether a collection is here: docsync_move_wait() */
	LockRelationOid(docsync_schema_open(STORE_READ)->relations[STORE_PURGED],
					RowExclusiveLock);
	if (purge->is_at_records)
		return docsync_record_may_remove() && docsync_record_purge(&purge->records);

	docsync_schema_push_snapshot();
	if (purge->scan.collection != NULL || find_next_collection(purge))
		more = docsync_purge_step(&purge->scan) || find_next_collection(purge);
	else
		more = false;
	PopActiveSnapshot();

	purge->is_at_records = !more;
	return true;
}

/*
 * Removes some tombstones of a collection, under the active snapshot, which is
 * one of its own; false if all that can be has been.
 */
bool
docsync_purge_step(PurgeScan *scan)
{
	Step	   *step = palloc0(sizeof(Step));

	collect(scan, step);
	scan->removed += remove_step(step);
	scan->passed = step->last;
	scan->is_held = step->is_held;
	return !step->is_held && step->looked_at == STEP_DOCUMENTS;
}

/*
 * Removes the tombstones of a step, except those that somebody has locked,
 * since these are about to be revived.  Locks rows in the order of ids, as
 * uploads do.
 */
static int64
remove_step(Step *step)
{
	int64		removed = 0;
	Tombstone	top = {.last_update_utc = DT_NOBEGIN};
	TimestampTz others = DT_NOBEGIN;

	qsort(step->tombstones, step->count, sizeof(Tombstone),
		  compare_tombstones);
	for (int i = 0; i < step->count; i++)
	{
		Tombstone  *tombstone = &step->tombstones[i];

		CHECK_FOR_INTERRUPTS();

		if (!remove_tombstone(step->scan->collection, tombstone))
		{
			tombstone->last_update_utc = DT_NOBEGIN;	/* it stays */
			continue;
		}
		removed++;
		if (tombstone->last_update_utc > top.last_update_utc)
			top = *tombstone;
	}
	for (int i = 0; i < step->count; i++)
	{
		const Tombstone *tombstone = &step->tombstones[i];

		if (top.client_id != NULL &&
			!docsync_text_is_same(tombstone->client_id, top.client_id))
			others = Max(others, tombstone->last_update_utc);
	}

	if (removed > 0)
		docsync_horizon_raise(step->scan->collection, top.last_update_utc,
							  top.client_id, others);

	return removed;
}

/*
 * Removes a tombstone; returns false if somebody has locked or overwritten it.
 */
static bool
remove_tombstone(text *collection, const Tombstone *tombstone)
{
	Datum		args[] = {
		PointerGetDatum(collection),
		PointerGetDatum(tombstone->id),
		TimestampTzGetDatum(tombstone->last_update_utc)
	};
	TaskFrame	frame;
	volatile bool removed = false;

	if (docsync_statement_run(&lock_tombstone, args, NULL, NULL) == 0)
		return false;

	frame = docsync_task_enter(TASK_PURGE, NULL, NULL);
	PG_TRY();
	{
		removed = docsync_statement_run(&delete_tombstone, args, NULL, NULL) > 0;
	}
	PG_FINALLY();
	{
		docsync_task_leave(&frame);
	}
	PG_END_TRY();

	return removed;
}

/* For qsort: by id */
static int
compare_tombstones(const void *a, const void *b)
{
	const text *id_a = ((const Tombstone *) a)->id;
	const text *id_b = ((const Tombstone *) b)->id;

	return docsync_text_compare(VARDATA_ANY(id_a), VARSIZE_ANY_EXHDR(id_a),
								VARDATA_ANY(id_b), VARSIZE_ANY_EXHDR(id_b));
}

/*
 * Moves to the next collection that has tombstones, in the order of names, and
 * finds the tombstones that stay.  Returns false if there is none.
 */
static bool
find_next_collection(Purge *purge)
{
	text	   *last = purge->scan.collection;
	text	   *next = NULL;
	MemoryContext oldcontext = MemoryContextSwitchTo(purge->context);

	if (purge->only != NULL)
		next = last == NULL ? purge->only : NULL;
	else
	{
		Datum		arg = PointerGetDatum(last != NULL ? last : cstring_to_text(""));

		docsync_statement_run(&next_collection, &arg, put_text, &next);
	}
	MemoryContextSwitchTo(oldcontext);

	purge->scan.collection = next;
	purge->scan.passed = DT_NOBEGIN;
	if (next != NULL)
	{
		Tombstone	first = find_newest(next, cstring_to_text(""));
		Tombstone	second = {.last_update_utc = DT_NOBEGIN};

		if (first.client_id != NULL)
			second = find_newest(next, first.client_id);
		purge->scan.keep[0] = first.last_update_utc;
		purge->scan.keep[1] = second.last_update_utc;
	}
	return next != NULL;
}

/*
 * Finds the tombstones of a step: none in a collection that isn't here, or is
 * about to move, and is counted.
 */
static void
collect(const PurgeScan *scan, Step *step)
{
	Datum		args[] = {
		PointerGetDatum(scan->collection),
		TimestampTzGetDatum(scan->passed),
		TimestampTzGetDatum(scan->before)
	};
	Moved	   *moved = docsync_moved_find(GetActiveSnapshot(),
										   scan->collection);

	step->scan = scan;
	step->last = scan->passed;
	if (docsync_moved_is_closed(docsync_moved_find_latest(scan->collection)))
		return;

	docsync_settle_begin(&step->settle, GetActiveSnapshot(),
						 docsync_moved_line(moved,
											docsync_history_read(GetActiveSnapshot())),
						 scan->collection, DT_NOBEGIN);
	docsync_statement_run(&old_ones, args, put_old, step);
}

/*
 * The newest tombstone of a collection that isn't the given client's.  If
 * there is none, its client_id is NULL and its stamp DT_NOBEGIN.
 */
static Tombstone
find_newest(text *collection, text *not_of)
{
	Tombstone	tombstone = {.last_update_utc = DT_NOBEGIN};
	Datum		args[] = {PointerGetDatum(collection), PointerGetDatum(not_of)};

	docsync_statement_run(&newest, args, put_tombstone, &tombstone);
	return tombstone;
}

/*
 * RowCallback: adds a tombstone to the step, unless it is one that stays.
 * Ends the scan when the step is full, or at the first that isn't settled.
 */
static bool
put_old(TupleTableSlot *slot, void *arg)
{
	Step	   *step = (Step *) arg;
	const TimestampTz *keep = step->scan->keep;
	TimestampTz stamp = DatumGetTimestampTz(slot->tts_values[2]);

	/* Spec purge-settled fails without it. */
	if (!docsync_settle_test(&step->settle, stamp,
							 DatumGetFullTransactionId(slot->tts_values[3])))
	{
		step->is_held = true;
		return false;
	}

	step->last = stamp;
	if (stamp != keep[0] && stamp != keep[1])
		put_tombstone(slot, &step->tombstones[step->count++]);
	return ++step->looked_at < STEP_DOCUMENTS;
}

/* RowCallback: copies one tombstone, and ends the scan. */
static bool
put_tombstone(TupleTableSlot *slot, void *arg)
{
	Tombstone  *tombstone = (Tombstone *) arg;

	tombstone->id = DatumGetTextPCopy(slot->tts_values[0]);
	tombstone->client_id = DatumGetTextPCopy(slot->tts_values[1]);
	tombstone->last_update_utc = DatumGetTimestampTz(slot->tts_values[2]);
	return false;
}

/* RowCallback: copies one text, and ends the scan. */
static bool
put_text(TupleTableSlot *slot, void *arg)
{
	*(text **) arg = DatumGetTextPCopy(slot->tts_values[0]);
	return false;
}
