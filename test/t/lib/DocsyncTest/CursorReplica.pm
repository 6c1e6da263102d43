# A client's copy of a collection, kept by a cursor, which moves on over
# documents that aren't sent.

package DocsyncTest::CursorReplica;

use strict;
use warnings;

use parent -norequire, 'DocsyncTest::Replica';

use POSIX ();

# Options as Replica's, and upload: a function that returns documents to be
# uploaded in the same request, or none.
sub new
{
	my ($class, %self) = @_;

	return DocsyncTest::Replica::new($class, %self, cursor => undef);
}

sub poll
{
	my ($self, $session) = @_;

	return $self->go_on($session->download_by_cursor(
			@$self{qw(client_id cursor origin collection max_documents)},
			$self->{upload} && [ $self->{upload}->() ]));
}

# Takes documents and the cursor that came with them.
sub go_on
{
	my ($self, $rows, $cursor) = @_;
	my $new = $self->take($rows);
	my ($stamp) = $cursor =~ /^[0-9a-f]{16}\.(\d+)\./;

	$self->fault("the cursor is at $stamp, documents came up to $self->{stamp}")
	  if $stamp < $self->{stamp};
	$self->{cursor} = $cursor;
	($self->{since}, $self->{stamp}) = (time_of($stamp), $stamp) if $stamp > 0;
	return $new;
}

# Microseconds since 1970 as PostgreSQL reads it
sub time_of
{
	my ($stamp) = @_;

	return POSIX::strftime('%Y-%m-%d %H:%M:%S', gmtime int $stamp / 1_000_000)
	  . sprintf '.%06d+00', $stamp % 1_000_000;
}

1;
