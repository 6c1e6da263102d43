# HTTP in front of a server: PostgREST and nginx, with the configuration of
# examples/postgrest as it is, but for ports, paths and the secret; or the
# gateway, if DOCSYNC_HTTP says so.
#
# A path that begins with /rpc/ goes to PostgREST itself, any other to nginx;
# what a test does by it is left out where there is no PostgREST (has_rpc).
#
# What requests are answered is compared with doc/openapi.yaml when the test is
# over, if DOCSYNC_OPENAPI says by which command.

package DocsyncTest::Http;

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256);
use Encode ();
use Fcntl qw(:flock);
use File::Path qw(make_path);
use HTTP::Tiny;
use IO::Socket::INET;
use IO::Socket::UNIX;
use JSON::PP;
use MIME::Base64 qw(encode_base64url);
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DocsyncTest;

my $EXAMPLES = "$ENV{TESTDIR}/examples/postgrest";
my $DATABASE = 'docsync';
my $SECRET = 'only tests are signed with this secret';
my $JSON = JSON::PP->new->utf8->canonical->allow_nonref;
my $IS_GATEWAY = ($ENV{DOCSYNC_HTTP} // 'postgrest') eq 'gateway';
my $ANSWER_MAX = 1_000_000;    # bytes; what is larger is of the same form
my @started;

# docsync.max_version_lead from now on.  What the layer has connected goes by the
# one before, so it connects anew.
sub set_version_lead
{
	my ($self, $lead) = @_;
	my $session = $self->session;

	$session->do("ALTER DATABASE $DATABASE SET docsync.max_version_lead = '$lead'");
	$session->value("SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE usename ~ '^docsync_(authenticator|gateway)\$'");
	$session->close;
	wait_for('a new connection', sub { $self->get('/Docs/Pull?clientId=waits')->{status} == 200 });
	return;
}

# Starts it.  The database is made by roles.sql if it isn't there.  env: more
# settings for PostgREST or the gateway; and layer, which of them it is, if not
# the one that DOCSYNC_HTTP says; start: false, not yet; live, the port of a
# gateway beside PostgREST.
sub new
{
	my ($class, $node, %env) = @_;
	my ($layer, $live) = delete @env{qw(layer live)};
	my $start = delete $env{start} // 1;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $self = bless {
		is_gateway => defined $layer ? $layer eq 'gateway' : $IS_GATEWAY,
		node => $node,
		live => $live,
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
		PGRST_DB_URI => uri_of($node, 'authenticator'),
		PGRST_JWT_SECRET => $SECRET,
		PGRST_SERVER_PORT => $self->{rest_port},
		DOCSYNC_DATABASE_URI => uri_of($node, 'gateway'),
		DOCSYNC_JWT_SECRET => $SECRET,
		DOCSYNC_LISTEN => "127.0.0.1:$self->{port}",
		DOCSYNC_ADMIN_LISTEN => "$dir/admin.sock",
		%env
	};
	push @started, $self;
	$self->configure_nginx unless $self->{is_gateway};
	$self->start_nginx unless $self->{is_gateway};
	$self->start_layer if $start;
	return $self;
}

sub configure_nginx
{
	my ($self) = @_;
	my $dir = $self->{dir};

	make_path("$dir/temp");
	for my $name (qw(nginx.conf docsync.conf live.conf postgrest.conf))
	{
		my $text = slurp_file("$EXAMPLES/$name");

		if ($self->{live})
		{
			$text =~ s/#(include live.conf)/$1/;
			$text =~ s/127\.0\.0\.1:8082/127.0.0.1:$self->{live}/g;
		}

		$text =~ s/127\.0\.0\.1:3000/127.0.0.1:$self->{rest_port}/;
		$text =~ s/127\.0\.0\.1:8080/127.0.0.1:$self->{port}/;
		append_to_file("$dir/$name", $text);
	}
	return;
}

# nginx, which answers for PostgREST as long as that isn't there
sub start_nginx
{
	my ($self) = @_;
	my $dir = $self->{dir};

	$self->start_process('nginx', 'nginx', '-p', $dir, '-c', 'nginx.conf', '-e', 'error.log', '-g', 'daemon off;');
	return wait_for('nginx', sub { $self->post('/')->{status} == 404 });
}

# What stands between HTTP and the database: PostgREST, or the gateway
sub start_layer
{
	my ($self) = @_;

	if ($self->{is_gateway})
	{
		unlink $self->{env}{DOCSYNC_ADMIN_LISTEN};
		$self->start_process('layer', $ENV{DOCSYNC_NODE} || 'node', $ENV{DOCSYNC_GATEWAY} // "$ENV{TESTDIR}/gateway/docsync-gateway.js");
	}
	else
	{
		$self->start_process('layer', $ENV{DOCSYNC_POSTGREST} // 'postgrest', "$self->{dir}/postgrest.conf");
	}
	return wait_for($self->layer, sub { $self->get('/Docs/Pull', token => undef)->{status} == 401 });
}

sub stop_layer
{
	my ($self, $signal) = @_;

	return $self->stop_process('layer', $signal // 'TERM');
}

sub layer { return $_[0]{is_gateway} ? 'the gateway' : 'PostgREST' }

# Can PostgREST's functions be called by their names?
sub has_rpc { return !$_[0]{is_gateway} }

# Goes to another server from now on.
sub move_to
{
	my ($self, $node) = @_;

	$self->stop_layer;
	$self->{node} = $node;
	$self->{env}{PGRST_DB_URI} = uri_of($node, 'authenticator');
	$self->{env}{DOCSYNC_DATABASE_URI} = uri_of($node, 'gateway');
	delete $self->{session};
	return $self->start_layer;
}

sub uri_of
{
	my ($node, $role) = @_;

	return sprintf 'postgresql://docsync_%s@/%s?host=%s&port=%d', $role, $DATABASE, $node->host, $node->port;
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
	$? ||= 1 if grep { !$_->answers_as_described } @started;
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
	my $answer = $self->{client}->request($method, $self->url($path),
		{ headers => \%headers, defined $body ? (content => ref $body ? $JSON->encode($body) : $body) : () });

	$self->note_answer($method, $path, $answer) if $path =~ m{^/(?!rpc/)} && $answer->{status} != 599;
	return $answer;
}

sub post { my ($self, @args) = @_; return $self->request('POST', @args) }
sub get { my ($self, $path, %options) = @_; return $self->request('GET', $path, undef, %options) }

# Keeps an answer for answers_as_described(); of a child as well.
sub note_answer
{
	my ($self, $method, $path, $answer) = @_;
	my ($status, $body) = ($answer->{status}, $answer->{content} // '');

	# Not what stands in for the layer, nor what is compressed
	return if !$ENV{DOCSYNC_OPENAPI} || length $body > $ANSWER_MAX || !$self->{pids}{layer} || $answer->{headers}{'content-encoding'};
	open my $out, '>>', "$self->{dir}/answers" or die "answers: $!";
	flock $out, LOCK_EX;
	print $out $JSON->encode({ method => $method, path => $path, status => $status, body => Encode::decode('UTF-8', $body) }), "\n";
	close $out or die "answers: $!";
	return;
}

# Have all answers been such as doc/openapi.yaml describes?
sub answers_as_described
{
	my ($self) = @_;

	return 1 if !-s "$self->{dir}/answers";
	my $differences = differences("$self->{dir}/answers");
	diag("answers that doc/openapi.yaml doesn't describe:\n$differences") if $differences ne '';
	return $differences eq '';
}

# What is wrong with the answers in a file, in words; '' if nothing is.
sub differences
{
	my ($file) = @_;

	local $?;
	my $differences = `$ENV{DOCSYNC_OPENAPI} check $ENV{TESTDIR}/doc/openapi.yaml $file 2>&1`;
	return $? == 0 ? '' : $differences || 'it cannot be checked';
}

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

# What the gateway answers to its operators, head and body; '' if it isn't there.
sub ask_admin
{
	my ($self, $path) = @_;
	my $socket = IO::Socket::UNIX->new($self->{env}{DOCSYNC_ADMIN_LISTEN}) // return '';

	print $socket "GET $path HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
	$socket->flush;
	local $/;
	return scalar <$socket> // '';
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
