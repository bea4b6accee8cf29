"""The client: one call for each kind of job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from .._inputs import ImageInput
from .._pictures import Layers, Picture, Variants, WorkflowResult
from .._types import AlphaMode, KeepRest, LayerCount, OutputSize, Progress
from ..errors import AcetateError
from .service import AsyncService

T = TypeVar("T")


class AsyncClient(AsyncService):
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

    async def decompose(
        self,
        image: ImageInput,
        prompt: str | None = None,
        *,
        layers: LayerCount | None = None,
        resolution: int | None = None,
        steps: int | None = None,
        cfg_scale: float | None = None,
        cfg_normalize: bool | None = None,
        output_size: OutputSize | None = None,
        min_psnr: float | None = None,
        trim: bool | None = None,
        seed: int | None = None,
        negative_prompt: str | None = None,
        preset: str | None = None,
        loras: Sequence[Mapping[str, object]] | None = None,
        layer_num: int | None = None,
        num_inference_steps: int | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        reuse: bool | None = None,
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
            layers: the number of layers, 2 to 10, or "auto" for as many as the picture has. `layer_num` is another name
                for it.
            resolution: the working resolution in pixels, the side of a square with the same area.
            steps: denoise steps. `num_inference_steps` is another name for it.
            cfg_scale: guidance; 1 is off.
            cfg_normalize: whether the guided prediction is rescaled to the norm of the unguided one.
            output_size: `source` for layers of the picture's size, which compose to it exactly; `model` for what the
                model made. By default `source` for pictures that are larger than the model's, or of another shape.
            min_psnr: marks the result with `quality: low` in `fidelity` if its layers are less true, in dB.
            trim: whether each layer is cut to its visible part; `layer.placement` says where it belongs, and
                `layer.canvas` has it there.
            seed: the seed of the noise, for a result that you can repeat.
            negative_prompt: what the picture should not show.
            preset: `exact`, `balanced`, `fast` or `lightning`.
            loras: LoRAs that the server allows: `[{"name": "ink", "strength": 0.8}]`.
            layer_num: the reference's name for `layers`.
            num_inference_steps: the reference's name for `steps`.
            labels: your own key-value pairs, stored with the job.
            priority: 0 to 9, higher first.
            reuse: whether the job may take the result of an equal one that has succeeded; needs a seed.
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
            reuse=reuse,
            idempotency_key=idempotency_key,
            prompt=prompt,
            layers=layers,
            resolution=resolution,
            steps=steps,
            cfg_scale=cfg_scale,
            cfg_normalize=cfg_normalize,
            output_size=output_size,
            min_psnr=min_psnr,
            trim=trim,
            seed=seed,
            negative_prompt=negative_prompt,
            preset=preset,
            loras=loras,
            layer_num=layer_num,
            num_inference_steps=num_inference_steps,
        )
        return _expect(
            Layers,
            await job.result(timeout=timeout, on_progress=on_progress, cancel_on_interrupt=cancel_on_interrupt),
        )

    async def decompose_variants(
        self,
        image: ImageInput,
        prompt: str | None = None,
        *,
        count: int | None = None,
        seeds: Sequence[int] | None = None,
        timeout: float | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        cancel_on_interrupt: bool = False,
        **params: Any,
    ) -> Variants[Layers]:
        """Splits a picture several times, with other seeds, as one job: models are loaded and inputs are read once.

        Args:
            image: the picture, as for `decompose`.
            prompt: a caption of the whole picture; the model writes one if you leave it out.
            count: the number of variants, 1 to 64, with the seeds `seed`, `seed + 1` and so on.
            seeds: the seeds of the variants, instead of `count` and `seed`.
            timeout: the longest wait in seconds.
            on_progress: is called with every `Progress`.
            cancel_on_interrupt: whether Ctrl-C cancels the job. By default it goes on.
            params: everything else that `decompose` takes.
        """
        job = await self.submit("decompose", image, prompt=prompt, count=count, seeds=seeds, **params)
        result = await job.result(timeout=timeout, on_progress=on_progress, cancel_on_interrupt=cancel_on_interrupt)
        if isinstance(result, Layers):
            # A job with a single seed is a job as any other.
            return Variants.of_one(result, seed=(await job.manifest())["seed"], job_id=job.id)
        return _expect(Variants, result)

    async def edit_variants(
        self,
        images: ImageInput | Sequence[ImageInput],
        instruction: str,
        *,
        count: int | None = None,
        seeds: Sequence[int] | None = None,
        timeout: float | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        cancel_on_interrupt: bool = False,
        **params: Any,
    ) -> Variants[Picture]:
        """Edits a picture several times, with other seeds, as one job: models are loaded and inputs are read once.

        Args:
            images: one to three pictures, as for `edit`.
            instruction: what to change, for instance "Make it night".
            count: the number of variants, 1 to 64, with the seeds `seed`, `seed + 1` and so on.
            seeds: the seeds of the variants, instead of `count` and `seed`.
            timeout: the longest wait in seconds.
            on_progress: is called with every `Progress`.
            cancel_on_interrupt: whether Ctrl-C cancels the job. By default it goes on.
            params: everything else that `edit` takes.
        """
        job = await self.submit("edit", images, instruction=instruction, count=count, seeds=seeds, **params)
        result = await job.result(timeout=timeout, on_progress=on_progress, cancel_on_interrupt=cancel_on_interrupt)
        if isinstance(result, Picture):
            # A job with a single seed is a job as any other.
            return Variants.of_one(result, seed=(await job.manifest())["seed"], job_id=job.id)
        return _expect(Variants, result)

    async def edit_layer(
        self,
        layer_image: ImageInput,
        instruction: str,
        *,
        output_size: OutputSize | None = None,
        mask: ImageInput | None = None,
        region: Sequence[int] | None = None,
        feather: int | None = None,
        keep_rest: KeepRest | None = None,
        drift_guard: bool | None = None,
        alpha: AlphaMode | None = None,
        steps: int | None = None,
        cfg_scale: float | None = None,
        seed: int | None = None,
        negative_prompt: str | None = None,
        preset: str | None = None,
        loras: Sequence[Mapping[str, object]] | None = None,
        num_inference_steps: int | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        reuse: bool | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        cancel_on_interrupt: bool = False,
    ) -> Picture:
        """Changes one layer by an instruction; its size and, unless `alpha` is `grow`, its alpha stay exactly the same.

        A layer of an earlier result is not uploaded again. `layers.replace(2, edited)` puts the result in its place.

        Args:
            layer_image: the layer, usually `layers[2]`.
            instruction: what to change, for instance "Change the color to blue".
            output_size: `source` keeps the size and the exact alpha; `model` keeps the size that the model works at.
            mask: where the edit may change the picture: white may change, black stays exactly; of a layer of a result,
                the alpha. Another size is scaled.
            region: the rectangle that may change, instead of a mask: `(x, y, width, height)` in pixels.
            feather: over how many pixels the edit fades in at the edge of its mask or region, inside of it.
            keep_rest: `auto` finds what changed, without a mask, and keeps everything else exactly.
            drift_guard: whether the shift and zoom of the edited picture are measured and undone; on by default.
            alpha: `keep` (the default) keeps the exact alpha; `grow` finds a new one, as for "Add a shadow", in twice
                the time.
            steps: denoise steps. `num_inference_steps` is another name for it.
            cfg_scale: guidance; 1 is off.
            seed: the seed of the noise, for a result that you can repeat.
            negative_prompt: what the picture should not show.
            preset: `exact`, `balanced`, `fast` or `lightning`.
            loras: LoRAs that the server allows: `[{"name": "ink", "strength": 0.8}]`.
            num_inference_steps: the reference's name for `steps`.
            labels: your own key-value pairs, stored with the job.
            priority: 0 to 9, higher first.
            reuse: whether the job may take the result of an equal one that has succeeded; needs a seed.
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
            mask=mask,
            region=region,
            feather=feather,
            keep_rest=keep_rest,
            drift_guard=drift_guard,
            alpha=alpha,
            steps=steps,
            cfg_scale=cfg_scale,
            seed=seed,
            negative_prompt=negative_prompt,
            preset=preset,
            loras=loras,
            num_inference_steps=num_inference_steps,
            labels=labels,
            priority=priority,
            reuse=reuse,
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
        mask: ImageInput | None = None,
        region: Sequence[int] | None = None,
        feather: int | None = None,
        keep_rest: KeepRest | None = None,
        drift_guard: bool | None = None,
        alpha: AlphaMode | None = None,
        steps: int | None = None,
        cfg_scale: float | None = None,
        seed: int | None = None,
        negative_prompt: str | None = None,
        preset: str | None = None,
        loras: Sequence[Mapping[str, object]] | None = None,
        num_inference_steps: int | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        reuse: bool | None = None,
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
            mask: where the edit may change the picture: white may change, black stays exactly; of a layer of a result,
                the alpha. Another size is scaled.
            region: the rectangle that may change, instead of a mask: `(x, y, width, height)` in pixels.
            feather: over how many pixels the edit fades in at the edge of its mask or region, inside of it.
            keep_rest: `auto` finds what changed, without a mask, and keeps everything else exactly.
            drift_guard: whether the shift and zoom of the edited picture are measured and undone; on by default.
            alpha: `keep` (the default) keeps the exact alpha; `grow` finds a new one, as for "Add a shadow", in twice
                the time.
            steps: denoise steps. `num_inference_steps` is another name for it.
            cfg_scale: guidance; 1 is off.
            seed: the seed of the noise, for a result that you can repeat.
            negative_prompt: what the picture should not show.
            preset: `exact`, `balanced`, `fast` or `lightning`.
            loras: LoRAs that the server allows: `[{"name": "ink", "strength": 0.8}]`.
            num_inference_steps: the reference's name for `steps`.
            labels: your own key-value pairs, stored with the job.
            priority: 0 to 9, higher first.
            reuse: whether the job may take the result of an equal one that has succeeded; needs a seed.
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
            reuse=reuse,
            idempotency_key=idempotency_key,
            instruction=instruction,
            output_size=output_size,
            mask=mask,
            region=region,
            feather=feather,
            keep_rest=keep_rest,
            drift_guard=drift_guard,
            alpha=alpha,
            steps=steps,
            cfg_scale=cfg_scale,
            seed=seed,
            negative_prompt=negative_prompt,
            preset=preset,
            loras=loras,
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
        reuse: bool | None = None,
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
            reuse: whether the job may take the result of an equal one that has succeeded.
            idempotency_key: 1 to 255 characters; the same key is the same job.
            timeout: the longest wait in seconds.
            on_progress: is called with every `Progress`.
            cancel_on_interrupt: whether Ctrl-C cancels the job. By default it goes on.
        """
        images = layers.stack if isinstance(layers, Layers) else layers
        job = await self.submit(
            "composite", images, labels=labels, priority=priority, reuse=reuse, idempotency_key=idempotency_key
        )
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
        mask: ImageInput | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        reuse: bool | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        cancel_on_interrupt: bool = False,
    ) -> WorkflowResult:
        """Splits a picture into layers, edits some of them and composites the picture again, as one job.

        Args:
            image: the picture, as for `decompose`.
            edits: instructions by layer number, `{2: "Make it green"}`; or a list with parameters for each,
                `[{"layer": 2, "instruction": "Add a shadow", "alpha": "grow", "region": [100, 50, 200, 150]}]`.
            decompose: the parameters of the decompose, for instance `{"layers": 3, "seed": 7}`.
            mask: where all edits may change their layers, as for `edit`.
            labels: your own key-value pairs, stored with the job.
            priority: 0 to 9, higher first.
            reuse: whether the job may take the result of an equal one that has succeeded; needs a seed.
            idempotency_key: 1 to 255 characters; the same key is the same job.
            timeout: the longest wait in seconds.
            on_progress: is called with every `Progress`.
            cancel_on_interrupt: whether Ctrl-C cancels the job. By default it goes on.
        """
        job = await self.submit(
            "workflow",
            image,
            mask=mask,
            labels=labels,
            priority=priority,
            reuse=reuse,
            idempotency_key=idempotency_key,
            decompose=decompose,
            edits=edits,
        )
        return _expect(
            WorkflowResult,
            await job.result(timeout=timeout, on_progress=on_progress, cancel_on_interrupt=cancel_on_interrupt),
        )


def _expect(kind: type[T], result: object) -> T:
    if not isinstance(result, kind):
        raise AcetateError(f"the id or the key belongs to a job of another kind: its result is {result!r}")
    return result
