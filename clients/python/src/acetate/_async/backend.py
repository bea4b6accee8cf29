"""What differs between asyncio and threads. `_sync/backend.py` has the same names."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import httpx

from ..errors import AcetateError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

HttpClient = httpx.AsyncClient
_log = logging.getLogger("acetate")


async def sleep(seconds: float) -> None:
    """Waits."""
    await asyncio.sleep(seconds)


async def run(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Calls a function that reads files, without blocking the event loop."""
    return await asyncio.to_thread(function, *args, **kwargs)


class Stop:
    """Ends the pauses of work that was given up. Tasks are cancelled instead, so this has nothing to do."""

    def set(self) -> None:
        """Ends all pauses."""

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await asyncio.sleep(seconds)


async def each(
    function: Callable[[T], Awaitable[R]], items: Iterable[T], limit: int, stop: Stop
) -> AsyncGenerator[R, None]:
    """Calls the function for every item, `limit` at a time, and yields the results in the order of the items."""
    pending: deque[asyncio.Future[R]] = deque()
    turns = asyncio.Semaphore(limit)

    async def turn(item: T) -> R:
        async with turns:
            return await function(item)

    try:
        for item in items:
            pending.append(asyncio.ensure_future(turn(item)))
            # Twice as many as run, so that a slow first one does not hold up the others.
            if len(pending) >= 2 * limit:
                yield await _first(pending)
        while pending:
            yield await _first(pending)
    finally:
        for future in pending:
            future.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def _first(pending: deque[asyncio.Future[R]]) -> R:
    """The result of the first one. If another fails before, its error is raised at once."""
    while not pending[0].done():
        for future in pending:
            if future.done():
                future.result()
        await asyncio.wait([future for future in pending if not future.done()], return_when=asyncio.FIRST_COMPLETED)
    return await pending.popleft()


@contextlib.asynccontextmanager
async def interruptible(
    *, job_id: str | None, subject: str, cancel: Callable[[], Awaitable[Any]] | None
) -> AsyncIterator[None]:
    """Says what becomes of a job if the task that waits for it is cancelled, for instance by Ctrl-C."""
    try:
        yield
    except asyncio.CancelledError:
        if cancel is None:
            _log.warning("interrupted; %s", subject)
        else:
            try:
                await asyncio.shield(asyncio.ensure_future(_awaited(cancel)))
                _log.warning("interrupted; job %s was cancelled", job_id)
            except AcetateError as error:
                _log.warning("interrupted; job %s could not be cancelled: %s", job_id, error)
        raise


async def _awaited(cancel: Callable[[], Awaitable[Any]]) -> None:
    await cancel()
