/*-------------------------------------------------------------------------
 *
 * request.c
 *	  What an HTTP request asks for, and on whose behalf.
 *
 * What PostgREST says of a request it says in settings: request.method,
 * request.headers, request.jwt.claims.  Where there are none, arguments alone
 * count.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "docsync.h"

#define DEFAULT_COLLECTION		"default"

static text *decode_value(const char *value, int len);
static Jsonb *get_setting(const char *setting);
static text *get_field(Jsonb *object, const char *key);
static void set_type(void);

/*
 * A value of a query string that is true or false.
 */
bool
docsync_request_parse_bool(const char *key, const text *value)
{
	char	   *word = text_to_cstring(value);

	if (strcmp(word, "true") != 0 && strcmp(word, "false") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is neither true nor false", key)));
	return strcmp(word, "true") == 0;
}

/*
 * Tells PostgREST the type of an answer, which it is to pass on as it is
 * (see the domain of the functions), unless somebody has set headers already.
 */
static void
set_type(void)
{
	const char *method = GetConfigOption("request.method", true, false);
	const char *headers = GetConfigOption("response.headers", true, false);

	if (method == NULL || *method == '\0' || IsInParallelMode() ||
		(headers != NULL && *headers != '\0'))
		return;

	set_config_option("response.headers",
					  "[{\"Content-Type\": \"application/json; charset=utf-8\"}]",
					  PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0,
					  false);
}

/*
 * Fills in who asks, and for what.
 *
 * The clientId: the argument, else the header X-Client-Id, else the token's
 * claim client_id.  NULL if there is none.  The collection: the argument, else
 * the claim collection, else "default"; who may use it is for row-level
 * security to say.
 */
void
docsync_request_resolve(Request *request)
{
	Jsonb	   *claims = get_setting("request.jwt.claims");

	if (request->client_id == NULL)
		request->client_id = get_field(get_setting("request.headers"),
									   "x-client-id");
	if (request->client_id == NULL)
		request->client_id = get_field(claims, "client_id");

	if (request->collection == NULL)
		request->collection = get_field(claims, "collection");
	if (request->collection == NULL)
		request->collection = cstring_to_text(DEFAULT_COLLECTION);

	if (request->state != NULL)
	{
		char	   *state = text_to_cstring(request->state);

		if (strcmp(state, "false") == 0)
			request->state = NULL;
		else if (strcmp(state, "true") != 0 &&
				 strspn(state, "0123456789abcdef") != DOCSYNC_DIGEST_LEN - 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"state\" is neither true nor a digest"),
					 errhint("A digest is 16 hexadecimal digits.")));
	}
}

/*
 * A token's claim client_id binds, whichever function is called.
 */
void
docsync_request_check_claim(const text *client_id)
{
	text	   *claim = get_field(get_setting("request.jwt.claims"),
								  "client_id");

	if (claim != NULL && client_id != NULL &&
		!docsync_batch_same_text(claim, client_id))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("\"clientId\" is not the token's"),
				 errhint("Leave it out, or send the token's claim client_id.")));
}

/*
 * A value of the request's query string, which a proxy has put into the header
 * X-Query-String; NULL if there is none.  The last counts.
 */
text *
docsync_request_url_value(const char *key)
{
	text	   *query = get_field(get_setting("request.headers"),
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
 * Decodes len bytes of a query string.
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

	if (!valid || !pg_verify_mbstr(PG_UTF8, buf.data, buf.len, true))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the query string is not valid"),
				 errdetail("A value isn't percent-encoded UTF-8."),
				 errhint("Percent-encode it.")));

	return cstring_to_text(pg_any_to_server(buf.data, buf.len, PG_UTF8));
}

/*
 * A setting that PostgREST makes of the request, as jsonb; NULL if there is
 * none, or the empty string that is left of it on a connection used again.
 */
static Jsonb *
get_setting(const char *setting)
{
	const char *value = GetConfigOption(setting, true, false);

	if (value == NULL || *value == '\0')
		return NULL;

	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											  CStringGetDatum(value)));
}

/*
 * A text field of an object; NULL if it isn't there.
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
				 errmsg("\"%s\": wrong type", key),
				 errdetail("It is %s.",
						   docsync_value_name(docsync_value_type_of_jsonb(&value)))));

	return cstring_to_text_with_len(value.val.string.val,
									value.val.string.len);
}

/*
 * A text argument; before ALTER EXTENSION UPDATE there may be fewer.  A query
 * string, where GET and HEAD have their arguments, can't say NULL: what clients
 * make of it is the empty string or "null".
 */
text *
docsync_request_get_text(FunctionCallInfo fcinfo, int n)
{
	text	   *value;
	const char *method = GetConfigOption("request.method", true, false);

	if (n >= PG_NARGS() || PG_ARGISNULL(n))
		return NULL;

	value = PG_GETARG_TEXT_PP(n);
	if (method != NULL &&
		(strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0) &&
		(VARSIZE_ANY_EXHDR(value) == 0 ||
		 (VARSIZE_ANY_EXHDR(value) == 4 &&
		  memcmp(VARDATA_ANY(value), "null", 4) == 0)))
		return NULL;

	return value;
}

bool
docsync_request_get_bool(FunctionCallInfo fcinfo, int n, bool otherwise)
{
	return n >= PG_NARGS() || PG_ARGISNULL(n) ? otherwise : PG_GETARG_BOOL(n);
}

/* With the name that HTTP has for it */
void
docsync_request_need_client_id(const Request *request)
{
	docsync_batch_check_name(request->client_id, "\"clientId\"",
							 DOCSYNC_CLIENT_ID_LEN);
}

/*
 * The request's cursor, which must be one of its collection, client and origin,
 * or the beginning.  Bound to these for the next one.
 */
Position
docsync_request_parse_cursor(const Request *request, QueryOrigin origin)
{
	Position	position = {.stamp = DT_NOBEGIN,.seen = DT_NOBEGIN};
	uint32		binding = docsync_cursor_bind(request->collection,
											  request->client_id,
											  (char) origin);

	if (request->cursor != NULL)
	{
		if (!docsync_cursor_parse(text_to_cstring(request->cursor), &position))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"cursor\" is not a cursor"),
					 errhint("Send back the cursor received, or none to start from the beginning.")));
		if (position.is_bound && position.binding != binding)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"cursor\" is of another collection, clientId or origin"),
					 errhint("Keep a cursor for each, and start from the beginning where there is none.")));
		position.is_given = true;
	}

	position.is_bound = true;
	position.binding = binding;
	return position;
}

int
docsync_request_get_max(FunctionCallInfo fcinfo, int n)
{
	int			max_documents;

	if (PG_ARGISNULL(n))
		return -1;

	max_documents = PG_GETARG_INT32(n);
	docsync_request_check_max(max_documents);
	return max_documents;
}

void
docsync_request_check_max(int max_documents)
{
	if (max_documents < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"maxDocuments\" is out of range"),
				 errhint("Give an integer from 1 on.")));
}

/*
 * The answer is written behind the header of the value it becomes, so that it
 * needn't be copied.
 */
void
docsync_request_begin_answer(StringInfo buf)
{
	initStringInfo(buf);
	appendStringInfoSpaces(buf, VARHDRSZ);
}

Datum
docsync_request_end_answer(StringInfo buf)
{
	set_type();
	SET_VARSIZE(buf->data, buf->len);
	return PointerGetDatum(buf->data);
}
