"""LoRAs for the small checkpoints in every form that people have, and diffusers' pictures with them.

Every form has the same matrices. diffusers with peft loads each of them, and all must give the same picture.
"""

import json
import math
import shutil
import sys

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as edit_plus
from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import calculate_shift
from PIL import Image
from safetensors.torch import save_file

import pipelines
import text
from fixtures import HERE, PICTURES, save
from scenes import pictures
from sensitivity import psnr
from tokens import write_json

ROOT = HERE.parents[1]
sys.path.append(str(ROOT / "scripts" / "train"))
import evaluate

LORAS = HERE / "loras"
TRAINED = {"checkpoint": "models/edit-nano", "lora": "models/loras/edit-nano-outlines", "layer": "tests/scenes/outlines/bigger-2.png",
           "instruction": "Make it bigger"}  # fmt: skip
RANK, ALPHA = 2, 4.0  # their quotient is a power of two, so diffusers' scaling in bfloat16 is exact
STRENGTH = 0.8
STEPS = 4
TOP = ["img_in", "txt_in", "norm_out.linear", "proj_out", "time_text_embed.timestep_embedder.linear_1",
       "time_text_embed.timestep_embedder.linear_2"]  # fmt: skip
# What trainers choose: the attention and the MLPs; the others are for the form that can have everything.
USUAL = ["attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj",
         "attn.to_add_out", "img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"]  # fmt: skip
MODULATION = ["img_mod.1", "txt_mod.1"]


def matrices(pipe, names: list[str], seed: int, size: float) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """For each layer `down` and `up`, in bfloat16; the change has about `size` times the weight's norm."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name in names:
        weight = pipe.transformer.get_submodule(name).weight
        outputs, inputs = weight.shape
        down, up = torch.randn(RANK, inputs, generator=generator), torch.randn(outputs, RANK, generator=generator)
        change = ALPHA / RANK * up @ down
        up *= size * weight.norm() / change.norm()
        found[name] = down.to(torch.bfloat16).contiguous(), up.to(torch.bfloat16).contiguous()
    return found


def names(pipe, kinds: list[str], top: bool) -> list[str]:
    blocks = range(len(pipe.transformer.transformer_blocks))
    return [f"transformer_blocks.{block}.{kind}" for block in blocks for kind in kinds] + (TOP if top else [])


def bare(layers) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, (down, up) in layers.items():
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(ALPHA)}
    return tensors


def lettered(layers, prefix: str, adapter: str = "") -> dict[str, torch.Tensor]:
    tensors = {}
    for name, (down, up) in layers.items():
        tensors |= {f"{prefix}{name}.lora_A.{adapter}weight": down, f"{prefix}{name}.lora_B.{adapter}weight": up}
    return tensors


def scaled(layers):
    """The scale in the matrices, for forms without alpha: exact."""
    return {name: (down, (up.float() * ALPHA / RANK).to(torch.bfloat16)) for name, (down, up) in layers.items()}


def kohya(layers) -> dict[str, torch.Tensor]:
    return {f"lora_unet_{key.replace('.', '_', key.count('.') - (1 if key.endswith('.alpha') else 2))}": value
            for key, value in bare(layers).items()}  # fmt: skip


def forms(pipe) -> dict[str, tuple[dict[str, torch.Tensor], dict[str, str] | None]]:
    layers = matrices(pipe, names(pipe, USUAL + MODULATION, True), 1, 0.35)
    header = {"transformer.r": RANK, "transformer.lora_alpha": ALPHA, "transformer.lora_dropout": 0.0,
              "transformer.bias": "none", "transformer.target_modules": sorted(layers)}  # fmt: skip
    halves = {name: (down, up.float()) for name, (down, up) in layers.items()}
    return {
        "bare": (bare(layers), None),
        "peft": (lettered(layers, "transformer."), {"lora_adapter_metadata": json.dumps(header)}),
        "comfyui": (bare({f"diffusion_model.{name}": pair for name, pair in layers.items()}), None),
        "kohya": (kohya(layers), None),
        "default": ({key: value.to(torch.float32) for key, value in
                     lettered({n: (d, u * (ALPHA / RANK)) for n, (d, u) in halves.items()}, "", "default.").items()}, None),
    }  # fmt: skip


def store(name: str, tensors: dict[str, torch.Tensor], metadata) -> None:
    LORAS.mkdir(exist_ok=True)
    path = LORAS / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in sorted(tensors.items())}, path, metadata=metadata)
    path.chmod(0o644)


def decompose(pipe) -> pipelines.Result:
    return pipelines.decompose(pipe, pictures()["house"], text.PROMPT, layers=2, num_inference_steps=STEPS)


def edit(pipe) -> pipelines.Result:
    return pipelines.edit(pipe, [pictures()["house"]], text.INSTRUCTION, num_inference_steps=STEPS)


def loaded(pipe, chosen: dict[str, float]) -> None:
    """As users of diffusers do."""
    for number, name in enumerate(chosen):
        pipe.load_lora_weights(LORAS, weight_name=f"{name}.safetensors", adapter_name=f"lora{number}")
    pipe.set_adapters([f"lora{number}" for number in range(len(chosen))], list(chosen.values()))


def lightning() -> None:
    """The noise levels of the published Lightning script, for several sizes of pictures."""
    shift = math.log(3)
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=256, base_shift=shift, max_image_seq_len=8192, max_shift=shift, num_train_timesteps=1000,
        shift=1.0, shift_terminal=None, time_shift_type="exponential", use_dynamic_shifting=True,
    )  # fmt: skip
    out = {}
    for steps in (4, 8):
        for tokens in (64, 1600, 4096, 8192):
            mu = calculate_shift(tokens, 256, 8192, shift, shift)
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
            out |= {f"{steps}_{tokens}_sigmas": scheduler.sigmas, f"{steps}_{tokens}_timesteps": scheduler.timesteps}
    save("lightning", out)


def make() -> None:
    lightning()
    shutil.rmtree(LORAS, ignore_errors=True)
    described = []
    pipe = pipelines.load("layered")
    before, found = decompose(pipe), {}
    for name, (tensors, metadata) in forms(pipe).items():
        store(f"layered-{name}", tensors, metadata)
        fresh = pipelines.load("layered")
        loaded(fresh, {f"layered-{name}": STRENGTH})
        found[name] = decompose(fresh)
        apart = psnr(found["bare"], found[name])
        print(f"  layered {name}: {psnr(before, found[name])} dB from the base, {apart} dB from the bare form")
        if apart < 80:
            raise SystemExit(f"diffusers reads the form {name} in another way")
    described.append(kept("lora-decompose", "layered", [{f"layered-{form}": STRENGTH} for form in found], found["bare"], before))

    pipe = pipelines.load("edit")
    before = edit(pipe)
    store("edit-one", bare(matrices(pipe, names(pipe, USUAL, False), 2, 0.4)), None)
    store("edit-two", lettered(scaled(matrices(pipe, names(pipe, USUAL[:4], False), 3, 0.4)), "transformer."), None)
    chosen = {"edit-one": 0.7, "edit-two": -0.5}
    loaded(pipe, chosen)
    described.append(kept("lora-edit", "edit", [chosen], edit(pipe), before))
    described.append(trained())
    write_json(HERE / "loras.json", described)


def trained() -> dict:
    """The LoRA that comes with acetate, on its checkpoint; a layer over gray, as for `alpha: grow`."""
    layer = Image.open(ROOT / TRAINED["layer"])
    given = Image.alpha_composite(Image.new("RGBA", layer.size, (192, 192, 192, 255)), layer)
    given.convert("RGB").save(PICTURES / "outline.png", optimize=True)
    area = edit_plus.CONDITION_IMAGE_SIZE
    pipe = evaluate.load(ROOT / TRAINED["checkpoint"], edit_plus.QwenImageEditPlusPipeline, "cpu", False)

    def run():
        return pipelines.edit(pipe, [given], TRAINED["instruction"], mrope=False, num_inference_steps=STEPS)

    before = run()
    pipe.load_lora_weights(ROOT / f"{TRAINED['lora']}.safetensors")
    found = run()
    edit_plus.CONDITION_IMAGE_SIZE = area
    described = kept("lora-outline", f"../../../{TRAINED['checkpoint']}", [{f"../../../{TRAINED['lora']}": 1.0}], found, before)
    return {**described, "input": "outline.png", "prompt": TRAINED["instruction"]}


def kept(name: str, checkpoint: str, sets: list[dict[str, float]], result, before) -> dict:
    """Stores the pictures; says how far they are from those without the LoRAs."""
    outputs = [f"{name}.png"]
    if checkpoint == "layered":
        shutil.rmtree(PICTURES / name, ignore_errors=True)
        (PICTURES / name).mkdir()
        outputs = [f"{name}/layer-{index:02}.png" for index in range(len(result.pictures))]
    for path, picture in zip(outputs, result.pictures, strict=True):
        picture.save(PICTURES / path, optimize=True)
    prompt = text.PROMPT if checkpoint == "layered" else text.INSTRUCTION
    apart = psnr(result, before)
    print(f"  {name}: {apart} dB from the base")
    return {"name": name, "checkpoint": checkpoint, "input": "house.png", "prompt": prompt, "steps": STEPS,
            "layers": 2, "cfg_scale": pipelines.CFG, "seed": pipelines.SEED, "outputs": outputs,
            "loras": sets, "without_db": apart}  # fmt: skip
