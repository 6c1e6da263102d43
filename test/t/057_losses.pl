# What a service loses, its clients bring back: one way of losing after the
# other, each with its own collection.
#
# A primary and an asynchronous standby; what is committed after cut() never
# reaches the standby, which is promoted when the primary has been killed.  The
# clients are those of examples/demo.  In the end each has what the service has,
# nothing that a client had is missing unless somebody deleted it, and no client
# makes more requests than it should.
#
# DOCSYNC_CASE: a pattern; only the cases whose names match are run.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use DocsyncTest::Clients;
use DocsyncTest::Failover;
use DocsyncTest::Http;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $HOUR = 3_600_000;    # milliseconds
my $DAYS = 86_400;
my $service = DocsyncTest::Failover->new;
my $case = 0;
my $collection;

# This comes first: signal handlers don't see the faked clock, so timeouts would be late by
# the difference.
case('prepared transactions across a promotion', \&prepared_transactions);
case('two overlapping uploads at the fork', \&overlapping_uploads);
case('an own upload that no download has passed', \&own_upload);
case('the same, and nothing was there before', \&own_upload_into_nothing);
case('an upload whose answer died with the primary', \&unanswered_upload);
case('a deletion received from the lost future', \&received_deletion);
case('a document created and deleted in the lost future', \&created_and_deleted);
case('version 0 on both sides', \&version_zero);
case('two epochs since', \&two_epochs);
case('a page in the midst', \&page_in_the_midst);
case('a reader between promotion and the first upload', \&reader_before_the_first_upload);
case('a first upload by POST /Docs alone', \&first_upload_by_docs);
case('a load balancer with a lagging standby', \&load_balancer);
case("a purge before the loss, $_", \&purge_and_loss, $_ eq 'that is lost with it') for 'that survives', 'that is lost with it';
case('a purge after the loss', \&purge_after_the_loss);
case('an edit made while marks wait', \&edit_while_marks_wait);
case('a hot collection', \&hot_collection);
case('a document that the client may no longer see', \&hidden_document);
case('the old primary lives on', \&old_primary_lives_on);
case('a failover of many clients without a loss', \&many_clients);
done_testing();

#-----------------------------------------------------------------------------

sub case
{
	my ($name, $code, @arguments) = @_;

	$case++;
	return if $ENV{DOCSYNC_CASE} && $name !~ /$ENV{DOCSYNC_CASE}/;
	$collection = "anna/case$case";
	subtest $name => sub { $code->(@arguments) };
	return;
}

# A client of the case's collection
sub client
{
	my ($name, %options) = @_;

	return DocsyncTest::Clients->new("$case $name", $service->http, $collection, %options);
}

# By another client
sub upload
{
	my (@documents) = @_;

	return $service->session->upload('somebody', $collection, @documents);
}

# Removes all tombstones but the newest, one or two.  The first ones of an epoch
# are ahead of the clock.
sub purge
{
	$service->later(100);
	$service->session->do("CALL docsync_purge('0', '$collection')");
	return cmp_ok($service->session->value('SELECT count(*) FROM docsync.document WHERE collection = ? AND deleted', $collection), '<=', 2, 'a purge');
}

# Everybody is online until nobody has anything left to do.
sub in_step
{
	my (@clients) = @_;

	for my $client ((@clients) x 2)
	{
		is($client->sync, '', 'a sync');
	}
	return;
}

# Soon each client has what the service has, and nothing is left to do.
sub agree
{
	my (@clients) = @_;

	$_->log for @clients;
	for (1 .. 4)
	{
		is($_->sync, '', "$_->{name} syncs") for @clients;
	}
	for my $client (@clients)
	{
		my $log = $client->log;

		cmp_ok(scalar @$log, '<=', 20, "$client->{name} doesn't ask too often");
		note join "\n", @$log;
		$client->compare;
		is($client->sync, '', "$client->{name} compares");
		is_deeply($client->log, ['pull: equal'], "$client->{name} and the service are equal, by their digests");
		is_deeply($client->content, content(), "by their documents");
		is_deeply($client->unsent, [], 'and nothing is unsent');
	}
	return;
}

# The service's live documents
sub content
{
	return DocsyncTest::Http::value_of({ content => $service->session->value(
		q{SELECT coalesce(json_object_agg(id, json_build_array(client_version, body)), '{}') FROM docsync.document
		   WHERE collection = ? AND NOT deleted}, $collection) });
}

sub ids { return join ' ', sort keys %{ $_[0] } }

sub stamp_of { return $service->session->stamp_of($collection, $_[0]) }

sub horizon
{
	return $service->session->value(
		'SELECT (extract(epoch FROM last_update_utc) * 1000000)::bigint FROM docsync.purged WHERE collection = ?', $collection);
}

sub epochs { return $service->session->value('SELECT count(DISTINCT epoch) FROM docsync.history') }

# Commits aren't in the order of stamps: of two documents, the one with the
# later stamp survives.
sub overlapping_uploads
{
	my $reader = client('reader');
	my $early = $service->http->session;

	$early->do('BEGIN');
	my ($lost) = $early->upload('early', $collection, document('early', 1, '"early"'));
	upload(document('late', 1, '"late"'), map { document("z$_", 1) } 1 .. 4);
	$service->cut;
	$early->do('COMMIT');
	$early->close;
	is($reader->sync, '', 'a client syncs');
	is(ids($reader->content), 'early late', 'and has both');

	$service->fail_over;
	is(ids(content()), 'late', 'the later one survives');
	cmp_ok(stamp_of('late'), '>', $lost->{stamp}, 'with the later stamp');
	purge();
	cmp_ok(horizon(), '>', $lost->{stamp}, 'and tombstones with later stamps yet are purged');
	agree($reader);
	is(ids(content()), 'early late', 'the client has brought back the earlier one');
	return;
}

sub own_upload
{
	my ($author, $other) = (client('author'), client('other'));

	$author->put(first => 1);
	in_step($author, $other);
	$service->cut;
	$author->put_all({ own => 2, first => 2 });
	is($author->upload, '', 'an upload, and no download');

	$service->fail_over;
	upload(document("z$_", 1)) for 1 .. 4;
	purge();
	agree($other, $author, $other);
	is_deeply({ map { $_ => $other->get($_) } 'own', 'first' }, { own => 2, first => 2 }, 'all that was uploaded is there');
	return;
}

# Then the cursor has passed nothing.
sub own_upload_into_nothing
{
	my $author = client('author');

	is($author->sync, '', 'there is nothing');
	$service->cut;
	$author->put(own => 1);
	is($author->upload, '', 'an upload, and no download');

	$service->fail_over;
	upload(document("z$_", 1)) for 1 .. 4;
	purge();
	$author->log;
	is($author->sync, '', 'a sync');
	like($author->log->[0], qr/told/, 'it is told to compare');
	agree($author);
	is($author->get('own'), 1, 'what was uploaded is there');
	return;
}

sub unanswered_upload
{
	my $author = client('author');

	$author->put(survives => 1);
	$author->cut(0, JSON::PP::false);
	is($author->sync, 'ConnectionError', 'no answer');
	is(ids(content()), 'survives', 'but an upload');
	$service->cut;
	$author->put(lost => 1);
	$author->cut(0, JSON::PP::false);
	is($author->sync, 'ConnectionError', 'no answer');
	is(ids(content()), 'lost survives', 'but an upload');

	$service->fail_over;
	$author->mend;
	$author->log;
	is($author->sync, '', 'a sync');
	is($author->log->[0], 'upload: survives unchanged lost created', 'sends both again');
	agree($author);
	return;
}

sub received_deletion
{
	my @clients = my ($author, $deleter, $other) = map { client($_) } qw(author deleter other);

	$author->put_all({ map { $_ => 'live' } qw(stays deleted new) });
	in_step(@clients);
	$service->cut;
	$deleter->delete('deleted');
	$deleter->delete('new');
	in_step($deleter, $other);
	is(ids($other->content), 'stays', 'the deletion has been received');

	# The client that deleted it stays away.
	$service->fail_over;
	is(ids(content()), 'deleted new stays', 'and is lost');
	$author->put(new => 'edited');
	agree($author, $other);
	is(ids(content()), 'new stays', 'who received it has brought it back, and has taken what is newer');
	agree(@clients);
	return;
}

sub created_and_deleted
{
	for my $first (qw(reader author))
	{
		my %clients = map { $_ => client("$_, $first") } qw(author reader);

		in_step(values %clients);
		$service->cut;
		$clients{author}->put("short, $first" => 1);
		in_step(@clients{qw(author reader)});
		$clients{author}->delete("short, $first");
		$clients{author}->put("long, $first" => 1);
		is($clients{author}->sync, '', 'deleted again');
		ok(defined $clients{reader}->get("short, $first"), 'and one has not heard of it');

		$service->fail_over;
		agree($clients{$first});
		agree(values %clients);
		is($clients{$_}->get("short, $first"), undef, "first $first: it is deleted at the $_") for sort keys %clients;
		is($clients{$_}->get("long, $first"), 1, "first $first: and not what wasn't") for sort keys %clients;
	}
	return;
}

# Version 0 doesn't tell which document is newer, and any other version replaces
# it.
sub version_zero
{
	my @clients = my ($author, $editor) = (client('author'), client('editor'));

	$author->put_zero($_ => 'before') for qw(kept replaced edited);
	in_step(@clients);
	$service->cut;
	$author->put_zero($_ => 'lost') for qw(kept replaced edited new);
	in_step(@clients);
	is($editor->get('kept'), 'lost', 'an edit has been received');

	$service->fail_over;
	is(content()->{kept}[1], 'before', 'and is lost');
	upload(document('replaced', 0, '"here"'));
	$editor->put_zero(edited => 'edited');
	agree(@clients);
	is_deeply({ map { $_ => $author->get($_) } qw(kept replaced edited new) },
		{ kept => 'lost', replaced => 'here', edited => 'edited', new => 'lost' },
		'what was lost is back, unless it was written again');
	return;
}

sub two_epochs
{
	my ($sleeper, $other) = (client('sleeper'), client('other'));

	$sleeper->put(base => 1);
	in_step($sleeper, $other);
	$service->cut;
	$sleeper->put(first => 1);
	is($sleeper->sync, '', 'it has an upload that the first failover loses');

	$service->fail_over;
	upload(document('between', 1, '1'), map { document("z$_", 1) } 1 .. 4);
	purge();
	in_step($other);
	$service->cut;
	$other->put(second => 1);
	is($other->sync, '', 'another has one that the second loses');

	$service->fail_over;
	upload(document('after', 1, '1'), map { document("z$_", 2) } 5 .. 8);
	purge();
	agree($sleeper, $other, $sleeper);
	is(ids(content()), 'after base between first second', 'both are back');
	return;
}

sub page_in_the_midst
{
	my ($reader, $other) = (client('reader'), client('other'));

	upload(map { document("a$_", 1, '1') } 1 .. 3);
	$service->cut;
	upload(map { document("b$_", 1, '1') } 1 .. 6);
	$reader->page(5);
	$reader->cut(1);
	is($reader->sync, 'ConnectionError', 'a download breaks off');
	is(ids($reader->content), 'a1 a2 a3 b1 b2', 'after its first page');

	$service->fail_over;
	upload(map { document("c$_", 1, '1') } 1 .. 7);
	$reader->mend;
	agree($other, $reader, $other);
	is(ids(content()), 'a1 a2 a3 b1 b2 c1 c2 c3 c4 c5 c6 c7', 'what it had got is there');
	return;
}

# Nobody has noticed yet that a standby was promoted.
sub reader_before_the_first_upload
{
	my @clients = my ($here, $ahead, $new) = map { client($_, waits => { primary => 60_000 }) } qw(here ahead new);

	upload(document('a', 1, '1'));
	in_step($here, $ahead);
	$service->cut;
	sleep 1.5;    # beyond what the standby knows of the clock
	upload(document('b', 1, '1'));
	is($ahead->sync, '', 'one gets further than the standby');
	$_->log for @clients;

	my $epochs = epochs();
	$service->fail_over;
	is($_->sync, '', "$_->{name} syncs") for @clients;
	is_deeply([ map { $_->log } @clients ], [ ['pull:'], ['pull: behind'], ['pull: a'] ], 'they are given nothing wrong');
	is(ids($_->content), $_ == $ahead ? 'a b' : 'a', "$_->{name} keeps what it has") for @clients;
	is(epochs(), $epochs, 'no epoch has begun');

	# Without an upload, but by a request that could have one
	$ahead->later(60_000);
	is($ahead->sync, '', 'a minute later');
	is_deeply($ahead->log, ['pull: told'], 'who was ahead asks once more');
	is(epochs(), $epochs + 1, 'and an epoch begins');
	upload(document('c', 1, '1'));
	is($_->sync, '', "$_->{name} syncs") for $here, $new;
	is_deeply([ map { $_->log->[0] } $here, $new ], [ ('pull: c, told') x 2 ], 'the others are told');
	agree(@clients);
	is(ids(content()), 'a b c', 'all is back');
	return;
}

sub first_upload_by_docs
{
	my $reader = client('reader');
	my $epochs = epochs();

	upload(document('a', 1, '1'));
	$service->cut;
	upload(document('b', 1, '1'));
	in_step($reader);

	$service->fail_over;
	my $answer = $service->http->post("/Docs?clientId=other&collection=$collection", [ { id => 'c', clientVersion => 1, body => 1 } ]);
	is($answer->{status}, 200, 'POST /Docs');
	is(epochs(), $epochs + 1, 'an epoch has begun');
	$reader->log;
	is($reader->sync, '', 'a reader syncs');
	is($reader->log->[0], 'pull: c, told', 'and is told');
	agree($reader);
	is(ids(content()), 'a b c', 'what was lost is back');
	return;
}

# GET requests go to a standby, which may lag, POST requests to the primary.
sub load_balancer
{
	$service->add_standby unless $service->standby;
	my ($standby, $session) = (connect_to($service->standby), $service->session);
	my $reader = DocsyncTest::Http->new($service->standby, PGRST_DB_CHANNEL_ENABLED => 'false');
	my @clients = my ($phone, $tablet) = map { client($_, read_url => $reader, waits => { primary => 60_000 }) } qw(phone tablet);

	$phone->put(a => 1);
	is($phone->upload, '', 'an upload');
	replayed($session, $standby);
	in_step(@clients);
	is($tablet->get('a'), 1, 'a download by a standby');

	$standby->do('SELECT pg_wal_replay_pause()');
	$phone->put(b => 1);
	is($phone->sync, '', 'the standby lags');
	$tablet->move_to($service->http);
	is($tablet->sync, '', 'the primary gives what is new');
	is(ids($tablet->content), 'a b', 'to who asks it');
	$tablet->put(c => 1);
	$tablet->move_to($service->http, $reader);
	$tablet->log;
	is($tablet->sync, '', 'who then asks the standby') for 1 .. 2;
	is_deeply($tablet->log, [ 'upload: c created', 'pull: behind', 'pull: behind' ], 'hears that it is behind');
	is(ids($tablet->content), 'a b c', 'keeps what he has');
	$tablet->later(60_000);
	upload(document('d', 1, '1'));
	is($tablet->sync, '', 'a minute later he asks the primary');
	is_deeply($tablet->log, ['pull: d'], 'and gets what is new');
	$standby->do('SELECT pg_wal_replay_resume()');
	replayed($session, $standby);
	agree(@clients);

	# A standby that isn't promoted when another one is, and doesn't follow it.
	$service->cut;
	$standby->close;
	my $stale = delete $service->{standby};
	$service->add_standby;
	$service->cut;
	upload(document('lost', 1, '1'));
	$tablet->later(60_000);
	$tablet->move_to($service->http);
	is($tablet->sync, '', 'one has a document that is about to be lost');
	$service->fail_over;
	upload(document('e', 1, '1'));
	$_->move_to($service->http, $reader) for @clients;
	$phone->log;
	is($phone->sync, '', 'a server of the old history');
	is_deeply($phone->log, ['pull:'], 'serves a client of it');
	$tablet->log;
	is($tablet->sync, '', 'not who has come further');
	is_deeply($tablet->log, ['pull: behind'], 'in it');
	$tablet->move_to($service->http);
	is($tablet->sync, '', 'who is told by the primary');
	is($tablet->log->[0], 'pull: e, told', 'that something may be lost');
	$tablet->move_to($service->http, $reader);
	is($tablet->sync, '', 'a server of the old history');
	is_deeply($tablet->log, ['pull: behind'], 'is behind then');
	$_->move_to($service->http) for @clients;
	agree(@clients);
	is(ids(content()), 'a b c d e lost', 'all is there');
	$reader->stop;
	$stale->stop('immediate');
	return;
}

# Clients have seen the end of both, which is then lost.
sub prepared_transactions
{
	my $reader = client('reader');

	upload(document('before', 1, '1'));
	for my $id (qw(rolled_back committed_again))
	{
		my $session = $service->http->session;

		$session->do('BEGIN');
		$session->upload('somebody', $collection, document($id, 1, qq("$id")));
		$session->do("PREPARE TRANSACTION '$id'");
		$session->close;
	}
	is($reader->sync, '', 'two are prepared');
	is(ids($reader->content), 'before', 'and not to be seen');
	$service->cut;
	$service->session->do("COMMIT PREPARED '$_'") for qw(rolled_back committed_again);
	is($reader->sync, '', 'both are committed');
	is(ids($reader->content), 'before committed_again rolled_back', 'and received');

	$service->fail_over;
	set_timeout('2s');
	upload(document('after', 1, '1'));
	is(ids(content()), 'after before', 'there they are prepared again');
	$reader->log;
	is(join(' ', map { $reader->sync } 1 .. 6), '   500 57014 500 57014 500 57014', 'who sends again what is prepared there waits, and gives up');
	my $log = $reader->log;
	is_deeply($log, [
		'pull: told', ('pull: no state') x 3, 'reconcile: after before', 'get: after',
		('upload: 500 57014', 'pull:') x 2, 'upload: 500 57014' ], 'each time after a download')
	  or diag explain $log;
	is(ids($reader->content), 'after before committed_again rolled_back', 'it keeps what it has');

	$service->session->do("ROLLBACK PREPARED 'rolled_back'", "COMMIT PREPARED 'committed_again'");
	set_timeout(0);
	agree($reader, client('new'));
	is(ids(content()), 'after before committed_again rolled_back', 'all is there');
	return;
}

# How long a request may take: longer than PostgREST needs on a slow server to
# read its schema cache, and shorter than lock_timeout
sub set_timeout
{
	my ($time) = @_;

	$service->session->do(map { "ALTER ROLE docsync_$_ SET statement_timeout = '$time'" } qw(authenticator gateway));
	return $service->http->move_to($service->primary);
}

# What was deleted and purged while a client was away is removed, what was lost
# is brought back.
sub purge_and_loss
{
	my ($is_lost) = @_;
	my @clients = my ($sleeper, $other, $told) = map { client($_) } qw(sleeper other told);

	upload(map { document($_, 1, '1') } qw(old1 old2));
	in_step(@clients);
	$service->later($DAYS * 3);
	upload(document('recent', 1, '1'));
	$service->cut if $is_lost;
	upload(document('old1', 2), map { document("z$_", 1) } 1 .. 4);
	purge();
	is($told->sync, '', 'a client hears of the purge') for 1 .. 3;
	is(ids($told->content), 'old2 recent', 'and of what was deleted');
	$service->cut unless $is_lost;
	$sleeper->put(own => 1);
	is($sleeper->upload, '', 'an upload that is lost');

	$service->fail_over;
	upload(document('new', 1, '1'));
	agree(@clients);
	is(ids(content()), $is_lost ? 'new old1 old2 own recent' : 'new old2 own recent', $is_lost ? 'nothing is missing' : 'but for what was deleted, nothing is missing');
	return;
}

sub purge_after_the_loss
{
	my @clients = my ($sleeper, $other) = map { client($_) } qw(sleeper other);

	upload(map { document($_, 1, '1') } qw(old1 old2));
	in_step(@clients);
	$service->later($DAYS * 3);
	upload(document('recent', 1, '1'));
	$service->cut;
	$sleeper->put(own => 1);
	is($sleeper->sync, '', 'an upload that is lost');

	$service->fail_over;
	upload(document('old1', 2), map { document("z$_", 1) } 1 .. 4);
	purge();
	agree(@clients);
	is(ids(content()), 'old2 own recent', 'what was deleted has gone, what was lost is back');
	return;
}

# What others wrote and the service lost is sent after a random wait.
sub edit_while_marks_wait
{
	my ($author, $reader, $other) = (client('author'), client('reader', waits => { others => $HOUR }), client('other'));
	my @ids = qw(edited in_flight newer older untouched);

	in_step($author, $reader, $other);
	$service->cut;
	$author->put_all({ map { $_ => 'lost' } @ids });
	in_step($author, $reader);
	is(ids($reader->content), "@ids", 'one has what another wrote');

	# The author never comes back.
	$service->fail_over;
	upload(document('newer', 9_000_000_000_000, '"newer"'));
	in_step($reader);
	is_deeply($reader->unsent, [qw(edited in_flight older untouched)], 'it is to be sent again');
	is(ids(content()), 'newer', 'and waits');
	upload(document('older', 1, '"older"'));
	$reader->put(edited => 'edited');
	$reader->log;
	is($reader->sync, '', 'meanwhile one is edited');
	is($reader->log->[0], 'upload: edited created', 'which is sent at once');
	is(ids(content()), 'edited newer older', 'alone');
	in_step($other);

	$reader->later($HOUR + 1);
	$reader->log;
	$reader->edit_meanwhile(in_flight => 'edited in flight');
	is($reader->sync, '', 'then the others are sent');
	agree($reader, $other, $reader);
	is_deeply({ map { $_ => $other->get($_) } @ids },
		{ edited => 'edited', in_flight => 'edited in flight', newer => 'newer', older => 'lost', untouched => 'lost' },
		'and the newest of each is there');
	return;
}

# Somebody writes all the time: there are always documents that can't be given
# out yet, hence no sums.
sub hot_collection
{
	my $reader = client('reader');
	my ($writer, $n) = (undef, 0);
	my $write = sub {
		my $next = $service->http->session;

		$next->do('BEGIN');
		$next->upload('hot', $collection, document('hot' . ++$n, 1, '1'));
		upload(document("quick$n", 1, '1'));
		$writer->do('COMMIT') if $writer;
		$writer->close if $writer;
		$writer = $next;
	};

	upload(document('a', 1, '1'));
	$service->cut;
	upload(document('lost', 1, '1'));
	in_step($reader);

	$service->fail_over;
	$reader->log;
	for (1 .. 5)
	{
		$write->();
		is($reader->sync, '', 'a sync');
	}
	is(scalar(grep { /no state/ } @{ $reader->log }), 3, 'three times there are no sums');
	is(ids(content()), 'a hot1 hot2 hot3 hot4 lost quick1 quick2 quick3 quick4 quick5', 'what was lost is back all the same');
	$writer->do('COMMIT');
	$writer->close;
	agree($reader);
	return;
}

sub hidden_document
{
	my @clients = my ($reader, $other) = map { client($_) } qw(reader other);

	upload(document('secret', 1, '"secret"'), document('open', 1, '1'));
	in_step(@clients);
	$service->cut;
	upload(map { document("lost$_", 1, '1') } 1 .. 3);
	in_step(@clients);
	$service->fail_over;
	my $session = $service->session;
	$session->do("CREATE POLICY secrets ON docsync.document AS RESTRICTIVE TO docsync_user USING (id <> 'secret')");

	$_->log for @clients;
	for my $client (@clients)
	{
		# While nobody notices that it is another service
		$client->compare;
		is($client->sync, '', 'a sync') for 1 .. 4;
		cmp_ok(scalar @{ $client->log }, '<=', 20, 'few requests');
		is_deeply($client->problems, ['secret'], 'what the client may not see can be sent by nobody');
		is($client->get('secret'), 'secret', 'and stays where it is');
		is_deeply($client->unsent, [], 'nothing else is left');
		$client->compare;
		is($client->sync, '', 'a comparison');
		is_deeply($client->log, ['pull: equal'], 'finds them equal');
		is($client->sync, '', 'and then');
		is_deeply($client->log, ['pull:'], 'nothing is asked any more');
	}
	is(ids(content()), 'lost1 lost2 lost3 open secret', 'all is there');

	$session->do('DROP POLICY secrets ON docsync.document');
	$_->compare for @clients;
	agree(@clients);
	is_deeply($_->problems, [], 'it may be seen again') for @clients;
	return;
}

# And so do some of its clients, for hours.
sub old_primary_lives_on
{
	my ($left, $moved) = (client('left'), client('moved'));

	$left->put_all({ map { $_ => 'before' } qw(a b c d e) });
	in_step($left, $moved);
	$service->cut;
	my $old = $service->fail_over(lives => 1);
	my $http = DocsyncTest::Http->new($service->primary);
	$moved->move_to($http);

	$moved->put_all({ a => 'new', c => 'new' });
	in_step($moved);
	$left->put_all({ b => 'old', c => 'old', x => 'old' });
	$left->delete('d');
	in_step($left);
	$moved->delete('e');
	$moved->put(c => 'newer');
	in_step($moved);
	upload(document('y', 1, '"new"'), map { document("z$_", 1) } 1 .. 4);
	purge();
	$left->put(e => 'old');
	in_step($left);
	is(ids($left->content), 'a b c e x', 'two histories');

	$service->bury($old);
	agree($left, $moved, $left);
	is_deeply({ map { $_ => $moved->get($_) } qw(a b c d e x y) },
		{ a => 'new', b => 'old', c => 'newer', d => undef, e => 'old', x => 'old', y => 'new' },
		'of each document the newest is there');
	$http->stop;
	return;
}

# One comparison each, and no more.
sub many_clients
{
	my @clients = map { client("client$_") } 1 .. 40;

	$service->add_standby unless $service->standby;
	for my $client (@clients)
	{
		$client->put("$client->{name}, $_" => $_) for 1 .. 3;
		is($client->sync, '', 'a sync');
	}
	is($_->sync, '', 'a sync') for @clients;
	$clients[-1]->put(last => 1);
	is($_->sync, '', 'a sync') for reverse @clients;
	is(scalar keys %{ $_->content }, 121, 'all is everywhere') for @clients;
	$_->log for @clients;

	$service->switch_over;
	$service->session->upload('somebody', 'anna/elsewhere', document('first', 1, '1'));
	is($_->sync, '', 'a sync') for (@clients) x 3;
	is_deeply($_->log, [ 'pull: told', 'pull: equal', 'pull:' ], "$_->{name}: one comparison, nothing is sent, nothing received") for @clients;
	agree(@clients);
	return;
}
