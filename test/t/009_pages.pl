# README's example in psql prints what README says.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($sql, $printed) = slurp_file('README.md') =~ /^## An example in psql\n\n```sql\n(.*?)```\n(.*?)^## /ms
  or BAIL_OUT('README.md has no example');

my $node = PostgreSQL::Test::Cluster->new('readme');
$node->init;
$node->start;

my ($stdout, $stderr);
is($node->psql('postgres', $sql, stdout => \$stdout, stderr => \$stderr, extra_params => [ '-P', 'tuples_only=off', '-P', 'format=aligned' ]),
	0, 'runs as written');
like($stderr, qr/^psql:<stdin>:\d+: NOTICE:  docsync has made its store, schema docsync\nHINT: [^\n]*\n?\z/, '... without an error');

# Not how wide the columns are, nor how many rows psql counts.
sub lines_of { return [ map { s/\s*\|\s*/|/gr =~ s/^\s+|\s+$//gr } grep { /\w/ && !/^\(\d+ rows?\)$|^CREATE EXTENSION$/ } split /\n/, shift ] }

# What psql prints begins with a space or a line of dashes; a sentence doesn't.
$printed = join '', grep { /^[ -]/ } split /^/, $printed;
is_deeply(lines_of($stdout), lines_of($printed), '... and prints what it says');

done_testing();
