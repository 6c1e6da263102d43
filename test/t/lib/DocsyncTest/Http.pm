# PostgREST and nginx in front of a server, with the configuration of
# examples/postgrest as it is: only ports, paths and the secret are the test's.
#
# A path that begins with /rpc/ goes to PostgREST itself, any other to nginx.

package DocsyncTest::Http;

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256);
use File::Path qw(make_path);
use HTTP::Tiny;
use IO::Socket::INET;
use JSON::PP;
use MIME::Base64 qw(encode_base64url);
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

use DocsyncTest;

my $EXAMPLES = "$ENV{TESTDIR}/examples/postgrest";
my $DATABASE = 'docsync';
my $SECRET = 'only tests are signed with this secret';
my $JSON = JSON::PP->new->utf8->canonical->allow_nonref;
my @started;

# Starts both.  The database is made by roles.sql if it isn't there.  env: more
# settings for PostgREST.
sub new
{
	my ($class, $node, %env) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $self = bless {
		node => $node,
		dir => $dir,
		rest_port => PostgreSQL::Test::Cluster::get_free_port(),
		port => PostgreSQL::Test::Cluster::get_free_port(),
		client => HTTP::Tiny->new(timeout => 300),
		pids => {}
	}, $class;

	if ($node->safe_psql('postgres', "SELECT count(*) FROM pg_database WHERE datname = '$DATABASE'") eq '0')
	{
		$node->safe_psql('postgres', "CREATE DATABASE $DATABASE");
		$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($DATABASE), '-f',
				"$EXAMPLES/roles.sql" ], 'roles.sql runs');
	}

	$self->{env} = {
		PGRST_DB_URI => uri_of($node),
		PGRST_JWT_SECRET => $SECRET,
		PGRST_SERVER_PORT => $self->{rest_port},
		%env
	};

	make_path("$dir/temp");
	for my $name (qw(nginx.conf docsync.conf postgrest.conf))
	{
		my $text = slurp_file("$EXAMPLES/$name");

		$text =~ s/127\.0\.0\.1:3000/127.0.0.1:$self->{rest_port}/;
		$text =~ s/127\.0\.0\.1:8080/127.0.0.1:$self->{port}/;
		append_to_file("$dir/$name", $text);
	}

	push @started, $self;
	$self->start_postgrest;
	$self->start_process('nginx', 'nginx', '-p', $dir, '-c', 'nginx.conf', '-e', 'error.log', '-g', 'daemon off;');
	wait_for('nginx', sub { $self->post('/')->{status} == 404 });
	return $self;
}

sub start_postgrest
{
	my ($self) = @_;

	$self->start_process('postgrest', $ENV{DOCSYNC_POSTGREST} // 'postgrest', "$self->{dir}/postgrest.conf");
	wait_for('PostgREST', sub { $self->get('/rpc/docsync_pull', token => undef)->{status} == 401 });
	return;
}

sub stop_postgrest
{
	my ($self, $signal) = @_;

	return $self->stop_process('postgrest', $signal // 'TERM');
}

# Goes to another server from now on.
sub move_to
{
	my ($self, $node) = @_;

	$self->stop_postgrest;
	$self->{node} = $node;
	$self->{env}{PGRST_DB_URI} = uri_of($node);
	delete $self->{session};
	return $self->start_postgrest;
}

sub uri_of
{
	my ($node) = @_;

	return sprintf 'postgresql://docsync_authenticator@/%s?host=%s&port=%d', $DATABASE, $node->host, $node->port;
}

sub start_process
{
	my ($self, $name, @command) = @_;
	my $pid = fork // die "fork: $!";

	if ($pid == 0)
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', "$self->{dir}/$name.log";
		open STDERR, '>&', \*STDOUT;
		local $ENV{PATH} = "$ENV{PATH}:/usr/sbin";
		local @ENV{ keys %{ $self->{env} } } = values %{ $self->{env} };
		exec @command or POSIX::_exit(127);
	}
	$self->{pids}{$name} = $pid;
	return;
}

sub stop_process
{
	my ($self, $name, $signal) = @_;
	my $pid = delete $self->{pids}{$name} // return;

	# Not the END blocks' exit status
	local $?;
	kill $signal => $pid;
	waitpid $pid, 0;
	return;
}

sub stop
{
	my ($self) = @_;

	$self->stop_process($_, 'TERM') for keys %{ $self->{pids} };
	return;
}

END
{
	$_->stop for @started;
}

sub url
{
	my ($self, $path) = @_;

	return $path if $path =~ /^http:/;
	return sprintf 'http://127.0.0.1:%d%s', $path =~ m{^/rpc/} ? $self->{rest_port} : $self->{port}, $path;
}

# A session of the superuser's with the database behind it
sub session
{
	my $session = connect_to($_[0]{node}, $DATABASE);

	$session->do('SET search_path = api');
	return $session;
}

sub claims
{
	my (%claims) = @_;

	return { role => 'docsync_user', tenant => 'anna', collection => 'anna', exp => time + 3600, %claims };
}

# A token, signed as PostgREST expects it or with another secret
sub token
{
	my ($claims, $secret, $header) = @_;
	my $text = join '.',
	  map { encode_base64url($JSON->encode($_)) } $header // { alg => 'HS256', typ => 'JWT' }, $claims;

	return $text . '.' . encode_base64url(hmac_sha256($text, $secret // $SECRET));
}

# Requests.  body: text, or a reference, which becomes JSON.  Options: token,
# default that of anna's, undef for none; headers.  Returns what HTTP::Tiny
# returns.
sub request
{
	my ($self, $method, $path, $body, %options) = @_;
	my $token = exists $options{token} ? $options{token} : token(claims());
	my %headers = ('content-type' => 'application/json', %{ $options{headers} // {} });

	$headers{authorization} = "Bearer $token" if defined $token;
	return $self->{client}->request($method, $self->url($path),
		{ headers => \%headers, defined $body ? (content => ref $body ? $JSON->encode($body) : $body) : () });
}

sub post { my ($self, @args) = @_; return $self->request('POST', @args) }
sub get { my ($self, $path, %options) = @_; return $self->request('GET', $path, undef, %options) }

# The value an answer's body is; undef if that isn't JSON.
sub value_of
{
	my ($answer) = @_;

	return eval { $JSON->decode($answer->{content}) };
}

# Sends bytes as they are and returns all that comes until the connection is
# closed.
sub raw
{
	my ($self, $path, $text) = @_;
	my ($port) = $self->url($path) =~ /:(\d+)/;
	my $socket = IO::Socket::INET->new("127.0.0.1:$port") // die "connect: $@";

	print $socket $text;
	$socket->flush;
	local $/;
	return scalar <$socket>;
}

# A text that changes when a document is written
sub state
{
	my ($self) = @_;

	$self->{session} //= $self->session;
	return $self->{session}->value(
		q{SELECT concat_ws(' ', count(*), md5(string_agg(concat_ws(' ', d, d.xmin, d.ctid), ',' ORDER BY collection, id)))
			FROM docsync.document AS d});
}

1;
