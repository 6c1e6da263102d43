# A store is handed over while HTTP clients are working: their uploads get a 503
# until the service is at the store's new place, their downloads work, nothing
# that was acknowledged is lost.

use strict;
use warnings;

use lib 'test/t/lib';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use DocsyncTest;
use DocsyncTest::Http;

my $WRITERS = 3;

my $node = new_node('handed_over');
my $http = DocsyncTest::Http->new($node);
my $dir = PostgreSQL::Test::Utils::tempdir();
my $test = $$;
my $query = 'clientId=phone&collection=anna';

is($http->post("/Docs?$query", [ good('first') ])->{status}, 200, 'an upload before');
my $cursor = DocsyncTest::Http::value_of($http->get('/Docs/Pull?clientId=tablet&collection=anna'))->{cursor};

my @writers = map { my $n = $_; in_child(sub { write_until_told($n) }) } 1 .. $WRITERS;
my $reader = in_child(sub { read_until_told() });
sleep 1;
$http->session->do('SELECT docsync_hand_over()');
refuses();
gives();
sleep 1;

touch("$dir/moves");

# The store goes to another database; nginx and PostgREST then lead there.
$http->stop_layer;
delete $http->{session};
$node->safe_psql('postgres', $_)
  for 'ALTER DATABASE docsync RENAME TO old', 'CREATE DATABASE docsync TEMPLATE old';
$http->start_layer;
is($http->session->value('SELECT docsync_take_over() IS NOT NULL'), 1, 'the store is taken over');
wait_for("writer $_ to go on", sub { -e "$dir/gone on $_" }) for 1 .. $WRITERS;
touch("$dir/end");
is(end_of($_), 0, 'a client has seen 200, 502, 503, and nothing else') for @writers;
is(end_of($reader), 0, 'who reads has been answered all the time, but for the move');

my %stored = map { $_ => 1 } $http->session->column(q{SELECT id FROM docsync.document WHERE client_id ~ '^writer'});
my @acknowledged = map { split /\n/, slurp_file("$dir/acknowledged $_") } 1 .. $WRITERS;
cmp_ok(scalar @acknowledged, '>', 10, 'documents were acknowledged');
is_deeply([ grep { !$stored{$_} } @acknowledged ], [], 'all of them are where the store has gone');

my $page = DocsyncTest::Http::value_of($http->get("/Docs/Pull?clientId=tablet&collection=anna&maxDocuments=100000&cursor=$cursor"));
is(scalar @{ $page->{documents} }, scalar keys %stored, 'a reader goes on with the cursor that it has, and gets them all');
ok(!exists $page->{reconcile}, 'without comparing');

done_testing();

#-----------------------------------------------------------------------------

sub good { return { id => $_[0], clientVersion => 1, body => 1 } }

# Requests that would write: 503, when to try again, a code for machines,
# nothing stored
sub refuses
{
	my $before = $http->state;

	for my $case (
		[ "/Docs?$query", [ good('second') ] ],
		[ "/Docs?atomic=false&$query", [ good('second'), { id => 'bad' } ] ],
		[ "/Docs/Sync?$query", { documents => [ good('second') ] } ],
		[ "/Docs/Sync?$query", {} ],
		[ '/Docs/Sync?clientId=phone', { collections => [ { collection => 'anna', documents => [ good('second') ] }, { collection => 'anna/2' } ] } ])
	{
		my ($path, $body) = @$case;
		my $answer = $http->post($path, $body);
		my $error = DocsyncTest::Http::value_of($answer) // {};

		is($answer->{status}, 503, "$path: 503") or diag $answer->{content};
		is_deeply([ sort keys %$error ], [qw(code details hint message)], 'in the form of all errors');
		is($error->{code}, 'handed_over', 'with a code');
		is($answer->{headers}{'retry-after'}, 10, 'and a time to try again at');
	}
	is($http->state, $before, 'nothing is stored');
	return;
}

# Requests that read
sub gives
{
	is($http->get("/Docs/Pull?$query")->{status}, 200, 'Pull');
	is($http->post("/Docs/Query?$query", '')->{status}, 200, 'Query');
	is($http->post("/Docs/Reconcile?$query", {})->{status}, 200, 'Reconcile');
	is($http->post("/Docs/Get?$query", { ids => ['first'] })->{status}, 200, 'Get');
	return;
}

# A client that sends document after document, each until it is acknowledged.
# It has got through when that happens after a 503.
sub write_until_told
{
	my ($n) = @_;
	my $was_refused;

	for (my $i = 1; !has_ended(); $i++)
	{
		my $status = $http->post("/Docs?atomic=false&clientId=writer$n&collection=anna", [ good("$n-$i") ])->{status};

		die "status $status" if $status !~ /^(200|502|503)$/;
		if ($status == 200)
		{
			append_to_file("$dir/acknowledged $n", "$n-$i\n");
			touch("$dir/gone on $n") if $was_refused;
			next;
		}
		$was_refused ||= $status == 503;
		sleep 0.01;
		redo if !has_ended();
	}
	return;
}

# Other statuses than 200 occur while PostgREST is being moved to the store's new
# place.
sub read_until_told
{
	my %count;
	my $slowest = 0;

	until (has_ended())
	{
		my $begun = time;
		my $has_moved = -e "$dir/moves";
		my $status = $http->get('/Docs/Pull?clientId=reader&collection=anna&maxDocuments=10')->{status};

		$slowest = time - $begun if $status == 200 && time - $begun > $slowest;
		$count{$status}++;
		die "status $status" if $status != 200 && !$has_moved && !-e "$dir/moves";
	}
	note join(', ', map { "$count{$_} answers $_" } sort keys %count) . sprintf(', slowest %.2f s', $slowest);
	return;
}

# The test that has started us is done, or gone.
sub has_ended { return -e "$dir/end" || getppid() != $test }

sub end_of
{
	my ($pid) = @_;

	waitpid $pid, 0;
	return $?;
}
