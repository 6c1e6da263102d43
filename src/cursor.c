/*-------------------------------------------------------------------------
 *
 * cursor.c
 *	  Cursors: the position where a client resumes, as text.
 *
 * Pure: no table, no lock.
 *
 * A cursor is opaque to clients.  It is a position as text,
 *
 *	  5f3a9c0d1e2b4a77.1795419244398710.1795419243000000.1a2b3c4d.0badcafe
 *
 * the epoch, the last stamp passed, the stamp up to which no purge was missed,
 * the WAL position of the snapshots it was given out under, and a hash that
 * binds it to collection, client and origin.  Version 0.1 wrote only the first
 * two.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "docsync.h"

#define EPOCH_DIGITS	16		/* all that 64 bits have */
#define BINDING_DIGITS	8

static int64 to_unix(TimestampTz stamp);
static char *put_hex(char *p, uint64 value, int digits);
static int	digit_of(char c, int base);
static bool scan_stamp(const char **from, TimestampTz *stamp);
static bool scan_number(const char **from, int base, int64 *value);

/*
 * Writes a position and returns its length in bytes.  buf has
 * DOCSYNC_CURSOR_LEN bytes.
 */
int
docsync_cursor_format(const Position *position, char *buf)
{
	char	   *p = buf;

	/* By hand: snprintf() would take as long as looking for new documents. */
	p = put_hex(p, position->epoch, EPOCH_DIGITS);
	*p++ = '.';
	p += pg_lltoa(to_unix(position->stamp), p);
	*p++ = '.';
	p += pg_lltoa(to_unix(position->seen), p);
	*p++ = '.';
	p = put_hex(p, position->lsn, 1);
	*p++ = '.';
	p = put_hex(p, position->binding, BINDING_DIGITS);
	*p = '\0';

	return p - buf;
}

/*
 * Reads what docsync_cursor_format() wrote, or version 0.1; returns false for
 * anything else.
 */
bool
docsync_cursor_parse(const char *from, Position *position)
{
	int64		lsn;
	int64		binding;

	position->epoch = 0;
	position->seen = DT_NOBEGIN;
	position->lsn = InvalidXLogRecPtr;
	position->is_bound = false;

	for (int i = 0; i < EPOCH_DIGITS; i++)
	{
		int			digit = digit_of(*from++, 16);

		if (digit < 0)
			return false;
		position->epoch = position->epoch << 4 | digit;
	}

	if (!scan_stamp(&from, &position->stamp))
		return false;
	if (*from == '\0')
		return true;

	if (!scan_stamp(&from, &position->seen) ||
		!scan_number(&from, 16, &lsn) ||
		!scan_number(&from, 16, &binding) || *from != '\0' ||
		binding > PG_UINT32_MAX)
		return false;
	position->lsn = (XLogRecPtr) lsn;
	position->binding = (uint32) binding;
	position->is_bound = true;
	return true;
}

/*
 * A hash of what a position belongs to.  origin is one byte.
 */
uint32
docsync_cursor_bind(const text *collection, const text *client_id, char origin)
{
	StringInfoData buf;
	uint32		hash;
	char		number[MAXINT8LEN + 2];
	int			len;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, origin);
	len = pg_ltoa(VARSIZE_ANY_EXHDR(collection), number);
	number[len] = ':';
	appendBinaryStringInfo(&buf, number, len + 1);
	appendBinaryStringInfo(&buf, VARDATA_ANY(collection),
						   VARSIZE_ANY_EXHDR(collection));
	if (client_id != NULL)
		appendBinaryStringInfo(&buf, VARDATA_ANY(client_id),
							   VARSIZE_ANY_EXHDR(client_id));
	hash = docsync_digest_hash(buf.data, buf.len, 0);
	pfree(buf.data);

	return hash;
}

/*
 * Microseconds since 1970.  "None yet" becomes 0, which scan_stamp()
 * understands.
 */
static int64
to_unix(TimestampTz stamp)
{
	return TIMESTAMP_IS_NOBEGIN(stamp) ? 0 : stamp + DOCSYNC_UNIX_OFFSET;
}

/* A dot and microseconds since 1970 */
static bool
scan_stamp(const char **from, TimestampTz *stamp)
{
	int64		value;

	if (!scan_number(from, 10, &value))
		return false;

	*stamp = value == 0 ? DT_NOBEGIN : value - DOCSYNC_UNIX_OFFSET;
	return value == 0 || IS_VALID_TIMESTAMP(*stamp);
}

/* A dot and a number, without sign, space or "0x" */
static bool
scan_number(const char **from, int base, int64 *value)
{
	const char *p = *from;
	int			digit;

	if (*p++ != '.' || digit_of(*p, base) < 0)
		return false;

	for (*value = 0; (digit = digit_of(*p, base)) >= 0; p++)
	{
		if (pg_mul_s64_overflow(*value, base, value) ||
			pg_add_s64_overflow(*value, digit, value))
			return false;
	}
	*from = p;
	return true;
}

/*
 * A digit's value, -1 if it isn't one.  Those above 9 are lower-case letters.
 */
static int
digit_of(char c, int base)
{
	int			digit = c >= '0' && c <= '9' ? c - '0' :
	c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;

	return digit < base ? digit : -1;
}

/* Writes a number with at least this many digits. */
static char *
put_hex(char *p, uint64 value, int digits)
{
	while (digits < EPOCH_DIGITS && value >> (4 * digits) != 0)
		digits++;
	while (digits-- > 0)
		*p++ = "0123456789abcdef"[value >> (4 * digits) & 0xF];
	return p;
}
