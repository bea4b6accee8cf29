"""Stage `vae-layered` (RGBA) and `vae-edit` (RGB): sharp pictures through 16 channels at an eighth of the size."""

from pathlib import Path

import torch

import draw
import edits
import folded
import world
from common import CONFIG, Clock, Log, Trainer, autocast, fresh_scenes, load_state, save_state


def frames(kind: str, scenes: world.Scenes, generator: torch.Generator) -> torch.Tensor:
    """What the pipelines hand to this VAE: composites, backgrounds and objects; in -1..1, channels last."""
    count = len(scenes)
    layers = draw.draw(scenes)
    whole = draw.composite(layers)
    index = (torch.rand(count, world.OBJECTS, generator=generator).to(whole.device) * scenes.visible).argmax(dim=1)
    row = torch.arange(count, device=whole.device)
    objects, others = layers[row, index + 1], layers[row, 1 + (index + 1) % world.OBJECTS]
    half = count // 2
    if kind == "layered":
        opaque = torch.cat([whole, torch.ones_like(whole[:, :1])], dim=1)
        pictures = [opaque[: half * 3 // 2], layers[half:, 0], objects, others[:half]]
    else:
        pictures = [whole, layers[half:, 0, :3], objects[:half, :3]]
    return (torch.cat(pictures) * 2 - 1).contiguous(memory_format=torch.channels_last)


def loss_of(pictures: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
    """Squared error; a colour counts as far as it is seen, and a little where nothing is."""
    error = (decoded.float() - pictures) ** 2
    if pictures.shape[1] == 3:
        return error.mean()
    weight = (pictures[:, 3:] + 1) / 2 * 0.95 + 0.05
    return (error[:, :3] * weight).mean() + 0.5 * error[:, 3:].mean()


def psnr(kind: str, vae, device, count: int = 64) -> tuple[float, float]:
    """dB over 0..1 of composites, and of objects over mid-gray (RGBA) or on black (RGB), on scenes never trained on."""
    scenes = world.sample(count, torch.Generator().manual_seed(999_983)).to(device)
    layers = draw.draw(scenes)
    whole, object_ = draw.composite(layers), layers[:, 1]
    if kind == "layered":
        pictures = torch.cat([torch.cat([whole, torch.ones_like(whole[:, :1])], dim=1), object_])
    else:
        pictures = torch.cat([whole, object_[:, :3]])
    with torch.no_grad():
        back = folded.decode(vae, folded.encode(vae, pictures * 2 - 1)).float().clamp(-1, 1) / 2 + 0.5

    def flat(x):
        return x[:, :3] * x[:, 3:] + 0.5 * (1 - x[:, 3:]) if kind == "layered" else x

    error = [((flat(a) - flat(b)) ** 2).mean(dim=(1, 2, 3)) for a, b in zip(pictures.split(count), back.split(count))]
    return tuple(float((-10 * e.clamp(min=1e-9).log10()).mean()) for e in error)


def statistics(kind: str, vae, device) -> tuple[list[float], list[float]]:
    """Mean and deviation of each latent channel over what the pipelines encode."""
    with torch.no_grad():
        scenes = world.sample(256, torch.Generator().manual_seed(31)).to(device)
        if kind == "layered":
            layers = draw.draw(scenes)
            whole = draw.composite(layers)
            whole = torch.cat([whole, torch.ones_like(whole[:, :1])], dim=1)
            pictures = torch.cat([layers, whole.unsqueeze(1)], dim=1).flatten(0, 1)
        else:
            pictures = edits.show(scenes, torch.arange(len(scenes), device=device) % 3 - 1)
        latents = torch.cat([folded.encode(vae, part * 2 - 1) for part in pictures.split(64)]).float()
    return [latents.mean(dim=(0, 2, 3)).tolist(), latents.std(dim=(0, 2, 3)).tolist()]


def load(kind: str, state: Path, device) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """The folded VAE, frozen, with the mean and deviation of its latents as (1, 16, 1, 1)."""
    weights = load_state(state, f"vae-{kind}")
    if weights is None:
        raise SystemExit(f"{state}: vae-{kind} is not trained yet")
    vae = folded.build(CONFIG["vae"][kind])
    mean, std = weights.pop("latents_mean"), weights.pop("latents_std")
    weights.pop("runs")
    vae.load_state_dict(weights)
    vae.to(device).eval().requires_grad_(False)
    return vae, mean.view(1, -1, 1, 1).to(device), std.view(1, -1, 1, 1).to(device)


def train(kind: str, state: Path, seconds: float, device, smoke: bool, only_decoder: bool = False) -> None:
    """`only_decoder` leaves the latents as they are, for transformers that are trained on them."""
    settings, log = CONFIG["vae"], Log(state, f"vae-{kind}")
    torch.manual_seed(CONFIG["seed"])
    vae = folded.build(settings[kind]).to(device)
    before = load_state(state, f"vae-{kind}")
    generator, runs = fresh_scenes(before)
    kept = {}
    if before:
        kept = {name: before.pop(name) for name in ("latents_mean", "latents_std")}
        vae.load_state_dict(before)
        log(f"resumed at {psnr(kind, vae, device)} dB")
    elif only_decoder:
        raise SystemExit("only the decoder of a trained VAE can be trained alone")
    if only_decoder:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    clock = Clock(seconds, settings["rate"] * (0.4 if before else 1), 20 if smoke else None)
    trainer = Trainer(vae, clock)

    def forward(pictures, noise):
        latents = folded.encode(vae, pictures)
        decoded = folded.decode(vae, latents + noise)
        return loss_of(pictures, decoded) + settings["pull"] * (latents.float() ** 2).mean()

    if device.type == "cuda":
        forward = torch.compile(forward, dynamic=False)
    count = 4 if smoke else settings["scenes"]
    while not clock.over(trainer.step):
        with torch.no_grad():
            scenes = world.sample(count, generator).to(device)
            pictures = frames(kind, scenes, generator)
            shape = (len(pictures), 16, pictures.shape[2] // 8, pictures.shape[3] // 8)
            # Between none and twice the usual noise, so that sharp latents stay sharp.
            noise = torch.randn(shape, device=device) * torch.rand(shape[0], 1, 1, 1, device=device) * 2 * settings["noise"]
        with autocast(device):
            loss = forward(pictures, noise)
        trainer.update(loss)
        if trainer.step % 250 == 0 or smoke:
            log(f"step {trainer.step} loss {loss.item():.5f}")
        if trainer.step % 1000 == 0:
            log(f"step {trainer.step} averaged {psnr(kind, trainer.average, device)} dB")
    trained = trainer.average.eval()
    log(f"done: {trainer.step} steps in {seconds:.0f} s, {psnr(kind, trained, device)} dB (composite, object)")
    if not only_decoder:
        mean, std = statistics(kind, trained, device)
        kept = {"latents_mean": torch.tensor(mean), "latents_std": torch.tensor(std)}
    save_state(state, f"vae-{kind}", {**trained.state_dict(), **kept, "runs": runs})
