/*-------------------------------------------------------------------------
 *
 * watch.c
 *	  What operators look at: who holds back readers, what there is of each
 *	  collection, and where the store stands.
 *
 * These functions tell of all collections, whatever policies there are.  So
 * they are for the store's owner, for whoever may own one, and for members of
 * pg_monitor, who needs no other right; everybody else is refused before
 * anything is looked at.  docsync_holders() and docsync_status(), in the
 * script, put their answers into words.
 *
 * None of them counts documents unless it is asked to: names of collections
 * are read off the primary key, one descent each, and what is said of a
 * collection off the index on stamps.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/itup.h"
#include "access/relscan.h"
#include "access/table.h"
#include "catalog/pg_collation.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_marks);

/* Called with the name of a collection, which lasts for the call; false ends */
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

static const Store *open_watched(void);
static void find_marks(Marks *marks);
static bool put_marks_of(text *name, void *arg);
static void put_mark(const Marks *marks, const Mark *mark, text *name);
static void walk_names(const Store *store, NameCallback callback, void *arg);

/*
 * docsync_marks() RETURNS TABLE (transaction xid, pid int, of_all bool,
 *								  collection text)
 *
 * The marks that there are: who has written to which collection and has not
 * ended.  pid is NULL of a prepared transaction.  A mark has but a hash of the
 * collection's name: if two have the same, the first of them is named, and of
 * one that nothing has been written to yet the name is NULL.
 *
 * The marks are looked at first, then the names: of a collection that is made
 * meanwhile the name is found.
 */
Datum
docsync_marks(PG_FUNCTION_ARGS)
{
	const Store *store = open_watched();
	Marks		marks = {.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo};

	InitMaterializedSRF(fcinfo, 0);
	find_marks(&marks);

	if (marks.unnamed > 0)
		walk_names(store, put_marks_of, &marks);
	for (int i = 0; i < marks.count; i++)
	{
		if (!marks.marks[i].is_named)
			put_mark(&marks, &marks.marks[i], NULL);
	}
	return (Datum) 0;
}

/*
 * Opens the store for somebody who may see all of it; refuses everybody else.
 */
static const Store *
open_watched(void)
{
	const Store *store = docsync_schema_open(STORE_READ);

	if (!docsync_check_may_watch(GetUserId(), store))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to look at all of docsync's store"),
				 errhint("It is for the store's owner, and for members of pg_monitor.")));
	return store;
}

/*
 * Finds the marks in this database, as the lock manager has them at one
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
 * NameCallback: puts out the marks of a collection, and ends the walk when all
 * have been.
 */
static bool
put_marks_of(text *name, void *arg)
{
	Marks	   *marks = (Marks *) arg;
	uint32		hash = docsync_stamp_hash(name);

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
 * Puts out a row.  name is NULL if it isn't known.
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
 * Walks through the names of the collections, in their order, by one descent
 * of the primary key for each.
 *
 * It reads what is in the index and looks at no row: a name may be one whose
 * documents aren't committed yet, or are gone.  So it takes no snapshot, and no
 * longer where there are many of these.
 *
 * Locks: the index, ACCESS SHARE, until the end of the transaction.
 */
static void
walk_names(const Store *store, NameCallback callback, void *arg)
{
	Relation	rel = table_open(store->relations[STORE_DOCUMENT], NoLock);
	Relation	index = index_open(store->document_index, AccessShareLock);
	IndexScanDesc scan = index_beginscan(rel, index, SnapshotAny, NULL, 1, 0,
										 SO_NONE);
	text	   *name = cstring_to_text("");
	ScanKeyData key;
	bool		more = true;

	scan->xs_want_itup = true;
	while (more)
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
