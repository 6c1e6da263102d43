/*-------------------------------------------------------------------------
 *
 * query.c
 *	  Download: what did others change since?
 *
 * A client goes on from a position: a cursor, or a bare stamp.  What it has may
 * be out of reach from there, for two reasons: tombstones that it hasn't seen
 * have been purged, or the position was given out by another history of the
 * store, which a failover or a restore has cut off.  The remedy is the same: it
 * compares what it has with the store.  Who can do that (reconcile) is told,
 * once, and goes on; who can't is refused, and begins from nothing.
 *
 * A client is told if and only if the horizon is above both the stamp of its
 * position and what that has seen.  (Who sees no document of a collection is
 * told nothing of it, not even that it is there.)  Seen is the horizon that a first page, or a
 * page that tells, was read under.  So who has been told isn't told again, and
 * who begins isn't stopped at its second page.  (doc/stamps.md, "Purge")
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_query_since);

static void judge(Download *download);
static void judge_cursor(Download *download);
static bool is_of_other_history(Download *download);
static void warn_of_cursor(void);
static bool is_above_clock(TimestampTz stamp);
static bool is_behind(const Download *download);
static void find_base(Download *download);
static bool on_base(const StoredDocument *stored, void *arg);
static void begin_from_nothing(Download *download);
static void judge_stamp(Download *download);
static void judge_first(Download *download, const StoredDocument *stored);
static void judge_next(Download *download);
static TimestampTz horizon_of(Download *download);
static TimestampTz known_horizon(Download *download);
static bool is_wanted(const Download *download, const StoredDocument *stored);
static bool is_needless(const Download *download,
						const StoredDocument *stored);
static bool on_stored(const StoredDocument *stored, void *arg);
static bool put_row(const StoredDocument *stored, void *arg);
static void check_row_type(TupleDesc desc);

/*
 * docsync_query_since(client_id text,
 *					   since_utc timestamptz DEFAULT '-infinity',
 *					   origin text DEFAULT 'other',
 *					   collection text DEFAULT 'default',
 *					   max_documents int DEFAULT NULL)
 * RETURNS SETOF docsync_change
 *
 * The settled documents from since_utc on, in the order of their stamps, as
 * a snapshot sees them that is taken in the call.  Takes no lock that an upload
 * waits for.
 */
Datum
docsync_query_since(PG_FUNCTION_ARGS)
{
	Download	download = {
		.client_id = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0),
		.position.stamp = PG_ARGISNULL(1) ? DT_NOBEGIN : PG_GETARG_TIMESTAMPTZ(1),
		.origin = docsync_query_parse_origin(PG_ARGISNULL(2) ? NULL :
											 PG_GETARG_TEXT_PP(2)),
		.collection = PG_ARGISNULL(3) ? NULL : PG_GETARG_TEXT_PP(3),
		.max_documents = PG_ARGISNULL(4) ? -1 : PG_GETARG_INT32(4),
		.put = put_row,
		.arg = fcinfo->resultinfo
	};

	if (!PG_ARGISNULL(4) && download.max_documents < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_documents is negative"),
				 errdetail("It is %d.", download.max_documents),
				 errhint("Give a number of documents, or NULL for all.")));

	docsync_query_check(&download);
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	check_row_type(((ReturnSetInfo *) fcinfo->resultinfo)->setDesc);

	docsync_query_begin(&download, STORE_READ);
	docsync_query_run(&download);
	docsync_query_end();

	return (Datum) 0;
}

QueryOrigin
docsync_query_parse_origin(const text *origin)
{
	char	   *name;

	if (origin == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("origin is null"),
				 errhint("Use other, own or any.")));

	name = text_to_cstring(origin);
	if (strcmp(name, "other") == 0)
		return ORIGIN_OTHER;
	if (strcmp(name, "own") == 0)
		return ORIGIN_OWN;
	if (strcmp(name, "any") == 0)
		return ORIGIN_ANY;

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown origin"),
			 errdetail("It is \"%s\".", docsync_refuse_quote(name, strlen(name))),
			 errhint("Use other, own or any.")));
}

/*
 * Refuses what nobody may ask for, before the store is looked at.
 */
void
docsync_query_check(const Download *download)
{
	if (download->client_id != NULL || download->origin != ORIGIN_ANY)
		docsync_batch_check_name(download->client_id, "client_id",
								 DOCSYNC_CLIENT_ID_LEN);
	docsync_request_check_claim(download->client_id);
	docsync_batch_check_name(download->collection, "collection",
							 DOCSYNC_COLLECTION_LEN);
	if (download->position.stamp == DT_NOEND)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("since_utc is infinity"),
				 errhint("Give the highest last_update_utc received, or -infinity for everything.")));
}

/*
 * Opens the store, takes a snapshot, and finds out from where the download goes
 * on; refuses a client that can't.  A sync does so before its upload moves the
 * clock, and again after it.  docsync_query_end() follows.
 */
void
docsync_query_begin(Download *download, StoreUse use)
{
	docsync_schema_open(use);
	docsync_schema_check_readable();

	/*
	 * Before the snapshot on a standby, after it on a primary: whoever has
	 * come to this position sees all that the snapshot sees.
	 */
	download->lsn = RecoveryInProgress() ? GetXLogReplayRecPtr(NULL) :
		InvalidXLogRecPtr;
	docsync_schema_push_snapshot();
	if (download->lsn == InvalidXLogRecPtr)
		download->lsn = GetXLogInsertRecPtr();

	download->history = docsync_history_read(GetActiveSnapshot());
	download->has_horizon = false;
	docsync_settle_begin(&download->settle, GetActiveSnapshot(),
						 download->history, download->collection);

	download->since = download->position.stamp;
	download->next = download->position;
	download->must_reconcile = download->is_behind = false;
	judge(download);
}

/*
 * Runs a download that has begun.
 */
void
docsync_query_run(Download *download)
{
	/*
	 * In somebody's trigger during an upload, what is left of its reservation
	 * would come behind what we give out now.
	 */
	docsync_stamp_forget();

	download->last = download->since;
	if (download->is_behind)
		return;
	docsync_store_scan(download->collection, download->since, on_stored,
					   download);

	if (download->by_cursor)
	{
		uint64		epoch = docsync_history_epoch(download->history);

		download->next.epoch = epoch;
		download->next.stamp = download->last;

		/*
		 * Who has got no further is as well off where he was: the same
		 * cursor.
		 */
		if (download->position.epoch != epoch)
			download->next.lsn = download->lsn;
		else if (download->next.stamp != download->position.stamp ||
				 download->next.seen != download->position.seen)
			download->next.lsn = Max(download->position.lsn, download->lsn);
	}
	else if (download->passed == 0 && download->gap != NULL &&
			 !download->is_held && !RecoveryInProgress())
		docsync_query_refuse(RESYNC_LOST);
}

void
docsync_query_end(void)
{
	PopActiveSnapshot();
}

/*
 * The horizon of the collection under the download's snapshot.  It is looked up
 * when it is first asked for: of those who go on from a bare stamp it matters
 * only to who is given something later, and most polls find nothing.
 */
const Horizon *
docsync_query_horizon(Download *download)
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
 * Refuses a client that can't go on from where it is.  The message becomes
 * the status line over HTTP: it must not have anything of the request in it;
 * nor must any of it tell of stamps or collections, since who asks may see
 * none.
 */
void
docsync_query_refuse(ResyncReason reason)
{
	static const struct
	{
		const char *code;
		const char *detail;
		const char *hint;
	}			texts[] = {
		[RESYNC_PURGED] = {
			"resync_purged",
			"{\"reason\": \"purged\", \"text\": \"Tombstones that this client has not seen have been removed.\"}",
			"Compare what you have with the store (reconcile=true), or start again from the beginning, without a cursor."
		},
		[RESYNC_LOST] = {
			"resync_lost",
			"{\"reason\": \"lost\", \"text\": \"The position was given out by another history of this store: it has been restored, or has failed over, since.\"}",
			"Compare what you have with the store (reconcile=true), or start again from the beginning, without a cursor, and send all you have again."
		},
		[RESYNC_USE_CURSOR] = {
			"use_cursor",
			"{\"reason\": \"pages\", \"text\": \"Tombstones have been removed from this collection: its documents can't be fetched in pages by stamps alone.\"}",
			"Use a cursor (docsync_pull), or fetch all at once, without a maximum, if it fits into one answer."
		}
	};

	docsync_refuse_request(reason == RESYNC_USE_CURSOR ? 409 : 410,
						   texts[reason].code,
						   reason == RESYNC_USE_CURSOR ? "use a cursor" : "resync required",
						   texts[reason].detail, texts[reason].hint);
}

static void
judge(Download *download)
{
	if (download->by_cursor)
		judge_cursor(download);
	else
		judge_stamp(download);
}

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
			docsync_query_refuse(RESYNC_LOST);
		download->must_reconcile = true;
	}
	else if (docsync_query_horizon(download)->all > Max(position->stamp, seen) &&
			 docsync_store_sees_any(download->collection))
	{
		if (!download->reconcile)
			docsync_query_refuse(RESYNC_PURGED);
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
 * is above the clock, or in a gap, such as a start after a crash leaves between
 * what has survived and what comes then.
 */
static bool
is_of_other_history(Download *download)
{
	const Position *position = &download->position;
	const HistoryEntry *gap = docsync_history_find_gap(download->history,
													   position->stamp);

	if (position->epoch != docsync_history_epoch(download->history))
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
 * Is a stamp above the last one issued?  The clock doesn't go back as long as the
 * store is the same, so it isn't asked about what it has passed.
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
 * Is there more than this server knows?  A standby may not have replayed what the
 * client has been given elsewhere.  A primary may be one that was promoted a
 * moment ago, and nobody has begun its epoch yet.
 */
static bool
is_behind(const Download *download)
{
	const Position *position = &download->position;

	if (!RecoveryInProgress())
		return position->epoch == docsync_history_epoch(download->history) &&
			is_above_clock(position->stamp) &&
			!docsync_history_is_present(download->history);

	if (position->epoch == docsync_history_epoch(download->history))
		return position->lsn > download->lsn;
	return !docsync_history_knows(download->history, position->epoch);
}

/*
 * Goes on from the highest document at or below the position's stamp that is
 * settled, or from the beginning: in this history only that is a position.  The
 * stamp itself may be one that somebody here is about to write below.
 */
static void
find_base(Download *download)
{
	download->since = DT_NOBEGIN;
	docsync_store_scan_back(download->collection, download->position.stamp,
							on_base, download);
}

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
 * Who begins has nothing that could have been deleted: it needs no tombstone that
 * was there before its first page.  What can't be seen yet gets a stamp above the
 * clock, if the fence that was read with the clock is settled.
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
		if (docsync_settle_test(&settle, clock, settle.next))
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
		docsync_query_refuse(RESYNC_LOST);
}

/*
 * The first document at or after a bare stamp that lies in a gap: if it bears
 * that very stamp, this was issued here.
 */
static void
judge_first(Download *download, const StoredDocument *stored)
{
	if (download->gap != NULL && stored->last_update_utc != download->since)
		docsync_query_refuse(RESYNC_LOST);
}

/*
 * A later document is about to be given to who goes on from a bare stamp: then
 * he mustn't have missed anything before.  Not earlier: who starts again and
 * finds nothing later would be told the same at each poll.
 */
static void
judge_next(Download *download)
{
	if (!download->is_beginning && horizon_of(download) > download->since)
		docsync_query_refuse(RESYNC_PURGED);
}

/*
 * Up to which stamp tombstones are gone that a client who goes on from a bare
 * stamp would have been given.  By cursor it is that of all: a cursor passes the
 * client's own, too.
 */
static TimestampTz
horizon_of(Download *download)
{
	const Horizon *horizon = docsync_query_horizon(download);

	return download->origin == ORIGIN_OTHER ? horizon->others : horizon->all;
}

/*
 * The horizon, as far as it may get into a cursor, which its holder can read:
 * of a collection in which he sees no document he isn't told that there is one.
 */
static TimestampTz
known_horizon(Download *download)
{
	TimestampTz horizon = docsync_query_horizon(download)->all;

	return !TIMESTAMP_IS_NOBEGIN(horizon) &&
		docsync_store_sees_any(download->collection) ? horizon : DT_NOBEGIN;
}

/*
 * Is the document of the origin that was asked for?
 */
static bool
is_wanted(const Download *download, const StoredDocument *stored)
{
	bool		own;

	if (download->origin == ORIGIN_ANY)
		return true;

	own = docsync_batch_same_text(stored->client_id, download->client_id);
	return own == (download->origin == ORIGIN_OWN);
}

/*
 * A tombstone that who has just begun can do without
 */
static bool
is_needless(const Download *download, const StoredDocument *stored)
{
	return stored->deleted && download->by_cursor &&
		download->no_tombstones &&
		stored->last_update_utc <= download->next.seen;
}

/*
 * StoredCallback: passes a document on, and ends the scan at the first that
 * isn't settled, or when there are enough.
 */
static bool
on_stored(const StoredDocument *stored, void *arg)
{
	Download   *download = (Download *) arg;
	bool		is_later = stored->last_update_utc > download->since;

	/* Spec late-commit fails without it. */
	if (!docsync_settle_test(&download->settle, stored->last_update_utc,
							 stored->fence))
	{
		download->is_held = true;
		return false;
	}

	if (download->passed++ == 0 && !download->by_cursor)
		judge_first(download, stored);

	if ((is_later || !download->by_cursor) && is_wanted(download, stored) &&
		!is_needless(download, stored))
	{
		if (is_later && (download->is_full ||
						 download->count == download->max_documents))
		{
			download->more = true;

			/* The next page would be refused, for ever. */
			if (!download->by_cursor && download->is_beginning &&
				horizon_of(download) > download->last_given)
				docsync_query_refuse(RESYNC_USE_CURSOR);
			return false;
		}
		if (is_later && !download->by_cursor)
			judge_next(download);
		download->count += is_later;
		download->last_given = stored->last_update_utc;

		/* At least one that is later, or the client wouldn't get further. */
		if (!download->put(stored, download->arg))
			download->is_full = download->count > 0;
	}

	download->last = stored->last_update_utc;
	return true;
}

static bool
put_row(const StoredDocument *stored, void *arg)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) arg;
	Datum		values[6];
	bool		nulls[6] = {false};

	values[0] = PointerGetDatum(stored->id);
	values[1] = Int64GetDatum(stored->client_version);
	values[2] = PointerGetDatum(stored->client_id);
	values[3] = TimestampTzGetDatum(stored->last_update_utc);
	values[4] = BoolGetDatum(stored->deleted);
	values[5] = stored->body;
	nulls[5] = !stored->has_body;

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	return true;
}

static void
check_row_type(TupleDesc desc)
{
	static const Oid types[] = {
		TEXTOID, INT8OID, TEXTOID, TIMESTAMPTZOID, BOOLOID, JSONBOID
	};
	bool		same = desc->natts == lengthof(types);

	for (int i = 0; same && i < desc->natts; i++)
		same = TupleDescAttr(desc, i)->atttypid == types[i];
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("type docsync_change has been altered")));
}
