/*-------------------------------------------------------------------------
 *
 * settle.c
 *	  The reader's side of the stamps: may a document leave yet?
 *
 * A reader goes on from the last stamp it has received.  So it may be given a
 * document only when no transaction that it can't see can have an earlier
 * stamp in the collection: the document is settled.
 *
 * That is so when each transaction id below the document's fence which the
 * snapshot doesn't see as finished is
 * 1. the reader's own; or
 * 2. without a mark for the collection, and afterwards found running; or
 * 3. rolled back.
 *
 * Ids at or above the fence were assigned after the document was stamped,
 * hence their stamps are later.  See doc/stamps.md for the proof.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/procarray.h"

#include "docsync.h"

static FullTransactionId widen(TransactionId xid, FullTransactionId next);
static bool is_ignorable(const SettleScan *scan, TransactionId xid);

/*
 * Begins a scan of a collection under a snapshot, which the caller keeps.
 */
void
docsync_settle_begin(SettleScan *scan, Snapshot snapshot,
					 const History *history, const text *collection)
{
	scan->snapshot = snapshot;
	scan->history = history;
	scan->collection_hash = docsync_stamp_hash(collection);
	scan->next = ReadNextFullTransactionId();
	scan->known = widen(snapshot->xmin, scan->next);
}

/*
 * Is a document with this fence settled?  The documents of a scan come in the
 * order of their stamps; after the first that isn't settled the scan is over.
 *
 * Ids that were found ignorable for an earlier document of the scan need no
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

	/*
	 * Stamped in another cluster, or before a crash or a promotion made the
	 * server forget ids that nothing had been written under: there may be a
	 * lower fence than its own.
	 */
	fence = docsync_history_fence(scan->history, stamp, fence);
	if (FullTransactionIdPrecedesOrEquals(fence, scan->known))
		return true;

	/*
	 * A standby sees no marks.  Nor does it know all ids: an id that has
	 * written nothing yet counts for a fence but not for the standby's next.
	 */
	if (snapshot->takenDuringRecovery)
		return false;

	/*
	 * The same, where nobody has taken note of it yet.  Whoever gets such an
	 * id from now on is stamped later.
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

	/*
	 * Not finished then, or not begun.  Subtransactions have ids here too;
	 * they are without a mark, but their parents have lower ids, and so are
	 * looked at themselves.
	 */
	xid = widen(snapshot->xmax, scan->next);
	if (FullTransactionIdPrecedes(xid, scan->known))
		xid = scan->known;
	while (FullTransactionIdPrecedes(xid, fence))
	{
		CHECK_FOR_INTERRUPTS();

		if (!is_ignorable(scan, XidFromFullTransactionId(xid)))
			return false;
		FullTransactionIdAdvance(&xid);
	}

	scan->known = fence;
	return true;
}

/*
 * The order of the two looks matters.  A transaction may have taken its mark
 * and its stamps before.  If we don't see the mark, it hadn't any yet, or it
 * has ended; and if it is then still found running, it hadn't ended.  So it
 * had no stamps, and those it may take from now on are later than all that
 * our snapshot sees.  The other way round it could end, and let go of its
 * mark, in between.
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
 * The full id of one that is around now, so less than 2^31 away from the next.
 */
static FullTransactionId
widen(TransactionId xid, FullTransactionId next)
{
	uint32		epoch = EpochFromFullTransactionId(next);

	if (xid > XidFromFullTransactionId(next))
		epoch--;

	return FullTransactionIdFromEpochAndXid(epoch, xid);
}
