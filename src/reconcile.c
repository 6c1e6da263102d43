/*-------------------------------------------------------------------------
 *
 * reconcile.c
 *	  What a client needs in order to compare: a list, and documents by id.
 *
 * A client that may have missed something, or may have what the store has
 * lost, finds out which documents differ: first by a sum over all, which comes
 * with the page that reached the end (state.c), and if that differs, by the
 * list of the buckets that do.  Then it fetches what it lacks, and sends again
 * what the store lacks.  The rules are up to the client (doc/stamps.md,
 * "Comparing").
 *
 * All answers contain only what the caller may see.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_docs_reconcile);
PG_FUNCTION_INFO_V1(docsync_docs_get);

/* Rows looked at for a page of the list, unless the client asks otherwise */
#define LIST_DOCUMENTS		10000

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
	const SettleScan *settle;
	int			start;			/* of the array, in bytes */
	int			count;
	bool		is_full;
	bool		more;
} Documents;

static Statement list = {
	"SELECT id, client_version, client_id, last_update_utc, deleted"
	"  FROM docsync.document"
	" WHERE collection OPERATOR(pg_catalog.=) $1"
	"   AND id OPERATOR(pg_catalog.>) $2"
	" ORDER BY id",
	2, {TEXTOID, TEXTOID}, STATEMENT_READ_ONLY | STATEMENT_PINNED, NULL
};

static void begin(Request *request, Download *download);
static bool put_listed(TupleTableSlot *slot, void *arg);
static bool put_document(const StoredDocument *stored, void *arg);
static Datum end(StringInfo buf, const Request *request, int documents,
				 bool more);

/*
 * docsync_docs_reconcile(bytea) RETURNS json
 *
 * The list of a collection, in the order of ids, without bodies.  A standby is
 * always "behind", since it may lack what the client is about to send again.
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

	docsync_argument_read(fcinfo, &request, keys);
	docsync_url_read(&request, keys);
	if (request.buckets != NULL)
		memcpy(page.wanted, request.buckets, sizeof(page.wanted));
	else
		memset(page.wanted, true, sizeof(page.wanted));
	begin(&request, &download);

	docsync_answer_begin(&buf);
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
		docsync_statement_run(&list, args, put_listed, &page);
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

	/* A caller who sees nothing of a collection isn't told that it exists. */
	appendStringInfoString(&buf, ",\"purgedThrough\":");
	if (!download.is_behind &&
		!TIMESTAMP_IS_NOBEGIN(docsync_position_horizon(&download)->all) &&
		(page.looked_at > 0 || docsync_store_sees_any(request.collection)))
		docsync_json_append_stamp(&buf, docsync_position_horizon(&download)->all);
	else
		appendStringInfoString(&buf, "null");

	return end(&buf, &request, page.count, page.more);
}

/*
 * docsync_docs_get(bytea) RETURNS json
 *
 * Documents by id, in the order of the ids sent.  Documents that a download
 * wouldn't give yet have "settled": false.
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

	docsync_argument_read(fcinfo, &request, keys);
	docsync_url_read(&request, keys);
	if (request.ids == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"ids\" is not an array"),
				 errhint("Give the ids of the documents.")));
	begin(&request, &download);

	docsync_answer_begin(&buf);
	appendStringInfoString(&buf, "{\"documents\":[");
	page.buf = &buf;
	page.settle = &download.settle;
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
	return end(&buf, &request, page.count, page.more);
}

/*
 * Opens the store under a snapshot that is at least as new as the client's
 * cursor, or finds that this server is behind.
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

/*
 * RowCallback: appends a row, if its bucket is wanted.  Ends the scan when
 * enough have been looked at.
 */
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
 * StoredCallback: appends a document.  Ends the scan when the answer is full,
 * but never before the first document.
 */
static bool
put_document(const StoredDocument *stored, void *arg)
{
	Documents  *page = (Documents *) arg;
	SettleScan	settle = *page->settle; /* a fresh copy: documents don't come
										 * in the order of stamps here */

	if (page->is_full)
	{
		page->more = true;
		return false;
	}
	if (page->count++ > 0)
		appendStringInfoChar(page->buf, ',');
	docsync_json_append_document(page->buf, stored);
	if (!docsync_settle_test(&settle, stored->last_update_utc, stored->fence))
	{
		/* Before the closing brace */
		page->buf->len--;
		appendStringInfoString(page->buf, ",\"settled\":false}");
	}
	page->is_full = page->buf->len - page->start >= docsync_max_page_size;
	return true;
}

/*
 * Ends what begin() began, and the answer.  documents is how many it has.
 */
static Datum
end(StringInfo buf, const Request *request, int documents, bool more)
{
	Exchange	exchange = {
		.collections = 1,
		.collection = request->collection,
		.client_id = request->client_id,
		.documents = documents,
		.more = more
	};

	docsync_query_end();
	appendStringInfoString(buf, ",\"serverUtc\":");
	docsync_json_append_stamp(buf, GetCurrentTimestamp());
	appendStringInfoChar(buf, '}');
	return docsync_answer_end(buf, NULL, &exchange);
}
