# examples/monitoring: the exporter with a server, and what it says in health and of each fault; the alerts, with and without
# their causes; the dashboard, whose expressions Prometheus evaluates. Those of the gateway's metrics need the gateway: they are
# tested where DOCSYNC_HTTP says so.

use strict;
use warnings;

use lib 'test/t/lib';

use HTTP::Tiny;
use IPC::Run ();
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DocsyncTest;
use DocsyncTest::Http;

plan skip_all => 'DOCSYNC_EXPORTER, DOCSYNC_PROMTOOL and DOCSYNC_PROMETHEUS name no programs'
	if grep { !$ENV{$_} } qw(DOCSYNC_EXPORTER DOCSYNC_PROMTOOL DOCSYNC_PROMETHEUS);

my $EXAMPLE = "$ENV{TESTDIR}/examples/monitoring";
my $RULES = slurp_file("$EXAMPLE/rules.yml");
my $README = slurp_file("$EXAMPLE/README.md");
my $DASHBOARD = JSON::PP->new->utf8->decode(slurp_file("$EXAMPLE/dashboard.json"));
my $HAS_GATEWAY = ($ENV{DOCSYNC_HTTP} // '') eq 'gateway';

alerts();
dashboard_is_in_order();

my $node = new_node('main');
connect_to($node)->do('CREATE DATABASE store');
my $admin = connect_to($node, 'store');
$admin->do('CREATE SCHEMA api', 'CREATE EXTENSION docsync SCHEMA api', 'SELECT api.docsync_create_store()', q{INSERT INTO docsync.document (collection, id, body) VALUES ('notes', 'a', '1')});
$node->command_ok([ 'psql', '-X', '-q', '-d', $node->connstr('store'), '-f', "$EXAMPLE/role.sql" ], 'role.sql');

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $log = "$PostgreSQL::Test::Utils::log_path/exporter.log";
my @started = start_exporter();
my $uploads = 0;

wait_for('the exporter', sub { defined metrics() });
healthy();
faults();
used_metrics_exist();
dashboard_has_data();
done_testing();

END
{
	local $?;
	$_->kill_kill for @started;
}

#-----------------------------------------------------------------------------

# What promtool says of the rules, and of when they fire
sub alerts
{
	command_ok([ $ENV{DOCSYNC_PROMTOOL}, 'check', 'rules', "$EXAMPLE/rules.yml" ], 'rules.yml');
	command_ok([ $ENV{DOCSYNC_PROMTOOL}, 'test', 'rules', "$ENV{TESTDIR}/test/monitoring/alerts.yml" ], 'alerts fire when they should');
	my $tested = slurp_file("$ENV{TESTDIR}/test/monitoring/alerts.yml");
	my $dir = PostgreSQL::Test::Utils::tempdir();

	append_to_file("$dir/prometheus.yml", $README =~ /```yaml\n(.*?)```/s);
	append_to_file("$dir/docsync-rules.yml", $RULES);
	command_ok([ $ENV{DOCSYNC_PROMTOOL}, 'check', 'config', "$dir/prometheus.yml" ], 'the configuration in README.md');
	for my $alert ($RULES =~ /- alert: (\w+)/g)
	{
		my @cases = $tested =~ /alertname: $alert\n(?:\s+(exp_alerts):)?/g;
		is(join(' ', (sort map { $_ // 'silent' } @cases)[0, -1]), 'exp_alerts silent', "$alert is tested, firing and silent");
		like($README, qr/^\| $alert \|/m, '... and README.md has it');
	}
	return;
}

# Runs the exporter as README.md says: as another user than its role, whom pg_hba.conf and pg_ident.conf let in.
sub start_exporter
{
	my ($map) = $README =~ /`(docsync prometheus docsync_monitor)`/;
	my ($rule) = $README =~ /`(local docsync docsync_monitor peer map=docsync)`/;
	my $user = getpwuid $<;

	append_to_file($node->data_dir . '/pg_ident.conf', "\n" . $map =~ s/prometheus/$user/r . "\n");
	append_to_file($node->data_dir . '/monitoring.conf', $rule =~ s/^local docsync/local store/r . "\n" . slurp_file($node->data_dir . '/pg_hba.conf'));
	rename $node->data_dir . '/monitoring.conf', $node->data_dir . '/pg_hba.conf';
	$node->reload;
	local $ENV{DATA_SOURCE_NAME} = join ' ', 'user=docsync_monitor', 'host=' . $node->host, 'port=' . $node->port, 'dbname=store';
	open(my $out, '>', $log) || die "$log: $!";
	return IPC::Run::start([ $ENV{DOCSYNC_EXPORTER}, "--extend.query-path=$EXAMPLE/queries.yml", "--web.listen-address=127.0.0.1:$port" ], '>&', $out);
}

# A scrape of docsync's metrics: a hash from the names, with labels, to values; undef if the exporter doesn't answer
sub metrics
{
	my $answer = HTTP::Tiny->new(timeout => 10)->get("http://127.0.0.1:$port/metrics");

	return if !$answer->{success};
	my %metrics = $answer->{content} =~ /^((?:docsync_|pg_exporter_last_scrape_error)\w*(?:\{.*\})?) (\S+)$/mg;
	# The exporter gives each a label with the server.
	return { map { s/,server="[^"]*"|server="[^"]*",?//r => $metrics{$_} } keys %metrics };
}

sub healthy
{
	my $metrics = metrics();
	my $version = $admin->value('SELECT version FROM api.docsync_status()');

	is($metrics->{pg_exporter_last_scrape_error}, 0, 'a scrape') if exists $metrics->{pg_exporter_last_scrape_error};
	is($metrics->{qq(docsync_status_attention{version="$version"})}, 0, 'nothing needs attention');
	is(join(' ', grep { /^docsync_attention/ } keys %$metrics), '', '... and there is no sentence');
	is($metrics->{qq(docsync_status_bytes{version="$version"})} + 0, $admin->value('SELECT bytes FROM api.docsync_status()'), 'bytes are those of docsync_status()');
	cmp_ok(abs $metrics->{qq(docsync_status_clock_ahead_seconds{version="$version"})}, '<', 600, 'the clock is near the time');
	for my $whose ('a collection', 'all collections', 'standbys')
	{
		is($metrics->{qq(docsync_holders_$_\{holds_back="$whose"})}, 0, "docsync_holders_$_: nobody holds back readers of $whose") for qw(transactions oldest_seconds);
	}
	return;
}

# Each is seen, with its sentence, and no more when it has ended.
sub faults
{
	my $holder = connect_to($node, 'store');

	$admin->do('CREATE ROLE tenant', q{SELECT api.docsync_grant('tenant')});
	is_told(qr/^Row-level security is off, so all collections are open to tenant\. CREATE POLICY/);
	$admin->do('DROP OWNED BY tenant');
	is_told();
	$admin->do('ALTER TABLE docsync.document DISABLE TRIGGER zz_docsync_guard');
	is_told(qr/^The store is not in order, and all requests fail: /);
	$admin->do('ALTER TABLE docsync.document ENABLE TRIGGER zz_docsync_guard');
	is_told();

	$holder->do('BEGIN', q{INSERT INTO docsync.document (collection, id, body) VALUES ('notes', 'b', '1'), ('lists', 'b', '1')});
	my $metrics = metrics();
	is($metrics->{qq(docsync_holders_transactions{holds_back="a collection"})}, 1, 'a transaction that has written to two collections');
	cmp_ok($metrics->{qq(docsync_holders_oldest_seconds{holds_back="a collection"})}, '>', 0, '... and how old it is');
	$holder->do('ROLLBACK');
	is(metrics()->{qq(docsync_holders_transactions{holds_back="a collection"})}, 0, '... until it ends');
	return;
}

# Is there just this sentence, or none?
sub is_told
{
	my ($sentence) = @_;
	my $metrics = metrics();
	my ($count) = map { $metrics->{$_} } grep { /^docsync_status_attention\{/ } keys %$metrics;
	my @sentences = map { /^docsync_attention_applies\{sentence="(.*)"\}/ } keys %$metrics;

	is($count, $sentence ? 1 : 0, $sentence ? 'one thing needs attention' : '... which is mended');
	is(scalar @sentences, $count, '... and there are as many sentences');
	like($sentences[0], $sentence, '... with the remedy') if $sentence;
	return;
}

# What the rules refer to is there: of the exporter's by a scrape, of the gateway's by its source.
sub used_metrics_exist
{
	my @names = keys %{ metrics() };
	$admin->do('ALTER TABLE docsync.document DISABLE TRIGGER zz_docsync_guard');
	my $metrics = join "\n", @names, keys %{ metrics() };
	my $gateway = slurp_file("$ENV{TESTDIR}/gateway/src/metrics.js");
	my %used = map { $_ => 1 } $RULES =~ /\b(docsync_(?:status|attention|holders|http|documents|pool)_\w+)(?=\{|\[| >|\n)/g;

	delete $used{docsync_status};
	cmp_ok(scalar keys %used, '>=', 6, 'the rules use metrics');
	for my $name (sort keys %used)
	{
		ok($metrics =~ /^$name\{/m || $gateway =~ /'$name'/, "$name exists");
	}
	$admin->do('ALTER TABLE docsync.document ENABLE TRIGGER zz_docsync_guard');
	return;
}

# What Grafana needs, and people who look at it: panels side by side, units, what to do.
sub dashboard_is_in_order
{
	my @panels = @{ $DASHBOARD->{panels} };
	my (%ids, %taken);

	is(join(' ', map { "$_->{type} $_->{name}" } @{ $DASHBOARD->{templating}{list} }), 'datasource datasource', 'the dashboard asks for its data source');
	for my $panel (@panels)
	{
		my $title = $panel->{title};
		my ($x, $y, $w, $h) = @{ $panel->{gridPos} }{qw(x y w h)};
		my %references;

		is(scalar(grep { $_->{uid} ne '${datasource}' } $panel->{datasource}, map { $_->{datasource} } @{ $panel->{targets} }), 0, "$title: it is of that");
		ok(!$ids{ $panel->{id} }++, '... its id is its own');
		ok($w > 0 && $h > 0 && $x >= 0 && $x + $w <= 24, '... it is as wide as there is room for');
		is(scalar(grep { $taken{$_}++ } map { my $column = $_; map { "$column $_" } $y .. $y + $h - 1 } $x .. $x + $w - 1), 0, '... and where no other is');
		is(scalar(grep { $references{ $_->{refId} }++ } @{ $panel->{targets} }), 0, '... its queries have names of their own');
		ok($panel->{fieldConfig}{defaults}{unit}, '... it has a unit');
		cmp_ok(length($panel->{description} // ''), '>', 80, '... and says what to do');
	}
	return;
}

# Each expression gives numbers in Prometheus, configured as README.md says, with the labels that are shown. There is what it
# takes: statistics, a standby, and something that needs attention.
sub dashboard_has_data
{
	my ($http, $admin_port);

	if ($HAS_GATEWAY)
	{
		$admin_port = PostgreSQL::Test::Cluster::get_free_port();
		$http = DocsyncTest::Http->new($node, DOCSYNC_ADMIN_LISTEN => "127.0.0.1:$admin_port");
	}
	my $standby = start_standby();
	$admin->do('ANALYZE docsync.document', q{SELECT api.docsync_grant('tenant')});
	my $url = start_prometheus($admin_port // PostgreSQL::Test::Cluster::get_free_port());

	for my $panel (@{ $DASHBOARD->{panels} })
	{
		my @fields = map { @{ $_->{options}{include}{names} } } @{ $panel->{transformations} // [] };

		for my $target (@{ $panel->{targets} })
		{
		  SKIP:
			{
				skip "$panel->{title}: without the gateway", 2 if !$HAS_GATEWAY && $target->{expr} =~ /docsync_(?:http|documents)_/;
				my $labels = labels_of($url, $target->{expr}, $http);
				ok($labels, "$panel->{title}: $target->{expr} gives numbers");
				is(join(' ', grep { !defined $labels->{$_} } @fields, $target->{legendFormat} =~ /\{\{(\w+)\}\}/g), '', '... with the labels that are shown');
			}
		}
	}
	$standby->stop;
	$admin->do('DROP OWNED BY tenant');
	return;
}

# The labels of an expression's series, as soon as there is one that has a number; uploads go on meanwhile. Undef: there is none.
sub labels_of
{
	my ($url, $expr, $http) = @_;
	my $client = HTTP::Tiny->new(timeout => 10);
	my $query = $client->www_form_urlencode({ query => $expr =~ s/\$__rate_interval/10s/gr });
	my ($answer, $labels);

	eval {
		wait_for($expr, sub {
			$http->post('/Docs?clientId=c1', [ { id => 'a', clientVersion => ++$uploads, body => 1 } ]) if $http;
			$answer = $client->get("$url/api/v1/query?$query")->{content};
			my ($series) = grep { $_->{value}[1] ne 'NaN' } @{ JSON::PP->new->utf8->decode($answer)->{data}{result} // [] };
			return $labels = $series && $series->{metric};
		});
	} or diag("$@$answer");
	return $labels;
}

sub start_standby
{
	my $standby = PostgreSQL::Test::Cluster->new('standby');

	$node->backup('standby');
	$standby->init_from_backup($node, 'standby', has_streaming => 1);
	$standby->start;
	return $standby;
}

# Starts Prometheus with the configuration in README.md, but for the ports, and that it scrapes each second. Returns its address.
sub start_prometheus
{
	my ($admin_port) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $address = '127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port();
	my ($config) = $README =~ /```yaml\n(.*?)```/s;

	$config =~ s/localhost:9187/127.0.0.1:$port/;
	$config =~ s/localhost:8081/127.0.0.1:$admin_port/;
	append_to_file("$dir/prometheus.yml", "global:\n  scrape_interval: 1s\n$config");
	append_to_file("$dir/docsync-rules.yml", $RULES);
	open(my $out, '>', "$PostgreSQL::Test::Utils::log_path/prometheus.log") || die "prometheus.log: $!";
	push @started, IPC::Run::start([ $ENV{DOCSYNC_PROMETHEUS}, "--config.file=$dir/prometheus.yml", "--storage.tsdb.path=$dir/data", "--web.listen-address=$address" ], '>&', $out);
	wait_for('Prometheus', sub { HTTP::Tiny->new(timeout => 10)->get("http://$address/-/ready")->{success} });
	return "http://$address";
}
