/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  What differs between PostgreSQL's major versions, and nothing else.
 *
 * No other file mentions PG_VERSION_NUM.  Callers are written for the newest
 * version; here older versions are made to look like it.  A macro with a
 * function's name only drops the arguments that an older version doesn't have.
 *
 * Minor versions need nothing here: docsync calls no function that was added
 * in a minor release, not even through an inline function in the headers.
 * heap_getattr() would be one (heap_deform_tuple() does the same).
 *
 *-------------------------------------------------------------------------
 */
#ifndef DOCSYNC_COMPAT_H
#define DOCSYNC_COMPAT_H

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 200000
#error "this docsync is built for PostgreSQL 15 to 19"
#endif

#ifndef USE_FLOAT8_BYVAL
#error "docsync passes timestamps by value: it needs a 64-bit server"
#endif

/* All headers come before the macros. */
#include "executor/executor.h"
#include "storage/lwlock.h"
#if PG_VERSION_NUM >= 190000
#include "commands/sequence_xlog.h"
#endif
#if PG_VERSION_NUM >= 170000
#include "storage/dsm_registry.h"
#else
#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#endif
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#else
#include "catalog/pg_database.h"
#endif

/*
 * 19
 */
#if PG_VERSION_NUM >= 190000

/* planner_hook */
#define PLANNER_PARAMETERS \
	Query *parse, const char *query_string, int cursor_options, \
	ParamListInfo params, struct ExplainState *explain
#define PLANNER_ARGUMENTS \
	parse, query_string, cursor_options, params, explain

/* GetNamedDSMSegment()'s callback */
#define DSM_INIT_PARAMETERS		void *segment, void *arg

/* A tranche has the name that it was created with. */
#define compat_name_tranche(tranche, name)	((void) 0)

#else

#define PLANNER_PARAMETERS \
	Query *parse, const char *query_string, int cursor_options, \
	ParamListInfo params
#define PLANNER_ARGUMENTS \
	parse, query_string, cursor_options, params
#define DSM_INIT_PARAMETERS		void *segment

/* DROP DATABASE doesn't end background workers, but WITH (FORCE) does. */
#define BGWORKER_INTERRUPTIBLE	0

/* Each process names the tranches that it uses. */
#define LWLockNewTrancheId(name) \
	LWLockNewTrancheId()
#define compat_name_tranche(tranche, name) \
	LWLockRegisterTranche(tranche, name)

/* The attribute of GNU C and compatible compilers; only for their warnings */
#ifdef __GNUC__
#define pg_fallthrough		__attribute__((fallthrough))
#else
#define pg_fallthrough
#endif

#define ExecInsertIndexTuples(result, estate, flags, slot, arbiters, conflict) \
	compat_insert_index_tuples(result, slot, estate, arbiters)

#define SO_NONE				0
#define index_beginscan(heap, index, snapshot, instrument, nkeys, norderbys, \
						flags) \
	compat_index_beginscan(heap, index, snapshot, instrument, nkeys, norderbys)

/* The magic number of a sequence's page, as sequence.c has it */
#define SEQ_MAGIC			0x1717

typedef struct JsonbInState
{
	JsonbValue *result;
	JsonbParseState *parseState;
} JsonbInState;

/* The result stays NULL until the outermost container ends. */
static inline void
compat_push_jsonb(JsonbInState *state, JsonbIteratorToken token,
				  JsonbValue *value)
{
	state->result = pushJsonbValue(&state->parseState, token, value);
}

#define pushJsonbValue(state, token, value) \
	compat_push_jsonb(state, token, value)

#endif

/*
 * 18
 */
#if PG_VERSION_NUM >= 180000

/* Does NOT NULL hold for all rows? */
#define compat_is_not_null(desc, i) \
	(TupleDescAttr(desc, i)->attnotnull && \
	 TupleDescCompactAttr(desc, i)->attnullability != ATTNULLABLE_INVALID)

#define compat_index_beginscan(heap, index, snapshot, instrument, nkeys, \
							   norderbys) \
	index_beginscan(heap, index, snapshot, instrument, nkeys, norderbys)

#else

#define pg_noreturn			pg_attribute_noreturn()
#define PG_MODULE_MAGIC_EXT(...)	PG_MODULE_MAGIC
#define compat_index_beginscan(heap, index, snapshot, instrument, nkeys, \
							   norderbys) \
	index_beginscan(heap, index, snapshot, nkeys, norderbys)
#define RelationGetPrimaryKeyIndex(rel, deferrable_ok) \
	RelationGetPrimaryKeyIndex(rel)

/* NOT NULL always holds for all rows: it can't be NOT VALID. */
#define compat_is_not_null(desc, i)	(TupleDescAttr(desc, i)->attnotnull)

#endif

/*
 * 17
 */
#if PG_VERSION_NUM >= 170000

#define MyLocalTransactionId	(MyProc->vxid.lxid)
#define compat_wait_event(name)	WaitEventExtensionNew(name)
#if PG_VERSION_NUM < 190000
#define GetNamedDSMSegment(name, size, init_callback, found, arg) \
	GetNamedDSMSegment(name, size, init_callback, found)
#endif

#else

#define MyLocalTransactionId	(MyProc->lxid)
#define compat_wait_event(name)	PG_WAIT_EXTENSION
#define LockHeldByMe(tag, mode, orstronger) \
	LockHeldByMe(tag, mode)
#define makeJsonLexContextCstringLen(lex, json, len, encoding, need_escapes) \
	makeJsonLexContextCstringLen((char *) (json), len, encoding, \
								 need_escapes)

/*
 * Sets a search_path without any schema of a user's, until the caller's GUC
 * nest level ends (guc.h).
 */
static inline void
RestrictSearchPath(void)
{
	set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
					  PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Allocates from the server's spare shared memory, 100 kB.  If that is used
 * up, returns NULL.
 */
static inline void *
GetNamedDSMSegment(const char *name, size_t size,
				   void (*init_callback) (void *segment), bool *found,
				   void *arg)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	void	   *volatile segment = NULL;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	PG_TRY();
	{
		segment = ShmemInitStruct(name, size, found);
	}
	PG_CATCH();
	{
		/*
		 * Nothing was left behind: the only error is for lack of memory, and
		 * it is raised last.  Raising it has allowed interrupts, which must
		 * stay held off while we hold the lock.
		 */
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(oldcontext);
		FlushErrorState();
	}
	PG_END_TRY();

	if (segment != NULL && !*found)
		init_callback(segment);
	LWLockRelease(AddinShmemInitLock);

	return segment;
}

#endif

/*
 * 16
 */
#if PG_VERSION_NUM >= 160000

#define compat_insert_index_tuples(result, slot, estate, arbiters) \
	ExecInsertIndexTuples(result, slot, estate, false, false, NULL, arbiters, \
						  false)

#else

#define compat_insert_index_tuples(result, slot, estate, arbiters) \
	ExecInsertIndexTuples(result, slot, estate, false, false, NULL, arbiters)

#define rd_locator			rd_node
#define locator				node	/* of an xl_seq_rec */
#define JSON_UNICODE_UNTRANSLATABLE JSON_UNICODE_HIGH_ESCAPE

/*
 * For databases and relations; for schemas and functions: each class has its
 * own function.
 */
#define object_ownercheck(class_id, object, role) \
	((class_id) == DatabaseRelationId ? \
	 pg_database_ownercheck(object, role) : \
	 pg_class_ownercheck(object, role))
#define object_aclcheck(class_id, object, role, mode) \
	((class_id) == NamespaceRelationId ? \
	 pg_namespace_aclcheck(object, role, mode) : \
	 pg_proc_aclcheck(object, role, mode))

/* The range table itself has what later moved into entries of their own. */
typedef RangeTblEntry RTEPermissionInfo;

/* The list passed to ExecCheckPermissions() is the range table here. */
static inline RTEPermissionInfo *
addRTEPermissionInfo(List **permissions, RangeTblEntry *rte)
{
	*permissions = lappend(*permissions, rte);
	return rte;
}

#define ExecCheckPermissions(range_table, permissions, ereport_on_violation) \
	ExecCheckRTPerms(permissions, ereport_on_violation)

#endif

#endif							/* DOCSYNC_COMPAT_H */
