# A transaction that is in the middle of committing still holds back later
# documents.
#
# At commit a writer first writes its commit record, then leaves the set of
# running transactions, and then releases its locks, including the marks.
# Waiting for a synchronous standby that doesn't exist stops it after the first
# step: it is still in the set, so for readers it is running, and its documents
# can't be seen.  If its mark were gone, readers would take it for a transaction
# that has no stamps, move on to later documents, and never come back for its
# own.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use Test::More;

my $node = new_node('pauses');

$node->append_conf('postgresql.conf', "synchronous_standby_names = 'nobody'\n");
$node->reload;

my ($late, $reader) = map { connect_to($node) } 1 .. 2;
$late->do('SET synchronous_commit = local');
$reader->do('SET synchronous_commit = local');
wait_for('the configuration', sub { $reader->value('SHOW synchronous_standby_names') eq 'nobody' });

my $upload = "SELECT docsync_upsert('c', '[@{[document('first', 1, 1)]}]', '%s')";

committing('COMMIT', 'BEGIN', sprintf($upload, 'COMMIT'), 'COMMIT');
committing('a commit of its own', sprintf($upload, 'a commit of its own'));
committing('PREPARE', 'BEGIN', sprintf($upload, 'PREPARE'), "PREPARE TRANSACTION 'p'");
committing('COMMIT of a subtransaction', 'BEGIN', 'SAVEPOINT s', sprintf($upload, 'COMMIT of a subtransaction'),
	'RELEASE s', 'COMMIT');
committing_prepared();
committing_many_collections();
purge_during_a_sync($_) for 'false', 'true';
done_testing();

#-----------------------------------------------------------------------------

# The last of the commands waits for the standby.
sub committing
{
	my ($kind, @commands) = @_;
	my $last = pop @commands;
	my $writer = connect_to($node);
	my $replica = DocsyncTest::Replica->new(collection => $kind);

	$writer->do(@commands);
	waits($writer, $last);
	$late->upload('c', $kind, document('second', 1, '1'));
	is_deeply([ $reader->settled($kind) ], [], "$kind: what is committing holds back later documents");
	$replica->catch_up($reader);

	goes_on($writer);
	if ($kind eq 'PREPARE')
	{
		$replica->catch_up($reader);
		is_deeply([ keys %{ $replica->{documents} } ], [], "$kind: and when it has been prepared");
		$reader->do("COMMIT PREPARED 'p'");
	}
	is_deeply([ $reader->settled($kind) ], [ 'first', 'second' ], "$kind: and no longer when it has committed");
	$replica->catch_up($reader);
	$replica->compare($reader);
	is_deeply([ $replica->faults ], [], "$kind: nothing is lost");
	return;
}

sub committing_prepared
{
	my $kind = 'COMMIT PREPARED';

	$late->do('BEGIN', sprintf($upload, $kind), "PREPARE TRANSACTION 'p'");
	committing($kind, "COMMIT PREPARED 'p'");
	return;
}

# More collections than are marked one by one
sub committing_many_collections
{
	committing('many', 'BEGIN', (map { sprintf $upload, "many-$_" } 1 .. 80), sprintf($upload, 'many'), 'COMMIT');
	return;
}

# A sync first uploads, which may take some time, and then downloads: it must
# not take what is purged in between as never having existed.
sub purge_during_a_sync
{
	my ($reconcile) = @_;
	my ($client, $other) = map { connect_to($node) } 1 .. 2;
	my $collection = "sync, reconcile $reconcile";

	$_->do('SET synchronous_commit = local') for $client, $other;
	$other->upload('o', $collection, document('contended', 1, '1'), document('newest', 1, '1'), document('purged', 1, '1'));
	my $cursor = $client->pull('c', undef, $collection)->{cursor};

	# The newest tombstone stays.
	$other->do(map { "DELETE FROM docsync.document WHERE collection = '$collection' AND id = '$_'" } qw(purged newest));
	$other->do('BEGIN');
	$other->upload('o', $collection, document('contended', 2, '2'));
	waits($client, "SELECT set_config('test.got', docsync_sync('c', '[@{[document('contended', 3, 3)]}]', '$cursor', '$collection',
		reconcile => $reconcile)::text, false)", 'transactionid');
	is($late->value("CALL docsync_purge('0', '$collection')"), 1, 'a purge while a client uploads');
	$other->do('COMMIT');

	if ($reconcile eq 'true')
	{
		$client->finish;
		like($client->value("SELECT current_setting('test.got')"), qr/"outcome":"updated".*"reconcile":true,"lostAfter":null/s,
			'the client is told to compare');
		return;
	}
	ok(!eval { $client->finish; 1 }, 'a client whose tombstones are purged while it uploads is refused');
	is($client->dbh->state, '55000', 'to start again');
	return;
}

# Starts a command, which is expected to wait, for the standby unless something
# else is named.
sub waits
{
	my ($session, $command, $for) = @_;

	$session->start($command);
	return wait_for('the wait',
		sub { ($reader->value('SELECT wait_event FROM pg_stat_activity WHERE pid = ?', $session->pid) // '') eq ($for // 'SyncRep') });
}

# A session cancelled there has committed all the same, and is told so.
sub goes_on
{
	my ($session) = @_;

	local $SIG{__WARN__} = sub { };
	$reader->value('SELECT pg_cancel_backend(?)', $session->pid);
	$session->finish;
	return;
}
