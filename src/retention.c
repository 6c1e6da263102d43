/*-------------------------------------------------------------------------
 *
 * retention.c
 *	  The rules of what is kept: docsync.keep.
 *
 * If nothing is kept, this costs two comparisons.  The rules are read again
 * only when the store has been checked again, and changing a rule makes all
 * sessions check it (docsync_keep_changed()).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_collation.h"
#include "commands/trigger.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_keep_changed);

/* What is kept, the rule that counts first in front */
static RetentionRule *rules = NULL;
static int	nrules = 0;
static MemoryContext rules_context = NULL;
static uint64 rules_version = 0;	/* the store's, when they were read */

static void read_rules(const Store *store);
static void read_rule(RetentionRule *rule, HeapTuple tuple, TupleDesc desc,
					  const AttrNumber *attnums);
static int	compare_rules(const void *a, const void *b);

/*
 * docsync_keep_changed() RETURNS trigger
 *
 * The trigger of docsync.keep: makes all sessions read the rules again when
 * this transaction has committed.
 */
Datum
docsync_keep_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	Oid			document;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("docsync_keep_changed() was not called as a trigger")));

	/*
	 * The store isn't opened: a rule can be changed even if the store is
	 * broken.
	 */
	document = get_relname_relid(docsync_check_name(STORE_DOCUMENT),
								 RelationGetNamespace(trigdata->tg_relation));
	if (OidIsValid(document))
		CacheInvalidateRelcacheByRelid(document);
	return PointerGetDatum(NULL);
}

/*
 * Returns the rule for a collection, or NULL if nothing is kept.  It is valid
 * until the store is opened again.
 */
const RetentionRule *
docsync_retention_find(const text *collection)
{
	const Store *store = docsync_schema_open(STORE_READ);

	if (rules_version != store->version)
		read_rules(store);

	for (int i = 0; i < nrules; i++)
	{
		if (DatumGetBool(DirectFunctionCall2Coll(textlike, C_COLLATION_OID,
												 PointerGetDatum(collection),
												 PointerGetDatum(rules[i].pattern))))
			return rules[i].keep == RETENTION_NONE ? NULL : &rules[i];
	}
	return NULL;
}

/*
 * Reads docsync.keep, regardless of privileges and row-level security: what is
 * kept doesn't depend on the caller's rights.
 *
 * A rule that is committed after our snapshot causes an invalidation, which
 * changes the store's version.  So the rules are read again the next time.
 */
static void
read_rules(const Store *store)
{
	uint64		version = store->version;
	Relation	rel = table_open(store->relations[STORE_KEEP], AccessShareLock);
	AttrNumber	attnums[STORE_COLUMNS_MAX];
	MemoryContext context;
	MemoryContext oldcontext;
	RetentionRule *read;
	int			count = 0;
	int			size = 8;
	Snapshot	snapshot;
	SysScanDesc scan;
	HeapTuple	tuple;

	memcpy(attnums, store->attnums[STORE_KEEP], sizeof(attnums));
	context = AllocSetContextCreate(CurrentMemoryContext, "docsync keep",
									ALLOCSET_SMALL_SIZES);
	oldcontext = MemoryContextSwitchTo(context);

	CommandCounterIncrement();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);
	read = palloc(sizeof(RetentionRule) * size);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (count == size)
		{
			size *= 2;
			read = repalloc(read, sizeof(RetentionRule) * size);
		}
		read_rule(&read[count++], tuple, RelationGetDescr(rel), attnums);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
	qsort(read, count, sizeof(RetentionRule), compare_rules);

	MemoryContextSwitchTo(oldcontext);
	MemoryContextSetParent(context, TopMemoryContext);
	if (rules_context != NULL)
		MemoryContextDelete(rules_context);
	rules_context = context;
	rules = read;
	nrules = count;
	rules_version = version;
}

/* Reads a row of docsync.keep, whose constraints have checked the values. */
static void
read_rule(RetentionRule *rule, HeapTuple tuple, TupleDesc desc,
		  const AttrNumber *attnums)
{
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *isnull = palloc(sizeof(bool) * desc->natts);
	char	   *keep;

	/* None of them is null (check.c). */
	heap_deform_tuple(tuple, desc, values, isnull);
	keep = TextDatumGetCString(values[attnums[KEEP_KEEP] - 1]);
	rule->pattern = DatumGetTextPCopy(values[attnums[KEEP_PATTERN] - 1]);
	rule->most = Max(DatumGetInt32(values[attnums[KEEP_MOST] - 1]), 1);
	rule->keep = strcmp(keep, "replaced") == 0 ? RETENTION_REPLACED :
		strcmp(keep, "discarded") == 0 ? RETENTION_DISCARDED :
		RETENTION_NONE;
}

/* For qsort: the longest pattern first; patterns of equal length bytewise */
static int
compare_rules(const void *a, const void *b)
{
	const text *one = ((const RetentionRule *) a)->pattern;
	const text *other = ((const RetentionRule *) b)->pattern;
	int			len = VARSIZE_ANY_EXHDR(one);
	int			other_len = VARSIZE_ANY_EXHDR(other);

	if (len != other_len)
		return len < other_len ? 1 : -1;
	return docsync_text_compare(VARDATA_ANY(one), len,
								VARDATA_ANY(other), other_len);
}
