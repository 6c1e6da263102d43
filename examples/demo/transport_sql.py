"""transport_sql.py - a transport for client.py by docsync's SQL functions, over a connection of psycopg2's.

    notes = Client('notes.sqlite', SqlTransport(psycopg2.connect('dbname=app user=anna'), collection='user-42/notes'))
"""

import copy
import json

import psycopg2

from client import Refused
from jsontext import documents_text, read_answer, sync_text

# HTTP's status for an SQLSTATE or its first two characters; others may be temporary
STATUS = {'42883': 404, '22': 400, '23': 400, '44': 400, 'P0': 400, '42': 403, '54': 413, '55': 410, '25': 405, '0A': 405}


class SqlTransport:
    """Counts the bytes of JSON sent and received."""

    def __init__(self, connection, collection='default'):
        connection.autocommit = True
        self.connection = connection
        self.collection = collection
        self.bytes_sent = self.bytes_received = 0

    def on(self, collection):
        """The same transport, to another collection, over the same connection."""
        other = copy.copy(self)
        other.collection = collection
        return other

    def _call(self, function, keys, documents=None, **arguments):
        text = json.dumps({'collection': self.collection, **arguments})
        if documents is not None:
            text = f'{text[:-1]}, "documents": {documents_text(documents)}}}'
        return self._call_with(function, keys, text)

    def _call_with(self, function, keys, text):
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(f'SELECT {function}(%s)::text', (text.encode(),))
                answer, = cursor.fetchone()
        except psycopg2.Error as error:
            code = error.pgcode or ''
            raise Refused(STATUS.get(code) or STATUS.get(code[:2], 503), code, str(error).strip(),
                          error.diag.message_detail) from error
        self.bytes_sent += len(text.encode())
        self.bytes_received += len(answer.encode())
        return read_answer(answer, *keys)

    def upload(self, client_id, documents):
        return self._call('docsync_docs', ['results'], documents, clientId=client_id, atomic=False)

    def pull(self, client_id, cursor, max_documents, digest=None, tombstones=True, primary=False):
        return self._call('docsync_docs_sync', ['documents', 'cursor', 'more'], [], clientId=client_id, cursor=cursor,
                          maxDocuments=max_documents, reconcile=True, state=digest or False, tombstones=tombstones)

    def sync(self, client_id, parts, max_documents, tombstones=True):
        """A sync of several collections, whichever this transport is for."""
        text = sync_text(parts, clientId=client_id, maxDocuments=max_documents, reconcile=True, atomic=False, tombstones=tombstones)
        return self._call_with('docsync_docs_sync', ['collections', 'serverUtc'], text)

    def reconcile(self, client_id, cursor, buckets, after, max_documents):
        return self._call('docsync_docs_reconcile', ['rows', 'after', 'more', 'purgedThrough'], clientId=client_id, cursor=cursor,
                          buckets=buckets, after=after, maxDocuments=max_documents)

    def get(self, client_id, cursor, ids):
        return self._call('docsync_docs_get', ['documents', 'more'], clientId=client_id, cursor=cursor, ids=ids)
