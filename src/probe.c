/*-------------------------------------------------------------------------
 *
 * probe.c
 *	  Look-ups by the primary key without a statement.
 *
 * Before an upload writes anything it looks up what is stored.  To start and
 * end a statement takes several times as long as to walk down the index, so
 * that is done here by hand; and what the executor would do is done here, too:
 *
 * 1. Privileges on table and columns are checked by its own function, once for
 *	  a look-up, and that on the schema, which is the parser's.
 * 2. The snapshot is taken now, as SPI takes one for a statement that may
 *	  write.  Not the caller's: that may be older than those who have won a
 *	  race, and older than our locks (schema.c).  Under REPEATABLE READ all are
 *	  one.
 * 3. Under SERIALIZABLE the access methods note what has been read by this
 *	  snapshot, rows and the gaps between them, as they do for a statement.
 *	  Spec serializable.
 * 4. An index that was built while rows had versions it doesn't point to isn't
 *	  used by whoever may need to see these.
 *
 * Policies can't be applied by hand.  They only hide: where they apply, what
 * isn't found here isn't found by a statement either.  From the first document
 * on that is stored, whoever may see it, a statement has to say.  That takes
 * longer, and so a caller could find out that an id is taken, which he could
 * find out by uploading it.
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
 * Looks up the documents with the given ids, as of now, in their order, and
 * calls back with each that is stored.  Returns how many, from the first on,
 * are done with: the rest is for a statement to look up.  found is how many
 * were stored.
 *
 * The callback may be NULL; what it is given lasts for the call.
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

	/* What this transaction has written is to be seen, too. */
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
 * The planner's rule: rows may have had versions that the index doesn't point
 * to, while it was built; nobody may use it whose snapshot may see these.
 */
static bool
is_usable(Relation index)
{
	return !index->rd_index->indcheckxmin ||
		TransactionIdPrecedes(HeapTupleHeaderGetXmin(index->rd_indextuple->t_data),
							  TransactionXmin);
}

/*
 * Do policies apply to the caller?  It is an error if they do and row_security
 * is off.
 */
static bool
has_policies(const Store *store)
{
	return check_enable_rls(store->relations[STORE_DOCUMENT], InvalidOid,
							false) == RLS_ENABLED;
}

/*
 * Finds the row of a document.  The slot holds it until the next one is looked
 * for.
 */
static bool
find(IndexScanDesc scan, ScanKey keys, Datum id, TupleTableSlot *slot)
{
	keys[1].sk_argument = id;
	index_rescan(scan, keys, 2, NULL, 0);
	if (!index_getnext_slot(scan, ForwardScanDirection, slot))
		return false;
	if (scan->xs_recheck)
		elog(ERROR, "a look-up by the primary key is not exact");

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
