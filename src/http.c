/*-------------------------------------------------------------------------
 *
 * http.c
 *	  The functions for HTTP: JSON in, one JSON value out.
 *
 * They are made for PostgREST, and for any layer as thin.  Such a layer may cut
 * a result of many rows to a limit of its own; it can't cut one value.  The
 * answer is written straight from the rows into the value that is returned.
 *
 * What PostgREST says of a request it says in settings: request.method,
 * request.headers, request.jwt.claims.  Where there are none, arguments
 * alone count.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "access/xact.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_sync);
PG_FUNCTION_INFO_V1(docsync_pull);
PG_FUNCTION_INFO_V1(docsync_docs);
PG_FUNCTION_INFO_V1(docsync_docs_query);

#define DEFAULT_COLLECTION	"default"

static Datum synchronize(FunctionCallInfo fcinfo, Jsonb *documents,
						 int nextarg);
static void append_upload(StringInfo buf, text *client_id, text *collection,
						  Jsonb *documents);
static void append_download(StringInfo buf, Download *download);
static void put_document(const StoredDocument *stored, void *arg);
static text *resolve_client_id(text *argument);
static text *query_string_value(const char *key);
static text *decode_value(const char *value, int len);
static Jsonb *get_request(const char *setting);
static text *get_field(Jsonb *object, const char *key);
static text *get_optional(FunctionCallInfo fcinfo, int n);
static TimestampTz parse_cursor(const text *argument, uint64 epoch);
static int	parse_max_documents(FunctionCallInfo fcinfo, int n);
static void begin_answer(StringInfo buf);
static Datum end_answer(StringInfo buf);

/*
 * docsync_sync("clientId" text DEFAULT NULL, documents json DEFAULT '[]',
 *				cursor text DEFAULT NULL, collection text DEFAULT 'default',
 *				origin text DEFAULT 'other', "maxDocuments" int DEFAULT 1000)
 * RETURNS json
 *
 * Upload, then download, in one round trip.  The download sees the upload.
 */
Datum
docsync_sync(PG_FUNCTION_ARGS)
{
	Jsonb	   *documents;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("documents is null"),
				 errhint("Send an array of documents, or leave it out.")));

	documents = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
												   CStringGetDatum(TextDatumGetCString(PG_GETARG_DATUM(1)))));

	return synchronize(fcinfo, documents, 2);
}

/*
 * docsync_pull("clientId" text DEFAULT NULL, cursor text DEFAULT NULL,
 *				collection text DEFAULT 'default', origin text DEFAULT 'other',
 *				"maxDocuments" int DEFAULT 1000)
 * RETURNS json
 *
 * The download alone: for GET, a READ ONLY transaction, a standby.  Without a
 * clientId the origin is any.
 */
Datum
docsync_pull(PG_FUNCTION_ARGS)
{
	return synchronize(fcinfo, NULL, 1);
}

/*
 * docsync_docs(jsonb) RETURNS json
 *
 * The protocol's POST /Docs: an array of documents, or
 * {"clientId", "documents", "collection"}.  In front of it a proxy may put the
 * request's query string, as it came, into the header X-Query-String: clientId
 * and collection are taken from there too.
 */
Datum
docsync_docs(PG_FUNCTION_ARGS)
{
	Jsonb	   *body;
	Jsonb	   *documents;
	text	   *client_id = query_string_value("clientId");
	text	   *collection = query_string_value("collection");
	StringInfoData buf;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the body is null"),
				 errhint("Send an array of documents.")));

	body = documents = PG_GETARG_JSONB_P(0);
	if (JB_ROOT_IS_OBJECT(body))
	{
		JsonbValue	value;

		if (getKeyJsonValueFromContainer(&body->root, "documents", 9, &value) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"documents\" is missing"),
					 errhint("Send an array of documents, or {\"clientId\": text, \"documents\": array}.")));
		documents = JsonbValueToJsonb(&value);

		if (client_id == NULL)
			client_id = get_field(body, "clientId");
		if (collection == NULL)
			collection = get_field(body, "collection");
	}

	begin_answer(&buf);
	appendStringInfoChar(&buf, '{');
	append_upload(&buf, resolve_client_id(client_id),
				  collection != NULL ? collection :
				  cstring_to_text(DEFAULT_COLLECTION),
				  documents);
	appendStringInfoChar(&buf, '}');
	return end_answer(&buf);
}

/*
 * docsync_docs_query(origin text DEFAULT 'other',
 *					  "sinceUtc" text DEFAULT NULL,
 *					  "clientId" text DEFAULT NULL,
 *					  collection text DEFAULT 'default',
 *					  "maxDocuments" int DEFAULT NULL)
 * RETURNS json
 *
 * The protocol's POST /Docs/Query: the plain array of documents.
 */
Datum
docsync_docs_query(PG_FUNCTION_ARGS)
{
	text	   *since = get_optional(fcinfo, 1);
	StringInfoData buf;
	Download	download = {
		.origin = docsync_query_parse_origin(get_optional(fcinfo, 0)),
		.client_id = resolve_client_id(get_optional(fcinfo, 2)),
		.collection = get_optional(fcinfo, 3),
		.max_documents = parse_max_documents(fcinfo, 4),
		.since = DT_NOBEGIN,
	};

	if (since != NULL &&
		!docsync_cursor_parse_utc(text_to_cstring(since), &download.since))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"sinceUtc\" is not an ISO 8601 time"),
				 errhint("Send back the LastUpdateUtc received, such as 2026-11-22T10:11:12.123456Z.")));

	begin_answer(&buf);
	append_download(&buf, &download);
	return end_answer(&buf);
}

/*
 * Our SQLSTATE, or the one that makes PostgREST answer with the status meant.
 * The message is the status line then, so it must have nothing of the request
 * in it.
 */
int
docsync_http_sqlstate(int sqlstate)
{
	const char *method = GetConfigOption("request.method", true, false);

	if (method == NULL || *method == '\0')
		return sqlstate;

	switch (sqlstate)
	{
		case ERRCODE_PROGRAM_LIMIT_EXCEEDED:
			return MAKE_SQLSTATE('P', 'T', '4', '1', '3');
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
			return MAKE_SQLSTATE('P', 'T', '4', '1', '0');
		default:
			return sqlstate;
	}
}

/*
 * docsync_sync() and docsync_pull(); from nextarg on they have the same
 * arguments.
 */
static Datum
synchronize(FunctionCallInfo fcinfo, Jsonb *documents, int nextarg)
{
	text	   *client_id = resolve_client_id(get_optional(fcinfo, 0));
	StringInfoData buf;
	Cursor		cursor = {.epoch = docsync_clock_epoch()};
	char		cursor_text[DOCSYNC_CURSOR_LEN];
	Download	download = {
		.client_id = client_id,
		.since = parse_cursor(get_optional(fcinfo, nextarg), cursor.epoch),
		.after = true,
		.collection = get_optional(fcinfo, nextarg + 1),
		.origin = docsync_query_parse_origin(get_optional(fcinfo, nextarg + 2)),
		.max_documents = parse_max_documents(fcinfo, nextarg + 3)
	};

	begin_answer(&buf);
	appendStringInfoChar(&buf, '{');
	if (documents != NULL)
	{
		append_upload(&buf, client_id, download.collection, documents);

		/* A snapshot that sees the upload, and what others did before it. */
		CommandCounterIncrement();
		PushActiveSnapshot(GetTransactionSnapshot());
	}
	else
	{
		appendStringInfoString(&buf, "\"received\":0,\"results\":[]");
		if (client_id == NULL)
			download.origin = ORIGIN_ANY;
	}

	appendStringInfoString(&buf, ",\"documents\":");
	append_download(&buf, &download);
	if (documents != NULL)
		PopActiveSnapshot();

	cursor.stamp = download.last;
	appendStringInfoString(&buf, ",\"cursor\":\"");
	appendBinaryStringInfo(&buf, cursor_text,
						   docsync_cursor_format(&cursor, cursor_text));
	appendStringInfoString(&buf, download.more ?
						   "\",\"more\":true,\"serverUtc\":" :
						   "\",\"more\":false,\"serverUtc\":");
	docsync_json_append_stamp(&buf, GetCurrentTimestamp());
	appendStringInfoChar(&buf, '}');
	return end_answer(&buf);
}

/*
 * "received": n, "results": [{"id", "outcome", "clientVersion",
 * "LastUpdateUtc", "winner"}]
 */
static void
append_upload(StringInfo buf, text *client_id, text *collection,
			  Jsonb *documents)
{
	Upload	   *upload;

	docsync_batch_check_name(client_id, "\"clientId\"", DOCSYNC_CLIENT_ID_LEN);
	upload = docsync_upsert_apply(client_id, collection, documents);

	appendStringInfo(buf, "\"received\":%d,\"results\":[",
					 docsync_upsert_count(upload));
	for (int i = 0; i < docsync_upsert_count(upload); i++)
	{
		UploadResult result = docsync_upsert_result(upload, i);

		appendStringInfoString(buf, i == 0 ? "{\"id\":" : ",{\"id\":");
		docsync_json_append_string(buf, result.sent->id, result.sent->id_len);
		appendStringInfo(buf, ",\"outcome\":\"%s\",\"clientVersion\":" INT64_FORMAT ",\"LastUpdateUtc\":",
						 docsync_rule_name(result.outcome),
						 result.client_version);
		docsync_json_append_stamp(buf, result.last_update_utc);
		appendStringInfoString(buf, ",\"winner\":");
		if (result.winner == NULL)
			appendStringInfoString(buf, "null");
		else
			docsync_json_append_jsonb(buf, result.winner);
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
	if (download->client_id != NULL || download->origin != ORIGIN_ANY)
		docsync_batch_check_name(download->client_id, "\"clientId\"",
								 DOCSYNC_CLIENT_ID_LEN);

	download->put = put_document;
	download->arg = buf;

	appendStringInfoChar(buf, '[');
	docsync_query_run(download);
	appendStringInfoChar(buf, ']');
}

static void
put_document(const StoredDocument *stored, void *arg)
{
	StringInfo	buf = (StringInfo) arg;

	/* Whatever is in front of the first, it isn't the end of another. */
	if (buf->data[buf->len - 1] == '}')
		appendStringInfoChar(buf, ',');
	docsync_json_append_document(buf, stored);
}

/*
 * The clientId: the argument, else the header X-Client-Id, else the token's
 * claim client_id.  A claim, where there is one, binds.  NULL if there is
 * none.
 */
static text *
resolve_client_id(text *argument)
{
	text	   *claim = get_field(get_request("request.jwt.claims"),
								  "client_id");
	text	   *client_id = argument;

	if (client_id == NULL)
		client_id = get_field(get_request("request.headers"), "x-client-id");
	if (client_id == NULL)
		return claim;

	if (claim != NULL && !docsync_batch_same_text(claim, client_id))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("\"clientId\" is not the token's"),
				 errhint("Leave it out, or send the token's claim client_id.")));

	return client_id;
}

/*
 * A value of the request's query string, which a proxy has put into the header
 * X-Query-String; NULL if there is none.  The last counts.
 */
static text *
query_string_value(const char *key)
{
	text	   *query = get_field(get_request("request.headers"),
								  "x-query-string");
	int			key_len = strlen(key);
	text	   *value = NULL;
	char	   *pair;

	if (query == NULL)
		return NULL;

	for (pair = text_to_cstring(query); *pair != '\0';)
	{
		int			len = strcspn(pair, "&");

		if (len > key_len && pair[key_len] == '=' &&
			strncmp(pair, key, key_len) == 0)
			value = decode_value(pair + key_len + 1, len - key_len - 1);
		pair += len + (pair[len] == '&');
	}

	return value;
}

/*
 * Decodes len bytes of a query string; NULL if they are empty.
 */
static text *
decode_value(const char *value, int len)
{
	StringInfoData buf;
	bool		valid = true;

	initStringInfo(&buf);
	for (int i = 0; i < len && valid; i++)
	{
		if (value[i] == '+')
			appendStringInfoChar(&buf, ' ');
		else if (value[i] != '%')
			appendStringInfoChar(&buf, value[i]);
		else if (i + 2 < len && isxdigit((unsigned char) value[i + 1]) &&
				 isxdigit((unsigned char) value[i + 2]))
		{
			char		hex[] = {value[i + 1], value[i + 2], '\0'};

			appendStringInfoCharMacro(&buf, (char) strtol(hex, NULL, 16));
			i += 2;
		}
		else
			valid = false;
	}

	if (!valid || memchr(buf.data, '\0', buf.len) != NULL ||
		!pg_verify_mbstr(PG_UTF8, buf.data, buf.len, true))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the query string is not valid"),
				 errhint("Percent-encode it, as UTF-8.")));

	if (buf.len == 0)
		return NULL;
	return cstring_to_text(pg_any_to_server(buf.data, buf.len, PG_UTF8));
}

/*
 * A setting that PostgREST makes of the request, as jsonb; NULL if there is
 * none, or the empty string that is left of it on a connection used again.
 */
static Jsonb *
get_request(const char *setting)
{
	const char *value = GetConfigOption(setting, true, false);

	if (value == NULL || *value == '\0')
		return NULL;

	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											  CStringGetDatum(value)));
}

/*
 * A text field of an object; NULL if it isn't there or is empty.
 */
static text *
get_field(Jsonb *object, const char *key)
{
	JsonbValue	value;

	if (object == NULL || !JB_ROOT_IS_OBJECT(object) ||
		getKeyJsonValueFromContainer(&object->root, key, strlen(key),
									 &value) == NULL ||
		value.type == jbvNull)
		return NULL;

	if (value.type != jbvString)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a string", key)));
	if (value.val.string.len == 0)
		return NULL;

	return cstring_to_text_with_len(value.val.string.val,
									value.val.string.len);
}

/*
 * An argument that may be left out.  A query string can't say NULL: what
 * clients make of it is the empty string or "null".
 */
static text *
get_optional(FunctionCallInfo fcinfo, int n)
{
	text	   *value;

	if (PG_ARGISNULL(n))
		return NULL;

	value = PG_GETARG_TEXT_PP(n);
	if (VARSIZE_ANY_EXHDR(value) == 0 ||
		(VARSIZE_ANY_EXHDR(value) == 4 &&
		 memcmp(VARDATA_ANY(value), "null", 4) == 0))
		return NULL;

	return value;
}

static TimestampTz
parse_cursor(const text *argument, uint64 epoch)
{
	Cursor		cursor;

	if (argument == NULL)
		return DT_NOBEGIN;

	if (!docsync_cursor_parse(text_to_cstring(argument), &cursor))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"cursor\" is not a cursor"),
				 errhint("Send back the cursor received, or none to start from the beginning.")));
	if (cursor.epoch != epoch)
		docsync_query_refuse("The cursor is of another epoch: the server's documents have been replaced since.");

	return cursor.stamp;
}

static int
parse_max_documents(FunctionCallInfo fcinfo, int n)
{
	int			max_documents;

	if (PG_ARGISNULL(n))
		return -1;

	max_documents = PG_GETARG_INT32(n);
	if (max_documents < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"maxDocuments\" is less than 1"),
				 errdetail("It is %d.", max_documents),
				 errhint("Give a number of documents, or null for all.")));
	return max_documents;
}

/*
 * The answer is written behind the header of the value it becomes, so that it
 * needn't be copied.
 */
static void
begin_answer(StringInfo buf)
{
	initStringInfo(buf);
	appendStringInfoSpaces(buf, VARHDRSZ);
}

static Datum
end_answer(StringInfo buf)
{
	SET_VARSIZE(buf->data, buf->len);
	return PointerGetDatum(buf->data);
}
