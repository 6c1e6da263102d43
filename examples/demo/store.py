"""store.py - the client's local store in SQLite: documents, what is known about the service, and the digest's sums.

Everything is written inside `with store.transaction():`, so that an answer of the service, the cursor that came with it and the
sums are stored together or not at all. """

import contextlib
import dataclasses
import os
import sqlite3
import uuid

from digest import BUCKETS, as_text, bucket_of, hash_document

SCHEMA_VERSION = 2      # PRAGMA user_version; the first clients' stores have 0

SCHEMA = """
CREATE TABLE document (
    id            TEXT PRIMARY KEY,
    clientVersion INTEGER NOT NULL,     -- 64 bits; milliseconds since 1970 at the edit
    deleted       INTEGER NOT NULL,     -- a tombstone
    body          TEXT,                 -- JSON as it was written; null when deleted
    unsent        INTEGER NOT NULL,     -- 0: the service had this version when last heard; 1: an edit; 2: a mark of reconcile's
    error         TEXT,                 -- set aside: the service refuses this version, and why. Not sent again
    lastUpdateUtc TEXT,                 -- of this version, as the service told it, microseconds and all; null: it never did
    clientId      TEXT,                 -- of who wrote this version, as the service told it
    baseVersion   INTEGER,              -- what the service last told of this id; null: that it has nothing, or nothing yet.
    baseUtc       TEXT,                 --   The digest is made of these
    baseDeleted   INTEGER,
    sent          INTEGER,              -- the highest version that was sent or received under the own clientId
    unanswered    INTEGER NOT NULL,     -- sent, and no answer came: the service may have it or not
    bucket        INTEGER NOT NULL      -- of the id
) WITHOUT ROWID;
CREATE INDEX document_unsent ON document (unsent, clientVersion, id) WHERE unsent > 0;
CREATE INDEX document_unanswered ON document (id) WHERE unanswered;
CREATE TABLE sums (bucket INTEGER PRIMARY KEY, documents INTEGER NOT NULL, hi INTEGER NOT NULL, lo INTEGER NOT NULL);
CREATE TABLE client (
    clientId                    TEXT NOT NULL,
    lastUploadClientVersion     INTEGER,
    newestKnownServiceRecordUtc TEXT,       -- of the downloads. Kept as the protocol has it; the cursor is what counts
    cursor                      TEXT,
    unheard                     INTEGER NOT NULL DEFAULT 1,     -- without a cursor no loss is told: the next page may hide one
    lostAfter                   TEXT,       -- the least that was told since the last comparison that ended; null: nothing lost
    compareAt                   INTEGER,    -- when to ask for the service's digest next, in milliseconds
    nulls                       INTEGER NOT NULL DEFAULT 0,     -- how often it couldn't give one
    rounds                      INTEGER NOT NULL DEFAULT 0,     -- how often they differed, one after the other
    equalAt                     INTEGER,    -- when they were last equal
    othersAt                    INTEGER,    -- when marks on documents of other clients' may be sent
    behindSince                 INTEGER,    -- since when only servers that lag have answered
    twin                        TEXT,       -- where another store was seen that has this clientId
    rename                      INTEGER NOT NULL DEFAULT 0,     -- a new clientId is due because of it
    file                        TEXT        -- which file this store was: a copy is another
);
"""

EDIT, MARK = 1, 2       # document.unsent
COLUMNS = ('id, clientVersion, deleted, body, unsent, error, lastUpdateUtc, clientId, baseVersion, baseUtc, baseDeleted, sent, '
           'unanswered, bucket')


@dataclasses.dataclass(slots=True)
class Document:
    """A row of the table; see there."""
    id: str
    clientVersion: int = None
    deleted: int = 0
    body: str = None
    unsent: int = 0
    error: str = None
    lastUpdateUtc: str = None
    clientId: str = None
    baseVersion: int = None
    baseUtc: str = None
    baseDeleted: int = None
    sent: int = None
    unanswered: int = 0
    bucket: int = None
    counted: tuple = None       # what the sums contain of it: version and stamp

    def becomes(self, told):
        """Becomes what the service has: this version, there and here."""
        self.clientVersion, self.deleted = told['clientVersion'], int(told['deleted'])
        self.body = None if self.deleted else told['body']
        self.lastUpdateUtc, self.clientId = told['LastUpdateUtc'], told['clientId']
        self.unsent, self.error, self.unanswered = 0, None, 0
        self.rebase(told)

    def rebase(self, told):
        """Notes what the service has, whether or not it is what is here; None: nothing."""
        if told is None:
            self.baseVersion = self.baseUtc = self.baseDeleted = None
        else:
            self.baseVersion, self.baseUtc = told['clientVersion'], told['LastUpdateUtc']
            self.baseDeleted = int(told['deleted'])

    def to_count(self):
        """What the sums should contain of it: live documents as the service has them."""
        return (self.baseVersion, self.baseUtc) if self.baseUtc is not None and not self.baseDeleted else None


class Store:
    def __init__(self, path, client_id=None, first_id=None):
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute('PRAGMA journal_mode = wal')
        with self.transaction():
            version, = self.db.execute('PRAGMA user_version').fetchone()
            if version > SCHEMA_VERSION:
                raise ValueError(f'{path} was made by a later version of this client')
            if version < SCHEMA_VERSION:
                self._create(client_id or first_id or str(uuid.uuid4()))
        if client_id and client_id != self.state()['clientId']:
            raise ValueError(f'{path} is the store of another clientId')

    @contextlib.contextmanager
    def transaction(self):
        self.db.execute('BEGIN IMMEDIATE')
        try:
            yield
        except BaseException:
            self.db.execute('ROLLBACK')
            raise
        self.db.execute('COMMIT')

    def _create(self, client_id):
        old = self.db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'document'").fetchone()
        if old:
            self.db.execute('DROP INDEX document_dirty')
            self.db.execute('ALTER TABLE document RENAME TO old_document')
            self.db.execute('ALTER TABLE client RENAME TO old_client')
        for statement in SCHEMA.split(';\n'):
            self.db.execute(statement)
        self.db.executemany('INSERT INTO sums VALUES (?, 0, 0, 0)', ((bucket,) for bucket in range(BUCKETS)))
        self.db.execute(f'PRAGMA user_version = {SCHEMA_VERSION}')
        if old:
            self._migrate()
        else:
            self.db.execute('INSERT INTO client (clientId) VALUES (?)', (client_id,))

    def _migrate(self):
        """A store of the first client: it used a time instead of a cursor, and kept no stamps. So it starts with a null cursor,
        keeps its documents, and compares them with the service's."""
        self.db.execute('''INSERT INTO client (clientId, lastUploadClientVersion, compareAt)
                           SELECT clientId, lastUploadClientVersion, 0 FROM old_client''')
        for id, version, deleted, body, dirty in self.db.execute('SELECT * FROM old_document'):
            # They are marked, since it is unknown which of them the service has. It is also unknown what was sent: all count as
            # sent, or each would be taken for another store's.
            self.save(Document(id, version, deleted, body, EDIT if dirty else MARK, sent=version, unanswered=dirty))
        self.db.execute('DROP TABLE old_document')
        self.db.execute('DROP TABLE old_client')

    # What is known about the service: the one row of table client.

    def state(self):
        cursor = self.db.execute('SELECT * FROM client')
        return dict(zip((column[0] for column in cursor.description), cursor.fetchone()))

    def set_state(self, **values):
        self.db.execute(f'UPDATE client SET {", ".join(f"{name} = ?" for name in values)}', tuple(values.values()))

    def is_copy(self):
        """Whether this file isn't the same as at the last call: it was copied, or restored from a backup."""
        path = self.db.execute('PRAGMA database_list').fetchone()[2]
        if not path:
            return False
        file = os.stat(path)
        this, before = f'{file.st_dev}:{file.st_ino}', self.state()['file']
        if this != before:
            self.set_state(file=this)
        return before not in (None, this)

    # Documents

    def find(self, id):
        row = self.db.execute(f'SELECT {COLUMNS} FROM document WHERE id = ?', (id,)).fetchone()
        return row and self._document(row)

    def select(self, condition, *values):
        return [self._document(row) for row in self.db.execute(f'SELECT {COLUMNS} FROM document WHERE {condition}', values)]

    def batch(self, condition, values, limit, limit_bytes):
        """The first of them, until there are enough."""
        documents, size = [], 0
        for row in self.db.execute(f'SELECT {COLUMNS} FROM document WHERE {condition} LIMIT {int(limit)}', values):
            documents.append(self._document(row))
            size += len(documents[-1].body or '')
            if size >= limit_bytes:
                break
        return documents

    def _document(self, row):
        document = Document(*row)
        document.counted = document.to_count()
        return document

    def save(self, document):
        """Writes a document, either new or looked up before in this transaction."""
        if document.bucket is None:
            document.bucket = bucket_of(document.id)
        self._count(document, document.to_count())
        self.db.execute('INSERT OR REPLACE INTO document VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)',
                        tuple(getattr(document, column) for column in COLUMNS.split(', ')))

    def remove(self, document):
        self._count(document, None)
        self.db.execute('DELETE FROM document WHERE id = ?', (document.id,))

    # The digest's sums

    def _count(self, document, now):
        before, document.counted = document.counted, now
        if before == now:
            return
        for counted, sign in ((before, -1), (now, 1)):
            if counted:
                hi, lo = hash_document(document.id, *counted)
                self.db.execute('''UPDATE sums SET documents = documents + ?1, hi = (hi + ?1 * ?2) & 0xffffffff,
                                                   lo = (lo + ?1 * ?3) & 0xffffffff WHERE bucket = ?4''',
                                (sign, hi, lo, document.bucket))

    def digest(self):
        """(count, digest) as in the service's `state`."""
        count, hi, lo = self.db.execute('SELECT sum(documents), sum(hi), sum(lo) FROM sums').fetchone()
        return count, as_text(hi, lo)

    def sums(self):
        return [as_text(hi, lo) for hi, lo in self.db.execute('SELECT hi, lo FROM sums ORDER BY bucket')]
