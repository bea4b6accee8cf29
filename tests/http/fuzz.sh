#!/usr/bin/env bash
# Fuzzes the server with its OpenAPI document: schemathesis calls everything in it with unusual values, for a limited
# time. No response may be a 5xx, and every response must be as documented. Needs the program, $ACETATE, and Python.
set -euo pipefail
cd "$(dirname "$0")/../.."

. tests/clients/support.sh
program
seconds=${FUZZ_SECONDS:-60}
python_venv fuzz-venv tests/http/fuzz-requirements.txt "the fuzzing of the API"

# The models do not exist, so that jobs fail at once and leave the processor to the requests.
folder=$(mktemp -d)
export ACETATE__HTTP__REQUESTS_PER_SECOND=0
export ACETATE__QWEN_IMAGE__MODEL_PATH=$folder/no-model ACETATE__QWEN_IMAGE__EDIT_MODEL_PATH=$folder/no-model
start_server

# One existing job, so that not every id is unknown.
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

# Checks the document itself against the specification.
"$venv/bin/python" - "${url}openapi.json" <<'PYTHON'
import json
import sys
import urllib.request

from openapi_spec_validator import OpenAPIV31SpecValidator

document = json.load(urllib.request.urlopen(sys.argv[1]))
OpenAPIV31SpecValidator(document).validate()
print(f"openapi.json: {len(document['paths'])} paths, valid by OpenAPI 3.1")
PYTHON

# schemathesis leaves its data in the current folder.
cd "$folder"
"$venv/bin/schemathesis" run "${url}openapi.json" --url "$url" \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
    --max-time "$seconds" --workers 1 --request-timeout 20 --exclude-path-regex '/events$' \
    --suppress-health-check all --no-color
