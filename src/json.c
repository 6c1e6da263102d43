/*-------------------------------------------------------------------------
 *
 * json.c
 *	  Documents as JSON, on their way out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/numeric.h"

#include "docsync.h"

static void push_key(JsonbParseState **state, const char *name);
static void push_string(JsonbParseState **state, JsonbIteratorToken token,
						const char *string, int len);
static void push_body(JsonbParseState **state, Jsonb *body);

/*
 * {"id", "clientVersion", "clientId", "LastUpdateUtc", "deleted", "body"}
 */
Jsonb *
docsync_json_document(const StoredDocument *stored)
{
	JsonbParseState *state = NULL;
	JsonbValue	value;
	char		stamp[DOCSYNC_STAMP_LEN];

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);

	push_key(&state, "id");
	push_string(&state, WJB_VALUE, VARDATA_ANY(stored->id),
				VARSIZE_ANY_EXHDR(stored->id));

	push_key(&state, "clientVersion");
	value.type = jbvNumeric;
	value.val.numeric = int64_to_numeric(stored->client_version);
	pushJsonbValue(&state, WJB_VALUE, &value);

	push_key(&state, "clientId");
	push_string(&state, WJB_VALUE, VARDATA_ANY(stored->client_id),
				VARSIZE_ANY_EXHDR(stored->client_id));

	push_key(&state, "LastUpdateUtc");
	push_string(&state, WJB_VALUE, stamp,
				docsync_stamp_format(stored->last_update_utc, stamp));

	push_key(&state, "deleted");
	value.type = jbvBool;
	value.val.boolean = stored->deleted;
	pushJsonbValue(&state, WJB_VALUE, &value);

	push_key(&state, "body");
	push_body(&state, stored->has_body ? DatumGetJsonbP(stored->body) : NULL);

	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static void
push_key(JsonbParseState **state, const char *name)
{
	push_string(state, WJB_KEY, name, strlen(name));
}

static void
push_string(JsonbParseState **state, JsonbIteratorToken token,
			const char *string, int len)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = (char *) string;
	value.val.string.len = len;
	pushJsonbValue(state, token, &value);
}

static void
push_body(JsonbParseState **state, Jsonb *body)
{
	JsonbValue	value;

	if (body == NULL)
		value.type = jbvNull;
	else if (!JsonbExtractScalar(&body->root, &value))
	{
		value.type = jbvBinary;
		value.val.binary.data = &body->root;
		value.val.binary.len = VARSIZE(body) - VARHDRSZ;
	}
	pushJsonbValue(state, WJB_VALUE, &value);
}
