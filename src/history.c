/*-------------------------------------------------------------------------
 *
 * history.c
 *	  The store's history, as a reader finds it in docsync.history.
 *
 * A row says where the store was from then on: an identity, which is the
 * server's system identifier, the database, the table and the timeline; the
 * epoch, whose id is in cursors; and a pair (clock, next transaction id), read
 * under one latch, which is a fence for everything stamped before (settle.c).
 * The rows are written by epoch.c.
 *
 * There are few, and all are read, under the same snapshot as the documents.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "docsync.h"

static void read_entry(HistoryEntry *entry, HeapTuple tuple, TupleDesc desc,
					   const AttrNumber *attnums);
static int	compare_entries(const void *a, const void *b);

/*
 * Reads the rows, in the order of their numbers, as a snapshot sees them.
 */
History *
docsync_history_read(Snapshot snapshot)
{
	const Store *store = docsync_schema_open(STORE_READ);
	Relation	rel = table_open(store->relations[STORE_HISTORY], NoLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0,
										  NULL);
	History    *history = palloc0(sizeof(History));
	int			size = 8;
	HeapTuple	tuple;

	history->entries = palloc(sizeof(HistoryEntry) * size);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (history->count == size)
		{
			size *= 2;
			history->entries = repalloc(history->entries,
										sizeof(HistoryEntry) * size);
		}
		read_entry(&history->entries[history->count++], tuple,
				   RelationGetDescr(rel), store->attnums[STORE_HISTORY]);
	}
	systable_endscan(scan);
	table_close(rel, NoLock);

	qsort(history->entries, history->count, sizeof(HistoryEntry),
		  compare_entries);
	return history;
}

/*
 * The newest row; NULL in a store that nothing has been written to.
 */
const HistoryEntry *
docsync_history_newest(const History *history)
{
	return history->count > 0 ? &history->entries[history->count - 1] : NULL;
}

/*
 * The present epoch's id; 0 in a store that nothing has been written to.
 */
uint64
docsync_history_epoch(const History *history)
{
	const HistoryEntry *newest = docsync_history_newest(history);

	return newest != NULL ? newest->epoch : 0;
}

/*
 * Is there a row of the given epoch?
 */
bool
docsync_history_knows(const History *history, uint64 epoch)
{
	for (int i = 0; i < history->count; i++)
	{
		if (history->entries[i].epoch == epoch)
			return true;
	}
	return false;
}

/*
 * Is a position of the given epoch valid in the present one?  It is if each
 * epoch since then began with a store that had been handed over.  (A start
 * after a crash begins no epoch.)
 */
bool
docsync_history_goes_on(const History *history, uint64 epoch)
{
	for (int i = history->count - 1; i >= 0; i--)
	{
		const HistoryEntry *entry = &history->entries[i];

		if (entry->epoch == epoch)
			return true;
		if (i > 0 && entry->epoch != entry[-1].epoch &&
			!TIMESTAMP_IS_NOEND(entry->lost_after))
			return false;
	}
	return false;
}

/*
 * Is a row about this server, database, table and timeline?  If the newest
 * isn't, something has happened that nobody has noted yet.  A standby counts
 * as being where its primary is.  NULL is about no place.
 */
bool
docsync_history_is_here(const HistoryEntry *entry)
{
	return entry != NULL &&
		entry->system_identifier == GetSystemIdentifier() &&
		entry->database == MyDatabaseId &&
		entry->document == docsync_schema_open(STORE_READ)->relations[STORE_DOCUMENT] &&
		(RecoveryInProgress() || entry->timeline == GetWALInsertionTimeLine());
}

/*
 * The stamp up to which nothing that a client of the given epoch has seen can
 * have been lost; DT_NOBEGIN if unknown.
 */
TimestampTz
docsync_history_lost_after(const History *history, uint64 epoch)
{
	TimestampTz lost_after = DT_NOEND;

	for (int i = history->count - 1; i >= 0; i--)
	{
		if (history->entries[i].epoch == epoch)
			return lost_after;
		lost_after = Min(lost_after, history->entries[i].lost_after);
	}
	return DT_NOBEGIN;
}

/*
 * Is it the row of docsync_hand_over(), so that the store is at no place?
 */
bool
docsync_history_is_handed_over(const HistoryEntry *entry)
{
	return entry != NULL && entry->system_identifier == 0;
}

/*
 * Has the store been handed over from here?
 */
bool
docsync_history_is_gone(const History *history)
{
	return docsync_history_is_handed_over(docsync_history_newest(history)) &&
		history->count > 1 &&
		docsync_history_is_here(&history->entries[history->count - 2]);
}

/*
 * Did the present epoch begin with a store that had been handed over?
 */
bool
docsync_history_is_taken_over(const History *history)
{
	const HistoryEntry *entry = docsync_history_newest(history);

	if (!docsync_history_is_here(entry))
		return false;
	while (entry > history->entries && entry->epoch == entry[-1].epoch)
		entry--;
	return entry > history->entries && TIMESTAMP_IS_NOEND(entry->lost_after);
}

/*
 * Has no stamp up to this one ever been issued here?  Then a client that
 * resumes from it starts from the beginning.
 */
bool
docsync_history_is_beginning(const History *history, TimestampTz stamp)
{
	return stamp <= -DOCSYNC_UNIX_OFFSET ||
		(history->count > 0 &&
		 TIMESTAMP_IS_NOBEGIN(history->entries[0].survived) &&
		 stamp <= history->entries[0].clock);
}

/*
 * A stamp between the highest that survived and the clock as it was set then
 * was issued by a history that is lost.  Finds the row for such a stamp, or
 * returns NULL.
 */
const HistoryEntry *
docsync_history_find_gap(const History *history, TimestampTz stamp)
{
	for (int i = 0; i < history->count; i++)
	{
		if (!TIMESTAMP_IS_NOBEGIN(history->entries[i].survived) &&
			history->entries[i].survived < stamp &&
			stamp <= history->entries[i].clock)
			return &history->entries[i];
	}
	return NULL;
}

/*
 * The fence to use for a document, given its own.  Everything stamped here up
 * to a row's clock has a transaction id below the row's next id, since both
 * were read at the same moment, under the clock's latch, and ids come before
 * stamps.  So that id is as good a fence as the document's own, and may be
 * lower.  If the document came from another server, its own fence means
 * nothing here, and the row's takes its place: what was stamped there before
 * it has come along.
 */
FullTransactionId
docsync_history_fence(const History *history, TimestampTz stamp,
					  FullTransactionId fence)
{
	for (int i = 0; i < history->count; i++)
	{
		const HistoryEntry *entry = &history->entries[i];

		if (stamp > entry->clock)
			continue;
		if (entry->arrived || FullTransactionIdPrecedes(entry->next, fence))
			fence = entry->next;
	}
	return fence;
}

/*
 * Fills in an entry from a row.  attnums are the numbers of the table's
 * columns.
 */
static void
read_entry(HistoryEntry *entry, HeapTuple tuple, TupleDesc desc,
		   const AttrNumber *attnums)
{
	Datum		values[STORE_COLUMNS_MAX];
	Datum	   *all = palloc(sizeof(Datum) * desc->natts);
	bool	   *isnull = palloc(sizeof(bool) * desc->natts);

	/* None of them is null (check.c). */
	heap_deform_tuple(tuple, desc, all, isnull);
	for (int i = 0; i < STORE_COLUMNS_MAX; i++)
		values[i] = all[attnums[i] - 1];
	pfree(all);
	pfree(isnull);

	entry->number = DatumGetInt64(values[HISTORY_NUMBER]);
	entry->epoch = (uint64) DatumGetInt64(values[HISTORY_EPOCH]);
	entry->system_identifier = (uint64) DatumGetInt64(values[HISTORY_SYSTEM_IDENTIFIER]);
	entry->database = DatumGetObjectId(values[HISTORY_DATABASE]);
	entry->document = DatumGetObjectId(values[HISTORY_DOCUMENT]);
	entry->timeline = (TimeLineID) DatumGetInt64(values[HISTORY_TIMELINE]);
	entry->survived = DatumGetTimestampTz(values[HISTORY_SURVIVED]);
	entry->lost_after = DatumGetTimestampTz(values[HISTORY_LOST_AFTER]);
	entry->clock = DatumGetTimestampTz(values[HISTORY_CLOCK]);
	entry->next = DatumGetFullTransactionId(values[HISTORY_NEXT_XID]);
	entry->arrived = DatumGetBool(values[HISTORY_ARRIVED]);
}

/* For qsort: by number, which is the order they were added in */
static int
compare_entries(const void *a, const void *b)
{
	int64		number_a = ((const HistoryEntry *) a)->number;
	int64		number_b = ((const HistoryEntry *) b)->number;

	return (number_a > number_b) - (number_a < number_b);
}
