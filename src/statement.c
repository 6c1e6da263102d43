/*-------------------------------------------------------------------------
 *
 * statement.c
 *	  Statements are run: by SPI, with kept plans, some of them pinned (pin.c).
 *
 * The only file that does so: rooms with statements of their own have them run
 * here.  (purge.c commits by SPI.)  A statement is run as the caller, unless
 * its flags say otherwise, so that privileges and row-level security apply;
 * the plan cache makes another plan where another user's policies need one.
 *
 * Every name in a query text is qualified: search_path is the caller's.
 * Whoever has a statement run has opened the store (schema.c), so its names
 * mean what was checked.
 *
 * Rows don't go by way of SPI's tuple table but straight to a callback, which
 * can end a scan at any row.
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

static uint64 run_as(const Statement *statement, SPIPlanPtr plan,
					 const SPIExecuteOptions *options);
static uint64 run(SPIPlanPtr plan, const SPIExecuteOptions *options);
static SPIPlanPtr get_plan(Statement *statement);
static void begin_statement(DestReceiver *self, int operation,
							TupleDesc typeinfo);
static bool receive_row(TupleTableSlot *slot, DestReceiver *self);

/*
 * Runs a statement and returns the number of rows, each of which goes to the
 * callback, in the caller's memory context, unless that is NULL.  Returning
 * false ends it.  Memory: what SPI needs is gone on return.
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
	rows = run_as(statement, get_plan(statement), &options);
	SPI_finish();

	pfree(params);
	return rows;
}

/*
 * Runs a plan as whom it is to be run.
 */
static uint64
run_as(const Statement *statement, SPIPlanPtr plan,
	   const SPIExecuteOptions *options)
{
	uint64		rows;

	/*
	 * As the owner of the very table: a trigger of one owner's isn't run as
	 * the other.  Nor with the caller's search_path, by which he would choose
	 * what functions it calls.
	 */
	if (statement->flags & (STATEMENT_OF_DOCUMENT | STATEMENT_OF_HISTORY | STATEMENT_OF_RECORD))
	{
		StoreRelation of = statement->flags & STATEMENT_OF_HISTORY ? STORE_HISTORY :
			statement->flags & STATEMENT_OF_RECORD ? STORE_RECORD : STORE_DOCUMENT;
		Oid			owner = docsync_schema_open(STORE_READ)->owners[of];
		Oid			user;
		int			context;
		int			level = NewGUCNestLevel();

		/*
		 * If there is an error, the end of the (sub)transaction restores
		 * them.
		 */
		GetUserIdAndSecContext(&user, &context);
		SetUserIdAndSecContext(owner, context | SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_RESTRICTED_OPERATION |
							   SECURITY_NOFORCE_RLS);
		RestrictSearchPath();
		rows = run(plan, options);
		AtEOXact_GUC(true, level);
		SetUserIdAndSecContext(user, context);
	}
	else
		rows = run(plan, options);

	return rows;
}

/*
 * Runs a plan, and returns the number of rows.
 */
static uint64
run(SPIPlanPtr plan, const SPIExecuteOptions *options)
{
	int			result = SPI_execute_plan_extended(plan, options);

	if (result < 0)
		elog(ERROR, "SPI_execute_plan_extended failed: %s",
			 SPI_result_code_string(result));

	return SPI_processed;
}

/*
 * The statement's plan, which is generic, made when it is first needed and
 * kept until the session ends.  SPI is connected.
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
 * The executor begins to run the statement.  Whatever was run to plan it has
 * ended.
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
