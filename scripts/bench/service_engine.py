"""The engine's share of the time while decompose jobs are queued."""

import json
import shutil
import subprocess
import urllib.request
from statistics import median

from service_world import ROOT, Others, World, say, until

# Stages that run on the engine's thread.
ENGINE = {"load", "caption", "text_encode", "vae_encode", "denoise", "vae_decode"}
# Runs without a service, for the time that the engine takes with nothing beside it.
ALONE = 5
PICTURE = ROOT / "examples" / "scene.png"


def measure(world: World, options) -> dict:
    world.objects.put_object(Bucket="pictures", Key="scene.png", Body=PICTURE.read_bytes())
    alone = median(by_itself(world, options.steps) for _ in range(ALONE))
    with world.service("engine") as service:
        rows = [{"image": "s3://pictures/scene.png", "output": f"s3://results/engine/{number}/", "seed": number}
                for number in range(options.decompose_jobs)]  # fmt: skip
        service.submit("decompose", rows, "--steps", str(options.steps))
        samples: list[tuple[float, float]] = []
        others = Others(world)
        with service.worker() as worker:

            def ended() -> bool:
                worker.must_run()
                sample = counters(service.http)
                if sample is not None and sample not in samples:
                    samples.append(sample)
                return service.one("SELECT count(*) FROM jobs WHERE finished_at IS NULL")[0] == 0

            until("the jobs have ended", ended, 3600, 1.0)
            service.until_all_succeeded(len(rows), worker)
            cpu = worker.stop()
        others = others.share(cpu)
        first, last = service.one("SELECT min(started_at), max(finished_at) FROM jobs")
        manifests = [json.loads((world.folder / "s3" / url.removeprefix("s3://")).read_bytes())
                     for (url,) in world.database.execute(
                         f"SELECT rtrim(result_root, '/') || '/' || manifest FROM {service.name}.jobs")]  # fmt: skip
        ends = [end for (end,) in world.database.execute(f"SELECT finished_at FROM {service.name}.jobs ORDER BY 1")]
    wall = (last - first) / 1000
    timings = [timing for manifest in manifests for timing in manifest["timings"]]
    stages = {}
    for name in {timing["stage"] for timing in timings}:
        stages[name] = median(timing["seconds"] for timing in timings if timing["stage"] == name)
    # The counters have whole seconds, and are set every ten.
    busy = [sample for sample in samples if sample[0] > 0]
    counted = busy[-1][1] - busy[0][1] if busy else 0.0
    by_counter = (busy[-1][0] - busy[0][0]) / counted if counted > 0 else None
    found = {
        "jobs": len(rows), "steps": options.steps, "wall": wall,
        "engine": on_engine(timings), "alone": alone,
        "by_counter": by_counter, "counter_seconds": counted,
        "between_ends": median(late - early for early, late in zip(ends, ends[1:])) / 1000,
        "worker_cpu": cpu, "others": others, "stages": stages, "samples": samples,
    }  # fmt: skip
    found["share"] = found["engine"] / wall
    say(f"overhead: engine {found['engine']:.1f} s of {wall:.1f} s")
    return found


def on_engine(timings: list[dict]) -> float:
    return sum(timing["seconds"] for timing in timings if timing["stage"] in ENGINE)


def by_itself(world: World, steps: int) -> float:
    """Seconds on the engine of one `acetate run`, without what it loads."""
    out = world.folder / "alone"
    shutil.rmtree(out, ignore_errors=True)
    model = ROOT / "models" / "layered-nano"
    subprocess.run([world.acetate, "run", "decompose", PICTURE, "--model", model, "--out", out, "--steps", str(steps),
                    "--seed", "1"], env=world.environment, cwd=world.folder, capture_output=True, check=True)  # fmt: skip
    timings = json.loads((out / "manifest.json").read_bytes())["timings"]
    return on_engine([timing for timing in timings if timing["stage"] != "load"])


def counters(at: str) -> tuple[float, float] | None:
    """Seconds that the engine was busy, and that the worker was up; nothing while the worker does not answer yet."""
    try:
        text = urllib.request.urlopen(f"http://{at}/metrics", timeout=5).read().decode()
    except OSError:
        return None
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    names = ["acetate_device_busy_seconds_total", "acetate_worker_wall_seconds_total"]
    return tuple(float(values[name]) for name in names) if all(name in values for name in names) else None


def show(found: dict) -> None:
    print(f"\noverhead, {found['jobs']} decompose jobs of {found['steps']} steps queued, one worker")
    print(f"  first claim to last end {found['wall']:.1f} s, CPU {found['worker_cpu']:.0f} s,"
          f" others {100 * found['others']:.1f} % of the machine")  # fmt: skip
    print(f"  engine by the manifests' stages {found['engine']:.1f} s: {100 * found['share']:.1f} % (goal: 97 or more)")
    if found["by_counter"] is not None:
        print(f"  engine by /metrics over {found['counter_seconds']:.0f} s: {100 * found['by_counter']:.1f} %")
    print(f"  a job every {found['between_ends']:.2f} s; {found['alone']:.2f} s on the engine of `acetate run`, without"
          f" a service: {100 * (found['between_ends'] / found['alone'] - 1):+.1f} %")  # fmt: skip
    stages = sorted(found["stages"].items(), key=lambda stage: -stage[1])
    print("  stages, median ms: " + ", ".join(f"{name} {1000 * seconds:.1f}" for name, seconds in stages))
