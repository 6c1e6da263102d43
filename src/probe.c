/*-------------------------------------------------------------------------
 *
 * probe.c
 *	  Lookups by the primary key without a statement.
 *
 * Before an upload writes anything, it looks up what is stored.  Starting and
 * ending a statement takes several times as long as descending the index, so
 * this file does it by hand, and also does what the executor would:
 *
 * 1. Privileges on the table and its columns are checked, by the executor's
 *	  own function, once for a lookup; and the privilege on the schema, which
 *	  the parser would check.
 * 2. A new snapshot is taken, as SPI does for a statement that may write.
 *	  The caller's may be older than the winner of a race, and older than our
 *	  locks (schema.c).  Under REPEATABLE READ they are the same.
 * 3. Under SERIALIZABLE the access methods record what was read with this
 *	  snapshot, rows and the gaps between them, as they do for a statement.
 *	  Spec serializable.
 * 4. An index that was built while rows had versions it doesn't point to
 *	  isn't used if the snapshot may see these versions.
 *
 * Policies can't be applied by hand.  But they only hide rows: what isn't
 * found here wouldn't be found by a statement either.  So if policies apply, a
 * statement takes over at the first document that is stored, visible or not.
 * That takes longer, so a caller could find out that an id is taken; but that
 * could also be found out by uploading it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "docsync.h"

static bool is_usable(Relation index);
static bool has_policies(const Store *store);
static bool find(IndexScanDesc scan, ScanKey keys, Datum id,
				 TupleTableSlot *slot);
static StoredDocument get_stored(const AttrNumber *attnums,
								 TupleTableSlot *slot);

/*
 * Looks up the documents with the given ids, in this order, under a new
 * snapshot, and calls back with each that is stored.  Returns how many ids,
 * from the first on, are done: the rest must be looked up by a statement.
 * found is the number of those that were stored.
 *
 * The callback may be NULL; what it is given is valid during the call only.
 *
 * Locks: the index, ACCESS SHARE, until the end of the transaction.
 */
int
docsync_probe_find(text *collection, Datum *ids, int count,
				   StoredCallback callback, void *arg, uint64 *found)
{
	const Store *store = docsync_schema_open(STORE_READ);
	const AttrNumber *attnums = store->attnums[STORE_DOCUMENT];
	bool		is_hindered = has_policies(store);
	ScanKeyData keys[2];
	Relation	rel;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	int			done = 0;

	*found = 0;
	docsync_schema_check_columns(ACL_SELECT);

	/* Make visible what this transaction has written. */
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());

	rel = table_open(store->relations[STORE_DOCUMENT], NoLock);
	index = index_open(store->document_index, AccessShareLock);
	if (is_usable(index))
	{
		slot = table_slot_create(rel, NULL);
		scan = index_beginscan(rel, index, GetActiveSnapshot(), NULL, lengthof(keys),
							   0, SO_NONE);
		for (size_t i = 0; i < lengthof(keys); i++)
			ScanKeyEntryInitialize(&keys[i], 0, i + 1, BTEqualStrategyNumber,
								   InvalidOid, C_COLLATION_OID, F_TEXTEQ,
								   PointerGetDatum(collection));

		for (; done < count; done++)
		{
			StoredDocument stored;

			CHECK_FOR_INTERRUPTS();

			if (!find(scan, keys, ids[done], slot))
				continue;
			if (is_hindered)
				break;

			++*found;
			if (callback == NULL)
				continue;
			stored = get_stored(attnums, slot);
			if (!callback(&stored, arg))
			{
				done = count;
				break;
			}
		}

		index_endscan(scan);
		ExecDropSingleTupleTableSlot(slot);
	}
	index_close(index, NoLock);
	table_close(rel, NoLock);
	PopActiveSnapshot();

	return done;
}

/*
 * The planner's rule: while the index was built, rows may have had versions
 * that it doesn't point to.  It can't be used with a snapshot that may see
 * these.
 */
static bool
is_usable(Relation index)
{
	return !index->rd_index->indcheckxmin ||
		TransactionIdPrecedes(HeapTupleHeaderGetXmin(index->rd_indextuple->t_data),
							  TransactionXmin);
}

/*
 * Do policies apply to the caller?  Raises an error if they do and
 * row_security is off.
 */
static bool
has_policies(const Store *store)
{
	return check_enable_rls(store->relations[STORE_DOCUMENT], InvalidOid,
							false) == RLS_ENABLED;
}

/*
 * Finds the row of a document.  The slot holds it until the next lookup.
 */
static bool
find(IndexScanDesc scan, ScanKey keys, Datum id, TupleTableSlot *slot)
{
	keys[1].sk_argument = id;
	index_rescan(scan, keys, 2, NULL, 0);
	if (!index_getnext_slot(scan, ForwardScanDirection, slot))
		return false;
	if (scan->xs_recheck)
		elog(ERROR, "a lookup by the primary key is not exact");

	return true;
}

/* The row in the slot, which the result points into */
static StoredDocument
get_stored(const AttrNumber *attnums, TupleTableSlot *slot)
{
	Datum	   *values;
	StoredDocument stored;

	slot_getallattrs(slot);
	stored.tid = slot->tts_tid;
	values = &slot->tts_values[-1]; /* columns are numbered from 1 */

	stored.id = DatumGetTextPP(values[attnums[DOCUMENT_ID]]);
	stored.client_version =
		DatumGetInt64(values[attnums[DOCUMENT_CLIENT_VERSION]]);
	stored.client_id = DatumGetTextPP(values[attnums[DOCUMENT_CLIENT_ID]]);
	stored.last_update_utc =
		DatumGetTimestampTz(values[attnums[DOCUMENT_LAST_UPDATE_UTC]]);
	stored.deleted = DatumGetBool(values[attnums[DOCUMENT_DELETED]]);
	stored.has_body = !slot->tts_isnull[attnums[DOCUMENT_BODY] - 1];
	stored.body = values[attnums[DOCUMENT_BODY]];
	stored.fence = DatumGetFullTransactionId(values[attnums[DOCUMENT_FENCE]]);

	return stored;
}
