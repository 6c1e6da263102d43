# Clients that hold several collections synchronise them in one request, over
# HTTP and by SQL.  What happens to one collection doesn't stop the others.  The
# client over HTTP is the JavaScript one, if there is one, otherwise Python's.

use strict;
use warnings;

use lib 'test/t/lib';

use DocsyncTest;
use DocsyncTest::Clients;
use DocsyncTest::Http;
use Test::More;

my @NAMES = map { "anna/$_" } qw(a b c);
my $ALL = join ' ', 'sync', @NAMES;
my $LANGUAGE = $ENV{DOCSYNC_JAVASCRIPT} ? 'javascript' : 'python';

my $node = new_node('main');
my $http = DocsyncTest::Http->new($node);
my $admin = $http->session;
my %clients = (
	phone => DocsyncTest::Clients->new('phone', $http, \@NAMES, language => $LANGUAGE),
	sql => DocsyncTest::Clients->new('sql', $http, \@NAMES, dsn => $node->connstr('docsync')));

# The first write begins the epoch.
$http->post('/Docs/Sync', { clientId => 'first', collection => 'anna' });

for my $name (sort keys %clients)
{
	my $client = $clients{$name};
	my ($other) = grep { $_ != $client } values %clients;

	$client->put($_, $name, "of $_") for @NAMES;
	is_deeply($client->sync, {}, "$name: synchronises");
	is_deeply($client->log, [$ALL], '... its three collections in one request');
	is_deeply($other->sync, {}, '... and so does the other client');
	is_deeply($other->log, [$ALL], '... in one');
	is($other->content->{$_}{$name}, "of $_", "... what was put into $_ has come") for @NAMES;

	# Offline edits in each, of the same document; the last wins
	$other->put($_, 'both', 'older') for @NAMES;
	$client->put($_, 'both', "newer, of $_") for @NAMES;
	$client->delete('anna/b', $name);
	$client->sync;
	$other->sync;
	is_deeply($other->content, $client->content, "$name: edits of both, offline: both have the same");
	is($other->content->{$_}{both}, "newer, of $_", "... the newer one in $_") for @NAMES;
	ok(!exists $other->content->{'anna/b'}{$name}, '... and what was deleted is');
	$_->log for values %clients;

	# A page is for all.
	$client->put_all('anna/a', { map { ("page $_" => $name) } 1 .. 10 });
	$client->put('anna/c', 'page', $name);
	$client->sync;
	$other->log;
	$other->sync(6);
	is_deeply($other->log, [ $ALL, 'sync anna/a' ], "$name: who has more goes on, and nobody else");
	is_deeply($other->content, $client->content, '... and has all');
	$_->log for values %clients;
}

for my $name (sort keys %clients)
{
	my $client = $clients{$name};
	my $other = DocsyncTest::Clients->new("other $name", $http, \@NAMES, language => $LANGUAGE);

	# One collection is refused: its cursor belongs to another collection
	$client->spoil_cursor('anna/b', 'anna/a');
	$client->put($_, 'spoilt', $name) for @NAMES;
	is_deeply($client->sync, { 'anna/b' => '400 22023' }, "$name: a collection is refused");
	is_deeply([ grep { /^sync/ } @{ $client->log } ], [$ALL], '... after the request for all');
	$other->sync;
	is_deeply([ map { $other->content->{$_}{spoilt} } @NAMES ], [ $name, $name, $name ], '... and the others, and its upload, are there');
}

# Their stores are broken for good; a client that starts over has new stores.
$clients{phone} = DocsyncTest::Clients->new('phone 2', $http, \@NAMES, language => $LANGUAGE);
$clients{sql} = DocsyncTest::Clients->new('sql 2', $http, \@NAMES, dsn => $node->connstr('docsync'));
for my $name (sort keys %clients)
{
	$clients{$name}->sync;
	$clients{$name}->log;
}

# The refusal of one document concerns only that one, in whichever collection.
$admin->do(q{ALTER TABLE docsync.document ADD CONSTRAINT no_refuse CHECK (body ->> 'refuse' IS NULL) NOT VALID});
for my $name (sort keys %clients)
{
	my $client = $clients{$name};

	$client->put($_, "fine $name", { n => 1 }) for @NAMES;
	$client->put('anna/b', "bad $name", { refuse => 1 });
	is_deeply($client->sync, {}, "$name: a document that is refused");
	is_deeply($client->problems, { 'anna/b' => ["bad $name"] }, '... is set aside');
	is($admin->value("SELECT count(*) FROM docsync.document WHERE id = 'fine $name'"), 3, '... and the others are there');
	is_deeply($client->log, [$ALL], '... after one request');
}
$_->sync for values %clients;
$_->log for values %clients;

# One collection is purged while they are away: they compare that one only.
$admin->do(q{SELECT FROM docsync_upsert('somebody', '[{"id": "both", "clientVersion": 4000000000000, "deleted": true}, {"id": "last", "clientVersion": 1, "deleted": true}]', 'anna/b')});
$admin->do(q{SELECT FROM docsync_upsert('somebody', '[{"id": "new", "clientVersion": 1, "body": 1}]', 'anna/c')});
$admin->do(q{SELECT FROM docsync_upsert('else', '[{"id": "last", "clientVersion": 2, "deleted": true}, {"id": "very last", "clientVersion": 2, "deleted": true}]', 'anna/b')});
$admin->do(q{CALL docsync_purge('0', 'anna/b')});
for my $name (sort keys %clients)
{
	my $client = $clients{$name};

	$client->equal;
	is_deeply($client->sync, {}, "$name: one collection was purged");
	is_deeply($client->log, [$ALL], '... it is told with the page');
	is($client->content->{'anna/c'}{new}, 1, '... which the others get as well');
	$client->sync;
	is($client->log->[0], $ALL, '... compares with the next');
	$client->sync;
	ok(!exists $client->content->{'anna/b'}{both}, '... and knows what was deleted');
	$client->compare;
	$client->sync;
	is($client->equal, 3, '... all are the same as the service has');
	$client->log;
}

# What one collection has lost is brought back, and the others aren't affected.
$admin->do('SET session_replication_role = replica', q{DELETE FROM docsync.document WHERE collection = 'anna/a'},
	'RESET session_replication_role', 'SELECT docsync_new_epoch()');
my @log;
for (1 .. 3)
{
	for my $name (sort keys %clients)
	{
		is_deeply($clients{$name}->sync, {}, "$name: after a loss");
		push @log, @{ $clients{$name}->log };
	}
}
is_deeply([ grep { !/^sync/ && !m{ anna/a$} } @log ], [], 'only what was lost has taken requests of its own');
cmp_ok($admin->value(q{SELECT count(*) FROM docsync.document WHERE collection = 'anna/a'}), '>', 10, 'it is there again');
for my $name (sort keys %clients)
{
	$clients{$name}->compare;
	$clients{$name}->sync;
	is($clients{$name}->equal, 3, "$name has what the service has");
}
my %content = map { $_ => $clients{$_}->content } keys %clients;
delete $content{$_}{'anna/b'}{"bad $_"} for keys %clients;
is_deeply($content{sql}, $content{phone}, 'and both have the same, but for what was refused of each');

done_testing();
