/*-------------------------------------------------------------------------
 *
 * schema.c
 *	  The store in the catalogs: found, locked, checked, and the snapshot.
 *
 * The schema docsync and what is in it are the user's, no member of the
 * extension (docsync_create_store() makes them).  So anything may have happened
 * to them: a column of another type, a trigger switched off, an owner who lays
 * a trap for the next superuser.  Each entry point opens the store here before
 * it does anything else:
 *
 * 1. The tables are locked, ACCESS SHARE, until the end of the transaction.
 * 2. Then they are checked, unless this backend has checked them before and
 *	  has heard of no change since.  Changes arrive as invalidations, and these
 *	  are looked at whenever a lock is taken.  So what was checked holds until
 *	  the end of the transaction: no DDL gets past our locks.
 * 3. Then a snapshot is taken.  The order matters: a rewrite of the table, such
 *	  as pg_repack's, gives rows transaction ids of its own.  A snapshot older
 *	  than the lock sees some of them and not others, and the settled test
 *	  (settle.c), which asks about the writers' ids, would never know.  Specs
 *	  rewrite-document and rewrite-purged fail without it.
 *
 * Nothing here reads a row of the store.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_subscription_rel.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_check_store);
PG_FUNCTION_INFO_V1(docsync_check_store_owner);

#define HINT_MAKE \
	"A superuser, the owner of the database, or the extension's owner makes it: SELECT docsync_create_store();"
#define HINT_MEND \
	"Put it right, or let docsync_create_store() do so; it says what it can't mend."

/* The store's columns.  Others may stand between and behind them. */
typedef struct NeededColumn
{
	const char *name;
	Oid			type;
	bool		not_null;
} NeededColumn;

static const NeededColumn document_columns[] = {
	[DOCUMENT_COLLECTION] = {"collection", TEXTOID, true},
	[DOCUMENT_ID] = {"id", TEXTOID, true},
	[DOCUMENT_CLIENT_VERSION] = {"client_version", INT8OID, true},
	[DOCUMENT_CLIENT_ID] = {"client_id", TEXTOID, true},
	[DOCUMENT_LAST_UPDATE_UTC] = {"last_update_utc", TIMESTAMPTZOID, true},
	[DOCUMENT_DELETED] = {"deleted", BOOLOID, true},
	[DOCUMENT_BODY] = {"body", JSONBOID, false},
	[DOCUMENT_FENCE] = {"fence", XID8OID, true}
};

static const NeededColumn purged_columns[] = {
	[PURGED_COLLECTION] = {"collection", TEXTOID, true},
	[PURGED_LAST_UPDATE_UTC] = {"last_update_utc", TIMESTAMPTZOID, true},
	[PURGED_CLIENT_ID] = {"client_id", TEXTOID, true},
	[PURGED_OTHERS_UTC] = {"others_utc", TIMESTAMPTZOID, true}
};

static const NeededColumn history_columns[] = {
	[HISTORY_NUMBER] = {"number", INT8OID, true},
	[HISTORY_EPOCH] = {"epoch", INT8OID, true},
	[HISTORY_SYSTEM_IDENTIFIER] = {"system_identifier", INT8OID, true},
	[HISTORY_DATABASE] = {"database", OIDOID, true},
	[HISTORY_DOCUMENT] = {"document", OIDOID, true},
	[HISTORY_TIMELINE] = {"timeline", INT8OID, true},
	[HISTORY_SURVIVED] = {"survived", TIMESTAMPTZOID, true},
	[HISTORY_LOST_AFTER] = {"lost_after", TIMESTAMPTZOID, true},
	[HISTORY_CLOCK] = {"clock", TIMESTAMPTZOID, true},
	[HISTORY_NEXT_XID] = {"next_xid", XID8OID, true},
	[HISTORY_ARRIVED] = {"arrived", BOOLOID, true}
};

/* The store's relations, in the order in which they are locked */
static const struct
{
	const char *name;
	char		relkind;
	const NeededColumn *columns;
	int			ncolumns;
}			needed[STORE_RELATIONS] = {
	[STORE_DOCUMENT] = {"document", RELKIND_RELATION, document_columns, lengthof(document_columns)},
	[STORE_PURGED] = {"purged", RELKIND_RELATION, purged_columns, lengthof(purged_columns)},
	[STORE_HISTORY] = {"history", RELKIND_RELATION, history_columns, lengthof(history_columns)},
	[STORE_CLOCK] = {"clock", RELKIND_SEQUENCE, NULL, 0}
};

/* What this backend has found and checked */
static Store store;
static bool is_valid = false;
static uint64 changes = 0;		/* that we have heard of */

/* The transaction in which it was opened last, and its tables were locked */
static LocalTransactionId opened_in = InvalidLocalTransactionId;

static bool find_relations(void);
static void lock_relations(bool unlock);
static void refuse_missing(void) pg_attribute_noreturn();
static void make_store(void);
static void check(void);
static void check_owners(void);
static bool may_own(Oid role, Oid extension_owner);
static Oid	find_extension(Oid *owner, Oid *namespace);
static void check_owner(const char *kind, const char *name, Oid owner,
						Oid extension_owner);
static void check_relation(StoreRelation which);
static AttrNumber check_column(Relation rel, const NeededColumn *column);
static Oid	check_primary_key(Relation rel, const AttrNumber *attnums,
							  int count, const char *columns);
static void check_triggers(Relation rel, Oid extension);
static bool is_guard(const Trigger *trigger, Oid extension);
static bool is_subscribed(void);
static void check_rewritten(void);
static void on_relation(Datum arg, Oid relid);
static void on_catalog(Datum arg, int cacheid, uint32 hashvalue);
static void at_subxact(SubXactEvent event, SubTransactionId my_subid,
					   SubTransactionId parent_subid, void *arg);

/*
 * docsync_check_store() RETURNS void
 */
Datum
docsync_check_store(PG_FUNCTION_ARGS)
{
	docsync_schema_open(STORE_READ);
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
	Oid			extension_owner;
	LOCKTAG		tag;

	find_extension(&extension_owner, NULL);
	if (!may_own(GetUserId(), extension_owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to make docsync's store"),
				 errhint(HINT_MAKE)));

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, DOCSYNC_LOCK_MAKE);
	LockAcquire(&tag, ExclusiveLock, false, false);
	AcceptInvalidationMessages();

	find_relations();
	lock_relations(false);
	check_owners();

	PG_RETURN_VOID();
}

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
	if (is_valid && opened_in == MyProc->lxid)
		return &store;

	for (;;)
	{
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
			opened_in = MyProc->lxid;
			return &store;
		}

		/* A name may have gone to another relation before we had the lock. */
		{
			Store		found = store;
			uint64		before;

			if (find_relations() &&
				memcmp(found.relations, store.relations,
					   sizeof(found.relations)) == 0)
			{
				before = changes;
				check();
				store.version = changes + 1;
				is_valid = before == changes;
				if (is_valid)
				{
					opened_in = MyProc->lxid;
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
 * Has the store been opened, and nothing heard of since?  For a moment in which
 * no error may be raised.
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
 * all its statements there is none to take, and who finds that a relation
 * was rewritten behind it has to run the transaction again.  (DDL that rewrites
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
 * The id of the schema docsync's functions are in.
 */
Oid
docsync_schema_of_functions(void)
{
	Oid			namespace;

	find_extension(NULL, &namespace);
	return namespace;
}

static bool
find_relations(void)
{
	Oid			namespace = get_namespace_oid(DOCSYNC_SCHEMA, true);
	bool		all = OidIsValid(namespace);

	for (int i = 0; i < STORE_RELATIONS; i++)
	{
		store.relations[i] = OidIsValid(namespace) ?
			get_relname_relid(needed[i].name, namespace) : InvalidOid;
		all = all && OidIsValid(store.relations[i]);
	}
	return all;
}

/*
 * Not the clock, which is the last: clock.c locks it when it comes to it.
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
	check_owners();
	for (int i = 0; i < STORE_RELATIONS; i++)
	{
		if (!OidIsValid(store.relations[i]) && OidIsValid(store.relations[STORE_DOCUMENT]))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("\"docsync.%s\" does not exist", needed[i].name),
					 errhint(HINT_MEND)));
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
	Oid			extension_owner;

	find_extension(&extension_owner, NULL);
	if (!may_own(GetUserId(), extension_owner))
		refuse_missing();

	PreventCommandIfReadOnly("docsync_create_store()");
	docsync_store_make();
	ereport(NOTICE,
			(errmsg("docsync has made its store, schema docsync"),
			 errhint("docsync_grant() lets roles in.")));
}

static void
check(void)
{
	Oid			extension = find_extension(NULL, NULL);
	Relation	rel;

	check_owners();
	for (int i = 0; i < STORE_RELATIONS; i++)
		check_relation(i);

	rel = table_open(store.relations[STORE_DOCUMENT], NoLock);
	store.owner = rel->rd_rel->relowner;
	check_primary_key(rel, store.attnums[STORE_DOCUMENT], 2, "collection, id");
	check_triggers(rel, extension);
	if (find_inheritance_children(RelationGetRelid(rel), NoLock) != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"docsync.document\" has a child table"),
				 errdetail("Its rows would come without a stamp of docsync's."),
				 errhint("ALTER TABLE ... NO INHERIT docsync.document.")));
	table_close(rel, NoLock);

	rel = table_open(store.relations[STORE_PURGED], NoLock);
	store.purged_index = check_primary_key(rel, store.attnums[STORE_PURGED],
										   1, "collection");
	table_close(rel, NoLock);

	store.is_subscribed = is_subscribed();
}

/*
 * Whoever owns the store may run what he likes as anybody who uploads, by a
 * trigger.  So it may be nobody's who couldn't become a superuser, or the owner
 * of the database or of the extension, anyway.  Else whoever has CREATE on the
 * database would make it first, and wait for the next superuser.
 */
static void
check_owners(void)
{
	Oid			extension_owner;
	Oid			namespace = get_namespace_oid(DOCSYNC_SCHEMA, true);
	HeapTuple	tuple;

	find_extension(&extension_owner, NULL);

	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(namespace));
	if (HeapTupleIsValid(tuple))
	{
		check_owner("SCHEMA", DOCSYNC_SCHEMA,
					((Form_pg_namespace) GETSTRUCT(tuple))->nspowner,
					extension_owner);
		ReleaseSysCache(tuple);
	}

	for (int i = 0; i < STORE_RELATIONS; i++)
	{
		tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(store.relations[i]));
		if (HeapTupleIsValid(tuple))
		{
			check_owner(needed[i].relkind == RELKIND_SEQUENCE ? "SEQUENCE" : "TABLE",
						psprintf(DOCSYNC_SCHEMA ".%s", needed[i].name),
						((Form_pg_class) GETSTRUCT(tuple))->relowner,
						extension_owner);
			ReleaseSysCache(tuple);
		}
	}
}

static void
check_owner(const char *kind, const char *name, Oid owner, Oid extension_owner)
{
	if (!may_own(owner, extension_owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("\"%s\" belongs to somebody who may not own docsync's store", name),
				 errdetail("Its owner is \"%s\", who is no superuser, nor owns the database or the extension.",
						   GetUserNameFromId(owner, true)),
				 errhint("If nothing in it is a trap - triggers, rules, policies, defaults run as whoever uploads - ALTER %s %s OWNER TO one of these.", kind, name)));
}

static bool
may_own(Oid role, Oid extension_owner)
{
	HeapTuple	tuple;
	Oid			database_owner;

	if (superuser_arg(role))
		return true;

	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(MyDatabaseId));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for database %u", MyDatabaseId);
	database_owner = ((Form_pg_database) GETSTRUCT(tuple))->datdba;
	ReleaseSysCache(tuple);

	return is_member_of_role_nosuper(role, database_owner) ||
		is_member_of_role_nosuper(role, extension_owner);
}

/*
 * The extension, its owner and its schema.  There is one as long as one of its
 * functions runs.
 */
static Oid
find_extension(Oid *owner, Oid *namespace)
{
	Oid			extension = get_extension_oid("docsync", false);
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(extension));
	scan = systable_beginscan(rel, ExtensionOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "could not find extension %u", extension);
	if (owner != NULL)
		*owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	if (namespace != NULL)
		*namespace = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	return extension;
}

static void
check_relation(StoreRelation which)
{
	Relation	rel = relation_open(store.relations[which], AccessShareLock);
	const char *name = needed[which].name;

	if (rel->rd_rel->relkind != needed[which].relkind)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"docsync.%s\" is not a %s", name,
						needed[which].relkind == RELKIND_SEQUENCE ? "sequence" : "plain table"),
				 errhint(HINT_MEND)));
	if (rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"docsync.%s\" is unlogged", name),
				 errdetail("A crash would empty it, and nobody would be told."),
				 errhint("ALTER %s docsync.%s SET LOGGED.",
						 needed[which].relkind == RELKIND_SEQUENCE ? "SEQUENCE" : "TABLE", name)));

	for (int i = 0; i < needed[which].ncolumns; i++)
		store.attnums[which][i] = check_column(rel, &needed[which].columns[i]);

	relation_close(rel, NoLock);
}

static AttrNumber
check_column(Relation rel, const NeededColumn *column)
{
	TupleDesc	desc = RelationGetDescr(rel);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);

		if (attr->attisdropped || strcmp(NameStr(attr->attname), column->name) != 0)
			continue;

		if (attr->atttypid != column->type || attr->atttypmod >= 0 ||
			attr->attgenerated != '\0' || attr->attidentity != '\0' ||
			(column->type == TEXTOID && attr->attcollation != C_COLLATION_OID))
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of \"docsync.%s\" has been altered",
							column->name, RelationGetRelationName(rel)),
					 errdetail("It must be a plain column of type %s%s, and is %s of type %s%s.",
							   format_type_be(column->type),
							   column->type == TEXTOID ? " with the collation \"C\"" : "",
							   attr->attgenerated != '\0' ? "a generated one" :
							   attr->attidentity != '\0' ? "an identity column" : "one",
							   format_type_with_typemod(attr->atttypid, attr->atttypmod),
							   !OidIsValid(attr->attcollation) ? "" :
							   psprintf(" with the collation \"%s\"",
										get_collation_name(attr->attcollation))),
					 errhint(HINT_MEND)));
		if (column->not_null && !attr->attnotnull)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of \"docsync.%s\" may be null",
							column->name, RelationGetRelationName(rel)),
					 errhint("ALTER TABLE docsync.%s ALTER %s SET NOT NULL;",
							 RelationGetRelationName(rel), column->name)));
		return attr->attnum;
	}

	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("column \"%s\" of \"docsync.%s\" does not exist",
					column->name, RelationGetRelationName(rel)),
			 errhint(HINT_MEND)));
}

/*
 * The primary key, by which uploads find what is stored and know that it is so
 * but once.  It is on the given columns, in their order, and not deferrable.
 */
static Oid
check_primary_key(Relation rel, const AttrNumber *attnums, int count,
				  const char *columns)
{
	Oid			oid = RelationGetPrimaryKeyIndex(rel);
	bool		same = OidIsValid(oid);

	if (same)
	{
		Relation	index = index_open(oid, AccessShareLock);

		same = IndexRelationGetNumberOfKeyAttributes(index) == count;
		for (int i = 0; same && i < count; i++)
			same = index->rd_index->indkey.values[i] == attnums[i];
		index_close(index, NoLock);
	}
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("\"docsync.%s\" has no primary key (%s)",
						RelationGetRelationName(rel), columns),
				 errhint("ALTER TABLE docsync.%s ADD PRIMARY KEY (%s);",
						 RelationGetRelationName(rel), columns)));
	return oid;
}

/*
 * The guard must be there for every way of writing, and nothing may change
 * what it has let pass: it is the last of the BEFORE triggers, which fire in
 * the order of their names.
 */
static void
check_triggers(Relation rel, Oid extension)
{
	TriggerDesc *triggers = rel->trigdesc;
	bool		has_row = false;
	bool		has_truncate = false;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (is_guard(trigger, extension))
		{
			if (TRIGGER_TYPE_MATCHES(trigger->tgtype, TRIGGER_TYPE_ROW, TRIGGER_TYPE_BEFORE, TRIGGER_TYPE_INSERT) &&
				TRIGGER_FOR_UPDATE(trigger->tgtype) &&
				TRIGGER_FOR_DELETE(trigger->tgtype))
				has_row = true;
			if (TRIGGER_TYPE_MATCHES(trigger->tgtype, TRIGGER_TYPE_STATEMENT, TRIGGER_TYPE_BEFORE, TRIGGER_TYPE_TRUNCATE))
				has_truncate = true;
		}
		else if (has_row && trigger->tgenabled != TRIGGER_DISABLED &&
				 TRIGGER_FOR_ROW(trigger->tgtype) &&
				 TRIGGER_FOR_BEFORE(trigger->tgtype) &&
				 (TRIGGER_FOR_INSERT(trigger->tgtype) || TRIGGER_FOR_UPDATE(trigger->tgtype)))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("trigger \"%s\" on \"docsync.document\" fires after docsync's own",
							trigger->tgname),
					 errdetail("It could change what docsync has stamped. BEFORE triggers fire in the order of their names."),
					 errhint("ALTER TRIGGER ... RENAME TO a name that sorts before %s.", DOCSYNC_GUARD_NAME)));
	}

	if (!has_row || !has_truncate)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"docsync.document\" is not guarded"),
				 errdetail("A trigger of docsync's is missing or switched off: what is written meanwhile isn't stamped, and readers would lose it."),
				 errhint("SELECT docsync_create_store(); it attaches the triggers again.")));
}

/* Without a condition, on all columns, where it fires for whoever writes */
static bool
is_guard(const Trigger *trigger, Oid extension)
{
	char	   *name;

	if (trigger->tgenabled != TRIGGER_FIRES_ON_ORIGIN &&
		trigger->tgenabled != TRIGGER_FIRES_ALWAYS)
		return false;
	if (trigger->tgqual != NULL || trigger->tgnattr > 0)
		return false;

	name = get_func_name(trigger->tgfoid);
	return name != NULL && strcmp(name, "docsync_guard") == 0 &&
		getExtensionOfObject(ProcedureRelationId, trigger->tgfoid) == extension;
}

static bool
is_subscribed(void)
{
	Relation	rel = table_open(SubscriptionRelRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	bool		found;

	ScanKeyInit(&key, Anum_pg_subscription_rel_srrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(store.relations[STORE_DOCUMENT]));
	scan = systable_beginscan(rel, SubscriptionRelSrrelidSrsubidIndexId, true,
							  NULL, 1, &key);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	return found;
}

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
					 errmsg("could not serialize access due to a change of \"docsync.%s\"", needed[i].name),
					 errdetail("The table may have been rewritten since the transaction began."),
					 errhint("Run the transaction again.")));
	}
}

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

static void
on_catalog(Datum arg, int cacheid, uint32 hashvalue)
{
	is_valid = false;
	changes++;
}
