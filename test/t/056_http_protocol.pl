# doc/protocol.md: its examples are sent, in order, and answered as it says.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use DocsyncTest::Http;
use DocsyncTest::Page;
use JSON::PP;
use Test::More;

my $JSON = JSON::PP->new->utf8->canonical->allow_nonref;
my $node = new_node('main');
my $http = DocsyncTest::Http->new($node);
my $session = $http->session;
my $page = DocsyncTest::Page->new('doc/protocol.md');
my $text = $page->text;
my $cursor = '';
my $answer;

for my $fenced (grep { $_->{kind} =~ /^(?:http|json|sql)$/ } map { $_, $_->{output} // () } $page->blocks)
{
	my ($kind, $status, $block) = ($fenced->{kind}, $fenced->{info} // 200, $fenced->{text});

	if ($kind eq 'sql')
	{
		# A procedure that commits can't be one of several commands in a string.
		$session->do($_) for grep { /\S/ } split /;\n/, $block;
	}
	elsif ($kind eq 'http')
	{
		my ($method, $path, $body) = $block =~ /^(GET|POST) (\S+)\n(.*)/s or BAIL_OUT("not a request: $block");

		s/CURSOR/$cursor/g for $path, $body;
		$answer = $http->request($method, $path, $body);
		$answer->{name} = "$method $path";
	}
	else
	{
		my $got = DocsyncTest::Http::value_of($answer);

		is($answer->{status}, $status, "$answer->{name}: status $status");
		is_deeply($page->shown($got, decode_json($block)), decode_json($block), "$answer->{name}: as shown") or diag($answer->{content});
		$cursor = $got->{cursor} if ref $got eq 'HASH' && defined $got->{cursor};
	}
}

# The table of arguments: each request accepts the arguments listed for it, in the places
# listed, and no others.
my ($head, @rows) = $text =~ /^(\| argument \|.*\|)\n\| --- .*\n((?:\|.*\n)+)/m;
my @requests = grep { /^[A-Z]/ } split / *\| */, $head;
my %base = (Docs => { documents => [] }, Sync => {}, Reconcile => {}, Get => { ids => [] });

@rows = split /\n/, $rows[0];
is("@requests", 'Docs Query Sync Pull Reconcile Get', 'the table of arguments has all requests');
for my $row (@rows)
{
	my (undef, $argument, @where) = split / *\| */, $row;

	$argument =~ tr/`//d;
	for my $request (@requests)
	{
		my $where = shift @where;
		my $path = $request eq 'Docs' ? '/Docs' : "/Docs/$request";
		my $method = $request eq 'Pull' ? 'GET' : 'POST';
		my $url = $path . ($path =~ /[?]/ ? '&' : '?') . "$argument=";
		my $known = $argument eq 'documents' ? 0 : $where =~ /^(query|both|each)$/;

		is(is_known($method, $url, $base{$request}), $known ? 1 : 0, "$request: $argument in the query string");
		next unless $base{$request};
		is(is_known($method, $path, { $argument => undef, %{ $base{$request} } }), $where =~ /^(body|both|each)$/ ? 1 : 0, "$request: $argument in the body");
		is(is_known($method, $path, { collections => [ { $argument => undef } ] }), $where eq 'each' ? 1 : 0, "$request: $argument of each collection")
		  if $request eq 'Sync';
	}
}
cmp_ok(scalar @rows, '>=', 15, 'there are arguments');

# The hash, in an independent implementation
my @vectors = $text =~ /^\| (?:`([^`]*)`|\(empty\)) \| ([0-9a-f]{8}) \| ([0-9a-f]{8}) \|$/mg;
cmp_ok(scalar @vectors, '>=', 15, 'there are vectors');
while (my ($bytes, $high, $low) = splice @vectors, 0, 3)
{
	$bytes //= '';
	is(sprintf('%08x %08x', murmur3($bytes, 0), murmur3($bytes, 0x5bd1e995)), "$high $low", "vector \"$bytes\"");
}

# The digest of what is stored, computed from the documents
my ($state) = $JSON->decode($session->value(q{SELECT api.docsync_pull('tablet', state => 'true', collection => 'anna')}))->{state};
my ($high, $low, @sums) = (0, 0, map { [ 0, 0 ] } 1 .. 256);
for my $row (@{ $session->rows(q{SELECT id, client_version, to_char(last_update_utc AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
								   FROM docsync.document WHERE collection = 'anna' AND NOT deleted}) })
{
	my $bytes = sprintf '%d:%s,%s,%s', length $row->[0], @$row;
	my $sum = $sums[ murmur3($row->[0], 0) % 256 ];

	$sum->[0] += murmur3($bytes, 0);
	$sum->[1] += murmur3($bytes, 0x5bd1e995);
}
is($state->{count}, 1, 'one document is live');
is_deeply($state->{sums}, [ map { sprintf '%08x%08x', map { $_ % 2**32 } @$_ } @sums ], 'its sums are those of the document');
my $digest = $state->{digest};
is($session->value(qq{SELECT api.docsync_pull('tablet', state => '$digest', collection => 'anna')::jsonb -> 'state'}),
	qq({"count": 1, "digest": "$digest"}), 'who has the same digest needs no sums');

done_testing();

# Does a request accept an argument?
sub is_known
{
	my ($method, $path, $body) = @_;
	my $answer = $http->request($method, $path, $body, headers => { 'x-client-id' => 'tablet' });

	return 1 if $answer->{status} == 200;
	return $answer->{content} =~ /"message":"[^"]*unknown (key|parameter)/ ? 0 : $answer->{content};
}

sub murmur3
{
	my ($bytes, $h) = @_;
	my $mul = sub { my ($a, $b) = @_; return (($a * ($b & 0xffff)) + ((($a * ($b >> 16)) & 0xffff) << 16)) & 0xffffffff };
	my $rotl = sub { my ($x, $r) = @_; return (($x << $r) | ($x >> (32 - $r))) & 0xffffffff };
	my $mix = sub { return $mul->($rotl->($mul->($_[0], 0xcc9e2d51), 15), 0x1b873593) };
	my $length = length $bytes;

	for my $k (unpack 'V*', substr $bytes, 0, $length - $length % 4)
	{
		$h ^= $mix->($k);
		$h = ($mul->($rotl->($h, 13), 5) + 0xe6546b64) & 0xffffffff;
	}
	$h ^= $mix->(unpack 'V', substr($bytes, $length - $length % 4) . "\0" x 4);
	$h ^= $length;
	$h = $mul->($h ^ ($h >> 16), 0x85ebca6b);
	$h = $mul->($h ^ ($h >> 13), 0xc2b2ae35);
	return $h ^ ($h >> 16);
}
