/*-------------------------------------------------------------------------
 *
 * changes.c
 *	  Which collections have changed: left by writers for the announcer.
 *
 * A transaction notes the collections that it stamps, in its own memory.  When
 * it commits, after other sessions can see it, it leaves them in shared memory
 * and wakes the announcer (announce.c), a background worker.  Raising an error
 * at that point would be a PANIC, so there is nothing there that can fail: a
 * spinlock, a copy of a few bytes, a latch.
 *
 * Shared memory has the collections' keys, not their names: a key is what an
 * announcement says, and who may not see a collection learns nothing from it.
 *
 * Each database has its own shared memory.  Servers before 17 take it from
 * what is spare; if that has run out, nothing is announced, and clients poll.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hmac.h"
#include "common/sha2.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/latch.h"
#include "storage/spin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "docsync.h"

/*
 * The number must change with the structs below: after an update, until the
 * server is restarted, older sessions still use the old library.
 */
#define SHARED_NAME			"docsync announcer 3, database %u"

/*
 * How often a session tries to start an announcer, in milliseconds.  One that
 * has failed is started by the server, after RESTART_TIME seconds: nobody is to
 * start a second one meanwhile, which would fail as well, and stay, too.
 */
#define START_INTERVAL		3000
#define RESTART_TIME		1

/*
 * How often the server may start an announcer that fails before it has looked
 * at the store.  Its database has been dropped, perhaps.
 */
#define STARTS_MAX			3

/*
 * Places for changes: twice as many as are told apart, so that one is found
 * after a few looks, since that is done under a spinlock
 */
#define PLACES				(2 * DOCSYNC_CHANGES_MAX)

/* The length of the secret, in bytes */
#define SECRET_LEN			32

/* In shared memory, one for each database */
typedef struct Announcer
{
	slock_t		mutex;			/* on all of it */
	int			pid;			/* 0: none is running */
	Latch	   *latch;			/* its latch, or NULL */
	bool		is_stopped;		/* none is to be running */
	bool		has_no_worker;	/* nor can it: there was none when somebody
								 * last tried to */
	TimestampTz started;		/* when somebody last tried to, or one failed */
	int			starts;			/* since one has looked at the store */
	bool		has_secret;
	uint8		secret[SECRET_LEN];
	bool		all;			/* any collection may have changed */
	int			count;			/* of the places used */
	Change		changes[PLACES];	/* by hash */
} Announcer;

static Announcer *announcer = NULL;
static bool is_attached = false;

/* The collections that this transaction stamps */
static Change noted[DOCSYNC_CHANGES_NOTED];
static int	nnoted = 0;
static bool all_noted = false;

/* The collection that was noted last, and its key */
static Change last;
static int	last_len = -1;		/* bytes; -1: none */
static char last_collection[DOCSYNC_COLLECTION_LEN];

static bool attach_in_upload(void);
static void init_shared(DSM_INIT_PARAMETERS);
static void find_key(const text *collection);
static void leave(void);
static void leave_one(const Change *change);
static void at_xact(XactEvent event, void *arg);

/* Registers what is to be done when a transaction ends. */
void
docsync_changes_init(void)
{
	RegisterXactCallback(at_xact, NULL);
}

/*
 * Finds, or makes, the shared memory of a database's announcer.  Returns false
 * if there is no room for it.  A process calls it for one database only.
 */
bool
docsync_changes_attach(Oid database)
{
	uint8		secret[SECRET_LEN];
	char		name[64];
	bool		found;

	if (is_attached)
		return announcer != NULL;

	if (!pg_strong_random(secret, sizeof(secret)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));

	snprintf(name, sizeof(name), SHARED_NAME, database);
	announcer = GetNamedDSMSegment(name, sizeof(Announcer), init_shared,
								   &found, NULL);
	is_attached = true;
	if (announcer == NULL)
	{
		ereport(LOG,
				(errmsg("docsync announces nothing in database %u: the server has no shared memory to spare",
						database),
				 errhint("You may need to increase \"max_locks_per_transaction\".")));
		return false;
	}

	SpinLockAcquire(&announcer->mutex);
	if (!announcer->has_secret)
	{
		memcpy(announcer->secret, secret, sizeof(secret));
		announcer->has_secret = true;
	}
	SpinLockRelease(&announcer->mutex);

	return true;
}

/*
 * The same in an upload, which goes on if it fails: then this session's changes
 * aren't announced.
 */
static bool
attach_in_upload(void)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	ResourceOwner oldowner = CurrentResourceOwner;

	if (is_attached)
		return announcer != NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(oldcontext);
	PG_TRY();
	{
		docsync_changes_attach(MyDatabaseId);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(oldcontext);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(error);

		/* It goes to the server's log. */
		error->elevel = LOG;
		ThrowErrorData(error);
		is_attached = true;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(oldcontext);
	CurrentResourceOwner = oldowner;

	return announcer != NULL;
}

/* Callback of GetNamedDSMSegment() */
static void
init_shared(DSM_INIT_PARAMETERS)
{
	memset(segment, 0, sizeof(Announcer));
	SpinLockInit(&((Announcer *) segment)->mutex);
}

/*
 * The key of a collection in announcements: what only those can tell who have
 * seen the server's secret, and always the same until the server is restarted.
 */
void
docsync_changes_key(const text *collection, uint8 *key)
{
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	pg_hmac_ctx *hmac = pg_hmac_create(PG_SHA256);

	/* The secret doesn't change once we are attached. */
	if (hmac == NULL ||
		pg_hmac_init(hmac, announcer->secret, sizeof(announcer->secret)) < 0 ||
		pg_hmac_update(hmac, (const uint8 *) VARDATA_ANY(collection),
					   VARSIZE_ANY_EXHDR(collection)) < 0 ||
		pg_hmac_final(hmac, digest, sizeof(digest)) < 0)
	{
		pg_hmac_free(hmac);
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute the key of a collection")));
	}
	pg_hmac_free(hmac);

	memcpy(key, digest, DOCSYNC_ANNOUNCE_KEY_LEN);
}

/*
 * Notes that the transaction is about to stamp documents of a collection, with
 * DT_NOBEGIN, or that it gives a document of it a stamp.  Starts the announcer
 * if none is running.
 */
void
docsync_changes_note(const text *collection, TimestampTz stamp)
{
	if (!docsync_announce || all_noted || !attach_in_upload())
		return;

	(void) docsync_changes_start();

	find_key(collection);
	for (int i = nnoted - 1; i >= 0; i--)
	{
		if (memcmp(noted[i].key, last.key, sizeof(last.key)) == 0)
		{
			noted[i].stamp = Max(noted[i].stamp, stamp);
			return;
		}
	}

	if (nnoted < DOCSYNC_CHANGES_NOTED)
	{
		noted[nnoted] = last;
		noted[nnoted++].stamp = stamp;
	}
	else
		all_noted = true;
}

/*
 * Makes a collection the last one.  The one that is written to is nearly
 * always the same as before.
 */
static void
find_key(const text *collection)
{
	int			len = VARSIZE_ANY_EXHDR(collection);

	if (len == last_len &&
		memcmp(VARDATA_ANY(collection), last_collection, len) == 0)
		return;

	last_len = -1;
	docsync_changes_key(collection, last.key);
	last.hash = docsync_text_hash(collection);
	memcpy(last_collection, VARDATA_ANY(collection), len);
	last_len = len;
}

/*
 * Starts the announcer, unless it is running, or has been stopped, or somebody
 * has tried a moment ago, or the server will do so in a moment.  Returns false
 * if nobody can expect one: it has been stopped, or there is no worker for it.
 */
bool
docsync_changes_start(void)
{
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION | BGWORKER_INTERRUPTIBLE,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = RESTART_TIME,
		.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId)
	};
	TimestampTz now;
	bool		wanted;
	bool		registered;
	bool		is_news;

	/* Read without the lock: whoever comes next looks again. */
	if (announcer->is_stopped)
		return false;
	if (announcer->pid != 0)
		return true;

	now = GetCurrentTimestamp();
	SpinLockAcquire(&announcer->mutex);
	wanted = announcer->pid == 0 && !announcer->is_stopped &&
		TimestampDifferenceExceeds(announcer->started, now, START_INTERVAL);
	if (wanted)
	{
		announcer->started = now;
		announcer->starts = 0;
	}
	SpinLockRelease(&announcer->mutex);
	if (!wanted)
		return !announcer->has_no_worker;

	strlcpy(worker.bgw_library_name, "docsync", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "docsync_announcer_main", BGW_MAXLEN);
	strlcpy(worker.bgw_type, DOCSYNC_ANNOUNCER, BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, DOCSYNC_ANNOUNCER " of database %u",
			 MyDatabaseId);
	registered = RegisterDynamicBackgroundWorker(&worker, NULL);

	SpinLockAcquire(&announcer->mutex);
	is_news = !registered && !announcer->has_no_worker;
	announcer->has_no_worker = !registered;
	SpinLockRelease(&announcer->mutex);
	if (is_news)
		ereport(LOG,
				(errmsg("docsync could not start its announcer"),
				 errhint("You may need to increase \"max_worker_processes\".")));

	return registered;
}

/*
 * An announcer is about to connect to its database.  Returns false if it must
 * end instead, for good: the next who uploads or listens may start another.
 */
bool
docsync_changes_may_connect(void)
{
	bool		may;

	SpinLockAcquire(&announcer->mutex);
	may = announcer->pid == 0 && !announcer->is_stopped &&
		announcer->starts < STARTS_MAX;
	announcer->starts++;
	SpinLockRelease(&announcer->mutex);

	return may;
}

/*
 * The announcer has connected, and will be woken from now on.  Returns false
 * if there is another one, or it has been stopped: then it must end.
 */
bool
docsync_changes_enter(void)
{
	bool		enters;

	SpinLockAcquire(&announcer->mutex);
	enters = announcer->pid == 0 && !announcer->is_stopped;
	if (enters)
	{
		announcer->pid = MyProcPid;
		announcer->latch = MyLatch;

		/* What happened before, nobody knows. */
		announcer->all = true;
	}
	SpinLockRelease(&announcer->mutex);

	return enters;
}

/*
 * The announcer ends.  If it has failed, the server starts it anew; otherwise
 * the next who uploads or listens may do so at once.
 */
void
docsync_changes_exit(bool has_failed)
{
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&announcer->mutex);
	if (announcer->pid == MyProcPid)
	{
		announcer->pid = 0;
		announcer->latch = NULL;
		announcer->started = has_failed ? now : 0;
	}
	SpinLockRelease(&announcer->mutex);
}

/*
 * Takes what has changed since the last time: up to DOCSYNC_CHANGES_MAX
 * changes, and whether there were too many to be told apart.
 */
int
docsync_changes_take(Change *changes, bool *all)
{
	int			count = 0;

	SpinLockAcquire(&announcer->mutex);
	*all = announcer->all;
	announcer->all = false;
	if (announcer->count > 0)
	{
		for (int i = 0; i < PLACES; i++)
		{
			if (announcer->changes[i].is_used)
				changes[count++] = announcer->changes[i];
			announcer->changes[i].is_used = false;
		}
		announcer->count = 0;
	}
	SpinLockRelease(&announcer->mutex);

	return count;
}

/*
 * The announcer has found out what is settled.  If it fails now, as when the
 * queue of NOTIFY is full, it may succeed the next time, or the hundredth.
 */
void
docsync_changes_has_looked(void)
{
	SpinLockAcquire(&announcer->mutex);
	announcer->starts = 0;
	SpinLockRelease(&announcer->mutex);
}

/*
 * The announcer has announced what there was.  Returns false if it has been
 * told to end, or another one has taken its place.
 */
bool
docsync_changes_go_on(void)
{
	bool		goes_on;

	SpinLockAcquire(&announcer->mutex);
	goes_on = !announcer->is_stopped && announcer->pid == MyProcPid;
	SpinLockRelease(&announcer->mutex);

	return goes_on;
}

/*
 * Tells the announcer to end, and that none is to be started; or, with false,
 * that one may be again.  Returns the process id of the one that is running, 0
 * if there is none.
 */
int
docsync_changes_stop(bool stop)
{
	Latch	   *latch;
	int			pid;

	SpinLockAcquire(&announcer->mutex);
	announcer->is_stopped = stop;
	pid = announcer->pid;
	latch = announcer->latch;
	SpinLockRelease(&announcer->mutex);

	if (stop && latch != NULL)
		SetLatch(latch);
	return pid;
}

/*
 * XactCallback: leaves what has changed to the announcer, when others can see
 * it.
 *
 * So does a transaction that is rolled back, though without stamps, which
 * nobody will ever see.  It may have taken its mark when documents with later
 * fences had been announced already, and then it has held back whoever asked
 * for them meanwhile.
 *
 * Raises no error.
 */
static void
at_xact(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
			break;
		case XACT_EVENT_ABORT:
			for (int i = 0; i < nnoted; i++)
				noted[i].stamp = DT_NOBEGIN;
			break;
		default:
			return;
	}

	if (nnoted > 0 || all_noted)
		leave();

	nnoted = 0;
	all_noted = false;
}

/*
 * Wakes the announcer, with what has changed.
 *
 * Who commits first and is seen by others last?  The locks that are marks are
 * released after this.  But a transaction that has left the running set is
 * seen by each later snapshot, and then nobody asks for its marks.
 */
static void
leave(void)
{
	Latch	   *latch;

	SpinLockAcquire(&announcer->mutex);
	announcer->all |= all_noted;
	for (int i = 0; i < nnoted; i++)
		leave_one(&noted[i]);
	latch = announcer->latch;
	SpinLockRelease(&announcer->mutex);

	/* Latches of processes that have ended are still latches. */
	if (latch != NULL)
		SetLatch(latch);
}

/*
 * Puts a change into shared memory, together with those of its collection; or
 * notes that there are too many.
 */
static void
leave_one(const Change *change)
{
	for (int i = 0; announcer->count < DOCSYNC_CHANGES_MAX; i++)
	{
		Change	   *place = &announcer->changes[(change->hash + i) % PLACES];

		if (!place->is_used)
		{
			*place = *change;
			place->is_used = true;
			announcer->count++;
			return;
		}
		if (memcmp(place->key, change->key, sizeof(place->key)) == 0)
		{
			place->stamp = Max(place->stamp, change->stamp);
			return;
		}
	}

	announcer->all = true;
}
