/*-------------------------------------------------------------------------
 *
 * horizon.c
 *	  The horizon of a collection: up to which stamp tombstones have been
 *	  removed (docsync.purged).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/table.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "docsync.h"

/* Keeps the exact maxima. */
static Statement raise_horizon = {
	"INSERT INTO docsync.purged AS p"
	" (collection, last_update_utc, client_id, others_utc)"
	" VALUES ($1, $2, $3, $4)"
	" ON CONFLICT (collection) DO UPDATE SET"
	"  others_utc = CASE"
	"    WHEN p.client_id OPERATOR(pg_catalog.=) excluded.client_id"
	"      THEN GREATEST(p.others_utc, excluded.others_utc)"
	"    WHEN excluded.last_update_utc OPERATOR(pg_catalog.>) p.last_update_utc"
	"      THEN GREATEST(p.last_update_utc, excluded.others_utc)"
	"    ELSE GREATEST(p.others_utc, excluded.last_update_utc) END,"
	"  client_id = CASE"
	"    WHEN excluded.last_update_utc OPERATOR(pg_catalog.>) p.last_update_utc"
	"      THEN excluded.client_id ELSE p.client_id END,"
	"  last_update_utc = GREATEST(p.last_update_utc, excluded.last_update_utc)",
	4, {TEXTOID, TIMESTAMPTZOID, TEXTOID, TIMESTAMPTZOID}, 0, NULL
};

static void look_up(Relation rel, const Store *store, Snapshot snapshot,
					const text *collection, const text *client_id,
					Horizon *horizon);

/*
 * The horizon of a collection, as seen by a snapshot that was taken after the
 * store had been opened.  For "others", tombstones of the given client don't
 * count; with NULL all do.
 *
 * This bypasses privileges and row-level security: what a reader has missed
 * doesn't depend on the reader's rights, and the table contains the names of
 * others' collections.
 */
Horizon
docsync_horizon_find(Snapshot snapshot, const text *collection,
					 const text *client_id)
{
	const Store *store = docsync_schema_open(STORE_READ);
	Relation	rel = table_open(store->relations[STORE_PURGED], NoLock);
	Horizon		horizon = {DT_NOBEGIN, DT_NOBEGIN};

	/*
	 * If nothing has ever been purged, there is no need to use the index. Any
	 * row that the snapshot sees was on its page before, and VACUUM, which
	 * truncates pages, waits for our lock.
	 */
	if (RelationGetNumberOfBlocks(rel) > 0)
		look_up(rel, store, snapshot, collection, client_id, &horizon);
	table_close(rel, NoLock);

	return horizon;
}

/*
 * Fills in the horizon if the collection has a row; otherwise leaves it as it
 * is.
 */
static void
look_up(Relation rel, const Store *store, Snapshot snapshot,
		const text *collection, const text *client_id, Horizon *horizon)
{
	const AttrNumber *attnums = store->attnums[STORE_PURGED];
	TupleDesc	desc = RelationGetDescr(rel);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyEntryInitialize(&key, 0, attnums[PURGED_COLLECTION],
						   BTEqualStrategyNumber, InvalidOid, C_COLLATION_OID,
						   F_TEXTEQ, PointerGetDatum(collection));
	scan = systable_beginscan(rel, store->purged_index, true, snapshot, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		Datum	   *values = palloc(sizeof(Datum) * desc->natts);
		bool	   *isnull = palloc(sizeof(bool) * desc->natts);
		text	   *of;

		/* None of them is null (check.c). */
		heap_deform_tuple(tuple, desc, values, isnull);
		of = DatumGetTextPP(values[attnums[PURGED_CLIENT_ID] - 1]);
		horizon->all =
			DatumGetTimestampTz(values[attnums[PURGED_LAST_UPDATE_UTC] - 1]);
		horizon->others = horizon->all;
		if (client_id != NULL && docsync_text_is_same(of, client_id))
			horizon->others =
				DatumGetTimestampTz(values[attnums[PURGED_OTHERS_UTC] - 1]);
		pfree(values);
		pfree(isnull);
	}
	systable_endscan(scan);
}

/*
 * Raises the horizon to the stamps of tombstones that this transaction has
 * removed: the highest with its client, and the highest of all other clients.
 * As the caller.
 *
 * Locks: the collection's row of docsync.purged, until the end of the
 * transaction.
 */
void
docsync_horizon_raise(text *collection, TimestampTz last_update_utc,
					  text *client_id, TimestampTz others_utc)
{
	Datum		args[] = {
		PointerGetDatum(collection),
		TimestampTzGetDatum(last_update_utc),
		PointerGetDatum(client_id),
		TimestampTzGetDatum(others_utc)
	};

	docsync_statement_run(&raise_horizon, args, NULL, NULL);
}
