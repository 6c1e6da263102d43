/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  An upload's documents, grouped by id, and the order of ids.
 *
 * Pure: no table, no lock.  Bad documents are refused before anything is
 * stored or stamped (document.c).  The documents point into what they were
 * read from, which must outlive them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "docsync.h"

/* A refusal of the whole batch names no place. */
static const RefusePlace whole = {.offset = -1};

static Batch *begin(int collection);
static SentDocument *add(Batch *batch, int before);
static Batch *finish(Batch *batch);
static int	compare_documents(const void *a, const void *b);
pg_noreturn static void refuse_array(const Batch *batch, JsonTokenType type);

/*
 * Reads a batch out of a request, in the current memory context.  Refusals of
 * documents are only noted here: whether the batch is atomic may come later in
 * the request.
 *
 * before is the number of documents in other batches of the request, which
 * count towards the limit, too.
 */
Batch *
docsync_batch_read(JsonReader *reader, int before)
{
	Batch	   *batch = begin(reader->place.collection);
	int64		max_version = docsync_batch_max_version();
	RefusePlace place;

	if (docsync_reader_type(reader) != JSON_TOKEN_ARRAY_START)
		refuse_array(batch, docsync_reader_type(reader));

	place = reader->place;
	reader->place.key = NULL;
	reader->place.document = 1;
	if (docsync_reader_enter(reader))
	{
		do
		{
			docsync_document_read(batch, add(batch, before), reader,
								  max_version);
			reader->place.document++;
			reader->is_refused = false;
		} while (docsync_reader_go_on(reader, false));
	}
	reader->place = place;
	return finish(batch);
}

/*
 * The same from jsonb.  If the batch is atomic, the first document that is
 * refused is an error.
 */
Batch *
docsync_batch_parse(const JsonbValue *documents, bool atomic)
{
	Batch	   *batch = begin(0);
	int64		max_version = docsync_batch_max_version();
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;

	if (documents->type == jbvBinary &&
		JsonbExtractScalar(documents->val.binary.data, &value))
		documents = &value;
	if (documents->type != jbvBinary ||
		!JsonContainerIsArray(documents->val.binary.data))
		refuse_array(batch, docsync_value_type_of_jsonb(documents));

	batch->atomic = atomic;
	it = JsonbIteratorInit(documents->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_ELEM)
			docsync_document_parse(batch, add(batch, 0), &value, max_version);
	}
	return finish(batch);
}

/*
 * Makes a batch atomic, and returns the first refusal of one of its documents,
 * for which it must be refused; NULL if there is none.
 */
const Refusal *
docsync_batch_make_atomic(Batch *batch)
{
	batch->atomic = true;
	for (int i = 0; i < batch->count; i++)
	{
		if (batch->documents[i].refusal != NULL)
			return batch->documents[i].refusal;
	}
	return NULL;
}

/* Returns an empty batch.  It can be used once finish() has grouped it. */
static Batch *
begin(int collection)
{
	Batch	   *batch = palloc0(sizeof(Batch));

	batch->collection = collection;
	batch->size = 16;
	batch->documents = palloc(sizeof(SentDocument) * batch->size);
	return batch;
}

/*
 * Makes room for another document, which gets its ordinal.
 */
static SentDocument *
add(Batch *batch, int before)
{
	SentDocument *sent;

	CHECK_FOR_INTERRUPTS();

	if (before + batch->count >= docsync_max_batch)
		docsync_refuse_raise(docsync_refuse_describe(&whole, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
													 "too many documents",
													 psprintf("The batch has more documents than docsync.max_batch, %d.",
															  docsync_max_batch),
													 "Send several smaller batches."));
	if (batch->count == batch->size)
	{
		batch->size *= 2;
		batch->documents = repalloc_huge(batch->documents,
										 sizeof(SentDocument) * batch->size);
	}

	sent = &batch->documents[batch->count++];
	memset(sent, 0, sizeof(*sent));
	sent->collection = batch->collection;
	sent->ordinal = batch->count;
	return sent;
}

/*
 * Groups the documents by id, leaving out those that are refused.
 */
static Batch *
finish(Batch *batch)
{
	SentDocument **sorted = palloc(sizeof(SentDocument *) * batch->count);
	BatchGroup *group = NULL;
	int			count = 0;

	batch->groups = palloc0(sizeof(BatchGroup) * batch->count);
	batch->group_of = palloc(sizeof(int) * batch->count);
	batch->ngroups = 0;
	batch->next = 0;

	for (int i = 0; i < batch->count; i++)
	{
		batch->group_of[i] = -1;
		if (batch->documents[i].refusal == NULL)
			sorted[count++] = &batch->documents[i];
	}
	qsort(sorted, count, sizeof(SentDocument *), compare_documents);

	for (int i = 0; i < count; i++)
	{
		SentDocument *sent = sorted[i];

		if (group == NULL ||
			docsync_text_compare(group->documents[0]->id,
								 group->documents[0]->id_len,
								 sent->id, sent->id_len) != 0)
		{
			group = &batch->groups[batch->ngroups++];
			group->documents = &sorted[i];
		}
		group->count++;
		batch->group_of[sent->ordinal - 1] = group - batch->groups;
	}

	return batch;
}

/* For qsort: by id, then in the order sent */
static int
compare_documents(const void *a, const void *b)
{
	const SentDocument *first = *(SentDocument *const *) a;
	const SentDocument *second = *(SentDocument *const *) b;
	int			cmp;

	cmp = docsync_text_compare(first->id, first->id_len,
							   second->id, second->id_len);

	return cmp != 0 ? cmp : first->ordinal - second->ordinal;
}

/*
 * Returns the highest clientVersion that is accepted now.
 */
int64
docsync_batch_max_version(void)
{
	if (docsync_max_version_lead < 0)
		return PG_INT64_MAX;
	return docsync_max_version_lead +
		(GetCurrentTimestamp() - SetEpochTimestamp()) / 1000;
}

/* Refuses a batch that is a value of the given type instead of an array. */
static void
refuse_array(const Batch *batch, JsonTokenType type)
{
	RefusePlace place = {.collection = batch->collection,.offset = -1};

	docsync_refuse_raise(docsync_refuse_describe(&place, ERRCODE_INVALID_PARAMETER_VALUE,
												 "documents is not an array",
												 psprintf("It is %s.", docsync_value_name(type)),
												 "Send an array of documents, even for one document."));
}

/*
 * The index of the group that has the id, which must exist.
 */
int
docsync_batch_find(Batch *batch, const text *id)
{
	int			low = 0;
	int			high = batch->ngroups - 1;
	int			middle = batch->next;	/* rows come in the order of ids */

	while (low <= high)
	{
		SentDocument *sent = batch->groups[middle].documents[0];
		int			cmp;

		cmp = docsync_text_compare(VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id),
								   sent->id, sent->id_len);
		if (cmp == 0)
		{
			batch->next = (middle + 1) % batch->ngroups;
			return middle;
		}
		if (cmp < 0)
			high = middle - 1;
		else
			low = middle + 1;
		middle = (low + high) / 2;
	}
	elog(ERROR, "document was not asked for");
}

/*
 * The id of a group, as a text.
 */
Datum
docsync_batch_id(const BatchGroup *group)
{
	return PointerGetDatum(cstring_to_text_with_len(group->documents[0]->id,
													group->documents[0]->id_len));
}
