# Uploads, each in its own transaction, never deadlock: in whatever order their
# documents are sent, atomic or not, to one collection or several, while
# documents are deleted and purged.
#
# Could be lost: one of two uploads, by the deadlock detector.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $SECONDS = 6;
my $CLIENTS = 8;

my $node = new_node('deadlocks', conf => "deadlock_timeout = 5ms\n");
my $admin = connect_to($node);

# A third of 60 documents, new or not, in any order, some of which a trigger
# refuses.
$admin->do(q{
	CREATE FUNCTION documents() RETURNS json LANGUAGE sql AS $$
		SELECT coalesce(json_agg(json_build_object(
					'id', 'document-' || n,
					'clientVersion', (extract(epoch FROM clock_timestamp()) * 1000)::bigint + (random() * 20)::int,
					'deleted', random() < 0.1,
					'body', random() < 0.02) ORDER BY random()), '[]')
		  FROM generate_series(1, 60) AS n
		 WHERE random() < 0.3
	$$},
	q{
	CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_sleep(0.001 * random()) WHERE random() < 0.1;
		IF NEW.body = 'true' THEN
			RAISE EXCEPTION 'refused';
		END IF;
		RETURN NEW;
	END
	$$},
	'CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON docsync.document FOR EACH ROW EXECUTE FUNCTION refuse()',
	# A refusal of an atomic upload isn't a failure here.
	q{
	CREATE PROCEDURE upload(client_id text) LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM docsync_upsert(client_id, documents()::jsonb, 'hot', atomic => random() < 0.5);
	EXCEPTION WHEN raise_exception THEN
	END
	$$},
	q{
	CREATE PROCEDURE sync(client_id text) LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM docsync_docs_sync(convert_to(json_build_object(
			'clientId', client_id,
			'maxDocuments', 1,
			'atomic', random() < 0.5,
			'collections', (SELECT json_agg(json_build_object('collection', name, 'documents', documents()) ORDER BY random())
							  FROM unnest(ARRAY['hot', 'cool', 'warm']) AS name))::text, 'UTF8'));
	END
	$$});

my %SCRIPTS = (
	upload => [ 6, q{CALL upload('client-' || :client_id)} ],
	sync => [ 3, q{CALL sync('client-' || :client_id)} ],
	erase => [ 1, q{DELETE FROM docsync.document WHERE collection = 'hot' AND id = 'document-' || :client_id} ],
	purge => [ 1, q{CALL docsync_purge('0 s', 'hot')} ]);
my $dir = PostgreSQL::Test::Utils::tempdir();
my @files;

for my $name (sort keys %SCRIPTS)
{
	append_to_file("$dir/$name", "$SCRIPTS{$name}[1];\n");
	push @files, '-f', "$dir/$name\@$SCRIPTS{$name}[0]";
}

my $from = -s $node->logfile;

$node->command_ok(
	[ 'pgbench', '-n', '-c', $CLIENTS, '-j', 2, '-T', $SECONDS, @files, 'postgres' ],
	'all clients go on to the end');

my $log = slurp_file($node->logfile, $from);
my @deadlocks = $log =~ /(ERROR:  deadlock detected\n(?:.*\n){1,8})/g;

is("@deadlocks", '', 'no upload deadlocks');

my $stored = $admin->rows('SELECT collection, count(*), count(DISTINCT last_update_utc) FROM docsync.document GROUP BY 1 ORDER BY 1');

is(scalar @$stored, 3, 'there are documents in each collection');
is($_->[1], $_->[2], "each stamp of \"$_->[0]\" is one document's") for @$stored;

done_testing();
