/*-------------------------------------------------------------------------
 *
 * call.c
 *	  A whole HTTP request in one statement.
 *
 * PostgREST needs four statements for a request: BEGIN, set_config() of what
 * it says about the request, the call, COMMIT. docsync_call() does the middle
 * two, so that another HTTP layer needs only one statement, which is its own
 * transaction.  The called function finds what it would find under PostgREST:
 * the role, the settings, the search_path, and a transaction that is read-only
 * unless something is to be written.
 *
 * Who may call it, and why that is safe:
 *
 * 1. It gives nobody a right that they don't have.  It runs as its caller
 *	  (SECURITY INVOKER) and does, in the caller's name, what the caller could
 *	  do by SET LOCAL ROLE, set_config() and a SELECT.  The role is set through
 *	  the setting "role" itself, which checks that the *session's* user is a
 *	  member of it, and which fails within a SECURITY DEFINER function and
 *	  wherever else SET ROLE fails.  Then the function is looked up, and
 *	  EXECUTE on it is checked, as the new role, just as the parser and the
 *	  executor would do.
 * 2. A SECURITY DEFINER function in its place would bypass the policies, or
 *	  run as another user than the policies are meant for, at once or after
 *	  somebody else has restored a dump.
 * 3. Some have no SQL, only a token, and call functions through PostgREST.  A
 *	  function that sets claims would let them forge claims.  So EXECUTE is
 *	  revoked from PUBLIC and granted to the layer's own role alone
 *	  (roles.sql).  If it is granted to others all the same, perhaps along with
 *	  all functions of the schema, it refuses to work where a request has been
 *	  set up already: PostgREST sets claims and method for each request, before
 *	  any call.
 * 4. For the same reason it can be called only once in a transaction.
 * 5. The session's own role is refused, and so is "none": nothing runs with
 *	  the rights of the layer itself, whatever they are.
 *
 * All settings are local to the transaction, and only functions of a fixed
 * list can be called.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "docsync.h"

PG_FUNCTION_INFO_V1(docsync_call);

#define TARGET_MAX_ARGS		8

/* A function that can be called */
typedef struct Target
{
	const char *name;
	bool		writes;
	int			nargs;
	Oid			argtypes[TARGET_MAX_ARGS];

	/*
	 * The arguments' defaults, as in the script, for functions that take no
	 * body: their request is in the query string.  NULL: the argument is
	 * null.
	 */
	const char *defaults[TARGET_MAX_ARGS];
} Target;

static const Target targets[] = {
	{"docsync_docs", true, 1, {BYTEAOID}, {NULL}},
	{"docsync_docs_sync", true, 1, {BYTEAOID}, {NULL}},
	{"docsync_docs_query", false, 5,
		{TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT4OID},
	{"other"}},
	{"docsync_pull", false, 8,
		{TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT4OID, BOOLOID, TEXTOID, BOOLOID},
	{NULL, NULL, NULL, NULL, "1000", "false", NULL, "true"}},
	{"docsync_docs_reconcile", false, 1, {BYTEAOID}, {NULL}},
	{"docsync_docs_get", false, 1, {BYTEAOID}, {NULL}},
	{"docsync_listen_key", false, 1, {TEXTOID}, {NULL}}
};

static const Target *find_target(const char *name);
static bool is_set(const char *setting);
static void set_role(const char *role);
static text *call_target(const Target *target, Oid namespace, Datum body);
static text *text_of_body(const bytea *body);
static text *put_together(text *answer);
static const char *get_line(const char *setting);

/*
 * docsync_call(function text, role text, claims text, method text,
 *				headers text, body bytea) RETURNS text
 *
 * Calls one of the functions for whole HTTP requests, or docsync_listen_key(),
 * whose argument is the body, as the role, with the claims of a token and the
 * headers of a request (both JSON, names in lower case).  Returns the
 * function's answer, and in two more lines the headers and the status that
 * were set for it, in the form that PostgREST reads; a line is empty if nothing
 * was set.  If the answer is NULL, so is the result.  (For a row with columns the executor would make a
 * description for each request, which takes as long as everything else done
 * here.)
 *
 * Errors are passed on as they were raised.  The settings are undone with the
 * transaction, not before.
 */
Datum
docsync_call(PG_FUNCTION_ARGS)
{
	const Target *target;
	const char *method;
	text	   *answer;
	Oid			namespace = get_func_namespace(fcinfo->flinfo->fn_oid);

	for (int i = 0; i < PG_NARGS(); i++)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument %d of a request is null", i + 1)));
	}
	if (is_set("request.jwt.claims") || is_set("request.method"))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to start a request within a request"),
				 errdetail("request.jwt.claims or request.method is set."),
				 errhint("docsync_call() is for an HTTP layer other than PostgREST, once in a transaction.")));

	target = find_target(text_to_cstring(PG_GETARG_TEXT_PP(0)));

	/* As for BEGIN READ WRITE, which PostgREST starts with */
	if (target->writes && RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot set transaction read-write mode during recovery")));

	/* A trigger may have set these for longer than its own request. */
	if (is_set("response.status"))
		docsync_answer_set("response.status", "");
	if (is_set("response.headers"))
		docsync_answer_set("response.headers", "");

	method = text_to_cstring(PG_GETARG_TEXT_PP(3));
	docsync_answer_set("search_path",
					   quote_identifier(get_namespace_name(namespace)));
	set_role(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	docsync_answer_set("request.jwt.claims",
					   text_to_cstring(PG_GETARG_TEXT_PP(2)));
	docsync_answer_set("request.method", method);
	docsync_answer_set("request.path", psprintf("/rpc/%s", target->name));
	docsync_answer_set("request.headers",
					   text_to_cstring(PG_GETARG_TEXT_PP(4)));
	if (!target->writes || strcmp(method, "GET") == 0 ||
		strcmp(method, "HEAD") == 0)
		docsync_answer_set("transaction_read_only", "on");

	answer = call_target(target, namespace, PG_GETARG_DATUM(5));
	if (answer == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(put_together(answer));
}

/*
 * Finds the function that has the name; any other name is refused.
 */
static const Target *
find_target(const char *name)
{
	for (size_t i = 0; i < lengthof(targets); i++)
	{
		if (strcmp(targets[i].name, name) == 0)
			return &targets[i];
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_FUNCTION),
			 errmsg("there is no such function for HTTP requests"),
			 errdetail("It is \"%s\".", name)));
}

/*
 * Is it set, to anything but the empty string that an earlier transaction
 * leaves behind?
 */
static bool
is_set(const char *setting)
{
	const char *value = GetConfigOption(setting, true, false);

	return value != NULL && *value != '\0';
}

/*
 * SET LOCAL ROLE, with its checks; the session's own role is refused.
 */
static void
set_role(const char *role)
{
	docsync_answer_set("role", role);
	if (GetUserId() == GetSessionUserId())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to set role \"%s\"", role),
				 errdetail("It is the session's own role.")));
}

/*
 * Calls a function in docsync's own schema, namespace.  Returns NULL if it
 * does.
 */
static text *
call_target(const Target *target, Oid namespace, Datum body)
{
	LOCAL_FCINFO(call, TARGET_MAX_ARGS);
	FmgrInfo	function;
	Datum		answer;

	fmgr_info(docsync_schema_find_function(namespace, target->name,
										   target->nargs, target->argtypes),
			  &function);
	InitFunctionCallInfoData(*call, &function, target->nargs,
							 DEFAULT_COLLATION_OID, NULL, NULL);
	for (int i = 0; i < target->nargs; i++)
	{
		const char *value = target->defaults[i];

		call->args[i].isnull = value == NULL && target->argtypes[i] != BYTEAOID;
		if (target->argtypes[i] == BYTEAOID)
			call->args[i].value = body;
		else if (target->nargs == 1)
		{
			call->args[i].isnull = false;
			call->args[i].value = PointerGetDatum(text_of_body(DatumGetByteaPP(body)));
		}
		else if (value == NULL)
			call->args[i].value = (Datum) 0;
		else if (target->argtypes[i] == INT4OID)
			call->args[i].value = Int32GetDatum(atoi(value));
		else if (target->argtypes[i] == BOOLOID)
			call->args[i].value = BoolGetDatum(strcmp(value, "true") == 0);
		else
			call->args[i].value = CStringGetTextDatum(value);
	}

	answer = FunctionCallInvoke(call);
	return call->isnull ? NULL : DatumGetTextPP(answer);
}

/*
 * A body that is a text in UTF-8
 */
static text *
text_of_body(const bytea *body)
{
	int			len = VARSIZE_ANY_EXHDR(body);

	return cstring_to_text(pg_any_to_server(pnstrdup(VARDATA_ANY(body), len),
											len, PG_UTF8));
}

/*
 * Puts the answer and what was set for it into one text.
 */
static text *
put_together(text *answer)
{
	const char *headers = get_line("response.headers");
	const char *status = get_line("response.status");
	int			len = VARSIZE_ANY_EXHDR(answer);
	int			headers_len = strlen(headers);
	int			status_len = strlen(status);
	text	   *all = palloc(VARHDRSZ + (Size) len + 1 + headers_len + 1 +
							 status_len);
	char	   *end = VARDATA(all);

	memcpy(end, VARDATA_ANY(answer), len);
	end += len;
	*end++ = '\n';
	memcpy(end, headers, headers_len);
	end += headers_len;
	*end++ = '\n';
	memcpy(end, status, status_len);
	end += status_len;
	SET_VARSIZE(all, end - (char *) all);
	return all;
}

/*
 * A setting, as one line, or an empty string if it isn't set.  What somebody
 * has set may contain line breaks, which are white space in JSON.
 */
static const char *
get_line(const char *setting)
{
	char	   *line;

	if (!is_set(setting))
		return "";
	line = pstrdup(GetConfigOption(setting, true, false));
	for (char *c = line; *c != '\0'; c++)
	{
		if (*c == '\n' || *c == '\r')
			*c = ' ';
	}
	return line;
}
