/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  An upload's documents, from JSON to structs, and every refusal of bad
 *	  input.
 *
 * Pure: no table, no lock.  What is bad is refused before anything is stored
 * or stamped (refuse.c).  The structs point into the jsonb they were read from,
 * which has to outlive them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "docsync.h"

/* Longest part of a refused value that is quoted back, in bytes */
#define QUOTE_LEN	40

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

static void group_by_id(Batch *batch);
static int	compare_documents(const void *a, const void *b);
static void parse_document(Batch *batch, SentDocument *sent,
						   JsonbContainer *object, int64 max_version);
static Key	find_key(const JsonbValue *key);
static void parse_id(Batch *batch, SentDocument *sent,
					 const JsonbValue *value);
static int64 parse_version(Batch *batch, SentDocument *sent, Key key,
						   const JsonbValue *value);
static void parse_base_version(Batch *batch, SentDocument *sent,
							   const JsonbValue *value);
static void parse_base_utc(Batch *batch, SentDocument *sent,
						   const JsonbValue *value);
static void parse_deleted(Batch *batch, SentDocument *sent,
						  const JsonbValue *value);
static void parse_body(Batch *batch, SentDocument *sent,
					   const JsonbValue *value);
static int64 printed_within(const JsonbContainer *container);
static int	printed_digits(Numeric number);
static void refuse_type(Batch *batch, SentDocument *sent, Key key,
						const JsonbValue *value, const char *hint);
static void refuse_missing(Batch *batch, SentDocument *sent, Key key);

/*
 * Reads a batch, in the current memory context.  A document that is refused
 * is noted as such unless the batch is atomic; then there is an error.
 */
Batch *
docsync_batch_parse(const JsonbValue *documents, bool atomic)
{
	Batch	   *batch = palloc(sizeof(Batch));
	int64		max_version = PG_INT64_MAX;
	JsonbContainer *array;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;

	if (documents->type == jbvBinary &&
		JsonbExtractScalar(documents->val.binary.data, &value))
		documents = &value;
	if (documents->type != jbvBinary ||
		!JsonContainerIsArray(documents->val.binary.data))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("documents is not an array"),
				 errdetail("It is %s.", docsync_batch_type_name(documents)),
				 errhint("Send an array of documents, even for one document.")));

	array = documents->val.binary.data;
	if (JsonContainerSize(array) > (uint32) docsync_max_batch)
		ereport(ERROR,
				(errcode(docsync_request_sqlstate(ERRCODE_PROGRAM_LIMIT_EXCEEDED)),
				 errmsg("too many documents"),
				 errdetail("The batch has %u documents, docsync.max_batch is %d.",
						   JsonContainerSize(array), docsync_max_batch),
				 errhint("Send several smaller batches.")));

	if (docsync_max_version_lead >= 0)
		max_version = docsync_max_version_lead +
			(GetCurrentTimestamp() - SetEpochTimestamp()) / 1000;

	batch->atomic = atomic;
	batch->count = 0;
	batch->documents = palloc(sizeof(SentDocument) * JsonContainerSize(array));

	it = JsonbIteratorInit(array);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		SentDocument *sent;

		if (token != WJB_ELEM)
			continue;

		CHECK_FOR_INTERRUPTS();

		sent = &batch->documents[batch->count++];
		memset(sent, 0, sizeof(*sent));
		sent->ordinal = batch->count;

		if (value.type == jbvBinary &&
			JsonContainerIsObject(value.val.binary.data))
			parse_document(batch, sent, value.val.binary.data, max_version);
		else
			docsync_refuse_document(batch, sent, ERRCODE_INVALID_PARAMETER_VALUE,
									NULL, "not an object",
									psprintf("It is %s.", docsync_batch_type_name(&value)),
									HINT_DOCUMENT);
	}

	group_by_id(batch);
	return batch;
}

/*
 * Which group has the id?  It is there.
 */
int
docsync_batch_find(Batch *batch, const text *id)
{
	int			low = 0;
	int			high = batch->ngroups - 1;
	int			middle = batch->next;	/* rows come in the order of ids */

	while (low <= high)
	{
		SentDocument *sent = batch->groups[middle].documents[0];
		int			cmp;

		cmp = docsync_batch_compare_ids(VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id),
										sent->id, sent->id_len);
		if (cmp == 0)
		{
			batch->next = (middle + 1) % batch->ngroups;
			return middle;
		}
		if (cmp < 0)
			high = middle - 1;
		else
			low = middle + 1;
		middle = (low + high) / 2;
	}
	elog(ERROR, "document was not asked for");
}

/*
 * The id of a group, as a text.
 */
Datum
docsync_batch_id(const BatchGroup *group)
{
	return PointerGetDatum(cstring_to_text_with_len(group->documents[0]->id,
													group->documents[0]->id_len));
}

/*
 * Groups the documents by id, those that are refused left out.
 */
static void
group_by_id(Batch *batch)
{
	SentDocument **sorted = palloc(sizeof(SentDocument *) * batch->count);
	BatchGroup *group = NULL;
	int			count = 0;

	batch->groups = palloc0(sizeof(BatchGroup) * batch->count);
	batch->group_of = palloc(sizeof(int) * batch->count);
	batch->ngroups = 0;
	batch->next = 0;

	for (int i = 0; i < batch->count; i++)
	{
		batch->group_of[i] = -1;
		if (batch->documents[i].refusal == NULL)
			sorted[count++] = &batch->documents[i];
	}
	qsort(sorted, count, sizeof(SentDocument *), compare_documents);

	for (int i = 0; i < count; i++)
	{
		SentDocument *sent = sorted[i];

		if (group == NULL ||
			docsync_batch_compare_ids(group->documents[0]->id,
									  group->documents[0]->id_len,
									  sent->id, sent->id_len) != 0)
		{
			group = &batch->groups[batch->ngroups++];
			group->documents = &sorted[i];
		}
		group->count++;
		batch->group_of[sent->ordinal - 1] = group - batch->groups;
	}
}

static int
compare_documents(const void *a, const void *b)
{
	const SentDocument *first = *(SentDocument *const *) a;
	const SentDocument *second = *(SentDocument *const *) b;
	int			cmp;

	cmp = docsync_batch_compare_ids(first->id, first->id_len,
									second->id, second->id_len);

	return cmp != 0 ? cmp : first->ordinal - second->ordinal;
}


/*
 * The body as a jsonb of its own, palloc'd, or NULL.
 */
Jsonb *
docsync_batch_body(const SentDocument *sent)
{
	JsonbValue	body;

	if (!sent->has_body)
		return NULL;

	body = sent->body;
	return JsonbValueToJsonb(&body);
}

/*
 * The size of a value as jsonb, in bytes, and of the digits that its longest
 * numbers are printed with.  1e131071 has a handful of bytes, and
 * a document of such numbers could be stored but never be sent to anybody.
 */
int64
docsync_batch_measure(const JsonbValue *value)
{
	int64		size = VARHDRSZ;

	switch (value->type)
	{
		case jbvString:
			return size + value->val.string.len;
		case jbvNumeric:
			return size + VARSIZE_ANY(value->val.numeric) +
				printed_digits(value->val.numeric);
		case jbvBinary:
			return size + value->val.binary.len +
				printed_within(value->val.binary.data);
		default:
			return size;
	}
}

/*
 * The order of ids: that of their bytes, which is collation "C".
 */
int
docsync_batch_compare_ids(const char *a, int a_len, const char *b, int b_len)
{
	int			cmp = memcmp(a, b, Min(a_len, b_len));

	return cmp != 0 ? cmp : a_len - b_len;
}

/*
 * A value for a message, cut where it is long, at the end of a character.
 */
const char *
docsync_batch_quote(const char *value, int len)
{
	if (len <= QUOTE_LEN)
		return pnstrdup(value, len);

	return psprintf("%.*s...", pg_mbcliplen(value, len, QUOTE_LEN), value);
}

const char *
docsync_batch_type_name(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			return "null";
		case jbvString:
			return "a string";
		case jbvNumeric:
			return "a number";
		case jbvBool:
			return "a boolean";
		case jbvBinary:
			return JsonContainerIsObject(value->val.binary.data) ?
				"an object" : "an array";
		default:
			elog(ERROR, "unexpected jsonb value type: %d", (int) value->type);
	}
}

bool
docsync_batch_same_text(const text *a, const text *b)
{
	return docsync_batch_compare_ids(VARDATA_ANY(a), VARSIZE_ANY_EXHDR(a),
									 VARDATA_ANY(b), VARSIZE_ANY_EXHDR(b)) == 0;
}

/*
 * Refuses a client_id or a collection that is NULL, empty or too long.
 * max_len is in bytes.
 */
void
docsync_batch_check_name(const text *value, const char *name, int max_len)
{
	int			len;

	if (value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s is null", name),
				 errhint("Give a text of 1 to %d bytes.", max_len)));

	len = VARSIZE_ANY_EXHDR(value);
	if (len == 0 || len > max_len)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg(len == 0 ? "%s is empty" : "%s is too long", name),
				 errdetail("It has %d bytes.", len),
				 errhint("Give a text of 1 to %d bytes.", max_len)));
}

static void
parse_document(Batch *batch, SentDocument *sent, JsonbContainer *object,
			   int64 max_version)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	value;
	Key			key = KEY_UNKNOWN;
	bool		seen[KEY_UNKNOWN] = {false};

	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			key = find_key(&value);
			if (key == KEY_UNKNOWN)
				docsync_refuse_document(batch, sent, ERRCODE_INVALID_PARAMETER_VALUE,
										NULL, "unknown key",
										psprintf("It has the key \"%s\".",
												 docsync_batch_quote(value.val.string.val,
																	 value.val.string.len)),
										HINT_DOCUMENT);
			else
				seen[key] = true;
		}
		else if (token == WJB_VALUE)
		{
			switch (key)
			{
				case KEY_ID:
					parse_id(batch, sent, &value);
					break;
				case KEY_CLIENT_VERSION:
					sent->client_version = parse_version(batch, sent, key,
														 &value);
					break;
				case KEY_BODY:
					parse_body(batch, sent, &value);
					break;
				case KEY_DELETED:
					parse_deleted(batch, sent, &value);
					break;
				case KEY_BASE_VERSION:
					parse_base_version(batch, sent, &value);
					break;
				case KEY_BASE_UTC:
					parse_base_utc(batch, sent, &value);
					break;
				default:
					break;
			}
		}
	}

	if (!seen[KEY_ID])
		refuse_missing(batch, sent, KEY_ID);
	if (!seen[KEY_CLIENT_VERSION])
		refuse_missing(batch, sent, KEY_CLIENT_VERSION);
	if (!seen[KEY_BODY] && !sent->deleted)
		refuse_missing(batch, sent, KEY_BODY);
	if (sent->has_base_utc && !sent->has_base)
		refuse_missing(batch, sent, KEY_BASE_VERSION);

	if (sent->client_version > max_version)
		docsync_refuse_document(batch, sent, ERRCODE_INVALID_PARAMETER_VALUE,
								key_names[KEY_CLIENT_VERSION],
								"too far ahead of the server's clock",
								psprintf("It is " INT64_FORMAT ", at most " INT64_FORMAT " is accepted now (docsync.max_version_lead is %d ms).",
										 sent->client_version, max_version,
										 docsync_max_version_lead),
								"Set the client's clock; a clientVersion is milliseconds since 1970-01-01 UTC.");
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

static void
parse_id(Batch *batch, SentDocument *sent, const JsonbValue *value)
{
	if (value->type != jbvString)
	{
		refuse_type(batch, sent, KEY_ID, value,
					"An id is a text of 1 to 500 bytes.");
		return;
	}

	sent->id = value->val.string.val;
	sent->id_len = value->val.string.len;

	if (sent->id_len == 0 || sent->id_len > DOCSYNC_ID_LEN)
		docsync_refuse_document(batch, sent, ERRCODE_INVALID_PARAMETER_VALUE,
								key_names[KEY_ID],
								sent->id_len == 0 ? "empty" : "too long",
								psprintf("It has %d bytes.", sent->id_len),
								"An id is a text of 1 to 500 bytes.");
}

/*
 * JSON knows one kind of number: 17.0 is the integer 17.
 */
static int64
parse_version(Batch *batch, SentDocument *sent, Key key,
			  const JsonbValue *value)
{
	int64		version;
	char	   *number;
	char	   *end;
	bool		out_of_range;

	if (value->type != jbvNumeric)
	{
		refuse_type(batch, sent, key, value,
					"A clientVersion is an integer of 64 bits.");
		return 0;
	}

	number = DatumGetCString(DirectFunctionCall1(numeric_out,
												 NumericGetDatum(value->val.numeric)));

	errno = 0;
	version = strtoi64(number, &end, 10);
	out_of_range = errno == ERANGE;
	if (*end == '.')
		end += 1 + strspn(end + 1, "0");

	if (out_of_range || *end != '\0')
		docsync_refuse_document(batch, sent, ERRCODE_INVALID_PARAMETER_VALUE,
								key_names[key],
								out_of_range ? "out of range" : "not an integer",
								psprintf("It is %s.", docsync_batch_quote(number, strlen(number))),
								"A clientVersion is an integer from -9223372036854775808 to 9223372036854775807.");

	pfree(number);
	return version;
}

static void
parse_base_version(Batch *batch, SentDocument *sent, const JsonbValue *value)
{
	sent->has_base = true;
	sent->base_exists = value->type != jbvNull;
	if (sent->base_exists)
		sent->base_version = parse_version(batch, sent, KEY_BASE_VERSION,
										   value);
}

static void
parse_base_utc(Batch *batch, SentDocument *sent, const JsonbValue *value)
{
	if (value->type == jbvNull)
		return;

	sent->has_base_utc = true;
	if (value->type != jbvString)
		refuse_type(batch, sent, KEY_BASE_UTC, value,
					"A baseUtc is the LastUpdateUtc received.");
	else if (!docsync_cursor_parse_utc(pnstrdup(value->val.string.val,
												value->val.string.len),
									   &sent->base_utc))
		docsync_refuse_document(batch, sent, ERRCODE_INVALID_PARAMETER_VALUE,
								key_names[KEY_BASE_UTC],
								"not an ISO 8601 time", NULL,
								"Send back the LastUpdateUtc received.");
}

static void
parse_deleted(Batch *batch, SentDocument *sent, const JsonbValue *value)
{
	if (value->type != jbvBool)
		refuse_type(batch, sent, KEY_DELETED, value,
					"Send true or false, or leave it out.");
	else
		sent->deleted = value->val.boolean;
}

static void
parse_body(Batch *batch, SentDocument *sent, const JsonbValue *value)
{
	int64		size = docsync_batch_measure(value);

	if (size > docsync_max_document_size)
		docsync_refuse_document(batch, sent, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
								key_names[KEY_BODY], "too large",
								psprintf("It takes " INT64_FORMAT " bytes as jsonb, docsync.max_document_size is %d.",
										 size, docsync_max_document_size),
								"Split the document, or keep what is large elsewhere.");

	sent->body = *value;
	sent->has_body = true;
}

/*
 * printed_digits() of all numbers in an array or object.  By the entries
 * themselves: an iterator makes a JsonbValue of each key and string.
 */
static int64
printed_within(const JsonbContainer *container)
{
	int			count = JsonContainerSize(container) *
	(JsonContainerIsObject(container) ? 2 : 1);
	const char *base = (const char *) &container->children[count];
	uint32		offset = 0;
	int64		digits = 0;

	check_stack_depth();
	for (int i = 0; i < count; i++)
	{
		JEntry		entry = container->children[i];
		const char *value = base + INTALIGN(offset);

		if (JBE_ISNUMERIC(entry))
			digits += printed_digits((Numeric) value);
		else if (JBE_ISCONTAINER(entry))
			digits += printed_within((const JsonbContainer *) value);
		JBE_ADVANCE_OFFSET(offset, entry);
	}

	return digits;
}

/*
 * How many bytes a number is printed with, if they can be many; else 0.
 *
 * Only an exponent, or a scale, makes many digits of few bytes.  A large
 * document has many numbers, so nothing is left behind.
 */
static int
printed_digits(Numeric number)
{
	static Numeric limit = NULL;
	Datum		value = NumericGetDatum(number);
	Datum		magnitude;
	int			digits = 0;
	bool		is_large;

	if (limit == NULL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

		limit = int64_to_numeric(PG_INT64_MAX);
		MemoryContextSwitchTo(oldcontext);
	}

	magnitude = DirectFunctionCall1(numeric_abs, value);
	is_large = DatumGetInt32(DirectFunctionCall2(numeric_cmp, magnitude,
												 NumericGetDatum(limit))) > 0;
	pfree(DatumGetPointer(magnitude));

	if (is_large || DatumGetInt32(DirectFunctionCall1(numeric_scale, value)) > 20)
	{
		char	   *text = DatumGetCString(DirectFunctionCall1(numeric_out,
															   value));

		digits = strlen(text);
		pfree(text);
	}

	return digits;
}

static void
refuse_type(Batch *batch, SentDocument *sent, Key key,
			const JsonbValue *value, const char *hint)
{
	docsync_refuse_document(batch, sent, ERRCODE_INVALID_PARAMETER_VALUE,
							key_names[key], "wrong type",
							psprintf("It is %s.", docsync_batch_type_name(value)),
							hint);
}

static void
refuse_missing(Batch *batch, SentDocument *sent, Key key)
{
	docsync_refuse_document(batch, sent, ERRCODE_INVALID_PARAMETER_VALUE,
							key_names[key], "missing", NULL,
							key == KEY_BODY ?
							"Send a body; only a deleted document may come without." :
							HINT_DOCUMENT);
}
