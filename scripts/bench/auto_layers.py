"""How often `layers: "auto"` finds as many layers as a scene has, on scenes that were not in the training of the small
checkpoints.

    python scripts/bench/auto_layers.py [--acetate target/release/acetate] [--scenes 64] [--preset lightning]

Needs torch (tests/golden/requirements.txt) to draw the scenes, which are those of docs/small-checkpoints.md: a
background and one to four objects.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "train"))

import draw
import torch
import world
from unseen import SEED, picture

GOAL = 0.85


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--acetate", type=Path, default=ROOT / "target" / "release" / "acetate")
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--preset", default="exact")
    return parser.parse_args()


def main():
    chosen = arguments()
    scenes = world.sample(chosen.scenes, torch.Generator().manual_seed(SEED))
    layers = draw.draw(scenes)
    found = Counter()
    with tempfile.TemporaryDirectory() as folder:
        pictures, out = Path(folder) / "pictures", Path(folder) / "out"
        pictures.mkdir()
        for index in range(chosen.scenes):
            picture(draw.composite(layers[index : index + 1])[0]).save(pictures / f"{index:02}.png")
        command = [chosen.acetate.resolve(), "--quiet", "run", "decompose", pictures, "--out", out]
        command += ["--layers", "auto", "--preset", chosen.preset, "--seed", "1"]
        # There, it finds the small checkpoints.
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        for index in range(chosen.scenes):
            manifest = json.loads((out / f"{index:02}" / "manifest.json").read_text())
            count = sum(file["role"] == "layer" for file in manifest["files"])
            wanted = 1 + scenes.count(index)
            found[wanted, count] += 1
            if count != wanted:
                print(f"scene {index}: {count} layers instead of {wanted}", file=sys.stderr)
    right = sum(number for (wanted, count), number in found.items() if wanted == count)
    print("layers  scenes  right")
    for wanted in sorted({wanted for wanted, _ in found}):
        of = sum(number for (there, _), number in found.items() if there == wanted)
        print(f"{wanted:6}  {of:6}  {found[wanted, wanted]:5}")
    print(f"{right} of {chosen.scenes} scenes have the right number of layers ({right / chosen.scenes:.1%})")
    if right < GOAL * chosen.scenes:
        sys.exit(f"the goal is {GOAL:.0%}")


if __name__ == "__main__":
    main()
