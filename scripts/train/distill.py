"""Distills a small checkpoint into a LoRA for few steps without guidance. Needs only torch and safetensors.

    python distill.py layered|edit --models ../../models --data DATA --out OUT --seconds 500 [--steps 4] [--rank 32]
    python distill.py layered --models ../../models --data DATA --out OUT --smoke      a few steps on a CPU

The data is from distill_data.py. The student follows its own Euler steps at the noise levels of `--preset lightning`;
after each, the teacher shows where its flow, with guidance, leads from the same point. So the student learns to correct
its own errors, too. The LoRA has diffusers' names, so diffusers and ComfyUI load it.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

SIDE = 8  # patches along a side of a 128x128 picture
AXES = (12, 10, 10)
HEADS = 7
DIM = HEADS * sum(AXES)
SHIFT = 3.0  # exp(base_shift) of the preset
GUIDANCE = {"layered": 1.0, "edit": 4.0}
LAYERS = (2, 3, 3, 4, 4, 4, 4, 5, 5, 5)
BATCH = {"layered": 64, "edit": 128}
# Teacher steps (midpoint rule) for a unit of the noise level, and at least one a student's step.
DENSITY = {"early": 8, "late": 12}
HELD = 64  # scenes that are only for measuring
LORA = ["attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj",
        "attn.to_add_out", "img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2", "img_mod.1",
        "txt_mod.1"]  # fmt: skip


def levels(steps: int) -> list[float]:
    """The preset's noise levels: evenly spaced from 1 to 1 / steps, shifted, then 0."""
    even = [1 - i / steps for i in range(steps)]
    return [SHIFT * s / (1 + (SHIFT - 1) * s) for s in even] + [0.0]


class Norm(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight).to(x.dtype)


class Mlp(nn.Module):
    """Named as in diffusers: net.0.proj, net.2."""

    def __init__(self):
        super().__init__()
        first = nn.Module()
        first.proj = nn.Linear(DIM, 4 * DIM)
        self.net = nn.ModuleList([first, nn.Identity(), nn.Linear(4 * DIM, DIM)])

    def forward(self, x):
        return self.net[2](F.gelu(self.net[0].proj(x), approximate="tanh"))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
            setattr(self, name, nn.Linear(DIM, DIM))
        self.to_out = nn.ModuleList([nn.Linear(DIM, DIM)])
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            setattr(self, name, Norm(sum(AXES)))

    def forward(self, img, txt, rope, mask):
        def heads(x, q, k, v, norm_q, norm_k, rope):
            q, k, v = (to(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for to in (q, k, v))
            return rotate(norm_q(q), rope), rotate(norm_k(k), rope), v

        a = heads(txt, self.add_q_proj, self.add_k_proj, self.add_v_proj, self.norm_added_q, self.norm_added_k, rope[0])
        b = heads(img, self.to_q, self.to_k, self.to_v, self.norm_q, self.norm_k, rope[1])
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(a, b))
        out = F.scaled_dot_product_attention(q, k, v.to(q.dtype), attn_mask=mask).transpose(1, 2).flatten(2)
        split = txt.shape[1]
        return self.to_out[0](out[:, split:]), self.to_add_out(out[:, :split])


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = Attention()
        for name in ("img", "txt"):
            setattr(self, f"{name}_mod", nn.ModuleList([nn.Identity(), nn.Linear(DIM, 6 * DIM)]))
            setattr(self, f"{name}_mlp", Mlp())

    def forward(self, img, txt, now, rope, mask):
        i = self.img_mod[1](now)[:, None].chunk(6, dim=-1)
        t = self.txt_mod[1](now)[:, None].chunk(6, dim=-1)
        made = self.attn(modulated(img, i[0], i[1]), modulated(txt, t[0], t[1]), rope, mask)
        img, txt = img + i[2] * made[0], txt + t[2] * made[1]
        img = img + i[5] * self.img_mlp(modulated(img, i[3], i[4]))
        return img, txt + t[5] * self.txt_mlp(modulated(txt, t[3], t[4]))


class Transformer(nn.Module):
    """QwenImageTransformer2DModel with diffusers' names, for batches of pictures of one size."""

    def __init__(self, weights: dict[str, torch.Tensor]):
        super().__init__()
        count = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("transformer_blocks."))
        joint = weights["txt_in.weight"].shape[1]
        self.transformer_blocks = nn.ModuleList([Block() for _ in range(count)])
        self.txt_norm, self.txt_in, self.img_in = Norm(joint), nn.Linear(joint, DIM), nn.Linear(64, DIM)
        self.time_text_embed = nn.Module()
        self.time_text_embed.timestep_embedder = nn.Module()
        self.time_text_embed.timestep_embedder.linear_1 = nn.Linear(256, DIM)
        self.time_text_embed.timestep_embedder.linear_2 = nn.Linear(DIM, DIM)
        self.layered = "time_text_embed.addition_t_embedding.weight" in weights
        if self.layered:
            self.time_text_embed.addition_t_embedding = nn.Embedding(2, DIM)
        self.norm_out = nn.Module()
        self.norm_out.linear = nn.Linear(DIM, 2 * DIM)
        self.proj_out = nn.Linear(DIM, 64)
        self.load_state_dict(weights)
        self.tables = {}

    def rope(self, frames: int, words: int, device):
        """Cosines and sines of the words' and of the patches' positions; `frames` without the condition."""
        key = frames, words, device
        if key not in self.tables:
            depth = [*range(frames), -1 if self.layered else frames]
            around = range(-SIDE + SIDE // 2, SIDE // 2)
            patches = [(f, y, x) for f in depth for y in around for x in around]
            start = max(frames if self.layered else 0, SIDE // 2)
            self.tables[key] = table([(start + w,) * 3 for w in range(words)], device), table(patches, device)
        return self.tables[key]

    def forward(self, x, condition, prompt, mask, sigma: float):
        """Noisy tokens (b, frames * 64, 64), the condition's (b, 64, 64), states (b, p, joint), their mask (b, p)."""
        length, device = x.shape[1], x.device
        rope = self.rope(length // SIDE**2, prompt.shape[1], device)
        tokens = torch.cat([x, condition], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(x), tokens.shape[1])], dim=1)[:, None, None]
        half = torch.arange(128, device=device)
        angles = 1000 * sigma * torch.exp(-math.log(10_000) * half / 128)
        embed = self.time_text_embed
        now = embed.timestep_embedder.linear_1(torch.cat([angles.cos(), angles.sin()])[None])
        now = embed.timestep_embedder.linear_2(F.silu(now))
        if self.layered:
            now = now + embed.addition_t_embedding.weight[:1]
        now = F.silu(now)
        img, txt = self.img_in(tokens), self.txt_in(self.txt_norm(prompt))
        for block in self.transformer_blocks:
            img, txt = block(img, txt, now, rope, mask)
        scale, shift = self.norm_out.linear(now)[:, None].chunk(2, dim=-1)
        return self.proj_out(modulated(img[:, :length], shift, scale)).float()


def modulated(x, shift, scale):
    return F.layer_norm(x, (DIM,), eps=1e-6) * (1 + scale) + shift


def table(positions, device):
    frequencies = [10_000.0 ** (-2 * pair / dim) for dim in AXES for pair in range(dim // 2)]
    axes = torch.tensor([axis for axis, dim in enumerate(AXES) for _ in range(dim // 2)])
    angles = torch.tensor(positions, dtype=torch.float32)[:, axes] * torch.tensor(frequencies)
    return angles.cos().to(device), angles.sin().to(device)


def rotate(x, rope):
    """Neighbours in the last axis are one complex number."""
    cos, sin = rope
    real, imaginary = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1).flatten(-2).to(x.dtype)


class Adapted(nn.Module):
    """A frozen linear layer and its LoRA, alpha = rank."""

    def __init__(self, base: nn.Linear, rank: int):
        super().__init__()
        self.base = base
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features) * base.in_features**-0.5)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + F.linear(F.linear(x, self.lora_A), self.lora_B)


def adapt(model: Transformer, rank: int) -> dict[str, Adapted]:
    adapted = {}
    for index, block in enumerate(model.transformer_blocks):
        for name in LORA:
            path, last = name.rsplit(".", 1)
            parent = block.get_submodule(path)
            layer = Adapted(getattr(parent, last), rank)
            setattr(parent, last, layer)
            adapted[f"transformer_blocks.{index}.{name}"] = layer
    return adapted


class Data:
    """Conditions and prompts on the device."""

    def __init__(self, folder: Path, kind: str, device):
        rows = []
        for path in sorted(folder.glob(f"{kind}-*.safetensors"), key=lambda path: int(path.stem.split("-")[1])):
            stored = load_file(path)
            count = 1 + max(int(name.split(".")[0]) for name in stored)
            rows += [{name: stored.get(f"{row}.{name}") for name in ("condition", "prompt", "negative")} for row in range(count)]
        if not rows:
            raise SystemExit(f"no {kind}-*.safetensors in {folder}; distill_data.py makes them")
        negatives = [row["negative"] if row["negative"] is not None else rows[0]["negative"] for row in rows]
        room = max(len(states) for states in [row["prompt"] for row in rows] + negatives)
        self.condition = torch.stack([row["condition"] for row in rows]).to(device)
        self.prompt = [self.padded([row["prompt"] for row in rows], room, device), self.padded(negatives, room, device)]
        self.count = len(rows)

    @staticmethod
    def padded(states, room: int, device):
        mask = torch.tensor([[index < len(one) for index in range(room)] for one in states])
        return torch.stack([F.pad(one, (0, 0, 0, room - len(one))) for one in states]).to(device), mask.to(device)

    def batch(self, rows):
        return self.condition[rows].float(), *((states[rows].float(), mask[rows]) for states, mask in self.prompt)


def velocity(model, x, given, sigma: float, guidance: float):
    """As the pipelines: the guided prediction is rescaled to the norm of the prompt's own, token by token."""
    condition, positive, negative = given
    prompted = model(x, condition, *positive, sigma)
    if guidance <= 1:
        return prompted
    other = model(x, condition, *negative, sigma)
    mixed = other + guidance * (prompted - other)
    return mixed * prompted.norm(dim=-1, keepdim=True) / mixed.norm(dim=-1, keepdim=True)


@torch.no_grad()
def flow(teacher, x, given, now: float, then: float, guidance: float):
    """Where the teacher's flow leads from one noise level to a lower one: the midpoint rule."""
    density = DENSITY["early" if then >= 0.5 else "late"]
    count = max(1, round((now - then) * density))
    for step in range(count):
        a, b = now + (then - now) * step / count, now + (then - now) * (step + 1) / count
        middle = x + (b - a) / 2 * velocity(teacher, x, given, a, guidance)
        x = x + (b - a) * velocity(teacher, middle, given, (a + b) / 2, guidance)
    return x


@torch.no_grad()
def euler(model, x, given, sigmas, guidance: float):
    for now, then in zip(sigmas, sigmas[1:]):
        x = x + (then - now) * velocity(model, x, given, now, guidance)
    return x


def published(steps: int, shift: float) -> list[float]:
    """The teacher's own schedule: the checkpoint's shift, then stretched to end at 0.02."""
    even = [1 - i / steps for i in range(steps)]
    shifted = [math.exp(shift) * s / (1 + (math.exp(shift) - 1) * s) for s in even]
    scale = (1 - shifted[-1]) / (1 - 0.02)
    return [1 - (1 - s) / scale for s in shifted] + [0.0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["layered", "edit"])
    parser.add_argument("--models", type=Path, required=True, help="the folder of layered-nano and edit-nano")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=500)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--guidance", type=float, help="of the teacher; by default 1 for layers, 4 for edits")
    parser.add_argument("--smoke", action="store_true", help="three tiny steps")
    chosen = parser.parse_args()
    kind, device = chosen.kind, torch.device("cuda" if torch.cuda.is_available() else "cpu")
    guidance = chosen.guidance or GUIDANCE[kind]
    torch.manual_seed(20_261)
    torch.backends.cuda.matmul.allow_tf32 = True
    data = Data(chosen.data, kind, device)
    weights = {name: value.float() for name, value in load_file(
        chosen.models / f"{kind}-nano" / "transformer" / "diffusion_pytorch_model.safetensors").items()}  # fmt: skip
    teacher, student = (Transformer(weights).to(device).requires_grad_(False) for _ in range(2))
    adapted = adapt(student, chosen.rank)
    student.to(device)
    trained = [p for layer in adapted.values() for p in (layer.lora_A, layer.lora_B)]
    optimizer = torch.optim.AdamW(trained, lr=chosen.rate, betas=(0.9, 0.99), weight_decay=0.0)
    average = [p.detach().clone() for p in trained]
    if device.type == "cuda":
        for block in [*teacher.transformer_blocks, *student.transformer_blocks]:
            block.compile(dynamic=False)
    sigmas, batch = levels(chosen.steps), 2 if chosen.smoke else BATCH[kind]
    held = min(HELD, data.count // 2)

    def autocast():
        return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

    def use(values):
        for parameter, value in zip(trained, values):
            parameter.data.copy_(value)

    def save():
        chosen.out.mkdir(parents=True, exist_ok=True)
        path = chosen.out / f"{kind}-nano-lightning-{chosen.steps}steps.safetensors"
        tensors = {}
        for number, name in enumerate(adapted):
            for part, value in zip("AB", average[2 * number : 2 * number + 2]):
                tensors[f"transformer.{name}.lora_{part}.weight"] = value.to("cpu", torch.bfloat16).contiguous()
        save_file(tensors, path, {"format": "pt"})
        return path

    def measure() -> str:
        """Squared distance of the held scenes' latents to the teacher's with 50 steps: the student's, and the
        teacher's own with as few steps."""
        kept = [p.detach().clone() for p in trained]
        use(average)
        generator, count = torch.Generator().manual_seed(7), 2 if chosen.smoke else held
        x = torch.randn(count, (5 if kind == "layered" else 1) * SIDE**2, 64, generator=generator).to(device)
        given = data.batch(torch.arange(count, device=device))
        many = published(4 if chosen.smoke else 50, 0.5 if kind == "layered" else 0.5 + (64 - 256) * 0.4 / (8192 - 256))
        with autocast():
            goal = euler(teacher, x, given, many, guidance)
            student_error = F.mse_loss(euler(student, x, given, sigmas, 1.0), goal)
            teacher_error = F.mse_loss(euler(teacher, x, given, sigmas, guidance), goal)
        use(kept)
        return f"held scenes: student {student_error:.5f}, teacher with {chosen.steps} steps {teacher_error:.5f}"

    print(f"{kind}: {data.count} scenes, {sum(p.numel() for p in trained)} weights, levels {sigmas}, {device}", flush=True)
    print(f"before: {measure()}", flush=True)
    began, step, running, reported = time.monotonic(), 0, None, time.monotonic()
    while True:
        done = step / 3 if chosen.smoke else (time.monotonic() - began) / chosen.seconds
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = chosen.rate * min(1, (step + 1) / 50) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * done)))
        rows = held + torch.randint(data.count - held, (batch,), device=device)
        given = data.batch(rows)
        frames = 1 + LAYERS[int(torch.randint(len(LAYERS), ()))] if kind == "layered" else 1
        x = torch.randn(batch, frames * SIDE**2, 64, device=device)
        total = 0.0
        for now, then in zip(sigmas, sigmas[1:]):
            with autocast():
                goal = flow(teacher, x, given, now, then, guidance)
                predicted = student(x, given[0], *given[1], now)
                loss = F.mse_loss(predicted, (goal - x) / (then - now))
            loss.backward()
            total += loss.detach()
            x = x + (then - now) * predicted.detach()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        torch._foreach_lerp_(average, [p.detach() for p in trained], 1 - min(0.995, step / (10 + step)))
        running = total if running is None else torch.lerp(running, total, 0.03)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if chosen.smoke or time.monotonic() - reported > 30:
            reported = time.monotonic()
            print(f"{kind} of {chosen.steps} {reported - began:6.1f}s step {step} loss {running.item():.5f} {measure()}", flush=True)
            save()
    print(f"{kind} of {chosen.steps} done: {step} updates, {measure()}; {save()}", flush=True)


if __name__ == "__main__":
    main()
