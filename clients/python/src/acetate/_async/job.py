"""A job on the server."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any

from .._pictures import Picture, Source
from .._requests import deadline_in
from .._results import Result, build, checked
from .._types import ExportFormat, JobInfo, Output, Progress, State
from ..errors import JobError, NotFound, WaitTimeout
from .backend import Stop, each, interruptible
from .http import AsyncHttp, segment
from .watch import watch

_DOWNLOADS = 4


class AsyncJob:
    """A job on the server: `client.submit(...)` makes one, and `client.job(id)` finds it again.

    Attributes:
        info: the job as the server last showed it; `refresh()`, `wait()` and `progress()` update it.
        is_new: whether this call submitted it; false if the same id or key had been submitted before.
    """

    def __init__(self, http: AsyncHttp, info: JobInfo, *, is_new: bool = False) -> None:
        self._http = http
        self.info = info
        self.is_new = is_new

    @property
    def id(self) -> str:
        """The job's id."""
        return self.info.id

    @property
    def state(self) -> State:
        """The state when the server last showed it: `queued`, `running`, `succeeded`, `failed` or `cancelled`."""
        return self.info.state

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The files of the result; empty until the job has succeeded."""
        return self.info.outputs

    async def refresh(self) -> AsyncJob:
        """Asks the server for the job's state, and returns the job."""
        self.info = JobInfo.parse(await self._http.get(self._path))
        return self

    async def progress(self, *, timeout: float | None = None) -> AsyncGenerator[Progress, None]:
        """Yields the job's progress until it has ended.

        A connection that breaks is opened again, and if event streams do not work at all, the job is polled.

        Args:
            timeout: the longest wait in seconds.

        Raises:
            WaitTimeout: the job has not ended within the timeout. It goes on.
            NotFound: the job was deleted.
        """
        if self.info.ended:
            yield self.info.progress
            return
        last: Progress | None = None
        async with contextlib.aclosing(watch(self._http, self.id, deadline_in(timeout))) as changes:
            async for change in changes:
                if isinstance(change, JobInfo):
                    self.info = change
                now = change.progress if isinstance(change, JobInfo) else change
                if now != last:
                    last = now
                    yield now
        if not self.info.ended and timeout is not None:
            raise WaitTimeout(self.id, timeout)

    async def wait(
        self,
        *,
        timeout: float | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        cancel_on_interrupt: bool = False,
    ) -> AsyncJob:
        """Waits until the job has ended, however it ended, and returns it.

        Ctrl-C leaves the job running, and the exception says its id.

        Args:
            timeout: the longest wait in seconds.
            on_progress: is called with every `Progress`.
            cancel_on_interrupt: whether Ctrl-C cancels the job.

        Raises:
            WaitTimeout: the job has not ended within the timeout. It goes on.
        """
        async with (
            interruptible(
                job_id=self.id,
                subject=f"job {self.id} goes on; client.job({self.id!r}) finds it again",
                cancel=self._cancel_unless_ended if cancel_on_interrupt else None,
            ),
            contextlib.aclosing(self.progress(timeout=timeout)) as changes,
        ):
            async for change in changes:
                if on_progress is not None:
                    on_progress(change)
        return self

    async def result(
        self,
        *,
        timeout: float | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        cancel_on_interrupt: bool = False,
    ) -> Result:
        """Waits until the job has ended, and returns its result with all pictures.

        That is `Layers` for a decompose, a `Picture` for an edit or a composite, and a `WorkflowResult` for a workflow.

        Args:
            timeout: the longest wait in seconds.
            on_progress: is called with every `Progress`.
            cancel_on_interrupt: whether Ctrl-C cancels the job.

        Raises:
            JobFailed: the job failed; the error has its code.
            JobCancelled: the job was cancelled.
            WaitTimeout: the job has not ended within the timeout. It goes on.
        """
        await self.wait(timeout=timeout, on_progress=on_progress, cancel_on_interrupt=cancel_on_interrupt)
        self.info.raise_unless_succeeded()
        manifest = (await self._http.send("GET", f"{self._path}/files/manifest.json")).content
        downloads = each(self.download, self.info.outputs, _DOWNLOADS, Stop())
        async with contextlib.aclosing(downloads) as pictures:
            return build(self.info, manifest, [picture async for picture in pictures])

    async def download(self, file: str | Output) -> Picture:
        """Downloads one picture of the result, by its name, and checks its SHA-256."""
        output = file if isinstance(file, Output) else self._output(file)
        response = await self._http.send("GET", f"{self._path}/files/{segment(output.name)}")
        return Picture(
            checked(self.id, output, response.content),
            name=output.name,
            role=output.role,
            layer=output.layer,
            source=Source(self._http.url, self.id, output.name),
            placement=output.placement,
            layer_name=output.layer_name,
        )

    async def manifest(self) -> Mapping[str, Any]:
        """Reads `manifest.json`: how the result was made."""
        found: Mapping[str, Any] = json.loads(
            (await self._http.send("GET", f"{self._path}/files/manifest.json")).content
        )
        return found

    async def thumbnail(self, file: str, *, size: int = 256) -> bytes:
        """Reads a small PNG of a picture; `input-0.png` is the job's first input.

        Args:
            file: the picture's name.
            size: the maximum length of the longer side: 96, 256, 640 or 1280.
        """
        path = f"{self._path}/thumbnails/{segment(file)}"
        return (await self._http.send("GET", path, params={"size": size})).content

    async def export(self, format: ExportFormat, to: str | os.PathLike[str] | None = None) -> Path:
        """Downloads all layers as one file, and returns its path.

        Args:
            format: `psd` for Photoshop and GIMP, `ora` for Krita, `pptx` for PowerPoint, or `zip`; `webp` (lossless) or
                `jpg` (on white where it is transparent) for the composite.
            to: the file to write; `acetate-ID.FORMAT` in the working directory if left out.
        """
        path = Path(to if to is not None else f"acetate-{self.id}.{format}")
        await self._http.download(f"{self._path}/export.{segment(format)}", path)
        return path

    async def cancel(self) -> AsyncJob:
        """Cancels the job. A running job stops within one denoise step; `wait()` waits for that.

        Raises:
            Conflict: the job has already ended.
        """
        self.info = JobInfo.parse(await self._http.post(f"{self._path}/cancel", idempotent=True))
        return self

    async def retry(self) -> AsyncJob:
        """Queues the job again, if it failed or was cancelled.

        Raises:
            Conflict: the job has succeeded, or has not ended.
        """
        self.info = JobInfo.parse(await self._http.post(f"{self._path}/retry", idempotent=False))
        return self

    async def delete(self) -> None:
        """Deletes the job and its files.

        Raises:
            Conflict: the job has not ended.
        """
        await self._http.send("DELETE", self._path)

    @property
    def _path(self) -> str:
        return f"/v1/jobs/{segment(self.id)}"

    def _output(self, name: str) -> Output:
        for output in self.info.outputs:
            if output.name == name:
                return output
        names = ", ".join(output.name for output in self.info.outputs) or f"none; it is {self.state}"
        raise JobError(self.id, f"job {self.id} has no {name}; its files: {names}")

    async def _cancel_unless_ended(self) -> None:
        with contextlib.suppress(NotFound):
            await self._http.post(f"{self._path}/cancel", idempotent=True)

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.info.kind} {self.info.progress}>"
