# Writers and readers in the background, while a test does things to the
# servers they are connected to.

package DocsyncTest::Load;

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Storable qw(nstore retrieve);
use Test::More;
use Time::HiRes qw(sleep time);

# Each of the writers' transactions is one of these.
my @KINDS = (
	\&upload, \&upload, \&upload, \&upload_late, \&upload_by_savepoint, \&upload_prepared,
	\&upload_and_roll_back);

# Options: expected, SQLSTATEs that a writer may run into, and then rolls back.
sub new
{
	my ($class, $collection, %options) = @_;

	return bless {
		collection => $collection,
		expected => { map { $_ => 1 } @{ $options{expected} // [] } },
		dir => PostgreSQL::Test::Utils::tempdir(),
		writers => [],    # [pid, file of results]
		readers => []     # [pid, file of results, name]
	}, $class;
}

# A client that uploads until stop_writers().
sub start_writer
{
	my ($self, $node) = @_;
	my $n = @{ $self->{writers} } + 1;
	my $file = "$self->{dir}/writer$n";
	my $pid = DocsyncTest::in_child(
		sub {
			my $writer = {
				session => DocsyncTest::connect_to($node),
				client_id => "w$n",
				collection => $self->{collection},
				next => 0,
				transactions => 0,
				last => 0,
				faults => []
			};

			srand $n;
			until (-e "$self->{dir}/stop$n")
			{
				$writer->{transactions}++;
				write_once($writer, $self->{expected});
				sleep rand 0.002;
			}
			delete $writer->{session};
			nstore($writer, $file);
		});

	push @{ $self->{writers} }, [ $pid, $file, "$self->{dir}/stop$n" ];
	return;
}

# A client that downloads until finish(); options are those of a replica and
# class, the replica's; begin, by which it begins a transaction of several
# polls; name, for the report.
sub start_reader
{
	my ($self, $node, %options) = @_;
	my $n = @{ $self->{readers} } + 1;
	my $file = "$self->{dir}/reader$n";
	my $begin = delete $options{begin};
	my $class = delete $options{class} // 'DocsyncTest::Replica';
	my $name = delete $options{name} // $n;
	my $pid = DocsyncTest::in_child(
		sub {
			my $session = DocsyncTest::connect_to($node);
			my $replica = $class->new(collection => $self->{collection}, %options);
			my $again = 0;

			until (-e "$self->{dir}/settled")
			{
				$again += !poll_several_times($session, $replica, $begin) for 1 .. 4;
				$replica->audit($session, '2 s');
				DocsyncTest::touch("$self->{dir}/lost") if $replica->faults;
			}
			$replica->catch_up($session);
			$replica->compare($session);
			nstore({ %$replica{qw(faults polls received)}, again => $again }, $file);
		});

	push @{ $self->{readers} }, [ $pid, $file, $name ];
	return;
}

# Has a reader found a fault already?
sub has_lost
{
	my ($self) = @_;

	return -e "$self->{dir}/lost";
}

# Lets the writers end that have been started so far; returns how many
# transactions they made.
sub stop_writers
{
	my ($self) = @_;
	my $transactions = 0;

	DocsyncTest::touch($_->[2]) for @{ $self->{writers} };
	for my $writer (grep { $_->[0] } @{ $self->{writers} })
	{
		waitpid $writer->[0], 0;
		is($?, 0, 'writer ran to its end');
		$writer->[0] = undef;

		my $result = retrieve($writer->[1]);
		is_deeply($result->{faults}, [], 'and its stamps were in order');
		$transactions += $result->{transactions};
	}
	return $transactions;
}

# Lets the readers end, each when it has compared its copy with the table.
# Returns how many transactions of theirs had to be tried again.
sub finish
{
	my ($self) = @_;
	my $again = 0;

	$self->stop_writers;
	DocsyncTest::touch("$self->{dir}/settled");
	for my $reader (@{ $self->{readers} })
	{
		waitpid $reader->[0], 0;
		is($?, 0, "reader $reader->[2] ran to its end");

		my $result = retrieve($reader->[1]);
		is_deeply($result->{faults}, [], "reader $reader->[2] has lost nothing");
		note "$result->{polls} polls, $result->{received} documents received, $result->{again} transactions tried again";
		$again += $result->{again};
	}
	return $again;
}

#-----------------------------------------------------------------------------

# In a transaction, if begin is given; false if that must be tried again.
sub poll_several_times
{
	my ($session, $replica, $begin) = @_;

	return 1 if eval {
		$session->do($begin) if $begin;
		for (1 .. 5)
		{
			$replica->poll($session);
			sleep 0.002;
		}
		$session->do('COMMIT') if $begin;
		1;
	};
	die $@ if !$begin || $session->dbh->state ne '40001';
	$session->do('ROLLBACK');
	return 0;
}

sub write_once
{
	my ($writer, $expected) = @_;

	return if eval { $KINDS[ rand @KINDS ]->($writer); 1 };
	die $@ if !$expected->{ $writer->{session}->dbh->state };
	$writer->{session}->do('ROLLBACK');
	return;
}

sub upload
{
	my ($writer) = @_;

	put($writer, 1 + rand 5);
	return;
}

# The transaction id comes early and the stamp late.
sub upload_late
{
	my ($writer) = @_;

	$writer->{session}->do('BEGIN', 'SELECT pg_current_xact_id()');
	sleep rand 0.01;
	put($writer, 1 + rand 3);
	sleep rand 0.005;
	$writer->{session}->do('COMMIT');
	return;
}

sub upload_by_savepoint
{
	my ($writer) = @_;

	$writer->{session}->do('BEGIN');
	for my $end ('ROLLBACK TO s', 'RELEASE s')
	{
		$writer->{session}->do('SAVEPOINT s');
		put($writer, 1 + rand 3);
		sleep rand 0.002;
		$writer->{session}->do($end);
	}
	$writer->{session}->do('COMMIT');
	return;
}

sub upload_prepared
{
	my ($writer) = @_;
	my $name = "$writer->{collection} $writer->{client_id} $writer->{transactions}";

	$writer->{session}->do('BEGIN');
	put($writer, 1 + rand 3);
	$writer->{session}->do("PREPARE TRANSACTION '$name'");
	sleep rand 0.01;
	$writer->{session}->do((rand() < 0.8 ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$name'");
	return;
}

sub upload_and_roll_back
{
	my ($writer) = @_;

	$writer->{session}->do('BEGIN');
	put($writer, 1 + rand 3);
	sleep rand 0.005;
	$writer->{session}->do('ROLLBACK');
	return;
}

sub put
{
	my ($writer, $count) = @_;
	my @documents =
	  map { DocsyncTest::document("$writer->{client_id}-" . $writer->{next}++ % 500, $writer->{next}, $writer->{next}) } 1 .. $count;
	my $last = $writer->{last};
	my @answer;

	if (rand() < 0.3)
	{
		# One that is refused doesn't stop the others.
		@answer = $writer->{session}->upload_parts($writer->{client_id}, $writer->{collection}, '{"id": "bad"}', @documents);
		my $bad = shift @answer;
		push @{ $writer->{faults} }, 'one that was bad was not refused, or another was'
		  if $bad->{outcome} ne 'refused' || grep { $_->{outcome} eq 'refused' } @answer;
	}
	else
	{
		@answer = $writer->{session}->upload($writer->{client_id}, $writer->{collection}, @documents);
	}
	for my $stamp (sort { $a <=> $b } map { $_->{stamp} } @answer)
	{
		push @{ $writer->{faults} }, "the stamp $stamp came after $last"
		  if $stamp <= $last && @{ $writer->{faults} } < 10;
		$writer->{last} = $stamp;
	}
	return;
}

1;
