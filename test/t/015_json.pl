# Documents as JSON, on their way out: byte for byte what the server itself
# writes for the same values, whatever they contain.
#
# Strings are read 16 bytes at a time, in a way that differs between processors;
# so everything is tested twice, the second time with the plain C code.
#
# And a session that answers page after page asks the system for memory only
# once.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;
use PostgreSQL::Test::Utils ();
use Test::More;

# Deeper than the list of levels in the function, and than a small stack
my $DEPTH = 3000;

# What must be escaped, and its neighbours
my @ESCAPED = ('"', '\\', map { chr } 1 .. 31);
my @PLAIN = (' ', '!', '#', '[', ']', '/', 'a', 'z', '~', "\x7f", "\x{80}", "\x{a2}",
	"\x{dc}", "\x{7ff}", "\x{2028}", "\x{ffff}", "\x{1f600}", "\x{10ffff}");

# Short form and long, each length of a digit group on both sides of the point
my @NUMBERS = (
	qw(0 -0 0.0 0.00 -0.000 1 -1 10 1.0 1.10 1.100 100.00 0.1 0.01 0.001 0.0001 0.00001 -0.00001
	  1234 12345 123456789 1234567890123456789 -9999 9999.9999 99999.99999 10000 10000.0001
	  52.51627 13.37770 1764000000000 9223372036854775807 -9223372036854775808
	  1e10 1e20 1e-10 1e-20 1.5e-7 1E3 123e62 1e63 1e-63 1e-64 1e64 1e100 1e-100),
	'1e251', '1e252', '1e255', '1e256', '1e300',
	'1' x 63 . '.' . '9' x 63, '1' x 64 . '.' . '9' x 64, '0.' . '0' x 60 . '123', '9' x 300);

srand 15;
my $node = new_node('json');
my $session = connect_to($node);
my $count = store_all();
compare('16 bytes at a time, as this processor can');
add_build($node, qw(-U__SSE2__ -U__ARM_NEON));
compare('16 bytes at a time, in plain C');
take_pages();
done_testing();

#-----------------------------------------------------------------------------

# Documents for each of the cases, and random ones.  Returns how many.
sub store_all
{
	my @bodies;

	for my $length (0 .. 50, 63 .. 65, 127 .. 129, 255 .. 257)
	{
		push @bodies, '"' . 'x' x $length . '"';
		push @bodies, map { string_with($_, $length) } 0 .. $length - 1;
	}
	push @bodies, map { quote("x$_"), quote($_ x 40) } @ESCAPED, @PLAIN;
	push @bodies, @NUMBERS, map { "[$_, {\"n\": $_}]" } @NUMBERS;
	push @bodies, map { random_number() } 1 .. 500;
	push @bodies, qw(null true false [] {} [[]] [{}] ""), '{"": {}}', '[[], [], {}]', '[null, true, false]', '{"": ""}';
	push @bodies, map { list_of($_), object_of($_) } 31 .. 34, 63 .. 66, 1000;
	push @bodies, '"deep"', '{"a": [1, ' x 50 . '2' . ', 3], "b": 4}' x 50;
	push @bodies, '"' . 'compressed ' x 1000 . '"', '["' . join('', map { random_word() } 1 .. 4000) . '"]';
	push @bodies, map { random_value(0) } 1 .. 2000;

	$session->do('BEGIN');
	my $insert = $session->dbh->prepare(
		'INSERT INTO docsync.document (collection, id, client_version, client_id, deleted, body) VALUES (?, ?, ?, ?, ?, ?::jsonb)');
	for my $n (0 .. $#bodies)
	{
		$insert->execute('json', "$n " . random_string(30), int(rand 2**53) - 2**52,
			'c' . random_string(10), $n % 7 == 0 ? 't' : 'f', $n % 49 == 0 ? undef : $bodies[$n]);
	}
	$session->do('COMMIT');

	# The guard wouldn't accept it; but it may have been stored before there was a
	# limit.
	$session->do('SET session_replication_role = replica',
		"UPDATE docsync.document SET body = (repeat('[', $DEPTH) || repeat(']', $DEPTH))::jsonb"
		  . q{ WHERE collection = 'json' AND body = '"deep"'});
	return scalar @bodies;
}

# One string of a length in bytes with one escape, at a place
sub string_with
{
	my ($place, $length) = @_;
	my $escaped = $ESCAPED[($place + $length) % @ESCAPED];

	return quote('x' x $place . $escaped . 'x' x ($length - $place - 1));
}

sub list_of { return '[' . join(', ', map { random_value(3) } 1 .. $_[0]) . ']' }

sub object_of
{
	return '{' . join(', ', map { quote("$_" . random_string(5)) . ': ' . random_value(3) } 1 .. $_[0]) . '}';
}

sub random_value
{
	my ($depth) = @_;
	my $kind = rand($depth < 4 ? 8 : 5);

	return quote(random_string(rand 80)) if $kind < 3;
	return random_number() if $kind < 4;
	return (qw(null true false))[rand 3] if $kind < 5;
	my @values = map { random_value($depth + 1) } 1 .. rand 5;
	return '[' . join(',', @values) . ']' if $kind < 6.5;
	return '{' . join(',', map { quote(random_string(rand 20)) . ":$_" } @values) . '}';
}

sub random_number
{
	my $number = join '', map { int rand 10 } 0 .. rand(rand 40);

	$number =~ s/^0+(?=.)//;
	$number .= '.' . join '', map { int rand 10 } 0 .. rand(rand 40) if rand() < 0.5;
	$number .= 'e' . (int(rand 80) - 40) if rand() < 0.2;
	return (rand() < 0.3 ? '-' : '') . $number;
}

sub random_word { return chr(97 + rand 26) x (1 + rand 3) . ' ' }

# A string of up to this many characters; one in a certain number must be escaped, or
# is longer than a byte.
sub random_string
{
	my ($length) = @_;
	my $odd = rand() < 0.5 ? 0.02 : 0.3;

	return join '', map {
		rand() > $odd ? chr(32 + rand 95) : rand() < 0.5 ? $ESCAPED[ rand @ESCAPED ] : $PLAIN[ rand @PLAIN ]
	} 1 .. $length;
}

# A JSON string, with each character as itself or as an escape
sub quote
{
	my ($string) = @_;

	$string =~ s{([\x00-\x1f"\\])}{sprintf '\\u%04x', ord $1}ge;
	return qq("$string");
}

# Compares the answers of a new session with those that the server's own
# functions give.
sub compare
{
	my ($name) = @_;
	my $reader = connect_to($node);
	my @documents = $reader->column(q{
		SELECT format('{"id":%s,"clientVersion":%s,"clientId":%s,"LastUpdateUtc":"%s","deleted":%s,"body":%s}',
			to_json(id), client_version, to_json(client_id),
			to_char(last_update_utc AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
			to_json(deleted), coalesce(body::text, 'null'))
		  FROM docsync.document WHERE collection = 'json' ORDER BY last_update_utc});

	is(scalar @documents, $count, "$name: all documents are there");
	$reader->do(q{SET max_stack_depth = '100kB'});
	my $answer = $reader->value(
		q{SELECT docsync_docs_query(origin => 'any', collection => 'json')});
	ok($answer eq '[' . join(',', @documents) . ']', "$name: one answer has them all, byte for byte")
	  or diag difference($answer, '[' . join(',', @documents) . ']');

	# The buffer starts empty for each document, and grows within it.
	my @differ;
	my $get = $reader->dbh->prepare(q{
		SELECT docsync_docs_get(convert_to(jsonb_build_object('collection', 'json', 'ids', jsonb_build_array(id))::text, 'UTF8'))
		  FROM docsync.document WHERE collection = 'json' ORDER BY last_update_utc});
	$get->execute;
	for my $document (@documents)
	{
		my ($got) = $get->fetchrow_array;

		my $expected = qq({"documents":[$document],"more":false,);

		push @differ, difference(substr($got, 0, length $expected), $expected)
		  if index($got, $expected) != 0;
	}
	is("@differ[0 .. ($#differ < 2 ? $#differ : 2)]", '', "$name: each alone, too");
	$reader->dbh->disconnect;
	return;
}

# Pages of 1,000 documents, by either function, in a session of its own
sub take_pages
{
	my $body = '{"text": "' . 'x' x 400 . '"}';

	connect_to($node)->do("INSERT INTO docsync.document (collection, id, client_version, client_id, body)
		SELECT 'pages', n::text, 1, 'other', '$body' FROM generate_series(1, 1000) AS n");
	for my $page ("SELECT docsync_pull('me', collection => 'pages')",
		"SELECT * FROM docsync_query_since('me', collection => 'pages')")
	{
		my $reader = connect_to($node);
		my @faults = map { $reader->dbh->selectall_arrayref($page); faults($reader->pid) } 0 .. 15;

		# Some pages may do so, if the kernel has taken memory back, or an autovacuum
		# has invalidated plans: so take the median of eleven.
		my @taken = sort { $a <=> $b } map { $faults[$_] - $faults[ $_ - 1 ] } 5 .. 15;

	  SKIP:
		{
			skip 'AddressSanitizer keeps what is freed', 1 if ($ENV{DOCSYNC_CFLAGS} // '') =~ /address/;
			cmp_ok($taken[5], '<', 20, "a page takes no new memory: $page") or diag "@faults";
		}
		$reader->dbh->disconnect;
	}
	return;
}

# The number of a process's page faults
sub faults
{
	my ($pid) = @_;

	return (split ' ', PostgreSQL::Test::Utils::slurp_file("/proc/$pid/stat") =~ s/.*[)] //r)[7];
}

sub difference
{
	my ($got, $expected) = map { my $bytes = $_; utf8::encode($bytes); $bytes } @_;

	($got ^ $expected) =~ /^\0*/;
	my $place = $+[0];
	my $from = $place > 40 ? $place - 40 : 0;
	return sprintf "at %d: got %s, expected %s", $place, substr($got, $from, 80), substr($expected, $from, 80);
}
