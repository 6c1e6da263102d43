"""client.py - a docsync client, complete: a local store, upload, download, and what repairs a store after anything that
may have happened to it or to the service's.

The reference for how a client behaves, whatever its language. The ideas:

**Unsent edits are marked.** Which documents have yet to be sent can NOT be told from versions alone, as `clientVersion >
lastUploadClientVersion` suggests: a downloaded document may have a higher clientVersion than lastUploadClientVersion, and
would be sent back; a local edit may get a lower one, as soon as a document of a client whose clock is ahead was taken over,
and would never be sent. So each document bears a mark, `unsent`, set by an edit and cleared by the acknowledgement or by a
newer version of the service's, each time in the SQLite transaction that changes the document.

**Each answer is applied in one transaction**, with the cursor that came with it. An answer that was lost is asked for again
(the service answers `unchanged`), a page that was not stored is downloaded again.

**The client knows what the service last told of each document** (base: version and stamp) beside what it has itself, and
keeps a digest of it up to date. Comparing it with the service's costs one answer. Where they differ, both are listed and
judged, document by document (reconcile.py). The client does so once a day, when the service tells it to, and when the
store looks like a copy. So it needs no person after a restore, a fail-over that lost something, a year's absence.

**A clientId is one store's.** Before it sends a version it notes that; a version under its own clientId that it never sent
is another store's with the same name: one of two copies. Then it takes a new name and begins from null, with its documents.

**What one document is refused for doesn't stop the others.** They are sent with atomic=false: each that is refused comes back
with its error and is set aside, see problems(), and sent again after the next edit of it. What the service didn't try since
enough others were refused is sent again. Where the whole request is refused, since it is too large or the service doesn't know
atomic, the batch is halved until the one is found.

**A version that the service wouldn't accept loses**, where it says which is the highest that it does (maxVersion): of a clock
that is years ahead, or one that has made a document impossible to edit until somebody rebased it there (docsync_rebase). An
edit with such a version gets another.

**Bodies are texts** to the sync, see jsontext.py: none that a parser can't read stops it.

Upload and download are each in two halves, what is asked for and what is done with the answer: client.py plays them one after
the other, several.py for several collections in one request.

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
BATCH_BYTES = 4_000_000     # of bodies in an upload, about: half of what a service accepts by default
UNKNOWN = 'unknown'         # a winner that couldn't be fetched: the document is sent once more, and it comes then
MAX_REFUSED = 32            # documents refused in one upload(), about
KEEP_TOMBSTONES = datetime.timedelta(days=90)


def now_ms():
    return time.time_ns() // 1_000_000


class Refused(Exception):
    """The service's answer to a request that it didn't accept. status: HTTP's; code: SQLSTATE or PostgREST's, '' where there
    is none, as when PostgREST lost its connection in the midst; details: a dict, where the service gave one."""

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
        """Whether the same request may be accepted later; nobody knows then whether this one was."""
        return self.status >= 500 or self.status == 429 or not (self.code or self.about_documents)

    @property
    def about_documents(self):
        """Whether a part of the documents may be accepted."""
        return (self.status == 413 or self.status in (400, 409, 422) and bool(self.code)
                or self.code == '42501' and ('document' in self.details or 'row-level security' in self.message))


class VersionsExhausted(OverflowError):
    """The document has the highest clientVersion there is; it can't be edited any more."""


class Asked(typing.NamedTuple):
    """What a page is asked for with."""
    client_id: str
    cursor: str | None
    digest: str | None      # None: nothing is to be compared
    tombstones: bool        # whether they are needed


@dataclasses.dataclass
class Waits:
    """In milliseconds. Random ones are up to so long: many clients are told, or find the same, at once."""
    told: int = 3_600_000           # random, from being told to reconcile to asking for the digest
    others: int = 3_600_000         # random, before what others wrote and the service lost is sent
    compare: int = 86_400_000       # between comparisons of its own; the first at a random time, so at an hour of its own
    again: int = 60_000             # after one without an end; doubled each time
    primary: int = 60_000           # how long to hear "behind" before the primary is asked


class Client:
    """A local store that synchronises through `transport`, which has four calls. Each gives the service's answer as it came,
    bodies as texts, and raises Refused, BadAnswer, or OSError and the like where no answer came:

    upload(clientId, documents) -> {results}, a result a document, in order; not atomic
    pull(clientId, cursor, maxDocuments, digest, tombstones, primary) -> {documents, cursor, more, ...} of other clients; with a
        digest also {state}, with the page that reaches the end
    reconcile(clientId, cursor, buckets, after, maxDocuments) -> {rows, after, more, purgedThrough}
    get(clientId, cursor, ids) -> {documents, more}

    clock gives milliseconds since 1970. The clientId is made with the store and dies with it: a client that lost its store
    has to be a new one, or it would not be sent the documents that it once uploaded itself. Only where the service's tokens
    name the client (claim client_id) it is given, and kept in spite of a twin. first_id: the one that a new store begins with,
    instead of a random one of its own.
    """

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
        self.differing = None                                       # the buckets that are to be listed

    @property
    def client_id(self):
        return self.store.db.execute('SELECT clientId FROM client').fetchone()[0]

    def _within(self, wait):
        return self.clock() + int(self.chance.random() * wait)

    # Local use: never waits for the service.

    def get(self, id):
        """The body, or None where there is no document. A number too long for Python's own is a Decimal."""
        text = self.get_text(id)
        return None if text is None else from_json(text)

    def get_text(self, id):
        """The body as JSON."""
        document = self.store.find(id)
        return document and document.body

    def put(self, id, body):
        self.put_all([(id, body)])

    def put_all(self, documents):
        """Creates or replaces documents, (id, body) each, in one transaction. ValueError for what the service can't store,
        VersionsExhausted for a document that has no higher version."""
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
        # Higher than the version edited, even when that came from a client whose clock is ahead of this one's.
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
        """[(id, clientVersion, error)] of the documents set aside: here as they are, and not sent until they are edited."""
        return [(document.id, document.clientVersion, document.error) for document in self.store.select('error IS NOT NULL')]

    def status(self):
        """For the user: when the store was last the same as the service's (milliseconds), how much is unsent, ..."""
        state = self.store.state()
        return {'clientId': state['clientId'], 'equalAt': state['equalAt'], 'compareAt': state['compareAt'],
                'unsent': len(self.store.select('unsent > 0 AND error IS NULL')), 'setAside': len(self.problems()),
                'twin': state['twin']}

    # With the service. An exception leaves the store as it was after the last answer: call again later. `watch` is called
    # with what each answer brought.

    def sync(self):
        """Sends, receives, and compares where that is due. An upload that the service refuses doesn't keep others' changes
        from coming; it is raised afterwards."""
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
        # After a download that has reached the end: a loss is told to the old name's cursor, and to nobody else.
        if self.reached_end and self.store.state()['rename']:
            self.take_new_name(str(uuid.uuid4()))
        if self.reached_end:
            self.send_marks()

    def compare(self):
        """Lets the next sync compare, whenever it would have been due."""
        with self.store.transaction():
            self.store.set_state(compareAt=0)

    # Upload

    def upload(self, batch=1000, watch=None):
        """Sends all local edits. Returns how often each outcome came."""
        return self._send(EDIT, 'true', batch, watch)

    def _send(self, unsent, which, batch=1000, watch=None):
        """Sends each document once: what has to be sent again is left for the next time."""
        outcomes, after = collections.Counter(), BEGINNING
        self.accepted = False
        while documents := self.next_batch(unsent, which, after, batch, BATCH_BYTES):
            after = documents[-1].clientVersion, documents[-1].id
            self._send_batch(documents, outcomes, watch)
        return outcomes

    def next_batch(self, unsent, which, after, limit, limit_bytes):
        """What is sent next, behind `after`, (clientVersion, id): up to so many documents, and bytes of bodies, about."""
        return self.store.batch(
            f'unsent = {unsent} AND {which} AND error IS NULL AND (clientVersion, id) > (?, ?) ORDER BY clientVersion, id',
            after, limit, limit_bytes)

    def _send_batch(self, documents, outcomes, watch):
        if outcomes['refused'] >= MAX_REFUSED:
            return      # the others with the next sync: who may write nothing any more shouldn't try each at once
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
        """What became of documents that were sent; counted in outcomes. Returns those that weren't tried."""
        if [result['id'] for result in results] != [document.id for document in documents]:
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
        """The documents as they are sent. Noted before: whatever happens then, the own versions are known from another store's."""
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
            # Perhaps it isn't the document: an upload of nothing is refused then, too, and that is raised.
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
        """{id: the stored document} for what was not applied. The answer leaves out what would make it too large."""
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
            self.store.save(document)       # it is sent once more, and loses against what was stored
        elif result['outcome'] not in ('discarded', 'conflict'):
            self._acknowledged(document, sent, result)
            if winner:
                self.take(winner, listed=True)      # what was stored isn't quite what was sent
        elif winner is None:
            self._winner_is_gone(document, sent, result)
        else:
            self.store.save(document)
            if winner != UNKNOWN:
                self.look_for_twin(winner)
                # Who has to yield takes the winner at once; who didn't would differ from all others for ever.
                self.take(winner, listed=True)

    def _acknowledged(self, document, sent, result):
        told = {**result, 'deleted': sent.deleted, 'body': sent.body, 'clientId': self.client_id}
        if result['outcome'] == 'unchanged' and document.clientId:
            told['clientId'] = document.clientId        # somebody else has sent it before
        # Not if it was edited again while the answer was on its way: that version is yet to be sent.
        if document.clientVersion == sent.clientVersion:
            document.becomes(told)
        else:
            document.rebase(told)
        self.store.save(document)

    def _winner_is_gone(self, document, sent, result):
        """It is sent once more, as a new document. If that isn't applied either, then there is one that we may not see."""
        document.rebase(None)
        self.store.save(document)
        if sent.baseVersion is None:
            self._set_aside(document, sent, f'{result["outcome"]}, and the service shows no such document')

    # Download

    def download(self, page=1000, watch=None):
        """Fetches what other clients changed. Returns how many documents of the store that changed."""
        changed = 0
        self.begin_download()
        while not self.reached_end:
            asked, answer = self._pull(page)
            changed += self.take_page(asked, answer)
            if watch:
                watch(answer['documents'])
            if answer.get('behind'):
                return changed      # a server that lags; asked again with the next sync
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
        """What the next page is asked for with."""
        cursor = self.store.state()['cursor']
        tombstones = cursor is not None or self._has_told()     # a first download needs none
        # What the service may have or not would differ for nothing.
        compares = self.is_due() and not self.store.select('unanswered LIMIT 1')
        return Asked(self.client_id, cursor, self.store.digest()[1] if compares else None, tombstones)

    def take_page(self, asked, answer):
        """Returns how many documents of the store it changed: none, if another sync of the same store, in another thread
        or process, has got further meanwhile, or has given it another name. The cursor would be of what it was."""
        with self.store.transaction():
            if (self.client_id, self.store.state()['cursor']) != (asked.client_id, asked.cursor):
                return 0
            changed = self._apply(asked, answer)
        self.reached_end = not (answer['more'] or answer.get('behind'))
        return changed

    def _has_told(self):
        """Whether there are documents that the service had once."""
        return bool(self.store.select(f'baseVersion IS NOT NULL OR unsent = {MARK} LIMIT 1'))

    def _begin_from_null(self, refusal):
        """From a service or a proxy that doesn't know what was asked: the cursor is void. Nothing of the store is."""
        lost = 'purged' not in (refusal.code.removeprefix('resync_'), refusal.details.get('reason'))
        with self.store.transaction():
            self.store.set_state(cursor=None, unheard=lost)
            if not lost:
                self._told(None)

    def _apply(self, asked, answer):
        """A page, in a transaction."""
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
        """Takes over a document of the service's by the service's own rule, so that both come to the same end. Returns whether
        that changed the local one. listed: it is what the service has now, not a page that may be older than what is here."""
        document = self.store.find(told['id']) or Document(told['id'])
        before = document.clientVersion, document.deleted, document.body
        version, ours = told['clientVersion'], document.clientVersion
        later = listed or document.baseUtc is None or told['LastUpdateUtc'] > document.baseUtc
        if told['clientId'] == self.client_id:
            document.sent = max(version, document.sent if document.sent is not None else version)
        if later and ours is not None and is_beyond(ours, version, self.max_version()):
            # Nobody would ever have it. An edit is one of what is told now.
            if document.unsent == EDIT:
                document.rebase(told)
                self._bring_down(document)
            else:
                document.becomes(told)
        elif ours is not None and self._is_newer(document, told):
            # A version that the service had, and that is newer than what it tells later, is lost there: it is sent again.
            if later:
                document.rebase(told)
                document.unsent = document.unsent or MARK
        elif ours is None or version > ours or later:
            document.becomes(told)
        self.store.save(document)
        return before != (document.clientVersion, document.deleted, document.body)

    def _is_newer(self, document, told):
        """Whether the service will accept what is unsent here: if it is newer or, with clientVersion 0, as old."""
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
        # A clock that was set back must not put it off for longer than it ever is.
        return not self.clock() < self.store.state()['compareAt'] <= self.clock() + max(self.waits.compare, self.waits.told)

    def _told(self, lost_after):
        state = self.store.state()
        self.store.set_state(lostAfter=earlier(state['lostAfter'], lost_after), nulls=0, rounds=0,
                             compareAt=min(state['compareAt'], self._within(self.waits.told)))

    def _compare(self, answer):
        """With the page that reached the end came the service's digest under the same snapshot."""
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
        """The buckets whose sums differ. The service leaves the sums out where the digest that was sent is the same."""
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
        """After a download that has reached the end: repairs what it found to differ."""
        if not self.differing:
            return
        try:
            Reconciler(self).run(self.differing)
        except Refused as refusal:
            if refusal.status not in (404, 405):    # a service that can't: then there is nothing to be done
                raise

    def ask(self, call, *arguments):
        """A call that bears the cursor, so that a server that lags says so."""
        state = self.store.state()
        answer = call(state['clientId'], state['cursor'], *arguments)
        if answer.get('behind') or answer.get('reconcile'):
            raise Stale
        return answer

    def send_marks(self):
        """What the service has lost. Own documents at once; those of others after a random wait, since many clients hold the
        same: most come back by download meanwhile."""
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
        """In a transaction. A version under the own clientId that was never sent: another store has the name. This one takes
        a new one; where a token names the client it can only say so."""
        document = self.store.find(told['id'])
        if told['clientId'] != self.client_id or document is None and told['deleted']:
            return      # (a tombstone of what isn't here may be an own one that was forgotten with what was sent)
        if document and document.sent is not None and told['clientVersion'] <= document.sent:
            return
        self.store.set_state(
            rename=not self.bound, twin=f'document "{told["id"]}", clientVersion {told["clientVersion"]}, was written under the '
                                        f'clientId of this store, {told["clientId"]}, by another')
        if document:
            document.sent = told['clientVersion']       # said once
            self.store.save(document)

    def take_new_name(self, name):
        """And begins from null, with the store's documents: it has seen nothing of what the other has written."""
        with self.store.transaction():
            self.store.set_state(clientId=name, cursor=None, unheard=1, newestKnownServiceRecordUtc=None, rename=0)
            self.store.db.execute('UPDATE document SET sent = NULL, unanswered = 0')
        self.download()
