# Servers with docsync, and sessions side by side.
#
# The sessions are DBI's, not psql's: a reader that polls some thousand times
# a second meets races that one of ten a second would meet once in a year.
#
# Processes that a test forks must end by POSIX::_exit(): the END blocks of
# PostgreSQL::Test would stop the servers.

package DocsyncTest;

use strict;
use warnings;

use DBI;
use Exporter 'import';
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use DocsyncTest::Replica;
use DocsyncTest::Session;

our @EXPORT = qw(
  new_node
  connect_to
  document
  in_child
  wait_for
);

# What all servers have: the settings that Debian's default leaves out.
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
	my ($name, %options) = @_;
	my $conf = delete $options{conf} // '';
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(allows_streaming => 1, %options);
	$node->append_conf('postgresql.conf', $SETTINGS . $conf);
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION docsync');
	return $node;
}

sub connect_to
{
	my ($node, $database) = @_;

	return DocsyncTest::Session->new($node, $database // 'postgres');
}

# A document as docsync_upsert takes it.  No module for JSON: this is called
# some ten thousand times a second.
sub document
{
	my ($id, $version, $body) = @_;

	return sprintf '{"id": "%s", "clientVersion": %d, %s}', $id, $version,
	  defined $body ? qq("body": $body) : '"deleted": true';
}

# Runs code in a process of its own and returns its pid.  The process ends
# with status 0 if the code doesn't die.
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

# Waits until code returns true; dies, naming what it waited for, when it
# takes too long.
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
