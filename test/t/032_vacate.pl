# Databases with an announcer are dropped, renamed, moved and copied, where docsync is preloaded, by those who may.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = new_node('vacate', conf => <<'END');
docsync.announce = on
log_line_prefix = '%m [%p] %b '
shared_preload_libraries = 'pg_stat_statements, docsync'
END
my $admin = connect_to($node);
my $is_docsyncs_task = $admin->value('SHOW server_version_num') < 190000;    # from 19 on the server does it
my $count = 0;

$admin->do('CREATE ROLE stranger LOGIN CREATEDB', 'CREATE ROLE tenant LOGIN CREATEDB', 'CREATE EXTENSION pg_stat_statements');
make_database('app');

those_who_may_not();
where_it_is_refused();
renamed();
copied();
put_elsewhere();
failed();
stopped();
dropped_by_its_owner();
hooks_of_others();
none_begins_again();
dropped_at_once();
done_testing();

#-----------------------------------------------------------------------------

sub announcer
{
	my ($database) = @_;

	return $admin->value("SELECT max(pid) FROM pg_stat_activity WHERE backend_type = 'docsync announcer' AND datname = ?", $database);
}

# Uploads something in a session of its own.
sub upload
{
	my ($database) = @_;
	my $session = connect_to($node, $database);
	my $pid = $session->pid;

	$session->upload('c', 'a', document('d' . ++$count, 1, 1));
	$session->close;
	wait_for('the session to end', sub { !$admin->value('SELECT count(*) FROM pg_stat_activity WHERE pid = ?', $pid) });
	return;
}

# Does an upload start an announcer?
sub begins
{
	my ($database, $name) = @_;

	upload($database);
	return ok(wait_for('an announcer', sub { announcer($database) }), $name);
}

# A database in which something has been uploaded
sub make_database
{
	my ($name) = @_;
	my $session;

	$admin->do("CREATE DATABASE $name");
	$session = connect_to($node, $name);
	$session->do('CREATE EXTENSION docsync', 'SELECT docsync_create_store()');
	$session->close;
	begins($name, "$name has an announcer");
	return;
}

# Nobody ends the announcer who couldn't do so by docsync_announce_stop().
sub those_who_may_not
{
	my $pid = announcer('app');

	$admin->do('SET ROLE stranger');
	is($admin->sqlstate_of($_), '42501', "$_ by a stranger")
	  for 'DROP DATABASE app', 'ALTER DATABASE app RENAME TO mine', 'ALTER DATABASE app SET TABLESPACE pg_default', 'CREATE DATABASE mine TEMPLATE app';
	$admin->do('RESET ROLE');
	is(announcer('app'), $pid, 'leaves the announcer alone');
	return;
}

# Commands that are refused whoever is connected
sub where_it_is_refused
{
	my $pid = announcer('app');

	$admin->do('BEGIN');
	is($admin->sqlstate_of('DROP DATABASE app'), '25001', 'DROP DATABASE in a transaction block');
	$admin->do('ROLLBACK', 'BEGIN READ ONLY');
	is($admin->sqlstate_of('ALTER DATABASE app RENAME TO other'), '25006', 'ALTER DATABASE in a transaction that is read-only');
	$admin->do('ROLLBACK');
	is($admin->sqlstate_of('ALTER DATABASE app CONNECTION LIMIT 50'), '', 'another command');
	is($admin->sqlstate_of('DROP DATABASE nowhere'), '3D000', 'a database that is not there');
	is($admin->sqlstate_of('DROP DATABASE IF EXISTS nowhere'), '', 'IF EXISTS');
	is(announcer('app'), $pid, 'all leave the announcer alone');
	return;
}

sub renamed
{
	is($admin->sqlstate_of('ALTER DATABASE app RENAME TO renamed'), '', 'a database that has an announcer is renamed');
	begins('renamed', 'then an upload starts another');
	$admin->do('BEGIN', 'ALTER DATABASE renamed RENAME TO app');
	sleep 1.5;
	is(announcer('app'), undef, 'none is there until that is committed');
	$admin->do('COMMIT');
	begins('app', 'then an upload starts it');
	return;
}

sub copied
{
	is($admin->sqlstate_of('CREATE DATABASE copy TEMPLATE app'), '', 'a database that has an announcer is copied');
	begins($_, "then an upload to $_ starts one") for 'app', 'copy';
	return;
}

sub put_elsewhere
{
	$admin->do('SET allow_in_place_tablespaces = on', q{CREATE TABLESPACE elsewhere LOCATION ''});
	is($admin->sqlstate_of('ALTER DATABASE copy SET TABLESPACE elsewhere'), '', 'a database that has an announcer is moved to another tablespace');
	begins('copy', 'then an upload starts it');
	return;
}

# A command that fails because of somebody else
sub failed
{
	my $session = connect_to($node, 'copy');

	is($admin->sqlstate_of('DROP DATABASE copy'), '55006', 'a database that somebody is connected to is not dropped');
	$session->upload('c', 'a', document('failed', 1, 1));
	ok(wait_for('an announcer', sub { announcer('copy') }), 'then an upload starts its announcer again');
	$session->close;
	return;
}

# What docsync_announce_stop() has said holds.
sub stopped
{
	my $session = connect_to($node, 'copy');

	$session->do('SELECT docsync_announce_stop()');
	$session->close;
	is($admin->sqlstate_of('ALTER DATABASE copy RENAME TO other'), '', 'a database whose announcer has been stopped is renamed');
	upload('other');
	sleep 1.2;
	upload('other');
	sleep 0.3;
	is(announcer('other'), undef, 'and it stays stopped');
	$session = connect_to($node, 'other');
	$session->do('SELECT docsync_announce_start()');
	$session->close;
	begins('other', 'until docsync_announce_start()');
	is($admin->sqlstate_of('DROP DATABASE other'), '', 'a database that has an announcer is dropped');
	return;
}

# The announcer is a superuser's process, which FORCE by another role leaves alone: it has to end before.
sub dropped_by_its_owner
{
	for my $command ('DROP DATABASE own', $is_docsyncs_task ? 'DROP DATABASE own WITH (FORCE)' : ())
	{
		make_database('own');
		$admin->do('ALTER DATABASE own OWNER TO tenant', 'SET ROLE tenant');
		is($admin->sqlstate_of($command), '', "$command by its owner");
		$admin->do('RESET ROLE');
	}
	return;
}

sub hooks_of_others
{
	cmp_ok($admin->value("SELECT sum(calls) FROM pg_stat_statements WHERE query = 'DROP DATABASE own'"), '>=', 1, 'other hooks are called');
	return;
}

sub none_begins_again
{
	sleep 2.5;
	unlike(slurp_file($node->logfile), qr/docsync announcer FATAL/, 'no announcer is started for a database that has gone')
	  if $is_docsyncs_task;
	return;
}

# The announcer has been started, and may not have connected yet.
sub dropped_at_once
{
	my @failed;

	for my $n (1 .. 5)
	{
		$admin->do("CREATE DATABASE hasty TEMPLATE app");
		upload('hasty');
		push @failed, "$n: " . $admin->errstr if $admin->sqlstate_of('DROP DATABASE hasty') ne '';
	}
	is_deeply(\@failed, [], 'a database whose announcer is just being started is dropped');
	begins('app', 'the one that it was copied from has one again');
	return;
}
