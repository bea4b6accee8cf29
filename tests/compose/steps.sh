#!/usr/bin/env bash
# The steps of run.sh, which starts it as the first process of the namespaces, in the Debian with the engine. Prints
# each step with its seconds; after a failure, what the containers say.
# shellcheck disable=SC2317,SC2329  # functions are called by name, through step()
set -euo pipefail
cd /work/acetate

began=$SECONDS
step() { # NAME COMMAND...
    local start=$SECONDS log=/tmp/step.log
    # Not in a condition, where `set -e` would be off.
    set +e
    (set -e; "${@:2}") >"$log" 2>&1
    local status=$?
    set -e
    if [ "$status" = 0 ]; then
        printf '%5d s  %s\n' $((SECONDS - start)) "$1"
        sed -n 's/^NOTE: /         /p' "$log"
        return
    fi
    printf '%5d s  FAILED (%d): %s\n' $((SECONDS - start)) "$status" "$1"
    tail -n 40 "$log" | sed 's/^/         /'
    echo "-------- the containers"
    docker ps --all --format '{{.Names}}\t{{.Status}}' 2>&1 || true
    docker compose --ansi never --profile '*' logs --tail 15 front worker 2>&1 | cut -c 1-300 || true
    docker compose --ansi never --profile '*' logs --tail 5 rabbitmq postgres garage prometheus grafana 2>&1 |
        cut -c 1-300 || true
    echo "-------- the engine"
    tail -n 15 /tmp/dockerd.log | cut -c 1-300 || true
    exit 1
}
fail() { echo "$*"; exit 1; }
is() { # WHAT FOUND EXPECTED
    [ "$2" = "$3" ] || fail "$1: $2, not $3"
}
within() { # SECONDS COMMAND...: until it succeeds
    local end=$((SECONDS + $1))
    until "${@:2}"; do
        [ "$SECONDS" -lt "$end" ] || fail "not within $1 s: ${*:2}"
        sleep 1
    done
}

# ---- The engine, and the images that cannot be pulled

engine() {
    ip link set lo up
    mkdir -p /run/lock
    dockerd --cgroup-parent /acetate-compose-test --log-level warn >/tmp/dockerd.log 2>&1 &
    within 30 docker info
    # Waits for no pull: there is no network beyond this machine's namespaces.
    echo "NOTE: $(docker version --format 'Docker {{.Server.Version}}'), compose $(docker compose version --short)"
}
image() { # TARGET TAG
    docker build --quiet --target "$1" --tag "$2" /work/stand-ins
}
tag_of() { sed -n "s|^ *image: \($1:.*\)|\1|p" docker-compose.yml; }
images() {
    # The servers without the engine.
    tar --create --one-file-system --directory=/ --exclude=./work --exclude=./var/lib/docker --exclude=./tmp/'*' \
        --exclude=./usr/sbin/dockerd --exclude='./usr/bin/docker*' --exclude='./usr/bin/containerd*' \
        --exclude=./usr/libexec/docker . | docker import - acetate-test-base
    image postgres "$(tag_of postgres)"
    image rabbitmq "$(tag_of rabbitmq)"
    image "$STORAGE" "$(tag_of dxflrs/garage)"
    image prometheus "$(tag_of prom/prometheus)"
    image grafana "$(tag_of grafana/grafana)"
    image debian "$(sed -n 's/^FROM \(debian:.*\)/\1/p' deploy/Dockerfile)"
}

# ---- What the steps ask

set_env() { # NAME VALUE, in .env
    sed -i "/^$1=/d" .env
    printf '%s=%s\n' "$1" "$2" >>.env
}
# shellcheck disable=SC2016  # no variables: characters of passwords
settings() {
    # Passwords with the characters that are hard in URLs and in .env.
    cat >.env <<'END'
RABBITMQ_PASSWORD='p@s/s:w%rd #?$x"y&=+'
RABBITMQ_PASSWORD_ENCODED=p%40s%2Fs%3Aw%25rd%20%23%3F%24x%22y%26%3D%2B
POSTGRES_PASSWORD='p@s/s:w%rd #?$x"y&=+'
POSTGRES_PASSWORD_ENCODED=p%40s%2Fs%3Aw%25rd%20%23%3F%24x%22y%26%3D%2B
S3_SECRET_ACCESS_KEY='s3-secret/with+odd=$characters#'
COMPOSE_FILE=docker-compose.yml:/work/fewer-steps.yml
END
    # A program with debug assertions takes half a minute for the usual 50 steps.
    cat >/work/fewer-steps.yml <<'END'
services:
  worker:
    environment: {ACETATE__QWEN_IMAGE__NUM_INFERENCE_STEPS: 8}
END
}
workers() { docker compose ps --quiet worker | wc -l; }
jobs() { docker compose exec -T front acetate jobs "$@"; }
count() { jobs list --limit 1000 --json "$@" | python3 -c 'import json, sys; print(len(json.load(sys.stdin)["jobs"]))'; }
submit() { # BATCH COUNT
    mkdir -p /work/pictures
    cp examples/scene.png /work/pictures
    python3 -c 'import json, sys
for seed in range(int(sys.argv[1])): print(json.dumps({"image": "scene.png", "seed": seed}))' "$2" >"/work/pictures/$1.jsonl"
    docker compose run --rm -T --volume /work/pictures:/in:ro worker submit decompose --from "/in/$1.jsonl" --upload \
        --output s3://acetate/results/batches/ --batch "$1" --steps 4
}
all_succeeded() { # BATCH COUNT
    timeout 240 docker compose exec -T front acetate --quiet jobs watch --batch "$1" --json >/tmp/batch.json
    python3 - "$2" <<'END'
import json, sys
states = json.load(open("/tmp/batch.json"))["states"]
states = {state: jobs for state, jobs in states.items() if jobs}
assert states == {"succeeded": int(sys.argv[1])}, states
END
}
running_on() { # > the names of the workers that run jobs; each begins with the name of its host, a container's id
    docker compose exec -T postgres psql --username acetate --tuples-only --no-align \
        --command "SELECT worker FROM jobs WHERE state = 'running'"
}
busy_worker() { # > a container that runs a job
    local id names
    names=$(running_on)
    for id in $(docker compose ps --quiet worker); do
        case "$names" in *"${id:0:12}"*) echo "$id"; return ;; esac
    done
    return 1
}
one_runs() { [ "$(count --state running)" -gt 0 ]; }
pid_of() { docker inspect --format '{{.State.Pid}}' "$1"; }
healthy() { [ "$(docker inspect --format '{{.State.Health.Status}}' "$1")" = healthy ]; }
restarts() { docker inspect --format '{{.RestartCount}}' "$1"; }
result_of() { # NAME of a picture
    [ -s "out/$1/manifest.json" ] && [ -s "out/$1/layer-00.png" ] && [ -s "out/$1/layer-01.png" ] || fail "out/$1 has no layers"
    is "the owner of out/$1/manifest.json" "$(stat --format %u "out/$1/manifest.json")" 1000
}

# ---- The steps

up() { docker compose up --detach --wait; }
# `never` and `build`: it asked no registry, and built the image once.
built() {
    is "images of acetate" "$(docker images --quiet localhost/acetate:dev | wc -l)" 1
    is "workers" "$(workers)" 1
}
sample() { docker compose run --rm -T sample "$@"; }
first_sample() {
    sample
    result_of scene
}
front_answers() {
    curl --silent --show-error --fail http://127.0.0.1:8080/readyz
    is "without a token" "$(curl --silent --output /dev/null --write-out '%{http_code}' http://127.0.0.1:8080/v1/jobs)" 401
    curl --silent --fail --header 'Authorization: Bearer acetate-development-token' http://127.0.0.1:8080/v1/jobs >/dev/null
    curl --silent --fail http://127.0.0.1:8080/metrics >/tmp/front.metrics
    grep -q '^acetate_http_requests_total' /tmp/front.metrics || fail "the API server does not count requests"
    # The dashboard counts workers by this one.
    if grep -q '^acetate_queue_connected' /tmp/front.metrics; then fail "the API server counts as a worker"; fi
}
folders() {
    local service
    for service in worker front; do
        docker compose exec -T "$service" sh -c 'touch /tmp/x /var/lib/acetate/x && rm /var/lib/acetate/x'
    done
    docker compose exec -T worker acetate doctor
}
documented() { # the example for jobs of one's own
    sed -n 's/^\(docker compose run .*\)/\1/p' docs/running.md | grep -- --upload >/tmp/documented.sh
    sed -i 's/run --rm/run --rm -T/' /tmp/documented.sh
    [ -s /tmp/documented.sh ] || fail "docs/running.md has no such example"
    cat /tmp/documented.sh
    bash -e /tmp/documented.sh
}
scale() {
    set_env ACETATE_WORKERS 3
    up
    is workers "$(workers)" 3
}
sample_keeps_them() {
    sample house.png
    result_of house
    is workers "$(workers)" 3
}
observe() {
    docker compose --profile observe up --detach --wait
    is workers "$(workers)" 3
}
scraped() {
    curl --silent --fail 'http://127.0.0.1:9090/api/v1/query?query=sum+by+(job)(up)' | python3 -c '
import json, sys
up = {row["metric"]["job"]: int(row["value"][1]) for row in json.load(sys.stdin)["data"]["result"]}
expected = {"acetate": 3, "acetate-front": 1, "rabbitmq": 1, "rabbitmq-queues": 1, "prometheus": 1}
expected["garage"] = 1 if sys.argv[1] == "garage" else 0
print(up)
sys.exit(up != expected)' "$STORAGE"
}
alerts() {
    curl --silent --fail http://127.0.0.1:9090/api/v1/rules | python3 -c '
import json, sys
rules = [rule for group in json.load(sys.stdin)["data"]["groups"] for rule in group["rules"]]
bad = [rule["name"] for rule in rules if rule["health"] != "ok" or rule["state"] == "firing"]
print(len(rules), "alerts, not well or firing:", bad)
sys.exit(len(rules) < 8 or bad != [])'
}
killed() {
    local victim before
    submit killed 6
    within 30 busy_worker
    victim=$(busy_worker)
    before=$(restarts "$victim")
    kill -KILL "$(pid_of "$victim")"
    all_succeeded killed 6
    jobs list --limit 1000 --batch killed --json | python3 -c '
import json, sys
attempts = [job["attempts"] for job in json.load(sys.stdin)["jobs"]]
print("NOTE: attempts", sum(attempts), "for", len(attempts), "jobs")
sys.exit(max(attempts) < 2)' || fail "no attempt was lost"
    [ "$(restarts "$victim")" -gt "$before" ] || fail "the worker was not started again"
    within 60 healthy "$victim"
    is workers "$(workers)" 3
}
restarted() { # SERVER: stopped while jobs run, and started again
    local id took
    id=$(docker compose ps --quiet "$1")
    submit "$1" 6
    within 30 one_runs
    took=$SECONDS
    docker compose stop "$1"
    took=$((SECONDS - took))
    # 137 is what it would be if Docker had killed it.
    local code
    code=$(docker inspect --format '{{.State.ExitCode}}' "$id")
    [ "$code" != 137 ] || fail "$1 was killed after $took s"
    docker compose start "$1"
    within 120 healthy "$id"
    all_succeeded "$1" 6
    is workers "$(workers)" 3
    echo "NOTE: stopped in $took s"
}
none() { # no CPU workers, as beside GPUs
    set_env ACETATE_WORKERS 0
    up
    is workers "$(workers)" 0
    # The sample waits for a worker, starts none, and ends on SIGTERM, which a shell as process 1 would ignore.
    local before client
    before=$(count)
    docker compose run --rm -T sample house.png &
    client=$!
    within 60 more_than "$before"
    is workers "$(workers)" 0
    docker kill --signal TERM "$(sample_container)"
    within 30 no_sample
    wait "$client" || true
}
sample_container() { docker ps --quiet --filter label=com.docker.compose.service=sample; }
more_than() { [ "$(count)" -gt "$1" ]; }
no_sample() { [ -z "$(sample_container)" ]; }
down() { # with jobs in the queue
    submit kept 6
    docker compose --profile '*' down
    is containers "$(docker ps --all --quiet | wc -l)" 0
    is networks "$(docker network ls --quiet --filter name=acetate | wc -l)" 0
}
up_again() {
    set_env ACETATE_WORKERS 2
    up
    all_succeeded kept 6
    is workers "$(workers)" 2
}
ledger() {
    local all succeeded
    within 60 nothing_open
    all=$(count) succeeded=$(count --state succeeded)
    is "jobs that succeeded" "$succeeded" "$all"
    # Two samples and one that nobody waited for, one of the documentation, and the batches.
    is "jobs" "$all" $((3 + 1 + 6 + 3 * 6 + 6))
    echo "NOTE: jobs $all, succeeded $succeeded, lost 0"
}
nothing_open() { [ "$(count --state queued)" = 0 ] && [ "$(count --state running)" = 0 ]; }
deleted() {
    docker compose --profile '*' down --volumes
    is volumes "$(docker volume ls --quiet --filter name=acetate | wc -l)" 0
}

step "the engine starts" engine
step "the stand-in images" images
step "a file .env with hard passwords" settings
step "docker compose up --detach --wait (builds acetate's image)" up
step "one image, one worker" built
step "docker compose run --rm sample" first_sample
step "the API server: ready, asks for the token, counts requests and no worker" front_answers
step "acetate can write to its folders; doctor finds nothing" folders
step "the example of docs/running.md" documented
step "ACETATE_WORKERS=3, docker compose up" scale
step "the sample again: still 3 workers" sample_keeps_them
step "docker compose --profile observe up: still 3 workers" observe
step "Prometheus scrapes 3 workers and the API server" within 45 scraped
step "no alert fires" alerts
step "kill -9 of a worker with jobs: started again, 6 of 6 succeed" killed
step "RabbitMQ stops and starts: 6 of 6 succeed" restarted rabbitmq
step "Postgres stops and starts: 6 of 6 succeed" restarted postgres
step "the object store stops and starts: 6 of 6 succeed" restarted garage
step "ACETATE_WORKERS=0: none, and the sample starts none" none
step "--profile '*' down with jobs queued: nothing left" down
step "up again: the 6 jobs succeed" up_again
step "every job that was ever submitted has succeeded" ledger
step "--profile '*' down --volumes: nothing left" deleted
printf '%5d s  all steps\n' $((SECONDS - began))
