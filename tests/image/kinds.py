"""Draws small pictures of many kinds into FOLDER, each with the pixels it must give: NAME and NAME.rgba.png.

    python tests/image/kinds.py FOLDER

Needs Pillow, NumPy, tifffile, imagecodecs, pillow-jxl-plugin, and cjxl and djxl (Debian: libjxl-tools).
tests/image/kinds/ has some of them; `scripts/corpus` checks all."""

import pathlib
import subprocess
import sys
import tempfile

import imagecodecs
import numpy
import pillow_jxl  # noqa: F401  registers JPEG XL
import tifffile
from PIL import Image, ImageFilter, ImageOps

SIZE = (50, 40)


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    x, y = numpy.meshgrid(numpy.arange(SIZE[0]), numpy.arange(SIZE[1]))
    rgb = numpy.stack([x * 5, y * 6, (x + y) * 2], -1).astype(numpy.uint8)
    gray = (x * 3 + y * 2).astype(numpy.uint8)
    alpha = (255 - y * 6).astype(numpy.uint8)
    disc = ((x - 25) ** 2 + (y - 20) ** 2 < 200)

    def store(name, expected):
        expected = numpy.asarray(expected)
        if expected.ndim == 2:
            expected = numpy.stack([expected] * 3, -1)
        if expected.shape[-1] == 3:
            expected = numpy.concatenate([expected, numpy.full(expected.shape[:2] + (1,), 255, numpy.uint8)], -1)
        Image.fromarray(expected.astype(numpy.uint8), "RGBA").save(folder / f"{name}.rgba.png")

    def tiff(name, data, expected, **options):
        tifffile.imwrite(folder / f"{name}.tif", data, metadata=None, **options)
        store(f"{name}.tif", expected)

    def pillow(name, image, expected, **options):
        image.save(folder / name, **options)
        store(name, expected)

    def rounded(values, most):
        return numpy.round(values.astype(numpy.float64) / most * 255).astype(numpy.uint8)

    wide = rgb.astype(numpy.uint16) * 257 + 11
    wide = numpy.minimum(wide, 65535).astype(numpy.uint16)
    planes = numpy.ascontiguousarray(rgb.transpose(2, 0, 1))
    rgba = numpy.dstack([rgb, alpha])
    for how in ["none", "lzw", "deflate", "packbits", "zstd"]:
        options = {} if how == "none" else {"compression": how}
        tiff(f"rgb-{how}", rgb, rgb, photometric="rgb", **options)
        tiff(f"rgb-{how}-tiled", rgb, rgb, photometric="rgb", tile=(16, 32), **options)
        tiff(f"rgb-{how}-planar", planes, rgb, photometric="rgb", planarconfig="separate", **options)
        tiff(f"rgb-{how}-planar-tiled", planes, rgb, photometric="rgb", planarconfig="separate", tile=(16, 16), **options)
        tiff(f"rgb16-{how}-big", wide, rounded(wide, 65535), photometric="rgb", byteorder=">", rowsperstrip=7, **options)
        if how not in ("none", "packbits"):
            tiff(f"rgb-{how}-predictor", rgb, rgb, photometric="rgb", predictor=2, **options)
            tiff(f"rgb16-{how}-predictor", wide, rounded(wide, 65535), photometric="rgb", predictor=2, **options)
    tiff("rgba-straight", rgba, rgba, photometric="rgb", extrasamples=["unassalpha"])
    tiff("bigtiff", rgba, rgba, photometric="rgb", extrasamples=["unassalpha"], bigtiff=True)
    tiff("gray", gray, gray, photometric="minisblack")
    tiff("gray-inverted", 255 - gray, gray, photometric="miniswhite")
    tiff("gray-alpha", numpy.dstack([gray, alpha]), numpy.dstack([gray, gray, gray, alpha]), photometric="minisblack",
         planarconfig="contig", extrasamples=["unassalpha"])
    deep = (gray.astype(numpy.uint32) << 24) + 7
    tiff("gray32", deep, gray, photometric="minisblack")
    for kind in (numpy.float16, numpy.float32, numpy.float64):
        values = (x / 49 * (y + 1) / 40).astype(kind)
        tiff(f"float{values.dtype.itemsize * 8}", values, rounded(values, 1), photometric="minisblack")
    values = (x / 49 * (y + 1) / 40).astype(numpy.float32)
    tiff("float32-predictor", values, rounded(values, 1), photometric="minisblack", predictor=3, compression="deflate")
    for bits in (1, 2, 4, 6, 10, 12, 14):
        most = (1 << bits) - 1
        numbers = (x * (y + 3) % (most + 1)).astype(numpy.uint8 if bits <= 8 else numpy.uint16)
        tiff(f"gray{bits}", numbers if bits > 1 else numbers.astype(bool), rounded(numbers, most),
             photometric="minisblack", bitspersample=bits)
    colors = numpy.random.default_rng(3).integers(0, 65536, (3, 256)).astype(numpy.uint16)
    tiff("palette", gray, (colors[:, gray] >> 8).transpose(1, 2, 0), photometric="palette", colormap=colors)
    premultiplied = numpy.dstack([numpy.round(rgb * (alpha[..., None] / 255.0)).astype(numpy.uint8), alpha])
    straight = numpy.round(premultiplied[..., :3] * 255.0 / numpy.maximum(alpha, 1)[..., None]).clip(0, 255)
    tiff("rgba-premultiplied", premultiplied, numpy.dstack([straight.astype(numpy.uint8), alpha]), photometric="rgb",
         extrasamples=["assocalpha"])
    cmyk = numpy.dstack([rgb, gray // 2])
    tiff("cmyk-planar-tiled", numpy.ascontiguousarray(cmyk.transpose(2, 0, 1)),
         numpy.asarray(Image.fromarray(cmyk, "CMYK").convert("RGB")), photometric="separated",
         planarconfig="separate", tile=(16, 16))
    bits = Image.fromarray(numpy.where(disc, 0, 255).astype(numpy.uint8)).convert("1")
    for how in ["group3", "group4", "tiff_ccitt"]:
        pillow(f"fax-{how}.tif", bits, bits.convert("L"), compression=how)
    noise = numpy.random.default_rng(1).integers(0, 2, (64, 301)).astype(bool)
    busy = Image.fromarray((noise * 255).astype(numpy.uint8)).convert("1")
    for how in ["group3", "group4", "tiff_ccitt"]:
        pillow(f"fax-noise-{how}.tif", busy, busy.convert("L"), compression=how)
    pillow("fax-2d.tif", busy, busy.convert("L"), compression="group3", tiffinfo={292: 1})
    soft = Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(2))
    pillow("ycbcr-jpeg.tif", soft, soft, compression="jpeg", quality=95)
    for index, sampling in enumerate(["4:4:4", "4:2:2", "4:2:0"]):
        for progressive in (False, True):
            name = f"jpeg-{index}-{'progressive' if progressive else 'baseline'}.jpg"
            soft.save(folder / name, quality=92, subsampling=sampling, progressive=progressive)
            store(name, Image.open(folder / name).convert("RGB"))
    soft.save(folder / "jpeg-restarts.jpg", quality=92, restart_marker_blocks=3)
    store("jpeg-restarts.jpg", Image.open(folder / "jpeg-restarts.jpg").convert("RGB"))

    def jxl(name, data, expected, **options):
        (folder / f"{name}.jxl").write_bytes(imagecodecs.jpegxl_encode(data, **options))
        store(f"{name}.jxl", expected)

    jxl("jxl-lossless", rgb, rgb, lossless=True)
    jxl("jxl-lossless-alpha", rgba, rgba, lossless=True, usecontainer=True)
    jxl("jxl-gray", gray, gray, lossless=True)
    jxl("jxl-gray-alpha", numpy.dstack([gray, alpha]), numpy.dstack([gray, gray, gray, alpha]), lossless=True)
    # imagecodecs says of more than 8 bits that they are linear light.
    light = (wide / 65535).astype(numpy.float32)
    coded = numpy.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    jxl("jxl-16", wide, rounded(coded, 1), lossless=True)
    jxl("jxl-float", light, rounded(coded, 1), lossless=True)
    lossy = imagecodecs.jpegxl_encode(numpy.asarray(soft), distance=1.0)
    jxl("jxl-lossy", numpy.asarray(soft), imagecodecs.jpegxl_decode(lossy), distance=1.0)
    # Color multiplied by alpha, which imagecodecs does not write.
    with tempfile.TemporaryDirectory() as work:
        drawn, coded, read = (f"{work}/{name}" for name in ("drawn.png", "coded.jxl", "read.png"))
        Image.fromarray(numpy.dstack([rgb, (255 - y * 3).astype(numpy.uint8)]), "RGBA").save(drawn)
        subprocess.run(["cjxl", drawn, coded, "--premultiply=1", "-d", "0.3"], check=True, capture_output=True)
        subprocess.run(["djxl", coded, read], check=True, capture_output=True)
        (folder / "jxl-premultiplied-lossy.jxl").write_bytes(pathlib.Path(coded).read_bytes())
        store("jxl-premultiplied-lossy.jxl", Image.open(read).convert("RGBA"))
    # Turned by the file's own orientation; the pixels of a JPEG are kept as they are.
    turned = soft.getexif()
    turned[274] = 6
    soft.save(folder / "turned.jpg", quality=92, exif=turned)
    Image.open(folder / "turned.jpg").save(folder / "jxl-from-jpeg-turned.jxl", lossless_jpeg=True)
    store("jxl-from-jpeg-turned.jxl", ImageOps.exif_transpose(Image.open(folder / "jxl-from-jpeg-turned.jxl")).convert("RGB"))
    (folder / "turned.jpg").unlink()


main(pathlib.Path(sys.argv[1]))
