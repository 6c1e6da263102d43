/*-------------------------------------------------------------------------
 *
 * move.c
 *	  Collections are moved between servers: what the functions for it, which
 *	  are SQL's, can't do in SQL.
 *
 *	  docsync_move_out			here they are closed
 *	  docsync_move_hand_over	here they are let go: the one point from where on
 *								it goes forward only
 *	  docsync_move_in			there they are awaited, closed
 *	  docsync_move_take_over	there they are opened
 *	  docsync_move_back			it comes to nothing
 *
 * They write the rows of docsync.moved (moved.c), and each locks that table
 * against the others.  Who copies the documents, in between, is somebody else
 * (examples/shards/move); docsync_move_take_over() counts and sums them up
 * before it opens.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_move_begin);
PG_FUNCTION_INFO_V1(docsync_move_wait);

/* The collection and those below it, by one look into the index for each */
static Statement its_collections = {
	"WITH RECURSIVE each(name) AS ("
	" SELECT $1 COLLATE pg_catalog.\"C\""
	" UNION ALL SELECT (SELECT pg_catalog.min(collection) FROM docsync.document"
	"  WHERE collection OPERATOR(pg_catalog.>) each.name"
	"    AND collection OPERATOR(pg_catalog.>=) ($1 OPERATOR(pg_catalog.||) '/')"
	"    AND collection OPERATOR(pg_catalog.<) ($1 OPERATOR(pg_catalog.||) '0'))"
	"  FROM each WHERE name IS NOT NULL)"
	" SELECT name FROM each",
	1, {TEXTOID}, 0, NULL
};

static void note_changes(text *collection);
static bool note_change(TupleTableSlot *slot, void *arg);
static TransactionId *find_marked(int *count);

/*
 * docsync_move_begin(collection text, after timestamptz, OUT epoch bigint,
 *					  OUT clock timestamptz, OUT next_xid xid8)
 *
 * For who is about to write a row of docsync.moved: notes where the store is.
 * Gives the id for an epoch, and the clock with the next transaction id, a
 * fence for all that was stamped before.
 *
 * If after isn't null, from this transaction on the collection is elsewhere, or
 * here: the clock is moved up to that stamp, and listeners are told.
 */
Datum
docsync_move_begin(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	FullTransactionId next;
	Datum		values[3];
	bool		isnull[3] = {false};

	docsync_schema_open_owned("docsync_move_begin()");
	docsync_text_check_name(PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0),
							"collection", DOCSYNC_COLLECTION_LEN);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "docsync_move_begin() doesn't return a row");
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("collections are moved at isolation level READ COMMITTED")));

	docsync_epoch_notice();
	if (!PG_ARGISNULL(1))
	{
		if (!TIMESTAMP_NOT_FINITE(PG_GETARG_TIMESTAMPTZ(1)))
			docsync_clock_advance(PG_GETARG_TIMESTAMPTZ(1));
		note_changes(PG_GETARG_TEXT_PP(0));
	}

	values[0] = Int64GetDatum((int64) docsync_epoch_make_id());
	values[1] = TimestampTzGetDatum(docsync_clock_read_fence(&next));
	values[2] = FullTransactionIdGetDatum(next);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, isnull));
}

/*
 * docsync_move_wait(collection text) RETURNS void
 *
 * Waits until nobody writes any more who began before, wherever: whoever comes
 * later finds the collection as docsync.moved has it.  So that row, if there is
 * one, must be committed.
 *
 * Locks: docsync.purged, SHARE, until the end of the transaction: a purge locks
 * it before it looks whether a collection is here.  And the one that those take
 * who copy documents.  Each transaction that has a mark is waited for, of
 * whichever collection it is: which there will be isn't known, and a mark says
 * no more of a collection than a hash.
 */
Datum
docsync_move_wait(PG_FUNCTION_ARGS)
{
	const Store *store = docsync_schema_open_owned("docsync_move_wait()");
	text	   *collection = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	const Moved *moved;
	TransactionId *xids;
	int			count;

	docsync_text_check_name(collection, "collection", DOCSYNC_COLLECTION_LEN);
	moved = docsync_moved_find_latest(collection);
	if (moved != NULL)
	{
		if (moved->is_own)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the collection has been closed in this transaction"),
					 errdetail("Others don't know of it yet, and go on writing."),
					 errhint("Commit it first.")));
		docsync_moved_lock(moved, ExclusiveLock);
	}
	LockRelationOid(store->relations[STORE_PURGED], ShareLock);

	xids = find_marked(&count);
	for (int i = 0; i < count; i++)
	{
		if (!TransactionIdIsCurrentTransactionId(xids[i]))
			XactLockTableWait(xids[i], NULL, NULL, XLTW_None);
	}

	PG_RETURN_VOID();
}

/*
 * Has all that has moved announced: who listens asks, and gets it, or learns
 * that it is elsewhere.  Only collections that have documents: of others nobody
 * has the key.
 */
static void
note_changes(text *collection)
{
	Datum		arg = PointerGetDatum(collection);

	if (docsync_announce)
		docsync_statement_run(&its_collections, &arg, note_change, NULL);
}

/* RowCallback: notes a collection. */
static bool
note_change(TupleTableSlot *slot, void *arg)
{
	text	   *name;

	if (slot->tts_isnull[0])
		return false;
	name = DatumGetTextPP(slot->tts_values[0]);
	docsync_changes_note(name, DT_NOBEGIN);
	return true;
}

/*
 * The transactions that have a mark now (stamp.c).  A mark is a lock that is
 * held, and says itself whose it is.
 */
static TransactionId *
find_marked(int *count)
{
	LockData   *locks = GetLockStatusData();
	TransactionId *xids = palloc(sizeof(TransactionId) * Max(locks->nelements, 1));

	*count = 0;
	for (int i = 0; i < locks->nelements; i++)
	{
		const LOCKTAG *tag = &locks->locks[i].locktag;

		if (locks->locks[i].holdMask != 0 &&
			tag->locktag_type == LOCKTAG_ADVISORY &&
			tag->locktag_field1 == MyDatabaseId &&
			(tag->locktag_field4 == DOCSYNC_LOCK_COLLECTION ||
			 tag->locktag_field4 == DOCSYNC_LOCK_ALL))
			xids[(*count)++] = (TransactionId) tag->locktag_field2;
	}
	return xids;
}
