# The gateway when PostgreSQL is silent, as when its host is lost or its network
# cut: connections stay open and nothing comes.  The processes of a real server
# are stopped (SIGSTOP).

use strict;
use warnings;

use lib 'test/t/lib';

use HTTP::Tiny;
use IO::Socket::INET;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use DocsyncTest;
use DocsyncTest::Http;

my $ANSWER_WAIT = 3;
my $primary = new_node('primary', allows_streaming => 1);
my $http = DocsyncTest::Http->new($primary, layer => 'gateway', DOCSYNC_ANSWER_WAIT => $ANSWER_WAIT, DOCSYNC_POOL_WAIT => 1);
my %standby = (headers => { 'x-docsync-read' => 'standby' });
my @stopped;

$http->{client} = HTTP::Tiny->new(timeout => 20);
is(upload('a')->{status}, 200, 'a document');
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby, 'replay');

$http->stop_layer;
$http->{env}{DOCSYNC_STANDBY_URI} = DocsyncTest::Http::uri_of($standby, 'gateway');
$http->{env}{DOCSYNC_DATABASE_URI} = sprintf 'postgresql://docsync_gateway@/docsync?host=%s,%s&port=%d,%d', $primary->host, $standby->host, $primary->port, $standby->port;
$http->start_layer;

#-----------------------------------------------------------------------------
# A silent standby: the primary answers in its place
#-----------------------------------------------------------------------------

read_from_standby('a standby');
is(metric('docsync_pool_connections{server="standby"}'), 1, '... to which there is a connection');
silence($standby);
{
	my $begun = time;

	read_from_standby('a silent standby');
	cmp_ok(time - $begun, '>=', $ANSWER_WAIT, '... after it had time to answer');
	is(metric('docsync_pool_connections{server="standby"}'), 0, '... which is left');
	is(metric('docsync_pool_busy{server="standby"}'), 0, '... with nothing that runs on it');
	$begun = time;
	read_from_standby('a standby that can\'t be reached');
	cmp_ok(time - $begun, '<', $ANSWER_WAIT, '... which is noticed sooner');
}
resume($standby);
wait_for('the standby', sub { $http->get('/Docs/Pull?clientId=c2', %standby); metric('docsync_pool_connections{server="standby"}') > 0 });
pass('it is used again when it answers');

#-----------------------------------------------------------------------------
# Stopped while it waits
#-----------------------------------------------------------------------------

$http->stop_layer;
{
	local $http->{env}{DOCSYNC_ANSWER_WAIT} = 300;
	my $token = DocsyncTest::Http::token(DocsyncTest::Http::claims());

	$http->start_layer;
	is(upload('b')->{status}, 200, 'a connection');
	silence($primary);

	my $socket = IO::Socket::INET->new("127.0.0.1:$http->{port}") // die "connect: $@";

	print $socket "GET /Docs/Pull HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer $token\r\n\r\n";
	$socket->flush;
	wait_for('the request', sub { metric('docsync_pool_busy{server="primary"}') eq '1' });
	close $socket;

	my $begun = time;
	my $pid = delete $http->{pids}{layer};

	kill TERM => $pid;
	my $has_ended = eval { wait_for('the gateway', sub { waitpid($pid, POSIX::WNOHANG()) == $pid && $? == 0 || time - $begun > 30 && die "it goes on\n" }) };
	ok($has_ended, 'it ends, whatever it waits for, when no client does') or kill KILL => $pid;
	like(slurp_file("$http->{dir}/layer.log"), qr/"message":"stopped"\}\n\z/, '... as it should');
	resume($primary);
}

#-----------------------------------------------------------------------------
# A silent primary, which a standby replaces
#-----------------------------------------------------------------------------

$http->start_layer;
is(upload('c')->{status}, 200, 'an upload');
$primary->wait_for_catchup($standby, 'replay');
silence($primary);
$standby->promote;
{
	my $answer = upload('d');

	is("$answer->{status} $answer->{headers}{'retry-after'} " . DocsyncTest::Http::value_of($answer)->{code}, '503 1 PGRST001', 'without an answer: 503');
	is(metric('docsync_pool_busy{server="primary"}'), 0, '... and the connection is free for others');
	is(upload('d')->{status}, 200, 'the next request goes to the next server');
	is(connect_to($standby, 'docsync')->value('SELECT count(*) FROM docsync.document'), 4, '... which has all that was acknowledged');
	like(slurp_file("$http->{dir}/layer.log"), qr/"message":"PostgreSQL doesn't answer","server":1,/, 'the log says which server is silent');
}
resume($primary);

#-----------------------------------------------------------------------------
# A server that becomes read-only while there are connections to it
#-----------------------------------------------------------------------------

$standby->safe_psql('postgres', 'ALTER SYSTEM SET default_transaction_read_only = on; SELECT pg_reload_conf()');
wait_for('it to be read-only', sub { upload('e')->{status} == 405 });
is(upload('e')->{status}, 200, 'a server that accepts no writes any more is left, too');

$http->stop_layer;
done_testing();

# If a test has failed, a server can only be stopped when it goes on.
END { resume($_) for @stopped }

# Stops all processes of a server, the postmaster first, so that it starts no more.
sub silence
{
	my ($node) = @_;

	push @stopped, $node;
	return signal($node, 'STOP');
}

sub resume
{
	my ($node) = @_;

	@stopped = grep { $_ != $node } @stopped;
	return signal($node, 'CONT');
}

sub signal
{
	my ($node, $signal) = @_;
	my ($postmaster) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');

	kill $signal => $postmaster;
	return kill $signal => split ' ', `ps -o pid= --ppid $postmaster`;
}

sub upload
{
	my ($id) = @_;

	return $http->post('/Docs?clientId=c1', [ { id => $id, clientVersion => 1, body => 1 } ]);
}

sub read_from_standby
{
	my ($name) = @_;
	my $answer = $http->get('/Docs/Pull?clientId=c2', %standby);

	return like("$answer->{status} $answer->{content}", qr/^200 .*"id":"a"/, "a read from $name");
}

# A metric's value
sub metric
{
	my ($name) = @_;

	return $http->ask_admin('/metrics') =~ /^\Q$name\E (.*)$/m ? $1 : '';
}
