#!/usr/bin/env python3
"""Reads exported files with other projects' readers (psd-tools, python-pptx, Pillow, ImageMagick, Krita, LibreOffice,
and for OpenRaster Python's own zip and XML), and compares the result with the originals.

    cargo test --test it export        # writes the files, target/tmp/export/
    tests/export/check.py [FOLDER]

The readers are installed into a virtual environment under target/.
"""

import io
import json
import math
import os
import shutil
import subprocess
import sys
import venv
import xml.etree.ElementTree as xml
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
READERS = TARGET / "export-readers"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def with_readers():
    """Continues in the virtual environment, which is created if it is missing or has other versions."""
    python = READERS / "bin" / "python"
    mark = READERS / "requirements.txt"
    if not mark.exists() or mark.read_bytes() != REQUIREMENTS.read_bytes():
        venv.create(READERS, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS], check=True)
        shutil.copy(REQUIREMENTS, mark)
    os.execv(python, [str(python), str(Path(__file__).resolve()), *sys.argv[1:]])


if Path(sys.prefix) != READERS.resolve():
    with_readers()

import numpy as np  # noqa: E402
from PIL import Image, ImageCms, JpegImagePlugin  # noqa: E402
from pptx import Presentation  # noqa: E402
from psd_tools import PSDImage  # noqa: E402
from psd_tools.constants import Resource  # noqa: E402


def rgba(picture):
    return np.asarray(picture.convert("RGBA"))


def same(what, got, wanted, within=0):
    assert got.shape == wanted.shape, f"{what}: {got.shape} is not {wanted.shape}"
    furthest = int(np.abs(got.astype(int) - wanted.astype(int)).max(initial=0))
    assert furthest <= within, f"{what}: a value differs by {furthest}"


def composite(layers):
    """The visible layers over each other, in floating point."""
    height, width = layers[0]["pixels"].shape[:2]
    colour, alpha = np.zeros((height, width, 3)), np.zeros((height, width, 1))
    for layer in layers:
        if not layer["visible"]:
            continue
        top = layer["pixels"] / 255.0
        through = 1 - top[..., 3:] * layer["opacity"]
        colour = top[..., :3] * (1 - through) + colour * through
        alpha = 1 - through + alpha * through
    return colour, alpha


def check_merged(what, got, layers, within=2):
    """Colors count by their visibility."""
    colour, alpha = composite(layers)
    same(f"{what}: alpha", got[..., 3], np.round(alpha[..., 0] * 255).astype(np.uint8), within)
    seen = got[..., :3] / 255.0 * (got[..., 3:] / 255.0)
    furthest = float(np.abs(seen - colour).max())
    assert furthest <= within / 255.0, f"{what}: a colour differs by {furthest * 255:.1f}"


def shown(name):
    """A layer's name as it is written: control characters become blanks."""
    return "".join(" " if c < " " else c for c in name)


def bounds(pixels):
    ys, xs = np.nonzero(pixels[..., 3])
    return (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1) if len(xs) else (0, 0, 0, 0)


def check_profile(profile):
    """Checks that the profile is sRGB, by its name and by Little CMS' conversions, including the white point."""
    name = ImageCms.getProfileDescription(profile)
    assert "sRGB" in name, name
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(len(levels), -1, 3)
    for intent in ImageCms.Intent:
        turned = ImageCms.profileToProfile(Image.fromarray(cube), profile, ImageCms.createProfile("sRGB"), intent)
        same(f"the profile, {intent.name}", np.asarray(turned), cube, 1)


def check_psd(path, layers):
    psd = PSDImage.open(path)
    height, width = layers[0]["pixels"].shape[:2]
    assert (psd.width, psd.height, psd.depth, psd.color_mode.name) == (width, height, 8, "RGB")
    assert psd.image_resources.get_data(Resource.VERSION_INFO).has_composite
    profile = psd.image_resources.get_data(Resource.ICC_PROFILE)
    check_profile(ImageCms.ImageCmsProfile(io.BytesIO(bytes(profile))))

    # psd-tools lists from the back to the front.
    assert [layer.name for layer in psd] == [shown(layer["name"]) for layer in layers]
    for got, wanted in zip(psd, layers):
        what = f"{path.name}, {wanted['name']!r}"
        assert got.is_visible() == wanted["visible"], what
        assert got.opacity == math.floor(wanted["opacity"] * 255 + 0.5), what
        assert got.blend_mode.name == "NORMAL", what
        left, top, right, bottom = box = bounds(wanted["pixels"])
        assert got.bbox == box, f"{what}: {got.bbox} is not {box}"
        if right > left:
            same(what, rgba(got.topil(apply_icc=False)), wanted["pixels"][top:bottom, left:right])
    check_merged(f"{path.name}, merged", rgba(psd.topil(apply_icc=False)), layers)

    # Pillow is another reader: of the merged picture and of the layers' places.
    with Image.open(path) as picture:
        assert picture.size == (width, height) and picture.format == "PSD"
        assert len(picture.layers) == len(layers)
        raw = np.asarray(picture)
    colour, alpha = composite(layers)
    on_white = np.round((colour + 1 - alpha) * 255).astype(np.uint8)
    same(f"{path.name}, Pillow", raw[..., :3], on_white, 2)


def check_ora(path, layers):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        first = archive.infolist()[0]
        assert (first.filename, first.compress_type, first.extra) == ("mimetype", zipfile.ZIP_STORED, b"")
        assert archive.read("mimetype") == b"image/openraster"
        image = xml.fromstring(archive.read("stack.xml"))
        height, width = layers[0]["pixels"].shape[:2]
        assert image.tag == "image" and image.get("version") == "0.0.3"
        assert (int(image.get("w")), int(image.get("h"))) == (width, height)
        (stack,) = image
        assert stack.tag == "stack"
        assert len(stack) == len(layers)
        # The topmost comes first.
        for got, wanted in zip(reversed(stack), layers):
            what = f"{path.name}, {wanted['name']!r}"
            assert got.tag == "layer" and got.get("name") == shown(wanted["name"]), (what, got.get("name"))
            assert float(got.get("opacity")) == wanted["opacity"], what
            assert got.get("visibility") == ("visible" if wanted["visible"] else "hidden"), what
            assert got.get("composite-op") == "svg:src-over", what
            assert (got.get("x"), got.get("y")) == ("0", "0"), what
            same(what, rgba(Image.open(io.BytesIO(archive.read(got.get("src"))))), wanted["pixels"])
        merged = Image.open(io.BytesIO(archive.read("mergedimage.png")))
        check_merged(f"{path.name}, merged", rgba(merged), layers)
        thumbnail = Image.open(io.BytesIO(archive.read("Thumbnails/thumbnail.png")))
        assert max(thumbnail.size) <= 256 and thumbnail.mode == "RGBA", thumbnail
        assert abs(thumbnail.width / thumbnail.height - width / height) < 0.02, thumbnail.size


def check_zip(path, layers):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        listed = json.loads(archive.read("stack.json"))
        assert len(listed) == len(layers)
        for got, wanted in zip(listed, layers):
            assert got == {key: wanted[key] for key in ("file", "name", "opacity", "visible")}
            same(got["file"], rgba(Image.open(io.BytesIO(archive.read(got["file"])))), wanted["pixels"])
        if len(layers) > 1:
            merged = Image.open(io.BytesIO(archive.read("composite.png")))
            check_merged(f"{path.name}, composite.png", rgba(merged), layers)


def check_pptx(path, layers):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for name in archive.namelist():
            if name.endswith((".xml", ".rels")):
                xml.fromstring(archive.read(name))
    deck = Presentation(path)
    (slide,) = deck.slides
    height, width = layers[0]["pixels"].shape[:2]
    unit = deck.slide_width / width
    assert abs(deck.slide_height / height - unit) <= 1, (deck.slide_width, deck.slide_height)
    assert all(914_400 <= side <= 56 * 914_400 for side in (deck.slide_width, deck.slide_height))
    assert unit == 9525 or min(deck.slide_width, deck.slide_height) == 914_400
    # Both list from the back to the front.
    assert [shape.name for shape in slide.shapes] == [shown(layer["name"]) for layer in layers]
    found = []
    for shape, wanted in zip(slide.shapes, layers):
        what = f"{path.name}, {wanted['name']!r}"
        # Without the border in which alpha is below 8; an empty layer is one pixel.
        seen = wanted["pixels"] * (wanted["pixels"][..., 3:] >= 8)
        left, top, right, bottom = box = bounds(seen)
        if box == (0, 0, 0, 0):
            right = bottom = 1
        offset = [shape.left, shape.top, shape.left + shape.width, shape.top + shape.height]
        for got, pixels in zip(offset, (left, top, right, bottom)):
            assert abs(got - pixels * unit) <= 1, f"{what}: {offset} is not {box}"
        got = rgba(Image.open(io.BytesIO(shape.image.blob)))
        if box != (0, 0, 0, 0):
            same(what, got, wanted["pixels"][top:bottom, left:right])
        properties = shape._element.nvPicPr.cNvPr
        visible = properties.get("hidden") is None
        assert visible == wanted["visible"], what
        faint = shape._element.findall(".//{*}alphaModFix")
        opacity = int(faint[0].get("amt")) / 100_000 if faint else 1
        assert opacity == wanted["opacity"], what
        pixels = np.zeros_like(wanted["pixels"])
        pixels[top:bottom, left:right] = got
        found.append({"pixels": pixels, "visible": visible, "opacity": opacity})
    colour, alpha = composite(found)
    expected_colour, expected_alpha = composite(layers)
    furthest = max(np.abs(colour - expected_colour).max(), np.abs(alpha - expected_alpha).max())
    assert furthest <= 7 / 255, f"{path.name}: the composite differs by {furthest * 255:.1f}"


def check_webp(path, layers):
    with Image.open(path) as picture:
        assert picture.format == "WEBP"
        check_profile(ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"])))
        check_merged(path.name, rgba(picture), layers)


def check_jpeg(path, layers):
    with Image.open(path) as picture:
        assert (picture.format, picture.mode) == ("JPEG", "RGB")
        assert JpegImagePlugin.get_sampling(picture) == 0, "the colors have fewer pixels (not 4:4:4)"
        check_profile(ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"])))
        got = np.asarray(picture).astype(float)
    colour, alpha = composite(layers)
    furthest = np.abs(got - (colour + 1 - alpha) * 255).mean()
    assert furthest < 4, f"{path.name}: a value differs by {furthest:.1f} on average"


def libreoffice():
    return shutil.which("soffice") or shutil.which("libreoffice")


def check_with_libreoffice(program, path, layers):
    """Draws the slide; the layers' edges are resampled."""
    command = [program, "--headless", "--convert-to", "png", "--outdir", path.parent / "drawn", path]
    subprocess.run(command, capture_output=True, check=True, timeout=300)
    height, width = layers[0]["pixels"].shape[:2]
    with Image.open(path.parent / "drawn" / "stack.png") as picture:
        got = np.asarray(picture.convert("RGB").resize((width, height), Image.Resampling.BOX)).astype(float)
    colour, alpha = composite(layers)
    furthest = np.abs(got - (colour + 1 - alpha) * 255).mean()
    assert furthest < 12, f"LibreOffice, {path.name}: a value differs by {furthest:.1f} on average"


def imagemagick():
    for name in ("magick", "convert-im6.q16", "convert"):
        if shutil.which(name):
            said = subprocess.run([name, "-version"], capture_output=True, text=True)
            if said.returncode == 0 and said.stdout.startswith("Version: ImageMagick"):
                return name
    return None


def check_with_imagemagick(program, path, layers):
    """Picture 0 is the merged one, then come the layers that have pixels, the rearmost first."""
    wanted = [layer for layer in layers if bounds(layer["pixels"])[2]]
    args = [program, path, "-format", "%wx%h%O\n", "info:"]
    boxes = subprocess.run(args, capture_output=True, check=True, text=True).stdout.split()[1:]
    for index, (layer, box) in enumerate(zip(wanted, boxes, strict=True)):
        left, top, right, bottom = bounds(layer["pixels"])
        assert box == f"{right - left}x{bottom - top}+{left}+{top}", (path.name, layer["name"], box)
        # ImageMagick changes the alpha of a hidden or faint layer.
        if layer["visible"] and layer["opacity"] == 1:
            args = [program, f"{path}[{index + 1}]", "-depth", "8", "RGBA:-"]
            raw = subprocess.run(args, capture_output=True, check=True).stdout
            got = np.frombuffer(raw, np.uint8).reshape(bottom - top, right - left, 4)
            same(f"ImageMagick, {path.name}, {layer['name']!r}", got, layer["pixels"][top:bottom, left:right])


def krita():
    """Krita's own name, where it can run without a screen."""
    return shutil.which("krita") if shutil.which("xvfb-run") else None


def check_with_krita(program, path, layers):
    """Opens it and saves it in Krita's own format, a ZIP with the layers' names in XML, topmost first."""
    saved = path.with_suffix(f".{path.suffix[1:]}.kra")
    command = ["xvfb-run", "-a", program, path, "--export", "--export-filename", saved]
    for _ in range(2):  # two virtual screens that start at once may take the same number
        subprocess.run(command, capture_output=True, timeout=300)
        if saved.exists():
            break
    with zipfile.ZipFile(saved) as archive:
        opened = xml.fromstring(archive.read("maindoc.xml")).findall(".//{*}layer")
        merged = rgba(Image.open(io.BytesIO(archive.read("mergedimage.png"))))
    assert len(opened) == len(layers), f"Krita, {path.name}: {len(opened)} layers"
    for got, wanted in zip(reversed(opened), layers):
        what = f"Krita, {path.name}, {wanted['name']!r}"
        assert got.get("name") == shown(wanted["name"]), (what, got.get("name"))
        assert got.get("visible") == str(int(wanted["visible"])), what
        assert abs(int(got.get("opacity")) - wanted["opacity"] * 255) <= 1, what
    check_merged(f"Krita, {path.name}", merged, layers)


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET / "tmp" / "export"
    cases = sorted(path.parent for path in folder.glob("*/expected.json"))
    assert cases, f"no exports in {folder}; run `cargo test --test it export` first"
    magick, painter, office = imagemagick(), krita(), libreoffice()
    for case in cases:
        layers = json.loads((case / "expected.json").read_text())
        for layer in layers:
            layer["pixels"] = rgba(Image.open(case / layer["file"]))
        check_psd(case / "stack.psd", layers)
        check_ora(case / "stack.ora", layers)
        check_zip(case / "stack.zip", layers)
        check_pptx(case / "stack.pptx", layers)
        check_webp(case / "stack.webp", layers)
        check_jpeg(case / "stack.jpg", layers)
        if magick:
            check_with_imagemagick(magick, case / "stack.psd", layers)
        if painter and len(layers) > 1:
            check_with_krita(painter, case / "stack.ora", layers)
            check_with_krita(painter, case / "stack.psd", layers)
        if office and case.name == "ordinary":
            check_with_libreoffice(office, case / "stack.pptx", layers)
        print(f"ok       export {case.name}: {len(layers)} layers, read back from psd, ora, zip, pptx, webp and jpg")
    if not magick:
        print("SKIPPED: exports read by ImageMagick: it is not installed")
    if not painter:
        print("not opened with Krita, which is not on this machine")
    if not office:
        print("not opened with LibreOffice, which is not on this machine")


main()
