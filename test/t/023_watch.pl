# What operators look at: who holds back readers, what there is of each collection.

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
	(map { "TABLE docsync.$_" } qw(document purged history)), 'SEQUENCE docsync.clock');

my $watcher = connect_as('watcher');
my $owner = connect_as('owner');
my $tenant = connect_as('tenant');

holders();
holders_of_many();
collections();
frontiers();
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

# What docsync_holders() says but for times, a text for each row, which begins with what it holds back
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

# So many collections that all are marked
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

# What is said of collections is what a look at all documents would say; estimates are not far off.
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

sub whose_rights_count
{
	for my $function (qw(docsync_holders docsync_marks docsync_collections)) {
		is($tenant->sqlstate_of("SELECT * FROM $function()"), '42501', "$function: not a tenant's");
		is($_->sqlstate_of("SELECT * FROM $function()"), '', "$function: for those who may") for $watcher, $owner, $admin;
	}
	return;
}
