# Tenants over HTTP: who may read and write which collection, and that nobody
# learns anything about somebody else's.

use strict;
use warnings;

use lib 'test/t/lib';

use PostgreSQL::Test::Utils;
use Test::More;

use DocsyncTest;
use DocsyncTest::Http;

my $node = new_node('main');
my $http = DocsyncTest::Http->new($node);
my %token = map { $_ => token_of(tenant => $_, collection => $_) } qw(anna bert ann);
my @secret = (
	{ id => 'known', clientVersion => 5, body => 'secret of anna' },
	{ id => 'gone', clientVersion => 5, deleted => JSON::PP::true });

for my $collection ('anna', 'anna/notes')
{
	my $answer = $http->post("/Docs?clientId=a1&collection=$collection", [ { id => 'bygone', clientVersion => 5, deleted => JSON::PP::true }, @secret ],
		token => $token{anna});

	is($answer->{status}, 200, "anna writes $collection");
	is($http->session->value("CALL docsync_purge('0', ?)", $collection), 1, 'a tombstone of it is purged');
	is(read_as($token{anna}, $collection), 2, "anna reads $collection");
	like($http->post('/Docs/Reconcile', { collection => $collection }, token => $token{anna})->{content}, qr/"purgedThrough":"2/,
		'and is told of the purge');
}

#-----------------------------------------------------------------------------
# Reading somebody else's documents: as if they didn't exist
#-----------------------------------------------------------------------------

for my $tenant (qw(bert ann))
{
	for my $collection ('anna', 'anna/notes')
	{
		is(read_as($token{$tenant}, $collection), 0, "$tenant reads nothing of $collection");
		is(answer_as($token{$tenant}, $collection), answer_as($token{$tenant}, 'anna-has-none'),
			"to $tenant $collection looks like one that is empty");
	}
}

#-----------------------------------------------------------------------------
# Writing somebody else's documents: the same refusal, whatever is stored
#-----------------------------------------------------------------------------

for my $tenant (qw(bert ann))
{
	my %refusals;

	for my $document (
		{ id => 'new', clientVersion => 1, body => 1 },
		{ id => 'known', clientVersion => 1, body => 1 },
		{ id => 'known', clientVersion => 5, body => 'secret of anna' },
		{ id => 'known', clientVersion => 9, body => 1 },
		{ id => 'known', clientVersion => 9, deleted => JSON::PP::true },
		{ id => 'gone', clientVersion => 9, body => 1 })
	{
		for my $collection ('anna', 'anna/notes', 'default')
		{
			for my $request (
				[ "/Docs?clientId=a1&collection=$collection", [$document] ],
				[ '/Docs/Sync', { clientId => 'a1', collection => $collection, documents => [$document] } ])
			{
				my $before = $http->state;
				my $answer = $http->post(@$request, token => $token{$tenant});

				is($answer->{status}, 403, "$tenant is refused $request->[0], $collection, $document->{id}");
				is($http->state, $before, 'nothing is stored');
				# The id is the one that was sent.
				$refusals{ $answer->{content} =~ s/\Q$document->{id}\E/ID/r }++;
			}
		}
	}
	is(scalar keys %refusals, 1, "$tenant can't tell one refusal from another");
	like((keys %refusals)[0], qr/"code":"42501"/, 'it is 42501');
	unlike((keys %refusals)[0], qr/secret/, 'it shows nothing of the document');
}

# A batch can't have one document for another's collection: a batch has one
# collection.  But the name may look like the caller's own.
for my $collection ('bert/../anna', 'BERT', 'ber', 'bertha', '/bert', ' bert', 'bert%00/anna')
{
	my $answer = $http->post('/Docs/Sync',
		{ clientId => 'b1', collection => $collection, documents => [ { id => 'x', clientVersion => 1, body => 1 } ] },
		token => $token{bert});
	my $own = $collection =~ m{^bert/};

	is($answer->{status}, $own ? 200 : 403, "bert and $collection");
}
is(read_as($token{anna}, 'anna'), 2, 'anna has what she had');

#-----------------------------------------------------------------------------
# Several collections in one request: only somebody else's is refused
#-----------------------------------------------------------------------------

for my $atomic (JSON::PP::true, JSON::PP::false)
{
	my @documents = map { { id => $_, clientVersion => 9 + !$atomic, body => 'of bert' } } 'known', 'of bert';
	my $answer = $http->post('/Docs/Sync',
		{ clientId => 'b1', atomic => $atomic, origin => 'any', collections => [ map { { collection => $_, documents => \@documents } } 'bert/b', 'anna', 'bert' ] },
		token => $token{bert});
	my ($own, $other, $another) = @{ DocsyncTest::Http::value_of($answer)->{collections} };
	my @refusals = $atomic ? $other : @{ $other->{results} };

	is($answer->{status}, 200, "bert syncs anna's, too, atomic $atomic");
	is("@$_{qw(collection received)} " . @{ $_->{documents} }, ($_ == $own ? 'bert/b' : 'bert') . ' 2 2', 'his own go on') for $own, $another;
	is("$other->{collection} $_->{error}{code}", 'anna 42501', 'anna\'s is refused') for @refusals;
	is(exists $other->{documents} ? scalar @{ $other->{documents} } : 0, 0, 'and not read');
	unlike($answer->{content}, qr/secret/, 'nothing of it is shown');
}
is(read_as($token{anna}, 'anna'), 2, 'anna has what she had');
{
	my $answer = $http->post('/Docs/Sync', { clientId => 'b1', collections => [ { collection => 'anna' }, {} ] }, token => $token{bert});

	like($answer->{content}, qr/^[{]"collections":\[[{]"collection":"anna","received":0,"results":\[\],"documents":\[\],.*[{]"collection":"bert",/,
		'without documents it looks like one that is empty; the claim is the name of the other');
	is($http->post('/Docs/Sync', { clientId => 'b1', collections => [ {}, { collection => 'bert' } ] }, token => $token{bert})->{status}, 400,
		'which is not to be asked for twice');
	is($http->post('/Docs/Sync', { collections => [ {} ] }, token => token_of(tenant => 'bert', client_id => 'b7'), headers => { 'x-client-id' => 'b8' })->{status},
		403, 'a claim client_id binds all');
	is($http->post('/Docs/Sync?collection=bert', { clientId => 'b1', collections => [ {} ] }, token => $token{bert})->{status}, 400,
		'what each has its own of isn\'t in the query string');
	is($http->post('/Docs/Sync', { clientId => 'b1', collections => [ ({}) x 61 ] }, token => $token{bert})->{status}, 413, '61 are too many');

	my $large = { id => 'x', clientVersion => 1, body => 'x' x 1_100_000 };
	my ($one, $other) = @{ DocsyncTest::Http::value_of($http->post('/Docs/Sync',
		{ clientId => 'b1', collections => [ { documents => [$large] }, { collection => 'bert/b' } ] }, token => $token{bert}))->{collections} };

	is("$one->{error}{code} $other->{more}", 'PT413 0', 'a code is what it would be alone');
}

#-----------------------------------------------------------------------------
# Where the client and the collection come from
#-----------------------------------------------------------------------------

refused('no token', undef, 401);
refused('garbage', 'garbage', 401);
refused('an empty token', '', 401);
refused('another secret', DocsyncTest::Http::token(DocsyncTest::Http::claims(), 'another secret, of 32 characters or more'), 401);
refused('expired', token_of(exp => time - 120), 401);
refused('not yet valid', token_of(nbf => time + 3600), 401);
refused('not signed', DocsyncTest::Http::token(DocsyncTest::Http::claims(), undef, { alg => 'none' }), 401);
refused('another payload', forged(), 401);
refused('no role', token_of(role => undef), 401);
refused('the anonymous role', token_of(role => 'docsync_anon'), 401);
refused('the role of a superuser', token_of(role => 'postgres'), 403);
refused("the role of $_", token_of(role => "docsync_$_"), 403) for 'authenticator', 'gateway';
refused('no role at all', token_of(role => 'none'), 403);
refused('no tenant', token_of(tenant => undef), 403);
refused('an empty tenant', token_of(tenant => ''), 403);
refused('the tenant a list', token_of(tenant => ['anna']), 403);
refused('another tenant', $token{bert}, 403);

sub forged
{
	my ($header, undef, $signature) = split /\./, $token{bert};
	my (undef, $payload) = split /\./, $token{anna};

	return "$header.$payload.$signature";
}

# A claim client_id is binding; without one the argument counts, or else the
# header.
my $bound = token_of(client_id => 'a7');

is(sender('', $bound), 'a7', 'the claim is the clientId');
is(sender('&clientId=a7', $bound), 'a7', 'so is an argument that agrees');
is(sender('', $bound, 'a7'), 'a7', 'and a header that agrees');
is(sender('&clientId=a8', $bound), 403, 'an argument that does not is refused');
is(sender('', $bound, 'a8'), 403, 'so is a header');
is(sender('&clientId=a7', $bound, 'a8'), 'a7', 'an argument goes before a header');
is(sender('', $token{anna}, 'a8'), 'a8', 'without a claim the header counts');
is(sender('&clientId=a9', $token{anna}, 'a8'), 'a9', 'but an argument goes first');
is(sender('&clientId=', $token{anna}, 'a8'), 'a8', 'an empty one is none');
is(sender('&clientId=dev%2F%C3%A9%2B2%20x+y', $token{anna}), "dev/\x{e9}+2 x y", 'an argument is decoded');
is(sender('&clientId=a8', $token{anna}, undef, { 'x-query-string' => 'clientId=forged' }), 'a8', 'X-Query-String is nginx\'s own');
is($http->post('/Docs/Sync', { collection => 'anna' }, token => $token{anna}, headers => { 'x-query-string' => 'clientId=a8' })->{status},
	400, 'on other paths, too');
is($http->post('/Docs/Query?collection=anna&clientId=a8', '', token => $bound)->{status}, 403, 'a claim binds a download');
is($http->get('/Docs/Pull?collection=anna&clientId=a8', token => $bound)->{status}, 403, 'and a pull');
is($http->post('/Docs/Sync', { clientId => 'a8' }, token => $bound)->{status}, 403, 'and a sync');
is($http->post('/Docs/Reconcile', { clientId => 'a8' }, token => $bound)->{status}, 403, 'and a comparison');
is($http->post('/Docs/Get', { clientId => 'a8', ids => ['known'] }, token => $bound)->{status}, 403, 'and documents by id');
is(sender('&clientId=a8', token_of(client_id => '')), 403, 'an empty claim binds');
is(sender('', token_of(client_id => '')), 400, 'and is no clientId');
is(sender('', token_of(client_id => 7)), 400, 'nor is a number');

# The claim "collection" is the default for requests that name none.  Only the
# claim "tenant" decides who owns a collection.
my $claimed = token_of(collection => 'anna/claimed');

is($http->post('/Docs?clientId=a1', \@secret, token => $claimed)->{status}, 200, 'an upload to the collection of the claim');
is($http->session->value("SELECT count(*) FROM docsync.document WHERE collection = 'anna/claimed'"), 2, 'is stored there');
is(scalar @{ DocsyncTest::Http::value_of($http->post($_, '', token => $claimed, headers => { 'x-client-id' => 'x' })) }, 2,
	"$_ reads there") for '/Docs/Query?origin=other&sinceUtc=1970-01-01T00:00:00Z', '/Docs/Query';
is(scalar @{ DocsyncTest::Http::value_of($http->get('/Docs/Pull', token => $claimed))->{documents} }, 2, 'so does a pull');
{
	my $answer = DocsyncTest::Http::value_of($http->post('/Docs/Sync',
		{ clientId => 'x', documents => [ { id => 'own', clientVersion => 1, body => 1 } ] }, token => $claimed));

	is("$answer->{received} " . @{ $answer->{documents} }, '1 2', 'and a sync, which writes there, too');
}
is(read_as($claimed, 'anna/notes'), 2, 'an argument goes before the claim');
is($http->post('/Docs?clientId=b1', \@secret, token => token_of(tenant => 'bert', collection => 'anna'))->{status}, 403,
	'a claim of another\'s collection gives no right to write it');
is($http->get('/Docs/Pull', token => token_of(tenant => 'bert', collection => 'anna'))->{content} =~ /"documents":\[\]/, 1,
	'nor to read it');
is($http->post('/Docs?clientId=a1', \@secret, token => token_of(collection => undef))->{status}, 403,
	'without a claim it is the collection "default", which is nobody\'s');
is($http->post('/Docs?clientId=a1', \@secret, token => token_of(collection => $_))->{status}, 400, 'a claim that is no collection')
  for '', 7, ['anna'];

#-----------------------------------------------------------------------------
# What can't be called
#-----------------------------------------------------------------------------

call_what_is_not_there() if $http->has_rpc;

done_testing();

sub token_of
{
	my $claims = DocsyncTest::Http::claims(@_);

	delete $claims->{$_} for grep { !defined $claims->{$_} } keys %$claims;
	return DocsyncTest::Http::token($claims);
}

sub answer_as
{
	my ($token, $collection) = @_;
	my @answers = (
		$http->get("/Docs/Pull?collection=$collection", token => $token),
		$http->get("/Docs/Pull?collection=$collection&state=true&reconcile=true", token => $token),
		$http->post("/Docs/Query?clientId=x&collection=$collection", '', token => $token),
		$http->post('/Docs/Reconcile', { collection => $collection }, token => $token),
		$http->post('/Docs/Get', { collection => $collection, ids => [ 'known', 'gone', 'none' ] }, token => $token));

	# A cursor ends with the server's WAL position, which autovacuum advances, too, and a hash of what it belongs to,
	# including the collection's name.
	return join "\n", map { $_->{status} . $_->{content} =~ s/"serverUtc":"[^"]*"//r =~ s/"maxVersion":\d+//r =~ s/("cursor":"[^"]*)[.][0-9a-f]+[.][0-9a-f]{8}"/$1"/r } @answers;
}

# How many documents are returned, each way
sub read_as
{
	my ($token, $collection) = @_;
	my $queried = $http->post("/Docs/Query?clientId=x&collection=$collection", '', token => $token);
	my $pulled = $http->get("/Docs/Pull?collection=$collection", token => $token);
	my $synced = $http->post('/Docs/Sync', { clientId => 'x', collection => $collection }, token => $token);
	my $listed = $http->post('/Docs/Reconcile', { collection => $collection }, token => $token);
	my $got = $http->post('/Docs/Get', { collection => $collection, ids => [ map { $_->{id} } @secret ] }, token => $token);
	my @counts = (
		scalar @{ DocsyncTest::Http::value_of($queried) },
		scalar @{ DocsyncTest::Http::value_of($listed)->{rows} },
		map { scalar @{ DocsyncTest::Http::value_of($_)->{documents} } } $pulled, $synced, $got);

	return (grep { $_ != $counts[0] } @counts) ? "@counts" : $counts[0];
}

sub refused
{
	my ($name, $token, $status) = @_;
	my $before = $http->state;
	my $answer = $http->post('/Docs?clientId=a1&collection=anna', [ { id => 'x', clientVersion => 1, body => 1 } ], token => $token);

	is($answer->{status}, $status, "$name: $status") or diag($answer->{content});
	is(ref DocsyncTest::Http::value_of($answer), 'HASH', "$name: JSON");
	is($http->state, $before, "$name: nothing is stored");
	for my $answer ($http->post('/Docs/Query?clientId=x&collection=anna', '', token => $token),
		$http->get('/Docs/Pull?collection=anna', token => $token),
		$http->post('/Docs/Get', { collection => 'anna', ids => ['known'] }, token => $token),
		$http->post('/Docs/Reconcile', { collection => 'anna' }, token => $token))
	{
		unlike($answer->{content}, qr/secret|"known"/, "$name: nothing is read");
	}
	return;
}

# The client that an upload is recorded for, or the status if it is refused
sub sender
{
	my ($query, $token, $header, $headers) = @_;
	my $version = ++(our $versions);
	my $answer = $http->post("/Docs?collection=anna$query", [ { id => 'sent', clientVersion => $version, body => 1 } ],
		token => $token,
		headers => { %{ $headers // {} }, defined $header ? ('x-client-id' => $header) : () });

	return $answer->{status} if $answer->{status} != 200;
	return $http->session->value(
		"SELECT client_id FROM docsync.document WHERE collection = 'anna' AND id = 'sent' AND client_version = ?", $version);
}

sub call_what_is_not_there
{
	for my $path (qw(/rpc/docsync_guard /rpc/docsync_purge /rpc/setval /document /clock))
	{
		like($http->post("http://127.0.0.1:$http->{rest_port}$path", { role => 'docsync_user' }, token => $token{bert})->{status},
			qr/^40[34]$/, "PostgREST has no $path for bert");
	}
	for my $function (qw(docsync_grant docsync_new_epoch docsync_create_store docsync_check_store_owner))
	{
		my $answer = $http->post("http://127.0.0.1:$http->{rest_port}/rpc/$function",
			$function eq 'docsync_grant' ? { role => 'docsync_anon' } : {}, token => $token{bert});

		is("$answer->{status} " . DocsyncTest::Http::value_of($answer)->{code}, '403 42501', "$function is not for bert");
	}
	# A whole request, with made-up claims: only for the gateway's role.  Not even if somebody has granted all functions.
	for my $given (0, 1)
	{
		my %call = (function => 'docsync_pull', role => 'docsync_user', claims => '{"tenant": "anna", "collection": "anna"}', method => 'GET', headers => '{}', body => '');
		my $query = join '&', map { "$_=" . $call{$_} =~ s/([^a-z])/sprintf '%%%02x', ord $1/ger } sort keys %call;

		if ($given)
		{
			$http->session->do('GRANT USAGE ON SCHEMA api TO docsync_anon', 'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA api TO docsync_user, docsync_anon');
			is($http->post('/rpc/docsync_pull', {}, token => undef)->{status}, 401, 'the store is still out of reach without a token');
		}
		for my $case ([ $token{bert}, 403 ], [ undef, 401 ])
		{
			my ($token, $status) = @$case;
			my $message = $given ? 'permission denied to start a request within a request' : 'permission denied for (function docsync_call|schema api)';

			for my $answer ($http->post('/rpc/docsync_call', \%call, token => $token), $http->get("/rpc/docsync_call?$query", token => $token))
			{
				is($answer->{status}, $status, "docsync_call is not for who has " . ($token ? 'a token' : 'none') . ($given ? ', even if it is given to all' : ''));
				like($answer->{content}, qr/"message":"$message"/, '... for that reason');
			}
		}
		unlike($http->get("http://127.0.0.1:$http->{rest_port}/", token => $token{bert}, headers => { accept => 'application/openapi+json' })->{content}, qr/docsync_call/,
			'nor does PostgREST tell of it') unless $given;
		is($http->post('/docsync_call', {}, token => $token{bert})->{status}, 404, 'there is no path to it');
	}
	for my $profile (qw(docsync pg_catalog public))
	{
		is($http->get('/rpc/docsync_pull?collection=anna', token => $token{anna}, headers => { 'accept-profile' => $profile })->{status},
			406, "PostgREST has no schema $profile");
	}
	return;
}
