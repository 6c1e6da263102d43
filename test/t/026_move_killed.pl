# A tenant moves between two servers, to and fro, while its clients go on. The
# mover is killed during and after each of its commands, and each server is
# restarted during each, as by a crash. Run again the mover finishes. The
# tenant is never open on both servers, nothing that was acknowledged is lost,
# nothing comes twice, each version that another one has replaced is in
# docsync.record once, no client is told to compare, and the clients of the
# servers' other tenants notice nothing of it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $JSON = JSON::PP->new->canonical;
my $dir = PostgreSQL::Test::Utils::tempdir();
my @nodes = map { new_node($_) } qw(one two);

# By collection, the file that says on which server it is, 0 or 1; of a tenant
# there may be several
my %route = (anna => "$dir/anna", 'anna/notes' => "$dir/anna", ben => "$dir/ben", cora => "$dir/cora");
my $at = 0;    # where anna is

append_to_file("$dir/anna", 0);
append_to_file("$dir/ben", 0);
append_to_file("$dir/cora", 1);
make_programs();

my $session = connect_to($nodes[0]);
$session->do(q{INSERT INTO docsync.keep (pattern, keep, most) VALUES ('anna', 'replaced', 1000)});
$session->upload('filler', $_, map { document("d$_", 1, $_) } 1 .. 100) for qw(anna anna/notes ben);
$session->close;
my @clients = ([ 'anna', 1 ], [ 'anna', 2 ], [ 'anna/notes', 3 ], [ 'anna/notes', 4 ], [ 'ben', 5 ], [ 'cora', 6 ]);
my @pids = map { my ($collection, $n) = @$_; in_child(sub { run_client($collection, $n) }) } @clients;
wait_for("client $_", sub { -e "$dir/busy $_" }) for map { $_->[1] } @clients;

is_given_up();
is(move(), 0, 'anna moves');
is(state_of(0) . ' ' . state_of(1), 'gone here', '... to the other server');
$at = 1;
is_killed($_) for qw(during after);
is_crashed($_) for qw(source target);
is_given_up();
is_down();

touch("$dir/stop");
waitpid $_, 0 for @pids;
have_all(@$_) for @clients;

$_->stop for @nodes;
done_testing();

#-----------------------------------------------------------------------------

# The mover is killed at each of its commands.
sub is_killed
{
	my ($when) = @_;

	is_broken_off("killed $when", KILL => $when);
	return;
}

# A server is restarted at each of its commands: that which anna comes from, or
# goes to.
sub is_crashed
{
	my ($which) = @_;

	is_broken_off("the $which ends during", CRASH => sub { $nodes[ $which eq 'source' ? $at : 1 - $at ]->data_dir });
	return;
}

# Moves anna until no command is left at which it can be broken off.  All of them
# take minutes, so each run takes every sixth, beginning with any.
sub is_broken_off
{
	my ($what, $variable, $value) = @_;
	my $every = $ENV{DOCSYNC_MOVE_EVERY} // 6;
	my ($times, $both, $failed) = (0, 0, 0);

	for (my $steps = 1 + int rand $every;; $steps += $every)
	{
		my $status = do
		{
			local @ENV{ 'PATH', 'STEP', $variable } = ("$dir/bin:$ENV{PATH}", $steps, ref $value ? $value->() : $value);

			unlink "$dir/step", "$dir/restarted";
			move();
		};
		my $last = slurp_file("$dir/step") < $steps;

		wait_for('the restart', sub { -e "$dir/restarted" }) if !$last && $variable eq 'CRASH';
		$both++ if is_open(0) && is_open(1);
		for (my $tries = 0; $status != 0 && $tries < 3; $tries++)
		{
			$status = move();
		}
		$failed++ if $status != 0 || is_open($at) || !is_open(1 - $at);
		die "$what command $steps: it doesn't finish" if $failed;
		$at = 1 - $at;
		$times++;
		last if $last;

		# The clients of wherever it is now must get on before it moves again.
		sleep 0.1;
	}
	cmp_ok($times * $every, '>', 12, "$what each command, or every ${every}th: it was moved $times times");
	is($failed, 0, '... run again it finishes');
	is($both, 0, '... it was never open on both');
	return;
}

# What is broken off is given up, where that can be: all is as it was.
sub is_given_up
{
	my @before = map { state_of($_) } $at, 1 - $at;

	for my $step (6, 12, 18)
	{
		{
			local @ENV{qw(PATH STEP KILL)} = ("$dir/bin:$ENV{PATH}", $step, 'after');
			unlink "$dir/step";
			isnt(move(), 0, "killed after command $step");
		}
		is(move('-b'), 0, '... and given up');
		is_deeply([ map { state_of($_) } $at, 1 - $at ], \@before, '... it is as it was');
		is($nodes[ 1 - $at ]->safe_psql('postgres', q{SELECT count(*) FROM docsync.document WHERE collection LIKE 'anna%'}), 0, '... nothing is left at the other server') if $before[1] eq '';
	}
	return;
}

# While one server is down, clients of the other notice nothing.
sub is_down
{
	my @other = (5, 6);

	for my $n (0, 1)
	{
		$nodes[$n]->stop('immediate');
		my ($syncs, $problems) = counts_of($other[ 1 - $n ]);
		wait_for('syncs', sub { (counts_of($other[ 1 - $n ]))[0] > $syncs + 30 });
		is((counts_of($other[ 1 - $n ]))[1], $problems, "server $n is down: a client of the other one goes on");
		my ($stuck) = counts_of($other[$n]);
		sleep 0.2;
		is((counts_of($other[$n]))[0], $stuck, '... and one of this one does not');
		$nodes[$n]->start;
		wait_for('a sync', sub { (counts_of($other[$n]))[0] > $stuck });
	}
	return;
}

# What a client has noted, against what the service has
sub have_all
{
	my ($collection, $n) = @_;
	my $note = $JSON->decode(slurp_file("$dir/notes $n"));
	my $there = connect_to($nodes[ route($collection) ]);
	my %stored = map { @$_ } @{ $there->rows('SELECT id, client_version FROM docsync.document WHERE collection = ?', $collection) };

	is_deeply($note->{faults}, [], "client $n, of $collection: nothing came twice, nobody told it to compare, what was refused was to be tried again");
	is_deeply($note->{held}, \%stored, '... it has what the service has');
	is_deeply([ grep { ($stored{$_} // 0) < $note->{acknowledged}{$_} } sort keys %{ $note->{acknowledged} } ], [], '... which has all that was acknowledged');
	if ($collection eq 'anna')
	{
		my %lost;

		$lost{"$_->[0] $_->[1]"}++ for @{ $there->rows(q{SELECT id, client_version FROM docsync.record WHERE collection = ? AND id LIKE ? AND why = 'replaced'}, $collection, "c$n-%") };
		is_deeply([ sort grep { $lost{$_} > 1 } keys %lost ], [], '... no version was replaced twice');
		is_deeply([ sort grep { !$lost{$_} } grep { my ($id, $version) = split ' '; $stored{$id} != $version } @{ $note->{versions} } ], [], '... all that were are there, ' . keys %lost);
	}
	cmp_ok($note->{syncs}, '>', 100, "... in $note->{syncs} syncs; answered otherwise: " . join ', ', map { "$_ $note->{problems}{$_} times" } sort keys %{ $note->{problems} });
	$there->close;
	return;
}

#-----------------------------------------------------------------------------

# A client that edits and synchronises until it is told to stop, and then until
# it has sent all and got all.
sub run_client
{
	my ($collection, $n) = @_;
	my %self = (collection => $collection, n => $n, cursor => undef, held => {}, unsent => {}, acknowledged => {}, versions => [], faults => [], problems => {}, syncs => 0, failures => 0);

	for (my $i = 1; !-e "$dir/stop" && getppid() != 1; $i++)
	{
		my $id = "c$n-" . $i % 50;

		$self{held}{$id} = $self{unsent}{$id} = $i;
		sync(\%self);
		write_counts(\%self);
		touch("$dir/busy $n") if $i == 1;
		sleep 0.03;
	}

	die 'the test has ended' if getppid() == 1;
	wait_for('the last upload', sub { sync(\%self) && !%{ $self{unsent} } });
	touch("$dir/sent $n");
	wait_for('the others', sub { !grep { !-e "$dir/sent $_->[1]" } @clients });
	wait_for('the last download', sub { sync(\%self) });
	append_to_file("$dir/notes $n", $JSON->encode({ map { $_ => $self{$_} } qw(faults held acknowledged versions syncs problems) }));
	return;
}

# One request, in a session with the server that is meant to have it.  Returns
# whether all was answered.
sub sync
{
	my ($self) = @_;
	my %sent = %{ $self->{unsent} };
	my $answer = eval {
		my $route = route($self->{collection});

		$self->{session} = undef if defined $self->{route} && $self->{route} ne $route;
		$self->{route} = $route;
		$self->{session} //= connect_to($nodes[$route]);
		$JSON->decode($self->{session}->value('SELECT docsync_sync(?, ?, ?, ?, reconcile => true)',
				"client$self->{n}", '[' . join(', ', map { document($_, $sent{$_}, $sent{$_}) } sort keys %sent) . ']', $self->{cursor}, $self->{collection}));
	};

	if (!$answer)
	{
		my $problem =
			$@ =~ /the collection (is being|has been) moved/ ? $1 eq 'is being' ? 'moving' : 'moved'
		  : $@ =~ /^DBI connect|server closed the connection|terminating connection|no connection to the server/ ? 'no server'
		  : 'fault';

		push @{ $self->{faults} }, $@ if $problem eq 'fault';
		$self->{session} = undef if $problem ne 'moving';
		$self->{problems}{$problem}++;
		$self->{failures}++;
		return 0;
	}

	$self->{syncs}++;
	push @{ $self->{faults} }, "told to compare, lost after $answer->{lostAfter}" if $answer->{reconcile} || $answer->{behind};
	for my $result (@{ $answer->{results} })
	{
		my $id = $result->{id};

		push @{ $self->{faults} }, "$id: $result->{outcome}" if $result->{outcome} !~ /^(created|updated|unchanged)$/;
		$self->{acknowledged}{$id} = $sent{$id};
		push @{ $self->{versions} }, "$id $sent{$id}";
		delete $self->{unsent}{$id} if $self->{unsent}{$id} == $sent{$id};
	}
	for my $document (@{ $answer->{documents} })
	{
		my ($id, $version) = @$document{qw(id clientVersion)};

		push @{ $self->{faults} }, "$id comes with version $version, had " . $self->{held}{$id} if $version <= ($self->{held}{$id} // 0);
		$self->{held}{$id} = $version;
	}
	$self->{cursor} = $answer->{cursor};
	return !$answer->{more};
}

# How many syncs of a client there have been, and how many that failed
sub counts_of
{
	my ($n) = @_;

	return split ' ', slurp_file("$dir/counts $n");
}

sub write_counts
{
	my ($self) = @_;

	append_to_file("$dir/counts $self->{n}.new", "$self->{syncs} $self->{failures}");
	rename "$dir/counts $self->{n}.new", "$dir/counts $self->{n}";
	return;
}

sub route { return slurp_file($route{ $_[0] }) + 0 }

#-----------------------------------------------------------------------------

# Moves anna from where it is to the other server, or with an option gives that
# up; the mover's status
sub move
{
	my ($option) = @_;
	my ($from, $to) = map { $nodes[$_]->connstr('postgres') } $at, 1 - $at;

	return system("$dir/bin/mover " . ($option ? "$option anna '$from' '$to'" : "anna '$from' '$to' $dir/bin/route " . (1 - $at)) . " >>$dir/log 2>&1");
}

# mover: the mover, which psql knows to kill.  psql: one that does what the
# environment says at the command STEP.  route: anna's requests are sent to a
# server.
sub make_programs
{
	my ($psql) = grep { -x } map { "$_/psql" } split /:/, $ENV{PATH};
	my %programs = (
		mover => "MOVER=\$\$ exec $ENV{TESTDIR}/examples/shards/move \"\$\@\"\n",
		route => "printf %s \"\$1\" >$dir/anna.new && mv $dir/anna.new $dir/anna\n",
		psql => <<"PSQL");
exec 9>$dir/lock; flock 9
step=\$((\$(cat $dir/step 2>/dev/null || echo 0) + 1)); echo \$step >$dir/step
exec 9>&-
[ "\$step" = "\$STEP" ] || exec $psql "\$\@"
[ -z "\$CRASH" ] || { pg_ctl -D "\$CRASH" -l $dir/crash.log -m immediate restart >/dev/null 2>&1 </dev/null && touch $dir/restarted; } &
case \$KILL in
	during) kill -9 "\$MOVER"; exec $psql "\$\@" ;;
	after) $psql "\$\@"; kill -9 "\$MOVER" ;;
	*) exec $psql "\$\@" ;;
esac
PSQL

	mkdir "$dir/bin";
	for my $name (keys %programs)
	{
		append_to_file("$dir/bin/$name", "#!/bin/bash\n$programs{$name}");
		chmod 0755, "$dir/bin/$name";
	}
	return;
}

# What docsync.moved says of anna on a server
sub state_of
{
	my ($n) = @_;

	return $nodes[$n]->safe_psql('postgres', q{SELECT state FROM docsync.moved WHERE collection = 'anna'});
}

# Where it has been, it is open again only by coming.
sub is_open { return state_of($_[0]) eq 'here' }
