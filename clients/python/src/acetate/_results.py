"""Makes a job's result from its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ._pictures import Layers, Picture, Variants, WorkflowResult
from ._types import JobInfo, Output
from .errors import AcetateError, IntegrityError

Result: TypeAlias = "Layers | Picture | Variants[Layers] | Variants[Picture] | WorkflowResult"
"""`Layers` of a decompose, a `Picture` of an edit or a composite, a `WorkflowResult` of a workflow; `Variants` of a job
with several."""


def checked(job: str, output: Output, content: bytes) -> bytes:
    """Returns the content of a file if it is what the job lists."""
    if len(content) != output.size or hashlib.sha256(content).hexdigest() != output.sha256:
        raise IntegrityError(f"{output.name} of job {job} is not the file that the job lists; download it again")
    return content


def build(info: JobInfo, manifest_file: bytes, pictures: Sequence[Picture]) -> Result:
    """Makes the result of a job that has succeeded from all of its pictures."""
    if any(output.variant is not None for output in info.outputs):
        return _variants(info, json.loads(manifest_file), pictures)
    if info.kind in ("decompose", "workflow"):
        layers = Layers(
            (picture for picture in pictures if picture.role in ("regenerated", "layer")),
            job_id=info.id,
            manifest=json.loads(manifest_file),
            manifest_file=manifest_file if info.kind == "decompose" else None,
        )
        return layers if info.kind == "decompose" else _workflow(info, layers, pictures)
    if len(pictures) != 1:
        raise AcetateError(f"job {info.id} has {len(pictures)} pictures; an {info.kind} has one")
    return pictures[0]


def _variants(
    info: JobInfo, manifest: Mapping[str, Any], pictures: Sequence[Picture]
) -> Variants[Layers] | Variants[Picture]:
    of = {output.name: output.variant for output in info.outputs}
    sheets = [picture for picture in pictures if picture.role == "contact_sheet"]
    if len(sheets) != 1:
        raise AcetateError(f"the result of job {info.id} has no contact sheet")
    seeds = [variant["seed"] for variant in manifest["variants"]]
    own = [[picture for picture in pictures if of[picture.name] == one["variant"]] for one in manifest["variants"]]
    if info.kind == "edit":
        edited = (picture for group in own for picture in group)
        return Variants(edited, seeds=seeds, sheet=sheets[0], job_id=info.id)
    layers = (
        Layers(group, job_id=info.id, manifest={**manifest, **variant})
        for group, variant in zip(own, manifest["variants"], strict=True)
    )
    return Variants(layers, seeds=seeds, sheet=sheets[0], job_id=info.id)


def _workflow(info: JobInfo, originals: Layers, pictures: Sequence[Picture]) -> WorkflowResult:
    layers = originals
    for picture in pictures:
        if picture.role == "edited_layer" and picture.layer is not None:
            layers = layers.replace(picture.layer, picture)
    for picture in pictures:
        if picture.role == "composite":
            return WorkflowResult(picture=picture, layers=layers, originals=originals)
    raise AcetateError(f"the result of job {info.id} has no composite")
