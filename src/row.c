/*-------------------------------------------------------------------------
 *
 * row.c
 *	  A row of docsync.document on its way to the table: its columns, and what
 *	  they may be.
 *
 * A row is deformed once; fetching its columns one by one would take longer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "utils/datum.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "docsync.h"

static void check_length(const Row *new, int column, int max_len);

/* Deforms a tuple.  The values point into it. */
Row
docsync_row_read(const Store *store, Relation rel, HeapTuple tuple)
{
	int			natts = RelationGetNumberOfAttributes(rel);
	Row			row = {
		.rel = rel,
		.attnums = store->attnums[STORE_DOCUMENT],
		.tuple = tuple,
		.values = palloc(sizeof(Datum) * natts),
		.isnull = palloc(sizeof(bool) * natts)
	};

	heap_deform_tuple(tuple, RelationGetDescr(rel), row.values, row.isnull);
	return row;
}

/*
 * Changes the value of a column; docsync_row_form() then makes the tuple.
 */
void
docsync_row_set(Row *row, int column, Datum value)
{
	int			place = row->attnums[column] - 1;

	row->values[place] = value;
	row->isnull[place] = false;
}

/*
 * Forms the tuple again, with the identity of the old one.
 */
void
docsync_row_form(Row *row)
{
	HeapTuple	old = row->tuple;

	row->tuple = heap_form_tuple(RelationGetDescr(row->rel), row->values,
								 row->isnull);
	row->tuple->t_data->t_ctid = old->t_data->t_ctid;
	row->tuple->t_self = old->t_self;
	row->tuple->t_tableOid = old->t_tableOid;
}

/* Returns a row as a document, which points into the row and has no tid. */
void
docsync_row_document(const Row *row, StoredDocument *stored)
{
	bool		isnull;

	stored->id = docsync_row_text(row, DOCUMENT_ID);
	stored->client_version =
		DatumGetInt64(docsync_row_get(row, DOCUMENT_CLIENT_VERSION,
									  &isnull));
	stored->client_id = docsync_row_text(row, DOCUMENT_CLIENT_ID);
	stored->last_update_utc =
		DatumGetTimestampTz(docsync_row_get(row, DOCUMENT_LAST_UPDATE_UTC,
											&isnull));
	stored->deleted = DatumGetBool(docsync_row_get(row, DOCUMENT_DELETED,
												   &isnull));
	stored->body = docsync_row_get(row, DOCUMENT_BODY, &isnull);
	stored->has_body = !isnull;
	stored->fence =
		DatumGetFullTransactionId(docsync_row_get(row, DOCUMENT_FENCE,
												  &isnull));
	ItemPointerSetInvalid(&stored->tid);
}

/* The value of a column, which means nothing if isnull is set. */
Datum
docsync_row_get(const Row *row, int column, bool *isnull)
{
	int			place = row->attnums[column] - 1;

	*isnull = row->isnull[place];
	return row->values[place];
}

/* NULL if it is null. */
text *
docsync_row_text(const Row *row, int column)
{
	bool		isnull;
	Datum		value = docsync_row_get(row, column, &isnull);

	return isnull ? NULL : DatumGetTextPP(value);
}

/* Has a column, which wasn't null before, kept its value? */
bool
docsync_row_is_same(const Row *old, const Row *new, int column)
{
	text	   *was = docsync_row_text(old, column);
	text	   *is = docsync_row_text(new, column);

	return is != NULL && docsync_text_is_same(was, is);
}

/*
 * Checks what would be CHECK constraints, if the server didn't parse those
 * again for each statement, which takes a fifth of the time for storing a
 * single document.
 */
void
docsync_row_check(const Row *new)
{
	bool		deleted_isnull;
	bool		body_isnull;
	Datum		deleted;

	/* For nulls the columns' NOT NULL will say so. */
	check_length(new, DOCUMENT_COLLECTION, DOCSYNC_COLLECTION_LEN);
	check_length(new, DOCUMENT_ID, DOCSYNC_ID_LEN);
	check_length(new, DOCUMENT_CLIENT_ID, DOCSYNC_CLIENT_ID_LEN);

	deleted = docsync_row_get(new, DOCUMENT_DELETED, &deleted_isnull);
	docsync_row_get(new, DOCUMENT_BODY, &body_isnull);
	if (body_isnull && !deleted_isnull && !DatumGetBool(deleted))
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("the document has no body"),
				 errhint("Only a deleted document may have none.")));
}

/*
 * Checks the body of a row written by plain SQL against the limits for
 * uploads.  (Uploads themselves have been checked already.)  A body that was
 * there before, or that is restored, may be beyond them: more may have been
 * allowed then.
 */
void
docsync_row_check_body(const Row *old, const Row *new)
{
	RefusePlace place = {.key = "body",.offset = -1};
	bool		isnull;
	Datum		body = docsync_row_get(new, DOCUMENT_BODY, &isnull);
	JsonbValue	value;
	BodyFault	fault;

	if (isnull || docsync_task_of_row(TASK_UPLOAD) != NULL)
		return;
	if (old != NULL)
	{
		Datum		was = docsync_row_get(old, DOCUMENT_BODY, &isnull);

		if (!isnull && datumIsEqual(was, body, false, -1))
			return;
	}

	JsonbToJsonbValue(DatumGetJsonbP(body), &value);
	fault = docsync_body_check(&value);
	if (fault != BODY_FINE)
		docsync_refuse_raise(docsync_body_describe(&place, fault));
}

/* Refuses a text that is empty or has more than max_len bytes. */
static void
check_length(const Row *new, int column, int max_len)
{
	text	   *value = docsync_row_text(new, column);

	if (value != NULL)
		docsync_text_check_name(value,
								NameStr(TupleDescAttr(RelationGetDescr(new->rel),
													  new->attnums[column] - 1)->attname),
								max_len);
}
