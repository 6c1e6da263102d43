/*-------------------------------------------------------------------------
 *
 * digest.c
 *	  Hashes that clients compute as well, in whatever language.
 *
 * MurmurHash3_x86_32 (Austin Appleby, public domain) over bytes: 32 bits, so
 * that languages without 64-bit integers can compute it, and the same on every
 * machine, which the server's own hash functions don't promise.
 *
 * A collection is summed up by adding the hashes of its documents, two sums of
 * 32 bits each.  So a sum is kept up to date by one addition and one
 * subtraction a document, and sums of parts can be added.
 *
 * Pure: no table, no lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "port/pg_bswap.h"
#include "utils/builtins.h"

#include "docsync.h"

#define SEED_HIGH			0
#define SEED_LOW			0x5bd1e995

/* Rotates to the left.  bits is 1 to 31. */
static uint32
rotate(uint32 x, int bits)
{
	return (x << bits) | (x >> (32 - bits));
}

/*
 * MurmurHash3_x86_32 of len bytes
 */
uint32
docsync_digest_hash(const void *bytes, int len, uint32 seed)
{
	const unsigned char *p = bytes;
	uint32		h = seed;
	uint32		k = 0;

	for (int i = 0; i + 4 <= len; i += 4)
	{
		memcpy(&k, p + i, sizeof(k));
#ifdef WORDS_BIGENDIAN
		k = pg_bswap32(k);
#endif
		h ^= rotate(k * 0xcc9e2d51, 15) * 0x1b873593;
		h = rotate(h, 13) * 5 + 0xe6546b64;
	}

	k = 0;
	for (int i = len - 1; i >= (len & ~3); i--)
		k = k << 8 | p[i];
	h ^= rotate(k * 0xcc9e2d51, 15) * 0x1b873593;

	h ^= (uint32) len;
	h ^= h >> 16;
	h *= 0x85ebca6b;
	h ^= h >> 13;
	h *= 0xc2b2ae35;
	h ^= h >> 16;
	return h;
}

/*
 * The bucket a document's hash is added to, from 0 on
 */
int
docsync_digest_bucket(const text *id)
{
	return docsync_digest_hash(VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id),
							   SEED_HIGH) % DIGEST_BUCKETS;
}

/*
 * Adds a document: the hash of
 *
 *	  8:shopping,1,2026-11-23T08:47:18.100229Z
 *
 * the length of the id in bytes, the id, the clientVersion, the LastUpdateUtc.
 */
void
docsync_digest_add(Digest *digest, const text *id, int64 client_version,
				   TimestampTz last_update_utc)
{
	char		short_buf[DOCSYNC_ID_LEN + DOCSYNC_STAMP_LEN + 2 * (MAXINT8LEN + 1) + 3];
	int			id_len = VARSIZE_ANY_EXHDR(id);
	char	   *buf = short_buf;
	char	   *p;
	DigestSum  *sum = &digest->sums[docsync_digest_bucket(id)];

	/* Only if it was written while there was no guard */
	if (id_len > DOCSYNC_ID_LEN)
		buf = palloc(sizeof(short_buf) + id_len);

	p = buf;
	p += pg_ltoa(id_len, p);
	*p++ = ':';
	memcpy(p, VARDATA_ANY(id), id_len);
	p += id_len;
	*p++ = ',';
	p += pg_lltoa(client_version, p);
	*p++ = ',';
	p += docsync_utc_format(last_update_utc, p);

	sum->high += docsync_digest_hash(buf, p - buf, SEED_HIGH);
	sum->low += docsync_digest_hash(buf, p - buf, SEED_LOW);
	digest->count++;
	if (buf != short_buf)
		pfree(buf);
}

/*
 * The sum over all buckets
 */
static DigestSum
total_of(const Digest *digest)
{
	DigestSum	total = {0, 0};

	for (int i = 0; i < DIGEST_BUCKETS; i++)
	{
		total.high += digest->sums[i].high;
		total.low += digest->sums[i].low;
	}
	return total;
}

/*
 * That sum as text, into a buffer of DOCSYNC_DIGEST_LEN bytes
 */
void
docsync_digest_format(const Digest *digest, char *buf)
{
	DigestSum	total = total_of(digest);

	snprintf(buf, DOCSYNC_DIGEST_LEN, "%08x%08x", total.high, total.low);
}
