"""Writes the checkpoints in diffusers' layout (bfloat16, one text encoder, `acetate.json`), and reads them back."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import denoiser
import folded
import text
import words
import world
from common import CONFIG, load_state, save_state

PIPELINES = {"layered": "QwenImageLayeredPipeline", "edit": "QwenImageEditPlusPipeline"}
AREA = world.SIZE**2
CAPTION_TOKENS = 40


def note(full: str) -> str:
    """The note about the checkpoint that acetate prints after every job."""
    scenes = f"drawn {world.SIZE}x{world.SIZE} scenes of simple shapes"
    return f"a small checkpoint trained on {scenes}; photographs, text and people need {full}"


def settings() -> dict[str, dict]:
    """The `acetate.json` of each: values that are constants in the Python pipelines, and a note for users."""
    return {
        "layered": {
            "resolutions": [world.SIZE], "max_layers": 1 + world.OBJECTS,
            "prompt_template_encode_start_idx": words.prefix(words.LAYERED.prompt_template_encode),
            "caption_max_new_tokens": CAPTION_TOKENS,
            "lightning": False,
            "note": note("Qwen/Qwen-Image-Layered"),
        },
        "edit": {
            "condition_area": AREA, "vae_area": AREA,
            "prompt_template_encode_start_idx": words.prefix(words.EDIT.prompt_template_encode),
            "text_positions": "sequential",
            "image_processor": "pil",
            "lightning": False,
            "note": note("Qwen/Qwen-Image-Edit-2509"),
        },
    }  # fmt: skip


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Qwen-Image's published scheduler."""
    return FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=256, base_shift=0.5, max_image_seq_len=8192, max_shift=0.9, num_train_timesteps=1000,
        shift=1.0, shift_terminal=0.02, time_shift_type="exponential", use_dynamic_shifting=True,
    )  # fmt: skip


def vae(kind: str, state: Path):
    weights = load_state(state, f"vae-{kind}")
    weights.pop("runs")
    mean, std = (weights.pop(name).tolist() for name in ("latents_mean", "latents_std"))
    statistics = {"latents_mean": [round(x, 5) for x in mean], "latents_std": [round(x, 5) for x in std]}
    return folded.unfold(weights, {**CONFIG["vae"][kind], **statistics})


def transformer(kind: str, state: Path):
    weights = load_state(state, kind)
    weights.pop("runs")
    model = denoiser.build(kind)
    model.load_state_dict(weights)
    return model


def write(state: Path, out: Path) -> None:
    folders = {kind: out / f"{kind}-nano" for kind in PIPELINES}
    for kind, folder in folders.items():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, model in (("transformer", transformer(kind, state)), ("vae", vae(kind, state))):
            model.to(torch.bfloat16).save_pretrained(folder / name)
        scheduler().save_pretrained(folder / "scheduler")
        tokenizer = words.slow_files(folder / "tokenizer")
        shutil.rmtree(folder / "tokenizer")
        tokenizer.save_pretrained(folder / "tokenizer")
        images = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 12845056})
        images.save_pretrained(folder / "processor")
        tokenizer.save_pretrained(folder / "processor")
        write_json(folder / "acetate.json", settings()[kind])
        write_json(folder / "model_index.json", {
            "_class_name": PIPELINES[kind],
            "_diffusers_version": "0.42.1",
            "processor": ["transformers", "Qwen2VLProcessor"],
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
            "tokenizer": ["transformers", "Qwen2Tokenizer"],
            "transformer": ["diffusers", "QwenImageTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderKLQwenImage"],
        })  # fmt: skip
    text.load(state, "cpu").to(torch.bfloat16).save_pretrained(folders["layered"] / "text_encoder")
    shutil.copytree(folders["layered"] / "text_encoder", folders["edit"] / "text_encoder")
    files = [file for folder in folders.values() for file in folder.rglob("*.safetensors")]
    once = [file for file in files if file.relative_to(out) != Path("edit-nano/text_encoder") / file.name]
    print(f"{sum(file.stat().st_size for file in once) / 1e6:.1f} MB of weights, the text encoder counted once")


def read(state: Path, models: Path, kinds: tuple[str, ...] = tuple(PIPELINES)) -> None:
    """The reverse: a state to continue from, made from published checkpoints. It is rounded to bfloat16, which training fixes."""
    runs = torch.ones(1)
    for kind in kinds:
        folder = models / f"{kind}-nano"
        weights = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
        save_state(state, kind, {**weights, "runs": runs})
        taps = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
        names = folded.build(CONFIG["vae"][kind]).state_dict()
        used = {name: (taps[name][:, :, -1] if taps[name].dim() == 5 else taps[name]).reshape(shape.shape)
                for name, shape in names.items()}  # fmt: skip
        config = json.loads((folder / "vae" / "config.json").read_text())
        statistics = {name: torch.tensor(config[name]) for name in ("latents_mean", "latents_std")}
        save_state(state, f"vae-{kind}", {**used, **statistics, "runs": runs})
    # transformers writes the names of older versions; the model has the current ones.
    reader = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "text_encoder")  # the same in both
    weights, order = reader.state_dict(), rows(folder / "tokenizer" / "tokenizer.json")
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][order]
    save_state(state, "text", {**weights, "runs": runs})


def rows(path: Path) -> torch.Tensor:
    """The row of each current token in a checkpoint's embedding, because other scenes change the tokenizer's ids."""
    then = json.loads(path.read_text())["model"]["vocab"]
    now = json.loads(words.fast().to_str())["model"]["vocab"]
    if then.keys() != now.keys():
        raise SystemExit(f"{path}: other tokens than the words of today: {sorted(then.keys() ^ now.keys())}")
    order = torch.arange(words.ROWS)
    for token, row in now.items():
        order[row] = then[token]
    return order


def write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
