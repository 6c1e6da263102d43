/*-------------------------------------------------------------------------
 *
 * document.c
 *	  A document as it is sent: from JSON to a struct, and every refusal of a
 *	  bad one.
 *
 * It comes as jsonb, over SQL, or as text, over HTTP; the checks are the same.
 * Of a key that comes twice the last counts, as in jsonb.
 *
 * Pure: no table, no lock.  The struct points into what it was read from.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "docsync.h"

#define HINT_DOCUMENT \
	"A document is {\"id\": text, \"clientVersion\": integer, \"body\": any JSON, \"deleted\": boolean}, and may have \"baseVersion\": integer or null, \"baseUtc\": time."

typedef enum Key
{
	KEY_ID,
	KEY_CLIENT_VERSION,
	KEY_BODY,
	KEY_DELETED,
	KEY_BASE_VERSION,
	KEY_BASE_UTC,
	KEY_LAST_UPDATE_UTC,		/* accepted and ignored, as is the next */
	KEY_CLIENT_ID,
	KEY_UNKNOWN
} Key;

static const char *const key_names[] = {
	[KEY_ID] = "id",
	[KEY_CLIENT_VERSION] = "clientVersion",
	[KEY_BODY] = "body",
	[KEY_DELETED] = "deleted",
	[KEY_BASE_VERSION] = "baseVersion",
	[KEY_BASE_UTC] = "baseUtc",
	[KEY_LAST_UPDATE_UTC] = "LastUpdateUtc",
	[KEY_CLIENT_ID] = "clientId",
};

/* The values of the keys, but for the body's, and which there are */
typedef struct Keys
{
	bool		seen[KEY_UNKNOWN];
	SentValue	values[KEY_UNKNOWN];
} Keys;

static void keep_value(Keys *keys, Key key, SentValue value);
static void check_keys(SentDocument *sent, const Keys *keys,
					   int64 max_version);
static void check_id(SentDocument *sent, const SentValue *value);
static int64 check_version(const SentDocument *sent, Key key,
						   const SentValue *value);
static void check_base_utc(SentDocument *sent, const SentValue *value);
static void check_lead(const SentDocument *sent, int64 max_version);
static Key	find_key(const JsonbValue *key);
static RefusePlace place_of(const SentDocument *sent, Key key);
static void refuse_object(const SentDocument *sent, JsonTokenType type) pg_attribute_noreturn();
static void refuse_key(const SentDocument *sent, const char *key) pg_attribute_noreturn();
static void refuse_type(const SentDocument *sent, Key key,
						const SentValue *value, const char *hint) pg_attribute_noreturn();
static void refuse_missing(const SentDocument *sent, Key key) pg_attribute_noreturn();

/*
 * Reads a document out of a request, whose place is the reader's.  It must have
 * an ordinal, and of the rest nothing.
 */
void
docsync_document_read(SentDocument *sent, JsonReader *reader,
					  int64 max_version)
{
	Keys		keys = {0};

	if (docsync_reader_type(reader) != JSON_TOKEN_OBJECT_START)
		refuse_object(sent, docsync_reader_type(reader));

	if (docsync_reader_enter(reader))
	{
		do
		{
			const char *unknown;
			Key			key = docsync_reader_key(reader, key_names,
												 lengthof(key_names), &unknown);

			if ((int) key < 0)
				refuse_key(sent, unknown);
			if (key == KEY_BODY)
			{
				sent->json = docsync_reader_body(reader, &sent->json_len);
				sent->has_body = true;
			}
			else
				keep_value(&keys, key, docsync_reader_value(reader));
			reader->place.key = NULL;
		} while (docsync_reader_go_on(reader, true));
	}

	check_keys(sent, &keys, max_version);
}

/*
 * The same for an element of a jsonb array.
 */
void
docsync_document_parse(SentDocument *sent, const JsonbValue *document,
					   int64 max_version)
{
	Keys		keys = {0};
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	Key			key = KEY_UNKNOWN;

	if (document->type != jbvBinary ||
		!JsonContainerIsObject(document->val.binary.data))
		refuse_object(sent, docsync_value_of_jsonb(document).type);

	it = JsonbIteratorInit(document->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			key = find_key(&value);
			if (key == KEY_UNKNOWN)
				refuse_key(sent, docsync_refuse_quote(value.val.string.val,
													  value.val.string.len));
		}
		else if (token == WJB_VALUE)
		{
			BodyFault	fault = key == KEY_BODY ?
			docsync_body_check(&value) : docsync_body_check_number(&value);

			if (fault != BODY_FINE)
			{
				RefusePlace place = place_of(sent, key);

				docsync_body_refuse(&place, fault);
			}
			if (key == KEY_BODY)
			{
				sent->body = value;
				sent->has_body = true;
			}
			else
				keep_value(&keys, key, docsync_value_of_jsonb(&value));
		}
	}

	check_keys(sent, &keys, max_version);
}

static void
keep_value(Keys *keys, Key key, SentValue value)
{
	/* Who sends a key a million times isn't to take the memory for it. */
	if (keys->values[key].is_copy)
		pfree((char *) keys->values[key].text);
	keys->values[key] = value;
	keys->seen[key] = true;
}

/*
 * Fills in what the keys say.
 */
static void
check_keys(SentDocument *sent, const Keys *keys, int64 max_version)
{
	const SentValue *values = keys->values;
	const bool *seen = keys->seen;

	if (!seen[KEY_ID])
		refuse_missing(sent, KEY_ID);
	check_id(sent, &values[KEY_ID]);

	if (!seen[KEY_CLIENT_VERSION])
		refuse_missing(sent, KEY_CLIENT_VERSION);
	sent->client_version = check_version(sent, KEY_CLIENT_VERSION,
										 &values[KEY_CLIENT_VERSION]);
	check_lead(sent, max_version);

	if (seen[KEY_DELETED])
	{
		const SentValue *deleted = &values[KEY_DELETED];

		if (deleted->type != JSON_TOKEN_TRUE && deleted->type != JSON_TOKEN_FALSE)
			refuse_type(sent, KEY_DELETED, deleted,
						"Send true or false, or leave it out.");
		sent->deleted = deleted->type == JSON_TOKEN_TRUE;
	}
	if (!sent->has_body && !sent->deleted)
		refuse_missing(sent, KEY_BODY);

	sent->has_base = seen[KEY_BASE_VERSION];
	sent->base_exists = sent->has_base &&
		values[KEY_BASE_VERSION].type != JSON_TOKEN_NULL;
	if (sent->base_exists)
		sent->base_version = check_version(sent, KEY_BASE_VERSION,
										   &values[KEY_BASE_VERSION]);

	if (seen[KEY_BASE_UTC] && values[KEY_BASE_UTC].type != JSON_TOKEN_NULL)
	{
		if (!sent->has_base)
			refuse_missing(sent, KEY_BASE_VERSION);
		check_base_utc(sent, &values[KEY_BASE_UTC]);
	}
}

static void
check_id(SentDocument *sent, const SentValue *value)
{
	RefusePlace place = place_of(sent, KEY_ID);

	if (value->type != JSON_TOKEN_STRING)
		refuse_type(sent, KEY_ID, value, "An id is a text of 1 to 500 bytes.");

	sent->id = value->text;
	sent->id_len = value->len;

	if (sent->id_len == 0 || sent->id_len > DOCSYNC_ID_LEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s%s", docsync_refuse_place(&place),
						sent->id_len == 0 ? "empty" : "too long"),
				 docsync_refuse_detail(&place, "It has %d bytes.", sent->id_len),
				 errhint("An id is a text of 1 to %d bytes.", DOCSYNC_ID_LEN)));
}

static int64
check_version(const SentDocument *sent, Key key, const SentValue *value)
{
	RefusePlace place = place_of(sent, key);
	int64		version;
	ValueInteger kind;

	if (value->type != JSON_TOKEN_NUMBER)
		refuse_type(sent, key, value,
					"A clientVersion is an integer of 64 bits.");

	kind = docsync_value_integer(value, &version);
	if (kind != VALUE_INTEGER)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s%s", docsync_refuse_place(&place),
						kind == VALUE_FRACTION ? "not an integer" :
						"out of range"),
				 docsync_refuse_detail(&place, "It is %s.",
									   docsync_refuse_quote(value->text, value->len)),
				 errhint("A clientVersion is an integer from " INT64_FORMAT " to " INT64_FORMAT ".",
						 PG_INT64_MIN, PG_INT64_MAX)));
	return version;
}

static void
check_base_utc(SentDocument *sent, const SentValue *value)
{
	RefusePlace place = place_of(sent, KEY_BASE_UTC);

	if (value->type != JSON_TOKEN_STRING)
		refuse_type(sent, KEY_BASE_UTC, value,
					"A baseUtc is the LastUpdateUtc received.");

	if (!docsync_cursor_parse_utc(pnstrdup(value->text, value->len),
								  &sent->base_utc))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%snot an ISO 8601 time", docsync_refuse_place(&place)),
				 docsync_refuse_detail(&place, "It is \"%s\".",
									   docsync_refuse_quote(value->text, value->len)),
				 errhint("Send back the LastUpdateUtc received.")));
	sent->has_base_utc = true;
}

static void
check_lead(const SentDocument *sent, int64 max_version)
{
	RefusePlace place = place_of(sent, KEY_CLIENT_VERSION);

	if (sent->client_version > max_version)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%stoo far ahead of the server's clock",
						docsync_refuse_place(&place)),
				 docsync_refuse_detail(&place, "It is " INT64_FORMAT ", at most " INT64_FORMAT " is accepted now (docsync.max_version_lead is %d ms).",
									   sent->client_version, max_version,
									   docsync_max_version_lead),
				 errhint("Set the client's clock; a clientVersion is milliseconds since 1970-01-01 UTC.")));
}

static Key
find_key(const JsonbValue *key)
{
	size_t		len = key->val.string.len;

	for (size_t i = 0; i < lengthof(key_names); i++)
	{
		if (len == strlen(key_names[i]) &&
			memcmp(key->val.string.val, key_names[i], len) == 0)
			return (Key) i;
	}
	return KEY_UNKNOWN;
}

static RefusePlace
place_of(const SentDocument *sent, Key key)
{
	RefusePlace place = {
		.document = sent->ordinal,
		.key = key == KEY_UNKNOWN ? NULL : key_names[key],
		.offset = -1
	};

	return place;
}

static void
refuse_object(const SentDocument *sent, JsonTokenType type)
{
	RefusePlace place = place_of(sent, KEY_UNKNOWN);

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%snot an object", docsync_refuse_place(&place)),
			 docsync_refuse_detail(&place, "It is %s.", docsync_value_name(type)),
			 errhint(HINT_DOCUMENT)));
}

static void
refuse_key(const SentDocument *sent, const char *key)
{
	RefusePlace place = place_of(sent, KEY_UNKNOWN);
	RefusePlace detail = {.document = sent->ordinal,.key = key,.offset = -1};

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%sunknown key", docsync_refuse_place(&place)),
			 docsync_refuse_detail(&detail, "It has the key \"%s\".", key),
			 errhint(HINT_DOCUMENT)));
}

static void
refuse_type(const SentDocument *sent, Key key, const SentValue *value,
			const char *hint)
{
	RefusePlace place = place_of(sent, key);

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%swrong type", docsync_refuse_place(&place)),
			 docsync_refuse_detail(&place, "It is %s.",
								   docsync_value_name(value->type)),
			 errhint("%s", hint)));
}

static void
refuse_missing(const SentDocument *sent, Key key)
{
	RefusePlace place = place_of(sent, key);

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%smissing", docsync_refuse_place(&place)),
			 docsync_refuse_detail(&place, "The document has no \"%s\".",
								   key_names[key]),
			 errhint("%s", key == KEY_BODY ?
					 "Send a body; only a deleted document may come without." :
					 HINT_DOCUMENT)));
}
