/*-------------------------------------------------------------------------
 *
 * query.c
 *	  Download: what did others change since?
 *
 * Where a client resumes, and whether it can, is decided in position.c.
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
#include "utils/tuplestore.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_query_since);

static void finish(Download *download);
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
 * Returns the settled documents from since_utc on, in the order of their
 * stamps, as seen by a snapshot taken in the call.  Takes no lock that an
 * upload waits for.
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

/* Parses the name of an origin.  NULL and any other name are refused. */
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
 * Refuses invalid arguments, before the store is looked at.
 */
void
docsync_query_check(const Download *download)
{
	if (download->client_id != NULL || download->origin != ORIGIN_ANY)
		docsync_text_check_name(download->client_id, "client_id",
								DOCSYNC_CLIENT_ID_LEN);
	docsync_request_check_claim(download->client_id);
	docsync_text_check_name(download->collection, "collection",
							DOCSYNC_COLLECTION_LEN);
	if (download->position.stamp == DT_NOEND)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("since_utc is infinity"),
				 errhint("Give the highest last_update_utc received, or -infinity for everything.")));
}

/*
 * Opens the store, takes a snapshot, and finds out where the download resumes;
 * refuses a client that can't.  A sync does so before its upload advances the
 * clock, and again after it.  docsync_query_end() must follow.
 */
void
docsync_query_begin(Download *download, StoreUse use)
{
	docsync_query_begin_all(&download, 1, use);
	if (download->refused == RESYNC_CLOSED)
		docsync_moved_refuse(download->moved);
	if (download->refused != RESYNC_NONE)
		docsync_position_refuse(download->refused);
}

/*
 * The same for several downloads under one snapshot.  A client that can't
 * resume isn't refused, but its download's "refused" is set.
 */
void
docsync_query_begin_all(Download **downloads, int count, StoreUse use)
{
	XLogRecPtr	lsn;
	TimestampTz watermark;
	const History *history;

	docsync_schema_open(use);
	docsync_schema_check_readable();

	/*
	 * Read before the snapshot on a standby, after it on a primary: so a
	 * server that has reached this position sees all that the snapshot sees.
	 */
	lsn = RecoveryInProgress() ? GetXLogReplayRecPtr(NULL) :
		InvalidXLogRecPtr;
	watermark = docsync_settle_push_snapshot();
	if (lsn == InvalidXLogRecPtr)
		lsn = GetXLogInsertRecPtr();
	history = docsync_history_read(GetActiveSnapshot());

	for (int i = 0; i < count; i++)
	{
		Download   *download = downloads[i];

		download->lsn = lsn;
		download->moved = docsync_moved_find(GetActiveSnapshot(),
											 download->collection);
		download->history = docsync_moved_line(download->moved, history);
		download->has_horizon = false;
		docsync_settle_begin(&download->settle, GetActiveSnapshot(),
							 download->history, download->collection,
							 watermark);

		download->since = download->position.stamp;
		download->next = download->position;
		download->refused = RESYNC_NONE;
		download->must_reconcile = download->is_behind = false;
		docsync_position_judge(download);
	}
}

/*
 * Runs a download that has begun.
 */
void
docsync_query_run(Download *download)
{
	/*
	 * If we are called in a trigger during an upload, the stamps left of its
	 * reservation would be lower than what we give out now.
	 */
	docsync_stamp_forget();

	download->last = download->since;
	if (download->is_behind)
		return;
	docsync_store_scan(download->collection, download->since, on_stored,
					   download);
	finish(download);
}

/*
 * Continues a download by cursor that had to stop, now that there is more
 * room: up to max_documents in total.
 */
void
docsync_query_go_on(Download *download, int max_documents)
{
	download->max_documents = max_documents;
	download->more = download->is_full = false;
	download->since = download->last;
	docsync_store_scan(download->collection, download->since, on_stored,
					   download);
	finish(download);
}

/*
 * Determines the next position from what has been passed.
 */
static void
finish(Download *download)
{
	if (download->by_cursor)
	{
		uint64		epoch = docsync_history_epoch(download->history);

		download->next.epoch = epoch;
		download->next.stamp = download->last;

		/*
		 * A client that got no further keeps the same cursor.
		 */
		if (download->position.epoch != epoch)
			download->next.lsn = download->lsn;
		else if (download->next.stamp != download->position.stamp ||
				 download->next.seen != download->position.seen)
			download->next.lsn = Max(download->position.lsn, download->lsn);
	}
	else if (download->passed == 0 && download->gap != NULL &&
			 !download->is_held && !RecoveryInProgress())
		docsync_position_refuse(RESYNC_LOST);
}

/* Ends what docsync_query_begin() or docsync_query_begin_all() began. */
void
docsync_query_end(void)
{
	PopActiveSnapshot();
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

	own = docsync_text_is_same(stored->client_id, download->client_id);
	return own == (download->origin == ORIGIN_OWN);
}

/*
 * Is it a tombstone that a new client doesn't need?
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
		docsync_position_judge_first(download, stored);

	if ((is_later || !download->by_cursor) && is_wanted(download, stored) &&
		!is_needless(download, stored))
	{
		if (is_later && (download->is_full ||
						 download->count == download->max_documents))
		{
			download->more = true;
			if (!download->by_cursor)
				docsync_position_judge_more(download);
			return false;
		}
		if (is_later && !download->by_cursor)
			docsync_position_judge_next(download);
		download->count += is_later;
		download->last_given = stored->last_update_utc;

		/*
		 * The page has at least one that is later, so that the client gets
		 * further.
		 */
		if (!download->put(stored, download->arg))
			download->is_full = download->count > 0;
	}

	download->last = stored->last_update_utc;
	return true;
}

/*
 * Download's put: adds a row to the function's result.  There is always room.
 */
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

/*
 * Makes sure that docsync_change has the columns that put_row() fills in.
 */
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
