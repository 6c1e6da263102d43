/*-------------------------------------------------------------------------
 *
 * position.c
 *	  Where a download resumes, and whether its client can.
 *
 * A client resumes from a position: a cursor, or a bare stamp.  From there it
 * may not be able to catch up, for two reasons: tombstones that it hasn't seen
 * have been purged, or the position was given out by another history of the
 * store, which a failover or a restore has cut off.  The remedy is the same:
 * it compares what it has with the store.  A client that can do so (reconcile)
 * is told, once, and carries on; one that can't is refused, and starts from
 * scratch.
 *
 * A client is told about purged tombstones if and only if the horizon is above
 * both the stamp of its position and its "seen".  (A client that sees no
 * document of a collection isn't told anything about it, not even that it
 * exists.)  "Seen" is the horizon at the time of a first page, or of a page
 * that told.  So a client that has been told isn't told again, and a new
 * client isn't stopped at its second page. (doc/stamps.md, "Purge")
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

/*
 * Finds out where a download resumes under its snapshot, which has been taken,
 * and whether its client can.
 */
void
docsync_position_judge(Download *download)
{
	if (download->by_cursor)
		judge_cursor(download);
	else
		judge_stamp(download);
}

/*
 * The same for a download by cursor.  A client that can't resume isn't refused
 * here: the download's "refused" is set.
 */
static void
judge_cursor(Download *download)
{
	const Position *position = &download->position;
	TimestampTz seen = position->seen;

	/*
	 * A cursor that has passed no document is judged as well, since its
	 * client may have uploaded some.  The one exception: a client that can't
	 * compare isn't refused for a cursor from a store that nothing had been
	 * written to.
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
	 * given out under.  Then it may still show documents whose purge has been
	 * "seen".
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

	/*
	 * The client is told: the comparison that follows covers everything
	 * purged until now.
	 */
	download->next.seen = known_horizon(download);
}

/*
 * Does the position belong to another history?  Even one of the present epoch
 * does if it is above the clock, or in a gap, such as a start after a crash
 * leaves between what survived and what comes next.
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
		/*
		 * Some documents may have been stamped here, while the row wasn't
		 * committed yet.
		 */
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
 * Warns of a cursor above the clock, once in a session: any client can make
 * one up.
 */
static void
warn_of_cursor(void)
{
	static bool has_warned = false;

	if (!has_warned)
		ereport(WARNING,
				(errmsg("a cursor of the present epoch is ahead of docsync's clock"),
				 errhint("The store may have been replaced by an earlier state; docsync_new_epoch() tells all clients.")));
	has_warned = true;
}

/*
 * Is a stamp above the last one issued?  The clock never goes back while the
 * store is the same, so it is read only for stamps above its last known value.
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
 * Is this server behind the client?  A standby may not have replayed what the
 * client was given elsewhere.  A primary may have been promoted a moment ago,
 * and nobody has begun its epoch yet.
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
 * Resumes from the highest settled document at or below the position's stamp,
 * or from the beginning: only that is a position in this history.  The stamp
 * itself isn't: somebody here may be about to write below it.
 */
static void
find_base(Download *download)
{
	download->since = DT_NOBEGIN;
	docsync_store_scan_back(download->collection, download->position.stamp,
							on_base, download);
}

/* StoredCallback: resumes from the first document that is settled. */
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
 * A new client has nothing that could have been deleted, so it needs no
 * tombstone older than its first page.  What can't be seen yet gets a stamp
 * above the clock, if the fence that was read with the clock is settled.
 */
static void
begin_from_nothing(Download *download)
{
	download->next.seen = known_horizon(download);
	if (!RecoveryInProgress())
	{
		SettleScan	settle = download->settle;
		TimestampTz clock = docsync_clock_read_fence(&settle.next);

		/* Those that got an id since the snapshot may have stamps, too. */
		if (docsync_settle_test(&settle, clock, settle.next))
			download->next.seen = Max(download->next.seen, clock);
	}
}

/*
 * Judges a bare stamp.  One later than the clock was never issued here, and
 * with the answer "nothing new" the client would lose what is issued from now
 * on under lower stamps.
 *
 * A standby can't tell: it may just be behind.  There the client gets nothing,
 * keeps its stamp, and asks again.
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
 * Judges a bare stamp that lies in a gap by the first document at or after it:
 * if the document has that very stamp, the stamp was issued here.
 */
void
docsync_position_judge_first(Download *download, const StoredDocument *stored)
{
	if (download->gap != NULL && stored->last_update_utc != download->since)
		docsync_position_refuse(RESYNC_LOST);
}

/*
 * Called before a later document is given to a client that resumes from a bare
 * stamp: it must not have missed anything before.  This isn't checked earlier,
 * since a client that starts again and finds nothing later would be told the
 * same at each poll.
 */
void
docsync_position_judge_next(Download *download)
{
	if (!download->is_beginning && horizon_of(download) > download->since)
		docsync_position_refuse(RESYNC_PURGED);
}

/*
 * Called when there is more than fits into a page by bare stamps: the next
 * page would always be refused, if tombstones within a first download have
 * been purged.
 */
void
docsync_position_judge_more(Download *download)
{
	if (download->is_beginning && horizon_of(download) > download->last_given)
		docsync_position_refuse(RESYNC_USE_CURSOR);
}

/*
 * The highest stamp of a purged tombstone that a client resuming from a bare
 * stamp would have been given.  (By cursor all tombstones count: a cursor
 * passes the client's own, too.)
 */
static TimestampTz
horizon_of(Download *download)
{
	const Horizon *horizon = docsync_position_horizon(download);

	return download->origin == ORIGIN_OTHER ? horizon->others : horizon->all;
}

/*
 * The horizon, as far as it may be put into a cursor, which its holder can
 * read: a client that sees no document of a collection isn't told that there
 * is a horizon.
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
 * up when first needed: for bare stamps it matters only if there is something
 * later, and most polls find nothing.
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
 * The refusal for a client that can't resume from its position.  Over HTTP the
 * message becomes the status line, so it must not contain anything of the
 * request; and nothing in it may mention stamps or collections, since the
 * caller may not be allowed to see any.
 */
const Refusal *
docsync_position_describe(ResyncReason reason)
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
			.detail = "{\"reason\": \"lost\", \"text\": \"The position was given out by another history of this store: it has been restored, or has failed over, since then.\"}",
			.hint = "Compare what you have with the store (reconcile=true), or start again from the beginning, without a cursor, and send everything you have again."
		},
		[RESYNC_USE_CURSOR] = {
			.code = "use_cursor",
			.message = "use a cursor",
			.detail = "{\"reason\": \"pages\", \"text\": \"Tombstones have been removed from this collection: its documents can't be fetched in pages by stamps alone.\"}",
			.hint = "Use a cursor (docsync_pull), or fetch everything at once, without a maximum, if it fits into one answer."
		}
	};

	return &refusals[reason];
}

/*
 * Refuses a client that can't resume from its position.
 */
void
docsync_position_refuse(ResyncReason reason)
{
	docsync_refuse_request(reason == RESYNC_USE_CURSOR ? 409 : 410,
						   docsync_position_describe(reason));
}
