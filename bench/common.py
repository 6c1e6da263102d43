"""common.py - what all benchmarks use: documents, tables, taking turns, the table that is printed."""

import datetime
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import time

from libpq import Connection

QUICK = sys.argv[1:] == ['quick']
DIR = os.environ['BENCH_DIR']

# The connection string of the server with another commit's docsync, the rival 'before'; '' if there is none.
BEFORE = os.environ.get('BENCH_BEFORE_WHERE', '')
DOCSYNCS = ['docsync', 'before'] if BEFORE else ['docsync']

# Sizes, which depend on whether the run is quick.
PRELOADED = 10_000 if QUICK else 100_000        # documents in each table before each test
STORED = 50_000 if QUICK else 1_000_000         # documents that a poll skips
PAGE = 1000

DOCSYNC = "SELECT * FROM docsync_upsert({client}, {documents}, 'bench')"

# The statement that a good user would write. last_update_utc is {now}, see PLAIN and LOCKED.
STATEMENT = """
INSERT INTO rival.{table} AS d (collection, id, client_version, client_id, last_update_utc, deleted, body)
SELECT 'bench', sent.id, sent."clientVersion", {client}, {now}, coalesce(sent.deleted, false), sent.body
  FROM {source}jsonb_to_recordset({documents}) AS sent (id text, "clientVersion" int8, deleted bool, body jsonb)
ON CONFLICT (collection, id) DO UPDATE
   SET client_version = excluded.client_version, client_id = excluded.client_id,
       last_update_utc = excluded.last_update_utc, deleted = excluded.deleted, body = excluded.body
 WHERE d.client_version < excluded.client_version
    OR d.client_version = 0 AND excluded.client_version = 0
RETURNING d.id, d.client_version, d.last_update_utc
"""

PLAIN = STATEMENT.replace('{table}', 'plain').replace('{now}', 'now()').replace('{source}', '')

# The same, made safe: a writer locks the collection's row until commit, so stamps are in the order of commits.
LOCKED = """
WITH tick AS (
    UPDATE rival.counter SET last_update_utc = greatest(clock_timestamp(), last_update_utc + interval '1 us')
     WHERE collection = 'bench' RETURNING last_update_utc
)
""" + STATEMENT.replace('{table}', 'locked').replace('{now}', 'tick.last_update_utc').replace('{source}', 'tick, ')

UPLOADS = {**dict.fromkeys(DOCSYNCS, DOCSYNC), 'a': PLAIN, 'b': LOCKED}

COPY = ('COPY rival.copied (collection, id, client_version, client_id, last_update_utc, deleted, body, fence)'
        ' FROM STDIN')

# Up to version 0.1 the store was part of the extension, and was dropped with it.
DROP = """
DROP SCHEMA IF EXISTS rival CASCADE;
DROP EXTENSION IF EXISTS docsync CASCADE;
DROP SCHEMA IF EXISTS docsync CASCADE;
"""
CREATE = """
CREATE EXTENSION docsync;
DO $$
BEGIN
    IF to_regproc('docsync_create_store') IS NOT NULL THEN
        PERFORM docsync_create_store();
    END IF;
END
$$;
"""

RIVALS = """
CREATE SCHEMA rival;
CREATE TABLE rival.plain (
    collection text COLLATE "C" NOT NULL, id text COLLATE "C" NOT NULL,
    client_version int8 NOT NULL, client_id text COLLATE "C" NOT NULL,
    last_update_utc timestamptz NOT NULL DEFAULT now(),
    deleted bool NOT NULL DEFAULT false, body jsonb,
    PRIMARY KEY (collection, id));
CREATE INDEX ON rival.plain (collection, last_update_utc);
CREATE TABLE rival.locked (LIKE rival.plain INCLUDING ALL);
CREATE TABLE rival.counter (collection text PRIMARY KEY, last_update_utc timestamptz NOT NULL);
INSERT INTO rival.counter VALUES ('bench', now());
CREATE TABLE rival.copied (LIKE docsync.document INCLUDING ALL);
"""


def count_rounds(quick, full):
    """How many rounds there are; at least ten if two commits are compared."""
    asked = os.environ.get('BENCH_ROUNDS')
    return int(asked) if asked else quick if QUICK else max(full, 10) if BEFORE else full


def log(text):
    print(text, file=sys.stderr, flush=True)


class Policy:
    """Whether everything is measured under the policy of examples/postgrest/roles.sql, by a role that isn't superuser, on
    docsync's table and on those of (a) and (b)."""

    on = False

    TABLES = 'docsync.document', 'rival.plain', 'rival.locked'
    ROLE = """
        DO $$
        BEGIN
            IF to_regrole('bench_user') IS NULL THEN
                CREATE ROLE bench_user LOGIN;
            END IF;
        END
        $$;
        SELECT docsync_grant('bench_user');
        """
    RIVALS = """
        GRANT USAGE ON SCHEMA rival TO bench_user;
        GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA rival TO bench_user;
        """
    POLICY = """
        ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
        CREATE POLICY tenant ON {table} TO bench_user
            USING (split_part(collection, '/', 1)
                   = (SELECT nullif(current_setting('request.jwt.claims', true), '')::json ->> 'tenant'));
        """

    @classmethod
    def create(cls, connection, server):
        connection.query(cls.ROLE)
        if server == 'docsync':
            connection.query(cls.RIVALS)
        for table in cls.TABLES:
            if server == 'docsync' or not table.startswith('rival.'):
                connection.query(cls.POLICY.format(table=table))

    @classmethod
    def connection_string(cls):
        return (r""" user=bench_user options='-c client_min_messages=warning -c request.jwt.claims={"tenant":"bench"}'"""
                if cls.on else '')


# ---------------------------------------------------------------------------------------------------------------------
# documents
# ---------------------------------------------------------------------------------------------------------------------

randomness = random.Random(15)


def make_id():
    """36 characters, like a UUID."""
    text = '%032x' % randomness.getrandbits(128)
    return '-'.join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def make_body():
    """A note of 300 bytes of JSON."""
    words = '%0156x' % randomness.getrandbits(624)
    return {'title': words[:24], 'text': ' '.join(words[place:place + 6] for place in range(24, 156, 6)),
            'tags': ['home', 'later'], 'done': False, 'priority': randomness.randrange(10),
            'created': '2026-11-22', 'place': {'lat': 52.51627, 'lon': 13.37770}}


class Batch:
    """An upload in all the forms in which it is sent, made beforehand."""

    def __init__(self, count):
        self.documents = [{'id': make_id(), 'clientVersion': 1764000000000, 'body': make_body()} for _ in range(count)]
        self.new = json.dumps(self.documents).encode()
        for document in self.documents:
            document['clientVersion'] += 1000
        self.update = json.dumps(self.documents).encode()

    def copy_chunks(self):
        """The rows in the format of COPY, ordered by id."""
        now = datetime.datetime.now(datetime.timezone.utc)
        rows = []
        for document in sorted(self.documents, key=lambda document: document['id']):
            now += datetime.timedelta(microseconds=1)
            rows.append('bench\t%s\t%d\tclient\t%s\tf\t%s\t1000\n' % (
                document['id'], document['clientVersion'], now.isoformat(),
                json.dumps(document['body']).replace('\\', '\\\\')))
        return [''.join(rows[first:first + 200]).encode() for first in range(0, len(rows), 200)]


# ---------------------------------------------------------------------------------------------------------------------
# server
# ---------------------------------------------------------------------------------------------------------------------

BODY = json.dumps(make_body())      # for what is stored beforehand, and for single documents


def where(rival):
    """The connection string of a rival's server."""
    return BEFORE if rival == 'before' else ''


def connect(rival):
    """A connection to measure with."""
    return Connection(where(rival) + Policy.connection_string())


def administrate(server):
    """A superuser's connection, for preparations."""
    return Connection(where(server))


def fresh():
    """Creates all tables again, with the same documents in each; their ids are 1, 2, 3, ..., stored in random order."""
    for server in DOCSYNCS:
        connection = administrate(server)
        connection.query(DROP)
        connection.query(CREATE)
        connection.query("SELECT setseed(0.15)")
        connection.query("""
            CREATE TEMP TABLE seed AS
            SELECT n::text AS id, '%s'::jsonb AS body FROM generate_series(1, %d) n ORDER BY random()"""
                         % (BODY, PRELOADED))
        tables = ['docsync.document']
        if server == 'docsync':
            connection.query(RIVALS)
            tables += ['rival.plain', 'rival.locked']
        for table in tables:
            connection.query("INSERT INTO %s (collection, id, client_version, client_id, body)"
                             " SELECT 'bench', id, 1, 'seed', body FROM seed" % table)
        if server == 'docsync':
            connection.query('INSERT INTO rival.copied SELECT * FROM docsync.document')
            tables.append('rival.copied')
        if Policy.on:
            Policy.create(connection, server)
        for table in tables:
            connection.query('VACUUM ANALYZE ' + table)
        connection.query('CHECKPOINT')
        connection.close()


def store(count):
    """Stores documents that no client has yet, in a separate collection."""
    for server in DOCSYNCS:
        connection = administrate(server)
        connection.query("""
            ALTER TABLE docsync.document SET (autovacuum_enabled = off);
            INSERT INTO docsync.document (collection, id, client_version, client_id, body)
            SELECT 'bench/stored', n::text, 1, 'other', '%s' FROM generate_series(1, %d) n"""
                         % (BODY, count))
        connection.query('VACUUM ANALYZE docsync.document')
        connection.query('CHECKPOINT')
        connection.close()


def run_pgbench(rival, script, clients, *options):
    """Runs a script on a rival's server and returns pgbench's stdout and stderr."""
    path = os.path.join(DIR, 'script.sql')
    with open(path, 'w') as file:
        file.write(script)
    done = subprocess.run(
        ['pgbench', '-n', '-M', 'prepared', '-c', str(clients), '-j', str(min(clients, 2)), '-f', path, *options,
         'dbname=postgres ' + where(rival) + Policy.connection_string()],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0 or 'aborted' in done.stderr or 'number of failed transactions: 0 ' not in done.stdout:
        raise RuntimeError(done.stderr + done.stdout)
    return done.stdout, done.stderr


def pgbench(rival, script, clients, seconds, defines=()):
    """Runs a script and returns transactions per second, without the first second, in which sessions warm up."""
    stdout, stderr = run_pgbench(rival, script, clients, '-T', str(seconds + 1), '-P', '1',
                                 *('-D%s=%s' % pair for pair in defines))
    rates = [float(rate) for rate in re.findall(r'progress: .*? s, ([0-9.]+) tps', stderr)]
    return statistics.mean(rates[1:] or [float(re.search('tps = ([0-9.]+)', stdout).group(1))])


# ---------------------------------------------------------------------------------------------------------------------
# turns
# ---------------------------------------------------------------------------------------------------------------------

def in_turn(rivals, number):
    """The rivals in the order of this round: every second round starts with another rival, and every other round is
    reversed, so that of any two rivals each comes before the other equally often."""
    first = number // 2 % len(rivals)
    order = rivals[first:] + rivals[:first]
    return order[::-1] if number % 2 else order


def take_turns(rounds, measure, rivals):
    """Rounds in which each rival is measured once."""
    for number in range(rounds):
        speeds = {rival: measure(rival, number) for rival in in_turn(rivals, number)}
        if os.environ.get('BENCH_VERBOSE'):
            log('  ' + '  '.join('%s %.0f' % (rival, speeds[rival]) for rival in rivals))
        yield speeds


# ---------------------------------------------------------------------------------------------------------------------
# table
# ---------------------------------------------------------------------------------------------------------------------

RIVAL_COLUMNS = DOCSYNCS[1:] + ['a', 'b', 'c']


def show_head():
    heads = [': before' if rival == 'before' else ': (%s)' % rival for rival in RIVAL_COLUMNS]
    print('%-42s %12s %s %-16s %s' % (
        'test', 'docsync', ' '.join('%-20s' % head for head in heads), 'at least', 'reached'))


def spread(rounds, rival):
    """The median of the ratio docsync : rival, and the text to print."""
    if rival not in rounds[0]:
        return None, ''
    ratios = [speeds['docsync'] / speeds[rival] for speeds in rounds]
    middle = statistics.median(ratios)
    return middle, '%.2f [%.2f-%.2f]' % (middle, min(ratios), max(ratios))


def show(test, unit, rounds, targets):
    """Prints a row. targets: {rival: docsync's least acceptable speed, as a multiple of the rival's}."""
    if Policy.on:
        test += ', policy'
    speed = statistics.median(speeds['docsync'] for speeds in rounds)
    cells, reached = [], []
    for rival in RIVAL_COLUMNS:
        ratio, text = spread(rounds, rival)
        cells.append('%-20s' % text)
        if rival in targets:
            reached.append('yes' if ratio >= targets[rival] else 'no')
    print('%-42s %12s %s %-16s %s' % (
        test, ('%.3g ms' % (1000 / speed)) if unit == 'ms' else '{:,.0f}/s'.format(speed), ' '.join(cells),
        ' '.join('%s %.2f' % target for target in targets.items()), ' '.join(reached)), flush=True)


def fdatasync_us():
    """How long it takes to make 8 kB durable on this machine's disk, in microseconds."""
    path = os.path.join(DIR, 'fdatasync')
    seconds = []
    with open(path, 'wb', buffering=0) as file:
        file.write(bytes(8 << 20))
        os.fsync(file.fileno())
        for place in range(300):
            start = time.perf_counter()
            os.pwrite(file.fileno(), bytes(8192), place * 8192)
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - start)
    os.remove(path)
    return statistics.median(seconds) * 1e6


def commit_us():
    """The same through the server: a one-row INSERT, with and without waiting for the disk."""
    connection = Connection()
    connection.query('CREATE TABLE IF NOT EXISTS commits (n int)')
    medians = []
    for wait in 'on', 'off':
        connection.query('SET synchronous_commit = ' + wait)
        medians.append(statistics.median(connection.call('INSERT INTO commits VALUES (1)')[0] for _ in range(500)) * 1e6)
    connection.close()
    return medians


def machine():
    with open('/proc/cpuinfo') as file:
        model = re.search(r'model name\s*: (.*)', file.read()).group(1)
    connection = Connection()
    [(version,)] = connection.query('SHOW server_version')
    connection.close()
    print('%s UTC, PostgreSQL %s, %d x %s, Linux %s' % (
        datetime.datetime.utcnow().strftime('%Y-%m-%d %H:%M'), version, os.cpu_count(), model, platform.release()))
    print('fdatasync of 8 kB %.0f us; an INSERT of one row %.0f us, of which the wait for the disk %.0f us; '
          'load when it began %.1f' % (fdatasync_us(), *(lambda on, off: (on, on - off))(*commit_us()), os.getloadavg()[0]))
    if BEFORE:
        print('before: ' + os.environ['BENCH_BEFORE_NAME'])
