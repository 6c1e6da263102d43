/*-------------------------------------------------------------------------
 *
 * announce.c
 *	  The announcer: says which collections have changed, once that is settled.
 *
 * A background worker, one for each database in which somebody uploads or
 * listens with docsync.announce on.  It sleeps until a transaction that has
 * stamped documents ends, and then says, for each collection that has changed,
 * that it is settled up to a stamp (settle.c): whoever asks after that gets all
 * documents up to the stamp, and none at or below it will ever appear.  What
 * isn't settled yet is said later.
 *
 * It says so by NOTIFY.  NOTIFY takes a lock of the whole database until the
 * transaction has been committed and flushed, so an upload must not use it;
 * here one process does, in transactions of its own.
 *
 * No document is announced, and no name: a client that is told asks for what
 * has changed, and policies, filters and limits apply to that.  Announcements
 * may be lost, or say the same twice.
 *
 * For standbys it logs the watermark, the stamp up to which all collections are
 * settled, in a WAL record of the clock (clock.c).  A reader on a standby reads
 * the watermark, then takes its snapshot, and gives out documents up to there
 * (query.c).  It loses none: let B be a version that its snapshot doesn't see.
 * If B's stamp were up to the watermark, B's commit record would come before
 * the record with the watermark (invariant 5 of clock.c).  A standby replays
 * one record after the other, so B's transaction would have been seen as
 * finished by any snapshot taken since.  So B's stamp is later.  This stays
 * true for ever, in a standby that has been restarted, promoted, or made from a
 * backup, since it is about the order of records, and all of these have the
 * records before the one with the watermark.
 *
 * It reads no row, and runs no code of users': it looks at the clock, at the
 * running transactions and at their marks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "commands/async.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "docsync.h"

/* The channel of the announcements */
#define CHANNEL				"docsync"

/*
 * How often it looks, in milliseconds, though nobody has woken it: COMMIT
 * PREPARED wakes nobody.
 */
#define LOOK_INTERVAL		1000

/* How long docsync_announce_stop() waits, in milliseconds */
#define STOP_PATIENCE		5000

/* What has changed, and isn't announced yet */
typedef struct Pending
{
	bool		all;			/* any collection may have changed */
	bool		is_all_new;		/* and nobody has been told so */
	int			count;
	Change		changes[2 * DOCSYNC_CHANGES_MAX];
} Pending;

PG_FUNCTION_INFO_V1(docsync_listen_key);
PG_FUNCTION_INFO_V1(docsync_announce_stop);
PG_FUNCTION_INFO_V1(docsync_announce_start);

extern PGDLLEXPORT void docsync_announcer_main(Datum arg);

static Pending pending;

/* Our last watermark, and where in WAL it is */
static TimestampTz watermark = DT_NOBEGIN;
static XLogRecPtr watermark_at = InvalidXLogRecPtr;

/* How long to wait for somebody to wake us, in milliseconds */
static int	patience = LOOK_INTERVAL;

static void stop(void);
static void at_exit(int code, Datum arg);
static void trim_queue(void);
static void wait_for_work(void);
static void collect(void);
static bool announce(void);
static bool announce_settled(void);
static bool announce_pending(const Frontier *frontier);
static void notify(const Change *change, TimestampTz through);
static void format_key(const uint8 *key, char *buf);
static void check_owner(void);

/*
 * docsync_listen_key(collection text) RETURNS text
 *
 * What a collection is called in announcements; NULL for a caller who sees no
 * document of it, and if nothing is announced.
 *
 * Starts the announcer if none is running.  Uploads do so, too, but a listener
 * may also wait for what needs none any more: after a restart of the server,
 * for a prepared transaction of before to be committed.
 */
Datum
docsync_listen_key(PG_FUNCTION_ARGS)
{
	text	   *collection = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	uint8		key[DOCSYNC_ANNOUNCE_KEY_LEN];
	char		text_of_key[2 * DOCSYNC_ANNOUNCE_KEY_LEN + 1];
	bool		sees_any;

	docsync_text_check_name(collection, "collection", DOCSYNC_COLLECTION_LEN);
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a standby announces nothing"),
				 errhint("Listen to the primary.")));

	docsync_schema_open(STORE_READ);
	docsync_schema_push_snapshot();
	sees_any = docsync_store_sees_any(collection);
	PopActiveSnapshot();

	if (!docsync_announce || !sees_any ||
		!docsync_changes_attach(MyDatabaseId) || !docsync_changes_start())
		PG_RETURN_NULL();

	docsync_changes_key(collection, key);
	format_key(key, text_of_key);
	PG_RETURN_TEXT_P(cstring_to_text(text_of_key));
}

/*
 * docsync_announce_stop() RETURNS void
 *
 * Ends the announcer, so that the database can be dropped or copied.  None is
 * started until docsync_announce_start(), or a restart of the server.  If it
 * doesn't end in time, or if we are cancelled, it goes on.
 */
Datum
docsync_announce_stop(PG_FUNCTION_ARGS)
{
	check_owner();
	if (!docsync_changes_attach(MyDatabaseId))
		PG_RETURN_VOID();

	PG_TRY();
	{
		stop();
	}
	PG_CATCH();
	{
		docsync_changes_stop(false);
		PG_RE_THROW();
	}
	PG_END_TRY();

	PG_RETURN_VOID();
}

/* Tells the announcer to end, and waits until it has. */
static void
stop(void)
{
	for (int waited = 0; docsync_changes_stop(true) != 0; waited += 10)
	{
		if (waited >= STOP_PATIENCE)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("docsync's announcer has not ended"),
					 errdetail("It goes on; it may be waiting for a lock on the store."),
					 errhint("Try again.")));
		CHECK_FOR_INTERRUPTS();
		pg_usleep(10 * 1000L);
	}
}

/*
 * docsync_announce_start() RETURNS void
 *
 * Lets uploads and listeners start the announcer again.
 */
Datum
docsync_announce_start(PG_FUNCTION_ARGS)
{
	check_owner();
	if (docsync_changes_attach(MyDatabaseId))
		docsync_changes_stop(false);

	PG_RETURN_VOID();
}

/* Refuses callers who may not own a store. */
static void
check_owner(void)
{
	if (!docsync_check_may_own(GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for docsync's announcer"),
				 errhint("A superuser or the owner of the database can do this.")));
}

/*
 * The worker.  arg: the database's oid
 *
 * It ends, for good, when docsync_announce_stop() says so, when the store or
 * the database has gone, or by SIGUSR2 (vacate.c).  After an error, or when
 * somebody has ended it, the server starts it anew, a second later; but not
 * again and again, unless it has looked at the store.
 */
void
docsync_announcer_main(Datum arg)
{
	Oid			database = DatumGetObjectId(arg);
	char		timeout[16];

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	pqsignal(SIGUSR2, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();

	if (!docsync_changes_attach(database) || !docsync_changes_may_connect())
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	if (!docsync_changes_enter())
		proc_exit(0);
	before_shmem_exit(at_exit, (Datum) 0);

	/* Nobody needs an announcement after a crash. */
	SetConfigOption("synchronous_commit", "off", PGC_USERSET, PGC_S_OVERRIDE);

	/*
	 * In a deadlock with somebody's command, such as DROP EXTENSION, we are
	 * the ones to fail, since we look first.
	 */
	snprintf(timeout, sizeof(timeout), "%d", Max(DeadlockTimeout / 2, 1));
	SetConfigOption("deadlock_timeout", timeout, PGC_SUSET, PGC_S_OVERRIDE);

	trim_queue();
	while (!ShutdownRequestPending)
	{
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		collect();
		if (!announce())
			break;
		wait_for_work();
		if (!docsync_changes_go_on())
			break;
	}

	proc_exit(0);
}

/*
 * before_shmem_exit callback: nobody is to wake us any more.
 *
 * What fails, fails in a transaction.  Somebody who ends us finds us waiting,
 * and the server may not start us anew: DROP DATABASE from PostgreSQL 19 on.
 */
static void
at_exit(int code, Datum arg)
{
	docsync_changes_exit(IsTransactionOrTransactionBlock());
}

/*
 * Removes from the queue of NOTIFY what everybody has read.
 *
 * PostgreSQL does so when somebody adds to the queue, which nobody can while it
 * is full.  It also does so before it says how full the queue is, so whoever
 * asks makes room.  An announcer that has failed for lack of it comes here once
 * a second.
 */
static void
trim_queue(void)
{
	(void) OidFunctionCall0(F_PG_NOTIFICATION_QUEUE_USAGE);
}

/*
 * Waits until there is something to do, and until the last announcements were
 * docsync.announce_interval ago.  So the first change after a while is
 * announced at once, and many together.
 */
static void
wait_for_work(void)
{
	static uint32 wait_event = 0;
	TimestampTz last = GetCurrentTimestamp();
	long		rest;

	if (wait_event == 0)
		wait_event = compat_wait_event("DocsyncAnnouncer");

	if (WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
				  patience, wait_event) & WL_LATCH_SET)
		patience = docsync_announce_interval;
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();

	rest = docsync_announce_interval -
		TimestampDifferenceMilliseconds(last, GetCurrentTimestamp());
	if (rest > 0)
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, rest,
						 wait_event);
	CHECK_FOR_INTERRUPTS();
}

/*
 * Adds what writers have left to what is pending.
 */
static void
collect(void)
{
	Change		changes[DOCSYNC_CHANGES_MAX];
	bool		all;
	int			count = docsync_changes_take(changes, &all);

	for (int i = 0; i < count; i++)
	{
		int			at = 0;

		while (at < pending.count &&
			   memcmp(pending.changes[at].key, changes[i].key,
					  sizeof(changes[i].key)) != 0)
			at++;
		if (at == lengthof(pending.changes))
			all = true;
		else
		{
			if (at < pending.count)
				changes[i].stamp = Max(changes[i].stamp, pending.changes[at].stamp);
			pending.changes[at] = changes[i];
			pending.count = Max(pending.count, at + 1);
		}
	}

	if (all)
		pending.all = pending.is_all_new = true;
}

/*
 * Announces what is settled of what is pending, and logs the watermark.
 * Returns false if the store has gone.
 *
 * What isn't settled is looked at again when somebody has woken us, and else
 * after a time that doubles: what is in its way may be a transaction that has
 * just ended elsewhere, or one that takes an hour.
 */
static bool
announce(void)
{
	bool		is_there;
	bool		is_done = true;

	pgstat_report_activity(STATE_RUNNING, "announcing changes");
	StartTransactionCommand();
	is_there = OidIsValid(get_extension_oid("docsync", true)) &&
		OidIsValid(get_namespace_oid(DOCSYNC_SCHEMA, true));
	if (is_there)
		is_done = announce_settled();
	docsync_changes_has_looked();
	CommitTransactionCommand();
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);

	if (is_done)
		patience = LOOK_INTERVAL;
	else
		patience = Min(2 * patience, LOOK_INTERVAL);

	return is_there;
}

/*
 * The same.  Returns whether nothing is left to do.
 */
static bool
announce_settled(void)
{
	Frontier	frontier;
	bool		is_done;

	docsync_schema_open(STORE_READ);
	if (!pending.all && pending.count == 0 &&
		!docsync_clock_needs_watermark(watermark, watermark_at))
		return true;

	docsync_settle_find_frontier(&frontier);
	is_done = announce_pending(&frontier);
	if (frontier.nmarked > 0)
		return false;

	if (XLogStandbyInfoActive())
	{
		bool		is_new = watermark != frontier.stamp;

		watermark = frontier.stamp;
		watermark_at = docsync_clock_log_watermark(watermark,
												   frontier.logged_at, is_new);
		is_done = is_done && watermark_at != InvalidXLogRecPtr;
	}

	return is_done;
}

/*
 * Announces what is settled of what is pending, up to a frontier.  Returns
 * whether all is.
 *
 * A collection is settled up to the frontier, but is announced up to its own
 * last stamp.  The frontier would tell who listens to it that something else
 * has been stamped since, perhaps in a collection that they don't see; and no
 * reader would ever get that far.
 */
static bool
announce_pending(const Frontier *frontier)
{
	bool		all_settled = frontier->nmarked == 0;
	int			left = 0;

	for (int i = 0; i < pending.count; i++)
	{
		const Change *change = &pending.changes[i];

		if (docsync_settle_is_frontier(frontier, change->hash))
			notify(change, Min(change->stamp, frontier->stamp));
		else
			pending.changes[left++] = *change;
	}
	pending.count = left;

	/*
	 * Nobody knows what has changed: everybody has to ask, and ask again when
	 * all of it is settled.
	 */
	if (pending.all && (all_settled || pending.is_all_new))
	{
		notify(NULL, all_settled ? frontier->stamp : DT_NOBEGIN);
		pending.is_all_new = false;
		pending.all = !all_settled;
	}

	return left == 0 && !pending.all;
}

/*
 * Announces that a collection is settled up to a stamp.  change: NULL: that
 * any may have changed; through: DT_NOBEGIN: that it isn't known how far it is
 * settled
 */
static void
notify(const Change *change, TimestampTz through)
{
	char		key[2 * DOCSYNC_ANNOUNCE_KEY_LEN + 1];
	char		stamp[DOCSYNC_STAMP_LEN];
	char		payload[sizeof(key) + sizeof(stamp) + 64];

	if (change != NULL)
		format_key(change->key, key);
	if (through != DT_NOBEGIN)
		docsync_utc_format(through, stamp);

	snprintf(payload, sizeof(payload), "{\"collection\":%s%s%s,\"through\":%s%s%s}",
			 change != NULL ? "\"" : "", change != NULL ? key : "null",
			 change != NULL ? "\"" : "",
			 through != DT_NOBEGIN ? "\"" : "",
			 through != DT_NOBEGIN ? stamp : "null",
			 through != DT_NOBEGIN ? "\"" : "");
	Async_Notify(CHANNEL, payload);
}

/* A key as text: hexadecimal digits, and a terminator */
static void
format_key(const uint8 *key, char *buf)
{
	buf[hex_encode((const char *) key, DOCSYNC_ANNOUNCE_KEY_LEN, buf)] = '\0';
}
