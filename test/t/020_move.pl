# A store moves by logical replication, with the commands in doc/operations.md:
# from an older PostgreSQL, if one is given, or to another server of the same
# version.  Clients continue at the new server and at its standby.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use DocsyncTest::Movers;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# It has used far more transaction ids than the server that the store moves to:
# its fences are far above the next id there.
my $old = old_node('old', allows_streaming => 'logical');
$old->stop;
{
	local %ENV = $old->_get_env;
	system_or_bail('pg_resetwal', '-e', '3', '-D', $old->data_dir);
}
$old->start;

my $new = new_server('new');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$new->backup('base');
$standby->init_from_backup($new, 'base', has_streaming => 1);
$standby->start;

# Each block is the words after its opening fence, and a text.
my ($recipe) = slurp_file('doc/operations.md') =~ /^### By logical replication\n(.*?)(?:^##|\z)/ms
  or BAIL_OUT('doc/operations.md has no recipe');
my @commands = $recipe =~ /^```(\w.*?)^```$/msg;
is(scalar @commands, 6, 'the commands of doc/operations.md');

my $clients = DocsyncTest::Movers->new($old);
DocsyncTest::Movers::make_roles($new);

# More is written while the subscription is copying.
for my $command (@commands)
{
	my ($info, $text) = split /\n/, $command, 2;

	if ($text =~ /docsync_hand_over/)
	{
		too_early();
		$clients->hand_over;
		next;
	}
	run_command_of_page($info, $text);
	if ($text =~ /CREATE SUBSCRIPTION/)
	{
		$clients->session->upload('laptop', $_, map { document("copied $_", 1, '1') } 1 .. 20) for @DocsyncTest::Movers::TENANTS;
		$clients->session->do("DELETE FROM docsync.document WHERE id = 'd7'");
		is(connect_to($new)->sqlstate_of("SELECT docsync_pull('phone')"), '55000', 'the new server gives nothing before');
	}
}
$clients->have_moved('logical replication', $new, $standby);
two_epochs();

$_->stop for $standby, $new, $old;
done_testing();

#-----------------------------------------------------------------------------

# psql stops at the first error; each command is a transaction of its own.
sub run_command_of_page
{
	my ($info, $text) = @_;
	my ($language, $server, $wait) = split ' ', $info;

	$text =~ s/CONNECTION '.*?'/CONNECTION '@{[$old->connstr('postgres') =~ s{'}{''}gr]}'/;
	if ($language eq 'sh')
	{
		local @ENV{qw(OLD NEW PATH)} = ((map { $_->connstr('postgres') } $old, $new), bindir($old) . ":$ENV{PATH}");
		is(system('bash', '-c', "set -o pipefail\n$text"), 0, "runs: $text") or die;
		return;
	}
	my $node = $server eq 'old' ? $old : $new;
	my $stderr;

	if ($wait)
	{
		ok($node->poll_query_until('postgres', $text), 'what is waited for comes') or die;
		my $session = connect_to($node);
		is($session->sqlstate_of('SELECT docsync_take_over()'), '55000', 'it is not taken over while more might come');
		like($session->errstr, qr/A subscription is still filling it/, 'which is said');
		return;
	}
	is($node->psql('postgres', $text, on_error_stop => 1, stderr => \$stderr), 0, "runs: $text") or die $stderr;
	return;
}

# docsync_take_over() before the hand-over, or before everything has arrived
sub too_early
{
	my $session = connect_to($new);

	wait_for('the copy', sub { $session->value("SELECT count(*) = 0 FROM pg_subscription_rel WHERE srsubstate <> 'r'") });
	is($session->sqlstate_of('SELECT docsync_take_over()'), '55000', 'what was not handed over is not taken over');
	like($session->errstr, qr/has not been handed over/, 'which is said');
	$session->close;
	return;
}

# From then on each place has a history of its own.
sub two_epochs
{
	my ($new_session, $old_session) = map { connect_to($_) } $new, $old;
	my $cursor = $new_session->pull('phone', undef, 'anna')->{cursor};

	is($old_session->sqlstate_of("SELECT docsync_pull('phone', '$cursor', 'anna')"), '55000', "the new server's cursors are not the old one's");
	$old_session->do('SELECT docsync_new_epoch()');
	$old_session->upload('laptop', 'anna', document('at the old server', 1, '1'));
	$cursor = $old_session->pull('phone', undef, 'anna')->{cursor};
	is($new_session->sqlstate_of("SELECT docsync_pull('phone', '$cursor', 'anna')"), '55000', 'nor the other way round');
	$_->close for $new_session, $old_session;
	return;
}
