/*-------------------------------------------------------------------------
 *
 * docsync.h
 *	  What docsync's files share, one section a file.
 *
 * A document travels in one direction.  In: lexer, reader, document, batch
 * (JSON to structs), rule and judge (who wins), stamp (when), store (to the
 * table).  Out: store, settle (may readers have it yet), query, json.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DOCSYNC_H
#define DOCSYNC_H

#include "access/transam.h"
#include "access/xlogdefs.h"
#include "common/jsonapi.h"
#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "nodes/parsenodes.h"
#include "storage/lockdefs.h"
#include "utils/array.h"
#include "utils/jsonb.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#include "compat.h"

/* In bytes; the guard enforces them for plain SQL, too. */
#define DOCSYNC_COLLECTION_LEN	200
#define DOCSYNC_CLIENT_ID_LEN	200
#define DOCSYNC_ID_LEN			500

/* The client_id of an edit made on the server, by plain SQL */
#define DOCSYNC_SERVER_ID		"server"

#define DOCSYNC_SCHEMA			"docsync"

/* The same as in docsync.control */
#define DOCSYNC_VERSION			"0.2.0"

/* The guard's trigger; its name makes it the last to fire. */
#define DOCSYNC_GUARD_NAME		"zz_docsync_guard"

/*
 * docsync's own locks are advisory locks of classes that SQL's
 * pg_advisory_lock(), which uses classes 1 and 2, cannot reach.
 */
#define DOCSYNC_LOCK_COLLECTION 0xD0C5	/* mark: transaction id, hash of
										 * collection */
#define DOCSYNC_LOCK_ALL		0xD0C6	/* mark: transaction id */
#define DOCSYNC_LOCK_MAKE		0xD0C7	/* creation of the store */
#define DOCSYNC_LOCK_HISTORY	0xD0C8	/* writing of docsync.history */
#define DOCSYNC_LOCK_STATE		0xD0C9	/* summing up a collection: 0 or 1 */
#define DOCSYNC_LOCK_ANY		0xD0CA	/* there are marks: transaction id */
#define DOCSYNC_LOCK_MOVE		0xD0CB	/* copying documents: hash of
										 * collection */

/*
 * settings.c: settings
 */
extern int	docsync_max_batch;	/* documents */
extern int	docsync_max_document_size;	/* bytes of a body, as JSON */
extern int	docsync_max_depth;	/* nesting of arrays and objects */
extern int	docsync_max_version_lead;	/* milliseconds; -1: no limit */
extern int	docsync_max_page_size;	/* bytes of documents in an answer */
extern bool docsync_announce;
extern int	docsync_announce_interval;	/* milliseconds */

extern void docsync_settings_init(void);

/*
 * schema.c: the store in the catalogs
 */
typedef enum StoreRelation
{
	STORE_DOCUMENT,
	STORE_PURGED,
	STORE_HISTORY,
	STORE_MOVED,
	STORE_CLOCK,
	STORE_KEEP,
	STORE_RECORD
} StoreRelation;

#define STORE_RELATIONS			(STORE_RECORD + 1)

/*
 * Columns, as indexes into Store.attnums: they may be at any position in the
 * tables.
 */
enum DocumentColumn
{
	DOCUMENT_COLLECTION,
	DOCUMENT_ID,
	DOCUMENT_CLIENT_VERSION,
	DOCUMENT_CLIENT_ID,
	DOCUMENT_LAST_UPDATE_UTC,
	DOCUMENT_DELETED,
	DOCUMENT_BODY,
	DOCUMENT_FENCE
};

enum PurgedColumn
{
	PURGED_COLLECTION,
	PURGED_LAST_UPDATE_UTC,
	PURGED_CLIENT_ID,
	PURGED_OTHERS_UTC
};

enum HistoryColumn
{
	HISTORY_NUMBER,
	HISTORY_EPOCH,
	HISTORY_SYSTEM_IDENTIFIER,
	HISTORY_DATABASE,
	HISTORY_DOCUMENT,
	HISTORY_TIMELINE,
	HISTORY_SURVIVED,
	HISTORY_LOST_AFTER,
	HISTORY_CLOCK,
	HISTORY_NEXT_XID,
	HISTORY_ARRIVED
};

enum MovedColumn
{
	MOVED_COLLECTION,
	MOVED_STATE,
	MOVED_CHANGED,
	MOVED_EPOCHS,
	MOVED_SURVIVED,
	MOVED_LOST_AFTER,
	MOVED_CLOCKS,
	MOVED_NUMBER,
	MOVED_REPLACED,
	MOVED_NEXT_XID
};

enum KeepColumn
{
	KEEP_PATTERN,
	KEEP_KEEP,
	KEEP_MOST
};

enum RecordColumn
{
	RECORD_COLLECTION,
	RECORD_ID,
	RECORD_RECORDED_UTC,
	RECORD_CLIENT_VERSION,
	RECORD_CLIENT_ID,
	RECORD_DELETED,
	RECORD_BODY,
	RECORD_WHY
};

#define RECORD_COLUMNS			(RECORD_WHY + 1)

#define STORE_COLUMNS_MAX		(HISTORY_ARRIVED + 1)

typedef enum StoreUse
{
	STORE_READ,
	STORE_WRITE					/* creates the store if there is none */
} StoreUse;

typedef struct Store
{
	Oid			relations[STORE_RELATIONS];
	AttrNumber	attnums[STORE_RELATIONS][STORE_COLUMNS_MAX];
	uint64		version;		/* changes whenever the store is checked again */
	Oid			owners[STORE_RELATIONS];
	Oid			document_index; /* primary keys */
	Oid			purged_index;
	Oid			moved_index;
	Oid			record_index;
	bool		is_subscribed;	/* a subscription fills docsync.document */
	bool		is_altered;		/* the user's triggers may change what is
								 * written to it */
	bool		is_insert_heard;	/* the user's triggers or rules fire for
									 * an INSERT, whatever comes of it */
	bool		is_delete_heard;	/* triggers, including those of foreign
									 * keys, or rules fire for a DELETE */
} Store;

/* For what docsync_create_store() may repair */
#define DOCSYNC_HINT_MEND \
	"Repair it, or let docsync_create_store() do so; it reports what it cannot repair."

extern void docsync_schema_init(void);
extern const Store *docsync_schema_open(StoreUse use);
extern const Store *docsync_schema_open_owned(const char *function);
extern bool docsync_schema_is_checked(void);
extern void docsync_schema_push_snapshot(void);
extern void docsync_schema_check_readable(void);
extern void docsync_schema_check_caller(AclMode mode);
extern void docsync_schema_check_columns(AclMode mode);
extern Oid	docsync_schema_of_functions(void);
extern Oid	docsync_schema_find_function(Oid namespace, const char *name,
										 int nargs, const Oid *argtypes);

/*
 * check.c: what a store must be like
 */
extern void docsync_check_run(Store *store);
extern void docsync_check_owners(const Store *store);
extern bool docsync_check_may_own(Oid role);
extern bool docsync_check_may_watch(Oid role, const Store *store);
extern Oid	docsync_check_find_extension(Oid *namespace);
extern const char *docsync_check_name(StoreRelation which);

/*
 * postgrest.c: what PostgREST says about a request
 */
extern bool docsync_postgrest_is_asking(void);
extern text *docsync_postgrest_header(const char *name);
extern Jsonb *docsync_postgrest_setting(const char *setting);
extern text *docsync_postgrest_field(Jsonb *object, const char *key);

/*
 * refuse.c: how refusals are worded
 */
typedef struct Batch Batch;
typedef struct SentDocument SentDocument;

typedef struct RefusePlace
{
	int			collection;		/* its place in the request, from 1; 0: the
								 * request has only one */
	int			document;		/* its place in the batch, from 1; 0: no
								 * document */
	const char *id;				/* the document's id; NULL: not known */
	int			id_len;			/* bytes; there is no terminator */
	const char *key;			/* NULL: no key */
	int			offset;			/* in the request, in bytes; -1: not known */
} RefusePlace;

/* Why something isn't done, in the form of an error */
typedef struct Refusal
{
	int			sqlstate;
	const char *code;			/* for machines, instead of the SQLSTATE;
								 * NULL: none */
	const char *message;
	const char *detail;			/* JSON: the place, and a text; NULL: none */
	const char *hint;			/* NULL: none */
	int			retry_after;	/* in seconds, over HTTP; 0: not said */
} Refusal;

extern void docsync_refuse_document(const Batch *batch, SentDocument *sent,
									int sqlstate, const char *key,
									const char *message, const char *detail,
									const char *hint);
extern void docsync_refuse_note(const Batch *batch, SentDocument *sent,
								const Refusal *refusal);
extern Refusal *docsync_refuse_describe(const RefusePlace *place, int sqlstate,
										const char *message,
										const char *detail, const char *hint);
pg_noreturn extern void docsync_refuse_raise(const Refusal *refusal);
extern RefusePlace docsync_refuse_place(const SentDocument *sent,
										const char *key);
extern char *docsync_refuse_locate(const SentDocument *sent, const char *key,
								   const char *fact);
extern bool docsync_refuse_is_one(const ErrorData *error);
extern void docsync_refuse_with(const Batch *batch, SentDocument *sent,
								ErrorData *error);
extern Refusal *docsync_refuse_of_error(const ErrorData *error);
extern void docsync_refuse_append(StringInfo buf, const Refusal *refusal);
extern const char *docsync_refuse_quote(const char *value, int len);
extern int	docsync_refuse_sqlstate(int sqlstate);
pg_noreturn extern void docsync_refuse_request(int status, const Refusal *refusal);

/*
 * utc.c: times as text
 */

/* "YYYY-MM-DDTHH:MM:SS.ffffffZ" and a terminator; years may have six digits */
#define DOCSYNC_STAMP_LEN		32

/* From PostgreSQL's time, since 2000-01-01, to Unix time, in microseconds */
#define DOCSYNC_UNIX_OFFSET \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

extern int	docsync_utc_format(TimestampTz stamp, char *buf);
extern bool docsync_utc_parse(const char *from, TimestampTz *time);

/*
 * text.c: names and ids
 */
extern int	docsync_text_compare(const char *a, int a_len,
								 const char *b, int b_len);
extern bool docsync_text_is_same(const text *a, const text *b);
extern uint32 docsync_text_hash(const text *collection);
extern void docsync_text_check_name(const text *value, const char *name,
									int max_len);

/*
 * value.c: the value of a key
 */
typedef struct SentValue
{
	JsonTokenType type;			/* of its first token */
	const char *text;			/* a string's characters, a number's digits */
	int			len;			/* bytes; there is no terminator */
	bool		is_copy;		/* palloc'd; otherwise text points into what
								 * was sent */
	bool		is_bad;			/* it has been refused */
} SentValue;

typedef enum ValueInteger
{
	VALUE_INTEGER,
	VALUE_FRACTION,
	VALUE_OUT_OF_RANGE
} ValueInteger;

extern JsonTokenType docsync_value_type_of_jsonb(const JsonbValue *value);
extern SentValue docsync_value_of_jsonb(const JsonbValue *value);
extern const char *docsync_value_name(JsonTokenType type);
extern ValueInteger docsync_value_integer(const SentValue *value,
										  int64 *integer);
extern int	docsync_value_int(const SentValue *value);
extern int	docsync_value_count_digits(const char *number, int len);

/* What can be wrong with a body (body.c) */
typedef enum BodyFault
{
	BODY_FINE,
	BODY_TOO_LARGE,
	BODY_TOO_DEEP,
	BODY_LONG_NUMBER
} BodyFault;

/*
 * lexer.c: JSON as it is sent, token by token
 */
typedef struct JsonReader
{
	JsonLexContext *lex;		/* at the token that comes next */
	JsonLexContext *escapes;	/* for strings with escapes; NULL at first */
	const char *string;			/* the string read last */
	int			string_len;
	const char *invalid;		/* the next byte that isn't valid UTF-8; NULL:
								 * none */
	bool		is_at_colon;	/* after a key */
	bool		is_body;		/* what is being read, */
	const char *body;			/* which begins here; NULL: not reached yet */
	bool		has_offsets;	/* the bytes being read are those that were
								 * sent */
	RefusePlace place;			/* of what is being read, set by the caller */
	bool		is_refused;		/* the document being read is refused, */
	bool		is_bad;			/* because of the value being read */
	const Refusal *refusal;		/* of the document, for the caller to take */
} JsonReader;

extern void docsync_lexer_begin(JsonReader *reader, const char *json, int len,
								bool is_text);
extern void docsync_lexer_end(JsonReader *reader);
extern void docsync_lexer_next(JsonReader *reader);
extern void docsync_lexer_check_size(JsonReader *reader);
extern void docsync_lexer_refuse_limit(JsonReader *reader, BodyFault fault);
pg_noreturn extern void docsync_lexer_refuse_syntax(JsonReader *reader,
													JsonParseErrorType error);

/*
 * reader.c: the grammar of that JSON
 */
extern void docsync_reader_end(JsonReader *reader);
extern JsonTokenType docsync_reader_type(JsonReader *reader);
extern bool docsync_reader_enter(JsonReader *reader);
extern bool docsync_reader_go_on(JsonReader *reader, bool in_object);
extern int	docsync_reader_key(JsonReader *reader, const char *const *names,
							   int count, const char **unknown);
extern void docsync_reader_pass_key(JsonReader *reader);
extern void docsync_reader_pass(JsonReader *reader);
extern SentValue docsync_reader_value(JsonReader *reader);
extern const char *docsync_reader_body(JsonReader *reader, int *len);

/*
 * document.c: a document as it is sent
 */
struct SentDocument
{
	int			collection;		/* its place in the request, from 1; 0: the
								 * only one */
	int			ordinal;		/* place in the batch, from 1 */
	const char *id;				/* points into the batch, no terminator; NULL:
								 * refused because it has none */
	int			id_len;			/* bytes */
	int64		client_version;
	bool		deleted;
	bool		has_body;		/* false: SQL NULL */
	const char *json;			/* the body as text, as it was sent; NULL: it
								 * came as jsonb */
	int			json_len;		/* bytes */
	JsonbValue	body;			/* points into the batch, if it came as jsonb */
	bool		has_base;		/* to be applied only if the service has just
								 * this: */
	bool		base_exists;	/* false: no such document */
	int64		base_version;
	bool		has_base_utc;
	TimestampTz base_utc;
	const Refusal *refusal;		/* NULL: none; otherwise the rest may be
								 * missing */
};

extern void docsync_document_read(const Batch *batch, SentDocument *sent,
								  JsonReader *reader, int64 max_version);
extern void docsync_document_parse(const Batch *batch, SentDocument *sent,
								   const JsonbValue *document,
								   int64 max_version);

/*
 * body.c: what a body may be
 */

/* The most digits a number may have; a double has at most 342. */
#define DOCSYNC_NUMBER_DIGITS	400

/* The highest docsync.max_depth */
#define DOCSYNC_DEPTH_MAX		1000

/*
 * The highest docsync.max_document_size: this much JSON can be made into a
 * jsonb, whatever is in it.
 */
#define DOCSYNC_DOCUMENT_MAX	(16 * 1024 * 1024)

extern BodyFault docsync_body_check(const JsonbValue *body);
extern BodyFault docsync_body_check_number(const JsonbValue *value);
extern Refusal *docsync_body_describe(const RefusePlace *place,
									  BodyFault fault);
extern Jsonb *docsync_body_make(const SentDocument *sent);

/*
 * compare.c: is JSON as sent the same as a jsonb?
 */
extern bool docsync_compare_is_same_body(const SentDocument *sent,
										 Datum other);
extern bool docsync_compare_is_same(const char *json, int len,
									const Jsonb *jsonb);

/*
 * batch.c: the documents of an upload
 */

/* The documents of one id */
typedef struct BatchGroup
{
	SentDocument **documents;	/* in the order sent */
	int			count;
} BatchGroup;

struct Batch
{
	int			collection;		/* as its documents have it */
	bool		atomic;			/* a refused document is an error */
	SentDocument *documents;	/* in the order sent */
	int			count;
	int			size;			/* allocated, while the documents are read */
	BatchGroup *groups;			/* in the order of ids */
	int			ngroups;
	int		   *group_of;		/* a document's group, by ordinal from 0; -1:
								 * it is refused */
	int			next;			/* the group likely to be asked for next */
};

extern Batch *docsync_batch_read(JsonReader *reader, int before);
extern Batch *docsync_batch_parse(const JsonbValue *documents, bool atomic);
extern const Refusal *docsync_batch_make_atomic(Batch *batch);
extern int64 docsync_batch_max_version(void);
extern int	docsync_batch_find(Batch *batch, const text *id);
extern Datum docsync_batch_id(const BatchGroup *group);

/*
 * rule.c: who wins
 */
typedef enum RuleOutcome
{
	RULE_CREATED,
	RULE_UPDATED,
	RULE_UNCHANGED,
	RULE_DISCARDED,
	RULE_CONFLICT,

	/* What the rule doesn't decide (upsert.c) */
	RULE_MODIFIED,				/* created or updated, but a trigger changed
								 * it */
	RULE_REFUSED,
	RULE_UNTRIED				/* too many others were refused */
} RuleOutcome;

/* What the service has, as far as the rule needs it */
typedef struct RuleHeld
{
	bool		exists;
	int64		client_version;
	TimestampTz last_update_utc;	/* DT_NOEND: not known yet */
	bool		same_client;	/* sent by the client that sends now */
	bool		deleted;
	bool		has_body;
	Datum		body;			/* jsonb, maybe toasted; not set if there is
								 * "sent" */
	const SentDocument *sent;	/* it is this document of the same batch;
								 * NULL: it is a stored one */
} RuleHeld;

extern RuleOutcome docsync_rule_decide(const RuleHeld *held,
									   const SentDocument *sent);
extern bool docsync_rule_is_same(const RuleHeld *held,
								 const SentDocument *sent);
extern bool docsync_rule_has_winner(RuleOutcome outcome);
extern const char *docsync_rule_name(RuleOutcome outcome);

/*
 * clock.c: the last stamp issued
 */

extern TimestampTz docsync_clock_tick(int count, FullTransactionId *fence);
extern void docsync_clock_advance(TimestampTz stamp);
extern TimestampTz docsync_clock_read(void);
extern TimestampTz docsync_clock_read_fence(FullTransactionId *fence);
extern bool docsync_clock_is_recovered(void);
extern void docsync_clock_set_noted(void);
extern void docsync_clock_forget_logged(void);
extern TimestampTz docsync_clock_read_frontier(FullTransactionId *fence,
											   XLogRecPtr *logged_at);
extern XLogRecPtr docsync_clock_log_watermark(TimestampTz watermark,
											  XLogRecPtr logged_at,
											  bool is_new);
extern void docsync_clock_withdraw_watermark(void);
extern bool docsync_clock_needs_watermark(TimestampTz watermark,
										  XLogRecPtr logged_at);
extern TimestampTz docsync_clock_read_watermark(void);

/*
 * changes.c: what writers leave for the announcer
 */
#define DOCSYNC_ANNOUNCE_KEY_LEN	16	/* bytes */

/* What announcers are in pg_stat_activity.backend_type */
#define DOCSYNC_ANNOUNCER		"docsync announcer"

/* Collections that are told apart: of a transaction, and of all together */
#define DOCSYNC_CHANGES_NOTED	64
#define DOCSYNC_CHANGES_MAX		256

/* A collection that has changed */
typedef struct Change
{
	bool		is_used;		/* in shared memory: this place */
	uint32		hash;			/* of its mark */
	uint8		key[DOCSYNC_ANNOUNCE_KEY_LEN];	/* what it is called outside */
	TimestampTz stamp;			/* the last one; DT_NOBEGIN: not known */
} Change;

extern void docsync_changes_init(void);
extern bool docsync_changes_attach(Oid database);
extern void docsync_changes_key(const text *collection, uint8 *key);
extern void docsync_changes_note(const text *collection, TimestampTz stamp);
extern void docsync_changes_start(void);
extern bool docsync_changes_may_connect(void);
extern bool docsync_changes_enter(void);
extern void docsync_changes_exit(bool has_failed);
extern int	docsync_changes_take(Change *changes, bool *all);
extern void docsync_changes_has_looked(void);
extern bool docsync_changes_go_on(void);
extern int	docsync_changes_stop(bool stop);

/*
 * vacate.c: the announcer makes way for DROP DATABASE
 */
extern void docsync_vacate_init(void);

/*
 * stamp.c: the writer's side
 */

extern void docsync_stamp_init(void);
extern void docsync_stamp_expect(int count);
extern void docsync_stamp_take(const text *collection, TimestampTz *stamp,
							   FullTransactionId *fence);
extern void docsync_stamp_take_reserved(const text *collection,
										TimestampTz *stamp,
										FullTransactionId *fence);
extern bool docsync_stamp_is_reserved(const text *collection);
extern TimestampTz docsync_stamp_take_lost(const text *collection, int count);
extern void docsync_stamp_mark(const text *collection);
extern void docsync_stamp_mark_brought(const text *collection,
									   TimestampTz stamp);
extern void docsync_stamp_forget(void);
extern bool docsync_stamp_is_marked(TransactionId xid, uint32 collection_hash);
extern bool docsync_stamp_is_marked_any(TransactionId xid);

/*
 * digest.c: hashes that clients compute as well
 */
#define DIGEST_BUCKETS			256

/* A sum as text, with a terminator */
#define DOCSYNC_DIGEST_LEN		17

typedef struct DigestSum
{
	uint32		high;
	uint32		low;
} DigestSum;

typedef struct Digest
{
	int64		count;			/* documents */
	DigestSum	sums[DIGEST_BUCKETS];
} Digest;

extern uint32 docsync_digest_hash(const void *bytes, int len, uint32 seed);
extern int	docsync_digest_bucket(const text *id);
extern void docsync_digest_add(Digest *digest, const text *id,
							   int64 client_version,
							   TimestampTz last_update_utc);
extern void docsync_digest_format(const Digest *digest, char *buf);

/*
 * cursor.c: where a client resumes
 */
#define DOCSYNC_CURSOR_LEN		96

typedef struct Position
{
	uint64		epoch;			/* 0: none yet */
	TimestampTz stamp;			/* the last one passed; DT_NOBEGIN: none yet */
	TimestampTz seen;			/* no purge up to here was missed */
	XLogRecPtr	lsn;			/* a server that hasn't replayed this far lags */
	bool		is_given;		/* the client has sent it; otherwise it starts
								 * from scratch */
	bool		is_bound;		/* to what "binding" is a hash of */
	uint32		binding;
} Position;

extern int	docsync_cursor_format(const Position *position, char *buf);
extern bool docsync_cursor_parse(const char *from, Position *position);
extern uint32 docsync_cursor_bind(const text *collection,
								  const text *client_id, char origin);

/*
 * history.c: what has happened to the store
 */
typedef struct HistoryEntry
{
	int64		number;
	uint64		epoch;
	uint64		system_identifier;	/* 0: handed over, so at no place */
	Oid			database;
	Oid			document;
	TimeLineID	timeline;
	TimestampTz survived;		/* the highest stamp at that time */
	TimestampTz lost_after;		/* nothing up to here can have been lost */
	TimestampTz clock;			/* later stamps are higher */
	FullTransactionId next;		/* a fence for stamps up to clock */
	bool		arrived;		/* fences of stamps up to clock are another
								 * server's */
} HistoryEntry;

typedef struct History
{
	int			count;
	HistoryEntry *entries;		/* in the order of their numbers */
} History;

extern History *docsync_history_read(Snapshot snapshot);
extern const HistoryEntry *docsync_history_newest(const History *history);
extern uint64 docsync_history_epoch(const History *history);
extern bool docsync_history_knows(const History *history, uint64 epoch);
extern bool docsync_history_goes_on(const History *history, uint64 epoch);
extern bool docsync_history_is_here(const HistoryEntry *entry);
extern bool docsync_history_is_handed_over(const HistoryEntry *entry);
extern bool docsync_history_is_gone(const History *history);
extern bool docsync_history_is_taken_over(const History *history);
extern bool docsync_history_is_beginning(const History *history,
										 TimestampTz stamp);
extern TimestampTz docsync_history_lost_after(const History *history,
											  uint64 epoch);
extern const HistoryEntry *docsync_history_find_gap(const History *history,
													TimestampTz stamp);
extern FullTransactionId docsync_history_fence(const History *history,
											   TimestampTz stamp,
											   FullTransactionId fence);

/*
 * moved.c: collections that are elsewhere, or have come from elsewhere
 */
typedef enum MovedState
{
	MOVED_LEAVING,				/* these are closed: */
	MOVED_GONE,
	MOVED_ARRIVING,
	MOVED_HERE
} MovedState;

typedef struct Moved
{
	text	   *collection;		/* and all below it */
	MovedState	state;
	TimestampTz changed;
	bool		is_own;			/* by the present transaction */

	/* What had happened to it where it was; the last is its coming here */
	int			count;
	int64	   *epochs;
	TimestampTz *survived;
	TimestampTz *lost_after;
	TimestampTz *clocks;

	/* How it was here then */
	int64		number;			/* docsync.history's newest row, */
	uint64		replaced;		/* and its epoch */
	FullTransactionId next;
} Moved;

/* Called with a row, which is the caller's */
typedef void (*MovedCallback) (const Moved *moved, void *arg);

extern Moved *docsync_moved_find(Snapshot snapshot, const text *collection);
extern Moved *docsync_moved_find_latest(const text *collection);
extern const char *docsync_moved_state_name(MovedState state);
extern bool docsync_moved_is_closed(const Moved *moved);
extern void docsync_moved_check(const text *collection);
extern void docsync_moved_scan(MovedCallback callback, void *arg);
extern ArrayType *docsync_moved_list_closed(void);
extern bool docsync_moved_may_be_closed(const text *collection);
extern bool docsync_moved_enter(const text *collection, bool to_bring);
extern bool docsync_moved_lock(const Moved *moved, LOCKMODE mode);
extern const History *docsync_moved_line(const Moved *moved,
										 const History *history);
extern const Refusal *docsync_moved_describe(const Moved *moved);
pg_noreturn extern void docsync_moved_refuse(const Moved *moved);

/*
 * epoch.c: how that is noted
 */
extern void docsync_epoch_init(void);
extern void docsync_epoch_notice(void);
extern uint64 docsync_epoch_make_id(void);

/*
 * settle.c: the reader's side
 */
typedef struct SettleScan
{
	Snapshot	snapshot;
	const History *history;
	uint32		collection_hash;
	TimestampTz watermark;		/* on a standby: stamps up to here are settled */
	FullTransactionId next;		/* transaction ids from here on are younger
								 * than the snapshot */
	FullTransactionId known;	/* fences up to here are settled */

	/* Looked up once, after "next" was read, and only when needed */
	bool		has_running;
	FullTransactionId *running; /* top-level ids, from the snapshot's xmax on */
	int			nrunning;
	FullTransactionId unended;	/* none from here on had ended */
} SettleScan;

/* Up to where is it settled? */
typedef struct Frontier
{
	TimestampTz stamp;
	XLogRecPtr	logged_at;		/* where in WAL the clock was logged last */
	TransactionId *marked;		/* these may have earlier stamps, somewhere */
	int			nmarked;
} Frontier;

extern TimestampTz docsync_settle_push_snapshot(void);
extern void docsync_settle_begin(SettleScan *scan, Snapshot snapshot,
								 const History *history,
								 const text *collection,
								 TimestampTz watermark);
extern bool docsync_settle_test(SettleScan *scan, TimestampTz stamp,
								FullTransactionId fence);
extern void docsync_settle_find_frontier(Frontier *frontier);
extern bool docsync_settle_is_frontier(const Frontier *frontier,
									   uint32 collection_hash);

/*
 * statement.c: running statements
 */

/*
 * Called for each row, in the caller's memory context.  The slot is valid
 * during the call only.  Returning false ends the statement.
 */
typedef bool (*RowCallback) (TupleTableSlot *slot, void *arg);

/* How a statement is run */
#define STATEMENT_READ_ONLY		0x01	/* with the active snapshot */
#define STATEMENT_PINNED		0x02	/* its plan must walk an index (pin.c) */
#define STATEMENT_OF_DOCUMENT	0x04	/* as docsync.document's owner */
#define STATEMENT_OF_HISTORY	0x08	/* as docsync.history's owner */
#define STATEMENT_OF_TASK		0x10	/* its rows are the task's (task.c);
										 * it has a RETURNING clause */
#define STATEMENT_OF_RECORD		0x20	/* as docsync.record's owner */

typedef struct Statement
{
	const char *text;
	int			nargs;
	Oid			argtypes[11];
	int			flags;
	struct _SPI_plan *plan;		/* kept; NULL at first */
} Statement;

extern uint64 docsync_statement_run(Statement *statement,
									const Datum *args,
									RowCallback callback, void *arg);

/*
 * store.c: the table of documents
 */
typedef struct StoredDocument
{
	text	   *id;
	int64		client_version;
	text	   *client_id;
	TimestampTz last_update_utc;
	bool		deleted;
	bool		has_body;
	Datum		body;			/* jsonb, maybe toasted */
	FullTransactionId fence;
	ItemPointerData tid;		/* where the row was found; invalid if it
								 * isn't known */
} StoredDocument;

typedef struct WrittenDocument
{
	text	   *id;
	int64		client_version;
	TimestampTz last_update_utc;
	const StoredDocument *replaced; /* what it replaced, NULL if nothing */
	const StoredDocument *stored;	/* what it is now; NULL: as it was sent,
									 * since no trigger can change it */
} WrittenDocument;

/*
 * Called for each row, as RowCallback is.  Returning false ends the scan.
 */
typedef bool (*StoredCallback) (const StoredDocument *stored, void *arg);
typedef void (*WrittenCallback) (const WrittenDocument *written, void *arg);

/*
 * Called with the stored row, which is locked, that is about to be replaced.
 * If it returns false, the row stays as it is.
 */
typedef bool (*ReplaceCallback) (const StoredDocument *stored, void *arg);

/* How documents are written */
typedef enum StoreWrite
{
	STORE_REPLACE,				/* whether or not they are stored */
	STORE_CREATE,				/* none is stored */
	STORE_UPDATE				/* all are stored, at known tids */
} StoreWrite;

extern uint64 docsync_store_find(text *collection, Datum *ids, int count,
								 StoredCallback callback, void *arg);
extern void docsync_store_find_changeable(text *collection, Datum *ids,
										  int count, StoredCallback callback,
										  void *arg);
extern void docsync_store_get(text *collection, Datum *ids, int count,
							  StoredCallback callback, void *arg);
extern void docsync_store_write(text *collection, text *client_id,
								SentDocument **documents, int count,
								StoreWrite how, const Datum *tids,
								WrittenCallback callback,
								ReplaceCallback may_replace, void *arg);
extern void docsync_store_scan(text *collection, TimestampTz since,
							   StoredCallback callback, void *arg);
extern void docsync_store_scan_back(text *collection, TimestampTz from,
									StoredCallback callback, void *arg);
extern bool docsync_store_sees_any(text *collection);
extern bool docsync_store_bury(Datum collection, Datum id);
extern bool docsync_store_restamp(text *collection, Datum id);
extern void docsync_store_erase(text *collection, Datum id);

/*
 * row.c: a row of docsync.document on its way to the table
 */
typedef struct Row
{
	const AttrNumber *attnums;	/* by enum DocumentColumn */
	Relation	rel;
	HeapTuple	tuple;
	Datum	   *values;
	bool	   *isnull;
} Row;

extern Row	docsync_row_read(const Store *store, Relation rel,
							 HeapTuple tuple);
extern void docsync_row_set(Row *row, int column, Datum value);
extern void docsync_row_form(Row *row);
extern void docsync_row_document(const Row *row, StoredDocument *stored);
extern Datum docsync_row_get(const Row *row, int column, bool *isnull);
extern text *docsync_row_text(const Row *row, int column);
extern bool docsync_row_is_same(const Row *old, const Row *new, int column);
extern void docsync_row_check(const Row *new);
extern void docsync_row_check_body(const Row *old, const Row *new);

/*
 * task.c: the upload or purge in progress
 */
typedef enum Task
{
	TASK_NONE,
	TASK_UPLOAD,
	TASK_PURGE
} Task;

typedef struct TaskFrame
{
	Task		task;
	Snapshot	snapshot;		/* its statement's; NULL: not running yet */
	ReplaceCallback may_replace;	/* of an upload */
	void	   *arg;
	bool		has_replaced;
	StoredDocument replaced;	/* by the row being written */
	bool		has_written;
	StoredDocument written;		/* what that row has become */
} TaskFrame;

extern TaskFrame docsync_task_enter(Task task,
									ReplaceCallback may_replace, void *arg);
extern void docsync_task_leave(const TaskFrame *outer);
extern void docsync_task_begin_statement(void);
extern TaskFrame *docsync_task_of_row(Task task);
extern const StoredDocument *docsync_task_replaced(void);
extern const StoredDocument *docsync_task_written(void);

/*
 * probe.c: lookups without a statement
 */
extern int	docsync_probe_find(text *collection, Datum *ids, int count,
							   StoredCallback callback, void *arg,
							   uint64 *found);

/*
 * insert.c: inserting rows without a statement
 */
extern void docsync_insert_rows(StoreRelation which, int ncolumns,
								const Datum *values, const bool *nulls,
								int count);

/*
 * pin.c: plans that walk an index
 */
extern void docsync_pin_init(void);
extern void docsync_pin_add(const char *query_string);

/*
 * revive.c: inserting a deleted document again
 */
extern bool docsync_revive(Relation rel, text *collection, text *id,
						   int64 *version);

/*
 * retention.c: the rules of what is kept
 */

/* Of which versions that lost the bodies are kept */
typedef enum RetentionKeep
{
	RETENTION_NONE,
	RETENTION_DISCARDED,
	RETENTION_REPLACED			/* both */
} RetentionKeep;

/* A row of docsync.keep */
typedef struct RetentionRule
{
	text	   *pattern;		/* LIKE's, of collections */
	RetentionKeep keep;
	int			most;			/* versions of a document */
} RetentionRule;

extern const RetentionRule *docsync_retention_find(const text *collection);

/*
 * record.c: what lost is kept
 */

typedef enum RecordReason
{
	RECORD_DISCARDED,
	RECORD_CONFLICT,
	RECORD_REPLACED
} RecordReason;

/* What has lost in a collection, and isn't written yet */
typedef struct RecordList RecordList;

extern RecordList *docsync_record_begin(text *collection,
										const RetentionRule *rule, bool is_sent);
extern void docsync_record_add(RecordList *list, const StoredDocument *lost,
							   TimestampTz recorded_utc, RecordReason reason);
extern void docsync_record_write(RecordList *list);
extern void docsync_record_forget(RecordList *list);

/* Rows that are removed in steps, for their age */
typedef struct RecordScan
{
	text	   *only;			/* the one collection; NULL: all */
	TimestampTz before;			/* rows from here on stay */

	/* Up to here all is done; of 0s: nothing yet */
	char		collection[DOCSYNC_COLLECTION_LEN + 1];
	char		id[DOCSYNC_ID_LEN + 1];
	TimestampTz recorded_utc;
} RecordScan;

extern bool docsync_record_may_remove(void);
extern bool docsync_record_purge(RecordScan *scan);
extern uint64 docsync_record_erase(text *collection);

/*
 * horizon.c: up to which stamp tombstones have been removed
 */

/* DT_NOBEGIN: none */
typedef struct Horizon
{
	TimestampTz all;
	TimestampTz others;			/* only those of other clients than the given
								 * one */
} Horizon;

extern Horizon docsync_horizon_find(Snapshot snapshot, const text *collection,
									const text *client_id);
extern void docsync_horizon_raise(text *collection,
								  TimestampTz last_update_utc,
								  text *client_id, TimestampTz others_utc);

/*
 * steps.c: procedures that commit after each step
 */

/* Does a step; returns false if all is done. */
typedef bool (*StepCallback) (void *arg);

extern Datum docsync_steps_run(FunctionCallInfo fcinfo, MemoryContext parent,
							   StepCallback step, void *arg,
							   const int64 *done);

/*
 * purge.c: removing tombstones
 */

/* Tombstones of a collection that are removed in steps */
typedef struct PurgeScan
{
	text	   *collection;
	TimestampTz before;			/* those from here on stay, */
	TimestampTz keep[2];		/* and those with these stamps */
	TimestampTz passed;			/* up to here all is done */
	bool		is_held;		/* the next isn't settled yet */
	int64		removed;
} PurgeScan;

extern bool docsync_purge_step(PurgeScan *scan);
extern void docsync_purge_check_rights(void);

/*
 * divide.c: one bad document doesn't stop the rest
 */
#define DIVIDE_LOOK_UP			0x01
#define DIVIDE_WRITE			0x02
#define DIVIDE_IN_PARTS			0x04	/* do both, by docsync_divide_run() */

/* What all uploads of a request have used up together */
typedef struct UploadSpent
{
	int			refusals;
	int			kept;			/* subtransactions that were committed */
	int64		winners_size;	/* bytes, as jsonb */
} UploadSpent;

typedef struct Division
{
	bool		atomic;			/* one refusal ends it all, */
	bool		is_apart;		/* but doesn't end the transaction */

	/* Looks up or writes documents, or both: those in [from, to) */
	void		(*apply) (int from, int to, int steps, void *arg);

	/* One is refused; returns true if something of it is left to be tried */
	bool		(*refuse) (int which, ErrorData *error, void *arg);

	/* There have been too many refusals: these aren't tried. */
	void		(*leave) (int from, int to, void *arg);
	void	   *arg;

	/* How far apply() has got with the statement that it runs */
	int			begun;
	int			passed;			/* those before this are done */
	int			end;

	UploadSpent *spent;
} Division;

extern ErrorData *docsync_divide_try(Division *division, int from, int to,
									 int steps);
extern void docsync_divide_run(Division *division, int from, int to,
							   bool again);
extern ErrorData *docsync_divide_run_apart(Division *division, int from,
										   int to, bool again);

/*
 * judge.c: what becomes of the documents of one id
 */
/* The documents of one id, and what the service has after the upload */
typedef struct UploadGroup
{
	const BatchGroup *sent;
	SentDocument *write;		/* the last one that wins; NULL: none */
	bool		created;
	bool		written;
	bool		judged;			/* by the rule */
	bool		has_base;		/* one of the documents has a base */
	bool		again;			/* "write" has changed since the statement
								 * began */
	bool		modified;		/* something other than "write" was stored */
	bool		untried;
	bool		exists;			/* the service has one */
	int64		client_version;
	TimestampTz last_update_utc;
	TimestampTz judged_on;		/* the stored document's stamp; DT_NOEND: none */
	ItemPointerData tid;		/* and its tid; invalid: not known */
	Jsonb	   *winner;			/* NULL: not needed, or no room for it */
} UploadGroup;

typedef struct Upload
{
	text	   *collection;
	text	   *client_id;
	Batch	   *batch;
	UploadGroup *groups;		/* by id, as the batch's */
	int			ngroups;
	RuleOutcome *outcomes;		/* by ordinal, from 0 */
	const RetentionRule *keep;	/* what is kept; NULL: nothing */
	RecordList *replaced;		/* NULL: what is replaced isn't */
	Division	division;		/* of the groups */
	bool		is_one_of_many; /* its refusals concern only itself */
	const Refusal *refusal;		/* NULL: none; otherwise nothing of it is
								 * applied */
	MemoryContext context;		/* the call's */
	MemoryContext scratch;		/* for one document at a time */
} Upload;

extern void docsync_judge_nothing(Upload *upload, UploadGroup *group);
extern bool docsync_judge_stored(const StoredDocument *stored, void *arg);
extern bool docsync_judge_may_replace(const StoredDocument *stored, void *arg);
extern void docsync_judge_written(const WrittenDocument *written, void *arg);

/*
 * keep.c: what lost is kept
 */
extern void docsync_keep_begin(Upload *upload);
extern void docsync_keep_expect(Upload *upload);
extern void docsync_keep_replaced(Upload *upload,
								  const WrittenDocument *written);
extern void docsync_keep_write(Upload *upload);
extern void docsync_keep_discarded(Upload *upload);

/*
 * write.c: what won is written
 */

/* The most documents written by one statement */
#define WRITE_DOCUMENTS			500

/* With at least this many new documents, INSERT alone is tried first. */
#define CREATE_DOCUMENTS		50

extern void docsync_write_groups(Upload *upload, int from, int to,
								 bool as_judged);

/*
 * upsert.c: upload
 */
typedef struct UploadResult
{
	const SentDocument *sent;
	RuleOutcome outcome;
	bool		exists;			/* the service has one after the upload */
	int64		client_version; /* these two: the service's, after */
	TimestampTz last_update_utc;	/* these two */
	Jsonb	   *winner;			/* NULL unless the service has a different
								 * one, or if winner_omitted */
	bool		winner_omitted; /* there was no room for it */
	const Refusal *refusal;		/* NULL: none */
} UploadResult;

extern Upload *docsync_upsert_apply(text *client_id, text *collection,
									Batch *batch, bool atomic);
extern Upload *docsync_upsert_apply_one(text *client_id, text *collection,
										Batch *batch, bool atomic,
										UploadSpent *spent);
extern int	docsync_upsert_count(const Upload *upload);
extern UploadResult docsync_upsert_result(const Upload *upload, int i);

/*
 * query.c: download
 */
typedef enum QueryOrigin
{
	ORIGIN_OTHER,				/* documents of other clients */
	ORIGIN_OWN,
	ORIGIN_ANY
} QueryOrigin;

typedef enum ResyncReason
{
	RESYNC_NONE,
	RESYNC_PURGED,				/* tombstones were purged that it hasn't seen */
	RESYNC_LOST,				/* its position belongs to another history */
	RESYNC_USE_CURSOR,			/* paging by stamps can't work */
	RESYNC_CLOSED				/* the collection is being moved, or was */
} ResyncReason;

typedef struct Download
{
	/* The request */
	text	   *client_id;		/* NULL with ORIGIN_ANY */
	text	   *collection;
	QueryOrigin origin;
	bool		by_cursor;		/* otherwise by a bare stamp, including that
								 * stamp */
	Position	position;
	bool		reconcile;		/* the client can compare */
	bool		no_tombstones;	/* the client doesn't need those up to "seen" */
	int			max_documents;	/* later than the position; -1: all */
	bool		(*put) (const StoredDocument *stored, void *arg);
	void	   *arg;

	/* The result */
	ResyncReason refused;		/* by cursor only, before anything was looked
								 * at */
	const Moved *moved;			/* NULL: it is where it always was */
	Position	next;			/* by cursor only: where to resume */
	int			count;			/* documents later than the position */
	TimestampTz last;			/* the last stamp passed */
	bool		more;			/* it stopped at max_documents, or since put
								 * returned false */
	bool		is_held;		/* there are more, which aren't settled */
	bool		must_reconcile;
	TimestampTz lost_after;		/* in that case; DT_NOEND: nothing was lost */
	bool		is_behind;		/* this server lags; nothing was looked at */

	/* The snapshot, and what belongs to it */
	const History *history;		/* the collection's */
	bool		has_horizon;	/* otherwise it hasn't been looked up */
	Horizon		horizon;
	XLogRecPtr	lsn;
	SettleScan	settle;
	TimestampTz since;			/* the position, in this history */
	bool		is_beginning;	/* the bare stamp means "from the beginning" */
	const HistoryEntry *gap;	/* that the bare stamp lies in; NULL: none */
	int64		passed;			/* documents; the last one's stamp is "last" */
	TimestampTz last_given;
	bool		is_full;		/* put has had enough */
} Download;

extern QueryOrigin docsync_query_parse_origin(const text *origin);
extern void docsync_query_check(const Download *download);
extern void docsync_query_begin(Download *download, StoreUse use);
extern void docsync_query_begin_all(Download **downloads, int count,
									StoreUse use);
extern void docsync_query_run(Download *download);
extern void docsync_query_go_on(Download *download, int max_documents);
extern void docsync_query_end(void);

/*
 * position.c: where a download resumes
 */
extern void docsync_position_judge(Download *download);
extern void docsync_position_judge_first(Download *download,
										 const StoredDocument *stored);
extern void docsync_position_judge_next(Download *download);
extern void docsync_position_judge_more(Download *download);
extern const Horizon *docsync_position_horizon(Download *download);
extern const Refusal *docsync_position_describe(const Download *download);
pg_noreturn extern void docsync_position_refuse(ResyncReason reason);

/*
 * json.c: documents as JSON
 */
extern Jsonb *docsync_json_document(const StoredDocument *stored);
extern void docsync_json_append_document(StringInfo buf,
										 const StoredDocument *stored);
extern void docsync_json_append_jsonb(StringInfo buf, Jsonb *jsonb);
extern void docsync_json_append_string(StringInfo buf, const char *string,
									   int len);
extern void docsync_json_append_stamp(StringInfo buf, TimestampTz stamp);

/*
 * request.c: who makes an HTTP request, and for what
 */
typedef struct Request
{
	text	   *client_id;
	text	   *collection;
	text	   *cursor;
	text	   *origin;
	int			max_documents;	/* -1: all */
	bool		reconcile;
	text	   *state;			/* "true", or the client's digest; NULL: not
								 * wanted */
	bool		no_tombstones;
	text	   *after;			/* of a comparison: the last id received */
	text	   *since_utc;
	bool		not_atomic;		/* documents are applied one by one */
	bool		may_write;		/* for a sync, even without documents */
	struct Request *collections;	/* one Request for each; NULL: a single
									 * one, as above */
	int			ncollections;
	int			documents_before;	/* in the same request, for other
									 * collections */
	Batch	   *documents;		/* NULL: none sent; the same for the next two */
	bool	   *buckets;		/* of a comparison: those wanted */
	Datum	   *ids;			/* texts */
	int			nids;
} Request;

extern text *docsync_request_get_text(FunctionCallInfo fcinfo, int n);
extern int	docsync_request_get_max(FunctionCallInfo fcinfo, int n);
extern bool docsync_request_get_bool(FunctionCallInfo fcinfo, int n,
									 bool otherwise);
extern void docsync_request_need_client_id(const Request *request);
extern Position docsync_request_parse_cursor(const Request *request,
											 QueryOrigin origin);
extern void docsync_request_resolve(Request *request);
extern void docsync_request_check_claim(const text *client_id);
extern void docsync_request_check_max(int max_documents);

/*
 * argument.c: a request's arguments
 */
extern int	docsync_argument_find(const char *name, const char *const *keys);
extern void docsync_argument_set(Request *request, int which,
								 const char *value);
extern const char *docsync_argument_parameters(const char *const *keys);
extern void docsync_argument_read(FunctionCallInfo fcinfo, Request *request,
								  const char *const *keys);

/*
 * url.c: a request's query string
 */
extern void docsync_url_read(Request *request, const char *const *keys);

/*
 * answer.c: the parts of an answer around the documents
 */

/* What a request did, for the log of the HTTP layer */
typedef struct Exchange
{
	int			collections;
	const text *collection;		/* the last of them */
	const text *client_id;		/* NULL: none */
	bool		has_downloaded;
	TimestampTz from;			/* the client's position; DT_NOBEGIN: none */
	TimestampTz to;				/* its new position */
	int			documents;		/* in the answer */
	bool		more;
	int			received;		/* documents */
	int			outcomes[RULE_UNTRIED + 1]; /* of these */
} Exchange;

extern void docsync_answer_begin(StringInfo buf);
extern void docsync_answer_append_server(StringInfo buf);
extern Datum docsync_answer_end(StringInfo buf, const char *tag,
								const Exchange *exchange);
extern Datum docsync_answer_end_unchanged(StringInfo buf, const char *tag,
										  const Exchange *exchange);
extern bool docsync_answer_is_had(const char *tag);
extern void docsync_answer_set(const char *name, const char *value);

/*
 * sync.c: an upload and a download
 */
typedef struct Sync
{
	Request    *request;
	Upload	   *upload;			/* NULL: none */
	bool		has_before;
	Download	before;			/* as it was judged before the upload */
	Download	download;

	/* The array of documents being written */
	StringInfo	buf;
	int64		max_len;		/* of buf, at which the array is full */
	int			count;
} Sync;

extern Datum docsync_sync_run(Request *request);
extern void docsync_sync_check(Sync *sync);
extern void docsync_sync_prepare(const Request *request);
extern void docsync_sync_keep_before(Sync *sync);
extern void docsync_sync_compare_before(Sync *sync);
extern void docsync_sync_append_upload(StringInfo buf, const Upload *upload);
extern void docsync_sync_begin_documents(Sync *sync, StringInfo buf,
										 int max_size);
extern void docsync_sync_append_position(StringInfo buf, const Sync *sync);
extern void docsync_sync_add_exchange(Exchange *exchange, const Sync *sync);

/*
 * collections.c: uploads and downloads of several collections
 */
extern Datum docsync_collections_run(Request *request);

/*
 * state.c: the sums that a client compares
 */
extern void docsync_state_append(StringInfo buf, const Download *download,
								 const char *own);

/*
 * watch.c: for operators
 */
extern const Store *docsync_watch_open(void);
extern HeapTuple docsync_watch_statistics(const Store *store,
										  StoreRelation which, int column);

#endif							/* DOCSYNC_H */
