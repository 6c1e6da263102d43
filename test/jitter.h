/*
 * jitter.h
 *	  Delays and stops that make races easy to meet.
 *
 * docsync's guarantees rest on the order of a few calls into the server.
 * Compiled with this header (by test/t/lib/DocsyncTest.pm, never into what is
 * installed)
 *
 *	  cc -include test/jitter.h ...
 *
 * each of these is now and then preceded by a pause, as if the process had
 * been interrupted there, so that a wrong order, which otherwise would show
 * once in an hour, shows within seconds.
 *
 * A test can also stop a session at one of them, by two settings:
 *
 *	  jitter.stop_before	the call, by its name
 *	  jitter.stop_file		while this file is there, the session stops before
 *							the call; it says so by making FILE.stopped
 */
#ifndef DOCSYNC_JITTER_H
#define DOCSYNC_JITTER_H

#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lock.h"
#include "storage/procarray.h"
#include "storage/standby.h"
#include "utils/guc.h"

/* One call in so many pauses, for so many microseconds at the most. */
#define JITTER_CALLS	40
#define JITTER_MAX		5000

static inline void
jitter(const char *call)
{
	const char *stop_before = GetConfigOption("jitter.stop_before", true, false);

	if (stop_before == NULL || *stop_before == '\0')
	{
		uint64		r = pg_prng_uint64(&pg_global_prng_state);

		if (r % JITTER_CALLS == 0)
			pg_usleep(r / JITTER_CALLS % JITTER_MAX);
	}
	else if (strcmp(call, stop_before) == 0)
	{
		const char *file = GetConfigOption("jitter.stop_file", true, false);
		char		stopped[MAXPGPATH];

		snprintf(stopped, sizeof(stopped), "%s.stopped", file);
		if (access(file, F_OK) == 0)
			close(open(stopped, O_CREAT | O_WRONLY, 0600));
		while (access(file, F_OK) == 0)
			pg_usleep(1000);
	}
}

/* A macro isn't expanded within itself. */
#define GetLockConflicts(...)			(jitter("GetLockConflicts"), GetLockConflicts(__VA_ARGS__))
#define GetRedoRecPtr(...)				(jitter("GetRedoRecPtr"), GetRedoRecPtr(__VA_ARGS__))
#define GetRunningTransactionData(...)	(jitter("GetRunningTransactionData"), GetRunningTransactionData(__VA_ARGS__))
#define GetTopTransactionId(...)		(jitter("GetTopTransactionId"), GetTopTransactionId(__VA_ARGS__))
#define LockAcquire(...)				(jitter("LockAcquire"), LockAcquire(__VA_ARGS__))
#define LockBuffer(...)					(jitter("LockBuffer"), LockBuffer(__VA_ARGS__))
#define MarkBufferDirty(...)			(jitter("MarkBufferDirty"), MarkBufferDirty(__VA_ARGS__))
#define ReadNextFullTransactionId(...)	(jitter("ReadNextFullTransactionId"), ReadNextFullTransactionId(__VA_ARGS__))
#define TransactionIdDidCommit(...)		(jitter("TransactionIdDidCommit"), TransactionIdDidCommit(__VA_ARGS__))
#define TransactionIdIsInProgress(...)	(jitter("TransactionIdIsInProgress"), TransactionIdIsInProgress(__VA_ARGS__))

#endif							/* DOCSYNC_JITTER_H */
