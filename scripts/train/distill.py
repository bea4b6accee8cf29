"""Trains a LoRA for few steps without guidance: four passes of the transformer instead of a hundred.

    python train.py import --state STATE --models ../../models
    python distill.py layered|edit --state STATE --out OUT --seconds 300 [--steps 4] [--rank 32]

The student makes its own Euler steps at the noise levels of `--preset lightning`, and its guess of the picture after each
step is compared with the true result. The gradient of the last guess goes back through all steps, so a step learns what
the next ones need. A scene has one right answer, and the checkpoint with guidance is further from it than without (see
docs/small-checkpoints.md), so the truth is a better goal here than the checkpoint's own path.

The LoRA has diffusers' names, so diffusers and ComfyUI load it.
"""

import argparse
import copy
import json
import math
import time
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import flow
import folded
from common import CONFIG, autocast, device_of, load_state, stream
from denoiser import FRAMES, Denoiser, build, unpack

SHIFT = 3.0  # exp(base_shift) of the preset
BATCH = {"layered": 64, "edit": 192}
HELD = {"layered": 64, "edit": 256}  # unseen scenes, other ones than those of evaluate.py
RATE = {"layered": 1e-4, "edit": 1e-3}  # at 1e-3, layers diverged within 70 updates
EARLIER = 0.1  # weight of the guesses before the last
SEED = 515_151
LORA = ["attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj",
        "attn.to_add_out", "img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2", "img_mod.1",
        "txt_mod.1"]  # fmt: skip


def levels(steps: int) -> list[float]:
    """The preset's noise levels: evenly spaced from 1 to 1 / steps, shifted, then 0."""
    even = [1 - i / steps for i in range(steps)]
    return [SHIFT * s / (1 + (SHIFT - 1) * s) for s in even] + [0.0]


class Adapted(nn.Module):
    """A frozen linear layer and its LoRA, alpha = rank."""

    def __init__(self, base: nn.Linear, rank: int):
        super().__init__()
        self.base = base
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features) * base.in_features**-0.5)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + F.linear(F.linear(x, self.lora_A), self.lora_B)


def adapt(model, rank: int) -> dict[str, Adapted]:
    adapted = {}
    for index, block in enumerate(model.transformer_blocks):
        for name in LORA:
            path, last = name.rsplit(".", 1)
            parent = block.get_submodule(path)
            layer = Adapted(getattr(parent, last), rank)
            setattr(parent, last, layer)
            adapted[f"transformer_blocks.{index}.{name}"] = layer
    return adapted


def denoiser_of(kind: str, state: Path, device) -> Denoiser:
    weights = load_state(state, kind) or exit(f"no {kind} in {state}; `train.py import` makes it")
    weights.pop("runs")
    model = build(kind)
    model.load_state_dict(weights)
    return Denoiser(kind, model.requires_grad_(False).to(device), device)


class Student:
    """A LoRA on a copy of the checkpoint, its optimizer, and the average of its weights."""

    def __init__(self, base: Denoiser, rank: int, rate: float):
        device = base.frame.device
        self.rank, self.rate, self.step = rank, rate, 0
        self.denoiser = Denoiser(base.kind, copy.deepcopy(base.model), device)
        self.adapted = adapt(self.denoiser.model, rank)
        self.denoiser.to(device)
        self.trained = [p for layer in self.adapted.values() for p in (layer.lora_A, layer.lora_B)]
        self.optimizer = torch.optim.AdamW(self.trained, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
        self.average = [p.detach().clone() for p in self.trained]

    def update(self, loss, done: float) -> None:
        """`done`: the share of the training that is over, for the rate: a short rise, then a cosine."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * min(1, (self.step + 1) / 50) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * done)))
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(0.99, self.step / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.trained], 1 - decay)

    def swap(self) -> None:
        """Exchanges the weights and their average."""
        for parameter, value in zip(self.trained, self.average):
            kept = parameter.detach().clone()
            parameter.data.copy_(value)
            value.copy_(kept)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for number, name in enumerate(self.adapted):
            for part, value in zip("AB", self.average[2 * number : 2 * number + 2]):
                tensors[f"transformer.{name}.lora_{part}.weight"] = value.to("cpu", torch.bfloat16).contiguous()
        # As diffusers writes it; PEFT applies alpha / r, which is 1.
        adapter = {"transformer.r": self.rank, "transformer.lora_alpha": self.rank, "transformer.target_modules": list(self.adapted)}
        save_file(tensors, path, {"format": "pt", "lora_adapter_metadata": json.dumps(adapter, sort_keys=True)})


def guesses(denoiser: Denoiser, x, given, sigmas: list[float], through: bool = True) -> list[torch.Tensor]:
    """The guess of the picture in each Euler step from the noise `x`."""
    condition, states, mask, frames = given
    found = []
    for now, then in zip(sigmas, sigmas[1:]):
        tokens, level = torch.cat([x, condition], dim=1), torch.full((len(x),), now, device=x.device)
        velocity = denoiser(tokens, states, mask, frames, level)[:, : x.shape[1]].float()
        found.append(x - now * velocity)
        x = x + (then - now) * velocity
        if not through:
            x = x.detach()
    return found


def shown(source: flow.Source, tokens, frames) -> torch.Tensor:
    """One decoded frame of each sample, (b, c, h, w): a layer at random, premultiplied by its alpha, or the edit."""
    count, all_ = len(tokens), FRAMES[source.kind]
    latents = unpack(tokens, all_)[torch.arange(count, device=tokens.device), frames]
    with autocast(tokens.device):
        pictures = folded.decode(source.vae, latents * source.std + source.mean).float() / 2 + 0.5
    if source.kind == "edit":
        return pictures
    return torch.cat([pictures[:, :3] * pictures[:, 3:], pictures[:, 3:]], dim=1)


def loss_of(student: Denoiser, source: flow.Source, batch, sigmas: list[float], pixels: float, through: bool = True):
    """The squared error of the guesses, and the absolute error of pictures made of the last."""
    target, *given = batch
    target, given[0], given[1] = target.float(), given[0].float(), given[1].float()
    frames = given[-1]
    with autocast(target.device):
        found = guesses(student, torch.randn_like(target), given, sigmas, through)
    used = student.used(frames)[:, : target.shape[1], None]
    errors = [((one - target) ** 2 * used).sum() / (used.sum() * target.shape[2]) for one in found]
    loss = errors[-1] + EARLIER * sum(errors[:-1])
    if pixels:
        # Frame 0 of Layered is the picture that is given, and no result.
        which = torch.zeros_like(frames) if student.kind == "edit" else 1 + (torch.rand(len(frames), device=frames.device) * (frames - 1)).long()
        with torch.no_grad():
            wanted = shown(source, target, which)
        loss = loss + pixels * (shown(source, found[-1], which) - wanted).abs().mean()
    return loss, errors[-1].detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["layered", "edit"])
    parser.add_argument("--state", type=Path, required=True, help="made by `train.py import`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=300, help="how long to train, after the preparation")
    parser.add_argument("--steps", type=int, choices=[1, 2, 4, 8], default=4)
    parser.add_argument("--batch", type=int, help=f"default: {BATCH['layered']} for layers, {BATCH['edit']} for edits")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rate", type=float, help=f"default: {RATE['layered']} for layers, {RATE['edit']} for edits")
    parser.add_argument("--pixels", type=float, default=1.0, help="weight of the pictures' error beside the latents'")
    parser.add_argument("--no-through", dest="through", action="store_false", help="no gradient from a step to those before")
    parser.add_argument("--pool", type=int, default=16384, help="scenes before the training begins")
    parser.add_argument("--smoke", action="store_true", help="a few tiny steps, for a CPU")
    chosen = parser.parse_args()
    kind, device, smoke = chosen.kind, device_of(None), chosen.smoke
    torch.manual_seed(SEED)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch._dynamo.config.recompile_limit = 64
    held, batch = (4, 8) if smoke else (HELD[kind], chosen.batch or BATCH[kind])
    began, sigmas = time.monotonic(), levels(chosen.steps)
    path = chosen.out / f"{kind}-nano-lightning-{chosen.steps}steps.safetensors"

    def log(text: str) -> None:
        print(f"{kind} {time.monotonic() - began:6.1f}s {text}", flush=True)

    def measured(denoiser, sigmas=None, guidance=1.0) -> str:
        with torch.compiler.set_stance("force_eager"):
            found = flow.measure(denoiser, source, held, 2 if smoke else 50, guidance, sigmas)
        return " ".join(f"{name} {value:.3f}" for name, value in found.items())

    source, base = flow.Source(kind, chosen.state, device), denoiser_of(kind, chosen.state, device)
    source.encode = folded.encode  # compiling takes longer than it saves
    log(f"50 steps, guidance 4: {measured(base, None, 4.0)}")
    log(f"{chosen.steps} steps without a LoRA: {measured(base, sigmas)}")
    chunk = 8 if smoke else CONFIG["transformer"]["refill"]
    planned = partial(source.plan, chunk, 0.0)  # without guidance, every prompt says something
    plans = stream(planned, torch.Generator().manual_seed(SEED), 0 if smoke else 2 * CONFIG["workers"])
    pool = flow.Pool(source, plans, 64 if smoke else CONFIG["transformer"]["pool"])
    while pool.filled < (16 if smoke else chosen.pool):
        pool.add()
    flow.synchronize(device)
    log(f"{pool.filled} scenes")
    student = Student(base, chosen.rank, chosen.rate or RATE[kind])
    if device.type == "cuda":
        for block in student.denoiser.model.transformer_blocks:
            block.compile(dynamic=False)
    log(f"{sum(p.numel() for p in student.trained)} weights, levels {sigmas}, {device}")

    started, running, reported, spent = time.monotonic(), None, time.monotonic(), 0.0
    while (done := student.step / 3 if smoke else (time.monotonic() - started) / chosen.seconds) < 1:
        if spent < CONFIG["transformer"]["refill_share"] * (time.monotonic() - started):
            adding = time.monotonic()
            pool.add()
            flow.synchronize(device)
            spent += time.monotonic() - adding
        loss, error = loss_of(student.denoiser, source, pool.draw(batch, device), sigmas, chosen.pixels, chosen.through)
        student.update(loss, done)
        running = error if running is None else torch.lerp(running, error, 0.02)
        flow.synchronize(device)  # the host must not run ahead of the clock
        if smoke or time.monotonic() - reported > 30:
            rate = student.step / (time.monotonic() - started)
            student.save(path)
            student.swap()
            log(f"step {student.step} ({rate:.2f}/s) error {running.item():.5f}: {measured(student.denoiser, sigmas)}")
            student.swap()
            reported = time.monotonic()
    student.save(path)
    student.swap()
    log(f"done, {student.step} updates, error {running.item():.5f}: {measured(student.denoiser, sigmas)}; {path}")


if __name__ == "__main__":
    main()
