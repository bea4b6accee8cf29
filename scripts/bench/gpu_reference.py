"""The same work in diffusers and transformers, on the same checkpoint and device.

    gpu_reference.py time FOLDER [--compile] [--repeats 5] [--parts ceilings,text,transformer,vae]
    gpu_reference.py numerics FOLDER --bench PATH

`time` prints JSON like the library's example `bench` with `--json`. `numerics` runs one forward pass of the transformer and one of the VAE
in float32 and in bfloat16, has the example `bench` do the same, and prints how far each is from float32. It wants a checkpoint
whose float32 weights fit beside the rest: a dozen blocks.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

# Name, frames of patches, text tokens, noisy frames: those of the library's example `bench`.
CASES = [
    ("transformer, edit 1024, one reference", [(1, 64, 64)] * 2, 256, 1),
    ("transformer, layered 640, 4 layers", [(1, 40, 40)] * 6, 300, 5),
    ("transformer, layered 1024, 4 layers", [(1, 64, 64)] * 6, 300, 5),
]
lines = []


def measure(name: str, repeats: int, work) -> None:
    work()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    runs = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        runs.append((time.perf_counter() - start) * 1e3)
    line = {
        "name": name, "milliseconds": statistics.median(runs), "runs": sorted(runs),
        "peak_bytes": torch.cuda.max_memory_allocated(),
    }  # fmt: skip
    lines.append(line)
    print(f"{name:<52} {line['milliseconds']:10.2f} ms", file=sys.stderr, flush=True)


def inputs(frames, text: int, channels: int, joint: int, dtype=torch.bfloat16) -> dict:
    patches = sum(height * width for _, height, width in frames)
    return {
        "hidden_states": torch.randn(1, patches, channels, device="cuda", dtype=dtype),
        "encoder_hidden_states": torch.randn(1, text, joint, device="cuda", dtype=dtype),
        "encoder_hidden_states_mask": None,
        "timestep": torch.tensor([0.5], device="cuda", dtype=dtype),
        "img_shapes": [frames],
        "additional_t_cond": torch.tensor([0], device="cuda"),
        "return_dict": False,
    }


@torch.inference_mode()
def ceilings(repeats: int) -> None:
    x, w = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    measure("ceiling: product 8192^3", repeats, lambda: x @ w.T)
    large = torch.randn(8192, 65536, device="cuda", dtype=torch.bfloat16)
    measure("ceiling: copy", repeats, large.clone)


@torch.inference_mode()
def transformer(folder: Path, repeats: int, compile_too: bool) -> None:
    from diffusers import QwenImageTransformer2DModel

    start = time.perf_counter()
    model = QwenImageTransformer2DModel.from_pretrained(
        folder / "transformer", torch_dtype=torch.bfloat16, device_map="cuda"
    )
    torch.cuda.synchronize()
    lines.append({"name": "load: transformer", "milliseconds": (time.perf_counter() - start) * 1e3})
    for compiled in [False, True] if compile_too else [False]:
        if compiled:
            model.compile_repeated_blocks(fullgraph=True)
        for name, frames, text, _ in CASES:
            given = inputs(frames, text, model.config.in_channels, model.config.joint_attention_dim)
            measure(name + (", compiled" if compiled else ""), repeats, lambda: model(**given))


@torch.inference_mode()
def vae(folder: Path, repeats: int) -> None:
    from diffusers import AutoencoderKLQwenImage

    model = AutoencoderKLQwenImage.from_pretrained(folder / "vae", torch_dtype=torch.bfloat16).cuda()

    def random(channels, side):
        return torch.randn(1, channels, 1, side, side, device="cuda", dtype=torch.bfloat16)

    picture, latents, small = random(model.config.input_channels, 1024), random(16, 128), random(16, 80)
    measure("vae encode 1024", repeats, lambda: model.encode(picture).latent_dist.mode())
    measure("vae decode 1024", repeats, lambda: model.decode(latents))
    measure("vae decode 4 x 640", repeats, lambda: [model.decode(small) for _ in range(4)])


@torch.inference_mode()
def text(folder: Path, repeats: int, tokens: int) -> None:
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder / "text_encoder", dtype=torch.bfloat16, attn_implementation="sdpa"
    ).cuda()
    grid = torch.tensor([[1, 28, 28]], device="cuda")
    pixels = torch.randn(28 * 28, 3 * 2 * 14 * 14, device="cuda", dtype=torch.bfloat16)
    ids = torch.randint(1000, 2000, (1, tokens), device="cuda")
    ids[0, 8 : 8 + 196] = model.config.image_token_id
    kinds = (ids == model.config.image_token_id).int()
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels, "image_grid_thw": grid}

    def run():
        try:
            return model.model(**given, mm_token_type_ids=kinds, use_cache=False)
        except TypeError:
            return model.model(**given, use_cache=False)

    measure(f"text encoder, one picture, {tokens} tokens", repeats, run)


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found.double() - exact.double()).norm() / exact.double().norm()).item()


@torch.inference_mode()
def numerics(folder: Path, bench: str) -> dict:
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as place:
        given, outputs = {}, {}
        for dtype in [torch.float32, torch.bfloat16]:
            model = QwenImageTransformer2DModel.from_pretrained(folder / "transformer", torch_dtype=dtype).cuda()
            decoder = AutoencoderKLQwenImage.from_pretrained(folder / "vae", torch_dtype=dtype).cuda()
            frames = [(1, 40, 40)] * 3
            if not given:
                sample = inputs(frames, 77, model.config.in_channels, model.config.joint_attention_dim)
                given = {
                    "hidden": sample["hidden_states"].float(), "text": sample["encoder_hidden_states"].float(),
                    "frames": torch.tensor([frame[1:] for frame in frames], dtype=torch.int64),
                    "latents": torch.randn(1, 64, 64, 16, device="cuda").bfloat16().float(),
                    "picture": torch.rand(1, 256, 256, 4, device="cuda").bfloat16().float(),
                }  # fmt: skip
                save_file({name: tensor.cpu().contiguous() for name, tensor in given.items()}, f"{place}/in.safetensors")
            sample = inputs(frames, 77, model.config.in_channels, model.config.joint_attention_dim, dtype)
            sample["hidden_states"], sample["encoder_hidden_states"] = given["hidden"].to(dtype), given["text"].to(dtype)
            channels_first = {name: given[name].permute(0, 3, 1, 2)[:, :, None].to(dtype) for name in ["latents", "picture"]}
            outputs[dtype] = {
                "velocity": model(**sample)[0].float().cpu(),
                "decoded": decoder.decode(channels_first["latents"]).sample[:, :, 0].permute(0, 2, 3, 1).float().cpu(),
                "encoded": decoder.encode(channels_first["picture"]).latent_dist.mode()[:, :, 0].permute(0, 2, 3, 1).float().cpu(),
            }  # fmt: skip
            del model, decoder
            torch.cuda.empty_cache()
        exact = outputs[torch.float32]
        report = {name: {"diffusers bf16": relative(outputs[torch.bfloat16][name], exact[name])} for name in exact}
        for dtype in ["f32", "bf16", "fp8"]:
            subprocess.run(
                [bench, "--model", str(folder), "--dtype", dtype, "--parts", "forward",
                 "--tensors", f"{place}/in.safetensors", "--out", f"{place}/{dtype}.safetensors"],
                check=True, stdout=sys.stderr,
            )  # fmt: skip
            found = load_file(f"{place}/{dtype}.safetensors")
            for name in exact:
                report[name][f"acetate {dtype}"] = relative(found[name], exact[name])
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["time", "numerics"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--text-tokens", type=int, default=338)
    parser.add_argument("--parts", default="ceilings,text,transformer,vae")
    parser.add_argument("--bench", default="bench")
    arguments = parser.parse_args()
    if arguments.what == "numerics":
        print(json.dumps(numerics(arguments.folder, arguments.bench), indent=1))
        sys.exit()
    for part in arguments.parts.split(","):
        if part == "ceilings":
            ceilings(arguments.repeats)
        elif part == "text":
            text(arguments.folder, arguments.repeats, arguments.text_tokens)
        elif part == "transformer":
            transformer(arguments.folder, arguments.repeats, arguments.compile)
        elif part == "vae":
            vae(arguments.folder, arguments.repeats)
        # Compiled code keeps its model alive otherwise.
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()
    print(json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__, "lines": lines}))
