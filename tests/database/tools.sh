#!/usr/bin/env bash
# Unpacks the poolers and the newer PostgreSQLs that the database tests use, and prints where they are as NAME=VALUE
# lines for scripts/services. They come from Debian's archive, each with the libraries of its own release, whatever
# release this is; nothing is installed except patchelf. What cannot be had is left out, and the tests that need it say
# SKIPPED.
#
#   ACETATE_TEST_PGBOUNCER_1_18    PgBouncer of Debian 12
#   ACETATE_TEST_PGBOUNCER_1_24    PgBouncer of Debian 13
#   ACETATE_TEST_PGPOOL            pgpool of Debian 12
#   ACETATE_TEST_POSTGRES_17       the folder of initdb and postgres of Debian 13
#   ACETATE_TEST_POSTGRES_18       the same of the release after it
set -euo pipefail

place=${ACETATE_TEST_TOOLS:-${TMPDIR:-/tmp}/acetate-test-tools-$(id -u)}/database
machine=$(uname -m)-linux-gnu

say() { echo "tests/database/tools.sh: $*" >&2; }

# Downloads packages of a release with the libraries that they need, and unpacks them into one folder. apt's lists are
# kept apart from the machine's.
unpack() { # RELEASE[-NAME] PACKAGE...
    local release=${1%%-*} root=$place/$1 apt mirror options names
    shift
    if [ -e "$root/complete" ]; then return 0; fi
    rm -rf "$root"
    apt=$root/apt
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    : >"$apt/status"
    # shellcheck disable=SC2016  # apt's own variable
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 '/debian/$') ||
        mirror=http://deb.debian.org/debian/
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release main" >"$apt/sources.list"
    options=(-qq -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::Lists=$apt/lists"
        -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt" -o APT::Sandbox::User="$(id -un)")
    (
        cd "$apt"
        apt-get "${options[@]}" update
        # The libraries, without those for JIT compilation and for scripts.
        names=$(apt-get "${options[@]}" install --print-uris -y --no-install-recommends "$@" |
            sed -n "s/^'[^']*' \([^_]*\)_.*/\1/p" | grep -E '^lib' | grep -vE '^lib(llvm|z3|perl)')
        # shellcheck disable=SC2086  # a list of names
        apt-get "${options[@]}" download "$@" $names
        for package in *.deb; do dpkg-deb --extract "$package" "$root"; done
    ) >&2 || return 1
    rm -rf "$apt"
    local loader libraries=$root/usr/lib/$machine program
    loader=$(find "$libraries" "$root/lib" "$root/lib64" -name 'ld-linux-*.so.*' -type f 2>/dev/null | head -n 1)
    for program in "$root"/usr/sbin/pgbouncer "$root"/usr/sbin/pgpool "$root"/usr/lib/postgresql/*/bin/*; do
        [ -f "$program" ] || continue
        patchelf --force-rpath --set-interpreter "$loader" --set-rpath "$libraries:$root/lib/$machine" "$program" 2>/dev/null ||
            return 1
    done
    # Servers run as another user if this is root.
    chmod -R a+rX "$place"
    touch "$root/complete"
}

runs() { "$1" --version >/dev/null 2>&1; }

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    say "this is not Debian: the tests of poolers and of a newer PostgreSQL are skipped"
    exit 0
fi
mkdir -p "$place"
chmod a+rx "$place" "$(dirname "$place")"
# Tests and scripts may call this at the same time.
exec 9>"$place/lock"
flock 9
if ! command -v patchelf >/dev/null && [ "$(id -u)" = 0 ]; then
    { apt-get install -y -q --no-install-recommends patchelf ||
        { apt-get update && apt-get install -y -q --no-install-recommends patchelf; }; } >&2 || true
fi
if ! command -v patchelf >/dev/null; then
    say "patchelf is missing (as root: apt-get install patchelf): the tests of poolers are skipped"
    exit 0
fi

if unpack bookworm pgbouncer && runs "$place/bookworm/usr/sbin/pgbouncer"; then
    echo "ACETATE_TEST_PGBOUNCER_1_18=$place/bookworm/usr/sbin/pgbouncer"
else
    say "PgBouncer 1.18 of Debian 12 cannot be had"
fi
if unpack bookworm-pgpool pgpool2 && runs "$place/bookworm-pgpool/usr/sbin/pgpool"; then
    echo "ACETATE_TEST_PGPOOL=$place/bookworm-pgpool/usr/sbin/pgpool"
else
    say "pgpool of Debian 12 cannot be had"
fi
postgres() { # RELEASE VERSION
    local programs=$place/$1/usr/lib/postgresql/$2/bin
    if runs "$programs/postgres"; then echo "ACETATE_TEST_POSTGRES_$2=$programs"; fi
}
if unpack trixie pgbouncer postgresql-17 postgresql-client-17; then
    if runs "$place/trixie/usr/sbin/pgbouncer"; then
        echo "ACETATE_TEST_PGBOUNCER_1_24=$place/trixie/usr/sbin/pgbouncer"
    fi
    postgres trixie 17
else
    say "PgBouncer 1.24 and PostgreSQL 17 of Debian 13 cannot be had"
fi
if unpack forky postgresql-18 postgresql-client-18; then
    postgres forky 18
else
    say "PostgreSQL 18 of Debian 14 cannot be had"
fi
