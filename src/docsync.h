/*-------------------------------------------------------------------------
 *
 * docsync.h
 *	  What docsync's files share, one section a file.
 *
 * A document walks in one direction.  In: batch (JSON to structs), rule (who
 * wins), stamp (when), store (to the table).  Out: store, settle (may it
 * leave yet), query.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DOCSYNC_H
#define DOCSYNC_H

#include "access/transam.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/jsonb.h"
#include "utils/snapshot.h"

#include "compat.h"

/* Bytes; the guard holds plain SQL to them too. */
#define DOCSYNC_COLLECTION_LEN	200
#define DOCSYNC_CLIENT_ID_LEN	200
#define DOCSYNC_ID_LEN			500

/* The client_id of an edit made on the server by plain SQL. */
#define DOCSYNC_SERVER_ID		"server"

/* Columns of docsync.document */
#define Anum_document_collection		1
#define Anum_document_id				2
#define Anum_document_client_version	3
#define Anum_document_client_id			4
#define Anum_document_last_update_utc	5
#define Anum_document_deleted			6
#define Anum_document_body				7
#define Anum_document_fence				8

/*
 * docsync.c: settings
 */
extern int	docsync_max_batch;	/* documents */
extern int	docsync_max_document_size;	/* bytes of a body, as jsonb */
extern int	docsync_max_version_lead;	/* milliseconds; -1: no limit */
extern int	docsync_max_page_size;	/* bytes of documents in an answer */

/*
 * batch.c: JSON to structs, every refusal of bad input
 */
typedef struct SentDocument
{
	int			ordinal;		/* place in the batch, from 1 */
	const char *id;				/* points into the batch, no terminator */
	int			id_len;			/* bytes */
	int64		client_version;
	bool		deleted;
	bool		has_body;		/* false: SQL NULL */
	JsonbValue	body;			/* points into the batch */
} SentDocument;

/* The documents of one id */
typedef struct BatchGroup
{
	SentDocument **documents;	/* in the order sent */
	int			count;
} BatchGroup;

typedef struct Batch
{
	SentDocument *documents;	/* in the order sent */
	int			count;
	BatchGroup *groups;			/* in the order of ids */
	int			ngroups;
	int		   *group_of;		/* a document's group, by ordinal from 0 */
	int			next;			/* the group likely to be asked for next */
} Batch;

extern Batch *docsync_batch_parse(const JsonbValue *documents);
extern int	docsync_batch_find(Batch *batch, const text *id);
extern Datum docsync_batch_id(const BatchGroup *group);
extern Jsonb *docsync_batch_body(const SentDocument *sent);
extern int64 docsync_batch_measure(const JsonbValue *body);
extern int	docsync_batch_compare_ids(const char *a, int a_len,
									  const char *b, int b_len);
extern bool docsync_batch_same_text(const text *a, const text *b);
extern const char *docsync_batch_type_name(const JsonbValue *value);
extern const char *docsync_batch_quote(const char *value, int len);
extern void docsync_batch_check_name(const text *value, const char *name,
									 int max_len);

/*
 * rule.c: who wins
 */
typedef enum RuleOutcome
{
	RULE_CREATED,
	RULE_UPDATED,
	RULE_UNCHANGED,
	RULE_DISCARDED
} RuleOutcome;

/* What the service has, as far as the rule asks. */
typedef struct RuleHeld
{
	bool		exists;
	int64		client_version;
	bool		same_client;	/* sent by the client that sends now */
	bool		deleted;
	Jsonb	   *body;			/* NULL: none */
} RuleHeld;

extern RuleOutcome docsync_rule_decide(const RuleHeld *held,
									   const SentDocument *sent);
extern const char *docsync_rule_name(RuleOutcome outcome);

/*
 * clock.c: the last stamp issued
 */

/* Sequences in the schema docsync, microseconds since 1970 */
#define DOCSYNC_CLOCK			"clock"
#define DOCSYNC_HORIZON			"horizon"	/* the highest stamp purged */

extern TimestampTz docsync_clock_tick(int count, FullTransactionId *fence);
extern void docsync_clock_advance(const char *clock, TimestampTz stamp);
extern TimestampTz docsync_clock_read(const char *clock);
extern uint64 docsync_clock_epoch(void);

/*
 * stamp.c: the writer's side
 */

/* "YYYY-MM-DDTHH:MM:SS.ffffffZ" and a terminator; years may have six digits */
#define DOCSYNC_STAMP_LEN		32

/* From PostgreSQL's time, since 2000-01-01, to Unix time, in microseconds */
#define DOCSYNC_UNIX_OFFSET \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

extern void docsync_stamp_init(void);
extern void docsync_stamp_expect(int count);
extern void docsync_stamp_take(const text *collection, TimestampTz *stamp,
							   FullTransactionId *fence);
extern void docsync_stamp_forget(void);
extern bool docsync_stamp_is_marked(TransactionId xid, uint32 collection_hash);
extern uint32 docsync_stamp_hash(const text *collection);
extern int	docsync_stamp_format(TimestampTz stamp, char *buf);

/*
 * settle.c: the reader's side
 */
typedef struct SettleScan
{
	Snapshot	snapshot;
	uint32		collection_hash;
	FullTransactionId next;		/* transaction ids from here on are younger
								 * than the snapshot */
	FullTransactionId known;	/* fences up to here are settled */
} SettleScan;

extern void docsync_settle_begin(SettleScan *scan, Snapshot snapshot,
								 const text *collection);
extern bool docsync_settle_test(SettleScan *scan, FullTransactionId fence);

/*
 * store.c: the table
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
} StoredDocument;

typedef struct WrittenDocument
{
	text	   *id;
	int64		client_version;
	TimestampTz last_update_utc;
	const StoredDocument *replaced; /* what it replaced, NULL if nothing */
} WrittenDocument;

/*
 * Called for each row, in the caller's memory context.  What it is given
 * lasts for the call.  Returning false ends the scan.
 */
typedef bool (*StoredCallback) (const StoredDocument *stored, void *arg);
typedef void (*WrittenCallback) (const WrittenDocument *written, void *arg);

extern uint64 docsync_store_find(text *collection, Datum *ids, int count,
								 StoredCallback callback, void *arg);
extern void docsync_store_write(text *collection, text *client_id,
								SentDocument **documents, int count,
								bool all_new,
								WrittenCallback callback, void *arg);
extern void docsync_store_scan(text *collection, TimestampTz since,
							   StoredCallback callback, void *arg);
extern bool docsync_store_bury(Datum collection, Datum id);
extern int64 docsync_store_purge(TimestampTz before, text *collection,
								 TimestampTz *horizon);
extern TimestampTz docsync_store_find_purged(text *collection);

/*
 * guard.c: the trigger
 */
typedef enum GuardTask
{
	GUARD_NOTHING,
	GUARD_UPLOAD,
	GUARD_PURGE
} GuardTask;

typedef struct GuardFrame
{
	GuardTask	task;
	int			depth;			/* of triggers */
	bool		has_replaced;
	StoredDocument replaced;	/* by the row being written */
} GuardFrame;

extern GuardFrame docsync_guard_enter(GuardTask task);
extern void docsync_guard_leave(const GuardFrame *outer);
extern const StoredDocument *docsync_guard_replaced(void);

/*
 * upsert.c: upload
 */
typedef struct Upload Upload;

typedef struct UploadResult
{
	const SentDocument *sent;
	RuleOutcome outcome;
	int64		client_version; /* the service's after the upload, as are */
	TimestampTz last_update_utc;	/* these two */
	Jsonb	   *winner;			/* NULL unless discarded */
} UploadResult;

extern Upload *docsync_upsert_apply(text *client_id, text *collection,
									const JsonbValue *documents);
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

typedef struct Download
{
	/* What is asked for */
	text	   *client_id;		/* NULL with ORIGIN_ANY */
	text	   *collection;
	QueryOrigin origin;
	TimestampTz since;
	bool		after;			/* only later ones than since */
	int			max_documents;	/* later than since; -1: all */
	bool		(*put) (const StoredDocument *stored, void *arg);
	void	   *arg;

	/* What came of it */
	int			count;			/* documents later than since */
	TimestampTz last;			/* the last stamp passed, at least since */
	bool		more;			/* there were more: max_documents, or put
								 * returned false */

	SettleScan	settle;
	bool		is_full;		/* put has had enough */
} Download;

extern QueryOrigin docsync_query_parse_origin(const text *origin);
extern void docsync_query_check(const Download *download);
extern void docsync_query_run(Download *download);
extern void docsync_query_refuse(const char *detail) pg_attribute_noreturn();

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
 * cursor.c: where a client goes on from, and times as text
 */

/* Sixteen hexadecimal digits, a dot, microseconds since 1970 */
#define DOCSYNC_CURSOR_LEN		40

typedef struct Cursor
{
	uint64		epoch;
	TimestampTz stamp;			/* DT_NOBEGIN: none yet */
} Cursor;

extern int	docsync_cursor_format(const Cursor *cursor, char *buf);
extern bool docsync_cursor_parse(const char *text, Cursor *cursor);
extern bool docsync_cursor_parse_utc(const char *text, TimestampTz *time);

/*
 * request.c: what an HTTP request asks for
 */
typedef struct Request
{
	text	   *client_id;
	text	   *collection;
	text	   *cursor;
	text	   *origin;
	int			max_documents;	/* -1: all */
	JsonbValue *documents;		/* NULL: none sent */
} Request;

extern text *docsync_request_get_text(FunctionCallInfo fcinfo, int n);
extern int	docsync_request_get_max(FunctionCallInfo fcinfo, int n);
extern text *docsync_request_url_value(const char *key);
extern void docsync_request_parse_body(Jsonb *body, Request *request,
									   const char *const *keys);
extern void docsync_request_resolve(Request *request);
extern void docsync_request_check_claim(const text *client_id);
extern int	docsync_request_sqlstate(int sqlstate);
extern void docsync_request_set_type(void);

#endif							/* DOCSYNC_H */
