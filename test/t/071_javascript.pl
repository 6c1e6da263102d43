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

# live.test.js mostly waits: it runs beside the others.
my ($live, @others) = sort { ($b =~ /live/) <=> ($a =~ /live/) || $a cmp $b } glob "$directory/test/" . ($ENV{DOCSYNC_JAVASCRIPT_TEST} || '*') . '.test.js';
my $running = start($live);

finish($_, start($_)) for @others;
finish($live, $running);
done_testing();

#-----------------------------------------------------------------------------

sub start
{
	my ($file) = @_;

	open my $output, '-|', "'$ENV{DOCSYNC_NODE}' --no-warnings --test-force-exit --test-reporter=tap '$file' 2>&1" or die "node: $!";
	return $output;
}

sub finish
{
	my ($file, $output) = @_;
	my $said = do { local $/ = undef; readline $output };

	close $output;
	return is($?, 0, $file =~ s{.*/}{}r) ? note $said : diag $said;
}
