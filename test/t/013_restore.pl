# The store belongs to the user: whatever restores tables restores it, with the
# policies, triggers, columns and privileges that it has been given.  Nothing is
# unprotected meanwhile, and clients are told to compare.  Also: who may own a
# store.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use JSON::PP qw(decode_json);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# It has used far more transaction ids than the servers restored to: its fences
# are far above their next ids.
my $old = new_node('old', conf => "wal_level = logical\n");
$old->stop;
system_or_bail('pg_resetwal', '-e', '3', '-D', $old->data_dir);
$old->start;

my $new = new_node('new');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$new->backup('base');
$standby->init_from_backup($new, 'base', has_streaming => 1);
$standby->start;

my $dir = PostgreSQL::Test::Utils::tempdir();
my @TENANTS = qw(anna ben);
my $DOCUMENTS = 'SELECT collection, id, client_version, client_id, last_update_utc, deleted, body, author, middle FROM docsync.document ORDER BY 1, 2';
my %CALLS = map { /(\w+)/ => $_ } (
	"docsync_upsert('c', '[@{[document('d', 1, '1')]}]', 'anna')", "docsync_query_since('c', collection => 'anna')",
	"docsync_sync('c', collection => 'anna')", "docsync_pull('c', NULL, 'anna')",
	'docsync_docs(\'{"clientId": "c", "documents": [], "collection": "anna"}\')',
	'docsync_docs_sync(\'{"clientId": "c", "documents": [], "collection": "anna"}\')',
	"docsync_docs_query(\"clientId\" => 'c', collection => 'anna')",
	'docsync_docs_reconcile(\'{"clientId": "c", "collection": "anna"}\')',
	'docsync_docs_get(\'{"clientId": "c", "collection": "anna", "ids": ["a1"]}\')',
	"docsync_grant('anna')", 'docsync_new_epoch()', 'docsync_hand_over()', 'docsync_take_over()', 'docsync_check_store()');

for my $node ($old, $new)
{
	connect_to($node)->do(map { "CREATE ROLE $_" } 'owner', 'mallory', @TENANTS);
}
my $source = make_store();
my (%cursors, $rows, $schema);
take_state();

dump_source('plain', '--format=plain');
dump_source('custom', '--format=custom');
dump_source('directory', '--format=directory', '--jobs=4');
dump_source("section_$_", '--format=custom', "--section=$_") for qw(pre-data data post-data);

# Uploaded after the dump, hence lost
$source->upload('phone', 'anna', document('lost', 1, '1'));

restored('plain', sub { psql_file($_[0], "$dir/plain") });
restored('custom', sub { system_or_bail('pg_restore', '--exit-on-error', '-d', $_[0], "$dir/custom") });
restored('directory', sub { system_or_bail('pg_restore', '--exit-on-error', '--jobs=4', '-d', $_[0], "$dir/directory") });
restored('sections', \&in_sections);
restored('sections_of_one', sub { system_or_bail('pg_restore', '--exit-on-error', "--section=$_", '-d', $_[0], "$dir/custom") for qw(pre-data data post-data) });
restored('by_owner', \&by_the_owner);
small_store();
into_the_same_database();
drop_extension();
template();
who_may_make_one();
traps();
all_databases();
upgraded();
done_testing();

#-----------------------------------------------------------------------------

# The store, with everything that its owner can do to it
sub make_store
{
	my $admin = connect_to($old);

	$admin->do('CREATE DATABASE store OWNER owner');
	my $session = connect_to($old, 'store');
	$session->do(
		'CREATE EXTENSION docsync',
		'SET ROLE owner', 'SELECT docsync_create_store()', 'RESET ROLE',
		"SELECT setval('docsync.clock', last_value) FROM docsync.clock");
	$session->upload('laptop', $_, map({ document("$_->[0]$_->[1]", 1, qq("before $_->[1]")) } map { my $n = $_; [ 'a', $n ] } 1 .. 3), document('gone', 1)) for @TENANTS;
	$session->do(
		'SET ROLE owner',
		(map { "SELECT docsync_grant('$_')" } @TENANTS),
		'ALTER TABLE docsync.document ADD dropped int, ADD author text, ADD middle int DEFAULT 7',
		'ALTER TABLE docsync.document DROP dropped, ADD CONSTRAINT small CHECK (middle < 100)',
		'ALTER TABLE docsync.document SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01), ALTER author SET STATISTICS 50',
		'ALTER TABLE docsync.document ALTER body SET STORAGE EXTERNAL',
		'CREATE INDEX by_author ON docsync.document (author) INCLUDE (middle) WITH (fillfactor = 70)',
		'CREATE STATISTICS docsync.together ON collection, author FROM docsync.document',
		'ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY',
		'CREATE POLICY tenant ON docsync.document USING (collection = current_user)',
		"CREATE POLICY seal ON docsync.document AS RESTRICTIVE FOR UPDATE TO anna USING (id <> 'sealed')",
		'CREATE TABLE docsync.log (id text)',
		q{CREATE FUNCTION docsync.stamp_author() RETURNS trigger LANGUAGE plpgsql AS
		  $$BEGIN NEW.author := concat(NEW.client_id, '!'); RETURN NEW; END$$},
		'CREATE TRIGGER a_author BEFORE INSERT OR UPDATE ON docsync.document FOR EACH ROW EXECUTE FUNCTION docsync.stamp_author()',
		q{CREATE FUNCTION docsync.log() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$BEGIN INSERT INTO docsync.log VALUES (NEW.id); RETURN NULL; END$$},
		'CREATE TRIGGER zzz_log AFTER INSERT ON docsync.document FOR EACH ROW EXECUTE FUNCTION docsync.log()',
		'CREATE VIEW docsync.live AS SELECT * FROM docsync.document WHERE NOT deleted',
		'CREATE FUNCTION docsync.latest() RETURNS SETOF docsync_change LANGUAGE sql BEGIN ATOMIC SELECT * FROM docsync_query_since(NULL, origin => \'any\', collection => \'anna\'); END',
		'CREATE PUBLICATION changes FOR TABLE docsync.document (collection, id, body) WHERE (collection = \'anna\')',
		"COMMENT ON TABLE docsync.document IS 'Ours'",
		'GRANT INSERT (author) ON docsync.document TO anna',
		'GRANT SELECT ON docsync.live TO anna WITH GRANT OPTION',
		'RESET ROLE');
	$session->upload('laptop', $_, document('b1', 1, '"after"'), document('a1', 2, '"changed"'), document('gone', 2), document('gone, too', 1)) for @TENANTS;
	$session->do("CALL docsync_purge('0', 'ben')");
	return $session;
}

# What must be restored, and the position of each tenant's phone
sub take_state
{
	%cursors = map { $_ => as_tenant($old, 'store', $_)->pull('phone', undef, $_)->{cursor} } @TENANTS;
	$rows = $source->rows($DOCUMENTS);
	$schema = schema_of($old, 'store');
	return;
}

sub dump_source
{
	my ($file, @options) = @_;

	system_or_bail('pg_dump', @options, '-f', "$dir/$file", '-d', $old->connstr('store'));
	return;
}

# The whole schema as text.  Some versions of pg_dump put a random word into it.
sub schema_of
{
	my ($node, $database) = @_;

	system_or_bail('pg_dump', '--schema-only', '-f', "$dir/schema.sql", '-d', $node->connstr($database));
	return slurp_file("$dir/schema.sql") =~ s/^\\(?:un)?restrict .*//mgr;
}

# The lines that one text has and the other hasn't
sub difference
{
	my @lines = map { [ grep { !/^$|^--/ } split /\n/ ] } @_;
	my %count;

	$count{$_}-- for @{ $lines[0] };
	$count{$_}++ for @{ $lines[1] };
	return join "\n", map { ($count{$_} > 0 ? 'new: ' : 'gone: ') . $_ } grep { $count{$_} } sort keys %count;
}

sub psql_file
{
	my ($connstr, $file) = @_;

	system_or_bail('psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-d', $connstr, '-f', $file);
	return;
}

sub as_tenant
{
	my ($node, $database, $role) = @_;
	my $session = connect_to($node, $database);

	$session->do("SET SESSION AUTHORIZATION $role");
	return $session;
}

sub ids { return [ map { $_->{id} } @{ $_[0]{documents} } ] }

# A database of the new server, checked.
sub restored
{
	my ($kind, $restore) = @_;

	connect_to($new)->do("CREATE DATABASE $kind OWNER owner");
	$restore->($new->connstr($kind), $kind);
	check_restored($kind, $new, $kind, $standby);
	return;
}

# Everything that must hold for a store that has come from elsewhere: it is the
# same, tenants are separated, clients are told.
sub check_restored
{
	my ($kind, $node, $database, $node_standby) = @_;
	my $session = connect_to($node, $database);
	my %tenants = map { $_ => as_tenant($node, $database, $_) } @TENANTS;
	my $epochs = $session->value('SELECT count(DISTINCT epoch) FROM docsync.history');

	is_deeply($session->rows($DOCUMENTS), $rows, "$kind: documents and stamps are identical");
	is(difference($schema, schema_of($node, $database)), '', "$kind: so is the schema: policies, triggers, columns, privileges, publication, ...");
	is($session->sqlstate_of('SELECT docsync_check_store()'), '', "$kind: nothing is wrong with the store");

	# Before anybody has written, tenants are separated.
	apart("$kind, at first", \%tenants);
	for my $tenant (@TENANTS)
	{
		my $answer = $tenants{$tenant}->pull('phone', $cursors{$tenant}, $tenant);
		is_deeply([ ids($answer), $answer->{reconcile} ], [ [], undef ], "$kind: until then $tenant goes on");
	}

	# With the first upload an epoch begins.
	my $last = $session->last_stamp;
	for my $tenant (@TENANTS)
	{
		my ($result) = $tenants{$tenant}->upload('laptop', $tenant, document("new, $kind", 1, '"here"'));
		is($result->{outcome}, 'created', "$kind: $tenant uploads");
		cmp_ok($result->{stamp}, '>', $last, "$kind: with a later stamp than all before");
	}
	is($session->value('SELECT count(DISTINCT epoch) FROM docsync.history'), $epochs + 1, "$kind: an epoch has begun, one");
	is($session->value("SELECT author FROM docsync.document WHERE collection = 'anna' AND id = 'new, $kind'"), 'laptop!', "$kind: a user's trigger has fired");
	is($session->value("SELECT count(*) FROM docsync.log WHERE id = 'new, $kind'"), 2, "$kind: the other one, too");
	is($session->sqlstate_of("UPDATE docsync.document SET middle = 100 WHERE id = 'a1'"), '23514', "$kind: CHECK holds");
	for my $tenant (@TENANTS)
	{
		told("$kind, $tenant", $tenants{$tenant}, 'phone', $cursors{$tenant}, $tenant, ["new, $kind"]);
	}
	apart("$kind, then", \%tenants);

	# No fence holds anything back, not even on a standby.
	my $all = [ $session->settled('anna') ];
	is_deeply([ sort @$all ], [ sort $session->column("SELECT id FROM docsync.document WHERE collection = 'anna'") ], "$kind: all is delivered");
	if ($node_standby)
	{
		replayed($session, connect_to($node_standby));
		is_deeply([ connect_to($node_standby, $database)->settled('anna') ], $all, "$kind: on a standby, too");
		my $reader = as_tenant($node_standby, $database, 'ben');
		is_deeply([ $reader->settled('ben') ], [ $tenants{ben}->settled('ben') ], "$kind: to a tenant there");
		is_deeply([ $reader->settled('anna') ], [], "$kind: who sees nothing of another");
	}
	return;
}

# Tenants see and write their own documents, and nobody else's.
sub apart
{
	my ($kind, $tenants) = @_;

	for my $tenant (@TENANTS)
	{
		my ($other) = grep { $_ ne $tenant } @TENANTS;
		my $session = $tenants->{$tenant};
		my $document = document('a1', 9, '"overwritten"');

		# A transaction that ends in the middle of a poll, such as autovacuum's, holds them back until the next
		# one.
		wait_for("$kind: $tenant\'s documents", sub { @{ $session->pull('t', undef, $tenant)->{documents} } > 4 });
		pass("$kind: $tenant sees its own documents");
		is_deeply([ ids($session->pull('t', undef, $other)), [ $session->settled($other) ] ], [ [], [] ], "$kind: of $other none");
		is_deeply(ids(decode_json($session->value("SELECT docsync_docs_get('{\"clientId\": \"t\", \"collection\": \"$other\", \"ids\": [\"a1\"]}')"))), [], "$kind: nor by id");
		is_deeply(decode_json($session->value("SELECT docsync_docs_reconcile('{\"clientId\": \"t\", \"collection\": \"$other\"}')"))->{rows}, [], "$kind: nor in a list");
		is($session->value('SELECT count(*) FROM docsync.document WHERE collection <> current_user'), 0, "$kind: nor by SQL");
		is($session->sqlstate_of("SELECT docsync_upsert('t', '[$document]', '$other')"), '42501', "$kind: $tenant can't overwrite $other");
		is($session->sqlstate_of("SELECT docsync_upsert('t', '[@{[document('mine', 1, '1')]}]', '$other')"), '42501', "$kind: nor add to it");
		is($session->sqlstate_of("INSERT INTO docsync.document (collection, id, body, last_update_utc, fence) VALUES ('$tenant', 'x', '1', now(), '3')"),
			'42501', "$kind: no stamp can be set");
		is($session->sqlstate_of("SELECT 1 FROM docsync.$_"), '42501', "$kind: $_ is closed") for qw(purged history clock log);
		is($session->sqlstate_of("DELETE FROM docsync.document"), '42501', "$kind: nothing can be deleted");
		is($session->sqlstate_of("CREATE TABLE docsync.own ()"), '42501', "$kind: nothing made there");
	}
	return;
}

# A client with an earlier cursor: refused, or told to compare, once.
sub told
{
	my ($kind, $session, $client_id, $cursor, $collection, $new) = @_;
	my $client = defined $client_id ? "'$client_id'" : 'NULL';

	is($session->sqlstate_of("SELECT docsync_pull($client, '$cursor', '$collection')"), '55000', "$kind: without reconcile it is refused");
	like($session->errstr, qr/resync required.*"lost"/s, "$kind: since documents may be lost");
	is($session->sqlstate_of("SELECT docsync_sync($client, cursor => '$cursor', collection => '$collection')"), '55000', "$kind: so is its sync") if defined $client_id;

	my $answer = decode_json($session->value("SELECT docsync_pull($client, '$cursor', '$collection', reconcile => true)"));
	ok($answer->{reconcile}, "$kind: it is told to compare");
	like($answer->{lostAfter}, qr/^20\d\d-.+Z$|^-infinity$/, "$kind: and from which stamp on");
	is_deeply([ map { $_->{id} } grep { $_->{body} && $_->{body} =~ /here/ } @{ $answer->{documents} } ], $new, "$kind: it gets what is new");
	$answer = decode_json($session->value("SELECT docsync_pull($client, '$answer->{cursor}', '$collection', reconcile => true)"));
	is_deeply([ ids($answer), $answer->{reconcile} ], [ [], undef ], "$kind: once");
	return;
}

# Each function refuses with a SQLSTATE, to each session.
sub all_refuse
{
	my ($kind, $sqlstate, $message, @sessions) = @_;

	for my $session (@sessions)
	{
		for my $name (sort keys %CALLS)
		{
			is($session->sqlstate_of("SELECT $CALLS{$name}"), $sqlstate, "$kind: $name refuses");
			like($session->errstr, $message, "$kind: $name says why");
		}
		is($session->sqlstate_of('CALL docsync_purge()'), $sqlstate, "$kind: docsync_purge refuses");
	}
	return;
}

# After the data, but before the policies, nobody is served.
sub in_sections
{
	my ($connstr, $database) = @_;

	for my $section (qw(pre-data data post-data))
	{
		system_or_bail('pg_restore', '--exit-on-error', '-d', $connstr, "$dir/section_$section");
		all_refuse("after $section", '42704', qr/has no primary key/, connect_to($new, $database)) if $section ne 'post-data';
	}
	return;
}

# For a user who isn't a superuser the extension exists already.
sub by_the_owner
{
	my ($connstr, $database) = @_;

	my ($list) = run_command([ 'pg_restore', '-l', "$dir/custom" ]);

	append_to_file("$dir/list", join "\n", grep { !/COMMENT - EXTENSION/ } split /\n/, $list);
	connect_to($new, $database)->do('CREATE EXTENSION docsync');
	system_or_bail('pg_restore', '--exit-on-error', '--role=owner', '-L', "$dir/list", '-d', $connstr, "$dir/custom");
	return;
}

# Indexes are restored in another order than they were created in, and users add
# some.  While the table is small, the planner takes the newest suitable one.
sub small_store
{
	my @commands = ('SELECT 1', 'CREATE INDEX youngest ON docsync.document (collection, middle)');

	connect_to($new)->do('CREATE DATABASE small OWNER owner');
	psql_file($new->connstr('small'), "$dir/plain");
	for my $i (0 .. $#commands)
	{
		my $session = connect_to($new, 'small');

		$session->do($commands[$i], 'BEGIN');
		$session->upload('c', 'anna', document("$i-$_", 1, '1')) for 1 .. 20;
		$session->upload('c', 'anna', document("$i-$_", 1, '1'), document("$i+$_", 1, '1')) for 1 .. 20;
		cmp_ok($session->value("SELECT sum(pg_stat_get_xact_tuples_returned(indexrelid)) FROM pg_index
								 WHERE indrelid = 'docsync.document'::regclass AND NOT indisprimary"),
			'<', 100, "a small store: documents are looked up by the primary key, with $commands[$i]");
		$session->do('ROLLBACK');
	}
	return;
}

# Over an existing store, with sessions that have used it.
sub into_the_same_database
{
	my $before = as_tenant($old, 'store', 'anna');

	is($before->sqlstate_of("SELECT docsync_pull('phone', NULL, 'anna')"), '', 'a session from before');
	$before->upload('phone', 'anna', document('lost, too', 1, '1'));
	my $ahead = $before->pull('phone', undef, 'anna')->{cursor};
	system_or_bail('pg_restore', '--clean', '--if-exists', '--exit-on-error', '-d', $old->connstr('store'), "$dir/custom");

	is_deeply([ grep { /lost/ } $before->settled('anna') ], [], 'finds the store that has come');
	check_restored('the same database', $old, 'store');
	told('ahead of the same database', $before, 'phone', $ahead, 'anna', ['new, the same database']);
	return;
}

# Without the extension the documents stay, but can't be written, since nothing
# would stamp them; with the extension again, they have to be adopted first.
sub drop_extension
{
	my ($session, $owner, $tenant) = (connect_to($new, 'plain'), map { as_tenant($new, 'plain', $_) } 'owner', 'anna');
	my $documents = $session->rows($DOCUMENTS);
	my $cursor = $tenant->pull('phone', undef, 'anna')->{cursor};
	my $epochs = $session->value('SELECT count(DISTINCT epoch) FROM docsync.history');

	$session->do('SET client_min_messages = warning', 'DROP EXTENSION docsync CASCADE');
	is_deeply($session->rows($DOCUMENTS), $documents, 'DROP EXTENSION: no document goes');
	is($session->value('SELECT count(*) FROM pg_policy'), 2, 'DROP EXTENSION: nor a policy');
	for my $writer ($session, $owner, $tenant)
	{
		is($writer->sqlstate_of("INSERT INTO docsync.document (collection, id, body) VALUES ('anna', 'unstamped', '1')"),
			'23502', 'DROP EXTENSION: what nobody stamps is refused');
	}
	is($tenant->value('SELECT count(*) FROM docsync.document WHERE collection <> current_user'), 0, 'DROP EXTENSION: tenants are apart');
	$session->do("INSERT INTO docsync.document (collection, id, body, last_update_utc, fence) SELECT 'anna', 'by hand', '\"here\"', min(last_update_utc) + '1 us', '3' FROM docsync.document");

	$session->do('CREATE EXTENSION docsync');
	all_refuse('CREATE EXTENSION', '55000', qr/is not guarded.*docsync_create_store/s, $session, $owner);
	is($tenant->sqlstate_of("SELECT docsync_pull('phone', '$cursor', 'anna')"), '55000', 'CREATE EXTENSION: to a tenant, too');
	is($tenant->sqlstate_of('SELECT docsync_create_store()'), '42501', 'who may not adopt the store');

	$owner->do('SELECT docsync_create_store()');
	is_deeply($session->rows($DOCUMENTS =~ s/ORDER/WHERE id <> 'by hand' ORDER/r), $documents, 'adopted: documents are as they were');
	is($session->value('SELECT count(DISTINCT epoch) FROM docsync.history'), $epochs + 1, 'adopted: an epoch has begun');
	told('adopted', $tenant, 'phone', $cursor, 'anna', []);
	ok((grep { $_ eq 'by hand' } $session->settled('anna')), 'what was written meanwhile is delivered to who begins');
	is($tenant->sqlstate_of("INSERT INTO docsync.document (collection, id, body) VALUES ('anna', 'stamped', '1')"), '', 'and what is written is stamped');
	is($session->value(q{SELECT bool_and(relowner = 'owner'::regrole) FROM pg_class WHERE relnamespace = 'docsync'::regnamespace}), 1, "all is its owner's");
	is($owner->sqlstate_of('SELECT docsync_create_store()'), '', 'again, nothing is left to do');
	is($session->value('SELECT count(DISTINCT epoch) FROM docsync.history'), $epochs + 1, 'nor an epoch begun');
	apart('adopted', { map { $_ => as_tenant($new, 'plain', $_) } @TENANTS });
	return;
}

# A clone has a history of its own.
sub template
{
	my $original = as_tenant($new, 'custom', 'anna');
	my $cursor = $original->pull('phone', undef, 'anna')->{cursor};

	$original->close;
	connect_to($new)->do('CREATE DATABASE clone TEMPLATE custom');
	my $clone = as_tenant($new, 'clone', 'anna');
	is($clone->sqlstate_of("SELECT docsync_pull('phone')"), '42501', "TEMPLATE: the clone is another's database than the store");
	connect_to($new)->do('ALTER DATABASE clone OWNER TO owner');
	$original = as_tenant($new, 'custom', 'anna');
	is_deeply([ $clone->settled('anna') ], [ $original->settled('anna') ], 'TEMPLATE: a clone has all documents');
	$_->upload('laptop', 'anna', document('new', 1, '"here"')) for $clone, $original;
	told('TEMPLATE', $clone, 'phone', $cursor, 'anna', ['new']);
	is_deeply(ids($original->pull('phone', $cursor, 'anna')), ['new'], 'TEMPLATE: at the original clients go on');
	replayed($original, connect_to($standby));
	is_deeply([ connect_to($standby, 'clone')->settled('anna') ], [ $original->settled('anna') ], 'TEMPLATE: a standby has all of it');
	apart('TEMPLATE', { map { $_ => as_tenant($new, 'clone', $_) } @TENANTS });

	# A client that is ahead of a clone, to which nothing has been written yet
	$_->close for $clone, $original;
	connect_to($new)->do('CREATE DATABASE clone2 TEMPLATE custom', 'ALTER DATABASE clone2 OWNER TO owner');
	($clone, $original) = map { as_tenant($new, $_, 'anna') } 'clone2', 'custom';
	$original->upload('laptop', 'anna', document('not at the clone', 1, '1'));
	my $ahead = $original->pull('phone', undef, 'anna')->{cursor};
	is_deeply([ @{ $clone->pull('phone', $ahead, 'anna') }{qw(documents behind cursor)} ], [ [], JSON::PP::true, $ahead ], 'TEMPLATE: a clone says that it is behind');
	$clone->upload('laptop', 'anna', document('at the clone', 1, '"here"'));
	told('ahead of a clone', $clone, 'phone', $ahead, 'anna', ['at the clone']);
	return;
}

sub all_databases
{
	my $all = PostgreSQL::Test::Cluster->new('all');
	my ($stdout, $stderr);

	take_state();
	system_or_bail('pg_dumpall', '-f', "$dir/all", '-d', $old->connstr('postgres'));
	$all->init;
	$all->start;
	IPC::Run::run([ 'psql', '-qX', '-o', '/dev/null', '-d', $all->connstr('postgres'), '-f', "$dir/all" ], '2>', \$stderr);
	my $superuser = connect_to($all)->value('SELECT current_user');
	is(join("\n", grep { !/role "$superuser" already exists/ } grep { /ERROR/ } split /\n/, $stderr), '', 'pg_dumpall: restored without an error');
	check_restored('pg_dumpall', $all, 'store');
	$all->stop;
	return;
}

sub upgraded
{
	my $upgraded = PostgreSQL::Test::Cluster->new('upgraded');
	my $bin = PostgreSQL::Test::Cluster->can('config_data') ? $old->config_data('--bindir') : '';

	take_state();
	$source->close;
	$old->stop;
	$upgraded->init(allows_streaming => 1);
	chdir $dir or die "$dir: $!";
	system_or_bail('pg_upgrade', '-b', $bin, '-B', $bin, '-d', $old->data_dir, '-D', $upgraded->data_dir,
		'-p', $old->port, '-P', $upgraded->port, '-s', $old->host);
	$upgraded->start;
	check_restored('pg_upgrade', $upgraded, 'store');
	$upgraded->stop;
	return;
}

# Superusers, the database's owner, and members of that role; not the
# extension's owner.
sub who_may_make_one
{
	my $superuser = connect_to($new);

	$superuser->do('CREATE ROLE member', 'GRANT owner TO member', 'CREATE ROLE extension_owner SUPERUSER',
		'CREATE DATABASE making OWNER owner', 'GRANT CREATE ON DATABASE making TO mallory');
	my $session = connect_to($new, 'making');
	my ($mallory, %session) = as_tenant($new, 'making', 'mallory');
	$session->do('SET client_min_messages = warning', 'SET ROLE extension_owner', 'CREATE EXTENSION docsync', 'RESET ROLE', 'ALTER ROLE extension_owner NOSUPERUSER',
		'GRANT CREATE ON DATABASE making TO extension_owner');

	for my $call (sort keys %CALLS)
	{
		next if $call eq 'docsync_grant';
		is($mallory->sqlstate_of("SELECT $CALLS{$call}"), '42P01', "no store: $call");
		like($mallory->errstr, qr/no store in this database.*docsync_create_store/s, 'says who can make one');
	}
	for my $call ('docsync_create_store()', "docsync_grant('mallory')", 'docsync_check_store_owner()')
	{
		is($mallory->sqlstate_of("SELECT $call"), '42501', "mallory can't make one by $call");
	}
	is($mallory->value("SELECT to_regnamespace('docsync')"), undef, 'and there is none');

	is(as_tenant($new, 'making', 'extension_owner')->sqlstate_of('SELECT docsync_create_store()'), '42501', "nor can the extension's owner");
	for my $role ('owner', 'member')
	{
		my $maker = as_tenant($new, 'making', $role);

		$maker->do('SET client_min_messages = warning');
		is(join(' ', map { $_->{outcome} } $maker->upload('c', 'anna', document('d', 1, '1'))), 'created', "$role makes a store by uploading");
		is($session->value("SELECT string_agg(DISTINCT nspowner::regrole::text, ' ') FROM pg_namespace WHERE nspname = 'docsync'"), $role, 'and owns it');
		is($session->sqlstate_of('SELECT docsync_check_store()'), '', 'rightly');
		$session->do('DROP SCHEMA docsync CASCADE');
	}
	$session->do('SELECT docsync_create_store()');

	# Nor can anybody else become the owner of one, or of a part of it.
	$session->do("SELECT docsync_grant('anna')");
	my $tenant = as_tenant($new, 'making', 'anna');
	my $superuser_name = $session->value('SELECT current_user');
	for my $part ('SCHEMA docsync', map({ "TABLE docsync.$_" } qw(document purged history)), 'SEQUENCE docsync.clock')
	{
		is($tenant->sqlstate_of("SELECT docsync_pull('c')"), '', "before $part is given away");
		$session->do("ALTER $part OWNER TO mallory");
		all_refuse("$part is mallory's", '42501', qr/is owned by a role that may not.*mallory.*ALTER $part OWNER TO/s, $session);
		is($session->sqlstate_of('SELECT docsync_create_store()'), '42501', 'docsync_create_store() refuses');
		is($tenant->sqlstate_of("SELECT docsync_pull('c')"), '42501', 'to others, too');
		$session->do("ALTER $part OWNER TO $superuser_name");
	}

	# A former member
	$session->do('ALTER TABLE docsync.purged OWNER TO member');
	is($tenant->sqlstate_of("SELECT docsync_pull('c')"), '', "a member's is served");
	$superuser->do('REVOKE owner FROM member');
	is($tenant->sqlstate_of("SELECT docsync_pull('c')"), '42501', 'and not when he has left, in the same session');
	$superuser->do('ALTER DATABASE making OWNER TO member');
	is($tenant->sqlstate_of("SELECT docsync_pull('c')"), '', 'until the database is his');
	return;
}

# Somebody who may create schemas creates the store first, and waits for a
# superuser.
sub traps
{
	my $superuser = connect_to($new);

	$superuser->do('CREATE DATABASE trapped OWNER owner', 'GRANT CREATE ON DATABASE trapped TO mallory');
	my $session = connect_to($new, 'trapped');
	my $owner = as_tenant($new, 'trapped', 'owner');
	my $mallory = as_tenant($new, 'trapped', 'mallory');
	my $superuser_name = $session->value('SELECT current_user');

	$session->do('SET client_min_messages = warning', 'CREATE EXTENSION docsync', 'SELECT docsync_create_store()', 'ALTER SCHEMA docsync RENAME TO good', 'GRANT USAGE ON SCHEMA good TO mallory',
		'GRANT SELECT ON ALL TABLES IN SCHEMA good TO mallory');
	$mallory->do('SET client_min_messages = warning', 'CREATE SCHEMA docsync', 'GRANT ALL ON SCHEMA docsync TO PUBLIC');
	my $unsprung = sub {
		my ($kind) = @_;

		all_refuse($kind, '42501', qr/is owned by a role that may not.*ALTER (?:SCHEMA|TABLE|SEQUENCE) docsync(?:\.\w+)? OWNER TO/s, $session, $owner);
		for my $call ('docsync_create_store()', 'docsync_check_store_owner()')
		{
			is($_->sqlstate_of("SELECT $call"), '42501', "$kind: $call refuses") for $session, $owner;
		}
		is($session->value("SELECT coalesce((SELECT last_value FROM pg_sequences WHERE sequencename = 'sprung'), 0)"), 0, "$kind: no trap has been sprung");
	};
	$unsprung->('an empty schema');

	# A sequence isn't rolled back, so it tells whether code was run.
	$mallory->do(
		'CREATE SEQUENCE docsync.sprung',
		q{CREATE FUNCTION docsync.trap() RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM nextval('docsync.sprung'); RETURN true; END$$},
		q{CREATE FUNCTION docsync.trigger() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM nextval('docsync.sprung'); RETURN NEW; END$$},
		'GRANT ALL ON ALL SEQUENCES IN SCHEMA docsync TO PUBLIC');
	for my $table (qw(document purged history))
	{
		$mallory->do(
			"CREATE TABLE docsync.$table (LIKE good.$table INCLUDING DEFAULTS)",
			"ALTER TABLE docsync.$table ADD a_trap bool DEFAULT docsync.trap(), ADD another bool GENERATED ALWAYS AS (docsync.trap()) STORED",
			"CREATE INDEX ON docsync.$table (docsync.trap())", "CREATE INDEX ON docsync.$table (a_trap) WHERE docsync.trap()",
			"ALTER TABLE docsync.$table ADD CHECK (docsync.trap()), ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
			"CREATE POLICY trap ON docsync.$table USING (docsync.trap())",
			"GRANT ALL ON docsync.$table TO PUBLIC",
			map({ my $when = $_; map { "CREATE TRIGGER trap_${when}_$_ $when INSERT OR UPDATE OR DELETE ON docsync.$table FOR EACH $_ EXECUTE FUNCTION docsync.trigger()" } qw(ROW STATEMENT) } qw(BEFORE AFTER)),
			"CREATE RULE trap AS ON UPDATE TO docsync.$table DO ALSO SELECT docsync.trap()");
		$mallory->do('ALTER SEQUENCE docsync.sprung RESTART');
		$unsprung->("$table is there");
	}
	$mallory->do('CREATE SEQUENCE docsync.clock AS int8 MINVALUE 0 START 0', 'GRANT ALL ON docsync.clock TO PUBLIC',
		'ALTER TABLE docsync.document ADD PRIMARY KEY (collection, id)', 'ALTER TABLE docsync.purged ADD PRIMARY KEY (collection)', 'ALTER TABLE docsync.history ADD PRIMARY KEY (number)',
		'CREATE TRIGGER zz_docsync_guard BEFORE INSERT OR UPDATE OR DELETE ON docsync.document FOR EACH ROW EXECUTE FUNCTION docsync_guard()',
		'CREATE TRIGGER zz_docsync_guard_truncate BEFORE TRUNCATE ON docsync.document FOR EACH STATEMENT EXECUTE FUNCTION docsync_guard()');
	$unsprung->('all is there');
	$session->do('ALTER SCHEMA docsync OWNER TO owner');
	$unsprung->('the schema has been taken over');
	$session->do("ALTER SEQUENCE docsync.clock OWNER TO owner", 'ALTER TABLE docsync.history OWNER TO owner', 'ALTER TABLE docsync.purged OWNER TO owner');
	$unsprung->('so has all but the table itself');
	$session->do('ALTER TABLE docsync.document OWNER TO owner', 'ALTER TABLE docsync.history OWNER TO mallory');
	$unsprung->('all but a small part');

	# The trap would have worked.
	$session->do('ALTER TABLE docsync.history OWNER TO owner', "INSERT INTO docsync.document (collection, id, body) VALUES ('anna', 'd', '1')");
	cmp_ok($session->value("SELECT last_value FROM pg_sequences WHERE sequencename = 'sprung'"), '>', 0, 'who takes all of it over gets the traps, too');

	# It works after all
	$session->do('DROP SCHEMA docsync CASCADE', 'DROP SCHEMA good CASCADE');
	is(join(' ', map { $_->{outcome} } $session->upload('c', 'anna', document('d', 1, '1'))), 'created', 'when it is gone a store is made');
	is($mallory->sqlstate_of("SELECT docsync_pull('c', NULL, 'anna')"), '42501', 'that is closed to mallory');
	is($mallory->sqlstate_of('SELECT docsync_create_store()'), '42501', 'who can mend none either');
	return;
}
