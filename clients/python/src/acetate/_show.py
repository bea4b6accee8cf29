"""Draws pictures for notebooks."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

_SQUARE_PIXELS = 8
_GAP_PIXELS = 8
_LIGHT, _DARK = 255, 204


def thumbnail(image: Image.Image, most: int) -> Image.Image:
    """A copy whose longer side has at most `most` pixels."""
    small = image.copy()
    small.thumbnail((most, most))
    return small


def on_checkerboard(image: Image.Image, most: int) -> Image.Image:
    """A smaller copy, with squares where it is transparent."""
    small = thumbnail(image.convert("RGBA"), most)
    board = _checkerboard(small.size)
    board.alpha_composite(small)
    return board.convert("RGB")


def sheet(images: Sequence[Image.Image], most: int) -> Image.Image:
    """All pictures beside each other."""
    tiles = [on_checkerboard(image, most) for image in images]
    if not tiles:
        return Image.new("RGB", (1, 1), "white")
    width = sum(tile.width for tile in tiles) + _GAP_PIXELS * (len(tiles) - 1)
    whole = Image.new("RGB", (width, max(tile.height for tile in tiles)), "white")
    left = 0
    for tile in tiles:
        whole.paste(tile, (left, 0))
        left += tile.width + _GAP_PIXELS
    return whole


def _checkerboard(size: tuple[int, int]) -> Image.Image:
    columns, rows = (-(-side // _SQUARE_PIXELS) for side in size)
    shades = bytes(_DARK if (x + y) % 2 else _LIGHT for y in range(rows) for x in range(columns))
    squares = Image.frombytes("L", (columns, rows), shades)
    board = squares.resize((columns * _SQUARE_PIXELS, rows * _SQUARE_PIXELS), Image.Resampling.NEAREST)
    return board.crop((0, 0, *size)).convert("RGBA")
