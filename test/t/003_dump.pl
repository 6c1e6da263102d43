# Dump and restore: stamps, the clock and the history come with the documents, so
# clients of the old server can continue at the new one.  Its first upload
# notices that it is another server, and then they have to compare what they
# have.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Storable qw(dclone);
use Test::More;

# A server that has used far more transaction ids: its fences are far above the
# next id of the server restored to.
my $old = new_node('old');
$old->stop;
system_or_bail('pg_resetwal', '-e', '3', '-D', $old->data_dir);
$old->start;

# Until the first upload to a restored store, a document may have to wait for
# transactions that end just now: only until the next poll.
my $new = new_node('new', conf => "autovacuum = off\n");
my $standby = PostgreSQL::Test::Cluster->new('standby');
$new->backup('base');
$standby->init_from_backup($new, 'base', has_streaming => 1);
$standby->start;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $all = 'SELECT collection, id, client_version, client_id, last_update_utc, deleted, body FROM docsync.document ORDER BY 1, 2';
my $writer = connect_to($old);

$writer->upload('w', 'a', map { document("d$_", 1, qq("the body of $_")) } 1 .. 500);
$writer->upload('w', 'b', document('deleted', 1), document('kept', 1, 'null'), document('newest', 1));
is($writer->value("CALL docsync_purge('0', 'b')"), 1, 'a tombstone is purged');
$writer->upload('w', 'b', document('deleted, not purged', 1));

# A client of the old server, which has a part of the documents
my ($replica, $cursor) = (DocsyncTest::Replica->new(collection => 'a'), undef);
$replica->catch_up($writer);
$cursor = $writer->pull('r', undef, 'a')->{cursor};

my $old_epoch = ($writer->history)[-1]{epoch};
dump_old('earlier.sql');

# What the client has missed
$writer->upload('v', 'a', document('d1', 2, '"changed"'), document('d2', 2), document('e', 1, '[]'));
$writer->do(q{UPDATE docsync.document SET body = '{"by": "SQL"}' WHERE id = 'd3'});

dump_old('plain.sql');
dump_old('data.sql', '--data-only');
dump_old('custom', '--format=custom');
dump_old('directory', '--format=directory', '--jobs=2');

restore('plain', sub { system_or_bail('psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-d', $_[0], '-f', "$dir/plain.sql") });
restore('custom', sub { system_or_bail('pg_restore', '--exit-on-error', '-d', $_[0], "$dir/custom") });
restore('directory', sub { system_or_bail('pg_restore', '--exit-on-error', '--jobs=2', '-d', $_[0], "$dir/directory") });
restore('in_one', sub { system_or_bail('pg_restore', '--single-transaction', '-d', $_[0], "$dir/custom") });
restore('data', sub {
	connect_to($new, 'data')->do('CREATE EXTENSION docsync', 'SELECT docsync_create_store()');
	system_or_bail('psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-d', $_[0], '-f', "$dir/data.sql");
});
restored_in_place();
cloned();
an_earlier_dump();
rows_without_the_clock();
fences_of_another_server();
brought_behind_one_that_is_not_settled();
dump_under_load();
done_testing();

#-----------------------------------------------------------------------------

sub dump_old
{
	my ($file, @options) = @_;

	system_or_bail('pg_dump', @options, '-f', "$dir/$file", '-d', $old->connstr('postgres'));
	return;
}

# A database of the new server; returns a session with it.
sub restored
{
	my ($database, $restore) = @_;

	connect_to($new)->do("CREATE DATABASE $database");
	$restore->($new->connstr($database));
	return connect_to($new, $database);
}

sub restore
{
	my ($kind, $restore) = @_;
	my $session = restored($kind, $restore);

	is_deeply($session->rows($all), $writer->rows($all), "$kind: documents and their stamps are identical");
	for my $kept ('history', 'purged')
	{
		my $rows = "SELECT array_agg(kept::text ORDER BY kept) FROM docsync.$kept AS kept";

		is_deeply($session->value($rows), $writer->value($rows), "$kind: docsync.$kept is kept");
	}
	cmp_ok($session->value('SELECT last_value FROM docsync.clock'), '>=', $session->last_stamp, "$kind: the clock is not behind any stamp");
	cmp_ok($session->value('SELECT last_value FROM docsync.clock'), '<=', $writer->value('SELECT last_value FROM docsync.clock'),
		"$kind: nor ahead of the old one");

	is_deeply([ $session->settled('a') ], [ $writer->settled('a') ], "$kind: all is delivered at once");
	goes_on($kind, $session);
	is_noticed($kind, $session, $cursor, $old_epoch);

	# The standby waits for transactions, but there are none any more.
	my $reader = at_standby($session, $kind);
	is_deeply([ $reader->settled('a') ], [ $session->settled('a') ], "$kind: on a standby, too");
	is_deeply([ $reader->settled('b') ], [ 'kept', 'newest', 'deleted, not purged' ], "$kind: all collections");
	return;
}

# The old server's clients, at the new one
sub goes_on
{
	my ($kind, $session) = @_;
	my $copy = dclone($replica);

	is($copy->poll($session), 4, "$kind: a client goes on from its stamp");
	$copy->compare($session);
	is_deeply([ $copy->faults ], [], "$kind: and loses nothing");

	my $answer = $session->pull('r', $cursor, 'a');
	is_deeply([ sort map { $_->{id} } @{ $answer->{documents} } ], [qw(d1 d2 d3 e)], "$kind: from its cursor");

	is($session->sqlstate_of("SELECT docsync_pull('r', '$old_epoch.1', 'b')"), '55000',
		"$kind: but not from before what was purged");
	like($session->errstr, qr/"reason": "purged"/, "$kind: which it is told");

	my $last = $session->last_stamp;
	my ($next) = $session->upload('w', 'a', document('next', 1, '1'));
	cmp_ok($next->{stamp}, '>', $last, "$kind: what is stored next is stamped later");
	is($copy->poll($session), 1, "$kind: and the client gets it");
	return;
}

# After the first upload: an earlier client, with its cursor; and stamps that
# the lost history may have issued.
sub is_noticed
{
	my ($kind, $session, $cursor, $epoch) = @_;
	my $row = ($session->history)[-1];
	my $by_cursor = "SELECT docsync_pull('r', '$cursor', 'a'%s)";

	isnt($row->{epoch}, $epoch, "$kind: the first upload begins an epoch");
	ok($row->{arrived}, "$kind: of a store that has arrived here");
	is($session->sqlstate_of(sprintf $by_cursor, ''), '55000', "$kind: a cursor of before does not just go on then");
	like($session->errstr, qr/resync required.*"reason": "lost"/s, "$kind: which the client is told");
	is($session->sqlstate_of("SELECT docsync_sync('r', '[@{[document('lost', 1, 1)]}]', '$cursor', 'a')"), '55000', "$kind: by a sync, too");

	my $told = decode_json($session->value(sprintf $by_cursor, ', reconcile => true'));
	ok($told->{reconcile}, "$kind: who can compare is told to");
	is(microseconds($session, $told->{lostAfter}), $row->{lost_after}, "$kind: what may have been lost");
	cmp_ok($row->{lost_after}, '<', $row->{survived} - 86_000_000_000, "$kind: which is generous");
	is($told->{documents}[-1]{id}, 'next', "$kind: and given what is new");
	ok(!exists $session->pull('r', $told->{cursor}, 'a', reconcile => 1)->{reconcile}, "$kind: once");

	cmp_ok($row->{clock}, '>', $row->{survived} + 1, "$kind: there is a gap");
	for my $since ($row->{survived} + 1, $row->{clock})
	{
		is($session->sqlstate_of(since($since)), '55000', "$kind: a stamp in the gap");
		like($session->errstr, qr/"reason": "lost"/, "$kind: is of the lost history");
	}
	is($session->sqlstate_of(since($_)), '', "$kind: one beside it is not") for $row->{survived}, $row->{clock} + 1;
	return;
}

sub since
{
	return "SELECT count(*) FROM docsync_query_since('r', to_timestamp(0) + $_[0] * interval '1 us', 'other', 'a')";
}

sub microseconds
{
	my ($session, $time) = @_;

	return $session->value('SELECT (extract(epoch FROM ?::timestamptz) * 1000000)::bigint', $time);
}

# A session with a database on the standby, once that has caught up
sub at_standby
{
	my ($session, $database) = @_;

	replayed($session, connect_to($standby));
	return connect_to($standby, $database);
}

# Into the same database of the same server: the table is another.
sub restored_in_place
{
	my $session = connect_to($new, 'plain');
	my $epoch = ($session->history)[-1]{epoch};
	my $known = $session->pull('r', undef, 'a')->{cursor};

	system_or_bail('pg_dump', '--schema=docsync', '-f', "$dir/in_place.sql", '-d', $new->connstr('plain'));
	$session->do('SET client_min_messages = warning', 'DROP SCHEMA docsync CASCADE');
	system_or_bail('psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-d', $new->connstr('plain'), '-f', "$dir/in_place.sql");
	is_deeply($session->pull('r', $known, 'a')->{documents}, [], 'in place: a cursor is good until something is stored');
	$session->upload('w', 'a', document('next', 2, '1'));
	is_noticed('in place', $session, $known, $epoch);
	return;
}

# Everything is the same except the database.
sub cloned
{
	my $session = connect_to($new, 'plain');
	my $epoch = ($session->history)[-1]{epoch};
	my $known = $session->pull('r', undef, 'a')->{cursor};

	$session->close;
	$session = restored('clone', sub { connect_to($new)->do('DROP DATABASE clone', 'CREATE DATABASE clone TEMPLATE plain') });
	is_deeply($session->pull('r', $known, 'a')->{documents}, [], 'clone: a cursor is good until something is stored');
	$session->upload('w', 'a', document('next', 3, '1'));
	is_noticed('clone', $session, $known, $epoch);

	my $original = connect_to($new, 'plain');
	$original->upload('w', 'a', document('next', 3, '1'));
	is(scalar @{ $original->pull('r', $known, 'a')->{documents} }, 1, 'clone: at the original the cursor goes on');
	return;
}

# A client has seen what the backup doesn't have.
sub an_earlier_dump
{
	my $ahead = DocsyncTest::Replica->new(collection => 'a');

	$ahead->catch_up($writer);
	my $cursor_ahead = $writer->pull('r', undef, 'a')->{cursor};
	my $session = restored('earlier',
		sub { system_or_bail('psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-d', $_[0], '-f', "$dir/earlier.sql") });

	is($session->sqlstate_of("SELECT * FROM docsync_query_since('r', '$ahead->{since}', collection => 'a')"), '55000',
		'a client ahead of an earlier dump is told to start again');
	is_deeply([ @{ $session->pull('r', $cursor_ahead, 'a') }{qw(behind documents cursor)} ], [ JSON::PP::true, [], $cursor_ahead ],
		'one with a cursor that nobody there may be behind any more');
	is($session->sqlstate_of("SELECT docsync_sync('r', cursor => '$cursor_ahead', collection => 'a')"), '55000', 'and one that uploads');
	like($session->errstr, qr/resync required.*another history.*restored/s, 'in words');
	is(scalar @{ $session->pull('r', $cursor, 'a')->{documents} }, 0, 'a client that is not ahead goes on');

	# The clock passes such clients with the first upload, but there is a gap.
	$session->do('SELECT docsync_new_epoch()');
	$session->upload('w', 'a', document('later', 1, '1'));
	is($session->sqlstate_of("SELECT * FROM docsync_query_since('r', '$ahead->{since}', collection => 'a')"), '55000',
		'a client ahead of an earlier dump is told when something has been stored, too');
	is($session->sqlstate_of("SELECT * FROM docsync_query_since('r', '$replica->{since}', collection => 'a')"), '',
		'and one that is not still goes on');
	for my $known ($cursor_ahead, $cursor)
	{
		is($session->sqlstate_of("SELECT docsync_pull('r', '$known', 'a')"), '55000', 'a new epoch makes all of them start again');
	}
	my $new_cursor = $session->pull('r', undef, 'a')->{cursor};
	is_deeply($session->pull('r', $new_cursor, 'a')->{documents}, [], 'whose cursors are good again then');
	is($writer->sqlstate_of("SELECT docsync_pull('r', '$new_cursor', 'a')"), '55000', 'but not on the old server');

	# An unrelated server
	my $other = restored('other', sub { connect_to($new, 'other')->do('CREATE EXTENSION docsync', 'SELECT docsync_create_store()') });
	is($other->sqlstate_of("SELECT docsync_pull('r', '$cursor', 'a')"), '55000', "another server's cursor is refused");
	like($other->errstr, qr/another history/, 'in words');
	is($other->sqlstate_of("SELECT docsync_sync('r', cursor => '$cursor', collection => 'a')"), '55000', 'by docsync_sync too');
	is($other->pull('r', $cursor, 'a', reconcile => 1)->{lostAfter}, '-infinity', 'and nobody knows what has been lost');
	return;
}

# Rows alone, inserted by the owner: the clock follows them.
sub rows_without_the_clock
{
	my $session = connect_to($new, 'other');
	my ($fence, $stamp) = ('12345678901234', '2101-02-03 04:05:06.789012+00');

	$session->do("INSERT INTO docsync.document (collection, id, client_version, client_id, body, last_update_utc, fence)
				  VALUES ('a', 'brought', 1, 'c', '1', '$stamp', '$fence')");
	is($session->value("SELECT last_update_utc FROM docsync.document WHERE id = 'brought'"), $stamp, 'a stamp that is brought is kept');
	cmp_ok($session->value('SELECT last_value FROM docsync.clock'), '>=', $session->last_stamp, 'the clock is moved past it');
	is_deeply([ $session->settled('a') ], ['brought'], 'it is delivered at once');

	my ($next) = $session->upload('c', 'a', document('next', 1, '1'));
	cmp_ok($next->{stamp}, '>', $session->stamp_of('a', 'brought'), 'and what is stored next is stamped later');
	is_deeply([ at_standby($session, 'other')->settled('a') ], [ 'brought', 'next' ], 'a standby delivers both');
	return;
}

# Inserted without the trigger, as by logical replication
sub fences_of_another_server
{
	my ($session, $early) = map { connect_to($new, 'other') } 1 .. 2;

	$early->do('BEGIN');
	$early->upload('c', 'replicated', document('early', 1, '1'));
	$session->do('SET statement_timeout = 10000', 'SET session_replication_role = replica',
		q{INSERT INTO docsync.document (collection, id, client_version, client_id, body, last_update_utc, fence)
		  VALUES ('replicated', 'brought', 1, 'c', '1', '2102-02-03 04:05:06.789012+00', '12345678901234')},
		'RESET session_replication_role');
	is($session->sqlstate_of("SELECT count(*) FROM docsync_query_since('r', collection => 'replicated')"), '',
		'a fence from elsewhere is not counted up to');
	is_deeply([ $session->settled('replicated') ], [], 'it does not hide whoever may come before');
	$early->do('COMMIT');
	is_deeply([ $session->settled('replicated') ], [ 'early', 'brought' ], 'and delays nobody when they have come');
	return;
}

# A restored fence may be lower than those of earlier documents.
sub brought_behind_one_that_is_not_settled
{
	my ($session, $early) = map { connect_to($new, 'other') } 1 .. 2;

	$early->do('BEGIN');
	$early->upload('c', 'behind', document('early', 1, '1'));
	$session->upload('c', 'behind', document('late', 1, '1'));
	$session->do(q{INSERT INTO docsync.document (collection, id, client_version, client_id, body, last_update_utc, fence)
				   VALUES ('behind', 'brought', 1, 'c', '1', '2103-02-03 04:05:06.789012+00', '3')});
	is_deeply([ $session->settled('behind') ], [], 'nothing is delivered behind a document that is not settled');
	$early->do('COMMIT');
	is_deeply([ $session->settled('behind') ], [ 'early', 'late', 'brought' ], 'and all when it is');
	return;
}

# The clock isn't part of the snapshot that is dumped.
sub dump_under_load
{
	my $load = DocsyncTest::Load->new('load');

	$load->start_writer($old) for 1 .. 2;
	wait_for('documents', sub { $writer->value("SELECT count(*) FROM docsync.document WHERE collection = 'load'") > 50 });
	dump_old('load', '--format=custom');
	$load->finish;

	my $session = restored('load', sub { system_or_bail('pg_restore', '--exit-on-error', '-d', $_[0], "$dir/load") });
	cmp_ok($session->value("SELECT count(*) FROM docsync.document WHERE collection = 'load'"), '>', 50, 'a dump under load has documents');
	cmp_ok($session->value('SELECT last_value FROM docsync.clock'), '>=', $session->last_stamp, 'and a clock not behind them');
	return;
}
