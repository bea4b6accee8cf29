"""`acetate jobs list` over a million rows."""

import json
import os
import subprocess
import time
from statistics import median

from service_world import Others, Service, World, say, undisturbed

REPEATS = 15
BIG = 100_000
# How the lists are asked for, and how many jobs each must show.
LISTS = {
    "empty": [],
    "all": [],
    "--state failed": ["--state", "failed"],
    "--state running": ["--state", "running"],
    "--kind edit": ["--kind", "edit"],
    "--batch, of 1,000 jobs": ["--batch", "batch-500"],
    "--batch, of 100,000 jobs": ["--batch", "big"],
    "--state failed --kind edit": ["--state", "failed", "--kind", "edit"],
    "--state failed --kind workflow: none": ["--state", "failed", "--kind", "workflow"],
    "--batch of 100,000 --state failed: none": ["--batch", "big", "--state", "failed"],
    "--after, in the middle": ["--after", "ID"],
}

# The templates are jobs that acetate itself has submitted, one of each kind; their rows are multiplied here. Edits and
# decompositions fail now and then, workflows never, and the first 100,000 jobs are one batch without a failure.
ROWS = """
INSERT INTO {schema}.jobs (id, fingerprint, kind, request, priority, batch, state, attempts, epoch, worker, lease_until,
                           available_at, quiet_until, created_at, started_at, updated_at, finished_at, error, manifest,
                           result_root, outputs)
SELECT id, md5(id) || md5(id || 'x'), kind, replace(template, template_id, id), 0, batch, state,
       CASE WHEN state = 'queued' THEN 0 ELSE 1 END, CASE WHEN state = 'queued' THEN 0 ELSE 1 END,
       CASE WHEN state = 'running' THEN 'somewhere:1' END, CASE WHEN state = 'running' THEN created + 90000000000 END,
       created, created + 90000000000, created,
       CASE WHEN state <> 'queued' THEN created + 1000 END, created + 2000,
       CASE WHEN state NOT IN ('queued', 'running') THEN created + 2000 END,
       CASE WHEN state = 'failed'
            THEN '{{"code":"input_not_found","class":"invalid","message":"there is no s3://pictures/scene.png"}}' END,
       CASE WHEN state = 'succeeded' THEN id || '/1/manifest.json' END,
       CASE WHEN state = 'succeeded' THEN 's3://results/list' END,
       CASE WHEN state = 'succeeded' THEN '[{{"name":"composite.png","role":"composite","width":640,"height":640,"size":'
            || (400000 + n % 1000) || ',"sha256":"' || md5(id) || md5(id) || '"}}]' END
  FROM (SELECT n, created, kind, template, template_id,
               substr(hex, 1, 8) || '-' || substr(hex, 9, 4) || '-7' || substr(noise, 1, 3) || '-8' || substr(noise, 4, 3)
                   || '-' || substr(noise, 7, 12) AS id,
               CASE WHEN n <= {big} THEN 'big' ELSE 'batch-' || n / 1000 END AS batch,
               CASE WHEN n <= {big} THEN 'succeeded'
                    WHEN n * 7919 % 1000 < 900 OR kind = 'workflow' THEN 'succeeded'
                    WHEN n * 7919 % 1000 < 950 THEN 'failed'
                    WHEN n * 7919 % 1000 < 960 THEN 'cancelled'
                    WHEN n * 7919 % 1000 < 999 THEN 'queued'
                    ELSE 'running' END AS state
          FROM (SELECT n, 1700000000000 + n * 50 AS created, lpad(to_hex(1700000000000 + n * 50), 12, '0') AS hex,
                       md5(n::text) AS noise,
                       (ARRAY['decompose', 'decompose', 'decompose', 'decompose', 'decompose', 'decompose', 'edit', 'edit',
                              'composite', 'workflow'])[1 + n % 10] AS kind
                  FROM generate_series(1::bigint, {rows}) AS n) AS numbered
          JOIN (SELECT kind, request AS template, id AS template_id FROM {schema}.templates) AS templates USING (kind)
       ) AS made
"""


def measure(world: World, options) -> dict:
    with world.service("list") as service:
        empty = undisturbed("list", options.tries, lambda: timed(service, []))
        fill(world, service, options.rows)
        middle = service.one(f"SELECT id FROM jobs ORDER BY created_at OFFSET {options.rows // 2} LIMIT 1")[0]
        lists: dict[str, dict] = {"empty": {"shown": 0, **empty}}
        for name, words in LISTS.items():
            if name == "empty":
                continue
            words = [middle if word == "ID" else word for word in words]
            shown = len(service.acetate("jobs", "list", *words)[1]["jobs"])
            if shown != (0 if name.endswith(": none") else 20) and options.rows >= 1_000_000:
                raise SystemExit(f"jobs list {words} shows {shown} jobs")
            lists[name] = {"shown": shown, **undisturbed("list", options.tries, lambda: timed(service, words))}
            say(f"list {name}: {1000 * median(lists[name]['commands']):.1f} ms")
        for found in lists.values():
            found |= {"command": median(found["commands"]), "plain": median(found["plain_commands"]),
                      "query": median(found["queries"])}  # fmt: skip
        return {"rows": options.rows, "lists": lists}


def timed(service: Service, words: list[str]) -> dict:
    others, cpu = Others(service.world), os.times()
    found = {"commands": [one(service, words) for _ in range(REPEATS)],
             "plain_commands": [one(service, words, plain(service)) for _ in range(REPEATS)],
             "queries": [query(service, words) for _ in range(REPEATS)]}  # fmt: skip
    ended = os.times()
    used = ended.children_user + ended.children_system - cpu.children_user - cpu.children_system
    return found | {"others": others.share(used)}


def fill(world: World, service: Service, rows: int) -> None:
    start, s = time.perf_counter(), service.name
    for kind, more in {"decompose": [], "composite": ["--input", "s3://pictures/b.png"], "edit": ["--instruction", "Make it blue"],
                       "workflow": ["--edit", "1=Make it blue"]}.items():  # fmt: skip
        service.acetate("submit", kind, "--input", "s3://pictures/scene.png", *more, "--output", "s3://results/list/")
    world.database.execute(f"CREATE TABLE {s}.templates AS SELECT * FROM {s}.jobs")
    world.database.execute(f"TRUNCATE {s}.jobs CASCADE")
    world.database.execute(ROWS.format(schema=s, rows=rows, big=min(BIG, rows // 10)))
    world.database.execute(f"VACUUM ANALYZE {s}.jobs")
    there = service.one("SELECT count(*) FROM jobs")[0]
    if there != rows:
        raise SystemExit(f"{there} rows were made instead of {rows}")
    say(f"list: {rows} rows in {time.perf_counter() - start:.0f} s")


def plain(service: Service) -> dict[str, str]:
    """Settings without TLS to Postgres, which is otherwise used where the server offers it."""
    return service.environment | {"ACETATE__STATUS__URL": service.postgres + "&sslmode=disable"}


def one(service: Service, words: list[str], environment: dict[str, str] | None = None) -> float:
    """Seconds of the whole command: the process, its connections to Postgres, the query, the table."""
    start = time.perf_counter()
    subprocess.run([service.world.acetate, "jobs", "list", *words], env=environment or service.environment, cwd=service.world.folder,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)  # fmt: skip
    return time.perf_counter() - start


def query(service: Service, words: list[str]) -> float:
    """Seconds of the query alone, as the command's own log has it."""
    environment = service.environment | {"RUST_LOG": "warn,sqlx::query=debug", "ACETATE__TELEMETRY__FORMAT": "json"}
    done = subprocess.run([service.world.acetate, "jobs", "list", *words], env=environment, cwd=service.world.folder,
                          capture_output=True, text=True, check=True)  # fmt: skip
    for line in done.stderr.splitlines():
        fields = json.loads(line).get("fields", {}) if line.startswith("{") else {}
        if "FROM jobs WHERE TRUE" in fields.get("summary", "") + fields.get("db.statement", ""):
            return fields["elapsed_secs"]
    raise SystemExit(f"the log of jobs list does not show its query:\n{done.stderr}")


def show(found: dict) -> None:
    print(f"\nacetate jobs list, {found['rows']} rows: medians of {REPEATS}, ms (goal: less than 50)")
    print(f"  {'':42}{'command':>9}{'without TLS':>13}{'query':>8}{'others':>9}")
    for name, it in found["lists"].items():
        columns = f"{1000 * it['command']:9.1f}{1000 * it['plain']:13.1f}{1000 * it['query']:8.1f}{100 * it['others']:7.1f} %"
        print(f"  {name if name != 'empty' else 'no row in the table':42}{columns}")
