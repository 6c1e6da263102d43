/*-------------------------------------------------------------------------
 *
 * cursor.c
 *	  Cursors and times as text: where a client goes on from.
 *
 * Pure: no table, no lock.
 *
 * A cursor is opaque to clients.  It names the epoch, the id of the history of
 * stamps that it is of, and the last stamp passed:
 *
 *	  5f3a9c0d1e2b4a77.1795419244398710
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "docsync.h"

#define EPOCH_DIGITS	16

static bool scan_digits(const char **text, int count, int *value);
static bool scan_offset(const char **text, int *seconds);

/*
 * Writes a cursor and returns its length in bytes.  buf has
 * DOCSYNC_CURSOR_LEN bytes.
 */
int
docsync_cursor_format(const Cursor *cursor, char *buf)
{
	return snprintf(buf, DOCSYNC_CURSOR_LEN, "%016llx." INT64_FORMAT,
					(unsigned long long) cursor->epoch,
					TIMESTAMP_IS_NOBEGIN(cursor->stamp) ? (int64) 0 :
					cursor->stamp + DOCSYNC_UNIX_OFFSET);
}

/*
 * Reads what docsync_cursor_format() wrote; false if it is something else.
 */
bool
docsync_cursor_parse(const char *text, Cursor *cursor)
{
	const char *digits = "0123456789abcdef";
	char	   *end;
	int64		value;

	if (strspn(text, digits) != EPOCH_DIGITS || text[EPOCH_DIGITS] != '.')
		return false;
	cursor->epoch = strtou64(text, NULL, 16);

	text	  +=EPOCH_DIGITS + 1;

	if (!isdigit((unsigned char) *text))
		return false;
	errno = 0;
	value = strtoi64(text, &end, 10);
	if (errno != 0 || *end != '\0')
		return false;

	cursor->stamp = value == 0 ? DT_NOBEGIN : value - DOCSYNC_UNIX_OFFSET;
	return value == 0 || IS_VALID_TIMESTAMP(cursor->stamp);
}

/*
 * Reads an ISO 8601 time with "Z" or an offset:
 *
 *	  2026-11-22T10:11:12.123456Z	2026-11-22T11:11:12+01:00
 *
 * No other form: a time without an offset would depend on a setting that the
 * caller may choose.  Digits beyond microseconds are cut off, which at worst
 * gives a document twice.  A space for the sign of the offset is the "+" that
 * somebody didn't escape in a URL.  Returns false if it is something else.
 */
bool
docsync_cursor_parse_utc(const char *text, TimestampTz *time)
{
	struct pg_tm tm = {0};
	fsec_t		microseconds = 0;
	int			offset;

	if (!scan_digits(&text, 4, &tm.tm_year) || *text ++!= '-' ||
		!scan_digits(&text, 2, &tm.tm_mon) || *text ++!= '-' ||
		!scan_digits(&text, 2, &tm.tm_mday) || *text ++!= 'T' ||
		!scan_digits(&text, 2, &tm.tm_hour) || *text ++!= ':' ||
		!scan_digits(&text, 2, &tm.tm_min) || *text ++!= ':' ||
		!scan_digits(&text, 2, &tm.tm_sec))
		return false;

	if (*text == '.')
	{
		int			unit = USECS_PER_SEC;

		text	  ++;

		if (!isdigit((unsigned char) *text))
			return false;
		for (; isdigit((unsigned char) *text); text ++)
		{
			unit /= 10;
			microseconds += (*text -'0') *unit;
		}
	}

	if (!scan_offset(&text, &offset) || *text !='\0')
		return false;

	if (ValidateDate(DTK_DATE_M, false, false, false, &tm) != 0 ||
		tm.tm_hour > 23 || tm.tm_min > 59 || tm.tm_sec > 59)
		return false;

	/* tm2timestamp() counts offsets westward */
	offset = -offset;
	return tm2timestamp(&tm, microseconds, &offset, time) == 0;
}

static bool
scan_digits(const char **text, int count, int *value)
{
	*value = 0;
	for (int i = 0; i < count; i++, (*text) ++)
	{
		if (!isdigit((unsigned char) **text))
			return false;
		*value = *value * 10 + (**text -'0');
	}
	return true;
}

/*
 * "Z", "+HH:MM" or "+HHMM", as seconds east of UTC.
 */
static bool
scan_offset(const char **text, int *seconds)
{
	char		sign = *(*text) ++;
	int			hours;
	int			minutes;

	*seconds = 0;
	if (sign == 'Z')
		return true;
	if (sign != '+' && sign != '-' && sign != ' ')
		return false;

	if (!scan_digits(text, 2, &hours))
		return false;
	if (**text == ':')
		(*text) ++;
	if (!scan_digits(text, 2, &minutes))
		return false;
	if (hours > MAX_TZDISP_HOUR || minutes > 59)
		return false;

	*seconds = hours * SECS_PER_HOUR + minutes * SECS_PER_MINUTE;
	if (sign == '-')
		*seconds = -*seconds;
	return true;
}
