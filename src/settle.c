/*-------------------------------------------------------------------------
 *
 * settle.c
 *	  The reader's side of the stamps: may a document be given to readers yet?
 *
 * A reader resumes from the last stamp it has received.  So it may be given a
 * document only when no transaction that it can't see can have an earlier
 * stamp in the collection: then the document is settled.
 *
 * That is so when each top-level transaction id below the document's fence
 * that the snapshot doesn't see as finished is
 * 1. the reader's own; or
 * 2. without a mark for the collection, and afterwards found running; or
 * 3. rolled back.
 *
 * Ids at or above the fence were assigned after the document was stamped,
 * hence their stamps are later.  Subtransactions have ids, too, but no marks:
 * we look at their parents, whose ids are lower.  See doc/stamps.md for the
 * proof.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "storage/standby.h"

#include "docsync.h"

static FullTransactionId widen(TransactionId xid, FullTransactionId next);
static bool are_ignorable(SettleScan *scan, FullTransactionId from,
						  FullTransactionId to);
static void look_who_runs(SettleScan *scan);
static bool is_ignorable(const SettleScan *scan, TransactionId xid);

/*
 * Pushes an active snapshot, as docsync_schema_push_snapshot() does, and
 * returns the watermark for it: stamps up to there are settled.  DT_NOBEGIN if
 * there is none, as on a primary.
 *
 * What the watermark speaks of has been replayed when it can be read, so a
 * snapshot that is taken afterwards sees it; an older one may not.  Without
 * this order t/031_watermark.pl fails.
 */
TimestampTz
docsync_settle_push_snapshot(void)
{
	TimestampTz watermark = DT_NOBEGIN;

	if (RecoveryInProgress() && !IsolationUsesXactSnapshot())
		watermark = docsync_clock_read_watermark();
	docsync_schema_push_snapshot();

	return watermark;
}

/*
 * Begins a scan of a collection under a snapshot, which the caller keeps
 * alive.  watermark is that of the snapshot.
 */
void
docsync_settle_begin(SettleScan *scan, Snapshot snapshot,
					 const History *history, const text *collection,
					 TimestampTz watermark)
{
	scan->snapshot = snapshot;
	scan->history = history;
	scan->collection_hash = docsync_text_hash(collection);
	scan->watermark = watermark;
	scan->next = ReadNextFullTransactionId();
	scan->known = widen(snapshot->xmin, scan->next);
	scan->has_running = false;
}

/*
 * Is a document with this stamp and fence settled?  The documents of a scan
 * come in the order of their stamps; the first that isn't settled ends the
 * scan.
 *
 * Ids that were found ignorable for another document of the scan need no
 * second look: if one has marked the collection since then, its stamps are
 * later than all that the snapshot sees.
 */
bool
docsync_settle_test(SettleScan *scan, TimestampTz stamp,
					FullTransactionId fence)
{
	Snapshot	snapshot = scan->snapshot;
	FullTransactionId xid;

	/* The fast path, and nearly always the only one */
	if (FullTransactionIdPrecedesOrEquals(fence, scan->known))
		return true;

	/* On a standby, as the primary has said */
	if (stamp <= scan->watermark)
		return true;

	/*
	 * The document may have been stamped in another cluster, or before a
	 * crash or a promotion made the server forget ids under which nothing had
	 * been written.  Then there may be a lower fence than its own.
	 */
	fence = docsync_history_fence(scan->history, stamp, fence);
	if (FullTransactionIdPrecedesOrEquals(fence, scan->known))
		return true;

	/*
	 * A standby sees no marks.  Nor does it know all ids: an id that has
	 * written nothing yet counts for a fence, but not for the standby's next
	 * id.
	 */
	if (snapshot->takenDuringRecovery)
		return false;

	/*
	 * The fence may still be too high if nobody has noted the crash or the
	 * promotion yet.  Whoever gets such an id from now on is stamped later.
	 */
	if (FullTransactionIdFollows(fence, scan->next))
		fence = scan->next;

	/* Running when the snapshot was taken */
	for (uint32 i = 0; i < snapshot->xcnt; i++)
	{
		xid = widen(snapshot->xip[i], scan->next);

		if (FullTransactionIdPrecedes(xid, fence) &&
			FullTransactionIdFollowsOrEquals(xid, scan->known) &&
			!is_ignorable(scan, snapshot->xip[i]))
			return false;
	}

	/* Not finished, or not begun, at that time */
	xid = widen(snapshot->xmax, scan->next);
	if (FullTransactionIdPrecedes(xid, scan->known))
		xid = scan->known;
	if (FullTransactionIdPrecedes(xid, fence) &&
		!are_ignorable(scan, xid, fence))
		return false;

	scan->known = fence;
	return true;
}

/*
 * Are the ids of a range, from the snapshot's xmax on, ignorable?
 *
 * Not all are looked at one by one: a single transaction may have a million of
 * them, for its subtransactions.  Top-level ids are those that are found
 * running now, and those that had ended by now.  The rest are ids of
 * subtransactions.
 */
static bool
are_ignorable(SettleScan *scan, FullTransactionId from, FullTransactionId to)
{
	if (!scan->has_running)
		look_who_runs(scan);

	for (int i = 0; i < scan->nrunning; i++)
	{
		FullTransactionId xid = scan->running[i];

		if (FullTransactionIdFollowsOrEquals(xid, from) &&
			FullTransactionIdPrecedes(xid, to) &&
			!is_ignorable(scan, XidFromFullTransactionId(xid)))
			return false;
	}

	/*
	 * These are few, if the snapshot is new.  For an id that isn't running
	 * the outcome is recorded; a subtransaction's is its parent's.
	 */
	while (FullTransactionIdPrecedes(from, to) &&
		   FullTransactionIdPrecedes(from, scan->unended))
	{
		CHECK_FOR_INTERRUPTS();

		if (TransactionIdDidCommit(XidFromFullTransactionId(from)))
			return false;
		FullTransactionIdAdvance(&from);
	}

	return true;
}

/*
 * Notes which ids are running, including prepared transactions, and the
 * highest id that had ended by then.
 *
 * Both are read while both locks are held: getting an id and entering the
 * running set takes XidGenLock, and leaving the set takes ProcArrayLock.  All
 * ids that a scan asks about had been assigned when it began, so before this;
 * hence each is found running, or had ended.  One look is enough for a scan.
 */
static void
look_who_runs(SettleScan *scan)
{
	RunningTransactions look = GetRunningTransactionData();
	FullTransactionId xmax = widen(scan->snapshot->xmax, scan->next);
	FullTransactionId next;

	/* What it has returned is private memory of ours. */
	LWLockRelease(XidGenLock);
	LWLockRelease(ProcArrayLock);

	next = ReadNextFullTransactionId();
	scan->unended = widen(look->latestCompletedXid, next);
	FullTransactionIdAdvance(&scan->unended);

	scan->running = palloc(sizeof(FullTransactionId) * look->xcnt);
	scan->nrunning = 0;
	for (int i = 0; i < look->xcnt; i++)
	{
		FullTransactionId xid = widen(look->xids[i], next);

		if (FullTransactionIdFollowsOrEquals(xid, xmax))
			scan->running[scan->nrunning++] = xid;
	}
	scan->has_running = true;
}

/*
 * Can a top-level id be ignored, by one of the three rules above?  The order
 * of the two looks matters.  If we don't see a mark, the transaction had none
 * yet, or it has ended; and if it is then still found running, it hadn't
 * ended.  So it had no stamps, and those it may take from now on are later
 * than all that our snapshot sees.  The other way round, it could end, and
 * release its mark, in between.
 */
static bool
is_ignorable(const SettleScan *scan, TransactionId xid)
{
	bool		marked;

	if (TransactionIdIsCurrentTransactionId(xid))
		return true;

	marked = docsync_stamp_is_marked(xid, scan->collection_hash);
	if (TransactionIdIsInProgress(xid))
		return !marked;

	return !TransactionIdDidCommit(xid);
}

/*
 * Finds the frontier: the last stamp issued, and the running transactions that
 * may have stamps up to there.
 *
 * Let T be a transaction that has such a stamp.  It took it before the clock is
 * read, so its id is below the next one as it was under the same latch, and it
 * had its mark by then.  If it isn't found running after that, it has ended.
 * If it is, and has no mark any more, it has ended as well, since it had its
 * mark until it had left the running set.
 *
 * So if there is no such transaction with a mark, all that have stamps up to
 * the frontier have ended, and the commit records of those that have committed
 * are in WAL; snapshots see them from now on.  This doesn't hold for documents
 * that bring their own stamps.
 *
 * Memory: the list is allocated in the current context.
 */
void
docsync_settle_find_frontier(Frontier *frontier)
{
	RunningTransactions look;
	FullTransactionId next;

	frontier->stamp = docsync_clock_read_frontier(&next,
												  &frontier->logged_at);

	look = GetRunningTransactionData();
	LWLockRelease(XidGenLock);
	LWLockRelease(ProcArrayLock);

	frontier->marked = palloc(sizeof(TransactionId) * look->xcnt);
	frontier->nmarked = 0;
	for (int i = 0; i < look->xcnt; i++)
	{
		TransactionId xid = look->xids[i];

		if (TransactionIdPrecedes(xid, XidFromFullTransactionId(next)) &&
			docsync_stamp_is_marked_any(xid))
			frontier->marked[frontier->nmarked++] = xid;
	}
}

/*
 * Have all transactions ended that have stamps up to the frontier in a
 * collection, given by its hash?
 */
bool
docsync_settle_is_frontier(const Frontier *frontier, uint32 collection_hash)
{
	for (int i = 0; i < frontier->nmarked; i++)
	{
		if (docsync_stamp_is_marked(frontier->marked[i], collection_hash))
			return false;
	}

	return true;
}

/*
 * The full id of a current one, which is less than 2^31 away from the next.
 */
static FullTransactionId
widen(TransactionId xid, FullTransactionId next)
{
	uint32		epoch = EpochFromFullTransactionId(next);

	if (xid > XidFromFullTransactionId(next))
		epoch--;

	return FullTransactionIdFromEpochAndXid(epoch, xid);
}
