/*-------------------------------------------------------------------------
 *
 * repair.c
 *	  Giving documents new stamps, so that they are delivered again.
 *
 * If somebody may see a document only from now on, for example because it was
 * shared with him, its stamp is old: his client has passed it, and would never
 * receive it.  With a new stamp it is delivered like a document that has
 * changed.  Its version stays the same: for a client that has it already
 * nothing changes, and edits of it are still based on it.
 *
 * (docsync_restore() and docsync_rebase(), the other functions for repair, are
 * written in SQL.)
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_restamp);

static Datum *read_ids(ArrayType *array, int *count);
static int	compare_ids(const void *a, const void *b);

/*
 * docsync_restamp(collection text, ids text[]) RETURNS bigint
 *
 * Updates the documents as the caller.  Returns how many there were.
 *
 * Locks: the rows, in the order of ids as uploads do, and the collection's
 * mark, until the end of the transaction.
 */
Datum
docsync_restamp(PG_FUNCTION_ARGS)
{
	text	   *collection = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	Datum	   *ids;
	int			count;
	int64		restamped = 0;

	docsync_text_check_name(collection, "collection", DOCSYNC_COLLECTION_LEN);
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("ids is null")));
	ids = read_ids(PG_GETARG_ARRAYTYPE_P(1), &count);
	PreventCommandIfReadOnly("docsync_restamp()");
	PreventCommandIfParallelMode("docsync_restamp()");
	docsync_schema_open(STORE_READ);
	docsync_schema_check_caller(ACL_UPDATE);

	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();

		if (i == 0 || compare_ids(&ids[i - 1], &ids[i]) != 0)
			restamped += docsync_store_restamp(collection, ids[i]);
	}

	PG_RETURN_INT64(restamped);
}

/* Returns the ids, sorted. */
static Datum *
read_ids(ArrayType *array, int *count)
{
	Datum	   *ids;
	bool	   *isnull;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &ids, &isnull,
					  count);
	for (int i = 0; i < *count; i++)
	{
		if (isnull[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("one of the ids is null")));
	}
	qsort(ids, *count, sizeof(Datum), compare_ids);
	return ids;
}

/* For qsort: bytewise */
static int
compare_ids(const void *a, const void *b)
{
	const text *one = DatumGetTextPP(*(const Datum *) a);
	const text *other = DatumGetTextPP(*(const Datum *) b);

	return docsync_text_compare(VARDATA_ANY(one), VARSIZE_ANY_EXHDR(one),
								VARDATA_ANY(other), VARSIZE_ANY_EXHDR(other));
}
