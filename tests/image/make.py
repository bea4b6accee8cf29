"""Makes the pictures beside this file, and their expected pixels, with Pillow.

    python tests/image/make.py        (needs pillow 13.0.0 and numpy)

Everything is drawn from a fixed seed, so that running it again changes nothing but encoder details.
"""

import hashlib
import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

HERE = Path(__file__).parent
RNG = np.random.default_rng(20)


def save(name, image, **options):
    image.save(HERE / name, **options)


def scene(width, height):
    """Smooth colour, hard edges and noise, with every kind of alpha: none, full, soft, and colour under alpha 0."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x * 7 + y * 13) % 256], -1)
    noise = RNG.integers(0, 256, pixels.shape)
    pixels = np.where((x + y)[..., None] % 3 == 0, noise, pixels)
    alpha = np.clip((x - width / 3) * 255 / (width / 3), 0, 255)
    alpha = np.where((x // 4 + y // 4) % 5 == 0, RNG.integers(0, 256, alpha.shape), alpha)
    return Image.fromarray(np.dstack([pixels, alpha]).astype(np.uint8), "RGBA")


def resizes():
    source = scene(37, 29)
    save("source.png", source)
    for width, height in [(64, 48), (11, 9), (37, 10), (5, 29), (90, 7), (30, 9), (1, 1)]:
        size = (width, height)
        rgb = source.convert("RGB")
        save(f"lanczos-{width}x{height}.png", source.resize(size, Image.LANCZOS))
        save(f"lanczos-rgb-{width}x{height}.png", rgb.resize(size, Image.LANCZOS))
        save(f"lanczos-l-{width}x{height}.png", source.getchannel("A").resize(size, Image.LANCZOS))
        save(f"bicubic-rgb-{width}x{height}.png", rgb.resize(size, Image.BICUBIC))


def large():
    """Hashes of Pillow's output at sizes that the pipelines really use, of a picture that is a formula."""
    lines = []
    for source, target in [
        ((640, 480), (736, 544)),
        ((480, 1200), (320, 832)),
        ((1200, 900), (640, 640)),
        ((333, 777), (420, 980)),
        ((200, 1000), (140, 308)),
    ]:
        width, height = source
        y, x = np.mgrid[0:height, 0:width].astype(np.uint32)
        planes = [x * x // 7 + y, x + y * y // 5, x * y // 11, (x + 2 * y) // 3]
        layer = Image.fromarray(np.stack(planes, -1).astype(np.uint8), "RGBA")
        rgb = Image.fromarray(np.stack(planes[:3], -1).astype(np.uint8), "RGB")
        for name, image, kind in [
            ("lanczos", layer, Image.LANCZOS),
            ("lanczos_rgb", rgb, Image.LANCZOS),
            ("bicubic_rgb", rgb, Image.BICUBIC),
        ]:
            digest = hashlib.sha256(image.resize(target, kind).tobytes()).hexdigest()
            lines.append(f"{name} {width} {height} {target[0]} {target[1]} {digest}\n")
    (HERE / "large.txt").write_text("".join(lines))


def on_white():
    """Every value at every alpha, on white: column is value, row is alpha."""
    alpha, value = np.mgrid[0:256, 0:256].astype(np.uint8)
    table = Image.fromarray(np.dstack([value, value, value, alpha]), "RGBA")
    white = Image.new("RGBA", table.size, (255, 255, 255, 255))
    save("on-white.png", Image.alpha_composite(white, table).getchannel("R"), optimize=True)


def premultiplied():
    """What a there-and-back through Pillow's RGBa makes of every value at every alpha."""
    alpha, value = np.mgrid[0:256, 0:256].astype(np.uint8)
    table = Image.fromarray(np.dstack([value, value, value, alpha]), "RGBA")
    save("premultiplied.png", table.convert("RGBa").convert("RGBA").getchannel("R"), optimize=True)


def smooth(width, height, channels):
    y, x = np.mgrid[0:height, 0:width]
    planes = [(x * 255 // width), (y * 255 // height), ((x + y) * 255 // (width + height)), (x * y) % 90]
    return np.stack(planes[:channels], -1).astype(np.uint8)


def cmyk():
    """A CMYK JPEG as Pillow writes it (inverted, Adobe marker), and the same data called YCCK by that marker."""
    picture = Image.fromarray(smooth(32, 24, 4), "CMYK")
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    adobe = data.index(b"Adobe")
    for name, transform in [("cmyk", 0), ("ycck", 2)]:
        changed = data[: adobe + 11] + bytes([transform]) + data[adobe + 12 :]
        (HERE / f"{name}.jpg").write_bytes(changed)
        save(f"{name}-rgb.png", Image.open(io.BytesIO(changed)).convert("RGB"))


def profile(space, tags, name):
    """A version 2 display profile from its tags."""
    description = name.encode()
    tags = dict(tags)
    tags[b"desc"] = b"desc" + bytes(4) + struct.pack(">I", len(description) + 1) + description + bytes(1 + 8 + 3 + 67)
    tags[b"cprt"] = b"text" + bytes(4) + b"public domain\0"
    table, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        data += bytes(-len(data) % 4)
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data
    header = struct.pack(">I4sI4s4s4s", start + len(body), b"none", 0x02400000, b"mntr", space, b"XYZ ")
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + xyz(0.9642, 1.0, 0.8249) + bytes(48)
    assert len(header) == 128
    return header + struct.pack(">I", len(tags)) + table + body


def xyz(*values):
    return struct.pack(">3i", *(round(value * 65536) for value in values))


def gamma(value):
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256))


def wide_gamut():
    """Primaries of Adobe RGB (1998) adapted to D50, gamma 2.2."""
    place = lambda *values: b"XYZ " + bytes(4) + xyz(*values)
    tags = {
        b"wtpt": place(0.9642, 1.0, 0.8249),
        b"rXYZ": place(0.60974, 0.31111, 0.01947),
        b"gXYZ": place(0.20528, 0.62567, 0.06087),
        b"bXYZ": place(0.14919, 0.06322, 0.74457),
        b"rTRC": gamma(2.2),
        b"gTRC": gamma(2.2),
        b"bTRC": gamma(2.2),
    }
    return profile(b"RGB ", tags, "Wide test RGB")


def profiles():
    srgb = ImageCms.createProfile("sRGB")
    srgb_bytes = ImageCms.ImageCmsProfile(srgb).tobytes()
    picture = Image.fromarray(smooth(32, 24, 3), "RGB")

    wide = wide_gamut()
    save("icc-wide.png", picture, icc_profile=wide)
    opened = ImageCms.ImageCmsProfile(io.BytesIO(wide))
    save("icc-wide-srgb.png", ImageCms.profileToProfile(picture, opened, srgb))

    layer = picture.copy()
    layer.putalpha(Image.fromarray(smooth(32, 24, 4)[..., 3]))
    save("icc-wide-alpha.png", layer, icc_profile=wide)
    save("icc-srgb.png", picture, icc_profile=srgb_bytes)
    save("icc-broken.png", picture, icc_profile=wide[:200])
    save("icc-wide.jpg", picture, icc_profile=wide, quality=95)
    decoded = Image.open(HERE / "icc-wide.jpg")
    save("icc-wide-jpg-srgb.png", ImageCms.profileToProfile(decoded, opened, srgb))

    grey = Image.fromarray(smooth(32, 24, 1)[..., 0], "L")
    tags = {b"wtpt": b"XYZ " + bytes(4) + xyz(0.9642, 1.0, 0.8249), b"kTRC": gamma(1.8)}
    other = profile(b"GRAY", tags, "Grey gamma 1.8")
    save("icc-grey.png", grey, icc_profile=other)
    opened = ImageCms.ImageCmsProfile(io.BytesIO(other))
    save("icc-grey-srgb.png", ImageCms.profileToProfile(grey, opened, srgb, outputMode="RGB"))
    save("icc-mismatch.png", picture, icc_profile=other)


def animations():
    frames = [Image.new("RGB", (12, 8), colour) for colour in [(200, 30, 30), (30, 200, 30), (30, 30, 200)]]
    rest = dict(save_all=True, append_images=frames[1:], duration=100)
    save("animated.webp", frames[0], lossless=True, **rest)
    save("animated.png", frames[0], **rest)
    save("animated.gif", frames[0], **rest)
    save("pages.tif", frames[0], save_all=True, append_images=frames[1:])


def kinds():
    """Each kind of pixel, with what Pillow's convert("RGBA") makes of it."""
    picture = Image.fromarray(smooth(32, 24, 3), "RGB")
    layer = scene(16, 12)
    palette = layer.convert("RGB").quantize(16)
    originals = {
        "palette.png": (palette, {"transparency": bytes([0, 100, 255])}),
        "palette-2bit.png": (picture.quantize(4), {"bits": 2}),
        "grey.png": (picture.convert("L"), {}),
        "grey-trns.png": (picture.convert("L"), {"transparency": 40}),
        "grey-alpha.png": (layer.convert("LA"), {}),
        "one-bit.png": (picture.convert("1"), {}),
        "rgb-trns.png": (picture, {"transparency": tuple(picture.getpixel((5, 5)))}),
        "rgba.webp": (layer, {"lossless": True, "exact": True}),
        "rgba.tif": (layer, {"compression": "tiff_lzw"}),
        "rgb.bmp": (picture, {}),
        "palette.gif": (palette, {}),
    }
    for name, (image, options) in originals.items():
        save(f"kind-{name}", image, **options)
        save(f"kind-{name}.rgba.png", Image.open(HERE / f"kind-{name}").convert("RGBA"))
    cmyk = Image.fromarray(smooth(32, 24, 4), "CMYK")
    save("cmyk.tif", cmyk, compression="tiff_lzw")
    save("cmyk-tif-rgb.png", cmyk.convert("RGB"))
    save("progressive.jpg", picture, progressive=True, quality=90)
    save("float.tif", Image.fromarray(smooth(8, 8, 1)[..., 0].astype(np.float32)))


def orientation():
    """A JPEG that says it lies on its side, with a thumbnail of its own inside the EXIF block."""
    picture = Image.fromarray(smooth(32, 24, 3), "RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, options in [("jpg", {"quality": 95}), ("webp", {"lossless": True}), ("png", {})]:
        save(f"orientation-6.{name}", picture, exif=exif, **options)


def main():
    for old in HERE.glob("*.*"):
        if old.suffix != ".py":
            old.unlink()
    for part in [resizes, large, on_white, premultiplied, cmyk, profiles, animations, kinds, orientation]:
        part()
    files = [path for path in HERE.iterdir() if path.suffix != ".py"]
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files)} bytes")


if __name__ == "__main__":
    main()
