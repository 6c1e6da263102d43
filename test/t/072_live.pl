# Streams of announcements, GET /Docs/Live: whose they are, and what is heard.

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

start_live(DOCSYNC_LIVE_CHECK => 2, DOCSYNC_LIVE_STREAMS_PER_CLIENT => 5);
what_it_says();
who_hears();
refused();
limits();
checked_again();
many();
beside_postgrest();
$http->stop_layer;
done_testing();

#-----------------------------------------------------------------------------

sub what_it_says
{
	my $stream = stream('');

	is($stream->status, 200, 'a stream of the token\'s collection');
	like($stream->{head}, qr/^\Q$_\E\r$/mi, $_) for 'Content-Type: text/event-stream; charset=utf-8', 'X-Accel-Buffering: no', 'Cache-Control: no-store', 'Access-Control-Allow-Origin: *';
	is_deeply($stream->next_event('listening'), { name => 'listening', collections => ['anna'] }, 'it says first what it hears of');
	cmp_ok($stream->{retry}, '>=', 1000, '... and when to come back');

	my $answer = upload('anna', 'second');
	my $stamp = DocsyncTest::Http::value_of($answer)->{results}[0]{LastUpdateUtc};
	my $event = $stream->next_event('changed');

	is($event->{collection}, 'anna', 'an upload is heard');
	cmp_ok($event->{through}, 'ge', $stamp, '... with the stamp that the collection is settled through');
	is($event->{wait}, 0, '... and few don\'t have to wait');
	is(listeners(), 1, 'one connection listens');
	cmp_ok(metric('docsync_live_streams'), '>=', 1, '/metrics counts streams');
	cmp_ok(metric('docsync_live_messages_total'), '>=', 1, '... and messages');
	is($http->request('OPTIONS', '/Docs/Live')->{status}, 204, 'a page of another site may ask');
	$stream->close;
	return;
}

# A tenant hears nothing of others, not a byte.
sub who_hears
{
	upload('bert', 'first');
	upload('anna', 'first', 'anna/lists');
	my $anna = stream('collection=anna&collection=anna%2Flists&collection=bert');
	my $bert = stream('collection=bert', 'bert');
	my $carl = stream('', 'carl');

	is_deeply($anna->next_event('listening'), { name => 'listening', collections => [ 'anna', 'anna/lists' ] }, 'several collections, without that of another tenant');
	is_deeply($carl->next_event('listening'), { name => 'listening', collections => [] }, 'who has no document yet hears of nothing');
	is_deeply($bert->next_event('listening'), { name => 'listening', collections => ['bert'] }, 'the other tenant');
	hears($anna, 'anna', 'each collection is heard', $_) for 'anna', 'anna/lists';
	$_->names($SILENCE) for $anna, $carl;

	my @bytes = map { $_->{bytes} } $anna, $carl;
	for (1 .. 5)
	{
		hears($bert, 'bert', 'the other tenant hears of its own');
	}
	upload('dora', "heard by nobody $_") for 1 .. 3;
	$_->names($SILENCE) for $anna, $carl;
	is_deeply([ map { $_->{bytes} } $anna, $carl ], \@bytes, '... of which no other stream gets a byte');

	upload('carl', 'first');
	is_deeply($carl->next_event('listening'), { name => 'listening', collections => ['carl'] }, 'with the first document its tenant hears, after a while');
	is($carl->next_event('changed')->{collection}, 'carl', '... and is told to ask');
	$_->close for $anna, $bert, $carl;
	return;
}

sub refused
{
	my $expired = token('anna', exp => time - 100);
	my @cases = ([ '', undef, 401, 'without a token' ], [ '', "$expired", 401, 'with one that has expired' ], [ '', token('anna') . 'x', 401, 'with one that is forged' ],
		[ 'clientId=x', token('anna'), 400, 'another parameter' ], [ 'collection=a&collection=a', token('anna'), 400, 'a collection twice' ],
		[ 'collection=%ff', token('anna'), 400, 'what is no text' ], [ 'collection=%00', token('anna'), 400, 'a NUL' ], [ 'collection=' . 'a' x 300, token('anna'), 400, 'a name that is too long' ],
		[ join('&', map { "collection=anna/$_" } 1 .. 61), token('anna'), 413, '61 collections' ], [ '', token('anna', role => 'postgres'), 403, 'a role that may not' ]);

	for my $case (@cases)
	{
		my ($query, $token, $status, $name) = @$case;
		my $answer = $http->get("/Docs/Live?$query", token => $token);

		is($answer->{status}, $status, "$name is refused") or diag $answer->{content};
		ok(defined DocsyncTest::Http::value_of($answer)->{message}, '... with a sentence');
	}
	my $answer = $http->post('/Docs/Live', '[]');
	is("$answer->{status} $answer->{headers}{allow}", '405 GET', 'POST isn\'t for this');
	is(stream(join '&', map { "collection=anna/$_" } 1 .. 60)->status, 200, '60 collections are possible');
	return;
}

sub limits
{
	my %client = (sub => 'one');
	my @streams = map { DocsyncTest::Stream->new($http, '', token => token('anna', %client, exp => time + 1000 + $_)) } 1 .. 5;

	is(join(' ', map { $_->status } @streams), '200 200 200 200 200', 'a client has several streams');
	my $answer = $http->get('/Docs/Live', token => token('anna', %client));
	is("$answer->{status} $answer->{headers}{'retry-after'}", '429 60', '... but not any number of them, whatever tokens it has');
	is(stream('')->status, 200, 'another client has its own');
	$streams[0]->close;
	wait_for('a free place', sub { DocsyncTest::Stream->new($http, '', token => token('anna', %client))->status == 200 });
	pass('one that ends makes place for the next');
	return;
}

# The gateway asks again at least every hour; here every two seconds.
sub checked_again
{
	my $stream = stream('collection=anna&collection=anna/lists');
	my $policy = 'ALTER POLICY tenant ON docsync.document USING (collection <> %s AND split_part(collection, \'/\', 1) = (SELECT nullif(current_setting(\'request.jwt.claims\', true), \'\')::json ->> \'tenant\'))';

	$stream->next_event('listening');
	admin()->do(sprintf $policy, "'anna'");
	is_deeply($stream->next_event('listening'), { name => 'listening', collections => ['anna/lists'] }, 'what a policy doesn\'t show any more isn\'t heard any more');
	upload('anna', 'secret');
	is($stream->names($SILENCE), '', '... indeed');
	hears($stream, 'anna', '... the other collection is', 'anna/lists');
	admin()->do(sprintf $policy, "''");
	is($stream->next_event('changed')->{collection}, 'anna', 'what it shows again is, and the client is told to ask');
	admin()->do('REVOKE EXECUTE ON FUNCTION api.docsync_listen_key FROM PUBLIC', 'REVOKE EXECUTE ON FUNCTION api.docsync_listen_key FROM docsync_user');
	is($stream->next_event('end')->{reason}, 'rights', 'who may not ask any more is told so');
	is($stream->names(1) . $stream->{closed}, '1', '... and that is the end');
	is(stream('')->status, 403, '... also for new ones');
	admin()->do('GRANT EXECUTE ON FUNCTION api.docsync_listen_key TO docsync_user');
	return;
}

# A thousand streams, of two processes, since each may have only so many files
sub many
{
	my $dir = PostgreSQL::Test::Utils::tempdir();

	$http->stop_layer;
	local $http->{env}{DOCSYNC_LIVE_STREAMS_PER_CLIENT} = 1000;
	local $http->{env}{DOCSYNC_LIVE_CHECK} = 3600;
	$http->start_layer;
	my $before = metric('process_resident_memory_bytes');
	my $token = token('anna');
	my @clients = map {
		my $n = $_;
		in_child(sub {
			my @streams = map { DocsyncTest::Stream->new($http, '', token => $token) } 1 .. 500;

			$_->next_event('listening') // die 'no stream' for @streams;
			touch("$dir/$n");
			my @events = map { $_->next_event('changed', 60) // die 'nothing heard' } @streams;
			die 'not all wait' if grep { $_->{wait} != 1000 } @events;
		})
	} 1, 2;

	wait_for('a thousand streams', sub { -e "$dir/1" && -e "$dir/2" });
	is(metric('docsync_live_streams'), 1000, 'a thousand streams');
	my $each = (metric('process_resident_memory_bytes') - $before) / 1000;
	cmp_ok($each, '<', 60_000, "... each takes little memory: $each bytes");
	is(listeners(), 1, '... and all of them one connection');
	is($http->get('/Docs/Live', token => $token)->{status}, 429, '... no more than there may be');
	upload('anna', 'for all');
	is(scalar(grep { waitpid $_, 0; $? != 0 } @clients), 0, 'all hear, and wait at random for up to a second');
	wait_for('the streams to end', sub { metric('docsync_live_streams') == 0 });
	pass('nothing is left of them');
	$http->stop_layer;
	return;
}

# nginx passes /Docs/Live on to a gateway, everything else to PostgREST.
sub beside_postgrest
{
	$http->start_layer;
	my $rest = DocsyncTest::Http->new($node, layer => 'postgrest', live => $http->{port});
	my $stream = DocsyncTest::Stream->new($rest, '', token => token('anna'));

	is($stream->status, 200, 'a stream through nginx');
	is(scalar(() = $stream->{head} =~ /^access-control-allow-origin:/gmi), 1, '... whose headers are there once');
	$stream->next_event('listening');
	is(upload('anna', 'by PostgREST', undef, $rest)->{status}, 200, 'an upload through PostgREST');
	is($stream->next_event('changed')->{collection}, 'anna', '... is heard');
	my $answer = $rest->get('/Docs/Live', token => undef);
	is("$answer->{status} " . DocsyncTest::Http::value_of($answer)->{code}, '401 42501', 'without a token there is none');
	$answer = $rest->post('/Docs/Live', '[]');
	is("$answer->{status} $answer->{headers}{allow}", '405 GET', '... nor by POST');
	$stream->close;
	$rest->stop;
	return;
}
