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
 * 4. in the same breath it reads the fence, the next transaction id.
 *
 * A reader that finds a running transaction without the mark thus knows that
 * its stamps, if it ever gets any, will be later than all that the reader
 * can see.
 *
 * A reservation is a range of stamps with one fence.  There is at most one at
 * a time, for one collection; what is left of it is forgotten when another is
 * made, when the upload it was made for is over, and when a subtransaction or
 * the transaction ends: the mark may have gone with it, and without the mark
 * its stamps must not be used.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "docsync.h"

/*
 * A transaction that holds so many marks and writes to one more collection
 * marks all collections at once, lest it exhaust the lock table.
 */
#define MARKS_MAX			64

typedef struct Reservation
{
	int			count;			/* stamps left; the rest is void if 0 */
	TimestampTz next;
	FullTransactionId fence;
	int			collection_len; /* bytes */
	char		collection[DOCSYNC_COLLECTION_LEN];
} Reservation;

static Reservation reservation;

/* Documents the caller is about to write to one collection; 0: not known */
static int	expected = 0;

/*
 * Marks that are held, and for each the subtransaction in which it was taken.
 * Later ones have higher ids, and so have those of a subtransaction's own
 * subtransactions: when it rolls back, what goes is at the end.
 */
static int	marks = 0;
static SubTransactionId marked_in[MARKS_MAX + 1];	/* and that of all */

static TimestampTz issue(const text *collection, int count,
						 FullTransactionId *fence);
static void mark(TransactionId xid, uint32 collection_hash);
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
 * Says how many stamps the next reservation shall have.  Nothing is reserved
 * before the first document is written, so that an upload that is refused
 * for want of a privilege leaves no trace.  (One that a policy refuses does:
 * the server asks policies after the trigger.)
 */
void
docsync_stamp_expect(int count)
{
	docsync_stamp_forget();
	expected = count;
}

/*
 * Gives a stamp and its fence for a document about to be written, whoever's it
 * is.
 *
 * Locks: the mark, until the end of the transaction.
 */
void
docsync_stamp_take(const text *collection, TimestampTz *stamp,
				   FullTransactionId *fence)
{
	*stamp = issue(collection, 1, fence);
}

/*
 * The same for one of those that docsync_stamp_expect() was told of.
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
}

/*
 * Is there a stamp left for a document of the collection?
 */
bool
docsync_stamp_is_reserved(const text *collection)
{
	int			len = VARSIZE_ANY_EXHDR(collection);

	return reservation.count > 0 && reservation.collection_len == len &&
		memcmp(reservation.collection, VARDATA_ANY(collection), len) == 0;
}

/*
 * Takes the mark of a collection for a document that brings its own stamp.
 */
void
docsync_stamp_mark(const text *collection)
{
	mark(GetTopTransactionId(), docsync_stamp_hash(collection));
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
 * Two collections may have the same hash: readers of the one then wait for
 * writers of the other too.
 */
uint32
docsync_stamp_hash(const text *collection)
{
	return hash_bytes((const unsigned char *) VARDATA_ANY(collection),
					  VARSIZE_ANY_EXHDR(collection));
}

/*
 * Does another transaction, given by its top-level id, bear the mark of a
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
 * Issues count consecutive stamps of a collection, and returns the first.
 */
static TimestampTz
issue(const text *collection, int count, FullTransactionId *fence)
{
	TransactionId xid = GetTopTransactionId();

	docsync_text_check_name(collection, "collection",
							DOCSYNC_COLLECTION_LEN);

	/*
	 * What was stamped before by others is in the clock.  After the mark
	 * nobody who looks can take us for a transaction that has no stamps here,
	 * so it comes before the stamps.  It goes with our transaction: locks are
	 * released after the transaction has left the running set.  Without it:
	 * spec mark-before-stamp.
	 */
	mark(xid, docsync_stamp_hash(collection));
	docsync_moved_check(collection);

	return docsync_clock_tick(count, fence);
}

/*
 * Takes the mark of a collection if it isn't held; or that of all, if so many
 * others are.
 */
static void
mark(TransactionId xid, uint32 collection_hash)
{
	ResourceOwner owner = CurrentResourceOwner;
	LOCKTAG		tag;

	mark_tag(&tag, xid, collection_hash, DOCSYNC_LOCK_COLLECTION);
	if (marks >= MARKS_MAX && !LockHeldByMe(&tag, ExclusiveLock, false))
		mark_tag(&tag, xid, 0, DOCSYNC_LOCK_ALL);

	/*
	 * For the (sub)transaction, as its id is, not for the portal that we may
	 * be run by: a cursor that fails in a subtransaction takes its locks with
	 * it, and what earlier FETCHes have written stays.  Spec cursor-fails.
	 */
	CurrentResourceOwner = CurTransactionResourceOwner;
	if (LockAcquire(&tag, ExclusiveLock, false, false) == LOCKACQUIRE_OK)
	{
		Assert(marks < (int) lengthof(marked_in));
		marked_in[marks++] = GetCurrentSubTransactionId();
	}
	CurrentResourceOwner = owner;
}

/*
 * The lock that is a mark.  class is DOCSYNC_LOCK_COLLECTION or
 * DOCSYNC_LOCK_ALL, which has 0 for the hash.
 */
static void
mark_tag(LOCKTAG *tag, TransactionId xid, uint32 collection_hash,
		 uint16 class)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, xid, collection_hash, class);
}

/*
 * Does another transaction, prepared ones included, hold the lock?
 *
 * GetLockConflicts() leaves out holders that have just ended.  That is what
 * we need: whoever has left the running set is found to have ended by the
 * look that comes after this one.
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
	/* The mark may have been taken in the subtransaction, and be gone. */
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		docsync_stamp_forget();
		while (marks > 0 && marked_in[marks - 1] >= my_subid)
			marks--;
	}
}
