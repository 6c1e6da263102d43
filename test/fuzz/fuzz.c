/*-------------------------------------------------------------------------
 *
 * fuzz.c
 *	  libFuzzer in a backend, for the functions that read what clients send.
 *
 * It runs in a server, since docsync's readers are compared with PostgreSQL's
 * own functions: jsonb_in(), numeric, the output of jsonb.  The library is
 * all of docsync, compiled by clang with coverage and checks for undefined
 * behaviour, and this file; it isn't an extension, and there is no store.  See
 * run.
 *
 * ASAN can't be used: the server hangs in it before main().  Instead, the
 * input ends at the end of a page that is followed by an inaccessible one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/mman.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "../../src/docsync.h"

PG_FUNCTION_INFO_V1(docsync_fuzz);

typedef void (*Target) (const char *data, int len);

typedef int (*UserCallback) (const uint8 *data, size_t size);
extern int	LLVMFuzzerRunDriver(int *argc, char ***argv,
								UserCallback callback);

/* An assertion; libFuzzer notices the abort. */
#define HOLDS(condition) \
	do { if (!(condition)) { fprintf(stderr, "doesn't hold: %s (line %d)\n", #condition, __LINE__); abort(); } } while (0)

static void fuzz_batch(const char *data, int len);
static void fuzz_request(const char *data, int len);
static bool is_json(const char *data, int len);
static char *as_text(const char *data, int len);
static void fuzz_query(const char *data, int len);
static void fuzz_cursor(const char *data, int len);
static void fuzz_time(const char *data, int len);
static int	call(const uint8 *data, size_t size);
static Batch *read_batch(const char *data, int len);
static Batch *parse_batch(const char *data, int len);
static void compare_documents(const SentDocument *read,
							  const SentDocument *parsed);
static void check_body(const SentDocument *sent);
static void compare_bodies(const Batch *batch);

#define INPUT_LEN	(64 * 1024)

static Target target;
static MemoryContext scratch;
static char *input_end;			/* memory after it can't be read */

/*
 * docsync_fuzz(target text, arguments text[]) RETURNS void
 *
 * Ends the process when a case fails or the time is over.
 */
Datum
docsync_fuzz(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(1);
	Datum	   *arguments;
	int			argc;
	char	  **argv;

	target = strcmp(name, "batch") == 0 ? fuzz_batch :
		strcmp(name, "request") == 0 ? fuzz_request :
		strcmp(name, "query") == 0 ? fuzz_query :
		strcmp(name, "cursor") == 0 ? fuzz_cursor :
		strcmp(name, "time") == 0 ? fuzz_time : NULL;
	if (target == NULL)
		elog(ERROR, "no such target: %s", name);

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &arguments,
					  NULL, &argc);
	argv = palloc0(sizeof(char *) * (argc + 2));
	argv[0] = "fuzz";
	for (int i = 0; i < argc; i++)
		argv[i + 1] = TextDatumGetCString(arguments[i]);
	argc++;

	scratch = AllocSetContextCreate(TopMemoryContext, "fuzz",
									ALLOCSET_DEFAULT_SIZES);
	input_end = (char *) mmap(NULL, 2 * INPUT_LEN, PROT_READ | PROT_WRITE,
							  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + INPUT_LEN;
	if (mprotect(input_end, INPUT_LEN, PROT_NONE) != 0)
		elog(ERROR, "mprotect failed: %m");
	LLVMFuzzerRunDriver(&argc, &argv, call);
	PG_RETURN_VOID();
}

/*
 * One execution, in its own memory context.
 */
static int
call(const uint8 *data, size_t size)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(scratch);

	HOLDS(size <= INPUT_LEN);
	memcpy(input_end - size, data, size);
	target(input_end - size, (int) size);

	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(scratch);
	return 0;
}

/*
 * An array of documents: what docsync reads from the text is the same as what
 * it reads from the jsonb that jsonb_in() makes of it.
 */
static void
fuzz_batch(const char *data, int len)
{
	Batch	   *read = read_batch(data, len);
	Batch	   *parsed = parse_batch(data, len);
	bool		all_well = read != NULL;

	for (int i = 0; read != NULL && i < read->count; i++)
		all_well = all_well && read->documents[i].refusal == NULL;

	/* What docsync accepts without a refusal, PostgreSQL accepts. */
	HOLDS(!all_well || parsed != NULL);
	if (parsed == NULL)
		return;
	HOLDS(read != NULL);
	HOLDS(read->count == parsed->count);

	for (int i = 0; i < read->count; i++)
		compare_documents(&read->documents[i], &parsed->documents[i]);
	compare_bodies(read);
}

/* What docsync reads from a request's bytes; NULL if it refuses the request. */
static Batch *
read_batch(const char *data, int len)
{
	MemoryContext context = CurrentMemoryContext;
	Batch	   *volatile batch = NULL;

	PG_TRY();
	{
		JsonReader	reader;

		docsync_lexer_begin(&reader, data, len, false);
		batch = docsync_batch_read(&reader, 0);
		docsync_reader_end(&reader);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
		batch = NULL;
	}
	PG_END_TRY();
	return batch;
}

/*
 * What docsync reads from the jsonb that the server makes; NULL if either
 * fails.
 */
static Batch *
parse_batch(const char *data, int len)
{
	MemoryContext context = CurrentMemoryContext;
	Batch	   *volatile batch = NULL;

	PG_TRY();
	{
		JsonbValue	value;

		pg_verify_mbstr(PG_UTF8, data, len, false);
		JsonbToJsonbValue(DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
															 CStringGetDatum(as_text(data, len)))),
						  &value);
		batch = docsync_batch_parse(&value, false);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
		batch = NULL;
	}
	PG_END_TRY();
	return batch;
}

/*
 * If a key comes twice, jsonb has only the last value; limits also apply to
 * the first.
 */
static void
compare_documents(const SentDocument *read, const SentDocument *parsed)
{
	Jsonb	   *body;

	HOLDS(read->ordinal == parsed->ordinal);
	if (parsed->refusal != NULL)
		HOLDS(read->refusal != NULL || parsed->refusal->sqlstate == ERRCODE_PROGRAM_LIMIT_EXCEEDED);
	if (read->refusal != NULL && parsed->refusal == NULL)
		HOLDS(strstr(read->refusal->message, "number too long") != NULL ||
			  strstr(read->refusal->message, "nested too deeply") != NULL ||
			  strstr(read->refusal->message, "too large") != NULL ||
			  strstr(read->refusal->message, "too long") != NULL);
	if (read->refusal != NULL || parsed->refusal != NULL)
		return;

	HOLDS(docsync_text_compare(read->id, read->id_len, parsed->id,
									parsed->id_len) == 0);
	HOLDS(read->client_version == parsed->client_version);
	HOLDS(read->deleted == parsed->deleted);
	HOLDS(read->has_body == parsed->has_body);
	HOLDS(read->has_base == parsed->has_base &&
		  read->base_exists == parsed->base_exists &&
		  read->base_version == parsed->base_version);
	HOLDS(read->has_base_utc == parsed->has_base_utc &&
		  read->base_utc == parsed->base_utc);
	if (!read->has_body)
		return;

	body = docsync_body_make(parsed);
	HOLDS(docsync_compare_is_same_body(read, body));
	HOLDS(docsync_compare_is_same_body(parsed, docsync_body_make(read)));
	HOLDS(VARSIZE(body) == VARSIZE(docsync_body_make(read)) &&
		  memcmp(body, docsync_body_make(read), VARSIZE(body)) == 0);
	check_body(parsed);
}

/*
 * A body is written as the server writes it, its size is measured in that
 * form, and reading it again gives the same body.
 */
static void
check_body(const SentDocument *sent)
{
	Jsonb	   *body = docsync_body_make(sent);
	char	   *written = JsonbToCString(NULL, &body->root, VARSIZE(body));
	StringInfoData buf;
	int			limit = docsync_max_document_size;
	JsonbValue	value;

	initStringInfo(&buf);
	docsync_json_append_jsonb(&buf, body);
	HOLDS(buf.len == (int) strlen(written) &&
		  memcmp(buf.data, written, buf.len) == 0);
	HOLDS(docsync_compare_is_same(buf.data, buf.len, body));

	JsonbToJsonbValue(body, &value);
	docsync_max_document_size = buf.len;
	HOLDS(docsync_body_check(&value) == BODY_FINE);
	docsync_max_document_size = buf.len - 1;
	HOLDS(docsync_body_check(&value) == BODY_TOO_LARGE);
	docsync_max_document_size = limit;
}

/*
 * Bodies that are found to be the same without making a jsonb are the same.
 */
static void
compare_bodies(const Batch *batch)
{
	for (int i = 0; i < Min(batch->count, 4); i++)
	{
		const SentDocument *one = &batch->documents[i];

		for (int j = 0; j < Min(batch->count, 4); j++)
		{
			const SentDocument *other = &batch->documents[j];

			if (i != j && one->refusal == NULL && other->refusal == NULL &&
				one->has_body && other->has_body)
			{
				Jsonb	   *body = docsync_body_make(other);

				HOLDS(!docsync_compare_is_same(one->json, one->json_len, body) ||
					  compareJsonbContainers(&docsync_body_make(one)->root, &body->root) == 0);
			}
		}
	}
}

/*
 * The body of a request: what is accepted is valid JSON to jsonb_in(), too,
 * unless a document is refused.
 */
static void
fuzz_request(const char *data, int len)
{
	static const char *const keys[] = {
		"clientId", "documents", "cursor", "collection", "origin",
		"maxDocuments", "reconcile", "state", "tombstones", "atomic", "ids",
		"buckets", "after", NULL
	};
	LOCAL_FCINFO(fcinfo, 1);
	MemoryContext context = CurrentMemoryContext;
	bytea	   *body = palloc(VARHDRSZ + len);
	Request		request = {.max_documents = -1};
	volatile bool is_taken = false;

	SET_VARSIZE(body, VARHDRSZ + len);
	memcpy(VARDATA(body), data, len);
	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = PointerGetDatum(body);
	fcinfo->args[0].isnull = false;

	PG_TRY();
	{
		docsync_argument_read(fcinfo, &request, keys);
		is_taken = true;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	if (!is_taken)
		return;

	HOLDS(request.max_documents == -1 || request.max_documents > 0);
	HOLDS(request.nids == 0 || request.ids != NULL);
	for (int i = 0; request.documents != NULL && i < request.documents->count; i++)
	{
		if (request.documents->documents[i].refusal != NULL)
			return;
	}
	HOLDS(is_json(data, len));
}

/* Does the server accept it as JSON? */
static bool
is_json(const char *data, int len)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool result = false;

	PG_TRY();
	{
		DirectFunctionCall1(jsonb_in, CStringGetDatum(as_text(data, len)));
		result = true;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	return result;
}

/*
 * The text of a request for PostgreSQL, which doesn't accept a byte order
 * mark.
 */
static char *
as_text(const char *data, int len)
{
	int			skip = len >= 3 && memcmp(data, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;

	return pnstrdup(data + skip, len - skip);
}

/*
 * A query string: what is accepted is valid text.
 */
static void
fuzz_query(const char *data, int len)
{
	static const char *const keys[] = {
		"clientId", "collection", "cursor", "origin", "sinceUtc",
		"maxDocuments", "reconcile", "state", "tombstones", "atomic", NULL
	};
	MemoryContext context = CurrentMemoryContext;
	StringInfoData headers;
	Request		request = {.max_documents = -1};

	/* A proxy passes on only valid UTF-8. */
	if (!pg_verify_mbstr(PG_UTF8, data, len, true))
		return;
	initStringInfo(&headers);
	appendStringInfoString(&headers, "{\"x-query-string\":");
	docsync_json_append_string(&headers, data, len);
	appendStringInfoChar(&headers, '}');
	SetConfigOption("request.headers", headers.data, PGC_USERSET, PGC_S_SESSION);

	PG_TRY();
	{
		text	   *values[5];

		docsync_url_read(&request, keys);
		values[0] = request.client_id;
		values[1] = request.collection;
		values[2] = request.cursor;
		values[3] = request.origin;
		values[4] = request.since_utc;

		for (size_t i = 0; i < lengthof(values); i++)
			HOLDS(values[i] == NULL ||
				  (VARSIZE_ANY_EXHDR(values[i]) > 0 &&
				   pg_verify_mbstr(PG_UTF8, VARDATA_ANY(values[i]),
								   VARSIZE_ANY_EXHDR(values[i]), true)));
		HOLDS(request.max_documents == -1 || request.max_documents > 0);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
}

/*
 * A cursor that is accepted can be written and read again, with the same
 * epoch and stamp.
 */
static void
fuzz_cursor(const char *data, int len)
{
	char	   *text = pnstrdup(data, len);
	char		buf[DOCSYNC_CURSOR_LEN];
	Position	position;
	Position	again;

	if (!docsync_cursor_parse(text, &position))
		return;
	HOLDS(docsync_cursor_format(&position, buf) < DOCSYNC_CURSOR_LEN);
	HOLDS(docsync_cursor_parse(buf, &again));
	HOLDS(again.epoch == position.epoch && again.stamp == position.stamp);
}

/*
 * A time that is accepted is finite, and is the same after it has been written
 * and read again.
 */
static void
fuzz_time(const char *data, int len)
{
	char		stamp[DOCSYNC_STAMP_LEN];
	TimestampTz time;
	TimestampTz again;

	if (!docsync_utc_parse(pnstrdup(data, len), &time))
		return;
	HOLDS(!TIMESTAMP_NOT_FINITE(time));
	docsync_utc_format(time, stamp);
	HOLDS(docsync_utc_parse(stamp, &again));
	HOLDS(again == time);
}
