/*-------------------------------------------------------------------------
 *
 * query.c
 *	  Download: what did others change since?
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_query_since);

static void check_since(TimestampTz since);
static void check_purged(text *collection, TimestampTz since);
static bool is_wanted(const Download *download, const StoredDocument *stored);
static bool on_stored(const StoredDocument *stored, void *arg);
static bool put_row(const StoredDocument *stored, void *arg);

/*
 * docsync_query_since(client_id text,
 *					   since_utc timestamptz DEFAULT '-infinity',
 *					   origin text DEFAULT 'other',
 *					   collection text DEFAULT 'default',
 *					   max_documents int DEFAULT NULL)
 * RETURNS SETOF docsync.change
 *
 * The settled documents from since_utc on, in the order of their stamps, as
 * the query's snapshot sees them.  Takes no lock that anybody waits for.
 */
Datum
docsync_query_since(PG_FUNCTION_ARGS)
{
	Download	download = {
		.client_id = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0),
		.since = PG_ARGISNULL(1) ? DT_NOBEGIN : PG_GETARG_TIMESTAMPTZ(1),
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
	if (((ReturnSetInfo *) fcinfo->resultinfo)->setDesc->natts != 6)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("type docsync.change has been altered")));
	docsync_query_run(&download);

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
			 errdetail("It is \"%s\".", docsync_batch_quote(name, strlen(name))),
			 errhint("Use other, own or any.")));
}

/*
 * Refuses what can't be asked for.  A sync has to do so before its upload moves
 * the clock.
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
	check_since(download->since);
	check_purged(download->collection, download->since);
}

/*
 * Runs a download, which has been checked, with the active snapshot.
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
	docsync_settle_begin(&download->settle, GetActiveSnapshot(),
						 download->collection);
	docsync_store_scan(download->collection, download->since, on_stored,
					   download);
}

/*
 * Whoever has a stamp that was never issued has it from another history of
 * this store, such as from before a backup was restored.  To answer "nothing
 * new" would be to lose what was issued since under lower stamps.
 *
 * A standby can't tell: it may just be behind.  There the client finds
 * nothing, keeps its stamp, and asks again.
 */
static void
check_since(TimestampTz since)
{
	if (since == DT_NOEND)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("since_utc is infinity"),
				 errhint("Give the highest last_update_utc received, or -infinity for everything.")));

	if (RecoveryInProgress())
		return;

	if (since > docsync_clock_read(DOCSYNC_CLOCK))
	{
		char text[	DOCSYNC_STAMP_LEN];

		docsync_stamp_format(since, text);
		docsync_query_refuse(psprintf("The client has seen %s, a stamp that this server has never issued; it may have been restored to an earlier time.",
									  text));
	}
}

/*
 * Whoever hasn't seen a tombstone that is gone still has the document; not so
 * who begins, which clients also say as 1970-01-01 or 0001-01-01.
 *
 * The horizon of all collections is a look at a page, and nearly all clients
 * are past it.
 */
static void
check_purged(text *collection, TimestampTz since)
{
	TimestampTz purged;
	char		since_text[DOCSYNC_STAMP_LEN];
	char		purged_text[DOCSYNC_STAMP_LEN];

	if (since <= SetEpochTimestamp() ||
		since >= docsync_clock_read(DOCSYNC_HORIZON))
		return;

	purged = docsync_store_find_purged(collection);
	if (since >= purged)
		return;

	docsync_stamp_format(since, since_text);
	docsync_stamp_format(purged, purged_text);
	docsync_query_refuse(psprintf("The client has seen %s, tombstones up to %s have been removed.",
								  since_text, purged_text));
}

/*
 * Refuses a client that can't go on from where it is.  The message becomes
 * the status line over HTTP: it must not have anything of the request in it.
 */
void
docsync_query_refuse(const char *detail)
{
	ereport(ERROR,
			(errcode(docsync_request_sqlstate(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE)),
			 errmsg("resync required"),
			 errdetail("%s", detail),
			 errhint("Start again from the beginning, without a cursor.")));
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
 * StoredCallback: passes a document on, and ends the scan at the first that
 * isn't settled, or when there are enough.
 */
static bool
on_stored(const StoredDocument *stored, void *arg)
{
	Download   *download = (Download *) arg;
	bool		is_later = stored->last_update_utc > download->since;

	/* Spec late-commit fails without it. */
	if (!docsync_settle_test(&download->settle, stored->fence))
		return false;

	if ((is_later || !download->after) && is_wanted(download, stored))
	{
		if (is_later && (download->is_full ||
						 download->count == download->max_documents))
		{
			download->more = true;
			return false;
		}
		download->count += is_later;

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
