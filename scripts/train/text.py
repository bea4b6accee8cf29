"""Stage `text`: a small Qwen2.5-VL that captions scenes, reads instructions and reads captions.

It learns to answer: a picture and the caption's question with the caption; a picture and an instruction, in the edit
pipeline's template, with the caption of the result; a caption in the layered pipeline's template with itself. So the
states that the pipelines hand to the transformers hold what those need.

`see` and `read` are the model's own forward for whole batches of equal length: transformers runs the vision tower's
attention picture by picture.
"""

from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

import draw
import edits
import words
import world
from common import CONFIG, Clock, Log, Trainer, autocast, fresh_scenes, load_state, save_state, stream

PATCH, MERGE, GRID = 14, 2, 10
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def build() -> Qwen2_5_VLForConditionalGeneration:
    size, tokens = CONFIG["text"], words.ADDED
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": words.ROWS, "hidden_size": size["hidden"], "intermediate_size": size["inner"],
            "num_hidden_layers": size["layers"], "num_attention_heads": size["heads"],
            "num_key_value_heads": size["key_heads"], "rms_norm_eps": 1e-6, "max_position_embeddings": 4096,
            "max_window_layers": size["layers"], "sliding_window": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": size["mrope"]},
            "bos_token_id": tokens["<|endoftext|>"], "eos_token_id": tokens["<|im_end|>"],
        },
        vision_config={
            "depth": size["vision_depth"], "hidden_size": size["vision_hidden"], "num_heads": size["vision_heads"],
            "intermediate_size": size["vision_inner"], "out_hidden_size": size["hidden"], "window_size": 112,
            # Scenes are small: every block sees the whole picture.
            "fullatt_block_indexes": list(range(size["vision_depth"])), "tokens_per_second": 2,
        },
        image_token_id=tokens["<|image_pad|>"], video_token_id=tokens["<|video_pad|>"],
        vision_start_token_id=tokens["<|vision_start|>"], vision_end_token_id=tokens["<|vision_end|>"],
    )  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=tokens["<|endoftext|>"], pad_token_id=tokens["<|endoftext|>"],
        eos_token_id=[tokens["<|im_end|>"], tokens["<|endoftext|>"]], do_sample=True, repetition_penalty=1.05,
        temperature=1e-6, top_k=1, top_p=0.001,
    )  # fmt: skip
    return model


def patches(pictures: torch.Tensor) -> torch.Tensor:
    """RGB (b, 3, 128, 128) in 0..1 -> (b, 100, 1176) as the picture processor gives them: bicubic to 140x140."""
    side = PATCH * GRID
    resized = F.interpolate(pictures, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(values, device=pictures.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    half = GRID // MERGE
    x = ((resized - mean) / std).view(-1, 3, half, MERGE, PATCH, half, MERGE, PATCH)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1)
    return x.reshape(len(pictures), GRID * GRID, -1)


def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rope of the halves' form: the second half of the last axis is the imaginary part."""
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


def see(tower, pixels: torch.Tensor) -> torch.Tensor:
    """Patches (b, 100, 1176) -> (b, 25, hidden). Every block attends to the whole picture."""
    batch, count, _ = pixels.shape
    line = torch.arange(GRID, device=pixels.device)
    where = torch.stack([line[:, None].expand(GRID, GRID), line[None].expand(GRID, GRID)])
    half = GRID // MERGE
    where = where.view(2, half, MERGE, half, MERGE).permute(0, 1, 3, 2, 4).reshape(2, count)
    frequencies = (where[..., None] * tower.rotary_pos_emb.inv_freq.float()).permute(1, 0, 2).flatten(1)
    cos, sin = (torch.cat([f, f], dim=-1) for f in (frequencies.cos(), frequencies.sin()))
    weight = tower.patch_embed.proj.weight
    x = F.linear(pixels, weight.flatten(1))
    for block in tower.blocks:
        heads = block.attn.num_heads
        q, k, v = block.attn.qkv(block.norm1(x)).view(batch, count, 3, heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(turn(q, cos, sin), turn(k, cos, sin), v)
        x = x + block.attn.proj(out.transpose(1, 2).reshape(batch, count, -1))
        x = x + block.mlp(block.norm2(x))
    merger = tower.merger
    return merger.mlp(merger.ln_q(x).reshape(batch, count // MERGE**2, -1))


def read(model, ids: torch.Tensor, positions: torch.Tensor, pictures: torch.Tensor | None = None) -> torch.Tensor:
    """Ids (b, t), positions (3, t), picture tokens (b, 25, hidden) -> states after the final norm (b, t, hidden).

    Attention is causal, so padding at the end changes nothing before it.
    """
    text = model.model.language_model
    batch, length = ids.shape
    x = text.embed_tokens(ids)
    if pictures is not None:
        x = x.masked_scatter((ids == words.ADDED["<|image_pad|>"])[..., None], pictures.to(x.dtype))
    rope = text.rotary_emb
    frequencies = positions[..., None].float() * rope.inv_freq.float()
    parts = frequencies.split(rope.mrope_section, dim=-1)
    frequencies = torch.cat([part[index % 3] for index, part in enumerate(parts)], dim=-1)
    cos, sin = (torch.cat([f, f], dim=-1) for f in (frequencies.cos(), frequencies.sin()))
    for layer in text.layers:
        attention = layer.self_attn
        normed = layer.input_layernorm(x)
        q, k, v = (
            project(normed).view(batch, length, -1, attention.head_dim).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        out = F.scaled_dot_product_attention(turn(q, cos, sin), turn(k, cos, sin), v, is_causal=True, enable_gqa=True)
        x = x + attention.o_proj(out.transpose(1, 2).reshape(batch, length, -1))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return text.norm(x)


def sequence(length: int, device) -> torch.Tensor:
    """Positions 0, 1, 2, ... on all three axes, as prompts are counted."""
    return torch.arange(length, device=device).expand(3, -1)


class Tutor(nn.Module):
    """The three lessons as one loss."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, lessons: list[tuple]) -> torch.Tensor:
        """Each lesson: ids (b, t), labels (b, t) with -100 where nothing is asked, positions, pictures or None."""
        losses = []
        for ids, labels, positions, pictures in lessons:
            seen = None if pictures is None else see(self.model.model.visual, patches(pictures))
            states = read(self.model, ids, positions, seen)
            logits = self.model.lm_head(states[:, :-1]).float()
            losses.append(F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100))
        return torch.stack(losses)


def lesson(prompts: list[list[int]], answers: list[str], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    answers = [words.answer(text) for text in answers]
    ids, _ = words.batch([prompt + answer for prompt, answer in zip(prompts, answers)], length)
    labels = torch.full_like(ids, -100)
    for row, (prompt, answer) in enumerate(zip(prompts, answers)):
        labels[row, len(prompt) : len(prompt) + len(answer)] = ids[row, len(prompt) : len(prompt) + len(answer)]
    return ids, labels


def lengths() -> dict[str, int]:
    """Room for each lesson, in tokens."""
    room = {kind: CONFIG["transformer"][kind]["prompt_tokens"] + words.ANSWER_TOKENS for kind in ("layered", "edit")}
    return {
        "caption": len(words.question()[0]) + words.ANSWER_TOKENS,
        "edit": words.prefix(words.EDIT.prompt_template_encode) + room["edit"],
        "text": words.prefix(words.LAYERED.prompt_template_encode) + room["layered"],
    }


def plan(counts: tuple[int, int, int], generator: torch.Generator) -> list[tuple]:
    """Three lessons without their pictures: ids, labels, positions and how to draw what is shown."""
    captions, instructions, texts = counts
    room = lengths()
    scenes = world.sample(captions, generator)
    question, positions = words.question()
    told = [world.caption(scenes.light(), index) for index in range(captions)]
    ids, labels = lesson([question] * captions, told, room["caption"])
    whole = torch.full((captions,), -1)
    result = [(ids, labels, positions, (scenes, whole))]

    made = edits.make(world.sample(instructions, generator), generator)
    prompts = [words.edit_prompt(text) for text in made.words]
    after = made.after.light()
    told = [describe(after, int(made.only[index]), index) for index in range(instructions)]
    ids, labels = lesson(prompts, told, room["edit"])
    result.append((ids, labels, sequence(room["edit"], "cpu").contiguous(), (made.before, made.only)))

    scenes = world.sample(texts, generator).light()
    loose = [world.loose_caption(scenes, index, generator) for index in range(texts)]
    ids, labels = lesson([words.layered_prompt(text) for text in loose], loose, room["text"])
    return result + [(ids, labels, sequence(room["text"], "cpu").contiguous(), None)]


def lessons(planned: list[tuple], device) -> list[tuple]:
    """The same on the device, with pictures."""
    result = []
    for ids, labels, positions, shown in planned:
        pictures = None if shown is None else edits.show(shown[0].to(device), shown[1].to(device))
        result.append((*(part.to(device, non_blocking=True) for part in (ids, labels, positions)), pictures))
    return result


def describe(after: world.Scenes, shown: int, index: int) -> str:
    """The result of an edit in words: of what is shown, only that."""
    if shown < 0:
        return world.caption(after, index)
    if shown == 0:
        return f"{world.background(after, index).capitalize()}."
    name = world.thing(after, index, shown - 1)
    return f"{world.article(name).capitalize()} {name}."


@torch.no_grad()
def captions(model, pictures: torch.Tensor) -> list[str]:
    """Greedy captions of RGB pictures (b, 3, 128, 128), for a quick look; evaluate.py asks as the pipeline does."""
    question, positions = words.question()
    ids = torch.tensor(question, device=pictures.device).expand(len(pictures), -1)
    seen = see(model.model.visual, patches(pictures))
    for _ in range(words.ANSWER_TOKENS):
        states = read(model, ids, positions[:, : ids.shape[1]].to(ids.device), seen)
        ids = torch.cat([ids, model.lm_head(states[:, -1:]).argmax(dim=-1)], dim=1)
    rows = ids[:, len(question) :].tolist()
    end = words.ADDED["<|im_end|>"]
    return [words.fast().decode(row[: row.index(end)] if end in row else row) for row in rows]


def accuracy(model, device, count: int = 64) -> tuple[float, str]:
    """Share of unseen scenes whose caption is right word by word, and one caption."""
    scenes = world.sample(count, torch.Generator().manual_seed(999_983))
    said = captions(model, draw.composite(draw.draw(scenes.to(device))))
    right = [text == world.caption(scenes, index) for index, text in enumerate(said)]
    return sum(right) / count, said[0]


def train(state: Path, seconds: float, device, smoke: bool, hold: bool = False) -> None:
    settings, log = CONFIG["text"], Log(state, "text")
    torch.manual_seed(CONFIG["seed"])
    model = build()
    before = load_state(state, "text")
    generator, runs = fresh_scenes(before)
    if before:
        model.load_state_dict(before)
    tutor = Tutor(model).to(device)
    if before:
        log(f"resumed at {accuracy(model, device)}")
    clock = Clock(seconds, settings["rate"] * (0.8 if before else 1), 20 if smoke else None, hold)
    trainer = Trainer(tutor, clock)
    counts = (2, 2, 2) if smoke else (settings["captions"], settings["edits"], settings["texts"])
    planned = stream(partial(plan, counts), generator, 0 if smoke else CONFIG["workers"])
    while not clock.over(trainer.step):
        with torch.no_grad():
            told = lessons(next(planned), device)
        with autocast(device):
            losses = tutor(told)
        trainer.update(losses.sum())
        if trainer.step % 250 == 0 or smoke:
            log(f"step {trainer.step} loss caption, edit, text: {[round(x, 4) for x in losses.tolist()]}")
        if trainer.step % 1000 == 0:
            log(f"step {trainer.step} captions right {accuracy(trainer.average.model, device)}")
    log(f"done: {trainer.step} steps in {seconds:.0f} s, captions right {accuracy(trainer.average.model, device)}")
    save_state(state, "text", {**trainer.average.model.state_dict(), "runs": runs})


def load(state: Path, device) -> Qwen2_5_VLForConditionalGeneration:
    weights = load_state(state, "text")
    if weights is None:
        raise SystemExit(f"{state}: the text encoder is not trained yet")
    weights.pop("runs")
    model = build()
    model.load_state_dict(weights)
    return model.to(device).eval().requires_grad_(False)
