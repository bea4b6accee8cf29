"""Whole pipelines: pictures, latents on the way, captions, and `cases.json`, which names them all."""

import itertools
import json
import shutil

import torch
from transformers import RepetitionPenaltyLogitsProcessor

import checkpoints
import pipelines
import text
from fixtures import HERE, PICTURES, save
from pipelines import CAPTION_TOKENS, CFG, LAYERS, NEGATIVE, RESOLUTION, SEED, STEPS
from scenes import pictures
from tokens import write_json

COMMON = {"steps": STEPS, "cfg_scale": CFG, "negative_prompt": NEGATIVE, "seed": SEED}
DECOMPOSE = {**COMMON, "prompt": text.PROMPT, "layers": LAYERS, "resolution": RESOLUTION, "cfg_normalize": True}
EDIT = {**COMMON, "instruction": text.INSTRUCTION}
BADGE_PROMPT = "A yellow star on a blue disc."
TWO_INSTRUCTION = "Put the tree of Picture 1 on the boat of Picture 2."

TWO = {**EDIT, "instruction": TWO_INSTRUCTION}
BADGE = {**DECOMPOSE, "prompt": BADGE_PROMPT, "layers": 2, "seed": 11}
UNIPC = {"sampler": "unipc", "steps": 8}
TORCHVISION, PIL = "torchvision", "pil"
MULTIMODAL, SEQUENTIAL = "multimodal", "sequential"

# name, checkpoint, inputs, parameters, picture processor, text positions (none in prompts without a picture).
# The plain names are acetate's defaults.
CASES = [
    ("decompose-seed7", "layered", ["house"], DECOMPOSE, TORCHVISION, None),
    ("decompose-plain-cfg-seed7", "layered", ["house"], {**DECOMPOSE, "cfg_normalize": False}, TORCHVISION, None),
    ("decompose-caption-seed7", "layered", ["house"], {**DECOMPOSE, "prompt": ""}, TORCHVISION, None),
    ("decompose-badge-seed11", "layered", ["badge"], BADGE, TORCHVISION, None),
    ("decompose-unipc-seed7", "layered", ["house"], {**DECOMPOSE, **UNIPC}, TORCHVISION, None),
    ("edit-unipc-seed7", "edit", ["house"], {**EDIT, **UNIPC}, TORCHVISION, MULTIMODAL),
    ("edit-one-seed7", "edit", ["house"], EDIT, TORCHVISION, MULTIMODAL),
    ("edit-two-seed7", "edit", ["house", "boat"], TWO, TORCHVISION, MULTIMODAL),
    ("edit-zero-cond-seed7", "edit-zero-cond", ["house", "boat"], TWO, TORCHVISION, MULTIMODAL),
    ("edit-one-sequential-seed7", "edit", ["house"], EDIT, TORCHVISION, SEQUENTIAL),
    ("edit-two-sequential-seed7", "edit", ["house", "boat"], TWO, TORCHVISION, SEQUENTIAL),
    ("edit-one-pil-seed7", "edit", ["house"], EDIT, PIL, MULTIMODAL),
    ("edit-two-pil-seed7", "edit", ["house", "boat"], TWO, PIL, MULTIMODAL),
    ("edit-one-sequential-pil-seed7", "edit", ["house"], EDIT, PIL, SEQUENTIAL),
    ("edit-two-sequential-pil-seed7", "edit", ["house", "boat"], TWO, PIL, SEQUENTIAL),
    ("edit-zero-cond-sequential-pil-seed7", "edit-zero-cond", ["house", "boat"], TWO, PIL, SEQUENTIAL),
]  # fmt: skip
# Every step is kept for some cases of each kind; for the others, only what shows where they start to differ.
WHOLE = {"decompose-seed7", "edit-one-seed7", "edit-two-seed7", "edit-one-sequential-pil-seed7", "edit-two-sequential-pil-seed7"}


def run(pipe, inputs, params, positions) -> pipelines.Result:
    if params.get("sampler") == "unipc":
        pipe.scheduler = checkpoints.unipc()
    changes = {"true_cfg_scale": params["cfg_scale"], "num_inference_steps": params["steps"],
               "negative_prompt": params["negative_prompt"], "seed": params["seed"]}  # fmt: skip
    if positions is None:
        changes |= {name: params[name] for name in ("layers", "resolution", "cfg_normalize")}
        return pipelines.decompose(pipe, inputs[0], params["prompt"], **changes)
    return pipelines.edit(pipe, inputs, params["instruction"], positions == MULTIMODAL, **changes)


def make() -> None:
    drawn = pictures()
    described = []
    for name, checkpoint, inputs, params, processor, positions in CASES:
        result = run(pipelines.load(checkpoint, processor), [drawn[key] for key in inputs], params, positions)
        if positions is None:
            shutil.rmtree(PICTURES / name, ignore_errors=True)
            (PICTURES / name).mkdir()
            outputs = [f"{name}/layer-{index:02}.png" for index in range(len(result.pictures))]
        else:
            outputs = [f"{name}.png"]
        for path, picture in zip(outputs, result.pictures, strict=True):
            picture.save(PICTURES / path, optimize=True)
        last = f"latents_{params['steps']}"
        kept = {key: value for key, value in result.tensors.items()
                if name in WHOLE or key in ("image_latents", last) or key.startswith("embeds_")}  # fmt: skip
        tensors = "pipeline_" + name.rsplit("-seed", 1)[0].replace("-", "_")
        save(tensors, kept)
        described.append({
            "name": name, "kind": "decompose" if positions is None else "edit", "checkpoint": checkpoint,
            "inputs": [f"{key}.png" for key in inputs], "params": params,
            "image_processor": processor, "text_positions": positions, "size": list(result.pictures[0].size),
            "outputs": outputs, "tensors": tensors, "caption": result.caption, "caption_ids": result.caption_ids or None,
        })  # fmt: skip
        print(f"  {name}: {len(outputs)} of {result.pictures[0].size}, caption {result.caption!r}")
    write_json(HERE / "cases.json", described)


def captions() -> None:
    """The layered text encoder's captions of pictures, for the pipeline's English and Chinese questions."""
    out = []
    for processor, name, english in itertools.product((TORCHVISION, PIL), pictures(), (True, False)):
        pipe, picture = pipelines.load("layered", processor), pictures()[name]
        resized = pipelines.resized(pipe, picture)
        with pipelines.Watch(pipe) as watch:
            caption = pipe.get_image_caption(resized, use_en_prompt=english, device="cpu")
        question = pipe.image_caption_prompt_en if english else pipe.image_caption_prompt_cn
        inputs = pipe.vl_processor(text=question, images=resized, padding=True, return_tensors="pt")
        out.append({
            "picture": f"{name}.png", "resized": list(resized.size), "english": english, "image_processor": processor,
            "max_new_tokens": CAPTION_TOKENS, "ids": watch.caption_ids, "text": caption,
            "least_margin": margin(pipe, inputs, watch.caption_ids),
            "question_ids": inputs["input_ids"][0].tolist(),
        })  # fmt: skip
        print(f"  caption of {name}: {len(watch.caption_ids)} tokens, margin {out[-1]['least_margin']}, {caption!r}")
    (HERE / "caption.json").write_text(
        "[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in out) + "\n]\n"
    )


def margin(pipe, inputs, ids: list[int]) -> float:
    """The smallest lead of the chosen token over the next one, in logits after the repetition penalty."""
    everything = torch.cat([inputs["input_ids"], torch.tensor([ids])], dim=1)
    types = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(ids)))
    logits = pipe.text_encoder(**{**inputs, "input_ids": everything, "mm_token_type_ids": types,
                                  "attention_mask": torch.ones_like(everything)}).logits  # fmt: skip
    penalty = RepetitionPenaltyLogitsProcessor(pipe.text_encoder.generation_config.repetition_penalty)
    start, leads = inputs["input_ids"].shape[1], []
    for index, chosen in enumerate(ids):
        scores = penalty(everything[:, : start + index], logits[:, start + index - 1].clone())[0]
        values, order = scores.topk(2)
        if int(order[0]) != chosen:
            raise SystemExit(f"token {index} of a caption is {chosen}, not the likeliest, {int(order[0])}")
        leads.append(float(values[0] - values[1]))
    return round(min(leads), 4)
