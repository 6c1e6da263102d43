/*-------------------------------------------------------------------------
 *
 * compare.c
 *	  Is a body, as it was sent, the same as a stored jsonb?
 *
 * The JSON is compared as it came, so that no jsonb has to be made when the
 * same body is sent again: that would take most of the time needed to find out
 * that nothing has changed.  Keys may come in any order, and numbers are
 * compared by value, as compareJsonbContainers() does.
 *
 * The answer is "yes" or "maybe not": if a key comes twice, the last one
 * counts, which isn't known yet when the first is found to differ.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "docsync.h"

static Size largest_jsonb(const SentDocument *sent);
static bool is_same(JsonReader *reader, const JsonbContainer *container,
					int index, uint32 offset);
static bool is_same_container(JsonReader *reader,
							  const JsonbContainer *container);
static bool is_same_array(JsonReader *reader, const JsonbContainer *array);
static bool is_same_object(JsonReader *reader, const JsonbContainer *object);
static bool is_same_number(JsonReader *reader, Numeric number);
static const char *get_data(const JsonbContainer *container);
static int	find_key(const JsonbContainer *object, const char *key, int len);

/*
 * Is the sent body the same as a jsonb, which may be toasted?
 *
 * A stored body that is too large to be the same isn't read: otherwise a small
 * request could cause gigabytes to be read.
 */
bool
docsync_compare_is_same_body(const SentDocument *sent, Datum other)
{
	JsonbContainer *container;
	int			len;
	Jsonb	   *stored;
	Jsonb	   *body = NULL;
	bool		same;

	if (toast_raw_datum_size(other) > largest_jsonb(sent))
		return false;

	stored = DatumGetJsonbP(other);
	if (sent->json != NULL &&
		docsync_compare_is_same(sent->json, sent->json_len, stored))
		same = true;
	else
	{
		if (sent->json == NULL && sent->body.type == jbvBinary)
		{
			container = sent->body.val.binary.data;
			len = sent->body.val.binary.len;
		}
		else
		{
			body = docsync_body_make(sent);
			container = &body->root;
			len = VARSIZE(body) - VARHDRSZ;
		}

		/*
		 * Identical bytes are the common case; numbers may differ in scale
		 * only.
		 */
		same = (len == (int) VARSIZE(stored) - VARHDRSZ &&
				memcmp(&stored->root, container, len) == 0) ||
			compareJsonbContainers(&stored->root, container) == 0;
	}

	if (body != NULL)
		pfree(body);
	if ((Pointer) stored != DatumGetPointer(other))
		pfree(stored);
	return same;
}

/*
 * Is a body, which has been read without a refusal, certainly the same as a
 * jsonb?
 */
bool
docsync_compare_is_same(const char *json, int len, const Jsonb *jsonb)
{
	JsonReader	reader;
	bool		same;

	docsync_lexer_begin(&reader, json, len, true);
	reader.is_body = true;
	same = JB_ROOT_IS_SCALAR(jsonb) ?
		is_same(&reader, &jsonb->root, 0, 0) :
		is_same_container(&reader, &jsonb->root);
	docsync_lexer_end(&reader);

	return same;
}

/*
 * The most bytes of a jsonb that is the same as the sent body.  The densest
 * text is an array of digits: two bytes each, where a jsonb takes twelve.
 */
static Size
largest_jsonb(const SentDocument *sent)
{
	Size		len;

	if (sent->json != NULL)
		len = sent->json_len;
	else if (sent->body.type == jbvBinary)
		len = sent->body.val.binary.len;
	else if (sent->body.type == jbvString)
		len = sent->body.val.string.len;
	else if (sent->body.type == jbvNumeric)
		len = VARSIZE_ANY(sent->body.val.numeric);
	else
		len = 0;

	return 8 * len + 64;
}

/*
 * Compares the next value with an entry of a container, whose data begins at
 * offset, and skips the value if it is the same.
 */
static bool
is_same(JsonReader *reader, const JsonbContainer *container, int index,
		uint32 offset)
{
	JEntry		entry = container->children[index];
	const char *data = get_data(container);
	bool		same;

	switch (docsync_reader_type(reader))
	{
		case JSON_TOKEN_OBJECT_START:
		case JSON_TOKEN_ARRAY_START:
			return JBE_ISCONTAINER(entry) &&
				is_same_container(reader,
								  (const JsonbContainer *) (data + INTALIGN(offset)));
		case JSON_TOKEN_STRING:
			same = JBE_ISSTRING(entry) &&
				reader->string_len == (int) getJsonbLength(container, index) &&
				memcmp(reader->string, data + offset, reader->string_len) == 0;
			break;
		case JSON_TOKEN_NUMBER:
			same = JBE_ISNUMERIC(entry) &&
				is_same_number(reader, (Numeric) (data + INTALIGN(offset)));
			break;
		case JSON_TOKEN_TRUE:
			same = JBE_ISBOOL_TRUE(entry);
			break;
		case JSON_TOKEN_FALSE:
			same = JBE_ISBOOL_FALSE(entry);
			break;
		default:
			same = JBE_ISNULL(entry);
	}

	if (same)
		docsync_reader_pass(reader);
	return same;
}

/* The same for a whole array or object */
static bool
is_same_container(JsonReader *reader, const JsonbContainer *container)
{
	check_stack_depth();

	switch (docsync_reader_type(reader))
	{
		case JSON_TOKEN_OBJECT_START:
			return JsonContainerIsObject(container) &&
				is_same_object(reader, container);
		case JSON_TOKEN_ARRAY_START:
			return JsonContainerIsArray(container) &&
				is_same_array(reader, container);
		default:
			return false;
	}
}

/* Elements must be the same, in the same order, and equally many. */
static bool
is_same_array(JsonReader *reader, const JsonbContainer *array)
{
	int			size = JsonContainerSize(array);
	int			count = 0;
	uint32		offset = 0;

	if (docsync_reader_enter(reader))
	{
		do
		{
			if (count == size || !is_same(reader, array, count, offset))
				return false;
			JBE_ADVANCE_OFFSET(offset, array->children[count]);
			count++;
		} while (docsync_reader_go_on(reader, false));
	}
	return count == size;
}

/*
 * The keys must be distinct, be keys of the other object, and be equally many.
 */
static bool
is_same_object(JsonReader *reader, const JsonbContainer *object)
{
	int			size = JsonContainerSize(object);
	int			count = 0;
	uint64		few = 0;
	uint64	   *seen = size <= 64 ? &few : palloc0(sizeof(uint64) * (size / 64 + 1));

	if (docsync_reader_enter(reader))
	{
		do
		{
			int			key = find_key(object, reader->string, reader->string_len);

			if (key < 0 || (seen[key / 64] & (UINT64CONST(1) << (key % 64))) != 0)
				return false;
			seen[key / 64] |= UINT64CONST(1) << (key % 64);
			count++;

			docsync_reader_pass_key(reader);
			if (!is_same(reader, object, size + key,
						 getJsonbOffset(object, size + key)))
				return false;
		} while (docsync_reader_go_on(reader, true));
	}

	if (seen != &few)
		pfree(seen);
	return count == size;
}

/*
 * Compares the digits, which are mostly the same, and otherwise the value:
 * 1.5e1 is 15, and 1.50 is 1.5.
 */
static bool
is_same_number(JsonReader *reader, Numeric number)
{
	JsonLexContext *lex = reader->lex;
	int			len = lex->token_terminator - lex->token_start;
	char	   *written = DatumGetCString(DirectFunctionCall1(numeric_out,
															  NumericGetDatum(number)));
	bool		same = (int) strlen(written) == len &&
	memcmp(written, lex->token_start, len) == 0;

	if (!same)
	{
		char	   *sent = pnstrdup(lex->token_start, len);
		Datum		value = DirectFunctionCall3(numeric_in, CStringGetDatum(sent),
												ObjectIdGetDatum(InvalidOid),
												Int32GetDatum(-1));

		same = DatumGetBool(DirectFunctionCall2(numeric_eq, value,
												NumericGetDatum(number)));
		pfree(DatumGetPointer(value));
		pfree(sent);
	}
	pfree(written);
	return same;
}

/*
 * The beginning of the data of a container's entries, where offsets count from
 */
static const char *
get_data(const JsonbContainer *container)
{
	int			count = JsonContainerSize(container) *
	(JsonContainerIsObject(container) ? 2 : 1);

	return (const char *) &container->children[count];
}

/*
 * The index of a key among an object's keys, which are ordered by length, then
 * by bytes; -1 if it isn't there.
 */
static int
find_key(const JsonbContainer *object, const char *key, int len)
{
	const char *data = get_data(object);
	int			low = 0;
	int			high = (int) JsonContainerSize(object) - 1;

	while (low <= high)
	{
		int			middle = (low + high) / 2;
		int			cmp = len - (int) getJsonbLength(object, middle);

		if (cmp == 0)
			cmp = memcmp(key, data + getJsonbOffset(object, middle), len);
		if (cmp == 0)
			return middle;
		if (cmp < 0)
			high = middle - 1;
		else
			low = middle + 1;
	}
	return -1;
}
