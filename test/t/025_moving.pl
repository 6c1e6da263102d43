# Collections move from one server to another, by examples/shards/move: what a
# client's cursor means there, long afterwards, when the collections have moved
# back, when either server has lost something.  026 has moves that are broken off.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $JSON = JSON::PP->new->canonical->allow_nonref;

# The servers are far apart in time and in transaction ids.
my $here = new_node('here');
my $there = new_server('there');
$there->stop;
{
	local %ENV = $there->_get_env;
	system_or_bail('pg_resetwal', '-e', '3', '-D', $there->data_dir);
}
$there->start;
$there->safe_psql('postgres', 'CREATE EXTENSION docsync; SELECT docsync_create_store()');
$there->safe_psql('postgres', q{SELECT setval('docsync.clock', (extract(epoch FROM now() + '5 s') * 1000000)::bigint)});
my $standby = PostgreSQL::Test::Cluster->new('standby');
$there->backup('base');
$standby->init_from_backup($there, 'base', has_streaming => 1);
$standby->start;
my ($s, $t) = map { connect_to($_) } $here, $there;

moves();
is_closed();
later();
moves_back();
is_lost_elsewhere();
is_restored();
moves_on();
has_gone_on();
rights();
as_owner();
what_lost();
is_repaired();
is_watched();
is_held();

$_->stop for $standby, $here, $there;
done_testing();

#-----------------------------------------------------------------------------

# Ten clients' cursors, at whichever page, go on at the other server.
sub moves
{
	fill($s, 'anna');
	fill($s, 'ben');
	$s->do(q{DELETE FROM docsync.document WHERE id = 'd7' AND collection <> 'ben'}, q{DELETE FROM docsync.document WHERE id IN ('d5', 'd6') AND collection = 'anna/notes'});
	fill($t, 'others');
	my @cursors = map { pull($s, "c$_", undef, 'anna', $_)->{cursor} } 1 .. 10;
	my $stamps = $s->rows(q{SELECT collection, id, last_update_utc FROM docsync.document WHERE collection <> 'ben' ORDER BY 1, 2});

	is(move($here, $there, 'anna'), 0, 'anna moves');
	is_deeply($t->rows(q{SELECT collection, id, last_update_utc FROM docsync.document WHERE collection <> 'others' ORDER BY 1, 2}), $stamps, 'all is there, with its stamps, and what was not meant is not');
	$t->upload('there', 'anna', document('new', 1, 1));
	replayed($t, connect_to($standby));
	for my $n (1 .. 10)
	{
		for my $session ($t, connect_to($standby))
		{
			my $page = pull($session, "c$n", $cursors[ $n - 1 ], 'anna');

			is_deeply([ told($page), scalar @{ $page->{documents} }, $page->{documents}[-1]{id} ], [ '', 31 - $n, 'new' ], "client $n goes on, and gets the rest, once")
			  or diag $JSON->encode($page);
		}
	}
	cmp_ok($t->stamp_of('anna', 'new'), '>', $t->value(q{SELECT max((extract(epoch FROM (t.v)) * 1000000)::bigint) FROM docsync.moved, unnest(clocks) AS t(v)}), 'what is new is later than all that was given out before');
	return;
}

# At the old server nothing is read or written, not even what would change nothing.
sub is_closed
{
	for my $sql (
		q{SELECT docsync_sync('c1', '[]', NULL, 'anna', reconcile => true)}, q{SELECT docsync_pull('c1', NULL, 'anna/notes')}, q{SELECT * FROM docsync_query_since('c1', collection => 'anna')},
		q{SELECT * FROM docsync_upsert('c1', '[{"id": "d1", "clientVersion": 1, "body": 1}]', 'anna')}, q{SELECT * FROM docsync_upsert('c1', '[]', 'anna')},
		q{SELECT docsync_docs_get('{"clientId": "c1", "collection": "anna", "ids": ["d1"]}')}, q{SELECT docsync_docs_reconcile('{"clientId": "c1", "collection": "anna"}')},
		q{INSERT INTO docsync.document (collection, id, body) VALUES ('anna', 'sql', '1')}, q{INSERT INTO docsync.document (collection, id, body) VALUES ('anna/never', 'sql', '1')},
		q{UPDATE docsync.document SET body = '2' WHERE collection = 'anna' AND id = 'd1'},
		q{INSERT INTO docsync.document (collection, id, client_version, client_id, last_update_utc, deleted, body, fence) VALUES ('anna', 'restored', 1, 'c1', now(), false, '1', '3')})
	{
		is($s->sqlstate_of($sql), '55000', "refused: $sql");
		like($s->errstr, qr/the collection has been moved/, '... for that');
	}
	my $several = $JSON->decode($s->value(q{SELECT docsync_docs_sync('{"clientId": "c1", "collections": [{"collection": "anna"}, {"collection": "ben"}, {"collection": "anna/notes", "documents": [{"id": "x", "clientVersion": 1, "body": 1}]}]}')}));
	is_deeply([ map { $_->{error}{code} // scalar @{ $_->{documents} } } @{ $several->{collections} } ], [ 'moved', 30, 'moved' ], 'of several collections the others go on');
	is(pull($s, 'c1', undef, 'anna2')->{more}, JSON::PP::false, 'one that only begins so is another');

	$s->do("CALL docsync_purge('0')");
	is($s->value(q{SELECT count(*) FROM docsync.document WHERE deleted AND collection LIKE 'anna%'}), 4, 'nothing of it is purged');
	is(run_move('-e', 'anna', $here->connstr('postgres')), 0, 'it is deleted there');
	is($s->value(q{SELECT string_agg(DISTINCT collection, ' ') FROM docsync.document}), 'ben', '... for good, and nothing else');
	is($s->sqlstate_of(q{SELECT docsync_pull('c1', NULL, 'anna')}), '55000', '... and still closed');
	return;
}

# A cursor of before the move, after a crash, a deletion, a purge
sub later
{
	my $old = pull($t, 'later', undef, 'anna')->{cursor};

	crash($there);
	$t = connect_to($there);
	is(told(pull($t, 'later', $old, 'anna')), '', 'a crash is nothing to be told of');
	$t->upload('there', 'anna', document('after the crash', 1, 1));
	is(told(my $page = pull($t, 'later', $old, 'anna')), '', '... nor when it has been noted');
	is_deeply([ map { $_->{id} } @{ $page->{documents} } ], ['after the crash'], '... and what is new comes');

	$t->do(q{DELETE FROM docsync.document WHERE collection = 'anna' AND id IN ('d1', 'd2', 'd3')});
	wait_for('the time that its clock says', sub { $t->value(q{SELECT bool_and(last_update_utc < clock_timestamp()) FROM docsync.document}) });
	$t->do(q{CALL docsync_purge('0', 'anna')});
	is(told(pull($t, 'later', $old, 'anna')), 'purged', 'who has missed a purge is told');
	is(told(pull($t, 'later', pull($t, 'later', undef, 'anna')->{cursor}, 'anna')), '', '... and nobody else');
	return;
}

# What was given out by any of the servers, while the collection was there, is good.
sub moves_back
{
	my ($first, $second, $third);

	fill($s, 'cora');
	$first = pull($s, 'c1', undef, 'cora', 3)->{cursor};
	move($here, $there, 'cora');
	$t->upload('there', 'cora', document('there', 1, 1));
	$second = pull($t, 'c2', undef, 'cora', 3)->{cursor};
	is(move($there, $here, 'cora'), 0, 'cora moves back');
	$s->upload('here', 'cora', document('here again', 1, 1));
	$third = pull($s, 'c3', undef, 'cora', 3)->{cursor};
	is_deeply([ map { told($_) . scalar @{ $_->{documents} } } pull($s, 'c1', $first, 'cora'), pull($s, 'c2', $second, 'cora'), pull($s, 'c3', $third, 'cora') ], [ 29, 29, 29 ], 'cursors of each time go on');
	is(move($here, $there, 'cora'), 0, '... and again');
	is_deeply([ map { told($_) . scalar @{ $_->{documents} } } pull($t, 'c1', $first, 'cora'), pull($t, 'c2', $second, 'cora'), pull($t, 'c3', $third, 'cora') ], [ 29, 29, 29 ], 'cursors of each time go on there');
	is($t->value(q{SELECT cardinality(epochs) FROM docsync.moved WHERE collection = 'cora'}), $s->value('SELECT count(*) FROM docsync.history') + 3, 'its line has each of them');
	return;
}

# A loss at one server is known at the next.
sub is_lost_elsewhere
{
	fill($s, 'dora');
	my $before = pull($s, 'c1', undef, 'dora')->{cursor};
	move($here, $there, 'dora');
	my $between = pull($t, 'c2', undef, 'dora')->{cursor};
	my $other = pull($s, 'c2', undef, 'ben')->{cursor};

	$t->do('SELECT docsync_new_epoch()');
	my $after = pull($t, 'c3', undef, 'dora')->{cursor};
	move($there, $here, 'dora');
	is_deeply([ map { told(pull($s, @$_)) } [ 'c1', $before, 'dora' ], [ 'c2', $between, 'dora' ], [ 'c3', $after, 'dora' ], [ 'c2', $other, 'ben' ] ],
		[ 'lost', 'lost', '', '' ], 'who was there before the loss is told, after it has moved, and nobody else');
	cmp_ok(pull($s, 'c1', $before, 'dora')->{lostAfter}, 'gt', '2', '... and up to when nothing can have been lost');
	return;
}

# The new server is restored from a backup that it wasn't in yet, or was; the
# whole store moves afterwards.
sub is_restored
{
	fill($s, 'emma');
	my $before = pull($s, 'c1', undef, 'emma')->{cursor};
	clone('postgres', 'early');
	move($here, $there, 'emma');
	my $after = pull($t, 'c2', undef, 'emma')->{cursor};
	clone('postgres', 'late');

	my $late = connect_to($there, 'late');
	$late->upload('late', 'others', document('late', 1, 1));
	is_deeply([ map { told($_) } pull($late, 'c1', $before, 'emma'), pull($late, 'c2', $after, 'emma') ], [ 'lost', 'lost' ], 'restored as it was after the move: they are told, as by any restore');
	$late->close;

	my $early = connect_to($there, 'early');
	$early->upload('early', 'others', document('early', 1, 1));
	is(told(my $page = pull($early, 'c2', $after, 'emma')), 'lost', 'restored as it was before: they are told');
	is($page->{lostAfter}, '-infinity', '... that anything can have been lost');

	# What the old server still has can be brought again.
	is(run_move('emma', $here->connstr('postgres'), $there->connstr('early')), 0, 'it is moved there once more');
	is($early->value(q{SELECT count(*) FROM docsync.document WHERE collection = 'emma'}), 30, '... and what the old server has is there');
	is_deeply([ map { told($_) } pull($early, 'c1', $before, 'emma'), pull($early, 'c2', $after, 'emma') ], [ '', 'lost' ], 'who was never at the new server goes on, who was is told');

	# The new server is lost for good: the old one has what it had.
	fill($s, 'hal');
	my $ours = pull($s, 'c1', undef, 'hal')->{cursor};
	move($here, $there, 'hal');
	$after = pull($t, 'c2', undef, 'hal')->{cursor};
	$s->do(q{UPDATE docsync.moved SET state = 'arriving' WHERE collection = 'hal'}, q{SELECT docsync_move_take_over(ticket) FROM docsync.moved WHERE collection = 'hal'});
	is_deeply([ map { told($_) } pull($s, 'c1', $ours, 'hal'), pull($s, 'c2', $after, 'hal') ], [ '', 'lost' ], 'opened again at the old server: who was at the new one is told');

	# A store that collections have come to is handed over.
	$early->do(q{SELECT docsync_hand_over()});
	$early->close;
	clone('early', 'handed_over');
	my $new = connect_to($there, 'handed_over');
	$new->do('SELECT docsync_take_over()');
	is(told(pull($new, 'c1', $before, 'emma')), '', 'a store that it had moved to is handed over: they go on');
	$new->close;
	return;
}

# What comes too early, too late, twice, or isn't what was handed over
sub moves_on
{
	my $ticket;

	fill($s, 'fay');
	fill($t, 'gil');
	is($s->sqlstate_of(q{SELECT docsync_move_hand_over('fay')}), '55000', 'what is open is not handed over');
	is($t->sqlstate_of(q{SELECT docsync_move_in('gil')}), '55000', 'nothing comes where there are documents');
	is($t->sqlstate_of(q{SELECT docsync_move_in('cora')}), '55000', '... or what is there already');
	is($s->sqlstate_of(q{SELECT docsync_move_out('cora/part')}), '55000', 'no part of what has moved moves');
	is($s->sqlstate_of(q{SELECT docsync_move_out(NULL)}), '22004', 'it has a name');
	is($s->sqlstate_of(q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT docsync_move_out('fay')}), '55000', 'it is of now');
	$s->do('ROLLBACK', q{SELECT docsync_move_out('fay')});
	is($s->sqlstate_of(q{DELETE FROM docsync.document WHERE collection = 'fay'}), '55000', 'what may stay is not deleted');
	$ticket = $s->value(q{SELECT docsync_move_hand_over('fay')});
	is($s->value(q{SELECT docsync_move_hand_over('fay')}), $ticket, 'the ticket is the same whenever it is asked for');
	is($s->sqlstate_of(q{SELECT docsync_move_back('fay')}), '55000', 'what is let go is not taken back');

	is($t->sqlstate_of("SELECT docsync_move_take_over('$ticket')"), '55000', 'what is not awaited is not opened');
	$t->do(q{SELECT docsync_move_in('fay')});
	is($t->sqlstate_of("SELECT docsync_move_take_over('$ticket')"), '55000', 'nor what has not come');
	like($t->errstr, qr/There are 0, and 40 were/, '... which is said');
	is($t->sqlstate_of(q{SELECT docsync_pull('c1', NULL, 'fay')}), '55000', '... nor read');
	$t->do(q{SELECT docsync_move_back('fay')});
	is(pull($t, 'c1', undef, 'fay')->{more}, JSON::PP::false, 'it is not awaited any more');
	is(run_move('fay', $here->connstr('postgres'), $there->connstr('postgres')), 0, 'it moves all the same');
	is($t->sqlstate_of("SELECT docsync_move_take_over('$ticket')"), '', 'it is opened once');
	is($t->value(q{SELECT count(*) FROM docsync.document WHERE collection = 'fay'}), 30, '... and whole');
	return;
}

# A move that is run again when the collection has gone on from there to a third server doesn't open it twice.
sub has_gone_on
{
	$there->safe_psql('postgres', 'CREATE DATABASE third');
	$there->safe_psql('third', 'CREATE EXTENSION docsync; SELECT docsync_create_store()');
	my $third = connect_to($there, 'third');
	my @places = ($here->connstr('postgres'), $there->connstr('postgres'), $there->connstr('third'));
	my $states = sub { join ' ', map { $_->value(q{SELECT state FROM docsync.moved WHERE collection = 'otto'}) } $s, $t, $third };

	fill($s, 'otto');
	is(run_move('otto', @places[ 0, 1 ]), 0, 'otto moves');
	$t->do(q{UPDATE docsync.document SET body = '"new"' WHERE (collection, id) = ('otto', 'd1')});
	is(run_move('otto', @places[ 1, 2 ]), 0, '... and on');
	my $ticket = $s->value(q{SELECT docsync_move_hand_over('otto')});
	isnt(run_move('otto', @places[ 0, 1 ]), 0, 'the first move, run again, is refused');
	is($states->(), 'gone gone here', '... nothing is opened');
	is($t->value(q{SELECT body FROM docsync.document WHERE (collection, id) = ('otto', 'd1')}), '"new"', '... nor deleted');
	is($t->sqlstate_of("SELECT docsync_move_take_over('$ticket')"), '55000', 'nor does its ticket open it');
	like($t->errstr, qr/collection "otto" has come here with this ticket before/, '... for which there is a reason');
	$t->do(q{SELECT docsync_move_in('otto')});
	like($t->sqlstate_of("SELECT docsync_move_take_over('$ticket')") . $t->errstr, qr/55000.*with this ticket before/s, '... where it is awaited, too');
	$t->do(q{SELECT docsync_move_back('otto')});
	is(run_move('otto', @places[ 2, 1 ]), 0, 'it moves back from where it is');
	is(run_move('otto', @places[ 1, 0 ]), 0, '... and back again');
	is($states->(), 'here gone gone', '... to where it was');
	$third->close;
	return;
}

sub rights
{
	$s->do('CREATE ROLE user_of_store LOGIN', q{SELECT docsync_grant('user_of_store')}, 'SET ROLE user_of_store');
	is($s->sqlstate_of("SELECT $_"), '42501', "the owner's alone: $_")
	  for q{docsync_move_out('ben')}, q{docsync_move_in('x')}, q{docsync_move_back('ben')}, q{docsync_move_hand_over('anna')}, q{docsync_move_take_over('{"collection": "x"}')}, q{docsync_move_wait('ben')},
	  q{docsync_move_begin('ben', NULL)}, q{count(*) FROM docsync.moved};
	is($s->sqlstate_of(q{SELECT docsync_pull('c1', NULL, 'anna')}), '55000', 'who may read is told that it has moved');
	$s->do('RESET ROLE', 'DROP OWNED BY user_of_store', 'DROP ROLE user_of_store');

	# What the owner has written there himself ends no server.
	for my $set (q{epochs = '{}', survived = ARRAY[now()]}, q{epochs = ARRAY[NULL::bigint]}, q{epochs = '{{1,2},{3,4}}'}, q{clocks = '{}'})
	{
		is($t->sqlstate_of("BEGIN; UPDATE docsync.moved SET $set WHERE collection = 'anna'; SELECT docsync_pull('c1', NULL, 'anna')"), '55000', "refused: $set");
		$t->do('ROLLBACK');
	}
	return;
}

# As the owners, who are no superusers; with names, columns and contents that have
# to be quoted
sub as_owner
{
	my $name = q{o'neil \x/"};
	my @databases = map { my $node = $_; $node->safe_psql('postgres', 'CREATE ROLE owner LOGIN'); $node->safe_psql('postgres', 'CREATE DATABASE owned OWNER owner'); $node } $here, $there;

	for my $node (@databases)
	{
		$node->safe_psql('owned', q{CREATE EXTENSION docsync; SELECT docsync_create_store();
			ALTER TABLE docsync.document ADD "a tag" text DEFAULT 'none', ADD shout text GENERATED ALWAYS AS (upper(id)) STORED}, extra_params => [ '-U', 'owner' ]);
	}
	my ($from, $to) = map { connect_to($_, 'owned') } @databases;
	$from->upload('c', $name, document('d', 1, q{"x\\ny\\t'"}), document(q{a' \\\\ b}, 1, 'null'));
	$from->do(q{UPDATE docsync.document SET "a tag" = E'tab\there'});
	my @owned = map { $_->connstr('owned') . ' user=owner' } $here, $there;
	$here->safe_psql('owned', 'REVOKE EXECUTE ON FUNCTION docsync_move_hand_over FROM PUBLIC');
	isnt(run_move($name, @owned), 0, 'what cannot be handed over does not move');
	is_deeply([ map { $_->value('SELECT count(*) FROM docsync.moved') } $from, $to ], [ 0, 0 ], '... and is open as before');
	$here->safe_psql('owned', 'GRANT EXECUTE ON FUNCTION docsync_move_hand_over TO PUBLIC');
	# PostgreSQL 19 has no other strings any more.
	$here->safe_psql('postgres', "ALTER DATABASE owned SET $_") for q{datestyle = 'SQL, DMY'}, 'intervalstyle = sql_standard', $here->pg_version->major < 19 ? 'standard_conforming_strings = off' : ();
	is(run_move($name, @owned), 0, 'it moves as the owner, whatever is to be quoted, and set');
	is_deeply($to->rows('SELECT * FROM docsync.document ORDER BY id'), $from->rows('SELECT * FROM docsync.document ORDER BY id'), '... and all is there as it was');
	is($to->value('SELECT count(*) FROM docsync.document'), 2, '... both of them');
	$_->close for $from, $to;
	return;
}

# What lost moves along, and the rules by which it is kept.
sub what_lost
{
	my $all = q{SELECT collection, id, recorded_utc, client_version, client_id, deleted, body, why FROM docsync.record WHERE collection IN ('ida', 'ida/notes') ORDER BY 1, 2, 3};
	my $edit = sub { my ($session, $version) = @_; $session->upload('other', $_, document('d1', $version, $version)) for 'ida', 'ida/notes', 'ida/new' };

	$s->do(q{INSERT INTO docsync.keep (pattern, keep, most) VALUES ('id_', 'replaced', 7), ('ida/notes', 'discarded', 5), ('ida/%', 'replaced', 6), ('ken', 'none', 1), ('nell', 'replaced', 1)});
	$t->do(q{INSERT INTO docsync.keep (pattern, keep) VALUES ('k%', 'replaced'), ('ida/notes', 'none')});
	fill($s, $_) for qw(ida ken leo);
	$edit->($s, $_) for 2, 3, 0;
	$s->upload('other', 'nell', document('d1', $_, $_)) for 1, 2;
	$s->do(q{UPDATE docsync.record SET recorded_utc = recorded_utc - interval '1 hour'});	# the clock is ahead of what is purged
	my $lost = $s->rows($all);
	is(scalar @$lost, 4, 'versions have lost');

	# One more does while it is copied: before it is closed, after the first copy
	is(run_move_with(sub { $edit->($s, 4) }, 'ida', map { $_->connstr('postgres') } $here, $there), 0, 'ida moves');
	is(move($here, $there, $_), 0, "$_ moves") for qw(ken leo);
	cmp_ok(scalar @{ $s->rows($all) }, '>', 4, 'others have lost meanwhile');
	is_deeply($t->rows($all), $s->rows($all), 'what lost is there, with the time when it did');
	is_deeply($t->rows('SELECT pattern, keep, most FROM docsync.keep ORDER BY 1'),
		[ [ 'ida', 'replaced', 7 ], [ 'ida/%', 'replaced', 6 ], [ 'ida/notes', 'discarded', 5 ], [ 'k%', 'replaced', 10 ], [ 'ken', 'none', 1 ], [ 'ken/%', 'none', 10 ] ],
		'its rules are there, and what broader ones came to, where that is something else');
	my $count = @{ $t->rows($all) };
	$edit->($t, 9);
	$edit->($t, 0);
	is(scalar @{ $t->rows($all) }, $count + 1, 'what loses there is kept as before');

	$s->do("CALL docsync_purge('0')");
	is(scalar @{ $s->rows($all) }, $count, 'what the old server still has is not purged');
	is($s->value(q{SELECT count(*) FROM docsync.record WHERE collection = 'nell'}), 0, '... where that of another collection is');
	is(run_move('-e', 'ida', $here->connstr('postgres')), 0, 'it is deleted there');
	is(scalar @{ $s->rows($all) }, 0, '... with what lost');

	# Without all of that it is not opened.
	fill($s, 'mia');
	$s->do(q{INSERT INTO docsync.keep (pattern, keep) VALUES ('mia', 'replaced')}, q{UPDATE docsync.document SET body = '2' WHERE (collection, id) = ('mia', 'd1')});
	$s->do(q{SELECT docsync_move_out('mia')});
	my $ticket = $s->value(q{SELECT docsync_move_hand_over('mia')});
	$t->do(q{SELECT docsync_move_in('mia')});
	$t->do(sprintf 'COPY docsync.document FROM PROGRAM $$psql -X -d "%s" -c "COPY (SELECT * FROM docsync.document WHERE collection IN (\'mia\', \'mia/notes\')) TO STDOUT"$$', $here->connstr('postgres'));
	is($t->sqlstate_of("SELECT docsync_move_take_over('$ticket')"), '55000', 'without what lost it is not opened');
	like($t->errstr, qr/There are 40, and 40 were; in docsync.record 0, and 1 were/, '... which is said');
	is(move($here, $there, 'mia'), 0, '... the mover brings it');
	return;
}

# Repair is refused where the collection is not, and right where it is.
sub is_repaired
{
	for my $sql (q{CALL docsync_erase('leo%')}, q{SELECT docsync_restamp('leo', '{d1}')}, q{SELECT docsync_rebase('leo', 'd1')}, q{SELECT * FROM docsync_digest('leo')})
	{
		is($s->sqlstate_of($sql), '55000', "refused: $sql");
		like($s->errstr, qr/collection (?:"leo" )?has been moved/, '... for that');
	}
	is($s->value('SELECT count(*) FROM docsync.document WHERE collection = ? AND NOT deleted', 'leo'), 30, '... and nothing has happened');
	is($s->sqlstate_of(q{CALL docsync_erase('ida%')}), '', 'where nothing is left there is nothing to be erased');

	# Nothing of this is written, so that only docsync_erase() can refuse it.
	$s->do(q{INSERT INTO docsync.keep (pattern, keep) VALUES ('pia', 'replaced')});
	$s->upload('other', 'pia', document('d1', $_, $_)) for 1, 2;
	$s->do(q{DELETE FROM docsync.document WHERE collection = 'pia'});
	is(move($here, $there, 'pia'), 0, 'pia moves, of whom only tombstones are left, and what lost');
	is($s->sqlstate_of(q{CALL docsync_erase('pia', true)}), '55000', '... what is left of that is not erased');
	is_deeply($s->rows(q{SELECT (SELECT count(*) FROM docsync.document WHERE collection = 'pia'), (SELECT count(*) FROM docsync.record WHERE collection = 'pia')}), [ [ 1, 2 ] ], '... but is there');

	# leo and mia come back: their fences are of the other server, and above any here.
	$t->upload('there', $_, document('d30', 2, 30)) for qw(leo leo/notes);
	is(move($there, $here, $_), 0, "$_ moves back") for qw(leo mia);
	my $writer = connect_to($here);
	$writer->do('BEGIN');
	$writer->upload('w', $_, document('w', 1, 1)) for qw(leo leo/notes);
	is_deeply($s->rows(q{SELECT documents, settled FROM docsync_digest('leo')}), [ [ 30, 1 ] ], 'back again it is settled, whoever writes there now');
	is($s->value(q{SELECT count(*) FROM docsync_collections() WHERE collection LIKE 'leo%' AND frontier = last_update_utc}), 2, '... as far as operators are told');
	$writer->do('ROLLBACK');
	$writer->close;
	my $cursor = pull($s, 'c1', undef, 'leo')->{cursor};
	is($s->value(q{SELECT docsync_restamp('leo', '{d1}')}), 1, 'a document is delivered again');
	is($s->value(q{SELECT docsync_rebase('leo', 'd2', 7)}), 7, '... or gets another version');
	is($s->value(q{SELECT docsync_restore('mia', 'd1', 1) > 1}), 1, '... or is brought back from what lost elsewhere');
	is_deeply([ map { $_->{id} } @{ pull($s, 'c1', $cursor, 'leo')->{documents} } ], [qw(d1 d2)], '... which clients get');
	$s->do(q{CALL docsync_erase('leo%')});
	is(told(my $page = pull($s, 'c1', $cursor, 'leo')), 'purged', 'erased: a client is told to compare');
	is($s->value(q{SELECT count(*) FROM docsync.document WHERE collection LIKE 'leo%' AND NOT deleted}), 0, '... and nothing is left');
	return;
}

# What has not come to its end, or left something behind, is said to operators.
sub is_watched
{
	my $attention = sub { join "\n", $_[0]->column('SELECT unnest(attention) FROM docsync_status()') };

	fill($s, 'nora');
	unlike($attention->($s) . $attention->($t), qr/nora/, 'nothing is on its way');
	$t->do(q{SELECT docsync_move_in('nora')});
	$s->do(q{SELECT docsync_move_out('nora')});
	unlike($attention->($s) . $attention->($t), qr/nora/, '... or has been for long');
	$_->do(q{UPDATE docsync.moved SET changed = changed - interval '1 hour' WHERE collection = 'nora'}) for $s, $t;
	like($attention->($s), qr/^Closed since \S+ \S+ \(01:00:.*"nora".*docsync_move_back\('nora'\)/m, 'closed for long where it leaves: what to do');
	like($attention->($t), qr/^Awaited from another server since \S+ \S+ \(01:00:.*"nora".*docsync_move_back\('nora'\)/m, '... and where it arrives');
	is(move($here, $there, 'nora'), 0, 'run again it moves');
	like($attention->($s), qr/^Moved to another server since .*here: .*(?:"nora"| and \d+ more)\. When they are open at that server, whose docsync\.moved then says "here", and it has been backed up, delete them: examples\/shards\/move -e /m, 'what is left of it is named') or diag $attention->($s);
	$s->do('CREATE ROLE watcher LOGIN IN ROLE pg_monitor', 'SET ROLE watcher');
	like($attention->($s), qr/^Moved to another server since/m, '... to who monitors, too');
	is($s->value(q{SELECT state FROM docsync_moves() WHERE collection = 'nora' AND has_documents}), 'gone', '... one by one');
	$s->do('RESET ROLE', 'DROP ROLE watcher');
	is(run_move('-e', $_, $here->connstr('postgres')), 0, "$_ is deleted") for $s->column(q{SELECT collection FROM docsync_moves() WHERE state = 'gone' AND has_documents});
	unlike($attention->($s), qr/Moved to another server/, '... nothing is left to be done');
	return;
}

# Who writes for long is found before anything is closed.
sub is_held
{
	my $writer = connect_to($here);
	fill($s, 'held');
	$writer->do('BEGIN', q{SELECT FROM docsync_upsert('w', '[{"id": "w", "clientVersion": 1, "body": 1}]', 'whichever')});
	isnt(move($here, $there, 'held'), 0, 'with a transaction that does not end it fails');
	is(is_open($s, 'held'), 1, '... and nothing has been closed');
	$writer->do('COMMIT');
	is(move($here, $there, 'held'), 0, '... when it has ended, it moves');
	return;
}

#-----------------------------------------------------------------------------

# 30 documents in a collection, and some in one below it
sub fill
{
	my ($session, $collection) = @_;

	$session->upload('filler', $collection, map { document("d$_", 1, $_) } 1 .. 30);
	$session->upload('filler', "$collection/notes", map { document("d$_", 1, $_) } 1 .. 10) if $collection ne 'ben' && $collection ne 'others';
	return;
}

sub pull
{
	my ($session, $client, $cursor, $collection, $max) = @_;

	return $JSON->decode($session->value('SELECT docsync_pull(?, ?, ?, NULL, ?, reconcile => true)', $client, $cursor, $collection, $max // 1000));
}

# What a page tells its client
sub told
{
	my ($page) = @_;

	return $page->{behind} ? 'behind' : !$page->{reconcile} ? '' : defined $page->{lostAfter} ? 'lost' : 'purged';
}

sub is_open
{
	my ($session, $collection) = @_;

	return $session->sqlstate_of("SELECT docsync_pull('c1', NULL, '$collection')") eq '' ? 1 : 0;
}

sub move
{
	my ($from, $to, $collection) = @_;

	return run_move($collection, map { $_->connstr('postgres') } $from, $to);
}

sub run_move
{
	return PostgreSQL::Test::Utils::system_log("$ENV{TESTDIR}/examples/shards/move", @_);
}

# The same, with something done each time before it is asked what has changed
sub run_move_with
{
	my ($code, @arguments) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my ($psql) = grep { -x } map { "$_/psql" } split /:/, $ENV{PATH};

	append_to_file("$dir/psql", qq(#!/bin/bash\nexec 9>$dir/lock; flock 9; echo >>$dir/calls\nif [ \$(wc -l <$dir/calls) = 15 ]; then touch $dir/now; while [ -e $dir/now ]; do sleep 0.01; done; fi\nexec 9>&-\nexec $psql "\$@"\n));
	chmod 0755, "$dir/psql";
	my $pid = do
	{
		local $ENV{PATH} = "$dir:$ENV{PATH}";
		in_child(sub { exec "$ENV{TESTDIR}/examples/shards/move", @arguments });
	};
	wait_for('the mover', sub { -e "$dir/now" });
	$code->();
	unlink "$dir/now";
	waitpid $pid, 0;
	return $?;
}

# A copy of a database of there's, as a backup is
sub clone
{
	my ($from, $to) = @_;

	$t->close;
	$there->safe_psql('template1', qq{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '$from'});
	$there->poll_query_until('template1', qq{SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = '$from'});
	$there->safe_psql('template1', qq{CREATE DATABASE "$to" TEMPLATE "$from"});
	$t = connect_to($there);
	return;
}
