/*-------------------------------------------------------------------------
 *
 * stamp.c
 *	  The writer's side of the stamps: marks and reservations.
 *
 * Before a transaction writes a document it reserves stamps for it, in this
 * order, which is the proof that no reader loses a document (doc/stamps.md):
 *
 * 1. it has a top-level transaction id;
 * 2. it takes its mark: a lock on (transaction id, collection), held until
 *	  the end of the transaction;
 * 3. it ticks the clock;
 * 4. under the same latch it reads the fence, the next transaction id.
 *
 * So a reader that finds a running transaction without the mark knows that its
 * stamps, if it ever gets any, will be later than all that the reader can see.
 *
 * A reservation is a range of stamps with one fence.  There is at most one at
 * a time, for one collection.  What is left of it is forgotten when another is
 * made, when the upload it was made for is over, and when a subtransaction is
 * rolled back or the transaction ends: the mark may have been released with
 * it, and without the mark its stamps must not be used.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "docsync.h"

/*
 * A transaction that holds this many marks and writes to one more collection
 * marks all collections at once, so that it can't exhaust the lock table.
 */
#define MARKS_MAX			64

typedef struct Reservation
{
	int			count;			/* stamps left; if 0, the rest means nothing */
	TimestampTz next;
	FullTransactionId fence;
	int			collection_len; /* bytes */
	char		collection[DOCSYNC_COLLECTION_LEN];
} Reservation;

static Reservation reservation;

/* Documents the caller is about to write to one collection; 0: not known */
static int	expected = 0;

/* This transaction has taken the watermark back. */
static bool has_withdrawn = false;

/*
 * The marks that are held: for each, the subtransaction in which it was taken.
 * Later subtransactions have higher ids, including those nested in a
 * subtransaction: when one rolls back, the marks to be dropped are at the end.
 */
static int	marks = 0;
static SubTransactionId marked_in[MARKS_MAX + 2];	/* and those of any and of
													 * all */

static TimestampTz issue(const text *collection, int count,
						 FullTransactionId *fence);
static void mark(TransactionId xid, const text *collection);
static void take(const LOCKTAG *tag);
static void mark_tag(LOCKTAG *tag, TransactionId xid, uint32 collection_hash,
					 uint16 class);
static bool is_held(const LOCKTAG *tag);
static void at_xact(XactEvent event, void *arg);
static void at_subxact(SubXactEvent event, SubTransactionId my_subid,
					   SubTransactionId parent_subid, void *arg);

/* Registers what is to be done when a transaction or subtransaction ends. */
void
docsync_stamp_init(void)
{
	RegisterXactCallback(at_xact, NULL);
	RegisterSubXactCallback(at_subxact, NULL);
}

/*
 * Says how many stamps the next reservation should have.  Nothing is reserved
 * until the first document is written, so that an upload refused for lack of a
 * privilege leaves no trace.  (One refused by a policy does: the server checks
 * policies after the trigger.)
 */
void
docsync_stamp_expect(int count)
{
	docsync_stamp_forget();
	expected = count;
}

/*
 * Issues a stamp and its fence for any document that is about to be written.
 *
 * Locks: the mark, until the end of the transaction.
 */
void
docsync_stamp_take(const text *collection, TimestampTz *stamp,
				   FullTransactionId *fence)
{
	*stamp = issue(collection, 1, fence);
	docsync_changes_note(collection, *stamp);
}

/*
 * The same for one of the documents announced by docsync_stamp_expect().
 */
void
docsync_stamp_take_reserved(const text *collection, TimestampTz *stamp,
							FullTransactionId *fence)
{
	if (!docsync_stamp_is_reserved(collection))
	{
		int			len = VARSIZE_ANY_EXHDR(collection);
		int			count = Max(expected, 1);

		docsync_stamp_forget();
		reservation.next = issue(collection, count, &reservation.fence);
		reservation.collection_len = len;
		memcpy(reservation.collection, VARDATA_ANY(collection), len);
		reservation.count = count;
	}

	*stamp = reservation.next++;
	*fence = reservation.fence;
	reservation.count--;
	docsync_changes_note(collection, *stamp);
}

/*
 * Is there a reserved stamp left for a document of the collection?
 */
bool
docsync_stamp_is_reserved(const text *collection)
{
	int			len = VARSIZE_ANY_EXHDR(collection);

	return reservation.count > 0 && reservation.collection_len == len &&
		memcmp(reservation.collection, VARDATA_ANY(collection), len) == 0;
}

/*
 * Issues count consecutive stamps for what an upload leaves in the record
 * without a document of its own, and returns the first.
 *
 * Locks: the mark, which whoever closes the collection waits for.
 */
TimestampTz
docsync_stamp_take_lost(const text *collection, int count)
{
	FullTransactionId fence;

	return issue(collection, count, &fence);
}

/*
 * Takes the mark of a collection, for a transaction that is about to stamp
 * documents of it.
 */
void
docsync_stamp_mark(const text *collection)
{
	mark(GetTopTransactionId(), collection);
}

/*
 * The same for a document that brings its own stamp.  That may be below the
 * watermark, which must have gone from WAL before the document is there.
 */
void
docsync_stamp_mark_brought(const text *collection, TimestampTz stamp)
{
	mark(GetTopTransactionId(), collection);
	docsync_changes_note(collection, stamp);
	if (!has_withdrawn)
	{
		docsync_clock_withdraw_watermark();
		has_withdrawn = true;
	}
}

/*
 * Drops what is left of a reservation.
 */
void
docsync_stamp_forget(void)
{
	reservation.count = 0;
	expected = 0;
}

/*
 * Does another transaction, given by its top-level id, hold the mark of a
 * collection?  The answer may be out of date as soon as it is given.
 */
bool
docsync_stamp_is_marked(TransactionId xid, uint32 collection_hash)
{
	LOCKTAG		tag;

	mark_tag(&tag, xid, collection_hash, DOCSYNC_LOCK_COLLECTION);
	if (is_held(&tag))
		return true;

	mark_tag(&tag, xid, 0, DOCSYNC_LOCK_ALL);
	return is_held(&tag);
}

/*
 * Does another transaction hold a mark of some collection?
 */
bool
docsync_stamp_is_marked_any(TransactionId xid)
{
	LOCKTAG		tag;

	mark_tag(&tag, xid, 0, DOCSYNC_LOCK_ANY);
	return is_held(&tag);
}

/*
 * Issues count consecutive stamps of a collection, and returns the first.
 */
static TimestampTz
issue(const text *collection, int count, FullTransactionId *fence)
{
	TransactionId xid = GetTopTransactionId();

	docsync_text_check_name(collection, "collection",
							DOCSYNC_COLLECTION_LEN);

	/*
	 * The clock is past everything stamped before by others.  The mark comes
	 * before the stamps: from then on nobody can take us for a transaction
	 * that has no stamps here.  It is held until our transaction has left the
	 * running set, after which locks are released.  Without it spec
	 * mark-before-stamp fails.
	 */
	mark(xid, collection);
	docsync_moved_check(collection);

	return docsync_clock_tick(count, fence);
}

/*
 * Takes the mark of a collection, unless it is held; or the mark of all
 * collections, if MARKS_MAX others are held.
 *
 * Before the first of its marks a transaction takes one more lock, which says
 * that it has marks: for those who ask about all collections together.  It is
 * held as long as any of the others, since no other is older.
 */
static void
mark(TransactionId xid, const text *collection)
{
	uint32		hash = docsync_text_hash(collection);
	LOCKTAG		tag;

	if (marks == 0)
	{
		mark_tag(&tag, xid, 0, DOCSYNC_LOCK_ANY);
		take(&tag);
	}

	mark_tag(&tag, xid, hash, DOCSYNC_LOCK_COLLECTION);
	if (marks > MARKS_MAX && !LockHeldByMe(&tag, ExclusiveLock, false))
		mark_tag(&tag, xid, 0, DOCSYNC_LOCK_ALL);

	take(&tag);
	docsync_changes_note(collection, DT_NOBEGIN);
}

/*
 * Takes a lock until the end of the transaction, unless it is held.
 */
static void
take(const LOCKTAG *tag)
{
	ResourceOwner owner = CurrentResourceOwner;

	/*
	 * The (sub)transaction must own the lock, as it owns its id, not the
	 * portal that we may run in: when a cursor fails in a subtransaction, its
	 * locks are released, but what earlier FETCHes wrote stays.  Spec
	 * cursor-fails.
	 */
	CurrentResourceOwner = CurTransactionResourceOwner;
	if (LockAcquire(tag, ExclusiveLock, false, false) == LOCKACQUIRE_OK)
	{
		Assert(marks < (int) lengthof(marked_in));
		marked_in[marks++] = GetCurrentSubTransactionId();
	}
	CurrentResourceOwner = owner;
}

/*
 * Sets the tag of the lock that is a mark.  class is DOCSYNC_LOCK_COLLECTION,
 * or DOCSYNC_LOCK_ALL or DOCSYNC_LOCK_ANY with 0 for the hash.
 */
static void
mark_tag(LOCKTAG *tag, TransactionId xid, uint32 collection_hash,
		 uint16 class)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, xid, collection_hash, class);
}

/*
 * Does another transaction, perhaps a prepared one, hold the lock?
 *
 * GetLockConflicts() may leave out holders that have just ended.  That does no
 * harm: the caller's next look, at the running set, finds that they have
 * ended.
 */
static bool
is_held(const LOCKTAG *tag)
{
	int			count;
	VirtualTransactionId *holders;

	holders = GetLockConflicts(tag, AccessExclusiveLock, &count);
	pfree(holders);

	return count > 0;
}

/*
 * XactCallback: forgets the reservation, and the marks, which have been
 * released.
 */
static void
at_xact(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			docsync_stamp_forget();
			marks = 0;
			has_withdrawn = false;
			break;
		default:
			break;
	}
}

/*
 * SubXactCallback: the same when a subtransaction is rolled back, for the
 * marks that were taken in it.
 */
static void
at_subxact(SubXactEvent event, SubTransactionId my_subid,
		   SubTransactionId parent_subid, void *arg)
{
	/*
	 * The mark may have been taken in the subtransaction, and been released.
	 */
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		docsync_stamp_forget();
		has_withdrawn = false;
		while (marks > 0 && marked_in[marks - 1] >= my_subid)
			marks--;
	}
}
