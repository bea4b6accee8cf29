"""Draws scenes: signed distances of the shapes in torch, the same code on the CPU and on a GPU."""

import math

import torch

from world import SIZE, Scenes

SOFT = 1.5  # width of an edge in pixels
WOOD = (0.40, 0.26, 0.13)
GLASS = (0.93, 0.90, 0.70)
SHADE, BLUR = 0.4, 6.0  # a shadow's alpha, and the width of its edge in pixels
GRAIN = 9.0  # period of an object's texture in pixels


def box(x, y, center, half):
    dx, dy = (x - center[0]).abs() - half[0], (y - center[1]).abs() - half[1]
    outside = torch.hypot(dx.clamp(min=0), dy.clamp(min=0))
    return outside + torch.maximum(dx, dy).clamp(max=0)


def disc(x, y, center, radius):
    return torch.hypot(x - center[0], y - center[1]) - radius


def union(*distances):
    result = distances[0]
    for distance in distances[1:]:
        result = torch.minimum(result, distance)
    return result


def triangle(x, y):
    side = x.abs() * math.cos(math.pi / 6) - y * 0.5
    return torch.maximum(side, y) - 0.52


def star(x, y):
    sector = 2 * math.pi / 5
    turn = torch.atan2(x, -y)
    turn = (torch.remainder(turn + sector / 2, sector) - sector / 2).abs()
    length = torch.hypot(x, y)
    along, across = length * turn.cos(), length * turn.sin()
    return (along - 1.05) * 0.384 + across * 0.923


def heart(x, y):
    half = 0.55
    y = y - 0.08
    turned = box((x + y) * math.sqrt(0.5), (y - x) * math.sqrt(0.5), (0, 0), (half, half))
    lobe = half * math.sqrt(0.5)
    return union(turned, disc(x.abs(), y, (lobe, -lobe), half))


def roof(x, y):
    return torch.maximum(y + 0.15, (x.abs() * 0.75 - (y + 0.9) * 0.95) / 1.21)


def crown(x, y):
    return union(disc(x, y, (0, -0.38), 0.55), disc(x.abs(), y, (0.38, 0.08), 0.42))


def cloud(x, y):
    return union(disc(x, y, (0, -0.12), 0.48), disc(x.abs(), y, (0.55, 0.16), 0.36), box(x, y, (0, 0.3), (0.55, 0.22)))


def sun(x, y):
    sector = math.pi / 4
    turn = torch.atan2(y, x)
    turn = torch.remainder(turn + sector / 2, sector) - sector / 2
    length = torch.hypot(x, y)
    ray = box(length * turn.cos(), length * turn.sin(), (0.86, 0), (0.14, 0.09))
    return union(length - 0.58, ray)


def distances(x, y) -> torch.Tensor:
    """Distance of every kind, in world.KINDS' order, in units of the object's radius; stacked on a new first axis."""
    length = torch.hypot(x, y)
    house = union(roof(x, y), box(x, y, (0, 0.3), (0.68, 0.5)))
    tree = union(crown(x, y), box(x, y, (0, 0.65), (0.15, 0.32)))
    return torch.stack([
        length - 0.92, box(x, y, (0, 0), (0.78, 0.78)), triangle(x, y), star(x, y), (length - 0.7).abs() - 0.25,
        heart(x, y), house, tree, cloud(x, y), sun(x, y),
    ])  # fmt: skip


def grid(device):
    line = torch.arange(SIZE, device=device) + 0.5
    return line[None, :].expand(SIZE, SIZE), line[:, None].expand(SIZE, SIZE)


def draw_objects(scenes: Scenes) -> torch.Tensor:
    """(b, n, 4, h, w): color and alpha of every object with its shadow, in 0..1; color is 0 where alpha is."""
    columns, rows = grid(scenes.x.device)
    radius = scenes.radius[..., None, None]
    cos, sin = (f(scenes.angle)[..., None, None] for f in (torch.cos, torch.sin))
    kind = scenes.kind[..., None, None]
    visible = scenes.visible[..., None, None]

    def place(right, down):
        """Pixels in an object's own axes and units, the object moved by so many pixels."""
        dx, dy = columns - scenes.x[..., None, None] - right, rows - scenes.y[..., None, None] - down
        return (dx * cos + dy * sin) / radius, (dy * cos - dx * sin) / radius

    def cover(distance, width=SOFT):
        return (0.5 - distance * radius / width).clamp(0, 1)

    def shape(x, y):
        return distances(x, y).gather(0, kind.expand_as(x)[None])[0]

    x, y = place(0, 0)
    alpha = cover(shape(x, y)) * visible
    color = scenes.rgb[..., None, None] * (tone(x, y, radius, scenes.texture) - 0.12 * y.clamp(-1, 1)).unsqueeze(2)

    def paint(color, where, distance, other):
        share = (cover(distance) * (kind == where)).unsqueeze(2)
        return color * (1 - share) + other * share

    def fixed(values):
        return torch.tensor(values, device=x.device).view(1, 1, 3, 1, 1)

    color = paint(color, 6, roof(x, y), color * 0.6)
    color = paint(color, 6, box(x, y, (-0.25, 0.5), (0.17, 0.3)), fixed(WOOD) * 0.7)
    color = paint(color, 6, box(x, y, (0.3, 0.25), (0.17, 0.17)), fixed(GLASS))
    color = paint(color, 7, torch.maximum(box(x, y, (0, 0.65), (0.15, 0.32)), -crown(x, y)), fixed(WOOD))

    right, down = scenes.shadow[:, :1, None, None], scenes.shadow[:, 1:, None, None]
    shade = SHADE * cover(shape(*place(right, down)), BLUR) * visible * (down > 0)
    both = alpha + shade * (1 - alpha)
    both = both * (both > 0.5 / 255)
    color = color.clamp(0, 1) * (alpha / both.clamp(min=1e-6)).unsqueeze(2) * (both > 0).unsqueeze(2)
    return torch.cat([color, both.unsqueeze(2)], dim=2)


def tone(x, y, radius, texture):
    """How bright an object is, about 1, by its texture; world.TEXTURES' order."""
    turn = 2 * math.pi * radius / GRAIN
    stripes = 0.9 + 0.14 * (1.6 * (turn * (x + y) * math.sqrt(0.5)).sin()).clamp(-1, 1)
    dots = 0.94 + 0.14 * (2.5 * ((turn * x).sin() * (turn * y).sin() - 0.35)).clamp(-1, 1)
    kinds = torch.stack([torch.full_like(x, 1.04), stripes, dots, 0.96 - 0.2 * x.clamp(-1, 1)])
    return kinds.gather(0, texture[..., None, None].expand_as(x)[None])[0]


def draw_backgrounds(scenes: Scenes) -> torch.Tensor:
    """(b, 4, h, w), opaque."""
    columns, rows = grid(scenes.x.device)
    period, slant = scenes.period[:, None, None], scenes.slant[:, None, None]
    along = columns * slant.cos() + rows * slant.sin()

    def band(position):
        """0..1: soft stripes of half a period."""
        return (0.5 + (2 * math.pi * position / period).sin() * period / (math.pi * 2 * SOFT)).clamp(0, 1)

    phase = scenes.phase[:, :, None, None] * period[:, None]
    u, v = columns + phase[:, 0], rows + phase[:, 1]
    stripes = band(along + phase[:, 0])
    first, second = band(u), band(v)
    checks = first * (1 - second) + second * (1 - first)
    near = torch.hypot(torch.remainder(u, period) - period / 2, torch.remainder(v, period) - period / 2)
    dots = (0.5 - (near - period * 0.26) / SOFT).clamp(0, 1)
    center = (columns - SIZE / 2) * slant.cos() + (rows - SIZE / 2) * slant.sin()
    gradient = (0.5 + center / (SIZE * 1.2)).clamp(0, 1) * 2.0
    share = torch.stack([torch.zeros_like(stripes), gradient, stripes, dots, checks])
    share = share.gather(0, scenes.style[None, :, None, None].expand(1, *stripes.shape))[0].unsqueeze(1)
    base = scenes.ground_rgb[:, :, None, None]
    towards = scenes.lighter[:, None, None, None].to(base.dtype)
    color = base + (towards - base) * share * 0.22
    return torch.cat([color.clamp(0, 1), torch.ones_like(share)], dim=1)


def composite(layers: torch.Tensor) -> torch.Tensor:
    """Straight-alpha layers (b, n, 4, h, w), back to front, the first opaque -> RGB (b, 3, h, w)."""
    picture = layers[:, 0, :3]
    for index in range(1, layers.shape[1]):
        alpha = layers[:, index, 3:]
        picture = picture * (1 - alpha) + layers[:, index, :3] * alpha
    return picture


def draw(scenes: Scenes) -> torch.Tensor:
    """Layers (b, 1 + n, 4, h, w) in 0..1: background, then objects back to front; absent ones are all 0."""
    return torch.cat([draw_backgrounds(scenes).unsqueeze(1), draw_objects(scenes)], dim=1)


def gathered(layers: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """The same scenes in `count` (b,) layers each: objects without a separate layer share the last one.

    `layers` is (b, 1 + n, 4, h, w), as returned by `draw`; those after `count` become all 0.
    """
    result = layers.clone()
    for wanted in range(2, layers.shape[1]):
        last = over(layers[:, wanted - 1 :])
        few = (count == wanted)[:, None, None, None]
        result[:, wanted - 1] = torch.where(few, last, result[:, wanted - 1])
        result[:, wanted:] = torch.where(few[:, None], 0.0, result[:, wanted:])
    return result


def over(layers: torch.Tensor) -> torch.Tensor:
    """One straight-alpha layer (b, 4, h, w) out of several (b, n, 4, h, w), back to front."""
    color, alpha = layers[:, 0, :3] * layers[:, 0, 3:], layers[:, 0, 3:]
    for index in range(1, layers.shape[1]):
        above = layers[:, index, 3:]
        color = color * (1 - above) + layers[:, index, :3] * above
        alpha = alpha * (1 - above) + above
    return torch.cat([color / alpha.clamp(min=1e-6), alpha], dim=1)
