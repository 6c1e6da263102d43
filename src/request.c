/*-------------------------------------------------------------------------
 *
 * request.c
 *	  On whose behalf an HTTP request is made, and what for.
 *
 * Arguments come before what PostgREST says (postgrest.c), and where that says
 * nothing they alone count.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/guc.h"

#include "docsync.h"

#define DEFAULT_COLLECTION		"default"

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
 * A token's claim client_id binds, whichever function is called.
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
	docsync_text_check_name(request->client_id, "\"clientId\"",
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
