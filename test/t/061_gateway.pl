# The gateway by itself: what nginx does in front of PostgREST, and what only
# the gateway has; faults, in which nothing that was acknowledged is lost.

use strict;
use warnings;

use lib 'test/t/lib';

use HTTP::Tiny;
use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use DocsyncTest;
use DocsyncTest::Http;

my $node = new_node('main');
my $http = DocsyncTest::Http->new($node, layer => 'gateway', DOCSYNC_POOL => 4, DOCSYNC_POOL_PER_COLLECTION => 2, DOCSYNC_POOL_WAIT => 1, DOCSYNC_MAX_BODY_MB => 64, DOCSYNC_MAX_BUFFERED_MB => 80,
	DOCSYNC_LOG_REQUESTS => 'true');
my $session = $http->session;
my $token = DocsyncTest::Http::token(DocsyncTest::Http::claims());
my $head = "Host: x\r\nAuthorization: Bearer $token\r\n";

# Clients that never finish.  When everything else is done, they must have been
# disconnected.
my @slow = map { open_with($_) } "POST /Docs HTTP/1.1\r\nHost: x\r\n", '';
my $begun = time;

#-----------------------------------------------------------------------------
# For operators
#-----------------------------------------------------------------------------

like(admin('/health'), qr{^HTTP/1\.1 200 .*\r\n\r\nok\n$}s, '/health');
like(admin('/ready'), qr{^HTTP/1\.1 200 .*\r\n\r\nready\n$}s, '/ready');
is($http->post('/Docs?clientId=c1', documents(3))->{status}, 200, 'an upload');
is($http->get('/Docs/Pull?cursor=secret-of-anna')->{status}, 400, 'a request that is refused');
my $metrics = admin('/metrics');
like($metrics, qr/^docsync_http_requests_total\{function="docsync_docs",status="200"\} 1$/m, '/metrics counts requests');
like($metrics, qr/^docsync_http_request_seconds_count\{function="docsync_pull"\} \d+$/m, '... and their time');
like($metrics, qr/^docsync_pool_connections\{server="primary"\} [1-9]/m, '... and connections');
unlike($metrics, qr/anna|secret/, '... and tells nothing of clients');
is($http->get($_)->{status}, 404, "$_ is not for everybody") for qw(/health /ready /metrics);
like(admin('/x'), qr{^HTTP/1\.1 404 }, 'another path');

#-----------------------------------------------------------------------------
# Bodies: refused before they have arrived
#-----------------------------------------------------------------------------

# Only the headers are sent.
for my $case ([ "POST /Docs?clientId=c1 HTTP/1.1\r\n${head}Content-Length: 67108865", 413 ], [ "POST /Docs/Query HTTP/1.1\r\n${head}Content-Length: 65537", 413 ],
	[ "POST /Docs?clientId=c1 HTTP/1.1\r\n${head}Expect: 100-continue\r\nContent-Length: 67108865", 413 ],
	[ "POST /Docs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nContent-Length: 60000000", 401 ], [ "POST /Docs HTTP/1.1\r\n${head}Content-Encoding: gzip\r\nContent-Length: 60000000", 415 ])
{
	my ($bytes, $status) = @$case;

	like(answer_to(open_with("$bytes\r\n\r\n")), qr{^HTTP/1\.1 $status }, "$status before the body has come");
}
like(answer_to(open_with("POST /Docs?clientId=c1 HTTP/1.1\r\n${head}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")), qr{^HTTP/1\.1 100 }, 'who asks is told to go on');
{
	my $socket = open_with("POST /Docs/Query?clientId=c1 HTTP/1.1\r\n${head}Transfer-Encoding: chunked\r\n\r\n");

	local $SIG{PIPE} = 'IGNORE';
	print $socket sprintf("%x\r\n%s\r\n", 40_000, 'x' x 40_000) for 1 .. 2;
	$socket->flush;
	like(answer_to($socket), qr{^HTTP/1\.1 413 }, 'more than it may be, of which nobody has said how much it is');
}
# Two of 50 MB don't fit into the memory for bodies.
{
	my @sockets = map { open_with("POST /Docs?clientId=c1 HTTP/1.1\r\n${head}Content-Length: 60000000\r\n\r\n") } 1 .. 2;
	my $part = ' ' x 1_000_000;
	my $answer;

	local $SIG{PIPE} = 'IGNORE';
	for my $n (1 .. 55)
	{
		syswrite $_, $part for @sockets;
		last if grep { IO::Select->new($_)->can_read(0) } @sockets;
	}
	($answer) = map { answer_to($_) } grep { IO::Select->new($_)->can_read(1) } @sockets;
	like($answer // '', qr{^HTTP/1\.1 503 .*^Retry-After: 1\r}ms, 'when all that arrives is too much, some are told to come again');
	close $_ for @sockets;
	is($http->post('/Docs?clientId=c1', documents(3))->{status}, 200, '... and others are served');
}
# Without a token, a quarter of that: 20 of 80 MB.
{
	my $socket = open_with("POST /Docs HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\n\r\n");

	local $SIG{PIPE} = 'IGNORE';
	for my $n (1 .. 30)
	{
		syswrite $socket, ' ' x 1_000_000;
		last if IO::Select->new($socket)->can_read(0);
	}
	like(answer_to($socket), qr{^HTTP/1\.1 503 }, 'who shows no token gets less of it');
}
wait_for('memory to be free', sub { admin('/metrics') =~ /^docsync_buffered_bytes 0$/m });
pass('no memory is held for clients that are gone');

#-----------------------------------------------------------------------------
# Pipelining: in order, and up to a limit
#-----------------------------------------------------------------------------

{
	my $answers = $http->raw('/', "GET /Docs/Pull?cursor=x HTTP/1.1\r\n$head\r\nGET /x HTTP/1.1\r\nHost: x\r\n\r\n" x 30 . "GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");

	is(join(' ', $answers =~ m{HTTP/1\.1 (\d+)}g), '400 404 ' x 30 . '404', 'requests that come before their answers are answered in order');
	my $socket = open_with("GET /Docs/Pull HTTP/1.1\r\n$head\r\n" x 400);
	my $came = 0;

	1 while IO::Select->new($socket)->can_read(10) && sysread $socket, $answers, 65_536 and $came += length $answers;
	ok(IO::Select->new($socket)->can_read(0), 'who sends more and more of them is sent away');
	is($http->get('/Docs/Pull')->{status}, 200, '... and others are served');
}

#-----------------------------------------------------------------------------
# Headers set by triggers: none that say where an answer ends
#-----------------------------------------------------------------------------

$session->do(<<'END');
CREATE FUNCTION public.set_headers() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM set_config('response.headers', NEW.body ->> 'headers', true) WHERE NEW.body ? 'headers';
		RETURN NEW;
	END
	$$;
CREATE TRIGGER set_headers BEFORE INSERT ON docsync.document FOR EACH ROW EXECUTE FUNCTION public.set_headers();
END
for my $case ([ '[{"Content-Length":"3"},{"Transfer-Encoding":"chunked"},{"X-A":"b"}]', qr{^HTTP/1\.1 200 OK\r\n(?!.*chunked)(?:.*\r\n)*X-A: b\r\nContent-Length: \d{3}\r\n} ],
	[ '[{"constructor":"a"},{"__proto__":"b"}]', qr{^HTTP/1\.1 200 OK\r\n(?:.*\r\n)*constructor: a\r\n__proto__: b\r\nContent-Length} ],
	[ qq([{"X-A":"b\r\nX-B: c"}]) =~ s/\r\n/\\r\\n/r, qr{^HTTP/1\.1 500 Internal Server Error\r\n(?!.*X-B)} ])
{
	my ($headers, $expected) = @$case;
	my $body = JSON::PP->new->encode([ { id => "headers " . length $headers, clientVersion => 1, body => { headers => $headers } } ]);

	like($http->raw('/', "POST /Docs?clientId=c1 HTTP/1.1\r\n${head}Connection: close\r\nContent-Length: " . length($body) . "\r\n\r\n$body"), $expected, "a trigger sets $headers");
}
$session->do('DROP TRIGGER set_headers ON docsync.document');

#-----------------------------------------------------------------------------
# Connections: a locked row stops the requests that need it, for a while
#-----------------------------------------------------------------------------

my $holder = $http->session;
sub hold { $holder->do('BEGIN', "UPDATE docsync.document SET body = '2' WHERE id = '1'"); return }
sub waiting { return $session->value("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") }

hold();
{
	my @clients = map { my $n = $_; background(sub { $http->post("/Docs?clientId=w$n", [ { id => '1', clientVersion => 9, body => $n } ]) }) } 1 .. 5;

	wait_for('them to wait', sub { waiting() == 2 });
	my $answer = $http->post('/Docs?clientId=c1&collection=anna/other', documents(3));
	is($answer->{status}, 200, 'a collection has half of the connections, others the rest');
	my @statuses = sort map { finished($_) } @clients;
	is("@statuses", '500 500 503 503 503', 'who wants the row is refused, those who can\'t even ask for it sooner');
}
$holder->do('ROLLBACK');

#-----------------------------------------------------------------------------
# It stops when running requests are done
#-----------------------------------------------------------------------------

hold();
{
	my $client = background(sub { $http->post('/Docs?clientId=w1', [ { id => '1', clientVersion => 9, body => 1 } ]) });

	wait_for('it to wait', sub { waiting() == 1 });
	my $idle = open_with("");
	kill TERM => $http->{pids}{layer};
	wait_for('the end of new connections', sub { !IO::Socket::INET->new("127.0.0.1:$http->{port}") });
	$holder->do('ROLLBACK');
	is(finished($client), 200, 'a request under way is answered');
	waitpid delete $http->{pids}{layer}, 0;
	is($?, 0, 'then it ends');
	my @log = map { JSON::PP->new->decode($_) } split /\n/, slurp_file("$http->{dir}/layer.log");
	is($log[-1]{message}, 'stopped', 'and says so');
	is(scalar(grep { !$_->{time} || $_->{level} !~ /^(info|warning|error)$/ } @log), 0, 'its log is JSON, a line each');
	is(scalar(grep { ($_->{message} // '') eq 'request' && $_->{function} && $_->{status} && defined $_->{ms} } @log) > 5, 1, '... with the requests');
	unlike(slurp_file("$http->{dir}/layer.log") =~ s/,"exchange":"[^"]*"//gr, qr/anna|secret|clientId|Bearer/, '... and, but for whose it was, nothing of what clients have sent');
}
$http->start_layer;

#-----------------------------------------------------------------------------
# Faults: what was acknowledged is stored
#-----------------------------------------------------------------------------

for my $fault (
	[ 'PostgreSQL is restarted', sub { $node->restart } ], [ 'PostgreSQL ends at once', sub { $node->stop('immediate'); $node->start } ],
	[ 'its sessions are ended', sub { $http->session->do("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'docsync_gateway'") for 1 .. 5 } ],
	[ 'the gateway is killed', sub { $http->stop_layer('KILL'); $http->start_layer } ])
{
	my ($name, $fault) = @$fault;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $collection = 'anna/' . $name =~ s/ /-/gr;
	my @clients = map { my $n = $_; in_child(sub { upload_until("$dir/stop", "$dir/$n", $collection, $n) }) } 1 .. 4;

	sleep 0.5;
	$fault->();
	wait_for('PostgreSQL', sub { admin('/ready') =~ / 200 / });
	sleep 0.5;
	touch("$dir/stop");
	is(scalar(grep { waitpid $_, 0; $? != 0 } @clients), 0, "$name: the clients came to their end");
	my %stored = map { $_->[0] => 1 } @{ $http->session->rows('SELECT id FROM docsync.document WHERE collection = ?', $collection) };
	my @acknowledged = map { split /\n/, slurp_file("$dir/$_") } 1 .. 4;
	cmp_ok(scalar(grep { /^ok/ } @acknowledged), '>', 20, '... and have stored some') or diag join ', ', @acknowledged[ 0 .. 9 ];
	is(scalar(grep { /^ok (.*)/ && !$stored{$1} } @acknowledged), 0, '... nothing that was acknowledged is lost');
	is(scalar(grep { !/^(ok|50[03]|599) / } @acknowledged), 0, '... and refused with a status to try again at') or diag join ', ', grep { !/^ok/ } @acknowledged;
}
is($http->get('/Docs/Pull')->{status}, 200, 'it goes on');

$session = $http->session;
$session->do('REVOKE EXECUTE ON FUNCTION docsync_call FROM docsync_gateway');
like(admin('/ready'), qr{^HTTP/1\.1 503 }, 'not ready where it may not call docsync_call()');
$session->do('GRANT EXECUTE ON FUNCTION docsync_call TO docsync_gateway');
like(admin('/ready'), qr{^HTTP/1\.1 200 }, '... until it may');

# Without PostgreSQL
$node->stop;
{
	my $answer = $http->get('/Docs/Pull');

	is("$answer->{status} $answer->{headers}{'retry-after'} " . DocsyncTest::Http::value_of($answer)->{code}, '503 1 PGRST000', 'without PostgreSQL: 503');
	unlike($answer->{content}, qr/sock|gateway|5432/i, '... which doesn\'t say where it is');
	like(admin('/ready'), qr{^HTTP/1\.1 503 }, '... and not ready');
	like(admin('/health'), qr{^HTTP/1\.1 200 }, '... but healthy');
}
$node->start;
wait_for('PostgreSQL', sub { $http->get('/Docs/Pull')->{status} == 200 });
pass('it comes back by itself');

# Clients that never finish
sleep 1 while time - $begun < 27;
for my $socket (@slow)
{
	ok(IO::Select->new($socket)->can_read(5) && !sysread($socket, my $came, 1000), 'who never finishes the headers of a request is sent away');
}

done_testing();

sub documents { return [ map { { id => "$_", clientVersion => 1, body => $_ } } 1 .. $_[0] ] }

# A connection on which bytes have been sent
sub open_with
{
	my ($bytes) = @_;
	my $socket = IO::Socket::INET->new("127.0.0.1:$http->{port}") // die "connect: $@";

	print $socket $bytes;
	$socket->flush;
	return $socket;
}

# What is received first
sub answer_to
{
	my ($socket) = @_;
	my $came = '';

	sysread $socket, $came, 65_536 if IO::Select->new($socket)->can_read(10);
	return $came;
}

sub admin { return $http->ask_admin($_[0]) }

# Makes a request in a separate process, whose status can be read when it has ended
sub background
{
	my ($request) = @_;

	return in_child(sub { my $status = $request->()->{status}; POSIX::_exit($status == 503 ? 103 : $status / 10) });
}

sub finished
{
	my ($pid) = @_;

	waitpid $pid, 0;
	return $? >> 8 == 103 ? 503 : ($? >> 8) * 10;
}

# Uploads one document after the other until a file exists, and notes the result of each
sub upload_until
{
	my ($stop, $notes, $collection, $name) = @_;
	my $client = HTTP::Tiny->new(timeout => 20);
	my $text = '';

	for (my $n = 1; !-e $stop; $n++)
	{
		my $answer = $client->post($http->url("/Docs?clientId=$name&collection=$collection"),
			{ headers => { authorization => "Bearer $token" }, content => qq([{"id":"$name-$n","clientVersion":1,"body":$n}]) });

		$text .= ($answer->{status} == 200 ? 'ok' : $answer->{status}) . " $name-$n\n";
		sleep 0.02 if $answer->{status} != 200;
	}
	append_to_file($notes, $text);
	return;
}
