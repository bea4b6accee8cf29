#!/usr/bin/env python3
"""Makes every fixture of this folder with diffusers, transformers and torch, float32 on the CPU. See README.md."""

import argparse
import os
import sys

# QwenImageLayeredPipeline asserts resolution 640 or 1024; the small checkpoints work at 128. -O leaves asserts out.
if not sys.flags.optimize:
    os.execv(sys.executable, [sys.executable, "-O", *sys.argv])
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402

import cases  # noqa: E402
import checkpoints  # noqa: E402
import components  # noqa: E402
import loras  # noqa: E402
import scenes  # noqa: E402
import sensitivity  # noqa: E402
import text  # noqa: E402
from fixtures import CHECKPOINTS, PICTURES  # noqa: E402

NOTE = {"note": "random weights, made for tests; what it makes is noise"}
ACETATE = {
    "layered": {"resolutions": [128, 192], "prompt_template_encode_start_idx": 34, "caption_max_new_tokens": 24, **NOTE},
    "edit": {"condition_area": 12544, "vae_area": 16384, "prompt_template_encode_start_idx": 64, **NOTE},
}


def make_checkpoints() -> None:
    for kind, shards in (("layered", {}), ("edit", {"transformer": "700KB"})):
        checkpoints.write(kind, CHECKPOINTS / kind, checkpoints.SMALL, ACETATE[kind], shards)
        pipe = checkpoints.load(kind, CHECKPOINTS / kind, "torchvision")
        before_prompt = pipe.prompt_template_encode.split("{}")[0]
        counted = len(pipe.tokenizer(before_prompt).input_ids)
        if counted != ACETATE[kind]["prompt_template_encode_start_idx"]:
            raise SystemExit(f"{kind}: the template has {counted} tokens before the prompt; write that into ACETATE")
    for path in CHECKPOINTS.rglob("*.safetensors"):
        path.chmod(0o644)
    folder = CHECKPOINTS / "edit-zero-cond" / "transformer"
    folder.mkdir(parents=True, exist_ok=True)
    config = (CHECKPOINTS / "edit" / "transformer" / "config.json").read_text()
    changed = config.replace('"zero_cond_t": false', '"zero_cond_t": true')
    if changed == config:
        raise SystemExit("zero_cond_t is not in the edit transformer's config")
    (folder / "config.json").write_text(changed)


def make_components() -> None:
    PICTURES.mkdir(exist_ok=True)
    for name, picture in scenes.pictures().items():
        picture.save(PICTURES / f"{name}.png")
    components.noise()
    components.schedule()
    components.unipc()
    components.resize()
    components.processor()
    components.tokenizers()
    components.transformers()
    components.vaes()
    text.text_layered()
    text.text_edit()


STAGES = {
    "checkpoints": make_checkpoints,
    "components": make_components,
    "captions": cases.captions,
    "cases": cases.make,
    "sensitivity": sensitivity.measure,
    "loras": loras.make,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", default=list(STAGES), help=f"of {', '.join(STAGES)}; all by default")
    # One thread: sums are then always taken in the same order.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    with torch.no_grad():
        for stage in parser.parse_args().stages:
            print(f"{stage} ...", flush=True)
            STAGES[stage]()


if __name__ == "__main__":
    main()
