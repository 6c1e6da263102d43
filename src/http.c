/*-------------------------------------------------------------------------
 *
 * http.c
 *	  The functions for HTTP: JSON in, one JSON value out.
 *
 * They are made for PostgREST, and for any layer as thin.  Such a layer may cut
 * a result of many rows to a limit of its own; it can't cut one value.  The
 * answer is written straight from the rows into the value that is returned.
 *
 * RETURNS json, as it stands below, is a domain over json in the script: by its
 * name PostgREST knows that it shall pass the value on as it is.
 *
 * What a request asks for is read by argument.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_sync);
PG_FUNCTION_INFO_V1(docsync_pull);
PG_FUNCTION_INFO_V1(docsync_docs);
PG_FUNCTION_INFO_V1(docsync_docs_sync);
PG_FUNCTION_INFO_V1(docsync_docs_query);

#define DEFAULT_MAX_DOCUMENTS	1000

/* An array of documents being written */
typedef struct DocumentPage
{
	StringInfo	buf;
	int			start;			/* of the array, in bytes */
	int			count;
} DocumentPage;

static Datum synchronize(Request *request);
static char *make_tag(const Position *position);
static bool has_nothing_new(const Request *request, const Download *download);
static void append_upload(StringInfo buf, Request *request);
static void append_download(StringInfo buf, Download *download);
static bool put_document(const StoredDocument *stored, void *arg);
static void append_position(StringInfo buf, const Request *request,
							const Download *download);
static void append_stamp(StringInfo buf, TimestampTz stamp);

/*
 * docsync_sync("clientId" text DEFAULT NULL, documents json DEFAULT '[]',
 *				cursor text DEFAULT NULL, collection text DEFAULT NULL,
 *				origin text DEFAULT 'other', "maxDocuments" int DEFAULT 1000,
 *				reconcile bool DEFAULT false, state text DEFAULT NULL,
 *				tombstones bool DEFAULT true, atomic bool DEFAULT true)
 * RETURNS json
 *
 * Upload, then download, in one round trip.  The download sees the upload.
 */
Datum
docsync_sync(PG_FUNCTION_ARGS)
{
	text	   *documents;
	JsonReader	reader;
	Request		request = {
		.client_id = docsync_request_get_text(fcinfo, 0),
		.cursor = docsync_request_get_text(fcinfo, 2),
		.collection = docsync_request_get_text(fcinfo, 3),
		.origin = docsync_request_get_text(fcinfo, 4),
		.max_documents = docsync_request_get_max(fcinfo, 5),
		.reconcile = docsync_request_get_bool(fcinfo, 6, false),
		.state = docsync_request_get_text(fcinfo, 7),
		.no_tombstones = !docsync_request_get_bool(fcinfo, 8, true),
		.not_atomic = !docsync_request_get_bool(fcinfo, 9, true),
		.may_write = true
	};

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("documents is null"),
				 errhint("Send an array of documents, or leave it out.")));

	documents = PG_GETARG_TEXT_PP(1);
	docsync_reader_begin(&reader, VARDATA_ANY(documents),
						 VARSIZE_ANY_EXHDR(documents), true);
	request.documents = docsync_batch_read(&reader);
	docsync_reader_end(&reader);

	docsync_request_resolve(&request);
	return synchronize(&request);
}

/*
 * docsync_pull("clientId" text DEFAULT NULL, cursor text DEFAULT NULL,
 *				collection text DEFAULT NULL, origin text DEFAULT NULL,
 *				"maxDocuments" int DEFAULT 1000,
 *				reconcile bool DEFAULT false, state text DEFAULT NULL,
 *				tombstones bool DEFAULT true)
 * RETURNS json
 *
 * The download alone: for GET, a READ ONLY transaction, a standby.  The
 * origin is other unless one is given, and any if there is no clientId.
 */
Datum
docsync_pull(PG_FUNCTION_ARGS)
{
	static const char *const keys[] = {
		"clientId", "cursor", "collection", "origin", "maxDocuments",
		"reconcile", "state", "tombstones", NULL
	};
	Request		request = {
		.client_id = docsync_request_get_text(fcinfo, 0),
		.cursor = docsync_request_get_text(fcinfo, 1),
		.collection = docsync_request_get_text(fcinfo, 2),
		.origin = docsync_request_get_text(fcinfo, 3),
		.max_documents = docsync_request_get_max(fcinfo, 4),
		.reconcile = docsync_request_get_bool(fcinfo, 5, false),
		.state = docsync_request_get_text(fcinfo, 6),
		.no_tombstones = !docsync_request_get_bool(fcinfo, 7, true)
	};

	docsync_url_read(&request, keys);
	docsync_request_resolve(&request);
	if (request.origin == NULL)
		request.origin = cstring_to_text(request.client_id != NULL ?
										 "other" : "any");

	return synchronize(&request);
}

/*
 * docsync_docs_sync(bytea) RETURNS json
 *
 * docsync_sync() with its arguments as the keys of one object, the request's
 * body.  For a proxy to call: PostgREST, when it makes arguments of a body
 * itself, takes only the first of an array of objects, in silence.
 */
Datum
docsync_docs_sync(PG_FUNCTION_ARGS)
{
	static const char *const keys[] = {
		"clientId", "documents", "cursor", "collection", "origin",
		"maxDocuments", "reconcile", "state", "tombstones", "atomic", NULL
	};
	Request		request = {
		.origin = cstring_to_text("other"),
		.max_documents = DEFAULT_MAX_DOCUMENTS,
		.may_write = true
	};

	docsync_argument_read(fcinfo, &request, keys);
	docsync_url_read(&request, keys);
	docsync_request_resolve(&request);
	return synchronize(&request);
}

/*
 * docsync_docs(bytea) RETURNS json
 *
 * The protocol's POST /Docs: an array of documents, or
 * {"clientId", "documents", "collection", "atomic"}.  What
 * the query string has (url.c) counts before what the body has, here and below.
 */
Datum
docsync_docs(PG_FUNCTION_ARGS)
{
	static const char *const keys[] = {
		"documents", "clientId", "collection", "atomic", NULL
	};
	Request		request = {0};
	StringInfoData buf;

	docsync_argument_read(fcinfo, &request, keys);
	if (request.documents == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"documents\": missing"),
				 errhint("Send an array of documents, or {\"clientId\": text, \"documents\": array}.")));

	docsync_url_read(&request, keys);
	docsync_request_resolve(&request);
	docsync_request_need_client_id(&request);

	docsync_answer_begin(&buf);
	appendStringInfoChar(&buf, '{');
	append_upload(&buf, &request);
	appendStringInfoChar(&buf, '}');
	return docsync_answer_end(&buf, NULL);
}

/*
 * docsync_docs_query(origin text DEFAULT 'other',
 *					  "sinceUtc" text DEFAULT NULL,
 *					  "clientId" text DEFAULT NULL,
 *					  collection text DEFAULT NULL,
 *					  "maxDocuments" int DEFAULT NULL)
 * RETURNS json
 *
 * The protocol's POST /Docs/Query: the plain array of documents.
 */
Datum
docsync_docs_query(PG_FUNCTION_ARGS)
{
	static const char *const keys[] = {
		"origin", "sinceUtc", "clientId", "collection", "maxDocuments", NULL
	};
	Request		request = {
		.origin = docsync_request_get_text(fcinfo, 0),
		.since_utc = docsync_request_get_text(fcinfo, 1),
		.client_id = docsync_request_get_text(fcinfo, 2),
		.collection = docsync_request_get_text(fcinfo, 3),
		.max_documents = docsync_request_get_max(fcinfo, 4)
	};
	StringInfoData buf;
	Download	download = {.position.stamp = DT_NOBEGIN};

	docsync_url_read(&request, keys);
	if (request.since_utc != NULL &&
		!docsync_cursor_parse_utc(text_to_cstring(request.since_utc),
								  &download.position.stamp))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"sinceUtc\" is not an ISO 8601 time"),
				 errhint("Send back the LastUpdateUtc received, such as 2026-11-22T10:11:12.123456Z.")));

	docsync_request_resolve(&request);
	download.client_id = request.client_id;
	download.collection = request.collection;
	download.origin = docsync_query_parse_origin(request.origin);
	download.max_documents = request.max_documents;
	if (download.origin != ORIGIN_ANY)
		docsync_request_need_client_id(&request);
	docsync_query_check(&download);

	docsync_query_begin(&download, STORE_READ);
	docsync_answer_begin(&buf);
	append_download(&buf, &download);
	docsync_query_end();
	return docsync_answer_end(&buf, NULL);
}

/*
 * Upload, if there are documents, and download.
 */
static Datum
synchronize(Request *request)
{
	StringInfoData buf;
	Download	download = {
		.client_id = request->client_id,
		.collection = request->collection,
		.origin = docsync_query_parse_origin(request->origin),
		.by_cursor = true,
		.reconcile = request->reconcile,
		.no_tombstones = request->no_tombstones,
		.max_documents = request->max_documents
	};
	Download	before = {0};	/* as it was judged before the upload */
	char	   *tag = NULL;
	bool		may_write = request->may_write && !XactReadOnly &&
	!RecoveryInProgress();

	if (request->documents != NULL || download.origin != ORIGIN_ANY)
		docsync_request_need_client_id(request);
	docsync_query_check(&download);
	download.position = docsync_request_parse_cursor(request, download.origin);

	if (may_write)
	{
		docsync_schema_open(STORE_WRITE);
		docsync_history_notice();
	}

	docsync_answer_begin(&buf);
	appendStringInfoChar(&buf, '{');
	if (request->documents != NULL)
	{
		/* Who can't go on is refused before the upload moves the clock. */
		docsync_query_begin(&download, STORE_WRITE);
		docsync_query_end();
		before = download;
		append_upload(&buf, request);
		CommandCounterIncrement();
	}
	else
		appendStringInfoString(&buf, "\"received\":0,\"results\":[]");

	/* A snapshot that sees the upload, and what others did before it */
	docsync_query_begin(&download, STORE_READ);
	if (before.must_reconcile && !download.must_reconcile && !download.is_behind)
	{
		/* The upload has moved the clock past a cursor that was above it. */
		download.must_reconcile = true;
		download.lost_after = before.lost_after;
		download.since = before.since;
		download.next.seen = before.next.seen;
	}
	appendStringInfoString(&buf, ",\"documents\":");
	append_download(&buf, &download);
	append_position(&buf, request, &download);
	if (request->state != NULL && !download.more && !download.is_behind)
	{
		appendStringInfoString(&buf, ",\"state\":");
		docsync_state_append(&buf, &download, text_to_cstring(request->state));
	}
	docsync_query_end();

	appendStringInfoString(&buf, ",\"serverUtc\":");
	docsync_json_append_stamp(&buf, GetCurrentTimestamp());
	appendStringInfoChar(&buf, '}');

	if (!request->may_write && !download.is_behind && !download.must_reconcile)
		tag = make_tag(&download.next);
	if (tag != NULL && has_nothing_new(request, &download) &&
		docsync_answer_is_had(tag))
		return docsync_answer_end_unchanged(&buf, tag);
	return docsync_answer_end(&buf, tag);
}

/*
 * The entity tag of a download: where it has come to.  It is weak, since the
 * answer has the time in it, too.
 */
static char *
make_tag(const Position *position)
{
	return psprintf("W/\"%" INT64_MODIFIER "x." INT64_FORMAT ".%x\"",
					position->epoch, position->stamp, position->binding);
}

/*
 * Would the client be given the cursor that it has?  Then it has passed nothing,
 * its own documents neither, and keeps it.
 */
static bool
has_nothing_new(const Request *request, const Download *download)
{
	char		cursor[DOCSYNC_CURSOR_LEN];
	int			len = docsync_cursor_format(&download->next, cursor);

	return request->cursor != NULL && request->state == NULL &&
		!download->more &&
		len == (int) VARSIZE_ANY_EXHDR(request->cursor) &&
		memcmp(VARDATA_ANY(request->cursor), cursor, len) == 0;
}

/*
 * "cursor", "more", and what else is to be said of the position
 */
static void
append_position(StringInfo buf, const Request *request,
				const Download *download)
{
	char		cursor[DOCSYNC_CURSOR_LEN];

	appendStringInfoString(buf, ",\"cursor\":");
	if (download->is_behind)
		docsync_json_append_string(buf, VARDATA_ANY(request->cursor),
								   VARSIZE_ANY_EXHDR(request->cursor));
	else
	{
		int			len = docsync_cursor_format(&download->next, cursor);

		appendStringInfoChar(buf, '"');
		appendBinaryStringInfo(buf, cursor, len);
		appendStringInfoChar(buf, '"');
	}
	appendStringInfoString(buf, download->more ? ",\"more\":true" : ",\"more\":false");

	if (download->is_behind)
		appendStringInfoString(buf, ",\"behind\":true");
	else if (download->must_reconcile)
	{
		appendStringInfoString(buf, ",\"reconcile\":true,\"lostAfter\":");
		append_stamp(buf, download->lost_after);
	}
}

/*
 * A stamp, "-infinity" for DT_NOBEGIN, null for DT_NOEND
 */
static void
append_stamp(StringInfo buf, TimestampTz stamp)
{
	if (TIMESTAMP_IS_NOBEGIN(stamp))
		appendStringInfoString(buf, "\"-infinity\"");
	else if (TIMESTAMP_IS_NOEND(stamp))
		appendStringInfoString(buf, "null");
	else
		docsync_json_append_stamp(buf, stamp);
}

/*
 * "received": n, "results": [{"id", "outcome", "clientVersion",
 * "LastUpdateUtc", "winner", and "winnerOmitted" or "error"}]
 */
static void
append_upload(StringInfo buf, Request *request)
{
	Upload	   *upload = docsync_upsert_apply(request->client_id,
											  request->collection,
											  request->documents,
											  !request->not_atomic);

	appendStringInfo(buf, "\"received\":%d,\"results\":[",
					 docsync_upsert_count(upload));
	for (int i = 0; i < docsync_upsert_count(upload); i++)
	{
		UploadResult result = docsync_upsert_result(upload, i);

		CHECK_FOR_INTERRUPTS();

		appendStringInfoString(buf, i == 0 ? "{\"id\":" : ",{\"id\":");
		if (result.sent->id != NULL)
			docsync_json_append_string(buf, result.sent->id,
									   result.sent->id_len);
		else
			appendStringInfoString(buf, "null");
		appendStringInfo(buf, ",\"outcome\":\"%s\"",
						 docsync_rule_name(result.outcome));
		if (result.exists)
		{
			appendStringInfo(buf, ",\"clientVersion\":" INT64_FORMAT ",\"LastUpdateUtc\":",
							 result.client_version);
			docsync_json_append_stamp(buf, result.last_update_utc);
		}
		else
			appendStringInfoString(buf, ",\"clientVersion\":null,\"LastUpdateUtc\":null");
		appendStringInfoString(buf, ",\"winner\":");
		if (result.winner == NULL)
			appendStringInfoString(buf, "null");
		else
			docsync_json_append_jsonb(buf, result.winner);
		if (result.winner_omitted)
			appendStringInfoString(buf, ",\"winnerOmitted\":true");
		if (result.refusal != NULL)
		{
			appendStringInfoString(buf, ",\"error\":");
			docsync_refuse_append(buf, result.refusal);
		}
		appendStringInfoChar(buf, '}');
	}
	appendStringInfoChar(buf, ']');
}

/*
 * The array of documents
 */
static void
append_download(StringInfo buf, Download *download)
{
	DocumentPage page = {
		.buf = buf,
		.start = buf->len
	};

	download->put = put_document;
	download->arg = &page;

	appendStringInfoChar(buf, '[');
	docsync_query_run(download);
	appendStringInfoChar(buf, ']');
}

static bool
put_document(const StoredDocument *stored, void *arg)
{
	DocumentPage *page = (DocumentPage *) arg;

	if (page->count++ > 0)
		appendStringInfoChar(page->buf, ',');
	docsync_json_append_document(page->buf, stored);

	return page->buf->len - page->start < docsync_max_page_size;
}
