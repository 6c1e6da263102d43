/*-------------------------------------------------------------------------
 *
 * purge.c
 *	  Removes old tombstones, the one way in which a row goes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_purge);

/*
 * docsync_purge(keep interval DEFAULT '90 days', collection text DEFAULT NULL)
 * RETURNS bigint
 *
 * Removes the tombstones that are older than keep, of one collection or of
 * all, and returns how many.  A client that has been away for longer, and so
 * may have missed one of them, is told to start again from the beginning.
 *
 * Locks: the rows removed, until the end of the transaction.
 */
Datum
docsync_purge(PG_FUNCTION_ARGS)
{
	text	   *collection = PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1);
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	TimestampTz before;
	TimestampTz horizon;
	int64		count;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("keep is null"),
				 errhint("Give the time for which tombstones are kept, such as 90 days.")));
	if (collection != NULL)
		docsync_batch_check_name(collection, "collection",
								 DOCSYNC_COLLECTION_LEN);

	before = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_mi_interval,
													 TimestampTzGetDatum(now),
													 PG_GETARG_DATUM(0)));
	if (before > now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("keep is negative"),
				 errhint("Give the time for which tombstones are kept, such as 90 days.")));

	count = docsync_store_purge(before, collection, &horizon);

	/*
	 * At once, before the tombstones are gone for others: a reader that finds
	 * the horizon ahead looks at what its own snapshot sees.
	 */
	if (count > 0)
		docsync_clock_advance(DOCSYNC_HORIZON, horizon);

	PG_RETURN_INT64(count);
}
