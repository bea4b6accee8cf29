"""The client."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from .._inputs import ImageInput, Row, inputs
from .._pictures import Layers, Picture, WorkflowResult
from .._requests import parameters, submission
from .._sheets import Sheet, stack_body
from .._types import BatchInfo, ExportFormat, JobInfo, Kind, Models, OutputSize, Progress, State
from ..errors import AcetateError
from .backend import HttpClient, interruptible, run
from .batch import AsyncBatch, submit_rows
from .http import AsyncHttp, segment
from .job import AsyncJob
from .pages import jobs

T = TypeVar("T")


class AsyncClient:
    """Splits pictures into layers and edits them, with an acetate server.

    ```python
    from acetate import AsyncClient

    async with AsyncClient("http://127.0.0.1:8080") as client:
        layers = await client.decompose("scene.png", layers=4)
        edited = await client.edit_layer(layers[2], "Change the color to blue")
        layers.replace(2, edited).composite().save("new.png")
    ```

    Errors that pass by themselves (a server that restarts, too many requests) are retried; see `retry_seconds`. A job
    is submitted with an `Idempotency-Key`, so that one that is sent twice runs once.
    """

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
        self._http = AsyncHttp(url, token, timeout, retry_seconds, http_client)

    async def decompose(
        self,
        image: ImageInput,
        prompt: str | None = None,
        *,
        layers: int | None = None,
        resolution: int | None = None,
        steps: int | None = None,
        cfg_scale: float | None = None,
        cfg_normalize: bool | None = None,
        seed: int | None = None,
        negative_prompt: str | None = None,
        layer_num: int | None = None,
        num_inference_steps: int | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        cancel_on_interrupt: bool = False,
    ) -> Layers:
        """Splits a picture into transparent layers, and waits for them.

        Parameters that you leave out have the server's defaults, which `config()` shows.

        Args:
            image: a path, bytes, a PIL image, an open file, a `Picture`, or an address that the server reads.
            prompt: a caption of the whole picture; the model writes one if you leave it out.
            layers: the number of layers, 2 to 10. `layer_num` is another name for it.
            resolution: the working resolution in pixels, the side of a square with the same area.
            steps: denoise steps. `num_inference_steps` is another name for it.
            cfg_scale: guidance; 1 is off.
            cfg_normalize: whether the guided prediction is rescaled to the norm of the unguided one.
            seed: the seed of the noise, for a result that you can repeat.
            negative_prompt: what the picture should not show.
            layer_num: the reference's name for `layers`.
            num_inference_steps: the reference's name for `steps`.
            labels: your own key-value pairs, stored with the job.
            priority: 0 to 9, higher first.
            idempotency_key: 1 to 255 characters; the same key is the same job.
            timeout: the longest wait in seconds.
            on_progress: is called with every `Progress`.
            cancel_on_interrupt: whether Ctrl-C cancels the job. By default it goes on.

        Returns:
            The layers: `layers[0]` is the whole picture as the model regenerates it, `layers[1]` the rearmost layer.

        Raises:
            InvalidRequest: a parameter or the picture is not valid; `field` says which.
            JobFailed: the job failed; the error has its code.
            WaitTimeout: the job has not ended within the timeout. It goes on.
        """
        job = await self.submit(
            "decompose",
            image,
            labels=labels,
            priority=priority,
            idempotency_key=idempotency_key,
            prompt=prompt,
            layers=layers,
            resolution=resolution,
            steps=steps,
            cfg_scale=cfg_scale,
            cfg_normalize=cfg_normalize,
            seed=seed,
            negative_prompt=negative_prompt,
            layer_num=layer_num,
            num_inference_steps=num_inference_steps,
        )
        return _expect(
            Layers,
            await job.result(timeout=timeout, on_progress=on_progress, cancel_on_interrupt=cancel_on_interrupt),
        )

    async def edit_layer(
        self,
        layer_image: ImageInput,
        instruction: str,
        *,
        output_size: OutputSize | None = None,
        steps: int | None = None,
        cfg_scale: float | None = None,
        seed: int | None = None,
        negative_prompt: str | None = None,
        num_inference_steps: int | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        cancel_on_interrupt: bool = False,
    ) -> Picture:
        """Changes one layer by an instruction; its size and its alpha stay exactly the same.

        A layer of an earlier result is not uploaded again. `layers.replace(2, edited)` puts the result in its place.

        Args:
            layer_image: the layer, usually `layers[2]`.
            instruction: what to change, for instance "Change the color to blue".
            output_size: `source` keeps the size and the exact alpha; `model` keeps the size that the model works at.
            steps: denoise steps. `num_inference_steps` is another name for it.
            cfg_scale: guidance; 1 is off.
            seed: the seed of the noise, for a result that you can repeat.
            negative_prompt: what the picture should not show.
            num_inference_steps: the reference's name for `steps`.
            labels: your own key-value pairs, stored with the job.
            priority: 0 to 9, higher first.
            idempotency_key: 1 to 255 characters; the same key is the same job.
            timeout: the longest wait in seconds.
            on_progress: is called with every `Progress`.
            cancel_on_interrupt: whether Ctrl-C cancels the job. By default it goes on.

        Raises:
            InvalidRequest: a parameter or the picture is not valid; `field` says which.
            JobFailed: the job failed; the error has its code.
            WaitTimeout: the job has not ended within the timeout. It goes on.
        """
        return await self.edit(
            layer_image,
            instruction,
            output_size=output_size,
            steps=steps,
            cfg_scale=cfg_scale,
            seed=seed,
            negative_prompt=negative_prompt,
            num_inference_steps=num_inference_steps,
            labels=labels,
            priority=priority,
            idempotency_key=idempotency_key,
            timeout=timeout,
            on_progress=on_progress,
            cancel_on_interrupt=cancel_on_interrupt,
        )

    async def edit(
        self,
        images: ImageInput | Sequence[ImageInput],
        instruction: str,
        *,
        output_size: OutputSize | None = None,
        steps: int | None = None,
        cfg_scale: float | None = None,
        seed: int | None = None,
        negative_prompt: str | None = None,
        num_inference_steps: int | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        cancel_on_interrupt: bool = False,
    ) -> Picture:
        """Changes a picture by an instruction, and waits for the result.

        Args:
            images: one to three pictures; the last one is edited, the others are references.
            instruction: what to change, for instance "Make it night".
            output_size: `source` keeps the size and the exact alpha; `model` keeps the size that the model works at.
            steps: denoise steps. `num_inference_steps` is another name for it.
            cfg_scale: guidance; 1 is off.
            seed: the seed of the noise, for a result that you can repeat.
            negative_prompt: what the picture should not show.
            num_inference_steps: the reference's name for `steps`.
            labels: your own key-value pairs, stored with the job.
            priority: 0 to 9, higher first.
            idempotency_key: 1 to 255 characters; the same key is the same job.
            timeout: the longest wait in seconds.
            on_progress: is called with every `Progress`.
            cancel_on_interrupt: whether Ctrl-C cancels the job. By default it goes on.

        Raises:
            InvalidRequest: a parameter or the picture is not valid; `field` says which.
            JobFailed: the job failed; the error has its code.
            WaitTimeout: the job has not ended within the timeout. It goes on.
        """
        job = await self.submit(
            "edit",
            images,
            labels=labels,
            priority=priority,
            idempotency_key=idempotency_key,
            instruction=instruction,
            output_size=output_size,
            steps=steps,
            cfg_scale=cfg_scale,
            seed=seed,
            negative_prompt=negative_prompt,
            num_inference_steps=num_inference_steps,
        )
        return _expect(
            Picture,
            await job.result(timeout=timeout, on_progress=on_progress, cancel_on_interrupt=cancel_on_interrupt),
        )

    async def composite(
        self,
        layers: Layers | Sequence[ImageInput],
        *,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        cancel_on_interrupt: bool = False,
    ) -> Picture:
        """Puts layers on each other, back to front, as a job of the server. `layers.composite()` does it here.

        Args:
            layers: the layers. Of `Layers`, the regenerated whole picture, `layers[0]`, is left out.
            labels: your own key-value pairs, stored with the job.
            priority: 0 to 9, higher first.
            idempotency_key: 1 to 255 characters; the same key is the same job.
            timeout: the longest wait in seconds.
            on_progress: is called with every `Progress`.
            cancel_on_interrupt: whether Ctrl-C cancels the job. By default it goes on.
        """
        images = layers.stack if isinstance(layers, Layers) else layers
        job = await self.submit("composite", images, labels=labels, priority=priority, idempotency_key=idempotency_key)
        return _expect(
            Picture,
            await job.result(timeout=timeout, on_progress=on_progress, cancel_on_interrupt=cancel_on_interrupt),
        )

    async def workflow(
        self,
        image: ImageInput,
        edits: Mapping[int, str] | Iterable[Mapping[str, Any]] = (),
        *,
        decompose: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        cancel_on_interrupt: bool = False,
    ) -> WorkflowResult:
        """Splits a picture into layers, edits some of them and composites the picture again, as one job.

        Args:
            image: the picture, as for `decompose`.
            edits: instructions by layer number, `{2: "Make it green"}`; or a list with parameters for each,
                `[{"layer": 2, "instruction": "Make it green", "steps": 20}]`.
            decompose: the parameters of the decompose, for instance `{"layers": 3, "seed": 7}`.
            labels: your own key-value pairs, stored with the job.
            priority: 0 to 9, higher first.
            idempotency_key: 1 to 255 characters; the same key is the same job.
            timeout: the longest wait in seconds.
            on_progress: is called with every `Progress`.
            cancel_on_interrupt: whether Ctrl-C cancels the job. By default it goes on.
        """
        job = await self.submit(
            "workflow",
            image,
            labels=labels,
            priority=priority,
            idempotency_key=idempotency_key,
            decompose=decompose,
            edits=edits,
        )
        return _expect(
            WorkflowResult,
            await job.result(timeout=timeout, on_progress=on_progress, cancel_on_interrupt=cancel_on_interrupt),
        )

    async def submit(
        self,
        kind: Kind,
        images: ImageInput | Sequence[ImageInput],
        *,
        id: str | None = None,
        idempotency_key: str | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        batch: str | None = None,
        webhook: str | None = None,
        output: str | None = None,
        **params: Any,
    ) -> AsyncJob:
        """Submits a job and returns at once.

        Args:
            kind: `decompose`, `edit`, `composite` or `workflow`.
            images: the picture, or several.
            id: a UUID of your choice; the same id is the same job.
            idempotency_key: 1 to 255 characters; the same key is the same job. By default every call has its own.
            labels: your own key-value pairs, stored with the job.
            priority: 0 to 9, higher first.
            batch: the name of the batch that the job belongs to.
            webhook: an address that the server calls when the job ends; `acetate.webhooks` checks such calls.
            output: where the results go, `s3://bucket/prefix/` or `file:///folder/`; the server's store if left out.
            params: the parameters of this kind of job, with the names of `decompose`, `edit` and `workflow`.

        Raises:
            InvalidRequest: a parameter or a picture is not valid; `field` says which.
            Conflict: the id or the key belongs to another job.
        """
        ready = await run(
            submission,
            kind,
            await run(inputs, images, self._http.url),
            _workflow_params(params) if kind == "workflow" else params,
            id=id,
            idempotency_key=idempotency_key,
            labels=labels,
            priority=priority,
            batch=batch,
            webhook=webhook,
            output=output,
        )
        again = f"id={id!r}" if id is not None else f"idempotency_key={ready.key!r}"
        subject = f"the job may have been submitted; submit it again with {again} to find it"
        async with interruptible(job_id=id, subject=subject, cancel=None):
            is_new, data = await self._http.submit(ready)
        return AsyncJob(self._http, JobInfo.parse(data), is_new=is_new)

    async def job(self, id: str) -> AsyncJob:
        """Finds a job by its id.

        Raises:
            NotFound: there is no such job; it may have been deleted.
        """
        return AsyncJob(self._http, JobInfo.parse(await self._http.get(f"/v1/jobs/{segment(str(id))}")))

    async def jobs(
        self,
        *,
        state: State | None = None,
        kind: Kind | None = None,
        batch: str | None = None,
        label: str | None = None,
        q: str | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[AsyncJob, None]:
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
        async with contextlib.aclosing(found):
            async for info in found:
                yield AsyncJob(self._http, info)

    async def batch(
        self,
        name: str,
        rows: Iterable[Row] | None = None,
        *,
        kind: Kind = "decompose",
        concurrency: int = 8,
        **defaults: Any,
    ) -> AsyncBatch:
        """Submits many jobs under a name; without rows, returns the batch of that name.

        Each row is a picture, or a mapping with its `image` (or several `images`), any parameter by name, and
        `labels`, `priority`, `id`, `kind`, `output` or `webhook`. A row's values override those of the call.

        A job's id is made from the batch's name and the row's content. So after a crash, the same call goes on where it
        stopped: nothing is submitted or even uploaded twice. Two equal rows are one job. While the server's queue is
        full, the call waits.

        ```python
        batch = await client.batch("posters", sorted(Path("posters").glob("*.png")), layers=4, seed=7)
        await batch.wait(on_progress=print)
        async for job in batch.results():
            if job.state == "succeeded":
                (await job.result()).save(f"out/{job.id}")
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
            return AsyncBatch(self._http, name)
        subject = f"batch {name!r} is submitted in part; the same call goes on"
        async with interruptible(job_id=None, subject=subject, cancel=None):
            return await submit_rows(self._http, name, rows, kind=kind, concurrency=concurrency, defaults=defaults)

    async def batches(self, *, limit: int = 20) -> list[BatchInfo]:
        """Lists the newest batches, at most 100."""
        found = await self._http.get("/v1/batches", {"limit": limit})
        return [BatchInfo.parse(one) for one in found["batches"]]

    async def export(
        self,
        layers: Iterable[Picture | Sheet],
        format: ExportFormat,
        to: str | os.PathLike[str],
    ) -> Path:
        """Downloads any pictures of any jobs as the layers of one file, and returns its path.

        Args:
            layers: the layers, back to front: pictures of results, or `Sheet`s with names, opacity and visibility.
            format: `psd` for Photoshop and GIMP, `ora` for Krita, or `zip`.
            to: the file to write.

        Raises:
            ValueError: a picture is your own or was changed here, so the server does not have it.
        """
        body = stack_body(layers, format, self._http.url)
        response = await self._http.send("POST", "/v1/export", json=body)
        path = Path(to)
        await run(path.write_bytes, response.content)
        return path

    async def models(self) -> Models:
        """Shows the models that jobs run on, and whether they are in memory."""
        return Models.parse(await self._http.get("/v1/models"))

    @property
    async def has_edit_model(self) -> bool:
        """Whether the server can edit.

        It loads the edit model with the first edit; `models().edit.loaded` says whether it is in memory.
        """
        return bool((await self.models()).edit.id)

    async def config(self) -> Mapping[str, Any]:
        """Shows the server's version and mode, and the defaults, bounds and limits of requests."""
        found: Mapping[str, Any] = await self._http.get("/v1/config")
        return found

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncClient {self._http.url}>"


def _workflow_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a workflow have parameters of their own."""
    edits = params.get("edits") or ()
    if isinstance(edits, Mapping):
        edits = [{"layer": layer, "instruction": instruction} for layer, instruction in edits.items()]
    whole = {**params, "edits": [parameters(edit) for edit in edits]}
    if params.get("decompose") is not None:
        whole["decompose"] = parameters(params["decompose"])
    return whole


def _expect(kind: type[T], result: object) -> T:
    if not isinstance(result, kind):
        raise AcetateError(f"the id or the key belongs to a job of another kind: its result is {result!r}")
    return result
