"""Pictures for the service benchmark: stacks of RGBA layers as from a decompose job, made from a seed."""

import io

import numpy
from PIL import Image, ImageDraw, ImageFilter

SIDE = 640
LAYERS = 4
# Draws larger for anti-aliasing.
SCALE = 2


def stack(seed: int) -> list[bytes]:
    """A back layer that covers everything, and three mostly transparent layers, each as a PNG."""
    random = numpy.random.default_rng(seed)
    layers = [backdrop(random)] + [figure(random) for _ in range(LAYERS - 1)]
    return [png(layer) for layer in layers]


def backdrop(random: numpy.random.Generator) -> numpy.ndarray:
    """A gradient of colors with the noise of a camera."""
    down, across = numpy.mgrid[0:1:SIDE * 1j, 0:1:SIDE * 1j]
    corners = random.uniform(40, 215, (3, 3))
    color = corners[0] + down[..., None] * (corners[1] - corners[0]) + across[..., None] * (corners[2] - corners[0])
    return with_alpha(grain(random, color, 2.0), numpy.full((SIDE, SIDE), 255.0))


def figure(random: numpy.random.Generator) -> numpy.ndarray:
    """Some shapes with soft edges, texture and, in places, partial alpha; 0 elsewhere."""
    size = SIDE * SCALE
    alpha, shade = Image.new("L", (size, size)), Image.new("RGB", (size, size))
    on_alpha, on_shade = ImageDraw.Draw(alpha), ImageDraw.Draw(shade)
    for _ in range(int(random.integers(3, 7))):
        x, y = random.uniform(0.1, 0.9, 2) * size
        w, h = random.uniform(0.08, 0.3, 2) * size
        color = tuple(int(value) for value in random.integers(20, 236, 3))
        opacity = int(random.choice([255, 255, 255, 140]))
        if random.random() < 0.5:
            box = (x - w, y - h, x + w, y + h)
            on_alpha.ellipse(box, fill=opacity)
            on_shade.ellipse(box, fill=color)
        else:
            turns = numpy.sort(random.uniform(0, 2 * numpy.pi, int(random.integers(3, 8))))
            points = [(x + w * numpy.cos(turn), y + h * numpy.sin(turn)) for turn in turns]
            on_alpha.polygon(points, fill=opacity)
            on_shade.polygon(points, fill=color)
    alpha = alpha.resize((SIDE, SIDE), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(1.2))
    shade = shade.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    colors, cover = numpy.asarray(shade, dtype=float), numpy.asarray(alpha, dtype=float)
    light = 1 + 0.25 * numpy.sin(numpy.linspace(0, random.uniform(3, 9), SIDE))[:, None, None]
    layer = with_alpha(grain(random, colors * light, 3.0), cover)
    layer[layer[..., 3] == 0] = 0
    return layer


def grain(random: numpy.random.Generator, colors: numpy.ndarray, strength: float) -> numpy.ndarray:
    return colors + random.normal(0, strength, colors.shape)


def with_alpha(colors: numpy.ndarray, alpha: numpy.ndarray) -> numpy.ndarray:
    return numpy.dstack([colors, alpha]).clip(0, 255).round().astype(numpy.uint8)


def png(layer: numpy.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(layer, "RGBA").save(out, "PNG")
    return out.getvalue()


def pixels(encoded: bytes) -> numpy.ndarray:
    return numpy.asarray(Image.open(io.BytesIO(encoded)).convert("RGBA"), dtype=int)
