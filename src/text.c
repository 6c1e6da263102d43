/*-------------------------------------------------------------------------
 *
 * text.c
 *	  Names and ids: compared by their bytes, hashed, and bounded in length.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"

#include "docsync.h"

/*
 * Compares ids in their order: by bytes, as in collation "C".
 */
int
docsync_text_compare(const char *a, int a_len, const char *b, int b_len)
{
	int			cmp = memcmp(a, b, Min(a_len, b_len));

	return cmp != 0 ? cmp : a_len - b_len;
}

/* Are two texts the same, byte by byte?  Neither may be NULL. */
bool
docsync_text_is_same(const text *a, const text *b)
{
	return docsync_text_compare(VARDATA_ANY(a), VARSIZE_ANY_EXHDR(a),
								VARDATA_ANY(b), VARSIZE_ANY_EXHDR(b)) == 0;
}

/*
 * Refuses a client_id or a collection that is NULL, empty or too long.
 * max_len is in bytes.
 */
void
docsync_text_check_name(const text *value, const char *name, int max_len)
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

/*
 * The hash of a collection, for its mark.  Two collections may have the same
 * hash: then readers of one wait for writers of the other, too.
 */
uint32
docsync_text_hash(const text *collection)
{
	return hash_bytes((const unsigned char *) VARDATA_ANY(collection),
					  VARSIZE_ANY_EXHDR(collection));
}
