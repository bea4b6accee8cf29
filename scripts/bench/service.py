"""Measures the service on this machine and prints medians and ratios. See scripts/bench-service."""

import argparse
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import kombu
import service_bulk
import service_composite
import service_engine
import service_list
from service_world import ROOT, World, say

PARTS = {"composite": service_composite, "bulk": service_bulk, "list": service_list, "overhead": service_engine}


def versions(world: World) -> dict[str, str]:
    with kombu.Connection(world.amqp) as connection:
        rabbit = connection.connection.server_properties["version"]
    acetate = subprocess.run([world.acetate, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    found = {"acetate": acetate, "postgres": world.database.execute("SHOW server_version").fetchone()[0],
             "rabbitmq": rabbit, "python": platform.python_version()}  # fmt: skip
    return found | {name: importlib.metadata.version(name) for name in ["celery", "boto3", "psycopg", "pillow"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--acetate", type=Path, default=ROOT / "target" / "release" / "acetate")
    parser.add_argument("--json", type=Path, default=ROOT / "target" / "bench" / "service.json")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3, help="of the composite jobs and of the bulk submission")
    parser.add_argument("--jobs", type=int, default=120, help="composite jobs of a round")
    parser.add_argument("--tries", type=int, default=5, help="of a run that others on the machine disturb")
    parser.add_argument("--processes", type=int, default=0, help="of Celery's pool; 0: as many as there are cores")
    parser.add_argument("--decompose-jobs", type=int, default=50)
    parser.add_argument("--steps", type=int, default=20, help="of a decomposition")
    parser.add_argument("--bulk", type=int, default=10_000, help="jobs submitted at once")
    parser.add_argument("--rows", type=int, default=1_000_000, help="in the table of the lists")
    options = parser.parse_args()
    options.acetate = options.acetate.resolve()
    if not options.acetate.is_file():
        raise SystemExit(f"{options.acetate} is not there: cargo build --release, or --acetate PATH")

    busy = os.getloadavg()[0]
    if busy > 0.5:
        say(f"the load is {busy:.1f}: something else is running, and these numbers will be too high")
    result = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "load_before": busy,
              "options": {key: str(value) for key, value in vars(options).items()}, "parts": {}}  # fmt: skip
    # Ends by way of what takes the schemas and virtual hosts away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    with World(options.acetate) as world:
        result["versions"] = versions(world)
        print(", ".join(f"{name} {version}" for name, version in result["versions"].items()))
        for name in options.only:
            load = os.getloadavg()[0]
            found = PARTS[name].measure(world, options)
            result["parts"][name] = found | {"load_before": load, "load_after": os.getloadavg()[0]}
            PARTS[name].show(found)
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nevery run is in {options.json}")


if __name__ == "__main__":
    main()
