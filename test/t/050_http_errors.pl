# The table of errors, over HTTP: status, JSON, nothing stored, and no text of
# the request in a status line or a header.

use strict;
use warnings;

use lib 'test/t/lib';

use Encode ();
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

use DocsyncTest;
use DocsyncTest::Http;

my $node = new_node('main', conf => <<'END');
docsync.max_batch = 100
docsync.max_document_size = 1000
docsync.max_version_lead = 1min
END

my $http = DocsyncTest::Http->new($node);
my $docs = '/Docs?clientId=c1&collection=anna';
my $query = '/Docs/Query?clientId=c1&collection=anna';
my $pull = '/Docs/Pull?clientId=c1&collection=anna';

is($http->post($docs, [ good(id => 'old') ])->{status}, 200, 'a good upload');

#-----------------------------------------------------------------------------
# The body
#-----------------------------------------------------------------------------

refuses('documents missing', $docs, '{}', 400, '22023', qr{^"documents": missing$});
refuses('the fraction of a document', '/Docs/Sync', sync(maxDocuments => 1.5), 400, '22023', qr/^"maxDocuments" is out of range$/);
refuses('not an array', $docs, { documents => {} }, 400, '22023', qr/^documents is not an array$/);
refuses('a text', $docs, '"x"', 400, '22023', qr/^the body is not an object$/);
refuses('null', $docs, 'null', 400, '22023', qr/^the body is not an object$/);
refuses('an unknown key', $docs, { documents => [ good() ], Collection => 'anna' }, 400, '22023', qr/^unknown key in the body$/);
refuses('a key of a sync', $docs, { documents => [ good() ], cursor => undef }, 400, '22023', qr/^unknown key in the body$/);
refuses('no body', $docs, '', 400, '22P02', qr/^invalid JSON$/);
refuses('no JSON', $docs, '[{"id":', 400, '22P02', qr/^document 1, "id": invalid JSON$/);
refuses('a form', $docs, 'id=1', 400, '22P02', qr/^invalid JSON$/,
	headers => { 'content-type' => 'application/x-www-form-urlencoded' });
refuses('not an object', $docs, [ good(), 1 ], 400, '22023', qr/^document 2: not an object$/);
refuses('no id', $docs, [ { clientVersion => 1, body => 1 } ], 400, '22023', qr/^document 1, "id": missing$/);
refuses('no clientVersion', $docs, [ { id => 'x', body => 1 } ], 400, '22023', qr/^document 1, "clientVersion": missing$/);
refuses('no body', $docs, [ { id => 'x', clientVersion => 1 } ], 400, '22023', qr/^document 1, "body": missing$/);
refuses('wrong id', $docs, bad(id => 5), 400, '22023', qr/^document 2, "id": wrong type$/);
refuses('wrong clientVersion', $docs, bad(clientVersion => '1'), 400, '22023', qr/^document 2, "clientVersion": wrong type$/);
refuses('wrong deleted', $docs, bad(deleted => 1), 400, '22023', qr/^document 2, "deleted": wrong type$/);
refuses('a fraction', $docs, bad(clientVersion => 1.5), 400, '22023', qr/^document 2, "clientVersion": not an integer$/);
refuses('beyond 64 bits', $docs, '[{"id":"x","clientVersion":9223372036854775808,"body":1}]', 400, '22023',
	qr/^document 1, "clientVersion": out of range$/);
refuses('an unknown key', $docs, bad(Body => 1), 400, '22023', qr/^document 2: unknown key$/);
refuses('an empty id', $docs, bad(id => ''), 400, '22023', qr/^document 2, "id": empty$/);
refuses('a long id', $docs, bad(id => 'x' x 501), 400, '22023', qr/^document 2, "id": too long$/);
refuses('a NUL', $docs, '[{"id":"a\u0000","clientVersion":1,"body":1}]', 400, '22P05',
	qr/^document 1, "id": unsupported Unicode escape sequence$/);
refuses('a NUL in a body', $docs, bodies('{"note":"x\u0000y"}'), 400, '22P05',
	qr/^document 2, "body": unsupported Unicode escape sequence$/, place => [ 2, 'body' ]);
refuses('a long number', $docs, bodies('{"x":1e5000}'), 400, '22023', qr/^document 2, "body": number too long$/, place => [ 2, 'body' ]);
refuses('beyond a numeric', $docs, bodies('1e131072'), 400, '22023', qr/^document 2, "body": number too long$/, place => [ 2, 'body' ]);
refuses('a byte that is not UTF-8', $docs, bodies("\"\xff\""), 400, '22021', qr/^document 2, "body": not UTF-8$/, place => [ 2, 'body' ]);
refuses("nested $_ deep", $docs, bodies('[' x $_ . ']' x $_), 400, '22023', qr/^document 2, "body": nested too deeply$/, place => [ 2, 'body' ])
  for 101, 400;
refuses('half a character', $docs, '[{"id":"\ud800","clientVersion":1,"body":1}]', 400, '22P02', qr/^document 1, "id": invalid JSON$/);
refuses('too many documents', $docs, [ map { good(id => "x$_") } 1 .. 101 ], 413, 'PT413', qr/^too many documents$/);
refuses('a large document', $docs, bad(body => 'x' x 2000), 413, 'PT413', qr/^document 2, "body": too large$/, place => [ 2, 'body' ]);
refuses('ahead of the clock', $docs, bad(clientVersion => (time + 3600) * 1000), 400, '22023', qr/too far ahead/);

#-----------------------------------------------------------------------------
# Arguments
#-----------------------------------------------------------------------------

refuses('no clientId', '/Docs?collection=anna', [ good() ], 400, '22004', qr/^"clientId" is null$/);
refuses('no clientId', "/Docs?collection=anna&clientId$_", [ good() ], 400, '22004', qr/^"clientId" is null$/) for '', '=', '=null';
refuses('a long clientId', '/Docs?collection=anna&clientId=' . 'x' x 201, [ good() ], 400, '22023', qr/^"clientId" is too long$/);
refuses('a long collection', '/Docs?clientId=c1&collection=' . 'x' x 201, [ good() ], 400, '22023', qr/^collection is too long$/);
refuses('half an escape', '/Docs?collection=anna&clientId=100%', [ good() ], 400, '22023', qr/query string/);
refuses('no UTF-8', '/Docs?collection=anna&clientId=%ff', [ good() ], 400, '22023', qr/query string/);
refuses('a NUL', '/Docs?collection=anna&clientId=a%00b', [ good() ], 400, '22023', qr/query string/);
refuses('an array of one', '/Docs/Sync', [ sync() ], 400, '22023', qr/^the body is not an object$/);
refuses('an array', '/Docs/Sync', [ sync(), sync(documents => [ good(id => 'second') ]) ], 400, '22023',
	qr/^the body is not an object$/);
refuses('an array of documents', '/Docs/Sync', [ good() ], 400, '22023', qr/^the body is not an object$/);
refuses('a number', '/Docs/Sync', '1', 400, '22023', qr/^the body is not an object$/);
refuses('null', '/Docs/Sync', 'null', 400, '22023', qr/^the body is not an object$/);
refuses('no body', '/Docs/Sync', '', 400, '22P02', qr/^invalid JSON$/);
refuses('a form', '/Docs/Sync', 'clientId=c1', 400, '22P02', qr/^invalid JSON$/,
	headers => { 'content-type' => 'application/x-www-form-urlencoded' });
refuses('an unknown key', '/Docs/Sync', sync(Cursor => 1), 400, '22023', qr/^unknown key in the body$/);
for my $case ([ clientId => 5 ], [ cursor => 1.5 ], [ cursor => {} ], [ collection => ['anna'] ], [ origin => JSON::PP::true ],
	[ maxDocuments => '5' ], [ maxDocuments => [5] ], [ reconcile => 1 ], [ state => 5 ], [ tombstones => [] ])
{
	refuses('wrong type', '/Docs/Sync', sync(@$case), 400, '22023', qr/^"$case->[0]": wrong type$/);
}
refuses('documents of the wrong type', '/Docs/Sync', sync(documents => $_), 400, '22023', qr/^documents is not an array$/)
  for '[]', {}, 1, JSON::PP::false;
refuses('clientId null', '/Docs/Sync', sync(clientId => undef), 400, '22004', qr/^"clientId" is null$/);
refuses('an empty clientId', '/Docs/Sync', sync(clientId => ''), 400, '22023', qr/^"clientId" is empty$/);
refuses('an empty collection', '/Docs/Sync', sync(collection => ''), 400, '22023', qr/^collection is empty$/);
refuses('an empty cursor', '/Docs/Sync', sync(cursor => ''), 400, '22023', qr/^"cursor" is not a cursor$/);
refuses('an empty origin', '/Docs/Sync', sync(origin => ''), 400, '22023', qr/^unknown origin$/);
refuses('"null"', '/Docs/Sync', sync(cursor => 'null'), 400, '22023', qr/^"cursor" is not a cursor$/);
refuses('unknown origin', '/Docs/Sync', sync(origin => 'mine'), 400, '22023', qr/^unknown origin$/);
refuses("maxDocuments $_", '/Docs/Sync', sync(maxDocuments => $_), 400, '22023', qr/^"maxDocuments" is out of range$/)
  for 0, -1, 2_147_483_648;
refuses('maxDocuments 0', "$query&maxDocuments=0", '', 400, '22023', qr/^"maxDocuments" is out of range$/);
refuses('bad cursor', '/Docs/Sync', sync(cursor => 'x'), 400, '22023', qr/^"cursor" is not a cursor$/);
refuses('bad document', '/Docs/Sync', sync(documents => bad(id => 5)), 400, '22023', qr/^document 2, "id": wrong type$/);
refuses('another epoch', '/Docs/Sync', sync(cursor => '0000000000000001.1'), 410, 'resync_lost', qr/^resync required$/);
refuses('unknown origin', "$query&origin=mine", '', 400, '22023', qr/^unknown origin$/);
refuses('bad sinceUtc', "$query&sinceUtc=yesterday", '', 400, '22023', qr/^"sinceUtc" is not/);
refuses('no clientId', '/Docs/Query?collection=anna', '', 400, '22004', qr/^"clientId" is null$/);
refuses('sinceUtc ahead', "$query&sinceUtc=2999-01-01T00:00:00Z", '', 410, 'resync_lost', qr/^resync required$/);
refuses("maxDocuments $_", "$query&maxDocuments=$_", '', 400, '22023', qr/^"maxDocuments" is out of range$/)
  for qw(x 1x 1.5 -1 +1 %201 2147483648);
for my $name (qw(reconcile tombstones))
{
	refuses("$name $_", "$pull&$name=$_", undef, 400, '22023', qr/^"$name" is neither true nor false$/, method => 'GET') for qw(x t 1 TRUE);
}
refuses("state $_", "$pull&state=$_", undef, 400, '22023', qr/^"state" is neither true nor a digest$/, method => 'GET')
  for 'yes', 'TRUE', '0123456789ABCDEF', '0123456789abcde', '0123456789abcdef0';
refuses('state of a sync', '/Docs/Sync', sync(state => 'x'), 400, '22023', qr/^"state" is neither true nor a digest$/);
refuses('bad cursor', "$pull&cursor=1", undef, 400, '22023', qr/^"cursor" is not a cursor$/, method => 'GET');
refuses('another epoch', "$pull&cursor=0000000000000001.1", undef, 410, 'resync_lost', qr/^resync required$/, method => 'GET');

# Null counts as absent, except for a clientId, which is required.
{
	my $answer = $http->post('/Docs/Sync', sync(documents => undef, cursor => undef, collection => undef, origin => undef,
			maxDocuments => undef, clientId => 'c2'));

	is($answer->{status}, 200, 'a sync of nulls') or diag($answer->{content});
	like($answer->{content}, qr/"received":0,"results":\[\],"documents":\[\{"id":"old"/, 'is a download');

	# A cursor that was given out before anything was stored
	$answer = $http->get("$pull&cursor=0000000000000000.0");
	is($answer->{status}, 200, 'a cursor of the beginning') or diag($answer->{content});
}

#-----------------------------------------------------------------------------
# The query string, which is read in the same way for all requests
#-----------------------------------------------------------------------------

# The body for each: with a document, and without one
for my $request (
	[ 'POST', '/Docs', [ good() ], [] ], [ 'POST', '/Docs/Query', '', '' ], [ 'GET', '/Docs/Pull', undef, undef ],
	[ 'POST', '/Docs/Sync', { documents => [ good() ] }, {} ], [ 'POST', '/Docs/Reconcile', {}, {} ],
	[ 'POST', '/Docs/Get', { ids => ['old'] }, { ids => ['old'] } ])
{
	my ($method, $path, $body, $harmless) = @$request;
	my $token = DocsyncTest::Http::token(DocsyncTest::Http::claims(collection => 'anna'));

	for my $case (
		[ 'unknown parameter in the query string', 'colection=x', 'limit=0', 'clientid=c2', 'documents=', 'x', '%' . '20clientId=c2' ],
		[ 'a parameter occurs twice in the query string', 'clientId=c2&clientId=c2', 'clientId=&clientId=', 'clientId=c2&client%49d=c3' ],
		[ 'the query string is not valid', 'clientId=a%zz', 'clientId=Jos%E9', 'clientId=%', 'clientId=a%00' ])
	{
		my ($message, @queries) = @$case;

		refuses($_, "$path?$_", $body, 400, '22023', qr/^$message$/, method => $method) for @queries;
	}

	# Empty or null counts as absent: then the header's clientId and the claim's collection are
	# used.
	my $answer = $http->request($method, "$path?clientId=&&collection=null&", $harmless, token => $token, headers => { 'x-client-id' => 'c2' });
	is($answer->{status}, 200, "$path: what is empty or null isn't there") or diag $answer->{content};
	like($answer->{content}, qr/"id": ?"old"/, "$path: so it is the token's collection") unless $path eq '/Docs';

	# Bytes that PostgREST can't turn into JSON, and bytes that it can
	for my $bytes (map { pack 'H*', $_ } qw(e9 4a6f73e9 c0af eda080 f4908080 80 c3 c3a9 e282ac f09f9880))
	{
		my $text = ref $harmless ? encode_json($harmless) : $harmless // '';
		my $is_text = defined eval { Encode::decode('UTF-8', my $copy = $bytes, Encode::FB_CROAK) };

		for my $where ("?clientId=$bytes HTTP/1.1\r\n", " HTTP/1.1\r\nX-Client-Id: $bytes\r\n")
		{
			my $came = $http->raw($path,
				"$method $path${where}Host: x\r\nConnection: close\r\nAuthorization: Bearer $token\r\nContent-Length: " . length($text) . "\r\n\r\n$text");

			# The gateway accepts only ASCII in a request line.
			my $is_good = $is_text && ($http->has_rpc || $where =~ /X-Client-Id/);

			like($came, $is_good ? qr{^HTTP/1\.1 200 } : qr{^HTTP/1\.1 400 .*"code":"PT400"}s, "$path: bytes " . unpack('H*', $bytes));
		}
	}
}

# The body's key counts if the query string has none.
is(DocsyncTest::Http::value_of($http->post('/Docs/Sync?clientId=c1&origin=own', sync(clientId => 'c2', origin => 'any', documents => undef)))->{documents}[0]{id},
	'old', 'the query string counts before the body');

#-----------------------------------------------------------------------------
# Clients that can't resume
#-----------------------------------------------------------------------------

# Two documents, with tombstones between them: all but the newest of a client
# have been purged.
{
	my $from = '/Docs?clientId=c1&collection=anna/purged';

	$http->post($from, [ map { good(id => $_) } qw(first x y z) ]);
	my $first = DocsyncTest::Http::value_of($http->get('/Docs/Pull?collection=anna/purged&maxDocuments=1'));
	my $since = $first->{documents}[0]{LastUpdateUtc};
	$http->post($from, [ { id => $_, clientVersion => 2, deleted => JSON::PP::true } ]) for qw(x y z);
	$http->post($from, [ good(id => 'last') ]);
	is($http->session->value(q{CALL docsync_purge('0', 'anna/purged')}), 2, 'tombstones are purged');

	my $away = '/Docs/Query?clientId=c2&collection=anna/purged';
	refuses('away for too long', '/Docs/Pull?collection=anna/purged&cursor=' . $first->{cursor}, undef, 410, 'resync_purged',
		qr/^resync required$/, method => 'GET');
	refuses('away for too long', "$away&sinceUtc=$since", '', 410, 'resync_purged', qr/^resync required$/);
	refuses('away for too long', '/Docs/Sync', sync(clientId => 'c2', collection => 'anna/purged', cursor => unbound($first)),
		410, 'resync_purged', qr/^resync required$/);
	refuses('pages by stamps', "$away&maxDocuments=1", '', 409, 'use_cursor', qr/^use a cursor$/);
	refuses('pages by stamps', "$away&maxDocuments=1&sinceUtc=1970-01-01T00:00:00Z", '', 409, 'use_cursor', qr/^use a cursor$/);
	is($http->post($away, '')->{status}, 200, 'all at once there is no need for one');
	is($http->post("$away&maxDocuments=3", '')->{status}, 200, 'nor on one page');

	# In SQL, and through PostgREST without nginx
	my $session = $http->session;
	is($session->sqlstate_of("SELECT docsync_pull(cursor => '$first->{cursor}', collection => 'anna/purged')"), '55000',
		'without HTTP it is SQLSTATE 55000');
	like($session->errstr, qr/^ERROR:  resync required\nDETAIL:  \{"reason": "purged", .*\}\nHINT:  /, 'and the detail JSON');
	if ($http->has_rpc)
	{
		refuses('away for too long', '/rpc/docsync_pull?collection=anna/purged&cursor=' . $first->{cursor}, undef, 410,
			'resync_purged', qr/^resync required$/, method => 'GET');
		refuses('away for too long', '/rpc/docsync_sync', sync(clientId => 'c2', collection => 'anna/purged', cursor => unbound($first)),
			410, 'resync_purged', qr/^resync required$/);
	}
}

# For another client: without its binding
sub unbound { return join '.', (split /\./, $_[0]{cursor})[ 0, 1 ] }

#-----------------------------------------------------------------------------
# Comparing
#-----------------------------------------------------------------------------

for my $path ('/Docs/Reconcile', '/Docs/Get')
{
	refuses('an array', $path, [ asked($path) ], 400, '22023', qr/^the body is not an object$/);
	refuses('null', $path, 'null', 400, '22023', qr/^the body is not an object$/);
	refuses('no body', $path, '', 400, '22P02', qr/^invalid JSON$/);
	refuses('no JSON', $path, '{"clientId":', 400, '22P02', qr/^"clientId": invalid JSON$/);
	refuses('an unknown key', $path, asked($path, Ids => []), 400, '22023', qr/^unknown key in the body$/);
	refuses('a key of a sync', $path, asked($path, documents => []), 400, '22023', qr/^unknown key in the body$/);
	refuses("$_ of the wrong type", $path, asked($path, $_ => 5), 400, '22023', qr/^"$_": wrong type$/) for qw(clientId collection cursor);
	refuses('an empty clientId', $path, asked($path, clientId => ''), 400, '22023', qr/^"clientId" is empty$/);
	refuses('no clientId', $path, asked($path, clientId => undef, origin => 'other'), 400, '22004', qr/^"clientId" is null$/);
	refuses('an empty collection', $path, asked($path, collection => ''), 400, '22023', qr/^collection is empty$/);
	refuses('unknown origin', $path, asked($path, origin => 'mine'), 400, '22023', qr/^unknown origin$/);
	refuses('bad cursor', $path, asked($path, cursor => 'x'), 400, '22023', qr/^"cursor" is not a cursor$/);
	refuses('wrong method', $path, undef, 405, 'PT405', qr/./, method => 'GET');
	refuses('gzip', $path, asked($path), 415, 'PT415', qr/./, headers => { 'content-encoding' => 'gzip' });
}
for my $buckets ([256], [-1], [1.5], ['1'], [[1]], [ 1, undef ])
{
	refuses('buckets', '/Docs/Reconcile', { buckets => $buckets }, 400, '22023', qr/^"buckets": out of range$/);
}
refuses('buckets no array', '/Docs/Reconcile', { buckets => $_ }, 400, '22023', qr/^"buckets" is not an array$/) for 1, 'all', {};
refuses('after of the wrong type', '/Docs/Reconcile', { after => 5 }, 400, '22023', qr/^"after": wrong type$/);
refuses("maxDocuments $_", '/Docs/Reconcile', { maxDocuments => $_ }, 400, '22023', qr/^"maxDocuments" is out of range$/)
  for 0, -1, 1.5;
refuses('ids missing', '/Docs/Get', {}, 400, '22023', qr/^"ids" is not an array$/);
refuses('ids no array', '/Docs/Get', { ids => $_ }, 400, '22023', qr/^"ids" is not an array$/) for 1, 'old', {}, undef;
refuses('an id that is none', '/Docs/Get', { ids => [ 'old', $_ ] }, 400, '22023', qr/^"ids": id 2 has the wrong type$/)
  for 5, undef, [], {};
refuses('too many ids', '/Docs/Get', { ids => [ map { "x$_" } 1 .. 101 ] }, 413, 'PT413', qr/^too many ids$/);

#-----------------------------------------------------------------------------
# Errors of nginx itself, and of the gateway
#-----------------------------------------------------------------------------

refuses('wrong method', $docs, undef, 405, 'PT405', qr/./, method => 'GET');
refuses('wrong method', $docs, undef, 405, 'PT405', qr/./, method => 'DELETE');
refuses('wrong method', $docs, [ good() ], 405, 'PT405', qr/./, method => 'PUT');
refuses('wrong method', $query, undef, 405, 'PT405', qr/./, method => 'GET');
refuses('wrong method', '/Docs/Sync', undef, 405, 'PT405', qr/./, method => 'GET');
refuses('wrong method', $pull, '{}', 405, 'PT405', qr/./);
refuses('another path', '/', undef, 404, 'PT404', qr/./, method => 'GET');
refuses('PostgREST through nginx, or none', "http://127.0.0.1:$http->{port}/rpc/docsync_docs", [ good() ], 404, 'PT404', qr/./);
refuses('gzip', $docs, [ good() ], 415, 'PT415', qr/./, headers => { 'content-encoding' => 'gzip' });
refuses('a long header', $docs, [ good() ], 431, 'PT431', qr/./, headers => { 'x-client-id' => 'x' x 20000 });
refuses('a long request line', "$docs&cursor=" . 'x' x 20000, [ good() ], 414, 'PT414', qr/./);
refuses('a method of no path of the service', '/Doc', undef, 404, 'PT404', qr/./, method => 'PUT');
for my $case ([ 'DELETE', '/Docs', 'POST' ], [ 'GET', '/Docs/Sync', 'POST' ], [ 'POST', '/Docs/Pull', 'GET, HEAD' ])
{
	my ($method, $path, $allowed) = @$case;

	is($http->request($method, $path, undef)->{headers}{allow}, $allowed, "405 for $method $path says what is allowed");
}
is($http->request('HEAD', $pull, undef)->{status}, 200, 'HEAD goes where GET goes');
is($http->post($docs, [ good(id => 'old') ], headers => { 'content-encoding' => 'identity' })->{status}, 200, 'a body that says it is not compressed');
refuses('a long body', $query, 'x' x 100_000, 413, 'PT413', qr/./);

like(
	$http->raw('/', "POST $docs HTTP/1.1\r\nHost: x\r\nContent-Length: 67108865\r\n\r\n["),
	qr{^HTTP/1.1 413 .*\r\n\r\n\{"code":"PT413",.*\}$}s,
	'a byte more than 64 MB: 413, as JSON');

if ($http->has_rpc)
{
	$http->stop_layer;
	refuses('without PostgREST', $docs, [ good() ], 502, 'PT502', qr/./);
	$http->start_layer;
}

#-----------------------------------------------------------------------------
# CR LF wherever a client can put it
#-----------------------------------------------------------------------------

my $evil = "\r\nSet-Cookie: evil=1\r\n\r\n<html>evil";
my $escaped = $evil =~ s/([^a-zA-Z0-9])/sprintf '%%%02x', ord $1/ger;

for my $request (
	[ 'clientId', '/Docs?collection=anna&clientId=' . $escaped x 20, [ good() ] ],
	[ 'a parameter', "/Docs?clientId=%zz$escaped", [ good() ] ],
	[ 'a collection', "/Docs?clientId=c1&collection=$escaped", [ good() ] ],
	[ 'an id', $docs, [ good(id => $evil x 50) ] ],
	[ 'the id of a large document', $docs, bad(id => $evil, body => 'x' x 2000) ],
	[ 'the ids of too many', $docs, [ map { good(id => "$evil$_") } 1 .. 101 ] ],
	[ 'a key', $docs, bad($evil => 1) ],
	[ 'a clientVersion', $docs, bad(clientVersion => $evil) ],
	[ 'the body', $docs, $evil ],
	[ 'documents', '/Docs/Sync', sync(documents => $evil) ],
	[ 'a cursor', '/Docs/Sync', sync(cursor => $evil) ],
	[ 'a cursor of another epoch', '/Docs/Sync', sync(cursor => "0000000000000001.1$evil") ],
	[ 'a state', '/Docs/Sync', sync(state => $evil) ],
	[ 'an origin', '/Docs/Sync', sync(origin => $evil) ],
	[ 'a collection of a sync', '/Docs/Sync', sync(collection => $evil) ],
	[ 'an argument', '/Docs/Sync', sync($evil => 1) ],
	[ 'a cursor and the clientId of another epoch', '/Docs/Sync', sync(cursor => '0000000000000001.1', clientId => $evil) ],
	[ 'the collection of a sinceUtc ahead', "/Docs/Query?clientId=c1&collection=$escaped&sinceUtc=2999-01-01T00:00:00Z", '' ],
	[ 'a cursor of a comparison', '/Docs/Reconcile', asked('/Docs/Reconcile', cursor => $evil) ],
	[ 'a cursor of another epoch, of a comparison', '/Docs/Get', asked('/Docs/Get', cursor => "0000000000000001.1$evil") ],
	[ 'an origin of a comparison', '/Docs/Reconcile', asked('/Docs/Reconcile', origin => $evil) ],
	[ 'a collection of a comparison', '/Docs/Reconcile', asked('/Docs/Reconcile', collection => "$evil$evil" x 20) ],
	[ 'a key of a comparison', '/Docs/Get', asked('/Docs/Get', $evil => 1) ],
	[ 'an id', '/Docs/Get', asked('/Docs/Get', ids => $evil) ],
	[ 'ids', '/Docs/Get', asked('/Docs/Get', ids => [ map { "$evil$_" } 1 .. 101 ]) ],
	[ 'buckets', '/Docs/Reconcile', { buckets => [$evil] } ],
	[ 'a sinceUtc', "$query&sinceUtc=$escaped", '' ],
	[ 'a sinceUtc ahead', "$query&sinceUtc=2999-01-01T00:00:00Z$escaped", '' ],
	[ 'maxDocuments', "$query&maxDocuments=$escaped", '' ],
	[ 'a path', "/Docs/$escaped", '' ],
	[ 'a role', $docs, [ good() ], { role => $evil } ],
	[ 'a claim', $docs, [ good() ], { client_id => $evil } ],
	[ 'a token', $docs, [ good() ], {}, { alg => $evil } ])
{
	my ($name, $path, $body, $claims, $header) = @$request;
	my $token = DocsyncTest::Http::token(DocsyncTest::Http::claims(%{ $claims // {} }), undef, $header);
	my $text = ref $body ? encode_json($body) : $body;
	my $answer = $http->raw($path,
			"POST $path HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer $token\r\n"
		  . 'Content-Length: ' . length($text) . "\r\n\r\n$text");
	my ($head) = $answer =~ /^(.*?)\r\n\r\n/s;

	like($answer, qr{^HTTP/1\.1 4\d\d [A-Za-z0-9":, ]+\r\n}, "CR LF in $name: the status line is whole");
	unlike($head, qr/evil/i, "CR LF in $name: nothing of it in the headers");
}

done_testing();

sub good { return { id => 'new', clientVersion => 1, body => 1, @_ } }

# A good document and one that isn't
sub bad { return [ good(), good(@_) ] }

# As text, a good document and one with a body
sub bodies { return qq([{"id":"a","clientVersion":1,"body":"ok"},{"id":"b","clientVersion":1,"body":$_[0]}]) }

# The body of POST /Docs/Sync
sub sync { return { clientId => 'c1', collection => 'anna', documents => [ good() ], @_ } }

# The body of POST /Docs/Reconcile or /Docs/Get
sub asked { return { clientId => 'c1', collection => 'anna', shift eq '/Docs/Get' ? (ids => []) : (), @_ } }

# A request must be refused: the answer is JSON in PostgREST's form, and nothing
# is stored.
sub refuses
{
	my ($name, $path, $body, $status, $code, $message, %options) = @_;
	my $method = delete $options{method} // 'POST';
	my $place = delete $options{place};
	my $before = $http->state;
	my $answer = $http->request($method, $path, $body, %options);
	my $error = DocsyncTest::Http::value_of($answer);

	$error = {} if ref $error ne 'HASH';
	subtest "$status for $method $path: $name" => sub {
		is($answer->{status}, $status, 'status');
		like($answer->{headers}{'content-type'}, qr{^application/json}, 'content type');
		is_deeply([ sort keys %$error ], [qw(code details hint message)], 'keys');
		is($error->{code}, $code, 'code');
		like($error->{message}, $message, 'message');
		like((eval { decode_json($error->{details}) } // {})->{reason}, qr/^(purged|lost|pages)$/, 'details are JSON')
		  if $code =~ /^[a-z]/;
		my $details = eval { decode_json($error->{details}) } // {};
		is_deeply([ @$details{qw(document key)} ], $place, 'details are JSON, with the place') if $place;
		is($http->state, $before, 'nothing is stored');
	} or diag("$answer->{status} $answer->{content}");
	return;
}
