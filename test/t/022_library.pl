# The library is replaced while a server is running, as make install does it: by
# another file with the same name.  Sessions that have loaded it keep the old one,
# whatever they are doing, new ones load the new one, and both work side by side.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use File::Copy qw(copy);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('primary');
my $library = PostgreSQL::Test::Utils::tempdir() . '/docsync.so';
my ($installed) = map { "$_/docsync.so" } $node->config_data('--pkglibdir');

# Not the server's own file, which a test must not replace
install_library();
$node->safe_psql('postgres', "UPDATE pg_proc SET probin = '$library' WHERE probin = '\$libdir/docsync'");

my ($old, $in_flight, $idle) = map { connect_to($node) } 1 .. 3;
my $cursor;

replaced_under_sessions();
update_while_they_are_open();
replaced_under_load();
done_testing();

#-----------------------------------------------------------------------------

# As install(1) does it: a new file replaces the old one.
sub install_library
{
	copy($installed, "$library.new") or die "$installed: $!";
	chmod 0755, "$library.new";
	rename "$library.new", $library or die $!;
	return;
}

# Does a session have the old file?
sub has_old_library
{
	my ($session) = @_;
	my @lines = grep { m{\Q$library\E} } split /\n/, slurp_file('/proc/' . $session->pid . '/maps');

	return undef if !@lines;
	return scalar(grep { /\(deleted\)$/ } @lines) > 0 ? 1 : 0;
}

sub replaced_under_sessions
{
	$old->upload('c', 'a', document('before', 1, '1'));
	$cursor = $old->pull('r', undef, 'a')->{cursor};
	$in_flight->do('BEGIN');
	$in_flight->upload('c', 'a', document('in flight', 1, '1'));
	$idle->value('SELECT 1');
	install_library();

	my $new = connect_to($node);
	$new->upload('c', 'a', document('by a new session', 1, '1'));
	$idle->upload('c', 'a', document('by an idle session', 1, '1'));
	$old->upload('c', 'a', document('by an old session', 1, '1'));
	is_deeply([ map { has_old_library($_) } $old, $in_flight, $new, $idle ], [ 1, 1, 0, 0 ], 'sessions keep what they have loaded');

	# Open transactions hold back readers with either library.
	is_deeply([ map { join ' ', $_->settled('a') } $old, $new, $idle ], [ ('before') x 3 ], 'an upload in flight is seen by all');
	$in_flight->upload('c', 'a', document('in flight, too', 1, '1'));
	$in_flight->do('COMMIT');
	my @all = ('in flight', 'by a new session', 'by an idle session', 'by an old session', 'in flight, too');
	for my $session ($old, $in_flight, $new, $idle)
	{
		is_deeply([ map { $_->{id} } @{ $session->pull('r', $cursor, 'a')->{documents} } ], \@all, 'and gets all, by a cursor of before');
	}

	# A function that the session hasn't called before
	is($old->sqlstate_of(q{SELECT docsync_docs_get('{"clientId": "r", "collection": "a", "ids": ["before"]}')}), '', 'an old session calls what it has not called before');
	is($old->sqlstate_of('SELECT docsync_docs_reconcile(\'{"clientId": "r", "collection": "a"}\')'), '', 'and more of it');
	return;
}

# An update of the extension during an upload waits for that, and then sessions
# use what the update has made.
sub update_while_they_are_open
{
	my $admin = connect_to($node);

	$in_flight->do('BEGIN');
	$in_flight->upload('c', 'a', document('during the update', 1, '1'));
	$admin->do('BEGIN');
	$admin->do(map { s/CREATE FUNCTION/CREATE OR REPLACE FUNCTION/r } $admin->column(
		q{SELECT pg_get_functiondef(p.oid) FROM pg_proc AS p JOIN pg_depend AS d ON (d.classid, d.objid) = ('pg_proc'::regclass, p.oid)
		   WHERE d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'docsync')}));
	$admin->start('ALTER TABLE docsync.document ADD added int DEFAULT 7');
	wait_for('the update', sub { $old->value('SELECT count(*) FROM pg_stat_activity WHERE pid = ? AND wait_event_type = ?', $admin->pid, 'Lock') });
	$in_flight->upload('c', 'a', document('during it, too', 1, '1'));
	$in_flight->do('COMMIT');
	$admin->finish;
	$admin->do('COMMIT');
	for my $session ($old, $in_flight, $idle, connect_to($node))
	{
		is(join(' ', map { $_->{outcome} } $session->upload('c', 'a', document('after ' . $session->pid, 1, '1'), document('before', 1, '1'))),
			'created unchanged', 'after an update a session goes on');
		cmp_ok(scalar @{ $session->pull('r', $cursor, 'a')->{documents} }, '>', 7, 'and reads');
	}
	is($admin->value('SELECT string_agg(DISTINCT added::text, \' \') FROM docsync.document'), '7', 'what has been added is there');
	return;
}

# Under load, with sessions that come and go
sub replaced_under_load
{
	my $load = DocsyncTest::Load->new('load');

	$load->start_writer($node) for 1 .. 2;
	$load->start_reader($node, class => 'DocsyncTest::CursorReplica');
	for my $round (1 .. 5)
	{
		install_library();
		my $new = connect_to($node);
		$new->upload('c', 'load', document("round $round", 1, '1'));
		wait_for('documents', sub { $new->value("SELECT count(*) FROM docsync.document WHERE collection = 'load'") > 20 * $round });
		$new->close;
	}
	$load->finish;
	return;
}
