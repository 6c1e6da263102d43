"""several.py - several collections of one client, each with a local store of its own, synchronised in one request.

    from several import Several
    from transport_http import HttpTransport

    lists = Several.open('lists', HttpTransport('http://127.0.0.1:8080', token), ['anna/own', 'anna/family'])
    lists['anna/family'].put('shopping', {'text': 'bread'})
    refused = lists.sync()

Each collection is a complete Client: it has its documents, its cursor, its comparisons, and may be synchronised by itself at any
time. They share the clientId, the request and the page. If the service refuses something in one collection, that one continues by
itself, as Client.sync() does, and doesn't hold up the others. The same holds for a comparison, which takes more than one request.
"""

import collections
import hashlib
import os
import uuid

from client import BATCH_BYTES, BEGINNING, MAX_REFUSED, Client, Refused
from jsontext import BadAnswer
from reconcile import Stale
from store import EDIT

MAX_COLLECTIONS = 60        # in a request
KEYS = {'results', 'documents', 'cursor', 'more'}       # of the answer for a collection


class Several(dict):
    """{collection: Client}. The transport has two calls. The first raises the same errors as those of Client's transport:

    sync(clientId, {collection: (cursor, documents, digest)}, maxDocuments, tombstones) -> {collections, serverUtc}: in the order
        asked for {collection, results, documents, cursor, more, ...} of each, or {collection, error}; not atomic
    on(collection) -> the transport of a Client
    """

    def __init__(self, transport, clients):
        super().__init__(clients)
        self.transport = transport

    @classmethod
    def open(cls, directory, transport, names, **options):
        """Opens the stores in a directory, one file each; new ones get the clientId of the others. options: those of Client."""
        os.makedirs(directory, exist_ok=True)
        paths = {name: os.path.join(directory, f'{hashlib.sha256(name.encode()).hexdigest()}.sqlite') for name in names}
        clients, first_id = dict.fromkeys(names), None
        for name in sorted(names, key=lambda name: not os.path.exists(paths[name])):
            clients[name] = Client(paths[name], transport.on(name), first_id=first_id, **options)
            first_id = clients[name].client_id
        return cls(transport, clients)

    def sync(self, batch=1000, page=1000):
        """Sends, receives, and compares if that is due. Returns {collection: Refused} for what the service refuses; all others
        are done by then. batch, page: how many documents are sent and received in a request, in all collections together."""
        turns = [Turn(name, client) for name, client in self.items()]
        while going := [turn for turn in turns if turn.goes_on()]:
            # A store that was found to be a copy may have another clientId than the others, and then needs a separate request.
            client_id = going[0].client.client_id
            self._exchange(client_id, [turn for turn in going if turn.client.client_id == client_id][:MAX_COLLECTIONS], batch, page)

        refused = {}
        done = self._each([turn for turn in turns if turn.client.reached_end and not turn.alone], Client.reconcile, refused)
        # Whoever has copied one store has copied all of them. As with one store, each has reached its end under the old
        # clientId.
        if any(turn.client.store.state()['rename'] for turn in done):
            name = str(uuid.uuid4())
            done = self._each(done, lambda client: client.take_new_name(name), refused)
        self._each([turn for turn in done if turn.client.reached_end], Client.send_marks, refused)
        self._each([turn for turn in turns if turn.alone], Client.sync, refused)
        return refused

    def _exchange(self, client_id, turns, batch, page):
        """A request and its answer."""
        parts, tombstones, left, left_bytes = {}, False, batch, BATCH_BYTES
        for turn in sorted(turns, key=lambda turn: not turn.again):
            documents = turn.choose(left, left_bytes)
            left, left_bytes = left - len(documents), left_bytes - sum(len(document.body or '') for document in documents)
            sent = turn.client.to_send(documents)       # before the digest, which isn't asked for while documents are unanswered
            turn.asked = turn.client.next_page()
            parts[turn.name], tombstones = (turn.asked.cursor, sent, turn.asked.digest), tombstones or turn.asked.tombstones
        try:
            answer = self.transport.sync(client_id, parts, page, tombstones)
        except Refused as refusal:
            if refusal.retry:
                raise
            for turn in turns:      # because of one of them, or because the service doesn't know such requests
                turn.go_alone()
            return
        answers = {part.get('collection'): part for part in answer['collections']}
        if list(answers) != list(parts) or not all('error' in part or part.keys() >= KEYS for part in answers.values()):
            raise BadAnswer('an answer for each collection was expected')
        for turn in turns:
            turn.take({**answers[turn.name], 'serverUtc': answer['serverUtc']})
        if all(len(turn.again) == len(turn.documents) for turn in turns):
            for turn in turns:
                turn.again = []     # none was tried: with the next sync

    def _each(self, turns, do, refused):
        """Returns those that went through."""
        done = []
        for turn in turns:
            try:
                do(turn.client)
                done.append(turn)
            except Refused as refusal:
                refused[turn.name] = refusal
            except Stale:
                pass
        return done


class Turn:
    """What one collection does in a sync."""

    def __init__(self, name, client):
        self.name, self.client = name, client
        self.receives, self.ended, self.alone = True, False, False
        self.after, self.outcomes = BEGINNING, collections.Counter()
        self.documents = []         # sent, and not answered yet
        self.again = []             # that weren't tried
        self.asked = None           # what the page was asked for with
        client.begin_download()

    def goes_on(self):
        return not self.ended and (self.receives or bool(self.again or self._next(1, 1)))

    def choose(self, limit, limit_bytes):
        """The documents to be sent next: each once, except those that weren't tried."""
        self.documents, self.again = self.again or self._next(limit, limit_bytes), []
        if self.documents:
            self.after = max(self.after, (self.documents[-1].clientVersion, self.documents[-1].id))
        return self.documents

    def _next(self, limit, limit_bytes):
        if limit <= 0 or limit_bytes <= 0 or self.outcomes['refused'] >= MAX_REFUSED:
            return []
        return self.client.next_batch(EDIT, 'true', self.after, limit, limit_bytes)

    def take(self, answer):
        if 'error' in answer:
            self.go_alone()
            return
        is_due = bool(self.documents) and self.client.is_due()
        try:
            self.again = self.client.take_results(self.documents, answer['results'], self.outcomes)
            self.client.take_page(self.asked, answer)
        except Refused:
            self.go_alone()         # a winner was left out, and can't be fetched
            return
        if self.outcomes['refused'] >= MAX_REFUSED:
            self.again = []
        self.ended = bool(answer.get('behind'))
        self.receives = not self.client.reached_end or is_due    # to compare: once more, without documents

    def go_alone(self):
        """Synchronises alone, which finds out what was refused, and does what can be done."""
        self.ended = self.alone = True
