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
 * A document may say what it is based on (baseVersion: the service must have
 * exactly this version, or nothing).  Then it wins only if that is so as well;
 * otherwise it is in conflict.  A client that has compared what it has with
 * the store sends its documents like this, perhaps thousands of them: then the
 * same version with the same content is unchanged, whoever sent it first.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "docsync.h"

/* Do both have the same body, or both none? */
static bool
same_body(const RuleHeld *held, const SentDocument *sent)
{
	Jsonb	   *body;
	bool		same;

	if (held->has_body != sent->has_body)
		return false;
	if (!held->has_body)
		return true;
	if (held->sent == NULL)
		return docsync_compare_is_same_body(sent, held->body);

	body = docsync_body_make(held->sent);
	same = docsync_compare_is_same_body(sent, JsonbPGetDatum(body));
	pfree(body);
	return same;
}

/*
 * Does the service have exactly what was sent, whoever sent it?
 */
bool
docsync_rule_is_same(const RuleHeld *held, const SentDocument *sent)
{
	return held->exists && held->client_version == sent->client_version &&
		held->deleted == sent->deleted && same_body(held, sent);
}

/*
 * Does the service have it already?  If another client has sent it, that
 * counts only for a document that says what it is based on.
 */
static bool
is_retry(const RuleHeld *held, const SentDocument *sent)
{
	return (held->same_client || sent->has_base) &&
		docsync_rule_is_same(held, sent);
}

/* Does the service have what the document is based on? */
static bool
is_base(const RuleHeld *held, const SentDocument *sent)
{
	return held->exists == sent->base_exists &&
		(!held->exists ||
		 (held->client_version == sent->base_version &&
		  (!sent->has_base_utc || held->last_update_utc == sent->base_utc)));
}

/*
 * Decides what becomes of a document: the table above.  Looks at bodies only
 * where the versions are the same.
 */
RuleOutcome
docsync_rule_decide(const RuleHeld *held, const SentDocument *sent)
{
	if (sent->has_base && !is_base(held, sent))
		return is_retry(held, sent) ? RULE_UNCHANGED : RULE_CONFLICT;

	if (!held->exists)
		return RULE_CREATED;
	if (held->client_version < sent->client_version)
		return RULE_UPDATED;
	if (held->client_version > sent->client_version)
		return RULE_DISCARDED;

	/* A retry after a lost answer must not look like an edit. */
	if (is_retry(held, sent))
		return RULE_UNCHANGED;

	return sent->client_version == 0 ? RULE_UPDATED : RULE_DISCARDED;
}

/*
 * Does the service have something other than what was sent, which the client
 * is given?
 */
bool
docsync_rule_has_winner(RuleOutcome outcome)
{
	return outcome == RULE_DISCARDED || outcome == RULE_CONFLICT ||
		outcome == RULE_MODIFIED;
}

/* How SQL and HTTP name an outcome */
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
		case RULE_CONFLICT:
			return "conflict";
		case RULE_MODIFIED:
			return "modified";
		case RULE_REFUSED:
			return "refused";
		case RULE_UNTRIED:
			return "untried";
	}
	elog(ERROR, "unrecognized outcome: %d", (int) outcome);
}
