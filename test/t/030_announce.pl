# What is settled is announced, within a moment, and what is announced is true.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# Longest time from the commit to the announcement, in seconds
my $PATIENCE = 1.5;

my $node = new_node('announce', conf => "docsync.announce = on\nrestart_after_crash = on");
my ($writer, $other, $watcher) = map { connect_to($node) } 1 .. 3;
my $listener = connect_to($node);

$listener->do('LISTEN docsync');

keys_are_for_those_who_see();
commits();
held_back();
says_nothing_of_others();
rolled_back();
prepared();
many_collections();
subtransactions();
without_docsync_upsert();
repaired();
moved();
without_memory();
failing();
ended_and_stopped();
killed();
paused();
restarted();
started_by_listeners();
deadlocked();
dropped();
done_testing();

#-----------------------------------------------------------------------------

sub upload
{
	my ($session, $collection, @ids) = @_;

	$session->upload('c', $collection, map { document($_, time * 1000 % 1_000_000_000, 1) } @ids);
	return;
}

sub key_of { return $watcher->value('SELECT docsync_listen_key(?)', shift) }

sub worker { return $watcher->value("SELECT max(pid) FROM pg_stat_activity WHERE backend_type = 'docsync announcer'") }

# All announcements that have come, and that announced() has not looked at
my @unread;

sub heard
{
	my @heard = splice @unread;

	while (my $notification = $listener->{dbh}->pg_notifies)
	{
		my ($channel, $pid, $payload) = @$notification;

		push @heard, decode_json($payload) if $channel eq 'docsync';
	}
	return @heard;
}

# Waits until a collection, or all of them, is announced; returns the stamp it is settled through.
sub announced
{
	my ($collection, $patience) = @_;
	my $key = defined $collection ? key_of($collection) : undef;
	my $end = time + ($patience // $PATIENCE);

	while (time < $end)
	{
		my @heard = heard();

		while (my $announcement = shift @heard)
		{
			next if ($announcement->{collection} // '') ne ($key // '');
			@unread = @heard;
			return $announcement->{through} // '-infinity';
		}
		sleep 0.002;
	}
	return;
}

sub last_stamp
{
	my $collection = shift;

	return $watcher->value('SELECT max(last_update_utc) FROM docsync.document WHERE collection = ?', $collection);
}

# Is a collection announced, through the last stamp that can be seen of it?
sub is_announced
{
	my ($collection, $name) = @_;
	my $stamp = last_stamp($collection);
	my $end = time + $PATIENCE;
	my $through;

	do { $through = announced($collection) }
		until !defined $through || $watcher->value('SELECT ?::timestamptz >= ?', $through, $stamp) || time > $end;
	ok(defined $through && time <= $end, $name);
	return;
}

sub keys_are_for_those_who_see
{
	is(key_of('first'), undef, 'a collection without documents has no key');
	upload($writer, 'first', 'a');
	like(key_of('first'), qr/^[0-9a-f]{32}$/, 'a collection that one sees has one');
	is(key_of('first'), $other->value("SELECT docsync_listen_key('first')"), 'the same in all sessions');
	ok(defined announced(undef, 5), 'an announcer that begins tells everybody to ask');

	$watcher->do('CREATE ROLE blind', "SELECT docsync_grant('blind')", 'ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY',
		'SET ROLE blind');
	is(key_of('first'), undef, 'who sees no document of a collection gets no key');
	$watcher->do('RESET ROLE', 'ALTER TABLE docsync.document DISABLE ROW LEVEL SECURITY');
	sleep 0.1;
	heard();
	return;
}

sub commits
{
	for my $n (1 .. 5)
	{
		upload($writer, 'plain', "d$n");
		is_announced('plain', "commit $n is announced");
	}
	sleep 0.2;
	heard();
	upload($writer, 'plain', 'd6');
	my %seen = map { ($_->{collection} // 'all') => 1 } grep { defined } do { sleep 0.3; heard() };
	is_deeply(\%seen, { key_of('plain') => 1 }, 'and nothing else is');

	my @took;
	for my $n (1 .. 21)
	{
		sleep rand 0.2;
		upload($writer, 'plain', "d$n");
		my $begun = time;
		announced('plain');
		push @took, time - $begun;
	}
	my $median = (sort { $a <=> $b } @took)[10];
	cmp_ok($median, '<', 0.1, 'soon');
	note sprintf 'the median is %.1f ms', 1000 * $median;

	sleep 0.2;
	heard();
	my ($begun, $uploads) = (time, 0);
	upload($writer, 'plain', 'd1') while $uploads++, time < $begun + 1;
	sleep 0.2;
	my $count = () = heard();
	my $most = (time - $begun) / 0.02;
	cmp_ok($count, '<=', $most, 'many commits are announced together');
	note sprintf '%d announcements of %d commits', $count, $uploads;
	return;
}

# Another transaction that has stamps in the collection, and one that has them elsewhere
sub held_back
{
	$other->do('BEGIN');
	upload($other, 'held', 'early');
	upload($writer, 'held', 'late');
	upload($writer, 'free', 'late');
	is_announced('free', 'a transaction holds back no other collection');
	is(announced('held', 0.3), undef, 'but its own');
	$other->do('COMMIT');
	is_announced('held', 'until it has committed');
	return;
}

# Who hears of a collection doesn't learn whether something else has been stamped meanwhile.
sub says_nothing_of_others
{
	$other->do('BEGIN');
	upload($other, 'own', 'a', 'b');
	upload($writer, 'foreign', 'a');
	$other->do('COMMIT');
	ok($watcher->value('SELECT ?::timestamptz = ?', announced('own'), last_stamp('own')),
		'a collection is announced up to its own last stamp, though others are later');
	return;
}

sub rolled_back
{
	$other->do('BEGIN');
	upload($other, 'rolled back', 'early');
	upload($writer, 'rolled back', 'late');
	is(announced('rolled back', 0.2), undef, 'a transaction holds its collection back');
	$other->do('ROLLBACK');
	is_announced('rolled back', 'until it has been rolled back');

	# One that takes its mark after the announcement, though it is older: it holds back whoever asks now.
	$other->do('BEGIN', 'SELECT pg_current_xact_id()');
	upload($writer, 'later', 'a');
	is_announced('later', 'a transaction without a mark holds back no announcement');
	upload($other, 'later', 'b');
	is_deeply([ $watcher->settled('later') ], [], 'with one it holds back readers');
	$other->do('ROLLBACK');
	is(announced('later'), '-infinity', 'who are told, without its stamps, when it has been rolled back');
	is_deeply([ $watcher->settled('later') ], ['a'], 'and then are given the document');
	return;
}

sub prepared
{
	$other->do('BEGIN');
	upload($other, 'prepared', 'a');
	$other->do("PREPARE TRANSACTION 'p'");
	upload($writer, 'prepared', 'b');
	is(announced('prepared', 0.2), undef, 'so does a prepared transaction');
	$other->do("COMMIT PREPARED 'p'");
	is_announced('prepared', 'until it has been committed');

	$other->do('BEGIN');
	upload($other, 'prepared', 'c');
	$other->do("PREPARE TRANSACTION 'p'");
	upload($writer, 'prepared', 'd');
	is(announced('prepared', 0.2), undef, 'a prepared transaction holds its collection back');
	$other->do("ROLLBACK PREPARED 'p'");
	is_announced('prepared', 'until it has been rolled back');

	$other->do('BEGIN');
	upload($other, 'prepared alone', 'a');
	$other->do("PREPARE TRANSACTION 'p'");
	sleep 2.8;
	$watcher->do("COMMIT PREPARED 'p'");
	is_announced('prepared alone', 'COMMIT PREPARED is announced, however long it has been prepared');
	return;
}

sub many_collections
{
	my @collections = map { "many $_" } 1 .. 400;

	$writer->do('BEGIN');
	upload($writer, $_, 'a') for @collections[ 0 .. 49 ];
	$writer->do('COMMIT');
	my %heard;
	my $end = time + $PATIENCE;
	while (keys %heard < 50 && time < $end)
	{
		$heard{ $_->{collection} // 'all' } = 1 for heard();
		sleep 0.01;
	}
	is_deeply([ sort keys %heard ], [ sort map { key_of($_) } @collections[ 0 .. 49 ] ], 'fifty collections of one transaction are announced');

	# In one round: the announcer is stopped meanwhile.
	my $pid = worker();
	my %keys;
	kill 'STOP', $pid;
	for my $n (0 .. 4)
	{
		my @some = @collections[ map { 50 * $n + $_ } 0 .. 49 ];

		$writer->do('BEGIN');
		upload($writer, $_, 'b') for @some;
		$writer->do('COMMIT');
		$keys{ key_of($_) } = 1 for @some;
	}
	kill 'CONT', $pid;
	%heard = ();
	$end = time + $PATIENCE;
	while (keys %heard < 250 && time < $end)
	{
		$heard{ $_->{collection} // 'all' } = 1 for heard();
		sleep 0.01;
	}
	is_deeply([ sort keys %heard ], [ sort keys %keys ], 'so are 250 collections of one round');

	$writer->do('BEGIN');
	upload($writer, $_, 'a') for @collections;
	$writer->do('COMMIT');
	ok(defined announced(undef), 'of more than can be told apart, everybody is told');
	return;
}

sub subtransactions
{
	$writer->do('BEGIN', 'SAVEPOINT s');
	upload($writer, 'sub', 'a');
	$writer->do('ROLLBACK TO s');
	upload($writer, 'outer', 'a');
	upload($other, 'sub', 'b');
	is_announced('sub', 'what a subtransaction that was rolled back has marked is not held back');
	is(announced('outer', 0.2), undef, 'what was written since is not announced');
	$writer->do('COMMIT');
	is_announced('outer', 'until it has been committed');
	return;
}

sub without_docsync_upsert
{
	$writer->do("INSERT INTO docsync.document (collection, id, client_version, body) VALUES ('sql', 'a', 1, '1')");
	is_announced('sql', 'INSERT is announced');
	$writer->do("UPDATE docsync.document SET body = '2' WHERE collection = 'sql'");
	is_announced('sql', 'UPDATE is announced');
	$writer->do("DELETE FROM docsync.document WHERE collection = 'sql'");
	is_announced('sql', 'DELETE is announced');

	my $dbh = $writer->dbh;
	$dbh->do('COPY docsync.document (collection, id, body) FROM STDIN');
	$dbh->pg_putcopydata("sql\tcopied $_\t1\n") for 1 .. 100;
	$dbh->pg_putcopyend;
	is_announced('sql', 'COPY is announced');
	$writer->do("INSERT INTO docsync.document (collection, id, client_version, client_id, last_update_utc, deleted, body, fence)
		VALUES ('sql', 'stamped', 1, 'c', '2020-01-01', false, '1', '3')");
	ok(defined announced('sql'), 'an INSERT that brings its stamp is announced');
	return;
}

sub repaired
{
	$writer->do(q{INSERT INTO docsync.keep VALUES ('repaired', 'replaced')});
	upload($writer, 'repaired', 'a');
	my $version = $writer->value(q{SELECT client_version FROM docsync.document WHERE collection = 'repaired'});
	$writer->do(q{UPDATE docsync.document SET body = '2' WHERE collection = 'repaired'});
	is_announced('repaired', 'a document is there');
	for my $sql (qq{SELECT docsync_restore('repaired', 'a', $version)}, q{SELECT docsync_restamp('repaired', '{a}')}, q{SELECT docsync_rebase('repaired', 'a')}, q{CALL docsync_erase('repaired')})
	{
		sleep 0.1;
		heard();
		$writer->do($sql);
		is_announced('repaired', "$sql is announced");
	}
	return;
}

# Who listens at the old server learns that the collection has gone; at the new one, that it has come.
sub moved
{
	my %key;

	for my $collection ('moves', 'moves/a', 'moves/b', 'moves!')
	{
		upload($writer, $collection, 'a');
		is_announced($collection, "$collection is there");
		$key{$collection} = key_of($collection);
	}
	sleep 0.1;
	heard();
	$writer->do(q{SELECT docsync_move_out('moves')}, q{SELECT docsync_move_wait('moves')});
	sleep 0.2;
	is_deeply([ heard() ], [], 'that a collection is closed for a moment is not announced');
	my $ticket = $writer->value(q{SELECT docsync_move_hand_over('moves')});
	for my $step ('gone', 'come back')
	{
		my %heard;
		my $end = time + $PATIENCE;

		while (keys %heard < 3 && time < $end)
		{
			$heard{ $_->{collection} // 'all' } = 1 for heard();
			sleep 0.01;
		}
		is_deeply([ sort keys %heard ], [ sort @key{ 'moves', 'moves/a', 'moves/b' } ], "that it has $step is, with those below it, and nothing else");
		last if $step eq 'come back';

		# It comes back just as it was.
		$writer->do('CREATE TEMP TABLE moving AS SELECT collection, id, client_version, client_id, last_update_utc, deleted, body, fence
			FROM docsync.document WHERE starts_with(collection, \'moves\') AND collection <> \'moves!\'', q{SELECT docsync_move_in('moves')},
			'INSERT INTO docsync.document (collection, id, client_version, client_id, last_update_utc, deleted, body, fence) SELECT * FROM moving');
		sleep 0.2;
		is_deeply([ heard() ], [], 'what arrives is not announced');
		$writer->do('SELECT docsync_move_take_over(' . $writer->dbh->quote($ticket) . ')');
	}
	return;
}

# A session that gets no memory any more can still say that it has committed: an error there would be a PANIC.
sub without_memory
{
	my $poor = connect_to($node);

	$poor->do('BEGIN');
	upload($poor, 'poor', 'a');
	system('prlimit', '--pid', $poor->pid, '--as=1048576') == 0 or die 'prlimit failed';
	$poor->do('COMMIT');
	is_announced('poor', 'the commit of a session that gets no memory is announced');
	is($poor->sqlstate_of("SELECT repeat('x', 100000000)"), '53200', 'it got none');
	$poor->close;
	return;
}

# An announcer that can't connect
sub failing
{
	$watcher->do('CREATE DATABASE failing');
	my ($session, $ear) = map { connect_to($node, 'failing') } 1 .. 2;
	my $is_there = sub { $watcher->value("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'docsync announcer' AND datname = 'failing'") };
	my $failures = sub { my $log = slurp_file($node->logfile); scalar(() = $log =~ /database "failing" is not currently accepting connections/g) };

	$session->do('CREATE EXTENSION docsync', 'SELECT docsync_create_store()');
	$ear->do('LISTEN docsync');
	upload($session, 'c', 'a');
	wait_for('an announcer', $is_there);
	$watcher->do('ALTER DATABASE failing ALLOW_CONNECTIONS false',
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'docsync announcer' AND datname = 'failing'");
	wait_for('a failure', sub { $failures->() > 0 });
	my $begun = time;
	upload($session, 'c', "d$_") for 1 .. 100;
	cmp_ok(time - $begun, '<', 5, 'uploads go on while the announcer fails');
	sleep 4;
	my $count = $failures->();
	sleep 2;
	is($failures->(), $count, 'it is not started again and again');
	$watcher->do('ALTER DATABASE failing ALLOW_CONNECTIONS true');
	1 while $ear->dbh->pg_notifies;
	upload($session, 'c', 'b');
	wait_for('an announcer', $is_there);
	wait_for('an announcement', sub { my $heard = $ear->dbh->pg_notifies; $heard && decode_json($heard->[2])->{through} });
	pass('but by an upload');
	$_->close for $session, $ear;

	# From PostgreSQL 19 on the server ends it.
	if ($watcher->value('SHOW server_version_num') >= 190000)
	{
		is($watcher->sqlstate_of('DROP DATABASE failing'), '', 'a database that has an announcer is dropped');
		return;
	}
	isnt($watcher->sqlstate_of('DROP DATABASE failing'), '', 'a database that has an announcer is not dropped');
	$session = connect_to($node, 'failing');
	$session->do('SELECT docsync_announce_stop()');
	$session->close;
	is($watcher->sqlstate_of('DROP DATABASE failing'), '', 'after docsync_announce_stop() it is');
	return;
}

sub ended_and_stopped
{
	my $pid = worker();

	$watcher->do("SELECT pg_terminate_backend($pid)");
	wait_for('another announcer', sub { (worker() // $pid) != $pid });
	upload($writer, 'after', 'a');
	is_announced('after', 'an announcer that was ended is started again');

	$other->do('BEGIN', 'LOCK docsync.document IN ACCESS EXCLUSIVE MODE');
	wait_for('the announcer to wait', sub { $watcher->value("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE backend_type = 'docsync announcer'") });
	$watcher->do("SET statement_timeout = '300ms'");
	is($watcher->sqlstate_of('SELECT docsync_announce_stop()'), '57014', 'docsync_announce_stop() waits for it, and can be cancelled');
	$watcher->do('RESET statement_timeout');
	$other->do('COMMIT');
	sleep 1.2;
	upload($writer, 'after', 'cancelled');
	is_announced('after', 'then all goes on');

	$watcher->do('SELECT docsync_announce_stop()');
	is(worker(), undef, 'docsync_announce_stop() has ended it when it returns');
	upload($writer, 'after', 'b');
	sleep 1.2;
	upload($writer, 'after', 'c');
	is(worker(), undef, 'no upload starts one then');
	$watcher->do('SELECT docsync_announce_start()');
	heard();
	upload($writer, 'after', 'd');
	ok(defined announced(undef), 'until docsync_announce_start(): then everybody is told to ask');
	return;
}

# The server restarts all its processes, and forgets the keys.
sub killed
{
	my $pid = worker();
	my $key = key_of('after');

	kill 'KILL', $pid;
	wait_for('the end of all sessions', sub { !eval { $_->value('SELECT 1') for $writer, $other, $watcher; 1 } });
	wait_for('the server', sub { eval { $_ = connect_to($node) for $writer, $other, $watcher, $listener; 1 } });
	$listener->do('LISTEN docsync');
	upload($writer, 'after', 'e');
	wait_for('another announcer', sub { defined worker() });
	upload($writer, 'after', 'f');
	is_announced('after', 'an announcer that was killed is started again');
	isnt(key_of('after'), $key, 'under another key, which only listeners from before have');
	return;
}

sub paused
{
	my $pid = worker();

	kill 'STOP', $pid;
	my $begun = time;
	upload($writer, 'paused', "d$_") for 1 .. 50;
	cmp_ok(time - $begun, '<', 5, 'uploads go on while the announcer is stopped');
	is(announced('paused', 0.2), undef, 'and nothing is announced');
	kill 'CONT', $pid;
	is_announced('paused', 'until it goes on');

	kill 'STOP', $pid;
	for my $n (1 .. 10)
	{
		$writer->do('BEGIN');
		upload($writer, "paused $n $_", 'a') for 1 .. 50;
		$writer->do('COMMIT');
	}
	kill 'CONT', $pid;
	my $through = announced(undef);
	ok(defined $through && $watcher->value('SELECT ?::timestamptz >= ?', $through, last_stamp('paused 10 50')),
		'if more collections have changed meanwhile than can be told apart, everybody is told');
	return;
}

sub restart
{
	$_->close for $writer, $other, $watcher, $listener;
	@unread = ();
	$node->restart;
	($writer, $other, $watcher, $listener) = map { connect_to($node) } 1 .. 4;
	$listener->do('LISTEN docsync');
	return;
}

sub restarted
{
	$other->do('BEGIN');
	upload($other, 'restarted', 'a');
	$other->do("PREPARE TRANSACTION 'p'");
	restart();
	upload($writer, 'after', 'g');
	is(announced(undef), '-infinity', 'after a restart everybody is told to ask, however far it is settled');
	is(announced(undef, 0.5), undef, 'a prepared transaction of before holds back what can be told');
	$other->do("COMMIT PREPARED 'p'");
	my $through = announced(undef);
	ok(defined $through && $watcher->value('SELECT ?::timestamptz >= ?', $through, last_stamp('restarted')), 'until it has been committed');
	return;
}

# Nobody uploads any more, but somebody listens.
sub started_by_listeners
{
	$other->do('BEGIN');
	upload($other, 'listened', 'a');
	$other->do("PREPARE TRANSACTION 'p'");
	restart();
	$other->do('SET docsync.announce = off');
	is($other->value("SELECT docsync_listen_key('after')"), undef, 'who announces nothing gets no key');
	is(key_of('none'), undef, 'nor who sees no document');
	sleep 0.5;
	is(worker(), undef, 'neither starts an announcer');
	$other->do('RESET docsync.announce', 'SELECT docsync_announce_stop()');
	is(key_of('after'), undef, 'where it was stopped there is no key, so that clients poll');
	sleep 0.5;
	is(worker(), undef, 'and who asks for one does not start it');
	$other->do('SELECT docsync_announce_start()');

	$watcher->do('BEGIN READ ONLY');
	ok(defined key_of('after'), 'a listener has a key');
	$watcher->do('COMMIT');
	$other->do("COMMIT PREPARED 'p'");
	my $end = time + $PATIENCE;
	my $through;
	do { $through = announced(undef) }
		until !defined $through || $watcher->value('SELECT ?::timestamptz >= ?', $through, last_stamp('listened')) || time > $end;
	ok(defined $through && time <= $end, 'is told of a prepared transaction that is committed after a restart, before the next upload');
	return;
}

# The announcer has the store's tables, and waits for the clock; somebody has the clock, and wants a table.
sub deadlocked
{
	my $before = worker();
	my $pid;

	$watcher->do(q{ALTER DATABASE postgres SET deadlock_timeout = '1s'}, "SELECT pg_terminate_backend($before)");
	wait_for('another announcer', sub { ($pid = worker()) && $pid != $before });
	$watcher->do('ALTER DATABASE postgres RESET ALL');
	heard();
	kill STOP => $pid;
	upload($writer, 'after', 'deadlock');
	$other->do("SET deadlock_timeout = '700ms'", 'BEGIN', 'ALTER SEQUENCE docsync.clock OWNER TO CURRENT_USER');
	kill CONT => $pid;
	wait_for('the announcer to wait', sub { $watcher->value("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE backend_type = 'docsync announcer'") });
	is($other->sqlstate_of('LOCK docsync.document IN ACCESS EXCLUSIVE MODE'), '', 'in a deadlock it is the announcer that fails');
	$other->do('ROLLBACK', 'RESET deadlock_timeout');
	wait_for('another announcer', sub { (worker() // $pid) != $pid });
	upload($writer, 'after', 'another');
	is_announced('after', 'and is started again');
	return;
}

sub dropped
{
	$watcher->do('CREATE DATABASE gone');
	my $gone = connect_to($node, 'gone');

	$gone->do('CREATE EXTENSION docsync', 'SELECT docsync_create_store()');
	upload($gone, 'c', 'a');
	wait_for('an announcer there', sub { $watcher->value("SELECT count(*) FROM pg_stat_activity
		WHERE backend_type = 'docsync announcer' AND datname = 'gone'") });
	$gone->do('SET client_min_messages = warning', 'DROP EXTENSION docsync CASCADE');
	wait_for('the announcer to end', sub { !$watcher->value("SELECT count(*) FROM pg_stat_activity
		WHERE backend_type = 'docsync announcer' AND datname = 'gone'") });
	pass('an announcer ends when its extension has been dropped');

	$gone->do('CREATE EXTENSION docsync', 'SELECT docsync_create_store()');
	upload($gone, 'c', 'b');
	wait_for('an announcer there', sub { $watcher->value("SELECT count(*) FROM pg_stat_activity
		WHERE backend_type = 'docsync announcer' AND datname = 'gone'") });
	undef $gone;
	$watcher->do('DROP DATABASE gone WITH (FORCE)');
	sleep 4;
	is($watcher->value("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'docsync announcer'"), 1,
		'and for good when its database has been');
	return;
}
