#!/usr/bin/env bash
# Tests the Python client (clients/python) against the program: installs it into a virtual environment, checks it with
# ruff and mypy, runs its tests with real servers, and executes examples/python_client.ipynb.
#
#   tests/clients/python.sh [PROGRAM]     default: $ACETATE, else target/debug/acetate
set -euo pipefail
cd "$(dirname "$0")/../.."

. tests/clients/support.sh
program "$@"
client=clients/python
python_venv python-client-venv "$client/requirements-test.txt" "the Python client"
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
