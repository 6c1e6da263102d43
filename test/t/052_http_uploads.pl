# What a thin layer could do to an upload or a page: truncate it, interrupt it,
# repeat it, round its numbers.

use strict;
use warnings;

use lib 'test/t/lib';

use IO::Socket::INET;
use JSON::PP;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use DocsyncTest;
use DocsyncTest::Http;

my $node = new_node('main');
my $http = DocsyncTest::Http->new($node);
my $session = $http->session;
my $n = 0;

#-----------------------------------------------------------------------------
# Parameters and headers that mean something to PostgREST
#-----------------------------------------------------------------------------

my @parameters = ('limit=1', 'limit=0', 'offset=2', 'select=received', 'columns=id', 'id=eq.x', 'order=id.desc', 'and=(id.eq.1)',
	'_=1', 'limit=0;x=1');
my @headers = (
	{ prefer => 'tx=rollback' }, { prefer => 'return=minimal' }, { prefer => 'params=single-object' }, { prefer => 'count=exact' },
	{ prefer => 'max-affected=1, handling=strict' }, { prefer => 'timezone=America/New_York' },
	{ range => '0-0' }, { 'range-unit' => 'items', range => '5-6' },
	{ accept => 'text/csv' }, { accept => 'application/vnd.pgrst.object+json' }, { accept => 'application/vnd.pgrst.plan' },
	{ 'accept-profile' => 'docsync' }, { 'content-profile' => 'docsync' }, { 'x-http-method-override' => 'GET' },
	{ 'content-type' => 'text/csv' }, { 'content-type' => 'application/vnd.pgrst.object' });

# A header means nothing ...
for my $headers (@headers)
{
	my $name = join ' ', %$headers;
	my $collection = 'anna/' . ++$n;
	my $documents = documents(4);
	my $answer = $http->post("/Docs?clientId=c1&collection=$collection", $documents, headers => $headers);

	is($answer->{status}, 200, "$name: an upload") or diag($answer->{content});
	is_deeply([ map { $_->{outcome} } @{ results($answer) } ], [ ('created') x 4 ], "$name: all results");
	is(stored($collection), 4, "$name: all stored");

	$answer = $http->post('/Docs/Sync', { clientId => 'c1', collection => $collection, documents => documents(4, 2) }, headers => $headers);
	is_deeply([ map { $_->{outcome} } @{ results($answer) } ], [ ('updated') x 4 ], "$name: a sync") or diag($answer->{content});

	$answer = $http->post("/Docs/Query?clientId=c2&collection=$collection", '', headers => $headers);
	is_deeply(ids($answer), [ 1 .. 4 ], "$name: a query") or diag($answer->{content});
	$answer = $http->get("/Docs/Pull?clientId=c2&collection=$collection", headers => $headers);
	is_deeply(ids($answer), [ 1 .. 4 ], "$name: a pull") or diag($answer->{content});
}

# ... and a parameter is refused.
for my $parameter (@parameters)
{
	my $collection = 'anna/' . ++$n;

	for my $answer (
		$http->post("/Docs?clientId=c1&collection=$collection&$parameter", documents(4)),
		$http->post("/Docs/Sync?$parameter", { clientId => 'c1', collection => $collection, documents => documents(4) }),
		$http->post("/Docs/Query?clientId=c2&collection=$collection&$parameter", ''),
		$http->get("/Docs/Pull?clientId=c2&collection=$collection&$parameter"))
	{
		is($answer->{status}, 400, "$parameter: $answer->{url}") or diag($answer->{content});
	}
	is(stored($collection), 0, "$parameter: nothing is stored");
}

# At PostgREST itself they have PostgREST's meaning, but an upload is never
# truncated: everything is stored or nothing, and the answer says so.
for my $case ($http->has_rpc ? ((map { [ $_, {} ] } @parameters), (map { [ '', $_ ] } @headers)) : ())
{
	my ($parameter, $headers) = @$case;
	my $name = join ' ', grep { length } $parameter, %$headers;
	my $collection = 'anna/' . ++$n;
	my $answer = $http->post("/rpc/docsync_sync?$parameter",
		{ clientId => 'c1', collection => $collection, documents => documents(4) }, headers => $headers);
	my $stored = stored($collection);
	my $received = $answer->{content} =~ /"received":4/;

	like($stored, qr/^[04]$/, "$name at PostgREST: all or nothing");
	ok($stored == 4 || !$received, "$name at PostgREST: not stored is not said to be");
}

# db-max-rows truncates neither a page nor an upload.
if ($http->has_rpc)
{
	my $short = DocsyncTest::Http->new($node, PGRST_DB_MAX_ROWS => 3);

	is($short->get('/rpc/docsync_query_since?client_id=x&collection=anna/1')->{content} =~ s/"client_version"//g, 3,
		'db-max-rows = 3 cuts a result of rows');
	for my $path (qw(/rpc/docsync_sync /Docs/Sync))
	{
		my $collection = 'anna/' . ++$n;
		my $answer = $short->post($path, { clientId => 'c1', collection => $collection, documents => documents(10) });

		is(scalar @{ results($answer) }, 10, "$path: not the results");
		is(stored($collection), 10, "$path: not an upload");
		$answer = $short->post($path, { clientId => 'c2', collection => $collection });
		is_deeply(ids($answer), [ sort 1 .. 10 ], "$path: not a page");
	}
}

#-----------------------------------------------------------------------------
# Large and broken uploads
#-----------------------------------------------------------------------------

{
	my $documents = documents(5000, 1, 'x' x 10_000);
	my $answer = $http->post('/Docs?clientId=c1&collection=anna/large', $documents);

	is($answer->{status}, 200, '50 MB are accepted');
	is(scalar @{ results($answer) }, 5000, 'with a result for each document');
	is($session->value("SELECT sum(length(body #>> '{}')) FROM docsync.document WHERE collection = 'anna/large'"),
		50_000_000, 'and stored');
	$answer = $http->get('/Docs/Pull?clientId=c2&collection=anna/large&maxDocuments=5000');
	is(length($answer->{content}) > 50_000_000 && $answer->{status}, 200, 'and come back');
}

# Numbers that are short when sent and long when printed: a document with them
# could be stored, but never be sent to anybody.
{
	my $numbers = join ',', ('1e131071') x 9000;
	my $documents = qq([{"id":"short","clientVersion":1,"body":1},{"id":"long","clientVersion":1,"body":[$numbers]}]);

	for my $request ([ '/Docs?clientId=c1&collection=anna/numbers', $documents ],
		[ '/Docs/Sync', qq({"clientId":"c1","collection":"anna/numbers","documents":$documents}) ])
	{
		my $answer = $http->post(@$request);

		is($answer->{status}, 400, "$request->[0]: 9,000 numbers of 131,072 digits are refused");
		like($answer->{content}, qr/"document 2, \\"body\\": number too long"/, 'and named');
	}
	is(stored('anna/numbers'), 0, 'nothing is stored');
}

# Bodies that are arrays: PostgREST alone would take the first element and
# drop the others.
{
	my @bodies = map { { clientId => 'c1', collection => 'anna/array', documents => [ $_ ] } } @{ documents(3) };
	my $answer = $http->post('/Docs/Sync', \@bodies);

	is($answer->{status}, 400, 'an array of syncs is refused');
	is(stored('anna/array'), 0, 'whole');
}

for my $path ('/Docs?clientId=c1&collection=anna/broken', $http->has_rpc ? '/rpc/docsync_sync' : ())
{
	my $text = JSON::PP->new->utf8->encode($path =~ /rpc/ ?
		  { clientId => 'c1', collection => 'anna/broken', documents => documents(1000) } : documents(1000));
	my $token = DocsyncTest::Http::token(DocsyncTest::Http::claims());
	my $head = "POST $path HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer $token\r\n";

	for my $form ("Content-Length: " . length($text), 'Transfer-Encoding: chunked')
	{
		for my $part (0, 1, int(length($text) / 2), length($text) - 1)
		{
			my ($port) = $http->url($path) =~ /:(\d+)/;
			my $socket = IO::Socket::INET->new("127.0.0.1:$port") // die "connect: $@";
			my $sent = substr $text, 0, $part;

			print $socket "$head$form\r\n\r\n", $form =~ /chunked/ && $part ? sprintf("%x\r\n%s\r\n", $part, $sent) : $sent;
			close $socket;
		}
	}
	# Later requests find the others finished.
	is($http->post('/Docs?clientId=c1&collection=anna', [])->{status}, 200, "$path still works");
	sleep 0.5;
	is(stored('anna/broken'), 0, "$path: connections that broke have stored nothing");
}

#-----------------------------------------------------------------------------
# A retry after an answer was lost
#-----------------------------------------------------------------------------

{
	my $documents = [ @{ documents(3) }, { id => 'gone', clientVersion => 1, deleted => JSON::PP::true } ];
	my $first = results($http->post('/Docs?clientId=c1&collection=anna/retry', $documents));
	my $state = $http->state;
	my $clock = $session->value('SELECT last_value FROM docsync.clock');

	for my $request ([ '/Docs?clientId=c1&collection=anna/retry', $documents ],
		[ '/Docs/Sync', { clientId => 'c1', collection => 'anna/retry', documents => $documents } ])
	{
		my $again = results($http->post(@$request));

		is_deeply([ map { $_->{outcome} } @$again ], [ ('unchanged') x 4 ], "$request->[0] again: unchanged");
		is_deeply([ map { $_->{LastUpdateUtc} } @$again ], [ map { $_->{LastUpdateUtc} } @$first ], 'the same stamps');
	}
	is($http->state, $state, 'no row was written');
	is($session->value('SELECT last_value FROM docsync.clock'), $clock, 'the clock was not moved');
	is_deeply([ map { $_->{outcome} } @{ results($http->post('/Docs?clientId=c2&collection=anna/retry', $documents)) } ],
		[ ('discarded') x 4 ], 'from another client the same would be discarded');
}

#-----------------------------------------------------------------------------
# Values are returned as they were sent
#-----------------------------------------------------------------------------

# In the order of their ids, which is that of their stamps
my @integers = sort qw(0 1 -1 9007199254740993 9223372036854775807 -9223372036854775808);

for my $path (qw(/Docs /Docs/Sync))
{
	my $collection = 'anna/' . ++$n;
	my $documents = join ',', map { qq({"id":"$_","clientVersion":$_,"body":$_}) } @integers;
	my $answer = $path eq '/Docs'
	  ? $http->post("$path?clientId=c1&collection=$collection", "[$documents]")
	  : $http->post($path, qq({"clientId":"c1","collection":"$collection","documents":[$documents]}));

	for my $text ($answer->{content}, $http->post("/Docs/Query?clientId=c2&collection=$collection", '')->{content},
		$http->get("/Docs/Pull?collection=$collection")->{content},
		$http->post('/Docs/Sync', { clientId => 'c2', collection => $collection })->{content})
	{
		is_deeply([ $text =~ /"clientVersion":(-?\d+)/g ], \@integers, "$path: integers of 64 bits are exact");
	}
	is_deeply([ $http->get("/Docs/Pull?collection=$collection")->{content} =~ /"body":(-?\d+)/g ], \@integers, 'in bodies, too');
}
for my $body ('{"a": [1, null, true, "\"\\\\\/\b\f\n\r\t\u0001\u00e9\u20ac\ud83d\ude00"]}', '""', 'null', '[]', 'false', '0.10',
	'"</script>"')
{
	my $collection = 'anna/' . ++$n;
	my $json = JSON::PP->new->utf8->canonical->allow_nonref;

	$http->post("/Docs?clientId=c1&collection=$collection", qq([{"id":"\\"\\u0001\\ud83d\\ude00","clientVersion":1,"body":$body}]));
	my ($document) = @{ DocsyncTest::Http::value_of($http->post("/Docs/Query?clientId=c2&collection=$collection", '')) };
	is($json->encode($document->{body}), $json->encode($json->decode($body)), "body $body");
	is($document->{id}, "\"\x01\x{1f600}", 'and its id');
}

# An error of one document, refusing only it or the whole batch, has the same
# text
{
	my $errors = sub { [ map { $_->{error} } grep { $_->{outcome} eq 'refused' } @{ results($_[0]) } ] };

	$session->do(
		q{ALTER TABLE docsync.document ADD CONSTRAINT even CHECK (coalesce((body ->> 'n')::int % 2 = 0, true)) NOT VALID},
		q{CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				IF new.body ->> 'refuse' = 'suppress' THEN
					RETURN NULL;
				END IF;
				RAISE SQLSTATE 'PT409' USING MESSAGE = 'not this one', DETAIL = 'A detail.', HINT = 'A hint.';
			END $$},
		q{CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON docsync.document FOR EACH ROW WHEN (new.body ? 'refuse') EXECUTE FUNCTION refuse()});
	for my $case (
		[ { body => { n => 17 } }, 400, '23514', undef ],
		[ { body => { n => 'x' } }, 400, '22P02', undef ],
		[ { body => { refuse => 1 } }, 409, 'PT409', 'A detail.' ],
		[ { body => { refuse => 'suppress' } }, 422, 'PT422', 'A trigger on docsync.document may have suppressed it.' ],
		[ { body => 1, clientVersion => 'x' }, 400, '22023', 'It is a string.' ],
		[ { body => 1, id => '' }, 400, '22023', 'It has 0 bytes.' ],
		[ { body => 1, more => 1 }, 400, '22023', 'It has the key "more".' ],
		[ { body => 'x' x 1_100_000 }, 413, 'PT413', undef ])
	{
		my ($bad, $status, $code, $text) = @$case;
		my $collection = 'anna/' . ++$n;
		my $documents = documents(4, 1, 1);
		my $id = $bad->{id} // '3';

		$documents->[2] = { id => '3', clientVersion => 1, %$bad };
		my $answer = $http->post("/Docs?clientId=c1&collection=$collection", $documents);
		my $error = DocsyncTest::Http::value_of($answer);
		my $details = eval { decode_json($error->{details} // '') } // {};
		is($answer->{status}, $status, "$code: all are refused");
		is($error->{code}, $code, "$code: with the code");
		is($details->{document}, 3, "$code: and the document");
		is($details->{id} // $id, $id, "$code: and its id, unless what is wrong comes before it");
		is($details->{text}, $text, "$code: and the detail") if defined $text;
		is(stored($collection), 0, "$code: and none is stored");

		for my $request ([ "/Docs?clientId=c1&collection=$collection&atomic=false", $documents ],
			[ '/Docs', { clientId => 'c1', collection => $collection, atomic => JSON::PP::false, documents => $documents } ],
			[ '/Docs?atomic=false', { clientId => 'c1', collection => $collection, atomic => JSON::PP::true, documents => $documents } ],
			[ '/Docs/Sync', { clientId => 'c1', collection => $collection, atomic => JSON::PP::false, documents => $documents } ])
		{
			$answer = $http->post(@$request);
			is($answer->{status}, 200, "$code: $request->[0] stores the others");
			my $refused = $errors->($answer)->[0];
			$error->{code} = { PT413 => '54000', PT422 => '27000' }->{$code} // $code;		# a status is for the whole request
			for my $one ($refused, $error)
			{
				my $place = ref $one->{details} ? $one->{details} : decode_json($one->{details});

				delete $place->{offset};
				delete $place->{text} if $code eq '23514';		# contains a stamp
				$one->{details} = $place;
			}
			is_deeply($refused, $error, "$code: ... in the same words");
			is(scalar @{ $errors->($answer) }, 1, "$code: ... one is refused");
			is(stored($collection), 3, "$code: ... three are stored");
		}
	}
	for my $query ('atomic=no', 'atomic=False')
	{
		is($http->post("/Docs?clientId=c1&collection=anna/atomic&$query", documents(1))->{status}, 400, $query);
	}
	$session->do('DROP TRIGGER refuse ON docsync.document', 'ALTER TABLE docsync.document DROP CONSTRAINT even');
}

# Somebody holds a row: requests that need it wait, for lock_timeout, and don't take all connections.
{
	my $waiting_max = $http->has_rpc ? 19 : 10;		# of 20; the gateway keeps half of them for other collections
	$http->post('/Docs?clientId=c1&collection=anna/held', [ { id => 'held', clientVersion => 1, body => 1 } ]);
	$session->do('BEGIN', "UPDATE docsync.document SET body = '2' WHERE id = 'held'");

	my @waiting = map {
		my $n = $_;
		in_child(sub {
			my $answer = $http->post("/Docs?clientId=w$n&collection=anna/held", [ { id => 'held', clientVersion => 9, body => $n } ]);
			POSIX::_exit($answer->{status} == 500 && $answer->{content} =~ /"code":"55P03"/ || $answer->{status} == 503 && !$http->has_rpc ? 0 : 1);
		})
	} 1 .. 25;
	wait_for('them to wait', sub { $session->value("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") >= $waiting_max });

	my $begin = time;
	is($http->get('/Docs/Pull?collection=anna/other')->{status}, 200, 'another collection while a row is held');
	cmp_ok(time - $begin, '<', 20, '... comes in time');
	my $failed = grep { waitpid $_, 0; $? != 0 } @waiting;
	is($failed, 0, 'who wants the row is told to try again');
	$session->do('COMMIT');
	is(results($http->post('/Docs?clientId=c2&collection=anna/held', [ { id => 'held', clientVersion => 9, body => 2 } ]))->[0]{outcome},
		'discarded', '... and gets the winner then');
}

# PostgREST passes an answer on as it is: it recognizes the type by its name,
# and makes no JSON of it.
if ($http->has_rpc)
{
	my $from = -s $node->logfile;

	$session->do(q{ALTER SYSTEM SET log_statement = 'all'}, 'SELECT pg_reload_conf()');
	wait_for('the setting', sub { $session->value('SHOW log_statement') eq 'all' });
	for my $request ([ '/Docs?clientId=c1&collection=anna/raw', documents(1) ], [ '/Docs/Query?clientId=c2&collection=anna/raw', '' ],
		[ '/Docs/Sync', { clientId => 'c2', collection => 'anna/raw' } ], [ '/Docs/Reconcile', { collection => 'anna/raw' } ],
		[ '/Docs/Get', { collection => 'anna/raw', ids => ['1'] } ])
	{
		is($http->post(@$request)->{status}, 200, "$request->[0] as it is");
	}
	is($http->get('/Docs/Pull?collection=anna/raw')->{status}, 200, '/Docs/Pull as it is');
	$session->do('ALTER SYSTEM RESET log_statement', 'SELECT pg_reload_conf()');

	my @calls = grep { /pgrst_source/ } split /\n/, substr slurp_file($node->logfile), $from;
	is(scalar(grep { m{"api"\."\*/\*"\(_postgrest_t\.pgrst_scalar\) AS body} } @calls), 6, 'PostgREST knows the type by its name');
	is(scalar(grep { /json_agg|row_to_json|to_json/ } @calls), 0, 'and makes no JSON of its own');
	is(scalar(grep { /BEGIN.*READ ONLY/ } split /\n/, substr slurp_file($node->logfile), $from), 4,
		'what does not write is run read-only');
}

# For browsers
{
	my $answer = $http->request('OPTIONS', '/Docs', undef, token => undef,
		headers => { origin => 'https://example.org', 'access-control-request-method' => 'POST' });

	is($answer->{status}, 204, 'a preflight needs no token');
	is($answer->{headers}{'access-control-allow-origin'}, '*', 'any origin may ask');
	like($answer->{headers}{'access-control-allow-headers'}, qr/Authorization.*X-Client-Id/i, 'with a token');
	$answer = $http->post('/Docs', [], token => undef, headers => { origin => 'https://example.org' });
	is($answer->{headers}{'access-control-allow-origin'}, '*', 'an error can be read, too, and says so once');
	is($http->request('POST', '/Docs/Query?clientId=x&collection=anna/large', '', headers => { 'accept-encoding' => 'gzip' })
		->{headers}{'content-encoding'}, 'gzip', 'answers are compressed for who wants it');
}

# Nobody waits forever: statement_timeout is that of the login role; that of the role named by a token is never used.
{
	my $login = $http->has_rpc ? 'docsync_authenticator' : 'docsync_gateway';

	$session->do("ALTER ROLE $login SET statement_timeout = '700ms'", "ALTER ROLE $login SET lock_timeout = 0", "ALTER ROLE docsync_user SET statement_timeout = '1ms'");
	$http->stop_layer;
	$http->start_layer;
	$http->post('/Docs?clientId=c1&collection=anna/held', [ { id => 'held, too', clientVersion => 1, body => 1 } ]);
	$session->do('BEGIN', "UPDATE docsync.document SET body = '3' WHERE id = 'held, too'");
	my $answer = $http->post('/Docs?clientId=c1&collection=anna/held', [ { id => 'held, too', clientVersion => 9, body => 1 } ]);
	is("$answer->{status} " . DocsyncTest::Http::value_of($answer)->{code}, '500 57014', 'who waits for longer than statement_timeout is told to try again');
	$session->do('COMMIT');
	is($http->post('/Docs?clientId=c1&collection=anna/many', documents(1000))->{status}, 200, '... but for that a request takes the time that it needs');
	$session->do("ALTER ROLE $login SET statement_timeout = '55s'", "ALTER ROLE $login SET lock_timeout = '3s'", 'ALTER ROLE docsync_user RESET statement_timeout');
	$http->stop_layer;
	$http->start_layer;
}

done_testing();

sub documents
{
	my ($count, $version, $body) = @_;

	return [ map { { id => "$_", clientVersion => $version // 1, body => $body // { n => $_ } } } 1 .. $count ];
}

sub results { return (DocsyncTest::Http::value_of($_[0]) // {})->{results} // [] }

# The ids of the documents in an answer
sub ids
{
	my $value = DocsyncTest::Http::value_of($_[0]);

	$value = $value->{documents} if ref $value eq 'HASH';
	return [ map { $_->{id} } @{ $value // [] } ];
}

sub stored
{
	return $session->value('SELECT count(*) FROM docsync.document WHERE collection = ?', $_[0]);
}
