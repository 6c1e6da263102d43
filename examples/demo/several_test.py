"""several_test.py - tests of clients of several collections without a server, against service_model.py.

    /usr/bin/python3 -m unittest several_test
    SEED=17 /usr/bin/python3 -m unittest several_test.RandomSeveralTest     # repeats one random history; SEEDS=1000: how many
"""

import collections
import os
import random
import tempfile
import unittest

from client import Refused
from client_test import AT_ONCE, Client, History, Net, clone, content, live, summary
from jsontext import BadAnswer
from service_model import Service, Services
from several import Several

NAMES = 'abc'


class JointNet(Net):
    """A way to several collections. parts: of each request, {collection: ids sent}."""

    def __init__(self, services):
        super().__init__(services)
        self.parts = []

    def sync(self, client_id, parts, max_documents, tombstones):
        self.parts.append({name: [document['id'] for document in documents] for name, (_, documents, _) in parts.items()})
        return self._call('sync', client_id, parts, max_documents, tombstones)

    def on(self, name):
        return Net(self.service.services[name])


class SeveralTest(unittest.TestCase):
    """Two devices hold all collections."""

    def setUp(self):
        self.services = Services({name: Service() for name in NAMES})
        self.time = 1000
        self.one, self.two = self.device(), self.device()

    def device(self, path=None, names=NAMES, **options):
        options = {'clock': self.tick, 'waits': AT_ONCE, 'chance': random.Random(1), **options}
        transport = JointNet(self.services)
        if path:
            return Several.open(path, transport, names, **options)
        first_id, clients = None, {}
        for name in names:
            clients[name] = Client(':memory:', transport.on(name), first_id=first_id, **options)
            first_id = clients[name].client_id
        return Several(transport, clients)

    def tick(self):
        self.time += 1
        return self.time

    def calls(self, device):
        """Since it was last asked: those for several, and those of each."""
        transports = [device.transport] + [client.transport for client in device.values()]
        calls = [list(transport.calls) for transport in transports]
        for transport in transports:
            transport.calls.clear()
        return calls

    def assertSame(self, *devices):
        for device in devices or (self.one, self.two):
            for name, client in device.items():
                service = self.services.services[name]
                self.assertEqual(live(client), {id: (row['clientVersion'], 0, row['body'])
                                                for id, row in service.line.rows.items() if not row['deleted']})
                self.assertEqual(summary(client), service.state())
                self.assertEqual(client.store.select('unsent > 0 AND error IS NULL'), [])

    def in_step(self, *devices):
        for _ in range(2):
            for device in devices or (self.one, self.two):
                self.assertEqual(device.sync(), {})

    def test_one_request(self):
        for name in NAMES:
            self.one[name].put('x', f'of {name}')
        self.assertEqual(self.one.sync(), {})
        self.assertEqual(self.calls(self.one), [['sync'], [], [], []])
        self.assertEqual(self.two.sync(), {})
        self.assertEqual(self.calls(self.two), [['sync'], [], [], []])
        self.assertEqual([self.two[name].get('x') for name in NAMES], ['of a', 'of b', 'of c'])
        self.assertSame()
        self.assertEqual(len({client.client_id for client in self.one.values()}), 1)

    def test_nothing_to_do(self):
        self.in_step()
        self.calls(self.one)
        self.one.sync()
        self.assertEqual(self.calls(self.one), [['sync'], [], [], []])
        self.assertEqual(self.one.transport.parts[-1], {'a': [], 'b': [], 'c': []})

    def test_pages_are_shared_and_only_those_with_more_go_on(self):
        self.one['a'].put_all((f'{n}', n) for n in range(10))
        self.one['b'].put('x', 1)
        self.one.sync()
        self.two.sync(page=6)
        self.assertEqual([''.join(parts) for parts in self.two.transport.parts], ['abc', 'a', 'a'])
        self.assertSame()

    def test_batches_are_shared(self):
        self.one.sync()
        self.one.transport.parts.clear()
        self.one['a'].put_all((f'{n}', n) for n in range(7))
        self.one['b'].put_all((f'{n}', n) for n in range(4))
        self.one.sync(batch=5)
        self.assertEqual([{name: len(ids) for name, ids in parts.items()} for parts in self.one.transport.parts],
                         [{'a': 5, 'b': 0, 'c': 0}, {'a': 2, 'b': 3}, {'b': 1}])
        self.assertSame(self.one)

    def test_batch_ends_by_its_size(self):
        for name in NAMES:
            self.one[name].put_all((f'{n}', 'A' * 1_500_000) for n in range(3))
        self.one.sync()
        self.assertEqual([[len(ids) for ids in parts.values()] for parts in self.one.transport.parts],
                         [[3, 0, 0], [3, 0], [3]])
        self.assertSame(self.one)

    def test_sixty_at_a_time(self):
        names = [f'{n:02}' for n in range(130)]
        self.services.services = {name: Service() for name in names}
        one, two = self.device(names=names), self.device(names=names)
        for name in names:
            one[name].put('x', name)
        self.in_step(one, two)
        self.assertEqual([len(parts) for parts in one.transport.parts], [60, 60, 10] * 2)
        self.assertSame(one, two)

    def test_one_that_is_refused_stops_no_other(self):
        self.services.forbidden.add('b')
        upload = self.services.services['b'].upload

        def forbid(client_id, documents):
            raise Refused(403, '42501', 'permission denied for table document')
        self.services.services['b'].upload = forbid
        self.two['b'].put('theirs', 1)
        for name in NAMES:
            self.one[name].put('x', 1)
        refused = self.one.sync()
        self.assertEqual({name: refusal.status for name, refusal in refused.items()}, {'b': 403})
        self.assertEqual([len(self.services.services[name].line.rows) for name in NAMES], [1, 0, 1])
        self.assertEqual((self.one['b'].get('x'), content(self.one['b'])['x'][3]), (1, 1))
        self.assertFalse(self.one['b'].store.select('unanswered'))
        self.assertEqual(self.one.transport.calls, ['sync'])
        self.services.forbidden.clear()
        self.services.services['b'].upload = upload
        self.in_step()
        self.assertSame()

    def test_a_refused_upload_does_not_stop_the_download(self):
        self.two['b'].put('theirs', 1)
        self.two.sync()
        self.services.forbidden.add('b')

        def forbid(client_id, documents):
            raise Refused(403, '42501', 'permission denied for table document')
        self.services.services['b'].upload = forbid
        self.one['b'].put('x', 1)
        self.assertEqual(list(self.one.sync()), ['b'])
        self.assertEqual(self.one['b'].get('theirs'), 1)

    def test_410_of_one(self):
        """Of a service that doesn't know reconcile: it begins again, by itself, and the others go on."""
        self.two['b'].put('x', 1)
        self.two['c'].put('x', 1)
        self.in_step()
        self.two['b'].put('y', 1)
        self.two['c'].put('y', 1)
        self.two.sync()
        self.one['b'].put('z', 1)
        pull = self.services.services['b'].pull

        def gone(client_id, cursor, *arguments):
            if cursor is not None:
                raise Refused(410, 'resync_purged', 'resync required')
            return pull(client_id, cursor, *arguments)
        self.services.services['b'].pull = gone
        self.calls(self.one)
        self.assertEqual(self.one.sync(), {})
        self.assertEqual(self.calls(self.one)[0], ['sync'])
        self.assertEqual((self.one['b'].get('y'), self.one['c'].get('y')), (1, 1))
        self.services.services['b'].pull = pull
        self.in_step()
        self.assertSame()

    def test_a_loss_of_one(self):
        for name in NAMES:
            self.one[name].put('x', 1)
        self.in_step()
        backup = self.services.services['b'].backup()
        self.one['b'].put('lost', 1)
        self.two['b'].put('lost, too', 1)
        self.in_step()
        self.services.services['b'].restore(backup)
        self.calls(self.one)
        self.one['c'].put('meanwhile', 1)
        self.in_step()
        calls = self.calls(self.one)
        self.assertEqual((calls[1], calls[3]), ([], []))
        self.assertIn('reconcile', calls[2])
        self.in_step()
        self.assertEqual(len(live(self.two['b'])), 3)
        self.assertSame()

    def test_a_comparison_of_one_that_fails(self):
        self.one['a'].put('x', 1)
        self.in_step()
        self.services.services['a'].restore(Service().backup())

        def refuse(*arguments):
            raise Refused(400, '22023', 'no')
        reconcile, self.services.services['a'].reconcile = self.services.services['a'].reconcile, refuse
        self.one['b'].put('y', 1)
        refused = {}
        for _ in range(2):
            refused |= self.one.sync()
        self.assertEqual(list(refused), ['a'])
        self.assertIn('y', self.services.services['b'].line.rows)
        self.services.services['a'].reconcile = reconcile
        for _ in range(3):
            self.in_step()
        self.assertSame()

    def test_a_service_that_does_not_know_it(self):
        self.services.knows_collections = False
        for name in NAMES:
            self.one[name].put('x', 1)
        self.in_step()
        self.assertSame()
        self.assertFalse(self.one['a'].store.select('unanswered'))

    def test_what_may_be_accepted_later(self):
        sync = self.services.sync

        def fail(*arguments):
            raise Refused(503, '', '')
        self.services.sync = fail
        self.one['a'].put('x', 1)
        with self.assertRaises(Refused):
            self.one.sync()
        self.assertEqual(self.calls(self.one), [['sync'], [], [], []])
        self.services.sync = sync
        self.in_step()
        self.assertSame()

    def test_lost_answer(self):
        for name in NAMES:
            self.one[name].put('x', 1)
        self.one.transport.breaks = lambda: 'answer'
        with self.assertRaises(ConnectionError):
            self.one.sync()
        self.one.transport.breaks = lambda: None
        self.in_step()
        self.assertEqual([self.services.services[name].time for name in NAMES], [1, 1, 1])
        self.assertSame()

    def test_bad_answer(self):
        self.one['a'].put('x', 1)
        sync = self.services.sync
        for spoil in (lambda parts: parts[:-1], lambda parts: parts[::-1], lambda parts: parts[:2] + parts[:1],
                      lambda parts: [{key: value for key, value in part.items() if key != 'cursor'} for part in parts]):
            self.services.sync = lambda *arguments: (
                lambda answer: answer | {'collections': spoil(answer['collections'])})(sync(*arguments))
            with self.assertRaises(BadAnswer):
                self.one.sync()
            self.assertEqual([client.store.state()['cursor'] for client in self.one.values()], [None] * 3)
        self.services.sync = sync
        self.in_step()
        self.assertSame()

    def test_edits_offline_and_meanwhile(self):
        for name in NAMES:
            self.one[name].put('x', 1)
        self.in_step()
        self.one['a'].delete('x')
        self.one['b'].put('x', 2)
        self.one.transport.amid = 'sync'
        self.one.transport.meanwhile = lambda: (self.one['b'].put('x', 3), self.one['c'].put('y', 1))
        self.one.sync()
        self.two.sync()
        self.assertEqual((self.two['a'].get('x'), self.two['b'].get('x'), self.two['c'].get('y')), (None, 3, 1))
        self.assertSame()

    def test_refused_documents(self):
        """The request has had enough with those of the first collection: those of the others are sent again, at once."""
        self.services.max_refusals = 2
        self.one['a'].put_all((f'{n:02}', 'poison' if n % 2 else n) for n in range(6))
        self.one['b'].put_all((f'{n:02}', 'poison' if n == 1 else n) for n in range(4))
        self.one['c'].put('x', 1)
        self.assertEqual(self.one.sync(), {})
        self.assertEqual([client.status()['setAside'] for client in self.one.values()], [3, 1, 0])
        self.assertEqual([len(self.services.services[name].line.rows) for name in NAMES], [3, 3, 1])
        self.assertEqual(self.calls(self.one), [['sync'] * 3, [], [], []])
        for name in NAMES:
            self.assertEqual(summary(self.one[name]), self.services.services[name].state())

    def test_many_refused_documents(self):
        self.one['a'].put_all((f'{n:03}', 'poison') for n in range(100))
        self.one['b'].put('x', 1)
        for expected in (32, 64, 96, 100):
            self.one.sync(batch=40)
            self.assertEqual(self.one['a'].status()['setAside'], expected)
        self.assertIn('x', self.services.services['b'].line.rows)

    def test_none_is_tried(self):
        self.services.max_refusals = 0
        self.one.transport.breaks = lambda: self.assertLess(len(self.one.transport.calls), 5)
        for name in NAMES:
            self.one[name].put('x', 1)
        self.assertEqual(self.one.sync(), {})
        self.assertEqual(self.calls(self.one), [['sync'], [], [], []])
        self.services.max_refusals = 32
        self.in_step()
        self.assertSame()

    def test_winner_left_out_is_fetched(self):
        for name in NAMES:
            self.one[name].put('x', 'stale')
            self.two[name].put('x', 'newer')
        self.two.sync()
        self.services.services['b'].winner_budget = 0
        self.one.sync()
        self.assertEqual(self.calls(self.one), [['sync'], [], ['get'], []])
        self.assertSame()

    def test_winner_that_cannot_be_had(self):
        for name in NAMES:
            self.one[name].put('x', 'stale')
            self.two[name].put('x', 'newer')
        self.two.sync()
        service = self.services.services['b']
        service.winner_budget = 0
        get = service.get

        def refuse(*arguments):
            raise Refused(403, '42501', 'permission denied')
        service.get = refuse
        self.assertEqual(list(self.one.sync()), ['b'])
        self.assertEqual((self.one['a'].get('x'), self.one['c'].get('x')), ('newer', 'newer'))
        service.get = get
        self.in_step()
        self.assertSame()

    def test_compared_when_it_is_time(self):
        """Though there is always something to send."""
        for name in NAMES:
            self.one[name].put('x', 1)
        for client in self.one.values():
            client.compare()
        self.one.sync()
        self.assertEqual(self.calls(self.one), [['sync'] * 2, [], [], []])
        self.assertTrue(all(client.status()['equalAt'] for client in self.one.values()))

    def test_behind(self):
        pull = self.services.services['b'].pull
        self.in_step()

        def lag(client_id, cursor, *arguments):
            self.assertLess(len(self.one.transport.calls + self.two.transport.calls), 10)
            return {'documents': [], 'cursor': cursor, 'more': True, 'behind': True, 'serverUtc': '2026-11-22T10:00:12.000000Z'}
        self.services.services['b'].pull = lag
        self.one['b'].put('x', 1)
        self.two['c'].put('x', 1)
        self.two.sync()
        self.calls(self.one)
        self.one.sync()
        self.assertEqual(self.calls(self.one)[0], ['sync'])
        self.assertEqual(self.one['c'].get('x'), 1)
        self.assertFalse(self.one['b'].reached_end)
        self.services.services['b'].pull = pull
        self.in_step()
        self.assertSame()

    def test_first_download_without_tombstones(self):
        for name in NAMES:
            self.one[name].put('x', 1)
            self.one[name].put('y', 1)
        self.one.sync()
        for name in NAMES:
            self.one[name].delete('x')
        self.one.sync()
        self.two.sync()
        self.assertEqual([list(content(client)) for client in self.two.values()], [['y']] * 3)
        # One that needs them has them, whatever the others do.
        three = self.device(names='ab')
        three['a'].put('z', 1)
        three['a'].upload()
        self.one.sync()
        self.one['a'].delete('z')
        self.one.sync()
        three.sync()
        self.assertIsNone(three['a'].get('z'))

    def test_twin(self):
        """A device that was copied: all of its stores take one new name."""
        for name in NAMES:
            self.one[name].put('x', 1)
        self.in_step()
        twin = self.device()
        for name in NAMES:
            clone(self.one[name], twin[name])
        twin['b'].put('x', 'of the copy')
        twin.sync()
        before = self.one['a'].client_id
        for client in self.one.values():
            client.compare()
        self.in_step(self.one)
        self.assertEqual(len({client.client_id for client in self.one.values()}), 1)
        self.assertNotEqual(self.one['a'].client_id, before)
        self.in_step(self.one, twin, self.two)
        self.assertSame(self.one, twin, self.two)
        self.calls(self.one)
        self.one.sync()
        self.assertEqual(self.calls(self.one), [['sync'], [], [], []])

    def test_names_that_differ(self):
        """Each has a request of its own."""
        clients = {name: Client(':memory:', self.one.transport.on(name), clock=self.tick, waits=AT_ONCE) for name in NAMES}
        several = Several(JointNet(self.services), clients)
        for name in NAMES:
            several[name].put('x', 1)
        self.in_step(several, self.two)
        self.assertEqual(several.transport.parts[:3], [{name: ['x']} for name in NAMES])
        self.assertSame(several, self.two)

    def test_opened_again(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, 'new', 'one')
            one = self.device(path, 'ab')
            one['a'].put('x', 1)
            client_id = one['a'].client_id
            for client in one.values():
                client.store.db.close()
            again = self.device(path, 'cab')
            self.assertEqual(list(again), ['c', 'a', 'b'])
            self.assertEqual({client.client_id for client in again.values()}, {client_id})
            self.in_step(again, self.two)
            self.assertEqual(self.two['a'].get('x'), 1)
            for client in again.values():
                client.store.db.close()

    def test_name_of_a_token(self):
        one = self.device(client_id='phone')
        one['a'].put('x', 1)
        self.in_step(one, self.two)
        self.assertEqual({client.client_id for client in one.values()}, {'phone'})
        self.assertSame(one, self.two)


class SeveralHistory:
    """In each of several collections happens what client_test's History has; some of their clients are one device's, and are
    synchronised at once."""

    def __init__(self, seed, test):
        self.test = test
        self.chance = chance = random.Random(seed)
        self.parts = [History(chance.randrange(10**9), test) for _ in range(chance.randint(2, 3))]
        self.services = Services({NAMES[n]: part.service for n, part in enumerate(self.parts)})
        self.services.max_refusals = chance.choice((1, 3, 32))
        self.services.knows_collections = chance.random() > 0.1
        self.devices = [self.device(n) for n in range(min(len(part.clients) for part in self.parts))]
        self.happened = collections.Counter()

    def device(self, n):
        device = Several(JointNet(self.services), {NAMES[m]: part.clients[n] for m, part in enumerate(self.parts)})
        for client in device.values():
            with client.store.transaction():
                client.store.set_state(clientId=device['a'].client_id)
        device.transport.breaks = lambda: self.chance.choice((None,) * 8 + ('request', 'answer')) if self.parts[0].trouble else None
        return device

    def step(self):
        if self.chance.random() < 0.7:
            self.chance.choice(self.parts).step()
            return
        device = self.chance.choice(self.devices)
        if self.chance.random() < 0.3:
            device.transport.amid, device.transport.meanwhile = 'sync', self.meanwhile(device)
        before = [part.held(client) for part, client in zip(self.parts, device.values())]
        try:
            refused = device.sync(self.chance.randint(1, 10), self.chance.randint(1, 10))
            self.happened['sync'] += 1
            self.test.assertEqual(refused, {})
        except ConnectionError:
            self.happened['broken'] += 1
        for part, client, held in zip(self.parts, device.values(), before):
            part.nothing_lost(client, held)

    def meanwhile(self, device):
        """Something while the request is on its way."""
        part, others = self.chance.choice(self.parts), [other for other in self.devices if other is not device]
        what = self.chance.choice((part.put, part.delete, part.purge, part.restore, part.begin, part.end))
        client, id = self.chance.choice(part.clients), f'd{self.chance.randrange(part.IDS)}'
        return self.chance.choice((lambda: what(client, id), lambda: self.chance.choice(others).sync()))

    def end_all(self):
        held = [part.end_trouble() for part in self.parts]
        for device in self.devices:
            device.transport.meanwhile = None
        for _ in range(12):
            for part in self.parts:
                for client in part.clients:
                    client.compare()
                for client in part.clients[len(self.devices):]:
                    client.sync()
            for device in self.devices:
                self.test.assertEqual(device.sync(), {})
        for device in self.devices:
            device.transport.calls.clear()
            for client in device.values():
                client.transport.calls.clear()
            device.sync()
            if self.services.knows_collections:
                names = {client.client_id for client in device.values()}
                self.test.assertEqual(device.transport.calls, ['sync'] * len(names), 'something is still to be done')
                self.test.assertEqual([client.transport.calls for client in device.values()], [[]] * len(device))
        for part, before in zip(self.parts, held):
            self.test.assertEqual(len({client.client_id for client in part.clients}), len(part.clients), 'a twin was not found')
            for client, documents in zip(part.clients, before):
                part.same(client)
                for id, document in documents.items():
                    part.survives(id, document)


class RandomSeveralTest(unittest.TestCase):
    def test_random(self):
        first = os.environ.get('SEED')
        seeds = [int(first)] if first else [random.randrange(10**9) for _ in range(int(os.environ.get('SEEDS', 40)))]
        for seed in seeds:
            history = SeveralHistory(seed, self)
            try:
                for _ in range(history.chance.choice((30, 100, 300))):
                    history.step()
                history.end_all()
            except BaseException:
                print(f'SEED={seed}', *(history.parts[0].log[-20:] if first else ()), sep='; ')
                raise


if __name__ == '__main__':
    unittest.main()
