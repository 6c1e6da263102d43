/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  The settings docsync.* and their descriptions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"

#include "docsync.h"

int			docsync_max_batch;
int			docsync_max_document_size;
int			docsync_max_depth;
int			docsync_max_version_lead;
int			docsync_max_page_size;
bool		docsync_announce;
int			docsync_announce_interval;

/*
 * Declares the settings, and reserves the prefix: any other setting with it is
 * an error.
 */
void
docsync_settings_init(void)
{
	DefineCustomIntVariable("docsync.max_batch",
							"Sets the maximum number of documents in one upload.",
							NULL,
							&docsync_max_batch,
							10000, 1, INT_MAX / 2,
							PGC_SUSET, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("docsync.max_document_size",
							"Sets the maximum size of a document's body.",
							"In bytes of JSON, as it was sent.",
							&docsync_max_document_size,
							1024 * 1024, 1, DOCSYNC_DOCUMENT_MAX,
							PGC_SUSET, GUC_UNIT_BYTE,
							NULL, NULL, NULL);

	DefineCustomIntVariable("docsync.max_depth",
							"Sets how deeply arrays and objects may be nested in a body.",
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
							"Sets the size of the documents after which an answer over HTTP ends.",
							"The client gets the rest with the next answers.",
							&docsync_max_page_size,
							64 * 1024 * 1024, 1, 512 * 1024 * 1024,
							PGC_SUSET, GUC_UNIT_BYTE,
							NULL, NULL, NULL);

	DefineCustomBoolVariable("docsync.announce",
							 "Announces by NOTIFY which collections have changed.",
							 "A background worker does so; uploads and listeners start it.",
							 &docsync_announce,
							 false,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);

	DefineCustomIntVariable("docsync.announce_interval",
							"Sets the time between two announcements.",
							NULL,
							&docsync_announce_interval,
							20, 1, 1000,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);

	MarkGUCPrefixReserved("docsync");
}
