"""How well `alpha: grow` changes outlines with the LoRA of `models/loras`, on layers that were not in its training.

    python scripts/bench/outlines.py [--acetate target/release/acetate] [--scenes 32] [--many]

Needs torch (tests/golden/requirements.txt) to draw the layers. Prints the table of docs/small-checkpoints.md: the soft
intersection over union of the edited layer's alpha and the true one, and of the shadow alone.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "train"))

import numpy as np
import outlines
import torch
import world
from PIL import Image
from unseen import SEED, picture

LORA = ROOT / "models" / "loras" / "edit-nano-outlines.safetensors"
FEW = ["--preset", "lightning"]
COLUMNS = {"without the LoRA": FEW, "with it": [*FEW, "--lora", LORA]}
MANY = {"with it, 50 steps, guidance 4": ["--preset", "exact", "--lora", LORA]}
GOAL = {"bigger": 0.85, "smaller": 0.7, "shadow": 0.9}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--acetate", type=Path, default=ROOT / "target" / "release" / "acetate")
    parser.add_argument("--scenes", type=int, default=32)
    parser.add_argument("--many", action="store_true", help="also 50 steps with guidance, which takes ten times as long")
    return parser.parse_args()


def edited(chosen, folder: Path, words: str, seed: int, flags: list) -> torch.Tensor:
    """The edited layer (4, h, w)."""
    command = [chosen.acetate.resolve(), "--quiet", "run", "edit", folder / "layer.png", "--instruction", words]
    command += ["--alpha", "grow", "--seed", str(seed), "--out", folder / "out", *flags]
    # There, it finds the small checkpoints.
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return torch.tensor(np.array(Image.open(folder / "out" / "edited.png"))).permute(2, 0, 1) / 255


def overlap(found: torch.Tensor, true: torch.Tensor) -> float:
    return float(outlines.overlap(found[None], true[None]))


def main():
    chosen = arguments()
    columns = {**COLUMNS, **(MANY if chosen.many else {})}
    failed = []
    print(f"| instruction | outline kept | {' | '.join(columns)} |")
    print("|---" * (2 + len(columns)) + "|")
    for number, task in enumerate(GOAL):
        generator = torch.Generator().manual_seed(SEED + number)
        made = outlines.make(world.sample(chosen.scenes, generator), generator, task)
        old, true = outlines.layers(made.before), outlines.layers(made.after)
        whole = {"outline kept": [overlap(a[3], b[3]) for a, b in zip(old, true)]}
        alone = {"outline kept": [0.0]}
        for name, flags in columns.items():
            for scene, (before, after) in enumerate(zip(old, true)):
                with tempfile.TemporaryDirectory() as folder:
                    picture(before).save(Path(folder) / "layer.png")
                    found = edited(chosen, Path(folder), made.words[scene], scene, flags)
                grown = [(layer[3] - before[3]).clamp(min=0) for layer in (found, after)]
                whole.setdefault(name, []).append(overlap(found[3], after[3]))
                alone.setdefault(name, []).append(overlap(*grown))
            print(f"{task}, {name}: the least {min(whole[name]):.3f}", file=sys.stderr, flush=True)
        for what, values in {task: whole, f"{task}, what is new": alone}.items():
            if what == task or task == "shadow":
                print(f"| {what} | {' | '.join(f'{sum(v) / len(v):.3f}' for v in values.values())} |", flush=True)
        if sum(whole["with it"]) < GOAL[task] * chosen.scenes:
            failed.append(f"{task}: the goal is {GOAL[task]}")
    sys.exit("\n".join(failed) or 0)


if __name__ == "__main__":
    main()
