/*-------------------------------------------------------------------------
 *
 * epoch.c
 *	  Where the store is, as whoever writes notes it: epochs, and starts
 *	  after a crash.
 *
 * A store is dumped and restored, cloned, failed over, brought back to an
 * earlier time.  Then the stamps that clients have may never have been issued
 * in the history that the store has now.  Nobody has to say so: whoever writes
 * compares where he is with the newest row of docsync.history (history.c).  If
 * it is another place, he begins an epoch: a row with an id that cursors bear.
 *
 * Nobody waits for that.  One transaction adds the row, the others go on;
 * until it commits, readers are answered by the epoch before.  A cursor of
 * another epoch than the newest that the reader's snapshot sees leads to a
 * comparison of what both hold, and that is right whenever it happens.
 *
 * A crash leaves the store where it is.  What has been committed is still
 * there, unless synchronous_commit was off, in which case an epoch begins as
 * well.  But ids that nothing had been written under are forgotten, so each
 * start adds a row with a pair (clock, next transaction id).  That there was a
 * start the clock's page tells (clock.c).
 *
 * A row that comes too often is harmless: it costs each client a comparison.
 *
 * Who moves a store on purpose can spare them that.  docsync_hand_over() adds
 * a row of no place, behind which nothing is written any more where the store
 * was.  So whoever finds that row elsewhere, in whatever way it has come,
 * finds all that there was, and begins an epoch in which nothing was lost.
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

static Statement find_survived = {

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
 * For who has changed documents behind docsync's back.
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
 * Before a store moves: adds the row that says so, which is the last thing
 * that is written here until docsync_new_epoch().  Called again, it does
 * nothing.
 *
 * Locks: docsync.document, SHARE, until the end of the transaction.  Whoever
 * has written has ended when we get it, prepared transactions included, and
 * our row comes behind all of theirs.  Whoever writes later gets his lock when
 * we have ended, and with it our invalidation: so he looks at the history once
 * more, from within the statement that has the lock (guard.c), and finds the
 * row.  Spec hand-over.
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

	/* Where it is now */
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
 * Where a store has moved to: goes on from where it was handed over, as the
 * first upload would; but if that can't be, it says why, instead of having
 * clients compare.  Called again, it does nothing.
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
				 errhint("If it is to be used as it is, the first upload, or docsync_new_epoch(), has clients compare what they have.")));
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
 * notes a start, where that is due.  The caller may write.
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
	 * Before the lock: who doesn't get it goes on, and his stamps are no lost
	 * history's.  Where the store was handed over he waits: clients go on
	 * there, so all stamps must be later than those of the old place, to
	 * which the other one moves the clock.  Spec take-over.
	 */
	clock = docsync_clock_read_fence(&next);
	if (!lock_history(docsync_history_is_handed_over(docsync_history_newest(history))))
		return;

	/* Who had the lock before may have done it. */
	history = read_latest();
	if (!is_noted(store, history))
		begin(store, history, false, clock, next);
}

/*
 * Makes an id for an epoch, which nobody can guess.
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
 * Opens the store for a function that is its owner's, and writes.  What has
 * been found noted is looked at again: since then the owner may have deleted
 * rows, or have brought others from elsewhere.
 */
static const Store *
open_owned(const char *function)
{
	const Store *store = docsync_schema_open(STORE_READ);

	if (!object_ownercheck(RelationRelationId, store->relations[STORE_DOCUMENT],
						   GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, "docsync.document");
	PreventCommandIfReadOnly(function);
	PreventCommandDuringRecovery(function);
	noted_version = 0;
	return store;
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
	if (!docsync_history_is_here(docsync_history_newest(history)) ||
		(!is_pending && (is_told_in_vain || docsync_clock_is_recovered())))
		return false;

	noted_version = store->version;
	noted_timeline = GetWALInsertionTimeLine();
	return true;
}

/*
 * Keeps whoever would write from a store that was handed over from here: what
 * he writes would be lost to those who go on elsewhere.  Over HTTP it is a
 * service that isn't there just now, as clients will be sent elsewhere.
 */
static void
refuse_handed_over(const History *history)
{
	static const Refusal handed_over = {
		.code = "handed_over",
		.message = "docsync's store has been handed over",
		.detail = "Nothing is written here any more: what was here goes on elsewhere.",
		.hint = "If it is to go on here after all: SELECT docsync_new_epoch(); clients compare what they have then."
	};

	if (docsync_history_is_gone(history))
		docsync_refuse_request(503, &handed_over);
}

/*
 * Why a store can't go on from where it was handed over; NULL if it can.  The
 * row is the last that was committed there, so what was written before it has
 * come with it, unless tables were copied one by one: hence the highest stamp
 * is looked at, and nothing may be on its way any more.
 */
static const char *
find_hindrance(const Store *store, const HistoryEntry *newest,
			   TimestampTz survived)
{
	if (!docsync_history_is_handed_over(newest))
		return "It has not been handed over, or docsync.history has not arrived yet.";
	if (store->is_subscribed)
		return "A subscription still fills it.";
	if (survived != newest->survived)
		return "Its documents are not those that it had when it was handed over.";
	return NULL;
}

/*
 * False if somebody else has the lock, and we don't wait.
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
 * Adds a row: an epoch's, or that of a start.
 *
 * An epoch's first stamp is beyond all that the lost history has issued: who
 * goes on from a bare stamp of that is found by its lying in between.  After a
 * crash the clock, as given, is that already.  Where nothing is lost, it is
 * beyond the clock of the place where the store was.
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
 * Adds a row as it is; it says itself when it was made.
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
 * Raises the error for a row that has been added and isn't there.  Without it
 * clients would go on as if nothing had happened to the store.
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
 * Runs a statement that returns one time, as of now: under REPEATABLE READ the
 * transaction's snapshot may be older than our locks, and than the documents of
 * those we have waited for.  Spec hand-over.
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
