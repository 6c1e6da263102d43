# The gateway with several PostgreSQL servers, and in several processes: it
# switches to a promoted standby, reads from standbys for clients that ask for
# it, and loses nothing that was acknowledged.

use strict;
use warnings;

use lib 'test/t/lib';

use HTTP::Tiny;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use DocsyncTest;
use DocsyncTest::Http;

my $primary = new_node('primary', allows_streaming => 1);
my $http = DocsyncTest::Http->new($primary, layer => 'gateway');
my $token = DocsyncTest::Http::token(DocsyncTest::Http::claims());

$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

#-----------------------------------------------------------------------------
# Several hosts, of which the first is a standby; two processes
#-----------------------------------------------------------------------------

my $uri = sprintf 'postgresql://docsync_gateway@/docsync?host=%s,%s&port=%d,%d&target_session_attrs=read-write', $standby->host, $primary->host, $standby->port, $primary->port;

$http->stop_layer;
$http->{env}{DOCSYNC_DATABASE_URI} = $uri;
$http->{env}{DOCSYNC_STANDBY_URI} = DocsyncTest::Http::uri_of($standby, 'gateway');
$http->{env}{DOCSYNC_PROCESSES} = 2;
$http->start_layer;
is($http->post('/Docs?clientId=c1', [ { id => 'a', clientVersion => 1, body => 1 } ])->{status}, 200, 'of several servers that one is taken which can be written to');
is(connections($primary) > 0, 1, '... which is the primary');
is(connections($standby), 0, '... and not the standby');
wait_for('both processes', sub { count_in_log('listening') == 3 });
pass('two processes listen');

#-----------------------------------------------------------------------------
# Reads from a standby
#-----------------------------------------------------------------------------

my %standby = (headers => { 'x-docsync-read' => 'standby' });

$primary->wait_for_catchup($standby, 'replay');
for my $request ([ GET => '/Docs/Pull?clientId=c2' ], [ POST => '/Docs/Query?clientId=c2' ], [ POST => '/Docs/Get?clientId=c2', '{"ids":["a"]}' ])
{
	my ($method, $path, $body) = @$request;
	my $answer = $http->request($method, $path, $body, %standby);

	like("$answer->{status} $answer->{content}", qr/^200 .*"id":"a"/, "$path from a standby");
	is($http->request($method, $path, $body)->{status}, 200, '... and from the primary, for whoever doesn\'t ask for it');
}
is(connections($standby) > 0, 1, 'the standby has answered');
like($http->request('OPTIONS', '/Docs/Pull')->{headers}{'access-control-allow-headers'}, qr/, X-Docsync-Read$/, 'pages in a browser may ask for it, too');
is($http->post('/Docs?clientId=c1', [ { id => 'b', clientVersion => 1, body => 1 } ], %standby)->{status}, 200, 'an upload goes to the primary all the same');
like(metric('docsync_pool_connections\{server="standby"\}'), qr/^[1-9]/, '/metrics counts its connections');
cmp_ok(metric('docsync_http_requests_total\{function="docsync_pull",status="200"\}'), '>=', 2, '... and requests, of all processes');
{
	my $cursor = DocsyncTest::Http::value_of($http->get('/Docs/Pull?clientId=c1'))->{cursor};

	connect_to($standby)->do('SELECT pg_wal_replay_pause()');
	$http->post('/Docs?clientId=c1', [ { id => 'c', clientVersion => 1, body => 1 } ]);
	$cursor = DocsyncTest::Http::value_of($http->get("/Docs/Pull?clientId=c1&cursor=$cursor"))->{cursor};
	is(DocsyncTest::Http::value_of($http->get("/Docs/Pull?clientId=c1&cursor=$cursor", %standby))->{behind}, JSON::PP::true, 'a standby that lags says so');
	connect_to($standby)->do('SELECT pg_wal_replay_resume()');
}

#-----------------------------------------------------------------------------
# What a standby can't answer, the primary does; what the request is to blame
# for, it doesn't
#-----------------------------------------------------------------------------

# On a standby each document takes a second.
connect_to($primary, 'docsync')->do(<<'END', 'GRANT SELECT ON public.read_on_standby TO docsync_user', 'CREATE POLICY slow ON docsync.document AS RESTRICTIVE USING (public.is_read())');
	CREATE TABLE public.read_on_standby ();
	CREATE FUNCTION public.is_read() RETURNS boolean LANGUAGE plpgsql AS $$
	BEGIN
		IF pg_is_in_recovery() THEN
			PERFORM FROM public.read_on_standby;
			PERFORM pg_sleep(1);
		END IF;
		RETURN true;
	END $$
END
$primary->wait_for_catchup($standby, 'replay');
like($http->get('/Docs/Pull?clientId=c3', %standby)->{content}, qr/"id":"a"/, 'a standby is slow');
{
	my $client = in_child(sub {
		my $answer = $http->get('/Docs/Pull?clientId=c3', %standby);

		die "$answer->{status} $answer->{content}" if "$answer->{status} $answer->{content}" !~ /^200 .*"id":"a"/;
	});

	connect_to($standby)->do(q{ALTER SYSTEM SET max_standby_streaming_delay = 0}, 'SELECT pg_reload_conf()');
	wait_for('it to read', sub { connect_to($standby)->value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") > 0 });
	connect_to($primary, 'docsync')->do('BEGIN', 'LOCK TABLE public.read_on_standby', 'COMMIT');
	waitpid $client, 0;
	is($?, 0, 'when it has to cancel a read, because of what it replays, the primary answers');
	like(slurp_file($standby->logfile), qr/conflict with recovery/, '... after a conflict indeed');
	connect_to($standby)->do(q{ALTER SYSTEM RESET max_standby_streaming_delay}, 'SELECT pg_reload_conf()');
}
$http->stop_layer;
{
	local $http->{env}{DOCSYNC_STANDBY_URI} = "$http->{env}{DOCSYNC_STANDBY_URI}&statement_timeout=500";

	$http->start_layer;
	my $answer = $http->get('/Docs/Pull?clientId=c3', %standby);
	is("$answer->{status} " . DocsyncTest::Http::value_of($answer)->{code}, '500 57014', 'a read that takes too long isn\'t repeated on the primary');
	is($http->get('/Docs/Pull?clientId=c3')->{status}, 200, '... which would answer');
	$http->stop_layer;
}
connect_to($primary, 'docsync')->do('DROP POLICY slow ON docsync.document');
$primary->wait_for_catchup($standby, 'replay');
$http->start_layer;

#-----------------------------------------------------------------------------
# The standby replaces the primary
#-----------------------------------------------------------------------------

{
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my @clients = map { my $n = $_; in_child(sub { upload_until("$dir/stop", "$dir/$n", $n) }) } 1 .. 4;

	sleep 0.5;
	$primary->stop('fast');			# it ends when the standby has received everything
	$standby->promote;
	wait_for('the gateway', sub { $http->post('/Docs?clientId=c1', [ { id => 'd', clientVersion => 1, body => 1 } ])->{status} == 200 });
	sleep 0.5;
	touch("$dir/stop");
	is(scalar(grep { waitpid $_, 0; $? != 0 } @clients), 0, 'the clients came to their end');

	my %stored = map { $_->[0] => 1 } @{ connect_to($standby, 'docsync')->rows('SELECT id FROM docsync.document') };
	my @acknowledged = map { split /\n/, slurp_file("$dir/$_") } 1 .. 4;

	cmp_ok(scalar(@acknowledged), '>', 20, 'they have stored some');
	is(scalar(grep { /^ok (.*)/ && !$stored{$1} } @acknowledged), 0, 'nothing that was acknowledged is lost');
	is(scalar(grep { !/^(ok|50[03]|599) / } @acknowledged), 0, 'what wasn\'t stored was refused with a status to try again at') or diag join ', ', grep { !/^ok/ } @acknowledged;
}
like($http->get('/Docs/Pull?clientId=c9')->{content}, qr/"id":"a"/, 'it goes on');
is($http->get('/Docs/Pull?clientId=c9', %standby)->{status}, 200, 'who would read from a standby, too');

# If there is no standby any more, and nobody listens there, the primary is used.
$http->stop_layer;
$http->{env}{DOCSYNC_STANDBY_URI} = DocsyncTest::Http::uri_of($primary, 'gateway');
$http->start_layer;
like($http->get('/Docs/Pull?clientId=c9', %standby)->{content}, qr/"id":"a"/, 'without a standby the primary answers');
$http->stop_layer;
is(count_in_log('stopped'), 1 + 4 * 3, 'each time all processes stop, and who has started them');

done_testing();

sub connections
{
	my ($node) = @_;

	return connect_to($node)->value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'docsync_gateway'");
}

# How often the gateway, in all its runs here, has logged a message
sub count_in_log
{
	my ($message) = @_;

	return scalar(() = slurp_file("$http->{dir}/layer.log") =~ /"message":"$message"/g);
}

# A metric's value
sub metric
{
	my ($pattern) = @_;

	return $http->ask_admin('/metrics') =~ /^$pattern (.*)$/m ? $1 : '';
}

# Uploads one document after the other until a file exists, and notes the result of each
sub upload_until
{
	my ($stop, $notes, $name) = @_;
	my $client = HTTP::Tiny->new(timeout => 20);
	my $text = '';

	for (my $n = 1; !-e $stop; $n++)
	{
		my $answer = $client->post($http->url("/Docs?clientId=$name"),
			{ headers => { authorization => "Bearer $token" }, content => qq([{"id":"$name-$n","clientVersion":1,"body":$n}]) });

		$text .= ($answer->{status} == 200 ? 'ok' : $answer->{status}) . " $name-$n\n";
		sleep 0.02 if $answer->{status} != 200;
	}
	append_to_file($notes, $text);
	return;
}
