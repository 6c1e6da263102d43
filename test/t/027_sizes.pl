# What doc/operations.md says of sizes: bytes of the store, and of WAL, for a
# document; that an update is never HOT; that the settings of autovacuum which it
# recommends for hot documents keep the table small.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $COUNT = 20_000;
my $BATCH = 1_000;

my $node = new_node('sizes', conf => "autovacuum = off\nwal_compression = off\nmax_wal_size = 1GB\n");
my $session = connect_to($node);
my $said = slurp_file("$ENV{TESTDIR}/doc/operations.md");

# JSON of 292 bytes, as a client would send it, of which no part comes twice
sub body
{
	return '{"text":"' . join('', map { chr 97 + rand 26 } 1 .. 268) . '","done":false}';
}

sub uuid { return join '-', map { my $n = $_; join '', map { sprintf '%x', rand 16 } 1 .. $n } 8, 4, 4, 4, 12 }

sub batch
{
	my ($version, @ids) = @_;

	return map { document($_, $version, body()) } @ids;
}

# Bytes of WAL that code writes
sub wal_of
{
	my ($code) = @_;
	my $start = $session->value('SELECT pg_current_wal_insert_lsn()');

	$code->();
	return $session->value('SELECT pg_current_wal_insert_lsn() - ?::pg_lsn', $start);
}

# Is what was measured what the page says, within a fifth?
sub is_said
{
	my ($measured, $pattern, $what) = @_;
	my ($number) = $said =~ $pattern;

	ok(defined $number && abs($measured - $number) < 0.2 * $number, sprintf '%s: %.0f, said to be %s', $what, $measured, $number // 'nothing');
	return;
}

srand 27;
is(length body(), 292, 'a body');

my @ids = map { uuid() } 1 .. $COUNT;
my $inserts = wal_of(
	sub {
		for (my $i = 0; $i < $COUNT; $i += $BATCH)
		{
			$session->upload('phone', "user-$i", batch(1, @ids[ $i .. $i + $BATCH - 1 ]));
		}
	});
is_said($session->value(q{SELECT pg_total_relation_size('docsync.document')}) / $COUNT, qr/takes (\d+)\s+bytes/, 'bytes of a document in the store');
is_said($inserts / $COUNT, qr/a new document (\d+)\s+bytes/, 'bytes of WAL of a new document');

# Without the whole pages that follow a checkpoint: those come once for each.
my @first = @ids[ 0 .. $BATCH - 1 ];
$session->do('CHECKPOINT');
$session->upload('phone', 'user-0', batch(2, @first));
is_said(wal_of(sub { $session->upload('phone', 'user-0', batch(3, @first)) }) / $BATCH, qr/an update (\d+)/, 'bytes of WAL of an update');
my @same = batch(4, @first);
$session->upload('phone', 'user-0', @same) for 1 .. 2;    # which reads, and by that removes dead rows
cmp_ok(wal_of(sub { $session->upload('phone', 'user-0', @same) }), '<', 1000, 'what is sent again writes nothing');

# Of 100,000 documents 1,000 change, twelve times: by default that is nothing to
# vacuum yet; with each of the settings that the page recommends it is.
my @recommended = $said =~ /^ALTER TABLE docsync\.document SET \(\s*(autovacuum[^)]*)\);/msg;
my $server = new_server('autovacuum', conf => "fsync = off\n");
my @stores = map { store($_) } '', @recommended;

is(scalar @recommended, 2, 'settings that are recommended');
for my $store (@stores[ 1 .. $#stores ])
{
	wait_for("autovacuum with $store->{settings}", sub { vacuums($store) > 0 });
	pass("vacuumed with $store->{settings}");
}
is(vacuums($stores[0]), 0, 'not by default');
is($_->{session}->value(q{SELECT n_tup_hot_upd FROM pg_stat_all_tables WHERE relid = 'docsync.document'::regclass}), 0, 'no update is HOT') for @stores;
done_testing();

#-----------------------------------------------------------------------------

# A store in a database of its own, that has been changed.  Autovacuum, which
# would come for what fills it, and be counted, is kept away until that has been
# vacuumed, and what is counted of it has been forgotten.
sub store
{
	my ($settings) = @_;
	my $name = 'store' . ($settings =~ tr/a-z//);

	$server->safe_psql('postgres', "CREATE DATABASE $name");
	my $session = connect_to($server, $name);
	$session->do(
		'CREATE EXTENSION docsync', 'SELECT docsync_create_store()',
		$settings ? "ALTER TABLE docsync.document SET ($settings)" : (),
		'ALTER TABLE docsync.document SET (autovacuum_enabled = off)',
		q{INSERT INTO docsync.document (id, body) SELECT n, '1' FROM generate_series(1, 100000) AS n},
		'SELECT pg_stat_force_next_flush()',
		'VACUUM ANALYZE docsync.document', 'SELECT pg_stat_reset()', 'ANALYZE docsync.document',
		'ALTER TABLE docsync.document RESET (autovacuum_enabled)',
		map { "UPDATE docsync.document SET body = '$_' WHERE id::int <= 1000" } 1 .. 12);
	return { settings => $settings, session => $session };
}

sub vacuums
{
	my ($store) = @_;

	return $store->{session}->value(q{SELECT autovacuum_count FROM pg_stat_all_tables WHERE relid = 'docsync.document'::regclass});
}
