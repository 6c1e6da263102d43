# Clients in the midst of what they are doing, while the store that they sync
# with moves.
#
# Each has a position that the old server has given it.  What that server would
# answer is noted when the store is handed over; the new one must answer the
# same.

package DocsyncTest::Movers;

use strict;
use warnings;

use DocsyncTest;
use JSON::PP;
use Storable qw(dclone);
use Test::More;

our @TENANTS = qw(anna ben);

# A store in a database of the node given, with a policy, tombstones, a horizon,
# and clients.  Options: database.
sub new
{
	my ($class, $node, %options) = @_;
	my $database = $options{database} // 'postgres';
	my $self = bless { node => $node, database => $database, positions => [] }, $class;
	my $session = $self->{session} = connect_to($node, $database);

	make_roles($node);
	$session->do('SET client_min_messages = warning', 'CREATE EXTENSION IF NOT EXISTS docsync', 'SELECT docsync_create_store()',
		(map { "SELECT docsync_grant('$_')" } @TENANTS),
		'ALTER TABLE docsync.document ADD note text, ENABLE ROW LEVEL SECURITY',
		'CREATE POLICY tenant ON docsync.document USING (collection = current_user)');

	for my $tenant (@TENANTS)
	{
		$self->add_position('begins', $tenant, undef);
		$session->upload('laptop', $tenant, map { document("d$_", 1, qq("of $tenant, $_")) } 1 .. 40);
		$self->add_position('first page', $tenant, $self->page($tenant, 'phone', undef, 15));
		$session->upload('tablet', $tenant, map { document("gone $_", 1) } 1 .. 10);
		$self->add_position('before what was purged', $tenant, $self->page($tenant, 'phone', undef, 1000));
		$session->upload('tablet', $tenant, map { document("gone too $_", 1) } 1 .. 5);
	}
	$session->do("CALL docsync_purge('0', 'anna')");
	$self->{replicas} = [
		map({ DocsyncTest::Replica->new(collection => $_) } @TENANTS),
		map({ DocsyncTest::CursorReplica->new(collection => $_, client_id => 'replica', max_documents => 7) } @TENANTS)];
	$_->poll($session) for @{ $self->{replicas} };

	for my $tenant (@TENANTS)
	{
		$session->upload('laptop', $tenant, map { document("d$_", 2, qq("again $_")) } 10 .. 15);
		$self->add_position('second page', $tenant, $self->page($tenant, 'phone', $self->page($tenant, 'phone', undef, 30), 3));
		$session->upload('phone', $tenant, document('own', 1, '1'), document('d20', 3));
		$self->add_position('nothing new', $tenant, $self->page($tenant, 'phone', undef, 1000));
		$session->do("UPDATE docsync.document SET body = '\"SQL\"' WHERE id = 'd30' AND collection = '$tenant'");
		$self->add_position('all its life', $tenant, $self->page($tenant, 'phone', undef, 1000));
	}
	return $self;
}

sub make_roles
{
	my ($node) = @_;
	my $session = connect_to($node);

	$session->do(map { "CREATE ROLE $_" } grep { !$session->value('SELECT count(*) FROM pg_roles WHERE rolname = ?', $_) } @TENANTS);
	$session->close;
	return;
}

sub session { return $_[0]{session} }

# The cursor after a page
sub page
{
	my ($self, $tenant, $client_id, $cursor, $max_documents) = @_;

	return ($self->{session}->download_by_cursor($client_id, $cursor, 'other', $tenant, $max_documents))[1];
}

sub add_position
{
	my ($self, $name, $tenant, $cursor) = @_;

	push @{ $self->{positions} }, [ $name, $tenant, $cursor ];
	return;
}

# What a server answers to each position, by its cursor and by its stamp alone.
sub answers
{
	my ($self, $node) = @_;
	my %answers;

	for my $tenant (@TENANTS)
	{
		my $session = connect_to($node, $self->{database});

		$session->do("SET SESSION AUTHORIZATION $tenant");
		for my $position (grep { $_->[1] eq $tenant } @{ $self->{positions} })
		{
			my ($name, undef, $cursor) = @$position;
			my ($stamp) = ($cursor // '') =~ /^\w+\.(\d+)/;
			my $since = $stamp ? DocsyncTest::CursorReplica::time_of($stamp) =~ s/ /T/r =~ s/\+00$/Z/r : undef;

			$answers{"$tenant, $name"} = answer($session, 'SELECT docsync_pull(?, ?, ?)', 'phone', $cursor, $tenant);
			$answers{"$tenant, $name, by sync"} = answer($session, 'SELECT docsync_sync(?, cursor => ?, collection => ?)', 'phone', $cursor, $tenant)
			  if !$session->value('SELECT pg_is_in_recovery()') && $self->{has_moved};
			$answers{"$tenant, $name, from a stamp"} = answer($session, 'SELECT docsync_docs_query(\'other\', ?, ?, ?)', $since, 'phone', $tenant);
		}
		my ($other) = grep { $_ ne $tenant } @TENANTS;
		$answers{"$tenant, of $other"} = answer($session, 'SELECT docsync_pull(?, NULL, ?)', 'phone', $other);
		$session->close;
	}
	return \%answers;
}

# An answer without what is different at each place
sub answer
{
	my ($session, $sql, @args) = @_;
	my $answer = eval { $session->value($sql, @args) };

	return join ' ', $session->dbh->state, $session->errstr =~ /"reason": "(\w+)"/ if !defined $answer;
	$answer = decode_json($answer);
	return $answer if ref $answer eq 'ARRAY';
	delete @$answer{qw(cursor serverUtc)};
	return $answer;
}

# The last that happens at the old server
sub hand_over
{
	my ($self) = @_;
	my $session = $self->{session};

	$session->do('SELECT docsync_hand_over()');
	$self->{expected} = $self->answers($self->{node});
	is($session->sqlstate_of("SELECT docsync_upsert('laptop', '[@{[document('late', 1, 1)]}]', 'anna')"), '55000', 'the old server is written no more');
	$self->{documents} = $session->rows($self->documents);
	$session->close;
	return;
}

sub documents { return 'SELECT collection, id, client_version, client_id, last_update_utc, deleted, body FROM docsync.document ORDER BY 1, 2' }

# The store has come to another node, and has been taken over there: nothing is
# lost, given twice, or compared.  A standby of it, if there is one
sub have_moved
{
	my ($self, $kind, $node, $standby) = @_;
	my $session = connect_to($node, $self->{database});

	$self->{has_moved} = 1;
	is_deeply($session->rows($self->documents), $self->{documents}, "$kind: documents and their stamps are identical");
	like($self->{expected}{'anna, before what was purged'}, qr/^55000 purged/, "$kind: there was a client that has missed something");
	my $answers = $self->answers($node);
	for my $position (sort keys %$answers)
	{
		my $expected = $self->{expected}{ $position =~ s/, by sync$//r };

		is_deeply($answers->{$position}, $expected, "$kind: $position: is answered as the old server would have") or diag explain($answers->{$position});
	}
	if ($standby)
	{
		replayed($session, connect_to($standby));
		$answers = $self->answers($standby);
		is_deeply($answers->{$_}, $self->{expected}{$_}, "$kind: $_: and so at a standby") for sort keys %$answers;
	}

	# They go on.
	my $last = $session->last_stamp;
	my @new = map { $session->upload('laptop', $_, document('new', 1, '1'), document('d1', 2, '"changed"'), document('d2', 2), document('gone 1', 2, '"back"')) } @TENANTS;
	is(scalar(grep { $_->{stamp} <= $last } @new), 0, "$kind: what is stored next is stamped later");
	$session->upload('laptop', $_, document('d3', 2), document('d4', 2)) for @TENANTS;
	for my $replica (map { dclone($_) } @{ $self->{replicas} })
	{
		$replica->catch_up($session);
		$replica->compare($session);
		is_deeply([ $replica->faults ], [], "$kind: a client goes on, and has all at the end: " . ref $replica);
	}
	for my $tenant (@TENANTS)
	{
		my ($cursor) = map { $_->[2] } grep { $_->[0] eq 'all its life' && $_->[1] eq $tenant } @{ $self->{positions} };

		is_deeply([ sort map { $_->{id} } @{ $session->pull('phone', $cursor, $tenant)->{documents} } ],
			[ sort(qw(d1 d2 d3 d4), 'gone 1', 'new', map { $_->{id} } @{ $self->{expected}{"$tenant, all its life"}{documents} }) ],
			"$kind: who had all is given what is new");
	}

	# Stamps may be a second ahead after a promotion; and whatever runs just now holds tombstones back, autovacuum for one.
	wait_for("$kind: a purge", sub {
		$session->do("CALL docsync_purge('0', 'ben')");
		return !$session->value("SELECT count(*) FROM docsync.document WHERE collection = 'ben' AND id = 'd3'");
	});
	my ($position) = grep { $_->[0] eq 'second page' && $_->[1] eq 'ben' } @{ $self->{positions} };
	is(answer($session, 'SELECT docsync_pull(?, ?, ?)', 'phone', $position->[2], 'ben'), '55000 purged', "$kind: what is purged here is missed by who was before");
	is($session->sqlstate_of('SELECT docsync_check_store()'), '', "$kind: nothing is wrong with the store");
	if ($standby)
	{
		replayed($session, connect_to($standby));
		is_deeply([ connect_to($standby, $self->{database})->settled('anna') ], [ $session->settled('anna') ], "$kind: a standby goes on, too");
	}
	$session->close;
	return;
}

1;
