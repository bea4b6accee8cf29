"""The benchmark's own servers: an S3 server, and for each run a virtual host and a schema that are deleted after it."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

import boto3
import kombu
import psycopg
from botocore.config import Config

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAACETATEBENCH", "AWS_SECRET_ACCESS_KEY": "bench0bench0bench0bench0",
        "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip
# Longer than any working operation takes.
LIMIT = 1800.0


class World:
    """What all runs share."""

    def __init__(self, acetate: Path):
        self.acetate = acetate
        self.postgres = os.environ["ACETATE_TEST_POSTGRES_URL"]
        self.amqp = os.environ["ACETATE_TEST_AMQP_URL"]
        self.api = urllib.parse.urlsplit(os.environ["ACETATE_TEST_RABBITMQ_API"])
        self.closing = contextlib.ExitStack()

    def __enter__(self) -> "World":
        self.folder = Path(self.closing.enter_context(tempfile.TemporaryDirectory(prefix="acetate-bench-")))
        for name in ["home", "s3/pictures", "s3/results"]:
            (self.folder / name).mkdir(parents=True)
        # None of the caller's own settings, neither variables nor files.
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(("ACETATE", "AWS_"))}
        self.environment |= KEYS | {"HOME": str(self.folder / "home"), "XDG_DATA_HOME": str(self.folder / "home"),
                                    "XDG_CONFIG_HOME": str(self.folder / "home")}  # fmt: skip
        self.database = self.closing.enter_context(psycopg.connect(self.postgres, autocommit=True))
        address = f"127.0.0.1:{free_port()}"
        self.endpoint = f"http://{address}"
        self.s3 = self.closing.enter_context(Process([os.environ["ACETATE_BENCH_S3"], address, str(self.folder / "s3")],
                                                     self.environment, self.folder / "s3.log"))  # fmt: skip
        self.objects = boto3.client("s3", endpoint_url=self.endpoint, config=Config(s3={"addressing_style": "path"}),
                                    aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"], region_name="us-east-1",
                                    aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"])  # fmt: skip
        until("the S3 server answers", lambda: answers(self.endpoint), 20)
        return self

    def __exit__(self, *failure) -> None:
        self.closing.__exit__(*failure)

    @contextlib.contextmanager
    def service(self, name: str):
        """A virtual host, a schema, and acetate's settings for them."""
        name = f"acetate_bench_{name}_{secrets.token_hex(4)}"
        self.ask_rabbit("PUT", f"vhosts/{name}")
        try:
            user = urllib.parse.unquote(urllib.parse.urlsplit(self.amqp).username or "guest")
            self.ask_rabbit("PUT", f"permissions/{name}/{user}", {"configure": ".*", "write": ".*", "read": ".*"})
            self.database.execute(f"CREATE SCHEMA {name}")
            try:
                yield Service(self, name)
            finally:
                self.database.execute(f"DROP SCHEMA {name} CASCADE")
        finally:
            self.ask_rabbit("DELETE", f"vhosts/{name}")

    def ask_rabbit(self, method: str, path: str, body: dict | None = None) -> None:
        asked = urllib.request.Request(f"{self.api.scheme}://{self.api.hostname}:{self.api.port}/api/{path}", method=method,
                                       data=json.dumps(body or {}).encode(), headers={"content-type": "application/json"})  # fmt: skip
        manager = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        manager.add_password(None, asked.full_url, urllib.parse.unquote(self.api.username or "guest"),
                             urllib.parse.unquote(self.api.password or "guest"))  # fmt: skip
        urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager)).open(asked, timeout=30).close()


class Service:
    """One run's own part of the servers."""

    def __init__(self, world: World, name: str):
        self.world, self.name = world, name
        base = world.amqp.split("://", 1)
        self.amqp = f"{base[0]}://{base[1].split('/', 1)[0]}/{name}"
        self.postgres = f"{world.postgres}{'&' if '?' in world.postgres else '?'}options=-csearch_path%3D{name}"
        self.http = f"127.0.0.1:{free_port()}"
        self.environment = world.environment | {
            "ACETATE__QUEUE__URL": self.amqp, "ACETATE__STATUS__URL": self.postgres,
            "ACETATE__STORE__URL": "s3://results/own", "ACETATE__STORE__ENDPOINT": world.endpoint,
            "ACETATE__STORE__INPUTS": "s3://pictures", "ACETATE__STORE__OUTPUTS": "s3://results",
            "ACETATE__HTTP__BIND": self.http, "ACETATE__QWEN_IMAGE__MODEL_PATH": str(ROOT / "models" / "layered-nano"),
            "ACETATE__QWEN_IMAGE__EDIT_MODEL_PATH": str(ROOT / "models" / "edit-nano"),
        }  # fmt: skip

    def acetate(self, *arguments: str) -> tuple[float, dict]:
        """Seconds of a command, and the JSON that it prints."""
        start = time.perf_counter()
        done = subprocess.run([self.world.acetate, *arguments, "--json"], env=self.environment, cwd=self.world.folder,
                              capture_output=True, text=True)  # fmt: skip
        seconds = time.perf_counter() - start
        if done.returncode != 0:
            raise SystemExit(f"acetate {' '.join(arguments)}\nexited with {done.returncode}:\n{done.stderr}")
        return seconds, json.loads(done.stdout)

    def submit(self, kind: str, rows: list[dict], *more: str) -> float:
        """Seconds of submitting a manifest of rows."""
        manifest = self.world.folder / "jobs.jsonl"
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
        seconds, report = self.acetate("submit", kind, "--from", str(manifest), "--batch", "bench", *more)
        if report["submitted"] != len(rows):
            raise SystemExit(f"of {len(rows)} rows, {report} were submitted")
        return seconds

    def worker(self) -> "Process":
        return Process([str(self.world.acetate), "worker"], self.environment, self.world.folder / "worker.log")

    def one(self, query: str):
        return self.world.database.execute(query.replace("jobs", f"{self.name}.jobs")).fetchone()

    def until_all_succeeded(self, jobs: int, worker: "Process") -> None:
        def done() -> bool:
            worker.must_run()
            ended, failed = self.one("SELECT count(*), count(*) FILTER (WHERE state <> 'succeeded')"
                                     " FROM jobs WHERE finished_at IS NOT NULL")  # fmt: skip
            if failed:
                raise SystemExit(f"{failed} jobs did not succeed\n{worker.told()}")
            return ended == jobs

        until(f"{jobs} jobs have succeeded", done, LIMIT, 0.5)

    def messages(self, queue: str) -> int:
        with kombu.Connection(self.amqp) as connection:
            return connection.default_channel.queue_declare(queue, passive=True).message_count


class Process:
    """A program that runs next to the benchmark until it is stopped."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path):
        self.log, self.command = log, command
        with log.open("w") as out:
            self.child = subprocess.Popen(command, env=environment, cwd=log.parent, stdout=out, stderr=out)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def must_run(self) -> None:
        if self.child.poll() is not None:
            raise SystemExit(f"{' '.join(self.command)}\nended with {self.child.returncode}:\n{self.told()}")

    def told(self) -> str:
        return self.log.read_text()[-4000:]

    def cpu(self) -> float:
        """Seconds of processor time so far, only of this process."""
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> float:
        """Seconds of processor time of the process and its children."""
        if self.child.returncode is not None:
            return 0.0
        self.child.send_signal(signal.SIGTERM)
        _, status, usage = os.wait4(self.child.pid, 0)
        self.child.returncode = os.waitstatus_to_exitcode(status)
        return usage.ru_utime + usage.ru_stime


class Others:
    """How much of the machine programs outside the benchmark used, as a share of all cores."""

    # Servers that work for us in processes that we did not start.
    SERVERS = {"postgres", "beam.smp"}

    def __init__(self, world: World):
        self.world, self.start = world, time.monotonic()
        self.before = self.read()

    def share(self, children: float = 0.0) -> float:
        """Since this was made; `children` are seconds of our own processes that have ended."""
        busy, known = (now - before for now, before in zip(self.read(), self.before))
        return max(0.0, busy - known - children) / (time.monotonic() - self.start) / os.cpu_count()

    def read(self) -> tuple[float, float]:
        """Seconds that all cores were busy, and those of this program, the S3 server and the other servers."""
        tick = os.sysconf("SC_CLK_TCK")
        numbers = [int(number) for number in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        busy = sum(numbers) - numbers[3] - numbers[4]
        known = 0
        for process in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                name, rest = process.read_text().split("(", 1)[1].rsplit(") ", 1)
                fields, ours = rest.split(), int(process.parent.name) in (os.getpid(), self.world.s3.child.pid)
                if ours or name in self.SERVERS:
                    # The time of a server's children that have ended is included in their parent's numbers.
                    known += sum(int(field) for field in (fields[11:13] if ours else fields[11:15]))
        return busy / tick, known / tick


def undisturbed(what: str, tries: int, run) -> dict:
    """The result of `run`, repeated while other programs used more than a tenth of the machine; the best of all tries."""
    best = None
    for _ in range(tries):
        found = run()
        if best is None or found["others"] < best["others"]:
            best = found
        if best["others"] < 0.1:
            break
        say(f"{what}: others had {100 * found['others']:.0f} % of the machine; once more")
    return best


def until(what: str, condition, limit: float, every: float = 0.1) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"after {limit:.0f} s it is still not so that {what}")
        time.sleep(every)


def answers(address: str) -> bool:
    at = urllib.parse.urlsplit(address)
    try:
        socket.create_connection((at.hostname, at.port), 1).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
