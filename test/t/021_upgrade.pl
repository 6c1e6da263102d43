# A store that was handed over moves while clients are working: by pg_upgrade, by
# a dump, by promotion of a standby, by a template.  From an older PostgreSQL, if
# one is given, or to another server of the same version.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use DocsyncTest::Movers;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();

upgraded('copy');
upgraded('link', '--link');
dumped();
if (is_same_version())
{
	promoted();
	copied();
}
done_testing();

#-----------------------------------------------------------------------------

# Some minor releases store a parameter with each column that keeps pg_upgrade
# from upgrading to certain releases of a later major version
# (doc/operations.md).  The parameter is removed, to test the rest.
sub without_column_versions
{
	my ($old, $new) = @_;

	$new->start;
	my $knows = connect_to($new)->sqlstate_of('CREATE TEMP TABLE t AS SELECT 1 AS c; ALTER TABLE t ALTER c SET (pg_attver = 1)') eq '';
	$new->stop;
	return if $knows;
	note 'the new server does not know pg_attver';
	$old->safe_psql($_, 'SET allow_system_table_mods = on; UPDATE pg_attribute SET attoptions = NULL WHERE attoptions::text ~ \'pg_attver\'')
	  for 'postgres', 'template1';
	return;
}

sub upgraded
{
	my ($name, @options) = @_;
	my $old = old_node("old_$name");
	my $new = PostgreSQL::Test::Cluster->new("new_$name");
	my $clients = DocsyncTest::Movers->new($old);

	$clients->hand_over;
	$new->init(allows_streaming => 1, extra => [ server_options() ]);
	without_column_versions($old, $new);
	$old->stop;
	chdir $dir or die "$dir: $!";
	ok(run_log([ 'pg_upgrade', @options, '-b', bindir($old), '-B', bindir($new), '-d', $old->data_dir, '-D', $new->data_dir,
			'-p', $old->port, '-P', $new->port, '-s', $old->host ]), "pg_upgrade, $name") or die;
	chdir $FindBin::RealBin . '/../..' or die $!;
	$new->start;

	my $standby = standby_of($new, "standby_$name");
	connect_to($new)->do('SELECT docsync_take_over()');
	$clients->have_moved("pg_upgrade, $name", $new, $standby);
	$_->stop for $standby, $new;
	return;
}

# Without docsync_take_over(): the first upload does it.
sub dumped
{
	my $old = old_node('old_dump');
	my $new = new_server('new_dump');
	my $standby = standby_of($new, 'standby_dump');
	my $clients = DocsyncTest::Movers->new($old);

	DocsyncTest::Movers::make_roles($new);
	$clients->hand_over;
	system_or_bail(bindir($old) . '/pg_dump', '-Fc', '-f', "$dir/dump", '-d', $old->connstr('postgres'));
	$old->stop;
	ok(run_log([ 'pg_restore', '--exit-on-error', '-d', $new->connstr('postgres'), "$dir/dump" ]), 'dump: restored') or die;
	is(join(' ', map { $_->{outcome} } connect_to($new)->upload('laptop', 'else', document('first', 1, '1'))), 'created', 'dump: an upload');
	my $session = connect_to($new);
	$session->do('SELECT docsync_take_over()', 'SET session_replication_role = replica', "DELETE FROM docsync.document WHERE collection = 'else'");
	$clients->have_moved('dump', $new, $standby);
	$_->stop for $standby, $new;
	return;
}

sub standby_of
{
	my ($node, $name) = @_;
	my $standby = PostgreSQL::Test::Cluster->new($name);

	$node->backup('base');
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->start;
	return $standby;
}

# On purpose
sub promoted
{
	my $old = old_node('primary');
	my $new = standby_of($old, 'standby');
	my $clients = DocsyncTest::Movers->new($old);

	$clients->hand_over;
	replayed(connect_to($old), connect_to($new));
	$new->promote;
	$old->stop;
	connect_to($new)->do('SELECT docsync_take_over()');
	$clients->have_moved('promotion', $new);
	$new->stop;
	return;
}

# One copy of a store takes it over, and the other one doesn't; if it wasn't
# handed over, no copy does.
sub copied
{
	my $node = new_server('copies');
	my $session = connect_to($node);

	$session->do('CREATE DATABASE original');
	my $clients = DocsyncTest::Movers->new($node, database => 'original');
	$clients->session->close;
	$session->do('CREATE DATABASE before TEMPLATE original');
	my $before = connect_to($node, 'before');
	is($before->sqlstate_of('SELECT docsync_take_over()'), '55000', 'a copy of what was not handed over does not take it over');
	$clients->{session} = connect_to($node, 'original');
	$clients->hand_over;

	$session->do("CREATE DATABASE $_ TEMPLATE original") for 'copy1', 'copy2';
	for my $database ('copy1', 'copy2')
	{
		$clients->{database} = $database;
		connect_to($node, $database)->do('SELECT docsync_take_over()');
		$clients->have_moved("template, $database", $node);
	}
	my ($copy1, $copy2, $original) = map { connect_to($node, $_) } 'copy1', 'copy2', 'original';
	my %cursors = map { $_->[0] => $_->[1]->pull('phone', undef, 'anna')->{cursor} } [ copy1 => $copy1 ], [ copy2 => $copy2 ];
	is($copy1->sqlstate_of("SELECT docsync_pull('phone', '$cursors{copy2}', 'anna')"), '55000', "a copy's cursors are not the other's");
	is($copy2->sqlstate_of("SELECT docsync_pull('phone', '$cursors{copy1}', 'anna')"), '55000', 'neither way');
	is($original->sqlstate_of("SELECT docsync_pull('phone', '$cursors{copy1}', 'anna')"), '55000', "nor the original's");
	is($original->sqlstate_of('SELECT docsync_take_over()'), '55000', 'the original has been handed over');
	like($original->errstr, qr/docsync_new_epoch/, 'and says how it would go on');
	is($original->sqlstate_of("INSERT INTO docsync.document (id, body) VALUES ('d', '1')"), '55000', 'and is written no more');
	$node->stop;
	return;
}
