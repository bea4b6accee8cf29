"""A LoRA on fp8 weights: merged before they are rounded, or added at run time? Prints both errors.

    python scripts/bench/lora_fp8.py --models models [--lora FILE]

Weights are rounded to e4m3 with a scale a row and inputs with a scale a token, as acetate does. Without `--lora` the
changes are random, of several sizes relative to the weights. The error is of one pass, relative to float32.
"""

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))
import distill  # noqa: E402
from common import CONFIG  # noqa: E402
from denoiser import FRAMES, Denoiser, build  # noqa: E402

RANK = 32
FP8 = [name for name in distill.LORA if "_mod." not in name]


def rounded(x: torch.Tensor) -> torch.Tensor:
    scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 448
    return (x / scale).to(torch.float8_e4m3fn).float() * scale


class Layer(nn.Module):
    """`mode`: float32, merged, or at run time."""

    def __init__(self, base: nn.Linear, down, up, mode: str):
        super().__init__()
        self.bias, self.down, self.up, self.mode = base.bias, down, up, mode
        change = up @ down
        self.weight = base.weight if mode == "run time" else base.weight + change
        if mode != "float32":
            self.weight = nn.Parameter(rounded(self.weight), requires_grad=False)

    def forward(self, x):
        if self.mode == "float32":
            return F.linear(x, self.weight, self.bias)
        out = F.linear(rounded(x), self.weight, self.bias)
        return out + F.linear(F.linear(x, self.down), self.up) if self.mode == "run time" else out


def model(weights, changes, mode: str):
    made = build("layered").requires_grad_(False)
    made.load_state_dict(weights)
    for index, block in enumerate(made.transformer_blocks):
        for name in FP8:
            path, last = name.rsplit(".", 1)
            parent = block.get_submodule(path)
            setattr(parent, last, Layer(getattr(parent, last), *changes[f"transformer_blocks.{index}.{name}"], mode))
    return Denoiser("layered", made, "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--lora", type=Path, help="of layered-nano, with diffusers' names")
    chosen = parser.parse_args()
    torch.manual_seed(1)
    weights = {name: value.float() for name, value in load_file(
        chosen.models / "layered-nano/transformer/diffusion_pytorch_model.safetensors").items()}  # fmt: skip
    names = [name.removesuffix(".weight") for name in weights if name.startswith("transformer_blocks.")
             and name.removesuffix(".weight").split(".", 2)[-1] in FP8]  # fmt: skip
    sets = {}
    if chosen.lora:
        lora = load_file(chosen.lora)
        sets[chosen.lora.name] = {name: tuple(lora[f"transformer.{name}.lora_{part}.weight"].float() for part in "AB") for name in names}
    for size in (0.02, 0.1, 0.5):
        sets[f"random, {size} of the weights"] = changes = {}
        for name in names:
            weight = weights[f"{name}.weight"]
            down, up = torch.randn(RANK, weight.shape[1]), torch.randn(weight.shape[0], RANK)
            changes[name] = down, up * size * weight.norm() / (up @ down).norm()
    x, condition, prompt = torch.randn(4, 5 * 64, 64), torch.randn(4, 64, 64), torch.randn(4, 16, 256)
    room, absent = CONFIG["transformer"]["layered"]["prompt_tokens"], FRAMES["layered"] - 5
    tokens = torch.cat([F.pad(x, (0, 0, 0, absent * 64)), condition], dim=1)
    given = (tokens, F.pad(prompt, (0, 0, 0, room - 16)), (torch.arange(room) < 16).expand(4, -1),
             torch.full((4,), 5), torch.full((4,), 0.6))  # fmt: skip
    for name, changes in sets.items():
        with torch.no_grad():
            true = model(weights, changes, "float32")(*given)[:, : x.shape[1]]
            errors = {mode: model(weights, changes, mode)(*given)[:, : x.shape[1]] for mode in ("merged", "run time")}
        print(name, {mode: f"{float((out - true).norm() / true.norm()):.5f}" for mode, out in errors.items()}, flush=True)


if __name__ == "__main__":
    main()
