"""Every way to give a picture. A composite of one picture is that picture, so it shows what arrived."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from acetate import Client, ImageInput, InvalidRequest, Layers, Picture

from .servers import EXAMPLES, Proxy


def png(image: Image.Image) -> bytes:
    """The picture as PNG."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def arrived(client: Client, image: ImageInput) -> Image.Image:
    """What the server made of it."""
    return client.composite([image]).image


def test_paths_bytes_pil_images_and_open_files_are_the_same(
    client: Client, picture: Image.Image, tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(png(picture))
    with path.open("rb") as opened, path.open("rb") as in_the_middle:
        given: list[ImageInput] = [str(path), path, png(picture), bytearray(png(picture)), picture, opened]
        given += [io.BytesIO(png(picture)), Picture.from_image(picture)]
        assert [arrived(client, one).tobytes() for one in given] == [picture.tobytes()] * len(given)
        in_the_middle.seek(1)
        with pytest.raises(InvalidRequest, match="invalid_image"):
            arrived(client, in_the_middle)


def test_a_file_that_begins_in_the_middle_of_another_is_sent_from_there(client: Client, picture: Image.Image) -> None:
    file = io.BytesIO(b"a header" + png(picture))
    file.seek(len(b"a header"))
    assert arrived(client, file).tobytes() == picture.tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "CMYK", "YCbCr", "I;16"])
def test_pil_images_of_every_mode(client: Client, picture: Image.Image, mode: str) -> None:
    base = picture.convert("RGB")
    image = Image.new("I;16", (8, 8), 40000) if mode == "I;16" else base.convert(mode)
    shown = arrived(client, image)
    assert shown.size == image.size
    if mode == "I;16":
        assert shown.getpixel((0, 0)) == (156, 156, 156, 255)
    elif mode != "CMYK":
        assert shown.tobytes() == image.convert("RGBA").tobytes()


@pytest.mark.parametrize("mode", ["I", "I;16B"])
def test_pil_images_of_whole_numbers_have_16_bits(client: Client, mode: str) -> None:
    assert arrived(client, Image.new("I", (8, 8), 40000).convert(mode)).getpixel((0, 0)) == (156, 156, 156, 255)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.new("F", (4, 4)), "mode F has no single meaning"),
        (Image.new("I", (4, 4), 200), "mode I with values from 200 to 200 .* to L if white is 255"),
        (Image.new("I", (4, 4), 70000), "mode I with values from 70000 to 70000"),
        (Image.new("I", (4, 4), -1), "mode I with values from -1 to -1"),
    ],
)
def test_a_pil_image_without_a_meaning_is_refused(client: Client, image: Image.Image, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        arrived(client, image)


def test_a_file_that_was_just_written_is_sent_from_its_beginning(client: Client, picture: Image.Image) -> None:
    file = io.BytesIO()
    picture.save(file, "PNG")
    assert arrived(client, file).tobytes() == picture.tobytes()


def test_a_file_without_a_byte_is_refused_by_name(client: Client) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    with pytest.raises(ValueError, match="image is empty, or was read before"):
        client.composite([Pipe()])


@pytest.mark.parametrize(
    ("params", "error", "reason"),
    [
        ({"cfg_scale": float("nan")}, ValueError, "cfg_scale: nan is not a finite number"),
        ({"min_psnr": float("-inf")}, ValueError, "min_psnr: -inf is not"),
        ({"sigmas": [1.0, float("nan")]}, ValueError, r"sigmas\[1\]: nan is not"),
        ({"seed": object()}, TypeError, "seed: object is not a text, a number"),
        ({"labels": {"a": float("inf")}}, ValueError, "labels.a: inf is not"),
    ],
)
def test_what_json_does_not_have_is_refused_by_name(
    client: Client, picture: Image.Image, params: dict[str, object], error: type[Exception], reason: str
) -> None:
    for image in (picture, f"file://{EXAMPLES}/house.png"):
        with pytest.raises(error, match=reason):
            client.submit("decompose", [image], **params)  # type: ignore[arg-type]


def test_an_orientation_is_applied_as_with_a_file(client: Client, tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 8), (255, 0, 0))
    exif = image.getexif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    image.save(path, exif=exif)
    assert arrived(client, path).size == (8, 16)
    assert arrived(client, Image.open(path)).size == (8, 16)


def test_the_server_reads_addresses(client: Client) -> None:
    assert arrived(client, f"file://{EXAMPLES}/house.png").size == (128, 128)


def test_a_picture_of_a_result_is_not_uploaded(proxy: Proxy, layers: Layers) -> None:
    with Client(proxy.url) as client:
        own = client.job(str(layers.job_id)).download("layer-02.png")
        assert arrived(client, own).tobytes() == layers[2].image.tobytes()
        assert arrived(client, {"job": layers.job_id, "layer": 2}).tobytes() == layers[2].image.tobytes()
    assert all("application/json" in head for head in proxy.requests("POST /v1/jobs"))


def test_a_picture_that_was_drawn_on_is_uploaded(client: Client, layers: Layers) -> None:
    drawn = client.job(str(layers.job_id)).download("layer-02.png")
    before = drawn.is_changed
    drawn.image.paste((1, 2, 3, 255), (0, 0, 50, 50))
    assert (before, drawn.is_changed) == (False, True)
    assert arrived(client, drawn).getpixel((5, 5)) == (1, 2, 3, 255)


def test_layers_of_results_and_own_pictures_make_one_picture(client: Client, layers: Layers) -> None:
    green = Image.new("RGBA", (128, 128), (0, 255, 0, 255))
    assert client.composite([layers[1], green]).image.getpixel((64, 64)) == (0, 255, 0, 255)
    assert client.composite(layers.replace(3, green)).image.getpixel((64, 64)) == (0, 255, 0, 255)


def test_addresses_and_uploads_are_not_mixed(client: Client, picture: Image.Image) -> None:
    with pytest.raises(ValueError, match="only one of both"):
        client.composite([f"file://{EXAMPLES}/house.png", picture])


def test_what_is_no_picture_is_refused_before_it_is_sent(client: Client, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        client.composite([tmp_path / "missing.png"])
    with pytest.raises(TypeError, match="int is not a picture"):
        client.composite([7])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="text mode"):
        client.composite([io.StringIO("text")])  # type: ignore[list-item]


def test_an_open_file_is_streamed(client: Client) -> None:
    class Recording(io.BytesIO):
        longest = 0

        def read(self, size: int | None = -1, /) -> bytes:
            piece = super().read(size)
            self.longest = max(self.longest, len(piece))
            return piece

    noise = Image.effect_noise((1500, 1500), 80)
    file = Recording(png(noise))
    assert len(file.getvalue()) > 1_000_000
    assert arrived(client, file).size == (1500, 1500)
    assert 0 < file.longest <= 1 << 16
