"""Distills a small checkpoint into a LoRA for few steps without guidance.

    python train.py import --state STATE --models ../../models
    python distill.py layered|edit --state STATE --out OUT --seconds 200 [--steps 4] [--rank 16] [--truth 0.5]

The student's Euler steps run at the noise levels of `--preset lightning`. Every noise has a point at each level to which
the student has to come: on the teacher's path with guidance, on the straight line to the true result, or between both
(`--truth`). After a step the student goes on from where it came to, so it learns to correct its own errors, too.
The LoRA has diffusers' names, so diffusers and ComfyUI load it.
"""

import argparse
import copy
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
from denoiser import Denoiser, build

SHIFT = 3.0  # exp(base_shift) of the preset
BATCH = {"layered": 128, "edit": 512}
# Steps of the teacher (midpoint rule) in each eighth of the preset's noise levels, from noise to picture.
SUBSTEPS = (1, 1, 1, 1, 2, 2, 3, 5)
HELD = {"layered": 128, "edit": 512}
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


class Points:
    """Scenes, and for each a noise with the points on its way to the picture, one a noise level."""

    def __init__(self, source: flow.Source, teacher: Denoiser, chosen, device):
        self.truth, self.sigmas = chosen.truth, levels(chosen.steps)
        generator, chunk = torch.Generator().manual_seed(SEED), 4 if chosen.smoke else min(256, chosen.scenes)
        planned = partial(source.plan, chunk, CONFIG["transformer"]["dropout"])
        plans = stream(planned, generator, 0 if chosen.smoke else 2 * CONFIG["workers"])
        parts = []
        for _ in range(max(1, (8 if chosen.smoke else chosen.scenes) // chunk)):
            made = source.finish(next(plans))
            noise = torch.randn(made["target_tokens"].shape, device=device)
            points = [self.truth * (sigma * noise + (1 - sigma) * made["target_tokens"]) for sigma in self.sigmas]
            if self.truth < 1:
                negative = source.negative(chunk, made["before"] if source.kind == "edit" else None)
                path = self.path(teacher, made, noise, negative, chosen.guidance)
                points = [point + (1 - self.truth) * one for point, one in zip(points, path)]
            row = {name: made[name] for name in flow.COLUMNS[1:]}
            row["condition"], row["states"] = row["condition"].half(), row["states"].half()
            parts.append({**row, "points": torch.stack(points, dim=1).half()})
        self.columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        self.count = len(self.columns["mask"])

    def path(self, teacher, made, noise, negative, guidance: float) -> list[torch.Tensor]:
        """The teacher's points at the student's levels, by the midpoint rule."""
        x, kept, eighths = noise, [noise], levels(8)
        for now, then, count in zip(eighths, eighths[1:], SUBSTEPS):
            for step in range(count):
                a, b = now + (then - now) * step / count, now + (then - now) * (step + 1) / count
                middle = x + (b - a) / 2 * flow.guided(teacher, x, made, a, guidance, negative)
                x = x + (b - a) * flow.guided(teacher, middle, made, (a + b) / 2, guidance, negative)
            if any(abs(then - sigma) < 1e-6 for sigma in self.sigmas):
                kept.append(x)
        return kept

    def of(self, rows) -> list[torch.Tensor]:
        """Condition, states, mask, frames."""
        return [self.columns[name][rows] for name in flow.COLUMNS[1:]]


class Student:
    """A LoRA on a copy of the teacher, its optimizer, and the average of its weights."""

    def __init__(self, teacher: Denoiser, kind: str, chosen, device):
        self.denoiser = Denoiser(kind, copy.deepcopy(teacher.model), device)
        self.adapted = adapt(self.denoiser.model, chosen.rank)
        self.denoiser.to(device)
        self.trained = [p for layer in self.adapted.values() for p in (layer.lora_A, layer.lora_B)]
        self.optimizer = torch.optim.AdamW(self.trained, lr=chosen.rate, betas=(0.9, 0.98), weight_decay=0.0)
        self.average, self.rate, self.step = [p.detach().clone() for p in self.trained], chosen.rate, 0

    def update(self, loss, done: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * min(1, (self.step + 1) / 100) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * done)))
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(0.998, self.step / (10 + self.step))
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
        save_file(tensors, path, {"format": "pt"})


def losses(student: Denoiser, x, points, given, stage, sigmas):
    """The weighted squared error of the velocities that lead to the next points, and where the student comes to."""
    condition, states, mask, frames = given
    now, step = sigmas[stage], (sigmas[stage + 1] - sigmas[stage])[:, None, None]
    tokens = torch.cat([x, condition.float()], dim=1)
    with autocast(x.device):
        predicted = student(tokens, states.float(), mask, frames, now)[:, : x.shape[1]].float()
    wanted = (points - x) / step
    used = student.used(frames)[:, : x.shape[1], None]
    error = (predicted - wanted) ** 2 * used * step.abs() * (len(sigmas) - 1)
    return error.sum() / (used.sum() * x.shape[2]), (x + step * predicted).detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["layered", "edit"])
    parser.add_argument("--state", type=Path, required=True, help="made by `train.py import`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=200, help="how long to train, after the preparation")
    parser.add_argument("--steps", type=int, choices=[1, 2, 4, 8], default=4)
    parser.add_argument("--scenes", type=int, default=16384)
    parser.add_argument("--batch", type=int, help=f"default: {BATCH['layered']} for layers, {BATCH['edit']} for edits")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rate", type=float, default=4e-4)
    parser.add_argument("--truth", type=float, default=0.5, help="share of the true result in the points, 0 to 1")
    parser.add_argument("--guidance", type=float, default=4.0, help="of the teacher")
    parser.add_argument("--compare", action="store_true", help="also measure the teacher and the student without its LoRA")
    parser.add_argument("--smoke", action="store_true", help="a few tiny steps, for a CPU")
    chosen = parser.parse_args()
    kind, device = chosen.kind, device_of(None)
    torch.manual_seed(SEED)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch._dynamo.config.recompile_limit = 64
    held, batch = (4, 8) if chosen.smoke else (HELD[kind], chosen.batch or BATCH[kind])
    began = time.monotonic()

    def log(text: str) -> None:
        print(f"{kind} {chosen.steps} steps, truth {chosen.truth:g}: {time.monotonic() - began:6.1f}s {text}", flush=True)

    def measured(denoiser, sigmas=None, guidance=1.0) -> str:
        with torch.compiler.set_stance("force_eager"):
            found = flow.measure(denoiser, source, held, 50, guidance, sigmas)
        return " ".join(f"{name} {value:.3f}" for name, value in found.items())

    source, teacher = flow.Source(kind, chosen.state, device), denoiser_of(kind, chosen.state, device)
    source.encode = folded.encode  # compiling takes longer than it saves
    if chosen.compare:
        log(f"teacher, 50 steps, guidance {chosen.guidance:g}: {measured(teacher, None, chosen.guidance)}")
        for steps in (1, 2, 4, 8):
            log(f"without LoRA, {steps} steps: {measured(teacher, levels(steps))}")
    student = Student(teacher, kind, chosen, device)
    if device.type == "cuda":
        for block in [*teacher.model.transformer_blocks, *student.denoiser.model.transformer_blocks]:
            block.compile(dynamic=False)
    with torch.no_grad():
        data = Points(source, teacher, chosen, device)
    log(f"{data.count} scenes, {sum(p.numel() for p in student.trained)} weights, levels {data.sigmas}, {device}")

    sigmas = torch.tensor(data.sigmas, device=device)
    part = batch // chosen.steps
    stage = torch.arange(chosen.steps, device=device).repeat_interleave(part)
    rows = torch.randint(data.count, (len(stage),), device=device)
    x = data.columns["points"][rows, stage].float()
    path = chosen.out / f"{kind}-nano-lightning-{chosen.steps}steps-truth{chosen.truth:g}.safetensors"
    started, running, reported = time.monotonic(), None, time.monotonic()
    while True:
        done = student.step / 3 if chosen.smoke else (time.monotonic() - started) / chosen.seconds
        if done >= 1:
            break
        loss, x = losses(student.denoiser, x, data.columns["points"][rows, stage + 1].float(), data.of(rows), stage, sigmas)
        student.update(loss, done)
        # Each part of the batch goes on to the next level, and new scenes come in at the first.
        new = torch.randint(data.count, (part,), device=device)
        x = torch.cat([data.columns["points"][new, 0].float(), x[:-part]])
        rows = torch.cat([new, rows[:-part]])
        running = loss.detach() if running is None else torch.lerp(running, loss.detach(), 0.02)
        if student.step % 50 == 0 or chosen.smoke:
            flow.synchronize(device)  # the host must not run ahead of the clock
        if chosen.smoke or time.monotonic() - reported > 45:
            log(f"step {student.step} loss {running.item():.5f}")
            student.save(path)
            reported = time.monotonic()
    student.save(path)
    student.swap()
    log(f"done, {student.step} updates, loss {running.item():.5f}: {measured(student.denoiser, data.sigmas)}; {path}")


if __name__ == "__main__":
    main()
