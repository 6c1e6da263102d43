/*-------------------------------------------------------------------------
 *
 * http.c
 *	  The functions for HTTP: JSON in, one JSON value out.
 *
 * They are made for PostgREST, and for any layer as thin.  Such a layer may
 * truncate a result of many rows at a limit of its own; it can't truncate a
 * single value.  The answer is written straight from the rows into the value
 * that is returned.
 *
 * Where it says RETURNS json below, the script has a domain over json: its
 * name tells PostgREST to pass the value on as it is.
 *
 * The arguments in a request's body are read by argument.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_sync);
PG_FUNCTION_INFO_V1(docsync_pull);
PG_FUNCTION_INFO_V1(docsync_docs);
PG_FUNCTION_INFO_V1(docsync_docs_sync);
PG_FUNCTION_INFO_V1(docsync_docs_query);

#define DEFAULT_MAX_DOCUMENTS	1000

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
	docsync_lexer_begin(&reader, VARDATA_ANY(documents),
						VARSIZE_ANY_EXHDR(documents), true);
	request.documents = docsync_batch_read(&reader, 0);
	docsync_reader_end(&reader);

	docsync_request_resolve(&request);
	return docsync_sync_run(&request);
}

/*
 * docsync_pull("clientId" text DEFAULT NULL, cursor text DEFAULT NULL,
 *				collection text DEFAULT NULL, origin text DEFAULT NULL,
 *				"maxDocuments" int DEFAULT 1000,
 *				reconcile bool DEFAULT false, state text DEFAULT NULL,
 *				tombstones bool DEFAULT true)
 * RETURNS json
 *
 * The download alone: for GET, a READ ONLY transaction, a standby.  If no
 * origin is given, it is other, or any if there is no clientId.
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

	return docsync_sync_run(&request);
}

/*
 * docsync_docs_sync(bytea) RETURNS json
 *
 * docsync_sync() with its arguments as the keys of one object, the request's
 * body; or, with "collections", a sync of several at once.  This is for a
 * proxy to call: when PostgREST itself turns a body into arguments, it
 * silently takes only the first of an array of objects.
 */
Datum
docsync_docs_sync(PG_FUNCTION_ARGS)
{
	static const char *const keys[] = {
		"clientId", "documents", "cursor", "collection", "origin",
		"maxDocuments", "reconcile", "state", "tombstones", "atomic",
		"collections", NULL
	};
	Request		request = {
		.origin = cstring_to_text("other"),
		.max_documents = DEFAULT_MAX_DOCUMENTS,
		.may_write = true
	};

	docsync_argument_read(fcinfo, &request, keys);
	docsync_url_read(&request, keys);
	if (request.collections != NULL)
		return docsync_collections_run(&request);

	docsync_request_resolve(&request);
	return docsync_sync_run(&request);
}

/*
 * docsync_docs(bytea) RETURNS json
 *
 * The protocol's POST /Docs: an array of documents, or {"clientId",
 * "documents", "collection", "atomic"}.  The query string (url.c) takes
 * precedence over the body, here and elsewhere.
 */
Datum
docsync_docs(PG_FUNCTION_ARGS)
{
	static const char *const keys[] = {
		"documents", "clientId", "collection", "atomic", NULL
	};
	Request		request = {0};
	Sync		sync = {.request = &request};
	Exchange	exchange = {0};
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
	sync.upload = docsync_upsert_apply(request.client_id, request.collection,
									   request.documents, !request.not_atomic);
	docsync_sync_append_upload(&buf, sync.upload);
	appendStringInfoChar(&buf, '}');
	docsync_sync_add_exchange(&exchange, &sync);
	return docsync_answer_end(&buf, NULL, &exchange);
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
	Sync		sync = {.request = &request,.download.position.stamp = DT_NOBEGIN};
	Download   *download = &sync.download;
	Exchange	exchange = {0};

	docsync_url_read(&request, keys);
	if (request.since_utc != NULL &&
		!docsync_utc_parse(text_to_cstring(request.since_utc),
						   &download->position.stamp))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"sinceUtc\" is not an ISO 8601 time"),
				 errhint("Send back the LastUpdateUtc that was received, such as 2026-11-22T10:11:12.123456Z.")));

	docsync_request_resolve(&request);
	download->client_id = request.client_id;
	download->collection = request.collection;
	download->origin = docsync_query_parse_origin(request.origin);
	download->max_documents = request.max_documents;
	if (download->origin != ORIGIN_ANY)
		docsync_request_need_client_id(&request);
	docsync_query_check(download);

	docsync_query_begin(download, STORE_READ);
	docsync_answer_begin(&buf);
	docsync_sync_begin_documents(&sync, &buf, docsync_max_page_size);
	docsync_query_run(download);
	appendStringInfoChar(&buf, ']');
	docsync_query_end();
	docsync_sync_add_exchange(&exchange, &sync);
	return docsync_answer_end(&buf, NULL, &exchange);
}
