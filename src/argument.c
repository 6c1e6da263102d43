/*-------------------------------------------------------------------------
 *
 * argument.c
 *	  The arguments of an HTTP request: the keys of its body, the parameters of
 *	  its query string.
 *
 * Each kind of request accepts some of them (its keys) and refuses others.
 * What an argument means is the same for all, and is defined here, once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "catalog/pg_type.h"
#include "common/string.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "docsync.h"

#define HINT_BODY \
	"Send an array of documents, or {\"clientId\": text, \"documents\": array, \"collection\": text, \"atomic\": boolean}; for a sync the object, with \"cursor\": text, \"origin\": text, \"maxDocuments\": integer, \"reconcile\", \"state\", \"tombstones\": boolean, and of several collections \"collections\": array."

/*
 * The most collections in one request: fewer, by some margin, than the number
 * of marks at which a transaction marks all collections (stamp.c)
 */
#define COLLECTIONS_MAX			60

/* The keys of one of several collections */
static const char *const collection_keys[] = {
	"collection", "cursor", "documents", "state", NULL
};

/* The kinds of values that keys of a request's body have */
typedef enum FieldKind
{
	FIELD_TEXT,
	FIELD_MAX,					/* a number of documents, at least 1 */
	FIELD_BOOLEAN,
	FIELD_NEGATED,				/* a boolean that is stored negated */
	FIELD_STATE,				/* a boolean, or a text */
	FIELD_DOCUMENTS,
	FIELD_COLLECTIONS,
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
	FIELD("collections", FIELD_COLLECTIONS, collections),
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
static Request *read_collections(JsonReader *reader, int *count);
static bool *read_buckets(JsonReader *reader);
static Datum *read_ids(JsonReader *reader, int *count);
pg_noreturn static void refuse_many(const char *message, const char *detail);
pg_noreturn static void refuse(const RefusePlace *place, const char *message,
							   const char *detail, const char *hint);

/*
 * Reads the body of a request, the one argument of docsync_docs(bytea) and its
 * like: an object that may have the given keys.  If the first of them is
 * "documents", the body may also be just that array.
 *
 * It comes as bytes, since invalid text or json would be refused before we
 * could say where it is wrong, and a jsonb would be made of everything before
 * we could say that it is too much.
 */
void
docsync_argument_read(FunctionCallInfo fcinfo, Request *request,
					  const char *const *keys)
{
	JsonReader	reader;
	bytea	   *body;

	/* 0.1's function took jsonb; this raises an error that says what to do. */
	if (get_fn_expr_argtype(fcinfo->flinfo, 0) == JSONBOID)
		docsync_schema_open(STORE_READ);

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the body is null"),
				 errhint("%s", hint_of(keys))));

	body = PG_GETARG_BYTEA_PP(0);
	docsync_lexer_begin(&reader, VARDATA_ANY(body), VARSIZE_ANY_EXHDR(body),
						false);
	if (docsync_reader_type(&reader) == JSON_TOKEN_ARRAY_START &&
		strcmp(keys[0], "documents") == 0)
		request->documents = docsync_batch_read(&reader, 0);
	else
		read_object(&reader, request, keys);
	docsync_reader_end(&reader);
}

/*
 * Reads an object into the request.  A key whose value is null counts as
 * absent.  If a key comes twice, the last one counts, and what was made of the
 * first is freed: a key sent a million times must not take the memory for it.
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
		refuse(&reader->place, keys == collection_keys ? "not an object" :
			   "the body is not an object",
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
			refuse(&reader->place, keys == collection_keys ? "unknown key" :
				   "unknown key in the body",
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

/* A hint that says what may be sent */
static const char *
hint_of(const char *const *keys)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; keys[i] != NULL; i++)
	{
		if (strcmp(keys[i], "documents") == 0 && keys != collection_keys)
			return HINT_BODY;
		appendStringInfo(&buf, i == 0 ? "Send an object with the keys \"%s\"" : ", \"%s\"",
						 keys[i]);
	}
	appendStringInfoChar(&buf, '.');
	return buf.data;
}

/*
 * The field of a key.  There always is one: keys come from our own lists, not
 * from what was sent.
 */
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

/*
 * Reads the next value into its field of the request.  A value of the wrong
 * type is refused, with the given hint.
 */
static void
read_field(JsonReader *reader, const Field *field, Request *request,
		   const char *hint)
{
	RefusePlace place = reader->place;
	SentValue	value;

	switch (field->kind)
	{
		case FIELD_DOCUMENTS:
			request->documents = docsync_batch_read(reader, request->documents_before);
			return;
		case FIELD_COLLECTIONS:
			request->collections = read_collections(reader,
													&request->ncollections);
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
 * Fills in a field that is neither an array nor an object; returns false if
 * the value has a type that the field can't have.
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
			docsync_request_check_max(request->max_documents);
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
			pg_fallthrough;
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
 * Reads what is asked for of each of several collections: a Request for each,
 * without what applies to all of them.
 */
static Request *
read_collections(JsonReader *reader, int *count)
{
	Request    *requests = palloc0(sizeof(Request) * COLLECTIONS_MAX);
	int			documents = 0;

	*count = 0;
	if (docsync_reader_type(reader) != JSON_TOKEN_ARRAY_START)
		refuse(&reader->place, "not an array",
			   psprintf("It is %s.", docsync_value_name(docsync_reader_type(reader))),
			   hint_of(collection_keys));
	reader->place.key = NULL;
	if (!docsync_reader_enter(reader))
		return requests;
	do
	{
		Request    *request = &requests[*count];

		if (*count == COLLECTIONS_MAX)
			refuse_many("too many collections",
						psprintf("There are more than %d.", COLLECTIONS_MAX));
		request->documents_before = documents;

		reader->place.collection = ++*count;
		read_object(reader, request, collection_keys);
		reader->place.collection = 0;

		if (request->documents != NULL)
			documents += request->documents->count;
	} while (docsync_reader_go_on(reader, false));

	return requests;
}

/*
 * Reads which buckets are wanted.
 */
static bool *
read_buckets(JsonReader *reader)
{
	bool	   *wanted = palloc0(sizeof(bool) * DIGEST_BUCKETS);

	if (docsync_reader_type(reader) != JSON_TOKEN_ARRAY_START)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"buckets\" is not an array"),
				 errhint("Give integers from 0 to %d, or leave it out to get all.",
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
 * Reads ids, as texts.
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
			refuse_many("too many ids",
						psprintf("There are more than docsync.max_batch, %d.",
								 docsync_max_batch));
		if (*count == size)
			ids = repalloc_huge(ids, sizeof(Datum) * (size *= 2));
		ids[(*count)++] = PointerGetDatum(cstring_to_text_with_len(value.text,
																   value.len));
	} while (docsync_reader_go_on(reader, false));

	return ids;
}

/*
 * Finds the field that a name in a query string stands for, if it is one of
 * the request's keys and not one for a body only.  Returns its index in
 * fields, for docsync_argument_set(), or -1 if there is none.
 */
int
docsync_argument_find(const char *name, const char *const *keys)
{
	const Field *field;

	while (*keys != NULL && strcmp(*keys, name) != 0)
		keys++;
	if (*keys == NULL)
		return -1;

	field = find_field(name);
	return is_of_body(field) ? -1 : field - fields;
}

/* Can the field be given in a body only?  A query string has no arrays. */
static bool
is_of_body(const Field *field)
{
	return field->kind == FIELD_DOCUMENTS ||
		field->kind == FIELD_COLLECTIONS ||
		field->kind == FIELD_BUCKETS || field->kind == FIELD_IDS;
}

/*
 * Sets a field found by docsync_argument_find() from its value as text.
 */
void
docsync_argument_set(Request *request, int which, const char *value)
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
			docsync_request_check_max(request->max_documents);
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
			elog(ERROR, "\"%s\" is not a parameter", field->key);
	}
}

/*
 * The names, out of a request's keys, that its query string may have.
 */
const char *
docsync_argument_parameters(const char *const *keys)
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

/*
 * Refuses a request that asks for too much at once.  The message becomes
 * HTTP's status line, so it names no place.
 */
static void
refuse_many(const char *message, const char *detail)
{
	RefusePlace whole = {.offset = -1};

	docsync_refuse_raise(docsync_refuse_describe(&whole, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
												 message, detail, "Split it into several requests."));
}

/* Refuses the request because of what is at a place: SQLSTATE 22023. */
static void
refuse(const RefusePlace *place, const char *message, const char *detail,
	   const char *hint)
{
	docsync_refuse_raise(docsync_refuse_describe(place, ERRCODE_INVALID_PARAMETER_VALUE,
												 message, detail, hint));
}
