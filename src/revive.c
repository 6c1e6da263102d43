/*-------------------------------------------------------------------------
 *
 * revive.c
 *	  A deleted document is inserted again, by plain SQL.
 *
 * Somebody who deletes a row and inserts it again, in psql or by a library
 * that knows nothing of docsync, should not be bothered with a tombstone.  So
 * the guard removes it, and the inserted row gets a higher version.
 *
 * If the tombstone were removed without a row in its place, readers that
 * haven't received it would keep the document forever.  So it is removed only
 * where nothing but an error, which brings it back, can happen between this
 * trigger and the insertion of the row:
 *
 * 1. The guard is the last of the BEFORE triggers (check.c).
 * 2. An INSERT with ON CONFLICT DO NOTHING could conflict with a row in
 *	  another unique index, or by an exclusion constraint: if there is one, the
 *	  tombstone stays.
 * 3. In the primary key the tombstone itself, which isn't dead before the end
 *	  of this transaction, keeps others out.
 *
 * The tombstone also stays where something else fires for a DELETE.  With a
 * foreign key that refers to the table: the document's deletion didn't affect
 * the referencing rows, so its return mustn't either, and the check can't be
 * deferred until the new row is there.  With a trigger or a rule: it may clean
 * up after a deleted document, and would do so when the document returns.
 *
 * All of this is done as the caller, who must be allowed to select and delete.
 * A caller who isn't, or who doesn't see the tombstone, still gets the
 * duplicate key error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/rel.h"

#include "docsync.h"

static Statement delete_tombstone = {
	"DELETE FROM docsync.document"
	" WHERE collection OPERATOR(pg_catalog.=) $1"
	"   AND id OPERATOR(pg_catalog.=) $2"
	"   AND deleted"
	" RETURNING client_version",
	2, {TEXTOID, TEXTOID}, STATEMENT_PINNED | STATEMENT_OF_TASK, NULL
};

static bool remove_tombstone(text *collection, text *id, int64 *version);
static bool may_delete(Relation rel);
static bool has_other_keys(Relation rel, Oid primary_key);
static bool note_deleted(const StoredDocument *stored, void *arg);
static bool receive_version(TupleTableSlot *slot, void *arg);

/*
 * Removes the tombstone of a document that is being inserted, and returns its
 * version.  Returns false if there is none, or it has to stay.
 */
bool
docsync_revive(Relation rel, text *collection, text *id, int64 *version)
{
	Datum		key = PointerGetDatum(id);
	bool		deleted = false;
	uint64		found;
	const Store *store;

	if (!may_delete(rel))
		return false;

	/*
	 * Nearly always nothing is stored, and finding that out takes no
	 * statement.
	 */
	if (docsync_probe_find(collection, &key, 1, note_deleted, &deleted, &found) == 1 &&
		!deleted)
		return false;
	store = docsync_schema_open(STORE_READ);
	if (store->is_delete_heard || has_other_keys(rel, store->document_index))
		return false;

	return remove_tombstone(collection, id, version);
}

/*
 * Removes a tombstone, and returns its version.  Returns false if there is
 * none.
 */
static bool
remove_tombstone(text *collection, text *id, int64 *version)
{
	Datum		args[] = {PointerGetDatum(collection), PointerGetDatum(id)};
	volatile bool removed = false;
	TaskFrame	frame;

	frame = docsync_task_enter(TASK_PURGE, NULL, NULL);
	PG_TRY();
	{
		removed = docsync_statement_run(&delete_tombstone, args, receive_version,
										version) > 0;
	}
	PG_FINALLY();
	{
		docsync_task_leave(&frame);
	}
	PG_END_TRY();

	return removed;
}

/*
 * May the caller select and delete rows?  (Policies decide later which.)
 */
static bool
may_delete(Relation rel)
{
	return pg_class_aclmask(RelationGetRelid(rel), GetUserId(),
							ACL_SELECT | ACL_DELETE, ACLMASK_ALL) ==
		(ACL_SELECT | ACL_DELETE) &&
		object_aclcheck(NamespaceRelationId, RelationGetNamespace(rel),
						GetUserId(), ACL_USAGE) == ACLCHECK_OK;
}

/*
 * Is there an index, besides the primary key's, that may refuse a row?
 */
static bool
has_other_keys(Relation rel, Oid primary_key)
{
	List	   *indexes = RelationGetIndexList(rel);
	bool		result = false;
	ListCell   *cell;

	foreach(cell, indexes)
	{
		Relation	index;

		if (lfirst_oid(cell) == primary_key)
			continue;
		index = index_open(lfirst_oid(cell), AccessShareLock);
		if (index->rd_index->indisunique || index->rd_index->indisexclusion)
			result = true;
		index_close(index, NoLock);
	}
	list_free(indexes);
	return result;
}

/* StoredCallback: is it a tombstone? */
static bool
note_deleted(const StoredDocument *stored, void *arg)
{
	*(bool *) arg = stored->deleted;
	return false;
}

/* RowCallback: the tombstone's version */
static bool
receive_version(TupleTableSlot *slot, void *arg)
{
	*(int64 *) arg = DatumGetInt64(slot->tts_values[0]);
	return true;
}
