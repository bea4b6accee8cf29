#!/usr/bin/env bash
# Generates clients from the OpenAPI document, for Python (openapi-python-client) and TypeScript (openapi-typescript),
# checks their types, and uses the one for Python, and OpenAI's own client, against a real server.
#
#   tests/clients/generated.sh [PROGRAM]     default: $ACETATE, else target/debug/acetate
set -euo pipefail
cd "$(dirname "$0")/../.."

. tests/clients/support.sh
program "$@"
here=tests/clients/generated
python_venv generated-clients-venv "$here/requirements.txt" "generated clients" 11

folder=$(mktemp -d)
export HF_HUB_OFFLINE=1
start_server
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
