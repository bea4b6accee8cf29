#!/usr/bin/env bash
# Fuzzes the server with its OpenAPI document: schemathesis calls everything in it with unusual values, for a limited
# time. No response may be a 5xx, and every response must be as documented. Needs the program, $ACETATE, and Python.
set -euo pipefail
cd "$(dirname "$0")/../.."

acetate=${ACETATE:-target/debug/acetate}
seconds=${FUZZ_SECONDS:-60}
venv=$(realpath -m "${CARGO_TARGET_DIR:-target}")/fuzz-venv

if ! command -v python3 >/dev/null || ! python3 -m venv --help >/dev/null 2>&1; then
    echo "SKIPPED the fuzzing of the API: python3 with venv is missing (Debian: apt install python3-venv)"
    exit 0
fi
if ! cmp -s tests/http/fuzz-requirements.txt "$venv/installed.txt"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q -r tests/http/fuzz-requirements.txt
    cp tests/http/fuzz-requirements.txt "$venv/installed.txt"
fi

folder=$(mktemp -d)
log=$folder/log
server=
stop() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
    rm -rf "$folder"
}
trap stop EXIT

# Models that are not there: what is submitted fails at once, and the processor is left to the questions.
ACETATE__DATA_DIR=$folder/data ACETATE__HTTP__REQUESTS_PER_SECOND=0 \
ACETATE__QWEN_IMAGE__MODEL_PATH=$folder/no-model ACETATE__QWEN_IMAGE__EDIT_MODEL_PATH=$folder/no-model \
    "$acetate" --quiet serve --bind 127.0.0.1:0 >"$folder/said" 2>"$log" &
server=$!
for _ in $(seq 100); do
    grep -q 'acetate is at' "$folder/said" && break
    sleep 0.1
done
url=$(sed -n 's/^acetate is at //p' "$folder/said")
if [ -z "$url" ]; then
    echo "tests/http/fuzz.sh: the server did not start: $(cat "$log")" >&2
    exit 1
fi

# A job to ask for, so that not every id is one of nobody.
"$venv/bin/python" - "$url" examples/house.png <<'PYTHON'
import sys
import urllib.request

url, picture = sys.argv[1:]
head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n'
kind = b'\r\n--b\r\nContent-Disposition: form-data; name="kind"\r\n\r\ncomposite\r\n--b--\r\n'
with open(picture, "rb") as file:
    body = head + file.read() + kind
headers = {"Content-Type": "multipart/form-data; boundary=b"}
urllib.request.urlopen(urllib.request.Request(f"{url}v1/jobs", body, headers)).read()
PYTHON

# The document itself, by the specification.
"$venv/bin/python" - "${url}openapi.json" <<'PYTHON'
import json
import sys
import urllib.request

from openapi_spec_validator import OpenAPIV31SpecValidator

document = json.load(urllib.request.urlopen(sys.argv[1]))
OpenAPIV31SpecValidator(document).validate()
print(f"openapi.json: {len(document['paths'])} paths, valid by OpenAPI 3.1")
PYTHON

# It leaves what it has learned where it runs.
cd "$folder"
"$venv/bin/schemathesis" run "${url}openapi.json" --url "$url" \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
    --max-time "$seconds" --workers 1 --request-timeout 20 --exclude-path-regex '/events$' \
    --suppress-health-check all --no-color
