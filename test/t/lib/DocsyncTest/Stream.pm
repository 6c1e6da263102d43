# A client's stream of announcements: GET /Docs/Live.

package DocsyncTest::Stream;

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use JSON::PP qw(decode_json);
use Time::HiRes qw(time);

use DocsyncTest::Http;

# Begins one.  query: what follows the "?"; options: token, undef for none, and
# buffer, the size of the socket's.
sub new
{
	my ($class, $http, $query, %options) = @_;
	my $token = exists $options{token} ? $options{token} : DocsyncTest::Http::token(DocsyncTest::Http::claims());
	my $socket = IO::Socket::INET->new("127.0.0.1:$http->{port}") // die "connect: $@";
	my $self = bless { socket => $socket, select => IO::Select->new($socket), raw => '', text => '', head => undef, events => [], beats => 0, bytes => 0, closed => 0 }, $class;

	$socket->setsockopt(SOL_SOCKET, SO_RCVBUF, $options{buffer}) if $options{buffer};
	print $socket "GET /Docs/Live?$query HTTP/1.1\r\nHost: x\r\n" . (defined $token ? "Authorization: Bearer $token\r\n" : '') . "\r\n";
	$socket->flush;
	return $self;
}

# Reads what comes within some seconds, or until something has come.
sub take
{
	my ($self, $seconds) = @_;

	return if $self->{closed} || !$self->{select}->can_read($seconds);
	my $count = sysread $self->{socket}, $self->{raw}, 65536, length $self->{raw};

	$self->{closed} = 1 if !$count;
	$self->{bytes} += $count // 0;
	$self->{head} = $1 if !defined $self->{head} && $self->{raw} =~ s/\A(.*?\r\n\r\n)//s;
	return if !defined $self->{head};
	while ($self->{raw} =~ /\A([0-9a-f]+)\r\n/ && length $self->{raw} >= length($1) + 4 + hex $1)
	{
		my $begin = 2 + length $1;

		$self->{text} .= substr $self->{raw}, $begin, hex $1;
		substr($self->{raw}, 0, $begin + 2 + hex $1) = '';
	}
	while ($self->{text} =~ s/\A(.*?)\n\n//s)
	{
		my $part = $1;
		my %event = map { /^(\w+): ?(.*)/ ? ($1 => $2) : () } split /\n/, $part;

		$self->{beats}++ if $part eq ':';
		$self->{retry} = $event{retry} if defined $event{retry};
		push @{ $self->{events} }, { name => $event{event}, %{ decode_json($event{data}) } } if defined $event{event};
	}
	return;
}

# The next event with a name, or undef if it doesn't come in time.  Events before it are dropped.
sub next_event
{
	my ($self, $name, $patience) = @_;
	my $end = time + ($patience // 10);

	for (;;)
	{
		while (my $event = shift @{ $self->{events} })
		{
			return $event if $event->{name} eq $name;
		}
		return if $self->{closed} || time > $end;
		$self->take(0.05);
	}
}

# Reads for some seconds; returns the names of the events that have come since the last time.
sub names
{
	my ($self, $seconds) = @_;
	my $end = time + $seconds;

	do { $self->take(0.02) } until time > $end;
	return join ' ', map { $_->{name} } splice @{ $self->{events} };
}

# The status, when the answer has begun
sub status
{
	my ($self) = @_;
	my $end = time + 20;

	$self->take(0.05) until defined $self->{head} || $self->{closed} || time > $end;
	return ($self->{head} // '') =~ /^HTTP\/1.1 (\d+)/ ? $1 : '';
}

sub close
{
	my ($self) = @_;

	return close $self->{socket};
}

1;
