# docsync: the service side of an offline-first document store, in PostgreSQL
#
#   make demo		on a fresh machine: set everything up, play the protocol
#   make test		on a fresh machine: set everything up, run all tests
#   make test-versions	the same on each PostgreSQL that docsync is built for
#   make bench		speed, as ratios against rivals
#   make && sudo make install	into the PostgreSQL that PG_CONFIG belongs to

EXTENSION = docsync
MODULE_big = docsync
DATA = $(wildcard sql/docsync--*.sql)
OBJS = $(patsubst %.c,%.o,$(wildcard src/*.c))
PGFILEDESC = "docsync - service side of an offline-first document store"

REGRESS = $(patsubst test/sql/%.sql,%,$(wildcard test/sql/*.sql))
REGRESS_OPTS = --inputdir=test
ISOLATION = $(patsubst test/specs/%.spec,%,$(wildcard test/specs/*.spec))
ISOLATION_OPTS = --inputdir=test --outputdir=.

PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter

# The commands for a fresh machine come before the server's makefiles, which
# are not there yet.
.PHONY: demo demo-stop test test-versions bench indent check-symbols
all:

demo:
	@scripts/demo
demo-stop:
	@scripts/demo stop
test:
	@scripts/test
test-versions:
	@scripts/versions
bench:
	@bench/run

# As pgindent does it: its flags, and a single space in "Type *" above a function
INDENT = pg_bsd_indent -bad -bap -bbb -bc -bl -cli1 -cp33 -cdb -nce -d0 -di12 \
	-nfc1 -i4 -l79 -lp -lpl -nip -npro -sac -tpg -ts4 -Usrc/typedefs.list

indent:
	for file in src/*.c src/*.h; do \
		$(INDENT) <$$file | sed -E 's/^([A-Za-z_]\S*)\s+\*$$/\1 */' >$$file.indent && \
		if cmp -s $$file.indent $$file; then rm $$file.indent; \
		else echo "indented $$file"; mv $$file.indent $$file; fi || exit 1; \
	done

# The server exports all its symbols; ours must not meddle with them.
check-symbols: docsync.so
	@nm -D --defined-only docsync.so | awk '{print $$3}' | \
		{ ! grep -vxE 'docsync_.*|pg_finfo_docsync_.*|Pg_magic_func|_PG_init'; }

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifneq ($(PGXS),)
include $(PGXS)

$(OBJS): $(wildcard src/*.h)
endif
