# With an announcer, readers on a standby wait for no transaction that writes
# something else, and lose nothing.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# Longest time from the commit until a standby gives a document, in seconds
my $PATIENCE = 1.5;

# How long the foreign transaction takes, in seconds
my $SECONDS = $ENV{DOCSYNC_FOREIGN_SECONDS} // 5;

my $primary = new_node('primary', conf => "docsync.announce = on\nwal_log_hints = off\n");
my $stops = 0;
my $stop_file = PostgreSQL::Test::Utils::tempdir() . '/stop';

add_jitter($primary);
$primary->backup('base');
my $standby = start_standby('standby', 'base');

my ($writer, $other) = map { connect_to($primary) } 1 .. 2;
my $reader = connect_to($standby);

$writer->do('CREATE TABLE foreign_table (n int)');
my $foreign = connect_to($primary);
my $idle = start_idle();
begin_foreign();
foreign_transaction();
after_a_restart();
backup();
behind_a_standby();
uploads_hold_back();
prepared();
old_snapshot();
watermark_before_snapshot();
brought();
uploaded_meanwhile($_) for 'LockBuffer', 'GetRunningTransactionData', 'GetLockConflicts';
brought_meanwhile($_) for 'GetLockConflicts', 'MarkBufferDirty';
many_uploaded();
moves_in();
under_load();
promotion();
stays_idle();
done_testing();

#-----------------------------------------------------------------------------

sub start_standby
{
	my ($name, $backup, $of) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init_from_backup($of // $primary, $backup, has_streaming => 1);
	$node->start;
	return $node;
}

# A server in which nothing happens after a checkpoint but that the watermark is
# logged again
sub start_idle
{
	my $node = new_node('idle', conf => "docsync.announce = on\nautovacuum = off\ncheckpoint_timeout = 30s\n");
	my $session = connect_to($node);
	my $logged = 0;

	$session->upload('c', 'idle', document('d', 1, '1'));
	wait_for('its announcement', sub {
		my $before = $logged;

		sleep 1.2;
		$logged = $session->value('SELECT pg_current_wal_insert_lsn()');
		return $logged eq $before;
	});
	$session->do('CHECKPOINT');
	wait_for('the watermark', sub { $session->value('SELECT pg_current_wal_insert_lsn() > checkpoint_lsn + 200 FROM pg_control_checkpoint()') });
	return { node => $node, session => $session, since => time, checkpoint => checkpoint_of($session) };
}

sub checkpoint_of { return $_[0]->value('SELECT checkpoint_lsn FROM pg_control_checkpoint()') }

sub stays_idle
{
	my $rest = $idle->{since} + 33 - time;

	sleep $rest if $rest > 0;
	is(checkpoint_of($idle->{session}), $idle->{checkpoint}, 'a watermark that is logged again makes an idle server do no checkpoint');
	$idle->{session}->close;
	$idle->{node}->stop;
	return;
}

# It has a lower id than all that is uploaded from now on.
sub begin_foreign
{
	$foreign->do('BEGIN', 'INSERT INTO foreign_table VALUES (1)');
	return;
}

sub end_foreign
{
	$foreign->do('COMMIT');
	return;
}

# Waits until a reader is given as many documents; returns how long it took, undef if too long.
sub wait_for_documents
{
	my ($session, $collection, $count, $patience) = @_;
	my $begun = time;

	until ($session->settled($collection) >= $count)
	{
		return if time > $begun + ($patience // $PATIENCE);
		sleep 0.002;
	}
	return time - $begun;
}

sub foreign_transaction
{
	my $end = time + $SECONDS;
	my ($count, $longest) = (0, 0);

	while (time < $end)
	{
		$writer->upload('c', 'foreign', document('d' . ++$count, 1, '1'));
		my $took = wait_for_documents($reader, 'foreign', $count);
		ok(defined $took, "document $count is given on a standby while a foreign transaction is open") if !defined $took;
		$longest = $took // $PATIENCE if ($took // $PATIENCE) > $longest;
		sleep 0.1;
	}
	is($writer->value(q{SELECT count(*) FROM docsync_holders() WHERE holds_back = 'standbys'}), 0, 'docsync_holders() knows that it holds back nobody');
	cmp_ok($longest, '<', $PATIENCE, "documents are given on a standby while a foreign transaction is open");
	note sprintf '%d documents, after %.0f ms at the most', $count, 1000 * $longest;
	$writer->do("SET docsync.announce = off");
	$writer->upload('c', 'foreign', document('d' . ++$count, 1, '1'));
	ok(defined wait_for_documents($reader, 'foreign', $count), 'also those of a session that announces nothing');
	$writer->do("RESET docsync.announce");
	return;
}

sub after_a_restart
{
	my @before = $reader->settled('foreign');

	$reader->close;
	$standby->restart;
	$reader = connect_to($standby);
	is_deeply([ $reader->settled('foreign') ], \@before, 'a standby that was restarted gives what it gave before');
	return;
}

# The backup's own pages know of no watermark.
sub backup
{
	my @before = $reader->settled('foreign');

	$primary->backup('later');
	my $later = start_standby('later', 'later');
	my $session = connect_to($later);
	ok(defined wait_for_documents($session, 'foreign', scalar @before, 5), 'so does one made from a backup, though nothing was uploaded since');
	$session->close;
	$later->stop('immediate');
	return;
}

# Its backup is the standby's, and so is what it replays.
sub behind_a_standby
{
	my @before = $reader->settled('foreign');

	$standby->backup('of a standby');
	my $behind = start_standby('behind', 'of a standby', $standby);
	my $session = connect_to($behind);
	ok(defined wait_for_documents($session, 'foreign', scalar @before, 5), 'one behind a standby gives what that gives');
	$writer->upload('c', 'foreign', document('behind', 1, '1'));
	ok(defined wait_for_documents($session, 'foreign', @before + 1), 'and what comes next, though a foreign transaction is open');
	$session->close;
	$behind->stop('immediate');
	end_foreign();
	return;
}

sub uploads_hold_back
{
	for my $collection ('same', 'elsewhere')
	{
		$other->do('BEGIN');
		$other->upload('o', 'same', document("early $collection", 1, '1'));
		$writer->upload('c', $collection, document('late', 1, '1'));
		sleep 0.3;
		replayed($writer, $reader);
		is($writer->value(q{SELECT pid FROM docsync_holders() WHERE holds_back = 'standbys'}), $other->pid, 'docsync_holders() names who holds back standbys');
		my %given = map { $_ => 1 } $reader->settled($collection);
		ok(!$given{late}, "an upload to the same collection holds back a document on a standby") if $collection eq 'same';
		$other->do('COMMIT');
		ok(defined wait_for_documents($reader, $collection, $collection eq 'same' ? 2 : 1), "$collection: until it has committed");
	}
	return;
}

sub prepared
{
	begin_foreign();
	$other->do('BEGIN');
	$other->upload('o', 'prepared', document('early', 1, '1'));
	$other->do("PREPARE TRANSACTION 'p'");
	$writer->upload('c', 'prepared', document('late', 1, '1'));
	sleep 0.3;
	replayed($writer, $reader);
	is_deeply([ $reader->settled('prepared') ], [], 'so does a prepared one');
	$other->do("COMMIT PREPARED 'p'");
	ok(defined wait_for_documents($reader, 'prepared', 2), 'until it has been committed');
	is_deeply([ $reader->settled('prepared') ], [qw(early late)], 'in their order');
	end_foreign();
	return;
}

# Under REPEATABLE READ the snapshot may be older than the watermark.
sub old_snapshot
{
	my $old = connect_to($standby);

	begin_foreign();
	$other->do('BEGIN');
	$other->upload('o', 'old snapshot', document('early', 1, '1'));
	$writer->upload('c', 'old snapshot', document('late', 1, '1'));
	replayed($writer, $reader);
	$old->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
	is($old->value(q{SELECT string_agg(id, ' ') FROM docsync.document WHERE collection = 'old snapshot'}), 'late', 'an old snapshot sees the late document');
	$other->do('COMMIT');
	ok(defined wait_for_documents($reader, 'old snapshot', 2), 'a new one is given both');
	is_deeply([ $old->settled('old snapshot') ], [], 'and the old one none, since it does not see the early one');
	$old->do('COMMIT');
	$old->close;
	end_foreign();
	return;
}

# The reader is stopped before it reads the watermark; if it had its snapshot by then, it would be given one of two.
sub watermark_before_snapshot
{
	my $slow = connect_to($standby);

	begin_foreign();
	$other->do('BEGIN');
	$other->upload('o', 'slow', document('early', 1, '1'));
	$writer->upload('c', 'slow', document('late', 1, '1'));
	replayed($writer, $reader);
	touch($stop_file);
	$slow->do("SET jitter.stop_file = '$stop_file'", "SET jitter.stop_before = 'LockBuffer'");
	$slow->start(q{SELECT set_config('test.got', (SELECT string_agg(id, ' ') FROM docsync_query_since('r', collection => 'slow')), false)});
	wait_for('the reader', sub { -e "$stop_file.stopped" });
	$other->do('COMMIT');
	ok(defined wait_for_documents($reader, 'slow', 2), 'a reader is stopped before it reads the watermark');
	unlink $stop_file, "$stop_file.stopped";
	$slow->finish;
	is($slow->value(q{SELECT current_setting('test.got')}), 'early late', 'it sees what the watermark speaks of');
	$slow->close;
	end_foreign();
	return;
}

# A document that brings an old stamp along takes the watermark back.
sub brought
{
	begin_foreign();
	$other->do('BEGIN', 'SELECT pg_current_xact_id()');
	$writer->upload('c', 'brought', document('late', 1, '1'));
	ok(defined wait_for_documents($reader, 'brought', 1), 'a document is below the watermark');
	for my $end ('ROLLBACK TO s', 'COMMIT')
	{
		$other->do('SAVEPOINT s');
		$other->do(bring_sql('brought'));
		sleep 0.3;
		replayed($writer, $reader);
		is_deeply([ $reader->settled('brought') ], [], "$end: and no longer when another one brings an earlier stamp along");
		$other->do($end);
		ok(defined wait_for_documents($reader, 'brought', $end eq 'COMMIT' ? 2 : 1), "$end: until then");
	}
	is_deeply([ $reader->settled('brought') ], [qw(early late)], 'in their order');
	end_foreign();
	return;
}

# Another announcer, which stops before a call as soon as stop_announcer() says so
sub start_announcer_that_stops
{
	my ($call) = @_;
	my $pid = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'docsync announcer'";
	my ($before) = $writer->column($pid);

	# Only the announcer is started with these.
	$writer->do("ALTER DATABASE postgres SET jitter.stop_file = '$stop_file'", "ALTER DATABASE postgres SET jitter.stop_before = '$call'",
		"SELECT pg_terminate_backend($before)");
	wait_for('another announcer', sub { my ($now) = $writer->column("$pid AND state = 'idle'"); $now && $now != $before });
	$writer->do('ALTER DATABASE postgres RESET ALL');
	return;
}

sub stop_announcer
{
	my ($call) = @_;

	sleep 0.2;
	touch($stop_file);
	$writer->upload('c', 'plain', document('stops it', ++$stops, '1'));
	wait_for('the announcer', sub { -e "$stop_file.stopped" });
	return;
}

# Two upload while the announcer is stopped in the midst of its look; one of them commits.
sub uploaded_meanwhile
{
	my ($call) = @_;
	my $collection = "uploaded before $call";

	start_announcer_that_stops($call);
	begin_foreign();
	stop_announcer($call);
	$other->do('BEGIN');
	$other->upload('o', $collection, document('early', 1, '1'));
	$writer->upload('c', $collection, document('late', 1, '1'));
	unlink $stop_file, "$stop_file.stopped";
	sleep 0.3;
	replayed($writer, $reader);
	is_deeply([ $reader->settled($collection) ], [], "$call: what is stamped during a look is not below its watermark");
	$other->do('COMMIT');
	ok(defined wait_for_documents($reader, $collection, 2), "$call: it is given when all has been committed");
	end_foreign();
	return;
}

# The same while the announcer is stopped, after it has looked who runs
sub brought_meanwhile
{
	my ($call) = @_;
	my $collection = "brought before $call";

	start_announcer_that_stops($call);
	begin_foreign();
	$writer->upload('c', $collection, document('late', 1, '1'));
	ok(defined wait_for_documents($reader, $collection, 1), "$call: a document is below the watermark");
	stop_announcer($call);
	$other->do('BEGIN');
	if ($call eq 'MarkBufferDirty')
	{
		# It has the clock's latch.
		$other->start(bring_sql($collection));
		sleep 0.2;
		unlink $stop_file, "$stop_file.stopped";
		$other->finish;
	}
	else
	{
		$other->do(bring_sql($collection));
		unlink $stop_file, "$stop_file.stopped";
	}
	sleep 0.3;
	replayed($writer, $reader);
	is_deeply([ $reader->settled($collection) ], [], "$call: a watermark from before another one brings an earlier stamp along is not logged after it");
	$other->do('COMMIT');
	ok(defined wait_for_documents($reader, $collection, 2), "$call: both are given when that has been committed");
	end_foreign();
	return;
}

# An upload of many documents takes its mark before it stamps them, and leaves the watermark as it is.
sub many_uploaded
{
	begin_foreign();
	$writer->upload('c', 'many', document('early', 1, '1'));
	ok(defined wait_for_documents($reader, 'many', 1), 'a document is below the watermark');
	$other->do('BEGIN');
	$other->upload('o', 'many', map { document("late $_", 1, '1') } 1 .. 100);
	sleep 0.3;
	replayed($writer, $reader);
	is_deeply([ $reader->settled('many') ], ['early'], 'and still is while many are uploaded');
	$other->do('COMMIT');
	ok(defined wait_for_documents($reader, 'many', 101), 'which are given when that has been committed');
	end_foreign();
	return;
}

# A tenant's documents arrive with stamps below the watermark, in several transactions. Nobody is given any of them before all
# are there.
sub moves_in
{
	$writer->do('CREATE DATABASE elsewhere');
	my $elsewhere = connect_to($primary, 'elsewhere');
	my $copied = q{collection, id, client_version, client_id, last_update_utc, deleted, body, fence};
	my $bring = sub {
		my ($session, $id) = @_;
		my $row = $elsewhere->rows(qq{SELECT $copied FROM docsync.document WHERE id = '$id'})->[0];

		$session->do("INSERT INTO docsync.document ($copied) VALUES (" . join(', ', map { $session->dbh->quote($_) } @$row) . ')');
	};

	$elsewhere->do('CREATE EXTENSION docsync', 'SELECT docsync_create_store()');
	$elsewhere->upload('c', 'tenant', document($_, 1, '1')) for 'early', 'late';
	begin_foreign();
	$writer->upload('c', 'plain', document('after them', 1, '1'));
	ok(defined wait_for_documents($reader, 'plain', $reader->value(q{SELECT count(*) FROM docsync.document WHERE collection = 'plain'})), 'the watermark is above what a tenant has elsewhere');
	$elsewhere->do(q{SELECT docsync_move_out('tenant')});
	my $ticket = $elsewhere->value(q{SELECT docsync_move_hand_over('tenant')});

	is_deeply([ $reader->settled('tenant') ], [], 'it has nothing here');
	$writer->do(q{SELECT docsync_move_in('tenant')});
	$other->do('BEGIN');
	$bring->($other, 'early');
	$bring->($writer, 'late');
	replayed($writer, $reader);
	is($reader->sqlstate_of(q{SELECT docsync_pull('r', collection => 'tenant')}), '55000', 'a standby gives nothing while it arrives');
	$writer->start('SELECT docsync_move_take_over(' . $writer->dbh->quote($ticket) . ')');
	sleep 0.3;
	is($reader->sqlstate_of(q{SELECT docsync_pull('r', collection => 'tenant')}), '55000', 'nor before all has arrived');
	$other->do('COMMIT');
	$writer->finish;
	replayed($writer, $reader);
	is_deeply([ $reader->settled('tenant') ], [qw(early late)], 'and then all of it');

	end_foreign();
	$elsewhere->close;
	return;
}

sub bring_sql
{
	my ($collection) = @_;

	return qq{
		INSERT INTO docsync.document (collection, id, client_version, client_id, last_update_utc, deleted, body, fence)
		VALUES ('$collection', 'early', 1, 'c', '2020-01-01', false, '1', '3')};
}

# Writers of several kinds, tight readers, foreign transactions that come and go
sub under_load
{
	my $load = DocsyncTest::Load->new('load');
	my $elsewhere = DocsyncTest::Load->new('elsewhere');

	$load->start_writer($primary) for 1 .. 3;
	$elsewhere->start_writer($primary);
	for ([ $load, 1 ], [ $load, 2, client_id => 'w1', origin => 'other', max_documents => 5 ],
		[ $load, 3, class => 'DocsyncTest::CursorReplica' ],
		[ $load, 4, begin => 'BEGIN ISOLATION LEVEL REPEATABLE READ' ], [ $elsewhere, 5 ])
	{
		my ($which, $name, @options) = @$_;

		$which->start_reader($standby, name => $name, @options);
	}
	my $end = time + ($ENV{DOCSYNC_RANDOM_SECONDS} // 8);
	while (time < $end && !$load->has_lost)
	{
		begin_foreign();
		sleep rand 1;
		end_foreign();
	}
	begin_foreign();
	$_->stop_writers for $load, $elsewhere;
	sleep $PATIENCE;
	replayed($writer, $reader);
	$_->finish for $load, $elsewhere;
	end_foreign();
	return;
}

sub promotion
{
	my ($prepared, $listener) = map { connect_to($primary) } 1 .. 2;

	begin_foreign();
	$writer->upload('c', 'promoted', document('first', 1, '1'));
	ok(defined wait_for_documents($reader, 'promoted', 1), 'a document is below the watermark');
	$prepared->do('BEGIN');
	$prepared->upload('c', 'promoted', document('second', 1, '1'));
	$prepared->do("PREPARE TRANSACTION 'p'");
	$writer->upload('c', 'promoted', document('third', 1, '1'));
	sleep 0.3;
	replayed($writer, $reader);
	is_deeply([ $reader->settled('promoted') ], ['first'], 'which does not say that later ones are settled');
	$_->close for $writer, $other, $foreign, $prepared, $listener;
	$primary->stop('immediate');
	$standby->promote;

	$listener = connect_to($standby);
	$listener->do('LISTEN docsync');
	is_deeply([ $reader->settled('promoted') ], ['first'], 'nor does it after a promotion');
	$reader->upload('c', 'promoted', document('fourth', 1, '1'));
	is_deeply([ $reader->settled('promoted') ], ['first'], 'nor when something has been uploaded');
	$reader->do("COMMIT PREPARED 'p'");
	is_deeply([ $reader->settled('promoted') ], [qw(first second third fourth)], 'a prepared upload is given when it has been committed');
	wait_for('an announcement', sub { my $heard = $listener->dbh->pg_notifies; $heard && $heard->[2] =~ /"through":"/ });
	pass('an upload starts an announcer on a standby that was promoted');
	return;
}
