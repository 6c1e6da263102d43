/*-------------------------------------------------------------------------
 *
 * json.c
 *	  Documents as JSON, on their way out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "docsync.h"
#include "simd.h"

/*
 * Text being written to a StringInfo.  The functions below take p, where the
 * next byte goes, and return it: kept in memory, it would be loaded and stored
 * again for each bracket.
 *
 * Whatever has no fixed length leaves OUTPUT_SPARE bytes of room after it, for
 * the fixed text that follows: names, brackets, a number, a stamp.
 */
typedef struct Output
{
	StringInfo	buf;
	char	   *end;			/* of the allocated room */
} Output;

#define OUTPUT_SPARE		64

/* Writes fixed text, into the spare room. */
#define put_literal(p, literal) \
	((char *) memcpy(p, literal, sizeof(literal) - 1) + sizeof(literal) - 1)

/*
 * An array or object being written.  Levels are kept in a list rather than by
 * recursion, so that whatever has been stored can be read, however deep it is.
 */
typedef struct Level
{
	const JEntry *entries;		/* elements; or keys, then values */
	const char *data;			/* of the entries */
	int			count;			/* of elements, or pairs */
	int			next;			/* of them */
	uint32		key_start;		/* of the next key, in data */
	uint32		start;			/* of the next element or value, in data */
	char		end;			/* ']', '}', or '\0' for the pseudo-array
								 * around a scalar */
} Level;

/* More levels than this are allocated. */
#define LEVELS				8

static void push_key(JsonbInState *state, const char *name);
static void push_string(JsonbInState *state, JsonbIteratorToken token,
						const char *string, int len);
static void push_body(JsonbInState *state, Jsonb *body);
static inline char *open_output(Output *out, StringInfo buf);
static inline void close_output(Output *out, char *p);
static inline char *put_room(Output *out, char *p, Size size);
static char *grow_output(Output *out, char *p, Size size);
static char *put_jsonb(Output *out, char *p, const JsonbContainer *root);
static char *open_level(char *p, Level *level, const JsonbContainer *container);
static Level *grow_levels(Level *levels, const Level *first, int *size);
static char *put_scalar(Output *out, char *p, JEntry entry, const char *data,
						uint32 start, uint32 len);
static char *put_numeric(Output *out, char *p, Numeric numeric);
static char *put_string(Output *out, char *p, const char *string, int len);
static char *put_escape(char *p, unsigned char c);
static inline int copy_plain(char *to, const char *from, int len);
static inline bool copy_block(char *to, const char *from);
static inline bool copy_short(char *to, const char *from, int len);

/*
 * Makes {"id", "clientVersion", "clientId", "LastUpdateUtc", "deleted",
 * "body"}.
 */
Jsonb *
docsync_json_document(const StoredDocument *stored)
{
	JsonbInState state = {0};
	JsonbValue	value;
	char		stamp[DOCSYNC_STAMP_LEN];

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);

	push_key(&state, "id");
	push_string(&state, WJB_VALUE, VARDATA_ANY(stored->id),
				VARSIZE_ANY_EXHDR(stored->id));

	push_key(&state, "clientVersion");
	value.type = jbvNumeric;
	value.val.numeric = int64_to_numeric(stored->client_version);
	pushJsonbValue(&state, WJB_VALUE, &value);

	push_key(&state, "clientId");
	push_string(&state, WJB_VALUE, VARDATA_ANY(stored->client_id),
				VARSIZE_ANY_EXHDR(stored->client_id));

	push_key(&state, "LastUpdateUtc");
	push_string(&state, WJB_VALUE, stamp,
				docsync_utc_format(stored->last_update_utc, stamp));

	push_key(&state, "deleted");
	value.type = jbvBool;
	value.val.boolean = stored->deleted;
	pushJsonbValue(&state, WJB_VALUE, &value);

	push_key(&state, "body");
	push_body(&state, stored->has_body ? DatumGetJsonbP(stored->body) : NULL);

	pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(state.result);
}

/*
 * The same as text, appended to buf, which isn't terminated.
 */
void
docsync_json_append_document(StringInfo buf, const StoredDocument *stored)
{
	Output		out;
	char	   *p = open_output(&out, buf);

	p = put_literal(p, "{\"id\":");
	p = put_string(&out, p, VARDATA_ANY(stored->id),
				   VARSIZE_ANY_EXHDR(stored->id));
	p = put_literal(p, ",\"clientVersion\":");
	p += pg_lltoa(stored->client_version, p);
	p = put_literal(p, ",\"clientId\":");
	p = put_string(&out, p, VARDATA_ANY(stored->client_id),
				   VARSIZE_ANY_EXHDR(stored->client_id));
	p = put_literal(p, ",\"LastUpdateUtc\":\"");
	p += docsync_utc_format(stored->last_update_utc, p);
	p = put_room(&out, p, 0);
	if (stored->deleted)
		p = put_literal(p, "\",\"deleted\":true,\"body\":");
	else
		p = put_literal(p, "\",\"deleted\":false,\"body\":");
	if (stored->has_body)
	{
		Jsonb	   *body = DatumGetJsonbP(stored->body);

		p = put_jsonb(&out, p, &body->root);
		if (body != (Jsonb *) DatumGetPointer(stored->body))
			pfree(body);
	}
	else
		p = put_literal(p, "null");
	*p++ = '}';

	close_output(&out, p);
}

/*
 * What JsonbToCString() writes, appended to buf, which isn't terminated.
 */
void
docsync_json_append_jsonb(StringInfo buf, Jsonb *jsonb)
{
	Output		out;
	char	   *p = open_output(&out, buf);

	close_output(&out, put_jsonb(&out, p, &jsonb->root));
}

/*
 * A string of len bytes, quoted, appended to buf, which isn't terminated.
 */
void
docsync_json_append_string(StringInfo buf, const char *string, int len)
{
	Output		out;
	char	   *p = open_output(&out, buf);

	close_output(&out, put_string(&out, p, string, len));
}

/* A stamp as a string in UTC, appended to buf. */
void
docsync_json_append_stamp(StringInfo buf, TimestampTz stamp)
{
	char		stamped[DOCSYNC_STAMP_LEN];
	int			len = docsync_utc_format(stamp, stamped);

	appendStringInfoChar(buf, '"');
	appendBinaryStringInfo(buf, stamped, len);
	appendStringInfoChar(buf, '"');
}

/*
 * Begins to write, after what buf has.
 */
static inline char *
open_output(Output *out, StringInfo buf)
{
	out->buf = buf;
	out->end = buf->data + buf->maxlen - 1;
	return put_room(out, buf->data + buf->len, 0);
}

/*
 * Ends the text at p.
 */
static inline void
close_output(Output *out, char *p)
{
	out->buf->len = p - out->buf->data;
}

/*
 * Makes sure that there is room for size bytes, and the spare room.
 */
static inline char *
put_room(Output *out, char *p, Size size)
{
	size += OUTPUT_SPARE;
	return likely((Size) (out->end - p) >= size) ? p : grow_output(out, p, size);
}

/*
 * Enlarges the room.  An answer can't be larger than a StringInfo, 1 GB.
 */
static pg_noinline char *
grow_output(Output *out, char *p, Size size)
{
	StringInfo	buf = out->buf;

	buf->len = p - buf->data;
	enlargeStringInfo(buf, size);
	out->end = buf->data + buf->maxlen - 1;
	return buf->data + buf->len;
}

/*
 * Writes what JsonbToCString() would.
 *
 * Entries are read in the order of their data, so that no offsets have to be
 * computed.  Three quarters of a download's time used to be spent in calling
 * JsonbIteratorNext() for each entry and appending it to a StringInfo.
 */
static char *
put_jsonb(Output *out, char *p, const JsonbContainer *root)
{
	Level		first[LEVELS];
	Level	   *levels = first;
	Level	   *level = first;
	int			size = LEVELS;
	int			depth = 0;

	p = open_level(p, level, root);
	for (;;)
	{
		JEntry		entry;
		uint32		start = level->start;

		CHECK_FOR_INTERRUPTS();

		p = put_room(out, p, 0);
		if (level->next == level->count)
		{
			if (level->end != '\0')
				*p++ = level->end;
			if (depth == 0)
				break;
			level = &levels[--depth];
			continue;
		}

		if (level->next > 0)
			p = put_literal(p, ", ");
		entry = level->entries[level->next];
		if (level->end == '}')
		{
			uint32		key_start = level->key_start;

			JBE_ADVANCE_OFFSET(level->key_start, entry);
			p = put_string(out, p, level->data + key_start,
						   level->key_start - key_start);
			p = put_literal(p, ": ");
			entry = level->entries[level->count + level->next];
		}
		JBE_ADVANCE_OFFSET(level->start, entry);
		level->next++;

		if (JBE_ISCONTAINER(entry))
		{
			const char *container = level->data + INTALIGN(start);

			if (++depth == size)
				levels = grow_levels(levels, first, &size);
			level = &levels[depth];
			p = open_level(p, level, (const JsonbContainer *) container);
		}
		else
			p = put_scalar(out, p, entry, level->data, start, level->start - start);
	}

	if (levels != first)
		pfree(levels);
	return p;
}

/*
 * Begins an array or object.
 */
static char *
open_level(char *p, Level *level, const JsonbContainer *container)
{
	bool		is_object = JsonContainerIsObject(container);

	level->entries = container->children;
	level->count = JsonContainerSize(container);
	level->data = (const char *) (container->children +
								  (is_object ? level->count * 2 : level->count));
	level->next = 0;
	level->key_start = level->start = 0;
	if (is_object)
	{
		level->start = getJsonbOffset(container, level->count);
		level->end = '}';
		*p++ = '{';
	}
	else if (JsonContainerIsScalar(container))
		level->end = '\0';
	else
	{
		level->end = ']';
		*p++ = '[';
	}
	return p;
}

/*
 * Returns a list of twice the size.
 */
static Level *
grow_levels(Level *levels, const Level *first, int *size)
{
	Level	   *grown = palloc(sizeof(Level) * *size * 2);

	memcpy(grown, levels, sizeof(Level) * *size);
	if (levels != first)
		pfree(levels);
	*size *= 2;
	return grown;
}

/*
 * Writes a scalar entry, whose data are len bytes at start.
 */
static char *
put_scalar(Output *out, char *p, JEntry entry, const char *data,
		   uint32 start, uint32 len)
{
	switch (entry & JENTRY_TYPEMASK)
	{
		case JENTRY_ISSTRING:
			return put_string(out, p, data + start, len);
		case JENTRY_ISNUMERIC:
			return put_numeric(out, p, (Numeric) (data + INTALIGN(start)));
		case JENTRY_ISBOOL_FALSE:
			return put_literal(p, "false");
		case JENTRY_ISBOOL_TRUE:
			return put_literal(p, "true");
		case JENTRY_ISNULL:
			return put_literal(p, "null");
		default:
			elog(ERROR, "unexpected jsonb entry: %08x", entry);
	}
}

/*
 * Writes a number with all digits after the point that were sent.
 */
static char *
put_numeric(Output *out, char *p, Numeric numeric)
{
	char	   *text = DatumGetCString(DirectFunctionCall1(numeric_out,
														   NumericGetDatum(numeric)));
	int			len = strlen(text);

	p = put_room(out, p, len);
	memcpy(p, text, len);
	pfree(text);
	return p + len;
}

/*
 * Writes a string, quoted.  The parts that need no escape, nearly everything,
 * are checked and copied in one go.
 */
static char *
put_string(Output *out, char *p, const char *string, int len)
{
	int			plain;

	p = put_room(out, p, len + 2);
	*p++ = '"';
	while ((plain = copy_plain(p, string, len)) < len)
	{
		p = put_escape(p + plain, string[plain]);
		string += plain + 1;
		len -= plain + 1;
		p = put_room(out, p, len + 1);
	}
	p += len;
	*p++ = '"';
	return p;
}

/*
 * Writes the escape of a byte that must be escaped.
 */
static char *
put_escape(char *p, unsigned char c)
{
	*p++ = '\\';
	switch (c)
	{
		case '"':
		case '\\':
			*p++ = c;
			break;
		case '\b':
			*p++ = 'b';
			break;
		case '\f':
			*p++ = 'f';
			break;
		case '\n':
			*p++ = 'n';
			break;
		case '\r':
			*p++ = 'r';
			break;
		case '\t':
			*p++ = 't';
			break;
		default:
			p = put_literal(p, "u00");
			*p++ = "0123456789abcdef"[c >> 4];
			*p++ = "0123456789abcdef"[c & 0xF];
	}
	return p;
}

/*
 * Copies a string up to the first byte that must be escaped, and returns how
 * many bytes that is: len if there is none.  All len bytes of "to" may be
 * overwritten.
 *
 * Nothing is read past the string's end, where memory may end, too.  So what
 * is left after whole blocks is read as the string's last block, which
 * overlaps with them.
 */
static inline int
copy_plain(char *to, const char *from, int len)
{
	int			done = 0;

	if (len >= BLOCK_LEN)
	{
		while (len - done > BLOCK_LEN && copy_block(to + done, from + done))
			done += BLOCK_LEN;
		if (len - done <= BLOCK_LEN &&
			copy_block(to + len - BLOCK_LEN, from + len - BLOCK_LEN))
			return len;
	}
	else if (len >= (int) sizeof(uint32) && copy_short(to, from, len))
		return len;

	for (; done < len; done++)
	{
		unsigned char c = from[done];

		if (c < ' ' || c == '"' || c == '\\')
			break;
		to[done] = c;
	}
	return done;
}

/*
 * Copies BLOCK_LEN bytes; false if one of them must be escaped.
 */
static inline bool
copy_block(char *to, const char *from)
{
	Bytes16		block = block_read(from);

	block_write(to, block);
	return !block_must_escape(block);
}

/*
 * The same for less than a block, but at least 4 bytes.
 */
static inline bool
copy_short(char *to, const char *from, int len)
{
	uint64		first;
	uint64		last;

	if (len >= (int) sizeof(uint64))
	{
		memcpy(&first, from, sizeof(uint64));
		memcpy(&last, from + len - sizeof(uint64), sizeof(uint64));
		memcpy(to, &first, sizeof(uint64));
		memcpy(to + len - sizeof(uint64), &last, sizeof(uint64));
	}
	else
	{
		uint32		half[2];

		memcpy(&half[0], from, sizeof(uint32));
		memcpy(&half[1], from + len - sizeof(uint32), sizeof(uint32));
		memcpy(to, &half[0], sizeof(uint32));
		memcpy(to + len - sizeof(uint32), &half[1], sizeof(uint32));
		first = last = (uint64) half[0] << 32 | half[1];
	}
	return !block_must_escape(block_join(first, last));
}

/* Adds a key to the object being built. name isn't copied. */
static void
push_key(JsonbInState *state, const char *name)
{
	push_string(state, WJB_KEY, name, strlen(name));
}

/* Adds a string of len bytes, which isn't copied until the jsonb is made. */
static void
push_string(JsonbInState *state, JsonbIteratorToken token,
			const char *string, int len)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = (char *) string;
	value.val.string.len = len;
	pushJsonbValue(state, token, &value);
}

/* Adds a body as a key's value; NULL becomes null. */
static void
push_body(JsonbInState *state, Jsonb *body)
{
	JsonbValue	value;

	if (body == NULL)
		value.type = jbvNull;
	else if (!JsonbExtractScalar(&body->root, &value))
	{
		value.type = jbvBinary;
		value.val.binary.data = &body->root;
		value.val.binary.len = VARSIZE(body) - VARHDRSZ;
	}
	pushJsonbValue(state, WJB_VALUE, &value);
}
