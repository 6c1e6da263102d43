# What goes wrong in a service of many, over HTTP: memory that ends, a
# tenant that floods, servers that are killed while clients write.  What was
# acknowledged is there, the others go on, and docsync_status() has nothing to say
# when it is over.  (A full disk: 018.  A machine that is lost: 063, 064.)

use strict;
use warnings;

use lib 'test/t/lib';

use IO::Handle;
use JSON::PP;
use List::Util qw(max);
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use DocsyncTest;
use DocsyncTest::Http;

my $MB = 1024 * 1024;
my $node = new_node('faults', conf => "restart_after_crash = on\n");
my $dir = PostgreSQL::Test::Utils::tempdir();
my $http = DocsyncTest::Http->new($node, PGRST_DB_POOL => 1, DOCSYNC_POOL => 1);

# With one connection, whose process is known
out_of_memory();
$http->stop;

$http = DocsyncTest::Http->new($node);
flood();
killed();
done_testing();

#-----------------------------------------------------------------------------

my %token;

sub upload
{
	my ($tenant, $collection, @documents) = @_;

	$token{$tenant} //= DocsyncTest::Http::token(DocsyncTest::Http::claims(tenant => $tenant, collection => $tenant));
	return $http->post("/Docs?clientId=$tenant&collection=$tenant/$collection", \@documents, token => $token{$tenant});
}

sub status_of { return "$_[0]{status} " . ((DocsyncTest::Http::value_of($_[0]) // {})->{code} // '') }

sub attention
{
	my $session = $http->session;
	my $sentences = join "\n", $session->column('SELECT unnest(attention) FROM docsync_status()');

	$session->close;
	return $sentences;
}

# The process of PostgreSQL that serves requests has hardly more memory than it
# uses.
sub out_of_memory
{
	my $session = $http->session;
	my $limit = sub {
		for my $pid ($session->column(q{SELECT pid FROM pg_stat_activity WHERE usename ~ '^docsync_'}))
		{
			my ($kb) = slurp_file("/proc/$pid/status") =~ /^VmSize:\s+(\d+) kB/m;

			system_or_bail('prlimit', '--pid', $pid, '--as=' . ($_[0] ? $kb * 1024 + 12 * $MB : 'unlimited') . ':');
		}
	};
	my @large = map { { id => "large $_", clientVersion => 1, body => 'x' x ($MB / 2) } } 1 .. 12;

	is(upload('anna', 'memory', { id => 'small', clientVersion => 1, body => 1 })->{status}, 200, 'a small upload');
	sleep 2;    # PostgREST reads its schema cache a second time
	$limit->(1);
	my $answer = upload('anna', 'memory', @large);
	is(status_of($answer), '503 53200', '... a large one, without memory, is to be sent again');
	is($session->value(q{SELECT count(*) FROM docsync.document WHERE collection = 'anna/memory' AND id LIKE 'large%'}), 0, '... nothing of it is stored');
	is(upload('anna', 'memory', { id => 'small', clientVersion => 2, body => 2 })->{status}, 200, '... small ones are, by the same process');
	$limit->(0);
	wait_for('the large one', sub { upload('anna', 'memory', @large)->{status} == 200 });
	pass('... and with memory the large one');
	$session->do(q{DELETE FROM docsync.document WHERE collection = 'anna/memory'});
	$session->close;
	return is(attention(), '', '... nothing needs attention');
}

# docsync.conf with what is commented out there: a share for each token
sub limit_tokens
{
	my $file = "$http->{dir}/docsync.conf";
	my $text = slurp_file($file);

	is($text =~ s/^(\s*)#(limit_conn)/$1$2/mg, 2, 'docsync.conf has a share for each token to uncomment');
	unlink $file;
	append_to_file($file, $text);
	kill HUP => $http->{pids}{nginx};
	sleep 1;
	return;
}

# A tenant has thirty clients that upload without a pause, and as many that want a
# row that somebody has locked.  Another tenant is served.
sub flood
{
	my $holder = $http->session;

	limit_tokens() if !$http->{is_gateway};
	upload('anna', 'flood', { id => 'held', clientVersion => 1, body => 1 });
	$holder->do('BEGIN', q{UPDATE docsync.document SET body = '2' WHERE collection = 'anna/flood' AND id = 'held'});
	my @pids = map {
		my $n = $_;
		in_child(sub {
			srand $n;
			until (-e "$dir/enough")
			{
				my $answer = $n % 2
				  ? upload('anna', 'flood', { id => 'held', clientVersion => int(time * 1000), body => $n })
				  : upload('anna', 'flood', map { { id => "$n-$_", clientVersion => int(time * 1000), body => 'x' x 1000 } } 1 .. 100);
				sleep 0.1 if $answer->{status} != 200;
			}
		})
	} 1 .. 60;
	my (@waits, %statuses);
	sleep 1;
	for (1 .. 20)
	{
		my $begin = time;
		my $answer = upload('ben', 'notes', { id => 'note', clientVersion => int($begin * 1000), body => 1 });

		push @waits, time - $begin;
		$statuses{ status_of($answer) }++;
		sleep 0.1;
	}
	touch("$dir/enough");
	$holder->do('COMMIT');
	waitpid $_, 0 for @pids;
	$holder->close;
	note join ', ', map { sprintf '%.2f', $_ } sort { $a <=> $b } @waits;
	is(join(' ', keys %statuses), '200 ', 'while a tenant floods another is served');
	cmp_ok(max(@waits), '<', 5, '... in time');
	wait_for('autovacuum', sub { sleep 0.5; return attention() eq '' });
	return pass('... nothing needs attention when it is over, and autovacuum has come');
}

# Clients write, each to a document of its own; one server after the other is
# killed, and started again, as systemd would.
sub killed
{
	my @writers = map { { name => "w$_", file => "$dir/w$_" } } 1 .. 4;

	$_->{pid} = in_child(sub { write_until_stopped($_) }) for @writers;
	my $count = sub { return map { my @lines = -e $_->{file} ? split /\n/, slurp_file($_->{file}) : (); scalar @lines } @writers };
	my $goes_on = sub {
		my ($what) = @_;
		my @before = $count->();

		wait_for('writers', sub { my @now = $count->(); return !grep { $now[$_] < $before[$_] + 3 } 0 .. $#now });
		return pass("$what was killed: all clients go on");
	};

	$goes_on->('nothing yet');
	for my $backend (grep { $_ } $http->session->value(q{SELECT pid FROM pg_stat_activity WHERE usename ~ 'docsync_' ORDER BY backend_start DESC LIMIT 1}))
	{
		kill KILL => $backend;
		$goes_on->('a process of PostgreSQL');
	}
	crash($node);
	$goes_on->('PostgreSQL');
	$http->stop_layer('KILL');
	$http->start_layer;
	$goes_on->($http->layer);
	if (!$http->{is_gateway})
	{
		kill KILL => split ' ', `ps -o pid= --ppid $http->{pids}{nginx}`;
		$http->stop_process('nginx', 'KILL');
		$http->start_nginx;
		$goes_on->('nginx');
	}
	touch("$dir/stop");
	for my $writer (@writers)
	{
		waitpid $writer->{pid}, 0;
		is($?, 0, "$writer->{name} ran to its end");
		my @acknowledged = split /\n/, slurp_file($writer->{file});
		my $stored = join ' ', sort { $a <=> $b } $http->session->column('SELECT id FROM docsync.document WHERE collection = ?', "$writer->{name}/notes");

		is($stored, join(' ', 1 .. @acknowledged), '... and what was acknowledged is there, and nothing else');
	}
	return is(attention(), '', '... nothing needs attention: a crash loses nothing');
}

# Sends a document until it is acknowledged, then the next one; notes each.
sub write_until_stopped
{
	my ($writer) = @_;
	my $n = 1;

	open my $out, '>', $writer->{file} or die "open: $!";
	$out->autoflush(1);
	until (-e "$dir/stop")
	{
		for (1 .. 100_000)
		{
			my $answer = upload($writer->{name}, 'notes', { id => "$n", clientVersion => 1, body => $n });

			last if $answer->{status} == 200;
			die "$answer->{status} $answer->{content}" if $answer->{status} < 500 && status_of($answer) ne '400 ';
			sleep 0.05;
		}
		print $out $n++, "\n";
	}
	return;
}
