"""The world of scenes: objects with their places and colors, and the words for them. Drawing is in draw.py.

A scene is a background and one to four objects. Objects are sorted from top to bottom, and the lower one is nearer,
so that the order of the layers is a function of the picture and can be learned. Textures of objects and shadows are
not told in words.
"""

from dataclasses import dataclass, fields

import torch

SIZE = 128
OBJECTS = 4
KINDS = ["circle", "square", "triangle", "star", "ring", "heart", "house", "tree", "cloud", "sun"]
TURNING = torch.tensor([False, True, True, True, False, True, False, False, False, False])
# Where a kind is likely: clouds and suns at the top, houses and trees at the bottom.
HEIGHT = torch.tensor([0.5, 0.55, 0.5, 0.4, 0.5, 0.5, 0.8, 0.8, 0.2, 0.1])
STYLES = ["plain", "gradient", "striped", "dotted", "checkered"]
PATTERNS = (2, 3, 4)
TEXTURES = ["smooth", "striped", "dotted", "shaded"]

COLOURS = {
    "red": (0.86, 0.14, 0.14), "orange": (0.96, 0.52, 0.08), "yellow": (0.97, 0.87, 0.16),
    "green": (0.18, 0.64, 0.24), "cyan": (0.12, 0.76, 0.80), "blue": (0.14, 0.32, 0.84),
    "purple": (0.54, 0.20, 0.72), "pink": (0.97, 0.50, 0.72), "brown": (0.48, 0.29, 0.14),
    "white": (0.96, 0.96, 0.96), "gray": (0.55, 0.55, 0.55), "black": (0.09, 0.09, 0.09),
}  # fmt: skip
NAMES = list(COLOURS)
PALETTE = torch.tensor([COLOURS[name] for name in NAMES])
# Brown is a dark orange and grays have no hue, so only these colors are measured by hue.
HUES = ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"]

MARGIN, GAP = 20.0, 16.0
SHADOWED = 0.35  # share of scenes whose objects throw shadows


@dataclass
class Scenes:
    """Scenes as tensors; first axis: scene, second axis of the `n = OBJECTS` objects: from top to bottom. Lengths in pixels."""

    visible: torch.Tensor  # (b, n) bool
    kind: torch.Tensor  # (b, n) index into KINDS, no kind twice in a scene
    color: torch.Tensor  # (b, n) index into NAMES, no color twice in a scene
    rgb: torch.Tensor  # (b, n, 3) in 0..1
    x: torch.Tensor  # (b, n)
    y: torch.Tensor  # (b, n)
    radius: torch.Tensor  # (b, n)
    angle: torch.Tensor  # (b, n) radians
    texture: torch.Tensor  # (b, n) index into TEXTURES
    shadow: torch.Tensor  # (b, 2) where shadows fall, in pixels; 0, 0: there are none
    style: torch.Tensor  # (b,) index into STYLES
    ground: torch.Tensor  # (b,) index into NAMES
    ground_rgb: torch.Tensor  # (b, 3)
    lighter: torch.Tensor  # (b,) bool: the pattern's second tone is lighter than the first
    period: torch.Tensor  # (b,)
    slant: torch.Tensor  # (b,) radians
    phase: torch.Tensor  # (b, 2)

    def to(self, device) -> "Scenes":
        return Scenes(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))

    def clone(self) -> "Scenes":
        return Scenes(*(getattr(self, field.name).clone() for field in fields(self)))

    def light(self) -> "Scenes":
        """The same memory as numpy arrays: reading single numbers for the words is ten times faster."""
        return Scenes(*(getattr(self, field.name).numpy() for field in fields(self)))

    def __len__(self) -> int:
        return len(self.style)

    def count(self, scene: int) -> int:
        return int(self.visible[scene].sum())


def sample(count: int, generator: torch.Generator) -> Scenes:
    """`count` random scenes, on the CPU."""

    def uniform(*shape, low=0.0, high=1.0):
        return torch.rand(*shape, generator=generator) * (high - low) + low

    def integers(high, *shape):
        return torch.randint(high, shape, generator=generator)

    def distinct(high, wanted):
        return uniform(count, high).argsort(dim=1)[:, :wanted]

    objects = 1 + integers(OBJECTS, count)
    visible = torch.arange(OBJECTS)[None] < objects[:, None]

    kind = distinct(len(KINDS), OBJECTS)
    wish = HEIGHT[kind] + uniform(count, OBJECTS, low=-0.35, high=0.35)
    wish = torch.where(visible, wish, 9.0)
    kind = kind.gather(1, wish.argsort(dim=1))

    colors = distinct(len(NAMES), OBJECTS + 1)
    rgb = PALETTE[colors] + uniform(count, OBJECTS + 1, 3, low=-0.04, high=0.04)
    rgb = rgb.clamp(0.03, 0.98)

    # Sorted heights with a gap, spread over what is left.
    room = SIZE - 2 * MARGIN - GAP * (objects - 1)
    heights = torch.where(visible, uniform(count, OBJECTS), 1.0).sort(dim=1).values
    y = MARGIN + heights * room[:, None] + GAP * torch.arange(OBJECTS)
    x = uniform(count, OBJECTS, low=MARGIN, high=SIZE - MARGIN)
    largest = 36.0 - 3.0 * objects[:, None]
    radius = 16.0 + uniform(count, OBJECTS) * (largest - 16.0)
    angle = uniform(count, OBJECTS, low=-0.4, high=0.4) * TURNING[kind]

    texture = torch.tensor([0, 0, 0, 0, 0, 1, 2, 3])[integers(8, count, OBJECTS)]
    fall, side = uniform(count, low=2.5, high=6), uniform(count, low=-0.9, high=0.9)
    shadow = torch.stack([fall * side.sin(), fall * side.cos()], dim=1) * (uniform(count, 1) < SHADOWED)

    # A plain background is as frequent as all patterns together.
    style = torch.tensor([0, 0, 0, 1, 1, 2, 3, 4])[integers(8, count)]
    return Scenes(
        visible, kind, colors[:, 1:], rgb[:, 1:], x, y, radius, angle, texture, shadow, style, colors[:, 0], rgb[:, 0],
        uniform(count) < 0.5, uniform(count, low=18, high=30), uniform(count, low=-1.57, high=1.57),
        uniform(count, 2),
    )  # fmt: skip


def thing(scenes: Scenes, scene: int, index: int) -> str:
    """An object in words: "red star"."""
    return f"{NAMES[scenes.color[scene, index]]} {KINDS[scenes.kind[scene, index]]}"


def background(scenes: Scenes, scene: int) -> str:
    style, color = STYLES[scenes.style[scene]], NAMES[scenes.ground[scene]]
    if style == "gradient":
        return f"{article(color)} {color} gradient background"
    words = color if style == "plain" else f"{style} {color}"
    return f"{article(words)} {words} background"


def article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"


def caption(scenes: Scenes, scene: int) -> str:
    """The one caption of a scene, objects from top to bottom."""
    things = [thing(scenes, scene, index) for index in range(OBJECTS) if scenes.visible[scene, index]]
    place = background(scenes, scene)
    if not things:
        return f"{place.capitalize()}."
    text = " above ".join(f"{article(words)} {words}" for words in things)
    return f"{text.capitalize()} on {place}."


def loose_caption(scenes: Scenes, scene: int, generator: torch.Generator) -> str:
    """A caption as a person might write it: parts left out, other joints, or the exact one."""
    draw = torch.rand(4, generator=generator).tolist()
    if draw[0] < 0.6:
        return caption(scenes, scene)
    things = [thing(scenes, scene, index) for index in range(OBJECTS) if scenes.visible[scene, index]]
    if draw[1] < 0.4:
        things = [words.split()[1] for words in things]
    parts = [f"{article(words)} {words}" for words in things]
    text = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    if draw[2] < 0.5:
        text += f" on {background(scenes, scene)}"
    if draw[3] < 0.3:
        return f"A picture of {text}."
    return text.capitalize() + ("." if draw[3] < 0.65 else "")
