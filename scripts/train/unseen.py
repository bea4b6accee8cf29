"""Scenes and edits that were not in the training, as files and as truth."""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

import draw
import edits
import world

SEED = 424_242


@dataclass
class Sample:
    """One unseen scene and one unseen edit, as files and as truth."""

    scene: Path
    layers: torch.Tensor  # true layers (1 + n, 4, h, w)
    things: set[str]  # "red star", ...
    shown: Path  # what is edited: a whole scene, or one layer with its alpha
    before: torch.Tensor  # the same as RGB (3, h, w)
    after: torch.Tensor
    words: str
    target: str | None
    sheets: torch.Tensor  # the layers (1 + n, 4, h, w) of the scene that is edited
    only: int  # which of them `shown` is; -1: the whole


def samples(count: int, folder: Path) -> list[Sample]:
    generator = torch.Generator().manual_seed(SEED)
    scenes = world.sample(count, generator)
    layers = draw.draw(scenes)
    whole = draw.composite(layers)
    made = edits.make(world.sample(count, generator), generator)
    before, after = edits.show(made.before, made.only), edits.show(made.after, made.only)
    sheets = draw.draw(made.before)
    result = []
    for index, only in enumerate(made.only.tolist()):
        scene, shown = folder / f"scene-{index}.png", folder / f"shown-{index}.png"
        picture(whole[index]).save(scene)
        picture(before[index] if only < 0 else sheets[index, only]).save(shown)
        things = {world.thing(scenes, index, which) for which in range(scenes.count(index))}
        result.append(Sample(scene, layers[index], things, shown, before[index], after[index], made.words[index],
                             made.target[index], sheets[index], only))  # fmt: skip
    return result


def picture(tensor: torch.Tensor) -> Image.Image:
    """RGB (3, h, w) or RGBA (4, h, w) in 0..1."""
    return Image.fromarray((tensor.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
