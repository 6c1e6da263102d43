# Downloads from a hot standby lose nothing, and neither does its promotion.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(sleep);

# Hint bits would be logged with the id of the session that sets them, and tell
# the standby of ids that it must not know.
my $primary = new_node('primary', conf => 'wal_log_hints = off');
my $standby = PostgreSQL::Test::Cluster->new('standby');

$primary->backup('base');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

my $writer = connect_to($primary);
my $reader = connect_to($standby);

downloads();
any_older_transaction_holds_back();
ids_the_standby_has_not_heard_of();
refusals();
behind();
promotion_under_load();
done_testing();

#-----------------------------------------------------------------------------

sub downloads
{
	$writer->upload('c', 'plain', map { document("d$_", 1, $_) } 1 .. 20);
	replayed($writer, $reader);
	is_deeply($reader->download('r', '-infinity', 'other', 'plain', undef),
		$writer->download('r', '-infinity', 'other', 'plain', undef),
		'a standby gives what the primary gives');
	return;
}

# A standby sees no marks, so it waits for every older transaction.
sub any_older_transaction_holds_back
{
	my $older = connect_to($primary);

	$writer->do('CREATE TABLE foreign_table (n int)');
	for my $case (
		[ 'that has only an id', [ 'SELECT pg_current_xact_id()' ], [ 'COMMIT' ] ],
		[ 'that wrote elsewhere', [ 'INSERT INTO foreign_table VALUES (1)' ], [ 'ROLLBACK' ] ],
		[
			'with many subtransactions',
			[ map { ("SAVEPOINT s$_", "INSERT INTO foreign_table VALUES ($_)") } 1 .. 70 ],
			['COMMIT']
		],
		[
			'that is prepared',
			[ 'INSERT INTO foreign_table VALUES (1)', "PREPARE TRANSACTION 'p'" ],
			["COMMIT PREPARED 'p'"]
		],
		[
			'that uploads',
			["SELECT docsync_upsert('c', '[@{[document('older', 1, 1)]}]', 'that uploads')"],
			['COMMIT'], 'older'
		])
	{
		my ($kind, $begin, $end, @own) = @$case;

		$older->do('BEGIN', @$begin);
		$writer->upload('c', $kind, document('document', 1, '1'));
		replayed($writer, $reader);
		is_deeply([ $reader->settled($kind) ], [], "an older transaction $kind holds a document back on a standby");
		is_deeply([ $writer->settled($kind) ], [ @own ? () : 'document' ],
			@own ? 'and on the primary' : 'though not on the primary');

		$older->do(@$end);
		replayed($writer, $reader);
		is_deeply([ $reader->settled($kind) ], [ @own, 'document' ], 'and no longer when that has ended');
	}
	return;
}

# A transaction may have its stamps before it has written any WAL: then the
# standby doesn't know that its id has been assigned.
sub ids_the_standby_has_not_heard_of
{
	my ($early, $late, $lock) = map { connect_to($primary) } 1 .. 3;

	# Waits after the document has its stamp, and before it is written:
	# constraints are checked in between.
	$writer->do(q{
		CREATE FUNCTION wait(id text) RETURNS bool LANGUAGE plpgsql AS $$
		BEGIN
			IF id = 'waits' THEN
				PERFORM pg_advisory_xact_lock(1);
			END IF;
			RETURN true;
		END
		$$},
		'ALTER TABLE docsync.document ADD CONSTRAINT wait CHECK (wait(id)) NOT VALID');

	$lock->do('SELECT pg_advisory_lock(1)');
	$early->do('BEGIN');
	$late->do('BEGIN', 'SELECT pg_current_xact_id()');

	# So that the clock has been logged a second ahead
	$writer->do('CHECKPOINT');
	$writer->upload('c', 'unheard', document('before', 1, '1'));
	$early->start("SELECT docsync_upsert('c', '[@{[document('waits', 1, 1)]}]', 'unheard')");
	wait_for('the lock',
		sub { $writer->value('SELECT wait_event FROM pg_stat_activity WHERE pid = ?', $early->pid) eq 'advisory' });
	$late->upload('c', 'unheard', document('after', 1, '1'));
	$late->do('COMMIT');
	replayed($writer, $reader);

	my $replica = DocsyncTest::Replica->new(collection => 'unheard');
	$replica->catch_up($reader);
	ok(!$replica->{documents}{after},
		'an older stamp holds a document back on a standby, though no WAL has come of its transaction');

	$lock->do('SELECT pg_advisory_unlock(1)');
	$early->finish;
	$early->do('COMMIT');
	replayed($writer, $reader);
	$replica->catch_up($reader);
	$replica->compare($reader);
	is_deeply([ $replica->faults ], [], 'and the reader loses nothing');
	return;
}

# What a client can't do there, and what isn't an error there.
sub refusals
{
	my $document = document('refused', 1, '1');
	my $ahead = '9999-01-01 00:00:00+00';

	for my $upload (
		"docsync_upsert('c', '[$document]')", "docsync_sync('c', '[$document]')",
		"docsync_sync('c')", "docsync_docs('{\"clientId\": \"c\", \"documents\": [$document]}')",
		'docsync_new_epoch()', 'docsync_purge()')
	{
		my $command = $upload =~ /purge/ ? 'CALL' : 'SELECT';

		is($reader->sqlstate_of("$command $upload"), '25006', "a standby refuses $upload");
		like($reader->errstr, qr/cannot execute .+ in a read-only transaction/, 'and says why');
	}
	like($reader->errstr, qr/docsync_purge|DELETE|INSERT/, 'and what');
	like($reader->value(q{SELECT docsync_docs_sync('{"clientId": "c2", "collection": "plain"}')}), qr/"received":0,.*"id":"d1"/,
		'the body of a sync without documents is a download');

	# The standby may just be behind the server that the client used before.
	is($writer->sqlstate_of("SELECT * FROM docsync_query_since('r', '$ahead')"), '55000', 'the primary refuses a stamp ahead of its clock');
	is_deeply([ $reader->settled('plain', $ahead) ], [], 'a standby answers that there is nothing new');

	my $here = $reader->pull(undef, undef, 'plain');
	is_deeply([ map { $_->{id} } @{ $here->{documents} } ], [ sort map { "d$_" } 1 .. 20 ], 'docsync_pull works on a standby');

	$writer->upload('c', 'plain', document('d21', 1, '1'));
	my $there = $writer->pull(undef, $here->{cursor}, 'plain');
	is_deeply([ map { $_->{id} } @{ $there->{documents} } ], ['d21'], 'its cursor is good on the primary');
	replayed($writer, $reader);
	is_deeply($reader->pull(undef, $there->{cursor}, 'plain')->{documents}, [], 'as is a cursor of the primary on a standby');
	is($reader->pull(undef, $there->{cursor}, 'plain')->{cursor}, $there->{cursor}, 'which comes back as it was');

	my $later = $there->{cursor} =~ s/\.\K.*/253402300799000000/r;
	is($writer->sqlstate_of("SELECT docsync_pull(cursor => '$later')"), '55000', 'the primary refuses a cursor ahead of its clock');
	like($reader->pull(undef, $later, 'plain')->{cursor}, qr/^\Q$later\E\./, 'on a standby it comes back with the same stamp');
	return;
}

# A standby that hasn't reached the client's position on the primary says so,
# instead of answering that there is nothing new.
sub behind
{
	my $compare = q{SELECT docsync_docs_reconcile('{"collection": "behind"}')};
	my $get = q{SELECT docsync_docs_get('{"collection": "behind", "ids": ["d1", "d2"], "cursor": "%s"}')};

	$writer->upload('c', 'behind', document('d1', 1, '1'));
	replayed($writer, $reader);
	my $start = $reader->pull(undef, undef, 'behind')->{cursor};
	$reader->do('SELECT pg_wal_replay_pause()');
	wait_for('the pause', sub { $reader->value('SELECT pg_get_wal_replay_pause_state()') eq 'paused' });
	$writer->upload('c', 'behind', document('d2', 1, '1'));
	my $ahead = $writer->pull(undef, $start, 'behind');

	my $answer = $reader->pull(undef, $ahead->{cursor}, 'behind', reconcile => 1);
	is_deeply($answer, { received => 0, results => [], documents => [], cursor => $ahead->{cursor}, more => JSON::PP::false,
			behind => JSON::PP::true, serverUtc => $answer->{serverUtc} },
		'a standby that lags behind a cursor says so, and gives it back');
	is_deeply([ map { $_->{id} } @{ $reader->pull(undef, undef, 'behind')->{documents} } ], ['d1'], 'who begins is given what there is');
	ok(!exists $reader->pull(undef, $start, 'behind')->{behind}, 'nor does it lag behind a cursor of its own');
	$answer = decode_json($reader->value(sprintf $get, $ahead->{cursor}));
	is_deeply([ @$answer{qw(documents more behind)} ], [ [], JSON::PP::true, JSON::PP::true ], 'documents by id are not given either');
	$answer = decode_json($reader->value(sprintf $get, $start));
	is_deeply([ map { $_->{id} } @{ $answer->{documents} } ], ['d1'], 'but to who has not been ahead');
	is($reader->sqlstate_of("SELECT docsync_pull(cursor => '$ahead->{cursor}', collection => 'behind', \"clientId\" => 'r')"), '22023',
		'a cursor of somebody else is refused all the same');

	$reader->do('SELECT pg_wal_replay_resume()');
	replayed($writer, $reader);
	$answer = $reader->pull(undef, $ahead->{cursor}, 'behind');
	ok(!exists $answer->{behind}, 'and no longer when it has caught up');
	is($answer->{cursor}, $ahead->{cursor}, 'the cursor is the same then');
	$answer = decode_json($reader->value($compare));
	is_deeply([ @$answer{qw(rows more behind)} ], [ [], JSON::PP::true, JSON::PP::true ], 'what is to be compared only the primary lists');
	is_deeply([ map { $_->{id} } @{ decode_json($writer->value($compare))->{rows} } ], [qw(d1 d2)], 'which does');
	return;
}

# Readers use the standby, writers whichever server is the primary.
sub promotion_under_load
{
	my $load = DocsyncTest::Load->new('load');
	my ($prepared, $late, @others) = map { connect_to($primary) } 1 .. 4;
	my $old_snapshot = connect_to($standby);

	$load->start_writer($primary) for 1 .. 3;
	$load->start_reader($standby);
	$load->start_reader($standby, client_id => 'w1', origin => 'other', max_documents => 5);
	$load->start_reader($standby, begin => 'BEGIN ISOLATION LEVEL REPEATABLE READ');
	sleep 2;
	cmp_ok($load->stop_writers, '>', 10, 'there was something to lose');

	# Survives the primary, unlike the ids under which nothing has been written
	$prepared->do('BEGIN');
	$prepared->upload('c', 'prepared', document('first', 1, '1'));
	$prepared->do("PREPARE TRANSACTION 'upload'");
	$late->do('BEGIN', 'SELECT pg_current_xact_id()');
	$_->do('BEGIN', 'SELECT pg_current_xact_id()') for @others;
	$late->upload('c', 'prepared', document('second', 1, '1'));
	$late->do('COMMIT');

	my $cursor = $writer->pull(undef, undef, 'load')->{cursor};
	my $since = $writer->stamp_of('prepared', 'second');
	my $last = $writer->last_stamp;
	my @before = $writer->history;
	replayed($writer, $reader);
	$old_snapshot->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
	is_deeply([ $old_snapshot->settled('prepared') ], [], 'a prepared transaction holds back later documents on a standby');

	$_->close for $writer, $prepared, $late, @others;
	$primary->stop('immediate');    # or its last record would reveal all ids
	$standby->promote;

	is_deeply([ $reader->settled('prepared') ], [], 'and after its promotion');
	is_deeply([ $old_snapshot->settled('prepared') ], [], 'for a snapshot from before too');
	my ($first) = $reader->upload('c', 'load', document('first after promotion', 1, '1'));
	cmp_ok($first->{stamp}, '>', $last, 'stamps issued after a promotion are later than all before');
	$reader->do("COMMIT PREPARED 'upload'");
	is_deeply([ $reader->settled('prepared') ], [ 'first', 'second' ], 'what was held back comes when that has ended');
	is_deeply([ $old_snapshot->settled('prepared') ], [], 'but not to the snapshot from before');
	$old_snapshot->do('COMMIT');

	my @after = $reader->history;
	is(scalar @after, @before + 1, 'the first that is stored after a promotion adds a row');
	isnt($after[-1]{epoch}, $before[-1]{epoch}, 'of another epoch');
	is($after[-1]{timeline}, $before[-1]{timeline} + 1, 'and timeline');
	ok(!$after[-1]{arrived}, 'whose fences are still good');
	is($reader->sqlstate_of("SELECT docsync_pull(cursor => '$cursor', collection => 'load')"), '55000',
		"a cursor of the old primary's does not just go on");
	like($reader->errstr, qr/"reason": "lost"/, 'since the old primary may have had more');
	my $answer = $reader->pull(undef, $cursor, 'load', reconcile => 1);
	ok($answer->{reconcile}, 'who can compare is told to');
	is($reader->value('SELECT (extract(epoch FROM ?::timestamptz) * 1000000)::bigint', $answer->{lostAfter}), $after[-1]{lost_after},
		'what may have been lost');
	is_deeply([ map { $_->{id} } @{ $answer->{documents} } ], ['first after promotion'], 'and given what is new');
	$answer = $reader->pull(undef, $answer->{cursor}, 'load');
	is_deeply([ exists $answer->{reconcile}, @{ $answer->{documents} } ], [''], 'once');

	# With bare stamps a client can continue, unless the old primary has issued
	# more meanwhile.
	my $query = q{SELECT * FROM docsync_query_since('r', to_timestamp(0) + %s * interval '1 us', 'other', 'prepared')};
	is($reader->sqlstate_of(sprintf $query, $since), '', 'a stamp of before is good');
	is($reader->sqlstate_of(sprintf $query, $_), '55000', 'one that the old primary may have issued since then is not')
	  for $after[-1]{survived} + 1, $after[-1]{clock};

	$load->start_writer($standby) for 1 .. 3;
	sleep 1;
	$load->finish;
	is($reader->value('SELECT count(*) FROM (SELECT FROM docsync.document
						GROUP BY collection, last_update_utc HAVING count(*) > 1) AS twice'),
		0, 'stamps are unique within a collection');
	return;
}
