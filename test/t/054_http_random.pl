# Four clients, each with a store of its own, edit the same documents over HTTP
# while answers get lost and PostgREST (or the gateway) and PostgreSQL are killed
# and started again.  Two of them hold two more collections, and synchronise all
# three in one request.  In the end all have the same documents, and so has the
# table.
#
# DOCSYNC_RANDOM_SECONDS: how long.  DOCSYNC_RANDOM_SEED: repeat one run, as
# far as the clients go.

use strict;
use warnings;

use lib 'test/t/lib';

use List::Util qw(max);
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use DocsyncTest;
use DocsyncTest::Http;

my $SECONDS = $ENV{DOCSYNC_RANDOM_SECONDS} // 40;
my $SEED = $ENV{DOCSYNC_RANDOM_SEED} // int rand 1_000_000;
my @NAMES = qw(one two three four);
my @COLLECTIONS = qw(anna/random anna/second anna/third);
my %HOLDS = (one => 0, two => 0, three => 2, four => 2);		# up to which

my $node = new_node('main');
my $http = DocsyncTest::Http->new($node);
my $dir = PostgreSQL::Test::Utils::tempdir();
my $token = DocsyncTest::Http::token(DocsyncTest::Http::claims());
my %killed = ($http->layer => 0, PostgreSQL => 0);

note "seed $SEED, $SECONDS s";
srand $SEED;

# The first write begins the epoch. If a crash ended it after others have written, it would begin again, and they would
# be told to compare.
is($http->post('/Docs/Sync', { clientId => 'first', collection => 'anna' })->{status}, 200, 'the first sync');

# What a trigger or a constraint refuses stops no client.
$http->session->do(q{CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused %', tg_when; END $$},
	(map { "CREATE TRIGGER refuse_$_ $_ INSERT OR UPDATE ON docsync.document FOR EACH ROW WHEN (new.body ->> 'refuse' = '$_') EXECUTE FUNCTION refuse()" }
	  qw(before after)),
	q{ALTER TABLE docsync.document ADD CONSTRAINT refuse_check CHECK (body ->> 'refuse' IS DISTINCT FROM 'check') NOT VALID});

my %pids;
for my $name (@NAMES)
{
	$pids{$name} = fork // die "fork: $!";
	next if $pids{$name};
	exec '/usr/bin/python3', '-B', 'test/t/http_client.py', $http->url(''), $token, $dir, $name, "$SEED $name",
	  @COLLECTIONS[ 0 .. $HOLDS{$name} ]
	  or POSIX::_exit(127);
}

my $end = time + $SECONDS;
while (time < $end)
{
	sleep 1 + rand 3;
	if (rand() < 0.5)
	{
		$http->stop_layer(rand() < 0.5 ? 'KILL' : 'TERM');
		sleep rand 0.5;
		$http->start_layer;
		$killed{ $http->layer }++;
	}
	else
	{
		$node->kill9;
		sleep rand 0.5;
		# Its other processes may take a moment to notice; a start that fails because of them leaves a wrong pid
		# behind.
		wait_for('the server', sub { $node->kill9; $node->start(fail_ok => 1) });
		$killed{PostgreSQL}++;
	}
}
make_file('stop');
# A client that has ended early is a failure, not something to wait for.
my %ended;
wait_for('all clients', sub {
	for my $name (@NAMES)
	{
		next if -e "$dir/$name.done" || defined $ended{$name};
		return 0 unless waitpid($pids{$name}, POSIX::WNOHANG) == $pids{$name};
		$ended{$name} = $?;
	}
	return 1;
});
make_file('last');

my %store;
for my $name (@NAMES)
{
	my $pid = delete $pids{$name};
	waitpid $pid, 0 unless defined $ended{$name};
	is($ended{$name} // $?, 0, "client $name ran to its end");
	$store{$name} = decode("$dir/$name.json") if -e "$dir/$name.json";
}

my %table = map {
	$_ => DocsyncTest::Http::value_of({ content => $http->session->value(
		qq{SELECT json_object_agg(id, json_build_array(client_version::text, deleted::int, body)) FROM docsync.document
		    WHERE collection = '$_'}) })
} @COLLECTIONS;

for my $name (@NAMES)
{
	for my $collection (@COLLECTIONS[ 0 .. $HOLDS{$name} ])
	{
		my %documents = map {
			my ($id, $version, $deleted, $body, $unsent) = @$_;

			($id => [ "$version", $deleted, defined $body ? DocsyncTest::Http::value_of({ content => $body }) : undef ])
		} @{ $store{$name}{stores}{$collection} };

		is_deeply(\%documents, $table{$collection}, "client $name has what the table has of $collection");
		is(scalar(grep { $_->[4] } @{ $store{$name}{stores}{$collection} }), 0, 'and nothing left to send');
	}
	is_deeply([ grep { $_->[0] !~ /^bad $name [0-4]$/ || $_->[2] !~ /^(P0001 refused|23514 )/ } @{ $store{$name}{problems} } ], [],
		'nor set aside but what is refused');
	cmp_ok(scalar @{ $store{$name}{problems} }, '>', 0, '... which is something');
	ok($store{$name}{equal}, 'and the digest of the service');

	# A crash loses nothing, so no client has to compare; one that does so by itself finds nothing. The same holds for one that
	# is told to, which may happen once in a while, if the session that noted the server's start was killed, and what was stored
	# meanwhile was replaced.
	is($store{$name}{happened}{$_} // 0, 0, "and it has not happened: $_") for 'told: behind', 'reconcile';
	cmp_ok($store{$name}{happened}{'told: reconcile'} // 0, '<=', 2, 'and it was told to compare as good as never');
	diag "$name: " . join ', ', map { "$_ $store{$name}{happened}{$_}" } sort keys %{ $store{$name}{happened} };
}
cmp_ok(scalar keys %{ $table{$_} }, '>', 50, "many documents in $_") for @COLLECTIONS;
for my $event ('answer lost', 'told: state', qw(created updated discarded unchanged refused taken))
{
	cmp_ok(max(map { $store{$_}{happened}{$event} // 0 } @$_), '>', 0, "it has happened: $event") for [ grep { !$HOLDS{$_} } @NAMES ], [ grep { $HOLDS{$_} } @NAMES ];
}
cmp_ok($store{$_}{happened}{sync}, '>', 10, "$_ has synchronised its collections together") for grep { $HOLDS{$_} } @NAMES;
is($store{$_}{happened}{'refused collection'}, 0, '... and none was refused') for grep { $HOLDS{$_} } @NAMES;
cmp_ok($killed{$_}, '>', 0, "$_ was killed, $killed{$_} times") for sort keys %killed;

done_testing();

# If the test dies, they would be left running.
END
{
	kill TERM => values %pids;
}

sub make_file
{
	open my $file, '>', "$dir/$_[0]" or die "$_[0]: $!";
	return;
}

sub decode { return DocsyncTest::Http::value_of({ content => slurp_file($_[0]) }) }
