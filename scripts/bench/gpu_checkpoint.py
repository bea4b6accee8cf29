"""Makes a checkpoint of the published sizes with random weights, in a folder: speed needs no others.

    gpu_checkpoint.py FOLDER [--blocks 60] [--text-layers 28] [--parts transformer,vae,text_encoder]

Weights are drawn on the GPU and scaled so that every path moves the output. Tokenizer, processor and scheduler are
those of the small checkpoint in models/, or of --small.
"""

import argparse
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import save_file

SMALL = Path(__file__).parents[2] / "models/layered-nano"
# Bytes of a shard.
SHARD = 4 << 30

TRANSFORMER = {
    "patch_size": 2, "in_channels": 64, "out_channels": 16, "num_layers": 60, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 3584, "guidance_embeds": False,
    "axes_dims_rope": [16, 56, 56], "use_additional_t_cond": True, "use_layer3d_rope": True,
}  # fmt: skip
VAE = {
    "base_dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [],
    "temperal_downsample": [False, True, True], "dropout": 0.0, "input_channels": 4,
    "latents_mean": [0.0] * 16, "latents_std": [1.0] * 16,
}  # fmt: skip
TEXT = {
    "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "max_position_embeddings": 128000,
    "rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "use_sliding_window": False,
    "sliding_window": 32768, "tie_word_embeddings": False, "hidden_act": "silu",
}  # fmt: skip
VISION = {
    "depth": 32, "hidden_act": "silu", "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
    "in_channels": 3, "out_hidden_size": 3584, "patch_size": 14, "spatial_merge_size": 2, "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2, "temporal_patch_size": 2,
}  # fmt: skip


def draw(name: str, shape: torch.Size) -> torch.Tensor:
    """Matrices keep the size of what passes through them, norms are near 1, everything else is small."""
    if name.endswith(("gamma", "norm.weight", "norm1.weight", "norm2.weight", "ln_q.weight", "layernorm.weight")) or (
        ".norm_" in name and name.endswith("weight") and len(shape) == 1
    ):
        return 1 + 0.1 * torch.randn(shape, device="cuda")
    if len(shape) == 1:
        return 0.02 * torch.randn(shape, device="cuda")
    fan_in = shape[1:].numel()
    return torch.randn(shape, device="cuda") * (1.0 if "embed_tokens" in name else fan_in**-0.5)


def write(folder: Path, stem: str, shapes: dict[str, torch.Size]) -> int:
    """Draws and stores a component in shards; gives its bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    shards, size = [[]], 0
    for name, shape in shapes.items():
        bytes_ = 2 * shape.numel()
        if size + bytes_ > SHARD and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += bytes_
    names = [f"{stem}-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]

    def store(index: int) -> None:
        tensors = {name: draw(name, shapes[name]).bfloat16().cpu() for name in shards[index]}
        save_file(tensors, folder / names[index])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(store, range(len(shards))))
    total = sum(2 * shape.numel() for shape in shapes.values())
    weight_map = {name: names[index] for index, shard in enumerate(shards) for name in shard}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    return total


def shapes_of(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def make(folder: Path, blocks: int, text_layers: int, parts: list[str], small: Path = SMALL) -> None:
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    if "transformer" in parts:
        config = {**TRANSFORMER, "num_layers": blocks}
        with torch.device("meta"):
            shapes = shapes_of(QwenImageTransformer2DModel(**config))
        write(folder / "transformer", "diffusion_pytorch_model", shapes)
        config["_class_name"] = "QwenImageTransformer2DModel"
        (folder / "transformer/config.json").write_text(json.dumps(config))
    if "vae" in parts:
        with torch.device("meta"):
            shapes = shapes_of(AutoencoderKLQwenImage(**VAE))
        write(folder / "vae", "diffusion_pytorch_model", shapes)
        (folder / "vae/config.json").write_text(json.dumps({**VAE, "_class_name": "AutoencoderKLQwenImage"}))
    if "text_encoder" in parts:
        from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

        ids = json.loads((small / "text_encoder/config.json").read_text())
        ids = {key: ids[key] for key in ids if key.endswith("_token_id")}
        config = Qwen2_5_VLConfig(
            text_config={**TEXT, "num_hidden_layers": text_layers}, vision_config=VISION, tie_word_embeddings=False, **ids
        )
        with torch.device("meta"):
            shapes = shapes_of(Qwen2_5_VLForConditionalGeneration(config))
        write(folder / "text_encoder", "model", shapes)
        config.save_pretrained(folder / "text_encoder")
        shutil.copy(small / "text_encoder/generation_config.json", folder / "text_encoder")
    for name in ["tokenizer", "processor", "scheduler"]:
        shutil.copytree(small / name, folder / name, dirs_exist_ok=True)
    shutil.copy(small / "model_index.json", folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--blocks", type=int, default=60)
    parser.add_argument("--text-layers", type=int, default=28)
    parser.add_argument("--parts", default="transformer,vae,text_encoder")
    parser.add_argument("--small", type=Path, default=SMALL)
    arguments = parser.parse_args()
    make(arguments.folder, arguments.blocks, arguments.text_layers, arguments.parts.split(","), arguments.small)
