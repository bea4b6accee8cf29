"""Layers and pictures: what a result is in Python."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from acetate import Client, Layers, Picture

from .servers import EXAMPLES


def difference(a: Image.Image, b: Image.Image) -> int:
    """The largest difference of a channel, where both are visible."""
    assert a.size == b.size
    return max(ImageChops.difference(a.convert("RGBA"), b.convert("RGBA")).tobytes())


def test_a_decompose_returns_the_whole_picture_and_its_layers(layers: Layers) -> None:
    assert [picture.name for picture in layers] == ["layer-00.png", "layer-01.png", "layer-02.png", "layer-03.png"]
    assert [picture.layer for picture in layers] == [0, 1, 2, 3]
    assert [picture.role for picture in layers] == ["regenerated", "layer", "layer", "layer"]
    assert all(picture.image.mode == "RGBA" and picture.size == (128, 128) for picture in layers)
    assert layers.seed == 7
    assert layers.caption
    assert any("small checkpoint" in note for note in layers.notes)
    assert layers[0].layer_name is None
    assert layers[1].layer_name == "Background"
    assert all(picture.layer_name for picture in layers[1:])
    assert layers.manifest["job"] == layers.job_id


def test_a_slice_is_a_stack_and_the_whole_picture_is_not_part_of_it(layers: Layers) -> None:
    assert isinstance(layers[1:], Layers)
    assert [picture.layer for picture in layers.stack] == [1, 2, 3]
    assert layers[1:].composite().tobytes() == layers.composite().tobytes()


def test_the_composite_here_is_that_of_the_server(client: Client, layers: Layers) -> None:
    made = client.composite(layers)
    assert made.role == "composite"
    assert difference(made.image, layers.composite()) <= 2


def test_layers_are_saved_as_the_server_made_them(layers: Layers, tmp_path: Path) -> None:
    paths = layers.save(tmp_path / "out")
    assert [path.name for path in paths] == [*(picture.name for picture in layers), "manifest.json"]
    assert (tmp_path / "out" / "layer-02.png").read_bytes() == layers[2].png


def test_a_replaced_layer_has_its_place_and_no_manifest(layers: Layers, picture: Image.Image, tmp_path: Path) -> None:
    blue = Image.new("RGBA", (128, 128), (0, 0, 255, 255))
    new = layers.replace(3, blue)
    assert new[3].name == "layer-03.png"
    assert new[3].layer == 3
    assert new.composite().getpixel((5, 5)) == (0, 0, 255, 255)
    assert layers[3].image.tobytes() != blue.tobytes()
    assert "manifest.json" not in {path.name for path in new.save(tmp_path)}
    with pytest.raises(IndexError, match="no layer 9"):
        layers.replace(9, blue)


def test_a_box_is_where_the_content_is(picture: Image.Image) -> None:
    made = Picture.from_image(picture)
    assert made.box == (4, 2, 36, 20)
    assert made.offset == (4, 2)
    assert made.cropped().size == (32, 18)
    made.image.putpixel((0, 0), (0, 0, 0, 7))
    assert made.box == (4, 2, 36, 20)
    made.image.putpixel((0, 0), (0, 0, 0, 8))
    assert made.box == (0, 0, 36, 20)
    empty = Picture.from_image(Image.new("RGBA", (8, 8)))
    assert empty.box is None
    assert empty.offset == (0, 0)


def test_trimmed_layers_are_put_at_their_place(client: Client, layers: Layers) -> None:
    trimmed = client.decompose(EXAMPLES / "scene.png", layers=3, steps=2, seed=7, trim=True)
    # Of each layer, a trace of alpha of at most 7 may be cut off.
    assert difference(trimmed.composite(), layers.composite()) <= 3 * 7
    for cut, whole in zip(trimmed.stack, layers.stack, strict=True):
        assert cut.placement is not None
        assert (cut.placement.width, cut.placement.height) == whole.size
        assert cut.box == whole.box
        assert cut.cropped().tobytes() == whole.cropped().tobytes()
        left, top, right, bottom = whole.box or (0, 0, 1, 1)
        assert cut.size == (right - left, bottom - top)
    # The server puts its own layers, and those that were changed here, at their places.
    assert difference(client.composite(trimmed).image, trimmed.composite()) <= 2
    drawn, place = trimmed[3].image.copy(), trimmed[3].placement
    assert place is not None
    drawn.paste((255, 0, 0, 255), (0, 0, 2, 2))
    new = trimmed.replace(3, drawn)
    assert new[3].offset == (place.x, place.y)
    assert difference(client.composite(new).image, new.composite()) <= 2


def test_layers_of_different_sizes_are_no_picture(picture: Image.Image) -> None:
    stack = Layers([Picture.from_image(picture), Picture.from_image(picture.resize((9, 9)), name="small.png")])
    with pytest.raises(ValueError, match=r"small\.png is 9x9"):
        stack.composite()


def test_a_notebook_shows_all_layers(layers: Layers) -> None:
    html = layers._repr_html_()
    shown = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", html)
    assert len(shown) == 4
    assert Image.open(io.BytesIO(base64.b64decode(shown[1]))).mode == "RGBA"
    assert "conic-gradient" in html
    whole = Image.open(io.BytesIO(layers._repr_png_()))
    assert whole.size == (4 * 128 + 3 * 8, 128)


def test_transparency_is_shown_as_a_checkerboard(picture: Image.Image) -> None:
    shown = Image.open(io.BytesIO(Picture.from_image(picture)._repr_png_()))
    assert [shown.getpixel((0, 0)), shown.getpixel((8, 0))] == [(255, 255, 255), (204, 204, 204)]
    assert shown.getpixel((5, 3)) == (200, 30, 60)


def test_a_name_cannot_write_html(picture: Image.Image) -> None:
    html = Layers([Picture.from_image(picture, name="<script>")])._repr_html_()
    assert "<script>" not in html


def test_a_picture_is_saved_in_the_format_of_its_name(picture: Image.Image, tmp_path: Path) -> None:
    made = Picture.from_image(picture)
    assert made.save(tmp_path / "a.png").read_bytes() == made.png
    assert Image.open(made.save(tmp_path / "a.webp")).format == "WEBP"
    with pytest.raises(ValueError, match="JPEG has no transparency"):
        made.save(tmp_path / "a.jpg")
