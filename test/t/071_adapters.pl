# The JavaScript client's adapters: each library comes through the scenarios of
# clients/javascript/test/adapters/scenarios.js, with a service over HTTP.  One
# test for each of them and each library, so that the documentation's table can
# be made of what is printed:
#
#	ok 3 - rxdb: a deletion reaches the others
#	ok 4 # skip rxdb: a later edit beats a deletion: REASON
#	ok 5 - rxdb (its own): a conflictHandler decides
#
# DOCSYNC_ADAPTERS: which libraries, rxdb tanstack-db ...; all without it.
# DOCSYNC_CASE: a pattern; only the tests whose names match are run.
# DOCSYNC_RANDOM_SEED: repeat one run of the random one.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use DocsyncTest::Http;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $directory = $ENV{DOCSYNC_JAVASCRIPT} && "$ENV{DOCSYNC_JAVASCRIPT}/test/adapters";
plan skip_all => 'DOCSYNC_JAVASCRIPT, a copy of clients/javascript with its packages, is not given' if !$directory;

my $node = new_node('main');
my $http = DocsyncTest::Http->new($node);
my @libraries = $ENV{DOCSYNC_ADAPTERS} ? split ' ', $ENV{DOCSYNC_ADAPTERS} : map { m{([^/]+)\.test\.js\z} } sort glob "$directory/*.test.js";

my %is_scenario = map { $_ => 1 } grep { defined } slurp_file("$directory/scenarios.js") =~ /^\tasync (?:'([^']+)'|"([^"]+)")\(played\)/mg;

ok(keys %is_scenario > 10, 'there are scenarios');

# What the scenarios have refused
$http->session->do(q{ALTER TABLE docsync.document ADD CONSTRAINT refuse_check CHECK (body ->> 'refuse' IS DISTINCT FROM 'check') NOT VALID});
# Versions beyond 2^53
$http->set_version_lead('-1');
$ENV{DOCSYNC_URL} = $http->url('');
$ENV{DOCSYNC_TOKEN} = DocsyncTest::Http::token(DocsyncTest::Http::claims());
$ENV{DOCSYNC_EXPIRED_TOKEN} = DocsyncTest::Http::token(DocsyncTest::Http::claims(exp => time - 3600));

# Two at once: much of the time they wait.
my @begun;

for my $i (0 .. $#libraries)
{
	my $library = $libraries[$i];

	push @begun, begin($libraries[@begun]) while @begun < @libraries && @begun < $i + 2;
	my ($run, $file) = @{ $begun[$i] };
	my $status = $run->finish ? 0 : $run->full_result;
	my $output = slurp_file($file);
	my $failed = 0;

	# Those of the outermost level
	while ($output =~ /^(not )?ok \d+ - (.*?)(?: # SKIP ?(.*))?$/mg)
	{
		my ($not, $name, $why) = ($1, $2, $3);

		$failed++ if $not;
		if (defined $why)
		{
		  SKIP: { skip "$library: $name: $why", 1 }
		}
		else
		{
			ok(!$not, $library . ($is_scenario{$name} ? '' : ' (its own)') . ": $name");
		}
	}
	diag $output if $failed || $status;
	is($status, 0, "$library: all of it");
}
done_testing();

# Starts the tests of a library.  Returns the process, and the file that gets
# what it prints.
sub begin
{
	my ($library) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/adapters_$library.tap";
	my @pattern = $ENV{DOCSYNC_CASE} ? "--test-name-pattern=$ENV{DOCSYNC_CASE}" : ();

	return [
		IPC::Run::start([ $ENV{DOCSYNC_NODE}, '--no-warnings', '--test-force-exit', '--test-reporter=tap', @pattern, "$directory/$library.test.js" ],
			'>', $file, '2>&1'),
		$file ];
}
