"""Instructions that need another outline, with their true results: one object alone on its layer.

They are apart from edits.py, because the tokenizer is made of the words there.
"""

from dataclasses import dataclass, fields

import torch

import edits
from draw import draw_objects
from world import KINDS, Scenes, thing

SCALE = 1.5  # "bigger" and "smaller", about the object's center
FALL = (5.0, 8.0)  # where an added shadow falls, in pixels
GROUNDS = (0.0, 192 / 255)  # acetate's, for `alpha: grow`
CLEAR = 0.04  # alpha below it is none, as in acetate
WORDS = {
    "bigger": ["Make {} bigger", "Make {} larger", "Enlarge {}"],
    "smaller": ["Make {} smaller", "Shrink {}"],
    "shadow": ["Add a shadow", "Add a shadow to {}", "Give {} a shadow", "Add a drop shadow"],
}
# How often each is asked for; "color" stands for the edits that keep the outline, which must not be forgotten.
SHARES = {"bigger": 0.4, "smaller": 0.15, "shadow": 0.25, "color": 0.2}


@dataclass
class Outlines:
    """Scenes of one object each, before and after."""

    before: Scenes
    after: Scenes
    words: list[str]
    tasks: list[str]


def make(scenes: Scenes, generator: torch.Generator, task: str | None = None) -> Outlines:
    """One random instruction for every scene, or one of the given task."""
    before, after = scenes.clone(), scenes.clone()
    seen, changed = before.light(), after.light()
    tasks, words, which = [], [], []
    for scene, numbers in enumerate(torch.rand(len(scenes), 6, generator=generator).tolist()):
        asked, index, form, named, dotted, new = numbers
        tasks.append(task or task_of(asked))
        which.append(edits.pick(range(seen.count(scene)), index))
        if tasks[-1] == "color":
            # Of an object that is alone: see edits.one.
            text, _, _ = edits.one(seen, changed, scene, [0.2 + 0.8 * named, 0.0, index, new, form, 0.0])
        else:
            if tasks[-1] == "shadow":
                seen.shadow[scene], changed.shadow[scene] = 0, FALL
            else:
                changed.radius[scene, which[-1]] *= SCALE if tasks[-1] == "bigger" else 1 / SCALE
            text = edits.pick(WORDS[tasks[-1]], form).format(called(seen, scene, which[-1], named))
        words.append(text if dotted < 0.5 else text + ".")
    return Outlines(*(alone(one, torch.tensor(which)) for one in (before, after)), words, tasks)


def task_of(number: float) -> str:
    for task, share in SHARES.items():
        number -= share
        if number < 0:
            return task
    return task


def called(scenes: Scenes, scene: int, index: int, number: float) -> str:
    """ "it", "the star" or "the red star"."""
    if number < 0.4:
        return "it"
    return f"the {KINDS[scenes.kind[scene, index]] if number < 0.8 else thing(scenes, scene, index)}"


def alone(scenes: Scenes, which: torch.Tensor) -> Scenes:
    """The same scenes with no other object than the chosen one."""
    row = torch.arange(len(which))
    objects = {"visible", "kind", "color", "rgb", "x", "y", "radius", "angle", "texture"}
    values = {field.name: getattr(scenes, field.name) for field in fields(scenes)}
    return Scenes(**{name: value[row, which].unsqueeze(1) if name in objects else value for name, value in values.items()})


def layers(scenes: Scenes) -> torch.Tensor:
    """Scenes of one object -> its layer (b, 4, h, w)."""
    return draw_objects(scenes)[:, 0]


def over_grounds(layers: torch.Tensor) -> torch.Tensor:
    """(b, 4, h, w) -> what the edit model sees, (2 b, 3, h, w): each layer over black, then over gray."""
    color, alpha = layers[:, None, :3], layers[:, None, 3:]
    grounds = torch.tensor(GROUNDS, device=layers.device).view(1, -1, 1, 1, 1)
    return (color * alpha + grounds * (1 - alpha)).flatten(0, 1)


def alpha_of(pictures: torch.Tensor) -> torch.Tensor:
    """The reverse for alpha: (2 b, 3, h, w) -> (b, h, w)."""
    dark, light = pictures.unflatten(0, (-1, 2)).unbind(1)
    alpha = 1 - (light - dark).mean(dim=1) / (GROUNDS[1] - GROUNDS[0])
    return torch.where(alpha < CLEAR, 0.0, torch.where(alpha > 1 - CLEAR, 1.0, alpha))


def overlap(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The intersection over union of soft alphas (b, h, w) -> (b,)."""
    return torch.minimum(one, other).sum(dim=(1, 2)) / torch.maximum(one, other).sum(dim=(1, 2)).clamp(min=1e-6)
