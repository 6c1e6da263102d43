# Scenarios that any client must pass, written once in
# test/scenarios/scenarios.json, and run with each client: that of examples/demo,
# or those named in DOCSYNC_CLIENTS: python javascript sqlite chromium.
#
# A scenario has steps: [client, method, arguments, result].  A client is
# created when it is first named; without a result a sync must succeed.
# "service" is the other end.  In the end all clients have what the service has,
# and nothing is left to do.
#
# DOCSYNC_CASE: a pattern; only the scenarios whose names match are run.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use DocsyncTest::Clients;
use DocsyncTest::Http;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

my @LANGUAGES = split ' ', $ENV{DOCSYNC_CLIENTS} || 'python';
my $JSON = JSON::PP->new->utf8->canonical->allow_nonref;
my $scenarios = $JSON->decode(slurp_file("$FindBin::RealBin/../scenarios/scenarios.json"));
my $node = new_node('main');
my $http = DocsyncTest::Http->new($node);
my $played = 0;
my $collection;

# Documents that the scenarios want refused
$http->session->do(q{ALTER TABLE docsync.document ADD CONSTRAINT refuse_check CHECK (body ->> 'refuse' IS DISTINCT FROM 'check') NOT VALID});

for my $language (@LANGUAGES)
{
	for my $scenario (grep { !$ENV{DOCSYNC_CASE} || $_->{name} =~ /$ENV{DOCSYNC_CASE}/ } @$scenarios)
	{
		my $name = "$language: $scenario->{name}";

		$collection = 'anna/scenario' . ++$played;
	  SKIP:
		{
			skip "$name: the gateway has none in front", 1 if $http->{is_gateway} && grep { $_->[1] eq 'kill' && $_->[2][0] eq 'nginx' } @{ $scenario->{steps} };
			subtest $name => sub { eval { play($language, $scenario); 1 } or fail($@) };
		}
	}
}
done_testing();

#-----------------------------------------------------------------------------

sub play
{
	my ($language, $scenario) = @_;
	my %clients;

	for my $step (@{ $scenario->{steps} })
	{
		my ($who, $method, $arguments, $expected) = @$step;
		my $text = join ' ', $who, $method, $arguments && @$arguments ? $JSON->encode($arguments) : ();

		if ($who eq 'service')
		{
			service($method, @{ $arguments // [] });
			next;
		}
		my $copied = $method eq 'copy' ? $clients{ $arguments->[0] } : undef;

		$clients{$who} //= DocsyncTest::Clients->new("scenario$played $who", $http, $collection,
			language => $language, $copied ? (copy_of => $copied) : ());
		next if $copied;
		my $result = eval { $clients{$who}->call($method, $arguments // []) };

		if (ref $expected eq 'HASH' && $expected->{fails})
		{
			ok($@ || $result, "$text: fails") && note $@ || $result;
			next;
		}
		is($@, '', $text) if $@ || @$step < 4 && $method ne 'sync';
		is($result, '', $text) if @$step < 4 && $method eq 'sync' && !$@;
		is_deeply($result, $expected, $text) || diag $JSON->encode($result) if @$step == 4;
	}
	agree($scenario->{refused} // 0, map { $clients{$_} } sort keys %clients);
	return;
}

# Each client has what the service has, and nothing is left to do.
sub agree
{
	my ($refused, @clients) = @_;

	for (1 .. 3)
	{
		is($_->sync, '', "$_->{name} syncs") for @clients;
	}
	my $session = $http->session;
	my $content = JSON::PP->new->allow_nonref->decode($session->value(
		q{SELECT coalesce(json_object_agg(id, json_build_array(client_version, body)), '{}') FROM docsync.document
		   WHERE collection = ? AND NOT deleted}, $collection));
	my $problems = 0;

	$session->close;
	for my $client (@clients)
	{
		my %problems = map { $_ => 1 } @{ $client->problems };
		my $own = $client->content;

		delete $own->{$_} for keys %problems;
		$problems += keys %problems;
		$client->log;
		$client->compare;
		is($client->sync, '', "$client->{name} compares");
		is_deeply($client->log, ['pull: equal'], "$client->{name} and the service are equal, by their digests");
		is_deeply($own, $content, '... by their documents');
		is_deeply($client->unsent, [], '... and nothing is unsent');
	}
	is($problems, $refused, 'what is refused');
	return;
}

sub service
{
	my ($method, @arguments) = @_;

	if ($method eq 'kill' || $method eq 'start')
	{
		start_or_kill($method, @arguments);
		return;
	}
	my $session = $http->session;

	if ($method eq 'upload')
	{
		$session->upload('somebody', $collection, @arguments);
	}
	elsif ($method eq 'purge')
	{
		$session->do("SELECT pg_sleep(0.01)");
		$session->do("CALL docsync_purge('0', '$collection')");
	}
	elsif ($method eq 'lose')
	{
		# As after a restore to an earlier time
		$session->do('SET session_replication_role = replica');
		$session->do("DELETE FROM docsync.document WHERE collection = '$collection' AND id = '$arguments[0]'");
		$session->do('RESET session_replication_role');
		$session->do('SELECT docsync_new_epoch()');
	}
	else
	{
		die "the service has no $method";
	}
	$session->close;
	return;
}

sub start_or_kill
{
	my ($method, $what) = @_;

	if ($what eq 'postgresql')
	{
		$method eq 'kill' ? $node->stop('immediate') : $node->start;
	}
	elsif ($what eq 'nginx')
	{
		$method eq 'kill' ? $http->stop_process('nginx', 'TERM') : $http->start_nginx;
	}
	else
	{
		$method eq 'kill' ? $http->stop_layer('KILL') : $http->start_layer;
	}
	# PostgREST reconnects by itself.
	wait_for('the service', sub { $http->get('/Docs/Pull?clientId=waits')->{status} == 200 }) if $method eq 'start';
	return;
}
