/*-------------------------------------------------------------------------
 *
 * statement.c
 *	  Runs statements: by SPI, with kept plans, some of them pinned (pin.c).
 *
 * This is the only file that does so: other files have their statements run
 * here. (purge.c uses SPI to commit.)  A statement is run as the caller,
 * unless its flags say otherwise, so that privileges and row-level security
 * apply; the plan cache makes a new plan where another user's policies require
 * it.
 *
 * Every name in a query text is qualified: search_path is the caller's.  The
 * caller has opened the store (schema.c), so the names refer to what was
 * checked.
 *
 * Rows go straight to a callback, not through SPI's tuple table, and the
 * callback can end a scan at any row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "miscadmin.h"
#include "tcop/dest.h"
#include "utils/guc.h"
#include "utils/plancache.h"

#include "docsync.h"

typedef struct RowReceiver
{
	DestReceiver pub;
	MemoryContext context;		/* the callback's */
	RowCallback callback;
	void	   *arg;
} RowReceiver;

static uint64 run_as(Statement *statement, const SPIExecuteOptions *options);
static uint64 run(Statement *statement, const SPIExecuteOptions *options);
static SPIPlanPtr get_plan(Statement *statement);
static void begin_statement(DestReceiver *self, int operation,
							TupleDesc typeinfo);
static bool receive_row(TupleTableSlot *slot, DestReceiver *self);

/*
 * Runs a statement and returns the number of rows.  Each row goes to the
 * callback, unless that is NULL, in the caller's memory context; if it returns
 * false, the statement ends.  Memory: what SPI needs is freed on return.
 */
uint64
docsync_statement_run(Statement *statement, const Datum *args,
					  RowCallback callback, void *arg)
{
	RowReceiver receiver = {
		.context = CurrentMemoryContext,
		.callback = callback,
		.arg = arg
	};
	SPIExecuteOptions options = {
		.read_only = (statement->flags & STATEMENT_READ_ONLY) != 0,
		.dest = &receiver.pub
	};
	ParamListInfo params = makeParamList(statement->nargs);
	uint64		rows;

	for (int i = 0; i < params->numParams; i++)
	{
		params->params[i].value = args[i];
		/* A body is the one argument that may be NULL. */
		params->params[i].isnull =
			statement->argtypes[i] == JSONBOID && args[i] == 0;
		params->params[i].pflags = PARAM_FLAG_CONST;
		params->params[i].ptype = statement->argtypes[i];
	}
	options.params = params;

	receiver.pub = *None_Receiver;
	receiver.pub.receiveSlot = receive_row;
	if (statement->flags & STATEMENT_OF_TASK)
		receiver.pub.rStartup = begin_statement;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	rows = run_as(statement, &options);
	SPI_finish();

	pfree(params);
	return rows;
}

/*
 * Makes and runs a plan as the user that the statement's flags say.  Planning
 * is included since looking up a name needs a right on its schema.
 */
static uint64
run_as(Statement *statement, const SPIExecuteOptions *options)
{
	uint64		rows;

	/*
	 * As the owner of the table concerned, so that a trigger of one table's
	 * owner isn't run as another's.  And not with the caller's search_path,
	 * which would let the caller choose the functions that a trigger calls.
	 */
	if (statement->flags & (STATEMENT_OF_DOCUMENT | STATEMENT_OF_HISTORY))
	{
		Oid			owner = docsync_schema_open(STORE_READ)->owners[statement->flags & STATEMENT_OF_HISTORY ?
																	STORE_HISTORY : STORE_DOCUMENT];
		Oid			user;
		int			context;
		int			level = NewGUCNestLevel();

		/*
		 * After an error, the end of the (sub)transaction restores these.
		 */
		GetUserIdAndSecContext(&user, &context);
		SetUserIdAndSecContext(owner, context | SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_RESTRICTED_OPERATION |
							   SECURITY_NOFORCE_RLS);
		RestrictSearchPath();
		rows = run(statement, options);
		AtEOXact_GUC(true, level);
		SetUserIdAndSecContext(user, context);
	}
	else
		rows = run(statement, options);

	return rows;
}

/*
 * Runs a statement's plan, and returns the number of rows.
 */
static uint64
run(Statement *statement, const SPIExecuteOptions *options)
{
	int			result = SPI_execute_plan_extended(get_plan(statement), options);

	if (result < 0)
		elog(ERROR, "SPI_execute_plan_extended failed: %s",
			 SPI_result_code_string(result));

	return SPI_processed;
}

/*
 * The statement's generic plan, made when first needed and kept until the
 * session ends.  SPI must be connected.
 */
static SPIPlanPtr
get_plan(Statement *statement)
{
	if (statement->plan == NULL)
	{
		SPIPlanPtr	plan;

		plan = SPI_prepare_cursor(statement->text, statement->nargs,
								  statement->argtypes,
								  CURSOR_OPT_GENERIC_PLAN |
								  CURSOR_OPT_FAST_PLAN);
		if (plan == NULL)
			elog(ERROR, "SPI_prepare_cursor failed: %s",
				 SPI_result_code_string(SPI_result));

		SPI_keepplan(plan);
		statement->plan = plan;
		if (statement->flags & STATEMENT_PINNED)
		{
			CachedPlanSource *source = linitial(SPI_plan_get_plan_sources(plan));

			docsync_pin_add(source->query_string);
		}
	}

	return statement->plan;
}

/*
 * rStartup of a DestReceiver: the executor begins to run the statement.
 * Anything run for planning has ended.
 */
static void
begin_statement(DestReceiver *self, int operation, TupleDesc typeinfo)
{
	docsync_task_begin_statement();
}

/* receiveSlot of a DestReceiver: passes a row on to the callback. */
static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	RowReceiver *receiver = (RowReceiver *) self;
	MemoryContext oldcontext;
	bool		more;

	if (receiver->callback == NULL)
		return true;

	slot_getallattrs(slot);

	oldcontext = MemoryContextSwitchTo(receiver->context);
	more = receiver->callback(slot, receiver->arg);
	MemoryContextSwitchTo(oldcontext);

	return more;
}
