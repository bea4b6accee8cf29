"""Pictures on their way to the server: addresses and earlier results by reference, everything else as an upload."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from PIL import Image, ImageOps

from ._pictures import Picture
from ._plain import plain

ImageInput: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | BinaryIO | Picture | Mapping[str, Any]"
)
"""A picture for a job.

A path, the bytes of a file, a PIL image, a file that is open for reading in binary mode, a `Picture` of an earlier
result, an address that the server reads (`s3://`, `https://`, `file:///`), or a reference as in the API, for instance
`{"job": ID, "layer": 2}`.
"""

Row: TypeAlias = "ImageInput | Mapping[str, Any]"
"""A row of a batch: a picture, or a mapping with its `image` and its parameters."""

Reference: TypeAlias = "str | Mapping[str, Any]"

_ADDRESS = re.compile(r"(s3|https?|file)://", re.IGNORECASE)
_PIECE_BYTES = 1 << 20
# What PNG can hold without loss.
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})


@dataclass(frozen=True)
class Upload:
    """The bytes of a picture, which can be read again for another attempt."""

    name: str
    content: bytes | Path | BinaryIO

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Opens the bytes from their beginning."""
        if isinstance(self.content, bytes):
            yield io.BytesIO(self.content)
        elif isinstance(self.content, Path):
            with self.content.open("rb") as file:
                yield file
        else:
            self.content.seek(0)
            yield self.content

    def sha256(self) -> str:
        """The SHA-256 of the bytes, as hexadecimal digits."""
        digest = hashlib.sha256()
        with self.open() as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
        return digest.hexdigest()


@dataclass(frozen=True)
class Inputs:
    """The pictures of one job: all by reference, or all as uploads; and the mask of edits, either way."""

    references: tuple[Reference, ...] = ()
    uploads: tuple[Upload, ...] = ()
    mask: Reference | Upload | None = None

    @property
    def is_form(self) -> bool:
        """Whether something is uploaded, so that the request is a form."""
        return bool(self.uploads) or isinstance(self.mask, Upload)

    def body(self) -> dict[str, Any]:
        """The field `input` of a request, which a form with uploads does not have."""
        if self.is_form:
            return {}
        mask = {} if self.mask is None else {"mask": self.mask}
        return {"input": {"images": list(self.references), **mask}}

    @contextlib.contextmanager
    def fields(self) -> Iterator[list[tuple[str, Any]]]:
        """The fields of a form, in order: uploads as files, which are open meanwhile, and references as texts."""
        with contextlib.ExitStack() as files:

            def field(name: str, item: Reference | Upload) -> tuple[str, Any]:
                if isinstance(item, Upload):
                    return name, (item.name, files.enter_context(item.open()), "application/octet-stream")
                return name, (None, item if isinstance(item, str) else json.dumps(item))

            parts = [field("image", upload) for upload in self.uploads]
            parts += [field("reference", reference) for reference in self.references]
            if self.mask is not None:
                parts.append(field("mask", self.mask))
            yield parts

    def identity(self) -> list[Any]:
        """What these pictures are, for ids that depend on the content."""
        pictures = [*self.references, *({"sha256": upload.sha256()} for upload in self.uploads)]
        if self.mask is None:
            return pictures
        mask = {"sha256": self.mask.sha256()} if isinstance(self.mask, Upload) else self.mask
        return [*pictures, {"mask": mask}]


def inputs(images: ImageInput | Sequence[ImageInput], server: str, mask: ImageInput | None = None) -> Inputs:
    """Prepares the pictures of a job, and its mask, for the server at this address."""
    ready_mask = None if mask is None else _mask(mask, server)
    ready = [_prepare(one, server) for one in _several(images)]
    references = tuple(reference for reference, _ in ready if reference is not None)
    if len(references) == len(ready):
        return Inputs(references=references, mask=ready_mask)
    uploads = tuple(upload for _, upload in ready if upload is not None)
    if len(uploads) == len(ready):
        return Inputs(uploads=uploads, mask=ready_mask)
    raise ValueError(
        "some of these pictures are uploads, others are addresses or references, and a job takes only one of both; "
        "give all of them as Picture, path, bytes or PIL image, or all as addresses and references"
    )


def _mask(mask: Any, server: str) -> Reference | Upload | None:
    """A mask: of a layer of a result, its alpha; of any other picture, its brightness."""
    reference, upload = _prepare(mask, server)
    if reference is not None:
        return reference
    if isinstance(mask, Picture) and mask.layer is not None:
        # The server knows its own layers by their names; this one is a picture like any other there.
        return _of_image((mask.canvas if mask.placement is not None else mask.image).getchannel("A"))
    return upload


def _several(images: object) -> list[object]:
    if isinstance(images, Sequence) and not isinstance(images, (str, bytes, bytearray, memoryview)):
        return list(images)
    return [images]


def _prepare(image: Any, server: str) -> tuple[Reference | None, Upload | None]:
    """The reference, the upload, or both if the picture may go either way."""
    if isinstance(image, Picture):
        return _of_picture(image, server)
    if isinstance(image, Mapping):
        return plain(image), None
    if isinstance(image, str) and _ADDRESS.match(image):
        return image, None
    if isinstance(image, (str, os.PathLike)):
        path = Path(image)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; an address begins with s3://, https:// or file:///")
        return None, Upload(path.name, path)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return None, Upload("image", bytes(image))
    if isinstance(image, Image.Image):
        return None, _of_image(image)
    if hasattr(image, "read"):
        return None, _of_file(image)
    raise TypeError(f"{type(image).__name__} is not a picture; give a path, bytes, a PIL image, a file or an address")


def _of_picture(picture: Picture, server: str) -> tuple[Reference | None, Upload]:
    # The server puts a trimmed layer of its own at its place.
    upload = Upload(picture.name, picture.png) if picture.placement is None else _of_image(picture.canvas)
    source = picture.source
    if source is None or source.server != server or picture.is_changed:
        return None, upload
    return {"job": source.job_id, "file": source.file}, upload


def _of_image(image: Image.Image) -> Upload:
    """Encodes without loss. The orientation is applied, as the server does it with files, and the profile is kept."""
    image = ImageOps.exif_transpose(image)
    out = io.BytesIO()
    if image.mode in _PNG_MODES:
        image.save(out, "PNG", compress_level=1)
        return Upload("image.png", out.getvalue())
    if image.mode == "CMYK":
        image.save(out, "TIFF", compression="tiff_lzw", icc_profile=image.info.get("icc_profile"))
        return Upload("image.tif", out.getvalue())
    if image.mode in {"PA", "La", "RGBa"}:
        image.convert("RGBA").save(out, "PNG", compress_level=1)
        return Upload("image.png", out.getvalue())
    if image.mode in {"RGBX", "YCbCr", "LAB", "HSV"}:
        image.convert("RGB").save(out, "PNG", compress_level=1)
        return Upload("image.png", out.getvalue())
    if image.mode in {"I", "I;16L", "I;16B", "I;16N"}:
        return _of_image(_of_16_bits(image))
    raise ValueError(f"a PIL image of mode {image.mode} has no single meaning as a picture; convert it to RGB or RGBA")


def _of_16_bits(image: Image.Image) -> Image.Image:
    """Whole numbers as PNG has them, from 0 to 65535."""
    if image.mode != "I":
        return image.convert("I").convert("I;16")
    lowest, highest = image.getextrema()
    if lowest < 0 or not 255 < highest <= 65535:  # type: ignore[operator]
        raise ValueError(
            f"a PIL image of mode I with values from {lowest} to {highest} has no single meaning as a picture; "
            "convert it to L if white is 255, or to I;16 if it is 65535"
        )
    return image.convert("I;16")


def _of_file(file: Any) -> Upload:
    name = getattr(file, "name", None)
    label = Path(name).name if isinstance(name, str) and name else "image"
    # An open file is sent as a stream. One that cannot be read again, or of which only the rest is meant, is read now.
    can_seek = hasattr(file, "seekable") and file.seekable()
    again = can_seek and file.tell() == 0
    content = file.read(0) if again else file.read()
    if not isinstance(content, bytes):
        raise TypeError(f"{label} is open in text mode; open it with 'rb'")
    if not again and not content:
        # At its end, as after it was written: all of it is meant.
        if not can_seek or file.tell() == 0:
            raise ValueError(f"{label} is empty, or was read before and cannot be read again")
        return Upload(label, file)
    return Upload(label, file if again else content)
