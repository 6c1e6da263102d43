/*-------------------------------------------------------------------------
 *
 * store.c
 *	  The table: query texts, kept plans, rows to structs.
 *
 * All but one look is done as the caller, so that privileges and row-level
 * security on docsync.document apply; the plan cache makes another plan where
 * another user's policies need one.  The only file that uses SPI.
 *
 * Every name in a query text is qualified: search_path is the caller's.
 *
 * Rows don't go by way of SPI's tuple table but straight to a callback, which
 * can end a scan at any row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "jit/jit.h"
#include "miscadmin.h"
#include "optimizer/cost.h"
#include "tcop/dest.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "docsync.h"

typedef enum Statement
{
	STATEMENT_FIND,
	STATEMENT_FIND_ONE,
	STATEMENT_SCAN,
	STATEMENT_WRITE,
	STATEMENT_WRITE_ONE,
	STATEMENT_CREATE,
	STATEMENT_CREATE_ONE,
	STATEMENT_BURY,
	STATEMENT_PURGE,
	STATEMENT_FIND_PURGED
} Statement;

#define STORED_COLUMNS \
	"SELECT id, client_version, client_id, last_update_utc, deleted, body, fence" \
	"  FROM docsync.document"

#define WRITE(source) \
	"INSERT INTO docsync.document AS d" \
	" (collection, id, client_version, client_id, deleted, body) " \
	source

/* Faster than FROM, where each array would be copied to a store of its own. */
#define FROM_ARRAYS \
	"SELECT $1, pg_catalog.unnest($3), pg_catalog.unnest($4), $2," \
	" pg_catalog.unnest($5), pg_catalog.unnest($6)"

#define FROM_VALUES \
	"VALUES ($1, $3, $4, $2, $5, $6)"

/*
 * The rule of rule.c, decided here once more because others may have written
 * since we looked.  A row for which it is false isn't returned.
 */
#define WINS \
	" ON CONFLICT (collection, id) DO UPDATE" \
	"   SET client_version = excluded.client_version," \
	"       client_id = excluded.client_id," \
	"       deleted = excluded.deleted," \
	"       body = excluded.body" \
	" WHERE d.client_version OPERATOR(pg_catalog.<) excluded.client_version" \
	"    OR d.client_version OPERATOR(pg_catalog.=) 0" \
	"   AND excluded.client_version OPERATOR(pg_catalog.=) 0" \
	"   AND (d.client_id OPERATOR(pg_catalog.<>) excluded.client_id" \
	"     OR d.deleted OPERATOR(pg_catalog.<>) excluded.deleted" \
	"     OR (d.body IS NULL) OPERATOR(pg_catalog.<>) (excluded.body IS NULL)" \
	"     OR d.body OPERATOR(pg_catalog.<>) excluded.body)"

#define WRITTEN \
	" RETURNING d.id, d.client_version, d.last_update_utc"

typedef struct StatementText
{
	const char *text;
	int			nargs;
	Oid			argtypes[6];
	bool		pinned;			/* plan must walk an index, see run() */
} StatementText;

static const StatementText statements[] = {

	/*
	 * A look-up for each id, by the primary key.  With ANY ($2) a plan that
	 * was made when the table was small may read the whole collection, for as
	 * long as it is kept; OFFSET 0 keeps the planner from making a join of
	 * it.
	 */
	[STATEMENT_FIND] = {
		"SELECT d.* FROM pg_catalog.unnest($2) AS sent(id) CROSS JOIN LATERAL ("
		STORED_COLUMNS
		" WHERE collection OPERATOR(pg_catalog.=) $1"
		"   AND id OPERATOR(pg_catalog.=) sent.id OFFSET 0) AS d",
		2, {TEXTOID, TEXTARRAYOID}, true
	},
	[STATEMENT_SCAN] = {
		STORED_COLUMNS
		" WHERE collection OPERATOR(pg_catalog.=) $1"
		"   AND last_update_utc OPERATOR(pg_catalog.>=) $2"
		" ORDER BY last_update_utc",
		2, {TEXTOID, TIMESTAMPTZOID}, true
	},

	[STATEMENT_FIND_ONE] = {
		STORED_COLUMNS
		" WHERE collection OPERATOR(pg_catalog.=) $1"
		"   AND id OPERATOR(pg_catalog.=) $2",
		2, {TEXTOID, TEXTOID}, true
	},

	/*
	 * Rows come in the order of their ids, since the arrays do: two uploads
	 * lock rows in the same order, and never deadlock.
	 */
	[STATEMENT_WRITE] = {
		WRITE(FROM_ARRAYS) WINS WRITTEN,
		6, {TEXTOID, TEXTOID, TEXTARRAYOID, INT8ARRAYOID, BOOLARRAYOID, JSONBARRAYOID}, false
	},
	[STATEMENT_WRITE_ONE] = {
		WRITE(FROM_VALUES) WINS WRITTEN,
		6, {TEXTOID, TEXTOID, TEXTOID, INT8OID, BOOLOID, JSONBOID}, false
	},
	[STATEMENT_CREATE] = {
		WRITE(FROM_ARRAYS) WRITTEN,
		6, {TEXTOID, TEXTOID, TEXTARRAYOID, INT8ARRAYOID, BOOLARRAYOID, JSONBARRAYOID}, false
	},

	[STATEMENT_CREATE_ONE] = {
		WRITE(FROM_VALUES) " ON CONFLICT (collection, id) DO NOTHING" WRITTEN,
		6, {TEXTOID, TEXTOID, TEXTOID, INT8OID, BOOLOID, JSONBOID}, false
	},

	[STATEMENT_BURY] = {
		"UPDATE docsync.document SET deleted = true, body = NULL"
		" WHERE collection OPERATOR(pg_catalog.=) $1"
		"   AND id OPERATOR(pg_catalog.=) $2",
		2, {TEXTOID, TEXTOID}, true
	},

	/*
	 * Rows and horizon go in one transaction: a snapshot sees one of them.
	 * Rows are locked in the order that uploads lock them in; one that an
	 * upload has locked is about to come back, and not for us.
	 */
	[STATEMENT_PURGE] = {
		"WITH old AS ("
		"  SELECT collection, id FROM docsync.document"
		"   WHERE deleted AND last_update_utc OPERATOR(pg_catalog.<) $1"
		"     AND ($2 OPERATOR(pg_catalog.=) '' OR"
		"          collection OPERATOR(pg_catalog.=) $2)"
		"   ORDER BY collection, id FOR UPDATE SKIP LOCKED),"
		" gone AS ("
		"  DELETE FROM docsync.document AS d USING old"
		"   WHERE d.collection OPERATOR(pg_catalog.=) old.collection"
		"     AND d.id OPERATOR(pg_catalog.=) old.id"
		"  RETURNING d.collection, d.last_update_utc),"
		" horizon AS ("
		"  INSERT INTO docsync.purged AS p (collection, last_update_utc)"
		"  SELECT collection, pg_catalog.max(last_update_utc)"
		"    FROM gone GROUP BY collection"
		"  ON CONFLICT (collection) DO UPDATE"
		"    SET last_update_utc = GREATEST(p.last_update_utc, excluded.last_update_utc))"
		" SELECT pg_catalog.count(*), pg_catalog.max(last_update_utc) FROM gone",
		2, {TIMESTAMPTZOID, TEXTOID}, false
	},

	[STATEMENT_FIND_PURGED] = {
		"SELECT 1::pg_catalog.int8, last_update_utc FROM docsync.purged"
		" WHERE collection OPERATOR(pg_catalog.=) $1",
		1, {TEXTOID}, true
	}
};

static SPIPlanPtr plans[lengthof(statements)];

typedef struct PurgeResult
{
	int64		count;
	TimestampTz horizon;
} PurgeResult;

typedef struct RowReceiver
{
	DestReceiver pub;
	MemoryContext context;		/* the callback's */
	bool		(*receive) (TupleTableSlot *slot, struct RowReceiver *self);
	StoredCallback stored;
	WrittenCallback written;
	void	   *arg;
} RowReceiver;

static void run_guarded(GuardTask task, Statement statement,
						const Datum *args, RowReceiver *receiver);
static uint64 run(Statement statement, const Datum *args, bool read_only,
				  RowReceiver *receiver);
static int	run_pinned(SPIPlanPtr plan, const SPIExecuteOptions *options);
static SPIPlanPtr get_plan(Statement statement);
static bool receive_stored(TupleTableSlot *slot, RowReceiver *self);
static bool receive_written(TupleTableSlot *slot, RowReceiver *self);
static bool receive_purge(TupleTableSlot *slot, RowReceiver *self);

/*
 * Looks up the documents with the given ids, as of now, and returns how many
 * are stored.  The callback may be NULL.
 */
uint64
docsync_store_find(text *collection, Datum *ids, int count,
				   StoredCallback callback, void *arg)
{
	RowReceiver receiver = {
		.receive = receive_stored,
		.stored = callback,
		.arg = arg
	};
	Datum		args[] = {PointerGetDatum(collection), ids[0]};

	if (count == 1)
		return run(STATEMENT_FIND_ONE, args, false, &receiver);

	args[1] = PointerGetDatum(construct_array(ids, count, TEXTOID, -1, false,
											  TYPALIGN_INT));
	return run(STATEMENT_FIND, args, false, &receiver);
}

/*
 * Scans a collection from a stamp on, in the order of stamps, with the active
 * snapshot.
 */
void
docsync_store_scan(text *collection, TimestampTz since,
				   StoredCallback callback, void *arg)
{
	RowReceiver receiver = {
		.receive = receive_stored,
		.stored = callback,
		.arg = arg
	};
	Datum		args[] = {
		PointerGetDatum(collection),
		TimestampTzGetDatum(since)
	};

	run(STATEMENT_SCAN, args, true, &receiver);
}

/*
 * Writes documents, at most one for an id and in the order of their ids.  The
 * callback is given those that were written; the others were stored by
 * somebody else meanwhile, and win.
 *
 * With all_new, none of the documents was stored when we looked.  If one is
 * now, there is an error, ERRCODE_UNIQUE_VIOLATION, or of a single document
 * the callback doesn't hear.  Without ON CONFLICT, which looks into the index
 * before it inserts and marks a row twice, a row takes a third less time.
 *
 * Locks: the rows written and those that win, until the end of the
 * transaction.
 */
void
docsync_store_write(text *collection, text *client_id,
					SentDocument **documents, int count, bool all_new,
					WrittenCallback callback, void *arg)
{
	RowReceiver receiver = {
		.receive = receive_written,
		.written = callback,
		.arg = arg
	};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "docsync write",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	Datum	   *columns[4];
	bool	   *no_body = palloc(sizeof(bool) * count);
	Datum		args[6];
	int			lower_bound = 1;
	Statement	statement = count > 1 ?
	(all_new ? STATEMENT_CREATE : STATEMENT_WRITE) :
	(all_new ? STATEMENT_CREATE_ONE : STATEMENT_WRITE_ONE);

	for (int i = 0; i < 4; i++)
		columns[i] = palloc(sizeof(Datum) * count);

	for (int i = 0; i < count; i++)
	{
		SentDocument *sent = documents[i];

		columns[0][i] = PointerGetDatum(cstring_to_text_with_len(sent->id,
																 sent->id_len));
		columns[1][i] = Int64GetDatum(sent->client_version);
		columns[2][i] = BoolGetDatum(sent->deleted);
		columns[3][i] = JsonbPGetDatum(docsync_batch_body(sent));
		no_body[i] = !sent->has_body;
	}

	args[0] = PointerGetDatum(collection);
	args[1] = PointerGetDatum(client_id);
	if (count == 1)
	{
		for (int i = 0; i < 4; i++)
			args[2 + i] = columns[i][0];
	}
	else
	{
		args[2] = PointerGetDatum(construct_array(columns[0], count, TEXTOID,
												  -1, false, TYPALIGN_INT));
		args[3] = PointerGetDatum(construct_array(columns[1], count, INT8OID,
												  sizeof(int64),
												  FLOAT8PASSBYVAL,
												  TYPALIGN_DOUBLE));
		args[4] = PointerGetDatum(construct_array(columns[2], count, BOOLOID,
												  1, true, TYPALIGN_CHAR));
		args[5] = PointerGetDatum(construct_md_array(columns[3], no_body, 1,
													 &count, &lower_bound,
													 JSONBOID, -1, false,
													 TYPALIGN_INT));
	}
	MemoryContextSwitchTo(oldcontext);

	run_guarded(GUARD_UPLOAD, statement, args, &receiver);

	MemoryContextDelete(context);
}

/*
 * Turns a document into a tombstone; false if the caller can't update it.
 */
bool
docsync_store_bury(Datum collection, Datum id)
{
	RowReceiver receiver = {0};
	Datum		args[] = {collection, id};

	return run(STATEMENT_BURY, args, false, &receiver) > 0;
}

/*
 * Removes the tombstones with stamps before the given one, of one collection
 * or, if that is NULL, of all.  Returns how many, and the highest of their
 * stamps, which is not set if there were none.
 */
int64
docsync_store_purge(TimestampTz before, text *collection,
					TimestampTz *horizon)
{
	PurgeResult result = {0};
	RowReceiver receiver = {
		.receive = receive_purge,
		.arg = &result
	};
	Datum		args[] = {
		TimestampTzGetDatum(before),
		PointerGetDatum(collection != NULL ? collection : cstring_to_text(""))
	};

	run_guarded(GUARD_PURGE, STATEMENT_PURGE, args, &receiver);

	*horizon = result.horizon;
	return result.count;
}

/*
 * The highest stamp of a tombstone removed from the collection, as the active
 * snapshot sees it.
 *
 * Read as the owner of the table: what a reader has missed doesn't depend on
 * the reader's rights, and the table names the collections of others.
 */
TimestampTz
docsync_store_find_purged(text *collection)
{
	PurgeResult result = {.horizon = DT_NOBEGIN};
	RowReceiver receiver = {
		.receive = receive_purge,
		.arg = &result
	};
	Datum		args[] = {PointerGetDatum(collection)};
	Oid			relid = get_relname_relid("purged",
										  get_namespace_oid("docsync", false));
	Relation	rel = table_open(relid, AccessShareLock);
	Oid			user;
	int			context;

	/* If there is an error, the end of the (sub)transaction restores them. */
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(rel->rd_rel->relowner,
						   context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_NOFORCE_RLS);
	run(STATEMENT_FIND_PURGED, args, true, &receiver);
	SetUserIdAndSecContext(user, context);

	table_close(rel, NoLock);
	return result.horizon;
}

/*
 * Runs a statement that the guard has to know of.
 */
static void
run_guarded(GuardTask task, Statement statement, const Datum *args,
			RowReceiver *receiver)
{
	GuardFrame	frame = docsync_guard_enter(task);

	PG_TRY();
	{
		run(statement, args, false, receiver);
	}
	PG_FINALLY();
	{
		docsync_guard_leave(&frame);
	}
	PG_END_TRY();
}

static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	RowReceiver *receiver = (RowReceiver *) self;
	MemoryContext oldcontext;
	bool		more;

	slot_getallattrs(slot);

	oldcontext = MemoryContextSwitchTo(receiver->context);
	more = receiver->receive(slot, receiver);
	MemoryContextSwitchTo(oldcontext);

	return more;
}

static bool
receive_stored(TupleTableSlot *slot, RowReceiver *self)
{
	Datum	   *values = slot->tts_values;
	StoredDocument stored = {
		.id = DatumGetTextPP(values[0]),
		.client_version = DatumGetInt64(values[1]),
		.client_id = DatumGetTextPP(values[2]),
		.last_update_utc = DatumGetTimestampTz(values[3]),
		.deleted = DatumGetBool(values[4]),
		.has_body = !slot->tts_isnull[5],
		.body = values[5],
		.fence = DatumGetFullTransactionId(values[6])
	};

	return self->stored == NULL || self->stored(&stored, self->arg);
}

static bool
receive_written(TupleTableSlot *slot, RowReceiver *self)
{
	Datum	   *values = slot->tts_values;
	WrittenDocument written = {
		.id = DatumGetTextPP(values[0]),
		.client_version = DatumGetInt64(values[1]),
		.last_update_utc = DatumGetTimestampTz(values[2]),
		.replaced = docsync_guard_replaced()
	};

	self->written(&written, self->arg);
	return true;
}

static bool
receive_purge(TupleTableSlot *slot, RowReceiver *self)
{
	PurgeResult *result = (PurgeResult *) self->arg;

	result->count = DatumGetInt64(slot->tts_values[0]);
	result->horizon = DatumGetTimestampTz(slot->tts_values[1]);
	return true;
}

/*
 * Runs a statement and returns the number of rows.  Memory: what SPI needs is
 * gone on return.
 *
 * A pinned plan walks an index in order and can stop early, whatever the
 * planner's statistics say: with stale ones it would fetch and sort all that
 * comes after a stamp.  JIT is off since such a plan is costed as if it ran
 * to the end, and compiling would take longer than all it does.
 */
static uint64
run(Statement statement, const Datum *args, bool read_only, RowReceiver *receiver)
{
	SPIExecuteOptions options = {
		.read_only = read_only,
		.dest = &receiver->pub
	};
	ParamListInfo params = makeParamList(statements[statement].nargs);
	int			result;
	uint64		rows;

	for (int i = 0; i < params->numParams; i++)
	{
		params->params[i].value = args[i];
		/* A body is the one argument that may be NULL. */
		params->params[i].isnull =
			statements[statement].argtypes[i] == JSONBOID && args[i] == 0;
		params->params[i].pflags = PARAM_FLAG_CONST;
		params->params[i].ptype = statements[statement].argtypes[i];
	}
	options.params = params;

	receiver->pub = *None_Receiver;
	receiver->pub.receiveSlot = receive_row;
	receiver->context = CurrentMemoryContext;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");

	if (statements[statement].pinned)
		result = run_pinned(get_plan(statement), &options);
	else
		result = SPI_execute_plan_extended(get_plan(statement), &options);
	if (result < 0)
		elog(ERROR, "SPI_execute_plan_extended failed: %s",
			 SPI_result_code_string(result));

	rows = SPI_processed;

	SPI_finish();
	pfree(params);

	return rows;
}

/*
 * Runs a plan with the planner's settings as a pinned plan needs them, should
 * it have to be made anew.  They are set behind the back of guc.c, which would
 * take longer than looking up a document.
 */
static int
run_pinned(SPIPlanPtr plan, const SPIExecuteOptions *options)
{
	bool		indexscan = enable_indexscan;
	bool		seqscan = enable_seqscan;
	bool		bitmapscan = enable_bitmapscan;
	bool		sort = enable_sort;
	bool		jit = jit_enabled;
	int			result;

	enable_indexscan = true;
	enable_seqscan = enable_bitmapscan = enable_sort = jit_enabled = false;
	PG_TRY();
	{
		result = SPI_execute_plan_extended(plan, options);
	}
	PG_FINALLY();
	{
		enable_indexscan = indexscan;
		enable_seqscan = seqscan;
		enable_bitmapscan = bitmapscan;
		enable_sort = sort;
		jit_enabled = jit;
	}
	PG_END_TRY();

	return result;
}

static SPIPlanPtr
get_plan(Statement statement)
{
	if (plans[statement] == NULL)
	{
		SPIPlanPtr	plan;

		plan = SPI_prepare_cursor(statements[statement].text, statements[statement].nargs,
								  (Oid *) statements[statement].argtypes,
								  CURSOR_OPT_GENERIC_PLAN |
								  CURSOR_OPT_FAST_PLAN);
		if (plan == NULL)
			elog(ERROR, "SPI_prepare_cursor failed: %s",
				 SPI_result_code_string(SPI_result));

		SPI_keepplan(plan);
		plans[statement] = plan;
	}

	return plans[statement];
}
