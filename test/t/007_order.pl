# The order of the calls that docsync's guarantees depend on: processes are
# stopped between any two of them, while others continue.
#
# This needs a docsync that is compiled with test/jitter.h.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $node = new_node('order', conf => "shared_buffers = 1MB\n");
my $stop_file = PostgreSQL::Test::Utils::tempdir() . '/stop';
my $cases = 0;

add_jitter($node);
for my $call ('GetLockConflicts', 'TransactionIdIsInProgress')
{
	reader_is_stopped($call, $_) for 'listed as running', 'at xmax', 'not stamped yet';
}
reader_is_stopped('GetRunningTransactionData', 'at xmax');
subtransactions_come_between();
fence_is_above_all_ids();
deleted_while_one_begins();
for my $call ('GetTopTransactionId', 'LockAcquire', 'LockBuffer')
{
	writer_is_stopped($call, $_) for 'before', 'after';
}
for my $call ('MarkBufferDirty', 'GetRedoRecPtr')
{
	checkpoint_comes_between($call);
}
done_testing();

#-----------------------------------------------------------------------------

# A writer commits while a reader decides whether it may pass.
sub reader_is_stopped
{
	my ($call, $writer_is) = @_;
	my ($writer, $late, $reader) = map { connect_to($node) } 1 .. 3;
	my $collection = 'case ' . ++$cases;
	my $name = "reader before $call, writer $writer_is";

	# Of the ids from xmax on none has ended yet.
	$late->do('BEGIN');
	$late->value('SELECT pg_current_xact_id()') if $writer_is eq 'at xmax';
	$writer->do('BEGIN', 'SELECT pg_current_xact_id()');
	$writer->upload('w', $collection, document('first', 1, '1')) if $writer_is ne 'not stamped yet';
	$late->upload('l', $collection, document('second', 1, '1'));
	$late->do('COMMIT');

	my $stopped = stops($reader, $call,
		"SELECT set_config('test.got',
			(SELECT string_agg(id, ', ') FROM docsync_query_since('r', collection => '$collection')), false)");
	ok($stopped, "$name: it looks at the writer");
	$writer->upload('w', $collection, document('first', 1, '1')) if $writer_is eq 'not stamped yet';
	$writer->do('COMMIT');
	goes_on($reader);

	my $got = $reader->value("SELECT current_setting('test.got')");
	ok($got eq '' || $reader->stamp_of($collection, 'first') > $reader->stamp_of($collection, 'second'),
		"$name: no document is passed");
	return;
}

# Between the snapshot's xmax and a fence lie the ids of another transaction and
# of its subtransactions, of which there may be a million.
sub subtransactions_come_between
{
	my ($other, $late, $reader) = map { connect_to($node) } 1 .. 3;
	my $collection = 'case ' . ++$cases;
	my $query = "SELECT set_config('test.got', (SELECT string_agg(id, ', ') FROM docsync_query_since('r', collection => '$collection')), false)";

	$late->do('BEGIN', 'SELECT pg_current_xact_id()');
	$other->do('BEGIN', 'SELECT pg_current_xact_id()', map { ("SAVEPOINT s$_", 'SELECT pg_current_xact_id()', "RELEASE s$_") } 1 .. 5);
	$late->upload('l', $collection, document('late', 1, '1'));
	$late->do('COMMIT');

	ok(stops($reader, 'GetLockConflicts', $query), 'a transaction with subtransactions is looked at');
	goes_on($reader);
	is($reader->value("SELECT current_setting('test.got')"), 'late', '... and delays nothing');
	ok(!stops($reader, 'TransactionIdDidCommit', $query), '... and its subtransactions are not');
	$other->do('COMMIT');
	return;
}

# A fence from elsewhere, above all existing ids: transactions that get their
# ids after the scan began delay nothing.
sub fence_is_above_all_ids
{
	my ($running, $late, $reader) = map { connect_to($node) } 1 .. 3;
	my $collection = 'case ' . ++$cases;

	$late->do('SET session_replication_role = replica',
		"INSERT INTO docsync.document (collection, id, client_id, body, last_update_utc, fence)
			VALUES ('$collection', 'from elsewhere', 'e', '1', now(), '999999999')",
		'RESET session_replication_role');
	$running->do('BEGIN', 'SELECT pg_current_xact_id()');
	ok(stops($reader, 'GetRunningTransactionData',
			"SELECT set_config('test.got', (SELECT string_agg(id, ', ') FROM docsync_query_since('r', collection => '$collection')), false)"),
		'of a fence above all ids those that there are are looked at');
	$late->upload('l', $collection, document('later', 1, '1'));
	goes_on($reader);
	is($reader->value("SELECT current_setting('test.got')"), 'from elsewhere', '... and not those that come meanwhile');
	$running->do('COMMIT');
	return;
}

# A new client counts as having seen everything up to the clock, which is read
# after the snapshot - but not what was stamped in between.
sub deleted_while_one_begins
{
	my ($writer, $reader) = map { connect_to($node) } 1 .. 2;
	my $collection = 'case ' . ++$cases;
	my $delete = "DELETE FROM docsync.document WHERE collection = '$collection' AND id = '%s'";

	$writer->upload('w', $collection, map { document($_, 1, '1') } 'deleted', 'newest');
	ok(stops($reader, 'LockBuffer', "SELECT set_config('test.got', docsync_pull('r', NULL, '$collection')::text, false)"),
		'who begins reads the clock');
	$writer->do(sprintf $delete, 'deleted');
	goes_on($reader);
	like($reader->value("SELECT current_setting('test.got')::jsonb -> 'documents' -> 0 ->> 'id'"), qr/deleted/,
		'... and is given what is deleted meanwhile');

	$writer->do(sprintf $delete, 'newest');
	is($writer->value("CALL docsync_purge('0', '$collection')"), 1, '... whose tombstone is purged before it comes again');
	is($reader->sqlstate_of("SELECT docsync_pull('r', current_setting('test.got')::jsonb ->> 'cursor', '$collection')"), '55000',
		'... and then it is told');
	return;
}

# A writer is stopped before it gets its stamp; another one overtakes it and
# commits before or after it.
sub writer_is_stopped
{
	my ($call, $other_commits) = @_;
	my ($writer, $other, $reader) = map { connect_to($node) } 1 .. 3;
	my $collection = 'case ' . ++$cases;
	my $replica = DocsyncTest::Replica->new(collection => $collection);
	my $name = "writer before $call, other commits $other_commits it";
	my @ends = (
		sub { $other->do('COMMIT') },
		sub { goes_on($writer); $writer->do('COMMIT') });

	# Where the store is must be noted by then, which uses the clock's page, too.
	$writer->upload('w', "before $collection", document('first', $_, '1')) for 1, 2;
	$writer->do('BEGIN');
	$other->do('BEGIN');
	my $stopped = stops($writer, $call,
		"SELECT docsync_upsert('w', '[@{[document('first', 1, 1)]}]', '$collection')");
	ok($stopped, "$name: it comes there");
	$other->upload('o', $collection, document('second', 1, '1'));

	for my $end ($other_commits eq 'before' ? @ends : reverse @ends)
	{
		$end->();
		$replica->catch_up($reader);
	}
	$replica->compare($reader);
	is_deeply([ $replica->faults ], [], "$name: nothing is lost");
	return;
}

# The clock's page is clean, its new value is covered by WAL, and a checkpoint
# begins while it is being set.
sub checkpoint_comes_between
{
	my ($call) = @_;
	my ($writer, $other, $checkpoint) = map { connect_to($node) } 1 .. 3;
	my $name = "checkpoint before $call";

	# Before the second upload after a start, nothing in WAL covers a new value.
	$other->upload('o', 'start', document($call, 1, '1'));
	$writer->do('BEGIN');
	$checkpoint->do('CHECKPOINT');
	$other->upload('o', 'checkpoint', document($call, 1, '1'));
	write_clock($other);

	my $stopped = stops($writer, $call,
		"SELECT docsync_upsert('w', '[@{[document('first', 1, 1)]}]', '$call')");
	ok($stopped, "$name: the writer comes there");
	$checkpoint->start('CHECKPOINT');
	for (1 .. 50)
	{
		last if $checkpoint->is_ready;
		sleep 0.01;
	}
	goes_on($writer);
	$writer->do('COMMIT');
	$checkpoint->finish;

	my $stamp = $other->stamp_of($call, 'first');
	cmp_ok($stamp, '<', $other->stamp_of('checkpoint', $call) + 1000, "$name: the stamp was covered by an earlier record");
	crash($node);
	cmp_ok(connect_to($node)->value('SELECT last_value FROM docsync.clock'), '>=', $stamp,
		"$name: the clock is not behind it after a crash");
	return;
}

# Gets the clock's page written, by reading more other pages than there are
# buffers.
sub write_clock
{
	my ($session) = @_;
	my $dirty = "SELECT count(*) FROM pg_buffercache
				  WHERE relfilenode = pg_relation_filenode('docsync.clock') AND isdirty";

	$session->do('SET client_min_messages = warning', 'CREATE EXTENSION IF NOT EXISTS pg_buffercache',
		'CREATE TABLE IF NOT EXISTS filler (id serial PRIMARY KEY, pad text)',
		'ALTER TABLE filler ALTER pad SET STORAGE PLAIN',
		"INSERT INTO filler (pad) SELECT repeat('x', 7000) FROM generate_series(1, 300)",
		'SET enable_seqscan = off', 'SET enable_bitmapscan = off');
	return wait_for('the clock to be written',
		sub { $session->value('SELECT max(pad) FROM filler WHERE id > 0'); !$session->value($dirty) });
}

# Starts a command, which stops before a call; returns false if it ends without
# that call.
sub stops
{
	my ($session, $call, $command) = @_;

	touch($stop_file);
	$session->do("SET jitter.stop_file = '$stop_file'", "SET jitter.stop_before = '$call'");
	$session->start($command);
	wait_for($call, sub { -e "$stop_file.stopped" || $session->is_ready });
	return 1 if unlink "$stop_file.stopped";
	goes_on($session);
	return 0;
}

sub goes_on
{
	my ($session) = @_;

	unlink $stop_file;
	$session->finish;
	return;
}
