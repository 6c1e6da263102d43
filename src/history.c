/*-------------------------------------------------------------------------
 *
 * history.c
 *	  What has happened to the store: epochs, and starts after a crash.
 *
 * A store is dumped and restored, cloned, failed over, brought back to an
 * earlier time.  Then the stamps that clients have may never have been issued
 * in the history that the store has now.  Nobody has to say so: a history has
 * an identity - the server's system identifier, the database, the table, the
 * timeline - and whoever writes compares it with that of the newest row of
 * docsync.history.  If it is another, he begins an epoch: a row with an id
 * that cursors bear.
 *
 * Nobody waits for that.  One transaction adds the row, the others go on;
 * until it commits, readers are answered by the epoch before.  A cursor of
 * another epoch than the newest that the reader's snapshot sees leads to a
 * comparison of what both hold, and that is right whenever it happens.
 *
 * A crash keeps the identity.  What has been committed is still there, unless
 * synchronous_commit was off, in which case an epoch begins as well.  But ids
 * that nothing had been written under are forgotten, so each start adds a row
 * with a pair (clock, next transaction id), read in one breath: a fence for
 * whatever was stamped before (settle.c).  That there was a start the clock's
 * page tells (clock.c).
 *
 * A row that comes too often is harmless: it costs each client a comparison.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_new_epoch);

/*
 * How far ahead of the time of day an epoch's first stamp is, in microseconds:
 * farther than those that the lost history may have issued until now.
 */
#define EPOCH_LEAD			(60 * USECS_PER_SEC)

/*
 * How far behind the highest stamp that survived a document may be that
 * didn't, in microseconds: its transaction took its stamps and committed so
 * much later.
 */
#define LOST_MARGIN			USECS_PER_DAY

/* The check of the store, and the timeline, for which all was found noted */
static uint64 noted_version = 0;
static TimeLineID noted_timeline = 0;

/*
 * This transaction has added a row, which hasn't been rolled back as far as we
 * know; and, if so, the subtransaction in which it did.
 */
static bool is_pending = false;
static SubTransactionId pending_in;

/*
 * The clock's page has been told of a row that this transaction is committing;
 * or was told of one whose transaction failed after that.
 */
static bool is_told = false;
static bool is_told_in_vain = false;

static StoreStatement find_survived = {

	/*
	 * The highest stamp of each collection, from one collection to the next;
	 * up to a time
	 */
	"WITH RECURSIVE each(collection) AS ("
	"  (SELECT collection FROM docsync.document ORDER BY collection LIMIT 1)"
	"  UNION ALL"
	"  SELECT (SELECT d.collection FROM docsync.document AS d"
	"           WHERE d.collection OPERATOR(pg_catalog.>) each.collection"
	"           ORDER BY d.collection LIMIT 1)"
	"    FROM each WHERE each.collection IS NOT NULL)"
	" SELECT COALESCE(pg_catalog.max((SELECT pg_catalog.max(d.last_update_utc)"
	"          FROM docsync.document AS d"
	"         WHERE d.collection OPERATOR(pg_catalog.=) each.collection"
	"           AND d.last_update_utc OPERATOR(pg_catalog.<=) $1)),"
	"        '-infinity') FROM each",
	1, {TIMESTAMPTZOID}, STATEMENT_PINNED | STATEMENT_OF_DOCUMENT, NULL
};

static StoreStatement find_prepared = {
	"SELECT COALESCE(pg_catalog.min(prepared), 'infinity')"
	"  FROM pg_catalog.pg_prepared_xacts"
	" WHERE database OPERATOR(pg_catalog.=) pg_catalog.current_database()",
	0, {InvalidOid}, STATEMENT_OF_HISTORY, NULL
};

static StoreStatement add_entry = {
	"INSERT INTO docsync.history (number, epoch, system_identifier, database,"
	" document, timeline, begun, survived, lost_after, clock, next_xid, arrived)"
	" VALUES ($1, $2, $3, $4, $5, $6, pg_catalog.clock_timestamp(),"
	" $7, $8, $9, $10, $11)",
	11, {INT8OID, INT8OID, INT8OID, OIDOID, OIDOID, INT8OID, TIMESTAMPTZOID,
	TIMESTAMPTZOID, TIMESTAMPTZOID, XID8OID, BOOLOID}, STATEMENT_OF_HISTORY, NULL
};

static void read_entry(HistoryEntry *entry, HeapTuple tuple, TupleDesc desc,
					   const AttrNumber *attnums);
static int	compare_entries(const void *a, const void *b);
static History *read_latest(void);
static bool is_noted(const Store *store, const History *history);
static bool is_present(const Store *store, const HistoryEntry *entry);
static bool lock_history(void);
static void begin(const Store *store, const History *history, bool by_hand,
				  TimestampTz clock, FullTransactionId next);
static TimestampTz find_time(StoreStatement *statement, TimestampTz arg);
static bool put_time(TupleTableSlot *slot, void *arg);
static void at_xact(XactEvent event, void *arg);
static void at_subxact(SubXactEvent event, SubTransactionId my_subid,
					   SubTransactionId parent_subid, void *arg);
static void forget(void);

/*
 * docsync_new_epoch() RETURNS void
 *
 * For who has changed documents behind docsync's back.
 *
 * Locks: one that only another call waits for, until the end of the
 * transaction.
 */
Datum
docsync_new_epoch(PG_FUNCTION_ARGS)
{
	const Store *store = docsync_schema_open(STORE_READ);
	TimestampTz clock;
	FullTransactionId next;
	LOCKTAG		tag;

	if (!object_ownercheck(RelationRelationId, store->relations[STORE_DOCUMENT], GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, "docsync.document");
	PreventCommandIfReadOnly("docsync_new_epoch()");
	PreventCommandDuringRecovery("docsync_new_epoch()");

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, DOCSYNC_LOCK_HISTORY);
	LockAcquire(&tag, ExclusiveLock, false, false);

	clock = docsync_clock_read_fence(&next);
	begin(store, read_latest(), true, clock, next);

	PG_RETURN_VOID();
}

/* Registers what is to be done when a transaction or subtransaction ends. */
void
docsync_history_init(void)
{
	RegisterXactCallback(at_xact, NULL);
	RegisterSubXactCallback(at_subxact, NULL);
}

/*
 * Compares identities before something is stamped, and begins an epoch, or
 * notes a start, where that is due.  The caller may write.
 *
 * Locks: one that nobody waits for, until the end of the transaction.
 */
void
docsync_history_notice(void)
{
	const Store *store = docsync_schema_open(STORE_READ);
	History    *history;
	TimestampTz clock;
	FullTransactionId next;

	if (noted_version == store->version &&
		noted_timeline == GetWALInsertionTimeLine())
		return;
	if (is_noted(store, read_latest()))
		return;

	/*
	 * Before the lock: who doesn't get it goes on, and his stamps are no lost
	 * history's.
	 */
	clock = docsync_clock_read_fence(&next);
	if (!lock_history())
		return;

	/* Who had the lock before may have done it. */
	history = read_latest();
	if (!is_noted(store, history))
		begin(store, history, false, clock, next);
}

/*
 * The rows, in their order, as a snapshot sees them.
 */
History *
docsync_history_read(Snapshot snapshot)
{
	const Store *store = docsync_schema_open(STORE_READ);
	Relation	rel = table_open(store->relations[STORE_HISTORY], NoLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0,
										  NULL);
	History    *history = palloc0(sizeof(History));
	int			size = 8;
	HeapTuple	tuple;

	history->entries = palloc(sizeof(HistoryEntry) * size);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (history->count == size)
		{
			size *= 2;
			history->entries = repalloc(history->entries,
										sizeof(HistoryEntry) * size);
		}
		read_entry(&history->entries[history->count++], tuple,
				   RelationGetDescr(rel), store->attnums[STORE_HISTORY]);
	}
	systable_endscan(scan);
	table_close(rel, NoLock);

	qsort(history->entries, history->count, sizeof(HistoryEntry),
		  compare_entries);
	return history;
}

/*
 * The newest row; NULL in a store that nothing has been written to.
 */
const HistoryEntry *
docsync_history_newest(const History *history)
{
	return history->count > 0 ? &history->entries[history->count - 1] : NULL;
}

/*
 * The present epoch's id; 0 in a store that nothing has been written to.
 */
uint64
docsync_history_epoch(const History *history)
{
	const HistoryEntry *newest = docsync_history_newest(history);

	return newest != NULL ? newest->epoch : 0;
}

/* Is there a row of the given epoch? */
bool
docsync_history_knows(const History *history, uint64 epoch)
{
	for (int i = 0; i < history->count; i++)
	{
		if (history->entries[i].epoch == epoch)
			return true;
	}
	return false;
}

/*
 * Is the newest row about this server, database, table and timeline?  If not,
 * something has happened that nobody has noted yet.
 */
bool
docsync_history_is_present(const History *history)
{
	return is_present(docsync_schema_open(STORE_READ),
					  docsync_history_newest(history));
}

/*
 * Up to which stamp nothing can have been lost that a client of the given
 * epoch has seen; DT_NOBEGIN if nobody knows.
 */
TimestampTz
docsync_history_lost_after(const History *history, uint64 epoch)
{
	TimestampTz lost_after = DT_NOEND;

	for (int i = history->count - 1; i >= 0; i--)
	{
		if (history->entries[i].epoch == epoch)
			return lost_after;
		lost_after = Min(lost_after, history->entries[i].lost_after);
	}
	return DT_NOBEGIN;
}

/*
 * No stamp up to this one has ever been issued here: who goes on from it
 * begins.
 */
bool
docsync_history_is_beginning(const History *history, TimestampTz stamp)
{
	return stamp <= -DOCSYNC_UNIX_OFFSET ||
		(history->count > 0 &&
		 TIMESTAMP_IS_NOBEGIN(history->entries[0].survived) &&
		 stamp <= history->entries[0].clock);
}

/*
 * A stamp that lies between the highest that survived and the clock as it was
 * put then has been issued by a history that is lost: finds the row, or
 * returns NULL.
 */
const HistoryEntry *
docsync_history_find_gap(const History *history, TimestampTz stamp)
{
	for (int i = 0; i < history->count; i++)
	{
		if (!TIMESTAMP_IS_NOBEGIN(history->entries[i].survived) &&
			history->entries[i].survived < stamp &&
			stamp <= history->entries[i].clock)
			return &history->entries[i];
	}
	return NULL;
}

/*
 * The fence of a document, given its own.  Whatever has been stamped here up
 * to a row's clock has a transaction id below the row's next, since both were
 * read in one breath under the clock's latch, and ids come before stamps.  So
 * that is a fence as good as the document's, and may be a lower one.  If the
 * document came from another server, its own says nothing here, and the row's
 * takes its place: those that were stamped there before it have come along.
 */
FullTransactionId
docsync_history_fence(const History *history, TimestampTz stamp,
					  FullTransactionId fence)
{
	for (int i = 0; i < history->count; i++)
	{
		const HistoryEntry *entry = &history->entries[i];

		if (stamp > entry->clock)
			continue;
		if (entry->arrived || FullTransactionIdPrecedes(entry->next, fence))
			fence = entry->next;
	}
	return fence;
}

/*
 * Fills in an entry from a row.  attnums are the numbers of the table's
 * columns.
 */
static void
read_entry(HistoryEntry *entry, HeapTuple tuple, TupleDesc desc,
		   const AttrNumber *attnums)
{
	Datum		values[STORE_COLUMNS_MAX];
	Datum	   *all = palloc(sizeof(Datum) * desc->natts);
	bool	   *isnull = palloc(sizeof(bool) * desc->natts);

	/* None of them is null (check.c). */
	heap_deform_tuple(tuple, desc, all, isnull);
	for (int i = 0; i < STORE_COLUMNS_MAX; i++)
		values[i] = all[attnums[i] - 1];
	pfree(all);
	pfree(isnull);

	entry->number = DatumGetInt64(values[HISTORY_NUMBER]);
	entry->epoch = (uint64) DatumGetInt64(values[HISTORY_EPOCH]);
	entry->system_identifier = (uint64) DatumGetInt64(values[HISTORY_SYSTEM_IDENTIFIER]);
	entry->database = DatumGetObjectId(values[HISTORY_DATABASE]);
	entry->document = DatumGetObjectId(values[HISTORY_DOCUMENT]);
	entry->timeline = (TimeLineID) DatumGetInt64(values[HISTORY_TIMELINE]);
	entry->survived = DatumGetTimestampTz(values[HISTORY_SURVIVED]);
	entry->lost_after = DatumGetTimestampTz(values[HISTORY_LOST_AFTER]);
	entry->clock = DatumGetTimestampTz(values[HISTORY_CLOCK]);
	entry->next = DatumGetFullTransactionId(values[HISTORY_NEXT_XID]);
	entry->arrived = DatumGetBool(values[HISTORY_ARRIVED]);
}

/* For qsort: by number, in which they were added */
static int
compare_entries(const void *a, const void *b)
{
	int64		number_a = ((const HistoryEntry *) a)->number;
	int64		number_b = ((const HistoryEntry *) b)->number;

	return (number_a > number_b) - (number_a < number_b);
}

/*
 * What is committed now, whatever snapshot the transaction has.
 */
static History *
read_latest(void)
{
	Snapshot	snapshot;
	History    *history;

	CommandCounterIncrement();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	history = docsync_history_read(snapshot);
	UnregisterSnapshot(snapshot);
	return history;
}

/*
 * Is there nothing to add, neither an epoch nor a start after a crash?  If so,
 * that is remembered until the store or the timeline changes.
 */
static bool
is_noted(const Store *store, const History *history)
{
	/* A start that this transaction has added the row of is noted for it. */
	if (!is_present(store, docsync_history_newest(history)) ||
		(!is_pending && (is_told_in_vain || docsync_clock_is_recovered())))
		return false;

	noted_version = store->version;
	noted_timeline = GetWALInsertionTimeLine();
	return true;
}

/*
 * Is an entry about this server, database, table and timeline?  Not if it is
 * NULL.  A standby goes along with its primary's timelines, so there that
 * isn't asked.
 */
static bool
is_present(const Store *store, const HistoryEntry *entry)
{
	return entry != NULL &&
		entry->system_identifier == GetSystemIdentifier() &&
		entry->database == MyDatabaseId &&
		entry->document == store->relations[STORE_DOCUMENT] &&
		(RecoveryInProgress() || entry->timeline == GetWALInsertionTimeLine());
}

/*
 * Takes the lock that whoever adds a row must hold, until the end of the
 * transaction.  False, at once, if another transaction has it.
 */
static bool
lock_history(void)
{
	ResourceOwner owner = CurrentResourceOwner;
	LOCKTAG		tag;
	bool		locked;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, DOCSYNC_LOCK_HISTORY);
	CurrentResourceOwner = CurTransactionResourceOwner;
	locked = LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
	CurrentResourceOwner = owner;
	return locked;
}

/*
 * Adds a row: an epoch's, or that of a start.
 *
 * An epoch's first stamp is beyond all that the lost history has issued: who
 * goes on from a bare stamp of that is found by its lying in between.  After a
 * crash the clock, as given, is that already.
 */
static void
begin(const Store *store, const History *history, bool by_hand,
	  TimestampTz clock, FullTransactionId next)
{
	const HistoryEntry *newest = docsync_history_newest(history);
	bool		is_epoch = by_hand || !is_present(store, newest) ||
	synchronous_commit == SYNCHRONOUS_COMMIT_OFF;
	bool		arrived = by_hand || newest == NULL ||
	newest->system_identifier != GetSystemIdentifier() ||
	newest->database != MyDatabaseId ||
	newest->document != store->relations[STORE_DOCUMENT];
	TimestampTz survived = find_time(&find_survived,
									 is_epoch ? DT_NOEND : clock);
	TimestampTz known = Min(survived, find_time(&find_prepared, 0));
	uint64		epoch;
	Datum		args[11];

	if (is_epoch)
	{
		TimestampTz beginning = GetCurrentTimestamp();

		if (!pg_strong_random(&epoch, sizeof(epoch)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		epoch = (epoch & PG_INT64_MAX) | 1; /* a bigint, and not 0 */

		/* In a new store there was nothing to lose. */
		if (newest != NULL || !TIMESTAMP_IS_NOBEGIN(survived))
			beginning += EPOCH_LEAD;
		docsync_clock_advance(Max(beginning, survived));
		clock = docsync_clock_read_fence(&next);
	}
	else
		epoch = newest->epoch;

	args[0] = Int64GetDatum(newest != NULL ? newest->number + 1 : 1);
	args[1] = Int64GetDatum((int64) epoch);
	args[2] = Int64GetDatum((int64) GetSystemIdentifier());
	args[3] = ObjectIdGetDatum(MyDatabaseId);
	args[4] = ObjectIdGetDatum(store->relations[STORE_DOCUMENT]);
	args[5] = Int64GetDatum((int64) GetWALInsertionTimeLine());
	args[6] = TimestampTzGetDatum(survived);
	args[7] = TimestampTzGetDatum(TIMESTAMP_NOT_FINITE(known) ?
								  DT_NOBEGIN : known - LOST_MARGIN);
	args[8] = TimestampTzGetDatum(clock);
	args[9] = FullTransactionIdGetDatum(next);
	args[10] = BoolGetDatum(arrived);
	docsync_store_execute(&add_entry, args, NULL, NULL);

	is_pending = true;
	pending_in = GetCurrentSubTransactionId();
}

/* Runs a statement that returns one time. */
static TimestampTz
find_time(StoreStatement *statement, TimestampTz arg)
{
	TimestampTz time = DT_NOBEGIN;
	Datum		value = TimestampTzGetDatum(arg);

	docsync_store_execute(statement, &value, put_time, &time);
	return time;
}

/* RowCallback: the time, into the TimestampTz that arg points to */
static bool
put_time(TupleTableSlot *slot, void *arg)
{
	*(TimestampTz *) arg = DatumGetTimestampTz(slot->tts_values[0]);
	return true;
}

/*
 * XactCallback: marks the clock's page when a row is about to be committed,
 * and keeps track of what became of it.
 */
static void
at_xact(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:

			/*
			 * If the transaction fails after this, as one that is
			 * SERIALIZABLE may, the row is missing, and this session adds it
			 * with its next upload.  Spec start-fails.
			 */
			if (is_pending && docsync_schema_is_checked())
			{
				docsync_clock_set_noted();
				is_told = true;
			}
			break;
		case XACT_EVENT_COMMIT:
			if (is_told)
				is_told_in_vain = false;
			is_pending = is_told = false;
			break;
		case XACT_EVENT_ABORT:
			if (is_told)
				is_told_in_vain = true;
			is_told = false;
			pg_fallthrough;
		case XACT_EVENT_PREPARE:
			forget();
			break;
		default:
			break;
	}
}

/*
 * SubXactCallback: what has been found noted is looked at again, since the row
 * may have been added in the subtransaction that is rolled back.
 */
static void
at_subxact(SubXactEvent event, SubTransactionId my_subid,
		   SubTransactionId parent_subid, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	if (is_pending && pending_in < my_subid)
		noted_version = 0;		/* of before, and still there */
	else
		forget();
}

/*
 * What was found noted may have been a row of our own, which is gone, or not
 * committed yet.
 */
static void
forget(void)
{
	is_pending = false;
	noted_version = 0;
}
