# A listener to announcements that finds out whether they are true: what it sees of a collection when it is told that this is settled through
# a stamp must be all that there will ever be up to that stamp. And whether they are enough: it asks for documents when it is told, and never
# otherwise.

package DocsyncTest::Listener;

use strict;
use warnings;

use DocsyncTest::Replica;
use JSON::PP qw(decode_json);
use Time::HiRes qw(time);

my $STAMP = '(extract(epoch FROM last_update_utc) * 1000000)::bigint';

# For the given collections
sub new
{
	my ($class, $node, @collections) = @_;
	my $self = bless {
		session => DocsyncTest::connect_to($node),
		collections => { map { $_ => { key => undef, through => 0, seen => {}, replica => DocsyncTest::Replica->new(collection => $_) } } @collections },
		told => 0,
		faults => []
	}, $class;

	$self->{session}->do('LISTEN docsync');
	return $self;
}

# Takes the announcements that have come, and looks; returns how many.
sub take
{
	my ($self) = @_;
	my (%through, %told, $count);
	my ($session, $collections) = @$self{qw(session collections)};

	$session->do('SELECT 1');
	while (my $notification = $session->dbh->pg_notifies)
	{
		my ($channel, $pid, $payload) = @$notification;
		my $announcement = decode_json($payload);

		$self->{told}++;
		$count++;
		for my $name (keys %$collections)
		{
			$collections->{$name}{key} //= $session->value('SELECT docsync_listen_key(?)', $name);
			next if ($announcement->{collection} // '') ne ($collections->{$name}{key} // 'none') && defined $announcement->{collection};
			$told{$name} = 1;
			next if !$announcement->{through};
			$through{$name} = $announcement->{through} if ($through{$name} // '') lt $announcement->{through};
		}
	}
	$collections->{$_}{replica}->poll($session) for keys %told;
	$self->look($_, $session->value("SELECT (extract(epoch FROM ?::timestamptz) * 1000000)::bigint", $through{$_}), 500_000) for keys %through;
	return $count // 0;
}

# What is visible up to a stamp, from so many microseconds before the last one on, has been seen before if it is not later than that.
sub look
{
	my ($self, $name, $through, $margin) = @_;
	my $collection = $self->{collections}{$name};
	my $last = $collection->{through};
	my $rows = $self->{session}->rows(
		"SELECT id, $STAMP FROM docsync.document
		  WHERE collection = ? AND last_update_utc > to_timestamp(0) + ?::bigint * interval '1 us' AND last_update_utc <= to_timestamp(0) + ?::bigint * interval '1 us'",
		$name, $last > $margin ? $last - $margin : 0, $through);

	for my $row (@$rows)
	{
		my ($id, $stamp) = @$row;

		push @{ $self->{faults} }, "$id of $name came with the stamp $stamp, after it was announced that it is settled through $last"
		  if $stamp <= $last && ($collection->{seen}{$id} // 0) != $stamp && @{ $self->{faults} } < 10;
		$collection->{seen}{$id} = $stamp;
	}
	$collection->{through} = $through if $through > $last;
	return;
}

# When all writers have ended: each collection must be announced through its last stamp within so many seconds, and nothing have come since;
# and who asked when told must have all of it.
sub finish
{
	my ($self, $patience) = @_;

	# What has come while it was busy is no matter of patience.
	1 while $self->take;
	my $end = time + $patience;

	for my $name (sort keys %{ $self->{collections} })
	{
		my $collection = $self->{collections}{$name};
		my $last = $self->{session}->value("SELECT coalesce(max($STAMP), 0) FROM docsync.document WHERE collection = ?", $name);

		while (($collection->{through} < $last || $collection->{replica}{stamp} < $last) && time < $end)
		{
			$self->take or Time::HiRes::sleep(0.005);
		}
		$self->take;
		push @{ $self->{faults} }, "$name is announced through $collection->{through} of $last" if $collection->{through} < $last;
		$self->look($name, $collection->{through}, $collection->{through});
		$collection->{replica}->compare($self->{session});
		push @{ $self->{faults} }, map { "who asked for $name when told: $_" } $collection->{replica}->faults;
	}
	return @{ $self->{faults} };
}

1;
