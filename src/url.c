/*-------------------------------------------------------------------------
 *
 * url.c
 *	  A request's query string.
 *
 * A proxy puts the query string, unchanged, into the header X-Query-String.
 * Because it is read here, it means the same for every request: names are
 * case-sensitive, each may occur only once, and unknown ones are refused; a
 * value that is empty or null counts as absent.  If it were left to the proxy
 * and to PostgREST, one query string would have four readers, which don't
 * agree which of two clientIds counts: the upload would be stored as one
 * client's, and the download would leave out the other's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "docsync.h"

/* More than any request knows */
#define MAX_PARAMETERS	32

static void read_pair(const char *pair, int len, Request *request,
					  const char *const *keys, bool *seen);
static char *decode(const char *value, int len);

/*
 * Reads the request's query string, if a proxy has passed it on, into the
 * request.  keys are those that the request knows, ending with NULL; those for
 * a body only are refused in a query string.
 */
void
docsync_url_read(Request *request, const char *const *keys)
{
	text	   *header = docsync_postgrest_header("x-query-string");
	bool		seen[MAX_PARAMETERS] = {false};
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
	int			which = docsync_argument_find(name, keys);
	char	   *value;

	if (which < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown parameter in the query string"),
				 errdetail("It has \"%s\".",
						   docsync_refuse_quote(name, strlen(name))),
				 errhint("The parameters are %s; names are case-sensitive.",
						 docsync_argument_parameters(keys))));
	if (seen[which])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a parameter occurs twice in the query string"),
				 errdetail("It is \"%s\".", name),
				 errhint("Send it once.")));
	seen[which] = true;

	value = decode(pair + name_len + 1, Max(len - name_len - 1, 0));
	if (*value != '\0' && strcmp(value, "null") != 0)
		docsync_argument_set(request, which, value);
}

/*
 * Decodes len bytes of a query string into the server's encoding.
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

	/* This rejects NUL as well, which a text can't contain. */
	if (!valid || !pg_verify_mbstr(PG_UTF8, buf.data, buf.len, true))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the query string is not valid"),
				 errdetail("A name or value isn't percent-encoded UTF-8."),
				 errhint("Percent-encode it.")));

	return pg_any_to_server(buf.data, buf.len, PG_UTF8);
}
