"""Splits and edits scenes that were not in the training, with acetate and with diffusers; prints a table, draws a sheet.

    python evaluate.py --models DIR --acetate target/release/acetate [--scenes 64] [--steps 50] [--guidance 4.0]
                       [--lightning] [--threads 2] [--sheet sheet.png] [--json table.json]

Both get the same files and the same seeds. A scene is split into four layers, or into five if it has four objects.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
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
from transformers import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import edits
import metrics
import world
from unseen import Sample, picture, samples

# The processor requires a video processor, which pictures do not need.
Qwen2VLProcessor.check_argument_for_proper_class = lambda *args, **kwargs: None
ROWS = 12
# What `--preset lightning` changes in the scheduler.
LIGHTNING = {"use_dynamic_shifting": False, "shift": 3.0, "shift_terminal": None}
# name in the table: key of metrics.py, goal, unit, digits
TABLE = {
    "composite of the layers, compared with the picture": ("composite", ">= 28", " dB", 2),
    "alpha IoU of objects, best match": ("iou", ">= 0.80", "", 3),
    "color error inside alpha": ("color", "<= 12", " / 255", 2),
    "order of overlapping pairs": ("order", ">= 0.90", "", 3),
    "caption names every shape and color": ("caption", ">= 0.80", "", 3),
    "edit reaches the requested hue within 20 degrees": ("hue", ">= 0.90", "", 3),
    "edit is closer to the true result than to the input": ("done", "", "", 3),
    "edited picture, compared with the true result": ("edited", "", " dB", 2),
    "edit of a whole scene: change where nothing should change": ("outside", "", " / 255", 2),
    "edit of one layer: largest change outside its alpha": ("beyond", "0", " / 255", 0),
}  # fmt: skip


def load(folder: Path, cls, device, lightning: bool):
    """A pipeline in float32, its constants from `acetate.json`; with the noise levels and the LoRA for few steps."""
    own = json.loads((folder / "acetate.json").read_text())
    tokenizer = Qwen2Tokenizer.from_pretrained(folder / "tokenizer")
    images = Qwen2VLImageProcessorPil if own.get("image_processor") == "pil" else Qwen2VLImageProcessor
    pipe = cls(
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler", **(LIGHTNING if lightning else {})),
        vae=AutoencoderKLQwenImage.from_pretrained(folder / "vae", torch_dtype=torch.float32),
        text_encoder=Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "text_encoder", dtype=torch.float32),
        tokenizer=tokenizer,
        processor=Qwen2VLProcessor(images.from_pretrained(folder / "processor"), tokenizer, None),
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
    if lightning and own.get("lightning"):
        pipe.load_lora_weights(folder / own["lightning"])
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.tensor(np.array(image)).permute(2, 0, 1).float() / 255


def eight(tensor_: torch.Tensor) -> torch.Tensor:
    """Rounds as an 8-bit file does."""
    return (tensor_.clamp(0, 1) * 255).round() / 255


def checkered(layer: torch.Tensor) -> torch.Tensor:
    """A layer over a checkerboard."""
    line = torch.arange(world.SIZE) // 8
    board = 0.75 + 0.2 * ((line[:, None] + line[None]) % 2)
    return layer[:3] * layer[3:] + board * (1 - layer[3:])


class Diffusers:
    """The reference's pipelines in this process, float32."""

    def __init__(self, chosen):
        self.chosen = chosen
        self.layered = load(chosen.models / "layered-nano", QwenImageLayeredPipeline, chosen.device, chosen.lightning)
        self.edits = load(chosen.models / "edit-nano", QwenImageEditPlusPipeline, chosen.device, chosen.lightning)

    def decompose(self, scene: Path, count: int, seed: int) -> tuple[list[Image.Image], str]:
        given = Image.open(scene).convert("RGBA")
        said = self.layered.get_image_caption(given, device=self.layered._execution_device)
        found = self.layered(
            given, said, negative_prompt=edits.NEGATIVE, layers=count, true_cfg_scale=self.chosen.guidance,
            num_inference_steps=self.chosen.steps, resolution=world.SIZE, cfg_normalize=True,
            generator=torch.Generator("cpu").manual_seed(seed),
        )  # fmt: skip
        return found.images[0], said

    def edit(self, shown: Path, words: str, seed: int) -> Image.Image:
        """A layer's color goes in without its alpha, which comes back unchanged, as in acetate."""
        given = Image.open(shown).convert("RGBA")
        found = self.edits(
            [Image.merge("RGB", given.split()[:3])], words, negative_prompt=edits.NEGATIVE,
            true_cfg_scale=self.chosen.guidance, num_inference_steps=self.chosen.steps, height=world.SIZE,
            width=world.SIZE, generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0].convert("RGB")  # fmt: skip
        return Image.merge("RGBA", (*found.split(), given.getchannel("A")))


class Acetate:
    """The program as users run it, one process per job."""

    def __init__(self, chosen, folder: Path):
        self.chosen, self.folder, self.seconds, self.bytes = chosen, folder, [], []

    def run(self, *words: str) -> Path:
        out = self.folder / f"out-{len(self.seconds)}"
        given = [self.chosen.acetate, "run", *words, "--out", out, "--steps", self.chosen.steps]
        given += ["--preset", "lightning"] if self.chosen.lightning else ["--cfg-scale", self.chosen.guidance]
        place = {**os.environ, "RAYON_NUM_THREADS": str(self.chosen.threads), "ACETATE__STORE__URL": f"file://{self.folder}/store",
                 "ACETATE__STATUS__URL": f"sqlite://{self.folder}/jobs.sqlite"}  # fmt: skip
        began = time.monotonic()
        process = subprocess.Popen(list(map(str, given)), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=place)
        most = 0
        while process.poll() is None:
            most = max(most, peak(process.pid))
            time.sleep(0.02)
        if process.returncode:
            raise SystemExit(f"acetate {' '.join(map(str, words))}: {process.stderr.read().decode()}")
        self.seconds.append(time.monotonic() - began)
        self.bytes.append(most)
        return out

    def decompose(self, scene: Path, count: int, seed: int) -> tuple[list[Image.Image], str]:
        out = self.run("decompose", scene, "--model", self.chosen.models / "layered-nano", "--layers", count, "--seed", seed)
        said = json.loads((out / "manifest.json").read_text())["caption"]["text"]
        return [Image.open(out / f"layer-{index:02}.png").convert("RGBA") for index in range(1, count + 1)], said

    def edit(self, shown: Path, words: str, seed: int) -> Image.Image:
        model = self.chosen.models / "edit-nano"
        out = self.run("edit", shown, "--instruction", words, "--model", model, "--seed", seed)
        return Image.open(out / "edited.png").convert("RGBA")


def peak(process: int) -> int:
    """The peak memory of a running process so far, in bytes. Linux only; `wait4` would include this process."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def measure(engine, samples: list[Sample]) -> tuple[dict[str, float], list[list[torch.Tensor]], list[str]]:
    """The figures, rows for the sheet, and the captions."""
    results, rows, captions = [], [], []
    for seed, one in enumerate(samples):
        objects = int((one.layers[1:, 3].amax(dim=(1, 2)) > 0).sum())
        found, said = engine.decompose(one.scene, max(4, 1 + objects), seed)
        found = torch.stack([tensor(image) for image in found])
        result = metrics.decomposition(one.layers, found)
        result["caption"] = [metrics.caption_right(said, one.things)]
        edited = tensor(engine.edit(one.shown, one.words, seed))
        # Nothing is visible outside a layer's alpha.
        seen = 1.0 if one.only < 0 else (one.sheets[one.only, 3:] > 0).float()
        result |= metrics.edit(one.before, one.after, edited[:3] * seen, one.target, one.only < 0)
        if one.only >= 0:
            result["beyond"] = [beyond(one, edited)]
        results.append(result)
        rows.append(row(one, found, edited))
        captions.append(said)
    return metrics.gather(results), rows, captions


def beyond(one: Sample, edited: torch.Tensor) -> float:
    """The largest change, of 255, that the edited layer makes to its scene where its alpha is 0."""
    there = torch.stack([eight(layer) for layer in one.sheets])
    changed = there.clone()
    changed[one.only] = edited
    moved = (metrics.flatten(there) - metrics.flatten(changed)).abs().amax(dim=0)
    return float(moved[there[one.only, 3] == 0].amax()) * 255 if (there[one.only, 3] == 0).any() else 0.0


def row(one: Sample, found: torch.Tensor, edited: torch.Tensor) -> torch.Tensor:
    """Input, layers, their composite; what is edited, the edit, the true result; side by side (3, h, w)."""
    gap = torch.ones(3, world.SIZE, world.SIZE // 8)
    layers = [checkered(layer) for layer in found] + [torch.ones(3, world.SIZE, world.SIZE)] * (5 - len(found))
    shown, alpha = tensor(Image.open(one.shown).convert("RGBA")), edited[3:]
    parts = [tensor(Image.open(one.scene)), gap, *layers, gap, metrics.flatten(found), gap, checkered(shown),
             checkered(edited), checkered(torch.cat([one.after, alpha]))]  # fmt: skip
    return torch.cat(parts, dim=2)


def table(found: dict[str, dict[str, float]]) -> list[str]:
    """Markdown; one column for each engine."""
    lines = [f"| | {' | '.join(found)} | goal |", "|---" * (2 + len(found)) + "|"]
    for name, (key, bar, unit, digits) in TABLE.items():
        values = " | ".join(f"{values.get(key, float('nan')):.{digits}f}{unit}" for values in found.values())
        lines.append(f"| {name} | {values} | {bar} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="the folder of layered-nano and edit-nano")
    parser.add_argument("--acetate", type=Path, help="the program; without it, only diffusers is measured")
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--lightning", action="store_true", help="--preset lightning, four steps without guidance")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="diffusers' device")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    chosen.models = chosen.models.resolve()
    if chosen.lightning:
        chosen.steps, chosen.guidance = 4, 1.0
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as folder:
        unseen = samples(chosen.scenes, Path(folder))
        found, said = {}, {}
        if chosen.acetate:
            acetate = Acetate(chosen, Path(folder))
            found["acetate"], rows, said["acetate"] = measure(acetate, unseen)
        reference = Diffusers(chosen)
        found["diffusers"], more, said["diffusers"] = measure(reference, unseen)
    print(f"{chosen.scenes} scenes and {chosen.scenes} edits, {chosen.steps} steps, guidance {chosen.guidance:g}\n")
    print("\n".join(table(found)))
    if chosen.acetate:
        alike = sum(a == b for a, b in zip(said["acetate"], said["diffusers"]))
        print(f"\n{alike} of {chosen.scenes} captions are the same, word for word.")
        for kind, start in (("decompose", 0), ("edit", 1)):
            seconds, most = statistics.median(acetate.seconds[start::2]), max(acetate.bytes[start::2]) / 2**20
            print(f"acetate run {kind}, whole process, {chosen.threads} threads: {seconds:.1f} s (median), {most:.0f} MiB at most")
    for index, one in enumerate(unseen[:ROWS]):
        print(f"row {index + 1}: {one.words}")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n")
    if chosen.sheet:
        picture(torch.cat((rows if chosen.acetate else more)[:ROWS], dim=1)).save(chosen.sheet, optimize=True)


if __name__ == "__main__":
    # The layered pipeline asserts a resolution of 640 or 1024.
    if __debug__:
        os.execv(sys.executable, [sys.executable, "-O", *sys.argv])
    main()
