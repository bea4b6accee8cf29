"""Submits ten thousand jobs from a manifest while no worker is running."""

import os
from statistics import median

from service_world import Others, World, say, undisturbed, until


def measure(world: World, options) -> dict:
    runs = []
    for number in range(options.rounds):
        runs.append(undisturbed("bulk", options.tries, lambda: once(world, options.bulk)))
        say(f"bulk {number + 1}/{options.rounds}: {runs[-1]['seconds']:.2f} s")
    return {"jobs": options.bulk, "runs": runs, "seconds": median(run["seconds"] for run in runs),
            "again": median(run["again"] for run in runs), "others": median(run["others"] for run in runs)}  # fmt: skip


def once(world: World, jobs: int) -> dict:
    with world.service("bulk") as service:
        rows = [{"images": [f"s3://pictures/{job % 997}/layer-{layer:02}.png" for layer in range(4)],
                 "output": f"s3://results/bulk/{job}/"} for job in range(jobs)]  # fmt: skip
        others, cpu = Others(world), os.times()
        seconds = service.submit("composite", rows)
        ended = os.times()
        others = others.share(ended.children_user + ended.children_system - cpu.children_user - cpu.children_system)
        queued = service.one("SELECT count(*) FROM jobs WHERE state = 'queued'")[0]
        if queued != jobs:
            raise SystemExit(f"{queued} rows are queued instead of {jobs}")
        # A window of them is in RabbitMQ, which updates the count of a quorum queue's messages only now and then; the rest
        # waits in the outbox.
        dispatched = "SELECT count(*), count(*) FILTER (WHERE sent_at IS NOT NULL) FROM outbox WHERE topic = 'dispatch'"
        in_outbox, sent = service.one(dispatched)
        if in_outbox != jobs or sent == 0:
            raise SystemExit(f"{in_outbox} of {jobs} jobs have a message, and {sent} were sent")
        until("RabbitMQ has the window's messages", lambda: service.messages("acetate.composite") == sent, 30, 0.5)
        manifest = str(world.folder / "jobs.jsonl")
        again, report = service.acetate("submit", "composite", "--from", manifest, "--batch", "bench")
        if report["known"] != jobs:
            raise SystemExit(f"the same manifest again: {report}")
        return {"seconds": seconds, "again": again, "others": others}


def show(found: dict) -> None:
    print(f"\n{found['jobs']} composite jobs submitted from a JSONL manifest: median of {len(found['runs'])}")
    print(f"  {found['seconds']:.2f} s, {found['jobs'] / found['seconds']:.0f} jobs/s (goal: 10,000 in less than 30 s)")
    print(f"  the same manifest once more, nothing new in it: {found['again']:.2f} s")
