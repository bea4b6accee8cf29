# Made by scripts/unasync.py from _async/service.py. Change that file.

"""What the server offers besides waiting for a job: submit, find, list, batches, exports."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from .._inputs import ImageInput, Row, inputs
from .._pictures import Picture
from .._plain import plain
from .._requests import submission
from .._sheets import Sheet, stack_body
from .._types import BatchInfo, ExportFormat, JobInfo, Kind, Models, State
from .backend import HttpClient, interruptible, run
from .batch import Batch, submit_rows
from .http import Http, segment
from .job import Job
from .pages import jobs

S = TypeVar("S", bound="Service")


class Service:
    """A server, and its jobs and batches."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        token: str | None = None,
        *,
        timeout: float = 30.0,
        retry_seconds: float = 60.0,
        http_client: HttpClient | None = None,
    ) -> None:
        """Makes a client; it connects with the first call.

        Args:
            url: the server's address.
            token: the server's `http.token`.
            timeout: how long to wait for a connection, and for a server that stops responding or taking data, in
                seconds. Waits for jobs have timeouts of their own.
            retry_seconds: how long a call that fails is retried, from its first failure. 0: not at all.
            http_client: your own httpx client, for proxies or certificates. You close it.
        """
        self._http = Http(url, token, timeout, retry_seconds, http_client)

    def submit(
        self,
        kind: Kind,
        images: ImageInput | Sequence[ImageInput],
        *,
        mask: ImageInput | None = None,
        id: str | None = None,
        idempotency_key: str | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        reuse: bool | None = None,
        batch: str | None = None,
        webhook: str | None = None,
        output: str | None = None,
        extra: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> Job:
        """Submits a job and returns at once.

        Args:
            kind: `decompose`, `edit`, `composite` or `workflow`.
            images: the picture, or several.
            mask: where an edit, or the edits of a workflow, may change the picture: white may change, black stays; of a
                layer of a result, the alpha.
            id: a UUID of your choice; the same id is the same job.
            idempotency_key: 1 to 255 characters; the same key is the same job. By default every call has its own.
            labels: your own key-value pairs, stored with the job.
            priority: 0 to 9, higher first.
            reuse: whether the job may take the result of an equal one that has succeeded: the same pictures, parameters
                and model, and the same seed, which must be given. `job.info.reused_from` says that it did.
            batch: the name of the batch that the job belongs to.
            webhook: an address that the server calls when the job ends; `acetate.webhooks` checks such calls.
            output: where the results go, `s3://bucket/prefix/` or `file:///folder/`; the server's store if left out.
            extra: further fields of the request, for a server that is newer than this client.
            params: the parameters of this kind of job, with the names of `decompose`, `edit` and `workflow`.

        Raises:
            InvalidRequest: a parameter or a picture is not valid; `field` says which.
            Conflict: the id or the key belongs to another job.
        """
        ready = run(
            submission,
            kind,
            run(inputs, images, self._http.url, mask),
            params,
            id=id,
            idempotency_key=idempotency_key,
            labels=labels,
            priority=priority,
            reuse=reuse,
            batch=batch,
            webhook=webhook,
            output=output,
            extra=extra,
        )
        again = f"id={id!r}" if id is not None else f"idempotency_key={ready.key!r}"
        subject = f"the job may have been submitted; submit it again with {again} to find it"
        with interruptible(job_id=id, subject=subject, cancel=None):
            is_new, data = self._http.submit(ready)
        return Job(self._http, JobInfo.parse(data), is_new=is_new)

    def job(self, id: str) -> Job:
        """Finds a job by its id.

        Raises:
            NotFound: there is no such job; it may have been deleted.
        """
        return Job(self._http, JobInfo.parse(self._http.get(f"/v1/jobs/{segment(str(id))}")))

    def jobs(
        self,
        *,
        state: State | None = None,
        kind: Kind | None = None,
        batch: str | None = None,
        label: str | None = None,
        q: str | None = None,
        limit: int | None = None,
    ) -> Generator[Job, None, None]:
        """Yields jobs, newest first; the pages are read as you go.

        Args:
            state: only jobs in this state.
            kind: only jobs of this kind.
            batch: only jobs of this batch.
            label: only jobs with this label, `key=value`.
            q: words that must all occur in the id, the prompt, an instruction, a label, the batch, or a picture's name.
            limit: the most jobs; all if left out.
        """
        found = jobs(self._http, limit=limit, state=state, kind=kind, batch=batch, label=label, q=q)
        with contextlib.closing(found):
            for info in found:
                yield Job(self._http, info)

    def batch(
        self,
        name: str,
        rows: Iterable[Row] | None = None,
        *,
        kind: Kind = "decompose",
        concurrency: int = 8,
        **defaults: Any,
    ) -> Batch:
        """Submits many jobs under a name; without rows, returns the batch of that name.

        Each row is a picture, or a mapping with its `image` (or several `images`), a `mask`, any parameter by name, and
        `labels`, `priority`, `reuse`, `id`, `kind`, `output`, `webhook` or `extra`. A row's values override those of
        the call.

        A job's id is made from the batch's name and the row's content. So after a crash, the same call goes on where it
        stopped: nothing is submitted or even uploaded twice. Two equal rows are one job. While the server's queue is
        full, the call waits.

        ```python
        batch = client.batch("posters", sorted(Path("posters").glob("*.png")), layers=4, seed=7)
        batch.wait(on_progress=print)
        for job in batch.results():
            if job.state == "succeeded":
                (job.result()).save(f"out/{job.id}")
        ```

        Args:
            name: letters, digits, `-`, `_` and `.`; at most 100 characters.
            rows: the rows. They are read as they are submitted, so they may come from a generator.
            kind: the kind of jobs.
            concurrency: how many rows are submitted at a time.
            defaults: parameters, labels and so on for all rows.

        Raises:
            RowsRefused: some rows are not valid; all others were submitted.
        """
        if rows is None:
            return Batch(self._http, name)
        subject = f"batch {name!r} is submitted in part; the same call goes on"
        with interruptible(job_id=None, subject=subject, cancel=None):
            return submit_rows(self._http, name, rows, kind=kind, concurrency=concurrency, defaults=defaults)

    def batches(self, *, limit: int = 20) -> list[BatchInfo]:
        """Lists the newest batches, at most 100."""
        found = self._http.get("/v1/batches", {"limit": limit})
        return [BatchInfo.parse(one) for one in found["batches"]]

    def export(
        self,
        layers: Iterable[Picture | Sheet],
        format: ExportFormat,
        to: str | os.PathLike[str],
    ) -> Path:
        """Downloads any pictures of any jobs as the layers of one file, and returns its path.

        Args:
            layers: the layers, back to front: pictures of results, or `Sheet`s with names, opacity and visibility.
            format: `psd` for Photoshop and GIMP, `ora` for Krita, `pptx` for PowerPoint, or `zip`; `webp` (lossless) or
                `jpg` (on white where it is transparent) for the composite.
            to: the file to write.

        Raises:
            ValueError: a picture is your own or was changed here, so the server does not have it.
        """
        body = stack_body(layers, format, self._http.url)
        response = self._http.send("POST", "/v1/export", json=plain(body))
        path = Path(to)
        run(path.write_bytes, response.content)
        return path

    def models(self) -> Models:
        """Shows the models that jobs run on, and whether they are in memory."""
        return Models.parse(self._http.get("/v1/models"))

    @property
    def has_edit_model(self) -> bool:
        """Whether the server can edit.

        It loads the edit model with the first edit; `models().edit.loaded` says whether it is in memory.
        """
        return bool((self.models()).edit.id)

    def config(self) -> Mapping[str, Any]:
        """Shows the server's version and mode, and the defaults, bounds and limits of requests."""
        found: Mapping[str, Any] = self._http.get("/v1/config")
        return found

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._http.url}>"
