"""Trains a LoRA for `edit-nano` that changes outlines: "Make the star bigger", "Make it smaller", "Add a shadow".

    python outline_lora.py --models ../../models --out ../../models/loras/edit-nano-outlines.safetensors --seconds 200

The inputs are those of `alpha: grow`: a layer over black and over gray, with the same instruction and the same noise.
First the LoRA learns by flow matching; for the last part of the time, it makes the steps of `--preset lightning`, and
its pictures over both grounds, and what differs between them, are compared with the true ones.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

import distill
import edits
import export
import flow
import outlines
import words
import world
from common import CONFIG, autocast, device_of, stream
from denoiser import pack

DIRT = 0.04  # how far a model's layer is off, at most
SEED, HELD = 616_161, 717_171


class Source(flow.Source):
    """Pairs of samples: a layer over black, then the same over gray."""

    def plan(self, count: int, dropout: float, generator: torch.Generator, task: str | None = None) -> dict:
        made = outlines.make(world.sample(count, generator), generator, task)
        silent = (torch.rand(count, generator=generator) < dropout).tolist()
        told = [words.edit_prompt(edits.NEGATIVE if quiet else one) for one, quiet in zip(made.words, silent)]
        return {"made": made, "ids": words.batch(told, self.skip + self.room)}

    @torch.no_grad()
    def finish(self, planned: dict) -> dict[str, torch.Tensor]:
        """`before` is what the model gets; `old` and `true` are the layers."""
        made = planned["made"]
        old, true = (outlines.layers(scenes.to(self.device)) for scenes in (made.before, made.after))
        given = outlines.over_grounds((old + self.dirt(old)).clamp(0, 1))
        latents, condition = self.latents(torch.cat([outlines.over_grounds(true), given])).unflatten(0, (2, -1)).unsqueeze(2)
        ids, length = (part.repeat_interleave(2, dim=0) for part in planned["ids"])
        states, mask = self.prompts(ids, length, given)
        frames = torch.ones(len(given), dtype=torch.long, device=self.device)
        return {"target_tokens": pack(latents), "condition": pack(condition), "states": states, "mask": mask,
                "frames": frames, "before": given, "old": old, "true": true}  # fmt: skip

    def dirt(self, layers: torch.Tensor) -> torch.Tensor:
        """Smooth noise, of another strength for each layer."""
        coarse = torch.randn_like(layers[:, :, ::8, ::8]) * torch.rand(len(layers), 1, 1, 1, device=self.device)
        return DIRT / 2 * torch.nn.functional.interpolate(coarse, scale_factor=8.0, mode="bilinear")


def noise_like(target: torch.Tensor) -> torch.Tensor:
    """The same for both of a pair."""
    return torch.randn_like(target[::2]).repeat_interleave(2, dim=0)


def velocity_loss(student, batch) -> torch.Tensor:
    """Flow matching, with levels about those of `--preset lightning`."""
    target, *given = batch
    pairs = len(target) // 2
    even = (torch.randperm(pairs, device=target.device) + torch.rand(pairs, device=target.device)) / pairs
    levels = (distill.SHIFT * even / (1 + (distill.SHIFT - 1) * even)).repeat_interleave(2)
    with autocast(target.device):
        return flow.loss_of(student, target, *given, noise_like(target), levels)


def result_loss(student, source: Source, batch, sigmas: list[float]) -> torch.Tensor:
    """The error of the guesses after each step, of the pictures, and of the difference between both grounds."""
    target, *given = batch
    with autocast(target.device):
        found = distill.guesses(student, noise_like(target), given, sigmas)
    errors = [((one - target) ** 2).mean() for one in found]
    frame = torch.zeros_like(given[-1])
    with torch.no_grad():
        wanted = distill.shown(source, target, frame)
    seen = distill.shown(source, found[-1], frame)
    apart = (seen[1::2] - seen[::2]) - (wanted[1::2] - wanted[::2])
    return errors[-1] + distill.EARLIER * sum(errors[:-1]) + (seen - wanted).abs().mean() + apart.abs().mean()


def measure(denoiser, source: Source, count: int, sigmas: list[float], guidance: float) -> str:
    """For each task the alpha IoU with the true layer, on unseen scenes; in brackets that of the old outline."""
    told = []
    for number, task in enumerate(outlines.SHARES):
        made = source.finish(source.plan(count, 0.0, torch.Generator().manual_seed(HELD + number), task))
        found = flow.generate(denoiser, source, made, sigmas, guidance, group=2)[:, 0].float()
        iou = outlines.overlap(outlines.alpha_of(found), made["true"][:, 3])
        kept = outlines.overlap(made["old"][:, 3], made["true"][:, 3])
        off = (found - outlines.over_grounds(made["true"])).square().mean(dim=(1, 2, 3))
        told.append(f"{task} {iou.mean():.3f} ({kept.mean():.3f}) {-10 * off.log10().mean():.1f} dB")
    return ", ".join(told)


def resume(student: distill.Student, path: Path) -> None:
    stored = load_file(path)
    for number, name in enumerate(student.adapted):
        for index, part in enumerate("AB"):
            value = stored[f"transformer.{name}.lora_{part}.weight"].float()
            student.trained[2 * number + index].data.copy_(value)
            student.average[2 * number + index].copy_(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="the folder of edit-nano")
    parser.add_argument("--out", type=Path, required=True, help="the file of the LoRA")
    parser.add_argument("--start", type=Path, help="a LoRA of the same rank to continue from")
    parser.add_argument("--seconds", type=float, default=200, help="how long to train, after the preparation")
    parser.add_argument("--own", type=float, default=0.3, help="share of the time for its own steps, at the end")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2.5e-3)
    parser.add_argument("--pairs", type=int, default=96, help="in a batch")
    parser.add_argument("--dropout", type=float, default=0.1, help="share of empty prompts, for guidance")
    parser.add_argument("--pool", type=int, default=4096, help="pairs before the training begins")
    parser.add_argument("--smoke", action="store_true", help="a few tiny steps, for a CPU")
    chosen = parser.parse_args()
    device, smoke = device_of(None), chosen.smoke
    torch.manual_seed(SEED)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch._dynamo.config.recompile_limit = 64
    pairs, held = (4, 2) if smoke else (chosen.pairs, 64)
    began, few = time.monotonic(), distill.levels(4)

    def log(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f}s {text}", flush=True)

    with tempfile.TemporaryDirectory() as state:
        export.read(Path(state), chosen.models, ("edit",))
        source, base = Source("edit", Path(state), device), distill.denoiser_of("edit", Path(state), device)
    source.encode = flow.folded.encode  # compiling takes longer than it saves

    def measured(denoiser, sigmas=few, guidance=1.0) -> str:
        with torch.compiler.set_stance("force_eager"):
            return measure(denoiser, source, held, sigmas, guidance)

    log(f"4 steps without the LoRA: {measured(base)}")
    chunk = 4 if smoke else CONFIG["transformer"]["refill"]
    planned = partial(source.plan, chunk, chosen.dropout)
    plans = stream(planned, torch.Generator().manual_seed(SEED), 0 if smoke else CONFIG["workers"])
    pool = flow.Pool(source, plans, 64 if smoke else CONFIG["transformer"]["pool"], group=2)
    while pool.filled < (16 if smoke else 2 * chosen.pool):
        pool.add()
    flow.synchronize(device)
    student = distill.Student(base, chosen.rank, chosen.rate)
    if chosen.start:
        resume(student, chosen.start)
    if device.type == "cuda":
        for block in student.denoiser.model.transformer_blocks:
            block.compile(dynamic=False)
    log(f"{pool.filled // 2} pairs, {sum(p.numel() for p in student.trained)} weights, {device}")

    started, running, reported, spent = time.monotonic(), None, time.monotonic(), 0.0
    while (done := student.step / 6 if smoke else (time.monotonic() - started) / chosen.seconds) < 1:
        if spent < CONFIG["transformer"]["refill_share"] * (time.monotonic() - started):
            adding = time.monotonic()
            pool.add()
            flow.synchronize(device)
            spent += time.monotonic() - adding
        batch = [part.float() if part.is_floating_point() else part for part in pool.draw(2 * pairs, device)]
        own = done >= 1 - chosen.own
        loss = result_loss(student.denoiser, source, batch, few) if own else velocity_loss(student.denoiser, batch)
        student.update(loss, done)
        running = loss.detach() if running is None else torch.lerp(running, loss.detach(), 0.02)
        if own or student.step % 20 == 0:
            flow.synchronize(device)  # the host must not run ahead of the clock
        if smoke or time.monotonic() - reported > 40:
            student.save(chosen.out)
            student.swap()
            log(f"{'own steps' if own else 'flow'}, update {student.step}, loss {running.item():.5f}: {measured(student.denoiser)}")
            student.swap()
            reported = time.monotonic()
    student.save(chosen.out)
    student.swap()
    log(f"done, {student.step} updates: {measured(student.denoiser)}")
    many = flow.schedule("edit", 2 if smoke else 50)
    log(f"50 steps, guidance 4: {measured(student.denoiser, many, 4.0)}; {chosen.out}")


if __name__ == "__main__":
    main()
