"""http_client.py - one of the clients of 054_http_random.pl: edits at random over a line that breaks at random.

    http_client.py URL TOKEN DIRECTORY NAME SEED COLLECTION ...

Edits and syncs until the file DIRECTORY/stop is there, then syncs until nothing is left to send, writes NAME.done, waits for
DIRECTORY/last, syncs until the service's digests are its own and prints its stores to NAME.json, with what happened. Several
collections are synchronised in one request.
"""

import collections
import http.client
import json
import os
import random
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', '..', 'examples', 'demo'))

from client import Refused, Waits, now_ms           # noqa: E402
from jsontext import BadAnswer                      # noqa: E402
from several import Several                         # noqa: E402
from transport_http import HttpTransport            # noqa: E402

IDS = 150       # few enough for all clients to write to the same
WAITS = Waits(told=0, others=500, compare=2000, again=500)      # milliseconds


class BadLine:
    """Loses requests and answers, and is late."""

    bad = True      # all of them

    def __init__(self, transport, chance, happened):
        self.transport, self.chance, self.happened = transport, chance, happened

    def on(self, collection):
        return BadLine(self.transport.on(collection), self.chance, self.happened)

    def _call(self, name, *arguments):
        self.happened[name] += 1
        where = self.chance.choices(('', 'request', 'answer'), (80, 5, 15))[0] if self.bad else ''
        time.sleep(self.chance.random() * 0.02)
        if where == 'request':
            self.happened['request lost'] += 1
            raise ConnectionError('request lost')
        result = getattr(self.transport, name)(*arguments)
        if where == 'answer':
            self.happened['answer lost'] += 1
            raise ConnectionError('answer lost')
        time.sleep(self.chance.random() * 0.02)
        return result

    def upload(self, *arguments):
        return self._call('upload', *arguments)

    def pull(self, *arguments):
        answer = self._call('pull', *arguments)
        self._note_told(answer)
        return answer

    def _note_told(self, answer):
        for key in 'reconcile', 'behind', 'state':
            self.happened[f'told: {key}'] += bool(answer.get(key))

    def sync(self, *arguments):
        answer = self._call('sync', *arguments)
        for part in answer['collections']:
            self._note_told(part)
            self.happened['refused collection'] += 'error' in part
            self.happened.update(result['outcome'] for result in part.get('results', ()))
            self.happened['taken'] += len(part.get('documents', ()))
        return answer

    def reconcile(self, *arguments):
        return self._call('reconcile', *arguments)

    def get(self, *arguments):
        return self._call('get', *arguments)


def main(url, token, directory, name, seed, *names):
    chance = random.Random(seed)
    happened = collections.Counter()
    ahead = chance.choice((0, -2000, 2000))         # milliseconds
    clients = Several.open(os.path.join(directory, name), BadLine(HttpTransport(url, token), chance, happened), names,
                           clock=lambda: now_ms() + ahead, waits=WAITS)

    def there(file):
        return os.path.exists(os.path.join(directory, file))

    def edit():
        id, client = f'd{chance.randrange(IDS)}', clients[chance.choice(names)]
        if chance.random() < 0.2:
            client.delete(id)
        elif chance.random() < 0.1:
            # What the service refuses, for as long as it is in the table's way
            client.put(f'bad {name} {chance.randrange(5)}', {'refuse': chance.choice(('before', 'after', 'check'))})
        else:
            client.put(id, {'by': name, 'n': chance.getrandbits(63), 'text': 'x' * chance.randrange(200)})
        happened['edit'] += 1

    def sync():
        """Whether it went through."""
        try:
            if len(names) > 1:
                for refusal in clients.sync(chance.randint(1, 40), chance.randint(1, 40)).values():
                    raise refusal
                return True
            client = clients[names[0]]
            happened.update(client.upload(batch=chance.randint(1, 40)))
            happened['taken'] += client.download(page=chance.randint(1, 40))
            client.sync()
            return True
        except Refused as refusal:
            # What is refused for its content, or for who sends it, would be refused for ever, and has a code that says
            # so. A server that starts up is PostgREST's 503 or a 500, and a connection that breaks in the middle of a
            # statement can be its 400 with nothing in it.
            if not refusal.retry:
                raise
            happened[f'{refusal.status}'] += 1
        except (OSError, http.client.HTTPException, BadAnswer) as error:
            happened[type(error).__name__] += 1
        return False

    def is_equal():
        """Whether the service's digests are the stores'."""
        before = [client.status()['equalAt'] for client in clients.values()]
        for client in clients.values():
            client.compare()
        return sync() and all(client.status()['equalAt'] != then for client, then in zip(clients.values(), before))

    while not there('stop'):
        for _ in range(chance.randrange(8)):
            edit()
        if not sync():
            time.sleep(0.05)
    BadLine.bad = False
    while not sync():
        time.sleep(0.05)
    open(os.path.join(directory, f'{name}.done'), 'w').close()
    while not there('last'):
        time.sleep(0.05)
    tries = 0
    while not is_equal() and tries < 200:
        tries += 1
        time.sleep(0.05)
    stores = {collection: [(document.id, document.clientVersion, document.deleted, document.body, document.unsent)
                           for document in client.store.select("id NOT LIKE 'bad %' ORDER BY id")]
              for collection, client in clients.items()}
    problems = [problem for client in clients.values() for problem in client.problems()]
    with open(os.path.join(directory, f'{name}.json'), 'w') as file:
        json.dump({'stores': stores, 'happened': happened, 'equal': tries < 200, 'problems': problems}, file)


if __name__ == '__main__':
    main(*sys.argv[1:])
