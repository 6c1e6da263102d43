# The randomised test again, half as long, with a docsync that pauses in the
# wrong places: interruptions that otherwise happen there once in an hour happen
# within seconds.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use DocsyncTest;    # must be loaded first: it prepares the environment

$ENV{DOCSYNC_RANDOM_JITTER} = 1;
$ENV{DOCSYNC_RANDOM_SECONDS} = ($ENV{DOCSYNC_RANDOM_SECONDS} // 30) / 2;
do "$FindBin::RealBin/001_random.pl";
die $@ if $@;
