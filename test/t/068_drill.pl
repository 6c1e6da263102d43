# A drill for who operates docsync and has read doc/operations.md alone: one
# fault after the other is made, docsync_status() names it (or the log does, of a
# client that lags), and what the sentence says to do, word for word, makes it go.
#
# The servers go by a clock that the test sets, so that days pass at once.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use DocsyncTest::Clients;
use DocsyncTest::Failover;
use DocsyncTest::Http;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $DAY = 86_400;
my $service = DocsyncTest::Failover->new;
my $http = $service->http;
my $admin = $service->session;
my $watcher;

$admin->do('CREATE ROLE watcher LOGIN IN ROLE pg_monitor', 'GRANT USAGE ON SCHEMA api TO watcher', 'CREATE DATABASE other');
watch();
is_deeply([ attention() ], [], 'nothing needs attention');

missing_policy();
who_holds_others_back();
stuck_purge();
poisoned_document();
nobody_purges();
clock_ahead();
invalid_index();
dead_rows();
lagging_client() if !$http->{is_gateway};
lost_commit();
done_testing();

#-----------------------------------------------------------------------------

# The operator's session: a role that can monitor and nothing else
sub watch
{
	$watcher = connect_to($service->primary, 'docsync');
	$watcher->do('SET SESSION AUTHORIZATION watcher', 'SET search_path = api');
	return;
}

sub attention { return $watcher->column('SELECT unnest(attention) FROM docsync_status()') }

# There is a sentence, and one only, about a fault: returns what the pattern
# captures of it, which are statements, to be run as they are.
sub named
{
	my ($what, $pattern, $among) = @_;
	my @sentences = attention();
	my @matching = grep { $_ =~ $pattern } @sentences;

	is(scalar @matching, 1, "$what: there is a sentence about it") or diag(join "\n", @sentences);
	is(scalar @sentences, $among // 1, '... and about nothing else') or diag(join "\n", @sentences);
	return @matching ? $matching[0] =~ $pattern : ();
}

sub is_mended
{
	my ($what, $pattern) = @_;

	wait_for("$what to be mended", sub { !grep { $_ =~ $pattern } attention() });
	return pass("... and none any more, as soon as that is done");
}

sub follow
{
	my ($what, $pattern, %options) = @_;
	my @statements = named($what, $pattern, $options{among});
	my $session = $options{session} // $admin;

	$session->do(map { $options{as} ? $options{as}->($_) : $_ } @statements);
	return is_mended($what, $pattern);
}

# The policy is gone, then row-level security as well.  The sentence leaves open
# which policy it should be: that of roles.sql.
sub missing_policy
{
	my ($policy) = slurp_file("$ENV{TESTDIR}/examples/postgrest/roles.sql") =~ /^(CREATE POLICY.*?);/ms;
	my $as = sub { return $_[0] =~ /^CREATE POLICY/ ? $policy : $_[0] };

	$admin->do('DROP POLICY tenant ON docsync.document');
	isnt($http->get('/Docs/Pull')->{content} =~ /"documents":\[\]/, '', 'without a policy nobody sees anything');
	follow('no policy', qr/there is no policy: docsync_user can neither read nor write\. (CREATE POLICY \.\.\. ON docsync\.document)\./, as => $as);
	$admin->do('DROP POLICY tenant ON docsync.document', 'ALTER TABLE docsync.document DISABLE ROW LEVEL SECURITY');
	follow('no row-level security',
		qr/all collections are open to docsync_user\. (CREATE POLICY \.\.\. ON docsync\.document), then (ALTER TABLE docsync\.document ENABLE ROW LEVEL SECURITY)\./, as => $as);
	return;
}

# Of a collection a session that has gone to lunch, and a transaction that was
# prepared and forgotten; of standbys a transaction in another database.
sub who_holds_others_back
{
	my ($idle, $preparing) = map { $http->session } 1 .. 2;
	my $other = connect_to($service->primary, 'other');
	my $reader = connect_to($service->standby, 'docsync');
	my $given = q{SELECT count(*) FROM api.docsync_query_since(NULL, '-infinity', 'any', 'anna/%s')};

	$other->do('BEGIN', 'SELECT pg_current_xact_id()');
	$preparing->do('BEGIN', q{SELECT docsync_upsert('job', '[{"id": "p", "clientVersion": 1, "body": 1}]', 'anna/jobs')}, q{PREPARE TRANSACTION 'last year''s'});
	$idle->do('BEGIN', q{SELECT docsync_upsert('psql', '[{"id": "i", "clientVersion": 1, "body": 1}]', 'anna/lunch')});
	$admin->upload('phone', "anna/$_", document('after', 1, '1')) for qw(jobs lunch notes);
	replayed($admin, $reader);
	is(join(' ', map { $admin->value(sprintf $given, $_) } qw(jobs lunch notes)), '0 0 1', 'readers of two collections are held back');
	is($reader->value(sprintf $given, 'notes'), 0, '... and on the standby those of all');
	$service->later(11);

	follow('an idle writer', qr/^Readers of "anna\/lunch" are held back by process \d+ \(postgres, idle in transaction\) since [^.]+\. If it should have ended, (SELECT pg_terminate_backend\(\d+\))\./, among => 3);
	is($admin->value(sprintf $given, 'lunch'), 1, '... readers of the collection go on');
	follow('a forgotten prepared transaction', qr/^Readers of "anna\/jobs" are held back by the prepared transaction ('last year''s') since [^.]+: COMMIT PREPARED or ROLLBACK PREPARED it/, among => 2,
		as => sub { return "COMMIT PREPARED $_[0]" });
	is($admin->value(sprintf $given, 'jobs'), 2, '... readers of the collection go on');
	follow('a blocked standby', qr/^Readers on standbys are held back by process \d+ \(postgres, idle in transaction\) since [^.]+\. If it should have ended, (SELECT pg_terminate_backend\(\d+\))\./);
	replayed($admin, $reader);
	is(join(' ', map { $reader->value(sprintf $given, $_) } qw(jobs lunch notes)), '2 1 1', '... readers on the standby go on');
	eval { $_->close } for $idle, $preparing, $other, $reader;
	return;
}

# Somebody has tried a purge in a transaction, and left that open: the nightly one
# waits.
sub stuck_purge
{
	my ($left, $nightly) = map { $http->session } 1 .. 2;

	$admin->do(q{INSERT INTO docsync.document (collection, id, deleted) SELECT 'anna/purged', n, true FROM generate_series(1, 10) AS n});
	$left->do('BEGIN', q{CALL docsync_purge('0')});
	$admin->do(q{INSERT INTO docsync.document (collection, id, deleted) SELECT 'anna/purged', n, true FROM generate_series(11, 20) AS n});
	$nightly->start(q{CALL docsync_purge('0')});
	wait_for('the purge to wait', sub { $admin->value('SELECT count(*) FROM pg_locks WHERE NOT granted') });
	$service->later(11);
	# The transaction holds back standbys, too.
	follow('a stuck purge', qr/^A purge waits for process \d+ \(postgres, idle in transaction\), since [^.]+\. If that should have ended, (SELECT pg_terminate_backend\(\d+\))\./, among => 2);
	$nightly->finish;
	$admin->do(q{CALL docsync_purge('0')});    # the other has passed over what was locked
	cmp_ok($admin->value(q{SELECT count(*) FROM docsync.document WHERE collection = 'anna/purged'}), '<=', 2, '... purges go on');
	eval { $_->close } for $left, $nightly;
	return;
}

sub poisoned_document
{
	my @edit = ('phone', 'anna/notes', document('bread', time * 1000, '"milk"'));

	$admin->do('SET docsync.max_version_lead = -1');
	$admin->upload('broken', 'anna/notes', document('bread', '9223372036854775800', '"oops"'));
	$admin->do('RESET docsync.max_version_lead');
	is(($admin->upload(@edit))[0]{outcome}, 'discarded', 'an edit loses against it, and each after that');
	follow('a poisoned document', qr/^Document "bread" of collection "anna\/notes" has the clientVersion 9223372036854775800, .*?(SELECT api\.docsync_rebase\(.*?\))\./);
	$edit[2] = document('bread', (time + $service->{passed} + 60) * 1000, '"milk"');
	is(($admin->upload(@edit))[0]{outcome}, 'updated', '... and edits win again');
	return;
}

sub nobody_purges
{
	$admin->do(q{INSERT INTO docsync.document (collection, id, deleted) SELECT 'anna/old', n, true FROM generate_series(1, 10) AS n});
	$service->later(179 * $DAY);
	is_deeply([ grep { !/dead rows|statistics/ } attention() ], [], 'tombstones that purges may have left, for not being old enough');
	$service->later(2 * $DAY);
	follow('no purge for 90 days', qr/^Tombstones are not purged: collection "anna\/\w+" has some from [-0-9]+\. Schedule (CALL api\.docsync_purge\('90 days'\)) nightly\./);
	return;
}

# The machine's time was wrong for as long as an upload took.
sub clock_ahead
{
	$service->later(3600);
	$admin->upload('phone', 'anna/notes', document('hasty', 1, '1'));
	$service->later(-3600);
	named('a clock that is ahead', qr/^The clock is ahead of the time by (?:00:5\d:\d\d|01:00:00), and so is LastUpdateUtc\. Nothing is lost\. Check the machine's time/);
	$admin->upload('phone', 'anna/notes', document('later', 1, '1'));
	$service->later(3600);
	return is_mended('the time', qr/clock is ahead/);
}

# As a CREATE INDEX CONCURRENTLY leaves it that has failed
sub invalid_index
{
	my $session = $http->session;

	isnt($session->sqlstate_of(q{CREATE UNIQUE INDEX CONCURRENTLY one_each ON docsync.document (collection)}), '', 'an index that cannot be made');
	follow('an index that is not valid', qr/^Index docsync\.one_each is not valid, .*? or (DROP INDEX docsync\.one_each)\./);
	$session->close;
	return;
}

# autovacuum was switched off for an import, and stayed so.
sub dead_rows
{
	$admin->do('ALTER TABLE docsync.document SET (autovacuum_enabled = off)', 'BEGIN',
		q{INSERT INTO docsync.document (collection, id, body) SELECT 'anna/import', n, '1' FROM generate_series(1, 20000) AS n}, 'ROLLBACK', 'SELECT pg_stat_force_next_flush()');
	wait_for('statistics', sub { attention() });
	follow('dead rows', qr/^docsync\.document has 20\d\d\d dead rows, more than live ones: (VACUUM docsync\.document), and .*?: (ALTER TABLE docsync\.document SET \(autovacuum_vacuum_scale_factor = 0\.02\))/);
	$admin->do('ALTER TABLE docsync.document RESET (autovacuum_enabled)');
	return;
}

# What doc/operations.md says of the log: who is behind is found by "to".
sub lagging_client
{
	my %client = map { $_ => DocsyncTest::Clients->new("drill $_", $http, 'anna/notes') } qw(laptop tablet);
	my %position;
	my $read = sub {
		for my $line (split /\n/, slurp_file("$http->{dir}/access.log"))
		{
			my ($id, $to) = $line =~ / collection=anna%2Fnotes&clientId=([^& ]+)\S*?&to=([-0-9T:.]+Z)/ or next;
			$position{$id} = $to;
		}
		return %position;
	};

	is($_->sync, '', 'a client that is up to date') for values %client;
	wait_for('the log', sub { keys %{ { $read->() } } >= 2 });
	is(scalar(uniq(values %position)), 1, 'all clients are where the store is');

	$service->later(2 * $DAY);
	$admin->upload('phone', 'anna/notes', document('news', (time + $service->{passed}) * 1000, '1'));
	is($client{laptop}->sync, '', 'one of them is seen again');
	wait_for('the log', sub { %position = (); $read->(); uniq(values %position) > 1 });
	my $newest = $watcher->value(q{SELECT to_char(last_update_utc AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') FROM docsync_collections() WHERE collection = 'anna/notes'});
	my @behind = grep { $position{$_} lt $newest } keys %position;
	is(scalar @behind, 1, 'the log says who lags');
	my $days = $watcher->value('SELECT extract(day FROM clock_timestamp() - ?::timestamptz)', $position{ $behind[0] // '' } // 'now');
	is($days, 2, '... and by how much');
	is($client{tablet}->sync, '', 'it comes back');
	wait_for('the log', sub { %position = (); $read->(); uniq(values %position) == 1 });
	return pass('nobody lags');
}

sub uniq { my %seen = map { $_ => 1 } @_; return keys %seen }

# A standby is promoted that has not got all.  What was lost is with a client.
sub lost_commit
{
	my $client = DocsyncTest::Clients->new('drill phone', $http, 'anna/lost');

	$client->put('kept', 'bread');
	is($client->sync, '', 'a client has sent something');
	$service->cut;
	$client->put('lost', 'milk');
	is($client->sync, '', '... and more, which never reaches the standby');
	my $stamp = $admin->value(q{SELECT last_update_utc FROM docsync.document WHERE collection = 'anna/lost' AND id = 'lost'});
	eval { $watcher->close };
	$service->fail_over;
	$admin = $service->session;
	watch();

	named('a promotion, and no upload yet', qr/^The store has come from another server, database or timeline\./);
	$admin->upload('somebody', 'anna/other', document('x', 1, '1'));
	my ($after) = named('a lost commit', qr/^An epoch began about [-0-9: +]+, after a restore, a copy, a failover, .*Documents stamped after ([-0-9: +]+) may have been lost\. Clients that compare send them again/);
	is($admin->value('SELECT ?::timestamptz < ?::timestamptz', $after, $stamp), 1, '... says from when on');
	is($admin->value(q{SELECT count(*) FROM docsync.document WHERE id = 'lost'}), 0, '... and there is one');
	is($client->sync, '', 'a client that compares') for 1 .. 3;
	is($admin->value(q{SELECT count(*) FROM docsync.document WHERE id = 'lost'}), 1, '... has sent it again');
	$service->later(8 * $DAY);
	return is_mended('the epoch', qr/An epoch began/);
}
