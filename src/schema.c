/*-------------------------------------------------------------------------
 *
 * schema.c
 *	  The store in the catalogs: found and locked, and the snapshot.
 *
 * The schema docsync and what is in it are the user's, no member of the
 * extension (docsync_create_store() makes them).  So anything may have
 * happened to them: a column of another type, a trigger switched off, an owner
 * who lays a trap for the next superuser.  Each entry point opens the store
 * here before it does anything else:
 *
 * 1. The tables are locked, ACCESS SHARE, until the end of the transaction.
 * 2. Then they are checked (check.c), unless this backend has checked them
 *	  before and has heard of no change since.  Changes arrive as
 *	  invalidations, and these are looked at whenever a lock is taken.  So what
 *	  was checked holds until the end of the transaction: no DDL gets past our
 *	  locks.
 * 3. Then a snapshot is taken.  The order matters: a rewrite of the table,
 *	  such as pg_repack's, gives rows transaction ids of its own.  A snapshot
 *	  older than the lock sees some of them and not others, and the settled
 *	  test (settle.c), which asks about the writers' ids, would never know.
 *	  Specs rewrite-document and rewrite-purged fail without it.
 *
 * Nothing here reads a row of the store.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "commands/extension.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "parser/parse_relation.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "storage/sinval.h"
#include "utils/acl.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_check_store);
PG_FUNCTION_INFO_V1(docsync_check_store_owner);

#define HINT_MAKE \
	"A superuser or the owner of the database makes it: SELECT docsync_create_store();"

/* What this backend has found and checked */
static Store store;
static bool is_valid = false;
static uint64 changes = 0;		/* that we have heard of */

/* The transaction in which it was opened last, and its tables were locked */
static LocalTransactionId opened_in = InvalidLocalTransactionId;

static bool find_relations(void);
static void lock_relations(bool unlock);
pg_noreturn static void refuse_missing(void);
static void make_store(void);
static void check_rewritten(void);
static void on_relation(Datum arg, Oid relid);
static void on_catalog(Datum arg, int cacheid, uint32 hashvalue);
static void at_subxact(SubXactEvent event, SubTransactionId my_subid,
					   SubTransactionId parent_subid, void *arg);

/*
 * docsync_check_store() RETURNS void
 *
 * For who may read the store, or make one; a stranger is not to hold its
 * locks.
 */
Datum
docsync_check_store(PG_FUNCTION_ARGS)
{
	const Store *found = docsync_schema_open(STORE_READ);

	if (!docsync_check_may_own(GetUserId()) &&
		pg_class_aclcheck(found->relations[STORE_DOCUMENT], GetUserId(),
						  ACL_SELECT) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, "docsync.document");

	PG_RETURN_VOID();
}

/*
 * docsync_check_store_owner() RETURNS void
 *
 * For docsync_create_store(), before it touches what is there.
 *
 * Locks: one that a second caller waits for, until the end of the transaction.
 * It is out of reach of SQL's pg_advisory_lock(), as marks are (stamp.c).
 */
Datum
docsync_check_store_owner(PG_FUNCTION_ARGS)
{
	LOCKTAG		tag;

	if (!docsync_check_may_own(GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to make docsync's store"),
				 errhint(HINT_MAKE)));

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, DOCSYNC_LOCK_MAKE);
	LockAcquire(&tag, ExclusiveLock, false, false);
	AcceptInvalidationMessages();

	find_relations();
	lock_relations(false);
	docsync_check_owners(&store);

	PG_RETURN_VOID();
}

/*
 * Registers what is to be done when the catalogs change or a subtransaction
 * ends.
 */
void
docsync_schema_init(void)
{
	static const int catalogs[] = {
		AUTHOID, AUTHMEMMEMROLE, DATABASEOID, NAMESPACEOID, SUBSCRIPTIONRELMAP
	};

	CacheRegisterRelcacheCallback(on_relation, (Datum) 0);
	for (size_t i = 0; i < lengthof(catalogs); i++)
		CacheRegisterSyscacheCallback(catalogs[i], on_catalog, (Datum) 0);
	RegisterSubXactCallback(at_subxact, NULL);
}

/*
 * Opens the store: what it returns holds until the end of the transaction.
 * To write, whoever may own a store and has none gets one.
 */
const Store *
docsync_schema_open(StoreUse use)
{
	if (is_valid && opened_in == MyLocalTransactionId)
		return &store;

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();

		if (!is_valid && !find_relations())
		{
			if (use != STORE_WRITE ||
				OidIsValid(get_namespace_oid(DOCSYNC_SCHEMA, true)))
				refuse_missing();
			make_store();
			continue;
		}

		lock_relations(false);
		if (is_valid)
		{
			opened_in = MyLocalTransactionId;
			return &store;
		}

		/* A name may have gone to another relation before we had the lock. */
		{
			Store		found = store;
			uint64		before;
			uint64		messages;

			if (find_relations() &&
				memcmp(found.relations, store.relations,
					   sizeof(found.relations)) == 0)
			{
				before = changes;
				messages = SharedInvalidMessageCounter;
				docsync_check_run(&store);
				store.version = changes + 1;

				/*
				 * Nothing has changed of which nobody told us: with
				 * debug_discard_caches the caches are thrown away at each
				 * look-up, and to check again would never end.
				 */
				is_valid = before == changes ||
					messages == SharedInvalidMessageCounter;
				if (is_valid)
				{
					opened_in = MyLocalTransactionId;
					return &store;
				}
			}
			else
			{
				Store		now = store;

				store = found;
				lock_relations(true);
				store = now;
			}
		}
	}
}

/*
 * Has the store been opened, and nothing heard of since?  For a moment in
 * which no error may be raised.
 */
bool
docsync_schema_is_checked(void)
{
	return is_valid;
}

/*
 * Makes a snapshot the active one that is younger than our locks.  The caller
 * pops it.
 *
 * Before it a rewrite may have committed, and the snapshot sees all of it;
 * after it none can, until we end.  Where the transaction has one snapshot for
 * all its statements there is none to take, and who finds that a relation was
 * rewritten behind it has to run the transaction again.  (DDL that rewrites
 * nothing looks the same: one error too many, and only there.)
 */
void
docsync_schema_push_snapshot(void)
{
	if (IsolationUsesXactSnapshot())
		check_rewritten();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/*
 * Refuses to let anybody read while rows arrive past the guard.
 */
void
docsync_schema_check_readable(void)
{
	if (store.is_subscribed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"docsync.document\" is filled by a subscription"),
				 errdetail("Its rows arrive in another order than that of their stamps: readers would lose some."),
				 errhint("Read from the publisher or its standbys; here, once the subscription has been dropped.")));
}

/*
 * For where no statement asks, or not yet: a stranger is not to hold the
 * store's locks.
 */
void
docsync_schema_check_caller(AclMode mode)
{
	Oid			document = store.relations[STORE_DOCUMENT];

	if (pg_class_aclcheck(document, GetUserId(), mode) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(document, GetUserId(), mode,
								  ACLMASK_ANY) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, "docsync.document");
}

/*
 * Checks what the server would for a statement of the caller's that reads all
 * columns of a document, or inserts those that are a client's: the table, or
 * if he hasn't all of it, its columns; and the schema.
 */
void
docsync_schema_check_columns(AclMode mode)
{
	const AttrNumber *attnums = store.attnums[STORE_DOCUMENT];
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	List	   *permissions = NIL;
	RTEPermissionInfo *needed;
	Bitmapset  *columns = NULL;
	Oid			namespace = get_rel_namespace(store.relations[STORE_DOCUMENT]);

	for (int i = DOCUMENT_COLLECTION; i <= DOCUMENT_FENCE; i++)
	{
		/* Which are never a client's to set */
		if (mode == ACL_INSERT &&
			(i == DOCUMENT_LAST_UPDATE_UTC || i == DOCUMENT_FENCE))
			continue;
		columns = bms_add_member(columns,
								 attnums[i] - FirstLowInvalidHeapAttributeNumber);
	}

	rte->rtekind = RTE_RELATION;
	rte->relid = store.relations[STORE_DOCUMENT];
	rte->relkind = RELKIND_RELATION;
	rte->rellockmode = AccessShareLock;
	needed = addRTEPermissionInfo(&permissions, rte);
	needed->requiredPerms = mode;
	if (mode == ACL_SELECT)
		needed->selectedCols = columns;
	else
		needed->insertedCols = columns;
	ExecCheckPermissions(list_make1(rte), permissions, true);

	if (object_aclcheck(NamespaceRelationId, namespace, GetUserId(), ACL_USAGE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_SCHEMA, DOCSYNC_SCHEMA);
}

/*
 * The id of the schema docsync's functions are in.
 */
Oid
docsync_schema_of_functions(void)
{
	Oid			namespace;

	docsync_check_find_extension(&namespace);
	return namespace;
}

/*
 * A function of docsync's schema, to be called without a statement: what
 * parser and executor ask for is asked for here, the caller's USAGE of the
 * schema (by LookupFuncName()) and his EXECUTE.
 */
Oid
docsync_schema_find_function(Oid namespace, const char *name, int nargs,
							 const Oid *argtypes)
{
	List	   *names = list_make2(makeString(get_namespace_name(namespace)),
								   makeString(pstrdup(name)));
	Oid			function = LookupFuncName(names, nargs, argtypes, false);

	if (object_aclcheck(ProcedureRelationId, function, GetUserId(),
						ACL_EXECUTE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, name);
	return function;
}

/*
 * Looks up the store's relations by name, and locks none.  One that doesn't
 * exist becomes InvalidOid, and then false is returned.
 */
static bool
find_relations(void)
{
	Oid			namespace = get_namespace_oid(DOCSYNC_SCHEMA, true);
	bool		all = OidIsValid(namespace);

	for (int i = 0; i < STORE_RELATIONS; i++)
	{
		store.relations[i] = OidIsValid(namespace) ?
			get_relname_relid(docsync_check_name(i), namespace) : InvalidOid;
		all = all && OidIsValid(store.relations[i]);
	}
	return all;
}

/*
 * Not the clock and what comes after it, which are locked by who comes to them:
 * clock.c, record.c.
 */
static void
lock_relations(bool unlock)
{
	for (int i = 0; i < STORE_CLOCK; i++)
	{
		if (!OidIsValid(store.relations[i]))
			continue;
		if (unlock)
			UnlockRelationOid(store.relations[i], AccessShareLock);
		else
			LockRelationOid(store.relations[i], AccessShareLock);
	}
}

/* Raises the error for a store that isn't there, or not all of it. */
static void
refuse_missing(void)
{
	if (OidIsValid(store.relations[STORE_DOCUMENT]) &&
		OidIsValid(getExtensionOfObject(RelationRelationId,
										store.relations[STORE_DOCUMENT])))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("docsync's store is still that of version 0.1"),
				 errdetail("The library is a later one, the extension has not been updated."),
				 errhint("ALTER EXTENSION docsync UPDATE;")));

	/* Whose the rest is matters more than what is missing. */
	docsync_check_owners(&store);
	for (int i = 0; i < STORE_RELATIONS; i++)
	{
		if (!OidIsValid(store.relations[i]) && OidIsValid(store.relations[STORE_DOCUMENT]))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("\"docsync.%s\" does not exist", docsync_check_name(i)),
					 errhint(DOCSYNC_HINT_MEND)));
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("docsync has no store in this database"),
			 errhint(HINT_MAKE)));
}

/*
 * For whoever may: CREATE EXTENSION and an upload are enough to begin with.
 */
static void
make_store(void)
{
	if (!docsync_check_may_own(GetUserId()))
		refuse_missing();

	PreventCommandIfReadOnly("docsync_create_store()");

	/* Not by a statement, which would be statement.c's to run, above us. */
	OidFunctionCall0(docsync_schema_find_function(docsync_schema_of_functions(),
												  "docsync_create_store", 0,
												  NULL));

	ereport(NOTICE,
			(errmsg("docsync has made its store, schema docsync"),
			 errhint("docsync_grant() lets roles in.")));
}

/*
 * Refuses to go on if the transaction's snapshot doesn't see the latest change
 * of one of the tables, which may have been a rewrite.
 */
static void
check_rewritten(void)
{
	Snapshot	snapshot = GetTransactionSnapshot();

	for (int i = 0; i < STORE_CLOCK; i++)
	{
		HeapTuple	tuple = SearchSysCache1(RELOID,
											ObjectIdGetDatum(store.relations[i]));
		TransactionId xmin;

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for relation %u", store.relations[i]);
		xmin = HeapTupleHeaderGetXmin(tuple->t_data);
		ReleaseSysCache(tuple);

		if (!TransactionIdIsCurrentTransactionId(xmin) &&
			XidInMVCCSnapshot(xmin, snapshot))
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not serialize access due to a change of \"docsync.%s\"", docsync_check_name(i)),
					 errdetail("The table may have been rewritten since the transaction began."),
					 errhint("Run the transaction again.")));
	}
}

/*
 * Relcache callback: one of the store's relations may have changed, or any
 * (InvalidOid).
 */
static void
on_relation(Datum arg, Oid relid)
{
	for (int i = 0; i < STORE_RELATIONS; i++)
	{
		if (!OidIsValid(relid) || relid == store.relations[i])
		{
			is_valid = false;
			changes++;
			return;
		}
	}
}

/* The locks may have been taken in the subtransaction, and be gone. */
static void
at_subxact(SubXactEvent event, SubTransactionId my_subid,
		   SubTransactionId parent_subid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		opened_in = InvalidLocalTransactionId;
}

/*
 * Syscache callback: a role, a schema, the database or a subscription may have
 * changed, whichever it was.
 */
static void
on_catalog(Datum arg, int cacheid, uint32 hashvalue)
{
	is_valid = false;
	changes++;
}
