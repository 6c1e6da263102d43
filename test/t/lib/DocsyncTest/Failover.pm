# A service that fails over: a primary, a standby that follows it
# asynchronously, and PostgREST and nginx in front of whichever is the primary.

package DocsyncTest::Failover;

use strict;
use warnings;

use File::Path qw(remove_tree);
use PostgreSQL::Test::Cluster;

use DocsyncTest;
use DocsyncTest::Http;

# Options: those of new_node
sub new
{
	my ($class, %options) = @_;
	my $self = bless { servers => 1 }, $class;

	# Servers are copied again and again.
	$self->{primary} = new_node('server1', extra => ['--wal-segsize=1'], %options);
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
	$self->{standby}->start;
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
