/*-------------------------------------------------------------------------
 *
 * reconcile.c
 *	  What a client compares with what it has: sums, a list, documents by id.
 *
 * A client that may have missed something, or may have what the store has lost,
 * finds out which documents differ.  First by a sum over all, which comes with
 * the page that reached the end; if that differs, by the list of the buckets
 * that do; then it fetches what it lacks and sends again what the store lacks.
 * The rules are the client's (doc/stamps.md, "Comparing").
 *
 * All that is answered here is what the caller may see.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/rls.h"
#include "utils/timestamp.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_docs_reconcile);
PG_FUNCTION_INFO_V1(docsync_docs_get);

/* Rows looked at for a page of the list, unless the client says otherwise */
#define LIST_DOCUMENTS		10000

/* Collections that are summed up at the same time, in all sessions together */
#define STATE_SESSIONS		2

/*
 * Sums that can be given again: those of a collection up to a stamp, where
 * nothing unsettled is visible, don't change but by documents that bring a stamp
 * of their own, hence the age.
 */
#define STATE_CACHED		8
#define STATE_AGE			USECS_PER_MINUTE

typedef struct CachedState
{
	TimestampTz made;			/* 0: none */
	uint64		epoch;
	TimestampTz last;
	int			collection_len; /* bytes */
	char		collection[DOCSYNC_COLLECTION_LEN];
	Digest		digest;
} CachedState;

static CachedState cache[STATE_CACHED];
static int	cache_next = 0;

typedef struct Listing
{
	StringInfo	buf;
	bool		wanted[DIGEST_BUCKETS];
	int			max_looked_at;
	int			looked_at;
	int			count;
	text	   *last;			/* the id looked at last */
	bool		more;
} Listing;

typedef struct Documents
{
	StringInfo	buf;
	int			start;			/* of the array, in bytes */
	int			count;
	bool		is_full;
	bool		more;
} Documents;

static StoreStatement sum_up = {
	"SELECT id, client_version, last_update_utc FROM docsync.document"
	" WHERE collection OPERATOR(pg_catalog.=) $1 AND NOT deleted",
	1, {TEXTOID}, STATEMENT_READ_ONLY, NULL
};

static StoreStatement list = {
	"SELECT id, client_version, client_id, last_update_utc, deleted"
	"  FROM docsync.document"
	" WHERE collection OPERATOR(pg_catalog.=) $1"
	"   AND id OPERATOR(pg_catalog.>) $2"
	" ORDER BY id",
	2, {TEXTOID, TEXTOID}, STATEMENT_READ_ONLY | STATEMENT_PINNED, NULL
};

static bool find_cached(const Download *download, Digest *digest);
static void keep_cached(const Download *download, const Digest *digest);
static bool lock_state(LOCKTAG *tag);
static bool add_to_digest(TupleTableSlot *slot, void *arg);
static void begin(Request *request, Download *download);
static bool put_listed(TupleTableSlot *slot, void *arg);
static bool put_document(const StoredDocument *stored, void *arg);
static void append_end(StringInfo buf);

/*
 * docsync_docs_reconcile(bytea) RETURNS json
 *
 * The list of a collection, in the order of ids, without bodies.  On a standby,
 * which may lack what the client is about to send again, it is always "behind".
 */
Datum
docsync_docs_reconcile(PG_FUNCTION_ARGS)
{
	static const char *const keys[] = {
		"clientId", "collection", "cursor", "origin", "buckets", "after",
		"maxDocuments", NULL
	};
	Request		request = {.max_documents = LIST_DOCUMENTS};
	Download	download = {0};
	Listing		page = {0};
	StringInfoData buf;
	Datum		args[2];

	docsync_request_read(fcinfo, &request, keys);
	if (request.buckets != NULL)
		memcpy(page.wanted, request.buckets, sizeof(page.wanted));
	else
		memset(page.wanted, true, sizeof(page.wanted));
	begin(&request, &download);

	docsync_request_begin_answer(&buf);
	page.buf = &buf;
	page.max_looked_at = request.max_documents;
	page.last = request.after;

	appendStringInfoString(&buf, "{\"rows\":[");
	if (RecoveryInProgress())
	{
		docsync_schema_check_caller(ACL_SELECT);
		download.is_behind = true;
	}
	if (download.is_behind)
		page.more = true;
	else
	{
		args[0] = PointerGetDatum(request.collection);
		args[1] = PointerGetDatum(request.after != NULL ? request.after :
								  cstring_to_text(""));
		docsync_store_execute(&list, args, put_listed, &page);
	}

	appendStringInfoString(&buf, "],\"after\":");
	if (page.last != NULL && page.more)
		docsync_json_append_string(&buf, VARDATA_ANY(page.last),
								   VARSIZE_ANY_EXHDR(page.last));
	else
		appendStringInfoString(&buf, "null");
	appendStringInfoString(&buf, page.more ? ",\"more\":true" : ",\"more\":false");
	if (download.is_behind)
		appendStringInfoString(&buf, ",\"behind\":true");

	/* Who sees nothing of a collection isn't told that there is one. */
	appendStringInfoString(&buf, ",\"purgedThrough\":");
	if (!download.is_behind && !TIMESTAMP_IS_NOBEGIN(download.horizon.all) &&
		(page.looked_at > 0 || docsync_store_sees_any(request.collection)))
		docsync_json_append_stamp(&buf, download.horizon.all);
	else
		appendStringInfoString(&buf, "null");

	append_end(&buf);
	return docsync_request_end_answer(&buf);
}

/*
 * docsync_docs_get(bytea) RETURNS json
 *
 * Documents by id, in the order of the ids sent.
 */
Datum
docsync_docs_get(PG_FUNCTION_ARGS)
{
	static const char *const keys[] = {
		"clientId", "collection", "cursor", "origin", "ids", NULL
	};
	Request		request = {0};
	Download	download = {0};
	Documents	page = {0};
	StringInfoData buf;

	docsync_request_read(fcinfo, &request, keys);
	if (request.ids == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"ids\" is not an array"),
				 errhint("Give the ids of the documents.")));
	begin(&request, &download);

	docsync_request_begin_answer(&buf);
	appendStringInfoString(&buf, "{\"documents\":[");
	page.buf = &buf;
	page.start = buf.len;
	page.more = download.is_behind;
	if (request.nids == 0)
		docsync_schema_check_caller(ACL_SELECT);
	else if (!download.is_behind)
		docsync_store_get(request.collection, request.ids, request.nids,
						  put_document, &page);
	appendStringInfoString(&buf, page.more ? "],\"more\":true" : "],\"more\":false");
	if (download.is_behind)
		appendStringInfoString(&buf, ",\"behind\":true");
	append_end(&buf);
	return docsync_request_end_answer(&buf);
}

/*
 * {"count", "digest", "sums"} of the live documents that the caller sees under
 * the snapshot of a download that has reached the end; null where that can't be
 * had: something visible isn't settled yet, or others are at it.  A client that
 * has told its own digest doesn't need the sums if that is the same.
 */
void
docsync_reconcile_append_state(StringInfo buf, const Download *download,
							   const char *own)
{
	char text[	DOCSYNC_DIGEST_LEN];
	Digest	   *digest = palloc0(sizeof(Digest));
	DigestSum	total;

	if (download->is_held || !find_cached(download, digest))
	{
		LOCKTAG		tag;
		Datum		args[] = {PointerGetDatum(download->collection)};

		if (download->is_held || !lock_state(&tag))
		{
			appendStringInfoString(buf, "null");
			return;
		}
		docsync_store_execute(&sum_up, args, add_to_digest, digest);
		LockRelease(&tag, ExclusiveLock, false);
		keep_cached(download, digest);
	}

	total = docsync_digest_total(digest);
	snprintf(text, sizeof(text), "%08x%08x", total.high, total.low);
	appendStringInfo(buf, "{\"count\":" INT64_FORMAT ",\"digest\":\"%s\"",
					 digest->count, text);
	if (strcmp(text, own) == 0)
	{
		appendStringInfoChar(buf, '}');
		return;
	}

	appendStringInfoString(buf, ",\"sums\":[");
	for (int i = 0; i < DIGEST_BUCKETS; i++)
		appendStringInfo(buf, i == 0 ? "\"%08x%08x\"" : ",\"%08x%08x\"",
						 digest->sums[i].high, digest->sums[i].low);
	appendStringInfoString(buf, "]}");
}

static bool
find_cached(const Download *download, Digest *digest)
{
	const text *collection = download->collection;

	if (check_enable_rls(docsync_schema_open(STORE_READ)->relations[STORE_DOCUMENT],
						 InvalidOid, true) == RLS_ENABLED)
		return false;

	for (int i = 0; i < STATE_CACHED; i++)
	{
		const CachedState *cached = &cache[i];

		if (cached->made != 0 &&
			cached->made > GetCurrentTimestamp() - STATE_AGE &&
			cached->epoch == docsync_history_epoch(download->history) &&
			cached->last == download->last &&
			cached->collection_len == (int) VARSIZE_ANY_EXHDR(collection) &&
			memcmp(cached->collection, VARDATA_ANY(collection),
				   cached->collection_len) == 0)
		{
			*digest = cached->digest;
			return true;
		}
	}
	return false;
}

static void
keep_cached(const Download *download, const Digest *digest)
{
	CachedState *cached = &cache[cache_next];

	/* What this transaction has written may never have been. */
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return;
	if (check_enable_rls(docsync_schema_open(STORE_READ)->relations[STORE_DOCUMENT],
						 InvalidOid, true) == RLS_ENABLED)
		return;

	cached->made = GetCurrentTimestamp();
	cached->epoch = docsync_history_epoch(download->history);
	cached->last = download->last;
	cached->collection_len = VARSIZE_ANY_EXHDR(download->collection);
	memcpy(cached->collection, VARDATA_ANY(download->collection),
		   cached->collection_len);
	cached->digest = *digest;
	cache_next = (cache_next + 1) % STATE_CACHED;
}

static bool
lock_state(LOCKTAG *tag)
{
	for (int i = 0; i < STATE_SESSIONS; i++)
	{
		SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, i, 0, DOCSYNC_LOCK_STATE);
		if (LockAcquire(tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL)
			return true;
	}
	return false;
}

static bool
add_to_digest(TupleTableSlot *slot, void *arg)
{
	docsync_digest_add((Digest *) arg, DatumGetTextPP(slot->tts_values[0]),
					   DatumGetInt64(slot->tts_values[1]),
					   DatumGetTimestampTz(slot->tts_values[2]));
	return true;
}

/*
 * Opens the store under a snapshot that is as new as the client's cursor, or
 * finds that this server is behind.
 */
static void
begin(Request *request, Download *download)
{
	docsync_request_resolve(request);
	download->client_id = request->client_id;
	download->collection = request->collection;
	download->origin = request->origin != NULL ?
		docsync_query_parse_origin(request->origin) :
		request->client_id != NULL ? ORIGIN_OTHER : ORIGIN_ANY;
	download->by_cursor = true;
	download->reconcile = true;
	if (request->client_id != NULL || download->origin != ORIGIN_ANY)
		docsync_request_need_client_id(request);
	docsync_query_check(download);
	download->position = docsync_request_parse_cursor(request, download->origin);
	docsync_query_begin(download, STORE_READ);
}

static bool
put_listed(TupleTableSlot *slot, void *arg)
{
	Listing    *page = (Listing *) arg;
	Datum	   *values = slot->tts_values;
	text	   *id = DatumGetTextPP(values[0]);

	if (page->looked_at == page->max_looked_at)
	{
		page->more = true;
		return false;
	}
	page->looked_at++;
	page->last = DatumGetTextPCopy(values[0]);

	if (page->wanted[docsync_digest_bucket(id)])
	{
		text	   *client_id = DatumGetTextPP(values[2]);

		appendStringInfoString(page->buf, page->count++ == 0 ? "{\"id\":" : ",{\"id\":");
		docsync_json_append_string(page->buf, VARDATA_ANY(id),
								   VARSIZE_ANY_EXHDR(id));
		appendStringInfo(page->buf, ",\"clientVersion\":" INT64_FORMAT ",\"LastUpdateUtc\":",
						 DatumGetInt64(values[1]));
		docsync_json_append_stamp(page->buf, DatumGetTimestampTz(values[3]));
		appendStringInfoString(page->buf, ",\"clientId\":");
		docsync_json_append_string(page->buf, VARDATA_ANY(client_id),
								   VARSIZE_ANY_EXHDR(client_id));
		appendStringInfoString(page->buf, DatumGetBool(values[4]) ?
							   ",\"deleted\":true}" : ",\"deleted\":false}");
	}
	return true;
}

/*
 * StoredCallback: ends when the answer is full, but not before the first.
 */
static bool
put_document(const StoredDocument *stored, void *arg)
{
	Documents  *page = (Documents *) arg;

	if (page->is_full)
	{
		page->more = true;
		return false;
	}
	if (page->count++ > 0)
		appendStringInfoChar(page->buf, ',');
	docsync_json_append_document(page->buf, stored);
	page->is_full = page->buf->len - page->start >= docsync_max_page_size;
	return true;
}

static void
append_end(StringInfo buf)
{
	docsync_query_end();
	appendStringInfoString(buf, ",\"serverUtc\":");
	docsync_json_append_stamp(buf, GetCurrentTimestamp());
	appendStringInfoChar(buf, '}');
}
