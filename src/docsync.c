/*-------------------------------------------------------------------------
 *
 * docsync.c
 *	  Module start and settings.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"

#include "docsync.h"

PG_MODULE_MAGIC_EXT(.name = "docsync",.version = DOCSYNC_VERSION);

int			docsync_max_batch;
int			docsync_max_document_size;
int			docsync_max_depth;
int			docsync_max_version_lead;
int			docsync_max_page_size;

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
	DefineCustomIntVariable("docsync.max_batch",
							"Sets the most documents one upload may have.",
							NULL,
							&docsync_max_batch,
							10000, 1, INT_MAX / 2,
							PGC_SUSET, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("docsync.max_document_size",
							"Sets the largest body a document may have.",
							"In bytes of JSON, as it is sent.",
							&docsync_max_document_size,
							1024 * 1024, 1, DOCSYNC_DOCUMENT_MAX,
							PGC_SUSET, GUC_UNIT_BYTE,
							NULL, NULL, NULL);

	DefineCustomIntVariable("docsync.max_depth",
							"Sets how deep arrays and objects may be nested in a body.",
							NULL,
							&docsync_max_depth,
							100, 0, DOCSYNC_DEPTH_MAX,
							PGC_SUSET, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("docsync.max_version_lead",
							"Sets how far a clientVersion may be ahead of the server's clock.",
							"For clientVersions in milliseconds since 1970. -1 means no limit.",
							&docsync_max_version_lead,
							-1, -1, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("docsync.max_page_size",
							"Sets the size of the documents in an answer over HTTP after which it ends.",
							"The client gets the rest with the next one.",
							&docsync_max_page_size,
							64 * 1024 * 1024, 1, 512 * 1024 * 1024,
							PGC_SUSET, GUC_UNIT_BYTE,
							NULL, NULL, NULL);

	MarkGUCPrefixReserved("docsync");

	docsync_schema_init();
	docsync_stamp_init();
	docsync_history_init();
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
