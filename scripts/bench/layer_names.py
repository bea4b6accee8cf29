"""How often the names of layers are right, on scenes that were not in the training of the small checkpoints.

    python scripts/bench/layer_names.py [--acetate target/release/acetate] [--scenes 64] [--preset lightning]

Needs torch (tests/golden/requirements.txt) to draw the scenes, which are those of docs/small-checkpoints.md. The true
name of a layer is that of the object that it shows most of; a layer of several objects, or of none, has no true name.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "train"))

import draw
import torch
import world
from unseen import SEED, picture

LIKE = 0.5  # the least overlap of a layer with its object, soft intersection over union


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--acetate", type=Path, default=ROOT / "target" / "release" / "acetate")
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--preset", default="exact")
    return parser.parse_args()


def truth(layer: np.ndarray, objects: list[tuple[str, np.ndarray]]) -> str | None:
    """The name of the object that a layer's alpha (h, w) fits."""
    likeness = [
        (np.minimum(layer, alpha).sum() / max(np.maximum(layer, alpha).sum(), 1e-6), name) for name, alpha in objects
    ]
    best, name = max(likeness)
    return name if best >= LIKE else None


def main():
    chosen = arguments()
    generator = torch.Generator().manual_seed(SEED)
    scenes = world.sample(chosen.scenes, generator)
    layers = draw.draw(scenes)
    counts = {"right": 0, "wrong": 0, "none": 0, "rightly none": 0, "wrongly named": 0}
    with tempfile.TemporaryDirectory() as folder:
        for index in range(chosen.scenes):
            scene, out = Path(folder) / f"{index}.png", Path(folder) / f"{index}"
            picture(draw.composite(layers[index : index + 1])[0]).save(scene)
            count = 5 if scenes.count(index) == 4 else 4
            command = [chosen.acetate.resolve(), "--quiet", "run", "decompose", scene, "--out", out, "--json"]
            command += ["--layers", str(count), "--preset", chosen.preset, "--seed", str(index)]
            # There, it finds the small checkpoints.
            subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
            objects = [
                (world.thing(scenes, index, which).capitalize(), layers[index, which + 1, 3].numpy())
                for which in range(scenes.count(index))
            ]
            for file in json.loads((out / "manifest.json").read_text())["files"]:
                if file["role"] != "layer" or file["name"] == "layer-01.png":
                    continue
                alpha = np.asarray(Image.open(out / file["name"]))[..., 3] / 255.0
                wanted, name = truth(alpha, objects), file["layer_name"]
                unnamed = name.startswith("Layer ")
                if wanted is None:
                    outcome = "rightly none" if unnamed else "wrongly named"
                else:
                    outcome = "none" if unnamed else "right" if name == wanted else "wrong"
                counts[outcome] += 1
                if outcome in ("wrong", "wrongly named", "none"):
                    print(f"scene {index}, {file['name']}: {name} instead of {wanted}", file=sys.stderr)
    shown = counts["right"] + counts["wrong"] + counts["none"]
    print(f"{shown} layers of one object: {counts['right']} named rightly ({counts['right'] / shown:.1%}), "
          f"{counts['wrong']} wrongly, {counts['none']} not named")  # fmt: skip
    empty = counts["rightly none"] + counts["wrongly named"]
    print(f"{empty} layers of none or several: {counts['wrongly named']} named")


if __name__ == "__main__":
    main()
