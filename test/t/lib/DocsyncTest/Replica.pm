# A client's copy of a collection, kept as the protocol tells it to: it asks
# for what has come since the highest stamp it has received.

package DocsyncTest::Replica;

use strict;
use warnings;

# collection, and optionally client_id, origin, max_documents
sub new
{
	my ($class, %self) = @_;

	return bless {
		client_id => undef,
		origin => 'any',
		max_documents => undef,
		%self,
		since => '-infinity',
		stamp => 0,         # since, in microseconds
		documents => {},    # id => [stamp, content]
		polls => 0,
		received => 0,
		faults => []
	}, $class;
}

# Asks once; returns how many documents came that it didn't have.
sub poll
{
	my ($self, $session) = @_;

	return $self->take($session->download(
		@$self{qw(client_id since origin collection max_documents)}));
}

sub take
{
	my ($self, $rows) = @_;
	my $before = $self->{stamp};
	my $new = 0;

	$self->{polls}++;
	for my $row (@$rows)
	{
		my ($id, $version, $client_id, $deleted, $body, $since, $stamp) = @$row;
		my $had = $self->{documents}{$id};

		$self->fault("$id came with the stamp $stamp, asked was from $before on")
		  if $stamp < $before;
		$self->fault("$id came with the stamp $stamp, out of order")
		  if $stamp < $self->{stamp};
		$self->fault("$id went back from the stamp $had->[0] to $stamp")
		  if $had && $stamp < $had->[0];
		$new++ if !$had || $stamp != $had->[0];

		$self->{documents}{$id} =
		  [ $stamp, content($version, $client_id, $deleted, $body) ];
		($self->{since}, $self->{stamp}) = ($since, $stamp)
		  if $stamp > $self->{stamp};
	}
	$self->{received} += $new;
	return $new;
}

# Asks until nothing new comes.
sub catch_up
{
	my ($self, $session) = @_;

	1 while $self->poll($session) > 0;
	return;
}

# Looks for losses while writers go on: whatever can be seen now with a stamp
# that this client is past must have been received, for it won't come any
# more.  Returns how many documents were looked at.  An interval limits it to
# the last stamps.
sub audit
{
	my ($self, $session, $interval) = @_;
	my $rows = $session->rows(
		'SELECT id, client_version, client_id, deleted, body::text,
				(extract(epoch FROM last_update_utc) * 1000000)::bigint,
				fence, xmin
		   FROM docsync.document
		  WHERE collection = ? AND last_update_utc <= ?::timestamptz
			AND last_update_utc >= ?::timestamptz - ?::interval',
		$self->{collection}, $self->{since}, $self->{since},
		$interval // '1000 years');
	my $count = 0;

	for my $row (@$rows)
	{
		my ($id, $version, $client_id, $deleted, $body, $stamp, $fence, $xmin) =
		  @$row;
		my $had = $self->{documents}{$id};

		next if !$self->is_of_origin($client_id);
		$count++;
		next
		  if $had
		  && $had->[0] == $stamp
		  && $had->[1] eq content($version, $client_id, $deleted, $body);
		$self->fault(
			sprintf
			  'lost: %s with the stamp %d, fence %s, of transaction %s; has %s, is at %d',
			$id, $stamp, $fence, $xmin, $had ? $had->[0] : 'none',
			$self->{stamp});
	}
	return $count;
}

# After the last poll, writers being gone: must be the table.
sub compare
{
	my ($self, $session) = @_;
	my $count = $self->audit($session);
	my $stored = grep { $self->is_of_origin($_) } $session->column(
		'SELECT client_id FROM docsync.document WHERE collection = ?',
		$self->{collection});

	$self->fault("has $count documents of $stored") if $count != $stored;
	return $count;
}

sub is_of_origin
{
	my ($self, $client_id) = @_;

	return
		$self->{origin} eq 'any' ? 1
	  : $self->{origin} eq 'own' ? $client_id eq $self->{client_id}
	  :                            $client_id ne $self->{client_id};
}

# Notes what must not be; the first few are enough.
sub fault
{
	my ($self, $text) = @_;

	push @{ $self->{faults} }, $text if @{ $self->{faults} } < 10;
	return;
}

sub faults { return @{ $_[0]{faults} } }

sub content
{
	return join '|', map { $_ // 'null' } @_;
}

1;
