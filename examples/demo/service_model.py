"""service_model.py - what the service promises, in memory, for the tests of the client: a collection (Service) with stamps, pages
and cursors, state, reconcile, get, purge, transactions that commit late, losses, servers that lag, refusals, a trigger; and
several of them in one request (Services).

A lost history is remembered here (`ever_purged`), so that a test can tell a deletion from a loss. """

import copy
import functools
import itertools
import json

import digest
from client import Refused
from digest import BUCKETS, as_text
from jsontext import documents_text

hash_document, bucket_of = functools.cache(digest.hash_document), functools.cache(digest.bucket_of)
DAY = 40        # stamps; a transaction is never open for longer


def stamp(number):
    return f'2026-11-22T10:{number // 1_000_000:02}:12.{number % 1_000_000:06}Z'


class Line:
    """One server's data. What is committed is never changed in place, so that copying is cheap."""

    def __init__(self):
        self.rows = {}          # id -> document
        self.horizon = ''       # the highest stamp of a purged tombstone
        self.commits = 0        # stands for the WAL's position
        self.frontier = '9'     # below it no transaction is open; in copies, as it was then
        self.epochs = [(1, 'e1', None)]     # number, id, what may be lost of those before: everything later than this

    def copy(self):
        line = copy.copy(self)
        line.rows, line.epochs = dict(self.rows), list(self.epochs)
        return line


class Service:
    def __init__(self, chance=None):
        self.chance = chance
        self.line = Line()
        self.time = 0
        self.ids = itertools.count(2)
        self.open = {}          # transactions that are open: number of the first stamp -> document
        self.lagging = []       # older states of the line, as standbys have
        self.lag = 0            # the chance that a reader meets one
        self.no_state = 0       # the chance that there is no state
        self.page_budget = self.list_budget = 10**9
        self.winner_budget = 10**9
        self.ever_purged = {}   # id -> the highest version purged, in any history
        self.knows_stale_cursors = True     # Reconcile and Get refuse cursors that are void
        self.knows_atomic = True            # an error of one document is its outcome
        self.max_refusals = 32              # then the rest is untried

    # Uploads

    def upload(self, client_id, documents):
        sent = json.loads(documents_text(documents))
        refusals = [self._refusal(document, text.get('body')) for document, text in zip(sent, documents)]
        if not self.knows_atomic:
            for refusal in filter(None, refusals):
                raise refusal
        self._end_old()
        before, budget, results = self._copy(), self.winner_budget, []
        for document, text, refusal in zip(sent, documents, refusals):
            if sum(result['outcome'] == 'refused' for result in results) >= self.max_refusals:
                result = self._not_applied(document, 'untried')
            elif refusal:
                result = self._not_applied(document, 'refused') | {
                    'error': {'code': refusal.code, 'message': refusal.message, 'details': None, 'hint': None}}
            else:
                result = self._upload(client_id, {**document, 'body': text.get('body')})
            if result['winner']:
                budget -= 1
                if budget < 0:
                    result |= {'winner': None, 'winnerOmitted': True}
            results.append(result)
        if self.line.rows != before.rows:
            self._commit(before)
        return {'received': len(documents), 'results': results}

    def _refusal(self, document, body):
        try:
            self._check(document, body)
        except Refused as refusal:
            return refusal

    def _not_applied(self, document, outcome):
        return {'id': document['id'], 'outcome': outcome, 'clientVersion': None, 'LastUpdateUtc': None, 'winner': None}

    def _check(self, document, body):
        if body and 'forbidden' in body:
            raise Refused(403, '42501', 'new row violates row-level security policy for table "document"')
        if body and 'poison' in body:
            raise Refused(400, '22023', f'document "{document["id"]}" is refused')

    def _upload(self, client_id, sent):
        base = {key: sent.pop(key) for key in ('baseVersion', 'baseUtc') if key in sent}
        sent = {'deleted': False, 'body': None, **sent, 'clientId': client_id}
        stored = self.line.rows.get(sent['id'])
        outcome, winner = 'updated', None
        if stored and all(stored[key] == sent[key] for key in ('clientVersion', 'deleted', 'body')) and (
                base or stored['clientId'] == client_id):
            outcome = 'unchanged'
        elif base and (base['baseVersion'] != (stored and stored['clientVersion'])
                       or 'baseUtc' in base and base['baseUtc'] != (stored and stored['LastUpdateUtc'])):
            outcome, winner = 'conflict', stored
        elif stored is None:
            outcome = 'created'
        elif not (stored['clientVersion'] < sent['clientVersion'] or stored['clientVersion'] == sent['clientVersion'] == 0):
            outcome, winner = 'discarded', stored
        if outcome in ('created', 'updated'):
            stored = {**sent, 'LastUpdateUtc': stamp(self._tick())}
            if sent['body'] and 'unfinished' in sent['body']:       # a trigger completes it
                stored['body'] = sent['body'].replace('unfinished', 'finished')
                outcome, winner = 'modified', stored
            self.line.rows[sent['id']] = stored
        return {'id': sent['id'], 'outcome': outcome, 'clientVersion': stored['clientVersion'] if stored else None,
                'LastUpdateUtc': stored['LastUpdateUtc'] if stored else None, 'winner': copy.copy(winner)}

    def _tick(self):
        self.time += 1
        return self.time

    def _end_old(self):
        for first in list(self.open):
            if first < self.time - DAY // 2:
                self.end(first)

    def _copy(self):
        line = self.line.copy()
        line.frontier = self._frontier()
        return line

    def _commit(self, before):
        self.lagging = (self.lagging + [before])[-5:]
        self.line.commits += 1

    def begin(self, id):
        """Somebody else's transaction, which takes a stamp now and commits later."""
        first = self._tick()
        self.open[first] = {'id': id, 'clientVersion': first, 'clientId': 'slow', 'LastUpdateUtc': stamp(first),
                            'deleted': False, 'body': '"slow"'}
        return first

    def end(self, first):
        before, document = self._copy(), self.open.pop(first)
        self.line.rows[document['id']] = document
        self._commit(before)

    def _frontier(self):
        return stamp(min(self.open)) if self.open else '9'

    # Downloads

    def pull(self, client_id, cursor, max_documents, digest=None, tombstones=True, primary=False):
        line = self._line(primary)
        frontier = self._frontier() if line is self.line else line.frontier
        bind = f'{client_id} other'
        epoch, position, seen, commits, bound = json.loads(cursor) if cursor else (line.epochs[-1][1], '', line.horizon, 0, bind)
        if bound != bind:
            raise Refused(400, '22023', 'the cursor is of another client')
        if self._is_behind(line, epoch, commits):
            return {'documents': [], 'cursor': cursor, 'more': True, 'behind': True, 'serverUtc': stamp(self.time)}
        answer = {}
        if (told := self._void(line, epoch, position, seen)) is not None:
            answer |= {'reconcile': True, 'lostAfter': told[0]}
            if epoch != line.epochs[-1][1]:
                position = max((row['LastUpdateUtc'] for row in line.rows.values()
                                if row['LastUpdateUtc'] <= position and row['LastUpdateUtc'] < frontier), default='')
            seen = line.horizon
        later = sorted((row for row in line.rows.values() if position < row['LastUpdateUtc'] < frontier),
                       key=lambda row: row['LastUpdateUtc'])
        documents = []
        more = False
        for row in later:
            if row['clientId'] != client_id and (tombstones or not row['deleted']):
                if len(documents) == min(max_documents, self.page_budget):
                    more = True
                    break
                documents.append(copy.copy(row))
            position = row['LastUpdateUtc']
        if not more:
            # Complete: every tombstone up to here was given out, or the client was told.
            seen = max(seen, min(frontier, max((row['LastUpdateUtc'] for row in line.rows.values()), default='')))
        answer |= {'documents': documents, 'more': more, 'serverUtc': stamp(self.time),
                   'cursor': json.dumps([line.epochs[-1][1], position, seen, line.commits, bind])}
        if digest and not more:
            answer['state'] = self.state(line, frontier)
            if answer['state'] and answer['state']['digest'] == digest:
                del answer['state']['sums']
        return answer

    def _line(self, primary=False):
        if not primary and self.lagging and self.chance and self.chance.random() < self.lag:
            return self.chance.choice(self.lagging)
        return self.line

    def _is_behind(self, line, epoch, commits):
        if line is self.line:
            return False
        return all(epoch != known[1] for known in line.epochs) or epoch == line.epochs[-1][1] and commits > line.commits

    def _void(self, line, epoch, position, seen):
        """(lostAfter,) where the client must reconcile, else None."""
        number = next((number for number, id, _ in line.epochs if id == epoch), None)
        if number is None:
            return '-infinity',
        lost = [lost for later, _, lost in line.epochs if later > number]
        if lost:
            return min(lost),
        return (None,) if line.horizon > max(position, seen) else None

    def state(self, line=None, frontier='9'):
        line = line or self.line
        if self.chance and self.chance.random() < self.no_state or any(
                row['LastUpdateUtc'] >= frontier for row in line.rows.values()):
            return None
        sums = [[0, 0] for _ in range(BUCKETS)]
        live = [row for row in line.rows.values() if not row['deleted']]
        for row in live:
            hi, lo = hash_document(row['id'], row['clientVersion'], row['LastUpdateUtc'])
            sums[bucket_of(row['id'])][0] += hi
            sums[bucket_of(row['id'])][1] += lo
        return {'count': len(live), 'digest': as_text(sum(hi for hi, _ in sums), sum(lo for _, lo in sums)),
                'sums': [as_text(*sum) if any(sum) else '0' * 16 for sum in sums]}

    def reconcile(self, client_id, cursor, buckets, after, max_documents):
        line = self._line()
        if answer := self._not_now(line, cursor):
            return {'rows': [], 'after': after, 'more': True, 'purgedThrough': None} | answer
        ids = sorted((id for id in line.rows if after is None or id > after), key=str.encode)
        limit = min(max_documents, self.list_budget)
        looked, more = ids[:limit], len(ids) > limit
        rows = [{key: line.rows[id][key] for key in ('id', 'clientVersion', 'LastUpdateUtc', 'clientId', 'deleted')}
                for id in looked if buckets is None or bucket_of(id) in buckets]
        return {'rows': rows, 'after': looked[-1] if looked else after, 'more': more, 'purgedThrough': line.horizon or None,
                'serverUtc': stamp(self.time)}

    def get(self, client_id, cursor, ids):
        line = self._line()
        if answer := self._not_now(line, cursor):
            return {'documents': [], 'more': True} | answer
        there = [copy.copy(line.rows[id]) for id in ids if id in line.rows]
        return {'documents': there[:self.page_budget], 'more': len(there) > self.page_budget, 'serverUtc': stamp(self.time)}

    def _not_now(self, line, cursor):
        if cursor:
            epoch, position, seen, commits, _ = json.loads(cursor)
            if self._is_behind(line, epoch, commits):
                return {'behind': True}
            if self.knows_stale_cursors and self._void(line, epoch, position, seen) not in (None, (None,)):
                return {'reconcile': True}

    # What happens to a service

    def purge(self, keep=0):
        """Tombstones older than `keep` stamps, if they are settled."""
        before, limit = self._copy(), min(self._frontier(), stamp(max(self.time - keep, 0) + 1))
        for id, row in before.rows.items():
            if row['deleted'] and row['LastUpdateUtc'] < limit:
                del self.line.rows[id]
                self.line.horizon = max(self.line.horizon, row['LastUpdateUtc'])
                self.ever_purged[id] = max(self.ever_purged.get(id, row['clientVersion']), row['clientVersion'])
        self._commit(before)

    def backup(self):
        return self.line.copy()

    def restore(self, line):
        """Everything since then is lost: a restore, or the promotion of a lagging standby."""
        self.line = line.copy()
        self.open.clear()
        self.lagging.clear()
        survived = max([row['LastUpdateUtc'] for row in line.rows.values()] + [line.horizon, stamp(0)])
        self.line.epochs.append((line.epochs[-1][0] + 1, f'e{next(self.ids)}', back(survived)))
        self.time += 60


class Services:
    """Collections, {name: Service}."""

    def __init__(self, services):
        self.services = services
        self.forbidden = set()      # names of those that nobody may write
        self.knows_collections = True
        self.max_refusals = 32      # of a request
        self.max_batch = 10_000

    def sync(self, client_id, parts, max_documents, tombstones=True):
        if not self.knows_collections:
            raise Refused(400, '22023', 'unknown key in the body')
        if not 0 < len(parts) <= 60 or sum(len(documents) for _, documents, _ in parts.values()) > self.max_batch:
            raise Refused(413, 'PT413', 'too many collections, or documents')
        left, answers = self.max_refusals, {}
        for name, (cursor, documents, _) in sorted(parts.items()):
            service = self.services[name]
            try:
                service.pull(client_id, cursor, 1, None, tombstones, True)      # a client that can't resume may not upload
                if documents and name in self.forbidden:
                    raise Refused(403, '42501', 'permission denied for table document')
                of_its_own, service.max_refusals = service.max_refusals, min(left, service.max_refusals)
                try:
                    results = service.upload(client_id, documents)['results']
                finally:
                    service.max_refusals = of_its_own
                left -= sum(result['outcome'] == 'refused' for result in results)
                answers[name] = {'received': len(documents), 'results': results}
            except Refused as refusal:
                answers[name] = refusal
        share = max(max_documents // len(parts), 1)
        for name, (cursor, _, sent) in parts.items():
            try:
                if isinstance(answers[name], Refused):
                    raise answers[name]
                answers[name] |= self.services[name].pull(client_id, cursor, share, sent, tombstones, True)
                del answers[name]['serverUtc']
            except Refused as refusal:
                answers[name] = {'error': {'code': refusal.code, 'message': refusal.message, 'details': None, 'hint': None}}
        return {'collections': [{'collection': name, **answers[name]} for name in parts],
                'serverUtc': max(stamp(self.services[name].time) for name in parts)}


def back(utc):
    """A day earlier."""
    minute, rest = utc[14:16], utc[20:26]
    return stamp(max(int(minute) * 1_000_000 + int(rest) - DAY, 0))
