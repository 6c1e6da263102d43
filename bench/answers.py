"""answers.py - the functions for HTTP, which return one JSON value: directly, over PostgREST and through nginx.

Part of measure.py. It avoids what is slow in Python: requests are made beforehand and written to a socket, and answers are
read into preallocated memory and not parsed.
"""

import json
import os
import re
import socket
import statistics
import subprocess
import threading
import time

from common import (BODY, Batch, DOCSYNCS, PAGE, PLAIN, QUICK, connect, count_rounds, fresh, in_turn,
                    make_id, run_pgbench, show, store, take_turns)
from libpq import Connection

DIRECT = 'called directly'
ROOT = os.environ['ROOT']
DATABASE = 'docsync_http'

# The same documents, made into one value as a good user would do it.
PULL = "SELECT docsync_pull('me', NULL, 'bench/stored', 'other', $1::int)"
JSON_AGG = """
SELECT json_agg(d) FROM (
    SELECT id, client_version AS "clientVersion", client_id AS "clientId",
           to_char(last_update_utc AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS "LastUpdateUtc", deleted, body
      FROM docsync.document
     WHERE collection = 'bench/stored' AND client_id <> 'me'
     ORDER BY last_update_utc LIMIT $1) AS d
"""

COUNT = "SELECT count(*)::text FROM docsync.document WHERE collection = 'bench/stored' AND NOT deleted"
SYNC = "SELECT docsync_sync('client', $1, $2, 'bench')"


# ---------------------------------------------------------------------------------------------------------------------
# directly
# ---------------------------------------------------------------------------------------------------------------------

def download(count, rounds):
    """docsync_pull against json_agg over the same rows."""
    statements = {**dict.fromkeys(DOCSYNCS, PULL), 'a': JSON_AGG}
    connections = {rival: connect(rival) for rival in statements}
    for rival, connection in connections.items():
        for _ in range(6):                  # a statement has its final plan from the sixth call on
            connection.answer(statements[rival], b'100')

    def measure(rival, number):
        return 1 / connections[rival].answer(statements[rival], b'%d' % count)[0]

    yield from take_turns(rounds, measure, list(statements))
    for connection in connections.values():
        connection.close()


def state(rounds):
    """The sums of a collection that a client compares, against counting its documents. Sums are cached for a minute, so a
    document is added before each call."""
    connections = {rival: Connection() for rival in ('docsync', 'a')}
    pull = "SELECT docsync_pull('me', $1, 'bench/stored', 'other', NULL, false, $2)"
    cursor = json.loads(connections['docsync'].value(pull.replace('$1', 'NULL').replace('$2', "'false'")))['cursor'].encode()

    def measure(rival, number):
        nonlocal cursor
        if rival == 'a':
            return 1 / connections[rival].answer(COUNT)[0]
        connections[rival].query("INSERT INTO docsync.document (collection, id, client_version, client_id, body)"
                                 " VALUES ('bench/stored', 'more %s', 1, 'other', '1')" % make_id())
        cursor = json.loads(connections[rival].value(pull.replace('$2', "'false'"), cursor))['cursor'].encode()
        return 1 / connections[rival].answer(pull, cursor, b'true')[0]

    for number in range(6):
        list(take_turns(1, measure, ['docsync', 'a']))
    yield from take_turns(rounds, measure, ['docsync', 'a'])
    for connection in connections.values():
        connection.close()


class Failover:
    """Clients that have all documents of a collection, and are told to compare. One stands for all of them, by its old cursor
    and its digest, since the server keeps nothing about a client. Sums are cached for all sessions; a new epoch makes the
    server compute them again."""

    ASK = "SELECT docsync_pull('me', $1, 'bench/stored', 'other', 1000, true, $2)"
    SCRIPT = """
        SELECT answer, answer::text LIKE '%"state"_null%' AS unanswered
          FROM (SELECT docsync_pull('me', :cursor, 'bench/stored', 'other', 1000, true, {state}) AS answer
                OFFSET 0) AS a \\gset
        \\if :unanswered
        SELECT nextval('rival.unanswered');
        \\endif
        """

    def __init__(self):
        connection = Connection()
        self.cursor = newest(lambda cursor: connection.value(self.ASK, cursor, None))
        connection.query('SELECT docsync_new_epoch(); CREATE SEQUENCE rival.unanswered MINVALUE 0 START 0')
        answer = json.loads(connection.value(self.ASK, self.cursor, b'true'))
        if not answer['reconcile'] or answer['documents']:
            raise RuntimeError('a client that has everything was not told to compare')
        self.digest = answer['state']['digest'].encode()
        connection.close()

    def one(self, state, first):
        """The milliseconds a poll takes and the length of its answer; for the first poll with a state, or for a later one."""
        seconds = []
        for _ in range(5 if first else 1):
            connection = Connection()
            if first:
                connection.query('SELECT docsync_new_epoch()')
            for _ in range(6):
                connection.answer(self.ASK, self.cursor, None)
            for _ in range(0 if first else 6):
                connection.answer(self.ASK, self.cursor, state)
            for _ in range(1 if first else 200):
                duration, length = connection.answer(self.ASK, self.cursor, state)
                seconds.append(duration)
            connection.close()
        return statistics.median(seconds) * 1e3, length

    def all(self, count, sessions, with_state):
        """This many polls in new sessions: the seconds they took, the number of scans of the documents, index scans included,
        and how many polls got null for the sums, because other sessions were computing them."""
        script = self.SCRIPT.format(state=':state' if with_state else 'NULL')
        connection = Connection()
        connection.query('SELECT docsync_new_epoch()')
        connection.close()
        then = self.count()
        stdout, _ = run_pgbench('docsync', script, sessions, '-t', str(count // sessions),
                                '-Dcursor=' + self.cursor.decode(), '-Dstate=' + self.digest.decode())
        scans, unanswered = (after - before for after, before in zip(self.count(), then))
        return count / float(re.search('tps = ([0-9.]+)', stdout).group(1)), scans, unanswered

    @staticmethod
    def count():
        """The number of scans and nulls so far. A session reports its scans when it ends."""
        connection = Connection()
        while connection.query("SELECT FROM pg_stat_activity"
                               " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"):
            time.sleep(0.05)
        [row] = connection.query("""
            SELECT seq_scan + idx_scan, (SELECT last_value FROM rival.unanswered) FROM pg_stat_user_tables
             WHERE relid = 'docsync.document'::regclass""")
        connection.close()
        return [int(value) for value in row]


def show_failover(count, rounds):
    """This many clients compare a collection of this many documents: a poll of one client, and the polls of all."""
    fresh()
    store(count)
    failover = Failover()
    print('\n%-46s %12s %12s  %-24s %6s %6s %8s  %s' % (
        'all {0:,} clients of {0:,} documents compare'.format(count), 'answer', 'time', ': no state', 'scans', 'null',
        'at most', 'reached'))

    def show_row(name, answer, time_text, results, rest=''):
        ratios = [with_state[0] / without[0] for with_state, without in results]
        print('%-46s %12s %12s  %-24s %s' % (
            name, answer, time_text % statistics.median(with_state[0] for with_state, _ in results),
            '%.2f [%.2f-%.2f]' % (statistics.median(ratios), min(ratios), max(ratios)), rest), flush=True)

    plain = 'a poll without state'
    polls = {
        plain: (None, False),
        'with its digest, which is right': (failover.digest, False),
        'the same, the first of all': (failover.digest, True),
        'with a digest that is not': (b'true', False)
    }
    results = list(take_turns(rounds, lambda poll, _: failover.one(*polls[poll]), list(polls)))
    for poll in polls:
        show_row(poll, '%d B' % results[0][poll][1], '%.3f ms', [(result[poll], result[plain]) for result in results])

    for sessions in 8, 10:
        results = [(result[True], result[False]) for result in take_turns(
            rounds, lambda with_state, _: failover.all(count, sessions, with_state), [True, False])]
        scans = statistics.median(with_state[1] - without[1] for with_state, without in results)
        null = statistics.median(with_state[2] for with_state, _ in results)
        show_row('{:,} polls, {} sessions'.format(count, sessions), '', '%.2f s', results,
                 '%6d %6d %8s  %s' % (scans, null, '1 scan', 'yes' if scans <= 1 else 'no'))


def sync(count, rounds, calls):
    """An upload by docsync_sync, which also downloads what is new since the last cursor, against the statement (a): new
    documents, the same ones again, and updates. Yields (test, round)."""
    fresh()
    connections = {rival: connect(rival) for rival in DOCSYNCS + ['a']}
    plain = PLAIN.format(client='$1', documents='$2::jsonb')
    cursors = dict.fromkeys(DOCSYNCS)

    def go_on(server):
        cursors[server] = newest(lambda cursor: connections[server].value(SYNC, b'[]', cursor), cursors[server])

    def turn(rival, batches, which):
        seconds = []
        for batch in batches:
            documents = getattr(batch, which)
            if rival == 'a':
                seconds.append(connections[rival].call(plain, b'client', documents)[0])
            else:
                seconds.append(connections[rival].answer(SYNC, documents, cursors[rival])[0])
                go_on(rival)
        return count / statistics.median(seconds)

    for server in DOCSYNCS:
        go_on(server)
    for number in range(-1, rounds):
        # The first round is for warming up.
        batches = [Batch(count) for _ in range(calls)] if number >= 0 else [Batch(100) for _ in range(8)]
        for test, which in ('new', 'new'), ('re-sent', 'new'), ('updates', 'update'):
            for speeds in take_turns(1, lambda rival, _: turn(rival, batches, which),
                                     in_turn(list(connections), max(number, 0))):
                if number >= 0:
                    yield test, speeds
    for connection in connections.values():
        connection.close()


def newest(ask, cursor=None):
    """The cursor after all documents, including what the client has just uploaded. ask(cursor) returns a page."""
    more = True
    while more:
        answer = json.loads(ask(cursor))
        cursor, more = answer['cursor'].encode(), answer['more']
    return cursor


# ---------------------------------------------------------------------------------------------------------------------
# memory
# ---------------------------------------------------------------------------------------------------------------------

class Peak:
    """The peak of some processes' RssAnon, read every half millisecond, above what they had at the beginning."""

    def __init__(self, pids):
        self.files = [open('/proc/%s/status' % pid, 'rb', buffering=0) for pid in pids]
        self.before = [self.look(file) for file in self.files]
        self.highest = list(self.before)
        self.over = False

    @staticmethod
    def look(file):
        return int(re.search(rb'RssAnon:\s*(\d+)', os.pread(file.fileno(), 4096, 0)).group(1)) << 10

    def watch(self):
        while not self.over:
            for place, file in enumerate(self.files):
                self.highest[place] = max(self.highest[place], self.look(file))
            time.sleep(0.0005)

    def __enter__(self):
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.over = True
        self.thread.join()
        self.bytes = max(highest - before for highest, before in zip(self.highest, self.before))
        for file in self.files:
            file.close()


def memory(statement, count):
    """The peak memory of a backend that makes one answer, and the size of the answer."""
    connection = Connection()
    [(pid,)] = connection.query('SELECT pg_backend_pid()')
    for _ in range(6):
        connection.answer(statement, b'100')
    with Peak([pid]) as peak:
        _, size = connection.answer(statement, b'%d' % count)
    connection.close()
    return peak.bytes, size


def show_memory(name, target, peak, size):
    print('%-46s %9.1f MB %9.1f MB %6.2f %12s  %s' % (
        name, size / 1e6, peak / 1e6, peak / size, '%.2f' % target if target else '',
        ('yes' if peak <= target * size else 'no') if target else ''), flush=True)


# ---------------------------------------------------------------------------------------------------------------------
# over HTTP
# ---------------------------------------------------------------------------------------------------------------------

class Http:
    """A kept-alive connection, to PostgREST's socket or to nginx."""

    buffer = bytearray(256 << 20)

    def __init__(self, address, token):
        self.socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self.socket.connect(address)
        self.token = token

    def request(self, method, path, body=b''):
        return ('%s %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n'
                'Content-Length: %d\r\n\r\n' % (method, path, self.token, len(body))).encode() + body

    def call(self, request):
        """The seconds the request took and the length of the answer's body."""
        memory = memoryview(self.buffer)
        length = have = 0
        start = time.perf_counter()
        self.socket.sendall(request)
        while not length or have < length:
            got = self.socket.recv_into(memory[have:])
            if got == 0:
                raise RuntimeError('connection closed')
            have += got
            if not length and (end := self.buffer.find(b'\r\n\r\n', 0, have)) >= 0:
                head = bytes(self.buffer[:end]).lower()
                if not head.startswith(b'http/1.1 200'):
                    raise RuntimeError(bytes(self.buffer[:have]).decode())
                if found := re.search(rb'content-length: (\d+)', head):
                    length = end + 4 + int(found.group(1))
            if not length and memory[have - 5:have] == b'0\r\n\r\n':
                length = have       # chunked
        return time.perf_counter() - start, have - end - 4

    def close(self):
        self.socket.close()


def http(*arguments):
    return subprocess.run([os.path.join(ROOT, 'scripts', 'http'), *arguments], check=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True).stdout.strip()


class Service:
    """PostgREST and nginx as in examples/postgrest, with a separate database that has the documents of the tenant bench."""

    def __init__(self, count):
        connection = Connection()
        connection.query('DROP DATABASE IF EXISTS %s' % DATABASE)
        connection.query('CREATE DATABASE %s' % DATABASE)
        connection.close()
        subprocess.run(['psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-d', DATABASE, '-f',
                        os.path.join(ROOT, 'examples', 'postgrest', 'roles.sql')], check=True, stdout=subprocess.DEVNULL)
        self.admin = Connection('dbname=' + DATABASE)
        self.admin.query("""
            INSERT INTO docsync.document (collection, id, client_version, client_id, body)
            SELECT 'bench', n::text, 1, 'other', '%s' FROM generate_series(1, %d) n;
            CREATE SCHEMA constant;
            CREATE TABLE constant.answer (value json);
            ALTER TABLE constant.answer ALTER COLUMN value SET STORAGE EXTERNAL;
            INSERT INTO constant.answer SELECT api.docsync_pull('me', NULL, 'bench', 'other', %d);
            GRANT USAGE ON SCHEMA constant TO docsync_user;
            GRANT SELECT ON constant.answer TO docsync_user;
            CREATE FUNCTION api.nothing() RETURNS json STABLE LANGUAGE sql AS $$ SELECT json 'null' $$;
            CREATE FUNCTION api.constant() RETURNS json STABLE LANGUAGE sql AS $$
                SELECT value FROM constant.answer $$;
            CREATE FUNCTION api.wrapped("clientId" text, collection text, "maxDocuments" int)
                RETURNS json STABLE LANGUAGE sql AS $$
                SELECT api.docsync_pull("clientId", NULL, collection, 'other', "maxDocuments")::json $$"""
                         % (BODY, count, PAGE))
        self.admin.query('VACUUM ANALYZE docsync.document')
        self.url = http('start', 'bench', DATABASE)
        self.token = http('token', 'bench', '{"role": "docsync_user", "tenant": "bench"}')
        directory = os.path.join(os.path.dirname(os.environ['PGHOST']), 'http')
        self.socket = os.path.join(directory, 'postgrest.sock')
        with open(os.path.join(directory, 'postgrest.pid')) as file:
            self.pid = file.read().strip()
        self.direct = Connection('dbname=' + DATABASE)
        self.direct.query("""SET ROLE docsync_user; SET request.jwt.claims = '{"tenant": "bench"}'""")

    def connect(self):
        host, port = self.url.removeprefix('http://').split(':')
        return {'PostgREST': Http(self.socket, self.token), 'nginx': Http((host, int(port)), self.token)}

    def backends(self):
        return [pid for (pid,) in self.admin.query(
            "SELECT pid FROM pg_stat_activity WHERE usename = 'docsync_authenticator'")]

    def close(self):
        self.admin.close()
        self.direct.close()
        http('stop', 'bench')


def downloads_over_http(service, count, rounds, name='docsync_pull'):
    """The same page directly and over HTTP. Yields rounds of seconds."""
    connections = service.connect()
    arguments = 'clientId=me&collection=bench&maxDocuments=%d' % count
    paths = {'PostgREST': '/rpc/%s?%s' % (name, arguments), 'nginx': '/Docs/Pull?' + arguments}
    if name != 'docsync_pull':
        connections.pop('nginx').close()
    requests = {way: connection.request('GET', paths[way]) for way, connection in connections.items()}
    statement = "SELECT api.docsync_pull('me', NULL, 'bench', 'other', $1::int)"

    def measure(way, number):
        times = 20 if count <= PAGE else 1
        if way == DIRECT:
            return statistics.median(service.direct.answer(statement, b'%d' % count)[0] for _ in range(times))
        return statistics.median(connections[way].call(requests[way])[0] for _ in range(times))

    yield from warm_and_measure(rounds, measure, [DIRECT, *connections])
    for connection in connections.values():
        connection.close()


def function_over_http(service, name, rounds):
    """A function that does almost nothing, directly and over PostgREST: PostgREST's own share."""
    connection = Http(service.socket, service.token)
    request = connection.request('GET', '/rpc/' + name)

    def measure(way, number):
        if way == DIRECT:
            return statistics.median(service.direct.answer('SELECT api.%s()' % name)[0] for _ in range(20))
        return statistics.median(connection.call(request)[0] for _ in range(20))

    yield from warm_and_measure(rounds, measure, [DIRECT, 'PostgREST'])
    connection.close()


def uploads_over_http(service, count, rounds):
    """New documents by docsync_sync."""
    connections = service.connect()
    paths = {'PostgREST': '/rpc/docsync_sync', 'nginx': '/Docs/Sync'}
    statement = "SELECT api.docsync_sync('client', $1, $2, 'bench')"

    def go_on(cursor):
        return newest(lambda cursor: service.direct.value(statement, b'[]', cursor), cursor)

    cursor = go_on(None)

    def measure(way, number):
        nonlocal cursor
        seconds = []
        for _ in range(10 if count <= 100 else 1):
            batch = Batch(count).new
            if way == DIRECT:
                seconds.append(service.direct.answer(statement, batch, cursor)[0])
            else:
                seconds.append(connections[way].call(connections[way].request('POST', paths[way], (
                    b'{"clientId": "client", "collection": "bench", "cursor": "%s", "documents": %s}'
                    % (cursor, batch))))[0])
            cursor = go_on(cursor)
        return statistics.median(seconds)

    yield from warm_and_measure(rounds, measure)
    for connection in connections.values():
        connection.close()


def warm_and_measure(rounds, measure, ways=(DIRECT, 'PostgREST', 'nginx')):
    for _ in range(2):
        for way in ways:
            measure(way, 0)
    return take_turns(rounds, measure, list(ways))


def show_ways(name, rounds, target=None):
    """Prints a row: the milliseconds directly, and the time over HTTP as multiples of that."""
    direct = statistics.median(seconds[DIRECT] for seconds in rounds)
    cells = []
    for way in 'PostgREST', 'nginx':
        if way in rounds[0]:
            ratios = [seconds[way] / seconds[DIRECT] for seconds in rounds]
            cells.append('%.2f [%.2f-%.2f]' % (statistics.median(ratios), min(ratios), max(ratios)))
            if way == 'PostgREST':
                ratio = statistics.median(ratios)
                time_there = statistics.median(seconds[way] for seconds in rounds)
        else:
            cells.append('')
    print('%-34s %9.2f ms %9.2f ms  %-20s %-20s %7s  %s' % (
        name, direct * 1e3, time_there * 1e3, *cells, '%.2f' % target if target else '',
        ('yes' if ratio <= target else 'no') if target else ''), flush=True)
    return time_there - direct, time_there


MANY = 20_000 if QUICK else 100_000


def measure_rows(only):
    """The rows with rival (a)."""
    for count, calls, new in (100, 2 if QUICK else 20, 1.2), (10_000, 1, 1.5):
        if not re.search(only, 'docsync_sync of {:,}'.format(count)):
            continue
        results = {}
        for test, speeds in sync(count, count_rounds(2, 12), calls):
            results.setdefault(test, []).append(speeds)
        for test, rows in results.items():
            show('docsync_sync of {:,}, {}'.format(count, test), '/s', rows,
                 {'a': {'new': new, 're-sent': 2.5, 'updates': 1}[test]})

    if re.search(only, 'download'):
        fresh()
        store(MANY)
        for count in 10_000, MANY:
            show('download of {:,}'.format(count), 'ms', list(download(count, count_rounds(2, 10))), {'a': 3})


def run(only):
    if re.search(only, 'state'):
        fresh()
        store(MANY)
        show('state of {:,} against count(*)'.format(MANY), 'ms', list(state(2 * count_rounds(2, 9))), {'a': 1 / 1.5})

    if re.search(only, 'failover'):
        show_failover(10_000, count_rounds(2, 9))

    if re.search(only, 'http'):
        service = Service(MANY)
        try:
            run_http(service, count_rounds(2, 9), MANY)
        finally:
            service.close()


def run_http(service, rounds, many):
    print('\n%-34s %12s %12s  %-20s %-20s %7s  %s' % (
        'over HTTP', 'directly', 'PostgREST', ': directly', 'nginx : directly', 'at most', 'reached'))
    page_share, page_time = show_ways('page of {:,}'.format(PAGE), list(downloads_over_http(service, PAGE, 2 * rounds)), 1.3)
    show_ways('nothing (SELECT null)', list(function_over_http(service, 'nothing', 2 * rounds)))
    share, _ = show_ways('a constant of the page\'s size', list(function_over_http(service, 'constant', 2 * rounds)))
    show_ways('the same page as json', list(downloads_over_http(service, PAGE, 2 * rounds, 'wrapped')))
    for count in 10_000, many:
        show_ways('download of {:,}'.format(count), list(downloads_over_http(service, count, rounds)))
    show_ways('the same as json', list(downloads_over_http(service, many, rounds, 'wrapped')))
    for count in 100, 10_000:
        show_ways('docsync_sync of {:,}, new'.format(count), list(uploads_over_http(service, count, rounds)))
    print('PostgREST\'s own share of the page: %.2f ms of %.2f ms; of the constant %.2f ms'
          % (page_share * 1e3, page_time * 1e3, share * 1e3))

    print('\n%-46s %12s %12s %6s %12s  %s' % ('memory of a download of {:,}'.format(many), 'answer', 'peak', 'times', 'at most', 'reached'))
    pull = "SELECT api.docsync_pull('me', NULL, 'bench', 'other', $1::int)"
    plain = JSON_AGG.replace("'bench/stored'", "'bench'")
    for statement, rival, target in (pull, 'docsync_pull', 2.5), (plain, 'json_agg', None):
        os.environ['PGDATABASE'] = DATABASE
        show_memory('called directly, %s, backend' % rival, target, *max(memory(statement, many) for _ in range(3)))

    for function, note in ('docsync_pull', ''), ('wrapped', ', as json'):
        connection = Http(service.socket, service.token)
        connection.call(connection.request('GET', '/rpc/%s?clientId=me&collection=bench&maxDocuments=100' % function))
        with Peak(service.backends()) as backend, Peak([service.pid]) as postgrest:
            _, size = connection.call(connection.request(
                'GET', '/rpc/%s?clientId=me&collection=bench&maxDocuments=%d' % (function, many)))
        show_memory('over PostgREST%s, backend' % note, 2.5, backend.bytes, size)
        show_memory('over PostgREST%s, PostgREST' % note, None, postgrest.bytes, size)
        connection.close()
