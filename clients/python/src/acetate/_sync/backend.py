"""What differs between asyncio and threads. `_async/backend.py` has the same names."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

import httpx

from ..errors import AcetateError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

HttpClient = httpx.Client


def sleep(seconds: float) -> None:
    """Waits."""
    time.sleep(seconds)


def run(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Calls a function that reads files."""
    return function(*args, **kwargs)


class Stop:
    """Ends the pauses of work that was given up, so that its threads end."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ends all pauses."""
        self._event.set()

    def sleep(self, seconds: float) -> None:
        """Waits; raises if the work was given up."""
        if self._event.wait(seconds):
            raise AcetateError("given up")


def each(function: Callable[[T], R], items: Iterable[T], limit: int, stop: Stop) -> Generator[R, None, None]:
    """Calls the function for every item, `limit` at a time, and yields the results in the order of the items."""
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(limit, thread_name_prefix="acetate") as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                # Twice as many as run, so that a slow first one does not hold up the others.
                if len(pending) >= 2 * limit:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BaseException:
            stop.set()
            for future in pending:
                future.cancel()
            raise


@contextlib.contextmanager
def interruptible(*, job_id: str | None, subject: str, cancel: Callable[[], Any] | None) -> Iterator[None]:
    """Makes the exception of Ctrl-C say what becomes of the job.

    It is a plain `KeyboardInterrupt`: with a subclass, Python would not end as one that Ctrl-C ends, and shell loops
    around it would go on.
    """
    try:
        yield
    except KeyboardInterrupt:
        if cancel is None:
            raise KeyboardInterrupt(subject) from None
        try:
            cancel()
        except AcetateError as error:
            raise KeyboardInterrupt(f"job {job_id} could not be cancelled: {error}") from None
        raise KeyboardInterrupt(f"job {job_id} was cancelled") from None
