"""Draws small AVIF and HEIC pictures of many kinds into FOLDER, each with the pixels that Pillow reads: NAME and
NAME.rgba.png.

    python tests/image/heif.py FOLDER

Needs Pillow with AVIF, pillow-heif, NumPy and imagecodecs. tests/image/heif/ has them."""

import io
import pathlib
import struct
import sys

import imagecodecs
import numpy
import pillow_heif
from PIL import Image, ImageCms, ImageFilter, ImageOps

pillow_heif.register_heif_opener()
SIZE = (49, 37)
SRGB = ImageCms.createProfile("sRGB")


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    x, y = numpy.meshgrid(numpy.arange(SIZE[0]), numpy.arange(SIZE[1]))
    rgb = numpy.stack([x * 5, y * 6, (x + y) * 2 + 60], -1).astype(numpy.uint8)
    soft = Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(1))
    alpha = Image.fromarray((255 - y * 6).astype(numpy.uint8))
    clear = soft.copy()
    clear.putalpha(alpha)
    gray = soft.convert("L")
    deep = numpy.stack([x * 1300, y * 1700, (x + y) * 700], -1).astype(numpy.uint16)

    def expect(name, expected):
        expected = expected if isinstance(expected, Image.Image) else Image.fromarray(expected)
        expected.convert("RGBA").save(folder / f"{name}.rgba.png", optimize=True)

    def keep(name, data, expected=None):
        """Without `expected`, what Pillow reads."""
        (folder / name).write_bytes(data)
        expect(name, read(data) if expected is None else expected)

    # AVIF by Pillow and libavif.
    for sampling in ("4:2:0", "4:2:2", "4:4:4"):
        keep(f"avif-{sampling.replace(':', '')}.avif", saved(soft, "AVIF", quality=90, subsampling=sampling))
    keep("avif-limited.avif", saved(soft, "AVIF", quality=90, range="limited"))
    keep("avif-gray.avif", saved(gray, "AVIF", quality=90))
    keep("avif-alpha.avif", saved(clear, "AVIF", quality=95))
    keep("avif-alpha-premultiplied.avif", saved(clear, "AVIF", quality=95, subsampling="4:4:4", alpha_premultiplied=True))
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[274] = orientation
        keep(f"avif-turned-{orientation}.avif", saved(soft, "AVIF", quality=90, exif=exif))
    animated = saved(soft, "AVIF", quality=90, save_all=True, append_images=[ImageOps.invert(soft)])
    keep("avif-animated.avif", animated)
    # As a sequence alone, without the picture for programs that do not play it.
    keep("avif-sequence.avif", animated.replace(b"meta", b"free", 1), read(animated))
    wide = ImageCms.ImageCmsProfile(io.BytesIO(Image.open(pathlib.Path(__file__).parent / "icc-wide.png").info["icc_profile"]))
    keep("avif-profile.avif", saved(soft, "AVIF", quality=90, icc_profile=wide.tobytes()))

    # AVIF by imagecodecs and libavif: more bits and numbers for colors.
    for bits, sampling in ((10, "420"), (12, "444"), (10, "400")):
        samples = (deep[..., 1] if sampling == "400" else deep) >> (16 - bits)
        data = imagecodecs.avif_encode(numpy.ascontiguousarray(samples), level=97, bitspersample=bits, pixelformat=sampling)
        keep(f"avif-{bits}-{sampling}.avif", data)
    exact = imagecodecs.avif_encode(rgb, level=100, pixelformat="444")
    keep("avif-lossless.avif", exact, rgb)
    for name, primaries, matrix in (("p3", 12, 1), ("bt2020", 9, 9)):
        coded = imagecodecs.avif_encode(
            numpy.asarray(soft), level=97, pixelformat="444", primaries=primaries, transfer=13, matrix=matrix)
        keep(f"avif-{name}.avif", coded, to_srgb(read(coded, managed=False), primaries))

    # HEIC by pillow-heif and libheif.
    for chroma in (420, 422, 444):
        keep(f"heic-{chroma}.heic", saved(soft, "HEIF", quality=90, chroma=chroma))
    keep("heic-gray.heic", saved(gray, "HEIF", quality=90))
    keep("heic-alpha.heic", saved(clear, "HEIF", quality=95))
    keep("heic-limited.heic", saved(soft, "HEIF", quality=90, full_range_flag=0))
    keep("heic-no-numbers.heic", saved(soft, "HEIF", quality=90, save_nclx_profile=False))
    keep("heic-bt709.heic", saved(soft, "HEIF", quality=90, matrix_coefficients=1))
    keep("heic-profile.heic", saved(soft, "HEIF", quality=90, chroma=444, icc_profile=wide.tobytes()))
    keep("heic-tiles.heic", saved(soft.resize((200, 150)), "HEIF", quality=60, tile_size=64))
    keep("heic-second-is-main.heic",
         saved(ImageOps.invert(soft), "HEIF", quality=90, save_all=True, append_images=[soft], primary_index=1))
    keep("heic-thumbnail.heic", saved(soft, "HEIF", quality=90, thumbnails=[16]))
    exif = Image.Exif()
    exif[274] = 6
    turned = saved(soft, "HEIF", quality=90, exif=exif)
    keep("heic-exif-turned.heic", turned)
    for bits in (10, 12):
        pillow_heif.options.SAVE_HDR_TO_12_BIT = bits == 12
        deep_file = io.BytesIO()
        pillow_heif.encode("RGB;16", SIZE, deep.tobytes(), deep_file, quality=90, chroma=444)
        data = deep_file.getvalue()
        samples = numpy.asarray(pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False))
        keep(f"heic-{bits}.heic", data, numpy.round(samples / 257).astype(numpy.uint8))

    # What the libraries do not write: a grid, a crop, and a picture derived from another one.
    tiles = [soft.resize((128, 128)).crop((left, top, left + 64, top + 64)) for top in (0, 64) for left in (0, 64)]
    tiles = [Item.of(saved(tile, "AVIF", quality=90)) for tile in tiles]
    grid = Item(b"grid", struct.pack(">BBBBHH", 0, 0, 1, 1, 100, 90), [box(b"ispe", bytes(4), struct.pack(">II", 100, 90))])
    keep("avif-grid.avif", file([grid, *tiles], [(b"dimg", 1, [2, 3, 4, 5])]))
    one = Item.of(saved(soft, "AVIF", quality=90))
    numbers = (30, 1, 20, 1, 1, 2, -1, 2)
    one.properties.append(box(b"clap", *(struct.pack(">i", number) for number in numbers)))
    # The middle is half a pixel right of and above that of the picture.
    keep("avif-crop.avif", file([one], []), read(saved(soft, "AVIF", quality=90)).crop((10, 8, 40, 28)))
    one.properties[-1:] = [box(b"irot", b"\1"), box(b"imir", b"\1")]
    derived = Item(b"iden", b"", [box(b"irot", b"\2")])
    moved = ImageOps.mirror(read(saved(soft, "AVIF", quality=90)).rotate(90, expand=True)).rotate(180)
    keep("avif-derived.avif", file([derived, one], [(b"dimg", 1, [2])]), moved)


def saved(image, kind, **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def read(data, managed=True):
    """As Pillow reads it: turned, and with its profile applied."""
    image = Image.open(io.BytesIO(data))
    image.load()
    profile = image.info.get("icc_profile") if managed else None
    image = ImageOps.exif_transpose(image)
    if profile:
        image = ImageCms.profileToProfile(image, io.BytesIO(profile), SRGB)
    return image


def to_srgb(image, primaries):
    """From other primaries with the curve of sRGB, by the formulas of H.273."""
    d65 = (0.3127, 0.3290)
    corners = {
        1: [(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)],
        9: [(0.708, 0.292), (0.170, 0.797), (0.131, 0.046)],
        12: [(0.680, 0.320), (0.265, 0.690), (0.150, 0.060)],
    }

    def xyz(point):
        return numpy.array([point[0] / point[1], 1, (1 - point[0] - point[1]) / point[1]])

    def matrix(number):
        columns = numpy.stack([xyz(corner) for corner in corners[number]], -1)
        return columns * numpy.linalg.solve(columns, xyz(d65))

    coded = numpy.asarray(image.convert("RGB")) / 255
    light = numpy.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    light = (light @ (numpy.linalg.inv(matrix(1)) @ matrix(primaries)).T).clip(0, 1)
    coded = numpy.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return numpy.round(coded * 255).astype(numpy.uint8)


def box(kind, *parts):
    content = b"".join(parts)
    return struct.pack(">I", 8 + len(content)) + kind + content


class Item:
    """A picture's coded data or derivation, and its properties, as boxes."""

    def __init__(self, kind, data, properties):
        self.kind, self.data, self.properties = kind, data, properties

    @staticmethod
    def of(avif):
        """The only picture of an AVIF file that libavif wrote."""
        def content(kind):
            at = avif.index(kind)
            return avif[at + 4:at - 4 + struct.unpack(">I", avif[at - 4:at])[0]]

        data = content(b"mdat")
        return Item(b"av01", data, [box(kind, content(kind)) for kind in (b"ispe", b"pixi", b"av1C", b"colr")])


def file(items, references):
    """A file of `items`, of which the first is the main one; they are numbered from 1."""
    def described(places):
        properties = [entry for item in items for entry in item.properties]
        kinds = [box(b"infe", b"\2\0\0\0", struct.pack(">HH", number, 0), item.kind, b"\0")
                 for number, item in enumerate(items, 1)]
        extents = [struct.pack(">HHHII", number, 0, 1, *place) for number, place in enumerate(places, 1)]
        listed, first = [], 1
        for number, item in enumerate(items, 1):
            indices = range(first, first + len(item.properties))
            first += len(item.properties)
            listed.append(struct.pack(">HB", number, len(indices)) + bytes(0x80 | index for index in indices))
        linked = [box(kind, struct.pack(">HH", source, len(targets)), *(struct.pack(">H", target) for target in targets))
                  for kind, source, targets in references]
        return box(
            b"meta", bytes(4),
            box(b"hdlr", bytes(8), b"pict", bytes(13)),
            box(b"pitm", bytes(4), b"\0\1"),
            box(b"iloc", bytes(4), b"\x44\0", struct.pack(">H", len(items)), *extents),
            box(b"iinf", bytes(4), struct.pack(">H", len(items)), *kinds),
            box(b"iref", bytes(4), *linked),
            box(b"iprp", box(b"ipco", *properties),
                box(b"ipma", bytes(4), struct.pack(">I", len(items)), *listed)))

    head = box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")
    start = len(head) + len(described([(0, 0)] * len(items))) + 8
    places = []
    for item in items:
        places.append((start, len(item.data)))
        start += len(item.data)
    return head + described(places) + box(b"mdat", *(item.data for item in items))


main(pathlib.Path(sys.argv[1]))
