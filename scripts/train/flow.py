"""Stages `layered` and `edit`: trains the transformers by flow matching, with the same inputs as in the pipelines.

Scenes are drawn, encoded by the frozen VAE and read by the frozen text encoder into a pool on the device, from which
batches are drawn; the oldest are replaced all the time. A transformer's step costs less than encoding its batch.
"""

import time
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F

import draw
import edits
import folded
import metrics
import text
import vae as vae_stage
import words
import world
from common import CONFIG, Clock, Log, Trainer, autocast, fresh_scenes, load_state, save_state, stream
from denoiser import FRAMES, Denoiser, build, pack, shifted, unpack

COLUMNS = ("target_tokens", "condition", "states", "mask", "frames")
# How often each number of layers is requested; four is the default of users.
LAYERS = torch.tensor([2, 3, 3, 4, 4, 4, 4, 5, 5, 5])

class Source:
    """Turns new scenes into the transformer's inputs: target tokens, condition tokens, prompt states and mask."""

    def __init__(self, kind: str, state: Path, device):
        self.kind, self.device = kind, device
        self.vae, self.mean, self.std = vae_stage.load(kind, state, device)
        self.reader = text.load(state, device)
        self.encode = torch.compile(folded.encode, dynamic=False) if device.type == "cuda" else folded.encode
        pipeline = words.LAYERED if kind == "layered" else words.EDIT
        self.skip = words.prefix(pipeline.prompt_template_encode)
        self.room = CONFIG["transformer"][kind]["prompt_tokens"]

    def latents(self, pictures: torch.Tensor) -> torch.Tensor:
        pictures = (pictures * 2 - 1).contiguous(memory_format=torch.channels_last)
        with autocast(self.device):
            return (self.encode(self.vae, pictures).float() - self.mean) / self.std

    def pictures(self, latents: torch.Tensor) -> torch.Tensor:
        """Normalized latents (b, 16, h, w) -> pictures in 0..1."""
        return folded.decode(self.vae, latents * self.std + self.mean).clamp(-1, 1) / 2 + 0.5

    def prompts(self, ids: torch.Tensor, count: torch.Tensor, seen: torch.Tensor | None):
        """The states after the template (b, p, hidden), 0 where there is no token, and the mask (b, p)."""
        ids = ids.to(self.device)
        with autocast(self.device):
            pictures = None if seen is None else text.see(self.reader.model.visual, text.patches(seen))
            states = text.read(self.reader, ids, text.sequence(ids.shape[1], self.device), pictures)[:, self.skip :]
        mask = torch.arange(self.room)[None] < (count - self.skip)[:, None]
        mask = mask.to(self.device)
        return (states * mask[..., None]).to(torch.bfloat16), mask

    def negative(self, count: int, seen: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        sequence = words.layered_prompt(edits.NEGATIVE) if self.kind == "layered" else words.edit_prompt(edits.NEGATIVE)
        return self.prompts(*words.batch([sequence] * count, self.skip + self.room), seen)

    def plan(self, count: int, dropout: float, generator: torch.Generator, layers: int | None = None) -> dict:
        """Scenes and words, on the CPU; as many layers for every scene, or some."""
        scenes = world.sample(count, generator)
        silent = (torch.rand(count, generator=generator) < dropout).tolist()
        if self.kind == "layered":
            spoken = [world.loose_caption(scenes.light(), index, generator) for index in range(count)]
            wanted = LAYERS[torch.randint(len(LAYERS), (count,), generator=generator)]
            planned = {"scenes": scenes, "layers": wanted if layers is None else torch.full((count,), layers)}
            prompt = words.layered_prompt
        else:
            made = edits.make(scenes, generator)
            spoken, planned, prompt = made.words, {"made": made}, words.edit_prompt
        told = [edits.NEGATIVE if quiet else one for one, quiet in zip(spoken, silent)]
        return {**planned, "ids": words.batch([prompt(one) for one in told], self.skip + self.room)}

    @torch.no_grad()
    def finish(self, planned: dict) -> dict[str, torch.Tensor]:
        """Draws, encodes and reads a plan. `true` and `before` are for measuring: layers or pictures."""
        if self.kind == "layered":
            count = planned["layers"].to(self.device)
            layers = draw.gathered(draw.draw(planned["scenes"].to(self.device)), count)
            whole = draw.composite(layers)
            whole = torch.cat([whole, torch.ones_like(whole[:, :1])], dim=1)
            frames = torch.cat([whole.unsqueeze(1), layers], dim=1)
            latents = self.latents(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
            condition, given, extra = latents[:, :1], None, {"true": layers, "before": whole[:, :3]}
            present = count + 1
        else:
            made = planned["made"]
            only = made.only.to(self.device)
            before, after = (edits.show(which.to(self.device), only) for which in (made.before, made.after))
            # A layer from a model is not perfectly black where it is transparent.
            dirt = torch.rand(len(before), 1, 1, 1, device=self.device) * 0.04 * torch.rand_like(before[:, :, ::8, ::8])
            dirt = F.interpolate(dirt, scale_factor=8.0, mode="bilinear")
            given = before + dirt * (before.amax(1, keepdim=True) == 0)
            latents, condition = self.latents(torch.cat([after, given])).unflatten(0, (2, len(before))).unsqueeze(2)
            present = torch.ones(len(before), dtype=torch.long, device=self.device)
            extra = {"true": after, "before": given, "words": made.words, "target": made.target}
        states, mask = self.prompts(*planned["ids"], given)
        return {"target_tokens": pack(latents), "condition": pack(condition), "states": states, "mask": mask,
                "frames": present, **extra}  # fmt: skip


class Pool:
    """A ring of ready samples on the device. `group` neighbors are always drawn together."""

    def __init__(self, source: Source, plans, size: int, group: int = 1):
        self.source, self.plans, self.size, self.group = source, plans, size, group
        self.filled, self.next, self.columns = 0, 0, {}

    def add(self) -> None:
        made = self.source.finish(next(self.plans))
        count = len(made["mask"])
        for name in COLUMNS:
            value = made[name].to(torch.bfloat16) if made[name].is_floating_point() else made[name]
            if name not in self.columns:
                self.columns[name] = torch.empty(self.size, *value.shape[1:], dtype=value.dtype, device=value.device)
            where = (torch.arange(count, device=value.device) + self.next) % self.size
            self.columns[name][where] = value
        self.next = (self.next + count) % self.size
        self.filled = min(self.size, self.filled + count)

    def draw(self, count: int, device) -> list[torch.Tensor]:
        rows = torch.randint(self.filled // self.group, (count // self.group,), device=device) * self.group
        rows = (rows[:, None] + torch.arange(self.group, device=device)).flatten()
        return [self.columns[name][rows] for name in COLUMNS]


def schedule(kind: str, steps: int) -> list[float]:
    """The checkpoint's own noise levels: shifted, then stretched to end at 0.02."""
    last = 0.0 if kind == "layered" else 1 / steps
    u = torch.linspace(1, last, steps + 1 if kind == "layered" else steps)[:steps]
    sigmas = shifted(u, kind)
    return [*(1 - (1 - sigmas) * (1 - 0.02) / (1 - sigmas[-1])).tolist(), 0.0]


def guided(denoiser: Denoiser, x: torch.Tensor, made: dict, sigma: float, guidance: float, negative) -> torch.Tensor:
    """The velocity by the pipelines' rule: with guidance it has the norm of the prompt's own, token by token."""
    tokens, level = torch.cat([x, made["condition"]], dim=1), torch.full((len(x),), sigma, device=x.device)

    def predicted(states, mask):
        with autocast(x.device):
            return denoiser(tokens, states.float(), mask, made["frames"], level)[:, : x.shape[1]].float()

    velocity = predicted(made["states"], made["mask"])
    if guidance <= 1:
        return velocity
    other = predicted(*negative)
    mixed = other + guidance * (velocity - other)
    return mixed * velocity.norm(dim=-1, keepdim=True) / mixed.norm(dim=-1, keepdim=True)


@torch.no_grad()
def generate(denoiser: Denoiser, source: Source, made: dict, sigmas: list[float], guidance: float, group: int = 1,
             seed: int = 0) -> torch.Tensor:  # fmt: skip
    """Pictures (b, frames, c, h, w) in 0..1 by the pipelines' own rule, for a whole batch; `group` neighbors start from
    the same noise."""
    kind, device = denoiser.kind, made["condition"].device
    shape = made["target_tokens"].shape
    noise = torch.randn((shape[0] // group, *shape[1:]), generator=torch.Generator().manual_seed(seed))
    x = noise.repeat_interleave(group, dim=0).to(device)
    negative = source.negative(shape[0], made["before"] if kind == "edit" else None)
    for now, then in zip(sigmas, sigmas[1:]):
        x = x + (then - now) * guided(denoiser, x, made, now, guidance, negative)
    frames = FRAMES[kind]
    return source.pictures(unpack(x, frames).flatten(0, 1)).unflatten(0, (shape[0], frames))


def measure(denoiser: Denoiser, source: Source, count: int, steps: int, guidance: float,
            sigmas: list[float] | None = None) -> dict[str, float]:  # fmt: skip
    """The metrics of metrics.py on unseen scenes, with the checkpoint's own noise levels or others."""
    with torch.no_grad():
        made = source.finish(source.plan(count, 0.0, torch.Generator().manual_seed(999_983), 1 + world.OBJECTS))
    found = generate(denoiser, source, made, sigmas or schedule(denoiser.kind, steps), guidance).float().cpu()
    true = made["true"].float().cpu()
    if denoiser.kind == "layered":
        return metrics.gather([metrics.decomposition(a, b[1:]) for a, b in zip(true, found)])
    before = made["before"].float().cpu()
    each = [metrics.edit(b, a, f[0], t) for b, a, f, t in zip(before, true, found, made["target"])]
    return metrics.gather(each)


def loss_of(denoiser: Denoiser, target, condition, states, mask, frames, noise, sigma) -> torch.Tensor:
    """Flow matching: the squared error of the velocity at the noise levels `sigma` (b,)."""
    noisy = target + sigma[:, None, None] * (noise - target)
    predicted = denoiser(torch.cat([noisy, condition], dim=1), states, mask, frames, sigma)[:, : target.shape[1]]
    used = denoiser.used(frames)[:, : target.shape[1], None]
    return ((predicted.float() - noise + target) ** 2 * used).sum() / (used.sum() * target.shape[2])


def train(kind: str, state: Path, seconds: float, device, smoke: bool, hold: bool = False) -> None:
    settings, size = CONFIG["transformer"], CONFIG["transformer"][kind]
    log = Log(state, kind)
    torch.manual_seed(CONFIG["seed"])
    model = build(kind)
    before = load_state(state, kind)
    generator, runs = fresh_scenes(before)
    if before:
        model.load_state_dict(before)
    denoiser = Denoiser(kind, model.to(device), device)
    source = Source(kind, state, device)
    clock = Clock(seconds, size["rate"], 20 if smoke else None, hold)
    trainer = Trainer(denoiser, clock)
    resume_optimizer(trainer, state, kind, log)

    chunk = 8 if smoke else settings["refill"]
    planned = partial(source.plan, chunk, settings["dropout"])
    plans = stream(planned, generator, 0 if smoke else CONFIG["workers"])
    pool = Pool(source, plans, 64 if smoke else settings["pool"])
    began, first = time.monotonic(), 16 if smoke else settings["first"]
    while pool.filled < first:
        pool.add()
    synchronize(device)
    cost = (time.monotonic() - began) / (first / chunk)
    log(f"pool of {pool.filled}, {cost * 1000:.0f} ms for {chunk} scenes")

    if device.type == "cuda":
        for block in model.transformer_blocks:  # one block is compiled for all
            block.compile(dynamic=False)
    batch, running = 4 if smoke else size["batch"], None
    spent, started = 0.0, time.monotonic()
    while not clock.over(trainer.step):
        if spent < settings["refill_share"] * (time.monotonic() - started):
            pool.add()
            spent += cost
        target, condition, states, mask, frames = pool.draw(batch, device)
        u = (torch.randperm(batch, device=device) + torch.rand(batch, device=device)) / batch
        with autocast(device):
            loss = loss_of(denoiser, target.float(), condition.float(), states.float(), mask, frames,
                           torch.randn(target.shape, device=device), shifted(u, kind))  # fmt: skip
        trainer.update(loss)
        running = loss.detach() if running is None else torch.lerp(running, loss.detach(), 0.01)
        if trainer.step % 50 == 0:
            synchronize(device)  # the host must not run ahead of the clock
        if trainer.step % 500 == 0 or smoke:
            rate = trainer.step / (time.monotonic() - started)
            log(f"step {trainer.step} loss {running.item():.5f} ({rate:.1f} steps/s, {pool.filled} scenes)")
    log(f"done: {trainer.step} steps in {seconds:.0f} s, loss {running.item():.5f}")
    save_state(state, kind, {**trainer.average.model.state_dict(), "runs": runs})
    keep_optimizer(trainer, state, kind)
    average = trainer.average.eval()
    average.rope, average.frame = denoiser.rope, denoiser.frame
    for guidance in (1.0, 4.0):
        found = measure(average, source, 2 if smoke else 64, 2 if smoke else 20, guidance)
        log(f"guidance {guidance}: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()))


def keep_optimizer(trainer: Trainer, state: Path, kind: str) -> None:
    """The moments and the latest weights, for a run on the same machine; too large to copy, and not needed to continue."""
    torch.save({"weights": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()}, state / f"{kind}.pt")


def resume_optimizer(trainer: Trainer, state: Path, kind: str, log: Log) -> None:
    path = state / f"{kind}.pt"
    if path.exists():
        kept = torch.load(path, map_location="cpu", weights_only=True)
        trainer.model.load_state_dict(kept["weights"])
        trainer.optimizer.load_state_dict(kept["optimizer"])
        log("resumed with the optimizer's moments")


def synchronize(device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
