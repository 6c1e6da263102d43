"""transport_http.py - a transport for client.py that speaks the protocol's own two requests. Python's library is enough.

    from client import Client
    from transport_http import HttpTransport

    notes = Client('notes.sqlite', HttpTransport('http://127.0.0.1:8080', token))
"""

import http.client
import json
import urllib.parse

from client import to_json


class Refused(Exception):
    """The service's answer to a request that it didn't accept. code: SQLSTATE or PostgREST's; '' where there is none, as
    when PostgREST lost its connection in the midst. retry: the same request may be accepted later."""

    def __init__(self, status, text):
        super().__init__(f'{status} {text}')
        self.status = status
        try:
            self.code = json.loads(text).get('code') or ''
        except (ValueError, AttributeError):
            self.code = ''
        self.retry = status in (429, 502, 503, 504) or not self.code


class HttpTransport:
    """A connection is kept for the next request; one that broke is made anew by the next. Raises Refused, or OSError and
    http.client.HTTPException where no answer came. Without a collection it is the one that the token says. Counts the
    bytes of bodies sent and received."""

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

    def _post(self, path, query, body=b''):
        # quote, not quote_plus: "%20" is a space everywhere, "+" is not
        query = urllib.parse.urlencode(query, quote_via=urllib.parse.quote)
        try:
            self.connection.request('POST', f'{self.path}{path}?{query}', body, self.headers)
            response = self.connection.getresponse()
            text = response.read()
        except BaseException:
            self.connection.close()
            raise
        self.bytes_sent += len(body)
        self.bytes_received += len(text)
        if response.status != 200:
            raise Refused(response.status, text.decode(errors='replace'))
        return json.loads(text)

    def upload(self, client_id, documents):
        return self._post('/Docs', {'clientId': client_id, **self.collection}, to_json(documents).encode())['results']

    def download(self, client_id, since, max_documents):
        query = {'origin': 'other', 'clientId': client_id, 'maxDocuments': max_documents, **self.collection}
        if since is not None:
            query['sinceUtc'] = since
        return self._post('/Docs/Query', query)
