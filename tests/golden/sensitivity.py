"""How far each path moves the finished picture: PSNR in dB between the reference and the same run with one change.

A number near 20 to 30 says that a mistake there cannot pass the bar of 2/255; one above 60 would say that the path
could be missing and no test would notice.
"""

import contextlib
import math
from unittest import mock

import numpy as np
import torch
from diffusers.models.transformers import transformer_qwenimage as dit
from PIL import ImageOps

import checkpoints
import pipelines
import scenes
import text
import tokens
from fixtures import CHECKPOINTS, HERE

OTHER_PROMPT = "A blue boat on a dark lake, two white birds above it."
OTHER_INSTRUCTION = "Remove the tree and keep everything else as it was."


def psnr(first, second) -> float:
    planes = [np.stack([np.asarray(picture, dtype=np.float64) for picture in result.pictures]) for result in (first, second)]
    error = float(((planes[0] - planes[1]) ** 2).mean())
    return 999.0 if error == 0 else round(10 * math.log10(255**2 / error), 1)


@contextlib.contextmanager
def rope(pipe, change):
    """Runs `change(image frequencies, text frequencies)` behind the rope of a transformer."""
    handle = pipe.transformer.pos_embed.register_forward_hook(lambda _m, _i, out: change(*out))
    try:
        yield
    finally:
        handle.remove()


def turned(text_freqs: torch.Tensor) -> torch.Tensor:
    """Text positions one too high, near enough: every position's frequencies from its neighbour."""
    return text_freqs * (text_freqs[1] / text_freqs[0])


@contextlib.contextmanager
def full_windows(pipe):
    """The vision tower with full attention in every block."""
    visual = pipe.text_encoder.model.visual
    with mock.patch.object(visual, "fullatt_block_indexes", list(range(len(visual.blocks)))):
        yield


@contextlib.contextmanager
def not_causal(pipe):
    """A text encoder in which every token sees every other."""
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen

    def mask(*_args, **_kwargs):
        return None

    layers = pipe.text_encoder.model.language_model.layers
    with mock.patch.object(qwen, "create_causal_mask", mask), contextlib.ExitStack() as stack:
        for layer in layers:
            stack.enter_context(mock.patch.object(layer.self_attn, "is_causal", False))
        yield


def of_decompose() -> dict[str, float]:
    pipe = pipelines.load("layered")
    picture, prompt = scenes.house(), text.PROMPT
    base = pipelines.decompose(pipe, picture, prompt)

    def run(picture_=picture, prompt_=prompt, around=None, **changes):
        with around or contextlib.nullcontext():
            return psnr(base, pipelines.decompose(pipe, picture_, prompt_, **changes))

    plain = dit.QwenEmbedRope(10000, list(pipe.transformer.config.axes_dims_rope), scale_rope=True)
    found = {
        "other prompt": run(prompt_=OTHER_PROMPT),
        "one word of the prompt": run(prompt_=prompt.replace("red", "blue")),
        "other negative prompt": run(negative_prompt="blurred"),
        "other picture": run(picture_=scenes.boat().resize(picture.size)),
        "mirrored picture": run(picture_=ImageOps.mirror(picture)),
        "half the alpha of the picture": run(picture_=with_alpha(picture)),
        "other seed": run(seed=8),
        "cfg_normalize off": run(cfg_normalize=False),
        "cfg scale 4.4": run(true_cfg_scale=4.4),
        "no guidance": run(true_cfg_scale=1.0),
        "plain rope instead of layer rope": run(around=mock.patch.object(pipe.transformer, "pos_embed", plain)),
        "text positions moved by one": run(around=rope(pipe, lambda image, words: (image, turned(words)))),
        "text without rope": run(around=rope(pipe, lambda image, words: (image, torch.ones_like(words)))),
        "text encoder not causal": run(around=not_causal(pipe)),
        "template cut one token early": run(around=mock.patch.object(pipe, "prompt_template_encode_start_idx", 33)),
        "no terminal stretch": run(around=mock.patch.object(pipe, "scheduler", checkpoints.scheduler(shift_terminal=None))),
    }
    return found


def with_alpha(picture):
    picture = picture.convert("RGBA")
    picture.putalpha(128)
    return picture


def of_edit() -> dict[str, float]:
    pipe = pipelines.load("edit")
    house, boat = scenes.house(), scenes.boat()
    two, instruction = [boat, house], text.INSTRUCTION
    base = pipelines.edit(pipe, two, instruction)

    def run(pictures=two, instruction_=instruction, around=None, **changes):
        with around or contextlib.nullcontext():
            return psnr(base, pipelines.edit(pipe, pictures, instruction_, **changes))

    zero = pipelines.load("edit-zero-cond").transformer
    found = {
        "other instruction": run(instruction_=OTHER_INSTRUCTION),
        "one word of the instruction": run(instruction_=instruction.replace("blue", "red")),
        "other negative prompt": run(negative_prompt="blurred"),
        "first picture mirrored": run([ImageOps.mirror(boat), house]),
        "last picture mirrored": run([boat, ImageOps.mirror(house)]),
        "first picture left out": run([house]),
        "first picture not seen by the text encoder": run(around=blind(pipe)),
        "other seed": run(seed=8),
        "sequential text positions": run(mrope=False),
        "picture processor with Pillow": run(around=pillow(pipe)),
        "vision tower without windows": run(around=full_windows(pipe)),
        "text encoder not causal": run(around=not_causal(pipe)),
        "zero_cond_t": run(around=mock.patch.object(pipe, "transformer", zero)),
        "text positions moved by one": run(around=rope(pipe, lambda image, words: (image, turned(words)))),
        "template cut one token early": run(around=mock.patch.object(pipe, "prompt_template_encode_start_idx", 63)),
    }
    return found


def pillow(pipe):
    """Pillow's resize in the picture processor."""
    folder = CHECKPOINTS / "edit" / "processor"
    images = checkpoints.IMAGE_PROCESSORS["pil"].from_pretrained(folder)
    return mock.patch.object(pipe.processor, "image_processor", images)


@contextlib.contextmanager
def blind(pipe):
    """The first picture's features replaced by zeros in the text encoder."""

    def hook(_module, _inputs, output):
        output.pooler_output[: output.pooler_output.shape[0] // 2] = 0
        return output

    handle = pipe.text_encoder.model.visual.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def of_caption() -> dict[str, int]:
    """Tokens of the boat's caption, of 24, before the first that a change moves."""
    pipe = pipelines.load("layered")
    picture = pipelines.resized(pipe, scenes.boat())

    def ids():
        with pipelines.Watch(pipe) as watch:
            pipe.get_image_caption(picture, use_en_prompt=True, device="cpu")
        return watch.caption_ids

    def same(base, other):
        return next((n for n, (a, b) in enumerate(zip(base, other)) if a != b), len(base))

    base = ids()
    config = pipe.text_encoder.generation_config
    with mock.patch.object(config, "repetition_penalty", 1.0):
        found = {"no repetition penalty": same(base, ids())}
    picture = ImageOps.mirror(picture)
    return found | {"mirrored picture": same(base, ids())}


def measure() -> None:
    found = {"unit": "dB PSNR against the reference", "decompose": of_decompose(), "edit": of_edit(),
             "caption_unit": "equal tokens before the first other one, of 24", "caption": of_caption()}  # fmt: skip
    tokens.write_json(HERE / "sensitivity.json", found)
    for kind in ("decompose", "edit", "caption"):
        for change, value in found[kind].items():
            print(f"  {kind:10} {change:45} {value:6}")
