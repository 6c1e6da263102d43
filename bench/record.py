"""record.py - what it costs to keep what is replaced: updates with docsync.record and without, and what a trigger costs.

Part of measure.py. Here the rivals are docsync with nothing kept ('docsync'), the same in a collection of which all that
is replaced is kept ('kept'), the plain statement ('a'), and the same into a table whose trigger keeps what is replaced
('row', 'statement': how it fires).
"""

import json
import statistics

from common import (BODY, Batch, DOCSYNC, PRELOADED, QUICK, STATEMENT, administrate, connect, count_rounds, fresh, pgbench,
                    take_turns)

PREPARE = """
INSERT INTO docsync.keep (pattern, keep) VALUES ('kept', 'replaced');
INSERT INTO docsync.document (collection, id, client_version, client_id, body)
SELECT 'kept', id, client_version, client_id, body FROM docsync.document WHERE collection = 'bench';
"""

# What a user would write, with the columns and the key of docsync.record
TRACED = """
CREATE TABLE rival.{name} (LIKE rival.plain INCLUDING ALL);
INSERT INTO rival.{name} SELECT * FROM rival.plain;
CREATE TABLE rival.{name}_record (
    collection text COLLATE "C" NOT NULL, id text COLLATE "C" NOT NULL, recorded_utc timestamptz NOT NULL,
    client_version int8 NOT NULL, client_id text COLLATE "C" NOT NULL, deleted bool NOT NULL, body jsonb,
    why text COLLATE "C" NOT NULL, PRIMARY KEY (collection, id, recorded_utc));
CREATE FUNCTION rival.{name}_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO rival.{name}_record {rows};
    RETURN NULL;
END
$$;
CREATE TRIGGER keep AFTER UPDATE ON rival.{name} {how} EXECUTE FUNCTION rival.{name}_keep();
"""
COLUMNS = "{0}.collection, {0}.id, clock_timestamp(), {0}.client_version, {0}.client_id, {0}.deleted, {0}.body, 'replaced'"
TRIGGERS = {
    'row': TRACED.format(name='row', rows='VALUES (%s)' % COLUMNS.format('old'), how='FOR EACH ROW'),
    'statement': TRACED.format(name='statement', rows='SELECT %s FROM lost' % COLUMNS.format('lost'),
                               how='REFERENCING OLD TABLE AS lost FOR EACH STATEMENT'),
}

PLAIN = STATEMENT.replace('{now}', 'now()').replace('{source}', '')
UPLOADS = {'docsync': DOCSYNC, 'kept': DOCSYNC.replace("'bench'", "'kept'"), 'a': PLAIN.replace('{table}', 'plain'),
           **{name: PLAIN.replace('{table}', name) for name in TRIGGERS}}
WITHOUT = {'kept': 'docsync', 'row': 'a', 'statement': 'a'}


def prepare():
    fresh()
    connection = administrate('docsync')
    connection.query(PREPARE)
    for statements in TRIGGERS.values():
        connection.query(statements)
    connection.query('VACUUM ANALYZE')
    connection.query('CHECKPOINT')
    connection.close()


def update_one_at_8(rounds, seconds):
    """By 8 sessions, each with documents of its own, with ever higher versions."""
    documents = ("""('[{"id": "' || :id::text || '", "clientVersion": ' || :version::text || ', "body": %s}]')::jsonb"""
                 % BODY)

    def measure(rival, number):
        statement = UPLOADS[rival].format(client="'client-' || :client_id::text", documents=documents)
        return pgbench(rival, '\\set id random(1, %d) * 8 + :client_id + 1\n\\set version :version + 1\n%s;\n'
                       % (PRELOADED // 8 - 1, statement.replace('\n', ' ')), 8, seconds,
                       [('version', (number + 1) * 10_000_000)])

    yield from take_turns(rounds, measure, list(UPLOADS))


def update(count, rounds, calls):
    """Batches of so many documents, by one session: yields rounds by time, and by processor time of the backend. Turns are
    short: so many calls. The same documents come again, so that there are ever more versions of them, until older ones are
    removed."""
    connections = {rival: connect(rival) for rival in UPLOADS}
    statements = {rival: UPLOADS[rival].format(client='$1', documents='$2::jsonb') for rival in UPLOADS}
    clocks = {rival: '/proc/%s/schedstat' % connection.query('SELECT pg_backend_pid()')[0]
              for rival, connection in connections.items()}
    batches = [Batch(count) for _ in range(max(calls, 4000 // count))]
    sent = dict.fromkeys(UPLOADS, 0)
    by_processor = {}

    def clock(rival):
        with open(clocks[rival]) as file:
            return int(file.read().split()[0]) / 1e9

    def send(rival, number):
        seconds, processor = [], []
        for _ in range(calls):
            batch = batches[sent[rival] % len(batches)]
            version = 1764000000000 + sent[rival] // len(batches)
            sent[rival] += 1
            for document in batch.documents:
                document['clientVersion'] = version
            documents = json.dumps(batch.documents).encode()
            start = clock(rival)
            duration, rows = connections[rival].call(statements[rival], b'client', documents)
            processor.append(clock(rival) - start)
            if rows != count:
                raise RuntimeError('%s: %d rows came back' % (rival, rows))
            seconds.append(duration)
        by_processor[rival] = count / statistics.median(processor)
        return count / statistics.median(seconds)

    for rival in UPLOADS:           # until all are stored; a statement has its final plan from its sixth call on
        for number in range(-(-max(len(batches), 6) // calls)):
            send(rival, number)
    for speeds in take_turns(rounds, send, list(UPLOADS)):
        yield speeds, dict(by_processor)
    for connection in connections.values():
        connection.close()


def show(test, rounds):
    """How many times as long each takes with what is replaced kept as without: the median, with the quartiles."""
    cells = []
    for rival, without in WITHOUT.items():
        ratios = sorted(speeds[without] / speeds[rival] for speeds in rounds)
        cells.append('%-20s' % ('%.2f [%.2f-%.2f]' % (
            statistics.median(ratios), ratios[len(ratios) // 4], ratios[len(ratios) * 3 // 4])))
    reached = statistics.median(speeds['docsync'] / speeds['kept'] for speeds in rounds) <= 1.1
    print('%-34s %12s %s %-8s %s' % (
        test, '{:,.0f}/s'.format(statistics.median(speeds['docsync'] for speeds in rounds)), ' '.join(cells), '1.10',
        'yes' if reached else 'no'), flush=True)


def run():
    print('\n%-34s %12s %-20s %-20s %-20s %-8s %s' % (
        'what is replaced is kept', 'without', 'docsync', '(a), row trigger', '(a), statement tr.', 'at most', 'reached'))
    for count, calls, rounds in (1, 50, 200), (100, 1, 400), (1000, 1, 60):
        prepare()
        by_time, by_processor = zip(*update(count, count_rounds(rounds // 5, rounds), calls))
        show('update {:,}, 1 session'.format(count), by_time)
        show('... processor time', by_processor)
    prepare()
    show('update 1, 8 sessions', list(update_one_at_8(count_rounds(1, 10), 1 if QUICK else 2)))
