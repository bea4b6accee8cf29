"""Uses the client that openapi-python-client generated: submits pictures, waits, and fetches layers."""

from __future__ import annotations

import io
import sys
import time
from uuid import UUID

from acetate_client import Client
from acetate_client.api.inputs import upload_input
from acetate_client.api.jobs import list_jobs, show_job, submit_job
from acetate_client.api.pictures import export_stack, get_layer, get_manifest
from acetate_client.api.server import show_models
from acetate_client.models import (
    DecomposeJob,
    DecomposeParams,
    EditJob,
    EditMessage,
    EditParams,
    InputBody,
    LayerBody,
    LayerReference,
    Manifest,
    Problem,
    ServerModels,
    StackBody,
    SubmitDecompose,
    SubmitEdit,
    UploadForm,
    UploadReference,
    UploadView,
)
from acetate_client.types import UNSET, File, Unset
from PIL import Image

url, picture = sys.argv[1:]
client = Client(base_url=url.rstrip("/"), timeout=60)  # type: ignore[arg-type]


def finished(job: object) -> DecomposeJob | EditJob:
    """Waits for the end of a job."""
    assert isinstance(job, (DecomposeJob, EditJob)), job
    while job.state in ("queued", "running"):
        time.sleep(0.1)
        shown = show_job.sync(job.id, client=client)
        assert isinstance(shown, (DecomposeJob, EditJob)), shown
        job = shown
    assert job.state == "succeeded", job.error
    return job


def file(name: str) -> File:
    with open(picture, "rb") as opened:
        return File(payload=io.BytesIO(opened.read()), file_name=name, mime_type="image/png")


# What the model was made for.
models = show_models.sync(client=client)
assert isinstance(models, ServerModels) and models.decompose.layers == [2, 5], models

# A form with a picture.
form = UploadForm(image=[file("scene.png")], layers=2, steps=1, prompt="x", label=["name=scene"])
first = finished(submit_job.sync(client=client, body=form))
assert isinstance(first, DecomposeJob) and first.params.layers == 2
assert first.labels["name"] == "scene"
layers = [output for output in first.outputs if output.role == "layer"]
for output in layers:
    got = get_layer.sync(first.id, f"{output.layer}.png", client=client)
    assert isinstance(got, File), got
    shown = Image.open(got.payload)
    assert shown.mode == "RGBA" and shown.size == (output.width, output.height), shown
    box = output.bounding_box
    assert box is not None and not isinstance(box, Unset)
    # Nobody sees an alpha below 8.
    seen = shown.getchannel("A").point([0] * 8 + [255] * 248)
    expected = seen.getbbox() or (0, 0, 0, 0)
    assert (box.x, box.y, box.x + box.width, box.y + box.height) == expected, (box, expected)

# A picture that is uploaded once, and named by two jobs.
upload = upload_input.sync(client=client, body=file("scene.png"))
assert isinstance(upload, UploadView), upload
reference = UploadReference(upload=upload.upload)
body = SubmitDecompose(
    kind="decompose",
    input_=InputBody(image=reference),
    params=DecomposeParams(layers=2, steps=1, prompt="x", preset="fast"),
)
second = finished(submit_job.sync(client=client, body=body))
assert second.input_[0] == reference, second.input_

edit = SubmitEdit(
    kind="edit",
    input_=InputBody(image=LayerReference(job=first.id, layer=1)),
    params=EditParams(instruction="Make it green", steps=1),
)
edited = finished(submit_job.sync(client=client, body=edit))
assert isinstance(edited, EditJob) and edited.params.instruction == "Make it green"

manifest = get_manifest.sync(edited.id, client=client)
assert isinstance(manifest, Manifest) and isinstance(manifest.request, EditMessage), manifest
assert isinstance(manifest.request.params, EditParams)
assert manifest.request.params.instruction == "Make it green"
page = list_jobs.sync(client=client, limit=2)
assert page is not None and not isinstance(page, Problem) and len(page.jobs) == 2 and page.next_ is not None

stack = StackBody(
    format_="zip",
    layers=[LayerBody(upload=upload.upload, name="back"), LayerBody(job=edited.id, file="edited.png", opacity=0.5)],
)
archive = export_stack.sync(client=client, body=stack)
assert isinstance(archive, File) and archive.payload.read(2) == b"PK", archive

missing = show_job.sync(UUID("018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21"), client=client)
assert isinstance(missing, Problem) and missing.code == "not_found", missing
absent = SubmitDecompose(kind="decompose", input_=InputBody(image=UploadReference(upload="0" * 64 + ".png")))
refused = submit_job.sync(client=client, body=absent)
assert isinstance(refused, Problem) and refused.code == "input_not_found" and refused.field == "input", refused
assert edited.error in (None, UNSET)
print(f"{len(layers)} layers, an edit, a manifest and an export")
