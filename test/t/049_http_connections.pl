# What happens to a request when PostgREST closes its connection to nginx.

use strict;
use warnings;

use lib 'test/t/lib';

use IO::Socket::INET;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

use DocsyncTest;
use DocsyncTest::Http;

my $node = new_node('connections', conf => "restart_after_crash = on\n");
my $http = DocsyncTest::Http->new($node);
my $docs = '/Docs?clientId=c1&collection=anna';
my $expired = DocsyncTest::Http::token(DocsyncTest::Http::claims(exp => time - 3600));
my $forged = DocsyncTest::Http::token(DocsyncTest::Http::claims(), 'somebody else has signed with this secret');

# PostgREST refuses these without reading the body, which is larger than a
# socket's buffer: so it closes the connection while nginx is sending.
for my $size (100, 100_000, 3_000_000, 8_000_000)
{
	my $body = encode_json([ { id => 'x', clientVersion => 1, body => 'x' x $size } ]);

	refuses("$size bytes, a token that has expired", $body, $expired) for 1 .. 12;
	refuses("$size bytes, a forged token", $body, $forged) for 1 .. 4;
}
is($http->post($docs, [ { id => 'x', clientVersion => 1, body => 1 } ])->{status}, 200, 'a good request after these');

#-----------------------------------------------------------------------------
# The connection to PostgreSQL breaks
#-----------------------------------------------------------------------------

# Usually a 503. Depending on the moment, PostgREST may answer 400 with an empty
# code: then clients know that they may try again.
{
	my ($holder, $other) = map { $http->session } 1, 2;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/answer';
	my $waiting = q{SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'docsync_authenticator'};

	$holder->do('BEGIN', q{UPDATE docsync.document SET body = '2' WHERE id = 'x'});
	my $client = in_child(sub { append_to_file($file, encode_json(answer_of_postgrest({ id => 'x', clientVersion => 2, body => 2 }))) });
	wait_for('the upload to wait', sub { $other->value($waiting) });
	kill KILL => $other->value($waiting);
	waitpid $client, 0;

	my $broken = decode_json(slurp_file($file));

	like("$broken->{status} \"$broken->{code}\"", qr/^(503 "PGRST00\d"|400 "")$/, 'a connection that breaks is a 503, or a 400 without a code');
	wait_for('an upload', sub { $http->post($docs, [ { id => 'x', clientVersion => 3, body => 3 } ])->{status} == 200 });
}

#-----------------------------------------------------------------------------
# A stand-in for PostgREST, which does the worst it could
#-----------------------------------------------------------------------------

$http->stop_layer;

# One that closes the connection when the second request has arrived
{
	my $server = stand_in(sub { $_[0] == 1 });

	for my $request ([ 'POST', $docs, '[]' ], [ 'POST', '/Docs/Query', '' ], [ 'GET', '/Docs/Pull', undef ], [ 'POST', '/Docs/Sync', '{}' ])
	{
		my @statuses = map { $http->request(@$request)->{status} } 1 .. 6;

		is("@statuses", '200 200 200 200 200 200', "$request->[0] $request->[1]: a connection that is closed under a request is not noticed");
	}
	end_of($server);
}

# One that closes every connection
{
	my $server = stand_in(sub { 0 });

	for my $request ([ 'POST', $docs, '[]' ], [ 'POST', $docs, 'x' x 5_000_000 ], [ 'GET', '/Docs/Pull', undef ])
	{
		my $answer = $http->request(@$request);

		is($answer->{status}, 502, "$request->[0] $request->[1], " . length($request->[2] // '') . ' bytes: 502 where no connection is good');
		is((DocsyncTest::Http::value_of($answer) // {})->{code}, 'PT502', 'in the form of all errors');
	}
	end_of($server);
}

done_testing();

# What PostgREST itself answers to the upload of a document
sub answer_of_postgrest
{
	my ($document) = @_;
	my $answer = $http->post('/rpc/docsync_docs', [$document], headers => { 'content-type' => 'application/octet-stream', 'x-client-id' => 'c1' });

	return { status => $answer->{status}, code => (DocsyncTest::Http::value_of($answer) // {})->{code} };
}

# What must be 401, with the reason in PostgREST's words.
sub refuses
{
	my ($name, $body, $token) = @_;
	my $answer = $http->post($docs, $body, token => $token);
	my $error = DocsyncTest::Http::value_of($answer) // {};

	is("$answer->{status} $error->{code}", '401 PGRST301', $name) or diag "$answer->{status} $answer->{content}";
	return;
}

# Listens in PostgREST's place; answers the n-th request of a connection if the
# function says so, and otherwise closes it.
sub stand_in
{
	my ($is_answered) = @_;
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $http->{rest_port}, Listen => 50, ReuseAddr => 1)
	  // die "listen: $@";
	my $pid = in_child(sub {
		local $SIG{CHLD} = 'IGNORE';
		while (my $connection = $listener->accept)
		{
			in_child(sub { close $listener; serve($connection, $is_answered) });
			close $connection;
		}
	});

	close $listener;
	return $pid;
}

sub serve
{
	my ($connection, $is_answered) = @_;

	for (my $n = 1;; $n++)
	{
		my $length = 0;
		my $line;

		while (defined($line = <$connection>) && $line ne "\r\n")
		{
			$length = $1 if $line =~ /^Content-Length: (\d+)/i;
		}
		return if !defined $line;
		read $connection, my ($body), $length;
		return if !$is_answered->($n);
		print $connection "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
		$connection->flush;
	}
}

sub end_of
{
	my ($pid) = @_;

	kill TERM => $pid;
	waitpid $pid, 0;
	return;
}
