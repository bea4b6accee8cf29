"""Jobs: submit, follow, manage, and the errors of the server."""

from __future__ import annotations

import io
import threading
import uuid
import zipfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

import acetate._sync.pages
from acetate import (
    Client,
    Conflict,
    InvalidRequest,
    JobCancelled,
    Layers,
    NotFound,
    Picture,
    Progress,
    Sheet,
    Unauthorized,
    WaitTimeout,
    WorkflowResult,
    errors,
)

from .conftest import TOKEN
from .servers import EXAMPLES, Server, proxied, until


def test_an_edit_keeps_the_size_and_the_alpha_of_a_layer(client: Client, layers: Layers) -> None:
    seen: list[Progress] = []
    edited = client.edit_layer(
        layer_image=layers[2], instruction="Make it green", num_inference_steps=2, seed=7, on_progress=seen.append
    )
    assert edited.image.getchannel("A").tobytes() == layers[2].image.getchannel("A").tobytes()
    assert seen[-1].state == "succeeded"
    assert {"queued", "running"} & {one.state for one in seen}
    new = layers.replace(2, edited)
    assert new[2].role == "edited_layer"
    assert client.composite(new).size == (128, 128)


def test_layers_are_counted(client: Client, picture: Image.Image) -> None:
    layers = client.decompose(picture, "x", layers="auto", seed=7, steps=1)
    assert len(layers) >= 2
    assert layers.manifest["request"]["params"]["layers"] == "auto"
    with pytest.raises(InvalidRequest) as refused:
        client.submit("decompose", picture, layers="many")
    assert refused.value.field == "params.layers"


def test_variants_are_results_of_one_job(client: Client, picture: Image.Image, layers: Layers) -> None:
    made = client.decompose_variants(picture, "x", seeds=[7, 3], layers=2, steps=2)
    assert (len(made), made.seeds, made.sheet.name) == (2, (7, 3), "variants.png")
    alone = client.decompose(picture, "x", seed=3, layers=2, steps=2)
    assert [one.png for one in made[1]] == [one.png for one in alone]
    assert (made[1].seed, made[1].fidelity) == (3, alone.fidelity)
    edits = client.edit_variants(layers[1], "Make it red", count=2, seed=5, steps=1)
    assert (edits.seeds, [one.size for one in edits]) == ((5, 6), [layers[1].size] * 2)
    # A layer of a variant is a picture of the server.
    assert client.edit_layer(made[1][2], "Make it red", steps=1).size == made[1][2].size
    # One seed, for instance of a list of any length.
    one = client.decompose_variants(picture, "x", seeds=[3], layers=2, steps=2)
    assert (one.seeds, [layer.png for layer in one[0]]) == ((3,), [layer.png for layer in alone])
    assert one.sheet.image.width > 0
    assert one.job_id == one[0].job_id
    edit = client.edit_variants(layers[1], "Make it red", seed=5, steps=1)
    assert (edit.seeds, edit[0].png) == ((5,), edits[0].png)
    with pytest.raises(InvalidRequest) as refused:
        client.decompose_variants(picture, count=65)
    assert refused.value.field == "params.count"


def test_edits_change_only_what_they_may(client: Client, layers: Layers) -> None:
    scene = layers[0].image
    left = Image.new("L", scene.size)
    left.paste(255, (0, 0, scene.width // 2, scene.height))
    right = (scene.width // 2, 0, *scene.size)

    def kept(edited: Picture) -> bool:
        return edited.image.crop(right).tobytes() == scene.crop(right).tobytes()

    quick: dict[str, Any] = {"steps": 2, "seed": 7}
    masked = client.edit_layer(layers[0], "Make it green", mask=left, feather=0, **quick)
    assert kept(masked)
    assert masked.image.tobytes() != scene.tobytes()
    region = client.edit(scene, "Make it green", region=(0, 0, scene.width, scene.height // 2), **quick)
    lower = (0, scene.height // 2, *scene.size)
    assert region.image.crop(lower).tobytes() == scene.crop(lower).tobytes()
    assert not kept(region)
    # An upload with a reference as its mask, whose alpha counts; and the same layer as a picture of its own.
    by_name = client.submit(
        "edit", scene, instruction="Make it green", mask={"job": layers.job_id, "layer": 2}, **quick
    )
    drawn = client.job(str(layers.job_id)).download("layer-02.png")
    drawn.image.putpixel((0, 0), (1, 2, 3, drawn.image.getpixel((0, 0))[3]))  # type: ignore[index]
    by_alpha = client.edit(scene, "Make it green", mask=drawn, **quick)
    assert by_alpha.image.tobytes() == by_name.result().image.tobytes()  # type: ignore[union-attr]
    result = client.workflow(
        EXAMPLES / "scene.png",
        [{"layer": 1, "instruction": "Make it green", "steps": 1}],
        decompose={"layers": 2, "steps": 1, "seed": 7},
        mask=left,
    )
    before, after = result.originals[1].image, result.layers[1].image
    assert after.crop(right).tobytes() == before.crop(right).tobytes()
    assert after.tobytes() != before.tobytes()
    with pytest.raises(InvalidRequest, match="takes no mask"):
        client.submit("composite", [scene], mask=left)


def test_a_workflow_has_the_layers_before_and_after(client: Client) -> None:
    result = client.workflow(
        EXAMPLES / "scene.png",
        [{"layer": 1, "instruction": "Make it green", "num_inference_steps": 1}],
        decompose={"layer_num": 2, "steps": 1, "seed": 7},
    )
    assert isinstance(result, WorkflowResult)
    assert [picture.layer for picture in result.originals] == [0, 1, 2]
    assert [picture.role for picture in result.layers] == ["regenerated", "edited_layer", "layer"]
    assert result.layers[1].sha256 != result.originals[1].sha256
    assert result.picture.role == "composite"


def test_a_job_is_found_again(client: Client, picture: Image.Image) -> None:
    job = client.submit("composite", [picture], labels={"set": "a b=c"}, priority=3)
    again = client.job(job.id).wait()
    assert job.is_new
    assert not again.is_new
    assert again.state == "succeeded"
    assert again.info.labels == {"set": "a b=c"}
    assert again.info.priority == 3
    assert again.refresh().info.data["history"][0]["outcome"] == "succeeded"
    assert abs((datetime.now(timezone.utc) - again.info.created_at).total_seconds()) < 60
    assert next(client.jobs(label="set=a b=c")).id == job.id
    assert [output.role for output in again.outputs] == ["composite"]
    assert again.manifest()["job"] == job.id
    assert Image.open(io.BytesIO(again.thumbnail("composite.png", size=96))).size == picture.size
    with pytest.raises(errors.JobError, match="its files: composite"):
        again.download("layer-07.png")


def test_a_job_takes_the_result_of_an_equal_one(client: Client, picture: Image.Image) -> None:
    first = client.submit("decompose", picture, layers=2, steps=1, seed=11, prompt="x").wait()
    second = client.submit("decompose", picture, layers=2, steps=1, seed=11, prompt="x", reuse=True).wait()
    assert (first.info.reused_from, second.info.reused_from) == (None, first.id)
    assert [output.sha256 for output in second.outputs] == [output.sha256 for output in first.outputs]
    assert second.manifest()["reused_from"] == first.id
    assert client.composite([picture], reuse=True).role == "composite"
    with pytest.raises(InvalidRequest, match="needs a seed") as refused:
        client.decompose(picture, layers=2, reuse=True)
    assert refused.value.field == "reuse"


def test_the_progress_ends_with_the_job(client: Client, picture: Image.Image) -> None:
    job = client.submit("composite", [picture])
    seen = list(job.progress())
    assert seen[-1].ended
    assert [one.ended for one in seen[:-1]] == [False] * (len(seen) - 1)
    assert list(job.progress()) == [job.info.progress]


def test_the_same_key_is_the_same_job(client: Client, picture: Image.Image) -> None:
    key = str(uuid.uuid4())
    first = client.submit("composite", [picture], idempotency_key=key)
    second = client.submit("composite", [picture], idempotency_key=key)
    assert (first.id, first.is_new, second.is_new) == (second.id, True, False)
    with pytest.raises(Conflict) as refused:
        client.submit("composite", [picture], idempotency_key=key, labels={"other": "body"})
    assert (refused.value.status, refused.value.field) == (422, "Idempotency-Key")
    with pytest.raises(ValueError, match="not both"):
        client.submit("composite", [picture], idempotency_key=key, id=str(uuid.uuid4()))


def test_the_server_says_which_field_is_wrong(client: Client, picture: Image.Image) -> None:
    with pytest.raises(InvalidRequest) as refused:
        client.decompose(picture, steps=0)
    assert (refused.value.code, refused.value.field) == ("invalid_request", "params.steps")
    assert not refused.value.retryable
    assert "not between 1 and 1000" in str(refused.value)
    with pytest.raises(InvalidRequest) as refused:
        client.submit("decompose", picture, sterps=3)
    assert "sterps" in str(refused.value)
    with pytest.raises(InvalidRequest) as refused:
        client.decompose(b"no picture")
    assert refused.value.code == "invalid_image"
    with pytest.raises(InvalidRequest, match="colour"):
        client.submit("decompose", picture, extra={"colour": "red"})
    assert client.submit("composite", [picture], extra={"version": 1}).info.kind == "composite"
    with pytest.raises(TypeError, match="steps is given twice"):
        client.decompose(picture, steps=2, num_inference_steps=3)


def test_what_is_not_there_is_not_found(client: Client) -> None:
    with pytest.raises(NotFound) as missing:
        client.job(str(uuid.uuid4()))
    assert missing.value.code == "not_found"
    with pytest.raises(NotFound):
        client.batch("nobody-made-this").progress()


def test_a_job_is_cancelled_retried_and_deleted(idle_client: Client, picture: Image.Image) -> None:
    job = idle_client.submit("composite", [picture])
    assert job.cancel().state == "cancelled"
    with pytest.raises(Conflict):
        job.cancel()
    with pytest.raises(JobCancelled) as cancelled:
        job.result()
    assert cancelled.value.job_id == job.id
    assert job.retry().state == "queued"
    with pytest.raises(Conflict):
        job.delete()
    job.cancel()
    job.delete()
    with pytest.raises(NotFound):
        job.refresh()


def test_a_wait_has_an_end_and_the_job_goes_on(idle_client: Client, picture: Image.Image) -> None:
    job = idle_client.submit("composite", [picture])
    with pytest.raises(WaitTimeout, match=job.id):
        job.wait(timeout=0.5)
    with pytest.raises(TimeoutError):
        job.result(timeout=0)
    assert job.refresh().state == "queued"


def test_a_job_that_fails_says_why(client: Client) -> None:
    job = client.submit("composite", [f"file://{EXAMPLES}/missing.png"])
    with pytest.raises(errors.JobFailed) as failed:
        job.result()
    assert (failed.value.code, failed.value.error_class) == ("input_not_found", "invalid")
    assert not failed.value.retryable
    assert job.info.error is not None


def test_lists_have_pages(idle_client: Client, picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acetate._sync.pages, "_PAGE_JOBS", 2)
    ids = [idle_client.submit("composite", [picture], labels={"n": str(n)}).id for n in range(5)]
    assert [job.id for job in idle_client.jobs()] == ids[::-1]
    assert [job.id for job in idle_client.jobs(limit=3)] == ids[:1:-1]
    assert list(idle_client.jobs(state="running")) == []
    assert [job.id for job in idle_client.jobs(label="n=3")] == [ids[3]]


def test_a_list_that_changes_is_never_cut_short(
    idle_client: Client, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acetate._sync.pages, "_PAGE_JOBS", 2)
    jobs = [idle_client.submit("composite", [picture], labels={"n": str(n)}) for n in range(5)]
    found = idle_client.jobs()
    assert [next(found).id, next(found).id] == [jobs[4].id, jobs[3].id]
    jobs[3].cancel()
    jobs[3].delete()
    assert [job.id for job in found] == [jobs[2].id, jobs[1].id, jobs[0].id]


def test_exports_are_files_for_other_programs(client: Client, layers: Layers, tmp_path: Path) -> None:
    job = client.job(str(layers.job_id))
    assert job.export("psd", tmp_path / "a.psd").read_bytes()[:4] == b"8BPS"
    assert "mergedimage.png" in zipfile.ZipFile(job.export("ora", tmp_path / "a.ora")).namelist()
    assert "layer-00.png" in zipfile.ZipFile(job.export("zip", tmp_path / "a.zip")).namelist()
    assert "ppt/slides/slide1.xml" in zipfile.ZipFile(job.export("pptx", tmp_path / "a.pptx")).namelist()
    for path, kind in (
        (job.export("webp", tmp_path / "a.webp"), "WEBP"),
        (job.export("jpg", tmp_path / "a.jpg"), "JPEG"),
    ):
        with Image.open(path) as whole:
            assert (whole.format, whole.size) == (kind, layers[1].image.size)
    sheets: list[Picture | Sheet] = [layers[1], Sheet(layers[3], name="Sky", opacity=0.5, visible=False)]
    stack = client.export(sheets, "ora", tmp_path / "b.ora")
    xml = zipfile.ZipFile(stack).read("stack.xml").decode()
    assert 'name="Sky"' in xml
    assert "0.5" in xml
    with pytest.raises(ValueError, match="not on the server"):
        client.export([Picture.from_image(layers[1].image)], "ora", tmp_path / "c.ora")
    names = ["a.jpg", "a.ora", "a.pptx", "a.psd", "a.webp", "a.zip", "b.ora"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_a_token_is_sent_and_only_as_a_header(tmp_path: Path, picture: Image.Image) -> None:
    with Server(tmp_path, {"http.token": TOKEN}, work=False) as guarded:
        with pytest.raises(Unauthorized):
            Client(guarded.url).config()
        with pytest.raises(Unauthorized):
            Client(guarded.url, "wrong").submit("composite", [picture])
        client = Client(guarded.url, TOKEN)
        assert client.submit("composite", [picture]).state == "queued"
        assert TOKEN not in repr(client)


def test_an_httpx_client_of_your_own_is_used_and_stays_open(server: Server) -> None:
    seen: list[str] = []
    with httpx.Client(event_hooks={"request": [lambda request: seen.append(request.url.path)]}) as own:
        for _ in range(2):
            with Client(server.url, http_client=own) as client:
                client.models()
    assert seen == ["/v1/models"] * 2


def test_the_server_says_what_it_has(client: Client) -> None:
    models = client.models()
    assert (models.decompose.id, models.edit.id) == ("layered-nano", "edit-nano")
    assert client.has_edit_model
    assert client.config()["defaults"]["decompose"]["layers"] == 4


def test_a_queued_job_is_followed_by_its_events(idle: Server, picture: Image.Image) -> None:
    """A client that polls would notice the end, too, so the requests are counted."""
    with proxied(idle) as proxy, Client(proxy.url) as client:
        job = client.submit("composite", [picture])
        waiter = threading.Thread(target=job.wait)
        waiter.start()
        until(lambda: len(proxy.requests(f"GET /v1/jobs/{job.id}/events")) == 1)
        Client(idle.url).job(job.id).cancel()
        waiter.join(20)
        assert not waiter.is_alive()
        assert job.state == "cancelled"
        assert len(proxy.requests(f"GET /v1/jobs/{job.id} ")) == 0
