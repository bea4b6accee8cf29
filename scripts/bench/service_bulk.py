"""Ten thousand jobs submitted from a manifest, with nobody working on them."""

from statistics import median

from service_world import World, say, until


def measure(world: World, options) -> dict:
    runs = []
    for number in range(options.rounds):
        with world.service("bulk") as service:
            rows = [{"images": [f"s3://pictures/{job % 997}/layer-{layer:02}.png" for layer in range(4)],
                     "output": f"s3://results/bulk/{job}/"} for job in range(options.bulk)]  # fmt: skip
            seconds = service.submit("composite", rows)
            queued = service.one("SELECT count(*) FROM jobs WHERE state = 'queued'")[0]
            if queued != options.bulk:
                raise SystemExit(f"{queued} rows are queued instead of {options.bulk}")
            # RabbitMQ counts a quorum queue's messages now and then.
            until("RabbitMQ has all messages", lambda: service.messages("acetate.composite") == options.bulk, 30, 0.5)
            again = service.acetate("submit", "composite", "--from", str(world.folder / "jobs.jsonl"), "--batch", "bench")
            if again[1]["known"] != options.bulk:
                raise SystemExit(f"the same manifest again: {again[1]}")
            runs.append({"seconds": seconds, "again": again[0]})
        say(f"bulk {number + 1}/{options.rounds}: {seconds:.2f} s")
    return {"jobs": options.bulk, "runs": runs, "seconds": median(run["seconds"] for run in runs),
            "again": median(run["again"] for run in runs)}  # fmt: skip


def show(found: dict) -> None:
    print(f"\n{found['jobs']} composite jobs submitted from a JSONL manifest: median of {len(found['runs'])}")
    print(f"  {found['seconds']:.2f} s, {found['jobs'] / found['seconds']:.0f} jobs/s (goal: 10,000 in less than 30 s)")
    print(f"  the same manifest once more, nothing new in it: {found['again']:.2f} s")
