#!/usr/bin/env bash
# Tests the web UI in a real browser: Debian's Chromium, driven by Playwright, with a server and the small checkpoints.
#
#   tests/browser/run.sh             # all tests
#   PICTURES=docs/images tests/browser/run.sh    # also take the README's screenshots
#
# Needs Node 20, Chromium (installed if that is allowed, or $CHROMIUM) and acetate itself (target/debug/acetate, or
# $ACETATE).
set -euo pipefail
cd "$(dirname "$0")"

if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    echo "SKIPPED: the page in a browser: no node and npm"
    exit 0
fi
browser=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || true)}
if [ -z "$browser" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium fonts-dejavu-core; } >/dev/null 2>&1 || true
    browser=$(command -v chromium || true)
fi
if [ -z "$browser" ]; then
    echo "SKIPPED: the page in a browser: no chromium"
    exit 0
fi
if [ -n "${PICTURES:-}" ]; then
    mkdir -p "../../$PICTURES"
    PICTURES=$(cd "../../$PICTURES" && pwd)
    export PICTURES
fi

npm ci --silent --no-audit --no-fund
CHROMIUM=$browser node --test --test-concurrency=1 --test-reporter=spec ./*.test.mjs
