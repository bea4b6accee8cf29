"""Many jobs under one name."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._inputs import Row, inputs
from .._requests import Submission, deadline_in, remaining, row_id, submission
from .._types import BatchInfo, JobInfo, State
from ..errors import (
    AcetateError,
    ApiError,
    BatchTimeout,
    Conflict,
    Forbidden,
    NotFound,
    RateLimited,
    RowsRefused,
    Unauthorized,
)
from .backend import Stop, each, run, sleep
from .http import AsyncHttp, segment
from .job import AsyncJob
from .pages import jobs

_POLL_SECONDS = 1.0
# A server that asks to come back later than that has a limit that waiting does not help with.
_LONGEST_WAIT_SECONDS = 600.0
_FIELDS = ("labels", "priority", "reuse", "output", "webhook", "extra")


class AsyncBatch:
    """Jobs that were submitted together under a name: `client.batch(name)`.

    Attributes:
        name: the batch's name.
        ids: the jobs' ids in the order of the rows that this call submitted; empty for a batch that was only looked up.
    """

    def __init__(self, http: AsyncHttp, name: str, ids: Sequence[str] = ()) -> None:
        self._http = http
        self.name = name
        self.ids = tuple(ids)
        self._undo: str | None = None

    async def progress(self) -> BatchInfo:
        """Asks the server how far the batch is.

        Raises:
            NotFound: there is no such batch.
        """
        return BatchInfo.parse(await self._http.get(self._path))

    async def wait(
        self, *, timeout: float | None = None, on_progress: Callable[[BatchInfo], object] | None = None
    ) -> BatchInfo:
        """Waits until all jobs of the batch have ended, however they ended.

        Args:
            timeout: the longest wait in seconds.
            on_progress: is called with every `BatchInfo` that differs from the one before.

        Raises:
            BatchTimeout: the batch has not ended within the timeout. It goes on.
        """
        deadline = deadline_in(timeout)
        last: BatchInfo | None = None
        while True:
            now = await self.progress()
            if now != last and on_progress is not None:
                on_progress(now)
            if now.ended >= now.total:
                return now
            last = now
            if timeout is not None and remaining(deadline) <= 0:
                raise BatchTimeout(self.name, timeout)
            await sleep(max(0.0, min(_POLL_SECONDS, remaining(deadline))))

    async def jobs(self, *, state: State | None = None) -> AsyncGenerator[AsyncJob, None]:
        """Yields the jobs of the batch, newest first."""
        async with contextlib.aclosing(jobs(self._http, batch=self.name, state=state)) as found:
            async for info in found:
                yield AsyncJob(self._http, info)

    async def results(self) -> AsyncGenerator[AsyncJob, None]:
        """Yields the jobs that have ended: in the order of the rows if this call submitted them, else newest first.

        `job.result()` has the pictures of one that has succeeded, and raises the error of any other.
        """
        if not self.ids:
            async with contextlib.aclosing(self.jobs()) as found:
                async for job in found:
                    if job.info.ended:
                        yield job
            return
        for id in self.ids:
            job = AsyncJob(self._http, JobInfo.parse(await self._http.get(f"/v1/jobs/{id}")))
            if job.info.ended:
                yield job

    async def cancel(self) -> int:
        """Cancels all jobs of the batch that have not ended, and returns their number."""
        answer = await self._http.post(f"{self._path}/cancel", idempotent=True)
        self._undo = answer["undo"]
        cancelled: int = answer["cancelled"]
        return cancelled

    async def undo_cancel(self) -> int:
        """Takes the last `cancel()` of this object back, and returns the number of jobs that are queued again.

        Only jobs that it cancelled are. It waits for those that are still stopping.
        """
        back = 0
        while self._undo is not None:
            response = await self._http.send("POST", f"{self._path}/retry", json={"undo": self._undo})
            answer = response.json()
            back += answer["retried"]
            if not answer["stopping"]:
                self._undo = None
                break
            await sleep(_POLL_SECONDS)
        return back

    async def retry(self, states: Iterable[State] = ("failed",), *, concurrency: int = 8) -> int:
        """Queues jobs of the batch again, and returns their number.

        Args:
            states: which jobs: `failed`, `cancelled` or both.
            concurrency: how many requests run at a time.
        """
        again: list[AsyncJob] = []
        for state in states:
            async with contextlib.aclosing(self.jobs(state=state)) as found:
                again += [job async for job in found]
        stop = Stop()
        async with contextlib.aclosing(each(_retried, again, concurrency, stop)) as outcomes:
            return len([done async for done in outcomes if done])

    @property
    def _path(self) -> str:
        return f"/v1/batches/{segment(self.name)}"

    def __repr__(self) -> str:
        return f"<Batch {self.name}>"


async def _retried(job: AsyncJob) -> bool:
    """Whether it was queued again; not if another client did that, or deleted it, in the meantime."""
    try:
        await job.retry()
    except (Conflict, NotFound):
        return False
    return True


@dataclass(frozen=True)
class _Outcome:
    index: int
    row: object
    id: str
    error: AcetateError | None = None


async def submit_rows(
    http: AsyncHttp,
    name: str,
    rows: Iterable[Row],
    *,
    kind: str,
    concurrency: int,
    defaults: Mapping[str, Any],
) -> AsyncBatch:
    """Submits the rows of a batch that are not submitted yet."""
    if concurrency < 1:
        raise ValueError("concurrency: at least 1 request must run at a time")
    if isinstance(rows, (str, bytes, Mapping)):
        raise TypeError("rows: give a list of rows, each a picture or a mapping")
    known: set[str] = set()
    async with contextlib.aclosing(jobs(http, batch=name)) as found:
        async for info in found:
            known.add(info.id)

    stop = Stop()

    async def one(numbered: tuple[int, Row]) -> _Outcome:
        index, row = numbered
        id = ""
        try:
            ready, is_own_id = await run(_submission, name, row, kind, defaults, http.url)
            id = ready.body["id"]
            # Rows that have been submitted before are not even uploaded again. An id that the caller chose says nothing
            # about the row's content, so the server compares that.
            if is_own_id or id not in known:
                await _submit(http, ready, stop)
        except (OSError, ValueError, TypeError) as error:
            return _Outcome(index, row, id, AcetateError(str(error)))
        except ApiError as error:
            if not _is_about_the_row(error):
                raise
            return _Outcome(index, row, id, error)
        return _Outcome(index, row, id)

    ids: list[str] = []
    refused: list[tuple[int, object, AcetateError]] = []
    async with contextlib.aclosing(each(one, enumerate(rows), concurrency, stop)) as outcomes:
        async for outcome in outcomes:
            if outcome.error is None:
                ids.append(outcome.id)
            else:
                refused.append((outcome.index, outcome.row, outcome.error))
    if refused:
        raise RowsRefused(name, len(ids), refused)
    return AsyncBatch(http, name, ids)


def _is_about_the_row(error: ApiError) -> bool:
    """Whether other rows may still be accepted."""
    if isinstance(error, Forbidden):
        return error.code == "input_forbidden"
    return not (error.retryable or error.status >= 500 or isinstance(error, Unauthorized))


async def _submit(http: AsyncHttp, ready: Submission, stop: Stop) -> None:
    """Submits a row, however long the server asks to wait: a batch may have more rows than its queue takes."""
    while True:
        try:
            await http.submit(ready, stop)
            return
        except RateLimited as full:
            if full.retry_after is None or full.retry_after > _LONGEST_WAIT_SECONDS:
                raise
            await stop.sleep(full.retry_after)


def _submission(batch: str, row: Row, kind: str, defaults: Mapping[str, Any], server: str) -> tuple[Submission, bool]:
    """The job of a row, whose own values override those of the call, and whether the row has an id."""
    given: dict[str, Any] = {"image": row}
    # A reference such as {"job": ID, "layer": 2} is a picture.
    if isinstance(row, Mapping) and not {"job", "upload"} & set(row):
        given = dict(row)
    pictures = [given.pop(name) for name in ("image", "images", "input") if given.get(name) is not None]
    if len(pictures) != 1:
        raise ValueError("a row has its picture as `image`, or several as `images`")
    own_id, mask = given.pop("id", None), given.pop("mask", None)
    whole = {**defaults, **{name: value for name, value in given.items() if value is not None}}
    chosen_kind = whole.pop("kind", kind)
    fields = {name: whole.pop(name) for name in _FIELDS if name in whole}
    ready = submission(
        chosen_kind, inputs(pictures[0], server, mask), whole, id=own_id, idempotency_key=None, batch=batch, **fields
    )
    if own_id is not None:
        return ready, True
    id = row_id(batch, ready)
    return Submission({**ready.body, "id": id}, ready.inputs, None), False
