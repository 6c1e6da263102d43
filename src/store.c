/*-------------------------------------------------------------------------
 *
 * store.c
 *	  The table of documents: query texts, and rows to structs.
 *
 * Everything is done as the caller, so that privileges and row-level security
 * on docsync.document apply.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "docsync.h"

typedef enum DocumentStatement
{
	STATEMENT_FIND,
	STATEMENT_FIND_ONE,
	STATEMENT_FIND_CHANGEABLE,
	STATEMENT_GET,
	STATEMENT_SCAN,
	STATEMENT_SCAN_BACK,
	STATEMENT_SEE_ANY,
	STATEMENT_WRITE,
	STATEMENT_WRITE_ONE,
	STATEMENT_CREATE,
	STATEMENT_CREATE_ONE,
	STATEMENT_UPDATE,
	STATEMENT_UPDATE_ONE,
	STATEMENT_BURY,
	STATEMENT_RESTAMP,
	STATEMENT_ERASE
} DocumentStatement;

#define STORED_COLUMNS \
	"SELECT id, client_version, client_id, last_update_utc, deleted, body, fence" \
	"  FROM docsync.document"

/*
 * Of indexes that seem to cost the same, as all do in a small table, the
 * planner takes the newest, and which one that is may depend on a restore or
 * on an index of the user's.  But only the primary key returns a condition
 * like this one in order.
 */
#define BY_ID(id) \
	" WHERE collection OPERATOR(pg_catalog.=) $1" \
	"   AND id OPERATOR(pg_catalog.>=) " id \
	"   AND id OPERATOR(pg_catalog.<=) " id \
	" ORDER BY id"

#define BY_IDS_WITH(locking) \
	"SELECT d.* FROM pg_catalog.unnest($2) AS sent(id) CROSS JOIN LATERAL (" \
	STORED_COLUMNS BY_ID("sent.id") " OFFSET 0" locking ") AS d"

#define BY_IDS BY_IDS_WITH("")

#define WRITE(source) \
	"INSERT INTO docsync.document AS d" \
	" (collection, id, client_version, client_id, deleted, body) " \
	source

/* Faster than in FROM, where each array would be copied into a tuplestore. */
#define FROM_ARRAYS \
	"SELECT $1, pg_catalog.unnest($3), pg_catalog.unnest($4), $2," \
	" pg_catalog.unnest($5), pg_catalog.unnest($6)"

#define FROM_VALUES \
	"VALUES ($1, $3, $4, $2, $5, $6)"

/* The same with tids, which only an UPDATE needs */
#define FROM_ARRAYS_OF_STORED \
	FROM_ARRAYS ", pg_catalog.unnest($7)"

#define FROM_VALUES_OF_STORED \
	"VALUES ($1, $3, $4, $2, $5, $6, $7)"

#define SET_TO(sent) \
	" SET client_version = " sent ".client_version," \
	"     client_id = " sent ".client_id," \
	"     deleted = " sent ".deleted," \
	"     body = " sent ".body"

/*
 * The guard asks whether ours wins; by then the stored row is locked, and the
 * policies have been applied.
 */
#define REPLACE \
	" ON CONFLICT (collection, id) DO UPDATE" SET_TO("excluded")

/*
 * Goes to the tids where rows were found, one by one in the order of the ids
 * (pin.c), and makes sure that the row there still has that id.
 */
#define UPDATE(source) \
	"UPDATE docsync.document AS d" SET_TO("sent") \
	"  FROM (" source ")" \
	"    AS sent (collection, id, client_version, client_id, deleted, body, tid)" \
	" WHERE d.ctid OPERATOR(pg_catalog.=) sent.tid" \
	"   AND d.collection OPERATOR(pg_catalog.=) $1" \
	"   AND d.id OPERATOR(pg_catalog.=) sent.id"

#define WRITTEN \
	" RETURNING d.id, d.client_version, d.last_update_utc"

static Statement statements[] = {

	/*
	 * A lookup for each id, by the primary key.  With ANY ($2), a plan made
	 * when the table was small might read the whole collection, for as long
	 * as it is kept.  OFFSET 0 keeps the planner from turning this into a
	 * join.
	 */
	[STATEMENT_FIND] = {
		BY_IDS,
		2, {TEXTOID, TEXTARRAYOID}, STATEMENT_PINNED, NULL
	},
	[STATEMENT_GET] = {
		BY_IDS,
		2, {TEXTOID, TEXTARRAYOID}, STATEMENT_PINNED | STATEMENT_READ_ONLY, NULL
	},
	[STATEMENT_SCAN] = {
		STORED_COLUMNS
		" WHERE collection OPERATOR(pg_catalog.=) $1"
		"   AND last_update_utc OPERATOR(pg_catalog.>=) $2"
		" ORDER BY last_update_utc",
		2, {TEXTOID, TIMESTAMPTZOID}, STATEMENT_PINNED | STATEMENT_READ_ONLY, NULL
	},

	[STATEMENT_SCAN_BACK] = {
		STORED_COLUMNS
		" WHERE collection OPERATOR(pg_catalog.=) $1"
		"   AND last_update_utc OPERATOR(pg_catalog.<=) $2"
		" ORDER BY last_update_utc DESC",
		2, {TEXTOID, TIMESTAMPTZOID}, STATEMENT_PINNED | STATEMENT_READ_ONLY, NULL
	},

	[STATEMENT_SEE_ANY] = {
		"SELECT 1 FROM docsync.document"
		" WHERE collection OPERATOR(pg_catalog.=) $1 LIMIT 1",
		1, {TEXTOID}, STATEMENT_PINNED | STATEMENT_READ_ONLY, NULL
	},

	[STATEMENT_FIND_ONE] = {
		STORED_COLUMNS BY_ID("$2"),
		2, {TEXTOID, TEXTOID}, STATEMENT_PINNED, NULL
	},

	/*
	 * Locking a row requires that privileges and policies permit updating it;
	 * and no upload waits for this lock.
	 */
	[STATEMENT_FIND_CHANGEABLE] = {
		BY_IDS_WITH(" FOR KEY SHARE"),
		2, {TEXTOID, TEXTARRAYOID}, STATEMENT_PINNED, NULL
	},

	/*
	 * Rows are written in the order of their ids, which the arrays have: so
	 * two uploads lock rows in the same order, and never deadlock.
	 */
	[STATEMENT_WRITE] = {
		WRITE(FROM_ARRAYS) REPLACE WRITTEN,
		6, {TEXTOID, TEXTOID, TEXTARRAYOID, INT8ARRAYOID, BOOLARRAYOID, JSONBARRAYOID}, STATEMENT_OF_TASK, NULL
	},
	[STATEMENT_WRITE_ONE] = {
		WRITE(FROM_VALUES) REPLACE WRITTEN,
		6, {TEXTOID, TEXTOID, TEXTOID, INT8OID, BOOLOID, JSONBOID}, STATEMENT_OF_TASK, NULL
	},
	[STATEMENT_CREATE] = {
		WRITE(FROM_ARRAYS) WRITTEN,
		6, {TEXTOID, TEXTOID, TEXTARRAYOID, INT8ARRAYOID, BOOLARRAYOID, JSONBARRAYOID}, STATEMENT_OF_TASK, NULL
	},

	[STATEMENT_CREATE_ONE] = {
		WRITE(FROM_VALUES) " ON CONFLICT (collection, id) DO NOTHING" WRITTEN,
		6, {TEXTOID, TEXTOID, TEXTOID, INT8OID, BOOLOID, JSONBOID}, STATEMENT_OF_TASK, NULL
	},

	[STATEMENT_UPDATE] = {
		UPDATE(FROM_ARRAYS_OF_STORED) WRITTEN,
		7, {TEXTOID, TEXTOID, TEXTARRAYOID, INT8ARRAYOID, BOOLARRAYOID, JSONBARRAYOID, TIDARRAYOID}, STATEMENT_OF_TASK | STATEMENT_PINNED, NULL
	},
	[STATEMENT_UPDATE_ONE] = {
		UPDATE(FROM_VALUES_OF_STORED) WRITTEN,
		7, {TEXTOID, TEXTOID, TEXTOID, INT8OID, BOOLOID, JSONBOID, TIDOID}, STATEMENT_OF_TASK | STATEMENT_PINNED, NULL
	},

	[STATEMENT_BURY] = {
		"UPDATE docsync.document SET deleted = true, body = NULL"
		" WHERE collection OPERATOR(pg_catalog.=) $1"
		"   AND id OPERATOR(pg_catalog.=) $2",
		2, {TEXTOID, TEXTOID}, STATEMENT_PINNED, NULL
	},

	[STATEMENT_RESTAMP] = {
		"UPDATE docsync.document SET deleted = deleted"
		" WHERE collection OPERATOR(pg_catalog.=) $1"
		"   AND id OPERATOR(pg_catalog.=) $2"
		" RETURNING 1",
		2, {TEXTOID, TEXTOID}, STATEMENT_PINNED | STATEMENT_OF_TASK, NULL
	},

	/*
	 * The version stays, since it may be the highest possible one: a client
	 * that has the same version accepts the tombstone because of its stamp.
	 */
	[STATEMENT_ERASE] = {
		"UPDATE docsync.document"
		"   SET deleted = true, body = NULL, client_id = '" DOCSYNC_SERVER_ID "'"
		" WHERE collection OPERATOR(pg_catalog.=) $1"
		"   AND id OPERATOR(pg_catalog.=) $2"
		" RETURNING 1",
		2, {TEXTOID, TEXTOID}, STATEMENT_PINNED | STATEMENT_OF_TASK, NULL
	}
};

/* For several documents, and for one */
static const DocumentStatement writes[][2] = {
	[STORE_REPLACE] = {STATEMENT_WRITE, STATEMENT_WRITE_ONE},
	[STORE_CREATE] = {STATEMENT_CREATE, STATEMENT_CREATE_ONE},
	[STORE_UPDATE] = {STATEMENT_UPDATE, STATEMENT_UPDATE_ONE}
};

typedef struct StoredReceiver
{
	StoredCallback callback;
	void	   *arg;
} StoredReceiver;

typedef struct WrittenReceiver
{
	WrittenCallback callback;
	void	   *arg;
} WrittenReceiver;

static bool rewrite(DocumentStatement statement, text *collection, Datum id);
static bool may_rewrite(const StoredDocument *stored, void *arg);
static bool receive_stored(TupleTableSlot *slot, void *arg);
static bool receive_written(TupleTableSlot *slot, void *arg);

/*
 * Looks up the documents with the given ids, under a new snapshot, and returns
 * how many are stored.  The callback may be NULL.
 */
uint64
docsync_store_find(text *collection, Datum *ids, int count,
				   StoredCallback callback, void *arg)
{
	StoredReceiver receiver = {callback, arg};
	uint64		found;
	int			done = docsync_probe_find(collection, ids, count, callback,
										  arg, &found);
	Datum		args[] = {PointerGetDatum(collection), 0};

	if (done == count)
		return found;

	ids += done;
	count -= done;
	if (count == 1)
	{
		args[1] = ids[0];
		return docsync_statement_run(&statements[STATEMENT_FIND_ONE], args,
									 receive_stored, &receiver);
	}

	args[1] = PointerGetDatum(construct_array(ids, count, TEXTOID, -1, false,
											  TYPALIGN_INT));
	return docsync_statement_run(&statements[STATEMENT_FIND], args,
								 receive_stored, &receiver);
}

/*
 * Looks up the documents that the caller may see and update.
 *
 * Locks: these rows, KEY SHARE, until the end of the transaction.
 */
void
docsync_store_find_changeable(text *collection, Datum *ids, int count,
							  StoredCallback callback, void *arg)
{
	StoredReceiver receiver = {callback, arg};
	Datum		args[] = {
		PointerGetDatum(collection),
		PointerGetDatum(construct_array(ids, count, TEXTOID, -1, false,
										TYPALIGN_INT))
	};

	docsync_statement_run(&statements[STATEMENT_FIND_CHANGEABLE], args,
						  receive_stored, &receiver);
}

/*
 * Looks up documents in the order of the ids, under the active snapshot.
 */
void
docsync_store_get(text *collection, Datum *ids, int count,
				  StoredCallback callback, void *arg)
{
	StoredReceiver receiver = {callback, arg};
	Datum		args[] = {
		PointerGetDatum(collection),
		PointerGetDatum(construct_array(ids, count, TEXTOID, -1, false,
										TYPALIGN_INT))
	};

	docsync_statement_run(&statements[STATEMENT_GET], args, receive_stored,
						  &receiver);
}

/*
 * Scans a collection from a stamp on, in the order of stamps, under the active
 * snapshot.
 */
void
docsync_store_scan(text *collection, TimestampTz since,
				   StoredCallback callback, void *arg)
{
	StoredReceiver receiver = {callback, arg};
	Datum		args[] = {
		PointerGetDatum(collection),
		TimestampTzGetDatum(since)
	};

	docsync_statement_run(&statements[STATEMENT_SCAN], args, receive_stored,
						  &receiver);
}

/*
 * The same backwards, from a stamp down.
 */
void
docsync_store_scan_back(text *collection, TimestampTz from,
						StoredCallback callback, void *arg)
{
	StoredReceiver receiver = {callback, arg};
	Datum		args[] = {
		PointerGetDatum(collection),
		TimestampTzGetDatum(from)
	};

	docsync_statement_run(&statements[STATEMENT_SCAN_BACK], args,
						  receive_stored, &receiver);
}

/*
 * Does the caller see any document of the collection, under the active
 * snapshot?
 */
bool
docsync_store_sees_any(text *collection)
{
	Datum		arg = PointerGetDatum(collection);

	return docsync_statement_run(&statements[STATEMENT_SEE_ANY], &arg, NULL,
								 NULL) > 0;
}

/*
 * Writes documents, at most one for each id, in the order of their ids.  The
 * callback is called for those that were written.
 *
 * may_replace is called for each stored document that one of ours is about to
 * replace.
 *
 * STORE_CREATE: none of the documents was stored when we looked.  If one is
 * now, there is an error, ERRCODE_UNIQUE_VIOLATION; for a single document
 * there is none, but the callback isn't called.  Without ON CONFLICT, which
 * checks the index before it inserts, and marks the row twice, a row takes a
 * third less time.
 *
 * STORE_UPDATE: all were stored, at these tids.  The callback isn't called for
 * one that isn't there any more, in that version or a later one.  This saves
 * descending the index again, and the guard is called once for a row, not
 * twice.
 *
 * Locks: the rows written and those that won, until the end of the
 * transaction.
 */
void
docsync_store_write(text *collection, text *client_id,
					SentDocument **documents, int count, StoreWrite how,
					const Datum *tids, WrittenCallback callback,
					ReplaceCallback may_replace, void *arg)
{
	TaskFrame	frame;
	WrittenReceiver receiver = {callback, arg};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "docsync write",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	Datum	   *columns[4];
	bool	   *no_body = palloc(sizeof(bool) * count);
	Datum		args[7];
	int			lower_bound = 1;
	Statement  *statement = &statements[writes[how][count == 1]];

	for (int i = 0; i < 4; i++)
		columns[i] = palloc(sizeof(Datum) * count);

	for (int i = 0; i < count; i++)
	{
		SentDocument *sent = documents[i];

		columns[0][i] = PointerGetDatum(cstring_to_text_with_len(sent->id,
																 sent->id_len));
		columns[1][i] = Int64GetDatum(sent->client_version);
		columns[2][i] = BoolGetDatum(sent->deleted);
		columns[3][i] = JsonbPGetDatum(docsync_body_make(sent));
		no_body[i] = !sent->has_body;
	}

	args[0] = PointerGetDatum(collection);
	args[1] = PointerGetDatum(client_id);
	if (count == 1)
	{
		for (int i = 0; i < 4; i++)
			args[2 + i] = columns[i][0];
		if (how == STORE_UPDATE)
			args[6] = tids[0];
	}
	else
	{
		args[2] = PointerGetDatum(construct_array(columns[0], count, TEXTOID,
												  -1, false, TYPALIGN_INT));
		args[3] = PointerGetDatum(construct_array(columns[1], count, INT8OID,
												  sizeof(int64),
												  FLOAT8PASSBYVAL,
												  TYPALIGN_DOUBLE));
		args[4] = PointerGetDatum(construct_array(columns[2], count, BOOLOID,
												  1, true, TYPALIGN_CHAR));
		args[5] = PointerGetDatum(construct_md_array(columns[3], no_body, 1,
													 &count, &lower_bound,
													 JSONBOID, -1, false,
													 TYPALIGN_INT));
		if (how == STORE_UPDATE)
			args[6] = PointerGetDatum(construct_array(unconstify(Datum *, tids),
													  count, TIDOID,
													  sizeof(ItemPointerData),
													  false, TYPALIGN_SHORT));
	}
	MemoryContextSwitchTo(oldcontext);

	frame = docsync_task_enter(TASK_UPLOAD, may_replace, arg);
	PG_TRY();
	{
		docsync_statement_run(statement, args, receive_written, &receiver);
	}
	PG_FINALLY();
	{
		docsync_task_leave(&frame);
	}
	PG_END_TRY();

	MemoryContextDelete(context);
}

/*
 * Turns a document into a tombstone; returns false if the caller can't update
 * it.
 */
bool
docsync_store_bury(Datum collection, Datum id)
{
	Datum		args[] = {collection, id};

	return docsync_statement_run(&statements[STATEMENT_BURY], args, NULL,
								 NULL) > 0;
}

/*
 * Gives a document a new stamp, and changes nothing else.  Returns false if
 * there is none that the caller can update.
 *
 * Locks: the row, and the collection's mark, until the end of the transaction.
 */
bool
docsync_store_restamp(text *collection, Datum id)
{
	return rewrite(STATEMENT_RESTAMP, collection, id);
}

/*
 * Turns a document into a tombstone with a new stamp and the same version.
 * Its body isn't kept anywhere.
 *
 * Locks: as above.
 */
void
docsync_store_erase(text *collection, Datum id)
{
	rewrite(STATEMENT_ERASE, collection, id);
}

/*
 * Runs a statement that rewrites a document.  Returns false if there is none
 * that the caller can update.  The guard treats it as an upload that has been
 * judged.
 */
static bool
rewrite(DocumentStatement statement, text *collection, Datum id)
{
	Datum		args[] = {PointerGetDatum(collection), id};
	TaskFrame	frame;
	volatile bool rewritten = false;

	frame = docsync_task_enter(TASK_UPLOAD, may_rewrite, NULL);
	PG_TRY();
	{
		rewritten = docsync_statement_run(&statements[statement], args, NULL,
										  NULL) > 0;
	}
	PG_FINALLY();
	{
		docsync_task_leave(&frame);
	}
	PG_END_TRY();

	return rewritten;
}

/* ReplaceCallback: always permits it. */
static bool
may_rewrite(const StoredDocument *stored, void *arg)
{
	return true;
}

/*
 * RowCallback: passes a row of STORED_COLUMNS on as a document, which points
 * into it.
 */
static bool
receive_stored(TupleTableSlot *slot, void *arg)
{
	StoredReceiver *receiver = (StoredReceiver *) arg;
	Datum	   *values = slot->tts_values;
	StoredDocument stored = {
		.id = DatumGetTextPP(values[0]),
		.client_version = DatumGetInt64(values[1]),
		.client_id = DatumGetTextPP(values[2]),
		.last_update_utc = DatumGetTimestampTz(values[3]),
		.deleted = DatumGetBool(values[4]),
		.has_body = !slot->tts_isnull[5],
		.body = values[5],
		.fence = DatumGetFullTransactionId(values[6])
	};

	ItemPointerSetInvalid(&stored.tid);

	return receiver->callback == NULL || receiver->callback(&stored, receiver->arg);
}

/*
 * RowCallback: passes on a row of RETURNING, with what the guard has noted
 * about it.
 */
static bool
receive_written(TupleTableSlot *slot, void *arg)
{
	WrittenReceiver *receiver = (WrittenReceiver *) arg;
	Datum	   *values = slot->tts_values;
	WrittenDocument written = {
		.id = DatumGetTextPP(values[0]),
		.client_version = DatumGetInt64(values[1]),
		.last_update_utc = DatumGetTimestampTz(values[2]),
		.replaced = docsync_task_replaced(),
		.stored = docsync_task_written()
	};

	receiver->callback(&written, receiver->arg);
	return true;
}
