/*-------------------------------------------------------------------------
 *
 * request.c
 *	  On whose behalf an HTTP request is made, and what for.
 *
 * What PostgREST says of a request it says in settings: request.method,
 * request.headers, request.jwt.claims.  Where there are none, arguments alone
 * count.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/guc.h"

#include "docsync.h"

#define DEFAULT_COLLECTION		"default"

static Jsonb *get_setting(const char *setting);
static text *get_field(Jsonb *object, const char *key);

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
				 errdetail("It is %s.",
						   docsync_value_name(docsync_value_type_of_jsonb(&value)))));

	return cstring_to_text_with_len(value.val.string.val,
									value.val.string.len);
}

/*
 * A text argument; before ALTER EXTENSION UPDATE there may be fewer.  A query
 * string, where GET and HEAD have their arguments, can't say NULL: what
 * clients make of it is the empty string or "null".
 */
text *
docsync_request_get_text(FunctionCallInfo fcinfo, int n)
{
	text	   *value;

	if (n >= PG_NARGS() || PG_ARGISNULL(n))
		return NULL;

	value = PG_GETARG_TEXT_PP(n);
	if (VARSIZE_ANY_EXHDR(value) == 0 ||
		(VARSIZE_ANY_EXHDR(value) == 4 &&
		 memcmp(VARDATA_ANY(value), "null", 4) == 0))
	{
		const char *method = GetConfigOption("request.method", true, false);

		if (method != NULL &&
			(strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0))
			return NULL;
	}
	return value;
}

/* A boolean argument, or the value of otherwise if it is NULL or missing */
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
 * The request's cursor, which must be one of its collection, client and
 * origin, or the beginning.  Bound to these for the next one.
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

/* A maximum number of documents; -1, for all, if it is NULL. */
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

/*
 * Refuses a maxDocuments that isn't one.
 */
void
docsync_request_check_max(int max_documents)
{
	if (max_documents < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"maxDocuments\" is out of range"),
				 errhint("Give an integer from 1 on.")));
}
