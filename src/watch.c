/*-------------------------------------------------------------------------
 *
 * watch.c
 *	  For operators: who holds back readers, and what is in each collection.
 *
 * These functions show all collections, whatever policies there are.  So they
 * are for the store's owner, for roles that may own a store, and for members
 * of pg_monitor, who need no other right.  Everybody else is refused before
 * anything is read.  docsync_holders(), in the script, joins the marks with
 * the sessions that hold them.
 *
 * Documents are counted only on request.  Names of collections come from the
 * primary key, by one descent each; facts about a collection come from the
 * index on stamps.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/itup.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_statistic.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/xid8.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_marks);
PG_FUNCTION_INFO_V1(docsync_collections);

/*
 * So many names are searched for those of the marks, unless all are asked for.
 * It takes 2 milliseconds.
 */
#define QUICK_NAMES				200

/*
 * Called with the name of a collection, which is valid during the call.
 * Returns false to end the walk.
 */
typedef bool (*NameCallback) (text *name, void *arg);

/* A mark that somebody holds (stamp.c) */
typedef struct Mark
{
	TransactionId xid;
	int			pid;			/* 0: the transaction is prepared */
	bool		of_all;			/* collections */
	uint32		hash;			/* of the collection, if it isn't of all */
	bool		is_named;		/* a collection has been found for it */
} Mark;

typedef struct Marks
{
	ReturnSetInfo *rsinfo;
	Mark	   *marks;
	int			count;
	int			unnamed;		/* that aren't of all */
} Marks;

/* The statistics of docsync.document: its largest collections, and the rest */
typedef struct CommonName
{
	text	   *name;
	double		part;			/* of all documents */
} CommonName;

typedef struct Sample
{
	double		documents;		/* tombstones included; -1: not known */
	double		deleted;		/* part of them that are tombstones */
	CommonName *common;			/* in the order of names */
	int			ncommon;
	double		other;			/* part that each other collection has */
} Sample;

/* State of docsync_collections() */
typedef struct Overview
{
	ReturnSetInfo *rsinfo;
	const Store *store;
	const History *history;
	TimestampTz watermark;		/* of the snapshot */
	bool		exact;
	Sample		sample;
	MemoryContext context;		/* reset after each collection */
} Overview;

/* A document, as far as the frontier needs it */
typedef struct NewestDocument
{
	bool		exists;
	TimestampTz stamp;
	text	   *client_id;
	FullTransactionId fence;
} NewestDocument;

static Statement find_newest = {
	"SELECT last_update_utc, client_id, fence FROM docsync.document"
	" WHERE collection OPERATOR(pg_catalog.=) $1"
	" ORDER BY last_update_utc DESC LIMIT 1",
	1, {TEXTOID}, STATEMENT_PINNED | STATEMENT_READ_ONLY | STATEMENT_OF_DOCUMENT, NULL
};

static Statement find_next = {
	"SELECT last_update_utc, client_id, fence FROM docsync.document"
	" WHERE collection OPERATOR(pg_catalog.=) $1"
	"   AND last_update_utc OPERATOR(pg_catalog.>=) $2"
	" ORDER BY last_update_utc LIMIT 1",
	2, {TEXTOID, TIMESTAMPTZOID}, STATEMENT_PINNED | STATEMENT_READ_ONLY | STATEMENT_OF_DOCUMENT, NULL
};

static Statement count_documents = {
	"SELECT pg_catalog.count(*) FILTER (WHERE NOT deleted),"
	"       pg_catalog.count(*) FILTER (WHERE deleted)"
	"  FROM docsync.document WHERE collection OPERATOR(pg_catalog.=) $1",
	1, {TEXTOID}, STATEMENT_PINNED | STATEMENT_READ_ONLY | STATEMENT_OF_DOCUMENT, NULL
};

static void find_marks(Marks *marks);
static void name_by_statistics(const Store *store, Marks *marks);
static bool put_marks_of(text *name, void *arg);
static void put_mark(const Marks *marks, const Mark *mark, text *name);
static bool put_collection(text *name, void *arg);
static TimestampTz find_frontier(const Overview *overview, text *name,
								 const NewestDocument *newest);
static bool put_newest(TupleTableSlot *slot, void *arg);
static bool put_counts(TupleTableSlot *slot, void *arg);
static void take_sample(const Store *store, Sample *sample);
static void sample_names(const Store *store, Sample *sample);
static void sample_deleted(const Store *store, Sample *sample);
static int	compare_names(const void *a, const void *b);
static double get_part(const Sample *sample, text *name);
static void walk_names(const Store *store, int limit, NameCallback callback,
					   void *arg);

/*
 * docsync_marks(exact bool DEFAULT false)
 * RETURNS TABLE (transaction xid, pid int, of_all bool, collection text)
 *
 * A row for each mark: a transaction that has written to a collection and has
 * not ended.  pid is NULL for a prepared transaction.
 *
 * A mark has only a hash of the collection's name.  The name is looked for
 * among the largest collections, as ANALYZE knows them, and among the first
 * QUICK_NAMES of all, or among all if exact is true.  It is NULL if it isn't
 * found, or if nothing has been written to the collection yet.  Of two names
 * with one hash it is the first.
 *
 * The marks are read before the names, so that the name of a collection that
 * is created in between is found.
 */
Datum
docsync_marks(PG_FUNCTION_ARGS)
{
	const Store *store = docsync_watch_open();
	bool		exact = !PG_ARGISNULL(0) && PG_GETARG_BOOL(0);
	Marks		marks = {.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo};

	InitMaterializedSRF(fcinfo, 0);
	find_marks(&marks);

	if (marks.unnamed > 0)
		name_by_statistics(store, &marks);
	if (marks.unnamed > 0)
		walk_names(store, exact ? INT_MAX : QUICK_NAMES, put_marks_of, &marks);
	for (int i = 0; i < marks.count; i++)
	{
		if (!marks.marks[i].is_named)
			put_mark(&marks, &marks.marks[i], NULL);
	}
	return (Datum) 0;
}

/*
 * docsync_collections(exact bool DEFAULT false)
 * RETURNS TABLE (collection text, last_update_utc timestamptz, client_id text,
 *				  frontier timestamptz, documents bigint, tombstones bigint,
 *				  purged_through timestamptz)
 *
 * A row for each collection: the newest document's stamp and who wrote it; the
 * frontier, up to which readers are given documents; how many live documents
 * and tombstones there are.  The numbers are estimates, NULL before the first
 * ANALYZE.  If exact is true they are counted, which reads the whole table.
 *
 * All rows are of one snapshot.  Takes no lock that an upload waits for.
 */
Datum
docsync_collections(PG_FUNCTION_ARGS)
{
	Overview	overview = {
		.store = docsync_watch_open(),
		.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo,
		.exact = !PG_ARGISNULL(0) && PG_GETARG_BOOL(0)
	};

	InitMaterializedSRF(fcinfo, 0);
	overview.context = AllocSetContextCreate(CurrentMemoryContext,
											 "docsync collection",
											 ALLOCSET_DEFAULT_SIZES);
	if (!overview.exact)
		take_sample(overview.store, &overview.sample);

	overview.watermark = docsync_settle_push_snapshot();
	overview.history = docsync_history_read(GetActiveSnapshot());
	walk_names(overview.store, INT_MAX, put_collection, &overview);
	PopActiveSnapshot();

	MemoryContextDelete(overview.context);
	return (Datum) 0;
}

/*
 * Opens the store for a caller who may see all collections.  Refuses everybody
 * else.
 */
const Store *
docsync_watch_open(void)
{
	const Store *store = docsync_schema_open(STORE_READ);

	if (!docsync_check_may_watch(GetUserId(), store))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to monitor docsync's store"),
				 errhint("The store's owner and members of pg_monitor may do so.")));
	return store;
}

/*
 * Reads the marks in this database, as the lock manager has them at one
 * instant.
 */
static void
find_marks(Marks *marks)
{
	LockData   *locks = GetLockStatusData();

	marks->marks = palloc(sizeof(Mark) * Max(locks->nelements, 1));
	for (int i = 0; i < locks->nelements; i++)
	{
		const LockInstanceData *lock = &locks->locks[i];
		const LOCKTAG *tag = &lock->locktag;
		Mark	   *mark = &marks->marks[marks->count];

		if (tag->locktag_type != LOCKTAG_ADVISORY ||
			tag->locktag_field1 != MyDatabaseId ||
			(tag->locktag_field4 != DOCSYNC_LOCK_COLLECTION &&
			 tag->locktag_field4 != DOCSYNC_LOCK_ALL) ||
			lock->holdMask == 0)
			continue;

		mark->xid = tag->locktag_field2;
		mark->pid = lock->pid;
		mark->of_all = tag->locktag_field4 == DOCSYNC_LOCK_ALL;
		mark->hash = tag->locktag_field3;
		mark->is_named = false;
		marks->count++;
		marks->unnamed += !mark->of_all;
	}
}

/*
 * Names the marks of the largest collections, of which there may be some that
 * the walk doesn't get to.
 */
static void
name_by_statistics(const Store *store, Marks *marks)
{
	Sample		sample = {0};

	sample_names(store, &sample);
	for (int i = 0; i < sample.ncommon && marks->unnamed > 0; i++)
		put_marks_of(sample.common[i].name, marks);
}

/*
 * NameCallback: puts out the marks of a collection.  Ends the walk when all
 * marks are named.
 */
static bool
put_marks_of(text *name, void *arg)
{
	Marks	   *marks = (Marks *) arg;
	uint32		hash = docsync_text_hash(name);

	for (int i = 0; i < marks->count; i++)
	{
		Mark	   *mark = &marks->marks[i];

		if (mark->of_all || mark->is_named || mark->hash != hash)
			continue;
		put_mark(marks, mark, name);
		mark->is_named = true;
		marks->unnamed--;
	}
	return marks->unnamed > 0;
}

/*
 * Puts out a mark.  name is NULL if it isn't known.
 */
static void
put_mark(const Marks *marks, const Mark *mark, text *name)
{
	Datum		values[4] = {0};
	bool		nulls[4] = {false};

	values[0] = TransactionIdGetDatum(mark->xid);
	values[1] = Int32GetDatum(mark->pid);
	nulls[1] = mark->pid == 0;
	values[2] = BoolGetDatum(mark->of_all);
	values[3] = PointerGetDatum(name);
	nulls[3] = name == NULL;
	tuplestore_putvalues(marks->rsinfo->setResult, marks->rsinfo->setDesc,
						 values, nulls);
}

/*
 * NameCallback: puts out a collection, if the snapshot sees a document of it.
 */
static bool
put_collection(text *name, void *arg)
{
	Overview   *overview = (Overview *) arg;
	MemoryContext oldcontext = MemoryContextSwitchTo(overview->context);
	Datum		args[] = {PointerGetDatum(name)};
	NewestDocument newest = {0};

	docsync_statement_run(&find_newest, args, put_newest, &newest);
	if (newest.exists)
	{
		Datum		values[7] = {0};
		bool		nulls[7] = {false};
		int64		counts[2] = {0, 0};
		Horizon		horizon = docsync_horizon_find(GetActiveSnapshot(),
												   name, NULL);

		if (overview->exact)
			docsync_statement_run(&count_documents, args, put_counts, counts);
		else
		{
			const Sample *sample = &overview->sample;
			double		all = sample->documents * get_part(sample, name);

			counts[1] = (int64) rint(all * sample->deleted);
			counts[0] = (int64) rint(all) - counts[1];
			nulls[4] = nulls[5] = sample->documents < 0;
		}

		values[0] = PointerGetDatum(name);
		values[1] = TimestampTzGetDatum(newest.stamp);
		values[2] = PointerGetDatum(newest.client_id);
		values[3] = TimestampTzGetDatum(find_frontier(overview, name, &newest));
		values[4] = Int64GetDatum(counts[0]);
		values[5] = Int64GetDatum(counts[1]);
		values[6] = TimestampTzGetDatum(horizon.all);
		nulls[3] = TIMESTAMP_IS_NOBEGIN(DatumGetTimestampTz(values[3]));
		nulls[6] = TIMESTAMP_IS_NOBEGIN(horizon.all);
		tuplestore_putvalues(overview->rsinfo->setResult,
							 overview->rsinfo->setDesc, values, nulls);
	}

	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(overview->context);
	return true;
}

/*
 * Returns the stamp of the last document that readers are given, or DT_NOBEGIN
 * if they are given none.
 *
 * Nearly always it is the newest document's.  If that isn't settled, thousands
 * before it may not be either: so the first that isn't is found by bisection.
 */
static TimestampTz
find_frontier(const Overview *overview, text *name,
			  const NewestDocument *newest)
{
	SettleScan	settle;
	TimestampTz low = -DOCSYNC_UNIX_OFFSET; /* there is no earlier one */
	TimestampTz high = newest->stamp;
	TimestampTz frontier = DT_NOBEGIN;

	docsync_settle_begin(&settle, GetActiveSnapshot(),
						 docsync_moved_line(docsync_moved_find(GetActiveSnapshot(), name),
											overview->history),
						 name, overview->watermark);
	if (docsync_settle_test(&settle, newest->stamp, newest->fence))
		return newest->stamp;

	/*
	 * Invariant: all documents before low are settled, and none is from high
	 * on.
	 */
	while (low < high)
	{
		TimestampTz middle = low + (int64) (((uint64) high - (uint64) low) / 2);
		Datum		args[] = {
			PointerGetDatum(name), TimestampTzGetDatum(middle)
		};
		NewestDocument next = {0};

		docsync_statement_run(&find_next, args, put_newest, &next);
		if (next.exists && next.stamp < high &&
			docsync_settle_test(&settle, next.stamp, next.fence))
		{
			frontier = next.stamp;
			low = next.stamp + 1;
		}
		else
			high = middle;
	}
	return frontier;
}

/* RowCallback: copies the row to the NewestDocument that arg points to. */
static bool
put_newest(TupleTableSlot *slot, void *arg)
{
	NewestDocument *newest = (NewestDocument *) arg;

	newest->exists = true;
	newest->stamp = DatumGetTimestampTz(slot->tts_values[0]);
	newest->client_id = DatumGetTextPCopy(slot->tts_values[1]);
	newest->fence = DatumGetFullTransactionId(slot->tts_values[2]);
	return false;
}

/* RowCallback: copies two numbers to the array that arg points to. */
static bool
put_counts(TupleTableSlot *slot, void *arg)
{
	((int64 *) arg)[0] = DatumGetInt64(slot->tts_values[0]);
	((int64 *) arg)[1] = DatumGetInt64(slot->tts_values[1]);
	return false;
}

/*
 * Reads the statistics that the last ANALYZE has left.
 */
static void
take_sample(const Store *store, Sample *sample)
{
	Relation	rel = table_open(store->relations[STORE_DOCUMENT], NoLock);

	memset(sample, 0, sizeof(Sample));
	sample->documents = rel->rd_rel->reltuples;
	table_close(rel, NoLock);
	if (sample->documents < 0)
		return;

	sample_names(store, sample);
	sample_deleted(store, sample);
}

/*
 * Returns the statistics of a column of docsync.document, or NULL if there are
 * none.  The caller releases them, by ReleaseSysCache().
 */
HeapTuple
docsync_watch_statistics(const Store *store, StoreRelation which, int column)
{
	return SearchSysCache3(STATRELATTINH,
						   ObjectIdGetDatum(store->relations[which]),
						   Int16GetDatum(store->attnums[which][column]),
						   BoolGetDatum(false));
}

/*
 * Reads the largest collections, each with its part of all documents, and
 * divides the rest evenly among the others.  Without statistics it assumes one
 * collection.
 */
static void
sample_names(const Store *store, Sample *sample)
{
	HeapTuple	tuple = docsync_watch_statistics(store, STORE_DOCUMENT, DOCUMENT_COLLECTION);
	AttStatsSlot slot;
	double		distinct = 1;
	double		left = 1;

	if (HeapTupleIsValid(tuple))
	{
		distinct = ((Form_pg_statistic) GETSTRUCT(tuple))->stadistinct;
		if (distinct < 0)
			distinct *= -sample->documents;
		if (get_attstatsslot(&slot, tuple, STATISTIC_KIND_MCV, InvalidOid,
							 ATTSTATSSLOT_VALUES | ATTSTATSSLOT_NUMBERS))
		{
			sample->ncommon = slot.nvalues;
			sample->common = palloc(sizeof(CommonName) * Max(slot.nvalues, 1));
			for (int i = 0; i < slot.nvalues; i++)
			{
				sample->common[i].name = DatumGetTextPCopy(slot.values[i]);
				sample->common[i].part = slot.numbers[i];
				left -= slot.numbers[i];
			}
			free_attstatsslot(&slot);
			qsort(sample->common, sample->ncommon, sizeof(CommonName),
				  compare_names);
		}
		ReleaseSysCache(tuple);
	}
	sample->other = Max(left, 0) / Max(distinct - sample->ncommon, 1);
}

/*
 * Reads which part of all documents are tombstones.
 */
static void
sample_deleted(const Store *store, Sample *sample)
{
	HeapTuple	tuple = docsync_watch_statistics(store, STORE_DOCUMENT, DOCUMENT_DELETED);
	AttStatsSlot slot;

	if (!HeapTupleIsValid(tuple))
		return;
	if (get_attstatsslot(&slot, tuple, STATISTIC_KIND_MCV, InvalidOid,
						 ATTSTATSSLOT_VALUES | ATTSTATSSLOT_NUMBERS))
	{
		for (int i = 0; i < slot.nvalues; i++)
		{
			if (DatumGetBool(slot.values[i]))
				sample->deleted = slot.numbers[i];
		}
		free_attstatsslot(&slot);
	}
	ReleaseSysCache(tuple);
}

/* For qsort and bsearch: by name */
static int
compare_names(const void *a, const void *b)
{
	const text *name_a = ((const CommonName *) a)->name;
	const text *name_b = ((const CommonName *) b)->name;

	return docsync_text_compare(VARDATA_ANY(name_a), VARSIZE_ANY_EXHDR(name_a),
								VARDATA_ANY(name_b), VARSIZE_ANY_EXHDR(name_b));
}

/*
 * Returns a collection's part of all documents.
 */
static double
get_part(const Sample *sample, text *name)
{
	CommonName	key = {.name = name};
	const CommonName *found = NULL;

	if (sample->ncommon > 0)
		found = bsearch(&key, sample->common, sample->ncommon,
						sizeof(CommonName), compare_names);
	return found != NULL ? found->part : sample->other;
}

/*
 * Calls back for the names of the collections, in their order, at most limit
 * of them.  Each takes one descent of the primary key.
 *
 * Only the index is read, no row.  So there are names whose documents aren't
 * committed yet, or are gone; and a large number of dead rows costs nothing.
 *
 * Locks: the index, ACCESS SHARE, until the end of the transaction.
 */
static void
walk_names(const Store *store, int limit, NameCallback callback, void *arg)
{
	Relation	rel = table_open(store->relations[STORE_DOCUMENT], NoLock);
	Relation	index = index_open(store->document_index, AccessShareLock);
	IndexScanDesc scan = index_beginscan(rel, index, SnapshotAny, NULL, 1, 0,
										 SO_NONE);
	text	   *name = cstring_to_text("");
	ScanKeyData key;
	bool		more = true;

	scan->xs_want_itup = true;
	for (int i = 0; more && i < limit; i++)
	{
		bool		isnull;

		CHECK_FOR_INTERRUPTS();

		ScanKeyEntryInitialize(&key, 0, 1, BTGreaterStrategyNumber, InvalidOid,
							   C_COLLATION_OID, F_TEXT_GT,
							   PointerGetDatum(name));
		index_rescan(scan, &key, 1, NULL, 0);
		if (index_getnext_tid(scan, ForwardScanDirection) == NULL)
			break;
		pfree(name);
		name = DatumGetTextPCopy(index_getattr(scan->xs_itup, 1,
											   scan->xs_itupdesc, &isnull));
		more = callback(name, arg);
	}
	index_endscan(scan);
	index_close(index, NoLock);
	table_close(rel, NoLock);
}
