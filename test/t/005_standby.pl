# Downloads from a hot standby lose nothing, and neither does its promotion.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use List::Util qw(max);
use PostgreSQL::Test::Cluster;
use Storable qw(nstore retrieve);
use Test::More;
use Time::HiRes qw(sleep time);

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
	catch_up();
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
		catch_up();
		is_deeply([ $reader->settled($kind) ], [], "an older transaction $kind holds a document back on a standby");
		is_deeply([ $writer->settled($kind) ], [ @own ? () : 'document' ],
			@own ? 'and on the primary' : 'though not on the primary');

		$older->do(@$end);
		catch_up();
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
	catch_up();

	my $replica = DocsyncTest::Replica->new(collection => 'unheard');
	$replica->catch_up($reader);
	ok(!$replica->{documents}{after},
		'an older stamp holds a document back on a standby, though no WAL has come of its transaction');

	$lock->do('SELECT pg_advisory_unlock(1)');
	$early->finish;
	$early->do('COMMIT');
	catch_up();
	$replica->catch_up($reader);
	$replica->compare($reader);
	is_deeply([ $replica->faults ], [], 'and the reader loses nothing');
	return;
}

sub refusals
{
}

sub promotion_under_load
{
}

# Waits until the standby has replayed all that the primary has written.
sub catch_up
{
	my $end = $writer->value('SELECT pg_current_wal_insert_lsn()');

	wait_for('the standby', sub { $reader->value('SELECT pg_last_wal_replay_lsn() >= ?::pg_lsn', $end) });
	return;
}
