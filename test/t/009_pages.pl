# The examples in README and doc/ print what is shown below them.
#
# (056 tests those of doc/protocol.md, 020 the recipe for logical replication in
# doc/operations.md.)
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use DocsyncTest::Http;
use DocsyncTest::Page;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('pages');
my $http = DocsyncTest::Http->new($node);

# What each page assumes, in a database of its own
my %prepared = (
	'README.md' => '',
	'doc/sql.md' => 'CREATE EXTENSION docsync; SELECT docsync_create_store()',
	'doc/operations.md' => 'CREATE SCHEMA api; CREATE EXTENSION docsync SCHEMA api; SELECT api.docsync_create_store()');

for my $page (sort keys %prepared)
{
	my ($database) = map { lc } $page =~ /(\w+)\.md/;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, $prepared{$page}) if $prepared{$page};
	check($page, $database, "anna/$database");
}

# These use the service's own database.
check('doc/tutorial.md', 'docsync', 'anna');
check('doc/clients.md', 'docsync', 'anna/clients');

# README's lines in JavaScript are the client's own, which its tests run.
is(javascript('README.md'), javascript('clients/javascript/README.md'), "README.md shows the JavaScript client's first example");
done_testing();

# The first example in JavaScript, without comments and spaces
sub javascript
{
	my ($page) = @_;
	my ($example) = grep { $_->{kind} eq 'js' } DocsyncTest::Page->new($page)->blocks;

	return $example->{text} =~ s{//.*}{}gr =~ s/\s+//gr;
}

sub check
{
	my ($page, $database, $collection) = @_;
	my $home = PostgreSQL::Test::Utils::tempdir();

	DocsyncTest::Page->new($page)->check(
		PGHOST => $node->host,
		PGPORT => $node->port,
		PGDATABASE => $database,
		URL => $http->url(''),
		TOKEN => DocsyncTest::Http::token(DocsyncTest::Http::claims(collection => $collection)),
		PYTHONPATH => "$ENV{TESTDIR}/examples/demo",
		PYTHONDONTWRITEBYTECODE => 1,
		TMPDIR => $home,
		no_proxy => '127.0.0.1');
	return;
}
