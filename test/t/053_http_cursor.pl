# Where a client resumes: sinceUtc, cursors, and what happens when they come
# from another server.

use strict;
use warnings;

use lib 'test/t/lib';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DocsyncTest;
use DocsyncTest::Http;

my $STAMP = qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/;

my $node = new_node('main');
my $http = DocsyncTest::Http->new($node);
my $session = $http->session;
my $query = '/Docs/Query?origin=other&clientId=c2&collection=anna';

#-----------------------------------------------------------------------------
# sinceUtc
#-----------------------------------------------------------------------------

# So that the store's history begins before rows with stamps are inserted:
# otherwise the clock would be put ahead of them
upload('c1', 'anna/begun', 'x');

# Three documents with stamps a second apart, at a known time
$session->do(q{INSERT INTO docsync.document (collection, id, client_version, client_id, body, last_update_utc, fence)
	SELECT 'anna', 'd' || n, 1, 'c1', to_jsonb(n), '2026-01-02T03:04:00.123456Z'::timestamptz + n * interval '1 s', '3'
	  FROM generate_series(1, 3) AS n});

for my $case (
	[ '', 'd1 d2 d3' ],
	[ '2026-01-02T03:04:01.123456Z', 'd1 d2 d3' ],
	[ '2026-01-02T03:04:01.123457Z', 'd2 d3' ],
	[ '2026-01-02T03:04:02.123456Z', 'd2 d3' ],
	[ '2026-01-02T04:04:02.123456%2B01:00', 'd2 d3' ],
	[ '2026-01-02T04:04:02.123456%2B01%3A00', 'd2 d3' ],
	[ '2026-01-02T04:04:02.123456+01:00', 'd2 d3' ],
	[ '2026-01-02T04:04:02.123456+0100', 'd2 d3' ],
	[ '2026-01-01T22:04:02.123456-05:00', 'd2 d3' ],
	[ '2026-01-02T03:04:02Z', 'd2 d3' ],
	[ '2026-01-02T03:04:02.1Z', 'd2 d3' ],
	[ '2026-01-02T03:04:02.1234560Z', 'd2 d3' ],
	[ '2026-01-02T03:04:02.1234569Z', 'd2 d3' ],		# truncated, not rounded up
	[ '2026-01-02T03:04:03.123456789Z', 'd3' ],
	[ '2026-01-02T03:04:03.2Z', '' ],
	[ '0001-01-01T00:00:00Z', 'd1 d2 d3' ],
	map { [ $_, 400 ] } qw(
	  yesterday now infinity -infinity epoch 0 1 2026 20260102T030402Z 2026-01-02 2026-01-02T03:04:02
	  2026-01-02T03:04:02.123456 2026-01-02+03:04:02Z 2026-01-02%2003:04:02Z 2026-01-02T03:04Z
	  2026-01-02T03:04:02.Z 2026-01-02T03:04:02%2C5Z 2026-1-2T3:4:2Z 2026-13-02T03:04:02Z 2026-02-30T03:04:02Z
	  2026-01-02T24:04:02Z 2026-01-02T03:60:02Z 2026-01-02T03:04:60Z 0000-01-02T03:04:02Z -2026-01-02T03:04:02Z
	  2026-01-02T03:04:02ZZ 2026-01-02T03:04:02Z%20 %202026-01-02T03:04:02Z 2026-01-02T03:04:02z
	  2026-01-02t03:04:02Z 2026-01-02T03:04:02UTC 2026-01-02T03:04:02+1:00 2026-01-02T03:04:02+99:00
	  2026-01-02T03:04:02+01:60 2026-01-02T03:04:02%C3%A9 05/06/2024))
{
	my ($since, $expected) = @$case;
	my $answer = $http->post("$query&sinceUtc=$since", '');
	my $value = DocsyncTest::Http::value_of($answer);

	is(ref $value eq 'ARRAY' ? join(' ', map { $_->{id} } @$value) : $answer->{status}, $expected, "sinceUtc=$since");
}
is($http->post("$query&sinceUtc=null", '')->{status}, 200, 'what JavaScript makes of null');

{
	my ($first) = @{ DocsyncTest::Http::value_of($http->post($query, '')) };

	is($first->{LastUpdateUtc}, '2026-01-02T03:04:01.123456Z', 'LastUpdateUtc, all digits');
	$session->do(q{INSERT INTO docsync.document (collection, id, client_id, body, last_update_utc, fence)
		VALUES ('anna/zero', 'x', 'c1', '1', '2026-01-01T00:00:00Z', '3')});
	is(DocsyncTest::Http::value_of($http->get('/Docs/Pull?collection=anna/zero', headers => { prefer => 'timezone=Asia/Tokyo' }))
		->{documents}[0]{LastUpdateUtc}, '2026-01-01T00:00:00.000000Z', 'and zeros, too');
	$session->do(q{ALTER ROLE docsync_user SET timezone = 'Asia/Tokyo'}, q{ALTER ROLE docsync_user SET datestyle = 'SQL, DMY'});
	is_deeply(DocsyncTest::Http::value_of($http->post($query, ''))->[0], $first, 'whatever the session\'s time zone');
	is(scalar @{ DocsyncTest::Http::value_of($http->post("$query&sinceUtc=$first->{LastUpdateUtc}", '')) }, 3, 'in and out');
	$session->do('ALTER ROLE docsync_user RESET timezone', 'ALTER ROLE docsync_user RESET datestyle');
}

#-----------------------------------------------------------------------------
# Origins and pages
#-----------------------------------------------------------------------------

upload('c1', 'anna/p', map { "a$_" } 1 .. 5);
upload('c2', 'anna/p', map { "b$_" } 1 .. 5);
upload('c1', 'anna/p', 'a6');

is(asked('c2', origin => 'other'), 'a1 a2 a3 a4 a5 a6', 'other');
is(asked('c2', origin => 'own'), 'b1 b2 b3 b4 b5', 'own');
is(asked('c2', origin => 'any'), 'a1 a2 a3 a4 a5 b1 b2 b3 b4 b5 a6', 'any');
is(ids(pull(collection => 'anna/p')), 'a1 a2 a3 a4 a5 b1 b2 b3 b4 b5 a6', 'without a clientId: any');

{
	my @pages;
	my $cursor;
	my $more = 1;

	while ($more)
	{
		my $page = pull(clientId => 'c2', collection => 'anna/p', maxDocuments => 2, defined $cursor ? (cursor => $cursor) : ());

		push @pages, ids($page);
		($cursor, $more) = @$page{qw(cursor more)};
		like($page->{serverUtc}, $STAMP, 'serverUtc');
		last if @pages > 9;
	}
	is_deeply(\@pages, [ 'a1 a2', 'a3 a4', 'a5 a6' ], 'pages, each document once');

	# It resumes after the last document passed, not after the last one
	# received.
	my $scanned = $session->value(q{SELECT to_char(max(last_update_utc) AT TIME ZONE 'UTC', 'US') FROM docsync.document
		WHERE collection = 'anna/p'});
	like($cursor, qr/^[0-9a-f]{16}[.]\d+${scanned}[.]/, 'the cursor is at the end');
	upload('c2', 'anna/p', 'b6');
	my $empty = pull(clientId => 'c2', collection => 'anna/p', cursor => $cursor);
	is(ids($empty), '', 'an own document does not come');
	ok(!$empty->{more}, 'and there is no more');
	isnt($empty->{cursor}, $cursor, 'but the cursor has moved past it');
	my $again = pull(clientId => 'c2', collection => 'anna/p', cursor => $empty->{cursor});
	is($again->{cursor}, $empty->{cursor}, 'where nothing is new it stays');

	# As version 0.1 wrote them, without a binding
	is(ids(pull(clientId => 'c3', collection => 'anna/p', cursor => unbound($empty))), '', 'it is exclusive');
	is(ids(pull(clientId => 'c3', collection => 'anna/p', cursor => unbound({ cursor => $cursor }))), 'b6', 'for any client');

	my @parts = split /\./, $cursor;
	for my $bad ($cursor . '0' x 20, "$cursor ", " $cursor", uc $cursor, '-1', substr($cursor, 0, 17), $cursor =~ s/\.(.*)/.-$1/r,
		$cursor =~ s/\./,/r, $cursor . 'x', "'; DROP TABLE docsync.document; --", "$cursor.1", "$cursor.",
		(map { join '.', @parts[ 0 .. $_ ] } 0, 2, 3),
		(map { my @bad = @parts; $bad[$_] = '9' x 30; join '.', @bad } 0 .. 4),
		(map { my @bad = @parts; $bad[$_] = ''; join '.', @bad } 0 .. 4))
	{
		my $answer = $http->get('/Docs/Pull?' . $http->{client}->www_form_urlencode({ collection => 'anna/p', cursor => $bad }));

		# uc of digits alone is the same
		next if $bad eq $cursor;
		is($answer->{status}, 400, "cursor \"$bad\" is none");
	}
	is(ids(pull(collection => 'anna/p', cursor => '')), ids(pull(collection => 'anna/p')), 'an empty one is none, neither');
}

# A whole sync: it returns others' documents, and the cursor is past everything.
{
	my $sync = DocsyncTest::Http::value_of($http->post('/Docs/Sync',
		{ clientId => 'c3', collection => 'anna/p', documents => [ document_of('x1') ], maxDocuments => 1000 }));

	is($sync->{received}, 1, 'received');
	is($sync->{results}[0]{outcome}, 'created', 'created');
	is(ids($sync), 'a1 a2 a3 a4 a5 b1 b2 b3 b4 b5 a6 b6', 'the others');
	$sync = DocsyncTest::Http::value_of($http->post('/Docs/Sync',
		{ clientId => 'c3', collection => 'anna/p', cursor => $sync->{cursor} }));
	is(ids($sync), '', 'and then nothing');
	is_deeply($sync->{results}, [], 'no results');
}

# An open upload to the same collection holds the cursor back, and "more" refers
# to what is available now.
{
	my $open = $http->session;

	$open->do('BEGIN');
	$open->upload('c9', 'anna/p', document('late', 1, 1));
	upload('c1', 'anna/p', 'after');
	my $page = pull(clientId => 'c3', collection => 'anna/p', origin => 'any');
	unlike(ids($page), qr/late|after/, 'what might be overtaken does not come');
	ok(!$page->{more}, 'nor is there more now');
	$open->do('COMMIT');
	is(ids(pull(clientId => 'c3', collection => 'anna/p', origin => 'any', cursor => $page->{cursor})), 'late after', 'later both come');
}

#-----------------------------------------------------------------------------
# Answers of a limited size
#-----------------------------------------------------------------------------

{
	my @ids = map { sprintf 's%03d', $_ } 1 .. 50;
	my @pages;
	my ($page, $cursor, $since);

	$http->post('/Docs?clientId=c1&collection=anna/size', [ map { { id => $_, clientVersion => 1, body => 'x' x 1000 } } @ids ]);
	$session->do(q{ALTER SYSTEM SET docsync.max_page_size = '10kB'}, 'SELECT pg_reload_conf()');
	wait_for('the setting', sub { @{ pull(collection => 'anna/size')->{documents} } < 50 });

	do
	{
		$page = pull(clientId => 'c2', collection => 'anna/size', defined $cursor ? (cursor => $cursor) : ());
		push @pages, $page;
		$cursor = $page->{cursor};
	} while ($page->{more} && @pages < 50);
	is(join(' ', map { ids($_) } @pages), "@ids", 'pages that end by their size: each document once');
	cmp_ok(length(JSON::PP::encode_json($_->{documents})), '<', 12_000, 'a page of not much more') for @pages[ 0, 1 ];

	$page = DocsyncTest::Http::value_of($http->post('/Docs/Sync', { clientId => 'c2', collection => 'anna/size',
		maxDocuments => 40, documents => [ document_of('own') ] }));
	ok($page->{more} && @{ $page->{documents} } < 40, 'so does that of a sync');

	# The protocol's own request: from the highest LastUpdateUtc on, until nothing later is
	# returned.
	my %seen;
	for (1 .. 50)
	{
		my $before = keys %seen;

		$page = DocsyncTest::Http::value_of($http->post('/Docs/Query?' . $http->{client}->www_form_urlencode(
			{ origin => 'other', clientId => 'c2', collection => 'anna/size', defined $since ? (sinceUtc => $since) : () }), ''));
		$seen{ $_->{id} } = 1 for @$page;
		last if keys %seen == $before;
		$since = $page->[-1]{LastUpdateUtc};
	}
	is(join(' ', sort keys %seen), "@ids", 'with sinceUtc, too');

	upload('c1', 'anna/size', 'last');
	$http->post('/Docs?clientId=c1&collection=anna/size', [ { id => 'big', clientVersion => 1, body => 'x' x 50_000 } ]);
	is(ids(pull(clientId => 'c2', collection => 'anna/size', cursor => $cursor, maxDocuments => 2)), 'last big',
		'a document that is larger than a page comes');
	is(ids(pull(clientId => 'c2', collection => 'anna/size', maxDocuments => 1, origin => 'own')), 'own', 'and no end by what is not wanted');
	$session->do('ALTER SYSTEM RESET docsync.max_page_size', 'SELECT pg_reload_conf()');
	wait_for('the setting', sub { @{ pull(clientId => 'c2', collection => 'anna/size')->{documents} } > 50 });
}

#-----------------------------------------------------------------------------
# Away for longer than tombstones are kept
#-----------------------------------------------------------------------------

{
	my $request = '/Docs/Query?origin=other&clientId=c2&collection=anna/purge';

	upload('c1', 'anna/purge', 'kept', 'deleted', 'newest');
	my ($old, $old_of_c2) = (pull(collection => 'anna/purge'), pull(clientId => 'c2', collection => 'anna/purge'));
	my $since = $old->{documents}[-1]{LastUpdateUtc};
	$http->post('/Docs?clientId=c1&collection=anna/purge', [ { id => $_, clientVersion => 2, deleted => JSON::PP::true } ])
	  for qw(deleted newest);
	my $new = pull(collection => 'anna/purge');
	is($http->get("/Docs/Pull?collection=anna/purge&cursor=$old->{cursor}")->{status}, 200, 'before a purge');
	is($session->value(q{CALL docsync_purge('0 days', 'anna/purge')}), 1, 'a purge, of which the newest tombstone stays');

	for my $case (
		[ 'GET', "/Docs/Pull?collection=anna/purge&cursor=$old->{cursor}" ],
		[ 'POST', "$request&sinceUtc=$since", '' ],
		[ 'POST', '/Docs/Sync', { clientId => 'c2', collection => 'anna/purge', cursor => $old_of_c2->{cursor} } ],
		[ 'POST', '/Docs/Sync',
			{ clientId => 'c2', collection => 'anna/purge', cursor => $old_of_c2->{cursor}, documents => [ document_of('lost') ] } ])
	{
		my ($state, $clock) = ($http->state, clock());
		my $answer = $http->request(@$case);
		my $error = DocsyncTest::Http::value_of($answer);

		is($answer->{status}, 410, "$case->[0] $case->[1]: away longer than tombstones are kept");
		is("$error->{code}, $error->{message}", 'resync_purged, resync required', 'says what to do');
		is($http->state . clock(), $state . $clock, 'stores nothing, and leaves the clock alone');
	}
	is(ids(pull(collection => 'anna/purge', cursor => $new->{cursor})), '', 'who has seen the tombstone goes on');
	is(ids(pull(collection => 'anna/purge')), 'kept newest', 'who starts again gets what there is');
	is(ids(DocsyncTest::Http::value_of($http->post("$request&sinceUtc=1970-01-01T00:00:00Z", ''))), 'kept newest',
		'1970 is the beginning, too');
	is(ids(pull(collection => 'anna/purge', tombstones => 'false')), 'kept', 'who starts again may do without tombstones');
	is(ids(pull(collection => 'anna/purge', tombstones => 'false', cursor => $new->{cursor})), '', 'and goes on');
	is($http->get('/Docs/Pull?collection=anna/p&cursor=' . unbound($old))->{status}, 200, 'other collections are not concerned');

	# A client that can compare is told, once.
	for my $case ([ reconcile => 'true' ], [ reconcile => 'false', 410 ], [ reconcile => '', 410 ], [ reconcile => 'null', 410 ], [ reconcile => 'yes', 400 ])
	{
		my ($key, $value, $refused) = @$case;
		my $answer = $http->get("/Docs/Pull?collection=anna/purge&$key=$value&cursor=$old->{cursor}");

		is($answer->{status}, $refused // 200, "$key=$value");
		next if $refused;
		my $told = DocsyncTest::Http::value_of($answer);
		is_deeply([ @$told{qw(reconcile lostAfter more)} ], [ JSON::PP::true, undef, JSON::PP::false ], 'who can compare is told');
		is(ids($told), 'newest', 'and given what there is');
		$told = pull(collection => 'anna/purge', cursor => $told->{cursor}, $key => $value);
		ok(!exists $told->{reconcile} && !exists $told->{lostAfter}, 'once');
		$answer = $http->get("/Docs/Pull?collection=anna/purge&cursor=$told->{cursor}");
		is($answer->{status}, 200, 'and has seen the purge');
	}
	{
		my $told = DocsyncTest::Http::value_of($http->post('/Docs/Sync', { clientId => 'c2', collection => 'anna/purge',
			cursor => $old_of_c2->{cursor}, reconcile => JSON::PP::true, state => JSON::PP::true,
			documents => [ document_of('sent') ] }));

		is_deeply([ $told->{results}[0]{outcome}, ids($told), $told->{reconcile} ], [ 'created', 'newest', JSON::PP::true ],
			'by a sync, too, which uploads');
		is($told->{state}{count}, 2, 'and is told the state');
		like($told->{state}{digest}, qr/^[0-9a-f]{16}$/, 'by its digest');
		is(scalar(grep { /^[0-9a-f]{16}$/ } @{ $told->{state}{sums} }), 256, 'and sums');
		is_deeply(pull(collection => 'anna/purge', state => 'true')->{state}, $told->{state}, 'which are those of a pull');
		ok(!exists pull(collection => 'anna/purge')->{state}, 'who does not ask is not told');
	}
}

#-----------------------------------------------------------------------------
# Another history
#-----------------------------------------------------------------------------

my $cursor = pull(collection => 'anna/p')->{cursor};
my $cursor_before = $cursor;
my $cursor_of_c2 = pull(clientId => 'c2', collection => 'anna/p')->{cursor};
my $clock = $session->value('SELECT last_value FROM docsync.clock');

is($http->get("/Docs/Pull?collection=anna/p&cursor=" . ($cursor =~ s/^./chr(ord($&) ^ 1)/er))->{status}, 410, 'a cursor of another epoch');

# An hour earlier, as after restoring the server's files: no connected session
# knows of a later time.
$http->stop_layer;
$session->do("SELECT setval('docsync.clock', $clock - 3600000000)");
$http->start_layer;
for my $request (
	[ 'GET', "/Docs/Pull?collection=anna/p&cursor=$cursor" ],
	[ 'POST', "/Docs/Query?clientId=c2&collection=anna/p&sinceUtc=" . stamp_text($clock), '' ],
	[ 'POST', '/Docs/Sync', { clientId => 'c2', collection => 'anna/p', cursor => $cursor_of_c2 } ],
	[ 'POST', '/Docs/Sync', { clientId => 'c2', collection => 'anna/p', cursor => $cursor_of_c2, documents => [ document_of('lost') ] } ])
{
	my $state = $http->state;
	my $answer = $http->request(@$request);
	my $error = DocsyncTest::Http::value_of($answer);
	my $name = "$request->[1], " . ($request->[2] && $request->[2]{documents} ? 'with documents' : 'without documents');

	is($answer->{status}, 410, "$name: a cursor from the future");
	is("$error->{code}, $error->{message}", 'resync_lost, resync required', 'says what to do');
	is($http->state, $state, 'stores nothing');
	is(clock(), $clock - 3_600_000_000, 'and leaves the clock alone');
	unlike($answer->{content}, qr/@{[ substr stamp_text($clock - 3_600_000_000), 0, 16 ]}/, 'which it does not tell');
}
$session->do("SELECT setval('docsync.clock', $clock)");

# What an operator calls after a restore
{
	my $since = stamp_text($clock);

	is($http->get("/Docs/Pull?collection=anna/p&cursor=$cursor")->{status}, 200, 'a cursor of this epoch');
	$session->do('SELECT docsync_new_epoch()');
	for my $request (
		[ 'GET', "/Docs/Pull?collection=anna/p&cursor=$cursor" ],
		[ 'POST', '/Docs/Sync', { clientId => 'c2', collection => 'anna/p', cursor => $cursor_of_c2, documents => [ document_of('lost') ] } ])
	{
		my $state = $http->state . clock();
		my $answer = $http->request(@$request);

		is($answer->{status}, 410, "$request->[1]: a new epoch voids cursors");
		like($answer->{content}, qr/"code":"resync_lost".*"resync required"/, 'says what to do');
		is($http->state . clock(), $state, 'stores nothing');
	}
	my $told = pull(collection => 'anna/p', cursor => $cursor, reconcile => 'true');
	is_deeply([ $told->{reconcile}, $told->{lostAfter} ], [ JSON::PP::true, day_before($since) ], 'who can compare is told');
	is(ids($told), '', 'and given what is new');
	$told = pull(collection => 'anna/p', cursor => $told->{cursor}, reconcile => 'true');
	ok(!exists $told->{reconcile}, 'once');
	my $again = pull(collection => 'anna/p');
	like(ids($again), qr/a1 .*after/, 'without a cursor all comes');
	isnt(substr($again->{cursor}, 0, 16), substr($cursor, 0, 16), 'with a cursor of the new epoch');
	is($http->get("/Docs/Pull?collection=anna/p&cursor=$again->{cursor}")->{status}, 200, 'which is good');
	$cursor = $again->{cursor};
}

#-----------------------------------------------------------------------------
# Without writing
#-----------------------------------------------------------------------------

is($http->get('/rpc/docsync_sync?clientId=c2&collection=anna/p')->{status}, 405, 'a GET cannot upload') if $http->has_rpc;

$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
upload('c1', 'anna/p', 'newest');
$node->wait_for_catchup($standby);

my $replica = DocsyncTest::Http->new($standby, PGRST_DB_CHANNEL_ENABLED => 'false');
is(ids(DocsyncTest::Http::value_of($replica->get("/Docs/Pull?collection=anna/p&cursor=$cursor"))), 'newest',
	'a standby serves a pull');
like($replica->post($query, '')->{content}, qr/"d1".*"d3"/, 'and a query');
is($replica->post('/Docs?clientId=c1&collection=anna/p', [ document_of('y') ])->{status}, 400, 'and no upload');
is(ids(DocsyncTest::Http::value_of($replica->post('/Docs/Get', { collection => 'anna/p', ids => [ 'newest', 'none', 'a1' ] }))), 'newest a1',
	'and documents by id');
is_deeply([ @{ DocsyncTest::Http::value_of($replica->post('/Docs/Reconcile', { collection => 'anna/p' })) }{qw(rows behind more after)} ],
	[ [], JSON::PP::true, JSON::PP::true, undef ], 'and no comparison');
is($replica->get("/Docs/Pull?collection=anna/p&cursor=$cursor_before")->{status}, 410, 'and knows its epoch');
for my $unknown ('0000000000000001.1', $cursor =~ s/^./chr(ord($&) ^ 1)/er)
{
	my $answer = DocsyncTest::Http::value_of($replica->get("/Docs/Pull?collection=anna/p&reconcile=true&cursor=$unknown"));

	is_deeply([ @$answer{qw(documents behind cursor more)} ], [ [], JSON::PP::true, $unknown, JSON::PP::false ],
		'and that it may lag behind one that it does not know');
}

done_testing();

sub document_of { return { id => $_[0], clientVersion => 1, body => 1 } }

sub upload
{
	my ($client_id, $collection, @ids) = @_;
	my $answer = $http->post("/Docs?clientId=$client_id&collection=$collection", [ map { document_of($_) } @ids ]);

	die $answer->{content} if $answer->{status} != 200;
	return;
}

# The cursor of an answer, as version 0.1 wrote it
sub unbound { return join '.', (split /\./, $_[0]{cursor})[ 0, 1 ] }

sub pull
{
	my (%arguments) = @_;

	return DocsyncTest::Http::value_of($http->get('/Docs/Pull?' . $http->{client}->www_form_urlencode(\%arguments)));
}

sub asked
{
	my ($client_id, %arguments) = @_;

	return ids(DocsyncTest::Http::value_of($http->post('/Docs/Query?'
		  . $http->{client}->www_form_urlencode({ clientId => $client_id, collection => 'anna/p', %arguments }), '')));
}

# The ids of the documents in an answer
sub ids
{
	my ($value) = @_;

	return join ' ', map { $_->{id} } @{ ref $value eq 'HASH' ? $value->{documents} : $value };
}

sub clock { return $session->value('SELECT last_value FROM docsync.clock') }

sub day_before
{
	return $session->value(q{SELECT to_char((?::timestamptz - interval '1 day') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')}, $_[0]);
}

sub stamp_text
{
	return $session->value(q{SELECT to_char(to_timestamp(0) + ? * interval '1 us', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')}, $_[0]);
}
