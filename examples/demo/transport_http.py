"""transport_http.py - a transport for client.py by the protocol's requests over HTTP. Python's library is enough.

    from client import Client
    from transport_http import HttpTransport

    notes = Client('notes.sqlite', HttpTransport('http://127.0.0.1:8080', token))
"""

import copy
import http.client
import json
import urllib.parse

from client import Refused
from jsontext import BadAnswer, documents_text, read_answer, sync_text


class HttpTransport:
    """The connection is kept for the next request; if it breaks, the next one reconnects. Raises Refused, BadAnswer, and
    OSError and http.client.HTTPException where no answer came. Without a collection it is the one that the token says. Counts
    the bytes of bodies sent and received."""

    def __init__(self, url, token=None, collection=None, timeout=60):
        parts = urllib.parse.urlsplit(url)
        connection = http.client.HTTPSConnection if parts.scheme == 'https' else http.client.HTTPConnection
        self.connection = connection(parts.hostname, parts.port, timeout=timeout)
        self.path = parts.path.rstrip('/')
        self.headers = {'Content-Type': 'application/json'}
        if token:
            self.headers['Authorization'] = f'Bearer {token}'
        self.collection = {'collection': collection} if collection else {}
        self.bytes_sent = self.bytes_received = 0

    def on(self, collection):
        """The same transport, to another collection, over the same connection."""
        other = copy.copy(self)
        other.collection = {'collection': collection}
        return other

    def _request(self, method, path, keys, body=None):
        status, text = self._exchange(method, self.path + path, body)
        self.bytes_sent += len(body or b'')
        self.bytes_received += len(text)
        try:
            text = text.decode()
        except UnicodeDecodeError:
            raise BadAnswer('not an answer of the service') from None
        if status != 200:
            raise refused(status, text)
        return read_answer(text, *keys)

    def _exchange(self, method, path, body):
        kept = self.connection.sock is not None
        try:
            return self._exchange_once(method, path, body)
        except ConnectionResetError:
            if not kept:
                raise
            # The connection was idle for long, and the server has closed it. Any request may be sent again.
            return self._exchange_once(method, path, body)

    def _exchange_once(self, method, path, body):
        try:
            try:
                self.connection.request(method, path, body, self.headers)
            except (BrokenPipeError, ConnectionResetError):
                pass        # for a body that is too large, the server may have answered and closed the connection
            response = self.connection.getresponse()
            return response.status, response.read()
        except BaseException:
            self.connection.close()
            raise

    def _post(self, path, keys, documents=None, **arguments):
        text = json.dumps({**self.collection, **arguments}, ensure_ascii=False)
        if documents is not None:
            text = f'{text[:-1]}, "documents": {documents_text(documents)}}}'
        return self._request('POST', path, keys, text.encode())

    def upload(self, client_id, documents):
        # In the query string, where services that don't know it ignore it
        return self._post('/Docs?atomic=false', ['results'], documents, clientId=client_id)

    def pull(self, client_id, cursor, max_documents, digest=None, tombstones=True, primary=False):
        """By GET, which a standby may answer, or by POST, which goes to the primary."""
        keys = ['documents', 'cursor', 'more']
        arguments = {'clientId': client_id, 'maxDocuments': max_documents, 'reconcile': True}
        arguments |= {'cursor': cursor} if cursor is not None else {}
        arguments |= {'state': digest} if digest else {}
        arguments |= {'tombstones': False} if not tombstones else {}
        if primary:
            return self._post('/Docs/Sync', keys, [], **arguments)
        # quote, not quote_plus: "%20" is a space everywhere, "+" is not
        query = urllib.parse.urlencode({key: json.dumps(value) if isinstance(value, bool) else value
                                        for key, value in {**self.collection, **arguments}.items()},
                                       quote_via=urllib.parse.quote)
        return self._request('GET', f'/Docs/Pull?{query}', keys)

    def sync(self, client_id, parts, max_documents, tombstones=True):
        """A sync of several collections, whichever this transport is for."""
        text = sync_text(parts, clientId=client_id, maxDocuments=max_documents, reconcile=True, atomic=False, tombstones=tombstones)
        return self._request('POST', '/Docs/Sync', ['collections', 'serverUtc'], text.encode())

    def reconcile(self, client_id, cursor, buckets, after, max_documents):
        return self._post('/Docs/Reconcile', ['rows', 'after', 'more', 'purgedThrough'], clientId=client_id, cursor=cursor,
                          buckets=buckets, after=after, maxDocuments=max_documents)

    def get(self, client_id, cursor, ids):
        return self._post('/Docs/Get', ['documents', 'more'], clientId=client_id, cursor=cursor, ids=ids)


def refused(status, text):
    try:
        error = json.loads(text)
        return Refused(status, error.get('code') or '', error.get('message') or '', error.get('details'))
    except (ValueError, AttributeError):
        return Refused(status, '', text[:200])
