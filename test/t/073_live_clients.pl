# The JavaScript client's start(), with a gateway that says when something has
# changed: clients/javascript/test/live.test.js, in Node.js and in Chromium.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use DocsyncTest::Http;
use Test::More;

my $directory = $ENV{DOCSYNC_JAVASCRIPT};
plan skip_all => 'DOCSYNC_JAVASCRIPT, a copy of clients/javascript with its packages, is not given' if !$directory;

my $node = new_node('main', conf => 'docsync.announce = on');
my $http = DocsyncTest::Http->new($node, layer => 'gateway', DOCSYNC_LIVE_CHECK => 2);

$ENV{DOCSYNC_URL} = $http->url('');
$ENV{DOCSYNC_TOKEN} = DocsyncTest::Http::token(DocsyncTest::Http::claims());
$ENV{DOCSYNC_EXPIRED_TOKEN} = DocsyncTest::Http::token(DocsyncTest::Http::claims(exp => time - 3600));
$ENV{DOCSYNC_LIVE} = 1;

my $output = qx('$ENV{DOCSYNC_NODE}' --no-warnings --test-force-exit --test-reporter=tap '$directory/test/live.test.js' 2>&1);

is($?, 0, 'live.test.js') ? note $output : diag $output;
done_testing();
