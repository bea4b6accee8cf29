"""Finished pictures of a small layered checkpoint: acetate's and diffusers', both in bfloat16 on the same GPU with the
same seed, beside diffusers in float32 there. Prints JSON: the PSNR of all layers, four channels, in decibels.

    python -O gpu_picture.py MODEL PICTURE --acetate PATH [--seeds 4] [--steps 50]

-O, because diffusers asserts that a resolution is 640 or 1024, and small checkpoints have others.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageLayeredPipeline,
    QwenImageTransformer2DModel,
)
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

PROMPT = "A cyan star above a purple house above a white tree on a dotted orange background."
LAYERS = 4


def load(folder: Path, own: dict, dtype: torch.dtype) -> QwenImageLayeredPipeline:
    # The processor only serves captions, and the prompt is given.
    pipe = QwenImageLayeredPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
        vae=AutoencoderKLQwenImage.from_pretrained(folder / "vae", torch_dtype=dtype),
        text_encoder=Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "text_encoder", dtype=dtype),
        tokenizer=Qwen2Tokenizer.from_pretrained(folder / "tokenizer"),
        processor=None,
        transformer=QwenImageTransformer2DModel.from_pretrained(folder / "transformer", torch_dtype=dtype),
    )
    pipe.prompt_template_encode_start_idx = own["prompt_template_encode_start_idx"]
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cuda")


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--acetate", required=True)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50)
    chosen = parser.parse_args()
    own = json.loads((chosen.model / "acetate.json").read_text())
    size = own["resolutions"][0]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    pipes = {dtype: load(chosen.model, own, dtype) for dtype in [torch.bfloat16, torch.float32]}

    def theirs(dtype: torch.dtype, seed: int) -> np.ndarray:
        layers = pipes[dtype](
            Image.open(chosen.picture).convert("RGBA"), PROMPT, negative_prompt=" ", layers=LAYERS, true_cfg_scale=4.0,
            num_inference_steps=chosen.steps, resolution=size, cfg_normalize=True,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]  # fmt: skip
        return np.stack([np.array(layer.convert("RGBA")) for layer in layers])

    def ours(dtype: str, seed: int) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [chosen.acetate, "run", "decompose", chosen.picture, "--model", chosen.model, "--out", folder + "/out",
                 "--prompt", PROMPT, "--layers", str(LAYERS), "--steps", str(chosen.steps), "--seed", str(seed),
                 "--device", "cuda", "--dtype", dtype],
                check=True, stdout=sys.stderr, env={**os.environ, "ACETATE__DATA_DIR": folder + "/data"},
            )  # fmt: skip
            names = [f"{folder}/out/layer-{index:02}.png" for index in range(1, LAYERS + 1)]
            return np.stack([np.array(Image.open(name).convert("RGBA")) for name in names])

    pairs = {}
    for seed in range(1, chosen.seeds + 1):
        pictures = {
            "diffusers bf16": theirs(torch.bfloat16, seed), "diffusers f32": theirs(torch.float32, seed),
            "acetate bf16": ours("bf16", seed), "acetate f32": ours("f32", seed),
        }  # fmt: skip
        for one, other in [("acetate bf16", "diffusers bf16"), ("acetate bf16", "diffusers f32"),
                           ("diffusers bf16", "diffusers f32"), ("acetate f32", "diffusers f32")]:  # fmt: skip
            pairs.setdefault(f"{one} against {other}", []).append(round(psnr(pictures[one], pictures[other]), 2))
    print(json.dumps(pairs, indent=1))


if __name__ == "__main__":
    main()
