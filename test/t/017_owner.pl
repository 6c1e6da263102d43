# A database's owner who isn't a superuser can install docsync, and the store works;
# and nothing that the owner can do to it makes the owner a superuser or crashes the
# server.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DBI;
use DocsyncTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('primary');
my $admin = connect_to($node);
my $dir = PostgreSQL::Test::Utils::tempdir();
my $DOCUMENTS = 'SELECT collection, id, client_version, client_id, last_update_utc, deleted, body FROM docsync.document ORDER BY 1, 2';

$admin->do('CREATE ROLE owner LOGIN', 'CREATE ROLE anna LOGIN', 'CREATE ROLE ben LOGIN', 'CREATE ROLE mallory LOGIN');

installs();
dumps_and_restores();
updates();
members_are_not_his();
create_alone_is_not_enough();
superuser_mends_what_is_hostile();
schema_that_is_renamed();
no_path_of_the_callers();
rules();
stamps_that_are_no_times();
rows_past_the_guard();
ddl_while_it_is_planned();
epoch_that_begins_itself();
history_that_is_gone();
not_to_be_called();
settings();
unlike(slurp_file($node->logfile), qr/terminated by signal/, 'no process of the server has crashed');
done_testing();

#-----------------------------------------------------------------------------

# A session as a role, which can't become a superuser again.
sub as
{
	my ($role, $database) = @_;
	my $session = connect_to($node, $database);

	$session->do("SET SESSION AUTHORIZATION $role", 'SET client_min_messages = warning');
	return $session;
}

# A database of the owner, and sessions of the owner and of a superuser
sub own_database
{
	my ($name) = @_;

	$admin->do("CREATE DATABASE $name OWNER owner");
	return (as('owner', $name), connect_to($node, $name));
}

# The same with a store
sub own_store
{
	my ($name) = @_;
	my ($owner, $superuser) = own_database($name);

	$owner->do('CREATE EXTENSION docsync', 'SELECT docsync_create_store()');
	return ($owner, $superuser);
}

sub outcomes { return join ' ', map { $_->{outcome} } @_ }

# Everything that a tenant and the owner do with a store
sub all_works
{
	my ($kind, $database) = @_;
	my ($owner, $anna, $ben) = map { as($_, $database) } qw(owner anna ben);

	is(outcomes($anna->upload('phone', 'anna', document("$kind 1", 1, '1'), document("$kind 2", 1, '2'))), 'created created', "$kind: a tenant uploads");
	is(outcomes($owner->upload('tablet', 'anna', document("$kind 1", 2, '3'), document("$kind 2", 2))), 'updated updated', "$kind: so does the owner");
	my $ids = [ map { $_->{id} } grep { $_->{id} =~ /^$kind/ } @{ $anna->pull('phone', undef, 'anna')->{documents} } ];
	is_deeply($ids, [ "$kind 1", "$kind 2" ], "$kind: a tenant downloads");
	is_deeply($ben->pull('phone', undef, 'anna')->{documents}, [], "$kind: another sees nothing of it");
	is($ben->sqlstate_of("SELECT docsync_upsert('phone', '[" . document('x', 1, '1') . "]', 'anna')"), '42501', "$kind: and stores nothing");
	is($anna->sqlstate_of("INSERT INTO docsync.document (collection, id, body, last_update_utc, fence) VALUES ('anna', 's', '1', now(), '3')"), '42501',
		"$kind: a tenant sets no stamp");
	is($anna->sqlstate_of('SELECT docsync_new_epoch()'), '42501', "$kind: nor begins an epoch");
	is($anna->sqlstate_of('CALL docsync_purge()'), '42501', "$kind: nor purges");
	$owner->upload('tablet', 'anna', map { document("$kind gone $_", 1) } 1 .. 3);
	cmp_ok($owner->value("CALL docsync_purge('0')"), '>', 0, "$kind: the owner does");
	is($owner->sqlstate_of('SELECT docsync_new_epoch()'), '', "$kind: and begins an epoch");
	is($owner->sqlstate_of('SELECT docsync_create_store()'), '', "$kind: and mends");
	return;
}

# Extension, store, grants, policies
sub installs
{
	my ($owner, $superuser) = own_database('installed');

	$owner->do('CREATE EXTENSION docsync');
	is($owner->sqlstate_of(q{SELECT docsync_upsert('c', '[{"id": "d", "clientVersion": 1, "body": 1}]')}), '', 'the first upload makes the store');
	is($superuser->value("SELECT string_agg(DISTINCT relowner::regrole::text, ' ') FROM pg_class WHERE relnamespace = 'docsync'::regnamespace"), 'owner', 'all of which is the owner\'s');
	is($superuser->value("SELECT count(*) FROM pg_proc WHERE proname LIKE 'docsync%' AND proowner <> 10"), 0, 'while the functions are not');
	$owner->do("SELECT docsync_grant('anna')", "SELECT docsync_grant('ben')", 'ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY',
		'CREATE POLICY own ON docsync.document USING (collection = current_user)');
	all_works('installed', 'installed');
	is($superuser->sqlstate_of('SELECT docsync_check_store()'), '', 'nothing is wrong with the store');
	return;
}

sub dumps_and_restores
{
	my $documents = connect_to($node, 'installed')->rows($DOCUMENTS);

	for my $dumper ('owner', 'superuser')
	{
		my @as = $dumper eq 'owner' ? ('-U', 'owner') : ();
		my $name = "dumped_by_$dumper";

		system_or_bail('pg_dump', @as, '--format=custom', '-f', "$dir/$name", '-d', $node->connstr('installed'));
		$admin->do("CREATE DATABASE $name OWNER owner");
		system_or_bail('pg_restore', '-U', 'owner', '--exit-on-error', '-d', $node->connstr($name), "$dir/$name");
		is_deeply(connect_to($node, $name)->rows($DOCUMENTS), $documents, "$name: restored by the owner, documents are the same");
		all_works($name, $name);
	}
	return;
}

sub updates
{
	my ($owner, $superuser) = own_store('updated');

	is($owner->sqlstate_of("ALTER EXTENSION docsync UPDATE TO '0.2.0'"), '', 'the owner may update');
	$owner->upload('c', 'anna', document('d', 1, '1'));
	$owner->do('DROP EXTENSION docsync CASCADE', 'CREATE EXTENSION docsync', 'SELECT docsync_create_store()');
	is(outcomes($owner->upload('c', 'anna', document('d', 1, '1'))), 'unchanged', 'and drop it, and have it again, with his store');

	# 0.1's store was part of the extension, and owned by a superuser.
	$owner->do('DROP EXTENSION docsync CASCADE', 'DROP SCHEMA docsync CASCADE');
	is($owner->sqlstate_of("CREATE EXTENSION docsync VERSION '0.1'"), '42501', '0.1 is not for him');
	$superuser->do("CREATE ROLE maker SUPERUSER", 'SET ROLE maker', "CREATE EXTENSION docsync VERSION '0.1'", 'RESET ROLE', 'REASSIGN OWNED BY maker TO owner');
	is($owner->sqlstate_of('ALTER EXTENSION docsync UPDATE'), '42501', 'nor is the update from it, though it has become his');
	like($owner->errstr, qr/permission denied to update docsync from version 0\.1.*superuser/s, 'which says whose it is');
	is($superuser->value("SELECT extversion FROM pg_extension WHERE extname = 'docsync'"), '0.1', 'and does nothing');
	is($superuser->sqlstate_of('ALTER EXTENSION docsync UPDATE'), '', 'a superuser updates');
	is(outcomes($owner->upload('c', 'anna', document('d', 1, '1'))), 'created', 'and the store is the owner\'s');
	return;
}

# Functions and types that run as whoever calls them
sub members_are_not_his
{
	my ($owner) = own_store('members');

	for my $statement (
		q{CREATE OR REPLACE FUNCTION docsync_guard() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$},
		q{CREATE FUNCTION mine() RETURNS trigger LANGUAGE C AS '$libdir/docsync', 'docsync_guard'},
		'ALTER FUNCTION docsync_pull SECURITY DEFINER', 'ALTER FUNCTION docsync_create_store() RESET search_path', 'DROP FUNCTION docsync_new_epoch()',
		'ALTER EXTENSION docsync DROP FUNCTION docsync_guard()', 'ALTER TYPE docsync_change ADD ATTRIBUTE extra text',
		'ALTER DOMAIN "*/*" ADD CHECK (value IS NOT NULL)', 'CREATE CAST (docsync_change AS text) WITH INOUT')
	{
		like($owner->sqlstate_of($statement), qr/^(42501|2BP01)$/, "not his: $statement");
	}

	# A guard that stamps nothing, added to the extension
	$owner->do('CREATE SCHEMA other', q{CREATE FUNCTION other.docsync_guard() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.last_update_utc := now(); NEW.fence := '3'; RETURN NEW; END$$},
		'ALTER EXTENSION docsync ADD FUNCTION other.docsync_guard()',
		'DROP TRIGGER zz_docsync_guard ON docsync.document',
		'CREATE TRIGGER zz_docsync_guard BEFORE INSERT OR UPDATE OR DELETE ON docsync.document FOR EACH ROW EXECUTE FUNCTION other.docsync_guard()');
	is($owner->sqlstate_of(q{SELECT docsync_upsert('c', '[]')}), '55000', 'a guard of his own is none');
	return;
}

# A role with CREATE on the database can create the extension, but no store.
sub create_alone_is_not_enough
{
	my ($owner, $superuser) = own_database('created');

	$superuser->do('GRANT CREATE ON DATABASE created TO mallory');
	my $mallory = as('mallory', 'created');
	$mallory->do('CREATE SCHEMA m', 'CREATE EXTENSION docsync SCHEMA m', 'SET search_path = m, public', 'GRANT USAGE ON SCHEMA m TO PUBLIC');
	is($mallory->sqlstate_of('SELECT m.docsync_create_store()'), '42501', "the extension's owner makes no store");
	is($mallory->sqlstate_of(q{SELECT m.docsync_upsert('c', '[]')}), '42P01', 'nor by uploading');
	$mallory->do('CREATE SCHEMA docsync');
	is($superuser->sqlstate_of('SELECT m.docsync_create_store()'), '42501', 'nor has one made in a schema of hers');
	$mallory->do('DROP SCHEMA docsync');
	$owner->do('SELECT m.docsync_create_store()');
	is($superuser->value("SELECT relowner::regrole FROM pg_class WHERE oid = 'docsync.document'::regclass"), 'owner', "the database's owner does");
	is($mallory->sqlstate_of('SELECT m.docsync_pull()'), '42501', 'and it is closed to her');
	return;
}

# A superuser who makes docsync check or repair a store, or grant its use to a role,
# runs none of its owner's code.
sub superuser_mends_what_is_hostile
{
	my ($owner, $superuser) = own_store('hostile');

	# A sequence isn't rolled back, so it tells whether code was run.
	$owner->do('CREATE SCHEMA trap', 'CREATE SEQUENCE trap.sprung', 'GRANT ALL ON SCHEMA trap TO PUBLIC',
		q{CREATE FUNCTION trap.spring() RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$
			BEGIN
				IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
					PERFORM pg_catalog.nextval('trap.sprung');
				END IF;
				RETURN true;
			END$$},
		q{CREATE FUNCTION trap.trigger() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM trap.spring(); RETURN NEW; END$$},
		"INSERT INTO docsync.document (id, body) VALUES ('d', '1')");
	for my $table (qw(document purged history))
	{
		$owner->do("CREATE INDEX ON docsync.$table (trap.spring())", "CREATE INDEX ON docsync.$table ((1)) WHERE trap.spring()",
			"ALTER TABLE docsync.$table ADD a_trap bool DEFAULT trap.spring(), ADD CHECK (trap.spring())", "CREATE STATISTICS trap.$table ON (trap.spring()), (1) FROM docsync.$table",
			"CREATE POLICY trap ON docsync.$table USING (trap.spring())", "ALTER TABLE docsync.$table ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
			"CREATE TRIGGER trap BEFORE INSERT OR UPDATE OR DELETE ON docsync.$table FOR EACH ROW EXECUTE FUNCTION trap.trigger()");
	}
	my $sprung = sub { return $superuser->value('SELECT is_called FROM trap.sprung') ? 1 : 0 };

	for my $damage ('', 'DROP SEQUENCE docsync.clock', 'DROP TABLE docsync.purged', 'DROP TABLE docsync.history', 'DROP INDEX docsync.document_stamp, docsync.document_tombstone',
		'ALTER TABLE docsync.document DROP CONSTRAINT document_pkey', 'DROP TRIGGER zz_docsync_guard ON docsync.document',
		'ALTER TABLE docsync.document ALTER last_update_utc DROP DEFAULT, ALTER fence DROP DEFAULT')
	{
		$owner->do($damage) if $damage;
		is($superuser->sqlstate_of('SELECT docsync_create_store()'), '', 'a superuser mends: ' . ($damage || 'nothing'));
		is($superuser->sqlstate_of($_), '', "and says: $_")
		  for 'SELECT docsync_check_store()', "SELECT docsync_grant('anna')", 'SELECT docsync_hand_over()', 'SELECT docsync_new_epoch()';
		is($superuser->sqlstate_of('SELECT docsync_take_over()'), '55000', 'there is nothing to take over');
		is($sprung->(), 0, 'without running what its owner has put there');
	}

	is($superuser->value("SELECT string_agg(DISTINCT relowner::regrole::text, ' ') FROM pg_class WHERE relnamespace = 'docsync'::regnamespace"), 'owner', 'and it is all the owner\'s');
	is($owner->sqlstate_of("CALL docsync_purge('0')"), '', 'who purges');

	# Backups and maintenance, too
	system_or_bail('pg_dump', '-f', "$dir/hostile.sql", '-d', $node->connstr('hostile'));
	$superuser->do("VACUUM ANALYZE docsync.$_", "REINDEX TABLE docsync.$_") for qw(document purged history);
	is($sprung->(), 0, 'nor do pg_dump, VACUUM, ANALYZE, REINDEX');

	# But an upload does, as with any table: that is PostgreSQL's rule, not ours
	$superuser->value(q{SELECT docsync_upsert('c', '[{"id": "e", "clientVersion": 1, "body": 1}]')});
	is($sprung->(), 1, 'a superuser who uploads does');
	return;
}

# The owner of the functions' schema may rename it, and create another one with the
# old name: docsync's functions still call docsync's own functions.
sub schema_that_is_renamed
{
	my ($owner, $superuser) = own_database('renamed');
	my @theirs = map { qq{CREATE FUNCTION api.$_() RETURNS void LANGUAGE sql AS \$\$SELECT nextval('public.sprung')\$\$} }
	  qw(docsync_check_store docsync_check_store_owner docsync_create_store docsync_new_epoch docsync_unset_stamp docsync_unset_fence);

	$owner->do('CREATE SEQUENCE public.sprung', 'CREATE SCHEMA api', 'CREATE EXTENSION docsync SCHEMA api', 'ALTER SCHEMA api RENAME TO "its place"', 'CREATE SCHEMA api', @theirs,
		q{CREATE FUNCTION api.docsync_guard() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$});
	$owner->do('SELECT "its place".docsync_create_store()');
	is($superuser->sqlstate_of(q{SELECT "its place".docsync_grant('anna')}), '', 'a superuser grants, where the schema of the functions was renamed');
	$owner->do('DROP TRIGGER zz_docsync_guard ON docsync.document', 'ALTER TABLE docsync.document ALTER fence DROP DEFAULT, ALTER last_update_utc DROP DEFAULT', 'DROP TABLE docsync.history');
	is($superuser->sqlstate_of('SELECT "its place".docsync_create_store()'), '', 'and mends it');
	is($superuser->value('SELECT is_called FROM public.sprung') ? 1 : 0, 0, 'by docsync\'s functions, not by those that are where these were');
	$owner->do('DROP SCHEMA api CASCADE');
	is($owner->sqlstate_of(q{SELECT "its place".docsync_upsert('c', '[{"id": "d", "clientVersion": 1, "body": 1}]')}), '', 'and nothing else of these is needed');
	return;
}

# What docsync runs as the store's owner doesn't use the caller's search_path.
sub no_path_of_the_callers
{
	my ($owner) = own_store('path');
	my $anna = as('anna', 'path');

	$owner->do("SELECT docsync_grant('anna')", 'CREATE TABLE public.noted (path text, who text)',
		q{CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.noted VALUES (current_setting('search_path'), current_user); RETURN NEW; END$$},
		'CREATE TRIGGER note BEFORE INSERT ON docsync.history FOR EACH ROW EXECUTE FUNCTION note()');
	$anna->do('SET search_path = pg_temp, public');
	is(outcomes($anna->upload('c', 'anna', document('d', 1, '1'))), 'created', 'an upload begins an epoch');
	is($owner->value('SELECT path FROM noted'), 'pg_catalog, pg_temp', 'as the owner, with a path that is nobody\'s');
	is($owner->value('SELECT who FROM noted'), 'owner', 'and triggers run as him');
	is($anna->value('SHOW search_path'), 'pg_temp, public', 'which the caller has back');
	return;
}

# Rules that make docsync's statements do something else
sub rules
{
	my ($owner) = own_store('rules');

	$owner->do('CREATE TABLE elsewhere (LIKE docsync.document)', 'ALTER TABLE elsewhere ALTER id DROP NOT NULL, ALTER client_version DROP NOT NULL, ALTER last_update_utc DROP NOT NULL, ALTER fence DROP NOT NULL');
	for my $rule (
		'ON INSERT TO docsync.document DO INSTEAD INSERT INTO elsewhere (collection, client_id, body) VALUES (NEW.collection, NEW.client_id, NEW.body) RETURNING *',
		'ON INSERT TO docsync.document DO INSTEAD NOTHING',
		'ON UPDATE TO docsync.document DO INSTEAD UPDATE elsewhere SET body = NEW.body RETURNING *',
		'ON DELETE TO docsync.document DO INSTEAD NOTHING',
		q{ON INSERT TO docsync.document WHERE NEW.id = 'x' DO INSTEAD NOTHING},
		'ON INSERT TO docsync.history DO INSTEAD NOTHING',
		'ON INSERT TO docsync.purged DO INSTEAD NOTHING')
	{
		$owner->do("CREATE RULE r AS $rule");
		for my $call (q{docsync_upsert('c', '[{"id": "a", "clientVersion": 1, "body": 1}]')}, q{docsync_upsert('c', '[{"id": "a", "clientVersion": 2, "body": 1}, {"id": "b", "clientVersion": 1, "body": 1}]')},
			q{docsync_pull('c')})
		{
			is($owner->sqlstate_of("SELECT $call"), '42809', "$call, with a rule $rule");
		}
		like($owner->errstr, qr/has an INSTEAD rule/, 'which says why');
		$owner->do('DROP RULE r ON ' . ($rule =~ /TO (\S+)/)[0]);
	}
	$owner->do('CREATE RULE r AS ON DELETE TO docsync.document DO ALSO NOTIFY r');
	is(outcomes($owner->upload('c', 'c', document('a', 1, '1'), document('b', 1, '1'))), 'created created', 'one that does something else, too, is fine');
	return;
}

# Values of last_update_utc that docsync would never set
sub stamps_that_are_no_times
{
	my ($owner) = own_store('stamps');
	my $insert = 'INSERT INTO docsync.document (collection, id, client_version, client_id, last_update_utc, body, fence) VALUES';

	$owner->do('ALTER TABLE docsync.document DISABLE TRIGGER zz_docsync_guard',
		"$insert ('c', 'early', 1, 'x', '1999-12-31 23:59:30', '1', '3'), ('c', 'late', 1, 'x', 'infinity', '1', '3')",
		"$insert ('d', 'earliest', 1, 'x', '-infinity', '1', '3'), ('e', 'old', 1, 'x', '4713-01-01 BC', '1', '3'), ('f', 'new', 1, 'x', '294276-12-31 23:59:59.999999', '1', '3')",
		"$insert ('g', 'early', 1, 'x', '1999-12-31 23:59:30', '1', '3')",
		'ALTER TABLE docsync.document ENABLE TRIGGER zz_docsync_guard',
		"INSERT INTO docsync.purged VALUES ('g', 'infinity', 'x', 'infinity'), ('f', '-infinity', 'x', 'infinity')");
	my $session = as('owner', 'stamps');
	for my $n (1 .. 20)
	{
		for my $call ("docsync_pull('y', NULL, 'c')", "docsync_pull('y', NULL, 'c', reconcile => true, state => 'true')", q{docsync_docs_reconcile('{"collection": "c", "clientId": "y"}')},
			q{docsync_docs_get('{"collection": "c", "ids": ["early", "late"], "clientId": "y"}')},
			q{docsync_upsert('y', '[{"id": "early", "clientVersion": 0, "body": 2}, {"id": "late", "clientVersion": 0, "body": 2}]', 'c')})
		{
			my $state = $session->sqlstate_of("SELECT $call");
			is($state, '22008', "a stamp that is no time: $call") if $n == 1;
		}
		for my $call ((map { ("docsync_pull('y', NULL, '$_', reconcile => true, state => 'true')", "docsync_query_since('y', collection => '$_')") } 'd' .. 'g'),
			map { qq(docsync_docs_reconcile('{"collection": "$_", "clientId": "y"}')) } 'd' .. 'g')
		{
			$session->sqlstate_of("SELECT $call");
		}
	}
	is($session->value('SELECT 1'), 1, 'the session has lived');
	return;
}

# Rows that no upload would make, in each table
sub rows_past_the_guard
{
	my ($owner) = own_store('rows');
	my $now = 'clock_timestamp()';

	$owner->do('ALTER TABLE docsync.document DISABLE TRIGGER zz_docsync_guard',
		"INSERT INTO docsync.document SELECT repeat('c', 1000), repeat('i', n * 700), n, repeat('x', n * 300), now() + n * interval '1 s', n % 2 = 0, CASE WHEN n % 3 > 0 THEN to_jsonb(repeat('b', n * 1000)) END, n::text::xid8 FROM generate_series(1, 20) n",
		"INSERT INTO docsync.document VALUES ('', '', -9223372036854775808, '', now(), false, NULL, '18446744073709551615'), ('c', '', 9223372036854775807, '', now(), false, NULL, '0')",
		q{INSERT INTO docsync.document SELECT 'c', 'deep', 1, 'x', now() + interval '1 s', false, (repeat('[', 2000) || repeat(']', 2000))::jsonb, '3'},
		q{INSERT INTO docsync.document SELECT 'c', 'digits', 1, 'x', now() + interval '2 s', false, ('[' || repeat('9', 100000) || ', 1e100000, 1e-16000]')::jsonb, '3'},
		"INSERT INTO docsync.document SELECT 'c', repeat('t', n), 1, repeat('y', 100000), now() - n * interval '100 days', true, NULL, '3' FROM generate_series(1, 100) n",
		'ALTER TABLE docsync.document ENABLE TRIGGER zz_docsync_guard',
		"INSERT INTO docsync.purged VALUES ('c', now() + interval '9 days', repeat('z', 100000), '-infinity')",
		"INSERT INTO docsync.history SELECT n, CASE WHEN n = 30 THEN -1 ELSE n END, n, n::int::oid, n::int::oid, -n, now(), CASE n % 3 WHEN 0 THEN '-infinity' WHEN 1 THEN 'infinity' ELSE $now END, CASE n % 5 WHEN 0 THEN '-infinity' WHEN 1 THEN now() ELSE 'infinity' END, CASE n % 7 WHEN 0 THEN 'infinity' WHEN 1 THEN '-infinity' ELSE $now END, '18446744073709551615'::xid8, n % 2 = 0 FROM generate_series(1, 30) n",
		"INSERT INTO docsync.history SELECT 9223372036854775807, 5, 1, 1, 1, 1, now(), now(), now(), now(), '5', true");
	for my $setting ('', "ALTER SEQUENCE docsync.clock MINVALUE -9223372036854775808", "SELECT setval('docsync.clock', -9223372036854775808)", "SELECT setval('docsync.clock', 9223372036854775807)",
		'ALTER SEQUENCE docsync.clock CYCLE INCREMENT -7 CACHE 9', 'DELETE FROM docsync.history WHERE number > 1000', "DELETE FROM docsync.history WHERE number < 1")
	{
		my $session = as('owner', 'rows');

		$session->do($setting) if $setting;
		for my $collection ('c', 'n', 'c' x 200)
		{
			for my $call ("docsync_pull('y', NULL, '$collection')", "docsync_query_since('y', collection => '$collection')", "docsync_query_since(NULL, '2020-01-01', 'any', '$collection', 3)",
				"docsync_pull('y', '0000000000000005.1795423638127390.1795423638127001.16b3748.94c3a51f', '$collection', reconcile => true, state => 'true')",
				"docsync_pull('y', '0000000000000003.1795423638127390', '$collection', reconcile => true)", "docsync_pull('y', 'ffffffffffffffff.1', '$collection', reconcile => true)",
				qq(docsync_docs_reconcile('{"collection": "$collection", "clientId": "y"}')), qq(docsync_docs_get('{"collection": "$collection", "ids": ["", "deep", "digits", "t"], "clientId": "y"}')),
				qq(docsync_upsert('y', '[{"id": "deep", "clientVersion": 1, "body": [[]]}, {"id": "digits", "clientVersion": 1, "body": [9]}, {"id": "t", "clientVersion": 2, "body": 1}]', '$collection')),
				qq(docsync_docs(convert_to('{"clientId": "x", "collection": "$collection", "documents": [{"id": "deep", "clientVersion": 1, "body": [[[]]]}, {"id": "digits", "clientVersion": 1, "body": [9]}]}', 'UTF8'))))
			{
				$session->sqlstate_of("SELECT $call");
			}
		}
		$session->sqlstate_of("CALL docsync_purge('1 day')");
		is($session->value('SELECT 1'), 1, 'rows past the guard: ' . ($setting || 'as they are'));
	}
	return;
}

# A policy's function may run while docsync's statements are planned, and then
# the tables aren't in use yet.
sub ddl_while_it_is_planned
{
	my ($owner) = own_store('planned');

	$owner->do("SELECT docsync_grant('anna')",
		'CREATE TABLE plan (command text)', 'GRANT SELECT ON plan TO PUBLIC',
		q{CREATE FUNCTION run() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$DECLARE c text; BEGIN FOR c IN SELECT command FROM public.plan LOOP EXECUTE c; END LOOP; END$$},
		q{CREATE FUNCTION late() RETURNS bool LANGUAGE plpgsql IMMUTABLE SECURITY DEFINER AS $$BEGIN PERFORM public.run(); RETURN true; EXCEPTION WHEN object_in_use OR feature_not_supported THEN RETURN true; END$$},
		'CREATE POLICY late ON docsync.document USING (late()) WITH CHECK (late())', 'ALTER TABLE docsync.document ENABLE ROW LEVEL SECURITY',
		"INSERT INTO docsync.document (collection, id, body) VALUES ('c', 'd', '1')", "INSERT INTO docsync.document (collection, id, deleted) SELECT 'c', 'gone' || n, true FROM generate_series(1, 9) n");
	for my $command ('ALTER TABLE docsync.document ALTER client_version DROP DEFAULT, ALTER client_version TYPE numeric', 'ALTER TABLE docsync.document ALTER body TYPE text',
		'ALTER TABLE docsync.document DROP CONSTRAINT document_pkey', 'ALTER TABLE docsync.document DROP COLUMN fence CASCADE', 'DROP TABLE docsync.document CASCADE',
		'DROP TABLE docsync.history', 'ALTER TABLE docsync.history ALTER epoch TYPE text', 'DROP TABLE docsync.purged', 'ALTER TABLE docsync.purged ALTER last_update_utc TYPE text',
		'DROP SEQUENCE docsync.clock', 'DROP SCHEMA docsync CASCADE', 'DROP EXTENSION docsync CASCADE', 'ALTER TABLE docsync.document DISABLE TRIGGER USER',
		'ALTER TABLE docsync.document SET UNLOGGED', 'ALTER TABLE docsync.document ADD extra int DEFAULT 3', 'ALTER TABLE docsync.document RENAME TO d',
		q{INSERT INTO docsync.document (collection, id, body) VALUES ('c', 'own', '1') ON CONFLICT (collection, id) DO UPDATE SET body = '2'})
	{
		for my $call ("docsync_pull('y', NULL, 'c', state => 'true', reconcile => true)",
			q{docsync_upsert('y', '[{"id": "d", "clientVersion": 9000000000000000, "body": 1}, {"id": "e", "clientVersion": 1, "body": 1}, {"id": "d", "clientVersion": 0, "body": 1}]', 'c', false)},
			q{docsync_sync('y', '[{"id": "d", "clientVersion": 9000000000000000, "body": 1}]', collection => 'c')})
		{
			for my $again (0, 1)
			{
				my $anna = as('anna', 'planned');

				# Also in a session that has plans, and makes new ones each time
				$anna->do('SET plan_cache_mode = force_custom_plan');
				$anna->sqlstate_of("SELECT $call") if $again;
				$anna->do('BEGIN');
				$owner->do('TRUNCATE plan');
				$owner->dbh->do('INSERT INTO plan VALUES (?)', undef, $command);
				$anna->sqlstate_of("SELECT $call");
				$anna->do('ROLLBACK');
				$owner->do('TRUNCATE plan');
			}
		}
		is($owner->sqlstate_of("SELECT docsync_pull('y', NULL, 'c')"), '', "all is as before: $command");
	}
	return;
}

# The row of an epoch, written by a trigger that is fired for it
sub epoch_that_begins_itself
{
	my ($owner) = own_store('epochs');
	my $anna = as('anna', 'epochs');

	$owner->do("SELECT docsync_grant('anna')",
		q{CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO docsync.document (id, body) VALUES ('again', '1'); RETURN NEW; END$$},
		'CREATE TRIGGER again BEFORE INSERT ON docsync.history FOR EACH ROW EXECUTE FUNCTION again()');
	like($anna->sqlstate_of(q{SELECT docsync_upsert('y', '[{"id": "d", "clientVersion": 1, "body": 1}]')}), qr/^(54001|)$/, 'a trigger that begins the epoch again, and again');
	is($anna->value('SELECT 1'), 1, 'the session has lived');
	return;
}

# The row that says where the store is, removed as soon as it is inserted
sub history_that_is_gone
{
	my ($owner) = own_store('gone');
	my $gone = qr/row of "docsync\.history" was not stored/;

	# In a session that has found the place noted
	$owner->upload('c', 'c', document('d', $_, '1')) for 1, 2;
	$owner->do('DELETE FROM docsync.history');
	is($owner->sqlstate_of('SELECT docsync_hand_over()'), '', 'a store without a history is handed over');
	is($owner->value(q{SELECT string_agg((system_identifier = 0)::text, ' ' ORDER BY number) FROM docsync.history}), 'false true', 'with one that begins now');
	$owner->do('SELECT docsync_new_epoch()');

	# And in one in which the history arrives
	$owner->upload('c', 'c', document('d', $_, '1')) for 3, 4;
	$owner->do('DELETE FROM docsync.history',
		q{INSERT INTO docsync.history SELECT 1, 5, 0, 0, 0, 0, now(), max(last_update_utc), 'infinity', max(last_update_utc), '3', false FROM docsync.document});
	is($owner->sqlstate_of('SELECT docsync_take_over()'), '', 'a store whose history arrives is taken over');
	is($owner->value(q{SELECT string_agg((system_identifier = 0)::text, ' ' ORDER BY number) FROM docsync.history}), 'true false', 'by an epoch of its own');

	for my $trap ([ 'BEFORE', 'RETURN NULL' ], [ 'AFTER', 'DELETE FROM docsync.history; RETURN NULL' ])
	{
		my ($when, $what) = @$trap;

		$owner->do('DELETE FROM docsync.history', "CREATE OR REPLACE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS \$\$BEGIN $what; END\$\$",
			"CREATE TRIGGER suppress $when INSERT ON docsync.history FOR EACH ROW EXECUTE FUNCTION suppress()");
		is($owner->sqlstate_of('SELECT docsync_hand_over()'), '55000', "$when: one that loses its rows isn't");
		like($owner->errstr, $gone, 'which says why');
		$owner->do('DROP TRIGGER suppress ON docsync.history');
	}

	$owner->do(q{CREATE OR REPLACE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$},
		'CREATE TRIGGER suppress BEFORE INSERT ON docsync.history FOR EACH ROW EXECUTE FUNCTION suppress()');
	for my $call ('docsync_new_epoch()', q{docsync_upsert('c', '[{"id": "e", "clientVersion": 1, "body": 1}]', atomic => false)})
	{
		my $session = as('owner', 'gone');

		is($session->sqlstate_of("SELECT $call"), '55000', "nor does an epoch begin: $call");
		like($session->errstr, $gone, 'which says why');
	}
	return;
}

# A superuser can keep everybody from creating a store, even by an upload.
sub not_to_be_called
{
	my ($owner, $superuser) = own_database('denied');
	my $upload = q{SELECT docsync_upsert('c', '[{"id": "d", "clientVersion": 1, "body": 1}]')};

	$owner->do('CREATE EXTENSION docsync');
	$superuser->do('REVOKE EXECUTE ON FUNCTION docsync_create_store() FROM PUBLIC');
	is($owner->sqlstate_of($upload), '42501', 'who may not call docsync_create_store() makes no store by uploading');
	like($owner->errstr, qr/permission denied for function docsync_create_store/, 'which says why');
	$superuser->do('GRANT EXECUTE ON FUNCTION docsync_create_store() TO owner');
	is($owner->sqlstate_of($upload), '', 'who may does');
	return;
}

# Only a superuser can set limits, even before the library is loaded.
sub settings
{
	my ($owner) = own_store('settings');
	my $session = as('owner', 'settings');

	$session->do('SET docsync.max_batch = 1000000', 'SET docsync.max_page_size = 1000000000', 'SET client_min_messages = error');
	$session->value('SELECT docsync_pull()');
	is($session->value("SELECT string_agg(setting, ' ' ORDER BY name) FROM pg_settings WHERE name IN ('docsync.max_batch', 'docsync.max_page_size')"), '10000 67108864', 'what was set before is forgotten');
	is($session->sqlstate_of('SET docsync.max_batch = 5'), '42501', 'and it is not his to set');
	is($session->sqlstate_of('ALTER DATABASE settings SET docsync.max_batch = 5'), '42501', 'nor for his database');
	return;
}
