# Streams of announcements when something ends: the token, the announcer, the
# connection, the server, the gateway, a client.

use strict;
use warnings;

use lib 'test/t/lib';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use DocsyncTest;
use DocsyncTest::Http;
use DocsyncTest::Live;
use DocsyncTest::Stream;

start_live();

my $slow = slow_stream();
my $idle = stream('collection=anna');

expired();
announcer_stopped();
connection_lost();
beats();
slow_is_closed();
gateway_stopped();
switched_off();
failover();
$http->stop_layer;
done_testing();

#-----------------------------------------------------------------------------

sub expired
{
	# There are 30 seconds of grace.
	my $stream = stream('', 'anna', exp => int(time) - 27);
	my $begun = time;

	is($stream->status, 200, 'a token that is about to expire');
	is($stream->next_event('end')->{reason}, 'token', '... ends the stream');
	cmp_ok(time - $begun, '<', 5, '... in time');
	$stream->names(1);
	is($stream->{closed}, 1, '... and the connection');
	return;
}

sub announcer_stopped
{
	my $stream = stream('');

	$stream->next_event('listening');
	hears($stream, 'anna', 'a stream');
	admin()->do('SELECT api.docsync_announce_stop()');
	$stream->names(0);
	upload('anna', 'in silence');
	is($stream->names($SILENCE), '', 'nothing is heard while the announcer is stopped');
	admin()->do('SELECT api.docsync_announce_start()');
	upload('anna', 'after silence');
	ok(defined $stream->next_event('changed'), 'when it is started again, there is something to ask for');
	$stream->names($SILENCE);
	hears($stream, 'anna', '... and all hear again');
	$stream->close;
	return;
}

# The listening connection, then the server
sub connection_lost
{
	my $stream = stream('');

	$stream->next_event('listening');
	admin()->do(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'docsync-gateway live'});
	is_deeply([ @{ $stream->next_event('changed') }{qw(collection through)} ], [ 'anna', undef ], 'after the connection was lost, clients are told to ask');
	is(listeners(), 1, '... by another one');
	hears($stream, 'anna', '... and hear again');
	admin()->do('NOTIFY docsync', map { "NOTIFY docsync, '$_'" } 'x', 'null', '[]', '{"collection":1}', '{"collection":null,"through":{}}');
	hears($stream, 'anna', '... whatever else is said on the channel');

	for my $how (qw(fast immediate))
	{
		$stream->names(0);
		$node->stop($how);
		sleep 0.2;
		my $answer = $http->get('/Docs/Live');
		is("$answer->{status} " . ($answer->{headers}{'retry-after'} // ''), '503 1', 'without a server there is no new stream') if $how eq 'fast';
		is($stream->{closed}, 0, '... but those that are there stay');
		$node->start;
		ok(defined $stream->next_event('changed', 40), "after the server was restarted ($how), clients are told to ask");
		hears($stream, 'anna', '... and hear again, by another key');
	}
	$stream->close;
	return;
}

# It has been there for a while.
sub beats
{
	wait_for('a sign of life', sub { $idle->take(0.1); $idle->{beats} > 0 });
	is($idle->{closed}, 0, 'there is a sign of life now and then');
	return;
}

sub slow_is_closed
{
	wait_for('the slow client to be left', sub { slurp_file("$http->{dir}/layer.log") =~ /its client doesn't read/ });
	pass('a client that doesn\'t read is left');
	$slow->close;
	return;
}

sub gateway_stopped
{
	my $stream = stream('');
	my $pid = $http->{pids}{layer};

	$stream->next_event('listening');
	kill STOP => $pid;
	upload('anna', 'meanwhile', undef, DocsyncTest::Http->new($node, layer => 'gateway'));
	is($stream->names($SILENCE), '', 'a gateway that is stopped says nothing');
	kill CONT => $pid;
	is($stream->next_event('changed')->{collection}, 'anna', '... and everything when it goes on');

	my $begun = time;
	$http->stop_layer;
	is($stream->next_event('end')->{reason}, 'stopping', 'a gateway that ends says so');
	like($stream->{retry}, qr/^[1-5]\d\d\d$/, '... and when to come back');
	cmp_ok(time - $begun, '<', 10, '... and doesn\'t wait for its streams');
	$http->start_layer;

	$stream = stream('');
	$stream->next_event('listening');
	$http->stop_layer('KILL');
	is($stream->names(1) . $stream->{closed}, '1', 'one that is killed ends without a word');
	$http->start_layer;
	$stream = stream('');
	$stream->next_event('listening');
	hears($stream, 'anna', '... and a client that comes back hears again');
	$stream->close;
	return;
}

sub switched_off
{
	my $stream = stream('');

	$stream->next_event('listening');
	admin()->do('ALTER SYSTEM SET docsync.announce = off', 'SELECT pg_reload_conf()');
	is(($stream->next_event('end', 20) // {})->{reason}, 'off', 'where nothing is announced any more, streams end');
	my $answer = $http->get('/Docs/Live');
	is("$answer->{status} $answer->{headers}{'retry-after'} " . DocsyncTest::Http::value_of($answer)->{details}, '503 300 The setting docsync.announce is off.', '... and new ones are refused, with the reason');
	admin()->do('ALTER SYSTEM RESET docsync.announce', 'SELECT pg_reload_conf()');
	wait_for('streams', sub { stream('')->status == 200 });
	pass('they are possible again when it is switched on');
	return;
}

# The primary is lost, and a standby takes its place.
sub failover
{
	$node->backup('base');
	my $standby = PostgreSQL::Test::Cluster->new('standby');

	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->start;
	$http->stop_layer;
	$http->{env}{DOCSYNC_DATABASE_URI} = DocsyncTest::Http::uri_of($standby, 'gateway');
	$http->start_layer;
	my $answer = $http->get('/Docs/Live');
	is("$answer->{status} " . DocsyncTest::Http::value_of($answer)->{details}, '503 It is a standby.', 'a standby announces nothing');
	$http->stop_layer;

	$http->{env}{DOCSYNC_DATABASE_URI} = sprintf 'postgresql://docsync_gateway@/docsync?host=%s,%s&port=%d,%d', $node->host, $standby->host, $node->port, $standby->port;
	$http->start_layer;
	my $stream = stream('');
	$stream->next_event('listening');
	hears($stream, 'anna', 'of two servers, the primary is listened to');
	$node->wait_for_catchup($standby, 'replay');
	$node->stop('immediate');
	$standby->promote;
	is($stream->next_event('changed', 60)->{collection}, 'anna', 'after a failover clients are told to ask');
	wait_for('the gateway', sub { upload('anna', 'there')->{status} == 200 });
	hears($stream, 'anna', '... and hear from the new primary');
	return;
}

# A client that doesn't read, and gets more than there is room for
sub slow_stream
{
	my $collection = 'slow/' . 'x' x 190;

	upload('slow', 'first', $collection);
	my $stream = DocsyncTest::Stream->new($http, "collection=$collection", token => token('slow'), buffer => 4096);

	is($stream->status, 200, 'a slow client');
	my $session = admin();
	my $key = $session->value('SELECT api.docsync_listen_key(?)', $collection);
	my $memory = metric('process_resident_memory_bytes');

	# More than the kernel keeps for it
	for my $n (1 .. 4)
	{
		$session->do(qq{SELECT pg_notify('docsync', format('{"collection":"$key","through":"%s"}', n)) FROM generate_series(1, 150000) AS n});
		wait_for('the flood', sub { metric('docsync_live_announcements_total') >= $n * 150_000 });
	}
	cmp_ok(metric('process_resident_memory_bytes') - $memory, '<', 60_000_000, 'what a slow client doesn\'t read takes no memory');
	return $stream;
}
