/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  What differs between PostgreSQL's major versions, and nothing else.
 *
 * No other file mentions PG_VERSION_NUM.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DOCSYNC_COMPAT_H
#define DOCSYNC_COMPAT_H

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 160000
#error "this docsync is built for PostgreSQL 15"
#endif

#ifndef USE_FLOAT8_BYVAL
#error "docsync passes timestamps by value: it needs a 64-bit server"
#endif

#endif							/* DOCSYNC_COMPAT_H */
