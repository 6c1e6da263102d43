# A page of the documentation: its examples are run, and what they print is
# compared with what stands right below them.
#
# Examples are fenced: ```sql for psql, ```sh for a shell, ```python. The fence
# right below one has its output: ```text, line by line, or ```json, value by
# value.  What has more behind the language than that is another test's.
#
# Times, cursors and digests are those of the day: each one that the page shows
# stands for what came in its place, wherever it is shown again.  (CURSOR and
# DIGEST stand for any.)

package DocsyncTest::Page;

use strict;
use warnings;

use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

my $JSON = JSON::PP->new->utf8->canonical->allow_nonref;
my $TIME = qr/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z/;
my $CURSOR = qr/[0-9a-f]{16}\.\d+\.\d+\.[0-9a-f]+\.[0-9a-f]{8}/;

# What an example in Python takes for granted
my $PYTHON = 'import os; from client import *; from transport_http import *; url, token = os.environ["URL"], os.environ["TOKEN"]';

# How a block is run by bash; TEXT is the block's own.
my %RUN = (
	sh => 'TEXT',
	sql => "psql -X -q -v ON_ERROR_STOP=1 <<'END_OF_BLOCK'\nTEXTEND_OF_BLOCK\n",
	python => "python3 - <<'END_OF_BLOCK'\n$PYTHON\nTEXTEND_OF_BLOCK\n");

# Of a file's name, in the directory of docsync.
sub new
{
	my ($class, $name) = @_;

	return bless { name => $name, text => slurp_file("$ENV{TESTDIR}/$name"), stands_for => {} }, $class;
}

sub text { return $_[0]{text} }

# The fenced blocks in their order: kind, info (what stands behind the kind),
# text, and output, a block, if one comes right below.
sub blocks
{
	my ($self) = @_;
	my (@blocks, $end);

	while ($self->{text} =~ /^```(\w+)(?: ([^\n]*))?\n(.*?)^```\n/msg)
	{
		my $start = $-[0];
		my $block = { kind => $1, info => $2, text => $3 };

		if ($block->{kind} =~ /^(?:text|json)$/ && defined $end && $end == $start && !$blocks[-1]{output})
		{
			$blocks[-1]{output} = $block;
		}
		else
		{
			push @blocks, $block;
		}
		$end = pos $self->{text};
	}
	return @blocks;
}

# Runs the page from its beginning to its end, as somebody would who pastes block
# after block into one shell, and compares.
sub check
{
	my ($self, %env) = @_;
	my @blocks = grep { $RUN{ $_->{kind} } && !defined $_->{info} } $self->blocks;
	my $script = "cd '$ENV{TESTDIR}'\n";

	for my $block (@blocks)
	{
		$script .= $RUN{ $block->{kind} } =~ s/TEXT/$block->{text}/r . "echo \"<end \$?>\"\n";
	}
	my $file = PostgreSQL::Test::Utils::tempdir() . '/page.sh';
	append_to_file($file, $script);

	local @ENV{ keys %env } = values %env;
	my $printed = `bash $file 2>$file.err </dev/null`;
	my @outputs = $printed =~ /(.*?)<end (\d+)>\n/gs;

	cmp_ok(scalar @blocks, '>=', 1, "$self->{name} has examples");
	is(scalar @outputs, 2 * @blocks, "$self->{name}: all of its examples run") or diag(slurp_file("$file.err"));
	for my $block (@blocks)
	{
		my ($output, $status) = splice @outputs, 0, 2;
		my ($title) = $block->{text} =~ /^(?:#[^\n]*\n)?([^\n]*)/;

		is($status, 0, "$self->{name}: $title") or diag(slurp_file("$file.err"));
		$self->compare($output, $block->{output}, "$self->{name}: $title: as shown") if $block->{output};
	}
	return;
}

sub compare
{
	my ($self, $output, $shown, $title) = @_;

	if ($shown->{kind} eq 'json')
	{
		my ($got, $expected) = map { [ $JSON->incr_parse($_) ] } $output, $shown->{text};

		is_deeply($self->shown($got, $expected), $expected, $title) or diag($output);
	}
	else
	{
		is_deeply(lines_of($output), lines_of($shown->{text}), $title);
	}
	return;
}

# Not how wide psql's columns are, nor how many rows it counts.
sub lines_of
{
	my ($text) = @_;

	return [ map { s/\s*\|\s*/|/gr =~ s/-+/-/gr =~ s/^\s+|\s+$//gr } grep { /\w/ && !/^\(\d+ rows?\)$/ } split /\n/, $text ];
}

# What came, with times, cursors, digests as the page shows them where they may
# be so: a time that it shows twice must be the same time twice.
sub shown
{
	my ($self, $got, $shown) = @_;

	if (ref $got eq 'HASH' && ref $shown eq 'HASH')
	{
		return { map { $_ => $_ eq 'sums' ? [] : $_ eq 'maxVersion' ? $shown->{$_} : $self->shown($got->{$_}, $shown->{$_}) } keys %$got };
	}
	return [ map { $self->shown($got->[$_], $shown->[$_]) } 0 .. $#$got ] if ref $got eq 'ARRAY' && ref $shown eq 'ARRAY';
	return $got if ref $got || ref $shown || !defined $got || !defined $shown;

	return $shown if $shown =~ /:0[1-9]\.000000Z$/ && $got =~ $TIME;    # serverUtc
	for my $pattern ($TIME, $CURSOR)
	{
		next unless $shown =~ /^$pattern$/ && $got =~ /^$pattern$/;
		$self->{stands_for}{$shown} //= $got;
		return $self->{stands_for}{$shown} eq $got ? $shown : $got;
	}
	return $shown if $shown eq 'CURSOR' && $got =~ /^$CURSOR$/;
	return $shown if $shown eq 'DIGEST' && $got =~ /^[0-9a-f]{16}$/;
	return $got;
}

# A text as it is to be sent: with the cursor that came in place of one that the
# page shows.
sub sent
{
	my ($self, $text) = @_;

	return $text =~ s{($CURSOR)}{$self->{stands_for}{$1} // $1}ger;
}

1;
