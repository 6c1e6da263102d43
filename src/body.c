/*-------------------------------------------------------------------------
 *
 * body.c
 *	  A document's body: its limits, and the jsonb made of it.
 *
 * Three things are limited: the size of a body, in bytes of JSON; its nesting,
 * since with thousands of levels a dump can't be restored and clients can't
 * read it; and the digits of a number, written out, since 1e131071 is a
 * handful of bytes that become a page which no client gets past.  reader.c and
 * lexer.c check text against these limits while reading it; jsonb is checked
 * here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "docsync.h"

/*
 * The most bytes of JSON, as docsync writes it, for each byte of the jsonb: a
 * number takes up to 404 for 12.
 */
#define JSON_PER_JSONB		36

typedef struct Measure
{
	bool		with_size;
	int64		size;			/* bytes of JSON so far */
} Measure;

static BodyFault measure(Measure *measured, const JsonbContainer *container,
						 int depth);
static BodyFault measure_value(Measure *measured, const JsonbValue *value);
static bool is_long_number(Numeric number);
static int64 written_len(const char *string, int len);

/*
 * What is wrong with a body that has come as jsonb.  Stops at the first fault.
 */
BodyFault
docsync_body_check(const JsonbValue *body)
{
	Measure		measured = {0};
	BodyFault	fault;

	if (body->type == jbvBinary)
	{
		measured.with_size = body->val.binary.len >
			docsync_max_document_size / JSON_PER_JSONB;
		fault = measure(&measured, body->val.binary.data, 0);
	}
	else
	{
		measured.with_size = true;
		fault = measure_value(&measured, body);
	}

	if (fault == BODY_FINE && measured.size > docsync_max_document_size)
		fault = BODY_TOO_LARGE;
	return fault;
}

/*
 * What is wrong with a value other than a body: only a number can have a
 * fault.
 */
BodyFault
docsync_body_check_number(const JsonbValue *value)
{
	return value->type == jbvNumeric && is_long_number(value->val.numeric) ?
		BODY_LONG_NUMBER : BODY_FINE;
}

/*
 * The refusal for a body, or a number, that has a fault.
 */
Refusal *
docsync_body_describe(const RefusePlace *place, BodyFault fault)
{
	switch (fault)
	{
		case BODY_TOO_LARGE:
			return docsync_refuse_describe(place, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
										   "too large",
										   psprintf("It has more bytes of JSON than docsync.max_document_size, %d.",
													docsync_max_document_size),
										   "Split the document, or store large contents elsewhere.");
		case BODY_TOO_DEEP:
			return docsync_refuse_describe(place, ERRCODE_INVALID_PARAMETER_VALUE,
										   "nested too deeply",
										   psprintf("Arrays and objects are nested deeper than docsync.max_depth, %d.",
													docsync_max_depth),
										   "Nest it less deeply, or send it as a string.");
		case BODY_LONG_NUMBER:
			return docsync_refuse_describe(place, ERRCODE_INVALID_PARAMETER_VALUE,
										   "number too long",
										   psprintf("Written out, the number has more than %d digits.",
													DOCSYNC_NUMBER_DIGITS),
										   "Round it, or send it as a string.");
		case BODY_FINE:
			break;
	}
	elog(ERROR, "nothing is wrong with the body");
}

/*
 * The body as a jsonb of its own, palloc'd, or NULL.
 */
Jsonb *
docsync_body_make(const SentDocument *sent)
{
	MemoryContext context;
	MemoryContext oldcontext;
	Jsonb	   *made;
	Jsonb	   *body;

	if (!sent->has_body)
		return NULL;
	if (sent->json == NULL)
	{
		JsonbValue	value = sent->body;

		return JsonbValueToJsonb(&value);
	}

	/* While it runs, jsonb_in() takes many times the memory of its result. */
	context = AllocSetContextCreate(CurrentMemoryContext, "docsync body",
									ALLOCSET_DEFAULT_SIZES);
	oldcontext = MemoryContextSwitchTo(context);
	made = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											  CStringGetDatum(pnstrdup(sent->json, sent->json_len))));
	MemoryContextSwitchTo(oldcontext);
	body = palloc(VARSIZE(made));
	memcpy(body, made, VARSIZE(made));
	MemoryContextDelete(context);

	return body;
}

/*
 * Measures an array or object.  Looks at the entries themselves: an iterator
 * would make a JsonbValue of each key and string.
 */
static BodyFault
measure(Measure *measured, const JsonbContainer *container, int depth)
{
	bool		is_object = JsonContainerIsObject(container);
	int			count = JsonContainerSize(container) * (is_object ? 2 : 1);
	const char *base = (const char *) &container->children[count];
	uint32		offset = 0;

	if (!JsonContainerIsScalar(container))
	{
		if (depth++ == docsync_max_depth)
			return BODY_TOO_DEEP;

		/* Brackets, and ", " or ": " after all but the last */
		measured->size += 2 + 2 * Max(count - 1, 0);
	}

	for (int i = 0; i < count; i++)
	{
		JEntry		entry = container->children[i];
		BodyFault	fault = BODY_FINE;
		uint32		end = offset;

		CHECK_FOR_INTERRUPTS();

		JBE_ADVANCE_OFFSET(end, entry);
		if (JBE_ISCONTAINER(entry))
			fault = measure(measured,
							(const JsonbContainer *) (base + INTALIGN(offset)),
							depth);
		else
		{
			JsonbValue	value;

			if (JBE_ISSTRING(entry))
			{
				value.type = jbvString;
				value.val.string.val = (char *) base + offset;
				value.val.string.len = end - offset;
			}
			else if (JBE_ISNUMERIC(entry))
			{
				value.type = jbvNumeric;
				value.val.numeric = (Numeric) (base + INTALIGN(offset));
			}
			else
			{
				value.type = JBE_ISNULL(entry) ? jbvNull : jbvBool;
				value.val.boolean = JBE_ISBOOL_TRUE(entry);
			}
			fault = measure_value(measured, &value);
		}
		if (fault != BODY_FINE)
			return fault;
		if (measured->with_size && measured->size > docsync_max_document_size)
			return BODY_TOO_LARGE;
		offset = end;
	}
	return BODY_FINE;
}

/*
 * Checks a scalar: is it a number that is too long?  If sizes are asked for,
 * adds the bytes it takes as JSON.
 */
static BodyFault
measure_value(Measure *measured, const JsonbValue *value)
{
	BodyFault	fault = docsync_body_check_number(value);

	if (fault != BODY_FINE || !measured->with_size)
		return fault;

	switch (value->type)
	{
		case jbvString:
			measured->size += written_len(value->val.string.val,
										  value->val.string.len);
			break;
		case jbvNumeric:
			{
				char	   *number = DatumGetCString(DirectFunctionCall1(numeric_out,
																		 NumericGetDatum(value->val.numeric)));

				measured->size += strlen(number);
				pfree(number);
				break;
			}
		case jbvBool:
			measured->size += value->val.boolean ? 4 : 5;
			break;
		default:
			measured->size += 4;
	}
	return BODY_FINE;
}

/*
 * Does the number have too many digits?  They aren't written out, since there
 * may be 147,455.
 */
static bool
is_long_number(Numeric number)
{
	static Numeric common = NULL;	/* numbers below it are common */
	Datum		value = NumericGetDatum(number);
	Datum		magnitude = DirectFunctionCall1(numeric_abs, value);
	int			scale = DatumGetInt32(DirectFunctionCall1(numeric_scale, value));
	bool		is_long;

	if (common == NULL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

		common = int64_to_numeric(PG_INT64_MAX);
		MemoryContextSwitchTo(oldcontext);
	}

	if (scale < DOCSYNC_NUMBER_DIGITS / 2 &&
		DatumGetBool(DirectFunctionCall2(numeric_lt, magnitude,
										 NumericGetDatum(common))))
		is_long = false;
	else if (scale >= DOCSYNC_NUMBER_DIGITS)
		is_long = true;
	else
	{
		/* 10 to the power of the digits left for the integer part */
		char		power[16];
		Datum		limit;

		snprintf(power, sizeof(power), "1e%d", DOCSYNC_NUMBER_DIGITS - scale);
		limit = DirectFunctionCall3(numeric_in, CStringGetDatum(power),
									ObjectIdGetDatum(InvalidOid),
									Int32GetDatum(-1));
		is_long = DatumGetBool(DirectFunctionCall2(numeric_ge, magnitude, limit));
		pfree(DatumGetPointer(limit));
	}
	pfree(DatumGetPointer(magnitude));
	return is_long;
}

/*
 * The bytes that a string takes as JSON, including quotes and escapes.
 */
static int64
written_len(const char *string, int len)
{
	int64		written = len + 2;

	for (int i = 0; i < len; i++)
	{
		unsigned char c = string[i];

		if (c == '"' || c == '\\' || c == '\b' || c == '\f' || c == '\n' ||
			c == '\r' || c == '\t')
			written += 1;
		else if (c < ' ')
			written += 5;
	}
	return written;
}
