# What operators see of the layers over HTTP, of PostgREST behind nginx and of
# the gateway: what each request did, which clients don't see; and whether the
# service works.

use strict;
use warnings;

use lib 'test/t/lib';

use PostgreSQL::Test::Utils;
use Test::More;

use DocsyncTest;
use DocsyncTest::Http;

my $node = new_node('main');
my %http = map { $_ => DocsyncTest::Http->new($node, layer => $_, DOCSYNC_LOG_REQUESTS => 'true') } qw(postgrest gateway);

for my $layer (qw(postgrest gateway))
{
	log_of($layer, $http{$layer});
}
outcomes_are_counted($http{gateway});
health();
done_testing();

#-----------------------------------------------------------------------------

# A line for each request, with what docsync says of it, which the client isn't told
sub log_of
{
	my ($layer, $http) = @_;
	my $document = { id => "of $layer", clientVersion => 1, body => 'secret' };
	my @answers = (
		$http->post('/Docs?clientId=ann%C3%A9&collection=anna/log', [ $document, { %$document, clientVersion => 0 } ]),
		$http->get('/Docs/Pull?clientId=ben&collection=anna/log&maxDocuments=1'),
		$http->post('/Docs/Sync', { clientId => 'ben', collections => [ { collection => 'anna/log' }, { collection => 'anna/none' } ] }),
		$http->get('/Docs/Pull?cursor=x'));

	is(join(' ', map { $_->{status} } @answers), '200 200 200 400', "$layer: requests");
	is(join(' ', map { grep { /docsync/i } keys %{ $_->{headers} } } @answers), '', '... whose answers say nothing of themselves');

	# Before the first document of the other layer's
	my @expected = (
		qr{collection=anna%2Flog&clientId=ann%C3%A9&documents=0&more=false&received=2&created=1&discarded=1},
		qr{collection=anna%2Flog&clientId=ben&to=[-0-9T:.]+Z&documents=1&more=(?:true|false)&received=0},
		qr{collections=2&clientId=ben(?:&to=[-0-9T:.]+Z)?&documents=[12]&more=false&received=0});
	my $file = $layer eq 'gateway' ? "$http->{dir}/layer.log" : "$http->{dir}/access.log";
	my $lines = sub {
		my $text = -e $file ? slurp_file($file) : '';
		return grep { m{/Docs|"message":"request"} && !/(?: |"status":)(?:401|50\d)[ ,]/ } split /\n/, $text;
	};

	wait_for('the log', sub { $lines->() >= 4 });
	my @lines = $lines->();
	for my $i (0 .. $#expected)
	{
		like($lines[$i], $layer eq 'gateway' ? qr{"status":200,.*"exchange":"$expected[$i]"} : qr{ "\w+ /Docs\S*" 200 [0-9.]+ $expected[$i]$}, "... the log has what request $i did");
	}
	like($lines[3], $layer eq 'gateway' ? qr{"status":400(?!.*exchange)} : qr{ "GET /Docs/Pull" 400 [0-9.]+ -$}, '... and of one that was refused the status');
	unlike(join("\n", @lines), qr/secret|Bearer/, '... and no document, no token');
	return;
}

sub outcomes_are_counted
{
	my ($http) = @_;
	my $metrics = $http->ask_admin('/metrics');

	like($metrics, qr/^docsync_documents_received_total\{outcome="$_"\} 1$/m, "/metrics counts what was $_") for qw(created discarded);
	like($metrics, qr/^docsync_documents_received_total\{outcome="$_"\} 0$/m, "... and begins at 0 for what was $_") for qw(updated refused);
	like($metrics, qr/^docsync_documents_sent_total [2-4]$/m, '... and what was given');
	unlike($metrics, qr/anna|ben/, '... and says not whose');
	return;
}

# GET /Docs/Health of both layers
sub health
{
	my $session = $http{gateway}->session;
	my $statuses = sub { return join ' ', map { $http{$_}->get('/Docs/Health', token => undef)->{status} } qw(postgrest gateway) };
	# The gateway asks once a second.
	my $becomes = sub { my ($status) = @_; return wait_for("health to be $status", sub { $statuses->() eq "$status $status" }) };

	for my $layer (qw(postgrest gateway))
	{
		my $http = $http{$layer};
		my $answer = $http->get('/Docs/Health', token => undef);

		is($answer->{status}, 200, "$layer works, and says so without a token");
		like($answer->{content}, qr/^\{"serverUtc":"[-0-9T:.]+Z"\}$/, '... and nothing else');
		is($answer->{headers}{'content-type'}, 'application/json; charset=utf-8', '... as JSON');
		is(join(' ', grep { /docsync|profile/i } keys %{ $answer->{headers} }), '', '... without headers that are not for clients');
		is($http->get('/Docs/Health?collection=x', token => 'x')->{status}, 200, '... a token that is none counts for nothing');
		is($http->request('HEAD', '/Docs/Health', undef, token => undef)->{status}, 200, '... HEAD');
		$answer = $http->post('/Docs/Health', {}, token => undef);
		is("$answer->{status} $answer->{headers}{allow}", '405 GET, HEAD', '... POST is no method');
		is($http->get('/Docs/Pull', token => undef)->{status}, 401, '... and nothing else can be asked without one');
	}

	$session->do('ALTER TABLE docsync.document DISABLE TRIGGER zz_docsync_guard');
	$becomes->(503);
	for my $layer (qw(postgrest gateway))
	{
		my $answer = $http{$layer}->get('/Docs/Health', token => undef);

		is("$answer->{status} " . DocsyncTest::Http::value_of($answer)->{code}, '503 PT503', "$layer: a store that is not in order");
		like($answer->{headers}{'retry-after'}, qr/^\d+$/, '... may be later');
	}
	$session->do('ALTER TABLE docsync.document ENABLE TRIGGER zz_docsync_guard');
	$becomes->(200);
	pass('it is mended');

	$session->do('SELECT docsync_hand_over()');
	sleep 2;
	is($statuses->(), '200 200', 'a store that was handed over can be read');
	$session->do('SELECT docsync_new_epoch()');

	$session->close;
	$node->stop('immediate');
	$becomes->(503);
	pass('without PostgreSQL');
	$node->start;
	$becomes->(200);
	pass('with PostgreSQL again');
	return;
}
