/*-------------------------------------------------------------------------
 *
 * divide.c
 *	  One bad document doesn't stop the rest.
 *
 * What the database refuses - a policy, a CHECK, a trigger, a key - it refuses
 * with a statement, and that may be about thousands of documents.  So what is
 * to be written is tried in a subtransaction, and if that fails, in parts,
 * down to the one document that it fails for alone.  Then we know which it
 * was, whoever has said what.
 *
 * Where the parts are taken apart is a guess, and needn't be right: rows come
 * out of a statement in their order, so the next one is suspect; and if all
 * have come out, some trigger that fires after the statement, and all of these
 * are.  With a right guess n refusals take n + 1 subtransactions that stay,
 * whatever the size of the batch.  That matters since these have transaction
 * ids of their own, and a transaction with more than 64 of them makes each
 * snapshot of the server look elsewhere for who they belong to.
 *
 * Locks: those of a subtransaction that is rolled back go with it.  The parts
 * are tried in their order, and each locks rows in that order, so two uploads
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
 * So many refusals, and subtransactions that stay, are enough for one request:
 * fewer than the 64 that a transaction may have at no cost to others, and one
 * for each of as many collections as a request may have.
 */
#define REFUSALS_MAX		32
#define KEPT_MAX			60

static ErrorData *attempt(Division *division, int from, int to, int steps,
						  bool is_within);
static void find_suspects(const Division *division, int from, int to, int *first,
						  int *last);

/*
 * Applies documents, which are numbered, from the first to before the last.
 * Returns what the database has refused, or NULL.  What has to do with no
 * document is an error.
 *
 * In a subtransaction, unless it is one document of an atomic batch whose
 * refusal ends the transaction: then it makes no difference, and the caller
 * has to raise what is returned.
 */
ErrorData *
docsync_divide_try(Division *division, int from, int to, int steps)
{
	return attempt(division, from, to, steps,
				   !division->atomic || division->is_apart || to - from > 1);
}

/*
 * Writes the documents of an atomic batch, all or none, in a transaction that
 * goes on in either case: what the database has refused is returned, and names
 * the document.
 */
ErrorData *
docsync_divide_run_apart(Division *division, int from, int to, bool again)
{
	ErrorData  *error;

	error = attempt(division, from, to,
					again ? DIVIDE_LOOK_UP | DIVIDE_WRITE : DIVIDE_WRITE, true);

	/*
	 * Which it was shows in parts, all of which go again.  Unless nobody but
	 * one who was faster has been in the way.
	 */
	if (error != NULL)
		error = attempt(division, from, to, DIVIDE_IN_PARTS, true);
	return error;
}

/*
 * Applies documents, in parts if steps is DIVIDE_IN_PARTS, and in a
 * subtransaction if is_within.  Returns the error if it is one about a
 * document, and NULL if there was none; any other error is raised again.
 * Without a subtransaction the caller has to raise what is returned.
 *
 * Memory: what is allocated in the subtransaction is gone on return.  The
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
 * Writes documents, in parts if need be.  With again, or where a part is begun
 * again, they are looked up and judged first: others may have written since.
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
			/* What was taken for new may not be: no reason to divide. */
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
 * What is suspect among documents that failed together, from the first to
 * before the last: not all of them.
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
