/*-------------------------------------------------------------------------
 *
 * revive.c
 *	  A document that was deleted is inserted again, by plain SQL.
 *
 * Whoever deletes a row and inserts it again, in psql or by a library that
 * knows nothing of docsync, isn't to be told of a tombstone that he cannot see
 * the sense of.  So the guard takes it away, and the row that is inserted has
 * a version above it.
 *
 * A tombstone that went, and no row in its place: readers who haven't had it
 * would keep the document for ever.  So it goes only where nothing but an
 * error, which brings it back, can come between this trigger and the row:
 *
 * 1. It is the last of the BEFORE triggers (check.c).
 * 2. An INSERT with ON CONFLICT DO NOTHING could meet a row in another unique
 *	  index, or by an exclusion constraint: where there is one, it stays.
 * 3. In the primary key the tombstone itself, which isn't dead before the end
 *	  of this transaction, keeps the place from others.
 *
 * It stays as well where others hear of a DELETE.  A foreign key that refers to
 * the table: DELETE didn't act on what refers to the document, and the
 * document's return mustn't, nor can the check be put off until the row is
 * there.  A trigger, or a rule: it may clear away what belongs to a document
 * that is deleted, and would do so when it returns.
 *
 * All of it is done as the caller, who must be allowed to select and delete.
 * Who isn't, or doesn't see the tombstone, is told what he was told before: a
 * duplicate key.
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

static bool may_delete(Relation rel);
static bool has_other_keys(Relation rel, Oid primary_key);
static bool note_deleted(const StoredDocument *stored, void *arg);
static bool receive_version(TupleTableSlot *slot, void *arg);

/*
 * Removes the tombstone of a document that is being inserted, and says which
 * version it had.  False if there is none, or it has to stay.
 */
bool
docsync_revive(Relation rel, text *collection, text *id, int64 *version)
{
	Datum		key = PointerGetDatum(id);
	Datum		args[] = {PointerGetDatum(collection), key};
	volatile bool removed = false;
	bool		deleted = false;
	uint64		found;
	const Store *store;
	TaskFrame	frame;

	if (!may_delete(rel))
		return false;

	/* Nearly always there is nothing, and that costs no statement. */
	if (docsync_probe_find(collection, &key, 1, note_deleted, &deleted, &found) == 1 &&
		!deleted)
		return false;
	store = docsync_schema_open(STORE_READ);
	if (store->is_delete_heard || has_other_keys(rel, store->document_index))
		return false;

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
 * May the caller select and delete rows?  (Policies say later which.)
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
 * Is there an index, beside the primary key's, that may refuse a row?
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
