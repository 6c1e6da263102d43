# Downloads from a hot standby lose nothing, and neither does its promotion.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(sleep);

# Hint bits would be logged with the id of who sets them, and tell the standby
# of ids that it shall not have heard of.
my $primary = new_node('primary', conf => 'wal_log_hints = off');
my $standby = PostgreSQL::Test::Cluster->new('standby');

$primary->backup('base');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

my $writer = connect_to($primary);
my $reader = connect_to($standby);

downloads();
any_older_transaction_holds_back();
ids_the_standby_has_not_heard_of();
refusals();
promotion_under_load();
done_testing();

#-----------------------------------------------------------------------------

sub downloads
{
	$writer->upload('c', 'plain', map { document("d$_", 1, $_) } 1 .. 20);
	replayed($writer, $reader);
	is_deeply($reader->download('r', '-infinity', 'other', 'plain', undef),
		$writer->download('r', '-infinity', 'other', 'plain', undef),
		'a standby gives what the primary gives');
	return;
}

# A standby sees no marks, so it waits for every transaction that is older.
sub any_older_transaction_holds_back
{
	my $older = connect_to($primary);

	$writer->do('CREATE TABLE foreign_table (n int)');
	for my $case (
		[ 'that has only an id', [ 'SELECT pg_current_xact_id()' ], [ 'COMMIT' ] ],
		[ 'that wrote elsewhere', [ 'INSERT INTO foreign_table VALUES (1)' ], [ 'ROLLBACK' ] ],
		[
			'with many subtransactions',
			[ map { ("SAVEPOINT s$_", "INSERT INTO foreign_table VALUES ($_)") } 1 .. 70 ],
			['COMMIT']
		],
		[
			'that is prepared',
			[ 'INSERT INTO foreign_table VALUES (1)', "PREPARE TRANSACTION 'p'" ],
			["COMMIT PREPARED 'p'"]
		],
		[
			'that uploads',
			["SELECT docsync_upsert('c', '[@{[document('older', 1, 1)]}]', 'that uploads')"],
			['COMMIT'], 'older'
		])
	{
		my ($kind, $begin, $end, @own) = @$case;

		$older->do('BEGIN', @$begin);
		$writer->upload('c', $kind, document('document', 1, '1'));
		replayed($writer, $reader);
		is_deeply([ $reader->settled($kind) ], [], "an older transaction $kind holds a document back on a standby");
		is_deeply([ $writer->settled($kind) ], [ @own ? () : 'document' ],
			@own ? 'and on the primary' : 'though not on the primary');

		$older->do(@$end);
		replayed($writer, $reader);
		is_deeply([ $reader->settled($kind) ], [ @own, 'document' ], 'and no longer when that has ended');
	}
	return;
}

# A transaction may have its stamps without having written any WAL, and the
# standby not know that its id has been assigned.
sub ids_the_standby_has_not_heard_of
{
	my ($early, $late, $lock) = map { connect_to($primary) } 1 .. 3;

	# Waits when the document has its stamp, and is not written yet.
	$writer->do(q{
		CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM pg_advisory_xact_lock(1);
			RETURN NEW;
		END
		$$},
		q{CREATE TRIGGER zz_wait BEFORE INSERT ON docsync.document FOR EACH ROW
			WHEN (NEW.id = 'waits') EXECUTE FUNCTION wait()});

	$lock->do('SELECT pg_advisory_lock(1)');
	$early->do('BEGIN');
	$late->do('BEGIN', 'SELECT pg_current_xact_id()');

	# So that the clock has been logged a second ahead
	$writer->do('CHECKPOINT');
	$writer->upload('c', 'unheard', document('before', 1, '1'));
	$early->start("SELECT docsync_upsert('c', '[@{[document('waits', 1, 1)]}]', 'unheard')");
	wait_for('the lock',
		sub { $writer->value('SELECT wait_event FROM pg_stat_activity WHERE pid = ?', $early->pid) eq 'advisory' });
	$late->upload('c', 'unheard', document('after', 1, '1'));
	$late->do('COMMIT');
	replayed($writer, $reader);

	my $replica = DocsyncTest::Replica->new(collection => 'unheard');
	$replica->catch_up($reader);
	ok(!$replica->{documents}{after},
		'an older stamp holds a document back on a standby, though no WAL has come of its transaction');

	$lock->do('SELECT pg_advisory_unlock(1)');
	$early->finish;
	$early->do('COMMIT');
	replayed($writer, $reader);
	$replica->catch_up($reader);
	$replica->compare($reader);
	is_deeply([ $replica->faults ], [], 'and the reader loses nothing');
	return;
}

# What a client may not do there, and what is no error there.
sub refusals
{
	my $document = document('refused', 1, '1');
	my $ahead = '9999-01-01 00:00:00+00';

	for my $upload (
		"docsync_upsert('c', '[$document]')", "docsync_sync('c', '[$document]')",
		"docsync_sync('c')", "docsync_docs('{\"clientId\": \"c\", \"documents\": [$document]}')",
		'docsync_purge()')
	{
		is($reader->sqlstate_of("SELECT $upload"), '25006', "a standby refuses $upload");
		like($reader->errstr, qr/cannot execute .+ in a read-only transaction/, 'and says why');
	}
	like($reader->errstr, qr/docsync_purge|DELETE|INSERT/, 'and what');

	# The standby may just be behind the server that the client was at before.
	is($writer->sqlstate_of("SELECT * FROM docsync_query_since('r', '$ahead')"), '55000', 'the primary refuses a stamp ahead of its clock');
	is_deeply([ $reader->settled('plain', $ahead) ], [], 'a standby answers that there is nothing new');

	my $here = $reader->pull(undef, undef, 'plain');
	is_deeply([ map { $_->{id} } @{ $here->{documents} } ], [ sort map { "d$_" } 1 .. 20 ], 'docsync_pull works on a standby');

	$writer->upload('c', 'plain', document('d21', 1, '1'));
	my $there = $writer->pull(undef, $here->{cursor}, 'plain');
	is_deeply([ map { $_->{id} } @{ $there->{documents} } ], ['d21'], 'its cursor is good on the primary');
	replayed($writer, $reader);
	is_deeply($reader->pull(undef, $there->{cursor}, 'plain')->{documents}, [], 'as is a cursor of the primary on a standby');
	is($reader->pull(undef, $there->{cursor}, 'plain')->{cursor}, $there->{cursor}, 'which comes back as it was');

	my $later = $there->{cursor} =~ s/\.\K.*/253402300799000000/r;
	is($writer->sqlstate_of("SELECT docsync_pull(cursor => '$later')"), '55000', 'the primary refuses a cursor ahead of its clock');
	is($reader->pull(undef, $later, 'plain')->{cursor}, $later, 'on a standby it comes back as it was');
	return;
}

# Readers are at the standby, writers at whichever server is the primary.
sub promotion_under_load
{
	my $load = DocsyncTest::Load->new('load');
	my ($prepared, $late, @others) = map { connect_to($primary) } 1 .. 4;
	my $old_snapshot = connect_to($standby);

	$load->start_writer($primary) for 1 .. 3;
	$load->start_reader($standby);
	$load->start_reader($standby, client_id => 'w1', origin => 'other', max_documents => 5);
	$load->start_reader($standby, begin => 'BEGIN ISOLATION LEVEL REPEATABLE READ');
	sleep 2;
	cmp_ok($load->stop_writers, '>', 100, 'there was something to lose');

	# Outlives the primary, unlike the ids that nothing has been written under
	$prepared->do('BEGIN');
	$prepared->upload('c', 'prepared', document('first', 1, '1'));
	$prepared->do("PREPARE TRANSACTION 'upload'");
	$late->do('BEGIN', 'SELECT pg_current_xact_id()');
	$_->do('BEGIN', 'SELECT pg_current_xact_id()') for @others;
	$late->upload('c', 'prepared', document('second', 1, '1'));
	$late->do('COMMIT');

	my $cursor = $writer->pull(undef, undef, 'load')->{cursor};
	my $last = $writer->last_stamp;
	replayed($writer, $reader);
	$old_snapshot->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
	is_deeply([ $old_snapshot->settled('prepared') ], [], 'a prepared transaction holds back later documents on a standby');

	$_->close for $writer, $prepared, $late, @others;
	$primary->stop('immediate');    # or its last record would tell of all ids
	$standby->promote;

	is_deeply([ $reader->settled('prepared') ], [], 'and after its promotion');
	is_deeply([ $old_snapshot->settled('prepared') ], [], 'for a snapshot from before too');
	my ($first) = $reader->upload('c', 'load', document('first after promotion', 1, '1'));
	cmp_ok($first->{stamp}, '>', $last, 'stamps issued after a promotion are later than all before');
	$reader->do("COMMIT PREPARED 'upload'");
	is_deeply([ $reader->settled('prepared') ], [ 'first', 'second' ], 'what was held back comes when that has ended');
	is_deeply([ $old_snapshot->settled('prepared') ], [], 'but not to the snapshot from before');
	$old_snapshot->do('COMMIT');

	my $answer = $reader->pull(undef, $cursor, 'load');
	is_deeply([ map { $_->{id} } @{ $answer->{documents} } ], ['first after promotion'], "a cursor of the old primary's goes on");

	$load->start_writer($standby) for 1 .. 3;
	sleep 1;
	$load->finish;
	is($reader->value('SELECT count(*) FROM (SELECT FROM docsync.document
						GROUP BY collection, last_update_utc HAVING count(*) > 1) AS twice'),
		0, 'stamps are unique within a collection');
	return;
}
