"""The diffusers half, a process of its own: loads a pipeline, then runs it once for each line on standard input.

Answers each line with one line of JSON: seconds of the call and of the parts in it. With --once it runs a single
time without being asked, as a whole process that is timed from outside.
"""

import argparse
import json
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path

START = time.perf_counter()
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import nano  # noqa: E402
import torch  # noqa: E402
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as edit_plus  # noqa: E402
from PIL import Image  # noqa: E402

import checkpoints  # noqa: E402

PARTS = {"text_encode": ("text_encoder", "forward"), "vae_encode": ("vae", "encode"),
         "denoise": ("transformer", "forward"), "vae_decode": ("vae", "decode")}  # fmt: skip


class AnyResolution(int):
    """Passes the pipeline's assertion that a resolution is 640 or 1024. (-O would too, but slows the import.)"""

    __hash__ = int.__hash__

    def __eq__(self, _other):
        return True


@contextmanager
def timed(pipe, seconds: dict[str, float]):
    """Adds up the time spent in each part."""

    def wrap(stage, function):
        def call(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start

        return call

    owners = [(stage, getattr(pipe, part), method) for stage, (part, method) in PARTS.items()]
    for stage, owner, method in owners:
        setattr(owner, method, wrap(stage, getattr(owner, method)))
    try:
        yield
    finally:
        for _, owner, method in owners:
            delattr(owner, method)


def call(pipe, job: argparse.Namespace) -> list[Image.Image]:
    """What `acetate run` does with the same arguments."""
    common = {"negative_prompt": " ", "true_cfg_scale": job.cfg_scale, "num_inference_steps": job.steps,
              "generator": torch.Generator("cpu").manual_seed(job.seed)}  # fmt: skip
    picture = Image.open(job.image)
    if job.kind == "decompose":
        return pipe(picture.convert("RGBA"), job.prompt, layers=job.layers, resolution=AnyResolution(nano.RESOLUTION),
                    cfg_normalize=True, **common).images[0]  # fmt: skip
    edit_plus.CONDITION_IMAGE_SIZE, edit_plus.VAE_IMAGE_SIZE = nano.CONDITION_AREA, nano.VAE_AREA
    picture = picture.convert("RGB")
    width, height = edit_plus.calculate_dimensions(nano.VAE_AREA, picture.width / picture.height)
    return pipe([picture], job.prompt, height=height, width=width, **common).images


def run(pipe, job: argparse.Namespace) -> dict:
    parts: dict[str, float] = {}
    start = time.perf_counter()
    with timed(pipe, parts):
        pictures = call(pipe, job)
    seconds = time.perf_counter() - start
    job.out.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures):
        picture.save(job.out / f"{index:02}.png")
    return {"seconds": seconds, "parts": parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["decompose", "edit"])
    parser.add_argument("image", type=Path)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--cfg-scale", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--once", action="store_true")
    job = parser.parse_args()

    torch.set_num_threads(job.threads)
    imported = time.perf_counter()
    pipe = checkpoints.load("layered" if job.kind == "decompose" else "edit", job.model, "torchvision")
    loaded = time.perf_counter()
    start_up = {"import": imported - START, "load": loaded - imported}
    if job.once:
        print(json.dumps({**start_up, **run(pipe, job)}), flush=True)
        return
    run(pipe, job)  # warm-up
    print(json.dumps(start_up), flush=True)
    for _ in sys.stdin:
        print(json.dumps(run(pipe, job)), flush=True)


if __name__ == "__main__":
    main()
