"""Instructions with their true results: the scene before, the words, and the scene after."""

from dataclasses import dataclass

import torch

from draw import composite, draw
from world import KINDS, NAMES, PALETTE, PATTERNS, Scenes, thing

NEGATIVE = " "
RECOLOR = ["Change the {} to {}", "Make the {} {}", "Paint the {} {}", "Turn the {} {}", "Change the color of the {} to {}"]
RECOLOR_IT = ["Make it {}", "Change it to {}", "Paint it {}", "Turn it {}", "Change the color to {}"]
SHADES = {"darker": lambda rgb: rgb * 0.6, "lighter": lambda rgb: rgb + (1 - rgb) * 0.5}
PALETTE_ARRAY = PALETTE.numpy()
PLAIN = ["Remove the pattern", "Make the background plain"]


@dataclass
class Edits:
    """`only`: -1 for the whole picture, 0 for the background alone, k for object k - 1 alone on black."""

    before: Scenes
    after: Scenes
    words: list[str]
    only: torch.Tensor  # (b,)
    target: list[str | None]  # the color asked for, where it is one


def make(scenes: Scenes, generator: torch.Generator) -> Edits:
    """One random instruction for every scene."""
    after = scenes.clone()
    words, targets, only = [], [], torch.full((len(scenes),), -1)
    numbers = torch.rand(len(scenes), 6, generator=generator).tolist()
    before, changed = scenes.light(), after.light()
    for scene, draw_ in enumerate(numbers):
        text, target, only[scene] = one(before, changed, scene, draw_)
        words.append(text if draw_[5] < 0.5 else text + ".")
        targets.append(target)
    return Edits(scenes, after, words, only, targets)


def pick(items, number: float):
    return items[min(int(number * len(items)), len(items) - 1)]


def one(before: Scenes, after: Scenes, scene: int, numbers: list[float]) -> tuple[str, str | None, int]:
    """Changes `after[scene]`; returns the words, the color asked for and what of the scene is shown."""
    task, where, which, new, form, _ = numbers
    index = pick(range(before.count(scene)), which)
    alone = where < 0.45
    ground = task < 0.2
    name = KINDS[before.kind[scene, index]]
    if form < 0.15:
        name = thing(before, scene, index)
    form = (form * 7.3) % 1.0
    shown = (0 if ground else index + 1) if alone else -1
    if ground:
        if int(before.style[scene]) in PATTERNS and task < 0.1:
            after.style[scene] = 0
            return pick(PLAIN, form), None, shown
        color = new_color(int(before.ground[scene]), before, scene, new)
        after.ground[scene], after.ground_rgb[scene] = color, PALETTE_ARRAY[color]
        return recolor("background", color, alone and which < 0.5, form), NAMES[color], shown
    if alone and task < 0.23 and before.texture[scene, index]:
        after.texture[scene, index] = 0
        return PLAIN[0], None, shown
    if task < 0.32:
        word = pick(list(SHADES), new)
        after.rgb[scene, index] = SHADES[word](before.rgb[scene, index])
        return f"Make {'it' if alone and which < 0.5 else 'the ' + name} {word}", None, shown
    if task < 0.38 and not alone:
        after.visible[scene, index] = False
        return f"{pick(['Remove', 'Delete', 'Take away'], form)} the {name}", None, shown
    color = new_color(int(before.color[scene, index]), before, scene, new)
    after.color[scene, index], after.rgb[scene, index] = color, PALETTE_ARRAY[color]
    it = alone and (which * 10) % 1 < 0.5
    return recolor(name, color, it, form), NAMES[color], shown


def recolor(name: str, color: int, it: bool, form: float) -> str:
    return pick(RECOLOR_IT, form).format(NAMES[color]) if it else pick(RECOLOR, form).format(name, NAMES[color])


def new_color(old: int, before: Scenes, scene: int, number: float) -> int:
    """Another color than the old one; an object never takes the background's, which would hide it."""
    taken = {old, int(before.ground[scene])}
    return pick([index for index in range(len(NAMES)) if index not in taken], number)


def show(scenes: Scenes, only: torch.Tensor) -> torch.Tensor:
    """What the edit model sees, RGB (b, 3, h, w) in 0..1: acetate drops a layer's alpha and keeps the color below."""
    layers = draw(scenes)
    frames = torch.cat([composite(layers).unsqueeze(1), layers[:, :, :3]], dim=1)
    return frames[torch.arange(len(scenes), device=frames.device), only + 1]


def phrases() -> list[str]:
    """Every form of words once, for the tokenizer."""
    things = [*KINDS, "background"]
    texts = [form.format(name, color) for form in RECOLOR for name in things for color in NAMES]
    texts += [form.format(color) for form in RECOLOR_IT for color in NAMES]
    texts += [f"Make the {name} {shade}" for name in things for shade in SHADES]
    texts += [f"{verb} the {name}." for verb in ("Remove", "Delete", "Take away") for name in KINDS]
    return texts + [f"Make it {shade}." for shade in SHADES] + PLAIN

