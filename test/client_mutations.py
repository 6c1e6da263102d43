#!/usr/bin/python3
"""client_mutations.py [-a] [NAME ...] - breaks the demo's client on purpose, one rule at a time, and sees whether its tests notice.

With -a it only sees whether each edit applies. Exit status 1 when one survives. Each mutation is a small edit of one file in a copy of examples/demo; the random histories
are run first, SEEDS of them (default 60), then the other tests, so that it shows what each is good for. An edit that doesn't
apply any more ends the run: adapt it to the new code.
"""

import os
import shutil
import subprocess
import sys
import tempfile

DEMO = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'examples', 'demo')

MUTATIONS = {
    # reconcile.py: the judgement
    'edit-yields': ('reconcile.py', 'if local.unsent == EDIT:', 'if False:'),
    'mark-is-judged-anew': ('reconcile.py', 'if row is None and local.unsent:', 'if False:'),
    'absent-is-removed': ('reconcile.py', 'return SEND if is_lost(', 'return REMOVE if is_lost('),
    'absent-is-sent': ('reconcile.py', 'lost_after, purged_through) else REMOVE', 'lost_after, purged_through) else SEND'),
    'higher-yields': ('reconcile.py', 'if ours > theirs:', 'if False:'),
    'zero-yields': ('reconcile.py', 'if ours == theirs == 0 and is_later(local, row):', 'if False:'),
    'stamps-ignored': ('reconcile.py', 'if ours == theirs and local.lastUpdateUtc == row', 'if ours == theirs or local.lastUpdateUtc == row'),
    'purge-ignored': ('reconcile.py', 'purged_through is None or utc > earlier(purged_through, lost_after)',
                      'lost_after is not None and utc > lost_after'),
    'loss-ignored': ('reconcile.py', 'utc > earlier(purged_through, lost_after)', 'utc > purged_through'),
    'unknown-is-old': ('reconcile.py', 'return utc is None or', 'return utc is not None and'),
    'later-loss': ('reconcile.py', 'else min(one, other)', 'else max(one, other)'),
    'page-has-no-end': ('reconcile.py', "if upto is not None:", "if False:"),
    'page-has-no-beginning': ('reconcile.py', "if after is not None:", "if False:"),
    'first-page-only': ('reconcile.py', "more = answer['more']", 'more = False'),
    'one-get-only': ('reconcile.py', "if answer['more'] and documents:", 'if False:'),
    'base-is-kept': ('reconcile.py', '                document.rebase(row)\n', ''),
    'listed-version-is-too-high': ('reconcile.py', 'return FETCH if is_beyond(ours, theirs, max_version) else SEND', 'return SEND'),
    # client.py: versions that are too high
    'high-version-stays': ('client.py', 'if later and ours is not None and is_beyond(', 'if False and is_beyond('),
    'high-edit-is-dropped': ('client.py', 'if document.unsent == EDIT:\n                document.rebase', 'if False:\n                document.rebase'),
    'high-edit-stays': ('client.py', 'if version <= limit:', 'if False:'),
    'high-edit-below-its-base': ('client.py', 'version = max(version, document.baseVersion + 1)', 'pass'),
    'limit-stands-still': ('client.py', 'return None if ahead is None else self.clock() + ahead', 'return None if ahead is None else 100_000'),
    # client.py: marks
    'marks-without-base': ('client.py', 'if document.unsent == MARK:\n            sent', 'if False:\n            sent'),
    'marks-without-stamp': ('client.py', 'if document.baseVersion == 0:', 'if False:'),
    'lower-winner-is-taken': ('client.py', "return told['clientVersion'] < document.clientVersion",
                              "return told['clientVersion'] < document.clientVersion and document.unsent != MARK"),
    'mark-of-zero-yields': ('client.py', 'document.unsent == EDIT or document.unsent == MARK and is_later(document, told)',
                            'document.unsent == EDIT'),
    'no-mark-by-download': ('client.py', 'document.unsent = document.unsent or MARK', 'pass'),
    'mark-by-old-page': ('client.py', "later = listed or document.baseUtc is None or told['LastUpdateUtc'] > document.baseUtc",
                         'later = True'),
    'old-page-is-taken': ('client.py', 'elif ours is None or version > ours or later:', 'else:'),
    # client.py: cursors, losses
    'unheard': ('client.py', "unheard = state['unheard'] and self._has_told()", 'unheard = False'),
    'told-is-forgotten': ('client.py', "if answer.get('reconcile'):\n            self._told", "if False:\n            self._told"),
    'behind-is-an-answer': ('client.py', "if answer.get('behind') or answer.get('reconcile'):\n            raise", 'if False:\n            raise'),
    'void-cursor-is-an-answer': ('client.py', "if answer.get('behind') or answer.get('reconcile'):\n            raise",
                                 "if answer.get('behind'):\n            raise"),
    'nulls-for-ever': ('client.py', "if theirs is None and state['nulls'] < 2:", 'if theirs is None:'),
    'compared-before-the-end': ('client.py', "elif asked.digest is not None and not answer['more']:", 'elif asked.digest is not None:'),
    # client.py: twins
    'page-of-the-other-name': ('client.py', 'if (self.client_id, self.store.state()[\'cursor\']) != (asked.client_id, asked.cursor):', 'if False:'),
    'no-twins': ('client.py', "            rename=not self.bound,", "            rename=0,"),
    'sent-is-not-noted': ('client.py', 'SET sent = max(ifnull(sent, ?1), ?1), unanswered = 1', 'SET sent = sent + 0 * ?1, unanswered = 1'),
    'same-name': ('client.py', 'clientId=name, cursor', 'cursor'),
    'cursor-of-the-old-name': ('client.py', 'clientId=name, cursor=None', 'clientId=name'),
    'new-name-before-the-end': ('client.py', "        self.download()\n        if self.reached_end:\n            self.reconcile()",
                                "        if self.store.state()['rename']:\n"
                                "            self.store.set_state(clientId=str(uuid.uuid4()), cursor=None, rename=0)\n"
                                "            self.store.db.execute('UPDATE document SET sent = NULL, unanswered = 0')\n"
                                "        self.download()\n        if self.reached_end:\n            self.reconcile()"),
    # client.py: edits, upload
    'edit-is-lower': ('client.py', 'version = max(version, document.clientVersion + 1)', 'pass'),
    'edit-meanwhile-is-acknowledged': ('client.py', 'if document.clientVersion == sent.clientVersion:\n            document.becomes',
                                       'if True:\n            document.becomes'),
    'winner-is-left-out': ('client.py', 'winners = self._winners(results)',
                           "winners = {result['id']: result['winner'] for result in results}"),
    'first-winner-only': ('client.py', 'missing = missing[done:]', 'missing = []'),
    'winner-is-not-taken': ('client.py', 'forever.\n                self.take(winner, listed=True)', 'forever.'),
    'gone-winner-sets-aside': ('client.py', 'if sent.baseVersion is None:', 'if True:'),
    'lost-winner-sets-aside': ('client.py', "elif winner is None and result.get('winnerOmitted'):", 'elif False:'),
    'hidden-winner-for-ever': ('client.py', 'if sent.baseVersion is None:', 'if False:'),
    'refused-is-not-set-aside': ('client.py', "if result['outcome'] == 'refused':", 'if False:'),
    'refused-is-unanswered': ('client.py', "        document.unanswered = 0\n        if result['outcome'] in ('refused', 'untried'):\n            self.store.save(document)",
                              "        if result['outcome'] in ('refused', 'untried'):\n            pass"),
    'refused-after-an-edit': ('client.py', 'if document and document.unsent and document.clientVersion == sent.clientVersion:', 'if document and document.unsent:'),
    'untried-is-acknowledged': ('client.py', "if result['outcome'] in ('refused', 'untried'):", "if result['outcome'] == 'refused':"),
    'untried-is-left': ('client.py', 'if 0 < len(untried) < len(documents):', 'if False:'),
    'untried-for-ever': ('client.py', 'if 0 < len(untried) < len(documents):', 'if untried:'),
    'modified-is-as-sent': ('client.py', "            if winner:\n                self.take(winner, listed=True)      # what", "            if False:\n                self.take(winner, listed=True)      # what"),
    'modified-is-not-fetched': ('client.py', "('discarded', 'conflict', 'modified')", "('discarded', 'conflict')"),
    'modified-is-acknowledged-unseen': ('client.py', "elif result['outcome'] == 'modified' and winner in (None, UNKNOWN):", 'elif False:'),
    'atomic': ('transport_http.py', "'/Docs?atomic=false'", "'/Docs'"),
    'refused-stops-all': ('client.py', 'if len(documents) > 1:', 'if False:'),
    'set-aside-at-once': ('client.py', 'if not self.accepted:', 'if False:'),
    'set-aside-is-sent': ('client.py', 'AND {which} AND error IS NULL AND', 'AND {which} AND'),
    'edit-stays-aside': ('client.py', 'document.unsent, document.error = EDIT, None', 'document.unsent = EDIT'),
    'no-bases': ('client.py', "                document.rebase(told)\n                document.unsent", "                document.unsent"),
    # several.py
    'several-refused-stops-all': ('several.py', "        if 'error' in answer:\n            self.go_alone()",
                                  "        if 'error' in answer:\n            raise Refused(400, '22023', '')"),
    'several-refused-is-left': ('several.py', 'self.ended = self.alone = True', 'self.ended = True'),
    'several-a-winner-stops-all': ('several.py', '            self.go_alone()         # a winner', '            raise      # a winner'),
    'several-unknown-to-the-service': ('several.py', '            if refusal.retry:', '            if True:'),
    'several-first-page-only': ('several.py', 'not self.client.reached_end or is_due', 'is_due'),
    'several-no-comparison': ('several.py', 'not self.client.reached_end or is_due', 'not self.client.reached_end'),
    'several-lists-nothing': ('several.py', 'not turn.alone], Client.reconcile, refused)', 'not turn.alone], lambda client: None, refused)'),
    'several-marks-are-left': ('several.py', 'if turn.client.reached_end], Client.send_marks, refused)', 'if False], Client.send_marks, refused)'),
    'several-untried-is-left': ('several.py', 'self.again = self.client.take_results(', 'self.client.take_results('),
    'several-untried-for-ever': ('several.py', 'turn.again = []     # none', 'pass                # none'),
    'several-refused-for-ever': ('several.py', " or self.outcomes['refused'] >= MAX_REFUSED:\n            return []", ':\n            return []'),
    'several-batches-for-each': ('several.py', 'turn.choose(left, left_bytes)', 'turn.choose(batch, BATCH_BYTES)'),
    'several-no-tombstones': ('several.py', 'tombstones or turn.asked.tombstones', 'turn.asked.tombstones'),
    'several-names-of-their-own': ('several.py', 'client.take_new_name(name), refused)', 'client.take_new_name(str(uuid.uuid4())), refused)'),
    'several-one-new-name': ('several.py', "done = self._each(done, lambda client: client.take_new_name(name), refused)",
                             "self._each([turn for turn in done if turn.client.store.state()['rename']], lambda client: client.take_new_name(name), refused)"),
    'several-names-mixed': ('several.py', ' if turn.client.client_id == client_id]', ']'),
    'several-new-stores-first': ('several.py', 'key=lambda name: not os.path.exists(paths[name])', 'key=names.index'),
    'several-more-than-may-be': ('several.py', '[:MAX_COLLECTIONS]', ''),
    'several-behind-is-asked-on': ('several.py', "self.ended = bool(answer.get('behind'))", 'self.ended = False'),
    'several-answers-mixed': ('several.py', 'list(answers) != list(parts)', 'False'),
    # store.py
    'counted-twice': ('store.py', 'for counted, sign in ((before, -1), (now, 1)):', 'for counted, sign in ((now, 1),):'),
    'tombstones-count': ('store.py', 'if self.baseUtc is not None and not self.baseDeleted', 'if self.baseUtc is not None'),
    'no-transaction': ('store.py', "self.db.execute('ROLLBACK')", "self.db.execute('COMMIT')"),
    'a-copy-is-not-seen': ('store.py', 'return before not in (None, this)', 'return False'),
    'old-stores-sent-nothing': ('store.py', 'EDIT if dirty else MARK, sent=version,', 'EDIT if dirty else MARK,'),
    # jsontext.py
    'body-is-parsed-as-a-value': ('jsontext.py', 'if not match[1]:', "if not match[1] and match[0] != '\"body\"':"),
    'nul-is-sent': ('jsontext.py', 'if ESCAPED_NUL.search(text):', 'if False:'),
}

TESTS = {'random': ['client_test.RandomTest'],
         'random, several': ['several_test.RandomSeveralTest'],
         'single': [f'client_test.{test}' for test in ('ClientTest', 'ReconcileTest', 'TwinTest', 'MigrationTest', 'DigestTest',
                                                       'JsonTextTest', 'RuleTest', 'HttpTest')] + ['several_test.SeveralTest']}


def notices(directory, test):
    process = subprocess.run([sys.executable, '-B', '-m', 'unittest', '-f', test], cwd=directory, text=True, capture_output=True,
                             timeout=900, env={**os.environ, 'SEEDS': os.environ.get('SEEDS', '60')})
    return process.returncode != 0


def edited(name):
    """The text of a mutation's file after its edit."""
    file, old, new = MUTATIONS[name]
    with open(os.path.join(DEMO, file)) as source:
        text = source.read()
    if text.count(old) != 1:
        sys.exit(f'{name}: the edit applies {text.count(old)} times')
    return text.replace(old, new)


def main(arguments):
    names = [name for name in arguments if name != '-a'] or list(MUTATIONS)
    texts = {name: edited(name) for name in names}
    if '-a' in arguments:
        return
    survivors = []
    for name, text in texts.items():
        with tempfile.TemporaryDirectory() as directory:
            copy = os.path.join(directory, 'demo')
            shutil.copytree(DEMO, copy)
            with open(os.path.join(copy, MUTATIONS[name][0]), 'w') as source:
                source.write(text)
            try:
                noticed = [name for name, tests in TESTS.items() if any(notices(copy, test) for test in tests)]
            except subprocess.TimeoutExpired:
                noticed = ['no end']
        print(f'{name:32} {", ".join(noticed) or "SURVIVES"}', flush=True)
        survivors += [] if noticed else [name]
    if survivors:
        sys.exit(f'{len(survivors)} survive: {" ".join(survivors)}')


if __name__ == '__main__':
    main(sys.argv[1:])
