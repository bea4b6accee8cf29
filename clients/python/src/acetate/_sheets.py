"""Arrangements of pictures for an export."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ._pictures import Picture


@dataclass(frozen=True)
class Sheet:
    """A picture as a layer of an exported file."""

    picture: Picture
    name: str | None = None
    """The layer's name in the file; the picture's if left out."""
    opacity: float = 1.0
    visible: bool = True


def stack_body(layers: Iterable[Picture | Sheet], format: str, server: str) -> dict[str, Any]:
    """The body of `POST /v1/export`."""
    sheets = [layer if isinstance(layer, Sheet) else Sheet(layer) for layer in layers]
    return {"format": format, "layers": [_layer(sheet, server) for sheet in sheets]}


def _layer(sheet: Sheet, server: str) -> dict[str, Any]:
    picture = sheet.picture
    source = picture.source
    if source is None or source.server != server or picture.is_changed:
        raise ValueError(f"{picture.name} is not on the server; client.composite([picture]) makes a result of it")
    return {
        "job": source.job_id,
        "file": source.file,
        "name": sheet.name or picture.name,
        "opacity": sheet.opacity,
        "visible": sheet.visible,
    }
