/*-------------------------------------------------------------------------
 *
 * request.c
 *	  Who makes an HTTP request, and for what.
 *
 * Arguments take precedence over what PostgREST says (postgrest.c).  If the
 * call doesn't come from PostgREST, only they count.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/guc.h"

#include "docsync.h"

#define DEFAULT_COLLECTION		"default"

/*
 * Fills in who is asking, and for what.
 *
 * The clientId: the argument, or the header X-Client-Id, or the token's claim
 * client_id; NULL if there is none.  The collection: the argument, or the
 * claim collection, or "default"; row-level security decides who may use it.
 */
void
docsync_request_resolve(Request *request)
{
	Jsonb	   *claims = docsync_postgrest_setting("request.jwt.claims");

	if (request->client_id == NULL)
		request->client_id = docsync_postgrest_header("x-client-id");
	if (request->client_id == NULL)
		request->client_id = docsync_postgrest_field(claims, "client_id");

	if (request->collection == NULL)
		request->collection = docsync_postgrest_field(claims, "collection");
	if (request->collection == NULL)
		request->collection = cstring_to_text(DEFAULT_COLLECTION);

	if (request->state != NULL)
	{
		char	   *state = text_to_cstring(request->state);

		if (strcmp(state, "false") == 0)
			request->state = NULL;
		else if (strcmp(state, "true") != 0 &&
				 (strlen(state) != DOCSYNC_DIGEST_LEN - 1 ||
				  strspn(state, "0123456789abcdef") != strlen(state)))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"state\" is neither true nor a digest"),
					 errhint("A digest is 16 hexadecimal digits.")));
	}
}

/*
 * Refuses a clientId other than the token's claim client_id, if there is that
 * claim.  This applies to every function.
 */
void
docsync_request_check_claim(const text *client_id)
{
	Jsonb	   *claims = docsync_postgrest_setting("request.jwt.claims");
	text	   *claim = docsync_postgrest_field(claims, "client_id");

	if (claim != NULL && client_id != NULL &&
		!docsync_text_is_same(claim, client_id))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("\"clientId\" is not the token's"),
				 errhint("Leave it out, or send the token's claim client_id.")));
}

/*
 * A text argument; before ALTER EXTENSION UPDATE the function may have fewer.
 * For GET and HEAD the arguments come from the query string, which can't
 * express NULL: clients send the empty string or "null" for it.
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

/* Refuses a request without a valid clientId, under its name in HTTP. */
void
docsync_request_need_client_id(const Request *request)
{
	docsync_text_check_name(request->client_id, "\"clientId\"",
							DOCSYNC_CLIENT_ID_LEN);
}

/*
 * The position of the request's cursor, or the beginning.  The cursor must
 * belong to the request's collection, client and origin, to which the position
 * is bound.
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
					 errhint("Send back the cursor that was received, or none to start from the beginning.")));
		if (position.is_bound && position.binding != binding)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"cursor\" belongs to another collection, clientId or origin"),
					 errhint("Keep a separate cursor for each, and start from the beginning where there is none.")));
		position.is_given = true;
	}

	position.is_bound = true;
	position.binding = binding;
	return position;
}

/* A maximum number of documents; NULL becomes -1, for all. */
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
 * Refuses an invalid maxDocuments.
 */
void
docsync_request_check_max(int max_documents)
{
	if (max_documents < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"maxDocuments\" is out of range"),
				 errhint("Give a positive integer.")));
}
