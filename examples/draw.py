"""Draws the sample pictures next to this file; needs pillow and numpy.

    python examples/draw.py

Everything is drawn at three times its size and shrunk, which gives smooth edges.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

HERE = Path(__file__).parent
SCALE = 3
RNG = np.random.default_rng(7)


def rgb(text):
    return tuple(int(text[i : i + 2], 16) for i in (0, 2, 4))


def canvas(width, height):
    return Image.new("RGBA", (width * SCALE, height * SCALE), (0, 0, 0, 0))


def points(*pairs):
    return [(x * SCALE, y * SCALE) for x, y in pairs]


def gradient(width, height, stops):
    """A vertical gradient through (position from 0 to 1, color) stops."""
    at = np.linspace(0, 1, height * SCALE)
    places = [stop[0] for stop in stops]
    planes = [np.interp(at, places, [rgb(stop[1])[c] for stop in stops]) for c in range(3)]
    column = np.stack([*planes, np.full_like(at, 255)], -1)
    return Image.fromarray(np.repeat(column[:, None], width * SCALE, 1).round().astype(np.uint8), "RGBA")


def polygon(image, shape, color, alpha=255):
    layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
    ImageDraw.Draw(layer).polygon(points(*shape), fill=(*rgb(color), alpha))
    image.alpha_composite(layer)


def ellipse(image, cx, cy, rx, ry, color, alpha=255, blur=0):
    layer = Image.new("RGBA", image.size, (*rgb(color), 0))
    box = points((cx - rx, cy - ry), (cx + rx, cy + ry))
    ImageDraw.Draw(layer).ellipse([*box[0], *box[1]], fill=(*rgb(color), alpha))
    image.alpha_composite(layer.filter(ImageFilter.GaussianBlur(blur * SCALE)) if blur else layer)


def line(image, shape, color, width, alpha=255):
    layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
    ImageDraw.Draw(layer).line(points(*shape), fill=(*rgb(color), alpha), width=round(width * SCALE), joint="curve")
    image.alpha_composite(layer)


def paint(image, mask, shade):
    """Fills a mask (L) with an (h, w, 3) array of colors."""
    layer = Image.fromarray(np.clip(shade, 0, 255).round().astype(np.uint8), "RGB").convert("RGBA")
    layer.putalpha(mask)
    image.alpha_composite(layer)


def mask_of(image, shape):
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).polygon(points(*shape), fill=255)
    return mask


def ball(image, cx, cy, r, dark, middle, light):
    """A sphere lit from the upper left, with light reflected from the table below."""
    height, width = image.size[1], image.size[0]
    y, x = np.mgrid[0:height, 0:width] / SCALE
    u, v = (x - cx) / r, (y - cy) / r
    z = np.sqrt(np.clip(1 - u * u - v * v, 0, 1))
    facing = np.clip(-0.45 * u - 0.6 * v + 0.66 * z, 0, 1)
    bounce = np.clip(v - 0.45, 0, 1) * 0.35
    level = np.clip(0.08 + 0.86 * facing + bounce, 0, 1)[..., None]
    low, mid, high = (np.array(rgb(color), float) for color in (dark, middle, light))
    shade = np.where(level < 0.55, low + (mid - low) * level / 0.55, mid + (high - mid) * (level - 0.55) / 0.45)
    gloss = np.exp(-(((u + 0.38) ** 2 + (v + 0.45) ** 2) / 0.02))[..., None] * 190
    inside = (np.hypot(u, v) <= 1).astype(np.uint8) * 255
    paint(image, Image.fromarray(inside, "L"), shade + gloss)


def grain(picture, strength):
    """Fine noise, so that flat areas are not perfectly flat."""
    pixels = np.asarray(picture, np.float32)
    noise = RNG.normal(0, strength, pixels.shape[:2])[..., None]
    return Image.fromarray(np.clip(pixels + noise, 0, 255).round().astype(np.uint8), "RGB")


def finish(image, name, noise=1.5, **options):
    size = (image.width // SCALE, image.height // SCALE)
    picture = grain(image.convert("RGB").resize(size, Image.LANCZOS), noise)
    picture.save(HERE / name, **options)
    print(name, picture.size, (HERE / name).stat().st_size, "bytes")


def ridge(width, base, waves):
    """The outline of hills: (wavelength, height, phase) sines above a base line."""
    xs = np.arange(0, width + 8, 4)
    return [(x, base - sum(h * np.sin(x / w + p) for w, h, p in waves)) for x in xs]


def cloud(image, cx, cy, size, alpha=235):
    for dx, dy, r in [(-1.5, 0.15, 0.55), (-0.75, -0.25, 0.8), (0.1, -0.5, 1.0), (0.95, -0.15, 0.75), (1.6, 0.2, 0.5)]:
        ellipse(image, cx + dx * size, cy + dy * size, r * size, r * size * 0.75, "fff6ea", alpha, blur=1.5)
    ellipse(image, cx, cy + 0.35 * size, size * 1.9, size * 0.28, "f7dfd0", alpha, blur=2)


def gull(image, x, y, size):
    line(image, [(x - size, y - size * 0.45), (x - size * 0.45, y - size * 0.6), (x, y)], "37415c", 2)
    line(image, [(x, y), (x + size * 0.45, y - size * 0.6), (x + size, y - size * 0.45)], "37415c", 2)


def seaside():
    width, height, horizon = 640, 480, 265
    image = gradient(width, height, [(0, "4b7fc0"), (0.3, "9cc3dd"), (0.48, "fbd9a8"), (0.56, "f8b27a"), (1, "f8b27a")])
    for radius, alpha in [(150, 26), (105, 36), (72, 55)]:
        ellipse(image, 455, 205, radius, radius, "fff0c0", alpha, blur=14)
    ellipse(image, 455, 205, 42, 42, "fff3c9")
    cloud(image, 150, 85, 34)
    cloud(image, 335, 130, 20, 200)
    cloud(image, 575, 70, 26, 215)

    far = ridge(width, 240, [(80, 16, 0.4), (33, 6, 1.2)])
    polygon(image, [*far, (width, 300), (0, 300)], "8aa3bd")
    near = [(x, y) for x, y in ridge(330, 232, [(70, 30, 0.9), (24, 5, 0)]) if x <= 330]
    polygon(image, [(0, 300), *[(x, y + max(0, x - 210) * 0.5) for x, y in near], (330, 300)], "5f8a76")

    sea = gradient(width, height, [(0, "f3c08c"), (0.56, "e9b083"), (0.66, "4f93a8"), (0.85, "23647f"), (1, "1c5570")])
    paint(image, mask_of(image, [(0, horizon), (width, horizon), (width, height), (0, height)]), np.asarray(sea)[..., :3])
    for _ in range(260):
        y = horizon + 3 + (height - horizon) * RNG.random() ** 1.4
        depth = (y - horizon) / (height - horizon)
        x, length = RNG.random() * width, 10 + 46 * depth * RNG.random()
        line(image, [(x, y), (x + length, y)], "d9eef0", 0.6 + 1.3 * depth, int(40 + 60 * RNG.random()))
    for _ in range(150):
        y = horizon + 2 + 120 * RNG.random()
        spread = 10 + (y - horizon) * 0.32
        x = 455 + RNG.normal(0, spread * 0.55)
        line(image, [(x - 9, y), (x + 9, y)], "ffe9b0", 1.5, 150)

    ellipse(image, 232, 372, 92, 8, "0d3448", 110, blur=3)
    polygon(image, [(143, 334), (322, 334), (296, 372), (170, 372)], "b5372f")
    polygon(image, [(143, 334), (322, 334), (319, 341), (148, 341)], "f4e9d8")
    polygon(image, [(166, 365), (301, 365), (296, 372), (170, 372)], "7f2320")
    line(image, [(228, 334), (228, 150)], "6b4a33", 4)
    polygon(image, [(234, 158), (234, 322), (322, 322)], "fffaf0")
    polygon(image, [(234, 158), (234, 322), (262, 322)], "f0e2cd")
    polygon(image, [(222, 176), (222, 322), (156, 322)], "f2b84b")
    polygon(image, [(222, 176), (222, 322), (204, 322)], "dd9c33")
    polygon(image, [(228, 150), (228, 166), (256, 158)], "c23b33")
    for x, y, size in [(395, 95, 13), (430, 78, 9), (470, 108, 11)]:
        gull(image, x, y, size)

    shore = [(x, 448 - 16 * np.sin(x / 95 + 0.6) - x * 0.03) for x in range(0, width + 8, 4)]
    polygon(image, [*[(x, y - 7) for x, y in shore], (width, height), (0, height)], "f5fbf7", 210)
    polygon(image, [*shore, (width, height), (0, height)], "e8c98f")
    polygon(image, [*[(x, y + 12) for x, y in shore], (width, height), (0, height)], "f1d8a5")
    finish(image, "seaside.jpg", quality=90)


def still_life():
    width, height, edge = 640, 480, 300
    image = gradient(width, height, [(0, "3d4b5c"), (0.45, "64778a"), (0.62, "7b8fa0"), (1, "7b8fa0")])
    ellipse(image, 190, 110, 260, 170, "b9c9d4", 90, blur=60)
    table = gradient(width, height, [(0, "a9744a"), (0.62, "b98355"), (1, "8a5a36")])
    paint(image, mask_of(image, [(0, edge), (width, edge), (width, height), (0, height)]), np.asarray(table)[..., :3])
    for _ in range(70):
        y = edge + 4 + (height - edge) * RNG.random()
        x, length = RNG.random() * width - 60, 60 + 200 * RNG.random()
        line(image, [(x, y), (x + length / 2, y + RNG.normal(0, 1.5)), (x + length, y)], "6d4428", 1, 45)
    line(image, [(0, edge), (width, edge)], "d9a878", 2, 160)

    # A cloth under everything, with its own shadow.
    ellipse(image, 335, 424, 265, 44, "2b1a0e", 110, blur=12)
    polygon(image, [(72, 380), (330, 344), (596, 388), (552, 444), (300, 460), (98, 436)], "e9e3d6")
    polygon(image, [(330, 344), (596, 388), (552, 444), (410, 452)], "d8d0c0")
    for start in [(130, 374), (190, 366), (250, 357)]:
        line(image, [start, (start[0] + 30, start[1] + 68)], "5b86a8", 5, 150)

    # The vase, as a body of revolution: shade depends on the distance from its axis.
    profile = [(118, 26), (128, 30), (140, 22), (175, 20), (205, 34), (250, 62), (300, 72), (350, 62), (384, 42), (392, 44)]
    # Rounded by a moving average over the outline.
    ys = np.arange(118, 393)
    radii = np.pad(np.interp(ys, [p[0] for p in profile], [p[1] for p in profile]), 16, mode="edge")
    profile = list(zip(ys, np.convolve(radii, np.ones(33) / 33, "valid")))
    axis = 205
    outline = [(axis - r, y) for y, r in profile] + [(axis + r, y) for y, r in reversed(profile)]
    ellipse(image, axis + 62, 398, 118, 16, "23140a", 150, blur=9)
    y, x = np.mgrid[0 : image.height, 0 : image.width] / SCALE
    reach = np.interp(y[:, 0], [p[0] for p in profile], [p[1] for p in profile])[:, None]
    u = np.clip((x - axis) / reach, -1, 1)
    level = np.clip(0.18 + 0.82 * np.clip(-0.55 * u + 0.83 * np.sqrt(1 - u * u), 0, 1), 0, 1)[..., None]
    band = ((y > 236) & (y < 262))[..., None]
    glaze = np.where(band, np.array(rgb("f0e6cf"), float), np.array(rgb("2f7f8c"), float))
    gleam = (np.exp(-((u + 0.5) ** 2) / 0.012) * np.clip((y - 195) / 60, 0, 1) * np.clip((350 - y) / 60, 0, 1))[..., None]
    paint(image, mask_of(image, outline), glaze * level * 1.1 + 110 * gleam)
    ellipse(image, axis, 124, 25, 5, "123a42")

    stems = [(axis - 4, 124, 120, 50), (axis, 122, 200, 38), (axis + 5, 124, 285, 58)]
    for x0, y0, x1, y1 in stems:
        line(image, [(x0, y0), ((x0 + x1) / 2 + (x0 - x1) * 0.1, (y0 + y1) / 2), (x1, y1)], "4f7a3a", 4)
    for (cx, cy), petal, heart in [((120, 50), "e8b93b", "7a4a1c"), ((200, 38), "f1f0ea", "d7a431"), ((285, 58), "d9573f", "5e2218")]:
        for turn in np.linspace(0, 2 * np.pi, 9)[:-1]:
            ellipse(image, cx + 17 * np.cos(turn), cy + 17 * np.sin(turn), 10, 10, petal)
        ellipse(image, cx, cy, 10, 10, heart)
    for shape in [[(160, 84), (112, 92), (138, 70)], [(246, 88), (296, 96), (262, 72)]]:
        polygon(image, shape, "5d8c45")

    ellipse(image, 442, 412, 96, 14, "23140a", 150, blur=8)
    ball(image, 395, 356, 54, "5d0f12", "c8322b", "f0715a")
    line(image, [(397, 306), (402, 292), (410, 284)], "4a2f1c", 4)
    polygon(image, [(404, 292), (430, 276), (440, 290), (420, 300)], "5d8c45")
    ellipse(image, 520, 424, 74, 11, "23140a", 140, blur=7)
    ball(image, 485, 380, 42, "8a4a06", "ee9a24", "ffd27a")
    ellipse(image, 350, 437, 66, 9, "23140a", 140, blur=6)
    ball(image, 318, 402, 34, "2f4a12", "86ac38", "d3e884")
    finish(image, "still-life.jpg", quality=90)


def star(cx, cy, outer, inner, count, turn=-np.pi / 2):
    corners = []
    for index in range(count * 2):
        radius = outer if index % 2 == 0 else inner
        angle = turn + np.pi * index / count
        corners.append((cx + radius * np.cos(angle), cy + radius * np.sin(angle)))
    return corners


def poster():
    """Drawn on five sheets, which are also stored as layers to combine with `run composite`."""
    width, height = 480, 640
    image = gradient(width, height, [(0, "17224d"), (0.45, "3b3b7a"), (0.68, "c9607d"), (0.8, "f4a261"), (1, "f4a261")])
    for _ in range(70):
        x, y, r = RNG.random() * width, RNG.random() * 320, 0.5 + RNG.random() * 1.3
        ellipse(image, x, y, r, r, "fff7dd", int(110 + 140 * RNG.random()))
    sheets = [image]
    sheets.append(image := canvas(width, height))
    ellipse(image, 330, 150, 120, 120, "ffe9a8", 60, blur=26)
    polygon(image, star(330, 150, 84, 36, 5), "ffd35c")
    polygon(image, star(330, 150, 62, 26, 5), "ffe79a")

    sheets.append(image := canvas(width, height))
    polygon(image, [*ridge(width, 455, [(60, 22, 0.2), (21, 6, 1)]), (width, height), (0, height)], "4a3f74")
    polygon(image, [*ridge(width, 505, [(95, 20, 2.6)]), (width, height), (0, height)], "2f5d5a")
    polygon(image, [*ridge(width, 560, [(130, 15, 0.4)]), (width, height), (0, height)], "3f7d58")

    # The tree.
    sheets.append(image := canvas(width, height))
    ellipse(image, 385, 572, 70, 9, "173326", 130, blur=5)
    polygon(image, [(372, 572), (378, 440), (394, 440), (402, 572)], "5a3a2a")
    polygon(image, [(388, 440), (394, 440), (402, 572), (390, 572)], "432a20")
    for cx, cy, r, color in [(345, 420, 44, "1f6b4c"), (425, 424, 42, "1b5f44"), (385, 380, 56, "2a8259"), (370, 364, 32, "46a06e")]:
        ellipse(image, cx, cy, r, r, color)
    for cx, cy in [(340, 418), (372, 400), (412, 392), (428, 430), (390, 436), (398, 358)]:
        ellipse(image, cx, cy, 6, 6, "e4573d")

    # The house.
    sheets.append(image := canvas(width, height))
    ellipse(image, 160, 578, 120, 11, "173326", 140, blur=6)
    polygon(image, [(70, 440), (232, 440), (232, 576), (70, 576)], "f3e3c3")
    polygon(image, [(188, 440), (232, 440), (232, 576), (188, 576)], "dcc7a2")
    polygon(image, [(194, 352), (218, 352), (218, 410), (194, 410)], "8d4034")
    polygon(image, [(48, 446), (151, 352), (254, 446)], "c8473b")
    polygon(image, [(151, 352), (254, 446), (206, 446)], "a5362f")
    polygon(image, [(134, 500), (172, 500), (172, 576), (134, 576)], "3f6c8f")
    ellipse(image, 165, 540, 3, 3, "ffe08a")
    for x in (86, 190):
        ellipse(image, x + 14, 484, 30, 30, "ffdf87", 70, blur=8)
        polygon(image, [(x, 468), (x + 28, 468), (x + 28, 500), (x, 500)], "ffe391")
        line(image, [(x + 14, 468), (x + 14, 500)], "8d6a3a", 2.5)
        line(image, [(x, 484), (x + 28, 484)], "8d6a3a", 2.5)
    ellipse(image, 151, 414, 13, 13, "ffe391")
    polygon(image, [(136, 576), (170, 576), (214, 640), (100, 640)], "dcb98a")
    for index, (dx, dy) in enumerate([(0, 0), (8, -22), (22, -46), (42, -72)]):
        ellipse(image, 206 + dx, 340 + dy, 9 + index * 3.5, 8 + index * 3, "e9e6f2", 150 - index * 28, blur=2)
    for _ in range(40):
        x, y = RNG.random() * width, 590 + RNG.random() * 46
        if not 95 < x < 220:
            color = ["ffd35c", "f6f1ff", "ff8f76"][RNG.integers(3)]
            ellipse(image, x, y, 2.6, 2.6, color)
    whole = canvas(width, height)
    for number, (sheet, name) in enumerate(zip(sheets, ["sky", "star", "hills", "tree", "house"], strict=True), 1):
        whole.alpha_composite(sheet)
        path = HERE / "poster" / f"{number}-{name}.png"
        path.parent.mkdir(exist_ok=True)
        sheet.resize((width, height), Image.LANCZOS).save(path, optimize=True)
    finish(whole, "poster.png", noise=0)


def small():
    """A simple scene of flat shapes at the size that the small checkpoints work at."""
    image = gradient(128, 128, [(0, "7ec8f2"), (0.7, "d8f0fb"), (1, "d8f0fb")])
    ellipse(image, 99, 27, 14, 14, "ffd34d")
    ellipse(image, 30, 24, 13, 7, "ffffff")
    ellipse(image, 42, 20, 11, 8, "ffffff")
    ellipse(image, 20, 112, 74, 34, "6cbf5f")
    ellipse(image, 108, 122, 70, 36, "4fa653")
    polygon(image, [(24, 62), (64, 62), (64, 98), (24, 98)], "f4e4c1")
    polygon(image, [(18, 64), (44, 40), (70, 64)], "d2493c")
    polygon(image, [(38, 80), (50, 80), (50, 98), (38, 98)], "7a4b2b")
    polygon(image, [(88, 74), (94, 74), (95, 104), (87, 104)], "7a4b2b")
    ellipse(image, 91, 66, 17, 19, "2f8f4e")
    finish(image, "house.png", noise=0)


if __name__ == "__main__":
    for scene in [seaside, still_life, poster, small]:
        scene()
