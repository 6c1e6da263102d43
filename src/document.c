/*-------------------------------------------------------------------------
 *
 * document.c
 *	  A document as it is sent: from JSON to a struct, with all checks.
 *
 * It comes as jsonb, over SQL, or as text, over HTTP; the checks are the same.
 * If a key comes twice, the last one counts, as in jsonb.
 *
 * Pure: no table, no lock.  The struct points into what it was read from.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

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

/* The values of the keys, except the body, and which keys there are */
typedef struct Keys
{
	bool		seen[KEY_UNKNOWN];
	SentValue	values[KEY_UNKNOWN];
} Keys;

static void take_refusal(const Batch *batch, SentDocument *sent,
						 JsonReader *reader);
static void keep_value(Keys *keys, Key key, SentValue value);
static void check_keys(const Batch *batch, SentDocument *sent,
					   const Keys *keys, int64 max_version);
static void check_id(const Batch *batch, SentDocument *sent,
					 const SentValue *value);
static int64 check_version(const Batch *batch, SentDocument *sent, Key key,
						   const SentValue *value);
static void check_deleted(const Batch *batch, SentDocument *sent,
						  const SentValue *value);
static void check_base_utc(const Batch *batch, SentDocument *sent,
						   const SentValue *value);
static Key	find_key(const JsonbValue *key);
static void refuse_object(const Batch *batch, SentDocument *sent,
						  JsonTokenType type);
static void refuse_key(const Batch *batch, SentDocument *sent,
					   const char *key);
static void refuse_type(const Batch *batch, SentDocument *sent, Key key,
						const SentValue *value, const char *hint);
static void refuse_missing(const Batch *batch, SentDocument *sent, Key key);

/*
 * Reads a document out of a request, at the reader's place, into a struct of
 * which only the ordinal and the collection are set.  If it is refused, it is
 * read to its end all the same, so that the next one can be read.
 */
void
docsync_document_read(const Batch *batch, SentDocument *sent,
					  JsonReader *reader, int64 max_version)
{
	Keys		keys = {0};

	take_refusal(batch, sent, reader);
	if (docsync_reader_type(reader) != JSON_TOKEN_OBJECT_START)
	{
		refuse_object(batch, sent, docsync_reader_value(reader).type);
		take_refusal(batch, sent, reader);
		return;
	}

	if (docsync_reader_enter(reader))
	{
		do
		{
			const char *unknown;
			Key			key = docsync_reader_key(reader, key_names,
												 lengthof(key_names), &unknown);

			if ((int) key < 0 && unknown != NULL)
				refuse_key(batch, sent, unknown);
			take_refusal(batch, sent, reader);

			if ((int) key < 0)
				docsync_reader_value(reader);
			else if (key == KEY_BODY)
			{
				sent->json = docsync_reader_body(reader, &sent->json_len);
				sent->has_body = true;
			}
			else
			{
				SentValue	value = docsync_reader_value(reader);

				if (!value.is_bad)
					keep_value(&keys, key, value);
			}
			take_refusal(batch, sent, reader);

			if (key == KEY_ID)
			{
				const SentValue *id = &keys.values[KEY_ID];

				/* An earlier id is freed, even if this one is a number. */
				reader->place.id = id->type == JSON_TOKEN_STRING ? id->text : NULL;
				reader->place.id_len = id->len;
			}
			reader->place.key = NULL;
		} while (docsync_reader_go_on(reader, true));
	}
	reader->place.id = NULL;

	check_keys(batch, sent, &keys, max_version);
}

/*
 * The same for an element of a jsonb array.
 */
void
docsync_document_parse(const Batch *batch, SentDocument *sent,
					   const JsonbValue *document, int64 max_version)
{
	Keys		keys = {0};
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	Key			key = KEY_UNKNOWN;

	if (document->type != jbvBinary ||
		!JsonContainerIsObject(document->val.binary.data))
	{
		refuse_object(batch, sent, docsync_value_type_of_jsonb(document));
		return;
	}

	it = JsonbIteratorInit(document->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			key = find_key(&value);
			if (key == KEY_UNKNOWN)
				refuse_key(batch, sent,
						   docsync_refuse_quote(value.val.string.val,
												value.val.string.len));
		}
		else if (token == WJB_VALUE && key != KEY_UNKNOWN)
		{
			BodyFault	fault = key == KEY_BODY ?
			docsync_body_check(&value) : docsync_body_check_number(&value);

			if (fault != BODY_FINE)
			{
				RefusePlace place = docsync_refuse_place(sent, key_names[key]);

				docsync_refuse_note(batch, sent,
									docsync_body_describe(&place, fault));
			}
			else if (key == KEY_BODY)
			{
				sent->body = value;
				sent->has_body = true;
			}
			else
				keep_value(&keys, key, docsync_value_of_jsonb(&value));
		}
	}

	check_keys(batch, sent, &keys, max_version);
}

/*
 * Takes over what the reader has refused.
 */
static void
take_refusal(const Batch *batch, SentDocument *sent, JsonReader *reader)
{
	if (reader->refusal != NULL)
		docsync_refuse_note(batch, sent, reader->refusal);
	reader->refusal = NULL;
	reader->is_refused = sent->refusal != NULL;
}

/* Keeps the value of a key, in place of an earlier one of the same key. */
static void
keep_value(Keys *keys, Key key, SentValue value)
{
	/* A key that is sent a million times must not take the memory for it. */
	if (keys->values[key].is_copy)
		pfree((char *) keys->values[key].text);
	keys->values[key] = value;
	keys->seen[key] = true;
}

/*
 * Checks the values of the keys and fills in the struct.
 */
static void
check_keys(const Batch *batch, SentDocument *sent, const Keys *keys,
		   int64 max_version)
{
	const SentValue *values = keys->values;
	const bool *seen = keys->seen;

	if (seen[KEY_ID])
		check_id(batch, sent, &values[KEY_ID]);
	else
		refuse_missing(batch, sent, KEY_ID);

	if (seen[KEY_CLIENT_VERSION])
		sent->client_version = check_version(batch, sent, KEY_CLIENT_VERSION,
											 &values[KEY_CLIENT_VERSION]);
	else
		refuse_missing(batch, sent, KEY_CLIENT_VERSION);

	if (seen[KEY_DELETED])
		check_deleted(batch, sent, &values[KEY_DELETED]);
	if (!sent->has_body && !sent->deleted)
		refuse_missing(batch, sent, KEY_BODY);

	sent->has_base = seen[KEY_BASE_VERSION];
	sent->base_exists = sent->has_base &&
		values[KEY_BASE_VERSION].type != JSON_TOKEN_NULL;
	if (sent->base_exists)
		sent->base_version = check_version(batch, sent, KEY_BASE_VERSION,
										   &values[KEY_BASE_VERSION]);

	if (seen[KEY_BASE_UTC] && values[KEY_BASE_UTC].type != JSON_TOKEN_NULL)
	{
		if (!sent->has_base)
			refuse_missing(batch, sent, KEY_BASE_VERSION);
		check_base_utc(batch, sent, &values[KEY_BASE_UTC]);
	}

	if (sent->client_version > max_version)
		docsync_refuse_document(batch, sent, ERRCODE_INVALID_PARAMETER_VALUE,
								key_names[KEY_CLIENT_VERSION],
								"too far ahead of the server's clock",
								psprintf("It is " INT64_FORMAT ", but at most " INT64_FORMAT " is accepted now (docsync.max_version_lead is %d ms).",
										 sent->client_version, max_version,
										 docsync_max_version_lead),
								"Set the client's clock; a clientVersion is in milliseconds since 1970-01-01 UTC.");
}

/*
 * Fills in the id.  An id of the wrong length is filled in, too, so that the
 * result can name it.
 */
static void
check_id(const Batch *batch, SentDocument *sent, const SentValue *value)
{
	if (value->type != JSON_TOKEN_STRING)
	{
		refuse_type(batch, sent, KEY_ID, value,
					"An id is a text of 1 to 500 bytes.");
		return;
	}

	sent->id = value->text;
	sent->id_len = value->len;

	if (sent->id_len == 0 || sent->id_len > DOCSYNC_ID_LEN)
		docsync_refuse_document(batch, sent, ERRCODE_INVALID_PARAMETER_VALUE,
								key_names[KEY_ID],
								sent->id_len == 0 ? "empty" : "too long",
								psprintf("It has %d bytes.", sent->id_len),
								"An id is a text of 1 to 500 bytes.");
}

/*
 * Returns a version.  If it is refused, and that is only noted, the result
 * means nothing.
 */
static int64
check_version(const Batch *batch, SentDocument *sent, Key key,
			  const SentValue *value)
{
	int64		version;
	ValueInteger kind;

	if (value->type != JSON_TOKEN_NUMBER)
	{
		refuse_type(batch, sent, key, value,
					"A clientVersion is a 64-bit integer.");
		return 0;
	}

	kind = docsync_value_integer(value, &version);
	if (kind != VALUE_INTEGER)
		docsync_refuse_document(batch, sent, ERRCODE_INVALID_PARAMETER_VALUE,
								key_names[key],
								kind == VALUE_FRACTION ? "not an integer" :
								"out of range",
								psprintf("It is %s.",
										 docsync_refuse_quote(value->text, value->len)),
								"A clientVersion is an integer from -9223372036854775808 to 9223372036854775807.");
	return version;
}

/* Fills in whether the document is a tombstone. */
static void
check_deleted(const Batch *batch, SentDocument *sent, const SentValue *value)
{
	sent->deleted = value->type == JSON_TOKEN_TRUE;
	if (!sent->deleted && value->type != JSON_TOKEN_FALSE)
		refuse_type(batch, sent, KEY_DELETED, value,
					"Send true or false, or leave it out.");
}

/* Fills in the stamp of the version that the document is based on. */
static void
check_base_utc(const Batch *batch, SentDocument *sent, const SentValue *value)
{
	sent->has_base_utc = true;
	if (value->type != JSON_TOKEN_STRING)
		refuse_type(batch, sent, KEY_BASE_UTC, value,
					"A baseUtc is the LastUpdateUtc that was received.");
	else if (!docsync_utc_parse(pnstrdup(value->text, value->len),
								&sent->base_utc))
		docsync_refuse_document(batch, sent, ERRCODE_INVALID_PARAMETER_VALUE,
								key_names[KEY_BASE_UTC],
								"not an ISO 8601 time", NULL,
								"Send back the LastUpdateUtc that was received.");
}

/* Identifies a key.  Names are case-sensitive. */
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

/* Refuses a value that has the given type instead of being an object. */
static void
refuse_object(const Batch *batch, SentDocument *sent, JsonTokenType type)
{
	docsync_refuse_document(batch, sent, ERRCODE_INVALID_PARAMETER_VALUE, NULL,
							"not an object",
							psprintf("It is %s.", docsync_value_name(type)),
							HINT_DOCUMENT);
}

/*
 * Refuses a document for a key that it must not have.  key is quoted already.
 */
static void
refuse_key(const Batch *batch, SentDocument *sent, const char *key)
{
	docsync_refuse_document(batch, sent, ERRCODE_INVALID_PARAMETER_VALUE, NULL,
							"unknown key",
							psprintf("It has the key \"%s\".", key),
							HINT_DOCUMENT);
}

/* Refuses a document for a key whose value is of the wrong type. */
static void
refuse_type(const Batch *batch, SentDocument *sent, Key key,
			const SentValue *value, const char *hint)
{
	docsync_refuse_document(batch, sent, ERRCODE_INVALID_PARAMETER_VALUE,
							key_names[key], "wrong type",
							psprintf("It is %s.", docsync_value_name(value->type)),
							hint);
}

/* Refuses a document for a key that it lacks. */
static void
refuse_missing(const Batch *batch, SentDocument *sent, Key key)
{
	docsync_refuse_document(batch, sent, ERRCODE_INVALID_PARAMETER_VALUE,
							key_names[key], "missing", NULL,
							key == KEY_BODY ?
							"Send a body; only a deleted document may have none." :
							HINT_DOCUMENT);
}
