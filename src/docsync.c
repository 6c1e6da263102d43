/*-------------------------------------------------------------------------
 *
 * docsync.c
 *	  Module start.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "docsync.h"

PG_MODULE_MAGIC_EXT(.name = "docsync",.version = DOCSYNC_VERSION);

/* Free memory, in bytes, that a session keeps for what comes next */
#define KEPT_MEMORY			(4 * 1024 * 1024)

void		_PG_init(void);
static void keep_memory(void);

/*
 * Defines the settings and registers the hooks and callbacks of all files.
 * Called once in a process, when the library is loaded.
 */
void
_PG_init(void)
{
	docsync_settings_init();
	docsync_schema_init();
	docsync_changes_init();
	docsync_stamp_init();
	docsync_epoch_init();
	docsync_pin_init();
	keep_memory();
}

/*
 * Has the session keep some of the memory that it frees.
 *
 * glibc's free() gives the end of the heap back to the system if that is more
 * than twice the largest chunk that has been unmapped, in the beginning 256
 * kB.  An answer takes three times its size.  So all memory of a page would be
 * given back after it, and asked for anew by the next one, with a fault and a
 * zeroed page for every 4 kB: a third to half of the page's time.  Here is a
 * chunk that is large enough.  Where there is no glibc this does nothing.
 */
static void
keep_memory(void)
{
	pfree(palloc(KEPT_MEMORY / 2));
}
