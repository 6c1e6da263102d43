"""client_test.py - tests of the client without a server, against service_model.py.

    /usr/bin/python3 -m unittest client_test
    SEED=17 /usr/bin/python3 -m unittest client_test.RandomTest     # repeats one random history; SEEDS=1000: how many

client_mutations.py breaks the client's rules one at a time and sees whether these notice.
"""

import collections
import contextlib
import http.server
import json
import os
import random
import sqlite3
import tempfile
import threading
import unittest

import digest
import jsontext
from client import MAX_VERSION, Client, Refused, VersionsExhausted, Waits
from jsontext import BadAnswer
from reconcile import FETCH, KEEP, NOTHING, REMOVE, SEND, is_lost, judge
from service_model import Service, hash_document
from store import EDIT, MARK, Document
from transport_http import HttpTransport

AT_ONCE = Waits(told=0, others=0, compare=1_000_000_000, again=0, primary=0)


class Net:
    """A way to the service that breaks as told: before the call ('request') or after it ('answer')."""

    def __init__(self, service):
        self.service = service
        self.breaks = lambda: None
        self.calls = []         # names
        self.sent = []          # the documents of each upload
        self.meanwhile = None   # called once, while a call is on its way; an upload, or what amid says
        self.amid = 'upload'

    def _call(self, name, *arguments):
        self.calls.append(name)
        if self.meanwhile and name == self.amid:
            self.meanwhile, meanwhile = None, self.meanwhile
            meanwhile()
        where = self.breaks()
        if where == 'request':
            raise ConnectionError
        result = getattr(self.service, name)(*arguments)
        if where == 'answer':
            raise ConnectionError
        return result

    def upload(self, client_id, documents):
        self.sent.append(documents)
        return self._call('upload', client_id, documents)

    def pull(self, *arguments):
        return self._call('pull', *arguments)

    def reconcile(self, *arguments):
        return self._call('reconcile', *arguments)

    def get(self, *arguments):
        return self._call('get', *arguments)


def content(client):
    return {document.id: (document.clientVersion, document.deleted, document.body, document.unsent)
            for document in client.store.select('true')}


def live(client):
    return {id: row[:3] for id, row in content(client).items() if not row[1]}


def summary(client):
    count, digest = client.store.digest()
    return {'count': count, 'digest': digest, 'sums': client.store.sums()}


def clone(client, into):
    """The whole store, clientId and all: what a copied phone has."""
    client.store.db.backup(into.store.db)
    return into


class Case(unittest.TestCase):
    def setUp(self):
        self.service = Service()
        self.time = 1000    # milliseconds; one more at each look
        self.a = self.client()
        self.b = self.client()

    def client(self, ahead=0, path=':memory:', waits=AT_ONCE, **more):
        return Client(path, Net(self.service), lambda: self.tick() + ahead, waits=waits, chance=random.Random(1), **more)

    def tick(self):
        self.time += 1
        return self.time

    def raw(self, client_id='raw', **document):
        """An upload by some other client."""
        document = {'clientVersion': self.tick(), **document}
        if not document.get('deleted'):
            document['body'] = jsontext.to_json(document.get('body'))
        return self.service.upload(client_id, [document])['results'][0]

    def in_step(self, *clients):
        for client in clients or (self.a, self.b):
            client.sync()
        for client in clients or (self.a, self.b):
            client.sync()

    def assertSame(self, *clients):
        """Each has what the service has, and says so."""
        rows = {id: (row['clientVersion'], int(row['deleted']), row['body'])
                for id, row in self.service.line.rows.items() if not row['deleted']}
        for client in clients or (self.a, self.b):
            self.assertEqual(live(client), rows)
            self.assertEqual(summary(client), self.service.state())
            self.assertEqual(client.store.select('unsent > 0 AND error IS NULL'), [])


class ClientTest(Case):
    def test_edit_travels(self):
        self.a.put('x', {'n': 1})
        self.a.sync()
        self.b.sync()
        self.assertEqual(self.b.get('x'), {'n': 1})
        self.b.put('x', {'n': 2})
        self.b.sync()
        self.a.sync()
        self.assertEqual(self.a.get('x'), {'n': 2})
        self.assertSame()

    def test_downloaded_is_not_sent_back(self):
        self.a.put('x', 1)
        self.a.sync()
        self.b.sync()
        self.assertEqual(self.b.transport.sent, [])

    def test_clock_ahead_hides_no_edit(self):
        ahead = self.client(ahead=1_000_000)
        ahead.put('x', 'from the future')
        ahead.sync()
        self.a.sync()
        self.a.put('x', 'later')    # takes over a version ahead of the own clock
        self.a.sync()
        self.a.put('y', 'now')      # and this one has a lower version than lastUploadClientVersion
        self.assertGreater(self.a.store.state()['lastUploadClientVersion'], content(self.a)['y'][0])
        self.a.sync()
        ahead.sync()
        self.assertEqual((ahead.get('x'), ahead.get('y')), ('later', 'now'))

    def test_discarded_takes_winner(self):
        self.a.put('x', 'stale')
        self.b.put('x', 'newer')
        self.b.sync()
        self.assertEqual(self.a.upload(), {'discarded': 1})
        self.assertSame()

    def test_winner_left_out_is_fetched(self):
        for id in 'xyz':
            self.a.put(id, 'stale')
            self.b.put(id, 'newer')
        self.b.sync()
        self.service.winner_budget, self.service.page_budget = 1, 1
        self.assertEqual(self.a.upload(), {'discarded': 3})
        self.assertSame()
        self.assertEqual(self.a.transport.calls, ['upload', 'get', 'get'])

    def test_download_spares_newer_unsent_edit(self):
        self.b.put('x', 'older')
        self.a.put('x', 'newer')
        self.b.sync()
        self.a.download()
        self.assertEqual(self.a.get('x'), 'newer')
        self.a.sync()
        self.b.sync()
        self.assertEqual(self.b.get('x'), 'newer')

    def test_newer_download_replaces_unsent_edit(self):
        self.a.put('x', 'older')
        self.b.put('x', 'newer')
        self.b.sync()
        self.a.download()
        self.a.sync()
        self.assertEqual(self.a.get('x'), 'newer')
        self.assertEqual(self.a.transport.sent, [])

    def test_edit_during_upload_is_sent(self):
        for edited in ('accepted', 'discarded'):
            with self.subTest(edited):
                self.a.put(edited, 1)
                if edited == 'discarded':
                    self.b.put(edited, 'newer')
                    self.b.sync()
                self.a.transport.meanwhile = lambda: self.a.put(edited, 2)
                self.a.upload()
                self.b.download()
                self.assertEqual(self.b.get(edited), 2)
                self.assertSame()

    def test_lost_answer(self):
        self.a.put('x', 1)
        self.a.transport.breaks = lambda: 'answer'
        with self.assertRaises(ConnectionError):
            self.a.sync()
        self.a.transport.breaks = lambda: None
        self.assertEqual(self.a.upload(), {'unchanged': 1})
        self.assertEqual(self.service.time, 1)
        self.assertSame(self.a)

    def test_tombstone_and_back(self):
        self.a.put('x', 1)
        self.a.sync()
        self.b.sync()
        self.b.delete('x')
        self.b.delete('never was')
        self.b.sync()
        self.a.sync()
        self.assertIsNone(self.a.get('x'))
        self.assertNotIn('never was', self.service.line.rows)
        self.assertSame()
        self.a.put('x', 2)
        self.a.sync()
        self.b.sync()
        self.assertEqual(self.b.get('x'), 2)
        self.assertSame()

    def test_pages(self):
        self.a.put_all((f'{n}', n) for n in range(10))
        self.a.upload(batch=3)
        self.assertEqual([len(documents) for documents in self.a.transport.sent], [3, 3, 3, 1])
        pages = []
        self.assertEqual(self.b.download(page=3, watch=pages.append), 10)
        self.assertEqual([len(page) for page in pages], [3, 3, 3, 1])
        self.assertEqual(self.b.download(page=3), 0)

    def test_batch_ends_by_its_size(self):
        self.a.put_all((f'{n}', 'A' * 1_500_000) for n in range(7))
        self.a.upload()
        self.assertEqual([len(documents) for documents in self.a.transport.sent], [3, 3, 1])

    def test_version_zero_is_always_accepted(self):
        a, b = (Client(':memory:', Net(self.service), lambda: 0, waits=AT_ONCE) for _ in range(2))
        b.put('x', 'b')
        b.sync()
        a.put('x', 'a')
        a.download()
        self.assertEqual(a.get('x'), 'a')
        self.assertEqual(a.upload(), {'updated': 1})
        b.sync()
        self.assertEqual(b.get('x'), 'a')

    def test_reopened(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, 'store')
            first = self.client(path=path)
            first.put('x', 1)
            name = first.client_id
            first.store.db.close()
            second = self.client(path=path)
            self.assertEqual(second.client_id, name)
            self.assertEqual(second.upload(), {'created': 1})

    def test_first_download_without_tombstones(self):
        self.a.put('x', 1)
        self.a.put('y', 1)
        self.a.sync()
        self.a.delete('x')
        self.a.sync()
        self.b.sync()
        self.assertEqual(list(content(self.b)), ['y'])
        self.a.delete('y')
        self.in_step()
        self.assertEqual(content(self.b)['y'][1], 1)

    def test_what_cannot_be_stored_is_refused_at_the_edit(self):
        for body in ('a\0b', {'a\0b': 1}, ['\ud800'], float('nan'), float('inf')):
            with self.subTest(body=repr(body)), self.assertRaises(ValueError):
                self.a.put('x', body)
        for id in ('a\0b', '\udc00'):
            with self.subTest(id=repr(id)), self.assertRaises(ValueError):
                self.a.put(id, 1)
        self.a.put('x', 'a\\u0000b')       # a backslash and some letters
        self.a.put('y', '\U0001f600')
        self.assertEqual(self.a.upload(), {'created': 2})

    def test_last_version(self):
        self.raw(id='d', clientVersion=MAX_VERSION, body='x')
        self.a.sync()
        for edit in (lambda: self.a.put('d', 1), lambda: self.a.delete('d'), lambda: self.a.put_all([('e', 1), ('d', 1)])):
            with self.assertRaises(VersionsExhausted):
                edit()
        self.a.put('good', 1)
        self.a.sync()
        self.assertSame(self.a)
        self.assertTrue(issubclass(VersionsExhausted, OverflowError))

    def test_one_poisoned_document_among_many(self):
        for self.knows_atomic in (True, False):
            with self.subTest(knows_atomic=self.knows_atomic):
                self.setUp()
                self.service.knows_atomic = self.knows_atomic
                self.a.put_all((f'{n}', 'poison' if n == 5 else 'forbidden' if n == 11 else n) for n in range(20))
                self.a.put('x', 'poison')
                self.a.sync()
                self.assertEqual(len(self.service.line.rows), 18)
                self.assertEqual(len(self.a.transport.sent) == 1, self.knows_atomic)
                self.assertEqual([problem[0] for problem in self.a.problems()], ['11', '5', 'x'])
                self.assertIn('22023', self.a.problems()[1][2])
                self.assertEqual(self.a.get('5'), 'poison')
                before = len(self.a.transport.sent)
                self.a.sync()
                self.assertEqual(len(self.a.transport.sent), before)        # not sent again
                self.a.put('5', 'better')
                self.a.sync()
                self.assertEqual(self.service.line.rows['5']['body'], '"better"')
                self.assertEqual([problem[0] for problem in self.a.problems()], ['11', 'x'])
                self.assertEqual(summary(self.a), self.service.state())
                self.assertFalse(self.a.store.select('unanswered'))

    def test_many_poisoned(self):
        for knows_atomic in (True, False):
            with self.subTest(knows_atomic=knows_atomic):
                self.setUp()
                self.service.knows_atomic = knows_atomic
                self.a.put_all((f'{n}', 'poison') for n in range(100))
                for expected in (32, 64, 96, 100, 100):
                    self.a.sync()
                    self.assertEqual(len(self.a.problems()), expected)
                    self.assertFalse(self.a.store.select('unanswered'))

    def test_what_was_not_tried_is_sent_again(self):
        self.service.max_refusals = 2
        self.a.put_all((f'{n:02}', 'poison' if n % 4 == 0 else n) for n in range(20))
        self.assertEqual(self.a.upload(), {'created': 15, 'refused': 5})
        self.assertEqual(len(self.a.transport.sent), 3)
        self.assertEqual(len(self.service.line.rows), 15)

    def test_edited_while_it_is_refused(self):
        self.a.put('x', 'poison')
        self.a.transport.meanwhile = lambda: self.a.put('x', 'better')
        self.assertEqual(self.a.upload(), {'refused': 1, 'created': 1})
        self.assertEqual(self.a.problems(), [])
        self.a.sync()
        self.assertSame(self.a)

    def test_nothing_is_tried(self):
        self.service.max_refusals = 0
        self.a.put_all((f'{n}', n) for n in range(3))
        self.assertEqual(self.a.upload(), {})
        self.assertEqual(len(self.a.transport.sent), 1)
        self.service.max_refusals = 32
        self.in_step()
        self.assertSame()

    def test_modified_takes_what_was_stored(self):
        self.a.put('x', 'unfinished')
        self.assertEqual(self.a.upload(), {'modified': 1})
        self.assertEqual(self.a.get('x'), 'finished')
        self.in_step()
        self.assertSame()
        self.assertFalse(self.a.status()['twin'])

    def test_modified_while_it_is_edited(self):
        self.a.put('x', 'unfinished')
        self.a.transport.meanwhile = lambda: self.a.put('x', 'later')
        self.a.upload()
        self.assertEqual(self.a.get('x'), 'later')
        self.in_step()
        self.assertSame()

    def test_modified_and_the_answer_is_lost(self):
        self.a.put('x', 'unfinished')
        self.a.transport.breaks = lambda: 'answer'
        with self.assertRaises(ConnectionError):
            self.a.upload()
        self.a.transport.breaks = lambda: None
        self.assertEqual(self.a.upload(), {'discarded': 1})
        self.assertEqual(self.a.get('x'), 'finished')
        self.assertSame(self.a)

    def test_modified_left_out_is_fetched(self):
        self.service.winner_budget = 0
        self.a.put('x', 'unfinished')
        self.assertEqual(self.a.upload(), {'modified': 1})
        self.assertEqual(self.a.get('x'), 'finished')
        self.assertSame(self.a)

    def test_modified_that_cannot_be_fetched(self):
        self.service.winner_budget = 0
        self.a.put('x', 'unfinished')
        get, self.service.get = self.service.get, lambda *_: {'documents': [], 'more': True, 'behind': True}
        self.assertEqual(self.a.upload(), {'modified': 1})
        self.assertEqual(self.a.get('x'), 'unfinished')
        self.service.get = get
        self.in_step()
        self.assertEqual(self.a.get('x'), 'finished')
        self.assertSame()

    def test_winner_that_is_lost_before_it_is_fetched(self):
        self.b.put('x', 'newer')
        self.b.sync()
        self.service.winner_budget = 0
        get = self.service.get

        def lose(*args):
            del self.service.line.rows['x']
            self.service.get = get
            return get(*args)

        self.service.get = lose
        self.a.clock = lambda: 1
        self.a.put('x', 'older')
        self.assertEqual(self.a.upload(), {'discarded': 1})
        self.assertEqual(self.a.problems(), [])
        self.assertEqual(self.a.upload(), {'created': 1})

    def test_newer_document_solves_the_problem(self):
        self.a.put('x', 'poison')
        self.a.sync()
        self.b.put('x', 'newer')
        self.in_step()
        self.assertEqual(self.a.problems(), [])
        self.assertSame()

    def test_too_large_a_batch(self):
        upload = self.service.upload

        def limited(client_id, documents):
            if len(documents) > 3:
                raise Refused(413, '', '<html>')
            return upload(client_id, documents)
        self.service.upload = limited
        self.a.put_all((f'{n}', n) for n in range(20))
        self.a.sync()
        self.assertSame(self.a)

    def test_refused_as_a_whole_sets_nothing_aside(self):
        for refusal in (Refused(401, 'PGRST301', ''), Refused(403, '42501', 'permission denied'), Refused(400, '22023', 'clientId'),
                        Refused(400, '', ''), Refused(503, '', ''), Refused(429, 'x', ''), Refused(421, 'moved', '')):
            with self.subTest(refusal=str(refusal)):
                self.setUp()

                def refuse(client_id, documents):
                    raise refusal
                upload, self.service.upload = self.service.upload, refuse
                self.b.put('theirs', 1)
                self.a.put_all([('x', 1), ('y', 2)])
                with self.assertRaises(Refused) as raised:
                    self.a.sync()
                self.assertIs(raised.exception, refusal)
                self.assertEqual(self.a.problems(), [])
                self.service.upload = upload
                self.in_step()
                self.assertSame()

    def test_refused_upload_does_not_stop_the_download(self):
        self.b.put('theirs', 1)
        self.b.sync()
        self.a.put('x', 1)

        def refuse(client_id, documents):
            raise Refused(503, '', '')
        self.service.upload = refuse
        with self.assertRaises(Refused):
            self.a.sync()
        self.assertEqual(self.a.get('theirs'), 1)

    def test_bad_answers_leave_the_store(self):
        self.b.put('x', 1)
        self.b.sync()
        pull = self.service.pull
        self.service.pull = lambda *arguments: jsontext.read_answer('<html>', 'documents')
        before = list(self.a.store.db.iterdump())
        with self.assertRaises(BadAnswer) as raised:
            self.a.sync()
        self.assertTrue(raised.exception.retry)
        self.assertEqual(list(self.a.store.db.iterdump()), before)
        self.service.pull = pull
        self.a.sync()
        self.assertSame()

    def test_crash_while_an_answer_is_applied(self):
        self.b.put_all((f'{n}', n) for n in range(5))
        self.b.sync()
        take, taken = self.a.take, []

        def crash(document, listed=False):
            taken.append(document)
            if len(taken) == 3:
                raise KeyboardInterrupt
            return take(document, listed)
        self.a.take = crash
        before = list(self.a.store.db.iterdump())
        with self.assertRaises(KeyboardInterrupt):
            self.a.sync()
        self.assertEqual(list(self.a.store.db.iterdump()), before)
        self.a.sync()
        self.assertSame()


class ReconcileTest(Case):
    def setUp(self):
        super().setUp()
        self.a.put_all((f'a{n}', n) for n in range(4))
        self.b.put_all((f'b{n}', n) for n in range(4))
        self.in_step()
        self.a.compare()
        self.a.sync()
        self.assertSame()

    def test_equal_costs_one_answer(self):
        for client in (self.a, self.b):
            client.transport.calls.clear()
            client.compare()
            client.sync()
            self.assertEqual(client.transport.calls, ['pull'])
            self.assertIsNotNone(client.status()['equalAt'])

    def test_failover_without_loss(self):
        """One comparison each, and no document is sent or downloaded again."""
        self.service.restore(self.service.backup())
        for client in (self.a, self.b):
            client.transport.calls.clear()
            client.sync()
            client.sync()
            client.sync()
            self.assertEqual(client.transport.calls, ['pull'] * 3)
        self.assertSame()

    def test_loss_is_repaired(self):
        backup = self.service.backup()
        self.a.put('a0', 'edited')
        self.a.put('new', 'of a')
        self.a.delete('a1')
        self.b.put('b0', 'edited')
        self.b.delete('b1')
        self.b.put('made and deleted', 1)
        self.b.sync()
        self.b.delete('made and deleted')
        self.in_step()
        before = live(self.a)
        self.service.restore(backup)
        self.in_step()
        self.in_step()
        self.assertEqual(live(self.a), before)
        self.assertSame()

    def test_others_lost_documents_come_back(self):
        """The one that wrote them is gone."""
        backup = self.service.backup()
        self.b.put('new', 'of b')
        self.b.sync()
        self.a.sync()
        self.service.restore(backup)
        self.in_step(self.a)
        self.assertEqual(self.service.line.rows['new']['body'], '"of b"')
        self.assertEqual([document.baseVersion for document in self.a.store.select("id = 'new'")], [content(self.a)['new'][0]])

    def test_others_lost_documents_wait(self):
        a = self.client(waits=Waits(told=0, others=1_000_000_000, compare=1_000_000_000, again=0))
        a.sync()
        backup = self.service.backup()
        self.b.put('theirs', 1)
        self.b.sync()
        a.put('mine', 1)
        a.sync()
        self.service.restore(backup)
        self.in_step(a)
        self.assertIn('mine', self.service.line.rows)
        self.assertNotIn('theirs', self.service.line.rows)
        self.b.sync()       # has them, and sends them first
        self.b.sync()
        self.time += 1_000_000_000
        a.transport.sent.clear()
        self.in_step(a)
        self.assertEqual(a.transport.sent, [])      # the new look has shown it
        self.assertSame(a)

    def test_purged_while_away_is_removed(self):
        self.a.put('kept', 1)
        self.a.put('gone', 1)
        self.in_step()
        self.a.delete('gone')
        self.a.sync()
        self.service.purge()
        self.b.put('mine', 'unsent')
        self.b.sync()       # is told
        self.b.sync()
        self.assertNotIn('gone', content(self.b))
        self.assertEqual(self.b.get('mine'), 'unsent')
        self.in_step()
        self.assertSame()
        self.assertNotIn('gone', self.service.line.rows)

    def test_purged_and_created_anew_by_an_older_edit(self):
        """The deletion is newer than the edit: it wins wherever it is still known."""
        self.b.put('a0', 'edited offline')
        self.a.delete('a0')
        self.a.sync()
        self.service.purge()
        self.b.upload()
        self.assertIn('a0', self.service.line.rows)
        self.in_step()
        self.in_step()
        self.assertIsNone(self.b.get('a0'))
        self.assertSame()

    def test_version_zero_on_both_sides(self):
        a, b = (Client(':memory:', Net(self.service), lambda: 0, waits=AT_ONCE) for _ in range(2))
        a.put('zero', 'older')
        self.in_step(a, b)
        backup = self.service.backup()
        c = Client(':memory:', Net(self.service), lambda: 0, waits=AT_ONCE)
        c.put('zero', 'newer')
        self.in_step(c, a, b)
        self.assertEqual(b.get('zero'), 'newer')
        self.service.restore(backup)
        self.in_step(a, b)
        self.in_step(a, b)
        self.assertEqual(self.service.line.rows['zero']['body'], '"newer"')
        self.assertSame(a, b)

    def test_edit_while_marks_wait(self):
        a = self.client(waits=Waits(told=0, others=1_000_000_000, compare=1_000_000_000, again=0))
        a.sync()
        backup = self.service.backup()
        self.b.put('b0', 'lost')
        self.b.sync()
        a.sync()
        self.service.restore(backup)
        a.sync()
        a.sync()
        self.assertEqual(content(a)['b0'][3], MARK)
        a.put('b0', 'an edit')
        self.assertEqual(content(a)['b0'][3], EDIT)
        a.sync()
        self.assertEqual(self.service.line.rows['b0']['body'], '"an edit"')

    def test_mark_yields_to_what_comes_meanwhile(self):
        a = self.client(waits=Waits(told=0, others=1_000_000_000, compare=1_000_000_000, again=0))
        a.sync()
        backup = self.service.backup()
        self.b.put('b0', 'lost')
        self.b.sync()
        a.sync()
        self.service.restore(backup)
        a.sync()
        a.sync()
        self.raw(id='b0', body='newer')
        a.sync()
        self.assertEqual((a.get('b0'), content(a)['b0'][3]), ('newer', 0))

    def test_mark_is_not_removed_by_a_later_purge(self):
        a = self.client(waits=Waits(told=0, others=1_000_000_000, compare=1_000_000_000, again=0))
        a.sync()
        backup = self.service.backup()
        self.b.put('theirs', 1)
        self.b.sync()
        a.sync()
        self.service.restore(backup)
        a.sync()
        a.sync()
        self.a.delete('a0')
        self.a.sync()
        self.service.purge()
        self.service.chance, self.service.no_state = random.Random(1), 2      # so that all is listed
        for _ in range(5):
            a.sync()
        self.assertEqual(content(a)['theirs'][3], MARK)
        self.time += 1_000_000_000
        a.sync()
        self.assertIn('theirs', self.service.line.rows)

    def test_mark_of_version_zero_after_another_loss(self):
        """The second loss goes back to an older content of the same version."""
        clock = self.a.clock
        self.a.clock = lambda: 0
        self.a.put('zero', 'old')
        self.a.sync()
        older = self.service.backup()
        self.b.clock = lambda: 0
        self.b.sync()
        zero = self.raw('b', id='zero', clientVersion=0, body='between')
        between = self.service.backup()
        self.raw('b', id='zero', clientVersion=0, body='newest')
        self.a.sync()
        self.a.clock = clock
        self.assertEqual((self.a.get('zero'), zero['outcome']), ('newest', 'updated'))
        self.service.restore(between)
        self.a.transport.amid, self.a.transport.meanwhile = 'upload', lambda: self.service.restore(older)
        for _ in range(6):
            self.a.sync()
        self.assertEqual(self.service.line.rows['zero']['body'], '"newest"')

    def test_conflict_with_a_lower_version_is_sent_again(self):
        backup = self.service.backup()
        low = self.tick()
        self.a.put('a0', 'lost')
        self.a.sync()
        self.service.restore(backup)
        self.a.transport.meanwhile = lambda: self.raw(id='a0', clientVersion=low, body='between')
        self.a.sync()
        self.a.sync()
        self.assertEqual(self.service.line.rows['a0']['body'], '"between"')
        self.in_step()
        self.assertEqual(self.service.line.rows['a0']['body'], '"lost"')
        self.assertSame()

    def test_lists_and_gets_in_pages(self):
        backup = self.service.backup()
        self.a.put_all((f'a{n}', 'new') for n in range(10))
        self.a.sync()
        self.b.put_all((f'b{n}', 'new') for n in range(10))
        self.b.upload()
        self.service.restore(backup)
        self.service.page_budget, self.service.list_budget = 3, 7
        c = self.client()
        c.put('c', 1)
        c.sync()
        for document in c.store.select("id IN ('a0', 'a1', 'b0', 'b1')"):       # as if it had missed them
            c.store.remove(document)
        self.a.put('z', 1)
        self.a.upload()
        self.a.delete('z')
        self.a.upload()
        self.service.purge()        # whoever overlooks a document in the list takes it for one that was deleted
        c.sync()
        c.compare()
        fetched, get = [], self.service.get
        self.service.get = lambda client_id, cursor, ids: fetched.extend(ids) or get(client_id, cursor, ids)
        c.sync()
        self.assertSame(c)
        self.assertEqual(set(fetched), {'a0', 'a1', 'b0', 'b1'})
        self.in_step(self.a)
        self.assertSame(self.a)

    def test_conflict_with_what_is_gone(self):
        """A second loss between the list and the upload."""
        empty = Service().backup()
        backup = self.service.backup()
        self.a.put('a0', 'lost')
        self.a.sync()
        self.service.restore(backup)
        self.a.transport.meanwhile = lambda: self.service.restore(empty)
        for _ in range(4):
            self.a.sync()
        self.assertEqual(self.service.line.rows['a0']['body'], '"lost"')
        self.assertEqual(self.a.problems(), [])

    def test_conflict_with_what_is_hidden(self):
        self.service.restore(Service().backup())
        upload = self.service.upload

        def hide(client_id, documents):
            return {'results': [{'id': document['id'], 'outcome': 'conflict', 'clientVersion': None, 'LastUpdateUtc': None,
                                 'winner': None} for document in documents]}
        self.service.upload = hide
        for _ in range(4):
            self.a.sync()
        self.assertEqual(len(self.a.problems()), 8)
        self.a.transport.sent.clear()
        self.a.sync()
        self.assertEqual(self.a.transport.sent, [])
        self.service.upload = upload

    def test_mark_of_version_zero_yields_to_newer_content(self):
        """That it has the same version doesn't tell."""
        self.a.clock, clock = lambda: 0, self.a.clock
        self.raw('b', id='zero', clientVersion=0, body='old')
        backup = self.service.backup()
        self.raw('b', id='zero', clientVersion=0, body='lost')
        self.a.sync()
        self.a.clock = clock
        self.service.restore(backup)
        self.a.transport.meanwhile = lambda: self.raw('b', id='zero', clientVersion=0, body='newest')
        for _ in range(4):
            self.a.sync()
        self.assertEqual(self.service.line.rows['zero']['body'], '"newest"')
        self.assertSame(self.a)

    def test_old_page(self):
        """From a standby that lags."""
        row = dict(self.service.line.rows['b0'])
        self.raw(id='b0', body='newer')
        self.raw(id='zero', clientVersion=0, body='old')
        zero = dict(self.service.line.rows['zero'])
        self.raw(id='zero', clientVersion=0, body='new')
        self.a.sync()
        before = content(self.a)
        with self.a.store.transaction():
            self.assertFalse(self.a.take(row))
            self.assertFalse(self.a.take(zero))
        self.assertEqual(content(self.a), before)

    def test_server_that_cannot_answer_now(self):
        """It lags, or the cursor has become void: nothing is concluded from an empty list."""
        for word in ('behind', 'reconcile'):
            with self.subTest(word):
                self.setUp()
                backup = self.service.backup()
                self.a.put('new', 1)
                self.a.sync()
                self.service.restore(backup)
                reconcile = self.service.reconcile
                self.service.reconcile = lambda client_id, cursor, buckets, after, limit: {
                    'rows': [], 'after': after, 'more': len(self.a.transport.calls) < 20, 'purgedThrough': None, word: True}
                for _ in range(3):
                    self.a.sync()
                self.assertLess(len(self.a.transport.calls), 15)
                self.assertIn('a0', content(self.a))
                self.service.reconcile = reconcile
                self.in_step()
                self.in_step()
                self.assertSame()

    def test_state_comes_with_the_last_page(self):
        c = self.client()
        c.compare()
        c.download(page=1)
        self.assertIsNone(c.differing)
        self.assertEqual(c.store.state()['nulls'], 0)
        self.assertIsNotNone(c.status()['equalAt'])

    def test_mark_that_is_refused(self):
        backup = self.service.backup()
        self.a.put('new', 'forbid')
        self.a.sync()
        self.service.restore(backup)

        def check(document, body):
            if body == '"forbid"':
                raise Refused(403, '42501', '', '{"document": 1}')
        self.service._check = check
        self.in_step()
        self.assertEqual([problem[0] for problem in self.a.problems()], ['new'])
        sent = len(self.a.transport.sent)
        for _ in range(3):
            self.a.compare()
            self.a.sync()
        self.assertEqual(len(self.a.transport.sent), sent)
        self.assertIsNotNone(self.a.status()['equalAt'])
        self.assertEqual(self.a.get('new'), 'forbid')
        self.service.restore(self.service.backup())
        self.in_step()
        self.assertEqual(self.a.get('new'), 'forbid')
        self.assertEqual(len(self.a.transport.sent), sent)

    def test_no_state_three_times(self):
        self.service.chance, self.service.no_state = random.Random(1), 2
        backup = self.service.backup()
        self.a.put('new', 1)
        self.a.sync()
        self.service.restore(backup)
        for _ in range(4):
            self.assertNotIn('reconcile', self.a.transport.calls)
            self.a.sync()
        self.assertIn('reconcile', self.a.transport.calls)
        self.assertIn('new', self.service.line.rows)

    def test_a_difference_that_stays_is_not_asked_for_all_the_time(self):
        a = self.client(waits=Waits(told=0, others=0, again=1000))
        a.sync()
        state = self.service.state
        self.service.state = lambda *arguments: state(*arguments) | {'digest': 'f' * 16, 'sums': ['f' * 16] * 256}
        a.compare()
        for _ in range(100):
            a.sync()
            self.time += 100
        self.assertLess(a.transport.calls.count('reconcile'), 8)

    def test_daily(self):
        a = self.client(waits=Waits(compare=100_000))
        days = []
        for _ in range(100):
            before = a.status()['equalAt']
            a.sync()
            days.append(a.status()['equalAt'] != before)
            self.time += 10_000
        self.assertLess(days.index(True), 11)
        self.assertIn(sum(days), (9, 10, 11))

    def test_not_compared_while_an_upload_is_unanswered(self):
        self.a.put('x', 1)
        self.a.transport.breaks = lambda: 'answer' if self.a.transport.calls[-1] == 'upload' else None
        self.a.compare()
        with self.assertRaises(ConnectionError):
            self.a.upload()
        self.a.download()
        self.assertIsNone(self.a.differing)
        self.assertIsNone(self.a.next_page().digest)

    def test_old_tombstones_are_forgotten(self):
        self.a.delete('a0')
        self.in_step()
        self.assertIn('a0', content(self.b))
        pull = self.service.pull
        self.service.pull = lambda *arguments: pull(*arguments) | {'serverUtc': '2027-02-21T10:00:00.000000Z'}
        self.b.compare()
        self.b.sync()
        self.assertNotIn('a0', content(self.b))
        self.assertSame()

    def test_behind(self):
        a = self.client(waits=Waits(primary=50))
        a.sync()
        self.b.put('x', 1)
        self.b.sync()
        self.service._is_behind = lambda line, epoch, commits: not self.primary
        self.primary, pull = False, self.service.pull

        def note(*arguments):
            self.primary = arguments[-1]
            return pull(*arguments)
        self.service.pull = note
        for _ in range(5):
            a.sync()
        self.assertIsNone(a.get('x'))
        self.time += 50
        a.sync()
        self.assertEqual(a.get('x'), 1)
        self.assertIsNone(a.store.state()['behindSince'])

    def test_410(self):
        """Of a service, or behind a proxy, that doesn't know reconcile=true."""
        self.a.put('a0', 'unsent')
        pull, told = self.service.pull, []
        self.a._told = lambda lost_after: told.append(lost_after)
        for code, lost_after in (('PT410', '-infinity'), ('resync_lost', '-infinity'), ('resync_purged', None)):
            with self.subTest(code=code):
                def gone(client_id, cursor, *arguments):
                    if cursor is not None:
                        raise Refused(410, code, 'resync required')
                    return pull(client_id, cursor, *arguments)
                self.service.pull = gone
                self.a.download()
                self.assertEqual(self.a.get('a0'), 'unsent')
                self.assertEqual(told, [lost_after])
                told.clear()
                self.service.pull = pull
        self.in_step()
        self.assertSame()

    def test_a_service_that_cannot_reconcile(self):
        def missing(*arguments):
            raise Refused(404, 'PT404', 'not found')
        self.service.reconcile = missing
        self.service.restore(Service().backup())
        self.in_step()
        self.assertEqual(live(self.a).keys(), {f'{name}{n}' for name in 'ab' for n in range(4)})

    def test_fault_in_the_midst(self):
        """Wherever it breaks off, the next sync goes on."""
        for fault in range(12):
            with self.subTest(fault=fault):
                self.setUp()
                backup = self.service.backup()
                self.a.put('new', 1)
                self.b.put('b0', 'edited')
                self.in_step()
                self.service.restore(backup)
                left = [fault]

                def breaks():
                    left[0] -= 1
                    return 'answer' if left[0] == -1 else None
                self.a.transport.breaks = breaks
                for _ in range(3):
                    with contextlib.suppress(ConnectionError):
                        self.a.sync()
                self.a.transport.breaks = lambda: None
                self.in_step()
                self.in_step()
                self.assertEqual(self.b.get('new'), 1)
                self.assertSame()


class History:
    """Everything that can happen, at random: edits, broken lines, other transactions, purges, losses, servers that lag, clones,
    stores back from a backup. At each step no store may lose what wasn't deleted; in the end all are the same."""

    IDS = 12

    def __init__(self, seed, test):
        self.test = test
        self.chance = chance = random.Random(seed)
        self.service = Service(chance)
        self.service.lag = chance.choice((0, 0, 0.3))
        self.service.no_state = chance.choice((0, 0.3))
        self.service.page_budget = chance.choice((2, 10**9))
        self.service.list_budget = chance.choice((2, 10, 10**9))
        self.service.winner_budget = chance.choice((0, 1, 10**9))
        self.service.knows_atomic = chance.choice((True, True, False))
        self.service.max_refusals = chance.choice((1, 32))
        self.time = 1000
        self.trouble = True
        self.waits = Waits(told=chance.choice((0, 30)), others=chance.choice((0, 50)), compare=chance.choice((100, 1000)), again=5,
                           primary=20)
        self.clients = [self.client() for _ in range(chance.randint(2, 4))]
        self.backups = [self.service.backup()]
        self.stores = []
        self.happened = collections.Counter()
        self.log = []

    def client(self):
        ahead = self.chance.choice((0, 0, 0, -50, 50, None))
        client = Client(':memory:', Net(self.service), lambda: self.clock(ahead), waits=self.waits, chance=self.chance)
        client.versions_from_zero = ahead is None
        client.transport.breaks = lambda: self.chance.choice((None,) * 8 + ('request', 'answer')) if self.trouble else None
        return client

    def clock(self, ahead):
        self.time += 1
        return self.time + (ahead or 0)

    def step(self):
        actions = (('put', 30), ('delete', 8), ('sync', 30), ('upload', 5), ('download', 5), ('meanwhile', 12), ('begin', 3),
                   ('end', 3), ('purge', 3), ('backup', 3), ('restore', 2), ('clone', 1), ('keep', 1), ('back', 1), ('later', 3),
                   ('compare', 3), ('zero', 3), ('poison', 1), ('unfinished', 2))
        action = self.chance.choices([name for name, _ in actions], [weight for _, weight in actions])[0]
        client = self.chance.choice(self.clients)
        id = f'd{self.chance.randrange(self.IDS)}'
        self.log.append(f'{action} {self.clients.index(client)} {id}')
        before = self.held(client)
        try:
            getattr(self, action)(client, id)
            self.happened[action] += 1
        except ConnectionError:
            self.happened['broken'] += 1
        except Refused:
            self.happened['refused'] += 1
            raise
        if action not in ('back', 'clone'):
            self.nothing_lost(client, before)

    def put(self, client, id):
        client.put(id, self.chance.random())

    def zero(self, client, id):
        clock, client.clock = client.clock, lambda: 0
        client.put(f'zero{id}', self.chance.random())
        client.clock = clock

    def poison(self, client, id):
        client.put(id, self.chance.choice(('poison', 'forbidden')))

    def unfinished(self, client, id):
        client.put(id, f'unfinished {self.chance.random()}')

    def delete(self, client, id):
        client.delete(id)

    def sync(self, client, id):
        client.sync()

    def upload(self, client, id):
        client.upload(batch=self.chance.randint(1, 5))

    def download(self, client, id):
        client.download(page=self.chance.randint(1, 5))

    def meanwhile(self, client, id):
        """Something while a call is on its way, perhaps a later one."""
        other = self.chance.choice([other for other in self.clients if other is not client])
        what = self.chance.choice((lambda: client.put(id, 'meanwhile'), lambda: client.delete(id), lambda: self.purge(client, id),
                                   lambda: self.restore(client, id), lambda: self.sync(other, id), lambda: self.end(client, id),
                                   lambda: self.put_and_sync(other, id)))
        client.transport.amid = self.chance.choice(('upload', 'pull', 'reconcile', 'get'))
        client.transport.meanwhile = what
        client.sync()

    def put_and_sync(self, client, id):
        self.put(client, id)
        client.sync()

    def compare(self, client, id):
        client.compare()

    def begin(self, client, id):
        self.service.begin(f'slow{self.time}')

    def end(self, client, id):
        if self.service.open:
            self.service.end(self.chance.choice(list(self.service.open)))

    def purge(self, client, id):
        self.service.purge(self.chance.choice((0, 10, 100)))

    def backup(self, client, id):
        self.backups.append(self.service.backup())

    def restore(self, client, id):
        self.service.restore(self.chance.choice(self.backups[-3:]))

    def clone(self, client, id):
        if len(self.clients) < 6:
            self.clients.append(clone(client, self.client()))

    def keep(self, client, id):
        self.stores.append(clone(client, self.client()))

    def back(self, client, id):
        if self.stores:
            clone(self.stores.pop(), client)

    def later(self, client, id):
        self.time += 50

    # What must hold

    def held(self, client):
        return {document.id: document for document in client.store.select('true')}

    def nothing_lost(self, client, before):
        now = self.held(client)
        for id, document in before.items():
            purged = self.service.ever_purged.get(id)
            if id not in now:
                self.test.assertTrue(document.deleted or purged is not None and purged >= document.clientVersion,
                                     f'{id} is gone: {document}')
            else:
                self.test.assertGreaterEqual(now[id].clientVersion, document.clientVersion, f'{id} was replaced: {document}')
        hashes = [hash_document(document.id, *document.to_count()) for document in now.values() if document.to_count()]
        self.test.assertEqual(client.store.digest(), (len(hashes), digest.as_text(*map(sum, zip((0, 0), *hashes)))))

    def end_all(self):
        """The line is good from now on: soon all are the same, and then there is nothing to do."""
        held = self.end_trouble()
        for n in range(12):
            for client in self.clients:
                client.compare()
                client.sync()
        self.test.assertEqual(len({client.client_id for client in self.clients}), len(self.clients), 'a twin was not found')
        for client, before in zip(self.clients, held):
            client.transport.calls.clear()
            client.sync()
            self.test.assertEqual(client.transport.calls, ['pull'], 'something is still to be done')
            self.same(client)
            for id, document in before.items():
                self.survives(id, document)

    def end_trouble(self):
        """Returns what the clients held then."""
        self.trouble = False
        service = self.service
        service.lag = service.no_state = 0
        while service.open:
            service.end(min(service.open))
        held = [self.held(client) for client in self.clients]
        for client in self.clients:
            client.waits = AT_ONCE
            client.transport.meanwhile = None
            with client.store.transaction():
                client.store.set_state(othersAt=None)
        for n, client in enumerate(self.clients):
            client.put(f'end{n}', n)        # or nobody could tell two that did nothing since they were one
        return held

    def same(self, client):
        rows = {id: (row['clientVersion'], row['body']) for id, row in self.service.line.rows.items() if not row['deleted']}
        aside = {id for id, _, _ in client.problems()}
        mine = {document.id: (document.clientVersion, document.body) for document in client.store.select('NOT deleted')}
        for id in rows.keys() | mine.keys():
            if id not in aside:
                self.test.assertEqual(mine.get(id), rows.get(id), f'{id} of {self.clients.index(client)}')
        self.test.assertEqual(summary(client), self.service.state())
        self.test.assertEqual(client.store.select('unsent AND error IS NULL'), [])

    def survives(self, id, document):
        """What a client held when the trouble ended is there, or a newer version."""
        row, purged = self.service.line.rows.get(id), self.service.ever_purged.get(id)
        if document.body and ('poison' in document.body or 'forbidden' in document.body) or document.deleted:
            return
        if purged is None or purged < document.clientVersion:
            self.test.assertIsNotNone(row, f'{id} is lost: {document}')
            self.test.assertGreaterEqual(row['clientVersion'], document.clientVersion, f'{id} is lost: {document}')


class RandomTest(unittest.TestCase):
    def test_random(self):
        first, happened = os.environ.get('SEED'), collections.Counter()
        seeds = [int(first)] if first else [random.randrange(10**9) for _ in range(int(os.environ.get('SEEDS', 100)))]
        for seed in seeds:
            history = History(seed, self)
            try:
                for _ in range(history.chance.choice((30, 100, 300))):
                    history.step()
                history.end_all()
            except BaseException:
                print(f'SEED={seed}', *history.log[-20:] if first else '', sep='; ')
                raise
            happened += history.happened


class TieTest(Case):
    def test_deletion_and_edit_with_one_version(self):
        """Both are one above a version of somebody whose clock is ahead: the service keeps the one that came first."""
        self.c = self.client(ahead=10_000)
        self.c.put('note', 'from the future')
        self.in_step(self.c, self.a, self.b)
        self.a.delete('note')
        self.b.put('note', 'edited')
        self.assertEqual(self.a.store.find('note').clientVersion, self.b.store.find('note').clientVersion)
        self.in_step(self.a, self.b, self.c)
        self.assertTrue(self.b.store.find('note').deleted)
        self.assertSame(self.a, self.b, self.c)


class TwinTest(Case):
    def test_cloned_store(self):
        self.a.put('note', 'v1')
        self.in_step()
        twin = clone(self.a, self.client())
        self.a.put('note', 'v2')
        self.a.put('new', 'of the original')
        twin.put('other', 'of the copy')
        for client in (self.a, twin, self.a, twin):
            client.compare()
            client.sync()
        self.in_step(self.a, self.b, twin)
        self.assertNotEqual(self.a.client_id, twin.client_id)
        self.assertSame(self.a, self.b, twin)
        self.assertEqual((twin.get('note'), twin.get('new'), self.a.get('other')), ('v2', 'of the original', 'of the copy'))
        self.assertTrue(self.a.status()['twin'] or twin.status()['twin'])

    def test_new_name_while_a_page_is_on_its_way(self):
        """Of two syncs of one store the other was faster: the page's cursor is of the name that the store had."""
        self.in_step()
        for n in range(3):
            self.b.put(f'b{n}', n)
        self.b.sync()
        self.a.transport.amid, self.a.transport.meanwhile = 'pull', lambda: self.a.take_new_name('another')
        self.a.sync()
        self.a.sync()
        self.assertEqual(self.a.client_id, 'another')
        self.assertSame(self.a, self.b)

    def test_found_before_a_loss_is_told(self):
        """The old name's cursor is the only one that the loss is told to; and a purge since would make it look like a deletion."""
        backup = self.service.backup()
        self.b.put('lost', 'of b')
        self.b.sync()
        self.a.sync()
        twin = clone(self.a, self.client())
        self.service.restore(backup)
        twin.put('x', 1)
        self.raw(id='y', body=1)
        self.raw(id='y', deleted=True)
        self.service.purge()
        for offset, first, second in ((0, self.a, twin), (1, twin, self.a)):
            with self.subTest(offset):
                second.put('z', 'stale')
                first.put('z', 'newer')
                first.upload()
        self.a.sync()       # finds the twin by the winner
        self.in_step(self.a)
        self.assertIn('lost', self.service.line.rows)
        self.in_step(self.a, twin)
        self.assertEqual(self.a.get('lost'), 'of b')
        self.assertIn('lost', self.service.line.rows)

    def test_no_cursor_hears_of_no_loss(self):
        """A store that has only sent."""
        backup = self.service.backup()
        self.a.put('x', 1)
        self.a.upload()
        self.service.restore(backup)
        self.raw(id='y', body=1)
        self.raw(id='y', deleted=True)
        self.service.purge()
        for _ in range(3):
            self.a.sync()
        self.assertIn('x', self.service.line.rows)

    def test_found_by_a_winner(self):
        twin = clone(self.a, self.client())
        self.a.put('x', 'stale')
        twin.put('x', 'newer')
        twin.sync()
        before = self.a.client_id
        self.a.sync()
        self.assertNotEqual(self.a.client_id, before)
        self.assertSame(self.a, twin)

    def test_copied_file_compares_at_once(self):
        with tempfile.TemporaryDirectory() as directory:
            path, copied = os.path.join(directory, 'store'), os.path.join(directory, 'copied')
            first = self.client(path=path)
            first.put('note', 'v1')
            first.sync()
            with contextlib.closing(sqlite3.connect(copied)) as other:
                first.store.db.backup(other)
            first.put('note', 'v2')
            first.put('new', 1)
            first.sync()
            back = self.client(path=copied)
            back.sync()
            self.assertEqual((back.get('note'), back.get('new')), ('v2', 1))
            self.assertNotEqual(back.client_id, first.client_id)

    def test_bound_by_a_token(self):
        a = self.client(client_id='phone')
        twin = clone(a, self.client(client_id='phone'))
        twin.put('x', 1)
        twin.sync()
        a.compare()
        a.sync()
        self.assertEqual(a.client_id, 'phone')
        self.assertIn('"x"', a.status()['twin'])
        self.assertSame(a, twin)

    def test_own_documents_are_no_twins(self):
        self.a.put('x', 1)
        self.in_step()
        for answer in (None, 'answer', 'request', None):
            backup = self.service.backup()
            self.a.put('x', self.tick())
            self.a.put('y', self.tick())
            self.a.transport.breaks = lambda: answer if self.a.transport.calls[-1] == 'upload' else None
            with contextlib.suppress(ConnectionError):
                self.a.sync()
            self.a.transport.breaks = lambda: None
            self.service.restore(backup)
            self.in_step()
            self.a.compare()
            self.in_step()
        self.assertIsNone(self.a.status()['twin'])
        self.assertSame()


class MigrationTest(Case):
    OLD = """
        CREATE TABLE document (id TEXT PRIMARY KEY, clientVersion INTEGER NOT NULL, deleted INTEGER NOT NULL, body TEXT,
            dirty INTEGER NOT NULL) WITHOUT ROWID;
        CREATE INDEX document_dirty ON document (clientVersion, id) WHERE dirty;
        CREATE TABLE client (clientId TEXT NOT NULL, lastUploadClientVersion INTEGER, newestKnownServiceRecordUtc TEXT);
        INSERT INTO client VALUES ('old', 7, '2026-11-22T10:00:12.000002Z');
        INSERT INTO document VALUES ('mine', 5, 0, '"mine"', 0), ('theirs', 3, 0, '"theirs"', 0), ('edit', 9, 0, '"edit"', 1),
            ('deleted', 6, 1, NULL, 0), ('lost', 4, 0, '"lost"', 0), ('outdated', 2, 0, '"outdated"', 0);"""

    def test_old_store(self):
        self.raw('old', id='mine', clientVersion=5, body='mine')
        self.raw(id='theirs', clientVersion=3, body='theirs')
        self.raw(id='outdated', clientVersion=8, body='newer')
        self.raw('old', id='deleted', clientVersion=6, deleted=True)
        self.raw('old', id='edit', clientVersion=1, body='older')
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, 'store')
            with contextlib.closing(sqlite3.connect(path)) as db:
                db.executescript(self.OLD)
            a = self.client(path=path)
            self.assertEqual(a.client_id, 'old')
            self.in_step(a, self.b)
            self.assertEqual(self.b.get('lost'), 'lost')
            self.assertEqual((a.get('outdated'), self.b.get('edit')), ('newer', 'edit'))
            self.assertIsNone(a.status()['twin'])
            self.assertSame(a, self.b)
            a.store.db.close()
            self.assertEqual(self.client(path=path).get('mine'), 'mine')


class DigestTest(unittest.TestCase):
    def test_murmur3(self):
        for data, seed, expected in (
                (b'', 0, 0), (b'', 1, 0x514E28B7), (b'', 0xFFFFFFFF, 0x81F16F39), (b'a', 0x9747B28C, 0x7FA09EA6),
                (b'aa', 0x9747B28C, 0x5D211726), (b'aaa', 0x9747B28C, 0x283E0130), (b'aaaa', 0x9747B28C, 0x5A97808A),
                (b'abc', 0x9747B28C, 0xC84A62DD), (b'abcd', 0x9747B28C, 0xF0478627), (b'test', 0, 0xBA6BD213),
                (b'Hello, world!', 0x9747B28C, 0x24884CBA),
                (b'The quick brown fox jumps over the lazy dog', 0x9747B28C, 0x2FA826CD)):
            self.assertEqual(digest.murmur3(data, seed), expected, data)

    def test_document(self):
        """For other languages: the bytes are 8:shopping,1,2026-11-23T08:47:18.100229Z"""
        self.assertEqual(digest.as_text(*digest.hash_document('shopping', 1, '2026-11-23T08:47:18.100229Z')), VECTOR)
        self.assertEqual(digest.as_text(*digest.hash_document('K\u00f6ln', -1, '2026-11-23T08:47:18.100229Z')), VECTOR_UTF8)
        self.assertEqual((digest.bucket_of('shopping'), digest.bucket_of('K\u00f6ln')), BUCKETS)


VECTOR, VECTOR_UTF8, BUCKETS = 'b1b41262c29ed384', '8bc88f538190101c', (212, 251)


class JsonTextTest(unittest.TestCase):
    def answer(self, *bodies):
        text = '{"documents":[%s],"more":false}' % ','.join(
            '{"id":"body","body" : %s,"clientVersion":1}' % body for body in bodies)
        return [document['body'] for document in jsontext.read_answer(text, 'documents', 'more')['documents']]

    def test_bodies_stay_as_they_are(self):
        bodies = ['1.10', '1e5000', '9' * 5000, '"a\\"}]"', '{"body":{"body":[]}, "a":"\\\\"}', '[' * 2000 + ']' * 2000, 'true',
                  '{"a" : [ 1 ,{"]":"["}]}', '[]', '{}', '-0', '""']
        self.assertEqual(self.answer(*bodies), bodies)
        self.assertEqual(self.answer('null'), [None])

    def test_winners(self):
        answer = jsontext.read_answer('{"results":[{"winner":{"body":[1],"id":"a"}},{"winner":null}]}', 'results')
        self.assertEqual(answer['results'], [{'winner': {'body': '[1]', 'id': 'a'}}, {'winner': None}])

    def test_bad_answers(self):
        whole = '{"documents":[{"id":"a","body":{"x":["y"]}}],"more":false}'
        jsontext.read_answer(whole, 'documents', 'more')
        for text in [whole[:n] for n in range(len(whole))] + ['<html>', 'null', '[]', '1', '{}', '[' * 5000]:
            with self.assertRaises(BadAnswer):
                jsontext.read_answer(text, 'documents', 'more')

    def test_time_for_a_bad_answer(self):
        for part in ('\\\\"x', '\\"x', '"a",', '{"a":'):
            with self.assertRaises(BadAnswer):
                jsontext.read_answer('{"documents":[{"body":[' + part * 50_000)

    def test_from_json(self):
        for text in ('1', '"a"', '{"a": [1, {"b": null}, "]", 1.5], "c": {}}', '[[], {}, ""]'):
            self.assertEqual(jsontext._read_nested(text), json.loads(text))
        deep = jsontext.from_json('[' * 20_000 + '{"a": 1e5000}' + ']' * 20_000)
        for _ in range(20_000):
            deep, = deep
        self.assertEqual(str(deep['a']), '1E+5000')
        self.assertEqual(len(str(jsontext.from_json('9' * 5000))), 5000)

    def test_documents_text(self):
        documents = [{'id': 'a"', 'clientVersion': 1, 'body': '{"b":1.10}'}, {'id': 'b', 'clientVersion': 2, 'deleted': True}]
        self.assertEqual(jsontext.documents_text(documents), '[{"id": "a\\"", "clientVersion": 1, "body": {"b":1.10}},'
                         '{"id": "b", "clientVersion": 2, "deleted": true}]')


class HighVersionTest(Case):
    """Versions that the service doesn't accept (any more): it says which is the highest (maxVersion)."""
    LEAD = 500_000

    def poison(self, version=MAX_VERSION):
        """A document that all have, with a version that nobody can go beyond; then the service has a limit."""
        self.raw(id='x', clientVersion=version, body='too high')
        self.c = self.client()
        for client in self.a, self.b, self.c:
            client.sync()
        self.limit()

    def limit(self):
        self.service.max_version = lambda: self.time + self.LEAD

    def agree(self, *clients):
        for _ in range(3):
            for client in clients:
                client.sync()
        for client in clients:
            self.assertEqual(live(client), live(clients[0]))
            self.assertEqual(summary(client), self.service.state())
            self.assertEqual(client.status()['unsent'] + client.status()['setAside'], 0)

    def test_synced(self):
        self.poison()
        with self.assertRaises(VersionsExhausted):
            self.a.put('x', 1)
        self.service.rebase('x', 2000)
        self.a.sync()
        self.a.put('x', 'cured')
        self.agree(self.a, self.b)
        self.assertEqual(self.b.get('x'), 'cured')
        self.time += 90 * 86_400_000        # c has been away
        self.agree(self.a, self.b, self.c)
        self.assertEqual(self.c.get('x'), 'cured')

    def test_listed(self):
        """The page that had it is behind the cursor: it comes up when both are compared."""
        self.poison()
        self.service.rebase('x', 2000)
        with self.b.store.transaction():
            self.b.store.set_state(cursor=None)
        self.b.transport.service.line.rows['x']['clientId'] = self.b.client_id      # which no page gives to it
        self.b.compare()
        self.agree(self.b, self.a)
        self.assertEqual(self.b.store.find('x').clientVersion, 2000)

    def test_unsent(self):
        self.poison(10**9)
        self.a.put('x', 'of a')
        self.a.sync()
        self.assertEqual(len(self.a.problems()), 1)     # the service has the high one still
        self.service.rebase('x', 2000)
        self.agree(self.a, self.b, self.c)
        self.assertEqual(self.c.get('x'), 'of a')

    def test_edited_since(self):
        """It has heard of the limit, and edits what it holds before it hears that this was rebased."""
        self.poison(10**9)
        self.a.sync()
        self.service.rebase('x', 2000)
        self.a.put('x', 'of a')
        self.agree(self.a, self.b)
        self.assertEqual(self.b.get('x'), 'of a')

    def test_clock_ahead(self):
        self.limit()
        ahead = self.client(ahead=10**9)
        ahead.put('x', 1)
        ahead.sync()
        ahead.put('y', 2)
        self.agree(ahead, self.b)
        ahead.put('x', 3)
        self.agree(ahead, self.b)
        self.b.put('x', 4)
        self.agree(ahead, self.b)
        self.assertEqual((ahead.get('x'), ahead.get('y')), (4, 2))

    def test_lost(self):
        """The service was restored to a time before it was poisoned: nothing is there to lose against."""
        self.poison(10**9)
        self.service.line.rows.clear()
        for client in self.a, self.b:
            client.compare()
        self.agree(self.a, self.b)
        self.assertEqual(self.b.get('x'), 'too high')
        self.assertLessEqual(self.b.store.find('x').clientVersion, self.service.max_version())

    def test_honest(self):
        """The limit moves on while nothing is heard: an edit of today isn't beyond that of last month."""
        self.limit()
        self.a.sync()
        self.time += 30 * 86_400_000
        self.a.put('x', 1)
        version = self.a.store.find('x').clientVersion
        self.a.sync()
        self.assertEqual(self.a.store.find('x').clientVersion, version)

    def test_no_limit(self):
        self.raw(id='x', clientVersion=10**9, body=1)
        self.a.sync()
        self.service.rebase('x', 2000)
        self.agree(self.a, self.b)
        self.assertEqual(self.service.line.rows['x']['clientVersion'], 10**9)       # as before: it is sent again


class RuleTest(unittest.TestCase):
    def test_judge(self):
        def local(version=5, utc='5', unsent=0, error=None):
            return Document('x', version, lastUpdateUtc=utc, unsent=unsent, error=error)

        def row(version=5, utc='5', deleted=False):
            return {'id': 'x', 'clientVersion': version, 'LastUpdateUtc': utc, 'deleted': deleted}
        for document, listed, expected in (
                (None, row(), FETCH), (None, row(deleted=True), NOTHING), (local(), row(), NOTHING), (local(unsent=MARK), row(), FETCH),
                (local(), row(utc='6'), FETCH), (local(), row(utc='4'), FETCH), (local(), row(version=6), FETCH),
                (local(), row(version=4), SEND), (local(unsent=MARK), row(version=4), SEND), (local(utc=None), row(version=4), SEND),
                (local(0), row(0), NOTHING), (local(0), row(0, '4'), SEND), (local(0), row(0, '6'), FETCH),
                (local(0, None), row(0), FETCH),
                (local(unsent=EDIT), row(), KEEP), (local(unsent=EDIT), row(version=6), KEEP), (local(unsent=EDIT), None, KEEP),
                (local(), None, SEND), (local(utc='3'), None, SEND), (local(utc='1'), None, REMOVE),
                (local(utc='1', unsent=MARK), None, KEEP), (local(utc='1', unsent=MARK, error='e'), None, KEEP),
                (local(unsent=MARK, error='e'), row(version=6), FETCH)):
            self.assertEqual(judge(document, listed, '2', '4'), expected, (document, listed))
        for ours, theirs, limit, expected in ((6, 5, 6, SEND), (7, 5, 6, FETCH), (7, 6, 6, FETCH), (8, 7, 6, SEND)):
            self.assertEqual(judge(local(ours), row(theirs), '2', '4', limit), expected, (ours, theirs, limit))

    def test_is_lost(self):
        for utc, lost_after, purged_through, expected in (
                (None, None, '5', True), ('3', None, None, True), ('3', None, '5', False), ('6', None, '5', True),
                ('3', '2', '5', True), ('3', '4', '5', False), ('3', '-infinity', '5', True), ('6', '9', '5', True)):
            self.assertEqual(is_lost(utc, lost_after, purged_through), expected)


class HttpTest(unittest.TestCase):
    """transport_http.py against a server that answers what it is told."""

    def setUp(self):
        test = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def do_POST(self):
                test.requests.append((self.command, self.path, self.rfile.read(int(self.headers.get('Content-Length') or 0))))
                status, text = test.answers.pop(0)
                self.send_response(status)
                self.send_header('Content-Length', str(len(text) + (10 if status == 299 else 0)))
                self.end_headers()
                self.wfile.write(text)
                self.close_connection = status == 299

            do_GET = do_POST

            def log_message(self, *arguments):
                pass

        self.requests, self.answers = [], []
        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,)).start()
        self.addCleanup(lambda: (self.transport.connection.close(), self.server.shutdown(), self.server.server_close()))
        self.transport = HttpTransport(f'http://127.0.0.1:{self.server.server_port}/api', 'token', 'a b')

    def test_requests(self):
        self.answers += [(200, b'{"results":[]}'), (200, b'{"documents":[],"cursor":"c","more":false}'),
                         (200, b'{"documents":[],"cursor":"c","more":false}'),
                         (200, b'{"rows":[],"after":null,"more":false,"purgedThrough":null}'),
                         (200, b'{"documents":[],"more":false}')]
        self.transport.upload('me', [{'id': 'x', 'clientVersion': 1, 'body': '1.10'}])
        self.transport.pull('me', 'c+', 10, '0123456789abcdef', False)
        self.transport.pull('me', None, 10, None, True, True)
        self.transport.reconcile('me', 'c', [1, 2], None, 10)
        self.transport.get('me', 'c', ['\u00e4'])
        self.assertEqual(self.requests[0], ('POST', '/api/Docs?atomic=false', b'{"collection": "a b", "clientId": "me", "documents": '
                                            b'[{"id": "x", "clientVersion": 1, "body": 1.10}]}'))
        self.assertEqual(self.requests[1][:2], ('GET', '/api/Docs/Pull?collection=a%20b&clientId=me&maxDocuments=10&'
                                                'reconcile=true&cursor=c%2B&state=0123456789abcdef&tombstones=false'))
        self.assertEqual([request[:2] for request in self.requests[2:]],
                         [('POST', '/api/Docs/Sync'), ('POST', '/api/Docs/Reconcile'), ('POST', '/api/Docs/Get')])
        self.assertEqual(json.loads(self.requests[3][2]), {'collection': 'a b', 'clientId': 'me', 'cursor': 'c', 'buckets': [1, 2],
                                                           'after': None, 'maxDocuments': 10})

    def test_refusals(self):
        self.answers += [(410, b'{"code":"resync_lost","message":"m","details":"{\\"lostAfter\\":\\"2026\\"}","hint":null}'),
                         (413, b'<html>'), (400, b'{"code":"","message":""}'), (502, b'<html>')]
        refusals = []
        for _ in range(4):
            with self.assertRaises(Refused) as raised:
                self.transport.get('me', None, [])
            refusals.append(raised.exception)
        self.assertEqual([(refusal.status, refusal.code, refusal.retry, refusal.about_documents) for refusal in refusals],
                         [(410, 'resync_lost', False, False), (413, '', False, True), (400, '', True, False), (502, '', True, False)])
        self.assertEqual(refusals[0].details, {'lostAfter': '2026'})

    def test_bad_answers(self):
        self.answers += [(200, b'<html>'), (200, b'{}'), (200, b'\xff')]
        for _ in range(3):
            with self.assertRaises(BadAnswer):
                self.transport.get('me', None, [])
        self.answers.append((299, b'{"documents":'))
        with self.assertRaises(http.client.IncompleteRead):
            self.transport.get('me', None, [])
        self.answers.append((200, b'{"documents":[],"more":false}'))
        self.transport.get('me', None, [])


if __name__ == '__main__':
    unittest.main()
