# A session with a server, which can run one command in the background.

package DocsyncTest::Session;

use strict;
use warnings;

use DBD::Pg qw(:async);
use DBI;
use JSON::PP qw(decode_json);
use Scalar::Util qw(weaken);

my @sessions;

# Microseconds since 1970, exact
my $STAMP = '(extract(epoch FROM last_update_utc) * 1000000)::bigint';

sub new
{
	my ($class, $node, $database) = @_;
	my $dbh = DBI->connect(
		sprintf('dbi:Pg:host=%s;port=%d;dbname=%s',
			$node->host, $node->port, $database),
		'', '',
		{
			AutoCommit => 1,
			AutoInactiveDestroy => 1,
			PrintError => 0,
			RaiseError => 1
		});

	$dbh->do('SET TimeZone = UTC');

	my $self = bless { dbh => $dbh, pid => $dbh->{pg_pid} }, $class;
	push @sessions, $self;
	weaken $sessions[-1];
	return $self;
}

sub dbh { return $_[0]{dbh} }

# The process of the server that serves this session
sub pid { return $_[0]{pid} }

# Runs commands; dies with the server's message.
sub do
{
	my ($self, @sql) = @_;

	$self->{dbh}->do($_) for @sql;
	return;
}

# The same, for one that should fail: returns its SQLSTATE, '' if it doesn't.
sub sqlstate_of
{
	my ($self, $sql) = @_;

	return '' if eval { $self->{dbh}->do($sql); 1 };
	return $self->{dbh}->state;
}

sub errstr { return $_[0]{dbh}->errstr }

# The first column of the first row
sub value
{
	my ($self, $sql, @args) = @_;

	return ($self->{dbh}->selectrow_array($sql, undef, @args))[0];
}

# The first columns of all rows
sub column
{
	my ($self, $sql, @args) = @_;

	return @{ $self->{dbh}->selectcol_arrayref($sql, undef, @args) };
}

sub rows
{
	my ($self, $sql, @args) = @_;

	return $self->{dbh}->selectall_arrayref($sql, undef, @args);
}

# The answer to docsync_upsert, a hash for each document; stamps are in
# microseconds since 1970.
sub upload
{
	my ($self, $client_id, $collection, @documents) = @_;
	my $sth = $self->{upload} //= $self->{dbh}->prepare(
		"SELECT id, outcome, client_version, $STAMP AS stamp
		   FROM docsync_upsert(?, ?, ?)");

	$sth->execute($client_id, '[' . join(', ', @documents) . ']', $collection);
	return @{ $sth->fetchall_arrayref({}) };
}

# The same of each document that can be stored, with the SQLSTATE of the others
sub upload_parts
{
	my ($self, $client_id, $collection, @documents) = @_;
	my $sth = $self->{upload_parts} //= $self->{dbh}->prepare(
		"SELECT id, outcome, client_version, $STAMP AS stamp, error ->> 'code' AS error
		   FROM docsync_upsert(?, ?, ?, atomic => false)");

	$sth->execute($client_id, '[' . join(', ', @documents) . ']', $collection);
	return @{ $sth->fetchall_arrayref({}) };
}

# The stamps of documents that were written in other ways
sub stamp_of
{
	my ($self, $collection, $id) = @_;

	return $self->value(
		"SELECT $STAMP FROM docsync.document WHERE collection = ? AND id = ?",
		$collection, $id);
}

# What docsync_query_since returns, from a stamp's text on
sub download
{
	my ($self, $client_id, $since, $origin, $collection, $max_documents) = @_;
	my $sth = $self->{download} //= $self->{dbh}->prepare(
		"SELECT id, client_version, client_id, deleted, body::text,
				last_update_utc::text, $STAMP
		   FROM docsync_query_since(?, ?, ?, ?, ?)");

	$sth->execute($client_id, $since, $origin, $collection, $max_documents);
	return $sth->fetchall_arrayref;
}

# The same by a cursor, which comes back as well: by docsync_pull, or with an
# array of documents to upload, maybe an empty one, by docsync_sync.
sub download_by_cursor
{
	my ($self, $client_id, $cursor, $origin, $collection, $max_documents, $documents) = @_;
	my $function = $documents ? 'docsync_sync' : 'docsync_pull';
	my $sth = $self->{$function} //= $self->{dbh}->prepare(
		sprintf q{
			WITH answer AS MATERIALIZED (
				SELECT json ->> 'cursor' AS cursor, json -> 'documents' AS documents
				  FROM %s("clientId" => ?, cursor => ?, origin => ?, collection => ?, "maxDocuments" => ?%s) AS json)
			SELECT id, "clientVersion", "clientId", deleted, body::text, "LastUpdateUtc"::text, %s, cursor
			  FROM answer LEFT JOIN json_to_recordset(documents)
				AS document (id text, "clientVersion" bigint, "clientId" text, deleted bool, body json, "LastUpdateUtc" timestamptz)
				ON true},
		$function, $documents ? ', documents => ?' : '', $STAMP =~ s/last_update_utc/"LastUpdateUtc"/r);

	$sth->execute($client_id, $cursor, $origin, $collection, $max_documents,
		$documents ? '[' . join(', ', @$documents) . ']' : ());

	my $rows = $sth->fetchall_arrayref;
	return ([ grep { defined $_->[0] } @$rows ], $rows->[0][7]);
}

# Syncs several collections in one request, which is JSON.  Returns a reference for each: collection, error (its code), cursor, more,
# results as JSON, and rows, the documents as download_by_cursor() has them.
sub sync_collections
{
	my ($self, $request) = @_;
	my $sth = $self->{sync_collections} //= $self->{dbh}->prepare(
		sprintf q{
			WITH answer AS MATERIALIZED (
				SELECT value ->> 'collection' AS collection, value -> 'error' ->> 'code' AS error, value ->> 'cursor' AS cursor,
					   value ->> 'more' AS more, value ->> 'results' AS results, value -> 'documents' AS documents
				  FROM json_array_elements(docsync_docs_sync(convert_to(?, 'UTF8'))::text::json -> 'collections'))
			SELECT collection, error, cursor, more, results, id, "clientVersion", "clientId", deleted, body::text, "LastUpdateUtc"::text, %s
			  FROM answer LEFT JOIN LATERAL json_to_recordset(documents)
				AS document (id text, "clientVersion" bigint, "clientId" text, deleted bool, body json, "LastUpdateUtc" timestamptz)
				ON true}, $STAMP =~ s/last_update_utc/"LastUpdateUtc"/r);
	my @parts;

	$sth->execute($request);
	for my $row (@{ $sth->fetchall_arrayref })
	{
		my ($collection, $error, $cursor, $more, $results, @document) = @$row;

		push @parts, { collection => $collection, error => $error, cursor => $cursor, more => ($more // '') eq 'true', results => $results, rows => [] }
		  if !@parts || $parts[-1]{collection} ne $collection;
		push @{ $parts[-1]{rows} }, \@document if defined $document[0];
	}
	return @parts;
}

# The ids of all that may be downloaded from a collection, in their order
sub settled
{
	my ($self, $collection, $since) = @_;

	return map { $_->[0] } @{
		$self->download(undef, $since // '-infinity', 'any', $collection, undef)
	};
}

# What docsync_pull answers, with cursors: the documents of others, or without a
# client_id all.  Option: reconcile, 1 or 0.
sub pull
{
	my ($self, $client_id, $cursor, $collection, %options) = @_;

	return decode_json($self->value('SELECT docsync_pull(?, ?, ?, NULL, NULL, ?::bool, ?)',
			$client_id, $cursor, $collection, $options{reconcile} // 0, $options{state} ? 'true' : undef));
}

# The rows of docsync.history in their order, a hash for each; times are in
# microseconds since 1970, undef for infinite ones.
sub history
{
	my ($self) = @_;
	my $times = join ', ',
	  map { $STAMP =~ s/last_update_utc/nullif(nullif($_, '-infinity'), 'infinity')/r . " AS $_" } qw(survived lost_after clock);

	return @{
		$self->{dbh}->selectall_arrayref(
			"SELECT number, lpad(to_hex(epoch), 16, '0') AS epoch, timeline, arrived, next_xid::text, $times
			   FROM docsync.history ORDER BY number", { Slice => {} })
	};
}

# The highest stamp of all
sub last_stamp
{
	my ($self) = @_;

	return $self->value("SELECT max($STAMP) FROM docsync.document");
}

# Starts a command and returns at once.
sub start
{
	my ($self, $sql) = @_;

	$self->{dbh}->do($sql, { pg_async => PG_ASYNC });
	return;
}

sub is_ready { return $_[0]{dbh}->pg_ready }

# Waits for the command that was started; dies with the server's message.
sub finish { return $_[0]{dbh}->pg_result }

sub close
{
	my ($self) = @_;

	delete @$self{qw(upload upload_parts download docsync_pull docsync_sync)};
	$self->{dbh}->disconnect;
	return;
}

# Perl frees what is left in any order, and DBD::Pg crashes if a connection
# goes before its statements.
sub DESTROY
{
	my ($self) = @_;

	delete @$self{qw(upload upload_parts download)};
	return;
}

END
{
	local $?;
	eval { $_->close } for grep { defined } @sessions;
}

1;
