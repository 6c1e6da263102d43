# Two servers, each a whole service, and nginx before them, as in examples/shards:
# each tenant's requests reach its server.  A tenant of 100,000 documents moves to
# the other server while ten clients synchronise: it is closed for a moment, and
# nobody is told to compare, nothing is lost, nothing comes twice.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use DocsyncTest::Clients;
use DocsyncTest::Http;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $DOCUMENTS = $ENV{DOCSYNC_MOVE_DOCUMENTS} // 100_000;
my $CLIENTS = 10;
my $EXAMPLES = "$ENV{TESTDIR}/examples/shards";
my $JSON = JSON::PP->new->canonical;
my $dir = PostgreSQL::Test::Utils::tempdir();

my @nodes = map { new_node("shard_$_") } 1, 2;
my @shards = map { DocsyncTest::Http->new($_, layer => 'postgrest', PGRST_DB_PRE_REQUEST => 'shard.check', start => 0) } @nodes;
my ($s, $t) = map { $_->session } @shards;
for my $n (0, 1)
{
	$nodes[$n]->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $nodes[$n]->connstr('docsync'), '-f', "$EXAMPLES/shard.sql" ], 'shard.sql runs');
	$shards[$n]->start_layer;
}
$s->do(q{INSERT INTO shard.tenant VALUES ('anna')});
$t->do(q{INSERT INTO shard.tenant VALUES ('ben')});

my $router = start_router();

routes();
moves();
is_down();

done_testing();

#-----------------------------------------------------------------------------

# By the path and by the host; 421 to who is nowhere, or comes to the wrong one.
sub routes
{
	my %ben = (token => DocsyncTest::Http::token(DocsyncTest::Http::claims(tenant => 'ben', collection => 'ben')));

	is(ask('POST', '/tenants/anna/Docs?clientId=c1', '[{"id": "a", "clientVersion": 1, "body": 1}]')->{status}, 200, 'by the path: an upload');
	my $body = '[{"id": "b", "clientVersion": 1, "body": 1}]';
	like($shards[0]->raw("http://127.0.0.1:$router->{port}/", join "\r\n", 'POST /Docs?clientId=c1 HTTP/1.1', 'Host: ben.docs.example', "Authorization: Bearer $ben{token}",
			'Content-Length: ' . length($body), 'Connection: close', '', $body), qr/^HTTP\S+ 200/, 'by the host: an upload');
	is($s->value('SELECT string_agg(collection, $$ $$) FROM docsync.document'), 'anna', "anna's is on her server");
	is($t->value('SELECT string_agg(collection, $$ $$) FROM docsync.document'), 'ben', "... and ben's on his");
	is(scalar @{ DocsyncTest::Http::value_of(ask('GET', '/tenants/ben/Docs/Pull?clientId=c2', undef, %ben))->{documents} }, 1, 'GET and its query string pass');
	is(ask('POST', '/tenants/cora/Docs?clientId=c1', '[]')->{status}, 421, 'a tenant that is nowhere: 421');
	is(ask('POST', '/Docs?clientId=c1', '[]')->{status}, 421, '... or is not named');
	for my $request ([ 'POST', '/Docs?clientId=c1', [ { id => 'x', clientVersion => 1, body => 1 } ] ], [ 'GET', '/Docs/Pull?clientId=c1' ], [ 'POST', '/Docs/Sync?clientId=c1', {} ])
	{
		my $answer = $shards[0]->request(@$request, ($request->[0] eq 'GET' ? undef : ()), %ben);

		is($answer->{status}, 421, "the wrong server: $request->[1]");
		is(DocsyncTest::Http::value_of($answer)->{code}, 'PT421', '... with a code');
	}
	is($shards[0]->post('/Docs?clientId=c1', [], token => undef)->{status}, 401, 'without a token it is 401 as ever');
	return;
}

sub moves
{
	my $per_batch = 10_000;

	for (my $n = 0; $n < $DOCUMENTS - 1000; $n += $per_batch)
	{
		$s->do("SELECT count(*) FROM docsync_upsert('filler', (SELECT jsonb_agg(jsonb_build_object('id', 'd' || n, 'clientVersion', 1, 'body', jsonb_build_object('n', n, 'text', repeat('some text ', 28)))) FROM generate_series($n + 1, least($n + $per_batch, $DOCUMENTS - 1000)) AS n), 'anna/all')");
	}
	$s->do("SELECT count(*) FROM docsync_upsert('filler', (SELECT jsonb_agg(jsonb_build_object('id', 'd' || n, 'clientVersion', 1, 'body', n)) FROM generate_series(1, 999) AS n), 'anna/shared')");
	$s->do('VACUUM ANALYZE docsync.document');

	# One that holds all, and sleeps while it moves; ten that are busy
	my $sleeper = DocsyncTest::Clients->new('sleeper', $router, 'anna/all');
	is($sleeper->sync, '', 'a client has all of it');
	$sleeper->log;
	my @clients = map { my $n = $_; in_child(sub { run_client($n) }) } 1 .. $CLIENTS;
	wait_for("client $_", sub { -e "$dir/busy $_" }) for 1 .. $CLIENTS;
	sleep 1;

	$t->do(q{INSERT INTO shard.tenant VALUES ('anna')});
	append_to_file("$dir/route", qq(sed -i s/shard_1/shard_2/ $dir/tenants.map && nginx -p $dir -c nginx.conf -e error.log -s reload\n));
	my $begun = time;
	my ($stdout, $stderr) = ('', '');
	local $ENV{PATH} = "$ENV{PATH}:/usr/sbin";
	my $moved = IPC::Run::run([ "$EXAMPLES/move", 'anna', (map { $_->connstr('docsync') } @nodes), 'sh', "$dir/route" ], '>', \$stdout, '2>', \$stderr);
	my $took = time - $begun;

	ok($moved, 'the tenant moves') or diag $stderr;
	my ($closed) = $stderr =~ /closed for (\d+) ms/;
	note sprintf('%d documents moved in %.1f s, closed for %d ms', $DOCUMENTS, $took, $closed // -1);

	# The clients are on the same machine, and so may be other tests.
	my ($load) = split ' ', slurp_file('/proc/loadavg');
	my $limit = $load > 2 * `nproc` ? 10_000 : 2000;
	cmp_ok($closed // 1e9, '<', $limit, "it was closed for less than $limit ms, at a load of $load");
	sleep 2;
	touch("$dir/stop");
	waitpid $_, 0 for @clients;

	# What each has noted: how it went, what it got, what it has
	my @notes = map { $JSON->decode(slurp_file("$dir/notes $_")) } 1 .. $CLIENTS;
	my %stored = map { @$_ } @{ $t->rows(q{SELECT id, client_version FROM docsync.document WHERE collection = 'anna/shared' AND NOT deleted}) };
	my %count;
	$count{$_}++ for map { @{ $_->{problems} } } @notes;
	note 'what they were answered: ' . join(', ', map { "$_: $count{$_}" } sort keys %count);
	is_deeply([ grep { !/^(|503 moving|421 moved|50[234] .*|ConnectionError|RemoteDisconnected)$/ } keys %count ], [], 'what was not answered was to be tried again');
	cmp_ok($count{'503 moving'} // 0, '>', 0, 'some came while it was closed');
	my $written = 0;
	for my $n (1 .. $CLIENTS)
	{
		my $note = $notes[ $n - 1 ];
		my %came;

		$came{$_}++ for map { split " " } grep { s{^pull: }{} && !m{^\d{3} } } map { s/, (told|behind|equal|state|no state|different)//gr } @{ $note->{log} };
		is(scalar(grep { /told/ } @{ $note->{log} }), 0, "client $n was not told to compare");
		is_deeply([ sort grep { $came{$_} > 1 } keys %came ], [], '... got nothing twice');
		is_deeply($note->{held}, \%stored, '... and has what the service has');
		is(scalar(grep { !exists $stored{$_} } @{ $note->{acknowledged} }), 0, '... which has all that was acknowledged');
		$written += @{ $note->{acknowledged} };
	}
	cmp_ok($written, '>', 100, "they wrote $written documents meanwhile");
	is($s->value(q{SELECT max(last_update_utc) FROM docsync.document WHERE collection LIKE 'anna%'}) lt $t->value(q{SELECT max(last_update_utc) FROM docsync.document}), 1, 'at last at the new server');

	# The one that has slept
	is($sleeper->sync, '', 'the sleeper goes on');
	is_deeply([ grep { /told|d\d/ } @{ $sleeper->log } ], [], '... is told nothing, and given nothing');
	$sleeper->compare;
	$sleeper->sync;
	like(join(' ', @{ $sleeper->log }), qr/equal/, '... and has what the service has');

	# Who comes to the old server, also over the gateway
	my $gateway = DocsyncTest::Http->new($nodes[0], layer => 'gateway');
	for my $http ($shards[0], $gateway)
	{
		my $answer = $http->get('/Docs/Pull?clientId=c1');

		is("$answer->{status} " . DocsyncTest::Http::value_of($answer)->{code}, '421 moved', 'at the old server: 421, over ' . $http->layer);
		is($answer->{headers}{'retry-after'}, 10, '... with a time');
	}
	$gateway->stop;

	# While it is on its way back
	$t->do(q{SELECT docsync_move_out('anna')});
	my $http = DocsyncTest::Http->new($nodes[1], layer => 'gateway');
	for my $http ($shards[1], $http)
	{
		my $answer = $http->post('/Docs?clientId=c1', [ { id => 'x', clientVersion => 1, body => 1 } ]);

		is("$answer->{status} " . DocsyncTest::Http::value_of($answer)->{code}, '503 moving', 'on its way: 503, over ' . $http->layer);
		like($answer->{headers}{'retry-after'}, $http->layer eq 'PostgREST' ? qr/^10?$/ : qr/^1$/, '... for a second (10 with nginx before 1.23)');
	}
	$http->stop;
	$t->do(q{SELECT docsync_move_back('anna')});
	is(ask('GET', '/tenants/anna/Docs/Pull?clientId=c1&collection=anna/shared&maxDocuments=1')->{status}, 200, 'it stays');
	return;
}

# A server that is down, or cannot be reached at all, is nothing to the tenants of
# the other, although its own go on asking.
sub is_down
{
	my %cora = (token => DocsyncTest::Http::token(DocsyncTest::Http::claims(tenant => 'cora', collection => 'cora')));
	my @cora = ('GET', '/tenants/cora/Docs/Pull?clientId=c1', undef, %cora);

	$s->do(q{INSERT INTO shard.tenant VALUES ('cora')});
	append_to_file("$dir/tenants.map", "cora shard_1;\n");
	system_or_bail('nginx', '-p', $dir, '-c', 'nginx.conf', '-e', 'error.log', '-s', 'reload');
	wait_for('the route', sub { ask(@cora)->{status} == 200 });

	$s->close;
	for my $down ([ 'is down', sub { $nodes[0]->stop('immediate') } ], [ 'cannot be reached', sub { $shards[0]->stop_process('nginx', 'TERM') } ])
	{
		$down->[1]->();
		my $asking = in_child(sub { ask(@cora) until -e "$dir/enough" || getppid() == 1 });
		my (%status, @took);
		for my $n (1 .. 30)
		{
			my $begun = time;

			$status{ ask('POST', '/tenants/anna/Docs?clientId=c1&collection=anna/shared', "[{\"id\": \"$down->[0]\", \"clientVersion\": $n, \"body\": 1}]")->{status} }++;
			$status{ ask('GET', '/tenants/anna/Docs/Pull?clientId=c2&collection=anna/shared&maxDocuments=1')->{status} }++;
			push @took, time - $begun;
		}
		is_deeply(\%status, { 200 => 60 }, "a server $down->[0]: the other's tenants go on");
		@took = sort { $a <=> $b } @took;
		cmp_ok($took[ $#took / 2 ], '<', 1, sprintf '... an upload and a download take %.0f ms, at most %.0f', 1000 * $took[ $#took / 2 ], 1000 * $took[-1]);
		touch("$dir/enough");
		waitpid $asking, 0;
		unlink "$dir/enough";
		my $answer = ask(@cora);
		is($answer->{status}, 503, '... and its own are told that it is');
		is($answer->{headers}{'retry-after'}, 10, '... and when to try again') if $down->[0] ne 'is down';
	}
	return;
}

#-----------------------------------------------------------------------------

# A client that edits and synchronises until it is told to stop, and then until
# nothing is left to be done
sub run_client
{
	my ($n) = @_;
	my $client = DocsyncTest::Clients->new("client$n", $router, 'anna/shared', seed => $n, language => $n > 8 && $ENV{DOCSYNC_JAVASCRIPT} ? 'javascript' : 'python');
	my (@problems, @sent);

	push @problems, $client->sync;
	touch("$dir/busy $n");
	for (my $i = 1; !-e "$dir/stop" && getppid() != 1; $i++)
	{
		$client->put("c$n-$i", $i);
		push @sent, "c$n-$i";
		push @problems, $client->sync;
		sleep($problems[-1] eq '' ? 0.02 : 0.3);
	}
	my @unsent = @{ $client->unsent };
	my %unsent = map { $_ => 1 } @unsent;
	my @acknowledged = grep { !$unsent{$_} } @sent;

	# All have sent all before the last look
	push @problems, $client->sync until !@{ $client->unsent };
	touch("$dir/sent $n");
	wait_for('the others', sub { !grep { !-e "$dir/sent $_" } 1 .. $CLIENTS });
	my $problem = $client->sync;
	for (1 .. 100)
	{
		last if $problem eq '';
		sleep 0.1;
		$problem = $client->sync;
	}
	append_to_file("$dir/notes $n", $JSON->encode({ problems => \@problems, log => $client->log, held => $client->held, acknowledged => \@acknowledged }));
	return;
}

# nginx with router.conf
sub start_router
{
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $text = slurp_file("$EXAMPLES/router.conf");
	my $main = slurp_file("$ENV{TESTDIR}/examples/postgrest/nginx.conf");

	$text =~ s/127\.0\.0\.1:8090/127.0.0.1:$port/;
	$text =~ s/127\.0\.0\.1:808$_/127.0.0.1:$shards[$_ - 1]{port}/ for 1, 2;
	$main =~ s/include docsync\.conf/include router.conf/;
	$main =~ s/access_log access\.log\K[^;]+//;
	append_to_file("$dir/router.conf", $text);
	append_to_file("$dir/nginx.conf", $main);
	append_to_file("$dir/tenants.map", slurp_file("$EXAMPLES/tenants.map"));
	mkdir "$dir/temp";
	$shards[0]->start_process('router', 'nginx', '-p', $dir, '-c', 'nginx.conf', '-e', 'error.log', '-g', 'daemon off;');
	my $router = bless { port => $port }, 'Router';
	wait_for('the router', sub { ask('GET', '/')->{status} != 599 }) if $router;
	return $router;
}

sub ask
{
	my ($method, $path, $body, %options) = @_;
	my ($port) = slurp_file("$dir/router.conf") =~ /listen 127\.0\.0\.1:(\d+)/;
	my $token = $options{token} // DocsyncTest::Http::token(DocsyncTest::Http::claims());

	return HTTP::Tiny->new->request($method, "http://127.0.0.1:$port$path", { headers => { authorization => "Bearer $token", %{ $options{headers} // {} } }, defined $body ? (content => $body) : () });
}

package Router;

sub url { my ($self, $path) = @_; return "http://127.0.0.1:$self->{port}/tenants/anna$path" }
