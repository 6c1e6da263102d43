# No reader loses a document: writers of all the awkward kinds, readers of
# several kinds, and at the end each reader's copy must be the table.
#
# DOCSYNC_RANDOM_SECONDS	how long, 30 by default
# DOCSYNC_RANDOM_JITTER		1: with a docsync that is compiled with jitter.h
# DOCSYNC_RANDOM_SEED		determines what the writers do; how they interleave
#							depends on the machine

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use List::Util qw(sum0);
use POSIX ();
use Storable qw(nstore retrieve);
use Test::More;
use Time::HiRes qw(sleep time);

my $SECONDS = $ENV{DOCSYNC_RANDOM_SECONDS} // 30;
my $SEED = $ENV{DOCSYNC_RANDOM_SEED} // int rand 1_000_000;
my $WRITERS = 6;
my $BRISK_WRITERS = 3;

# Errors that a writer may run into, and then rolls back: deadlocks and
# serialization failures are to be expected, and P0001 is provoked.
my %EXPECTED = map { $_ => 1 } qw(40P01 40001 P0001);

# Each reader reads one collection.  Writers send as w1, w2, ..., brisk ones as
# b1, b2, ...
my @READERS = (
	{ name => 'tight', pause => 0, collection => 'brisk' },
	{ name => 'tight, origin other', pause => 0, collection => 'brisk',
		client_id => 'b1', origin => 'other' },
	{ name => 'tight, old snapshot', pause => 0, collection => 'brisk', polls => 5,
		begin => 'BEGIN ISOLATION LEVEL REPEATABLE READ' },
	{ name => 'all kinds of writers', pause => 0 },
	{ name => 'slow', pause => 0.05, watch => 1 },
	{ name => 'slow, origin own', pause => 0.02, client_id => 'w2', origin => 'own',
		begin => 'BEGIN READ ONLY' },
	{ name => 'paged', pause => 0.001, client_id => 'w3', origin => 'other', max_documents => 3 },
	{ name => 'paged by one', pause => 0.001, collection => 'cool', max_documents => 1 },
	{ name => 'old snapshot', pause => 0.02, polls => 12,
		begin => 'BEGIN ISOLATION LEVEL REPEATABLE READ' },
	{ name => 'serializable', pause => 0.01, polls => 3,
		begin => 'BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY' },
	{ name => 'cool collection', pause => 0.003, collection => 'cool' },
	{ name => 'one of many collections', pause => 0.005, collection => 'many-70' },
	{ name => 'several collections', pause => 0.005, collections => [qw(hot cool many-70 other)], client_id => 'r' },
	{ name => 'several collections, origin other, paged', pause => 0.001, collections => [qw(hot cool other)], client_id => 'w1', origin => 'other',
		max_documents => 5 });

my $node = new_node('random', conf => "docsync.announce = on\n");
add_jitter($node) if $ENV{DOCSYNC_RANDOM_JITTER};
my $admin = connect_to($node);
my $dir = PostgreSQL::Test::Utils::tempdir();
my ($lost, $stop, $settled) = map { "$dir/$_" } qw(lost stop settled);

note "seed $SEED, $SECONDS s";

# Uploads that fail in the middle: the documents before the poisoned one have
# been stamped and written, those after it have not.
$admin->do(q{
	CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		RAISE EXCEPTION 'poisoned';
	END
	$$},
	q{CREATE TRIGGER poison BEFORE INSERT ON docsync.document FOR EACH ROW
		WHEN (NEW.body @> '{"poison": true}') EXECUTE FUNCTION poison()},
	'CREATE TABLE foreign_table (n int)');

# As many transactions as the machine can run, each with a chance to be
# interrupted between any two instructions.  Some get their id a little early,
# some commit a little late.
$admin->do(q{
	CREATE PROCEDURE write_briskly(client_id text, first int, count int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR n IN first .. first + count - 1 LOOP
			IF random() < 0.2 THEN
				PERFORM pg_current_xact_id();
			END IF;
			IF random() < 0.5 THEN
				PERFORM docsync_upsert(client_id, jsonb_build_array(jsonb_build_object(
					'id', client_id || '-' || n % 20000, 'clientVersion', n, 'body', n)), 'brisk');
			ELSE
				INSERT INTO docsync.document AS d (collection, id, client_version, client_id, body)
				VALUES ('brisk', client_id || '-' || n % 20000, n, client_id, to_jsonb(n))
				ON CONFLICT (collection, id) DO UPDATE
					SET client_version = excluded.client_version, body = excluded.body;
			END IF;
			IF random() < 0.1 THEN
				PERFORM pg_sleep(0.004 * random());
			END IF;
			IF random() < 0.95 THEN
				COMMIT;
			ELSE
				ROLLBACK;
			END IF;
		END LOOP;
	END
	$$});

# Stays open to the very end: a transaction that writes no documents delays
# nobody.
my $foreign = connect_to($node);
$foreign->do('BEGIN', 'INSERT INTO foreign_table VALUES (0)');

my %pids;
$pids{"writer $_"} = start_writer($_) for 1 .. $WRITERS;
$pids{"brisk writer $_"} = start_brisk_writer($_) for 1 .. $BRISK_WRITERS;
$pids{"reader $_"} = start_reader($_) for 0 .. $#READERS;
$pids{'reader of announcements'} = start_listener();
$pids{idler} = in_child(\&idle);
$pids{jolter} = in_child(\&jolt);

# A loss ends the test early.
my $end = time + $SECONDS;
sleep 0.1 until time > $end || -e $lost;

touch($stop);
for my $name (grep { !/reader/ } sort keys %pids)
{
	waitpid $pids{$name}, 0;
	is($?, 0, "$name ran to its end");
}
is($admin->value('SELECT count(*) FROM pg_prepared_xacts'), 0, 'no transaction is left prepared');
touch($settled);
for my $name (grep { /reader/ } sort keys %pids)
{
	waitpid $pids{$name}, 0;
	is($?, 0, "$name ran to its end");
}

for my $n (0 .. $#READERS)
{
	my $result = retrieve("$dir/reader$n");

	is_deeply($result->{faults}, [], "reader \"$READERS[$n]{name}\" has lost nothing");
	cmp_ok($result->{compared}, '>', 0, "reader \"$READERS[$n]{name}\" had documents to compare");
}

my $heard = retrieve("$dir/listener");
is_deeply($heard->{faults}, [], 'what was announced is true, and all was announced');
cmp_ok($heard->{told}, '>', $SECONDS, 'there were announcements');

is($admin->value('SELECT count(*) FROM (SELECT FROM docsync.document
					GROUP BY collection, last_update_utc HAVING count(*) > 1) AS twice'),
	0, 'stamps are unique within a collection');
cmp_ok($admin->value('SELECT last_value FROM docsync.clock'), '>=',
	$admin->value('SELECT max(extract(epoch FROM last_update_utc) * 1000000)::bigint FROM docsync.document'),
	'the clock is not behind any stamp');

for my $collection (qw(hot cool))
{
	my $added = sum0(map { retrieve($_)->{added}{$collection} // 0 } glob "$dir/writer*");

	is($admin->value(q{SELECT (body ->> 'n')::int FROM docsync.document WHERE collection = ? AND id = 'm-counter'}, $collection),
		$added, "the counter in $collection has what was added to it");
}

report();
$foreign->do('COMMIT');
done_testing();

#-----------------------------------------------------------------------------
# Writers
#-----------------------------------------------------------------------------

# A writer: its session, its name, how many ids it has used up.
sub start_writer
{
	my ($n) = @_;

	return in_child(
		sub {
			srand $SEED + $n;
			my $writer = {
				session => connect_to($node),
				client_id => "w$n",
				next => 0,
				transactions => 0,
				documents => 0,
				kinds => {},
				added => {},
				refused => {}
			};

			until (-e $stop)
			{
				write_once($writer);
				pause(20) if rand() < 0.3;
			}
			delete $writer->{session};
			nstore($writer, "$dir/writer$n");
		});
}

sub start_brisk_writer
{
	my ($n) = @_;

	return in_child(
		sub {
			my $session = connect_to($node);
			my $count = 0;

			srand $SEED + 50 + $n;
			$session->do('SET application_name = brisk');
			until (-e $stop)
			{
				$session->do("CALL write_briskly('b$n', $count, 50)");
				$count += 50;
				sleep rand 0.004;
			}
			nstore({ transactions => $count, documents => $count }, "$dir/brisk$n");
		});
}

# The kinds of transactions, and how often each is chosen
my %KINDS;
my @CHOICE;

BEGIN
{
	%KINDS = (
		upload_one => [ 30, \&upload_one ],
		upload_many => [ 12, \&upload_many ],
		upload_several => [ 8, \&upload_several ],
		late => [ 12, \&late ],
		sql => [ 12, \&sql ],
		copy => [ 3, \&copy ],
		savepoints => [ 8, \&savepoints ],
		fail_midway => [ 10, \&fail_midway ],
		upload_parts => [ 10, \&upload_parts ],
		compare_and_swap => [ 10, \&compare_and_swap ],
		exception_block => [ 5, \&exception_block ],
		prepare => [ 8, \&prepare ],
		roll_back => [ 5, \&roll_back ],
		repeatable_read => [ 6, \&repeatable_read ],
		some_collections => [ 5, \&some_collections ],
		sync_collections => [ 10, \&sync_collections ],
		many_collections => [ 1, \&many_collections ]);
	@CHOICE = map { ($_) x $KINDS{$_}[0] } sort keys %KINDS;
}

sub write_once
{
	my ($writer) = @_;
	my $session = $writer->{session};
	my $kind = $CHOICE[ rand @CHOICE ];

	$writer->{kinds}{$kind}++;
	$writer->{transactions}++;
	return if eval {
		$session->do('SET synchronous_commit = ' . (qw(on off local))[ rand 3 ])
		  if rand() < 0.1;
		$KINDS{$kind}[1]->($writer, $session);
		1;
	};

	my $state = $session->dbh->state;
	die "$kind: $@" if !$EXPECTED{$state};
	$writer->{refused}{$state}++;
	$session->do('ROLLBACK');
	return;
}

sub upload_one
{
	my ($writer) = @_;

	put($writer, collection(), 1);
	return;
}

sub upload_many
{
	my ($writer) = @_;

	put($writer, collection(), 2 + rand 49);
	return;
}

sub upload_several
{
	my ($writer, $session) = @_;
	my $collection = collection();

	$session->do('BEGIN');
	for (0 .. rand 4)
	{
		put($writer, $collection, 1 + rand 5);
		pause(30);
	}
	$session->do('COMMIT');
	return;
}

# The transaction id comes early and the stamp late.
sub late
{
	my ($writer, $session) = @_;

	$session->do('BEGIN');
	$session->value('SELECT pg_current_xact_id()');
	pause(100);
	put($writer, collection(), 1 + rand 3);
	pause(20);
	$session->do('COMMIT');
	return;
}

sub sql
{
	my ($writer, $session) = @_;
	my $collection = collection();
	my $in_transaction = rand() < 0.5;

	$session->do('BEGIN') if $in_transaction;
	for (0 .. rand 2)
	{
		write_by_sql($writer, $session, $collection);
		pause(10);
	}
	$session->do('COMMIT') if $in_transaction;
	return;
}

sub copy
{
	my ($writer, $session) = @_;
	my $dbh = $session->dbh;

	$dbh->do('COPY docsync.document (collection, id, body) FROM STDIN');
	$dbh->pg_putcopydata(join "\t", collection(), "copy-$writer->{client_id}-" . $writer->{next}++, qq({"n": $_}\n))
	  for 0 .. rand 8;
	$dbh->pg_putcopyend;
	return;
}

sub savepoints
{
	my ($writer, $session) = @_;
	my $collection = collection();

	$session->do('BEGIN');
	put($writer, $collection, 1 + rand 3) if rand() < 0.5;
	for (0 .. rand 3)
	{
		$session->do('SAVEPOINT s');
		put($writer, $collection, 1 + rand 5);
		pause(20);
		$session->do(rand() < 0.6 ? 'ROLLBACK TO s' : 'RELEASE s');
	}
	rand() < 0.5 ? put($writer, $collection, 1) : write_by_sql($writer, $session, $collection);
	pause(20);
	$session->do('COMMIT');
	return;
}

# An upload is aborted, stamps are left over, and the mark is released with the
# savepoint or the transaction; then the same collection is written to again.
sub fail_midway
{
	my ($writer, $session) = @_;
	my $collection = collection();
	my $dbh = $session->dbh;
	my $savepoint = rand() < 0.7;

	$session->do('BEGIN');
	$session->do('SAVEPOINT s') if $savepoint;
	eval {
		$session->upload($writer->{client_id}, $collection, documents($writer, 5 + rand 20),
			document('m-poison', version(), '{"poison": true}'));
		1;
	} and die 'the poison did not work';
	die $@ if $dbh->state ne 'P0001';
	$session->do($savepoint ? ('ROLLBACK TO s') : ('ROLLBACK', 'BEGIN'));
	pause(5);
	write_by_sql($writer, $session, $collection);
	pause(30);
	$session->do(rand() < 0.9 ? 'COMMIT' : 'ROLLBACK');
	return;
}

# Bad documents don't stop the others: each one ends up as the answer says.
sub upload_parts
{
	my ($writer, $session) = @_;
	my $collection = collection();
	my $in_transaction = rand() < 0.5;
	my @documents = documents($writer, 1 + rand 60);

	for my $n (0 .. rand 6)
	{
		my $id = (qw(a m z))[ rand 3 ] . "-poison-$writer->{client_id}-$n";

		splice @documents, rand @documents, 0, rand() < 0.8 ? document($id, version(), '{"poison": true}') : qq({"id": "$id"});
	}
	$session->do('BEGIN') if $in_transaction;

	my @answers = $session->upload_parts($writer->{client_id}, $collection, @documents);
	for my $answer (@answers)
	{
		die "$answer->{id}: $answer->{outcome}" if ($answer->{id} =~ /poison/) != ($answer->{outcome} eq 'refused') || $answer->{outcome} eq 'untried';
	}
	$writer->{documents} += @answers;
	if ($in_transaction)
	{
		my %told = map { ($_->{id} => $_->{stamp}) } grep { $_->{outcome} =~ /^(created|updated)$/ } @answers;
		my $stored = $session->rows('SELECT id, (extract(epoch FROM last_update_utc) * 1000000)::bigint FROM docsync.document
									  WHERE collection = ? AND id = ANY (?)', $collection, [ keys %told ]);

		die 'the answer says what is not so' if @$stored != keys %told || grep { $told{ $_->[0] } != $_->[1] } @$stored;
		pause(20);
		$session->do(rand() < 0.8 ? 'COMMIT' : 'ROLLBACK');
	}
	return;
}

# Adds one to a counter, unless somebody else has done so since it was read.
sub compare_and_swap
{
	my ($writer, $session) = @_;
	my $collection = collection();
	my ($version, $n) = @{ $session->rows(q{SELECT client_version, body ->> 'n' FROM docsync.document
											 WHERE collection = ? AND id = 'm-counter'}, $collection)->[0] // [] };
	my $upload = rand() < 0.5 ? 'upload' : 'upload_parts';
	my @documents = documents($writer, rand 10);

	push @documents, sprintf '{"id": "m-counter", "clientVersion": %d, "baseVersion": %s, "body": {"n": %d}}',
	  ($version // 0) + 1 + rand 3, $version // 'null', ($n // 0) + 1;
	pause(5);
	$writer->{added}{$collection} += grep { $_->{id} eq 'm-counter' && $_->{outcome} =~ /^(created|updated)$/ }
	  $session->$upload($writer->{client_id}, $collection, @documents);
	$writer->{documents} += @documents;
	return;
}

# An upload that fails midway in a subtransaction of PL/pgSQL
sub exception_block
{
	my ($writer, $session) = @_;
	my $collection = collection();
	my $documents = join ', ', documents($writer, 4), document('m-poison', version(), '{"poison": true}');

	$session->do(sprintf q{
		DO $$
		BEGIN
			BEGIN
				PERFORM docsync_upsert('%s', '[%s]', '%s');
			EXCEPTION WHEN raise_exception THEN
			END;
			PERFORM pg_sleep(%f);
			INSERT INTO docsync.document (collection, id, body) VALUES ('%3$s', '%s', '1');
			PERFORM pg_sleep(%4$f);
		END
		$$}, $writer->{client_id}, $documents, $collection, rand 0.01,
		"block-$writer->{client_id}-" . $writer->{next}++);
	return;
}

sub prepare
{
	my ($writer, $session) = @_;
	my $name = "$writer->{client_id}-$writer->{transactions}";

	$session->do('BEGIN');
	put($writer, collection(), 1 + rand 5);
	pause(10);
	$session->do("PREPARE TRANSACTION '$name'");
	pause(100);
	$session->do((rand() < 0.7 ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$name'");
	return;
}

sub roll_back
{
	my ($writer, $session) = @_;

	$session->do('BEGIN');
	put($writer, collection(), 1 + rand 5);
	pause(50);
	$session->do('ROLLBACK');
	return;
}

sub repeatable_read
{
	my ($writer, $session) = @_;
	my $collection = collection();

	$session->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$session->value('SELECT count(*) FROM foreign_table');
	pause(30);
	put($writer, $collection, 1 + rand 5);
	pause(10);
	write_by_sql($writer, $session, $collection) if rand() < 0.5;
	$session->do('COMMIT');
	return;
}

sub some_collections
{
	my ($writer, $session) = @_;

	$session->do('BEGIN');
	for my $collection (sort { rand() <=> 0.5 } qw(hot cool many-70 other))
	{
		put($writer, $collection, 1 + rand 3);
		pause(10);
	}
	$session->do('COMMIT');
	return;
}

# In one request, where a bad collection doesn't stop the others: each one ends
# up as the answer says.
sub sync_collections
{
	my ($writer, $session) = @_;
	my $atomic = rand() < 0.6;
	my $in_transaction = rand() < 0.5;
	my %poisoned;
	my @parts = map {
		my $collection = $_;
		my @documents = documents($writer, rand 20);

		$poisoned{$collection} = rand() < 0.3;
		splice @documents, rand @documents, 0, document((qw(a m z))[ rand 3 ] . "-poison-$writer->{client_id}", version(), '{"poison": true}')
		  if $poisoned{$collection};
		sprintf '{"collection": "%s", "documents": [%s]}', $collection, join ', ', @documents
	} grep { rand() < 0.8 } sort { rand() <=> 0.5 } qw(hot cool many-70 other);

	$session->do('BEGIN') if $in_transaction;

	my @answers = $session->sync_collections(sprintf '{"clientId": "%s", "origin": "own", "maxDocuments": 1, "atomic": %s, "collections": [%s]}',
		$writer->{client_id}, $atomic ? 'true' : 'false', join ', ', @parts);
	my (@told, @stored);

	die 'not all collections were answered' if @answers != @parts;
	for my $answer (@answers)
	{
		my $collection = $answer->{collection};
		my @results = @{ DocsyncTest::CollectionsReplica::decode($answer->{results} // '[]') };

		die "$collection: " . ($answer->{error} // 'no error') if ($atomic && $poisoned{$collection} ? 'P0001' : '') ne ($answer->{error} // '');
		for my $result (@results)
		{
			die "$collection, $result->{id}: $result->{outcome}" if ($result->{id} =~ /poison/) != ($result->{outcome} eq 'refused') || $result->{outcome} eq 'untried';
		}
		$writer->{documents} += @results;
		next unless $in_transaction;

		# An id may occur twice: the last occurrence counts.
		my %last = map { ($_->{id} => $_->{LastUpdateUtc}) } grep { $_->{outcome} =~ /^(created|updated)$/ } @results;
		my $rows = $session->rows(q{SELECT id FROM docsync.document WHERE collection = $1 AND ARRAY[id, to_char(last_update_utc AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')]
									= ANY (SELECT ARRAY[key, value] FROM json_each_text($2))}, $collection, DocsyncTest::CollectionsReplica::encode(\%last));

		die "$collection: the answer says what is not so" if @$rows != keys %last;
	}
	if ($in_transaction)
	{
		pause(20);
		$session->do(rand() < 0.8 ? 'COMMIT' : 'ROLLBACK');
	}
	return;
}

# More collections than are marked one by one
sub many_collections
{
	my ($writer, $session) = @_;

	$session->do('BEGIN');
	put($writer, "many-$_", 1) for 1 .. 75;
	pause(50);
	put($writer, 'hot', 1);
	pause(20);
	$session->do('COMMIT');
	return;
}

# Uploads documents: some that all writers write to, and some of its own.
sub put
{
	my ($writer, $collection, $count) = @_;

	$writer->{session}->upload($writer->{client_id}, $collection, documents($writer, $count));
	$writer->{documents} += int $count;
	return;
}

sub documents
{
	my ($writer, $count) = @_;

	return map {
		my $id = rand() < 0.2 ? 'hot-' . int rand 60
		  : "$writer->{client_id}-" . $writer->{next}++ % 3000;

		document($id, version(), rand() < 0.9 ? qq({"n": $writer->{next}}) : undef);
	} 1 .. $count;
}

# Some are lower than what is stored, and lose.
sub version
{
	return int(time * 1000) - (rand() < 0.1 ? int rand 2000 : 0);
}

sub write_by_sql
{
	my ($writer, $session, $collection) = @_;
	my $own = "$writer->{client_id}-" . int rand 3000;
	my $hot = 'hot-' . int rand 60;
	my $new = "sql-$writer->{client_id}-" . $writer->{next}++ % 1000;
	my @sql = (
		"INSERT INTO docsync.document (collection, id, client_version, client_id, body)
		 VALUES ('$collection', '$new', @{[version()]}, '$writer->{client_id}', '{\"n\": 1}')
		 ON CONFLICT (collection, id) DO UPDATE
		   SET body = excluded.body, deleted = false, client_version = excluded.client_version",
		"INSERT INTO docsync.document (collection, id, body)
		 SELECT '$collection', '$new-' || n, '2' FROM generate_series(1, 5) AS n
		 ON CONFLICT (collection, id) DO UPDATE SET body = excluded.body",
		"UPDATE docsync.document SET body = '[3]', deleted = false
		 WHERE collection = '$collection' AND id = '$own'",
		"UPDATE docsync.document SET body = '\"four\"'
		 WHERE collection = '$collection' AND id LIKE '$own%'",
		"UPDATE docsync.document SET body = '{\"n\": 5}'
		 WHERE collection = '$collection' AND id = '$hot'",
		"DELETE FROM docsync.document WHERE collection = '$collection' AND id = '$own'",
		"DELETE FROM docsync.document WHERE collection = '$collection' AND id = '$hot'");

	$session->do($sql[ rand @sql ]);
	$writer->{documents}++;
	return;
}

sub collection
{
	return rand() < 0.75 ? 'hot' : 'cool';
}

# Mostly short, at times long; milliseconds
sub pause
{
	my ($longest) = @_;

	sleep rand() * $longest / 1000 * (rand() < 0.7 ? 0.1 : 1);
	return;
}

#-----------------------------------------------------------------------------
# Readers
#-----------------------------------------------------------------------------

sub start_reader
{
	my ($n) = @_;

	return in_child(
		sub {
			my $reader = $READERS[$n];
			my $session = connect_to($node);
			my $replica = ($reader->{collections} ? 'DocsyncTest::CollectionsReplica' : 'DocsyncTest::Replica')->new(collection => 'hot', %$reader);
			my $looked_at = 0;
			my %result = (held_back => 0, watched => 0);

			srand $SEED + 100 + $n;
			$session->do('SET application_name = brisk') if $replica->{collection} eq 'brisk';
			until (-e $stop)
			{
				read_for_a_while($reader, $session, $replica, \%result);
				$looked_at += $replica->audit($session, '3 s');
				touch($lost) if $replica->faults;
			}

			sleep 0.01 until -e $settled;
			$replica->catch_up($session);
			$result{compared} = $replica->compare($session);

			@result{qw(polls received faults looked_at)} =
			  (@$replica{qw(polls received faults)}, $looked_at);
			nstore(\%result, "$dir/reader$n");
		});
}

# Takes each announcement at its word.
sub start_listener
{
	return in_child(
		sub {
			my $listener = DocsyncTest::Listener->new($node, qw(brisk hot cool other many-70));

			until (-e $stop)
			{
				$listener->take or sleep 0.001;
				touch($lost) if @{ $listener->{faults} };
			}
			sleep 0.01 until -e $settled;
			$listener->finish(1.5);
			nstore({ faults => $listener->{faults}, told => $listener->{told} }, "$dir/listener");
		});
}

# About a second of reading, in the reader's kind of transactions
sub read_for_a_while
{
	my ($reader, $session, $replica, $result) = @_;
	my $until = time + 0.5 + rand 1;

	while (time < $until && !-e $stop)
	{
		$session->do($reader->{begin}) if $reader->{begin};
		for (1 .. $reader->{polls} // 1)
		{
			if ($reader->{watch})
			{
				watch($session, $replica, $result);
			}
			else
			{
				$replica->poll($session);
			}
			sleep rand 2 * $reader->{pause} if $reader->{pause};
		}
		$session->do('COMMIT') if $reader->{begin};
	}
	return;
}

# A poll that also finds out whether the reader was held back: then the snapshot
# sees later documents than it was given.
sub watch
{
	my ($session, $replica, $result) = @_;

	$session->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$replica->poll($session);
	$result->{watched}++;
	$result->{held_back}++
	  if $session->value('SELECT EXISTS (SELECT FROM docsync.document
							WHERE collection = ? AND last_update_utc > ?)',
		$replica->{collection}, $replica->{since});
	$session->do('COMMIT');
	return;
}

#-----------------------------------------------------------------------------
# Making it harder
#-----------------------------------------------------------------------------

# Transactions with an id but without documents, open for a long time
sub idle
{
	my $session = connect_to($node);

	until (-e $stop)
	{
		$session->do('BEGIN', 'INSERT INTO foreign_table VALUES (1)');
		sleep rand 2;
		$session->do('COMMIT');
	}
	return;
}

# Stops a server process for some milliseconds wherever it happens to be, as a
# busy machine would.  Many races have a window of a microsecond; stopping a
# process within it makes it much wider.
sub jolt
{
	my $session = connect_to($node);
	my (@all, @brisk);
	my $next_look = 0;

	until (-e $stop)
	{
		if (time > $next_look)
		{
			my $pids = "SELECT pid FROM pg_stat_activity
						 WHERE backend_type IN ('client backend', 'docsync announcer') AND pid <> pg_backend_pid()";

			@all = $session->column($pids);
			@brisk = $session->column("$pids AND (application_name = 'brisk' OR backend_type = 'docsync announcer')");
			$next_look = time + 1;
		}
		my $victim = rand() < 0.7 && @brisk ? $brisk[ rand @brisk ] : $all[ rand @all ];
		kill STOP => $victim;
		sleep rand 0.003;
		kill CONT => $victim;
		sleep rand 0.001;
	}
	return;
}

#-----------------------------------------------------------------------------

sub report
{
	my @writers = map { retrieve($_) } glob "$dir/writer* $dir/brisk*";
	my (%kinds, %refused);

	for my $writer (@writers)
	{
		$kinds{$_} += $writer->{kinds}{$_} for keys %{ $writer->{kinds} };
		$refused{$_} += $writer->{refused}{$_} for keys %{ $writer->{refused} };
	}
	diag sprintf 'seed %d, %d s: %d transactions of %d writers with %d documents, %d stored', $SEED, $SECONDS,
	  sum0(map { $_->{transactions} } @writers), scalar @writers,
	  sum0(map { $_->{documents} } @writers),
	  $admin->value('SELECT count(*) FROM docsync.document');
	diag '  kinds: ' . join ', ', map { "$_ $kinds{$_}" } sort keys %kinds;
	diag '  refused: ' . join ', ', map { "$_ $refused{$_}" } sort keys %refused;

	diag sprintf '  %d announcements', retrieve("$dir/listener")->{told};
	for my $n (0 .. $#READERS)
	{
		my $result = retrieve("$dir/reader$n");

		diag sprintf '  reader "%s": %d polls, %d documents received, %d looked at%s', $READERS[$n]{name},
		  @$result{qw(polls received looked_at)},
		  $READERS[$n]{watch} ? sprintf ', held back %d times of %d', @$result{qw(held_back watched)} : '';
		cmp_ok($result->{held_back}, '>', 0, 'readers were held back at times') if $READERS[$n]{watch};
	}
	return;
}
