# docsync: the service side of an offline-first document store, in PostgreSQL
#
#   make demo		on a fresh machine: set everything up, play the protocol (GATEWAY=1: over the gateway)
#   make test		on a fresh machine: set everything up, run all tests
#   make test-adapters	the JavaScript client's adapters, with the libraries they are for
#   make test-gateway	what is asked by PostgREST, once more by the gateway
#   make test-versions	the same on each PostgreSQL that docsync is built for
#   make test-package	the Debian package, built and tried out
#   make test-day-one	doc/operations.md's first day, walked in a minimal system
#   make test-cassert	the same on a server with assertions and sanitizers, which it builds: a quarter of an hour
#   make bench		speed, as ratios against rivals
#   make dist		what is committed, as build/docsync-VERSION.zip
#   make && sudo make install	into the PostgreSQL that PG_CONFIG belongs to

EXTENSION = docsync
MODULE_big = docsync
DATA = $(wildcard sql/docsync--*.sql sql/docsync--*.control)
OBJS = $(patsubst %.c,%.o,$(wildcard src/*.c))
ifeq ($(OBJS),)
$(error docsync is built where its sources are: cd there first)
endif
PGFILEDESC = "docsync - service side of an offline-first document store"

REGRESS = $(patsubst test/sql/%.sql,%,$(wildcard test/sql/*.sql))
REGRESS_OPTS = --inputdir=test --encoding=UTF8
ISOLATION = $(patsubst test/specs/%.spec,%,$(wildcard test/specs/*.spec))
ISOLATION_OPTS = --inputdir=test --outputdir=. --encoding=UTF8

PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter

# The commands for a fresh machine come before the server's makefiles, which
# are not there yet.
.PHONY: demo demo-stop test test-adapters test-gateway test-versions test-package test-day-one test-cassert bench dist indent typedefs check-symbols
all:

demo:
	@scripts/demo
demo-stop:
	@scripts/demo stop
test:
	@scripts/test
test-adapters:
	@scripts/test adapters
test-gateway:
	@scripts/test over-gateway
test-versions:
	@scripts/versions
test-package:
	@scripts/test-package
test-day-one:
	@scripts/test-day-one
test-cassert:
	@scripts/cassert
bench:
	@bench/run

# What PGXN takes. The version stands in docsync.control.
DISTVERSION = $(shell sed -n "s/^default_version = '\(.*\)'$$/\1/p" docsync.control)
DIST = build/docsync-$(DISTVERSION).zip
dist:
	@mkdir -p $(dir $(DIST))
	git -c safe.directory='$(CURDIR)' archive --format zip --prefix docsync-$(DISTVERSION)/ --output $(DIST) HEAD

# As pgindent does it: its flags, and a single space in "Type *" above a function
INDENT = pg_bsd_indent -bad -bap -bbb -bc -bl -cli1 -cp33 -cdb -nce -d0 -di12 \
	-nfc1 -i4 -l79 -lp -lpl -nip -npro -sac -tpg -ts4 -Usrc/typedefs.list

indent:
	for file in src/*.c src/*.h; do \
		$(INDENT) <$$file | sed -E 's/^([A-Za-z_]\S*)\s+\*$$/\1 */' >$$file.indent && \
		if cmp -s $$file.indent $$file; then rm $$file.indent; \
		else echo "indented $$file"; mv $$file.indent $$file; fi || exit 1; \
	done

typedefs: all
	scripts/typedefs >src/typedefs.list.new && mv src/typedefs.list.new src/typedefs.list

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
