/*-------------------------------------------------------------------------
 *
 * task.c
 *	  The upload or purge in progress, and which rows are its own.
 *
 * This connects those that run a task's statement (store.c, purge.c, revive.c)
 * with the trigger that its rows pass through (guard.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/snapmgr.h"

#include "docsync.h"

/*
 * The task in progress: an upload, to whose rows the rule has been applied
 * already, or a purge, whose rows may be removed.
 *
 * Only the rows of its own statement are the task's.  While that runs, the
 * user's code may write to docsync.document, too: triggers, but also functions
 * in policies, constraints and defaults, at the same trigger depth.  Each
 * statement in that code has a snapshot of its own, which is the active one
 * while its rows pass through; so the statement's own snapshot identifies its
 * rows.  Comparing addresses is enough: the address can't be reused while the
 * statement runs.
 */
static TaskFrame current_frame = {.task = TASK_NONE};

/*
 * Says that the next statement flagged STATEMENT_OF_TASK is a task's.  The
 * user's code may begin another task meanwhile, hence the outer frame is
 * returned, which the caller must pass to docsync_task_leave() when the
 * statement is done, even after an error.
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

/* Restores the frame that docsync_task_enter() returned.  Raises no error. */
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
 * What the row that an upload has just written has replaced; NULL if nothing.
 * The trigger fires for INSERT, if the statement is one, then for UPDATE if a
 * row is stored, and then the row is returned.
 */
const StoredDocument *
docsync_task_replaced(void)
{
	return current_frame.has_replaced ? &current_frame.replaced : NULL;
}

/*
 * What the row that an upload has just written is now, if there is a trigger
 * that may have changed it; otherwise NULL.
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
