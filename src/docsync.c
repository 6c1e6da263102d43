/*-------------------------------------------------------------------------
 *
 * docsync.c
 *	  Module initialization.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "docsync.h"

PG_MODULE_MAGIC_EXT(.name = "docsync",.version = DOCSYNC_VERSION);

/* Freed memory, in bytes, that a session keeps for later use */
#define KEPT_MEMORY			(4 * 1024 * 1024)

void		_PG_init(void);
static void keep_memory(void);

/*
 * Defines the settings and registers the hooks and callbacks of all files.
 * Called once in each process, when the library is loaded.
 */
void
_PG_init(void)
{
	docsync_settings_init();
	docsync_schema_init();
	docsync_changes_init();
	docsync_vacate_init();
	docsync_stamp_init();
	docsync_epoch_init();
	docsync_pin_init();
	keep_memory();
}

/*
 * Makes the session keep some of the memory that it frees.
 *
 * glibc's free() returns the top of the heap to the system if that is larger
 * than twice the largest chunk unmapped so far, initially 256 kB.  An answer
 * takes three times its size.  So all memory of a page would be returned after
 * it, and requested again for the next one, with a fault and a zeroed page for
 * every 4 kB, which takes a third to half of the page's time.  Freeing a large
 * chunk once raises that limit.  Without glibc this has no effect.
 */
static void
keep_memory(void)
{
	pfree(palloc(KEPT_MEMORY / 2));
}
