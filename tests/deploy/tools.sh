#!/usr/bin/env bash
# Puts tools that scripts/test and check.sh use, and that this machine lacks, into target/deploy-tools and prints the
# folder of programs. From PyPI comes what requirements.txt names, from Debian's packages promtool, kubectl and
# docker-compose, which are unpacked and not installed. What cannot be had is said, and check.sh names what it leaves out.
set -euo pipefail
cd "$(dirname "$0")/../.."
place=${CARGO_TARGET_DIR:-target}/deploy-tools
mkdir -p "$place"
place=$(realpath "$place")
programs=$place/venv/bin
requirements=tests/deploy/requirements.txt

say() { echo "tests/deploy/tools.sh: $*" >&2; }
have() { PATH="$programs:$PATH" command -v "$1" >/dev/null; }

if ! cmp -s "$requirements" "$place/installed.txt"; then
    if python3 -m venv "$place/venv" >&2 &&
        "$programs/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements" >&2; then
        cp "$requirements" "$place/installed.txt"
    else
        say "PyPI's packages of $requirements cannot be installed"
    fi
fi

# A program out of a package of Debian 13, whatever Debian this is: the compose of Debian 12 is too old. Its lists are
# kept apart from the machine's.
apt=$place/apt
from_debian() { # PACKAGE PATH
    mkdir -p "$apt/lists/partial" "$programs"
    local mirror options
    # shellcheck disable=SC2016  # apt's own variable
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 '/debian/$') || return 1
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$apt/sources.list"
    options=(-qq -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::Lists=$apt/lists"
        -o APT::Sandbox::User="$(id -un)")
    (cd "$apt" && apt-get "${options[@]}" update && apt-get "${options[@]}" download "$1" &&
        dpkg-deb --fsys-tarfile "$1"_*.deb | tar -x -O "./$2" >"$1.part" && chmod +x "$1.part") >&2 || return 1
    mv "$apt/$1.part" "$programs/${2##*/}"
}
compose_runs() {
    { docker compose version || PATH="$programs:$PATH" docker-compose version; } 2>/dev/null | grep -q ' v\?2\.'
}
if have apt-get; then
    have promtool || from_debian promtool usr/bin/promtool || say "Debian's package promtool cannot be fetched"
    have kubectl || from_debian kubernetes-client usr/bin/kubectl || say "Debian's package kubernetes-client cannot be fetched"
    compose_runs || from_debian docker-compose usr/libexec/docker/cli-plugins/docker-compose ||
        say "Debian's package docker-compose cannot be fetched"
fi
echo "$programs"
