# What lost is kept, across sessions, a dump, a crash, a store that is handed
# over; and docsync_erase, ended in the midst and beside writers.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main');
my $owner = connect_to($node);
my $session = connect_to($node);
my $RECORD = 'SELECT collection, id, client_version, client_id, deleted, body, why, recorded_utc FROM docsync.record ORDER BY 1, 2, recorded_utc';

rules_are_heard();
crash_keeps_both();
dump_and_restore();
handed_over();
erase_is_ended();
erase_beside_writers();
$node->stop;
done_testing();

#-----------------------------------------------------------------------------

sub outcome { return ($_[0]->upload(@_[ 1 .. $#_ ]))[0]{outcome} }

sub count { return $_[0]->value("SELECT count(*) FROM docsync.record WHERE $_[1]") }

# Sessions that have read the rules read them again when another one has
# committed a change: that, and not earlier.
sub rules_are_heard
{
	is(outcome($session, 'c', 'heard', document('d', 5, '5')), 'created', 'before there is a rule');
	$owner->do('BEGIN', "INSERT INTO docsync.keep VALUES ('heard', 'replaced')");
	is(outcome($session, 'c', 'heard', document('d', 6, '6')), 'updated', 'before it is committed');
	$owner->do('COMMIT');
	is(count($session, "collection = 'heard'"), 0, '... nothing is kept');
	outcome($session, 'c', 'heard', document('d', 7, '7'));
	outcome($session, 'c', 'heard', document('d', 1, '1'));
	is(count($session, "collection = 'heard'"), 2, 'then it is, in a session that was there before');
	$owner->do("UPDATE docsync.keep SET keep = 'discarded' WHERE pattern = 'heard'");
	outcome($session, 'c', 'heard', document('d', 8, '8'));
	is(count($session, "collection = 'heard'"), 2, 'but what the rule has been changed to');
	$owner->do("DELETE FROM docsync.keep");
	outcome($session, 'c', 'heard', document('d', 2, '2'));
	is(count($session, "collection = 'heard'"), 2, 'and nothing any more when it has gone');
	return;
}

# A version is in the table or in the record, whatever happens.
sub crash_keeps_both
{
	$owner->do("INSERT INTO docsync.keep VALUES ('%', 'replaced')");
	outcome($session, 'c', 'crash', document('d', 1, '1'));
	outcome($session, 'c', 'crash', document('d', 2, '2'));
	$session->do('BEGIN');
	outcome($session, 'c', 'crash', document('d', 3, '3'));
	$_->close for $session, $owner;
	crash($node);
	$owner = connect_to($node);
	$session = connect_to($node);
	is_deeply($owner->rows("SELECT client_version, body FROM docsync.document WHERE collection = 'crash'"), [ [ 2, '2' ] ], 'what was committed before a crash');
	is_deeply($owner->rows("SELECT client_version, body FROM docsync.record WHERE collection = 'crash'"), [ [ 1, '1' ] ], '... and what it had replaced');
	return;
}

# Rules, record and policies come along.
sub dump_and_restore
{
	my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';

	$owner->do('CREATE ROLE tenant', 'GRANT USAGE ON SCHEMA docsync TO tenant', 'GRANT SELECT ON docsync.record TO tenant',
		q{CREATE POLICY tenant ON docsync.record TO tenant USING (collection = 'crash')});
	system_or_bail('pg_dump', '-Fc', '-f', $dump, $node->connstr('postgres'));
	$owner->do('CREATE DATABASE restored');
	system_or_bail('pg_restore', '--exit-on-error', '-d', $node->connstr('restored'), $dump);

	my $restored = connect_to($node, 'restored');
	is_deeply($restored->rows($RECORD), $owner->rows($RECORD), 'the record is restored');
	is_deeply($restored->rows('SELECT * FROM docsync.keep'), [ [ '%', 'replaced', 10 ] ], '... and the rules');
	$restored->do('SET ROLE tenant');
	is_deeply([ $restored->column('SELECT DISTINCT collection FROM docsync.record') ], ['crash'], '... and who may read it');
	$restored->do('RESET ROLE');
	ok($restored->value("SELECT relrowsecurity FROM pg_class WHERE oid = 'docsync.record'::regclass"), '... and row-level security');
	outcome($restored, 'c', 'crash', document('d', 3, '3'));
	is(count($restored, "collection = 'crash'"), 2, '... which hold there');
	ok($restored->value("SELECT docsync_restore('crash', 'd', 1) > 3"), '... and what was dumped can be brought back');
	$restored->do('DELETE FROM docsync.keep');
	outcome($restored, 'c', 'crash', document('d', 1, '3'));
	is(count($restored, "collection = 'crash'"), 3, 'its trigger is there, too');
	$restored->close;
	return;
}

# Nothing gets into the record behind the row by which a store is handed over.
sub handed_over
{
	my $other = connect_to($node, 'restored');
	my $writer = connect_to($node, 'restored');

	$other->do("INSERT INTO docsync.keep VALUES ('kept', 'discarded')");
	outcome($writer, 'c', $_, document('d', 5, '5')) for 'kept', 'not kept';
	$writer->do('BEGIN');
	is(outcome($writer, 'c', 'kept', document('d', 1, '1')), 'discarded', 'discarded, in a transaction that is under way');
	$other->start('SELECT docsync_hand_over()');
	my $monitor = connect_to($node, 'restored');
	wait_for('the lock', sub { $monitor->value("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") > 0 });
	ok(!$other->is_ready, '... is waited for by who hands over');
	$writer->do('COMMIT');
	$other->finish;
	is(count($other, "collection = 'kept'"), 1, '... and is kept');
	is($writer->sqlstate_of(q{SELECT docsync_upsert('c', '[{"id": "d", "clientVersion": 2, "body": 2}]', 'kept')}), '55000', 'afterwards what is to be kept is refused');
	is(outcome($writer, 'c', 'not kept', document('d', 1, '1')), 'discarded', '... and what is not is discarded');
	is(count($other, "collection = 'kept'"), 1, 'nothing more is in the record');
	$_->close for $other, $writer, $monitor;
	return;
}

# Ended in the midst: what is done is done, the rest is found by the next call,
# and readers are given all of it at any time.
sub erase_is_ended
{
	my @ids = map { "d$_" } 1 .. 10_000;
	my $reader = DocsyncTest::CursorReplica->new(collection => 'erased/one', max_documents => 5000);

	for my $version (1, 2)
	{
		$session->upload('c', 'erased/one', map { document($_, $version, qq("$version")) } @ids);
	}
	$session->upload('c', 'erased/two', document('d', 1, '1'));
	$session->upload('c', 'stays', document('d', 1, '1'));
	$reader->catch_up($session);

	my $eraser = connect_to($node);
	my $calls = 0;
	for my $left (9_000, 5_000, 100)
	{
		$eraser->start("CALL docsync_erase('erased/%')");
		wait_for('a part of it', sub { $eraser->is_ready || $owner->value("SELECT count(*) FROM docsync.document WHERE collection = 'erased/one' AND NOT deleted") < $left });
		$owner->value('SELECT pg_terminate_backend(?, 10000)', $eraser->pid);
		eval { $eraser->finish };
		$eraser->close;
		$calls++;
		$eraser = connect_to($node);
	}
	cmp_ok($calls, '==', 3, 'ended three times');
	$eraser->do("CALL docsync_erase('erased/%')");
	is($owner->value("SELECT count(*) FROM docsync.document WHERE collection LIKE 'erased/%' AND id <> 'docsync:erased'"), 0, 'nothing is left in the end');
	is(count($owner, "collection LIKE 'erased/%'"), 0, '... nor in the record');
	is($owner->value("SELECT string_agg(DISTINCT client_id, ',') FROM docsync.purged WHERE collection LIKE 'erased/%'"), '', '... nor who had written it');
	is($owner->value("SELECT count(*) FROM docsync.document WHERE collection = 'stays'"), 1, 'others stay');
	is($owner->value("SELECT (docsync_pull(?, ?, 'erased/one', ?, reconcile => true)::jsonb ->> 'reconcile')", @$reader{qw(client_id cursor origin)}), 'true', 'who had it all is told');
	is($owner->value('SELECT count(*) FROM docsync.document WHERE deleted AND body IS NOT NULL'), 0, 'no body is left in a tombstone');
	$eraser->close;
	return;
}

# Who has written to the collection, and not ended, holds tombstones back for as
# long; and what comes meanwhile isn't looked for for ever.
sub erase_beside_writers
{
	my $writer = connect_to($node);
	my $notice = '';

	$session->upload('c', 'busy', map { document("d$_", 1, '1') } 1 .. 100);
	$writer->do('BEGIN');
	$writer->upload('w', 'busy', document('w', 1, '1'));
	local $SIG{__WARN__} = sub { $notice .= $_[0] };
	$owner->dbh->{PrintWarn} = 1;
	$owner->do("CALL docsync_erase('busy')");
	like($notice, qr/some tombstones could not be removed yet/, 'a writer holds them back, which is said');
	is($owner->value("SELECT count(*) FROM docsync.document WHERE collection = 'busy' AND (body IS NOT NULL OR NOT deleted)"), 0, '... the bodies have gone');
	cmp_ok($owner->value("SELECT count(*) FROM docsync.document WHERE collection = 'busy'"), '>', 1, '... not the tombstones');
	$writer->do('COMMIT');
	$notice = '';
	$owner->do("CALL docsync_erase('busy')");
	is($notice, '', 'then they go');
	is($owner->value("SELECT string_agg(id, ' ') FROM docsync.document WHERE collection = 'busy'"), 'docsync:erased', '... with what had been written since');

	my $pid = in_child(sub {
		my $child = connect_to($node);
		for my $n (1 .. 3000)
		{
			$child->upload('w', 'busy', document("n$n", 1, '1'));
		}
		POSIX::_exit(0);
	});
	wait_for('the first', sub { $owner->value("SELECT count(*) FROM docsync.document WHERE collection = 'busy'") > 100 });
	$owner->do("CALL docsync_erase('busy')");
	pass('it comes to an end while others write');
	waitpid $pid, 0;
	$owner->do("CALL docsync_erase('busy')");
	is($owner->value("SELECT string_agg(id, ' ') FROM docsync.document WHERE collection = 'busy'"), 'docsync:erased', '... and the next call takes the rest');
	$writer->close;
	return;
}
