"""clients.py - clients with local stores, driven by a test.

    clients.py DIRECTORY

Reads calls, each a line of JSON, [client, method, arguments, named arguments], and answers each with a line, {"result"} or
{"error"}. The stores are files in DIRECTORY.
"""

import http.client
import json
import os
import random
import sqlite3
import sys
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', '..', 'examples', 'demo'))

from client import Client, Refused, Waits, now_ms   # noqa: E402
from jsontext import from_json, to_json             # noqa: E402
from store import EDIT, Document                    # noqa: E402
from transport_http import HttpTransport            # noqa: E402

FOREVER = 10**12


class Line:
    """A way to the service that can be cut, and notes what went over it: texts such as "pull: a b, told"."""

    def __init__(self, url, token, collection, read_url=None):
        self.transport = HttpTransport(url, token, collection)
        self.reader = HttpTransport(read_url or url, token, collection)
        self.log = []
        self.left = None        # so many requests get through, and their answers
        self.answers = True     # the one after them gets through, too, but not its answer
        self.page = None
        self.meanwhile = None   # called once, when an answer has come

    def _call(self, name, *arguments, to=None):
        if self.left is not None:
            self.left -= 1
            if self.left < 0 and self.answers:
                raise ConnectionError('the line is cut')
        try:
            answer = getattr(to or self.transport, name)(*arguments)
        except Refused as refusal:
            self.log.append(f'{name}: {refusal.status} {refusal.code}')
            raise
        if self.left is not None and self.left < 0:
            raise ConnectionError('the answer is lost')
        self.log.append(f'{name}: {", ".join(part for part in self._parts(name, answer, arguments) if part)}'.rstrip())
        if self.meanwhile:
            self.meanwhile, meanwhile = None, self.meanwhile
            meanwhile()
        return answer

    def _parts(self, name, answer, arguments):
        if name == 'upload':
            yield ' '.join(f'{result["id"]} {result["outcome"]}' for result in answer['results'])
        if 'documents' in answer:
            yield ' '.join(document['id'] for document in answer['documents'])
        if 'rows' in answer:
            yield ' '.join(row['id'] for row in answer['rows'])
        for key, text in (('behind', 'behind'), ('reconcile', 'told')):
            if answer.get(key):
                yield text
        if name == 'pull' and arguments[3] and not answer['more'] and 'state' in answer:
            state = answer['state']
            yield 'no state' if state is None else 'equal' if state['digest'] == arguments[3] else 'different'

    def upload(self, *arguments):
        return self._call('upload', *arguments)

    def pull(self, client_id, cursor, max_documents, digest=None, tombstones=True, primary=False):
        return self._call('pull', client_id, cursor, min(max_documents, self.page or max_documents), digest, tombstones, primary,
                          to=self.transport if primary else self.reader)

    def reconcile(self, *arguments):
        return self._call('reconcile', *arguments)

    def get(self, *arguments):
        return self._call('get', *arguments)


class Driven:
    def __init__(self, directory, name, url, token, collection, read_url=None, client_id=None, waits=None, copy_of=None):
        self.path = os.path.join(directory, f'{name}.sqlite')
        if copy_of:
            copied = sqlite3.connect(self.path)
            copy_of.client.store.db.backup(copied)
            copied.close()
        self.line = Line(url, token, collection, read_url)
        self.ahead = 0
        # It compares when it is told to, or by compare(), and never twice for nothing.
        self.client = Client(
            self.path, self.line, lambda: now_ms() + self.ahead, client_id, chance=random.Random(name),
            waits=Waits(**{'told': 0, 'others': 0, 'compare': FOREVER, 'again': 0, 'primary': 0, **(waits or {})}))

    def sync(self):
        """'' or what kept it from its end."""
        return self._try(self.client.sync)

    def upload(self):
        return self._try(self.client.upload)

    def download(self):
        return self._try(self.client.download)

    def _try(self, what):
        try:
            what()
        except Refused as refusal:
            return f'{refusal.status} {refusal.code}'
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__
        return ''

    def put(self, id, body):
        self.client.put(id, body)

    def put_all(self, documents):
        self.client.put_all(documents.items())

    def put_zero(self, id, body):
        """With clientVersion 0, as clients do that know of no versions."""
        with self.client.store.transaction():
            document = self.client.store.find(id) or Document(id)
            document.clientVersion, document.body, document.unsent = 0, to_json(body), EDIT
            document.lastUpdateUtc = document.clientId = None
            self.client.store.save(document)

    def delete(self, id):
        self.client.delete(id)

    def get(self, id):
        return self.client.get(id)

    def version(self, id):
        return self.client.store.find(id).clientVersion

    def compare(self):
        self.client.compare()

    def later(self, milliseconds):
        self.ahead += milliseconds

    def use(self, url, read_url=None):
        self.line.transport = HttpTransport(url, *self._token())
        self.line.reader = HttpTransport(read_url or url, *self._token())

    def _token(self):
        transport = self.line.transport
        return transport.headers['Authorization'].removeprefix('Bearer '), transport.collection['collection']

    def cut(self, left=0, answers=True):
        self.line.left, self.line.answers = left, answers

    def mend(self):
        self.line.left = None

    def page(self, documents):
        self.line.page = documents

    def edit_meanwhile(self, id, body):
        self.line.meanwhile = lambda: self.client.put(id, body)

    def log(self):
        """What has happened since it was last asked."""
        log, self.line.log = self.line.log, []
        return log

    def content(self):
        """The live documents."""
        return {document.id: [document.clientVersion, from_json(document.body)]
                for document in self.client.store.select('NOT deleted')}

    def unsent(self):
        return [document.id for document in self.client.store.select('unsent > 0 AND error IS NULL ORDER BY id')]

    def problems(self):
        return [id for id, _, _ in self.client.problems()]

    def status(self):
        return self.client.status()

    def digest(self):
        digest = self.client.store.digest()
        return [digest['count'], digest['digest']]


def main(directory):
    clients = {}
    for line in sys.stdin:
        name, method, arguments, named = json.loads(line)
        try:
            if method == 'new':
                if 'copy_of' in named:
                    named['copy_of'] = clients[named['copy_of']]
                clients[name] = Driven(directory, name, *arguments, **named)
                result = None
            else:
                result = getattr(clients[name], method)(*arguments, **named)
            answer = {'result': result}
        except Exception:
            answer = {'error': traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
