/*-------------------------------------------------------------------------
 *
 * record.c
 *	  Keeping the versions that lost, in docsync.record.
 *
 * Of two versions of a document one wins, and the body of the other would be
 * gone: of an upload that was discarded, or of the version that a newer one
 * replaced.  If the owner wants that, both are kept for some time.  They are
 * written in the transaction in which they lost.
 *
 * 1. Nobody waits here for anybody.  The key of a row ends with a stamp, which
 *	  no other row has; and surplus rows that somebody else is removing already
 *	  are skipped.  So it doesn't matter in which order transactions write here,
 *	  and they never deadlock.
 * 2. Rows are written as the table's owner, since nobody else may write them.
 *	  The caller makes sure that whoever sent the version that lost would have
 *	  been allowed to write it (keep.c).  Privileges and policies decide who may
 *	  read it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "docsync.h"

/*
 * The most documents, and bytes of bodies, that are kept in memory.  What a
 * statement of an upload replaces is never more.
 */
#define LIST_DOCUMENTS		500
#define LIST_SIZE			(2 * 1024 * 1024)

typedef struct Lost
{
	Datum		id;
	int64		client_version;
	Datum		client_id;
	bool		deleted;
	Datum		body;			/* 0: none */
	TimestampTz recorded_utc;
	RecordReason reason;
} Lost;

struct RecordList
{
	text	   *collection;
	int			most;			/* of a document */
	bool		is_sent;		/* they are as a client has sent them: the
								 * same may be there, and ids come again */
	MemoryContext context;		/* what the documents point to */
	int64		size;			/* bytes of bodies, as they are here */
	int			count;
	Lost		lost[LIST_DOCUMENTS];
};

/* How docsync.record names a reason */
static const char *const reasons[] = {
	[RECORD_DISCARDED] = "discarded",
	[RECORD_CONFLICT] = "conflict",
	[RECORD_REPLACED] = "replaced"
};

/*
 * Removes all but the newest of a document's rows, except for those that
 * somebody else is removing already.
 */
static Statement delete_surplus = {
	"DELETE FROM docsync.record WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY("
	" SELECT o.ctid FROM pg_catalog.unnest($2) AS surplus(id)"
	"  CROSS JOIN LATERAL (SELECT r.ctid FROM docsync.record AS r"
	"   WHERE r.collection OPERATOR(pg_catalog.=) $1"
	"     AND r.id OPERATOR(pg_catalog.=) surplus.id"
	"     AND r.recorded_utc OPERATOR(pg_catalog.<=)"
	"      (SELECT n.recorded_utc FROM docsync.record AS n"
	"        WHERE n.collection OPERATOR(pg_catalog.=) $1"
	"          AND n.id OPERATOR(pg_catalog.=) surplus.id"
	"        ORDER BY n.recorded_utc DESC OFFSET $3 LIMIT 1)"
	"   FOR UPDATE SKIP LOCKED) AS o))",
	3, {TEXTOID, TEXTARRAYOID, INT8OID},
	STATEMENT_PINNED | STATEMENT_OF_RECORD, NULL
};

/* Rows removed in a step */
#define STEP_ROWS			1000

#define LITTLE_OF_THIS \
	"DELETE FROM docsync.record WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY(" \
	" SELECT ctid FROM docsync.record"

/* In the order of the key, from where the last step has come to */
#define OLD_ROWS \
	LITTLE_OF_THIS \
	" WHERE (collection, id, recorded_utc) OPERATOR(pg_catalog.>) ($1, $2, $3)" \
	"   AND recorded_utc OPERATOR(pg_catalog.<) $4" \
	"   AND NOT EXISTS (SELECT FROM pg_catalog.unnest($6) AS closed(name)" \
	"    WHERE collection OPERATOR(pg_catalog.=) closed.name" \
	"       OR pg_catalog.starts_with(collection, closed.name OPERATOR(pg_catalog.||) '/'))"

#define IN_ORDER \
	" ORDER BY collection, id, recorded_utc LIMIT $5 FOR UPDATE SKIP LOCKED))" \
	" RETURNING collection, id, recorded_utc"

static Statement purge_all = {
	OLD_ROWS IN_ORDER,
	6, {TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, TEXTARRAYOID},
	STATEMENT_PINNED, NULL
};

static Statement purge_one = {
	OLD_ROWS " AND collection OPERATOR(pg_catalog.=) $7" IN_ORDER,
	7, {TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, TEXTARRAYOID, TEXTOID},
	STATEMENT_PINNED, NULL
};

static Statement erase = {
	LITTLE_OF_THIS
	" WHERE collection OPERATOR(pg_catalog.=) $1 LIMIT $2))",
	2, {TEXTOID, INT8OID}, STATEMENT_PINNED, NULL
};

static void insert(const RecordList *list, const Lost *lost, int count);
static Snapshot take_snapshot(void);
static int	count_rows(const RecordList *list, const Lost *lost,
					   Snapshot snapshot, bool *is_there);
static bool is_same(HeapTuple tuple, TupleDesc desc,
					const AttrNumber *attnums, const Lost *lost);
static void remove_surplus(const RecordList *list);
static bool note_purged(TupleTableSlot *slot, void *arg);

/*
 * Returns an empty list for versions that lost in a collection, in the current
 * memory context.  is_sent: they were never stored; otherwise they were, and
 * the list has at most one of a document at a time.
 */
RecordList *
docsync_record_begin(text *collection, const RetentionRule *rule, bool is_sent)
{
	RecordList *list = palloc(offsetof(RecordList, lost) +
							  sizeof(Lost) * LIST_DOCUMENTS);

	list->collection = collection;
	list->most = rule->most;
	list->is_sent = is_sent;
	list->context = AllocSetContextCreate(CurrentMemoryContext, "docsync record",
										  ALLOCSET_DEFAULT_SIZES);
	list->size = 0;
	list->count = 0;
	return list;
}

/*
 * Adds a copy of a version that lost to the list, for docsync_record_write().
 * If the list is full, its contents are written first.  recorded_utc is a
 * stamp that no other row has.
 */
void
docsync_record_add(RecordList *list, const StoredDocument *lost,
				   TimestampTz recorded_utc, RecordReason reason)
{
	MemoryContext oldcontext;
	Lost	   *entry;

	if (list->count == LIST_DOCUMENTS || list->size >= LIST_SIZE)
		docsync_record_write(list);

	oldcontext = MemoryContextSwitchTo(list->context);
	entry = &list->lost[list->count++];
	entry->id = datumCopy(PointerGetDatum(lost->id), false, -1);
	entry->client_version = lost->client_version;
	entry->client_id = datumCopy(PointerGetDatum(lost->client_id), false, -1);
	entry->deleted = lost->deleted;

	/*
	 * A toasted body stays readable until our transaction ends, although its
	 * row has been replaced.
	 */
	entry->body = lost->has_body ? datumCopy(lost->body, false, -1) : 0;
	entry->recorded_utc = recorded_utc;
	entry->reason = reason;
	if (lost->has_body)
		list->size += datumGetSize(lost->body, false, -1);
	MemoryContextSwitchTo(oldcontext);
}

/*
 * Writes the versions in the list, and empties it.
 *
 * A version that a client has sent may be there already, since clients repeat
 * an upload if they receive no answer.
 *
 * Locks: the rows removed, until the end of the transaction.  Nobody waits for
 * these locks.
 */
void
docsync_record_write(RecordList *list)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(list->context);

	if (list->is_sent)
	{
		for (int i = 0; i < list->count; i++)
		{
			Snapshot	snapshot = take_snapshot();
			bool		is_there;

			count_rows(list, &list->lost[i], snapshot, &is_there);
			UnregisterSnapshot(snapshot);
			if (!is_there)
				insert(list, &list->lost[i], 1);
		}
	}
	else if (list->count > 0)
		insert(list, list->lost, list->count);

	remove_surplus(list);
	MemoryContextSwitchTo(oldcontext);
	docsync_record_forget(list);
}

/* Empties the list without writing anything. */
void
docsync_record_forget(RecordList *list)
{
	list->count = 0;
	list->size = 0;
	MemoryContextReset(list->context);
}

/*
 * May the caller remove rows? (Policies can restrict which.)
 */
bool
docsync_record_may_remove(void)
{
	return pg_class_aclmask(docsync_schema_open(STORE_READ)->relations[STORE_RECORD],
							GetUserId(), ACL_SELECT | ACL_DELETE, ACLMASK_ALL) ==
		(ACL_SELECT | ACL_DELETE);
}

/*
 * Removes one step of the rows that are old enough, as the caller, but none of
 * a collection that isn't here, or is about to move, and is counted.  Returns
 * false if there are no more.
 */
bool
docsync_record_purge(RecordScan *scan)
{
	Datum		args[] = {
		CStringGetTextDatum(scan->collection),
		CStringGetTextDatum(scan->id),
		TimestampTzGetDatum(scan->recorded_utc),
		TimestampTzGetDatum(scan->before),
		Int64GetDatum(STEP_ROWS),
		PointerGetDatum(docsync_moved_list_closed()),
		PointerGetDatum(scan->only)
	};

	return docsync_statement_run(scan->only != NULL ? &purge_one : &purge_all,
								 args, note_purged, scan) == STEP_ROWS;
}

/*
 * Removes one step of the rows of a collection, as the caller.  Returns the
 * number of rows removed; 0 means that there are no more.
 */
uint64
docsync_record_erase(text *collection)
{
	Datum		args[] = {
		PointerGetDatum(collection),
		Int64GetDatum(STEP_ROWS)
	};

	return docsync_statement_run(&erase, args, NULL, NULL);
}

/*
 * Inserts rows.
 */
static void
insert(const RecordList *list, const Lost *lost, int count)
{
	Datum	   *values = palloc(sizeof(Datum) * RECORD_COLUMNS * count);
	bool	   *nulls = palloc0(sizeof(bool) * RECORD_COLUMNS * count);

	for (int i = 0; i < count; i++)
	{
		Datum	   *row = &values[i * RECORD_COLUMNS];

		row[RECORD_COLLECTION] = PointerGetDatum(list->collection);
		row[RECORD_ID] = lost[i].id;
		row[RECORD_RECORDED_UTC] = TimestampTzGetDatum(lost[i].recorded_utc);
		row[RECORD_CLIENT_VERSION] = Int64GetDatum(lost[i].client_version);
		row[RECORD_CLIENT_ID] = lost[i].client_id;
		row[RECORD_DELETED] = BoolGetDatum(lost[i].deleted);
		row[RECORD_BODY] = lost[i].body;
		nulls[i * RECORD_COLUMNS + RECORD_BODY] = lost[i].body == 0;
		row[RECORD_WHY] = CStringGetTextDatum(reasons[lost[i].reason]);
	}
	docsync_insert_rows(STORE_RECORD, RECORD_COLUMNS, values, nulls, count);
}

/*
 * Takes a snapshot that sees all committed rows and our own.  The caller
 * unregisters it.
 */
static Snapshot
take_snapshot(void)
{
	CommandCounterIncrement();
	return RegisterSnapshot(GetLatestSnapshot());
}

/*
 * Counts the rows of a document, up to one more than are allowed.  is_there,
 * if it isn't NULL, is set to whether one of them is the same version.
 */
static int
count_rows(const RecordList *list, const Lost *lost, Snapshot snapshot,
		   bool *is_there)
{
	const Store *store = docsync_schema_open(STORE_READ);
	const AttrNumber *attnums = store->attnums[STORE_RECORD];
	Relation	rel = table_open(store->relations[STORE_RECORD], AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	int			count = 0;

	ScanKeyEntryInitialize(&keys[0], 0, attnums[RECORD_COLLECTION],
						   BTEqualStrategyNumber, InvalidOid, C_COLLATION_OID,
						   F_TEXTEQ, PointerGetDatum(list->collection));
	ScanKeyEntryInitialize(&keys[1], 0, attnums[RECORD_ID],
						   BTEqualStrategyNumber, InvalidOid, C_COLLATION_OID,
						   F_TEXTEQ, lost->id);

	scan = systable_beginscan(rel, store->record_index, true, snapshot,
							  lengthof(keys), keys);
	if (is_there != NULL)
		*is_there = false;
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (is_there != NULL &&
			is_same(tuple, RelationGetDescr(rel), attnums, lost))
			*is_there = true;
		if (++count > list->most || (is_there != NULL && *is_there))
			break;
	}
	systable_endscan(scan);
	table_close(rel, NoLock);

	return count;
}

/* Is a row of the document the same version, whoever has sent it? */
static bool
is_same(HeapTuple tuple, TupleDesc desc, const AttrNumber *attnums,
		const Lost *lost)
{
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *isnull = palloc(sizeof(bool) * desc->natts);
	int			body = attnums[RECORD_BODY] - 1;
	bool		result;

	/* None of the others is null (check.c). */
	heap_deform_tuple(tuple, desc, values, isnull);
	if (DatumGetInt64(values[attnums[RECORD_CLIENT_VERSION] - 1]) != lost->client_version ||
		DatumGetBool(values[attnums[RECORD_DELETED] - 1]) != lost->deleted)
		result = false;
	else if (isnull[body] || lost->body == 0)
		result = isnull[body] && lost->body == 0;
	else
		result = DatumGetBool(DirectFunctionCall2(jsonb_eq, values[body],
												  lost->body));
	pfree(values);
	pfree(isnull);
	return result;
}

/*
 * Removes rows of the list's documents that are more than are to be kept, the
 * oldest ones.
 *
 * To count the rows of a document takes as long as to insert one.  So of
 * documents that are replaced one in "most" is looked at, by chance: most then
 * have up to twice as many rows, and a document that is written again and again
 * has no more than that on average.
 */
static void
remove_surplus(const RecordList *list)
{
	Datum	   *ids = NULL;
	Snapshot	snapshot = NULL;
	int			count = 0;
	Datum		args[3];

	for (int i = 0; i < list->count; i++)
	{
		if (!list->is_sent &&
			pg_prng_uint64_range(&pg_global_prng_state, 1, list->most) > 1)
			continue;
		if (snapshot == NULL)
		{
			ids = palloc(sizeof(Datum) * list->count);
			snapshot = take_snapshot();
		}
		if (count_rows(list, &list->lost[i], snapshot, NULL) > list->most)
			ids[count++] = list->lost[i].id;
	}
	if (snapshot != NULL)
		UnregisterSnapshot(snapshot);
	if (count == 0)
		return;

	args[0] = PointerGetDatum(list->collection);
	args[1] = PointerGetDatum(construct_array(ids, count, TEXTOID, -1, false,
											  TYPALIGN_INT));
	args[2] = Int64GetDatum(list->most);
	docsync_statement_run(&delete_surplus, args, NULL, NULL);
}

/*
 * RowCallback: remembers the last of the rows removed, in the order of the
 * key.
 */
static bool
note_purged(TupleTableSlot *slot, void *arg)
{
	RecordScan *scan = (RecordScan *) arg;
	char	   *collection = TextDatumGetCString(slot->tts_values[0]);
	char	   *id = TextDatumGetCString(slot->tts_values[1]);
	TimestampTz recorded_utc = DatumGetTimestampTz(slot->tts_values[2]);
	int			order = strcmp(collection, scan->collection);

	if (order == 0)
		order = strcmp(id, scan->id);
	if (order > 0 || (order == 0 && recorded_utc > scan->recorded_utc))
	{
		strlcpy(scan->collection, collection, sizeof(scan->collection));
		strlcpy(scan->id, id, sizeof(scan->id));
		scan->recorded_utc = recorded_utc;
	}
	return true;
}
