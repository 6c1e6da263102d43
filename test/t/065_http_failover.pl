# PostgREST with two hosts in its address and target_session_attrs=read-write goes
# over to a standby that is promoted, by itself: nothing that was acknowledged is
# lost, and clients compare once.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use DocsyncTest::Http;
use HTTP::Tiny;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# As the example has it, but for the servers' names
my ($example) = slurp_file('examples/postgrest/postgrest.conf') =~ /^# db-uri = "(.*target_session_attrs=read-write.*)"$/m
  or BAIL_OUT('examples/postgrest/postgrest.conf has no two hosts');

my $primary = new_node('primary', allows_streaming => 1);
my $http = DocsyncTest::Http->new($primary, layer => 'postgrest', start => 0);
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

# The first of them is the standby: the other one is found.
my $hosts = sprintf 'host=%s,%s&port=%d,%d', $standby->host, $primary->host, $standby->port, $primary->port;
is($example =~ s/host=db1,db2/$hosts/, 1, 'the example names two');
$http->{env}{PGRST_DB_URI} = $example;
$http->start_layer;
is($http->post('/Docs?clientId=c1', [ { id => 'a', clientVersion => 1, body => 1 } ])->{status}, 200, 'of two servers that one is taken which can be written to');
my $cursor = DocsyncTest::Http::value_of($http->get('/Docs/Pull?clientId=c2'))->{cursor};

my $dir = PostgreSQL::Test::Utils::tempdir();
my $token = DocsyncTest::Http::token(DocsyncTest::Http::claims());
my @clients = map { my $n = $_; in_child(sub { upload_until($n) }) } 1 .. 4;
sleep 0.5;
my $begun = time;
$primary->stop('fast');    # it ends when the standby has all
$standby->promote;
wait_for('PostgREST', sub { $http->post('/Docs?clientId=c1', [ { id => 'd', clientVersion => 1, body => 1 } ])->{status} == 200 });
note sprintf 'uploads again %.1f s after the primary was stopped', time - $begun;
sleep 0.5;
touch("$dir/stop");
is(scalar(grep { waitpid $_, 0; $? != 0 } @clients), 0, 'the clients came to their end');

my %stored = map { $_->[0] => 1 } @{ connect_to($standby, 'docsync')->rows('SELECT id FROM docsync.document') };
my @notes = map { split /\n/, slurp_file("$dir/$_") } 1 .. 4;
cmp_ok(scalar(grep { /^200 / } @notes), '>', 20, 'they have stored some');
is_deeply([ grep { /^200 (.*)/ && !$stored{$1} } @notes ], [], 'nothing that was acknowledged is lost');
is_deeply([ grep { !/^(200|400|50[0234]|599) / } @notes ], [], 'what was not stored was refused with a status to try again at');

my $page = DocsyncTest::Http::value_of($http->get("/Docs/Pull?clientId=c2&reconcile=true&cursor=$cursor"));
is($page->{reconcile}, JSON::PP::true, 'a client is told to compare, as by any failover');
is(DocsyncTest::Http::value_of($http->get("/Docs/Pull?clientId=c2&reconcile=true&cursor=$page->{cursor}"))->{reconcile}, undef, '... once');

$http->stop;
$_->stop for $standby;
done_testing();

#-----------------------------------------------------------------------------

# Uploads one document after the other until it is told to stop, and notes what
# became of each.  A 400 without a code is to be tried again, too.
sub upload_until
{
	my ($name) = @_;
	my $client = HTTP::Tiny->new(timeout => 20);
	my $text = '';

	for (my $n = 1; !-e "$dir/stop"; $n++)
	{
		my $answer = $client->post($http->url("/Docs?clientId=$name"),
			{ headers => { authorization => "Bearer $token" }, content => qq([{"id":"$name-$n","clientVersion":1,"body":$n}]) });

		die $answer->{content} if $answer->{status} == 400 && $answer->{content} !~ /"code":""/;
		$text .= "$answer->{status} $name-$n\n";
		sleep 0.02 if $answer->{status} != 200;
	}
	append_to_file("$dir/$name", $text);
	return;
}
