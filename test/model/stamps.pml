/*
 * stamps.pml
 *	  A model of the stamps of doc/stamps.md for SPIN: does a reader that
 *	  continues from the last stamp it was given ever lose a document?
 *
 * Some transactions write to a collection, and a reader polls it endlessly.
 * SPIN tries all orders of their steps; a `d_step' or `atomic' is one step.
 * The assumptions about PostgreSQL:
 *
 * 1. ids are assigned in order, and a transaction that has one is running;
 * 2. a transaction ends in three steps: its outcome is recorded, it leaves the
 *	  running set, it releases its locks;
 * 3. a snapshot's xmax is one above the highest id that has ended; it lists the
 *	  running ids below xmax, and sees what the others below it committed;
 * 4. a lock first taken after a savepoint is released by rolling back to it;
 * 5. the running set and the highest id that has ended are read in one step.
 *
 * With WATERMARK there is an announcer, too, and the reader is on a standby: what
 * is announced as settled through a stamp must be all there will ever be up to it.
 * The standby replays WAL in its order: so the watermark, too, is there at once.
 *
 * There is one collection: a transaction that writes only to others has an id
 * and no mark.  There is one reader: readers don't affect each other.  The ids
 * of subtransactions are left out (spec subtransactions), as are readers that
 * also write (spec own-transaction).
 *
 * `run' checks the design, and drops its rules one at a time by defining
 * their names, which are in capitals here.
 */

#ifndef TRANSACTIONS
#define TRANSACTIONS	3
#endif
#ifndef STAMPS
#define STAMPS			3	/* of all transactions together */
#endif

#if defined FRONTIER_WITHOUT_MARKS || defined FRONTIER_CLOCK_LATER || \
	defined FRONTIER_FENCE_EARLIER || defined FRONTIER_RUNNING_EARLIER || \
	defined WATERMARK_AFTER_SNAPSHOT || defined WATERMARK_OLD_SNAPSHOT
#define WATERMARK
#endif
#if defined WATERMARK && !defined STANDBY
#define STANDBY
#endif

/* The server.  Ids and stamps begin at 1. */
byte next = 1;							/* the next transaction id */
bool running[TRANSACTIONS + 1];
bool committed[TRANSACTIONS + 1];		/* else rolled back, or not ended */
bool mark[TRANSACTIONS + 1];
byte clock;								/* the last stamp issued */
bool latch;
#ifdef WATERMARK
byte watermark;							/* up to this stamp all is settled */
#endif

/* The collection, by stamp */
byte owner[STAMPS + 1];					/* who wrote the document; 0: none */
byte fence[STAMPS + 1];

/*
 * The next id, as the reader's server knows it.  A standby learns of an id, and
 * of all below it, from the first row or from the end of its transaction.  This
 * one replays at once: on one that lags, the writers merely seem slower.
 */
#if defined STANDBY || defined STANDBY_FOREIGN
#define ON_STANDBY
byte standby_next = 1;
#define known_next		standby_next
#define replay(id)		standby_next = (standby_next > id -> standby_next : id + 1)
#else
#define known_next		next
#define replay(id)		skip
#endif


/*
 * The writers.  All transactions are alike, so number n can be the one that gets
 * id n.  It gets the id for a document or for something else, so it may take
 * stamps at once, later or never.
 */
#define ME	(_pid + 1)

/*
 * A new reservation, of one or two stamps; what is left of the last one is
 * dropped.  If the model runs out of stamps, the transaction ends.
 */
inline reserve()
{
	atomic {
		clock < STAMPS -> forget();
		maybe_savepoint();
#ifndef MARK_AFTER_STAMP
		take_mark()
#endif
	};
#ifdef FENCE_BEFORE_TICK
	my_fence = next;
#endif
	atomic {
		!latch ->
		if
		:: clock + 1 <= STAMPS -> left = 1
		:: clock + 2 <= STAMPS -> left = 2
		:: clock == STAMPS -> goto over
		fi;
		latch = true;
		stamp = clock + 1;
		clock = clock + left;
		printf("%d takes %d stamp(s), from %d on\n", ME, left, stamp)
	};
	d_step {
#ifndef FENCE_BEFORE_TICK
		my_fence = next;
#endif
		latch = false
	};
#ifdef MARK_AFTER_STAMP
	take_mark()
#endif
}

inline take_mark()
{
	d_step {
		savepoint_mark = savepoint_mark || (in_savepoint && !mark[ME]);
		mark[ME] = true;
		printf("%d takes its mark\n", ME)
	}
}

inline let_go()
{
	d_step { mark[ME] = false; printf("%d lets go of its mark\n", ME) }
}

/* A document is visible only to its own transaction until that commits. */
inline write()
{
	atomic {
		left > 0 -> maybe_savepoint();
		d_step {
			owner[stamp] = ME;
			fence[stamp] = my_fence;
			replay(ME);
			printf("%d writes a document with stamp %d, fence %d\n", ME, stamp, my_fence);
			if
			:: in_savepoint && savepoint_stamp == 0 -> savepoint_stamp = stamp
			:: else
			fi;
			stamp++;
			left--;
			if
			:: left == 0 -> forget()
			:: else
			fi
		}
	}
}

/* Nobody else notices when it is set, so it needs no separate step. */
inline maybe_savepoint()
{
	if
	:: true
	:: !in_savepoint -> in_savepoint = true; printf("%d sets a savepoint\n", ME)
	fi
}

inline rollback_to_savepoint()
{
	d_step {
		in_savepoint -> in_savepoint = false;
		if
		:: savepoint_stamp > 0 -> erase(savepoint_stamp); savepoint_stamp = 0
		:: else
		fi;
		if
		:: savepoint_mark -> mark[ME] = false; savepoint_mark = false
		:: else
		fi;
		printf("%d rolls back to the savepoint; mark %d\n", ME, mark[ME]);
#ifndef KEEP_RESERVATION
		forget()
#endif
	}
}

inline forget()
{
	left = 0; stamp = 0; my_fence = 0
}

/* Removes the documents of this transaction, from a stamp on. */
inline erase(from)
{
	i = from;
	do
	:: i <= STAMPS ->
		if
		:: owner[i] == ME -> owner[i] = 0; fence[i] = 0
		:: else
		fi;
		i++
	:: else -> i = 0; break
	od
}

/* Variables that don't matter any more must not make states different. */
inline tidy_up()
{
	forget(); in_savepoint = false; savepoint_mark = false; savepoint_stamp = 0
}

active [TRANSACTIONS] proctype transaction()
{
	byte left, stamp, my_fence;		/* a reservation: stamps left, the next one */
	bool in_savepoint;
	bool savepoint_mark;			/* the mark was taken in it */
	byte savepoint_stamp;			/* the first document written in it */
	byte i;

	d_step { next == ME -> next++; running[ME] = true; printf("%d gets its id\n", ME) }

	do
	:: reserve()
	:: write()
	:: rollback_to_savepoint()
	:: goto over
	od;

over:
#ifdef MARK_DROPPED_EARLY
	let_go();
#endif
	if
	:: d_step { true -> committed[ME] = true; tidy_up(); printf("%d commits\n", ME) }
	:: d_step { true -> erase(1); tidy_up(); printf("%d rolls back\n", ME) }
	fi;
	d_step { running[ME] = false; replay(ME); printf("%d leaves the running set\n", ME) }
	let_go()
}


/*
 * The reader.  A poll is a scan from `since' on in the order of stamps, as in
 * settle.c: it ends before the first document that isn't settled.
 */
#define is_visible(s)	(owner[s] != 0 && committed[owner[s]] && \
						 owner[s] < xmax && !listed[owner[s]])

/* No id below the document's fence has to be checked any more. */
#if defined NO_SETTLED_TEST
#define is_settled(s)	true
#elif defined STANDBY_FOREIGN
#define is_settled(s)	(fence[s] <= known || fence[s] > known_next)
#elif defined WATERMARK
#define is_settled(s)	(fence[s] <= known || s <= known_watermark)
#else
#define is_settled(s)	(fence[s] <= known)
#endif

/* The snapshot doesn't see it as ended. */
#ifdef NO_XMAX_TO_FENCE
#define is_open(id)		(listed[id])
#else
#define is_open(id)		(listed[id] || id >= xmax)
#endif

/*
 * Everything that the reader sees now, up to its position, it has been given.
 * It polls endlessly, so a loss at any time is noticed here.
 */
inline check()
{
	for (i : 0 .. since) {
		assert(!is_visible(i) || given[i])
	}
	i = 0
}

inline take_snapshot()
{
	xmax = 1;
	for (i : 1 .. known_next - 1) {
		xmax = (running[i] -> xmax : i + 1)
	}
	for (i : 1 .. TRANSACTIONS) {
		listed[i] = running[i] && i < xmax
	}
	i = 0;
	printf("the reader takes a snapshot, xmax %d\n", xmax)
}

/*
 * Who is running, and one above the highest id that has ended; done only when
 * needed.  An id that isn't found running, and isn't below that, would be a
 * subtransaction's.
 */
inline look_who_runs()
{
	unended = 1;
	for (i : 1 .. next - 1) {
		unended = (running[i] -> unended : i + 1)
	}
	for (i : 1 .. TRANSACTIONS) {
		ran[i] = running[i]
	}
	i = 0;
	printf("the reader looks who runs; %d has not ended\n", unended)
}

#define has_looked			(unended > 0)
#define is_to_be_found(id)	(listed[id] || has_looked)
#define needs_looks(id)		(listed[id] || ran[id])

#ifdef ENDED_NOT_ASKED
#define has_committed(id)	false
#else
#define has_committed(id)	(id < unended && committed[id])
#endif

inline begin_scan()
{
	s = since;
	known = 1;
	do
	:: known < xmax && !listed[known] -> known++
	:: else -> break					/* this is the snapshot's xmin */
	od
}

inline scan()
{
	do
	:: s > clock -> end_scan(); break
	:: s <= clock && !is_visible(s) -> s++
	:: s <= clock && is_visible(s) && is_settled(s) ->
		printf("the reader is given stamp %d\n", s);
		given[s] = true;
		since = s;
		s++
	:: s <= clock && is_visible(s) && !is_settled(s) ->
#ifdef ON_STANDBY
		end_scan();
		break
#else
		if
		:: !is_open(known) -> known++
		:: is_open(known) && !is_to_be_found(known) -> finding = true; break
		:: is_open(known) && is_to_be_found(known) && needs_looks(known) -> looking = true; break
		:: is_open(known) && is_to_be_found(known) && !needs_looks(known) ->
			if
			:: has_committed(known) -> end_scan(); break
			:: else -> known++
			fi
		fi
#endif
	od;
	skip
}

inline look_for_mark()
{
	has_mark = mark[known];
	printf("the reader looks at %d: mark %d\n", known, has_mark)
}

inline look_if_running()
{
	runs = running[known];
	printf("the reader looks at %d: running %d\n", known, runs)
}

/* May the id be ignored?  Once it isn't running, its outcome is recorded. */
inline judge()
{
	if
	:: (runs -> !has_mark : !committed[known]) -> known++; scan()
	:: else -> end_scan()
	fi;
	has_mark = false;
	runs = false
}

inline end_scan()
{
	looking = false;
	s = 0;
	known = 0;
	unended = 0;
	for (i : 1 .. TRANSACTIONS) {
		ran[i] = false
	}
	i = 0
}

active proctype reader()
{
	byte since;							/* the last stamp it was given */
	bool given[STAMPS + 1];
	byte xmax;							/* the snapshot */
	bool listed[TRANSACTIONS + 1];
	byte s;								/* the scan has reached this stamp */
	byte known;							/* ids below it are dealt with */
	bool finding;						/* looking who is running, in a scan */
	bool ran[TRANSACTIONS + 1];			/* was found running */
	byte unended;						/* no id from here on had ended; 0: it hasn't looked */
	bool looking;						/* checking the id `known', in a scan */
	bool has_mark, runs;
#ifdef WATERMARK
	byte known_watermark;
#endif
	byte i;

	do
#ifdef WATERMARK
	/* With a new snapshot it reads the watermark first; with an old one it doesn't. */
#ifdef WATERMARK_AFTER_SNAPSHOT
	:: d_step { take_snapshot(); check() }
		d_step { known_watermark = watermark; begin_scan(); scan(); known_watermark = 0 }
#else
	:: d_step { known_watermark = watermark; printf("the reader reads the watermark %d\n", watermark) }
		d_step { take_snapshot(); check(); begin_scan(); scan(); known_watermark = 0 }
#endif
#ifdef WATERMARK_OLD_SNAPSHOT
	:: d_step { xmax > 0 -> known_watermark = watermark; begin_scan(); scan(); known_watermark = 0 }
#else
	:: d_step { xmax > 0 -> begin_scan(); scan() }
#endif
#else
	/* A poll, with a new snapshot or again with the old one */
#ifdef LOOK_BEFORE_SNAPSHOT
	:: d_step { !looking && !has_looked -> look_who_runs() }
		d_step { take_snapshot(); check(); begin_scan(); scan() }
#else
	:: d_step { !looking && !finding -> take_snapshot(); check(); begin_scan(); scan() }
	:: d_step { !looking && !finding && xmax > 0 -> begin_scan(); scan() }
	:: d_step { finding -> finding = false; look_who_runs(); scan() }
#endif

	/* The two checks of an id.  Between them others continue. */
#ifndef RUNNING_BEFORE_MARK
	:: d_step { looking -> look_for_mark() }
		d_step { look_if_running(); judge() }
#else
	:: d_step { looking -> look_if_running() }
		d_step { look_for_mark(); judge() }
#endif
#endif
	od
}

#ifdef WATERMARK

/*
 * The announcer.  It reads the clock and the next id under the latch, then looks
 * who runs, and if none of these with a lower id has a mark, it logs the clock
 * that it has read as the watermark.
 */
#define is_there(s)		(owner[s] != 0 && committed[owner[s]] && !running[owner[s]])

inline read_frontier()
{
#ifndef FRONTIER_FENCE_EARLIER
	below = next;
#endif
	frontier = clock;
	id = 1
}

inline list_running()
{
	for (i : 1 .. TRANSACTIONS) {
		ran[i] = running[i]
	}
	i = 0;
	printf("the announcer looks who runs, the clock is %d\n", frontier)
}

/* Nothing has come up to the stamp that was announced last. */
inline check_announced()
{
	for (i : 1 .. announced) {
		assert(!is_there(i) || seen[i])
	}
	i = 0
}

inline announce()
{
	watermark = frontier;
	announced = frontier;
	for (i : 1 .. announced) {
		seen[i] = is_there(i)
	}
	i = 0;
	printf("the announcer logs the watermark %d\n", watermark)
}

inline begin_anew()
{
	id = 0; below = 0; frontier = 0;
	for (i : 1 .. TRANSACTIONS) {
		ran[i] = false
	}
	i = 0
}

#ifdef FRONTIER_WITHOUT_MARKS
#define has_stamps(id)		false
#else
#define has_stamps(id)		mark[id]
#endif

active proctype announcer()
{
	byte frontier, below;				/* the clock, and the next id */
	bool ran[TRANSACTIONS + 1];			/* was found running */
	byte id;							/* being looked at */
	byte announced;						/* what was announced last */
	bool seen[STAMPS + 1];				/* what was there then */
	byte i;

	do
	::
#ifdef FRONTIER_FENCE_EARLIER
		below = next;
#endif
#ifdef FRONTIER_RUNNING_EARLIER
		d_step { list_running() };
		d_step { !latch -> read_frontier() };
#else
		d_step { !latch -> read_frontier() };
		d_step { list_running() };
#endif
		do
		:: d_step { id > 0 && id < below && !ran[id] -> id++ }
		:: d_step { id > 0 && id < below && ran[id] && !has_stamps(id) -> id++ }
		:: d_step { id > 0 && id < below && ran[id] && has_stamps(id) -> check_announced(); begin_anew() }
		:: d_step { id > 0 && id >= below ->
			check_announced();
#ifdef FRONTIER_CLOCK_LATER
			frontier = clock;
#endif
			announce(); begin_anew() }
		:: id == 0 -> break
		od
	od
}

#endif
