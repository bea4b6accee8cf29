#!/usr/bin/env bash
# Tests the Python client (clients/python) against the program: installs it into a virtual environment, checks it with ruff
# and mypy, runs its tests with real servers, and executes examples/python_client.ipynb.
#
#   tests/clients/python.sh [PROGRAM]     default: $ACETATE, else target/debug/acetate
set -euo pipefail
cd "$(dirname "$0")/../.."

acetate=$(realpath "${1:-${ACETATE:-target/debug/acetate}}")
client=clients/python
venv=$(realpath -m "${CARGO_TARGET_DIR:-target}")/python-client-venv

if ! command -v python3 >/dev/null || ! python3 -m venv --help >/dev/null 2>&1; then
    echo "SKIPPED: the Python client: python3 with venv is missing (Debian: apt install python3-venv)"
    exit 0
fi
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "SKIPPED: the Python client: $(python3 --version) is older than 3.10"
    exit 0
fi
if [ ! -x "$acetate" ]; then
    echo "tests/clients/python.sh: there is no program $acetate; build it, or name another one" >&2
    exit 1
fi
if ! cmp -s "$client/requirements-test.txt" "$venv/installed.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check -r "$client/requirements-test.txt"
    cp "$client/requirements-test.txt" "$venv/installed.txt"
fi
# As a user installs it, so that a file that the package lacks is noticed.
"$venv/bin/pip" install -q --disable-pip-version-check --force-reinstall --no-deps "./$client"

cd "$client"
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
# As in a user's program: the installed package has its types.
(cd / && "$venv/bin/mypy" --strict --cache-dir /dev/null -c 'from acetate import Client
size: tuple[int, int] = Client().decompose("a.png")[0].size')
ACETATE_BIN=$acetate "$venv/bin/python" -m pytest -q -p no:cacheprovider
