/*-------------------------------------------------------------------------
 *
 * moved.c
 *	  Collections that are elsewhere, or have come from elsewhere, as readers
 *	  and writers find them in docsync.moved.
 *
 * A row is for a collection and all whose names begin with it and a "/".  It
 * says whether they are open here:
 *
 *	  leaving	closed: they are being copied from here
 *	  gone		closed: they have been let go, and may be open elsewhere
 *	  arriving	closed: they are being copied to here
 *	  here		open: they have come from elsewhere
 *
 * What is closed is neither read nor written.  What has come has another past
 * than the store: its line, which is what had happened to the stores that it
 * was in before, each for the time that it was there, and after that what has
 * happened to this one.  So a position that was given out elsewhere is judged
 * by the same rules as one of this store's (doc/stamps.md, "Moving
 * collections").  Who writes the rows is move.c's.
 *
 * A row of 'leaving' may be committed while somebody writes.  Writers take
 * their mark and then look (stamp.c); who closes commits the row and then looks
 * for marks (move.c).  So either the writer sees the row, or is waited for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "docsync.h"

/* How docsync.moved names them; its CHECK knows these, too. */
static const char *const states[] = {
	[MOVED_LEAVING] = "leaving",
	[MOVED_GONE] = "gone",
	[MOVED_ARRIVING] = "arriving",
	[MOVED_HERE] = "here"
};

static void put_closed(const Moved *moved, void *arg);
static bool has_rows(void);
static Moved *look_up(Relation rel, const Store *store, Snapshot snapshot,
					  text *name);
static Moved *read_moved(Relation rel, const Store *store, HeapTuple tuple);
static MovedState parse_state(const text *state);
static int64 *read_array(Datum array, int count);
static int	count_array(Datum array);
pg_noreturn static void refuse_row(void);

/*
 * What docsync.moved says of a collection, as a snapshot sees it that was
 * taken after the store had been opened; NULL if nothing.
 *
 * Read past privileges and row-level security, as the horizon is: whether a
 * collection is here doesn't depend on who asks.
 */
Moved *
docsync_moved_find(Snapshot snapshot, const text *collection)
{
	const Store *store = docsync_schema_open(STORE_READ);
	const char *name = VARDATA_ANY(collection);
	int			len = VARSIZE_ANY_EXHDR(collection);
	Moved	   *moved = NULL;
	Relation	rel;

	if (!has_rows())
		return NULL;

	/* There is one row at most: move.c lets none be within another. */
	rel = table_open(store->relations[STORE_MOVED], NoLock);
	for (int i = 1; i <= len && moved == NULL; i++)
	{
		if (i == len || name[i] == '/')
			moved = look_up(rel, store, snapshot,
							cstring_to_text_with_len(name, i));
	}
	table_close(rel, NoLock);

	return moved;
}

/*
 * The same as of now, whatever snapshot the transaction has.
 */
Moved *
docsync_moved_find_latest(const text *collection)
{
	Snapshot	snapshot;
	Moved	   *moved;

	if (!has_rows())
		return NULL;

	snapshot = RegisterSnapshot(GetLatestSnapshot());
	moved = docsync_moved_find(snapshot, collection);
	UnregisterSnapshot(snapshot);
	return moved;
}

/*
 * Is it neither to be read nor written here?
 */
bool
docsync_moved_is_closed(const Moved *moved)
{
	return moved != NULL && moved->state != MOVED_HERE;
}

/*
 * A state's name.
 */
const char *
docsync_moved_state_name(MovedState state)
{
	return states[state];
}

/*
 * Refuses a collection that is closed by now.  For writers, when they have
 * their mark: who closes it later waits for them.  Spec move-out.
 */
void
docsync_moved_check(const text *collection)
{
	const Moved *moved = docsync_moved_find_latest(collection);

	if (docsync_moved_is_closed(moved))
		docsync_moved_refuse(moved);
}

/*
 * Might a collection have been closed, after a snapshot that finds it open?
 * In a parallel query there is no later snapshot to be had: then it might.
 */
bool
docsync_moved_may_be_closed(const text *collection)
{
	return has_rows() &&
		(IsInParallelMode() ||
		 docsync_moved_is_closed(docsync_moved_find_latest(collection)));
}

/*
 * Calls back with each row, as of now, in no order.
 */
void
docsync_moved_scan(MovedCallback callback, void *arg)
{
	const Store *store = docsync_schema_open(STORE_READ);
	Relation	rel = table_open(store->relations[STORE_MOVED], NoLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		callback(read_moved(rel, store, tuple), arg);
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
}

/*
 * The names of those that are closed by now, an array of texts.
 */
ArrayType *
docsync_moved_list_closed(void)
{
	ArrayBuildState *names = initArrayResult(TEXTOID, CurrentMemoryContext, false);

	if (has_rows())
		docsync_moved_scan(put_closed, names);
	return DatumGetArrayTypeP(makeArrayResult(names, CurrentMemoryContext));
}

/*
 * Lets the owner bring the documents of a collection that is arriving, or take
 * away those of one that isn't used here: false if it is open.  One that is
 * about to leave, and may stay after all, is refused.
 *
 * Locks: one that docsync_move_wait() waits for, until the end of the
 * transaction.  After it the row is looked at once more: who changes it has
 * waited for us, or we for him.
 */
bool
docsync_moved_enter(const text *collection, bool to_bring)
{
	Moved	   *moved = docsync_moved_find_latest(collection);

	if (!docsync_moved_is_closed(moved))
		return false;
	if (docsync_moved_lock(moved, ShareLock))
	{
		moved = docsync_moved_find_latest(collection);
		if (!docsync_moved_is_closed(moved))
			return false;
	}
	if (moved->state != MOVED_ARRIVING &&
		(to_bring || moved->state != MOVED_GONE))
		docsync_moved_refuse(moved);
	return true;
}

/*
 * Locks what is copied to or from here of a collection, as its row has it,
 * until the end of the transaction; false if we have that lock already.
 */
bool
docsync_moved_lock(const Moved *moved, LOCKMODE mode)
{
	ResourceOwner owner = CurrentResourceOwner;
	LOCKTAG		tag;
	bool		taken;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0,
						 docsync_digest_hash(VARDATA_ANY(moved->collection),
											 VARSIZE_ANY_EXHDR(moved->collection), 0),
						 DOCSYNC_LOCK_MOVE);
	CurrentResourceOwner = CurTransactionResourceOwner;
	taken = LockAcquire(&tag, mode, false, false) == LOCKACQUIRE_OK;
	CurrentResourceOwner = owner;
	return taken;
}

/*
 * The history that positions in a collection are judged by, given its row, or
 * NULL, and the store's.  What has come from elsewhere has other rows up to
 * the one of the store's that was the newest then.  The last of these others
 * began the epoch that it has here: the store's rows after it, a start after a
 * crash, say, go on with that.
 */
const History *
docsync_moved_line(const Moved *moved, const History *history)
{
	History    *line;

	if (moved == NULL || moved->count == 0)
		return history;

	line = palloc(sizeof(History));
	line->entries = palloc0(sizeof(HistoryEntry) * (moved->count + history->count));
	line->count = moved->count;
	for (int i = 0; i < moved->count; i++)
	{
		HistoryEntry *entry = &line->entries[i];

		entry->number = i - moved->count;
		entry->epoch = (uint64) moved->epochs[i];
		entry->survived = moved->survived[i];
		entry->lost_after = moved->lost_after[i];
		entry->clock = moved->clocks[i];

		/* All that came was there before this id was given out here. */
		entry->next = moved->next;
		entry->arrived = true;
	}

	for (int i = 0; i < history->count; i++)
	{
		const HistoryEntry *entry = &history->entries[i];
		HistoryEntry *last = &line->entries[moved->count - 1];

		if (entry->number == moved->number)
		{
			last->system_identifier = entry->system_identifier;
			last->database = entry->database;
			last->document = entry->document;
			last->timeline = entry->timeline;
		}
		else if (entry->number > moved->number)
		{
			line->entries[line->count] = *entry;
			if (entry->epoch == moved->replaced)
				line->entries[line->count].epoch = last->epoch;
			line->count++;
		}
	}
	return line;
}

/*
 * What is said of a collection that is closed.  As with a position that is
 * refused (position.c), nothing of the request is in it.
 */
const Refusal *
docsync_moved_describe(const Moved *moved)
{
	static const Refusal moving = {
		.code = "moving",
		.message = "the collection is being moved",
		.detail = "For a moment it can be neither read nor written.",
		.hint = "Try again.",
		.retry_after = 1
	};
	static const Refusal gone = {
		.code = "moved",
		.message = "the collection has been moved",
		.detail = "It is at another server, where cursors from here are good.",
		.hint = "Send the request there; or try again, until requests are sent there.",
		.retry_after = 10
	};

	return moved->state == MOVED_GONE ? &gone : &moving;
}

/*
 * Refuses a request for one.
 */
void
docsync_moved_refuse(const Moved *moved)
{
	docsync_refuse_request(moved->state == MOVED_GONE ? 421 : 503,
						   docsync_moved_describe(moved));
}

/* MovedCallback: adds the name of a collection that is closed. */
static void
put_closed(const Moved *moved, void *arg)
{
	if (docsync_moved_is_closed(moved))
		accumArrayResult((ArrayBuildState *) arg,
						 PointerGetDatum(moved->collection), false, TEXTOID,
						 CurrentMemoryContext);
}

/*
 * Has the table any page?  If not there is no need to walk the index.  Whoever
 * closes a collection while we write has written to a page before he looks for
 * our mark; and a row that a snapshot sees was on its page before (purge.c).
 */
static bool
has_rows(void)
{
	const Store *store = docsync_schema_open(STORE_READ);
	Relation	rel = table_open(store->relations[STORE_MOVED], NoLock);
	bool		result = RelationGetNumberOfBlocks(rel) > 0;

	table_close(rel, NoLock);
	return result;
}

/*
 * The row for just this name; NULL if there is none.
 */
static Moved *
look_up(Relation rel, const Store *store, Snapshot snapshot, text *name)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Moved	   *moved = NULL;

	ScanKeyEntryInitialize(&key, 0, store->attnums[STORE_MOVED][MOVED_COLLECTION],
						   BTEqualStrategyNumber, InvalidOid, C_COLLATION_OID,
						   F_TEXTEQ, PointerGetDatum(name));
	scan = systable_beginscan(rel, store->moved_index, true, snapshot, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		moved = read_moved(rel, store, tuple);
	systable_endscan(scan);

	return moved;
}

/*
 * A row as a struct, of copies.
 */
static Moved *
read_moved(Relation rel, const Store *store, HeapTuple tuple)
{
	const AttrNumber *attnums = store->attnums[STORE_MOVED];
	TupleDesc	desc = RelationGetDescr(rel);
	Datum		values[MOVED_NEXT_XID + 1];
	Datum	   *all = palloc(sizeof(Datum) * desc->natts);
	bool	   *isnull = palloc(sizeof(bool) * desc->natts);
	Moved	   *moved = palloc(sizeof(Moved));

	/* None of them is null (check.c). */
	heap_deform_tuple(tuple, desc, all, isnull);
	for (int i = 0; i <= MOVED_NEXT_XID; i++)
		values[i] = all[attnums[i] - 1];
	pfree(all);
	pfree(isnull);

	moved->collection = DatumGetTextPCopy(values[MOVED_COLLECTION]);
	moved->state = parse_state(DatumGetTextPP(values[MOVED_STATE]));
	moved->changed = DatumGetTimestampTz(values[MOVED_CHANGED]);
	moved->is_own = TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data));
	moved->count = count_array(values[MOVED_EPOCHS]);
	moved->epochs = read_array(values[MOVED_EPOCHS], moved->count);
	moved->survived = read_array(values[MOVED_SURVIVED], moved->count);
	moved->lost_after = read_array(values[MOVED_LOST_AFTER], moved->count);
	moved->clocks = read_array(values[MOVED_CLOCKS], moved->count);
	moved->number = DatumGetInt64(values[MOVED_NUMBER]);
	moved->replaced = (uint64) DatumGetInt64(values[MOVED_REPLACED]);
	moved->next = DatumGetFullTransactionId(values[MOVED_NEXT_XID]);
	return moved;
}

/* The state as docsync.moved has it */
static MovedState
parse_state(const text *state)
{
	for (size_t i = 0; i < lengthof(states); i++)
	{
		if (VARSIZE_ANY_EXHDR(state) == strlen(states[i]) &&
			memcmp(VARDATA_ANY(state), states[i], strlen(states[i])) == 0)
			return (MovedState) i;
	}
	refuse_row();
}

/* The elements of an array; its owner may have stored any. */
static int
count_array(Datum array)
{
	ArrayType  *value = DatumGetArrayTypeP(array);

	if (ARR_NDIM(value) > 1 || ARR_HASNULL(value))
		refuse_row();
	return ARR_NDIM(value) == 0 ? 0 : ARR_DIMS(value)[0];
}

/*
 * A copy of an array's elements, bigints or times.  There must be as many as
 * given.
 */
static int64 *
read_array(Datum array, int count)
{
	ArrayType  *value = DatumGetArrayTypeP(array);
	int64	   *copy = palloc(sizeof(int64) * Max(count, 1));

	if (count_array(array) != count)
		refuse_row();
	memcpy(copy, (char *) value + ARR_OVERHEAD_NONULLS(ARR_NDIM(value)),
		   sizeof(int64) * count);
	return copy;
}

/* Raises the error for a row that isn't one of docsync's. */
static void
refuse_row(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("a row of \"docsync.moved\" has been altered"),
			 errhint("docsync_move_out(), docsync_move_in() and the like are to write it, and nobody else.")));
}
