# A year in the life of a service and its clients: edits and deletions, a purge
# each night; clients that sleep for months, one whose store is copied, one whose
# store is restored from a backup; failovers that lose something and one that
# doesn't, an old primary that lives on, a crash, a restore to an earlier time, a
# dump restored into a new cluster.  Two tenants.
#
# Whatever a client had when something was lost is there at the end, or a later
# version of it, unless somebody deleted it; each client has what the service
# has; no client made more requests than it should; tenants are separated.
#
# DOCSYNC_YEAR_DAYS: how many days.  DOCSYNC_YEAR_SEED: repeat the actions of one
# run; hashes and clientIds differ.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use DocsyncTest::Clients;
use DocsyncTest::Failover;
use DocsyncTest::Http;
use List::Util qw(max min);
use PostgreSQL::Test::Utils;
use Test::More;

my $DAYS = $ENV{DOCSYNC_YEAR_DAYS} || 180;
my $SEED = $ENV{DOCSYNC_YEAR_SEED} || 1 + time % 1_000_000;
my @TENANTS = qw(anna ben);
my $DAY = 86_400;
my $KEEP = 30;    # days, of tombstones
my $IDS = 60;     # few, so that clients write to the same ones

my $service = DocsyncTest::Failover->new(has_archiving => 1);
my $reader = DocsyncTest::Http->new($service->standby, PGRST_DB_CHANNEL_ENABLED => 'false');
my $state = $SEED;
my $day = 0;
my (@clients, %happened, @history);

# What must be there at the end: by tenant and id, [clientVersion, the clients
# that had it].  And what was deleted: by tenant and id, the highest version.
my (%must, %deleted);
my ($old, $old_http, $writer, $writes, $requests, $syncs) = (undef, undef, undef, 0, 0, 0);

note "seed $SEED, $DAYS days";
make_clients();
my %events = plan_events();
while (++$day <= $DAYS)
{
	for my $event (@{ $events{$day} // [] })
	{
		note "day $day: $event->[0]";
		$happened{ $event->[0] }++;
		$event->[1]->();
	}
	pass_day();
}
end_of_the_year();
done_testing();

#-----------------------------------------------------------------------------
# Randomness: our own generator, so that a seed means the same everywhere

sub any_of { return $_[ chance_to(scalar @_) ] }
sub chance_to { $state = $state * 48271 % 2147483647; return $state % $_[0] }
sub perhaps { return chance_to(1000) < 1000 * $_[0] }

#-----------------------------------------------------------------------------
# The clients

# Each tenant has five: one is always online, one sleeps for months, one reads
# from a standby, one has a wrong clock, and one uses only the protocol's two
# plain requests.
sub make_clients
{
	for my $tenant (@TENANTS)
	{
		make_client($tenant, $_) for qw(daily sleeper reader skewed);
		make_client($tenant, 'plain', plain => JSON::PP::true);
	}
	for my $client (@clients)
	{
		$client->{store}->later(any_of(-2, 3) * 3_600_000) if $client->{kind} eq 'skewed';
	}
	return;
}

sub make_client
{
	my ($tenant, $kind, %options) = @_;
	my $name = "$tenant-" . ($options{name} // $kind);
	my $client = { name => $name, tenant => $tenant, kind => $kind, plain => $options{plain}, wakes => 0 };

	delete $options{name};
	$options{read_url} = $reader if $kind eq 'reader';
	$options{waits} = { told => 3_600_000, others => 3_600_000, compare => 86_400_000, again => 60_000, primary => 60_000 } unless $client->{plain};
	$client->{store} = DocsyncTest::Clients->new($name, $service->http, $tenant,
		claims => { tenant => $tenant, collection => $tenant, exp => time + 1_000_000 },
		seed => $SEED, %options);
	push @clients, $client;
	return $client;
}

sub place
{
	my ($client, $http) = @_;

	$client->{store}->move_to($http // $service->http, $client->{kind} eq 'reader' && !$http ? $reader : undef);
	return;
}

# What a client does in a day
sub live
{
	my ($client) = @_;

	return if $client->{wakes} > $day;
	if (perhaps($client->{kind} eq 'sleeper' ? 0.15 : 0.01))
	{
		$client->{wakes} = $day + ($client->{kind} eq 'sleeper' ? 20 + chance_to(80) : 2 + chance_to(20));
		$happened{'a long sleep'}++ if $client->{wakes} > $day + $KEEP;
		return;
	}
	return unless perhaps(0.5);
	edit($client) for 1 .. chance_to(4);
	sync($client) if perhaps(0.75);
	return;
}

sub edit
{
	my ($client) = @_;
	my $store = $client->{store};
	my $id = perhaps(0.8) ? 'd' . chance_to($IDS) : "$client->{name} $day";

	if (perhaps(0.3))
	{
		$store->delete($id);
		note_deletion($client, $id);
	}
	else
	{
		$store->put($id, { tenant => $client->{tenant}, by => $client->{name}, day => $day });
	}
	$happened{edit}++;
	return;
}

sub note_deletion
{
	my ($client, $id) = @_;
	my $version = eval { $client->{store}->version($id) } // return;

	$deleted{ $client->{tenant} }{$id} = max($version, $deleted{ $client->{tenant} }{$id} // $version);
	return;
}

# Over a connection that breaks now and then
sub sync
{
	my ($client) = @_;
	my $breaks = perhaps(0.1);

	$client->{store}->cut(chance_to(4), perhaps(0.5) ? JSON::PP::true : JSON::PP::false) if $breaks;
	my $said = $client->{store}->sync;
	$client->{store}->mend if $breaks;
	$happened{"sync: $said"}++ if $said;
	fail("$client->{name}, day $day: $said") if $said && !$breaks;
	count_requests($client);
	return;
}

sub count_requests
{
	my ($client) = @_;
	my $log = $client->{store}->log;

	for my $request (@$log)
	{
		$happened{$_}++ for $request =~ /\b(told|behind|equal|different|no state|4\d\d)\b/g;
	}
	$happened{reconcile}++ if grep { /^reconcile/ } @$log;
	$requests += @$log;
	$syncs++;
	return if @$log <= 30;
	fail("$client->{name}, day $day: " . @$log . ' requests');
	diag join "\n", @$log;
	return;
}

#-----------------------------------------------------------------------------
# A day and its night

sub pass_day
{
	for my $client (shuffled(@clients))
	{
		live($client);
		$service->later(chance_to(3600));
	}
	overlap() if perhaps(0.2);
	server_edits() if perhaps(0.1);
	$service->session->do("CALL docsync_purge('$KEEP days')");
	tenants_are_apart() if $day % 30 == 0;
	$service->later($DAY / 2);
	return;
}

# An upload that is in progress while others come and go
sub overlap
{
	end_overlap();
	$writer = connect_to($service->primary, 'docsync');
	$writer->do('SET search_path = api', 'BEGIN');
	$writer->upload('slow', any_of(@TENANTS), document('slow ' . ++$writes, 1, '{"by": "slow"}'));
	return;
}

sub end_overlap
{
	return unless $writer;
	eval { $writer->do(perhaps(0.8) ? 'COMMIT' : 'ROLLBACK') };
	$writer->close;
	undef $writer;
	return;
}

sub server_edits
{
	my ($tenant, $id) = (any_of(@TENANTS), 'd' . chance_to($IDS));

	$service->session->do(perhaps(0.5)
		? "UPDATE docsync.document SET body = '{\"by\": \"server\"}' WHERE collection = '$tenant' AND id = '$id' AND NOT deleted"
		: "DELETE FROM docsync.document WHERE collection = '$tenant' AND id = '$id' AND NOT deleted");
	my ($version) = $service->session->column('SELECT client_version FROM docsync.document WHERE collection = ? AND id = ? AND deleted', $tenant, $id);
	$deleted{$tenant}{$id} = max($version, $deleted{$tenant}{$id} // $version) if defined $version;
	return;
}

sub shuffled
{
	my (@list) = @_;

	for my $i (reverse 1 .. $#list)
	{
		my $j = chance_to($i + 1);
		@list[$i, $j] = @list[$j, $i];
	}
	return @list;
}

#-----------------------------------------------------------------------------
# Events

# Events of a kind are on different days, far enough apart.
sub plan_events
{
	my %plan;
	my @kinds = (
		(['a failover with a loss', \&cut, 2, \&fail_over]) x 3, [ 'a failover without a loss', \&switch_over ],
		[ 'an old primary lives on', \&cut, 2, \&live_on, 3, \&bury ], [ 'a restore to an earlier time', \&mark, 1, \&back_to_mark ],
		[ 'a dump restored', \&dump, 1, \&restore_dump ], [ 'a crash', \&crash_primary ],
		[ 'a copied store', \&copy_store ], [ 'a store backed up', \&back_up_store, 20, \&restore_store ]);
	my $slots = @kinds;
	my $length = $DAYS / $slots;
	my @background = ();

	die "too few days: 7 for each of $slots events are needed" if $length < 7;
	for my $kind (shuffled(@kinds))
	{
		my ($name, @steps) = @$kind;
		my $on = int((--$slots) * $length) + 2 + chance_to(int($length) - 6);

		for (my $i = 0; $i < @steps; $i += 2)
		{
			push @{ $plan{ min($on, $DAYS) } }, [ $name . ($i ? ', the end' : ''), $steps[$i] ];
			$on += $steps[ $i + 1 ] // 0;
		}
	}
	return %plan;
}

# What all clients have now must be there at the end.
sub note_what_is_held
{
	my %held;

	for my $client (grep { !$_->{plain} } @clients)
	{
		my $versions = $client->{store}->held;

		push @{ $held{ $client->{tenant} }{$_}{ $versions->{$_} } }, $client->{name} for keys %$versions;
	}
	for my $tenant (keys %held)
	{
		for my $id (keys %{ $held{$tenant} })
		{
			my $version = max(keys %{ $held{$tenant}{$id} });

			$must{$tenant}{$id} = [ $version, "on day $day by @{$held{$tenant}{$id}{$version}}" ] if $version >= ($must{$tenant}{$id} // [$version])->[0];
		}
	}
	return;
}

# New servers take over: all sessions are gone.
sub after
{
	$service->add_standby unless $service->standby;
	$reader->move_to($service->standby);
	return;
}

sub before
{
	if ($writer)
	{
		$writer->close;
		undef $writer;
	}
	note_what_is_held();
	return;
}

sub cut { $service->cut; return }
sub mark { $service->mark; return }

my $dump;
sub dump { $dump = $service->dump; return }

sub fail_over
{
	before();
	$service->fail_over;
	return after();
}

sub switch_over
{
	before();
	$service->switch_over;
	return after();
}

sub crash_primary
{
	before();
	$service->leave_session;
	$service->http->stop_layer;
	$service->with_clock(sub { DocsyncTest::crash($service->primary) });
	$service->http->start_layer;
	return;
}

sub back_to_mark
{
	before();
	$service->back_to_mark;
	return after();
}

sub restore_dump
{
	before();
	$service->restore($dump);
	tenants_are_apart();
	return after();
}

# Some clients stay with the old primary for days.
sub live_on
{
	before();
	$old = $service->fail_over(lives => 1);
	$old_http = DocsyncTest::Http->new($service->primary);
	place($_, $old_http) for grep { $_->{kind} =~ /^(?:daily|plain|reader)$/ } @clients;
	after();
	return;
}

sub bury
{
	before();
	$service->bury($old);
	place($_) for @clients;
	$old_http->stop;
	return;
}

sub copy_store
{
	my ($original) = grep { $_->{kind} eq 'daily' && $_->{tenant} eq 'anna' } @clients;

	make_client('anna', 'daily', name => 'copy', copy_of => $original->{store});
	return;
}

sub back_up_store
{
	$_->{store}->back_up for grep { $_->{kind} eq 'skewed' } @clients;
	return;
}

# What only that store had is lost with it.
sub restore_store
{
	for my $client (grep { $_->{kind} eq 'skewed' } @clients)
	{
		my $tenant = $client->{tenant};
		my $had = $client->{store}->held;
		my %elsewhere = map { $_->[0] => $_->[1] } @{ $service->session->rows('SELECT id, client_version FROM docsync.document WHERE collection = ?', $tenant) };

		$client->{store}->restore;
		for my $versions (map { $_->{store}->held } grep { $_->{tenant} eq $tenant && !$_->{plain} } @clients)
		{
			$elsewhere{$_} = max($versions->{$_}, $elsewhere{$_} // $versions->{$_}) for keys %$versions;
		}
		for my $id (keys %{ $must{$tenant} })
		{
			next unless defined $had->{$id} && $must{$tenant}{$id}[0] <= $had->{$id};
			if (!defined $elsewhere{$id}) { delete $must{$tenant}{$id} }
			else { $must{$tenant}{$id}[0] = min($must{$tenant}{$id}[0], $elsewhere{$id}) }
		}
	}
	return;
}

#-----------------------------------------------------------------------------
# What must be true

# Neither tenant sees, writes, or finds out about what is the other's.
sub tenants_are_apart
{
	my @faults;

	for my $tenant (@TENANTS)
	{
		my ($other) = grep { $_ ne $tenant } @TENANTS;
		my %token = (token => DocsyncTest::Http::token(DocsyncTest::Http::claims(tenant => $tenant, collection => $tenant, exp => time + 1_000_000)));
		my $http = $service->http;
		my $pull = DocsyncTest::Http::value_of($http->get("/Docs/Pull?clientId=x&collection=$other&reconcile=true", %token));
		my $list = DocsyncTest::Http::value_of($http->post('/Docs/Reconcile', { clientId => 'x', collection => $other }, %token));
		my $upload = $http->post('/Docs?clientId=x', { collection => $other, documents => [ { id => 'd1', clientVersion => 9e15, body => 'theirs' } ] }, %token);

		push @faults, "$tenant reads $other" if @{ $pull->{documents} } || @{ $list->{rows} } || defined $list->{purgedThrough};
		push @faults, "$tenant writes $other: $upload->{status}" if $upload->{status} != 403;
	}
	is("@faults", '', "tenants are apart on day $day");
	return;
}

sub end_of_the_year
{
	$day = $DAYS;
	end_overlap();
	note_what_is_held();

	# Everybody is awake, with a good connection.
	for my $client (@clients)
	{
		$client->{wakes} = 0;
		place($client, $service->http);
		edit($client);
	}
	# Two days: it may take one until a copied store is noticed, and another until the consequences are compared.
	for my $round (1 .. 24)
	{
		$service->later(7200);
		sync($_) for @clients;
	}

	for my $tenant (@TENANTS)
	{
		my $rows = $service->session->rows('SELECT id, client_version, body FROM docsync.document WHERE collection = ? AND NOT deleted', $tenant);
		my %content = map { $_->[0] => [ $_->[1], DocsyncTest::Http::value_of({ content => $_->[2] }) ] } @$rows;
		my @own = grep { $_->{tenant} eq $tenant } @clients;

		cmp_ok(scalar keys %content, '>', 20, "$tenant has documents");
		check_client($_, \%content) for @own;
		is_deeply([ grep { ($_->[1]{tenant} // $tenant) ne $tenant } values %content ], [], "$tenant has nothing that is another's");
		my @names = map { $_->{store}->status->{clientId} } grep { !$_->{plain} } @own;
		is(scalar keys %{ { map { $_ => 1 } @names } }, scalar @names, "each of $tenant\'s clients has a name of its own");

		my @lost;
		for my $id (sort keys %{ $must{$tenant} })
		{
			my ($version, $by) = @{ $must{$tenant}{$id} };

			next if $content{$id} && $content{$id}[0] >= $version;
			# Of a deletion and an edit with the same version, each one above what its client knew, the first wins.
			next if defined $deleted{$tenant}{$id} && $deleted{$tenant}{$id} >= $version;
			push @lost, "$id, version $version, was held $by, now: " . ($content{$id} ? $content{$id}[0] : 'nothing') . ', deleted: ' . ($deleted{$tenant}{$id} // 'never');
		}
		is(join("\n", @lost), '', "nothing of $tenant\'s is lost, of " . keys(%{ $must{$tenant} }) . ' documents that were held when something was');
	}
	tenants_are_apart();
	cmp_ok($requests / $syncs, '<', 5, sprintf 'few requests a sync: %.1f', $requests / $syncs);
	note join ', ', map { "$_: $happened{$_}" } sort keys %happened;
	cmp_ok($happened{$_} // 0, '>', 0, "it has happened: $_")
	  for ('told', 'equal', 'different', 'reconcile', 'a long sleep', 'a failover with a loss', 'a restore to an earlier time', 'a dump restored', 'sync: ConnectionError');
	return;
}

# Each has what the service has, and nothing is left to do.
sub check_client
{
	my ($client, $content) = @_;
	my ($store, $name) = @$client{qw(store name)};

	if ($client->{plain})
	{
		# It may have something that was lost, such as a deletion, without knowing: whatever it has is at least
		# as new as the service's.
		my $own = $store->versions;
		is_deeply([ grep { ($own->{$_} // -1) < $content->{$_}[0] } sort keys %$content ], [], "$name has nothing that is older than the service's");
		$store->begin_again;
	}
	else
	{
		$store->log;
		$store->compare;
		is($store->sync, '', "$name compares");
		is_deeply($store->log, ['pull: equal'], "$name and the service are equal, by their digests");
		is_deeply([ @{ $store->unsent }, @{ $store->problems } ], [], "nothing is left to do for $name");
	}
	is_deeply($store->content, $content, "$name has what the service has");
	return;
}
