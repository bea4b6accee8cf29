"""Runs diffusers' pipelines with the small checkpoints on scenes never trained on; prints a table, draws a sheet.

    python evaluate.py --models DIR [--scenes 64] [--steps 50] [--guidance 4.0] [--sheet sheet.png] [--json table.json]
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPlusPipeline,
    QwenImageLayeredPipeline,
    QwenImageTransformer2DModel,
)
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as edit_plus
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer, Qwen2VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import draw
import edits
import metrics
import world

# The processor wants a video processor, which needs torchvision; pictures alone do without.
Qwen2VLProcessor.check_argument_for_proper_class = lambda *args, **kwargs: None
SEED = 424_242
ROWS = 12
# name in the table: key of metrics.py, bar, unit
TABLE = {
    "composite of the layers": ("composite", ">= 28", "dB"), "alpha IoU, best match": ("iou", ">= 0.80", ""),
    "colour error inside alpha": ("colour", "<= 12", "/255"), "order of overlapping pairs": ("order", ">= 0.90", ""),
    "caption: shapes and colours": ("caption", ">= 0.80", ""), "edit reaches the hue": ("hue", ">= 0.90", ""),
    "edit nearer to the result": ("done", "", ""), "edited picture": ("edited", "", "dB"),
    "change where none is asked": ("outside", "", "/255"),
}  # fmt: skip


def load(folder: Path, cls, device):
    """A pipeline in float32, its constants from `acetate.json`."""
    own = json.loads((folder / "acetate.json").read_text())
    tokenizer = Qwen2Tokenizer.from_pretrained(folder / "tokenizer")
    pipe = cls(
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
        vae=AutoencoderKLQwenImage.from_pretrained(folder / "vae", torch_dtype=torch.float32),
        text_encoder=Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "text_encoder", dtype=torch.float32),
        tokenizer=tokenizer,
        processor=Qwen2VLProcessor(Qwen2VLImageProcessorPil.from_pretrained(folder / "processor"), tokenizer, None),
        transformer=QwenImageTransformer2DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32),
    )
    pipe.prompt_template_encode_start_idx = own["prompt_template_encode_start_idx"]
    if "caption_max_new_tokens" in own:
        generate = pipe.text_encoder.generate
        pipe.text_encoder.generate = lambda **given: generate(
            **{**given, "max_new_tokens": own["caption_max_new_tokens"]}
        )
    else:
        edit_plus.CONDITION_IMAGE_SIZE, edit_plus.VAE_IMAGE_SIZE = own["condition_area"], own["vae_area"]
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def picture(tensor: torch.Tensor) -> Image.Image:
    array = (tensor.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array)


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.tensor(np.array(image)).permute(2, 0, 1).float() / 255


def checkered(layer: torch.Tensor) -> torch.Tensor:
    """A layer over a checkerboard."""
    line = torch.arange(world.SIZE) // 8
    board = 0.75 + 0.2 * ((line[:, None] + line[None]) % 2)
    return layer[:3] * layer[3:] + board * (1 - layer[3:])


def decompositions(pipe, scenes: world.Scenes, chosen) -> tuple[list[dict], list[list[torch.Tensor]]]:
    layers = draw.draw(scenes)
    whole = draw.composite(layers)
    results, rows = [], []
    for index in range(len(scenes)):
        given = picture(whole[index])
        said = pipe.get_image_caption(given.convert("RGBA"), device=pipe._execution_device)
        found = pipe(
            given.convert("RGBA"), said or "A picture.", negative_prompt=edits.NEGATIVE, layers=1 + world.OBJECTS,
            true_cfg_scale=chosen.guidance, num_inference_steps=chosen.steps, resolution=world.SIZE,
            cfg_normalize=True, generator=torch.Generator("cpu").manual_seed(index),
        ).images[0]  # fmt: skip
        found = torch.stack([tensor(image) for image in found])
        result = metrics.decomposition(layers[index], found)
        result["caption"] = [metrics.caption_right(said, scenes, index)]
        results.append(result)
        rows.append([tensor(given), metrics.flatten(found), *(checkered(layer) for layer in found)])
    return results, rows


def edited(pipe, made: edits.Edits, chosen) -> tuple[list[dict], list[list[torch.Tensor]]]:
    before, after = edits.show(made.before, made.only), edits.show(made.after, made.only)
    results, rows = [], []
    for index, words in enumerate(made.words):
        found = pipe(
            [picture(before[index])], words, negative_prompt=edits.NEGATIVE, true_cfg_scale=chosen.guidance,
            num_inference_steps=chosen.steps, height=world.SIZE, width=world.SIZE,
            generator=torch.Generator("cpu").manual_seed(index),
        ).images[0]  # fmt: skip
        found = tensor(found)
        results.append(metrics.edit(before[index], after[index], found, made.target[index]))
        rows.append([before[index], found, after[index]])
    return results, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="the folder of layered-nano and edit-nano")
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    generator = torch.Generator().manual_seed(SEED)
    scenes = world.sample(chosen.scenes, generator)
    made = edits.make(world.sample(chosen.scenes, generator), generator)
    layered = load(chosen.models / "layered-nano", QwenImageLayeredPipeline, chosen.device)
    results, left = decompositions(layered, scenes, chosen)
    edit = load(chosen.models / "edit-nano", QwenImageEditPlusPipeline, chosen.device)
    more, right = edited(edit, made, chosen)
    found = metrics.gather(results + more)
    print(f"{chosen.scenes} scenes, {chosen.steps} steps, guidance {chosen.guidance}\n")
    print("| | measured | bar |\n|---|---|---|")
    for name, (key, bar, unit) in TABLE.items():
        print(f"| {name} | {found.get(key, float('nan')):.3f} {unit} | {bar} |")
    for index, words in enumerate(made.words[:ROWS]):
        print(f"row {index + 1}: {words}")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n")
    if chosen.sheet:
        rows = [torch.cat(a + b, dim=2) for a, b in list(zip(left, right))[:ROWS]]
        picture(torch.cat(rows, dim=1)).save(chosen.sheet)


if __name__ == "__main__":
    # The layered pipeline asserts a resolution of 640 or 1024.
    if __debug__:
        os.execv(sys.executable, [sys.executable, "-O", *sys.argv])
    main()
