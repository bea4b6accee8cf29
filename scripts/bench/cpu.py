"""Times `acetate run` against diffusers on the CPU, in turn, and prints medians and ratios. See scripts/bench-cpu."""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
IMAGE = ROOT / "tests" / "golden" / "pictures" / "house.png"
PROMPTS = {
    "decompose": "A red house with a green tree on a hill, the sun is in the sky.",
    "edit": "Change the color of the house to blue.",
}
# The stages of acetate's manifest that the pipeline call of diffusers has too.
PIPELINE_STAGES = ["text_encode", "vae_encode", "denoise", "vae_decode"]


class Bench:
    """One kind of job, both contestants, one set of parameters."""

    def __init__(self, kind: str, options: argparse.Namespace, scratch: Path):
        self.kind, self.options, self.scratch = kind, options, scratch
        self.model = options.models / ("layered" if kind == "decompose" else "edit")
        threads = str(options.threads)
        self.environment = os.environ | {
            "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads,
            "HF_HUB_OFFLINE": "1", "HOME": str(scratch / "home"), "XDG_DATA_HOME": str(scratch / "home"),
        }  # fmt: skip
        # Python may keep its compiled modules: the warm-up leaves them behind for the runs that count.
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        (scratch / "home").mkdir(exist_ok=True)

    def reference_command(self) -> list[str]:
        o = self.options
        return [sys.executable, str(HERE / "reference.py"), self.kind, str(IMAGE), "--prompt", PROMPTS[self.kind],
                "--model", str(self.model), "--out", str(self.scratch / "reference"), "--steps", str(o.steps),
                "--layers", str(o.layers), "--cfg-scale", str(o.cfg_scale), "--seed", str(o.seed),
                "--threads", str(o.threads)]  # fmt: skip

    def acetate_command(self, out: Path) -> list[str]:
        o = self.options
        words = {"decompose": ["--prompt", PROMPTS["decompose"], "--layers", str(o.layers), "--resolution", "128"],
                 "edit": ["--instruction", PROMPTS["edit"], "--output-size", "model"]}[self.kind]  # fmt: skip
        return [str(o.acetate), "run", self.kind, str(IMAGE), "--model", str(self.model), "--out", str(out), *words,
                "--steps", str(o.steps), "--cfg-scale", str(o.cfg_scale), "--seed", str(o.seed), "--device", "cpu",
                "--dtype", "f32", "--json"]  # fmt: skip

    def whole_process(self, command: list[str]) -> tuple[float, float, str]:
        """Seconds of wall time, MiB of peak resident memory, and what it printed."""
        with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as complaints:
            start = time.perf_counter()
            child = subprocess.Popen(command, env=self.environment, cwd=self.scratch, stdout=printed, stderr=complaints)
            _, status, usage = os.wait4(child.pid, 0)
            seconds = time.perf_counter() - start
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode != 0:
                complaints.seek(0)
                raise SystemExit(f"{' '.join(command)}\nexited with {child.returncode}:\n{complaints.read()}")
            printed.seek(0)
            # Linux counts in KiB, macOS in bytes.
            unit = 1024 if sys.platform != "darwin" else 1024 * 1024
            return seconds, usage.ru_maxrss / unit, printed.read()

    def acetate_once(self) -> dict:
        out = self.scratch / "acetate"
        shutil.rmtree(out, ignore_errors=True)
        seconds, memory, _ = self.whole_process(self.acetate_command(out))
        manifest = json.loads((out / "manifest.json").read_text())
        return {"wall": seconds, "memory": memory, "stages": {t["stage"]: t["seconds"] for t in manifest["timings"]}}

    def reference_once(self) -> dict:
        seconds, memory, printed = self.whole_process([*self.reference_command(), "--once"])
        told = json.loads(printed.splitlines()[-1])
        stages = {"import": told["import"], "load": told["load"], **told["parts"]}
        return {"wall": seconds, "memory": memory, "call": told["seconds"], "stages": stages}

    def run(self) -> dict[str, list[dict]]:
        """Runs of each contestant: acetate, diffusers as a whole process, and its pipeline call alone, warm."""
        warm = subprocess.Popen(self.reference_command(), env=self.environment, cwd=self.scratch, text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip
        try:
            if not warm.stdout.readline():
                raise SystemExit(f"{' '.join(self.reference_command())}\nended before it was ready")
            contestants = {"reference": self.reference_once, "call": lambda: self.reference_call(warm)}
            if not self.options.reference_only:
                contestants = {"acetate": self.acetate_once, **contestants}
            for contestant in contestants.values():
                contestant()  # warm-up: files are in the page cache from here on
            runs: dict[str, list[dict]] = {name: [] for name in contestants}
            for pair in range(self.options.pairs):
                for name, contestant in contestants.items():
                    runs[name].append(contestant())
                shown = ", ".join(f"{name} {done[-1]['wall']:.2f} s" for name, done in runs.items())
                print(f"{self.kind} {pair + 1}/{self.options.pairs}: {shown}", file=sys.stderr)
            return runs
        finally:
            warm.stdin.close()
            warm.wait()

    def reference_call(self, warm: subprocess.Popen) -> dict:
        warm.stdin.write("go\n")
        warm.stdin.flush()
        told = json.loads(warm.stdout.readline())
        return {"wall": told["seconds"], "stages": told["parts"]}


def summary(runs: dict[str, list[dict]]) -> dict:
    """Medians of each contestant, and acetate's share of diffusers'."""
    out = {}
    for name, done in runs.items():
        stages = sorted({stage for run in done for stage in run["stages"]})
        out[name] = {"wall": median(run["wall"] for run in done),
                     "stages": {stage: median(run["stages"].get(stage, 0.0) for run in done) for stage in stages}}  # fmt: skip
        if "memory" in done[0]:
            out[name]["memory"] = median(run["memory"] for run in done)
    if "acetate" in out:
        ours, whole, call = out["acetate"], out["reference"], out["call"]
        pipeline = median(sum(run["stages"].get(stage, 0.0) for stage in PIPELINE_STAGES) for run in runs["acetate"])
        out["ratios"] = {
            "whole process": ours["wall"] / whole["wall"],
            "whole process over the warm call alone": ours["wall"] / call["wall"],
            "pipeline stages over the warm call": pipeline / call["wall"],
            "peak memory": ours["memory"] / whole["memory"],
        }
    return out


def show(kind: str, found: dict) -> None:
    names = {"acetate": "acetate, process", "reference": "diffusers, process", "call": "diffusers, warm call"}
    print(f"\n{kind}: medians")
    print(f"  {'':24}{'wall s':>9}{'peak MiB':>10}")
    for key, name in names.items():
        if key in found:
            memory = f"{found[key]['memory']:10.0f}" if "memory" in found[key] else f"{'-':>10}"
            print(f"  {name:24}{found[key]['wall']:9.3f}{memory}")
    stages = {stage: None for key in names if key in found for stage in found[key]["stages"]}
    print(f"  {'stage, s':24}" + "".join(f"{name:>22}" for key, name in names.items() if key in found))
    for stage in stages:
        row = [found[key]["stages"].get(stage) for key in names if key in found]
        print(f"  {stage:24}" + "".join(f"{'-':>22}" if value is None else f"{value:22.3f}" for value in row))
    for ratio, value in found.get("ratios", {}).items():
        print(f"  acetate / diffusers, {ratio}: {value:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--acetate", type=Path, default=ROOT / "target" / "release" / "acetate")
    parser.add_argument("--models", type=Path, default=ROOT / "target" / "bench" / "nano")
    parser.add_argument("--json", type=Path, default=ROOT / "target" / "bench" / "cpu.json")
    parser.add_argument("--kinds", nargs="+", choices=list(PROMPTS), default=list(PROMPTS))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--cfg-scale", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--reference-only", action="store_true", help="time diffusers alone")
    options = parser.parse_args()
    options.acetate, options.models = options.acetate.resolve(), options.models.resolve()
    if not options.reference_only and not options.acetate.is_file():
        raise SystemExit(f"{options.acetate} is not there: cargo build --release, or --acetate PATH, or --reference-only")
    options.models.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, str(HERE / "nano.py"), str(options.models)], check=True)

    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"the load is {busy:.1f}: something else is running, and these numbers will be too high", file=sys.stderr)
    result = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "load_before": busy,
              "options": {key: str(value) for key, value in vars(options).items()}, "kinds": {}}  # fmt: skip
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as scratch:
            runs = Bench(kind, options, Path(scratch)).run()
        result["kinds"][kind] = {"runs": runs, "medians": summary(runs)}
        show(kind, result["kinds"][kind]["medians"])
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nevery run is in {options.json}")


if __name__ == "__main__":
    main()
