"""client_test.py - tests of client.py without a server, against the protocol's rule in a few lines of Python.

    /usr/bin/python3 -m unittest client_test
"""

import os
import random
import tempfile
import unittest

from client import Client


class Service:
    """What the service promises, in memory."""

    def __init__(self):
        self.documents = {}
        self.time = 0

    def upload(self, client_id, documents):
        return [self._upload(client_id, document) for document in documents]

    def _upload(self, client_id, sent):
        sent = {'deleted': False, 'body': None, **sent, 'clientId': client_id}
        stored = self.documents.get(sent['id'])
        outcome, winner = 'updated', None
        if stored is None:
            outcome = 'created'
        elif {**stored, 'LastUpdateUtc': None} == {**sent, 'LastUpdateUtc': None}:
            outcome = 'unchanged'
        elif not (stored['clientVersion'] < sent['clientVersion'] or stored['clientVersion'] == sent['clientVersion'] == 0):
            outcome, winner = 'discarded', stored
        if outcome in ('created', 'updated'):
            self.time += 1
            stored = {**sent, 'LastUpdateUtc': f'2026-11-22T10:11:12.{self.time:06}Z'}
            self.documents[sent['id']] = stored
        return {'id': sent['id'], 'outcome': outcome, 'clientVersion': stored['clientVersion'], 'winner': winner}

    def download(self, client_id, since, max_documents):
        found = sorted((document for document in self.documents.values()
                        if document['clientId'] != client_id and document['LastUpdateUtc'] >= (since or '')),
                       key=lambda document: document['LastUpdateUtc'])
        at_since = bool(found) and found[0]['LastUpdateUtc'] == since
        return found[:max_documents + at_since]


class Net:
    """A way to the service that breaks as told: before the call ('request') or after it ('answer')."""

    def __init__(self, service):
        self.service = service
        self.breaks = lambda: None
        self.sent = []          # the documents of each upload
        self.meanwhile = None   # called once, while an upload is on its way

    def _call(self, function, *arguments):
        where = self.breaks()
        if where == 'request':
            raise ConnectionError
        result = function(*arguments)
        if where == 'answer':
            raise ConnectionError
        return result

    def upload(self, client_id, documents):
        self.sent.append(documents)
        if self.meanwhile:
            self.meanwhile, meanwhile = None, self.meanwhile
            meanwhile()
        return self._call(self.service.upload, client_id, documents)

    def download(self, *arguments):
        return self._call(self.service.download, *arguments)


class ClientTest(unittest.TestCase):
    def setUp(self):
        self.service = Service()
        self.time = 1000    # milliseconds; one more at each look
        self.a = self.client()
        self.b = self.client()

    def client(self, ahead=0, path=':memory:'):
        return Client(path, Net(self.service), lambda: self.tick() + ahead)

    def tick(self):
        self.time += 1
        return self.time

    def content(self, client):
        return {row[0]: row[1:] for row in
                client.db.execute('SELECT id, clientVersion, deleted, body, dirty FROM document')}

    def test_edit_travels(self):
        self.a.put('x', {'n': 1})
        self.a.sync()
        self.b.sync()
        self.assertEqual(self.b.get('x'), {'n': 1})
        self.b.put('x', {'n': 2})
        self.b.sync()
        self.a.sync()
        self.assertEqual(self.a.get('x'), {'n': 2})
        self.assertEqual(self.content(self.a), self.content(self.b))

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
        version, = self.a.db.execute('SELECT lastUploadClientVersion FROM client').fetchone()
        self.assertGreater(version, self.content(self.a)['y'][0])
        self.a.sync()
        ahead.sync()
        self.assertEqual((ahead.get('x'), ahead.get('y')), ('later', 'now'))

    def test_discarded_takes_winner(self):
        self.a.put('x', 'stale')
        self.b.put('x', 'newer')
        self.b.sync()
        self.assertEqual(self.a.upload(), {'discarded': 1})
        self.assertEqual(self.content(self.a), self.content(self.b))

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
                self.assertEqual(self.content(self.a), self.content(self.b))

    def test_lost_answer(self):
        self.a.put('x', 1)
        self.a.transport.breaks = lambda: 'answer'
        with self.assertRaises(ConnectionError):
            self.a.sync()
        self.a.transport.breaks = lambda: None
        self.assertEqual(self.a.upload(), {'unchanged': 1})
        self.assertEqual(self.service.time, 1)

    def test_tombstone_and_back(self):
        self.a.put('x', 1)
        self.a.sync()
        self.b.sync()
        self.b.delete('x')
        self.b.delete('never was')
        self.b.sync()
        self.a.sync()
        self.assertIsNone(self.a.get('x'))
        self.assertNotIn('never was', self.service.documents)
        self.a.put('x', 2)
        self.a.sync()
        self.b.sync()
        self.assertEqual(self.b.get('x'), 2)

    def test_pages(self):
        self.a.put_all((f'{n}', n) for n in range(10))
        self.a.upload(batch=3)
        self.assertEqual([len(documents) for documents in self.a.transport.sent], [3, 3, 3, 1])
        pages = []
        self.assertEqual(self.b.download(page=3, watch=pages.append), 10)
        self.assertEqual([len(page) for page in pages], [3, 4, 4, 2, 1])
        self.assertEqual(self.b.download(page=3), 0)

    def test_empty_page_moves_nothing(self):
        self.a.put('x', 1)
        self.a.sync()
        self.b.sync()
        self.b.put('x', 2)      # now the document at `since` is b's own
        self.b.sync()
        since, = self.b.db.execute('SELECT newestKnownServiceRecordUtc FROM client').fetchone()
        self.assertEqual(since, '2026-11-22T10:11:12.000001Z')

    def test_version_zero_is_always_accepted(self):
        a, b = (Client(':memory:', Net(self.service), lambda: 0) for _ in range(2))
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
            first.db.close()
            second = self.client(path=path)
            self.assertEqual(second.client_id, first.client_id)
            self.assertEqual(second.upload(), {'created': 1})

    def test_random(self):
        """Any edits, clocks and broken connections: in the end all are the same."""
        for seed in range(200):
            with self.subTest(seed=seed):
                self.setUp()
                chance = random.Random(seed)
                clients = [self.client(ahead=chance.choice((0, 0, -500, 500))) for _ in range(3)]
                for client in clients:
                    client.transport.breaks = lambda: chance.choice((None, None, None, 'request', 'answer'))
                for _ in range(200):
                    client = chance.choice(clients)
                    id = f'd{chance.randrange(12)}'
                    action = chance.choice(('put', 'put', 'delete', 'upload', 'download'))
                    try:
                        if action == 'put':
                            client.put(id, chance.random())
                        elif action == 'delete':
                            client.delete(id)
                        elif action == 'upload':
                            if chance.random() < 0.2:
                                client.transport.meanwhile = lambda client=client, id=id: client.put(id, 'meanwhile')
                            client.upload(batch=chance.randint(1, 5))
                        else:
                            client.download(page=chance.randint(1, 5))
                    except ConnectionError:
                        pass
                for client in clients:
                    client.transport.breaks = lambda: None
                for client in clients * 2:
                    client.sync()
                service = {id: document['clientVersion'] for id, document in self.service.documents.items()}
                for client in clients:
                    self.assertEqual(self.content(client), self.content(clients[0]))
                    self.assertEqual({id: row[0] for id, row in self.content(client).items()}, service)
                    self.assertFalse(any(row[3] for row in self.content(client).values()))


if __name__ == '__main__':
    unittest.main()
