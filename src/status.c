/*-------------------------------------------------------------------------
 *
 * status.c
 *	  The state of the store, for docsync_status(), and of the service.
 *
 * docsync_status(), in the script, says in sentences what an operator has to
 * do something about.  It reads the catalogs itself.  What is in the store is
 * read here, since members of pg_monitor have no right to do so.
 *
 * Facts about documents come from a bounded number of index entries, or from
 * statistics: they take milliseconds, however many documents there are.  All
 * documents are read only on request.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <inttypes.h>

#include "access/table.h"
#include "catalog/pg_statistic.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_facts);
PG_FUNCTION_INFO_V1(docsync_health);

/*
 * Tombstones that are older than this aren't purged: it is twice the time that
 * docsync_purge() keeps them by default.
 */
#define UNPURGED_AGE		(180 * USECS_PER_DAY)

/* A clientVersion that is so far ahead of the time is a mistake; in ms. */
#define AHEAD_LEAD			(24 * 60 * 60 * 1000)

/* A table of so many pages is read in a few milliseconds. */
#define SMALL_PAGES			500

/* The document whose clientVersion is farthest ahead of the time */
typedef struct AheadDocument
{
	text	   *collection;		/* NULL: not known */
	text	   *id;
	int64		client_version; /* 0: there is none */
	int64		count;			/* of documents that are ahead */
} AheadDocument;

/* A collection with old tombstones */
typedef struct UnpurgedCollection
{
	text	   *collection;		/* NULL: none was found */
	TimestampTz stamp;			/* of one of them */
} UnpurgedCollection;

/*
 * A purge keeps up to two tombstones of a collection (purge.c), so the third
 * is one that should have been purged.  Only the first 200 collections that
 * have tombstones are read: a purge takes collections in the same order, so if
 * these are purged, purges run.
 */
static Statement find_unpurged = {
	"WITH RECURSIVE each(collection, n) AS ("
	"  (SELECT collection, 1 FROM docsync.document"
	"    WHERE deleted ORDER BY collection LIMIT 1)"
	"  UNION ALL"
	"  SELECT (SELECT d.collection FROM docsync.document AS d"
	"           WHERE d.deleted"
	"             AND d.collection OPERATOR(pg_catalog.>) each.collection"
	"           ORDER BY d.collection LIMIT 1), n OPERATOR(pg_catalog.+) 1"
	"    FROM each WHERE collection IS NOT NULL AND n OPERATOR(pg_catalog.<) 200)"
	" SELECT each.collection, third.last_update_utc"
	"  FROM each CROSS JOIN LATERAL ("
	"    SELECT d.last_update_utc FROM docsync.document AS d"
	"     WHERE d.deleted AND d.collection OPERATOR(pg_catalog.=) each.collection"
	"     ORDER BY d.last_update_utc OFFSET 2 LIMIT 1) AS third"
	" WHERE third.last_update_utc OPERATOR(pg_catalog.<) $1 LIMIT 1",
	1, {TIMESTAMPTZOID}, STATEMENT_PINNED | STATEMENT_READ_ONLY | STATEMENT_OF_DOCUMENT, NULL
};

/* If most documents are ahead, their versions aren't milliseconds. */
static Statement find_ahead = {
	"SELECT d.collection, d.id, d.client_version, each.ahead"
	"  FROM (SELECT pg_catalog.count(*) AS everything, pg_catalog.count(*) FILTER"
	"          (WHERE client_version OPERATOR(pg_catalog.>) $1) AS ahead,"
	"          pg_catalog.max(client_version) AS highest"
	"          FROM docsync.document) AS each"
	" CROSS JOIN LATERAL (SELECT * FROM docsync.document"
	"    WHERE client_version OPERATOR(pg_catalog.=) each.highest LIMIT 1) AS d"
	" WHERE each.ahead OPERATOR(pg_catalog.>) 0 AND"
	"   each.ahead OPERATOR(pg_catalog.*) 2 OPERATOR(pg_catalog.<) each.everything",
	1, {INT8OID}, STATEMENT_READ_ONLY | STATEMENT_OF_DOCUMENT, NULL
};

static const char *describe_place(const History *history);
static bool has_statistics(const Store *store);
static bool put_unpurged(TupleTableSlot *slot, void *arg);
static bool put_ahead(TupleTableSlot *slot, void *arg);
static bool is_small(const Store *store);
static int64 sample_ahead(const Store *store, int64 limit);

/*
 * docsync_facts(exact bool)
 * RETURNS TABLE (library text, clock timestamptz, epoch text, place text,
 *				  epoch_clock timestamptz, lost_after timestamptz,
 *				  is_subscribed bool, has_statistics bool,
 *				  unpurged text, unpurged_stamp timestamptz,
 *				  ahead_collection text, ahead_id text, ahead_version bigint,
 *				  ahead_count bigint)
 *
 * One row, for docsync_status().  epoch_clock is the clock at the beginning of
 * the present epoch.  lost_after is the stamp after which documents may have
 * been lost then; NULL in the first epoch.  unpurged is a collection with old
 * tombstones.  ahead_* describe a document with a clientVersion far ahead of
 * the time; only its version is known where it comes from statistics.
 *
 * Takes no lock that an upload waits for.
 */
Datum
docsync_facts(PG_FUNCTION_ARGS)
{
	const Store *store = docsync_watch_open();
	bool		exact = !PG_ARGISNULL(0) && PG_GETARG_BOOL(0);
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz before = now - UNPURGED_AGE;
	int64		limit = (now + DOCSYNC_UNIX_OFFSET) / 1000 +
	Max(docsync_max_version_lead, AHEAD_LEAD);
	Datum		args[1];
	History    *history;
	const HistoryEntry *first;
	UnpurgedCollection unpurged = {0};
	AheadDocument ahead = {0};
	Datum		values[14] = {0};
	bool		nulls[14] = {false};

	InitMaterializedSRF(fcinfo, 0);
	docsync_schema_push_snapshot();
	history = docsync_history_read(GetActiveSnapshot());
	args[0] = TimestampTzGetDatum(before);
	docsync_statement_run(&find_unpurged, args, put_unpurged, &unpurged);
	args[0] = Int64GetDatum(limit);
	if (exact || is_small(store))
		docsync_statement_run(&find_ahead, args, put_ahead, &ahead);
	else
		ahead.client_version = sample_ahead(store, limit);
	PopActiveSnapshot();

	/* The row with which the present epoch began */
	first = docsync_history_newest(history);
	while (first != NULL && first > history->entries &&
		   first[-1].epoch == first->epoch)
		first--;

	values[0] = CStringGetTextDatum(DOCSYNC_VERSION);
	values[1] = TimestampTzGetDatum(docsync_clock_read());
	values[2] = CStringGetTextDatum(psprintf("%016" PRIx64,
											 docsync_history_epoch(history)));
	values[3] = CStringGetTextDatum(describe_place(history));
	nulls[4] = first == NULL;
	if (first != NULL)
		values[4] = TimestampTzGetDatum(first->clock);
	nulls[5] = first == NULL || first == history->entries;
	if (!nulls[5])
		values[5] = TimestampTzGetDatum(first->lost_after);
	values[6] = BoolGetDatum(store->is_subscribed);
	values[7] = BoolGetDatum(has_statistics(store));
	values[8] = PointerGetDatum(unpurged.collection);
	values[9] = TimestampTzGetDatum(unpurged.stamp);
	nulls[8] = nulls[9] = unpurged.collection == NULL;
	values[10] = PointerGetDatum(ahead.collection);
	values[11] = PointerGetDatum(ahead.id);
	nulls[10] = nulls[11] = nulls[13] = ahead.collection == NULL;
	values[12] = Int64GetDatum(ahead.client_version);
	nulls[12] = ahead.client_version == 0;
	values[13] = Int64GetDatum(ahead.count);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	return (Datum) 0;
}

/*
 * docsync_health() RETURNS json
 *
 * {"serverUtc"} if the store is in order and its clock can be read, or else the
 * error that any request gets.  It may be called without a token, and says
 * nothing about what is in the store.
 */
Datum
docsync_health(PG_FUNCTION_ARGS)
{
	StringInfoData buf;

	docsync_clock_read();

	initStringInfo(&buf);
	appendStringInfoString(&buf, "{\"serverUtc\":");
	docsync_json_append_stamp(&buf, GetCurrentTimestamp());
	appendStringInfoChar(&buf, '}');
	PG_RETURN_TEXT_P(cstring_to_text_with_len(buf.data, buf.len));
}

/*
 * Returns where docsync.history says the store is: "here"; "handed over", from
 * here; "arrived", from where it was handed over; "elsewhere", in another
 * place than this; "nowhere", before the first upload.
 */
static const char *
describe_place(const History *history)
{
	const HistoryEntry *newest = docsync_history_newest(history);

	if (newest == NULL)
		return "nowhere";
	if (docsync_history_is_gone(history))
		return "handed over";
	if (docsync_history_is_handed_over(newest))
		return "arrived";
	return docsync_history_is_here(newest) ? "here" : "elsewhere";
}

/*
 * Has docsync.document been analyzed?
 */
static bool
has_statistics(const Store *store)
{
	HeapTuple	tuple = docsync_watch_statistics(store, DOCUMENT_COLLECTION);

	if (!HeapTupleIsValid(tuple))
		return false;
	ReleaseSysCache(tuple);
	return true;
}

/*
 * Can all documents be read within a few milliseconds?
 */
static bool
is_small(const Store *store)
{
	Relation	rel = table_open(store->relations[STORE_DOCUMENT], NoLock);
	bool		result = RelationGetNumberOfBlocks(rel) <= SMALL_PAGES;

	table_close(rel, NoLock);
	return result;
}

/*
 * Returns the highest clientVersion in the statistics if it is above the
 * limit, or 0.  Also 0 if more than half of all are above it: then versions
 * aren't milliseconds.
 */
static int64
sample_ahead(const Store *store, int64 limit)
{
	HeapTuple	tuple = docsync_watch_statistics(store, DOCUMENT_CLIENT_VERSION);
	AttStatsSlot slot;
	int64		highest = 0;
	double		common = 0;		/* part of all that the MCVs are, */
	double		ahead = 0;		/* and that is above the limit */

	if (!HeapTupleIsValid(tuple))
		return 0;
	if (get_attstatsslot(&slot, tuple, STATISTIC_KIND_MCV, InvalidOid,
						 ATTSTATSSLOT_VALUES | ATTSTATSSLOT_NUMBERS))
	{
		for (int i = 0; i < slot.nvalues; i++)
		{
			int64		version = DatumGetInt64(slot.values[i]);

			highest = Max(highest, version);
			common += slot.numbers[i];
			ahead += version > limit ? slot.numbers[i] : 0;
		}
		free_attstatsslot(&slot);
	}
	if (get_attstatsslot(&slot, tuple, STATISTIC_KIND_HISTOGRAM, InvalidOid,
						 ATTSTATSSLOT_VALUES))
	{
		for (int i = 0; i < slot.nvalues; i++)
		{
			int64		version = DatumGetInt64(slot.values[i]);

			highest = Max(highest, version);
			ahead += version > limit ? (1 - common) / slot.nvalues : 0;
		}
		free_attstatsslot(&slot);
	}
	ReleaseSysCache(tuple);
	return highest > limit && ahead < 0.5 ? highest : 0;
}

/* RowCallback: copies the row to the UnpurgedCollection at arg. */
static bool
put_unpurged(TupleTableSlot *slot, void *arg)
{
	UnpurgedCollection *unpurged = (UnpurgedCollection *) arg;

	unpurged->collection = DatumGetTextPCopy(slot->tts_values[0]);
	unpurged->stamp = DatumGetTimestampTz(slot->tts_values[1]);
	return false;
}

/* RowCallback: copies the row to the AheadDocument at arg. */
static bool
put_ahead(TupleTableSlot *slot, void *arg)
{
	AheadDocument *ahead = (AheadDocument *) arg;

	ahead->collection = DatumGetTextPCopy(slot->tts_values[0]);
	ahead->id = DatumGetTextPCopy(slot->tts_values[1]);
	ahead->client_version = DatumGetInt64(slot->tts_values[2]);
	ahead->count = DatumGetInt64(slot->tts_values[3]);
	return false;
}
