# Clients with local stores that a test drives, over HTTP, all of a language in
# one process: examples/demo's, clients.py, or those of clients/javascript, its
# test/driver.js, where DOCSYNC_CLIENT or an option says so: javascript, with
# stores in memory, sqlite, or chromium, in a browser with IndexedDB.  What a
# client can do is there: each method of its is one of an object of this class.

package DocsyncTest::Clients;

use strict;
use warnings;

use IPC::Open2;
use JSON::PP;
use PostgreSQL::Test::Utils;

my $JSON = JSON::PP->new->utf8->canonical->allow_nonref;
my $LANGUAGE = $ENV{DOCSYNC_CLIENT} // 'python';
my $NODE = $ENV{DOCSYNC_NODE} || 'node';
my $JAVASCRIPT = $ENV{DOCSYNC_JAVASCRIPT} || 'clients/javascript';
my %COMMANDS = (
	python => [ '/usr/bin/python3', '-B', 'test/t/clients.py', PostgreSQL::Test::Utils::tempdir() ],
	javascript => [ $NODE, "$JAVASCRIPT/test/driver.js" ],
	sqlite => [ $NODE, '--no-warnings', "$JAVASCRIPT/test/driver.js", PostgreSQL::Test::Utils::tempdir() ],
	chromium => [ $NODE, "$JAVASCRIPT/test/driver_chromium.js" ]);
my %processes;    # language and who has started it -> [pid, in, out]
my %environment;

# A client of the collection and service given, or of several, a reference.
# Options: those of Driven, or Joint, in clients.py; claims for its token; language.
sub new
{
	my ($class, $name, $http, $collection, %options) = @_;
	my $claims = delete $options{claims} // {};
	my $self = bless { name => $name, collection => $collection, language => delete $options{language} // $LANGUAGE }, $class;
	my @collections = ref $collection ? @$collection : $collection;

	# In Python alone
	$self->{language} = 'python' if $options{plain} || $options{dsn};
	$options{copy_of} = $options{copy_of}{name} if $options{copy_of};
	$options{read_url} = $options{read_url}->url('') if $options{read_url};
	$self->call('new', [ $http->url(''), DocsyncTest::Http::token(DocsyncTest::Http::claims(%$claims)), @collections ],
		%options, ref $collection ? (joint => 1) : ());
	return $self;
}

sub name { return $_[0]{name} }

sub call
{
	my ($self, $method, $arguments, %named) = @_;

	my (undef, $in, $out) = @{ $processes{"$self->{language} $$"} //= start($self->{language}) };

	print $in $JSON->encode([ $self->{name}, $method, $arguments, \%named ]), "\n";
	$in->flush;
	my $answer = $JSON->decode(scalar(<$out>) // die "the clients' process has ended");
	die "$self->{name}, $method: $answer->{error}" if $answer->{error};
	return $answer->{result};
}

for my $method (
	qw(sync upload download put put_all put_zero delete get version versions compare later cut mend page edit_meanwhile log content unsent
	problems status digest held back_up restore begin_again equal spoil_cursor))
{
	no strict 'refs';
	*$method = sub {
		my ($self, @arguments) = @_;

		return $self->call($method, \@arguments);
	};
}

# Goes to another server from now on.
sub move_to
{
	my ($self, $http, $reader) = @_;

	return $self->call('use', [ map { $_->url('') } grep { defined } $http, $reader ]);
}

# Their environment, for a clock of the test's
sub go_by
{
	%environment = @_;
	return;
}

sub start
{
	my ($language) = @_;

	local @ENV{ keys %environment } = values %environment;

	# Node.js with a clock that is set waits for ever: driver.js reads the file itself.
	delete local $ENV{LD_PRELOAD} if $language ne 'python';
	my $pid = open2(my $out, my $in, @{ $COMMANDS{$language} });
	return [ $pid, $in, $out ];
}

END
{
	for my $process (values %processes)
	{
		local $?;
		close $process->[1];
		waitpid $process->[0], 0;
	}
}

1;
