/*-------------------------------------------------------------------------
 *
 * clock.c
 *	  The clock: the last stamp issued, which never goes back.
 *
 * It is the sequence docsync.clock, so it is on disk, in WAL, on standbys and
 * in dumps, and a person can read it: microseconds since 1970-01-01 UTC.  It
 * is advanced on the sequence's own page, as nextval() does it (see
 * sequence.c): a heavyweight lock and setval() would halve the throughput of
 * small uploads.
 *
 * Invariants:
 * 1. A value is issued once, and after every lower one.  Held by the content
 *	  lock of the page, the clock's latch.
 * 2. After a crash the clock isn't behind any stamp of a committed document.
 *	  The value in WAL is ahead of the one in the page, by log_cnt.  No value
 *	  beyond it is issued before a record with a higher one has been inserted,
 *	  and the commit record comes after that record.
 * 3. The first change after a checkpoint is logged, even if an earlier record
 *	  covers it: replay starts at the checkpoint and wouldn't see that record,
 *	  and only a record repairs a torn page.
 * 4. In WAL is_called is false.  So a page that comes from recovery can be
 *	  recognized, until epoch.c has noted the start and sets is_called in the
 *	  page, which isn't logged.
 * 5. In WAL log_cnt is zero, or negative: then last_value + log_cnt is the
 *	  watermark.  Each transaction that commits a stamp up to there, in any
 *	  collection, has its commit record before the record with the watermark.
 *	  In the primary's own page log_cnt isn't negative once the clock has moved.
 *
 * Invariant 5 holds because the announcer (announce.c) logs a watermark after
 * all such transactions have ended (docsync_settle_find_frontier()).  A
 * transaction that brings an older stamp along takes the watermark back in WAL
 * after it has its mark, and the announcer logs none if the clock has been
 * logged since before it looked for marks.
 *
 * Nobody needs a privilege on the sequence, and only this file advances it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/lmgr.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "docsync.h"

/*
 * How far ahead of the clock WAL is written, in microseconds: one record a
 * second at the most, and after a crash the clock is up to this much ahead.
 */
#define CLOCK_LOG_AHEAD		USECS_PER_SEC

/*
 * The clock ends before PostgreSQL's timestamps do, early enough that neither
 * what is logged ahead nor the conversion between 1970 and 2000 overflows.
 */
#define CLOCK_END \
	(END_TIMESTAMP - DOCSYNC_UNIX_OFFSET - CLOCK_LOG_AHEAD)

typedef struct ClockPage
{
	Relation	rel;
	Buffer		buffer;
	HeapTupleData tuple;
	Form_pg_sequence_data data;
} ClockPage;

static void clock_open(ClockPage *clock, int latchmode);
static void clock_move(ClockPage *clock, int64 value);
static XLogRecPtr clock_log_again(ClockPage *clock, int64 watermark,
								  uint8 flags);
static int64 clock_logged(const ClockPage *clock);
static void clock_log(ClockPage *clock, int64 logged, int64 watermark,
					  uint8 flags);
static void clock_close(ClockPage *clock);

/*
 * Issues count consecutive stamps and returns the first: the transaction's
 * time or, if the clock is past that, the value after the clock.  Sets fence
 * to the next transaction id.
 *
 * The caller has a transaction id and its mark.  The fence is read while the
 * latch is held.  A transaction that gets its id later than this can tick only
 * after us, so its stamps are higher; one that may have ticked before us has
 * an id below the fence.  The latch is released on return, which is enough:
 * nothing else needs to happen together with these two.
 */
TimestampTz
docsync_clock_tick(int count, FullTransactionId *fence)
{
	ClockPage	clock;
	int64		first;

	Assert(count > 0);

	clock_open(&clock, BUFFER_LOCK_EXCLUSIVE);

	first = Max(GetCurrentTransactionStartTimestamp() + DOCSYNC_UNIX_OFFSET,
				Min(clock.data->last_value, CLOCK_END) + 1);
	clock_move(&clock, first + count - 1);
	*fence = ReadNextFullTransactionId();

	clock_close(&clock);

	return first - DOCSYNC_UNIX_OFFSET;
}

/*
 * Advances the clock to a stamp, unless it is there already.
 */
void
docsync_clock_advance(TimestampTz stamp)
{
	ClockPage	clock;

	clock_open(&clock, BUFFER_LOCK_EXCLUSIVE);

	stamp = Min(stamp, CLOCK_END - 1) + DOCSYNC_UNIX_OFFSET;
	if (clock.data->last_value < stamp)
		clock_move(&clock, stamp);

	clock_close(&clock);
}

/*
 * The last stamp issued; on a standby, a value that may be up to a second
 * ahead of it.
 */
TimestampTz
docsync_clock_read(void)
{
	FullTransactionId next;

	return docsync_clock_read_fence(&next);
}

/*
 * The same, and the next transaction id, read under the same latch: a fence
 * for all stamps issued so far, as docsync_clock_tick() gives one for those it
 * issues.
 */
TimestampTz
docsync_clock_read_fence(FullTransactionId *fence)
{
	XLogRecPtr	logged_at;

	return docsync_clock_read_frontier(fence, &logged_at);
}

/*
 * The same, and where in WAL the clock was logged last.
 */
TimestampTz
docsync_clock_read_frontier(FullTransactionId *fence, XLogRecPtr *logged_at)
{
	ClockPage	clock;
	int64		value;

	clock_open(&clock, BUFFER_LOCK_SHARE);
	value = Min(clock.data->last_value, CLOCK_END);
	*fence = ReadNextFullTransactionId();
	*logged_at = PageGetLSN(BufferGetPage(clock.buffer));
	clock_close(&clock);

	return value - DOCSYNC_UNIX_OFFSET;
}

/*
 * Does the page come from recovery, and has nobody noted that start yet?
 */
bool
docsync_clock_is_recovered(void)
{
	ClockPage	clock;
	bool		recovered;

	clock_open(&clock, BUFFER_LOCK_SHARE);
	recovered = !clock.data->is_called;
	clock_close(&clock);

	return recovered;
}

/*
 * Records in the page that the start has been noted.  This is a hint.  It
 * isn't logged, unless the server logs images of pages that only hints have
 * changed.  Such an image covers nothing: the next stamp is logged, whether or
 * not an earlier record covers it, and that record takes the hint back
 * (invariant 4).  So the next crash shows, too.
 */
void
docsync_clock_set_noted(void)
{
	ClockPage	clock;

	clock_open(&clock, BUFFER_LOCK_EXCLUSIVE);
	clock.data->is_called = true;
	clock.data->log_cnt = 0;
	MarkBufferDirtyHint(clock.buffer, true);
	clock_close(&clock);
}

/*
 * Forgets how far WAL is ahead of the clock, so that the next stamp is logged.
 * This is for a page that CREATE DATABASE may have copied from another
 * database: what was logged ahead was logged for that one (invariant 2).
 */
void
docsync_clock_forget_logged(void)
{
	ClockPage	clock;

	clock_open(&clock, BUFFER_LOCK_EXCLUSIVE);
	clock.data->log_cnt = 0;
	MarkBufferDirtyHint(clock.buffer, true);
	clock_close(&clock);
}

/*
 * Logs a watermark, which the caller has read with logged_at by
 * docsync_clock_read_frontier(), and then found settled.  Returns where; or
 * InvalidXLogRecPtr if somebody has logged the clock since: then the caller
 * has to look once more, since that may have been one who took the watermark
 * back.
 *
 * is_new: false for one that has been logged before.  It is logged again after
 * each checkpoint, and must not be what makes the server do the next one: a
 * server that is idle does none.
 */
XLogRecPtr
docsync_clock_log_watermark(TimestampTz watermark, XLogRecPtr logged_at,
							bool is_new)
{
	ClockPage	clock;

	clock_open(&clock, BUFFER_LOCK_EXCLUSIVE);
	if (PageGetLSN(BufferGetPage(clock.buffer)) == logged_at)
		logged_at = clock_log_again(&clock, watermark + DOCSYNC_UNIX_OFFSET,
									is_new ? 0 : XLOG_MARK_UNIMPORTANT);
	else
		logged_at = InvalidXLogRecPtr;
	clock_close(&clock);

	return logged_at;
}

/*
 * Takes the watermark back, for a transaction that has its mark and brings an
 * older stamp along.  Until it has ended nobody logs another.
 */
void
docsync_clock_withdraw_watermark(void)
{
	ClockPage	clock;

	if (!XLogStandbyInfoActive())
		return;

	clock_open(&clock, BUFFER_LOCK_EXCLUSIVE);
	clock_log_again(&clock, PG_INT64_MAX, 0);
	clock_close(&clock);
}

/*
 * Has the watermark that was logged there become out of date?  That is so if
 * something has been stamped since, if the clock has been logged since, and
 * after a checkpoint: a standby that is made from a backup since then hasn't
 * seen it.
 */
bool
docsync_clock_needs_watermark(TimestampTz watermark, XLogRecPtr logged_at)
{
	ClockPage	clock;
	bool		needs;

	if (!XLogStandbyInfoActive())
		return false;

	clock_open(&clock, BUFFER_LOCK_SHARE);
	needs = clock.data->last_value != watermark + DOCSYNC_UNIX_OFFSET ||
		PageGetLSN(BufferGetPage(clock.buffer)) != logged_at ||
		logged_at <= GetRedoRecPtr();
	clock_close(&clock);

	return needs;
}

/*
 * The watermark: on a standby, for snapshots that are taken later.  DT_NOBEGIN
 * if there is none.
 */
TimestampTz
docsync_clock_read_watermark(void)
{
	ClockPage	clock;
	TimestampTz watermark = DT_NOBEGIN;

	clock_open(&clock, BUFFER_LOCK_SHARE);
	if (clock.data->log_cnt < 0)
		watermark = clock.data->last_value + clock.data->log_cnt -
			DOCSYNC_UNIX_OFFSET;
	clock_close(&clock);

	return watermark;
}

/*
 * Opens the clock and takes its latch.
 *
 * The lock on the relation, which nextval() takes as well, is held until the
 * end of the transaction.  It keeps ALTER SEQUENCE away, which would give the
 * clock another file.  If we have waited for it, we look again which relation
 * the clock is.
 */
static void
clock_open(ClockPage *clock, int latchmode)
{
	const Store *store;
	Page		page;
	ItemId		item;

	do
	{
		store = docsync_schema_open(STORE_READ);
		LockRelationOid(store->relations[STORE_CLOCK], RowExclusiveLock);
	} while (!docsync_schema_is_checked());

	clock->rel = relation_open(store->relations[STORE_CLOCK], NoLock);
	clock->buffer = ReadBuffer(clock->rel, 0);
	LockBuffer(clock->buffer, latchmode);

	page = BufferGetPage(clock->buffer);
	if (*(uint32 *) PageGetSpecialPointer(page) != SEQ_MAGIC)
		elog(ERROR, "bad magic number in sequence \"docsync.clock\": %08X",
			 *(uint32 *) PageGetSpecialPointer(page));

	item = PageGetItemId(page, FirstOffsetNumber);
	clock->tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
	clock->tuple.t_len = ItemIdGetLength(item);
	clock->data = (Form_pg_sequence_data) GETSTRUCT(&clock->tuple);
}

/*
 * Releases the latch.  The lock on the relation stays until the end of the
 * transaction.
 */
static void
clock_close(ClockPage *clock)
{
	UnlockReleaseBuffer(clock->buffer);
	relation_close(clock->rel, NoLock);
}

/*
 * Sets the clock to a value, in microseconds since 1970.
 */
static void
clock_move(ClockPage *clock, int64 value)
{
	Page		page = BufferGetPage(clock->buffer);
	bool		is_called = clock->data->is_called;
	int64		logged;
	bool		needs_wal;
	bool		log_it;

	if (value >= CLOCK_END)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("docsync's clock has reached the end of time")));

	logged = clock_logged(clock);

	/*
	 * This comes before we look at where the last checkpoint begins.  A
	 * checkpoint that begins after that look finds the page dirty and has to
	 * wait for our lock, so it writes what we do here; if one began before,
	 * we see it and log. nextval() does it the other way round, which leaves
	 * a gap.
	 */
	MarkBufferDirty(clock->buffer);

	/* Invariants 2 and 3 */
	needs_wal = RelationNeedsWAL(clock->rel);
	log_it = needs_wal &&
		(value > logged || PageGetLSN(page) <= GetRedoRecPtr());
	if (log_it)
		logged = value + CLOCK_LOG_AHEAD;
	else if (!needs_wal)
		logged = value;			/* created in this transaction, at wal_level
								 * minimal */

	START_CRIT_SECTION();

	if (log_it)
		clock_log(clock, logged, logged, 0);
	clock->data->last_value = value;
	clock->data->log_cnt = logged - value;
	clock->data->is_called = is_called;

	END_CRIT_SECTION();
}

/*
 * Logs the clock, which stays as it is, with a watermark, in a record with
 * flags; returns where.
 */
static XLogRecPtr
clock_log_again(ClockPage *clock, int64 watermark, uint8 flags)
{
	int64		value = clock->data->last_value;
	bool		is_called = clock->data->is_called;
	int64		logged = Max(clock_logged(clock),
							 Min(value, CLOCK_END) + CLOCK_LOG_AHEAD);

	if (RelationNeedsWAL(clock->rel))
	{
		MarkBufferDirty(clock->buffer);

		START_CRIT_SECTION();
		clock_log(clock, logged, Min(watermark, logged), flags);
		clock->data->last_value = value;
		clock->data->log_cnt = logged - value;
		clock->data->is_called = is_called;
		END_CRIT_SECTION();
	}

	return PageGetLSN(BufferGetPage(clock->buffer));
}

/*
 * How far WAL covers the clock, in microseconds since 1970.
 */
static int64
clock_logged(const ClockPage *clock)
{
	/* Somebody's setval() may have gone beyond the end. */
	return Min(clock->data->last_value, CLOCK_END) +
		Max(clock->data->log_cnt, 0);
}

/*
 * Logs the clock: what replay will find.  watermark: the same as logged for
 * none; flags: those of the record, XLOG_MARK_UNIMPORTANT or 0.  In a critical
 * section; the caller has marked the buffer dirty, and puts into the page what
 * it is to have here.
 */
static void
clock_log(ClockPage *clock, int64 logged, int64 watermark, uint8 flags)
{
	Page		page = BufferGetPage(clock->buffer);
	xl_seq_rec	record;
	XLogRecPtr	end;

	/* Invariants 4 and 5 */
	clock->data->last_value = logged;
	clock->data->log_cnt = watermark - logged;
	clock->data->is_called = false;

	record.locator = clock->rel->rd_locator;

	XLogBeginInsert();
	XLogSetRecordFlags(flags);
	XLogRegisterBuffer(0, clock->buffer, REGBUF_WILL_INIT);
	XLogRegisterData((char *) &record, sizeof(record));
	XLogRegisterData((char *) clock->tuple.t_data, clock->tuple.t_len);
	end = XLogInsert(RM_SEQ_ID, XLOG_SEQ_LOG);

	PageSetLSN(page, end);
}
