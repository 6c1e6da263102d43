/*-------------------------------------------------------------------------
 *
 * utc.c
 *	  Times as text, in UTC: written as ISO 8601, and read.
 *
 * Pure: no table, no lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "docsync.h"

static int	format_minute(TimestampTz stamp, char *buf);
static bool scan_digits(const char **from, int count, int *value);
static bool scan_offset(const char **from, int *seconds);

/*
 * Writes a stamp as text, UTC, and returns its length in bytes.  buf has
 * DOCSYNC_STAMP_LEN bytes.  An invalid stamp, which the store's owner may have
 * written without the guard, is an error.
 *
 * Stamps come in order, so the next one is likely to be in the same minute.
 */
int
docsync_utc_format(TimestampTz stamp, char *buf)
{
	static TimestampTz minute;
	static char prefix[DOCSYNC_STAMP_LEN];
	static int	prefix_len = 0; /* 0: none yet */
	TimestampTz within;
	char	   *p;

	if (prefix_len == 0 || stamp < minute || stamp >= minute + USECS_PER_MINUTE)
	{
		prefix_len = 0;
		prefix_len = format_minute(stamp, prefix);
		minute = stamp - stamp % USECS_PER_MINUTE;
		if (minute > stamp)
			minute -= USECS_PER_MINUTE;
	}
	within = stamp - minute;

	memcpy(buf, prefix, prefix_len);
	p = buf + prefix_len;
	p = pg_ultostr_zeropad(p, (uint32) (within / USECS_PER_SEC), 2);
	*p++ = '.';
	p = pg_ultostr_zeropad(p, (uint32) (within % USECS_PER_SEC), 6);
	*p++ = 'Z';
	*p = '\0';

	return p - buf;
}

/* The stamp up to and including the colon before the seconds */
static int
format_minute(TimestampTz stamp, char *buf)
{
	struct pg_tm tm;
	fsec_t		microseconds;
	char	   *p = buf;

	if (!IS_VALID_TIMESTAMP(stamp) ||
		timestamp2tm(stamp, NULL, &tm, &microseconds, NULL, NULL) != 0 ||
		tm.tm_year < 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));

	/*
	 * By hand: with snprintf() a download would spend most of its time here.
	 */
	p = pg_ultostr_zeropad(p, tm.tm_year, 4);
	*p++ = '-';
	p = pg_ultostr_zeropad(p, tm.tm_mon, 2);
	*p++ = '-';
	p = pg_ultostr_zeropad(p, tm.tm_mday, 2);
	*p++ = 'T';
	p = pg_ultostr_zeropad(p, tm.tm_hour, 2);
	*p++ = ':';
	p = pg_ultostr_zeropad(p, tm.tm_min, 2);
	*p++ = ':';

	return p - buf;
}

/*
 * Reads an ISO 8601 time with "Z" or an offset:
 *
 *	  2026-11-22T10:11:12.123456Z	2026-11-22T11:11:12+01:00
 *
 * No other form: a time without an offset would depend on a setting that the
 * caller may choose.  Digits beyond microseconds are cut off, which at worst
 * returns a document twice.  A space for the sign of the offset is a "+" that
 * wasn't escaped in a URL.  Returns false for anything else.
 */
bool
docsync_utc_parse(const char *from, TimestampTz *time)
{
	struct pg_tm tm = {0};
	fsec_t		microseconds = 0;
	int			offset;

	if (!scan_digits(&from, 4, &tm.tm_year) || *from++ != '-' ||
		!scan_digits(&from, 2, &tm.tm_mon) || *from++ != '-' ||
		!scan_digits(&from, 2, &tm.tm_mday) || *from++ != 'T' ||
		!scan_digits(&from, 2, &tm.tm_hour) || *from++ != ':' ||
		!scan_digits(&from, 2, &tm.tm_min) || *from++ != ':' ||
		!scan_digits(&from, 2, &tm.tm_sec))
		return false;

	if (*from == '.')
	{
		int			unit = USECS_PER_SEC;

		from++;

		if (!isdigit((unsigned char) *from))
			return false;
		for (; isdigit((unsigned char) *from); from++)
		{
			unit /= 10;
			microseconds += (*from - '0') * unit;
		}
	}

	if (!scan_offset(&from, &offset) || *from != '\0')
		return false;

	if (ValidateDate(DTK_DATE_M, false, false, false, &tm) != 0 ||
		tm.tm_hour > 23 || tm.tm_min > 59 || tm.tm_sec > 59)
		return false;

	/* tm2timestamp() counts offsets westward */
	offset = -offset;
	return tm2timestamp(&tm, microseconds, &offset, time) == 0;
}

/* Reads exactly count decimal digits; false if there are fewer. */
static bool
scan_digits(const char **from, int count, int *value)
{
	*value = 0;
	for (int i = 0; i < count; i++, (*from)++)
	{
		if (!isdigit((unsigned char) **from))
			return false;
		*value = *value * 10 + (**from - '0');
	}
	return true;
}

/*
 * "Z", "+HH:MM" or "+HHMM", as seconds east of UTC.
 */
static bool
scan_offset(const char **from, int *seconds)
{
	char		sign = *(*from)++;
	int			hours;
	int			minutes;

	*seconds = 0;
	if (sign == 'Z')
		return true;
	if (sign != '+' && sign != '-' && sign != ' ')
		return false;

	if (!scan_digits(from, 2, &hours))
		return false;
	if (**from == ':')
		(*from)++;
	if (!scan_digits(from, 2, &minutes))
		return false;
	if (hours > MAX_TZDISP_HOUR || minutes > 59)
		return false;

	*seconds = hours * SECS_PER_HOUR + minutes * SECS_PER_MINUTE;
	if (sign == '-')
		*seconds = -*seconds;
	return true;
}
