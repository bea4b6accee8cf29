"""The individual checks of check.sh; each prints what is wrong and where, and exits with 1 if anything is."""

import http.server
import json
import re
import subprocess
import sys
import threading
import tomllib
import urllib.parse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "deploy/grafana/dashboards/acetate.json"
HISTOGRAMS = {"acetate_queue_wait_seconds", "acetate_stage_seconds", "acetate_http_seconds"}
# The metrics of a worker, and of an API server at the end, with their labels.
METRICS = {
    "acetate_jobs_total": {"kind", "result"},
    "acetate_job_attempts_total": {"kind", "outcome"},
    "acetate_retries_total": {"code"},
    "acetate_queue_wait_seconds": {"kind"},
    "acetate_stage_seconds": {"stage", "kind"},
    "acetate_device_busy_seconds_total": {"device"},
    "acetate_device_usable": {"device"},
    "acetate_worker_wall_seconds_total": set(),
    "acetate_jobs_queued": {"kind"},
    "acetate_oldest_queued_seconds": set(),
    "acetate_model_resident": {"model", "device"},
    "acetate_queue_connected": set(),
    "acetate_queue_blocked": set(),
    "acetate_queue_refused": set(),
    "acetate_queue_full": {"queue"},
    "acetate_deliveries_unacked": set(),
    "acetate_dead_letters_total": {"code"},
    "acetate_http_requests_total": {"route", "method", "status"},
    "acetate_http_seconds": {"route"},
    "acetate_http_watchers": set(),
    "acetate_webhooks_total": {"outcome"},
}
# Metrics of Prometheus itself.
ADDED = {"instance", "job", "le"}
DEFAULTS = tomllib.loads((ROOT / "config/default.toml").read_text())


def compose(path):
    """Pinned or local images, ports on loopback alone, and for what stays up a health check, a restart policy and time to
    stop."""
    services = json.loads(Path(path).read_text())["services"]
    builders = {}
    for name, service in services.items():
        image = service["image"]
        if image.startswith("localhost/"):
            if service.get("pull_policy") != "never":
                yield f"{name}: {image} is built here, and pull_policy is {service.get('pull_policy')}, not never"
            builders.setdefault(image, [])
            if "build" in service:
                builders[image].append(name)
        elif not re.search(r":v?\d+\.\d+(\.\d+)?(-\w+)?$", image):
            yield f"{name}: {image} is not pinned to a version"
        for port in service.get("ports", []):
            if port.get("host_ip") != "127.0.0.1":
                yield f"{name}: port {port['target']} is published on {port.get('host_ip', 'every address')}"
        for volume in service.get("volumes", []):
            if volume["type"] == "bind":
                if not Path(volume["source"]).exists():
                    yield f"{name}: {volume['source']} is mounted and does not exist"
                if volume.get("bind", {}).get("selinux") != "z":
                    yield f"{name}: {volume['source']} is mounted without z: SELinux would keep it from the container"
        for place in service.get("tmpfs", []):
            if place.startswith("/var/lib/acetate") and "uid=10001" not in place:
                yield f"{name}: {place} is a tmpfs of root, which acetate cannot write to"
        if name == "sample":
            if not service.get("init"):
                yield "sample: its shell is process 1, and no signal ends it"
            continue
        if service.get("restart") != "unless-stopped":
            yield f"{name}: restart is {service.get('restart')}, not unless-stopped"
        if not image.startswith("localhost/") and "healthcheck" not in service:
            yield f"{name}: no health check"
        if name in ("rabbitmq", "postgres", "garage", "front", "prometheus") and seconds(service.get("stop_grace_period", "10s")) < 60:
            yield f"{name}: is killed {service.get('stop_grace_period', '10s')} after it was told to stop"
        if name.startswith("worker"):
            drain = int(service["environment"]["ACETATE__WORKER__DRAIN_SECONDS"])
            if not 600 <= drain < seconds(service["stop_grace_period"]):
                yield f"{name}: drains for {drain} s and is killed after {service['stop_grace_period']}"
    for image, names in builders.items():
        if len(names) != 1:
            yield f"{image} is built by {names}, not by one service"


def workers(path, count):
    """The number of CPU workers is what the variable says."""
    found = json.loads(Path(path).read_text())["services"]["worker"].get("scale")
    if found != int(count):
        yield f"ACETATE_WORKERS={count} gives {found} workers"


def passwords(path, plain):
    """The servers get the passwords as they are, and acetate's URLs hold the same ones."""
    services = json.loads(Path(path).read_text())["services"]
    for server, variable, setting in (("rabbitmq", "RABBITMQ_DEFAULT_PASS", "ACETATE__QUEUE__URL"),
                                      ("postgres", "POSTGRES_PASSWORD", "ACETATE__STATUS__URL")):
        # `config` doubles each $, so that its output can be read again.
        given = services[server]["environment"][variable].replace("$$", "$")
        if given != plain:
            yield f"{server} gets the password {given}, not {plain}"
        for name in ("front", "worker", "worker-gpu", "sample"):
            url = urllib.parse.urlsplit(services[name]["environment"][setting].replace("$$", "$"))
            if (url.hostname, urllib.parse.unquote(url.password or "")) != (server, plain):
                yield f"{name}: {setting} is {url.geturl()}"


def gpus(path):
    """A worker for each GPU, one service that builds their image, one name for Prometheus, no CPU worker."""
    services = json.loads(Path(path).read_text())["services"]
    taken = []
    for name, service in services.items():
        if name.startswith("worker-gpu"):
            [device] = service["deploy"]["resources"]["reservations"]["devices"]
            taken += device["device_ids"]
            aliases = (service["networks"]["default"] or {}).get("aliases", [])
            if name != "worker-gpu" and "worker-gpu" not in aliases:
                yield f"{name}: Prometheus does not find it"
    if taken != [str(number) for number in range(len(taken))] or len(taken) < 2:
        yield f"the GPUs of the workers are {taken}"
    if services["worker"].get("scale") != 0:
        yield "a CPU worker would take jobs as well"
    yield from compose(path)


def seconds(text):
    return sum(int(n) * {"h": 3600, "m": 60, "s": 1}[unit] for n, unit in re.findall(r"(\d+)([hms])", text))


# Neither autoscaler of nodes evicts a pod with these.
UNEVICTED = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}


def kubernetes(path, grace_of_nodes=None):
    """Checks what the schemas do not cover: namespaces, names that refer to each other, the grace period, the host's
    network."""
    objects = {}
    for item in documents(path):
        kind, meta = item["kind"], item["metadata"]
        objects.setdefault(kind, {})[meta["name"]] = item
        if kind != "Namespace" and meta.get("namespace") != "acetate":
            yield f"{kind} {meta['name']} is in namespace {meta.get('namespace')}, not acetate"
    if "ScaledJob" in objects:
        [worker] = [job["spec"]["jobTargetRef"]["template"] for job in objects["ScaledJob"].values()]
        if worker["spec"].get("restartPolicy") != "Never":
            yield "a worker that ends would be started again in the same Job"
    else:
        worker = objects["Deployment"]["acetate-worker"]["spec"]["template"]
        if "replicas" in objects["Deployment"]["acetate-worker"]["spec"]:
            yield "the worker's Deployment sets replicas, which are KEDA's"
    grace = worker["spec"]["terminationGracePeriodSeconds"]
    [config] = objects["ConfigMap"].values()
    drain = int(config["data"]["ACETATE__WORKER__DRAIN_SECONDS"])
    longest = DEFAULTS["worker"]["job_timeout_seconds"]
    if grace_of_nodes is None:
        if not longest <= drain < grace:
            yield f"a job may take {longest} s, a worker drains for {drain} s, and is killed after {grace} s"
    elif not drain < grace <= int(grace_of_nodes):
        yield f"a worker drains for {drain} s, and is killed after {grace} s or {grace_of_nodes} s"
    for name, value in UNEVICTED.items():
        if worker["metadata"]["annotations"].get(name) != value:
            yield f"a worker at work may be evicted: {name} is {worker['metadata']['annotations'].get(name)}"
    if worker["spec"].get("hostNetwork"):
        yield from host_network(worker, objects)
    secrets = {s["metadata"]["name"]: s["stringData"]
               for s in documents(ROOT / "deploy/kubernetes/base/secret.example.yaml")}
    templates = {name: deployment["spec"]["template"] for name, deployment in objects["Deployment"].items()}
    for name, deployment in objects["Deployment"].items():
        labels, selector = templates[name]["metadata"]["labels"], deployment["spec"]["selector"]["matchLabels"]
        if not selector.items() <= labels.items():
            yield f"{name}: selects {selector}, its pods have {labels}"
    templates["acetate-worker"] = worker
    for name, template in templates.items():
        for problem in pods(template, objects, secrets):
            yield f"{name}: {problem}"
    # Every selector must select the pods of one template.
    labels = [template["metadata"]["labels"] for template in templates.values()]
    selectors = [("Service", s["spec"]["selector"]) for s in objects["Service"].values()]
    selectors += [("PodDisruptionBudget", p["spec"]["selector"]["matchLabels"])
                  for p in objects["PodDisruptionBudget"].values()]
    for kind, selector in selectors:
        if sum(selector.items() <= of.items() for of in labels) != 1:
            yield f"a {kind} selects {selector}, the pods have {labels}"
    [scaled] = (objects.get("ScaledJob") or objects["ScaledObject"]).values()
    target = scaled["spec"].get("scaleTargetRef", {}).get("name")
    if target is not None and target not in objects["Deployment"]:
        yield f"the ScaledObject scales {target}, which is not here"
    if len(scaled["spec"]["triggers"]) != 4:
        yield f"{len(scaled['spec']['triggers'])} triggers for four kinds of jobs"
    for trigger in scaled["spec"]["triggers"]:
        if trigger["authenticationRef"]["name"] not in objects["TriggerAuthentication"]:
            yield f"trigger {trigger['name']}: no TriggerAuthentication {trigger['authenticationRef']['name']}"
        if trigger["metadata"]["queueName"] != f"acetate.{trigger['name']}":
            yield f"trigger {trigger['name']} looks at {trigger['metadata']['queueName']}"
    for auth in objects["TriggerAuthentication"].values():
        for ref in auth["spec"]["secretTargetRef"]:
            if ref["key"] not in secrets.get(ref["name"], {}):
                yield f"TriggerAuthentication {auth['metadata']['name']}: no {ref['key']} in Secret {ref['name']}"


def host_network(template, objects):
    pod = template["spec"]
    [container] = pod["containers"]
    if pod.get("dnsPolicy") != "ClusterFirstWithHostNet":
        yield f"in the host's network with dnsPolicy {pod.get('dnsPolicy')}, no name of the cluster is known"
    [port] = container["ports"]
    bind = {item["name"]: item["value"] for item in container.get("env", [])}.get("ACETATE__HTTP__BIND", "")
    scraped = template["metadata"]["annotations"]["prometheus.io/port"]
    if not str(port["containerPort"]) == str(port.get("hostPort")) == bind.rpartition(":")[2] == scraped:
        yield f"the worker listens on {bind}, its port is {port}, and {scraped} is scraped"
    strategy = objects["Deployment"]["acetate-worker"]["spec"]["strategy"]["rollingUpdate"]
    if strategy["maxSurge"] != 0:
        yield f"a new worker would wait for the port of the old one: {strategy}"
    policy = objects["Namespace"]["acetate"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    if policy != "privileged":
        yield f"the namespace's policy {policy} refuses the host's network"


def pods(template, objects, secrets):
    """The references inside a template of pods."""
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
    """Prints the objects that Kubernetes itself knows, and the Jobs that KEDA makes from a ScaledJob."""
    import yaml

    known = [item for path in paths for item in documents(path) if not item["apiVersion"].startswith("keda.sh")]
    known += [{"apiVersion": "batch/v1", "kind": "Job", "metadata": item["metadata"], "spec": item["spec"]["jobTargetRef"]}
              for path in paths for item in documents(path) if item["kind"] == "ScaledJob"]
    print(yaml.safe_dump_all(known), end="")
    return []


# Newer than the schemas.
NEWER = {"ScaledObject.spec.fallback.behavior"}


def keda(path):
    """KEDA's kinds, against the schemas that its resource definitions have. Fields that a schema does not know get lost
    on the way through it."""
    from cloudcoil.models.keda import v1alpha1

    for item in documents(path):
        if item["apiVersion"].startswith("keda.sh"):
            if item["kind"] == "ScaledJob":
                # `builtin` has the Job.
                item["spec"]["jobTargetRef"]["template"] = {"spec": {"containers": [{"name": "worker"}]}}
            model = getattr(v1alpha1, item["kind"])
            read = model.model_validate(item).model_dump(mode="json", by_alias=True, exclude_unset=True)
            for field in lost(item["spec"], read["spec"], f"{item['kind']}.spec"):
                if field not in NEWER:
                    yield f"{item['metadata']['name']}: {field} is no field"


def lost(given, read, place):
    if isinstance(given, dict):
        for key, value in given.items():
            if key not in read:
                yield f"{place}.{key}"
            else:
                yield from lost(value, read[key], f"{place}.{key}")
    elif isinstance(given, list):
        for number, value in enumerate(given):
            yield from lost(value, read[number], f"{place}[{number}]")


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
            # Files in tests/ are included only by tests.
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
    """Checks ACETATE__ variables, because the program refuses to start with one that is not a setting."""
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
    """Checks the health check with a real HTTP server: 200, 503, and no server."""
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
    """Checks each acetate command line in these files against --help."""
    for place, line in command_lines():
        words = line.split()
        path = []
        for word in words[1:3]:
            if not re.fullmatch(r"[a-z][a-z-]*", word):
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
            # `docker compose run` has the program as its entry point.
            line = re.sub(r"^docker compose run --rm (--volume \S+ )?worker\S* ", "acetate ", line.strip())
            command = re.match(r"(?:docker compose exec \S+ )?(acetate .*?)(?:\s#.*|\s[|>].*)?$", line)
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
