# A server that announces, a gateway in front of it, and tenants who upload and
# listen.

package DocsyncTest::Live;

use strict;
use warnings;

use Exporter 'import';
use HTTP::Tiny;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use Test::More;

use DocsyncTest;
use DocsyncTest::Http;
use DocsyncTest::Stream;

our @EXPORT = qw($node $http $SILENCE start_live token stream upload hears metric admin listeners);

# Within which an announcement comes; within which one that would come has come
my $PATIENCE = 10;
our $SILENCE = 0.7;

our ($node, $http);
my %count;

# Starts both.  env: settings of the gateway.
sub start_live
{
	my (%env) = @_;

	$node = new_node('primary', allows_streaming => 1, conf => "docsync.announce = on\nrestart_after_crash = on");
	$http = DocsyncTest::Http->new($node, layer => 'gateway', %env);
	$http->{client} = HTTP::Tiny->new(timeout => 15);		# shorter than between signs of life: a stream that is not refused doesn't end
	is(upload('anna', 'first')->{status}, 200, 'a document');
	return;
}

# A tenant's token
sub token
{
	my ($tenant, %claims) = @_;

	return DocsyncTest::Http::token(DocsyncTest::Http::claims(tenant => $tenant, collection => $tenant, %claims));
}

# A stream of a tenant's, by default anna's; each of another client, so that limits don't matter.
sub stream
{
	my ($query, $tenant, %claims) = @_;

	return DocsyncTest::Stream->new($http, $query, token => token($tenant // 'anna', sub => 'stream ' . ++$count{streams}, %claims));
}

# Uploads a document to a tenant's collection.
sub upload
{
	my ($tenant, $id, $collection, $to) = @_;

	$collection //= $tenant;
	return ($to // $http)->post("/Docs?clientId=c1&collection=$collection", [ { id => $id, clientVersion => ++$count{versions}, body => 1 } ], token => token($tenant));
}

# Does a stream that has begun hear of an upload that is made now?
sub hears
{
	my ($stream, $tenant, $name, $collection) = @_;

	$stream->names(0);
	my $answer = upload($tenant, 'heard ' . ++$count{uploads}, $collection);
	my $stamp = (DocsyncTest::Http::value_of($answer) // {})->{results}[0]{LastUpdateUtc} // '';
	my $event;

	# Before it there may be some for all, when an announcer has begun, and for
	# earlier uploads.
	do { $event = $stream->next_event('changed', $PATIENCE) } while defined $event && !(defined $event->{collection} && ($event->{through} // '') ge $stamp);
	return ok(defined $event && $answer->{status} == 200 && $event->{collection} eq ($collection // $tenant), $name) ||
	  diag("$answer->{status} $answer->{content} " . JSON::PP->new->encode([ $event, $stream->{head}, $stream->{text} ]));
}

# A metric of the gateway's, as it is now
sub metric
{
	my ($name) = @_;

	return $http->ask_admin('/metrics') =~ /^\Q$name\E (.*)$/m ? $1 : '';
}

# A session of the superuser's
sub admin { return connect_to($_[0] // $node, 'docsync') }

# How many connections listen
sub listeners { return admin()->value(q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'docsync-gateway live'}) }

1;
