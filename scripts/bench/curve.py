#!/usr/bin/env python3
"""Quality over passes: samplers, steps, step caches and guidance cut-offs on both small checkpoints.

    cargo build --release -p qwen-image --example sampling_curve
    python scripts/bench/curve.py [--scenes 64] [--jobs 1] [--seconds N] [--only layered|edit] [--json FILE]
    python scripts/bench/curve.py --plot FILE.svg FILE.json...

Needs torch, numpy and safetensors; the plot also needs matplotlib. The scenes and edits are those of
scripts/train/evaluate.py, which were not in the training. Each job is a process with one thread.

For every point, the table has the mean and the worst distance to the converged solution in dB (all layers,
premultiplied, before they are rounded to bytes), the distance to Euler with 50 steps, and what evaluate.py measures.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "train"))
import metrics  # noqa: E402
import unseen  # noqa: E402

MODELS = {"layered": "layered-nano", "edit": "edit-nano"}
CONVERGED, EXACT = "converged", "euler 50"


def point(
    sampler: str, steps: int, cache: int = 0, until: float = 1.0, name: str | None = None, sigmas: list[float] | None = None
) -> dict:
    label = f"{sampler} {steps}" + (f", cache {cache}" if cache else "") + (f", guidance until {until:g}" if until < 1 else "")
    return {"name": name or label, "sampler": sampler, "steps": steps, "sigmas": sigmas, "step_cache": cache, "cfg_until": until}


POINTS = [
    point("abm2", 100, name=CONVERGED),
    *(point("euler", steps) for steps in (50, 30, 20)),
    *(point("abm2", steps) for steps in (30, 20, 16, 12, 10)),
    point("unipc", 20),
    *(point("euler", 50, cache) for cache in (1, 2)),
    point("abm2", 30, 1),
    point("abm2", 20, until=0.6),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--jobs", type=int, default=1, help="processes at the same time")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time, for each model; uses the finished cases")
    parser.add_argument("--only", choices=list(MODELS))
    parser.add_argument("--program", type=Path, default=HERE.parents[1] / "target/release/examples/sampling_curve")
    parser.add_argument("--models", type=Path, default=HERE.parents[1] / "models")
    parser.add_argument("--points", type=Path, help="a JSON list of points to measure beside the converged solution and Euler 50, instead of the usual ones")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="only draw what --json wrote")
    parser.add_argument("measured", type=Path, nargs="*")
    chosen = parser.parse_args()
    if chosen.plot:
        plot({kind: rows_ for file in chosen.measured for kind, rows_ in json.loads(file.read_text()).items()}, chosen.plot)
        return
    if chosen.points:
        POINTS[:] = [*POINTS[:2], *(point(**one) for one in json.loads(chosen.points.read_text()))]
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        samples = unseen.samples(chosen.scenes, Path(folder))
        for kind in [chosen.only] if chosen.only else MODELS:
            found[kind] = rows(kind, samples, chosen, Path(folder) / kind)
            print(table(found[kind]), flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n")

def rows(kind: str, samples: list, chosen, folder: Path) -> list[dict]:
    """One row of figures for each point."""
    folder.mkdir()
    cases = [case(kind, one, seed) for seed, one in enumerate(samples)]
    (folder / "cases.json").write_text(json.dumps({"model": str(chosen.models / MODELS[kind]), "cases": cases}))
    (folder / "points.json").write_text(json.dumps(POINTS))
    lines = run(chosen, folder)
    done = {index for index in range(len(samples)) if sum(line["case"] == index for line in lines) == len(POINTS)}
    print(f"\n{kind}: {len(done)} of {len(samples)} cases\n")
    result = []
    for point_ in POINTS:
        name = point_["name"]
        own = [line for line in lines if line["point"] == name and line["case"] in done]
        values, to_exact = [], []
        for line in own:
            frames = read(folder, name, line["case"])
            to_exact.append(psnr(frames, read(folder, EXACT, line["case"])))
            values.append(measured(kind, samples[line["case"]], frames))
        result.append({
            **point_,
            "passes": statistics.mean(line["passes"] for line in own),
            "to_converged": statistics.mean(line["to_converged"] for line in own),
            "to_converged_worst": min(line["to_converged"] for line in own),
            "to_exact": statistics.mean(to_exact), "to_exact_worst": min(to_exact),
            **metrics.gather(values),
        })  # fmt: skip
    return result


def case(kind: str, one, seed: int) -> dict:
    if kind == "edit":
        return {"image": str(one.shown), "instruction": one.words, "seed": seed}
    return {"image": str(one.scene), "layers": max(4, 1 + objects(one)), "seed": seed}


def objects(one) -> int:
    return int((one.layers[1:, 3].amax(dim=(1, 2)) > 0).sum())


def run(chosen, folder: Path) -> list[dict]:
    command = [chosen.program, folder / "cases.json", folder / "points.json", folder / "out"]
    environment = {**os.environ, "RAYON_NUM_THREADS": "1"}
    files = [folder / f"part-{part}.jsonl" for part in range(chosen.jobs)]
    processes = [
        subprocess.Popen([*command, f"{part}/{chosen.jobs}"], stdout=file.open("w"), env=environment)
        for part, file in enumerate(files)
    ]
    end = time.monotonic() + chosen.seconds
    for process in processes:
        try:
            process.wait(max(0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if any(process.returncode not in (0, -9) for process in processes):
        raise SystemExit("sampling_curve failed; its message is above")
    return [json.loads(line) for file in files for line in file.read_text().splitlines() if line.endswith("}")]


def read(folder: Path, name: str, index: int) -> torch.Tensor:
    """(frames, channels, h, w) in 0..1."""
    return load_file(folder / "out" / f"{name}-{index}.safetensors")["frames"].permute(0, 3, 1, 2)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    if a.shape[1] == 4:
        a, b = (torch.cat([x[:, :3] * x[:, 3:], x[:, 3:]], dim=1) for x in (a, b))
    return metrics.psnr(a, b)


def measured(kind: str, one, frames: torch.Tensor) -> dict[str, list[float]]:
    if kind == "layered":
        return metrics.decomposition(one.layers, frames[1:])
    seen = 1.0 if one.only < 0 else (one.sheets[one.only, 3:] > 0).float()
    return metrics.edit(one.before, one.after, frames[0] * seen, one.target, one.only < 0)


def table(found: list[dict]) -> str:
    extra = [("composite", "composite, dB", 2), ("iou", "alpha IoU", 3), ("edited", "edit, dB", 2), ("hue", "hue reached", 3)]
    extra = [column for column in extra if column[0] in found[0]]
    heads = ["", "passes", "to converged (worst), dB", "to Euler 50 (worst), dB", *(head for _, head, _ in extra)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in found:
        cells = [row["name"], f"{row['passes']:.1f}",
                 "-" if row["name"] == CONVERGED else f"{row['to_converged']:.1f} ({row['to_converged_worst']:.1f})",
                 "-" if row["name"] == EXACT else f"{row['to_exact']:.1f} ({row['to_exact_worst']:.1f})",
                 *(f"{row[key]:.{digits}f}" for key, _, digits in extra)]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(found: dict[str, list[dict]], file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "acetate"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(5.5 * len(found), 4.6), squeeze=False)
    series = {"Euler": ("euler", False), "Adams-Bashforth-Moulton": ("abm2", False), "UniPC": ("unipc", False), "Euler, step cache": ("euler", True), "Adams-Bashforth-Moulton, step cache": ("abm2", True)}
    for axis, (kind, rows_) in zip(axes[0], found.items()):
        for label, (sampler, cached) in series.items():
            own = [row for row in rows_ if row["sampler"] == sampler and bool(row["step_cache"]) == cached
                   and row["cfg_until"] == 1 and row["name"] != CONVERGED]  # fmt: skip
            own.sort(key=lambda row: row["passes"])
            line, = axis.plot([row["passes"] for row in own], [row["to_converged"] for row in own], marker="o", label=label)
            axis.plot([row["passes"] for row in own], [row["to_converged_worst"] for row in own], marker=".",
                      linestyle=":", color=line.get_color())  # fmt: skip
        axis.set(title={"layered": "Decompose", "edit": "Edit"}[kind], xlabel="passes of the transformer",
                 ylabel="distance to the converged solution, dB")  # fmt: skip
        axis.grid(alpha=0.3)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, title="mean; dotted: worst case", loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.16, 1, 1))
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
