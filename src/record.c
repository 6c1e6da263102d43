/*-------------------------------------------------------------------------
 *
 * record.c
 *	  What lost is kept: docsync.keep says of which collections, docsync.record
 *	  has it.
 *
 * Of two versions of a document one wins, and the other one's body would be
 * gone: what an upload was discarded with, and what a newer version replaced.
 * Where the owner wants it, both are kept for a while, in the transaction that
 * they lost in.
 *
 * 1. Nobody waits here for anybody.  A row's key ends in a stamp, which is
 *	  nobody else's; what is too much for a document is removed unless somebody
 *	  is at it already.  So the order in which transactions come to it doesn't
 *	  matter, and there are no deadlocks.
 * 2. Where nothing is kept it costs two comparisons.  Rules are read when the
 *	  store has been checked anew, and who changes one has everybody check
 *	  (docsync_keep_changed()).
 * 3. Rows are written as the table's owner: they are nobody's to write.  Whose
 *	  upload has lost must have been allowed to write it, and the caller sees to
 *	  that (keep.c); who may read it is for privileges and policies to say.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_keep_changed);

/*
 * Documents, and bytes of bodies, that are kept in memory, and that are written
 * by one statement.  What a statement of an upload's replaces is never more.
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

/* Documents of which there are more than enough, and since when */
typedef struct Surplus
{
	int			count;
	Datum		ids[LIST_DOCUMENTS];
	Datum		stamps[LIST_DOCUMENTS];
} Surplus;

/* How docsync.record names a reason */
static const char *const reasons[] = {
	[RECORD_DISCARDED] = "discarded",
	[RECORD_CONFLICT] = "conflict",
	[RECORD_REPLACED] = "replaced"
};

/* What is kept, the rule that counts first in front */
static RecordRule *rules = NULL;
static int	nrules = 0;
static MemoryContext rules_context = NULL;
static uint64 rules_version = 0;	/* the store's, when they were read */

#define ADD \
	"INSERT INTO docsync.record AS r (collection, id, client_version," \
	" client_id, deleted, body, why, recorded_utc) "

/* The newest of a document's rows that there is no room for */
#define NEWEST_SURPLUS(id, most) \
	"(SELECT o.recorded_utc FROM docsync.record AS o" \
	"  WHERE o.collection OPERATOR(pg_catalog.=) $1" \
	"    AND o.id OPERATOR(pg_catalog.=) " id \
	"  ORDER BY o.recorded_utc DESC OFFSET " most " LIMIT 1)"

/*
 * It doesn't see the rows that are being added: of each document one, so $9 is
 * one less than may stay.
 */
#define ADDED \
	" RETURNING r.id, " NEWEST_SURPLUS("r.id", "$9")

static Statement add_one = {
	ADD "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)" ADDED,
	9, {TEXTOID, TEXTOID, INT8OID, TEXTOID, BOOLOID, JSONBOID, TEXTOID,
	TIMESTAMPTZOID, INT8OID}, STATEMENT_PINNED | STATEMENT_OF_RECORD, NULL
};

static Statement add_many = {
	ADD "SELECT $1, pg_catalog.unnest($2), pg_catalog.unnest($3),"
	" pg_catalog.unnest($4), pg_catalog.unnest($5), pg_catalog.unnest($6),"
	" pg_catalog.unnest($7), pg_catalog.unnest($8)" ADDED,
	9, {TEXTOID, TEXTARRAYOID, INT8ARRAYOID, TEXTARRAYOID, BOOLARRAYOID,
	JSONBARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID, INT8OID},
	STATEMENT_PINNED | STATEMENT_OF_RECORD, NULL
};

/*
 * A client sends again what it has had no answer for.  OFFSET 0 keeps the
 * planner from making a join of it, for which it might read the collection.
 */
static Statement add_new = {
	ADD "SELECT $1, lost.* FROM ROWS FROM (pg_catalog.unnest($2),"
	" pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5),"
	" pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8))"
	" AS lost(id, client_version, client_id, deleted, body, why, recorded_utc)"
	" WHERE NOT EXISTS (SELECT FROM docsync.record AS same"
	"  WHERE same.collection OPERATOR(pg_catalog.=) $1"
	"    AND same.id OPERATOR(pg_catalog.=) lost.id"
	"    AND same.client_version OPERATOR(pg_catalog.=) lost.client_version"
	"    AND same.deleted OPERATOR(pg_catalog.=) lost.deleted"
	"    AND (same.body OPERATOR(pg_catalog.=) lost.body"
	"         OR (same.body IS NULL AND lost.body IS NULL)) OFFSET 0)",
	8, {TEXTOID, TEXTARRAYOID, INT8ARRAYOID, TEXTARRAYOID, BOOLARRAYOID,
	JSONBARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID},
	STATEMENT_PINNED | STATEMENT_OF_RECORD, NULL
};

static Statement find_surplus = {
	"SELECT lost.id, " NEWEST_SURPLUS("lost.id", "$3")
	"  FROM (SELECT DISTINCT sent.id FROM pg_catalog.unnest($2) AS sent(id)) AS lost",
	3, {TEXTOID, TEXTARRAYOID, INT8OID},
	STATEMENT_PINNED | STATEMENT_OF_RECORD, NULL
};

static Statement delete_surplus = {
	"DELETE FROM docsync.record WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY("
	" SELECT o.ctid FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3))"
	"  AS surplus(id, recorded_utc)"
	"  CROSS JOIN LATERAL (SELECT r.ctid FROM docsync.record AS r"
	"   WHERE r.collection OPERATOR(pg_catalog.=) $1"
	"     AND r.id OPERATOR(pg_catalog.=) surplus.id"
	"     AND r.recorded_utc OPERATOR(pg_catalog.<=) surplus.recorded_utc"
	"   FOR UPDATE SKIP LOCKED) AS o))",
	3, {TEXTOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID},
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
	"   AND recorded_utc OPERATOR(pg_catalog.<) $4"

#define IN_ORDER \
	" ORDER BY collection, id, recorded_utc LIMIT $5 FOR UPDATE SKIP LOCKED))" \
	" RETURNING collection, id, recorded_utc"

static Statement purge_all = {
	OLD_ROWS IN_ORDER,
	5, {TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID},
	STATEMENT_PINNED, NULL
};

static Statement purge_one = {
	OLD_ROWS " AND collection OPERATOR(pg_catalog.=) $6" IN_ORDER,
	6, {TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, TEXTOID},
	STATEMENT_PINNED, NULL
};

static Statement erase = {
	LITTLE_OF_THIS
	" WHERE collection OPERATOR(pg_catalog.=) $1 LIMIT $2))",
	2, {TEXTOID, INT8OID}, STATEMENT_PINNED, NULL
};

static void read_rules(const Store *store);
static void read_rule(RecordRule *rule, HeapTuple tuple, TupleDesc desc,
					  const AttrNumber *attnums);
static int	compare_rules(const void *a, const void *b);
static void write_some(RecordList *list, int from, int count,
					   Surplus *surplus);
static void make_arrays(const Lost *lost, int count, Datum *arrays);
static Datum make_array(Datum *values, int count, Oid type);
static void remove_surplus(const RecordList *list, Surplus *surplus);
static bool note_surplus(TupleTableSlot *slot, void *arg);
static bool note_purged(TupleTableSlot *slot, void *arg);

/*
 * docsync_keep_changed() RETURNS trigger
 *
 * Of docsync.keep: whoever has the rules is to read them anew, when this
 * transaction has committed.
 */
Datum
docsync_keep_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	Oid			document;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("docsync_keep_changed() was not called as a trigger")));

	/* It isn't for us to say what is wrong with the store, if anything is. */
	document = get_relname_relid(docsync_check_name(STORE_DOCUMENT),
								 RelationGetNamespace(trigdata->tg_relation));
	if (OidIsValid(document))
		CacheInvalidateRelcacheByRelid(document);
	return PointerGetDatum(NULL);
}

/*
 * What is kept of a collection; NULL: nothing.  It holds until the store is
 * opened again.
 */
const RecordRule *
docsync_record_find_rule(const text *collection)
{
	const Store *store = docsync_schema_open(STORE_READ);

	if (rules_version != store->version)
		read_rules(store);

	for (int i = 0; i < nrules; i++)
	{
		if (DatumGetBool(DirectFunctionCall2Coll(textlike, C_COLLATION_OID,
												 PointerGetDatum(collection),
												 PointerGetDatum(rules[i].pattern))))
			return rules[i].keep == RECORD_KEEP_NONE ? NULL : &rules[i];
	}
	return NULL;
}

/*
 * An empty list of what has lost in a collection, in the current memory
 * context.  is_sent: before it was stored; else it was, and no two of one
 * document come between two writes.
 */
RecordList *
docsync_record_begin(text *collection, const RecordRule *rule, bool is_sent)
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
 * Adds a copy of a version that has lost, for docsync_record_write(), and
 * writes what is in the list already if there is no more room.  The stamp is
 * one that no other row has.
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
	 * What lies elsewhere is there until our transaction has ended, though the
	 * row that it was of has been replaced.
	 */
	entry->body = lost->has_body ? datumCopy(lost->body, false, -1) : 0;
	entry->recorded_utc = recorded_utc;
	entry->reason = reason;
	if (lost->has_body)
		list->size += datumGetSize(lost->body, false, -1);
	MemoryContextSwitchTo(oldcontext);
}

/*
 * Writes what is in the list, which is empty then.
 *
 * Locks: rows removed, until the end of the transaction.  Nobody waits for
 * them.
 */
void
docsync_record_write(RecordList *list)
{
	MemoryContext context = AllocSetContextCreate(list->context,
												  "docsync record write",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	int			to;

	for (int from = 0; from < list->count; from = to)
	{
		Surplus    *surplus = palloc(sizeof(Surplus));
		int64		size = 0;

		to = from;
		do
		{
			if (list->lost[to].body != 0)
				size += toast_raw_datum_size(list->lost[to].body);
		} while (++to < list->count && size < LIST_SIZE);

		surplus->count = 0;
		write_some(list, from, to - from, surplus);
		remove_surplus(list, surplus);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(oldcontext);
	docsync_record_forget(list);
}

/* Empties the list, of which nothing is written. */
void
docsync_record_forget(RecordList *list)
{
	list->count = 0;
	list->size = 0;
	MemoryContextReset(list->context);
}

/*
 * Removes some rows that are old enough, as the caller; false if there are no
 * more.
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
		PointerGetDatum(scan->only)
	};

	return docsync_statement_run(scan->only != NULL ? &purge_one : &purge_all,
								 args, note_purged, scan) == STEP_ROWS;
}

/*
 * Removes some rows of a collection, as the caller, and returns how many; 0 if
 * there are no more.
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
 * Reads docsync.keep, past privileges and row-level security: what is kept
 * doesn't depend on the caller's rights.
 *
 * A rule that is committed after our snapshot comes with an invalidation, by
 * which the store's version is another one; so the next who asks reads again.
 */
static void
read_rules(const Store *store)
{
	uint64		version = store->version;
	Relation	rel = table_open(store->relations[STORE_KEEP], AccessShareLock);
	AttrNumber	attnums[STORE_COLUMNS_MAX];
	MemoryContext context;
	MemoryContext oldcontext;
	RecordRule *read;
	int			count = 0;
	int			size = 8;
	Snapshot	snapshot;
	SysScanDesc scan;
	HeapTuple	tuple;

	memcpy(attnums, store->attnums[STORE_KEEP], sizeof(attnums));
	context = AllocSetContextCreate(CurrentMemoryContext, "docsync keep",
									ALLOCSET_SMALL_SIZES);
	oldcontext = MemoryContextSwitchTo(context);

	CommandCounterIncrement();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);
	read = palloc(sizeof(RecordRule) * size);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (count == size)
		{
			size *= 2;
			read = repalloc(read, sizeof(RecordRule) * size);
		}
		read_rule(&read[count++], tuple, RelationGetDescr(rel), attnums);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
	qsort(read, count, sizeof(RecordRule), compare_rules);

	MemoryContextSwitchTo(oldcontext);
	MemoryContextSetParent(context, TopMemoryContext);
	if (rules_context != NULL)
		MemoryContextDelete(rules_context);
	rules_context = context;
	rules = read;
	nrules = count;
	rules_version = version;
}

/* A row of docsync.keep.  Its constraints have seen to the values. */
static void
read_rule(RecordRule *rule, HeapTuple tuple, TupleDesc desc,
		  const AttrNumber *attnums)
{
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *isnull = palloc(sizeof(bool) * desc->natts);
	char	   *keep;

	/* None of them is null (check.c). */
	heap_deform_tuple(tuple, desc, values, isnull);
	keep = TextDatumGetCString(values[attnums[KEEP_KEEP] - 1]);
	rule->pattern = DatumGetTextPCopy(values[attnums[KEEP_PATTERN] - 1]);
	rule->most = Max(DatumGetInt32(values[attnums[KEEP_MOST] - 1]), 1);
	rule->keep = strcmp(keep, "replaced") == 0 ? RECORD_KEEP_REPLACED :
		strcmp(keep, "discarded") == 0 ? RECORD_KEEP_DISCARDED :
		RECORD_KEEP_NONE;
}

/* For qsort: the longest pattern first, of those the first in bytes */
static int
compare_rules(const void *a, const void *b)
{
	const text *one = ((const RecordRule *) a)->pattern;
	const text *other = ((const RecordRule *) b)->pattern;
	int			len = VARSIZE_ANY_EXHDR(one);
	int			other_len = VARSIZE_ANY_EXHDR(other);

	if (len != other_len)
		return len < other_len ? 1 : -1;
	return docsync_text_compare(VARDATA_ANY(one), len,
								VARDATA_ANY(other), other_len);
}

/*
 * Writes some of a list, and finds out of which documents there is too much
 * then.
 */
static void
write_some(RecordList *list, int from, int count, Surplus *surplus)
{
	const Lost *lost = &list->lost[from];
	Datum		args[9];

	args[0] = PointerGetDatum(list->collection);
	args[8] = Int64GetDatum(list->most - 1);
	if (count == 1 && !list->is_sent)
	{
		args[1] = lost->id;
		args[2] = Int64GetDatum(lost->client_version);
		args[3] = lost->client_id;
		args[4] = BoolGetDatum(lost->deleted);
		args[5] = lost->body;
		args[6] = CStringGetTextDatum(reasons[lost->reason]);
		args[7] = TimestampTzGetDatum(lost->recorded_utc);
		docsync_statement_run(&add_one, args, note_surplus, surplus);
		return;
	}

	make_arrays(lost, count, &args[1]);
	if (!list->is_sent)
		docsync_statement_run(&add_many, args, note_surplus, surplus);
	else
	{
		docsync_statement_run(&add_new, args, NULL, NULL);
		args[2] = Int64GetDatum(list->most);
		docsync_statement_run(&find_surplus, args, note_surplus, surplus);
	}
}

/*
 * The seven columns of rows, as arrays
 */
static void
make_arrays(const Lost *lost, int count, Datum *arrays)
{
	Datum	   *columns[7];
	bool	   *no_body = palloc(sizeof(bool) * count);
	int			lower_bound = 1;

	for (int i = 0; i < 7; i++)
		columns[i] = palloc(sizeof(Datum) * count);
	for (int i = 0; i < count; i++)
	{
		columns[0][i] = lost[i].id;
		columns[1][i] = Int64GetDatum(lost[i].client_version);
		columns[2][i] = lost[i].client_id;
		columns[3][i] = BoolGetDatum(lost[i].deleted);
		columns[4][i] = lost[i].body;
		no_body[i] = lost[i].body == 0;
		columns[5][i] = CStringGetTextDatum(reasons[lost[i].reason]);
		columns[6][i] = TimestampTzGetDatum(lost[i].recorded_utc);
	}

	arrays[0] = make_array(columns[0], count, TEXTOID);
	arrays[1] = make_array(columns[1], count, INT8OID);
	arrays[2] = make_array(columns[2], count, TEXTOID);
	arrays[3] = PointerGetDatum(construct_array(columns[3], count, BOOLOID, 1,
												true, TYPALIGN_CHAR));
	arrays[4] = PointerGetDatum(construct_md_array(columns[4], no_body, 1,
												   &count, &lower_bound,
												   JSONBOID, -1, false,
												   TYPALIGN_INT));
	arrays[5] = make_array(columns[5], count, TEXTOID);
	arrays[6] = make_array(columns[6], count, TIMESTAMPTZOID);
}

/* An array of texts, or of values of eight bytes */
static Datum
make_array(Datum *values, int count, Oid type)
{
	if (type == TEXTOID)
		return PointerGetDatum(construct_array(values, count, type, -1, false,
											   TYPALIGN_INT));
	return PointerGetDatum(construct_array(values, count, type, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/*
 * Removes what is too much, but for rows that somebody is removing already.
 */
static void
remove_surplus(const RecordList *list, Surplus *surplus)
{
	Datum		args[3];

	if (surplus->count == 0)
		return;
	args[0] = PointerGetDatum(list->collection);
	args[1] = make_array(surplus->ids, surplus->count, TEXTOID);
	args[2] = make_array(surplus->stamps, surplus->count, TIMESTAMPTZOID);
	docsync_statement_run(&delete_surplus, args, NULL, NULL);
}

/*
 * RowCallback: notes a document of which more is kept by now than is to be.
 */
static bool
note_surplus(TupleTableSlot *slot, void *arg)
{
	Surplus    *surplus = (Surplus *) arg;

	if (!slot->tts_isnull[1])
	{
		surplus->ids[surplus->count] = datumCopy(slot->tts_values[0], false, -1);
		surplus->stamps[surplus->count++] = slot->tts_values[1];
	}
	return true;
}

/*
 * RowCallback: the last of the rows removed, in the order of the key
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
