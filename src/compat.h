/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  What differs between PostgreSQL's major versions, and nothing else.
 *
 * No other file mentions PG_VERSION_NUM.
 *
 * To come with later versions:
 *
 * 16	ExecCheckPermissions() is given an RTEPermissionInfo beside the range table
 *		(docsync_schema_check_columns() in schema.c).
 * 17	GetNamedDSMSegment() gives what sessions share without taking it from
 *		what the server has to spare (open_cache() in state.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef DOCSYNC_COMPAT_H
#define DOCSYNC_COMPAT_H

#include "utils/guc.h"

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 160000
#error "this docsync is built for PostgreSQL 15"
#endif

#ifndef USE_FLOAT8_BYVAL
#error "docsync passes timestamps by value: it needs a 64-bit server"
#endif

#if PG_VERSION_NUM < 170000
/*
 * Sets a search_path with nothing of a user's in it, until the caller's level
 * of settings ends (guc.h).
 */
static inline void
RestrictSearchPath(void)
{
	set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
					  PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}
#endif

#endif							/* DOCSYNC_COMPAT_H */
