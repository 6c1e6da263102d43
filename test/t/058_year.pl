# A year in the life of a service: ten clients of two tenants, of which some sleep
# for months, one is cloned and one comes back from a backup; edits, deletions, a
# purge each night; the primary is killed with its standby behind, the store is
# brought back to an earlier moment, and a dump is restored into a new cluster.
#
# In the end each client equals the service; what any client held when something
# was lost is there, unless somebody deleted it; the tenants are apart; nobody
# has asked for ever.
#
# DOCSYNC_YEAR_DAYS: how many days pass, 360 unless it is given; a round is ten.
# DOCSYNC_SEED: that of an earlier run, which is printed.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use DocsyncTest::Clients;
use DocsyncTest::Failover;
use DocsyncTest::Http;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $ROUND = 10;    # days
my $rounds = int(($ENV{DOCSYNC_YEAR_DAYS} // 360) / $ROUND);
my $seed = $ENV{DOCSYNC_SEED} // time;
my $IDS = 12;      # documents of a tenant that all its clients edit

note "DOCSYNC_SEED=$seed";
srand $seed;

my $service = DocsyncTest::Failover->new(has_archiving => 1);
my %tenant;        # name => {clients, held: id => version, deleted: id => version}
my %asleep;        # client's name => round in which it wakes
my $plain = { since => undef, documents => {}, own => {}, refused => 0 };
my $backup;        # the store of a client, as it was
my $node = 1;

for my $name ('anna', 'ben')
{
	$tenant{$name} = { clients => [ map { client($name, $_) } 1 .. ($name eq 'anna' ? 6 : 3) ], held => {}, deleted => {} };
}

# What happens, by thirds of the year
my %event = (
	int($rounds * 0.10) => \&clone,
	int($rounds * 0.15) => \&back_up,
	int($rounds * 0.25) => \&lossy_failover,
	int($rounds * 0.40) => \&come_back_from_backup,
	int($rounds * 0.50) => \&go_back,
	int($rounds * 0.65) => \&move_by_dump,
	int($rounds * 0.80) => \&lossy_failover);

for my $round (1 .. $rounds)
{
	a_round($round);
	$event{$round}->() if $event{$round};
	$service->later($ROUND * 86_400);
	$service->session->do("CALL docsync_purge('60 days')");
}

%asleep = ();
a_round($rounds + 1);
finish();
done_testing();

#-----------------------------------------------------------------------------

sub client
{
	my ($tenant, $name, %options) = @_;

	return DocsyncTest::Clients->new("$tenant $name", $service->http, $tenant, claims => { tenant => $tenant, collection => $tenant }, %options);
}

# Everybody who is awake edits, deletes, syncs, some not at all.
sub a_round
{
	my ($round) = @_;

	for my $name (sort keys %tenant)
	{
		my $tenant = $tenant{$name};

		for my $client (@{ $tenant->{clients} })
		{
			next if ($asleep{ $client->{name} } // 0) > $round;

			edit($tenant, $client) for 1 .. rand 3;
			$asleep{ $client->{name} } = $round + 3 + int rand 12 if rand() < 0.06;
			is($client->sync, '', "$client->{name} syncs") if rand() < 0.8;
		}
	}
	plain_round($round);
	return;
}

sub edit
{
	my ($tenant, $client) = @_;
	my $id = 'd' . int rand $IDS;

	if (rand() < 0.25 && defined $client->get($id))
	{
		$client->delete($id);
		my $version = $client->version($id);
		$tenant->{deleted}{$id} = $version if $version > ($tenant->{deleted}{$id} // 0);
	}
	else
	{
		$client->put($id => int rand 1_000_000);
	}
	return;
}

# Whatever a client holds now must not be lost.
sub note_held
{
	for my $tenant (values %tenant)
	{
		for my $client (@{ $tenant->{clients} })
		{
			my $content = $client->content;

			for my $id (keys %$content)
			{
				my $version = $content->{$id}[0];
				$tenant->{held}{$id} = $version if $version > ($tenant->{held}{$id} // 0);
			}
		}
	}
	return;
}

# A client that knows the protocol's two requests and nothing else.  Its documents
# are its own; it starts again, and sends all it has, when it is told to.
sub plain_round
{
	my ($round) = @_;

	$plain->{own}{ 'plain-' . int rand 5 } = $round;
	plain_upload();
	for (1 .. 3)
	{
		my $answer = $service->http->post('/Docs/Query?origin=other&clientId=plain' . (defined $plain->{since} ? "&sinceUtc=$plain->{since}" : ''), '');

		if ($answer->{status} == 410)
		{
			$plain->{refused}++;
			@$plain{ 'since', 'documents' } = (undef, {});
			plain_upload();
			next;
		}
		is($answer->{status}, 200, 'the plain client asks') or diag($answer->{content});
		for my $document (@{ DocsyncTest::Http::value_of($answer) })
		{
			$plain->{documents}{ $document->{id} } = $document;
			$plain->{since} = $document->{LastUpdateUtc} if !defined $plain->{since} || $document->{LastUpdateUtc} gt $plain->{since};
		}
		last;
	}
	return;
}

sub plain_upload
{
	my $answer = $service->http->post('/Docs?clientId=plain',
		[ map { { id => $_, clientVersion => $plain->{own}{$_}, body => $plain->{own}{$_} } } sort keys %{ $plain->{own} } ]);

	is($answer->{status}, 200, 'the plain client sends') or diag($answer->{content});
	return;
}

#-----------------------------------------------------------------------------

sub clone
{
	my $original = $tenant{anna}{clients}[1];

	is($original->sync, '', 'a client is cloned');
	push @{ $tenant{anna}{clients} }, client('anna', 'clone', copy_of => $original);
	return;
}

sub back_up
{
	is($tenant{anna}{clients}[2]->sync, '', 'a store is backed up');
	$backup = client('anna', 'back', copy_of => $tenant{anna}{clients}[2]);
	return;
}

# The store is as it was; what it had sent is with the service.
sub come_back_from_backup
{
	is($tenant{anna}{clients}[2]->sync, '', 'a store is lost, and comes back from its backup');
	$tenant{anna}{clients}[2] = $backup;
	return;
}

# The standby hasn't got the last round, and takes the primary's place.
sub lossy_failover
{
	$service->cut;
	a_round(0);
	note_held();
	$service->fail_over;
	return;
}

# To before the last round, on the same clients
sub go_back
{
	my $old = $service->primary;
	my $name = 'pitr' . $node++;
	my $new = PostgreSQL::Test::Cluster->new($name);

	# A standby that was promoted archives where its first primary did.
	$old->enable_archiving;
	$old->reload;
	$old->backup($name);
	a_round(0);
	$service->session->do(q{SELECT pg_create_restore_point('then')});
	a_round(0);
	note_held();
	$service->session->do('SELECT pg_switch_wal()');
	wait_for('the archive', sub { $service->session->value(q{SELECT last_archived_wal >= pg_walfile_name(pg_current_wal_lsn() - 1) FROM pg_stat_archiver}) });

	$new->init_from_backup($old, $name, has_restoring => 1, standby => 0);
	$new->append_conf('postgresql.conf', "recovery_target_name = 'then'\nrecovery_target_action = 'promote'");
	replace_by($new);
	return;
}

# Into a cluster that has never heard of this one, with roles and policies
sub move_by_dump
{
	my $old = $service->primary;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $new;

	system_or_bail('pg_dumpall', '--roles-only', '-f', "$dir/roles.sql", '-d', $old->connstr('postgres'));
	system_or_bail('pg_dump', '-Fc', '-f', "$dir/dump", '-d', $old->connstr('docsync'));
	a_round(0);
	note_held();

	$service->with_clock(sub { $new = new_node('dump' . $node++, has_archiving => 1) });
	$new->psql('postgres', slurp_file("$dir/roles.sql"), on_error_stop => 0);
	$new->safe_psql('postgres', 'CREATE DATABASE docsync');
	system_or_bail('pg_restore', '--exit-on-error', '-d', $new->connstr('docsync'), "$dir/dump");
	replace_by($new, 1);
	return;
}

sub replace_by
{
	my ($new, $runs) = @_;

	$service->session->close;
	delete $service->{session};
	$service->http->stop_postgrest;
	$service->primary->kill9;
	$service->{standby}->stop('immediate') if $service->{standby};
	delete $service->{standby};
	$service->with_clock(sub { $new->start }) unless $runs;
	wait_for('the new server', sub { ($new->safe_psql('postgres', 'SELECT pg_is_in_recovery()')) eq 'f' });
	$service->{primary} = $new;
	$service->http->move_to($new);
	return;
}

#-----------------------------------------------------------------------------

# All are online until nobody has anything to do.
sub finish
{
	for my $name (sort keys %tenant)
	{
		my $tenant = $tenant{$name};
		my @clients = @{ $tenant->{clients} };

		$_->log for @clients;
		for (1 .. 5)
		{
			is($_->sync, '', "$_->{name} syncs at the end") for @clients;
		}
		my $content = content($name);

		for my $client (@clients)
		{
			cmp_ok(scalar @{ $client->log }, '<=', 40, "$client->{name} doesn't ask for ever");
			$client->compare;
			is($client->sync, '', "$client->{name} compares");
			is_deeply([ grep { /^pull/ } @{ $client->log } ], ['pull: equal'], "$client->{name} and the service are equal, by their digests");
			is_deeply($client->content, $content, 'by their documents');
			is_deeply([ $client->unsent, $client->problems ], [ [], [] ], 'and nothing is unsent');
		}
		for my $id (sort keys %{ $tenant->{held} })
		{
			my $version = $content->{$id} ? $content->{$id}[0] : $tenant->{deleted}{$id} // 0;
			cmp_ok($version, '>=', $tenant->{held}{$id}, "$name: $id, which was held at a loss, is there, or was deleted");
		}
	}

	plain_round($rounds + 1) for 1 .. 2;
	my $session = $service->session;
	is_deeply({ map { $_->{id} => $_->{body} } grep { !$_->{deleted} } values %{ $plain->{documents} } },
		{ map { $_->[0] => $_->[1] } @{ $session->rows(q{SELECT id, (body #>> '{}')::int FROM docsync.document
			WHERE collection = 'anna' AND NOT deleted AND client_id <> 'plain'}) } },
		'the plain client has what there is of others');
	is_deeply({ map { $_->[0] => $_->[1] } @{ $session->rows(q{SELECT id, client_version FROM docsync.document WHERE client_id = 'plain'}) } },
		$plain->{own}, 'and its own are there');
	cmp_ok($plain->{refused}, '<=', 15, 'it was told to start again a few times');

	is($session->value(q{SELECT count(*) FROM docsync.document WHERE collection NOT IN ('anna', 'ben')}), 0, 'nothing has gone astray');
	is($session->value('SELECT relrowsecurity FROM pg_class WHERE oid = $$docsync.document$$::regclass'), 1, 'the tenants are still kept apart');
	my $token = DocsyncTest::Http::token(DocsyncTest::Http::claims(tenant => 'ben', collection => 'ben'));
	is_deeply(DocsyncTest::Http::value_of($service->http->post('/Docs/Query?clientId=x&collection=anna', '', token => $token)), [], 'ben sees nothing of anna\'s');
	cmp_ok($session->value('SELECT count(DISTINCT epoch) FROM docsync.history'), '>=', 5, 'each loss began an epoch');
	return;
}

sub content
{
	my ($collection) = @_;

	return DocsyncTest::Http::value_of({ content => $service->session->value(
		q{SELECT coalesce(json_object_agg(id, json_build_array(client_version, body)), '{}') FROM docsync.document
		   WHERE collection = ? AND NOT deleted}, $collection) });
}
