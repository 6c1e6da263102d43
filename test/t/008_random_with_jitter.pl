# The randomised test once more, half as long, with a docsync that pauses in
# the wrong places: what is interrupted there once in an hour otherwise is so
# within seconds.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;    # has things done before anything runs

$ENV{DOCSYNC_RANDOM_JITTER} = 1;
$ENV{DOCSYNC_RANDOM_SECONDS} = ($ENV{DOCSYNC_RANDOM_SECONDS} // 30) / 2;
do "$FindBin::RealBin/001_random.pl";
die $@ if $@;
