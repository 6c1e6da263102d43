# How much memory an upload takes: whatever is sent, a server process uses at
# most four bytes for each byte of the request (needed to get it into the
# function), 250 for each byte of the largest body, while a jsonb is made of it,
# and 16 MB.
#
# DOCSYNC_MEMORY_MB is the size of the requests.

use strict;
use warnings;

use lib 'test/t/lib';

use PostgreSQL::Test::Utils;
use Test::More;

use DocsyncTest;
use DocsyncTest::Http;

my $MB = 1024 * 1024;
my $SIZE = ($ENV{DOCSYNC_MEMORY_MB} // 7) * $MB;    # nginx accepts 8
my $DOCUMENT = 64 * 1024;

my $node = new_node('main', conf => <<'END');
docsync.max_document_size = 64kB
shared_buffers = 1MB
fsync = off
wal_compression = off
max_wal_size = 10GB
END
my $http = DocsyncTest::Http->new($node, PGRST_DB_POOL => 1, DOCSYNC_POOL => 1);
my $session = $http->session;

# PostgREST reads its schema cache twice at start, each time with another connection.
sleep 2;

# A body of at most this many bytes
sub filled
{
	my ($opening, $part, $closing, $size) = @_;
	my $count = int((($size // $DOCUMENT) - length("$opening$closing") + 1) / (length($part) + 1));

	return $opening . join(',', ($part) x $count) . $closing;
}

# As many documents as fit, with different ids unless one is given
sub batch
{
	my ($body, $id) = @_;
	my @documents;
	my $size = 0;

	for (my $i = 0; $size + length($body) + 100 < $SIZE && $i < 10_000; $i++)
	{
		push @documents, sprintf '{"id":"%s","clientVersion":1,"body":%s}', $id // $i, $body;
		$size += length($documents[-1]) + 1;
	}
	return '[' . join(',', @documents) . ']';
}

my $distinct = '{' . join(',', map { qq("$_":0) } 1 .. 7_000) . '}';
for my $case (
	[ 'empty arrays', 200, batch(filled('[', '[]', ']')) ],
	[ 'empty objects', 200, batch(filled('[', '{}', ']')), 1 ],
	[ 'digits', 200, batch(filled('[', '0', ']')), 1 ],
	[ 'empty strings', 200, batch(filled('[', '""', ']')) ],
	[ 'one key', 200, batch(filled('{', '"":0', '}')) ],
	[ 'many keys', 200, batch($distinct) ],
	[ 'objects', 200, batch(filled('[', '{"":0}', ']')) ],
	[ 'escapes', 200, batch(filled('["', '\n', '"]')) ],
	[ 'strings', 200, batch('"' . 'x' x ($DOCUMENT - 2) . '"') ],
	[ '10,000 documents', 200, batch(filled('[', '0', ']', $SIZE / 10_100)), 1 ],
	[ 'an id that comes many times', 200, batch(filled('[', '0', ']'), 'same') ],
	[ 'a document that is too large', 413, '[{"id":"x","clientVersion":1,"body":' . filled('[', '[]', ']', $SIZE) . '}]' ],
	[ 'documents without number', 413, filled('[', '{"id":"x","clientVersion":1,"body":1}', ']', $SIZE) ],
	[ 'documents that are empty', 413, filled('[', '{}', ']', $SIZE) ],
	[ 'brackets', 400, '[' x $SIZE ],
	[ 'braces', 400, '{"":' x ($SIZE / 4) ],
	[ 'a string without end', 400, '[{"id":"x","clientVersion":1,"body":"\n' . 'x' x $SIZE ],
	[ 'a long string with escapes', 413, '[{"id":"x","clientVersion":1,"body":"' . '\n' x ($SIZE / 2) . '"}]' ],
	[ 'a long key with escapes', 400, '{"' . '\n' x ($SIZE / 2) . '":1}' ],
	[ 'a key of the request again and again', 200, filled('{"documents":[],', '"clientId":"\u0063"', '}', $SIZE) ],
	[ 'documents again and again', 200, filled('{', '"documents":[{"id":"z","clientVersion":1,"body":1}]', '}', $SIZE) ],
	[ 'a key of a document again and again', 200, filled('[{"clientVersion":1,"body":1,', '"id":"\u0063"', '}]', $SIZE) ],
	[ 'a body again and again', 200, filled('[{"id":"b","clientVersion":1,', '"body":[]', '}]', $SIZE) ],
	[ 'an unknown key behind much', 400, '[{"id":"x","clientVersion":1,"LastUpdateUtc":' . filled('[', '0', ']', $SIZE) . ',"x":1}]' ],
	[ 'numbers that are too long', 400, '[{"id":"x","clientVersion":1,"LastUpdateUtc":' . filled('[', '1e400', ']', $SIZE) . '}]' ],
	[ 'escapes that are none', 400, '[{"id":"x","clientVersion":1,"LastUpdateUtc":' . filled('[', '"\\u0000"', ']', $SIZE) . '}]' ],
	[ 'bytes that are no characters', 400, '[{"id":"x","clientVersion":1,"LastUpdateUtc":' . filled('[', qq("\xff"), ']', $SIZE) . '}]' ],
	[ 'unknown keys', 400, '[' . filled('{', '"x":1', '}', $SIZE) . ']' ],
	[ 'unknown keys with numbers that are too long', 400, '[' . filled('{', '"x":1e400', '}', $SIZE) . ']' ],
	[ 'ids that are none', 400, '[' . filled('{', '"id":"\\ud800"', '}', $SIZE) . ']' ],
	[ 'a number of digits', 400, '[{"id":"x","clientVersion":1,"body":' . '7' x $SIZE . '}]' ])
{
	my ($name, $status, $request, $again) = @$case;

	for my $round (1 .. ($again ? 2 : 1))
	{
		my $pid = new_process();
		my $before = anonymous($pid);

		append_to_file_raw("/proc/$pid/clear_refs", '5');
		my $answer = $http->post("/Docs?clientId=c&collection=anna/$name" =~ s/ /%20/gr =~ s/,//r, $request);
		my $peak = peak($pid) - $before;
		my $bound = 4.1 * length($request) + 250 * $DOCUMENT + 16 * $MB;

		is($answer->{status}, $status, "$name: $status") or diag(substr $answer->{content}, 0, 300);
		cmp_ok($peak, '<', $bound, sprintf '%s%s: %.1f MB for %.1f MB', $name, $round > 1 ? ', again' : '', $peak / $MB, length($request) / $MB);
	}
}

done_testing();

# The layer's connection, reopened: an old one may have kept memory.
sub new_process
{
	my $mine = q{usename ~ '^docsync_(authenticator|gateway)$' AND query !~ 'LISTEN'};

	$session->value("SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE $mine");
	wait_for('a new connection', sub { $http->post('/Docs?clientId=c&collection=anna', '[]')->{status} == 200 });
	return $session->value("SELECT pid FROM pg_stat_activity WHERE $mine ORDER BY state_change DESC LIMIT 1");
}

sub status_of
{
	my ($pid) = @_;

	return { slurp_file("/proc/$pid/status") =~ /^(\w+):\s+(\d+) kB$/mg };
}

# A process's private memory, in bytes
sub anonymous { return status_of($_[0])->{RssAnon} * 1024 }

# The peak of that since it was reset
sub peak
{
	my $status = status_of($_[0]);

	return ($status->{VmHWM} - $status->{RssFile} - $status->{RssShmem}) * 1024;
}

sub append_to_file_raw
{
	my ($file, $text) = @_;

	open my $handle, '>', $file or die "$file: $!";
	syswrite $handle, $text;
	close $handle;
	return;
}
