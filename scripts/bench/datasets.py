"""Measures datasets going in and out of the service: 100,000 pictures inside Parquet files are submitted, and 10,000
results are exported to WebDataset, each beside a plain Python script that does the same, in turns. See
scripts/bench-datasets.

The service is RabbitMQ, Postgres and a folder as store. The script that submits reads the same files with pyarrow, checks
each picture with Pillow, writes it under its SHA-256, and inserts a row for it into Postgres, a thousand at a time. The
script that exports reads the pictures of each result and writes them with their JSON into archives with tarfile. Both do
less than acetate, which also checks the rows, writes messages for RabbitMQ, and verifies the pictures' hashes.
"""

import argparse
import contextlib
import io
import json
import os
import secrets
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.parse
import urllib.request
from hashlib import sha256
from pathlib import Path
from statistics import median

import numpy
import psycopg
import pyarrow
import pyarrow.parquet as parquet
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
ROWS_IN_FILE = 5000


def pictures(folder: Path, rows: int, side: int) -> int:
    """Parquet files as datasets writes them. Their pictures differ in their bytes; returns the size of all files."""
    rng = numpy.random.default_rng(1)
    base = []
    for _ in range(64):
        small = rng.integers(0, 256, (side // 8, side // 8, 3), numpy.uint8)
        whole = numpy.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC), numpy.int16)
        noisy = (whole + rng.normal(0, 6, whole.shape)).clip(0, 255).astype(numpy.uint8)
        encoded = io.BytesIO()
        Image.fromarray(noisy).save(encoded, "JPEG", quality=85)
        base.append(encoded.getvalue())
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    for start in range(0, rows, ROWS_IN_FILE):
        numbers = range(start, min(start + ROWS_IN_FILE, rows))
        # A comment after the first marker.
        images = [{"bytes": base[n % 64][:2] + b"\xff\xfe\x00\x0a" + b"%08d" % n + base[n % 64][2:], "path": f"{n:06}.jpg"}
                  for n in numbers]  # fmt: skip
        table = pyarrow.table({"image": pyarrow.array(images, kind), "text": [f"picture number {n}" for n in numbers],
                               "width": [side] * len(images)})  # fmt: skip
        parquet.write_table(table, folder / f"train-{start // ROWS_IN_FILE:05}.parquet", row_group_size=500)
    return sum(path.stat().st_size for path in folder.iterdir())


def timed(command: list, environment: dict, folder: Path) -> dict:
    """Seconds, processor seconds and the peak memory in MiB of a command and what it starts, and its output."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        child = subprocess.Popen([str(part) for part in command], env=environment, cwd=folder, stdout=out, stderr=error)
        peak = 0
        while True:
            # The kernel's own figure would have the memory of this process, which the child begins with.
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{child.pid}/status").read_text()
                peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))])
            done, status, usage = os.wait4(child.pid, os.WNOHANG)
            if done:
                break
            time.sleep(0.02)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        error.seek(0)
        if child.returncode != 0:
            raise SystemExit(f"{command} exited with {child.returncode}:\n{(out.read() + error.read()).decode()}")
        cpu = usage.ru_utime + usage.ru_stime
        return {"seconds": seconds, "cpu": cpu, "peak_mib": peak / 1024, "out": out.read().decode()}


def synced(run) -> dict:
    """The same, until everything is on the disk; what was written before does not count."""
    os.sync()
    found = run()
    start = time.perf_counter()
    os.sync()
    found["seconds"] += time.perf_counter() - start
    return found


class Service:
    """A virtual host, a schema and a folder of their own."""

    def __init__(self, acetate: Path, folder: Path):
        self.acetate, self.folder, self.name = acetate, folder, f"acetate_bench_{secrets.token_hex(4)}"
        self.postgres, amqp = os.environ["ACETATE_TEST_POSTGRES_URL"], os.environ["ACETATE_TEST_AMQP_URL"]
        self.api = urllib.parse.urlsplit(os.environ["ACETATE_TEST_RABBITMQ_API"])
        scheme, rest = amqp.split("://", 1)
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("ACETATE", "AWS_"))}
        self.environment = plain | {
            "ACETATE__QUEUE__URL": f"{scheme}://{rest.split('/', 1)[0]}/{self.name}",
            "ACETATE__STATUS__URL": f"{self.postgres}{'&' if '?' in self.postgres else '?'}options=-csearch_path%3D{self.name}",
            "ACETATE__STORE__URL": f"file://{folder}/store", "ACETATE__STORE__INPUTS": f"file://{folder}",
            "ACETATE__STORE__OUTPUTS": f"file://{folder}", "ACETATE__HTTP__BIND": "127.0.0.1:0", "HOME": str(folder),
            "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}  # fmt: skip

    def __enter__(self) -> "Service":
        self.rabbit("PUT", f"vhosts/{self.name}")
        user = urllib.parse.unquote(self.api.username or "guest")
        self.rabbit("PUT", f"permissions/{self.name}/{user}", {"configure": ".*", "write": ".*", "read": ".*"})
        with psycopg.connect(self.postgres, autocommit=True) as database:
            database.execute(f"CREATE SCHEMA {self.name}")
        return self

    def __exit__(self, *_) -> None:
        with psycopg.connect(self.postgres, autocommit=True) as database:
            database.execute(f"DROP SCHEMA {self.name} CASCADE")
        self.rabbit("DELETE", f"vhosts/{self.name}")

    def rabbit(self, method: str, path: str, body: dict | None = None) -> None:
        address = f"{self.api.scheme}://{self.api.hostname}:{self.api.port}/api/{path}"
        asked = urllib.request.Request(address, method=method, data=json.dumps(body or {}).encode(),
                                       headers={"content-type": "application/json"})  # fmt: skip
        manager = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        manager.add_password(None, address, self.api.username or "guest", self.api.password or "guest")
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager))
        opener.open(asked, timeout=30).close()

    def run(self, *arguments) -> dict:
        found = timed([self.acetate, *arguments, "--json"], self.environment, self.folder)
        return found | {"report": json.loads(found.pop("out"))}


def plain_submit(source: Path, store: Path, database: str, schema: str) -> None:
    store.mkdir()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE {schema}.plain (id TEXT PRIMARY KEY, row BIGINT, request JSONB, state TEXT)")
        number = 0
        for path in sorted(source.iterdir()):
            for batch in parquet.ParquetFile(path).iter_batches(1000):
                rows = []
                for row in batch.to_pylist():
                    number += 1
                    picture = row.pop("image")["bytes"]
                    Image.open(io.BytesIO(picture)).size  # reads the header, as acetate does
                    name = sha256(picture).hexdigest()
                    file = store / f"{name}.jpg"
                    if not file.exists():
                        part = file.with_suffix(".part")
                        with part.open("wb") as out:
                            out.write(picture)
                            out.flush()
                            os.fsync(out.fileno())
                        part.rename(file)
                    rows.append((name, number, json.dumps({"image": str(file), "meta": row}), "queued"))
                with connection.transaction(), connection.cursor() as cursor:
                    cursor.executemany(f"INSERT INTO {schema}.plain VALUES (%s, %s, %s, %s)", rows)


def plain_export(results: Path, out: Path) -> None:
    out.mkdir()
    shard, size, count = None, 0, 0
    for line in results.open():
        record = json.loads(line)
        if shard is None or size >= 256_000_000:
            if shard:
                shard.close()
            shard, size, count = tarfile.open(out / f"layers-{count:06}.tar", "w"), 0, count + 1
        picture = Path(urllib.parse.unquote(urllib.parse.urlsplit(record["composite"]).path)).read_bytes()
        for ending, content in [("composite.png", picture), ("json", json.dumps(record).encode())]:
            entry = tarfile.TarInfo(f"{record['row']:06}.{ending}")
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))
            size += len(content)
    shard.close()


def submitting(options, folder: Path, turns: list) -> dict:
    source = folder / "source"
    source.mkdir()
    size = pictures(source, options.rows, options.side)
    found = {"rows": options.rows, "bytes": size, "acetate": [], "python": []}
    for who in turns:
        with tempfile.TemporaryDirectory(dir=folder) as place, Service(options.acetate, Path(place)) as service:
            if who == "acetate":
                submit = ["submit", "composite", "--from", source, "--batch", "bench", "--output", f"file://{place}/out"]
                run = synced(lambda: service.run(*submit))
                if run["report"]["submitted"] != options.rows:
                    raise SystemExit(f"not all rows were submitted: {run}")
                again = service.run(*submit)
                if again["report"]["known"] != options.rows:
                    raise SystemExit(f"the same command again: {again}")
                run["again"] = again["seconds"]
            else:
                script = [sys.executable, __file__, "--plain-submit", source, f"{place}/store", service.postgres, service.name]
                run = synced(lambda: timed(script, dict(os.environ), folder))
        found[who].append(run)
        say(f"submit, {who}: {run['seconds']:.1f} s, {run['cpu']:.1f} s of CPU, {run['peak_mib']:.0f} MiB")
    shutil.rmtree(source)
    return found


def exporting(options, folder: Path, turns: list) -> dict:
    source = folder / "source"
    source.mkdir()
    pictures(source, options.results, options.result_side)
    found = {"results": options.results, "acetate": [], "python": [], "tar": []}
    with Service(options.acetate, folder) as service:
        service.run("submit", "composite", "--from", source, "--batch", "bench", "--output", f"file://{folder}/out")
        log = (folder / "worker.log").open("w")
        worker = subprocess.Popen([options.acetate, "worker"], env=service.environment, stdout=log, stderr=log)
        with contextlib.ExitStack() as closing:
            closing.callback(worker.wait)
            closing.callback(worker.terminate)
            count = f"SELECT count(*) FROM {service.name}.jobs WHERE state IN ('queued', 'running')"
            with psycopg.connect(service.postgres, autocommit=True) as database:
                while database.execute(count).fetchone()[0]:
                    if worker.poll() is not None:
                        raise SystemExit(f"the worker ended:\n{(folder / 'worker.log').read_text()[-4000:]}")
                    time.sleep(1)
        results = folder / "results.jsonl"
        subprocess.run([options.acetate, "jobs", "results", "--batch", "bench", "--out", results, "--quiet"],
                       env=service.environment, check=True)  # fmt: skip
        names = [urllib.parse.unquote(urllib.parse.urlsplit(json.loads(line)["composite"]).path) for line in results.open()]
        found["bytes"] = sum(os.path.getsize(name) for name in names)
        (folder / "names").write_text("".join(f"{name}\n" for name in names))
        commands = {
            "acetate": lambda out: service.run("jobs", "export", "--batch", "bench", "--as", "webdataset", "--out", out),
            "python": lambda out: timed([sys.executable, __file__, "--plain-export", results, out], dict(os.environ), folder),
            "tar": lambda out: timed(["tar", "-cPf", out, "-T", folder / "names"], dict(os.environ), folder),
        }
        # Once before, so that the files are in memory for all of them.
        for who in ["tar", *(part for turn in turns for part in ([turn, "tar"] if turn == "acetate" else [turn]))]:
            out = folder / "exported"
            run = synced(lambda: commands[who](out))
            if who == "acetate" and run["report"]["written"] != options.results:
                raise SystemExit(f"not all results were exported: {run}")
            shutil.rmtree(out) if out.is_dir() else out.unlink()
            found[who].append(run)
            rate = found["bytes"] / run["seconds"] / 1e6
            say(f"export, {who}: {run['seconds']:.1f} s, {rate:.0f} MB/s, {run['cpu']:.1f} s of CPU, {run['peak_mib']:.0f} MiB")
        found["tar"].pop(0)
    return found


def show(name: str, found: dict, others: list) -> None:
    print(f"\n{name}: {found.get('rows', found.get('results'))} rows, {found['bytes'] / 1e6:.0f} MB, medians")
    for who in ["acetate", *others]:
        middle = {key: median(run[key] for run in found[who]) for key in ["seconds", "cpu", "peak_mib"]}
        print(f"  {who:8} {middle['seconds']:7.1f} s  {found['bytes'] / middle['seconds'] / 1e6:6.0f} MB/s  "
              f"{middle['cpu']:6.1f} s of CPU  {middle['peak_mib']:5.0f} MiB")  # fmt: skip
    for who in others:
        ratios = sorted(other["seconds"] / own["seconds"] for own, other in zip(found["acetate"], found[who]))
        print(f"  acetate is {median(ratios):.2f} times as fast as {who} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--plain-submit"]:
        return plain_submit(Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
    if sys.argv[1:2] == ["--plain-export"]:
        return plain_export(Path(sys.argv[2]), Path(sys.argv[3]))
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--acetate", type=Path, default=ROOT / "target" / "release" / "acetate")
    parser.add_argument("--json", type=Path, default=ROOT / "target" / "bench" / "datasets.json")
    parser.add_argument("--only", choices=["submit", "export"], help="one of both parts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=224, help="pixels of a side of the pictures that are submitted")
    parser.add_argument("--results", type=int, default=10_000)
    parser.add_argument("--result-side", type=int, default=256, help="pixels of a side of the pictures that are exported")
    options = parser.parse_args()
    options.acetate = options.acetate.resolve()
    if not options.acetate.is_file():
        raise SystemExit(f"{options.acetate} is not there: cargo build --release, or --acetate PATH")
    say(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    # The order changes, so that neither is always the first.
    turns = [who for turn in range(options.rounds) for who in (["acetate", "python"], ["python", "acetate"])[turn % 2]]
    result = {"load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory(prefix="acetate-bench-", dir=ROOT / "target") as place:
        for name, part, others in [("submit", submitting, ["python"]), ("export", exporting, ["python", "tar"])]:
            if options.only in (None, name):
                folder = Path(place) / name
                folder.mkdir()
                result[name] = part(options, folder, turns)
                show(name, result[name], others)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
