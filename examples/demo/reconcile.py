"""reconcile.py - compares what client and service hold, and repairs what differs.

A client may have missed something (it was away for longer than tombstones are kept), or have what the service has lost (it was
restored to an earlier time, or a lagging standby took over). Rules of the form "lost after stamp S" fail here: commits don't
happen in the order of stamps. So the client compares: it asks which documents the service has, in the buckets whose sums
differ, and `judge` decides for each id on either side.

What the service has lost is *marked*: to be sent again, though nobody edited it. A mark isn't an edit. It says what the service
had when it was made (baseVersion), and is applied only if the service still has that; what is downloaded replaces it, unless
that is older. """

from store import EDIT, MARK

# What becomes of an id
NOTHING, KEEP, SEND, REMOVE, FETCH = 'nothing', 'keep', 'send', 'remove', 'fetch'


def judge(local, row, lost_after, purged_through):
    """local: the client's document or None; row: the service's row or None; lost_after, purged_through: stamps or None."""
    if local is None:
        # A tombstone of what was never here doesn't matter.
        return NOTHING if row['deleted'] else FETCH
    if local.unsent == EDIT:
        return KEEP         # whatever the service has: that is what the edit is now based on
    if row is None and local.unsent:
        return KEEP         # a marked document is known to be lost; a purge since then proves nothing about it
    if row is None:
        return SEND if is_lost(local.lastUpdateUtc, lost_after, purged_through) else REMOVE
    theirs, ours = row['clientVersion'], local.clientVersion
    if ours > theirs:
        return SEND
    if ours == theirs == 0 and is_later(local, row):
        return SEND
    if ours == theirs and local.lastUpdateUtc == row['LastUpdateUtc'] and not local.unsent:
        return NOTHING
    return FETCH


def is_later(local, told):
    """Version 0 can be replaced by another version 0, so there only the stamps tell which is newer."""
    return local.lastUpdateUtc is not None and local.lastUpdateUtc > told['LastUpdateUtc']


def is_lost(utc, lost_after, purged_through):
    """Whether a document that the service doesn't have was lost there. Otherwise it was deleted, and the tombstone was purged:
    then its stamp was at or below the horizon, and it isn't one that may have been lost. In doubt the document is kept."""
    return utc is None or purged_through is None or utc > earlier(purged_through, lost_after)


def earlier(one, other):
    """The earlier of two stamps, None being later than all. "-infinity" is before any other, even as text."""
    return one if other is None else other if one is None else min(one, other)


class Stale(Exception):
    """The server lags behind the cursor, or the cursor has become void: the next sync continues."""


class Reconciler:
    """One comparison by listing."""

    ROWS, DOCUMENTS = 10_000, 1000      # in an answer

    def __init__(self, client):
        self.client, self.store, self.transport = client, client.store, client.transport

    def run(self, buckets):
        reached, more = None, True
        while more:
            answer = self.client.ask(self.transport.reconcile, buckets, reached, self.ROWS)
            more = answer['more']
            upto = answer['after'] if more else None
            with self.store.transaction():
                for row in answer['rows']:
                    self.client.look_for_twin(row)
                to_fetch = self._apply(answer, self._local(buckets, reached, upto))
            self.fetch(to_fetch)
            reached = upto

    def _local(self, buckets, after, upto):
        """The store's documents in the part of the list that a page covers. SQLite compares texts by bytes, as the list is
        ordered."""
        condition, values = f'bucket IN ({", ".join(str(int(bucket)) for bucket in buckets)})', []
        if after is not None:
            condition, values = condition + ' AND id > ?', [after]
        if upto is not None:
            condition, values = condition + ' AND id <= ?', values + [upto]
        return {document.id: document for document in self.store.select(condition, *values)}

    def _apply(self, answer, local):
        """Compares with the store as it is now, in this transaction. Returns the ids to be fetched."""
        rows = {row['id']: row for row in answer['rows']}
        lost_after, to_fetch = self.store.state()['lostAfter'], []
        for id in sorted(rows.keys() | local.keys()):
            # Looked up separately if it isn't in the page's part, whose end is the last id that the service looked at
            document, row = local.get(id) or self.store.find(id), rows.get(id)
            what = judge(document, row, lost_after, answer['purgedThrough'])
            if what == FETCH and not row['deleted']:
                to_fetch.append(id)
            elif what == FETCH:
                self.client.take({**row, 'body': None}, listed=True)    # a tombstone: it is complete
            elif what == REMOVE:
                self.store.remove(document)
            elif what in (KEEP, SEND):
                document.unsent = MARK if what == SEND else document.unsent
                document.rebase(row)
                self.store.save(document)
        return to_fetch

    def fetch(self, ids):
        """Fetches complete documents and takes them over, each answer in one transaction."""
        while ids:
            answer = self.client.ask(self.transport.get, ids[:self.DOCUMENTS])
            documents = answer['documents']
            with self.store.transaction():
                for document in documents:
                    self.client.look_for_twin(document)
                    self.client.take(document, listed=True)
            if answer['more'] and documents:    # the answer was full: continue after the last document in it
                ids = ids[ids.index(documents[-1]['id']) + 1:]
            else:
                ids = ids[self.DOCUMENTS:]           # those missing are gone again, or we may not see them
