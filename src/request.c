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

#include <ctype.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/string.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "docsync.h"

#define DEFAULT_COLLECTION		"default"

#define HINT_BODY \
	"Send an array of documents, or {\"clientId\": text, \"documents\": array, \"collection\": text, \"atomic\": boolean}; for a sync the object, with \"cursor\": text, \"origin\": text, \"maxDocuments\": integer, \"reconcile\", \"state\", \"tombstones\": boolean."

/* What the value of a key of a request's body is to be */
typedef enum FieldKind
{
	FIELD_TEXT,
	FIELD_MAX,					/* a number of documents, from 1 on */
	FIELD_BOOLEAN,
	FIELD_NEGATED,				/* a boolean whose contrary is kept */
	FIELD_STATE,				/* a boolean, or a text */
	FIELD_DOCUMENTS,
	FIELD_BUCKETS,
	FIELD_IDS
} FieldKind;

typedef struct Field
{
	const char *key;
	FieldKind	kind;
	size_t		offset;			/* in Request */
	size_t		size;
} Field;

#define FIELD(key, kind, member) \
	{key, kind, offsetof(Request, member), sizeof(((Request *) NULL)->member)}

static const Field fields[] = {
	FIELD("clientId", FIELD_TEXT, client_id),
	FIELD("collection", FIELD_TEXT, collection),
	FIELD("cursor", FIELD_TEXT, cursor),
	FIELD("origin", FIELD_TEXT, origin),
	FIELD("after", FIELD_TEXT, after),
	FIELD("sinceUtc", FIELD_TEXT, since_utc),
	FIELD("maxDocuments", FIELD_MAX, max_documents),
	FIELD("reconcile", FIELD_BOOLEAN, reconcile),
	FIELD("tombstones", FIELD_NEGATED, no_tombstones),
	FIELD("atomic", FIELD_NEGATED, not_atomic),
	FIELD("state", FIELD_STATE, state),
	FIELD("documents", FIELD_DOCUMENTS, documents),
	FIELD("buckets", FIELD_BUCKETS, buckets),
	FIELD("ids", FIELD_IDS, ids),
};

static void read_object(JsonReader *reader, Request *request,
						const char *const *keys);
static const char *hint_of(const char *const *keys);
static const Field *find_field(const char *key);
static void read_field(JsonReader *reader, const Field *field,
					   Request *request, const char *hint);
static bool take_value(const Field *field, const SentValue *value,
					   Request *request);
static bool is_of_body(const Field *field);
static bool *read_buckets(JsonReader *reader);
static Datum *read_ids(JsonReader *reader, int *count);
static void refuse(const RefusePlace *place, const char *message,
				   const char *detail, const char *hint) pg_attribute_noreturn();
static Jsonb *get_setting(const char *setting);
static text *get_field(Jsonb *object, const char *key);
static void check_max_documents(int max_documents);

/*
 * Reads the body of a request, the one argument of docsync_docs(bytea) and the
 * like: an object that may have the given keys.  Where the first of these is
 * "documents", an array is that alone.
 *
 * As bytes, since a text or a json would be refused before we could say where
 * it is wrong, and a jsonb be made, of everything, before we could say that it
 * is too much.
 */
void
docsync_request_read(FunctionCallInfo fcinfo, Request *request,
					 const char *const *keys)
{
	JsonReader	reader;
	bytea	   *body;

	/* 0.1's function had a jsonb; this says what to do about it. */
	if (get_fn_expr_argtype(fcinfo->flinfo, 0) == JSONBOID)
		docsync_schema_open(STORE_READ);

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the body is null"),
				 errhint("%s", hint_of(keys))));

	body = PG_GETARG_BYTEA_PP(0);
	docsync_reader_begin(&reader, VARDATA_ANY(body), VARSIZE_ANY_EXHDR(body),
						 false);
	if (docsync_reader_type(&reader) == JSON_TOKEN_ARRAY_START &&
		strcmp(keys[0], "documents") == 0)
		request->documents = docsync_batch_read(&reader);
	else
		read_object(&reader, request, keys);
	docsync_reader_end(&reader);
}

/*
 * What is null is as if it weren't there.  Of a key that comes twice the last
 * counts, and what was made of the first is gone: who sends one a million times
 * isn't to take the memory for it.
 */
static void
read_object(JsonReader *reader, Request *request, const char *const *keys)
{
	const char *hint = hint_of(keys);
	const Request defaults = *request;
	MemoryContext contexts[lengthof(fields)] = {NULL};
	int			count = 0;

	while (keys[count] != NULL)
		count++;

	if (docsync_reader_type(reader) != JSON_TOKEN_OBJECT_START)
		refuse(&reader->place, "the body is not an object",
			   psprintf("It is %s.", docsync_value_name(docsync_reader_type(reader))),
			   hint);
	if (!docsync_reader_enter(reader))
		return;

	do
	{
		const char *unknown;
		int			key = docsync_reader_key(reader, keys, count, &unknown);
		const Field *field;
		MemoryContext *context;
		MemoryContext oldcontext;

		if (key < 0)
			refuse(&reader->place, "unknown key in the body",
				   psprintf("It has the key \"%s\".", unknown), hint);

		field = find_field(keys[key]);
		context = &contexts[field - fields];
		if (*context == NULL)
			*context = AllocSetContextCreate(CurrentMemoryContext,
											 "docsync request",
											 ALLOCSET_DEFAULT_SIZES);
		else
			MemoryContextReset(*context);

		oldcontext = MemoryContextSwitchTo(*context);
		if (docsync_reader_type(reader) == JSON_TOKEN_NULL)
		{
			docsync_reader_value(reader);
			memcpy((char *) request + field->offset,
				   (const char *) &defaults + field->offset, field->size);
		}
		else
			read_field(reader, field, request, hint);
		reader->place.key = NULL;
		MemoryContextSwitchTo(oldcontext);
	} while (docsync_reader_go_on(reader, true));
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

static const Field *
find_field(const char *key)
{
	for (size_t i = 0; i < lengthof(fields); i++)
	{
		if (strcmp(fields[i].key, key) == 0)
			return &fields[i];
	}
	elog(ERROR, "no field for key \"%s\"", key);
}

static void
read_field(JsonReader *reader, const Field *field, Request *request,
		   const char *hint)
{
	RefusePlace place = reader->place;
	SentValue	value;

	switch (field->kind)
	{
		case FIELD_DOCUMENTS:
			request->documents = docsync_batch_read(reader);
			return;
		case FIELD_BUCKETS:
			request->buckets = read_buckets(reader);
			return;
		case FIELD_IDS:
			request->ids = read_ids(reader, &request->nids);
			return;
		default:
			break;
	}

	value = docsync_reader_value(reader);
	if (!take_value(field, &value, request))
		refuse(&place, "wrong type",
			   psprintf("It is %s.", docsync_value_name(value.type)), hint);
}

/*
 * Fills in a field that is neither an array nor an object; false if the value is
 * of a type that it can't have.
 */
static bool
take_value(const Field *field, const SentValue *value, Request *request)
{
	void	   *member = (char *) request + field->offset;
	bool		is_true = value->type == JSON_TOKEN_TRUE;
	bool		is_boolean = is_true || value->type == JSON_TOKEN_FALSE;

	switch (field->kind)
	{
		case FIELD_MAX:
			if (value->type != JSON_TOKEN_NUMBER)
				return false;
			request->max_documents = docsync_value_int(value);
			check_max_documents(request->max_documents);
			return true;
		case FIELD_BOOLEAN:
		case FIELD_NEGATED:
			*(bool *) member = is_true == (field->kind == FIELD_BOOLEAN);
			return is_boolean;
		case FIELD_STATE:
			if (is_boolean)
			{
				request->state = is_true ? cstring_to_text("true") : NULL;
				return true;
			}
			/* FALLTHROUGH */
		case FIELD_TEXT:
			if (value->type != JSON_TOKEN_STRING)
				return false;
			*(text **) member = cstring_to_text_with_len(value->text, value->len);
			return true;
		default:
			return false;
	}
}

/*
 * Which buckets are wanted.
 */
static bool *
read_buckets(JsonReader *reader)
{
	bool	   *wanted = palloc0(sizeof(bool) * DIGEST_BUCKETS);

	if (docsync_reader_type(reader) != JSON_TOKEN_ARRAY_START)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"buckets\" is not an array"),
				 errhint("Give integers from 0 to %d, or leave it out for all.",
						 DIGEST_BUCKETS - 1)));
	if (!docsync_reader_enter(reader))
		return wanted;
	do
	{
		SentValue	value = docsync_reader_value(reader);
		int			bucket = value.type == JSON_TOKEN_NUMBER ?
		docsync_value_int(&value) : -1;

		if (bucket < 0 || bucket >= DIGEST_BUCKETS)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"buckets\": out of range"),
					 errhint("Give integers from 0 to %d.", DIGEST_BUCKETS - 1)));
		wanted[bucket] = true;
	} while (docsync_reader_go_on(reader, false));

	return wanted;
}

/*
 * Ids, as texts.
 */
static Datum *
read_ids(JsonReader *reader, int *count)
{
	int			size = 16;
	Datum	   *ids = palloc(sizeof(Datum) * size);

	*count = 0;
	if (docsync_reader_type(reader) != JSON_TOKEN_ARRAY_START)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"ids\" is not an array"),
				 errhint("Give the ids of the documents.")));
	if (!docsync_reader_enter(reader))
		return ids;
	do
	{
		SentValue	value = docsync_reader_value(reader);

		if (value.type != JSON_TOKEN_STRING)
			refuse(&reader->place, psprintf("id %d has the wrong type", *count + 1),
				   psprintf("It is %s.", docsync_value_name(value.type)),
				   "Give the ids of the documents.");
		if (*count == docsync_max_batch)
		{
			RefusePlace whole = {.offset = -1};

			docsync_refuse_raise(docsync_refuse_describe(&whole, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
														 "too many ids",
														 psprintf("There are more than docsync.max_batch, %d.",
																  docsync_max_batch),
														 "Ask several times."));
		}
		if (*count == size)
			ids = repalloc_huge(ids, sizeof(Datum) * (size *= 2));
		ids[(*count)++] = PointerGetDatum(cstring_to_text_with_len(value.text,
																   value.len));
	} while (docsync_reader_go_on(reader, false));

	return ids;
}

/*
 * Fills in what a query string says: the field of a name, if it is one of the
 * keys that the request knows and not one for a body alone.  Returns its place
 * in fields, or -1 if there is none.
 */
int
docsync_request_find(const char *name, const char *const *keys)
{
	const Field *field;

	while (*keys != NULL && strcmp(*keys, name) != 0)
		keys++;
	if (*keys == NULL)
		return -1;

	field = find_field(name);
	return is_of_body(field) ? -1 : field - fields;
}

static bool
is_of_body(const Field *field)
{
	return field->kind == FIELD_DOCUMENTS || field->kind == FIELD_BUCKETS ||
		field->kind == FIELD_IDS;
}

/*
 * Fills in a field that docsync_request_find() has found, given its value as a
 * text.
 */
void
docsync_request_set(Request *request, int which, const char *value)
{
	const Field *field = &fields[which];
	void	   *member = (char *) request + field->offset;
	bool		is_true = strcmp(value, "true") == 0;
	char	   *end;

	switch (field->kind)
	{
		case FIELD_TEXT:
		case FIELD_STATE:
			*(text **) member = cstring_to_text(value);
			break;
		case FIELD_MAX:
			errno = 0;
			request->max_documents = strtoint(value, &end, 10);
			if (errno != 0 || !isdigit((unsigned char) *value) || *end != '\0')
				request->max_documents = 0;
			check_max_documents(request->max_documents);
			break;
		case FIELD_BOOLEAN:
		case FIELD_NEGATED:
			if (!is_true && strcmp(value, "false") != 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("\"%s\" is neither true nor false", field->key)));
			*(bool *) member = is_true == (field->kind == FIELD_BOOLEAN);
			break;
		default:
			elog(ERROR, "\"%s\" is no parameter", field->key);
	}
}

/*
 * The parameters that a query string may have, of the keys that a request knows.
 */
const char *
docsync_request_parameters(const char *const *keys)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (; *keys != NULL; keys++)
	{
		if (!is_of_body(find_field(*keys)))
			appendStringInfo(&buf, buf.len == 0 ? "%s" : ", %s", *keys);
	}
	return buf.data;
}

static void
refuse(const RefusePlace *place, const char *message, const char *detail,
	   const char *hint)
{
	docsync_refuse_raise(docsync_refuse_describe(place, ERRCODE_INVALID_PARAMETER_VALUE,
												 message, detail, hint));
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
				 errdetail("It is %s.",
						   docsync_value_name(docsync_value_type_of_jsonb(&value)))));

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
	check_max_documents(max_documents);
	return max_documents;
}

static void
check_max_documents(int max_documents)
{
	if (max_documents < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"maxDocuments\" is out of range"),
				 errhint("Give an integer from 1 on.")));
}
