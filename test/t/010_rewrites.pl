# No reader loses a document while the table is rewritten under load.
#
# pg_repack copies rows under transaction ids of its own, in several
# transactions, and takes the table's lock only to swap the copy in.  An older
# snapshot sees what had been copied by then, but not what was copied later,
# whoever wrote the documents.  A session that waits for the lock has such a
# snapshot, unless it takes a new one; so has an old transaction.
#
# VACUUM FULL and CLUSTER keep the writers' ids.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# For how long pg_repack is run; longer on a slow machine, until it has finished
# a few times.
my ($SECONDS, $LONGEST, $TIMES) = (8, 20, 5);
my $WRITERS = 6;

my $node = new_node('rewrites');
my $admin = connect_to($node);

# Rolling back to a savepoint releases the table's lock but not the one on the
# sequence in pg_repack's log; pg_repack takes them in the opposite order.
my $load = DocsyncTest::Load->new('default', expected => ['40P01']);
my $uploader = DocsyncTest::Load->new('default');    # ends first: the others must get what it uploads
my %by_cursor = (class => 'DocsyncTest::CursorReplica');
my %old_snapshot = (begin => 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_sleep(0.02)');
my $has_repack = $admin->value(q{SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_repack'});
my %rewritten = map { $_ => 0 } ($has_repack ? 'pg_repack' : ()), 'VACUUM FULL', 'CLUSTER';
my $uploaded = 0;

note 'pg_repack is not there for this server' if !$has_repack;
$admin->do('CREATE EXTENSION pg_repack') if $has_repack;
$load->start_writer($node) for 1 .. $WRITERS;
$load->start_reader($node, %$_)
  for { name => 'by stamp' },
  { name => 'by stamp, origin other', client_id => 'w1', origin => 'other', max_documents => 20 },
  { name => 'by stamp, old snapshot', %old_snapshot },
  { name => 'by cursor', %by_cursor, max_documents => 50 },
  { name => 'by cursor, origin other', %by_cursor, client_id => 'w2', origin => 'other', begin => 'BEGIN READ ONLY' },
  { name => 'by cursor, old snapshot', %by_cursor, %old_snapshot, max_documents => 100 },
  { name => 'that uploads nothing', %by_cursor, client_id => 'r1', upload => sub { () } };
$uploader->start_reader($node, name => 'that uploads', %by_cursor,
	client_id => 'r2', origin => 'other', upload => \&next_document);
my $reporter = start_reporter();

my $begin = time;
if ($has_repack)
{
	rewrite_by('pg_repack', \&repack) until is_enough();
}
for (1 .. 3)
{
	rewrite_by('VACUUM FULL', sub { $admin->do('VACUUM FULL docsync.document') });
	rewrite_by('CLUSTER', sub { $admin->do('CLUSTER docsync.document USING document_pkey') });
}

cmp_ok($load->stop_writers, '>', 100, 'there was something to lose');
kill TERM => $reporter;
waitpid $reporter, 0;
$uploader->finish;
cmp_ok($load->finish, '>', 0, 'transactions with old snapshots had to be tried again at times');
cmp_ok($rewritten{$_}, '>', 0, "$_ has rewritten the table") for sort keys %rewritten;
note join ', ', map { "$_ $rewritten{$_} times" } sort keys %rewritten;
done_testing();

#-----------------------------------------------------------------------------

# A loss ends the test early.
sub is_enough
{
	my $seconds = time - $begin;

	return $seconds > ($rewritten{pg_repack} < $TIMES ? $LONGEST : $SECONDS) || $load->has_lost || $uploader->has_lost;
}

sub rewrite_by
{
	my ($kind, $code) = @_;
	my $file = "SELECT pg_relation_filenode('docsync.document')";
	my $before = $admin->value($file);

	$code->();
	$rewritten{$kind}++ if $admin->value($file) != $before;
	return;
}

# pg_repack may fail, in a deadlock with a writer or, on a slow machine, by its
# own timeouts.  What it leaves behind then is dropped with the extension.
sub repack
{
	my $output = join "\n", run_command([
		'pg_repack', '--no-analyze', '-h', $node->host, '-p', $node->port, '-d', 'postgres', '-t', 'docsync.document' ]);

	return if $? == 0 && $output !~ /WARNING/;
	note $output;
	wait_for('the extension to go', sub { $admin->sqlstate_of('DROP EXTENSION pg_repack CASCADE') eq '' });
	$admin->do('CREATE EXTENSION pg_repack');
	return;
}

# Holds the table's lock for a while, so that pg_repack has to wait for it, and
# readers behind pg_repack.
sub start_reporter
{
	return in_child(
		sub {
			my $session = connect_to($node);

			while (1)
			{
				$session->do('BEGIN');
				$session->value('SELECT count(*) FROM docsync.document');
				sleep rand 0.06;
				$session->do('COMMIT');
				sleep rand 0.06;
			}
		});
}

sub next_document
{
	$uploaded++;
	return document('r2-' . $uploaded % 500, $uploaded, $uploaded);
}
