/*-------------------------------------------------------------------------
 *
 * insert.c
 *	  Inserting rows without a statement.
 *
 * docsync.record gets a row for each document that is replaced, and a statement
 * of its own for that would take as long as the upload's.  So rows are inserted
 * by the executor's function for logical replication, which does what a
 * statement would do: triggers, constraints, indexes.  Columns that others have
 * added get their defaults.
 *
 * This is done as the table's owner, and with a safe search_path, as in
 * statement.c; so privileges and row-level security don't apply.  Rules don't
 * apply, either: check.c refuses INSTEAD rules, and others don't see the rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/guc.h"
#include "utils/rel.h"

#include "docsync.h"

static void insert(Relation rel, const AttrNumber *attnums, int ncolumns,
				   const Datum *values, const bool *nulls, int count);
static void set_defaults(Relation rel, EState *estate, TupleTableSlot *slot);

/*
 * Inserts rows into one of the store's tables.  values and nulls have ncolumns
 * entries for each row, in the order of the table's enum (docsync.h).
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
	int			level = NewGUCNestLevel();

	memcpy(attnums, store->attnums[which], sizeof(attnums));

	/* After an error, the (sub)transaction's abort restores these. */
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(owner, context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	RestrictSearchPath();
	insert(rel, attnums, ncolumns, values, nulls, count);
	AtEOXact_GUC(true, level);
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
	TupleTableSlot *slot = table_slot_create(rel, NULL);

	InitResultRelInfo(result, rel, 0, NULL, 0);
	ExecOpenIndices(result, false);
	estate->es_opened_result_relations = list_make1(result);
	estate->es_output_cid = GetCurrentCommandId(true);

	AfterTriggerBeginQuery();
	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();

		ExecClearTuple(slot);
		if (RelationGetNumberOfAttributes(rel) > ncolumns)
			set_defaults(rel, estate, slot);
		for (int j = 0; j < ncolumns; j++)
		{
			slot->tts_values[attnums[j] - 1] = values[i * ncolumns + j];
			slot->tts_isnull[attnums[j] - 1] = nulls[i * ncolumns + j];
		}
		ExecStoreVirtualTuple(slot);
		ExecSimpleRelationInsert(result, estate, slot);
		ResetPerTupleExprContext(estate);
	}
	AfterTriggerEndQuery(estate);

	ExecDropSingleTupleTableSlot(slot);
	ExecCloseResultRelations(estate);
	FreeExecutorState(estate);
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
