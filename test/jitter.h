/*
 * jitter.h
 *	  Delays that make races easy to meet.
 *
 * Compiled into docsync by test/mutations, never into what is installed:
 *
 *	  make PG_CPPFLAGS="-include $PWD/test/jitter.h"
 *
 * docsync's guarantees rest on the order of a few calls into the server.  Each
 * of these is now and then preceded by a pause, as if the process had been
 * interrupted there, so that a wrong order, which otherwise would show once in
 * an hour, shows within seconds.
 */
#ifndef DOCSYNC_JITTER_H
#define DOCSYNC_JITTER_H

#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lock.h"
#include "storage/procarray.h"

/* One call in so many pauses, for so many microseconds at the most. */
#define JITTER_CALLS	40
#define JITTER_MAX		5000

static inline void
jitter(void)
{
	uint64		r = pg_prng_uint64(&pg_global_prng_state);

	if (r % JITTER_CALLS == 0)
		pg_usleep(r / JITTER_CALLS % JITTER_MAX);
}

/* A macro isn't expanded within itself. */
#define GetLockConflicts(...)			(jitter(), GetLockConflicts(__VA_ARGS__))
#define GetTopTransactionId(...)		(jitter(), GetTopTransactionId(__VA_ARGS__))
#define LockAcquire(...)				(jitter(), LockAcquire(__VA_ARGS__))
#define LockBuffer(...)					(jitter(), LockBuffer(__VA_ARGS__))
#define ReadNextFullTransactionId(...)	(jitter(), ReadNextFullTransactionId(__VA_ARGS__))
#define TransactionIdDidCommit(...)		(jitter(), TransactionIdDidCommit(__VA_ARGS__))
#define TransactionIdIsInProgress(...)	(jitter(), TransactionIdIsInProgress(__VA_ARGS__))

#endif							/* DOCSYNC_JITTER_H */
