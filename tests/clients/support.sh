# Functions of the scripts that test the server with programs in Python. Sourced from the root of the repository.

# python_venv NAME REQUIREMENTS WHAT [MINOR]: sets $venv, a virtual environment in the target folder with exactly these
# packages. Without a Python that can make it (3.MINOR or newer), says that WHAT is skipped, and ends the script.
python_venv() {
    local minor=${4:-10}
    venv=$(realpath -m "${CARGO_TARGET_DIR:-target}")/$1
    if ! command -v python3 >/dev/null || ! python3 -m venv --help >/dev/null 2>&1; then
        echo "SKIPPED: $3: python3 with venv is missing (Debian: apt install python3-venv)"
        exit 0
    fi
    if ! python3 -c "import sys; sys.exit(sys.version_info < (3, $minor))"; then
        echo "SKIPPED: $3: $(python3 --version) is older than 3.$minor"
        exit 0
    fi
    if ! cmp -s "$2" "$venv/installed.txt"; then
        rm -rf "$venv"
        python3 -m venv "$venv"
        "$venv/bin/pip" install -q --disable-pip-version-check -r "$2"
        cp "$2" "$venv/installed.txt"
    fi
}

# start_server: starts $acetate with its data in $folder, which is removed with the server when the script ends, and
# sets $url. The script's variables ACETATE__... reach the server if they are exported.
start_server() {
    server=
    trap 'if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi; rm -rf "$folder"' EXIT
    ACETATE__DATA_DIR=$folder/data "$acetate" --quiet serve --bind 127.0.0.1:0 >"$folder/said" 2>"$folder/log" &
    server=$!
    for _ in $(seq 300); do
        grep -q 'acetate is at' "$folder/said" && break
        sleep 0.1
    done
    url=$(sed -n 's/^acetate is at //p' "$folder/said")
    if [ -z "$url" ]; then
        echo "$0: the server did not start: $(cat "$folder/log")" >&2
        exit 1
    fi
}

# program [PROGRAM]: sets $acetate, the program under test: the argument, else $ACETATE, else the debug build.
program() {
    acetate=$(realpath "${1:-${ACETATE:-target/debug/acetate}}")
    if [ ! -x "$acetate" ]; then
        echo "$0: there is no program $acetate; build it, or name another one" >&2
        exit 1
    fi
}
