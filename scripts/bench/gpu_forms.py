"""Measures the forms of weights, LoRAs and presets on an NVIDIA GPU, and prints the tables of docs/performance.md.

    cargo build --release -p qwen-image --features cuda --examples
    gpu_forms.py [--examples FOLDER] [--place DIR] [--only numerics,passes,budgets,edit,presets]

Checkpoints of the published sizes with random weights are made in the folder of --place, which needs 95 GiB; memory is
best. Results are also in results.json there, as soon as they are known.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GIB = 2**30
PARTS = ["numerics", "passes", "budgets", "edit", "presets"]
FORMS = ["q8_0", "q4_k_m", "fp8"]


class Measures:
    def __init__(self, arguments: argparse.Namespace):
        self.arguments, self.place, self.results = arguments, arguments.place, {}
        self.place.mkdir(parents=True, exist_ok=True)

    def checkpoint(self, name: str, *flags: str) -> Path:
        folder = self.place / name
        if not folder.exists():
            run([sys.executable, HERE / "gpu_checkpoint.py", folder, *flags])
        return folder

    def form(self, checkpoint: Path, form: str) -> Path:
        out = checkpoint.with_name(f"{checkpoint.name}-{form}.{'safetensors' if form == 'fp8' else 'gguf'}")
        if not out.exists():
            start = time.perf_counter()
            run([self.arguments.examples / "convert", checkpoint, form, out], capture=True)
            self.note(f"convert {checkpoint.name} {form}, s", round(time.perf_counter() - start, 1))
        return out

    def bench(self, checkpoint: Path, *flags) -> dict:
        done = run([self.arguments.examples / "bench", "--model", checkpoint, "--json", *flags], capture=True)
        return json.loads(done)

    def note(self, name: str, value) -> None:
        self.results[name] = value
        print(f"{name}: {value}", file=sys.stderr, flush=True)
        (self.place / "results.json").write_text(json.dumps(self.results, indent=1))

    def job(self, label: str, checkpoint: Path, part: str, *flags) -> None:
        """The lines of whole pipelines: seconds, peak memory on the GPU, and of what they consist."""
        report = self.bench(checkpoint, "--parts", part, *flags)
        for line in report["lines"]:
            stages = {stage["stage"]: round(stage["seconds"], 3) for stage in line.get("stages", [])}
            measured = {"s": round(line["milliseconds"] / 1e3, 3), "stages": stages}
            if line.get("peak_bytes"):
                measured["peak GiB"] = round(line["peak_bytes"] / GIB, 2)
            self.note(f"{label}: {line['name']}", measured)
        for text in report.get("notes", []):
            self.note(f"{label}: placement", text)

    def numerics(self) -> None:
        """The error of one pass, relative to the dense weights in float32."""
        few = self.checkpoint("few", "--blocks", "12", "--text-layers", "1", "--parts", "transformer,vae")
        torch.manual_seed(1)
        given, out = self.place / "given.safetensors", self.place / "out.safetensors"
        side = 32
        save_file(
            {
                "hidden": torch.randn(1, 6 * side * side, 64), "text": torch.randn(1, 300, 3584),
                "frames": torch.tensor([[side, side]] * 6), "latents": torch.randn(1, 8, 8, 16),
                "picture": torch.rand(1, 64, 64, 4) * 2 - 1,
            },
            given,
        )  # fmt: skip

        def velocity(dtype: str, *flags) -> torch.Tensor:
            out.unlink(missing_ok=True)
            self.bench(few, "--parts", "forward", "--dtype", dtype, "--tensors", given, "--out", out, *flags)
            return load_file(out)["velocity"].double()

        exact = velocity("f32")
        for form in ["dense", *FORMS]:
            flags = [] if form == "dense" else ["--transformer", self.form(few, form)]
            for dtype in ["f32", "bf16", "fp8"]:
                if (form, dtype) == ("dense", "f32"):
                    continue
                error = (velocity(dtype, *flags) - exact).norm() / exact.norm()
                self.note(f"relative error of a pass: {form}, products in {dtype}", float(f"{error:.3g}"))
        for file in self.place.glob("few*"):
            shutil.rmtree(file) if file.is_dir() else file.unlink()

    def full(self) -> Path:
        return self.checkpoint("full", "--blocks", str(self.arguments.blocks))

    def full_form(self, form: str) -> Path:
        """A file as large as the full transformer's, of the repeated blocks of a smaller one."""
        part = self.form(self.checkpoint("part", "--blocks", "4", "--text-layers", "1", "--parts", "transformer"), form)
        out = self.place / f"full-{form}{part.suffix}"
        if not out.exists():
            run([sys.executable, HERE / "repeat_blocks.py", part, out, self.arguments.blocks])
        return out

    def passes(self) -> None:
        full = self.full()
        for label, form, dtype in [
            ("bf16", None, "bf16"), ("fp8", None, "fp8"), ("q4_k_m", "q4_k_m", "bf16"),
            ("q4_k_m, fp8 products", "q4_k_m", "fp8"), ("fp8 file", "fp8", "bf16"),
            ("fp8 file, fp8 products", "fp8", "fp8"),
        ]:  # fmt: skip
            flags = [] if form is None else ["--transformer", self.full_form(form)]
            report = self.bench(full, "--parts", "transformer", "--dtype", dtype, *flags)
            for line in report["lines"]:
                peak = round(line.get("peak_bytes", 0) / GIB, 2)
                self.note(f"{label}: {line['name']}", {"ms": round(line["milliseconds"], 1), "peak GiB": peak})

    def budgets(self) -> None:
        full = self.full()
        for label, more in [("q4_k_m", []), ("fp8", ["--dtype", "fp8"]), ("bf16", None)]:
            file = None if more is None else self.full_form(label)
            flags = [] if file is None else ["--transformer", file, "--text-encoder-fp8", *more]
            for budget in [None, 23, 15, 11]:
                limit = [] if budget is None else ["--vram-budget", str(budget)]
                name = f"{label}, {'all memory' if budget is None else f'{budget} GiB'}"
                self.job(name, full, "decompose", "--steps", "8", *flags, *limit)
            if file is not None:
                # The place may be memory, which the next form needs on the host.
                file.unlink()

    def edit(self) -> None:
        # Both would not fit into memory.
        shutil.rmtree(self.place / "full", ignore_errors=True)
        edit = self.checkpoint("edit", "--edit", "--blocks", str(self.arguments.blocks))
        loras = [self.place / f"lora-{index}.safetensors" for index in range(2)]
        for seed, lora in enumerate(loras):
            if not lora.exists():
                blocks = str(self.arguments.blocks)
                make = [sys.executable, HERE / "gpu_checkpoint.py", lora, "--lora", "64", "--blocks", blocks]
                run([*make, "--seed", str(seed)])
        # The third change is between two that are in memory.
        flags = [flag for lora in [*loras, loras[0]] for flag in ["--lora", lora]]
        self.job("edit, lightning", edit, "edit", "--preset", "lightning", *flags)
        self.job("edit, lightning, fp8", edit, "edit", "--preset", "lightning", "--dtype", "fp8")
        self.job("edit, balanced", edit, "edit", "--preset", "balanced")

    def presets(self) -> None:
        full = self.full()
        for dtype in ["bf16", "fp8"]:
            for preset in ["fast", "balanced", "exact"]:
                self.job(f"{preset}, {dtype}", full, "decompose", "--preset", preset, "--dtype", dtype)


def run(words: list, capture: bool = False) -> str:
    words = [str(word) for word in words]
    done = subprocess.run(words, text=True, stdout=subprocess.PIPE if capture else None)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}")
    return done.stdout or ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", default=ROOT / "target/release/examples", type=Path)
    parser.add_argument("--place", default=Path("/dev/shm/acetate-bench"), type=Path)
    parser.add_argument("--blocks", default=60, type=int)
    parser.add_argument("--only", default=",".join(PARTS))
    arguments = parser.parse_args()
    measures = Measures(arguments)
    for part in arguments.only.split(","):
        if part not in PARTS:
            parser.error(f"--only: {part} is none of {', '.join(PARTS)}")
        getattr(measures, part)()


if __name__ == "__main__":
    main()
