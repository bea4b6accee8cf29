"""The single checks of check.sh; each prints what is wrong, where, and ends with 1 if anything is."""

import http.server
import json
import re
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "deploy/grafana/dashboards/acetate.json"
HISTOGRAMS = {"acetate_queue_wait_seconds", "acetate_stage_seconds"}
# What a worker reports, and by which labels.
METRICS = {
    "acetate_jobs_total": {"kind", "result"},
    "acetate_job_attempts_total": {"kind", "outcome"},
    "acetate_retries_total": {"code"},
    "acetate_queue_wait_seconds": {"kind"},
    "acetate_stage_seconds": {"stage", "kind"},
    "acetate_device_busy_seconds_total": set(),
    "acetate_worker_wall_seconds_total": set(),
    "acetate_jobs_queued": {"kind"},
    "acetate_oldest_queued_seconds": set(),
    "acetate_model_resident": {"model"},
    "acetate_queue_connected": set(),
    "acetate_deliveries_unacked": set(),
    "acetate_dead_letters_total": {"code"},
}
# Of Prometheus itself.
ADDED = {"instance", "job", "le"}
DEFAULTS = tomllib.loads((ROOT / "config/default.toml").read_text())


def compose(path):
    """Pinned images, ports on loopback alone, a health check and a restart policy for whatever stays up."""
    for name, service in json.loads(Path(path).read_text())["services"].items():
        image = service["image"]
        if "build" not in service and not re.search(r":v?\d+\.\d+(\.\d+)?(-\w+)?$", image):
            yield f"{name}: {image} is not pinned to a version"
        for port in service.get("ports", []):
            if port.get("host_ip") != "127.0.0.1":
                yield f"{name}: port {port['target']} is published on {port.get('host_ip', 'every address')}"
        if name == "sample":
            continue
        if service.get("restart") != "unless-stopped":
            yield f"{name}: restart is {service.get('restart')}, not unless-stopped"
        if "build" not in service and "healthcheck" not in service:
            yield f"{name}: no health check"
        if name.startswith("worker"):
            drain = int(service["environment"]["ACETATE__WORKER__DRAIN_SECONDS"])
            if not 600 <= drain < seconds(service["stop_grace_period"]):
                yield f"{name}: drains for {drain} s and is killed after {service['stop_grace_period']}"
        for volume in service.get("volumes", []):
            source = Path(volume["source"]) if volume["type"] == "bind" else ROOT
            if source != ROOT / "out" and not source.exists():
                yield f"{name}: {source} is mounted and does not exist"


def seconds(text):
    return sum(int(n) * {"h": 3600, "m": 60, "s": 1}[unit] for n, unit in re.findall(r"(\d+)([hms])", text))


def kubernetes(path):
    """What the schemas do not know: namespaces, names that refer to one another, the grace period."""
    objects = {}
    for item in documents(path):
        kind, meta = item["kind"], item["metadata"]
        objects.setdefault(kind, {})[meta["name"]] = item
        if kind != "Namespace" and meta.get("namespace") != "acetate":
            yield f"{kind} {meta['name']} is in namespace {meta.get('namespace')}, not acetate"
    worker = objects["Deployment"]["acetate-worker"]
    grace = worker["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    [config] = objects["ConfigMap"].values()
    drain = int(config["data"]["ACETATE__WORKER__DRAIN_SECONDS"])
    longest = DEFAULTS["worker"]["job_timeout_seconds"]
    if not longest <= drain < grace:
        yield f"a job may take {longest} s, a worker drains for {drain} s, and is killed after {grace} s"
    if "replicas" in worker["spec"]:
        yield "the worker's Deployment sets replicas, which are KEDA's"
    secrets = {s["metadata"]["name"]: s["stringData"]
               for s in documents(ROOT / "deploy/kubernetes/base/secret.example.yaml")}
    for name, deployment in objects["Deployment"].items():
        for problem in pods(deployment, objects, secrets):
            yield f"{name}: {problem}"
    # Whatever selects pods selects those of one Deployment.
    labels = [d["spec"]["template"]["metadata"]["labels"] for d in objects["Deployment"].values()]
    selectors = [("Service", s["spec"]["selector"]) for s in objects["Service"].values()]
    selectors += [("PodDisruptionBudget", p["spec"]["selector"]["matchLabels"])
                  for p in objects["PodDisruptionBudget"].values()]
    for kind, selector in selectors:
        if sum(selector.items() <= of.items() for of in labels) != 1:
            yield f"a {kind} selects {selector}, the pods have {labels}"
    [scaled] = objects["ScaledObject"].values()
    if scaled["spec"]["scaleTargetRef"]["name"] not in objects["Deployment"]:
        yield f"the ScaledObject scales {scaled['spec']['scaleTargetRef']['name']}, which is not here"
    for trigger in scaled["spec"]["triggers"]:
        if trigger["authenticationRef"]["name"] not in objects["TriggerAuthentication"]:
            yield f"trigger {trigger['name']}: no TriggerAuthentication {trigger['authenticationRef']['name']}"
        if trigger["metadata"]["queueName"] != f"acetate.{trigger['name']}":
            yield f"trigger {trigger['name']} looks at {trigger['metadata']['queueName']}"
    for auth in objects["TriggerAuthentication"].values():
        for ref in auth["spec"]["secretTargetRef"]:
            if ref["key"] not in secrets.get(ref["name"], {}):
                yield f"TriggerAuthentication {auth['metadata']['name']}: no {ref['key']} in Secret {ref['name']}"


def pods(deployment, objects, secrets):
    template = deployment["spec"]["template"]
    labels, selector = template["metadata"]["labels"], deployment["spec"]["selector"]["matchLabels"]
    if not selector.items() <= labels.items():
        yield f"selects {selector}, its pods have {labels}"
    pod = template["spec"]
    [container] = pod["containers"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        if mount["name"] not in volumes:
            yield f"volume {mount['name']} is mounted and not declared"
    if ":" not in container["image"]:
        yield f"image {container['image']} has no tag"
    if pod["serviceAccountName"] not in objects["ServiceAccount"]:
        yield f"ServiceAccount {pod['serviceAccountName']} is nowhere defined"
    for source in container["envFrom"]:
        for kind, names in (("configMapRef", objects["ConfigMap"]), ("secretRef", secrets)):
            if kind in source and source[kind]["name"] not in names:
                yield f"{kind} {source[kind]['name']} is nowhere defined"


def builtin(*paths):
    """Prints the objects that Kubernetes itself knows."""
    import yaml

    known = [item for path in paths for item in documents(path) if not item["apiVersion"].startswith("keda.sh")]
    print(yaml.safe_dump_all(known), end="")
    return []


def documents(path):
    import yaml

    return [item for item in yaml.safe_load_all(Path(path).read_text()) if item]


def dockerfiles():
    """Pinned bases, an unprivileged user, and every path copied from the context is let through by .dockerignore."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for path in (ROOT / "deploy/Dockerfile", ROOT / "deploy/Dockerfile.cuda"):
        text = path.read_text()
        for image in re.findall(r"^FROM (\S+)", text, re.M):
            if not re.search(r":\D*\d", image):
                yield f"{path.name}: {image} is not pinned to a version"
        last = text[text.rindex("\nFROM "):]
        if not re.search(r"^USER [1-9]", last, re.M):
            yield f"{path.name}: runs as root, or as a user whose number Kubernetes cannot check"
        for source in re.findall(r"^COPY (?!--from)(?:--\S+ )*(\S+) \S+$", last, re.M):
            if source not in allowed:
                yield f"{path.name}: copies {source}, which .dockerignore holds back"
            if not (ROOT / source).exists():
                yield f"{path.name}: copies {source}, which does not exist"
    for path in (ROOT / "src").rglob("*.rs"):
        for source in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', path.read_text()):
            target = (path.parent / source).resolve().relative_to(ROOT)
            # What lies in tests/ is included by tests alone.
            if target.parts[0] not in [*allowed, "tests"] and str(target) not in allowed:
                yield f"{path.relative_to(ROOT)} includes {target}, which .dockerignore holds back"


def toolchain():
    """The images and the workflow build with the toolchain of rust-toolchain.toml, and the README names the oldest."""
    pinned = tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    for name in ("deploy/Dockerfile", "deploy/Dockerfile.cuda", ".github/workflows/ci.yml"):
        for version in re.findall(r"\brust:([\d.]+)", (ROOT / name).read_text()):
            if version != pinned:
                yield f"{name} has Rust {version}, rust-toolchain.toml {pinned}"
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())
    package = cargo["package"]["rust-version"]
    oldest = package if isinstance(package, str) else cargo["workspace"]["package"]["rust-version"]
    if f"Rust](https://rustup.rs) {oldest} or newer" not in (ROOT / "README.md").read_text():
        yield f"README.md does not say that Rust {oldest} or newer is needed, as Cargo.toml does"


def settings():
    """An ACETATE__ variable that is no setting stops the program at its start."""
    known = set(flatten(DEFAULTS))
    files = [ROOT / "docker-compose.yml", ROOT / "docs/running.md", *(ROOT / "deploy").rglob("*")]
    for path in (path for path in files if path.is_file()):
        for name in sorted(set(re.findall(r"ACETATE__([A-Z0-9_]+[A-Z0-9])", path.read_text()))):
            key = name.lower().replace("__", ".")
            if name != "SECTION__KEY" and key not in known:
                yield f"{path.relative_to(ROOT)}: ACETATE__{name}: config/default.toml has no {key}"
    sections = "|".join(key for key, value in DEFAULTS.items() if isinstance(value, dict))
    for key in re.findall(rf"`((?:{sections})\.[a-z_]+)`", (ROOT / "docs/running.md").read_text()):
        if key not in known:
            yield f"docs/running.md: config/default.toml has no {key}"


def flatten(table, prefix=""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def panels():
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def expressions():
    return [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]


def queries():
    """Prints the dashboard's queries as recording rules, which promtool can read."""
    print("groups:\n  - name: dashboard\n    rules:")
    for number, (title, expr) in enumerate(expressions()):
        plain = expr.replace("$__rate_interval", "1m").replace("$kind", ".*")
        print(f"      - record: panel_{number}  # {title}\n        expr: {json.dumps(plain)}")
    return []


def dashboard():
    """Only metrics and labels that exist, every metric shown, and no two panels over one another."""
    alerts = (ROOT / "deploy/prometheus/alerts.yml").read_text()
    shown = set()
    for title, expr in expressions() + [("alerts.yml", alerts)]:
        for name in re.findall(r"\bacetate_[a-z_]+", expr):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            if base in HISTOGRAMS and base == name:
                yield f"{title}: {name} is a histogram; it has _bucket, _sum and _count"
            if (base if base in HISTOGRAMS else name) not in METRICS:
                yield f"{title}: there is no metric {name}"
            if title != "alerts.yml":
                shown.add(base if base in HISTOGRAMS else name)
        if title == "alerts.yml" or "rabbitmq_" in expr:
            continue
        labels = set().union(*(METRICS.get(name, set()) for name in shown_in(expr))) | ADDED
        used = set(re.findall(r"[{,]\s*(\w+)\s*(?:=~|!~|!=|=)", expr))
        for group in re.findall(r"\bby \(([^)]*)\)", expr):
            used |= {label.strip() for label in group.split(",")}
        for label in sorted(used - labels):
            yield f"{title}: {label} is no label of {', '.join(sorted(shown_in(expr)))}"
    for name in sorted(METRICS.keys() - shown):
        yield f"no panel shows {name}"

    reported = "".join(path.read_text() for path in (ROOT / "src").rglob("*.rs"))
    if '"acetate_jobs_total"' in reported:
        for name in sorted(METRICS):
            if f'"{name}"' not in reported:
                yield f"the program reports no {name}"

    places = [panel["gridPos"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    for i, a in enumerate(places):
        if a["x"] + a["w"] > 24:
            yield f"a panel at {a} is wider than the page"
        for b in places[:i]:
            if a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]:
                yield f"panels at {a} and {b} overlap"


def shown_in(expr):
    names = set(re.findall(r"\bacetate_[a-z_]+", expr))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def healthcheck():
    """Against a real HTTP server: 200, 503, and nobody there."""
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/readyz" else 503)
            self.end_headers()
            self.wfile.write(b"the queue is away")

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script = ROOT / "deploy/healthcheck"
    cases = [("/readyz", 0, ""), ("/healthz", 1, "the queue is away")]
    for path, code, text in cases:
        done = subprocess.run([script, path, str(port)], capture_output=True, text=True)
        if done.returncode != code or text not in done.stdout:
            yield f"{path}: ended with {done.returncode} and {done.stdout!r} {done.stderr!r}"
    server.shutdown()
    server.server_close()
    done = subprocess.run([script, "/readyz", str(port)], capture_output=True, text=True)
    if done.returncode != 1 or "nothing listens" not in done.stdout:
        yield f"nobody there: ended with {done.returncode} and {done.stdout!r}"


def commands(acetate):
    """Each acetate command line that is written down here, against --help."""
    for place, line in command_lines():
        words = line.split()
        path = []
        for word in words[1:3]:
            if not re.fullmatch(r"[a-z]+", word):
                break
            path.append(word)
        done = subprocess.run([acetate, *path, "--help"], capture_output=True, text=True)
        if done.returncode != 0:
            yield f"{place}: there is no such command: {line}"
            continue
        for flag in sorted({word.split("=")[0] for word in words if re.match(r"--[a-z]", word)}):
            if not re.search(rf"{flag}(?![a-z-])", done.stdout):
                yield f"{place}: `acetate {' '.join(path)}` has no {flag}"


def command_lines():
    guide = (ROOT / "docs/running.md").read_text()
    alerts = (ROOT / "deploy/prometheus/alerts.yml").read_text()
    texts = [("docs/running.md", text) for text in re.findall(r"```sh\n(.*?)```", guide, re.S)]
    texts.append(("deploy/sample.sh", (ROOT / "deploy/sample.sh").read_text()))
    for place, text in texts:
        for line in text.replace("\\\n", " ").splitlines():
            command = re.match(r"(?:docker compose exec \S+ )?(acetate .*?)(?:\s#.*|\s[|>].*)?$", line.strip())
            if command:
                yield place, command[1]
    for place, text in (("docs/running.md", guide), ("deploy/prometheus/alerts.yml", alerts)):
        for inline in re.findall(r"`(?:docker compose exec \S+ )?(acetate [^`\n]+)`", text):
            yield place, inline


def main():
    name, *arguments = sys.argv[1:]
    wrong = list(globals()[name](*arguments))
    for line in wrong:
        print(line)
    sys.exit(1 if wrong else 0)


main()
