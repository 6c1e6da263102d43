"""measure.py [quick] - measures and prints the table; run by bench/run once it has started a server.

Rivals take turns (docsync, a, b, c; then c, b, a, docsync; ...), each round gives a ratio, and the median of these is
printed, so that whatever slows the machine down for a while slows down all of them.
"""

import os
import re
import statistics

import answers
from common import (BODY, Batch, COPY, DOCSYNCS, PAGE, PRELOADED, Policy, QUICK, STORED, UPLOADS, administrate,
                    connect, count_rounds, fresh, in_turn, machine, pgbench, show, show_head, store, take_turns)


# ---------------------------------------------------------------------------------------------------------------------
# tests: each yields rounds, a round is {rival: documents (or calls) per second}
# ---------------------------------------------------------------------------------------------------------------------

def upload_one(sessions, rounds, seconds):
    fresh()
    documents = ("""('[{"id": "note-' || :id::text || '", "clientVersion": 1764000000000, "body": %s}]')::jsonb"""
                 % BODY)

    def measure(rival, number):
        statement = UPLOADS[rival].format(client="'client-' || :client_id::text", documents=documents)
        return pgbench(rival, '\\set id random(1, 1000000000000000000)\n%s;\n' % statement.replace('\n', ' '),
                       sessions, seconds)

    yield from take_turns(rounds, measure, list(UPLOADS))


def update_one(sessions, rounds, seconds):
    """Each session updates its own documents, with increasing versions."""
    fresh()
    documents = ("""('[{"id": "' || :id::text || '", "clientVersion": ' || :version::text || ', "body": %s}]')::jsonb"""
                 % BODY)

    def measure(rival, number):
        statement = UPLOADS[rival].format(client="'client-' || :client_id::text", documents=documents)
        return pgbench(rival, '\\set id random(1, %d) * %d + :client_id + 1\n\\set version :version + 1\n%s;\n'
                       % (PRELOADED // sessions - 1, sessions, statement.replace('\n', ' ')),
                       sessions, seconds, [('version', (number + 1) * 10_000_000)])

    yield from take_turns(rounds, measure, list(UPLOADS))


def resend_one(sessions, rounds, seconds):
    """A client sends again what it has stored."""
    fresh()
    documents = """('[{"id": "' || :id::text || '", "clientVersion": 1, "body": %s}]')::jsonb""" % BODY

    def measure(rival, number):
        statement = UPLOADS[rival].format(client="'seed'", documents=documents)
        return pgbench(rival, '\\set id random(1, %d)\n%s;\n' % (PRELOADED, statement.replace('\n', ' ')),
                       sessions, seconds)

    yield from take_turns(rounds, measure, list(UPLOADS))


def upload_batches(count, rounds, calls):
    """New, re-sent, updates: three tests with the same batches. Yields (test, round)."""
    fresh()
    rivals = list(UPLOADS) + ['c']
    connections = {rival: connect(rival) for rival in rivals}
    statements = {rival: UPLOADS[rival].format(client='$1', documents='$2::jsonb') for rival in UPLOADS}

    def turn(rival, batches, which, expected):
        seconds = []
        for batch in batches:
            if rival == 'c':
                seconds.append(connections[rival].copy(COPY, batch.copy_chunks()))
                continue
            duration, rows = connections[rival].call(statements[rival], b'client', getattr(batch, which))
            if rows != expected[rival]:
                raise RuntimeError('%s: %d rows came back' % (rival, rows))
            seconds.append(duration)
        return count / statistics.median(seconds)

    for number in range(-1, rounds):
        # The first round is for warming up: a statement has its final plan from the sixth call on.
        batches = [Batch(count) for _ in range(calls)] if number >= 0 else [Batch(100) for _ in range(8)]
        length = len(batches[0].documents)
        for test, which, names, expected in (
                ('new', 'new', rivals, dict.fromkeys(UPLOADS, length)),
                ('re-sent', 'new', list(UPLOADS), {**dict.fromkeys(DOCSYNCS, length), 'a': 0, 'b': 0}),
                ('updates', 'update', list(UPLOADS), dict.fromkeys(UPLOADS, length))):
            for speeds in take_turns(1, lambda rival, _: turn(rival, batches, which, expected),
                                     in_turn(names, max(number, 0))):
                if number >= 0:
                    yield test, speeds
    for connection in connections.values():
        connection.close()


POLL = "SELECT * FROM docsync_query_since(:client, :since, 'other', :collection, %d)" % PAGE
POLL_PLAIN = ("SELECT id, client_version, client_id, last_update_utc, deleted, body FROM docsync.document"
              " WHERE collection = :collection AND last_update_utc >= :since AND client_id <> :client"
              " ORDER BY last_update_utc LIMIT %d" % PAGE)


def touch():
    """Updates four fifths of the documents, without an ANALYZE."""
    for server in DOCSYNCS:
        connection = administrate(server)
        connection.query("""
            UPDATE docsync.document SET client_version = 2, client_id = 'other'
             WHERE collection = 'bench/stored' AND id::int % 5 <> 0""")
        connection.close()


def stamp_at(server, place):
    """The stamp of a document, by its relative position among those stored, 0 to 1."""
    connection = administrate(server)
    [(stamp,)] = connection.query("""
        SELECT last_update_utc::text FROM docsync.document WHERE collection = 'bench/stored'
         ORDER BY last_update_utc OFFSET %d LIMIT 1""" % min(place * STORED, STORED - 1))
    connection.close()
    return stamp


def poll(place, rounds, seconds):
    since = {server: stamp_at(server, place) for server in DOCSYNCS}
    since['a'] = since['docsync']

    def measure(rival, number):
        return pgbench(rival, (POLL_PLAIN if rival == 'a' else POLL) + ';\n', 1, seconds,
                       [('client', 'me'), ('collection', 'bench/stored'), ('since', since[rival])])

    yield from take_turns(rounds, measure, list(since))


def measure_rows(only):
    """The rows with rival (a)."""
    seconds = 1 if QUICK else 2

    for sessions in 1, 8, 32:
        name = 'upload 1 new, %d session%s' % (sessions, 's' * (sessions > 1))
        if re.search(only, name):
            show(name, '/s', list(upload_one(sessions, count_rounds(1, 10), seconds)),
                 {'a': 1, 'b': 5} if sessions > 1 else {})
    for name, test, target in (('update 1, 8 sessions', update_one, {'a': 0.95}),
                               ('re-send 1, 8 sessions', resend_one, {'a': 2.5})):
        if re.search(only, name):
            show(name, '/s', list(test(8, count_rounds(1, 10), seconds)), target)

    for count, rounds_here, calls, targets in (
            (100, count_rounds(2, 16), 5 if QUICK else 20, {'new': {'a': 1.2}}),
            (10_000, count_rounds(1, 12), 1, {'new': {'a': 1.5, 'c': 0.5}})):
        if not re.search(only, 'batch {:,}'.format(count)):
            continue
        targets.update({'re-sent': {'a': 2.5}, 'updates': {'a': 1}})
        results = {}
        for test, speeds in upload_batches(count, rounds_here, calls):
            results.setdefault(test, []).append(speeds)
        for test, rows in results.items():
            show('batch of {:,}, {}'.format(count, test), '/s', rows, targets[test])

    if re.search(only, 'poll'):
        fresh()
        store(STORED)
        show('empty poll', 'ms', list(poll(1, count_rounds(1, 10), seconds)), {'a': 1 / 1.3})
        show('page of {:,} from the middle'.format(PAGE), 'ms', list(poll(0.5, count_rounds(1, 10), seconds)), {'a': 1.1})
        if not QUICK:
            touch()
            show('empty poll, statistics stale', 'ms', list(poll(1, count_rounds(1, 3), seconds)), {})
            show('page, statistics stale', 'ms', list(poll(0.3, count_rounds(1, 3), seconds)), {})

    answers.measure_rows(only)


def main():
    only = os.environ.get('BENCH_ONLY', '')

    machine()
    print()
    show_head()
    for Policy.on in (False, True) if os.environ.get('BENCH_POLICY', '1') == '1' else (False,):
        measure_rows(only)
        print()
    Policy.on = False
    answers.run(only)


main()
