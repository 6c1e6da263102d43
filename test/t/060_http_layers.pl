# The same odd requests are sent as bytes to PostgREST behind nginx and to the
# gateway: both answer with the same status and body, and store the same.
#
# Where they may differ: the text (not the code) for what is wrong with a token;
# a bad token with a body that is too large and comes without its length, since
# nginx has read that by the time the token is looked at, and the gateway hasn't;
# and what isn't HTTP at all, which both refuse, with 400 or by closing the
# connection.
#
# DOCSYNC_FUZZ_REQUESTS: how many.  DOCSYNC_RANDOM_SEED: repeat one run.

use strict;
use warnings;

use lib 'test/t/lib';

use Digest::SHA qw(hmac_sha256 hmac_sha512);
use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use MIME::Base64 qw(encode_base64url);
use PostgreSQL::Test::Utils;
use Test::More;

use DocsyncTest;
use DocsyncTest::Http;

my $REQUESTS = $ENV{DOCSYNC_FUZZ_REQUESTS} // 800;
my $SEED = $ENV{DOCSYNC_RANDOM_SEED} // int rand 1_000_000;
my $JSON = JSON::PP->new->utf8->canonical->allow_nonref;

my $node = new_node('main', conf => <<'END');
docsync.max_batch = 20
docsync.max_document_size = 4kB
END
my %http = map { $_ => DocsyncTest::Http->new($node, layer => $_) } qw(postgrest gateway);
# Each has its own collections, with names as long as COLLECTION and BERTS-NOTE,
# the placeholders for them
my %collection = (postgrest => 'anna/layer', gateway => 'anna/other');
my %of_bert = (postgrest => 'bert/layer', gateway => 'bert/other');
my $session = $http{gateway}->session;

note "seed $SEED, $REQUESTS requests";
srand $SEED;

#-----------------------------------------------------------------------------
# What requests are made of
#-----------------------------------------------------------------------------

# For each layer: the claim "collection" is its own.  Times count from the
# request, so that none of them passes in between.
sub claims { my ($layer) = @_; return (
	good => {}, bound => { client_id => 'c1' }, 'of bert' => { tenant => 'bert', collection => $of_bert{$layer} }, anonymous => { role => 'docsync_anon' },
	'a strange role' => { role => 'postgres' }, 'no such role' => { role => "no'body\n" }, 'role a number' => { role => 7 },
	'role null' => { role => undef }, expired => { exp => time - 120 }, 'just expired' => { exp => time - 10 }, 'not yet' => { nbf => time + 3600 },
	soon => { nbf => time + 60 }, 'from the future' => { iat => time + 3600 }, 'exp a text' => { exp => 'x' }, 'a fraction' => { exp => time + 1000.5 },
	'of another audience' => { aud => 'x' }, 'claim collection null' => { collection => undef }, 'claim collection a list' => { collection => ['anna'] }) }
my %token;
for my $layer (qw(postgrest gateway))
{
	my %own = (collection => $collection{$layer});
	my $good = DocsyncTest::Http::token(DocsyncTest::Http::claims(%own));
	my $sign = sub {
		my ($header, $claims, $hmac) = @_;
		my $text = join '.', map { encode_base64url($_) } $header, $claims;
		return $text . '.' . encode_base64url($hmac->($text, 'only tests are signed with this secret'));
	};

	$token{$layer} = {
		(map { my $name = $_; $name => sub { DocsyncTest::Http::token(DocsyncTest::Http::claims(%own, %{ {claims($layer)}->{$name} })) } } keys %{ {claims($layer)} }),
		forged => DocsyncTest::Http::token(DocsyncTest::Http::claims(%own), 'another secret of 32 characters or more'),
		(map { my ($name, $header) = @$_; $name => DocsyncTest::Http::token(DocsyncTest::Http::claims(%own), undef, $header) }
			[ none => { alg => 'none' } ], [ confused => { alg => 'RS256' } ], [ 'without typ' => { alg => 'HS256' } ], [ 'with kid' => { alg => 'HS256', kid => 'x' } ],
			[ critical => { alg => 'HS256', crit => ['x'], x => 1 } ], [ 'alg a number' => { alg => 7 } ]),
		'without a signature' => $good =~ s/[^.]*$//r,
		'another payload' => join('.', (split /\./, $good)[0], encode_base64url('{"role":"docsync_user","tenant":"bert"}'), (split /\./, $good)[2]),
		HS512 => $sign->('{"alg":"HS512"}', $JSON->encode(DocsyncTest::Http::claims(%own)), \&hmac_sha512),
		'no JSON' => $sign->('{"alg":"HS256"}', 'x', \&hmac_sha256),
		garbage => 'x', empty => '', dots => '..', two => 'a.b', 'a space' => 'a b'
	};
}
my @tokens = sort keys %{ $token{gateway} };

my @methods = qw(POST GET HEAD PUT DELETE PATCH OPTIONS TRACE PROPFIND BREW get);
my @good_paths = qw(/Docs /Docs/Sync /Docs/Query /Docs/Pull /Docs/Reconcile /Docs/Get);
my @paths = (qw(/ /docs /Docs/ //Docs /Docs//Sync /./Docs /x/../Docs /../Docs /Docs/.. /Docs/. /%44ocs /Docs%2fPull /Docs%2FSync/%2e%2e/Get /Docs%00 /Docs%0a /Docs%0d%0aX /Docs%zz /Docs%
	  /Docs%3fx /Docs%23 /Docs;x http://other/Docs /rpc/docsync_docs /rpc/docsync_call /favicon.ico * Docs /Docs/Pull/x /Docs/Pull%20), '/Docs#x', '/Docs/' . 'x' x 300);
my @arguments = ('collection=COLLECTION', 'clientId=c1', 'clientId=c2', 'clientId=', 'clientId=null', 'clientId=%C3%A9', 'clientId=%ff', 'clientId=%', 'clientId=a%00', 'clientId=a+b',
	'clientId=%0d%0aX:y', ('collection=BERTS-NOTE') x 3, 'collection=', 'origin=any', 'origin=own', 'origin=x', 'sinceUtc=1970-01-01T00:00:00Z', 'sinceUtc=yesterday', 'sinceUtc=2999-01-01T00:00:00Z',
	'maxDocuments=2', 'maxDocuments=0', 'maxDocuments=x', 'cursor=x', 'cursor=0000000000000001.1', 'reconcile=true', 'reconcile=1', 'state=true', 'tombstones=false', 'atomic=false',
	'limit=0', 'select=x', 'x', '=', '&&', '?', '#x', 'after=a', 'clientId=' . 'x' x 300, 'cursor=' . 'x' x 9000);
my @headers = ('X-Client-Id: c3', 'X-Client-Id: c3', 'X-Client-Id:', "X-Client-Id: \xc3\xa9", "X-Client-Id: \xff", 'X-Query-String: clientId=forged', 'Prefer: tx=rollback', 'Range: 0-0',
	'Accept: text/csv', 'Accept-Profile: docsync', 'Content-Encoding: gzip', 'Content-Encoding: identity', 'Content-Encoding: br', 'If-None-Match: *', 'If-None-Match: "x"', 'X-HTTP-Method-Override: GET',
	'Content-Type: text/csv', 'Content-Type: application/x-www-form-urlencoded', 'Cookie: a=b', 'Accept-Encoding: gzip;q=0', 'X-Long: ' . 'x' x 9000, 'X-Forwarded-For: 1.2.3.4', 'Expect: 100-continue',
	'Authorization: Basic eDp5', 'If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT', 'Upgrade: websocket', 'X_Client_Id: c4');
my $version = 1;
my @bodies = (
	sub { $JSON->encode([ map { random_document() } 1 .. 1 + int rand 4 ]) }, sub { $JSON->encode([ map { random_document() } 1 .. 1 + int rand 4 ]) },
	sub { $JSON->encode({ documents => [ random_document() ], one(clientId => 'c1', 5, ''), one(collection => 'COLLECTION', 'BERTS-NOTE', ''), one(atomic => JSON::PP::false, 'x') }) },
	sub { $JSON->encode({ one(clientId => 'c1', undef), one(cursor => undef, 'x', '0000000000000001.1'), one(maxDocuments => 1, 0, '5'), one(reconcile => JSON::PP::true), one(state => JSON::PP::true, 'x'),
		one(origin => 'any', 'x'), one(documents => [ random_document() ], {}) }) },
	sub { $JSON->encode({ clientId => 'c1', collections => [ map { { collection => $_, one(documents => [ random_document() ]) } } 'COLLECTION', 'BERTS-NOTE' ] }) },
	sub { $JSON->encode({ ids => [ map { "d$_" } 1 .. 3 ], one(clientId => 'c1') }) }, sub { $JSON->encode({ buckets => [ 1, 2, int rand 300 ] }) },
	sub { '' }, sub { 'null' }, sub { '[' }, sub { '{}' }, sub { '[]' }, sub { "\xef\xbb\xbf[]" }, sub { "\xff" }, sub { '[{"id":"a\u0000","clientVersion":1,"body":1}]' }, sub { 'id=1' },
	sub { $JSON->encode([ map { random_document() } 1 .. 21 ]) }, sub { $JSON->encode([ { %{ random_document() }, body => 'x' x 5000 } ]) }, sub { '[' . ' ' x 70_000 . ']' });

sub random_document
{
	return { id => 'd' . int rand 9, clientVersion => $version += int rand 3, (rand() < 0.1 ? (deleted => JSON::PP::true) : (body => { text => "\x{e9}<>&\x7f\n" . rand })), one(extra => 1), one(baseVersion => 1, undef) };
}

# A key with one of several values, or nothing
sub one { my ($key, @values) = @_; return rand() < (@values > 1 ? 0.6 : 0.2) ? ($key => $values[ rand() < 0.7 ? 0 : rand @values ]) : () }
sub any { return $_[ rand @_ ] }

sub token { my $token = $token{ $_[0] }{ $_[1] }; return ref $token ? $token->() : $token }

# A request as bytes; the placeholders are replaced by the layer's own
sub make_request
{
	my $path = rand() < 0.85 ? any(@good_paths) : any(@paths);
	my $method = rand() < 0.15 ? any(@methods) : $path =~ /Pull/ ? 'GET' : 'POST';
	my @query = ((rand() < 0.6 ? 'clientId=c1' : ()), (map { any(@arguments) } 1 .. any(0, 0, 0, 1, 2)));
	my $name = rand() < 0.75 ? 'good' : any(@tokens);
	my $body = $method eq 'HEAD' || $method eq 'GET' && rand() < 0.9 ? undef : any(@bodies)->();
	my @lines = (rand() < 0.97 ? 'Host: x' : (), rand() < 0.97 ? "Authorization: " . any(('Bearer') x 9, 'bearer', 'Bearer ') . " TOKEN($name)" : (), map { any(@headers) } 1 .. any(0, 0, 1, 2));

	# "Expect" only with a body: without one there is nothing to wait for.
	@lines = grep { !/^Expect/ } @lines unless defined $body;
	# Bytes that aren't HTTP are sent separately, below.
	my %seen;
	@lines = grep { !/^(Authorization|Host|If-None-Match|X-Client-Id|Content-Encoding)/ || !$seen{$1}++ } @lines;
	if (defined $body && rand() < 0.15)
	{
		my $at = int rand length $body;
		$body = join '', (map { length $_ ? sprintf("%x\r\n%s\r\n", length $_, $_) : '' } substr($body, 0, $at), substr($body, $at)), "0\r\n\r\n";
		push @lines, 'Transfer-Encoding: chunked';
	}
	elsif (defined $body)
	{
		push @lines, 'Content-Length: LENGTH';
	}
	return [ join("\r\n", "$method $path" . (@query ? '?' . join '&', @query : '') . ' HTTP/1.1', @lines, 'Connection: ' . any('close')), $body // '', "$method $path, token $name" ];
}

sub bytes_for
{
	my ($layer, $head, $body) = @_;

	# The name is as long as COLLECTION, because a chunked body contains lengths.
	s/COLLECTION/$collection{$layer}/g, s/BERTS-NOTE/$of_bert{$layer}/g for $head, $body;
	$head =~ s/TOKEN\((.*?)\)/token($layer, $1)/eg;
	$head =~ s/LENGTH/length $body/e;
	return "$head\r\n\r\n$body";
}

#-----------------------------------------------------------------------------
# Answers
#-----------------------------------------------------------------------------

# Sends bytes, returns the answers that come until the connection is closed, or nothing comes for some seconds: [status, headers, body] each
sub answers_of
{
	my ($layer, $bytes, $methods, $seconds) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$http{$layer}{port}") // die "connect: $@";
	my @answers;

	local $SIG{PIPE} = 'IGNORE';
	binmode $socket;
	print $socket $bytes;
	$socket->flush;
	my $came = '';

	1 while IO::Select->new($socket)->can_read($seconds // 60) && sysread $socket, $came, 65_536, length $came;

	while ($came =~ s{^HTTP/1\.1 (\d+)[^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n}{})
	{
		my ($status, %headers) = ($1, map { /^([^:]+): *(.*)$/ ? (lc $1 => $2) : () } split /\r\n/, $2);
		my $body = '';

		next if $status == 100;
		if ($methods->[@answers] eq 'HEAD' || $status =~ /^(204|304)$/) { }
		elsif (($headers{'transfer-encoding'} // '') eq 'chunked')
		{
			while ($came =~ s/^([0-9a-fA-F]+)\r\n// && hex $1 > 0)
			{
				$body .= substr $came, 0, hex $1, '';
				$came =~ s/^\r\n//;
			}
			$came =~ s/^\r\n//;
		}
		else
		{
			$body = substr $came, 0, $headers{'content-length'} // length $came, '';
		}
		push @answers, [ $status, \%headers, $body ];
	}
	return @answers;
}

# Status and body, without what depends on the clock or on the layer's own collection
sub shown
{
	my ($status, $headers, $body) = @{ $_[0] };

	return "$status, not JSON" if $body ne '' && !defined eval { $JSON->decode($body) };
	$body =~ s{20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z}{TIME}g;
	$body =~ s{("maxVersion":)\d+}{$1LIMIT}g;
	$body =~ s{[0-9a-f]{16}\.\d+\.\d+\.[0-9a-f]+\.[0-9a-f]{8}}{CURSOR}g;
	$body =~ s{(anna|bert)/(layer|other)}{COLLECTION}g;
	$body =~ s{"(digest|sums)":("[0-9a-f]+"|\[[^]]*\])}{"$1":DIGEST}g;
	return "$status $body";
}

my $FORM = [qw(access-control-allow-origin access-control-expose-headers allow cache-control www-authenticate access-control-allow-headers access-control-allow-methods access-control-max-age)];

# The headers that must be the same, except for texts
sub headers_of
{
	my ($status, $headers) = @{ $_[0] };

	return join "\n", map { "$_: " . ($headers->{$_} // 'none') =~ s/error_description=.*//r } @$FORM, $status == 200 || $status >= 400 ? 'content-type' : ();
}

sub stored
{
	my ($layer) = @_;

	return $session->value(q{SELECT coalesce(string_agg(concat_ws(' ', id, client_version, client_id, deleted, body), E'\n' ORDER BY id), '') FROM docsync.document WHERE collection = ?}, $collection{$layer});
}

# Sends the same to both; passes if they answer alike
sub alike
{
	my ($name, @requests) = @_;
	my $methods = [ map { $_->[0] =~ /^(\S+)/ } @requests ];
	my %came = map { my $layer = $_; $layer => [ answers_of($layer, join('', map { bytes_for($layer, @$_) } @requests), $methods) ] } qw(postgrest gateway);
	my ($one, $other) = @came{qw(postgrest gateway)};

	# nginx closes the connection after some of what it refuses: the rest is sent again.
	while (@$one && @$one < @requests && ($one->[-1][1]{connection} // '') eq 'close')
	{
		my @rest = @requests[ @$one .. $#requests ];
		my @more = answers_of('postgrest', join('', map { bytes_for('postgrest', @$_) } @rest), [ @$methods[ @$one .. $#$methods ] ]);

		last unless @more;
		push @$one, @more;
	}
	for my $n (0 .. $#$one)
	{
		next if @$other <= $n;
		# What PostgREST says about a token in its library's own words
		if ($one->[$n][2] =~ /"code":"PGRST301"/ && $one->[$n][2] !~ /"message":"(JWT expired|JWTNotYetValid|JWTIssuedAtFuture|JWSError JWSInvalidSignature|JWSError [(]CompactDecodeError Invalid number.*)"[}]$/)
		{
			s{"message":".*"}{"message":"..."} for $one->[$n][2], $other->[$n][2];
		}
		# A body that is too large, without its length, and a bad token
		$other->[$n] = $one->[$n] if $one->[$n][0] == 413 && $other->[$n][0] == 401 && $requests[$n][0] =~ /^Transfer-Encoding: chunked/m;
		# PostgREST doesn't run what a HEAD asks for, so it is never refused for that.
		$other->[$n][0] = $one->[$n][0] if $methods->[$n] eq 'HEAD' && $one->[$n][0] == 200;
	}
	my $is_alike = @$one == @$other && !grep { shown($one->[$_]) ne shown($other->[$_]) } 0 .. $#$one;

	# For a method that node:http doesn't know, the gateway sees only the request
	# line.
	return $one if grep({ $_ =~ /BREW|get/ } @$methods) && ok(!grep({ ($_->[0] // 0) !~ /^4\d\d$/ } @$one, @$other), $name);

	# Only the gateway answers HEAD with the headers of GET.
	$is_alike &&= !grep { $methods->[$_] ne 'HEAD' && headers_of($one->[$_]) ne headers_of($other->[$_]) } 0 .. $#$one;
	ok($is_alike, $name) or diag "request: ", (map { substr "$_->[0]\n\n$_->[1]\n", 0, 1500 } @requests), map { my $layer = $_; "\n$layer:\n", map { substr(shown($_), 0, 600), "\n", headers_of($_), "\n" } @{ $came{$layer} } } qw(postgrest gateway);
	return $one;
}

#-----------------------------------------------------------------------------
# One after the other
#-----------------------------------------------------------------------------

my %statuses;
for my $n (1 .. $REQUESTS)
{
	my $request = make_request();
	my ($answer) = @{ alike("$n: $request->[2]", $request) };

	$statuses{ $answer->[0] }++ if $answer;
}
diag join ', ', map { "$_: $statuses{$_}" } sort keys %statuses;
if ($REQUESTS >= 500)
{
	cmp_ok($statuses{$_} // 0, '>', 0, "there were answers of status $_") for qw(200 204 400 401 404 405 413 414 415 431);
}
is(stored('gateway'), stored('postgrest'), 'both have stored the same');

# Every token, by itself
alike("token: $_", [ "GET /Docs/Pull?collection=COLLECTION HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN($_)\r\nConnection: close", '' ]) for @tokens;
alike("twice: token $_", ([ "GET /Docs/Pull?collection=COLLECTION HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN($_)", '' ]) x 2, [ "GET /none HTTP/1.1\r\nHost: x\r\nConnection: close", '' ]) for 'good', 'expired', 'forged';

# Several on one connection, sent at once: answered in order, each after the previous one is
# done
for my $n (1 .. 30)
{
	my @requests = map { make_request() } 1 .. 2 + rand 3;

	@requests = grep { $_->[0] !~ /HTTP\/1\.1\r\n(?!Host)|BREW|^get|^TRACE|x{9000}|Expect|%00|%zz|\.\./ && "$_->[0]" !~ /^\w+ (\*|Docs|[^ ]*%(?![0-9a-fA-F]{2}))/ } @requests;
	$_->[0] =~ s/\r\nConnection: close$// for @requests;
	my ($last) = [ "GET /none HTTP/1.1\r\nHost: x\r\nConnection: close", '' ];
	alike("$n: pipelined " . join(' + ', map { $_->[2] } @requests), @requests, $last);
}
is(stored('gateway'), stored('postgrest'), 'both have stored the same');

#-----------------------------------------------------------------------------
# What isn't HTTP, or is incomplete
#-----------------------------------------------------------------------------

my $good = "Host: x\r\nAuthorization: Bearer " . token('gateway', 'good') . "\r\n";
for my $bytes ("\r\n\r\n", "x\r\n\r\n", "GET\r\n\r\n", "GET /Docs/Pull\r\n\r\n", "GET /Docs/Pull HTTP/1.1\r\nHost\r\n\r\n", "GET /Docs/Pull HTTP/7.1\r\n$good\r\n",
	"POST /Docs?clientId=c1 HTTP/1.1\r\n${good}Content-Length: x\r\n\r\n[]", "POST /Docs?clientId=c1 HTTP/1.1\r\n${good}Content-Length: -1\r\n\r\n[]",
	"POST /Docs?clientId=c1 HTTP/1.1\r\n${good}Content-Length: 2\r\nContent-Length: 3\r\n\r\n[]", "POST /Docs?clientId=c1 HTTP/1.1\r\n${good}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"POST /Docs?clientId=c1 HTTP/1.1\r\n${good}Transfer-Encoding: chunked\r\n\r\nzz\r\n[]\r\n0\r\n\r\n", "POST /Docs?clientId=c1 HTTP/1.1\r\n${good}Transfer-Encoding: gzip\r\n\r\n[]",
	"GET /Docs/Pull HTTP/1.1\r\n${good}X-A: \0\r\n\r\n", "GET /Docs/Pull\0 HTTP/1.1\r\n$good\r\n", "GET /Docs/Pull HTTP/1.1\r\n$good : x\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" . "\0" x 200)
{
	my $state = $http{gateway}->state;

	for my $layer (qw(postgrest gateway))
	{
		my ($answer) = answers_of($layer, $bytes, ['GET'], 0.5);

		# nginx ignores a line that isn't a header.
		ok(!$answer || $answer->[0] =~ /^(4\d\d|50[15])$/ || $bytes =~ /Host\r|X-A|^ : / || $layer eq 'postgrest', "$layer: not answered by 200: " . substr($bytes, 0, 60) =~ s/[^ -~]/./gr) or diag shown($answer);
		ok(!$answer || $layer eq 'postgrest' || defined eval { $JSON->decode($answer->[2]) }, '... JSON, if anything');
	}
	is($http{gateway}->state, $state, '... and nothing is stored');
}

# Headers that may occur only once, sent twice; and headers that must not come
# from outside
alike('nginx\'s own place', [ "GET /error HTTP/1.1\r\nHost: x\r\nConnection: close", '' ]);
alike($_->[0], [ "GET /Docs/Pull?collection=COLLECTION HTTP/1.1\r\nHost: x\r\n$_->[1]\r\nConnection: close", '' ])
  for [ 'two tokens', "Authorization: Bearer TOKEN(good)\r\nAuthorization: Bearer TOKEN(of bert)" ], [ 'two Hosts', "Host: y\r\nAuthorization: Bearer TOKEN(good)" ],
  [ 'two X-Client-Ids', "X-Client-Id: c1\r\nX-Client-Id: c2\r\nAuthorization: Bearer TOKEN(good)" ], [ 'a folded header', "X-Client-Id: c1\r\n c2\r\nAuthorization: Bearer TOKEN(good)" ];

done_testing();
