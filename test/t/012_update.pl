# ALTER EXTENSION docsync UPDATE: from each earlier version it leads to the same
# as installing.  From 0.1 the store leaves the extension with everything that
# its users have changed in it, and clients carry on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use JSON::PP qw(decode_json);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('primary');
my $standby = PostgreSQL::Test::Cluster->new('standby');
my $admin = connect_to($node);
my $dir = PostgreSQL::Test::Utils::tempdir();

# 2026-01-01, where the stamps of the old store begin, and its cursors' epoch
my $T0 = 1_767_225_600_000_000;
my $EPOCH = 'x\'5f3a9c0d1e2b4a77\'::bigint';
my $DOCUMENTS = 'SELECT collection, id, client_version, client_id, last_update_utc, deleted, body, fence FROM docsync.document ORDER BY 1, 2';

$node->backup('base');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$admin->do('CREATE ROLE owner', 'CREATE ROLE tenant', 'CREATE ROLE stranger', 'CREATE ROLE ops');

refusals();
what_is_new_is_as_installed();
what_is_the_users_stays();
clients_go_on();
guard_was_off();
owner_who_may_not();
dump_of_the_old_store();
waits_for_writers();
done_testing();

#-----------------------------------------------------------------------------

# A session with a new database that has an old version, 0.1, in schema api, and
# a store.  Options: owner, version
sub old_store
{
	my ($database, %options) = @_;
	my $version = $options{version} // '0.1';

	$admin->do("CREATE DATABASE $database" . ($options{owner} ? " OWNER $options{owner}" : ''));
	my $session = connect_to($node, $database);
	$session->do('CREATE SCHEMA api', "CREATE EXTENSION docsync VERSION '$version' SCHEMA api",
		"ALTER DATABASE $database SET search_path = public, api", 'SET search_path = public, api');
	$session->do('SELECT docsync_create_store()') if $version ne '0.1';
	return $session;
}

# What 0.1 would have stored, inserted without its guard, since the library of
# 0.1 doesn't exist any more.  Stamps are given in seconds after T0.
sub fill
{
	my ($session) = @_;

	$session->do('SET session_replication_role = replica',
		map({ my ($collection, $id, $client_id, $at, $body) = @$_;
				sprintf q{INSERT INTO docsync.document (collection, id, client_version, client_id, last_update_utc, deleted, body, fence)
						  VALUES ('%s', '%s', 1, '%s', %s, %s, %s, pg_snapshot_xmax(pg_current_snapshot()))},
				$collection, $id, $client_id, stamp($at), $body ? 'false' : 'true', $body ? "'$body'" : 'NULL' }
			[ 'anna', 'a', 'phone', 1, '{"text": "bread"}' ], [ 'anna', 'b', 'phone', 2, '"b"' ], [ 'anna', 'gone', 'phone', 3 ],
			[ 'anna', 'c', 'laptop', 4, '[1]' ], [ 'anna', 'd', 'phone', 7, '4' ],
			[ 'ben', 'e', 'tablet', 5, 'null' ], [ 'ben', 'gone, too', 'tablet', 6 ]),
		'RESET session_replication_role',

		# anna's highest stamp was that of a tombstone; ben's horizon is lower
		"INSERT INTO docsync.purged VALUES ('anna', @{[stamp(8)]}), ('ben', @{[stamp(4.5)]})",
		"SELECT setval('docsync.clock', @{[$T0 + 9_000_000]})",
		"SELECT setval('docsync.horizon', @{[$T0 + 8_000_000]})",
		"SELECT setval('docsync.epoch', $EPOCH)");
	return;
}

sub stamp { return sprintf "'epoch'::timestamptz + interval '1 microsecond' * %d", $T0 + $_[0] * 1e6 }

# One of 0.1's cursors
sub cursor { return sprintf '5f3a9c0d1e2b4a77.%d', $T0 + $_[0] * 1e6 }

sub ids { return [ map { $_->{id} } @{ $_[0]{documents} } ] }

# With the new library, before the update, all functions say what to do.
sub refusals
{
	my $session = old_store('refusals');
	my $role = connect_to($node, 'refusals');
	my $document = document('d', 1, '1');

	$session->do("SELECT docsync_grant('tenant')");
	fill($session);
	$role->do('SET search_path = public, api', 'SET ROLE tenant');
	for my $call (
		"docsync_upsert('c', '[$document]')", "docsync_upsert('c', '[]')",
		"docsync_query_since('c')", "docsync_query_since(NULL, origin => 'any')",
		"docsync_sync('c', '[$document]')", "docsync_sync('c')", "docsync_pull('c')", 'docsync_pull()',
		qq(docsync_docs('{"clientId": "c", "documents": [$document]}')),
		qq(docsync_docs_sync('{"clientId": "c", "documents": [$document]}')),
		"docsync_docs_query(\"clientId\" => 'c')")
	{
		for ($session, $role)
		{
			is($_->sqlstate_of("SELECT $call"), '42P01', "before the update: $call is refused");
			like($_->errstr, qr/still that of version 0\.1.*ALTER EXTENSION docsync UPDATE/s, 'and says what to do');
		}
	}
	for my $statement ('SELECT docsync_purge()', "SELECT docsync_purge('1 day', 'anna')",
		"INSERT INTO docsync.document (id, body) VALUES ('d', '1')",
		"UPDATE docsync.document SET body = '1'", 'DELETE FROM docsync.document', 'TRUNCATE docsync.document')
	{
		is($session->sqlstate_of($statement), '42P01', "and so is $statement");
		like($session->errstr, qr/ALTER EXTENSION docsync UPDATE/, 'which says it, too');
	}
	is($session->sqlstate_of("SELECT docsync_grant('ops')"), '', 'docsync_grant works as it did');

	# In the same sessions
	$session->do('ALTER EXTENSION docsync UPDATE');
	is($session->sqlstate_of("SELECT docsync_upsert('c', '[$document]')"), '', 'after the update all work');
	is($role->sqlstate_of("SELECT docsync_upsert('c', '[$document]')"), '', 'for the roles, too');
	is($session->sqlstate_of("CALL docsync_purge()"), '', 'the purge is a procedure now');
	is($session->value("SELECT extversion FROM pg_extension WHERE extname = 'docsync'"), '0.2.0', 'the version is that of an install');
	return;
}

# Everything that the extension and the store consist of, as rows of text
sub catalogs
{
	my ($session) = @_;

	return $session->column(q{
		WITH member AS (
			SELECT classid, objid FROM pg_depend WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass
			   AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'docsync')),
		relation AS (
			SELECT c.* FROM pg_class AS c WHERE relnamespace = 'docsync'::regnamespace),
		object AS (
			SELECT * FROM member
			UNION SELECT 'pg_class'::regclass, oid FROM relation
			UNION SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typnamespace = 'docsync'::regnamespace
			UNION SELECT 'pg_namespace'::regclass, 'docsync'::regnamespace
			UNION SELECT 'pg_trigger'::regclass, t.oid FROM pg_trigger AS t JOIN relation AS r ON r.oid = tgrelid
			UNION SELECT 'pg_attrdef'::regclass, d.oid FROM pg_attrdef AS d JOIN relation AS r ON r.oid = adrelid
			UNION SELECT 'pg_constraint'::regclass, c.oid FROM pg_constraint AS c JOIN relation AS r ON r.oid = conrelid)
		SELECT unnest FROM (
			SELECT 'extension: ' || concat_ws(' ', extowner::regrole, extnamespace::regnamespace, extversion, extconfig, extcondition)
			  FROM pg_extension WHERE extname = 'docsync'
			UNION ALL
			SELECT 'member: ' || pg_describe_object(classid, objid, 0) FROM member
			UNION ALL
			SELECT format('comment on %s: %s', pg_describe_object(classoid, o.objoid, objsubid), description)
			  FROM pg_description AS o JOIN object ON (classoid, objoid) = (classid, objid)
			UNION ALL
			SELECT format('%s depends on %s: %s', pg_describe_object(d.classid, d.objid, objsubid),
						  pg_describe_object(refclassid, refobjid, refobjsubid), deptype)
			  FROM pg_depend AS d JOIN object USING (classid, objid)
			UNION ALL
			SELECT 'function: ' || concat_ws(' ', p.oid::regprocedure, proowner::regrole, prokind, provolatile, proparallel, proisstrict,
				   prosecdef, proleakproof, procost, prorows, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid),
				   l.lanname, probin, prosrc, proconfig,
				   (SELECT array_agg((grantee, privilege_type, is_grantable) ORDER BY grantee) FROM aclexplode(coalesce(proacl, acldefault('f', proowner)))))
			  FROM pg_proc AS p JOIN pg_language AS l ON l.oid = prolang JOIN member ON (classid, objid) = ('pg_proc'::regclass, p.oid)
			UNION ALL
			SELECT 'type: ' || concat_ws(' ', t.oid::regtype, typowner::regrole, typtype, typbasetype::regtype, typarray::regtype,
				   (SELECT array_agg((grantee, privilege_type, is_grantable) ORDER BY grantee) FROM aclexplode(coalesce(typacl, acldefault('T', typowner)))))
			  FROM pg_type AS t JOIN member ON (classid, objid) = ('pg_type'::regclass, t.oid)
			UNION ALL
			SELECT 'schema: ' || concat_ws(' ', nspname, nspowner::regrole, coalesce(nspacl, acldefault('n', nspowner))) FROM pg_namespace WHERE nspname = 'docsync'
			UNION ALL
			SELECT 'relation: ' || concat_ws(' ', relname, relkind, relowner::regrole, relpersistence, relreplident, relrowsecurity, relforcerowsecurity,
				   coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)), reloptions, pg_get_indexdef(oid)) FROM relation
			UNION ALL
			SELECT 'column: ' || concat_ws(' ', r.relname, attnum, attname, format_type(atttypid, atttypmod), attcollation::regcollation, attnotnull,
				   attstorage, attcompression, attidentity, attgenerated, attacl, pg_get_expr(adbin, adrelid))
			  FROM pg_attribute AS a JOIN relation AS r ON r.oid = attrelid LEFT JOIN pg_attrdef AS d ON (adrelid, adnum) = (attrelid, attnum)
			 WHERE attnum > 0
			UNION ALL
			SELECT 'constraint: ' || concat_ws(' ', r.relname, conname, pg_get_constraintdef(c.oid), convalidated)
			  FROM pg_constraint AS c JOIN relation AS r ON r.oid = conrelid
			UNION ALL
			SELECT 'trigger: ' || concat_ws(' ', pg_get_triggerdef(t.oid), tgenabled) FROM pg_trigger AS t JOIN relation AS r ON r.oid = tgrelid
			UNION ALL
			SELECT 'policy: ' || polname FROM pg_policy
			) AS described(unnest)
		 WHERE unnest !~ 'pg_toast'
		 ORDER BY 1});
}

# The schema alone, as text
sub dump_of
{
	my ($database) = @_;

	system_or_bail('pg_dump', '--schema-only', '-f', "$dir/$database.sql", '-d', $node->connstr($database));
	return slurp_file("$dir/$database.sql") =~ s/^\\(?:un)?restrict .*//mgr;
}

# From each earlier version
sub what_is_new_is_as_installed
{
	my @versions = map { /docsync--([^-]+)--/ } glob "$FindBin::RealBin/../../sql/docsync--*--*.sql";

	is_deeply([ $admin->column(q{SELECT source FROM pg_extension_update_paths('docsync'), pg_available_extensions
								 WHERE name = 'docsync' AND target = default_version AND path IS NULL}) ],
		[], 'each version has a way to the present one');
	cmp_ok(scalar @versions, '>', 0, 'there are some');

	$admin->do('CREATE DATABASE installed');
	my $installed = connect_to($node, 'installed');
	$installed->do('CREATE SCHEMA api', 'CREATE EXTENSION docsync SCHEMA api',
		'ALTER DATABASE installed SET search_path = public, api', 'SET search_path = public, api',
		'SELECT docsync_create_store()');
	updated_is_as_installed($_, $installed) for @versions;
	return;
}

sub updated_is_as_installed
{
	my ($version, $installed) = @_;
	my $database = "updated_$version" =~ tr/./_/r;
	my $updated = old_store($database, version => $version);
	my %installed = map { $_ => 1 } catalogs($installed);

	# A role that had all privileges, and was dropped, leaves nothing behind.
	$updated->do("SELECT docsync_grant('ops')", 'GRANT EXECUTE ON FUNCTION docsync_new_epoch() TO ops');
	$updated->do('GRANT USAGE ON TYPE docsync.change TO ops') if $version eq '0.1';
	$updated->do('ALTER EXTENSION docsync UPDATE', 'DROP OWNED BY ops');
	my @updated = catalogs($updated);
	cmp_ok(scalar @updated, '>', 200, "$version: there is something to compare");
	is(join("\n", grep { !delete $installed{$_} } @updated), '', "$version: the extension and its store are as installed");
	is(join("\n", sort keys %installed), '', "$version: and nothing is missing");
	is(dump_of($database), dump_of('installed'), "$version: and dumped as such");
	is($updated->value('SELECT count(*) FROM pg_init_privs WHERE EXISTS (SELECT FROM aclexplode(initprivs) WHERE grantee = ?::regrole)', 'ops'),
		0, "$version: nor is a role among what the extension was installed with");

	# What is written then is the first, as in a new store.
	is(join(' ', map { $_->{outcome} } $updated->upload('c', 'default', document('d', 1, '1'))), 'created', "$version: an empty store works");
	is_deeply([ $updated->settled('default') ], ['d'], "$version: and gives what it has");
	is($updated->sqlstate_of('SELECT docsync_check_store()'), '', "$version: nothing is wrong with it");
	return;
}

sub what_is_the_users_stays
{
	my $session = old_store('users', owner => 'owner');

	fill($session);
	$session->do(
		"SELECT docsync_grant('tenant')",
		'ALTER TABLE docsync.document ADD author text, ADD middle int DEFAULT 7, ADD dropped int',
		'ALTER TABLE docsync.document DROP dropped, ADD CONSTRAINT small CHECK (middle < 100)',
		"ALTER TABLE docsync.document SET (fillfactor = 80), ALTER author SET STATISTICS 50",
		'CREATE INDEX by_author ON docsync.document (author)',
		'ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY',
		"CREATE POLICY tenant ON docsync.document TO tenant USING (collection = current_setting('request.tenant', true))",
		q{CREATE FUNCTION stamp_author() RETURNS trigger LANGUAGE plpgsql AS
		  $$BEGIN NEW.author := concat(NEW.client_id, '!'); RETURN NEW; END$$},
		'CREATE TRIGGER a_author BEFORE INSERT OR UPDATE ON docsync.document FOR EACH ROW EXECUTE FUNCTION stamp_author()',
		'CREATE TABLE log (id text)',
		q{CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$BEGIN INSERT INTO log VALUES (NEW.id); RETURN NULL; END$$},
		'CREATE TRIGGER zzz_log AFTER INSERT ON docsync.document FOR EACH ROW EXECUTE FUNCTION log()',
		'CREATE PUBLICATION changes FOR TABLE docsync.document (collection, id, body) WHERE (collection = \'anna\')',
		'GRANT SELECT ON docsync.document TO ops', 'GRANT SELECT, INSERT, UPDATE ON docsync.purged TO ops',
		"COMMENT ON TABLE docsync.document IS 'Ours'",
		'GRANT INSERT (author) ON docsync.document TO tenant',

		# On the extension's types and functions
		'CREATE TABLE kept (c docsync.change, cs docsync.change[])', "INSERT INTO kept VALUES (('a', 1, 'c', now(), false, '1'), '{}')",
		'CREATE VIEW changes AS SELECT * FROM docsync_query_since(\'viewer\', collection => \'anna\')',
		q{CREATE FUNCTION answer() RETURNS docsync."*/*" LANGUAGE sql AS $$SELECT docsync_pull(collection => 'anna')$$},
		q{CREATE FUNCTION latest() RETURNS SETOF docsync.change LANGUAGE sql BEGIN ATOMIC SELECT * FROM docsync_query_since('viewer', collection => 'ben'); END},

		(map { "ALTER $_ OWNER TO owner" } 'SCHEMA docsync', 'TABLE docsync.document', 'TABLE docsync.purged', 'SEQUENCE docsync.clock'));

	my $before = users_things($session);
	my $documents = $session->rows($DOCUMENTS =~ s/fence/fence, author, middle/r);
	$session->do('ALTER EXTENSION docsync UPDATE');

	is_deeply($session->rows($DOCUMENTS =~ s/fence/fence, author, middle/r), $documents, 'documents stay as they were, with the columns that were added');
	is_deeply(users_things($session), $before, 'what users have made stays');
	is($session->value(q{SELECT string_agg(DISTINCT relowner::regrole::text, ' ') FROM pg_class WHERE relnamespace = 'docsync'::regnamespace}),
		'owner', 'the store has the owner it had, also what is new in it');
	is($session->sqlstate_of('SELECT docsync_check_store()'), '', 'and is in order');
	is(join(' ', $session->column('SELECT (c).id FROM kept')), 'a', "a column of docsync's type is still there");
	is_deeply([ $session->column('SELECT id FROM changes') ], [qw(a b gone c d)], 'a view on docsync_query_since');
	is_deeply([ $session->column('SELECT id FROM latest()') ], [ 'e', 'gone, too' ], 'a function on it');
	is_deeply(ids(decode_json($session->value('SELECT answer()'))), [qw(a b gone c d)], 'one that answers over HTTP');

	# Roles
	my $tenant = connect_to($node, 'users');
	$tenant->do('SET search_path = public, api', 'SET ROLE tenant', "SET request.tenant = 'ben'");
	is(join(' ', map { $_->{outcome} } $tenant->upload('t', 'ben', document('f', 1, '1'))), 'created', 'a role that was granted to goes on');
	is($tenant->sqlstate_of("SELECT docsync_upsert('t', '[@{[document('f', 1, '1')]}]', 'anna')"), '42501', 'and is kept from what it was kept from');
	is_deeply(ids($tenant->pull('t', undef, 'anna')), [], 'also in reading');
	is_deeply(ids($tenant->pull(undef, undef, 'ben')), [ 'e', 'gone, too', 'f' ], 'but not from its own');
	is($tenant->sqlstate_of("SELECT docsync_docs_get('{\"clientId\": \"t\", \"collection\": \"ben\", \"ids\": [\"e\"]}')"), '', 'new functions are open to it');
	is($tenant->sqlstate_of("INSERT INTO docsync.document (id, collection, body, last_update_utc, fence) VALUES ('x', 'ben', '1', now(), '3')"),
		'42501', 'it sets no stamp');
	is($session->value("SELECT author FROM docsync.document WHERE id = 'f'"), 't!', "a user's trigger fires before the guard");
	is(join(' ', $session->column('SELECT id FROM log')), 'f', 'and one after it');
	$session->do('SET ROLE owner', 'SET search_path = public, api');
	is($session->sqlstate_of(q{SELECT api.docsync_create_store()}), '42501', 'the functions\' schema is not opened to anybody');
	$session->do('RESET ROLE', 'GRANT USAGE ON SCHEMA api TO owner', 'SET ROLE owner');
	is($session->sqlstate_of('SELECT docsync_new_epoch()'), '', 'the owner, no superuser, has the rights of one');
	is($session->sqlstate_of('SELECT docsync_create_store()'), '', 'on all of it');

	$session->do('RESET ROLE', 'DROP EXTENSION docsync CASCADE');
	is($session->value('SELECT count(*) FROM docsync.document'), @$documents + 1, 'documents are no longer the extension\'s');
	return;
}

sub users_things
{
	my ($session) = @_;

	# The names of types and members of the extension change.
	return [ sort map { s/\bdocsync[._](?=change|"\*)//gr } $session->column(q{
		SELECT concat_ws(' ', attname, attnum, format_type(atttypid, atttypmod), attstattarget, attacl) FROM pg_attribute WHERE attrelid = 'docsync.document'::regclass
		UNION ALL SELECT concat_ws(' ', conname, pg_get_constraintdef(oid)) FROM pg_constraint WHERE conrelid = 'docsync.document'::regclass
		UNION ALL SELECT concat_ws(' ', relname, relowner::regrole, relacl, reloptions, relrowsecurity) FROM pg_class
				   WHERE oid IN ('docsync.document'::regclass, 'docsync.purged'::regclass, 'docsync.clock'::regclass)
		UNION ALL SELECT concat_ws(' ', nspname, nspowner::regrole, nspacl) FROM pg_namespace WHERE nspname IN ('docsync', 'api')
		UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'docsync.document'::regclass AND indexrelid::regclass::text !~ 'tombstone'
		UNION ALL SELECT concat_ws(' ', polname, polroles::regrole[], pg_get_expr(polqual, polrelid)) FROM pg_policy
		UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname !~ 'docsync'
		UNION ALL SELECT concat_ws(' ', pubname, schemaname, tablename, attnames, rowfilter) FROM pg_publication_tables
		UNION ALL SELECT obj_description('docsync.document'::regclass)
		UNION ALL SELECT pg_get_viewdef('changes'::regclass)
		UNION ALL SELECT concat_ws(' ', attname, format_type(atttypid, atttypmod)) FROM pg_attribute WHERE attrelid IN ('kept'::regclass, 'changes'::regclass)
		UNION ALL SELECT pg_get_function_result(p) FROM unnest('{answer,latest}'::regproc[]) AS p}) ];
}

sub clients_go_on
{
	my $session = old_store('clients');

	fill($session);
	my $documents = $session->rows($DOCUMENTS);
	$session->do('ALTER EXTENSION docsync UPDATE');
	is_deeply($session->rows($DOCUMENTS), $documents, 'documents and stamps are identical');
	is($session->value('SELECT string_agg(concat_ws(\' \', number, epoch, lost_after, arrived), \', \') FROM docsync.history'),
		join(' ', 1, hex '5f3a9c0d1e2b4a77', 'infinity', 'f'), 'the epoch goes on');
	is($session->value('SELECT count(*) FROM docsync.history, pg_control_system() AS s, pg_database AS d
						 WHERE (h.system_identifier, h.database, h.document, h.timeline) = (s.system_identifier, d.oid, \'docsync.document\'::regclass, 1)
						   AND datname = current_database()' =~ s/history/history AS h/r), 1, 'here');
	is($session->value('SELECT last_value FROM docsync.clock'), $T0 + 9_000_000, 'the clock is where it was');
	is($session->value('SELECT (extract(epoch FROM clock) * 1000000)::bigint FROM docsync.history'), $T0 + 9_000_000, 'as history has it');

	# By cursors: from each position, all of anna's documents after it.
	for my $at (8, 8.5, 9)
	{
		my $answer = $session->pull('c', cursor($at), 'anna');
		is_deeply(ids($answer), [], "a cursor at second $at goes on");
		like($answer->{cursor}, qr/^5f3a9c0d1e2b4a77(?:\.\w+){4}$/, 'and is of the same epoch');
		ok(!exists $answer->{reconcile}, 'nothing is to be compared');
		$answer = $session->pull('c', $answer->{cursor}, 'anna');
		is_deeply(ids($answer), [], 'it is good again');
	}
	for my $case ([ 5, ['gone, too'] ], [ 4.5, [ 'e', 'gone, too' ] ], [ 6, [] ])
	{
		is_deeply(ids($session->pull('c', cursor($case->[0]), 'ben')), $case->[1], "so does one of the other collection at $case->[0]");
	}

	# A client that has missed purged tombstones is told.
	for my $at (1, 4, 7)
	{
		my $cursor = cursor($at);
		for my $client (qw(c phone))
		{
			is($session->sqlstate_of("SELECT docsync_pull('$client', '$cursor', 'anna')"), '55000', "$client before the horizon, at $at, is refused");
			like($session->errstr, qr/"purged"/, 'for that');
		}
		my $answer = decode_json($session->value("SELECT docsync_pull('c', '$cursor', 'anna', reconcile => true)"));
		ok($answer->{reconcile}, 'or told to compare');
		is($answer->{lostAfter}, undef, 'nothing has been lost');
		is($session->sqlstate_of("SELECT docsync_pull('c', '$answer->{cursor}', 'anna')"), '', 'once');
	}
	is($session->sqlstate_of('SELECT docsync_pull(\'c\', \'' . cursor(1) . '\', \'ben\')'), '55000', 'in the other collection, too');
	my $foreign = cursor(9) =~ s/^5/4/r;
	is($session->sqlstate_of("SELECT docsync_pull('c', '$foreign', 'anna')"), '55000', 'a cursor of another epoch is refused');
	like($session->errstr, qr/"lost"/, 'for that');

	# By bare stamps
	is_deeply([ $session->settled('anna') ], [qw(a b gone c d)], 'who begins gets all');
	is_deeply([ $session->settled('ben', '2026-01-01T00:00:05Z') ], [ 'e', 'gone, too' ], 'from a stamp what is there from that on');
	is_deeply([ $session->settled('anna', '2026-01-01T00:00:08Z') ], [], "from that of a tombstone that has been purged, nothing");
	is_deeply([ map { $_->[0] } @{ $session->download('phone', '2026-01-01T00:00:07Z', 'other', 'anna', undef) } ], [], 'no client is spared by its name');

	# Uploads, and who waits for them
	my ($new) = $session->upload('phone', 'anna', document('new', 1, '1'), document('a', 1, '{"text": "bread"}'));
	cmp_ok($new->{stamp}, '>', $T0 + 9_000_000, 'stamps go on behind the old ones');
	is($session->value('SELECT count(*) FROM docsync.history'), 1, 'no epoch begins');
	is_deeply(ids($session->pull('c', cursor(9), 'anna')), ['new'], 'a client gets what is new');
	is_deeply([ $session->settled('anna', '2026-01-01T00:00:08Z') ], ['new'], 'one with a stamp, too');
	is($session->sqlstate_of("SELECT docsync_query_since('phone', '2026-01-01T00:00:07Z', 'any', 'anna')"), '55000', 'not who has missed something');
	is_deeply([ map { $_->{outcome} } $session->upload('phone', 'anna', document('a', 1, '{"text": "bread"}'), document('b', 0, '1')) ],
		[ 'unchanged', 'discarded' ], 'the rule holds');

	# The purge continues from the existing horizon, which holds for all
	# clients.
	$session->upload('phone', 'ben', document('old', 1), document('older', 1));
	$session->upload('phone', 'ben', document('newest', 1));
	$session->do("CALL docsync_purge('0', 'ben')");
	is($session->value('SELECT count(*) FROM docsync.purged WHERE collection = ? AND client_id = ? AND others_utc = ' . stamp(4.5), 'ben', 'phone'),
		1, 'the horizon merges');

	# A standby
	my $reader = standby_of('clients', $session);
	is_deeply([ $reader->settled('anna') ], [ $session->settled('anna') ], 'a standby gives all');
	is_deeply(ids($reader->pull('c', cursor(9), 'anna')), ['new'], 'from an old cursor, too');

	# A crash before and after the first stamp is noted as in a new store.
	$_->close for $session, $admin, $reader;
	crash($node);
	$admin = connect_to($node);
	$session = connect_to($node, 'clients');
	$session->upload('phone', 'anna', document('newer', 1, '1'));
	is($session->value("SELECT string_agg(number || ' ' || (epoch = $EPOCH)::text, ', ') FROM docsync.history"), '1 true, 2 true', 'a crash is noted');
	is_deeply(ids($session->pull('c', cursor(9), 'anna')), [ 'new', 'newer' ], 'and old cursors still go on');
	return;
}

sub standby_of
{
	my ($database, $session) = @_;

	replayed($session, connect_to($standby));
	my $reader = connect_to($standby, $database);
	return $reader;
}

# What was written meanwhile is unknown.
sub guard_was_off
{
	for my $case ([ 'disabled', 'ALTER TABLE docsync.document DISABLE TRIGGER docsync_guard' ],
		[ 'dropped', 'DROP TRIGGER docsync_guard_truncate ON docsync.document' ])
	{
		my ($kind, $command) = @$case;
		my $session = old_store($kind);

		fill($session);
		$session->do($command, 'ALTER EXTENSION docsync UPDATE');
		is($session->sqlstate_of('SELECT docsync_pull(\'c\', \'' . cursor(9) . '\', \'anna\')'), '55000', "a guard that was $kind: an epoch begins");
		is($session->sqlstate_of('SELECT docsync_check_store()'), '', 'and it is back');
		is($session->value(q{SELECT count(*) FROM pg_trigger WHERE tgname ~ '^zz_docsync_guard' AND tgenabled = 'O'}), 2, 'both of it');
	}

	my $session = old_store('always');
	$session->do('ALTER TABLE docsync.document ENABLE ALWAYS TRIGGER docsync_guard', 'ALTER EXTENSION docsync UPDATE');
	is($session->value(q{SELECT tgenabled FROM pg_trigger WHERE tgname = 'zz_docsync_guard'}), 'A', 'one that fires always goes on so');
	return;
}

# A store that 0.2 would refuse stops the update, which then changes nothing.
sub owner_who_may_not
{
	my $session = old_store('refused');

	fill($session);
	$session->do('ALTER TABLE docsync.document OWNER TO stranger');
	is($session->sqlstate_of('ALTER EXTENSION docsync UPDATE'), '42501', 'an owner who may not own a store stops the update');
	like($session->errstr, qr/ALTER TABLE docsync\.document OWNER TO/, 'which says what to do');
	is($session->value("SELECT extversion FROM pg_extension WHERE extname = 'docsync'"), '0.1', 'all is as before');

	$session->do('ALTER TABLE docsync.document OWNER TO postgres' =~ s/postgres/$session->value('SELECT current_user')/er,
		q{CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$},
		'CREATE TRIGGER zzz_late BEFORE UPDATE ON docsync.document FOR EACH ROW EXECUTE FUNCTION late()');
	is($session->sqlstate_of('ALTER EXTENSION docsync UPDATE'), '55000', 'so does a trigger that fires last');
	like($session->errstr, qr/zzz_late.*RENAME/s, 'which is named');
	$session->do('ALTER TRIGGER zzz_late ON docsync.document RENAME TO late', 'ALTER EXTENSION docsync UPDATE');
	is_deeply([ $session->settled('anna') ], [qw(a b gone c d)], 'put right it works');
	is_deeply(ids($session->pull('c', cursor(9), 'anna')), [], 'and clients go on, though the clock has been moved before');
	return;
}

# A dump made with 0.1 is restored into a 0.1 store, without its guard, followed
# by the update.
sub dump_of_the_old_store
{
	my $session = old_store('before');

	fill($session);
	system_or_bail('pg_dump', '-f', "$dir/before.sql", '-d', $node->connstr('before'));
	$admin->do('CREATE DATABASE after');
	my $after = connect_to($node, 'after');
	$after->do('CREATE SCHEMA api', "CREATE EXTENSION docsync VERSION '0.1' SCHEMA api");
	{
		local $ENV{PGOPTIONS} = '-c session_replication_role=replica';
		my $sql = slurp_file("$dir/before.sql") =~ s/CREATE SCHEMA api;//r;

		append_to_file("$dir/after.sql", $sql);
		system_or_bail('psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-d', $node->connstr('after'), '-f', "$dir/after.sql");
	}
	$after->do('SET search_path = public, api', 'ALTER EXTENSION docsync UPDATE');
	is_deeply($after->rows($DOCUMENTS), $session->rows($DOCUMENTS), "0.1's dump: documents and stamps are identical");
	is_deeply([ $after->settled('anna') ], [qw(a b gone c d)], 'all is delivered');
	is_deeply(ids($after->pull('c', cursor(9), 'anna')), [], 'cursors go on');
	return;
}

# The update waits for transactions that have written; no document is lost or
# overtaken.
sub waits_for_writers
{
	my $session = old_store('waits');
	my $writer = connect_to($node, 'waits');

	fill($session);
	$writer->do('BEGIN', 'SET LOCAL session_replication_role = replica',
		"INSERT INTO docsync.document VALUES ('anna', 'late', 1, 'c', @{[stamp(8.7)]}, false, '1', '3')");
	$session->start('ALTER EXTENSION docsync UPDATE');
	wait_for('the update', sub { $writer->value('SELECT count(*) FROM pg_stat_activity WHERE pid = ? AND wait_event_type = ?', $session->pid, 'Lock') });
	$writer->do('COMMIT');
	$session->finish;
	is_deeply([ $session->settled('anna') ], [qw(a b gone c d late)], 'an upload that the update has waited for is there');
	return;
}
