/*-------------------------------------------------------------------------
 *
 * sync.c
 *	  A sync: an upload, then a download, and the answer to both.
 *
 * Its steps are used for one collection here, and for several in
 * collections.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <inttypes.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "docsync.h"

static char *make_tag(const Position *position);
static bool has_nothing_new(const Request *request, const Download *download);
static bool put_document(const StoredDocument *stored, void *arg);
static void append_stamp(StringInfo buf, TimestampTz stamp);

/*
 * Runs a sync of one collection: uploads, if there are documents, and
 * downloads.
 */
Datum
docsync_sync_run(Request *request)
{
	StringInfoData buf;
	Sync		sync = {.request = request};
	Download   *download = &sync.download;
	Exchange	exchange = {0};
	char	   *tag = NULL;

	docsync_sync_check(&sync);
	docsync_sync_prepare(request);

	docsync_answer_begin(&buf);
	appendStringInfoChar(&buf, '{');
	if (request->documents != NULL)
	{
		/*
		 * A client that can't resume is refused before the upload advances
		 * the clock.
		 */
		docsync_query_begin(download, STORE_WRITE);
		docsync_query_end();
		docsync_sync_keep_before(&sync);
		sync.upload = docsync_upsert_apply(request->client_id,
										   request->collection,
										   request->documents,
										   !request->not_atomic);
		docsync_sync_append_upload(&buf, sync.upload);
		CommandCounterIncrement();
	}
	else
		docsync_sync_append_upload(&buf, NULL);

	/* A snapshot that sees the upload, and what others did before it */
	docsync_query_begin(download, STORE_READ);
	docsync_sync_compare_before(&sync);
	appendStringInfoString(&buf, ",\"documents\":");
	docsync_sync_begin_documents(&sync, &buf, docsync_max_page_size);
	docsync_query_run(download);
	appendStringInfoChar(&buf, ']');
	docsync_sync_append_position(&buf, &sync);
	docsync_query_end();

	appendStringInfoString(&buf, ",\"serverUtc\":");
	docsync_json_append_stamp(&buf, GetCurrentTimestamp());
	appendStringInfoChar(&buf, '}');

	docsync_sync_add_exchange(&exchange, &sync);
	if (!request->may_write && !download->is_behind && !download->must_reconcile)
		tag = make_tag(&download->next);
	if (tag != NULL && has_nothing_new(request, download) &&
		docsync_answer_is_had(tag))
		return docsync_answer_end_unchanged(&buf, tag, &exchange);
	return docsync_answer_end(&buf, tag, &exchange);
}

/*
 * Refuses invalid arguments, and fills in the download.
 */
void
docsync_sync_check(Sync *sync)
{
	Request    *request = sync->request;
	Download   *download = &sync->download;

	download->client_id = request->client_id;
	download->collection = request->collection;
	download->origin = docsync_query_parse_origin(request->origin);
	download->by_cursor = true;
	download->reconcile = request->reconcile;
	download->no_tombstones = request->no_tombstones;
	download->max_documents = request->max_documents;

	if (request->documents != NULL || download->origin != ORIGIN_ANY)
		docsync_request_need_client_id(request);
	docsync_query_check(download);
	download->position = docsync_request_parse_cursor(request, download->origin);
}

/*
 * Makes the store if there is none, and notes where it is, if the request may
 * write.
 */
void
docsync_sync_prepare(const Request *request)
{
	if (request->may_write && !XactReadOnly && !RecoveryInProgress())
	{
		docsync_schema_open(STORE_WRITE);
		docsync_epoch_notice();
	}
}

/*
 * Remembers how the download was judged before the upload.
 */
void
docsync_sync_keep_before(Sync *sync)
{
	sync->before = sync->download;
	sync->has_before = true;
}

/*
 * Makes the client compare if it had to before the upload: since then the
 * clock may have passed a cursor that was above it.
 */
void
docsync_sync_compare_before(Sync *sync)
{
	Download   *download = &sync->download;

	if (!sync->has_before || !sync->before.must_reconcile ||
		download->must_reconcile || download->is_behind)
		return;

	download->must_reconcile = true;
	download->lost_after = sync->before.lost_after;
	download->since = sync->before.since;
	download->next.seen = sync->before.next.seen;
}

/*
 * The entity tag of a download: where it ended.  It is weak, since the answer
 * also contains the time.
 */
static char *
make_tag(const Position *position)
{
	return psprintf("W/\"%" PRIx64 "." INT64_FORMAT ".%x\"",
					position->epoch, position->stamp, position->binding);
}

/*
 * Would the client be given the cursor that it has?  Then it has passed
 * nothing, not even its own documents.
 */
static bool
has_nothing_new(const Request *request, const Download *download)
{
	char		cursor[DOCSYNC_CURSOR_LEN];
	int			len = docsync_cursor_format(&download->next, cursor);

	return request->cursor != NULL && request->state == NULL &&
		!download->more &&
		len == (int) VARSIZE_ANY_EXHDR(request->cursor) &&
		memcmp(VARDATA_ANY(request->cursor), cursor, len) == 0;
}

/*
 * Appends "cursor", "more", what else there is to say about the position, and
 * "state" if that was asked for and the end is reached.
 */
void
docsync_sync_append_position(StringInfo buf, const Sync *sync)
{
	const Request *request = sync->request;
	const Download *download = &sync->download;
	bool		is_refused = download->refused != RESYNC_NONE;
	char		cursor[DOCSYNC_CURSOR_LEN];

	appendStringInfoString(buf, ",\"cursor\":");
	if (download->is_behind || is_refused)
		docsync_json_append_string(buf, VARDATA_ANY(request->cursor),
								   VARSIZE_ANY_EXHDR(request->cursor));
	else
	{
		int			len = docsync_cursor_format(&download->next, cursor);

		appendStringInfoChar(buf, '"');
		appendBinaryStringInfo(buf, cursor, len);
		appendStringInfoChar(buf, '"');
	}
	appendStringInfoString(buf, download->more || is_refused ?
						   ",\"more\":true" : ",\"more\":false");

	if (download->is_behind)
		appendStringInfoString(buf, ",\"behind\":true");
	else if (download->must_reconcile)
	{
		appendStringInfoString(buf, ",\"reconcile\":true,\"lostAfter\":");
		append_stamp(buf, download->lost_after);
	}

	if (request->state != NULL && !download->more && !download->is_behind &&
		!is_refused)
	{
		appendStringInfoString(buf, ",\"state\":");
		docsync_state_append(buf, download, text_to_cstring(request->state));
	}
}

/*
 * Appends a stamp; "-infinity" for DT_NOBEGIN, null for DT_NOEND.
 */
static void
append_stamp(StringInfo buf, TimestampTz stamp)
{
	if (TIMESTAMP_IS_NOBEGIN(stamp))
		appendStringInfoString(buf, "\"-infinity\"");
	else if (TIMESTAMP_IS_NOEND(stamp))
		appendStringInfoString(buf, "null");
	else
		docsync_json_append_stamp(buf, stamp);
}

/*
 * Adds the sync of a collection to what the request did.  Of several
 * collections the positions are the lowest ones.
 */
void
docsync_sync_add_exchange(Exchange *exchange, const Sync *sync)
{
	const Download *download = &sync->download;
	int			count = sync->upload != NULL ? docsync_upsert_count(sync->upload) : 0;
	TimestampTz from = download->position.stamp;
	TimestampTz to = download->by_cursor ? download->next.stamp : download->last;

	exchange->collections++;
	exchange->collection = sync->request->collection;
	exchange->client_id = sync->request->client_id;
	exchange->received += count;
	for (int i = 0; i < count; i++)
		exchange->outcomes[docsync_upsert_result(sync->upload, i).outcome]++;

	/* An upload alone, or a collection that was refused */
	if (download->put == NULL)
		return;
	exchange->from = exchange->has_downloaded ? Min(exchange->from, from) : from;
	exchange->to = exchange->has_downloaded ? Min(exchange->to, to) : to;
	exchange->documents += sync->count;
	exchange->more = exchange->more || download->more;
	exchange->has_downloaded = true;
}

/*
 * Appends "received": n, "results": [{"id", "outcome", "clientVersion",
 * "LastUpdateUtc", "winner", and "winnerOmitted" or "error"}] for an upload;
 * NULL is one without documents.
 */
void
docsync_sync_append_upload(StringInfo buf, const Upload *upload)
{
	int			count = upload != NULL ? docsync_upsert_count(upload) : 0;

	appendStringInfo(buf, "\"received\":%d,\"results\":[", count);
	for (int i = 0; i < count; i++)
	{
		UploadResult result = docsync_upsert_result(upload, i);

		CHECK_FOR_INTERRUPTS();

		appendStringInfoString(buf, i == 0 ? "{\"id\":" : ",{\"id\":");
		if (result.sent->id != NULL)
			docsync_json_append_string(buf, result.sent->id,
									   result.sent->id_len);
		else
			appendStringInfoString(buf, "null");
		appendStringInfo(buf, ",\"outcome\":\"%s\"",
						 docsync_rule_name(result.outcome));
		if (result.exists)
		{
			appendStringInfo(buf, ",\"clientVersion\":" INT64_FORMAT ",\"LastUpdateUtc\":",
							 result.client_version);
			docsync_json_append_stamp(buf, result.last_update_utc);
		}
		else
			appendStringInfoString(buf, ",\"clientVersion\":null,\"LastUpdateUtc\":null");
		appendStringInfoString(buf, ",\"winner\":");
		if (result.winner == NULL)
			appendStringInfoString(buf, "null");
		else
			docsync_json_append_jsonb(buf, result.winner);
		if (result.winner_omitted)
			appendStringInfoString(buf, ",\"winnerOmitted\":true");
		if (result.refusal != NULL)
		{
			appendStringInfoString(buf, ",\"error\":");
			docsync_refuse_append(buf, result.refusal);
		}
		appendStringInfoChar(buf, '}');
	}
	appendStringInfoChar(buf, ']');
}

/*
 * Begins the array of documents, which the download then fills, until it has
 * max_size bytes or more.  The caller ends it.
 */
void
docsync_sync_begin_documents(Sync *sync, StringInfo buf, int max_size)
{
	sync->buf = buf;
	sync->max_len = (int64) buf->len + max_size;
	sync->count = 0;
	sync->download.put = put_document;
	sync->download.arg = sync;
	appendStringInfoChar(buf, '[');
}

/* Download's put: appends a document; false if that fills the array. */
static bool
put_document(const StoredDocument *stored, void *arg)
{
	Sync	   *sync = (Sync *) arg;

	if (sync->count++ > 0)
		appendStringInfoChar(sync->buf, ',');
	docsync_json_append_document(sync->buf, stored);

	return sync->buf->len < sync->max_len;
}
