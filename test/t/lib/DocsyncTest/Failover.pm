# A service that fails over: a primary, a standby that follows it
# asynchronously, and PostgREST and nginx in front of whichever is the primary.
#
# Its servers, and the clients that are made after it, go by a clock that the
# test sets: for days to pass.

package DocsyncTest::Failover;

use strict;
use warnings;

use File::Path qw(remove_tree);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

use DocsyncTest;
use DocsyncTest::Clients;
use DocsyncTest::Http;

# Options: those of new_node
sub new
{
	my ($class, %options) = @_;
	my $self = bless { servers => 1, passed => 0, clock => PostgreSQL::Test::Utils::tempdir() . '/clock' }, $class;

	$self->later(0);
	DocsyncTest::Clients::go_by($self->clock);

	# Servers are copied again and again: small segments of WAL.
	$self->with_clock(sub { $self->{primary} = new_node('server1', extra => ['--wal-segsize=1'], %options) });
	$self->{http} = DocsyncTest::Http->new($self->{primary});
	$self->add_standby;
	return $self;
}

sub http { return $_[0]{http} }
sub primary { return $_[0]{primary} }
sub standby { return $_[0]{standby} }

# A superuser's session with the primary's database
sub session
{
	my ($self) = @_;

	if (!$self->{session})
	{
		$self->{session} = connect_to($self->{primary}, 'docsync');
		$self->{session}->do('SET search_path = api');
	}
	return $self->{session};
}

sub add_standby
{
	my ($self) = @_;
	my $name = 'server' . ++$self->{servers};

	$self->{primary}->backup($name);
	$self->{standby} = PostgreSQL::Test::Cluster->new($name);
	$self->{standby}->init_from_backup($self->{primary}, $name, has_streaming => 1);
	remove_tree($self->{primary}->backup_dir);
	$self->with_clock(sub { $self->{standby}->start });
	return;
}

# Lets so many seconds pass.
sub later
{
	my ($self, $seconds) = @_;

	$self->{passed} += $seconds;
	open my $file, '>', "$self->{clock}.new" or die $!;
	print $file "+$self->{passed}s\n";
	close $file;
	rename "$self->{clock}.new", $self->{clock} or die $!;
	return;
}

# What makes a process that is started go by the clock.  The file is looked at
# each time; waiting goes by the monotonic clock, which nobody sets.
sub clock
{
	my ($self) = @_;
	my ($library) = glob '/usr/lib/*/faketime/libfaketime.so.1'
	  or die "libfaketime isn't there: install Debian's package libfaketime";

	return (LD_PRELOAD => $library, FAKETIME_TIMESTAMP_FILE => $self->{clock}, FAKETIME_NO_CACHE => 1, FAKETIME_DONT_FAKE_MONOTONIC => 1);
}

# Starts a server that does.
sub with_clock
{
	my ($self, $code) = @_;
	my %clock = $self->clock;

	local @ENV{ keys %clock } = values %clock;
	$code->();
	return;
}

# What is committed from now on never reaches the standby.
sub cut
{
	my ($self) = @_;

	$self->add_standby unless $self->{standby};
	my $standby = connect_to($self->{standby});

	replayed($self->session, $standby);
	$standby->do(q{ALTER SYSTEM SET primary_conninfo = ''}, 'SELECT pg_reload_conf()');
	wait_for('the line to be cut', sub { !$standby->value('SELECT count(*) FROM pg_stat_wal_receiver') });
	$standby->close;
	return;
}

# The primary dies, the standby takes its place.  With "lives" the old primary
# stays, unnoticed, and is returned.
sub fail_over
{
	my ($self, %options) = @_;
	my $old = $self->{primary};

	$self->session->close;
	delete $self->{session};
	if (!$options{lives})
	{
		$self->{http}->stop_postgrest;
		$old->kill9;
	}
	$self->{primary} = delete $self->{standby};
	$self->{primary}->promote;
	$self->{primary}->safe_psql('postgres', 'ALTER SYSTEM RESET primary_conninfo');
	return $old if $options{lives};

	$self->{http}->move_to($self->{primary});
	remove_tree($old->data_dir);
	return;
}

# The end of an old primary that was still there
sub bury
{
	my ($self, $old) = @_;

	$self->{http}->move_to($self->{primary});
	$old->kill9;
	remove_tree($old->data_dir);
	return;
}

# Without a loss
sub switch_over
{
	my ($self) = @_;
	my $standby = connect_to($self->{standby});

	replayed($self->session, $standby);
	$standby->close;
	return $self->fail_over;
}

1;
