"""The tokenizer (Qwen's form, trained on the words of the world) and the token sequences that the pipelines build."""

import json
import re
from functools import cache
from pathlib import Path

import torch
from diffusers import QwenImageEditPlusPipeline, QwenImageLayeredPipeline
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

import edits
import world
from common import CONFIG

# Qwen2.5's added tokens in their order; those of the second group are not special: decoding keeps them.
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
PLAIN_ADDED = [
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>",
]  # fmt: skip
ADDED = {token: CONFIG["vocabulary"] + index for index, token in enumerate(SPECIAL + PLAIN_ADDED)}
# Rows of the embedding: a round number, with some to spare as in the real one.
ROWS = -(-(CONFIG["vocabulary"] + len(ADDED)) // 32) * 32

PARTS = ["scheduler", "vae", "text_encoder", "tokenizer", "processor", "transformer"]
LAYERED = QwenImageLayeredPipeline(**dict.fromkeys(PARTS))
EDIT = QwenImageEditPlusPipeline(**dict.fromkeys(PARTS))
CAPTION = LAYERED.image_caption_prompt_en
PICTURE = "Picture 1: <|vision_start|><|image_pad|><|vision_end|>"
# A 128x128 picture is resized to 140x140: 10x10 patches of 14, merged two by two.
SIDE = 5
PATCH_TOKENS = SIDE * SIDE
ANSWER_TOKENS = 24


def corpus() -> list[str]:
    """The templates often enough to become whole words, and every phrase of the world."""
    generator = torch.Generator().manual_seed(CONFIG["seed"])
    scenes = world.sample(3000, generator)
    captions = [world.caption(scenes, index) for index in range(len(scenes))]
    captions += [world.loose_caption(scenes, index, generator) for index in range(len(scenes))]
    templates = [CAPTION, LAYERED.prompt_template_encode, EDIT.prompt_template_encode, PICTURE]
    plain = [re.sub(r"<\|[a-z_]+\|>", "\n", text) for text in templates]
    return plain * 40 + captions + edits.phrases() * 2


@cache
def fast() -> Tokenizer:
    """The tokenizer. Training is deterministic and takes a second, so it is not stored between stages."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=CONFIG["vocabulary"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    if tokenizer.get_vocab_size() != CONFIG["vocabulary"]:
        raise SystemExit(f"the corpus gives {tokenizer.get_vocab_size()} tokens: set `vocabulary` to at most that")
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in PLAIN_ADDED])
    found = {token: tokenizer.token_to_id(token) for token in ADDED}
    if found != ADDED:
        raise SystemExit(f"added tokens got the ids {found}")
    return tokenizer


def slow_files(folder: Path) -> Qwen2Tokenizer:
    """Writes the tokenizer as transformers does, by way of `vocab.json` and `merges.txt`, and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    model = json.loads(fast().to_str())["model"]
    ordered = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
    (folder / "vocab.json").write_text(json.dumps(ordered, ensure_ascii=False) + "\n")
    merges = "".join(" ".join(pair) + "\n" for pair in model["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges)
    (folder / "added_tokens.json").write_text(json.dumps(ADDED, indent=2) + "\n")
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "add_bos_token": False, "add_prefix_space": False,
        "added_tokens_decoder": {
            str(index): {"content": token, **flags, "special": token in SPECIAL} for token, index in ADDED.items()
        },
        "additional_special_tokens": SPECIAL[1:], "bos_token": None, "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 131072, "pad_token": "<|endoftext|>",
        "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    }, indent=2) + "\n")  # fmt: skip
    tokenizer = Qwen2Tokenizer.from_pretrained(folder)
    for text in (CAPTION, "Make the blue house darker."):
        if tokenizer(text).input_ids != ids(text, expand=False):
            raise SystemExit("the written tokenizer splits differently from the trained one")
    return tokenizer


def ids(text: str, expand: bool = True) -> list[int]:
    """Token ids; the place of a picture becomes as many tokens as the picture has patches."""
    tokens = fast().encode(text, add_special_tokens=False).ids
    pad = ADDED["<|image_pad|>"]
    return [token for one in tokens for token in ([one] * PATCH_TOKENS if expand and one == pad else [one])]


def prefix(template: str) -> int:
    """Tokens of a prompt template before the user's text."""
    return len(ids(template.split("{}")[0]))


def layered_prompt(text: str) -> list[int]:
    return ids(LAYERED.prompt_template_encode.format(text))


def edit_prompt(text: str) -> list[int]:
    return ids(EDIT.prompt_template_encode.format(PICTURE + text))


def answer(text: str) -> list[int]:
    return ids(text) + [ADDED["<|im_end|>"]]


def batch(sequences: list[list[int]], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (b, length), padded at the end, and the lengths (b,)."""
    longest = max(map(len, sequences))
    if longest > length:
        raise SystemExit(f"a sequence has {longest} tokens; there is room for {length}")
    out = torch.full((len(sequences), length), ADDED["<|endoftext|>"])
    for row, sequence in enumerate(sequences):
        out[row, : len(sequence)] = torch.tensor(sequence)
    return out, torch.tensor([len(sequence) for sequence in sequences])


@cache
def question() -> tuple[list[int], torch.Tensor]:
    """Ids of the caption's question and the multimodal positions (3, t) of it and of any answer behind it.

    A picture's tokens count rows and columns; what follows goes on after the largest.
    """
    tokens = ids(CAPTION)
    start = tokens.index(ADDED["<|image_pad|>"])
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    picture = torch.stack([torch.zeros(PATCH_TOKENS), rows.flatten(), columns.flatten()]).long() + start
    after = torch.arange(len(tokens) - start - PATCH_TOKENS + ANSWER_TOKENS) + start + SIDE
    before = torch.arange(start)
    return tokens, torch.cat([before.expand(3, -1), picture, after.expand(3, -1)], dim=1)
