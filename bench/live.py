"""live.py - what announcements cost uploads, and how soon they come. Run by bench/live."""

import ctypes
import json
import os
import re
import select
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import libpq
from libpq import lib

PAIRS = int(os.environ.get("BENCH_PAIRS", 12))  # of measurements, with and without, by turns
SECONDS = 2         # each, after one to warm up
RATES = (1, 100, 1000)

UPLOAD = """\\set id random(1, 1000000000000000000)
SELECT docsync_upsert('c', jsonb_build_array(jsonb_build_object('id', 'd' || :id, 'clientVersion', 1, 'body', repeat('x', 300))), 'bench');
"""


class Notify(ctypes.Structure):
    _fields_ = [('channel', ctypes.c_char_p), ('pid', ctypes.c_int), ('payload', ctypes.c_char_p)]


lib.PQnotifies.restype = ctypes.c_void_p
lib.PQsocket.argtypes = [ctypes.c_void_p]


def pgbench(sessions, announce):
    """Transactions per second of single uploads."""
    with tempfile.NamedTemporaryFile('w', suffix='.sql') as script:
        script.write(UPLOAD)
        script.flush()
        environment = dict(os.environ, PGOPTIONS=os.environ['PGOPTIONS'] + ' -c docsync.announce=' + announce)
        run = subprocess.run(['pgbench', '-n', '-M', 'prepared', '-c', str(sessions), '-j', '2', '-T', str(SECONDS + 1), '-P', '1',
                              '-f', script.name], env=environment, capture_output=True, text=True, check=True)
    return statistics.mean([float(rate) for rate in re.findall(r'progress: .*? s, ([0-9.]+) tps', run.stderr)][1:])


def throughput(sessions):
    """Prints the ratio of uploads with announcements to those without."""
    ratios, speeds = [], []
    for number in range(PAIRS):
        order = ('on', 'off') if number % 2 else ('off', 'on')
        speed = {announce: pgbench(sessions, announce) for announce in order}
        speeds.append(speed['off'])
        ratios.append(speed['on'] / speed['off'])
    low, median, high = statistics.quantiles(ratios, n=4)
    print('%d sessions: %.3f (half of the pairs from %.3f to %.3f) of %.0f uploads a second'
          % (sessions, median, low, high, statistics.median(speeds)))


def processor_time(pid):
    """In seconds"""
    with open('/proc/%s/schedstat' % pid, encoding='ascii') as file:
        return int(file.read().split()[0]) / 1e9


def cost():
    """Prints the ratio of the processor time of an upload with announcements to that of one without, which other processes disturb less."""
    session = libpq.Connection()
    pid = session.query('SELECT pg_backend_pid()')[0][0]
    upload = ("SELECT docsync_upsert('c', jsonb_build_array(jsonb_build_object('id', 'd' || $1, 'clientVersion', 1, "
              "'body', repeat('x', 300))), 'cost')")
    ratios, number, announcers = [], 0, []
    for pair in range(2 * PAIRS):
        took = {}
        for announce in ('on', 'off') if pair % 2 else ('off', 'on'):
            session.query('SET docsync.announce = ' + announce)
            announcer = session.query("SELECT max(pid) FROM pg_stat_activity WHERE backend_type = 'docsync announcer'")[0][0]
            before, begun = processor_time(pid), time.perf_counter()
            of_announcer = processor_time(announcer) if announcer else 0
            for _ in range(1000):
                number += 1
                session.call(upload, b'%d' % number)
            took[announce] = processor_time(pid) - before
            if announcer and announce == 'on':
                announcers.append((processor_time(announcer) - of_announcer) / (time.perf_counter() - begun))
        ratios.append(took['off'] / took['on'])
    low, median, high = statistics.quantiles(ratios, n=4)
    print('processor time of an upload without, to that of one with announcements: %.3f (half of the pairs from %.3f to %.3f); '
          "the announcer's: %.1f%% of a processor" % (median, low, high, 100 * statistics.median(announcers)))


def latency(rate):
    """Prints how long after its commit an upload is announced, at so many commits a second."""
    listener, writer = libpq.Connection(), libpq.Connection()
    listener.query('LISTEN docsync')
    writer.query('SET docsync.announce = on')
    collection = 'rate %d' % rate
    upload = ("SELECT last_update_utc AT TIME ZONE 'UTC' FROM docsync_upsert('c', jsonb_build_array("
              "jsonb_build_object('id', 'd', 'clientVersion', %%d, 'body', 1)), '%s')" % collection)
    writer.query(upload % 1)
    key = writer.query("SELECT docsync_listen_key('%s')" % collection)[0][0]
    count = min(max(10, 10 * rate), 5000)
    heard, committed, is_over = [], [], threading.Event()

    def listen():
        while not is_over.is_set():
            select.select([lib.PQsocket(listener.conn)], [], [], 0.1)
            lib.PQconsumeInput(listener.conn)
            while pointer := lib.PQnotifies(listener.conn):
                now = time.perf_counter()
                told = json.loads(ctypes.cast(pointer, ctypes.POINTER(Notify)).contents.payload)
                lib.PQfreemem(ctypes.c_void_p(pointer))
                if told['collection'] == key and told['through']:
                    heard.append((told['through'].rstrip('Z').replace('T', ' '), now))

    thread = threading.Thread(target=listen)
    thread.start()
    time.sleep(0.5)
    start = time.perf_counter()
    for number in range(count):
        rest = start + number / rate - time.perf_counter()
        if rest > 0:
            time.sleep(rest)
        stamp = writer.query(upload % (number + 2))[0][0]
        committed.append((stamp if '.' in stamp else stamp + '.', time.perf_counter()))
    seconds = time.perf_counter() - start
    time.sleep(2)
    is_over.set()
    thread.join()

    took, place = [], 0
    for stamp, when in committed:
        while place < len(heard) and heard[place][0] < stamp:
            place += 1
        if place == len(heard):
            sys.exit('an upload was not announced')
        took.append(max(0, heard[place][1] - when))
    took.sort()
    print('%d commits a second (%.0f): announced after %.1f ms (median), %.1f (99 of 100), %.1f (at the most); %d announcements'
          % (rate, count / seconds, 1000 * statistics.median(took), 1000 * took[int(len(took) * 0.99)], 1000 * took[-1], len(heard)))


def main():
    """All of it, in a new store"""
    connection = libpq.Connection()
    connection.query('CREATE EXTENSION docsync')
    connection.query('SELECT docsync_create_store()')
    cost()
    for sessions in (8, 32):
        throughput(sessions)
    for rate in RATES:
        latency(rate)


main()
