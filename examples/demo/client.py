"""client.py - a complete docsync client: a local store, upload, download, and repair of a store after whatever has happened to
it or to the service's.

The reference for how a client behaves, in whatever language. The ideas:

**Unsent edits are marked.** Versions alone can NOT tell which documents have yet to be sent, as `clientVersion >
lastUploadClientVersion` suggests: a downloaded document may have a higher clientVersion than lastUploadClientVersion, and would
be sent back; a local edit may get a lower one, once a document from a client whose clock is ahead was taken over, and would
never be sent. So each document has a mark, `unsent`, set by an edit and cleared by the acknowledgement or by a newer version
from the service, each time in the SQLite transaction that changes the document.

**Each answer is applied in one transaction**, with the cursor that came with it. If an answer is lost, the request is repeated
(the service answers `unchanged`); a page that was not stored is downloaded again.

**The client knows what the service last said about each document** (base: version and stamp), besides what it has itself, and
keeps a digest of that up to date. Comparing it with the service's takes one answer. If they differ, both are listed and judged,
document by document (reconcile.py). The client does so once a day, when the service tells it to, and when the store looks like
a copy. So nobody has to step in after a restore, a failover that lost something, or a year's absence.

**A clientId belongs to one store.** The client notes each version before sending it; a version under its own clientId that it
never sent comes from another store with the same clientId: one of two copies. Then it takes a new one and starts again with a
null cursor, keeping its documents.

**A refused document doesn't stop the others.** They are sent with atomic=false: each refused one is returned with its error and
set aside, see problems(), and sent again after its next edit. What the service didn't try, because too many others were
refused, is sent again. If the whole request is refused, because it is too large or the service doesn't know atomic, the batch
is halved until the document is found.

**A version that the service wouldn't accept loses**, if the service says which is the highest that it accepts (maxVersion): it
comes from a wrong clock, or nobody could edit the document any more until it was rebased there (docsync_rebase). An unsent edit
with such a version gets a new one.

**Bodies are texts** to the sync, see jsontext.py: one that a parser can't read doesn't stop it.

Upload and download each consist of two halves, making the request and handling the answer: client.py runs them one after the
other, several.py for several collections in one request.

Files: client.py (edits, upload, download), reconcile.py (the comparison), several.py (several collections at once), store.py
(SQLite), digest.py, jsontext.py; transports: transport_http.py, transport_sql.py.
"""

import collections
import dataclasses
import datetime
import json
import random
import time
import typing
import uuid

from digest import BUCKETS
from jsontext import BadAnswer, check_text, from_json, to_json
from reconcile import Reconciler, Stale, earlier, is_beyond, is_later
from store import EDIT, MARK, Document, Store

MIN_VERSION, MAX_VERSION = -2**63, 2**63 - 1
BEGINNING = MIN_VERSION, ''     # (clientVersion, id), before all
BATCH_BYTES = 4_000_000     # approximate size of the bodies in an upload: half of what a service accepts by default
UNKNOWN = 'unknown'         # a winner that couldn't be fetched: the document is sent again, which returns it
OUTCOMES = {'created', 'updated', 'unchanged', 'modified', 'discarded', 'conflict', 'refused', 'untried'}
MAX_REFUSED = 32            # approximate limit of refused documents in one upload()
KEEP_TOMBSTONES = datetime.timedelta(days=90)


def now_ms():
    return time.time_ns() // 1_000_000


class Refused(Exception):
    """The service's answer to a request that it didn't accept. status: HTTP's; code: SQLSTATE or PostgREST's code, '' if there
    is none, as when PostgREST lost its connection during the request; details: a dict, if the service gave one."""

    def __init__(self, status, code, message, details=None):
        super().__init__(f'{status} {code} {message}')
        self.status, self.code, self.message = status, code, message
        try:
            self.details = json.loads(details)
        except (TypeError, ValueError):
            self.details = None
        if not isinstance(self.details, dict):
            self.details = {}

    @property
    def retry(self):
        """Whether the same request may be accepted later; in that case it is unknown whether this one was."""
        return self.status >= 500 or self.status in (421, 429) or not (self.code or self.about_documents)

    @property
    def about_documents(self):
        """Whether a part of the documents may be accepted."""
        return (self.status == 413 or self.status in (400, 409, 422) and bool(self.code)
                or self.code == '42501' and ('document' in self.details or 'row-level security' in self.message))


class VersionsExhausted(OverflowError):
    """The document has the highest clientVersion there is; it can't be edited any more."""


class Asked(typing.NamedTuple):
    """What to ask for a page with."""
    client_id: str
    cursor: str | None
    digest: str | None      # None: no comparison is wanted
    tombstones: bool        # whether they are needed


@dataclasses.dataclass
class Waits:
    """In milliseconds. Random waits are up to this long, since many clients are told, or find out, at once."""
    told: int = 3_600_000           # random, from being told to reconcile to asking for the digest
    others: int = 3_600_000         # random, before what others wrote and the service lost is sent
    compare: int = 86_400_000       # between regular comparisons; the first is at a random time, so that clients differ
    again: int = 60_000             # after a comparison that didn't finish; doubled each time
    primary: int = 60_000           # how long to get "behind" before the primary is asked


class Client:
    """A local store that synchronises through `transport`, which has four calls. Each returns the service's answer, with bodies
    as texts, and raises Refused, BadAnswer, or OSError and the like if no answer came:

    upload(clientId, documents) -> {results}, one result for each document, in order; not atomic pull(clientId, cursor,
    maxDocuments, digest, tombstones, primary) -> {documents, cursor, more, ...} of other clients; with a
        digest also {state}, with the page that reaches the end
    reconcile(clientId, cursor, buckets, after, maxDocuments) -> {rows, after, more, purgedThrough}
    get(clientId, cursor, ids) -> {documents, more}

    clock returns milliseconds since 1970. The clientId is made with the store and dies with it: a client that lost its store
    must be a new one, or it would not be sent the documents that it once uploaded itself. Only if the service's tokens name the
    client (claim client_id), it is passed in, and kept in spite of a twin. first_id: the clientId of a new store, instead of a
    random one. """

    def __init__(self, path, transport, clock=now_ms, client_id=None, waits=None, chance=None, first_id=None):
        self.transport, self.clock = transport, clock
        self.waits, self.chance = waits or Waits(), chance or random.Random()
        self.bound = client_id is not None
        self.store = Store(path, client_id, first_id)
        with self.store.transaction():
            if self.store.is_copy():
                self.store.set_state(compareAt=0)
            elif self.store.state()['compareAt'] is None:
                self.store.set_state(compareAt=self._within(self.waits.compare))

        self.reached_end = self.accepted = False       # of the last download, upload
        self.differing = None                                       # the buckets to be listed

    @property
    def client_id(self):
        return self.store.db.execute('SELECT clientId FROM client').fetchone()[0]

    def _within(self, wait):
        return self.clock() + int(self.chance.random() * wait)

    # Local use: never waits for the service.

    def get(self, id):
        """The body, or None if there is no document. A number too large for Python's own types is a Decimal."""
        text = self.get_text(id)
        return None if text is None else from_json(text)

    def get_text(self, id):
        """The body as JSON."""
        document = self.store.find(id)
        return document and document.body

    def put(self, id, body):
        self.put_all([(id, body)])

    def put_all(self, documents):
        """Creates or replaces documents, (id, body) each, in one transaction. Raises ValueError for what the service can't
        store, VersionsExhausted for a document that has the highest version."""
        with self.store.transaction():
            for id, body in documents:
                check_text(id)
                self._edit(self.store.find(id) or Document(id), 0, to_json(body))

    def delete(self, id):
        with self.store.transaction():
            document = self.store.find(id)
            if document and not document.deleted:
                self._edit(document, 1, None)

    def _edit(self, document, deleted, body):
        # Higher than the version edited, even if that came from a client whose clock is ahead of ours.
        version = self.clock()
        if document.clientVersion is not None:
            version = max(version, document.clientVersion + 1)
        if version > MAX_VERSION:
            raise VersionsExhausted(f'document "{document.id}" has the highest clientVersion')
        document.clientVersion, document.deleted, document.body = version, deleted, body
        document.unsent, document.error = EDIT, None
        document.lastUpdateUtc = document.clientId = None
        self._bring_down(document)
        self.store.save(document)

    def problems(self):
        """[(id, clientVersion, error)] of the documents set aside: kept here, and not sent until they are edited."""
        return [(document.id, document.clientVersion, document.error) for document in self.store.select('error IS NOT NULL')]

    def status(self):
        """For the user: when the store was last the same as the service's (milliseconds), how much is unsent, ..."""
        state = self.store.state()
        return {'clientId': state['clientId'], 'equalAt': state['equalAt'], 'compareAt': state['compareAt'],
                'unsent': len(self.store.select('unsent > 0 AND error IS NULL')), 'setAside': len(self.problems()),
                'twin': state['twin']}

    # With the service. An exception leaves the store as it was after the last answer: call again later. `watch` is called with
    # the contents of each answer.

    def sync(self):
        """Sends, receives, and compares if that is due. A refused upload doesn't prevent the download; it is raised
        afterwards."""
        refusal = None
        try:
            self.upload()
        except Refused as error:
            refusal = error
        try:
            self._receive()
        except Stale:
            pass
        if refusal:
            raise refusal

    def _receive(self):
        self.download()
        if self.reached_end:
            self.reconcile()
        # After a download that has reached the end: only the cursor of the old clientId is told of a loss.
        if self.reached_end and self.store.state()['rename']:
            self.take_new_name(str(uuid.uuid4()))
        if self.reached_end:
            self.send_marks()

    def compare(self):
        """Makes the next sync compare, even if that isn't due yet."""
        with self.store.transaction():
            self.store.set_state(compareAt=0)

    # Upload

    def upload(self, batch=1000, watch=None):
        """Sends all local edits. Returns how often each outcome came."""
        return self._send(EDIT, 'true', batch, watch)

    def _send(self, unsent, which, batch=1000, watch=None):
        """Sends each document once: what has to be sent again is left for the next upload."""
        outcomes, after = collections.Counter(), BEGINNING
        self.accepted = False
        while documents := self.next_batch(unsent, which, after, batch, BATCH_BYTES):
            after = documents[-1].clientVersion, documents[-1].id
            self._send_batch(documents, outcomes, watch)
        return outcomes

    def next_batch(self, unsent, which, after, limit, limit_bytes):
        """What is sent next, after `after`, (clientVersion, id): up to about limit documents and limit_bytes of bodies."""
        return self.store.batch(
            f'unsent = {unsent} AND {which} AND error IS NULL AND (clientVersion, id) > (?, ?) ORDER BY clientVersion, id',
            after, limit, limit_bytes)

    def _send_batch(self, documents, outcomes, watch):
        if outcomes['refused'] >= MAX_REFUSED:
            return      # the others are sent with the next sync: a client that can't write any more shouldn't try them all
        sent = self.to_send(documents)
        try:
            results = self.transport.upload(self.client_id, sent)['results']
        except Refused as refusal:
            if not refusal.retry:
                self.note_answered(documents)
            if not refusal.about_documents:
                raise
            if len(documents) > 1:
                half = len(documents) // 2
                self._send_batch(documents[:half], outcomes, watch)
                self._send_batch(documents[half:], outcomes, watch)
            else:
                self._refused_alone(documents[0], refusal)
                outcomes['refused'] += 1
            return
        untried = self.take_results(documents, results, outcomes)
        if watch:
            watch(results)
        if 0 < len(untried) < len(documents):
            self._send_batch(untried, outcomes, watch)

    def take_results(self, documents, results, outcomes):
        """Applies the results of documents that were sent, and counts them in outcomes. Returns those that weren't tried."""
        if [result['id'] for result in results] != [document.id for document in documents] \
                or any(result['outcome'] not in OUTCOMES for result in results):
            raise BadAnswer('a result for each document was expected')
        if not documents:
            return []
        self.accepted = True
        winners = self._winners(results)
        with self.store.transaction():
            for sent, result in zip(documents, results):
                self._answered(sent, result, winners.get(sent.id))
            self.store.db.execute('UPDATE client SET lastUploadClientVersion = max(?1, ifnull(lastUploadClientVersion, ?1))',
                                  (max(sent.clientVersion for sent in documents),))
        outcomes.update(result['outcome'] for result in results if result['outcome'] != 'untried')
        return [sent for sent, result in zip(documents, results) if result['outcome'] == 'untried']

    def _as_sent(self, document):
        sent = {'id': document.id, 'clientVersion': document.clientVersion}
        sent |= {'deleted': True} if document.deleted else {'body': document.body}
        if document.unsent == MARK:
            sent['baseVersion'] = document.baseVersion
            if document.baseVersion == 0:
                sent['baseUtc'] = document.baseUtc      # version 0 stays 0 when it is written again
        return sent

    def to_send(self, documents):
        """The documents in the form they are sent. Their versions are noted before: whatever happens then, our own can be told
        from another store's."""
        with self.store.transaction():
            self.store.db.executemany(
                'UPDATE document SET sent = max(ifnull(sent, ?1), ?1), unanswered = 1 WHERE id = ?2',
                [(document.clientVersion, document.id) for document in documents])
        return [self._as_sent(document) for document in documents]

    def note_answered(self, documents):
        """None of them was applied."""
        with self.store.transaction():
            self.store.db.executemany('UPDATE document SET unanswered = 0 WHERE id = ?',
                                      [(document.id,) for document in documents])

    def _refused_alone(self, sent, refusal):
        if not self.accepted:
            # Perhaps the document isn't the reason: then an empty upload is refused, too, and that error is raised.
            self.transport.upload(self.client_id, [])
            self.accepted = True
        with self.store.transaction():
            self._set_aside(self.store.find(sent.id), sent, str(refusal))

    def _set_aside(self, document, sent, error):
        # Not if it was edited again meanwhile: that version may be accepted.
        if document and document.unsent and document.clientVersion == sent.clientVersion:
            document.error = error
            self.store.save(document)

    def _winners(self, results):
        """{id: the stored document} for those not applied. Fetches the ones left out of an answer that would have been too
        large."""
        winners = {result['id']: result['winner'] for result in results if result['winner']}
        missing = [result['id'] for result in results
                   if result['outcome'] in ('discarded', 'conflict', 'modified') and result['id'] not in winners]
        while missing:
            answer = self.transport.get(self.client_id, self.store.state()['cursor'], missing[:1000])
            if answer.get('behind') or answer.get('reconcile'):
                return winners | {id: UNKNOWN for id in missing}
            winners |= {document['id']: document for document in answer['documents']}
            done = missing.index(answer['documents'][-1]['id']) + 1 if answer['more'] and answer['documents'] else 1000
            missing = missing[done:]
        return winners

    def _answered(self, sent, result, winner):
        document = self.store.find(sent.id)
        if document is None:
            return
        document.unanswered = 0
        if result['outcome'] in ('refused', 'untried'):
            self.store.save(document)
            if result['outcome'] == 'refused':
                self._set_aside(document, sent, '{code} {message}'.format_map(result['error']))
        elif result['outcome'] == 'modified' and winner in (None, UNKNOWN):
            self.store.save(document)       # it is sent again, and loses to what was stored
        elif result['outcome'] not in ('discarded', 'conflict'):
            self._acknowledged(document, sent, result)
            if winner:
                self.take(winner, listed=True)      # what was stored differs from what was sent
        elif winner is None and result.get('winnerOmitted'):
            self.store.save(document)       # it was there, and is lost: this one is sent again
        elif winner is None:
            self._winner_is_gone(document, sent, result)
        else:
            self.store.save(document)
            if winner != UNKNOWN:
                self.look_for_twin(winner)
                # A client that has lost takes the winner at once; else it would differ from all others forever.
                self.take(winner, listed=True)

    def _acknowledged(self, document, sent, result):
        told = {**result, 'deleted': sent.deleted, 'body': sent.body, 'clientId': self.client_id}
        if result['outcome'] == 'unchanged' and document.clientId:
            told['clientId'] = document.clientId        # somebody else has sent it before
        # Not if it was edited again before the answer arrived: that version has yet to be sent.
        if document.clientVersion == sent.clientVersion:
            document.becomes(told)
        else:
            document.rebase(told)
        self.store.save(document)

    def _winner_is_gone(self, document, sent, result):
        """It is sent again, as a new document. If that isn't applied either, there is one that we may not see."""
        document.rebase(None)
        self.store.save(document)
        if sent.baseVersion is None:
            self._set_aside(document, sent, f'{result["outcome"]}, and the service shows no such document')

    # Download

    def download(self, page=1000, watch=None):
        """Fetches what other clients changed. Returns how many documents in the store were changed by that."""
        changed = 0
        self.begin_download()
        while not self.reached_end:
            asked, answer = self._pull(page)
            changed += self.take_page(asked, answer)
            if watch:
                watch(answer['documents'])
            if answer.get('behind'):
                return changed      # the server lags; it is asked again with the next sync
        return changed

    def begin_download(self):
        self.reached_end, self.differing = False, None

    def _pull(self, page):
        state = self.store.state()
        primary = state['behindSince'] is not None and self.clock() >= state['behindSince'] + self.waits.primary
        asked = self.next_page()
        try:
            return asked, self.transport.pull(asked.client_id, asked.cursor, page, asked.digest, asked.tombstones, primary)
        except Refused as refusal:
            if refusal.status != 410 or asked.cursor is None:
                raise
            self._begin_from_null(refusal)
        return self._pull(page)

    def next_page(self):
        """What to ask for the next page with."""
        cursor = self.store.state()['cursor']
        tombstones = cursor is not None or self._has_told()     # a first download needs none
        # With documents that the service may or may not have, the digests would differ for no reason.
        compares = self.is_due() and not self.store.select('unanswered LIMIT 1')
        return Asked(self.client_id, cursor, self.store.digest()[1] if compares else None, tombstones)

    def take_page(self, asked, answer):
        """Returns how many documents in the store it changed: none, if another sync of the same store, in another thread or
        process, has got further meanwhile, or has changed its clientId: the cursor would be outdated."""
        with self.store.transaction():
            if (self.client_id, self.store.state()['cursor']) != (asked.client_id, asked.cursor):
                return 0
            changed = self._apply(asked, answer)
        self.reached_end = not (answer['more'] or answer.get('behind'))
        return changed

    def _has_told(self):
        """Whether there are documents that the service has ever had."""
        return bool(self.store.select(f'baseVersion IS NOT NULL OR unsent = {MARK} LIMIT 1'))

    def _begin_from_null(self, refusal):
        """For a service or a proxy that doesn't know the request: the cursor becomes void, but nothing in the store does."""
        lost = 'purged' not in (refusal.code.removeprefix('resync_'), refusal.details.get('reason'))
        with self.store.transaction():
            self.store.set_state(cursor=None, unheard=lost)
            if not lost:
                self._told(None)

    def _apply(self, asked, answer):
        """Applies a page, in a transaction."""
        state, now = self.store.state(), self.clock()
        if answer.get('behind'):
            self.store.set_state(behindSince=state['behindSince'] if state['behindSince'] is not None else now)
            return 0
        self._note_limit(answer)
        unheard = state['unheard'] and self._has_told()
        changed = sum(self.take(document) for document in answer['documents'])
        newest = [document['LastUpdateUtc'] for document in answer['documents']]
        self.store.set_state(
            cursor=answer['cursor'], unheard=0, behindSince=None,
            newestKnownServiceRecordUtc=max(newest + [state['newestKnownServiceRecordUtc'] or ''], default=None) or None)
        if answer.get('reconcile'):
            self._told(answer.get('lostAfter', '-infinity'))
        elif unheard:
            self._told('-infinity')
        elif asked.digest is not None and not answer['more']:
            self._compare(answer)
        return changed

    def take(self, told, listed=False):
        """Takes over a document from the service by the service's own rule, so that both end up the same. Returns whether that
        changed the local one. listed: it is what the service has now, not from a page that may be older than what is here."""
        document = self.store.find(told['id']) or Document(told['id'])
        before = document.clientVersion, document.deleted, document.body
        version, ours = told['clientVersion'], document.clientVersion
        later = listed or document.baseUtc is None or told['LastUpdateUtc'] > document.baseUtc
        if told['clientId'] == self.client_id:
            document.sent = max(version, document.sent if document.sent is not None else version)
        if later and ours is not None and is_beyond(ours, version, self.max_version()):
            # Nobody else will ever get it. An edit is now based on what the service has.
            if document.unsent == EDIT:
                document.rebase(told)
                self._bring_down(document)
            else:
                document.becomes(told)
        elif ours is not None and self._is_newer(document, told):
            # A version that the service had, and that is newer than what it returns later, was lost there: it is sent again.
            if later:
                document.rebase(told)
                document.unsent = document.unsent or MARK
        elif ours is None or version > ours or later:
            document.becomes(told)
        self.store.save(document)
        return before != (document.clientVersion, document.deleted, document.body)

    def _is_newer(self, document, told):
        """Whether the service will accept what is unsent here: if it is newer or, with clientVersion 0, equal."""
        if told['clientVersion'] == document.clientVersion == 0:
            return document.unsent == EDIT or document.unsent == MARK and is_later(document, told)
        return told['clientVersion'] < document.clientVersion

    # Versions that are too high

    def max_version(self):
        """The highest clientVersion that the service accepts, as far as it has said; None: any."""
        ahead = self.store.state()['maxVersionAhead']
        return None if ahead is None else self.clock() + ahead

    def _note_limit(self, answer):
        """With a page, in its transaction. Times are kept as distances from the own clock: the limit moves on with it."""
        limit, now = answer.get('maxVersion'), self.clock()
        if limit is None:
            self.store.set_state(maxVersionAhead=None)
            return
        time = datetime.datetime.fromisoformat(answer['serverUtc'].replace('Z', '+00:00'))
        self.store.set_state(serverAhead=int(time.timestamp() * 1000) - now, maxVersionAhead=limit - now)
        for document in self.store.select('unsent > 0 AND clientVersion > ?', limit):
            self._bring_down(document)
            self.store.save(document)

    def _bring_down(self, document):
        """Gives what is unsent another version if it has one that the service doesn't accept, of a clock that was wrong: above
        the one that it is based on. Where that is as high, somebody has to rebase the document first."""
        limit = self.max_version()
        if limit is None or document.clientVersion <= limit:
            return
        version = min(self.clock() + self.store.state()['serverAhead'], self.clock(), limit)
        if document.baseVersion is not None:
            version = max(version, document.baseVersion + 1)
        if version <= limit:
            document.clientVersion, document.error = version, None

    # Comparing

    def is_due(self):
        """Whether it is time to compare."""
        # A clock that was set back must not delay it for longer than the usual wait.
        return not self.clock() < self.store.state()['compareAt'] <= self.clock() + max(self.waits.compare, self.waits.told)

    def _told(self, lost_after):
        state = self.store.state()
        self.store.set_state(lostAfter=earlier(state['lostAfter'], lost_after), nulls=0, rounds=0,
                             compareAt=min(state['compareAt'], self._within(self.waits.told)))

    def _compare(self, answer):
        """The page that reached the end has the service's digest under the same snapshot."""
        theirs, state = answer.get('state'), self.store.state()
        if theirs is None and state['nulls'] < 2:
            self.store.set_state(nulls=state['nulls'] + 1, compareAt=self._after(state['nulls']))
            return
        differing = set(range(BUCKETS)) if theirs is None else self._differing(theirs)
        if differing:
            self.differing = sorted(differing)
            self.store.set_state(nulls=0, rounds=state['rounds'] + 1, compareAt=self._after(state['rounds']))
            return
        self.store.set_state(nulls=0, rounds=0, lostAfter=None, equalAt=self.clock(), compareAt=self.clock() + self.waits.compare)
        self._forget_tombstones(answer['serverUtc'])

    def _differing(self, theirs):
        """The buckets whose sums differ. The service leaves the sums out if its digest is the same as the one sent."""
        if (theirs['count'], theirs['digest']) == self.store.digest():
            return set()
        both = zip(theirs.get('sums', ()), self.store.sums())
        return {bucket for bucket, (their_sum, our_sum) in enumerate(both) if their_sum != our_sum} or set(range(BUCKETS))

    def _after(self, times):
        return self.clock() + min(self.waits.again * 2 ** min(times, 30), self.waits.compare)

    def _forget_tombstones(self, server_utc):
        limit = datetime.datetime.fromisoformat(server_utc.replace('Z', '+00:00')) - KEEP_TOMBSTONES
        for document in self.store.select('deleted AND NOT unsent AND lastUpdateUtc < ?', f'{limit:%Y-%m-%dT%H:%M:%S.%fZ}'):
            self.store.remove(document)

    def reconcile(self):
        """After a download that has reached the end: repairs the differences found."""
        if not self.differing:
            return
        try:
            Reconciler(self).run(self.differing)
        except Refused as refusal:
            if refusal.status not in (404, 405):    # a service that can't compare: then nothing can be done
                raise

    def ask(self, call, *arguments):
        """A call with the cursor, so that a server that lags says so."""
        state = self.store.state()
        answer = call(state['clientId'], state['cursor'], *arguments)
        if answer.get('behind') or answer.get('reconcile'):
            raise Stale
        return answer

    def send_marks(self):
        """Sends what the service has lost: own documents at once, those of others after a random wait, since many clients hold
        the same ones, and most are restored by somebody else meanwhile."""
        own, others = 'clientId = (SELECT clientId FROM client)', 'clientId IS NOT (SELECT clientId FROM client)'
        self._send(MARK, own)
        waiting = bool(self.store.select(f'unsent = {MARK} AND error IS NULL AND {others} LIMIT 1'))
        others_at = self.store.state()['othersAt']
        if waiting != (others_at is not None):
            others_at = self._within(self.waits.others) if waiting else None
            with self.store.transaction():
                self.store.set_state(othersAt=others_at)
        if waiting and self.clock() >= others_at:
            self._send(MARK, others)

    # Twins: two stores with one clientId, after a phone was cloned or its backup restored

    def look_for_twin(self, told):
        """In a transaction. A version under our own clientId that was never sent: another store has the same one. This store
        takes a new one; if a token names the client, it can only report that."""
        document = self.store.find(told['id'])
        if told['clientId'] != self.client_id or document is None and told['deleted']:
            return      # (a tombstone of what isn't here may be our own, forgotten along with what was sent)
        if document and document.sent is not None and told['clientVersion'] <= document.sent:
            return
        self.store.set_state(
            rename=not self.bound, twin=f'document "{told["id"]}", clientVersion {told["clientVersion"]}, was written under the '
                                        f'clientId of this store, {told["clientId"]}, by another')
        if document:
            document.sent = told['clientVersion']       # report it once
            self.store.save(document)

    def take_new_name(self, name):
        """Takes a new clientId, and starts again with a null cursor, keeping the documents: it hasn't seen what the other store
        has written."""
        with self.store.transaction():
            self.store.set_state(clientId=name, cursor=None, unheard=1, newestKnownServiceRecordUtc=None, rename=0)
            self.store.db.execute('UPDATE document SET sent = NULL, unanswered = 0')
        self.download()
