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

# A clock that is set forward is no reason to hang up, or to cancel a query.  Nor
# are there timers: whoever handles their signal asks for the time, and the clock
# reads a file then, in the midst of whatever was going on, malloc() for one.
my $SETTINGS = <<'END';
deadlock_timeout = 1h
max_standby_streaming_delay = -1
wal_receiver_timeout = 0
wal_sender_timeout = 0
END

# Options: those of new_node
sub new
{
	my ($class, %options) = @_;
	my $self = bless { servers => 1, passed => 0, clock => PostgreSQL::Test::Utils::tempdir() . '/clock' }, $class;

	$self->later(0);
	DocsyncTest::Clients::go_by($self->clock);

	# Servers are copied again and again: small segments of WAL.
	$self->{options} = { extra => ['--wal-segsize=1'], conf => $SETTINGS, %options };
	$self->with_clock(sub { $self->{primary} = new_node('server1', %{ $self->{options} }) });
	$self->{archive} = $self->{primary}->archive_dir;
	$self->{http} = DocsyncTest::Http->new($self->{primary});
	$self->{primary}->safe_psql('docsync', "ALTER ROLE docsync_$_ RESET ALL") for qw(authenticator gateway);
	$self->{http}->move_to($self->{primary});
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
	$self->{standby}->poll_query_until('postgres', 'SELECT true') or die 'the standby lets nobody in';
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

	$self->leave_session;
	if (!$options{lives})
	{
		$self->{http}->stop_layer;
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

sub leave_session
{
	my ($self) = @_;
	my $session = delete $self->{session};

	$session->close if $session;
	return;
}

# Neither the primary nor the standby is there any more.
sub stop_all
{
	my ($self) = @_;

	$self->leave_session;
	$self->{http}->stop_layer;
	for my $node (delete @$self{qw(standby primary)})
	{
		next unless $node;
		$node->stop('immediate');
		remove_tree($node->data_dir);
	}
	return;
}

# A point that the service can be brought back to, and a base backup from
# before.
sub mark
{
	my ($self) = @_;

	$self->{backup_of} = $self->{primary};
	$self->{point} = 'point' . $self->{servers};
	$self->{primary}->backup($self->{point});
	$self->session->do("SELECT pg_create_restore_point('$self->{point}')");
	return;
}

# Brings it back to there, with the archive.
sub back_to_mark
{
	my ($self) = @_;
	my $segment = $self->session->value('SELECT pg_walfile_name(pg_current_wal_insert_lsn())');
	my $node = PostgreSQL::Test::Cluster->new('server' . ++$self->{servers});

	$self->session->do('SELECT pg_switch_wal()');
	wait_for('the archive', sub { -e "$self->{archive}/$segment" });
	$self->stop_all;
	$node->init_from_backup($self->{backup_of}, $self->{point});
	remove_tree($self->{backup_of}->backup_dir);
	$node->append_conf('postgresql.auto.conf',
		qq(restore_command = 'cp "$self->{archive}/%f" "%p"'\nrecovery_target_name = '$self->{point}'\nrecovery_target_action = promote\n));
	$node->set_recovery_mode;
	$self->with_clock(sub { $node->start });
	$node->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'the restore does not end';
	$node->safe_psql('postgres', "ALTER SYSTEM RESET $_") for qw(restore_command recovery_target_name recovery_target_action);
	$self->{primary} = $node;
	return $self->{http}->move_to($node);
}

# What a dump has of the service
sub dump
{
	my ($self) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/dump';

	system_or_bail('pg_dumpall', '--roles-only', '-f', "$file.roles", '-d', $self->{primary}->connstr('postgres'));
	system_or_bail('pg_dump', '-Fc', '-f', $file, '-d', $self->{primary}->connstr('docsync'));
	return $file;
}

# Restores it into a new cluster, which takes the place of all that was there.
sub restore
{
	my ($self, $file) = @_;
	my $node;

	$self->stop_all;
	$self->with_clock(sub { $node = new_node('server' . ++$self->{servers}, %{ $self->{options} }) });
	$self->{archive} = $node->archive_dir;
	# The role that restores is there already.
	IPC::Run::run([ 'psql', '-qX', '-d', $node->connstr('postgres'), '-f', "$file.roles" ], '&>', '/dev/null');
	$node->safe_psql('postgres', 'CREATE DATABASE docsync');
	system_or_bail('pg_restore', '--exit-on-error', '-d', $node->connstr('docsync'), $file);
	$self->{primary} = $node;
	return $self->{http}->move_to($node);
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
