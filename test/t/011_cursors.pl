# Where clients resume after purges, over HTTP: a client that has seen
# everything is never refused, one that hasn't is told, once, and a cursor can
# be used only for what it was given out for.
#
# DOCSYNC_RANDOM_SEED: repeat one run of the clients at random.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

use DocsyncTest;
use DocsyncTest::Http;

my $SEED = $ENV{DOCSYNC_RANDOM_SEED} // int rand 1_000_000;
my $STEPS = 600;

my $node = new_node('main');
my $http = DocsyncTest::Http->new($node);
my $session = $http->session;
my $version = 0;

bound();
pages_after_a_purge();
who_has_seen_all($_) for 'live', 'tombstone of another', 'own tombstone', 'own document';
own_deletions();
purged_between_pages();
told_once();
nothing_new();
clients_at_random();
done_testing();

#-----------------------------------------------------------------------------

# A cursor of one collection, client and origin, used with others
sub bound
{
	my $collection = 'anna/bound';
	my %of = (collection => $collection, clientId => 'c2', origin => 'other');

	upload('c1', $_, 'a', 'b') for $collection, 'anna/other';
	my $cursor = pull(%of)->{cursor};

	for my $change ({}, { collection => 'anna/other' }, { clientId => 'c3' }, { clientId => 'c2 ' }, { origin => 'own' }, { origin => 'any' },
		{ clientId => undef, origin => 'any' }, { collection => 'anna/boun', clientId => 'dc2' })
	{
		my %arguments = (%of, %$change, cursor => $cursor);
		my %body = map { $_ => $arguments{$_} } grep { defined $arguments{$_} } keys %arguments;
		my $name = join ', ', map { "$_ " . ($change->{$_} // 'none') } sort keys %$change;
		my $expected = %$change ? '400 22023 "cursor" belongs to another collection, clientId or origin' : 200;

		is(outcome($http->get('/Docs/Pull?' . $http->{client}->www_form_urlencode(\%body))), $expected, "a pull with its cursor for $name");
		is(outcome($http->post('/Docs/Sync', \%body)), $expected, "a sync with its cursor for $name") if defined $body{clientId};
		is(outcome($http->post('/Docs/Reconcile', \%body)), $expected, "a comparison with its cursor for $name");
		is(outcome($http->post('/Docs/Get', { %body, ids => [] })), $expected, "documents by id with its cursor for $name");
	}

	# If nothing is given, the default applies.
	is(outcome($http->get("/Docs/Pull?collection=$collection&clientId=c2&cursor=$cursor")), 200, 'the origin is other');
	is(outcome($http->post('/Docs/Sync', { collection => $collection, cursor => $cursor }, headers => { 'x-client-id' => 'c2' })), 200,
		'the clientId may come by a header');
	my $claims = DocsyncTest::Http::claims(client_id => 'c2', collection => $collection);
	is(outcome($http->get("/Docs/Pull?cursor=$cursor", token => DocsyncTest::Http::token($claims))), 200, 'or both by claims');
	is(outcome($http->get("/Docs/Pull?collection=$collection&cursor=" . pull(collection => $collection)->{cursor})), 200,
		'without a clientId the origin is any');

	# Nothing in a request changes that it is refused: neither a page nor an upload.
	my $state = $http->state;
	is($http->post('/Docs/Sync', { collection => 'anna/other', clientId => 'c2', cursor => $cursor,
		documents => [ { id => 'lost', clientVersion => 1, body => 1 } ] })->{status}, 400, 'a sync that is refused');
	is($http->state, $state, 'stores nothing');
	return;
}

# All tombstones but the newest are gone; they were spread over the remaining
# documents.
sub pages_after_a_purge
{
	my $collection = 'anna/pages';

	for my $n (10 .. 29)
	{
		upload('c1', $collection, "d$n");
		bury('c1', $collection, "d$n") if $n % 3 == 0;
	}
	bury('c1', $collection, 'd10');
	is(purge($collection), 6, 'a purge leaves the newest tombstone');
	my @left = ((map { "d$_" } grep { $_ % 3 } 11 .. 29), 'd10');

	for my $size (1, 2, 5, 13, 100)
	{
		my %how = (
			pull => sub { pull(collection => $collection, clientId => "new$size", maxDocuments => $size, @_) },
			'pull, comparing' => sub { pull(collection => $collection, clientId => "new$size", maxDocuments => $size, reconcile => 'true', @_) },
			sync => sub { value($http->post('/Docs/Sync', { collection => $collection, clientId => "new$size", maxDocuments => $size, @_ })) });

		for my $kind (sort keys %how)
		{
			my ($answer, @got);

			do
			{
				$answer = $how{$kind}->($answer ? (cursor => $answer->{cursor}) : ());
				push @got, map { $_->{id} } @{ $answer->{documents} };
				ok(!exists $answer->{reconcile}, 'who begins is not told to compare') if $kind =~ /comparing/;
			} while ($answer->{more} && @got < 100);
			is_deeply(\@got, \@left, "a new client downloads all in pages of $size by $kind");
			$answer = $how{$kind}->(cursor => $answer->{cursor});
			is_deeply([ $answer->{documents}, $answer->{reconcile} ], [ [], undef ], 'and is not refused at the next poll');
		}
	}

	# By time: the second page would be refused, so the first one is refused
	# already.
	my $query = "/Docs/Query?clientId=new&collection=$collection";
	is(outcome($http->post("$query&maxDocuments=2", '')), '409 use_cursor use a cursor', 'pages by time are refused at once');
	my $all = value($http->post($query, ''));
	is(join(' ', map { $_->{id} } @$all), "@left", 'all at once come');
	is(outcome($http->post("$query&sinceUtc=$all->[-1]{LastUpdateUtc}", '')), 200, 'and the next poll goes on');
	upload('c1', $collection, 'later');
	is(join(' ', map { $_->{id} } @{ value($http->post("$query&sinceUtc=$all->[-1]{LastUpdateUtc}", '')) }), 'd10 later', 'from there');
	return;
}

# Whatever a client has downloaded last: it polls, again and again, while others
# carry on and purges are run.
sub who_has_seen_all
{
	my ($last) = @_;
	my $collection = 'anna/all ' . $last;
	my %of = (collection => $collection, clientId => 'c2');
	my $query = '/Docs/Query?' . $http->{client}->www_form_urlencode(\%of);

	upload('c1', $collection, 'a' .. 'f');
	upload('c2', $collection, 'own', 'own too');
	bury('c1', $collection, $_) for 'a', 'b';
	bury('c2', $collection, 'own') if $last eq 'own tombstone';
	upload('c2', $collection, 'own') if $last eq 'own document';
	upload('c1', $collection, 'c') if $last eq 'live';
	is(purge($collection), 1, "last a $last: a purge");

	for my $round (1 .. 3)
	{
		my $by_cursor = pull(%of);
		my $by_time = value($http->post($query, ''));
		my $since = $by_time->[-1]{LastUpdateUtc};

		is_deeply($by_time, $by_cursor->{documents}, "last a $last: both ways give the same");
		for (1 .. 2)
		{
			my $again = pull(%of, cursor => $by_cursor->{cursor});

			is(outcome($http->post("$query&sinceUtc=$since", '')), 200, "last a $last: a poll by time goes on");
			is_deeply($again->{documents}, [], 'and one by cursor');
			purge($collection);
		}

		# What it has seen may be purged now.
		bury('c1', $collection, ('c' .. 'e')[ $round - 1 ]);
		$by_time = value($http->post("$query&sinceUtc=$since", ''));
		$by_cursor = pull(%of, cursor => $by_cursor->{cursor});
		is($by_time->[-1]{id}, ('c' .. 'e')[ $round - 1 ], "last a $last: what comes then is given by time");
		is($by_cursor->{documents}[-1]{id}, ('c' .. 'e')[ $round - 1 ], 'and by cursor');
		cmp_ok(purge($collection), '>', 0, 'and what was before is purged');
		is(outcome($http->post("$query&sinceUtc=$by_time->[-1]{LastUpdateUtc}", '')), 200, "last a $last: who has got it goes on by time");
		is_deeply(pull(%of, cursor => $by_cursor->{cursor})->{documents}, [], 'and by cursor');
	}
	return;
}

# A client that deletes documents, and is not concerned by tombstones of others,
# since there are none, or only an old one.
sub own_deletions
{
	for my $others ('none', 'one')
	{
		my $collection = "anna/own, others $others";
		my $query = '/Docs/Query?' . $http->{client}->www_form_urlencode({ collection => $collection, clientId => 'c2' });
		my @refusals;

		upload('c1', $collection, 'theirs', 'gone');
		bury('c1', $collection, 'gone') if $others eq 'one';
		upload('c2', $collection, map { "own$_" } 1 .. 20);
		my $since = value($http->post($query, ''))->[-1]{LastUpdateUtc};

		for my $n (1 .. 10)
		{
			bury('c2', $collection, "own$n");
			bury('c2', $collection, 'own' . ($n + 10));
			purge($collection);
			upload('c1', $collection, 'theirs') if $n % 3 == 0;

			my $answer = $http->post("$query&sinceUtc=$since", '');
			if ($answer->{status} == 200)
			{
				$since = value($answer)->[-1]{LastUpdateUtc};
				next;
			}
			push @refusals, "$n: " . outcome($answer);
			$since = value($http->post($query, ''))->[-1]{LastUpdateUtc};
		}
		is_deeply(\@refusals, [], "whose own tombstones alone are purged goes on by time; others' $others");
	}

	# Another client has missed them.
	my $query = '/Docs/Query?' . $http->{client}->www_form_urlencode({ collection => 'anna/own, others none', clientId => 'c3' });
	my $first = value($http->post($query, ''));
	bury('c2', 'anna/own, others none', $_) for 'theirs', map { "own$_" } 1 .. 3;
	upload('c1', 'anna/own, others none', 'theirs', 'newest');
	bury('c2', 'anna/own, others none', 'newest');
	purge('anna/own, others none');
	is(outcome($http->post("$query&sinceUtc=$first->[-1]{LastUpdateUtc}", '')), '410 resync_purged resync required', 'another has missed them');
	return;
}

# A client that began before a purge, and is in the middle of its pages
sub purged_between_pages
{
	my $collection = 'anna/midst';
	my %of = (collection => $collection, clientId => 'c2', maxDocuments => 2);

	upload('c1', $collection, 'a' .. 'h');
	bury('c1', $collection, 'h');
	my $page = pull(%of);
	is(ids($page), 'a b', 'a first page');

	bury('c1', $collection, 'g');
	is(purge($collection), 1, 'a purge of what had been deleted before it began');
	my $next = pull(%of, cursor => $page->{cursor});
	is(ids($next), 'c d', 'does not stop a client at its second page');

	# What it was given on its first page is deleted, and the tombstone is purged.
	bury('c1', $collection, 'a');
	bury('c1', $collection, 'f');
	is(purge($collection), 2, 'a purge of what it has been given');
	is(outcome($http->get('/Docs/Pull?' . $http->{client}->www_form_urlencode({ %of, cursor => $next->{cursor} }))),
		'410 resync_purged resync required', 'has to be told');
	my $told = pull(%of, cursor => $next->{cursor}, reconcile => 'true');
	is_deeply([ @$told{qw(reconcile lostAfter)} ], [ JSON::PP::true, undef ], 'or leads to a comparison');

	my @got;
	$page = undef;
	do
	{
		$page = pull(%of, $page ? (cursor => $page->{cursor}) : ());
		push @got, ids($page);
	} while ($page->{more} && @got < 20);
	is("@got", 'b c d e f', 'who starts again gets to the end');
	return;
}

# With every page and every answer after that
sub told_once
{
	my $collection = 'anna/once';
	my %of = (collection => $collection, clientId => 'c2', maxDocuments => 2, reconcile => 'true');

	upload('c1', $collection, 'a' .. 'h');
	my $answer = pull(%of, maxDocuments => 100);

	# There are more pages to come below what is purged.
	upload('c1', $collection, 'd' .. 'g');
	bury('c1', $collection, $_) for 'a' .. 'c';
	upload('c1', $collection, 'h');
	is(purge($collection), 2, 'a purge');

	my (@told, @got);
	do
	{
		$answer = pull(%of, cursor => $answer->{cursor});
		push @told, $answer->{reconcile} ? 1 : 0;
		push @got, ids($answer);
	} while ($answer->{more} && @told < 20);
	is("@told", '1 0 0', 'it is said with one page');
	is("@got", 'd e f g c h', 'of all that came');

	# If the answer is lost, the request is repeated, and the client is told
	# again.
	bury('c1', $collection, 'd');
	bury('c1', $collection, 'e');
	purge($collection);
	upload('c1', $collection, 'f');
	my @again = map { pull(%of, cursor => $answer->{cursor}) } 1 .. 2;
	is_deeply([ map { $_->{reconcile} } @again ], [ JSON::PP::true, JSON::PP::true ], 'to who has not heard it again');
	is_deeply($again[0]{documents}, $again[1]{documents}, 'with the same page');
	return;
}

# A client that has everything gets a 304, and keeps its cursor.
sub nothing_new
{
	my $collection = 'anna/tag';
	my $url = "/Docs/Pull?collection=$collection&clientId=c2&cursor=";
	my $ask = sub { my ($cursor, $tag, $more) = @_; $http->get("$url$cursor" . ($more // ''), headers => { 'if-none-match' => $tag }) };

	$http->post("/Docs?clientId=c1&collection=$collection", [ { id => 'a', clientVersion => 1, body => 1 } ]);
	my $first = $http->get("/Docs/Pull?collection=$collection&clientId=c2");
	my $cursor = DocsyncTest::Http::value_of($first)->{cursor};
	my $tag = $first->{headers}{etag};

	like($tag, qr{^W/"[0-9a-f]+\.\d+\.[0-9a-f]+"$}, 'an answer has a weak entity tag');
	my $answer = $ask->($cursor, $tag);
	is($answer->{status}, 304, 'nothing new');
	is($answer->{content} // '', '', 'is said without a body');
	is($answer->{headers}{etag}, $tag, 'with the tag');
	is($ask->($cursor, "W/\"1\", $tag")->{status}, 304, 'one of several tags');
	is($ask->($cursor, 'W/"1"')->{status}, 200, 'another tag');
	is($http->get("$url$cursor")->{status}, 200, 'no tag');
	is($ask->($cursor, $tag, '&state=true')->{status}, 200, 'a digest is asked for');
	is($http->get("/Docs/Pull?collection=$collection&clientId=c2", headers => { 'if-none-match' => $tag })->{status}, 200, 'from the beginning');
	is($http->get("/Docs/Pull?collection=$collection&clientId=c3", headers => { 'if-none-match' => $tag })->{status}, 200, 'another client');

	# The client's own documents are passed, too.
	$http->post("/Docs?clientId=c2&collection=$collection", [ { id => 'own', clientVersion => 1, body => 1 } ]);
	$answer = $ask->($cursor, $tag);
	is_deeply([ $answer->{status}, DocsyncTest::Http::value_of($answer)->{documents} ], [ 200, [] ], 'an own document');
	isnt($answer->{headers}{etag}, $tag, 'makes another tag');
	$tag = $answer->{headers}{etag};
	$cursor = DocsyncTest::Http::value_of($answer)->{cursor};
	is($ask->($cursor, $tag)->{status}, 304, 'and then nothing is new');
	$http->post("/Docs?clientId=c1&collection=$collection", [ { id => 'b', clientVersion => 1, body => 1 } ]);
	is($ask->($cursor, $tag)->{status}, 200, 'a document');

	# A client that has to compare is told so.
	$http->post("/Docs?clientId=c1&collection=$collection", [ { id => $_, clientVersion => 2, deleted => JSON::PP::true } ]) for qw(a b);
	$http->post("/Docs?clientId=c1&collection=$collection", [ { id => 'c', clientVersion => 1, body => 1 } ]);
	is($http->session->value(q{CALL docsync_purge('0', 'anna/tag')}), 1, 'a tombstone is purged');
	is($ask->($cursor, $tag)->{status}, 410, 'a purge');
	$answer = $ask->($cursor, $tag, '&reconcile=true');
	is($answer->{status}, 200, 'who can compare');
	is($answer->{headers}{etag}, undef, 'has no tag to come back with');
	return;
}

#-----------------------------------------------------------------------------

# Clients of several kinds write, delete and poll, and tombstones are purged at
# any time.  In the end each has what is stored, and no client was refused that
# had just downloaded everything.
sub clients_at_random
{
	my $collection = 'anna/random';
	my $purges = 0;
	my @clients = map { { id => "r$_->[0]", kind => $_->[1], size => $_->[2], documents => {}, refused => 0, told => 0, fresh => -1 } }
	  [ 1, 'time', undef ], [ 2, 'time', undef ], [ 3, 'cursor', 1 ], [ 4, 'cursor', 3 ], [ 5, 'compare', 2 ], [ 6, 'compare', 1000 ];
	my @faults;

	note "seed $SEED";
	srand $SEED;

	# A client that starts from scratch but has documents of its own isn't told what became of these; it has to
	# compare. Here no client does that.
	upload('r0', $collection, 'first');
	poll_at_random($_, $collection, \$purges, \@faults) for @clients;

	for (1 .. $STEPS)
	{
		my $client = $clients[ rand @clients ];
		my $what = rand;

		if ($what < 0.5)
		{
			my $id = 'd' . int rand 15;
			my $deleted = rand() < 0.5;

			$version++;
			$session->upload($client->{id}, $collection, document($id, $version, $deleted ? undef : 1));
			$client->{documents}{$id} = [ $version, $deleted ];
		}
		elsif ($what < 0.6)
		{
			$purges += purge($collection);
		}
		else
		{
			poll_at_random($client, $collection, \$purges, \@faults);
		}
	}

	for my $client (@clients)
	{
		poll_at_random($client, $collection, \$purges, \@faults);

		# A tombstone may be gone on one side only.
		my %live = map { @$_ } @{
			$session->rows('SELECT id, client_version FROM docsync.document WHERE collection = ? AND NOT deleted', $collection)
		};
		my %has = map { $_ => $client->{documents}{$_}[0] } grep { !$client->{documents}{$_}[1] } keys %{ $client->{documents} };
		is_deeply(\%has, \%live, "client $client->{id}, by $client->{kind}: has what there is");
		diag "$client->{id}, by $client->{kind}: refused $client->{refused} times, told to compare $client->{told} times";
	}
	is(join("\n", @faults), '', 'who has just downloaded everything is not refused');
	cmp_ok($purges, '>', 10, "$purges tombstones were purged");
	cmp_ok((sort { $a <=> $b } map { $_->{refused} + $_->{told} } @clients)[-1], '>', 0, 'and somebody had missed some');
	return;
}

sub poll_at_random
{
	my ($client, $collection, $purges, $faults) = @_;
	my %of = (collection => $collection, clientId => $client->{id}, $client->{size} ? (maxDocuments => $client->{size}) : (),
		$client->{kind} eq 'compare' ? (reconcile => 'true', state => 'true') : ());
	my $path = $client->{kind} eq 'time' ? '/Docs/Query' : '/Docs/Pull';
	my $key = $client->{kind} eq 'time' ? 'sinceUtc' : 'cursor';
	my $told = 0;

	while (1)
	{
		my $url = "$path?" . $http->{client}->www_form_urlencode({ %of, defined $client->{position} ? ($key => $client->{position}) : () });
		my $answer = $client->{kind} eq 'time' ? $http->post($url, '') : $http->get($url);

		if ($answer->{status} == 410)
		{
			push @$faults, "$client->{id} by $client->{kind}: " . outcome($answer) if $client->{fresh} == $$purges;
			last if @$faults > 5;
			$client->{refused}++;

			# What it has is void, except what it wrote itself, if that is still stored: this comes with origin
			# "own".
			$client->{documents} = {};
			$client->{position} = undef;
			$client->{fresh} = $$purges;
			take($client, value($http->post('/Docs/Query?'
				  . $http->{client}->www_form_urlencode({ collection => $collection, clientId => $client->{id}, origin => 'own' }), '')));
			next;
		}
		die "$url: $answer->{content}" if $answer->{status} != 200;

		my $value = value($answer);
		my $documents = ref $value eq 'ARRAY' ? $value : $value->{documents};
		$told = 1 if ref $value eq 'HASH' && $value->{reconcile};
		take($client, $documents);
		if ($client->{kind} eq 'time')
		{
			$client->{position} = $documents->[-1]{LastUpdateUtc} if @$documents;
			last;
		}
		$client->{position} = $value->{cursor};
		next if $value->{more};
		if ($told)
		{
			push @$faults, "$client->{id} told" if $client->{fresh} == $$purges;
			$client->{told}++;
			compare($client, $collection);
		}
		push @$faults, "$client->{id}: the state's count is $value->{state}{count}"
		  if $client->{kind} eq 'compare' && $value->{state}{count} != grep { !$_->[1] } values %{ $client->{documents} };
		last;
	}
	$client->{fresh} = $$purges;
	return;
}

sub take
{
	my ($client, $documents) = @_;

	for my $document (@$documents)
	{
		my $had = $client->{documents}{ $document->{id} };

		next if $had && $had->[0] > $document->{clientVersion};
		$client->{documents}{ $document->{id} } = [ $document->{clientVersion}, $document->{deleted} ? 1 : 0 ];
	}
	return;
}

# Nothing was lost: what isn't listed was deleted, and the tombstone is gone.
sub compare
{
	my ($client, $collection) = @_;
	my (%listed, $after);

	while (1)
	{
		my $answer = value($http->post('/Docs/Reconcile',
			{ clientId => $client->{id}, collection => $collection, cursor => $client->{position}, after => $after, maxDocuments => 4 }));

		$listed{ $_->{id} } = [ $_->{clientVersion}, $_->{deleted} ? 1 : 0 ] for @{ $answer->{rows} };
		$after = $answer->{after};
		last if !$answer->{more};
	}
	$client->{documents} = \%listed;
	return;
}

#-----------------------------------------------------------------------------

sub upload
{
	my ($client_id, $collection, @ids) = @_;

	$session->upload($client_id, $collection, document($_, ++$version, 1)) for @ids;
	return;
}

sub bury
{
	my ($client_id, $collection, $id) = @_;

	$session->upload($client_id, $collection, document($id, ++$version));
	return;
}

sub purge { return $session->value("CALL docsync_purge('0', ?)", $_[0]) }

sub pull
{
	my (%arguments) = @_;
	my $answer = $http->get('/Docs/Pull?' . $http->{client}->www_form_urlencode(\%arguments));

	die $answer->{content} if $answer->{status} != 200;
	return value($answer);
}

sub value { return DocsyncTest::Http::value_of($_[0]) }

# The ids of the documents in an answer
sub ids { return join ' ', map { $_->{id} } @{ $_[0]{documents} } }

# 200, or the status with code and message
sub outcome
{
	my ($answer) = @_;
	my $error = value($answer);

	return $answer->{status} == 200 ? 200 : join ' ', $answer->{status}, map { $_ // 'null' } @$error{qw(code message)};
}
