/*-------------------------------------------------------------------------
 *
 * insert.c
 *	  Inserting rows without a statement.
 *
 * docsync.record gets a row for each document that is replaced, and a statement
 * of its own for that would take as long as the upload's.  So rows are inserted
 * as COPY inserts them: many at once, by the table's access method, with the
 * triggers, constraints and indexes that there are.  Columns that others have
 * added get their defaults.
 *
 * This is done as the table's owner and, where code of the owner's is run, with
 * a safe search_path, as in statement.c; so privileges and row-level security
 * don't apply.  Rules don't apply, either: check.c refuses INSTEAD rules, and
 * others don't see the rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/guc.h"
#include "utils/rel.h"

#include "docsync.h"

/* The most rows that are inserted at once */
#define INSERT_ROWS			100

static void insert(Relation rel, const AttrNumber *attnums, int ncolumns,
				   const Datum *values, const bool *nulls, int count);
static bool runs_code(const ResultRelInfo *result, int ncolumns);
static bool prepare(ResultRelInfo *result, EState *estate,
					TupleTableSlot *slot);
static void insert_at_once(ResultRelInfo *result, EState *estate,
						   TupleTableSlot **slots, int count);
static void set_defaults(Relation rel, EState *estate, TupleTableSlot *slot);

/*
 * Inserts rows into one of the store's tables.  values and nulls have ncolumns
 * entries for each row, in the order of the table's enum (docsync.h).  Leaves
 * memory behind in the current context, in the order of the rows' size.
 *
 * Locks: the table, ROW EXCLUSIVE, until the end of the transaction.
 */
void
docsync_insert_rows(StoreRelation which, int ncolumns, const Datum *values,
					const bool *nulls, int count)
{
	const Store *store = docsync_schema_open(STORE_READ);
	Oid			owner = store->owners[which];
	AttrNumber	attnums[STORE_COLUMNS_MAX];
	Relation	rel = table_open(store->relations[which], RowExclusiveLock);
	Oid			user;
	int			context;

	memcpy(attnums, store->attnums[which], sizeof(attnums));

	/* After an error, the (sub)transaction's abort restores these. */
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(owner, context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	insert(rel, attnums, ncolumns, values, nulls, count);
	SetUserIdAndSecContext(user, context);

	table_close(rel, NoLock);
}

/*
 * Inserts rows, as the current user.
 */
static void
insert(Relation rel, const AttrNumber *attnums, int ncolumns,
	   const Datum *values, const bool *nulls, int count)
{
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *result = makeNode(ResultRelInfo);
	TupleTableSlot *slots[INSERT_ROWS];
	int			nslots = Min(count, INSERT_ROWS);
	int			filled = 0;
	int			level = 0;

	InitResultRelInfo(result, rel, 0, NULL, 0);
	ExecOpenIndices(result, false);
	estate->es_opened_result_relations = list_make1(result);
	estate->es_output_cid = GetCurrentCommandId(true);
	for (int i = 0; i < nslots; i++)
		slots[i] = table_slot_create(rel, NULL);

	/* Setting it takes a tenth of the time, so only where it matters. */
	if (runs_code(result, ncolumns))
	{
		level = NewGUCNestLevel();
		RestrictSearchPath();
	}

	AfterTriggerBeginQuery();
	for (int i = 0; i < count; i++)
	{
		TupleTableSlot *slot = slots[filled];

		ExecClearTuple(slot);
		if (RelationGetNumberOfAttributes(rel) > ncolumns)
			set_defaults(rel, estate, slot);
		for (int j = 0; j < ncolumns; j++)
		{
			slot->tts_values[attnums[j] - 1] = values[i * ncolumns + j];
			slot->tts_isnull[attnums[j] - 1] = nulls[i * ncolumns + j];
		}
		ExecStoreVirtualTuple(slot);
		if (prepare(result, estate, slot))
			filled++;
		if (filled == nslots || i == count - 1)
		{
			insert_at_once(result, estate, slots, filled);
			filled = 0;
		}
	}
	AfterTriggerEndQuery(estate);
	if (level > 0)
		AtEOXact_GUC(true, level);

	for (int i = 0; i < nslots; i++)
		ExecDropSingleTupleTableSlot(slots[i]);
	ExecCloseResultRelations(estate);
	FreeExecutorState(estate);
}

/*
 * Could an insert run code that isn't PostgreSQL's: triggers, or expressions
 * of constraints, of columns that others have added, or of indexes?
 */
static bool
runs_code(const ResultRelInfo *result, int ncolumns)
{
	TupleDesc	desc = RelationGetDescr(result->ri_RelationDesc);

	if (result->ri_TrigDesc != NULL || desc->natts > ncolumns ||
		(desc->constr != NULL && desc->constr->num_check > 0))
		return true;
	for (int i = 0; i < result->ri_NumIndices; i++)
	{
		IndexInfo  *info = result->ri_IndexRelationInfo[i];

		if (info->ii_Expressions != NIL || info->ii_Predicate != NIL)
			return true;
	}
	return false;
}

/*
 * Does with a row what must be done before it is inserted.  Returns false if a
 * trigger has suppressed it.
 */
static bool
prepare(ResultRelInfo *result, EState *estate, TupleTableSlot *slot)
{
	TupleConstr *constr = RelationGetDescr(result->ri_RelationDesc)->constr;

	CHECK_FOR_INTERRUPTS();

	if (result->ri_TrigDesc != NULL && result->ri_TrigDesc->trig_insert_before_row &&
		!ExecBRInsertTriggers(estate, result, slot))
		return false;
	if (constr != NULL)
	{
		if (constr->has_generated_stored)
			ExecComputeStoredGenerated(result, estate, slot, CMD_INSERT);
		ExecConstraints(result, slot, estate);
	}
	return true;
}

/*
 * Inserts prepared rows, with their index entries.
 */
static void
insert_at_once(ResultRelInfo *result, EState *estate, TupleTableSlot **slots,
			   int count)
{
	if (count > 0)
		table_multi_insert(result->ri_RelationDesc, slots, count,
						   estate->es_output_cid, 0, NULL);
	for (int i = 0; i < count; i++)
	{
		List	   *recheck = NIL;

		if (result->ri_NumIndices > 0)
			recheck = ExecInsertIndexTuples(result, estate, 0, slots[i], NIL,
											NULL);
		ExecARInsertTriggers(estate, result, slots[i], recheck, NULL);
		ResetPerTupleExprContext(estate);
	}
}

/*
 * Sets all columns to their defaults.
 */
static void
set_defaults(Relation rel, EState *estate, TupleTableSlot *slot)
{
	TupleDesc	desc = RelationGetDescr(rel);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);
		Node	   *expr = attr->attisdropped || attr->attgenerated != '\0' ?
		NULL : build_column_default(rel, i + 1);

		slot->tts_isnull[i] = expr == NULL;
		if (expr != NULL)
			slot->tts_values[i] =
				ExecEvalExpr(ExecInitExpr(expression_planner((Expr *) expr), NULL),
							 GetPerTupleExprContext(estate),
							 &slot->tts_isnull[i]);
	}
}
