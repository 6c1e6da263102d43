/*-------------------------------------------------------------------------
 *
 * epoch.c
 *	  Where the store is, as noted by writers: epochs, and starts after a
 *	  crash.
 *
 * A store may be dumped and restored, cloned, failed over, or brought back to
 * an earlier time.  Then stamps that clients have may never have been issued
 * in the history that the store has now.  Nobody has to tell us: each writer
 * compares where it is with the newest row of docsync.history (history.c).  If
 * that is another place, it begins an epoch: a row with an id that cursors
 * contain.
 *
 * Nobody waits for that.  One transaction adds the row, and the others carry
 * on; until it commits, readers get answers of the previous epoch.  A cursor
 * of another epoch than the newest that the reader's snapshot sees makes the
 * client compare what it has with the store, which is right whenever it
 * happens.
 *
 * A crash leaves the store where it is.  What was committed is still there,
 * unless synchronous_commit was off, in which case an epoch begins as well.
 * But transaction ids under which nothing had been written are forgotten, so
 * each start after a crash adds a row with a pair (clock, next transaction
 * id).  The clock's page shows that there was such a start (clock.c).
 *
 * A row too many is harmless: it costs each client a comparison.
 *
 * An administrator who moves a store on purpose can spare clients the
 * comparison.  docsync_hand_over() adds a row of no place, after which nothing
 * more is written at the old place.  So wherever that row is found, in
 * whatever way it got there, everything has arrived, and an epoch begins in
 * which nothing was lost.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_new_epoch);
PG_FUNCTION_INFO_V1(docsync_hand_over);
PG_FUNCTION_INFO_V1(docsync_take_over);

/*
 * How far ahead of the current time an epoch's first stamp is, in
 * microseconds: farther than any stamp that the lost history may have issued
 * until now.
 */
#define EPOCH_LEAD			(60 * USECS_PER_SEC)

/*
 * How far below the highest stamp that survived the stamp of a lost document
 * may be, in microseconds: its transaction may have committed this long after
 * it took its stamps.
 */
#define LOST_MARGIN			USECS_PER_DAY

/* The store's version, and the timeline, for which nothing was left to note */
static uint64 noted_version = 0;
static TimeLineID noted_timeline = 0;

/*
 * Has this transaction added a row, which hasn't been rolled back as far as we
 * know?  If so, in which subtransaction?
 */
static bool is_pending = false;
static SubTransactionId pending_in;

/*
 * Has the clock's page been told of a row that this transaction is committing?
 * Or of one whose transaction failed after that?
 */
static bool is_told = false;
static bool is_told_in_vain = false;

static Statement find_survived = {

	/*
	 * The highest stamp up to a time, found collection by collection, with an
	 * index lookup for each
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
	1, {TIMESTAMPTZOID}, STATEMENT_PINNED | STATEMENT_OF_DOCUMENT | STATEMENT_READ_ONLY, NULL
};

static Statement find_prepared = {
	"SELECT COALESCE(pg_catalog.min(prepared), 'infinity')"
	"  FROM pg_catalog.pg_prepared_xacts"
	" WHERE database OPERATOR(pg_catalog.=) pg_catalog.current_database()",
	0, {InvalidOid}, STATEMENT_OF_HISTORY | STATEMENT_READ_ONLY, NULL
};

static Statement add_entry = {
	"INSERT INTO docsync.history (number, epoch, system_identifier, database,"
	" document, timeline, begun, survived, lost_after, clock, next_xid, arrived)"
	" VALUES ($1, $2, $3, $4, $5, $6, pg_catalog.clock_timestamp(),"
	" $7, $8, $9, $10, $11)",
	11, {INT8OID, INT8OID, INT8OID, OIDOID, OIDOID, INT8OID, TIMESTAMPTZOID,
	TIMESTAMPTZOID, TIMESTAMPTZOID, XID8OID, BOOLOID}, STATEMENT_OF_HISTORY, NULL
};

static const Store *open_owned(const char *function);
static History *read_latest(void);
static bool is_noted(const Store *store, const History *history);
static void refuse_handed_over(const History *history);
static const char *find_hindrance(const Store *store,
								  const HistoryEntry *newest,
								  TimestampTz survived);
static bool lock_history(bool wait);
static void begin(const Store *store, const History *history, bool by_hand,
				  TimestampTz clock, FullTransactionId next);
static void add(const HistoryEntry *entry);
pg_noreturn static void refuse_lost_row(void);
static TimestampTz find_time(Statement *statement, TimestampTz arg);
static bool put_time(TupleTableSlot *slot, void *arg);
static void at_xact(XactEvent event, void *arg);
static void at_subxact(SubXactEvent event, SubTransactionId my_subid,
					   SubTransactionId parent_subid, void *arg);
static void forget(void);

/*
 * docsync_new_epoch() RETURNS void
 *
 * To be called after documents were changed behind docsync's back.
 *
 * Locks: one that only another call waits for, until the end of the
 * transaction.
 */
Datum
docsync_new_epoch(PG_FUNCTION_ARGS)
{
	const Store *store = open_owned("docsync_new_epoch()");
	TimestampTz clock;
	FullTransactionId next;

	lock_history(true);
	clock = docsync_clock_read_fence(&next);
	begin(store, read_latest(), true, clock, next);

	PG_RETURN_VOID();
}

/*
 * docsync_hand_over() RETURNS void
 *
 * To be called before a store moves: adds the row that says so, which is the
 * last thing written here until docsync_new_epoch().  Called again, it does
 * nothing.
 *
 * Locks: docsync.document, SHARE, until the end of the transaction.  When we
 * get it, all transactions that have written have ended, including prepared
 * ones, and our row comes after theirs.  A later writer gets its lock when we
 * have ended, and with it our invalidation: so it looks at the history once
 * more, within the statement that holds the lock (guard.c), and finds the row.
 * Spec hand-over.
 */
Datum
docsync_hand_over(PG_FUNCTION_ARGS)
{
	const Store *store = open_owned("docsync_hand_over()");
	Oid			document = store->relations[STORE_DOCUMENT];
	History    *history;
	const HistoryEntry *newest;
	HistoryEntry entry;

	LockRelationOid(document, ShareLock);
	lock_history(true);
	history = read_latest();
	if (docsync_history_is_gone(history))
		PG_RETURN_VOID();

	/* Note where the store is now. */
	docsync_epoch_notice();
	newest = docsync_history_newest(read_latest());
	if (newest == NULL)
		refuse_lost_row();

	entry = *newest;
	entry.number++;
	entry.system_identifier = 0;
	entry.database = InvalidOid;
	entry.document = InvalidOid;
	entry.timeline = 0;
	entry.survived = find_time(&find_survived, DT_NOEND);
	entry.lost_after = DT_NOEND;
	entry.clock = docsync_clock_read_fence(&entry.next);
	entry.arrived = false;
	add(&entry);

	CacheInvalidateRelcacheByRelid(document);
	noted_version = 0;

	PG_RETURN_VOID();
}

/*
 * docsync_take_over() RETURNS void
 *
 * To be called where a store has moved to: continues where it was handed over,
 * as the first upload would.  But if that is impossible, this raises an error
 * that says why, instead of making clients compare.  Called again, it does
 * nothing.
 *
 * Locks: one that only another call waits for, until the end of the
 * transaction.
 */
Datum
docsync_take_over(PG_FUNCTION_ARGS)
{
	const Store *store = open_owned("docsync_take_over()");
	History    *history;
	const char *hindrance;

	lock_history(true);
	history = read_latest();
	if (docsync_history_is_taken_over(history))
		PG_RETURN_VOID();

	refuse_handed_over(history);
	hindrance = find_hindrance(store, docsync_history_newest(history),
							   find_time(&find_survived, DT_NOEND));
	if (hindrance != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("docsync's store cannot be taken over"),
				 errdetail_internal("%s", hindrance),
				 errhint("If it is to be used as it is, the first upload, or docsync_new_epoch(), makes clients compare what they have.")));
	docsync_epoch_notice();

	PG_RETURN_VOID();
}

/*
 * Registers what is to be done when a transaction or subtransaction ends.
 */
void
docsync_epoch_init(void)
{
	RegisterXactCallback(at_xact, NULL);
	RegisterSubXactCallback(at_subxact, NULL);
}

/*
 * Compares identities before something is stamped, and begins an epoch, or
 * notes a start after a crash, if that is due.  The transaction must be one
 * that can write.
 *
 * Locks: one that nobody waits for, unless the store was handed over, until
 * the end of the transaction.
 */
void
docsync_epoch_notice(void)
{
	const Store *store = docsync_schema_open(STORE_READ);
	History    *history;
	TimestampTz clock;
	FullTransactionId next;

	if (noted_version == store->version &&
		noted_timeline == GetWALInsertionTimeLine())
		return;
	history = read_latest();
	if (is_noted(store, history))
		return;
	refuse_handed_over(history);
	if (!docsync_history_is_here(docsync_history_newest(history)))
		docsync_clock_forget_logged();

	/*
	 * This comes before the lock: a writer that doesn't get the lock carries
	 * on, and its stamps must not count as a lost history's.  Where the store
	 * was handed over, it waits: clients resume there without comparing, so
	 * all stamps must be later than those of the old place, to whose clock
	 * the holder of the lock advances ours.  Spec take-over.
	 */
	clock = docsync_clock_read_fence(&next);
	if (!lock_history(docsync_history_is_handed_over(docsync_history_newest(history))))
		return;

	/* A previous holder of the lock may have done it. */
	history = read_latest();
	if (!is_noted(store, history))
		begin(store, history, false, clock, next);
}

/*
 * Makes the id of an epoch, which nobody can guess.
 */
uint64
docsync_epoch_make_id(void)
{
	uint64		epoch;

	if (!pg_strong_random(&epoch, sizeof(epoch)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	return (epoch & PG_INT64_MAX) | 1;	/* a bigint, and not 0 */
}

/*
 * Opens the store for a function that only its owner may call.  What was found
 * to be noted is checked again: since then the owner may have deleted rows, or
 * brought in others.
 */
static const Store *
open_owned(const char *function)
{
	const Store *store = docsync_schema_open_owned(function);

	noted_version = 0;
	return store;
}

/*
 * Reads the history as committed now, whatever snapshot the transaction has.
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
	/* If this transaction has added the row, the start is noted for it. */
	if (!docsync_history_is_here(docsync_history_newest(history)) ||
		(!is_pending && (is_told_in_vain || docsync_clock_is_recovered())))
		return false;

	noted_version = store->version;
	noted_timeline = GetWALInsertionTimeLine();
	return true;
}

/*
 * Refuses to write to a store that was handed over from here: what is written
 * would be missing where it lives on.  Over HTTP the service is unavailable
 * (503), since clients will be sent elsewhere.
 */
static void
refuse_handed_over(const History *history)
{
	static const Refusal handed_over = {
		.code = "handed_over",
		.message = "docsync's store has been handed over",
		.detail = "It does not accept writes here any more: it lives on elsewhere.",
		.hint = "To use it here after all: SELECT docsync_new_epoch(); after that, clients compare what they have.",
		.retry_after = 10
	};

	if (docsync_history_is_gone(history))
		docsync_refuse_request(503, &handed_over);
}

/*
 * Why a store can't continue where it was handed over; NULL if it can.  The
 * row was the last to be committed there, so everything written before has
 * come with it, unless tables were copied one by one.  Hence the highest stamp
 * must match, and no subscription may still be filling the store.
 */
static const char *
find_hindrance(const Store *store, const HistoryEntry *newest,
			   TimestampTz survived)
{
	if (!docsync_history_is_handed_over(newest))
		return "It has not been handed over, or docsync.history has not arrived yet.";
	if (store->is_subscribed)
		return "A subscription is still filling it.";
	if (survived != newest->survived)
		return "Its documents are not those that it had when it was handed over.";
	return NULL;
}

/*
 * Takes the lock on the history; false if somebody else has it and we don't
 * wait.
 */
static bool
lock_history(bool wait)
{
	ResourceOwner owner = CurrentResourceOwner;
	LOCKTAG		tag;
	bool		locked;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, DOCSYNC_LOCK_HISTORY);
	CurrentResourceOwner = CurTransactionResourceOwner;
	locked = LockAcquire(&tag, ExclusiveLock, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
	CurrentResourceOwner = owner;
	return locked;
}

/*
 * Adds a row: that of an epoch, or of a start after a crash.
 *
 * An epoch's first stamp is beyond all that the lost history has issued, so
 * that a bare stamp from that history lies in the gap, and is recognized.
 * After a crash the given clock is beyond it already.  If nothing is lost, the
 * first stamp is beyond the clock of the old place.
 */
static void
begin(const Store *store, const History *history, bool by_hand,
	  TimestampTz clock, FullTransactionId next)
{
	const HistoryEntry *newest = docsync_history_newest(history);
	bool		is_epoch = by_hand || !docsync_history_is_here(newest) ||
	synchronous_commit == SYNCHRONOUS_COMMIT_OFF;
	TimestampTz survived = find_time(&find_survived,
									 is_epoch ? DT_NOEND : clock);
	TimestampTz known = Min(survived, find_time(&find_prepared, 0));
	bool		goes_on = is_epoch && !by_hand &&
	find_hindrance(store, newest, survived) == NULL;
	HistoryEntry entry = {
		.number = newest != NULL ? newest->number + 1 : 1,
		.epoch = newest != NULL ? newest->epoch : 0,
		.system_identifier = GetSystemIdentifier(),
		.database = MyDatabaseId,
		.document = store->relations[STORE_DOCUMENT],
		.timeline = GetWALInsertionTimeLine(),
		.survived = survived,
		.lost_after = goes_on ? DT_NOEND :
		TIMESTAMP_NOT_FINITE(known) ? DT_NOBEGIN : known - LOST_MARGIN,
		.clock = clock,
		.next = next
	};

	entry.arrived = by_hand || newest == NULL ||
		newest->system_identifier != entry.system_identifier ||
		newest->database != entry.database ||
		newest->document != entry.document;

	if (is_epoch)
	{
		TimestampTz beginning = GetCurrentTimestamp();

		entry.epoch = docsync_epoch_make_id();

		/* In a new store there was nothing to lose. */
		if (goes_on)
			beginning = newest->clock;
		else if (newest != NULL || !TIMESTAMP_IS_NOBEGIN(survived))
			beginning += EPOCH_LEAD;
		docsync_clock_advance(Max(beginning, survived));
		entry.clock = docsync_clock_read_fence(&entry.next);
	}

	add(&entry);
	is_pending = true;
	pending_in = GetCurrentSubTransactionId();
}

/*
 * Adds a row as it is; "begun" is set by the statement.
 */
static void
add(const HistoryEntry *entry)
{
	Datum		args[11];

	args[0] = Int64GetDatum(entry->number);
	args[1] = Int64GetDatum((int64) entry->epoch);
	args[2] = Int64GetDatum((int64) entry->system_identifier);
	args[3] = ObjectIdGetDatum(entry->database);
	args[4] = ObjectIdGetDatum(entry->document);
	args[5] = Int64GetDatum((int64) entry->timeline);
	args[6] = TimestampTzGetDatum(entry->survived);
	args[7] = TimestampTzGetDatum(entry->lost_after);
	args[8] = TimestampTzGetDatum(entry->clock);
	args[9] = FullTransactionIdGetDatum(entry->next);
	args[10] = BoolGetDatum(entry->arrived);
	if (docsync_statement_run(&add_entry, args, NULL, NULL) == 0)
		refuse_lost_row();
}

/*
 * Raises the error for a row that was inserted but isn't there.  Without the
 * row clients would carry on as if nothing had happened to the store.
 */
static void
refuse_lost_row(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("a row of \"docsync.history\" was not stored"),
			 errdetail("A trigger on the table may have suppressed or removed it.")));
}

/*
 * Runs a statement that returns one time, under a new snapshot: under
 * REPEATABLE READ the transaction's snapshot may be older than our locks, and
 * than the documents of those we have waited for.  Spec hand-over.
 */
static TimestampTz
find_time(Statement *statement, TimestampTz arg)
{
	TimestampTz time = DT_NOBEGIN;
	Datum		value = TimestampTzGetDatum(arg);

	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
	docsync_statement_run(statement, &value, put_time, &time);
	PopActiveSnapshot();
	return time;
}

/*
 * RowCallback: the time, into the TimestampTz that arg points to
 */
static bool
put_time(TupleTableSlot *slot, void *arg)
{
	*(TimestampTz *) arg = DatumGetTimestampTz(slot->tts_values[0]);
	return true;
}

/*
 * XactCallback: marks the clock's page when a row is about to be committed,
 * and keeps track of whether it was.
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
 * SubXactCallback: makes us check again whether everything is noted, since the
 * row may have been added in the subtransaction that is rolled back.
 */
static void
at_subxact(SubXactEvent event, SubTransactionId my_subid,
		   SubTransactionId parent_subid, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	if (is_pending && pending_in < my_subid)
		noted_version = 0;		/* our row is older, and still there */
	else
		forget();
}

/*
 * Makes us check again: what was found to be noted may have been our own row,
 * which is gone, or isn't committed yet.
 */
static void
forget(void)
{
	is_pending = false;
	noted_version = 0;
}
