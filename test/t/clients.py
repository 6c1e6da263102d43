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
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', '..', 'examples', 'demo'))

from client import Client, Refused, Waits, now_ms   # noqa: E402
from jsontext import from_json, to_json             # noqa: E402
from several import Several                         # noqa: E402
from store import EDIT, Document                    # noqa: E402
from transport_http import HttpTransport, refused   # noqa: E402

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
            yield ('no state' if state is None else 'equal' if state['digest'] == arguments[3]
                   else 'state' if answer['documents'] else 'different')

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
    """A client of examples/demo's. seed: for what it does at random."""

    def __init__(self, directory, name, url, token, collection, read_url=None, client_id=None, waits=None, copy_of=None, seed=''):
        self.path = os.path.join(directory, f'{name}.sqlite')
        if copy_of:
            copied = sqlite3.connect(self.path)
            copy_of.client.store.db.backup(copied)
            copied.close()
        self.line = Line(url, token, collection, read_url)
        self.ahead = 0
        # It compares when it is told to, or by compare(), and never twice for nothing.
        self.client = Client(
            self.path, self.line, lambda: now_ms() + self.ahead, client_id, chance=random.Random(f'{seed} {name}'),
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

    def put_many(self, number, body):
        self.client.put_all((f'd{n}', body) for n in range(number))

    def put_text(self, id, text):
        self.client.put(id, from_json(text))

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

    def text(self, id):
        return self.client.get_text(id)

    def count(self):
        return len(self.client.store.select('NOT deleted'))

    def version(self, id):
        return self.client.store.find(id).clientVersion

    def version_text(self, id):
        return str(self.version(id))

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

    def held(self):
        """The live documents that are not refused: id -> clientVersion."""
        return {document.id: document.clientVersion for document in self.client.store.select('NOT deleted AND error IS NULL')}

    def back_up(self):
        self.kept = sqlite3.connect(f'{self.path}.kept')
        self.client.store.db.backup(self.kept)

    def restore(self):
        """The store as it was when it was backed up; in the same file, so it doesn't show."""
        self.kept.backup(self.client.store.db)

    def unsent(self):
        return [document.id for document in self.client.store.select('unsent > 0 AND error IS NULL ORDER BY id')]

    def problems(self):
        return [id for id, _, _ in self.client.problems()]

    def status(self):
        return self.client.status()

    def digest(self):
        digest = self.client.store.digest()
        return [digest['count'], digest['digest']]


class Notes:
    """A transport that notes its calls, with the collections: "sync a b", "pull a"."""

    def __init__(self, transport, log, name=None):
        self.transport, self.log, self.name = transport, log, name

    def on(self, collection):
        return Notes(self.transport.on(collection), self.log, collection)

    def sync(self, client_id, parts, *arguments):
        self.log.append(' '.join(['sync', *parts]))
        return self.transport.sync(client_id, parts, *arguments)

    def _call(self, call, *arguments):
        self.log.append(f'{call} {self.name}')
        return getattr(self.transport, call)(*arguments)

    def upload(self, *arguments):
        return self._call('upload', *arguments)

    def pull(self, *arguments):
        return self._call('pull', *arguments)

    def reconcile(self, *arguments):
        return self._call('reconcile', *arguments)

    def get(self, *arguments):
        return self._call('get', *arguments)


class Joint:
    """A client of examples/demo's that holds several collections; with a dsn it comes by SQL."""

    def __init__(self, directory, name, url, token, *names, dsn=None):
        if dsn:
            import psycopg2
            from transport_sql import SqlTransport
            transport = SqlTransport(psycopg2.connect(dsn, options='-c search_path=api'))
        else:
            transport = HttpTransport(url, token)
        self.calls = []
        self.clients = Several.open(os.path.join(directory, name), Notes(transport, self.calls), names, chance=random.Random(name),
                                    waits=Waits(told=0, others=0, compare=FOREVER, again=0, primary=0))

    def sync(self, page=1000):
        """{collection: what it is refused for}"""
        return {name: f'{refusal.status} {refusal.code}' for name, refusal in self.clients.sync(page=page).items()}

    def put(self, collection, id, body):
        self.clients[collection].put(id, body)

    def put_all(self, collection, documents):
        self.clients[collection].put_all(documents.items())

    def delete(self, collection, id):
        self.clients[collection].delete(id)

    def content(self):
        return {name: {document.id: from_json(document.body) for document in client.store.select('NOT deleted')}
                for name, client in self.clients.items()}

    def problems(self):
        return {name: [id for id, _, _ in client.problems()] for name, client in self.clients.items() if client.problems()}

    def compare(self):
        for client in self.clients.values():
            client.compare()

    def equal(self):
        """How many have been found to be the same as the service's, since it was last asked."""
        equal = sum(client.status()['equalAt'] is not None for client in self.clients.values())
        for client in self.clients.values():
            with client.store.transaction():
                client.store.set_state(equalAt=None)
        return equal

    def spoil_cursor(self, collection, other):
        """Its cursor is another collection's."""
        with self.clients[collection].store.transaction():
            self.clients[collection].store.set_state(cursor=self.clients[other].store.state()['cursor'])

    def log(self):
        """What has happened since it was last asked."""
        log, self.calls[:] = list(self.calls), []
        return log


class Plain:
    """A client that speaks only POST /Docs and POST /Docs/Query, and goes by stamps: doc/protocol.md."""

    def __init__(self, directory, name, url, token, collection, seed=''):
        self.name, self.collection = name, collection
        self.documents = {}         # id -> [clientVersion, deleted, body]
        self.unsent = set()
        self.since, self.ahead = None, 0
        self.done = []
        self.token, self.left, self.answers = token, None, True
        self.use(url)

    def use(self, url, read_url=None):
        self.transport = HttpTransport(url, self.token, self.collection)

    def put(self, id, body):
        self._edit(id, False, body)

    def delete(self, id):
        if self.documents.get(id, (0, True))[1] is False:
            self._edit(id, True, None)

    def _edit(self, id, deleted, body):
        version = max(now_ms() + self.ahead, self.documents.get(id, (0,))[0] + 1)
        self.documents[id] = [version, deleted, body]
        self.unsent.add(id)

    def version(self, id):
        return self.documents[id][0]

    def versions(self):
        """Of all it has, deletions among them."""
        return {id: version for id, (version, _, _) in self.documents.items()}

    def sync(self):
        try:
            self._upload()
            self._download()
        except Refused as refusal:
            return f'{refusal.status} {refusal.code}'
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__
        return ''

    def _upload(self):
        sent = {id: self.documents[id] for id in sorted(self.unsent)}
        if not sent:
            return
        answer = self._request('/Docs', {}, [
            {'id': id, 'clientVersion': version, 'deleted': deleted, 'body': body}
            for id, (version, deleted, body) in sent.items()])
        for result in answer['results']:
            self.unsent.discard(result['id'])
            if result['winner']:
                self._take(result['winner'])

    def _download(self):
        try:
            self._take_all(self._query('other'))
        except Refused as refusal:
            if refusal.status != 410:
                raise
            self._begin_again(send=refusal.code == 'resync_lost')

    def _begin_again(self, send=False):
        """send: what didn't come. Else it goes."""
        self.since = None
        came = self._query('any')
        missing = self.documents.keys() - {document['id'] for document in came} - self.unsent
        for id in missing:
            if send and not self.documents[id][1]:
                self.unsent.add(id)
            else:
                del self.documents[id]
        for document in came:
            if document['id'] not in self.unsent:
                self.documents.pop(document['id'], None)
        self._take_all(came)
        self._upload()

    def begin_again(self):
        self._begin_again()

    def _query(self, origin):
        return self._request('/Docs/Query', {'origin': origin, 'sinceUtc': self.since or '1970-01-01T00:00:00Z'})

    def _take_all(self, documents):
        for document in documents:
            self._take(document)
            self.since = document['LastUpdateUtc']

    def _take(self, document):
        id, version = document['id'], document['clientVersion']
        if id not in self.documents or version >= self.documents[id][0]:
            self.documents[id] = [version, document['deleted'], document['body']]
            self.unsent.discard(id)

    def _request(self, path, arguments, body=None):
        if self.left is not None:
            self.left -= 1
            if self.left < 0 and self.answers:
                raise ConnectionError('the line is cut')
        query = urllib.parse.urlencode({'clientId': self.name, 'collection': self.collection, **arguments})
        status, text = self.transport._exchange('POST', f'{path}?{query}', json.dumps(body).encode() if body else b'')
        if status != 200:
            self.done.append(f'{path}: {status}')
            raise refused(status, text)
        if self.left is not None and self.left < 0:
            raise ConnectionError('the answer is lost')
        self.done.append(path)
        return json.loads(text)

    def later(self, milliseconds):
        self.ahead += milliseconds

    def cut(self, left=0, answers=True):
        self.left, self.answers = left, answers

    def mend(self):
        self.left = None

    def log(self):
        done, self.done = self.done, []
        return done

    def content(self):
        return {id: [version, body] for id, (version, deleted, body) in self.documents.items() if not deleted}


def main(directory):
    clients = {}
    for line in sys.stdin:
        name, method, arguments, named = json.loads(line)
        try:
            if method == 'new':
                if 'copy_of' in named:
                    named['copy_of'] = clients[named['copy_of']]
                kind = Plain if named.pop('plain', False) else Joint if named.pop('joint', False) else Driven
                clients[name] = kind(directory, name, *arguments, **named)
                result = None
            else:
                result = getattr(clients[name], method)(*arguments, **named)
            answer = {'result': result}
        except Exception:
            answer = {'error': traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
