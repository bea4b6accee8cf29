"""Writes unseen scenes as files, for tests and examples: the picture, its true layers, an edit with its true result.

    python samples.py --out ../../tests/scenes --keep 4

A folder a scene: `scene.png`, `layer-1.png` (the background), `layer-2.png`, ...; and what is edited: `shown.png` (a
layer, or a whole scene), `result.png`. `scenes.json` has the words. `outlines/` has layers that get another outline.
"""

import argparse
import json
from pathlib import Path

import torch

import draw
import edits
import outlines
import world
from unseen import picture

SEED = 171_717
OUTLINES = 2  # for each task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=40, help="how many scenes to draw; another count gives other scenes")
    parser.add_argument("--keep", type=int, default=40, help="how many of them to write, starting with the first")
    chosen = parser.parse_args()
    generator = torch.Generator().manual_seed(SEED)
    scenes = world.sample(chosen.count, generator)
    layers = draw.draw(scenes)
    whole = draw.composite(layers)
    made = edits.make(world.sample(chosen.count, generator), generator)
    before, after = edits.show(made.before, made.only), edits.show(made.after, made.only)
    sheets = draw.draw(made.before)
    told = []
    for index, only in enumerate(made.only.tolist()[: chosen.keep]):
        folder = chosen.out / str(index + 1)
        folder.mkdir(parents=True, exist_ok=True)
        count = 1 + scenes.count(index)
        files = {"scene": whole[index], **{f"layer-{number + 1}": layers[index, number] for number in range(count)}}
        alpha = torch.ones(1, world.SIZE, world.SIZE) if only < 0 else sheets[index, only, 3:]
        files |= {"shown": torch.cat([before[index], alpha]), "result": torch.cat([after[index], alpha])}
        for name, tensor in files.items():
            picture(tensor).save(folder / f"{name}.png", optimize=True)
        told.append({
            "folder": str(index + 1), "layers": count, "caption": world.caption(scenes, index),
            "instruction": made.words[index], "shown": "scene" if only < 0 else "layer", "color": made.target[index],
        })  # fmt: skip
    (chosen.out / "scenes.json").write_text(json.dumps(told, indent=2) + "\n")
    write_outlines(chosen.out / "outlines")


def write_outlines(out: Path) -> None:
    """`bigger-1.png`, the layer, `bigger-1-result.png`, what it becomes; `outlines.json` has the words."""
    out.mkdir(parents=True, exist_ok=True)
    told = []
    for number, task in enumerate(outlines.WORDS):
        generator = torch.Generator().manual_seed(SEED + number)
        made = outlines.make(world.sample(OUTLINES, generator), generator, task)
        for index, pair in enumerate(zip(outlines.layers(made.before), outlines.layers(made.after))):
            name = f"{task}-{index + 1}"
            for end, layer in zip(("", "-result"), pair):
                picture(layer).save(out / f"{name}{end}.png", optimize=True)
            told.append({"name": name, "instruction": made.words[index]})
    (out / "outlines.json").write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
