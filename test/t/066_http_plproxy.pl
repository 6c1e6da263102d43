# One address for all tenants: PostgREST in front of a database without documents,
# which sends each request to the shard of the token's tenant, by PL/Proxy
# (examples/shards/proxy.sql).  Clients notice nothing of it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use DocsyncTest::Clients;
use DocsyncTest::Http;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $proxy = new_server('proxy');
plan skip_all => 'PL/Proxy is not installed' if $proxy->safe_psql('postgres', q{SELECT count(*) FROM pg_available_extensions WHERE name = 'plproxy'}) eq '0';

my @shards = map { new_node("shard_$_") } 1, 2;
my @direct = map { DocsyncTest::Http->new($_, layer => 'postgrest') } @shards;
$proxy->safe_psql('postgres', 'CREATE DATABASE docsync');
$proxy->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $proxy->connstr('docsync'), '-f', "$ENV{TESTDIR}/examples/shards/proxy.sql" ], 'proxy.sql runs');
my $admin = connect_to($proxy, 'docsync');
for my $n (1, 2)
{
	$admin->do("INSERT INTO route.shard VALUES ('shard_$n', '" . ($shards[ $n - 1 ]->connstr('docsync') =~ s{'}{}gr) . " user=docsync_gateway')");
}
$admin->do(q{INSERT INTO route.tenant VALUES ('anna', 'shard_1'), ('ben', 'shard_2')});
my $http = DocsyncTest::Http->new($proxy, layer => 'postgrest');

my %ben = (token => token('ben'));
my ($s, $t) = map { $_->session } @direct;

# All requests, for each tenant
for my $case ([ 'anna', $s ], [ 'ben', $t ])
{
	my ($tenant, $session) = @$case;
	my %token = (token => token($tenant));

	is($http->post('/Docs?clientId=c1', [ { id => 'a', clientVersion => 1, body => "of $tenant" } ], %token)->{status}, 200, "$tenant: /Docs");
	is($session->value('SELECT string_agg(collection, $$ $$) FROM docsync.document'), $tenant, '... is on the shard');
	my $page = DocsyncTest::Http::value_of($http->post('/Docs/Sync', { clientId => 'c2' }, %token));
	is($page->{documents}[0]{body}, "of $tenant", '/Docs/Sync');
	my $answer = $http->get("/Docs/Pull?clientId=c2&cursor=$page->{cursor}", %token);
	is($answer->{status}, 200, '/Docs/Pull');
	ok($answer->{headers}{etag}, '... with an entity tag');
	is($http->get("/Docs/Pull?clientId=c2&cursor=$page->{cursor}", %token, headers => { 'if-none-match' => $answer->{headers}{etag} })->{status}, 304, '... 304 where there is nothing new');
	is(DocsyncTest::Http::value_of($http->post('/Docs/Query?clientId=c2', '', %token))->[0]{id}, 'a', '/Docs/Query');
	is(DocsyncTest::Http::value_of($http->post('/Docs/Get?clientId=c2', { ids => ['a'] }, %token))->{documents}[0]{id}, 'a', '/Docs/Get');
	is(DocsyncTest::Http::value_of($http->post('/Docs/Reconcile?clientId=c2', {}, %token))->{rows}[0]{id}, 'a', '/Docs/Reconcile');
}

# What is refused is refused as by the shard itself.
for my $request (
	[ '/Docs?clientId=c1', 'no JSON' ], [ '/Docs?clientId=c1', '[{"id": "b", "clientVersion": "x"}]' ], [ '/Docs', '[]' ], [ '/Docs?clientId=c1&collection=ben', '[{"id": "b", "clientVersion": 1, "body": 1}]' ],
	[ '/Docs/Sync?clientId=c1', '{"cursor": "0123456789abcdef.1"}' ], [ '/Docs/Sync?clientId=c1', '{"cursor": "nonsense"}' ], [ '/Docs/Query?clientId=c1&sinceUtc=2999-01-01T00:00:00Z', '' ])
{
	my ($path, $body) = @$request;
	my ($answer, $expected) = map { $_->post($path, $body) } $http, $direct[0];

	is("$answer->{status} $answer->{content}", "$expected->{status} $expected->{content}", "$path, $body: the same words") or diag $expected->{content};
	cmp_ok($answer->{status}, '>=', 400, '... which are a refusal');
}
is($http->post('/Docs?clientId=other', [], token => token('anna', client_id => 'mine'))->{status}, 403, 'a claim binds');
is($http->post('/Docs?clientId=c1', [], token => undef)->{status}, 401, 'without a token: 401');
is($http->post('/Docs?clientId=c1', [], token => token('cora'))->{status}, 421, 'a tenant who is nowhere: 421');
is($s->value(q{SELECT count(*) FROM docsync.document WHERE collection <> 'anna'}), 0, 'nothing of others has got there');

# Who is in the proxy as docsync_user can call no shard by himself, nor choose claims.
$admin->do('SET ROLE docsync_user');
is($admin->sqlstate_of($_), '42501', "refused: $_")
  for q{SELECT route.call('anna', 'docsync_pull', 'docsync_user', '{"tenant": "anna"}', 'GET', '{}', '')}, q{SELECT route.connection('anna')}, 'SELECT * FROM route.shard', 'SELECT * FROM route.tenant';
$admin->do('RESET ROLE');

# A tenant moves; the row is changed.
my $client = DocsyncTest::Clients->new('mover', $http, 'anna');
is($client->sync, '', 'a client of anna');
$client->put('mine', 1);
$client->sync;
{
	my $route = PostgreSQL::Test::Utils::tempdir() . '/route';

	append_to_file($route, sprintf q{psql -X -q -d '%s' -c "UPDATE route.tenant SET shard = 'shard_2' WHERE tenant = 'anna'"}, $proxy->connstr('docsync'));
	is(PostgreSQL::Test::Utils::system_log("$ENV{TESTDIR}/examples/shards/move", 'anna', (map { $_->connstr('docsync') } @shards), 'sh', $route), 0, 'she moves');
}
$client->log;
$client->put('more', 2);
is($client->sync, '', 'the client goes on');
is_deeply([ grep { /told/ } @{ $client->log } ], [], '... and is told nothing');
is($t->value(q{SELECT count(*) FROM docsync.document WHERE collection = 'anna'}), 3, '... at the other shard');
$admin->do(q{UPDATE route.tenant SET shard = 'shard_1' WHERE tenant = 'anna'});
my $answer = $http->get('/Docs/Pull?clientId=c1');
is("$answer->{status} " . DocsyncTest::Http::value_of($answer)->{code}, '421 moved', 'sent to the old one it is told so');

# One shard is down.
$shards[0]->stop('immediate');
$answer = $http->get('/Docs/Pull?clientId=c1');
is($answer->{status}, 503, 'a shard that is down: 503');
unlike($answer->{content}, qr/host|port|socket|route/, '... and not a word of where it was');
is($http->get('/Docs/Pull?clientId=c1', %ben)->{status}, 200, '... the other one goes on');
$shards[0]->start;
is($http->get('/Docs/Pull?clientId=c1')->{status}, 421, '... and it comes back by itself');

# What it costs
for my $service ([ 'straight', $direct[1] ], [ 'by PL/Proxy', $http ])
{
	my $begun = time;

	$service->[1]->get('/Docs/Pull?clientId=c1', %ben) for 1 .. 200;
	note sprintf '%s: %.2f ms a request', $service->[0], (time - $begun) * 5;
}

$_->stop for $http, @direct;
$_->stop for $proxy, @shards;
done_testing();

#-----------------------------------------------------------------------------

sub token
{
	my ($tenant, %claims) = @_;

	return DocsyncTest::Http::token(DocsyncTest::Http::claims(tenant => $tenant, collection => $tenant, %claims));
}
