# A client's copies of several collections, which it asks for in one request.

package DocsyncTest::CollectionsReplica;

use strict;
use warnings;

use JSON::PP;

sub encode { return JSON::PP->new->utf8->canonical->encode($_[0]) }
sub decode { return JSON::PP->new->utf8->decode($_[0]) }

# collections, and optionally client_id, origin, max_documents (of all)
sub new
{
	my ($class, %self) = @_;
	my %each = map { ($_ => $self{$_}) } grep { defined $self{$_} } qw(client_id origin);

	return bless {
		origin => 'any',
		%self,
		parts => [ map { DocsyncTest::CursorReplica->new(collection => $_, %each) } @{ $self{collections} } ],
		polls => 0,
		received => 0,
		faults => []
	}, $class;
}

sub poll
{
	my ($self, $session) = @_;
	my @parts = sort { rand() <=> 0.5 } @{ $self->{parts} };
	my @answers = $session->sync_collections(encode({
		clientId => $self->{client_id},
		origin => $self->{origin},
		maxDocuments => $self->{max_documents},
		collections => [ map { { collection => $_->{collection}, cursor => $_->{cursor} } } @parts ] }));
	my $new = 0;

	push @{ $self->{faults} }, 'asked for ' . @parts . ' collections, ' . @answers . ' came' if @answers != @parts;
	for my $answer (@answers)
	{
		my $part = shift @parts;

		push @{ $self->{faults} }, "asked for $part->{collection}, $answer->{collection} came" if $answer->{collection} ne $part->{collection};
		push @{ $self->{faults} }, "$part->{collection}: more, and nothing came" if $answer->{more} && $self->{origin} eq 'any' && !@{ $answer->{rows} };
		$new += $part->go_on($answer->{rows}, $answer->{cursor});
	}
	$self->{polls}++;
	$self->{received} += $new;
	return $new;
}

sub catch_up
{
	my ($self, $session) = @_;

	1 while $self->poll($session) > 0;
	return;
}

sub audit
{
	my ($self, @args) = @_;
	my $count = 0;

	$count += $_->audit(@args) for @{ $self->{parts} };
	return $count;
}

sub compare
{
	my ($self, @args) = @_;
	my $count = 0;

	$count += $_->compare(@args) for @{ $self->{parts} };
	push @{ $self->{faults} }, $_->faults for @{ $self->{parts} };
	return $count;
}

sub faults
{
	my ($self) = @_;

	return (@{ $self->{faults} }, map { $_->faults } @{ $self->{parts} });
}

1;
