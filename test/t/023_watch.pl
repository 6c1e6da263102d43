# What operators see: who holds back readers, what is in each collection, and what needs attention. Each fault is made,
# docsync_status() reports it, its remedy is applied, and docsync_status() is silent again.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use PostgreSQL::Test::Cluster;
use Test::More;

my $node = new_node('primary');
my $admin = connect_to($node);

$admin->do('SELECT docsync_create_store()', 'CREATE ROLE watcher LOGIN IN ROLE pg_monitor', 'CREATE ROLE owner LOGIN', 'CREATE ROLE tenant LOGIN',
	q{SELECT docsync_grant('tenant')}, map { "ALTER $_ OWNER TO owner" } 'DATABASE postgres', 'SCHEMA docsync',
	(map { "TABLE docsync.$_" } qw(document purged history keep record)), 'SEQUENCE docsync.clock');

my $watcher = connect_as('watcher');
my $owner = connect_as('owner');
my $tenant = connect_as('tenant');

holders();
holders_of_many();
holders_among_many();
collections();
frontiers();
status_of_policies();
status_of_the_store();
status_of_documents();
status_of_places();
status_of_the_table();
status_of_holders();
status_of_waits();
digests();
whose_rights_count();
done_testing();

#-----------------------------------------------------------------------------

sub connect_as
{
	my ($role) = @_;
	my $session = connect_to($node);

	$session->do("SET SESSION AUTHORIZATION $role");
	return $session;
}

# The rows of docsync_holders() as texts, without times
sub holders_seen_by
{
	my ($session) = @_;

	return join "\n", sort $session->column(
			q{SELECT concat_ws(', ', holds_back, collection, coalesce(pid::text, gid), username, database, state) FROM docsync_holders()
			WHERE since IS NULL OR since BETWEEN now() - interval '1 hour' AND now()});
}

# Sessions, idle and prepared, that have written; names of collections that nobody has committed yet
sub holders
{
	my $idle = connect_to($node);
	my $reader = connect_to($node);

	is(holders_seen_by($watcher), '', 'nobody holds anything back');

	$idle->do(q{SET application_name = 'importer'}, 'BEGIN', q{SELECT docsync_upsert('i', '[{"id": "a", "clientVersion": 1, "body": 1}]', 'anna/notes')});
	my $pid = $idle->pid;
	my $standbys = "standbys, $pid, postgres, postgres, idle in transaction";
	is(holders_seen_by($watcher), "a collection, anna/notes, $pid, postgres, postgres, idle in transaction\n$standbys",
		'a session that has written, to a collection that is new');
	is($watcher->value(q{SELECT application || query FROM docsync_holders() WHERE holds_back = 'standbys'}) =~ /^importerSELECT docsync_upsert/, 1, '... and what it ran');
	is(holders_seen_by($owner), "a collection, anna/notes, $pid, postgres, postgres\nstandbys, $pid, postgres, postgres",
		'the owner sees of it what pg_stat_activity shows him');
	$idle->do('COMMIT');
	is(holders_seen_by($watcher), '', 'it has ended');

	$idle->do('BEGIN', q{INSERT INTO docsync.document (collection, id, body) VALUES ('ben', 'b', '1'), ('anna/notes', 'b', '1')}, q{PREPARE TRANSACTION 'lost'});
	is(holders_seen_by($watcher),
		"a collection, anna/notes, lost, postgres, postgres, prepared\na collection, ben, lost, postgres, postgres, prepared\nstandbys, lost, postgres, postgres, prepared",
		'one that is prepared');
	is(holders_seen_by($owner) =~ /a collection, ben, lost, postgres, postgres, prepared/, 1, '... which anybody may see');
	$idle->do(q{COMMIT PREPARED 'lost'});

	# In another database, a transaction that has written nothing of docsync's
	$admin->do('CREATE DATABASE other');
	my $other = connect_to($node, 'other');
	$other->do('BEGIN', 'SELECT pg_current_xact_id()');
	$idle->do('BEGIN', q{UPDATE docsync.document SET body = '2' WHERE collection = 'ben'});
	is(holders_seen_by($watcher), "a collection, ben, $pid, postgres, postgres, idle in transaction\nstandbys, @{[ $other->pid ]}, postgres, other, idle in transaction",
		'standbys wait for the oldest transaction of the server');
	$idle->do('ROLLBACK');
	$other->do('ROLLBACK');
	return;
}

# A transaction with more collections than it has marks for
sub holders_of_many
{
	my $idle = connect_to($node);

	$idle->do('BEGIN', q{INSERT INTO docsync.document (collection, id, body) SELECT 'many' || n, 'a', '1' FROM generate_series(1, 70) AS n});
	is($watcher->value(q{SELECT string_agg(concat(holds_back, ' ', n), ', ' ORDER BY holds_back) FROM
		(SELECT holds_back, count(*) AS n, count(collection) FROM docsync_holders() GROUP BY 1) AS h}),
		'a collection 64, all collections 1, standbys 1', 'one that has written to 70 collections');
	$idle->do('ROLLBACK');
	return;
}

# Where there are many collections, the names of the first 200 and of the largest are found at once, the others on request.
sub holders_among_many
{
	my $session = new_store('names');
	my $idle = connect_to($node, 'names');
	my $names = q{SELECT string_agg(concat(holds_back, ' ', collection), ', ' ORDER BY collection) FROM docsync_holders(%s) WHERE holds_back <> 'standbys'};

	$session->do(q{INSERT INTO docsync.document (collection, id, body) SELECT 'n' || n, 'a', '1' FROM generate_series(1000, 1300) AS n});
	$idle->do('BEGIN', map { "INSERT INTO docsync.document (collection, id, body) VALUES ('n$_', 'b', '1')" } 1000, 1300);
	is($session->value(sprintf $names, ''), 'a collection n1000, a collection ', 'one of the first collections, and another');
	is($session->value(sprintf $names, 'true'), 'a collection n1000, a collection n1300', '... which is named on request');
	$session->do(q{INSERT INTO docsync.document (collection, id, body) SELECT 'n1300', n, '1' FROM generate_series(1, 1000) AS n}, 'ANALYZE docsync.document');
	is($session->value(sprintf $names, ''), 'a collection n1000, a collection n1300', '... and always if it is large');
	$idle->do('ROLLBACK');
	return;
}

# What docsync_collections() says is what a query of all documents says, and estimates are not far off.
sub collections
{
	my $truth = q{SELECT d.collection, max(d.last_update_utc), (array_agg(d.client_id ORDER BY d.last_update_utc DESC))[1], max(d.last_update_utc),
		count(*) FILTER (WHERE NOT deleted), count(*) FILTER (WHERE deleted), max(p.last_update_utc)
		FROM docsync.document AS d LEFT JOIN docsync.purged AS p USING (collection) GROUP BY 1 ORDER BY 1};

	$admin->do('DELETE FROM docsync.document', q{CALL docsync_purge('0')});
	is_deeply($watcher->rows('SELECT * FROM docsync_collections(true)'), $admin->rows($truth), 'after a purge');

	$admin->do(q{INSERT INTO docsync.document (collection, id, body, client_id) SELECT 'c' || n % 300, n, '1', 'client-' || n % 7 FROM generate_series(1, 3000) AS n},
		q{INSERT INTO docsync.document (collection, id, body, deleted) SELECT 'large', n, '1', n % 4 = 0 FROM generate_series(1, 5000) AS n});
	for my $session ($watcher, $owner) {
		is_deeply($session->rows('SELECT * FROM docsync_collections(true)'), $admin->rows($truth), 'exact');
	}

	$admin->do('DELETE FROM pg_statistic', q{UPDATE pg_class SET reltuples = -1 WHERE oid = 'docsync.document'::regclass});
	my @estimates = (q{SELECT documents, tombstones FROM docsync_collections() WHERE collection = 'large'}, q{SELECT documents FROM docsync_collections() WHERE collection = 'c7'});
	is_deeply([ map { @{ $watcher->rows($_)->[0] } } @estimates ], [ (undef) x 3 ], 'there is no estimate before the first ANALYZE');
	$admin->do('ANALYZE docsync.document');
	my ($large, $tombstones, $small) = map { @{ $watcher->rows($_)->[0] } } @estimates;
	cmp_ok(abs($large + $tombstones - 5000), '<', 500, "an estimate of a large collection: $large and $tombstones tombstones");
	cmp_ok(abs($tombstones - 750), '<', 500, '... with the part that tombstones have in all');
	cmp_ok(abs($small - 10), '<', 5, "an estimate of a small one: $small");

	# Whatever policies say, to the owner, too
	$admin->do('ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY', 'ALTER TABLE docsync.document FORCE ROW LEVEL SECURITY');
	is_deeply($_->rows('SELECT * FROM docsync_collections(true)'), $admin->rows($truth), 'policies do not apply') for $watcher, $owner;
	$admin->do('ALTER TABLE docsync.document DISABLE ROW LEVEL SECURITY', 'ALTER TABLE docsync.document NO FORCE ROW LEVEL SECURITY');
	return;
}

# The frontier is the last stamp that a reader is given.
sub frontiers
{
	my $holder = connect_to($node);
	my $wrong = q{SELECT c.collection, frontier, given FROM docsync_collections() AS c
		CROSS JOIN LATERAL (SELECT max(last_update_utc) AS given FROM docsync_query_since(NULL, '-infinity', 'any', c.collection)) AS q
		WHERE frontier IS DISTINCT FROM given};
	my $behind = 'SELECT count(*) FROM docsync_collections() WHERE frontier IS DISTINCT FROM last_update_utc';
	my $write = q{INSERT INTO docsync.document (collection, id, body) SELECT 'c' || n % 3, 'f' || random(), '1' FROM generate_series(1, 300) AS n};

	for my $collections ([qw(c0)], [qw(c1 c2)], [qw(new)]) {
		$admin->do($write);
		$holder->do('BEGIN', map { "INSERT INTO docsync.document (collection, id, body) VALUES ('$_', 'held', '1')" } @$collections);
		is($admin->value($behind), 0, "held by @$collections, and nothing after it");
		$admin->do($write, q{INSERT INTO docsync.document (collection, id, body) VALUES ('new', random(), '1')}, $write);
		is($admin->value($behind), scalar @$collections, '... and much');
		is_deeply($admin->rows($wrong), [], '... the frontier is where readers are');
		$holder->do('ROLLBACK');
		is($admin->value($behind), 0, '... until it ends');
	}
	return;
}

# A superuser's session in a new database with a store
sub new_store
{
	my ($database, $template) = @_;

	$admin->do("CREATE DATABASE $database" . ($template ? " TEMPLATE $template" : ''));
	my $session = connect_to($node, $database);
	$session->do('CREATE EXTENSION docsync', 'SELECT docsync_create_store()') if !$template;
	return $session;
}

# The sentences of docsync_status()
sub attention
{
	my ($session, $exact) = @_;

	return join "\n", $session->column('SELECT unnest(attention) FROM docsync_status(?)', $exact ? 't' : 'f');
}

# Makes a fault, expects a sentence about it and no other, and expects none when the fault is mended.
sub is_named
{
	my ($session, $what, $faults, $sentence, $remedies) = @_;

	$session->do(@$faults);
	like(attention($session), qr/^$sentence[^\n]*\z/, "$what: one sentence");
	$session->do(@$remedies);
	is(attention($session), '', '... and none when it is mended');
	return;
}

sub status_of_policies
{
	my $session = new_store('policies');

	is(attention($session), '', 'a new store');
	is_named($session, 'no row-level security', [q{SELECT docsync_grant('tenant')}], 'Row-level security is off, so all collections are open to tenant\. CREATE POLICY',
		[ 'CREATE POLICY app ON docsync.document USING (true)', 'ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY' ]);
	is_named($session, 'no policy', ['DROP POLICY app ON docsync.document'], 'Row-level security is on, but there is no policy: tenant can',
		['CREATE POLICY app ON docsync.document USING (true)']);
	is_named($session, 'what lost, for all', [ 'ALTER TABLE docsync.record DISABLE ROW LEVEL SECURITY', 'GRANT SELECT ON docsync.record TO tenant' ],
		'Row-level security is off, so all collections are open to tenant\. CREATE POLICY ... ON docsync.record', ['ALTER TABLE docsync.record ENABLE ROW LEVEL SECURITY', 'CREATE POLICY app ON docsync.record USING (true)']);
	is_named($session, 'what lost, for nobody', ['DROP POLICY app ON docsync.record'], 'Row-level security is on, but there is no policy: tenant can neither read nor write. CREATE POLICY ... ON docsync.record', ['REVOKE ALL ON docsync.record FROM tenant']);
	is_named($session, 'a right on a column, for everybody', [ 'ALTER TABLE docsync.document DISABLE ROW LEVEL SECURITY', 'REVOKE ALL ON docsync.document FROM tenant',
		'GRANT SELECT (id) ON docsync.document TO PUBLIC' ], 'Row-level security is off, so all collections are open to PUBLIC\.', ['REVOKE SELECT (id) ON docsync.document FROM PUBLIC']);
	return;
}

sub status_of_the_store
{
	my $session = new_store('broken');
	my $stranger = connect_to($node, 'broken');

	$stranger->do('SET SESSION AUTHORIZATION tenant');
	is_named($session, 'no guard', ['ALTER TABLE docsync.document DISABLE TRIGGER zz_docsync_guard'], 'The store is not in order, and all requests fail: "docsync.document" is not guarded.*docsync_create_store',
		['ALTER TABLE docsync.document ENABLE TRIGGER zz_docsync_guard']);
	$session->do('ALTER TABLE docsync.document DISABLE TRIGGER zz_docsync_guard');
	is($stranger->sqlstate_of('SELECT docsync_status()'), '55000', 'a stranger is told what every function tells him');
	$session->do('ALTER TABLE docsync.document ENABLE TRIGGER zz_docsync_guard');
	is($stranger->sqlstate_of('SELECT docsync_status()'), '42501', '... and nothing where it is in order');

	is_named($session, 'no store', ['ALTER SCHEMA docsync RENAME TO away'], 'The store is not in order, and all requests fail: docsync has no store', ['ALTER SCHEMA away RENAME TO docsync']);
	is_named($session, 'another version', [q{UPDATE pg_extension SET extversion = '0.1.9' WHERE extname = 'docsync'}], 'The library has version \S+, the extension 0.1.9: ALTER EXTENSION docsync UPDATE',
		[q{UPDATE pg_extension SET extversion = '0.2.0' WHERE extname = 'docsync'}]);
	is_named($session, 'an index that is not valid', [q{UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'docsync.document_stamp'::regclass}, 'CREATE INDEX another ON docsync.document (collection, last_update_utc)'],
		'Index docsync.document_stamp is not valid', ['REINDEX INDEX CONCURRENTLY docsync.document_stamp']);
	is_named($session, 'no index', ['DROP INDEX docsync.document_tombstone'], 'The index that purges need, on \(collection, last_update_utc\) WHERE deleted, is missing', ['SELECT docsync_create_store()']);
	is_named($session, 'another index of its name', [ 'DROP INDEX docsync.another', 'DROP INDEX docsync.document_stamp', 'CREATE INDEX document_stamp ON docsync.document (client_id)' ],
		'The index that downloads need, on \(collection, last_update_utc\), is missing: docsync.document_stamp has its name and is another, or not valid: DROP INDEX docsync.document_stamp, then SELECT public.docsync_create_store\(\)',
		[ 'DROP INDEX docsync.document_stamp', 'SELECT docsync_create_store()' ]);
	is_named($session, 'another', [ 'DROP INDEX docsync.document_stamp' ], 'The index that downloads need, on \(collection, last_update_utc\), is missing: SELECT public.docsync_create_store\(\)', ['SELECT docsync_create_store()']);

	$session->do(q{CREATE SUBSCRIPTION s CONNECTION 'dbname=none' PUBLICATION p WITH (connect = false)});
	is_named($session, 'a subscription', [q{INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate) SELECT oid, 'docsync.document'::regclass, 'r' FROM pg_subscription}], 'A subscription fills',
		['DELETE FROM pg_subscription_rel']);
	$session->do('ALTER SUBSCRIPTION s SET (slot_name = NONE)', 'DROP SUBSCRIPTION s');
	return;
}

sub status_of_documents
{
	my $session = new_store('documents');
	my $highest = 2**63 - 1;

	is_named($session, 'nobody purges', [q{INSERT INTO docsync.document (collection, id, deleted, last_update_utc, fence) SELECT 'old notes', n, true, timestamptz '2025-01-01' + n * interval '1 day', '3' FROM generate_series(1, 5) AS n}],
		'Tombstones are not purged: collection "old notes" has some from 2025-01-04. Schedule CALL public.docsync_purge', [q{CALL docsync_purge('90 days')}]);
	is($session->value('SELECT count(*) FROM docsync.document'), 1, '... though the newest stays');

	is_named($session, 'nobody purges the record', [q{INSERT INTO docsync.record SELECT 'notes', n, timestamptz '2025-01-04' + n * interval '1 us', 1, 'anna', false, '1', 'replaced' FROM generate_series(1, 5) AS n}],
		'docsync.record is not purged: it has versions that lost on 2025-01-04. Schedule CALL public.docsync_purge', [q{CALL docsync_purge('90 days')}]);
	$session->do(q{INSERT INTO docsync.document (id, body, client_version) SELECT n, '1', n FROM generate_series(1, 100) AS n});
	is_named($session, 'a poisoned document', [q{SELECT docsync_upsert('anna', '[{"id": "a b", "clientVersion": 9223372036854775807, "body": 1}]', 'notes')}],
		'Document "a b" of collection "notes" has the clientVersion 9223372036854775807, far ahead of the time in milliseconds, .*\(documents like this: 1\)'
			. '.*Set docsync.max_version_lead.*then SELECT public.docsync_rebase\(\'notes\', \'a b\'\)',
		[q{SELECT docsync_rebase('notes', 'a b')}]);
	my $tomorrow = q{(extract(epoch FROM now() + interval '%s hours') * 1000)::bigint};
	$session->do(sprintf "INSERT INTO docsync.document (id, body, client_version) VALUES ('soon', '1', $tomorrow)", 23);
	is(attention($session), '', 'a day ahead is none');
	is_named($session, 'two days are', [ sprintf "INSERT INTO docsync.document (id, body, client_version) VALUES ('late', '1', $tomorrow)", 48 ], 'Document "late" of collection "default" has', [ sprintf "UPDATE docsync.document SET client_version = $tomorrow WHERE id = 'late'", 0 ]);

	# Of many documents the sample tells, and a look at all
	$session->do(q{INSERT INTO docsync.document (collection, id, body, client_version) SELECT 'many', n, to_jsonb(repeat('x', 200)), CASE WHEN n % 50 = 0 THEN 9e15 ELSE n END FROM generate_series(1, 30000) AS n},
		'ANALYZE docsync.document');
	like(attention($session), qr/^There are documents with a clientVersion far ahead of the time in milliseconds, up to 9000000000000000, [^\n]*\z/, 'many documents, some of them poisoned');
	like(attention($session, 1), qr/^Document "\d+" of collection "many" has the clientVersion 9000000000000000, [^\n]*\(documents like this: 600\)[^\n]*\z/, '... one of which is named');
	$session->do(q{UPDATE docsync.document SET client_version = id::bigint WHERE collection = 'many' AND client_version = 9e15});
	like(attention($session), qr/If it names none, they have gone since the last ANALYZE docsync.document: run it again/, '... and when they have gone');
	is(attention($session, 1), '', '... it names none');
	$session->do('ANALYZE docsync.document');
	is(attention($session), '', '... nor are there any after an ANALYZE');
	$session->do('UPDATE docsync.document SET client_version = 9e15', 'ANALYZE docsync.document');
	unlike(attention($session, $_), qr/clientVersion/, 'versions that are no milliseconds') for 0, 1;

	status_of_the_record(new_store('record'));
	is_named(new_store('fast'), 'a clock that is ahead', [q{INSERT INTO docsync.document (id, body, last_update_utc, fence) VALUES ('a', '1', clock_timestamp() + interval '1 hour', '3')}],
		'The clock is ahead of the time by 00:(59:59|60:00|59:58)|1:00:00', [q{SELECT setval('docsync.clock', 1)}]);
	return;
}

# A large one is looked at as far as ANALYZE has come across it, or at a look at all.
sub status_of_the_record
{
	my ($session) = @_;
	my $rows = q{INSERT INTO docsync.record SELECT 'notes', n, now() - interval '300 days' + n * interval '1 us', 1, 'anna', false,
		(SELECT to_jsonb(string_agg(md5((n * 1000 + m)::text), '')) FROM generate_series(1, %d) AS m), 'replaced' FROM generate_series(1, %d) AS n};

	$session->do(sprintf $rows, 20, 9_000);
	unlike(attention($session), qr/is not purged/, 'what lost long ago, before an ANALYZE');
	like(attention($session, 1), qr/docsync.record is not purged/, '... at a look at all');
	$session->do('ANALYZE docsync.record');
	like(attention($session), qr/docsync.record is not purged/, '... and after it');
	$session->do(q{CALL docsync_purge('90 days')}, 'VACUUM ANALYZE docsync.record');
	is(attention($session), '', '... which is mended by a purge');

	$rows =~ s/300 days/30 days/;
	$session->do('ALTER TABLE docsync.record ALTER body SET STORAGE external');
	is_named($session, 'a large record', [ sprintf $rows, 400, 9_000 ], 'docsync.record has 1\d\d MB, docsync.document \d+ kB. Keep fewer.*docsync_purge.*; then VACUUM FULL docsync.record',
		[ q{CALL docsync_purge('1 day')}, 'VACUUM FULL docsync.record' ]);
	return;
}

sub status_of_places
{
	my $session = new_store('place');

	$session->do(q{INSERT INTO docsync.document (id, body) VALUES ('a', '1')});
	is_named($session, 'handed over', ['SELECT docsync_hand_over()'], 'The store was handed over, and uploads are refused',
		[ 'SELECT docsync_new_epoch()', q{UPDATE docsync.history SET lost_after = 'infinity'} ]);
	$session->do('SELECT docsync_hand_over()');
	$session->close;
	is_named(new_store('arrived', 'place'), 'arrived', ['SELECT 1'], 'The store was handed over to this place, and not taken over yet: SELECT public.docsync_take_over', ['SELECT docsync_take_over()']);

	$session = new_store('original');
	$session->do(q{INSERT INTO docsync.document (id, body) VALUES ('a', '1')});
	$session->close;
	$session = new_store('copy', 'original');
	like(attention($session), qr/^The store has come from another server, database or timeline[^\n]*\z/, 'a copy');
	$session->do(q{INSERT INTO docsync.document (id, body) VALUES ('b', '1')});
	like(attention($session), qr/^An epoch began about [^\n]*Documents stamped after [^\n]*\z/, '... in which an epoch begins; its clock is a minute ahead, which is right');
	$session->do(q{UPDATE docsync.history SET clock = clock - interval '8 days'}, q{SELECT setval('docsync.clock', 1)});
	is(attention($session), '', '... which is said for a week');
	return;
}

sub status_of_the_table
{
	my $session = new_store('tables');

	$session->do('ALTER TABLE docsync.document SET (autovacuum_enabled = off)', q{INSERT INTO docsync.document (id, body) VALUES ('a', '1')}, 'ANALYZE docsync.document');
	is_named($session, 'an index without statistics', [q{UPDATE pg_class SET reltuples = -1 WHERE oid = 'docsync.document_tombstone'::regclass}], 'docsync.document, or its index on tombstones, has no statistics', ['ANALYZE docsync.document']);

	# Rolled back, they are dead.
	$session->do('BEGIN', q{INSERT INTO docsync.document (id, body) SELECT n, to_jsonb(repeat('x', 500)) FROM generate_series(1, 20000) AS n}, 'ROLLBACK');
	wait_for('statistics of dead rows', sub { attention($session) ne '' });
	like(attention($session), qr/^docsync.document has 20000 dead rows, more than live ones: VACUUM docsync.document[^\n]*\z/, 'dead rows');
	is($session->value('SELECT dead_rows FROM docsync_status()'), 20000, '... which are counted');
	$session->do('DELETE FROM pg_statistic');
	like(attention($session), qr/^[^\n]*\ndocsync.document, or its index[^\n]*\z/, 'no statistics of a table with something in it');
	$session->do('VACUUM ANALYZE docsync.document');
	wait_for('statistics of a vacuum', sub { attention($session) eq '' });
	$session->do('ALTER TABLE docsync.record SET (autovacuum_enabled = off)', 'BEGIN', q{INSERT INTO docsync.record SELECT 'notes', n, now(), 1, 'anna', false, '1', 'replaced' FROM generate_series(1, 20000) AS n}, 'ROLLBACK');
	wait_for('statistics of dead rows', sub { attention($session) ne '' });
	like(attention($session), qr/^docsync.record has 20000 dead rows, more than live ones: VACUUM docsync.record[^\n]*\z/, 'dead rows of the record');
	$session->do('VACUUM docsync.record');
	wait_for('statistics of a vacuum', sub { attention($session) eq '' });

	for my $table (qw(docsync.document docsync.record)) {
		for my $age (qw(relfrozenxid relminmxid)) {
			$session->do('BEGIN', "UPDATE pg_class SET $age = (4294967296 + $age\::text\::bigint - 700000000)\::text\::xid WHERE oid = '$table'\::regclass");
			like(attention($session), qr/^The store has rows that are 7\d{8} transactions old and not frozen[^\n]*then VACUUM \(FREEZE\) $table\.\z/, "$age of $table");
			$session->do('ROLLBACK');
		}
	}
	return;
}

# A session, a prepared transaction, and a standby whose readers wait for one that has written nothing of docsync's
sub status_of_holders
{
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	my ($idle, $other, $last) = map { connect_to($node) } 1 .. 3;

	$admin->do('DROP OWNED BY tenant', q{INSERT INTO docsync.document (collection, id, body) SELECT 'z' || n, 'a', '1' FROM generate_series(1000, 1300) AS n});
	$node->backup('base');
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->start;
	is(attention($watcher), '', 'nobody');
	$other->do('BEGIN', 'SELECT pg_current_xact_id()');
	$idle->do('BEGIN', q{INSERT INTO docsync.document (collection, id, body) VALUES ('anna/notes', 'p', '1')}, q{PREPARE TRANSACTION 'it''s lost'});
	$idle->do('BEGIN', map { "INSERT INTO docsync.document (collection, id, body) VALUES ('a/$_', 'h', '1')" } 1 .. 5);
	$last->do('BEGIN', map { "INSERT INTO docsync.document (collection, id, body) VALUES ('z$_', 'h', '1')" } 1250, 1300);
	is(attention($watcher), '', 'those who have just begun');
	sleep 11;
	my ($first, $second, $third, $fourth, @more) = split /\n/, attention($watcher);
	my $since = '[-0-9]+ [0-9:]+\+00';
	like($first, qr/^Readers on standbys are held back by process @{[ $other->pid ]} \(postgres, idle in transaction\) since $since\. If it should have ended, SELECT pg_terminate_backend/, 'who holds back a standby');
	like($second, qr/^Readers of "anna\/notes" are held back by the prepared transaction 'it''s lost' since $since: COMMIT PREPARED or ROLLBACK PREPARED it, as postgres or/, 'a prepared transaction');
	like($third, qr/^Readers of "a\/1", "a\/2", "a\/3" and 2 more are held back by process @{[ $idle->pid ]} \(postgres, idle in transaction\) since/, 'a session');
	like($fourth, qr/^Readers of 2 collections that docsync_holders\(true\) names are held back by process @{[ $last->pid ]} /, 'one of collections whose names take longer to find');
	like(attention($watcher, 1), qr/^Readers of "z1250", "z1300" are held back by process @{[ $last->pid ]} /m, '... and are found on request');
	is(scalar @more, 0, '... and nobody else');

	my $reader = connect_to($standby);
	$reader->do('SET SESSION AUTHORIZATION watcher');
	replayed($admin, connect_to($standby));
	is_deeply($reader->rows('SELECT collection, last_update_utc, documents FROM docsync_collections()'), $watcher->rows('SELECT collection, last_update_utc, documents FROM docsync_collections()'), 'on a standby the collections are the same');
	is(attention($reader), '', '... whose own status knows nothing of the primary\'s transactions');
	$_->do('ROLLBACK') for $other, $idle, $last;
	is(attention(connect_to($node, 'policies')) =~ /^Readers on standbys are held back by the prepared transaction 'it''s lost' since [^\n]*, in the database "postgres"\.$/m, 1,
		'a prepared transaction of another database, which has to be ended there');
	$idle->do(q{ROLLBACK PREPARED 'it''s lost'});
	is(attention($watcher), '', 'they have ended');
	$standby->stop;
	$admin->do(q{SELECT docsync_grant('tenant')});
	return;
}

# Sessions that wait for a lock of somebody's, before they have written anything
sub status_of_waits
{
	my $session = new_store('waits');
	my ($holder, @waiting) = map { connect_to($node, 'waits') } 1 .. 4;
	my $since = '[-0-9]+ [0-9:]+\+00';

	$session->do(q{INSERT INTO docsync.document (id, body) VALUES ('a', '1'), ('b', '1')}, 'CREATE TABLE public.other AS SELECT 1 AS n');
	$holder->do('BEGIN', q{UPDATE docsync.document SET body = '2' WHERE id = 'a'}, q{PREPARE TRANSACTION 'a'});
	$holder->do('BEGIN', 'LOCK TABLE public.other', q{SELECT FROM docsync.document WHERE id = 'b' FOR UPDATE});
	$_->start(q{UPDATE docsync.document SET body = '3' WHERE id = 'a'}) for @waiting[ 0, 1 ];
	$waiting[2]->start(q{DELETE FROM docsync.document WHERE id = 'b'});
	my $elsewhere = connect_to($node, 'waits');
	$elsewhere->start('SELECT FROM public.other');
	wait_for('them to wait', sub { $session->value('SELECT count(*) FROM pg_locks WHERE NOT granted') == 4 });
	is(attention($session), '', 'who has just begun to wait');
	sleep 11;
	my @sentences = split /\n/, attention($session);
	my ($one) = grep { /^A session/ } @sentences;
	my ($two) = grep { /^2 sessions/ } @sentences;
	is(scalar @sentences, 3, 'sessions that wait') or diag(join "\n", @sentences);
	like($two // '', qr/^2 sessions wait for a prepared transaction, since $since\. If that should have ended, COMMIT PREPARED or ROLLBACK PREPARED it: SELECT \* FROM pg_prepared_xacts\.$/, '... for one that is prepared');
	like($one // '', qr/^A session waits for process @{[ $holder->pid ]} \(postgres, idle in transaction\), since $since\. If that should have ended, SELECT pg_terminate_backend\(@{[ $holder->pid ]}\)\.$/, '... for one that is idle, and not those that wait for something else');
	$session->do(q{ROLLBACK PREPARED 'a'});
	$holder->do('ROLLBACK');
	$_->finish for @waiting, $elsewhere;
	is(attention($session), '', 'they go on');
	return;
}

# A digest is that of what its caller sees, as a page has it.
sub digests
{
	my $holder = connect_to($node);
	my $digest = q{SELECT documents, digest, settled FROM docsync_digest('mine')};
	my $state = q{SELECT s ->> 'count', s ->> 'digest', true FROM (SELECT docsync_pull(collection => 'mine', "maxDocuments" => NULL, state => 'true') -> 'state' AS s) AS p};

	$admin->do(q{INSERT INTO docsync.document (collection, id, body, client_id) SELECT 'mine', n, '1', 'client-' || n % 3 FROM generate_series(1, 100) AS n}, q{DELETE FROM docsync.document WHERE collection = 'mine' AND id = '7'},
		q{CREATE POLICY own ON docsync.document TO tenant USING (client_id = 'client-1')}, 'ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY');
	is_deeply($_->rows($digest), $_->rows($state), 'as a page has it') for $admin, $tenant;
	is_deeply($_->rows('SELECT documents FROM docsync_digest(?)', 'mine'), [ [ $_ == $tenant ? 33 : 99 ] ], '... of what the caller sees') for $admin, $tenant;
	is($watcher->sqlstate_of($digest), '42501', '... who must have the rights of a reader');
	is_deeply($tenant->rows(q{SELECT * FROM docsync_digest('ben')}), [ [ 0, '0' x 16, 1 ] ], 'of a collection of another it says what it says of none');
	is_deeply($tenant->rows(q{SELECT * FROM docsync_digest('nobody''s')}), [ [ 0, '0' x 16, 1 ] ], '... that there is nothing');

	$holder->do('BEGIN', q{INSERT INTO docsync.document (collection, id, body) VALUES ('mine', 'held', '1')});
	is($admin->value('SELECT settled FROM docsync_digest(?)', 'mine'), 1, 'what is not visible does not count');
	$admin->do(q{INSERT INTO docsync.document (collection, id, body) VALUES ('mine', 'after', '1')});
	is_deeply($admin->rows('SELECT documents, settled FROM docsync_digest(?)', 'mine'), [ [ 100, 0 ] ], 'what is visible and not settled does, and it is said');
	$holder->do('ROLLBACK');
	$admin->do('ALTER TABLE docsync.document DISABLE ROW LEVEL SECURITY', 'DROP POLICY own ON docsync.document');
	return;
}

sub whose_rights_count
{
	for my $function (qw(docsync_holders docsync_marks docsync_collections docsync_status docsync_facts)) {
		is($tenant->sqlstate_of("SELECT * FROM $function()"), '42501', "$function is not for a tenant");
		is($_->sqlstate_of("SELECT * FROM $function()"), '', "$function is for who monitors or owns") for $watcher, $owner, $admin;
	}
	return;
}
