"""Broken connections, restarts and limits: nothing is lost, and nothing happens twice."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from acetate import Client, ConnectionFailed, IntegrityError, InvalidRequest, Layers, RateLimited

from .servers import Proxy, Server, once, proxied, until


def test_a_submission_whose_reply_is_lost_is_one_job(idle: Server, picture: Image.Image) -> None:
    with proxied(idle) as proxy, Client(proxy.url) as client:
        proxy.rule = once(lambda head: head.startswith("POST /v1/jobs "), 0)
        job = client.submit("composite", [picture])
        assert len(proxy.requests("POST /v1/jobs ")) == 2
        assert not job.is_new
        assert [found.id for found in client.jobs()] == [job.id]


def test_a_retry_of_a_job_is_not_sent_twice(idle: Server, picture: Image.Image) -> None:
    with proxied(idle) as proxy, Client(proxy.url) as client:
        job = client.submit("composite", [picture]).cancel()
        proxy.rule = once(lambda head: "/retry" in head, 0)
        with pytest.raises(ConnectionFailed):
            job.retry()
        assert len(proxy.requests(f"POST /v1/jobs/{job.id}/retry")) == 1


def test_events_that_break_go_on_behind_the_last_one(idle: Server, picture: Image.Image) -> None:
    with proxied(idle) as proxy, Client(proxy.url) as client:
        job = client.submit("composite", [picture])

        events = f"GET /v1/jobs/{job.id}/events"
        # The first event arrives.
        proxy.rule = once(lambda head: head.startswith(events), b"\n\n")
        waiter = threading.Thread(target=job.wait)
        waiter.start()
        until(lambda: len(proxy.requests(events)) == 2)
        Client(idle.url).job(job.id).cancel()
        waiter.join(30)
        assert not waiter.is_alive()
        assert job.state == "cancelled"
        first, second = (re.findall(r"(?i)last-event-id: (\d+)", head) for head in proxy.requests(events))
        assert first == []
        assert int(second[0]) > 1_700_000_000_000


def test_where_streams_do_not_work_the_job_is_polled(idle: Server, picture: Image.Image) -> None:
    with proxied(idle) as proxy, Client(proxy.url) as client:
        job = client.submit("composite", [picture])
        # Only the head of the response arrives.
        proxy.rule = lambda head: 100 if "/events" in head else None
        waiter = threading.Thread(target=job.wait)
        waiter.start()
        until(lambda: len(proxy.requests(f"GET /v1/jobs/{job.id} ")) >= 4)
        Client(idle.url).job(job.id).cancel()
        waiter.join(30)
        assert not waiter.is_alive()
        assert job.state == "cancelled"
        assert len(proxy.requests(f"GET /v1/jobs/{job.id}/events")) == 2


def test_a_download_that_breaks_goes_on_where_it_broke(proxy: Proxy, layers: Layers, tmp_path: Path) -> None:
    with Client(proxy.url) as client:
        whole = client.job(str(layers.job_id)).export("zip", tmp_path / "whole.zip").read_bytes()
        proxy.rule = once(lambda head: "export.zip" in head, 5000)
        cut = client.job(str(layers.job_id)).export("zip", tmp_path / "cut.zip").read_bytes()
    assert cut == whole
    last = proxy.requests(f"GET /v1/jobs/{layers.job_id}/export.zip")[-1].lower()
    assert "range: bytes=" in last
    assert "range: bytes=0-" not in last
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.zip", "whole.zip"]


def test_a_download_that_never_succeeds_leaves_no_file(proxy: Proxy, layers: Layers, tmp_path: Path) -> None:
    with Client(proxy.url, retry_seconds=0.5) as client:
        job = client.job(str(layers.job_id))
        proxy.rule = lambda head: 300
        with pytest.raises(ConnectionFailed):
            job.export("psd", tmp_path / "a.psd")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_arrives_damaged_is_refused(proxy: Proxy, layers: Layers) -> None:
    with Client(proxy.url) as client:
        job = client.job(str(layers.job_id))
        proxy.change = lambda piece: piece.replace(b"IEND", b"IENX")
        with pytest.raises(IntegrityError, match=r"layer-01\.png") as damaged:
            job.download("layer-01.png")
    assert damaged.value.retryable


def test_waiting_outlasts_a_restart_of_the_server(tmp_path: Path, picture: Image.Image) -> None:
    with Server(tmp_path, work=False) as first:
        proxy = Proxy(first.port)
        job = Client(proxy.url).submit("composite", [picture])
        waiter = threading.Thread(target=job.wait)
        waiter.start()
        until(lambda: any("/events" in head for head in proxy.heads))
    with proxy, Server(tmp_path, port=first.port):
        waiter.join(60)
        assert not waiter.is_alive()
        assert job.state == "succeeded"


def test_too_many_requests_wait_as_long_as_the_server_says(tmp_path: Path, picture: Image.Image) -> None:
    with Server(tmp_path, {"http.requests_per_second": "5"}, work=False) as slow:
        client = Client(slow.url)
        job = client.submit("composite", [picture]).cancel()
        impatient = Client(slow.url, retry_seconds=0)
        with pytest.raises(RateLimited) as refused:
            all(impatient.config() for _ in range(50))
        assert (refused.value.code, refused.value.retryable) == ("rate_limited", True)
        assert refused.value.retry_after == 1
        # The server could answer after 0.2 seconds, but it asks for one. It has done nothing, so even this is repeated.
        start = time.monotonic()
        assert job.retry().state == "queued"
        assert time.monotonic() - start > 0.95


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with Server(tmp_path, work=False) as running:
        url = running.url
    start = time.monotonic()
    with pytest.raises(ConnectionFailed, match=url):
        Client(url, retry_seconds=0.6).config()
    assert 0.2 < time.monotonic() - start < 5
    with pytest.raises(ValueError, match="is not the address of a server"):
        Client("127.0.0.1:8080")


def test_what_is_refused_is_not_sent_again(proxy: Proxy, picture: Image.Image) -> None:
    with Client(proxy.url) as client, pytest.raises(InvalidRequest):
        client.submit("decompose", picture, layers=99)
    assert len(proxy.requests("POST /v1/jobs ")) == 1


def test_an_open_file_is_sent_again_from_its_beginning(idle: Server, picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "a.png")
    with proxied(idle) as proxy, Client(proxy.url) as client, (tmp_path / "a.png").open("rb") as file:
        proxy.rule = once(lambda head: head.startswith("POST /v1/jobs "), 0)
        job = client.submit("composite", [file])
        assert len(proxy.requests("POST /v1/jobs ")) == 2
        assert job.state == "queued"
