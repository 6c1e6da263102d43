/*-------------------------------------------------------------------------
 *
 * state.c
 *	  The sums over a collection that a client compares with its own.
 *
 * They cost a scan of the whole collection, and after a failover all clients
 * ask at once.  So a session leaves its sums to all others, in shared memory,
 * for a minute at most.  A session that needs sums while they are being made
 * waits for them briefly.
 *
 * Another session can use the sums if it has found the same document to be the
 * last of the collection, and settled: then both see the same documents.  The
 * proof, with its assumptions, is in doc/stamps.md, "Comparing".  So the sums
 * of a page are shared only under these conditions:
 *
 * 1. It is the same table: the same database, the same oid, the same epoch.
 * 2. The page has passed a document of the collection, whose stamp is part of
 *	  the sums' key.  A cursor's stamp alone says nothing: a client can have
 *	  made it up.
 * 3. The page has reached the end: nothing visible is beyond that document.
 * 4. The transaction has written nothing.
 * 5. The caller sees all of the collection.  (Privileges on the table have
 *	  been checked by the page's own statement.)
 * 6. The sums aren't older than a minute, because of changes without a new
 *    stamp.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "portability/instr_time.h"
#include "rewrite/rowsecurity.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_digest);

/*
 * The number must change with the structs below: after an update, until the
 * server is restarted, older sessions still use the old library.
 */
#define CACHE_NAME			"docsync state 1"

/* The lock's name in pg_stat_activity */
#define TRANCHE_NAME		"docsync"

/*
 * Collections with sums; at 2.3 kB each they fit easily into the spare shared
 * memory of servers before 17.
 */
#define CACHE_STATES		8

#define CACHE_AGE			USECS_PER_MINUTE

/* Collections that are summed up at the same time, in all sessions together */
#define SESSIONS			2

/* How long to wait for others to sum up, in milliseconds */
#define PATIENCE			100

typedef struct CachedState
{
	TimestampTz begun;			/* the transaction's start, before the
								 * snapshot; 0: unused */
	Oid			database;
	Oid			document;		/* the table */
	uint64		epoch;
	TimestampTz last;			/* stamp of the last document */
	int			collection_len; /* bytes */
	char		collection[DOCSYNC_COLLECTION_LEN];
	Digest		digest;
} CachedState;

typedef struct Cache
{
	LWLock		lock;			/* on the states */
	ConditionVariable summed_up;	/* somebody has finished */
	CachedState states[CACHE_STATES];
} Cache;

/* Whether the newest document of a collection is settled */
typedef struct SettledNewest
{
	SettleScan	settle;
	bool		is_settled;
} SettledNewest;

static Cache *cache = NULL;

static Statement sum_up = {
	/* By stamp: roughly the physical order of the rows */
	"SELECT id, client_version, last_update_utc FROM docsync.document"
	" WHERE collection OPERATOR(pg_catalog.=) $1 AND NOT deleted"
	" ORDER BY last_update_utc",
	1, {TEXTOID}, STATEMENT_READ_ONLY | STATEMENT_PINNED, NULL
};

static void make_digest(text *collection, Digest *digest);
static bool note_settled(const StoredDocument *stored, void *arg);
static bool get_digest(const Download *download, Digest *digest);
static bool may_share(const Download *download);
static bool sees_all_or_nothing(void);
static bool looks_beyond(Node *node, void *collection);
static void open_cache(void);
static void init_cache(DSM_INIT_PARAMETERS);
static void empty_cache(Cache *new);
static bool find_cached(const Download *download, Digest *digest);
static void keep_cached(const Download *download, const Digest *digest);
static Oid	get_document(void);
static bool is_same(const CachedState *cached, const Download *download,
					Oid document);
static bool is_fresh(TimestampTz begun);
static bool wait_for_turn(const Download *download, bool share, Digest *digest,
						  LOCKTAG *tag);
static bool try_lock(const Download *download, bool share, LOCKTAG *tag);
static bool add_to_digest(TupleTableSlot *slot, void *arg);

/*
 * docsync_digest(collection text DEFAULT 'default')
 * RETURNS TABLE (documents bigint, digest text, settled bool)
 *
 * The count and the digest of the live documents that the caller sees, as a
 * client that holds all of them computes them.  settled is false while readers
 * aren't given some of them yet.
 *
 * Takes no lock that an upload waits for, and reads the whole collection.
 */
Datum
docsync_digest(PG_FUNCTION_ARGS)
{
	text	   *collection = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	SettledNewest newest = {.is_settled = true};
	Digest	   *digest = palloc(sizeof(Digest));
	char		hex[DOCSYNC_DIGEST_LEN];
	const Moved *moved;
	TimestampTz watermark;
	TupleDesc	desc;
	Datum		values[3];
	bool		nulls[3] = {false};

	docsync_text_check_name(collection, "collection", DOCSYNC_COLLECTION_LEN);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "docsync_digest() doesn't return a row");

	docsync_schema_open(STORE_READ);
	watermark = docsync_settle_push_snapshot();
	moved = docsync_moved_find(GetActiveSnapshot(), collection);
	if (docsync_moved_is_closed(moved))
		docsync_moved_refuse(moved);
	make_digest(collection, digest);
	docsync_settle_begin(&newest.settle, GetActiveSnapshot(),
						 docsync_moved_line(moved, docsync_history_read(GetActiveSnapshot())),
						 collection, watermark);
	docsync_store_scan_back(collection, DT_NOEND, note_settled, &newest);
	PopActiveSnapshot();

	docsync_digest_format(digest, hex);
	values[0] = Int64GetDatum(digest->count);
	values[1] = CStringGetTextDatum(hex);
	values[2] = BoolGetDatum(newest.is_settled);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

/*
 * Appends {"count", "digest", "sums"} of the live documents that the caller
 * sees, under the snapshot of a download that has reached the end; or null if
 * something visible isn't settled yet, or others are still summing up.  own is
 * the client's digest: if it is the same, the sums are left out.
 */
void
docsync_state_append(StringInfo buf, const Download *download, const char *own)
{
	char		hex[DOCSYNC_DIGEST_LEN];
	Digest	   *digest = palloc(sizeof(Digest));

	if (download->is_held || !get_digest(download, digest))
	{
		appendStringInfoString(buf, "null");
		return;
	}

	docsync_digest_format(digest, hex);
	appendStringInfo(buf, "{\"count\":" INT64_FORMAT ",\"digest\":\"%s\"",
					 digest->count, hex);
	if (strcmp(hex, own) == 0)
	{
		appendStringInfoChar(buf, '}');
		return;
	}

	appendStringInfoString(buf, ",\"sums\":[");
	for (int i = 0; i < DIGEST_BUCKETS; i++)
		appendStringInfo(buf, i == 0 ? "\"%08x%08x\"" : ",\"%08x%08x\"",
						 digest->sums[i].high, digest->sums[i].low);
	appendStringInfoString(buf, "]}");
}

/*
 * Finds the sums, or makes them; returns false if others take too long to make
 * theirs.
 *
 * Locks: one that nobody waits for, while it sums up.
 */
static bool
get_digest(const Download *download, Digest *digest)
{
	bool		share = may_share(download);
	bool		is_turn;
	LOCKTAG		tag;

	if (cache == NULL)
		open_cache();
	if (share && find_cached(download, digest))
		return true;

	is_turn = wait_for_turn(download, share, digest, &tag);

	/* A previous holder of the lock may have made them. */
	if (share && find_cached(download, digest))
	{
		if (is_turn)
			LockRelease(&tag, ExclusiveLock, false);
		return true;
	}
	if (!is_turn)
		return false;

	make_digest(download->collection, digest);
	if (share)
		keep_cached(download, digest);
	LockRelease(&tag, ExclusiveLock, false);
	ConditionVariableBroadcast(&cache->summed_up);
	return true;
}

/*
 * Sums up the documents that the caller sees under the active snapshot.
 */
static void
make_digest(text *collection, Digest *digest)
{
	Datum		args[] = {PointerGetDatum(collection)};

	memset(digest, 0, sizeof(Digest));
	docsync_statement_run(&sum_up, args, add_to_digest, digest);
}

/*
 * StoredCallback: notes whether the newest document is settled, and ends the
 * scan there.
 */
static bool
note_settled(const StoredDocument *stored, void *arg)
{
	SettledNewest *newest = (SettledNewest *) arg;

	newest->is_settled = docsync_settle_test(&newest->settle,
											 stored->last_update_utc,
											 stored->fence);
	return false;
}

/*
 * May sums be shared with others?  Checks conditions 2, 4 and 5; a page that
 * hasn't reached the end doesn't get here.
 */
static bool
may_share(const Download *download)
{
	return download->passed > 0 &&
		!TransactionIdIsValid(GetTopTransactionIdIfAny()) &&
		sees_all_or_nothing();
}

/*
 * Does a caller who sees one document of a collection see all of them?  That
 * is so without row-level security, and with policies that look at no column
 * but the collection, such as one that separates tenants.
 */
static bool
sees_all_or_nothing(void)
{
	const Store *store = docsync_schema_open(STORE_READ);
	AttrNumber	collection = store->attnums[STORE_DOCUMENT][DOCUMENT_COLLECTION];
	Relation	rel;
	ListCell   *cell;
	bool		result = true;

	if (check_enable_rls(store->relations[STORE_DOCUMENT], InvalidOid, true) != RLS_ENABLED)
		return true;
	if (row_security_policy_hook_permissive != NULL ||
		row_security_policy_hook_restrictive != NULL)
		return false;

	rel = table_open(store->relations[STORE_DOCUMENT], NoLock);
	foreach(cell, rel->rd_rsdesc->policies)
	{
		const RowSecurityPolicy *policy = (RowSecurityPolicy *) lfirst(cell);

		if (policy->polcmd != '*' && policy->polcmd != ACL_SELECT_CHR)
			continue;
		if (looks_beyond((Node *) policy->qual, &collection) ||
			contain_volatile_functions((Node *) policy->qual))
			result = false;
	}
	table_close(rel, NoLock);
	return result;
}

/*
 * Does a policy look at a column other than the collection, or at rows of a
 * subquery?  (A subquery without FROM is only a way to evaluate something
 * once.)
 */
static bool
looks_beyond(Node *node, void *collection)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
		return ((Var *) node)->varattno != *(AttrNumber *) collection;
	if (IsA(node, Query))
		return ((Query *) node)->rtable != NIL ||
			query_tree_walker((Query *) node, looks_beyond, collection, 0);
	return expression_tree_walker(node, looks_beyond, collection);
}

/*
 * Finds the shared memory for the sums, or allocates it with the first call
 * since the server was started: nothing has reserved it.
 */
static void
open_cache(void)
{
	bool		found;

	cache = GetNamedDSMSegment(CACHE_NAME, sizeof(Cache), init_cache, &found,
							   NULL);

	/* If no shared memory is left, each session has its own sums. */
	if (cache == NULL)
	{
		cache = MemoryContextAlloc(TopMemoryContext, sizeof(Cache));
		empty_cache(cache);
	}
	compat_name_tranche(cache->lock.tranche, TRANCHE_NAME);
}

/*
 * GetNamedDSMSegment()'s callback
 */
static void
init_cache(DSM_INIT_PARAMETERS)
{
	empty_cache((Cache *) segment);
}

/* Nothing is summed up yet. */
static void
empty_cache(Cache *new)
{
	memset(new, 0, sizeof(Cache));
	LWLockInitialize(&new->lock, LWLockNewTrancheId(TRANCHE_NAME));
	ConditionVariableInit(&new->summed_up);
}

/*
 * Copies the shared sums for exactly the state that a page has found; returns
 * false if there are none that are recent enough.
 */
static bool
find_cached(const Download *download, Digest *digest)
{
	Oid			document = get_document();
	bool		found = false;

	LWLockAcquire(&cache->lock, LW_SHARED);
	for (int i = 0; i < CACHE_STATES && !found; i++)
	{
		const CachedState *cached = &cache->states[i];

		if (is_same(cached, download, document) && cached->last == download->last &&
			cached->epoch == docsync_history_epoch(download->history) &&
			is_fresh(cached->begun))
		{
			*digest = cached->digest;
			found = true;
		}
	}
	LWLockRelease(&cache->lock);
	return found;
}

/*
 * Stores sums for sharing, in place of the collection's old ones, or of the
 * oldest.
 */
static void
keep_cached(const Download *download, const Digest *digest)
{
	Oid			document = get_document();
	CachedState *cached;
	TimestampTz begun = GetCurrentTransactionStartTimestamp();

	if (!is_fresh(begun))
		return;

	LWLockAcquire(&cache->lock, LW_EXCLUSIVE);
	cached = &cache->states[0];
	for (int i = 0; i < CACHE_STATES; i++)
	{
		if (is_same(&cache->states[i], download, document))
		{
			cached = &cache->states[i];
			break;
		}
		if (cache->states[i].begun < cached->begun)
			cached = &cache->states[i];
	}

	cached->begun = begun;
	cached->database = MyDatabaseId;
	cached->document = document;
	cached->epoch = docsync_history_epoch(download->history);
	cached->last = download->last;
	cached->collection_len = VARSIZE_ANY_EXHDR(download->collection);
	memcpy(cached->collection, VARDATA_ANY(download->collection),
		   cached->collection_len);
	cached->digest = *digest;
	LWLockRelease(&cache->lock);
}

/*
 * The table that is part of the sums' key.  Call this before locking the
 * cache: opening the store may take locks and read catalogs, which must not be
 * waited for while holding an LWLock.
 */
static Oid
get_document(void)
{
	return docsync_schema_open(STORE_READ)->relations[STORE_DOCUMENT];
}

/*
 * Are the sums for the same collection, in whatever state?
 */
static bool
is_same(const CachedState *cached, const Download *download, Oid document)
{
	const text *collection = download->collection;

	return cached->database == MyDatabaseId &&
		cached->document == document &&
		cached->collection_len == (int) VARSIZE_ANY_EXHDR(collection) &&
		memcmp(cached->collection, VARDATA_ANY(collection),
			   cached->collection_len) == 0;
}

/*
 * Are sums recent enough?  Not if the machine's clock has been set back since:
 * then they could be of any age.
 */
static bool
is_fresh(TimestampTz begun)
{
	TimestampTz now = GetCurrentTimestamp();

	return begun > now - CACHE_AGE && begun <= now;
}

/*
 * Waits for the lock that one must hold to sum up.  Returns false if that
 * takes too long, or if the lock isn't needed any more.
 *
 * A session that fails wakes nobody, but its lock is free then for those whose
 * wait has timed out.
 */
static bool
wait_for_turn(const Download *download, bool share, Digest *digest,
			  LOCKTAG *tag)
{
	long		left = PATIENCE;
	bool		is_turn;
	instr_time	begun;
	instr_time	waited;

	INSTR_TIME_SET_CURRENT(begun);
	while (!(is_turn = try_lock(download, share, tag)) && left > 0 &&
		   !(share && find_cached(download, digest)))
	{
		/*
		 * The first call only prepares to sleep, so that no wakeup is missed.
		 */
		ConditionVariableTimedSleep(&cache->summed_up, left, PG_WAIT_EXTENSION);
		INSTR_TIME_SET_CURRENT(waited);
		INSTR_TIME_SUBTRACT(waited, begun);
		left = PATIENCE - (long) INSTR_TIME_GET_MILLISEC(waited);
	}
	ConditionVariableCancelSleep();
	return is_turn;
}

/*
 * Tries to take the lock for summing up.  For sums to be shared it is always
 * the same one for a collection, so that one session sums up for all.
 */
static bool
try_lock(const Download *download, bool share, LOCKTAG *tag)
{
	int			own = docsync_text_hash(download->collection) % SESSIONS;

	for (int i = 0; i < SESSIONS; i++)
	{
		if (share && i != own)
			continue;
		SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, i, 0, DOCSYNC_LOCK_STATE);
		if (LockAcquire(tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL)
			return true;
	}
	return false;
}

/* RowCallback: adds a document to the Digest that arg points to. */
static bool
add_to_digest(TupleTableSlot *slot, void *arg)
{
	docsync_digest_add((Digest *) arg, DatumGetTextPP(slot->tts_values[0]),
					   DatumGetInt64(slot->tts_values[1]),
					   DatumGetTimestampTz(slot->tts_values[2]));
	return true;
}
