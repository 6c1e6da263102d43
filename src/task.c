/*-------------------------------------------------------------------------
 *
 * task.c
 *	  The upload or purge that is under way, and which rows are its own.
 *
 * Between who has a task's statement run (store.c, purge.c) and the trigger
 * that its rows come by (guard.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/snapmgr.h"

#include "docsync.h"

/*
 * The task that is under way: an upload, to whose rows the rule has been
 * applied already, or a purge, whose rows may go.
 *
 * Only the rows of its own statement are the task's.  While that runs, others'
 * code may write to docsync.document, too: triggers, but also functions in
 * policies, constraints, defaults, at the very same depth of triggers.  The
 * statements that they run have each a snapshot of their own, which is the
 * active one while their rows come by; so the statement's own snapshot tells.
 * The address does, as long as the statement runs: it isn't another's before
 * that has ended.
 */
static TaskFrame current_frame = {.task = TASK_NONE};

/*
 * Says that the next statement flagged STATEMENT_OF_TASK is a task's.  Others'
 * code may begin another task meanwhile, hence the frame, which the caller
 * hands back when the statement is done, even if there is an error.
 */
TaskFrame
docsync_task_enter(Task task, ReplaceCallback may_replace, void *arg)
{
	TaskFrame	outer = current_frame;

	current_frame.task = task;
	current_frame.snapshot = NULL;
	current_frame.may_replace = may_replace;
	current_frame.arg = arg;
	current_frame.has_replaced = false;
	current_frame.has_written = false;

	return outer;
}

/* Goes back to what docsync_task_enter() returned.  Raises no error. */
void
docsync_task_leave(const TaskFrame *outer)
{
	current_frame = *outer;
}

/*
 * Says that the task's statement, which has been planned and started, runs
 * from now on, with the active snapshot.
 */
void
docsync_task_begin_statement(void)
{
	current_frame.snapshot = GetActiveSnapshot();
}

/*
 * What the row that an upload has just written replaces; NULL if nothing.  The
 * trigger fires for INSERT, if the statement is one, then for UPDATE if there
 * is a stored one, and then the row is returned.
 */
const StoredDocument *
docsync_task_replaced(void)
{
	return current_frame.has_replaced ? &current_frame.replaced : NULL;
}

/*
 * What the row that an upload has just written is now, if a trigger may have
 * changed it; NULL if there is none.
 */
const StoredDocument *
docsync_task_written(void)
{
	return current_frame.has_written ? &current_frame.written : NULL;
}

/*
 * The task, if it is the one asked for and the row that a trigger is fired for
 * is one of its own; NULL if not.
 */
TaskFrame *
docsync_task_of_row(Task task)
{
	return current_frame.task == task &&
		current_frame.snapshot == GetActiveSnapshot() ? &current_frame : NULL;
}
