/*-------------------------------------------------------------------------
 *
 * value.c
 *	  The value of a key of a request or a document, whether it was sent as
 *	  text or as jsonb.
 *
 * JSON knows one kind of number: 17.0 and 1.7e1 are the integer 17.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "utils/builtins.h"
#include "utils/numeric.h"

#include "docsync.h"

/* The most digits that an int64 has */
#define INT64_DIGITS	19

static bool is_plain_integer(const char *number, int len);

/*
 * The type of a value that has come as jsonb.
 */
JsonTokenType
docsync_value_type_of_jsonb(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			return JSON_TOKEN_NULL;
		case jbvString:
			return JSON_TOKEN_STRING;
		case jbvNumeric:
			return JSON_TOKEN_NUMBER;
		case jbvBool:
			return value->val.boolean ? JSON_TOKEN_TRUE : JSON_TOKEN_FALSE;
		case jbvBinary:
			return JsonContainerIsObject(value->val.binary.data) ?
				JSON_TOKEN_OBJECT_START : JSON_TOKEN_ARRAY_START;
		default:
			elog(ERROR, "unexpected jsonb value type: %d", (int) value->type);
	}
}

/*
 * A value that has come as jsonb.  A number must have been checked (body.c);
 * its digits are palloc'd.
 */
SentValue
docsync_value_of_jsonb(const JsonbValue *value)
{
	SentValue	sent = {.type = docsync_value_type_of_jsonb(value)};

	if (value->type == jbvString)
	{
		sent.text = value->val.string.val;
		sent.len = value->val.string.len;
	}
	else if (value->type == jbvNumeric)
	{
		sent.text = DatumGetCString(DirectFunctionCall1(numeric_out,
														NumericGetDatum(value->val.numeric)));
		sent.len = strlen(sent.text);
		sent.is_copy = true;
	}
	return sent;
}

/*
 * What a message calls a value.
 */
const char *
docsync_value_name(JsonTokenType type)
{
	switch (type)
	{
		case JSON_TOKEN_NULL:
			return "null";
		case JSON_TOKEN_STRING:
			return "a string";
		case JSON_TOKEN_NUMBER:
			return "a number";
		case JSON_TOKEN_TRUE:
		case JSON_TOKEN_FALSE:
			return "a boolean";
		case JSON_TOKEN_OBJECT_START:
			return "an object";
		case JSON_TOKEN_ARRAY_START:
			return "an array";
		default:
			elog(ERROR, "unexpected type of a JSON value: %d", (int) type);
	}
}

/*
 * A number as a 64-bit integer. *integer means nothing unless VALUE_INTEGER is
 * returned.
 */
ValueInteger
docsync_value_integer(const SentValue *value, int64 *integer)
{
	char		buf[INT64_DIGITS + 2];
	char	   *number = buf;
	char	   *end;
	bool		out_of_range;

	if (is_plain_integer(value->text, value->len))
	{
		memcpy(buf, value->text, value->len);
		buf[value->len] = '\0';
	}
	else
		number = DatumGetCString(DirectFunctionCall1(numeric_out,
													 DirectFunctionCall3(numeric_in,
																		 CStringGetDatum(pnstrdup(value->text, value->len)),
																		 ObjectIdGetDatum(InvalidOid),
																		 Int32GetDatum(-1))));

	errno = 0;
	*integer = strtoi64(number, &end, 10);
	out_of_range = errno == ERANGE;
	if (*end == '.')
		end += 1 + strspn(end + 1, "0");

	return out_of_range ? VALUE_OUT_OF_RANGE :
		*end != '\0' ? VALUE_FRACTION : VALUE_INTEGER;
}

/*
 * The same as an int, -1 if it is negative, too large, or a fraction.
 */
int
docsync_value_int(const SentValue *value)
{
	int64		integer;

	if (docsync_value_integer(value, &integer) != VALUE_INTEGER ||
		integer < 0 || integer > INT_MAX)
		return -1;
	return (int) integer;
}

/* Has the number no fraction or exponent, and no more digits than an int64? */
static bool
is_plain_integer(const char *number, int len)
{
	int			digits = 0;

	if (len > INT64_DIGITS + 1)
		return false;
	for (int i = 0; i < len; i++)
	{
		if (number[i] >= '0' && number[i] <= '9')
			digits++;
		else if (i > 0 || number[i] != '-')
			return false;
	}
	return digits > 0;
}

/*
 * How many digits a JSON number has when it is written out, as jsonb does:
 * those of its integer part, at least one, and of its scale.  They aren't
 * actually written; the result is at most INT_MAX / 4.
 *
 * 1.50e3 is 1500, 1.50e-2 is 0.0150; and jsonb drops a scale below zero.
 */
int
docsync_value_count_digits(const char *number, int len)
{
	const char *p = number;
	const char *end = number + len;
	int			before = 0;		/* digits of the mantissa before its point */
	int			after = 0;		/* and after it */
	int			first = -1;		/* the index of the first that isn't 0 */
	int64		exponent = 0;
	int64		integer_digits;
	int64		scale;

	if (p < end && *p == '-')
		p++;
	for (bool point = false; p < end && *p != 'e' && *p != 'E'; p++)
	{
		if (*p == '.')
		{
			point = true;
			continue;
		}
		if (first < 0 && *p != '0')
			first = before + after;
		if (point)
			after++;
		else
			before++;
	}
	if (p < end)
	{
		bool		negative = false;

		p++;
		if (p < end && (*p == '-' || *p == '+'))
			negative = *p++ == '-';
		for (; p < end && exponent < INT_MAX; p++)
			exponent = exponent * 10 + (*p - '0');
		/* numeric_in() refuses such an exponent, even of a zero. */
		if (exponent >= INT_MAX / 2)
			return INT_MAX / 4;
		if (negative)
			exponent = -exponent;
	}

	scale = Max(after - exponent, 0);
	integer_digits = first < 0 ? 1 : Max(before - first + exponent, 1);
	return (int) Min(integer_digits + scale, INT_MAX / 4);
}
