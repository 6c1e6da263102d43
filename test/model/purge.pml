/*
 * purge.pml
 *	  A model of purges and `seen' of doc/stamps.md for SPIN: does a client
 *	  forever keep a document whose tombstone was removed before it was fetched?
 *
 * Some transactions write versions of two documents, some purge tombstones, and
 * a client continues from its position, page by page, endlessly.  SPIN tries
 * all orders of their steps; a `d_step' or `atomic' is one step.  The
 * assumptions about PostgreSQL:
 *
 * 1. a snapshot sees all of a transaction, or nothing of it;
 * 2. snapshots are ordered, and a later one sees what an earlier one saw; but
 *	  an old one may still be used, and a standby has its own order: there,
 *	  transactions become visible as their commits are recorded, and on the
 *	  primary as they leave the running set (STANDBY);
 * 3. a transaction that overwrites or removes a row holds its lock until the
 *	  end, when a new snapshot sees the outcome.
 *
 * From stamps.pml: what is settled under a snapshot has an earlier stamp than
 * everything that this snapshot doesn't see, and that isn't rolled back.  Here
 * the test is exactly that.  The real one says no more often, which ends a page
 * or a purge earlier; these may end anywhere.
 *
 * There is one client: what others upload, the writers write.  It applies
 * everything it is given, whoever wrote it.
 *
 * `run' checks the design, and drops its rules one at a time by defining their
 * names, which are in capitals here.  With RULE_DROPPED nothing is rolled back
 * and no client fails: that leaves less to search, and there is a
 * counter-example all the same.
 */

#ifndef WRITERS
#define WRITERS			2
#endif
#ifndef PURGES
#define PURGES			2
#endif
#ifndef STAMPS
#define STAMPS			4	/* two are used at the beginning */
#endif
#define DOCUMENTS		2

/*
 * Transactions: 0 is none, 1 wrote what exists at the beginning; then come the
 * writers, then the purges.
 */
#define ME				(_pid + 2)
#define LAST_WRITER		(1 + WRITERS)
#define LAST_PURGE		(LAST_WRITER + PURGES)
#ifdef HORIZON_LATER
#define TRANSACTIONS	(LAST_PURGE + PURGES)
#else
#define TRANSACTIONS	LAST_PURGE
#endif

/* The server */
byte commits;
byte commit[TRANSACTIONS + 1];	/* its place in the order of commits; 0: none (yet) */
byte begun;						/* the last writer that has started */
byte purges;					/* purges that have started */
byte lock[DOCUMENTS + 1];		/* who holds the lock of the document's row */
byte horizon_lock;				/* the same for the horizon's row */

/* The collection: versions by stamp */
byte clock;						/* the last stamp issued */
byte owner[STAMPS + 1];			/* whose stamp it is; 0: rolled back */
byte doc[STAMPS + 1];			/* 0: none written (yet) */
bool deleted[STAMPS + 1];
byte ender[STAMPS + 1];			/* who overwrote or removed it */

/* The versions of the horizon's row, by the transaction that wrote them */
byte horizon[TRANSACTIONS + 1];

/*
 * A snapshot is the number of commits that it sees; on the standby, the number of
 * commits recorded, plus AT_STANDBY.  A page may use any snapshot there has
 * been, OLD(n).  With a standby these are the standby's, and the primary's
 * newest may be used, too.
 */
#ifdef STANDBY
#define AT_STANDBY		16
byte records;
byte record[TRANSACTIONS + 1];
#define is_there(snap)	(snap < AT_STANDBY -> commits >= snap : records >= snap - AT_STANDBY)
#define is_newest(snap)	(snap == commits && commits == records)
#define OLD(n)			(AT_STANDBY + n)
#define order(t)		record[t]
#define sees(snap, t)	(snap < AT_STANDBY -> commit[t] != 0 && commit[t] <= snap : \
						 record[t] != 0 && record[t] <= snap - AT_STANDBY)
#else
#define is_there(snap)	(commits >= snap)
#define is_newest(snap)	(snap == commits)
#define OLD(n)			n
#define order(t)		commit[t]
#define sees(snap, t)	(commit[t] != 0 && commit[t] <= snap)
#endif

#define is_visible(snap, s) \
						(doc[s] != 0 && sees(snap, owner[s]) && !sees(snap, ender[s]))

#define max(a, b)		(a > b -> a : b)

byte i, latest;					/* 0 between steps */

/* Stamps below the result are settled. */
inline find_unsettled(snap, result)
{
	result = 1;
	do
	:: result <= clock && (owner[result] == 0 || sees(snap, owner[result])) -> result++
	:: else -> break
	od
}

inline find_horizon(snap, result)
{
	result = 0;
	for (i : 2 .. TRANSACTIONS) {
		if
		:: horizon[i] != 0 && sees(snap, i) && order(i) > latest ->
			latest = order(i);
			result = horizon[i]
		:: else
		fi
	}
	i = 0;
	latest = 0
}

/* Releases all locks. */
inline commit_as(id)
{
#ifdef STANDBY
	d_step { records++; record[id] = records; printf("%d is recorded as committed\n", id) }
#endif
	d_step {
		commits++;
		commit[id] = commits;
		unlock();
		printf("%d commits\n", id)
	}
}

inline roll_back()
{
	d_step {
		for (i : 1 .. STAMPS) {
			if
			:: owner[i] == ME -> owner[i] = 0; doc[i] = 0; deleted[i] = false; ender[i] = 0
			:: else
			fi;
			ender[i] = (ender[i] == ME -> 0 : ender[i])
		}
		horizon[ME] = 0;
		unlock();
		printf("%d rolls back\n", ME)
	}
}

inline unlock()
{
	for (i : 1 .. DOCUMENTS) {
		lock[i] = (lock[i] == ME -> 0 : lock[i])
	}
	i = 0;
	horizon_lock = (horizon_lock == ME -> 0 : horizon_lock)
}


/*
 * The writers.  All are alike, so number n can be the n-th that takes a stamp.
 * A writer has its stamp before it locks the row, so the versions of a document
 * may have stamps that aren't in order.
 */
inline write(d, is_deleted)
{
	d_step {
		stamp > 0 && (lock[d] == 0 || lock[d] == ME) ->
		lock[d] = ME;
		for (i : 1 .. STAMPS) {
			if
			:: doc[i] == d && ender[i] == 0 -> ender[i] = ME
			:: else
			fi
		}
		i = 0;
		doc[stamp] = d;
		deleted[stamp] = is_deleted;
		if
		:: is_deleted -> printf("%d deletes document %d, stamp %d\n", ME, d, stamp)
		:: else -> printf("%d writes document %d, stamp %d\n", ME, d, stamp)
		fi;
		stamp = 0
	}
}

active [WRITERS] proctype writer()
{
	byte stamp;						/* reserved, and not yet used */

	begun == ME - 1;
	do
	:: d_step {
			stamp == 0 && clock < STAMPS ->
			begun = max(begun, ME);
			clock++;
			stamp = clock;
			owner[stamp] = ME;
			printf("%d takes stamp %d\n", ME, stamp)
		}
	:: write(1, false)
	:: write(1, true)
	:: write(2, false)
	:: write(2, true)
	:: begun >= ME -> break
	od;
	stamp = 0;

	if
	:: commit_as(ME)
#ifndef RULE_DROPPED
	:: roll_back()
#endif
	fi
}


/*
 * The purges.  A purge removes tombstones that its snapshot shows as settled,
 * and then raises the horizon.  It may wait for a locked row, or skip it.
 */
#ifdef NO_SETTLED_PURGE
#define may_remove(s)	(is_visible(snap, s) && deleted[s])
#else
#define may_remove(s)	(is_visible(snap, s) && deleted[s] && s < unsettled)
#endif

/* The version that it has checked must still be the last one. */
inline purge(d)
{
	d_step {
		lock[d] == 0 ->
		find_unsettled(snap, unsettled);
		for (s : 1 .. clock) {
			if
			:: doc[s] == d && may_remove(s) -> judged = s
			:: else
			fi
		}
#ifdef PURGE_ANY_VERSION
		for (s : 1 .. clock) {
			judged = (judged != 0 && doc[s] == d && deleted[s] && ender[s] == 0 -> s : judged)
		}
#endif
		if
		:: judged != 0 && ender[judged] == 0 ->
			lock[d] = ME;
			ender[judged] = ME;
			highest = max(highest, judged);
			printf("%d removes the tombstone of document %d, stamp %d\n", ME, d, judged)
		:: else
		fi;
		s = 0; unsettled = 0; judged = 0
	}
}

/* After waiting for the lock of its row, a purge finds the new horizon. */
inline raise_horizon(id)
{
	d_step {
		horizon_lock == 0 ->
		horizon_lock = ME;
#ifdef HORIZON_FROM_SNAPSHOT
		find_horizon(snap, old);
#else
		find_horizon(commits, old);
#endif
		horizon[id] = max(highest, old);
		printf("%d sets the horizon to %d\n", ME, horizon[id]);
		old = 0
	}
}

active [PURGES] proctype purger()
{
	byte snap, highest;
	byte s, unsettled, judged, old;

	d_step {
		commits > 0 && purges == ME - LAST_WRITER - 1 ->
		purges++;
		snap = commits;
		printf("%d begins to purge; it sees %d commit(s)\n", ME, snap)
	};
	do
	:: purge(1)
	:: purge(2)
	:: highest > 0 -> break
	od;
#ifdef HORIZON_LATER
	commit_as(ME);
	raise_horizon(ME + PURGES);
	commit_as(ME + PURGES)
#else
	raise_horizon(ME);
	if
	:: commit_as(ME)
#ifndef RULE_DROPPED
	:: roll_back()
#endif
	fi
#endif
}


/*
 * The client.  A page returns settled documents after its position, and tells it
 * to compare what it has with what exists, if tombstones may have been removed
 * that it hasn't been given.
 */

/* Does a snapshot show a document that isn't deleted? */
inline find_live(snap, d, result)
{
	result = false;
	for (i : 1 .. STAMPS) {
#ifdef COMPARE_KEEPS_DELETED
		result = (doc[i] == d && is_visible(snap, i) -> true : result)
#else
		result = (doc[i] == d && is_visible(snap, i) && !deleted[i] -> true : result)
#endif
	}
	i = 0
}

/*
 * After a page under the newest snapshot that hasn't told it to compare: the
 * client has what exists, except for what is still to come.  It asks for pages
 * endlessly, so a document that it keeps forever is noticed here.
 */
inline check()
{
	for (d : 1 .. DOCUMENTS) {
		found = false;
		for (i : 1 .. STAMPS) {
			if
			:: doc[i] == d && is_visible(commits, i) ->
				found = true;
				if
				:: i <= position && copy[d] != (deleted[i] -> 0 : i) ->
					printf("document %d: the client has passed stamp %d, and holds %d\n", d, i, copy[d]);
					assert(false)
				:: else
				fi
			:: else
			fi
		}
		if
		:: !found && copy[d] != 0 ->
			printf("document %d is gone, the client holds %d and isn't told\n", d, copy[d]);
			assert(false)
		:: else
		fi
	}
	i = 0; d = 0; found = false
}

/*
 * Everything that the page's snapshot doesn't see is later than its horizon.
 * When a rule is dropped, the consequences are what counts, so this isn't
 * checked.
 */
inline check_horizon(snap)
{
#ifndef RULE_DROPPED
	find_unsettled(snap, s);
	assert(h < s);
	s = 0
#else
	skip
#endif
}

#if defined HORIZON_OLDER
#define horizon_snap(snap)	(snap - 1)
#elif defined HORIZON_NEWER
#define horizon_snap(snap)	commits
#else
#define horizon_snap(snap)	snap
#endif

/* Up to `limit' documents.  The client may fail before it stores the position. */
inline page(snap, limit, is_kept)
{
	d_step {
#ifdef EMPTY_AT_FIRST
		comparing == 0 && is_there(snap) && (is_kept || !is_first) ->
#else
		comparing == 0 && is_there(snap) ->
#endif
		find_horizon(horizon_snap(snap), h);
		check_horizon(snap);
		printf("the client, at %d, seen %d, gets a page under snapshot %d, horizon %d\n", position, seen, snap, h);
#ifdef FIRST_PAGE_SILENT
		seen = (is_first && is_kept -> h : seen);
		is_first = is_first && !is_kept;
#endif
		if
#ifndef PAGE_BEHIND_SEEN
		:: h < seen && position < seen ->
			printf("which is behind what it has seen, and gives nothing\n")
#endif
		:: else ->
			find_unsettled(snap, unsettled);
			last = position;
			for (s : position + 1 .. unsettled - 1) {
				if
				:: given < limit && is_visible(snap, s) ->
					copy[doc[s]] = (deleted[s] -> 0 : s);
					last = s;
					given++;
					printf("which gives document %d, stamp %d, deleted %d\n", doc[s], s, deleted[s])
				:: else
				fi
			}
			s = 0; unsettled = 0; given = 0;
			if
			:: !is_kept -> printf("but it fails before it has kept the position\n")
			:: is_kept && h > max(position, seen) ->
				printf("which tells it to compare\n");
				assert(h > told);
				told = h;
				position = last;
#ifndef NO_SEEN
				seen = h;
#endif
				comparing = DOCUMENTS
			:: else ->
				position = last;
#ifdef SEEN_RAISED_EACH_PAGE
				seen = max(seen, h);
#endif
				if
				:: is_newest(snap) -> check()
				:: else
				fi
			fi;
			last = 0
		fi;
		h = 0
	}
}

inline get_page(snap)
{
	if
	:: page(snap, STAMPS, true)
	:: page(snap, 1, true)
#ifndef RULE_DROPPED
	:: page(snap, 0, true)
	:: page(snap, STAMPS, false)
#endif
	fi
}

#ifdef COMPARE_BEHIND_SEEN
#define reaches_seen	true
#else
#define reaches_seen	(h >= seen)
#endif
#ifdef COMPARE_BEHIND_COPY
#define sees_copy(snap)	true
#else
#define sees_copy(snap)	(copy[comparing] == 0 || sees(snap, owner[copy[comparing]]))
#endif

/* Document by document, each possibly under a different snapshot. */
inline compare(snap)
{
	d_step {
		comparing != 0 && is_there(snap) ->
		find_horizon(snap, h);
		if
		:: reaches_seen && sees_copy(snap) ->
			find_live(snap, comparing, found);
			printf("the client compares document %d under snapshot %d, there: %d\n", comparing, snap, found);
			if
			:: copy[comparing] != 0 && !found ->
				printf("the client drops document %d, stamp %d\n", comparing, copy[comparing]);
				assert(order(ender[copy[comparing]]) != 0);
				copy[comparing] = 0
			:: else
			fi;
			found = false;
			comparing--
		:: else
		fi;
		h = 0
	}
}

/*
 * It has uploaded the last version, or is told that this has won over its own.
 * Nobody is overwriting it then: on the standby, the client could have seen
 * that already.  So an upload's answer isn't older than the pages before it.
 */
inline upload(d)
{
	d_step {
#ifdef EMPTY_AT_FIRST
		!is_first ->
#else
		commits > 0 ->
#endif
		for (s : 1 .. clock) {
			if
			:: doc[s] == d && commit[owner[s]] != 0 && ender[s] == 0 ->
				copy[d] = (deleted[s] -> 0 : s);
				printf("the client has sent document %d, stamp %d, deleted %d, or this one has won\n", d, s, deleted[s])
			:: else
			fi
		}
		s = 0
	}
}

active proctype client()
{
	byte position, seen;
	byte copy[DOCUMENTS + 1];		/* the stamps of what it has; 0: nothing */
	byte comparing;					/* this document, and those before it */
	byte told;						/* the horizon that it was last told */
#ifdef FIRST_PAGE_SILENT
	bool is_first = true;
#endif
	byte h, unsettled, s, last, given, d;	/* 0 between steps, as is the next */
	bool found;

	/* The documents at the beginning, each deleted or not */
	atomic {
		for (s : 1 .. DOCUMENTS) {
			owner[s] = 1;
			doc[s] = s;
			if
			:: deleted[s] = true
			:: skip
			fi;
		}
		s = 0;
		clock = DOCUMENTS;
		commits = 1;
		commit[1] = 1;
#ifdef STANDBY
		records = 1;
		record[1] = 1;
#endif
		begun = 1;
	}

	do
#ifdef STANDBY
	:: get_page(commits)
	:: compare(commits)
#endif
	:: get_page(OLD(1))
	:: get_page(OLD(2))
	:: get_page(OLD(3))
	:: get_page(OLD(4))
	:: get_page(OLD(5))
	:: compare(OLD(1))
	:: compare(OLD(2))
	:: compare(OLD(3))
	:: compare(OLD(4))
	:: compare(OLD(5))
#ifdef POSITION_BEFORE_COMPARE
	:: d_step { comparing != 0 -> comparing = 0; printf("the client fails, and goes on from the position that it has kept\n") }
#endif
	:: upload(1)
	:: upload(2)
	od
}
