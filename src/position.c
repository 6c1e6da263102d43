/*-------------------------------------------------------------------------
 *
 * position.c
 *	  From where a download goes on, and whether its client can.
 *
 * A client goes on from a position: a cursor, or a bare stamp.  What it has
 * may be out of reach from there, for two reasons: tombstones that it hasn't
 * seen have been purged, or the position was given out by another history of
 * the store, which a failover or a restore has cut off.  The remedy is the
 * same: it compares what it has with the store.  Who can do that (reconcile)
 * is told, once, and goes on; who can't is refused, and begins from nothing.
 *
 * A client is told if and only if the horizon is above both the stamp of its
 * position and what that has seen.  (Who sees no document of a collection is
 * told nothing of it, not even that it is there.)  Seen is the horizon that a
 * first page, or a page that tells, was read under.  So who has been told
 * isn't told again, and who begins isn't stopped at its second page.
 * (doc/stamps.md, "Purge")
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "utils/timestamp.h"

#include "docsync.h"

static void judge_cursor(Download *download);
static bool is_of_other_history(Download *download);
static void warn_of_cursor(void);
static bool is_above_clock(TimestampTz stamp);
static bool is_behind(const Download *download);
static void find_base(Download *download);
static bool on_base(const StoredDocument *stored, void *arg);
static void begin_from_nothing(Download *download);
static void judge_stamp(Download *download);
static TimestampTz horizon_of(Download *download);
static TimestampTz known_horizon(Download *download);
static const Refusal *describe(ResyncReason reason);

/*
 * Finds out from where a download goes on under its snapshot, which has been
 * taken, and whether its client can.
 */
void
docsync_position_judge(Download *download)
{
	if (docsync_moved_is_closed(download->moved))
	{
		docsync_schema_check_caller(ACL_SELECT);
		download->refused = RESYNC_CLOSED;
	}
	else if (download->by_cursor)
		judge_cursor(download);
	else
		judge_stamp(download);
}

/*
 * The same for a download by cursor.  A client that can't go on is not refused
 * here: the download gets "refused".
 */
static void
judge_cursor(Download *download)
{
	const Position *position = &download->position;
	TimestampTz seen = position->seen;

	/*
	 * A cursor that has passed no document is judged all the same: its client
	 * may have uploaded some.  Only who can't compare isn't refused for one
	 * of a store that nothing had been written to.
	 */
	if (!position->is_given ||
		(position->epoch == 0 && !download->reconcile))
	{
		begin_from_nothing(download);
		return;
	}

	if (is_behind(download))
	{
		docsync_schema_check_caller(ACL_SELECT);
		download->is_behind = true;
		return;
	}

	/*
	 * The transaction's snapshot may be older than those that the cursor was
	 * given out under: then it may show, as alive, what has been "seen" to
	 * go.
	 */
	if (IsolationUsesXactSnapshot())
		seen = Min(seen, known_horizon(download));
	download->next.seen = seen;

	if (is_of_other_history(download))
	{
		if (!download->reconcile)
		{
			download->refused = RESYNC_LOST;
			return;
		}
		download->must_reconcile = true;
	}
	else if (docsync_position_horizon(download)->all > Max(position->stamp, seen) &&
			 docsync_store_sees_any(download->collection))
	{
		if (!download->reconcile)
		{
			download->refused = RESYNC_PURGED;
			return;
		}
		download->must_reconcile = true;
		download->lost_after = DT_NOEND;
	}
	else
		return;

	/* Told: the comparison that follows shows what was purged until now. */
	download->next.seen = known_horizon(download);
}

/*
 * A position of the present epoch may be another history's all the same: if it
 * is above the clock, or in a gap, such as a start after a crash leaves
 * between what has survived and what comes then.
 */
static bool
is_of_other_history(Download *download)
{
	const Position *position = &download->position;
	const HistoryEntry *gap = docsync_history_find_gap(download->history,
													   position->stamp);

	if (position->epoch != docsync_history_epoch(download->history) &&
		!docsync_history_goes_on(download->history, position->epoch))
	{
		download->lost_after = docsync_history_lost_after(download->history,
														  position->epoch);
		find_base(download);
		return true;
	}
	if (gap != NULL)
	{
		/* Some may have been stamped while the row was on its way. */
		find_base(download);
		download->lost_after = gap->lost_after;
		return download->since != position->stamp;
	}
	if (!RecoveryInProgress() && is_above_clock(position->stamp))
	{
		warn_of_cursor();
		download->lost_after = DT_NOBEGIN;
		find_base(download);
		return true;
	}
	return false;
}

/*
 * Once a session: any client can make up such a cursor.
 */
static void
warn_of_cursor(void)
{
	static bool has_warned = false;

	if (!has_warned)
		ereport(WARNING,
				(errmsg("a cursor is ahead of docsync's clock, and of the present epoch"),
				 errhint("The store may have been replaced by an earlier state; docsync_new_epoch() tells all clients.")));
	has_warned = true;
}

/*
 * Is a stamp above the last one issued?  The clock doesn't go back as long as
 * the store is the same, so it isn't asked about what it has passed.
 */
static bool
is_above_clock(TimestampTz stamp)
{
	static uint64 version = 0;
	static TimestampTz clock;
	const Store *store = docsync_schema_open(STORE_READ);

	if (version != store->version || stamp > clock)
	{
		clock = docsync_clock_read();
		version = store->version;
	}
	return stamp > clock;
}

/*
 * Is there more than this server knows?  A standby may not have replayed what
 * the client has been given elsewhere.  A primary may be one that was promoted
 * a moment ago, and nobody has begun its epoch yet.
 */
static bool
is_behind(const Download *download)
{
	const Position *position = &download->position;

	if (!RecoveryInProgress())
		return position->epoch == docsync_history_epoch(download->history) &&
			is_above_clock(position->stamp) &&
			!docsync_history_is_here(docsync_history_newest(download->history));

	if (position->epoch == docsync_history_epoch(download->history))
		return position->lsn > download->lsn;
	return !docsync_history_knows(download->history, position->epoch);
}

/*
 * Goes on from the highest document at or below the position's stamp that is
 * settled, or from the beginning: in this history only that is a position.
 * The stamp itself may be one that somebody here is about to write below.
 */
static void
find_base(Download *download)
{
	download->since = DT_NOBEGIN;
	docsync_store_scan_back(download->collection, download->position.stamp,
							on_base, download);
}

/* StoredCallback: goes on from the first document that is settled. */
static bool
on_base(const StoredDocument *stored, void *arg)
{
	Download   *download = (Download *) arg;

	if (!docsync_settle_test(&download->settle, stored->last_update_utc,
							 stored->fence))
		return true;

	download->since = stored->last_update_utc;
	return false;
}

/*
 * Who begins has nothing that could have been deleted: it needs no tombstone
 * that was there before its first page.  What can't be seen yet gets a stamp
 * above the clock, if the fence that was read with the clock is settled; and if
 * it is stamped here: if the collection was closed when the clock was read, it
 * may go on elsewhere from an earlier stamp.
 */
static void
begin_from_nothing(Download *download)
{
	download->next.seen = known_horizon(download);
	if (!RecoveryInProgress())
	{
		SettleScan	settle = download->settle;
		TimestampTz clock = docsync_clock_read_fence(&settle.next);

		/* Who has got his id since the snapshot may have stamped, too. */
		if (docsync_settle_test(&settle, clock, settle.next) &&
			!docsync_moved_may_be_closed(download->collection))
			download->next.seen = Max(download->next.seen, clock);
	}
}

/*
 * A bare stamp later than the clock was never issued here.  To answer "nothing
 * new" would be to lose what is issued from now on under lower stamps.
 *
 * A standby can't tell: it may just be behind.  There the client finds
 * nothing, keeps its stamp, and asks again.
 */
static void
judge_stamp(Download *download)
{
	TimestampTz since = download->since;

	download->passed = 0;
	download->last_given = DT_NOBEGIN;
	download->is_beginning = docsync_history_is_beginning(download->history,
														  since);
	download->gap = download->is_beginning ? NULL :
		docsync_history_find_gap(download->history, since);

	if (!RecoveryInProgress() && !download->is_beginning &&
		is_above_clock(since))
		docsync_position_refuse(RESYNC_LOST);
}

/*
 * The first document at or after a bare stamp that lies in a gap: if it bears
 * that very stamp, this was issued here.
 */
void
docsync_position_judge_first(Download *download, const StoredDocument *stored)
{
	if (download->gap != NULL && stored->last_update_utc != download->since)
		docsync_position_refuse(RESYNC_LOST);
}

/*
 * A later document is about to be given to who goes on from a bare stamp: then
 * he mustn't have missed anything before.  Not earlier: who starts again and
 * finds nothing later would be told the same at each poll.
 */
void
docsync_position_judge_next(Download *download)
{
	if (!download->is_beginning && horizon_of(download) > download->since)
		docsync_position_refuse(RESYNC_PURGED);
}

/*
 * There is more than a page by bare stamps holds: the next one would be
 * refused, for ever, if tombstones of a first download are gone.
 */
void
docsync_position_judge_more(Download *download)
{
	if (download->is_beginning && horizon_of(download) > download->last_given)
		docsync_position_refuse(RESYNC_USE_CURSOR);
}

/*
 * Up to which stamp tombstones are gone that a client who goes on from a bare
 * stamp would have been given.  By cursor it is that of all: a cursor passes
 * the client's own, too.
 */
static TimestampTz
horizon_of(Download *download)
{
	const Horizon *horizon = docsync_position_horizon(download);

	return download->origin == ORIGIN_OTHER ? horizon->others : horizon->all;
}

/*
 * The horizon, as far as it may get into a cursor, which its holder can read:
 * of a collection in which he sees no document he isn't told that there is
 * one.
 */
static TimestampTz
known_horizon(Download *download)
{
	TimestampTz horizon = docsync_position_horizon(download)->all;

	return !TIMESTAMP_IS_NOBEGIN(horizon) &&
		docsync_store_sees_any(download->collection) ? horizon : DT_NOBEGIN;
}

/*
 * The horizon of the collection under the download's snapshot.  It is looked
 * up when it is first asked for: of those who go on from a bare stamp it
 * matters only to who is given something later, and most polls find nothing.
 */
const Horizon *
docsync_position_horizon(Download *download)
{
	if (!download->has_horizon)
	{
		download->horizon = docsync_purge_find_horizon(download->settle.snapshot,
													   download->collection,
													   download->origin == ORIGIN_OTHER ?
													   download->client_id : NULL);
		download->has_horizon = true;
	}
	return &download->horizon;
}

/*
 * What is to be said to the client of a download that is refused.
 */
const Refusal *
docsync_position_describe(const Download *download)
{
	return download->refused == RESYNC_CLOSED ?
		docsync_moved_describe(download->moved) :
		describe(download->refused);
}

/*
 * What is to be said to a client that can't go on from where it is.  The
 * message becomes the status line over HTTP: it must not have anything of the
 * request in it; nor must any of it tell of stamps or collections, since who
 * asks may see none.
 */
static const Refusal *
describe(ResyncReason reason)
{
	static const Refusal refusals[] = {
		[RESYNC_PURGED] = {
			.code = "resync_purged",
			.message = "resync required",
			.detail = "{\"reason\": \"purged\", \"text\": \"Tombstones that this client has not seen have been removed.\"}",
			.hint = "Compare what you have with the store (reconcile=true), or start again from the beginning, without a cursor."
		},
		[RESYNC_LOST] = {
			.code = "resync_lost",
			.message = "resync required",
			.detail = "{\"reason\": \"lost\", \"text\": \"The position was given out by another history of this store: it has been restored, or has failed over, since.\"}",
			.hint = "Compare what you have with the store (reconcile=true), or start again from the beginning, without a cursor, and send all you have again."
		},
		[RESYNC_USE_CURSOR] = {
			.code = "use_cursor",
			.message = "use a cursor",
			.detail = "{\"reason\": \"pages\", \"text\": \"Tombstones have been removed from this collection: its documents can't be fetched in pages by stamps alone.\"}",
			.hint = "Use a cursor (docsync_pull), or fetch all at once, without a maximum, if it fits into one answer."
		}
	};

	return &refusals[reason];
}

/*
 * Refuses such a client.
 */
void
docsync_position_refuse(ResyncReason reason)
{
	docsync_refuse_request(reason == RESYNC_USE_CURSOR ? 409 : 410,
						   describe(reason));
}
