#!/usr/bin/env bash
# Brings up docker-compose.yml as people do, with Docker's engine and compose, and breaks it: steps.sh has the steps.
#
#   tests/compose/run.sh            with Garage if target/compose has it, else with another S3 server
#   tests/compose/run.sh garage     builds Garage first, from the Rust package registry (minutes)
#
# No image is pulled: stand-ins for them are made of Debian's packages, and the image of acetate from deploy/Dockerfile
# and the program that is already built ($ACETATE, target/release/acetate or target/debug/acetate).
#
# Nothing of this machine is changed. The engine is a Debian in a folder, started in namespaces of its own for
# processes, mounts and the network. So ports and firewall rules cannot collide, and when the first process ends, for
# whatever reason, the kernel ends all others and drops the mounts and the network.
#
# Needs root on Debian, and the right to make namespaces; otherwise it says SKIPPED and why.
# shellcheck disable=SC2317,SC2329  # functions are called by name, through timed()
set -euo pipefail
cd "$(dirname "$0")/../.."

skip() { echo "SKIPPED: docker compose with an engine: $1"; exit 0; }
say() { printf 'tests/compose: %s\n' "$*"; }

[ "$(id -u)" = 0 ] || skip "needs root"
grep -qx 'ID=debian' /etc/os-release 2>/dev/null || skip "needs Debian, whose packages the stand-ins are made of"
unshare --net --mount --pid --fork true 2>/dev/null || skip "namespaces are not permitted here"
[ -w /sys/fs/cgroup ] || skip "/sys/fs/cgroup is not writable here"

target=$(realpath "${CARGO_TARGET_DIR:-target}")
acetate=${ACETATE:-}
for place in "$target/release/acetate" "$target/debug/acetate"; do
    if [ -z "$acetate" ] && [ -x "$place" ]; then acetate=$place; fi
done
[ -n "$acetate" ] && [ -x "$acetate" ] || skip "acetate is not built"

place=$target/compose
root=$place/root # the Debian with the engine and all servers
mkdir -p "$place/bin"
began=$SECONDS
timed() { # NAME COMMAND...
    local start=$SECONDS
    "${@:2}" || return
    printf '%5d s  %s\n' $((SECONDS - start)) "$1"
}

# ---- An S3 server

# Of the version that docker-compose.yml names.
version=$(sed -n 's/^ *image: dxflrs\/garage:v//p' docker-compose.yml)
garage=$place/garage-$version/bin/garage
build_garage() {
    env CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_DEBUG=false CARGO_TARGET_DIR="$place/garage-target" \
        cargo install --quiet --locked --version "$version" --root "$place/garage-$version" \
        --no-default-features --features sqlite,bundled-libs,metrics garage
    rm -rf "$place/garage-target"
}
build_s3_server() {
    # As part of the workspace, it shares what the tests were built from.
    cargo build --quiet --workspace --example s3-server
    # Without the symbols, of which there are many.
    strip -o "$place/bin/s3-server" "$target/debug/examples/s3-server"
}
if [ "${1-}" = garage ] && [ ! -x "$garage" ]; then timed "Garage $version from the Rust package registry" build_garage; fi
if [ -x "$garage" ]; then
    storage=garage
    cp "$garage" "$place/bin/garage"
else
    storage="garage-stand-in"
    say "without Garage itself: s3s-fs stands in for it; tests/compose/run.sh garage builds it"
    timed "the S3 server" build_s3_server
fi

# ---- A Debian 13 in a folder

packages=(ca-certificates gosu postgresql-17 rabbitmq-server prometheus busybox
    docker.io docker-cli docker-buildx docker-compose curl iproute2 iptables mount python3)
scratch=$place/mmdebstrap
get_mmdebstrap() { # unpacked, not installed: it is a script
    rm -rf "$scratch"
    mkdir -p "$scratch" || return
    local as=(-o "APT::Sandbox::User=$(id -un)")
    (cd "$scratch" && { apt-get -qq "${as[@]}" download mmdebstrap 2>/dev/null ||
        { apt-get -qq "${as[@]}" update && apt-get -qq "${as[@]}" download mmdebstrap; }; } &&
        dpkg-deb -x mmdebstrap_*.deb .)
}
make_root() {
    local mirror
    rm -rf "$root"
    # shellcheck disable=SC2016  # apt's own variable
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 '/debian/$') || return
    # Without documentation, the compiler of Postgres' expressions and other large files that nothing here uses. No
    # cluster of Postgres is made while it is installed.
    local without=() path
    for path in /usr/share/doc/'*' /usr/share/man/'*' /usr/share/locale/'*' /usr/share/i18n/'*' /usr/share/javascript/'*' \
        '/usr/lib/*/libLLVM*' '/usr/lib/*/libz3*' '/usr/lib/postgresql/*/lib/bitcode/*' '/usr/lib/postgresql/*/lib/llvmjit*' \
        /usr/bin/promtool; do
        without+=(--dpkgopt="path-exclude=$path")
    done
    # shellcheck disable=SC2016  # mmdebstrap's own variable
    PATH=$scratch/usr/bin:$PATH mmdebstrap --quiet --mode=root --variant=essential --format=directory \
        --include="$(IFS=,; echo "${packages[*]}")" \
        --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
        --dpkgopt=force-unsafe-io --dpkgopt=force-confold "${without[@]}" \
        --essential-hook='mkdir -p "$1/etc/postgresql-common" && echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.conf"' \
        trixie "$root" "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >&2 || return
    # The last step: a folder without this file is not complete.
    echo "${packages[*]}" >"$root/etc/made-of"
}
if [ "$(cat "$root/etc/made-of" 2>/dev/null)" != "${packages[*]}" ]; then
    get_mmdebstrap || skip "Debian's packages cannot be had"
    timed "Debian 13 with Docker, Postgres, RabbitMQ and Prometheus" make_root
fi

# ---- What the steps work with: the files of a checkout, and what the images are made of

clean() {
    # Groups of processes are no part of a namespace. The empty ones can go.
    find /sys/fs/cgroup -depth -type d -path '*/acetate-compose-test*' -exec rmdir {} + 2>/dev/null || true
    rm -rf "$root/var/lib/docker" "$root/work"
}
checkout=$root/work/acetate
prepare() {
    clean # what a run left that was killed
    mkdir -p "$checkout" "$root/work/stand-ins/bin" "$root/.outside"
    git ls-files -z --cached --others --exclude-standard docker-compose.yml deploy examples out LICENSE docs/running.md \
        models/layered-nano models/edit-nano | xargs -0 cp --parents --target-directory="$checkout"
    # The image's first stage compiles for minutes: here it is the program that was tested.
    strip -o "$checkout/acetate" "$acetate"
    awk 'BEGIN { print "FROM scratch AS build\nCOPY acetate /out/acetate\n" } /^FROM / { stage++ } stage >= 2' \
        deploy/Dockerfile >"$checkout/deploy/Dockerfile"
    # A user's checkout, so that it shows whether results become that user's.
    chown -R 1000:1000 "$checkout"
    cp tests/compose/stand-ins/* "$root/work/stand-ins" 2>/dev/null || true
    cp tests/compose/steps.sh "$root/work"
    case $storage in
        garage) cp "$place/bin/garage" "$root/work/stand-ins/bin" ;;
        *) cp "$place/bin/s3-server" "$root/work/stand-ins/bin" ;;
    esac
}
timed "the files" prepare

# ---- In the namespaces

# The root becomes the Debian, so that not even by mistake anything of the machine can be reached.
# shellcheck disable=SC2016  # the inner shell's variables
inner='set -euo pipefail
cd "$1"
mount --bind . .
cd "$1"
mount --rbind /sys/fs/cgroup mnt
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --move mnt sys/fs/cgroup
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
# Images and volumes, some 3 GB: in memory if there is plenty, because a disk takes minutes to write and delete them.
if [ "$(sed -n "s/^MemAvailable: *\([0-9]*\) kB/\1/p" proc/meminfo)" -gt 10000000 ]; then
    mkdir -p var/lib/docker
    mount -t tmpfs -o size=6g tmpfs var/lib/docker
fi
pivot_root . .outside
cd /
umount --lazy /.outside
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root STORAGE="$2" bash /work/steps.sh'
trap clean EXIT
status=0
# Ends with this script, however that ends.
setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child bash -c "$inner" _ "$root" "$storage" || status=$?
printf '%5d s  together\n' $((SECONDS - began))
[ "$status" = 0 ] || say "FAILED"
exit "$status"
