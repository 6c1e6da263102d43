/*-------------------------------------------------------------------------
 *
 * collections.c
 *	  A sync of several collections in one request.
 *
 * One transaction: first all uploads, then all downloads, under one snapshot.
 * An error that concerns one collection becomes that collection's answer:
 * nothing of it is applied, and the others carry on.  Such errors are: a bad
 * argument (its cursor, its name), a position that its client can't resume
 * from, and documents refused by us or by the database, as far as such an
 * error may be passed over (refuse.c).  Any other error ends the request.
 *
 * Locks: collections are uploaded in the order of their names, as bytes, and
 * each upload locks its rows in the order of ids.  Uploads to a single
 * collection do the same, so no two requests ever deadlock.
 *
 * The page is the whole answer.  Each collection has a share of its documents
 * and bytes, and in any case one document, so that every collection makes
 * progress.  What is left then goes to those that have more.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/timestamp.h"

#include "docsync.h"

/* One of the collections */
typedef struct Part
{
	int			place;			/* in the request, from 1 */
	Request		request;
	Sync		sync;
	const Refusal *refusal;		/* NULL: none; otherwise it is the whole
								 * answer */
	StringInfoData documents;
} Part;

typedef struct Parts
{
	Part	   *parts;			/* in the order asked for */
	Part	  **by_name;
	int			count;
} Parts;

/* What is left of the page, and the share of each collection that has more */
typedef struct Room
{
	int			documents;
	int			share;
	int			size;			/* bytes */
	int			share_size;
	int			waiting;		/* collections that have more */
} Room;

static void refuse_outside(const Request *request);
static void check_whole(const Request *request);
static void make_parts(Parts *parts, const Request *request);
static int	compare_names(const void *a, const void *b);
static void check_all(Parts *parts);
static void check_one(int from, int to, int steps, void *arg);
static void judge_all(Parts *parts, StoreUse use);
static void upload_all(Parts *parts, const Request *request);
static void download_all(Parts *parts, const Request *request);
static void download_share(Part *part, Room *room);
static bool has_download(const Part *part);
static void append_part(StringInfo buf, Part *part);
static void add_exchange(Exchange *exchange, const Part *part);

/*
 * Answers {"collections": [{"collection", and what a sync of it alone would
 * answer, or "error"}], "serverUtc"}.
 */
Datum
docsync_collections_run(Request *request)
{
	StringInfoData buf;
	Parts		parts;
	Exchange	exchange = {0};
	bool		uploads = false;

	refuse_outside(request);
	docsync_request_resolve(request);
	check_whole(request);
	make_parts(&parts, request);
	check_all(&parts);
	for (int i = 0; i < parts.count; i++)
		uploads = uploads || parts.parts[i].request.documents != NULL;

	docsync_sync_prepare(request);
	if (uploads)
	{
		/* Before one of the uploads advances the clock */
		judge_all(&parts, STORE_WRITE);
		docsync_query_end();
		for (int i = 0; i < parts.count; i++)
			docsync_sync_keep_before(&parts.parts[i].sync);
		upload_all(&parts, request);
		CommandCounterIncrement();
	}

	docsync_answer_begin(&buf);
	appendStringInfoString(&buf, "{\"collections\":[");
	judge_all(&parts, STORE_READ);
	download_all(&parts, request);
	for (int i = 0; i < parts.count; i++)
	{
		if (i > 0)
			appendStringInfoChar(&buf, ',');
		append_part(&buf, &parts.parts[i]);
		add_exchange(&exchange, &parts.parts[i]);
	}
	docsync_query_end();

	appendStringInfoString(&buf, "],\"serverUtc\":");
	docsync_json_append_stamp(&buf, GetCurrentTimestamp());
	appendStringInfoChar(&buf, '}');
	return docsync_answer_end(&buf, NULL, &exchange);
}

/*
 * Refuses keys that belong within each collection when given for all.
 */
static void
refuse_outside(const Request *request)
{
	const char *key = request->collection != NULL ? "collection" :
	request->cursor != NULL ? "cursor" :
	request->documents != NULL ? "documents" :
	request->state != NULL ? "state" : NULL;
	RefusePlace place = {.key = key,.offset = -1};

	if (key != NULL)
		docsync_refuse_raise(docsync_refuse_describe(&place, ERRCODE_INVALID_PARAMETER_VALUE,
													 "not beside \"collections\"", NULL,
													 "Give it within each element of \"collections\"."));
}

/*
 * Checks the client and the origin, which are the same for all.
 */
static void
check_whole(const Request *request)
{
	if (docsync_query_parse_origin(request->origin) != ORIGIN_ANY)
		docsync_request_need_client_id(request);
	docsync_request_check_claim(request->client_id);
	for (int i = 0; i < request->ncollections; i++)
	{
		if (request->collections[i].documents != NULL)
			docsync_request_need_client_id(request);
	}
}

/*
 * Makes a request for each collection, which must not occur twice.
 */
static void
make_parts(Parts *parts, const Request *request)
{
	parts->count = request->ncollections;
	parts->parts = palloc0(sizeof(Part) * parts->count);
	parts->by_name = palloc(sizeof(Part *) * parts->count);
	for (int i = 0; i < parts->count; i++)
	{
		const Request *asked = &request->collections[i];
		Part	   *part = &parts->parts[i];

		part->place = i + 1;
		part->request = *request;
		part->request.collections = NULL;
		if (asked->collection != NULL)
			part->request.collection = asked->collection;
		part->request.cursor = asked->cursor;
		part->request.state = asked->state;
		part->request.documents = asked->documents;
		part->sync.request = &part->request;
		parts->by_name[i] = part;
	}

	qsort(parts->by_name, parts->count, sizeof(Part *), compare_names);
	for (int i = 1; i < parts->count; i++)
	{
		const Part *part = parts->by_name[i];
		RefusePlace place = {.collection = part->place,.offset = -1};

		if (docsync_text_is_same(part->request.collection,
								 parts->by_name[i - 1]->request.collection))
			docsync_refuse_raise(docsync_refuse_describe(&place, ERRCODE_INVALID_PARAMETER_VALUE,
														 "occurs twice",
														 psprintf("Collection %d is the same.",
																  parts->by_name[i - 1]->place),
														 "Ask for each collection once."));
	}
}

/* For qsort: by name, as bytes, then in the order asked for */
static int
compare_names(const void *a, const void *b)
{
	const Part *first = *(Part *const *) a;
	const Part *second = *(Part *const *) b;
	const text *name = first->request.collection;
	const text *other = second->request.collection;
	int			cmp = docsync_text_compare(VARDATA_ANY(name),
										   VARSIZE_ANY_EXHDR(name),
										   VARDATA_ANY(other),
										   VARSIZE_ANY_EXHDR(other));

	return cmp != 0 ? cmp : first->place - second->place;
}

/*
 * Refuses collections with bad arguments.  The results for the others are in
 * their structs: what is allocated meanwhile is freed.
 */
static void
check_all(Parts *parts)
{
	Division	division = {.apply = check_one,.arg = parts};

	for (int i = 0; i < parts->count; i++)
	{
		ErrorData  *error = docsync_divide_try(&division, i, i + 1, DIVIDE_LOOK_UP);

		if (error != NULL)
			parts->parts[i].refusal = docsync_refuse_of_error(error);
	}
}

/* Division's apply: checks one collection, and fills in its download. */
static void
check_one(int from, int to, int steps, void *arg)
{
	Part	   *part = &((Parts *) arg)->parts[from];

	docsync_request_resolve(&part->request);
	docsync_sync_check(&part->sync);
}

/*
 * Takes the snapshot for all, and finds out where each resumes.
 * docsync_query_end() must follow.
 */
static void
judge_all(Parts *parts, StoreUse use)
{
	Download  **downloads = palloc(sizeof(Download *) * parts->count);
	int			count = 0;

	for (int i = 0; i < parts->count; i++)
	{
		if (parts->parts[i].refusal == NULL)
			downloads[count++] = &parts->parts[i].sync.download;
	}
	docsync_query_begin_all(downloads, count, use);
	if (count == 0)
		docsync_schema_check_caller(ACL_SELECT);

	for (int i = 0; i < parts->count; i++)
	{
		Part	   *part = &parts->parts[i];

		/*
		 * If tombstones were purged since its upload, the upload stays, and
		 * the client is told with the next request.  Spec collections-purged.
		 */
		if (part->refusal == NULL && part->sync.upload == NULL &&
			part->sync.download.refused != RESYNC_NONE)
			part->refusal = docsync_position_describe(part->sync.download.refused);
		if (has_download(part))
			docsync_sync_compare_before(&part->sync);
	}
}

/*
 * Runs the uploads, in the order in which everybody locks.
 */
static void
upload_all(Parts *parts, const Request *request)
{
	UploadSpent spent = {0};

	for (int i = 0; i < parts->count; i++)
	{
		Part	   *part = parts->by_name[i];

		if (part->refusal != NULL || part->request.documents == NULL)
			continue;
		part->sync.upload = docsync_upsert_apply_one(request->client_id,
													 part->request.collection,
													 part->request.documents,
													 !request->not_atomic, &spent);
		part->refusal = part->sync.upload->refusal;
	}
}

/*
 * Fills the page: in rounds, until it is full or no collection has more.  In
 * the first round each begins and has a share, at least one document; what
 * some don't need is shared among those that have more.
 */
static void
download_all(Parts *parts, const Request *request)
{
	Room		room = {
		.documents = request->max_documents < 0 ? PG_INT32_MAX :
		request->max_documents,
		.size = docsync_max_page_size
	};

	for (int i = 0; i < parts->count; i++)
		room.waiting += has_download(&parts->parts[i]);

	while (room.waiting > 0)
	{
		room.share = Max(room.documents / room.waiting, 1);
		room.share_size = Max(room.size / room.waiting, 0);
		room.waiting = 0;
		for (int i = 0; i < parts->count; i++)
		{
			Part	   *part = &parts->parts[i];

			if (has_download(part) &&
				(part->documents.data == NULL ||
				 (part->sync.download.more && room.documents > 0 && room.size > 0)))
				download_share(part, &room);
			room.waiting += has_download(part) && part->sync.download.more;
		}
		if (room.documents <= 0 || room.size <= 0)
			break;
	}
}

/*
 * Begins the download of a collection, or continues it.
 */
static void
download_share(Part *part, Room *room)
{
	Download   *download = &part->sync.download;
	int			count = download->count;
	int			len = part->documents.len;

	if (part->documents.data == NULL)
	{
		initStringInfo(&part->documents);
		download->max_documents = room->share;
		docsync_sync_begin_documents(&part->sync, &part->documents,
									 room->share_size);
		docsync_query_run(download);
	}
	else
	{
		part->sync.max_len = (int64) len + room->share_size;
		docsync_query_go_on(download, Min((int64) count + room->share, PG_INT32_MAX));
	}
	room->documents -= download->count - count;
	room->size -= part->documents.len - len;
}

/*
 * Are there documents to be given?  Not if the collection is refused, nor if
 * its client has to start over after an upload that stays.
 */
static bool
has_download(const Part *part)
{
	return part->refusal == NULL && part->sync.download.refused == RESYNC_NONE;
}

/*
 * Appends the answer for a collection.
 */
static void
append_part(StringInfo buf, Part *part)
{
	const text *name = part->request.collection;

	CHECK_FOR_INTERRUPTS();

	appendStringInfoString(buf, "{\"collection\":");
	docsync_json_append_string(buf, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
	appendStringInfoChar(buf, ',');
	if (part->refusal != NULL)
	{
		Refusal		refusal = *part->refusal;

		refusal.sqlstate = docsync_refuse_sqlstate(refusal.sqlstate);
		appendStringInfoString(buf, "\"error\":");
		docsync_refuse_append(buf, &refusal);
	}
	else
	{
		docsync_sync_append_upload(buf, part->sync.upload);
		appendStringInfoString(buf, ",\"documents\":");
		if (has_download(part))
		{
			appendBinaryStringInfo(buf, part->documents.data, part->documents.len);
			pfree(part->documents.data);
		}
		else
			appendStringInfoChar(buf, '[');
		appendStringInfoChar(buf, ']');
		docsync_sync_append_position(buf, &part->sync);
	}
	appendStringInfoChar(buf, '}');
}

/*
 * Adds a collection to what the request did.  If it was refused, only its
 * documents are counted, since its name may have any length.
 */
static void
add_exchange(Exchange *exchange, const Part *part)
{
	if (part->refusal == NULL)
		docsync_sync_add_exchange(exchange, &part->sync);
	else
	{
		int			count = part->request.documents != NULL ?
		part->request.documents->count : 0;

		exchange->collections++;
		exchange->received += count;
		exchange->outcomes[RULE_REFUSED] += count;
	}
}
