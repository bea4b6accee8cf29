"""Pictures and stacks of layers, as values: nothing here talks to the server."""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

from PIL import Image

from ._show import on_checkerboard, sheet, thumbnail
from ._types import Placement

_SHOWN_PIXELS = 640
_LAYER_PIXELS = 160
# For each alpha, whether it counts as visible.
_VISIBLE = [0] * 8 + [255] * 248


@dataclass(frozen=True)
class Source:
    """Where a picture is on a server, so that another job can use it without an upload."""

    server: str
    job_id: str
    file: str


class Picture:
    """A picture of a result: a layer, an edited picture or a composite.

    Attributes:
        name: the file's name, for instance `layer-02.png`.
        role: `regenerated`, `layer`, `edited_layer`, `edited`, `composite`, or `local` for a picture of your own.
        layer: the number of a layer; 0 is the whole picture as the model regenerates it, 1 the rearmost layer.
        source: where it is on the server; `None` for a picture of your own.
        placement: where a trimmed layer belongs; `None` if the picture is the whole canvas.
        layer_name: a few words for a layer, such as "Red star" or "Layer 2"; `None` for other pictures.
    """

    def __init__(
        self,
        png: bytes,
        *,
        name: str,
        role: str = "local",
        layer: int | None = None,
        source: Source | None = None,
        placement: Placement | None = None,
        layer_name: str | None = None,
    ) -> None:
        self.name = name
        self.role = role
        self.layer = layer
        self.source = source
        self.placement = placement
        self.layer_name = layer_name
        self._png = png
        self._image: Image.Image | None = None

    @classmethod
    def from_image(cls, image: Image.Image, *, name: str = "picture.png", layer: int | None = None) -> Picture:
        """Makes a picture of your own."""
        return cls(_encode(image.convert("RGBA")), name=name, layer=layer)

    @property
    def image(self) -> Image.Image:
        """The picture as a PIL image in RGBA.

        You may draw on it. A job that gets this picture then gets what you drew: it is uploaded.
        """
        if self._image is None:
            self._image = _decode(self._png)
        return self._image

    @property
    def canvas(self) -> Image.Image:
        """The picture at its place on the canvas, as a PIL image in RGBA: `image`, unless it is trimmed."""
        if self.placement is None:
            return self.image
        canvas = Image.new("RGBA", (self.placement.width, self.placement.height))
        canvas.paste(self.image, (self.placement.x, self.placement.y))
        return canvas

    @property
    def png(self) -> bytes:
        """The picture as PNG: the server's own bytes, unless you changed `image`."""
        return _encode(self.image) if self.is_changed else self._png

    @property
    def is_changed(self) -> bool:
        """Whether `image` differs from what the server has."""
        if self._image is None:
            return False
        original = _decode(self._png)
        return original.size != self._image.size or original.tobytes() != self._image.convert("RGBA").tobytes()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.image.size

    @property
    def width(self) -> int:
        """The width in pixels."""
        return self.size[0]

    @property
    def height(self) -> int:
        """The height in pixels."""
        return self.size[1]

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """The smallest box around everything visible, on the canvas: left, top, right, bottom.

        Layers have the size of the whole picture, unless they are trimmed; the box says where their content is. Pixels
        that are less than 3 % opaque do not count, because models leave such traces everywhere. `None` if nothing is
        visible.
        """
        box = self._visible()
        if box is None or self.placement is None:
            return box
        x, y = self.placement.x, self.placement.y
        return (box[0] + x, box[1] + y, box[2] + x, box[3] + y)

    @property
    def offset(self) -> tuple[int, int]:
        """Where the content begins, as left and top; (0, 0) if the picture is empty."""
        box = self.box
        return (box[0], box[1]) if box else (0, 0)

    @property
    def sha256(self) -> str:
        """The SHA-256 of the PNG, as hexadecimal digits."""
        return hashlib.sha256(self.png).hexdigest()

    def cropped(self) -> Image.Image:
        """Returns the content alone, without the transparent margin around it."""
        return self.image.crop(self._visible() or (0, 0, 1, 1))

    def save(self, path: str | Path) -> Path:
        """Writes the picture; the ending chooses the format, PNG if there is none. Returns the path."""
        path = Path(path)
        if path.suffix.lower() in {"", ".png"}:
            path.write_bytes(self.png)
        elif path.suffix.lower() in {".jpg", ".jpeg"}:
            raise ValueError(f"{path}: JPEG has no transparency; use .png, or picture.image.convert('RGB').save(...)")
        else:
            self.image.save(path)
        return path

    def _visible(self) -> tuple[int, int, int, int] | None:
        return self.image.getchannel("A").point(_VISIBLE).getbbox()

    def _repr_png_(self) -> bytes:
        """Shows the picture in a notebook."""
        return _encode(on_checkerboard(self.image, _SHOWN_PIXELS))

    def __repr__(self) -> str:
        return f"<Picture {self.name} {self.width}x{self.height} {self.role}>"


class Layers(Sequence[Picture]):
    """The layers of a picture, back to front.

    `layers[0]` is the whole picture as the model regenerates it, and `layers[1]` is the rearmost layer. A slice is a
    stack, too: `layers[1:]`.

    Attributes:
        job_id: the job that made them.
        manifest: how they were made; see `seed`, `caption`, `fidelity` and `notes`.
    """

    def __init__(
        self,
        pictures: Iterable[Picture],
        *,
        job_id: str | None = None,
        manifest: Mapping[str, Any] | None = None,
        manifest_file: bytes | None = None,
    ) -> None:
        self._pictures = tuple(pictures)
        self.job_id = job_id
        self.manifest: Mapping[str, Any] = manifest or {}
        # Only if it describes exactly these pictures.
        self._manifest_file = manifest_file

    @property
    def seed(self) -> int | None:
        """The seed that was used, also if the request had none."""
        return self.manifest.get("seed")

    @property
    def caption(self) -> str | None:
        """The caption that the model wrote because the prompt was empty."""
        caption = self.manifest.get("caption")
        return caption["text"] if caption else None

    @property
    def fidelity(self) -> Mapping[str, Any] | None:
        """How true the layers are to their picture: sizes, errors, the area of each layer."""
        return self.manifest.get("fidelity")

    @property
    def notes(self) -> Sequence[str]:
        """What is worth knowing about the input or the run, for instance a converted color profile."""
        return tuple(self.manifest.get("notes", ()))

    @property
    def stack(self) -> Layers:
        """The layers that make the picture, without `layers[0]`."""
        stack = (picture for picture in self._pictures if picture.role != "regenerated")
        return Layers(stack, job_id=self.job_id, manifest=self.manifest)

    def composite(self) -> Image.Image:
        """Puts the layers on each other, here and at once, and returns the picture.

        The server's own composite, `client.composite(layers)`, rounds once for all layers instead of once for each:
        half transparent pixels may differ by 1 or 2 of 255.
        """
        pictures = self.stack
        if not pictures:
            raise ValueError("there are no layers to composite")
        image = pictures[0].canvas.copy()
        for picture in pictures[1:]:
            canvas = picture.canvas
            if canvas.size != image.size:
                is_, wanted = ("x".join(map(str, one.size)) for one in (canvas, image))
                raise ValueError(f"{picture.name} is {is_}, but the first layer is {wanted}")
            image.alpha_composite(canvas)
        return image

    def replace(self, number: int, picture: Picture | Image.Image) -> Layers:
        """Returns a stack with another picture, for instance an edited one, as layer `number`.

        The place of a trimmed layer is kept if the other picture has its size, as after drawing on `layer.image`.
        """
        if number not in {one.layer for one in self._pictures}:
            raise IndexError(f"there is no layer {number}")
        given = Picture.from_image(picture) if isinstance(picture, Image.Image) else picture
        pictures = (_as_layer(given, one) if one.layer == number else one for one in self._pictures)
        return Layers(pictures, job_id=self.job_id, manifest=self.manifest)

    def save(self, folder: str | Path) -> list[Path]:
        """Writes `layer-00.png` and so on, and last `manifest.json` if nothing was changed. Returns the paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [picture.save(folder / picture.name) for picture in self._pictures]
        if self._manifest_file and not any(picture.is_changed for picture in self._pictures):
            path = folder / "manifest.json"
            path.write_bytes(self._manifest_file)
            paths.append(path)
        return paths

    @overload
    def __getitem__(self, index: int) -> Picture: ...

    @overload
    def __getitem__(self, index: slice) -> Layers: ...

    def __getitem__(self, index: int | slice) -> Picture | Layers:
        if isinstance(index, slice):
            return Layers(self._pictures[index], job_id=self.job_id, manifest=self.manifest)
        return self._pictures[index]

    def __len__(self) -> int:
        return len(self._pictures)

    def __iter__(self) -> Iterator[Picture]:
        return iter(self._pictures)

    def __repr__(self) -> str:
        size = "x".join(map(str, self[0].canvas.size)) if self._pictures else ""
        return f"<Layers {len(self)}{size and ' '}{size} job={self.job_id}>"

    def _repr_html_(self) -> str:
        """Shows all layers in a notebook, on a checkerboard."""
        tiles = "".join(_figure(picture) for picture in self._pictures)
        return f'<div style="display:flex;flex-wrap:wrap;gap:12px">{tiles}</div>'

    def _repr_png_(self) -> bytes:
        """Shows all layers where HTML is not possible."""
        return _encode(sheet([picture.canvas for picture in self._pictures], _LAYER_PIXELS))


V = TypeVar("V", bound="Layers | Picture")


class Variants(Sequence[V]):
    """Several results of one job that differ only by their seed: `Layers` of a decompose, a `Picture` of an edit.

    Attributes:
        seeds: the seed of each.
        sheet: all of them on one picture.
        job_id: the job that made them.
    """

    def __init__(self, results: Iterable[V], *, seeds: Sequence[int], sheet: Picture, job_id: str) -> None:
        self._results: tuple[V, ...] = tuple(results)
        self.seeds = tuple(seeds)
        self.sheet = sheet
        self.job_id = job_id

    @classmethod
    def of_one(cls, result: V, *, seed: int, job_id: str) -> Variants[V]:
        """The result of a job with a single seed, which has no sheet of its own."""
        sheet = Picture(result._repr_png_(), name="variants.png", role="contact_sheet")
        return cls([result], seeds=[seed], sheet=sheet, job_id=job_id)

    @overload
    def __getitem__(self, index: int) -> V: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[V]: ...

    def __getitem__(self, index: int | slice) -> V | Sequence[V]:
        return self._results[index]

    def __len__(self) -> int:
        return len(self._results)

    def __repr__(self) -> str:
        return f"<Variants {len(self)} job={self.job_id}>"

    def _repr_png_(self) -> bytes:
        """Shows all variants in a notebook."""
        return self.sheet.png


@dataclass(frozen=True)
class WorkflowResult:
    """The result of a workflow."""

    picture: Picture
    """The composite of the layers, edited ones included."""
    layers: Layers
    """The layers, with the edited ones in their places."""
    originals: Layers
    """The layers before the edits."""

    @property
    def job_id(self) -> str | None:
        """The job that made it."""
        return self.originals.job_id

    def _repr_png_(self) -> bytes:
        return self.picture._repr_png_()


def _as_layer(picture: Picture, place: Picture) -> Picture:
    placement = picture.placement
    if placement is None and picture.role == "local" and picture.size == place.size:
        placement = place.placement
    return Picture(
        picture.png,
        name=place.name,
        role="edited_layer",
        layer=place.layer,
        # Without its source, a changed picture is uploaded where it is used.
        source=None if picture.is_changed else picture.source,
        placement=placement,
        layer_name=place.layer_name,
    )


def _figure(picture: Picture) -> str:
    data = base64.b64encode(_encode(thumbnail(picture.canvas, _LAYER_PIXELS))).decode()
    name = html.escape(picture.layer_name or picture.name)
    return (
        '<figure style="margin:0;text-align:center;font:12px sans-serif">'
        f'<img alt="{name}" src="data:image/png;base64,{data}" style="background:'
        'repeating-conic-gradient(#ccc 0 25%,#fff 0 50%) 0 0/16px 16px">'
        f"<figcaption>{name}<br>{picture.canvas.width}x{picture.canvas.height}</figcaption></figure>"
    )


def _decode(png: bytes) -> Image.Image:
    with Image.open(io.BytesIO(png)) as image:
        decoded: Image.Image = image.convert("RGBA")
        return decoded


def _encode(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
