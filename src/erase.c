/*-------------------------------------------------------------------------
 *
 * erase.c
 *	  Erasing collections: documents, tombstones, and their rows in the record.
 *
 * If a document simply disappeared, each client that has it would keep it, and
 * a client that compares would send it again as one that the store has lost.
 * So documents are removed in the way that tombstones are (purge.c), and the
 * proof for those holds for them, too.  Each becomes a tombstone first, with a
 * stamp that no client has passed.  The tombstone is removed when it is
 * settled, which raises the horizon.  A client that comes later is told to
 * compare, finds nothing, and drops what it has.
 *
 * What remains is the horizon, and one tombstone that belongs to no document: a
 * client that sees no document of a collection is told nothing about it
 * (position.c), and one that resumes from a bare stamp is told only when there
 * is something later.  Without them a client that was away would keep what it
 * has and send it again.  They are removed only if the caller says that no
 * client will come any more.
 *
 * The steps commit if possible, and each leaves a consistent state: a call that
 * is interrupted can be repeated, and finds less to do.  Only documents that
 * were there at the beginning are looked at, so it ends no matter how much is
 * uploaded meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_erase);

/* Documents that become tombstones in a step */
#define STEP_DOCUMENTS		1000

/* The id of the tombstone that remains */
#define ERASED_ID			"docsync:erased"

/* The phases for a collection, in this order */
typedef enum ErasePhase
{
	ERASE_DOCUMENTS,
	ERASE_MARK,
	ERASE_TOMBSTONES,
	ERASE_RECORD,
	ERASE_HORIZON
} ErasePhase;

typedef struct Erase
{
	MemoryContext context;		/* outlives transactions */
	text	   *pattern;
	bool		forget;			/* horizons, too */
	TimestampTz until;			/* stamps of documents that were there */
	text	   *collection;		/* the present one; NULL: none yet */
	ErasePhase	phase;
	TimestampTz passed;			/* in it, documents up to here are done */
	PurgeScan	tombstones;
	int64		erased;			/* in collections that are done with */
	bool		is_held;		/* something couldn't be removed */
} Erase;

/* Documents that become tombstones in a step */
typedef struct Step
{
	int			count;
	Datum		ids[STEP_DOCUMENTS];
	TimestampTz last;			/* stamp of the last one */
} Step;

static Statement next_collection = {
	"SELECT pg_catalog.min(each.collection) FROM ("
	" SELECT (SELECT collection FROM docsync.document"
	"  WHERE collection OPERATOR(pg_catalog.>) $1 ORDER BY collection LIMIT 1)"
	" UNION ALL SELECT (SELECT collection FROM docsync.record"
	"  WHERE collection OPERATOR(pg_catalog.>) $1 ORDER BY collection LIMIT 1)"
	" UNION ALL SELECT (SELECT collection FROM docsync.purged"
	"  WHERE collection OPERATOR(pg_catalog.>) $1 ORDER BY collection LIMIT 1))"
	" AS each(collection)",
	1, {TEXTOID}, STATEMENT_PINNED | STATEMENT_READ_ONLY, NULL
};

static Statement some_documents = {
	"SELECT id, last_update_utc FROM docsync.document"
	" WHERE collection OPERATOR(pg_catalog.=) $1"
	"   AND last_update_utc OPERATOR(pg_catalog.>) $2"
	"   AND last_update_utc OPERATOR(pg_catalog.<=) $3"
	"   AND NOT deleted"
	" ORDER BY last_update_utc",
	3, {TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID},
	STATEMENT_PINNED | STATEMENT_READ_ONLY, NULL
};

static Statement find_other = {
	"SELECT 1 FROM docsync.document"
	" WHERE collection OPERATOR(pg_catalog.=) $1"
	"   AND id OPERATOR(pg_catalog.<>) $2 LIMIT 1",
	2, {TEXTOID, TEXTOID}, STATEMENT_PINNED | STATEMENT_READ_ONLY, NULL
};

/* An older one is removed by the guard (revive.c), or updated. */
static Statement put_mark = {
	"INSERT INTO docsync.document AS d"
	" (collection, id, client_version, client_id, deleted)"
	" VALUES ($1, $2, 0, '" DOCSYNC_SERVER_ID "', true)"
	" ON CONFLICT (collection, id) DO UPDATE SET deleted = true, body = NULL"
	" RETURNING d.last_update_utc",
	2, {TEXTOID, TEXTOID}, 0, NULL
};

/* No client is called '', so the horizon is the same for all clients. */
static Statement forget_client = {
	"UPDATE docsync.purged SET client_id = '', others_utc = '-infinity'"
	" WHERE collection OPERATOR(pg_catalog.=) $1"
	"   AND client_id OPERATOR(pg_catalog.<>) ''",
	1, {TEXTOID}, STATEMENT_PINNED, NULL
};

static Statement forget_horizon = {
	"DELETE FROM docsync.purged"
	" WHERE collection OPERATOR(pg_catalog.=) $1",
	1, {TEXTOID}, STATEMENT_PINNED, NULL
};

static void check_caller(void);
static bool take_step(void *arg);
static void check_is_here(const text *collection);
static bool do_some(Erase *erase);
static bool bury_some(Erase *erase);
static void mark(Erase *erase);
static bool find_next_collection(Erase *erase);
static void report_held(const Erase *erase);
static bool put_document(TupleTableSlot *slot, void *arg);
static bool put_stamp(TupleTableSlot *slot, void *arg);
static bool put_collection(TupleTableSlot *slot, void *arg);
static int	compare_ids(const void *a, const void *b);

/*
 * docsync_erase(pattern text, forget bool DEFAULT false, INOUT erased bigint
 * DEFAULT NULL)
 *
 * Erases the collections whose names match a LIKE pattern, and returns the
 * number of documents removed, tombstones included.
 *
 * It is a procedure: called outside a transaction block it commits after each
 * step.  If it is interrupted, calling it again finishes the work.
 *
 * Locks, until the end of the step's transaction: documents, in the order of
 * ids, the collection's mark, and its row of docsync.purged.
 */
Datum
docsync_erase(PG_FUNCTION_ARGS)
{
	Erase		erase = {
		.context = AllocSetContextCreate(PortalContext, "docsync erase",
										 ALLOCSET_SMALL_SIZES)
	};
	MemoryContext oldcontext = MemoryContextSwitchTo(erase.context);
	Datum		result;

	docsync_schema_open(STORE_READ);
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s is null", PG_ARGISNULL(0) ? "pattern" : "forget")));
	erase.pattern = DatumGetTextPCopy(PG_GETARG_DATUM(0));
	erase.forget = PG_GETARG_BOOL(1);
	PreventCommandIfReadOnly("docsync_erase()");
	check_caller();
	erase.until = docsync_clock_read();

	MemoryContextSwitchTo(oldcontext);
	result = docsync_steps_run(fcinfo, erase.context, take_step, &erase,
							   &erase.erased);
	report_held(&erase);
	MemoryContextDelete(erase.context);
	return result;
}

/*
 * Checks that the caller has the privileges, and that no policy hides anything
 * from him.
 */
static void
check_caller(void)
{
	const Oid  *relations = docsync_schema_open(STORE_READ)->relations;

	docsync_purge_check_rights();
	if (!docsync_record_may_remove())
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, "docsync.record");
	if (check_enable_rls(relations[STORE_DOCUMENT], InvalidOid, true) == RLS_ENABLED ||
		check_enable_rls(relations[STORE_RECORD], InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to erase documents"),
				 errdetail("Row-level security applies to you: it would hide some of them, or of what docsync.record has."),
				 errhint("Let the owner of the store do it.")));
}

/*
 * StepCallback: does one step, under a snapshot of its own.  Returns false if all is done.
 */
static bool
take_step(void *arg)
{
	Erase	   *erase = arg;
	bool		more;

	check_caller();
	docsync_epoch_notice();

	/* Before we look whether a collection is here: docsync_move_wait() */
	LockRelationOid(docsync_schema_open(STORE_READ)->relations[STORE_PURGED],
					RowExclusiveLock);

	/*
	 * A step must see what the one before has done, even if that hasn't
	 * committed.
	 */
	CommandCounterIncrement();
	docsync_schema_push_snapshot();
	more = erase->collection != NULL || find_next_collection(erase);
	if (more)
		check_is_here(erase->collection);
	if (more && !do_some(erase))
	{
		if (erase->phase < ERASE_HORIZON)
			erase->phase++;
		else
			more = find_next_collection(erase);
	}
	PopActiveSnapshot();

	return more;
}

/*
 * Refuses a collection that is closed by now.
 */
static void
check_is_here(const text *collection)
{
	const Moved *moved = docsync_moved_find_latest(collection);
	char	   *name;

	if (!docsync_moved_is_closed(moved))
		return;
	name = text_to_cstring(moved->collection);
	if (moved->state == MOVED_GONE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("collection \"%s\" has been moved to another server", name),
				 errhint("Erase it there. What is still here is deleted by DELETE, for good.")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("collection \"%s\" is being moved", name),
			 errhint("Finish the move, or give it up; then erase it where it is.")));
}

/*
 * Does one step of the current collection's current phase.  Returns false if
 * the phase is done.
 */
static bool
do_some(Erase *erase)
{
	Datum		collection = PointerGetDatum(erase->collection);

	switch (erase->phase)
	{
		case ERASE_DOCUMENTS:
			return bury_some(erase);
		case ERASE_MARK:
			mark(erase);
			return false;
		case ERASE_TOMBSTONES:
			if (docsync_purge_step(&erase->tombstones))
				return true;
			erase->erased += erase->tombstones.removed;
			erase->is_held = erase->is_held || erase->tombstones.is_held;
			return false;
		case ERASE_RECORD:
			return docsync_record_erase(erase->collection) > 0;
		case ERASE_HORIZON:
			docsync_statement_run(erase->forget && !erase->tombstones.is_held ?
								  &forget_horizon : &forget_client,
								  &collection, NULL, NULL);
			return false;
	}
	elog(ERROR, "unrecognized phase: %d", (int) erase->phase);
}

/*
 * Turns one step of the documents into tombstones, in the order of ids.
 * Returns false if there are no more.
 */
static bool
bury_some(Erase *erase)
{
	Step	   *step = palloc0(sizeof(Step));
	Datum		args[] = {
		PointerGetDatum(erase->collection),
		TimestampTzGetDatum(erase->passed),
		TimestampTzGetDatum(erase->until)
	};

	docsync_statement_run(&some_documents, args, put_document, step);
	if (step->count == 0)
		return false;

	qsort(step->ids, step->count, sizeof(Datum), compare_ids);
	for (int i = 0; i < step->count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		docsync_store_erase(erase->collection, step->ids[i]);
	}
	erase->passed = step->last;
	return true;
}

/*
 * Leaves a tombstone that is newer than those that are removed: later ones
 * aren't, or another call, that has given it another stamp, would lose it.
 * Spec erase-twice.  If nothing else is there, the tombstone of an earlier call
 * stays as it is.
 */
static void
mark(Erase *erase)
{
	Datum		args[] = {
		PointerGetDatum(erase->collection),
		CStringGetTextDatum(ERASED_ID)
	};

	if (erase->forget)
		return;
	if (docsync_statement_run(&find_other, args, NULL, NULL) > 0)
		docsync_statement_run(&put_mark, args, put_stamp,
							  &erase->tombstones.before);
	else
		erase->phase = ERASE_TOMBSTONES;
}

/*
 * Proceeds to the next collection that matches, in the order of names.
 * Returns false if there is none.
 */
static bool
find_next_collection(Erase *erase)
{
	text	   *next = erase->collection != NULL ? erase->collection :
	cstring_to_text("");

	do
	{
		Datum		arg = PointerGetDatum(next);

		CHECK_FOR_INTERRUPTS();
		next = NULL;
		docsync_statement_run(&next_collection, &arg, put_collection, &next);
	} while (next != NULL &&
			 !DatumGetBool(DirectFunctionCall2Coll(textlike, C_COLLATION_OID,
												   PointerGetDatum(next),
												   PointerGetDatum(erase->pattern))));
	if (next == NULL)
		return false;

	erase->collection = (text *)
		MemoryContextAlloc(erase->context, VARSIZE_ANY(next));
	memcpy(erase->collection, next, VARSIZE_ANY(next));
	erase->phase = ERASE_DOCUMENTS;
	erase->passed = DT_NOBEGIN;
	memset(&erase->tombstones, 0, sizeof(PurgeScan));
	erase->tombstones.collection = erase->collection;
	erase->tombstones.before = DT_NOEND;
	erase->tombstones.keep[0] = erase->tombstones.keep[1] = DT_NOBEGIN;
	erase->tombstones.passed = DT_NOBEGIN;
	return true;
}

/*
 * Reports if something could not be removed.
 */
static void
report_held(const Erase *erase)
{
	if (erase->is_held)
		ereport(NOTICE,
				(errmsg("some tombstones could not be removed yet"),
				 errdetail("Transactions that have written to the collection have not ended. The documents' bodies have gone."),
				 errhint("Call docsync_erase() again when they have.")));
}

/*
 * RowCallback: adds a document to the step, and ends the scan when that is
 * full.
 */
static bool
put_document(TupleTableSlot *slot, void *arg)
{
	Step	   *step = (Step *) arg;

	step->ids[step->count++] = PointerGetDatum(DatumGetTextPCopy(slot->tts_values[0]));
	step->last = DatumGetTimestampTz(slot->tts_values[1]);
	return step->count < STEP_DOCUMENTS;
}

/* RowCallback: copies the stamp. */
static bool
put_stamp(TupleTableSlot *slot, void *arg)
{
	*(TimestampTz *) arg = DatumGetTimestampTz(slot->tts_values[0]);
	return true;
}

/* RowCallback: copies the name, if there is one. */
static bool
put_collection(TupleTableSlot *slot, void *arg)
{
	if (!slot->tts_isnull[0])
		*(text **) arg = DatumGetTextPCopy(slot->tts_values[0]);
	return false;
}

/* For qsort: bytewise */
static int
compare_ids(const void *a, const void *b)
{
	const text *one = (const text *) DatumGetPointer(*(const Datum *) a);
	const text *other = (const text *) DatumGetPointer(*(const Datum *) b);

	return docsync_text_compare(VARDATA_ANY(one), VARSIZE_ANY_EXHDR(one),
								VARDATA_ANY(other), VARSIZE_ANY_EXHDR(other));
}
