"""Batches: many jobs, submitted once each."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from PIL import Image

from acetate import BatchInfo, BatchTimeout, Client, NotFound, Picture, RateLimited, Row, RowsRefused, Unauthorized

from .conftest import TOKEN
from .servers import Proxy, Server, proxied, until


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Six different pictures."""
    made = []
    for n in range(6):
        path = tmp_path / f"{n}.png"
        Image.new("RGBA", (16, 16), (n * 40, 0, 0, 255)).save(path)
        made.append(path)
    return made


def test_a_batch_runs_and_its_results_are_in_the_order_of_the_rows(client: Client, paths: list[Path]) -> None:
    batch = client.batch("in-order", paths, kind="composite", concurrency=3)
    seen: list[BatchInfo] = []
    end = batch.wait(on_progress=seen.append)
    assert (end.total, end.ended, end.fraction, dict(end.states)) == (6, 6, 1.0, {"succeeded": 6})
    assert seen[-1] == end
    results = [job.result() for job in batch.results()]
    reds = [one.image.tobytes()[0] for one in results if isinstance(one, Picture)]
    assert reds == [0, 40, 80, 120, 160, 200]
    assert {job.id for job in client.batch("in-order").results()} == set(batch.ids)
    assert "in-order" in {one.batch for one in client.batches(limit=100)}


def test_the_same_call_goes_on_and_uploads_nothing_twice(idle: Server, paths: list[Path]) -> None:
    with proxied(idle) as proxy, Client(proxy.url) as client:
        first = client.batch("again", paths[:4], kind="composite")
        assert len(proxy.requests("POST /v1/jobs ")) == 4
        second = client.batch("again", [str(path) for path in paths], kind="composite")
        assert len(proxy.requests("POST /v1/jobs ")) == 6
        assert second.ids[:4] == first.ids
        assert second.progress().total == 6
        # Another batch, and other parameters, are other jobs.
        client.batch("other", paths[:1], kind="composite")
        client.batch("again", paths[:1], kind="composite", labels={"run": "2"})
        assert client.batch("again").progress().total == 7


def test_a_crash_in_the_middle_loses_and_repeats_nothing(idle: Server, paths: list[Path]) -> None:
    """The connection breaks for good at the fourth row; the three before it, and its own, may have arrived."""
    with proxied(idle) as proxy, Client(proxy.url, retry_seconds=0.2) as client:
        proxy.rule = lambda head: 0 if len(proxy.requests("POST /v1/jobs ")) > 3 else None
        with pytest.raises(Exception, match=proxy.url):
            client.batch("crash", paths, kind="composite", concurrency=1)
        proxy.rule = lambda head: None
        assert 3 <= client.batch("crash").progress().total < 6
        batch = client.batch("crash", paths, kind="composite")
        assert batch.progress().total == 6
        assert len(set(batch.ids)) == 6


def test_rows_have_parameters_and_override_those_of_the_call(idle_client: Client, paths: list[Path]) -> None:
    edit = {"images": [paths[2], paths[3]], "kind": "edit", "instruction": "Mix them", "priority": 7}
    rows: list[Row] = [paths[0], {"image": paths[1], "steps": 3, "labels": {"own": "1"}}, edit]
    batch = idle_client.batch("mixed", rows, seed=7, steps=5, priority=2)
    found = [idle_client.job(id).info for id in batch.ids]
    assert [info.kind for info in found] == ["decompose", "decompose", "edit"]
    assert [info.params["steps"] for info in found] == [5, 3, 5]
    assert [info.params["seed"] for info in found] == [7, 7, 7]
    assert [info.labels for info in found] == [{}, {"own": "1"}, {}]
    assert [info.priority for info in found] == [2, 2, 7]


def test_rows_that_are_refused_are_named_and_all_others_submitted(idle_client: Client, paths: list[Path]) -> None:
    rows: list[Row] = [paths[0], b"no picture", "missing.png", {"image": paths[1], "steps": 0}, {"steps": 3}, paths[2]]
    with pytest.raises(RowsRefused, match="4 rows refused, 2 submitted") as refused:
        idle_client.batch("refused", rows)
    assert [index for index, _, _ in refused.value.refused] == [1, 2, 3, 4]
    assert "params.steps" in str(refused.value.refused[2][2])
    assert idle_client.batch("refused").progress().total == 2


def test_equal_rows_are_one_job_and_own_ids_are_compared(idle_client: Client, paths: list[Path]) -> None:
    same: list[Row] = [paths[0], paths[0].read_bytes()]
    batch = idle_client.batch("equal", same, kind="composite")
    assert len(batch.ids) == 2
    assert batch.progress().total == 1
    own = "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21"
    assert idle_client.batch("equal", [{"image": paths[1], "id": own}], kind="composite").ids == (own,)
    with pytest.raises(RowsRefused, match="conflict"):
        idle_client.batch("equal", [{"image": paths[2], "id": own}], kind="composite")


def test_a_batch_is_cancelled_and_retried(idle_client: Client, paths: list[Path]) -> None:
    batch = idle_client.batch("managed", paths, kind="composite")
    with pytest.raises(BatchTimeout):
        batch.wait(timeout=0.2)
    assert batch.cancel() == 6
    assert batch.wait().states == {"cancelled": 6}
    assert (batch.undo_cancel(), batch.undo_cancel()) == (6, 0)
    assert batch.progress().states == {"queued": 6}
    assert batch.cancel() == 6
    assert batch.retry() == 0
    assert batch.retry(["failed", "cancelled"]) == 6
    assert len(list(batch.jobs(state="queued"))) == 6


def test_a_full_queue_is_waited_for(tmp_path: Path, paths: list[Path]) -> None:
    with Server(tmp_path, {"http.max_queued": "4"}, work=False) as full, Client(full.url, retry_seconds=0) as client:
        submitted = threading.Thread(target=client.batch, args=("full", paths), kwargs={"kind": "composite"})
        submitted.start()
        until(lambda: bool(client.batches()) and client.batch("full").progress().total == 4)
        with pytest.raises(RateLimited) as refused:
            client.submit("composite", [paths[5]])
        assert refused.value.code == "queue_full"
        assert client.batch("full").cancel() == 4
        submitted.join(90)
        assert not submitted.is_alive()
        assert client.batch("full").progress().total == 6


def test_a_wrong_token_is_no_matter_of_a_row(tmp_path: Path, paths: list[Path]) -> None:
    with Server(tmp_path, {"http.token": TOKEN}, work=False) as guarded, pytest.raises(Unauthorized):
        Client(guarded.url, "wrong").batch("guarded", paths)


def test_mistakes_of_the_caller_are_named(idle_client: Client, paths: list[Path], proxy: Proxy) -> None:
    with pytest.raises(TypeError, match="give a list of rows"):
        idle_client.batch("a", "scene.png")
    with pytest.raises(ValueError, match="concurrency"):
        idle_client.batch("a", paths, concurrency=0)
    with pytest.raises(NotFound):
        idle_client.batch("never").wait()
