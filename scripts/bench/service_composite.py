"""Composite jobs per second: acetate and Celery, in turn, on the same servers and the same pictures."""

import json
import os
import subprocess
import sys
import time
import uuid
from statistics import median

import service_pictures as pictures
from service_world import HERE, Others, Process, Service, World, say, undisturbed

# Different stacks; jobs go round them.
STACKS = 8
CONTESTANTS = ["acetate", "celery", "celery_fast_png"]


def measure(world: World, options) -> dict:
    stacks = []
    for seed in range(STACKS):
        urls = []
        for index, layer in enumerate(pictures.stack(seed)):
            key = f"stack-{seed}/layer-{index:02}.png"
            world.objects.put_object(Bucket="pictures", Key=key, Body=layer)
            urls.append(f"s3://pictures/{key}")
        stacks.append(urls)
    contestants = {"acetate": acetate, "celery": celery, "celery_fast_png": lambda *a: celery(*a, compression=1)}
    runs: dict[str, list[dict]] = {name: [] for name in CONTESTANTS}
    for number in range(options.rounds):
        for name in CONTESTANTS:

            def run() -> dict:
                jobs = [{"id": str(uuid.uuid4()), "kind": "composite", "version": 1,
                         "input": {"images": stacks[index % STACKS]},
                         "output": {"prefix": f"s3://results/{name}/{number}/"}}
                        for index in range(options.jobs)]  # fmt: skip
                return contestants[name](world, jobs, options)

            runs[name].append(undisturbed(f"composite, {name}", options.tries, run))
        say(f"composite {number + 1}/{options.rounds}: "
            + ", ".join(f"{name} {done[-1]['rate']:.1f}/s" for name, done in runs.items()))  # fmt: skip
    keys = ["rate", "submit_seconds", "worker_cpu_ms", "s3_cpu_ms", "picture_bytes", "others"]
    medians = {name: {key: median(run[key] for run in done) for key in keys} for name, done in runs.items()}
    ours = [run["rate"] for run in runs["acetate"]]
    ratios = {name: median(rate / run["rate"] for rate, run in zip(ours, runs[name])) for name in CONTESTANTS[1:]}
    stages = {stage: median(run["stages"][stage] for run in runs["acetate"]) for stage in runs["acetate"][0]["stages"]}
    return {"jobs": options.jobs, "runs": runs, "medians": medians, "ratios": ratios, "stages": stages,
            "largest_difference": difference(world)}  # fmt: skip


def acetate(world: World, jobs: list[dict], _options) -> dict:
    with world.service("composite") as service:
        submitted = service.submit("composite", jobs)
        found = work(world, service, len(jobs), service.worker)
        manifests = [json.loads((world.folder / "s3" / url.removeprefix("s3://")).read_bytes())
                     for (url,) in world.database.execute(
                         f"SELECT rtrim(result_root, '/') || '/' || manifest FROM {service.name}.jobs")]  # fmt: skip
        stages = {timing["stage"] for manifest in manifests for timing in manifest["timings"]}
        found["stages"] = {stage: median(timing["seconds"] for manifest in manifests for timing in manifest["timings"]
                                         if timing["stage"] == stage) for stage in stages}  # fmt: skip
        return finish(found, submitted, [manifest["files"][0]["size"] for manifest in manifests])


def celery(world: World, jobs: list[dict], options, compression: int = 6) -> dict:
    with world.service("celery") as service:
        requests = world.folder / "celery.jsonl"
        requests.write_text("".join(json.dumps(job) + "\n" for job in jobs))
        environment = world.environment | {
            "BENCH_AMQP_URL": service.amqp, "BENCH_POSTGRES_URL": service.postgres, "BENCH_S3_ENDPOINT": world.endpoint,
            "BENCH_PNG_COMPRESSION": str(compression), "BENCH_REQUESTS": str(requests), "PYTHONPATH": str(HERE),
        }  # fmt: skip
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        start = time.perf_counter()
        subprocess.run([sys.executable, str(HERE / "service_celery.py")], env=environment, cwd=world.folder, check=True)
        submitted = time.perf_counter() - start
        command = [sys.executable, "-m", "celery", "--app", "service_celery", "worker", "--pool", "prefork",
                   "--concurrency", str(options.processes or os.cpu_count()), "--queues", "celery.composite",
                   "--without-gossip", "--without-mingle", "--loglevel", "WARNING"]  # fmt: skip
        found = work(world, service, len(jobs), lambda: Process(command, environment, world.folder / "celery.log"))
        sizes = [json.loads(outputs)[0]["size"]
                 for (outputs,) in world.database.execute(f"SELECT outputs FROM {service.name}.jobs")]  # fmt: skip
        return finish(found, submitted, sizes)


def work(world: World, service: Service, jobs: int, start) -> dict:
    """From the first claim to the last end, by the rows; connections and imports before the first claim do not count."""
    s3, others = world.s3.cpu(), Others(world)
    with start() as worker:
        service.until_all_succeeded(jobs, worker)
        cpu = worker.stop()
    others = others.share(cpu)
    seconds = service.one("SELECT max(finished_at) - min(started_at) FROM jobs")[0]
    seconds = seconds / 1000 if isinstance(seconds, int) else seconds.total_seconds()
    return {"rate": jobs / seconds, "seconds": seconds, "worker_cpu_ms": 1000 * cpu / jobs,
            "s3_cpu_ms": 1000 * (world.s3.cpu() - s3) / jobs, "others": others}  # fmt: skip


def finish(found: dict, submitted: float, sizes: list[int]) -> dict:
    return found | {"submit_seconds": submitted, "picture_bytes": sum(sizes) / len(sizes)}


def difference(world: World) -> int:
    """The largest difference of a channel between acetate's composite and Pillow's, where there is something to see."""
    largest = 0
    found: dict[str, dict[str, bytes]] = {}
    for name in ["acetate", "celery"]:
        found[name] = {}
        for manifest in (world.folder / "s3" / "results" / name / "0").rglob("manifest.json"):
            images = json.loads(manifest.read_bytes())["request"]["input"]["images"]
            found[name].setdefault(images[0], (manifest.parent / "composite.png").read_bytes())
    for images, encoded in found["acetate"].items():
        ours, theirs = pictures.pixels(encoded), pictures.pixels(found["celery"][images])
        largest = max(largest, int(abs(ours - theirs).max()))
    return largest


def show(found: dict) -> None:
    names = {"acetate": "acetate worker", "celery": "Celery, Pillow's default PNG",
             "celery_fast_png": "Celery, PNG level 1"}  # fmt: skip
    rounds = len(found["runs"]["acetate"])
    print(f"\ncomposite, {found['jobs']} jobs of four 640x640 layers: medians of {rounds} rounds")
    print(f"  {'':30}{'jobs/s':>8}{'worker CPU ms/job':>20}{'S3 CPU ms/job':>16}{'PNG kB':>9}{'submit s':>10}{'others':>9}")
    for key, name in names.items():
        it = found["medians"][key]
        print(f"  {name:30}{it['rate']:8.2f}{it['worker_cpu_ms']:20.1f}{it['s3_cpu_ms']:16.1f}"
              f"{it['picture_bytes'] / 1000:9.0f}{it['submit_seconds']:10.2f}{100 * it['others']:7.1f} %")  # fmt: skip
    for key, ratio in found["ratios"].items():
        print(f"  acetate / {names[key]}: {ratio:.2f}" + (" (goal: 3 or more)" if key == "celery" else ""))
    stages = ", ".join(f"{stage} {1000 * seconds:.1f}" for stage, seconds in found["stages"].items())
    print(f"  acetate's stages, ms: {stages}")
    print(f"  the same pixels, but for {found['largest_difference']} of 255")
