/*-------------------------------------------------------------------------
 *
 * url.c
 *	  What a request's query string asks for.
 *
 * A proxy puts the query string, as it came, into the header X-Query-String.
 * Read here it means the same to every request: names in exact case, each at
 * most once, none that the request doesn't know; a value that is empty or null
 * isn't there.  Left to the proxy and to PostgREST, one query string has four
 * readers, who don't agree which of two clientIds counts: the upload would be
 * stored as one client's, and the download would leave out the other's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "common/string.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "docsync.h"

typedef enum ParameterType
{
	PARAMETER_TEXT,
	PARAMETER_BOOL,
	PARAMETER_TOMBSTONES,		/* the request has the opposite */
	PARAMETER_COUNT
} ParameterType;

typedef struct Parameter
{
	const char *name;
	ParameterType type;
	size_t		field;			/* its place in a Request */
} Parameter;

static const Parameter parameters[] = {
	{"clientId", PARAMETER_TEXT, offsetof(Request, client_id)},
	{"collection", PARAMETER_TEXT, offsetof(Request, collection)},
	{"cursor", PARAMETER_TEXT, offsetof(Request, cursor)},
	{"origin", PARAMETER_TEXT, offsetof(Request, origin)},
	{"sinceUtc", PARAMETER_TEXT, offsetof(Request, since_utc)},
	{"state", PARAMETER_TEXT, offsetof(Request, state)},
	{"after", PARAMETER_TEXT, offsetof(Request, after)},
	{"maxDocuments", PARAMETER_COUNT, offsetof(Request, max_documents)},
	{"reconcile", PARAMETER_BOOL, offsetof(Request, reconcile)},
	{"tombstones", PARAMETER_TOMBSTONES, offsetof(Request, no_tombstones)},
};

static void read_pair(const char *pair, int len, Request *request,
					  const char *const *keys, bool *seen);
static const Parameter *find_parameter(const char *name,
									   const char *const *keys);
static void set_field(const Parameter *parameter, const char *value,
					  Request *request);
static char *decode(const char *value, int len);
static const char *hint_of(const char *const *keys);

/*
 * Reads the request's query string, if a proxy has handed it on, into what it
 * asks for.  keys are those that the request knows, NULL at their end; what
 * can only stand in a body isn't one that a query string knows.
 */
void
docsync_url_read(Request *request, const char *const *keys)
{
	text	   *header = docsync_request_header("x-query-string");
	bool		seen[lengthof(parameters)] = {false};
	char	   *pair;

	if (header == NULL)
		return;

	for (pair = text_to_cstring(header); *pair != '\0';)
	{
		int			len = strcspn(pair, "&");

		if (len > 0)
			read_pair(pair, len, request, keys, seen);
		pair += len + (pair[len] == '&');
	}
}

/*
 * Reads "name=value", or a name alone, which has no value.
 */
static void
read_pair(const char *pair, int len, Request *request,
		  const char *const *keys, bool *seen)
{
	const char *equals = memchr(pair, '=', len);
	int			name_len = equals != NULL ? equals - pair : len;
	char	   *name = decode(pair, name_len);
	const Parameter *parameter = find_parameter(name, keys);
	char	   *value;

	if (parameter == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown parameter in the query string"),
				 errdetail("It has \"%s\".",
						   docsync_batch_quote(name, strlen(name))),
				 errhint("%s", hint_of(keys))));
	if (seen[parameter - parameters])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a parameter comes twice in the query string"),
				 errdetail("\"%s\" does.", name),
				 errhint("Send it once.")));
	seen[parameter - parameters] = true;

	value = decode(pair + name_len + 1, Max(len - name_len - 1, 0));
	if (*value != '\0' && strcmp(value, "null") != 0)
		set_field(parameter, value, request);
}

/*
 * The parameter of a name, if it is among the keys; else NULL.
 */
static const Parameter *
find_parameter(const char *name, const char *const *keys)
{
	while (*keys != NULL && strcmp(*keys, name) != 0)
		keys++;
	if (*keys == NULL)
		return NULL;

	for (size_t i = 0; i < lengthof(parameters); i++)
	{
		if (strcmp(parameters[i].name, name) == 0)
			return &parameters[i];
	}
	return NULL;
}

static void
set_field(const Parameter *parameter, const char *value, Request *request)
{
	void	   *field = (char *) request + parameter->field;
	bool		is_true = strcmp(value, "true") == 0;
	char	   *end;

	switch (parameter->type)
	{
		case PARAMETER_TEXT:
			*(text **) field = cstring_to_text(value);
			return;
		case PARAMETER_BOOL:
		case PARAMETER_TOMBSTONES:
			if (!is_true && strcmp(value, "false") != 0)
				break;
			*(bool *) field = is_true == (parameter->type == PARAMETER_BOOL);
			return;
		case PARAMETER_COUNT:
			errno = 0;
			*(int *) field = strtoint(value, &end, 10);
			if (errno != 0 || !isdigit((unsigned char) *value) || *end != '\0')
				*(int *) field = 0;
			docsync_request_check_max(*(int *) field);
			return;
	}

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" is neither true nor false", parameter->name),
			 errdetail("It is \"%s\".",
					   docsync_batch_quote(value, strlen(value)))));
}

/*
 * Decodes len bytes of a query string, into the server's encoding.
 */
static char *
decode(const char *value, int len)
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

	/* A NUL, too, is no character of a text. */
	if (!valid || !pg_verify_mbstr(PG_UTF8, buf.data, buf.len, true))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the query string is not valid"),
				 errdetail("A name or value isn't percent-encoded UTF-8."),
				 errhint("Percent-encode it.")));

	return pg_any_to_server(buf.data, buf.len, PG_UTF8);
}

/* What may be asked for */
static const char *
hint_of(const char *const *keys)
{
	StringInfoData buf;
	const char *separator = "There are ";

	initStringInfo(&buf);
	for (; *keys != NULL; keys++)
	{
		if (strcmp(*keys, "documents") == 0 || strcmp(*keys, "buckets") == 0 ||
			strcmp(*keys, "ids") == 0)
			continue;
		appendStringInfo(&buf, "%s%s", separator, *keys);
		separator = ", ";
	}
	appendStringInfoString(&buf, "; names are in exact case.");
	return buf.data;
}
