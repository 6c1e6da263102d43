"""measure.py - measures docsync's two HTTP layers and other services in turn; prints ratios, and processor time per request.

Started by run, which makes the server. wrk sends the requests, which load.lua makes; downloads are made in Python, one page after the other,
without parsing the answers.
"""

import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.parse
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

from common import BODY, DIR, QUICK, count_rounds, in_turn, log, machine, make_body       # noqa: E402
from libpq import Connection                                                              # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
RIVALS_DIR = os.environ['BENCH_RIVALS_DIR']
TOKEN = os.environ['BENCH_TOKEN']
SERVER = os.environ['BENCH_SERVER']
TICK = os.sysconf('SC_CLK_TCK')

STORED = 10_000 if QUICK else 100_000       # documents that a poll skips, and a download fetches
UPDATED = 10_000                            # documents that are updated
SECONDS = 1 if QUICK else 3
ROUNDS = count_rounds(1, 3)

# The gateway is measured against these. Targets are its least acceptable rate, as a multiple of the rival's.
RIVALS = os.environ.get('BENCH_RIVALS', 'postgrest hand pouch parse').split()

# workload, connections, rivals without it, targets
TESTS = [
    ('up1', 1, (), {'hand': 0.9, 'postgrest': 2.5}),
    ('up1', 8, (), {'hand': 0.9, 'postgrest': 2.5}),
    ('up1', 32, ('pouch', 'parse'), {'hand': 0.9, 'postgrest': 2.5}),
    ('update', 1, ('pouch', 'parse'), {'hand': 0.9, 'postgrest': 2.5}),
    ('update', 8, (), {'hand': 0.9, 'postgrest': 2.5}),
    ('update', 32, ('pouch', 'parse'), {'hand': 0.9, 'postgrest': 2.5}),
    ('poll', 1, (), {'hand': 0.9, 'postgrest': 2.5}),
    ('poll', 8, (), {'hand': 0.9, 'postgrest': 2.5}),
    ('poll', 32, ('pouch', 'parse'), {'hand': 0.9, 'postgrest': 2.5}),
    ('mixed', 32, ('pouch', 'parse'), {'hand': 1.0, 'postgrest': 2.5}),
    ('up100', 1, (), {'hand': 1.1}),
    ('up100', 8, ('pouch', 'parse'), {'hand': 1.1}),
    ('up1000', 1, ('parse',), {'hand': 1.1}),
    ('resend100', 1, ('pouch', 'parse'), {}),
    ('download', 1, (), {'hand': 1.0}),
]


class Rival:
    """A service that is measured. Its processes are its own, and PostgreSQL's if it has a database there."""

    def __init__(self, name):
        self.name = name
        self.position = ''
        self.has_database = name != 'pouch'
        self.process = None
        if name == 'postgrest':
            self.url = os.environ['BENCH_URL']
        else:
            self.url = 'http://127.0.0.1:%d' % free_port()
            self.process = self.start()

    def start(self):
        port = self.url.rsplit(':', 1)[1]
        directory = os.path.join(DIR, self.name)
        os.mkdir(directory)
        host, pgport = os.environ['PGHOST'], os.environ['PGPORT']
        secret = open(SERVER + '/http/jwt-secret').read().strip()
        script = os.path.join(RIVALS_DIR, self.name + '.js')
        command, env = {
            'gateway': ([os.environ['GATEWAY_PROGRAM']], {
                'DOCSYNC_DATABASE_URI': 'postgresql://docsync_gateway@/gateway?host=%s&port=%s' % (host, pgport),
                'DOCSYNC_LISTEN': '127.0.0.1:' + port, 'DOCSYNC_ADMIN_LISTEN': '', 'DOCSYNC_JWT_SECRET': secret}),
            'hand': ([script, port, secret], {'PGDATABASE': 'hand'}),
            'pouch': ([script, port, directory], {}),
            'parse': ([script, port], {'PARSE_DATABASE': 'postgres://postgres@127.0.0.1:%s/parse' % pgport}),
        }[self.name]
        options = os.environ.get('BENCH_NODE_OPTIONS', '').split()
        with open(os.path.join(directory, 'out'), 'w') as out:
            process = subprocess.Popen([os.environ['NODE'], *options, *command], env={**os.environ, **env}, cwd=directory,
                                       stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        for _ in range(600):
            try:
                http.client.HTTPConnection('127.0.0.1', int(port)).connect()
                return process
            except OSError:
                time.sleep(0.1)
        process.kill()
        raise RuntimeError('%s did not start: %s' % (self.name, open(os.path.join(directory, 'out')).read()))

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()

    def headers(self):
        if self.name == 'parse':
            return {'X-Parse-Application-Id': 'bench', 'X-Parse-REST-API-Key': 'rest', 'Content-Type': 'application/json'}
        if self.name == 'pouch':
            return {'Content-Type': 'application/json'}
        return {'Authorization': 'Bearer ' + TOKEN, 'Content-Type': 'application/json'}

    def ask(self, method, path, value=None):
        """Sends a request and returns the answer's JSON."""
        body = None if value is None else json.dumps(value).encode()
        request = urllib.request.Request(self.url + path, body, self.headers(), method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def groups(self):
        """The processor time used so far, in seconds, by group of processes and by process."""
        pids = {}
        if self.has_database:
            pids['PostgreSQL'] = children_of(pid_of(SERVER + '/data/postmaster.pid'))
        if self.process:
            pids['node'] = [self.process.pid]
        else:
            pids['PostgREST'] = [pid_of(SERVER + '/http/postgrest.pid')]
            pids['nginx'] = children_of(pid_of(SERVER + '/http/nginx.pid'))
        return {group: {pid: cpu_of(pid) for pid in pids[group]} for group in pids}


def free_port():
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


def pid_of(path):
    with open(path) as file:
        return int(file.readline())


def children_of(parent):
    """A process and its children."""
    pids = [parent]
    for name in os.listdir('/proc'):
        if name.isdigit():
            try:
                with open('/proc/%s/stat' % name) as file:
                    if int(file.read().rsplit(')', 1)[1].split()[1]) == parent:
                        pids.append(int(name))
            except OSError:
                pass
    return pids


def cpu_of(pid):
    try:
        with open('/proc/%d/stat' % pid) as file:
            fields = file.read().rsplit(')', 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK
    except OSError:
        return 0


# ---------------------------------------------------------------------------------------------------------------------
# what is stored beforehand
# ---------------------------------------------------------------------------------------------------------------------

HAND = """
CREATE TABLE doc (
    collection text COLLATE "C" NOT NULL, id text COLLATE "C" NOT NULL, client_version int8 NOT NULL,
    client_id text COLLATE "C" NOT NULL, last_update_utc timestamptz NOT NULL, deleted bool NOT NULL, body jsonb,
    PRIMARY KEY (collection, id));
CREATE INDEX ON doc (collection, last_update_utc)
"""


def fill(rival):
    """Stores the same documents for each rival, and sets rival.position to that of a client that has all documents of polls."""
    sets = [('bench', 'u', UPDATED), ('bench/poll', 'p', STORED)]
    if rival.name in ('pouch', 'parse'):
        FILLS[rival.name](rival)
        return

    connection = Connection('dbname=' + rival.name)
    if rival.name == 'hand':
        connection.query(HAND)
    for collection, prefix, count in sets:
        into, stamp = (('docsync.document', '') if rival.name != 'hand' else ('doc', ", last_update_utc, deleted"))
        values = ", clock_timestamp(), false" if stamp else ''
        connection.query("INSERT INTO %s (collection, id, client_version, client_id, body%s)"
                         " SELECT '%s', '%s' || n, 1, 'seed', '%s'%s FROM generate_series(1, %d) AS n"
                         % (into, stamp, collection, prefix, BODY, values, count))
    connection.query('VACUUM ANALYZE')
    connection.query('CHECKPOINT')
    if rival.name == 'hand':
        [(position,)] = connection.query("SELECT max(last_update_utc)::text FROM doc WHERE collection = 'bench/poll'")
        rival.position = urllib.parse.quote(position)
    else:
        answer = rival.ask('GET', '/Docs/Pull?clientId=laptop&collection=bench%2Fpoll&maxDocuments=1000000')
        rival.position = urllib.parse.quote(answer['cursor'])
    connection.close()


def fill_pouch(rival):
    for database, prefix, count in ('up', 'u', UPDATED), ('poll', 'p', STORED):
        rival.ask('PUT', '/' + database)
        for first in range(0, count, 1000):
            rival.ask('POST', '/%s/_bulk_docs' % database, {'docs': [
                {'_id': '%s%d' % (prefix, n + 1), 'clientVersion': 1, 'body': make_body()} for n in range(first, first + 1000)]})
    rival.position = str(rival.ask('GET', '/poll')['update_seq'])


def fill_parse(rival):
    for name, prefix, count in ('Up', 'u', UPDATED), ('Poll', 'p', STORED):
        for first in range(0, count, 50):
            rival.ask('POST', '/parse/batch', {'requests': [
                {'method': 'POST', 'path': '/parse/classes/' + name,
                 'body': {'objectId': '%s%d' % (prefix, n + 1), 'clientVersion': 1, 'body': make_body()}}
                for n in range(first, first + 50)]})
    connection = Connection('dbname=parse')
    connection.query('CREATE INDEX ON "Poll" ("updatedAt")')
    connection.query('VACUUM ANALYZE')
    connection.close()
    [newest] = rival.ask('GET', '/parse/classes/Poll?order=-updatedAt&limit=1')['results']
    rival.position = parse_since(newest['updatedAt'])


def parse_since(time):
    return urllib.parse.quote(json.dumps({'updatedAt': {'$gt': {'__type': 'Date', 'iso': time}}}))


FILLS = {'pouch': fill_pouch, 'parse': fill_parse}


# ---------------------------------------------------------------------------------------------------------------------
# measuring
# ---------------------------------------------------------------------------------------------------------------------

def wrk(rival, workload, connections, seconds):
    """Returns requests, seconds, and latencies in ms: p50, p99."""
    done = subprocess.run(
        ['wrk', '-t', '1', '-c', str(connections), '-d', '%ds' % seconds, '--timeout', '30s', '-s', os.path.join(HERE, 'load.lua'), rival.url,
         '--', rival.name, workload, TOKEN, rival.position], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    found = re.search(r'^RESULT (\d+) (\d+) (\d+) (\d+) (\d+)$', done.stdout, re.M)
    if not found or found.group(3) != '0':
        raise RuntimeError('%s, %s: %s' % (rival.name, workload, done.stdout))
    requests, microseconds, _, p50, p99 = map(int, found.groups())
    return requests, microseconds / 1e6, p50 / 1000, p99 / 1000


def download(rival):
    """Downloads all documents of polls, in pages of 1,000; returns pages and seconds."""
    connection = http.client.HTTPConnection(rival.url.split('//')[1])
    position, pages, begun = first_position(rival), 0, time.perf_counter()

    while True:
        connection.request('GET', page_path(rival, position), headers=rival.headers())
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError('%s: %d %s' % (rival.name, answer.status, body[:200]))
        position, more = next_position(rival, body)
        if not more:
            return pages, time.perf_counter() - begun
        pages += 1


def first_position(rival):
    return {'hand': '1970-01-01', 'pouch': '0', 'parse': parse_since('1970-01-01T00:00:00.000Z')}.get(rival.name, '')


def page_path(rival, position):
    if rival.name == 'hand':
        return '/Docs?clientId=laptop&collection=bench%2Fpoll&since=' + position
    if rival.name == 'pouch':
        return '/poll/_changes?include_docs=true&limit=1000&since=' + position
    if rival.name == 'parse':
        return '/parse/classes/Poll?limit=1000&order=updatedAt&where=' + position
    return '/Docs/Pull?clientId=laptop&collection=bench%2Fpoll&cursor=' + position


def next_position(rival, body):
    """The position of the next page, and whether this one had documents; both are found near the ends of the answer."""
    end = body[-1000:].decode()
    if rival.name == 'hand':
        found = re.search(r'"since":"([^"]*)"\}$', end)
        return urllib.parse.quote(found.group(1)) if found else '', found is not None
    if rival.name == 'pouch':
        position = re.search(r'"last_seq":"?(\d+)', end).group(1)
        return position, not body.startswith(b'{"results":[]') and b'"id"' in body[:200]
    if rival.name == 'parse':
        times = re.findall(r'"updatedAt":"([^"]*)"', end)
        return parse_since(times[-1]) if times else '', bool(times)
    position = re.search(r'"cursor":"([^"]*)"', end).group(1)
    return position, b'"documents":[]' not in body[:200]


def measure(rival, workload, connections):
    """Returns the rate per second, the milliseconds of processor time per request by group, and latencies, if there are any."""
    latency = ()
    if workload != 'download':
        wrk(rival, workload, connections, 1)
    before = rival.groups()
    if workload == 'download':
        requests, seconds = download(rival)
        rate = requests * 1000 / seconds
    else:
        requests, seconds, *latency = wrk(rival, workload, connections, SECONDS)
        rate = requests / seconds
    after = rival.groups()
    # Processes that have ended meanwhile, such as autovacuum's workers, aren't counted.
    cpu = {group: sum(seconds - before[group].get(pid, 0) for pid, seconds in after[group].items()) * 1000 / requests for group in after}
    return rate, cpu, latency


def main():
    machine()
    rivals = {}
    try:
        for name in ['gateway'] + RIVALS:
            log('filling ' + name)
            rivals[name] = Rival(name)
            fill(rivals[name])
        measure_all(rivals)
    finally:
        for rival in rivals.values():
            rival.stop()


def measure_all(rivals):
    """Prints both tables."""
    print('\n%-12s %12s  %s  %-28s %s' % ('test', 'gateway', ' '.join('%-18s' % (': ' + name) for name in RIVALS), 'at least', 'reached'))
    times = []
    for workload, connections, without, targets in TESTS:
        test = '%s @ %d' % (workload, connections)
        if not re.search(os.environ.get('BENCH_ONLY', ''), test):
            continue
        playing = [name for name in rivals if name not in without]
        rounds = []
        for number in range(ROUNDS):
            rounds.append({name: measure(rivals[name], workload, connections) for name in in_turn(playing, number)})
            if os.environ.get('BENCH_VERBOSE'):
                log('  %s: %s' % (test, '  '.join('%s %.0f' % (name, rounds[-1][name][0]) for name in playing)))
        show(test, playing, rounds, targets)
        times.append((test, playing, rounds))

    print('\nprocessor time per request, ms; latency at the median and the 99th percentile, ms')
    for test, playing, rounds in times:
        for name in playing:
            show_time(test, name, [row[name] for row in rounds])


def show(test, playing, rounds, targets):
    """Prints a row: the gateway's rate, and its ratios to the rivals' rates, as medians of the rounds."""
    cells, reached = [], []
    for name in RIVALS:
        if name not in playing:
            cells.append('')
            continue
        ratios = [row['gateway'][0] / row[name][0] for row in rounds]
        middle = statistics.median(ratios)
        cells.append('%.2f [%.2f-%.2f]' % (middle, min(ratios), max(ratios)))
        if name in targets:
            reached.append('yes' if middle >= targets[name] else 'no')
    print('%-12s %10s/s  %s  %-28s %s' % (
        test, '{:,.0f}'.format(statistics.median(row['gateway'][0] for row in rounds)), ' '.join('%-18s' % cell for cell in cells),
        ' '.join('%s %.1f' % (name, targets[name]) for name in RIVALS if name in targets), ' '.join(reached)), flush=True)


def show_time(test, name, results):
    """Prints how the processor time of a rival's request is spent, as means of the rounds."""
    groups = {group: statistics.mean(cpu[group] for _, cpu, _ in results) for group in results[0][1]}
    latency = ''
    if results[0][2]:
        latency = '%8.2f /%7.2f' % tuple(statistics.median(latency[place] for _, _, latency in results) for place in (0, 1))
    print('%-12s %-10s %8.3f = %-52s %s' % (
        test, name, sum(groups.values()), ' + '.join('%s %.3f' % pair for pair in groups.items()), latency))


main()
