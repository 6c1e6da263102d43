# A file system becomes full during uploads: that of the documents, then that of
# WAL. Uploads fail completely, with an error that says why; nothing that was
# acknowledged is lost; when there is room again, they continue, and so do
# readers.
#
# The file systems are small ones in memory, which any user can mount in a
# separate namespace.  So the test runs in one, if the system permits.

use strict;
use warnings;

my @ENTER;

BEGIN
{
	@ENTER = qw(unshare --user --map-current-user --keep-caps --mount);
	if (!$ENV{DOCSYNC_IN_NAMESPACE} && system("@ENTER true 2>/dev/null") == 0)
	{
		local $ENV{DOCSYNC_IN_NAMESPACE} = 1;
		exec @ENTER, $^X, (map { "-I$_" } @INC), $0;
	}
}

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use DocsyncTest::Http;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => "not allowed here: @ENTER" if !$ENV{DOCSYNC_IN_NAMESPACE};

my $MEGABYTES = 24;
my $SYS_MOUNT = 165;
plan skip_all => 'only on Linux of 64 bits, on x86' if `uname -sm` ne "Linux x86_64\n";

my ($documents, $wal) = map { small_disk($_) } qw(documents wal);
my $node = new_node('full', extra => [ '--waldir', "$wal/wal", '--wal-segsize', '1' ], conf => <<'END');
autovacuum = off
max_wal_size = 4MB
min_wal_size = 2MB
restart_after_crash = on
END
my $http = DocsyncTest::Http->new($node);
my $session = $http->session;
my $replica = DocsyncTest::CursorReplica->new(collection => 'anna');
my $batches = 0;
my %acknowledged;    # id => stamp
my $last = 0;        # the highest stamp acknowledged

srand 18;
no_room_for_documents();
no_room_for_wal();
done_testing();

#-----------------------------------------------------------------------------

# Tables and indexes can't grow.  A transaction that was stamped before commits
# after it.
sub no_room_for_documents
{
	my $early = $http->session;

	mkdir "$documents/space" or die "mkdir: $!";
	$session->do("CREATE TABLESPACE small LOCATION '$documents/space'");
	move_documents('small');
	send_batch() for 1 .. 5;

	$early->do('BEGIN');
	my ($first) = $early->upload('early', 'anna', document('early', 1, '1'));
	fill($documents);
	my $error = send_until_it_fails();

	like($error, qr/^53100 .*could not extend file .*No space left on device/, 'documents: an upload fails, and says why');
	is(eval { $session->upload_parts('writer', 'anna', batch()); 1 } // $session->dbh->state, '53100',
		'so does one of which what can be stored is to be: it is nothing that a document is refused for');
	my $answer = $http->post('/Docs?clientId=phone&collection=anna&atomic=false', '[' . join(',', batch()) . ']');
	is("$answer->{status} " . (DocsyncTest::Http::value_of($answer) // {})->{code}, '503 53100', 'over HTTP it is 503');
	is($answer->{headers}{'retry-after'}, 10, 'to be tried again');
	check('documents, while there is no room', $session);

	$early->do('COMMIT');
	make_room($documents);
	goes_on('documents', $session);
	is($replica->{documents}{early} && $replica->{documents}{early}[0], $first->{stamp}, 'who was stamped before and has committed after it is not missed');
	$early->close;
	return;
}

# PostgreSQL can't continue without WAL, and stops; so the last upload may or may
# not have been stored.  A slot keeps it from reusing old segments.
sub no_room_for_wal
{
	my @before = $session->history;

	move_documents('pg_default');
	$session->do(q{SELECT pg_create_physical_replication_slot('old_segments', true)});
	fill($wal);
	my $error = send_until_it_fails();
	like(slurp_file($node->logfile), qr/PANIC: .*No space left on device/, "WAL: the server stops, and says why ($error)");
	$http->stop_layer;
	eval { $session->close };
	make_room($wal);
	$node->stop('immediate', fail_ok => 1);
	$node->kill9;
	$node->start;
	$http->start_layer;

	$session = $http->session;
	$session->do(q{SELECT pg_drop_replication_slot('old_segments')});
	check('WAL, started again', $session);
	goes_on('WAL', $session);
	my @after = $session->history;
	is($after[-1]{epoch}, $before[-1]{epoch}, 'nothing was lost: it is no new epoch');
	is(scalar @after, @before + 1, 'the start is noted');
	return;
}

sub move_documents
{
	my ($space) = @_;

	$session->do("ALTER TABLE docsync.document SET TABLESPACE $space",
		map { "ALTER INDEX $_ SET TABLESPACE $space" }
		  $session->column(q{SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'docsync.document'::regclass}));
	return;
}

# Documents of 4 kB that can't be compressed: the same ones until they are
# acknowledged
sub batch
{
	srand 1000 + $batches;
	return map { document("$batches-$_", 1, '"' . join('', map { chr 40 + rand 50 } 1 .. 4000) . '"') } 1 .. 20;
}

# Uploads a batch; dies if it isn't acknowledged.
sub send_batch
{
	my @results = $session->upload('writer', 'anna', batch());

	for my $result (@results)
	{
		die "$result->{id} is $result->{outcome}" if $result->{outcome} !~ /^(created|unchanged)$/;
		$acknowledged{ $result->{id} } = $result->{stamp};
		$last = $result->{stamp} if $result->{stamp} > $last;
	}
	$batches++;
	return @results;
}

sub send_until_it_fails
{
	for (1 .. 1000)
	{
		next if eval { send_batch(); $replica->poll($session); 1 };
		return join ' ', $session->dbh->state, $session->errstr =~ s/\n.*//sr;
	}
	die 'it was never full';
}

# What was acknowledged is there, unchanged, and either all documents of the
# failed batch or none; readers have missed nothing.
sub check
{
	my ($when, $session) = @_;
	my %stored = map { @$_ } @{ $session->rows(q{SELECT id, (extract(epoch FROM last_update_utc) * 1000000)::bigint
		FROM docsync.document WHERE client_id = 'writer'}) };
	my $failed = grep { /^$batches-/ } keys %stored;

	is_deeply([ grep { ($stored{$_} // 0) != $acknowledged{$_} } sort keys %acknowledged ], [], "$when: all that was acknowledged is there");
	ok($failed == 0 || $failed == 20, "$when: the upload that failed is stored wholly or not at all ($failed)");
	is(keys(%stored) - $failed, scalar keys %acknowledged, "$when: and nothing else is there");
	$replica->catch_up($session);
	$replica->audit($session);
	is("@{ $replica->{faults} }", '', "$when: a reader has missed nothing");
	return;
}

# The upload that failed is sent again, and others after it.
sub goes_on
{
	my ($what, $session) = @_;
	my $before = $last;
	my @results = send_batch();

	like($results[0]{outcome}, qr/^(created|unchanged)$/, "$what: with room again the upload that failed is stored");
	send_batch() for 1 .. 5;
	cmp_ok($last, '>', $before, "$what: stamps are later than before");
	check("$what, with room again", $session);
	return;
}

# A small file system, mounted for this process and its children
sub small_disk
{
	my ($name) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir() . "/$name";
	my ($device, $type, $options) = ('none', 'tmpfs', "size=${MEGABYTES}m");

	mkdir $dir or die "mkdir: $!";
	syscall($SYS_MOUNT, $device, $dir, $type, 0, $options) == 0 or plan skip_all => "mount: $!";
	return $dir;
}

# Another file takes up all the remaining room.
sub fill
{
	my ($dir) = @_;

	open my $file, '>', "$dir/filler" or die "open: $!";
	1 while defined syswrite $file, "\0" x 4096;
	close $file;
	return;
}

sub make_room { return unlink "$_[0]/filler" }
