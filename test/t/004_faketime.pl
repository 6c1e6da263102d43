# The machine's clock is set back and forward by years: stamps stay in order
# and unique, and readers lose nothing.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $SECOND = 1_000_000;
my $YEAR = 365 * 86400 * $SECOND;

my ($library) = glob '/usr/lib/*/faketime/libfaketime.so.1'
  or die "libfaketime isn't there: install Debian's package libfaketime";
my $offset_file = PostgreSQL::Test::Utils::tempdir() . '/offset';

# The file is read again whenever a process reads the clock.  Waiting uses the
# monotonic clock, which can't be set.
set_clock('+0');
$ENV{LD_PRELOAD} = $library;
$ENV{FAKETIME_TIMESTAMP_FILE} = $offset_file;
$ENV{FAKETIME_NO_CACHE} = 1;
$ENV{FAKETIME_DONT_FAKE_MONOTONIC} = 1;
my $node = new_node('faketime');
delete $ENV{LD_PRELOAD};

my $session = connect_to($node);
my $sequence = 0;
my $last = 0;
my $load = DocsyncTest::Load->new('load');

# The first write begins the epoch. If that were rolled back after others have written, it would begin again, a
# minute ahead.
$session->value(q{SELECT docsync_sync('first')});

$load->start_writer($node) for 1 .. 3;
$load->start_reader($node);
$load->start_reader($node, client_id => 'w1', origin => 'other', max_documents => 5);
$load->start_reader($node, begin => 'BEGIN ISOLATION LEVEL REPEATABLE READ');

follows('at first');

set_clock('-3y');
continues('set back by years');
edit_by_the_server('set back by years');

set_clock('+0');
follows('set right again');

set_clock('+5y');
follows('set forward by years');
cmp_ok($last, '>', time * $SECOND + 4 * $YEAR, 'LastUpdateUtc is years ahead then');

set_clock('-5y');
continues('set back by more years');
my $clock = $session->value('SELECT last_value FROM docsync.clock');

set_clock('+0');
continues('right again, and years behind the stamps');
cmp_ok($session->value('SELECT last_value FROM docsync.clock'), '<', $clock + $SECOND, 'no stamp is skipped but for those issued');

set_clock('+6y');
follows('past the stamps again');

set_clock('+0');
$load->finish;
is($session->value('SELECT count(*) FROM (SELECT FROM docsync.document
					GROUP BY collection, last_update_utc HAVING count(*) > 1) AS twice'),
	0, 'stamps are unique within a collection');

sums_are_kept_for_a_minute();

# The clock is on disk.
$ENV{LD_PRELOAD} = $library;
$session->close;
$node->restart;
$session = connect_to($node);
continues('after a restart');
$session->close;
crash($node);
$session = connect_to($node);
upload('after a crash');
is_deeply([ $session->settled('alone') ], [ map { "d$_" } 1 .. $sequence ], "one client's documents are in the order of its uploads");
done_testing();

#-----------------------------------------------------------------------------

sub set_clock
{
	my ($offset) = @_;

	open my $file, '>', "$offset_file.new" or die $!;
	print $file "$offset\n";
	close $file;
	rename "$offset_file.new", $offset_file or die $!;
	return;
}

# The columns that aren't stamped tell which documents they are.
sub sums_are_kept_for_a_minute
{
	my $other = connect_to($node);
	my $edit = q{UPDATE docsync.document SET client_version = client_version + 1 WHERE collection = 'sums'};
	my $sums = sub { return $_[0]->pull(undef, undef, 'sums', state => 1)->{state}{digest} };
	my $before;

	$session->upload('c', 'sums', document('a', 1, '1'));
	$_->do('SET session_replication_role = replica') for $session;
	for ([ '+1h', '+3659s', 1 ], [ '+2h', '+7261s', 0 ], [ '+4h', '+3h', 0 ])
	{
		my ($then, $now, $kept) = @$_;

		set_clock($then);
		$before = $sums->($other);
		$session->do($edit);
		set_clock($now);
		($kept ? \&is : \&isnt)->($sums->($session), $before, "sums of $then, at $now");
	}

	# Their stamps are the start of the transaction that wrote them.
	set_clock('+5h');
	$other->do('BEGIN');
	set_clock('+18030s');
	$before = $sums->($other);
	$other->do('COMMIT');
	$session->do($edit);
	is($sums->($session), $before, 'sums of an old transaction');
	set_clock('+18062s');
	isnt($sums->($session), $before, '... get old with it');

	set_clock('+0');
	$session->do('RESET session_replication_role');
	$other->close;
	return;
}

# Uploads for some time; each stamp must be later than the one before.
sub upload
{
	my ($when) = @_;
	my $unordered = 0;

	for (1 .. 25)
	{
		my ($new) = $session->upload('c', 'alone', document('d' . ++$sequence, $sequence, '1'));

		$unordered++ if $new->{stamp} <= $last;
		$last = $new->{stamp};
		sleep 0.02;
	}
	is($unordered, 0, "$when: each stamp is later than the one before");
	return;
}

# Stamps are the time of the server's machine.
sub follows
{
	my ($when) = @_;

	upload($when);
	cmp_ok(abs now() - $last, '<', 5 * $SECOND, "$when: LastUpdateUtc follows the machine's clock");
	return;
}

# Stamps are later than that time, and continue from where they were.
sub continues
{
	my ($when) = @_;
	my $before = $last;

	upload($when);
	cmp_ok($last, '>', now() + $YEAR, "$when: stamps stay ahead of the machine's clock");
	cmp_ok($last, '<', $before + 5 * $SECOND, "$when: and go on by microseconds");
	return;
}

# The version is the time, like those of clients, but always higher than before.
sub edit_by_the_server
{
	my ($when) = @_;
	my $version = q{SELECT client_version FROM docsync.document WHERE collection = 'edits' AND id = 'edited'};

	$session->upload('c', 'edits', document('edited', 9_000_000_000_000, '1'));
	$session->do(q{UPDATE docsync.document SET body = '2' WHERE collection = 'edits' AND id = 'edited'});
	is($session->value($version), 9_000_000_000_001, "$when: an edit by the server still wins");
	return;
}

# The server's, in microseconds
sub now
{
	return $session->value('SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint');
}
