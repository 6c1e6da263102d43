/*-------------------------------------------------------------------------
 *
 * guard.c
 *	  The trigger of docsync.document, which stamps every way of writing.
 *
 * docsync_upsert, psql, COPY, an administrator's UPDATE: whoever writes a row,
 * the stamp and the fence are set here, and no caller can choose them.  The
 * one exception is restoring a dump: an INSERT by the owner may bring a stamp
 * and a fence.  The stamp is kept, and so is the fence if it can be one of
 * this cluster's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_guard);

/* What a row gets besides a stamp and a fence */
typedef enum RestampEdit
{
	RESTAMP_ONLY,
	RESTAMP_CLIENT,				/* the server's client_id */
	RESTAMP_EDIT				/* and a version */
} RestampEdit;

static void note_written(TaskFrame *frame, const Row *new);
static void guard_insert(Row *new);
static void stamp_insert(Row *new);
static void clamp_fence(Row *new, FullTransactionId fence);
static bool guard_update(const Row *old, Row *new);
static void keep_replaced(const Row *old, const Row *new);
static void check_not_highest(const Row *row, int64 version);
static bool guard_delete(const Row *old);
static void restamp(Row *new, RestampEdit edit, int64 server_version);
static void open_store(Relation rel);
static void check_cascade(Relation rel);

/* The store, as opened for the row being handled */
static const Store *store;

/*
 * docsync_guard() RETURNS trigger
 */
Datum
docsync_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	Relation	rel;
	Row			old;
	Row			new;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BEFORE(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("docsync_guard() was not called as a BEFORE trigger")));

	rel = trigdata->tg_relation;
	open_store(rel);

	if (TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot truncate \"docsync.document\""),
				 errdetail("Clients would keep the documents forever, since nothing would tell them."),
				 errhint("Use DELETE, which leaves tombstones, and docsync_purge.")));

	if (!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("docsync_guard() must be a row trigger, except for TRUNCATE")));

	if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
	{
		new = docsync_row_read(store, rel, trigdata->tg_trigtuple);
		docsync_row_check(&new);
		guard_insert(&new);
		return PointerGetDatum(new.tuple);
	}
	if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
	{
		/*
		 * What an upload replaces must last until the row has been returned.
		 */
		old = docsync_row_read(store, rel, docsync_task_of_row(TASK_UPLOAD) != NULL ?
							   heap_copytuple(trigdata->tg_trigtuple) :
							   trigdata->tg_trigtuple);
		new = docsync_row_read(store, rel, trigdata->tg_newtuple);
		docsync_row_check(&new);
		return PointerGetDatum(guard_update(&old, &new) ? new.tuple : NULL);
	}

	if (docsync_task_of_row(TASK_PURGE) != NULL)
		return PointerGetDatum(trigdata->tg_trigtuple);

	/* The row stays, as a tombstone. */
	old = docsync_row_read(store, rel, trigdata->tg_trigtuple);
	return PointerGetDatum(guard_delete(&old) ? trigdata->tg_trigtuple : NULL);
}

/*
 * Notes what an upload is about to write: we are the last of the BEFORE
 * triggers.
 */
static void
note_written(TaskFrame *frame, const Row *new)
{
	frame->has_written = store->is_altered;
	if (store->is_altered)
	{
		/* The tuple that we were given doesn't live long enough. */
		Row			row = docsync_row_read(store, new->rel, new->tuple);

		docsync_row_document(&row, &frame->written);
	}
}

/*
 * Stamps a new row.  A row that brings its own stamp and fence, which only the
 * owner may insert, keeps them, and the clock is moved up to the stamp.
 */
static void
guard_insert(Row *new)
{
	TaskFrame  *frame = docsync_task_of_row(TASK_UPLOAD);
	bool		no_stamp;
	bool		no_fence;
	TimestampTz last_update_utc;
	FullTransactionId fence;

	last_update_utc = DatumGetTimestampTz(docsync_row_get(new, DOCUMENT_LAST_UPDATE_UTC,
														  &no_stamp));
	fence = DatumGetFullTransactionId(docsync_row_get(new, DOCUMENT_FENCE,
													  &no_fence));

	if (no_stamp && no_fence)
	{
		docsync_row_check_body(NULL, new);
		if (frame == NULL)
			stamp_insert(new);
		else
		{
			restamp(new, RESTAMP_ONLY, 0);
			frame->has_replaced = false;
			note_written(frame, new);
		}
		return;
	}

	if (!object_ownercheck(RelationRelationId, RelationGetRelid(new->rel), GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to set a stamp"),
				 errdetail("Only the owner of docsync.document may insert a last_update_utc and a fence, when restoring a dump."),
				 errhint("Leave them out.")));
	if (no_stamp || no_fence)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a stamp without a fence, or a fence without a stamp"),
				 errhint("Insert both last_update_utc and fence, as they were dumped, or neither.")));
	if (TIMESTAMP_NOT_FINITE(last_update_utc) ||
		last_update_utc <= SetEpochTimestamp())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("last_update_utc is infinite, or not after 1970-01-01")));

	/* The column's NOT NULL will say so. */
	if (docsync_row_text(new, DOCUMENT_COLLECTION) == NULL)
		return;

	/*
	 * Readers that are past its stamp by then won't get it.  Others must wait
	 * for it, as for anything stamped here; but not where there are none
	 * before everything has arrived.
	 */
	if (!docsync_moved_enter(docsync_row_text(new, DOCUMENT_COLLECTION), true))
	{
		docsync_stamp_mark_brought(docsync_row_text(new, DOCUMENT_COLLECTION),
								   last_update_utc);
		docsync_moved_check(docsync_row_text(new, DOCUMENT_COLLECTION));
		docsync_clock_advance(last_update_utc);
	}
	clamp_fence(new, fence);
}

/*
 * Stamps a row that is inserted by plain SQL.  If there is a tombstone with
 * the same or a higher version, the row gets the version above that and the
 * server's client_id: the client named in the row has never sent it.
 */
static void
stamp_insert(Row *new)
{
	text	   *collection = docsync_row_text(new, DOCUMENT_COLLECTION);
	text	   *id = docsync_row_text(new, DOCUMENT_ID);
	bool		isnull;
	int64		version = DatumGetInt64(docsync_row_get(new, DOCUMENT_CLIENT_VERSION, &isnull));
	int64		deleted_version;

	/* If one of them is null, the column's NOT NULL will say so. */
	if (collection == NULL || id == NULL || isnull ||
		!docsync_revive(new->rel, collection, id, &deleted_version) ||
		version > deleted_version)
	{
		restamp(new, RESTAMP_ONLY, 0);
		return;
	}

	check_not_highest(new, deleted_version);
	restamp(new, RESTAMP_EDIT, deleted_version + 1);
}

/*
 * A fence above our next transaction id comes from another cluster and means
 * nothing here.  A standby couldn't tell it from one of ours (settle.c), so it
 * is replaced by one of ours.
 */
static void
clamp_fence(Row *new, FullTransactionId fence)
{
	FullTransactionId next = ReadNextFullTransactionId();

	if (FullTransactionIdPrecedesOrEquals(fence, next))
		return;

	docsync_row_set(new, DOCUMENT_FENCE, FullTransactionIdGetDatum(next));
	docsync_row_form(new);
}

/*
 * Handles an UPDATE.  One by plain SQL that leaves client_version as it was is
 * an edit by the server.  It gets a new version, higher than the old one, and
 * the server's client_id, so that every client receives it and accepts it.
 *
 * Returns false if the row is to stay as it is.
 */
static bool
guard_update(const Row *old, Row *new)
{
	TaskFrame  *frame = docsync_task_of_row(TASK_UPLOAD);
	bool		isnull;
	int64		old_version;
	Datum		new_version;
	int64		now;

	if (!docsync_row_is_same(old, new, DOCUMENT_COLLECTION) ||
		!docsync_row_is_same(old, new, DOCUMENT_ID))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot change a document's collection or id"),
				 errdetail("Clients would keep the document under its old name forever."),
				 errhint("Insert it under the new name and delete the old one.")));

	old_version = DatumGetInt64(docsync_row_get(old, DOCUMENT_CLIENT_VERSION,
												&isnull));
	new_version = docsync_row_get(new, DOCUMENT_CLIENT_VERSION, &isnull);

	if (frame != NULL)
	{
		docsync_row_document(old, &frame->replaced);
		frame->has_replaced = true;
		if (!frame->may_replace(&frame->replaced, frame->arg))
			return false;
		restamp(new, RESTAMP_ONLY, 0);
		note_written(frame, new);
		return true;
	}

	docsync_row_check_body(old, new);

	/*
	 * If the UPDATE sets a version, but no client_id, that is an edit by the
	 * server, too: the client named in the row has never sent this version.
	 * If the version is null, the column's NOT NULL will say so.
	 */
	if (isnull || DatumGetInt64(new_version) != old_version)
		restamp(new, docsync_row_is_same(old, new, DOCUMENT_CLIENT_ID) ?
				RESTAMP_CLIENT : RESTAMP_ONLY, 0);
	else
	{
		check_not_highest(old, old_version);
		now = (GetCurrentTransactionStartTimestamp() - SetEpochTimestamp()) / 1000;
		restamp(new, RESTAMP_EDIT, Max(old_version + 1, now));
	}
	keep_replaced(old, new);
	return true;
}

/*
 * Keeps the version that plain SQL replaces, as uploads do, unless the new
 * version has the same body.
 */
static void
keep_replaced(const Row *old, const Row *new)
{
	const RetentionRule *rule = docsync_retention_find(docsync_row_text(old, DOCUMENT_COLLECTION));
	StoredDocument replaced;
	StoredDocument stored;
	RecordList *list;

	if (rule == NULL || rule->keep != RETENTION_REPLACED)
		return;

	docsync_row_document(old, &replaced);
	docsync_row_document(new, &stored);
	if (replaced.deleted == stored.deleted &&
		replaced.has_body == stored.has_body &&
		(!stored.has_body ||
		 datumIsEqual(replaced.body, stored.body, false, -1)))
		return;

	list = docsync_record_begin(docsync_row_text(old, DOCUMENT_COLLECTION), rule, false);
	docsync_record_add(list, &replaced, stored.last_update_utc,
					   RECORD_REPLACED);
	docsync_record_write(list);
}

/*
 * Makes sure that there is a version above the stored one of a row's document.
 * The error names it, since the statement may be for many.
 */
static void
check_not_highest(const Row *row, int64 version)
{
	if (version == PG_INT64_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("the document's client_version is the highest there is"),
				 errdetail("It is document \"%s\" of collection \"%s\".",
						   text_to_cstring(docsync_row_text(row, DOCUMENT_ID)),
						   text_to_cstring(docsync_row_text(row, DOCUMENT_COLLECTION))),
				 errhint("docsync_rebase() gives it a lower one.")));
}

/*
 * Turns the row into a tombstone, by an UPDATE as the caller.  Does nothing if
 * it is one already.
 *
 * Returns true if the row is to be removed instead: nobody needs tombstones in
 * a collection that isn't in use here.
 */
static bool
guard_delete(const Row *old)
{
	bool		isnull;

	if (object_ownercheck(RelationRelationId, RelationGetRelid(old->rel), GetUserId()) &&
		docsync_moved_enter(docsync_row_text(old, DOCUMENT_COLLECTION), false))
		return true;

	/* A tombstone stays as it is: nothing has changed for anybody. */
	if (DatumGetBool(docsync_row_get(old, DOCUMENT_DELETED, &isnull)))
		return false;

	check_cascade(old->rel);

	/*
	 * The row is there, and locked: if it isn't found, we aren't allowed to.
	 */
	if (!docsync_store_bury(docsync_row_get(old, DOCUMENT_COLLECTION, &isnull),
							docsync_row_get(old, DOCUMENT_ID, &isnull)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot turn the document into a tombstone"),
				 errdetail("DELETE on docsync.document becomes an UPDATE, and a policy or a trigger has kept that from the row.")));
	return false;
}

/*
 * Refuses the DELETE if there is a foreign key with ON DELETE CASCADE.  It
 * would be broken silently, in either direction, since the row stays, as a
 * tombstone.
 */
static void
check_cascade(Relation rel)
{
	const char *constraint = NULL;
	TriggerDesc *triggers = CopyTriggerDesc(rel->trigdesc);
	List	   *keys = copyObject(RelationGetFKeyList(rel));
	ListCell   *cell;

	/* We use copies: the relcache entry may be rebuilt by any lookup. */
	for (int i = 0; i < triggers->numtriggers; i++)
	{
		if (triggers->triggers[i].tgfoid == F_RI_FKEY_CASCADE_DEL)
			constraint = get_constraint_name(triggers->triggers[i].tgconstraint);
	}
	foreach(cell, keys)
	{
		Oid			oid = lfirst_node(ForeignKeyCacheInfo, cell)->conoid;
		HeapTuple	tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(oid));

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for constraint %u", oid);
		if (((Form_pg_constraint) GETSTRUCT(tuple))->confdeltype == FKCONSTR_ACTION_CASCADE)
			constraint = get_constraint_name(oid);
		ReleaseSysCache(tuple);
	}

	if (constraint != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot delete a document along with foreign key \"%s\"", constraint),
				 errdetail("A deleted document stays, as a tombstone, so ON DELETE CASCADE would be broken silently."),
				 errhint("Declare the foreign key without it, and delete the referencing rows by a trigger.")));
}

/*
 * Stamps the row, and if it is the server's edit, sets its client_id and
 * version.
 */
static void
restamp(Row *new, RestampEdit edit, int64 server_version)
{
	TimestampTz last_update_utc;
	FullTransactionId fence;
	text	   *collection = docsync_row_text(new, DOCUMENT_COLLECTION);

	/* The column's NOT NULL will say so. */
	if (collection == NULL)
		return;

	/* The reservation is for the upload's own rows only. */
	if (docsync_task_of_row(TASK_UPLOAD) != NULL)
	{
		if (!docsync_stamp_is_reserved(collection))
			docsync_epoch_notice();
		docsync_stamp_take_reserved(collection, &last_update_utc, &fence);
	}
	else
	{
		docsync_epoch_notice();
		docsync_stamp_take(collection, &last_update_utc, &fence);
	}

	docsync_row_set(new, DOCUMENT_LAST_UPDATE_UTC, TimestampTzGetDatum(last_update_utc));
	docsync_row_set(new, DOCUMENT_FENCE, FullTransactionIdGetDatum(fence));
	if (edit != RESTAMP_ONLY)
		docsync_row_set(new, DOCUMENT_CLIENT_ID, CStringGetTextDatum(DOCSYNC_SERVER_ID));
	if (edit == RESTAMP_EDIT)
		docsync_row_set(new, DOCUMENT_CLIENT_VERSION, Int64GetDatum(server_version));
	docsync_row_form(new);
}

/*
 * Opens the store.  The statement that fires the trigger has a lock on the
 * table, so while no invalidation has arrived since the store was checked,
 * nothing more is needed here; stamping opens it fully (clock.c).
 *
 * The function can't be used on another table.
 */
static void
open_store(Relation rel)
{
	if (store == NULL || !docsync_schema_is_checked())
		store = docsync_schema_open(STORE_READ);
	if (RelationGetRelid(rel) != store->relations[STORE_DOCUMENT])
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("docsync_guard() is for docsync.document, not for \"%s\"",
						RelationGetRelationName(rel))));
}
