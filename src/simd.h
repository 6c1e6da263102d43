/*-------------------------------------------------------------------------
 *
 * simd.h
 *	  16 bytes of a string at a time, as the processor can.
 *
 * Only what differs between processors: reading and writing a block, joining
 * it from two halves, and finding out whether, and where, it has a byte that
 * must be escaped in JSON (a control character, '"' or '\\').
 *
 *-------------------------------------------------------------------------
 */
#ifndef DOCSYNC_SIMD_H
#define DOCSYNC_SIMD_H

#include "port/pg_bitutils.h"

#define BLOCK_LEN			16

#if defined(__SSE2__)
#include <emmintrin.h>

typedef __m128i Bytes16;

/* Reads a block, which needn't be aligned. */
static inline Bytes16
block_read(const char *from)
{
	return _mm_loadu_si128((const __m128i *) from);
}

/* Writes a block, which needn't be aligned. */
static inline void
block_write(char *to, Bytes16 block)
{
	_mm_storeu_si128((__m128i *) to, block);
}

/* A block of two halves, a in front */
static inline Bytes16
block_join(uint64 a, uint64 b)
{
	return _mm_set_epi64x(b, a);
}

/* A bit for each byte, the first the lowest: must it be escaped? */
static inline uint32
block_escapes(Bytes16 block)
{
	const __m128i control = _mm_set1_epi8(' ' - 1);
	__m128i		found = _mm_cmpeq_epi8(_mm_max_epu8(block, control), control);

	found = _mm_or_si128(found, _mm_cmpeq_epi8(block, _mm_set1_epi8('"')));
	found = _mm_or_si128(found, _mm_cmpeq_epi8(block, _mm_set1_epi8('\\')));
	return _mm_movemask_epi8(found);
}

/* Must one of its bytes be escaped? */
static inline bool
block_must_escape(Bytes16 block)
{
	return block_escapes(block) != 0;
}

/* The place of the first byte that must be escaped, or BLOCK_LEN */
static inline int
block_find_escape(Bytes16 block)
{
	uint32		escapes = block_escapes(block);

	return escapes != 0 ? pg_rightmost_one_pos32(escapes) : BLOCK_LEN;
}

#elif defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>

typedef uint8x16_t Bytes16;

/* Reads a block, which needn't be aligned. */
static inline Bytes16
block_read(const char *from)
{
	return vld1q_u8((const uint8 *) from);
}

/* Writes a block, which needn't be aligned. */
static inline void
block_write(char *to, Bytes16 block)
{
	vst1q_u8((uint8 *) to, block);
}

/* A block of two halves, a in front */
static inline Bytes16
block_join(uint64 a, uint64 b)
{
	return vcombine_u8(vcreate_u8(a), vcreate_u8(b));
}

/* All ones in each byte that must be escaped */
static inline uint8x16_t
block_escapes(Bytes16 block)
{
	uint8x16_t	found = vcltq_u8(block, vdupq_n_u8(' '));

	found = vorrq_u8(found, vceqq_u8(block, vdupq_n_u8('"')));
	return vorrq_u8(found, vceqq_u8(block, vdupq_n_u8('\\')));
}

/* Must one of its bytes be escaped? */
static inline bool
block_must_escape(Bytes16 block)
{
	return vmaxvq_u8(block_escapes(block)) != 0;
}

/* The place of the first byte that must be escaped, or BLOCK_LEN */
static inline int
block_find_escape(Bytes16 block)
{
	/* Four bits for each byte */
	uint8x8_t	some = vshrn_n_u16(vreinterpretq_u16_u8(block_escapes(block)), 4);
	uint64		escapes = vget_lane_u64(vreinterpret_u64_u8(some), 0);

	return escapes != 0 ? pg_rightmost_one_pos64(escapes) / 4 : BLOCK_LEN;
}

#else							/* in plain C */

typedef struct Bytes16
{
	uint64		half[2];
} Bytes16;

/* Reads a block, which needn't be aligned. */
static inline Bytes16
block_read(const char *from)
{
	Bytes16		block;

	memcpy(&block, from, sizeof(block));
	return block;
}

/* Writes a block, which needn't be aligned. */
static inline void
block_write(char *to, Bytes16 block)
{
	memcpy(to, &block, sizeof(block));
}

/* A block of two halves, a in front */
static inline Bytes16
block_join(uint64 a, uint64 b)
{
	return (Bytes16)
	{
		{
			a, b
		}
	};
}

/*
 * Must one of its bytes be escaped?
 *
 * x ^ pattern has a zero byte where x has the pattern.  (x - 0x01...) & ~x &
 * 0x80... isn't zero if x has a zero byte, and likewise with 0x20... for a
 * byte below that.
 */
static inline bool
block_must_escape(Bytes16 block)
{
#define EACH_BYTE(byte)		(UINT64CONST(0x0101010101010101) * (byte))
#define HAS_LESS(x, n)		(((x) - EACH_BYTE(n)) & ~(x) & EACH_BYTE(0x80))

	uint64		found = 0;

	for (int i = 0; i < 2; i++)
	{
		uint64		x = block.half[i];

		found |= HAS_LESS(x, ' ') |
			HAS_LESS(x ^ EACH_BYTE('"'), 1) |
			HAS_LESS(x ^ EACH_BYTE('\\'), 1);
	}
	return found != 0;
}

/* The place of the first byte that must be escaped, or BLOCK_LEN */
static inline int
block_find_escape(Bytes16 block)
{
	const unsigned char *bytes = (const unsigned char *) &block;
	int			i = 0;

	if (!block_must_escape(block))
		return BLOCK_LEN;
	while (bytes[i] >= ' ' && bytes[i] != '"' && bytes[i] != '\\')
		i++;
	return i;
}

#endif

#endif							/* DOCSYNC_SIMD_H */
