/*-------------------------------------------------------------------------
 *
 * divide.c
 *	  Dividing an upload, so that one bad document doesn't stop the rest.
 *
 * What the database refuses - by a policy, a CHECK, a trigger, a key - fails a
 * whole statement, which may write thousands of documents.  So the documents
 * are written in a subtransaction, and if that fails, in parts, down to the
 * single document that fails on its own.  Then we know which one it was,
 * whatever the error said.
 *
 * Where to divide is a guess, which needn't be right: a statement returns its
 * rows in order, so the next one is suspect; and if all were returned, it was
 * a trigger that fires after the statement, and all of them are suspect.  If
 * the guess is right, n refusals take n + 1 committed subtransactions,
 * whatever the size of the batch.  That matters because these have transaction
 * ids of their own, and a transaction with more than 64 of them makes every
 * snapshot on the server look up their parents in pg_subtrans.
 *
 * Locks: those of a subtransaction that is rolled back are released.  The
 * parts are tried in order, and each locks rows in that order, so two uploads
 * still never deadlock.
 *
 * Marks and stamps: the caller has the mark before the first subtransaction
 * (stamp.c).  What is left of a reservation is forgotten when one is rolled
 * back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "docsync.h"

/*
 * The most refusals, and committed subtransactions, in one request: fewer than
 * the 64 that a transaction may have without cost to others, and one for each
 * of as many collections as a request may have.
 */
#define REFUSALS_MAX		32
#define KEPT_MAX			60

static ErrorData *attempt(Division *division, int from, int to, int steps,
						  bool is_within);
static void find_suspects(const Division *division, int from, int to, int *first,
						  int *last);

/*
 * Applies the documents numbered [from, to).  Returns the error if the
 * database has refused them, or NULL.  An error that isn't about a document is
 * raised.
 *
 * This is done in a subtransaction, unless it is one document of an atomic
 * batch whose refusal ends the transaction.  Then it would make no difference,
 * and the caller has to raise what is returned.
 */
ErrorData *
docsync_divide_try(Division *division, int from, int to, int steps)
{
	return attempt(division, from, to, steps,
				   !division->atomic || division->is_apart || to - from > 1);
}

/*
 * Writes the documents of an atomic batch, all or none, in a transaction that
 * continues in either case.  If the database refuses one, the error is
 * returned, and names the document.
 */
ErrorData *
docsync_divide_run_apart(Division *division, int from, int to, bool again)
{
	ErrorData  *error;

	error = attempt(division, from, to,
					again ? DIVIDE_LOOK_UP | DIVIDE_WRITE : DIVIDE_WRITE, true);

	/*
	 * To find out which document it was, write in parts, which are all rolled
	 * back again - unless there is no error this time, since only a faster
	 * writer was in the way.
	 */
	if (error != NULL)
		error = attempt(division, from, to, DIVIDE_IN_PARTS, true);
	return error;
}

/*
 * Applies documents, in parts if steps is DIVIDE_IN_PARTS, and in a
 * subtransaction if is_within.  Returns an error that is about a document, or
 * NULL if there was none; any other error is raised again.  Without a
 * subtransaction the caller has to raise what is returned.
 *
 * Memory: what is allocated in the subtransaction is freed on return.  The
 * error is a copy in the caller's context.
 */
static ErrorData *
attempt(Division *division, int from, int to, int steps, bool is_within)
{
	MemoryContext outer = CurrentMemoryContext;
	MemoryContext context = !is_within ? outer :
	AllocSetContextCreate(outer, "docsync attempt", ALLOCSET_DEFAULT_SIZES);
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	division->begun = division->passed = division->end = from;

	if (is_within)
	{
		BeginInternalSubTransaction(NULL);
		MemoryContextSwitchTo(context);
	}
	PG_TRY();
	{
		if (steps == DIVIDE_IN_PARTS)
			docsync_divide_run(division, from, to, true);
		else
			division->apply(from, to, steps, division->arg);
		if (is_within)
			ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(outer);
		error = CopyErrorData();
		FlushErrorState();
		if (is_within)
		{
			RollbackAndReleaseCurrentSubTransaction();
			MemoryContextSwitchTo(outer);
			CurrentResourceOwner = owner;
		}
		if (!docsync_refuse_is_one(error))
			ReThrowError(error);
	}
	PG_END_TRY();

	if (is_within)
	{
		MemoryContextSwitchTo(outer);
		CurrentResourceOwner = owner;
		MemoryContextDelete(context);
	}
	return error;
}

/*
 * Writes documents, in parts if necessary.  With again, or when a part is
 * retried, they are looked up and judged first: others may have written since.
 */
void
docsync_divide_run(Division *division, int from, int to, bool again)
{
	check_stack_depth();

	while (from < to)
	{
		ErrorData  *error;
		int			first;
		int			last;

		CHECK_FOR_INTERRUPTS();

		if (!division->atomic &&
			(division->spent->refusals >= REFUSALS_MAX ||
			 division->spent->kept >= KEPT_MAX))
		{
			division->leave(from, to, division->arg);
			return;
		}

		error = docsync_divide_try(division, from, to,
								   again ? DIVIDE_LOOK_UP | DIVIDE_WRITE : DIVIDE_WRITE);
		if (error == NULL)
		{
			division->spent->kept++;
			return;
		}

		if (to - from == 1)
		{
			division->spent->refusals++;
			if (!division->refuse(from, error, division->arg))
				return;
			again = true;
		}
		else if (!again && error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION)
		{
			/* Documents taken for new may not be: no reason to divide. */
			again = true;
		}
		else
		{
			find_suspects(division, from, to, &first, &last);
			docsync_divide_run(division, from, first, true);
			docsync_divide_run(division, first, last, true);
			from = last;
			again = true;
		}
	}
}

/*
 * Sets [*first, *last) to those that are suspect among documents that failed
 * together: never all of them.
 */
static void
find_suspects(const Division *division, int from, int to, int *first, int *last)
{
	*first = division->begun;
	*last = division->end;
	if (division->passed < division->end)
	{
		*first = division->passed;
		*last = division->passed + 1;
	}

	if (*first >= *last || (*first == from && *last == to))
	{
		*first = from;
		*last = from + (to - from) / 2;
	}
}
