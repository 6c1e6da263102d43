# A page of another site, in Chromium, if that is installed: any header can be
# sent, and what a client needs of an answer can be read.

use strict;
use warnings;

use lib 'test/t/lib';

use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

use DocsyncTest;
use DocsyncTest::Http;

my ($chromium) = grep { -x } $ENV{DOCSYNC_CHROMIUM} // '/usr/bin/chromium';
plan skip_all => 'there is no Chromium' if !$chromium;

my $JSON = JSON::PP->new->utf8->canonical->allow_nonref;
my $http = DocsyncTest::Http->new(new_node('browser'));
my $dir = PostgreSQL::Test::Utils::tempdir();
my %headers = (
	authorization => 'Bearer ' . DocsyncTest::Http::token(DocsyncTest::Http::claims()),
	'content-type' => 'application/json',
	'x-client-id' => 'c1');
my %traced = (%headers, 'x-requested-with' => 'XMLHttpRequest', traceparent => '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01');

my @answers = @{ fetched(
	[ 'POST', '/Docs', '[{"id":"x","clientVersion":1,"body":1}]', {%headers} ],
	[ 'POST', '/Docs/Sync', '{}', {%traced} ],
	[ 'GET', '/Docs/Pull', undef, { %traced, 'if-none-match' => '"x"' } ],
	[ 'POST', '/Docs', '{', {%traced} ],
	[ 'POST', '/Docs', '[]', { %traced, authorization => 'Bearer x' } ],
	[ 'DELETE', '/Docs', undef, {} ]) };

is_deeply([ map { $_->{status} } @answers[ 0 .. 4 ] ], [ 200, 200, 200, 400, 401 ], 'requests arrive, answers can be read') or diag $JSON->encode(\@answers);
like($answers[1]{text}, qr/^\{"received":0,/, '... as they are');
like($answers[2]{etag} // '', qr/^W\//, '... the ETag as well');
like($answers[3]{text}, qr/"code":"22P02"/, '... and errors');
like($answers[5]{error} // '', qr/TypeError/, 'a method that there is not is not sent');

if ($http->has_rpc)
{
	$http->stop_layer;
	is_deeply([ map { @$_{qw(status retry)} } @{ fetched([ 'POST', '/Docs/Sync', '{}', {%headers} ]) } ], [ 502, '10' ], 'when to try again can be read');
}
done_testing();

# What a page that sends these requests gets
sub fetched
{
	my (@requests) = @_;
	my $script = <<'END' =~ s/REQUESTS/$JSON->encode([ map { [ $_->[0], $http->url($_->[1]), @$_[ 2, 3 ] ] } @requests ])/er;
	<!doctype html><pre></pre><script type="module">
	const answers = [];
	for (const [method, url, body, headers] of REQUESTS) {
		try {
			const answer = await fetch(url, { method, headers, body: body ?? undefined });
			answers.push({ status: answer.status, etag: answer.headers.get('ETag'), retry: answer.headers.get('Retry-After'), text: await answer.text() });
		} catch (error) {
			answers.push({ error: String(error) });
		}
	}
	document.querySelector('pre').textContent = '<' + encodeURIComponent(JSON.stringify(answers)) + '>';
	</script>
END

	unlink "$dir/page.html";
	append_to_file("$dir/page.html", $script);
	local $ENV{HOME} = $dir;
	my $dom = `$chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir=$dir/profile --virtual-time-budget=60000 --dump-dom file://$dir/page.html 2>$dir/chromium.log`;
	my ($came) = $dom =~ /&lt;(.*)&gt;/ or BAIL_OUT('no answer: ' . substr($dom, 0, 500) . slurp_file("$dir/chromium.log"));

	return $JSON->decode($came =~ s/%([0-9a-fA-F]{2})/chr hex $1/ger);
}
