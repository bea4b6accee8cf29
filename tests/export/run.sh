#!/usr/bin/env bash
# Reads the exports that the tests wrote (cargo test --test it export) with other programs, and loads the datasets that
# `acetate jobs export` wrote with the libraries that people use. Installs ImageMagick if that is
# allowed; uses Krita and LibreOffice if they are there.
set -euo pipefail
cd "$(dirname "$0")"

if ! command -v python3 >/dev/null; then
    echo "SKIPPED: exports read by other programs: no python3"
    exit 0
fi
if ! command -v identify >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get install -y --no-install-recommends imagemagick ||
        { apt-get update && apt-get install -y --no-install-recommends imagemagick; }; } >/dev/null 2>&1 || true
fi
./check.py "$@"
target=$(cd ../.. && pwd)/target
# With the readers that check.py installed.
"$target/export-readers/bin/python" ./check_datasets.py "$target/tmp/export-datasets"
