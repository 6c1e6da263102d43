/*-------------------------------------------------------------------------
 *
 * vacate.c
 *	  The announcer makes way for DROP DATABASE.
 *
 * A database that some process is connected to is not dropped, renamed, moved
 * or copied.  From PostgreSQL 19 on the server ends announcers for that.
 * Before, sessions do so where docsync is in shared_preload_libraries, and so
 * in each session: whoever drops a database is connected to another one, where
 * docsync may not even be installed.
 *
 * It ends as if it had nothing to do, and is not said to be stopped.  So
 * afterwards, or if the command has failed, the next who uploads or listens
 * there starts another.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "tcop/utility.h"
#include "utils/acl.h"

#include "docsync.h"

/* How long an announcer may take to end, in milliseconds */
#define PATIENCE			5000

static ProcessUtility_hook_type previous_process_utility = NULL;

static void process_utility(PlannedStmt *pstmt, const char *queryString,
							bool readOnlyTree, ProcessUtilityContext context,
							ParamListInfo params, QueryEnvironment *queryEnv,
							DestReceiver *dest, QueryCompletion *qc);
static const char *find_name(Node *statement);
static DefElem *find_option(List *options, const char *name);
static void vacate(Oid database, LOCKMODE lockmode);
static bool tell_to_end(Oid database);

/* Registers the hook, if it is needed and all sessions will have it. */
void
docsync_vacate_init(void)
{
	if (BGWORKER_INTERRUPTIBLE != 0 ||
		!process_shared_preload_libraries_in_progress)
		return;

	previous_process_utility = ProcessUtility_hook ?
		ProcessUtility_hook : standard_ProcessUtility;
	ProcessUtility_hook = process_utility;
}

/*
 * ProcessUtility_hook: before a command that needs a database for itself, ends
 * that one's announcer.
 *
 * Only for its owner, who may do so by docsync_announce_stop(), too.  Others may
 * copy a database that is marked as a template, but not silence it: they are
 * refused as long as it has an announcer.
 *
 * Not where the command will be refused whoever is connected: in a transaction
 * that may not write, as on a standby, or, except for renaming, in a
 * transaction block.
 */
static void
process_utility(PlannedStmt *pstmt, const char *queryString,
				bool readOnlyTree, ProcessUtilityContext context,
				ParamListInfo params, QueryEnvironment *queryEnv,
				DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *statement = pstmt->utilityStmt;
	const char *name = find_name(statement);

	if (name != NULL && !XactReadOnly &&
		(IsA(statement, RenameStmt) ||
		 !IsInTransactionBlock(context == PROCESS_UTILITY_TOPLEVEL)))
	{
		Oid			database = get_database_oid(name, true);

		if (OidIsValid(database) &&
			object_ownercheck(DatabaseRelationId, database, GetUserId()))
			vacate(database, IsA(statement, CreatedbStmt) ?
				   ShareLock : AccessExclusiveLock);
	}

	previous_process_utility(pstmt, queryString, readOnlyTree, context, params,
							 queryEnv, dest, qc);
}

/*
 * The name of the database that a command needs for itself; NULL for any other
 * command.
 */
static const char *
find_name(Node *statement)
{
	DefElem    *from;

	switch (nodeTag(statement))
	{
		case T_DropdbStmt:
			return ((DropdbStmt *) statement)->dbname;

		case T_RenameStmt:
			if (((RenameStmt *) statement)->renameType != OBJECT_DATABASE)
				return NULL;
			return ((RenameStmt *) statement)->subname;

		case T_AlterDatabaseStmt:
			if (find_option(((AlterDatabaseStmt *) statement)->options,
							"tablespace") == NULL)
				return NULL;
			return ((AlterDatabaseStmt *) statement)->dbname;

		case T_CreatedbStmt:
			from = find_option(((CreatedbStmt *) statement)->options,
							   "template");
			return from != NULL && from->arg != NULL ?
				defGetString(from) : "template1";

		default:
			return NULL;
	}
}

/* An option of a command; NULL: it isn't there. */
static DefElem *
find_option(List *options, const char *name)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, name) == 0)
			return option;
	}

	return NULL;
}

/*
 * Ends a database's announcer, if there is one.  If it doesn't end in time, the
 * command will say that somebody is connected.
 *
 * The lock is the one that the command takes, until the transaction ends.  Who
 * has connected before it has said so in PGPROC, and is found.  Who hasn't, as
 * an announcer that was started a moment ago, waits for it.
 */
static void
vacate(Oid database, LOCKMODE lockmode)
{
	LockSharedObject(DatabaseRelationId, database, 0, lockmode);

	for (int waited = 0; tell_to_end(database) && waited < PATIENCE; waited += 10)
	{
		CHECK_FOR_INTERRUPTS();
		pg_usleep(10 * 1000L);
	}
}

/*
 * Tells a database's announcer to end.  Returns false if there is none.
 *
 * PGPROCs are read without a lock.  If the process ends meanwhile it isn't an
 * announcer any more.
 */
static bool
tell_to_end(Oid database)
{
	bool		is_there = false;

	for (uint32 i = 0; i < ProcGlobal->allProcCount; i++)
	{
		const PGPROC *proc = &ProcGlobal->allProcs[i];
		int			pid = proc->pid;
		const char *type;

		if (proc->databaseId != database || pid == 0)
			continue;

		type = GetBackgroundWorkerTypeByPid(pid);
		if (type != NULL && strcmp(type, DOCSYNC_ANNOUNCER) == 0)
		{
			kill(pid, SIGUSR2);
			is_there = true;
		}
	}

	return is_there;
}
