# Servers with docsync, and concurrent sessions.
#
# The sessions use DBI, not psql: a reader that polls some thousand times a
# second meets races that one with ten polls a second would meet once in a year.
#
# Processes that a test forks must end by POSIX::_exit(): the END blocks of
# PostgreSQL::Test would stop the servers.

package DocsyncTest;

use strict;
use warnings;

use Cwd qw(abs_path);
use DBI;
use Exporter 'import';
use File::Basename qw(dirname);
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use DocsyncTest::CollectionsReplica;
use DocsyncTest::Listener;
use DocsyncTest::Load;
use DocsyncTest::Replica;
use DocsyncTest::CursorReplica;
use DocsyncTest::Session;

# From PostgreSQL 19 on PostgreSQL::Test::Utils takes any die for the end of the
# test, even that of a statement handle whose server has been killed.
INIT
{
	$SIG{__DIE__} = 'DEFAULT';    ## no critic (it is for all of the test)
}

our @EXPORT = qw(
  new_node
  new_server
  old_node
  bindir
  is_same_version
  server_options
  add_build
  add_jitter
  connect_to
  crash
  document
  in_child
  replayed
  touch
  wait_for
);

# Settings of all servers that Debian's default doesn't have.
my $SETTINGS = <<'END';
autovacuum_naptime = 1s
deadlock_timeout = 50ms
log_statement = none
max_connections = 50
max_prepared_transactions = 20
shared_buffers = 32MB
timezone = UTC
END

# A running server with the extension.  Options: those of
# PostgreSQL::Test::Cluster->init, and conf, text for postgresql.conf.
sub new_node
{
	my $node = new_server(@_);

	$node->safe_psql('postgres', 'CREATE EXTENSION docsync; SELECT docsync_create_store()');
	return $node;
}

# The same without the extension.  One more option: install_path, the server's
# installation.
sub new_server
{
	my ($name, %options) = @_;
	my $conf = delete $options{conf} // '';
	my $node = PostgreSQL::Test::Cluster->new($name, delete %options{install_path});

	$node->init(allows_streaming => 1, %options);
	$node->append_conf('postgresql.conf', $SETTINGS . $conf);

	# PostgreSQL::Test::Cluster 18 and later pass these to older servers, too
	$node->adjust_conf('postgresql.conf', 'autovacuum_worker_slots', undef) if $node->install_path;
	$node->start;
	return $node;
}

# A server that a store moves from.  DOCSYNC_OLD_PG_CONFIG names the pg_config of
# an older PostgreSQL that has docsync; without it the server has the version
# being tested.
sub old_node
{
	my ($name, %options) = @_;

	note 'from the same version: DOCSYNC_OLD_PG_CONFIG, an older pg_config, is not given' if is_same_version();
	$options{install_path} = dirname(dirname(abs_path($ENV{DOCSYNC_OLD_PG_CONFIG}))) if !is_same_version();
	return new_server($name, extra => [ server_options() ], %options);
}

# Where a node's programs are
sub bindir
{
	my ($node) = @_;

	return ($node->config_data('--bindir'))[0];
}

sub is_same_version { return !$ENV{DOCSYNC_OLD_PG_CONFIG} }

# Options whose defaults in initdb have changed, and which pg_upgrade wants to be
# the same
sub server_options { return qw(--data-checksums --encoding=UTF8 --locale=C.UTF-8) }

# Makes a node use a docsync compiled with test/jitter.h instead of the
# installed one.
sub add_jitter
{
	my ($node) = @_;

	return add_build($node, '-include', test_dir() . '/jitter.h');
}

# Makes a node use a docsync compiled with the given flags.  Sessions that have
# loaded another one keep that.
sub add_build
{
	my ($node, @flags) = @_;
	my $library = PostgreSQL::Test::Utils::tempdir() . '/docsync.so';
	my ($cc, $include) = map { run_pg_config($_) } '--cc', '--includedir-server';

	system_or_bail(split(' ', $cc), qw(-O1 -fPIC -shared), @flags,
		"-I$include", '-o', $library, glob test_dir() . '/../src/*.c');
	$node->safe_psql('postgres',
		"UPDATE pg_proc SET probin = '$library' WHERE probin = '\$libdir/docsync'");

	# The announcer has it by its name.
	$node->append_conf('postgresql.conf', "dynamic_library_path = '" . dirname($library) . ":\$libdir'\n");
	$node->reload;
	return;
}

sub test_dir { return dirname(dirname(dirname(__FILE__))) }

sub run_pg_config
{
	my ($option) = @_;

	chomp(my $value = `pg_config $option`);
	return $value;
}

sub connect_to
{
	my ($node, $database) = @_;

	return DocsyncTest::Session->new($node, $database // 'postgres');
}

# Kills a server and all its processes, and starts it again.  Killing only the
# postmaster isn't enough: its children would finish their work.
#
# Orphans may not be reaped at once, so zombies count as dead, and the lock
# files must be removed before the server looks for the process named in them.
sub crash
{
	my ($node, $before_start) = @_;
	my $lock_file = $node->data_dir . '/postmaster.pid';
	my ($postmaster) = split /\n/, slurp_file($lock_file);
	my @children = split ' ', `ps -o pid= --ppid $postmaster`;

	kill STOP => $postmaster;    # so that it doesn't notice
	kill KILL => @children;
	$node->kill9;
	wait_for('the server to die', sub { !grep { is_alive($_) } $postmaster, @children });
	unlink $lock_file, sprintf '%s/.s.PGSQL.%d.lock', $node->host, $node->port;
	$before_start->() if $before_start;
	$node->start;
	return;
}

sub is_alive
{
	my ($pid) = @_;

	open my $stat, '<', "/proc/$pid/stat" or return 0;
	return (<$stat> // '') =~ /\) [^ZX]/;
}

# A document as docsync_upsert takes it.  No module for JSON: this is called
# some ten thousand times a second.
sub document
{
	my ($id, $version, $body) = @_;

	return sprintf '{"id": "%s", "clientVersion": %d, %s}', $id, $version,
	  defined $body ? qq("body": $body) : '"deleted": true';
}

# Runs code in a separate process and returns its pid.  The process ends with
# status 0 if the code doesn't die.
sub in_child
{
	my ($code) = @_;

	STDOUT->flush;
	STDERR->flush;
	my $pid = fork // die "fork: $!";
	return $pid if $pid;

	eval { $code->(); 1 } and POSIX::_exit(0);
	print STDERR "# process $$: $@";
	POSIX::_exit(1);
}

# Waits until a standby has replayed everything that its primary has written.
# WAL that no commit has flushed, for example for pages pruned by a reader, may
# be sent up to 15 s later; so commit first.
sub replayed
{
	my ($primary, $standby) = @_;
	my $end = $primary->value(q{SELECT pg_logical_emit_message(true, '', '')});

	return wait_for('the standby',
		sub { $standby->value('SELECT pg_last_wal_replay_lsn() >= ?::pg_lsn', $end) });
}

# Makes an empty file, a flag for other processes.
sub touch
{
	my ($path) = @_;

	open my $file, '>', $path or die "$path: $!";
	return;
}

# Waits until code returns true; dies, naming what it waited for, if that takes
# too long.
sub wait_for
{
	my ($what, $code) = @_;
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;

	until ($code->())
	{
		die "timed out waiting for $what" if time > $end;
		sleep 0.005;
	}
	return 1;
}

1;
