/*-------------------------------------------------------------------------
 *
 * steps.c
 *	  Procedures that do their work in steps, and commit after each.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/memutils.h"

#include "docsync.h"

/*
 * Calls step(arg) until it returns false, and returns the procedure's result:
 * a row of one bigint, *done.  Outside a transaction block it commits after
 * each step, so what arg points to must be in parent, a context that survives
 * that.  What a step allocates is freed after it.
 */
Datum
docsync_steps_run(FunctionCallInfo fcinfo, MemoryContext parent,
				  StepCallback step, void *arg, const int64 *done)
{
	bool		atomic = fcinfo->context == NULL ||
	!IsA(fcinfo->context, CallContext) ||
	castNode(CallContext, fcinfo->context)->atomic;
	MemoryContext oldcontext = MemoryContextSwitchTo(parent);
	MemoryContext step_context = AllocSetContextCreate(parent, "docsync step",
													   ALLOCSET_DEFAULT_SIZES);
	TupleDesc	desc;
	Datum		result;
	bool		isnull = false;
	bool		more = true;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "a procedure with an INOUT argument must return a row");
	if (SPI_connect_ext(atomic ? 0 : SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	while (more)
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(step_context);
		more = step(arg);
		MemoryContextReset(step_context);
		if (more && !atomic)
			SPI_commit();
	}
	SPI_finish();

	MemoryContextSwitchTo(oldcontext);
	result = Int64GetDatum(*done);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), &result,
											 &isnull));
}
