# doc/openapi.yaml: its examples are sent, in order, and answered as it says;
# its arguments are those of doc/protocol.md; what it doesn't describe is
# noticed.  (Other tests check that it describes the answers that they get.)

use strict;
use warnings;

use lib 'test/t/lib';

use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

use DocsyncTest;
use DocsyncTest::Http;
use DocsyncTest::Page;

plan skip_all => 'DOCSYNC_OPENAPI names no command' if !$ENV{DOCSYNC_OPENAPI};

my $JSON = JSON::PP->new->utf8->canonical->allow_nonref;
my $FILE = "$ENV{TESTDIR}/doc/openapi.yaml";
my $http = DocsyncTest::Http->new(new_node('openapi'));

#-----------------------------------------------------------------------------
# The examples
#-----------------------------------------------------------------------------

my $page = DocsyncTest::Page->new('doc/openapi.yaml');
my $requests = of_file('requests');
my @answers;

cmp_ok(scalar @$requests, '>=', 12, 'there are examples');
for my $request (@$requests)
{
	my ($name, $method, $path) = @$request{qw(name method path)};
	my $body = defined $request->{body} ? $page->sent($request->{body}) : undef;
	my $answer = $http->request($method, $path, $body);

	is($answer->{status}, $request->{status}, "$method $path, \"$name\": status");
	is_deeply($page->shown(DocsyncTest::Http::value_of($answer), $request->{answer}), $request->{answer}, '... and answer, as shown')
	  or diag $answer->{content};
	push @answers, { method => $method, path => $path, status => $answer->{status}, body => $answer->{content} };
}

#-----------------------------------------------------------------------------
# The arguments
#-----------------------------------------------------------------------------

{
	my ($head, $rows) = DocsyncTest::Page->new('doc/protocol.md')->text =~ /^(\| argument \|.*\|)\n\| --- .*\n((?:\|.*\n)+)/m;
	my @names = grep { /^[A-Z]/ } split / *\| */, $head;
	my %expected;

	for my $row (split /\n/, $rows)
	{
		my (undef, $argument, @where) = split / *\| */, $row;

		$argument =~ tr/`//d;
		$expected{$argument} = { map { $where[$_] ? ($names[$_] => $where[$_]) : () } 0 .. $#names };
	}
	is_deeply(of_file('arguments'), \%expected, 'the arguments are those of doc/protocol.md, and stand where it says');
}

#-----------------------------------------------------------------------------
# What it doesn't describe
#-----------------------------------------------------------------------------

# One key less in each object of each answer, or one more; another type; another
# status
my $dir = PostgreSQL::Test::Utils::tempdir();
my %optional = map { $_ => 1 } qw(error winnerOmitted reconcile lostAfter behind state sums settled);
my @wrong;

is(differences(@answers), '', 'the answers are as described');
for my $answer (@answers)
{
	my $value = $JSON->decode($answer->{body});

	change($value, sub { push @wrong, { %$answer, body => $JSON->encode($value), what => $_[0] } });
	push @wrong, { %$answer, body => '', what => 'no body' }, { %$answer, status => 299, what => 'another status' };
}
cmp_ok(scalar @wrong, '>', 100, 'answers are changed');
append_to_file("$dir/wrong", join '', map { $JSON->encode($_) . "\n" } @wrong);
my $noticed = `$ENV{DOCSYNC_OPENAPI} check $FILE $dir/wrong`;
my $count = () = $noticed =~ /^[A-Z]+ \/Docs/mg;
my ($more) = $noticed =~ /^and (\d+) more$/m;

is($count + ($more // 0), scalar @wrong, 'each change is noticed') or diag join "\n", map { $_->{what} } grep { differences($_) eq '' } @wrong;

done_testing();

# What the command says about the file
sub of_file
{
	my ($command) = @_;
	my $printed = `$ENV{DOCSYNC_OPENAPI} $command $FILE`;

	is($?, 0, "the file's $command");
	return $JSON->decode($printed);
}

sub differences
{
	my $file = "$dir/answers";

	unlink $file;
	append_to_file($file, join '', map { $JSON->encode($_) . "\n" } @_);
	return DocsyncTest::Http::differences($file);
}

# Changes a value in one place after the other, calls the function each time,
# with a description of the change, and reverts it.  A document's body may be
# anything.
sub change
{
	my ($value, $then) = @_;

	if (ref $value eq 'ARRAY')
	{
		change($_, $then) for @$value;
	}
	elsif (ref $value eq 'HASH')
	{
		for my $key (sort keys %$value)
		{
			my $was = $value->{$key};

			change($was, $then) if $key ne 'body';
			if (!$optional{$key})
			{
				delete $value->{$key};
				$then->("no $key");
			}
			if ($key ne 'body')
			{
				$value->{$key} = 1.5;
				$then->("$key a fraction");
			}
			$value->{$key} = $was;
		}
		$value->{more_of_it} = undef;
		$then->('one key more');
		delete $value->{more_of_it};
	}
	return;
}
