"""The client on asyncio. It and the synchronous one are the same text; these are the parts that are not."""

from __future__ import annotations

import asyncio
import functools
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from acetate import AsyncClient, ConnectionFailed, InvalidRequest, Layers, RowsRefused, WaitTimeout

from .servers import Proxy, Server, once, proxied, until


def test_the_synchronous_client_is_up_to_date() -> None:
    script = Path(__file__).parents[1] / "scripts" / "unasync.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True)


def test_jobs_and_batches(server: Server, layers: Layers, picture: Image.Image, tmp_path: Path) -> None:
    async def use() -> None:
        async with AsyncClient(server.url) as client:
            job = await client.submit("composite", [picture])
            seen = [one async for one in job.progress()]
            assert seen[-1].state == "succeeded"
            result, whole = await asyncio.gather(job.result(), client.composite(layers))
            assert not isinstance(result, Layers)
            assert whole.size == (128, 128)
            assert await client.has_edit_model
            newest = [one.id async for one in client.jobs(limit=2)]
            assert len(newest) == 2
            rows = [Image.new("RGB", (8, 8), (n, n, n)) for n in range(9)]
            batch = await client.batch("async", rows, kind="composite", concurrency=3)
            assert (await batch.wait()).states == {"succeeded": 9}
            assert [one.id async for one in batch.results()] == list(batch.ids)
            path = await (await client.job(str(layers.job_id))).export("ora", tmp_path / "a.ora")
            assert path.stat().st_size > 1000

    asyncio.run(use())


def test_errors(server: Server, idle: Server, picture: Image.Image) -> None:
    async def use() -> None:
        async with AsyncClient(idle.url) as client:
            with pytest.raises(InvalidRequest):
                await client.decompose(picture, steps=0)
            job = await client.submit("composite", [picture])
            with pytest.raises(WaitTimeout):
                await job.wait(timeout=0.3)
            with pytest.raises(RowsRefused):
                await client.batch("async", [b"no picture", picture])

    asyncio.run(use())


def test_a_task_that_is_cancelled_leaves_its_job_or_cancels_it(
    idle: Server, picture: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    async def use() -> None:
        with proxied(idle) as proxy:
            await wait_and_cancel(AsyncClient(proxy.url), proxy)

    async def wait_and_cancel(connecting: AsyncClient, proxy: Proxy) -> None:
        async with connecting as client:
            for asked in (False, True):
                job = await client.submit("composite", [picture])
                waiting = asyncio.ensure_future(job.wait(cancel_on_interrupt=asked))
                await asyncio.to_thread(until, functools.partial(proxy.requests, f"GET /v1/jobs/{job.id}/events"))
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                assert (await job.refresh()).state == ("cancelled" if asked else "queued")
                assert job.id in caplog.text

    with caplog.at_level(logging.WARNING, "acetate"):
        asyncio.run(use())


def test_a_batch_that_fails_does_not_wait_for_its_other_rows(idle: Server) -> None:
    async def use() -> None:
        with proxied(idle) as proxy:
            first = once(lambda head: head.startswith("POST"), 0)

            def rule(head: str) -> int | bytes | None:
                limit = first(head)
                if limit is None and head.startswith("POST"):
                    time.sleep(30)
                return limit

            proxy.rule = rule
            async with AsyncClient(proxy.url, retry_seconds=0) as client:
                rows = [Image.new("RGB", (8, 8), (n, n, n)) for n in range(20)]
                start = time.monotonic()
                with pytest.raises(ConnectionFailed, match=proxy.url):
                    await client.batch("broken", rows, kind="composite")
                assert time.monotonic() - start < 20
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(use())
