# Sums over a collection that one session has made are given to others, if and
# only if those would get the same; and sessions that need them meanwhile wait.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DBD::Pg qw(:async);
use JSON::PP qw(decode_json);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use DocsyncTest;

my $DOCUMENTS = 500;
my $LARGE = 20_000;
my $SESSIONS = 8;

my $node = new_node('main');
prepare($node);
my $session = connect_to($node);
my $other = connect_to($node);
my %cursor;

one_for_all();
a_write();
positions_made_up();
edits_without_stamps();
edits_rolled_back();
two_collections_with_the_same_stamps();
another_database();
another_table();
hidden_documents();
policies();
many_collections();
burst();
waiting();
no_memory();
done_testing();

#-----------------------------------------------------------------------------

# What the cases need: calls that report how many rows they have read.
sub prepare
{
	my ($server) = @_;

	return $server->safe_psql('postgres', q{
		CREATE FUNCTION rows_read() RETURNS bigint LANGUAGE sql AS $$
			SELECT sum(pg_stat_get_xact_tuples_returned(relation))::bigint
			  FROM (SELECT 'docsync.document'::regclass AS relation
					UNION ALL SELECT indexrelid FROM pg_index WHERE indrelid = 'docsync.document'::regclass) AS r $$;
		CREATE FUNCTION ask(at text, collection text, OUT answer json, OUT rows bigint) LANGUAGE plpgsql AS $$
		BEGIN
			rows := -rows_read();
			answer := docsync_pull(cursor => at, collection => collection, state => 'true');
			rows := rows + rows_read();
		END $$});
}

# A collection with this many documents, and a cursor at its end
sub fill
{
	my ($collection, $count) = @_;

	$session->do("INSERT INTO docsync.document (collection, id, client_version, body)
		SELECT '$collection', n::text, 1, '1' FROM generate_series(1, @{[$count // $DOCUMENTS]}) AS n");
	return go_on($session, $collection);
}

sub go_on
{
	my ($by, $collection) = @_;

	return $cursor{$collection} = $by->pull(undef, $cursor{$collection}, $collection)->{cursor};
}

# The state of a collection, and whether it was made for this call; asked for
# from the position where the collection ended when it was filled
sub ask
{
	my ($by, $collection, $at) = @_;
	my ($answer, $rows) = @{ $by->rows('SELECT * FROM ask(?, ?)', $at // $cursor{$collection}, $collection)->[0] };

	return { state => decode_json($answer)->{state}, made => $rows >= $DOCUMENTS - 1 };
}

# The same, once everything is settled: what autovacuum commits between a page's
# snapshot and its look at running transactions holds it back, and then there is
# no state.
sub ask_settled
{
	my (@args) = @_;
	my $answer;

	for (1 .. 20)
	{
		$answer = ask(@args);
		last if defined $answer->{state};
		sleep 0.1;
	}
	return $answer;
}

sub is_made
{
	my ($by, $collection, $count, $name, $at) = @_;
	my $answer = ask_settled($by, $collection, $at);

	ok($answer->{made}, "$name: is made");
	is($answer->{state}{count}, $count, "$name: is right");
	return $answer->{state};
}

sub is_shared
{
	my ($by, $collection, $count, $name, $at) = @_;
	my $answer = ask_settled($by, $collection, $at);

	ok(!$answer->{made}, "$name: is another's");
	is($answer->{state}{count}, $count, "$name: is right");
	return $answer->{state};
}

sub one_for_all
{
	fill('all');
	my $state = is_made($session, 'all', $DOCUMENTS, 'the first');
	is(@{ $state->{sums} }, 256, 'sums by bucket');
	is_deeply(is_shared($_->[1], 'all', $DOCUMENTS, $_->[0]), $state, "$_->[0]: is the same")
	  for [ 'the second of a session', $session ], [ 'the first of another', $other ], [ 'one of a session that begins', connect_to($node) ];

	# In all kinds of transactions, and with other arguments
	$other->do('BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY');
	is_shared($other, 'all', $DOCUMENTS, 'under REPEATABLE READ');
	$other->do('COMMIT');
	my $answer = decode_json($other->value(q{SELECT docsync_sync('c', '[]', NULL, 'all', 'own', state => ?)}, $state->{digest}));
	is_deeply($answer->{state}, { count => $DOCUMENTS, digest => $state->{digest} }, 'a client that has the same is given no sums');
	return;
}

sub a_write
{
	fill('write');
	is_made($session, 'write', $DOCUMENTS, 'before a write');

	# Those who don't see it yet get the sums of what they see.
	my $writer = connect_to($node);
	$writer->do('BEGIN');
	$writer->upload('c', 'write', document('new', 1, '1'));
	my $state = is_shared($other, 'write', $DOCUMENTS, 'beside a write');
	$writer->do('COMMIT');
	isnt(is_made($other, 'write', $DOCUMENTS + 1, 'after it')->{digest}, $state->{digest}, '... and is another');
	is_shared($session, 'write', $DOCUMENTS + 1, 'after it, for the rest');

	$writer->upload('c', 'write', document('new', 2));
	is_made($session, 'write', $DOCUMENTS, 'after a deletion');
	$writer->upload('c', 'write', document('1', 2, '1'));
	is_made($other, 'write', $DOCUMENTS, 'after an update');
	$writer->upload('c', 'write', document('1', 2, '1'));
	is_shared($session, 'write', $DOCUMENTS, 'after one that changed nothing');

	# An old snapshot still sees the same.
	my $old = connect_to($node);
	$old->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$old->value('SELECT 1');
	$writer->upload('c', 'write', document('newer', 1, '1'));
	is_made($session, 'write', $DOCUMENTS + 1, 'after one more');
	is_made($old, 'write', $DOCUMENTS, 'under an older snapshot');
	is_made($session, 'write', $DOCUMENTS + 1, 'and again');
	$old->do('COMMIT');

	# With a newer cursor and an old snapshot the answer says so.
	$old->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$old->value('SELECT 1');
	$writer->upload('c', 'write', document('newest', 1, '1'));
	go_on($session, 'write');
	is_made($old, 'write', $DOCUMENTS + 1, 'a cursor ahead of the snapshot');
	is_made($session, 'write', $DOCUMENTS + 2, 'the same cursor');
	$old->do('COMMIT');
	return;
}

# A cursor at the stamp of a document that is being written: documents that
# can't be seen may be at or below it.
sub positions_made_up
{
	fill('made up');
	my $writer = connect_to($node);
	$writer->do('BEGIN');
	my @written = $writer->upload('c', 'made up', map { document("w$_", 1, '1') } 1, 2);
	my ($epoch) = $cursor{'made up'} =~ /^(\w+)/;

	my $at = "$epoch.$written[1]{stamp}";
	is_made($session, 'made up', $DOCUMENTS, 'a cursor ahead of what is committed', $at);
	$writer->do('COMMIT');
	is_made($other, 'made up', $DOCUMENTS + 2, 'the same, once it is there', $at);
	is_shared($session, 'made up', $DOCUMENTS + 2, 'and from before', $cursor{'made up'});
	return;
}

# Changes behind docsync's back: docsync_new_epoch() makes them known.
sub edits_without_stamps
{
	fill('unstamped');
	my $state = is_made($session, 'unstamped', $DOCUMENTS, 'before an edit without a stamp');
	$session->do('SET session_replication_role = replica',
		q{UPDATE docsync.document SET client_version = 7 WHERE collection = 'unstamped' AND id = '7'}, 'RESET session_replication_role');
	is_deeply(is_shared($other, 'unstamped', $DOCUMENTS, 'nobody knows'), $state, 'and it is what it was');
	$session->do('SELECT docsync_new_epoch()');
	my $answer = decode_json($other->value('SELECT docsync_pull(cursor => ?, collection => ?, reconcile => true, state => ?)',
			$cursor{unstamped}, 'unstamped', 'true'));
	ok($answer->{reconcile}, 'after docsync_new_epoch() clients are told');
	isnt($answer->{state}{digest}, $state->{digest}, '... and have something to compare');
	go_on_again($_) for keys %cursor;
	return;
}

# After an epoch has begun, earlier cursors belong to another one.
sub go_on_again
{
	my ($collection) = @_;

	delete $cursor{$collection};
	return go_on($session, $collection);
}

sub edits_rolled_back
{
	fill('rolled back');
	$session->do('BEGIN', 'SET LOCAL session_replication_role = replica',
		q{UPDATE docsync.document SET client_version = 7 WHERE collection = 'rolled back' AND id = '7'});
	my $edited = is_made($session, 'rolled back', $DOCUMENTS, 'with an edit of its own');
	$session->do('ROLLBACK');
	my $state = is_made($other, 'rolled back', $DOCUMENTS, 'when it is gone');
	isnt($state->{digest}, $edited->{digest}, '... and is another');
	$session->do('BEGIN', 'SET LOCAL session_replication_role = replica',
		q{UPDATE docsync.document SET client_version = 7 WHERE collection = 'rolled back' AND id = '7'});
	is_deeply(is_made($session, 'rolled back', $DOCUMENTS, 'with it once more'), $edited, '... it is the same');
	$session->do('ROLLBACK');
	return;
}

sub two_collections_with_the_same_stamps
{
	fill('same stamps a');
	$session->do(q{INSERT INTO docsync.document (collection, id, client_version, body, last_update_utc, fence)
		SELECT 'same stamps b', id, client_version, body, last_update_utc, fence FROM docsync.document
		 WHERE collection = 'same stamps a' AND id <> '7'});
	go_on($session, 'same stamps b');
	is_made($session, 'same stamps a', $DOCUMENTS, 'one collection');
	is_made($other, 'same stamps b', $DOCUMENTS - 1, 'another with the same stamps');
	return;
}

# A copy has the same oids, the same epoch until somebody writes, and the same stamps.
sub another_database
{
	fill('copied');
	$_->close for $session, $other;
	$node->safe_psql('template1', 'CREATE DATABASE copy TEMPLATE postgres');
	my $copy = connect_to($node, 'copy');
	$copy->do('SET session_replication_role = replica', q{DELETE FROM docsync.document WHERE collection = 'copied' AND id = '7'},
		'RESET session_replication_role');
	$_ = connect_to($node) for $session, $other;
	is_made($session, 'copied', $DOCUMENTS, 'the database');
	is_made($copy, 'copied', $DOCUMENTS - 1, 'its copy');
	is_shared($other, 'copied', $DOCUMENTS, 'the database again');
	is_shared(connect_to($node, 'copy'), 'copied', $DOCUMENTS - 1, 'its copy again');
	return;
}

# A store created again, with the stamps and history of the old one
sub another_table
{
	fill('anew');
	is_made($session, 'anew', $DOCUMENTS, 'the old table');
	$session->do(
		'SET client_min_messages = warning',
		'CREATE TABLE old_document AS TABLE docsync.document',
		'CREATE TABLE old_history AS TABLE docsync.history',
		'DROP SCHEMA docsync CASCADE',
		'SELECT docsync_create_store()',
		q{INSERT INTO docsync.document SELECT * FROM old_document WHERE (collection, id) <> ('anew', '7')},
		'DELETE FROM docsync.history',
		'INSERT INTO docsync.history SELECT * FROM old_history',
		'DROP TABLE old_document, old_history');
	is_made($other, 'anew', $DOCUMENTS - 1, 'the new one');
	$session->do('SELECT docsync_new_epoch()');
	go_on_again($_) for keys %cursor;
	return;
}

sub hidden_documents
{
	fill('hidden');
	$session->do("CREATE ROLE $_", "SELECT docsync_grant('$_')") for qw(part tenant slow);
	$session->do('ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY', q{CREATE POLICY part ON docsync.document TO part USING (id <> '7')});

	is_made($session, 'hidden', $DOCUMENTS, 'of all documents');
	$other->do('SET ROLE part');
	is_made($other, 'hidden', $DOCUMENTS - 1, 'of some, after it');
	$other->do('RESET ROLE');
	is_shared($other, 'hidden', $DOCUMENTS, 'of all, after that');

	$session->upload('c', 'hidden', document('new', 1, '1'));
	$other->do('SET ROLE part');
	is_made($other, 'hidden', $DOCUMENTS, 'of some, first') for 1, 2;
	$other->do('RESET ROLE');
	is_made($session, 'hidden', $DOCUMENTS + 1, 'of all, after it');
	$session->do('DROP POLICY part ON docsync.document');
	return;
}

# Who sees one document of a collection sees all of them, if the policy looks
# only at the collection, like that of examples/postgrest.
sub policies
{
	my ($tenant) = slurp_file("$FindBin::RealBin/../../examples/postgrest/roles.sql") =~ /CREATE POLICY tenant .*?(USING .*?);/s;

	$session->do(q{CREATE FUNCTION stable(text) RETURNS bool STABLE LANGUAGE plpgsql AS 'BEGIN RETURN true; END'},
		q{CREATE FUNCTION volatile(text) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN true; END'},
		'CREATE TABLE member (collection text)', q{INSERT INTO member VALUES ('anna/list')}, 'GRANT SELECT ON member TO PUBLIC');
	fill('anna/list');
	$session->do(q{SET request.jwt.claims = '{"tenant": "anna"}'});
	$other->do(q{SET request.jwt.claims = '{"tenant": "anna"}'});

	my @shared = ($tenant, 'USING (stable(collection))', q{FOR SELECT USING (collection = 'anna/list' OR current_user = 'x')}, 'USING (true)');
	my @made = (
		'USING (volatile(collection))', q{USING (last_update_utc < 'infinity')}, 'USING (document IS NOT NULL)', q{USING (ctid <> '(0,0)')},
		'USING (collection IN (SELECT collection FROM member))', q{USING ((SELECT last_update_utc) < 'infinity')},
		'FOR SELECT USING (id = id)');
	for my $policy (@shared, @made)
	{
		$session->do("CREATE POLICY tenant ON docsync.document $policy");
		$session->upload('c', 'anna/list', document('new', time * 1000, '1'));
		$_->do('SET ROLE tenant') for $session, $other;
		is_made($session, 'anna/list', $DOCUMENTS + 1, $policy);
		(grep { $_ eq $policy } @shared)
		  ? is_shared($other, 'anna/list', $DOCUMENTS + 1, $policy)
		  : is_made($other, 'anna/list', $DOCUMENTS + 1, $policy);
		$_->do('RESET ROLE') for $session, $other;
		$session->do('DROP POLICY tenant ON docsync.document');
	}

	# Further policies: for other commands; a restrictive one
	$session->do("CREATE POLICY tenant ON docsync.document TO tenant $tenant",
		q{CREATE POLICY writes ON docsync.document FOR UPDATE TO tenant USING (id <> '7')});
	ask($session, 'anna/list');
	$session->do('SET ROLE tenant');
	is_shared($session, 'anna/list', $DOCUMENTS + 1, 'beside a policy for UPDATE');
	$other->do(q{SET request.jwt.claims = '{"tenant": "ben"}'}, 'SET ROLE tenant');
	is(ask($other, 'anna/list')->{state}{count}, 0, 'another tenant sees nothing');
	$other->do('RESET ROLE');
	$session->do('RESET ROLE', q{CREATE POLICY less ON docsync.document AS RESTRICTIVE TO tenant USING (id <> '7')});
	is_shared($session, 'anna/list', $DOCUMENTS + 1, 'as superuser');
	$session->do('SET ROLE tenant');
	is_made($session, 'anna/list', $DOCUMENTS, 'beside a restrictive policy');
	$session->do('RESET ROLE', "DROP POLICY $_ ON docsync.document") for qw(tenant writes less);
	return;
}

# More collections than there is room for: the oldest is dropped.  One that is
# written to all the time doesn't displace others.
sub many_collections
{
	fill("many $_") for 1 .. 9;
	is_made($session, 'many 1', $DOCUMENTS, 'one of many');
	for (1 .. 20)
	{
		$session->upload('c', 'many 2', document('busy', $_, '1'));
		ask($session, 'many 2');
	}
	is_shared($other, 'many 1', $DOCUMENTS, 'one of many, beside a busy one');
	ask($session, "many $_") for 3 .. 9;
	is_made($other, 'many 1', $DOCUMENTS, 'one of too many');
	is_shared($other, 'many 9', $DOCUMENTS, 'the last of them');
	return;
}

# All at once: one sums up, the others wait.
sub burst
{
	my @sessions = map { connect_to($node) } 1 .. $SESSIONS;

	fill('burst', $LARGE);
	$_->pull(undef, $cursor{burst}, 'burst') for @sessions;
	for my $round (1 .. 5)
	{
		$session->upload('c', 'burst', document('new', $round, '1'));
		go_on($session, 'burst');
		my @answers = map { result($_) } map { start($_, 'burst') } @sessions;

		is(grep({ $_->[1] > $LARGE } @answers), 1, "round $round: one of $SESSIONS sums up");
		is(grep({ ($_->[0] // 0) == $LARGE + 1 } @answers), $SESSIONS, '... for all');
	}
	return;
}

# Starts a query in the background, for the state's count and the rows read.
sub start
{
	my ($by, $collection) = @_;
	my $sth = $by->dbh->prepare(q{SELECT answer -> 'state' ->> 'count', rows FROM ask(?, ?)}, { pg_async => PG_ASYNC });

	$sth->execute($cursor{$collection}, $collection);
	return [ $by, $sth ];
}

sub result
{
	my ($started) = @_;
	my ($by, $sth) = @$started;

	$by->finish;
	return $sth->fetchrow_arrayref;
}

# Two sessions that sum up different collections, until the gate is opened
sub behind_the_gate
{
	my ($gate) = @_;
	my @slow = map { connect_to($node) } 1, 2;

	$gate->value('SELECT pg_advisory_lock(1)');
	$_->do('SET ROLE slow', q{SET statement_timeout = '20s'}) for @slow;
	my @started = map { start($_, 'slow') } @slow;
	wait_for('both to sum up', sub {
		$gate->value(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = -12087 AND granted}) == 2
		  || grep { $_->[0]->is_ready } @started;
	});
	return @started;
}

sub is_waiting
{
	my ($by) = @_;

	return $session->value('SELECT wait_event_type FROM pg_stat_activity WHERE pid = ?', $by->pid) =~ /Extension/;
}

# Those who wait are answered when others have finished, whatever these have summed
# up.
sub waiting
{
	my $gate = connect_to($node);
	my $answered = 0;

	$session->do(q{CREATE FUNCTION gate() RETURNS bool LANGUAGE sql AS 'SELECT pg_advisory_lock_shared(1); SELECT pg_advisory_unlock_shared(1)'},
		q{CREATE POLICY slow ON docsync.document TO slow USING (id <> '7' OR gate())});
	fill('slow');
	fill('waiting');

	# In time, unless the machine is very slow; waiting in vain would take 100
	# ms.
	for (1 .. 10)
	{
		my @slow = behind_the_gate($gate);
		my $begun = time;
		my $waiting = start($other, 'waiting');
		my $is_waiting;

		sleep 0.001 until ($is_waiting = is_waiting($other)) || time > $begun + 0.05;
		$gate->value('SELECT pg_advisory_unlock(1)');
		$answered += defined result($waiting)->[0] && $is_waiting && time - $begun < 0.09;
		is(result($_)->[0], $DOCUMENTS, 'behind the gate') for @slow;
		last if $answered;
	}
	ok($answered, 'who waits is answered as soon as he can be');

	my @slow = behind_the_gate($gate);
	is_shared($session, 'waiting', $DOCUMENTS, 'what is known, while others sum up');
	fill('in vain');
	my $begun = time;
	is(ask($other, 'in vain')->{state}, undef, 'who waits in vain is told so');
	cmp_ok(time - $begun, '>=', 0.09, '... not at once');
	cmp_ok(time - $begun, '<', 5, '... but soon');

	# A session that fails lets others in.
	my $waiting = start($other, 'in vain');
	$gate->value('SELECT pg_cancel_backend(?)', $_->[0]->pid) for @slow;
	ok(!eval { result($_); 1 }, 'one who sums up is cancelled') for @slow;
	is(result($waiting)->[0] // ask($other, 'in vain')->{state}{count}, $DOCUMENTS, 'who waits for him sums up himself');
	$gate->value('SELECT pg_advisory_unlock(1)');
	return;
}

# A server without spare shared memory.  Before PostgreSQL 17 each session then
# has only its own sums; from 17 on they share a separate segment.
sub no_memory
{
	$_->close for $session, $other;
	$node->stop;
	$node = new_node('crowded', conf => "max_locks_per_transaction = 10\nmax_connections = 20\nmax_prepared_transactions = 0\n");
	prepare($node);
	$_ = connect_to($node) for $session, $other;
	fill('crowded');
	is($session->sqlstate_of('SELECT count(pg_advisory_xact_lock(n)) FROM generate_series(1, 1000000) AS n'), '53200', 'all memory is taken');

	my $is_spare = $session->value(q{SELECT current_setting('server_version_num')}) < 170000;
	my $is_another = $is_spare ? \&is_made : \&is_shared;

	is_made($session, 'crowded', $DOCUMENTS, 'without memory to spare');
	$is_another->($other, 'crowded', $DOCUMENTS, 'for another session');
	is_shared($_, 'crowded', $DOCUMENTS, 'once more in the session') for $session, $other;
	$session->upload('c', 'crowded', document('new', 1, '1'));
	is_made($session, 'crowded', $DOCUMENTS + 1, 'after a write');
	$is_another->($other, 'crowded', $DOCUMENTS + 1, 'after it, for another session');
	return;
}
