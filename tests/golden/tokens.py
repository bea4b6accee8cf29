"""A byte-level BPE tokenizer of Qwen's form, trained on a few sentences, in both forms that checkpoints ship."""

import itertools
import json
import re
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

MERGED_VOCABULARY = 1200
# Qwen2.5's added tokens in their order; the second group is not "special": decoding keeps it.
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
PLAIN_ADDED = [
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>",
]  # fmt: skip
ADDED = {token: MERGED_VOCABULARY + index for index, token in enumerate(SPECIAL + PLAIN_ADDED)}
# Rows of the embedding: more than tokens, as in the real checkpoint.
VOCABULARY = 1232

HEADER = {"unk_token": None, "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


def corpus(templates: list[str]) -> list[str]:
    """The templates of the pipelines, so that they take about as many tokens as with the real vocabulary, and prose."""
    colours = ["red", "blue", "yellow", "green", "orange", "purple", "white", "black", "pale", "dark"]
    things = ["house", "sun", "tree", "boat", "cloud", "hill", "door", "window", "roof", "bird", "letter", "fence"]
    places = ["on the left", "on the right", "in the foreground", "behind the house", "above the hill", "in the sky"]
    verbs = ["stands", "shines", "floats", "is painted", "rests", "can be seen"]
    sentences = [
        f"A {colour} {thing} {verb} {place}."
        for (colour, thing), (verb, place) in zip(
            itertools.product(colours, things), itertools.cycle(itertools.product(verbs, places))
        )
    ]
    sentences += [f"Change the color of the {thing} to {colour}." for colour, thing in zip(colours, things)]
    sentences += [f"Remove the {thing} and keep everything else as it was; don't touch the {place}."
                  for thing, place in zip(things, ["background", "border", "shadow", "text"] * 3)]  # fmt: skip
    sentences += ["Put the tree of Picture 1 in front of the house of Picture 2, it's smaller there.",
                  "We'll draw what you've seen: they're quick sketches, I'm sure he'd say \"yes\".",
                  "一座红色的房子在山坡上，太阳在天空中。", "图像中有一棵树和一个太阳。"] * 3  # fmt: skip
    return [re.sub(r"<\|[a-z_]+\|>", "\n", template) for template in templates] * 4 + sentences


def train(templates: list[str]) -> tuple[dict[str, int], list[str]]:
    """Vocabulary and merges ("left right")."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=MERGED_VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(templates), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    if len(model["vocab"]) != MERGED_VOCABULARY:
        raise SystemExit(f"the corpus gives {len(model['vocab'])} tokens, {MERGED_VOCABULARY} wanted: add text")
    return model["vocab"], [" ".join(pair) for pair in model["merges"]]


def write_slow(folder: Path, vocabulary: dict[str, int], merges: list[str]) -> None:
    """`vocab.json`, `merges.txt`, `added_tokens.json` and the two small files beside them; no `tokenizer.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    (folder / "vocab.json").write_text(json.dumps(ordered, ensure_ascii=False) + "\n")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    write_json(folder / "added_tokens.json", dict(sorted(ADDED.items())))
    write_json(folder / "special_tokens_map.json", {
        "additional_special_tokens": [token for token in SPECIAL if token != "<|endoftext|>"],
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    })
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    write_json(folder / "tokenizer_config.json", {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(index): {"content": token, **flags, "special": token in SPECIAL} for token, index in ADDED.items()
        },
        "additional_special_tokens": [token for token in SPECIAL if token != "<|endoftext|>"],
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": 131072,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        **HEADER,
    })


def load(folder: Path) -> Qwen2Tokenizer:
    tokenizer = Qwen2Tokenizer.from_pretrained(folder)
    found = {token: tokenizer.convert_tokens_to_ids(token) for token in ADDED}
    if found != ADDED:
        raise SystemExit(f"{folder}: added tokens were read as {found}")
    return tokenizer


def write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
