"""The input pictures, drawn here."""

from PIL import Image, ImageDraw


def gradient(width: int, height: int, top, bottom) -> Image.Image:
    picture = Image.new("RGB", (width, height))
    for y in range(height):
        share = y / (height - 1)
        colour = tuple(round(a + (b - a) * share) for a, b in zip(top, bottom))
        picture.paste(colour, (0, y, width, y + 1))
    return picture


def house() -> Image.Image:
    """200x152, RGB: a house, a tree and the sun on a meadow."""
    picture = gradient(200, 152, (96, 160, 230), (226, 236, 246))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((150, 10, 182, 42), fill=(252, 206, 60))
    draw.polygon([(0, 118), (60, 96), (130, 112), (200, 92), (200, 152), (0, 152)], fill=(108, 168, 84))
    draw.rectangle((44, 72, 104, 124), fill=(196, 84, 64))
    draw.polygon([(36, 74), (74, 40), (112, 74)], fill=(92, 48, 44))
    draw.rectangle((66, 96, 82, 124), fill=(70, 42, 30))
    for x in (50, 88):
        draw.rectangle((x, 82, x + 11, 93), fill=(244, 236, 170), outline=(70, 42, 30))
    draw.rectangle((146, 86, 154, 124), fill=(104, 72, 44))
    for x, y, r in ((150, 70, 22), (136, 82, 14), (164, 82, 14)):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(52, 122, 62))
    return picture


def boat() -> Image.Image:
    """Portrait, 121x167, RGB: a sailing boat in the evening."""
    picture = gradient(121, 167, (70, 40, 96), (246, 150, 90))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((74, 60, 106, 92), fill=(255, 226, 160))
    draw.rectangle((0, 104, 121, 167), fill=(28, 62, 104))
    for y in range(110, 166, 9):
        draw.line([(8 + y % 13, y), (70 + y % 29, y)], fill=(92, 130, 172), width=2)
    draw.polygon([(24, 112), (90, 112), (78, 128), (36, 128)], fill=(120, 66, 40))
    draw.polygon([(54, 34), (54, 108), (92, 108)], fill=(240, 236, 226))
    draw.polygon([(50, 46), (50, 108), (26, 108)], fill=(214, 60, 60))
    return picture


def badge() -> Image.Image:
    """150x150, RGBA: a star on a half transparent disc; what is outside is transparent and still has a colour."""
    picture = Image.new("RGBA", (150, 150), (255, 0, 180, 0))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((10, 10, 139, 139), fill=(30, 90, 200, 128), outline=(10, 30, 90, 255), width=6)
    points = [(75, 24), (88, 58), (124, 60), (96, 82), (106, 118), (75, 98), (44, 118), (54, 82), (26, 60), (62, 58)]
    draw.polygon(points, fill=(255, 222, 70, 255))
    for x in range(20, 131):
        draw.line([(x, 128), (x, 136)], fill=(220, 40, 40, (x - 20) * 255 // 110))
    return picture


def pictures() -> dict[str, Image.Image]:
    return {"house": house(), "boat": boat(), "badge": badge()}


def patterned(width: int, height: int, channels: int, seed: int) -> Image.Image:
    """Smooth waves with hard edges and noise, for the resize and processor fixtures."""
    import numpy as np

    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    rng = np.random.Generator(np.random.PCG64(seed))
    planes = []
    for channel in range(channels):
        wave = np.sin(x / (3.1 + channel)) + np.cos(y / (4.3 - 0.7 * channel)) + rng.normal(0, 0.25, x.shape)
        planes.append(127.5 + 60 * wave + 70 * ((x // 7 + y // 5 + channel) % 2 == 0))
    if channels == 4:
        planes[3] = np.where(x < width / 3, 0, np.where(x > 2 * width / 3, 255, planes[3]))
    data = np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)
    return Image.fromarray(data, "RGBA" if channels == 4 else "RGB")
