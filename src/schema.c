/*-------------------------------------------------------------------------
 *
 * schema.c
 *	  The store in the catalogs: found and locked, and the snapshot.
 *
 * The schema docsync and what is in it belong to the user, and are not members
 * of the extension (docsync_create_store() makes them).  So anything may have
 * happened to them: a column of another type, a disabled trigger, an owner who
 * lays a trap for the next superuser.  Each entry point opens the store here
 * before it does anything else:
 *
 * 1. The tables are locked, ACCESS SHARE, until the end of the transaction.
 * 2. Then they are checked (check.c), unless this backend has checked them
 *	  before and has received no invalidation since.  Invalidations are
 *	  processed whenever a lock is taken.  So what was checked holds until the
 *	  end of the transaction: no DDL gets past our locks.
 * 3. Then a snapshot is taken.  The order matters: a rewrite of the table,
 *	  such as pg_repack's, gives rows transaction ids of its own.  A snapshot
 *	  older than the lock may see some of the rows and not others, and the
 *	  settled test (settle.c), which looks at the writers' ids, wouldn't
 *	  notice.  Specs rewrite-document and rewrite-purged fail without it.
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
	"A superuser or the owner of the database can create it: SELECT docsync_create_store();"

/* What this backend has found and checked */
static Store store;
static bool is_valid = false;
static uint64 changes = 0;		/* invalidations received */

/* The transaction in which the store was last opened, and its tables locked */
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
 * For callers who may read the store, watch it or make one; others must not
 * hold its locks.
 */
Datum
docsync_check_store(PG_FUNCTION_ARGS)
{
	const Store *found = docsync_schema_open(STORE_READ);

	if (!docsync_check_may_watch(GetUserId(), found) &&
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
 * Like the marks (stamp.c), it can't be taken by SQL's pg_advisory_lock().
 */
Datum
docsync_check_store_owner(PG_FUNCTION_ARGS)
{
	LOCKTAG		tag;

	if (!docsync_check_may_own(GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to create docsync's store"),
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
 * Opens the store; what it returns is valid until the end of the transaction.
 * With STORE_WRITE the store is made if there is none and the caller may own
 * one.
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

		/*
		 * A name may have passed to another relation before we got the lock.
		 */
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
				 * Without a message nothing has really changed: with
				 * debug_discard_caches each lookup discards the caches, and
				 * checking again would never end.
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
 * The same for a function, given by its name, that only the store's owner may
 * call, and that writes.
 */
const Store *
docsync_schema_open_owned(const char *function)
{
	const Store *found = docsync_schema_open(STORE_READ);

	if (!object_ownercheck(RelationRelationId, found->relations[STORE_DOCUMENT],
						   GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, "docsync.document");
	PreventCommandIfReadOnly(function);
	PreventCommandDuringRecovery(function);

	return found;
}

/*
 * Has the store been checked, without an invalidation since?  Raises no error.
 */
bool
docsync_schema_is_checked(void)
{
	return is_valid;
}

/*
 * Pushes an active snapshot that is newer than our locks.  The caller pops it.
 *
 * If a rewrite has committed before, the snapshot sees all of it; after this
 * none can commit, until we end.  If the transaction has one snapshot for all
 * its statements, no newer one can be taken, and if a relation was rewritten
 * since, the transaction has to be run again.  (DDL that rewrites nothing
 * looks the same, which means an unnecessary error, but only at these
 * isolation levels.)
 */
void
docsync_schema_push_snapshot(void)
{
	if (IsolationUsesXactSnapshot())
		check_rewritten();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/*
 * Refuses to read while a subscription inserts rows without the guard.
 */
void
docsync_schema_check_readable(void)
{
	if (store.is_subscribed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"docsync.document\" is filled by a subscription"),
				 errdetail("Its rows do not arrive in the order of their stamps, so readers would lose some."),
				 errhint("Read from the publisher or its standbys, or here once the subscription has been dropped.")));
}

/*
 * Checks that the caller has some privilege on the documents.  For paths on
 * which no statement does so, or not yet: others must not hold the store's
 * locks.
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
 * Checks the privileges that the server would check for a statement that reads
 * all columns of a document, or inserts those that a client may set: on the
 * table or on each column, and on the schema.
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
		/* A client never sets these. */
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
 * The oid of the schema that docsync's functions are in.
 */
Oid
docsync_schema_of_functions(void)
{
	Oid			namespace;

	docsync_check_find_extension(&namespace);
	return namespace;
}

/*
 * Finds a function in docsync's schema, to be called without a statement.
 * Checks what the parser and the executor would: the caller's USAGE on the
 * schema (in LookupFuncName()), and EXECUTE.
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
 * Looks up the store's relations by name, without locking.  Returns false if
 * one doesn't exist, which becomes InvalidOid.
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
 * Locks, or unlocks, the store's tables.  The clock and what comes after it
 * aren't locked here: clock.c and record.c do so when they need them.
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

/* Raises the error for a store that doesn't exist, or not all of it. */
static void
refuse_missing(void)
{
	if (OidIsValid(store.relations[STORE_DOCUMENT]) &&
		OidIsValid(getExtensionOfObject(RelationRelationId,
										store.relations[STORE_DOCUMENT])))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("docsync's store is still that of version 0.1"),
				 errdetail("The library is newer, but the extension has not been updated."),
				 errhint("ALTER EXTENSION docsync UPDATE;")));

	/* A wrong owner of the rest matters more than what is missing. */
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
 * Makes the store, if the caller may: so CREATE EXTENSION and an upload are
 * enough to get started.
 */
static void
make_store(void)
{
	if (!docsync_check_may_own(GetUserId()))
		refuse_missing();

	PreventCommandIfReadOnly("docsync_create_store()");

	/* Not by a statement: that would need statement.c, which is above us. */
	OidFunctionCall0(docsync_schema_find_function(docsync_schema_of_functions(),
												  "docsync_create_store", 0,
												  NULL));

	ereport(NOTICE,
			(errmsg("docsync has created its store, schema docsync"),
			 errhint("Use docsync_grant() to give roles access.")));
}

/*
 * Raises an error if the transaction's snapshot doesn't see the latest change
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
 * relation (InvalidOid).
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

/*
 * SubXactCallback: the locks may have been taken in the subtransaction, and
 * been released with it.
 */
static void
at_subxact(SubXactEvent event, SubTransactionId my_subid,
		   SubTransactionId parent_subid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		opened_in = InvalidLocalTransactionId;
}

/*
 * Syscache callback: some role, schema, database or subscription may have
 * changed.
 */
static void
on_catalog(Datum arg, int cacheid, uint32 hashvalue)
{
	is_valid = false;
	changes++;
}
