/*-------------------------------------------------------------------------
 *
 * rule.c
 *	  The clientVersion rule: which of two documents is newer.
 *
 *	  service has					sent					outcome
 *	  nothing						any clientVersion		created
 *	  lower clientVersion			higher					updated
 *	  the same, same client			the same content		unchanged
 *	  clientVersion 0				clientVersion 0, else	updated
 *	  the same, not 0				else					discarded
 *	  higher						lower					discarded
 *
 * The ON CONFLICT ... WHERE of store.c decides the same once more, on the row
 * as it is when it has been locked.  Whoever changes one changes the other.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "docsync.h"

static bool
same_body(Jsonb *held, const SentDocument *sent)
{
	JsonbContainer *container;
	int			len;

	if (held == NULL || !sent->has_body)
		return held == NULL && !sent->has_body;

	if (sent->body.type == jbvBinary)
	{
		container = sent->body.val.binary.data;
		len = sent->body.val.binary.len;
	}
	else
	{
		Jsonb	   *body = docsync_batch_body(sent);

		container = &body->root;
		len = VARSIZE(body) - VARHDRSZ;
	}

	/* Unchanged bytes are the common case; numbers may differ in scale. */
	if (len == (int) VARSIZE(held) - VARHDRSZ &&
		memcmp(&held->root, container, len) == 0)
		return true;

	return compareJsonbContainers(&held->root, container) == 0;
}

RuleOutcome
docsync_rule_decide(const RuleHeld *held, const SentDocument *sent)
{
	if (!held->exists)
		return RULE_CREATED;
	if (held->client_version < sent->client_version)
		return RULE_UPDATED;
	if (held->client_version > sent->client_version)
		return RULE_DISCARDED;

	/* A retry after a lost answer must not look like an edit. */
	if (held->same_client && held->deleted == sent->deleted &&
		same_body(held->body, sent))
		return RULE_UNCHANGED;

	return sent->client_version == 0 ? RULE_UPDATED : RULE_DISCARDED;
}

const char *
docsync_rule_name(RuleOutcome outcome)
{
	switch (outcome)
	{
		case RULE_CREATED:
			return "created";
		case RULE_UPDATED:
			return "updated";
		case RULE_UNCHANGED:
			return "unchanged";
		case RULE_DISCARDED:
			return "discarded";
	}
	elog(ERROR, "unrecognized outcome: %d", (int) outcome);
}
