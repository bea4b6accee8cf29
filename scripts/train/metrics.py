"""The metrics, on tensors in 0..1. evaluate.py uses them for pictures from the pipelines, flow.py for its own samples."""

import itertools
import math

import torch

from draw import composite
from world import HUES, KINDS, NAMES, PALETTE

OVERLAP = 20  # pixels that two objects must share for their order to show


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10(max(float(((a - b) ** 2).mean()), 1e-9))


def flatten(layers: torch.Tensor) -> torch.Tensor:
    """Composite (3, h, w) of straight-alpha layers (n, 4, h, w), over black if the first lets it through."""
    black = torch.zeros_like(layers[:1])
    black[:, 3] = 1
    return composite(torch.cat([black, layers])[None])[0]


def decomposition(true: torch.Tensor, found: torch.Tensor) -> dict[str, list[float]]:
    """One scene: true layers and found layers, both (1 + objects, 4, h, w), background first."""
    result = {"composite": [psnr(flatten(found), composite(true[None])[0])], "iou": [], "color": [], "order": []}
    present = [index for index in range(1, len(true)) if true[index, 3].sum() > 1]
    candidates = range(1, len(found))

    def iou(index, candidate):
        a, b = true[index, 3], found[candidate, 3]
        return float(torch.minimum(a, b).sum() / torch.maximum(a, b).sum())

    table = {(i, c): iou(i, c) for i in present for c in candidates}
    best = max(itertools.permutations(candidates, len(present)), key=lambda p: sum(table[i, c] for i, c in zip(present, p)))
    for index, candidate in zip(present, best):
        result["iou"].append(table[index, candidate])
        seen = visible(true, index) > 0.9
        if seen.any():
            error = (true[index, :3] - found[candidate, :3]).abs()[:, seen]
            result["color"].append(float(error.mean()) * 255)
    for (i, a), (j, b) in itertools.combinations(zip(present, best), 2):
        if (true[i, 3] * true[j, 3]).sum() > OVERLAP:
            result["order"].append(float((i < j) == (a < b)))
    return result


def visible(layers: torch.Tensor, index: int) -> torch.Tensor:
    """The alpha of a layer that is not covered by layers above."""
    alpha = layers[index, 3]
    for above in layers[index + 1 :]:
        alpha = alpha * (1 - above[3])
    return alpha


def hue(rgb: torch.Tensor) -> float:
    """Degrees."""
    r, g, b = rgb.tolist()
    return math.degrees(math.atan2(math.sqrt(3) * (g - b), 2 * r - g - b)) % 360


def edit(before: torch.Tensor, after: torch.Tensor, found: torch.Tensor, target: str | None, whole: bool = True) -> dict[str, list[float]]:
    """One edit, pictures (3, h, w). `hue`: 1 within 20 degrees of the asked color; `outside`: change
    elsewhere, /255, measured if a whole scene was edited."""
    changed = (after - before).abs().amax(dim=0) > 0.04
    result = {"edited": [psnr(found, after)], "hue": [], "done": [], "outside": []}
    if whole and (~changed).sum() > 50:
        result["outside"].append(float((found - before).abs().mean(dim=0)[~changed].mean()) * 255)
    if changed.sum() > 50:
        here = found[:, changed]
        moved = (here - after[:, changed]).abs().mean() < (here - before[:, changed]).abs().mean()
        result["done"].append(float(moved))
        if target in HUES:
            off = abs(hue(here.mean(dim=1)) - hue(PALETTE[NAMES.index(target)]))
            result["hue"].append(float(min(off, 360 - off) <= 20))
    return result


def caption_right(said: str, things: set[str]) -> float:
    """1 if the words have exactly the true kinds, each after its color; `things`: "red star", ..."""
    parts = said.lower().replace(".", " ").replace(",", " ").split()
    named = {f"{color} {kind}" for color, kind in zip(parts, parts[1:]) if kind in KINDS}
    return float(named == things)


def gather(results: list[dict[str, list[float]]]) -> dict[str, float]:
    """The means of all metrics."""
    names = {name for result in results for name in result}
    values = {name: [v for result in results for v in result.get(name, [])] for name in sorted(names)}
    return {name: sum(v) / len(v) for name, v in values.items() if v}
