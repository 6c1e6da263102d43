# The JavaScript client's own tests, clients/javascript/test/*.test.js, with a
# service behind a simulated bad connection.  What a failed test leaves open
# must not keep the run from ending: --test-force-exit.
# DOCSYNC_JAVASCRIPT_TEST runs one of them alone, by its name.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use DocsyncTest::Http;
use Test::More;

my $directory = $ENV{DOCSYNC_JAVASCRIPT};
plan skip_all => 'DOCSYNC_JAVASCRIPT, a copy of clients/javascript with its packages, is not given' if !$directory;

my $node = new_node('main');
my $http = DocsyncTest::Http->new($node);

$http->session->do(q{ALTER TABLE docsync.document ADD CONSTRAINT refuse_check CHECK (body ->> 'refuse' IS DISTINCT FROM 'check') NOT VALID});
$ENV{DOCSYNC_URL} = $http->url('');
$ENV{DOCSYNC_TOKEN} = DocsyncTest::Http::token(DocsyncTest::Http::claims());
$ENV{DOCSYNC_EXPIRED_TOKEN} = DocsyncTest::Http::token(DocsyncTest::Http::claims(exp => time - 3600));

for my $file (glob "$directory/test/" . ($ENV{DOCSYNC_JAVASCRIPT_TEST} || '*') . '.test.js')
{
	my ($name) = $file =~ m{([^/]+)\z};
	my $output = qx('$ENV{DOCSYNC_NODE}' --no-warnings --test-force-exit --test-reporter=tap '$file' 2>&1);

	is($?, 0, $name) ? note $output : diag $output;
}
done_testing();
