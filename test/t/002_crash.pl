# A crash loses no document that a client was told is stored, and the clock
# never goes back, whatever is killed at whatever time.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use List::Util qw(max min);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Storable qw(nstore retrieve);
use Test::More;
use Time::HiRes qw(sleep time);

my $WRITERS = 4;
my $READERS = 2;

# Processes are killed, not the machine: fsync would do nothing but take time.
my $node = new_node('crash', conf => <<'END');
restart_after_crash = on
max_wal_size = 64MB
wal_log_hints = on
END

a_hint_covers_nothing();
one_record_covers_a_second();
first_change_after_a_checkpoint_is_logged();
prepared_transaction_keeps_its_mark();
a_start_is_noted();
who_goes_on_meanwhile();
standby_of_a_crashed_primary();
crashes_under_load();
copied_from_a_template();
made_in_a_transaction_without_wal();
done_testing();

#-----------------------------------------------------------------------------

# Stamps of a transaction that began early follow the clock microsecond by
# microsecond, so WAL covers them already, and nothing is logged for them.
# After the crash the clock is at the value logged ahead, not at the stamp for
# which that was logged.
sub one_record_covers_a_second
{
	my ($early, $other) = map { connect_to($node) } 1 .. 2;

	$early->do('BEGIN');
	$other->do('CHECKPOINT');
	my ($first) = $other->upload('c', 'covered', document('a', 1, '1'));
	my ($second) = $early->upload('c', 'covered', document('b', 1, '1'));
	$early->do('COMMIT');
	crash($node);

	my $clock = clock();
	cmp_ok($second->{stamp}, '<', $first->{stamp} + 1000, 'the stamp was covered by the record for an earlier one');
	cmp_ok($clock, '>=', $second->{stamp}, 'after a crash the clock is not behind a stamp that was not logged itself');
	cmp_ok($clock, '<=', $second->{stamp} + 1_000_000, 'after a crash the clock is a second ahead at the most');
	return;
}

# The hint in the clock's page that a start has been noted may get into WAL as an
# image of the page.  That image doesn't replace the record needed for the first
# stamp after a checkpoint.
sub a_hint_covers_nothing
{
	crash($node);

	my ($early, $first, $other) = map { connect_to($node) } 1 .. 3;
	$early->do('BEGIN');
	$first->do('BEGIN');
	my ($noting) = $first->upload('c', 'hint', document('a', 1, '1'));
	$other->do('CHECKPOINT');
	$first->do('COMMIT');
	my ($covered) = $early->upload('c', 'hint', document('b', 1, '1'));
	$early->do('COMMIT');
	my @before = $early->history;
	crash($node);

	cmp_ok($covered->{stamp}, '<', $noting->{stamp} + 1000, 'the stamp was covered by a record before the checkpoint');
	cmp_ok(clock(), '>=', $covered->{stamp}, 'the clock is not behind a stamp issued after a hint');
	my $session = connect_to($node);
	$session->upload('c', 'hint', document('c', 1, '1'));
	is(scalar $session->history, @before + 1, 'and the next start is noted');
	return;
}

# Replay begins at the checkpoint, after the record that covers the stamp.
sub first_change_after_a_checkpoint_is_logged
{
	my ($early, $other) = map { connect_to($node) } 1 .. 2;

	$early->do('BEGIN');
	my ($first) = $other->upload('c', 'checkpoint', document('a', 1, '1'));
	$other->do('CHECKPOINT');
	my ($second) = $early->upload('c', 'checkpoint', document('b', 1, '1'));
	$early->do('COMMIT');
	crash($node);

	cmp_ok($second->{stamp}, '<', $first->{stamp} + 1000, 'the stamp was covered by a record before the checkpoint');
	cmp_ok(clock(), '>=', $second->{stamp}, 'the clock is not behind a stamp issued within the logged second, after a checkpoint');
	return;
}

# A prepared transaction survives the crash, and so must its holding back later
# documents.  Ids under which nothing was written are forgotten and given out
# again, so a fence may be above the next id.
sub prepared_transaction_keeps_its_mark
{
	my ($early, $late, @others) = map { connect_to($node) } 1 .. 4;

	$early->do('BEGIN');
	$early->upload('c', $_, document('first', 1, '1')) for 'prepared', 'forgotten';
	$early->do("PREPARE TRANSACTION 'upload'");
	$late->upload('c', 'prepared', document('second', 1, '1'));
	$late->do('BEGIN', 'SELECT pg_current_xact_id()');
	$_->do('BEGIN', 'SELECT pg_current_xact_id()') for @others;
	$late->upload('c', 'forgotten', document('second', 1, '1'));
	$late->do('COMMIT');
	crash($node);

	my $session = connect_to($node);
	ok($session->value("SELECT fence > pg_snapshot_xmax(pg_current_snapshot())
						  FROM docsync.document WHERE collection = 'forgotten' AND id = 'second'"),
		'after a crash a fence may be above the next transaction id');
	is_deeply([ $session->settled('prepared') ], [],
		'a transaction prepared before the crash holds back later documents after it');
	is_deeply([ $session->settled('forgotten') ], [], 'those with such a fence too');
	$session->do("COMMIT PREPARED 'upload'");
	is_deeply([ $session->settled($_) ], [ 'first', 'second' ], 'and no longer when it has committed') for 'prepared', 'forgotten';
	return;
}

# The first stamp after a start adds a row, of the same epoch, unless commits
# may have been lost with unwritten WAL.
sub a_start_is_noted
{
	my $session = connect_to($node);
	$session->upload('c', 'noted', document('a', 1, '1'));
	my $cursor = $session->pull(undef, undef, 'noted')->{cursor};
	my $since = $session->stamp_of('noted', 'a');
	my @before = $session->history;

	$node->restart;
	$session = connect_to($node);
	$session->upload('c', 'noted', document('b', 1, '1'));
	is(scalar $session->history, scalar @before, 'a clean restart is no event');

	crash($node);
	$session = connect_to($node);
	$session->pull(undef, $cursor, 'noted');
	is(scalar $session->history, scalar @before, 'a reader notes nothing');
	is_deeply([ map { $_->{outcome} } $session->upload('c', 'noted', document('a', 1, '1')) ], ['unchanged'], 'after a crash');
	my ($new) = $session->upload('c', 'noted', document('c', 1, '1'));
	my @after = $session->history;
	is(scalar @after, @before + 1, 'the first that is stored adds a row');
	is($after[-1]{epoch}, $before[-1]{epoch}, 'of the same epoch');
	ok(!$after[-1]{arrived}, 'its documents are this server\'s');
	is($after[-1]{survived}, $session->stamp_of('noted', 'b'), 'with the highest stamp that survived');
	cmp_ok($after[-1]{clock}, '<', $new->{stamp}, 'and a clock below all that comes');
	$session->upload('c', 'noted', document('d', 1, '1'));
	connect_to($node)->upload('c', 'noted', document('e', 1, '1'));
	is(scalar $session->history, scalar @after, 'once');

	my $answer = $session->pull(undef, $cursor, 'noted');
	is_deeply([ map { $_->{id} } @{ $answer->{documents} } ], [qw(b c d e)], 'a cursor of before the crash goes on');
	is(refused($session, $since), '', 'so does a stamp');
	is(refused($session, $after[-1]{survived} + 1), '55000', 'but not one that the lost history issued');
	is(refused($session, $after[-1]{clock}), '55000', 'to the very last');
	is(refused($session, $new->{stamp}), '', 'nor after that');

	crash($node);
	$session = connect_to($node);
	$session->do('SET synchronous_commit = off');
	$session->upload('c', 'noted', document('f', 1, '1'));
	my @off = $session->history;
	is(scalar @off, @after + 1, 'with synchronous_commit off');
	isnt($off[-1]{epoch}, $after[-1]{epoch}, 'an epoch begins');
	ok(!$off[-1]{arrived}, 'of documents of this server\'s');
	is($session->sqlstate_of("SELECT docsync_pull(cursor => '$answer->{cursor}', collection => 'noted')"), '55000',
		'and a cursor of before does not just go on');
	my $told = $session->pull(undef, $answer->{cursor}, 'noted', reconcile => 1);
	ok($told->{reconcile}, 'but leads to a comparison');
	is_deeply([ map { $_->{id} } @{ $told->{documents} } ], ['f'], 'of what is not new');

	# So that the row isn't lost itself
	$session->do('SET synchronous_commit = on');
	$session->upload('c', 'noted', document('g', 1, '1'));
	$node->stop('immediate');
	$node->start;
	$session = connect_to($node);
	$session->do('BEGIN');
	$session->upload('c', 'noted', document('rolled back', 1, '1'));
	$session->do('ROLLBACK');
	is(scalar $session->history, scalar @off, 'a row that was rolled back');
	$session->do('BEGIN');
	$session->upload('c', 'noted', document('rolled back', 1, '1'));
	$session->do('SAVEPOINT s');
	$session->upload('c', 'noted', document('rolled back, too', 1, '1'));
	$session->do('ROLLBACK TO s');
	$session->upload('c', 'noted', document('rolled back', 2, '1'));
	is(scalar $session->history, @off + 1, 'a savepoint of after it does not bring another');
	$session->do('ROLLBACK');
	$session->do('BEGIN', 'SAVEPOINT s');
	$session->upload('c', 'noted', document('rolled back', 1, '1'));
	$session->do('ROLLBACK TO s');
	$session->upload('c', 'noted', document('h', 1, '1'));
	$session->do('COMMIT');
	is(scalar $session->history, @off + 1, 'is added by the next');
	return;
}

# Is a client that resumes from a stamp refused?
sub refused
{
	my ($session, $stamp) = @_;

	return $session->sqlstate_of(
		"SELECT * FROM docsync_query_since('r', to_timestamp(0) + $stamp * interval '1 us', collection => 'noted')");
}

# While one transaction adds the row, others carry on.  What they store doesn't
# belong to a lost history.
sub who_goes_on_meanwhile
{
	my $session = connect_to($node);

	# Enough collections that finding the highest stamp takes some time
	$session->do(q{INSERT INTO docsync.document (collection, id, body) SELECT 'many ' || n, 'a', '1' FROM generate_series(1, 30000) AS n});
	crash($node);

	my ($first, @others) = map { connect_to($node) } 0 .. 3;
	$_->value('SELECT 1') for $first, @others;
	$first->start("SELECT docsync_upsert('c', '[@{[document('first', 1, 1)]}]', 'meanwhile')");
	my $n = 0;
	until ($first->is_ready)
	{
		$_->upload('c', 'meanwhile', document('other ' . $n++, 1, '1')) for @others;
	}
	$first->finish;
	my $row = ($first->history)[-1];
	my @stamps = map { $first->stamp_of('meanwhile', "other $_") } 0 .. $n - 1;
	note "$n documents";
	is(scalar(grep { $row->{survived} < $_ && $_ <= $row->{clock} } @stamps), 0,
		'what others store while a start is noted is no lost history\'s');
	cmp_ok($row->{clock}, '>=', $row->{survived}, 'and what survived is');
	$first->do(q{SET client_min_messages = warning}, q{DELETE FROM docsync.document WHERE collection LIKE 'many %'});
	return;
}

# A standby sees no marks: it waits until each id below a document's fence has
# been used.  Ids that the primary has forgotten in a crash are used again, one
# by one, and older fences would stay above them for a long time.
sub standby_of_a_crashed_primary
{
	my $standby = PostgreSQL::Test::Cluster->new('standby_of_crashed');

	$node->backup('base');
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->start;

	my ($session, $reader, $is_above);

	# Ids under which nothing is written, and a fence above them.  PostgreSQL doesn't
	# forget them if it has just logged who is running, as it does now and then.
	for my $version (1 .. 5)
	{
		my @idle = map { connect_to($node) } 1 .. 20;

		$session = connect_to($node);
		$_->do('BEGIN', 'SELECT pg_current_xact_id()') for $session, @idle;
		$session->upload('c', 'standby', document('before', $version, '1'));
		$session->do('COMMIT');
		crash($node);

		$session = connect_to($node);
		$is_above = $session->value("SELECT fence > pg_snapshot_xmax(pg_current_snapshot()) FROM docsync.document WHERE collection = 'standby'");
		last if $is_above;
	}
	$reader = connect_to($standby);
	ok($is_above, 'after a crash a fence is above the next transaction id');
	is_deeply([ $session->settled('standby') ], ['before'], 'on the primary the document is delivered at once');
	$session->upload('c', 'standby elsewhere', document('after', 1, '1'));
	replayed($session, $reader);
	is_deeply([ $reader->settled('standby') ], ['before'], 'on a standby when the start has been noted');
	$session->upload('c', 'standby', document('after', 1, '1'));
	replayed($session, $reader);
	is_deeply([ $reader->settled('standby') ], [ 'before', 'after' ], 'and so is what comes then');
	is_deeply($reader->pull(undef, $session->pull(undef, undef, 'standby')->{cursor}, 'standby')->{documents}, [],
		'a cursor of the primary is good there');
	$standby->stop('immediate');
	return;
}

#-----------------------------------------------------------------------------

# Clients that carry on across crashes; after each crash, what they were told is
# compared with what is stored.
sub crashes_under_load
{
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my %flag = map { $_ => "$dir/$_" } qw(hold stop settled);
	my @writers = map { start_writer($_, $dir, \%flag) } 1 .. $WRITERS;
	my @readers = map { start_reader($_, $dir, \%flag) } 1 .. $READERS;
	my %told = (offset => [ (0) x ($WRITERS + 1) ], documents => {}, last => 0);
	my $round = 0;

	for my $kind ('everything', 'shutdown', 'backend', 'everything')
	{
		$round++;
		sleep 0.3;
		connect_to($node)->do('CHECKPOINT') if $round % 2;
		sleep 0.2;
		if ($kind eq 'everything')
		{
			crash($node, sub { touch($flag{hold}) });
		}
		elsif ($kind eq 'shutdown')
		{
			$node->stop('immediate');
			touch($flag{hold});
			$node->start;
		}
		else
		{
			my $session = connect_to($node);
			my ($pid) = $session->column(
				"SELECT pid FROM pg_stat_activity WHERE application_name = 'writer' ORDER BY random() LIMIT 1");

			kill KILL => $pid;
			touch($flag{hold});
			wait_for('the server to notice', sub { !eval { $session->value('SELECT 1') } });
			wait_for('the server to restart', sub { eval { connect_to($node) } });
		}
		wait_for('writers to hold', sub { !grep { !-e "$dir/held$_" } 1 .. $WRITERS });
		check_after_crash("crash $round, of $kind", $dir, \%told);
		unlink $flag{hold}, map { "$dir/held$_" } 1 .. $WRITERS;
	}

	sleep 0.3;
	touch($flag{stop});
	for my $pid (@writers)
	{
		waitpid $pid, 0;
		is($?, 0, 'writer ran to its end');
	}
	check_after_crash('the end', $dir, \%told);
	cmp_ok(scalar keys %{ $told{documents} }, '>', 100, 'there were documents to lose');

	touch($flag{settled});
	for my $n (1 .. $READERS)
	{
		waitpid $readers[ $n - 1 ], 0;
		is($?, 0, "reader $n ran to its end");
		is_deeply(retrieve("$dir/reader$n"), [], "reader $n went on over the crashes and has lost nothing");
	}
	return;
}

# Uploads, and notes what it was told, one line for each document: id, version,
# stamp.
sub start_writer
{
	my ($n, $dir, $flag) = @_;

	return in_child(
		sub {
			my $next = 0;
			my $session;

			srand $n;
			open my $told, '>', "$dir/told$n" or die $!;
			$told->autoflush;
			until (-e $flag->{stop})
			{
				my $hold = -e $flag->{hold};

				touch("$dir/held$n") if $hold;
				if ($hold || !($session //= reconnect('writer')))
				{
					sleep 0.01;
					next;
				}
				my @answer = eval {
					$session->upload("w$n", 'load',
						document('hot-' . int rand 20, int(time * 1_000_000), $next),
						map { document("w$n-" . $next++, 1, $next) } 0 .. rand 20);
				};
				undef $session if $@;
				sleep rand 0.004;
				print $told map { "$_->{id} $_->{client_version} $_->{stamp}\n" }
				  grep { $_->{outcome} ne 'discarded' } @answer;
			}
		});
}

sub start_reader
{
	my ($n, $dir, $flag) = @_;

	return in_child(
		sub {
			my $replica = DocsyncTest::Replica->new(collection => 'load', max_documents => $n == 1 ? undef : 5);
			my $session;

			until (-e $flag->{settled})
			{
				$session //= reconnect('reader');
				undef $session if $session && !eval { $replica->poll($session); 1 };
				sleep 0.01 if !$session || $n == 1;
			}
			$session = connect_to($node);
			$replica->catch_up($session);
			$replica->compare($session);
			nstore([ $replica->faults ], "$dir/reader$n");
		});
}

sub reconnect
{
	my ($name) = @_;

	return eval {
		my $session = connect_to($node);
		$session->do("SET application_name = $name");
		$session;
	};
}

# Compares the clock and the table with what the writers were told since the
# last time.
sub check_after_crash
{
	my ($when, $dir, $told) = @_;
	my $session = connect_to($node);
	my $clock = clock();
	my %stored = map { $_->[0] => $_ } @{
		$session->rows("SELECT id, client_version, (extract(epoch FROM last_update_utc) * 1000000)::bigint
						  FROM docsync.document WHERE collection = 'load'")
	};
	my @new = map { read_told($dir, $_, $told) } 1 .. $WRITERS;

	cmp_ok(scalar @new, '>', 0, "$when: documents were stored before it");
	cmp_ok(min(map { $_->[2] } @new), '>', $told->{last}, "$when: their stamps are later than all before");
	$told->{last} = max($told->{last}, map { $_->[2] } @new, values %stored);
	cmp_ok($clock, '>=', $told->{last}, "$when: the clock is not behind any stamp");

	for my $new (@new)
	{
		my $had = $told->{documents}{ $new->[0] };

		$told->{documents}{ $new->[0] } = $new if !$had || $had->[1] < $new->[1];
	}
	is_deeply(
		[ grep { !$stored{$_} || $stored{$_}[1] < $told->{documents}{$_}[1] } sort keys %{ $told->{documents} } ],
		[], "$when: every document that a client was told of is stored");
	return;
}

# What a writer has noted since the last time
sub read_told
{
	my ($dir, $n, $told) = @_;
	my @new;

	open my $file, '<', "$dir/told$n" or die $!;
	seek $file, $told->{offset}[$n], 0;
	while (my $line = <$file>)
	{
		last if $line !~ /\n$/;
		push @new, [ split ' ', $line ];
		$told->{offset}[$n] = tell $file;
	}
	return @new;
}

#-----------------------------------------------------------------------------

# A database that is copied page by page has the clock's page as it was in memory,
# but WAL has no record ahead of it for the copy.
sub copied_from_a_template
{
	my $session = connect_to($node);

	$session->do('CREATE DATABASE original');
	$session = connect_to($node, 'original');
	$session->do('CREATE EXTENSION docsync', 'SELECT docsync_create_store()');
	$session->upload('c', 'copied', document('a', 1, '1'));

	# A clock ahead of the current time advances by one microsecond for each
	# stamp.
	$session->do("INSERT INTO docsync.document (id, body, last_update_utc, fence) VALUES ('ahead', '1', now() + interval '1 hour', '3')");
	$session->upload('c', 'copied', document('b', 1, '1'));
	$session->dbh->disconnect;
	connect_to($node)->do('CREATE DATABASE copied TEMPLATE original');
	my ($last) = connect_to($node, 'copied')->upload('c', 'copied', document('c', 1, '1'));
	crash($node);

	$session = connect_to($node, 'copied');
	cmp_ok($session->value('SELECT last_value FROM docsync.clock'), '>=', $last->{stamp}, 'in a copied database, too, the clock is not behind a stamp that was issued there');
	my ($next) = $session->upload('c', 'copied', document('d', 1, '1'));
	cmp_ok($next->{stamp}, '>', $last->{stamp}, 'nor is what is stored next');
	return;
}

# At wal_level minimal nothing is logged for relations that the transaction
# itself has created; their pages are on disk when it commits.
sub made_in_a_transaction_without_wal
{
	$node->append_conf('postgresql.conf', "wal_level = minimal\nmax_wal_senders = 0\nwal_skip_threshold = 0\n");
	crash($node);

	my $session = connect_to($node);
	$session->do('CREATE DATABASE minimal');
	$session = connect_to($node, 'minimal');
	$session->do('BEGIN', 'CREATE EXTENSION docsync');
	$session->upload('c', 'minimal', map { document("d$_", 1, '1') } 1 .. 100);
	my ($last) = $session->upload('c', 'minimal', document('last', 1, '1'));
	$session->do('COMMIT');
	crash($node);

	$session = connect_to($node, 'minimal');
	is(scalar $session->settled('minimal'), 101, 'an upload beside CREATE EXTENSION outlives a crash at wal_level minimal');
	cmp_ok($session->value('SELECT last_value FROM docsync.clock'), '>=', $last->{stamp}, 'and the clock is not behind it');
	my ($next) = $session->upload('c', 'minimal', document('next', 1, '1'));
	cmp_ok($next->{stamp}, '>', $last->{stamp}, 'nor is what is stored next');
	return;
}

sub clock
{
	return connect_to($node)->value('SELECT last_value FROM docsync.clock');
}
