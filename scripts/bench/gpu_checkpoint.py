"""Makes a checkpoint of the published sizes with random weights in a folder, because weights do not affect the speed.

    gpu_checkpoint.py FOLDER [--edit] [--blocks 60] [--text-layers 28] [--parts transformer,vae,text_encoder]
    gpu_checkpoint.py FILE.safetensors --lora RANK [--blocks 60] [--seed 0]

Weights are drawn on the GPU and scaled so that every path moves the output. Tokenizer, processor and scheduler are
those of the small checkpoint in models/, or of --small. The model is Layered, or with --edit, Edit-2509. A LoRA changes
twelve matrices of each block, as Lightning's do.
"""

import argparse
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import save_file

MODELS = Path(__file__).parents[2] / "models"
# Bytes of a shard.
SHARD = 4 << 30

TRANSFORMER = {
    "patch_size": 2, "in_channels": 64, "out_channels": 16, "num_layers": 60, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 3584, "guidance_embeds": False,
    "axes_dims_rope": [16, 56, 56], "use_additional_t_cond": True, "use_layer3d_rope": True,
}  # fmt: skip
EDIT = {"use_additional_t_cond": False, "use_layer3d_rope": False}
# The twelve matrices of a block that a Lightning LoRA changes, with their inputs and outputs in units of the width.
LORA = {
    **{f"attn.{name}": (1, 1) for name in ["to_q", "to_k", "to_v", "to_out.0"]},
    **{f"attn.{name}": (1, 1) for name in ["add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]},
    **{f"{stream}_mlp.net.0.proj": (1, 4) for stream in ["img", "txt"]},
    **{f"{stream}_mlp.net.2": (4, 1) for stream in ["img", "txt"]},
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
    """Matrices keep the scale of their input, norms are near 1, everything else is small."""
    if name.endswith(("gamma", "norm.weight", "norm1.weight", "norm2.weight", "ln_q.weight", "layernorm.weight")) or (
        ".norm_" in name and name.endswith("weight") and len(shape) == 1
    ):
        return 1 + 0.1 * torch.randn(shape, device="cuda")
    if len(shape) == 1:
        return 0.02 * torch.randn(shape, device="cuda")
    fan_in = shape[1:].numel()
    return torch.randn(shape, device="cuda") * (1.0 if "embed_tokens" in name else fan_in**-0.5)


def write(folder: Path, stem: str, shapes: dict[str, torch.Size]) -> int:
    """Draws a component and stores it in shards; returns its size in bytes."""
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


def make_lora(file: Path, rank: int, blocks: int, seed: int) -> None:
    torch.manual_seed(seed)
    tensors = {}
    for block in range(blocks):
        for name, (wide_in, wide_out) in LORA.items():
            name = f"transformer_blocks.{block}.{name}"
            down, up = torch.randn(rank, 3072 * wide_in), torch.randn(3072 * wide_out, rank)
            tensors[f"{name}.lora_down.weight"] = (0.01 * down).bfloat16()
            tensors[f"{name}.lora_up.weight"] = (0.01 * up).bfloat16()
            tensors[f"{name}.alpha"] = torch.tensor(float(rank))
    save_file(tensors, file)


def make(folder: Path, edit: bool, blocks: int, text_layers: int, parts: list[str], small: Path) -> None:
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    if "transformer" in parts:
        config = {**TRANSFORMER, "num_layers": blocks, **(EDIT if edit else {})}
        with torch.device("meta"):
            shapes = shapes_of(QwenImageTransformer2DModel(**config))
        write(folder / "transformer", "diffusion_pytorch_model", shapes)
        config["_class_name"] = "QwenImageTransformer2DModel"
        (folder / "transformer/config.json").write_text(json.dumps(config))
    if "vae" in parts:
        vae = {**VAE, "input_channels": 3 if edit else 4}
        with torch.device("meta"):
            shapes = shapes_of(AutoencoderKLQwenImage(**vae))
        write(folder / "vae", "diffusion_pytorch_model", shapes)
        (folder / "vae/config.json").write_text(json.dumps({**vae, "_class_name": "AutoencoderKLQwenImage"}))
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
    parser.add_argument("--edit", action="store_true")
    parser.add_argument("--lora", type=int, metavar="RANK")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--blocks", type=int, default=60)
    parser.add_argument("--text-layers", type=int, default=28)
    parser.add_argument("--parts", default="transformer,vae,text_encoder")
    parser.add_argument("--small", type=Path)
    arguments = parser.parse_args()
    if arguments.lora:
        make_lora(arguments.folder, arguments.lora, arguments.blocks, arguments.seed)
    else:
        small = arguments.small or MODELS / ("edit-nano" if arguments.edit else "layered-nano")
        parts = arguments.parts.split(",")
        make(arguments.folder, arguments.edit, arguments.blocks, arguments.text_layers, parts, small)
