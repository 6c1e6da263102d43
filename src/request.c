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

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/numeric.h"

#include "docsync.h"

#define DEFAULT_COLLECTION		"default"

#define HINT_BODY \
	"Send an array of documents, or {\"clientId\": text, \"documents\": array, \"collection\": text}; for a sync the object, with \"cursor\": text, \"origin\": text, \"maxDocuments\": integer, \"reconcile\", \"state\", \"tombstones\": boolean."

static const char *hint_of(const char *const *keys);
static void parse_field(const char *key, JsonbValue *value, Request *request,
						const char *hint);
static Jsonb *get_setting(const char *setting);
static text *get_field(Jsonb *object, const char *key);
static void set_headers(const char *tag);
static void set_local(const char *name, const char *value);
static bool is_over_http(void);

/*
 * Reads an object that may have the given keys.
 */
void
docsync_request_parse_body(Jsonb *body, Request *request, const char *const *keys)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *key = NULL;
	const char *hint = hint_of(keys);

	if (body == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the body is null"),
				 errhint("%s", hint)));
	if (!JB_ROOT_IS_OBJECT(body))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the body is not an object"),
				 errhint("%s", hint)));

	it = JsonbIteratorInit(&body->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			const char *const *known = keys;

			key = pnstrdup(value.val.string.val, value.val.string.len);
			while (*known != NULL && strcmp(*known, key) != 0)
				known++;
			if (*known == NULL)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("unknown key in the body"),
						 errdetail("It has the key \"%s\".",
								   docsync_batch_quote(key, strlen(key))),
						 errhint("%s", hint)));
		}
		else if (token == WJB_VALUE && value.type != jbvNull)
			parse_field(key, &value, request, hint);
	}
}

/* What may be sent */
static const char *
hint_of(const char *const *keys)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; keys[i] != NULL; i++)
	{
		if (strcmp(keys[i], "documents") == 0)
			return HINT_BODY;
		appendStringInfo(&buf, i == 0 ? "Send an object with the keys \"%s\"" : ", \"%s\"",
						 keys[i]);
	}
	appendStringInfoChar(&buf, '.');
	return buf.data;
}

static void
parse_field(const char *key, JsonbValue *value, Request *request,
			const char *hint)
{
	JsonbValue **array = strcmp(key, "documents") == 0 ? &request->documents :
	strcmp(key, "buckets") == 0 ? &request->buckets :
	strcmp(key, "ids") == 0 ? &request->ids : NULL;
	bool	   *flag = strcmp(key, "reconcile") == 0 ? &request->reconcile :
	strcmp(key, "tombstones") == 0 ? &request->no_tombstones : NULL;
	text	  **field = strcmp(key, "clientId") == 0 ? &request->client_id :
	strcmp(key, "collection") == 0 ? &request->collection :
	strcmp(key, "cursor") == 0 ? &request->cursor :
	strcmp(key, "after") == 0 ? &request->after :
	strcmp(key, "state") == 0 ? &request->state :
	strcmp(key, "origin") == 0 ? &request->origin : NULL;

	if (array != NULL)
	{
		*array = palloc(sizeof(JsonbValue));
		**array = *value;
	}
	else if (flag != NULL && value->type == jbvBool)
		*flag = (flag == &request->no_tombstones) != value->val.boolean;
	else if (field == &request->state && value->type == jbvBool)
		request->state = value->val.boolean ? cstring_to_text("true") : NULL;
	else if (field != NULL && value->type == jbvString)
		*field = cstring_to_text_with_len(value->val.string.val,
										  value->val.string.len);
	else if (field == NULL && flag == NULL && value->type == jbvNumeric)
	{
		request->max_documents = docsync_request_parse_int(value);
		docsync_request_check_max(request->max_documents);
	}
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\": wrong type", key),
				 errdetail("It is %s.", docsync_batch_type_name(value)),
				 errhint("%s", hint)));
}

/*
 * A JSON number as an integer; -1 if it is negative, too large, or a fraction.
 */
int
docsync_request_parse_int(const JsonbValue *value)
{
	bool		overflow;
	int			number = numeric_int4_opt_error(value->val.numeric, &overflow);
	Datum		rounded = NumericGetDatum(int64_to_numeric(number));

	if (overflow || number < 0 ||
		!DatumGetBool(DirectFunctionCall2(numeric_eq, rounded,
										  NumericGetDatum(value->val.numeric))))
		return -1;
	return number;
}

/*
 * Our SQLSTATE, or the one that makes PostgREST answer with the status meant.
 * The message is the status line then, so it must have nothing of the request
 * in it.
 */
int
docsync_request_sqlstate(int sqlstate)
{
	if (!is_over_http())
		return sqlstate;

	switch (sqlstate)
	{
		case ERRCODE_PROGRAM_LIMIT_EXCEEDED:
			return MAKE_SQLSTATE('P', 'T', '4', '1', '3');
		default:
			return sqlstate;
	}
}

/*
 * Refuses a request with an HTTP status and a code that machines can go by.
 * detail is JSON.  In SQL the status is SQLSTATE 55000, and the code is in the
 * detail; for PostgREST the whole answer is put into the message, as it wants it.
 */
void
docsync_request_refuse(int status, const char *code, const char *message,
					   const char *detail, const char *hint)
{
	StringInfoData buf;

	if (!is_over_http())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s", message),
				 errdetail("%s", detail),
				 errhint("%s", hint)));

	initStringInfo(&buf);
	appendStringInfoString(&buf, "{\"code\":");
	docsync_json_append_string(&buf, code, strlen(code));
	appendStringInfoString(&buf, ",\"message\":");
	docsync_json_append_string(&buf, message, strlen(message));
	appendStringInfoString(&buf, ",\"details\":");
	docsync_json_append_string(&buf, detail, strlen(detail));
	appendStringInfoString(&buf, ",\"hint\":");
	docsync_json_append_string(&buf, hint, strlen(hint));
	appendStringInfoChar(&buf, '}');
	ereport(ERROR,
			(errcode(MAKE_SQLSTATE('P', 'G', 'R', 'S', 'T')),
			 errmsg("%s", buf.data),
			 errdetail("{\"status\":%d,\"headers\":{}}", status)));
}

/*
 * Tells PostgREST the type of an answer, which it is to pass on as it is
 * (see the domain of the functions), and its entity tag, if there is one;
 * unless somebody has set headers already.
 */
static void
set_headers(const char *tag)
{
	const char *headers = GetConfigOption("response.headers", true, false);
	StringInfoData buf;

	if (!is_over_http() || IsInParallelMode() ||
		(headers != NULL && *headers != '\0'))
		return;

	initStringInfo(&buf);
	appendStringInfoString(&buf, "[{\"Content-Type\": \"application/json; charset=utf-8\"}");
	if (tag != NULL)
	{
		appendStringInfoString(&buf, ", {\"ETag\": ");
		docsync_json_append_string(&buf, tag, strlen(tag));
		appendStringInfoChar(&buf, '}');
	}
	appendStringInfoChar(&buf, ']');
	set_local("response.headers", buf.data);
}

static void
set_local(const char *name, const char *value)
{
	set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
					  GUC_ACTION_LOCAL, true, 0, false);
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
		request->client_id = docsync_request_header("x-client-id");
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
 * A header of the request, its name in lower case; NULL if there is none.
 */
text *
docsync_request_header(const char *name)
{
	return get_field(get_setting("request.headers"), name);
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
				 errdetail("It is %s.", docsync_batch_type_name(&value))));

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

/*
 * tag: the answer's entity tag, or NULL
 */
Datum
docsync_request_end_answer(StringInfo buf, const char *tag)
{
	set_headers(tag);
	SET_VARSIZE(buf->data, buf->len);
	return PointerGetDatum(buf->data);
}

/*
 * Instead of an answer that the client has: 304, and nothing.
 */
Datum
docsync_request_end_unchanged(StringInfo buf, const char *tag)
{
	if (!IsInParallelMode())
		set_local("response.status", "304");
	buf->len = VARHDRSZ;
	return docsync_request_end_answer(buf, tag);
}

/*
 * Does the client say that it has the answer with this tag?
 */
bool
docsync_request_has_tag(const char *tag)
{
	text	   *tags = is_over_http() ? docsync_request_header("if-none-match") : NULL;

	return tags != NULL && strstr(text_to_cstring(tags), tag) != NULL;
}

/*
 * Is it PostgREST that asks?
 */
static bool
is_over_http(void)
{
	const char *method = GetConfigOption("request.method", true, false);

	return method != NULL && *method != '\0';
}
