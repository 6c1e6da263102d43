# What the announcer needs has run out: room in NOTIFY's queue, shared memory.  Uploads don't notice.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node;
my $count = 0;

queue_is_full();
no_shared_memory();
done_testing();

#-----------------------------------------------------------------------------

sub upload
{
	my ($session) = @_;

	return ($session->upload('c', 'a', document('d' . ++$count, 1, 1)))[0]{outcome};
}

# How often an announcer has failed
sub failures
{
	my $log = slurp_file($node->logfile);

	return scalar(() = $log =~ /background worker "docsync announcer" \(PID \d+\) exited with exit code 1/g);
}

# A listener stands still in a transaction, until nobody can NOTIFY any more.
sub queue_is_full
{
	$node = new_node('queue', conf => "docsync.announce = on\nmax_worker_processes = 5\n");
	if ($node->pg_version < 17)
	{
		note "the queue's size cannot be set: it takes 8 GB";
		return;
	}
	$node->append_conf('postgresql.conf', "max_notify_queue_pages = 64\n");
	$node->restart;

	my ($writer, $notifier, $slow, $listener) = map { connect_to($node) } 1 .. 4;
	my $state = '';

	is(upload($writer), 'created', 'an upload starts the announcer');
	$slow->do('LISTEN docsync', 'BEGIN', 'SELECT 1');
	for my $n (1 .. 200)
	{
		$state = $notifier->sqlstate_of("SELECT pg_notify('docsync', '$n ' || repeat('x', 7900))");
		last if $state;
	}
	is($state, '54000', 'the queue is full');
	$listener->do('LISTEN docsync');

	my $begun = time;
	my $failures = failures();
	my %outcomes;
	while (time < $begun + 3)
	{
		$outcomes{ upload($writer) }++;
		sleep 0.05;
	}
	sleep 5;
	is_deeply([ keys %outcomes ], ['created'], 'uploads go on');
	$failures = failures() - $failures;
	cmp_ok($failures, '>=', 5, 'the announcer is started again and again');
	cmp_ok($failures, '<=', 9, 'but only one, once a second');

	my $stamp = $writer->value('SELECT max(last_update_utc) FROM docsync.document');
	1 while $listener->dbh->pg_notifies;
	$slow->do('COMMIT');
	ok(wait_for('an announcement', sub {
		my $heard = $listener->dbh->pg_notifies;
		my $told = $heard && decode_json($heard->[2]);

		return $told && !defined $told->{collection} && defined $told->{through} && $writer->value('SELECT ?::timestamptz >= ?', $told->{through}, $stamp);
	}), 'when the listener goes on, everybody is told to ask');
	$node->stop;
	return;
}

# Before PostgreSQL 17 it is taken from what the server has to spare, where locks grow, too.
sub no_shared_memory
{
	$node = new_node('memory', conf => "docsync.announce = on\nmax_worker_processes = 40\nmax_locks_per_transaction = 10");
	if ($node->pg_version >= 17)
	{
		note 'each database has shared memory of its own';
		return;
	}

	my ($admin, $session) = (connect_to($node));
	my $message = qr/docsync announces nothing in database (\d+): the server has no shared memory to spare/;
	my $n = 0;

	$admin->do('CREATE DATABASE model');
	$session = connect_to($node, 'model');
	$session->do('CREATE EXTENSION docsync', 'SELECT docsync_create_store()');
	$session->close;
	is(upload($admin), 'created', 'an upload');
	is($admin->sqlstate_of('SELECT count(pg_advisory_xact_lock(n)) FROM generate_series(1, 1000000) n'), '53200', 'locks take what they get');
	do
	{
		$n++;
		$admin->do("CREATE DATABASE db$n TEMPLATE model");
		$session = connect_to($node, "db$n");
		is(upload($session), 'created', "an upload to database $n");
	} while $n < 20 && defined $session->value(q{SELECT docsync_listen_key('a')});
	cmp_ok($n, '<', 20, 'there is no key where no shared memory is left');
	note "database $n got none";
	my ($database) = slurp_file($node->logfile) =~ $message;
	is($database, $session->value('SELECT oid FROM pg_database WHERE datname = current_database()'), 'the log says so');
	is($session->value("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'docsync announcer' AND datname = current_database()"), 0, 'there is no announcer');

	is(upload($session), 'created', 'uploads go on');
	is_deeply([ sort map { $_->[0] } @{ $session->download(undef, '-infinity', 'any', 'a', undef) } ], [ map { 'd' . ($count - $_) } 1, 0 ], 'so do downloads');
	$session->do($_) for 'SELECT docsync_announce_stop()', 'SELECT docsync_announce_start()';
	$session = connect_to($node, "db$n");
	is(upload($session), 'created', 'and in another session');
	$session = connect_to($node);
	ok(defined $session->value(q{SELECT docsync_listen_key('a')}), 'elsewhere there is a key');
	$session->do('LISTEN docsync');
	is(upload($session), 'created', 'and an upload');
	ok(wait_for('an announcement', sub { $session->dbh->pg_notifies }), 'is announced');
	return;
}
