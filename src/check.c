/*-------------------------------------------------------------------------
 *
 * check.c
 *	  What is required of a store: its owners, relations, columns, triggers.
 *
 * The store belongs to the user, who may do with it as they like.  What
 * docsync can't work with, or what would lose documents, is refused here, by
 * an error that says what is wrong and what to do.  Columns are looked up by
 * name: there may be others between them.
 *
 * Called with the relations locked (schema.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
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
#include "miscadmin.h"
#include "rewrite/prs2lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "docsync.h"

/* The columns required of a table.  There may be others. */
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

/* Each column has an index in Store.attnums, and each index a column. */
StaticAssertDecl(lengthof(document_columns) == DOCUMENT_FENCE + 1 &&
				 lengthof(purged_columns) == PURGED_OTHERS_UTC + 1 &&
				 lengthof(history_columns) == HISTORY_ARRIVED + 1,
				 "a column is missing");
StaticAssertDecl(lengthof(document_columns) <= STORE_COLUMNS_MAX &&
				 lengthof(purged_columns) <= STORE_COLUMNS_MAX &&
				 lengthof(history_columns) <= STORE_COLUMNS_MAX,
				 "Store.attnums has no room for all columns");

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

static void check_owner(const char *kind, const char *name, Oid owner);
static void check_relation(Store *store, StoreRelation which);
static void check_rules(Relation rel);
static AttrNumber check_column(Relation rel, const NeededColumn *column);
static Oid	check_primary_key(Relation rel, const AttrNumber *attnums,
							  int count, const char *columns);
static void check_triggers(Store *store, Relation rel);
static bool is_guard(const Trigger *trigger, Oid extension, Oid namespace);
static bool is_subscribed(const Store *store);

/*
 * Checks the whole store, whose relations have been found and locked, and
 * fills in the rest of the struct.
 */
void
docsync_check_run(Store *store)
{
	Relation	rel;

	docsync_check_owners(store);
	for (int i = 0; i < STORE_RELATIONS; i++)
		check_relation(store, i);

	rel = table_open(store->relations[STORE_DOCUMENT], NoLock);
	store->document_index = check_primary_key(rel, store->attnums[STORE_DOCUMENT],
											  2, "collection, id");
	check_triggers(store, rel);
	if (find_inheritance_children(RelationGetRelid(rel), NoLock) != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"docsync.document\" has a child table"),
				 errdetail("Rows of the child table would not be stamped."),
				 errhint("ALTER TABLE ... NO INHERIT docsync.document.")));
	table_close(rel, NoLock);

	rel = table_open(store->relations[STORE_PURGED], NoLock);
	store->purged_index = check_primary_key(rel, store->attnums[STORE_PURGED],
											1, "collection");
	table_close(rel, NoLock);

	store->is_subscribed = is_subscribed(store);
}

/*
 * The name of a relation, without its schema
 */
const char *
docsync_check_name(StoreRelation which)
{
	return needed[which].name;
}

/*
 * Refuses a store with the wrong owner.  The owner of the store can run
 * anything as anybody who uploads, by a trigger.  So the owner must be
 * somebody who is, or can become, a superuser or the owner of the database
 * anyway.  Otherwise anybody with CREATE on the database could make the store
 * first, and wait for the next superuser.  To own the extension isn't enough:
 * it is trusted, so CREATE is all that takes.
 */
void
docsync_check_owners(const Store *store)
{
	Oid			namespace = get_namespace_oid(DOCSYNC_SCHEMA, true);
	HeapTuple	tuple;

	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(namespace));
	if (HeapTupleIsValid(tuple))
	{
		check_owner("SCHEMA", DOCSYNC_SCHEMA,
					((Form_pg_namespace) GETSTRUCT(tuple))->nspowner);
		ReleaseSysCache(tuple);
	}

	for (int i = 0; i < STORE_RELATIONS; i++)
	{
		tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(store->relations[i]));
		if (HeapTupleIsValid(tuple))
		{
			check_owner(needed[i].relkind == RELKIND_SEQUENCE ? "SEQUENCE" : "TABLE",
						psprintf(DOCSYNC_SCHEMA ".%s", needed[i].name),
						((Form_pg_class) GETSTRUCT(tuple))->relowner);
			ReleaseSysCache(tuple);
		}
	}
}

/*
 * Refuses an object of the store whose owner may not own it.  kind is its
 * keyword in ALTER, name its name; the error shows both.
 */
static void
check_owner(const char *kind, const char *name, Oid owner)
{
	if (!docsync_check_may_own(owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("\"%s\" is owned by a role that may not own docsync's store", name),
				 errdetail("Its owner \"%s\" is neither a superuser nor the owner of the database.",
						   GetUserNameFromId(owner, true)),
				 errhint("First make sure that nothing in it is a trap: triggers, rules, policies and defaults run as whoever uploads. Then ALTER %s %s OWNER TO one of these.", kind, name)));
}

/*
 * May a role own the store?  A superuser may, and so may the owner of the
 * database, or a role that can become that owner.
 */
bool
docsync_check_may_own(Oid role)
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

	return is_member_of_role_nosuper(role, database_owner);
}

/*
 * May a role see what collections there are, whatever policies there are?  The
 * owner of the documents may, roles that may own a store, and members of
 * pg_monitor.
 */
bool
docsync_check_may_watch(Oid role, const Store *store)
{
	return has_privs_of_role(role, store->owners[STORE_DOCUMENT]) ||
		has_privs_of_role(role, ROLE_PG_MONITOR) ||
		docsync_check_may_own(role);
}

/*
 * Finds the extension and its schema.  It exists as long as one of its
 * functions runs.
 */
Oid
docsync_check_find_extension(Oid *namespace)
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
	*namespace = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	return extension;
}

/*
 * Checks a relation's kind, persistence, columns and rules, and fills in its
 * owner and the columns' numbers.
 *
 * Locks: ACCESS SHARE, until the end of the transaction.
 */
static void
check_relation(Store *store, StoreRelation which)
{
	Relation	rel = try_relation_open(store->relations[which], AccessShareLock);
	const char *name = needed[which].name;

	/*
	 * The clock isn't locked yet: it may be dropped while we wait for its
	 * lock.
	 */
	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("\"docsync.%s\" does not exist", name),
				 errhint(DOCSYNC_HINT_MEND)));
	if (rel->rd_rel->relkind != needed[which].relkind)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"docsync.%s\" is not a %s", name,
						needed[which].relkind == RELKIND_SEQUENCE ? "sequence" : "plain table"),
				 errhint(DOCSYNC_HINT_MEND)));
	if (rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"docsync.%s\" is unlogged", name),
				 errdetail("A crash would empty it, and nobody would be told."),
				 errhint("ALTER %s docsync.%s SET LOGGED.",
						 needed[which].relkind == RELKIND_SEQUENCE ? "SEQUENCE" : "TABLE", name)));

	store->owners[which] = rel->rd_rel->relowner;
	for (int i = 0; i < needed[which].ncolumns; i++)
		store->attnums[which][i] = check_column(rel, &needed[which].columns[i]);

	check_rules(rel);

	relation_close(rel, NoLock);
}

/*
 * Refuses INSTEAD rules: with them docsync's statements wouldn't do what they
 * say.
 */
static void
check_rules(Relation rel)
{
	for (int i = 0; rel->rd_rules != NULL && i < rel->rd_rules->numLocks; i++)
	{
		if (rel->rd_rules->rules[i]->isInstead)
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("\"docsync.%s\" has an INSTEAD rule",
							RelationGetRelationName(rel)),
					 errdetail("Documents, or what docsync records about them, would be written elsewhere."),
					 errhint("DROP RULE ... ON docsync.%s. A BEFORE trigger can change what is written.",
							 RelationGetRelationName(rel))));
	}
}

/*
 * Returns the number of a column.  It is an error if it is missing, or not
 * what docsync's statements need.
 */
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
					 errdetail("It must be a plain column of type %s%s, but is %s of type %s%s.",
							   format_type_be(column->type),
							   column->type == TEXTOID ? " with the collation \"C\"" : "",
							   attr->attgenerated != '\0' ? "a generated one" :
							   attr->attidentity != '\0' ? "an identity column" : "one",
							   format_type_with_typemod(attr->atttypid, attr->atttypmod),
							   !OidIsValid(attr->attcollation) ? "" :
							   psprintf(" with the collation \"%s\"",
										get_collation_name(attr->attcollation))),
					 errhint(DOCSYNC_HINT_MEND)));
		if (column->not_null && !compat_is_not_null(desc, i))
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
			 errhint(DOCSYNC_HINT_MEND)));
}

/*
 * Returns the primary key's index, which uploads rely on to find what is
 * stored, and for there being only one such row.  It must be on the given
 * columns, in this order, and not deferrable.
 */
static Oid
check_primary_key(Relation rel, const AttrNumber *attnums, int count,
				  const char *columns)
{
	Oid			oid = RelationGetPrimaryKeyIndex(rel, false);
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
 * Checks that the guard is in place for every way of writing, and that nothing
 * can change a row after it: it must be the last of the BEFORE triggers, which
 * fire in the order of their names.
 *
 * This works on a copy of the triggers.  Looking up which function a trigger
 * calls may process an invalidation of the table, and then the relcache entry
 * is rebuilt.  On a server with assertions, which overwrites what it frees,
 * t/010_rewrites.pl fails without the copy.
 */
static void
check_triggers(Store *store, Relation rel)
{
	TriggerDesc *triggers = CopyTriggerDesc(rel->trigdesc);
	bool		has_row = false;
	bool		has_truncate = false;
	Oid			namespace;
	Oid			extension = docsync_check_find_extension(&namespace);

	store->is_altered = false;
	store->is_insert_heard = rel->rd_rules != NULL;
	store->is_delete_heard = rel->rd_rules != NULL;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		bool		guards = is_guard(trigger, extension, namespace);

		if (guards)
		{
			if (TRIGGER_TYPE_MATCHES(trigger->tgtype, TRIGGER_TYPE_ROW, TRIGGER_TYPE_BEFORE, TRIGGER_TYPE_INSERT) &&
				TRIGGER_FOR_UPDATE(trigger->tgtype) &&
				TRIGGER_FOR_DELETE(trigger->tgtype))
				has_row = true;
			if (TRIGGER_TYPE_MATCHES(trigger->tgtype, TRIGGER_TYPE_STATEMENT, TRIGGER_TYPE_BEFORE, TRIGGER_TYPE_TRUNCATE))
				has_truncate = true;
		}
		else if (trigger->tgenabled == TRIGGER_DISABLED)
			continue;
		else if (TRIGGER_FOR_ROW(trigger->tgtype) &&
				 TRIGGER_FOR_BEFORE(trigger->tgtype) &&
				 (TRIGGER_FOR_INSERT(trigger->tgtype) || TRIGGER_FOR_UPDATE(trigger->tgtype)))
		{
			if (has_row)
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("trigger \"%s\" on \"docsync.document\" fires after docsync's",
								trigger->tgname),
						 errdetail("It could change a row after docsync has stamped it. BEFORE triggers fire in the order of their names."),
						 errhint("ALTER TRIGGER ... RENAME TO a name that sorts before %s.", DOCSYNC_GUARD_NAME)));
			store->is_altered = true;
		}

		/*
		 * Not AFTER row triggers: these fire only for rows that were
		 * inserted.
		 */
		if (!guards && TRIGGER_FOR_INSERT(trigger->tgtype) &&
			!(TRIGGER_FOR_ROW(trigger->tgtype) && TRIGGER_FOR_AFTER(trigger->tgtype)))
			store->is_insert_heard = true;
		if (!guards && TRIGGER_FOR_DELETE(trigger->tgtype))
			store->is_delete_heard = true;
	}

	if (!has_row || !has_truncate)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"docsync.document\" is not guarded"),
				 errdetail("One of docsync's triggers is missing or disabled. Rows written without it are not stamped, and readers would lose them."),
				 errhint("SELECT docsync_create_store() attaches the triggers again.")));
}

/*
 * Is a trigger the guard: enabled, without a condition, and on all columns?
 * The function must be the one in the extension's schema: the extension's
 * owner could make another one of that name a member.
 */
static bool
is_guard(const Trigger *trigger, Oid extension, Oid namespace)
{
	char	   *name;

	if (trigger->tgenabled != TRIGGER_FIRES_ON_ORIGIN &&
		trigger->tgenabled != TRIGGER_FIRES_ALWAYS)
		return false;
	if (trigger->tgqual != NULL || trigger->tgnattr > 0)
		return false;

	name = get_func_name(trigger->tgfoid);
	return name != NULL && strcmp(name, "docsync_guard") == 0 &&
		get_func_namespace(trigger->tgfoid) == namespace &&
		getExtensionOfObject(ProcedureRelationId, trigger->tgfoid) == extension;
}

/*
 * Is docsync.document among the tables of a subscription, running or not?
 */
static bool
is_subscribed(const Store *store)
{
	Relation	rel = table_open(SubscriptionRelRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	bool		found;

	ScanKeyInit(&key, Anum_pg_subscription_rel_srrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(store->relations[STORE_DOCUMENT]));
	scan = systable_beginscan(rel, SubscriptionRelSrrelidSrsubidIndexId, true,
							  NULL, 1, &key);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	return found;
}
