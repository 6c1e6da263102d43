# examples/postgrest/table.sql: a collection as one of PostgREST's tables, for
# libraries that know nothing of docsync.

use strict;
use warnings;

use lib 'test/t/lib';

use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DocsyncTest;
use DocsyncTest::Http;

my $EXAMPLES = "$ENV{TESTDIR}/examples/postgrest";
my $JSON = JSON::PP->new->utf8->canonical->allow_nonref;
my $TIME = qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?\+00:00$/;
my $RETURN = { prefer => 'return=representation' };

my $node = new_node('table');
my $http = DocsyncTest::Http->new($node, layer => 'postgrest');

$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('docsync'), '-f', "$EXAMPLES/table.sql" ], 'table.sql runs');
my $session = $http->session;
my $url = add_nginx();
my %token = map { $_ => DocsyncTest::Http::token(DocsyncTest::Http::claims(tenant => $_, collection => $_)) } qw(anna bert);

# To read it needs no such knowledge.
wait_for('PostgREST to know it', sub { request('PATCH', '?id=eq.-', { done => \1 })->{status} == 204 });

#-----------------------------------------------------------------------------
# As a table
#-----------------------------------------------------------------------------

is_deeply(rows('GET', ''), [], 'nothing yet');
is(request('POST', '', { id => 'n1', text => 'bread' })->{status}, 201, 'insert');
is_deeply(rows('POST', '', [ { id => 'n2', text => 'milk', done => \1 }, { id => 'n3', text => undef, done => undef } ], $RETURN),
	[ row('n2', 'milk', \1), row('n3') ], 'of several, with what was stored');
is_deeply(rows('GET', '?select=*&order=_modified'), [ row('n1', 'bread'), row('n2', 'milk', \1), row('n3') ], 'select');
is_deeply(rows('GET', '?done=is.true'), [ row('n2', 'milk', \1) ], 'by a column');
is_deeply(rows('PATCH', '?id=eq.n1', { done => \0 }, $RETURN), [ row('n1', 'bread', \0) ], 'update');
is_deeply(rows('PATCH', '?id=eq.n0', { done => \0 }, $RETURN), [], 'of nothing');
is_deeply(rows('DELETE', '?id=eq.n1', undef, $RETURN), [ row('n1', 'bread', \0) ], 'delete');
is_deeply(rows('GET', '?id=eq.n1'), [ row('n1', undef, undef, \1) ], '... leaves a tombstone');
is_deeply(rows('PATCH', '?id=eq.n1', { text => 'bread again', _deleted => \0 }, $RETURN), [ row('n1', 'bread again') ], 'which an update brings back');
refused('POST', '', { id => 'n1', text => 'x' }, 409, '23505', 'insert what is there');
refused('POST', '', [ { id => 'n9', text => 'x' }, { id => 'n1', text => 'x' } ], 409, '23505', 'in a batch, all or nothing');
refused('POST', '', { text => 'x' }, 400, '22023', 'without an id');
refused('PATCH', '?id=eq.n1', { id => 'n8' }, 400, '0A000', 'another id');
refused('PATCH', '?id=eq.n1', { color => 'x' }, 400, 'PGRST204', 'a column that there is not');

#-----------------------------------------------------------------------------
# Upserts
#-----------------------------------------------------------------------------

my $MERGE = { prefer => 'resolution=merge-duplicates,return=representation' };

is_deeply(rows('POST', '', [ { id => 'n2', text => 'oat milk' }, { id => 'n4', text => 'tea' } ], $MERGE), [ row('n2', 'oat milk'), row('n4', 'tea') ], 'upsert');
is_deeply(rows('GET', '?id=eq.n2'), [ row('n2', 'oat milk', \1) ], 'leaves columns alone that it does not name');
is(request('DELETE', '?id=eq.n4')->{status}, 204, 'what is deleted');
is_deeply(rows('POST', '', { id => 'n4', done => \1 }, $MERGE), [ row('n4', undef, \1) ], '... it brings back');
is_deeply(rows('GET', '?id=eq.n4'), [ row('n4', undef, \1) ], '... with nothing of what it was');
is_deeply(rows('POST', '', { id => 'n2', text => 'x' }, { prefer => 'resolution=ignore-duplicates,return=representation' }), [], 'ignore-duplicates');
is_deeply(rows('GET', '?id=eq.n2'), [ row('n2', 'oat milk', \1) ], '... leaves it as it is');
refused('POST', '?on_conflict=id', { id => 'n2', text => 'x' }, 400, '42P10', 'a view has no constraint to name', $MERGE);

#-----------------------------------------------------------------------------
# With docsync's own clients
#-----------------------------------------------------------------------------

# A version far ahead, a key that the view hasn't, a value that isn't a column's
my $ahead = (time + 43_200) * 1000;    # roles.sql allows a day
my $phone = 'clientId=phone&collection=anna/notes';

$http->post("/Docs?$phone", [
	{ id => 'n2', clientVersion => $ahead, body => { text => 'oat milk', done => 'maybe', by => 'phone' } },
	{ id => 'odd', clientVersion => 1, body => ['no object'] } ]);
is_deeply(rows('GET', '?id=in.(n2,odd)&order=id'), [ row('n2', 'oat milk'), row('odd') ], 'what others have put there can be read');
is_deeply(rows('PATCH', '?id=eq.n2', { text => 'rice milk' }, $RETURN), [ row('n2', 'rice milk') ], 'and be changed');
refused('PATCH', '?id=eq.odd', { text => 'x' }, 400, '22023', 'but for a body that has no keys');
my ($came) = grep { $_->{id} eq 'n2' } @{ DocsyncTest::Http::value_of($http->get("/Docs/Pull?$phone"))->{documents} };

is_deeply($came->{body}, { text => 'rice milk', by => 'phone' }, 'the phone receives it, its own key is still there');
is("$came->{clientId} $came->{clientVersion}", 'table ' . ($ahead + 1), '... in a version of its own');
is(request('PATCH', '?id=eq.n2', { text => 'x' }, {}, DocsyncTest::Http::token(DocsyncTest::Http::claims(client_id => 'tablet')))->{status}, 204, "a token's clientId");
is($session->value(q{SELECT client_id FROM docsync.document WHERE collection = 'anna/notes' AND id = 'n2'}), 'tablet', '... is that of the document');

#-----------------------------------------------------------------------------
# Tenants
#-----------------------------------------------------------------------------

is_deeply(rows('GET', '', undef, {}, $token{bert}), [], 'bert sees nothing of it');
is_deeply(rows('PATCH', '?id=eq.n1', { text => 'x' }, $RETURN, $token{bert}), [], '... changes');
is_deeply(rows('DELETE', '?id=eq.n1', undef, $RETURN, $token{bert}), [], '... and deletes nothing');
is_deeply(rows('POST', '', { id => 'n1', text => "bert's" }, $RETURN, $token{bert}), [ row('n1', "bert's") ], 'he has his own');
is_deeply(rows('GET', '?id=eq.n1'), [ row('n1', 'bread again') ], 'which anna does not see');
is(request('GET', '', undef, {}, undef)->{status}, 401, 'without a token there is nothing');
{
	my $none = DocsyncTest::Http::token({ role => 'docsync_user' });
	my $of_bert = DocsyncTest::Http::token({ role => 'docsync_user', collection => 'bert/notes' });

	for my $token ($none, $of_bert)
	{
		refused('GET', '', undef, 400, '22004', 'nor without a tenant', {}, $token);
		refused('POST', '', { id => 'n8', text => 'x' }, 400, '22004', '... and nothing is written', {}, $token);
	}
}
# A version that no other can follow
$session->do('SET docsync.max_version_lead = -1', q{SELECT docsync_upsert('c', '[{"id": "last", "clientVersion": 9223372036854775807, "body": {"text": "x"}}]', 'anna/notes')}, 'RESET docsync.max_version_lead');
refused('PATCH', '?id=eq.last', { text => 'y' }, 409, 'PT409', 'what has the highest version cannot be changed');
refused('DELETE', '?id=eq.last', undef, 409, 'PT409', '... nor deleted');
# A policy of the service's, for writing
$session->do(q{CREATE POLICY short ON docsync.document AS RESTRICTIVE TO docsync_user USING (true) WITH CHECK (coalesce(length(body ->> 'text'), 0) < 30)});
refused('POST', '', { id => 'n7', text => 'x' x 30 }, 403, '42501', 'a policy refuses an insert');
refused('PATCH', '?id=eq.n1', { text => 'x' x 30 }, 403, '42501', '... and an update');
$session->do('DROP POLICY short ON docsync.document');

#-----------------------------------------------------------------------------
# RxDB's Supabase plugin, request by request: a document that another has changed
# is not overwritten
#-----------------------------------------------------------------------------

is(request('POST', '', { id => 'r1', text => 'hello', _deleted => \0 })->{status}, 201, 'RxDB: a new document');
refused('POST', '', { id => 'r1', text => 'mine', _deleted => \0 }, 409, '23505', 'RxDB: one that is there');
is_deeply(rows('GET', '?select=*&id=eq.r1&limit=1'), [ row('r1', 'hello') ], '... is asked for');
my $edit = '?id=eq.r1&text=eq.hello&done=is.null&_deleted=eq.false&select=*';

is_deeply(rows('PATCH', $edit, { id => 'r1', text => 'hello, world', _deleted => \0 }, $RETURN), [ row('r1', 'hello, world') ], 'RxDB: an edit of what it has');
is_deeply(rows('PATCH', $edit, { id => 'r1', text => 'other', _deleted => \0 }, $RETURN), [], 'RxDB: an edit of what has changed since is a conflict');
is_deeply(rows('PATCH', $edit =~ s/hello/hello, world/r, { id => 'r1', text => 'hello, world', _deleted => \1 }, $RETURN), [ row('r1', undef, undef, \1) ], 'RxDB: a deletion');
deleted_stays('r1');
is_deeply(pulled(2), pulled(1000), 'RxDB: page by page comes what there is');

# Both have read it. Who writes last is told; nothing is overwritten.
{
	my ($one, $two) = map { as_anna() } 1, 2;
	my $update = q{UPDATE notes SET text = text || ' %s' WHERE id = 'n1'};

	$one->do('BEGIN', sprintf $update, 'one');
	$two->start(sprintf $update, 'two');
	wait_for('the second to wait', sub { $session->value(q{SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%two%'}) > 0 });
	$one->do('COMMIT');
	eval { $two->finish };
	like($@, qr/document "n1" was changed meanwhile/, 'of two updates at the same time the second is refused');
	is_deeply(rows('GET', '?id=eq.n1'), [ row('n1', 'bread again one') ], '... and the first is there');
}

# Rows are written one after the other.
{
	my @sessions = map { as_anna() } 1, 2;
	my @ids = qw(n1 n2);

	$sessions[$_]->do('BEGIN', "UPDATE notes SET done = true WHERE id = '$ids[$_]'") for 0, 1;
	$sessions[$_]->start("UPDATE notes SET done = true WHERE id = '$ids[1 - $_]'") for 0, 1;
	my @errors = map { eval { $_->finish; 1 } ? () : $@ } @sessions;

	is(scalar(grep { /deadlock detected/ } @errors), 1, 'two that write in different orders can deadlock');
	$_->do('ROLLBACK') for @sessions;
}

#-----------------------------------------------------------------------------
# A reader by _modified loses nothing, where a view on the table would
#-----------------------------------------------------------------------------

{
	my $late = as_anna();
	my $last = pulled(1000)->[-1]{_modified};
	my $of_the_table = q{SELECT string_agg(id, ' ') FROM docsync.document WHERE collection = 'anna/notes' AND last_update_utc > '%s'};

	$late->do('BEGIN', q{INSERT INTO notes (id, text) VALUES ('late', 'stamped early')});
	is(request('POST', '', { id => 'early', text => 'committed early' })->{status}, 201, 'another writes meanwhile');
	is_deeply(rows('GET', '?_modified=gt.' . escaped($last)), [], 'a reader is not given what is behind the one that is under way');
	is($session->value(sprintf $of_the_table, $last), 'early', '... which the table has');
	my $seen = $session->value(q{SELECT last_update_utc FROM docsync.document WHERE collection = 'anna/notes' AND id = 'early'});

	$late->do('COMMIT');
	is_deeply([ map { $_->{id} } @{ pulled(1000, $last) } ], [qw(late early)], 'then it is given both');
	is($session->value(sprintf $of_the_table, $seen), undef, '... of which a reader of the table has lost one');
}

#-----------------------------------------------------------------------------
# nginx
#-----------------------------------------------------------------------------

for my $path ('/rest/v1/', '/rest/v1/rpc/docsync_pull', '/notes', '/rpc/docsync_pull', '/rest/v1/notes/x')
{
	is($http->get($url =~ s{/rest/v1/notes}{$path}r)->{status}, 404, "nginx has no $path");
}
my $preflight = $http->request('OPTIONS', $url, undef, token => undef,
	headers => { origin => 'http://x', 'access-control-request-method' => 'PATCH', 'access-control-request-headers' => 'authorization,prefer' });

is($preflight->{status}, 200, 'pages of other sites may ask');
like($preflight->{headers}{'access-control-allow-methods'}, qr/PATCH/, '... for each method');
is(request('POST', '', { id => 'big', text => 'x' x 2_000_000 })->{status}, 413, 'a body that is too large');
done_testing();

# nginx with table.conf as well; the address of its view
sub add_nginx
{
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $conf = slurp_file("$EXAMPLES/table.conf");

	append_to_file("$http->{dir}/docsync.conf", $conf =~ s/127\.0\.0\.1:8081/127.0.0.1:$port/r);
	$http->stop_process('nginx', 'TERM');
	$http->start_nginx;
	return "http://127.0.0.1:$port/rest/v1/notes";
}

sub escaped { return $_[0] =~ s/([^A-Za-z0-9._~-])/sprintf '%%%02X', ord $1/ger }

sub request
{
	my ($method, $query, $body, $headers, $token) = @_;

	$token = $token{anna} if @_ < 5;
	return $http->request($method, $url . $query =~ s/ /%20/gr, $body, token => $token, headers => $headers // {});
}

# The rows of an answer, with 'TIME' for each _modified
sub rows
{
	my $answer = request(@_);
	my $rows = DocsyncTest::Http::value_of($answer);

	return "$answer->{status} $answer->{content}" if ref $rows ne 'ARRAY';
	return [ map { { %$_, _modified => $_->{_modified} =~ $TIME ? 'TIME' : $_->{_modified} } } @$rows ];
}

sub row
{
	my ($id, $text, $done, $deleted) = @_;

	return { id => $id, text => $text, done => $done && ($$done ? JSON::PP::true : JSON::PP::false),
		_deleted => $deleted ? JSON::PP::true : JSON::PP::false, _modified => 'TIME' };
}

sub refused
{
	my ($method, $query, $body, $status, $code, $name, $headers, @token) = @_;
	my $before = $http->state;
	my $answer = request($method, $query, $body, $headers // {}, @token);

	is("$answer->{status} " . ((DocsyncTest::Http::value_of($answer) // {})->{code} // ''), "$status $code", "$name: refused") or diag($answer->{content});
	is($http->state, $before, '... and nothing is stored');
	return;
}

# What is deleted isn't written again: all clients would download it once more.
sub deleted_stays
{
	my ($id) = @_;
	my $before = $http->state;

	is_deeply(rows('DELETE', "?id=eq.$id", undef, $RETURN), [], 'what is deleted is deleted once');
	is_deeply(rows('PATCH', "?id=eq.$id", { text => 'lost' }, $RETURN), [ row($id, undef, undef, \1) ], '... an update answers what is there');
	is_deeply([ map { $_->{id} } @{ rows('PATCH', "?id=eq.$id&done=is.null", { _deleted => \1 }, $RETURN) } ], [$id], '... by any filter');
	is($http->state, $before, '... and nothing is stored');
	return;
}

# All rows, in pages, by the last row's _modified and id
sub pulled
{
	my ($limit, $last) = @_;
	my $checkpoint = $last && { _modified => $last, id => "\x{7f}" };
	my @pulled;

	while (1)
	{
		my ($modified, $id) = $checkpoint ? map { escaped($_) } @$checkpoint{qw(_modified id)} : ();
		my $or = $checkpoint ? qq{&or=(%22_modified%22.gt.$modified,and(%22_modified%22.eq.$modified,%22id%22.gt.$id))} : '';
		my $page = DocsyncTest::Http::value_of(request('GET', "?select=*&order=_modified.asc,id.asc&limit=$limit$or"));

		push @pulled, @$page;
		return \@pulled if @$page < $limit;
		$checkpoint = $page->[-1];
	}
	return;
}

# A session as PostgREST has it for anna
sub as_anna
{
	my $session = $http->session;

	$session->do('SET ROLE docsync_user', q{SELECT set_config('request.jwt.claims', '{"tenant": "anna"}', false)});
	return $session;
}
