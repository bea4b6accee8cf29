#!/usr/bin/env bash
# Generates clients from the OpenAPI document, for Python (openapi-python-client) and TypeScript (openapi-typescript),
# checks their types, and uses the one for Python, and OpenAI's own client, against a real server.
#
#   tests/clients/generated.sh [PROGRAM]     default: $ACETATE, else target/debug/acetate
set -euo pipefail
cd "$(dirname "$0")/../.."

acetate=$(realpath "${1:-${ACETATE:-target/debug/acetate}}")
here=tests/clients/generated
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
venv=$target/generated-clients-venv

if [ ! -x "$acetate" ]; then
    echo "tests/clients/generated.sh: there is no program $acetate; build it, or name another one" >&2
    exit 1
fi
if ! command -v python3 >/dev/null || ! python3 -m venv --help >/dev/null 2>&1; then
    echo "SKIPPED: generated clients: python3 with venv is missing (Debian: apt install python3-venv)"
    exit 0
fi
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "SKIPPED: generated clients: $(python3 --version) is older than 3.11"
    exit 0
fi
if ! cmp -s "$here/requirements.txt" "$venv/installed.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/installed.txt"
fi

folder=$(mktemp -d)
server=
stop() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
    rm -rf "$folder"
}
trap stop EXIT

ACETATE__DATA_DIR=$folder/data HF_HUB_OFFLINE=1 \
    "$acetate" --quiet serve --bind 127.0.0.1:0 >"$folder/said" 2>"$folder/log" &
server=$!
for _ in $(seq 300); do
    grep -q 'acetate is at' "$folder/said" && break
    sleep 0.1
done
url=$(sed -n 's/^acetate is at //p' "$folder/said")
if [ -z "$url" ]; then
    echo "tests/clients/generated.sh: the server did not start: $(cat "$folder/log")" >&2
    exit 1
fi
"$venv/bin/python" -c 'import sys, urllib.request; urllib.request.urlretrieve(*sys.argv[1:])' \
    "${url}openapi.json" "$folder/openapi.json"

# A warning is a part of the document that the generator leaves out.
echo "Python"
(cd "$folder" && "$venv/bin/openapi-python-client" generate --path openapi.json --config "$OLDPWD/$here/python.yml" \
    --meta none --output-path acetate_client --fail-on-warning)
PYTHONPATH=$folder "$venv/bin/mypy" --strict --cache-dir "$folder/mypy" --explicit-package-bases \
    "$folder/acetate_client" "$here/use.py"
PYTHONPATH=$folder "$venv/bin/python" "$here/use.py" "$url" examples/scene.png
echo "OpenAI's client"
"$venv/bin/python" "$here/openai_edits.py" "$acetate" examples/scene.png

if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    echo "SKIPPED: the generated TypeScript client: no node and npm"
    exit 0
fi
echo "TypeScript"
cp "$here/package.json" "$here/package-lock.json" "$here/use.ts" "$here/tsconfig.json" "$folder"
cd "$folder"
npm ci --silent --no-audit --no-fund
npx --no-install openapi-typescript openapi.json --output schema.d.ts
npx --no-install tsc --project tsconfig.json
node use.js "$url" "$OLDPWD/examples/scene.png"
