#!/usr/bin/env bash
# Checks the files for running acetate (docker-compose.yml, deploy/, the commands in docs/running.md), and those for the
# repository's host (.github/).
#
#   tests/deploy/check.sh
#
# A check whose tool is missing is listed at the end as SKIPPED; with DEPLOY_CHECKS=all it is a failure. The tools:
# docker compose 2.24 or newer, promtool, kubectl, kubernetes-validate, cloudcoil-models-keda and PyYAML (from PyPI), and
# also shellcheck, systemd-analyze, actionlint, zizmor and check-jsonschema (from PyPI), and acetate itself
# (target/release/acetate, target/debug/acetate or $ACETATE).
# shellcheck disable=SC2317,SC2329  # functions are called by name, through check()
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
skipped=()

check() { # NAME COMMAND...
    if "${@:2}" >"$work/log" 2>&1; then
        echo "ok       $1"
    else
        echo "FAILED   $1"
        sed 's/^/         /' "$work/log"
        failed=1
    fi
}
skip() { skipped+=("SKIPPED: $1"); }
have() { command -v "$1" >/dev/null; }

compose=()
if docker compose version >/dev/null 2>&1; then compose=(docker compose)
elif have docker-compose && docker-compose version --short | grep -q '^2'; then compose=(docker-compose)
fi
resolve() { # ENV_FILE [VARIABLE=VALUE...] > compose's own reading of the file, every profile
    env -i PATH="$PATH" HOME="$HOME" "${@:2}" "${compose[@]}" --env-file "$1" --profile '*' config --format json
}
compose_files() {
    resolve /dev/null >"$work/compose.json"
    resolve deploy/env.example >"$work/example.json"
    diff "$work/compose.json" "$work/example.json" ||
        { echo "deploy/env.example does not give the defaults of docker-compose.yml"; return 1; }
    python3 tests/deploy/check.py compose "$work/compose.json"
}
compose_workers() {
    for count in 0 1 4; do
        resolve /dev/null "ACETATE_WORKERS=$count" >"$work/workers.json"
        python3 tests/deploy/check.py workers "$work/workers.json" "$count" || return 1
    done
}
compose_passwords() { # as deploy/env.example says to write them
    local plain
    # shellcheck disable=SC2016  # no variable, but a $ that has to stay
    plain='p@s/s:w%rd #?$x"y&=+'
    {
        printf "RABBITMQ_PASSWORD='%s'\nPOSTGRES_PASSWORD='%s'\n" "$plain" "$plain"
        local encoded=p%40s%2Fs%3Aw%25rd%20%23%3F%24x%22y%26%3D%2B
        printf 'RABBITMQ_PASSWORD_ENCODED=%s\nPOSTGRES_PASSWORD_ENCODED=%s\n' "$encoded" "$encoded"
    } >"$work/passwords.env"
    resolve "$work/passwords.env" >"$work/passwords.json"
    python3 tests/deploy/check.py passwords "$work/passwords.json" "$plain"
}
compose_gpus() { # by the lines at the top of the file, as .env
    sed -n 's/^#   \([A-Z_]*=\)/\1/p' deploy/compose.gpus.yml >"$work/gpus.env"
    resolve "$work/gpus.env" >"$work/gpus.json"
    python3 tests/deploy/check.py gpus "$work/gpus.json"
}
if [ ${#compose[@]} -gt 0 ]; then
    check "docker compose config" compose_files
    check "docker compose: the number of workers" compose_workers
    check "docker compose: passwords with any character" compose_passwords
    check "docker compose: several GPUs" compose_gpus
else skip "docker-compose.yml: no docker compose"; fi

dashboard_queries() {
    python3 tests/deploy/check.py queries >"$work/queries.yml"
    promtool check rules "$work/queries.yml"
}
if have promtool; then
    check "prometheus.yml and alerts.yml" promtool check config deploy/prometheus/prometheus.yml
    check "the alerts fire when they should" promtool test rules tests/deploy/alerts.test.yml
    check "the dashboard's queries are PromQL" dashboard_queries
else skip "Prometheus' files: no promtool"; fi

manifests() { # FOLDER [SECONDS that nodes wait]
    kubectl kustomize "$1" >"$work/${1##*/}.yaml"
    python3 tests/deploy/check.py kubernetes "$work/${1##*/}.yaml" "${@:2}"
}
objects() { # the built-in kinds
    python3 tests/deploy/check.py builtin "$work/$1.yaml" deploy/kubernetes/base/secret.example.yaml >"$work/$1-builtin.yaml"
    kubernetes-validate --strict "$work/$1-builtin.yaml"
}
if have kubectl && python3 -c 'import yaml' 2>/dev/null; then
    for folder in deploy/kubernetes/overlays/{cpu,gpu,gpu-jobs} tests/deploy/kubernetes/{short-grace,host-network}; do
        name=${folder##*/} nodes=()
        # What cluster-autoscaler waits for at most unless it is told otherwise.
        if [ "$name" = short-grace ]; then nodes=(600); fi
        check "kubernetes, $name" manifests "$folder" "${nodes[@]}"
        if have kubernetes-validate; then check "kubernetes, $name: the API's schemas" objects "$name"
        else skip "kubernetes, $name: the API's schemas: no kubernetes-validate"; fi
        if python3 -c 'import cloudcoil.models.keda' 2>/dev/null; then
            check "kubernetes, $name: KEDA's schemas" python3 tests/deploy/check.py keda "$work/$name.yaml"
        else skip "kubernetes, $name: KEDA's schemas: no cloudcoil-models-keda"; fi
    done
else skip "deploy/kubernetes: no kubectl, or no PyYAML"; fi

if have shellcheck; then check "shell scripts" shellcheck deploy/healthcheck deploy/sample.sh tests/deploy/*.sh tests/compose/*.sh tests/compose/stand-ins/{postgres,rabbitmq,garage,grafana,apt-get} scripts/test scripts/services scripts/archive scripts/bench-* .ci/run
else skip "shell scripts: no shellcheck"; fi

unit() { # without the program, which lies elsewhere here
    sed 's|^ExecStart=.*|ExecStart=/bin/true|' deploy/systemd/acetate-worker.service >"$work/acetate-worker.service"
    systemd-analyze verify "$work/acetate-worker.service"
}
if have systemd-analyze; then check "the systemd unit" unit
else skip "the systemd unit: no systemd-analyze"; fi

# The workflows run only on GitHub; here they are only checked. --offline keeps zizmor from asking GitHub about the
# actions.
if have actionlint; then check "the workflows" actionlint
else skip "the workflows in .github: no actionlint"; fi
if have zizmor; then check "the workflows give nothing away" zizmor --offline --quiet .github
else skip "the security of the workflows in .github: no zizmor"; fi
forge_files() {
    check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*.yml &&
        check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
}
if have check-jsonschema; then check "issue forms and dependabot.yml" forge_files
else skip "issue forms and dependabot.yml: no check-jsonschema"; fi

check "the health check of the images" python3 tests/deploy/check.py healthcheck
check "Dockerfiles" python3 tests/deploy/check.py dockerfiles
check "one Rust everywhere" python3 tests/deploy/check.py toolchain
check "settings exist" python3 tests/deploy/check.py settings
check "the dashboard and its metrics" python3 tests/deploy/check.py dashboard

acetate=${ACETATE:-}
for place in target/release/acetate target/debug/acetate; do
    if [ -z "$acetate" ] && [ -x "$place" ]; then acetate=$place; fi
done
if [ -n "$acetate" ]; then check "commands and flags exist" python3 tests/deploy/check.py commands "$acetate"
else skip "commands and flags: acetate is not built"; fi

if [ ${#skipped[@]} -gt 0 ]; then
    printf '%s\n' "${skipped[@]}"
    if [ "${DEPLOY_CHECKS:-}" = all ]; then failed=1; fi
fi
exit "$failed"
