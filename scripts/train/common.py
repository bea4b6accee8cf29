"""What every stage of the training shares: the clock, the averaged weights, states in small files, the log."""

import copy
import json
import math
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
CONFIG = json.loads((HERE / "config.json").read_text())
SHARD_BYTES = 15_000_000


class Clock:
    """Time left of a stage, and the learning rate that goes with it: warm-up in steps, then a cosine over time.

    `hold` keeps the rate, for a run that a later one goes on from.
    """

    def __init__(self, seconds: float, rate: float, steps: int | None = None, hold: bool = False):
        self.began, self.seconds, self.rate, self.steps, self.hold = time.monotonic(), seconds, rate, steps, hold

    def share(self, step: int) -> float:
        done = (time.monotonic() - self.began) / self.seconds
        return max(done, step / self.steps) if self.steps else done

    def over(self, step: int) -> bool:
        return self.share(step) >= 1

    def rate_at(self, step: int) -> float:
        if self.hold:
            return self.rate * min(1.0, (step + 1) / CONFIG["warmup"])
        fall = 0.5 + 0.5 * math.cos(math.pi * min(self.share(step), 1.0))
        return self.rate * min(1.0, (step + 1) / CONFIG["warmup"]) * (0.02 + 0.98 * fall)


class Trainer:
    """AdamW with clipping and an exponential average of the weights, over any module."""

    def __init__(self, model: torch.nn.Module, clock: Clock):
        self.model, self.clock, self.step = model, clock, 0
        self.weights = [p for p in model.parameters() if p.requires_grad]
        fused = self.weights[0].is_cuda
        self.optimizer = torch.optim.AdamW(self.weights, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, fused=fused)
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.averaged = [a for a, p in zip(self.average.parameters(), model.parameters()) if p.requires_grad]

    def update(self, loss: torch.Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.clock.rate_at(self.step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, CONFIG["clip"])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        # Young averages follow faster, or the start would weigh for thousands of steps.
        decay = min(CONFIG["ema"], (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.averaged, self.weights, 1 - decay)
        self.step += 1


class Log:
    """Lines with the time, to the screen and to a file."""

    def __init__(self, folder: Path, name: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.name, self.began = open(folder / f"{name}.log", "a"), name, time.monotonic()

    def __call__(self, text: str) -> None:
        line = f"{self.name} {time.monotonic() - self.began:6.1f}s {text}"
        print(line, flush=True)
        self.file.write(line + "\n")
        self.file.flush()


def save_state(folder: Path, name: str, weights: dict[str, torch.Tensor]) -> None:
    """Writes `name-0.safetensors`, `name-1.safetensors`, ... below 16 MB each; float16 keeps more than bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{name}-*.safetensors"):
        old.unlink()
    shards, size = [{}], 0
    for key, value in weights.items():
        kept = torch.float16 if value.numel() > 32 else torch.float32  # latent statistics and counts stay exact
        value = value.detach().to("cpu", kept).contiguous()
        if size + value.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][key] = value
        size += value.nbytes
    for number, shard in enumerate(shards):
        save_file(shard, folder / f"{name}-{number}.safetensors")


def load_state(folder: Path, name: str) -> dict[str, torch.Tensor] | None:
    """Float32 weights, or None if the stage has never run."""
    files = sorted(folder.glob(f"{name}-*.safetensors"))
    if not files:
        return None
    return {key: value.float() for file in files for key, value in load_file(file).items()}


def fresh_scenes(state: dict[str, torch.Tensor] | None) -> tuple[torch.Generator, torch.Tensor]:
    """A generator that no earlier run of this stage had, and the count of runs to be stored; takes `runs` out."""
    runs = (state.pop("runs") if state else torch.zeros(1)) + 1
    torch.manual_seed(CONFIG["seed"] + int(runs))
    return torch.Generator().manual_seed(CONFIG["seed"] * 1000 + int(runs)), runs


class Stream(torch.utils.data.IterableDataset):
    """What `make` gives from its own generator in every worker, without end."""

    def __init__(self, make, generator: torch.Generator):
        self.make, self.seed = make, generator.initial_seed()

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * (1 + worker.id if worker else 0))
        while True:
            yield self.make(generator)


def stream(make, generator: torch.Generator, workers: int):
    """Scenes and words are made by processes beside the one that trains: in one process they take most of a step."""
    dataset = Stream(make, generator)
    if workers == 0:
        return iter(dataset)
    torch.multiprocessing.set_sharing_strategy("file_system")
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers, prefetch_factor=4, collate_fn=same)
    return iter(loader)


def same(value):
    return value


def device_of(name: str | None) -> torch.device:
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def autocast(device: torch.device):
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
