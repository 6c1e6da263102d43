"""client.py - a docsync client, complete: a local SQLite store, upload, download.

The reference for how a client behaves, whatever its language. One thing must be known first: which documents have yet
to be sent can NOT be told from versions alone, as `clientVersion > lastUploadClientVersion` suggests:

- a downloaded document may have a higher clientVersion than lastUploadClientVersion: it would be sent back;
- a local edit may get a lower one, as soon as one document of a client whose clock is ahead was taken over and raised
  lastUploadClientVersion = max(clientVersion) above the own clock: it would never be sent.

So each document bears a mark, dirty: edited here, and this very version not yet acknowledged by the service. It is set
by an edit and cleared by the acknowledgement or by a newer version of the service's, each time in the SQLite
transaction that changes the document. The protocol's two values are kept as it defines them; nothing is chosen by
lastUploadClientVersion.

Crash safe at every point: an answer that was lost is asked for again (the service answers `unchanged`), a page that
was not stored is downloaded again.
"""

import collections
import contextlib
import json
import sqlite3
import time
import uuid

SCHEMA = """
CREATE TABLE IF NOT EXISTS document (
    id            TEXT PRIMARY KEY,
    clientVersion INTEGER NOT NULL,     -- 64 bits; milliseconds since 1970 at the edit
    deleted       INTEGER NOT NULL,     -- a tombstone, kept: the service's version of it may have to be compared
    body          TEXT,                 -- JSON; null when deleted
    dirty         INTEGER NOT NULL      -- see above
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS document_dirty ON document (clientVersion, id) WHERE dirty;
CREATE TABLE IF NOT EXISTS client (
    clientId                    TEXT NOT NULL,
    lastUploadClientVersion     INTEGER,
    newestKnownServiceRecordUtc TEXT    -- as the service wrote it, microseconds and all: a float or a Date would cut it
);
"""


def now_ms():
    return time.time_ns() // 1_000_000


def to_json(value):
    """The same text for the same value, so that texts can be compared."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(',', ':'))


class Client:
    """A local store that synchronises through `transport`, which has two calls:

    upload(clientId, documents) -> a result a document, in order: id, outcome, clientVersion, winner
    download(clientId, since, max_documents) -> other clients' documents: id, clientVersion, LastUpdateUtc, deleted, body

    clock gives milliseconds since 1970. The clientId is made with the store and dies with it: a client that lost its
    store has to be a new one, or it would not be sent the documents that it once uploaded itself.
    """

    def __init__(self, path, transport, clock=now_ms):
        self.transport = transport
        self.clock = clock
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute('PRAGMA journal_mode = wal')
        self.db.executescript(SCHEMA)
        with self.transaction():
            self.db.execute('INSERT INTO client (clientId) SELECT ? WHERE NOT EXISTS (SELECT 1 FROM client)',
                            (str(uuid.uuid4()),))
        self.client_id, = self.db.execute('SELECT clientId FROM client').fetchone()

    @contextlib.contextmanager
    def transaction(self):
        self.db.execute('BEGIN IMMEDIATE')
        try:
            yield
        except BaseException:
            self.db.execute('ROLLBACK')
            raise
        self.db.execute('COMMIT')

    # Local use: never waits for the service.

    def get(self, id):
        """The body, or None where there is no document."""
        row = self.db.execute('SELECT body FROM document WHERE id = ? AND NOT deleted', (id,)).fetchone()
        return row and json.loads(row[0])

    def put(self, id, body):
        self.put_all([(id, body)])

    def put_all(self, documents):
        """Creates or replaces documents, (id, body) each, in one transaction."""
        with self.transaction():
            for id, body in documents:
                self._edit(id, 0, to_json(body))

    def delete(self, id):
        with self.transaction():
            if self.db.execute('SELECT 1 FROM document WHERE id = ? AND NOT deleted', (id,)).fetchone():
                self._edit(id, 1, None)

    def _edit(self, id, deleted, body):
        # Higher than the version edited, even when that came from a client whose clock is ahead of this one's.
        self.db.execute(
            '''INSERT INTO document VALUES (?1, ?2, ?3, ?4, 1)
               ON CONFLICT (id) DO UPDATE SET clientVersion = max(?2, clientVersion + 1),
                                              deleted = ?3, body = ?4, dirty = 1''',
            (id, self.clock(), deleted, body))

    # With the service. An exception from the transport leaves the store as it was after the last batch or page:
    # call again later. `watch` is called with what each batch or page brought.

    def sync(self):
        self.upload()
        self.download()

    def upload(self, batch=1000, watch=None):
        """Sends all local edits. Returns how often each outcome came."""
        outcomes = collections.Counter()
        while True:
            documents = self._unsent(batch)
            if not documents:
                return outcomes
            results = self.transport.upload(self.client_id, documents)
            with self.transaction():
                for sent, result in zip(documents, results, strict=True):
                    if result['outcome'] == 'discarded':
                        # Who has to yield takes the winner at once; who didn't would differ from all others for ever.
                        self._take(result['winner'])
                    else:
                        # Not if it was edited again while the answer was on its way: that version is yet to be sent.
                        self.db.execute('UPDATE document SET dirty = 0 WHERE id = ? AND clientVersion = ?',
                                        (sent['id'], sent['clientVersion']))
                    outcomes[result['outcome']] += 1
                self.db.execute('UPDATE client SET lastUploadClientVersion = max(?1, ifnull(lastUploadClientVersion, ?1))',
                                (max(sent['clientVersion'] for sent in documents),))
            if watch:
                watch(results)

    def _unsent(self, limit):
        return [{'id': id, 'clientVersion': version, 'deleted': True} if deleted else
                {'id': id, 'clientVersion': version, 'body': json.loads(body)}
                for id, version, deleted, body in self.db.execute(
                    '''SELECT id, clientVersion, deleted, body FROM document
                       WHERE dirty ORDER BY clientVersion, id LIMIT ?''', (limit,))]

    def download(self, page=1000, watch=None):
        """Fetches what other clients changed. Returns how many documents of the store that changed."""
        changed = 0
        while True:
            since, = self.db.execute('SELECT newestKnownServiceRecordUtc FROM client').fetchone()
            documents = self.transport.download(self.client_id, since, page)
            # A page and the place where the next one begins are stored together, or after a crash one would be missing.
            with self.transaction():
                changed += sum(self._take(document) for document in documents)
                # Only from downloads: an own upload's LastUpdateUtc may be later than a document not yet downloaded.
                # Texts of fixed width compare like the times they stand for.
                newest = max((document['LastUpdateUtc'] for document in documents), default=since)
                self.db.execute('UPDATE client SET newestKnownServiceRecordUtc = ?', (newest,))
            if watch:
                watch(documents)
            # Not when a page is short: answers end by their size, too. The document at `since` comes once more, beside
            # the page: "since" includes it.
            if newest == since:
                return changed

    def _take(self, document):
        """Takes over a document of the service's by the service's own rule, so that both come to the same end.
        Returns whether that changed the local one. Its clientId is of no interest here."""
        id, theirs = document['id'], document['clientVersion']
        deleted = int(document['deleted'])
        body = None if deleted else to_json(document['body'])
        row = self.db.execute('SELECT clientVersion, deleted, body, dirty FROM document WHERE id = ?', (id,)).fetchone()
        if row:
            *local, dirty = row
            # An unsent edit stays if the service will accept it: if it is newer or, with clientVersion 0, as old.
            # A local version that was sent and is newer stays, too: the service has got it since.
            if theirs < local[0] or (dirty and theirs == local[0] == 0):
                return False
            if not dirty and local == [theirs, deleted, body]:
                return False
        self.db.execute('INSERT OR REPLACE INTO document VALUES (?, ?, ?, ?, 0)', (id, theirs, deleted, body))
        return True


class SqlTransport:
    """Calls docsync's SQL functions over a connection of psycopg2's. Counts the JSON sent and the bodies received, in bytes."""

    STAMP = '''to_char(last_update_utc AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')'''

    def __init__(self, connection, collection='default'):
        connection.autocommit = True
        self.connection = connection
        self.collection = collection
        self.bytes_sent = self.bytes_received = 0

    def _rows(self, query, values):
        with self.connection.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall()

    def upload(self, client_id, documents):
        text = to_json(documents)
        self.bytes_sent += len(text.encode())
        return [{'id': id, 'outcome': outcome, 'clientVersion': version, 'winner': winner}
                for id, outcome, version, winner in self._rows(
                    'SELECT id, outcome, client_version, winner FROM docsync_upsert(%s, %s, %s) ORDER BY ordinal',
                    (client_id, text, self.collection))]

    def download(self, client_id, since, max_documents):
        documents = []
        for id, version, stamp, deleted, body in self._rows(
                f'''SELECT id, client_version, {self.STAMP}, deleted, body::text
                    FROM docsync_query_since(%s, %s, 'other', %s, %s)''',
                (client_id, since, self.collection, max_documents)):
            self.bytes_received += len(body.encode()) if body is not None else 0
            documents.append({'id': id, 'clientVersion': version, 'LastUpdateUtc': stamp, 'deleted': deleted,
                              'body': body if body is None else json.loads(body)})
        return documents
